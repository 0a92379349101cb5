//! Delegates: what runs the operators of a model.
//!
//! Owns the family of kinds, and what each must say of itself: its keys, how it runs a model, what it is trusted with, what
//! doctor looks for. Leaves the interpreter and LiteRT to the modules around it, and the choice among several delegates to
//! `load`. The keys are checked on the main thread; an engine is built where the caller wants it.

pub mod survey;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::interpreter::Delegate;
use super::{Engine, EngineError, ModelPlan, Proof, Runtime, elf};
use crate::model::ModelSummary;
use crate::schema::expanded::Family;
use crate::schema::{Checker, Key, choice, family};
use survey::{Finding, Host};

family! {
    /// The delegate is one of these kinds.
    pub enum DelegateKind: DelegateBackend {
        mod cpu: Cpu;
        mod xnnpack: Xnnpack;
        mod external: External;
        mod litert: Litert;
        each pub(crate) const SURVEYS: fn(&Host<'_>) -> Vec<Finding> = survey;
    }
}

/// What each kind of delegate is.
pub trait DelegateBackend {
    /// Checks the keys of the kind, whose table is at `key`, and completes them.
    fn check(&mut self, key: &Key, checker: &mut Checker);

    /// Returns the keys as JSON, in the form in which they are read from TOML. The engine's process gets them, and
    /// calibrations.json keeps them: an entry counts only while they are the same.
    ///
    /// # Errors
    /// A path is not UTF-8.
    fn keys(&self) -> serde_json::Result<serde_json::Value>;

    /// Returns whether it comes with the runtime, and is trusted as the runtime is.
    fn is_built_in(&self) -> bool {
        false
    }

    /// Returns where it runs unless the configuration says otherwise.
    fn default_isolation(&self) -> Isolation {
        if self.is_built_in() { Isolation::Thread } else { Isolation::Process }
    }

    /// Returns the library that it is loaded from, if it does not come with the runtime.
    fn library(&self) -> Option<&Path> {
        None
    }

    /// Returns the functions that its library must have.
    fn functions(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns the file and the version of its library, which is loaded if that is how they are found out.
    ///
    /// # Errors
    /// The library cannot be loaded.
    fn identify_library(&self) -> Result<LibraryIdentity, EngineError> {
        Ok(LibraryIdentity { file: self.library().map(Path::to_owned), version: None })
    }

    /// Returns the number of threads that the runtime's interpreter uses.
    fn threads(&self) -> u16 {
        1
    }

    /// Returns the same with another number of threads; `None` if that cannot be chosen.
    fn with_threads(&self, _threads: u16) -> Option<DelegateKind> {
        None
    }

    /// Returns what is attached to the runtime's interpreter; `None`: its own kernels run the model.
    ///
    /// # Errors
    /// The delegate cannot be used, and why.
    fn attach(&self, runtime: &Runtime) -> Result<Option<Delegate>, EngineError>;

    /// Returns whether [`Self::build_own`] builds one.
    fn has_own_engine(&self) -> bool {
        false
    }

    /// Builds the engine if that is not the runtime's interpreter: `bytes` are those of the model at `path`.
    fn build_own(&self, _path: &Path, _bytes: &[u8], _plan: &ModelPlan) -> Option<Result<OwnEngine, EngineError>> {
        None
    }

    /// Returns the options of the runtime that the binary is linked with.
    ///
    /// # Errors
    /// That runtime cannot run it.
    #[cfg(feature = "tflitec")]
    fn linked_options(&self) -> Result<tflitec::interpreter::Options, EngineError> {
        let delegate = self.library().map_or_else(String::new, |library| library.display().to_string());
        Err(EngineError::Delegate { delegate, reason: super::runtime::LINKED_LIMITS.into() })
    }

    /// Returns what a user should know although the delegate works; `proof` is of the model in `summary`.
    fn warning(&self, _summary: &ModelSummary, _proof: &Proof) -> Option<&'static str> {
        None
    }

    /// Returns how to install the library of the delegate called `name`, which was not found.
    fn library_fix(&self, name: &str) -> String {
        survey::library_fix(name)
    }
}

/// An engine that is not the runtime's interpreter, with the proof of what it runs where.
pub type OwnEngine = (Box<dyn Engine>, Proof);

/// A library as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LibraryIdentity {
    /// The file, if the delegate has a library.
    pub file: Option<PathBuf>,
    /// The version that it states, if it states one.
    pub version: Option<String>,
}

