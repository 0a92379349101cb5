//! Sensors: IIO devices, serial ports, cameras and sound cards that the kernel shows.

use std::fs;

use super::{Finding, Part, Roots, State, node};
use crate::sys::folder::{names, text};

/// Ports of boards and adapters. A PC has many `ttyS` that are not connected, so those must show their type.
const SERIAL: [&str; 4] = ["ttyUSB", "ttyACM", "ttyAMA", "ttyS"];

/// Examines all kinds of sensors.
pub(crate) fn sensors(roots: &Roots) -> Vec<Finding> {
    let groups = [
        (
            iio(roots),
            "IIO devices",
            "on a Raspberry Pi: dtparam=i2c_arm=on and the chip's overlay, such as \
          dtoverlay=i2c-sensor,bme280, in /boot/firmware/config.txt; on other boards, for a chip at 0x76 of bus 1: echo bme280 \
          0x76 > /sys/bus/i2c/devices/i2c-1/new_device",
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
    let folder = roots.sysfs.join("bus/iio/devices");
    let devices = names(&folder).into_iter().filter(|name| name.starts_with("iio:device"));
    let device = |name: String| {
        let device = folder.join(&name);
        let what = format!("{name} {}", text(&device.join("name")).unwrap_or_default());
        let channels: Vec<String> = names(&device)
            .into_iter()
            .filter(|file| file.starts_with("in_") && (file.ends_with("_raw") || file.ends_with("_input")))
            .collect();
        let Some(first) = channels.first() else {
            return Finding::new(
                Part::Sensors,
                State::Ok,
                what.trim_end(),
                "it has no channel that can be read one value at a time",
            );
        };
        match fs::read_to_string(device.join(first)) {
            Ok(_) => {
                Finding::new(Part::Sensors, State::Ok, what.trim_end(), "readable").detail(vec![channels.join(" ")])
            }
            Err(error) => {
                let path = device.join(first);
                Finding::new(Part::Sensors, State::Broken, what.trim_end(), format!("{}: {error}", path.display()))
                    .fix(format!("check its wiring and supply, and run: dmesg | grep -i {name}"))
            }
        }
    };
    devices.map(device).collect()
}

fn serial(roots: &Roots) -> Vec<Finding> {
    let is_port = |name: &String| {
        let kind = SERIAL.into_iter().find(|kind| {
            name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        });
        // The kernel's `PORT_UNKNOWN` is 0: an address at which no port was found.
        let known = || text(&roots.sysfs.join("class/tty").join(name).join("type")).is_some_and(|kind| kind != "0");
        kind.is_some_and(|kind| kind != "ttyS" || known())
    };
    let console = text(&roots.sysfs.join("class/tty/console/active")).unwrap_or_default();
    let by_id = roots.dev.join("serial/by-id");
    let port = |name: String| {
        let path = roots.dev.join(&name);
        let rule = format!("KERNEL==\"{name}\", GROUP=\"dialout\", MODE=\"0660\"");
        let mut finding = node::finding(Part::Sensors, format!("serial port {name}"), "there", &path, &rule);
        let stable = names(&by_id)
            .into_iter()
            .find(|id| fs::read_link(by_id.join(id)).is_ok_and(|to| to.file_name().is_some_and(|file| *file == *name)));
        finding.detail.extend(stable.map(|id| format!("stable name: {}", by_id.join(id).display())));
        if console.split(' ').any(|active| active == name) {
            finding
                .detail
                .push("the kernel's console uses it; remove its console= from the kernel's command line".into());
        }
        finding
    };
    names(&roots.dev).into_iter().filter(is_port).map(port).collect()
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
    let folder = roots.sysfs.join("class/sound");
    let capture = names(&folder).into_iter().filter(|name| name.starts_with("pcmC") && name.ends_with('c'));
    let card = |pcm: String| {
        let number = pcm.trim_start_matches("pcmC").split('D').next().unwrap_or_default().to_owned();
        let says = text(&folder.join(format!("card{number}/id"))).unwrap_or_else(|| "there".into());
        let rule = "SUBSYSTEM==\"sound\", GROUP=\"audio\", MODE=\"0660\"";
        node::finding(Part::Sensors, format!("sound card {number}"), &says, &roots.dev.join("snd").join(&pcm), rule)
    };
    capture.map(card).collect()
}
