//! What a reload has to do: the differences of two configurations as steps, and the keys that only a restart can change.
//!
//! Pure. Every struct of the configuration is taken apart field by field, so that a new key cannot be forgotten: the compiler
//! refuses. A key of something that is switched off (such as `mqtt.store.path` without a store) has no effect and is not
//! compared.

use std::collections::BTreeSet;
use std::fmt;

use crate::config::{Config, Key, Mqtt, Pipeline, Power, Store};

/// One thing that a reload does. Pipelines go by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    RemovePipeline(String),
    AddPipeline(String),
    /// New stages around the running source.
    ChangeStages(String),
    /// End the pipeline, and start it again with the new configuration.
    ReplacePipeline(String),
    RestartMeters,
    SetPowerSettings,
    SetPowerInterval,
    SetMetricsInterval,
}

/// In the words of the event that announces it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemovePipeline(name) => write!(f, "{name} removed"),
            Self::AddPipeline(name) => write!(f, "{name} added"),
            Self::ChangeStages(name) | Self::ReplacePipeline(name) => write!(f, "{name} changed"),
            Self::RestartMeters => f.write_str("meters changed"),
            Self::SetPowerSettings => f.write_str("power settings changed"),
            Self::SetPowerInterval => f.write_str("power interval changed"),
            Self::SetMetricsInterval => f.write_str("metrics interval changed"),
        }
    }
}

/// A pipeline that runs, or has ended and is kept.
pub(crate) struct PresentPipeline<'a> {
    pub config: &'a Pipeline,
    /// It takes samples, and nothing has asked it to end.
    pub is_live: bool,
    /// Its files have changed under the same names: there are other labels, or another engine had to be built.
    pub new_labels: bool,
    pub new_engine: bool,
}

