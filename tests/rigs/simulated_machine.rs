//! Makes a program see a simulated machine: preloaded, it answers the program's reads of a meter and of `/proc/stat`.
//!
//! `LD_PRELOAD=libsimulated_machine.so EDGEWATT_SIMULATED_MACHINE=FILE edgewatt run ...`. Only files in the folder of
//! the description whose names are those of a meter's values are answered, each read with the value of that moment. The
//! files must exist. All others are the kernel's. A program that is linked with its C library statically cannot be
//! served.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use edgewatt::units::{MonoTime, process_cpu_time};
use edgewatt_support::simulated::{DESCRIPTION, Machine, Shown};
use nix::libc;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

struct Simulated {
    /// With links resolved, and as the description has it.
    folders: [PathBuf; 2],
    machine: Mutex<Machine>,
}

static SIMULATED: OnceLock<Simulated> = OnceLock::new();

/// What each file descriptor shows, as in [`Shown`]; 0 if it is an ordinary one.
static OPEN: [AtomicU8; 1024] = [const { AtomicU8::new(0) }; 1024];
/// Those that `read` has been called for. The first time it gives everything, so the caller's buffer must be as long.
static AT_END: [AtomicU8; 1024] = [const { AtomicU8::new(0) }; 1024];

/// Before `main`, so that no intercepted call has to do it: it opens files itself.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    let Some(path) = std::env::var_os(DESCRIPTION) else { return };
    match Machine::open(Path::new(&path)) {
        Ok((description, machine)) => {
            let resolved = description.sysfs.canonicalize().unwrap_or_else(|_| description.sysfs.clone());
            let folders = [resolved, description.sysfs];
            let _ = SIMULATED.set(Simulated { folders, machine: Mutex::new(machine) });
        }
        Err(error) => {
            eprintln!("simulated machine: {}: {error}", Path::new(&path).display());
            std::process::abort();
        }
    }
}

/// Returns the C library's own function of that name.
fn real(name: &CStr, known: &AtomicPtr<c_void>) -> *mut c_void {
    let found = known.load(Ordering::Relaxed);
    if !found.is_null() {
        return found;
    }
    // SAFETY: a C string; RTLD_NEXT is the libraries behind this one.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if found.is_null() {
        std::process::abort();
    }
    known.store(found, Ordering::Relaxed);
    found
}

/// The C library's function `$name`, which has that type.
macro_rules! real {
    ($name:literal, $type:ty) => {{
        static KNOWN: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
        // SAFETY: the C library's function of this name has this type.
        unsafe { std::mem::transmute::<*mut c_void, $type>(real($name, &KNOWN)) }
    }};
}

/// Remembers what a file that was opened shows.
///
/// # Safety
/// `path` is a C string.
unsafe fn opened(file: c_int, path: *const c_char) -> c_int {
    let (Some(simulated), Ok(index)) = (SIMULATED.get(), usize::try_from(file)) else { return file };
    // SAFETY: the caller's promise.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    let shown = if path == Path::new("/proc/stat") {
        Some(Shown::Stat)
    } else if simulated.folders.iter().any(|folder| path.starts_with(folder)) {
        path.file_name().and_then(OsStr::to_str).and_then(Shown::of)
    } else {
        None
    };
    if let (Some(shown), Some(open), Some(at_end)) = (shown, OPEN.get(index), AT_END.get(index)) {
        at_end.store(0, Ordering::Relaxed);
        open.store(shown as u8, Ordering::Release);
    }
    file
}

fn shown(file: c_int) -> Option<(usize, Shown)> {
    let index = usize::try_from(file).ok()?;
    let code = OPEN.get(index)?.load(Ordering::Acquire);
    Shown::ALL.into_iter().find(|shown| *shown as u8 == code).map(|shown| (index, shown))
}

/// Writes what the file shows now into the caller's buffer, and returns how many bytes that is.
///
/// # Safety
/// `buffer` has room for `count` bytes.
unsafe fn answer(shown: Shown, buffer: *mut c_void, count: usize) -> isize {
    let Some(simulated) = SIMULATED.get() else { return 0 };
    let own = if shown == Shown::Stat { process_cpu_time() + children_cpu_time() } else { Duration::ZERO };
    let mut machine = simulated.machine.lock().unwrap_or_else(PoisonError::into_inner);
    let text = machine.text(shown, MonoTime::now().0, own.as_secs_f64());
    let length = text.len().min(count);
    // SAFETY: the caller's promise; the text is as long.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), length) };
    length.cast_signed()
}

/// Of those that have ended; the daemon subtracts its children's time from the machine's.
fn children_cpu_time() -> Duration {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |usage| {
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    })
}

// The C functions are variadic; on Linux the third argument of such a call is passed as that of any other.

/// # Safety
/// As `open(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let real = real!(c"open", unsafe extern "C" fn(*const c_char, c_int, c_uint) -> c_int);
    // SAFETY: the caller's promise.
    unsafe { opened(real(path, flags, mode), path) }
}

/// # Safety
/// As `open(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let real = real!(c"open64", unsafe extern "C" fn(*const c_char, c_int, c_uint) -> c_int);
    // SAFETY: the caller's promise.
    unsafe { opened(real(path, flags, mode), path) }
}

/// # Safety
/// As `openat(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let real = real!(c"openat64", unsafe extern "C" fn(c_int, *const c_char, c_int, c_uint) -> c_int);
    // SAFETY: the caller's promise; a relative path is not under the folder of a description.
    unsafe { opened(real(folder, path, flags, mode), path) }
}

/// # Safety
/// As `read(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(file: c_int, buffer: *mut c_void, count: usize) -> isize {
    if let Some((index, shown)) = shown(file) {
        let again = AT_END.get(index).is_some_and(|at_end| at_end.swap(1, Ordering::Relaxed) != 0);
        // SAFETY: the caller's promise.
        return if again { 0 } else { unsafe { answer(shown, buffer, count) } };
    }
    let real = real!(c"read", unsafe extern "C" fn(c_int, *mut c_void, usize) -> isize);
    // SAFETY: the caller's promise.
    unsafe { real(file, buffer, count) }
}

/// # Safety
/// As `pread(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(file: c_int, buffer: *mut c_void, count: usize, offset: i64) -> isize {
    if let Some((_, shown)) = shown(file) {
        // SAFETY: the caller's promise.
        return if offset == 0 { unsafe { answer(shown, buffer, count) } } else { 0 };
    }
    let real = real!(c"pread64", unsafe extern "C" fn(c_int, *mut c_void, usize, i64) -> isize);
    // SAFETY: the caller's promise.
    unsafe { real(file, buffer, count, offset) }
}

/// # Safety
/// As `close(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(file: c_int) -> c_int {
    if let Some((index, _)) = shown(file)
        && let Some(open) = OPEN.get(index)
    {
        open.store(0, Ordering::Release);
    }
    let real = real!(c"close", unsafe extern "C" fn(c_int) -> c_int);
    // SAFETY: the caller's promise.
    unsafe { real(file) }
}
