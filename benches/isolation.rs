//! Measures what isolation costs per inference: the same model with XNNPACK on this thread and in a child process, in turn.
//!
//! `cargo bench --bench isolation [-- MODEL]`; without a model, 640 floats that are negated. One inference is
//! set_input, invoke and output. Back to back: as fast as it goes. Paced: one every 5 ms, so that the child has gone to
//! sleep in between.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use edgewatt::engine::delegate::DelegateKind;
use edgewatt::engine::delegate::xnnpack::Xnnpack;
use edgewatt::engine::process::{Launcher, ProcessLimits};
use edgewatt::engine::{Engine, ModelPlan, Runtime, TfliteEngine};
use edgewatt::sys::cpu::Children;
use edgewatt_support::{program, root, runtime_library};

const XNNPACK: DelegateKind = DelegateKind::Xnnpack(Xnnpack { threads: 1, flags: Vec::new() });
const BLOCKS: usize = 40;

struct Bench {
    engine: Box<dyn Engine>,
    features: Vec<f32>,
    values: Vec<f32>,
}

impl Bench {
    fn new(engine: Box<dyn Engine>) -> Self {
        let features = (0..engine.inputs()[0].len()).map(|i| (i % 17) as f32 / 17.0).collect();
        let values = vec![0.0; engine.outputs()[0].len()];
        Self { engine, features, values }
    }

    /// Returns the microseconds of each of `count` inferences, one every `period`.
    fn run(&mut self, count: usize, period: Duration) -> Vec<f64> {
        let inference = |_| {
            let begun = Instant::now();
            self.engine.set_input(0, &self.features).unwrap();
            self.engine.invoke().unwrap();
            self.engine.output(0, 0, &mut self.values).unwrap();
            let took = begun.elapsed();
            if let Some(rest) = period.checked_sub(took) {
                std::thread::sleep(rest);
            }
            took.as_secs_f64() * 1e6
        };
        (0..count).map(inference).collect()
    }
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

fn main() {
    let model = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let model = model.unwrap_or_else(|| root().join("tests/models/wide.tflite"));
    let bytes = std::fs::read(&model).unwrap();
    let library = runtime_library();
    let thread =
        TfliteEngine::new(&Runtime::load(Some(&library)).unwrap(), &model, &bytes, &XNNPACK, &ModelPlan::of_batch(1))
            .unwrap();
    let launcher = Launcher { program: program(), runtime: library, children: Children::default() };
    let limit = Duration::from_secs(60);
    let limits = ProcessLimits { start: limit, deadline: limit, memory_bytes: 4 << 30, writable: Vec::new() };
    let (process, _) = launcher.start(&model, &bytes, &XNNPACK, &limits, &ModelPlan::of_batch(1)).unwrap();
    let mut benches = [Bench::new(Box::new(thread)), Bench::new(Box::new(process))];

    println!("{}\n              thread p50   process p50    added p50   process p99", model.display());
    for (name, count, period) in
        [("back to back", 2_000, Duration::ZERO), ("every 5 ms  ", 25, Duration::from_millis(5))]
    {
        benches.iter_mut().for_each(|bench| drop(bench.run(count, period)));
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..BLOCKS {
            for (bench, took) in benches.iter_mut().zip(&mut took) {
                took.extend(bench.run(count, period));
            }
        }
        let [thread, process] = took.each_mut().map(|took| percentile(took, 50));
        let p99 = percentile(&mut took[1], 99);
        println!("{name} {thread:8.1} us {process:10.1} us {:9.1} us {p99:10.1} us", process - thread);
    }
}
