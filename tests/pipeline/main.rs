//! Pipelines: the dialects of records, windows that go together, spectra, filters, models that keep a state, threads in real time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod batching;
mod chain;
mod gate;
mod dialects;
mod filters;
mod models;
mod record;
mod spectra;
mod stateful;
mod sound;
mod stream;
mod realtime;
