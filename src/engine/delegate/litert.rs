//! LiteRT's compiled models: a runtime of its own, which runs a model on the CPU, a GPU or an NPU.

use std::path::{Path, PathBuf};

use super::survey::{Finding, Host, device_files};
use super::{Delegate, DelegateBackend, EngineError, OwnEngine, Proof, Runtime, check_library};
use crate::engine::{LitertEngine, ModelPlan};
use crate::model::ModelSummary;
use crate::schema::{Checker, Key, choice, table};

/// The device file that LiteRT's GPU accelerators open.
const DEVICES: [(&str, &str); 1] = [("dri/renderD128", "GPU")];

table! {
    /// LiteRT's compiled models, through libLiteRt.so, which is a separate runtime. `make runtime` fetches one.
    pub struct Litert {
        /// The library: a path, or a name that ldconfig knows.
        pub library: PathBuf, example("\"libLiteRt.so\"");
        /// The hardware that the model may run on. With "cpu" among it, LiteRT runs on the CPU what nothing else takes.
        pub accelerators: Vec<Accelerator>, example("[\"npu\", \"cpu\"]");
    }
}

choice! {
    /// Hardware that LiteRT runs a model on.
    pub enum Accelerator { Cpu = "cpu", Gpu = "gpu", Npu = "npu" }
}

impl DelegateBackend for Litert {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_library(&mut self.library, key, checker);
        if self.accelerators.is_empty() {
            checker.problem(&key.child("accelerators"), "name one or more of \"cpu\", \"gpu\" and \"npu\"");
        }
    }

    fn keys(&self) -> serde_json::Result<serde_json::Value> {
        let library = serde_json::to_value(&self.library)?;
        Ok(serde_json::json!({ "library": library, "accelerators": self.accelerators }))
    }

    fn library(&self) -> Option<&Path> {
        Some(&self.library)
    }

    fn functions(&self) -> &'static [&'static str] {
        &["LiteRtCreateEnvironment"]
    }

    fn attach(&self, _: &Runtime) -> Result<Option<Delegate>, EngineError> {
        let reason = "LiteRT is a runtime of its own, not a delegate of this one".into();
        Err(EngineError::Delegate { delegate: self.library.display().to_string(), reason })
    }

    fn has_own_engine(&self) -> bool {
        true
    }

    fn build_own(&self, path: &Path, bytes: &[u8], plan: &ModelPlan) -> Option<Result<OwnEngine, EngineError>> {
        let built = LitertEngine::new(&self.library, path, bytes, &self.accelerators, plan);
        Some(built.map(|engine| {
            let litert = Some(engine.facts().clone());
            (Box::new(engine) as _, Proof { delegation: None, litert })
        }))
    }

    fn warning(&self, _: &ModelSummary, proof: &Proof) -> Option<&'static str> {
        let on_cpu = proof.litert.as_ref().is_some_and(|litert| litert.fully_off_cpu != Some(true));
        let wants_more = self.accelerators.iter().any(|accelerator| *accelerator != Accelerator::Cpu);
        if proof.litert.as_ref().is_some_and(|litert| litert.software_gpu.is_some()) {
            return Some(
                "the GPU is a program that computes on the CPU (llvmpipe, SwiftShader or the like), by LiteRT's own log",
            );
        }
        (on_cpu && wants_more)
            .then_some("an accelerator was requested, but LiteRT runs some or all of the model on the CPU")
    }
}

/// Looks for the GPU.
pub fn survey(host: &Host<'_>) -> Vec<Finding> {
    device_files(host, &DEVICES)
}
