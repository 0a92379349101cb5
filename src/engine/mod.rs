//! Running a model: from a window of features to output tensors.

pub mod span;
