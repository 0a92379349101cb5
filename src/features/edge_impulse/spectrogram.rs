//! Spectra of the frames of a window.

use super::framing::{Framing, PowerSpectra, above_noise_floor, stretch};
use super::{BlockInput, Extract, MAX_FFT_LENGTH, ProcessingKind, check_fft_length};
use crate::schema::{Checker, Key, table};

/// A frame, and the step to the next one, have at least so many samples, as in the studio.
const MIN_SAMPLES: f64 = 4.0;

table! {
    /// Spectrogram: the spectra of the frames of one axis.
    pub struct Spectrogram {
        /// The block's implementation version. Version 3 takes samples of -1 to 1, or of -32768 to 32767 if one of the window
        /// is beyond -1 to 1.
        pub version: u8, range(1, 4), example("4");
        /// The length of a frame.
        pub frame_length: f64 = 0.02, range(0.0, 100.0), unit("s");
        /// The time from one frame to the next.
        pub frame_stride: f64 = 0.01, range(0.0, 100.0), unit("s");
        /// The number of points of the Fourier transform, a power of 2.
        pub fft_length: usize = 128, range(2, MAX_FFT_LENGTH);
        /// What is less loud becomes 0; from version 3 on.
        pub noise_floor_db: f64 = -52.0, range(-200.0, 0.0), unit("dB");
    }
}

impl ProcessingKind for Spectrogram {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_fft_length(key, self.fft_length, checker);
    }

    fn build(&self, input: &BlockInput) -> Result<Box<dyn Extract>, String> {
        if input.axes != 1 {
            return Err(format!("it takes one axis and gets {}; name the channel in axes", input.axes));
        }
        for (key, seconds) in [("frame_length", self.frame_length), ("frame_stride", self.frame_stride)] {
            if seconds < MIN_SAMPLES / input.rate_hz {
                return Err(format!("{key} = {seconds} s is less than 4 samples at {} Hz", input.rate_hz));
            }
        }
        let framing = Framing::new(self.version, input.samples, input.rate_hz, self.frame_length, self.frame_stride)?;
        let spectra = PowerSpectra::new(framing, self.fft_length);
        let values = vec![0.0; spectra.frames() * spectra.bins()];
        let (version, noise_floor_db) = (self.version, self.noise_floor_db);
        Ok(Box::new(Spectra { version, noise_floor_db, spectra, signal: vec![0.0; input.samples], values }))
    }
}

struct Spectra {
    version: u8,
    noise_floor_db: f64,
    spectra: PowerSpectra,
    signal: Vec<f64>,
    /// `[frames, bins]`.
    values: Vec<f64>,
}

impl Extract for Spectra {
    fn features(&self) -> usize {
        self.values.len()
    }

    fn extract(&mut self, input: &[f32], out: &mut [f32]) {
        let is_audio = self.version == 3 && input.iter().any(|sample| sample.abs() > 1.0);
        let scale = if is_audio { 1.0 / 32768.0 } else { 1.0 };
        self.signal.iter_mut().zip(input).for_each(|(to, from)| *to = f64::from(*from) * scale);
        for (index, row) in self.values.chunks_exact_mut(self.spectra.bins()).enumerate() {
            row.copy_from_slice(self.spectra.frame(&self.signal, index));
        }
        if self.version < 3 {
            stretch(&mut self.values);
        } else {
            let most = if self.version == 3 { 1.0 } else { f64::INFINITY };
            let floor = self.noise_floor_db;
            self.values.iter_mut().for_each(|value| *value = above_noise_floor(*value, floor).clamp(0.0, most));
        }
        out.iter_mut().zip(&self.values).for_each(|(to, value)| *to = *value as f32);
    }
}
