//! The C interface between a delegate plugin and the runtime: the structs that the daemon itself never reads.
//!
//! The facts are those of TensorFlow Lite 2.17, `core/c/common.h` and `core/c/builtin_op_data.h`. Functions of the
//! context that the plugin does not call are only there to keep the place of the others.

use std::ffi::{c_char, c_int, c_uint, c_void};

pub(crate) use edgewatt::engine::ffi::{
    ReportError, TF_LITE_DELEGATE_ERROR, TF_LITE_FLOAT32, TF_LITE_INT8, TF_LITE_INT32, TF_LITE_OK,
    TfLiteQuantizationParams, TfLiteStatus, TfLiteType,
};

/// Values of `TfLiteBuiltinOperator`.
pub(crate) const BUILTIN_ADD: c_int = 0;
pub(crate) const BUILTIN_CONV_2D: c_int = 3;
pub(crate) const BUILTIN_FULLY_CONNECTED: c_int = 9;
pub(crate) const BUILTIN_RESHAPE: c_int = 22;
pub(crate) const BUILTIN_SOFTMAX: c_int = 25;

/// Values of `TfLiteAllocationType`: in the model's file, and of a size that is known only while the graph runs.
pub(crate) const MMAP_RO: c_uint = 1;
pub(crate) const DYNAMIC: c_uint = 4;

/// `kTfLiteAffineQuantization`.
pub(crate) const AFFINE_QUANTIZATION: c_uint = 1;

/// A size, followed by as many elements.
#[repr(C)]
pub struct TfLiteIntArray {
    pub size: c_int,
}

/// A size, followed by as many elements.
#[repr(C)]
pub(crate) struct TfLiteFloatArray {
    pub size: c_int,
}

#[repr(C)]
pub(crate) struct TfLiteAffineQuantization {
    pub scale: *const TfLiteFloatArray,
    pub zero_point: *const TfLiteIntArray,
    pub quantized_dimension: i32,
}

/// What `params` points to depends on `kind`.
#[repr(C)]
pub struct TfLiteQuantization {
    pub kind: c_uint,
    pub params: *mut c_void,
}

#[repr(C)]
pub struct TfLiteTensor {
    pub kind: TfLiteType,
    /// In C a union of pointers to the same place.
    pub data: *mut c_void,
    pub dims: *mut TfLiteIntArray,
    pub params: TfLiteQuantizationParams,
    pub allocation_type: c_uint,
    pub bytes: usize,
    pub allocation: *const c_void,
    pub name: *const c_char,
    pub delegate: *mut TfLiteDelegate,
    pub buffer_handle: c_int,
    pub data_is_stale: bool,
    pub is_variable: bool,
    pub quantization: TfLiteQuantization,
    pub sparsity: *mut c_void,
    pub dims_signature: *const TfLiteIntArray,
}

#[repr(C)]
pub struct TfLiteNode {
    pub inputs: *mut TfLiteIntArray,
    pub outputs: *mut TfLiteIntArray,
    pub intermediates: *mut TfLiteIntArray,
    pub temporaries: *mut TfLiteIntArray,
    pub user_data: *mut c_void,
    pub builtin_data: *mut c_void,
    pub custom_initial_data: *const c_void,
    pub custom_initial_data_size: c_int,
    pub delegate: *mut TfLiteDelegate,
    pub might_have_side_effect: bool,
}

/// How a kernel is built and run.
#[repr(C)]
pub struct TfLiteRegistration {
    pub init: Option<unsafe extern "C" fn(*mut TfLiteContext, *const c_char, usize) -> *mut c_void>,
    pub free: Option<unsafe extern "C" fn(*mut TfLiteContext, *mut c_void)>,
    pub prepare: Option<unsafe extern "C" fn(*mut TfLiteContext, *mut TfLiteNode) -> TfLiteStatus>,
    pub invoke: Option<unsafe extern "C" fn(*mut TfLiteContext, *mut TfLiteNode) -> TfLiteStatus>,
    pub profiling_string: Option<unsafe extern "C" fn(*const TfLiteContext, *const TfLiteNode) -> *const c_char>,
    pub builtin_code: i32,
    pub custom_name: *const c_char,
    pub version: c_int,
    pub registration_external: *mut c_void,
    pub async_kernel: Option<unsafe extern "C" fn(*mut TfLiteContext, *mut TfLiteNode) -> *mut c_void>,
    pub inplace_operator: u64,
}

