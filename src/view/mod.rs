//! What a person sees in a terminal: the full-screen view, or plain lines where there is no terminal.
//!
//! Owns the state made from messages (`model`), how it is drawn (`screen`) or written (`lines`), and the terminal itself
//! (`terminal`). Leaves to others where messages come from and where actions go: `show` takes a [`Feed`] and an
//! [`Actions`]. Runs on the thread that calls `show`; in the daemon's process this is a thread of its own, which never
//! holds up the daemon.

mod model;
mod words;
mod ui;
mod font;
mod chart;
mod screen;
mod lines;
mod keys;
mod backend;
pub(crate) mod logs;
mod terminal;
mod show;
mod local;

pub(crate) use local::start;
pub(crate) use show::{Actions, Fed, Feed, Mode, show};
pub(crate) use terminal::has_colour;
pub(crate) use ui::Request;
