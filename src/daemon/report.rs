//! What the daemon publishes of the node: info, metrics, readings of the meters, events of the delivery, and the line
//! that `systemctl status` shows. Runs on the async thread.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use super::health::{
    self, BrokerHealth, BrokerState, DaemonState, MeterHealth, MeterState, NodeHealth, PipelineHealth, StoreHealth,
};
use super::meter_readings;
use super::phase::{DrainFor, Phase};
use super::pipeline::{AfterEnd, PipelineHandle};
use super::retained_topics::made_by;
use super::state::Daemon;
use crate::config::Broker;
use crate::load::mqtt::connect_options;
use crate::measure::calibrations::{EngineIdentity, MeterIdentity};
use crate::meter::MeterInfo;
use crate::publish::mqtt::store::State as StoreState;
use crate::publish::mqtt::{ClientState, ClientStatus};
use crate::publish::payload::{Info, PipelineInfo, PipelineState, Process};
use crate::publish::publisher::NodeFigures;
use crate::sys;
use crate::sys::processor::Conditions;
use crate::units::{MonoTime, process_cpu_time};

/// How long a metrics message waits for an infer thread that is inside an inference.
const PATIENCE: Duration = Duration::from_millis(100);

impl Daemon {
    /// Publishes what the node runs, and its description for Home Assistant.
    pub(crate) fn publish_info(&mut self) {
        let pipelines: BTreeMap<&str, PipelineInfo<'_>> = self
            .pipelines
            .iter()
            .map(|pipeline| {
                let model = &pipeline.builder().model;
                let info = PipelineInfo {
                    model: model.path.display().to_string(),
                    model_sha256: &model.sha256,
                    inputs: &pipeline.tensors().inputs,
                    outputs: &pipeline.tensors().outputs,
                    scores: pipeline.scores(),
                    delegate: pipeline.delegate(),
                    notes: pipeline.notes(),
                };
                (pipeline.name(), info)
            })
            .collect();
        let node_publisher = &self.context.node_publisher;
        let info = Info {
            envelope: node_publisher.envelope(MonoTime::now()),
            version: env!("CARGO_PKG_VERSION"),
            node: &self.config.node_id,
            config_sha256: &self.config.hash,
            runtime: self.engine_context.runtime.path.display().to_string(),
            runtime_version: &self.engine_context.runtime.version,
            pipelines,
            delegates: self.config.delegate_names().collect(),
            meters: &self.metering.infos,
        };
        node_publisher.retain(&node_publisher.topics.info, &info);
        match serde_json::to_value(&info) {
            Ok(info) => self.options.health.set_info(info),
            Err(error) => tracing::error!(%error, "the node's info could not be encoded"),
        }
        if let Some(discovery) = &mut self.discovery {
            discovery.publish(node_publisher, &self.config, false);
        }
        if let Some(retained) = &mut self.retained {
            let names = self.pipelines.iter().map(PipelineHandle::name);
            retained.update(node_publisher, made_by(&self.config, &node_publisher.topics, names));
        }
    }

    /// Publishes the figures since the last call, of each pipeline.
    pub(crate) async fn publish_metrics(&mut self) {
        let stages = join_all(self.pipelines.iter().map(|pipeline| pipeline.take_stage_times(PATIENCE))).await;
        let Conditions { clock_mhz, clock_max_mhz, throttled } = self.reported.processor.look();
        let process = Process {
            cpu_s: process_cpu_time().as_secs_f64(),
            rss_mib: sys::rss_mib(),
            soc_temperature_c: self.reported.temperature.read_c(),
            clock_mhz,
            clock_max_mhz,
            throttled,
        };
        let now = MonoTime::now();
        let interval = now.since(self.reported.last_metrics);
        self.reported.last_metrics = now;
        let node_publisher = &self.context.node_publisher;
        let delivery = self.delivery.as_ref().map(|delivery| delivery.handle.delivery());
        let node = NodeFigures { delivery: delivery.as_ref(), process: &process };
        let energy = self.metering.figures();
        node_publisher.metrics(interval, &node);
        for (pipeline, stages) in self.pipelines.iter_mut().zip(stages) {
            let energy = energy.get(&pipeline.id).map_or(&[][..], Vec::as_slice);
            pipeline.publish_metrics(node_publisher, interval, &stages, energy, &node);
        }
        if let Some(delivery) = delivery {
            let dropped =
                self.delivery.as_ref().and_then(|task| task.handle.status().borrow().warnings.dropped.clone());
            self.reported.drops.report(node_publisher, None, &delivery.drops, dropped.as_deref());
        }
    }

