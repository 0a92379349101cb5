//! LiteRT's library and environment: loading it, and the accelerators that it has.
//!
//! Owns the table of its functions, what a call that failed says, and the freeing of handles. The functions come from
//! the binding's table, since its own compiled model cannot be resized, and its environment looks for accelerators in no
//! folder.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use edgefirst_tflite::Library;
use edgefirst_tflite_sys::litert::{self as sys, LiteRtFunctions, LiteRtLayout, status};

use crate::config::Accelerator;
use crate::engine::checks::told;

/// Environment options, from litert/c/litert_environment_options.h.
const COMPILER_PLUGIN_FOLDER: u32 = 0;
const DISPATCH_FOLDER: u32 = 1;
const RUNTIME_FOLDER: u32 = 22;
const ACCELERATORS: u32 = 24;
const LEAST_SEVERITY: u32 = 25;
/// Kinds of values of theirs, from litert/c/litert_any.h.
const INTEGER: u32 = 2;
const STRING: u32 = 8;
/// From litert/c/internal/litert_logging.h; below it LiteRT tells of every step.
const WARNING: i64 = 2;
/// How the libraries are named through which LiteRT reaches an NPU.
const DISPATCH_LIBRARY: &str = "libLiteRtDispatch";

type ResizeInput =
    unsafe extern "C" fn(sys::CompiledModel, sys::ParamIndex, sys::ParamIndex, *const c_int, usize) -> sys::Status;
type OutputLayouts =
    unsafe extern "C" fn(sys::CompiledModel, sys::ParamIndex, usize, *mut LiteRtLayout, bool) -> sys::Status;
type FullyOffCpu = unsafe extern "C" fn(sys::CompiledModel, *mut bool) -> sys::Status;
type TensorIndex = unsafe extern "C" fn(sys::Tensor, *mut u32) -> sys::Status;

/// A call that failed, with its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub call: &'static str,
    pub status: sys::Status,
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

pub(crate) fn ok(call: &'static str, status: sys::Status) -> Result<(), Failure> {
    if status == status::OK { Ok(()) } else { Err(Failure { call, status }) }
}

/// A handle of the C API, which is a pointer, and what frees it.
pub(crate) struct Owned<H: Copy + PartialEq> {
    pub handle: H,
    free: unsafe extern "C" fn(H),
}

impl<H: Copy + PartialEq> Owned<H> {
    /// Takes what `create` puts in the place of `null`; `free` is the function that goes with it.
    pub(crate) fn new(
        call: &'static str,
        null: H,
        free: unsafe extern "C" fn(H),
        create: impl FnOnce(&mut H) -> sys::Status,
    ) -> Result<Self, Failure> {
        let mut handle = null;
        ok(call, create(&mut handle))?;
        if handle == null { Err(Failure { call, status: status::OK }) } else { Ok(Self { handle, free }) }
    }
}

impl<H: Copy + PartialEq> Drop for Owned<H> {
    fn drop(&mut self) {
        // SAFETY: the handle is alive and its own; whoever owns what hangs on it frees that first.
        unsafe { (self.free)(self.handle) }
    }
}

/// The loaded library, which is never unloaded.
#[derive(Clone, Copy)]
pub(crate) struct Litert {
    pub table: &'static LiteRtFunctions,
    pub resize_input: ResizeInput,
    pub output_layouts: OutputLayouts,
    pub tensor_index: TensorIndex,
    /// Later than the others: not in the headers of 2.1.6, but in the library of 2.3.0.
    pub fully_off_cpu: Option<FullyOffCpu>,
}

/// Each library once, however often an engine is built.
static LOADED: Mutex<Vec<(PathBuf, Litert)>> = Mutex::new(Vec::new());

