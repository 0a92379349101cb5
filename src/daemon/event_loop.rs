//! The running daemon: publishes what its pipelines say, takes signals, and ends in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::future::join_all;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::control::{Action, Allowance};
use super::discovery::Discovery;
use super::metering::Metering;
use super::pipeline::progress::Figures;
use super::pipeline::threads::DaemonEvent;
use super::pipeline::{Afterwards, Running, Shared};
use super::power;
use super::summary::{Outcome, PipelineSummary, Summary};
use super::systemd::{self, Service};
use crate::config::{Broker, Config, Document};
use crate::load::engines::Tools;
use crate::load::mqtt::{MQTT_PORT, reach, settings, store};
use crate::load::{Prepared, state_dir};
use crate::measure::calibrate::{self, Outcome as Calibrated};
use crate::measure::calibrations::{Calibrations, Subject, Under, can_calibrate};
use crate::publish::broker;
use crate::publish::mqtt::connection::ConnectOptions;
use crate::publish::mqtt::transport::Endpoint;
use crate::publish::mqtt::wire::Version;
use crate::publish::mqtt::{ClientState, ClientStatus, MqttClient, Received};
use crate::publish::payload::{Delivery, Info, PipelineInfo, Process};
use crate::publish::publisher::{Drained, DropReport, NodePublisher, PublishLatency};
use crate::publish::store::{State as StoreState, Store};
use crate::publish::topic::NodeTopics;
use crate::stop::Stop;
use crate::sys::{self, SocTemperature};
use crate::units::{MonoTime, process_cpu_time};

/// Of the time for delivery at a stop, what is kept for the store.
const STORE_SHARE: u32 = 4;
/// How long a metrics message waits for an infer thread that is inside an inference.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// Messages from the broker that wait to be heard.
const INBOX: usize = 64;
/// How long decisions are held back until the outbox is looked at again.
const HELD: Duration = Duration::from_millis(1);
/// After all time is over, how long an inference that is under way may still take.
const STUCK: Duration = Duration::from_secs(1);
/// What the end may take beyond mqtt.stop_timeout_s.
const END: Duration = Duration::from_secs(5);
/// Between two looks at whether everything makes progress, at most.
const LOOK: Duration = Duration::from_secs(1);
/// Batches of each pipeline that are encoded before anything else has its turn again.
const ROUNDS: usize = 16;

#[derive(Debug, Clone)]
pub(crate) struct RunOptions {
    /// End when every source has ended.
    pub once: bool,
    /// The file to read again at SIGHUP.
    pub config: PathBuf,
    /// Calibrate before any source starts, also what is calibrated already.
    pub calibrate: bool,
    /// SIGHUP came while the program was starting.
    pub reload: Arc<AtomicBool>,
    /// Becomes true with the first SIGTERM or SIGINT that finds the daemon ready to end in order.
    pub stop: Arc<AtomicBool>,
}

