//! edgewatt: sensor streams through TensorFlow Lite, with the energy of each inference, to MQTT.
//!
//! First what every stage stands on, then the stages in the order in which data passes through them: none imports a
//! later one.

pub mod units;
pub mod stop;
pub mod ring;
mod secret;
pub mod sys;
pub mod config;

pub mod source;
mod features;
pub mod model;
pub mod engine;
pub mod decision;
pub mod infer;
pub mod meter;
pub mod energy;
pub mod publish;

pub mod load;
mod measure;
mod doctor;
mod daemon;
pub mod cli;
