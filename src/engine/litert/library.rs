//! LiteRT's library and environment: loading it, and the accelerators that it has.
//!
//! Owns the loaded library, what a call that failed says, and the freeing of handles.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use crate::engine::checks::with_causes;
use crate::engine::delegate::litert::Accelerator;
use crate::engine::ffi::{
    LITERT_CPU, LITERT_GPU, LITERT_NPU, LiteRt, LiteRtEnvOption, LiteRtEnvironment, LiteRtHwAcceleratorSet,
    LiteRtOffCpu, LiteRtStatus, litert_status as status,
};
use crate::sys::symbols;

/// Environment options, from litert/c/litert_environment_options.h.
const COMPILER_PLUGIN_FOLDER: u32 = 0;
const DISPATCH_FOLDER: u32 = 1;
const RUNTIME_FOLDER: u32 = 22;
const ACCELERATORS: u32 = 24;
const LEAST_SEVERITY: u32 = 25;
/// From litert/c/internal/litert_logging.h; below it LiteRT tells of every step.
const WARNING: i64 = 2;
/// How the libraries are named through which LiteRT reaches an NPU.
const DISPATCH_LIBRARY: &str = "libLiteRtDispatch";

/// A call that failed, with its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub call: &'static str,
    pub status: LiteRtStatus,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.status {
            status::OK => "ok, but gives nothing",
            status::ERROR_INVALID_ARGUMENT => "invalid argument",
            status::ERROR_MEMORY_ALLOCATION_FAILURE => "out of memory",
            status::ERROR_RUNTIME_FAILURE => "runtime failure",
            status::ERROR_UNSUPPORTED => "unsupported",
            status::ERROR_NOT_FOUND => "not found",
            status::ERROR_DYNAMIC_LOADING => "a library cannot be loaded",
            status::ERROR_INVALID_FLATBUFFER => "invalid flatbuffer",
            status::ERROR_COMPILATION => "compilation failed",
            other => return write!(f, "{} returns {other}", self.call),
        };
        write!(f, "{} returns `{name}`", self.call)
    }
}

pub(crate) fn ok(call: &'static str, status: LiteRtStatus) -> Result<(), Failure> {
    if status == status::OK { Ok(()) } else { Err(Failure { call, status }) }
}

/// An object of the C API and the function that frees it.
pub(crate) struct Owned<T> {
    pub handle: *mut T,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// Takes the object that `create` makes; `free` is the function that goes with it.
    pub(crate) fn new(
        call: &'static str,
        free: unsafe extern "C" fn(*mut T),
        create: impl FnOnce(&mut *mut T) -> LiteRtStatus,
    ) -> Result<Self, Failure> {
        let mut handle = null_mut();
        ok(call, create(&mut handle))?;
        if handle.is_null() { Err(Failure { call, status: status::OK }) } else { Ok(Self { handle, free }) }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the handle is alive and its own; whoever owns what hangs on it frees that first.
        unsafe { (self.free)(self.handle) }
    }
}

/// The functions of a loaded library, which is never unloaded.
#[derive(Clone, Copy)]
pub(crate) struct Litert {
    pub functions: &'static LiteRt,
    pub off_cpu: Option<LiteRtOffCpu>,
}

/// Each library once, however often an engine is built.
static LOADED: Mutex<Vec<(PathBuf, Litert)>> = Mutex::new(Vec::new());

impl Litert {
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, litert)) = loaded.iter().find(|(known, _)| known == path) {
            return Ok(*litert);
        }
        // SAFETY: loading runs the library's constructors: what the user asked for by naming it.
        let library = unsafe { symbols::load(path) }.map_err(|e| with_causes(&e))?;
        // SAFETY: the functions have these types by LiteRT's headers, and the library is never unloaded.
        let (functions, off_cpu) = unsafe { (LiteRt::load(library), LiteRtOffCpu::load(library).ok()) };
        let functions = functions.map_err(|e| format!("it is no LiteRT library, or one of another version: {e}"))?;
        let litert = Self { functions: Box::leak(Box::new(functions)), off_cpu };
        loaded.push((path.to_owned(), litert));
        Ok(litert)
    }
}

