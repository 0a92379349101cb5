//! The C interfaces of TensorFlow Lite and LiteRT that the engine calls: types, values and tables of functions.
//!
//! Owns every layout and signature, and looks the functions up in a loaded library. It calls none of them: who may call
//! what, and when, is up to `interpreter`, `profile` and `litert`. The facts come from the public headers: TensorFlow
//! Lite 2.17 (`core/c/c_api.h`, `core/c/common.h`, `delegates/xnnpack/xnnpack_delegate.h`,
//! `delegates/external/external_delegate.cc`, `profiling/telemetry/c/profiler.h`) and LiteRT 2.3 (`litert/c/*.h`).

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::sys::symbols::functions;

/// Declares types that are only reached by pointer.
macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])* #[repr(C)] pub struct $name { _opaque: [u8; 0] })*
    };
}

opaque! {
    TfLiteModel;
    TfLiteInterpreter;
    TfLiteInterpreterOptions;
    TfLiteTensor;
    TfLiteDelegate;
    TfLiteSignatureRunner;
}

/// A status of TensorFlow Lite; 0 is success.
pub type TfLiteStatus = c_uint;

pub const TF_LITE_OK: TfLiteStatus = 0;
pub const TF_LITE_ERROR: TfLiteStatus = 1;
pub const TF_LITE_DELEGATE_ERROR: TfLiteStatus = 2;
pub const TF_LITE_APPLICATION_ERROR: TfLiteStatus = 3;
/// An operator is neither in the runtime nor taken by a delegate.
pub const TF_LITE_UNRESOLVED_OPS: TfLiteStatus = 7;

/// The type of a tensor's elements.
pub type TfLiteType = c_uint;

pub const TF_LITE_FLOAT32: TfLiteType = 1;
pub const TF_LITE_INT32: TfLiteType = 2;
pub const TF_LITE_UINT8: TfLiteType = 3;
pub const TF_LITE_INT64: TfLiteType = 4;
pub const TF_LITE_BOOL: TfLiteType = 6;
pub const TF_LITE_INT16: TfLiteType = 7;
pub const TF_LITE_INT8: TfLiteType = 9;

/// One scale and zero point for a whole tensor; the scale is 0 without quantisation.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TfLiteQuantizationParams {
    pub scale: f32,
    pub zero_point: i32,
}

functions! {
    /// The interpreter's functions.
    TfLite {
        version: TfLiteVersion() -> *const c_char;
        model_create: TfLiteModelCreate(*const c_void, usize) -> *mut TfLiteModel;
        model_delete: TfLiteModelDelete(*mut TfLiteModel);
        options_create: TfLiteInterpreterOptionsCreate() -> *mut TfLiteInterpreterOptions;
        options_delete: TfLiteInterpreterOptionsDelete(*mut TfLiteInterpreterOptions);
        options_set_num_threads: TfLiteInterpreterOptionsSetNumThreads(*mut TfLiteInterpreterOptions, i32);
        options_add_delegate: TfLiteInterpreterOptionsAddDelegate(*mut TfLiteInterpreterOptions, *mut TfLiteDelegate);
        interpreter_create:
            TfLiteInterpreterCreate(*const TfLiteModel, *const TfLiteInterpreterOptions) -> *mut TfLiteInterpreter;
        interpreter_delete: TfLiteInterpreterDelete(*mut TfLiteInterpreter);
        allocate_tensors: TfLiteInterpreterAllocateTensors(*mut TfLiteInterpreter) -> TfLiteStatus;
        resize_input:
            TfLiteInterpreterResizeInputTensor(*mut TfLiteInterpreter, i32, *const c_int, i32) -> TfLiteStatus;
        invoke: TfLiteInterpreterInvoke(*mut TfLiteInterpreter) -> TfLiteStatus;
        input_count: TfLiteInterpreterGetInputTensorCount(*const TfLiteInterpreter) -> i32;
        output_count: TfLiteInterpreterGetOutputTensorCount(*const TfLiteInterpreter) -> i32;
        input_tensor: TfLiteInterpreterGetInputTensor(*const TfLiteInterpreter, i32) -> *mut TfLiteTensor;
        output_tensor: TfLiteInterpreterGetOutputTensor(*const TfLiteInterpreter, i32) -> *const TfLiteTensor;
        tensor_type: TfLiteTensorType(*const TfLiteTensor) -> TfLiteType;
        tensor_num_dims: TfLiteTensorNumDims(*const TfLiteTensor) -> i32;
        tensor_dim: TfLiteTensorDim(*const TfLiteTensor, i32) -> i32;
        tensor_byte_size: TfLiteTensorByteSize(*const TfLiteTensor) -> usize;
        tensor_data: TfLiteTensorData(*const TfLiteTensor) -> *mut c_void;
        tensor_name: TfLiteTensorName(*const TfLiteTensor) -> *const c_char;
        tensor_quantization: TfLiteTensorQuantizationParams(*const TfLiteTensor) -> TfLiteQuantizationParams;
    }
}

