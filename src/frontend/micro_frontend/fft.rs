//! The spectrum of 512 samples in 16-bit numbers, with the rounding of KISS FFT in TensorFlow Lite Micro
//! (tensorflow/lite/experimental/microfrontend/lib, kissfft).
//!
//! The samples go in as 256 complex numbers, the even ones real and the odd ones imaginary; four steps of radix 4; then the
//! spectrum of the real samples is taken out of the complex one.

use std::f64::consts::PI;

/// Complex numbers in the transform.
const POINTS: usize = 256;
pub(super) const SAMPLES: usize = 2 * POINTS;
pub(super) const BINS: usize = POINTS + 1;

/// Complex numbers, real and imaginary parts apart so that loops over them become vector instructions.
struct Complex<const N: usize> {
    re: [i16; N],
    im: [i16; N],
}

impl<const N: usize> Complex<N> {
    const ZERO: Self = Self { re: [0; N], im: [0; N] };

    /// Returns `exp(i * phase)` of each index, times 32767.
    fn turns(phase: impl Fn(usize) -> f64) -> Self {
        let scaled = |part: f64| (32767.0 * part + 0.5).floor() as i16;
        let part = |f: fn(f64) -> f64| std::array::from_fn(|k| scaled(f(phase(k))));
        Self { re: part(f64::cos), im: part(f64::sin) }
    }
}

/// What the second, third and fourth of the parts that a step joins are turned by.
type Turns<const M: usize> = [Complex<M>; 3];

/// Returns the turns of the step that joins parts of `M` points.
fn turns<const M: usize>() -> Turns<M> {
    [1, 2, 3].map(|times| Complex::turns(|k| -2.0 * PI * (times * k) as f64 / (4 * M) as f64))
}

pub(super) struct Fft {
    turns: (Turns<1>, Turns<4>, Turns<16>, Turns<64>),
    /// The turns that take the real spectrum out of the complex one.
    split: Complex<{ POINTS / 2 }>,
    /// For each place of the first step, the sample that goes there.
    order: [u8; POINTS],
    data: Complex<POINTS>,
    bins: Complex<BINS>,
}

impl Fft {
    pub(super) fn new() -> Self {
        Self {
            turns: (turns(), turns(), turns(), turns()),
            split: Complex::turns(|k| -PI * ((k + 1) as f64 / POINTS as f64 + 0.5)),
            order: std::array::from_fn(|place| reversed(place as u8)),
            data: Complex::ZERO,
            bins: Complex::ZERO,
        }
    }

    /// Transforms the samples.
    pub(super) fn run(&mut self, samples: &[i16; SAMPLES]) {
        for (place, from) in self.order.iter().map(|from| usize::from(*from)).enumerate() {
            self.data.re[place] = samples[2 * from];
            self.data.im[place] = samples[2 * from + 1];
        }
        let (first, second, third, fourth) = &self.turns;
        step(&mut self.data, first);
        step(&mut self.data, second);
        step(&mut self.data, third);
        step(&mut self.data, fourth);
        self.split();
    }

    /// Returns the energy of a bin. The squares of 16-bit numbers fit.
    pub(super) fn energy(&self, bin: usize) -> u32 {
        let square = |part: i16| i32::from(part).pow(2) as u32;
        square(self.bins.re[bin]) + square(self.bins.im[bin])
    }

    fn split(&mut self) {
        let (data, bins) = (&self.data, &mut self.bins);
        let (re, im) = (half(data.re[0]), half(data.im[0]));
        (bins.re[0], bins.im[0]) = (re.wrapping_add(im), 0);
        (bins.re[POINTS], bins.im[POINTS]) = (re.wrapping_sub(im), 0);
        for k in 1..=POINTS / 2 {
            let mirrored = POINTS - k;
            let p = (half(data.re[k]), half(data.im[k]));
            let q = (half(data.re[mirrored]), half(data.im[mirrored].wrapping_neg()));
            let sum = plus(p, q);
            let turned = times(minus(p, q), (self.split.re[k - 1], self.split.im[k - 1]));
            let [sum_re, sum_im, turned_re, turned_im] = [sum.0, sum.1, turned.0, turned.1].map(i32::from);
            bins.re[k] = ((sum_re + turned_re) >> 1) as i16;
            bins.im[k] = ((sum_im + turned_im) >> 1) as i16;
            bins.re[mirrored] = ((sum_re - turned_re) >> 1) as i16;
            bins.im[mirrored] = ((turned_im - sum_im) >> 1) as i16;
        }
    }
}

