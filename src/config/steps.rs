//! What a pipeline and the models of its chain have in common: windows, the blame for a step, digests.

use crate::schema::{Checker, Key};
use crate::stream::{Mismatch, Shape, ShapePath, StreamSpec};

/// Most samples in a window and the like: far above any real use, and they still fit into memory.
pub(super) const MAX_SAMPLES: usize = 1 << 22;

/// Returns the key to blame for a step that does not take the shape before it, and why; `path` is the way up to there.
pub(super) fn blamed(step: Key, mismatch: &Mismatch, path: &ShapePath) -> (Key, String) {
    let key = mismatch.key.map_or_else(|| step.clone(), |below| step.child(below));
    (key, format!("{mismatch}; so far {path}"))
}

/// Returns the shape of a window of `samples` frames.
///
/// # Errors
/// It is too large.
pub(super) fn window_shape(stream: &StreamSpec, samples: usize) -> Result<Shape, String> {
    let window = stream.frame.repeated(samples);
    if window.values() > MAX_SAMPLES {
        return Err(format!("a window of {window} has {} values; the limit is {MAX_SAMPLES}", window.values()));
    }
    Ok(window)
}

pub(super) fn sha256(key: &Key, digest: &str, checker: &mut Checker) -> String {
    if digest.len() != 64 || !digest.chars().all(|c| c.is_ascii_hexdigit()) {
        checker.problem(key, "a SHA-256 is 64 hex digits, as printed by sha256sum");
    }
    digest.to_ascii_lowercase()
}
