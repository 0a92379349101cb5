//! Proof of what ran where: the runtime's own report of each node that it invoked.
//!
//! Owns the runtime's telemetry callbacks and the counting of nodes, in one invocation before the first that counts.

#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char, c_void};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::ffi::{TelemetryProfiler, TfLiteInterpreterOptions};
use super::runtime::Library;
use crate::text::counted;

/// Which nodes of a model's main graph a delegate took, as observed in one invocation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    pub nodes_total: usize,
    pub nodes_delegated: usize,
    /// Pieces of the graph that the delegate runs, each as one.
    pub partitions: usize,
    /// The operators that the runtime's own kernels ran, and how many nodes of each.
    pub on_cpu: BTreeMap<String, usize>,
}

impl fmt::Display for Delegation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes_total, nodes_delegated, partitions, on_cpu } = self;
        write!(f, "{nodes_delegated} of {} delegated", counted(*nodes_total, "node"))?;
        match partitions {
            0 => {}
            _ => write!(f, " in {}", counted(*partitions, "partition"))?,
        }
        let left: Vec<String> = on_cpu.iter().map(|(operator, count)| format!("{count} {operator}")).collect();
        if left.is_empty() { Ok(()) } else { write!(f, "; on the runtime's own kernels: {}", left.join(", ")) }
    }
}

/// What was reported of one invocation.
#[derive(Default)]
struct Watched {
    /// Nodes of the main graph: index and operator.
    nodes: BTreeSet<(usize, String)>,
    /// Partitions of a delegate that reports its own steps in the place of its node, as XNNPACK does.
    stepwise: usize,
    /// The invocation is over: whatever comes is ignored.
    closed: bool,
    /// The subgraph that is run.
    subgraph: i64,
}

/// Listens to one interpreter, which it must outlive.
pub(crate) struct Profiler {
    /// Boxed, since the runtime keeps their addresses.
    callbacks: Box<TelemetryProfiler>,
    watched: *mut Watched,
}

// SAFETY: what it points to is written by the interpreter only, which moves with it, and read when none runs.
unsafe impl Send for Profiler {}

impl Profiler {
    /// Whether that runtime reports to a profiler.
    pub(crate) fn is_supported(library: &Library) -> bool {
        library.telemetry.is_some()
    }

    /// Watches the subgraph at that index in the file.
    pub(crate) fn new(subgraph: u32) -> Self {
        let watched = Box::into_raw(Box::new(Watched { subgraph: i64::from(subgraph), ..Watched::default() }));
        let callbacks = TelemetryProfiler {
            data: watched.cast(),
            event: ignore_event,
            op_event: ignore_op_event,
            settings: ignore_settings,
            begin_op: record,
            end_op: ignore_end,
            op: record_step,
        };
        Self { callbacks: Box::new(callbacks), watched }
    }

    /// # Safety
    /// `options` are alive, and the profiler outlives every interpreter made from them.
    pub(crate) unsafe fn attach(
        &mut self,
        library: &Library,
        options: *mut TfLiteInterpreterOptions,
    ) -> Result<(), Failure> {
        let telemetry = library.telemetry.ok_or(Failure::Null)?;
        // SAFETY: the caller's promise; the callbacks are boxed, so their address stays the same.
        unsafe { (telemetry.set_profiler)(options, &raw mut *self.callbacks) };
        Ok(())
    }

    /// Sums up what was invoked since the start, in a model whose main graph has `nodes_total` nodes, and ignores later
    /// reports.
    ///
    /// A delegate's nodes are appended to the graph, so their indices are beyond those of the model.
    pub(crate) fn delegation(&mut self, nodes_total: usize) -> Delegation {
        // SAFETY: no interpreter runs, so nobody else has a reference.
        let watched = unsafe { &mut *self.watched };
        watched.closed = true;
        let mut on_cpu = BTreeMap::new();
        for (_, operator) in watched.nodes.iter().filter(|(index, _)| *index < nodes_total) {
            *on_cpu.entry(operator.clone()).or_insert(0) += 1;
        }
        let delegates = watched.nodes.iter().filter(|(index, _)| *index >= nodes_total).count();
        let partitions = delegates + watched.stepwise;
        let left: BTreeSet<usize> =
            watched.nodes.iter().map(|(index, _)| *index).filter(|index| *index < nodes_total).collect();
        let nodes_delegated = if partitions == 0 { 0 } else { nodes_total - left.len() };
        Delegation { nodes_total, nodes_delegated, partitions, on_cpu }
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        // SAFETY: made by Box::into_raw; the interpreter that wrote to it is gone.
        drop(unsafe { Box::from_raw(self.watched) });
    }
}

unsafe extern "C" fn record(callbacks: *mut TelemetryProfiler, name: *const c_char, node: i64, subgraph: i64) -> u32 {
    // SAFETY: the runtime hands back what it was given, on the thread that invokes.
    let watched = unsafe { &mut *(*callbacks).data.cast::<Watched>() };
    if !watched.closed
        && subgraph == watched.subgraph
        && !name.is_null()
        && let Ok(node) = usize::try_from(node)
    {
        // SAFETY: a C string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        watched.nodes.insert((node, name));
    }
    0
}

unsafe extern "C" fn ignore_event(_: *mut TelemetryProfiler, _: *const c_char, _: u64) {}
unsafe extern "C" fn ignore_op_event(_: *mut TelemetryProfiler, _: *const c_char, _: i64, _: i64, _: u64) {}
unsafe extern "C" fn ignore_settings(_: *mut TelemetryProfiler, _: *const c_char, _: *const c_void) {}
unsafe extern "C" fn ignore_end(_: *mut TelemetryProfiler, _: u32) {}

/// The steps of each partition are counted from 0.
unsafe extern "C" fn record_step(callbacks: *mut TelemetryProfiler, _: *const c_char, _: u64, step: i64, _: i64) {
    // SAFETY: as above.
    let watched = unsafe { &mut *(*callbacks).data.cast::<Watched>() };
    if step == 0 && !watched.closed {
        watched.stepwise += 1;
    }
}
