//! Mel bands of a spectrum, and their logarithm.

use super::{FrontendKind, Stage, UNKNOWN_RATE};
use crate::dsp::{Convention, Decibel, MelFilters, MelNorm, MelScale, MelShape, Triangles, at_least};
use crate::schema::{Checker, Key, choice, table};
use crate::stream::{Content, Mismatch, SampleType, Shape, StreamSpec};

/// Far above any real use.
const MAX_MELS: usize = 4096;
const MAX_HZ: f64 = 1e9;

choice! {
    /// The logarithm of a band.
    pub enum Log { Decibel = "db", Natural = "ln", Ten = "log10", No = "none" }
}

table! {
    /// The energies of a spectrum in mel bands, as logarithms: log(max(band + offset, amin)). It stands after `stft`.
    pub struct LogMel {
        /// The number of bands.
        pub n_mels: Option<usize>, range(1, MAX_MELS), otherwise("librosa: 128; tensorflow: 20"), example("40");
        /// Where the lowest band begins.
        pub fmin: Option<f64>, range(0.0, MAX_HZ), unit("Hz"), otherwise("librosa: 0; tensorflow: 125"), example("20.0");
        /// Where the highest band ends, at most half the rate of the samples.
        pub fmax: Option<f64>, range(0.0, MAX_HZ), unit("Hz"), otherwise("librosa: half the rate; tensorflow: 3800"),
            example("4000.0");
        /// The mel scale: "htk" is also that of tf.signal, and of librosa with htk=True.
        pub scale: Option<MelScale>, otherwise("librosa: \"slaney\"; tensorflow: \"htk\""), example("\"htk\"");
        /// How high the filters are: "slaney" gives each the same area, "none" a peak of 1.
        pub norm: Option<MelNorm>, otherwise("librosa: \"slaney\"; tensorflow: \"none\""), example("\"none\"");
        /// The logarithm: "db" is 10 * log10, as librosa.power_to_db with top_db=None. With "none" the bands stay energies,
        /// for the feature power_to_db.
        pub log: Option<Log>, otherwise("librosa: \"db\"; tensorflow: \"ln\""), example("\"ln\"");
        /// What is added to a band before the logarithm.
        pub offset: Option<f32>, range(0.0, 1e9), otherwise("tensorflow without amin: 1e-6; else 0"), example("1e-6");
        /// The least value that goes into the logarithm.
        pub amin: Option<f32>, range(0.0, 1e9), otherwise("librosa without offset: 1e-10; else 0"), example("1e-10");
        /// What is 0 dB: `ref` of librosa.power_to_db. Only for log = "db".
        pub reference as "ref": Option<f32>, range(1e-9, 1e9), otherwise("1.0"), example("1.0");
    }
}

impl LogMel {
    fn log(&self, convention: Convention) -> Log {
        self.log.unwrap_or(match convention {
            Convention::Librosa => Log::Decibel,
            Convention::TensorFlow => Log::Natural,
        })
    }

    /// Returns which filters there are over samples of `rate_hz`.
    fn shape(&self, convention: Convention, rate_hz: f64) -> MelShape {
        let tensorflow = convention == Convention::TensorFlow;
        // tf.signal.linear_to_mel_weight_matrix and librosa.filters.mel have these defaults.
        MelShape {
            mels: self.n_mels.unwrap_or(if tensorflow { 20 } else { 128 }),
            low_hz: self.fmin.unwrap_or(if tensorflow { 125.0 } else { 0.0 }),
            high_hz: self.fmax.unwrap_or(if tensorflow { 3800.0 } else { rate_hz / 2.0 }),
            scale: self.scale.unwrap_or(if tensorflow { MelScale::Htk } else { MelScale::Slaney }),
            norm: self.norm.unwrap_or(if tensorflow { MelNorm::Peak } else { MelNorm::Slaney }),
            triangles: if tensorflow { Triangles::StraightInMel } else { Triangles::StraightInHertz },
        }
    }

    /// Returns what is added to a band, and the least value that goes into the logarithm.
    fn floor(&self, convention: Convention) -> (f32, f32) {
        match (self.offset, self.amin, convention) {
            (None, None, Convention::Librosa) => (0.0, 1e-10),
            (None, None, Convention::TensorFlow) => (1e-6, 0.0),
            (offset, amin, _) => (offset.unwrap_or(0.0), amin.unwrap_or(0.0)),
        }
    }
}

