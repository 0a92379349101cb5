//! Accelerators: their devices, and the libraries that the configuration names for them. No library is loaded: vendors'
//! libraries have been seen to end the process.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::devices::{names, text};
use super::{Finding, Part, Roots, State, node};
use crate::config::{Config, DelegateKind};
use crate::engine::edge_tpu;

const EDGE_TPU_LIBRARY: &str = "libedgetpu.so.1";
const EDGE_TPU_MEND: &str = "install libedgetpu1-std of Coral's packages, or a build for the runtime's version from \
                             github.com/feranick/libedgetpu; docs/coral.md says which";
/// USB ids of the Edge TPU: before its firmware is loaded, and after.
const EDGE_TPU_USB: [(&str, &str, &str); 2] =
    [("1a6e", "089a", "its firmware not loaded yet"), ("18d1", "9302", "its firmware loaded")];
const EDGE_TPU_PCI: (&str, &str) = ("0x1ac1", "0x089a");
const EDGE_TPU_USB_RULE: &str = "SUBSYSTEM==\"usb\", ATTRS{idVendor}==\"1a6e\", ATTRS{idProduct}==\"089a\", \
     MODE=\"0660\", GROUP=\"plugdev\" and a second line with ATTRS{idVendor}==\"18d1\", ATTRS{idProduct}==\"9302\"";
const APEX_RULE: &str = "SUBSYSTEM==\"apex\", MODE=\"0660\", GROUP=\"apex\"; run first: groupadd --system apex";
/// Device files of other accelerators, with what they are; see docs/delegates.md.
const OTHERS: [(&str, &str); 4] = [
    ("galcore", "VeriSilicon NPU or GPU"),
    ("ethosu0", "Arm Ethos-U"),
    ("mali0", "Arm Mali GPU"),
    ("dri/renderD128", "GPU"),
];

pub(crate) fn examine(roots: &Roots, config: Option<&Config>) -> Vec<Finding> {
    let configured = config.map(libraries).unwrap_or_default();
    let wants_tpu = configured.iter().any(|(_, library)| edge_tpu::is_library(library));
    let (usb, pcie) = (edge_tpu_usb(roots), edge_tpu_pcie(roots));
    let has_tpu = usb.is_some() || pcie.is_some();
    let mut findings: Vec<Finding> = usb.into_iter().chain(pcie).collect();
    if !has_tpu {
        let (state, mend) = (
            if wants_tpu { State::Broken } else { State::Absent },
            "plug it in: lsusb shows 1a6e:089a \
            or 18d1:9302, lspci -nn shows 1ac1:089a; a USB one that vanishes lacks current: use a powered hub",
        );
        findings.push(Finding::new(Part::Delegates, state, "Edge TPU", "none on USB or PCIe").mend(mend));
    }
    if !wants_tpu {
        findings.push(match find_library(Path::new(EDGE_TPU_LIBRARY)) {
            Some(path) => Finding::new(Part::Delegates, State::Ok, EDGE_TPU_LIBRARY, path.display().to_string()),
            None => {
                let state = if has_tpu { State::Broken } else { State::Absent };
                Finding::new(Part::Delegates, state, EDGE_TPU_LIBRARY, "not installed").mend(EDGE_TPU_MEND)
            }
        });
    }
    findings.extend(OTHERS.iter().filter_map(|(file, what)| {
        let (path, name) = (roots.dev.join(file), file.rsplit('/').next().unwrap_or(file));
        let rule = format!("KERNEL==\"{name}\", MODE=\"0660\", GROUP=\"video\"");
        path.exists().then(|| node::finding(Part::Delegates, (*what).into(), "there", &path, &rule))
    }));
    findings.extend(configured.iter().map(|(name, library)| configured_library(name, library)));
    findings
}

/// The libraries of delegates that pipelines ask for, each delegate once.
fn libraries(config: &Config) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for delegate in config.pipelines.iter().flat_map(|pipeline| &pipeline.delegates) {
        if let DelegateKind::External { library, .. } | DelegateKind::Litert { library, .. } = &delegate.kind
            && !found.iter().any(|(name, _)| *name == delegate.name)
        {
            found.push((delegate.name.clone(), library.clone()));
        }
    }
    found
}

