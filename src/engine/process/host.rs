//! The daemon's side: starts a child, follows its start, and is an engine for as long as the child lives.
//!
//! Started on the main thread or a thread that rebuilds engines, used on the infer thread.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write, pipe};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::handle::{END_PATIENCE, Handle, signal_name};
use super::link::{Link, Side, Waited};
use super::sandbox::inherited_limit;
use super::{
    Built, FAILED, Hello, INVOKE, Layout, Message, OK, ProcessLimits, RESET, SUBCOMMAND, Task, VERSION, write_block,
};
use crate::engine::buffer::{self, TensorBuffer};
use crate::engine::delegate::DelegateSpec;
use crate::engine::plan::{ModelPlan, open_input};
use crate::engine::{DelegateKind, Engine, EngineError, Proof, TensorInfo};
use crate::model::ModelSummary;
use crate::sys::child::NOT_INHERITED;
use crate::sys::cpu::Children;
use crate::sys::shared::{self, Shared};
use crate::sys::trouble::Trouble;
use crate::units::MonoTime;

/// Trying a model takes seconds at most on the slowest board.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// Address space of a child that only tries a model: more than any model for an edge device needs.
const PROBE_MEMORY_BYTES: u64 = 8 << 30;
/// The time for a child to free its device when it is asked to end.
const END_LIMIT: Duration = Duration::from_millis(200);
/// The largest message during the start; it contains the names and shapes of a model's tensors.
const MESSAGE_BYTES: usize = 1 << 20;

/// Starts the processes of engines.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The path of this binary.
    pub program: PathBuf,
    /// The TensorFlow Lite library.
    pub runtime: PathBuf,
    /// The processes that it has started.
    pub children: Children,
}

/// What a child reported of a model and a delegate.
#[derive(Debug, Clone)]
pub struct Ready {
    pub proof: Proof,
    pub hello: Hello,
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
    /// Time of one invocation, if the model was invoked.
    pub invoke: Option<Duration>,
    /// The peak of its resident memory until then, in MiB, if the kernel tells it.
    pub memory_mib: Option<f64>,
    /// The output of the runtime and of the delegate.
    pub log: Vec<String>,
}

impl Launcher {
    /// Loads, allocates and invokes `bytes` (those of `model`) in a child that then ends.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the runtime's reason; else the model or the delegate, if it crashes or hangs.
    pub fn probe(
        &self,
        model: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        plan: &ModelPlan,
    ) -> Result<Ready, EngineError> {
        let task = self.task(model, delegate, plan, PROBE_MEMORY_BYTES)?;
        let mut start = Start::new(self, task, blamed(delegate, model))?;
        let mut ready = start.ready(bytes, PROBE_LIMIT)?;
        end(&start.socket);
        start.handle.status(END_PATIENCE);
        ready.log = start.handle.said.lines();
        Ok(ready)
    }

    /// Builds the engine in a child that stays.
    ///
    /// # Errors
    /// As for [`Launcher::probe`].
    pub fn start(
        &self,
        model: &Path,
        bytes: &[u8],
        delegate: &DelegateKind,
        limits: &ProcessLimits,
        plan: &ModelPlan,
    ) -> Result<(IsolatedEngine, Ready), EngineError> {
        let mut task = self.task(model, delegate, plan, limits.memory_bytes)?;
        task.writable.clone_from(&limits.writable);
        task.serve = true;
        let mut start = Start::new(self, task, blamed(delegate, model))?;
        let ready = start.ready(bytes, limits.start)?;
        // A model that cannot be read counts as stateful, as in the child.
        let summary = ModelSummary::from_bytes(bytes).ok().and_then(|summary| plan.entered(summary).ok());
        let stateful = summary.is_none_or(|summary| plan.is_stateful(&summary));
        let engine = IsolatedEngine::new(start, &ready, limits, stateful)?;
        Ok((engine, ready))
    }

    fn task(
        &self,
        model: &Path,
        delegate: &DelegateKind,
        plan: &ModelPlan,
        memory_bytes: u64,
    ) -> Result<Task, EngineError> {
        Ok(Task {
            version: VERSION,
            runtime_library: self.runtime.clone(),
            model: model.to_owned(),
            delegate: DelegateSpec::new(delegate).map_err(|e| blamed(delegate, model).for_path(&e))?,
            plan: plan.clone(),
            memory_bytes,
            writable: Vec::new(),
            serve: false,
            parent: nix::unistd::getpid().as_raw(),
        })
    }
}

