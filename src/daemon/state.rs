//! The state of a daemon that runs, and how it is built. What is done with it is in `control`, `report`, `reload`,
//! `shutdown` and `event_loop`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use signal_hook_tokio::Signals;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::RunOptions;
use super::action::Action;
use super::discovery::Discovery;
use super::event::DaemonEvent;
use super::metering::Metering;
use super::phase::Phase;
use super::pipeline::{PipelineContext, PipelineHandle, Replacement};
use super::rate_limit::CommandLimit;
use super::retained_topics::RetainedTopics;
use super::startup::{Delivery, DeliveryTask};
use super::systemd::Service;
use crate::config::Config;
use crate::ids::PipelineId;
use crate::load::engines::EngineContext;
use crate::load::meters::MeterContext;
use crate::load::{Prepared, state_dir};
use crate::measure::calibrate::Outcome;
use crate::measure::calibrations::Calibrations;
use crate::publish::mqtt::Received;
use crate::publish::mqtt::store::Store;
use crate::publish::publisher::DropReport;
use crate::stop::StopRequests;
use crate::sys::SocTemperature;
use crate::sys::processor::Processor;
use crate::units::MonoTime;

/// How often progress is checked at least.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// A daemon that runs.
pub(crate) struct Daemon {
    pub phase: Phase,
    pub stop_requests: StopRequests,
    pub config: Config,
    pub options: RunOptions,
    pub engine_context: EngineContext,
    pub context: PipelineContext,
    pub pipelines: Vec<PipelineHandle>,
    /// The next pipeline's.
    pub next_id: PipelineId,
    pub metering: Metering,
    pub calibrations: Calibrations,
    pub discovery: Option<Discovery>,
    /// `None`: there is no broker, or it keeps no messages.
    pub retained: Option<RetainedTopics>,
    pub command_limit: CommandLimit,
    pub service: Service,
    pub timers: Timers,
    pub reported: Reported,
    /// The task that delivers; `None`: there is no broker.
    pub delivery: Option<DeliveryTask>,
    pub store: Option<Store>,
}

/// What is done periodically.
pub(crate) struct Timers {
    pub metrics: Interval,
    /// `None`: readings of the meters are not published.
    pub power: Option<Interval>,
    pub progress: Interval,
}

/// What the next report goes on from.
pub(crate) struct Reported {
    pub started: MonoTime,
    pub last_metrics: MonoTime,
    /// Messages that were dropped, of all pipelines together.
    pub drops: DropReport,
    /// It was published that the store fails, and not yet that it works again.
    pub store_failed: bool,
    pub temperature: SocTemperature,
    pub processor: Processor,
}

/// What the event loop waits for, apart from timers and what the delivery reports.
pub(crate) struct Inputs {
    pub signals: Signals,
    pub events: UnboundedReceiver<DaemonEvent>,
    /// Messages from the broker.
    pub received: Receiver<Received>,
    /// What a view in this process asks for.
    pub actions: UnboundedReceiver<Action>,
}

impl Daemon {
    /// Starts the meters and all pipelines.
    pub(crate) fn start(
        config: Config,
        prepared: Prepared,
        options: RunOptions,
        service: Service,
        delivery: Delivery,
        signals: Signals,
        actions: UnboundedReceiver<Action>,
    ) -> anyhow::Result<(Self, Inputs)> {
        let Delivery { task, broker, node_publisher, publish_latency, received, discovery, retained, store } = delivery;
        let (events_tx, events) = unbounded_channel();
        let children = prepared.engine_context.launcher.children.clone();
        let context = PipelineContext {
            decisions: Arc::<Notify>::default(),
            events: events_tx,
            node_publisher,
            publish_latency,
            once: options.once,
            children: children.clone(),
            broker: broker.clone(),
            idle_until: MonoTime::now() + config.power.quiet,
        };
        let meter_context = MeterContext { children, node: broker };
        let count = prepared.pipelines.len();
        let ids: Vec<PipelineId> = (0u32..).map(PipelineId).take(count).collect();
        let (metering, spans) = Metering::start(&config.power, ids.clone(), meter_context, None)
            .context("cannot start the meter thread")?;
        if !config.power.quiet.is_zero() {
            let seconds = config.power.quiet.as_secs_f64();
            tracing::info!("measuring idle power for {seconds} s before any source starts (power.idle_s)");
        }
        let mut pipelines = Vec::with_capacity(count);
        for (((config, prepared), id), spans) in config.pipelines.iter().zip(prepared.pipelines).zip(ids).zip(spans) {
            let new = Replacement { config: config.clone(), prepared };
            pipelines.push(PipelineHandle::start(id, new, spans, None, &context)?);
        }
        let now = MonoTime::now();
        let daemon = Self {
            phase: Phase::Running,
            stop_requests: StopRequests::default(),
            timers: Timers {
                metrics: every(config.metrics_interval),
                power: config.power.interval.map(every),
                progress: every(PROGRESS_PERIOD.min(service.limit() / 4)),
            },
            reported: Reported {
                started: now,
                last_metrics: now,
                drops: DropReport::default(),
                store_failed: false,
                temperature: SocTemperature::find(&config.power.sysfs),
                processor: Processor::find(&config.power.sysfs),
            },
            calibrations: Calibrations::read_or_none(&state_dir::folder(config.state_dir.as_deref())),
            engine_context: prepared.engine_context,
            next_id: PipelineId(u32::try_from(count).unwrap_or(u32::MAX)),
            command_limit: CommandLimit::default(),
            delivery: task,
            config,
            options,
            context,
            pipelines,
            metering,
            discovery,
            retained,
            service,
            store,
        };
        Ok((daemon, Inputs { signals, events, received, actions }))
    }

    /// Publishes that the daemon has started, and what came of calibrations before.
    pub(crate) fn begin(&mut self, calibrations: Vec<Outcome>) {
        self.publish_info();
        self.inform_metering();
        self.update_status_line();
        self.update_health();
        for Outcome { pipeline, text } in calibrations {
            self.context.node_publisher.event("calibrated", Some(&pipeline), text);
        }
        if self.options.reload.load(Ordering::Relaxed) {
            self.reload();
        }
        self.service.ready();
    }
}

/// Returns the pipeline with that id, unless it is gone.
pub(crate) fn find(pipelines: &mut [PipelineHandle], id: PipelineId) -> Option<&mut PipelineHandle> {
    pipelines.iter_mut().find(|pipeline| pipeline.id == id)
}

/// Ticks with that period; the first tick comes after one period.
pub(crate) fn every(period: Duration) -> Interval {
    let mut tick = tokio::time::interval_at(Instant::now() + period, period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}
