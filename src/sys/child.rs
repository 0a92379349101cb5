//! A child process that does not outlive its daemon, and that is waited for and reaped with its processor time.
//!
//! Owns what the child inherits. `source::exec` decides when a child starts and ends.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, getpid, getppid, setsid};

/// Variables from systemd that are meant for the daemon only.
pub const NOT_INHERITED: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "JOURNAL_STREAM",
    "CREDENTIALS_DIRECTORY",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// `CLOSE_RANGE_CLOEXEC` of close_range(2).
const CLOSE_ON_EXEC: libc::c_uint = 1 << 2;
/// The first descriptor behind the standard streams.
const FIRST_OTHER_FD: libc::c_uint = 3;

/// Makes `command` start in a session and process group of its own, without a terminal, with no signal blocked, on the
/// processors `cpus`, and with no open file but its standard streams. The kernel kills it (SIGKILL) when the thread that
/// started it has ended.
pub fn supervise(command: &mut Command, cpus: Option<CpuSet>) {
    for variable in NOT_INHERITED {
        command.env_remove(variable);
    }
    let parent = getpid();
    let prepare = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        setsid()?;
        SigSet::empty().thread_set_mask()?;
        if let Some(cpus) = &cpus {
            // A processor that has gone offline does not keep the program from running on others.
            let _ = sched_setaffinity(Pid::from_raw(0), cpus);
        }
        // Rust closes its files itself; a vendor's library may not. An old kernel lacks the call.
        // SAFETY: takes numbers alone, and closes nothing before the exec.
        let _ = unsafe { libc::syscall(libc::SYS_close_range, FIRST_OTHER_FD, libc::c_uint::MAX, CLOSE_ON_EXEC) };
        Ok(())
    };
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe functions may be called. It
    // makes system calls alone, through wrappers that neither allocate nor lock; its errors are numbers.
    unsafe { command.pre_exec(prepare) };
}

/// Returns a descriptor that becomes readable when the child `pid`, which was not reaped yet, has ended.
///
/// # Errors
/// The kernel is older than Linux 5.3, or has no descriptor left.
pub fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers alone. The kernel sets close-on-exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened this descriptor, and no other code has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A child that was reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    pub status: ExitStatus,
    /// Processor time of processes that it had started and waited for.
    pub below: Duration,
}

/// Reaps the child `pid`; `wait`: waits until it has ended. Returns `None` if it has not ended yet.
///
/// # Errors
/// It is not a child of this process, or was reaped before.
pub fn reap(pid: Pid, wait: bool) -> io::Result<Option<Reaped>> {
    if wait {
        use nix::errno::Errno;
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    }
    let own = clock_getcpuclockid(pid).and_then(clock_gettime).map_or(Duration::ZERO, Duration::from);
    let mut status = 0;
    // SAFETY: `rusage` is integers alone, for which zero is a value; both places live until the call returns.
    let (reaped, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid.as_raw(), &raw mut status, libc::WNOHANG, &raw mut usage), usage)
    };
    match reaped {
        0 => Ok(None),
        pid if pid > 0 => {
            let all = duration(usage.ru_utime) + duration(usage.ru_stime);
            Ok(Some(Reaped { status: ExitStatus::from_raw(status), below: all.saturating_sub(own) }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

    use super::*;

    fn supervised(script: &str) -> (std::process::Child, Pid) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        supervise(&mut command, None);
        let child = command.spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (child, pid)
    }

    fn output(child: &mut std::process::Child) -> String {
        let mut text = String::new();
        io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut text).unwrap();
        text
    }

    #[test]
    fn a_child_has_a_group_of_its_own_and_nothing_of_ours() {
        // A signal that this thread blocks, and a file that stays open over an exec.
        SigSet::from_iter([Signal::SIGTERM]).thread_block().unwrap();
        let (_reader, writer) = nix::unistd::pipe().unwrap();
        let leaked = std::os::fd::AsRawFd::as_raw_fd(&writer);
        let script = "grep -E '^(SigBlk|SigIgn):' /proc/self/status; ls -l /proc/self/fd; ps -o pid=,pgid=,sid= -p $$ \
                      2>/dev/null || cut -d' ' -f1,5,6 /proc/$$/stat";
        let (mut child, pid) = supervised(script);
        let text = output(&mut child);
        SigSet::from_iter([Signal::SIGTERM]).thread_unblock().unwrap();
        let mask = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
        };
        assert_eq!(mask("SigBlk"), 0, "{text}");
        assert_eq!(mask("SigIgn") & 1 << (Signal::SIGPIPE as u32 - 1), 0, "{text}");
        assert!(!text.contains(&format!(" {leaked} -> pipe")), "{text}");
        let ids: Vec<i32> = text.lines().last().unwrap().split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(ids, [pid.as_raw(); 3]);
        assert!(reap(pid, true).unwrap().unwrap().status.success());
    }

    #[test]
    fn the_end_of_a_child_is_seen_and_its_own_time_is_told_from_that_of_its_children() {
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let (mut child, pid) = supervised(&format!("sh -c '{busy}'; exit 3"));
        let fd = pidfd(pid).unwrap();
        assert_eq!(output(&mut child), "");
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(60_000u16)).unwrap(), 1);
        let reaped = reap(pid, false).unwrap().unwrap();
        assert_eq!(reaped.status.code(), Some(3));
        assert!(reaped.below > Duration::from_millis(10), "{reaped:?}");
        assert!(reap(pid, false).is_err(), "it is gone");

        let (_child, pid) = supervised(busy);
        let reaped = reap(pid, true).unwrap().unwrap();
        assert!(reaped.below < Duration::from_millis(10), "{reaped:?}");
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let (child, pid) = std::thread::spawn(|| supervised("exec sleep 1000")).join().unwrap();
        let reaped = reap(pid, true).unwrap().unwrap();
        assert_eq!(reaped.status.signal(), Some(Signal::SIGKILL as i32));
        drop(child);
    }
}
