//! Sets up the buffer of an IIO device, which needs the right to write in sysfs; and finds out whether that is done.
//!
//! Only `edgewatt setup-sensors` ever switches a buffer off: with some drivers that write hangs, and no signal ends it.
//! Source: `Documentation/iio/iio_devbuf.rst`; the order of the writes is what `industrialio-buffer.c` accepts.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, eaccess};

use super::plan::find;
use super::scan::{Element, ScanLayout};
use crate::sys::folder::{names, text};
use crate::sys::iio::{Device, triggers};

/// The name of the time among the elements of a record.
pub(super) const TIME: &str = "timestamp";
/// The clocks that a time may come from, the best first.
const CLOCKS: [&str; 2] = ["monotonic", "boottime"];
/// Two rates that differ by less are the same.
pub(super) const RATE_TOLERANCE: f64 = 0.05;
/// The kernel shows a trigger soon after it was made.
const TRIGGER_WAIT: (u32, Duration) = (20, Duration::from_millis(50));

/// What the buffer of a device is to give.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted<'a> {
    pub(super) channels: Vec<&'a str>,
    pub(super) rate_hz: f64,
    pub(super) trigger: Option<&'a str>,
    /// A reader is woken for so many samples.
    pub(super) watermark: usize,
    /// The samples that the kernel keeps.
    pub(super) length: usize,
}

/// Whether a buffer can be read as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BufferState {
    /// The device has none, or none that could work.
    Impossible(String),
    /// It must be set up first.
    Off(String),
    On,
}

/// Returns the state of a device's buffer, for these channels.
pub(super) fn state(device: &Device, wanted: &Wanted<'_>) -> BufferState {
    let folder = &device.folder;
    let Some(enable) = text(&folder.join("buffer/enable")) else {
        return BufferState::Impossible("its driver has no buffer".into());
    };
    let element = |channel: &str| folder.join(format!("scan_elements/in_{channel}_en"));
    if let Some(missing) = wanted.channels.iter().find(|channel| !element(channel).exists()) {
        return BufferState::Impossible(format!("its buffer does not hold {missing}"));
    }
    if enable != "1" {
        return match needs_trigger(device) && wanted.trigger.is_none() && device.own_triggers().is_empty() {
            true => BufferState::Impossible(NO_TRIGGER.into()),
            false => BufferState::Off("its buffer is off".into()),
        };
    }
    let without = wanted.channels.iter().find(|channel| text(&element(channel)).as_deref() != Some("1"));
    match without {
        Some(channel) => BufferState::Off(format!("its buffer is on without {channel}")),
        None => BufferState::On,
    }
}

const NO_TRIGGER: &str = "it has no trigger: name one by `trigger`; with the kernel's module iio-trig-hrtimer, \
                          `edgewatt setup-sensors` makes one of any name";

/// Returns whether a device with a buffer waits for a trigger that is not set.
fn needs_trigger(device: &Device) -> bool {
    trigger(device).is_some_and(|name| name.is_empty())
}

/// Returns the name of the trigger that is set, empty if none is; `None` if the device needs none.
pub(super) fn trigger(device: &Device) -> Option<String> {
    let path = device.folder.join("trigger/current_trigger");
    path.exists().then(|| text(&path).unwrap_or_default())
}

/// Returns whether this program may set the buffer up.
pub(super) fn may(device: &Device) -> bool {
    eaccess(&device.folder.join("buffer/enable"), AccessFlags::W_OK).is_ok()
}

/// Returns the layout of the records of a device's buffer, as its switched-on elements make it.
///
/// # Errors
/// The description of an element cannot be read; says which.
pub(super) fn layout(device: &Device) -> Result<ScanLayout, String> {
    let folder = device.folder.join("scan_elements");
    let mut elements = Vec::new();
    for file in names(&folder) {
        let Some(stem) = file.strip_suffix("_en") else { continue };
        if text(&folder.join(&file)).as_deref() != Some("1") {
            continue;
        }
        let read = |what: &str| {
            let path = folder.join(format!("{stem}_{what}"));
            text(&path).ok_or_else(|| format!("{} cannot be read", path.display()))
        };
        let index = read("index")?.parse().map_err(|_| format!("{stem}_index is not a number"))?;
        let channel = stem.strip_prefix("in_").unwrap_or(stem).to_owned();
        elements.push(Element { channel, index, kind: read("type")?.parse()? });
    }
    Ok(ScanLayout::new(elements))
}

