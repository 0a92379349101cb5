//! What this machine is, for people who compare results.

use std::path::Path;

use nix::sys::sysinfo::sysinfo;
use nix::sys::utsname::uname;

use super::report::Machine;
use crate::sys::folder::text;

/// Returns what the machine says of itself. It holds no name or number of this one specimen.
pub fn this() -> Machine {
    let name = uname().ok();
    let of = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    Machine {
        model: board().or_else(computer),
        processor: text(Path::new("/proc/cpuinfo")).and_then(|cpuinfo| processor(&cpuinfo)),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: sysinfo().ok().map(|info| info.ram_total() >> 20),
        kernel: of(name.as_ref().map(|name| name.release())),
        architecture: of(name.as_ref().map(|name| name.machine())),
    }
}

/// Returns the board's name from the device tree.
fn board() -> Option<String> {
    let model = text(Path::new("/proc/device-tree/model"))?;
    Some(model.trim_end_matches('\0').to_owned())
}

/// Returns the computer's name from its firmware.
fn computer() -> Option<String> {
    let dmi = |file: &str| text(&Path::new("/sys/class/dmi/id").join(file));
    let (vendor, product) = (dmi("sys_vendor")?, dmi("product_name")?);
    Some(if product.starts_with(&vendor) { product } else { format!("{vendor} {product}") })
}

/// Returns the processor's name from `/proc/cpuinfo`: x86 has `model name`; Arm has only numbers, which are left out.
fn processor(cpuinfo: &str) -> Option<String> {
    let value = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    value("model name").or_else(|| value("Model"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_named_as_they_name_themselves() {
        assert_eq!(processor("processor\t: 0\nmodel name\t: Some CPU @ 2.50GHz\n").unwrap(), "Some CPU @ 2.50GHz");
        assert_eq!(processor("processor : 0\nModel : Raspberry Pi 4\n").unwrap(), "Raspberry Pi 4");
        assert_eq!(processor("processor : 0\nCPU part : 0xd08\n"), None);
        let machine = this();
        assert!(machine.processors > 0 && !machine.kernel.is_empty(), "{machine:?}");
    }
}
