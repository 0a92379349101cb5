//! Chips as the kernel shows them in `class/hwmon`: what each is called, and what it belongs to.

use std::path::{Path, PathBuf};

use super::folder::{names, text};

/// One chip of hardware monitoring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chip {
    pub folder: PathBuf,
    /// Such as `hwmon0`; another one after each loss or start.
    pub node: String,
    /// What the driver calls the chip.
    pub name: String,
    /// The device that it belongs to, such as `1-0040` for address 0x40 on I2C bus 1.
    pub device: Option<String>,
}

impl Chip {
    /// Returns the chip of that folder, which is one of `class/hwmon`, unless it has no name.
    pub fn at(folder: &Path) -> Option<Self> {
        let target = std::fs::read_link(folder.join("device")).ok();
        Some(Self {
            node: folder.file_name()?.to_string_lossy().into_owned(),
            name: text(&folder.join("name"))?,
            device: target.and_then(|target| Some(target.file_name()?.to_string_lossy().into_owned())),
            folder: folder.to_owned(),
        })
    }

    /// Returns it in words: `coretemp (coretemp.0, hwmon3)`.
    pub fn describe(&self) -> String {
        format!("{} ({}, {})", self.name, self.device.as_deref().unwrap_or("no device"), self.node)
    }
}

/// Returns all chips below the sysfs root `sysfs`, by number.
pub fn chips(sysfs: &Path) -> Vec<Chip> {
    let class = sysfs.join("class/hwmon");
    names(&class).into_iter().filter_map(|name| Chip::at(&class.join(name))).collect()
}
