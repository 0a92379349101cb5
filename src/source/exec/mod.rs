//! A program that edgewatt starts and supervises, and whose standard output is the stream.
//!
//! Owns the keys, and when the program is started again. `program` finds it, `child` runs and ends it.

pub(crate) mod child;
pub(crate) mod program;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use self::child::{Child, Launch, Owner, log_limiter};
pub use self::program::ProgramError;
use super::session::{DEVICE_RETRY, keep_open};
use super::{
    Buffer, Content, ContentKind, Decoder, FrameProducer, FrameSink, OpenOptions, SourceError, SourceKind, Survey,
    WhenFull,
};
use crate::schema::{Checker, Key, seconds, table};
use crate::stream::StreamSpec;
use crate::sys::Machine;
use crate::sys::cpu::Children;

/// A program whose rate is known is silent after this time, or after so many periods if that is longer.
const SILENCE: Duration = Duration::from_secs(30);
const SILENCE_PERIODS: f64 = 10.0;
table! {
    /// Starts a program and reads what it writes to its standard output. A program that ends is started again, after pauses
    /// that grow to 5 s. The lines that it writes to its standard error are in the log.
    pub struct Exec {
        /// The program and its arguments, each as a separate string. There is no shell: `|`, `$NAME` and `*` have no meaning. A
        /// name is looked up in PATH; a path counts from the folder of this file.
        pub command: Vec<String>, example("[\"arecord\", \"-q\", \"-t\", \"raw\", \"-f\", \"S16_LE\", \"-r\", \"16000\"]");
        /// Variables of the program's environment, next to the daemon's own.
        pub env: BTreeMap<String, String> = BTreeMap::new(), otherwise("none"), example("{ AUDIODEV = \"hw:1\" }");
        /// The folder in which the program runs.
        pub directory: Option<PathBuf>, otherwise("that of this file"), example("\"/var/lib/edgewatt\"");
        /// A program that writes nothing for this long is ended and started again.
        pub silence_s: Option<f64>, range(0.1, 1e9), unit("s"), example("30.0"),
            otherwise("30 s, or 10 periods of the rate if that is longer; none if the rate is unknown");
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
        family pub content: Content;
    }
}

impl Exec {
    /// Returns the program as it is written.
    fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// Returns the file of the program.
    fn find(&self) -> Result<PathBuf, ProgramError> {
        program::file(self.program(), self.env.get("PATH"))
    }

    /// Returns after which silence the program is started again.
    fn silence(&self) -> Option<Duration> {
        let by_rate = |rate_hz: f64| SILENCE.max(seconds(SILENCE_PERIODS / rate_hz));
        self.silence_s.map(seconds).or_else(|| self.content.kind().spec().rate_hz.map(by_rate))
    }
}

impl SourceKind for Exec {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        program::check(&mut self.command, &key.child("command"), checker);
        let bad_name = |name: &String| name.is_empty() || name.contains(['=', '\0']);
        for (name, value) in &self.env {
            if bad_name(name) || value.contains('\0') {
                checker.problem(&key.child("env").child(name), "this cannot be the name or the value of a variable");
            }
        }
        // A file without a folder in its name is in the folder in which the daemon runs.
        let folder = checker.path(self.directory.as_deref().unwrap_or(Path::new("")));
        self.directory = (!folder.as_os_str().is_empty()).then_some(folder);
        self.content.check(key, checker);
        self.buffer.check(&key.child("buffer"), checker);
    }

    fn spec(&self) -> StreamSpec {
        self.content.kind().spec()
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        // A program that reads a sensor loses what it cannot write, and does not say how much.
        (&self.buffer, WhenFull::Drop)
    }

    fn open(&self, options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        self.check_access()?;
        Ok(Box::new(ExecSource {
            decoder: self.content.kind().decoder(options.labels),
            // Of this thread, which is not bound: the acquire thread may be.
            cpus: sched_getaffinity(Pid::from_raw(0)).ok(),
            once: options.once,
            children: options.children,
            exec: self.clone(),
        }))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        self.find()?;
        match &self.directory {
            Some(path) if !path.is_dir() => Err(ProgramError::NotAFolder { path: path.clone() }.into()),
            _ => Ok(()),
        }
    }

    fn survey(&self, _machine: &Machine<'_>) -> Survey {
        let found = self.find();
        match self.check_access() {
            Err(error) if found.is_ok() => Survey::broken(error.to_string()),
            _ => program::survey(found),
        }
    }

    fn content(&self) -> Option<&dyn ContentKind> {
        Some(self.content.kind())
    }
}

/// What the program is started with, and what turns its output into frames.
struct ExecSource {
    exec: Exec,
    decoder: Decoder,
    cpus: Option<CpuSet>,
    once: bool,
    children: Children,
}

impl FrameProducer for ExecSource {
    fn run(self: Box<Self>, sink: &mut FrameSink) -> Result<(), SourceError> {
        let Self { exec, mut decoder, cpus, once, children } = *self;
        let name = program::short_name(exec.program());
        let owner = Owner::Pipeline(sink.pipeline().to_owned());
        let limiter = log_limiter();
        let start = || {
            let program = exec.find()?;
            let launch = Launch {
                program: &program,
                arguments: exec.command.get(1..).unwrap_or_default(),
                env: &exec.env,
                directory: exec.directory.as_deref(),
                cpus,
                silence: exec.silence(),
                name: &name,
                owner: &owner,
                limiter: &limiter,
                children: &children,
            };
            Child::start(&launch).map_err(|error| ProgramError::start(&program, error).into())
        };
        let read = |child: &mut Child, sink: &mut FrameSink| {
            let streamed = decoder.stream(child, Path::new(&name), sink);
            let how = child.end(sink.stop());
            match streamed? {
                ControlFlow::Break(()) => Ok(ControlFlow::Break(())),
                ControlFlow::Continue(()) if sink.stop().is_requested() => Ok(ControlFlow::Break(())),
                ControlFlow::Continue(()) if once && how.is_success() => Ok(ControlFlow::Continue(())),
                ControlFlow::Continue(()) => {
                    Err(SourceError::ProgramEnded { program: name.clone(), how: how.to_string() })
                }
            }
        };
        keep_open(sink, &name, DEVICE_RETRY, once, start, read)
    }
}

#[cfg(test)]
mod tests;
