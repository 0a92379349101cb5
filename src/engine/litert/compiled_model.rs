//! LiteRT's compiled model, owned: a model, what is compiled of it, and its buffers, freed in the right order.
//!
//! Owns the calls that build and run; what a tensor means is the engine's business.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr::{NonNull, null_mut};

use super::library::{Environment, Failure, Owned, bits, ok};
use crate::engine::delegate::litert::Accelerator;
use crate::engine::ffi::{
    LITERT_LOCK_READ, LITERT_LOCK_WRITE, LiteRt, LiteRtCompiledModel, LiteRtLayout, LiteRtLockMode, LiteRtModel,
    LiteRtModelTensor, LiteRtOptions, LiteRtRankedTensorType, LiteRtSignature, LiteRtStatus, LiteRtTensorBuffer,
    LiteRtTensorBufferRequirements, litert_status as status,
};

type SignatureTensor = unsafe extern "C" fn(*mut LiteRtSignature, usize, *mut *mut LiteRtModelTensor) -> LiteRtStatus;

/// A model that LiteRT has read, with the bytes that it points into, and one of its signatures.
pub(crate) struct Model {
    owned: Owned<LiteRtModel>,
    _bytes: Box<[u8]>,
    environment: Environment,
    signature: usize,
}

impl Model {
    pub(crate) fn new(environment: Environment, bytes: &[u8], signature: usize) -> Result<Self, Failure> {
        let bytes: Box<[u8]> = bytes.into();
        let functions = environment.litert.functions;
        // SAFETY: the bytes and the environment live as long as the model.
        let owned = Owned::new("LiteRtCreateModelFromBuffer", functions.destroy_model, |handle| unsafe {
            (functions.create_model)(environment.owned.handle, bytes.as_ptr().cast(), bytes.len(), handle)
        })?;
        Ok(Self { owned, _bytes: bytes, environment, signature })
    }

    /// The signature's inputs and outputs in its order, as indices into the list of the file's tensors.
    pub(crate) fn tensor_indices(&self) -> Result<(Vec<usize>, Vec<usize>), Failure> {
        let functions = self.environment.litert.functions;
        let signature = self.signature()?;
        let (mut inputs, mut outputs) = (0, 0);
        // SAFETY: a signature of this model.
        unsafe {
            ok("LiteRtGetNumSignatureInputs", (functions.num_signature_inputs)(signature, &raw mut inputs))?;
            ok("LiteRtGetNumSignatureOutputs", (functions.num_signature_outputs)(signature, &raw mut outputs))?;
        }
        let index = |tensor: Result<*mut LiteRtModelTensor, Failure>| {
            let mut index = 0;
            // SAFETY: a tensor of this model.
            ok("LiteRtGetTensorIndex", unsafe { (functions.tensor_index)(tensor?, &raw mut index) })?;
            Ok(index as usize)
        };
        let inputs = (0..inputs).map(|input| index(self.input(input))).collect::<Result<_, _>>()?;
        let outputs = (0..outputs).map(|output| index(self.output(output))).collect::<Result<_, _>>()?;
        Ok((inputs, outputs))
    }

    fn signature(&self) -> Result<*mut LiteRtSignature, Failure> {
        let mut signature = null_mut();
        let get = self.environment.litert.functions.model_signature;
        // SAFETY: the model is alive, and refuses an index that it has not.
        ok("LiteRtGetModelSignature", unsafe { get(self.owned.handle, self.signature, &raw mut signature) })?;
        Ok(signature)
    }

    fn input(&self, index: usize) -> Result<*mut LiteRtModelTensor, Failure> {
        let get = self.environment.litert.functions.signature_input;
        self.tensor("LiteRtGetSignatureInputTensorByIndex", get, index)
    }

    fn output(&self, index: usize) -> Result<*mut LiteRtModelTensor, Failure> {
        let get = self.environment.litert.functions.signature_output;
        self.tensor("LiteRtGetSignatureOutputTensorByIndex", get, index)
    }

    fn tensor(
        &self,
        call: &'static str,
        get: SignatureTensor,
        index: usize,
    ) -> Result<*mut LiteRtModelTensor, Failure> {
        let mut tensor = null_mut();
        // SAFETY: a signature of this model, which refuses an index that it has not.
        ok(call, unsafe { get(self.signature()?, index, &raw mut tensor) })?;
        Ok(tensor)
    }
}