/// Runs until a signal comes or, with `once`, all sources have ended. `started` is told where the broker is.
pub(crate) fn run(
    config: Config,
    prepared: Prepared,
    options: RunOptions,
    service: Service,
    started: impl FnOnce(&ConnectOptions, &NodeTopics),
) -> anyhow::Result<Summary> {
    let reach = match &config.mqtt.broker {
        Broker::Embedded => {
            let address: SocketAddr = broker::start(MQTT_PORT)?;
            let (host, port) = (address.ip().to_string(), address.port());
            let endpoint = Endpoint { host, port, tls: None, websocket: None };
            // It speaks no other version.
            ConnectOptions { endpoint, version: Version::Three, login: None, ..reach(&config.mqtt) }
        }
        Broker::At(_) => reach(&config.mqtt),
    };
    if config.lock_memory
        && let Err(refused) = sys::rt::lock_memory()
    {
        tracing::warn!("{refused}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let summary = runtime.block_on(async {
        // Before anything else runs: a signal must always find the daemon ready to end in order.
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot listen for signals")?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, options.stop.clone()).context("cannot listen for signals")?;
        }
        let Some((config, prepared, outcomes)) =
            calibrated((config, prepared), &mut signals, &options, service.comes_further()).await?
        else {
            return Ok(Summary {
                calibrate: false,
                outcome: Outcome::Complete,
                pipelines: Vec::new(),
                undelivered: 0,
                kept: 0,
                delivery: Delivery::default(),
            });
        };
        let boot: Arc<str> = sys::boot_id().context("cannot read /proc/sys/kernel/random/uuid")?.into();
        let topics = NodeTopics::new(&config.mqtt.base_topic, &config.node_id);
        let publish_latency = PublishLatency::default();
        let recorder = publish_latency.clone();
        let settings = settings(&config.mqtt, reach.clone(), &topics);
        let mut link = MqttClient::new(settings, move |marks, now| recorder.record(marks, now))?;
        let discovery = config.mqtt.discovery.as_ref().map(|prefix| Discovery::new(prefix, &config.node_id));
        let (inbox, received) = mpsc::channel(INBOX);
        let commands = config.mqtt.commands.then(|| format!("{}#", topics.commands()));
        link.subscribe(discovery.iter().flat_map(Discovery::filters).chain(commands).collect(), inbox);
        let store = store(&config, link.handle())?;
        let node_publisher =
            NodePublisher { handle: link.handle(), boot, topics, store: store.as_ref().map(Store::state) };
        let link = tokio::spawn(link.run());

        let stop_timeout = config.mqtt.stop_timeout;
        let mut daemon = Daemon::start(
            config,
            prepared,
            options,
            node_publisher,
            publish_latency,
            discovery,
            (service, link.abort_handle()),
        )?;
        started(&reach, &daemon.shared.node_publisher.topics);
        for Calibrated { pipeline, text } in outcomes {
            daemon.shared.node_publisher.event("calibrated", Some(&pipeline), text);
        }
        if daemon.options.reload.load(Ordering::Relaxed) {
            daemon.reload();
        }
        daemon.service.ready();
        daemon.serve(signals, received).await?;
        let summary = daemon.finish(stop_timeout / 2, store).await;
        link.abort();
        anyhow::Ok(summary)
    });
    // A resolver that hangs must not hold up the end.
    runtime.shutdown_background();
    summary
}

/// Calibrates before anything else runs, where the configuration asks for that; none when a signal has ended it.
async fn calibrated(
    (config, mut prepared): (Config, Prepared),
    signals: &mut Signals,
    options: &RunOptions,
    comes_further: impl Fn() + Send + 'static,
) -> anyhow::Result<Option<(Config, Prepared, Vec<Calibrated>)>> {
    if !config.power.calibrate_at_start && !options.calibrate {
        return Ok(Some((config, prepared, Vec::new())));
    }
    let stop = Arc::new(Stop::new().context("cannot make an eventfd")?);
    let (until, anew) = (stop.clone(), options.calibrate);
    systemd::starting("calibrating, before any source starts");
    let mut work = tokio::task::spawn_blocking(move || {
        let outcomes = calibrate::at_start(&config, &mut prepared, anew, &until, comes_further);
        (config, prepared, outcomes)
    });
    loop {
        tokio::select! {
            done = &mut work => {
                let done = done.context("the calibration panicked")?;
                return Ok((!stop.is_requested()).then_some(done));
            }
            Some(signal) = signals.next() => match signal {
                SIGHUP => options.reload.store(true, Ordering::Relaxed),
                _ if stop.is_requested() => anyhow::bail!("stopped by a second signal"),
                _ => {
                    tracing::info!(signal, "stopping");
                    stop.request();
                }
            },
        }
    }
}

