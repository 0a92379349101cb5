//! A chip that is read by its registers: what the configuration says about it. One piece for all buses.
//!
//! Owns the keys that the buses share, and their check. `chip` sets a chip up and reads it, `pace` says when, `run` feeds
//! the frames. Leaves to `i2c` and `spi` how bytes get to the chip and back.

pub mod chip;
pub mod pace;
pub mod run;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::layout::Layout;
use crate::schema::expanded::Table as _;
use crate::schema::{Checker, Form, Key, Value, milliseconds, table};
use crate::stream::{Content, SampleType, Shape, StreamSpec};

pub use chip::{Bus, Connect};
pub use run::RegisterSource;

/// Longer pauses have no use, and would look like a chip that does not work.
/// What every bus can transfer at once.
const MOST_VALUES: usize = 32;
const MAX_PAUSE_MS: f64 = 10_000.0;
/// Two looks find most samples: one before it is there, and one after.
pub const LOOKS_PER_SAMPLE: usize = 2;

table! {
    /// What tells that it is this chip.
    pub struct Identity {
        /// The register that has the chip's number, in most datasheets called WHO_AM_I or device id.
        pub register: u8, example("0x75");
        /// The numbers that are right: of the chip, and of others with the same registers.
        pub values: Vec<u8>, example("[0x68]");
        /// What is written before, for a chip with banks of registers: a register and its value.
        pub bank: Option<Vec<u8>>, otherwise("nothing"), example("[0x7F, 0x00]");
    }
}

table! {
    /// The registers that hold a frame. They are read together.
    pub struct Burst {
        /// The first register.
        pub register: u8, example("0x3B");
        /// What stands there, byte after byte: "NAME: TYPE" for a channel, "skip: BYTES" for what is not used. A type is i, u
        /// or f for a whole number with a sign, without one, or a number with a point, then its bits (8, 16, 24, 32, 64; f: 32,
        /// 64), then be or le for the high or the low byte first. "x: i24be >> 4" leaves the lowest 4 bits out.
        pub layout: Vec<String>, example("[\"ax: i16be\", \"ay: i16be\", \"az: i16be\"]");
    }
}

table! {
    /// The bits that say that a new frame is there. Reading the frame must clear them.
    pub struct Ready {
        /// The register that has them.
        pub register: u8, example("0x3A");
        /// The bits. All of them must be set.
        pub mask: u8, range(1, 255), example("0x01");
    }
}

/// One step of setting a chip up.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Writes bytes: the register, and what it and those that follow it get.
    Write(Vec<u8>),
    /// Waits for so many milliseconds.
    Pause(f64),
}

impl Value for Step {
    fn type_name() -> String {
        "step".to_owned()
    }
    fn form() -> Form {
        let byte = Form::Integer { low: 0, high: 0xff };
        let write = Form::List { of: Box::new(byte), length: None };
        Form::Any(vec![write, Form::Keyed("pause_ms", Box::new(Form::Positive))])
    }
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StepVisitor;
        impl<'de> Visitor<'de> for StepVisitor {
            type Value = Step;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("[REGISTER, VALUE], or { pause_ms = 1.0 }")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Step, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(Step::Write(bytes))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Step, A::Error> {
                let Some(key) = map.next_key::<String>()? else { return Err(A::Error::missing_field("pause_ms")) };
                if key != "pause_ms" {
                    return Err(A::Error::unknown_field(&key, &["pause_ms"]));
                }
                let ms: f64 = map.next_value()?;
                if map.next_entry::<String, IgnoredAny>()?.is_some() || !(ms > 0.0 && ms.is_finite()) {
                    return Err(A::Error::custom("expected { pause_ms = 1.0 }"));
                }
                Ok(Step::Pause(ms))
            }
        }
        deserializer.deserialize_any(StepVisitor)
    }
}

