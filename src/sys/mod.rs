//! Reads from the kernel: memory, temperature, processor time, an identity of this start. Also shared memory, serial ports and
//! real-time scheduling.

pub mod attribute;
pub mod child;
pub mod clock;
pub mod cpu;
pub mod file;
pub mod folder;
pub mod holder;
pub mod hwmon;
pub mod i2c;
pub mod iio;
pub mod output;
pub mod perf;
pub mod permission;
pub mod processor;
pub mod rt;
pub mod serial;
pub mod shared;
pub mod spi;
pub mod stderr;
pub(crate) mod symbols;
pub mod trouble;
pub mod tty;
pub mod vcio;

use std::path::{Path, PathBuf};

/// Where the kernel shows a machine's devices, and where their files are.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    pub sysfs: &'a Path,
    pub dev: &'a Path,
}

impl Machine<'static> {
    /// Returns the machine that this program runs on.
    pub fn this() -> Self {
        Self { sysfs: Path::new("/sys"), dev: Path::new("/dev") }
    }
}

/// Returns the resident memory in MiB; `None` if the kernel does not report it.
pub fn rss_mib() -> Option<f64> {
    status_mib("VmRSS:")
}

/// Returns the most resident memory that this process has had, in MiB; `None` if the kernel does not report it.
pub fn peak_memory_mib() -> Option<f64> {
    status_mib("VmHWM:")
}

fn status_mib(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// The thermal zone of the processor: the first zone whose type names a processor, else the first that can be read.
#[derive(Debug, Clone)]
pub struct SocTemperature {
    file: Option<PathBuf>,
}

impl SocTemperature {
    /// Finds the zone below `sysfs`, usually `/sys`.
    pub fn find(sysfs: &Path) -> Self {
        let zones = std::fs::read_dir(sysfs.join("class/thermal")).into_iter().flatten().flatten();
        let mut files: Vec<(bool, PathBuf)> = zones
            .filter(|zone| zone.file_name().to_string_lossy().starts_with("thermal_zone"))
            .filter_map(|zone| {
                let kind = std::fs::read_to_string(zone.path().join("type")).unwrap_or_default();
                let other = !["cpu", "soc", "x86_pkg_temp"].iter().any(|name| kind.contains(name));
                let file = zone.path().join("temp");
                read_millidegrees(&file).map(|_| (other, file))
            })
            .collect();
        files.sort();
        Self { file: files.into_iter().next().map(|(_, file)| file) }
    }

    /// Returns the temperature in degrees Celsius; `None` if there is no zone or it cannot be read now.
    pub fn read_c(&self) -> Option<f64> {
        read_millidegrees(self.file.as_deref()?)
    }
}

fn read_millidegrees(file: &Path) -> Option<f64> {
    let millidegrees: f64 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    Some(millidegrees / 1000.0)
}

/// Returns eight hex digits that differ at each start.
pub fn boot_id() -> std::io::Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.chars().take(8).collect())
}

/// Returns the host's name, unless it is empty or not UTF-8.
pub fn hostname() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_identity_are_there_on_linux() {
        assert!(rss_mib().is_some_and(|mib| mib > 0.1));
        let (a, b) = (boot_id().unwrap(), boot_id().unwrap());
        assert!(a.len() == 8 && a != b);
    }

    #[test]
    fn the_processors_zone_is_preferred_and_absence_is_no_number() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(SocTemperature::find(root.path()).read_c(), None);
        for (zone, kind, temp) in [("thermal_zone0", "acpitz", "20000"), ("thermal_zone1", "cpu-thermal", "51540")] {
            let dir = root.path().join("class/thermal").join(zone);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("type"), kind).unwrap();
            std::fs::write(dir.join("temp"), format!("{temp}\n")).unwrap();
        }
        assert_eq!(SocTemperature::find(root.path()).read_c(), Some(51.54));
    }
}
