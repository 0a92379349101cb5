//! A delegate plugin for the tests: claims operators, computes them itself, and misbehaves as its options ask.
//!
//! [`options::Options`] says what there is to ask for. Right is the default; with it, it stands for any vendor's
//! delegate that takes a part of a model and leaves the rest to the CPU.

#![allow(unsafe_code)]

mod ffi;
mod graph;
mod kernels;
mod options;
mod partition;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::hint::black_box;
use std::ptr::{null_mut, without_provenance_mut};
use std::time::Duration;

use edgewatt_support::simulated::activity::{Activity, Kind};
use edgewatt_support::simulated::meter::uniform;
use ffi::{
    ReportError, TF_LITE_DELEGATE_ERROR, TF_LITE_OK, TfLiteContext, TfLiteDelegate, TfLiteDelegateParams, TfLiteNode,
    TfLiteRegistration, TfLiteStatus,
};
use graph::{Graph, integers};
use options::{Mode, Options, Stage};
use partition::{Partition, Step};

unsafe extern "C" {
    /// Ends the process without a word to anybody.
    safe fn _exit(status: c_int) -> !;
}

/// What one delegate knows. The runtime calls it from one thread at a time.
struct Plugin {
    options: Options,
    activity: Option<Activity>,
    inferences: Cell<u64>,
    partitions: Cell<usize>,
    /// This inference is answered wrongly.
    wrong: Cell<bool>,
}

/// A partition as the runtime keeps it.
struct Kernel {
    plugin: *const Plugin,
    partition: Partition,
    /// Counts the inferences, for all of them.
    first: bool,
}

impl Plugin {
    fn new<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut options = Options::parse(pairs)?;
        if !options.begin_life()? {
            options.mode = Mode::Ok;
        }
        let map = |path| Activity::open(path).map_err(|e| format!("option `activity`: {e}"));
        let activity = options.activity.as_deref().map(map).transpose()?;
        let (inferences, partitions, wrong) = (Cell::new(0), Cell::new(0), Cell::new(false));
        let plugin = Self { options, activity, inferences, partitions, wrong };
        if plugin.options.mode == Mode::Refuse {
            return Err("it refuses, as it was asked to".into());
        }
        plugin.reach(Stage::Create)?;
        Ok(plugin)
    }

    /// Misbehaves if this is the time for it.
    fn reach(&self, stage: Stage) -> Result<(), String> {
        if self.options.at != stage {
            return Ok(());
        }
        match self.options.mode {
            Mode::Ok | Mode::Refuse | Mode::Nothing | Mode::Wrong => {}
            Mode::Fail => return Err("it fails, as it was asked to".into()),
            Mode::Slow => std::thread::sleep(self.options.slow),
            Mode::Hang => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            Mode::Abort => std::process::abort(),
            // SAFETY: none: nothing is mapped there, which is the point. Null itself would be caught by a check.
            Mode::Segfault => unsafe { without_provenance_mut::<u8>(64).write_volatile(1) },
            Mode::Exit => _exit(7),
            Mode::Leak => {
                black_box(vec![1_u8; self.options.leak_bytes].leak());
            }
        }
        Ok(())
    }

    fn begin_inference(&self) -> Result<(), String> {
        self.inferences.set(self.inferences.get() + 1);
        if let Some(activity) = &self.activity {
            let spread = f64::from(self.options.spread_percent) / 100.0 * (2.0 * uniform(self.inferences.get()) - 1.0);
            activity.during(Kind::Inference, || std::thread::sleep(self.options.busy.mul_f64((1.0 + spread).max(0.0))));
        }
        let struck = self.inferences.get().is_multiple_of(self.options.every);
        self.wrong.set(struck && self.options.mode == Mode::Wrong);
        if struck { self.reach(Stage::Invoke) } else { Ok(()) }
    }

    /// Takes what it may and can of the graph.
    fn claim(&self, graph: &Graph, delegate: *mut TfLiteDelegate) -> Result<(), String> {
        self.reach(Stage::Prepare)?;
        self.partitions.set(0);
        if self.options.mode == Mode::Nothing {
            return Ok(());
        }
        let mut nodes = Vec::new();
        for index in graph.plan()? {
            let node = graph.node(index)?;
            if self.options.operators.contains(&node.builtin) && Step::new(graph, &node).is_ok() {
                nodes.push(index);
            }
        }
        let kernel = TfLiteRegistration {
            init: Some(init),
            free: Some(free),
            prepare: Some(prepare),
            invoke: Some(invoke),
            profiling_string: None,
            builtin_code: 0,
            custom_name: c"EdgewattTestDelegate".as_ptr(),
            version: 1,
            registration_external: null_mut(),
            async_kernel: None,
            inplace_operator: 0,
        };
        graph.delegate(&nodes, kernel, delegate)
    }
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
    report_error: Option<ReportError>,
) -> *mut TfLiteDelegate {
    let text = |strings: *const *const c_char, i: usize| {
        // SAFETY: the caller's promise.
        let text = unsafe { CStr::from_ptr(*strings.add(i)) };
        // What is no UTF-8 is no option or value of ours.
        text.to_str().unwrap_or("\u{fffd}")
    };
    match Plugin::new((0..count).map(|i| (text(keys, i), text(values, i)))) {
        Ok(plugin) => Box::into_raw(Box::new(TfLiteDelegate {
            data: Box::into_raw(Box::new(plugin)).cast(),
            prepare: Some(claim),
            copy_from_buffer_handle: None,
            copy_to_buffer_handle: None,
            free_buffer_handle: None,
            flags: 0,
            opaque_delegate_builder: null_mut(),
        })),
        Err(reason) => {
            report(report_error, &format!("test delegate: {reason}"));
            null_mut()
        }
    }
}

