//! Butterworth filters: low-pass, high-pass, band-pass and band-stop.

use super::{FrontendKind, Stage, channels_only, half_rate_above};
use crate::dsp::sos::{butterworth, is_usable};
use crate::dsp::{Band, Section, SosFilter};
use crate::schema::{Checker, Key, choice, table};
use crate::stream::{Mismatch, SampleType, StreamSpec};

const MAX_ORDER: usize = 10;
const MAX_HZ: f64 = 1e9;

choice! {
    /// What a filter takes to have been before the first sample.
    pub enum Start { Settled = "settled", Rest = "rest" }
}

table! {
    /// Removes frequencies from each channel: a Butterworth filter, that of scipy.signal.butter. With high_hz alone it is a
    /// low-pass, with low_hz alone a high-pass, with both a band-pass. It needs the rate of the stream. A gap starts it
    /// over.
    pub struct Filter {
        /// Frequencies below it are removed. At it, the power is halved.
        pub low_hz: Option<f64>, range(1e-6, MAX_HZ), unit("Hz"), otherwise("low ones pass"), example("0.5");
        /// Frequencies above it are removed. At it, the power is halved. It is below half the rate.
        pub high_hz: Option<f64>, range(1e-6, MAX_HZ), unit("Hz"), otherwise("high ones pass"), example("20.0");
        /// Removes what is between low_hz and high_hz instead, and passes the rest: a band-stop.
        pub stop: bool = false;
        /// How steep it is: beyond a frequency, a tone becomes 6 dB quieter per octave for each order. It is N of
        /// scipy.signal.butter; with both frequencies, the filter has twice as many poles.
        pub order: usize = 4, range(1, MAX_ORDER);
        /// "settled": as if the first sample had always been there, which is `scipy.signal.sosfilt` with
        /// `zi=sosfilt_zi(sos)*x[0]`; an offset makes no step. "rest": as if zeros had been there, which is sosfilt without
        /// zi.
        pub start: Start = Start::Settled;
    }
}

impl Filter {
    /// Returns the frequencies that pass, as parts of half the rate `2 * half`; `None` if none was written.
    fn band(&self, half: f64) -> Option<Band> {
        Some(match (self.low_hz, self.high_hz) {
            (Some(low), Some(high)) if self.stop => Band::Outside(low / half, high / half),
            (Some(low), Some(high)) => Band::Between(low / half, high / half),
            (Some(low), None) => Band::Above(low / half),
            (None, Some(high)) => Band::Below(high / half),
            (None, None) => return None,
        })
    }

    /// Designs the filter of a stream.
    ///
    /// # Errors
    /// The rate is not known, or the frequencies do not fit it.
    fn sections(&self, input: &StreamSpec) -> Result<Vec<Section>, Mismatch> {
        let (key, highest) = match (self.low_hz, self.high_hz) {
            (Some(low), None) => ("low_hz", low),
            (_, high) => ("high_hz", high.unwrap_or_default()),
        };
        let half = half_rate_above(input, key, highest)?;
        // Unreachable: `check` has refused it.
        let Some(band) = self.band(half) else { return Ok(Vec::new()) };
        let sections = butterworth(self.order, band);
        if !is_usable(&sections, band.passed(), 1.0) {
            let key = if self.low_hz.is_some() { "low_hz" } else { "high_hz" };
            let (order, rate_hz) = (self.order, 2.0 * half);
            let frequencies =
                [self.low_hz, self.high_hz].iter().flatten().map(|hz| format!("{hz} Hz")).collect::<Vec<_>>();
            let message = format!(
                "no stable filter of order {order} at {} can be computed for a rate of {rate_hz} Hz; lower order, or lower the \
                 rate before, with decimate",
                frequencies.join(" and ")
            );
            return Err(Mismatch::at(key, message));
        }
        Ok(sections)
    }
}