choice! {
    /// Where a delegate runs.
    pub enum Isolation { Process = "process", Thread = "thread" }
}

/// How often a delegate that fails is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restarts {
    pub max: u32,
    pub per: Duration,
}

impl DelegateKind {
    /// Returns the built-in kind of that name, with its defaults: it needs no entry in the configuration.
    pub fn built_in(name: &str) -> Option<Self> {
        Self::from_name(name).filter(|kind| kind.kind().is_built_in())
    }

    /// Returns the names for [`DelegateKind::built_in`].
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().copied().filter(|name| Self::built_in(name).is_some())
    }
}

/// Checks that the library of the delegate called `name` can be loaded, as far as files show it.
///
/// # Errors
/// There is no such library, or the dynamic linker would refuse it; all that is wrong with it.
pub fn check_loadable(name: &str, delegate: &dyn DelegateBackend) -> Result<(), EngineError> {
    let Some(library) = delegate.library() else { return Ok(()) };
    let reason = match elf::find(library) {
        Some(path) => elf::faults(&path, delegate.functions()).join("; "),
        None => match elf::stands_there(library) {
            Some(what) => what,
            None => format!("there is no such library; {}", delegate.library_fix(name)),
        },
    };
    if reason.is_empty() {
        return Ok(());
    }
    Err(EngineError::Delegate { delegate: library.display().to_string(), reason })
}

/// A kind with its keys, as the engine's process gets it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DelegateSpec {
    kind: String,
    keys: serde_json::Value,
}

impl DelegateSpec {
    /// # Errors
    /// A path is not UTF-8.
    pub fn new(kind: &DelegateKind) -> serde_json::Result<Self> {
        Ok(Self { kind: kind.name().to_owned(), keys: kind.kind().keys()? })
    }

    /// Returns the kind that this was made from.
    ///
    /// # Errors
    /// There is no such kind, or it does not have these keys.
    pub fn kind(&self) -> serde_json::Result<DelegateKind> {
        DelegateKind::read(&self.kind, &self.keys)
    }
}

/// Checks that a library is named; a relative path counts from the folder of the configuration file.
fn check_library(library: &mut PathBuf, key: &Key, checker: &mut Checker) {
    if library.as_os_str().is_empty() {
        checker.problem(&key.child("library"), "name a file, or a library that ldconfig knows");
    }
    *library = checker.library(library);
}

#[cfg(test)]
mod tests {
    use super::external::External;
    use super::litert::{Accelerator, Litert};
    use super::xnnpack::{Xnnpack, XnnpackFlag};
    use super::*;

    #[test]
    fn the_engines_process_gets_each_kind_as_it_is() {
        let options = [("device".to_owned(), "usb".to_owned())].into();
        let kinds = [
            DelegateKind::Cpu(cpu::Cpu { threads: 3 }),
            DelegateKind::Xnnpack(Xnnpack { threads: 2, flags: vec![XnnpackFlag::ForceFp16] }),
            DelegateKind::External(External { library: "libedgetpu.so.1".into(), options }),
            DelegateKind::Litert(Litert { library: "/a/b".into(), accelerators: vec![Accelerator::Npu] }),
        ];
        assert_eq!(kinds.len(), DelegateKind::NAMES.len());
        for kind in kinds {
            let json = serde_json::to_string(&DelegateSpec::new(&kind).unwrap()).unwrap();
            let spec: DelegateSpec = serde_json::from_str(&json).unwrap();
            assert_eq!(spec.kind().unwrap(), kind, "{json}");
        }
        let unknown = DelegateSpec { kind: "abacus".into(), keys: serde_json::json!({}) };
        assert_eq!(unknown.kind().unwrap_err().to_string(), "write exactly one of cpu, xnnpack, external and litert");
    }

    #[test]
    fn a_library_is_trusted_less_than_the_runtime() {
        assert_eq!(DelegateKind::built_in_names().collect::<Vec<_>>(), ["cpu", "xnnpack"]);
        for name in DelegateKind::built_in_names() {
            let kind = DelegateKind::built_in(name).unwrap();
            assert_eq!((kind.kind().default_isolation(), kind.kind().library()), (Isolation::Thread, None));
        }
        let external = External { library: "libedgetpu.so.1".into(), options: Default::default() };
        assert_eq!(external.default_isolation(), Isolation::Process);
    }
}
