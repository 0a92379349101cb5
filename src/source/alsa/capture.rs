//! The loop that reads a sound card, on the acquire thread: waits for a period, reads it, and mends what can be mended.
//!
//! After an overrun or a suspend the same card is started again; everything else ends the session, and `session` looks for
//! the card again.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use super::cards::{self, Named};
use super::format::{Change, Converter};
use super::library::{Alsa, Offers, Pcm, Refusal, Setup, Wanted};
use crate::source::log_limit::LogLimit;
use crate::source::sample_clock::SampleClock;
use crate::source::session::{DEVICE_RETRY, keep_open};
use crate::source::{FrameProducer, FrameSink, Gap, SourceError};
use crate::stop::{Stop, Waited};
use crate::sys::Machine;
use crate::sys::holder::{Holder, holders};
use crate::text::counted;
use crate::units::MonoTime;

/// A card that gives nothing for so long is opened again: some USB devices die without a word.
const SILENCE: Duration = Duration::from_secs(2);
/// A microphone that works always has some noise.
const ONLY_ZEROS: Duration = Duration::from_secs(3);
/// A block never has more, so that the rounding of a frame's time stays far below a frame.
pub(super) const MOST_BLOCK_FRAMES: usize = 4096;
/// How often, and for how long, it is tried to continue after a suspend.
const RESUME: Duration = Duration::from_millis(100);
const RESUME_MOST: Duration = Duration::from_secs(5);
/// Frames may come that much faster, or slower, in all before it is said.
const AHEAD_S: f64 = 1.0;
/// After so many wake-ups in a row without a sample, this thread sleeps a little: the files of some plugins stay ready.
const IDLE_WAKES: u32 = 4;
const IDLE: Duration = Duration::from_millis(2);
/// What the kernel's time of a period may be after this program's reading of the clock.
const CLOCK_ERROR: Duration = Duration::from_millis(1);

const UNKNOWN_HOLDER: &str = "another program; to see by which, run as root: fuser -v /dev/snd/*";

/// Why a sound card cannot be used, or has failed.
#[derive(Debug, thiserror::Error)]
pub enum AlsaError {
    #[error(
        "{0}; run: sudo apt install libasound2 (libasound2t64 from Debian 13 and Ubuntu 24.04 on), then restart edgewatt"
    )]
    NoLibrary(String),
    #[error("there is no sound card {card:?}; {cards}")]
    NoCard { card: String, cards: String },
    #[error("the sound card {pcm} is in use by {}", holder.as_ref().map_or(UNKNOWN_HOLDER.to_owned(), Holder::to_string))]
    Busy { pcm: String, holder: Option<Holder> },
    #[error("cannot open the sound card {pcm}: {reason}")]
    Open { pcm: String, reason: String },
    #[error("the sound card {pcm} does not record {what}; it has {offers}")]
    Refused { pcm: String, what: String, offers: String },
    #[error("cannot {action} the sound card {pcm}: {error}")]
    Call { action: &'static str, pcm: String, error: io::Error },
    #[error("the sound card {pcm} gave nothing for {} s, although it was started", SILENCE.as_secs())]
    Silent { pcm: String },
}

/// A card that is to be read.
#[derive(Debug, Clone)]
pub(super) struct Capture {
    pub pcm: String,
    pub wanted: Wanted,
    pub change: Change,
    /// The first failure is the end.
    pub once: bool,
}

impl Capture {
    /// Opens the card and sets it up. What it can do is returned, too, unless the library cannot say it.
    pub(super) fn set_up(&self) -> Result<(Pcm, Setup, Option<Offers>), AlsaError> {
        let alsa = Alsa::load().map_err(AlsaError::NoLibrary)?;
        let mut pcm = Pcm::open(alsa, &self.pcm).map_err(|errno| self.not_opened(errno))?;
        let offers = pcm.offers().ok();
        match pcm.set_up(&self.wanted) {
            Ok(setup) => Ok((pcm, setup, offers)),
            Err(Refusal::Other(errno)) => Err(self.failed("set up", errno)),
            Err(refusal) => Err(self.refused(refusal, offers.as_ref())),
        }
    }

    fn failed(&self, action: &'static str, error: impl Into<io::Error>) -> AlsaError {
        AlsaError::Call { action, pcm: self.pcm.clone(), error: error.into() }
    }

