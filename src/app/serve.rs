//! The running daemon: starts the threads, publishes what they say, and ends in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::future::join_all;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior};

use super::meters::Metering;
use super::prepare::{Prepared, PreparedPipeline};
use super::summary::{EnergyTotal, Outcome, PipelineSummary, Summary};
use super::threads::{self, Ended, Stage};
use crate::config::{Broker, Config, Mqtt, Pipeline, WhenBufferFull, WhenFull};
use crate::engine::span::SpanSender;
use crate::metrics::{Exchange, PipelineStats};
use crate::pipeline::{Infer, Links};
use crate::publish::broker;
use crate::publish::mqtt::{Link, LinkState, LinkStatus, Settings};
use crate::publish::outbox::{Limits, Policy, Qos};
use crate::publish::payload::{Info, PipelineInfo, PipelineState, Process};
use crate::publish::publisher::{Drained, DropReport, HandOver, PipelinePublisher, Progress, Speaker, Totals};
use crate::publish::topic::NodeTopics;
use crate::ring::frame_ring;
use crate::source::{self, Wake};
use crate::stop::Stop;
use crate::sys::{self, SocTemperature};
use crate::units::{MonoTime, process_cpu_time};

/// Decisions that wait to be encoded; the async thread takes them off within milliseconds.
const DECISIONS: usize = 1024;
/// The port that MQTT has by custom, where the embedded broker tries first.
const MQTT_PORT: u16 = 1883;
/// Largest payload: no prediction of ours comes near, and brokers refuse more.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// How long a metrics message waits for an infer thread that is inside an inference.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long decisions are held back until the outbox is looked at again.
const HELD: Duration = Duration::from_millis(1);
/// After all time is over, how long an inference that is under way may still take.
const STUCK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// End when every source has ended.
    pub once: bool,
}

