//! An IIO device: an accelerometer, an analog-to-digital converter or another chip that a driver of the kernel reads.
//!
//! Owns the keys, and the choice between the device's buffer and reading one number at a time. `plan` says what is read and
//! what becomes of it, `scan` what a buffer's records hold, `buffer` and `poll` read, `setup` switches a buffer on, `survey`
//! says what there is. Source: `Documentation/ABI/testing/sysfs-bus-iio`.

mod buffer;
mod plan;
mod poll;
mod scan;
mod setup;
mod survey;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::buffer::BufferReader;
use self::plan::{ChannelName, Plan, unit};
use self::poll::PollReader;
use self::setup::{BufferState, Wanted, is_same_rate};
use super::session::{DEVICE_RETRY, keep_open};
use super::{Buffer, Exclusive, FrameProducer, FrameSink, OpenOptions, SourceError, SourceKind, Survey, WhenFull};
use crate::schema::{Checker, Key, choice, table};
use crate::stream::{Content, SampleType, Shape, StreamSpec};
use crate::sys::Machine;
use crate::sys::folder::text;
use crate::sys::iio::{Device, devices};

pub(crate) use survey::{Listed, listed};

/// A reader is woken for the samples of this time, unless the configuration says otherwise.
const WAKE_S: f64 = 0.02;
const MOST_PER_WAKE: f64 = 64.0;
/// The kernel keeps the samples of this time.
const KEPT_S: f64 = 2.0;
const KEPT: (usize, usize) = (128, 32_768);
/// A device that another program has open for a moment, as the daemon does to look at it, is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// A device that was read from its buffer is not polled for so long after it has come back.
const SET_UP_WAIT: Duration = Duration::from_secs(10);

choice! {
    /// How an IIO device is read.
    #[derive(Default)]
    pub enum Mode {
        /// From its buffer if that works, else one number at a time.
        #[default]
        Auto = "auto",
        /// From its buffer only.
        Buffer = "buffer",
        /// One number at a time.
        Poll = "poll",
    }
}

table! {
    /// Reads a chip that has a driver in the kernel's industrial I/O (IIO): an accelerometer, a gyroscope, an
    /// analog-to-digital converter. The values are in m/s2, rad/s, Gauss, degrees Celsius, V, A, kPa or %, as the kernel
    /// documents them, but without thousandths.
    pub struct Iio {
        /// The name that the driver gives the chip; `edgewatt doctor sensors` lists them.
        pub device: String, example("\"mpu6050\"");
        /// The device to which the chip belongs, such as "1-0068" or "i2c-1/1-0068" for address 0x68 on I2C bus 1, if several
        /// chips have that name.
        pub parent: Option<String>, otherwise("the only one"), example("\"1-0068\"");
        /// The label that the device tree gives the chip, if several chips have that name.
        pub label: Option<String>, otherwise("the only one"), example("\"accel-base\"");
        /// The channels that make a sample, in this order. `rot_quaternion[0]` is the first of a channel's numbers.
        pub channels: Vec<String>, example("[\"accel_x\", \"accel_y\", \"accel_z\"]");
        /// The number of samples per second. It is set in the device where that is permitted.
        pub rate_hz: f64, range(0.001, 1e6), unit("Hz"), example("100.0");
        /// "buffer" reads the device's buffer, in which the driver puts each sample with its time; "poll" reads one number at
        /// a time, which many buses do 100 to 200 times in a second for three axes; "auto" reads the buffer if it works,
        /// else polls.
        pub mode: Mode = Mode::Auto;
        /// The trigger at which the buffer's samples are taken. A timer of that name is made if there is none and the
        /// kernel has iio-trig-hrtimer.
        pub trigger: Option<String>, otherwise("the one that is set, or the device's own"), example("\"edgewatt\"");
        /// The buffer wakes the daemon for so many samples at once.
        pub watermark: Option<usize>, range(1, 4096), otherwise("the samples of 20 ms, 64 at most"), example("20");
        /// Applies the matrix in which the device tree says how the chip is turned on its board, if there is one.
        pub mount_matrix: bool = true;
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
    }
}

