//! Starting the acquire and infer threads, and hearing how they end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::Builder;

use tokio::sync::mpsc::UnboundedSender;

use crate::pipeline::Infer;
use crate::source::{Feed, Source};

/// A thread of a pipeline that has ended.
#[derive(Debug)]
pub struct Ended {
    pub pipeline: usize,
    pub stage: Stage,
    /// Why it ended before its time.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Acquire,
    Infer,
}

pub fn acquire(
    pipeline: usize,
    name: &str,
    source: Box<dyn Source>,
    mut feed: Feed,
    ended: UnboundedSender<Ended>,
) -> io::Result<()> {
    spawn(thread_name("acq", name), move || {
        let error = caught(|| source.run(&mut feed));
        report(&ended, pipeline, Stage::Acquire, error);
    })
}

pub fn infer(pipeline: usize, name: &str, infer: Infer, ended: UnboundedSender<Ended>) -> io::Result<()> {
    spawn(thread_name("infer", name), move || {
        let error = caught(|| infer.run());
        report(&ended, pipeline, Stage::Infer, error);
    })
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
fn caught<E: std::fmt::Display>(work: impl FnOnce() -> Result<(), E>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("it panicked; this is a fault in edgewatt, please report it with the log".into()),
    }
}

fn report(ended: &UnboundedSender<Ended>, pipeline: usize, stage: Stage, error: Option<String>) {
    // Nobody listens any more only when the daemon has given up waiting.
    let _ = ended.send(Ended { pipeline, stage, error });
}