/// Memory that an accelerator can reach, mapped while its bytes are looked at.
struct Buffer {
    owned: Owned<LiteRtTensorBuffer>,
    mapped: Option<NonNull<u8>>,
    bytes: usize,
    functions: &'static LiteRt,
}

impl Buffer {
    /// One for `tensor`, whose shape is now `dims`.
    fn new(
        environment: &Environment,
        tensor: *mut LiteRtModelTensor,
        dims: &[i32],
        requirements: *mut LiteRtTensorBufferRequirements,
    ) -> Result<Self, Failure> {
        const CALL: &str = "LiteRtCreateManagedTensorBufferFromRequirements";
        let functions = environment.litert.functions;
        let mut kind = LiteRtRankedTensorType::default();
        // SAFETY: a tensor of a live model.
        ok("LiteRtGetRankedTensorType", unsafe { (functions.ranked_tensor_type)(tensor, &raw mut kind) })?;
        // The file's shape has the batch open; no buffer can be made of that.
        if !kind.layout.set_dimensions(dims) {
            return Err(Failure { call: CALL, status: status::ERROR_UNSUPPORTED });
        }
        // SAFETY: the compiled model that owns the requirements is alive, and so is the environment.
        let owned = Owned::new(CALL, functions.destroy_buffer, |handle| unsafe {
            (functions.create_buffer)(environment.owned.handle, &raw const kind, requirements, handle)
        })?;
        let mut bytes = 0;
        // SAFETY: the buffer is alive.
        ok("LiteRtGetTensorBufferSize", unsafe { (functions.buffer_size)(owned.handle, &raw mut bytes) })?;
        Ok(Self { owned, mapped: None, bytes, functions })
    }

    /// Where its bytes lie until it is unmapped.
    fn map(&mut self, mode: LiteRtLockMode) -> Result<NonNull<u8>, Failure> {
        const CALL: &str = "LiteRtLockTensorBuffer";
        if let Some(mapped) = self.mapped {
            return Ok(mapped);
        }
        let mut address = null_mut();
        // SAFETY: the buffer is alive and not locked.
        ok(CALL, unsafe { (self.functions.lock_buffer)(self.owned.handle, &raw mut address, mode) })?;
        let mapped = NonNull::new(address.cast()).ok_or(Failure { call: CALL, status: status::OK })?;
        self.mapped = Some(mapped);
        Ok(mapped)
    }

