//! Recursive filters as second-order sections: their design, and the filter at work.

use std::f64::consts::{FRAC_PI_2, PI};

use realfft::num_complex::Complex;
use realfft::num_traits::Float;

/// How far the gain in the pass band may be from that of the design.
const MOST_GAIN_ERROR: f64 = 1e-3;

/// `(b0 + b1/z + b2/z^2) / (1 + a1/z + a2/z^2)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Section {
    pub b: [f64; 3],
    pub a: [f64; 2],
}

/// Which frequencies pass: those below or above one frequency, and those between or outside two. A frequency is above 0 and
/// below 1, which is half the rate; the first of two is the lower one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Band {
    Below(f64),
    Above(f64),
    Between(f64, f64),
    Outside(f64, f64),
}

impl Band {
    /// Returns a frequency that passes a Butterworth filter with a gain of 1.
    pub fn passed(self) -> f64 {
        match self {
            Self::Below(_) | Self::Outside(..) => 0.0,
            Self::Above(_) => 1.0,
            Self::Between(low, high) => (warped(low) * warped(high)).sqrt().atan() / FRAC_PI_2,
        }
    }
}

/// Returns the analog frequency that the bilinear transform moves to `frequency`.
fn warped(frequency: f64) -> f64 {
    (FRAC_PI_2 * frequency).tan()
}

/// Returns the Butterworth filter of `order`, at least 1. It is `scipy.signal.butter(order, Wn, btype, output="sos")`; for two
/// frequencies it has twice as many poles.
pub fn butterworth(order: usize, band: Band) -> Vec<Section> {
    let pole = |angle: f64| Complex::new(-angle.sin(), angle.cos());
    sections(order, pole, 1.0, band)
}

/// Returns the Chebyshev low-pass of type I of `order`, at least 1, with `ripple_db`, above 0, in the pass band. It is
/// `scipy.signal.cheby1(order, ripple_db, cutoff, output="sos")`.
pub fn chebyshev1(order: usize, ripple_db: f64, cutoff: f64) -> Vec<Section> {
    let epsilon = (10f64.powf(ripple_db / 10.0) - 1.0).sqrt();
    let width = (1.0 / epsilon).asinh() / order as f64;
    let pole = |angle: f64| Complex::new(-width.sinh() * angle.sin(), width.cosh() * angle.cos());
    let gain = if order.is_multiple_of(2) { 10f64.powf(-ripple_db / 20.0) } else { 1.0 };
    sections(order, pole, gain, Band::Below(cutoff))
}

/// Returns the sections of a filter whose analog prototype, with its cutoff at 1, has the pole `pole(angle)` for the angles
/// that divide a half circle evenly, and its conjugate. `gain` is that of the middle of the pass band.
///
/// As in SciPy, the pole next to the unit circle is in the last section, and the first section has the gain. SciPy may put a
/// zero into another section, which changes rounding only.
fn sections(order: usize, pole: impl Fn(f64) -> Complex<f64>, gain: f64, band: Band) -> Vec<Section> {
    let mut gain = gain;
    let mut sections = Vec::with_capacity(order);
    for index in (0..order.div_ceil(2)).rev() {
        let prototype = pole(FRAC_PI_2 * (2 * index + 1) as f64 / order as f64);
        let is_real = 2 * index + 1 == order;
        match band {
            Band::Below(cutoff) => {
                let pole = prototype * warped(cutoff);
                let share = pole.norm() / (1.0 - pole).norm();
                gain *= if is_real { share } else { share * share };
                sections.push(of_one_frequency(pole, 1.0, is_real));
            }
            Band::Above(cutoff) => {
                let pole = prototype.inv() * warped(cutoff);
                let share = 1.0 / (1.0 - pole).norm();
                gain *= if is_real { share } else { share * share };
                sections.push(of_one_frequency(pole, -1.0, is_real));
            }
            Band::Between(low, high) | Band::Outside(low, high) => {
                let (low, high) = (warped(low), warped(high));
                let (width, square) = (high - low, low * high);
                let is_between = matches!(band, Band::Between(..));
                let pole = if is_between { prototype } else { prototype.inv() } * width;
                let (zeros, share) = if is_between {
                    ([1.0, 0.0, -1.0], width)
                } else {
                    ([1.0, -2.0 * (1.0 - square) / (1.0 + square), 1.0], 1.0 + square)
                };
                let (first, second) = roots(pole, square);
                let pairs = [(first, second), (first, first.conj()), (second, second.conj())];
                for (one, other) in if is_real { &pairs[..1] } else { &pairs[1..] } {
                    gain *= share / ((1.0 - one) * (1.0 - other)).norm();
                    let (one, other) = (digital(*one), digital(*other));
                    sections.push(Section { b: zeros, a: [-(one + other).re, (one * other).re] });
                }
            }
        }
    }
    if let Some(first) = sections.first_mut() {
        first.b = first.b.map(|b| b * gain);
    }
    sections
}

