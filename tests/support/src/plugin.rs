//! The libraries that tests load, which are cargo examples, where cargo puts them.

use std::path::PathBuf;

use crate::program;

pub fn test_delegate() -> PathBuf {
    example("test_delegate")
}

pub fn prisoner() -> PathBuf {
    example("prisoner")
}

pub fn simulated_machine() -> PathBuf {
    example("simulated_machine")
}

fn example(name: &str) -> PathBuf {
    let library = program().with_file_name(format!("examples/lib{name}.so"));
    // A bare `cargo test` makes it; `--all-targets` and `--test NAME` neither make nor renew it.
    assert!(library.exists(), "{} is missing: run `cargo build --example {name}`", library.display());
    library
}