    fn not_opened(&self, errno: Errno) -> AlsaError {
        let cards = cards::recording(&Machine::this());
        let named = Named::parse(&self.pcm);
        let card = named.as_ref().and_then(|named| named.find(&cards));
        if let (Some(named), None) = (&named, card) {
            return AlsaError::NoCard { card: named.card.clone(), cards: cards::list(&cards) };
        }
        let node = card.zip(named.as_ref()).map(|(card, named)| card.node(Path::new("/dev"), named.device));
        let reason = match errno {
            Errno::EBUSY => {
                let holder = node.and_then(|node| holders(Path::new("/proc"), &node).into_iter().next());
                return AlsaError::Busy { pcm: self.pcm.clone(), holder };
            }
            Errno::EACCES | Errno::EPERM => "permission denied; the user must be in the group audio".into(),
            Errno::ENOENT if card.is_none() => "libasound knows no PCM of that name".into(),
            Errno::ENOENT => "the card has no such device that records".into(),
            errno => io::Error::from(errno).to_string(),
        };
        AlsaError::Open { pcm: self.pcm.clone(), reason }
    }

    fn refused(&self, refusal: Refusal, offers: Option<&Offers>) -> AlsaError {
        let Wanted { format, channels, rate_hz, .. } = self.wanted;
        let mut converts = "";
        let what = match refusal {
            Refusal::Channels => counted(channels, "channel"),
            Refusal::Rate => {
                if self.pcm.starts_with("hw:") {
                    converts = ". Write one of its rates, and the front end resample with the rate of the model; or plughw: \
                                instead of hw:, which converts, by straight lines between samples unless libasound2-plugins \
                                is installed";
                }
                format!("{rate_hz} samples a second")
            }
            _ => format.map_or("in a format that edgewatt reads".to_owned(), |format| format!("in {}", format.name())),
        };
        let offers = offers.map_or("others".to_owned(), describe);
        AlsaError::Refused { pcm: self.pcm.clone(), what, offers: format!("{offers}{converts}") }
    }

    fn open(&self, log: &mut LogLimit) -> Result<Session<'_>, SourceError> {
        let (pcm, setup, _) = self.set_up()?;
        let rate_hz = f64::from(self.wanted.rate_hz);
        let frames = setup.period_frames.saturating_mul(2).min(MOST_BLOCK_FRAMES);
        let channels = self.wanted.channels as usize;
        let converter = Converter::new(setup.format, channels, &self.change, rate_hz, frames);
        pcm.start().map_err(|errno| self.failed("start", errno))?;
        let (Setup { format, real_bits, period_frames, buffer_frames }, now) = (setup, MonoTime::now());
        let ms = |frames: usize| frames as f64 * 1e3 / rate_hz;
        if log.allows(now) {
            tracing::info!(
                pcm = self.pcm,
                format = format.name(),
                real_bits,
                channels,
                rate_hz = self.wanted.rate_hz,
                period_ms = ms(period_frames),
                buffer_ms = ms(buffer_frames),
                "the sound card records"
            );
        }
        Ok(Session {
            capture: self,
            block: vec![0; frames.saturating_mul(converter.frame_bytes())],
            converter,
            clock: SampleClock::new(rate_hz),
            buffer: Duration::from_secs_f64((buffer_frames + period_frames) as f64 / rate_hz),
            pcm,
            started: now,
            last: now,
            heard: now,
            is_dead: false,
            overruns: 0,
            overrun_log: LogLimit::default(),
            rate_is_wrong: false,
        })
    }
}

/// Says what a card can record.
pub(super) fn describe(offers: &Offers) -> String {
    let formats: Vec<&str> = offers.formats.iter().map(|format| format.name()).collect();
    let (least, most) = offers.channels;
    let channels = if least == most { least.to_string() } else { format!("{least} to {most}") };
    let usual: Vec<String> = offers.usual_rates.iter().map(u32::to_string).collect();
    let (lowest, highest) = offers.rates;
    let rates = if usual.is_empty() { format!("{lowest} to {highest}") } else { usual.join(", ") };
    let formats = if formats.is_empty() { "no format that edgewatt reads".to_owned() } else { formats.join(", ") };
    format!("{formats}; channels: {channels}; rates in Hz: {rates}")
}

impl FrameProducer for Capture {
    fn run(self: Box<Self>, sink: &mut FrameSink) -> Result<(), SourceError> {
        let mut log = LogLimit::default();
        let open = || self.open(&mut log);
        keep_open(sink, &self.pcm, DEVICE_RETRY, self.once, open, |session, sink| session.read(sink))
    }
}

/// A card that records.
struct Session<'a> {
    capture: &'a Capture,
    pcm: Pcm,
    block: Vec<u8>,
    converter: Converter,
    clock: SampleClock,
    /// The time that the card's buffer holds, and a period.
    buffer: Duration,
    /// When it was started the last time.
    started: MonoTime,
    /// When it gave a sample the last time, and one other than zero.
    last: MonoTime,
    heard: MonoTime,
    /// It gives only zeros, and that was said.
    is_dead: bool,
    overruns: u64,
    overrun_log: LogLimit,
    rate_is_wrong: bool,
}

