//! Microphones and other sound cards, through ALSA's library.
//!
//! Owns the keys, and what `doctor` says about a card. `library` calls C, `capture` is the loop on the acquire thread,
//! `format` makes samples of bytes, `cards` finds cards.

mod capture;
pub(crate) mod cards;
mod format;
mod library;

use std::path::Path;

use self::capture::{Capture, MOST_BLOCK_FRAMES, describe};
use self::cards::Named;
use self::format::{Change, SampleFormat};
use self::library::Wanted;
use super::{Buffer, Exclusive, FrameProducer, OpenOptions, SourceError, SourceKind, Survey, WhenFull};
use crate::schema::expanded::Table as _;
use crate::schema::{Checker, Key, table};
use crate::stream::{SampleType, Shape, StreamSpec};
use crate::sys::Machine;

pub use self::capture::AlsaError;

/// Far above any real card.
const MAX_CHANNELS: usize = 64;
/// The card's buffer has this many periods at least: one is being filled while others wait.
const PERIODS: f64 = 4.0;

table! {
    /// Records from a microphone or another sound card. The model gets integers of 16 bits, from -32768 to 32767; of longer
    /// samples, the upper 16 bits. Every sample has its time, on the machine's monotonic clock.
    pub struct Alsa {
        /// The sound card: its id, which `edgewatt doctor` shows, such as "Device". Or, with a colon, the name of a PCM of
        /// ALSA: "hw:CARD=Device,DEV=1", "plughw:CARD=Device" to have rates and channels converted that the card lacks,
        /// "dsnoop:CARD=Device" to share it, or "plug:mic" for the PCM mic of /etc/asound.conf.
        pub card: String, example("\"Device\"");
        /// The number of frames in a second. The card must have this rate.
        pub rate_hz: u32, range(1000, 192_000), unit("Hz"), example("16000");
        /// The number of channels that the card records. A frame has one value of each.
        pub channels: usize = 1, range(1, MAX_CHANNELS);
        /// The channels that the model gets, counted from 0, in the order in which it wants them.
        pub select: Option<Vec<usize>>, otherwise("all"), example("[0]");
        /// How the card stores samples: "s16le", "s32le", "s24_3le" or "s24le".
        pub format: Option<SampleFormat>, otherwise("the first of these that the card has"), example("\"s32le\"");
        /// How much louder the samples become. Of samples longer than 16 bits, this brings up the lower ones. What does not
        /// fit is cut off.
        pub gain_db: f64 = 0.0, range(-60.0, 90.0), unit("dB");
        /// Removes a constant part of the samples, which microphones with an I2S interface have: a high pass of first order
        /// with this cut-off frequency.
        pub dc_block_hz: Option<f64>, range(0.1, 1000.0), unit("Hz"), otherwise("not removed"), example("20.0");
        /// The time between two reads. A longer one saves power; the samples arrive later.
        pub period_s: f64 = 0.02, range(0.001, 1.0), unit("s");
        /// The time that the card's own buffer holds. If it is full, samples are lost. It must have 4 periods at least.
        pub buffer_s: f64 = 0.5, range(0.01, 10.0), unit("s");
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
    }
}

impl Alsa {
    fn pcm(&self) -> String {
        cards::pcm_name(&self.card)
    }

    fn frames(&self, seconds: f64) -> usize {
        ((seconds * f64::from(self.rate_hz)).round() as usize).max(1)
    }

    fn capture(&self, once: bool) -> Capture {
        let wanted = Wanted {
            format: self.format,
            channels: self.channels as u32,
            rate_hz: self.rate_hz,
            period_frames: self.frames(self.period_s),
            buffer_frames: self.frames(self.buffer_s),
        };
        let change = Change { select: self.select.clone(), gain_db: self.gain_db, dc_block_hz: self.dc_block_hz };
        Capture { pcm: self.pcm(), wanted, change, once }
    }

    fn check_card(&self, key: &Key, checker: &mut Checker) {
        let card = self.card.as_str();
        let is_id = |card: &str| card.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let message = if card.is_empty() {
            "write the id of a sound card, which `edgewatt doctor` shows".to_owned()
        } else if card == "default" {
            "`default` is another card on each machine; write the id of one, which `edgewatt doctor` shows; or, for the PCM of \
             this name, \"plug:default\""
                .to_owned()
        } else if card.bytes().all(|byte| byte.is_ascii_digit()) {
            format!(
                "the card with the number {card} can be another one after each start; write its id, which `edgewatt doctor` shows"
            )
        } else if !card.contains(':') && !is_id(card) {
            format!(
                "`{card}` is not an id of a sound card, which has letters, digits and `_` only; `edgewatt doctor` shows the ids"
            )
        } else {
            return;
        };
        checker.problem(&key.child("card"), message);
    }

