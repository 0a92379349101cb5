//! `(x - centre) * gain` for each channel: what `standardize` and `scale` both are.

/// An affine transform of a whole window, with an entry for each of its values: a flat loop is what vectorises.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    centre: Vec<f32>,
    gain: Vec<f32>,
}

impl Affine {
    /// `(x - mean) / std`, one mean and one std (not zero: the checked configuration sees to it) a channel.
    pub fn standardize(samples: usize, mean: &[f32], std: &[f32]) -> Self {
        Self { centre: mean.repeat(samples), gain: std.iter().map(|s| 1.0 / s).collect::<Vec<_>>().repeat(samples) }
    }

    /// `x * factor + offset`, one factor (not zero) and one offset a channel.
    pub fn scale(samples: usize, factor: &[f32], offset: &[f32]) -> Self {
        let centre: Vec<f32> = factor.iter().zip(offset).map(|(f, o)| -o / f).collect();
        Self { centre: centre.repeat(samples), gain: factor.repeat(samples) }
    }

    /// The one transform that does `self` and then `next`.
    pub fn then(&self, next: &Self) -> Self {
        let both = || self.centre.iter().zip(&self.gain).zip(next.centre.iter().zip(&next.gain));
        Self {
            centre: both().map(|((c, g), (next_c, _))| c + next_c / g).collect(),
            gain: both().map(|((_, g), (_, next_g))| g * next_g).collect(),
        }
    }

    /// Transforms a window in place.
    pub fn apply(&self, window: &mut [f32]) {
        for ((x, centre), gain) in window.iter_mut().zip(&self.centre).zip(&self.gain) {
            *x = (*x - centre) * gain;
        }
    }

    /// Transforms `window` into `out`.
    pub fn apply_to(&self, window: &[f32], out: &mut [f32]) {
        for (((x, y), centre), gain) in window.iter().zip(out).zip(&self.centre).zip(&self.gain) {
            *y = (x - centre) * gain;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_transform_for_two_gives_what_the_two_give(
            x in -1e3f32..1e3, mean in -10f32..10.0, std in 0.1f32..10.0, factor in 0.1f32..10.0, offset in -10f32..10.0,
        ) {
            let first = Affine::standardize(1, &[mean], &[std]);
            let second = Affine::scale(1, &[factor], &[offset]);
            let (mut two, mut one) = ([x], [0.0]);
            first.apply(&mut two);
            second.apply(&mut two);
            first.then(&second).apply_to(&[x], &mut one);
            let exact = (f64::from(x) - f64::from(mean)) / f64::from(std) * f64::from(factor) + f64::from(offset);
            let tolerance = 1e-5 * (1.0 + exact.abs() + f64::from((x.abs() + mean.abs()) / std * factor));
            prop_assert!((f64::from(two[0]) - exact).abs() < tolerance);
            prop_assert!((f64::from(one[0]) - exact).abs() < tolerance);
        }
    }
}
