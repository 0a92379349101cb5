//! The reader meter: another instrument that tells what it measures, as lines of text or JSON.
//!
//! `keys` are its keys, `content` finds the values in a line, `readout` makes readings of them, and `worker` gets the lines:
//! from a program, a serial port, a FIFO or an MQTT broker, in a separate thread. The meter thread never waits for it: it
//! takes what was told so far.

mod content;
mod keys;
mod readout;
#[cfg(test)]
mod tests;
mod worker;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::efficiency::Efficiency;
use super::survey::{Machine, Surveyed};
use super::{Meter, MeterError, MeterInfo, MeterKind, Reading, Surroundings, check_scope, meter_client};
use crate::mqtt::{Qos, Session, Subscription, filter};
use crate::schema::{Checker, Key, seconds};
use crate::source::exec::program;
use crate::source::records::Decimal;
use crate::source::records::fields::Delimiter;
use crate::source::records::line_reader::MAX_LINE_BYTES;
use crate::source::survey::Survey;
use crate::source::{Exclusive, mqtt, pipe, serial};
use crate::stop::Stop;
use crate::sys::serial::{Flow, LineSettings};
use crate::units::{MonoTime, Watts};
use content::{Content, Quantities};
use readout::{Instrument, Readout};
use worker::{Broker, Origin, Worker};

pub use keys::ReaderKeys;

/// How often it is looked for the first value: each period, but within these bounds.
const FIRST_PACE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// A packet has a topic, a header and properties besides its payload.
const AROUND_PAYLOAD: usize = 128 * 1024;

impl ReaderKeys {
    /// Returns the name of what tells the values, for messages.
    fn place(&self) -> String {
        match (&self.command, &self.path, &self.mqtt) {
            (Some(command), ..) => format!("program {}", program::short_name(command.first().map_or("", |name| name))),
            (_, Some(path), _) => path.display().to_string(),
            (.., Some(mqtt)) => format!("topic {}", mqtt.topic),
            (None, None, None) => String::new(),
        }
    }

    fn quantities(&self) -> Quantities<bool> {
        match (&self.json, &self.column) {
            (Some(json), _) => Quantities {
                power: json.power.is_some(),
                voltage: json.voltage.is_some(),
                current: json.current.is_some(),
                energy: json.energy.is_some(),
            },
            (None, Some(column)) => Quantities {
                power: column.power.is_some(),
                voltage: column.voltage.is_some(),
                current: column.current.is_some(),
                energy: column.energy.is_some(),
            },
            (None, None) => Quantities::default(),
        }
    }

    fn content(&self) -> Content {
        if let Some(json) = self.json.clone() {
            let pointers =
                Quantities { power: json.power, voltage: json.voltage, current: json.current, energy: json.energy };
            return Content::of_json(pointers, self.units.clone(), self.decimal);
        }
        let columns = self.column.as_ref().map_or_else(Quantities::default, |column| Quantities {
            power: column.power,
            voltage: column.voltage,
            current: column.current,
            energy: column.energy,
        });
        Content::of_columns(columns, self.delimiter, self.units.clone(), self.decimal)
    }

    /// Returns what is known of an instrument whose power may be off by `offset`.
    fn instrument(&self, offset: Watts) -> Instrument {
        Instrument {
            place: self.place(),
            period: seconds(self.period_s),
            mean: seconds(self.mean_s.unwrap_or(self.period_s)),
            offset,
            scope: self.scope,
            counts: self.quantities().energy,
        }
    }

    fn origin(&self, name: &str, surroundings: &Surroundings) -> Origin {
        if let Some(command) = &self.command {
            return Origin::Command(command.clone());
        }
        if let Some(subscription) = self.subscription() {
            let node = surroundings.node.as_ref();
            let connect = node.and_then(|node| subscription.connect_options(node, &meter_client(name)));
            let retry = node.map(|node| node.retry);
            let broker = |(connect, retry)| Box::new(Broker { subscription, connect, retry });
            return Origin::Mqtt(connect.zip(retry).map(broker));
        }
        let path = self.path.clone().unwrap_or_default();
        let settings = LineSettings {
            baud: self.baud,
            data_bits: 8,
            odd_parity: None,
            two_stop_bits: false,
            flow: Flow::None,
            hang_up: false,
            dtr: true,
            low_latency: false,
        };
        let query = self.query.as_ref().map(|query| format!("{query}\n").into_bytes());
        Origin::Path { path, settings, query }
    }