    /// Publishes what the meters have shown since the last call.
    pub(crate) fn publish_power(&self) {
        let readings = self.metering.readings.take();
        meter_readings::publish(&self.context.node_publisher, &self.metering.infos, readings);
    }

    /// Publishes the node's info again if a meter covers something else than before, or says something else of itself.
    pub(crate) fn follow_meters(&mut self) {
        let Some(infos) = self.metering.readings.take_new_infos() else { return };
        let identities = |infos: &[MeterInfo]| infos.iter().map(MeterIdentity::new).collect::<Vec<_>>();
        let are_others = identities(&infos) != identities(&self.metering.infos);
        self.metering.infos = infos;
        self.publish_info();
        if are_others {
            self.inform_metering();
        }
    }

    /// Checks whether everything makes progress, and tells the watchdog.
    pub(crate) fn check_progress(&mut self) {
        let (now, limit) = (MonoTime::now(), self.service.limit());
        let node_publisher = &self.context.node_publisher;
        let has_ended = self.delivery.as_ref().is_some_and(|delivery| delivery.task.is_finished());
        let mut hung = has_ended.then(|| "the task that delivers has ended".to_owned());
        for pipeline in &mut self.pipelines {
            let delivery = self.delivery.as_ref();
            let why_dropped = delivery.and_then(|delivery| delivery.handle.why_dropped(pipeline.prediction_topic()));
            pipeline.set_dropped(node_publisher, why_dropped);
            hung = pipeline.check_progress(node_publisher, now, limit).or(hung);
        }
        self.service.alive(hung);
        self.confirm_retained();
        self.follow_meters();
        self.update_status_line();
        self.update_health();
    }

    /// Notes which retained topics the broker has emptied.
    pub(crate) fn confirm_retained(&mut self) {
        if let (Some(retained), Some(delivery)) = (&mut self.retained, &self.delivery) {
            retained.confirm(&delivery.handle);
        }
    }

    /// Updates what `systemctl status` shows: each pipeline, and the broker if it cannot be reached or takes not everything.
    pub(crate) fn update_status_line(&mut self) {
        let client = self.delivery.as_ref().map(|delivery| delivery.handle.status());
        let broker = client.and_then(|client| {
            let client = client.borrow();
            let error = client.last_error.as_ref().filter(|_| client.state == ClientState::Waiting);
            let warnings = || client.warnings.text().map(|text| format!("broker: {text}"));
            error.map(|error| format!("no broker: {error}")).or_else(warnings)
        });
        let lines: Vec<String> = self.pipelines.iter().map(|pipeline| pipeline.to_string()).chain(broker).collect();
        self.service.set_status(lines.join("; "));
    }

    /// Writes on the board how the daemon is, for `edgewatt health`.
    pub(crate) fn update_health(&self) {
        let board = &self.options.health;
        match self.phase {
            Phase::Running => board.set_state(DaemonState::Running, None),
            Phase::Reloading { .. } => board.set_state(DaemonState::Reloading, None),
            Phase::Draining { reason, .. } | Phase::Overdue { reason, .. } => {
                self.set_stopping(reason == DrainFor::Calibrate);
            }
        }
        let now = MonoTime::now();
        board.set_node(now, self.node_health(now));
    }

    /// Writes on the board that the daemon stops.
    pub(crate) fn set_stopping(&self, to_calibrate: bool) {
        let reason = to_calibrate.then_some("it calibrates, and then starts again");
        self.options.health.set_state(DaemonState::Stopping, reason);
    }

    fn node_health(&self, now: MonoTime) -> NodeHealth {
        let meter = |(info, latest): (&MeterInfo, Option<Result<MonoTime, String>>)| {
            let (state, reason, reading) = match latest {
                None => (MeterState::Starting, None, None),
                Some(Ok(at)) => (MeterState::Working, None, Some(at)),
                Some(Err(error)) => (MeterState::Failing, Some(error), None),
            };
            let reading_s = reading.map(|at| now.since(at).as_secs_f64());
            MeterHealth { name: info.name.clone(), state, reason, reading_s }
        };
        NodeHealth {
            id: self.config.node_id.clone(),
            config_sha256: self.config.hash.clone(),
            pipelines: self.config.pipelines.iter().map(|config| self.pipeline_health(&config.name, now)).collect(),
            broker: self.broker_health(now),
            store: self.store_health(),
            meters: self.metering.infos.iter().zip(self.metering.readings.latest()).map(meter).collect(),
        }
    }

