//! Measures the effect of real-time priority on a busy machine: the demo at ten times its speed, with and without, in turn.
//!
//! `cargo bench --bench realtime -- [ROUNDS]` (default 3), where real-time priority is permitted. Two threads a processor
//! spin all the while. The figures are `latency_us` of the predictions: from the arrival of a window's last sample to
//! the end of the invoke.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{available_parallelism, spawn};

use edgewatt_support::daemon::Setup;

const WAYS: [(&str, &str); 3] =
    [("ordinary", ""), ("priority = 50", "priority = 50"), ("and cpus = [0]", "priority = 50\ncpus = [0]")];

fn main() {
    // `cargo test --all-targets` runs benches too; there is nothing to test here.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let rounds: usize = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(3);
    let done = Arc::<AtomicBool>::default();
    let load: Vec<_> = (0..2 * available_parallelism().unwrap().get())
        .map(|_| {
            let done = done.clone();
            spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let mut all = WAYS.map(|_| Vec::new());
    for round in 1..=rounds {
        for ((name, keys), all) in WAYS.iter().zip(&mut all) {
            let latencies = run(keys);
            println!("round {round}, {name:<14} {}", shown(latencies.clone()));
            all.extend(latencies);
        }
    }
    for ((name, _), all) in WAYS.iter().zip(all) {
        println!("all rounds, {name:<14} {}", shown(all));
    }
    done.store(true, Ordering::Relaxed);
    load.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Returns the microseconds of each prediction, as `run --watch` shows them.
fn run(keys: &str) -> Vec<f64> {
    let realtime = format!("[pipelines.shoulder.realtime]\n{keys}\n\n[pipelines.shoulder.model]");
    let setup = Setup::demo(1)
        .with("\"mqtt://127.0.0.1:1\"", "\"none\"")
        .at_speed("10.0")
        .with("[pipelines.shoulder.model]", &realtime);
    let ended = setup.start(&["--once", "--watch"]).wait().expect(0);
    let refused = ["no real-time priority", "not bound to"].iter().any(|word| ended.stderr.contains(word));
    assert!(!refused, "real-time priority is not permitted:\n{}", ended.stderr);
    let predictions = ended.stdout.lines().filter(|line| line.trim_start().starts_with('#'));
    let latencies: Vec<f64> =
        predictions.filter_map(|line| line.trim_end().strip_suffix(" us")?.rsplit(' ').next()?.parse().ok()).collect();
    assert!(latencies.len() > 100, "only {} predictions in:\n{}", latencies.len(), ended.stdout);
    latencies
}

fn shown(mut us: Vec<f64>) -> String {
    us.sort_by(f64::total_cmp);
    let at = |part: f64| us[((us.len() - 1) as f64 * part) as usize];
    format!("{:5} predictions: p50 {:8.0} us, p99 {:8.0} us, max {:8.0} us", us.len(), at(0.5), at(0.99), at(1.0))
}
