//! Counters and latency histograms of a pipeline, and their hand-over to another thread without slowing the infer thread.
//!
//! Counters are atomics with one writer. Histograms belong to the thread that records. The publishing thread requests them
//! and gets them in exchange for empty ones, between two windows. A histogram takes about 30 KiB.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::Notify;

use super::{GateStats, Saturation};
use crate::decision::Fault;
use crate::source::Gap;
use crate::units::{MonoTime, duration_ns};

/// Counts of one pipeline, since the start.
#[derive(Debug, Default)]
pub struct PipelineStats {
    /// Windows that were full.
    pub windows: AtomicU64,
    /// Windows of which the features were put into the engine's input.
    pub filled: AtomicU64,
    /// Decisions that were passed on for publishing, or need not be published.
    pub predictions: AtomicU64,
    /// Decisions that need not be published, because they tell of no event.
    unpublished: AtomicU64,
    /// When the last of them was made, in nanoseconds of the monotonic clock; 0: there is none.
    last_unpublished_ns: AtomicU64,
    /// Decisions that were dropped because the queue for publishing was full.
    pub dropped: AtomicU64,
    /// Windows whose inference failed.
    pub lost: AtomicU64,
    /// Samples that a stop left in the ring because its time was over.
    pub undecided: AtomicU64,
    gaps: [AtomicU64; Gap::ALL.len()],
    faults: [AtomicU64; Fault::ALL.len()],
    /// Values that did not fit into the model's input.
    pub saturation: Saturation,
    /// Values that did not fit into the inputs of the models before the last one.
    pub chain_saturated: AtomicU64,
    pub gate: GateStats,
}

impl PipelineStats {
    pub fn count_gap(&self, gap: Gap) {
        self.gaps[gap as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a decision that need not be published.
    pub fn count_unpublished(&self, made: MonoTime) {
        self.predictions.fetch_add(1, Ordering::Relaxed);
        self.unpublished.fetch_add(1, Ordering::Relaxed);
        self.last_unpublished_ns.store(made.0, Ordering::Relaxed);
    }

    /// Returns when the last decision was made that need not be published.
    pub fn last_unpublished(&self) -> Option<MonoTime> {
        Some(MonoTime(self.last_unpublished_ns.load(Ordering::Relaxed))).filter(|made| made.0 > 0)
    }

    /// Returns how many decisions were for publishing: each has a number.
    pub fn numbered(&self) -> u64 {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.predictions) + load(&self.dropped)).saturating_sub(load(&self.unpublished))
    }

    /// Counts a window whose outputs have a fault.
    pub fn count_fault(&self, fault: Fault) {
        self.faults[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize].load(Ordering::Relaxed)
    }

    pub fn gaps(&self, gap: Gap) -> u64 {
        self.gaps[gap as usize].load(Ordering::Relaxed)
    }
}

/// A histogram of durations from 1 ns to a day, to 1 %; longer ones count as a day.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u32>);

impl Latency {
    const HIGHEST_NS: u64 = 86_400_000_000_000;

    pub fn record(&mut self, duration: Duration) {
        self.0.saturating_record(duration_ns(duration).max(1));
    }

    /// Returns percentiles in microseconds; `None` if nothing was recorded.
    pub fn summary(&self) -> Option<LatencySummary> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        (!self.0.is_empty()).then(|| LatencySummary {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: self.0.max() as f64 / 1e3,
        })
    }

    pub fn add(&mut self, other: &Self) {
        // It can fail only for different bounds, and these are the same.
        let _ = self.0.add(&other.0);
    }

    pub fn clear(&mut self) {
        self.0.reset();
    }
}

impl Default for Latency {
    #[expect(clippy::expect_used, reason = "the bounds are constants; the tests make one")]
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, Self::HIGHEST_NS, 2).expect("1 <= 2 * 1 <= highest, and 2 <= 5 digits"))
    }
}

/// Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencySummary {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

