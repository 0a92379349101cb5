//! The blocks against vectors of the Python that Edge Impulse trains models with: tests/golden/edge_impulse/README.md.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::features::tests::stream;
use crate::features::{Chain, Feature};
use crate::schema::{Checker, Key};
use crate::stream::{Shape, StreamSpec};

/// How far a feature may be from Python's, in parts of what is larger: it, or 1.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Golden {
    signals: BTreeMap<String, Signal>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Signal {
    rate_hz: f64,
    channels: usize,
    /// `[samples, channels]`, to be multiplied with `scale`.
    values: Vec<i32>,
    scale: f32,
}

#[derive(Deserialize)]
struct Case {
    signal: String,
    /// The keys of the block, as TOML.
    block: String,
    features: Vec<f64>,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/edge_impulse/vectors.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn feature(blocks: &str) -> Feature {
    Feature::EdgeImpulse(toml::from_str(&format!("blocks = [{blocks}]")).unwrap())
}

#[test]
fn features_are_those_of_python() {
    let Golden { signals, cases } = golden();
    assert!(cases.len() > 50, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let found = case.run(&signals[&case.signal]);
        for (index, (value, wanted)) in found.iter().zip(&case.features).enumerate() {
            let limit = TOLERANCE * wanted.abs().max(1.0);
            let is_close = (f64::from(*value) - wanted).abs() <= limit;
            if !is_close {
                wrong
                    .push(format!("{} of {}: feature {index} is {value}, {wanted} in Python", case.block, case.signal));
            }
        }
    }
    assert!(wrong.is_empty(), "{} features, such as\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

impl Case {
    /// Returns the features of the signal.
    fn run(&self, signal: &Signal) -> Vec<f32> {
        let window: Vec<f32> = signal.values.iter().map(|value| *value as f32 * signal.scale).collect();
        let shape = Shape::new([window.len() / signal.channels, signal.channels]);
        let stream = StreamSpec { rate_hz: Some(signal.rate_hz), ..stream(signal.channels) };
        let mut shapes = Vec::new();
        let built = Chain::new(&[feature(&self.block)], &shape, &stream, |_, shape| shapes.push(shape.clone()));
        let mut chain = built.unwrap_or_else(|(_, mismatch)| panic!("{} of {}: {mismatch}", self.block, self.signal));
        assert_eq!(shapes, [Shape::new([self.features.len()])], "{} of {}", self.block, self.signal);
        // Nothing of the window before may be left.
        let noise: Vec<f32> = (0..window.len()).map(|index| (index * 7919 % 251) as f32).collect();
        chain.apply(&noise);
        chain.apply(&window).to_vec()
    }
}

#[test]
fn blocks_follow_each_other_and_take_their_own_axes() {
    let mut chain = Chain::new(
        &[feature("{ axes = [2, 0], raw = {} }, { axes = [1], flatten = { minimum = false, rms = false, stdev = false, skewness = false, kurtosis = false } }")],
        &Shape::new([2, 3]),
        &stream(3),
        |_, _| (),
    )
    .unwrap();
    assert_eq!(chain.apply(&[1.0, 2.0, 3.0, 4.0, 6.0, 8.0]), [3.0, 1.0, 8.0, 4.0, 4.0, 6.0]);
}

#[test]
fn what_does_not_fit_the_stream_is_named() {
    let refused = |features: &str, samples: usize, channels: usize, rate_hz: Option<f64>| {
        let feature = Feature::EdgeImpulse(toml::from_str(features).unwrap());
        let (window, stream) = (Shape::new([samples, channels]), StreamSpec { rate_hz, ..stream(channels) });
        let (_, mismatch) = Chain::new(&[feature], &window, &stream, |_, _| ()).err().unwrap();
        (mismatch.key.unwrap_or_default(), mismatch.message)
    };
    let spectral = |keys: &str| format!("blocks = [{{ spectral_analysis = {{ version = 4, {keys} }} }}]");
    let cases = [
        (refused("blocks = [{ raw = {} }]", 9, 3, None), "", "the stream's rate is not known; set rate_hz"),
        (
            refused("blocks = [{ raw = {} }]\nrate_hz = 62.5", 9, 3, Some(100.0)),
            "rate_hz",
            "has 100 Hz and the project's data 62.5 Hz",
        ),
        (
            refused("blocks = [{ axes = [3], raw = {} }]", 9, 3, Some(1.0)),
            "blocks",
            "block 0, raw: there is no channel 3",
        ),
        (
            refused("blocks = [{ mfe = { version = 4 } }]", 9, 3, Some(16e3)),
            "blocks",
            "block 0, mfe: it takes one axis and gets 3",
        ),
        (
            refused("blocks = [{ mfe = { version = 4 } }]", 300, 1, Some(16e3)),
            "blocks",
            "leaves no frame in a window of 300 samples",
        ),
        (
            refused(&spectral("filter_type = 'low'"), 90, 3, Some(5.0)),
            "blocks",
            "filter_cutoff = 3 Hz is not below half the rate, 2.5 Hz",
        ),
        (refused(&spectral("filter_type = 'low', filter_cutoff = 0.1"), 90, 3, Some(100.0)), "blocks", "leaves no bin"),
        (
            refused(&spectral("filter_type = 'low', filter_cutoff = 0.001"), 90, 3, Some(1000.0)),
            "blocks",
            "stable filter",
        ),
        (
            refused(&spectral("extra_low_freq = true"), 70, 3, Some(100.0)),
            "blocks",
            "needs 80 samples after decimation; there are 70",
        ),
    ];
    for ((key, message), wanted_key, wanted) in cases {
        assert!(key == wanted_key && message.contains(wanted), "{key}: {message}");
    }
    let near = toml::from_str("blocks = [{ raw = {} }]\nrate_hz = 62.5").unwrap();
    let stream = StreamSpec { rate_hz: Some(62.0), ..stream(3) };
    assert!(Chain::new(&[Feature::EdgeImpulse(near)], &Shape::new([9, 3]), &stream, |_, _| ()).is_ok());
}

#[test]
fn what_cannot_work_on_any_stream_is_found_by_the_check() {
    let cases = [
        ("", "blocks", "name at least one block"),
        ("{ axes = [], raw = {} }", "axes", "name at least one channel"),
        ("{ flatten = { version = 2 } }", "flatten.version", "2 is out of range"),
        ("{ spectral_analysis = { version = 1 } }", "spectral_analysis.version", "it must be from 2 to 4"),
        ("{ spectral_analysis = { version = 3, analysis_type = 'Wavelet' } }", "analysis_type", "not supported"),
        ("{ spectral_analysis = { version = 3, extra_low_freq = true } }", "extra_low_freq", "it begins with 4"),
        (
            "{ spectral_analysis = { version = 4, input_decimation_ratio = 5 } }",
            "input_decimation_ratio",
            "5 is not one of",
        ),
        ("{ spectral_analysis = { version = 4, filter_type = 'low', filter_order = 3 } }", "filter_order", "3 is odd"),
        ("{ mfe = { version = 4, fft_length = 100 } }", "mfe.fft_length", "100 is not a power of 2"),
        ("{ mfe = { version = 5 } }", "mfe.version", "5 is out of range"),
        ("{ mfcc = { version = 4, win_size = 100 } }", "mfcc.win_size", "100 is even"),
        ("{ mfcc = { version = 4, num_cepstral = 33 } }", "mfcc.num_cepstral", "33 is more than num_filters = 32"),
    ];
    for (blocks, key, wanted) in cases {
        let mut checker = Checker::new(std::path::Path::new(""));
        feature(blocks).check(&Key::new(&["features"]), &mut checker);
        let problems = checker.finish(Some(())).unwrap_err();
        let shown: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect();
        assert!(shown.len() == 1 && shown[0].contains(key) && shown[0].contains(wanted), "{blocks}: {shown:?}");
    }
}
