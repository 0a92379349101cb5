//! The front ends filter, decimate and resample against SciPy.
//!
//! tests/golden/filters/make.py has made the values.

use edgewatt::frontend::{BLOCK_FRAMES, Chain, Frontend};
use edgewatt::stream::{SampleType, Shape, StreamSpec};
use edgewatt_support::root;
use serde::Deserialize;

/// Largest difference of a filter from SciPy's, as a part of the largest value: what is left when f64 becomes f32.
const SAME_FILTER: f32 = 2e-7;
/// Largest difference of a resampled signal, as a part of the largest value. Both filters are others, and neither changes
/// what the signal has below its cutoff by more than that.
const OTHER_FILTER: f32 = 1e-4;
/// The time at both ends of a resampled signal where it depends on what a filter takes to be beyond.
const END_S: f64 = 0.015;

#[derive(Deserialize)]
struct Case {
    name: String,
    rate: f64,
    /// The file with the samples.
    signal: String,
    /// The line that made the values.
    python: String,
    frontend: String,
}

fn floats(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(root().join("tests/golden/filters").join(name).with_extension("f32")).unwrap();
    bytes.chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect()
}

/// Runs `samples` through a front end in blocks of each of `sizes` in turn. A second channel has them turned round.
fn run(frontend: &str, rate: f64, samples: &[f32], sizes: &[usize]) -> Vec<f32> {
    let frontend: Frontend = toml::from_str(frontend).unwrap_or_else(|error| panic!("{frontend}: {error}"));
    let spec = StreamSpec::new(Shape::new([2]), SampleType::F32, Some(rate));
    let (mut chain, _) = Chain::new(&[frontend], &spec, |_, _| ()).unwrap_or_else(|(_, error)| panic!("{error}"));
    let mut out = Vec::new();
    let mut rest = samples;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*size).min(rest.len()));
        let wanted = chain.frames_wanted(1);
        let frames = chain.process(|block| block.extend(now.iter().flat_map(|value| [*value, -2.0 * value])));
        assert_eq!(!frames.is_empty(), wanted <= now.len(), "a frame comes when it was foretold");
        assert!(frames.chunks(2).all(|frame| (frame[1] + 2.0 * frame[0]).abs() <= 1e-5), "channels are apart");
        out.extend(frames.iter().step_by(2));
        rest = later;
    }
    out
}

#[test]
fn filters_and_rates_are_those_of_scipy_however_the_samples_come() {
    let cases = std::fs::read(root().join("tests/golden/filters/cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    assert!(cases.len() >= 20);
    for Case { name, rate, signal, python, frontend } in &cases {
        let (samples, golden) = (floats(signal), floats(name));
        let ours = run(frontend, *rate, &samples, &[BLOCK_FRAMES]);
        for sizes in [&[1][..], &[3, 200, 1, 17], &[255]] {
            assert!(run(frontend, *rate, &samples, sizes) == ours, "{name} in blocks of {sizes:?}");
        }
        let is_resampled = frontend.contains("resample");
        let rate_out = rate * golden.len() as f64 / samples.len() as f64;
        let (tolerance, ends) =
            if is_resampled { (OTHER_FILTER, (END_S * rate_out) as usize) } else { (SAME_FILTER, 0) };
        assert!(if is_resampled { golden.len() > ours.len() } else { golden.len() == ours.len() }, "{name}");
        assert!(ours.len() > 2 * ends, "{name}: {}", ours.len());
        let largest = golden.iter().chain(&samples).fold(0.0f32, |largest, value| largest.max(value.abs()));
        let compared = ends..ours.len() - ends;
        let pairs = ours[compared.clone()].iter().zip(&golden[compared]);
        let worst = pairs.map(|(ours, golden)| (ours - golden).abs()).fold(0.0, f32::max) / largest;
        assert!(worst <= tolerance, "{name}: {worst} of the largest value from {python}");
    }
}
