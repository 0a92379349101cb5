//! Measures the throughput of an engine by batch size: features in, scores out, and nothing else.
//!
//! `cargo bench --bench batching [-- MODEL [DELEGATE]]`, where MODEL may also stand in EDGEWATT_BENCH_MODEL and DELEGATE
//! is xnnpack or cpu. The sizes take turns, so that a machine that is busy for a while is busy for all of them.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edgewatt::engine::delegate::DelegateKind;
use edgewatt::engine::delegate::cpu::Cpu;
use edgewatt::engine::delegate::xnnpack::Xnnpack;
use edgewatt::engine::{Engine, ModelPlan, Runtime, TfliteEngine};
use edgewatt_support::{root, runtime_library};

const SIZES: [usize; 3] = [1, 8, 64];
const ROUNDS: usize = 41;
/// Measures one size in one round.
const TURN: Duration = Duration::from_millis(20);

fn main() {
    // Cargo adds a flag of its own.
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let named = args.next().or_else(|| std::env::var("EDGEWATT_BENCH_MODEL").ok()).map(PathBuf::from);
    let model = named.unwrap_or_else(|| root().join("models/shoulder_int8.tflite"));
    let delegate = match args.next().as_deref() {
        None | Some("xnnpack") => DelegateKind::Xnnpack(Xnnpack { threads: 1, flags: Vec::new() }),
        Some("cpu") => DelegateKind::Cpu(Cpu { threads: 1 }),
        Some(other) => panic!("{other} is neither xnnpack nor cpu"),
    };
    let mut engines = SIZES.map(|size| build(&model, &delegate, size));
    let mut micros = SIZES.map(|_| Vec::new());
    for round in 0..=ROUNDS {
        for (engine, micros) in engines.iter_mut().zip(&mut micros) {
            let turn = micros_a_window(engine);
            // The first round warms up.
            if round > 0 {
                micros.push(turn);
            }
        }
    }
    println!("{}, median of {ROUNDS} rounds", model.display());
    for (size, ours) in SIZES.iter().zip(&micros) {
        let ratios: Vec<f64> = micros[0].iter().zip(ours).map(|(alone, ours)| alone / ours).collect();
        let (us, ratio) = (median(ours), median(&ratios));
        println!("  batch {size:>2}: {us:8.2} us a window, {:9.0} windows/s, {ratio:.2} times that of 1", 1e6 / us);
    }
}

fn build(model: &Path, delegate: &DelegateKind, batch: usize) -> TfliteEngine {
    let runtime = Runtime::load(Some(&runtime_library())).unwrap_or_else(|e| panic!("{e}"));
    let bytes = std::fs::read(model).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    TfliteEngine::new(&runtime, model, &bytes, delegate, &ModelPlan::of_batch(batch)).unwrap_or_else(|e| panic!("{e}"))
}

fn micros_a_window(engine: &mut TfliteEngine) -> f64 {
    let rows = engine.batch();
    let features: Vec<f32> = (0..engine.inputs()[0].len() / rows).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut scores = vec![0.0; engine.outputs()[0].len() / rows];
    let (begun, mut windows) = (Instant::now(), 0);
    while begun.elapsed() < TURN {
        for row in 0..rows {
            engine.set_input(row, black_box(&features)).unwrap();
        }
        engine.invoke().unwrap();
        for row in 0..rows {
            engine.output(0, row, black_box(&mut scores)).unwrap();
        }
        windows += rows;
    }
    begun.elapsed().as_secs_f64() * 1e6 / windows as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
