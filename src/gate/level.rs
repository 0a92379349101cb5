//! A gate on the level of the stream: the RMS of blocks, as a sound level meter takes it.

use super::{GateKind, Latch, Stage};
use crate::schema::{Checker, Key, table};
use crate::source::Pieces;
use crate::stream::{Content, Mismatch, SampleType, StreamSpec, channels_named};
use crate::text::figure;

/// The default of `release`, as a part of `threshold`.
const RELEASE: f64 = 0.8;

table! {
    /// Windows go to the model only while the stream is loud enough, or moves enough. The level is the RMS of blocks of the
    /// source's samples, before front ends: of several channels, that of the largest. See docs/gate.md.
    pub struct Level {
        /// The level at which the gate opens, in the units of the stream: those of 16-bit samples for sound, whose full scale
        /// is 32768.
        pub threshold: f64, range(1e-9, 1e12), example("500.0");
        /// The level below which the gate closes.
        pub release: Option<f64>, range(1e-9, 1e12), otherwise("0.8 of `threshold`"), example("300.0");
        /// How long the gate stays open after the level was last at or above `release`.
        pub hold_s: f64 = 2.0, range(0.0, 86_400.0), unit("s");
        /// The time over which the RMS is taken. It must hold a whole swing of the slowest movement that counts.
        pub block_s: f64 = 0.1, range(0.0001, 3600.0), unit("s");
        /// Whether the mean of each block is removed first: an offset of a sound card, or gravity.
        pub remove_mean: bool = true;
        /// The channels whose level counts. The name of a source of a join stands for all its channels.
        pub channels: Vec<String> = Vec::new(), otherwise("all"), example("[\"ax\"]");
        /// Windows of this time that were skipped go to the model first when the gate opens, in their order. A model that keeps
        /// a state, such as a wake word, needs them.
        pub preroll_s: f64 = 0.0, range(0.0, 3600.0), unit("s");
    }
}

impl Level {
    fn block_frames(&self, rate_hz: f64) -> usize {
        (self.block_s * rate_hz).round() as usize
    }

    /// Returns which values of a frame count.
    fn counted(&self, source: &StreamSpec) -> Result<Vec<bool>, Mismatch> {
        let mut counted = vec![self.channels.is_empty(); source.frame.values()];
        for name in &self.channels {
            let places = channels_named(&source.names, name);
            if places.is_empty() {
                let has = if source.names.is_empty() { "none with names".to_owned() } else { source.names.join(", ") };
                let message = format!("there is no channel `{name}`; the stream has the channels {has}");
                return Err(Mismatch::at("channels", message));
            }
            for place in places {
                if let Some(counted) = counted.get_mut(place) {
                    *counted = true;
                }
            }
        }
        Ok(counted)
    }
}

impl GateKind for Level {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if let Some(release) = self.release.filter(|release| *release > self.threshold) {
            let (release, threshold) = (figure(release), figure(self.threshold));
            let message =
                format!("{release} is above the threshold, {threshold}; write a lower level, or leave it out");
            checker.problem(&key.child("release"), message);
        }
    }

    fn build(&self, source: &StreamSpec) -> Result<Box<dyn Stage>, Mismatch> {
        if source.frame.dims().len() != 1 {
            let message = format!("it takes samples of channels, such as sound or motion; a frame is {}", source.frame);
            return Err(Mismatch::new(message));
        }
        let Some(rate_hz) = source.rate_hz else {
            let message =
                "block_s and hold_s need the rate of the samples, which is not known; set rate_hz at the source";
            return Err(Mismatch::new(message));
        };
        let (frames, least) = (self.block_frames(rate_hz), if self.remove_mean { 2 } else { 1 });
        if frames < least {
            let (block_s, rate) = (figure(self.block_s), figure(rate_hz));
            let needed = figure(least as f64 / rate_hz);
            let message = format!(
                "{block_s} s of {rate} Hz are less than {least} samples; write at least {needed}, or the time of the slowest movement"
            );
            return Err(Mismatch::at("block_s", message));
        }
        let full_scale = match (source.sample, source.content) {
            (SampleType::I16, _) | (_, Content::Pcm16) => Some(32768.0),
            (SampleType::U8, _) => Some(255.0),
            (SampleType::F32, _) => None,
        };
        if let Some(full) = full_scale.filter(|full| self.threshold > *full) {
            let threshold = figure(self.threshold);
            let message =
                format!("{threshold} is above the full scale of the samples, {full}, so the gate never opens");
            return Err(Mismatch::at("threshold", message));
        }
        let counted = self.counted(source)?;
        let latch = Latch::new(self.threshold, self.release(), (self.hold_s * rate_hz).round() as u64);
        let sums = counted.into_iter().map(|counted| Sums { counted, ..Sums::default() }).collect();
        Ok(Box::new(LevelStage { latch, block: frames, remove_mean: self.remove_mean, sums, place: 0, frames: 0 }))
    }

    fn threshold(&self) -> f64 {
        self.threshold
    }

    fn release(&self) -> f64 {
        self.release.unwrap_or(RELEASE * self.threshold)
    }

    fn hold_s(&self) -> f64 {
        self.hold_s
    }

    fn preroll_s(&self) -> f64 {
        self.preroll_s
    }

    fn in_words(&self, source: &StreamSpec) -> String {
        let [opens, closes, hold, block] = [self.threshold, self.release(), self.hold_s, self.block_s].map(figure);
        let samples = source.rate_hz.map_or(0, |rate_hz| self.block_frames(rate_hz));
        let of = if self.channels.is_empty() { String::new() } else { format!(" of {}", self.channels.join(", ")) };
        let mean = if self.remove_mean { "without the mean" } else { "with the mean" };
        format!(
            "level: the RMS{of} over {block} s ({samples} samples), {mean}; it opens at {opens}, and closes {hold} s after the \
             level was last at least {closes}"
        )
    }
}

