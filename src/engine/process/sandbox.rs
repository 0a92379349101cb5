//! Restricts a child before it loads a vendor's library: it cannot write files, run programs or use the network.
//!
//! It protects against accidents and against harmful models and libraries. Each part is used if the kernel has it, and
//! the parts in force are reported. Run in the child, before it has a second thread.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Where the child may always write: devices, and places for temporary files.
const WRITABLE: [&str; 3] = ["/dev", "/tmp", "/var/tmp"];
/// The newest kernel interface whose restrictions were tested; it came with Linux 6.12.
const TESTED: ABI = ABI::V6;

/// Returns the limit of this process's address space, which its children inherit, if that is below `memory_bytes`.
pub(crate) fn inherited_limit(memory_bytes: u64) -> Option<u64> {
    #[allow(clippy::useless_conversion, reason = "it is 32 bits wide on some")]
    let (limit, _) = getrlimit(Resource::RLIMIT_AS).map(|(soft, hard)| (u64::from(soft), hard)).ok()?;
    (limit < memory_bytes).then_some(limit)
}

/// Disables core dumps, and limits the address space. A smaller limit that is set already stays.
pub(crate) fn limit(memory_bytes: u64) -> Result<(), nix::Error> {
    // If the machine runs out of memory, the kernel kills the child before the daemon. This comes first, because
    // /proc/self belongs to root once core dumps are disabled.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // The limit does not stop core dumps that go to a program, such as systemd's.
    prctl::set_dumpable(false)?;
    #[allow(clippy::useless_conversion, reason = "it is 32 bits wide on some")]
    let memory = rlim_t::try_from(inherited_limit(memory_bytes).unwrap_or(memory_bytes)).unwrap_or(rlim_t::MAX);
    setrlimit(Resource::RLIMIT_AS, memory, memory)?;
    Ok(())
}

/// Applies the restrictions that this kernel has. Returns those in force.
pub(crate) fn enter(writable: &[PathBuf]) -> Vec<String> {
    let mut in_force = Vec::new();
    if prctl::set_no_new_privs().is_ok() {
        in_force.push("no_new_privs".to_owned());
    }
    in_force.extend(restrict_files_and_network(writable));
    in_force.extend(system_calls::restrict());
    in_force
}

/// Forbids writing, except to `writable`. Reading stays allowed.
fn restrict_files_and_network(writable: &[PathBuf]) -> Option<String> {
    let write = AccessFs::from_write(TESTED);
    let places = WRITABLE.iter().map(Path::new).chain(writable.iter().map(PathBuf::as_path));
    let rules = places.filter_map(|path| {
        let access = if path.is_dir() { write } else { write & AccessFs::from_file(TESTED) };
        // Paths that do not exist need no permission.
        Some(PathBeneath::new(PathFd::new(path).ok()?, access))
    });
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(write)
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(TESTED)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(TESTED)))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rules(rules.map(Ok::<_, landlock::RulesetError>)))
        .and_then(landlock::RulesetCreated::restrict_self);
    match status.ok()?.ruleset {
        RulesetStatus::FullyEnforced => Some("landlock".into()),
        RulesetStatus::PartiallyEnforced => Some("landlock (in part)".into()),
        RulesetStatus::NotEnforced => None,
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod system_calls {
    use std::collections::BTreeMap;

    use nix::libc;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };

    /// System calls that fail with EPERM: running programs, other processes' memory, mounts, the kernel itself, keys, and
    /// those that would bypass the other restrictions.
    const DENIED: [libc::c_long; 39] = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
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
        libc::SYS_open_by_handle_at,
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
        libc::SYS_io_uring_setup,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_reboot,
        libc::SYS_acct,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_sethostname,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
    ];
    /// The allowed socket families: local ones, and the one through which libusb learns of devices.
    const FAMILIES: [libc::c_int; 2] = [libc::AF_UNIX, libc::AF_NETLINK];

    pub(crate) fn restrict() -> Option<String> {
        let program = filter().ok()?;
        seccompiler::apply_filter(&program).ok()?;
        Some("seccomp".into())
    }

    fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
        let other_family = |family: &libc::c_int| {
            let family = u64::from(family.unsigned_abs());
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
        };
        let other_families = FAMILIES.iter().map(other_family).collect::<Result<Vec<_>, _>>()?;
        #[allow(clippy::useless_conversion, reason = "the kernel's long is not 64 bits wide everywhere")]
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            DENIED.iter().map(|call| (i64::from(*call), Vec::new())).collect();
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(other_families)?]);
        let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        SeccompFilter::new(rules, SeccompAction::Allow, denied, std::env::consts::ARCH.try_into()?)?.try_into()
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn the_filter_can_be_built() {
            assert!(super::filter().unwrap().len() > super::DENIED.len());
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod system_calls {
    /// The filter compiler does not support this processor.
    pub(super) fn restrict() -> Option<String> {
        None
    }
}
