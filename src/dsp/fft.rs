//! The Fourier transform of real signals.

use std::fmt;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{FftNum, RealFftPlanner, RealToComplex};

/// The Fourier transform of a frame of fixed length, in f32 unless another type is given.
///
/// ```text
/// fft.input().copy_from_slice(frame);
/// for power in fft.powers() { ... }
/// ```
pub struct RealFft<T: FftNum = f32> {
    plan: Arc<dyn RealToComplex<T>>,
    input: Vec<T>,
    output: Vec<Complex<T>>,
    scratch: Vec<Complex<T>>,
}

impl RealFft {
    /// Returns the number of bins of a transform of `length` samples, from 0 Hz to half the rate.
    pub const fn bins(length: usize) -> usize {
        length / 2 + 1
    }
}

impl<T: FftNum> RealFft<T> {
    /// Plans the transform of `length` samples, at least 1.
    pub fn new(length: usize) -> Self {
        let plan = RealFftPlanner::new().plan_fft_forward(length);
        let (input, output, scratch) = (plan.make_input_vec(), plan.make_output_vec(), plan.make_scratch_vec());
        Self { plan, input, output, scratch }
    }

    /// Returns the frame to fill in, `[length]`: a transform leaves other values in it, so all must be written.
    pub fn input(&mut self) -> &mut [T] {
        &mut self.input
    }

    /// Transforms the frame that was filled in. Returns its bins, not scaled, as `numpy.fft.rfft` does.
    pub fn transform(&mut self) -> &[Complex<T>] {
        let done = self.plan.process_with_scratch(&mut self.input, &mut self.output, &mut self.scratch);
        // It fails for other lengths only, and these are the plan's own.
        debug_assert!(done.is_ok());
        &self.output
    }

    /// Transforms the frame that was filled in. Returns the squared magnitude of each bin.
    pub fn powers(&mut self) -> impl Iterator<Item = T> {
        self.transform().iter().map(Complex::norm_sqr)
    }
}

impl<T: FftNum> fmt::Debug for RealFft<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RealFft({})", self.input.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sum_that_defines_it() {
        for length in [1, 2, 7, 255, 256] {
            let frame: Vec<f32> = (0..length).map(|i| ((i * i + 3 * i) % 17) as f32 - 8.0).collect();
            let mut fft = RealFft::new(length);
            for _ in 0..2 {
                fft.input().copy_from_slice(&frame);
                let powers: Vec<f32> = fft.powers().collect();
                assert_eq!(powers.len(), RealFft::bins(length));
                for (bin, power) in powers.iter().enumerate() {
                    let angle = |i: usize| -2.0 * std::f64::consts::PI * ((bin * i) % length) as f64 / length as f64;
                    let sum = |part: fn(f64) -> f64| -> f64 {
                        frame.iter().enumerate().map(|(i, value)| f64::from(*value) * part(angle(i))).sum()
                    };
                    let wanted = sum(f64::cos).powi(2) + sum(f64::sin).powi(2);
                    let close = (f64::from(*power) - wanted).abs() <= 1e-5 * (wanted + length as f64);
                    assert!(close, "bin {bin} of {length}: {power} for {wanted}");
                }
            }
        }
    }
}
