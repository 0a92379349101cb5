//! Sensors: IIO devices, chips in hwmon, serial ports, cameras and sound cards that the kernel shows.

use std::path::Path;

use super::{Finding, Part, Roots, State, node};
use crate::source::alsa::cards::{self, Card};
use crate::source::serial::ports::{Port, ports};
use crate::source::{hwmon, iio};
use crate::sys::Machine;
use crate::sys::folder::{names, text};
use crate::sys::hwmon::{Chip, chips};

/// Examines all kinds of sensors.
pub(crate) fn sensors(roots: &Roots) -> Vec<Finding> {
    let groups = [
        (
            iio(roots),
            "IIO devices",
            "on a Raspberry Pi: dtparam=i2c_arm=on and the chip's overlay, such as \
          dtoverlay=i2c-sensor,bme280, in /boot/firmware/config.txt; on other boards, for a chip at 0x76 of bus 1: echo bme280 \
          0x76 | sudo tee /sys/bus/i2c/devices/i2c-1/new_device",
        ),
        (
            hwmon(roots),
            "chips in hwmon",
            "load the driver of one, such as: sudo modprobe coretemp on an Intel processor, k10temp on AMD",
        ),
        (
            serial(roots),
            "serial ports",
            "plug an adapter in; for the pins of a Raspberry Pi: enable_uart=1 in \
          /boot/firmware/config.txt, and no console=serial0 in cmdline.txt in the same folder",
        ),
        (
            cameras(roots),
            "cameras",
            "plug one in; for the ribbon cable of a Raspberry Pi: camera_auto_detect=1 in \
          /boot/firmware/config.txt",
        ),
        (
            sound(roots),
            "sound cards",
            "plug a USB microphone in; for an I2S microphone on a Raspberry Pi: \
          dtoverlay=googlevoicehat-soundcard, or that of its board, in /boot/firmware/config.txt",
        ),
    ];
    let listed = |(found, what, fix): (Vec<Finding>, &str, &str)| match found.is_empty() {
        true => vec![Finding::new(Part::Sensors, State::Absent, what, "none").fix(fix)],
        false => found,
    };
    groups.into_iter().flat_map(listed).collect()
}

fn iio(roots: &Roots) -> Vec<Finding> {
    let device = |found: iio::Listed| {
        let what = format!("{} {}", found.node, found.name);
        let finding = match found.error {
            None => Finding::new(Part::Sensors, State::Ok, what, found.says),
            Some(error) => Finding::new(Part::Sensors, State::Broken, what, error)
                .fix(format!("check its wiring and supply, and run: dmesg | grep -i {}", found.node)),
        };
        Finding { config: found.config, ..finding.detail(found.detail) }
    };
    iio::listed(&roots.sysfs).into_iter().map(device).collect()
}

/// Examines the chips of hwmon that have something to read.
fn hwmon(roots: &Roots) -> Vec<Finding> {
    let all = chips(&roots.sysfs);
    let chip = |chip: &Chip| {
        let channels = hwmon::channels(chip);
        let (first, _) = channels.first()?;
        let is_alone = all.iter().filter(|other| other.name == chip.name).count() == 1;
        let device = chip.device.as_ref().filter(|_| !is_alone).map_or(String::new(), |device| format!("@{device}"));
        let config = format!("source.hwmon = {{ channels = [\"{}{device}/{first}\"], rate_hz = 1.0 }}", chip.name);
        let says = format!("has {}", hwmon::described(&channels));
        let finding = Finding::new(Part::Sensors, State::Ok, format!("{} {}", chip.node, chip.name), says);
        Some(Finding { config: Some(config), ..finding })
    };
    all.iter().filter_map(chip).collect()
}

fn serial(roots: &Roots) -> Vec<Finding> {
    let finding = |Port { name, stable, login }: Port| {
        let (what, path) = (format!("serial port {name}"), roots.dev.join(&name));
        if let Some(login) = login {
            return Finding::new(Part::Sensors, State::Absent, what, login.says()).fix(login.fix(&name));
        }
        let rule = format!("KERNEL==\"{name}\", GROUP=\"dialout\", MODE=\"0660\"");
        let found = node::finding(Part::Sensors, what, "there", &path, &rule);
        // The pins of a board have no other name, and are not moved.
        let port = stable.unwrap_or(path);
        Finding { config: Some(format!("source.serial.port = {:?}", port.display().to_string())), ..found }
    };
    ports(&Machine { sysfs: &roots.sysfs, dev: &roots.dev }, Path::new("/proc")).into_iter().map(finding).collect()
}

fn cameras(roots: &Roots) -> Vec<Finding> {
    let folder = roots.sysfs.join("class/video4linux");
    let video = names(&folder).into_iter().filter(|name| name.starts_with("video"));
    let camera = |name: String| {
        let says = text(&folder.join(&name).join("name")).unwrap_or_else(|| "there".into());
        let rule = "SUBSYSTEM==\"video4linux\", GROUP=\"video\", MODE=\"0660\"";
        node::finding(Part::Sensors, format!("camera {name}"), &says, &roots.dev.join(&name), rule)
    };
    video.map(camera).collect()
}

/// Examines the sound cards that can record.
fn sound(roots: &Roots) -> Vec<Finding> {
    let cards = cards::recording(&Machine { sysfs: &roots.sysfs, dev: &roots.dev });
    let devices = cards.iter().flat_map(|card| card.devices.iter().map(move |device| (card, *device)));
    let finding = |(card, device): (&Card, u32)| {
        let name = if device == 0 { card.id.clone() } else { format!("hw:CARD={},DEV={device}", card.id) };
        let (what, node) = (format!("sound card {}", card.number), card.node(&roots.dev, device));
        let found = node::finding(Part::Sensors, what, &card.describe(), &node, cards::RULE);
        Finding { config: Some(format!("source.alsa = {{ card = \"{name}\", rate_hz = 16000 }}")), ..found }
    };
    devices.map(finding).collect()
}
