//! The runtime's C API, owned: a model, a delegate and an interpreter that are freed in the right order.
//!
//! Owns every call into the loaded library and the pointers that it returns. Leaves to the engine what a tensor means.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use super::failure::Failure;
use super::ffi::{
    DelegatePlugin, EdgeTpu, TF_LITE_FLOAT32, TF_LITE_INT8, TF_LITE_INT16, TF_LITE_UINT8, TfLite, TfLiteDelegate,
    TfLiteInterpreter, TfLiteInterpreterOptions, TfLiteModel, TfLiteTensor,
};
use super::profile::Profiler;
use super::runtime::Library;
use super::{Element, EngineError, TensorInfo, checks};

/// A model that the runtime has accepted, with the bytes that it points into.
pub(crate) struct Model {
    pointer: NonNull<TfLiteModel>,
    _bytes: Box<[u8]>,
    tflite: &'static TfLite,
}

impl Model {
    pub(crate) fn new(library: &'static Library, bytes: &[u8]) -> Result<Self, Failure> {
        let bytes: Box<[u8]> = bytes.into();
        let tflite = &library.tflite;
        // SAFETY: the bytes live as long as the model, and their box is never moved out of.
        let pointer = unsafe { (tflite.model_create)(bytes.as_ptr().cast(), bytes.len()) };
        Ok(Self { pointer: NonNull::new(pointer).ok_or(Failure::Null)?, _bytes: bytes, tflite })
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: made by TfLiteModelCreate; whoever uses it holds a reference.
        unsafe { (self.tflite.model_delete)(self.pointer.as_ptr()) }
    }
}

/// A delegate and how it is freed. Its code stays loaded until the process ends: vendors' libraries rarely survive unloading.
pub struct Delegate {
    pointer: NonNull<TfLiteDelegate>,
    free: unsafe extern "C" fn(*mut TfLiteDelegate),
}

impl Drop for Delegate {
    fn drop(&mut self) {
        // SAFETY: made by the creator that goes with `free`; the interpreter that used it is gone.
        unsafe { (self.free)(self.pointer.as_ptr()) }
    }
}

/// Writes a plugin's error to standard error, where the runtime writes its own.
unsafe extern "C" fn report_error(message: *const c_char) {
    if !message.is_null() {
        // SAFETY: a C string, by the plugin interface.
        let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("ERROR: {message}\n").as_bytes());
    }
}

/// Loads a vendor's library, which stays loaded until the process ends, and looks its functions up.
fn load_plugin(path: &Path) -> Result<(DelegatePlugin, Option<EdgeTpu>), String> {
    // SAFETY: loading runs the library's constructors: what the user asked for by naming it.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| checks::with_causes(&e))?;
    let library: &'static libloading::Library = Box::leak(Box::new(library));
    // SAFETY: the functions have these types by the plugin interface, and the library is never unloaded.
    let plugin = unsafe { DelegatePlugin::load(library) };
    let plugin = plugin.map_err(|e| format!("it is not a TensorFlow Lite delegate: {e}"))?;
    // SAFETY: as above.
    Ok((plugin, unsafe { EdgeTpu::load(library) }.ok()))
}