/// Returns the section of an analog pole and its conjugate, or of a real pole alone. Its zeros are at half the rate for
/// `sign` 1, and at 0 for -1.
fn of_one_frequency(pole: Complex<f64>, sign: f64, is_real: bool) -> Section {
    let pole = digital(pole);
    if is_real {
        Section { b: [1.0, sign, 0.0], a: [-pole.re, 0.0] }
    } else {
        Section { b: [1.0, 2.0 * sign, 1.0], a: [-2.0 * pole.re, pole.norm_sqr()] }
    }
}

/// Returns the bilinear transform of an analog pole.
fn digital(pole: Complex<f64>) -> Complex<f64> {
    (1.0 + pole) / (1.0 - pole)
}

/// Returns the roots of `s^2 - sum * s + product`. The smaller one is not a difference of two numbers that are nearly the same.
fn roots(sum: Complex<f64>, product: f64) -> (Complex<f64>, Complex<f64>) {
    let half = sum / 2.0;
    let root = (half * half - product).sqrt();
    let (one, other) = (half + root, half - root);
    let larger = if one.norm_sqr() >= other.norm_sqr() { one } else { other };
    (larger, Complex::from(product) / larger)
}

/// Returns the gain of `sections` at `frequency`; 1 is half the rate.
pub fn gain(sections: &[Section], frequency: f64) -> f64 {
    let back = Complex::from_polar(1.0, -PI * frequency);
    let response = sections
        .iter()
        .map(|Section { b, a }| (back * b[1] + back * back * b[2] + b[0]) / (back * a[0] + back * back * a[1] + 1.0));
    response.product::<Complex<f64>>().norm()
}

/// Returns whether a filter works as designed with coefficients of f64, where its gain at `frequency` is `designed`: near to
/// 0 or 1, rounding moves poles onto the unit circle, and before that it changes the gain.
pub fn is_usable(sections: &[Section], frequency: f64, designed: f64) -> bool {
    let error = (gain(sections, frequency) / designed - 1.0).abs();
    SosFilter::<f64>::new(sections).is_stable() && error < MOST_GAIN_ERROR
}

/// A filter of one channel, with its state: `scipy.signal.sosfilt`, with coefficients and sums of type `T`.
#[derive(Debug, Clone)]
pub struct SosFilter<T> {
    sections: Vec<([T; 3], [T; 2])>,
    state: Vec<[T; 2]>,
}

impl<T: Float> SosFilter<T> {
    /// Builds the filter, at rest.
    pub fn new(sections: &[Section]) -> Self {
        let rounded = |value: f64| T::from(value).unwrap_or_else(T::nan);
        Self {
            sections: sections.iter().map(|section| (section.b.map(rounded), section.a.map(rounded))).collect(),
            state: vec![[T::zero(); 2]; sections.len()],
        }
    }

    /// Returns whether what the filter gives stays finite: a coefficient that is rounded to `T` can move a pole onto the
    /// unit circle.
    pub fn is_stable(&self) -> bool {
        self.sections.iter().all(|(_, a)| a[1].abs() < T::one() && a[0].abs() < T::one() + a[1])
    }

    /// Forgets what came before: as after zeros without end.
    pub fn reset(&mut self) {
        self.state.fill([T::zero(); 2]);
    }

    /// Sets the state that follows `value` without end: what comes next makes no step.
    pub fn settle(&mut self, value: T) {
        let mut input = value;
        for ((b, a), state) in self.sections.iter().zip(&mut self.state) {
            let output = input * (b[0] + b[1] + b[2]) / (T::one() + a[0] + a[1]);
            state[1] = b[2] * input - a[1] * output;
            state[0] = b[1] * input - a[0] * output + state[1];
            input = output;
        }
    }

