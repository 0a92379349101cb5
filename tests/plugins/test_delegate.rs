//! A delegate plugin for the tests: what a vendor's library does at its worst, and at its laziest.
//!
//! Its option `mode` is one of `nothing` (claims no operator), `refuse` (creates no delegate) and `abort`.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;

/// `TfLiteDelegate` as TensorFlow Lite's `core/c/common.h` lays it out.
#[repr(C)]
pub struct Delegate {
    data: *mut c_void,
    prepare: Option<extern "C" fn(*mut c_void, *mut Delegate) -> c_int>,
    copy_from_buffer_handle: *const c_void,
    copy_to_buffer_handle: *const c_void,
    free_buffer_handle: *const c_void,
    flags: i64,
    opaque_builder: *mut c_void,
}

const OK: c_int = 0;

extern "C" fn claim_nothing(_context: *mut c_void, _delegate: *mut Delegate) -> c_int {
    OK
}

/// Creates the delegate; null says that it cannot.
///
/// # Safety
/// `keys` and `values` are `count` C strings each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tflite_plugin_create_delegate(
    keys: *const *const c_char,
    values: *const *const c_char,
    count: usize,
    _report_error: Option<unsafe extern "C" fn(*const c_char)>,
) -> *mut Delegate {
    // SAFETY: the caller's promise.
    let text = |strings: *const *const c_char, i: usize| unsafe { CStr::from_ptr(*strings.add(i)) };
    let mode = (0..count).find(|i| text(keys, *i) == c"mode").map(|i| text(values, i));
    match mode.and_then(|mode| mode.to_str().ok()) {
        Some("nothing") => Box::into_raw(Box::new(Delegate {
            data: null_mut(),
            prepare: Some(claim_nothing),
            copy_from_buffer_handle: null_mut(),
            copy_to_buffer_handle: null_mut(),
            free_buffer_handle: null_mut(),
            flags: 0,
            opaque_builder: null_mut(),
        })),
        Some("abort") => std::process::abort(),
        _ => null_mut(),
    }
}

/// Frees what `tflite_plugin_create_delegate` made.
///
/// # Safety
/// `delegate` came from it and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tflite_plugin_destroy_delegate(delegate: *mut Delegate) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(delegate) });
}
