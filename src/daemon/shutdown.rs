//! How the daemon ends: sources stop, what has arrived is decided, what is decided is delivered.
//!
//! Half of mqtt.stop_timeout_s is for deciding, the other half for delivery. Runs on the async thread.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::Instant;

use super::metering;
use super::phase::{DrainFor, Phase};
use super::pipeline::{AfterEnd, PipelineHandle};
use super::startup::DeliveryTask;
use super::state::Daemon;
use super::summary::{Delivered, Outcome, PipelineSummary, Summary};
use crate::publish::mqtt::store::Store;
use crate::units::MonoTime;

/// The store's share of the time for delivery.
const STORE_SHARE: u32 = 4;
/// What the end may take beyond mqtt.stop_timeout_s.
const END: Duration = Duration::from_secs(5);

impl Daemon {
    /// Lets every pipeline come to its end.
    pub(crate) fn stop(&mut self, reason: DrainFor) {
        if reason == DrainFor::Stop {
            self.service.stopping(self.config.mqtt.stop_timeout + END);
        }
        let deadline = Instant::now() + self.config.mqtt.stop_timeout / 2;
        if self.phase.drain(reason, deadline) {
            self.pipelines.iter().for_each(PipelineHandle::request_stop);
        }
        self.update_health();
    }

    /// The deadline of the phase has passed. Breaks if there is nothing more to wait for.
    pub(crate) fn deadline_passed(&mut self) -> ControlFlow<()> {
        let flow = self.phase.pass_deadline(Instant::now());
        if flow.is_break() {
            tracing::warn!("an inference does not end; the decisions that it would have made are lost");
        } else {
            self.pipelines.iter().for_each(PipelineHandle::give_up_samples);
        }
        flow
    }

    /// Returns whether the event loop has nothing more to wait for.
    pub(crate) fn is_done(&self) -> bool {
        if !self.pipelines.iter().all(PipelineHandle::has_ended) {
            return false;
        }
        match self.phase {
            Phase::Draining { .. } | Phase::Overdue { .. } => true,
            Phase::Reloading { .. } => false,
            Phase::Running => {
                let all_failed = !self.pipelines.is_empty() && self.pipelines.iter().all(PipelineHandle::has_failed);
                let replaced = self.pipelines.iter().any(|p| matches!(p.after_end, AfterEnd::Replace(_)));
                !replaced && (self.options.once || all_failed)
            }
        }
    }

    /// Publishes the last figures, delivers what is queued, publishes `offline`, and returns what the run has done.
    pub(crate) async fn drain(mut self) -> Summary {
        let timeout = self.config.mqtt.stop_timeout / 2;
        let restart_to_calibrate = self.phase.stops_for() == Some(DrainFor::Calibrate);
        if restart_to_calibrate {
            self.service.restarting();
        } else {
            self.service.stopping(timeout + END);
        }
        self.set_stopping(restart_to_calibrate);
        let started = self.context.idle_until.max(self.reported.started);
        let wall_s = MonoTime::now().since(started).as_secs_f64();
        self.metering.finish(metering::PATIENCE).await;
        if self.timers.power.is_some() {
            self.publish_power();
        }
        self.publish_metrics().await;
        let handle = self.delivery.as_ref().map(|delivery| delivery.handle.clone());
        let delivered = match self.delivery.take() {
            Some(task) => Some(task.finish(self.store.take(), timeout).await),
            None => None,
        };
        if let (Some(retained), Some(handle)) = (&mut self.retained, handle) {
            retained.confirm(&handle);
        }
        let pipelines: Vec<PipelineSummary> = self.pipelines.into_iter().map(|p| p.into_summary(wall_s)).collect();
        let all_delivered = delivered.as_ref().is_none_or(Delivered::is_complete);
        let dropped = pipelines.iter().any(|p| p.counts.drops.values().sum::<u64>() > 0);
        let outcome = if pipelines.iter().any(|p| p.error.is_some()) {
            Outcome::Failed
        } else if pipelines.iter().any(|p| p.nothing_predicted.is_some()) {
            Outcome::NoPrediction
        } else if !all_delivered || dropped {
            Outcome::Undelivered
        } else {
            Outcome::Complete
        };
        Summary { outcome, delivered, pipelines, restart_to_calibrate }
    }
}

impl DeliveryTask {
    /// Delivers what is queued, within that time, and ends.
    async fn finish(self, store: Option<Store>, timeout: Duration) -> Delivered {
        let for_store = store.as_ref().map_or(Duration::ZERO, |_| timeout / STORE_SHARE);
        let left = self.handle.drain(timeout - for_store).await;
        if let Some(store) = store {
            store.finish(for_store).await;
        }
        let stored = self.handle.stats().outbox.stored;
        let kept = left.min(usize::try_from(stored).unwrap_or(usize::MAX));
        let undelivered = left - kept;
        if undelivered > 0 {
            tracing::warn!(undelivered, kept, "the broker has not taken all messages in time");
        } else if kept > 0 {
            tracing::info!(kept, "the broker has not taken all messages; the next start sends those that are kept");
        }
        let figures = self.handle.delivery();
        let dropped = self.handle.status().borrow().warnings.dropped.as_deref().map(str::to_owned);
        self.task.abort();
        Delivered { undelivered, kept, figures, dropped }
    }
}
