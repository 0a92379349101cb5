//! What `doctor` and `check` say of an IIO device: its channels, its trigger, and whether its buffer can be read.

use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};

use super::poll::{BUFFER_IS_ON, PollReader};
use super::setup::{self, BufferState, Wanted};
use super::{Iio, Mode, NotFound, plan};
use crate::source::Survey;
use crate::source::polling::Missed;
use crate::sys::Machine;
use crate::sys::folder::text;
use crate::sys::iio::{Device, devices};

/// What sets a buffer up.
pub(super) const SET_UP: &str = "to set it up, run: sudo edgewatt setup-sensors -c FILE; for the service, install the \
                                 drop-in examples/iio.conf and the rule examples/iio.rules (docs/sources.md)";
/// The udev rule for the character devices.
const RULE: &str = "SUBSYSTEM==\"iio\", KERNEL==\"iio:device*\", GROUP=\"plugdev\", MODE=\"0660\"";
const DRIVER_FIX: &str = "load its driver or plug it in; on a Raspberry Pi: dtparam=i2c_arm=on and the chip's overlay, such \
                          as dtoverlay=i2c-sensor,mpu6050, in /boot/firmware/config.txt";

/// Examines the device of a configured source.
pub(super) fn survey(keys: &Iio, machine: &Machine<'_>) -> Survey {
    let device = match keys.find(machine.sysfs) {
        Ok(device) => device,
        Err(NotFound::Absent(reason)) => return Survey::absent(reason).fix(DRIVER_FIX),
        Err(NotFound::Several(reason)) => return Survey::broken(reason),
    };
    let what = format!("{} ({})", device.name, device.node);
    let plan = match keys.plan(&device) {
        Ok(plan) => plan,
        Err(reason) => return Survey::broken(reason),
    };
    let wanted = keys.buffer_for(&plan);
    let mut detail = details(&device);
    detail.extend(plan.notes.iter().cloned());
    let (state, is_on) = (setup::state(&device, &wanted), is_on(&device));
    let survey = match (keys.mode, obstacle(machine, &device, &state)) {
        (Mode::Auto | Mode::Buffer, None) => Survey::ready(format!("{what}: read from its buffer")),
        (Mode::Buffer, Some((reason, fix))) => with_fix(Survey::broken(format!("{what}: {reason}")), fix),
        (Mode::Auto, Some((reason, fix))) => match sample(keys, &device, plan.clone()) {
            Ok(()) => with_fix(Survey::ready(format!("{what}: polled, one number at a time, because {reason}")), fix),
            Err(why) => with_fix(Survey::broken(format!("{what}: {reason}; and it cannot be polled: {why}")), fix),
        },
        (Mode::Poll, _) => match sample(keys, &device, plan.clone()) {
            Ok(()) => Survey::ready(format!("{what}: polled, one number at a time")),
            Err(why) if is_on => Survey::broken(format!("{what}: {why}")).fix(BUFFER_IS_ON),
            Err(why) => Survey::broken(format!("{what}: {why}")),
        },
    };
    detail.extend(rate_note(keys, &device, &wanted));
    survey.detail(detail)
}

fn with_fix(survey: Survey, fix: Option<String>) -> Survey {
    match fix {
        Some(fix) => survey.fix(fix),
        None => survey,
    }
}

/// Returns why the buffer cannot be read, and what mends it.
fn obstacle(machine: &Machine<'_>, device: &Device, state: &BufferState) -> Option<(String, Option<String>)> {
    match state {
        BufferState::Impossible(reason) => return Some((reason.clone(), None)),
        BufferState::Off(reason) if !super::can_set_up(device) => return Some((reason.clone(), Some(SET_UP.into()))),
        BufferState::Off(_) | BufferState::On => {}
    }
    let node = machine.dev.join(&device.node);
    match eaccess(&node, AccessFlags::R_OK) {
        Ok(()) => None,
        Err(Errno::EACCES) => {
            let reason = format!("{} may not be read: permission denied", node.display());
            let fix = "run: sudo usermod -aG plugdev $USER, then log in again; the rule that gives it to that group, for \
                       /etc/udev/rules.d/70-edgewatt.rules, is: ";
            Some((reason, Some(format!("{fix}{RULE}"))))
        }
        Err(errno) => Some((format!("{}: {}", node.display(), errno.desc()), None)),
    }
}

/// Reads one sample, unless the driver refuses that.
fn sample(keys: &Iio, device: &Device, plan: plan::Plan) -> Result<(), String> {
    let width = keys.channels.len();
    let mut reader = PollReader::open(device, plan, (keys.rate_hz, width), false)?;
    reader.sample(&mut vec![0.0; width]).map_err(Missed::reason)
}

