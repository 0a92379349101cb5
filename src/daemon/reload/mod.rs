//! Reading the configuration again while the daemon runs.
//!
//! Owns what is compared and what a difference does. The reading, and everything that it loads, happens on a thread
//! that may block; here only what is complete is put in place. Any fault leaves everything as it was.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use super::event_loop::{Daemon, PATIENCE, ticks};
use super::metering::Metering;
use super::pipeline::threads::{DaemonEvent, caught};
use super::pipeline::{Afterwards, CarriedOver, Running};
use crate::config::{Config, Key, Pipeline, Problem};
use crate::infer::InferCommand;
use crate::load::{self, Prepared, PreparedPipeline, RunningEngine, Unusable, state_dir};
use crate::measure::calibrations::Calibrations;
use crate::publish::payload::PipelineState;
use crate::sys::SocTemperature;

/// How long a reload waits for a device to be freed.
const RELEASE: Duration = Duration::from_secs(10);

impl Daemon {
    /// Has the configuration read again.
    pub(super) fn reload(&mut self) {
        if self.stopping {
            return;
        }
        if self.reloading {
            self.reload_again = true;
            return;
        }
        tracing::info!("reading {} again", self.options.config.display());
        self.service.reloading();
        self.reloading = true;
        let (path, tools, told) = (self.options.config.clone(), self.tools.clone(), self.shared.told.clone());
        let fixed = RestartOnly::of(&self.config);
        let kept: Vec<RunningEngine> = self
            .pipelines
            .iter()
            .filter(|pipeline| pipeline.is_as_asked())
            .map(|pipeline| {
                let (id, told) = (pipeline.id, told.clone());
                RunningEngine {
                    config: pipeline.config.clone(),
                    ended: pipeline.infer_ended,
                    labels: pipeline.labels.clone(),
                    builder: pipeline.builder.clone(),
                    tensors: pipeline.tensors.clone(),
                    release: Box::new(move || {
                        let (done, gone) = mpsc::channel();
                        let _ = told.send(DaemonEvent::Release(id, done));
                        // An engine that does not go is the next one's problem.
                        let _ = gone.recv_timeout(RELEASE);
                    }),
                }
            })
            .collect();
        tokio::task::spawn_blocking(move || {
            let load = || {
                load::load_with(&path, |config, document| {
                    let problems = fixed.problems(&RestartOnly::of(config));
                    if problems.is_empty() { Ok((tools, kept)) } else { Err(Unusable::new(document, &problems)) }
                })
            };
            let result = caught(load);
            let _ = told.send(DaemonEvent::Reloaded(Box::new(result)));
        });
    }

    /// Puts a configuration in place that was read again.
    pub(super) async fn reloaded(&mut self, result: Result<(Config, Prepared), String>) {
        self.reloading = false;
        match result {
            _ if self.stopping => self.pipelines.iter_mut().for_each(Running::take_back),
            Ok((config, prepared)) => self.put_in_place(config, prepared).await,
            Err(reason) => {
                self.pipelines.iter_mut().for_each(Running::take_back);
                tracing::error!("the configuration stays as it is:\n{reason}");
                self.shared.node_publisher.event("reload_failed", None, reason);
            }
        }
        if std::mem::take(&mut self.reload_again) {
            self.reload();
        } else if !self.stopping {
            self.service.ready();
        }
    }

