//! The discrete cosine transform of type 2.

use std::f64::consts::PI;

use realfft::num_traits::Float;

use crate::schema::choice;

choice! {
    /// What a cosine transform is scaled with.
    pub enum DctNorm {
        /// Rows of length 1: `scipy.fft.dct(x, norm="ortho")`.
        Ortho = "ortho",
        /// sqrt(2 / n) for all coefficients: the first one is sqrt(2) times the orthonormal one.
        TensorFlow = "tensorflow",
        /// 2 for all coefficients: `scipy.fft.dct(x)`.
        Unscaled = "none",
    }
}

impl DctNorm {
    /// Returns the factor of a coefficient of the transform of `inputs` values.
    pub fn gain(self, inputs: usize, coefficient: usize) -> f64 {
        match self {
            Self::Ortho if coefficient == 0 => (1.0 / inputs as f64).sqrt(),
            Self::Ortho | Self::TensorFlow => (2.0 / inputs as f64).sqrt(),
            Self::Unscaled => 2.0,
        }
    }
}

/// The first coefficients of the transform of a fixed number of values, in f32 unless another type is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Dct<T = f32> {
    inputs: usize,
    /// `[coefficients, inputs]`.
    matrix: Vec<T>,
}

impl<T: Float> Dct<T> {
    /// Builds the transform of `inputs` values, at least 1, to `coefficients` coefficients; `gain` is what each of them is
    /// multiplied with, such as [`DctNorm::gain`].
    pub fn new(inputs: usize, coefficients: usize, gain: impl Fn(usize) -> f64) -> Self {
        let row = |k: usize| {
            let gain = gain(k);
            let weight = move |n: usize| gain * (PI / inputs as f64 * (n as f64 + 0.5) * k as f64).cos();
            (0..inputs).map(move |n| T::from(weight(n)).unwrap_or_else(T::nan))
        };
        Self { inputs, matrix: (0..coefficients).flat_map(row).collect() }
    }

    /// Returns the coefficients of `values`, `[inputs]`.
    pub fn apply(&self, values: &[T]) -> impl Iterator<Item = T> {
        let product = move |row: &[T]| row.iter().zip(values).fold(T::zero(), |sum, (a, b)| sum + *a * *b);
        self.matrix.chunks_exact(self.inputs).map(product)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_scipy() {
        // scipy.fft.dct([1, 2, 4, 8], norm=...).
        let values = [1.0, 2.0, 4.0, 8.0];
        let cases = [
            (DctNorm::Ortho, [7.5, -5.114_166_5, 1.5, -0.587_623_4]),
            (DctNorm::Unscaled, [30.0, -14.465_047, 4.242_640_7, -1.662_05]),
        ];
        for (norm, wanted) in cases {
            let coefficients: Vec<f32> = Dct::new(4, 4, |k| norm.gain(4, k)).apply(&values).collect();
            for (value, wanted) in coefficients.iter().zip(wanted) {
                assert!((value - wanted).abs() < 1e-4, "{}: {coefficients:?}", norm.name());
            }
        }
        let ratio = DctNorm::TensorFlow.gain(40, 0) / DctNorm::Ortho.gain(40, 0);
        assert!((ratio - 2f64.sqrt()).abs() < 1e-12);
    }
}
