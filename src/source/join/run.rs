//! Reads the sources of a join, each on its own thread, and feeds the joined frames.
//!
//! Runs on the pipeline's acquire thread. The threads of the sources end with the leader, with the first error, or with a
//! stop, and are waited for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::joined;
use super::joiner::{Joiner, Next, Rule};
use super::skew::{Drift, Skew};
use crate::source::content::records::Record;
use crate::source::log_limit::LogLimit;
use crate::source::silence::silent_in_words;
use crate::source::sink::frame_ring;
use crate::source::{FrameProducer, FrameReader, FrameSink, Frames, SinkSettings, SourceError, SourceStats, WhenFull};
use crate::stop::Stop;
use crate::sys::rt;
use crate::text::figure;
use crate::units::MonoTime;

/// How often the counts of the sources are taken over, and their state is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Without a joined frame for this time, although the leader gives samples, the source is in trouble.
const UNMATCHED: Duration = Duration::from_secs(2);
/// The time for the threads of the sources to end.
const END: Duration = Duration::from_secs(1);
const END_CHECK: Duration = Duration::from_millis(5);
/// Less than this is said of a drift only in the log.
const DRIFT_SHARE: f64 = 0.5;
/// A drift is worth a line in the log if it uses the tolerance up within this time.
const DRIFT_SOON_S: f64 = 7.0 * 86_400.0;
/// It is certain after this time, and is logged so often.
const DRIFT_SURE: Duration = Duration::from_secs(600);
const DRIFT_LOG: Duration = Duration::from_secs(6 * 3600);

/// A source of the join, open.
pub(super) struct Child {
    pub(super) name: String,
    pub(super) producer: Box<dyn FrameProducer>,
    /// The ring between it and the join.
    pub(super) settings: SinkSettings,
    /// Without a sample for longer, it is silent; `None`: its rate is not known.
    pub(super) silence: Option<Duration>,
    /// `None`: it is the leader, and the first one.
    pub(super) rule: Option<Rule>,
}

/// The sources of a join, open, and what joins their samples.
pub(super) struct JoinSource {
    pub(super) children: Vec<Child>,
    pub(super) joiner: Joiner,
    pub(super) watches_clocks: bool,
}

impl FrameProducer for JoinSource {
    fn run(self: Box<Self>, sink: &mut FrameSink) -> Result<(), SourceError> {
        let Self { children, joiner, watches_clocks } = *self;
        let failed = |error| SourceError::io("start the threads of", Path::new("the join"), error);
        sink.stop().unparks_this_thread();
        let stop = Arc::new(Stop::within(sink.shared_stop()).map_err(failed)?);
        let mut parts = Vec::with_capacity(children.len());
        for (index, child) in children.into_iter().enumerate() {
            let started = Part::start(index, child, sink.pipeline(), &stop);
            match started {
                Ok(part) => parts.push(part),
                Err(error) => {
                    stop.request();
                    end(&mut parts, MonoTime::now() + END);
                    return Err(failed(error));
                }
            }
        }
        let mut running =
            Running { parts, joiner, watches_clocks, unmatched: Unmatched::default(), stopping_since: None };
        let result = running.join(sink);
        stop.request();
        let now = MonoTime::now();
        end(&mut running.parts, running.stopping_since.unwrap_or(now) + END);
        running.look(sink, now);
        result
    }
}

/// A source that runs on its thread.
struct Part {
    name: String,
    /// Its place among the followers; `None` is the leader.
    follower: Option<usize>,
    rule: Option<Rule>,
    is_live: bool,
    silence: Option<Duration>,
    /// When something of it was there the last time, and whether something has come since.
    heard: MonoTime,
    has_given: bool,
    reader: FrameReader,
    stats: Arc<SourceStats>,
    thread: Option<JoinHandle<Result<(), String>>>,
    skew: Skew,
    last_stream_ns: Option<i64>,
    has_ended: bool,
    /// A drift was logged.
    drift_log: LogLimit,
}