functions! {
    /// The functions that run one of a model's signatures, which an older runtime lacks.
    Signatures {
        runner:
            TfLiteInterpreterGetSignatureRunner(*const TfLiteInterpreter, *const c_char) -> *mut TfLiteSignatureRunner;
        delete: TfLiteSignatureRunnerDelete(*mut TfLiteSignatureRunner);
        resize_input: TfLiteSignatureRunnerResizeInputTensor(
            *mut TfLiteSignatureRunner,
            *const c_char,
            *const c_int,
            i32
        ) -> TfLiteStatus;
        allocate_tensors: TfLiteSignatureRunnerAllocateTensors(*mut TfLiteSignatureRunner) -> TfLiteStatus;
        invoke: TfLiteSignatureRunnerInvoke(*mut TfLiteSignatureRunner) -> TfLiteStatus;
        input_tensor:
            TfLiteSignatureRunnerGetInputTensor(*mut TfLiteSignatureRunner, *const c_char) -> *mut TfLiteTensor;
        output_tensor:
            TfLiteSignatureRunnerGetOutputTensor(*const TfLiteSignatureRunner, *const c_char) -> *const TfLiteTensor;
    }
}

/// What XNNPACK is created with. The library returns its defaults by value, so every field must be here.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct XnnpackOptions {
    pub num_threads: i32,
    pub flags: u32,
    pub weights_cache: *mut c_void,
    pub handle_variable_ops: bool,
    pub weight_cache_file_path: *const c_char,
}

functions! {
    /// The runtime's own XNNPACK delegate, which a runtime may be built without.
    Xnnpack {
        options_default: TfLiteXNNPackDelegateOptionsDefault() -> XnnpackOptions;
        create: TfLiteXNNPackDelegateCreate(*const XnnpackOptions) -> *mut TfLiteDelegate;
        delete: TfLiteXNNPackDelegateDelete(*mut TfLiteDelegate);
    }
}

/// The callbacks that the runtime reports to while it runs, `TfLiteTelemetryProfilerStruct`.
#[repr(C)]
pub struct TelemetryProfiler {
    pub data: *mut c_void,
    pub event: unsafe extern "C" fn(*mut Self, *const c_char, u64),
    pub op_event: unsafe extern "C" fn(*mut Self, *const c_char, i64, i64, u64),
    pub settings: unsafe extern "C" fn(*mut Self, *const c_char, *const c_void),
    pub begin_op: unsafe extern "C" fn(*mut Self, *const c_char, i64, i64) -> u32,
    pub end_op: unsafe extern "C" fn(*mut Self, u32),
    pub op: unsafe extern "C" fn(*mut Self, *const c_char, u64, i64, i64),
}

functions! {
    /// The runtime's telemetry, which a runtime may be built without.
    Telemetry {
        set_profiler:
            TfLiteInterpreterOptionsSetTelemetryProfiler(*mut TfLiteInterpreterOptions, *mut TelemetryProfiler);
    }
}

/// Where a delegate plugin reports an error.
pub type ReportError = unsafe extern "C" fn(*const c_char);