/// Frees what `tflite_plugin_create_delegate` made.
///
/// # Safety
/// `delegate` came from it and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tflite_plugin_destroy_delegate(delegate: *mut TfLiteDelegate) {
    if !delegate.is_null() {
        // SAFETY: the caller's promise; both were boxed there.
        let delegate = unsafe { Box::from_raw(delegate) };
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(delegate.data.cast::<Plugin>()) });
    }
}

fn report(report_error: Option<ReportError>, reason: &str) {
    match (report_error, CString::new(reason)) {
        // SAFETY: a C string, as the callback wants.
        (Some(report_error), Ok(reason)) => unsafe { report_error(reason.as_ptr()) },
        _ => eprintln!("ERROR: {reason}"),
    }
}

/// A status for the runtime, and its error log told why.
fn status(graph: &Graph, result: Result<(), String>) -> TfLiteStatus {
    match result {
        Ok(()) => TF_LITE_OK,
        Err(reason) => {
            graph.report(&reason);
            TF_LITE_DELEGATE_ERROR
        }
    }
}

/// # Safety
/// The runtime calls it, with a delegate of ours.
unsafe extern "C" fn claim(context: *mut TfLiteContext, delegate: *mut TfLiteDelegate) -> TfLiteStatus {
    // SAFETY: the caller's promise.
    let (graph, plugin) = unsafe { (Graph::new(context), &*(*delegate).data.cast::<Plugin>()) };
    status(&graph, plugin.claim(&graph, delegate))
}

/// # Safety
/// The runtime calls it for a partition of a delegate of ours, whose parameters are behind `buffer`.
unsafe extern "C" fn init(context: *mut TfLiteContext, buffer: *const c_char, _length: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    let (graph, parameters) = unsafe { (Graph::new(context), &*buffer.cast::<TfLiteDelegateParams>()) };
    // SAFETY: as above.
    let plugin = unsafe { &*(*parameters.delegate).data.cast::<Plugin>() };
    // SAFETY: the arrays belong to the parameters.
    let [nodes, inputs, outputs] = unsafe {
        [parameters.nodes_to_replace, parameters.input_tensors, parameters.output_tensors].map(|a| integers(a))
    };
    match Partition::new(&graph, nodes, inputs, outputs) {
        Ok(partition) => {
            let first = plugin.partitions.replace(plugin.partitions.get() + 1) == 0;
            Box::into_raw(Box::new(Kernel { plugin, partition, first })).cast()
        }
        Err(reason) => {
            graph.report(&reason);
            null_mut()
        }
    }
}

/// # Safety
/// The runtime calls it with what `init` gave, which it does not use any more.
unsafe extern "C" fn free(_context: *mut TfLiteContext, kernel: *mut c_void) {
    if !kernel.is_null() {
        // SAFETY: the caller's promise; `init` boxed it.
        drop(unsafe { Box::from_raw(kernel.cast::<Kernel>()) });
    }
}

/// # Safety
/// The runtime calls it for a node that `init` was called for.
unsafe extern "C" fn prepare(context: *mut TfLiteContext, node: *mut TfLiteNode) -> TfLiteStatus {
    // SAFETY: the caller's promise; `init` boxed the kernel or gave null.
    let (mut graph, kernel) = unsafe { (Graph::new(context), (*node).user_data.cast::<Kernel>().as_mut()) };
    let result = match kernel {
        Some(kernel) => kernel.partition.resize(&mut graph),
        None => Err("this partition was not made".into()),
    };
    status(&graph, result)
}

/// # Safety
/// The runtime calls it for a node that `prepare` was called for.
unsafe extern "C" fn invoke(context: *mut TfLiteContext, node: *mut TfLiteNode) -> TfLiteStatus {
    // SAFETY: the caller's promise; without a kernel `prepare` failed.
    let (mut graph, kernel) = unsafe { (Graph::new(context), &mut *(*node).user_data.cast::<Kernel>()) };
    // SAFETY: the delegate outlives the graphs that it was given.
    let plugin = unsafe { &*kernel.plugin };
    let begun = if kernel.first { plugin.begin_inference() } else { Ok(()) };
    let result = begun.and_then(|()| kernel.partition.run(&mut graph, plugin.wrong.get()));
    status(&graph, result)
}
