//! Finding and loading the TensorFlow Lite runtime, a shared library.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsString};
use std::path::{Path, PathBuf};

use super::ffi::{Signatures, Telemetry, TfLite, Xnnpack};
use super::{EngineError, checks};
use crate::sys::symbols;
use crate::sys::trouble::NOT_MAPPED;

/// In place of a library's path: the runtime that the binary is linked with (cargo feature `tflitec`).
pub const LINKED_RUNTIME: &str = "linked";
/// Names a runtime library; searched after the configuration and before all folders.
pub const ENVIRONMENT: &str = "EDGEWATT_RUNTIME";
const FILE_NAME: &str = "libtensorflowlite_c.so";

/// The error when the linked runtime is asked for more.
pub(super) const LINKED_LIMITS: &str = "the linked runtime (runtime.library = \"linked\") runs cpu and xnnpack only: \
     name a library in runtime.library, or leave it out, to have one loaded that takes delegates";

/// The functions of a loaded library.
pub(super) struct Library {
    pub tflite: TfLite,
    /// `None`: the runtime was built without it.
    pub xnnpack: Option<Xnnpack>,
    /// `None`: the runtime does not report what it runs.
    pub telemetry: Option<Telemetry>,
    /// `None`: the runtime runs a model's first subgraph only.
    pub signatures: Option<Signatures>,
}

impl Library {
    /// Loads the file and looks its functions up. An error says why it is not a runtime.
    fn load(path: &Path) -> Result<Self, String> {
        // SAFETY: loading runs the library's constructors: what the user asked for by naming it.
        let library = unsafe { symbols::load(path) }.map_err(|e| checks::with_causes(&e))?;
        // SAFETY: the functions have these types by the C API, and the library is never unloaded.
        unsafe {
            Ok(Self {
                tflite: TfLite::load(library).map_err(|e| e.to_string())?,
                xnnpack: Xnnpack::load(library).ok(),
                telemetry: Telemetry::load(library).ok(),
                signatures: Signatures::load(library).ok(),
            })
        }
    }
}

/// A loaded runtime. It stays loaded until the process ends, since vendors' libraries rarely survive unloading.
#[derive(Clone)]
pub struct Runtime {
    /// `None`: the binary is linked with it.
    library: Option<&'static Library>,
    /// The library's, or [`LINKED_RUNTIME`].
    pub path: PathBuf,
    /// What it says it is, such as `2.17.1`.
    pub version: String,
}

impl Runtime {
    /// Loads the first library found: `configured`, `$EDGEWATT_RUNTIME`, the folder of the binary, the system's folders.
    /// Loads none if `configured` is the linked one.
    pub fn load(configured: Option<&Path>) -> Result<Self, EngineError> {
        if let Some(linked) = configured.filter(|path| *path == Path::new(LINKED_RUNTIME)) {
            return Self::linked(linked);
        }
        let path = find(configured, std::env::var_os(ENVIRONMENT), std::env::current_exe().ok().as_deref())?;
        let unusable = |mut reason: String| {
            if reason.contains(NOT_MAPPED) {
                reason.push_str("; there is too little memory, or its disk is mounted with noexec");
            }
            EngineError::RuntimeUnusable { path: path.clone(), reason }
        };
        let library: &'static Library = Box::leak(Box::new(Library::load(&path).map_err(unusable)?));
        // SAFETY: the function returns a C string that lasts.
        let version = unsafe { CStr::from_ptr((library.tflite.version)()) };
        Ok(Self { library: Some(library), path, version: version.to_string_lossy().into_owned() })
    }

    #[cfg(feature = "tflitec")]
    fn linked(path: &Path) -> Result<Self, EngineError> {
        Ok(Self { library: None, path: path.to_owned(), version: tflitec::tf_lite_version().to_owned() })
    }

    #[cfg(not(feature = "tflitec"))]
    fn linked(_: &Path) -> Result<Self, EngineError> {
        Err(EngineError::NotLinked)
    }

