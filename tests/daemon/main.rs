//! The real binary as its user has it: runs, commands, reloads, faults, the service, `edgewatt doctor`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod alsa;
mod e2e;
mod exec;
mod join;
mod faults;
mod files;
mod commands;
mod config;
mod remote;
mod reload;
mod reload_races;
mod serial;
mod service;
mod start;
mod doctor;
mod health;
mod init;
mod labels;
mod support;
mod scores;
mod decisions;
mod producers;
mod view;
mod wakeups;
