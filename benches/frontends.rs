//! Measures what front ends cost a hop. `cargo bench --bench frontends`

#![allow(clippy::panic, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edgewatt::frontend::{Chain, Frontend};
use edgewatt::stream::{SampleType, Shape, StreamSpec};

const CASES: [(&str, usize, &[&str]); 9] = [
    (
        "stft 2048, 128 mels, 20 coefficients (librosa)",
        512,
        &["stft = { convention = \"librosa\", frame_length = 2048, hop_length = 512 }", "log_mel = {}", "mfcc = {}"],
    ),
    (
        "stft 512, 40 mels, 13 coefficients (librosa)",
        160,
        &[
            "stft = { convention = \"librosa\", frame_length = 400, hop_length = 160, fft_length = 512 }",
            "log_mel = { n_mels = 40 }",
            "mfcc = { n_mfcc = 13 }",
        ],
    ),
    (
        "stft 480, 40 mels, 10 coefficients (MLPerf Tiny)",
        320,
        &[
            "stft = { convention = \"tensorflow\", frame_length = 480, hop_length = 320 }",
            "log_mel = { n_mels = 40, fmin = 20.0, fmax = 4000.0 }",
            "mfcc = { n_mfcc = 10 }",
        ],
    ),
    ("stft 255 (TensorFlow)", 128, &["stft = { convention = \"tensorflow\", frame_length = 255, hop_length = 128 }"]),
    ("resample to 44100 Hz", 160, &["resample = { rate_hz = 44100.0 }"]),
    ("resample to 6400 Hz", 160, &["resample = { rate_hz = 6400.0 }"]),
    ("filter, band of order 4", 160, &["filter = { low_hz = 100.0, high_hz = 4000.0 }"]),
    ("decimate by 4, chebyshev", 160, &["decimate = { factor = 4, method = \"chebyshev\" }"]),
    ("dc_block and gain", 160, &["dc_block = {}", "gain = { db = 20.0 }"]),
];

fn hops(c: &mut Criterion) {
    let spec = StreamSpec::new(Shape::new([1]), SampleType::I16, Some(16000.0));
    let mut group = c.benchmark_group("a hop");
    for (name, hop, frontends) in CASES {
        let frontends: Vec<Frontend> = frontends.iter().map(|toml| toml::from_str(toml).unwrap()).collect();
        let (mut chain, _) = Chain::new(&frontends, &spec, |_, _| ()).unwrap();
        let samples: Vec<f32> = (0..hop).map(|i| ((i * i) % 1009) as f32 - 504.0).collect();
        group.throughput(Throughput::Elements(hop as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                for block in samples.chunks(edgewatt::frontend::BLOCK_FRAMES) {
                    black_box(chain.process(|buffer| buffer.extend_from_slice(block)));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, hops);
criterion_main!(benches);
