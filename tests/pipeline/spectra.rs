//! The front ends stft, log_mel and mfcc, and the features around them, against librosa and TensorFlow.
//!
//! tests/golden/spectra/make.py has made the values: on noise, a tone, silence, a clipped tone and speech.

use edgewatt::features::{self, Feature};
use edgewatt::frontend::{BLOCK_FRAMES, Chain, Frontend};
use edgewatt::stream::{SampleType, Shape, StreamSpec};
use edgewatt_support::root;
use serde::Deserialize;

/// Largest difference, as a part of the value; of coefficients, as a part of the largest one in the frame.
const RELATIVE: f32 = 1e-4;
/// Largest difference of a magnitude, as a part of the largest one in the frame. It is what the rounding of a transform in f32
/// leaves in bins where there is next to nothing: librosa and TensorFlow have it too, each another one.
const OF_FRAME: f32 = 3e-7;

/// Largest difference of a coefficient beside that: such bins make whole bands of a pure tone wrong by up to 0.3 dB.
const MFCC_DB_FLOOR: f32 = 0.05;

/// What the values of a case are.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Magnitude,
    Power,
    /// Of powers.
    Db,
    /// Logarithms of magnitudes.
    Ln,
    /// Of natural logarithms.
    Mfcc,
    /// Of decibels.
    MfccDb,
}

impl Kind {
    /// Returns how far we may be from the value `wanted` in `frame`.
    fn tolerance(self, wanted: f32, frame: &[f32]) -> f32 {
        let largest = frame.iter().copied().fold(f32::MIN, f32::max);
        let relative = RELATIVE * wanted.abs();
        match self {
            Self::Magnitude => relative + OF_FRAME * largest,
            Self::Power => relative + 2.0 * OF_FRAME * (largest * wanted).sqrt() + OF_FRAME * OF_FRAME * largest,
            Self::Db => relative + 20.0 * (1.0 + OF_FRAME * 10f32.powf((largest - wanted) / 20.0)).log10(),
            Self::Ln => relative + OF_FRAME * (largest - wanted).exp(),
            Self::Mfcc => RELATIVE * frame.iter().fold(0.0f32, |largest, value| largest.max(value.abs())),
            Self::MfccDb => Self::Mfcc.tolerance(wanted, frame) + MFCC_DB_FLOOR,
        }
    }
}

#[derive(Deserialize)]
struct Case {
    kind: Kind,
    name: String,
    rate: f64,
    /// The line that made the values.
    python: String,
    frontend: Vec<String>,
    features: Vec<String>,
    /// The first sample and the number of samples, for a case of one window.
    window: Option<(usize, usize)>,
    /// Frames in all, of which every so many are kept.
    frames: usize,
    every: usize,
}

fn golden(name: &str) -> std::path::PathBuf {
    root().join("tests/golden/spectra").join(name)
}

fn parsed<T: serde::de::DeserializeOwned>(steps: &[String]) -> Vec<T> {
    steps.iter().map(|toml| toml::from_str(toml).unwrap()).collect()
}

impl Case {
    fn samples(&self) -> Vec<f32> {
        let mut file = hound::WavReader::open(golden(&format!("sound_{}.wav", self.rate))).unwrap();
        let samples: Vec<f32> = file.samples::<i16>().map(|sample| f32::from(sample.unwrap())).collect();
        self.window.map_or(samples.clone(), |(first, count)| samples[first..first + count].to_vec())
    }

    fn golden(&self) -> Vec<f32> {
        let bytes = std::fs::read(golden(&format!("{}.f32", self.name))).unwrap();
        bytes.chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect()
    }

    /// Returns what we make of the recording, and the values in a frame.
    fn ours(&self) -> (Vec<f32>, usize) {
        let spec = StreamSpec::new(Shape::new([1]), SampleType::I16, Some(self.rate));
        let frontends: Vec<Frontend> = parsed(&self.frontend);
        let (mut chain, stream) = Chain::new(&frontends, &spec, |_, _| ()).unwrap();
        let mut values = Vec::new();
        for block in self.samples().chunks(BLOCK_FRAMES) {
            values.extend_from_slice(chain.process(|buffer| buffer.extend_from_slice(block)));
        }
        let features: Vec<Feature> = parsed(&self.features);
        let mut shape = stream.frame.repeated(values.len() / stream.frame.values());
        let input = shape.clone();
        let mut features =
            features::Chain::new(&features, &input, &stream, |_, output| shape = output.clone()).unwrap();
        (features.apply(&values).to_vec(), shape.channels())
    }
}

#[test]
fn spectra_are_those_of_librosa_and_tensorflow() {
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(golden("cases.json")).unwrap()).unwrap();
    assert!(cases.len() >= 15);
    for case in &cases {
        let (ours, values) = case.ours();
        let name = &case.name;
        assert_eq!(ours.len(), case.frames * values, "{name}: {}", case.python);
        let golden = case.golden();
        assert_eq!(golden.len(), case.frames.div_ceil(case.every) * values, "{name}");
        let mut worst = (0.0f32, 0, 0, 0.0, 0.0);
        for (index, wanted) in golden.chunks_exact(values).enumerate() {
            let frame = index * case.every;
            for (bin, (value, got)) in wanted.iter().zip(&ours[frame * values..]).enumerate() {
                let part = (value - got).abs() / case.kind.tolerance(*value, wanted).max(f32::MIN_POSITIVE);
                if part > worst.0 || part.is_nan() {
                    worst = (part, frame, bin, *value, *got);
                }
            }
        }
        let (part, frame, bin, wanted, got) = worst;
        assert!(part <= 1.0, "{name}: frame {frame}, value {bin}: {got}, not {wanted}, which is from {}", case.python);
    }
}
