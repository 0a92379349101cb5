//! Energy from successive samples of power.
//!
//! Pure: powers and their times are passed in.

use std::time::Duration;

use super::MeterError;
use crate::units::{Joules, MonoTime, Watts};

/// If more than this many periods pass between two powers, the power in between is unknown.
const GAP_PERIODS: u32 = 5;

/// A gap up to this is never too long, so that fast readings do not become void whenever the machine is busy elsewhere.
const GAP_MIN: Duration = Duration::from_millis(100);

/// The area under straight lines from each power to the next, by trapezoids.
#[derive(Debug)]
pub struct Integral {
    max_gap: Duration,
    last: Option<(MonoTime, Watts)>,
    joules: Joules,
}

impl Integral {
    /// Starts at zero; `period` is the time that normally passes between two powers.
    pub fn new(period: Duration) -> Self {
        let mut new = Self { max_gap: GAP_MIN, last: None, joules: Joules(0.0) };
        new.expect_every(period);
        new
    }

    /// Sets the time that normally passes between two powers.
    pub fn expect_every(&mut self, period: Duration) {
        self.max_gap = (period * GAP_PERIODS).max(GAP_MIN);
    }

    /// Adds `power` at `now` and returns the joules since the start.
    ///
    /// # Errors
    /// [`MeterError::Rebaselined`] after too long a gap.
    pub fn add(&mut self, now: MonoTime, power: Watts) -> Result<Joules, MeterError> {
        if let Some((then, before)) = self.last.replace((now, power)) {
            let gap = now.since(then);
            if gap > self.max_gap {
                let (gap_s, max_s) = (gap.as_secs_f64(), self.max_gap.as_secs_f64());
                let reason = format!("{gap_s:.1} s passed between two powers; the limit is {max_s:.1} s");
                return Err(MeterError::Rebaselined { reason });
            }
            self.joules = self.joules + Watts((before.0 + power.0) / 2.0).over(gap);
        }
        Ok(self.joules)
    }

    /// Makes the next power a new start, because the power until then is unknown. The joules so far stay.
    pub fn interrupt(&mut self) {
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
        assert!(error.to_string().contains("0.5 s passed between two powers; the limit is 0.5 s"), "{error}");
        assert_eq!(integral.add(ms(626), Watts(8.0)).unwrap(), Joules(1.0));
        integral.interrupt();
        assert_eq!(integral.add(ms(100_000), Watts(8.0)).unwrap(), Joules(1.0));
        let mut fast = Integral::new(Duration::from_millis(1));
        fast.add(ms(0), Watts(8.0)).unwrap();
        assert_eq!(fast.add(ms(100), Watts(8.0)).unwrap(), Joules(0.8), "a thread that was held up for a moment");
        assert!(fast.add(ms(201), Watts(8.0)).is_err());
    }
}