/// The daemon while it runs; what a reload does to it is in `reload`.
pub(super) struct Daemon {
    pub config: Config,
    pub options: RunOptions,
    pub tools: Tools,
    pub shared: Shared,
    pub pipelines: Vec<Running>,
    pub metering: Metering,
    pub calibrations: Calibrations,
    /// The next pipeline's.
    pub next_id: usize,
    /// The configuration is being read again.
    pub reloading: bool,
    /// It changed while it was being read.
    pub reload_again: bool,
    pub tick: Interval,
    /// None where the meters are published only with the metrics of pipelines.
    pub power_tick: Option<Interval>,
    told: UnboundedReceiver<DaemonEvent>,
    pub temperature: SocTemperature,
    started: MonoTime,
    last_metrics: MonoTime,
    pub stopping: bool,
    /// The time for deciding what had arrived before the stop is over.
    overdue: bool,
    /// Of messages, all pipelines together.
    drops: DropReport,
    /// It was said that the store fails, and not yet that it works again.
    store_failed: bool,
    discovery: Option<Discovery>,
    allowance: Allowance,
    pub service: Service,
    /// The task that delivers.
    link: AbortHandle,
    look: Interval,
    /// When decisions that are still to come are waited for no longer.
    overdue_at: Option<Instant>,
    /// It stops to start anew and calibrate.
    calibrate: bool,
}

impl Daemon {
    fn start(
        config: Config,
        prepared: Prepared,
        options: RunOptions,
        node_publisher: NodePublisher,
        publish_latency: PublishLatency,
        discovery: Option<Discovery>,
        (service, link): (Service, AbortHandle),
    ) -> anyhow::Result<Self> {
        let (told_tx, told) = unbounded_channel();
        let shared = Shared {
            notify: Arc::<Notify>::default(),
            told: told_tx,
            node_publisher,
            publish_latency,
            once: options.once,
            quiet_until: MonoTime::now() + config.power.quiet,
        };
        let count = prepared.pipelines.len();
        let (metering, spans) =
            Metering::start(&config.power, (0..count).collect(), prepared.tools.launcher.children.clone(), None)
                .context("cannot start the meter thread")?;
        if !config.power.quiet.is_zero() {
            let seconds = config.power.quiet.as_secs_f64();
            tracing::info!("measuring idle power for {seconds} s before any source starts (power.idle_s)");
        }
        let mut pipelines = Vec::new();
        for (id, ((config, prepared), spans)) in config.pipelines.iter().zip(prepared.pipelines).zip(spans).enumerate()
        {
            pipelines.push(Running::start(id, config.clone(), prepared, spans, None, &shared)?);
        }
        let now = MonoTime::now();
        let mut daemon = Self {
            temperature: SocTemperature::find(&config.power.sysfs),
            tick: ticks(config.metrics_interval),
            power_tick: config.power.interval.map(ticks),
            calibrations: Calibrations::read_or_none(&state_dir::folder(config.state_dir.as_deref())),
            config,
            options,
            tools: prepared.tools,
            shared,
            pipelines,
            metering,
            next_id: count,
            reloading: false,
            reload_again: false,
            told,
            started: now,
            last_metrics: now,
            stopping: false,
            overdue: false,
            drops: DropReport::default(),
            store_failed: false,
            discovery,
            allowance: Allowance::default(),
            look: ticks(LOOK.min(service.limit() / 4)),
            overdue_at: None,
            calibrate: false,
            service,
            link,
        };
        daemon.say_info();
        daemon.tell_delegates();
        daemon.say_status();
        Ok(daemon)
    }

