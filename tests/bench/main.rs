//! `edgewatt bench`: its statistics on a simulated machine whose truth is known, and the program on real models.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod program;
mod simulated_lab;
mod truth;