impl Iio {
    /// Finds the device.
    ///
    /// # Errors
    /// There is none, or there are several; says what there is.
    fn find(&self, sysfs: &Path) -> Result<Device, NotFound> {
        let all = devices(sysfs);
        let described = |device: &Device| {
            let label = device.label.as_ref().map_or(String::new(), |label| format!(", label {label}"));
            format!("{} ({}{label})", device.name, device.parent().unwrap_or_default())
        };
        let list = |devices: &[&Device]| devices.iter().map(|device| described(device)).collect::<Vec<_>>().join(", ");
        let fits = |device: &&Device| {
            device.name == self.device
                && self.parent.as_ref().is_none_or(|parent| device.is_below(parent))
                && self.label.as_ref().is_none_or(|label| device.label.as_ref() == Some(label))
        };
        let fitting: Vec<&Device> = all.iter().filter(fits).collect();
        match fitting.as_slice() {
            [device] => Ok((*device).clone()),
            [] => {
                let all: Vec<&Device> = all.iter().collect();
                let there = if all.is_empty() { "none".to_owned() } else { list(&all) };
                Err(NotFound::Absent(format!("there is no IIO device {}; found: {there}", self.wanted())))
            }
            several => Err(NotFound::Several(format!(
                "several IIO devices are called {}: {}; name one by parent or label",
                self.wanted(),
                list(several)
            ))),
        }
    }

    /// Returns what names the device, in words.
    fn wanted(&self) -> String {
        let parent = self.parent.as_ref().map_or(String::new(), |parent| format!(" at {parent}"));
        let label = self.label.as_ref().map_or(String::new(), |label| format!(" with the label {label}"));
        format!("{}{parent}{label}", self.device)
    }

    fn plan(&self, device: &Device) -> Result<Plan, String> {
        Plan::new(device, &self.channels, self.mount_matrix)
    }

    /// Returns what the buffer is to be, for what `plan` reads.
    fn buffer_for<'a>(&'a self, plan: &'a Plan) -> Wanted<'a> {
        let by_time = (self.rate_hz * WAKE_S).round().clamp(1.0, MOST_PER_WAKE) as usize;
        let watermark = self.watermark.unwrap_or(by_time);
        let kept = ((self.rate_hz * KEPT_S).ceil() as usize).clamp(KEPT.0, KEPT.1).max(2 * watermark);
        Wanted {
            channels: plan.channels(),
            rate_hz: self.rate_hz,
            trigger: self.trigger.as_deref(),
            watermark,
            // The kernel rounds it up to this.
            length: kept.next_power_of_two(),
        }
    }
}

/// Why a device was not found.
#[derive(Debug, PartialEq, Eq)]
enum NotFound {
    Absent(String),
    Several(String),
}

impl NotFound {
    fn reason(self) -> String {
        match self {
            Self::Absent(reason) | Self::Several(reason) => reason,
        }
    }
}

impl SourceKind for Iio {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if self.device.is_empty() {
            checker.problem(&key.child("device"), "write the name of the chip; `edgewatt doctor sensors` lists them");
        }
        let channels = key.child("channels");
        if self.channels.is_empty() {
            checker.problem(&channels, "name at least one channel, such as accel_x");
        }
        for (place, name) in self.channels.iter().enumerate() {
            if let Err(problem) = ChannelName::parse(name) {
                checker.problem(&channels, problem);
            } else if self.channels[..place].contains(name) {
                checker.problem(&channels, format!("`{name}` is named twice"));
            }
        }
        if self.mode == Mode::Poll {
            for (name, is_set) in [("trigger", self.trigger.is_some()), ("watermark", self.watermark.is_some())] {
                if is_set {
                    checker
                        .problem(&key.child(name), "it belongs to the buffer, and mode = \"poll\" does not read that");
                }
            }
        }
        if self.trigger.as_ref().is_some_and(|name| name.is_empty() || name.contains('/') || name.starts_with('.')) {
            checker.problem(&key.child("trigger"), "this is not the name of a trigger");
        }
        self.buffer.check(&key.child("buffer"), checker);
    }

    fn spec(&self) -> StreamSpec {
        StreamSpec {
            frame: Shape::new([self.channels.len()]),
            sample: SampleType::F32,
            rate_hz: Some(self.rate_hz),
            names: self.channels.clone(),
            units: self.channels.iter().map(|channel| unit(channel).0.to_owned()).collect(),
            content: Content::Samples,
        }
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        (&self.buffer, WhenFull::Drop)
    }

    fn open(&self, _options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        let Machine { sysfs, dev } = Machine::this();
        Ok(Box::new(IioSource::new(self, sysfs, dev)))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        Ok(())
    }

    fn survey(&self, machine: &Machine<'_>) -> Survey {
        survey::survey(self, machine)
    }

    fn set_up(&self, machine: &Machine<'_>, restart: bool) -> Option<Result<String, SourceError>> {
        let failed = |reason: String| SourceError::Device { name: self.device.clone(), reason };
        Some(self.set_buffer_up(machine, restart).map_err(failed))
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        // One number at a time can be read by several; a buffer only by one.
        let resource = format!("the IIO device {}", self.wanted());
        if self.mode == Mode::Poll { Vec::new() } else { vec![Exclusive::new(resource, "device")] }
    }

    fn has_time(&self) -> bool {
        true
    }

    fn endless(&self) -> Option<&'static str> {
        Some("reads a device, which has no end; start it without --once, or use the source lines or replay")
    }
}

