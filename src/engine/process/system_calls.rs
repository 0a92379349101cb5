//! The system calls that a child may not make, by a seccomp filter.
//!
//! Refused is what reaches beyond the process: to other processes, other users of the machine, and the daemon's files
//! where Landlock cannot refuse it. Calls that name a process are refused unless they name this one.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use by_seccomp::restrict;

/// The filter compiler does not support this processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn restrict(_truncation: Truncation) -> Option<String> {
    None
}

/// Whether something else keeps the child from cutting off files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truncation {
    /// Landlock does, since Linux 6.2.
    Restricted,
    /// A file that may be read can be cut off; so the calls are refused, in writable folders too.
    Open,
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod by_seccomp {
    use std::collections::BTreeMap;

    use nix::libc::{self, c_int, c_long};
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    use super::Truncation;

    /// Calls that fail with EPERM whatever they ask for.
    const DENIED: [c_long; 73] = [
        // Programs, other processes' memory and descriptors.
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_process_mrelease,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        // Signals to a process that the filter cannot check. In a new process group or session it would not be killed.
        libc::SYS_pidfd_send_signal,
        libc::SYS_tkill,
        libc::SYS_setpgid,
        libc::SYS_setsid,
        // Sockets of other programs.
        libc::SYS_connect,
        libc::SYS_listen,
        // Owners, permissions, attributes and times of files. The last ones have no names in the libc crate: setxattrat,
        // removexattrat and file_setattr.
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        FCHMODAT2,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_fremovexattr,
        libc::SYS_utimensat,
        463,
        466,
        469,
        // Mounts and namespaces.
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_open_by_handle_at,
        // The kernel itself.
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_reboot,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_syslog,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_vhangup,
        // Keys.
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        // Would bypass this filter.
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_fanotify_init,
    ];
    /// The same under the names that newer processors no longer have.
    #[cfg(target_arch = "x86_64")]
    const DENIED_OLD: [c_long; 8] = [
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const DENIED_OLD: [c_long; 0] = [];
    const FCHMODAT2: c_long = 452;

    /// Calls whose arguments are behind a pointer, which the filter cannot follow. They fail with ENOSYS: libraries then use
    /// the older calls.
    const UNKNOWN: [c_long; 2] = [libc::SYS_clone3, libc::SYS_openat2];

    /// Calls that act on the process that their first argument names.
    const OF_A_PROCESS: [c_long; 11] = [
        libc::SYS_kill,
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_prlimit64,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setattr,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setscheduler,
        libc::SYS_migrate_pages,
        libc::SYS_move_pages,
    ];

    /// The requests of `ioctl` that write into a terminal's input, that direct signals to another process, and that change
    /// attributes of files (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR).
    const REQUESTS: [u64; 6] = [0x5412, 0x541C, 0x8901, 0x8902, 0x4008_6602, 0x401C_5820];

    // What libc has as the wrong type, or not for each C library.
    const PRIO_USER: u64 = 2;
    const IOPRIO_WHO_USER: u64 = 3;
    const F_SETOWN: u64 = 8;
    const F_SETOWN_EX: u64 = 15;
    const SOCKET_TYPE: u64 = 0xF;

    pub(in super::super) fn restrict(truncation: Truncation) -> Option<String> {
        let programs = programs(truncation).ok()?;
        programs.iter().try_for_each(|program| seccompiler::apply_filter(program)).ok()?;
        Some("seccomp".into())
    }

    fn programs(truncation: Truncation) -> Result<Vec<BpfProgram>, BackendError> {
        let unknown = UNKNOWN.iter().map(|call| (*call, Vec::new())).collect();
        let programs = [filter(unknown, libc::ENOSYS)?, filter(denied(truncation)?, libc::EPERM)?];
        Ok(programs.into_iter().chain(other_numbers()).collect())
    }

    fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, error: c_int) -> Result<BpfProgram, BackendError> {
        let denied = SeccompAction::Errno(error.unsigned_abs());
        SeccompFilter::new(rules, SeccompAction::Allow, denied, std::env::consts::ARCH.try_into()?)?.try_into()
    }

    /// The calls that fail with EPERM, and for which arguments; without any, always.
    fn denied(truncation: Truncation) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
        use SeccompCmpOp::{Eq, MaskedEq, Ne};
        let is = |argument, operator, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
        let value = |value: c_int| u64::from(value.unsigned_abs());
        let this = u64::from(std::process::id());
        // 0 is the caller, or its process group.
        let names_another = |argument| Ok::<_, BackendError>(vec![is(argument, Ne, 0)?, is(argument, Ne, this)?]);

        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let mut deny = |call: c_long, conditions: Vec<SeccompCondition>| {
            rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
            Ok::<_, BackendError>(())
        };
        for call in OF_A_PROCESS {
            deny(call, names_another(0)?)?;
        }
        for (call, of_a_user) in [(libc::SYS_setpriority, PRIO_USER), (libc::SYS_ioprio_set, IOPRIO_WHO_USER)] {
            deny(call, names_another(1)?)?;
            deny(call, vec![is(0, Eq, of_a_user)?])?;
        }
        // Threads are permitted, processes are not: one could outlive this one and keep its device.
        deny(libc::SYS_clone, vec![is(0, MaskedEq(value(libc::CLONE_THREAD)), 0)?])?;
        // This process must end with the daemon, and must not leave a core dump.
        for option in [libc::PR_SET_PDEATHSIG, libc::PR_SET_DUMPABLE] {
            deny(libc::SYS_prctl, vec![is(0, Eq, value(option))?])?;
        }
        for command in [F_SETOWN, F_SETOWN_EX] {
            deny(libc::SYS_fcntl, vec![is(1, Eq, command)?])?;
        }
        for request in REQUESTS {
            deny(libc::SYS_ioctl, vec![is(1, Eq, request)?])?;
        }
        // libusb learns of devices through netlink. Other sockets reach programs of this machine and of others; so does a
        // pair of datagram sockets, whose messages may have an address.
        deny(libc::SYS_socket, vec![is(0, Ne, value(libc::AF_NETLINK))?])?;
        deny(libc::SYS_socketpair, vec![is(0, Ne, value(libc::AF_UNIX))?])?;
        for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW] {
            deny(libc::SYS_socketpair, vec![is(1, MaskedEq(SOCKET_TYPE), value(kind))?])?;
        }
        if truncation == Truncation::Open {
            // Opened for writing, a file is subject to Landlock. These do not open it for writing.
            let mask = value(libc::O_TRUNC | libc::O_ACCMODE);
            for mode in [libc::O_RDONLY, libc::O_ACCMODE] {
                let cuts = |argument| is(argument, MaskedEq(mask), value(libc::O_TRUNC | mode));
                deny(libc::SYS_openat, vec![cuts(2)?])?;
                #[cfg(target_arch = "x86_64")]
                deny(libc::SYS_open, vec![cuts(1)?])?;
            }
        }
        let always = DENIED.iter().chain(&DENIED_OLD);
        rules.extend(always.map(|call| (*call, Vec::new())));
        if truncation == Truncation::Open {
            rules.insert(libc::SYS_truncate, Vec::new());
        }
        Ok(rules)
    }

    /// Returns the filter for the numbers under which the calls exist once more: those of the x32 interface.
    #[cfg(target_arch = "x86_64")]
    fn other_numbers() -> Option<BpfProgram> {
        use seccompiler::sock_filter;
        /// The bit that they have set.
        const X32: u32 = 0x4000_0000;
        let code = |bits: u32| u16::try_from(bits).unwrap_or(0);
        let answer = |k| sock_filter { code: code(libc::BPF_RET | libc::BPF_K), jt: 0, jf: 0, k };
        Some(vec![
            sock_filter { code: code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), jt: 0, jf: 0, k: 0 },
            sock_filter { code: code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K), jt: 0, jf: 1, k: X32 },
            answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()),
            answer(libc::SECCOMP_RET_ALLOW),
        ])
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn other_numbers() -> Option<BpfProgram> {
        None
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_filters_can_be_built_and_no_call_is_named_twice() {
            for truncation in [Truncation::Open, Truncation::Restricted] {
                let longest = programs(truncation).unwrap().iter().map(Vec::len).max().unwrap();
                // The kernel takes 4096 instructions.
                assert!((DENIED.len()..4096).contains(&longest), "{longest}");
            }
            let mut calls: Vec<c_long> = [&DENIED[..], &DENIED_OLD, &UNKNOWN, &OF_A_PROCESS].concat();
            let count = calls.len();
            calls.sort_unstable();
            calls.dedup();
            assert_eq!(calls.len(), count);
        }
    }
}
