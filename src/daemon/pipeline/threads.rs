//! Starting the acquire and infer threads, and what the async thread hears of them and others.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::Builder;

use tokio::sync::mpsc::UnboundedSender;

use super::EngineReady;
use crate::config::{Config, Realtime};
use crate::infer::{Infer, InferEvent};
use crate::load::Prepared;
use crate::source::{FrameSink, Source};
use crate::stop::{Stop, Waited};
use crate::sys::rt;
use crate::units::MonoTime;

/// What the async thread is told by others.
pub(crate) enum DaemonEvent {
    Ended(Ended),
    Infer(usize, InferEvent),
    /// An engine that was ordered.
    BuiltEngine(usize, Box<EngineReady>),
    /// The engine of a pipeline must go before another can be built; the sender is told when it is gone.
    Release(usize, mpsc::Sender<()>),
    /// The configuration that was read again, or what is wrong with it.
    Reloaded(Box<Result<(Config, Prepared), String>>),
}

/// A thread of a pipeline that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub pipeline: usize,
    pub stage: Stage,
    /// Why it ended before its time.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Acquire,
    Infer,
}

/// When a source begins, unless it is stopped before.
pub(crate) struct Begin {
    pub at: MonoTime,
    pub stop: Arc<Stop>,
}

pub(crate) fn acquire(
    pipeline: usize,
    name: &str,
    source: Box<dyn Source>,
    mut feed: FrameSink,
    begin: Begin,
    realtime: Realtime,
    told: UnboundedSender<DaemonEvent>,
) -> io::Result<()> {
    let pipeline_name = name.to_owned();
    spawn(thread_name("acq", name), move || {
        enter(&realtime, &pipeline_name);
        // A wait that fails is as good as over.
        let stopped = matches!(begin.stop.sleep_until(begin.at), Ok(Waited::Stopped));
        let error = if stopped { None } else { caught(|| source.run(&mut feed)).err() };
        // Nobody listens any more only when the daemon has given up waiting.
        let _ = told.send(DaemonEvent::Ended(Ended { pipeline, stage: Stage::Acquire, error }));
    })
}

pub(crate) fn infer(
    pipeline: usize,
    name: &str,
    infer: Infer,
    realtime: Realtime,
    told: UnboundedSender<DaemonEvent>,
) -> io::Result<()> {
    let pipeline_name = name.to_owned();
    spawn(thread_name("infer", name), move || {
        enter(&realtime, &pipeline_name);
        let error = caught(|| infer.run()).err();
        let _ = told.send(DaemonEvent::Ended(Ended { pipeline, stage: Stage::Infer, error }));
    })
}

/// Takes what the kernel gives of it, and warns of the rest.
fn enter(realtime: &Realtime, pipeline: &str) {
    let bound = if realtime.cpus.is_empty() { Ok(()) } else { rt::bind(&realtime.cpus) };
    let prioritised = realtime.priority.map_or(Ok(()), rt::prioritise);
    for refused in [bound, prioritised].into_iter().filter_map(Result::err) {
        tracing::warn!(pipeline, thread = std::thread::current().name(), "{refused}");
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Builder::new().name(name).spawn(work).map(drop)
}

/// The kernel keeps 15 bytes of a thread's name.
fn thread_name(stage: &str, pipeline: &str) -> String {
    let pipeline: String = pipeline.chars().filter(char::is_ascii).take(14 - stage.len()).collect();
    format!("{stage}-{pipeline}")
}

/// A panic in one pipeline is our mistake, but no reason to take the others down.
pub(crate) fn caught<T, E: std::fmt::Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked; this is a fault in edgewatt, please report it with the log".into()),
    }
}
