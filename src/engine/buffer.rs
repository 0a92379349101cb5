//! The bytes of a tensor where no runtime keeps them.

use super::{EngineError, TensorInfo};

/// The bytes of a tensor, zeros at first, aligned for any element.
pub(super) struct TensorBuffer {
    words: Vec<u64>,
    len: usize,
}

impl TensorBuffer {
    pub(super) fn new(info: &TensorInfo) -> Self {
        let len = info.stored_bytes();
        Self { words: vec![0; len.div_ceil(size_of::<u64>())], len }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

/// Returns buffer `index` of those for a `what`, such as an input.
///
/// # Errors
/// There are fewer.
pub(super) fn at<B>(buffers: impl ExactSizeIterator<Item = B>, index: usize, what: &str) -> Result<B, EngineError> {
    let (count, mut buffers) = (buffers.len(), buffers);
    buffers.nth(index).ok_or_else(|| EngineError::Mismatch(format!("{what} {index} of {count}")))
}
