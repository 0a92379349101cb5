//! A running program: its output is read by the acquire thread, all else about it by a thread of its own.
//!
//! The acquire thread is that of a pipeline, or the thread of a meter that reads a program. The other thread,
//! `exec-NAME` with the name of the pipeline or meter, logs what the program writes to its standard error, so that the program never waits for
//! it. It ends a program that writes nothing any more, which the acquire thread then sees as the end of the stream. If the
//! program has ended and another process holds its output open, it ends the reading. The acquire thread alone reaps the
//! program: until then no other process can have its id.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::CpuSet;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid, getpgid};

use crate::stop::{Stop, Waited};
use crate::sys::child::{Reaped, pidfd, reap, supervise};
use crate::sys::cpu::Children;
use crate::sys::holder::{Holder, writers};
use crate::sys::output::{Limiter, LineCutter};
use crate::text::{plain, without_users_in_urls};
use crate::units::MonoTime;

/// The time from SIGTERM to SIGKILL.
const TERM_LIMIT: Duration = Duration::from_millis(500);
/// A process that is killed is gone after this time, and has closed its files, unless a driver holds it in the kernel.
const KILL_LIMIT: Duration = Duration::from_millis(250);
const CLOSE_LIMIT: Duration = Duration::from_millis(50);
/// The time from the end of the program to the end of its output, and the other way round.
const REST_LIMIT: Duration = Duration::from_secs(1);
/// The lines of standard error that are logged, at most, in this time, however often the program is started in it.
const LOGGED_LINES: u32 = 10;
const LOGGED_PERIOD: Duration = Duration::from_secs(10);
/// Room in the program's pipe, in which it can write while edgewatt is busy.
const PIPE_BYTES: usize = 1 << 20;
/// So many bytes are read at once from standard error, and at most so many times after the end.
const PIECE_BYTES: usize = 4096;
const LAST_PIECES: usize = 64;

/// How a program is started.
pub(crate) struct Launch<'a> {
    pub program: &'a Path,
    pub arguments: &'a [String],
    pub env: &'a BTreeMap<String, String>,
    pub directory: Option<&'a Path>,
    pub cpus: Option<CpuSet>,
    /// A program that writes nothing for this long is ended.
    pub silence: Option<Duration>,
    /// The program's name, for the log.
    pub name: &'a str,
    pub owner: &'a Owner,
    pub limiter: &'a LogLimiter,
    pub children: &'a Children,
}

/// What reads the program's output.
#[derive(Debug, Clone)]
pub(crate) enum Owner {
    Pipeline(String),
    Meter(String),
}

impl Owner {
    fn name(&self) -> &str {
        let (Self::Pipeline(name) | Self::Meter(name)) = self;
        name
    }

    /// Returns its name as a field of a log line; `None`: it is not a pipeline.
    fn pipeline(&self) -> Option<&str> {
        if let Self::Pipeline(name) = self { Some(name) } else { None }
    }

    /// Returns its name as a field of a log line; `None`: it is not a meter.
    fn meter(&self) -> Option<&str> {
        if let Self::Meter(name) = self { Some(name) } else { None }
    }
}

/// Limits what is logged of the programs of one source, which run one after the other.
pub(crate) type LogLimiter = Arc<Mutex<Limiter>>;

pub(crate) fn log_limiter() -> LogLimiter {
    Arc::new(Mutex::new(Limiter::new(LOGGED_LINES, LOGGED_PERIOD, Instant::now())))
}

/// A running program, whose standard output is read here. Dropping this ends it.
pub(crate) struct Child {
    stdout: ChildStdout,
    /// The end at which its standard error is read.
    stderr: OwnedFd,
    /// Readable when `stdout` is, or when the reading is over.
    readable: Epoll,
    /// Bytes that may be read when the reading is over: the program has not left more in its pipe.
    rest: usize,
    process: Arc<Process>,
    /// Stops the thread that watches it.
    done: Arc<Stop>,
    watch: Option<JoinHandle<()>>,
    children: Children,
    name: String,
}

/// What both threads know of the program.
struct Process {
    pid: Pid,
    /// Readable when the program has ended.
    ended: OwnedFd,
    /// Requested when the program has ended and another process holds its output open: what is in the pipe is the rest.
    over: Stop,
    /// When its output was read last.
    read_at: AtomicU64,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    last_line: Option<String>,
    /// Why edgewatt ended it.
    cause: Option<Cause>,
}

/// Why edgewatt ended a program.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cause {
    /// It wrote nothing for this long.
    Silent(Duration),
    /// It had closed its output, but did not end.
    Closed,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct End {
    cause: Option<Cause>,
    /// `None` if the kernel could not end it in time.
    status: Option<ExitStatus>,
    last_line: Option<String>,
}