    fn unmap(&mut self) -> Result<(), Failure> {
        match self.mapped.take() {
            None => Ok(()),
            // SAFETY: the buffer is alive and locked.
            Some(_) => ok("LiteRtUnlockTensorBuffer", unsafe { (self.functions.unlock_buffer)(self.owned.handle) }),
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
    /// Absent only after compiling it again has failed.
    compiled: Option<Owned<LiteRtCompiledModel>>,
    /// The input's, then those of the outputs.
    buffers: Vec<Buffer>,
    handles: Vec<*mut LiteRtTensorBuffer>,
    model: Model,
    options: Owned<LiteRtOptions>,
    /// The input's shape if it is not the file's.
    dims: Option<Vec<c_int>>,
}

// SAFETY: none of the handles belongs to a thread, and all are reached through `&mut self` but for questions that change
// nothing.
unsafe impl Send for CompiledModel {}

impl CompiledModel {
    pub(crate) fn new(model: Model, accelerators: &[Accelerator]) -> Result<Self, Failure> {
        let functions = model.environment.litert.functions;
        // SAFETY: the call has no other arguments.
        let options = Owned::new("LiteRtCreateOptions", functions.destroy_options, |handle| unsafe {
            (functions.create_options)(handle)
        })?;
        let set = functions.set_accelerators;
        // SAFETY: the options are alive.
        ok("LiteRtSetOptionsHardwareAccelerators", unsafe { set(options.handle, bits(accelerators)) })?;
        let compiled = Some(compile(&model, &options)?);
        Ok(Self { compiled, buffers: Vec::new(), handles: Vec::new(), model, options, dims: None })
    }

    /// Gives the one input another shape, before the buffers are made.
    pub(crate) fn resize_input(&mut self, dims: &[c_int]) -> Result<(), Failure> {
        let resize = self.functions().resize_input;
        // SAFETY: as many dimensions as stated, which the call copies.
        let status = unsafe { resize(self.handle()?, self.model.signature, 0, dims.as_ptr(), dims.len()) };
        ok("LiteRtCompiledModelResizeInputTensorNonStrict", status)?;
        self.dims = Some(dims.to_owned());
        Ok(())
    }

    /// The shapes of `count` outputs, all that the signature has; allocates the tensors for them.
    pub(crate) fn output_shapes(&mut self, count: usize) -> Result<Vec<Vec<c_int>>, Failure> {
        let mut layouts = vec![LiteRtLayout::default(); count];
        let get = self.functions().output_layouts;
        // SAFETY: room for as many layouts as stated.
        let status = unsafe { get(self.handle()?, self.model.signature, count, layouts.as_mut_ptr(), true) };
        ok("LiteRtGetCompiledModelOutputTensorLayouts", status)?;
        let dims = |layout: &LiteRtLayout| layout.dimensions.iter().take(layout.rank()).copied().collect();
        Ok(layouts.iter().map(dims).collect())
    }

    /// Makes the buffers for an input and outputs of these shapes; gives their sizes in bytes, the input's first.
    pub(crate) fn allocate(&mut self, input: &[c_int], outputs: &[Vec<c_int>]) -> Result<Vec<usize>, Failure> {
        let (model, compiled, functions) = (&self.model, self.handle()?, self.functions());
        let mut requirements = null_mut();
        let get = functions.input_requirements;
        // SAFETY: the compiled model is alive, and refuses an index that it has not.
        let status = unsafe { get(compiled, model.signature, 0, &raw mut requirements) };
        ok("LiteRtGetCompiledModelInputBufferRequirements", status)?;
        let mut buffers = vec![Buffer::new(&model.environment, model.input(0)?, input, requirements)?];
        for (index, dims) in outputs.iter().enumerate() {
            let get = functions.output_requirements;
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
        let (compiled, signature, run) = (self.handle()?, self.model.signature, self.functions().run);
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
        let get = self.functions().is_fully_accelerated;
        // SAFETY: the compiled model is alive.
        ok("LiteRtCompiledModelIsFullyAccelerated", unsafe { get(self.handle()?, &raw mut fully) })?;
        Ok(fully)
    }

    /// Whether none of it runs on the CPU; `None` if this LiteRT does not report it.
    pub(crate) fn fully_off_cpu(&self) -> Result<Option<bool>, Failure> {
        let Some(functions) = self.model.environment.litert.off_cpu else { return Ok(None) };
        let mut fully = false;
        // SAFETY: the compiled model is alive.
        ok("LiteRtCompiledModelIsNonCpuFullyAccelerated", unsafe {
            (functions.is_fully_off_cpu)(self.handle()?, &raw mut fully)
        })?;
        Ok(Some(fully))
    }

    /// The input, to be written.
    pub(crate) fn input_bytes(&mut self) -> Result<&mut [u8], Failure> {
        let buffer = self.buffers.first_mut().ok_or(NO_BUFFERS)?;
        let data = buffer.map(LITERT_LOCK_WRITE)?;
        // SAFETY: mapped until `self` is next borrowed, and as long as the buffer says.
        Ok(unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), buffer.bytes) })
    }

    /// Output `index` in the signature's order.
    pub(crate) fn output_bytes(&mut self, index: usize) -> Result<&[u8], Failure> {
        let buffer = self.buffers.get_mut(index + 1).ok_or(NO_BUFFERS)?;
        let data = buffer.map(LITERT_LOCK_READ)?;
        // SAFETY: as above.
        Ok(unsafe { std::slice::from_raw_parts(data.as_ptr(), buffer.bytes) })
    }

    fn functions(&self) -> &'static LiteRt {
        self.model.environment.litert.functions
    }

    fn handle(&self) -> Result<*mut LiteRtCompiledModel, Failure> {
        let absent = Failure { call: "LiteRtCreateCompiledModel", status: status::OK };
        self.compiled.as_ref().map(|compiled| compiled.handle).ok_or(absent)
    }
}

const NO_BUFFERS: Failure = Failure { call: "LiteRtLockTensorBuffer", status: status::ERROR_NOT_FOUND };

fn compile(model: &Model, options: &Owned<LiteRtOptions>) -> Result<Owned<LiteRtCompiledModel>, Failure> {
    let (functions, environment) = (model.environment.litert.functions, model.environment.owned.handle);
    // SAFETY: environment, model and options are alive; the first two outlive what is made of them.
    Owned::new("LiteRtCreateCompiledModel", functions.destroy_compiled_model, |handle| unsafe {
        (functions.create_compiled_model)(environment, model.owned.handle, options.handle, handle)
    })
}
