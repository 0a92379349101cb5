//! The Coral Edge TPU: whether this machine has one, and the most common mistakes with it in its own terms.

use std::path::Path;

use super::delegate::survey::{Finding, Host, PLUGIN_FUNCTIONS, State, library};
use super::elf;
use crate::model::ModelSummary;
use crate::sys::folder::{names, text};

const LIBRARY: &str = "libedgetpu.so.1";
pub const LIBRARY_FIX: &str = "install libedgetpu1-std from Coral's packages, or a build for the runtime's version from \
                               github.com/feranick/libedgetpu; docs/coral.md says which";
/// USB ids: before the firmware is loaded, and after.
const USB: [(&str, &str, &str); 2] =
    [("1a6e", "089a", "its firmware not loaded yet"), ("18d1", "9302", "its firmware loaded")];
const PCI: (&str, &str) = ("0x1ac1", "0x089a");
const USB_RULE: &str = "SUBSYSTEM==\"usb\", ATTRS{idVendor}==\"1a6e\", ATTRS{idProduct}==\"089a\", \
     MODE=\"0660\", GROUP=\"plugdev\" and a second line with ATTRS{idVendor}==\"18d1\", ATTRS{idProduct}==\"9302\"";
const APEX_RULE: &str = "SUBSYSTEM==\"apex\", MODE=\"0660\", GROUP=\"apex\"; run first: sudo groupadd --system apex";
const DEVICE_FIX: &str = "plug it in: lsusb shows 1a6e:089a or 18d1:9302, lspci -nn shows 1ac1:089a; a USB one that \
     disappears needs more current: use a powered hub";

/// The single operator with which `edgetpu_compiler` replaces all those that the TPU runs.
const OPERATOR: &str = "edgetpu-custom-op";

pub const COMPILED_WITHOUT_DELEGATE: &str = "it was compiled for the Edge TPU (its operator `edgetpu-custom-op`), and \
     nothing else can run it; give it a delegate with external = { library = \"libedgetpu.so.1\" }, or run the model from \
     which it was compiled";

/// Returns whether the model was compiled for the Edge TPU.
pub fn is_compiled(summary: &ModelSummary) -> bool {
    std::iter::once(&summary.main)
        .chain(&summary.other_subgraphs)
        .any(|graph| graph.operators.iter().any(|op| op.custom && op.name == OPERATOR))
}

/// Returns whether that library is the Edge TPU's delegate.
pub fn is_library(library: &Path) -> bool {
    library.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libedgetpu"))
}

/// Returns why `library` created no delegate.
pub fn declined(library: &Path, reason: String) -> String {
    if !is_library(library) || !reason.starts_with("it declines") {
        return reason;
    }
    "it finds no Edge TPU that it may open; is one connected (`lsusb` shows 1a6e:089a or 18d1:9302, a PCIe card is \
     /dev/apex_0), is nothing else using it, and may this user open it? docs/delegates.md has the udev rule"
        .into()
}

/// Returns the likely mistake if the Edge TPU's delegate runs no node of a model.
pub fn idle(library: &Path, summary: &ModelSummary) -> Option<&'static str> {
    (is_library(library) && !is_compiled(summary)).then_some(
        "this model was not compiled for the Edge TPU, so all of it runs on the CPU; compile its int8 version with \
         edgetpu_compiler and use the file that ends in _edgetpu.tflite",
    )
}

/// Looks for the device and for its library.
pub fn survey(host: &Host<'_>) -> Vec<Finding> {
    let is_configured = host.libraries.iter().any(|library| is_library(library));
    let mut findings: Vec<Finding> = on_usb(host).into_iter().chain(on_pcie(host)).collect();
    let has_device = !findings.is_empty();
    let wanted = |is_wanted| if is_wanted { State::Broken } else { State::Absent };
    if !has_device {
        findings.push(Finding::new(wanted(is_configured), "Edge TPU", "none on USB or PCIe").fix(DEVICE_FIX));
    }
    if !is_configured {
        findings.push(match elf::find(Path::new(LIBRARY)) {
            Some(path) => library(LIBRARY, &path, &PLUGIN_FUNCTIONS),
            None => Finding::new(wanted(has_device), LIBRARY, "not installed").fix(LIBRARY_FIX),
        });
    }
    findings
}

fn on_usb(host: &Host<'_>) -> Option<Finding> {
    let folder = host.sysfs.join("bus/usb/devices");
    names(&folder).iter().find_map(|name| {
        let attribute = |file: &str| text(&folder.join(name).join(file));
        let (vendor, product) = (attribute("idVendor")?, attribute("idProduct")?);
        let (.., firmware) = USB.into_iter().find(|(v, p, _)| *v == vendor && *p == product)?;
        let number = |file: &str| attribute(file)?.parse::<u32>().ok();
        let path = host.dev.join(format!("bus/usb/{:03}/{:03}", number("busnum")?, number("devnum")?));
        let device = State::DeviceFile { path, rule: USB_RULE.to_owned() };
        let slow = attribute("speed").filter(|mbit| mbit.parse::<f64>().is_ok_and(|mbit| mbit < 5000.0));
        let slow = slow.map(|mbit| format!("at {mbit} Mbit/s; a USB 3 port and cable are ten times as fast"));
        let finding = Finding::new(device, "Edge TPU on USB", format!("{vendor}:{product}, {firmware}"));
        Some(Finding { detail: slow.into_iter().collect(), ..finding })
    })
}

fn on_pcie(host: &Host<'_>) -> Option<Finding> {
    let what = "Edge TPU on PCIe";
    let node = host.dev.join("apex_0");
    if node.exists() {
        let device = State::DeviceFile { path: node, rule: APEX_RULE.to_owned() };
        return Some(Finding::new(device, what, "its driver is loaded"));
    }
    let folder = host.sysfs.join("bus/pci/devices");
    let is_tpu = |name: &String| {
        let attribute = |file: &str| text(&folder.join(name).join(file));
        let (vendor, device) = PCI;
        attribute("vendor").as_deref() == Some(vendor) && attribute("device").as_deref() == Some(device)
    };
    names(&folder).iter().find(|name| is_tpu(name)).map(|name| {
        let says = format!("{name} exists but has no driver: no {}", node.display());
        Finding::new(State::Broken, what, says).fix(
            "run: sudo modprobe apex; if there is no such module, build gasket for this kernel: \
             github.com/google/gasket-driver, or a maintained fork",
        )
    })
}
