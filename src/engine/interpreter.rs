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
    DelegatePlugin, EdgeTpu, Signatures, TF_LITE_BOOL, TF_LITE_FLOAT32, TF_LITE_INT8, TF_LITE_INT16, TF_LITE_INT32,
    TF_LITE_INT64, TF_LITE_UINT8, TfLite, TfLiteDelegate, TfLiteInterpreter, TfLiteInterpreterOptions, TfLiteModel,
    TfLiteSignatureRunner, TfLiteTensor,
};
use super::plan::StatePair;
use super::profile::Profiler;
use super::runtime::Library;
use super::{Element, EngineError, TensorInfo, checks};
use crate::model::{NamedTensor, Signature, Subgraph};
use crate::sys::symbols;

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
    let library = unsafe { symbols::load(path) }.map_err(|e| checks::with_causes(&e))?;
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

/// An interpreter, and what of the model it runs.
pub(crate) struct Interpreter {
    /// Declared before the interpreter's own fields: it is freed first.
    runner: Option<SignatureRunner>,
    pointer: NonNull<TfLiteInterpreter>,
    tflite: &'static TfLite,
    /// Dropped after the interpreter, which uses it.
    _delegate: Option<Delegate>,
}

/// Runs one signature of a model, whose subgraph is not the first one.
struct SignatureRunner {
    pointer: NonNull<TfLiteSignatureRunner>,
    functions: Signatures,
    /// The names of its inputs and outputs, in the order of the subgraph.
    inputs: Vec<CString>,
    outputs: Vec<CString>,
}

