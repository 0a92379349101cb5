//! The thread of a reader: gets lines from a program, a port, a FIFO or a broker, again and again until it is stopped.
//!
//! Owns when the next attempt is made. What comes is parsed here and handed over under a short lock.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::content::Content;
use super::readout::Readout;
use crate::backoff::{Backoff, random};
use crate::mqtt::codec::Incoming;
use crate::mqtt::losses::Losses;
use crate::mqtt::{ConnectOptions, Connection, Lost, Subscription, filter};
use crate::source::exec::ProgramError;
use crate::source::exec::child::{Child, Launch, LogLimiter, Owner, log_limiter};
use crate::source::exec::program;
use crate::source::records::line_reader::{Line, LineReader};
use crate::source::{SourceError, pipe, serial};
use crate::stop::{Stop, Waited};
use crate::sys::cpu::Children;
use crate::sys::serial::LineSettings;
use crate::units::MonoTime;

/// The pauses between attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// What lasts this long works well enough for short pauses.
const SETTLED: Duration = Duration::from_secs(5);
/// A program that prints nothing for so many periods, and for this time, is ended and started again.
const SILENT_PERIODS: u32 = 10;
const SILENT_MIN: Duration = Duration::from_secs(30);
const SUBSCRIBE_ID: u16 = 1;
/// How long the broker may take to be told that this client goes.
const GOODBYE: Duration = Duration::from_millis(200);

/// Where the lines come from.
#[derive(Debug)]
pub(super) enum Origin {
    Command(Vec<String>),
    /// A serial port or a FIFO.
    Path {
        path: PathBuf,
        settings: LineSettings,
        query: Option<Vec<u8>>,
    },
    /// `None`: the node has no broker.
    Mqtt(Option<Box<Broker>>),
}

/// A topic, and how to connect to its broker.
#[derive(Debug)]
pub(super) struct Broker {
    pub subscription: Subscription,
    pub connect: ConnectOptions,
    pub retry: (Duration, Duration),
}

/// See the module's doc.
pub(super) struct Worker {
    /// The meter's name.
    pub meter: String,
    /// The program, port or topic.
    pub place: String,
    pub period: Duration,
    pub content: Content,
    pub readout: Arc<Mutex<Readout>>,
    pub stop: Arc<Stop>,
    pub children: Children,
}

impl Worker {
    /// Gets lines until the stop.
    pub(super) fn run(mut self, origin: &Origin) {
        match origin {
            Origin::Command(command) => {
                // Of this thread, which is not bound.
                let (cpus, limiter) = (sched_getaffinity(Pid::from_raw(0)).ok(), log_limiter());
                self.again(|worker| worker.run_program(command, cpus, &limiter));
            }
            Origin::Path { path, settings, query } => {
                self.again(|worker| worker.read_path(path, settings, query.as_deref()));
            }
            Origin::Mqtt(Some(broker)) => self.subscribe(broker),
            Origin::Mqtt(None) => {
                let reason =
                    "the node has no MQTT broker (mqtt.broker); write the address of one in reader.mqtt.broker";
                self.readout().fail(reason.to_owned());
            }
        }
    }

    fn readout(&self) -> MutexGuard<'_, Readout> {
        self.readout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `session` again and again. One that ended well is repeated a period after it began.
    fn again(&mut self, mut session: impl FnMut(&mut Self) -> Result<(), String>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        while !self.stop.is_requested() {
            let begun = MonoTime::now();
            let ended = session(self);
            let lasted = MonoTime::now().since(begun);
            if ended.is_ok() || lasted >= SETTLED {
                backoff.reset();
            }
            let due = match ended {
                Ok(()) => begun + self.period,
                Err(reason) => {
                    self.readout().fail(reason);
                    MonoTime::now() + backoff.next(random())
                }
            };
            if !matches!(self.stop.sleep_until(due), Ok(Waited::Ready)) {
                return;
            }
        }
    }

