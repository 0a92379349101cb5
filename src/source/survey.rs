//! What `doctor` and `check` say of the device, program or network that a source reads.

use std::path::PathBuf;

/// Whether a source can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there and can be used.
    Ready,
    /// It is not there at present; the source waits for it.
    Absent,
    /// It is there and cannot be used.
    Broken,
}

/// What was found where a source reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub presence: Presence,
    /// What was found, in one line.
    pub says: String,
    /// More to know, one item a line.
    pub detail: Vec<String>,
    /// The command or change that makes it work.
    pub fix: Option<String>,
    /// The device file that must be readable and writable.
    pub node: Option<DeviceNode>,
}

/// A device file that a source opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    pub path: PathBuf,
    /// The udev rule that gives it a group, if it has none.
    pub rule: String,
}

impl Survey {
    pub fn new(presence: Presence, says: impl Into<String>) -> Self {
        Self { presence, says: says.into(), detail: Vec::new(), fix: None, node: None }
    }

    pub fn ready(says: impl Into<String>) -> Self {
        Self::new(Presence::Ready, says)
    }

    pub fn absent(says: impl Into<String>) -> Self {
        Self::new(Presence::Absent, says)
    }

    pub fn broken(says: impl Into<String>) -> Self {
        Self::new(Presence::Broken, says)
    }

    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    pub fn detail(self, detail: Vec<String>) -> Self {
        Self { detail, ..self }
    }

    pub fn node(self, path: impl Into<PathBuf>, rule: impl Into<String>) -> Self {
        Self { node: Some(DeviceNode { path: path.into(), rule: rule.into() }), ..self }
    }

    /// Returns what to warn of before a start; `None` if nothing is wrong.
    pub fn warning(&self) -> Option<String> {
        let fix = self.fix.as_ref().map_or(String::new(), |fix| format!("; {fix}"));
        match self.presence {
            // It works, and could work better.
            Presence::Ready => self.fix.as_ref().map(|_| format!("{}{fix}", self.says)),
            Presence::Absent => Some(format!("{}; the source waits for it{fix}", self.says)),
            Presence::Broken => Some(format!("{}{fix}", self.says)),
        }
    }
}