impl Drop for SignatureRunner {
    fn drop(&mut self) {
        // SAFETY: made by TfLiteInterpreterGetSignatureRunner; its interpreter is still there.
        unsafe { (self.functions.delete)(self.pointer.as_ptr()) }
    }
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
        Ok(Self { runner: None, pointer: NonNull::new(pointer).ok_or(Failure::Null)?, tflite, _delegate: delegate })
    }

    /// Runs `signature` from now on, whose tensors are those of the subgraph `main`, in its order.
    ///
    /// # Errors
    /// The runtime is too old for it, or refuses it.
    pub(crate) fn enter(
        &mut self,
        library: &'static Library,
        signature: &Signature,
        main: &Subgraph,
    ) -> Result<(), EngineError> {
        let name = signature.name.escape_debug();
        let functions = library.signatures.ok_or_else(|| {
            EngineError::Mismatch(format!(
                "this runtime is too old to run the signature `{name}`; it needs TensorFlow Lite 2.16"
            ))
        })?;
        let text = |text: &str| {
            let has_zero = |_| EngineError::Mismatch(format!("the signature `{name}` has a name with a zero in it"));
            CString::new(text).map_err(has_zero)
        };
        let names = |named: &[NamedTensor], indices: &mut dyn Iterator<Item = usize>| {
            let name_of = |index: usize| named.iter().find(|tensor| tensor.index == index).map_or("", |t| &t.name);
            indices.map(|index| text(name_of(index))).collect::<Result<Vec<_>, _>>()
        };
        let inputs = names(&signature.inputs, &mut main.inputs.iter().map(|input| input.index))?;
        let outputs = names(&signature.outputs, &mut main.outputs.iter().map(|output| output.tensor.index))?;
        let key = text(&signature.name)?;
        // SAFETY: the interpreter is alive; the key is a C string, which the call reads.
        let pointer = unsafe { (functions.runner)(self.pointer.as_ptr(), key.as_ptr()) };
        let pointer = NonNull::new(pointer)
            .ok_or_else(|| EngineError::Mismatch(format!("the runtime does not run the signature `{name}`")))?;
        self.runner = Some(SignatureRunner { pointer, functions, inputs, outputs });
        Ok(())
    }

    pub(crate) fn allocate(&mut self) -> Result<(), Failure> {
        // SAFETY: the interpreter and the runner are alive.
        Failure::check(unsafe {
            match &self.runner {
                None => (self.tflite.allocate_tensors)(self.pointer.as_ptr()),
                Some(runner) => (runner.functions.allocate_tensors)(runner.pointer.as_ptr()),
            }
        })
    }

    /// Gives an input another shape; allocate afterwards.
    pub(crate) fn resize_input(&mut self, index: usize, dims: &[i32]) -> Result<(), Failure> {
        let count = i32::try_from(dims.len()).unwrap_or(i32::MAX);
        // SAFETY: `count` dimensions, which the call copies; the runtime refuses an index that it does not have.
        Failure::check(unsafe {
            match &self.runner {
                None => {
                    let index = i32::try_from(index).unwrap_or(i32::MAX);
                    (self.tflite.resize_input)(self.pointer.as_ptr(), index, dims.as_ptr(), count)
                }
                Some(runner) => {
                    let name = runner.inputs.get(index).ok_or(Failure::Null)?;
                    (runner.functions.resize_input)(runner.pointer.as_ptr(), name.as_ptr(), dims.as_ptr(), count)
                }
            }
        })
    }

    pub(crate) fn invoke(&mut self) -> Result<(), Failure> {
        // SAFETY: the interpreter is alive, and no slice of its tensors is, for those borrow it.
        Failure::check(unsafe {
            match &self.runner {
                None => (self.tflite.invoke)(self.pointer.as_ptr()),
                Some(runner) => (runner.functions.invoke)(runner.pointer.as_ptr()),
            }
        })
    }

    pub(crate) fn input_count(&self) -> usize {
        match &self.runner {
            // SAFETY: the interpreter is alive.
            None => usize::try_from(unsafe { (self.tflite.input_count)(self.pointer.as_ptr()) }).unwrap_or(0),
            Some(runner) => runner.inputs.len(),
        }
    }

    pub(crate) fn output_count(&self) -> usize {
        match &self.runner {
            // SAFETY: the interpreter is alive.
            None => usize::try_from(unsafe { (self.tflite.output_count)(self.pointer.as_ptr()) }).unwrap_or(0),
            Some(runner) => runner.outputs.len(),
        }
    }

    pub(crate) fn input_info(&self, index: usize) -> Result<TensorInfo, EngineError> {
        self.info(self.input(index)?)
    }

    pub(crate) fn output_info(&self, index: usize) -> Result<TensorInfo, EngineError> {
        self.info(self.output(index)?)
    }

    /// Returns an input's bytes.
    pub(crate) fn input_bytes(&mut self, index: usize) -> Result<&mut [u8], EngineError> {
        let (data, bytes) = self.data(self.input(index)?)?;
        // SAFETY: the tensor's own memory, which nothing else touches while `self` is borrowed.
        Ok(unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), bytes) })
    }

    /// Returns an output's bytes. Their address is read each time, because an output of dynamic size may move when invoked.
    pub(crate) fn output_bytes(&self, index: usize) -> Result<&[u8], EngineError> {
        let (data, bytes) = self.data(self.output(index)?)?;
        // SAFETY: as for the input.
        Ok(unsafe { std::slice::from_raw_parts(data.as_ptr(), bytes) })
    }

    /// Copies an output's bytes to an input of the same size.
    pub(crate) fn carry(&mut self, state: StatePair) -> Result<(), EngineError> {
        let (from, from_bytes) = self.data(self.output(state.output)?)?;
        let (to, to_bytes) = self.data(self.input(state.input)?)?;
        if from_bytes != to_bytes {
            return Err(EngineError::Mismatch(format!("a state of {from_bytes} bytes does not fit {to_bytes}")));
        }
        // SAFETY: two tensors of that size, which may share memory, so `copy` and not its non-overlapping kin.
        unsafe { std::ptr::copy(from.as_ptr(), to.as_ptr(), to_bytes) };
        Ok(())
    }

    fn input(&self, index: usize) -> Result<NonNull<TfLiteTensor>, EngineError> {
        // SAFETY: the interpreter is alive, and returns null for an index or a name that does not exist.
        let tensor = unsafe {
            match &self.runner {
                None => {
                    let index = i32::try_from(index).unwrap_or(i32::MAX);
                    (self.tflite.input_tensor)(self.pointer.as_ptr(), index)
                }
                Some(runner) => runner.inputs.get(index).map_or(std::ptr::null_mut(), |name| {
                    (runner.functions.input_tensor)(runner.pointer.as_ptr(), name.as_ptr())
                }),
            }
        };
        NonNull::new(tensor).ok_or_else(|| EngineError::runtime("reach the input", Failure::Null))
    }

    fn output(&self, index: usize) -> Result<NonNull<TfLiteTensor>, EngineError> {
        let count = self.output_count();
        let known = i32::try_from(index).ok().filter(|_| index < count);
        let place = known.ok_or_else(|| EngineError::Mismatch(format!("output {index} of {count}")))?;
        // SAFETY: the index is that of an output; the runtime returns null for a name that does not exist.
        let tensor = unsafe {
            match &self.runner {
                None => (self.tflite.output_tensor)(self.pointer.as_ptr(), place),
                Some(runner) => {
                    (runner.functions.output_tensor)(runner.pointer.as_ptr(), runner.outputs[index].as_ptr())
                }
            }
        };
        NonNull::new(tensor.cast_mut()).ok_or_else(|| EngineError::runtime("reach an output", Failure::Null))
    }

    fn data(&self, tensor: NonNull<TfLiteTensor>) -> Result<(NonNull<u8>, usize), EngineError> {
        // SAFETY: a tensor of this interpreter.
        let (data, bytes) =
            unsafe { ((self.tflite.tensor_data)(tensor.as_ptr()), (self.tflite.tensor_byte_size)(tensor.as_ptr())) };
        let data = NonNull::new(data.cast()).ok_or_else(|| EngineError::runtime("reach a tensor", Failure::Null))?;
        Ok((data, bytes))
    }

    fn info(&self, pointer: NonNull<TfLiteTensor>) -> Result<TensorInfo, EngineError> {
        let (tflite, tensor) = (self.tflite, pointer.as_ptr());
        // SAFETY: a tensor of this interpreter; its name is a C string or null.
        let (name, kind, quantization, bytes) = unsafe {
            let name = (tflite.tensor_name)(tensor);
            let name = if name.is_null() { Cow::Borrowed("") } else { CStr::from_ptr(name).to_string_lossy() };
            let quantization = (tflite.tensor_quantization)(tensor);
            (name.into_owned(), (tflite.tensor_type)(tensor), quantization, (tflite.tensor_byte_size)(tensor))
        };
        let shape: Result<Vec<usize>, _> = self.dims(pointer).into_iter().map(usize::try_from).collect();
        let shape = shape.map_err(|_| EngineError::Mismatch(format!("tensor `{name}` has a dimension below 0")))?;
        let element = match kind {
            TF_LITE_FLOAT32 => Element::Float32,
            TF_LITE_INT8 => Element::Int8,
            TF_LITE_UINT8 => Element::Uint8,
            TF_LITE_INT16 => Element::Int16,
            TF_LITE_INT32 => Element::Int32,
            TF_LITE_INT64 => Element::Int64,
            TF_LITE_BOOL => Element::Bool,
            _ => Element::Other,
        };
        TensorInfo { name, element, shape, scale: quantization.scale, zero_point: quantization.zero_point }
            .checked(bytes)
    }

    /// Returns whether an output has no memory, although the tensors are allocated: its size may depend on the data.
    pub(crate) fn is_dynamic(&self, index: usize) -> Result<bool, EngineError> {
        let tensor = self.output(index)?;
        // SAFETY: a tensor of this interpreter.
        Ok(unsafe { (self.tflite.tensor_data)(tensor.as_ptr()) }.is_null())
    }

    /// Returns an input's shape as it is now.
    pub(crate) fn input_dims(&self, index: usize) -> Result<Vec<i32>, EngineError> {
        Ok(self.dims(self.input(index)?))
    }

    /// Returns an output's shape as it is now.
    pub(crate) fn output_dims(&self, index: usize) -> Result<Vec<i32>, EngineError> {
        Ok(self.dims(self.output(index)?))
    }

    fn dims(&self, tensor: NonNull<TfLiteTensor>) -> Vec<i32> {
        let tensor = tensor.as_ptr();
        // SAFETY: a tensor of this interpreter, and dimensions that it has.
        unsafe {
            let rank = (self.tflite.tensor_num_dims)(tensor);
            (0..rank).map(|dim| (self.tflite.tensor_dim)(tensor, dim)).collect()
        }
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        self.runner = None;
        // SAFETY: made by TfLiteInterpreterCreate; its delegate and model are still there.
        unsafe { (self.tflite.interpreter_delete)(self.pointer.as_ptr()) }
    }
}