    fn check_origin(&mut self, key: &Key, checker: &mut Checker) {
        let written = [self.command.is_some(), self.path.is_some(), self.mqtt.is_some()];
        if written.iter().filter(|is_written| **is_written).count() != 1 {
            checker.problem(key, "say where the values come from: exactly one of command, path and mqtt");
        }
        if let Some(command) = &mut self.command {
            program::check(command, &key.child("command"), checker);
        }
        if let Some(path) = &mut self.path {
            *path = checker.path(path);
        }
        if self.query.is_some() && self.path.is_none() {
            checker.problem(&key.child("query"), "it is written to a serial port only; name that in path");
        }
        if let Some(mqtt) = &mut self.mqtt {
            let key = key.child("mqtt");
            if let Err(message) = filter::check(&mqtt.topic) {
                checker.problem(&key.child("topic"), message);
            }
            mqtt.resolve_files(checker);
            mqtt.broker_keys().check(&key, checker);
        }
    }

    fn check_content(&self, key: &Key, checker: &mut Checker) {
        use crate::schema::expanded::Table;
        if self.json.is_some() == self.column.is_some() {
            checker.problem(key, "say where in a line the values are: exactly one of json and column");
            return;
        }
        if let Some(column) = &self.column {
            column.check_ranges(&key.child("column"), checker);
        }
        let place = key.child(if self.json.is_some() { "json" } else { "column" });
        let Quantities { power, voltage, current, energy } = self.quantities();
        if !(power || energy || (voltage && current)) {
            let message = "name the place of power, of voltage and current, or of energy; one of voltage and current is not \
                           enough to know the power";
            checker.problem(&place, message);
        }
        if let Some(json) = &self.json {
            let pointers = [
                ("power", &json.power),
                ("voltage", &json.voltage),
                ("current", &json.current),
                ("energy", &json.energy),
            ];
            for (name, pointer) in pointers {
                if let Some(pointer) = pointer.as_ref().filter(|pointer| !pointer.starts_with('/')) {
                    let message = format!("`{pointer}` is not a JSON pointer; write \"/{pointer}\"");
                    checker.problem(&place.child(name), message);
                }
            }
        } else if self.decimal == Decimal::Comma && self.delimiter == Delimiter::Comma {
            let message = "numbers with a decimal comma cannot be told from two columns; write another delimiter";
            checker.problem(&key.child("delimiter"), message);
        }
    }
}

impl MeterKind for ReaderKeys {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_scope(key, self.scope, checker);
        self.check_origin(key, checker);
        self.check_content(key, checker);
        if self.mean_s.is_some_and(|mean_s| mean_s > self.period_s) {
            checker.problem(&key.child("mean_s"), "it is longer than period_s; an instrument that averages for longer than it \
                                                   measures shows each value several times: write that time in period_s");
        }
        if self.efficiency_error.is_some() && self.efficiency.is_none() {
            checker.problem(&key.child("efficiency_error"), "it is the error of efficiency, which is not written");
        }
    }

    fn build(&self, name: &str, surroundings: &Surroundings) -> Box<dyn Meter> {
        let info = MeterInfo {
            name: name.to_owned(),
            kind: "reader",
            scope: self.scope,
            estimated: false,
            detail: Vec::new(),
            basis: Vec::new(),
        };
        let start = Start {
            origin: self.origin(name, surroundings),
            content: self.content(),
            surroundings: surroundings.clone(),
        };
        let offset_w = surroundings.corrections_of(name).offset_error_w.unwrap_or_default();
        let instrument = self.instrument(Watts(offset_w));
        Box::new(Reader { info, instrument, start: Some(start), running: None })
    }

    fn efficiency(&self) -> Option<Efficiency> {
        Efficiency::of(self.efficiency, self.efficiency_error)
    }

    fn examine(&self, machine: &Machine<'_>) -> Option<Survey> {
        if let Some(command) = &self.command {
            let found = program::file(command.first().map_or("", |name| name), None);
            return Some(program::survey(found));
        }
        if let Some(mqtt) = &self.mqtt {
            return Some(mqtt::survey(&mqtt.topic, mqtt.broker_keys().other_broker()));
        }
        let path = self.path.as_ref()?;
        if pipe::check_fifo(path).is_ok() {
            return Some(Survey::ready(format!("{} is a FIFO", path.display())));
        }
        Some(serial::survey(path, machine, std::path::Path::new("/proc")))
    }

    fn subscription(&self) -> Option<Subscription> {
        let mqtt = self.mqtt.as_ref()?;
        let packet_bytes = u32::try_from(MAX_LINE_BYTES + AROUND_PAYLOAD).unwrap_or(u32::MAX);
        Some(Subscription {
            topic: mqtt.topic.clone(),
            qos: Qos::AtMostOnce,
            other: mqtt.broker_keys().other_broker(),
            client_id: None,
            table: "reader.mqtt",
            session: Session { kept_s: None, packet_bytes },
        })
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        self.path.iter().map(|path| Exclusive::new(path.display().to_string(), "path")).collect()
    }
}

