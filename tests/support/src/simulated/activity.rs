//! When inferences and other programs truly ran, in a file that several processes map.
//!
//! The delegate writes the inferences, the test writes the programs that work next to them, the simulated machine reads
//! both and writes when its meter was read. All times are CLOCK_MONOTONIC, in ns; 0 stands for "not yet".
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use edgewatt::units::MonoTime;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Most spans of each kind; later ones are not kept.
const SPANS_MAX: usize = 1 << 16;
/// Most readings; later ones are not kept.
const READS_MAX: usize = 1 << 18;

/// Places of the numbers at the start of the file; behind them are the spans of both kinds, and the readings.
const STARTED: usize = 0;
const LOADED: usize = 1;
const READ_COUNT: usize = 2;
const SPAN_COUNTS: usize = 3;
const SPANS: usize = 8;
const READS: usize = SPANS + 2 * 2 * SPANS_MAX;
const WORDS: usize = READS + READS_MAX;
const BYTES: NonZeroUsize = NonZeroUsize::new(WORDS * size_of::<u64>()).unwrap();

/// What ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Inference = 0,
    /// A program that works next to the inferences, such as the one that writes the samples.
    Program = 1,
}

/// The mapped file.
#[derive(Debug)]
pub struct Activity {
    words: NonNull<AtomicU64>,
}

// SAFETY: the mapping stays until the drop, and it is only used through atomics.
unsafe impl Send for Activity {}
// SAFETY: as above.
unsafe impl Sync for Activity {}

impl Activity {
    /// Makes the file, in which nothing has run yet; the machine starts now.
    pub fn create(path: &Path) -> io::Result<Self> {
        File::create_new(path)?.set_len(BYTES.get() as u64)?;
        let activity = Self::open(path)?;
        activity.word(STARTED).store(MonoTime::now().0, Ordering::Release);
        Ok(activity)
    }

    /// Maps a file that [`Activity::create`] has made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() != BYTES.get() as u64 {
            return Err(io::Error::other(format!("{} is not a file of activity", path.display())));
        }
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at a place that the kernel chooses; the file is as long as the mapping.
        let words = unsafe { mmap(None, BYTES, protection, MapFlags::MAP_SHARED, &file, 0)? };
        Ok(Self { words: words.cast() })
    }

    fn word(&self, place: usize) -> &AtomicU64 {
        assert!(place < WORDS);
        // SAFETY: the mapping has WORDS words, aligned to a page, for as long as `self` lives.
        unsafe { self.words.add(place).as_ref() }
    }

    /// When the machine started.
    pub fn started(&self) -> u64 {
        self.word(STARTED).load(Ordering::Acquire)
    }

    /// When the load began.
    pub fn loaded(&self) -> Option<u64> {
        Some(self.word(LOADED).load(Ordering::Acquire)).filter(|time| *time != 0)
    }

    pub fn begin_load(&self) {
        self.word(LOADED).store(MonoTime::now().0, Ordering::Release);
    }

    /// Runs `work` as a span. There is one writer of each kind at a time.
    pub fn during<T>(&self, kind: Kind, work: impl FnOnce() -> T) -> T {
        let count = self.word(SPAN_COUNTS + kind as usize);
        let index = count.load(Ordering::Acquire) as usize;
        let place = Self::place(kind, index);
        if index < SPANS_MAX {
            self.word(place).store(MonoTime::now().0, Ordering::Release);
            count.store(index as u64 + 1, Ordering::Release);
        }
        let result = work();
        if index < SPANS_MAX {
            self.word(place + 1).store(MonoTime::now().0, Ordering::Release);
        }
        result
    }

    /// Returns the start and the end of a span; the end is 0 while it runs.
    pub fn span(&self, kind: Kind, index: usize) -> Option<(u64, u64)> {
        if index as u64 >= self.word(SPAN_COUNTS + kind as usize).load(Ordering::Acquire) {
            return None;
        }
        let place = Self::place(kind, index);
        Some((self.word(place).load(Ordering::Acquire), self.word(place + 1).load(Ordering::Acquire)))
    }

    fn place(kind: Kind, index: usize) -> usize {
        SPANS + 2 * (kind as usize * SPANS_MAX + index)
    }

    /// Notes that the meter was read.
    pub fn note_read(&self, time: u64) {
        let index = self.word(READ_COUNT).fetch_add(1, Ordering::AcqRel) as usize;
        if index < READS_MAX {
            self.word(READS + index).store(time, Ordering::Release);
        }
    }

    /// Returns when the meter was read, in order.
    pub fn reads(&self) -> Vec<u64> {
        let count = (self.word(READ_COUNT).load(Ordering::Acquire) as usize).min(READS_MAX);
        let mut reads: Vec<u64> = (0..count).map(|index| self.word(READS + index).load(Ordering::Acquire)).collect();
        reads.sort_unstable();
        reads
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        // SAFETY: the mapping that `open` made, which nothing uses any more.
        let _ = unsafe { munmap(self.words.cast(), BYTES.get()) };
    }
}
