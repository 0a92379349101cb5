//! Gives each frame of a device with a steady rate its time, from how many frames came and when. Pure: time is passed in.
//!
//! The time at which a block is seen jitters with the kernel and the scheduler, and the rate of a device differs from the
//! nominal one by some 50 to 100 ppm. A line through the times of the last minute has neither fault: it gives where the
//! stream is, and how long a frame really takes.

use std::time::Duration;

use crate::units::MonoTime;

/// For how long a block counts in the line.
const MEMORY_S: f64 = 30.0;
/// The rate of no working device is further from the nominal one. It also bounds the line while it rests on few blocks.
const MOST_DRIFT: f64 = 1e-3;
/// A block's time differs by this many frames at most from where the nominal rate would put it after the block before. So
/// the times of frames that follow each other always grow, and never by so much that it could be taken for a gap.
const MOST_STEP_FRAMES: f64 = 0.5;

/// The time of a block of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockTime {
    /// The time of the first frame, on the clock of [`MonoTime`].
    pub first_ns: i64,
    /// The frames that would have had place since the block before; other than 0 only after [`SampleClock::interrupt`].
    pub missed: u64,
}

/// The clock of a stream of frames at a steady rate. Allocates nothing.
#[derive(Debug, Clone)]
pub struct SampleClock {
    /// The nominal time of a frame.
    frame_ns: f64,
    line: Option<Line>,
    /// The time after the last frame before an interruption.
    before: Option<f64>,
}

/// All times are in nanoseconds, after the last frame.
#[derive(Debug, Clone, Copy)]
struct Line {
    blocks: u32,
    /// Where the line is.
    now: f64,
    /// The time of a frame by the line.
    frame_ns: f64,
    /// Where the frames' times are; they follow the line in small steps.
    told: f64,
    seen: f64,
}

impl SampleClock {
    /// Returns the clock of a stream of `rate_hz`, which must be greater than 0.
    pub fn new(rate_hz: f64) -> Self {
        Self { frame_ns: 1e9 / rate_hz, line: None, before: None }
    }

    /// Notes that frames were lost: the next block does not follow the last one.
    pub fn interrupt(&mut self) {
        if let Some(line) = self.line.take() {
            self.before = Some(line.told);
        }
    }

    /// Takes a block of `frames`, the last of which was complete at `end`. Returns the time of its first frame.
    pub fn block(&mut self, frames: u64, end: MonoTime) -> BlockTime {
        let (frames, seen) = (frames as f64, end.0 as f64);
        let Some(line) = &mut self.line else { return self.begin(frames, seen) };
        let first = line.told;
        let error = seen - (line.now + frames * line.frame_ns);
        // The mean of the first blocks, then a line whose memory fades: R. Morrison, Introduction to Sequential Smoothing
        // and Prediction (1969), the fading-memory polynomial of the first degree.
        line.blocks = line.blocks.saturating_add(1);
        let kept = (-frames * self.frame_ns / (MEMORY_S * 1e9)).exp();
        let gain = (1.0 - kept * kept).max(1.0 / f64::from(line.blocks));
        line.now += frames * line.frame_ns + gain * error;
        let drift = (1.0 - kept) * (1.0 - kept) * error / frames.max(1.0);
        let bounds = (self.frame_ns * (1.0 - MOST_DRIFT), self.frame_ns * (1.0 + MOST_DRIFT));
        line.frame_ns = (line.frame_ns + drift).clamp(bounds.0, bounds.1);
        let most = MOST_STEP_FRAMES * self.frame_ns;
        let nominal = line.told + frames * self.frame_ns;
        line.told = nominal + (line.now - nominal).clamp(-most, most);
        line.seen = seen;
        BlockTime { first_ns: first as i64, missed: 0 }
    }

    fn begin(&mut self, frames: f64, seen: f64) -> BlockTime {
        let first = seen - frames * self.frame_ns;
        let missed = self.before.map_or(0.0, |before| (first - before) / self.frame_ns);
        // Time never goes back.
        let first = self.before.take().map_or(first, |before| first.max(before));
        let now = first + frames * self.frame_ns;
        self.line = Some(Line { blocks: 1, now, frame_ns: self.frame_ns, told: now, seen });
        BlockTime { first_ns: first as i64, missed: missed.max(0.0).round() as u64 }
    }

    /// Returns by how much the frames that came so far are more than the time that has passed has room for; negative: by
    /// how much they are fewer. More than a second means that the nominal rate is wrong.
    pub fn ahead_s(&self) -> f64 {
        self.line.map_or(0.0, |line| (line.told - line.seen) / 1e9)
    }

