//! The runtime that `make runtime` fetches; tests and benches use no other.

use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn runtime_library() -> PathBuf {
    let arch = if std::env::consts::ARCH == "arm" { "armv7l" } else { std::env::consts::ARCH };
    let library = root().join("runtime").join(arch).join("libtensorflowlite_c.so");
    assert!(library.exists(), "{} is missing: run `make runtime`", library.display());
    library
}