impl Part {
    fn start(index: usize, child: Child, pipeline: &str, stop: &Arc<Stop>) -> std::io::Result<Self> {
        let Child { name, producer, settings, silence, rule } = child;
        let stats = Arc::<SourceStats>::default();
        let (mut sink, reader) = frame_ring(&settings, &format!("{pipeline}/{name}"), stop.clone(), stats.clone());
        reader.wake.reader_is_this_thread();
        // What this thread has was granted, and is not inherited.
        let priority = rt::priority();
        let thread = Builder::new().name(thread_name(&name)).spawn(move || {
            if let Some(Err(refused)) = priority.map(rt::prioritise) {
                tracing::warn!(pipeline = sink.pipeline(), "{refused}");
            }
            match catch_unwind(AssertUnwindSafe(|| producer.run(&mut sink))) {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err("it panicked; this is a bug in edgewatt, please report it with the log".into()),
            }
        })?;
        Ok(Self {
            name,
            follower: index.checked_sub(1),
            rule,
            is_live: settings.when_full == WhenFull::Drop,
            silence,
            heard: MonoTime::now(),
            has_given: false,
            reader,
            stats,
            thread: Some(thread),
            skew: Skew::default(),
            last_stream_ns: None,
            has_ended: false,
            drift_log: LogLimit::default(),
        })
    }

    /// Takes what has arrived, as far as there is room. Returns the number of frames, and how many of them have no time.
    fn take(&mut self, joiner: &mut Joiner) -> (usize, usize) {
        let (mut taken, mut lost) = (0, 0);
        // Before the ring is emptied, so that nothing is missed that was pushed before the end.
        let ended = self.reader.is_abandoned();
        let waiting = self.reader.len();
        self.has_given |= waiting > 0;
        if let Some(follower) = self.follower
            && self.is_live
            && !joiner.is_waiting()
        {
            joiner.forget(follower, waiting);
        }
        loop {
            let room = joiner.room(self.follower);
            if room == 0 {
                break;
            }
            let (follower, skew, last) = (self.follower, &mut self.skew, &mut self.last_stream_ns);
            let popped = self.reader.pop(
                room,
                |_, _| false,
                |frames| {
                    observe(skew, last, &frames);
                    (frames.count, joiner.push(follower, &frames))
                },
            );
            let Some((count, without_time)) = popped else { break };
            taken += count;
            lost += without_time;
        }
        if taken > 0 {
            self.reader.room_made();
        }
        if ended && self.reader.is_empty() {
            self.has_ended = true;
            joiner.end(self.follower);
        }
        (taken, lost)
    }

    /// Notes whether something has come since the last call. Call it before the counts are taken over.
    fn note_given(&mut self, now: MonoTime) {
        if std::mem::take(&mut self.has_given) || self.stats.rejected() > 0 {
            self.heard = now;
        }
    }

    /// Returns the time for which it has given nothing, if that is too long.
    fn silent_for(&self, now: MonoTime) -> Option<Duration> {
        self.silence.filter(|silence| now.since(self.heard) > *silence)
    }

    /// Returns the error of a source that has ended with one.
    fn error(&mut self) -> Option<SourceError> {
        let thread = self.thread.take_if(|_| self.has_ended)?;
        let ended = thread.join().unwrap_or_else(|_| Err("its thread has panicked".into()));
        ended.err().map(|reason| joined(&self.name, reason))
    }
}

/// Compares the stamp of the last of the frames with its arrival.
fn observe(skew: &mut Skew, last: &mut Option<i64>, frames: &Frames<'_>) {
    let Some(stamp) = frames.last.stream_ns else { return };
    if last.is_some_and(|last| stamp < last) {
        skew.restart();
    }
    *last = Some(stamp);
    skew.add(stamp, frames.last.arrival);
}

/// Waits for the threads of the sources, which were asked to end; one that hangs is left alone.
fn end(parts: &mut [Part], deadline: MonoTime) {
    for part in parts {
        let Some(thread) = part.thread.take() else { continue };
        while !thread.is_finished() && MonoTime::now() < deadline {
            std::thread::park_timeout(END_CHECK);
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::warn!(source = part.name, "the source of a join does not end; it is left alone");
        }
    }
}

/// What is known of samples of the leader for which another source has none.
#[derive(Default)]
struct Unmatched {
    /// When the first one came since a frame was joined, and when the last.
    since: Option<(MonoTime, MonoTime)>,
    /// The last follower that had none, and how far away its nearest sample was.
    last: Option<(usize, Option<i64>)>,
    log: LogLimit,
}

struct Running {
    parts: Vec<Part>,
    joiner: Joiner,
    watches_clocks: bool,
    unmatched: Unmatched,
    stopping_since: Option<MonoTime>,
}

