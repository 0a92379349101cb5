//! What is written down is what the program does: keys, messages, the manual, examples; and what it names is there.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod mqtt;
mod manual;
mod boards;
mod examples;
mod frontends;
mod structure;
mod home_assistant;
mod links;
mod machine;
mod pipeline;
mod results;
mod schema;
