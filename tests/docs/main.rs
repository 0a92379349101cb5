//! What is written down is what the program does: the keys, the messages, the manual, the examples.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod mqtt;
mod manual;
mod examples;
mod links;
mod pipeline;
