//! From decisions to the broker: topics and payloads (pure), the publisher, the outbox, the link, a broker of our own.

pub mod discovery;
pub mod message;
pub mod mqtt;
pub mod payload;
pub mod publisher;
pub mod topic;