impl Iio {
    /// Switches the device's buffer on, or off if it is not to be read. Says in words what was done.
    fn set_buffer_up(&self, machine: &Machine<'_>, restart: bool) -> Result<String, String> {
        let device = match self.find(machine.sysfs) {
            Ok(device) => device,
            Err(NotFound::Absent(reason)) => return Ok(format!("{reason}; a udev rule can do this when it comes")),
            Err(NotFound::Several(reason)) => return Err(reason),
        };
        let what = format!("{} ({})", device.name, device.node);
        let plan = self.plan(&device)?;
        let wanted = self.buffer_for(&plan);
        let is_on = text(&device.folder.join("buffer/enable")).as_deref() == Some("1");
        if self.mode == Mode::Poll {
            if !is_on {
                return Ok(format!("{what}: it is polled, and its buffer is off"));
            }
            let _held = held(&machine.dev.join(&device.node))?;
            setup::switch_off(&device).map_err(|error| error.to_string())?;
            return Ok(format!("{what}: its buffer was switched off, because mode is \"poll\""));
        }
        match setup::state(&device, &wanted) {
            BufferState::Impossible(reason) if self.mode == Mode::Auto => {
                return Ok(format!("{what}: {reason}; it is polled"));
            }
            BufferState::Impossible(reason) => return Err(format!("{what}: {reason}")),
            BufferState::On if !restart && setup::is_as_wanted(&device, &wanted) => {
                return Ok(format!("{what}: its buffer is on already"));
            }
            BufferState::On | BufferState::Off(_) => {}
        }
        // While this program has the device, no other one reads records whose channels change.
        let _held = held(&machine.dev.join(&device.node))?;
        if restart {
            setup::switch_off(&device).map_err(|error| error.to_string())?;
        }
        let configfs = machine.sysfs.join("kernel/config");
        let notes = setup::switch_on(&device, &wanted, &configfs).map_err(|error| format!("{what}: {error}"))?;
        let channels = wanted.channels.join(" ");
        let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
        Ok(format!("{what}: its buffer is on, for {channels}, with a watermark of {}{notes}", wanted.watermark))
    }
}

/// Opens a device; waits a little for one that another program has open.
fn held(path: &Path) -> Result<std::fs::File, String> {
    let begun = Instant::now();
    loop {
        match buffer::open(path) {
            Err(_) if begun.elapsed() < BUSY_WAIT => std::thread::sleep(Duration::from_millis(100)),
            Err(reason) => return Err(format!("{reason}; stop it first")),
            Ok(file) => return Ok(file),
        }
    }
}

/// The device as it is found after each loss.
struct IioSource {
    keys: Iio,
    sysfs: PathBuf,
    dev: PathBuf,
    /// What was logged last of how the device is read.
    said: Vec<String>,
    /// The buffer was read last.
    had_buffer: bool,
    /// Since when a device that came back has its buffer off.
    off_since: Option<Instant>,
}

enum Session {
    Buffer(Box<BufferReader>),
    Poll(PollReader),
}

impl IioSource {
    fn new(keys: &Iio, sysfs: &Path, dev: &Path) -> Self {
        Self {
            keys: keys.clone(),
            sysfs: sysfs.to_owned(),
            dev: dev.to_owned(),
            said: Vec::new(),
            had_buffer: false,
            off_since: None,
        }
    }

    /// Opens the device in the way that the mode says.
    fn session(&mut self) -> Result<Session, SourceError> {
        let (session, notes) =
            self.opened().map_err(|reason| SourceError::Device { name: self.keys.device.clone(), reason })?;
        if notes != self.said {
            notes.iter().for_each(|note| tracing::warn!(source = self.keys.device, "{note}"));
            self.said = notes;
        }
        self.had_buffer = matches!(session, Session::Buffer(_));
        self.off_since = None;
        Ok(session)
    }

