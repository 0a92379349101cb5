//! The repository, the binary that was built with the tests, and the runtime that `make runtime` fetches.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use edgewatt::engine::Runtime;

/// The fetched runtime, loaded once: it is never unloaded.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::load(Some(&runtime_library())).unwrap());

/// Returns the repository's folder.
pub fn root() -> &'static Path {
    let support = Path::new(env!("CARGO_MANIFEST_DIR"));
    support.parent().and_then(Path::parent).unwrap()
}

/// Returns the `edgewatt` binary.
///
/// Cargo names it to the tests and benches that it runs; for one that runs by itself it is the folder above.
pub fn program() -> PathBuf {
    let beside = || std::env::current_exe().unwrap().parent().unwrap().with_file_name("edgewatt");
    let program = std::env::var_os("CARGO_BIN_EXE_edgewatt").map_or_else(beside, PathBuf::from);
    assert!(program.exists(), "{} is missing: run `cargo build`", program.display());
    program
}

/// Returns the TensorFlow Lite library for this machine.
pub fn runtime_library() -> PathBuf {
    let arch = if std::env::consts::ARCH == "arm" { "armv7l" } else { std::env::consts::ARCH };
    let library = root().join("runtime").join(arch).join("libtensorflowlite_c.so");
    assert!(library.exists(), "{} is missing: run `make runtime`", library.display());
    library
}