/// The gate at work.
struct LevelStage {
    latch: Latch,
    /// Frames in a block.
    block: usize,
    remove_mean: bool,
    /// Of each value of a frame.
    sums: Vec<Sums>,
    /// The next value's place in its frame.
    place: usize,
    /// Frames of this block so far.
    frames: usize,
}

/// Sums over the values of one channel in a block. Distances from the first value are summed, so that a large offset does
/// not cost digits.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    counted: bool,
    first: f64,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, value: f64, is_first: bool) {
        if is_first {
            (self.first, self.sum, self.squares) = (value, 0.0, 0.0);
            return;
        }
        let distance = value - self.first;
        self.sum += distance;
        self.squares += distance * distance;
    }

    fn rms(&self, frames: usize, remove_mean: bool) -> f64 {
        let share = 1.0 / frames as f64;
        let mean = self.sum * share;
        let variance = (self.squares * share - mean * mean).max(0.0);
        if remove_mean { variance.sqrt() } else { variance.sqrt().hypot(self.first + mean) }
    }
}

impl LevelStage {
    fn add(&mut self, values: impl Iterator<Item = f64>, seen: &mut dyn FnMut(f64)) {
        for value in values {
            let is_first = self.frames == 0;
            if let Some(sums) = self.sums.get_mut(self.place) {
                sums.add(value, is_first);
            }
            self.place += 1;
            if self.place == self.sums.len() {
                self.place = 0;
                self.frames += 1;
                if self.frames == self.block {
                    self.end_block(seen);
                }
            }
        }
    }

    fn end_block(&mut self, seen: &mut dyn FnMut(f64)) {
        let counted = self.sums.iter().filter(|sums| sums.counted);
        let level = counted.map(|sums| sums.rms(self.frames, self.remove_mean)).fold(0.0, f64::max);
        self.latch.note(level, self.frames as u64);
        self.frames = 0;
        seen(level);
    }
}

impl Stage for LevelStage {
    fn take(&mut self, values: Pieces<'_>, seen: &mut dyn FnMut(f64)) {
        match values {
            Pieces::F32(first, second) => self.add(first.iter().chain(second).map(|value| f64::from(*value)), seen),
            Pieces::I16(first, second) => self.add(first.iter().chain(second).map(|value| f64::from(*value)), seen),
            Pieces::U8(first, second) => self.add(first.iter().chain(second).map(|value| f64::from(*value)), seen),
        }
    }

    fn is_open(&self) -> bool {
        self.latch.is_open()
    }

    fn reset(&mut self) {
        (self.place, self.frames) = (0, 0);
    }