/// The file that the system's search finds for a vendor's plugin, which is loaded, and the version that it states.
pub(crate) fn plugin_identity(library: &Path) -> Result<(PathBuf, Option<String>), String> {
    let (plugin, edge_tpu) = load_plugin(library)?;
    let address = plugin.create as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| format!("/proc/self/maps: {e}"))?;
    let file = maps.lines().find_map(|line| file_at(line, address));
    let version = edge_tpu.map(|edge_tpu| {
        // SAFETY: a C string that lasts, by the Edge TPU's header.
        unsafe { CStr::from_ptr((edge_tpu.version)()) }.to_string_lossy().into_owned()
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
    pub(super) fn xnnpack(library: &'static Library, threads: u16, flags: u32) -> Result<Self, String> {
        let functions = library.xnnpack.ok_or("this runtime was built without XNNPACK; use delegate = \"cpu\"")?;
        // SAFETY: the options are the library's own default, with all its fields; two fields are set.
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
    pub(super) fn external(library: &Path, options: &BTreeMap<String, String>) -> Result<Self, String> {
        let (plugin, _) = load_plugin(library)?;
        let strings = |texts: Vec<&String>| -> Result<Vec<CString>, String> {
            let text = |text: &String| CString::new(text.as_str());
            texts.into_iter().map(text).collect::<Result<_, _>>().map_err(|e| format!("an option holds a zero: {e}"))
        };
        let (keys, values) = (strings(options.keys().collect())?, strings(options.values().collect())?);
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (key_pointers, value_pointers) = (pointers(&keys), pointers(&values));
        // SAFETY: two arrays of as many C strings each, which live until the call returns.
        let pointer =
            unsafe { (plugin.create)(key_pointers.as_ptr(), value_pointers.as_ptr(), keys.len(), Some(report_error)) };
        let declined = "it declines to start: is its device connected and free, and are the options right?";
        Ok(Self { pointer: NonNull::new(pointer).ok_or(declined)?, free: plugin.destroy })
    }
}

/// An interpreter with its tensors allocated.
pub(crate) struct Interpreter {
    pointer: NonNull<TfLiteInterpreter>,
    tflite: &'static TfLite,
    /// Dropped after the interpreter, which uses it.
    _delegate: Option<Delegate>,
}

// SAFETY: the interpreter has no thread of its own that it must be called from, and everything is behind `&mut self` or
// reads only what allocation has written.
unsafe impl Send for Interpreter {}
// SAFETY: as above.
unsafe impl Send for Model {}

/// Frees the options, whether or not the interpreter was built.
struct Options {
    pointer: NonNull<TfLiteInterpreterOptions>,
    tflite: &'static TfLite,
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made by TfLiteInterpreterOptionsCreate.
        unsafe { (self.tflite.options_delete)(self.pointer.as_ptr()) }
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
        let tflite = &library.tflite;
        // SAFETY: no arguments.
        let options = NonNull::new(unsafe { (tflite.options_create)() }).ok_or(Failure::Null)?;
        let options = Options { pointer: options, tflite };
        // SAFETY: options, delegate and model are alive; the delegate and the profiler stay so, by the caller's promise
        // and the field that keeps it.
        let pointer = unsafe {
            (tflite.options_set_num_threads)(options.pointer.as_ptr(), i32::from(threads));
            if let Some(delegate) = &delegate {
                (tflite.options_add_delegate)(options.pointer.as_ptr(), delegate.pointer.as_ptr());
            }
            if let Some(profiler) = profiler {
                profiler.attach(library, options.pointer.as_ptr())?;
            }
            (tflite.interpreter_create)(model.pointer.as_ptr(), options.pointer.as_ptr())
        };
        Ok(Self { pointer: NonNull::new(pointer).ok_or(Failure::Null)?, tflite, _delegate: delegate })
    }

    pub(crate) fn allocate(&mut self) -> Result<(), Failure> {
        // SAFETY: the interpreter is alive.
        Failure::check(unsafe { (self.tflite.allocate_tensors)(self.pointer.as_ptr()) })
    }

    /// Gives the input another shape; allocate afterwards.
    pub(crate) fn resize_input(&mut self, dims: &[i32]) -> Result<(), Failure> {
        let count = i32::try_from(dims.len()).unwrap_or(i32::MAX);
        // SAFETY: `count` dimensions, which the call copies.
        Failure::check(unsafe { (self.tflite.resize_input)(self.pointer.as_ptr(), 0, dims.as_ptr(), count) })
    }

    pub(crate) fn invoke(&mut self) -> Result<(), Failure> {
        // SAFETY: the interpreter is alive, and no slice of its tensors is, for those borrow it.
        Failure::check(unsafe { (self.tflite.invoke)(self.pointer.as_ptr()) })
    }

    pub(crate) fn input_count(&self) -> usize {
        // SAFETY: the interpreter is alive.
        usize::try_from(unsafe { (self.tflite.input_count)(self.pointer.as_ptr()) }).unwrap_or(0)
    }

    pub(crate) fn output_count(&self) -> usize {
        // SAFETY: the interpreter is alive.
        usize::try_from(unsafe { (self.tflite.output_count)(self.pointer.as_ptr()) }).unwrap_or(0)
    }

    pub(crate) fn input_info(&self) -> Result<TensorInfo, EngineError> {
        self.info(self.input()?)
    }

    pub(crate) fn output_info(&self, index: usize) -> Result<TensorInfo, EngineError> {
        self.info(self.output(index)?)
    }

    /// Returns the first input's bytes.
    pub(crate) fn input_bytes(&mut self) -> Result<&mut [u8], EngineError> {
        let (data, bytes) = self.data(self.input()?)?;
        // SAFETY: the tensor's own memory, which nothing else touches while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), bytes) })
    }

    /// Returns an output's bytes. Their address is read each time, because an output of dynamic size may move when invoked.
    pub(crate) fn output_bytes(&self, index: usize) -> Result<&[u8], EngineError> {
        let (data, bytes) = self.data(self.output(index)?)?;
        // SAFETY: as for the input.
        Ok(unsafe { std::slice::from_raw_parts(data.as_ptr(), bytes) })
    }

    fn input(&self) -> Result<NonNull<TfLiteTensor>, EngineError> {
        // SAFETY: the interpreter is alive, and returns null for an index that does not exist.
        let tensor = unsafe { (self.tflite.input_tensor)(self.pointer.as_ptr(), 0) };
        NonNull::new(tensor).ok_or_else(|| EngineError::runtime("reach the input", Failure::Null))
    }

    fn output(&self, index: usize) -> Result<NonNull<TfLiteTensor>, EngineError> {
        let count = self.output_count();
        let known = i32::try_from(index).ok().filter(|_| index < count);
        let index = known.ok_or_else(|| EngineError::Mismatch(format!("output {index} of {count}")))?;
        // SAFETY: the index is that of an output.
        let tensor = unsafe { (self.tflite.output_tensor)(self.pointer.as_ptr(), index) };
        NonNull::new(tensor.cast_mut()).ok_or_else(|| EngineError::runtime("reach an output", Failure::Null))
    }

    fn data(&self, tensor: NonNull<TfLiteTensor>) -> Result<(NonNull<u8>, usize), EngineError> {
        // SAFETY: a tensor of this interpreter.
        let (data, bytes) =
            unsafe { ((self.tflite.tensor_data)(tensor.as_ptr()), (self.tflite.tensor_byte_size)(tensor.as_ptr())) };
        let data = NonNull::new(data.cast()).ok_or_else(|| EngineError::runtime("reach a tensor", Failure::Null))?;
        Ok((data, bytes))
    }

    fn info(&self, tensor: NonNull<TfLiteTensor>) -> Result<TensorInfo, EngineError> {
        let (tflite, tensor) = (self.tflite, tensor.as_ptr());
        // SAFETY: a tensor of this interpreter; its name is a C string or null.
        let (name, kind, rank, quantization, bytes) = unsafe {
            let name = (tflite.tensor_name)(tensor);
            let name = if name.is_null() { Cow::Borrowed("") } else { CStr::from_ptr(name).to_string_lossy() };
            let quantization = (tflite.tensor_quantization)(tensor);
            let (kind, rank) = ((tflite.tensor_type)(tensor), (tflite.tensor_num_dims)(tensor));
            (name.into_owned(), kind, rank, quantization, (tflite.tensor_byte_size)(tensor))
        };
        let element = match kind {
            TF_LITE_FLOAT32 => Element::Float32,
            TF_LITE_INT8 => Element::Int8,
            TF_LITE_UINT8 => Element::Uint8,
            TF_LITE_INT16 => Element::Int16,
            other => {
                // SAFETY: it returns a C string for any number.
                let other = unsafe { CStr::from_ptr((tflite.type_name)(other)) }.to_string_lossy().to_lowercase();
                return Err(checks::unreadable(&name, &other));
            }
        };
        // SAFETY: dimensions that the tensor has.
        let dim = |index| usize::try_from(unsafe { (tflite.tensor_dim)(tensor, index) });
        let shape: Result<Vec<usize>, _> = (0..rank).map(dim).collect();
        let shape = shape.map_err(|_| EngineError::Mismatch(format!("tensor `{name}` has a dimension below 0")))?;
        TensorInfo { name, element, shape, scale: quantization.scale, zero_point: quantization.zero_point }
            .checked(bytes)
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        // SAFETY: made by TfLiteInterpreterCreate; its delegate and model are still there.
        unsafe { (self.tflite.interpreter_delete)(self.pointer.as_ptr()) }
    }
}