    /// Examines the card as this machine has it, by opening it for a moment.
    fn probe(&self, ready: Survey) -> Survey {
        match self.capture(true).set_up() {
            Ok((_, setup, offers)) => {
                let says = format!("{}: {}, {} Hz", ready.says, setup.format.name(), self.rate_hz);
                let can = offers.map(|offers| format!("it can record: {}", describe(&offers)));
                Survey { says, detail: can.into_iter().collect(), ..ready }
            }
            Err(error @ AlsaError::NoCard { .. }) => Survey::absent(error.to_string()),
            // The daemon that runs may be the one that has it.
            Err(AlsaError::Busy { holder, .. }) if holder.as_ref().is_none_or(|holder| holder.name == "edgewatt") => {
                let by = holder.map_or("another program, such as the service".to_owned(), |holder| holder.to_string());
                Survey { says: format!("{}: in use by {by}", ready.says), ..ready }
            }
            Err(error) => Survey::broken(error.to_string()),
        }
    }
}

impl SourceKind for Alsa {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        self.check_ranges(key, checker);
        self.check_card(key, checker);
        if let Some(select) = &self.select
            && (select.is_empty() || select.iter().any(|channel| *channel >= self.channels))
        {
            let last = self.channels.saturating_sub(1);
            let message = format!("name one or more channels from 0 to {last}; channels is how many the card records");
            checker.problem(&key.child("select"), message);
        }
        if self.buffer_s < PERIODS * self.period_s {
            let least = PERIODS * self.period_s;
            let message = format!("the buffer must hold 4 periods, {least} s, or more");
            checker.problem(&key.child("buffer_s"), message);
        }
        self.buffer.check(&key.child("buffer"), checker);
    }

    fn spec(&self) -> StreamSpec {
        StreamSpec::new(
            Shape::new([self.select.as_ref().map_or(self.channels, Vec::len)]),
            SampleType::I16,
            Some(f64::from(self.rate_hz)),
        )
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        // A microphone cannot be held back.
        (&self.buffer, WhenFull::Drop)
    }

    fn open(&self, options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        self.check_access()?;
        Ok(Box::new(self.capture(options.once)))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        library::Alsa::load().map(drop).map_err(|error| AlsaError::NoLibrary(error).into())
    }

    fn survey(&self, machine: &Machine<'_>) -> Survey {
        if let Err(error) = self.check_access() {
            return Survey::broken(error.to_string());
        }
        let (pcm, cards) = (self.pcm(), cards::recording(machine));
        let mut ready = Survey::ready(pcm.clone());
        if let Some(named) = Named::parse(&pcm) {
            let Some(card) = named.find(&cards) else {
                let absent =
                    Survey::absent(format!("there is no sound card {:?}; {}", named.card, cards::list(&cards)));
                return match cards.first() {
                    Some(card) => absent.fix(format!("plug it in, or write another one, such as card = {:?}", card.id)),
                    None => absent.fix(
                        "plug it in; for one on a Raspberry Pi's pins, its dtoverlay in /boot/firmware/config.txt",
                    ),
                };
            };
            if !card.devices.contains(&named.device) {
                let devices: Vec<String> =
                    card.devices.iter().map(|device| format!("\"hw:CARD={},DEV={device}\"", card.id)).collect();
                let says = format!("the device {} of the sound card {} does not record", named.device, card.describe());
                return Survey::broken(says).fix(format!("write card = {}", devices.join(" or ")));
            }
            ready = Survey::ready(format!("{pcm}, {}", card.describe()))
                .node(card.node(machine.dev, named.device), cards::RULE);
        }
        let is_this_machine = machine.dev == Machine::this().dev;
        let may_open = ready.node.as_ref().is_none_or(|node| may_use(&node.path));
        if is_this_machine && may_open { self.probe(ready) } else { ready }
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        let named = Named::parse(&self.pcm()).filter(|named| named.exclusive);
        named
            .map(|named| Exclusive::new(format!("sound card {}, device {}", named.card, named.device), "card"))
            .into_iter()
            .collect()
    }

    fn has_time(&self) -> bool {
        true
    }

    fn endless(&self) -> Option<&'static str> {
        Some("records from a sound card, which has no end; start it without --once, or use the source raw or replay")
    }

    fn frames_per_block(&self) -> usize {
        // Some are shorter than a period.
        (self.frames(self.period_s).min(MOST_BLOCK_FRAMES) / 4).max(1)
    }
}

fn may_use(path: &Path) -> bool {
    use nix::unistd::{AccessFlags, eaccess};
    eaccess(path, AccessFlags::R_OK | AccessFlags::W_OK).is_ok()
}

#[cfg(test)]
mod tests;