    async fn put_in_place(&mut self, config: Config, prepared: Prepared) {
        if config.pipelines.iter().zip(&prepared.pipelines).any(|(config, prepared)| self.lacks(config, prepared)) {
            self.pipelines.iter_mut().for_each(Running::take_back);
            self.reload_again = true;
            return;
        }
        let names: BTreeSet<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
        let mut changes: Vec<String> = Vec::new();
        for gone in self.pipelines.iter_mut().filter(|running| !names.contains(running.config.name.as_str())) {
            changes.push(format!("{} removed", gone.config.name));
            gone.end(Afterwards::Removed, self.config.mqtt.stop_timeout / 2);
        }
        let ids: Vec<usize> = self.pipelines.iter().map(|pipeline| pipeline.id).collect();
        for (config, prepared) in config.pipelines.iter().zip(prepared.pipelines) {
            changes.extend(self.put_pipeline(config, prepared).map(|change| format!("{} {change}", config.name)));
        }
        let same_meters = self.metering.has_meters_of(&config.power);
        let metered_anew = !same_meters || !self.pipelines.iter().map(|p| p.id).eq(ids);
        if !same_meters {
            changes.push("meters changed".into());
        } else if config.power != self.config.power {
            self.metering.set(&config.power);
            changes.push("power settings changed".into());
        }
        if config.metrics_interval != self.config.metrics_interval {
            self.tick = ticks(config.metrics_interval);
            changes.push("metrics interval changed".into());
        }
        if config.power.interval != self.config.power.interval {
            self.power_tick = config.power.interval.map(ticks);
        }
        self.temperature = SocTemperature::find(&config.power.sysfs);
        self.config = config;
        self.calibrations = Calibrations::read_or_none(&state_dir::folder(self.config.state_dir.as_deref()));
        if metered_anew {
            self.measure_anew().await;
        }
        self.say_info();
        let told = if changes.is_empty() { "nothing has changed".to_owned() } else { changes.join(", ") };
        tracing::info!(config = self.config.hash, "reloaded: {told}");
        self.shared.node_publisher.event("reload", None, format!("configuration {}: {told}", self.config.hash));
    }

    /// Puts one pipeline in place; what has been done to it.
    fn put_pipeline(&mut self, config: &Pipeline, prepared: PreparedPipeline) -> Option<&'static str> {
        let patience = self.config.mqtt.stop_timeout / 2;
        let Some(running) = self.pipelines.iter_mut().find(|running| running.config.name == config.name) else {
            // Two cannot read one stream.
            let in_the_way = |running: &&mut Running| {
                matches!(running.afterwards, Afterwards::Removed)
                    && running
                        .config
                        .source
                        .kind()
                        .exclusive()
                        .is_some_and(|taken| config.source.kind().exclusive() == Some(taken))
            };
            match self.pipelines.iter_mut().find(in_the_way) {
                Some(ending) => ending.afterwards = Afterwards::Another(Box::new((config.clone(), prepared))),
                None => self.start_pipeline(config.clone(), prepared, None),
            }
            return Some("added");
        };
        let same_labels = prepared.labels == running.labels;
        if prepared.built.is_none() && *config == running.config && same_labels {
            return None;
        }
        // A source that names the truth does so by the labels.
        let same_stream = config.goes_on_with(&running.config) && (same_labels || !config.source.has_truth());
        if same_stream && !running.infer_ended && matches!(running.afterwards, Afterwards::Nothing) {
            running.change(config.clone(), prepared);
        } else {
            running.end(Afterwards::Another(Box::new((config.clone(), prepared))), patience);
        }
        Some("changed")
    }

    /// Whether the engine that was to go on has gone with its pipeline while the file was read.
    fn lacks(&self, config: &Pipeline, prepared: &PreparedPipeline) -> bool {
        let running = self.pipelines.iter().find(|running| running.config.name == config.name);
        let goes_on = |running: &Running| !running.infer_ended || running.config == *config;
        prepared.built.is_none() && !running.is_some_and(goes_on)
    }

    /// Starts a pipeline beside those that run; that it cannot be is no reason to stop those.
    pub(super) fn start_pipeline(
        &mut self,
        config: Pipeline,
        prepared: PreparedPipeline,
        carried_over: Option<CarriedOver>,
    ) {
        let name = config.name.clone();
        let delegate = prepared.built.as_ref().map(|built| built.state.clone());
        match Running::start(self.next_id, config, prepared, None, carried_over, &self.shared) {
            Ok(running) => self.pipelines.push(running),
            Err(error) => {
                let reason = format!("it cannot be started: {error:#}");
                tracing::error!(pipeline = name, "{reason}");
                let node_publisher = &self.shared.node_publisher;
                if let Some(delegate) = &delegate {
                    node_publisher.status(
                        &node_publisher.topics.pipeline(&name),
                        PipelineState::Failed,
                        Some(&reason),
                        delegate,
                    );
                }
                node_publisher.event("failed", Some(&name), reason);
            }
        }
        self.next_id += 1;
    }

    /// Starts the meter thread again, for the pipelines that there are now.
    pub(super) async fn measure_anew(&mut self) {
        self.metering.finish(PATIENCE).await;
        self.publish_metrics().await;
        let ids = self.pipelines.iter().map(|pipeline| pipeline.id).collect();
        let children = self.tools.launcher.children.clone();
        match Metering::start(&self.config.power, ids, children, Some(&self.metering)) {
            Ok((metering, spans)) => {
                self.metering = metering;
                for (pipeline, spans) in self.pipelines.iter().zip(spans) {
                    pipeline.tell(InferCommand::Spans(spans));
                }
                self.tell_delegates();
            }
            Err(error) => {
                tracing::error!(%error, "the meter thread cannot be started; there is no energy");
                self.shared.node_publisher.event(
                    "failed",
                    None,
                    format!("the meter thread cannot be started: {error}"),
                );
            }
        }
    }
}