/// Returns the rate that the device, or its trigger, says for a channel; some say 0 until one is set.
pub(super) fn rate(device: &Device, channel: &str) -> Option<(PathBuf, f64)> {
    let of = |path: PathBuf| {
        let rate = text(&path)?.parse::<f64>().ok().filter(|rate| *rate >= 0.0)?;
        Some((path, rate))
    };
    let current = trigger(device).unwrap_or_default();
    let triggers = triggers(device.folder.parent().unwrap_or(Path::new("")));
    let is_set = |folder: &PathBuf| !current.is_empty() && text(&folder.join("name")).as_deref() == Some(&*current);
    let of_trigger = triggers.into_iter().find(is_set).map(|folder| folder.join("sampling_frequency"));
    of_trigger.and_then(of).or_else(|| of(find(device, channel, "sampling_frequency")?))
}

/// Sets the rate of the device for these channels where it has one. Returns what there is to say.
///
/// # Errors
/// A rate cannot be written.
pub(super) fn set_rate(device: &Device, channels: &[&str], rate_hz: f64) -> io::Result<Vec<String>> {
    let mut notes = Vec::new();
    for channel in channels {
        let Some((path, rate)) = rate(device, channel) else { continue };
        if is_same_rate(rate, rate_hz) {
            continue;
        }
        let nearest = nearest_rate(&path, rate_hz).unwrap_or(rate_hz);
        write(&path, &format!("{nearest}"))?;
        let now = self::rate(device, channel).map_or(nearest, |(_, rate)| rate);
        if !is_same_rate(now, rate_hz) {
            let note = format!("{} is {now}, the nearest to {rate_hz} that it takes", path.display());
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    Ok(notes)
}

pub(super) fn is_same_rate(a: f64, b: f64) -> bool {
    (a - b).abs() <= RATE_TOLERANCE * b.abs()
}

/// Returns the rate in the list of those that a device takes which is the nearest; `None` if there is no list.
fn nearest_rate(path: &Path, rate_hz: f64) -> Option<f64> {
    let list = text(&path.with_file_name(format!("{}_available", path.file_name()?.to_string_lossy())))?;
    let distance = |rate: &f64| (rate - rate_hz).abs();
    // A range in brackets is not a list.
    let rates = list.split_whitespace().map(str::parse::<f64>).collect::<Result<Vec<_>, _>>().ok()?;
    rates.into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))
}

/// Sets the buffer of a device up and switches it on, unless it is as wanted. `root` is the root of the kernel's file
/// system for settings, in which triggers are made. Returns what there is to say.
///
/// # Errors
/// What could not be written, and why.
pub(super) fn switch_on(device: &Device, wanted: &Wanted<'_>, configfs: &Path) -> io::Result<Vec<String>> {
    let folder = &device.folder;
    if is_as_wanted(device, wanted) {
        return Ok(vec!["its buffer is on already".into()]);
    }
    switch_off(device)?;
    set_trigger(device, wanted, configfs)?;
    let mut notes = set_rate(device, &wanted.channels, wanted.rate_hz)?;
    for file in names(&folder.join("scan_elements")) {
        let Some(channel) = file.strip_prefix("in_").and_then(|file| file.strip_suffix("_en")) else { continue };
        let is_wanted = channel == TIME || wanted.channels.contains(&channel);
        set(&folder.join("scan_elements").join(&file), if is_wanted { "1" } else { "0" })?;
    }
    let clock = folder.join("current_timestamp_clock");
    if clock.exists() && !CLOCKS.iter().any(|clock| set(&folder.join("current_timestamp_clock"), clock).is_ok()) {
        notes.push("its times are of the wall clock: when that is set, the stream has a gap".into());
    }
    let watermark = folder.join("buffer/watermark");
    if watermark.exists() {
        // The length cannot be below it.
        set(&watermark, "1")?;
    }
    set(&folder.join("buffer/length"), &wanted.length.to_string())?;
    if watermark.exists() {
        set(&watermark, &wanted.watermark.to_string())?;
    }
    set(&folder.join("buffer/enable"), "1")?;
    Ok(notes)
}