    /// Runs the program to its end.
    fn run_program(&mut self, command: &[String], cpus: Option<CpuSet>, limiter: &LogLimiter) -> Result<(), String> {
        let written = command.first().map_or("", |name| name);
        let name = program::short_name(written);
        let path = program::file(written, None).map_err(|error| error.to_string())?;
        let owner = Owner::Meter(self.meter.clone());
        let launch = Launch {
            program: &path,
            arguments: command.get(1..).unwrap_or_default(),
            env: &std::collections::BTreeMap::new(),
            directory: None,
            cpus,
            silence: Some((self.period * SILENT_PERIODS).max(SILENT_MIN)),
            name: &name,
            owner: &owner,
            limiter,
            children: &self.children.clone(),
        };
        let mut child = Child::start(&launch).map_err(|error| ProgramError::start(&path, error).to_string())?;
        let lines = self.read_lines(&mut child, None, true);
        let end = child.end(&self.stop);
        match lines? {
            0 if end.is_success() => Err("it ended, and printed nothing that is understood".to_owned()),
            _ if end.is_success() => Ok(()),
            _ => Err(format!("it {end}")),
        }
    }

    /// Reads a serial port until it is gone, or the writers of a FIFO.
    fn read_path(&mut self, path: &Path, settings: &LineSettings, query: Option<&[u8]>) -> Result<(), String> {
        if pipe::check_fifo(path).is_ok() {
            let mut fifo = pipe::open_fifo(path).map_err(|error| error.to_string())?;
            while !self.stop.is_requested() {
                self.read_lines(&mut fifo, None, true)?;
                // Opened before the old one is closed, so that a writer in between finds a reader.
                fifo = pipe::open_fifo(path).map_err(|error| error.to_string())?;
            }
            return Ok(());
        }
        // The error names the port, as the meter's does.
        let reason = |error: SourceError| match error {
            SourceError::Device { reason, .. } => reason,
            other => other.to_string(),
        };
        let mut port = serial::open(path, settings).map_err(reason)?;
        let query = match query {
            Some(query) => Some((port.writer().map_err(|error| error.to_string())?, query)),
            None => None,
        };
        // What is sent while the port is opened may be cut.
        let is_whole = query.is_some();
        self.read_lines(&mut port, query, is_whole)?;
        Err("it was unplugged".to_owned())
    }

    /// Reads lines to the end of the stream or the stop, and asks for one in each period with `query`. `is_whole`: also the
    /// first line is a whole one. Returns the number of lines that were understood.
    fn read_lines(
        &mut self,
        stream: &mut (impl Read + AsFd),
        mut query: Option<(File, &[u8])>,
        is_whole: bool,
    ) -> Result<u64, String> {
        let in_words = |error: std::io::Error| error.to_string();
        let mut reader = if self.content.is_json() { LineReader::of_objects() } else { LineReader::new() };
        let (mut understood, mut is_first) = (0, !is_whole);
        let mut ask_at = query.is_some().then(MonoTime::now);
        loop {
            let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
            match self.stop.wait(&mut fds, ask_at).map_err(in_words)? {
                Waited::Stopped => return Ok(understood),
                Waited::TimedOut => {
                    if let Some((port, query)) = &mut query {
                        port.write_all(query).map_err(in_words)?;
                    }
                    ask_at = Some(MonoTime::now() + self.period);
                    continue;
                }
                Waited::Ready => {}
            }
            let count = match reader.fill(stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                read => read.map_err(in_words)?,
            };
            let arrival = MonoTime::now();
            loop {
                let line = if count == 0 { reader.rest() } else { reader.next_line() };
                match line {
                    Line::Complete(_) | Line::TooLong if std::mem::take(&mut is_first) => {}
                    Line::Complete(line) => understood += u64::from(self.take(line, arrival)),
                    Line::TooLong => self.misread(b"", "shorter lines".to_owned()),
                    Line::More => break,
                }
            }
            if count == 0 {
                return Ok(understood);
            }
        }
    }

    /// Takes a line. Returns whether it was understood.
    fn take(&mut self, line: &[u8], arrival: MonoTime) -> bool {
        if line.trim_ascii().is_empty() {
            return false;
        }
        match self.content.values(line) {
            Ok(values) => {
                self.readout().take(&values, arrival);
                true
            }
            Err(expected) => {
                self.misread(line, expected);
                false
            }
        }
    }

