//! XNNPACK: the runtime's optimised kernels for the CPU.

use super::survey::{Finding, Host};
use super::{Delegate, DelegateBackend, DelegateKind, EngineError, Proof, Runtime};
use crate::model::ModelSummary;
use crate::schema::{Checker, Key, choice, table};

table! {
    /// XNNPACK, the runtime's optimised kernels, with more threads or with flags.
    pub struct Xnnpack {
        /// The number of threads that one inference may use.
        pub threads: u16 = 1, range(1, 256);
        /// What XNNPACK may do in addition to its defaults, by the names in its header.
        pub flags: Vec<XnnpackFlag> = Vec::new();
    }
}

choice! {
    /// What XNNPACK may do in addition to its defaults, by the names in its header.
    pub enum XnnpackFlag {
        ForceFp16 = "force_fp16",
        DynamicFullyConnected = "dynamic_fully_connected",
        VariableOperators = "variable_operators",
        TransientIndirectionBuffer = "transient_indirection_buffer",
        EnableLatestOperators = "enable_latest_operators",
        EnableSubgraphReshaping = "enable_subgraph_reshaping",
    }
}

impl XnnpackFlag {
    /// Returns `TFLITE_XNNPACK_DELEGATE_FLAG_...` of TensorFlow Lite 2.17's `xnnpack_delegate.h`.
    pub fn bit(self) -> u32 {
        match self {
            Self::ForceFp16 => 0x04,
            Self::DynamicFullyConnected => 0x08,
            Self::VariableOperators => 0x10,
            Self::TransientIndirectionBuffer => 0x20,
            Self::EnableLatestOperators => 0x40,
            Self::EnableSubgraphReshaping => 0x80,
        }
    }
}

impl DelegateBackend for Xnnpack {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn keys(&self) -> serde_json::Result<serde_json::Value> {
        Ok(serde_json::json!({ "threads": self.threads, "flags": self.flags }))
    }

    fn is_built_in(&self) -> bool {
        true
    }

    fn threads(&self) -> u16 {
        self.threads
    }

    fn with_threads(&self, threads: u16) -> Option<DelegateKind> {
        Some(DelegateKind::Xnnpack(Self { threads, ..self.clone() }))
    }

    fn attach(&self, runtime: &Runtime) -> Result<Option<Delegate>, EngineError> {
        let flags = self.flags.iter().fold(0, |bits, flag| bits | flag.bit());
        let made = Delegate::xnnpack(runtime.library()?, self.threads, flags);
        made.map(Some).map_err(|reason| EngineError::Delegate { delegate: "xnnpack".into(), reason })
    }

    #[cfg(feature = "tflitec")]
    fn linked_options(&self) -> Result<tflitec::interpreter::Options, EngineError> {
        if !self.flags.is_empty() {
            let reason = "the linked runtime's XNNPACK takes no flags: leave them out, or name a library in \
                          runtime.library";
            return Err(EngineError::Delegate { delegate: "xnnpack".into(), reason: reason.into() });
        }
        Ok(tflitec::interpreter::Options { thread_count: self.threads.into(), is_xnnpack_enabled: true })
    }

    fn warning(&self, _: &ModelSummary, proof: &Proof) -> Option<&'static str> {
        proof.takes_no_node().then_some("XNNPACK runs no node of the model: all of it runs on the reference kernels")
    }
}

/// It comes with the runtime, so there is nothing to look for.
pub fn survey(_: &Host<'_>) -> Vec<Finding> {
    Vec::new()
}