/// The times that the infer thread measures for each window.
#[derive(Debug, Clone, Default)]
pub struct StageTimes {
    /// From the arrival of the last sample until the infer thread took it.
    pub source: Latency,
    /// The runs of the models before the last one, since the window before; nothing is recorded without such runs.
    pub models: Latency,
    /// Window, features and the filling of the input.
    pub features: Latency,
    /// The run of the model that decided the window: of its whole batch.
    pub invoke: Latency,
    /// That time, shared among the windows of the batch.
    pub invoke_per_window: Latency,
}

impl StageTimes {
    pub fn clear(&mut self) {
        self.source.clear();
        self.models.clear();
        self.features.clear();
        self.invoke.clear();
        self.invoke_per_window.clear();
    }

    pub fn add(&mut self, other: &Self) {
        self.source.add(&other.source);
        self.models.add(&other.models);
        self.features.add(&other.features);
        self.invoke.add(&other.invoke);
        self.invoke_per_window.add(&other.invoke_per_window);
    }
}

/// Hands a pipeline's stage times to the thread that publishes.
#[derive(Debug, Default)]
pub struct StageTimesMailbox {
    wanted: AtomicBool,
    slot: Mutex<StageTimes>,
    done: Notify,
}

impl StageTimesMailbox {
    /// Called on the infer thread between windows. Costs one load if nothing was requested.
    pub fn serve(&self, times: &mut StageTimes) {
        if self.wanted.load(Ordering::Acquire) {
            self.trade(times);
        }
    }

    fn trade(&self, times: &mut StageTimes) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.add(times);
        times.clear();
        self.wanted.store(false, Ordering::Release);
        self.done.notify_one();
    }

    /// Returns whether the infer thread has handed over since it was last asked.
    pub fn is_served(&self) -> bool {
        !self.wanted.load(Ordering::Acquire)
    }

    /// Asks the infer thread to hand its times over; the next [`StageTimesMailbox::take`] returns them.
    pub fn ask(&self, wake: impl FnOnce()) {
        self.wanted.store(true, Ordering::Release);
        wake();
    }

    /// Returns the times since the last call; `wake` must wake the infer thread. If it does not hand them over within
    /// `patience`, because an inference takes longer, the next call returns them.
    pub async fn take(&self, wake: impl FnOnce(), patience: Duration) -> StageTimes {
        self.ask(wake);
        let handed_over = async {
            // A notification may be left over from a hand-over for which an earlier call stopped waiting.
            while self.wanted.load(Ordering::Acquire) {
                self.done.notified().await;
            }
        };
        // A time-out is no error here.
        let _ = tokio::time::timeout(patience, handed_over).await;
        std::mem::take(&mut *self.slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds the last times of an infer thread that ends.
    pub fn finish(&self, times: &mut StageTimes) {
        self.trade(times);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn percentiles_are_within_one_percent() {
        let mut latency = Latency::default();
        assert_eq!(latency.summary(), None);
        for us in 1..=1000u64 {
            latency.record(Duration::from_micros(us));
        }
        latency.record(Duration::from_secs(1_000_000));
        let s = latency.summary().unwrap();
        for (found, expected) in [(s.p50, 501.0), (s.p90, 901.0), (s.p99, 991.0), (s.max, 86_400e6)] {
            assert!((found / expected - 1.0).abs() < 0.01, "{found} for {expected}");
        }
    }

    #[tokio::test]
    async fn times_are_handed_over_once() {
        let exchange = Arc::new(StageTimesMailbox::default());
        let (wake, woken) = std::sync::mpsc::channel();
        let infer = {
            let exchange = exchange.clone();
            std::thread::spawn(move || {
                let mut times = StageTimes::default();
                times.invoke.record(Duration::from_millis(3));
                while woken.recv().is_ok() {
                    exchange.serve(&mut times);
                }
            })
        };
        let patience = Duration::from_secs(20);
        let first = exchange.take(|| wake.send(()).unwrap(), patience).await;
        assert!(first.invoke.summary().is_some());
        let second = exchange.take(|| wake.send(()).unwrap(), patience).await;
        assert_eq!(second.invoke.summary(), None);
        drop(wake);
        infer.join().unwrap();
    }
}