/// Joins four transforms of `M` points each to one, all over the data.
fn step<const M: usize>(data: &mut Complex<POINTS>, turns: &Turns<M>) {
    for (re, im) in data.re.chunks_exact_mut(4 * M).zip(data.im.chunks_exact_mut(4 * M)) {
        // Always so: arrays of `M` need no check of bounds in the loop.
        let ([a_re, b_re, c_re, d_re], [a_im, b_im, c_im, d_im]) =
            (re.as_chunks_mut::<M>().0, im.as_chunks_mut::<M>().0)
        else {
            continue;
        };
        for k in 0..M {
            let turn = |of: usize| (turns[of].re[k], turns[of].im[k]);
            let a = (quarter(a_re[k]), quarter(a_im[k]));
            let b = times((quarter(b_re[k]), quarter(b_im[k])), turn(0));
            let c = times((quarter(c_re[k]), quarter(c_im[k])), turn(1));
            let d = times((quarter(d_re[k]), quarter(d_im[k])), turn(2));
            let (sum_ac, difference_ac) = (plus(a, c), minus(a, c));
            let (sum_bd, difference_bd) = (plus(b, d), minus(b, d));
            (a_re[k], a_im[k]) = plus(sum_ac, sum_bd);
            (c_re[k], c_im[k]) = minus(sum_ac, sum_bd);
            let turned = (difference_bd.1, difference_bd.0.wrapping_neg());
            (b_re[k], b_im[k]) = plus(difference_ac, turned);
            (d_re[k], d_im[k]) = minus(difference_ac, turned);
        }
    }
}

/// Returns the number with its four digits of base 4 in reverse.
fn reversed(place: u8) -> u8 {
    (0..4).fold(0, |all, digit| all << 2 | place >> (2 * digit) & 3)
}

fn rounded(x: i32) -> i16 {
    ((x + (1 << 14)) >> 15) as i16
}

fn quarter(x: i16) -> i16 {
    rounded(i32::from(x) * (32767 / 4))
}

fn half(x: i16) -> i16 {
    rounded(i32::from(x) * (32767 / 2))
}

fn times(a: (i16, i16), b: (i16, i16)) -> (i16, i16) {
    let product = |x: i16, y: i16| i32::from(x) * i32::from(y);
    (rounded(product(a.0, b.0) - product(a.1, b.1)), rounded(product(a.0, b.1) + product(a.1, b.0)))
}

fn plus(a: (i16, i16), b: (i16, i16)) -> (i16, i16) {
    (a.0.wrapping_add(b.0), a.1.wrapping_add(b.1))
}

fn minus(a: (i16, i16), b: (i16, i16)) -> (i16, i16) {
    (a.0.wrapping_sub(b.0), a.1.wrapping_sub(b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_in_its_bin() {
        let mut fft = Fft::new();
        let samples = std::array::from_fn(|i| (20_000.0 * (2.0 * PI * 37.0 * i as f64 / SAMPLES as f64).sin()) as i16);
        fft.run(&samples);
        // Half of the amplitude, over the steps' division by 256 complex points.
        let expected = 10_000_f64.powi(2);
        for bin in 0..BINS {
            let energy = f64::from(fft.energy(bin));
            let off = if bin == 37 { (energy / expected - 1.0).abs() } else { energy / expected };
            assert!(off < 0.01, "bin {bin}: {energy}");
        }
    }
}