functions! {
    /// A vendor's delegate plugin.
    DelegatePlugin {
        create: tflite_plugin_create_delegate(
            *const *const c_char,
            *const *const c_char,
            usize,
            Option<ReportError>
        ) -> *mut TfLiteDelegate;
        destroy: tflite_plugin_destroy_delegate(*mut TfLiteDelegate);
    }
}

functions! {
    /// What only the Edge TPU's plugin has, from its `edgetpu_c.h`.
    EdgeTpu {
        version: edgetpu_version() -> *const c_char;
    }
}

opaque! {
    LiteRtEnvironment;
    LiteRtModel;
    LiteRtSignature;
    LiteRtModelTensor;
    LiteRtOptions;
    LiteRtCompiledModel;
    LiteRtTensorBuffer;
    LiteRtTensorBufferRequirements;
    LiteRtAccelerator;
}

/// A status of LiteRT.
pub type LiteRtStatus = c_uint;

pub mod litert_status {
    use super::LiteRtStatus;

    pub const OK: LiteRtStatus = 0;
    pub const ERROR_INVALID_ARGUMENT: LiteRtStatus = 1;
    pub const ERROR_MEMORY_ALLOCATION_FAILURE: LiteRtStatus = 2;
    pub const ERROR_RUNTIME_FAILURE: LiteRtStatus = 3;
    pub const ERROR_UNSUPPORTED: LiteRtStatus = 5;
    pub const ERROR_NOT_FOUND: LiteRtStatus = 6;
    pub const ERROR_INVALID_FLATBUFFER: LiteRtStatus = 501;
    pub const ERROR_DYNAMIC_LOADING: LiteRtStatus = 502;
    pub const ERROR_COMPILATION: LiteRtStatus = 504;
}

/// A set of kinds of accelerator, one bit each.
pub type LiteRtHwAcceleratorSet = c_int;

pub const LITERT_CPU: LiteRtHwAcceleratorSet = 1;
pub const LITERT_GPU: LiteRtHwAcceleratorSet = 2;
pub const LITERT_NPU: LiteRtHwAcceleratorSet = 4;

/// What a buffer is mapped for.
pub type LiteRtLockMode = c_uint;

pub const LITERT_LOCK_READ: LiteRtLockMode = 0;
pub const LITERT_LOCK_WRITE: LiteRtLockMode = 1;

/// `LITERT_TENSOR_MAX_RANK`.
const LITERT_MAX_RANK: usize = 8;

/// A tensor's shape. In C its first byte is two bit fields: seven bits of rank and whether the strides count.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct LiteRtLayout {
    rank_and_has_strides: u8,
    /// Only as many as the rank says; below 0 where the size is open.
    pub dimensions: [i32; LITERT_MAX_RANK],
    strides: [u32; LITERT_MAX_RANK],
}

impl LiteRtLayout {
    const RANK: u8 = 0x7f;

    pub fn rank(&self) -> usize {
        usize::from(self.rank_and_has_strides & Self::RANK)
    }

    /// Sets rank and dimensions; false if there are more of them than a layout has room for.
    #[must_use]
    pub fn set_dimensions(&mut self, dims: &[i32]) -> bool {
        let Some(places) = self.dimensions.get_mut(..dims.len()) else { return false };
        places.copy_from_slice(dims);
        self.rank_and_has_strides = self.rank_and_has_strides & !Self::RANK | dims.len() as u8;
        true
    }
}

/// A tensor's element type and shape.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct LiteRtRankedTensorType {
    pub element_type: c_uint,
    pub layout: LiteRtLayout,
}

/// An option of an environment: which one, and its value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LiteRtEnvOption {
    tag: c_uint,
    value: LiteRtAny,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct LiteRtAny {
    kind: c_uint,
    value: LiteRtAnyValue,
}

/// In C a union of five members; the two that are used have the size and the alignment of all.
#[repr(C)]
#[derive(Clone, Copy)]
union LiteRtAnyValue {
    integer: i64,
    string: *const c_char,
}

impl LiteRtEnvOption {
    /// `kLiteRtAnyTypeInt` and `kLiteRtAnyTypeString`.
    const INTEGER: c_uint = 2;
    const STRING: c_uint = 8;