/// Declares the table of a source that reads registers: the keys of its bus, then those that all buses share.
macro_rules! registers_table {
    (
        $(#[doc = $text:literal])+
        pub struct $name:ident { $($own:tt)* }
    ) => {
        table! {
            $(#[doc = $text])+
            pub struct $name {
                $($own)*
                /// What tells that it is this chip. It is read before anything is written.
                pub check: Option<$crate::source::registers::Identity>, otherwise("nothing is checked");
                /// What is written to set the chip up, in order: [REGISTER, VALUE], with more values for the registers that
                /// follow, or { pause_ms = MILLISECONDS } to wait. It is done again whenever the chip comes back.
                pub init: Vec<$crate::source::registers::Step> = Vec::new(),
                    example("[[0x6B, 0x80], { pause_ms = 100 }, [0x6B, 0x01]]");
                /// The register that is read once a second, and must have what `init` wrote last to it: a chip that was reset
                /// by a drop of its supply is set up again.
                pub verify: Option<u8>, otherwise("the last one that `init` writes"), example("0x6B");
                /// The registers that hold a frame.
                pub burst: $crate::source::registers::Burst;
                /// The bit that is added to the number of a register when several bytes are transferred.
                pub multi_bit: u8 = 0, shown("0x00"), example("0x80");
                /// The number that each channel is multiplied with.
                pub scale: f64 = 1.0;
                /// Other such numbers, for single channels by their names, or for several by what their names begin with.
                pub scales: std::collections::BTreeMap<String, f64> = std::collections::BTreeMap::new(),
                    otherwise("none"), example("{ a = 0.0011971 }");
                /// What is added to channels after that, named in the same way.
                pub offsets: std::collections::BTreeMap<String, f64> = std::collections::BTreeMap::new(),
                    otherwise("none"), example("{ a = 0.5 }");
                /// The units of channels, named in the same way.
                pub units: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new(),
                    otherwise("none"), example("{ a = \"m/s2\" }");
                /// The number of frames in a second: how often the registers are read; with `ready`, how often the chip has a
                /// new frame.
                pub rate_hz: f64, range(0.001, 10_000.0), unit("Hz"), example("100.0");
                /// The bits that say that a new frame is there. With it no frame is read twice, and frames that came too fast
                /// are counted.
                pub ready: Option<$crate::source::registers::Ready>,
                    otherwise("the registers are read at `rate_hz`, whatever the chip does");
                /// The buffer between the source and the pipeline.
                pub buffer: $crate::source::Buffer;
            }
        }

        impl $name {
            /// Returns what all buses have.
            pub(crate) fn registers(&self) -> $crate::source::registers::Registers {
                $crate::source::registers::Registers {
                    check: self.check.clone(),
                    init: self.init.clone(),
                    verify: self.verify,
                    burst: self.burst.clone(),
                    multi_bit: self.multi_bit,
                    scale: self.scale,
                    scales: self.scales.clone(),
                    offsets: self.offsets.clone(),
                    units: self.units.clone(),
                    rate_hz: self.rate_hz,
                    ready: self.ready.clone(),
                }
            }
        }
    };
}

pub(crate) use registers_table;

/// What all buses have: how a chip is set up and read.
#[derive(Debug, Clone, PartialEq)]
pub struct Registers {
    pub check: Option<Identity>,
    pub init: Vec<Step>,
    pub verify: Option<u8>,
    pub burst: Burst,
    pub multi_bit: u8,
    pub scale: f64,
    pub scales: BTreeMap<String, f64>,
    pub offsets: BTreeMap<String, f64>,
    pub units: BTreeMap<String, String>,
    pub rate_hz: f64,
    pub ready: Option<Ready>,
}

impl Registers {
    /// Checks the keys below `key`.
    pub fn check(&self, key: &Key, checker: &mut Checker) {
        if let Some(identity) = &self.check {
            let key = key.child("check");
            if identity.values.is_empty() {
                checker.problem(&key.child("values"), "name the value that the datasheet gives, such as [0x68]");
            }
            if identity.bank.as_ref().is_some_and(|bank| bank.len() != 2) {
                checker.problem(&key.child("bank"), "write a register and its value, such as [0x7F, 0x00]");
            }
        }
        for (index, step) in self.init.iter().enumerate() {
            let key = key.child("init").child(index);
            match step {
                Step::Write(bytes) if bytes.len() < 2 => {
                    checker.problem(&key, "write a register and its value, such as [0x6B, 0x00]");
                }
                Step::Write(bytes) if bytes.len() > 1 + MOST_VALUES => {
                    let message = format!("a step writes {MOST_VALUES} values at most; divide it into several");
                    checker.problem(&key, message);
                }
                Step::Pause(ms) if *ms > MAX_PAUSE_MS => {
                    let message = format!("{ms} ms is out of range; it must be at most {MAX_PAUSE_MS}");
                    checker.problem(&key, message);
                }
                Step::Write(_) | Step::Pause(_) => {}
            }
        }
        if let Some(ready) = &self.ready {
            ready.check_ranges(&key.child("ready"), checker);
        }
        if let Some(register) = self.verify.filter(|_| self.verified().is_none()) {
            let message =
                format!("init writes nothing to register {register:#04x}, so there is nothing to compare with");
            checker.problem(&key.child("verify"), message);
        }
        let burst_key = key.child("burst").child("layout");
        let layout = match Layout::parse(&self.burst.layout) {
            Ok(layout) => layout,
            Err((index, message)) if index < self.burst.layout.len() => {
                return checker.problem(&burst_key.child(index), message);
            }
            Err((_, message)) => return checker.problem(&burst_key, message),
        };
        if layout.bytes() > usize::from(u8::MAX) {
            checker.problem(&burst_key, format!("these are {} bytes, more than a chip has registers", layout.bytes()));
        }
        let is_scale = |scale: f64| scale.is_finite() && scale != 0.0;
        let not_a_scale = |scale: f64| format!("{scale} is not a scale; write a number other than 0");
        if !is_scale(self.scale) {
            checker.problem(&key.child("scale"), not_a_scale(self.scale));
        }
        for (channel, scale) in self.scales.iter().filter(|(_, scale)| !is_scale(**scale)) {
            checker.problem(&key.child("scales").child(channel), not_a_scale(*scale));
        }
        for (channel, _) in self.offsets.iter().filter(|(_, offset)| !offset.is_finite()) {
            checker.problem(&key.child("offsets").child(channel), "this must be a finite number");
        }
        layout.check_names(&self.scales, &key.child("scales"), checker);
        layout.check_names(&self.offsets, &key.child("offsets"), checker);
        layout.check_names(&self.units, &key.child("units"), checker);
    }

    /// Returns the layout with scales and offsets.
    ///
    /// # Errors
    /// The index of the field that is wrong, and why; none if the keys were checked.
    pub fn layout(&self) -> Result<Layout, (usize, String)> {
        Ok(Layout::parse(&self.burst.layout)?.scaled(self.scale, &self.scales, &self.offsets))
    }

    /// Returns the stream, which is of floating-point numbers.
    pub fn spec(&self) -> StreamSpec {
        let layout = Layout::parse(&self.burst.layout).ok();
        let (channels, names, units) = match &layout {
            Some(layout) => (layout.channels(), layout.names(), layout.units(&self.units)),
            // It was refused.
            None => (1, Vec::new(), Vec::new()),
        };
        let (frame, rate_hz) = (Shape::new([channels]), Some(self.rate_hz));
        StreamSpec { frame, sample: SampleType::F32, rate_hz, names, units, content: Content::Samples }
    }

    /// Returns the register that is compared from time to time, with what it and those that follow must have.
    pub fn verified(&self) -> Option<(u8, &[u8])> {
        self.init.iter().rev().find_map(|step| match step {
            Step::Write(bytes) => match bytes.split_first() {
                Some((register, values)) if self.verify.is_none_or(|wanted| wanted == *register) => {
                    Some((*register, values))
                }
                _ => None,
            },
            Step::Pause(_) => None,
        })
    }

    /// Returns the time between two frames.
    pub fn period(&self) -> Duration {
        milliseconds(1e3 / self.rate_hz)
    }

    /// Returns how many bytes of registers are read for each frame, and in how many transfers.
    pub fn read_for_frame(&self) -> (usize, usize) {
        let bytes = Layout::parse(&self.burst.layout).map_or(0, |layout| layout.bytes());
        let looks = if self.ready.is_some() { LOOKS_PER_SAMPLE } else { 0 };
        (bytes + looks, 1 + looks)
    }
}