    /// The binary is linked with it; it is not loaded.
    pub fn is_linked(&self) -> bool {
        self.library.is_none()
    }

    /// The loaded library.
    pub(super) fn library(&self) -> Result<&'static Library, EngineError> {
        let linked = || EngineError::Mismatch(LINKED_LIMITS.into());
        self.library.ok_or_else(linked)
    }
}

/// A library named by hand must be there: falling back to another one would hide the mistake.
fn find(
    configured: Option<&Path>,
    environment: Option<OsString>,
    executable: Option<&Path>,
) -> Result<PathBuf, EngineError> {
    let named = configured.map(Path::to_owned).or(environment.map(PathBuf::from));
    let candidates = match named {
        Some(path) => vec![path],
        None => candidates(executable),
    };
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(EngineError::RuntimeNotFound { looked: candidates }),
    }
}

fn candidates(executable: Option<&Path>) -> Vec<PathBuf> {
    let arch = std::env::consts::ARCH;
    // The folder that `make runtime` fills; the kernel's name for 32-bit Arm is the one that it uses.
    let fetched = Path::new("runtime").join(if arch == "arm" { "armv7l" } else { arch });
    let triplet = if arch == "arm" { "arm-linux-gnueabihf".into() } else { format!("{arch}-linux-gnu") };
    let mut folders = Vec::new();
    if let Some(beside) = executable.and_then(Path::parent) {
        folders.push(beside.to_owned());
        folders.push(beside.join("../lib/edgewatt"));
        // A binary that cargo built is two folders below the checkout.
        folders.push(beside.join("../..").join(fetched));
    }
    folders.extend(
        ["/usr/lib/edgewatt".into(), "/usr/local/lib".into(), format!("/usr/lib/{triplet}"), "/usr/lib".into()]
            .map(PathBuf::from),
    );
    folders.into_iter().map(|folder| folder.join(FILE_NAME)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "tflitec"))]
    #[test]
    fn a_linked_runtime_needs_a_build_that_has_one() {
        let error = Runtime::load(Some(Path::new(LINKED_RUNTIME))).map(drop).unwrap_err().to_string();
        assert!(error.contains("cargo feature `tflitec`") && error.contains("name a library"), "{error}");
        // A file of that name can still be named.
        let error = Runtime::load(Some(Path::new("./linked"))).map(drop).unwrap_err();
        assert!(matches!(error, EngineError::RuntimeNotFound { .. }), "{error}");
    }

    #[test]
    fn the_first_place_that_has_it_wins() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin/edgewatt");
        let lib = dir.path().join("lib/edgewatt");
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::create_dir_all(dir.path().join("bin")).unwrap();
        std::fs::write(lib.join(FILE_NAME), "").unwrap();
        let found = find(None, None, Some(&bin)).unwrap();
        assert!(found.ends_with("bin/../lib/edgewatt/libtensorflowlite_c.so"), "{found:?}");

        let beside = dir.path().join("bin").join(FILE_NAME);
        std::fs::write(&beside, "").unwrap();
        assert_eq!(find(None, None, Some(&bin)).unwrap(), beside);
        assert_eq!(find(None, Some(beside.clone().into()), None).unwrap(), beside);
        assert_eq!(find(Some(&beside), Some("/nowhere".into()), None).unwrap(), beside);
    }

    #[test]
    fn when_there_is_none_the_error_says_where_it_looked_and_what_to_do() {
        let error = find(Some(Path::new("/nowhere/lib.so")), None, None).unwrap_err().to_string();
        assert!(error.contains("/nowhere/lib.so") && error.contains("make runtime"), "{error}");
        let error = find(None, None, Some(Path::new("/nowhere/edgewatt"))).map(drop);
        if let Err(error) = error {
            assert!(error.to_string().contains("/nowhere/libtensorflowlite_c.so"), "{error}");
        }
    }
}