    fn misread(&self, line: &[u8], expected: String) {
        let count = self.readout().misread(line, expected.clone());
        // The first one, the tenth, the hundredth.
        if 10u64.checked_pow(count.ilog10()) == Some(count) {
            let line = crate::text::plain(String::from_utf8_lossy(line).trim());
            tracing::info!(meter = self.meter, count, "{}: not understood: {line:?}, expected {expected}", self.place);
        }
    }

    /// Subscribes to the topic, and connects again until the stop.
    fn subscribe(&mut self, broker: &Broker) {
        let failed = |worker: &Self, error: std::io::Error| worker.readout().fail(error.to_string());
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(self, error),
        };
        let stop = self.stop.descriptor();
        let received = runtime.block_on(async {
            // An eventfd is waited for as a pipe is; nothing is read from it.
            let stopped = Receiver::from_owned_fd_unchecked(stop?)?;
            self.receive(broker, &stopped).await;
            Ok(())
        });
        // A name look-up that hangs must not delay the end.
        runtime.shutdown_background();
        if let Err(error) = received {
            failed(self, error);
        }
    }

    async fn receive(&mut self, broker: &Broker, stopped: &Receiver) {
        let (mut backoff, mut losses) = (Backoff::new(broker.retry.0, broker.retry.1), Losses::default());
        loop {
            losses.attempt();
            let Err(lost) = self.session(broker, &mut losses, stopped).await else { return };
            if losses.was_good() {
                backoff.reset();
            }
            let explained = tokio::select! {
                biased;
                _ = stopped.readable() => return,
                explained = losses.explain(lost, &broker.connect) => explained,
            };
            let reason = broker.subscription.in_its_words(explained.lost.to_string());
            let address = broker.connect.address();
            self.readout().fail(format!("no connection to the MQTT broker {address}: {reason}"));
            tokio::select! {
                biased;
                _ = stopped.readable() => return,
                () = sleep(backoff.next(random())) => {}
            }
        }
    }

    /// Makes one connection and receives to its end; `Ok` at a stop.
    async fn session(&mut self, broker: &Broker, losses: &mut Losses, stopped: &Receiver) -> Result<(), Lost> {
        let until = Instant::now() + broker.connect.connect_timeout;
        let mut connection = tokio::select! {
            biased;
            _ = stopped.readable() => return Ok(()),
            opened = Connection::open(&broker.connect, None, until, |_, _, _| {}) => opened?,
        };
        losses.connected();
        connection.subscribe_as(&broker.subscription.packet(), SUBSCRIBE_ID)?;
        loop {
            connection.write().await?;
            let ping_at = connection.ping_at();
            let mut incoming = tokio::select! {
                biased;
                _ = stopped.readable() => break,
                () = sleep_until(ping_at) => {
                    connection.ping()?;
                    losses.is_calm();
                    continue;
                }
                incoming = connection.read() => Some(incoming?),
            };
            let arrival = MonoTime::now();
            while let Some(packet) = incoming {
                self.take_packet(packet, broker, arrival)?;
                incoming = connection.read_buffered()?;
            }
            if connection.take_too_large().is_some() {
                self.misread(b"", "smaller messages".to_owned());
            }
        }
        connection.disconnect();
        let _ = timeout(GOODBYE, connection.write()).await;
        Ok(())
    }

    fn take_packet(&mut self, packet: Incoming, broker: &Broker, arrival: MonoTime) -> Result<(), Lost> {
        let subscription = &broker.subscription;
        match packet {
            Incoming::Message { topic, payload, retained, .. } if filter::matches(&subscription.topic, &topic) => {
                if retained {
                    tracing::debug!(meter = self.meter, "a message on {topic} was kept by the broker and may be old");
                } else {
                    self.take(&payload, arrival);
                }
            }
            Incoming::SubAck { refused: true } => return Err(Lost::new(subscription.refusal())),
            Incoming::SubAck { refused: false } => {
                let address = broker.connect.address();
                tracing::info!(meter = self.meter, "subscribed to {} at the MQTT broker {address}", subscription.topic);
            }
            Incoming::Disconnect(reason) => return Err(reason.into()),
            _ => {}
        }
        Ok(())
    }
}