    /// Returns what comes out when `value` goes in. After what is not finite it is at rest again.
    pub fn step(&mut self, value: T) -> T {
        let mut input = value;
        for ((b, a), state) in self.sections.iter().zip(&mut self.state) {
            let output = b[0] * input + state[0];
            state[0] = b[1] * input - a[0] * output + state[1];
            state[1] = b[2] * input - a[1] * output;
            input = output;
        }
        // A value that is not finite would stay in the state.
        if !input.is_finite() {
            self.reset();
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn designs_are_those_of_scipy() {
        // scipy.signal.butter(4, 0.2, "low"), butter(2, 0.3, "high"), cheby1(4, 0.05, 0.08), each with output="sos".
        let cases = [
            (butterworth(4, Band::Below(0.2)), &SCIPY_BUTTER_4_LOW[..]),
            (butterworth(2, Band::Above(0.3)), &SCIPY_BUTTER_2_HIGH),
            (chebyshev1(4, 0.05, 0.08), &SCIPY_CHEBY_4),
        ];
        for (sections, wanted) in cases {
            assert_eq!(sections.len(), wanted.len());
            for (section, wanted) in sections.iter().zip(wanted) {
                for (value, wanted) in section.b.iter().chain(&section.a).zip(wanted) {
                    assert!((value - wanted).abs() < 1e-12, "{value} for {wanted} in {section:?}");
                }
            }
        }
    }

    #[test]
    fn gains_of_two_frequencies_are_those_of_the_textbook() {
        for order in 1..=9 {
            for (low, high) in [(0.01, 0.02), (0.1, 0.3), (0.001, 0.9), (0.7, 0.95)] {
                let (between, outside) = (Band::Between(low, high), Band::Outside(low, high));
                let (pass, stop) = (butterworth(order, between), butterworth(order, outside));
                assert_eq!((pass.len(), stop.len()), (order, order));
                let half = 0.5f64.sqrt();
                let wanted = [(0.0, 0.0), (low, half), (between.passed(), 1.0), (high, half), (1.0, 0.0)];
                for (frequency, wanted) in wanted {
                    let (passed, stopped) = (gain(&pass, frequency), gain(&stop, frequency));
                    let case = format!("order {order}, {low} to {high}, at {frequency}");
                    assert!((passed - wanted).abs() < 1e-6, "{case}: {passed}");
                    let rest = (1.0 - wanted * wanted).sqrt();
                    assert!((stopped - rest).abs() < 1e-3, "{case}: {stopped} for {rest}");
                }
            }
        }
    }

    #[test]
    fn gains_at_the_edges_of_the_bands_are_those_of_the_textbook() {
        for order in 1..=9 {
            let (low, high) = (butterworth(order, Band::Below(0.3)), butterworth(order, Band::Above(0.3)));
            for (value, wanted) in [(gain(&low, 0.0), 1.0), (gain(&high, 1.0), 1.0)] {
                assert!((value - wanted).abs() < 1e-9, "order {order}: {value}");
            }
            for value in [gain(&low, 0.3), gain(&high, 0.3)] {
                assert!((value - 0.5f64.sqrt()).abs() < 1e-9, "order {order}: {value}");
            }
            let at_the_edge = gain(&chebyshev1(order, 0.05, 0.08), 0.08);
            assert!((20.0 * at_the_edge.log10() + 0.05).abs() < 1e-6, "order {order}: {at_the_edge}");
        }
    }

    #[test]
    fn a_filter_that_has_settled_makes_no_step_and_one_at_rest_does() {
        let mut filter = SosFilter::<f64>::new(&chebyshev1(8, 0.05, 0.08));
        filter.settle(9.81);
        let wanted = 9.81 * 10f64.powf(-0.05 / 20.0);
        for _ in 0..100 {
            let value = filter.step(9.81);
            assert!((value - wanted).abs() < 1e-6, "{value} for {wanted}");
        }
        filter.reset();
        assert!(filter.step(9.81) < 1e-3);
    }

    #[test]
    fn a_filter_whose_poles_are_rounded_away_is_not_stable() {
        let usable = |cutoff| is_usable(&butterworth(8, Band::Below(cutoff)), 0.0, 1.0);
        let decimator = chebyshev1(8, 0.05, 0.8 / 65536.0);
        assert!(is_usable(&decimator, 0.0, 10f64.powf(-0.05 / 20.0)), "that of the largest factor works");
        assert!(usable(1e-4) && !usable(1e-8), "rounded coefficients give another gain before a pole moves");
        assert!(SosFilter::<f64>::new(&butterworth(8, Band::Below(1e-5))).is_stable());
        assert!(!SosFilter::<f32>::new(&butterworth(8, Band::Below(1e-5))).is_stable());
        assert!(SosFilter::<f32>::new(&butterworth(8, Band::Below(0.05))).is_stable());
    }

    const SCIPY_BUTTER_4_LOW: [[f64; 5]; 2] = [
        [
            0.004_824_343_357_716_228,
            0.009_648_686_715_432_456,
            0.004_824_343_357_716_228,
            -1.048_599_576_362_611_7,
            0.296_140_357_561_669_6,
        ],
        [1.0, 2.0, 1.0, -1.320_913_430_819_426_4, 0.632_738_792_885_276_6],
    ];
    const SCIPY_BUTTER_2_HIGH: [[f64; 5]; 1] = [[
        0.505_001_029_045_877_6,
        -1.010_002_058_091_755_3,
        0.505_001_029_045_877_6,
        -0.747_789_178_258_503_4,
        0.272_214_937_925_007_17,
    ]];
    const SCIPY_CHEBY_4: [[f64; 5]; 2] = [
        [
            0.000_224_151_761_886_927_04,
            0.000_448_303_523_773_854_1,
            0.000_224_151_761_886_927_04,
            -1.647_405_803_599_695_2,
            0.689_136_123_907_625,
        ],
        [1.0, 2.0, 1.0, -1.773_350_493_620_876_2, 0.859_789_630_427_563_3],
    ];
}
