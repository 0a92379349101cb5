//! Restricts a child before it loads a vendor's library: it cannot write files, start processes, use the network or reach
//! other processes.
//!
//! It protects against accidents and against harmful models and libraries. Each part is used if the kernel has it, and
//! the parts in force are reported. Run in the child, before it has a second thread.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::getuid;

use super::system_calls::{self, Truncation};

/// Where the child may always write: devices, and places for temporary files.
const WRITABLE: [&str; 3] = ["/dev", "/tmp", "/var/tmp"];
/// The newest kernel interface whose restrictions were tested; it came with Linux 6.12.
const TESTED: ABI = ABI::V6;
/// Since which Landlock restricts that a file is cut off.
const RESTRICTS_TRUNCATION: ABI = ABI::V3;
/// The largest file that the child may write: more than any cache of a compiled model needs.
pub(crate) const FILE_BYTES: u64 = 1 << 30;
/// How many threads more than this user has already the child may start, together with the user's other programs.
const MORE_THREADS: usize = 512;

/// Returns the limit of this process's address space, which its children inherit, if that is below `memory_bytes`.
pub(crate) fn inherited_limit(memory_bytes: u64) -> Option<u64> {
    #[allow(clippy::useless_conversion, reason = "it is 32 bits wide on some")]
    let (limit, _) = getrlimit(Resource::RLIMIT_AS).map(|(soft, hard)| (u64::from(soft), hard)).ok()?;
    (limit < memory_bytes).then_some(limit)
}

/// Disables core dumps, and limits the address space, the size of files and the number of threads. A smaller limit that is
/// set already stays.
pub(crate) fn limit(memory_bytes: u64) -> Result<(), nix::Error> {
    // If the machine runs out of memory, the kernel kills the child before the daemon. This comes first, because
    // /proc/self belongs to root once core dumps are disabled.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // The limit does not stop core dumps that go to a program, such as systemd's.
    prctl::set_dumpable(false)?;
    #[allow(clippy::useless_conversion, reason = "it is 32 bits wide on some")]
    let memory = rlim_t::try_from(inherited_limit(memory_bytes).unwrap_or(memory_bytes)).unwrap_or(rlim_t::MAX);
    setrlimit(Resource::RLIMIT_AS, memory, memory)?;
    lower(Resource::RLIMIT_FSIZE, FILE_BYTES)?;
    lower(Resource::RLIMIT_NPROC, (threads_of_user() + MORE_THREADS) as u64)
}

fn lower(resource: Resource, limit: u64) -> Result<(), nix::Error> {
    let (_, before) = getrlimit(resource)?;
    let limit = rlim_t::try_from(limit).unwrap_or(rlim_t::MAX).min(before);
    setrlimit(resource, limit, limit)
}

/// Returns the number of threads of this process's user, as far as /proc shows them.
fn threads_of_user() -> usize {
    let uid = getuid().as_raw();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = processes.filter(|process| process.metadata().is_ok_and(|metadata| metadata.uid() == uid));
    own.filter_map(|process| Some(fs::read_dir(process.path().join("task")).ok()?.count())).sum()
}

/// Applies the restrictions that this kernel has. Returns those in force.
pub(crate) fn enter(writable: &[PathBuf]) -> Vec<String> {
    let mut in_force = Vec::new();
    if prctl::set_no_new_privs().is_ok() {
        in_force.push("no_new_privs".to_owned());
    }
    let landlock = restrict_files_and_network(writable);
    let restricts = |status: &RestrictionStatus| {
        status.ruleset != RulesetStatus::NotEnforced
            && matches!(status.landlock, LandlockStatus::Available { effective_abi, .. } if effective_abi >= RESTRICTS_TRUNCATION)
    };
    let truncation = if landlock.as_ref().is_some_and(restricts) { Truncation::Restricted } else { Truncation::Open };
    in_force.extend(landlock.and_then(|status| match status.ruleset {
        RulesetStatus::FullyEnforced => Some("landlock".into()),
        RulesetStatus::PartiallyEnforced => Some("landlock (in part)".into()),
        RulesetStatus::NotEnforced => None,
    }));
    in_force.extend(system_calls::restrict(truncation));
    in_force
}

/// Forbids writing, except to `writable`. Reading stays allowed.
fn restrict_files_and_network(writable: &[PathBuf]) -> Option<RestrictionStatus> {
    let write = AccessFs::from_write(TESTED);
    let places = WRITABLE.iter().map(Path::new).chain(writable.iter().map(PathBuf::as_path));
    let rules = places.filter_map(|path| {
        let access = if path.is_dir() { write } else { write & AccessFs::from_file(TESTED) };
        // Paths that do not exist need no permission.
        Some(PathBeneath::new(PathFd::new(path).ok()?, access))
    });
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(write)
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(TESTED)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(TESTED)))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rules(rules.map(Ok::<_, landlock::RulesetError>)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .ok()
}
