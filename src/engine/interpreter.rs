//! The runtime's C API, owned: a model, a delegate and an interpreter that are freed in the right order.
//!
//! Owns every call into the loaded library and the pointers that come out of it; what a tensor means is the engine's
//! business. The functions come from the binding's table, since its own interpreter has no flags for XNNPACK, no room
//! for a profiler of ours, and allocates at each look at a tensor.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use edgefirst_tflite::Library;
use edgefirst_tflite_sys::xnnpack_ffi::XnnPackFunctions;
use edgefirst_tflite_sys::{
    TfLiteDelegate, TfLiteInterpreter, TfLiteInterpreterOptions, TfLiteModel, TfLiteStatus, TfLiteTensor,
    TfLiteType_kTfLiteFloat32, TfLiteType_kTfLiteInt8, TfLiteType_kTfLiteInt16, TfLiteType_kTfLiteUInt8,
    tensorflowlite_c,
};

use super::profile::Profiler;
use super::{Element, EngineError, TensorInfo, checks};

/// A status of the C API other than `kTfLiteOk`, or null where a pointer was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Null,
    Status(TfLiteStatus),
}

impl Failure {
    /// `kTfLiteUnresolvedOps`: an operator is neither in the runtime nor taken by a delegate.
    pub(crate) const UNRESOLVED_OPERATORS: Self = Self::Status(7);
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("it gives no reason"),
            Self::Status(1) => f.write_str("its status is `error`"),
            Self::Status(2) => f.write_str("its status is `delegate error`"),
            Self::Status(3) => f.write_str("the delegate does not fit (`application error`)"),
            &Self::UNRESOLVED_OPERATORS => f.write_str("its status is `unresolved operators`"),
            Self::Status(other) => write!(f, "its status is {other}"),
        }
    }
}

fn ok(status: TfLiteStatus) -> Result<(), Failure> {
    if status == 0 { Ok(()) } else { Err(Failure::Status(status)) }
}

/// A model that the runtime has accepted, with the bytes that it points into.
pub(crate) struct Model {
    pointer: NonNull<TfLiteModel>,
    _bytes: Box<[u8]>,
    sys: &'static tensorflowlite_c,
}

impl Model {
    pub(crate) fn new(library: &'static Library, bytes: &[u8]) -> Result<Self, Failure> {
        let bytes: Box<[u8]> = bytes.into();
        let sys = library.as_sys();
        // SAFETY: the bytes live as long as the model, and their box is never moved out of.
        let pointer = unsafe { sys.TfLiteModelCreate(bytes.as_ptr().cast(), bytes.len()) };
        Ok(Self { pointer: NonNull::new(pointer).ok_or(Failure::Null)?, _bytes: bytes, sys })
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: made by TfLiteModelCreate; whoever uses it holds a reference.
        unsafe { self.sys.TfLiteModelDelete(self.pointer.as_ptr()) }
    }
}

/// A delegate and how it is freed. Its code stays loaded for ever: vendors' libraries rarely survive unloading.
pub(crate) struct Delegate {
    pointer: NonNull<TfLiteDelegate>,
    free: unsafe extern "C" fn(*mut TfLiteDelegate),
}

impl Drop for Delegate {
    fn drop(&mut self) {
        // SAFETY: made by the creator that goes with `free`; the interpreter that used it is gone.
        unsafe { (self.free)(self.pointer.as_ptr()) }
    }
}

type PluginCreate = unsafe extern "C" fn(
    *const *const c_char,
    *const *const c_char,
    usize,
    Option<unsafe extern "C" fn(*const c_char)>,
) -> *mut TfLiteDelegate;

/// A plugin's own word goes where the runtime's goes.
unsafe extern "C" fn report_error(message: *const c_char) {
    if !message.is_null() {
        // SAFETY: a C string, by the plugin interface.
        let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("ERROR: {message}\n").as_bytes());
    }
}

/// A vendor's library, loaded for ever, and its two functions.
struct Plugin {
    create: PluginCreate,
    free: unsafe extern "C" fn(*mut TfLiteDelegate),
    /// Only the Edge TPU's library has one: `edgetpu_version` of its edgetpu_c.h.
    version: Option<unsafe extern "C" fn() -> *const c_char>,
}

