//! Energy from successive samples of power.
//!
//! Pure: powers and their times are passed in.

use std::time::Duration;

use super::MeterError;
use super::clipping::NOT_CLIPPED;
use super::refresh::time as shown_time;
use super::snapshots::Seen;
use crate::units::{Joules, MonoTime, Watts, duration_ns};

/// If more than this many periods pass between two powers, the power in between is unknown.
const GAP_PERIODS: u32 = 5;

/// A gap up to this is never too long, so that fast readings do not become void whenever the machine is busy elsewhere.
const GAP_MIN: Duration = Duration::from_millis(100);

/// After a value at the end of the range, nothing counts for so long. Otherwise the figures would be made of the inferences
/// that happened to take less.
const OVERRANGE: Duration = Duration::from_secs(10);

/// A power that counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counted {
    /// When its conversion ended.
    pub time: MonoTime,
    /// The energy since the start.
    pub joules: Joules,
    pub power: Watts,
}

/// The area under straight lines from each power to the next, by trapezoids.
#[derive(Debug)]
pub struct Integral {
    max_gap: Duration,
    last: Option<(MonoTime, Watts)>,
    joules: Joules,
    /// The last value at the end of the range.
    overrange: Option<MonoTime>,
}

impl Integral {
    /// Starts at zero; `period` is the time that normally passes between two powers.
    pub fn new(period: Duration) -> Self {
        let mut new = Self { max_gap: GAP_MIN, last: None, joules: Joules(0.0), overrange: None };
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
    /// [`MeterError::Rebaselined`] after too long a gap, [`MeterError::Overrange`] shortly after a value at the end of the range.
    pub fn add(&mut self, now: MonoTime, power: Watts) -> Result<Joules, MeterError> {
        if let Some(since) = self.overrange.filter(|at| now.since(*at) < OVERRANGE) {
            let reason = format!(
                "the power was at the end of the sensor's range {:.1} s ago; readings count again {} s after the last time",
                now.since(since).as_secs_f64(),
                OVERRANGE.as_secs()
            );
            return Err(MeterError::Overrange { reason, since });
        }
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

    /// Adds `power` as read at `now`, if `seen` says that it is from a new conversion, which takes `conversion`; readings are
    /// `period` apart. Returns what counts; `None` if nothing new does. `place` returns where the value was read, and the value
    /// with its unit.
    ///
    /// # Errors
    /// The value is not one that counts; the power until the next one is then unknown.
    pub fn count(
        &mut self,
        (now, power): (MonoTime, Watts),
        (seen, conversion): (Seen, Duration),
        period: Duration,
        place: impl FnOnce() -> (String, String),
    ) -> Result<Option<Counted>, MeterError> {
        let late = match seen {
            Seen::New { late } => late,
            Seen::Repeat => return Ok(None),
            Seen::Held { until } => return Ok(self.hold(until)),
            Seen::Doubtful => {
                self.interrupt();
                let reason = "it is not known yet if the value is the end of the sensor's range".to_owned();
                return Err(MeterError::Rebaselined { reason });
            }
            Seen::Learning => {
                self.interrupt();
                return Err(MeterError::NotYet { reason: "learning how often the sensor is refreshed" });
            }
            Seen::Frozen { since } => {
                self.interrupt();
                let ((_, shown), before) = (place(), shown_time(conversion));
                let since_s = since.as_secs_f64();
                let reason = format!(
                    "the sensor has shown exactly {shown} for {since_s:.1} s; before, it changed every {before}"
                );
                return Err(MeterError::Rebaselined { reason });
            }
            Seen::Clipped { since } => {
                let (place, shown) = place();
                let error = MeterError::overrange(place, &shown, NOT_CLIPPED, since);
                self.refuse(now, &error);
                return Err(error);
            }
        };
        self.expect_every(period.max(conversion));
        // The conversion ended between the reading before and this one.
        let time = MonoTime(now.0.saturating_sub(duration_ns(late) / 2));
        let joules = self.add(time, power)?;
        Ok(Some(Counted { time, joules, power }))
    }

    /// Adds the power of before until `until`, if it is known that it was still shown then.
    fn hold(&mut self, until: MonoTime) -> Option<Counted> {
        let (then, power) = self.last.as_mut()?;
        self.joules = self.joules + power.over(until.since(*then));
        *then = until.max(*then);
        Some(Counted { time: *then, joules: self.joules, power: *power })
    }

    /// Interrupts, because there is no power at `now`, for the reason that `error` gives.
    pub(crate) fn refuse(&mut self, now: MonoTime, error: &MeterError) {
        self.interrupt();
        if let MeterError::Overrange { .. } = error {
            self.overrange = Some(now);
        }
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
    fn a_power_that_is_still_shown_leaves_no_gap() {
        let mut integral = Integral::new(Duration::from_millis(10));
        integral.add(ms(0), Watts(3.0)).unwrap();
        assert_eq!(integral.hold(ms(2000)).map(|held| held.joules), Some(Joules(6.0)));
        assert_eq!(integral.add(ms(2010), Watts(5.0)).unwrap(), Joules(6.04));
        integral.interrupt();
        assert_eq!(integral.hold(ms(9000)), None);
        assert_eq!(integral.add(ms(9000), Watts(5.0)).unwrap(), Joules(6.04));
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
        integral.refuse(ms(100_100), &MeterError::overrange("x", "8 W", "less", ms(100_100)));
        let error = integral.add(ms(105_000), Watts(8.0)).unwrap_err();
        assert!(matches!(error, MeterError::Overrange { since, .. } if since == ms(100_100)), "{error}");
        assert_eq!(integral.add(ms(110_100), Watts(8.0)).unwrap(), Joules(1.0));
        let mut fast = Integral::new(Duration::from_millis(1));
        fast.add(ms(0), Watts(8.0)).unwrap();
        assert_eq!(fast.add(ms(100), Watts(8.0)).unwrap(), Joules(0.8), "a thread that was held up for a moment");
        assert!(fast.add(ms(201), Watts(8.0)).is_err());
    }
}