/// Runs until a signal comes or, with `once`, all sources have ended. `started` is told where the broker is.
pub fn run(
    config: Config,
    prepared: Prepared,
    options: RunOptions,
    started: impl FnOnce(&str, u16, &NodeTopics),
) -> anyhow::Result<Summary> {
    let (host, port) = match &config.mqtt.broker {
        Broker::Embedded => {
            let address: SocketAddr = broker::start(MQTT_PORT)?;
            (address.ip().to_string(), address.port())
        }
        Broker::Tcp { host, port } => (host.clone(), *port),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let summary = runtime.block_on(async {
        // Before anything else runs: a signal must always find the daemon ready to end in order.
        let signals = Signals::new([SIGTERM, SIGINT]).context("cannot listen for signals")?;
        let boot: Arc<str> = sys::boot_id().context("cannot read /proc/sys/kernel/random/uuid")?.into();
        let topics = NodeTopics::new(&config.mqtt.base_topic, &config.node_id);
        let hand_over = HandOver::new(config.pipelines.len());
        let recorder = hand_over.clone();
        let settings = settings(&config.mqtt, host.clone(), port, &topics, config.pipelines.len());
        let link = Link::new(settings, move |marks, now| recorder.record(marks, now))?;
        let speaker = Speaker { handle: link.handle(), boot, topics };
        let link = tokio::spawn(link.run());

        let mut daemon = Daemon::start(&config, prepared, options, speaker, hand_over)?;
        started(&host, port, &daemon.speaker.topics);
        let stop_timeout = config.mqtt.stop_timeout;
        daemon.serve(options, signals, stop_timeout).await?;
        let summary = daemon.finish(stop_timeout / 2).await;
        link.abort();
        anyhow::Ok(summary)
    });
    // A resolver that hangs must not hold up the end.
    runtime.shutdown_background();
    summary
}

fn settings(mqtt: &Mqtt, host: String, port: u16, topics: &NodeTopics, pipeline_count: usize) -> Settings {
    Settings {
        host,
        port,
        client_id: mqtt.client_id.clone(),
        status_topic: topics.status.clone(),
        keep_alive: mqtt.keep_alive,
        connect_timeout: mqtt.connect_timeout,
        retry_min: mqtt.retry_min,
        retry_max: mqtt.retry_max,
        outbox: Limits {
            max_messages: mqtt.queue_messages,
            max_bytes: mqtt.queue_bytes,
            max_payload_bytes: MAX_PAYLOAD_BYTES,
            inflight: mqtt.inflight,
            policy: match mqtt.when_full {
                WhenFull::DropOldest => Policy::DropOldest,
                WhenFull::DropNewest => Policy::DropNewest,
            },
        },
        // Two of the node and two of each pipeline.
        max_retained_topics: u16::try_from(2 + 2 * pipeline_count).unwrap_or(u16::MAX / 2),
    }
}

/// One pipeline as the async thread sees it.
struct Running {
    publisher: PipelinePublisher,
    exchange: Arc<Exchange>,
    wake: Arc<Wake>,
    energy: EnergyTotal,
    error: Option<String>,
    infer_ended: bool,
}

struct Daemon {
    speaker: Speaker,
    stop: Arc<Stop>,
    metering: Metering,
    notify: Arc<Notify>,
    pipelines: Vec<Running>,
    ended: UnboundedReceiver<Ended>,
    temperature: SocTemperature,
    metrics_interval: Duration,
    started: MonoTime,
    last_metrics: MonoTime,
    /// Of messages, all pipelines together.
    drops: DropReport,
}

/// What the threads of every pipeline are given alike.
struct Shared {
    stop: Arc<Stop>,
    notify: Arc<Notify>,
    ended: UnboundedSender<Ended>,
    speaker: Speaker,
    hand_over: HandOver,
    once: bool,
}

impl Daemon {
    fn start(
        config: &Config,
        prepared: Prepared,
        options: RunOptions,
        speaker: Speaker,
        hand_over: HandOver,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(Stop::new().context("cannot make an eventfd")?);
        let notify = Arc::<Notify>::default();
        let (metering, spans) =
            Metering::start(&config.power, config.pipelines.len()).context("cannot start the meter thread")?;
        say_info(config, &prepared, &metering, &speaker);
        let (ended_tx, ended) = unbounded_channel();
        let shared = Shared {
            stop: stop.clone(),
            notify: notify.clone(),
            ended: ended_tx,
            speaker: speaker.clone(),
            hand_over,
            once: options.once,
        };
        let mut pipelines = Vec::new();
        for (index, ((config, prepared), spans)) in
            config.pipelines.iter().zip(prepared.pipelines).zip(spans).enumerate()
        {
            pipelines.push(start_pipeline(index, config, prepared, spans, &shared)?);
        }
        let now = MonoTime::now();
        Ok(Self {
            speaker,
            stop,
            metering,
            notify,
            pipelines,
            ended,
            temperature: SocTemperature::find(&config.power.sysfs),
            metrics_interval: config.metrics_interval,
            started: now,
            last_metrics: now,
            drops: DropReport::default(),
        })
    }

    /// Publishes until everything has ended, or a signal has stopped it and what had arrived is decided or overdue.
    async fn serve(&mut self, options: RunOptions, mut signals: Signals, stop_timeout: Duration) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval_at(Instant::now() + self.metrics_interval, self.metrics_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let notify = self.notify.clone();
        let mut link = self.speaker.handle.status();
        let mut held = false;
        let mut overdue: Option<Instant> = None;
        loop {
            let overdue_at = overdue.unwrap_or_else(Instant::now);
            tokio::select! {
                Ok(()) = link.changed() => self.link_changed(&link.borrow_and_update()),
                () = notify.notified() => {}
                () = tokio::time::sleep(HELD), if held => {}
                () = tokio::time::sleep_until(overdue_at), if overdue.is_some() => {
                    if self.stop.is_overdue() {
                        tracing::warn!("an inference does not end; what it would have decided is lost");
                        return Ok(());
                    }
                    self.stop.overdue();
                    self.pipelines.iter().for_each(|pipeline| pipeline.wake.reader());
                    overdue = Some(Instant::now() + STUCK);
                }
                _ = tick.tick() => self.publish_metrics().await,
                Some(ended) = self.ended.recv() => self.thread_ended(ended),
                Some(signal) = signals.next() => {
                    if self.stop.is_requested() {
                        anyhow::bail!("stopped by a second signal; what was queued is lost");
                    }
                    tracing::info!(signal, "stopping");
                    self.stop.request();
                    // The other half is for delivery.
                    overdue = Some(Instant::now() + stop_timeout / 2);
                }
            }
            held = self.drain().await;
            let all_ended = self.pipelines.iter().all(|p| p.infer_ended && p.publisher.has_ended());
            let all_failed = self.pipelines.iter().all(|p| p.error.is_some());
            if all_ended && (options.once || all_failed || self.stop.is_requested()) {
                return Ok(());
            }
        }
    }

    /// Encodes all that is decided, a batch of each pipeline in turn; whether some is held back.
    async fn drain(&mut self) -> bool {
        loop {
            let (mut more, mut held) = (false, false);
            for pipeline in &mut self.pipelines {
                let drained = pipeline.publisher.drain(&self.speaker, !self.stop.is_overdue());
                more |= drained == Drained::More;
                held |= drained == Drained::Held;
            }
            if !more {
                return held;
            }
            tokio::task::yield_now().await;
        }
    }

    fn thread_ended(&mut self, ended: Ended) {
        let Some(pipeline) = self.pipelines.get_mut(ended.pipeline) else { return };
        let name = &pipeline.publisher.name;
        pipeline.infer_ended |= ended.stage == Stage::Infer;
        if let Some(error) = ended.error {
            let stage = if ended.stage == Stage::Acquire { "source" } else { "engine" };
            tracing::error!(pipeline = name, "{stage}: {error}");
            let reason = format!("{stage}: {error}");
            pipeline.publisher.status(&self.speaker, PipelineState::Failed, Some(&reason));
            self.speaker.event("failed", Some(name), reason.clone());
            pipeline.error.get_or_insert(reason);
        }
        if pipeline.infer_ended && pipeline.error.is_none() {
            let stopped = self.stop.is_requested();
            let state = if stopped { PipelineState::Stopped } else { PipelineState::Ended };
            if !stopped {
                tracing::info!(pipeline = name, "the stream has ended");
            }
            pipeline.publisher.status(&self.speaker, state, None);
        }
    }

    /// A reconnect is an event for those who are there again to read it.
    fn link_changed(&self, link: &LinkStatus) {
        if link.state == LinkState::Connected && link.connections > 1 {
            let cause = link.last_error.as_deref().unwrap_or("unknown");
            let message = format!("connection {} to the broker; the one before was lost: {cause}", link.connections);
            self.speaker.event("reconnected", None, message);
        }
    }

    async fn publish_metrics(&mut self) {
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
        let delivery = self.speaker.delivery();
        let figures = self.metering.figures();
        for ((pipeline, figures), stages) in self.pipelines.iter_mut().zip(figures).zip(stages) {
            if let Some(first) = figures.first() {
                pipeline.energy.add(first);
            }
            pipeline.publisher.metrics(&self.speaker, interval, &stages, &figures, (&delivery, &process));
        }
        self.drops.report(&self.speaker, None, &delivery.drops);
    }

    /// Says the last figures, delivers what is queued within `timeout`, and says `offline`.
    async fn finish(mut self, timeout: Duration) -> Summary {
        let wall_s = MonoTime::now().since(self.started).as_secs_f64();
        self.stop.request();
        self.metering.finish(PATIENCE).await;
        self.publish_metrics().await;
        let undelivered = self.speaker.handle.drain(timeout).await;
        if undelivered > 0 {
            tracing::warn!(undelivered, "the broker has not taken everything in time");
        }
        let pipelines: Vec<PipelineSummary> = self.pipelines.into_iter().map(|p| p.summary(wall_s)).collect();
        let delivery = self.speaker.delivery();
        let dropped = delivery.drops.values().sum::<u64>() > 0
            || pipelines.iter().any(|p| p.counts.drops.values().sum::<u64>() > 0);
        Summary {
            outcome: if pipelines.iter().any(|p| p.error.is_some()) {
                Outcome::Failed
            } else if undelivered > 0 || dropped {
                Outcome::Undelivered
            } else {
                Outcome::Complete
            },
            undelivered,
            delivery,
            pipelines,
        }
    }
}

impl Running {
    fn summary(self, wall_s: f64) -> PipelineSummary {
        let Totals { stages, end_to_end, known, right } = &self.publisher.progress.totals;
        PipelineSummary {
            counts: self.publisher.counts(),
            wall_s,
            right: *right,
            known: *known,
            invoke_us: stages.invoke.summary(),
            end_to_end_us: end_to_end.summary(),
            energy: self.energy,
            error: self.error,
            name: self.publisher.name,
        }
    }
}

fn start_pipeline(
    index: usize,
    config: &Pipeline,
    prepared: PreparedPipeline,
    spans: Option<SpanSender>,
    shared: &Shared,
) -> anyhow::Result<Running> {
    let name = &config.name;
    let hold = config.source.when_full == WhenBufferFull::Wait;
    let source = source::open(&config.source, prepared.labels.clone(), shared.once)?;
    let (feed, intake) = source::feed(&config.source, name, shared.stop.clone());
    let (wake, source_stats) = (intake.wake.clone(), intake.stats.clone());
    let (decisions_tx, decisions_rx) = frame_ring(DECISIONS, prepared.stages.decider.width());
    let (stats, exchange) = (Arc::<PipelineStats>::default(), Arc::<Exchange>::default());
    let publisher = PipelinePublisher {
        index,
        name: name.clone(),
        topics: shared.speaker.topics.pipeline(name),
        decisions: decisions_rx,
        vocabulary: prepared.vocabulary(config),
        publish_scores: config.publish_scores,
        qos: if config.qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
        hold,
        delegate: prepared.delegate,
        stats: stats.clone(),
        source_stats,
        hand_over: shared.hand_over.clone(),
        progress: Progress::default(),
    };
    publisher.status(&shared.speaker, PipelineState::Running, None);
    if let Some(reason) = &publisher.delegate.reason {
        let (requested, active) = (&publisher.delegate.requested, &publisher.delegate.active);
        tracing::warn!(pipeline = name, requested, active, "another delegate runs than was asked for: {reason}");
        shared.speaker.event("fallback", Some(name), format!("{active} runs, {requested} was asked for; {reason}"));
    }
    let links = Links {
        intake,
        decisions: decisions_tx,
        publisher: shared.notify.clone(),
        spans,
        stats,
        exchange: exchange.clone(),
        stop: shared.stop.clone(),
        hold,
    };
    let infer = Infer::new(links, prepared.stages);
    threads::infer(index, name, infer, shared.ended.clone()).context("cannot start the infer thread")?;
    threads::acquire(index, name, source, feed, shared.ended.clone()).context("cannot start the acquire thread")?;
    Ok(Running { publisher, exchange, wake, energy: EnergyTotal::default(), error: None, infer_ended: false })
}

fn say_info(config: &Config, prepared: &Prepared, metering: &Metering, speaker: &Speaker) {
    let pipelines: BTreeMap<&str, PipelineInfo<'_>> = config
        .pipelines
        .iter()
        .zip(&prepared.pipelines)
        .map(|(config, prepared)| {
            let info = PipelineInfo {
                model: config.model.display().to_string(),
                model_sha256: &prepared.model_sha256,
                inputs: prepared.stages.engine.inputs(),
                outputs: prepared.stages.engine.outputs(),
                delegate: &prepared.delegate,
            };
            (config.name.as_str(), info)
        })
        .collect();
    let info = Info {
        envelope: speaker.envelope(MonoTime::now()),
        version: env!("CARGO_PKG_VERSION"),
        node: &config.node_id,
        config_sha256: &config.hash,
        runtime: prepared.runtime.path.display().to_string(),
        pipelines,
        meters: &metering.infos,
    };
    speaker.retain(&speaker.topics.info, &info);
}