/// An accelerator that an environment has.
pub(crate) struct Registered {
    pub name: String,
    pub kinds: Vec<Accelerator>,
}

fn bit(accelerator: Accelerator) -> LiteRtHwAcceleratorSet {
    match accelerator {
        Accelerator::Cpu => LITERT_CPU,
        Accelerator::Gpu => LITERT_GPU,
        Accelerator::Npu => LITERT_NPU,
    }
}

pub(crate) fn bits(accelerators: &[Accelerator]) -> LiteRtHwAcceleratorSet {
    accelerators.iter().fold(0, |bits, accelerator| bits | bit(*accelerator))
}

fn string(tag: u32, value: &CStr) -> LiteRtEnvOption {
    LiteRtEnvOption::string(tag, value.as_ptr())
}

fn has_dispatch_library(folder: &Path) -> bool {
    let named = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(DISPATCH_LIBRARY);
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(named)))
}

/// The root of all other handles; finds the accelerators when it is made.
pub(crate) struct Environment {
    pub owned: Owned<LiteRtEnvironment>,
    pub litert: Litert,
}

impl Environment {
    /// With those of `accelerators` that are there, and the CPU. Looks for vendors' libraries in `folder`, besides where
    /// the loader looks; of an accelerator that is not asked for none is loaded.
    pub(crate) fn new(litert: Litert, folder: &Path, accelerators: &[Accelerator]) -> Result<Self, Failure> {
        const CALL: &str = "LiteRtCreateEnvironment";
        let invalid = |_| Failure { call: CALL, status: status::ERROR_INVALID_ARGUMENT };
        let path = CString::new(folder.as_os_str().as_bytes()).map_err(invalid)?;
        let bits = i64::from(bits(accelerators) | bit(Accelerator::Cpu));
        let mut options =
            vec![LiteRtEnvOption::integer(LEAST_SEVERITY, WARNING), LiteRtEnvOption::integer(ACCELERATORS, bits)];
        if !path.is_empty() {
            options.push(string(RUNTIME_FOLDER, &path));
        }
        // With a folder named, LiteRT says that it has an NPU, whatever is in the folder.
        if accelerators.contains(&Accelerator::Npu) && has_dispatch_library(folder) {
            options.extend([string(COMPILER_PLUGIN_FOLDER, &path), string(DISPATCH_FOLDER, &path)]);
        }
        // SAFETY: as many options as stated; the call copies the strings, which live until it returns.
        let owned = Owned::new(CALL, litert.functions.destroy_environment, |handle| unsafe {
            (litert.functions.create_environment)(options.len() as c_int, options.as_ptr(), handle)
        })?;
        Ok(Self { owned, litert })
    }

    pub(crate) fn accelerators(&self) -> Result<Vec<Registered>, Failure> {
        let (functions, environment) = (self.litert.functions, self.owned.handle);
        let mut count = 0;
        // SAFETY: the environment is alive.
        ok("LiteRtGetNumAccelerators", unsafe { (functions.num_accelerators)(environment, &raw mut count) })?;
        let accelerator = |index| {
            let (mut accelerator, mut name, mut hardware) = (null_mut(), std::ptr::null::<c_char>(), 0);
            // SAFETY: the index is below the count; the environment keeps the accelerator and its name.
            let name = unsafe {
                ok("LiteRtGetAccelerator", (functions.accelerator)(environment, index, &raw mut accelerator))?;
                ok("LiteRtGetAcceleratorName", (functions.accelerator_name)(accelerator, &raw mut name))?;
                let hardware_of = functions.accelerator_hardware;
                ok("LiteRtGetAcceleratorHardwareSupport", hardware_of(accelerator, &raw mut hardware))?;
                if name.is_null() { "".into() } else { CStr::from_ptr(name).to_string_lossy() }
            };
            let all = [Accelerator::Cpu, Accelerator::Gpu, Accelerator::Npu];
            let kinds = all.into_iter().filter(|kind| hardware & bit(*kind) != 0).collect();
            Ok(Registered { name: name.into_owned(), kinds })
        };
        (0..count).map(accelerator).collect()
    }
}
