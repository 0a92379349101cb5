//! Back-to-back runs of engines under the meters, and the results: calibrations, which the daemon uses, and benches, which
//! people compare.

pub mod back_to_back;
pub mod bench;
pub mod calibrate;
pub mod calibrations;
mod metering;
pub mod phases;
