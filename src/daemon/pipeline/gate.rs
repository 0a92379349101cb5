//! What is published and said of a pipeline's gate, and when. Runs on the async thread.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::PipelineHandle;
use super::stall::never_opened;
use crate::daemon::summary::GateSummary;
use crate::infer::GateState;
use crate::publish::publisher::NodePublisher;
use crate::units::MonoTime;

/// A gate that opens and closes faster than this is published this often.
const PERIOD: Duration = Duration::from_secs(1);

/// The state of the gate as it was last published.
#[derive(Debug, Default)]
pub(crate) struct GateWatch {
    told: Option<(GateState, MonoTime)>,
}

impl GateWatch {
    /// Notes the state of the gate, `None` without a gate. Returns whether it is to be published now.
    pub(crate) fn note(&mut self, gate: Option<GateState>, now: impl FnOnce() -> MonoTime) -> bool {
        let Some(gate) = gate else { return self.told.take().is_some() };
        // Before the first block has ended, nothing is known.
        if gate.since.is_none() || self.told.is_some_and(|(told, _)| told == gate) {
            return false;
        }
        let now = now();
        let is_due = self.told.is_none_or(|(_, at)| now.since(at) >= PERIOD);
        if is_due {
            self.told = Some((gate, now));
        }
        is_due
    }
}

impl PipelineHandle {
    /// Publishes that the gate has opened or closed.
    pub(super) fn follow_gate(&mut self, node_publisher: &NodePublisher, gate: Option<GateState>) {
        if !self.gate.note(gate, MonoTime::now) {
            return;
        }
        // What is told of events is as true as before.
        if let Some(GateState { open: false, since: Some(since) }) = gate
            && !self.config.decision.kind().events_only()
        {
            self.publisher.withdraw_state(node_publisher, since);
        }
        self.publish_status(node_publisher);
    }

    /// Returns whether the gate is open; `None` without a gate.
    pub(super) fn gate_state(&self) -> Option<GateState> {
        self.config.gate.as_ref().map(|_| self.publisher.stats.gate.state())
    }

    /// Returns why there is no prediction of a stream of which the gate has let no window pass.
    pub(super) fn never_opened(&self) -> Option<String> {
        let (gate, stats) = (self.config.gate.as_ref()?, &self.publisher.stats);
        let skipped = stats.gate.skipped();
        let all = stats.windows.load(Ordering::Relaxed);
        (skipped > 0 && skipped == all)
            .then(|| never_opened(&format!("gate.{}", gate.name()), gate.kind(), &stats.gate, skipped))
    }

    /// Returns what the gate has done in the whole run; `None` without one.
    pub(super) fn gate_summary(&self) -> Option<GateSummary> {
        let (gate, stats) = (self.config.gate.as_ref()?, &self.publisher.stats.gate);
        Some(GateSummary {
            openings: stats.openings(),
            highest: stats.highest(),
            threshold: gate.kind().threshold(),
            never_opened: self.never_opened.clone(),
            saved: self.saved.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_not_more_often_than_once_a_second() {
        let mut watch = GateWatch::default();
        let ms = |ms: u64| MonoTime(0) + Duration::from_millis(ms);
        let gate = |open, since| Some(GateState { open, since: Some(ms(since)) });
        assert!(!watch.note(None, || ms(0)) && !watch.note(Some(GateState { open: false, since: None }), || ms(0)));
        assert!(watch.note(gate(false, 10), || ms(10)), "the first state is told too");
        assert!(!watch.note(gate(false, 10), || ms(5000)));
        assert!(watch.note(gate(true, 5000), || ms(5000)));
        assert!(!watch.note(gate(false, 5100), || ms(5100)) && !watch.note(gate(true, 5200), || ms(5200)));
        assert!(watch.note(gate(true, 5200), || ms(6000)), "since when has changed");
        assert!(watch.note(None, || ms(6001)), "there is no gate any more");
        assert!(!watch.note(None, || ms(9000)));
    }
}
