//! Proof of what ran where: the runtime's own report of each node that it invoked.
//!
//! Owns the runtime's telemetry callbacks and the counting of nodes. Only an interpreter that is thrown away afterwards
//! is watched: the runtime's kernels take times of their own when somebody listens.

#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char, c_void};

use edgefirst_tflite_sys::TfLiteInterpreterOptions;
use serde::{Deserialize, Serialize};

use super::interpreter::Failure;

/// Which nodes of a model's main graph a delegate took, by one invocation that was watched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    pub nodes_total: usize,
    pub nodes_delegated: usize,
    /// Pieces of the graph that the delegate runs, each as one.
    pub partitions: usize,
    /// The operators that the runtime's own kernels ran, and how many nodes of each.
    pub on_cpu: BTreeMap<String, usize>,
}

/// `TfLiteTelemetryProfilerStruct` as TensorFlow Lite's `profiling/telemetry/c/profiler.h` lays it out.
#[repr(C)]
struct Callbacks {
    data: *mut c_void,
    event: unsafe extern "C" fn(*mut Callbacks, *const c_char, u64),
    op_event: unsafe extern "C" fn(*mut Callbacks, *const c_char, i64, i64, u64),
    settings: unsafe extern "C" fn(*mut Callbacks, *const c_char, *const c_void),
    begin_invoke: unsafe extern "C" fn(*mut Callbacks, *const c_char, i64, i64) -> u32,
    end_invoke: unsafe extern "C" fn(*mut Callbacks, u32),
    invoke: unsafe extern "C" fn(*mut Callbacks, *const c_char, u64, i64, i64),
}

/// Nodes of the main graph that were invoked: index and operator.
type Invoked = BTreeSet<(usize, String)>;

/// Listens to one interpreter, which it must outlive.
pub struct Profiler {
    /// Boxed, since the runtime keeps their addresses.
    callbacks: Box<Callbacks>,
    invoked: *mut Invoked,
}

impl Profiler {
    pub fn new() -> Self {
        let invoked = Box::into_raw(Box::<Invoked>::default());
        let callbacks = Callbacks {
            data: invoked.cast(),
            event: ignore_event,
            op_event: ignore_op_event,
            settings: ignore_settings,
            begin_invoke: record,
            end_invoke: ignore_end,
            invoke: ignore_invoke,
        };
        Self { callbacks: Box::new(callbacks), invoked }
    }

    /// # Safety
    /// `options` are alive, and the profiler outlives every interpreter made from them.
    pub unsafe fn attach(
        &mut self,
        library: &libloading::Library,
        options: *mut TfLiteInterpreterOptions,
    ) -> Result<(), Failure> {
        type Set = unsafe extern "C" fn(*mut TfLiteInterpreterOptions, *mut Callbacks);
        // SAFETY: the symbol has this type by the header named above.
        let set = unsafe { library.get::<Set>(b"TfLiteInterpreterOptionsSetTelemetryProfiler\0") };
        let set = set.map_err(|_| Failure::Null)?;
        // SAFETY: the caller's promise.
        unsafe { set(options, &raw mut *self.callbacks) };
        Ok(())
    }

    /// Sums up what was invoked since the start, in a model whose main graph has `nodes_total` nodes.
    ///
    /// A delegate's nodes are appended to the graph, so their indices are beyond those of the model.
    pub fn delegation(&self, nodes_total: usize) -> Delegation {
        // SAFETY: no interpreter runs, so nobody writes.
        let invoked = unsafe { &*self.invoked };
        let mut on_cpu = BTreeMap::new();
        for (_, operator) in invoked.iter().filter(|(index, _)| *index < nodes_total) {
            *on_cpu.entry(operator.clone()).or_insert(0) += 1;
        }
        let partitions = invoked.iter().filter(|(index, _)| *index >= nodes_total).count();
        let nodes_delegated = if partitions == 0 { 0 } else { nodes_total - on_cpu.values().sum::<usize>() };
        Delegation { nodes_total, nodes_delegated, partitions, on_cpu }
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        // SAFETY: made by Box::into_raw; the interpreter that wrote to it is gone.
        drop(unsafe { Box::from_raw(self.invoked) });
    }
}

unsafe extern "C" fn record(callbacks: *mut Callbacks, name: *const c_char, node: i64, subgraph: i64) -> u32 {
    if subgraph == 0
        && !name.is_null()
        && let Ok(node) = usize::try_from(node)
    {
        // SAFETY: the runtime hands back what it was given, on the thread that invokes; the name is a C string.
        unsafe {
            let invoked = &mut *(*callbacks).data.cast::<Invoked>();
            invoked.insert((node, CStr::from_ptr(name).to_string_lossy().into_owned()));
        }
    }
    0
}

unsafe extern "C" fn ignore_event(_: *mut Callbacks, _: *const c_char, _: u64) {}
unsafe extern "C" fn ignore_op_event(_: *mut Callbacks, _: *const c_char, _: i64, _: i64, _: u64) {}
unsafe extern "C" fn ignore_settings(_: *mut Callbacks, _: *const c_char, _: *const c_void) {}
unsafe extern "C" fn ignore_end(_: *mut Callbacks, _: u32) {}
unsafe extern "C" fn ignore_invoke(_: *mut Callbacks, _: *const c_char, _: u64, _: i64, _: i64) {}