    /// Returns the open device, and what there is to say of it.
    fn opened(&mut self) -> Result<(Session, Vec<String>), String> {
        let device = match self.keys.find(&self.sysfs) {
            Ok(device) => device,
            Err(error) => {
                // When it comes back, the udev rule has its time once more.
                self.off_since = None;
                return Err(error.reason());
            }
        };
        let plan = self.keys.plan(&device)?;
        let mut notes = plan.notes.clone();
        let reason = match self.keys.mode {
            Mode::Poll => None,
            Mode::Auto | Mode::Buffer => match self.buffer(&device, &plan, &mut notes) {
                Ok(reader) => return Ok((Session::Buffer(Box::new(reader)), notes)),
                Err(reason) if self.keys.mode == Mode::Buffer => return Err(reason),
                // The udev rule takes a moment to set up what was just plugged in.
                Err(reason)
                    if self.had_buffer && self.off_since.get_or_insert_with(Instant::now).elapsed() < SET_UP_WAIT =>
                {
                    return Err(reason);
                }
                Err(reason) => Some(reason),
            },
        };
        let channels: Vec<&str> = plan.channels();
        if let Some((path, rate)) = channels.iter().find_map(|channel| setup::rate(&device, channel))
            && rate > 0.0
            && rate < self.keys.rate_hz * (1.0 - setup::RATE_TOLERANCE)
            && let Err(error) = setup::set_rate(&device, &channels, self.keys.rate_hz)
        {
            notes.push(format!("{} is {rate}, so some values are read twice: {error}", path.display()));
        }
        let is_auto = reason.is_some();
        notes.extend(reason.map(|reason| format!("{}: polled, one number at a time: {reason}", device.name)));
        let size = (self.keys.rate_hz, self.keys.channels.len());
        Ok((Session::Poll(PollReader::open(&device, plan, size, is_auto)?), notes))
    }

    fn buffer(&self, device: &Device, plan: &Plan, notes: &mut Vec<String>) -> Result<BufferReader, String> {
        let wanted = self.keys.buffer_for(plan);
        let node = self.dev.join(&device.node);
        let file = match setup::state(device, &wanted) {
            BufferState::Impossible(reason) => return Err(reason),
            BufferState::On => buffer::open(&node)?,
            BufferState::Off(reason) if !can_set_up(device) => return Err(format!("{reason}; {}", survey::SET_UP)),
            BufferState::Off(_) => {
                let file = buffer::open(&node)?;
                let configfs = self.sysfs.join("kernel/config");
                notes.extend(setup::switch_on(device, &wanted, &configfs).map_err(|error| error.to_string())?);
                file
            }
        };
        for channel in &wanted.channels {
            let Some((path, rate)) = setup::rate(device, channel) else { continue };
            if rate > 0.0 && !is_same_rate(rate, self.keys.rate_hz) {
                notes.push(format!("{} is {rate}, and rate_hz is {}", path.display(), self.keys.rate_hz));
                break;
            }
        }
        let length = text(&device.folder.join("buffer/length")).and_then(|text| text.parse().ok());
        let settings = buffer::Settings {
            name: format!("{} ({})", device.name, device.node),
            rate_hz: self.keys.rate_hz,
            width: self.keys.channels.len(),
            watermark: wanted.watermark,
            length: length.unwrap_or(wanted.length),
        };
        BufferReader::new(file, &setup::layout(device)?, plan.clone(), settings)
    }
}

/// Returns whether this program may set a buffer up, and no other program uses it: a buffer is never switched off here.
fn can_set_up(device: &Device) -> bool {
    setup::may(device) && text(&device.folder.join("buffer/enable")).as_deref() == Some("0")
}

impl FrameProducer for IioSource {
    fn run(mut self: Box<Self>, sink: &mut FrameSink) -> Result<(), SourceError> {
        let name = self.keys.device.clone();
        let read = |session: &mut Session, sink: &mut FrameSink| -> Result<ControlFlow<()>, SourceError> {
            match session {
                Session::Buffer(reader) => reader.read(sink),
                Session::Poll(reader) => reader.read(sink),
            }
        };
        keep_open(sink, &name, DEVICE_RETRY, false, || self.session(), read)
    }
}

#[cfg(test)]
mod tests;