    pub fn integer(tag: c_uint, integer: i64) -> Self {
        Self { tag, value: LiteRtAny { kind: Self::INTEGER, value: LiteRtAnyValue { integer } } }
    }

    /// `string` ends in a zero and must live until the option has been used.
    pub fn string(tag: c_uint, string: *const c_char) -> Self {
        Self { tag, value: LiteRtAny { kind: Self::STRING, value: LiteRtAnyValue { string } } }
    }
}

functions! {
    /// LiteRT's functions. Those that make something put its handle where their last argument points to.
    LiteRt {
        create_environment:
            LiteRtCreateEnvironment(c_int, *const LiteRtEnvOption, *mut *mut LiteRtEnvironment) -> LiteRtStatus;
        destroy_environment: LiteRtDestroyEnvironment(*mut LiteRtEnvironment);
        num_accelerators: LiteRtGetNumAccelerators(*mut LiteRtEnvironment, *mut usize) -> LiteRtStatus;
        accelerator:
            LiteRtGetAccelerator(*mut LiteRtEnvironment, usize, *mut *mut LiteRtAccelerator) -> LiteRtStatus;
        accelerator_name: LiteRtGetAcceleratorName(*mut LiteRtAccelerator, *mut *const c_char) -> LiteRtStatus;
        accelerator_hardware:
            LiteRtGetAcceleratorHardwareSupport(*mut LiteRtAccelerator, *mut LiteRtHwAcceleratorSet) -> LiteRtStatus;
        create_model: LiteRtCreateModelFromBuffer(
            *mut LiteRtEnvironment,
            *const c_void,
            usize,
            *mut *mut LiteRtModel
        ) -> LiteRtStatus;
        destroy_model: LiteRtDestroyModel(*mut LiteRtModel);
        model_signature:
            LiteRtGetModelSignature(*mut LiteRtModel, usize, *mut *mut LiteRtSignature) -> LiteRtStatus;
        num_signature_inputs: LiteRtGetNumSignatureInputs(*mut LiteRtSignature, *mut usize) -> LiteRtStatus;
        num_signature_outputs: LiteRtGetNumSignatureOutputs(*mut LiteRtSignature, *mut usize) -> LiteRtStatus;
        signature_input: LiteRtGetSignatureInputTensorByIndex(
            *mut LiteRtSignature,
            usize,
            *mut *mut LiteRtModelTensor
        ) -> LiteRtStatus;
        signature_output: LiteRtGetSignatureOutputTensorByIndex(
            *mut LiteRtSignature,
            usize,
            *mut *mut LiteRtModelTensor
        ) -> LiteRtStatus;
        tensor_index: LiteRtGetTensorIndex(*mut LiteRtModelTensor, *mut u32) -> LiteRtStatus;
        ranked_tensor_type:
            LiteRtGetRankedTensorType(*mut LiteRtModelTensor, *mut LiteRtRankedTensorType) -> LiteRtStatus;
        create_options: LiteRtCreateOptions(*mut *mut LiteRtOptions) -> LiteRtStatus;
        destroy_options: LiteRtDestroyOptions(*mut LiteRtOptions);
        set_accelerators:
            LiteRtSetOptionsHardwareAccelerators(*mut LiteRtOptions, LiteRtHwAcceleratorSet) -> LiteRtStatus;
        create_compiled_model: LiteRtCreateCompiledModel(
            *mut LiteRtEnvironment,
            *mut LiteRtModel,
            *mut LiteRtOptions,
            *mut *mut LiteRtCompiledModel
        ) -> LiteRtStatus;
        destroy_compiled_model: LiteRtDestroyCompiledModel(*mut LiteRtCompiledModel);
        resize_input: LiteRtCompiledModelResizeInputTensorNonStrict(
            *mut LiteRtCompiledModel,
            usize,
            usize,
            *const c_int,
            usize
        ) -> LiteRtStatus;
        output_layouts: LiteRtGetCompiledModelOutputTensorLayouts(
            *mut LiteRtCompiledModel,
            usize,
            usize,
            *mut LiteRtLayout,
            bool
        ) -> LiteRtStatus;
        input_requirements: LiteRtGetCompiledModelInputBufferRequirements(
            *mut LiteRtCompiledModel,
            usize,
            usize,
            *mut *mut LiteRtTensorBufferRequirements
        ) -> LiteRtStatus;
        output_requirements: LiteRtGetCompiledModelOutputBufferRequirements(
            *mut LiteRtCompiledModel,
            usize,
            usize,
            *mut *mut LiteRtTensorBufferRequirements
        ) -> LiteRtStatus;
        run: LiteRtRunCompiledModel(
            *mut LiteRtCompiledModel,
            usize,
            usize,
            *mut *mut LiteRtTensorBuffer,
            usize,
            *mut *mut LiteRtTensorBuffer
        ) -> LiteRtStatus;
        is_fully_accelerated:
            LiteRtCompiledModelIsFullyAccelerated(*mut LiteRtCompiledModel, *mut bool) -> LiteRtStatus;
        create_buffer: LiteRtCreateManagedTensorBufferFromRequirements(
            *mut LiteRtEnvironment,
            *const LiteRtRankedTensorType,
            *mut LiteRtTensorBufferRequirements,
            *mut *mut LiteRtTensorBuffer
        ) -> LiteRtStatus;
        destroy_buffer: LiteRtDestroyTensorBuffer(*mut LiteRtTensorBuffer);
        buffer_size: LiteRtGetTensorBufferSize(*mut LiteRtTensorBuffer, *mut usize) -> LiteRtStatus;
        lock_buffer:
            LiteRtLockTensorBuffer(*mut LiteRtTensorBuffer, *mut *mut c_void, LiteRtLockMode) -> LiteRtStatus;
        unlock_buffer: LiteRtUnlockTensorBuffer(*mut LiteRtTensorBuffer) -> LiteRtStatus;
    }
}

