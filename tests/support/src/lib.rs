//! What several test binaries, benches and tools need: the daemon under test, brokers, fake meters, reference answers.
//!
//! Each module stands alone as far as it can. Nothing here is a test, and nothing of it gets into the daemon.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a helper that fails fails its test")]

mod runtime;
pub mod dice;
pub mod plugin;
pub mod vectors;
pub mod demo;

pub mod daemon;
pub mod rig;
pub mod wire;

pub mod counters;
pub mod simulated;
pub mod meters;
pub mod serial;
pub mod sound;

pub mod mosquitto;
pub mod fake_broker;
pub mod link;
pub mod proxy;

pub use runtime::{RUNTIME, program, root, runtime_library};
