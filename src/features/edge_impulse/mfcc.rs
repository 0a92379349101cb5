//! Cepstral coefficients, for voices.

use super::filterbank::{FilterbankKeys, not_zero};
use super::local_norm::LocalNorm;
use super::mfe::MelEnergies;
use super::{BlockInput, Extract, MAX_FFT_LENGTH, ProcessingKind, check_fft_length};
use crate::dsp::{Dct, DctNorm};
use crate::schema::{Checker, Key, table};

table! {
    /// Audio (MFCC): cepstral coefficients of mel filters. It takes one axis, of samples from -32768 to 32767.
    pub struct Mfcc {
        /// The block's implementation version.
        pub version: u8, range(1, 4), example("4");
        /// The number of coefficients, at most num_filters.
        pub num_cepstral: usize = 13, range(1, 1024);
        /// The length of a frame.
        pub frame_length: f64 = 0.02, range(0.0, 100.0), unit("s");
        /// The time from one frame to the next.
        pub frame_stride: f64 = 0.02, range(0.0, 100.0), unit("s");
        /// The number of filters.
        pub num_filters: usize = 32, range(2, 1024);
        /// The number of points of the Fourier transform, a power of 2.
        pub fft_length: usize = 256, range(2, MAX_FFT_LENGTH);
        /// The number of frames of the local normalization, odd; 0: none.
        pub win_size: usize = 101, range(0, 9999);
        /// Where the first filter begins.
        pub low_frequency: f64 = 0.0, range(0.0, 1e6), unit("Hz");
        /// Where the last filter ends; 0: at half the rate.
        pub high_frequency: f64 = 0.0, range(0.0, 1e6), unit("Hz");
        /// The share of the sample before that is subtracted from a sample.
        pub pre_cof: f64 = 0.98, range(-10.0, 10.0);
        /// How many samples before that one is.
        pub pre_shift: usize = 1, range(1, 100_000);
    }
}

impl ProcessingKind for Mfcc {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_fft_length(key, self.fft_length, checker);
        if self.win_size > 0 && self.win_size.is_multiple_of(2) {
            checker.problem(&key.child("win_size"), format!("{} is even; it must be odd, or 0", self.win_size));
        }
        if self.num_cepstral > self.num_filters {
            let message = format!("{} is more than num_filters = {}", self.num_cepstral, self.num_filters);
            checker.problem(&key.child("num_cepstral"), message);
        }
    }

    fn build(&self, input: &BlockInput) -> Result<Box<dyn Extract>, String> {
        let keys = FilterbankKeys {
            version: self.version,
            num_filters: self.num_filters,
            fft_length: self.fft_length,
            low_frequency: self.low_frequency,
            high_frequency: self.high_frequency,
        };
        let energies = MelEnergies::new(&keys, self.frame_length, self.frame_stride, input)?;
        let (frames, columns) = (energies.frames(), self.num_cepstral);
        Ok(Box::new(Coefficients {
            energies,
            emphasis: (self.pre_cof, self.pre_shift),
            signal: vec![0.0; input.samples],
            logarithms: vec![0.0; self.num_filters],
            dct: Dct::new(self.num_filters, columns, |k| DctNorm::Ortho.gain(self.num_filters, k)),
            values: vec![0.0; frames * columns],
            norm: (self.win_size > 0).then(|| LocalNorm::new(self.win_size, frames, columns, true)),
        }))
    }
}

struct Coefficients {
    energies: MelEnergies,
    /// The share that is subtracted, and of which sample before.
    emphasis: (f64, usize),
    signal: Vec<f64>,
    /// Those of the energies of a frame.
    logarithms: Vec<f64>,
    dct: Dct<f64>,
    /// `[frames, coefficients]`.
    values: Vec<f64>,
    norm: Option<LocalNorm>,
}

impl Extract for Coefficients {
    fn features(&self) -> usize {
        self.values.len()
    }

    fn extract(&mut self, input: &[f32], out: &mut [f32]) {
        let (share, shift) = self.emphasis;
        let first = input.len() - shift % input.len();
        // Before the first samples, there are the last ones.
        let before = input[first..].iter().chain(&input[..first]);
        for ((to, sample), before) in self.signal.iter_mut().zip(input).zip(before) {
            *to = f64::from(*sample) - share * f64::from(*before);
        }
        let columns = self.values.len() / self.energies.frames();
        for (index, row) in self.values.chunks_exact_mut(columns).enumerate() {
            let (power, energies) = self.energies.frame(&self.signal, index);
            self.logarithms.iter_mut().zip(energies).for_each(|(to, energy)| *to = energy.ln());
            row.iter_mut().zip(self.dct.apply(&self.logarithms)).for_each(|(to, value)| *to = value);
            row[0] = not_zero(power).ln();
        }
        match &mut self.norm {
            Some(norm) => norm.apply(&self.values, out),
            None => out.iter_mut().zip(&self.values).for_each(|(to, value)| *to = *value as f32),
        }
    }
}
