//! LiteRT's compiled model, owned: a model, what is compiled of it, and its buffers, freed in the right order.
//!
//! Owns the calls that build and run; what a tensor means is the engine's business.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr::{NonNull, null_mut};

use edgefirst_tflite_sys::litert::{self as sys, LiteRtFunctions, LiteRtLayout, RankedTensorType, status};

use super::library::{Environment, Failure, Litert, Owned, bits, ok};
use crate::config::Accelerator;

type SignatureTensor = unsafe extern "C" fn(sys::Signature, sys::ParamIndex, *mut sys::Tensor) -> sys::Status;

/// A model that LiteRT has read, with the bytes that it points into, and one of its signatures.
pub(crate) struct Model {
    owned: Owned<sys::Model>,
    _bytes: Box<[u8]>,
    environment: Environment,
    signature: usize,
}

impl Model {
    pub(crate) fn new(environment: Environment, bytes: &[u8], signature: usize) -> Result<Self, Failure> {
        let bytes: Box<[u8]> = bytes.into();
        let table = environment.litert.table;
        // SAFETY: the bytes and the environment live as long as the model.
        let owned = Owned::new("LiteRtCreateModelFromBuffer", null_mut(), table.destroy_model, |handle| unsafe {
            (table.create_model_from_buffer)(environment.owned.handle, bytes.as_ptr().cast(), bytes.len(), handle)
        })?;
        Ok(Self { owned, _bytes: bytes, environment, signature })
    }

    /// The signature's inputs and outputs in its order, as indices into the list of the file's tensors.
    pub(crate) fn tensor_indices(&self) -> Result<(Vec<usize>, Vec<usize>), Failure> {
        let table = self.environment.litert.table;
        let signature = self.signature()?;
        let (mut inputs, mut outputs) = (0, 0);
        // SAFETY: a signature of this model.
        unsafe {
            ok("LiteRtGetNumSignatureInputs", (table.get_num_signature_inputs)(signature, &raw mut inputs))?;
            ok("LiteRtGetNumSignatureOutputs", (table.get_num_signature_outputs)(signature, &raw mut outputs))?;
        }
        let index = |tensor: Result<sys::Tensor, Failure>| {
            let mut index = 0;
            // SAFETY: a tensor of this model.
            ok("LiteRtGetTensorIndex", unsafe { (self.environment.litert.tensor_index)(tensor?, &raw mut index) })?;
            Ok(index as usize)
        };
        let inputs = (0..inputs).map(|input| index(self.input(input))).collect::<Result<_, _>>()?;
        let outputs = (0..outputs).map(|output| index(self.output(output))).collect::<Result<_, _>>()?;
        Ok((inputs, outputs))
    }

    fn signature(&self) -> Result<sys::Signature, Failure> {
        let mut signature = null_mut();
        let get = self.environment.litert.table.get_model_signature;
        // SAFETY: the model is alive, and refuses an index that it has not.
        ok("LiteRtGetModelSignature", unsafe { get(self.owned.handle, self.signature, &raw mut signature) })?;
        Ok(signature)
    }

    fn input(&self, index: usize) -> Result<sys::Tensor, Failure> {
        let get = self.environment.litert.table.get_signature_input_tensor_by_index;
        self.tensor("LiteRtGetSignatureInputTensorByIndex", get, index)
    }

    fn output(&self, index: usize) -> Result<sys::Tensor, Failure> {
        let get = self.environment.litert.table.get_signature_output_tensor_by_index;
        self.tensor("LiteRtGetSignatureOutputTensorByIndex", get, index)
    }

    fn tensor(&self, call: &'static str, get: SignatureTensor, index: usize) -> Result<sys::Tensor, Failure> {
        let mut tensor = null_mut();
        // SAFETY: a signature of this model, which refuses an index that it has not.
        ok(call, unsafe { get(self.signature()?, index, &raw mut tensor) })?;
        Ok(tensor)
    }
}

/// Memory that an accelerator can reach, mapped while its bytes are looked at.
struct Buffer {
    owned: Owned<sys::TensorBuffer>,
    mapped: Option<NonNull<u8>>,
    bytes: usize,
    table: &'static LiteRtFunctions,
}

