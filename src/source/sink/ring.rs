//! The ring between a source and its pipeline, for each type of sample, and how its two ends wake each other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use super::frames::FrameHeader;
use crate::ring::{BlockRx, BlockTx, block_ring};
use crate::stream::SampleType;

/// The type of a frame's values.
pub trait Sample: Copy + Default {
    /// Returns the ring if it holds values of this type.
    fn ring(ring: &mut RingTx) -> Option<&mut BlockTx<FrameHeader, Self>>;
}

/// The writing end of a ring of frames.
pub enum RingTx {
    F32(BlockTx<FrameHeader, f32>),
    I16(BlockTx<FrameHeader, i16>),
    U8(BlockTx<FrameHeader, u8>),
}

pub(super) enum RingRx {
    F32(BlockRx<FrameHeader, f32>),
    I16(BlockRx<FrameHeader, i16>),
    U8(BlockRx<FrameHeader, u8>),
}

macro_rules! samples {
    ($($type:ty => $variant:ident),+) => { $(
        impl Sample for $type {
            fn ring(ring: &mut RingTx) -> Option<&mut BlockTx<FrameHeader, Self>> {
                if let RingTx::$variant(ring) = ring { Some(ring) } else { None }
            }
        }
    )+ };
}

samples!(f32 => F32, i16 => I16, u8 => U8);

/// Runs the same expression with the ring of whichever type it is.
macro_rules! each {
    ($enum:ident, $ring:expr, $name:ident => $do:expr) => {
        match $ring {
            $enum::F32($name) => $do,
            $enum::I16($name) => $do,
            $enum::U8($name) => $do,
        }
    };
}
pub(super) use each;

/// Makes the two ends of a ring that holds so many blocks and values of this type.
pub(super) fn frame_rings(sample: SampleType, blocks: usize, values: usize) -> (RingTx, RingRx) {
    match sample {
        SampleType::F32 => both(block_ring(blocks, values), RingTx::F32, RingRx::F32),
        SampleType::I16 => both(block_ring(blocks, values), RingTx::I16, RingRx::I16),
        SampleType::U8 => both(block_ring(blocks, values), RingTx::U8, RingRx::U8),
    }
}

fn both<T, R, A, B>((tx, rx): (T, R), wrap_tx: impl Fn(T) -> A, wrap_rx: impl Fn(R) -> B) -> (A, B) {
    (wrap_tx(tx), wrap_rx(rx))
}

/// The state with which the two ends of a ring wake each other.
#[derive(Debug, Default)]
pub struct Wake {
    reader: OnceLock<Thread>,
    pub(super) writer: OnceLock<Thread>,
    pub(super) writer_waits: AtomicBool,
    /// The reader has nothing to do until so many frames wait for it.
    pub(super) wanted: AtomicUsize,
    /// How often the reader has said so.
    pub(super) asked: AtomicUsize,
}

impl Wake {
    /// Called once by the thread that reads.
    pub fn reader_is_this_thread(&self) {
        let _ = self.reader.set(std::thread::current());
    }

    /// Returns whether the source is waiting because the ring is full.
    pub fn writer_waits(&self) -> bool {
        self.writer_waits.load(Ordering::Relaxed)
    }

    /// Ends the reader's `park`.
    pub fn reader(&self) {
        if let Some(thread) = self.reader.get() {
            thread.unpark();
        }
    }
}

/// Wakes the reader when the writing end goes away.
pub(super) struct WakeAtEnd(pub(super) Arc<Wake>);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.reader();
    }
}
