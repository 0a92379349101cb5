//! The running daemon: starts the threads, publishes what they say, and ends in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;

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
use crate::publish::publisher::{HandOver, PipelinePublisher, Speaker, Totals};
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
        daemon.serve(options).await?;
        let summary = daemon.finish(config.mqtt.stop_timeout).await;
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
        backoff_min: mqtt.retry_min,
        backoff_max: mqtt.retry_max,
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
        let (metering, spans) = Metering::start(&config.power, config.pipelines.len(), stop.clone())
            .context("cannot start the meter thread")?;
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
        })
    }

    /// Publishes until everything has ended, or a signal has stopped it and what was under way is decided.
    async fn serve(&mut self, options: RunOptions) -> anyhow::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot listen for signals")?;
        let mut tick =
            tokio::time::interval_at(tokio::time::Instant::now() + self.metrics_interval, self.metrics_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let notify = self.notify.clone();
        let mut link = self.speaker.handle.status();
        loop {
            tokio::select! {
                Ok(()) = link.changed() => self.link_changed(&link.borrow_and_update()),
                () = notify.notified() => {}
                _ = tick.tick() => self.publish_metrics().await,
                Some(ended) = self.ended.recv() => self.thread_ended(ended),
                Some(signal) = signals.next() => {
                    if self.stop.is_requested() {
                        anyhow::bail!("stopped by a second signal; what was queued is lost");
                    }
                    tracing::info!(signal, "stopping");
                    self.stop.request();
                }
            }
            while self.drain() {
                tokio::task::yield_now().await;
            }
            let all_ended = self.pipelines.iter().all(|p| p.infer_ended && p.publisher.has_ended());
            let all_failed = self.pipelines.iter().all(|p| p.error.is_some());
            if all_ended && (options.once || all_failed || self.stop.is_requested()) {
                return Ok(());
            }
        }
    }

    /// Gives each pipeline a turn; whether any has more to say.
    fn drain(&mut self) -> bool {
        let mut more = false;
        for pipeline in &mut self.pipelines {
            more |= pipeline.publisher.drain(&self.speaker);
        }
        more
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
            tracing::info!(pipeline = name, "the stream has ended");
            pipeline.publisher.status(&self.speaker, PipelineState::Ended, None);
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
        let process = Process {
            cpu_s: process_cpu_time().as_secs_f64(),
            rss_mib: sys::rss_mib(),
            soc_temperature_c: self.temperature.read_c(),
        };
        let now = MonoTime::now();
        let interval = now.since(self.last_metrics);
        self.last_metrics = now;
        let figures = self.metering.figures();
        for (pipeline, figures) in self.pipelines.iter_mut().zip(figures) {
            let patience = if pipeline.infer_ended { Duration::ZERO } else { PATIENCE };
            let stages = pipeline.exchange.take(|| pipeline.wake.reader(), patience).await;
            if let Some(first) = figures.first() {
                pipeline.energy.add(first);
            }
            pipeline.publisher.metrics(&self.speaker, interval, &stages, &figures, &process);
        }
    }

    /// Says the last figures, delivers what is queued within `timeout`, and says `offline`.
    async fn finish(mut self, timeout: Duration) -> Summary {
        let wall_s = MonoTime::now().since(self.started).as_secs_f64();
        self.stop.request();
        self.metering.finish();
        self.publish_metrics().await;
        let undelivered = self.speaker.handle.drain(timeout).await;
        if undelivered > 0 {
            tracing::warn!(undelivered, "the broker has not taken everything in time");
        }
        let failed = self.pipelines.iter().any(|p| p.error.is_some());
        let speaker = &self.speaker;
        Summary {
            outcome: match (failed, undelivered) {
                (true, _) => Outcome::Failed,
                (false, 0) => Outcome::Complete,
                (false, _) => Outcome::Undelivered,
            },
            undelivered,
            reconnects: speaker.handle.stats().reconnects,
            pipelines: self.pipelines.into_iter().map(|p| p.summary(speaker, wall_s)).collect(),
        }
    }
}

impl Running {
    fn summary(self, speaker: &Speaker, wall_s: f64) -> PipelineSummary {
        let Totals { stages, end_to_end, known, right } = &self.publisher.totals;
        PipelineSummary {
            counts: self.publisher.counts(speaker),
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
        delegate: prepared.delegate,
        stats: stats.clone(),
        source_stats,
        hand_over: shared.hand_over.clone(),
        totals: Totals::default(),
        values: Vec::new(),
        json: Vec::new(),
        last_state: None,
        last_predictions: 0,
        last_drops: 0,
    };
    publisher.status(&shared.speaker, PipelineState::Running, None);
    let links = Links {
        intake,
        decisions: decisions_tx,
        publisher: shared.notify.clone(),
        spans,
        stats,
        exchange: exchange.clone(),
        hold: config.source.when_full == WhenBufferFull::Wait,
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
