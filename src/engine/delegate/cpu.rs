//! The runtime's reference kernels: what other delegates are compared with.

use super::survey::{Finding, Host};
use super::{Delegate, DelegateBackend, DelegateKind, EngineError, Runtime};
use crate::schema::{Checker, Key, table};

table! {
    /// The runtime's reference kernels.
    pub struct Cpu {
        /// The number of threads that one inference may use.
        pub threads: u16 = 1, range(1, 256);
    }
}

impl DelegateBackend for Cpu {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn keys(&self) -> serde_json::Result<serde_json::Value> {
        Ok(serde_json::json!({ "threads": self.threads }))
    }

    fn is_built_in(&self) -> bool {
        true
    }

    fn threads(&self) -> u16 {
        self.threads
    }

    fn with_threads(&self, threads: u16) -> Option<DelegateKind> {
        Some(DelegateKind::Cpu(Self { threads }))
    }

    fn attach(&self, _: &Runtime) -> Result<Option<Delegate>, EngineError> {
        Ok(None)
    }

    #[cfg(feature = "tflitec")]
    fn linked_options(&self) -> Result<tflitec::interpreter::Options, EngineError> {
        Ok(tflitec::interpreter::Options { thread_count: self.threads.into(), is_xnnpack_enabled: false })
    }
}

/// Every runtime has it, so there is nothing to look for.
pub fn survey(_: &Host<'_>) -> Vec<Finding> {
    Vec::new()
}