impl Buffer {
    /// One for `tensor`, whose shape is now `dims`.
    fn new(
        environment: &Environment,
        tensor: sys::Tensor,
        dims: &[i32],
        requirements: sys::TensorBufferRequirements,
    ) -> Result<Self, Failure> {
        const CALL: &str = "LiteRtCreateManagedTensorBufferFromRequirements";
        let table = environment.litert.table;
        // SAFETY: plain data, for which zeros are valid.
        let mut kind = unsafe { std::mem::zeroed::<RankedTensorType>() };
        // SAFETY: a tensor of a live model.
        ok("LiteRtGetRankedTensorType", unsafe { (table.get_ranked_tensor_type)(tensor, &raw mut kind) })?;
        // The file's shape has the batch open; no buffer can be made of that.
        let Some(places) = kind.layout.dimensions.get_mut(..dims.len()) else {
            return Err(Failure { call: CALL, status: status::ERROR_UNSUPPORTED });
        };
        places.copy_from_slice(dims);
        kind.layout.set_rank(dims.len() as u32);
        // SAFETY: the compiled model that owns the requirements is alive, and so is the environment.
        let owned = Owned::new(CALL, null_mut(), table.destroy_tensor_buffer, |handle| unsafe {
            (table.create_managed_tensor_buffer_from_requirements)(
                environment.owned.handle,
                &raw const kind,
                requirements,
                handle,
            )
        })?;
        let mut bytes = 0;
        // SAFETY: the buffer is alive.
        ok("LiteRtGetTensorBufferSize", unsafe { (table.get_tensor_buffer_size)(owned.handle, &raw mut bytes) })?;
        Ok(Self { owned, mapped: None, bytes, table })
    }

    /// Where its bytes lie until it is unmapped.
    fn map(&mut self, mode: sys::TensorBufferLockMode) -> Result<NonNull<u8>, Failure> {
        const CALL: &str = "LiteRtLockTensorBuffer";
        if let Some(mapped) = self.mapped {
            return Ok(mapped);
        }
        let mut address = null_mut();
        // SAFETY: the buffer is alive and not locked.
        ok(CALL, unsafe { (self.table.lock_tensor_buffer)(self.owned.handle, &raw mut address, mode) })?;
        let mapped = NonNull::new(address.cast()).ok_or(Failure { call: CALL, status: status::OK })?;
        self.mapped = Some(mapped);
        Ok(mapped)
    }

    fn unmap(&mut self) -> Result<(), Failure> {
        match self.mapped.take() {
            None => Ok(()),
            // SAFETY: the buffer is alive and locked.
            Some(_) => ok("LiteRtUnlockTensorBuffer", unsafe { (self.table.unlock_tensor_buffer)(self.owned.handle) }),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let _ = self.unmap();
    }
}

/// A model compiled for accelerators, with its buffers. The fields are in the order in which they are to be freed.
pub(crate) struct CompiledModel {
    /// Only absent when compiling it anew has failed.
    compiled: Option<Owned<sys::CompiledModel>>,
    /// The input's, then those of the outputs.
    buffers: Vec<Buffer>,
    handles: Vec<sys::TensorBuffer>,
    model: Model,
    options: Owned<sys::Options>,
    /// The input's shape where it is not the file's.
    dims: Option<Vec<c_int>>,
}

// SAFETY: none of the handles belongs to a thread, and all are reached through `&mut self` but for questions that change
// nothing.
unsafe impl Send for CompiledModel {}

impl CompiledModel {
    pub(crate) fn new(model: Model, accelerators: &[Accelerator]) -> Result<Self, Failure> {
        let table = model.environment.litert.table;
        // SAFETY: the call has no other arguments.
        let options = Owned::new("LiteRtCreateOptions", null_mut(), table.destroy_options, |handle| unsafe {
            (table.create_options)(handle)
        })?;
        let set = table.set_options_hardware_accelerators;
        // SAFETY: the options are alive.
        ok("LiteRtSetOptionsHardwareAccelerators", unsafe { set(options.handle, bits(accelerators)) })?;
        let compiled = Some(compile(&model, &options)?);
        Ok(Self { compiled, buffers: Vec::new(), handles: Vec::new(), model, options, dims: None })
    }

    /// Gives the one input another shape, before the buffers are made.
    pub(crate) fn resize_input(&mut self, dims: &[c_int]) -> Result<(), Failure> {
        let resize = self.litert().resize_input;
        // SAFETY: as many dimensions as are told, which the call copies.
        let status = unsafe { resize(self.handle()?, self.model.signature, 0, dims.as_ptr(), dims.len()) };
        ok("LiteRtCompiledModelResizeInputTensorNonStrict", status)?;
        self.dims = Some(dims.to_owned());
        Ok(())
    }

    /// The shapes of `count` outputs, all that the signature has; allocates the tensors for them.
    pub(crate) fn output_shapes(&mut self, count: usize) -> Result<Vec<Vec<c_int>>, Failure> {
        // SAFETY: plain data, for which zeros are valid.
        let mut layouts = vec![unsafe { std::mem::zeroed::<LiteRtLayout>() }; count];
        let get = self.litert().output_layouts;
        // SAFETY: room for as many layouts as are told.
        let status = unsafe { get(self.handle()?, self.model.signature, count, layouts.as_mut_ptr(), true) };
        ok("LiteRtGetCompiledModelOutputTensorLayouts", status)?;
        let dims = |layout: &LiteRtLayout| layout.dimensions.iter().take(layout.rank() as usize).copied().collect();
        Ok(layouts.iter().map(dims).collect())
    }