functions! {
    /// Later than the others: not in the headers of 2.1.6, but in the library of 2.3.0.
    LiteRtOffCpu {
        is_fully_off_cpu:
            LiteRtCompiledModelIsNonCpuFullyAccelerated(*mut LiteRtCompiledModel, *mut bool) -> LiteRtStatus;
    }
}

/// The layouts in C, in bytes; those with pointers differ by their width.
const _: () = {
    use std::mem::{offset_of, size_of};

    let pointer = size_of::<usize>();
    assert!(size_of::<TfLiteQuantizationParams>() == 8);
    assert!(offset_of!(XnnpackOptions, weights_cache) == 8);
    assert!(size_of::<XnnpackOptions>() == 8 + 3 * pointer);
    assert!(size_of::<TelemetryProfiler>() == 7 * pointer);
    assert!(size_of::<LiteRtLayout>() == 68 && offset_of!(LiteRtLayout, dimensions) == 4);
    assert!(offset_of!(LiteRtLayout, strides) == 36);
    assert!(size_of::<LiteRtRankedTensorType>() == 72);
    assert!(offset_of!(LiteRtEnvOption, value) == 8 && size_of::<LiteRtEnvOption>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_a_library_lacks_is_named() {
        let this = libloading::Library::from(libloading::os::unix::Library::this());
        // SAFETY: nothing is called, and the program itself is never unloaded.
        let missing = unsafe { LiteRt::load(&this) }.map(drop).unwrap_err();
        assert_eq!(missing.to_string(), "it has no LiteRtCreateEnvironment");
    }

    #[test]
    fn a_layout_keeps_its_strides_bit_and_has_eight_dimensions_at_most() {
        let mut layout = LiteRtLayout { rank_and_has_strides: 0x83, ..LiteRtLayout::default() };
        assert!(layout.set_dimensions(&[4, 5]));
        assert_eq!((layout.rank(), layout.rank_and_has_strides, &layout.dimensions[..2]), (2, 0x82, &[4, 5][..]));
        assert!(layout.set_dimensions(&[1; 8]) && !layout.set_dimensions(&[1; 9]));
        assert_eq!(layout.rank(), 8);
    }
}
