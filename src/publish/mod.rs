//! From decisions and figures to messages, and to what carries them.
//!
//! `topic`, `payload` and `discovery` are pure encoders; `publisher` decides what is published when; `bus` passes each
//! message to every sink. `mqtt` is the sink that delivers to a broker.

pub mod bus;
pub mod correct;
pub mod discovery;
pub mod message;
pub mod mqtt;
pub mod payload;
pub mod publisher;
pub mod topic;
