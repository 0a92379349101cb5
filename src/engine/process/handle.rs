//! Starts a child process, watches it on a thread, and finds out why it ended.
//!
//! The thread starts the child, reads its output and reaps it. So no zombie is left, and no other thread waits for a
//! process that the kernel cannot end. The kernel ends the child together with the thread that started it
//! (`PR_SET_PDEATHSIG`), so this thread must live as long as the child.

use std::io::{self, PipeReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::child::NO_HOST;
use super::log::Said;
use super::sandbox::{FILE_BYTES, inherited_limit};
use crate::sys::cpu::Children;

/// The longest time from the end of a process's connection to the end of the process.
pub(crate) const END_PATIENCE: Duration = Duration::from_secs(2);

/// The exit codes of a process that has not come to its work: the child's own, and that of the loader of programs.
const NOT_STARTED: [i32; 2] = [NO_HOST as i32, 127];

/// A started process. Dropping this kills it.
pub(crate) struct Handle {
    child: Arc<Unreaped>,
    pid: u32,
    pub said: Arc<Said>,
    ended: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
    /// How many processes the kernel had killed for want of memory, when this one was started.
    oom_kills: Option<u64>,
}

/// Why a process ended by itself.
pub(crate) struct End {
    pub reason: String,
    /// The machine lacked something, so it says nothing about what the process ran.
    pub is_machine: bool,
}

impl Handle {
    /// Starts `command`, which writes to the other end of `output`. It is listed in `children` while it runs.
    pub(crate) fn start(mut command: Command, output: PipeReader, children: Children) -> io::Result<Self> {
        let said = Arc::<Said>::default();
        let (started, has_started) = channel();
        let (ends, ended) = channel();
        // In its own process group, so that what the child forks is killed with it, and Ctrl-C reaches the daemon only.
        command.process_group(0);
        let listener = said.clone();
        std::thread::Builder::new()
            .name("engine-process".into())
            .spawn(move || watch(command, output, &children, &listener, &started, &ends))?;
        let gone = |_| io::Error::other("the thread that starts it has ended");
        let (child, pid) = has_started.recv().map_err(gone)??;
        Ok(Self { child, pid, said, ended, status: None, oom_kills: oom_kills() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns how it ended, if it ends within the time.
    pub(crate) fn status(&mut self, patience: Duration) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.ended.recv_timeout(patience).ok();
        }
        self.status
    }

    /// Kills it and what it has forked, also if it has ended itself: what it forked may hold its output and a device.
    pub(crate) fn kill(&self) {
        // Under the lock: until the process is reaped, no other process or group can have its id.
        if let Some(child) = &mut *self.child.lock().unwrap_or_else(PoisonError::into_inner) {
            kill_all(child);
        }
    }

    /// Returns why it ended by itself. `memory_bytes` is the limit that it was to have.
    pub(crate) fn end(&mut self, memory_bytes: u64) -> End {
        // A process that has closed its connection is normally about to end.
        if self.status(END_PATIENCE).is_none() {
            self.kill();
            return End { reason: "it closed its connection".into(), is_machine: false };
        }
        let (signal, code) = self.status.map_or((None, None), |status| (status.signal(), status.code()));
        let how = match (signal.map(signal_name), code) {
            (Some(name), _) => name,
            (None, Some(code)) => format!("exit code {code}"),
            (None, None) => "no status".into(),
        };
        let inherited = inherited_limit(memory_bytes);
        let limit = match inherited {
            Some(bytes) => format!("edgewatt itself is limited to {} MiB of address space (RLIMIT_AS)", bytes >> 20),
            None => format!("its limit, memory_mib, is {}", memory_bytes >> 20),
        };
        if self.said.ran_out_of_memory() {
            let reason = format!("it ran out of memory ({how}); {limit}{}", self.said.last_words());
            return End { reason, is_machine: inherited.is_some() };
        }
        let words = self.said.last_words();
        match signal {
            Some(signal) if signal == Signal::SIGKILL as i32 => {
                let reason = if oom_kills() > self.oom_kills {
                    "the kernel killed it (SIGKILL), because the machine or the service ran out of memory"
                } else {
                    "it was killed (SIGKILL): out of memory?"
                };
                End { reason: reason.into(), is_machine: true }
            }
            // Little memory makes libraries crash in any way.
            Some(_) if inherited.is_some() => {
                End { reason: format!("it crashed ({how}); {limit}{words}"), is_machine: true }
            }
            Some(signal) if signal == Signal::SIGXFSZ as i32 => {
                let reason = format!("it wrote a file of more than {} MiB ({how}){words}", FILE_BYTES >> 20);
                End { reason, is_machine: false }
            }
            Some(_) => End { reason: format!("it crashed ({how}){words}"), is_machine: false },
            None => {
                let is_machine = code.is_some_and(|code| NOT_STARTED.contains(&code));
                End { reason: format!("it ended by itself ({how}){words}"), is_machine }
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.kill();
        // With a time limit, because a device's driver may keep the process from ending.
        self.status(END_PATIENCE);
    }
}

/// Returns how many processes the kernel has killed since it started, because memory ran out; `None` if it does not say.
fn oom_kills() -> Option<u64> {
    let counters = std::fs::read_to_string("/proc/vmstat").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

pub(crate) fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
}

/// A child until it is reaped. From then on its id may be another process's.
type Unreaped = Mutex<Option<Child>>;

/// Kills the process and its group.
fn kill_all(child: &mut Child) {
    // It fails only if no process of the group is left.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    // It may have left the group, where the kernel does not restrict it.
    let _ = child.kill();
}

type Started = io::Result<(Arc<Unreaped>, u32)>;

fn watch(
    mut command: Command,
    output: PipeReader,
    children: &Children,
    said: &Said,
    started: &Sender<Started>,
    ends: &Sender<ExitStatus>,
) {
    let spawned = command.spawn();
    // This also closes the daemon's copies of the child's ends, so that only the child's own are left.
    drop(command);
    let child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let pid = child.id();
    let process = Pid::from_raw(pid.cast_signed());
    children.add(process);
    let child = Arc::new(Mutex::new(Some(child)));
    let _ = started.send(Ok((child.clone(), pid)));
    said.collect(output);
    // Waits without reaping; the reaping is done under the lock.
    while waitid(Id::Pid(process), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let reaped = child.lock().unwrap_or_else(PoisonError::into_inner).take();
    let status = reaped.map(|mut child| {
        kill_all(&mut child);
        child.wait()
    });
    children.remove(process);
    if let Some(Ok(status)) = status {
        let _ = ends.send(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a shell ends that is to be the child.
    fn end(script: &str) -> End {
        let (output, childs_output) = io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stderr(childs_output);
        Handle::start(command, output, Children::default()).unwrap().end(1 << 40)
    }

    #[test]
    fn what_the_machine_lacks_is_told_from_what_the_model_does() {
        for (script, is_machine, reason) in [
            ("kill -KILL $$", true, "it was killed (SIGKILL)"),
            ("echo 'sh: error while loading shared libraries' >&2; exit 127", true, "exit code 127"),
            ("echo 'ERROR: Too many open files' >&2; exit 4", true, "(exit code 4) (it says: ERROR: Too many"),
            ("kill -SEGV $$", false, "it crashed (SIGSEGV)"),
            ("exit 3", false, "it ended by itself (exit code 3)"),
        ] {
            let end = end(script);
            assert_eq!(end.is_machine, is_machine, "{script}: {}", end.reason);
            assert!(end.reason.contains(reason), "{script}: {}", end.reason);
        }
    }
}
