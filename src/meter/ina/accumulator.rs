//! Energy from a chip's own counter, of which all is known: its step, its width and how often it is added to. Pure.
//!
//! `counter` is for counters that must be learned.

use super::chip::CounterPlan;
use crate::meter::MeterError;
use crate::units::{Joules, MonoTime, Watts};

/// The joules that a counter has shown.
#[derive(Debug, Default)]
pub(super) struct Accumulator {
    joules: Joules,
    last: Option<(MonoTime, u64)>,
}

impl Accumulator {
    /// Returns the joules since the start, and the mean power since the last value; the counter shows `value` at `now`.
    ///
    /// # Errors
    /// [`MeterError::Rebaselined`] if the counter cannot have got there, so that it was reset. The next value is a new start.
    pub(super) fn add(
        &mut self,
        plan: &CounterPlan,
        now: MonoTime,
        value: u64,
    ) -> Result<(Joules, Option<Watts>), MeterError> {
        let Some((then, before)) = self.last.replace((now, value)) else { return Ok((self.joules, None)) };
        let steps = value.wrapping_sub(before) & (u64::MAX >> (u64::BITS - plan.bits));
        let joules = Joules(steps as f64 * plan.joules_a_step);
        // The first and the last addition may each be late by one update.
        let watts = joules.0 / (now.since(then) + plan.update * 2).as_secs_f64();
        if watts > plan.most_watts {
            self.last = None;
            let reason = format!("the chip's counter jumped by {:.0} J, so it was probably reset", joules.0);
            return Err(MeterError::Rebaselined { reason });
        }
        self.joules = self.joules + joules;
        Ok((self.joules, joules.per(now.since(then))))
    }

    /// Makes the next value a new start. The joules so far stay.
    pub(super) fn interrupt(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PLAN: CounterPlan =
        CounterPlan { update: Duration::from_micros(1_136), joules_a_step: 1e-3, bits: 40, most_watts: 100.0 };
    const MOST: u64 = (1 << 40) - 1;

    fn add(accumulator: &mut Accumulator, ms: u64, value: u64) -> Result<(f64, Option<f64>), String> {
        let added = accumulator.add(&PLAN, MonoTime(ms * 1_000_000), value);
        let round = |value: f64| (value * 1e6).round() / 1e6;
        added
            .map(|(joules, watts)| (round(joules.0), watts.map(|watts| round(watts.0))))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn differences_are_counted_also_over_a_wrap() {
        let mut counter = Accumulator::default();
        assert_eq!(add(&mut counter, 0, MOST - 499), Ok((0.0, None)));
        assert_eq!(add(&mut counter, 100, MOST), Ok((0.499, Some(4.99))));
        assert_eq!(add(&mut counter, 200, 500), Ok((1.0, Some(5.01))));
        assert_eq!(add(&mut counter, 300, 500), Ok((1.0, Some(0.0))), "nothing flows");
    }

    #[test]
    fn a_reset_and_an_interruption_are_a_new_start() {
        let mut counter = Accumulator::default();
        add(&mut counter, 0, 1_000_000).unwrap();
        assert_eq!(add(&mut counter, 100, 1_000_400), Ok((0.4, Some(4.0))));
        assert!(add(&mut counter, 200, 7).unwrap_err().contains("so it was probably reset"));
        assert_eq!(add(&mut counter, 300, 307), Ok((0.4, None)), "the next value is a new start");
        assert_eq!(add(&mut counter, 400, 707), Ok((0.8, Some(4.0))));
        counter.interrupt();
        assert_eq!(add(&mut counter, 500, 1_000_000), Ok((0.8, None)));
    }
}