impl Litert {
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, litert)) = loaded.iter().find(|(known, _)| known == path) {
            return Ok(*litert);
        }
        let library = Library::from_path(path).map_err(|e| told(&e))?;
        if let Some(symbol) = library.litert_missing_symbol() {
            return Err(format!("it is no LiteRT library, or one of another version: it has no {symbol}"));
        }
        let library: &'static Library = Box::leak(Box::new(library));
        let lacks = |e: libloading::Error| format!("it is a LiteRT of another version: {}", told(&e));
        let loader = library.as_sys().library();
        // SAFETY: the types are those of litert/c/litert_compiled_model.h and litert_model.h.
        let (resize_input, output_layouts, tensor_index, fully_off_cpu) = unsafe {
            (
                *loader.get(b"LiteRtCompiledModelResizeInputTensorNonStrict\0").map_err(lacks)?,
                *loader.get(b"LiteRtGetCompiledModelOutputTensorLayouts\0").map_err(lacks)?,
                *loader.get(b"LiteRtGetTensorIndex\0").map_err(lacks)?,
                loader.get(b"LiteRtCompiledModelIsNonCpuFullyAccelerated\0").ok().map(|symbol| *symbol),
            )
        };
        let table = library.litert().ok_or("it is no LiteRT library")?;
        let litert = Self { table, resize_input, output_layouts, tensor_index, fully_off_cpu };
        loaded.push((path.to_owned(), litert));
        Ok(litert)
    }
}

/// An accelerator that an environment has.
pub(crate) struct Registered {
    pub name: String,
    pub kinds: Vec<Accelerator>,
}

fn bit(accelerator: Accelerator) -> sys::HwAcceleratorSet {
    match accelerator {
        Accelerator::Cpu => sys::kLiteRtHwAcceleratorCpu,
        Accelerator::Gpu => sys::kLiteRtHwAcceleratorGpu,
        Accelerator::Npu => sys::kLiteRtHwAcceleratorNpu,
    }
}

pub(crate) fn bits(accelerators: &[Accelerator]) -> sys::HwAcceleratorSet {
    accelerators.iter().fold(0, |bits, accelerator| bits | bit(*accelerator))
}

fn option(tag: u32, kind: u32) -> sys::EnvOption {
    // SAFETY: plain data, for which zeros are valid.
    let mut option = unsafe { std::mem::zeroed::<sys::EnvOption>() };
    (option.tag, option.value.type_) = (tag, kind);
    option
}

fn integer(tag: u32, value: i64) -> sys::EnvOption {
    let mut option = option(tag, INTEGER);
    option.value.__bindgen_anon_1.int_value = value;
    option
}

fn string(tag: u32, value: &CStr) -> sys::EnvOption {
    let mut option = option(tag, STRING);
    option.value.__bindgen_anon_1.str_value = value.as_ptr();
    option
}

fn has_dispatch_library(folder: &Path) -> bool {
    let named = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(DISPATCH_LIBRARY);
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(named)))
}

/// The root of all other handles; finds the accelerators when it is made.
pub(crate) struct Environment {
    pub owned: Owned<sys::Environment>,
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
        let mut options = vec![integer(LEAST_SEVERITY, WARNING), integer(ACCELERATORS, bits)];
        if !path.is_empty() {
            options.push(string(RUNTIME_FOLDER, &path));
        }
        // DaemonEvent of a folder, LiteRT has an NPU, whatever is in it.
        if accelerators.contains(&Accelerator::Npu) && has_dispatch_library(folder) {
            options.extend([string(COMPILER_PLUGIN_FOLDER, &path), string(DISPATCH_FOLDER, &path)]);
        }
        // SAFETY: as many options as are told; the call copies the strings, which live until it returns.
        let owned = Owned::new(CALL, null_mut(), litert.table.destroy_environment, |handle| unsafe {
            (litert.table.create_environment)(options.len() as c_int, options.as_ptr(), handle)
        })?;
        Ok(Self { owned, litert })
    }

    pub(crate) fn accelerators(&self) -> Result<Vec<Registered>, Failure> {
        let (table, environment) = (self.litert.table, self.owned.handle);
        let mut count = 0;
        // SAFETY: the environment is alive.
        ok("LiteRtGetNumAccelerators", unsafe { (table.get_num_accelerators)(environment, &raw mut count) })?;
        let accelerator = |index| {
            let (mut accelerator, mut name, mut hardware) = (null_mut(), std::ptr::null::<c_char>(), 0);
            // SAFETY: the index is below the count; the environment keeps the accelerator and its name.
            let name = unsafe {
                ok("LiteRtGetAccelerator", (table.get_accelerator)(environment, index, &raw mut accelerator))?;
                ok("LiteRtGetAcceleratorName", (table.get_accelerator_name)(accelerator, &raw mut name))?;
                let hardware_of = table.get_accelerator_hardware_support;
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
