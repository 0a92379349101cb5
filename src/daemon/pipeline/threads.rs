//! The two threads of a pipeline, acquire and infer: how they start, and that their end is reported.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Builder;

use crate::config::Realtime;
use crate::daemon::event::{DaemonEvent, EventSender, Stage, ThreadEnd};
use crate::ids::PipelineId;
use crate::infer::Infer;
use crate::source::{FrameProducer, FrameSink};
use crate::stop::{Stop, Waited};
use crate::sys::rt;
use crate::units::MonoTime;

/// What both threads of a pipeline need to start, and to report their end.
#[derive(Clone)]
pub(crate) struct ThreadContext {
    pub pipeline: PipelineId,
    pub name: String,
    pub realtime: Realtime,
    pub events: EventSender,
}

impl ThreadContext {
    /// Starts the acquire thread. The source begins at `begin`, unless it is stopped before.
    pub(crate) fn spawn_acquire(
        self,
        source: Box<dyn FrameProducer>,
        mut sink: FrameSink,
        begin: MonoTime,
        stop: Arc<Stop>,
    ) -> io::Result<()> {
        self.spawn("acq", Stage::Acquire, move || {
            // If the wait itself fails, the source begins early.
            if matches!(stop.sleep_until(begin), Ok(Waited::Stopped)) {
                return (Ok(()), sink);
            }
            (catch_panic(|| source.run(&mut sink)), sink)
        })
    }

    /// Starts the infer thread.
    pub(crate) fn spawn_infer(self, infer: Infer) -> io::Result<()> {
        self.spawn("infer", Stage::Infer, move || (catch_panic(|| infer.run()), ()))
    }

    /// Starts a thread. What its work returns next to the result is dropped after the result is reported: the infer thread
    /// ends when the sink is gone, so the daemon hears of a source's error before it takes the pipeline for ended.
    fn spawn<T>(
        self,
        kind: &str,
        stage: Stage,
        work: impl FnOnce() -> (Result<(), String>, T) + Send + 'static,
    ) -> io::Result<()> {
        let thread = Builder::new().name(thread_name(kind, &self.name));
        thread
            .spawn(move || {
                let Self { pipeline, name, realtime, events } = self;
                set_scheduling(&realtime, &name);
                let (result, dropped_last) = work();
                let _ = events.send(DaemonEvent::ThreadEnded(ThreadEnd { pipeline, stage, error: result.err() }));
                drop(dropped_last);
            })
            .map(drop)
    }
}

/// Sets what the kernel permits of the scheduling that was asked for, and warns of the rest.
fn set_scheduling(realtime: &Realtime, pipeline: &str) {
    let bound = if realtime.cpus.is_empty() { Ok(()) } else { rt::bind(&realtime.cpus) };
    let prioritised = realtime.priority.map_or(Ok(()), rt::prioritise);
    for refused in [bound, prioritised].into_iter().filter_map(Result::err) {
        tracing::warn!(pipeline, thread = std::thread::current().name(), "{refused}");
    }
}

/// Returns a name that fits into the 15 bytes that the kernel keeps.
fn thread_name(kind: &str, pipeline: &str) -> String {
    let pipeline: String = pipeline.chars().filter(char::is_ascii).take(14 - kind.len()).collect();
    format!("{kind}-{pipeline}")
}

/// Turns a panic into an error: a bug of ours in one pipeline must not end the others.
pub(crate) fn catch_panic<T, E: std::fmt::Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked; this is a bug in edgewatt, please report it with the log".into()),
    }
}
