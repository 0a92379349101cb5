//! What a machine has of the hardware and the libraries that delegates need, for `edgewatt doctor`.
//!
//! Only reads: it opens no device, and loads no library, because some vendors' libraries end the process. Each kind says in
//! its own file what to look for; whether this user may use a device file is for the caller to find out.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DelegateBackend, DelegateKind};

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
    let library = delegate.library()?;
    let what = format!("delegates.{name}");
    Some(match find_library(library) {
        Some(path) => Finding {
            detail: vec![format!("to test it, run: edgewatt inspect MODEL --delegate {name} -c FILE")],
            ..Finding::new(State::Ok, what, path.display().to_string())
        },
        None => Finding::new(State::Broken, what, format!("no {}", library.display())).fix(delegate.library_fix(name)),
    })
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

/// Returns where the dynamic linker would find a library: a file, `LD_LIBRARY_PATH`, or ldconfig's cache.
pub(in crate::engine) fn find_library(library: &Path) -> Option<PathBuf> {
    if library.components().count() > 1 {
        return library.is_file().then(|| library.to_owned());
    }
    let folders = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&folders).map(|folder| folder.join(library)).find(|path| path.is_file());
    in_path.or_else(|| {
        // ldconfig is not in the search path of normal users.
        let listed = ["ldconfig", "/sbin/ldconfig"].into_iter().find_map(|command| list(command.as_ref()))?;
        let name = format!("{} (", library.display());
        let line = listed.lines().find(|line| line.trim_start().starts_with(&name))?;
        // The library may have been removed since the cache was written.
        line.split_once(" => ").map(|(_, path)| PathBuf::from(path.trim())).filter(|path| path.is_file())
    })
}

fn list(ldconfig: &OsStr) -> Option<String> {
    let output = Command::new(ldconfig).arg("-p").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
