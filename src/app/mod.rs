//! Build and run: the only module that knows every other.

mod calibrate;
mod calibrations;
mod commands;
mod discovery;
pub mod doctor;
mod engines;
mod health;
mod inspect;
mod meters;
mod power;
mod prepare;
mod reload;
mod running;
mod serve;
mod service;
mod state;
mod summary;
mod threads;
mod windows;

pub use calibrate::{CalibrateError, Calibration, Plan, calibrate};
pub use calibrations::{Calibrations, Entry, KeepError, Under, can_calibrate};
pub use engines::{EngineMaker, Made, Tools};
pub use inspect::{Tried, try_delegate};
pub use meters::build as build_meters;
pub use prepare::{Prepared, PreparedPipeline, Tensors, Unusable, load, prepare, tools};
pub use serve::{RunOptions, STORE_FILE, reach, run};
pub use service::Service;
pub use state::folder as state_folder;
pub use summary::{Outcome, PipelineSummary, Summary};
