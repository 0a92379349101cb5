//! A vendor's delegate: a library with `tflite_plugin_create_delegate`, such as the Edge TPU's or an NPU's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::survey::{Finding, Host, PLUGIN_FUNCTIONS, device_files};
use super::{Delegate, DelegateBackend, EngineError, LibraryIdentity, Proof, Runtime, check_library};
use crate::engine::{edge_tpu, interpreter};
use crate::model::ModelSummary;
use crate::schema::{Checker, Key, table};

/// Device files of accelerators whose vendors ship such a library, and their names; see docs/delegates.md.
const DEVICES: [(&str, &str); 3] =
    [("galcore", "VeriSilicon NPU or GPU"), ("ethosu0", "Arm Ethos-U"), ("mali0", "Arm Mali GPU")];

table! {
    /// A vendor's delegate: a library with the function tflite_plugin_create_delegate. docs/delegates.md has one for each
    /// device.
    pub struct External {
        /// The library: a path, or a name that ldconfig knows.
        pub library: PathBuf, example("\"libedgetpu.so.1\"");
        /// The options of that library, all of them strings. They go to the library unchanged.
        pub options: BTreeMap<String, String> = BTreeMap::new(), otherwise("none"), example("{ device = \"usb\" }");
    }
}

impl External {
    fn unusable(&self, reason: String) -> EngineError {
        EngineError::Delegate { delegate: self.library.display().to_string(), reason }
    }
}

impl DelegateBackend for External {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        check_library(&mut self.library, key, checker);
    }

    fn keys(&self) -> serde_json::Result<serde_json::Value> {
        let library = serde_json::to_value(&self.library)?;
        Ok(serde_json::json!({ "library": library, "options": self.options }))
    }

    fn library(&self) -> Option<&Path> {
        Some(&self.library)
    }

    fn functions(&self) -> &'static [&'static str] {
        &PLUGIN_FUNCTIONS
    }

    fn identify_library(&self) -> Result<LibraryIdentity, EngineError> {
        let (file, version) = interpreter::plugin_identity(&self.library).map_err(|reason| self.unusable(reason))?;
        Ok(LibraryIdentity { file: Some(file), version })
    }

    fn attach(&self, _: &Runtime) -> Result<Option<Delegate>, EngineError> {
        let made = Delegate::external(&self.library, &self.options);
        made.map(Some).map_err(|reason| self.unusable(edge_tpu::declined(&self.library, reason)))
    }

    fn warning(&self, summary: &ModelSummary, proof: &Proof) -> Option<&'static str> {
        let idle = "the delegate runs no node of the model: all of it runs on the CPU";
        proof.takes_no_node().then(|| edge_tpu::idle(&self.library, summary).unwrap_or(idle))
    }

    fn library_fix(&self, name: &str) -> String {
        match edge_tpu::is_library(&self.library) {
            true => edge_tpu::LIBRARY_FIX.to_owned(),
            false => super::survey::library_fix(name),
        }
    }
}

/// Looks for the Edge TPU, and for the device files of other accelerators.
pub fn survey(host: &Host<'_>) -> Vec<Finding> {
    let mut findings = edge_tpu::survey(host);
    findings.extend(device_files(host, &DEVICES));
    findings
}
