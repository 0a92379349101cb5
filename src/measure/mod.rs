//! Back-to-back runs of an engine under the meters, and what is kept of them.

pub(crate) mod calibrate;
pub(crate) mod calibrations;
