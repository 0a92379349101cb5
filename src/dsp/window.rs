//! Window functions, which fade a frame in and out.

use std::f64::consts::PI;

use crate::schema::choice;

choice! {
    /// What a frame is multiplied with before its Fourier transform.
    pub enum WindowFunction { Hann = "hann", Hamming = "hamming", Blackman = "blackman", Rectangular = "rectangular" }
}

impl WindowFunction {
    /// Returns the function at `length` samples, one period of it in `period` samples: `length` for a periodic window, as
    /// spectra need it, `length - 1` for a symmetric one. A symmetric window of one sample is 1.
    pub fn values(self, length: usize, period: usize) -> Vec<f32> {
        let cosine = |harmonic: f64, index: usize| (2.0 * PI * harmonic * index as f64 / period as f64).cos();
        let value = |index: usize| match self {
            _ if period == 0 => 1.0,
            Self::Hann => 0.5 - 0.5 * cosine(1.0, index),
            Self::Hamming => 0.54 - 0.46 * cosine(1.0, index),
            Self::Blackman => 0.42 - 0.5 * cosine(1.0, index) + 0.08 * cosine(2.0, index),
            Self::Rectangular => 1.0,
        };
        (0..length).map(|index| value(index) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_scipy() {
        // scipy.signal.get_window(name, 6), and with fftbins=False.
        let periodic = [
            (WindowFunction::Hann, [0.0, 0.25, 0.75, 1.0, 0.75, 0.25]),
            (WindowFunction::Hamming, [0.08, 0.31, 0.77, 1.0, 0.77, 0.31]),
            (WindowFunction::Blackman, [0.0, 0.13, 0.63, 1.0, 0.63, 0.13]),
            (WindowFunction::Rectangular, [1.0; 6]),
        ];
        for (window, wanted) in periodic {
            for (value, wanted) in window.values(6, 6).iter().zip(wanted) {
                assert!((value - wanted).abs() < 1e-6, "{}: {value} for {wanted}", window.name());
            }
        }
        let symmetric = WindowFunction::Hann.values(5, 4);
        for (value, wanted) in symmetric.iter().zip([0.0, 0.5, 1.0, 0.5, 0.0]) {
            assert!((value - wanted).abs() < 1e-6, "{symmetric:?}");
        }
        assert_eq!(WindowFunction::Blackman.values(1, 0), [1.0]);
    }
}
