//! Tries one delegate on one model, for `edgewatt inspect`. It needs no pipeline and no broker.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::config::{Delegate, Document};
use crate::engine::ModelPlan;
use crate::engine::delegate::check_loadable;
use crate::model::{self, ModelSummary};
use crate::publish::payload::DelegateProof;

/// The result of trying a delegate on a model.
#[derive(Debug, Serialize)]
pub struct Tried {
    pub delegate: String,
    pub runtime: PathBuf,
    pub runtime_version: String,
    #[serde(flatten)]
    pub proof: DelegateProof,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The output of the runtime and of the delegate.
    pub log: Vec<String>,
}

/// Runs the model once with the delegate `name` in a separate process, by `plan`. `config` is the configuration that defines the
/// delegate, unless it is built in.
pub fn try_delegate(model: &Path, name: &str, config: Option<&Path>, plan: &ModelPlan) -> anyhow::Result<Tried> {
    let (delegate, library) = match config {
        Some(path) => Document::read(path)?.delegate(name)?,
        None => (Delegate::built_in(name).context("give the configuration that defines the delegate: -c FILE")?, None),
    };
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let context =
        super::engine_context(library.as_deref(), &program).map_err(|problem| anyhow::anyhow!(problem.message))?;
    let bytes = model::read_file(model).with_context(|| format!("cannot read {}", model.display()))?;
    let summary = ModelSummary::from_bytes(&bytes)?;
    check_loadable(&delegate.name, delegate.kind.kind())?;
    let ready = context.launcher.probe(model, &bytes, &delegate.kind, plan)?;
    Ok(Tried {
        delegate: delegate.name,
        runtime: context.runtime.path,
        runtime_version: context.runtime.version,
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