/// A child that is started, but whose engine is not ready yet.
struct Start {
    task: Task,
    /// The task as the child reads it.
    text: Vec<u8>,
    blamed: Blamed,
    handle: Handle,
    socket: UnixStream,
    memory: OwnedFd,
    /// The libraries that it has loaded.
    hello: Option<Hello>,
}

/// Why the engine process failed to start.
enum Failure {
    Refused(String),
    TimedOut,
    /// The child has closed its end.
    Gone,
    Protocol(String),
}

impl Start {
    fn new(launcher: &Launcher, task: Task, blamed: Blamed) -> Result<Self, EngineError> {
        let program = &launcher.program;
        let text = serde_json::to_vec(&task).map_err(|e| blamed.for_path(&e))?;
        let start = || -> io::Result<_> {
            let (socket, childs) = UnixStream::pair()?;
            let memory = shared::file()?;
            let (output, childs_output) = pipe()?;
            let mut command = Command::new(program);
            command.arg(SUBCOMMAND);
            command.stdin(OwnedFd::from(childs)).stdout(memory.try_clone()?).stderr(Stdio::from(childs_output));
            for variable in NOT_INHERITED {
                command.env_remove(variable);
            }
            // If memory runs out, a backtrace would fail too, before the message is written.
            command.env("RUST_BACKTRACE", "0");
            Ok((Handle::start(command, output, launcher.children.clone())?, socket, memory))
        };
        match start() {
            Ok((handle, socket, memory)) => Ok(Self { task, text, blamed, handle, socket, memory, hello: None }),
            Err(error) => Err(blamed.lacks(&format!("cannot start {} to try it: {error}", program.display()))),
        }
    }

    /// Sends the task and the model, and waits for the result.
    fn ready(&mut self, bytes: &[u8], limit: Duration) -> Result<Ready, EngineError> {
        let failure = match self.exchange(bytes, limit) {
            Ok((hello, built)) => {
                let mut ready = checked(hello, built)?;
                if let Some(litert) = ready.proof.litert.as_mut().filter(|litert| litert.fully_off_cpu == Some(true)) {
                    litert.deny(self.handle.said.software_gpu());
                }
                return Ok(ready);
            }
            Err(failure) => failure,
        };
        if matches!(failure, Failure::TimedOut | Failure::Protocol(_)) {
            self.handle.kill();
        }
        // All of its output has been read when it has ended.
        let status = self.handle.status(END_PATIENCE);
        let says = self.handle.said.errors();
        let reason = match failure {
            Failure::Refused(message)
                if self.is_short_of_memory() && Trouble::of_message(&says) == Trouble::Machine =>
            {
                return Err(EngineError::Machine(format!("{message}{says}")));
            }
            Failure::Refused(message) => return Err(EngineError::Refused(format!("{message}{says}"))),
            Failure::TimedOut if matches!(self.blamed, Blamed::Library(_)) && self.task.serve => format!(
                "it was not ready within {} s, its start_timeout_s; raise that if it compiles the model{says}",
                limit.as_secs_f64()
            ),
            Failure::TimedOut => format!("the runtime did not finish with it within {} s{says}", limit.as_secs_f64()),
            Failure::Protocol(what) => format!("the process that tries it broke the protocol: {what}{says}"),
            Failure::Gone => match status.and_then(|status| status.signal()).map(signal_name) {
                Some(name) if name != Signal::SIGKILL.as_str() && !self.is_short_of_memory() => {
                    let batch = self.task.plan.batch;
                    let libraries =
                        self.hello.as_ref().map_or(String::new(), |hello| format!("The runtime is {hello}"));
                    let batches = if batch > 1 { format!(" with batches of {batch}") } else { String::new() };
                    let guess =
                        self.open_input(bytes).unwrap_or_else(|| "is it damaged, or made for another runtime?".into());
                    format!(
                        "it makes the runtime crash ({name}){batches}, so it is not loaded; {guess} {libraries}{says}"
                    )
                }
                _ => {
                    let end = self.handle.end(self.task.memory_bytes);
                    let reason = format!("the process that tries it: {}", end.reason);
                    return Err(if end.is_machine { self.blamed.lacks(&reason) } else { self.blamed.error(reason) });
                }
            },
        };
        Err(self.blamed.error(reason))
    }

    /// Returns whether memory is what it may have failed for.
    fn is_short_of_memory(&self) -> bool {
        self.handle.said.ran_out_of_memory() || inherited_limit(self.task.memory_bytes).is_some()
    }