fn configured_library(name: &str, library: &Path) -> Finding {
    let what = format!("delegates.{name}");
    match find_library(library) {
        Some(path) => Finding::new(Part::Delegates, State::Ok, what, path.display().to_string())
            .detail(vec![format!("whether it works: edgewatt inspect MODEL --delegate {name} -c FILE")]),
        None => {
            let broken = Finding::new(Part::Delegates, State::Broken, what, format!("no {}", library.display()));
            broken.mend(match edge_tpu::is_library(library) {
                true => EDGE_TPU_MEND.to_owned(),
                false => format!(
                    "install it, and run: ldconfig; or name its file in delegates.{name}; see docs/delegates.md"
                ),
            })
        }
    }
}

/// Where the dynamic linker would take a library from: a file, `LD_LIBRARY_PATH`, or ldconfig's cache.
fn find_library(library: &Path) -> Option<PathBuf> {
    if library.components().count() > 1 {
        return library.is_file().then(|| library.to_owned());
    }
    let folders = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let beside = std::env::split_paths(&folders).map(|folder| folder.join(library)).find(|path| path.is_file());
    beside.or_else(|| {
        // It is not in an ordinary user's search path.
        let listed = ["ldconfig", "/sbin/ldconfig"].into_iter().find_map(|command| list(command.as_ref()))?;
        let name = format!("{} (", library.display());
        let line = listed.lines().find(|line| line.trim_start().starts_with(&name))?;
        // The cache may be older than a removal.
        line.split_once(" => ").map(|(_, path)| PathBuf::from(path.trim())).filter(|path| path.is_file())
    })
}

fn list(ldconfig: &OsStr) -> Option<String> {
    let output = Command::new(ldconfig).arg("-p").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn edge_tpu_usb(roots: &Roots) -> Option<Finding> {
    let folder = roots.sysfs.join("bus/usb/devices");
    names(&folder).iter().find_map(|name| {
        let attribute = |file: &str| text(&folder.join(name).join(file));
        let (vendor, product) = (attribute("idVendor")?, attribute("idProduct")?);
        let (.., firmware) = EDGE_TPU_USB.into_iter().find(|(v, p, _)| *v == vendor && *p == product)?;
        let number = |file: &str| attribute(file)?.parse::<u32>().ok();
        let path = roots.dev.join(format!("bus/usb/{:03}/{:03}", number("busnum")?, number("devnum")?));
        let says = format!("{vendor}:{product}, {firmware}");
        let finding = node::finding(Part::Delegates, "Edge TPU on USB".into(), &says, &path, EDGE_TPU_USB_RULE);
        let slow = attribute("speed").filter(|mbit| mbit.parse::<f64>().is_ok_and(|mbit| mbit < 5000.0));
        let slow = slow.map(|mbit| format!("at {mbit} Mbit/s: a USB 3 port and cable carry ten times that"));
        Some(finding.detail(slow.into_iter().collect()))
    })
}

fn edge_tpu_pcie(roots: &Roots) -> Option<Finding> {
    let node = roots.dev.join("apex_0");
    if node.exists() {
        let what = "Edge TPU on PCIe".to_owned();
        return Some(node::finding(Part::Delegates, what, "its driver works", &node, APEX_RULE));
    }
    let folder = roots.sysfs.join("bus/pci/devices");
    let is_tpu = |name: &String| {
        let attribute = |file: &str| text(&folder.join(name).join(file));
        let (vendor, device) = EDGE_TPU_PCI;
        attribute("vendor").as_deref() == Some(vendor) && attribute("device").as_deref() == Some(device)
    };
    names(&folder).iter().find(|name| is_tpu(name)).map(|name| {
        let says = format!("{name} is there and has no driver: no {}", node.display());
        Finding::new(Part::Delegates, State::Broken, "Edge TPU on PCIe", says).mend(
            "run: modprobe apex; where there is no such module, build gasket for this kernel: \
             github.com/google/gasket-driver, or a fork that follows the kernel",
        )
    })
}