impl End {
    /// Returns whether it has written all that it had to write.
    pub(crate) fn is_success(&self) -> bool {
        match self.cause {
            None => self.status.is_some_and(|status| status.success()),
            Some(Cause::Closed) => true,
            Some(Cause::Silent(_)) => false,
        }
    }
}

/// In words that follow the program's name.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Some(Cause::Silent(silence)) => write!(
                f,
                "wrote nothing for {} s and was ended; if it collects its output before it writes, start it with stdbuf -oL, \
                 or python3 with -u",
                silence.as_secs_f64()
            )?,
            Some(Cause::Closed) => f.write_str("closed its standard output, did not end, and was ended")?,
            None => match self.status.map(|status| (status.signal(), status.code())) {
                Some((Some(signal), _)) => match Signal::try_from(signal) {
                    Ok(signal) => write!(f, "was ended by {signal}")?,
                    Err(_) => write!(f, "was ended by signal {signal}")?,
                },
                Some((None, Some(code))) => write!(f, "ended with exit code {code}")?,
                Some((None, None)) | None => f.write_str("ended")?,
            },
        }
        match &self.last_line {
            Some(line) => write!(f, "; its last line on standard error: {line}"),
            None => Ok(()),
        }
    }
}

impl Child {
    /// Starts the program. Call it on a thread that lives as long as the program.
    ///
    /// # Errors
    /// The program cannot be started, or not be watched.
    pub(crate) fn start(launch: &Launch<'_>) -> io::Result<Self> {
        let mut command = Command::new(launch.program);
        command.args(launch.arguments).envs(launch.env);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(directory) = launch.directory {
            command.current_dir(directory);
        }
        supervise(&mut command, launch.cpus);
        let mut started = command.spawn()?;
        let pid = Pid::from_raw(started.id().cast_signed());
        launch.children.add(pid);
        let child = Self::watched(launch, pid, started.stdout.take(), started.stderr.take());
        if child.is_err() {
            let _ = killpg(pid, Signal::SIGKILL);
            give_back(pid, reap(pid, true), launch.children);
        }
        let (pipeline, meter) = (launch.owner.pipeline(), launch.owner.meter());
        tracing::debug!(pipeline, meter, program = launch.name, pid = pid.as_raw(), "started");
        child
    }