fn is_on(device: &Device) -> bool {
    text(&device.folder.join("buffer/enable")).as_deref() == Some("1")
}

/// Returns what to know about a device, one item each.
fn details(device: &Device) -> Vec<String> {
    let mut detail = vec![format!("channels: {}", plan::channels(device).join(" "))];
    let parent = device.parent().unwrap_or_default();
    detail.push(match &device.label {
        Some(label) => format!("parent {parent}, label {label}"),
        None => format!("parent {parent}"),
    });
    let folder = &device.folder;
    if let Some(enable) = text(&folder.join("buffer/enable")) {
        let trigger = match setup::trigger(device) {
            None => "needs no trigger".to_owned(),
            Some(name) if name.is_empty() => {
                let own = device.own_triggers();
                let own = own.iter().find_map(|folder| text(&folder.join("name")));
                own.map_or_else(|| "no trigger".to_owned(), |own| format!("no trigger yet, its own is {own}"))
            }
            Some(name) => format!("trigger {name}"),
        };
        let clock =
            text(&folder.join("current_timestamp_clock")).map_or(String::new(), |clock| format!(", clock {clock}"));
        detail.push(format!("buffer {}, {trigger}{clock}", if enable == "1" { "on" } else { "off" }));
    }
    detail
}

fn rate_note(keys: &Iio, device: &Device, wanted: &Wanted<'_>) -> Option<String> {
    let (path, rate) = wanted.channels.iter().find_map(|channel| setup::rate(device, channel))?;
    if rate == 0.0 || setup::is_same_rate(rate, keys.rate_hz) {
        return None;
    }
    Some(format!("{} is {rate} now, and rate_hz is {}", path.display(), keys.rate_hz))
}

/// The line of configuration for a chip without an accelerometer names so many of its channels.
const MOST_SHOWN: usize = 6;

/// A device that the machine has, for `doctor`.
pub(crate) struct Listed {
    pub(crate) node: String,
    pub(crate) name: String,
    pub(crate) says: String,
    pub(crate) detail: Vec<String>,
    /// All its channels, acceleration first.
    pub(crate) channels: Vec<String>,
    /// The line of configuration that reads it.
    pub(crate) config: Option<String>,
    /// Why it cannot be read.
    pub(crate) error: Option<String>,
}

/// Returns the devices that the machine has. Reads one value of each.
pub(crate) fn listed(sysfs: &Path) -> Vec<Listed> {
    let all = devices(sysfs);
    all.iter().map(|device| list(device, all.iter().filter(|other| other.name == device.name).count() == 1)).collect()
}

fn list(device: &Device, is_alone: bool) -> Listed {
    let channels = plan::channels(device);
    let (mut ordered, others): (Vec<String>, Vec<String>) =
        channels.iter().cloned().partition(|channel| channel.starts_with("accel_"));
    ordered.extend(others);
    let first = channels.iter().find_map(|channel| plan::raw_file(device, channel));
    let read = first.map(|file| {
        let path = device.folder.join(file);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    });
    let (says, error) = match read {
        _ if is_on(device) => ("its buffer is on".to_owned(), None),
        None if channels.is_empty() => ("it has no channel to be read".to_owned(), None),
        None => ("its channels are in its buffer only".to_owned(), None),
        Some(Ok(_)) => ("readable".to_owned(), None),
        Some(Err(error)) => (error.clone(), Some(error)),
    };
    let config = (!channels.is_empty() && error.is_none()).then(|| {
        let axes: Vec<&String> = channels.iter().filter(|channel| channel.starts_with("accel_")).collect();
        let chosen = if axes.is_empty() { channels.iter().take(MOST_SHOWN).collect() } else { axes };
        let names: Vec<String> = chosen.iter().map(|channel| format!("{channel:?}")).collect();
        let parent =
            device.parent().filter(|_| !is_alone).map_or(String::new(), |parent| format!("parent = {parent:?}, "));
        let rate = setup::rate(device, &channels[0]).map(|(_, rate)| rate).filter(|rate| *rate > 0.0).unwrap_or(10.0);
        format!(
            "source.iio = {{ device = {:?}, {parent}channels = [{}], rate_hz = {rate:?} }}",
            device.name,
            names.join(", ")
        )
    });
    Listed {
        node: device.node.clone(),
        name: device.name.clone(),
        says,
        detail: details(device),
        channels: ordered,
        config,
        error,
    }
}
