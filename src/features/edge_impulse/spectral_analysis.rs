//! Statistics and the spectrum of each axis, for vibration and movement.

use super::filterbank::not_zero;
use super::{BlockInput, Extract, MAX_FFT_LENGTH, ProcessingKind, check_fft_length};
use crate::dsp::sos::butterworth;
use crate::dsp::{Band, Decimator, Moments, RealFft, Section, SosFilter, at_least};
use crate::schema::{Checker, Key, choice, table};

/// The share of half the decimated rate up to which the filter's cutoff may be.
const USABLE_BAND: f64 = 0.9;

/// What the signal is decimated by for the low frequencies.
const LOW_FREQUENCY_RATIO: usize = 10;

choice! {
    /// Which frequencies the filter lets pass.
    pub enum FilterType { None = "none", Low = "low", High = "high" }
}

choice! {
    /// How the spectrum is computed.
    pub enum AnalysisType { Fft = "FFT", Wavelet = "Wavelet" }
}

table! {
    /// Spectral analysis: rms, skewness and kurtosis of each axis, and its spectrum.
    pub struct SpectralAnalysis {
        /// The block's implementation version. Version 1 is another algorithm, and is not supported.
        pub version: u8, range(2, 4), example("4");
        /// Multiplies the samples.
        pub scale_axes: f64 = 1.0, range(-1e9, 1e9);
        /// Keeps one sample of so many, after a low-pass filter: 1, 3, 10, 30, 100 or 1000; from version 4 on.
        pub input_decimation_ratio: usize = 1, range(1, 1000);
        /// The filter of the samples.
        pub filter_type: FilterType = FilterType::None;
        /// The filter's cutoff frequency.
        pub filter_cutoff: f64 = 3.0, range(0.0, 1e6), unit("Hz");
        /// The filter's order: 2, 4, 6 or 8; 0: the samples are not filtered, and only bins of the spectrum are left out.
        pub filter_order: usize = 6, range(0, 8);
        /// "Wavelet" is not supported.
        pub analysis_type: AnalysisType = AnalysisType::Fft;
        /// The number of points of the Fourier transform, a power of 2.
        pub fft_length: usize = 16, range(2, MAX_FFT_LENGTH);
        /// The features are the logarithms of the spectrum.
        pub do_log: bool = true;
        /// Each transform begins in the middle of the one before.
        pub do_fft_overlap: bool = true;
        /// Adds the features of the samples decimated by 10 ("improve low frequency resolution"); from version 4 on.
        pub extra_low_freq: bool = false;
    }
}

impl ProcessingKind for SpectralAnalysis {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        let at = |name: &str| key.child(name);
        check_fft_length(key, self.fft_length, checker);
        if self.analysis_type == AnalysisType::Wavelet {
            let message = "wavelets are not supported; train the project with the analysis type FFT";
            checker.problem(&at("analysis_type"), message);
        }
        if decimations(self.input_decimation_ratio).is_none() {
            let message = format!("{} is not one of 1, 3, 10, 30, 100 and 1000", self.input_decimation_ratio);
            checker.problem(&at("input_decimation_ratio"), message);
        }
        if self.version < 4 {
            let only = |is_used: bool, name: &str, checker: &mut Checker| {
                if is_used {
                    let message = format!("version {} of the block does not have it; it begins with 4", self.version);
                    checker.problem(&at(name), message);
                }
            };
            only(self.input_decimation_ratio > 1, "input_decimation_ratio", checker);
            only(self.extra_low_freq, "extra_low_freq", checker);
        }
        if self.is_filtered() {
            if !self.filter_order.is_multiple_of(2) {
                checker.problem(&at("filter_order"), format!("{} is odd; write 0, 2, 4, 6 or 8", self.filter_order));
            }
            if self.filter_cutoff <= 0.0 {
                checker.problem(&at("filter_cutoff"), "it must be above 0 for a filter");
            }
        }
    }

    fn build(&self, input: &BlockInput) -> Result<Box<dyn Extract>, String> {
        let ratios = decimations(self.input_decimation_ratio).unwrap_or_default();
        let rate_hz = input.rate_hz / self.input_decimation_ratio as f64;
        let filter = self.filter(rate_hz)?;
        let spectrum = Spectrum::new(self, rate_hz, self.version >= 4)?;
        let samples = ratios.iter().fold(input.samples, |samples, ratio| samples.div_ceil(*ratio));
        let low = if self.extra_low_freq {
            if samples.div_ceil(LOW_FREQUENCY_RATIO) < self.fft_length / 2 {
                let needed = self.fft_length / 2 * LOW_FREQUENCY_RATIO;
                return Err(format!("extra_low_freq needs {needed} samples after decimation; there are {samples}"));
            }
            let spectrum = Spectrum::new(self, rate_hz / LOW_FREQUENCY_RATIO as f64, true)?;
            Some((Decimator::new(LOW_FREQUENCY_RATIO), spectrum))
        } else {
            None
        };
        Ok(Box::new(Analysis {
            input: *input,
            scale: self.scale_axes as f32,
            decimators: ratios.iter().copied().map(Decimator::new).collect(),
            filter,
            spectrum,
            low,
            signal: Vec::with_capacity(input.samples),
        }))
    }
}

