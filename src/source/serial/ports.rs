//! The serial ports of a machine, and the names of them that stay the same.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sys::Machine;
use crate::sys::folder::{names, text};

/// Ports of boards and adapters. A PC has many `ttyS` that are not connected, so those must show their type.
const KINDS: [&str; 6] = ["ttyUSB", "ttyACM", "ttyAMA", "ttyS", "ttymxc", "rfcomm"];

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Such as `ttyUSB0`.
    pub name: String,
    /// A path below `/dev/serial` that leads to the same adapter after each start, if it has one.
    pub stable: Option<PathBuf>,
}

/// Returns the serial ports of the machine.
pub fn ports(machine: &Machine<'_>) -> Vec<Port> {
    let is_port = |name: &String| {
        let kind = KINDS.into_iter().find(|kind| {
            name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        });
        // The kernel's `PORT_UNKNOWN` is 0: an address at which no port was found.
        let known = || text(&machine.sysfs.join("class/tty").join(name).join("type")).is_some_and(|kind| kind != "0");
        kind.is_some_and(|kind| kind != "ttyS" || known())
    };
    let port = |name: String| Port { stable: stable(machine, &name), name };
    names(machine.dev).into_iter().filter(is_port).map(port).collect()
}

/// Returns the path of a port that stays the same: by the adapter's serial number, else by where it is plugged in.
pub(super) fn stable(machine: &Machine<'_>, port: &str) -> Option<PathBuf> {
    let leads_there =
        |link: &PathBuf| fs::read_link(link).is_ok_and(|to| to.file_name().is_some_and(|name| *name == *port));
    ["serial/by-id", "serial/by-path"].into_iter().find_map(|folder| {
        let folder = machine.dev.join(folder);
        names(&folder).into_iter().map(|name| folder.join(name)).find(leads_there)
    })
}

/// Returns in words which ports there are, for who has named another one.
pub(super) fn that_exist(machine: &Machine<'_>) -> String {
    let paths: Vec<String> = ports(machine)
        .into_iter()
        .map(|port| port.stable.unwrap_or_else(|| machine.dev.join(port.name)).display().to_string())
        .collect();
    match paths.as_slice() {
        [] => "plug it in; no serial port is there".to_owned(),
        [only] => format!("plug it in, or name the port that is there: {only}"),
        _ => format!("plug it in, or name one of the ports that are there: {}", paths.join(", ")),
    }
}

/// Returns where the machine has a path below `/dev`.
pub(super) fn on(machine: &Machine<'_>, path: &Path) -> PathBuf {
    path.strip_prefix("/dev").map_or_else(|_| path.to_owned(), |below| machine.dev.join(below))
}
