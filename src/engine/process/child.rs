//! The child: takes a model, gives up its privileges, builds the engine, and answers until its host is gone.
//!
//! The socket is its standard input, the shared memory its standard output; both are moved out of the way before a
//! vendor's code runs, which then writes to the pipe that its host reads. It has one thread of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{dup2_stdin, dup2_stdout, getppid};

use super::link::{Link, Side};
use super::{Built, FAILED, Hello, INVOKE, Layout, Message, OK, RESET, Task, read_block, sandbox};
use crate::engine::delegate::LibraryIdentity;
use crate::engine::{self, Engine, EngineError, Runtime, rows};
use crate::sys::peak_memory_mib;
use crate::sys::shared::Shared;
use crate::units::MonoTime;

/// Exit codes: done, the model is refused, the host is gone or breaks the protocol.
const DONE: u8 = 0;
const REFUSED: u8 = 3;
pub(super) const NO_HOST: u8 = 4;

/// Does all of the child's work. `argument` is what an older daemon has put on the command line: its task. Returns the exit
/// code.
pub fn run(argument: Option<&str>) -> u8 {
    let (socket, memory) = match take_over() {
        Ok(taken) => taken,
        Err(error) => {
            eprintln!("ERROR: {error}");
            return NO_HOST;
        }
    };
    let code = match work(argument, &socket, &memory) {
        Ok(()) => DONE,
        Err(Stop::Host) => NO_HOST,
        Err(Stop::Engine(error)) => match tell(&socket, &Message::Refused(error.to_string())) {
            Ok(()) => REFUSED,
            Err(_) => NO_HOST,
        },
    };
    // The kernel closes it at the very end, which shows the host that the libraries have cleaned up.
    std::mem::forget(socket);
    code
}

/// Why the child ends.
enum Stop {
    Host,
    Engine(EngineError),
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(_: std::io::Error) -> Self {
        Self::Host
    }
}

/// Moves the socket and the shared memory away from the standard streams, which libraries may read and write.
fn take_over() -> std::io::Result<(UnixStream, OwnedFd)> {
    // Ctrl-C and a service's stop also reach the child, but the host still has windows to finish.
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]).thread_block()?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let memory = std::io::stdout().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stdout(std::io::stderr())?;
    Ok((socket, memory))
}

fn work(argument: Option<&str>, socket: &UnixStream, memory: &OwnedFd) -> Result<(), Stop> {
    let task = argument.map_or_else(|| read_block(socket), |argument| Ok(argument.into()))?;
    let bytes = read_block(socket)?;
    let task = Task::parse(&task).map_err(EngineError::Refused)?;
    if getppid().as_raw() != task.parent {
        // It died before the kernel was told to end this process with it.
        return Err(Stop::Host);
    }
    let delegate = task.delegate.kind().map_err(|e| EngineError::Refused(format!("the task cannot be read: {e}")))?;
    sandbox::limit(task.memory_bytes).map_err(|e| EngineError::runtime("limit the process", e))?;
    let sandbox = sandbox::enter(&task.writable);
    let runtime = Runtime::load(Some(&task.runtime_library))?;
    // A linked runtime refuses every delegate that would have to be loaded.
    let LibraryIdentity { file: delegate_library, version: delegate_version } =
        if runtime.is_linked() { LibraryIdentity::default() } else { delegate.kind().identify_library()? };
    let (path, runtime_version) = (runtime.path.clone(), runtime.version.clone());
    tell(
        socket,
        &Message::Hello(Hello { runtime: path, runtime_version, delegate_library, delegate_version, sandbox }),
    )?;

    let (mut engine, proof) = engine::build_proven(&runtime, &task.model, &bytes, &delegate, &task.plan)?;
    drop(bytes);
    if engine.batch() > 1 {
        rows::check_independent(engine.as_mut())?;
    }
    let (inputs, outputs) = (engine.inputs().to_vec(), engine.outputs().to_vec());
    let built = |invoke| Message::Built(Built { proof, inputs, outputs, invoke, memory_mib: peak_memory_mib() });
    if task.serve {
        let layout = Layout::new(engine.inputs(), engine.outputs())?;
        tell(socket, &built(None))?;
        serve(engine.as_mut(), socket, memory, &layout)
    } else {
        let invoke = try_out(engine.as_mut())?;
        // This also finds a library that crashes when it is freed.
        drop(engine);
        tell(socket, &built(Some(invoke))).map_err(Stop::from)
    }
}

fn tell(mut socket: &UnixStream, message: &Message) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    socket.write_all(&line)
}

/// Writes zeros to the inputs, invokes, and reads the outputs. Returns how long the invocation took.
fn try_out(engine: &mut dyn Engine) -> Result<Duration, EngineError> {
    for index in 0..engine.inputs().len() {
        engine.input_bytes(index)?.fill(0);
    }
    let start = Instant::now();
    engine.invoke()?;
    let invoke = start.elapsed();
    for index in 0..engine.outputs().len() {
        if engine.outputs()[index].stored_bytes() > 0 {
            engine.output_bytes(index)?;
        }
    }
    Ok(invoke)
}

fn serve(engine: &mut dyn Engine, mut socket: &UnixStream, file: &OwnedFd, layout: &Layout) -> Result<(), Stop> {
    socket.read_exact(&mut [0])?;
    let memory = Shared::open(file, layout.total)?;
    let mut link = Link::new(Side::Child, socket.try_clone()?, memory)?;
    while let Some(command) = link.next_command() {
        let result = match command {
            INVOKE => invoke(engine, &mut link, layout),
            RESET => engine.reset(),
            other => Err(EngineError::Mismatch(format!("unknown command {other}"))),
        };
        let status = match result {
            Ok(()) => OK,
            Err(error) => {
                let reason = if let EngineError::Runtime { reason, .. } = error { reason } else { error.to_string() };
                link.leave_message(&reason);
                FAILED
            }
        };
        link.answer(status);
    }
    Ok(())
}

fn invoke(engine: &mut dyn Engine, link: &mut Link, layout: &Layout) -> Result<(), EngineError> {
    for (index, place) in layout.inputs.iter().enumerate() {
        let input = engine.input_bytes(index)?;
        check_size(place, input)?;
        link.memory.read(place.start, input);
    }
    let start = MonoTime::now();
    engine.invoke()?;
    link.note_run([start, MonoTime::now()]);
    for (index, place) in layout.outputs.iter().enumerate().filter(|(_, place)| !place.is_empty()) {
        let output = engine.output_bytes(index)?;
        check_size(place, output)?;
        link.memory.write(place.start, output);
    }
    Ok(())
}

/// Checks a tensor's size, which may have changed when the model was invoked.
fn check_size(place: &Range<usize>, tensor: &[u8]) -> Result<(), EngineError> {
    if place.len() == tensor.len() {
        return Ok(());
    }
    let (before, now) = (place.len(), tensor.len());
    Err(EngineError::Mismatch(format!("a tensor of {before} bytes now has {now}: its size depends on the data")))
}
