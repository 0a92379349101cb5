//! From the daemon to a subscriber: the link, the store, networks and brokers at their worst, who may do what, fleets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod mqtt;
mod scripted_broker;
mod proxy;
mod store;
mod security;
mod home;
mod limits;
mod rabbitmq;
mod discovery;
mod fleet;
mod source;
