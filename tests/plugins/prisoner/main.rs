//! A delegate plugin that tries what a child may not do when it is created, and says how it fared.
//!
//! Option `deed`: `write` tries that on the file `what`, reports `done` or `denied` and refuses; `escape` tries all of
//! [`escapes`] in the folder `what`, writes what came of it to the file `report`, and refuses; `refuse` does only that;
//! `abort`, `exit` and `eat` (all memory) end the process; without one it claims no operator.

#![allow(unsafe_code)]

mod escapes;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
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

extern "C" fn claim_nothing(_context: *mut c_void, _delegate: *mut Delegate) -> c_int {
    0
}

fn eat() -> ! {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1_u8; 1 << 24]);
    }
}

fn report(result: io::Result<()>) -> &'static CStr {
    match result.map_err(|e| (e.kind(), e)) {
        Ok(()) => c"done",
        Err((io::ErrorKind::PermissionDenied, _)) => c"denied",
        Err((_, e)) => {
            eprintln!("ERROR: {e}");
            c"failed"
        }
    }
}

/// Creates the delegate; null says that it cannot.
///
/// # Safety
/// `keys` and `values` are `count` C strings each, and `report_error` takes one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tflite_plugin_create_delegate(
    keys: *const *const c_char,
    values: *const *const c_char,
    count: usize,
    report_error: Option<unsafe extern "C" fn(*const c_char)>,
) -> *mut Delegate {
    // SAFETY: the caller's promise.
    let text = |strings: *const *const c_char, i: usize| unsafe { CStr::from_ptr(*strings.add(i)) };
    let option = |name: &CStr| {
        let value = (0..count).find(|i| text(keys, *i) == name).map(|i| text(values, i));
        value.and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let what = option(c"what");
    let said = match option(c"deed") {
        "write" => report(OpenOptions::new().write(true).create(true).truncate(false).open(what).map(drop)),
        "escape" => report(std::fs::write(option(c"report"), escapes::try_all(Path::new(what)))),
        "refuse" => c"no",
        "abort" => std::process::abort(),
        "exit" => std::process::exit(42),
        "eat" => eat(),
        _ => {
            return Box::into_raw(Box::new(Delegate {
                data: null_mut(),
                prepare: Some(claim_nothing),
                copy_from_buffer_handle: null_mut(),
                copy_to_buffer_handle: null_mut(),
                free_buffer_handle: null_mut(),
                flags: 0,
                opaque_builder: null_mut(),
            }));
        }
    };
    if let Some(report_error) = report_error {
        // SAFETY: a C string.
        unsafe { report_error(said.as_ptr()) };
    }
    null_mut()
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
