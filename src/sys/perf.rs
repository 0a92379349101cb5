//! Counters of the kernel's perf events, of one CPU and all processes.
//!
//! Source: `perf_event_open(2)` and `include/uapi/linux/perf_event.h`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, RawFd};

use nix::libc;

/// `PERF_FLAG_FD_CLOEXEC`.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;

/// `struct perf_event_attr` in its first version, whose size says so to the kernel (`PERF_ATTR_SIZE_VER0`, 64 bytes).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

/// An event that counts from its opening on.
#[derive(Debug)]
pub struct EventCounter(File);

impl EventCounter {
    /// Starts to count event `config` of the source `kind` (its `type` in sysfs) on `cpu`.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_PERFMON, if `perf_event_paranoid` is above 0.
    pub fn open(kind: u32, config: u64, cpu: u32) -> io::Result<Self> {
        let size = u32::try_from(size_of::<Attributes>()).map_err(io::Error::other)?;
        let mut attributes = Attributes { kind, size, config, ..Attributes::default() };
        let cpu = libc::c_int::try_from(cpu).map_err(io::Error::other)?;
        let (all_processes, no_group): (libc::pid_t, libc::c_int) = (-1, -1);
        // SAFETY: the kernel reads `size` bytes of `attributes`, which is that long and lives until the call returns; it
        // writes there only its own size, when it refuses ours.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw mut attributes, all_processes, cpu, no_group, CLOSE_ON_EXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just opened this descriptor, and no other code has it.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Returns the count since the event was opened.
    pub fn read(&self) -> io::Result<u64> {
        let mut bytes = [0; size_of::<u64>()];
        // If the event was lost, for example because its CPU went offline, no bytes come: an error here.
        (&self.0).read_exact(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOFTWARE: u32 = 1;
    const CPU_CLOCK: u64 = 0;

    #[test]
    fn the_structure_has_the_size_of_its_version() {
        assert_eq!(size_of::<Attributes>(), 64);
    }

    /// The clock of CPU 0 counts nanoseconds whatever runs there. Where perf is not permitted, it says so.
    #[test]
    fn a_count_grows_or_is_refused_with_the_reason() {
        match EventCounter::open(SOFTWARE, CPU_CLOCK, 0) {
            Ok(counter) => {
                let first = counter.read().unwrap();
                while counter.read().unwrap() == first {}
                assert!(counter.read().unwrap() > first);
            }
            Err(error) => assert!(
                matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::ENOSYS)),
                "neither counted nor refused: {error}"
            ),
        }
    }

    #[test]
    fn a_source_that_is_not_there_is_an_error() {
        assert!(EventCounter::open(u32::MAX, 1, 0).is_err());
    }
}
