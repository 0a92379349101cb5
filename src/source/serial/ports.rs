//! The serial ports of a machine, and the names of them that stay the same.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sys::Machine;
use crate::sys::folder::{names, text};
use crate::sys::holder::arguments;

/// Ports of boards and adapters. A PC has many `ttyS` that are not connected, so those must show their type.
const KINDS: [&str; 6] = ["ttyUSB", "ttyACM", "ttyAMA", "ttyS", "ttymxc", "rfcomm"];

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Such as `ttyUSB0`.
    pub name: String,
    /// A path below `/dev/serial` that leads to the same adapter after each start, if it has one.
    pub stable: Option<PathBuf>,
    /// For whom people log in over it, so that no sensor is there.
    pub login: Option<Login>,
}

/// What uses a port for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    Console,
    Getty,
}

impl Login {
    pub fn says(self) -> &'static str {
        match self {
            Self::Console => "the kernel's console uses it",
            Self::Getty => "a getty waits there for a login",
        }
    }

    /// Returns what frees the port for a sensor.
    pub fn fix(self, port: &str) -> String {
        match self {
            Self::Console => {
                format!("for a sensor there, remove console={port} from the kernel's command line, then restart")
            }
            Self::Getty => format!("for a sensor there, run: sudo systemctl disable --now serial-getty@{port}"),
        }
    }
}

/// Returns the serial ports of the machine; `proc` is normally `/proc`.
pub fn ports(machine: &Machine<'_>, proc: &Path) -> Vec<Port> {
    let is_port = |name: &String| {
        let is_of = |kind: &str| {
            name.strip_prefix(kind).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        };
        // The kernel's `PORT_UNKNOWN` is 0: an address at which no port was found.
        let kind = text(&machine.sysfs.join("class/tty").join(name).join("type"));
        let is_known = kind.map_or(!is_of("ttyS"), |kind| kind != "0");
        is_known && KINDS.into_iter().any(is_of)
    };
    // The names that `/proc/consoles` has, too.
    let consoles = text(&machine.sysfs.join("class/tty/console/active")).unwrap_or_default();
    let login = |name: &str| match consoles.split(' ').any(|console| console == name) {
        true => Some(Login::Console),
        false => arguments(proc, "getty")
            .iter()
            .any(|argument| argument.trim_start_matches("/dev/") == name)
            .then_some(Login::Getty),
    };
    let port = |name: String| Port { stable: stable(machine, &name), login: login(&name), name };
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
    let paths: Vec<String> = ports(machine, Path::new("/proc"))
        .into_iter()
        .filter(|port| port.login.is_none())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::tree::Tree;

    #[test]
    fn ports_over_which_people_log_in_and_those_that_are_not_there_are_told_apart() {
        let tree = Tree::new(&[
            ("sys/class/tty/console/active", "tty0 ttyS0\n"),
            ("sys/class/tty/ttyS0/type", "4\n"),
            ("sys/class/tty/ttyS1/type", "0\n"),
            ("sys/class/tty/ttyS2/type", "4\n"),
            ("sys/class/tty/ttyAMA1/type", "0\n"),
            ("proc/7/comm", "agetty\n"),
            ("proc/7/cmdline", "/sbin/agetty\0-o\0-p -- \\u\0--keep-baud\x00115200\0/dev/ttyS2\0-\0vt220\0"),
            ("proc/8/comm", "cat\n"),
            ("proc/8/cmdline", "cat\0ttyUSB0\0"),
        ]);
        let files = ["ttyS0", "ttyS1", "ttyS2", "ttyAMA0", "ttyAMA1", "ttyUSB0", "ttyUSBx", "tty1"];
        files.iter().for_each(|name| tree.write(&format!("dev/{name}"), ""));
        let machine = Machine { sysfs: &tree.path("sys"), dev: &tree.path("dev") };
        let found: Vec<_> =
            ports(&machine, &tree.path("proc")).into_iter().map(|port| (port.name, port.login)).collect();
        let expected =
            [("ttyAMA0", None), ("ttyS0", Some(Login::Console)), ("ttyS2", Some(Login::Getty)), ("ttyUSB0", None)];
        assert_eq!(found, expected.map(|(name, login)| (name.to_owned(), login)));
        let named = that_exist(&machine);
        assert!(named.contains("ttyUSB0") && !named.contains("ttyS0"), "{named}");
    }
}