/// What a kernel's `init` is given of its partition.
#[repr(C)]
pub(crate) struct TfLiteDelegateParams {
    pub delegate: *mut TfLiteDelegate,
    pub nodes_to_replace: *mut TfLiteIntArray,
    pub input_tensors: *mut TfLiteIntArray,
    pub output_tensors: *mut TfLiteIntArray,
}

type CopyBuffer = unsafe extern "C" fn(*mut TfLiteContext, *mut TfLiteDelegate, c_int, *mut TfLiteTensor) -> c_uint;

#[repr(C)]
pub struct TfLiteDelegate {
    pub data: *mut c_void,
    pub prepare: Option<unsafe extern "C" fn(*mut TfLiteContext, *mut TfLiteDelegate) -> TfLiteStatus>,
    pub copy_from_buffer_handle: Option<CopyBuffer>,
    pub copy_to_buffer_handle: Option<CopyBuffer>,
    pub free_buffer_handle: Option<unsafe extern "C" fn(*mut TfLiteContext, *mut TfLiteDelegate, *mut c_int)>,
    pub flags: i64,
    pub opaque_delegate_builder: *mut c_void,
}

/// A function of the context that the plugin does not call.
pub(crate) type Uncalled = *const c_void;

/// The start of the runtime's context; the plugin reads nothing behind `resize_tensor_explicit`.
#[repr(C)]
pub struct TfLiteContext {
    pub tensors_size: usize,
    pub get_execution_plan: Option<unsafe extern "C" fn(*mut Self, *mut *mut TfLiteIntArray) -> TfLiteStatus>,
    pub tensors: *mut TfLiteTensor,
    pub implementation: *mut c_void,
    pub resize_tensor: Uncalled,
    pub report_error: Option<unsafe extern "C" fn(*mut Self, *const c_char, ...)>,
    pub add_tensors: Uncalled,
    pub get_node_and_registration: Option<
        unsafe extern "C" fn(*mut Self, c_int, *mut *mut TfLiteNode, *mut *mut TfLiteRegistration) -> TfLiteStatus,
    >,
    pub replace_node_subsets_with_delegate_kernels: Option<
        unsafe extern "C" fn(*mut Self, TfLiteRegistration, *const TfLiteIntArray, *mut TfLiteDelegate) -> TfLiteStatus,
    >,
    pub recommended_num_threads: c_int,
    pub get_external_context: Uncalled,
    pub set_external_context: Uncalled,
    pub allow_fp32_relax_to_fp16: bool,
    pub profiler: *mut c_void,
    pub allocate_persistent_buffer: Uncalled,
    pub allocate_buffer_for_eval: Uncalled,
    pub request_scratch_buffer_in_arena: Uncalled,
    pub get_scratch_buffer: Uncalled,
    pub resize_tensor_explicit:
        Option<unsafe extern "C" fn(*mut Self, *mut TfLiteTensor, c_int, *const c_int) -> TfLiteStatus>,
}

/// The layouts on 64 bits, in bytes.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::{offset_of, size_of};

    assert!(size_of::<TfLiteTensor>() == 112 && offset_of!(TfLiteTensor, quantization) == 80);
    assert!(size_of::<TfLiteNode>() == 80 && size_of::<TfLiteDelegateParams>() == 32);
    assert!(size_of::<TfLiteRegistration>() == 88 && size_of::<TfLiteDelegate>() == 56);
    assert!(offset_of!(TfLiteContext, resize_tensor_explicit) == 144);
};