impl Plugin {
    fn load(library: &Path) -> Result<Self, String> {
        let symbol = |e: libloading::Error| format!("it is no TensorFlow Lite delegate: {}", checks::told(&e));
        // SAFETY: loading runs the library's constructors: what the user asked for by naming it.
        let plugin = unsafe { libloading::Library::new(library) }.map_err(|e| checks::told(&e))?;
        let plugin: &'static libloading::Library = Box::leak(Box::new(plugin));
        // SAFETY: the symbols have these types by the plugin interface (tflite's external_delegate.cc).
        unsafe {
            Ok(Self {
                create: *plugin.get::<PluginCreate>(b"tflite_plugin_create_delegate\0").map_err(symbol)?,
                free: *plugin.get(b"tflite_plugin_destroy_delegate\0").map_err(symbol)?,
                version: plugin.get(b"edgetpu_version\0").ok().map(|symbol| *symbol),
            })
        }
    }
}

/// The file that the system's search finds for a vendor's plugin, which is loaded, and the version that it states.
pub(crate) fn plugin_identity(library: &Path) -> Result<(PathBuf, Option<String>), String> {
    let plugin = Plugin::load(library)?;
    let address = plugin.create as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| format!("/proc/self/maps: {e}"))?;
    let file = maps.lines().find_map(|line| file_at(line, address));
    let version = plugin.version.map(|version| {
        // SAFETY: a C string that lasts, by the header named above.
        unsafe { CStr::from_ptr(version()) }.to_string_lossy().into_owned()
    });
    Ok((file.map_or_else(|| library.to_owned(), PathBuf::from), version))
}

/// The file of a line of /proc/PID/maps, if that maps `address`; proc_pid_maps(5) has the fields.
fn file_at(line: &str, address: usize) -> Option<&str> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let bounds = [start, end].map(|bound| usize::from_str_radix(bound, 16).unwrap_or(0));
    let path = line.find('/').map(|at| &line[at..])?;
    (bounds[0]..bounds[1]).contains(&address).then_some(path)
}

impl Delegate {
    /// The runtime's own XNNPACK; `flags` are added to its defaults.
    pub(crate) fn xnnpack(library: &'static Library, threads: u16, flags: u32) -> Result<Self, String> {
        // SAFETY: the library is never unloaded.
        let functions = unsafe { XnnPackFunctions::try_load(library.as_sys().library()) };
        let functions = functions.ok_or("this runtime was built without XNNPACK; use delegate = \"cpu\"")?;
        // SAFETY: the options are the library's own default, whose layout the binding has; two fields are set.
        let pointer = unsafe {
            let mut options = (functions.options_default)();
            options.num_threads = i32::from(threads);
            options.flags |= flags;
            (functions.create)(&raw const options)
        };
        let pointer = NonNull::new(pointer).ok_or("it could not be created")?;
        Ok(Self { pointer, free: functions.delete })
    }

    /// A vendor's plugin.
    pub(crate) fn external(library: &Path, options: &BTreeMap<String, String>) -> Result<Self, String> {
        let Plugin { create, free, .. } = Plugin::load(library)?;
        let strings = |texts: Vec<&String>| -> Result<Vec<CString>, String> {
            let text = |text: &String| CString::new(text.as_str());
            texts.into_iter().map(text).collect::<Result<_, _>>().map_err(|e| format!("an option holds a zero: {e}"))
        };
        let (keys, values) = (strings(options.keys().collect())?, strings(options.values().collect())?);
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (key_pointers, value_pointers) = (pointers(&keys), pointers(&values));
        // SAFETY: two arrays of as many C strings each, which live until the call returns.
        let pointer = unsafe { create(key_pointers.as_ptr(), value_pointers.as_ptr(), keys.len(), Some(report_error)) };
        let declined = "it declines to start: is its device connected and free, and are the options right?";
        Ok(Self { pointer: NonNull::new(pointer).ok_or(declined)?, free })
    }
}

/// An interpreter with its tensors allocated.
pub(crate) struct Interpreter {
    pointer: NonNull<TfLiteInterpreter>,
    sys: &'static tensorflowlite_c,
    /// Behind the interpreter's own drop, which uses it.
    _delegate: Option<Delegate>,
}

