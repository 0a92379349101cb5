//! Trying one delegate on one model, for `edgewatt inspect`: no pipeline, no broker.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::config::{Delegate, Document};
use crate::model::{self, ModelSummary};
use crate::publish::payload::DelegateProof;

/// What a delegate makes of a model.
#[derive(Debug, Serialize)]
pub struct Tried {
    pub delegate: String,
    pub runtime: PathBuf,
    pub runtime_version: String,
    #[serde(flatten)]
    pub proof: DelegateProof,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What the runtime and the delegate have said.
    pub log: Vec<String>,
}

/// Runs the model once by the delegate that is called `name`, in a process of its own; `config` is the configuration
/// that may define it.
pub fn try_delegate(model: &Path, name: &str, config: Option<&Path>) -> anyhow::Result<Tried> {
    let (delegate, library) = match config {
        Some(path) => Document::read(path)?.delegate(name)?,
        None => (Delegate::built_in(name).context("name the configuration that has it: -c FILE")?, None),
    };
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let tools = super::tools(library.as_deref(), &program).map_err(|problem| anyhow::anyhow!(problem.message))?;
    let bytes = model::read_file(model).with_context(|| format!("cannot read {}", model.display()))?;
    let summary = ModelSummary::from_bytes(&bytes)?;
    let ready = tools.launcher.probe(model, &bytes, &delegate.kind, 1)?;
    Ok(Tried {
        delegate: delegate.name,
        runtime: tools.runtime.path,
        runtime_version: tools.runtime.version,
        warnings: delegate.kind.kind().warning(&summary, &ready.proof).into_iter().map(str::to_owned).collect(),
        log: ready.log,
        proof: DelegateProof {
            isolation: "process",
            library: ready.hello.delegate_library,
            library_version: ready.hello.delegate_version,
            engine: ready.proof,
            parity: None,
        },
    })
}
