//! Proof of what ran where, and for how long: the runtime's own report of each node that it invoked.
//!
//! Owns the runtime's telemetry callbacks, the counting of nodes in one invocation before the first that counts, and the times
//! of operators in a profile.

#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::time::Instant;

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

/// The time of one operator, summed over invocations.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatorTime {
    pub name: String,
    /// The index of its node in the model's graph; of an operator within a delegate's partition, that of its step.
    pub place: usize,
    /// A delegate runs it, as a step of a partition.
    pub is_delegated: bool,
    pub count: u64,
    pub ns: f64,
}

/// The times of operators.
#[derive(Debug, Default)]
struct Times {
    /// What has begun and not ended: when, the node, and its name.
    begun: Vec<(Instant, usize, String)>,
    /// By place and name: how often, and for how many nanoseconds.
    nodes: BTreeMap<(usize, String), (u64, f64)>,
    /// The same of the steps within partitions, by the runtime's own clock, which counts microseconds.
    steps: BTreeMap<(usize, String), (u64, f64)>,
}

/// Of the time of partitions, the steps must show at least this part to be told apart: their clock counts whole microseconds.
const STEPS_SEEN_MIN: f64 = 0.8;

impl Times {
    /// Returns the times of all operators; `invoked_ns` is that of the invocations. XNNPACK reports the steps of a partition in the
    /// place of its node, so partitions take what the nodes leave; it is shared by the times of the steps, or is one entry if these
    /// are too short for their clock.
    fn operators(&self, nodes_total: usize, invoked_ns: f64) -> Vec<OperatorTime> {
        let node = |((place, name), (count, ns)): (&(usize, String), &(u64, f64))| OperatorTime {
            name: name.clone(),
            place: *place,
            is_delegated: *place >= nodes_total,
            count: *count,
            ns: *ns,
        };
        let mut operators: Vec<OperatorTime> = self.nodes.iter().map(node).collect();
        let nodes_ns: f64 = operators.iter().map(|operator| operator.ns).sum();
        let (left_ns, steps_ns) =
            ((invoked_ns - nodes_ns).max(0.0), self.steps.values().map(|(_, ns)| ns).sum::<f64>());
        let step = |((place, name), (count, ns)): (&(usize, String), &(u64, f64))| OperatorTime {
            name: name.clone(),
            place: *place,
            is_delegated: true,
            count: *count,
            ns: ns * left_ns / steps_ns,
        };
        if steps_ns >= STEPS_SEEN_MIN * left_ns && steps_ns > 0.0 {
            operators.extend(self.steps.iter().map(step));
        } else if let Some((count, _)) = self.steps.values().next() {
            let name = format!("all {} of the delegate", counted(self.steps.len(), "step"));
            operators.push(OperatorTime { name, place: nodes_total, is_delegated: true, count: *count, ns: left_ns });
        }
        operators
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
    /// For a profile: it is never closed.
    times: Option<Times>,
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
            end_op: record_end,
            op: record_step,
        };
        Self { callbacks: Box::new(callbacks), watched }
    }

    /// Returns one that adds up the times of operators.
    pub(crate) fn of_times(subgraph: u32) -> Self {
        let profiler = Self::new(subgraph);
        // SAFETY: it was just made, and nothing else refers to it.
        unsafe { (*profiler.watched).times = Some(Times::default()) };
        profiler
    }

    /// Starts again with the times.
    pub(crate) fn forget_times(&mut self) {
        // SAFETY: no interpreter runs, so nobody else has a reference.
        let watched = unsafe { &mut *self.watched };
        watched.times = watched.times.as_ref().map(|_| Times::default());
    }

    /// Returns the times of operators since then, in a model whose main graph has `nodes_total` nodes and whose invocations took
    /// `invoked_ns`.
    pub(crate) fn operator_times(&self, nodes_total: usize, invoked_ns: f64) -> Vec<OperatorTime> {
        // SAFETY: as above.
        let watched = unsafe { &*self.watched };
        watched.times.as_ref().map_or_else(Vec::new, |times| times.operators(nodes_total, invoked_ns))
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
        watched.closed = watched.times.is_none();
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
        if let Some(times) = &mut watched.times {
            times.begun.push((Instant::now(), node, name.clone()));
            watched.nodes.insert((node, name));
            return u32::try_from(times.begun.len()).unwrap_or(0);
        }
        watched.nodes.insert((node, name));
    }
    0
}

unsafe extern "C" fn ignore_event(_: *mut TelemetryProfiler, _: *const c_char, _: u64) {}
unsafe extern "C" fn ignore_op_event(_: *mut TelemetryProfiler, _: *const c_char, _: i64, _: i64, _: u64) {}
unsafe extern "C" fn ignore_settings(_: *mut TelemetryProfiler, _: *const c_char, _: *const c_void) {}

/// Ends what began last: operators do not overlap.
unsafe extern "C" fn record_end(callbacks: *mut TelemetryProfiler, handle: u32) {
    let now = Instant::now();
    // SAFETY: as above.
    let watched = unsafe { &mut *(*callbacks).data.cast::<Watched>() };
    if handle > 0
        && let Some(times) = &mut watched.times
        && let Some((begun, node, name)) = times.begun.pop()
    {
        let (count, ns) = times.nodes.entry((node, name)).or_insert((0, 0.0));
        *count += 1;
        *ns += now.saturating_duration_since(begun).as_nanos() as f64;
    }
}

/// The steps of each partition are counted from 0.
unsafe extern "C" fn record_step(
    callbacks: *mut TelemetryProfiler,
    name: *const c_char,
    elapsed_us: u64,
    step: i64,
    _: i64,
) {
    // SAFETY: as above.
    let watched = unsafe { &mut *(*callbacks).data.cast::<Watched>() };
    if let (Some(times), Ok(place), false) = (&mut watched.times, usize::try_from(step), name.is_null()) {
        // SAFETY: a C string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let (count, ns) = times.steps.entry((place, name)).or_insert((0, 0.0));
        *count += 1;
        *ns += elapsed_us as f64 * 1e3;
    }
    if step == 0 && !watched.closed {
        watched.stepwise += 1;
    }
}
