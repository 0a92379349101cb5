//! Back-to-back runs of an engine under the meters, and the file with their results.

pub mod back_to_back;
pub mod calibrate;
pub mod calibrations;
pub mod phases;
