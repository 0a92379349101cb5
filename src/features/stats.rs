//! Statistics of each channel of a window.

use super::{FeatureKind, Step, Transform};
use crate::dsp::Moments;
use crate::schema::{Checker, Key, choice, table};
use crate::stream::{Mismatch, Shape, StreamSpec};

choice! {
    /// One number about the values of a channel.
    pub enum Statistic {
        Mean = "mean",
        Std = "std",
        Min = "min",
        Max = "max",
        Rms = "rms",
        Skewness = "skewness",
        Kurtosis = "kurtosis",
        PeakToPeak = "peak_to_peak",
        CrestFactor = "crest_factor",
        ZeroCrossings = "zero_crossings",
    }
}

table! {
    /// Replaces the samples of each channel by statistics of them: `[samples, channels]` becomes `[channels, statistics]`.
    pub struct Stats {
        /// The statistics, in the order in which the model wants them. std, skewness and kurtosis are those of the
        /// population, the kurtosis of a normal distribution is 0. crest_factor is the largest magnitude over the rms, and 0
        /// for a channel of zeros. zero_crossings is the number of times that a value above 0 follows one that is not, or
        /// the other way round. A channel that does not change has a skewness of 0 and a kurtosis of -3.
        pub of: Vec<Statistic>, example("[\"mean\", \"std\", \"peak_to_peak\"]");
    }
}

impl Statistic {
    /// Returns the statistic of `values`, whose moments are `moments`.
    pub(super) fn of(self, values: impl Iterator<Item = f64> + Clone, moments: &Moments) -> f64 {
        let lowest = || values.clone().fold(f64::INFINITY, f64::min);
        let highest = || values.clone().fold(f64::NEG_INFINITY, f64::max);
        match self {
            // Comparing would hide it.
            _ if moments.mean.is_nan() => f64::NAN,
            Self::Mean => moments.mean,
            Self::Std => moments.std(),
            Self::Min => lowest(),
            Self::Max => highest(),
            Self::Rms => moments.rms(),
            Self::Skewness => moments.skewness(),
            Self::Kurtosis => moments.kurtosis(),
            Self::PeakToPeak => highest() - lowest(),
            Self::CrestFactor if moments.rms() == 0.0 => 0.0,
            Self::CrestFactor => values.clone().fold(0.0, |most, value: f64| value.abs().max(most)) / moments.rms(),
            Self::ZeroCrossings => {
                values.clone().zip(values.clone().skip(1)).filter(|(a, b)| (*a > 0.0) != (*b > 0.0)).count() as f64
            }
        }
    }
}

impl FeatureKind for Stats {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if self.of.is_empty() {
            checker.problem(&key.child("of"), "name at least one statistic".to_owned());
        }
    }

    fn output(&self, input: &Shape, _: &StreamSpec) -> Result<Shape, Mismatch> {
        match input.dims() {
            [samples, channels] if *samples > 0 => Ok(Shape::new([*channels, self.of.len()])),
            _ => Err(Mismatch::new(format!("a window of {input} is not samples of channels"))),
        }
    }

    fn build(&self, input: &Shape, _: &StreamSpec) -> Step {
        Step::Transform(Box::new(PerChannel { channels: input.channels().max(1), statistics: self.of.clone() }))
    }
}

struct PerChannel {
    channels: usize,
    statistics: Vec<Statistic>,
}

impl Transform for PerChannel {
    fn apply(&mut self, window: &[f32], out: &mut [f32]) {
        for (channel, row) in out.chunks_exact_mut(self.statistics.len().max(1)).enumerate() {
            let values = window[channel..].iter().step_by(self.channels).map(|value| f64::from(*value));
            let moments = Moments::of(values.clone());
            for (statistic, value) in self.statistics.iter().zip(row) {
                *value = statistic.of(values.clone(), &moments) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::stream;
    use super::super::{Chain, Feature};
    use super::*;

    #[test]
    fn each_channel_becomes_its_statistics_in_the_order_that_is_asked_for() {
        let stats: Stats = toml::from_str(
            "of = ['mean', 'std', 'min', 'max', 'rms', 'skewness', 'kurtosis', 'peak_to_peak', 'crest_factor', 'zero_crossings']",
        )
        .unwrap();
        let mut shapes = Vec::new();
        let features = [Feature::Stats(stats)];
        let mut chain =
            Chain::new(&features, &Shape::new([4, 2]), &stream(2), |_, shape| shapes.push(shape.clone())).unwrap();
        assert_eq!(shapes, [Shape::new([2, 10])]);
        let window = [1.0, 0.0, -2.0, 0.0, 4.0, 0.0, 9.0, 0.0];
        // By numpy and scipy.stats of [1, -2, 4, 9] and [0, 0, 0, 0].
        let wanted = [
            [3.0, 4.062_019, -2.0, 9.0, 5.049_752, 0.313_323_8, -1.220_385_7, 11.0, 1.782_265_6, 2.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -3.0, 0.0, 0.0, 0.0],
        ];
        for (value, wanted) in chain.apply(&window).iter().zip(wanted.as_flattened()) {
            assert!((value - wanted).abs() < 1e-5, "{value} for {wanted}");
        }
    }
}
