//! Statistics of each axis.

use super::{BlockInput, Extract, ProcessingKind};
use crate::dsp::Moments;
use crate::features::stats::Statistic;
use crate::schema::{Checker, Key, table};

table! {
    /// Flatten: a few statistics of each axis.
    pub struct Flatten {
        /// The block's implementation version. Of a later one, whose moving average spans several windows, there is no
        /// reference.
        pub version: u8 = 1, range(1, 1);
        /// Multiplies the samples.
        pub scale_axes: f64 = 1.0, range(-1e9, 1e9);
        /// The mean is a feature.
        pub average: bool = true;
        /// The lowest value is a feature.
        pub minimum: bool = true;
        /// The highest value is a feature.
        pub maximum: bool = true;
        /// The root of the mean of the squares is a feature.
        pub rms: bool = true;
        /// The standard deviation is a feature.
        pub stdev: bool = true;
        /// The skewness is a feature.
        pub skewness: bool = true;
        /// The kurtosis is a feature.
        pub kurtosis: bool = true;
    }
}

impl Flatten {
    /// Returns the statistics that are switched on.
    fn statistics(&self) -> Vec<Statistic> {
        let all = [
            (self.average, Statistic::Mean),
            (self.minimum, Statistic::Min),
            (self.maximum, Statistic::Max),
            (self.rms, Statistic::Rms),
            (self.stdev, Statistic::Std),
            (self.skewness, Statistic::Skewness),
            (self.kurtosis, Statistic::Kurtosis),
        ];
        all.into_iter().filter(|(is_on, _)| *is_on).map(|(_, statistic)| statistic).collect()
    }
}

impl ProcessingKind for Flatten {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if self.statistics().is_empty() {
            checker.problem(key, "everything is switched off; leave at least one feature on".to_owned());
        }
    }

    fn build(&self, input: &BlockInput) -> Result<Box<dyn Extract>, String> {
        Ok(Box::new(PerAxis { input: *input, scale: self.scale_axes, statistics: self.statistics() }))
    }
}

struct PerAxis {
    input: BlockInput,
    scale: f64,
    statistics: Vec<Statistic>,
}

impl Extract for PerAxis {
    fn features(&self) -> usize {
        self.input.axes * self.statistics.len()
    }

    fn extract(&mut self, input: &[f32], out: &mut [f32]) {
        let rows = out.chunks_exact_mut(self.statistics.len().max(1));
        for (axis, row) in input.chunks_exact(self.input.samples).zip(rows) {
            let values = axis.iter().map(|value| f64::from(*value) * self.scale);
            let moments = Moments::of(values.clone());
            for (statistic, value) in self.statistics.iter().zip(row) {
                *value = statistic.of(values.clone(), &moments) as f32;
            }
        }
    }
}