/// What only a restart can change, each with its key.
struct RestartOnly(Vec<(Key, String)>);

impl RestartOnly {
    fn of(config: &Config) -> Self {
        let mqtt = &config.mqtt;
        let queue = (mqtt.queue_messages, mqtt.queue_bytes, mqtt.when_full, mqtt.max_age);
        let fixed = [
            (&["node", "id"], config.node_id.clone()),
            (&["node", "state_dir"], format!("{:?}", config.state_dir)),
            (&["node", "lock_memory"], config.lock_memory.to_string()),
            (&["runtime", "library"], format!("{:?}", config.runtime_library)),
            (&["mqtt", "broker"], format!("{:?}", mqtt.broker)),
            (&["mqtt", "version"], format!("{:?}", mqtt.version)),
            (&["mqtt", "user"], format!("{:?}", mqtt.login.as_ref().map(|(user, _)| user))),
            (&["mqtt", "password_file"], format!("{:?}", mqtt.login.as_ref().map(|(_, file)| file))),
            (&["mqtt", "ca_file"], format!("{:?}", mqtt.ca_file)),
            (&["mqtt", "cert_file"], format!("{:?}", mqtt.identity)),
            (&["mqtt", "alpn"], format!("{:?}", mqtt.alpn)),
            (&["mqtt", "drain_per_s"], format!("{:?}", mqtt.drain_per_s)),
            (&["mqtt", "commands"], mqtt.commands.to_string()),
            (&["mqtt", "discovery"], format!("{:?}", mqtt.discovery)),
            (&["mqtt", "client_id"], mqtt.client_id.clone()),
            (&["mqtt", "base_topic"], mqtt.base_topic.clone()),
            (&["mqtt", "keep_alive_s"], format!("{:?}", mqtt.keep_alive)),
            (&["mqtt", "connect_timeout_s"], format!("{:?}", mqtt.connect_timeout)),
            (&["mqtt", "inflight"], mqtt.inflight.to_string()),
            (&["mqtt", "retry_min_ms"], format!("{:?}", mqtt.retry_min)),
            (&["mqtt", "retry_max_ms"], format!("{:?}", mqtt.retry_max)),
            (&["mqtt", "stop_timeout_s"], format!("{:?}", mqtt.stop_timeout)),
            (&["mqtt", "queue"], format!("{queue:?}")),
            (&["mqtt", "store"], format!("{:?}", mqtt.store)),
        ];
        Self(fixed.into_iter().map(|(key, value)| (Key::new(&key[..]), value)).collect())
    }

    /// What differs in `other`.
    fn problems(&self, other: &Self) -> Vec<Problem> {
        let pairs = self.0.iter().zip(&other.0);
        let changed = pairs.filter(|((_, ours), (_, theirs))| ours != theirs);
        changed.map(|((key, _), _)| Problem::new(key.clone(), "only a restart can change this")).collect()
    }
}