impl SpectralAnalysis {
    fn is_filtered(&self) -> bool {
        self.filter_type != FilterType::None && self.filter_order > 0
    }

    /// Returns the filter of samples of `rate_hz`, if there is one.
    fn filter(&self, rate_hz: f64) -> Result<Option<Filter>, String> {
        let (cutoff, half) = (self.filter_cutoff, rate_hz / 2.0);
        let is_decimated = self.input_decimation_ratio > 1;
        if is_decimated && self.filter_type != FilterType::None && cutoff > half * USABLE_BAND {
            let limit = half * USABLE_BAND;
            return Err(format!("filter_cutoff = {cutoff} Hz is above {limit} Hz; lower it or input_decimation_ratio"));
        }
        if !self.is_filtered() {
            return Ok(None);
        }
        if cutoff >= half {
            return Err(format!("filter_cutoff = {cutoff} Hz is not below half the rate, {half} Hz"));
        }
        let cutoff_share = cutoff / half;
        let is_high = self.filter_type == FilterType::High;
        let band = if is_high { Band::Above(cutoff_share) } else { Band::Below(cutoff_share) };
        let sections = butterworth(self.filter_order, band);
        let single = SosFilter::<f32>::new(&sections);
        if !single.is_stable() {
            return Err(format!("filter_cutoff = {cutoff} Hz is too near to 0 or to {half} Hz for a stable filter"));
        }
        // Python's coefficients are always f32, its sums are of the type of the samples.
        let rounded = |section: &Section| Section {
            b: section.b.map(|b| f64::from(b as f32)),
            a: section.a.map(|a| f64::from(a as f32)),
        };
        let double = || SosFilter::new(&sections.iter().map(rounded).collect::<Vec<_>>());
        Ok(Some(if is_decimated { Filter::Double(double()) } else { Filter::Single(single) }))
    }

    /// Returns the first bin of the spectrum that is a feature, and the one after the last.
    fn bins(&self, rate_hz: f64) -> (usize, usize) {
        let cutoff = self.filter_cutoff.min(rate_hz / 2.0) * self.fft_length as f64 / rate_hz;
        let all = self.fft_length / 2 + 1;
        // Casts cut towards 0, as Python's int().
        match self.filter_type {
            FilterType::None => (1, all),
            FilterType::Low => (1, (cutoff + 0.5) as usize + 1),
            FilterType::High => ((cutoff - 0.5) as usize + 1, all),
        }
    }
}

/// Returns the ratios that the decimation by `ratio` is made of; `None` for one that the studio does not have.
fn decimations(ratio: usize) -> Option<&'static [usize]> {
    Some(match ratio {
        1 => &[],
        3 => &[3],
        10 => &[10],
        30 => &[3, 10],
        100 => &[10, 10],
        1000 => &[10, 10, 10],
        _ => return None,
    })
}

/// Python filters samples that were not decimated in f32.
enum Filter {
    Single(SosFilter<f32>),
    Double(SosFilter<f64>),
}

/// Keeps what a decimator keeps of a whole signal.
fn decimate(decimator: &mut Decimator, signal: &mut Vec<f64>) {
    decimator.reset();
    signal.retain_mut(|value| match decimator.step(*value) {
        Some(kept) => {
            *value = kept;
            true
        }
        None => false,
    });
}

/// What is computed of a signal.
struct Spectrum {
    fft: RealFft<f64>,
    fft_length: usize,
    stride: usize,
    /// The highest power of each bin.
    highest: Vec<f64>,
    bins: std::ops::Range<usize>,
    /// Skewness and kurtosis of the spectrum are features.
    shape: bool,
    do_log: bool,
}

impl Spectrum {
    fn new(keys: &SpectralAnalysis, rate_hz: f64, shape: bool) -> Result<Self, String> {
        let (first, end) = keys.bins(rate_hz);
        if first >= end {
            let (cutoff, length) = (keys.filter_cutoff, keys.fft_length);
            let message = format!("filter_cutoff = {cutoff} Hz leaves no bin of a spectrum with fft_length = {length}");
            return Err(format!("{message} at {rate_hz} Hz"));
        }
        Ok(Self {
            fft: RealFft::new(keys.fft_length),
            fft_length: keys.fft_length,
            stride: if keys.do_fft_overlap { keys.fft_length / 2 } else { keys.fft_length },
            highest: vec![0.0; RealFft::bins(keys.fft_length)],
            bins: first..end,
            shape,
            do_log: keys.do_log,
        })
    }

