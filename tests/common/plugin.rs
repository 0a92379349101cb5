//! The test delegate, a cargo example, where cargo puts it.

use std::path::{Path, PathBuf};

pub fn test_delegate() -> PathBuf {
    let plugin = Path::new(env!("CARGO_BIN_EXE_edgewatt")).with_file_name("examples/libtest_delegate.so");
    // A bare `cargo test` makes it; `--all-targets` and `--test NAME` neither make nor renew it.
    assert!(plugin.exists(), "{} is missing: run `cargo build --example test_delegate`", plugin.display());
    plugin
}