    fn watched(
        launch: &Launch<'_>,
        pid: Pid,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> io::Result<Self> {
        let no_pipe = || io::Error::other("it has no pipe for its output");
        let (stdout, stderr) = (stdout.ok_or_else(no_pipe)?, stderr.ok_or_else(no_pipe)?);
        // With less room, a program waits more often; that is all.
        let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        fcntl(&stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        fcntl(&stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let over = Stop::new()?;
        let readable = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        readable.add(&stdout, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        readable.add(over.descriptor()?, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        let process = Arc::new(Process {
            pid,
            ended: pidfd(pid)?,
            over,
            read_at: AtomicU64::new(MonoTime::now().0),
            said: Mutex::default(),
        });
        let done = Arc::new(Stop::new()?);
        let stderr_end = stderr.as_fd().try_clone_to_owned()?;
        let watch = Watch {
            process: process.clone(),
            done: done.clone(),
            output: stdout.as_fd().try_clone_to_owned()?,
            stderr: Some(stderr),
            cutter: LineCutter::with_carriage_returns(),
            limiter: launch.limiter.clone(),
            silence: launch.silence,
            name: launch.name.to_owned(),
            owner: launch.owner.clone(),
        };
        let name = format!("exec-{}", launch.owner.name());
        let watch = Some(std::thread::Builder::new().name(name).spawn(move || watch.run())?);
        let name = launch.name.to_owned();
        let children = launch.children.clone();
        Ok(Self { stdout, stderr: stderr_end, readable, rest: PIPE_BYTES, process, done, watch, children, name })
    }

    /// Ends the program, if it has not ended, all that it has started in its process group, and what else holds its output
    /// open; within a second, unless the program has closed its output and `stop` is not requested. Returns how it ended.
    pub(crate) fn end(&mut self, stop: &Stop) -> End {
        let ended = [PollFd::new(self.process.ended.as_fd(), PollFlags::POLLIN)];
        if !stop.is_requested() {
            // Its output has ended, so it is normally about to end.
            let waited = stop.wait(&mut ended.clone(), Some(MonoTime::now() + REST_LIMIT));
            if matches!(waited, Ok(Waited::TimedOut)) {
                self.process.said().cause.get_or_insert(Cause::Closed);
            }
        }
        self.finish()
    }

    fn finish(&mut self) -> End {
        let Some(watch) = self.watch.take() else { return End { cause: None, status: None, last_line: None } };
        let pid = self.process.pid;
        // It fails only if no process of the group is left.
        let _ = killpg(pid, Signal::SIGTERM);
        self.wait_for_all(TERM_LIMIT);
        // The program itself was not reaped, so the id of the group is still its own.
        let _ = killpg(pid, Signal::SIGKILL);
        let is_gone = is_ready(self.process.ended.as_fd(), KILL_LIMIT);
        self.kill_others();
        self.done.request();
        // It only waits for what the line before ends.
        let _ = watch.join();
        let status = if is_gone {
            give_back(pid, reap(pid, false), &self.children)
        } else {
            tracing::warn!(
                program = self.name,
                pid = pid.as_raw(),
                "the kernel cannot end it yet; it is left to itself"
            );
            let children = self.children.clone();
            // Waits for as long as the kernel needs. If no thread can be had, the daemon's own end reaps it.
            let reaper = move || _ = give_back(pid, reap(pid, true), &children);
            let _ = std::thread::Builder::new().name("exec-reaper".into()).spawn(reaper);
            None
        };
        let said = self.process.said();
        End { cause: said.cause, status, last_line: said.last_line.clone() }
    }

    /// Kills the processes that the program has started and that have left its group, but hold its output open: the program
    /// is started again, and they might have its device.
    fn kill_others(&self) {
        let pipes = [self.stdout.as_fd(), self.stderr.as_fd()];
        if pipes.iter().all(|pipe| is_closed(*pipe, CLOSE_LIMIT)) {
            return;
        }
        let pid_of = |holder: &Holder| Pid::from_raw(holder.pid.cast_signed());
        let mut others: Vec<Holder> = pipes.iter().flat_map(|pipe| writers(Path::new("/proc"), *pipe)).collect();
        // Those of the group are killed already.
        others.retain(|other| getpgid(Some(pid_of(other))).is_ok_and(|group| group != self.process.pid));
        others.dedup_by_key(|other| other.pid);
        for other in &others {
            match kill(pid_of(other), Signal::SIGKILL) {
                Ok(()) => tracing::warn!(program = self.name, "{other} still held its output open, and was killed"),
                Err(error) => {
                    tracing::warn!(
                        program = self.name,
                        "{other} still holds its output open, and cannot be killed: {error}"
                    );
                }
            }
        }
        if others.is_empty() && !pipes.iter().all(|pipe| is_closed(*pipe, Duration::ZERO)) {
            tracing::warn!(
                program = self.name,
                "another process, which edgewatt may not look at, still holds its output open; end it yourself"
            );
        }
    }

    /// Waits until the program has ended and no process holds its output open. What they still write is thrown away, so that
    /// they do not wait for a full pipe.
    fn wait_for_all(&mut self, limit: Duration) {
        let until = MonoTime::now() + limit;
        let (mut is_open, mut rest) = (true, [0; PIECE_BYTES]);
        loop {
            let left = until.since(MonoTime::now());
            if !is_open {
                is_ready(self.process.ended.as_fd(), left);
                return;
            }
            if left.is_zero() || !is_ready(self.stdout.as_fd(), left) {
                return;
            }
            match self.stdout.read(&mut rest) {
                Ok(0) => is_open = false,
                Err(error) if error.kind() != ErrorKind::Interrupted => is_open = false,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Read for Child {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Asked before the read: what the program has written was in the pipe by then.
        let is_over = self.process.over.is_requested();
        let most = if is_over { self.rest.min(buffer.len()) } else { buffer.len() };
        let read = self.stdout.read(&mut buffer[..most]);
        self.process.read_at.store(MonoTime::now().0, Relaxed);
        match read {
            Ok(count) if is_over => {
                self.rest -= count;
                Ok(count)
            }
            Err(error) if is_over && error.kind() == ErrorKind::WouldBlock => Ok(0),
            read => read,
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.0.as_fd()
    }
}

/// Takes a reaped program off the list of ours. Returns how it ended.
fn give_back(pid: Pid, reaped: io::Result<Option<Reaped>>, children: &Children) -> Option<ExitStatus> {
    let reaped = reaped.ok().flatten();
    children.remove_with(pid, reaped.map_or(Duration::ZERO, |reaped| reaped.below));
    reaped.map(|reaped| reaped.status)
}

/// Waits until `fd` can be read, or its other end is closed.
fn is_ready(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    flags(fd, PollFlags::POLLIN, limit).is_some_and(|flags| !flags.is_empty())
}

/// Waits until no process can write into the pipe that is read at `fd`.
fn is_closed(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    flags(fd, PollFlags::empty(), limit).is_some_and(|flags| flags.contains(PollFlags::POLLHUP))
}

fn flags(fd: BorrowedFd<'_>, events: PollFlags, limit: Duration) -> Option<PollFlags> {
    let until = MonoTime::now() + limit;
    loop {
        let mut fds = [PollFd::new(fd, events)];
        match ppoll(&mut fds, Some(TimeSpec::from(until.since(MonoTime::now()))), None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return fds[0].revents(),
            Err(_) => return None,
        }
    }
}

impl Process {
    fn said(&self) -> MutexGuard<'_, Said> {
        // What is under the lock is replaced as a whole.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches a program.
struct Watch {
    process: Arc<Process>,
    done: Arc<Stop>,
    /// The end at which the program's output is read.
    output: OwnedFd,
    stderr: Option<ChildStderr>,
    cutter: LineCutter,
    limiter: LogLimiter,
    silence: Option<Duration>,
    name: String,
    owner: Owner,
}

impl Watch {
    fn run(mut self) {
        // What is to be done, and when.
        let mut due: VecDeque<(MonoTime, Step)> = VecDeque::new();
        if let Some(silence) = self.silence {
            due.push_back((MonoTime::now() + silence, Step::CheckSilence(silence)));
        }
        let mut has_ended = false;
        loop {
            let mut fds = Vec::with_capacity(2);
            if !has_ended {
                fds.push(PollFd::new(self.process.ended.as_fd(), PollFlags::POLLIN));
            }
            if let Some(stderr) = &self.stderr {
                fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLIN));
            }
            match self.done.wait(&mut fds, due.front().map(|(when, _)| *when)) {
                Ok(Waited::Stopped) | Err(_) => break,
                Ok(Waited::TimedOut) => {
                    let Some((_, step)) = due.pop_front() else { continue };
                    due.extend(self.take(step));
                }
                Ok(Waited::Ready) => {
                    if !has_ended && fds.first().is_some_and(|fd| fd.any().unwrap_or(true)) {
                        has_ended = true;
                        due = [(MonoTime::now() + REST_LIMIT, Step::CheckOutput)].into();
                    }
                    drop(fds);
                    self.read_lines(1);
                }
            }
        }
        // Its last words are the most telling ones.
        self.read_lines(LAST_PIECES);
        let Self { cutter, limiter, process, name, owner, .. } = &mut self;
        cutter.end(|line| log(line, limiter, process, name, owner));
        let left_out = limiter.lock().unwrap_or_else(PoisonError::into_inner).take_left_out();
        if left_out > 0 {
            log_left_out(left_out, name, owner);
        }
    }

    /// Does what is due. Returns the next step and its time.
    fn take(&self, step: Step) -> Option<(MonoTime, Step)> {
        let now = MonoTime::now();
        match step {
            Step::CheckSilence(silence) => {
                let read_at = MonoTime(self.process.read_at.load(Relaxed));
                if now.since(read_at) < silence {
                    return Some((read_at + silence, step));
                }
                // What waits to be read is not the program's silence.
                if is_ready(self.output.as_fd(), Duration::ZERO) {
                    return Some((now + silence, step));
                }
                Some(self.end(Cause::Silent(silence), now))
            }
            Step::CheckOutput => {
                if !is_closed(self.output.as_fd(), Duration::ZERO) {
                    self.process.over.request();
                }
                None
            }
            Step::Kill => {
                let _ = killpg(self.process.pid, Signal::SIGKILL);
                None
            }
        }
    }

    /// Asks the program to end. Its output then ends, and the acquire thread does the rest.
    fn end(&self, cause: Cause, now: MonoTime) -> (MonoTime, Step) {
        self.process.said().cause.get_or_insert(cause);
        let _ = killpg(self.process.pid, Signal::SIGTERM);
        (now + TERM_LIMIT, Step::Kill)
    }

    fn read_lines(&mut self, pieces: usize) {
        let Self { stderr, cutter, limiter, process, name, owner, .. } = self;
        let mut piece = [0; PIECE_BYTES];
        for _ in 0..pieces {
            let Some(from) = stderr else { return };
            match from.read(&mut piece) {
                Ok(0) => *stderr = None,
                Ok(count) => {
                    let bytes = piece.get(..count).unwrap_or_default();
                    cutter.take(bytes, |line| log(line, limiter, process, name, owner));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => *stderr = None,
            }
        }
    }
}

/// What the thread that watches a program does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    CheckSilence(Duration),
    CheckOutput,
    Kill,
}

/// Logs a line of the program, and keeps it.
fn log(line: &str, limiter: &Mutex<Limiter>, process: &Process, name: &str, owner: &Owner) {
    let line = plain(&without_users_in_urls(line.trim()));
    if line.is_empty() {
        return;
    }
    let admitted = limiter.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
    if let Some(left_out) = admitted {
        if left_out > 0 {
            log_left_out(left_out, name, owner);
        }
        tracing::info!(pipeline = owner.pipeline(), meter = owner.meter(), "{name}: {line}");
    }
    process.said().last_line = Some(line);
}

fn log_left_out(left_out: u64, name: &str, owner: &Owner) {
    let (pipeline, meter) = (owner.pipeline(), owner.meter());
    tracing::info!(pipeline, meter, program = name, left_out, "more lines than are logged");
}