/// Switches the buffer off. With some drivers this can hang, so that nothing ends this thread.
///
/// # Errors
/// It cannot be written.
pub(super) fn switch_off(device: &Device) -> io::Result<()> {
    set(&device.folder.join("buffer/enable"), "0")
}

pub(super) fn is_as_wanted(device: &Device, wanted: &Wanted<'_>) -> bool {
    let Ok(layout) = layout(device) else { return false };
    let channels = layout.channels();
    let has_all = channels.iter().all(|channel| *channel == TIME || wanted.channels.contains(channel));
    let rate_fits = |channel: &&str| {
        rate(device, channel).is_none_or(|(path, rate)| {
            is_same_rate(rate, wanted.rate_hz)
                || nearest_rate(&path, wanted.rate_hz).is_some_and(|near| is_same_rate(near, rate))
        })
    };
    let number = |file: &str| text(&device.folder.join(file)).and_then(|text| text.parse::<usize>().ok());
    state(device, wanted) == BufferState::On
        && has_all
        && wanted.channels.iter().all(rate_fits)
        && number("buffer/watermark").is_none_or(|now| now == wanted.watermark)
        && number("buffer/length").is_none_or(|now| now >= wanted.length)
        && wanted.trigger.is_none_or(|name| trigger(device).as_deref() == Some(name))
}

fn set_trigger(device: &Device, wanted: &Wanted<'_>, configfs: &Path) -> io::Result<()> {
    let Some(current) = trigger(device) else { return Ok(()) };
    let of_name = |name: &str| {
        let all = triggers(device.folder.parent().unwrap_or(Path::new("")));
        all.into_iter().find(|folder| text(&folder.join("name")).as_deref() == Some(name))
    };
    let name = match wanted.trigger {
        Some(name) => name.to_owned(),
        None if !current.is_empty() => return Ok(()),
        None => {
            let own = device.own_triggers();
            own.first().and_then(|folder| text(&folder.join("name"))).ok_or_else(|| io::Error::other(NO_TRIGGER))?
        }
    };
    if of_name(&name).is_none() {
        make_trigger(&name, configfs, || of_name(&name).is_some())?;
    }
    if let Some(folder) = of_name(&name).filter(|folder| folder.join("sampling_frequency").exists()) {
        write(&folder.join("sampling_frequency"), &wanted.rate_hz.to_string())?;
    }
    set(&device.folder.join("trigger/current_trigger"), &name).map_err(|error| {
        let own = device.own_triggers().first().and_then(|folder| text(&folder.join("name")));
        let own = own.map_or_else(|| "leave `trigger` out".into(), |own| format!("its own trigger is {own}"));
        io::Error::new(error.kind(), format!("{error}; many drivers take only their own trigger: {own}"))
    })
}

/// Makes a trigger of the kernel's timers.
fn make_trigger(name: &str, configfs: &Path, is_there: impl Fn() -> bool) -> io::Result<()> {
    let kind = configfs.join("iio/triggers/hrtimer");
    if !kind.exists() {
        let message = format!(
            "there is no trigger {name}, and none can be made: run sudo modprobe iio-trig-hrtimer (Raspberry Pi OS has it, \
             Debian's kernel does not), or leave `trigger` out for the device's own"
        );
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let folder = kind.join(name);
    fs::create_dir(&folder)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot make {}: {error}", folder.display())))?;
    let (tries, pause) = TRIGGER_WAIT;
    for _ in 0..tries {
        if is_there() {
            return Ok(());
        }
        std::thread::sleep(pause);
    }
    Err(io::Error::other(format!("{} was made, but no trigger came of it", folder.display())))
}

/// Writes `value` unless the file holds it.
fn set(path: &Path, value: &str) -> io::Result<()> {
    if text(path).as_deref() == Some(value) { Ok(()) } else { write(path, value) }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    let written =
        OpenOptions::new().write(true).truncate(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written
        .map_err(|error| io::Error::new(error.kind(), format!("cannot write {value} into {}: {error}", path.display())))
}
