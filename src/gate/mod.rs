//! Whether windows go to the model, decided on the stream itself: inferences that are not needed are not made.
//!
//! Owns the family of gates. A gate gets every frame as the source gives it, before the front ends. Leaves to `infer` what
//! happens to the windows of a closed gate. Runs on the infer thread; all memory is taken when the gate is built.

mod latch;

use self::latch::Latch;
use crate::schema::{Checker, Key, family};
use crate::source::Pieces;
use crate::stream::{Mismatch, StreamSpec};

family! {
    /// A gate before the model: windows go to it only while the gate is open. Without a gate, all windows do.
    pub enum Gate: GateKind {
        mod level: Level;
    }
}

/// What each kind of gate is. It compares a *level*, one number for each block of the stream, with a threshold.
pub trait GateKind {
    /// Checks the keys of the kind, whose table is at `key`.
    fn check(&mut self, key: &Key, checker: &mut Checker);

    /// Builds the gate for the stream of a source.
    ///
    /// # Errors
    /// The gate does not take such a stream.
    fn build(&self, source: &StreamSpec) -> Result<Box<dyn Stage>, Mismatch>;

    /// Returns the level at which the gate opens.
    fn threshold(&self) -> f64;

    /// Returns the level below which it closes.
    fn release(&self) -> f64;

    /// Returns for how many seconds it stays open after the level was last high enough.
    fn hold_s(&self) -> f64;

    /// Returns for how many seconds skipped windows are kept. They go to the model first when the gate opens.
    fn preroll_s(&self) -> f64;

    /// Returns what it does with the stream, for `check` and the log.
    fn in_words(&self, source: &StreamSpec) -> String;
}

/// A gate at work. It is closed at first.
pub trait Stage: Send {
    /// Takes frames, whole ones or parts, and passes the level of each block that ends with them to `seen`.
    fn take(&mut self, values: Pieces<'_>, seen: &mut dyn FnMut(f64));

    fn is_open(&self) -> bool;

    /// Begins a new block: the stream had a gap. The gate stays as it is.
    fn reset(&mut self);

    /// Takes over whether another gate, whose place this one takes, is open.
    fn set_open(&mut self, open: bool);
}
