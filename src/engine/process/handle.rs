//! A child process: its start, the thread that watches it, and why it ended.
//!
//! That thread starts the child, reads its output and reaps it. So no zombie is left, and no other thread waits for a
//! process that the kernel cannot end. The kernel ends the child with the thread that started it (`PR_SET_PDEATHSIG`), so
//! that must be a thread that lives as long as the child.

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

use super::log::Said;
use crate::sys::cpu::Children;

/// From the end of a process's connection to the end of the process.
pub const END_PATIENCE: Duration = Duration::from_secs(2);

/// A process that has been started and is killed when this is dropped.
pub struct Handle {
    child: Arc<Mutex<Child>>,
    pid: u32,
    pub said: Arc<Said>,
    ended: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

impl Handle {
    /// Starts `command`, whose outputs are the other end of `output`; it is one of `children` while it lives.
    pub fn start(mut command: Command, output: PipeReader, children: Children) -> io::Result<Self> {
        let said = Arc::<Said>::default();
        let (started, has_started) = channel();
        let (ends, ended) = channel();
        // A group of its own: what the child forks is killed with it, and the terminal's Ctrl-C is the daemon's alone.
        command.process_group(0);
        let listener = said.clone();
        std::thread::Builder::new()
            .name("engine-process".into())
            .spawn(move || watch(command, output, &children, &listener, &started, &ends))?;
        let gone = |_| io::Error::other("the thread that starts it has ended");
        let (child, pid) = has_started.recv().map_err(gone)??;
        Ok(Self { child, pid, said, ended, status: None })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it does so in time.
    pub fn status(&mut self, patience: Duration) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.ended.recv_timeout(patience).ok();
        }
        self.status
    }

    /// Ends it, and what it has forked.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that the number is not yet another process's.
        if matches!(child.try_wait(), Ok(None))
            && let Ok(pid) = i32::try_from(self.pid)
        {
            // It fails only if no process of the group is left.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Why it ended by itself. `memory_bytes` was its limit.
    pub fn reason(&mut self, memory_bytes: u64) -> String {
        // What closes its connection is about to end, unless it does so on purpose.
        if self.status(END_PATIENCE).is_none() {
            self.kill();
            return "it closed its connection".into();
        }
        let (signal, code) = self.status.map_or((None, None), |status| (status.signal(), status.code()));
        let how = match (signal.map(signal_name), code) {
            (Some(name), _) => name,
            (None, Some(code)) => format!("exit code {code}"),
            (None, None) => "no status".into(),
        };
        if self.said.ran_out_of_memory() {
            let mib = memory_bytes >> 20;
            return format!("it ran out of memory ({how}); its limit, memory_mib, is {mib}{}", self.said.last_words());
        }
        match signal {
            Some(signal) if signal == Signal::SIGKILL as i32 => "it was killed (SIGKILL): out of memory?".into(),
            Some(_) => format!("it crashed ({how}){}", self.said.last_words()),
            None => format!("it ended by itself ({how}){}", self.said.last_words()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.kill();
        // With a limit: a device's driver may hold the process.
        self.status(END_PATIENCE);
    }
}

pub fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
}

type Started = io::Result<(Arc<Mutex<Child>>, u32)>;

fn watch(
    mut command: Command,
    output: PipeReader,
    children: &Children,
    said: &Said,
    started: &Sender<Started>,
    ends: &Sender<ExitStatus>,
) {
    let spawned = command.spawn();
    // With it go our copies of the child's ends, so that the child's own are the last.
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
    let child = Arc::new(Mutex::new(child));
    let _ = started.send(Ok((child.clone(), pid)));
    said.collect(output);
    // Waits without reaping: that is done under the lock.
    while waitid(Id::Pid(process), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let status = child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    children.remove(process);
    if let Ok(status) = status {
        let _ = ends.send(status);
    }
}
