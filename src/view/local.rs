//! The view in the daemon's process: on a separate thread, fed by the bus.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, raise};

use super::show::{Actions, Ended, Fed, Feed, Mode, show};
use super::ui::Request;
use crate::daemon::{Action, ActionSender, Started};
use crate::publish::bus::Subscription;

/// Messages that may wait for the view; more are dropped and counted.
const ROOM: usize = 16 * 1024;

/// A view that runs. Dropping it waits until it has shown what is left, and has restored the terminal.
pub(crate) struct LocalView {
    thread: Option<JoinHandle<()>>,
    finish: Arc<AtomicBool>,
}

/// Starts a view of a daemon that has started.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn start(mode: Mode, started: &Started) -> io::Result<LocalView> {
    let finish = Arc::<AtomicBool>::default();
    let ours = finish.clone();
    let mut feed = BusFeed {
        subscription: started.bus.subscribe(ROOM),
        status: started.topics.status.clone(),
        presence: Presence::Unsaid,
        finish: finish.clone(),
    };
    let mut actions = Direct { sender: started.actions.clone(), asked_to_stop: false };
    let thread = std::thread::Builder::new().name("view".to_owned()).spawn(move || {
        match show(mode, &mut feed, &mut actions, &ours) {
            Ok(Ended::Finished | Ended::Quit) => {}
            Err(error) => {
                let is_closed =
                    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
                if is_closed {
                    tracing::warn!("nobody reads what --watch writes any more: stopping");
                } else {
                    tracing::warn!("--watch has stopped: {error:#}");
                }
                // Who closes the view wants to end. Lines may go to a disk that is full.
                if is_closed || mode == Mode::Screen {
                    actions.sender.send(Action::Stop);
                }
            }
        }
    })?;
    Ok(LocalView { thread: Some(thread), finish })
}

impl Drop for LocalView {
    fn drop(&mut self) {
        self.finish.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the view has written its own message.
            let _ = thread.join();
        }
    }
}

/// Messages from the bus. The node's status is not on it, because only the broker can tell it of a daemon that has died.
struct BusFeed {
    subscription: Subscription,
    status: Arc<str>,
    presence: Presence,
    finish: Arc<AtomicBool>,
}

/// What was said of the node's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Unsaid,
    Online,
    Offline,
}

impl Feed for BusFeed {
    fn next(&mut self) -> Fed {
        let status = |payload: &[u8]| Fed::Message { topic: self.status.to_string(), payload: payload.to_vec() };
        if self.presence == Presence::Unsaid {
            let online = status(b"online");
            self.presence = Presence::Online;
            return online;
        }
        let finishing = self.finish.load(Ordering::Relaxed);
        match self.subscription.try_next() {
            Some(message) => Fed::Message { topic: message.topic.to_string(), payload: message.payload.to_vec() },
            None if finishing && self.presence == Presence::Online => {
                let offline = status(b"offline");
                self.presence = Presence::Offline;
                offline
            }
            None => Fed::Nothing,
        }
    }

    fn missed(&self) -> u64 {
        self.subscription.dropped()
    }
}

/// Actions go to the daemon directly.
struct Direct {
    sender: ActionSender,
    asked_to_stop: bool,
}

impl Actions for Direct {
    fn ask(&mut self, _: &str, request: Request) -> Result<(), String> {
        self.sender.send(match request {
            Request::Pause(pipeline) => Action::Pause(pipeline),
            Request::Resume(pipeline) => Action::Resume(pipeline),
            Request::SetDelegate { pipeline, delegate } => Action::SetDelegate { pipeline, delegate },
        });
        Ok(())
    }

    fn quit(&mut self) -> bool {
        if self.asked_to_stop {
            // As a second Ctrl-C without a view: the daemon ends at once.
            let _ = raise(Signal::SIGINT);
        } else {
            self.sender.send(Action::Stop);
            self.asked_to_stop = true;
        }
        false
    }
}