    /// Returns what to do if the model leaves its input open, and was tried with the shape that the file starts with.
    fn open_input(&self, bytes: &[u8]) -> Option<String> {
        let plan = &self.task.plan;
        let summary = ModelSummary::from_bytes(bytes).ok().and_then(|summary| plan.entered(summary).ok())?;
        open_input(&summary, plan)
    }

    fn exchange(&mut self, bytes: &[u8], limit: Duration) -> Result<(Hello, Built), Failure> {
        let deadline = Instant::now() + limit;
        // If the child ends before it has read everything, or does not read, the next message is missing.
        let _ = self.socket.set_write_timeout(Some(limit));
        let _ = [&self.text[..], bytes].into_iter().try_for_each(|block| write_block(&self.socket, block));
        let mut reader = BufReader::new(&self.socket);
        let mut next = || match message(&mut reader, deadline)? {
            Message::Refused(reason) => Err(Failure::Refused(reason)),
            message => Ok(message),
        };
        let out_of_order = || Failure::Protocol("its messages are out of order".into());
        let Message::Hello(hello) = next()? else { return Err(out_of_order()) };
        if hello.delegate_library.is_some() {
            tracing::info!("{hello}");
        }
        self.hello = Some(hello.clone());
        match next()? {
            Message::Built(built) => Ok((hello, built)),
            _ => Err(out_of_order()),
        }
    }
}

/// Checks what a child reports, because it may be wrong.
fn checked(hello: Hello, built: Built) -> Result<Ready, EngineError> {
    let Built { proof, inputs, outputs, invoke, memory_mib } = built;
    // First, because the length of a tensor may overflow.
    Layout::new(&inputs, &outputs)?;
    let checked = |tensor: TensorInfo| {
        let bytes = tensor.stored_bytes();
        tensor.checked(bytes)
    };
    let inputs = inputs.into_iter().map(checked).collect::<Result<_, _>>()?;
    let outputs = outputs.into_iter().map(checked).collect::<Result<_, _>>()?;
    Ok(Ready { proof, hello, inputs, outputs, invoke, memory_mib, log: Vec::new() })
}

/// Reads the next message, a line of JSON.
fn message(reader: &mut BufReader<&UnixStream>, deadline: Instant) -> Result<Message, Failure> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || reader.get_ref().set_read_timeout(Some(left)).is_err() {
            return Err(Failure::TimedOut);
        }
        let piece = match reader.fill_buf() {
            Ok([]) => return Err(Failure::Gone),
            Ok(piece) => piece,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(_) => return Err(Failure::Gone),
        };
        let count = piece.iter().position(|byte| *byte == b'\n').map_or(piece.len(), |end| end + 1);
        line.extend_from_slice(&piece[..count]);
        reader.consume(count);
        if line.len() > MESSAGE_BYTES {
            return Err(Failure::Protocol("its message is too long".into()));
        }
    }
    serde_json::from_slice(&line).map_err(|e| Failure::Protocol(e.to_string()))
}

/// What is named when something goes wrong in a child.
enum Blamed {
    Library(PathBuf),
    Model(PathBuf),
}

/// A delegate's own library is to blame for what happens in its process; else it is the model.
fn blamed(delegate: &DelegateKind, model: &Path) -> Blamed {
    match delegate.kind().library() {
        Some(library) => Blamed::Library(library.to_owned()),
        None => Blamed::Model(model.to_owned()),
    }
}

impl Blamed {
    fn error(&self, reason: String) -> EngineError {
        match self {
            Self::Library(library) => EngineError::Delegate { delegate: library.display().to_string(), reason },
            Self::Model(path) => EngineError::Model { path: path.clone(), reason },
        }
    }

    /// Returns the error for something that the machine lacked. The model or library is named, but not to blame.
    fn lacks(&self, reason: &str) -> EngineError {
        let (Self::Library(path) | Self::Model(path)) = self;
        EngineError::Machine(format!("{}: {reason}", path.display()))
    }

    fn for_path(&self, error: &serde_json::Error) -> EngineError {
        self.error(format!("its path cannot be passed on: {error}"))
    }
}