    fn features(&self) -> usize {
        3 + if self.shape { 2 } else { 0 } + self.bins.len()
    }

    fn extract(&mut self, signal: &[f64], out: &mut [f32]) {
        let moments = Moments::of(signal.iter().copied());
        self.transform(signal);
        let spectrum = Moments::of(self.highest.iter().copied());
        let shape = [spectrum.skewness(), spectrum.kurtosis()];
        let shape = if self.shape { &shape[..] } else { &[] };
        let do_log = self.do_log;
        let bins = self.highest[self.bins.clone()].iter();
        let bins = bins.map(|power| if do_log { not_zero(*power).log10() } else { *power });
        let statistics = [moments.rms(), moments.skewness(), moments.kurtosis()];
        let features = statistics.into_iter().chain(shape.iter().copied()).chain(bins);
        out.iter_mut().zip(features).for_each(|(to, value)| *to = value as f32);
    }

    /// Finds the highest power of each bin over all frames. The last frames have zeros beyond the end of the signal.
    fn transform(&mut self, signal: &[f64]) {
        self.highest.fill(0.0);
        let share = self.fft_length as f64;
        for start in (0..signal.len()).step_by(self.stride) {
            let frame = &signal[start..signal.len().min(start + self.fft_length)];
            let (used, padding) = self.fft.input().split_at_mut(frame.len());
            used.copy_from_slice(frame);
            padding.fill(0.0);
            for (highest, power) in self.highest.iter_mut().zip(self.fft.powers()) {
                *highest = at_least(power / share, *highest);
            }
        }
    }
}

struct Analysis {
    input: BlockInput,
    scale: f32,
    decimators: Vec<Decimator>,
    filter: Option<Filter>,
    spectrum: Spectrum,
    /// For the low frequencies.
    low: Option<(Decimator, Spectrum)>,
    /// That of the axis at hand.
    signal: Vec<f64>,
}

impl Analysis {
    fn low_features(&self) -> usize {
        self.low.as_ref().map_or(0, |(_, spectrum)| spectrum.features())
    }

    /// Scales, decimates and filters an axis, and removes its mean.
    fn prepare(&mut self, axis: &[f32]) {
        self.signal.clear();
        self.signal.extend(axis.iter().map(|value| f64::from(value * self.scale)));
        self.decimators.iter_mut().for_each(|decimator| decimate(decimator, &mut self.signal));
        match &mut self.filter {
            Some(Filter::Single(filter)) => {
                filter.reset();
                self.signal.iter_mut().for_each(|value| *value = f64::from(filter.step(*value as f32)));
            }
            Some(Filter::Double(filter)) => {
                filter.reset();
                self.signal.iter_mut().for_each(|value| *value = filter.step(*value));
            }
            None => {}
        }
        if self.decimators.is_empty() {
            let mean = pairwise_sum(&self.signal) / self.signal.len() as f32;
            self.signal.iter_mut().for_each(|value| *value = f64::from(*value as f32 - mean));
        } else {
            remove_mean(&mut self.signal);
        }
    }
}

impl Extract for Analysis {
    fn features(&self) -> usize {
        self.input.axes * (self.spectrum.features() + self.low_features())
    }

    fn extract(&mut self, input: &[f32], out: &mut [f32]) {
        let (features, low_features) = (self.spectrum.features(), self.low_features());
        let (rows, low_rows) = out.split_at_mut(self.input.axes * features);
        let mut low_rows = low_rows.chunks_exact_mut(low_features.max(1));
        for (axis, row) in input.chunks_exact(self.input.samples).zip(rows.chunks_exact_mut(features)) {
            self.prepare(axis);
            self.spectrum.extract(&self.signal, row);
            if let (Some((decimator, spectrum)), Some(row)) = (&mut self.low, low_rows.next()) {
                decimate(decimator, &mut self.signal);
                remove_mean(&mut self.signal);
                spectrum.extract(&self.signal, row);
            }
        }
    }
}

fn remove_mean(signal: &mut [f64]) {
    let mean = signal.iter().sum::<f64>() / signal.len() as f64;
    signal.iter_mut().for_each(|value| *value -= mean);
}

/// Returns the sum of f32 values in the order in which NumPy adds them. What is left of an axis that does not change after
/// its mean is subtracted is rounding, and the logarithm of its spectrum shows it.
fn pairwise_sum(values: &[f64]) -> f32 {
    if values.len() > 128 {
        let half = values.len() / 2;
        let (first, second) = values.split_at(half - half % 8);
        return pairwise_sum(first) + pairwise_sum(second);
    }
    let eights = values.chunks_exact(8);
    let rest = eights.remainder();
    let mut sums = [0.0f32; 8];
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, value)| *sum += *value as f32);
    }
    let sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    rest.iter().fold(sum, |sum, value| sum + *value as f32)
}