/// Returns nothing: no instrument can be found by looking at the machine.
pub fn survey(_: &Machine<'_>) -> Vec<Surveyed> {
    Vec::new()
}

/// What an instrument tells.
#[derive(Debug)]
struct Reader {
    info: MeterInfo,
    instrument: Instrument,
    /// `None`: it was started.
    start: Option<Start>,
    running: Option<Running>,
}

/// What the thread is started with, at the first reading.
#[derive(Debug)]
struct Start {
    origin: Origin,
    content: Content,
    surroundings: Surroundings,
}

/// The thread that gets the lines.
#[derive(Debug)]
struct Running {
    readout: Arc<Mutex<Readout>>,
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

impl Reader {
    fn run(&self, start: Start) -> std::io::Result<Running> {
        let Start { origin, content, surroundings } = start;
        let readout = Readout::new(self.instrument.clone(), surroundings.period, MonoTime::now());
        let (readout, stop) = (Arc::new(Mutex::new(readout)), Arc::new(Stop::new()?));
        let worker = Worker {
            meter: self.info.name.clone(),
            place: self.instrument.place.clone(),
            period: self.instrument.period,
            content,
            readout: readout.clone(),
            stop: stop.clone(),
            children: surroundings.children,
        };
        let name = format!("reader-{}", self.info.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run(&origin))?;
        Ok(Running { readout, stop, thread })
    }

    /// Returns what is known of the instrument, for `info`.
    fn describe(&self) -> Vec<String> {
        let Instrument { place, period, mean, counts, .. } = &self.instrument;
        let (period_s, mean_s) = (period.as_secs_f64(), mean.as_secs_f64());
        vec![if *counts {
            format!("{place} tells energy, refreshed every {period_s} s")
        } else {
            format!("{place} tells power every {period_s} s, the mean over {mean_s} s")
        }]
    }
}

impl Meter for Reader {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        if let Some(start) = self.start.take() {
            let path = PathBuf::from(&self.instrument.place);
            self.running = Some(self.run(start).map_err(|source| MeterError::Failed { path, source })?);
        }
        let Some(running) = &self.running else {
            return Err(MeterError::Rebaselined { reason: "its thread could not be started".to_owned() });
        };
        let reading = running.readout.lock().unwrap_or_else(PoisonError::into_inner).read(MonoTime::now())?;
        if self.info.detail.is_empty() {
            self.info.detail = self.describe();
        }
        Ok(reading)
    }

    /// Until the first value has come, which takes as long as the instrument needs.
    fn learning_pace(&self) -> Option<Duration> {
        let readout = self.running.as_ref()?.readout.lock().unwrap_or_else(PoisonError::into_inner);
        readout.is_starting(MonoTime::now()).then(|| self.instrument.period.clamp(FIRST_PACE.0, FIRST_PACE.1))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(Running { stop, thread, .. }) = self.running.take() {
            stop.request();
            // It ends its program, and takes at most a second for that.
            let _ = thread.join();
        }
    }
}