/// Closes the connection to the child, and gives it a moment to end.
fn end(mut socket: &UnixStream) {
    let _ = socket.shutdown(Shutdown::Write);
    let deadline = Instant::now() + END_LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match socket.read(&mut [0; 64]) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// An engine that runs in a child process. Dropping it ends the child.
pub struct IsolatedEngine {
    link: Link,
    /// The same socket as the link's; needed to end the connection.
    socket: UnixStream,
    handle: Handle,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    /// What goes to the shared memory, and what came from it: the child may change that memory at any time.
    sent: Vec<TensorBuffer>,
    received: Vec<TensorBuffer>,
    layout: Layout,
    batch: usize,
    limits: ProcessLimits,
    stateful: bool,
    /// It has been invoked since it was built; from then on the deadline applies.
    proven: bool,
    /// Why the child ended, if it did.
    lost: Option<String>,
}

impl IsolatedEngine {
    fn new(start: Start, ready: &Ready, limits: &ProcessLimits, stateful: bool) -> Result<Self, EngineError> {
        let Start { task, blamed, handle, socket, memory, .. } = start;
        let layout = Layout::new(&ready.inputs, &ready.outputs)?;
        if u64::try_from(layout.total.get()).is_ok_and(|total| total > limits.memory_bytes) {
            return Err(EngineError::Mismatch(format!(
                "the model's tensors have {} bytes, more than the {} MiB of memory_mib",
                layout.total,
                limits.memory_bytes >> 20
            )));
        }
        let shared = |e: io::Error| blamed.lacks(&format!("cannot share memory with its process: {e}"));
        let mapped = Shared::create(&memory, layout.total).map_err(shared)?;
        let link = Link::new(Side::Host, socket.try_clone().map_err(shared)?, mapped).map_err(shared)?;
        // After this byte the child uses the memory.
        (&socket).write_all(&[0]).map_err(shared)?;
        handle.said.serves();
        Ok(Self {
            link,
            socket,
            handle,
            inputs: ready.inputs.clone(),
            outputs: ready.outputs.clone(),
            sent: ready.inputs.iter().map(TensorBuffer::new).collect(),
            received: ready.outputs.iter().map(TensorBuffer::new).collect(),
            layout,
            batch: task.plan.batch,
            limits: limits.clone(),
            stateful,
            proven: false,
            lost: None,
        })
    }

    /// Returns the child's process id.
    pub fn pid(&self) -> u32 {
        self.handle.pid()
    }

    fn alive(&self) -> Result<(), EngineError> {
        self.lost.clone().map_or(Ok(()), |reason| Err(EngineError::Lost { reason }))
    }

    fn call(&mut self, command: u32, step: &'static str, limit: Duration) -> Result<(), EngineError> {
        self.alive()?;
        let reason = match self.link.call(command, limit) {
            Ok(OK) => return Ok(()),
            Ok(FAILED) => return Err(EngineError::runtime(step, self.link.message())),
            Ok(other) => {
                self.handle.kill();
                format!("protocol error: unknown status {other}")
            }
            Err(Waited::TimedOut) => {
                self.handle.kill();
                let key = if limit == self.limits.deadline { "deadline_ms" } else { "start_timeout_s" };
                format!("it did not answer within {} s, its {key}", limit.as_secs_f64())
            }
            Err(Waited::Arrived | Waited::Gone) => self.handle.end(self.limits.memory_bytes).reason,
        };
        self.lost = Some(reason);
        self.alive()
    }
}

impl Engine for IsolatedEngine {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn input_bytes(&mut self, index: usize) -> Result<&mut [u8], EngineError> {
        self.alive()?;
        buffer::at(self.sent.iter_mut(), index, "input").map(TensorBuffer::bytes_mut)
    }

    /// Waits for the child, at most until the deadline.
    fn invoke(&mut self) -> Result<(), EngineError> {
        for (buffer, place) in self.sent.iter().zip(&self.layout.inputs) {
            self.link.memory.write(place.start, buffer.bytes());
        }
        self.call(INVOKE, "invoke", if self.proven { self.limits.deadline } else { self.limits.start })?;
        self.proven = true;
        for (buffer, place) in self.received.iter_mut().zip(&self.layout.outputs) {
            self.link.memory.read(place.start, buffer.bytes_mut());
        }
        Ok(())
    }

    fn last_run(&self) -> Option<[MonoTime; 2]> {
        Some(self.link.last_run())
    }

    fn output_bytes(&mut self, index: usize) -> Result<&[u8], EngineError> {
        self.alive()?;
        buffer::at(self.received.iter(), index, "output").map(TensorBuffer::bytes)
    }

    /// Takes as long as building if there is state to clear.
    fn reset(&mut self) -> Result<(), EngineError> {
        if !self.stateful {
            return self.alive();
        }
        self.proven = false;
        self.call(RESET, "reset", self.limits.start)
    }
}

impl Drop for IsolatedEngine {
    fn drop(&mut self) {
        if self.lost.is_none() {
            end(&self.socket);
        }
    }
}