    /// Publishes until everything has ended, or a signal has stopped it and what had arrived is decided or overdue.
    async fn serve(&mut self, mut signals: Signals, mut received: Receiver<Received>) -> anyhow::Result<()> {
        let notify = self.shared.notify.clone();
        let mut link = self.shared.node_publisher.handle.status();
        let mut store = self.shared.node_publisher.store.clone();
        let mut held = false;
        loop {
            let overdue_at = self.overdue_at.unwrap_or_else(Instant::now);
            tokio::select! {
                Ok(()) = link.changed() => self.link_changed(&link.borrow_and_update()),
                state = store_changed(&mut store) => self.store_changed(&state),
                () = notify.notified() => {}
                () = tokio::time::sleep(HELD), if held => {}
                () = tokio::time::sleep_until(overdue_at), if self.overdue_at.is_some() => {
                    if self.overdue {
                        tracing::warn!("an inference does not end; what it would have decided is lost");
                        return Ok(());
                    }
                    self.overdue = true;
                    for pipeline in &self.pipelines {
                        pipeline.stop.overdue();
                        pipeline.wake.reader();
                    }
                    self.overdue_at = Some(Instant::now() + STUCK);
                }
                _ = self.look.tick() => self.look_after(),
                _ = self.tick.tick() => self.publish_metrics().await,
                () = next(&mut self.power_tick) => self.publish_power(),
                Some(told) = self.told.recv() => self.hear(told).await,
                Some(message) = received.recv() => self.received(&message),
                Some(signal) = signals.next() => match signal {
                    SIGHUP => self.reload(),
                    _ if self.stopping && !self.calibrate => {
                        anyhow::bail!("stopped by a second signal; what was queued is lost")
                    }
                    _ => {
                        tracing::info!(signal, "stopping");
                        self.service.stopping(self.config.mqtt.stop_timeout + END);
                        self.calibrate = false;
                        self.stop();
                    }
                },
            }
            held = self.drain().await;
            self.reap().await;
            let all_ended = self.pipelines.iter().all(has_ended);
            let all_failed = !self.pipelines.is_empty() && self.pipelines.iter().all(|p| p.error.is_some());
            let more_to_come =
                self.reloading || self.pipelines.iter().any(|p| matches!(p.afterwards, Afterwards::Another(_)));
            if all_ended && (self.stopping || !more_to_come && (self.options.once || all_failed)) {
                return Ok(());
            }
        }
    }

