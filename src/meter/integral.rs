//! Energy from powers that were sampled one after the other.
//!
//! Pure: powers and their times are passed in.

use std::time::Duration;

use super::MeterError;
use crate::units::{Joules, MonoTime, Watts};

/// A gap of more than this many periods between two powers says nothing of the power in it.
const GAP_PERIODS: u32 = 5;

/// No gap is too long that is a usual period, so that fast readings are not void whenever the machine is busy elsewhere.
const GAP_MIN: Duration = Duration::from_millis(100);

/// The area under straight lines from each power to the next.
#[derive(Debug)]
pub(crate) struct Integral {
    max_gap: Duration,
    last: Option<(MonoTime, Watts)>,
    joules: Joules,
}

impl Integral {
    /// Nothing so far; `period` is the time that normally passes between two powers.
    pub(crate) fn new(period: Duration) -> Self {
        Self { max_gap: (period * GAP_PERIODS).max(GAP_MIN), last: None, joules: Joules(0.0) }
    }

    /// Joules since the start, with `power` at `now` as the end; [`MeterError::Rebaselined`] after too long a gap.
    pub(crate) fn add(&mut self, now: MonoTime, power: Watts) -> Result<Joules, MeterError> {
        if let Some((then, before)) = self.last.replace((now, power)) {
            let gap = now.since(then);
            if gap > self.max_gap {
                let (gap_s, max_s) = (gap.as_secs_f64(), self.max_gap.as_secs_f64());
                let reason = format!("{gap_s:.1} s passed between two powers, {max_s:.1} s at most");
                return Err(MeterError::Rebaselined { reason });
            }
            self.joules = self.joules + Watts((before.0 + power.0) / 2.0).over(gap);
        }
        Ok(self.joules)
    }

    /// The next power starts anew: what was between is not known. The joules so far stay.
    pub(crate) fn interrupt(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> MonoTime {
        MonoTime(ms * 1_000_000)
    }

    #[test]
    fn the_area_is_that_of_trapezoids() {
        let mut integral = Integral::new(Duration::from_millis(100));
        assert_eq!(integral.add(ms(1000), Watts(3.0)).unwrap(), Joules(0.0));
        assert_eq!(integral.add(ms(1250), Watts(5.0)).unwrap(), Joules(1.0));
        assert_eq!(integral.add(ms(1750), Watts(5.0)).unwrap(), Joules(3.5));
    }

    #[test]
    fn neither_a_gap_nor_an_interruption_makes_energy_up() {
        let mut integral = Integral::new(Duration::from_millis(100));
        integral.add(ms(0), Watts(8.0)).unwrap();
        let error = integral.add(ms(501), Watts(8.0)).unwrap_err();
        assert!(error.to_string().contains("0.5 s passed between two powers, 0.5 s at most"), "{error}");
        assert_eq!(integral.add(ms(626), Watts(8.0)).unwrap(), Joules(1.0));
        integral.interrupt();
        assert_eq!(integral.add(ms(100_000), Watts(8.0)).unwrap(), Joules(1.0));
        let mut fast = Integral::new(Duration::from_millis(1));
        fast.add(ms(0), Watts(8.0)).unwrap();
        assert_eq!(fast.add(ms(100), Watts(8.0)).unwrap(), Joules(0.8), "a thread that was held up for a moment");
        assert!(fast.add(ms(201), Watts(8.0)).is_err());
    }
}
