//! From decisions to the broker: topics and payloads (pure), the publisher, the outbox, the link, a broker of our own.

mod backoff;
pub mod broker;
pub(crate) mod discovery;
pub mod mqtt;
pub mod outbox;
pub mod payload;
pub mod publisher;
pub(crate) mod retained;
pub(crate) mod store;
pub mod topic;
