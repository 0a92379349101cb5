//! Conversion times and averages of the INA226, INA260 and INA3221, which have the same codes for them. Pure.
//!
//! Sources: data sheets SBOS547B (INA226, tables of the configuration register), SBOS656C (INA260), SBOS576B (INA3221).

use std::time::Duration;

/// Numbers of conversions that these chips and the INA228 can average.
pub(crate) const AVERAGES: [u16; 8] = [1, 4, 16, 64, 128, 256, 512, 1024];

/// Conversion times by their codes.
const CONVERSION_US: [u64; 8] = [140, 204, 332, 588, 1_100, 2_116, 4_156, 8_244];

/// A chip may take this much longer than is typical (SBOS547B, 5.5: 1.21 ms for 1.1 ms).
pub(crate) const SLOWEST: f64 = 1.1;

/// Shunt and bus voltages continuously.
const MODE_CONTINUOUS: u16 = 0b111;

/// How long conversions take and how many are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Index into [`AVERAGES`].
    averaging: u16,
    /// Index into [`CONVERSION_US`], for the shunt voltage.
    shunt: u16,
    /// The number of channels, which are converted one after the other.
    channels: u32,
}

impl Timing {
    /// Chooses what sees the current for the longest time within `period`.
    ///
    /// The voltage is converted as fast as possible: it is steady, takes the time from the current, and is averaged as often.
    pub(crate) fn within(period: Duration, channels: u32) -> Self {
        let codes = 0..CONVERSION_US.len() as u16;
        let all = codes.clone().flat_map(|averaging| codes.clone().map(move |shunt| (averaging, shunt)));
        let timings = all.map(|(averaging, shunt)| Self { averaging, shunt, channels });
        let fitting = timings.filter(|timing| timing.cycle().mul_f64(SLOWEST) <= period);
        let best = fitting.max_by_key(|timing| timing.shunt_us() * u64::from(timing.averages()));
        best.unwrap_or(Self { averaging: 0, shunt: 0, channels })
    }

    fn shunt_us(self) -> u64 {
        CONVERSION_US.get(usize::from(self.shunt)).copied().unwrap_or(CONVERSION_US[0])
    }

    pub(crate) fn averages(self) -> u16 {
        AVERAGES.get(usize::from(self.averaging)).copied().unwrap_or(1)
    }

    /// Returns AVG, VBUSCT, VSHCT and MODE of the configuration register.
    pub(crate) fn bits(self) -> u16 {
        self.averaging << 9 | self.shunt << 3 | MODE_CONTINUOUS
    }

    /// Returns the time for all conversions of all channels.
    pub(crate) fn cycle(self) -> Duration {
        let once = Duration::from_micros(self.shunt_us() + CONVERSION_US[0]);
        once * u32::from(self.averages()) * self.channels.max(1)
    }

    /// Returns the fraction of the time in which the current of one channel is measured.
    pub(crate) fn seen(self) -> f64 {
        let shunt = Duration::from_micros(self.shunt_us()) * u32::from(self.averages());
        shunt.as_secs_f64() / self.cycle().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_fill_the_time_between_two_reads() {
        let of = |ms, channels| {
            let timing = Timing::within(Duration::from_millis(ms), channels);
            (timing.averages(), timing.shunt_us(), timing.cycle().as_micros())
        };
        assert_eq!(of(100, 1), (64, 1_100, 79_360));
        assert_eq!(of(20, 1), (4, 4_156, 17_184));
        assert_eq!(of(5, 1), (1, 4_156, 4_296));
        assert_eq!(of(0, 1), (1, 140, 280), "the shortest, if none fits");
        assert_eq!(of(100, 2), (16, 2_116, 72_192));
        assert_eq!(of(100, 3), (64, 332, 90_624), "the cycle is that of all channels");
        for (ms, channels) in [(1, 1), (2, 3), (37, 2), (100, 3), (1000, 1), (10_000, 3)] {
            let timing = Timing::within(Duration::from_millis(ms), channels);
            let cycle_ms = timing.cycle().as_secs_f64() * 1e3;
            assert!(cycle_ms * SLOWEST <= ms as f64 && cycle_ms > ms as f64 * 0.25, "{timing:?} in {ms} ms");
        }
    }

    #[test]
    fn what_is_chosen_is_in_the_bits() {
        let timing = Timing::within(Duration::from_millis(100), 1);
        assert_eq!(timing.bits(), 0b011 << 9 | 0b100 << 3 | 0b111);
        assert!((timing.seen() - 1_100.0 / 1_240.0).abs() < 1e-12);
        assert!((Timing { channels: 3, ..timing }.seen() - 1_100.0 / 3_720.0).abs() < 1e-12);
    }
}