impl FrontendKind for Filter {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        match (self.low_hz, self.high_hz) {
            (None, None) => {
                let message = "write high_hz for a low-pass, low_hz for a high-pass, or both for a band";
                checker.problem(key, message);
            }
            (Some(low), Some(high)) if low >= high => {
                let message = format!("{low} Hz is not below high_hz, {high} Hz; to remove a band, write stop = true");
                checker.problem(&key.child("low_hz"), message);
            }
            (Some(_), Some(_)) => {}
            _ if self.stop => {
                checker.problem(&key.child("stop"), "a band-stop has two frequencies: low_hz and high_hz")
            }
            _ => {}
        }
    }

    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch> {
        channels_only(input)?;
        self.sections(input)?;
        Ok(StreamSpec { sample: SampleType::F32, ..input.clone() })
    }

    fn build(&self, input: &StreamSpec) -> Box<dyn Stage> {
        // `output` has accepted the stream.
        let filter = SosFilter::new(&self.sections(input).unwrap_or_default());
        let settles = self.start == Start::Settled;
        Box::new(Filters { channels: vec![filter; input.frame.values()], settles, is_first: true })
    }
}

struct Filters {
    channels: Vec<SosFilter<f64>>,
    /// Whether the first frame counts as if it had always been there.
    settles: bool,
    is_first: bool,
}

impl Stage for Filters {
    fn process(&mut self, frames: &[f32], out: &mut Vec<f32>) {
        for frame in frames.chunks_exact(self.channels.len().max(1)) {
            if self.is_first && self.settles {
                self.channels.iter_mut().zip(frame).for_each(|(channel, value)| channel.settle((*value).into()));
            }
            self.is_first = false;
            out.extend(
                self.channels.iter_mut().zip(frame).map(|(channel, value)| channel.step((*value).into()) as f32),
            );
        }
    }

    fn frames_wanted(&self, frames: usize) -> usize {
        frames
    }

    fn reset(&mut self) {
        self.channels.iter_mut().for_each(SosFilter::reset);
        self.is_first = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Content, Shape};

    fn filter(keys: &str) -> Filter {
        toml::from_str(keys).unwrap()
    }

    fn spec(rate_hz: Option<f64>) -> StreamSpec {
        let names = ["ax", "ay"].map(str::to_owned).to_vec();
        let units = ["g", "g"].map(str::to_owned).to_vec();
        StreamSpec { names, units, ..StreamSpec::new(Shape::new([2]), SampleType::F32, rate_hz) }
    }

    #[test]
    fn the_stream_stays_what_it_was() {
        let input = StreamSpec { content: Content::Pcm16, ..spec(Some(50.0)) };
        assert_eq!(filter("high_hz = 10.0").output(&input), Ok(input));
    }

    #[test]
    fn an_offset_makes_no_step_unless_the_filter_starts_at_rest() {
        let first = |keys: &str| {
            let mut stage = filter(keys).build(&spec(Some(50.0)));
            let mut out = Vec::new();
            stage.process(&[9.81, -3.0, 9.81, -3.0], &mut out);
            stage.reset();
            stage.process(&[1.0, 2.0], &mut out);
            out
        };
        for (value, wanted) in first("high_hz = 5.0").into_iter().zip([9.81, -3.0, 9.81, -3.0, 1.0, 2.0]) {
            assert!((value - wanted).abs() < 1e-5, "{value} for {wanted}");
        }
        assert!(first("low_hz = 0.5").iter().all(|value| value.abs() < 1e-5));
        let rest = first("high_hz = 5.0\nstart = \"rest\"");
        assert!(rest[0].abs() < 0.1 && rest[4] * 9.81 - rest[0] < 1e-5, "{rest:?}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_numbers() {
        let of = |keys: &str, rate_hz| filter(keys).output(&spec(rate_hz)).unwrap_err();
        assert!(of("high_hz = 10.0", None).message.contains("set rate_hz in the source's table"));
        let high = of("low_hz = 1.0\nhigh_hz = 25.0", Some(50.0));
        assert_eq!(high.message, "25 Hz is not below 25 Hz, half the rate of the stream, 50 Hz");
        assert_eq!((high.key, of("low_hz = 30.0", Some(50.0)).key), (Some("high_hz"), Some("low_hz")));
        let rounded = of("low_hz = 0.0001\nhigh_hz = 0.0002\norder = 10", Some(16_000.0));
        assert!(rounded.message.contains("order 10 at 0.0001 Hz and 0.0002 Hz"), "{rounded}");
        let mel = StreamSpec {
            content: Content::Spectrum { convention: crate::dsp::Convention::Librosa, fft_length: 8, rate_hz: None },
            ..spec(Some(50.0))
        };
        assert!(filter("high_hz = 1.0").output(&mel).unwrap_err().message.contains("put it before the front end"));
    }
}