    /// Lets every pipeline come to its end.
    fn stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.pipelines.iter().for_each(|pipeline| pipeline.stop.request());
        // The other half is for delivery.
        self.overdue_at = Some(Instant::now() + self.config.mqtt.stop_timeout / 2);
    }

    /// Encodes what is decided, a batch of each pipeline in turn; whether some is left.
    async fn drain(&mut self) -> bool {
        for _ in 0..ROUNDS {
            let (mut more, mut held) = (false, false);
            for pipeline in &mut self.pipelines {
                let drained = pipeline.publisher.drain(&self.shared.node_publisher, !self.overdue);
                more |= drained == Drained::More;
                held |= drained == Drained::Held;
            }
            if !more {
                return held;
            }
            tokio::task::yield_now().await;
        }
        true
    }

    /// Looks whether everything makes progress, and tells systemd.
    fn look_after(&mut self) {
        let (now, limit) = (MonoTime::now(), self.service.limit());
        let node_publisher = &self.shared.node_publisher;
        let mut hung = self.link.is_finished().then(|| "the task that delivers has ended".to_owned());
        for pipeline in &mut self.pipelines {
            hung = pipeline.look_after(node_publisher, now, limit).or(hung);
        }
        self.service.pulse(hung);
        self.say_status();
    }

    /// What `systemctl status` shows: each pipeline, and the broker where it cannot be reached.
    fn say_status(&mut self) {
        let link = self.shared.node_publisher.handle.status();
        let link = link.borrow();
        let broker = match (&link.state, &link.last_error) {
            (ClientState::Waiting, Some(error)) => Some(format!("no broker: {error}")),
            _ => None,
        };
        drop(link);
        let lines: Vec<String> = self.pipelines.iter().map(|pipeline| pipeline.to_string()).chain(broker).collect();
        self.service.status(lines.join("; "));
    }

    async fn hear(&mut self, told: DaemonEvent) {
        let node_publisher = &self.shared.node_publisher;
        match told {
            DaemonEvent::Ended(ended) => {
                if let Some(pipeline) = self.pipelines.iter_mut().find(|p| p.id == ended.pipeline) {
                    pipeline.ended(node_publisher, ended, self.stopping);
                }
            }
            DaemonEvent::Infer(id, report) => {
                let pipeline = self.pipelines.iter_mut().find(|pipeline| pipeline.id == id);
                if pipeline.is_some_and(|pipeline| pipeline.heard(node_publisher, report)) {
                    self.say_info();
                }
            }
            DaemonEvent::BuiltEngine(id, delivery) => {
                if let Some(pipeline) = self.pipelines.iter_mut().find(|pipeline| pipeline.id == id) {
                    pipeline.delivered(node_publisher, *delivery);
                }
            }
            DaemonEvent::Release(id, done) => {
                if let Some(pipeline) = self.pipelines.iter_mut().find(|pipeline| pipeline.id == id) {
                    pipeline.release(done);
                }
            }
            DaemonEvent::Reloaded(result) => self.reloaded(*result).await,
        }
        self.tell_delegates();
    }

    /// Tells the metering which delegates are active, and what is known of them.
    pub(super) fn tell_delegates(&self) {
        let active: Vec<&str> = self.pipelines.iter().map(|p| p.publisher.delegate.active.as_str()).collect();
        self.metering.delegates(&active.join(","));
        for pipeline in &self.pipelines {
            let subject = Subject::new(&pipeline.builder, &pipeline.publisher.delegate);
            self.metering.calibrated(pipeline.id, |info| {
                self.calibrations.find(&subject, &Under::new(info)).map(|entry| entry.calibrated())
            });
        }
    }

    /// Takes away the pipelines that have ended for a reload, and starts what comes in their place.
    async fn reap(&mut self) {
        // At a stop all are kept for their figures.
        let stopping = self.stopping;
        let is_due =
            |p: &Running| !stopping && has_ended(p) && p.acquire_ended && !matches!(p.afterwards, Afterwards::Nothing);
        while let Some(place) = self.pipelines.iter().position(is_due) {
            if matches!(self.pipelines[place].afterwards, Afterwards::Removed) {
                self.publish_metrics().await;
            }
            let mut ended = self.pipelines.remove(place);
            let afterwards = std::mem::replace(&mut ended.afterwards, Afterwards::Nothing);
            self.shared.publish_latency.remove(ended.id);
            if let Afterwards::Another(another) = afterwards {
                let (config, prepared) = *another;
                let carried_over = (config.name == ended.config.name).then(|| ended.carry_over());
                self.start_pipeline(config, prepared, carried_over);
                self.measure_anew().await;
            }
            self.say_info();
        }
    }

    /// A reconnect is an event for those who are there again to read it.
    fn link_changed(&self, link: &ClientStatus) {
        if link.state == ClientState::Connected && link.connections > 1 {
            let cause = link.last_error.as_deref().unwrap_or("unknown");
            let message = format!("connection {} to the broker; the one before was lost: {cause}", link.connections);
            self.shared.node_publisher.event("reconnected", None, message);
        }
    }

    /// That messages no longer outlive a crash, or do again, is worth telling.
    fn store_changed(&mut self, state: &StoreState) {
        let message = match state {
            StoreState::Failing(reason) => format!("messages are kept in memory only: {reason}"),
            StoreState::Working if self.store_failed => "messages are kept on disk again".to_owned(),
            StoreState::Working | StoreState::Opening => return,
        };
        self.store_failed = matches!(state, StoreState::Failing(_));
        self.shared.node_publisher.event("store", None, message);
    }

    pub(super) async fn publish_metrics(&mut self) {
        let takes = self.pipelines.iter().map(|pipeline| {
            let patience = if pipeline.infer_ended { Duration::ZERO } else { PATIENCE };
            pipeline.exchange.take(|| pipeline.wake.reader(), patience)
        });
        let stages = join_all(takes).await;
        let process = Process {
            cpu_s: process_cpu_time().as_secs_f64(),
            rss_mib: sys::rss_mib(),
            soc_temperature_c: self.temperature.read_c(),
        };
        let now = MonoTime::now();
        let interval = now.since(self.last_metrics);
        self.last_metrics = now;
        let delivery = self.shared.node_publisher.delivery();
        let figures = self.metering.figures();
        for (pipeline, stages) in self.pipelines.iter_mut().zip(stages) {
            let figures = figures.get(&pipeline.id).map_or(&[][..], Vec::as_slice);
            if let Some(first) = figures.first() {
                pipeline.energy.add(first);
            }
            let of_all = (&delivery, &process);
            let per_s = pipeline.publisher.metrics(&self.shared.node_publisher, interval, &stages, figures, of_all);
            pipeline.figures = Some(Figures::new(per_s, figures.first()));
        }
        self.drops.report(&self.shared.node_publisher, None, &delivery.drops);
    }

    /// Says what the meters have shown since the last time.
    fn publish_power(&self) {
        power::publish(&self.shared.node_publisher, &self.metering.infos, self.metering.latest.take());
    }

    fn received(&mut self, message: &Received) {
        if let Some(discovery) = &mut self.discovery
            && discovery.hear(&message.topic, &message.payload)
        {
            discovery.say(&self.shared.node_publisher, &self.config, true);
        }
        if let Some(verb) = message.topic.strip_prefix(&self.shared.node_publisher.topics.commands())
            && self.allowance.take(Instant::now().into_std())
        {
            self.command(verb, message);
        }
    }

    /// Does what a message asks for, and answers.
    fn command(&mut self, verb: &str, message: &Received) {
        let done = match Action::parse(verb, &message.payload, message.retained) {
            Ok(Action::Reload) => {
                self.reload();
                Ok("the configuration is read again".to_owned())
            }
            Ok(Action::Pause(name)) => self.pause(&name, true),
            Ok(Action::Resume(name)) => self.pause(&name, false),
            Ok(Action::Calibrate) => self.calibrate(),
            Err(reason) => Err(reason),
        };
        let (event, answer) = match done {
            Ok(answer) => ("command", format!("{verb}: {answer}")),
            Err(reason) => ("command_refused", format!("{verb}: {reason}")),
        };
        tracing::info!("{event} over MQTT: {answer}");
        self.shared.node_publisher.event(event, None, answer);
    }

    /// Quiet and all engines for itself are what a calibration needs, and only a start has them.
    fn calibrate(&mut self) -> Result<String, String> {
        if self.stopping {
            return Err("the daemon stops".into());
        }
        if self.options.once || self.config.mqtt.broker == Broker::Embedded {
            return Err("not where the daemon ends by itself (--once) or is the broker".into());
        }
        if !self.config.power.meters.iter().any(can_calibrate) {
            return Err("no meter of this configuration can calibrate".into());
        }
        let file = Document::read(&self.options.config);
        file.and_then(|file| file.parse(sys::hostname().as_deref()))
            .map_err(|error| format!("the daemon could not start anew: {error}"))?;
        self.calibrate = true;
        self.stop();
        Ok("sources stop, each model runs back to back for 20 to 40 s, and the daemon starts anew".to_owned())
    }

    fn pause(&mut self, name: &str, paused: bool) -> Result<String, String> {
        let Some(pipeline) = self.pipelines.iter_mut().find(|pipeline| pipeline.config.name == name) else {
            return Err(format!("there is no pipeline {name:?}"));
        };
        pipeline.pause(&self.shared.node_publisher, paused)
    }

    pub(crate) fn say_info(&mut self) {
        let pipelines: BTreeMap<&str, PipelineInfo<'_>> = self
            .pipelines
            .iter()
            .map(|pipeline| {
                let info = PipelineInfo {
                    model: pipeline.builder.model.path.display().to_string(),
                    model_sha256: &pipeline.builder.model.sha256,
                    inputs: &pipeline.tensors.inputs,
                    outputs: &pipeline.tensors.outputs,
                    delegate: &pipeline.publisher.delegate,
                };
                (pipeline.publisher.name.as_str(), info)
            })
            .collect();
        let node_publisher = &self.shared.node_publisher;
        let info = Info {
            envelope: node_publisher.envelope(MonoTime::now()),
            version: env!("CARGO_PKG_VERSION"),
            node: &self.config.node_id,
            config_sha256: &self.config.hash,
            runtime: self.tools.runtime.path.display().to_string(),
            runtime_version: &self.tools.runtime.version,
            pipelines,
            meters: &self.metering.infos,
        };
        node_publisher.retain(&node_publisher.topics.info, &info);
        if let Some(discovery) = &mut self.discovery {
            discovery.say(node_publisher, &self.config, false);
        }
    }

    /// Says the last figures, delivers what is queued within `timeout`, and says `offline`.
    async fn finish(mut self, timeout: Duration, store: Option<Store>) -> Summary {
        if self.calibrate {
            self.service.starting_anew();
        } else {
            self.service.stopping(timeout + END);
        }
        let wall_s = MonoTime::now().since(self.shared.quiet_until.max(self.started)).as_secs_f64();
        self.metering.finish(PATIENCE).await;
        if self.power_tick.is_some() {
            self.publish_power();
        }
        self.publish_metrics().await;
        let for_store = store.as_ref().map_or(Duration::ZERO, |_| timeout / STORE_SHARE);
        let left = self.shared.node_publisher.handle.drain(timeout - for_store).await;
        if let Some(store) = store {
            store.finish(for_store).await;
        }
        let stored = self.shared.node_publisher.handle.stats().outbox.stored;
        let kept = left.min(usize::try_from(stored).unwrap_or(usize::MAX));
        let undelivered = left - kept;
        if undelivered > 0 {
            tracing::warn!(undelivered, kept, "the broker has not taken everything in time");
        } else if kept > 0 {
            tracing::info!(kept, "the broker has not taken everything; the next start sends what is kept");
        }
        let pipelines: Vec<PipelineSummary> = self.pipelines.into_iter().map(|p| p.summary(wall_s)).collect();
        let delivery = self.shared.node_publisher.delivery();
        let dropped = delivery.drops.values().sum::<u64>() > 0
            || pipelines.iter().any(|p| p.counts.drops.values().sum::<u64>() > 0);
        Summary {
            outcome: if pipelines.iter().any(|p| p.error.is_some()) {
                Outcome::Failed
            } else if left > 0 || dropped {
                Outcome::Undelivered
            } else {
                Outcome::Complete
            },
            undelivered,
            kept,
            delivery,
            pipelines,
            calibrate: self.calibrate,
        }
    }
}

/// Nothing more will come of it.
fn has_ended(pipeline: &Running) -> bool {
    pipeline.infer_ended && pipeline.publisher.has_ended()
}

/// The next tick, never where there is none.
async fn next(tick: &mut Option<Interval>) {
    match tick {
        Some(tick) => drop(tick.tick().await),
        None => std::future::pending().await,
    }
}

/// The next state of the store, never where there is none.
async fn store_changed(store: &mut Option<watch::Receiver<StoreState>>) -> StoreState {
    if let Some(receiver) = store {
        match receiver.changed().await {
            Ok(()) => return receiver.borrow_and_update().clone(),
            // Its thread has ended.
            Err(_) => *store = None,
        }
    }
    std::future::pending().await
}

/// The first after one period.
pub(super) fn ticks(period: Duration) -> Interval {
    let mut tick = tokio::time::interval_at(Instant::now() + period, period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}
