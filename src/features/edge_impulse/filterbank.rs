//! The mel filters of the audio blocks: triangles whose corners are whole bins.

use crate::dsp::MelScale;

/// The filters over the bins of a power spectrum.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filterbank {
    /// The first bin of each filter, and its weights.
    filters: Vec<(usize, Vec<f64>)>,
}

/// Which filters there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FilterbankKeys {
    pub version: u8,
    pub num_filters: usize,
    pub fft_length: usize,
    pub low_frequency: f64,
    /// 0: half the rate.
    pub high_frequency: f64,
}

impl Filterbank {
    /// Builds the filters for a stream of `rate_hz`.
    ///
    /// # Errors
    /// The keys do not fit the rate, or leave a filter without a bin; the message names the key.
    pub(super) fn new(keys: &FilterbankKeys, rate_hz: f64) -> Result<Self, String> {
        let FilterbankKeys { version, num_filters, fft_length, low_frequency, high_frequency } = *keys;
        let half = rate_hz / 2.0;
        let high = if high_frequency == 0.0 { half } else { high_frequency };
        if high > half {
            return Err(format!("high_frequency = {high} is above half the stream's rate, {half} Hz"));
        }
        if low_frequency >= high {
            return Err(format!("low_frequency = {low_frequency} is not below high_frequency, {high} Hz"));
        }
        // Up to version 3, the number of bins stands where the length of the transform belongs.
        let points = if version <= 3 { fft_length / 2 + 1 } else { fft_length };
        let (low_mel, high_mel) = (MelScale::Htk.mel(low_frequency), MelScale::Htk.mel(high));
        let corner = |index: usize| {
            let mel = low_mel + (high_mel - low_mel) * index as f64 / (num_filters + 1) as f64;
            // Keeps the last corner from the next bin, whatever the rounding.
            let hz = MelScale::Htk.hz(mel) - if index == num_filters + 1 { 0.001 } else { 0.0 };
            ((points + 1) as f64 * hz / rate_hz).floor().max(0.0) as usize
        };
        let corners: Vec<usize> = (0..num_filters + 2).map(corner).collect();
        let filter = |corners: &[usize]| {
            let [left, middle, right] = [corners[0], corners[1], corners[2]];
            let weights: Vec<f64> = (left..=right).map(|bin| triangle(left, middle, right, bin)).collect();
            (left, weights)
        };
        let filters: Vec<_> = corners.windows(3).map(filter).collect();
        if filters.iter().any(|(_, weights)| weights.iter().all(|weight| *weight == 0.0)) {
            let message = format!("num_filters = {num_filters} leaves a filter without a bin of the spectrum");
            return Err(format!("{message}; lower it, or raise fft_length = {fft_length}"));
        }
        Ok(Self { filters })
    }

    /// Returns the energy that each filter passes; 1e-10 for none.
    pub(super) fn apply(&self, power: &[f64]) -> impl Iterator<Item = f64> {
        self.filters.iter().map(|(first, weights)| {
            let energy = weights.iter().zip(&power[*first..]).map(|(weight, power)| weight * power).sum();
            not_zero(energy)
        })
    }
}

/// Returns the height of a triangle at a bin. A corner that is the middle, too, is 1.
fn triangle(left: usize, middle: usize, right: usize, bin: usize) -> f64 {
    if middle <= bin && bin < right {
        (right - bin) as f64 / (right - middle) as f64
    } else if left < bin && bin <= middle {
        (bin - left) as f64 / (middle - left) as f64
    } else {
        0.0
    }
}

/// What has a logarithm.
pub(super) fn not_zero(value: f64) -> f64 {
    if value == 0.0 { 1e-10 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: FilterbankKeys =
        FilterbankKeys { version: 4, num_filters: 4, fft_length: 64, low_frequency: 0.0, high_frequency: 0.0 };

    #[test]
    fn older_versions_have_their_filters_at_half_the_frequency() {
        let last_bin = |version| {
            let filters = Filterbank::new(&FilterbankKeys { version, ..KEYS }, 8000.0).unwrap().filters;
            filters.last().map(|(first, weights)| first + weights.len() - 1)
        };
        assert_eq!((last_bin(4), last_bin(3)), (Some(32), Some(16)));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let refused = |keys: &FilterbankKeys| Filterbank::new(keys, 8000.0).unwrap_err();
        let high = refused(&FilterbankKeys { high_frequency: 5000.0, ..KEYS });
        assert!(high.contains("high_frequency = 5000 is above half the stream's rate, 4000 Hz"), "{high}");
        let low = refused(&FilterbankKeys { low_frequency: 4000.0, ..KEYS });
        assert!(low.contains("low_frequency = 4000 is not below"), "{low}");
        let many = refused(&FilterbankKeys { num_filters: 40, ..KEYS });
        assert!(many.contains("num_filters = 40") && many.contains("fft_length = 64"), "{many}");
    }
}
