//! Runs an engine in its own process, so that a crash of a vendor's delegate or a damaged model cannot harm the daemon.
//!
//! [`host`] is the daemon's side, [`child`] the other one; [`link`] passes inferences between them, [`sandbox`] restricts
//! the child, [`handle`] starts, watches and ends the process. This module owns what both sides share: the messages during
//! the start, which are lines of JSON on a socket, and the layout of the shared memory.
//!
//! The start: the host sends the task and the model; the child sends [`Hello`] when the libraries are loaded, then [`Built`] or
//! `Refused`. The host then sets the size of the shared memory and sends one byte. After that both use the link.

pub mod child;
mod handle;
mod host;
mod link;
mod log;
mod sandbox;
mod system_calls;

use std::fmt;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use host::{IsolatedEngine, Launcher, Ready};

use super::delegate::DelegateSpec;
use super::plan::ModelPlan;
use super::{EngineError, Proof, TensorInfo};

/// The hidden subcommand that the daemon calls its own binary with.
pub const SUBCOMMAND: &str = "engine-process";

/// The host's commands on the link, and the child's statuses.
const INVOKE: u32 = 1;
const RESET: u32 = 2;
const OK: u32 = 0;
const FAILED: u32 = 1;

/// The version of [`Task`]. A change that a child of another version would misread needs the next one.
const VERSION: u32 = 4;

/// The limits of a delegate's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Until its first inference is done, which may compile the model for a device.
    pub start: Duration,
    /// Of one inference after that.
    pub deadline: Duration,
    /// The limit of its address space.
    pub memory_bytes: u64,
    /// Folders and files that it may write to, besides devices and temporary files.
    pub writable: Vec<PathBuf>,
}

/// The task that the child gets first, as JSON. It is not on the command line, which everybody can read.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Task {
    version: u32,
    runtime_library: PathBuf,
    /// The path, for messages only.
    model: PathBuf,
    delegate: DelegateSpec,
    plan: ModelPlan,
    /// The limit of its address space.
    memory_bytes: u64,
    /// Folders and files that the child may write to, in addition to devices and temporary files.
    writable: Vec<PathBuf>,
    /// Whether the child stays and serves inferences; else it invokes once and ends.
    serve: bool,
    /// The process that started it. If that has ended, the child ends too.
    parent: i32,
}

impl Task {
    /// Reads a task. The daemon's program may have been replaced since the daemon was started: its children are then of
    /// another version than itself.
    fn parse(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            #[serde(default)]
            version: u32,
        }
        let Version { version } = serde_json::from_slice(json).map_err(|e| format!("the task cannot be read: {e}"))?;
        if version != VERSION {
            return Err(format!(
                "the daemon gives tasks of version {version}, and this program takes version {VERSION}: edgewatt was \
                 replaced while the daemon ran; restart the daemon"
            ));
        }
        serde_json::from_slice(json).map_err(|e| format!("the task cannot be read: {e}"))
    }
}

/// Sends bytes, their number first.
fn write_block(mut socket: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    socket.write_all(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_ne_bytes())?;
    socket.write_all(bytes)
}

/// Receives bytes, their number first.
fn read_block(mut socket: &UnixStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 8];
    socket.read_exact(&mut len)?;
    let mut bytes = vec![0; usize::try_from(u64::from_ne_bytes(len)).map_err(io::Error::other)?];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What the child tells while it starts.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Hello(Hello),
    Built(Built),
    Refused(String),
}

/// The first message: the libraries are loaded, and have not seen a model yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub runtime: PathBuf,
    pub runtime_version: String,
    /// The file that was found for the library's name in the configuration, for a delegate with a library.
    pub delegate_library: Option<PathBuf>,
    /// The version that it states, if it states one.
    pub delegate_version: Option<String>,
    /// The restrictions in force, such as `landlock`; without those that this kernel lacks.
    pub sandbox: Vec<String>,
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorFlow Lite {}, {}", self.runtime_version, self.runtime.display())?;
        if let Some(library) = &self.delegate_library {
            write!(f, ", with {}", library.display())?;
        }
        if let Some(version) = &self.delegate_version {
            write!(f, ", version {version}")?;
        }
        write!(f, "; confined by {}", if self.sandbox.is_empty() { "nothing".into() } else { self.sandbox.join(", ") })
    }
}