impl Session<'_> {
    fn read(&mut self, sink: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        let mut idle_wakes = 0;
        loop {
            let until = self.last + SILENCE;
            match self.pcm.wait(sink.stop(), until).map_err(|error| self.capture.failed("wait for", error))? {
                Waited::Stopped => return Ok(ControlFlow::Break(())),
                // Not after this program alone has slept.
                Waited::TimedOut if MonoTime::now().since(until) < SILENCE => {
                    return Err(AlsaError::Silent { pcm: self.capture.pcm.clone() }.into());
                }
                Waited::TimedOut => self.last = MonoTime::now(),
                Waited::Ready => {}
            }
            let before = sink.delivered();
            if self.read_all(sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            sink.wake_reader();
            idle_wakes = if sink.delivered() > before { 0 } else { idle_wakes + 1 };
            if idle_wakes > IDLE_WAKES {
                idle_wakes = 0;
                let failed = |error| self.capture.failed("wait for", error);
                sink.stop().sleep_until(MonoTime::now() + IDLE).map_err(failed)?;
                if MonoTime::now().since(self.last) >= SILENCE {
                    return Err(AlsaError::Silent { pcm: self.capture.pcm.clone() }.into());
                }
            }
        }
    }

    /// Reads what there is.
    fn read_all(&mut self, sink: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        loop {
            let before = (MonoTime::now(), self.pcm.available());
            let frames = match self.pcm.read(&mut self.block) {
                Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => return Ok(ControlFlow::Continue(())),
                Ok(frames) => frames,
                Err(Errno::EPIPE) => {
                    self.overrun(sink)?;
                    return Ok(ControlFlow::Continue(()));
                }
                Err(Errno::ESTRPIPE) => return self.resume(sink),
                Err(errno) => return Err(self.capture.failed("read", errno).into()),
            };
            let bytes = frames.saturating_mul(self.converter.frame_bytes());
            let time = self.clock.block(frames as u64, self.complete(frames, before));
            if time.missed > 0 {
                // The stream was cut where they went missing.
                sink.missed(time.missed);
            }
            let now = MonoTime::now();
            self.last = now;
            let (samples, heard) = self.converter.block(self.block.get(..bytes).unwrap_or_default());
            let flow = sink.frames(samples, now, Some(time.first_ns));
            self.note_sound(heard, sink);
            self.note_rate();
            if flow.is_break() || bytes < self.block.len() {
                return Ok(flow);
            }
        }
    }

    /// Returns when the last of `frames` that were read was complete. `before` is the time before that, and what the kernel
    /// then said: how many frames were there, and when it had counted them.
    fn complete(&self, frames: usize, before: (MonoTime, Option<(u64, Option<MonoTime>)>)) -> MonoTime {
        let (now, available) = before;
        let Some((available, stamp)) = available else { return now };
        let is_plausible = |stamp: &MonoTime| {
            *stamp >= self.started && *stamp <= now + CLOCK_ERROR && now.since(*stamp) <= self.buffer
        };
        let counted = stamp.filter(is_plausible).unwrap_or(now);
        let frames = frames as u64;
        let later = self.clock.time_of(frames.saturating_sub(available));
        let earlier = self.clock.time_of(available.saturating_sub(frames));
        MonoTime((counted + later).0.saturating_sub(crate::units::duration_ns(earlier)))
    }

    /// The card's buffer was full: it has stopped, and what was in the buffer is gone.
    fn overrun(&mut self, sink: &mut FrameSink) -> Result<(), SourceError> {
        self.overruns += 1;
        let now = MonoTime::now();
        if self.overrun_log.allows(now) {
            tracing::warn!(
                pcm = self.capture.pcm,
                overruns = self.overruns,
                "the sound card's buffer was full before it was read, so samples are lost; if it happens often, raise \
                 source.alsa.buffer_s, and see what else needs the processor or the SD card"
            );
        }
        self.restart(Gap::Overrun, sink)
    }

    fn restart(&mut self, gap: Gap, sink: &mut FrameSink) -> Result<(), SourceError> {
        self.pcm.start().map_err(|errno| self.capture.failed("start", errno))?;
        self.started = MonoTime::now();
        (self.last, self.heard) = (self.started, self.started);
        self.interrupted(gap, sink);
        Ok(())
    }

    fn interrupted(&mut self, gap: Gap, sink: &mut FrameSink) {
        self.clock.interrupt();
        self.converter.restart();
        sink.cut(gap);
    }

    /// The machine has slept, and so has the card.
    fn resume(&mut self, sink: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        let name = &self.capture.pcm;
        let until = MonoTime::now() + RESUME_MOST;
        let stop = sink.shared_stop();
        let waits = || {
            let reason = "the machine has slept, and the sound card does not continue yet";
            sink.absent(name, reason.to_owned(), MonoTime::now());
            // This reason takes the place of the other, which is said again if it still holds.
            self.is_dead = false;
        };
        let resumed = resumed(&stop, until, || self.pcm.resume(), waits);
        match resumed.map_err(|error| self.capture.failed("wait for", error))? {
            Resumed::Stopped => return Ok(ControlFlow::Break(())),
            Resumed::Continues => {
                self.last = MonoTime::now();
                self.heard = self.last;
                self.interrupted(Gap::Reconnect, sink);
            }
            Resumed::MustStart => self.restart(Gap::Reconnect, sink)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn note_sound(&mut self, heard: bool, sink: &FrameSink) {
        if heard {
            self.heard = self.last;
            if std::mem::take(&mut self.is_dead) {
                sink.trouble(None);
                tracing::info!(pcm = self.capture.pcm, "the sound card gives sound again");
            }
        } else if !self.is_dead && self.last.since(self.heard) >= ONLY_ZEROS {
            self.is_dead = true;
            let reason = "the sound card gives only zeros: is the microphone muted, or wired to the other channel?";
            sink.trouble(Some(reason.to_owned()));
            tracing::warn!(pcm = self.capture.pcm, "{reason}");
        }
    }

    fn note_rate(&mut self) {
        let ahead_s = self.clock.ahead_s();
        if ahead_s.abs() > AHEAD_S && !std::mem::replace(&mut self.rate_is_wrong, true) {
            let than = if ahead_s > 0.0 { "more" } else { "less" };
            let rate = self.capture.wanted.rate_hz;
            tracing::warn!(
                pcm = self.capture.pcm,
                "the sound card does not keep its rate: it gave {:.1} s {than} than there is in this time at {rate} \
                 samples a second",
                ahead_s.abs()
            );
        }
    }
}

/// How a card is after a suspend.
#[derive(Debug, PartialEq, Eq)]
enum Resumed {
    Continues,
    /// It cannot continue, or has not in time.
    MustStart,
    /// A stop was requested meanwhile.
    Stopped,
}

/// Tries `resume` again and again while the card is not ready, at most until `until`; `waits` is called before each pause.
fn resumed(
    stop: &Stop,
    until: MonoTime,
    mut resume: impl FnMut() -> Result<(), Errno>,
    mut waits: impl FnMut(),
) -> io::Result<Resumed> {
    loop {
        match resume() {
            Ok(()) => return Ok(Resumed::Continues),
            Err(Errno::EAGAIN) if MonoTime::now() < until => {}
            Err(_) => return Ok(Resumed::MustStart),
        }
        waits();
        if stop.sleep_until(MonoTime::now() + RESUME)? == Waited::Stopped {
            return Ok(Resumed::Stopped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_does_not_continue_after_a_suspend_is_said_and_started_again() {
        let stop = Stop::new().unwrap();
        let tries = |answers: &[Result<(), Errno>], most: Duration| {
            let (mut answers, mut said) = (answers.iter().copied().chain(std::iter::repeat(Err(Errno::EAGAIN))), 0);
            let next = || answers.next().unwrap();
            let resumed = resumed(&stop, MonoTime::now() + most, next, || said += 1).unwrap();
            (resumed, said)
        };
        let long = Duration::from_secs(60);
        assert_eq!(tries(&[Ok(())], long), (Resumed::Continues, 0));
        assert_eq!(tries(&[Err(Errno::EAGAIN), Ok(())], long), (Resumed::Continues, 1));
        assert_eq!(tries(&[Err(Errno::ENOSYS)], long), (Resumed::MustStart, 0));
        let (resumed, said) = tries(&[], RESUME + RESUME / 2);
        assert!(resumed == Resumed::MustStart && said >= 1, "{resumed:?} {said}");
        stop.request();
        assert_eq!(tries(&[], long), (Resumed::Stopped, 1));
    }

    #[test]
    fn a_missing_library_is_told_with_how_to_get_it() {
        let told = AlsaError::NoLibrary("libasound.so.2: not found".into()).to_string();
        assert!(told.contains("apt install libasound2 ") && told.ends_with("then restart edgewatt"), "{told}");
    }
}
