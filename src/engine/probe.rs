//! Trying a model in a child process before it is let into this one.
//!
//! The runtime's verifier lets some damaged files through, and then its C++ aborts or segfaults while it allocates or
//! invokes. In a child that is a message. Both halves are here: [`probe`] runs on the main thread of the parent,
//! [`run_child`] is the whole of the child's work.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::alarm;
use serde::{Deserialize, Serialize};

use super::{EngineError, Runtime};
use crate::config::DelegateKind;

/// The hidden subcommand that the parent calls its own binary with.
pub const SUBCOMMAND: &str = "probe-model";
/// The child's exit code for a model that is refused, with the reason on its standard output.
const REFUSED: u8 = 3;
/// A first invocation on the slowest board takes seconds at most.
const TIME_LIMIT_S: u32 = 60;
/// Address space of the child: what no model for an edge device needs.
#[cfg(target_pointer_width = "64")]
const MEMORY_LIMIT_BYTES: u64 = 8 << 30;

/// What the child is told on its command line, as JSON; the model comes on its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    pub library: PathBuf,
    /// For messages only.
    pub model: PathBuf,
    pub delegate: DelegateKind,
    pub batch: usize,
}

/// Loads, allocates and invokes `bytes` once in a child, which runs `program`, this very binary.
pub fn probe(program: &Path, task: &Task, bytes: &[u8]) -> Result<(), EngineError> {
    let failed = |reason: String| EngineError::Model { path: task.model.clone(), reason };
    let arguments = serde_json::to_string(task).map_err(|e| failed(format!("its path cannot be passed on: {e}")))?;
    let mut command = Command::new(program);
    command.arg(SUBCOMMAND).arg(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("cannot start {} to try it: {e}", program.display())))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that died before it had read everything is told by its status.
        let _ = stdin.write_all(bytes);
    }
    let output =
        child.wait_with_output().map_err(|e| failed(format!("cannot wait for the process that tries it: {e}")))?;
    let runtime_says = first_error(&output.stderr);
    match (output.status.code(), output.status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) if code == i32::from(REFUSED) => {
            Err(EngineError::Refused(format!("{}{runtime_says}", String::from_utf8_lossy(&output.stdout).trim())))
        }
        (_, Some(signal)) if signal == Signal::SIGALRM as i32 => {
            Err(failed(format!("the runtime was not done with it in {TIME_LIMIT_S} s{runtime_says}")))
        }
        (_, Some(signal)) => {
            let name = Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |s| s.to_string());
            Err(failed(format!(
                "it makes the runtime crash ({name}), so it is not loaded; is it damaged, or made for another \
                 runtime?{runtime_says}"
            )))
        }
        (code, None) => Err(failed(format!("the process that tries it ended with {code:?}{runtime_says}"))),
    }
}

/// The runtime's first own word on what is wrong, in parentheses.
fn first_error(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let error = text.lines().find_map(|line| line.strip_prefix("ERROR: "));
    error.map_or(String::new(), |error| format!(" (the runtime says: {error})"))
}

/// The child: its exit code.
pub fn run_child(task: &Task) -> u8 {
    match try_model(task) {
        Ok(()) => 0,
        Err(error) => {
            // Without a reader the exit code alone must do.
            let _ = write!(std::io::stdout(), "{error}");
            REFUSED
        }
    }
}

fn try_model(task: &Task) -> Result<(), EngineError> {
    let limit = |e: nix::Error| EngineError::Runtime { step: "limit the child", reason: e.to_string() };
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(limit)?;
    #[cfg(target_pointer_width = "64")]
    setrlimit(Resource::RLIMIT_AS, MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES).map_err(limit)?;
    alarm::set(TIME_LIMIT_S);

    let runtime = Runtime::load(Some(&task.library))?;
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|e| EngineError::Runtime { step: "read the model", reason: e.to_string() })?;
    let mut engine = super::build(&runtime, &task.model, &bytes, &task.delegate, task.batch)?;
    let features = vec![0.0; engine.inputs()[0].len()];
    engine.set_input(0, &features)?;
    engine.invoke()?;
    for index in 0..engine.outputs().len() {
        let mut values = vec![0.0; engine.outputs()[index].len()];
        engine.output(index, 0, &mut values)?;
    }
    Ok(())
}