    /// Returns how the configured pipeline of that name is.
    fn pipeline_health(&self, name: &str, now: MonoTime) -> PipelineHealth {
        let stays = |handle: &&PipelineHandle| !matches!(handle.after_end, AfterEnd::Remove);
        if let Some(handle) = self.pipelines.iter().filter(stays).find(|handle| handle.config.name == name) {
            return handle.health(now);
        }
        let waits =
            |handle: &PipelineHandle| matches!(&handle.after_end, AfterEnd::Replace(new) if new.config.name == name);
        let (state, reason) = if self.pipelines.iter().any(waits) {
            (PipelineState::Degraded, "it starts when the pipeline before it has ended")
        } else {
            (PipelineState::Failed, "it could not be started; the log says why")
        };
        let (name, reason) = (name.to_owned(), Some(reason.to_owned()));
        PipelineHealth { name, state, reason, delegate: None, gate_open: None, predictions: 0, last_prediction_s: None }
    }

    /// Returns whether messages reach the broker.
    fn broker_health(&self, now: MonoTime) -> BrokerHealth {
        let Some(delivery) = &self.delivery else {
            return BrokerHealth { state: BrokerState::None, address: None, reason: None, for_s: None, queued: 0 };
        };
        let status = delivery.handle.status();
        let status = status.borrow();
        let (state, reason) = match &status.state {
            ClientState::Connecting => (BrokerState::Connecting, None),
            ClientState::Connected => (BrokerState::Connected, status.warnings.text()),
            ClientState::Waiting | ClientState::Stopped(_) => {
                (BrokerState::Unreachable, status.last_error.as_deref().map(str::to_owned))
            }
        };
        let outbox = delivery.handle.stats().outbox;
        BrokerHealth {
            state,
            address: match self.config.mqtt.broker {
                Broker::Embedded => Some("embedded".to_owned()),
                Broker::None | Broker::At(_) => connect_options(&self.config.mqtt).map(|options| options.address()),
            },
            reason,
            for_s: Some(now.since(status.since).as_secs_f64()),
            queued: outbox.queued + outbox.in_flight,
        }
    }

    fn store_health(&self) -> StoreHealth {
        let store = self.delivery.as_ref().and_then(|delivery| delivery.handle.store_state());
        let (state, reason) = match store.map(|state| state.borrow().clone()) {
            None => (health::StoreState::Off, None),
            Some(StoreState::Opening | StoreState::Working) => (health::StoreState::Working, None),
            Some(StoreState::Failing(reason)) => (health::StoreState::Failing, Some(reason.as_ref().to_owned())),
        };
        StoreHealth { state, reason }
    }

    /// A reconnect is an event for the subscribers that are connected again.
    pub(crate) fn connection_changed(&self, client: &ClientStatus) {
        if client.state == ClientState::Connected && client.connections > 1 {
            let cause = client.last_error.as_deref().unwrap_or("unknown");
            let message = format!("connection {} to the broker; the one before was lost: {cause}", client.connections);
            self.context.node_publisher.event("reconnected", None, message);
        }
    }

    /// Publishes when messages no longer survive a crash, and when they do again.
    pub(crate) fn store_changed(&mut self, state: &StoreState) {
        let message = match state {
            StoreState::Failing(reason) => format!("messages are kept in memory only: {reason}"),
            StoreState::Working if self.reported.store_failed => "messages are kept on disk again".to_owned(),
            StoreState::Working | StoreState::Opening => return,
        };
        self.reported.store_failed = matches!(state, StoreState::Failing(_));
        self.context.node_publisher.event("store", None, message);
    }

    /// Tells the metering which delegates are active, because idle power differs with them, and their calibrations.
    pub(crate) fn inform_metering(&self) {
        let active: Vec<&str> = self.pipelines.iter().map(|p| p.delegate().active.as_str()).collect();
        self.metering.set_delegates(&active.join(","));
        for pipeline in &self.pipelines {
            let engine = EngineIdentity::new(pipeline.builder(), pipeline.delegate());
            self.metering.set_calibrations(pipeline.id, |info| {
                self.calibrations.find(&engine, &MeterIdentity::new(info)).map(|entry| entry.calibrated())
            });
        }
    }
}
