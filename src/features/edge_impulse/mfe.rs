//! Energies of mel filters, for sounds that are not voices.

use super::filterbank::{Filterbank, FilterbankKeys};
use super::framing::{Framing, PowerSpectra, above_noise_floor, stretch};
use super::local_norm::LocalNorm;
use super::{BlockInput, Extract, MAX_FFT_LENGTH, ProcessingKind, check_fft_length};
use crate::schema::{Checker, Key, table};

table! {
    /// Audio (MFE): energies of mel filters. It takes one axis, of samples from -32768 to 32767.
    pub struct Mfe {
        /// The block's implementation version.
        pub version: u8, range(1, 4), example("4");
        /// The length of a frame.
        pub frame_length: f64 = 0.02, range(0.0, 100.0), unit("s");
        /// The time from one frame to the next.
        pub frame_stride: f64 = 0.01, range(0.0, 100.0), unit("s");
        /// The number of filters.
        pub num_filters: usize = 40, range(2, 1024);
        /// The number of points of the Fourier transform, a power of 2.
        pub fft_length: usize = 256, range(2, MAX_FFT_LENGTH);
        /// Where the first filter begins.
        pub low_frequency: f64 = 0.0, range(0.0, 1e6), unit("Hz");
        /// Where the last filter ends; 0: at half the rate.
        pub high_frequency: f64 = 0.0, range(0.0, 1e6), unit("Hz");
        /// The number of frames of the local normalization, odd; up to version 2 only.
        pub win_size: usize = 101, range(1, 9999);
        /// What is less loud becomes 0; from version 3 on.
        pub noise_floor_db: f64 = -52.0, range(-200.0, 0.0), unit("dB");
    }
}

impl ProcessingKind for Mfe {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_fft_length(key, self.fft_length, checker);
        if self.win_size.is_multiple_of(2) {
            checker.problem(&key.child("win_size"), format!("{} is even; it must be odd", self.win_size));
        }
    }

    fn build(&self, input: &BlockInput) -> Result<Box<dyn Extract>, String> {
        let energies = MelEnergies::new(&self.filterbank_keys(), self.frame_length, self.frame_stride, input)?;
        let norm = match self.version {
            ..=2 => Norm::Local(LocalNorm::new(self.win_size, energies.frames(), self.num_filters, false)),
            _ => Norm::NoiseFloor(self.noise_floor_db),
        };
        let features = energies.frames() * self.num_filters;
        Ok(Box::new(Energies { energies, signal: vec![0.0; input.samples], values: vec![0.0; features], norm }))
    }
}

impl Mfe {
    fn filterbank_keys(&self) -> FilterbankKeys {
        FilterbankKeys {
            version: self.version,
            num_filters: self.num_filters,
            fft_length: self.fft_length,
            low_frequency: self.low_frequency,
            high_frequency: self.high_frequency,
        }
    }
}

/// The energies of the mel filters, frame by frame: what MFE and MFCC share.
pub(super) struct MelEnergies {
    spectra: PowerSpectra,
    filters: Filterbank,
}

impl MelEnergies {
    /// # Errors
    /// The keys do not fit the input.
    pub(super) fn new(keys: &FilterbankKeys, length_s: f64, stride_s: f64, input: &BlockInput) -> Result<Self, String> {
        if input.axes != 1 {
            return Err(format!("it takes one axis and gets {}; name the channel in axes", input.axes));
        }
        let framing = Framing::new(keys.version, input.samples, input.rate_hz, length_s, stride_s)?;
        let filters = Filterbank::new(keys, input.rate_hz)?;
        Ok(Self { spectra: PowerSpectra::new(framing, keys.fft_length), filters })
    }

    pub(super) fn frames(&self) -> usize {
        self.spectra.frames()
    }

    /// Returns the power of a frame of `signal`, and the energies of the filters.
    pub(super) fn frame(&mut self, signal: &[f64], index: usize) -> (f64, impl Iterator<Item = f64>) {
        let power = self.spectra.frame(signal, index);
        (power.iter().sum(), self.filters.apply(power))
    }
}

enum Norm {
    Local(LocalNorm),
    /// In decibels.
    NoiseFloor(f64),
}

struct Energies {
    energies: MelEnergies,
    signal: Vec<f64>,
    /// `[frames, filters]`.
    values: Vec<f64>,
    norm: Norm,
}

impl Extract for Energies {
    fn features(&self) -> usize {
        self.values.len()
    }

    fn extract(&mut self, input: &[f32], out: &mut [f32]) {
        match self.norm {
            Norm::Local(_) => self.signal.iter_mut().zip(input).for_each(|(to, from)| *to = f64::from(*from)),
            Norm::NoiseFloor(_) => emphasize(input, &mut self.signal),
        }
        let filters = self.values.len() / self.energies.frames();
        for (index, row) in self.values.chunks_exact_mut(filters).enumerate() {
            let (_, energies) = self.energies.frame(&self.signal, index);
            row.iter_mut().zip(energies).for_each(|(to, energy)| *to = energy);
        }
        match &mut self.norm {
            Norm::Local(norm) => {
                norm.apply(&self.values, out);
                stretch(out);
            }
            Norm::NoiseFloor(floor) => {
                out.iter_mut().zip(&self.values).for_each(|(to, energy)| *to = in_256_steps(*energy, *floor));
            }
        }
    }
}

/// Subtracts 0.98 of the sample before from each sample of -32768 to 32767, scaled to 1, in f32 as in Python. The sample
/// before the first one is the last one.
fn emphasize(input: &[f32], out: &mut [f64]) {
    let mut before = input.last().copied().unwrap_or_default() / 32768.0;
    for (to, from) in out.iter_mut().zip(input) {
        let sample = from / 32768.0;
        *to = f64::from(sample - 0.98 * before);
        before = sample;
    }
}

/// Returns where an energy is between the noise floor and 12 dB, in steps of 1/256. The byte of the Python code has no 256:
/// what is louder than all steps becomes 0.
fn in_256_steps(energy: f64, noise_floor_db: f64) -> f32 {
    let step = (above_noise_floor(energy, noise_floor_db).clamp(0.0, 1.0) * 256.0).round_ties_even();
    if step > 255.0 { 0.0 } else { (step / 256.0) as f32 }
}
