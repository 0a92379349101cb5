//! What a machine has of the hardware and the libraries that delegates need, for `edgewatt doctor`.
//!
//! Only reads: it opens no device, and loads no library, because some vendors' libraries end the process. Each kind says in
//! its own file what to look for; whether this user may use a device file is for the caller to find out.

use std::path::{Path, PathBuf};

use super::{DelegateBackend, DelegateKind};
use crate::engine::elf;

/// The functions of a library that is attached to the runtime's interpreter.
pub(in crate::engine) const PLUGIN_FUNCTIONS: [&str; 2] =
    ["tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"];

/// Where the kernel shows a machine's devices, where their files are, and the libraries that the configuration names.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// Normally `/sys`.
    pub sysfs: &'a Path,
    /// Normally `/dev`.
    pub dev: &'a Path,
    pub libraries: &'a [PathBuf],
}

/// One device or library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub says: String,
    pub state: State,
    /// More to know, one item a line.
    pub detail: Vec<String>,
    /// What makes it work.
    pub fix: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Ok,
    /// It does not exist, and nothing asks for it.
    Absent,
    /// It does not work, or it does not exist although the configuration or a device needs it.
    Broken,
    /// A device file, which must be readable and writable; `rule` is the udev rule for a file that belongs to no group.
    DeviceFile {
        path: PathBuf,
        rule: String,
    },
}

impl Finding {
    pub fn new(state: State, what: impl Into<String>, says: impl Into<String>) -> Self {
        Self { what: what.into(), says: says.into(), state, detail: Vec::new(), fix: None }
    }

    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}

/// Returns what all kinds find.
pub fn survey(host: &Host<'_>) -> Vec<Finding> {
    DelegateKind::SURVEYS.iter().flat_map(|survey| survey(host)).collect()
}

/// Returns the finding for the library of the delegate called `name`, if it has one.
pub fn configured_library(name: &str, delegate: &dyn DelegateBackend) -> Option<Finding> {
    let file = delegate.library()?;
    let what = format!("delegates.{name}");
    Some(match elf::find(file) {
        Some(path) => {
            let mut finding = library(&what, &path, delegate.functions());
            if finding.state == State::Ok {
                finding.detail.push(format!("to test it, run: edgewatt inspect MODEL --delegate {name} -c FILE"));
            }
            finding
        }
        None => Finding::new(State::Broken, what, format!("no {}", file.display())).fix(delegate.library_fix(name)),
    })
}

/// Returns the finding for the library `what` in the file at `path`, which must have these functions.
pub(in crate::engine) fn library(what: &str, path: &Path, functions: &[&str]) -> Finding {
    let faults = elf::faults(path, functions);
    match faults.split_first() {
        None => Finding::new(State::Ok, what, path.display().to_string()),
        Some((first, others)) => Finding {
            detail: others.to_vec(),
            ..Finding::new(State::Broken, what, format!("{} cannot be loaded: {first}", path.display()))
        },
    }
}

/// Returns how to install a library that nothing special is known of, for the delegate called `name`.
pub(super) fn library_fix(name: &str) -> String {
    format!("install it and run: ldconfig; or set the path of its file in delegates.{name}; see docs/delegates.md")
}

/// Returns the findings for those of `files` that exist; each is a path below `/dev` and what it stands for.
pub(super) fn device_files(host: &Host<'_>, files: &[(&str, &str)]) -> Vec<Finding> {
    let existing = files.iter().filter_map(|(file, what)| {
        let (path, name) = (host.dev.join(file), file.rsplit('/').next().unwrap_or(file));
        let rule = format!("KERNEL==\"{name}\", MODE=\"0660\", GROUP=\"video\"");
        path.exists().then(|| Finding::new(State::DeviceFile { path, rule }, *what, "there"))
    });
    existing.collect()
}
