//! Meters, calibration, and whether the published uncertainty is true on simulated machines.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod meters;
mod reader;
mod calibrate;
mod gate;
mod machine;
mod calibration_simulation;
mod classes;
mod simulated_meter;
mod scenario;
mod simulation;
mod blackbox;