    /// Makes the buffers for an input and outputs of these shapes; gives their sizes in bytes, the input's first.
    pub(crate) fn allocate(&mut self, input: &[c_int], outputs: &[Vec<c_int>]) -> Result<Vec<usize>, Failure> {
        let (model, compiled, table) = (&self.model, self.handle()?, self.litert().table);
        let mut requirements = null_mut();
        let get = table.get_compiled_model_input_buffer_requirements;
        // SAFETY: the compiled model is alive, and refuses an index that it has not.
        let status = unsafe { get(compiled, model.signature, 0, &raw mut requirements) };
        ok("LiteRtGetCompiledModelInputBufferRequirements", status)?;
        let mut buffers = vec![Buffer::new(&model.environment, model.input(0)?, input, requirements)?];
        for (index, dims) in outputs.iter().enumerate() {
            let get = table.get_compiled_model_output_buffer_requirements;
            // SAFETY: as above.
            let status = unsafe { get(compiled, model.signature, index, &raw mut requirements) };
            ok("LiteRtGetCompiledModelOutputBufferRequirements", status)?;
            buffers.push(Buffer::new(&model.environment, model.output(index)?, dims, requirements)?);
        }
        self.handles = buffers.iter().map(|buffer| buffer.owned.handle).collect();
        self.buffers = buffers;
        Ok(self.buffers.iter().map(|buffer| buffer.bytes).collect())
    }

    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        for buffer in &mut self.buffers {
            buffer.unmap()?;
        }
        let (compiled, signature, run) = (self.handle()?, self.model.signature, self.litert().table.run_compiled_model);
        let [input, outputs @ ..] = self.handles.as_mut_slice() else { return Err(NO_BUFFERS) };
        // SAFETY: one input and as many outputs as the signature has, all alive and none mapped.
        let status = unsafe { run(compiled, signature, 1, input, outputs.len(), outputs.as_mut_ptr()) };
        ok("LiteRtRunCompiledModel", status)
    }

    /// Compiles the model again, which forgets its state; the buffers are kept.
    pub(crate) fn renew(&mut self) -> Result<(), Failure> {
        // A device may not let itself be opened twice.
        self.compiled = None;
        self.compiled = Some(compile(&self.model, &self.options)?);
        if let Some(dims) = self.dims.take() {
            self.resize_input(&dims)?;
        }
        self.output_shapes(self.buffers.len().saturating_sub(1)).map(drop)
    }

    /// Whether each operator runs on an accelerator that was asked for; the CPU is one.
    pub(crate) fn fully_accelerated(&self) -> Result<bool, Failure> {
        let mut fully = false;
        let get = self.litert().table.compiled_model_is_fully_accelerated;
        // SAFETY: the compiled model is alive.
        ok("LiteRtCompiledModelIsFullyAccelerated", unsafe { get(self.handle()?, &raw mut fully) })?;
        Ok(fully)
    }

    /// Whether none of it runs on the CPU, where LiteRT tells.
    pub(crate) fn fully_off_cpu(&self) -> Result<Option<bool>, Failure> {
        let Some(get) = self.litert().fully_off_cpu else { return Ok(None) };
        let mut fully = false;
        // SAFETY: the compiled model is alive.
        ok("LiteRtCompiledModelIsNonCpuFullyAccelerated", unsafe { get(self.handle()?, &raw mut fully) })?;
        Ok(Some(fully))
    }

    /// The input, to be written.
    pub(crate) fn input_bytes(&mut self) -> Result<&mut [u8], Failure> {
        let buffer = self.buffers.first_mut().ok_or(NO_BUFFERS)?;
        let data = buffer.map(sys::kLiteRtTensorBufferLockModeWrite)?;
        // SAFETY: mapped until `self` is next borrowed, and as long as the buffer says.
        Ok(unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), buffer.bytes) })
    }

    /// Output `index` in the signature's order.
    pub(crate) fn output_bytes(&mut self, index: usize) -> Result<&[u8], Failure> {
        let buffer = self.buffers.get_mut(index + 1).ok_or(NO_BUFFERS)?;
        let data = buffer.map(sys::kLiteRtTensorBufferLockModeRead)?;
        // SAFETY: as above.
        Ok(unsafe { std::slice::from_raw_parts(data.as_ptr(), buffer.bytes) })
    }

    fn litert(&self) -> Litert {
        self.model.environment.litert
    }

    fn handle(&self) -> Result<sys::CompiledModel, Failure> {
        let absent = Failure { call: "LiteRtCreateCompiledModel", status: status::OK };
        self.compiled.as_ref().map(|compiled| compiled.handle).ok_or(absent)
    }
}

const NO_BUFFERS: Failure = Failure { call: "LiteRtLockTensorBuffer", status: status::ERROR_NOT_FOUND };

fn compile(model: &Model, options: &Owned<sys::Options>) -> Result<Owned<sys::CompiledModel>, Failure> {
    let (table, environment) = (model.environment.litert.table, model.environment.owned.handle);
    // SAFETY: environment, model and options are alive; the first two outlive what is made of them.
    Owned::new("LiteRtCreateCompiledModel", null_mut(), table.destroy_compiled_model, |handle| unsafe {
        (table.create_compiled_model)(environment, model.owned.handle, options.handle, handle)
    })
}
