//! When it is published that a pipeline's gate has opened or closed. Pure: time is passed in.

use std::time::Duration;

use crate::infer::GateState;
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