// SAFETY: the interpreter has no thread of its own that it must be called from, and everything is behind `&mut self` or
// reads only what allocation has written.
unsafe impl Send for Interpreter {}
// SAFETY: as above.
unsafe impl Send for Model {}

/// Frees the options when the interpreter is built or is not.
struct Options {
    pointer: NonNull<TfLiteInterpreterOptions>,
    sys: &'static tensorflowlite_c,
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made by TfLiteInterpreterOptionsCreate.
        unsafe { self.sys.TfLiteInterpreterOptionsDelete(self.pointer.as_ptr()) }
    }
}

impl Interpreter {
    /// Builds an interpreter that `delegate` takes part in; nothing is allocated yet.
    ///
    /// # Safety
    /// `model` and `profiler` outlive the interpreter.
    pub(crate) unsafe fn new(
        library: &'static Library,
        model: &Model,
        threads: u16,
        delegate: Option<Delegate>,
        profiler: Option<&mut Profiler>,
    ) -> Result<Self, Failure> {
        let sys = library.as_sys();
        // SAFETY: no arguments.
        let options = NonNull::new(unsafe { sys.TfLiteInterpreterOptionsCreate() }).ok_or(Failure::Null)?;
        let options = Options { pointer: options, sys };
        // SAFETY: options, delegate and model are alive; the delegate and the profiler stay so, by the caller's promise
        // and the field that keeps it.
        let pointer = unsafe {
            sys.TfLiteInterpreterOptionsSetNumThreads(options.pointer.as_ptr(), i32::from(threads));
            if let Some(delegate) = &delegate {
                sys.TfLiteInterpreterOptionsAddDelegate(options.pointer.as_ptr(), delegate.pointer.as_ptr());
            }
            if let Some(profiler) = profiler {
                profiler.attach(sys.library(), options.pointer.as_ptr())?;
            }
            sys.TfLiteInterpreterCreate(model.pointer.as_ptr(), options.pointer.as_ptr())
        };
        Ok(Self { pointer: NonNull::new(pointer).ok_or(Failure::Null)?, sys, _delegate: delegate })
    }

    pub(crate) fn allocate(&mut self) -> Result<(), Failure> {
        // SAFETY: the interpreter is alive.
        ok(unsafe { self.sys.TfLiteInterpreterAllocateTensors(self.pointer.as_ptr()) })
    }

    /// Gives the input another shape; allocate afterwards.
    pub(crate) fn resize_input(&mut self, dims: &[i32]) -> Result<(), Failure> {
        let count = i32::try_from(dims.len()).unwrap_or(i32::MAX);
        // SAFETY: `count` dimensions, which the call copies.
        ok(unsafe { self.sys.TfLiteInterpreterResizeInputTensor(self.pointer.as_ptr(), 0, dims.as_ptr(), count) })
    }

    pub(crate) fn invoke(&mut self) -> Result<(), Failure> {
        // SAFETY: the interpreter is alive, and no slice of its tensors is, for those borrow it.
        ok(unsafe { self.sys.TfLiteInterpreterInvoke(self.pointer.as_ptr()) })
    }

    pub(crate) fn input_count(&self) -> usize {
        // SAFETY: the interpreter is alive.
        usize::try_from(unsafe { self.sys.TfLiteInterpreterGetInputTensorCount(self.pointer.as_ptr()) }).unwrap_or(0)
    }

    pub(crate) fn output_count(&self) -> usize {
        // SAFETY: the interpreter is alive.
        usize::try_from(unsafe { self.sys.TfLiteInterpreterGetOutputTensorCount(self.pointer.as_ptr()) }).unwrap_or(0)
    }

    pub(crate) fn input_info(&self) -> Result<TensorInfo, EngineError> {
        self.info(self.input()?)
    }

    pub(crate) fn output_info(&self, index: usize) -> Result<TensorInfo, EngineError> {
        self.info(self.output(index)?)
    }

    /// The first input's bytes.
    pub(crate) fn input_bytes(&mut self) -> Result<&mut [u8], EngineError> {
        let (data, bytes) = self.data(self.input()?)?;
        // SAFETY: the tensor's own memory, which nothing else touches while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), bytes) })
    }