/// The second message: the model is built.
#[derive(Debug, Serialize, Deserialize)]
struct Built {
    proof: Proof,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    /// Time of one invocation, if the model was invoked.
    invoke: Option<Duration>,
    /// The peak of the child's resident memory until then, in MiB.
    memory_mib: Option<f64>,
}

/// The places of the tensors in the shared memory, after the words of the link.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    inputs: Vec<Range<usize>>,
    outputs: Vec<Range<usize>>,
    total: NonZeroUsize,
}

impl Layout {
    /// A cache line; also good for vectorised kernels.
    const ALIGNMENT: usize = 64;

    /// Computes the same layout on both sides, from the tensors alone. On the host the numbers are untrusted.
    fn new(inputs: &[TensorInfo], outputs: &[TensorInfo]) -> Result<Self, EngineError> {
        let mut end = link::WORDS_BYTES;
        let mut place = |tensor: &TensorInfo| {
            let dims = tensor.shape.iter();
            let bytes = dims.copied().try_fold(tensor.element.bytes(), usize::checked_mul);
            let start = end.checked_next_multiple_of(Self::ALIGNMENT);
            let place = start.zip(bytes).and_then(|(start, bytes)| Some(start..start.checked_add(bytes)?));
            let place = place.filter(|place| i64::try_from(place.end).is_ok());
            end = place.as_ref().map_or(end, |place| place.end);
            place.ok_or_else(|| EngineError::Mismatch(format!("tensor `{}` is too large", tensor.name)))
        };
        // The engine lists those that get the windows.
        if inputs.is_empty() {
            return Err(EngineError::Mismatch("no input of the model gets the windows".into()));
        }
        let inputs = inputs.iter().map(&mut place).collect::<Result<_, _>>()?;
        let outputs = outputs.iter().map(&mut place).collect::<Result<_, _>>()?;
        Ok(Self { inputs, outputs, total: NonZeroUsize::new(end).unwrap_or(NonZeroUsize::MIN) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Element;

    fn tensor(element: Element, shape: &[usize]) -> TensorInfo {
        TensorInfo { name: "t".into(), element, shape: shape.to_vec(), scale: 1.0, zero_point: 0 }
    }

    #[test]
    fn tensors_lie_behind_each_other_and_aligned() {
        let outputs = [tensor(Element::Int8, &[2, 3]), tensor(Element::Int16, &[2, 1])];
        let one = Layout::new(&[tensor(Element::Float32, &[2, 17])], &outputs).unwrap();
        let two = Layout::new(&[tensor(Element::Float32, &[2, 17]), tensor(Element::Int8, &[1])], &outputs).unwrap();
        assert_eq!((two.inputs[0].clone(), two.inputs[1].start), (one.inputs[0].clone(), link::WORDS_BYTES + 192));
        assert_eq!(two.outputs[0].start, link::WORDS_BYTES + 256);
        let layout = one;
        let start = link::WORDS_BYTES;
        assert!(start.is_multiple_of(Layout::ALIGNMENT));
        assert_eq!((layout.inputs.len(), &layout.inputs[0]), (1, &(start..start + 136)));
        assert_eq!(layout.outputs, [start + 192..start + 198, start + 256..start + 260]);
        assert_eq!(layout.total.get(), start + 260);
    }

    #[test]
    fn a_task_of_another_version_is_refused_by_its_version() {
        let error = Task::parse(b"{\"version\": 1, \"more\": []}").unwrap_err();
        assert!(error.starts_with("the daemon gives tasks of version 1, and this program takes version 4"), "{error}");
        let error =
            Task::parse(b"{\"runtime_library\": \"a\", \"delegate\": {\"Cpu\": {\"threads\": 1}}}").unwrap_err();
        assert!(error.contains("version 0") && error.ends_with("restart the daemon"), "{error}");
        assert!(Task::parse(b"{\"version\": 4}").unwrap_err().contains("missing field"));
        assert!(Task::parse(b"1").unwrap_err().starts_with("the task cannot be read"));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let one = tensor(Element::Float32, &[1]);
        for shape in [&[usize::MAX, 2][..], &[usize::MAX / 4], &[usize::MAX / 8]] {
            let large = tensor(Element::Float32, shape);
            let error = Layout::new(std::slice::from_ref(&one), &[large]).unwrap_err().to_string();
            assert_eq!(error, "tensor `t` is too large", "{shape:?}");
        }
        assert!(Layout::new(&[], std::slice::from_ref(&one)).is_err());
    }
}
