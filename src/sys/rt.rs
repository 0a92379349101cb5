//! Real time for the calling thread, and memory that stays in RAM, as far as the kernel permits.
//!
//! Each is asked for directly, without rtkit. What is refused costs nothing but the wish: the caller warns.
#![allow(unsafe_code)]

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::Pid;

/// The nice value that is tried where no real-time priority is given: ahead of ordinary programs.
const NICE: i32 = -11;
/// `CAP_IPC_LOCK` of capabilities(7).
const IPC_LOCK: u64 = 1 << 14;
const PRIORITY_MEND: &str = "RestrictRealtime=no and LimitRTPRIO=99 by systemctl edit edgewatt";
const MEMORY_MEND: &str = "LimitMEMLOCK=infinity by systemctl edit edgewatt";

/// Has the calling thread scheduled by SCHED_FIFO with `priority`, 1 to 99; else with as much as it may have, else ahead
/// of ordinary programs. What is not as asked for, and what would mend it.
///
/// Processes and threads that it starts are ordinary again (SCHED_RESET_ON_FORK, sched(7)).
pub(crate) fn prioritise(priority: u8) -> Result<(), String> {
    let Err(error) = fifo(priority) else { return Ok(()) };
    let refused = format!("no real-time priority {priority}: {error}");
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(refused);
    }
    let allowed = getrlimit(Resource::RLIMIT_RTPRIO).map_or(0, |(soft, _)| soft);
    let lower = u8::try_from(allowed).ok().filter(|allowed| (1..priority).contains(allowed));
    if let Some(lower) = lower.filter(|lower| fifo(*lower).is_ok()) {
        return Err(format!("{refused}; it has {lower}, the most that it may; {PRIORITY_MEND}"));
    }
    // SAFETY: takes numbers alone. On Linux the nice value of 0 is the calling thread's own.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } {
        0 => Err(format!("{refused}; it is nice {NICE} instead; {PRIORITY_MEND}")),
        _ => Err(format!("{refused}; it is scheduled like any other; {PRIORITY_MEND}")),
    }
}

fn fifo(priority: u8) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority.into() };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads the struct, which lives until the call returns; 0 is the calling thread. It is called
    // directly, as C libraries differ in what they make of it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps the calling thread on these processors, numbered from 0; what is not as asked for.
pub(crate) fn bind(cpus: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    let bound = cpus.iter().try_for_each(|cpu| set.set(*cpu)).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    bound.map_err(|errno| match errno {
        Errno::EINVAL => format!("not bound to processors {cpus:?}: this machine or service has none of them"),
        errno => format!("not bound to processors {cpus:?}: {}", io::Error::from(errno)),
    })
}

/// Keeps all memory of this process in RAM, that which it has and that which is to come; what is not as asked for.
pub(crate) fn lock_memory() -> Result<(), String> {
    // Under a limit later allocations would fail, and the daemon with them.
    let unlimited = getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    if !unlimited && capabilities().is_none_or(|held| held & IPC_LOCK == 0) {
        return Err(format!("memory is not locked, as only a part of it may be; {MEMORY_MEND}"));
    }
    // What is never used need not be there.
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    mlockall(flags | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT))
        .map_err(|errno| format!("memory is not locked: {}; {MEMORY_MEND}", io::Error::from(errno)))
}

/// The effective ones, a bit each.
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
            assert!(bind(&[1023]).unwrap_err().contains("has none of them"));
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
    fn an_impossible_priority_is_told() {
        let refused = std::thread::spawn(|| prioritise(100)).join().unwrap().unwrap_err();
        assert!(refused.starts_with("no real-time priority 100: Invalid argument"), "{refused}");
    }

    #[test]
    fn this_process_has_a_set_of_capabilities() {
        assert!(capabilities().is_some());
    }
}