impl FrontendKind for LogMel {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if self.reference.is_some() && self.log.is_some_and(|log| log != Log::Decibel) {
            checker.problem(&key.child("ref"), "only log = \"db\" uses it; remove it");
        }
        if self.log == Some(Log::No) && (self.offset.is_some() || self.amin.is_some()) {
            checker.problem(&key.child("log"), "\"none\" takes no logarithm; remove offset and amin");
        }
        if self.floor(Convention::Librosa) == (0.0, 0.0) {
            checker.problem(key, "silence has no logarithm: give offset or amin a value above 0");
        }
    }

    fn output(&self, input: &StreamSpec) -> Result<StreamSpec, Mismatch> {
        let Content::Spectrum { convention, rate_hz, .. } = input.content else {
            return Err(Mismatch::new("it takes spectra; put the front end stft right before it"));
        };
        let Some(rate_hz) = rate_hz else {
            return Err(Mismatch::new(UNKNOWN_RATE));
        };
        let MelShape { mels, low_hz, high_hz, .. } = self.shape(convention, rate_hz);
        if high_hz > rate_hz / 2.0 {
            let half = rate_hz / 2.0;
            return Err(Mismatch::at("fmax", format!("{high_hz} Hz is above half the rate of the samples, {half} Hz")));
        }
        if low_hz >= high_hz {
            return Err(Mismatch::at("fmin", format!("{low_hz} Hz is not below fmax, {high_hz} Hz")));
        }
        if self.reference.is_some() && self.log(convention) != Log::Decibel {
            return Err(Mismatch::at("ref", "only log = \"db\" uses it; remove it"));
        }
        Ok(StreamSpec {
            frame: Shape::new([mels]),
            sample: SampleType::F32,
            content: Content::Mel { convention, log: self.log(convention) != Log::No },
            ..input.clone()
        })
    }

    fn build(&self, input: &StreamSpec) -> Box<dyn Stage> {
        let bins = input.frame.values();
        let (convention, fft_length, rate_hz) = match input.content {
            Content::Spectrum { convention, fft_length, rate_hz } => (convention, fft_length, rate_hz.unwrap_or(0.0)),
            // Unreachable: `output` has refused it.
            _ => (Convention::Librosa, 1, 0.0),
        };
        // They differ for an odd length only: tf.signal spreads the bins over half the rate.
        let bin_hz = match convention {
            Convention::Librosa => rate_hz / fft_length as f64,
            Convention::TensorFlow => rate_hz / 2.0 / (bins.max(2) - 1) as f64,
        };
        let log = self.log(convention);
        let (offset, amin) = if log == Log::No { (0.0, 0.0) } else { self.floor(convention) };
        let filters = MelFilters::new(&self.shape(convention, rate_hz), bins, bin_hz);
        let decibel = Decibel::new(amin, self.reference.unwrap_or(1.0));
        Box::new(Bands { bins, filters, log, offset, amin, decibel })
    }
}

struct Bands {
    bins: usize,
    filters: MelFilters,
    log: Log,
    offset: f32,
    amin: f32,
    decibel: Decibel,
}

impl Bands {
    fn logarithm(&self, band: f32) -> f32 {
        let value = at_least(band + self.offset, self.amin);
        match self.log {
            Log::Decibel => self.decibel.of(value),
            Log::Natural => value.ln(),
            Log::Ten => value.log10(),
            Log::No => value,
        }
    }
}

impl Stage for Bands {
    fn process(&mut self, frames: &[f32], out: &mut Vec<f32>) {
        for spectrum in frames.chunks_exact(self.bins) {
            out.extend(self.filters.apply(spectrum).map(|band| self.logarithm(band)));
        }
    }

    fn frames_wanted(&self, frames: usize) -> usize {
        frames
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::super::{Chain, Frontend};
    use super::*;

    fn refused(frontends: &[&str], rate_hz: Option<f64>) -> (usize, Option<&'static str>, String) {
        let spec = StreamSpec::new(Shape::new([1]), SampleType::I16, rate_hz);
        let frontends: Vec<Frontend> = frontends.iter().map(|toml| toml::from_str(toml).unwrap()).collect();
        let (index, mismatch) = Chain::new(&frontends, &spec, |_, _| ()).err().unwrap();
        (index, mismatch.key, mismatch.message)
    }

    #[test]
    fn what_it_cannot_work_on_is_refused_with_the_fix() {
        const STFT: &str = "stft = { convention = \"tensorflow\", frame_length = 128, hop_length = 64 }";
        let (_, _, message) = refused(&["log_mel = {}"], Some(16000.0));
        assert!(message.contains("put the front end stft"), "{message}");
        let (index, _, message) = refused(&[STFT, "log_mel = {}"], None);
        assert!(index == 1 && message.contains("set rate_hz in the source"), "{message}");
        let (_, key, message) = refused(&[STFT, "log_mel = { fmax = 5000.0 }"], Some(8000.0));
        assert!(key == Some("fmax") && message.contains("above half the rate of the samples, 4000 Hz"), "{message}");
        let (_, key, _) = refused(&[STFT, "log_mel = { fmin = 3800.0 }"], Some(8000.0));
        assert_eq!(key, Some("fmin"));
        let (_, key, _) = refused(&[STFT, "log_mel = { ref = 2.0 }"], Some(8000.0));
        assert_eq!(key, Some("ref"));
        let (index, _, message) = refused(&[STFT, "log_mel = {}", STFT], Some(8000.0));
        assert!(index == 2 && message.contains("it takes samples"), "{message}");
    }
}
