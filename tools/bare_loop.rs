//! Only invokes a model, with XNNPACK on one thread: what `make bare-loop` compares the pipeline with.
//!
//! `cargo run --release --example bare_loop -- MODEL SECONDS`. Prints a line of JSON: invocations a second, the median
//! time of one, and the values of a window.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use edgewatt::engine::delegate::DelegateKind;
use edgewatt::engine::delegate::xnnpack::Xnnpack;
use edgewatt::engine::{Engine, ModelPlan, Runtime, TensorInfo, TfliteEngine};
use edgewatt_support::runtime_library;

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(seconds)) = (args.next().map(PathBuf::from), args.next()) else {
        panic!("give a model and the seconds")
    };
    let length = Duration::from_secs_f64(seconds.parse().unwrap());
    let runtime = Runtime::load(Some(&runtime_library())).unwrap_or_else(|e| panic!("{e}"));
    let bytes = std::fs::read(&model).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    let delegate = DelegateKind::Xnnpack(Xnnpack { threads: 1, flags: Vec::new() });
    let engine = TfliteEngine::new(&runtime, &model, &bytes, &delegate, &ModelPlan::of_batch(1));
    let mut engine = engine.unwrap_or_else(|e| panic!("{e}"));
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < length {
        for _ in 0..16 {
            engine.invoke().unwrap();
        }
        count += 16;
    }
    let per_s = f64::from(count) / begun.elapsed().as_secs_f64();
    // The clock takes time, too, so each is timed only now.
    let mut times = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < length {
        let start = Instant::now();
        engine.invoke().unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let p50_us = 1e6 * times[times.len() / 2].as_secs_f64();
    let values: usize = engine.inputs().iter().map(TensorInfo::len).sum();
    println!("{{\"per_s\": {per_s}, \"p50_us\": {p50_us}, \"values\": {values}}}");
}