impl Running {
    /// Joins until the leader has ended, a source fails, or a stop is requested and what has arrived is joined.
    fn join(&mut self, sink: &mut FrameSink) -> Result<(), SourceError> {
        let mut look_at = MonoTime::now();
        loop {
            let mut taken = 0;
            for part in &mut self.parts {
                let (count, lost) = part.take(&mut self.joiner);
                taken += count;
                if part.follower.is_none() {
                    sink.stats().unmatched.fetch_add(lost as u64, Ordering::Relaxed);
                }
            }
            let error = self.parts.iter_mut().find_map(Part::error);
            let now = MonoTime::now();
            if error.is_some() {
                // What came before the error is good.
                (0..self.parts.len()).for_each(|index| self.joiner.end(index.checked_sub(1)));
            }
            let due = match self.emit(sink, now) {
                Emitted::All(due) => due,
                Emitted::Ended => return error.map_or(Ok(()), Err),
            };
            if let Some(error) = error {
                return Err(error);
            }
            sink.wake_reader();
            if now >= look_at {
                self.look(sink, now);
                self.watch_clocks(sink, now);
                look_at = now + LOOK;
            }
            if sink.stop().is_requested() {
                let since = *self.stopping_since.get_or_insert(now);
                if now.since(since) >= END {
                    return Ok(());
                }
                look_at = look_at.min(now + END_CHECK);
            }
            if taken == 0 && !self.has_more(sink) {
                let until = due.map_or(look_at, |due| due.min(look_at));
                std::thread::park_timeout(until.since(MonoTime::now()));
            }
        }
    }

    /// Tells the sources what is waited for. Returns whether it is there.
    fn has_more(&mut self, sink: &FrameSink) -> bool {
        let is_waiting = self.joiner.is_waiting();
        let mut has_more = false;
        for part in &self.parts {
            let wanted = match part.follower {
                None => sink.missing().max(1),
                Some(_) if is_waiting => 1,
                // The next frame of the leader wakes this thread.
                Some(_) => usize::MAX,
            };
            let is_there = part.reader.want(wanted);
            let has_room = self.joiner.room(part.follower) > 0;
            let ends = part.reader.is_abandoned() && !part.has_ended;
            has_more |= is_there && has_room || ends && (has_room || part.reader.is_empty());
        }
        has_more
    }

    fn emit(&mut self, sink: &mut FrameSink, now: MonoTime) -> Emitted {
        loop {
            match self.joiner.next(now) {
                Next::Frame(header, values) => {
                    self.unmatched.since = None;
                    if let Some(gap) = header.gap {
                        sink.cut(gap);
                    }
                    let record = Record { stream_ns: header.stream_ns, truth: header.truth };
                    let flow = sink.take(record, values, header.arrival);
                    // At a stop, what has arrived is still joined.
                    if flow.is_break() && !sink.stop().is_requested() {
                        return Emitted::Ended;
                    }
                }
                Next::Unmatched { follower, nearest_ns } => {
                    sink.stats().unmatched.fetch_add(1, Ordering::Relaxed);
                    let (first, _) = self.unmatched.since.unwrap_or((now, now));
                    self.unmatched.since = Some((first, now));
                    self.unmatched.last = Some((follower, nearest_ns));
                }
                Next::Wait(due) => return Emitted::All(due),
                Next::End => return Emitted::Ended,
            }
        }
    }

    /// Takes over the counts of the sources, and says what is wrong with them.
    fn look(&mut self, sink: &FrameSink, now: MonoTime) {
        let mut troubles = Vec::new();
        self.parts.iter_mut().for_each(|part| part.note_given(now));
        // While the leader gives samples, a follower is judged by whether they find one of it.
        let leader_is_silent = self.parts.first().is_some_and(|leader| leader.silent_for(now).is_some());
        for part in &self.parts {
            sink.stats().absorb(&part.name, &part.stats);
            if let Some(trouble) = part.stats.remarks().trouble {
                troubles.push(format!("{}: {trouble}", part.name));
            } else if part.has_ended && part.follower.is_some() && !sink.stop().is_requested() {
                troubles.push(format!("{}: its stream has ended", part.name));
            } else if let Some(silence) = part.silent_for(now).filter(|_| leader_is_silent) {
                troubles.push(format!("{}: {}", part.name, silent_in_words(silence)));
            }
        }
        if let Some(reason) = self.why_unmatched() {
            if troubles.is_empty() && self.nothing_matches(sink, &reason, now) {
                troubles.push(reason.clone());
            }
            sink.stats().unmatched_because(reason);
        }
        if troubles.is_empty() && self.watches_clocks {
            troubles.extend(self.parts.iter().filter_map(|part| {
                let (drift, tolerance_ns) = self.drift(part)?;
                let is_large = drift.apart_ns.unsigned_abs() as f64 >= DRIFT_SHARE * tolerance_ns as f64;
                is_large.then(|| self.drift_in_words(part, &drift, tolerance_ns))
            }));
        }
        sink.trouble((!troubles.is_empty()).then(|| troubles.join("; ")));
    }

