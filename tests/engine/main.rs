//! Engines and their delegates: the runtimes themselves, processes of their own, what plugins do, what agrees with the
//! reference. Needs what `make runtime` fetches and `cargo build --example test_delegate --example prisoner`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod tflite;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod litert;
mod isolation;
mod test_delegate;
mod delegates;
mod parity;
mod mutants;
