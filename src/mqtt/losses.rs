//! Why connections to the broker end, one after the other, and what may be behind it.
//!
//! Owns the suspicion that another client has the same client id, and that a port is examined once. Leaves to the caller
//! when to connect again, and what is logged.

use std::time::Duration;

use tokio::time::Instant;

use super::codec::{ReasonKind, Version};
use super::connection::{ConnectOptions, Lost, LostCause};

/// A connection that lasted this long was good: the next loss starts with the shortest delay again.
pub(crate) const GOOD_CONNECTION: Duration = Duration::from_secs(5);
/// A connection that the broker closes sooner is a quick loss; after so many of them another client is suspected to have the
/// same client id. Two clients that take it from each other reconnect within the first delays of the backoff.
const QUICK_LOSS: Duration = Duration::from_secs(5);
const QUICK_LOSSES: u32 = 3;
/// A connection that lasts this long ends the suspicion.
const CALM: Duration = Duration::from_secs(60);

/// See the module's doc.
#[derive(Debug, Default)]
pub struct Losses {
    connected_at: Option<Instant>,
    was_connected: bool,
    /// The last reason that needed an explanation, and the explained one: a port is examined once.
    explained: Option<(String, Lost)>,
    quick_losses: u32,
}

/// A loss, with what may be behind it.
#[derive(Debug)]
pub struct Explained {
    pub lost: Lost,
    /// Why another client is suspected to have the same client id.
    pub suspicion: Option<String>,
}

impl Losses {
    /// An attempt to connect begins.
    pub fn attempt(&mut self) {
        self.connected_at = None;
    }

    /// The attempt has succeeded.
    pub fn connected(&mut self) {
        (self.connected_at, self.was_connected) = (Some(Instant::now()), true);
    }

    /// Returns whether the last connection lasted so long that the next attempt need not wait longer than the first.
    ///
    /// It counts from the login and not from the beginning of the attempt: a broker that does not answer takes as long, and
    /// must be spared.
    pub fn was_good(&self) -> bool {
        self.connected_at.is_some_and(|at| at.elapsed() >= GOOD_CONNECTION)
    }

    /// Ends the suspicion if the connection lasts. Returns whether it does.
    pub fn is_calm(&mut self) -> bool {
        let is_calm = self.connected_at.is_some_and(|at| at.elapsed() >= CALM);
        if is_calm {
            self.quick_losses = 0;
        }
        is_calm
    }

    /// Adds to the reason of a loss what may be behind it. May be cancelled at any time.
    pub async fn explain(&mut self, lost: Lost, options: &ConnectOptions) -> Explained {
        let lasted = self.connected_at.map(|at| at.elapsed());
        self.is_calm();
        let lost = match lost.cause() {
            // It was the right port before.
            LostCause::Silent(_) if self.was_connected => lost,
            LostCause::Silent(_) => self.examine(lost, options).await,
            LostCause::Refused(ReasonKind::TakenOver) => return suspect(lost, options),
            LostCause::Closed if lasted.is_some_and(|lasted| lasted < QUICK_LOSS) => {
                self.quick_losses += 1;
                if self.quick_losses >= QUICK_LOSSES {
                    return suspect(lost, options);
                }
                lost
            }
            _ => lost,
        };
        Explained { lost, suspicion: None }
    }

    /// Examines the port, once for each reason.
    async fn examine(&mut self, lost: Lost, options: &ConnectOptions) -> Lost {
        let reason = lost.to_string();
        if let Some((_, explained)) = self.explained.as_ref().filter(|(known, _)| *known == reason) {
            return explained.clone();
        }
        let explained = lost.explained(options).await;
        self.explained = Some((reason, explained.clone()));
        explained
    }
}

/// Says that another client may have the same client id.
fn suspect(lost: Lost, ConnectOptions { client_id, version, .. }: &ConnectOptions) -> Explained {
    let mut words =
        format!("does another client use the client id {client_id}? Each needs its own: set node.id or mqtt.client_id");
    match version {
        Version::Three => {
            words.push_str("; or does the broker refuse a message? Only MQTT 5 can say so (mqtt.version = \"5\")");
        }
        Version::Five if lost.is_closed() => {
            words.push_str("; or has the broker trouble with MQTT 5? Then try mqtt.version = \"3.1.1\"");
        }
        Version::Five => {}
    }
    let suspicion = Some(format!("it closes the connection again and again: {words}"));
    Explained { lost: lost.hint(&words), suspicion }
}
