//! edgewatt: sensor streams through TensorFlow Lite, with the energy of each inference, to MQTT.
//!
//! The modules in the order in which data passes through them; none imports a later one.

pub mod config;
pub mod engine;
pub mod meter;
pub mod energy;
pub mod features;
pub mod ring;
pub mod units;
pub mod window;
