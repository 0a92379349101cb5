//! Build and run: the only module that knows every other.

mod meters;
mod prepare;
mod serve;
mod summary;
mod threads;

use std::fmt;

use crate::config::Key;

pub use prepare::{Prepared, PreparedPipeline, prepare};
pub use serve::{RunOptions, run};
pub use summary::{Outcome, PipelineSummary, Summary};

/// A value in the configuration that turned out not to work, found after the file itself was judged good.
#[derive(Debug)]
pub struct Problem {
    pub key: Key,
    pub message: String,
}

impl Problem {
    fn new(key: Key, message: impl fmt::Display) -> Self {
        Self { key, message: message.to_string() }
    }
}
