//! STUB until the isolation helper's module lands.
use super::*;
use crate::config::{DelegateKind, Guard};
use std::path::Path;
#[derive(Debug, Clone, Default)]
pub struct Hello {
    pub runtime_version: String,
    pub delegate_library: Option<PathBuf>,
}
pub struct Launcher {
    pub program: PathBuf,
    pub runtime: PathBuf,
}
pub struct Ready {
    pub proof: Proof,
    pub hello: Hello,
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
}
impl Launcher {
    pub fn probe(
        &self,
        model: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        batch: usize,
    ) -> Result<Ready, EngineError> {
        probe::probe(
            &self.program,
            &probe::Task { library: self.runtime.clone(), model: model.to_owned(), delegate: delegate.clone(), batch },
            bytes,
        )?;
        let runtime = Runtime::load(Some(&self.runtime))?;
        let (e, proof) = build_proven(&runtime, model, bytes, delegate, batch)?;
        Ok(Ready { proof, hello: Hello::default(), inputs: e.inputs().to_vec(), outputs: e.outputs().to_vec() })
    }
    pub fn start(
        &self,
        model: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        _guard: &Guard,
        batch: usize,
    ) -> Result<(Box<dyn Engine>, Ready), EngineError> {
        let proof = self.probe(model, bytes, delegate, batch)?;
        let runtime = Runtime::load(Some(&self.runtime))?;
        Ok((build(&runtime, model, bytes, delegate, batch)?, proof))
    }
}
