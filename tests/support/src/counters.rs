//! A fake `/sys` whose energy counters move at a known power.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

// The unit tests beside the meters use it too, and they cannot see this crate.
#[path = "../../../src/meter/tree.rs"]
mod tree;
pub use tree::Tree;

/// A counter of microjoules in a file.
pub struct Counter {
    file: File,
    watts: f64,
    start_uj: u64,
    wrap_uj: Option<u64>,
}

impl Counter {
    /// Counts `watts` from `start_uj` on, and is at zero again instead of at `wrap_uj`.
    pub fn new(path: &Path, watts: f64, start_uj: u64, wrap_uj: Option<u64>) -> Self {
        let counter = Self { file: File::options().write(true).open(path).unwrap(), watts, start_uj, wrap_uj };
        counter.show(0.0);
        counter
    }

    /// Shows what it has counted after so long, and returns how often it has wrapped.
    fn show(&self, seconds: f64) -> u64 {
        let uj = self.start_uj + (self.watts * seconds * 1e6) as u64;
        let (wraps, shown) = self.wrap_uj.map_or((0, uj), |wrap_uj| (uj / wrap_uj, uj % wrap_uj));
        // Always as many digits, written over the old ones: a reader never finds half a number.
        self.file.write_all_at(format!("{shown:012}\n").as_bytes(), 0).unwrap();
        wraps
    }
}

/// A thread that moves counters every two milliseconds until it is dropped.
pub struct Mover {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    done: AtomicBool,
    halted: AtomicBool,
    wraps: AtomicU64,
    /// When the counters were last moved, and the longest time between two moves.
    moved: Mutex<(Instant, Duration)>,
}

impl Mover {
    pub fn start(counters: Vec<Counter>) -> Self {
        let shared = Arc::new(Shared {
            done: AtomicBool::new(false),
            halted: AtomicBool::new(false),
            wraps: AtomicU64::new(0),
            moved: Mutex::new((Instant::now(), Duration::ZERO)),
        });
        let ours = shared.clone();
        let thread = std::thread::spawn(move || {
            let mut counted = Duration::ZERO;
            while !ours.done.load(Ordering::Relaxed) {
                let (then, longest) = *ours.moved.lock().unwrap();
                let now = Instant::now();
                if !ours.halted.load(Ordering::Relaxed) {
                    counted += now - then;
                    let wraps = counters.iter().map(|counter| counter.show(counted.as_secs_f64())).sum();
                    ours.wraps.store(wraps, Ordering::Relaxed);
                }
                *ours.moved.lock().unwrap() = (now, longest.max(then.elapsed()));
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Lets all counters stand still, or go on from where they stand.
    pub fn halt(&self, halted: bool) {
        self.shared.halted.store(halted, Ordering::Relaxed);
    }

    pub fn wraps(&self) -> u64 {
        self.shared.wraps.load(Ordering::Relaxed)
    }

    /// How far behind their time the counters have been at most.
    pub fn lag(&self) -> Duration {
        let (moved, longest) = *self.shared.moved.lock().unwrap();
        longest.max(moved.elapsed())
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "the mover has failed");
    }
}
