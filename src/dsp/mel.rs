//! Mel filters: triangles over the bins of a spectrum, evenly apart on a scale that is made after human hearing.

use crate::schema::choice;

choice! {
    /// From frequencies to mels.
    pub enum MelScale {
        /// Of Slaney's Auditory Toolbox: straight up to 1 kHz, logarithmic above.
        Slaney = "slaney",
        /// Of the HTK book: 2595 * log10(1 + f / 700). The factor, 1127 with the natural logarithm, changes no filter.
        Htk = "htk",
    }
}

choice! {
    /// How high the triangles are.
    pub enum MelNorm {
        /// The area of each is 1 if the frequency is in Hz.
        Slaney = "slaney",
        /// The peak of each is 1.
        Peak = "none",
    }
}

/// On which axis the sides of a triangle are straight lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Triangles {
    /// As librosa makes them.
    StraightInHertz,
    /// As `tf.signal.linear_to_mel_weight_matrix` makes them.
    StraightInMel,
}

/// Which filters there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MelShape {
    pub mels: usize,
    /// Where the first triangle begins, at least 0.
    pub low_hz: f64,
    /// Where the last triangle ends.
    pub high_hz: f64,
    pub scale: MelScale,
    pub norm: MelNorm,
    pub triangles: Triangles,
}

/// The weights of the filters.
#[derive(Debug, Clone, PartialEq)]
pub struct MelFilters {
    filters: Vec<Filter>,
    /// Those of all filters, one after the other.
    weights: Vec<f32>,
}

/// Where one filter stands.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Filter {
    first_bin: usize,
    bins: usize,
}

impl MelScale {
    /// Returns the mels of a frequency.
    pub fn mel(self, hz: f64) -> f64 {
        match self {
            Self::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
            Self::Slaney if hz < SLANEY_BREAK_HZ => hz / SLANEY_HZ_PER_MEL,
            Self::Slaney => SLANEY_BREAK_HZ / SLANEY_HZ_PER_MEL + (hz / SLANEY_BREAK_HZ).ln() / slaney_log_step(),
        }
    }

    /// Returns the frequency of so many mels.
    pub fn hz(self, mel: f64) -> f64 {
        let break_mel = SLANEY_BREAK_HZ / SLANEY_HZ_PER_MEL;
        match self {
            Self::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
            Self::Slaney if mel < break_mel => mel * SLANEY_HZ_PER_MEL,
            Self::Slaney => SLANEY_BREAK_HZ * ((mel - break_mel) * slaney_log_step()).exp(),
        }
    }
}

const SLANEY_BREAK_HZ: f64 = 1000.0;
const SLANEY_HZ_PER_MEL: f64 = 200.0 / 3.0;

/// Returns the logarithm of the ratio of two frequencies that are 1 mel apart, above the break.
fn slaney_log_step() -> f64 {
    6.4f64.ln() / 27.0
}

impl MelFilters {
    /// Builds the filters over `bins` bins, which are `bin_hz` apart from 0 Hz on.
    pub fn new(shape: &MelShape, bins: usize, bin_hz: f64) -> Self {
        let scale = shape.scale;
        let (low, high) = (scale.mel(shape.low_hz), scale.mel(shape.high_hz));
        let edge = |index: usize| low + (high - low) * index as f64 / (shape.mels + 1) as f64;
        let (mut filters, mut weights) = (Vec::with_capacity(shape.mels), Vec::new());
        for index in 0..shape.mels {
            let mel = [edge(index), edge(index + 1), edge(index + 2)];
            let hz = mel.map(|mel| scale.hz(mel));
            let height = match shape.norm {
                MelNorm::Slaney => 2.0 / (hz[2] - hz[0]),
                MelNorm::Peak => 1.0,
            };
            let weight = |bin: usize| {
                let at = bin as f64 * bin_hz;
                height
                    * match shape.triangles {
                        Triangles::StraightInHertz => triangle(hz, at),
                        Triangles::StraightInMel => triangle(mel, scale.mel(at)),
                    }
            };
            let first_bin = (0..bins).find(|bin| weight(*bin) > 0.0).unwrap_or(0);
            let before = weights.len();
            weights
                .extend((first_bin..bins).map(weight).take_while(|weight| *weight > 0.0).map(|weight| weight as f32));
            filters.push(Filter { first_bin, bins: weights.len() - before });
        }
        Self { filters, weights }
    }