    /// Returns whether no frame has been joined for long, although the leader gives samples; that is logged.
    fn nothing_matches(&mut self, sink: &FrameSink, reason: &str, now: MonoTime) -> bool {
        let lasts =
            |(first, last): &(MonoTime, MonoTime)| last.since(*first) >= UNMATCHED && now.since(*last) < UNMATCHED;
        let Some((since, _)) = self.unmatched.since.filter(lasts) else { return false };
        if self.unmatched.log.allows(now) {
            let seconds = now.since(since).as_secs();
            tracing::warn!(pipeline = sink.pipeline(), "no frame was joined for {seconds} s: {reason}");
        }
        true
    }

    /// Says why the last sample of the leader that was not joined was not, and what to change.
    fn why_unmatched(&self) -> Option<String> {
        let (follower, nearest_ns) = self.unmatched.last?;
        let part = self.parts.iter().find(|part| part.follower == Some(follower))?;
        let (name, leader) = (&part.name, self.parts.first().map_or("the leader", |part| &part.name));
        let tolerance_ms = part.rule.map_or(0, |rule| rule.tolerance_ns) as f64 / 1e6;
        let key = format!("source.join.followers.{name}");
        let nearest = match nearest_ns {
            None => "it gives none; check what feeds it".to_owned(),
            Some(ns) if ns as f64 <= tolerance_ms * 1e6 => "only one is there, and \"linear\" needs two".to_owned(),
            Some(ns) => {
                let clocks = if self.watches_clocks {
                    format!("; if the clocks do not agree, set {key}.offset_ms, or source.join.clock = \"arrival\"")
                } else {
                    String::new()
                };
                format!(
                    "the nearest is {} s away; to use it, raise {key}.tolerance_ms{clocks}",
                    figure(ns as f64 / 1e9)
                )
            }
        };
        Some(format!("{name} has no sample within {} ms of those of {leader}: {nearest}", figure(tolerance_ms)))
    }

    fn drift(&self, part: &Part) -> Option<(Drift, i64)> {
        let (leader, rule) = (self.parts.first()?, part.rule?);
        Some((leader.skew.drift(&part.skew)?, rule.tolerance_ns))
    }

    fn drift_in_words(&self, part: &Part, drift: &Drift, tolerance_ns: i64) -> String {
        let leader = self.parts.first().map_or("the leader", |part| &part.name);
        format!(
            "the clocks of {leader} and {} have moved apart by {} ms in {} h, which is {} ppm, and the tolerance is {} ms: \
             set them by one time server, or write clock = \"arrival\"",
            part.name,
            figure(drift.apart_ns.unsigned_abs() as f64 / 1e6),
            figure(drift.within.as_secs_f64() / 3600.0),
            figure(drift.ppm()),
            figure(tolerance_ns as f64 / 1e6),
        )
    }

    /// Logs a drift that uses the tolerance up soon.
    fn watch_clocks(&mut self, sink: &FrameSink, now: MonoTime) {
        if !self.watches_clocks {
            return;
        }
        for index in 0..self.parts.len() {
            let part = &self.parts[index];
            let Some((drift, tolerance_ns)) = self.drift(part) else { continue };
            let left = tolerance_ns as f64 - drift.apart_ns.unsigned_abs() as f64;
            let is_soon = left <= drift.ppm() * 1e-6 * DRIFT_SOON_S * 1e9;
            if !is_soon || drift.within < DRIFT_SURE {
                continue;
            }
            let text = self.drift_in_words(part, &drift, tolerance_ns);
            if self.parts[index].drift_log.allows_each(DRIFT_LOG, now) {
                tracing::warn!(pipeline = sink.pipeline(), "{text}");
            }
        }
    }
}

/// Whether the leader has ended; else, when a sample of it is decided at the latest.
enum Emitted {
    All(Option<MonoTime>),
    Ended,
}

/// Returns a name that fits into the 15 bytes that the kernel keeps.
fn thread_name(name: &str) -> String {
    let name: String = name.chars().filter(char::is_ascii).take(11).collect();
    format!("src-{name}")
}