    /// An output's bytes. Where they lie is asked for each time: an output of dynamic size may move when invoked.
    pub(crate) fn output_bytes(&self, index: usize) -> Result<&[u8], EngineError> {
        let (data, bytes) = self.data(self.output(index)?)?;
        // SAFETY: as for the input.
        Ok(unsafe { std::slice::from_raw_parts(data.as_ptr(), bytes) })
    }

    fn input(&self) -> Result<NonNull<TfLiteTensor>, EngineError> {
        // SAFETY: the interpreter is alive, and answers null for an index that it has not.
        let tensor = unsafe { self.sys.TfLiteInterpreterGetInputTensor(self.pointer.as_ptr(), 0) };
        NonNull::new(tensor).ok_or_else(|| EngineError::runtime("reach the input", Failure::Null))
    }

    fn output(&self, index: usize) -> Result<NonNull<TfLiteTensor>, EngineError> {
        let count = self.output_count();
        let known = i32::try_from(index).ok().filter(|_| index < count);
        let index = known.ok_or_else(|| EngineError::Mismatch(format!("output {index} of {count}")))?;
        // SAFETY: the index is that of an output.
        let tensor = unsafe { self.sys.TfLiteInterpreterGetOutputTensor(self.pointer.as_ptr(), index) };
        NonNull::new(tensor.cast_mut()).ok_or_else(|| EngineError::runtime("reach an output", Failure::Null))
    }

    fn data(&self, tensor: NonNull<TfLiteTensor>) -> Result<(NonNull<u8>, usize), EngineError> {
        // SAFETY: a tensor of this interpreter.
        let (data, bytes) =
            unsafe { (self.sys.TfLiteTensorData(tensor.as_ptr()), self.sys.TfLiteTensorByteSize(tensor.as_ptr())) };
        let data = NonNull::new(data.cast()).ok_or_else(|| EngineError::runtime("reach a tensor", Failure::Null))?;
        Ok((data, bytes))
    }

    fn info(&self, tensor: NonNull<TfLiteTensor>) -> Result<TensorInfo, EngineError> {
        let (sys, tensor) = (self.sys, tensor.as_ptr());
        // SAFETY: a tensor of this interpreter; its name is a C string or null.
        let (name, kind, rank, quantization, bytes) = unsafe {
            let name = sys.TfLiteTensorName(tensor);
            let name = if name.is_null() { Cow::Borrowed("") } else { CStr::from_ptr(name).to_string_lossy() };
            let quantization = sys.TfLiteTensorQuantizationParams(tensor);
            let (kind, rank) = (sys.TfLiteTensorType(tensor), sys.TfLiteTensorNumDims(tensor));
            (name.into_owned(), kind, rank, quantization, sys.TfLiteTensorByteSize(tensor))
        };
        #[allow(non_upper_case_globals, reason = "the binding's names")]
        let element = match kind {
            TfLiteType_kTfLiteFloat32 => Element::Float32,
            TfLiteType_kTfLiteInt8 => Element::Int8,
            TfLiteType_kTfLiteUInt8 => Element::Uint8,
            TfLiteType_kTfLiteInt16 => Element::Int16,
            other => {
                // SAFETY: it answers any number with a C string.
                let other = unsafe { CStr::from_ptr(sys.TfLiteTypeGetName(other)) }.to_string_lossy().to_lowercase();
                return Err(checks::unreadable(&name, &other));
            }
        };
        // SAFETY: dimensions that the tensor has.
        let dim = |index| usize::try_from(unsafe { sys.TfLiteTensorDim(tensor, index) });
        let shape: Result<Vec<usize>, _> = (0..rank).map(dim).collect();
        let shape = shape.map_err(|_| EngineError::Mismatch(format!("tensor `{name}` has a dimension below 0")))?;
        TensorInfo { name, element, shape, scale: quantization.scale, zero_point: quantization.zero_point }
            .checked(bytes)
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        // SAFETY: made by TfLiteInterpreterCreate; its delegate and model are still there.
        unsafe { self.sys.TfLiteInterpreterDelete(self.pointer.as_ptr()) }
    }
}
