//! IIO devices as the kernel shows them in `bus/iio/devices`: what each is called, and what it belongs to.

use std::path::{Path, PathBuf};

use super::folder::{names, text};

/// One device of the kernel's industrial I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub folder: PathBuf,
    /// Such as `iio:device0`; another one after each loss.
    pub node: String,
    /// What the driver calls the chip.
    pub name: String,
    /// What the device tree calls it.
    pub label: Option<String>,
    /// The folder of the device that it belongs to, without symbolic links.
    parents: PathBuf,
}

impl Device {
    /// Returns the device of that folder, which is one of `bus/iio/devices`, unless it has no name.
    pub fn at(folder: &Path) -> Option<Self> {
        let real = std::fs::canonicalize(folder).ok()?;
        Some(Self {
            node: folder.file_name()?.to_string_lossy().into_owned(),
            name: text(&folder.join("name"))?,
            label: text(&folder.join("label")),
            parents: real.parent()?.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// Returns the name of the device that it belongs to, such as `1-0068` for address 0x68 on I2C bus 1.
    pub fn parent(&self) -> Option<String> {
        Some(self.parents.file_name()?.to_string_lossy().into_owned())
    }

    /// Returns whether it belongs to the device of that name, which may have its parents before it: `i2c-1/1-0068`.
    pub fn is_below(&self, parent: &str) -> bool {
        self.parents.ends_with(parent.trim_matches('/'))
    }

    /// Returns the folders of its own triggers, which belong to the same device.
    pub fn own_triggers(&self) -> Vec<PathBuf> {
        triggers(self.folder.parent().unwrap_or(Path::new("")))
            .into_iter()
            .filter(|folder| std::fs::canonicalize(folder).is_ok_and(|real| real.parent() == Some(&self.parents)))
            .collect()
    }
}

/// Returns all devices below the sysfs root `sysfs`, by number.
pub fn devices(sysfs: &Path) -> Vec<Device> {
    let folder = sysfs.join("bus/iio/devices");
    let devices = names(&folder).into_iter().filter(|name| name.starts_with("iio:device"));
    devices.filter_map(|name| Device::at(&folder.join(name))).collect()
}

/// Returns the folders of all triggers in `bus/iio/devices`, by number.
pub fn triggers(devices: &Path) -> Vec<PathBuf> {
    let triggers = names(devices).into_iter().filter(|name| name.starts_with("trigger"));
    triggers.map(|name| devices.join(name)).collect()
}
