//! The test delegate, a cargo example, where cargo puts it.

use std::path::PathBuf;

use crate::program;

pub fn test_delegate() -> PathBuf {
    let plugin = program().with_file_name("examples/libtest_delegate.so");
    // A bare `cargo test` makes it; `--all-targets` and `--test NAME` neither make nor renew it.
    assert!(plugin.exists(), "{} is missing: run `cargo build --example test_delegate`", plugin.display());
    plugin
}
