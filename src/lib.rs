//! edgewatt: sensor streams through TensorFlow Lite, with the energy of each inference, to MQTT.
//!
//! First what every stage stands on, then the stages in the order in which data passes through them: none imports a
//! later one.

pub mod ids;
pub mod units;
pub mod stop;
pub mod backoff;
pub mod ring;
pub mod secret;
pub mod text;
pub mod sys;
pub mod schema;
pub mod mqtt;
pub mod dsp;
pub mod stream;

pub mod source;
pub mod gate;
pub mod frontend;
pub mod features;
pub mod model;
pub mod engine;
pub mod decision;
pub mod infer;
pub mod meter;
pub mod energy;
pub mod publish;
pub mod config;
pub mod propose;

pub mod load;
pub mod record;
pub mod measure;
pub mod report;
pub mod doctor;
pub mod daemon;
pub mod view;
pub mod cli;
