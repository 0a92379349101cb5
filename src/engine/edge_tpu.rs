//! Explains the most common mistakes with a Coral Edge TPU in its own terms.

use std::path::Path;

use crate::model::ModelSummary;

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