/// Returns the steps from the `old` configuration, with the pipelines that there are, to the `new` one.
pub(crate) fn plan(old: &Config, new: &Config, present: &[PresentPipeline<'_>]) -> Vec<Step> {
    let names: BTreeSet<&str> = new.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    let gone = present.iter().filter(|present| !names.contains(present.config.name.as_str()));
    let removals = gone.map(|present| Step::RemovePipeline(present.config.name.clone()));
    let changes = new.pipelines.iter().filter_map(|pipeline| {
        match present.iter().find(|present| present.config.name == pipeline.name) {
            Some(present) => pipeline_step(present, pipeline),
            None => Some(Step::AddPipeline(pipeline.name.clone())),
        }
    });
    removals.chain(changes).chain(Differences::find(old, new).steps).collect()
}

/// Returns the keys that differ and that only a restart can change.
pub(crate) fn restart_only(old: &Config, new: &Config) -> Vec<Key> {
    Differences::find(old, new).restart_only
}

fn pipeline_step(present: &PresentPipeline<'_>, new: &Pipeline) -> Option<Step> {
    if !present.new_engine && !present.new_labels && present.config == new {
        return None;
    }
    // A source that names the true label does so by the list of labels.
    let same_truth = !present.new_labels || !new.source.has_truth();
    if present.is_live && new.goes_on_with(present.config) && same_truth {
        Some(Step::ChangeStages(new.name.clone()))
    } else {
        Some(Step::ReplacePipeline(new.name.clone()))
    }
}

/// What differs outside the pipelines.
#[derive(Default)]
struct Differences {
    restart_only: Vec<Key>,
    steps: Vec<Step>,
}

impl Differences {
    fn find(old: &Config, new: &Config) -> Self {
        let Config {
            // Of the text, comments included.
            hash: _,
            files: _,
            node_id,
            state_dir,
            lock_memory,
            runtime_library,
            mqtt,
            metrics_interval,
            power,
            // A pipeline has those that it names.
            delegates: _,
            // See `pipeline_step`.
            pipelines: _,
        } = new;
        let mut found = Self::default();
        found.refuse_if(*node_id != old.node_id, &["node", "id"]);
        found.refuse_if(*state_dir != old.state_dir, &["node", "state_dir"]);
        found.refuse_if(*lock_memory != old.lock_memory, &["node", "lock_memory"]);
        found.refuse_if(*runtime_library != old.runtime_library, &["runtime", "library"]);
        found.mqtt(&old.mqtt, mqtt);
        found.power(&old.power, power);
        if *metrics_interval != old.metrics_interval {
            found.steps.push(Step::SetMetricsInterval);
        }
        found
    }

    fn mqtt(&mut self, old: &Mqtt, new: &Mqtt) {
        let Mqtt {
            broker,
            version,
            login,
            allow_plaintext_password,
            ca_file,
            identity,
            alpn,
            drain_per_s,
            commands,
            discovery,
            client_id,
            base_topic,
            // The default of each pipeline's publish.qos, and part of the pipeline.
            qos: _,
            max_qos,
            retain,
            keep_alive,
            connect_timeout,
            inflight,
            retry_min,
            retry_max,
            stop_timeout,
            queue_messages,
            queue_bytes,
            when_full,
            max_age,
            store,
        } = new;
        self.refuse_if(*broker != old.broker, &["mqtt", "broker"]);
        self.refuse_if(*version != old.version, &["mqtt", "version"]);
        self.refuse_parts(&old.login, login, [&["mqtt", "user"], &["mqtt", "password_file"]]);
        let plaintext = ["mqtt", "allow_plaintext_password"];
        self.refuse_if(*allow_plaintext_password != old.allow_plaintext_password, &plaintext);
        self.refuse_if(*ca_file != old.ca_file, &["mqtt", "ca_file"]);
        self.refuse_parts(&old.identity, identity, [&["mqtt", "cert_file"], &["mqtt", "key_file"]]);
        self.refuse_if(*alpn != old.alpn, &["mqtt", "alpn"]);
        self.refuse_if(*max_qos != old.max_qos, &["mqtt", "max_qos"]);
        self.refuse_if(*retain != old.retain, &["mqtt", "retain"]);
        self.refuse_if(*drain_per_s != old.drain_per_s, &["mqtt", "drain_per_s"]);
        self.refuse_if(*commands != old.commands, &["mqtt", "commands"]);
        self.refuse_if(discovery.is_some() != old.discovery.is_some(), &["mqtt", "discovery"]);
        if let (Some(old), Some(new)) = (&old.discovery, discovery) {
            self.refuse_if(old != new, &["mqtt", "discovery_prefix"]);
        }
        self.refuse_if(*client_id != old.client_id, &["mqtt", "client_id"]);
        self.refuse_if(*base_topic != old.base_topic, &["mqtt", "base_topic"]);
        self.refuse_if(*keep_alive != old.keep_alive, &["mqtt", "keep_alive_s"]);
        self.refuse_if(*connect_timeout != old.connect_timeout, &["mqtt", "connect_timeout_s"]);
        self.refuse_if(*inflight != old.inflight, &["mqtt", "inflight"]);
        self.refuse_if(*retry_min != old.retry_min, &["mqtt", "retry_min_ms"]);
        self.refuse_if(*retry_max != old.retry_max, &["mqtt", "retry_max_ms"]);
        self.refuse_if(*stop_timeout != old.stop_timeout, &["mqtt", "stop_timeout_s"]);
        self.refuse_if(*queue_messages != old.queue_messages, &["mqtt", "queue", "messages"]);
        self.refuse_if(*queue_bytes != old.queue_bytes, &["mqtt", "queue", "kib"]);
        self.refuse_if(*when_full != old.when_full, &["mqtt", "queue", "when_full"]);
        self.refuse_if(*max_age != old.max_age, &["mqtt", "queue", "max_age_h"]);
        self.refuse_if(store.is_some() != old.store.is_some(), &["mqtt", "store", "enabled"]);
        if let (Some(old), Some(new)) = (&old.store, store) {
            self.store(old, new);
        }
    }

    fn store(&mut self, old: &Store, new: &Store) {
        let Store { path, commit, max_bytes } = new;
        self.refuse_if(*path != old.path, &["mqtt", "store", "path"]);
        self.refuse_if(*commit != old.commit, &["mqtt", "store", "commit_ms"]);
        self.refuse_if(*max_bytes != old.max_bytes, &["mqtt", "store", "mib"]);
    }

    fn power(&mut self, old: &Power, new: &Power) {
        let Power {
            sysfs,
            sample_period,
            interval,
            idle,
            idle_error,
            // Where the file says nothing of it, it depends on the meters, and acts only at a start.
            quiet: _,
            configured_quiet,
            target_rel,
            window_max,
            calibrate_at_start,
            meters,
        } = new;
        self.refuse_if(*configured_quiet != old.configured_quiet, &["power", "idle_s"]);
        self.refuse_if(*calibrate_at_start != old.calibrate_at_start, &["power", "calibrate_at_start"]);
        if (meters, sysfs, sample_period) != (&old.meters, &old.sysfs, &old.sample_period) {
            self.steps.push(Step::RestartMeters);
        }
        if (idle, idle_error, target_rel, window_max) != (&old.idle, &old.idle_error, &old.target_rel, &old.window_max)
        {
            self.steps.push(Step::SetPowerSettings);
        }
        if *interval != old.interval {
            self.steps.push(Step::SetPowerInterval);
        }
    }

    /// Refuses two values that go together, each by its own key.
    fn refuse_parts<A: PartialEq, B: PartialEq>(
        &mut self,
        old: &Option<(A, B)>,
        new: &Option<(A, B)>,
        [first, second]: [&[&str]; 2],
    ) {
        match (old, new) {
            (Some(old), Some(new)) => {
                self.refuse_if(old.0 != new.0, first);
                self.refuse_if(old.1 != new.1, second);
            }
            _ => self.refuse_if(old.is_some() != new.is_some(), first),
        }
    }

    fn refuse_if(&mut self, differs: bool, key: &[&str]) {
        if differs {
            self.restart_only.push(Key::new(key));
        }
    }
}