    /// Returns the weighted sum of the bins of `spectrum` for each filter. A filter between two bins gives 0.
    pub fn apply(&self, spectrum: &[f32]) -> impl Iterator<Item = f32> {
        let mut weights = &self.weights[..];
        self.filters.iter().map(move |filter| {
            let (ours, others) = weights.split_at(filter.bins);
            weights = others;
            spectrum[filter.first_bin..].iter().zip(ours).map(|(value, weight)| value * weight).sum()
        })
    }
}

/// Returns the height at `at` of the triangle with its peak, of height 1, in the middle of `edges`.
fn triangle(edges: [f64; 3], at: f64) -> f64 {
    let rising = (at - edges[0]) / (edges[1] - edges[0]);
    let falling = (edges[2] - at) / (edges[2] - edges[1]);
    rising.min(falling).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: MelShape = MelShape {
        mels: 4,
        low_hz: 0.0,
        high_hz: 4000.0,
        scale: MelScale::Slaney,
        norm: MelNorm::Slaney,
        triangles: Triangles::StraightInHertz,
    };

    /// Returns the filters as a matrix, `[mels][bins]`.
    fn matrix(shape: &MelShape, bins: usize, bin_hz: f64) -> Vec<Vec<f32>> {
        let filters = MelFilters::new(shape, bins, bin_hz);
        let mut columns = Vec::new();
        for bin in 0..bins {
            let mut spectrum = vec![0.0; bins];
            spectrum[bin] = 1.0;
            columns.push(filters.apply(&spectrum).collect::<Vec<f32>>());
        }
        (0..shape.mels).map(|mel| columns.iter().map(|column| column[mel]).collect()).collect()
    }

    #[test]
    fn scales_are_their_own_inverse() {
        for scale in [MelScale::Slaney, MelScale::Htk] {
            for hz in [0.0, 20.0, 999.0, 1000.0, 1001.0, 22050.0] {
                assert!((scale.hz(scale.mel(hz)) - hz).abs() < 1e-8 * (1.0 + hz), "{} {hz}", scale.name());
            }
        }
        assert!((MelScale::Slaney.mel(1000.0) - 15.0).abs() < 1e-12);
        assert!((MelScale::Slaney.mel(6400.0) - 42.0).abs() < 1e-12);
        assert!((MelScale::Htk.mel(6300.0) - 2595.0).abs() < 1e-12);
    }

    #[test]
    fn filters_overlap_so_that_peaks_of_one_add_up_to_one() {
        for triangles in [Triangles::StraightInHertz, Triangles::StraightInMel] {
            let shape = MelShape { norm: MelNorm::Peak, scale: MelScale::Htk, triangles, ..SHAPE };
            let matrix = matrix(&shape, 129, 31.25);
            let centre = |mel: usize| (0..129).max_by(|a, b| matrix[mel][*a].total_cmp(&matrix[mel][*b])).unwrap();
            // The peaks are between two bins.
            for bin in centre(0) + 1..centre(3) {
                let sum: f32 = matrix.iter().map(|row| row[bin]).sum();
                assert!((sum - 1.0).abs() < 1e-6, "bin {bin} in all: {sum}");
            }
            assert!(matrix.iter().all(|row| row[0] == 0.0), "0 Hz has no weight");
        }
    }

    #[test]
    fn a_norm_makes_areas_of_one_and_narrow_filters_are_empty() {
        for row in matrix(&SHAPE, 4001, 1.0) {
            let area: f32 = row.iter().sum();
            assert!((area - 1.0).abs() < 1e-4, "{area}");
        }
        let narrow = MelShape { mels: 40, ..SHAPE };
        let empty = matrix(&narrow, 9, 500.0).iter().filter(|row| row.iter().all(|weight| *weight == 0.0)).count();
        assert!(empty > 20, "{empty}");
    }
}