    /// Returns the time of so many frames at the nominal rate.
    pub fn time_of(&self, frames: u64) -> Duration {
        Duration::from_nanos((frames as f64 * self.frame_ns) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START_NS: f64 = 7.3e15;

    /// A device whose rate differs from the nominal one by `ppm`, read in blocks that are seen late by `jitter(n)` seconds.
    struct Device {
        rate_hz: f64,
        ppm: f64,
        frames: u64,
    }

    impl Device {
        /// The true time after the last frame.
        fn now(&self) -> f64 {
            START_NS + self.frames as f64 * 1e9 / (self.rate_hz * (1.0 + self.ppm / 1e6))
        }

        /// Reads one block. Returns what the clock says, and by how much that is wrong.
        fn block(&mut self, clock: &mut SampleClock, frames: u64, late_s: f64) -> (BlockTime, f64) {
            let first = self.now();
            self.frames += frames;
            let time = clock.block(frames, MonoTime((self.now() + late_s * 1e9) as u64));
            (time, (time.first_ns as f64 - first) / 1e9)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        /// Two minutes: the times grow evenly, are near the truth, and do not drift away from it.
        #[test]
        fn times_are_even_and_true_however_blocks_are_seen(
            rate in prop::sample::select(vec![8_000_u64, 16_000, 44_100, 48_000]),
            ppm in -100.0_f64..100.0,
            ms in 5_u64..=20,
            lateness in prop::collection::vec(0.0_f64..1.0, 97),
        ) {
            let (period_s, usual) = (ms as f64 / 1e3, rate * ms / 1000);
            let mut device = Device { rate_hz: rate as f64, ppm, frames: 0 };
            let mut clock = SampleClock::new(rate as f64);
            // As a sink spaces the frames of a block.
            let spacing = (1e9 / rate as f64).round() as i64;
            let mut last: Option<i64> = None;
            let mut errors = Vec::new();
            for n in 0..120_000 / ms as usize {
                // A block is short or long at times.
                let frames = match n % 11 { 3 => usual / 3 + 1, 4 => usual + usual / 2, _ => usual }.min(4096);
                let (time, error) = device.block(&mut clock, frames, lateness[n % 97] * period_s);
                if let Some(last) = last {
                    let step = time.first_ns - last;
                    prop_assert!(step > 0 && step <= 3 * spacing, "step {step} ns at block {n}");
                }
                prop_assert!(error.abs() <= period_s + 0.002, "wrong by {error} s at block {n}");
                prop_assert_eq!(time.missed, 0);
                last = Some(time.first_ns + (frames as i64 - 1) * spacing);
                errors.push(error);
            }
            let mean = |errors: &[f64]| errors.iter().sum::<f64>() / errors.len() as f64;
            let (early, late) = (&errors[errors.len() / 3..errors.len() / 2], &errors[errors.len() / 2..]);
            prop_assert!((mean(early) - mean(late)).abs() < 0.0015, "{} then {}", mean(early), mean(late));
            let spread = late.iter().map(|error| (error - mean(late)).abs()).fold(0.0, f64::max);
            prop_assert!(spread < 0.02 * period_s + 0.001, "a spread of {spread} s");
            prop_assert!(clock.ahead_s().abs() < 2.0 * period_s + 0.002);
        }

        /// What is lost is counted to a few frames, and the time goes on.
        #[test]
        fn lost_frames_are_counted_by_their_time(lost in 1_u64..1_000_000, late in 0.0_f64..0.02) {
            let mut device = Device { rate_hz: 16_000.0, ppm: 50.0, frames: 0 };
            let mut clock = SampleClock::new(16_000.0);
            let mut last = 0;
            for n in 0..500 {
                last = device.block(&mut clock, 320, if n % 3 == 0 { late } else { 0.0 }).0.first_ns;
            }
            device.frames += lost;
            clock.interrupt();
            let (time, error) = device.block(&mut clock, 320, 0.0);
            let counted = time.missed as f64 - lost as f64;
            prop_assert!(counted.abs() < 16_000.0 * 0.021 + lost as f64 * 1e-4, "{counted} of {lost}");
            prop_assert!(error.abs() < 0.021 && time.first_ns > last);
            prop_assert_eq!(device.block(&mut clock, 320, 0.0).0.missed, 0);
        }
    }

    #[test]
    fn time_does_not_go_back_when_the_device_is_faster_than_it_can_be() {
        let mut clock = SampleClock::new(16_000.0);
        let mut last = i64::MIN;
        for _ in 0..10_000 {
            let time = clock.block(320, MonoTime(1_000_000_000));
            assert!(time.first_ns > last);
            last = time.first_ns;
        }
        assert!(clock.ahead_s() > 190.0, "{}", clock.ahead_s());
        clock.interrupt();
        let time = clock.block(320, MonoTime(1_000_000_000));
        assert!(time.first_ns > last && time.missed == 0);
        assert_eq!(clock.time_of(16_000), Duration::from_secs(1));
    }
}
