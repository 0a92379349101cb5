//! Real-time scheduling for the calling thread, and locked memory, if the kernel permits them.
//!
//! Calls the kernel directly, without rtkit. A refusal is returned as a warning for the user; the daemon runs on without.
#![allow(unsafe_code)]

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::Pid;

/// The nice value that is tried if no real-time priority is permitted: ahead of ordinary programs.
const NICE: i32 = -11;
/// `CAP_IPC_LOCK` of capabilities(7).
const IPC_LOCK: u64 = 1 << 14;
const PRIORITY_FIX: &str =
    "set RestrictRealtime=no, LimitRTPRIO=99 and SystemCallFilter=@resources with sudo systemctl edit edgewatt";
const MEMORY_FIX: &str = "set LimitMEMLOCK=infinity with sudo systemctl edit edgewatt";

/// Schedules the calling thread by SCHED_FIFO with `priority`, 1 to 99. If that is not permitted, with the highest priority
/// that is; else with a nice value ahead of ordinary programs. Processes and threads that it starts are ordinary again
/// (SCHED_RESET_ON_FORK, sched(7)).
///
/// # Errors
/// The priority was not granted; the text says what was done instead and how to fix it.
pub fn prioritise(priority: u8) -> Result<(), String> {
    let Err(error) = fifo(priority) else { return Ok(()) };
    let refused = format!("no real-time priority {priority}: {error}");
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(refused);
    }
    let allowed = getrlimit(Resource::RLIMIT_RTPRIO).map_or(0, |(soft, _)| soft);
    let lower = u8::try_from(allowed).ok().filter(|allowed| (1..priority).contains(allowed));
    if let Some(lower) = lower.filter(|lower| fifo(*lower).is_ok()) {
        return Err(format!("{refused}; the thread runs with {lower}, the highest permitted; {PRIORITY_FIX}"));
    }
    // SAFETY: takes numbers alone. On Linux the nice value of 0 is the calling thread's own.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } {
        0 => Err(format!("{refused}; the thread runs with the nice value {NICE} instead; {PRIORITY_FIX}")),
        _ => Err(format!("{refused}; the thread runs like any other; {PRIORITY_FIX}")),
    }
}

/// Returns the real-time priority of the calling thread; `None` if it has none. A thread that it starts has none either.
pub fn priority() -> Option<u8> {
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel writes the struct, which lives until the call returns; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_getparam, 0, &raw mut parameters) };
    // An ordinary thread has priority 0.
    u8::try_from(parameters.sched_priority).ok().filter(|priority| result == 0 && *priority > 0)
}

fn fifo(priority: u8) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority.into() };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads the struct, which lives until the call returns; 0 is the calling thread. The system call is
    // made directly, because C libraries implement their function differently.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Binds the calling thread to these processors, numbered from 0.
///
/// # Errors
/// The thread is not bound; the text says why.
pub fn bind(cpus: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    let bound = cpus.iter().try_for_each(|cpu| set.set(*cpu)).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    bound.map_err(|errno| match errno {
        Errno::EINVAL => format!("not bound to processors {cpus:?}: this machine or service has none of these"),
        Errno::EPERM => format!(
            "not bound to processors {cpus:?}: this service may not; set SystemCallFilter=@resources with sudo systemctl \
             edit edgewatt"
        ),
        errno => format!("not bound to processors {cpus:?}: {}", io::Error::from(errno)),
    })
}

/// Locks all memory of this process in RAM, also what it allocates later.
///
/// # Errors
/// The memory is not locked; the text says why and how to fix it.
pub fn lock_memory() -> Result<(), String> {
    // With a limit, later allocations would fail.
    let unlimited = getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    if !unlimited && capabilities().is_none_or(|held| held & IPC_LOCK == 0) {
        return Err(format!("memory is not locked, because the limit for locked memory is too low; {MEMORY_FIX}"));
    }
    // Pages are locked when they are first used, not before.
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    mlockall(flags | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT))
        .map_err(|errno| format!("memory is not locked: {}; {MEMORY_FIX}", io::Error::from(errno)))
}

/// Returns the effective capabilities of this process, one bit each.
fn capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_is_not_there_is_refused_and_the_thread_stays_where_it_was() {
        std::thread::spawn(|| {
            let before = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
            assert!(bind(&[1023]).unwrap_err().contains("has none of these"));
            assert!(bind(&[1 << 20]).is_err());
            assert_eq!(nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap(), before);
            let first = (0..CpuSet::count()).find(|cpu| before.is_set(*cpu).unwrap()).unwrap();
            bind(&[first]).unwrap();
            let now = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
            assert_eq!((0..CpuSet::count()).filter(|cpu| now.is_set(*cpu).unwrap()).collect::<Vec<_>>(), [first]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn an_impossible_priority_is_reported() {
        let refused = std::thread::spawn(|| prioritise(100)).join().unwrap().unwrap_err();
        assert!(refused.starts_with("no real-time priority 100: Invalid argument"), "{refused}");
    }

    #[test]
    fn a_thread_knows_its_priority_which_the_threads_that_it_starts_do_not_have() {
        std::thread::spawn(|| {
            assert_eq!(priority(), None);
            // Without the right to it, the thread stays as it is.
            let granted = prioritise(3).is_ok();
            assert_eq!(priority(), granted.then_some(3));
            assert_eq!(std::thread::spawn(priority).join().unwrap(), None);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn this_process_has_a_set_of_capabilities() {
        assert!(capabilities().is_some());
    }
}