    fn set_open(&mut self, open: bool) {
        self.latch.set_open(open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Shape;
    use proptest::prelude::*;

    fn level(toml: &str) -> Level {
        toml::from_str(toml).unwrap()
    }

    fn spec(channels: usize, sample: SampleType, rate_hz: Option<f64>) -> StreamSpec {
        let names = ["ax", "ay", "az", "imu.x", "imu.y"].iter().take(channels).map(|name| (*name).to_owned()).collect();
        StreamSpec { names, ..StreamSpec::new(Shape::new([channels]), sample, rate_hz) }
    }

    fn built(toml: &str, spec: &StreamSpec) -> Box<dyn Stage> {
        level(toml).build(spec).unwrap()
    }

    fn refused(toml: &str, spec: &StreamSpec) -> (Option<&'static str>, String) {
        let Err(Mismatch { key, message }) = level(toml).build(spec) else { panic!("{toml} is taken") };
        (key, message)
    }

    /// The levels of blocks, and whether the gate is open at the end.
    fn levels(stage: &mut dyn Stage, pieces: &[Pieces<'_>]) -> (Vec<f64>, bool) {
        let mut levels = Vec::new();
        pieces.iter().for_each(|piece| stage.take(*piece, &mut |level| levels.push(level)));
        (levels, stage.is_open())
    }

    #[test]
    fn an_offset_does_not_count_unless_it_is_asked_for() {
        let sound = spec(1, SampleType::I16, Some(40.0));
        // 3, -3, 3, -3 around an offset of 1000.
        let values = [1003_i16, 997, 1003, 997];
        let mut without = built("threshold = 3.0", &sound);
        assert_eq!(levels(&mut *without, &[Pieces::I16(&values, &[])]), (vec![3.0], true));
        let mut with = built("threshold = 3.0\nremove_mean = false", &sound);
        let (found, _) = levels(&mut *with, &[Pieces::I16(&values, &[])]);
        assert!((found[0] - (1_000_009.0_f64).sqrt()).abs() < 1e-9, "{found:?}");
        // 9.81 of gravity, and a movement that f32 just holds.
        let motion = spec(1, SampleType::F32, Some(40.0));
        let mut still = built("threshold = 1e-3", &motion);
        let (found, open) = levels(&mut *still, &[Pieces::F32(&[9.81, 9.81, 9.81, 9.81], &[])]);
        assert_eq!((found, open), (vec![0.0], false));
        let pressure = [101_325.0_f32, 101_325.25, 101_325.0, 101_325.25];
        assert_eq!(levels(&mut *still, &[Pieces::F32(&pressure, &[])]), (vec![0.125], true));
    }

    #[test]
    fn the_largest_level_of_the_channels_that_count_is_taken() {
        let five = spec(5, SampleType::F32, Some(20.0));
        let frames = [0.0_f32, 0.0, 0.0, 0.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0];
        let of = |channels: &str| {
            levels(&mut *built(&format!("threshold = 1.0{channels}"), &five), &[Pieces::F32(&frames, &[])]).0
        };
        assert_eq!(of(""), [5.0]);
        assert_eq!(of("\nchannels = ['ax', 'ay']"), [2.0]);
        assert_eq!(of("\nchannels = ['imu']"), [5.0], "the channels of a source of a join");
    }

    #[test]
    fn a_gap_begins_a_new_block_and_leaves_the_gate_as_it_is() {
        let mut stage = built("threshold = 5.0\nhold_s = 0.2", &spec(1, SampleType::F32, Some(40.0)));
        assert_eq!(levels(&mut *stage, &[Pieces::F32(&[10.0, -10.0, 10.0, -10.0, 10.0], &[])]), (vec![10.0], true));
        stage.reset();
        assert_eq!(levels(&mut *stage, &[Pieces::F32(&[0.0, 0.0, 0.0], &[])]), (vec![], true));
        assert_eq!(levels(&mut *stage, &[Pieces::F32(&[0.0], &[0.0, 0.0, 0.0, 0.0])]), (vec![0.0, 0.0], false));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let sound = spec(1, SampleType::I16, Some(16000.0));
        let (key, message) = refused("threshold = 40000.0", &sound);
        assert!(
            key == Some("threshold") && message.contains("above the full scale of the samples, 32768"),
            "{message}"
        );
        let (key, message) = refused("threshold = 5.0\nblock_s = 0.001", &spec(1, SampleType::F32, Some(50.0)));
        assert!(key == Some("block_s") && message.contains("less than 2 samples; write at least 0.04"), "{message}");
        let (key, message) = refused("threshold = 5.0", &spec(1, SampleType::F32, None));
        assert!(key.is_none() && message.contains("set rate_hz at the source"), "{message}");
        let (key, message) = refused("threshold = 5.0\nchannels = ['az']", &spec(2, SampleType::F32, Some(50.0)));
        assert!(key == Some("channels") && message.contains("the channels ax, ay"), "{message}");
        let image = StreamSpec::new(Shape::new([4, 4, 3]), SampleType::U8, Some(5.0));
        assert!(refused("threshold = 5.0", &image).1.contains("a frame is [4, 4, 3]"));
    }

    proptest! {
        #[test]
        fn blocks_are_the_same_however_the_samples_come(
            values in prop::collection::vec(any::<i16>(), 0..200), cuts in prop::collection::vec(0usize..200, 0..8),
        ) {
            let stereo = spec(2, SampleType::I16, Some(70.0));
            let whole = levels(&mut *built("threshold = 5000.0", &stereo), &[Pieces::I16(&values, &[])]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(values.len())).chain([0, values.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<Pieces<'_>> = cuts.windows(2).map(|cut| Pieces::I16(&[], &values[cut[0]..cut[1]])).collect();
            prop_assert_eq!(levels(&mut *built("threshold = 5000.0", &stereo), &pieces), whole);
        }
    }
}
