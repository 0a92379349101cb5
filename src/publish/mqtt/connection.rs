//! One connection to the broker, from the first step to the last packet.
//!
//! Owns the login, the bytes not yet read or written, and the pings that detect a dead connection: one is sent in each
//! `keep_alive`, and an answer, to it or to a message, must come before the next. Reading may be cancelled at any time,
//! writing may not.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::codec::{self, Connect, Incoming, Limits, Malformed, Outgoing, Version};
use super::transport::{DialError, Endpoint, Step, Transport, reason};
use crate::publish::message::Qos;
use crate::secret::Password;

/// Why there is no connection, or no longer one, in words for the user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

impl From<DialError> for Lost {
    fn from(error: DialError) -> Self {
        Self(match error.step {
            // "Connection refused" is clear without the step.
            Step::Tcp => error.reason,
            _ => error.to_string(),
        })
    }
}

impl From<Malformed> for Lost {
    fn from(error: Malformed) -> Self {
        Self(error.to_string())
    }
}

/// Where the broker is, how to log in, and how long to wait.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub endpoint: Endpoint,
    pub version: Version,
    /// User, and the file from which the password is read at each login.
    pub login: Option<(String, PathBuf)>,
    /// Unique at the broker: it disconnects a client when a second one comes with the same id.
    pub client_id: String,
    /// Time between pings, in whole seconds; a dead connection is noticed within two of them.
    pub keep_alive: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
}

impl ConnectOptions {
    /// Returns host and port for logs.
    pub fn address(&self) -> String {
        self.endpoint.address()
    }
}

pub use super::codec::Will;

/// See the module's doc.
pub struct Connection {
    transport: Transport,
    version: Version,
    /// Limits that the broker has set.
    pub limits: Limits,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Bytes still to come of a message that is too large.
    skipping: usize,
    keep_alive: Duration,
    ping_at: Instant,
    unanswered: bool,
}

impl Connection {
    /// Connects and logs in by `until`; calls `on_step` after each step, with its time and a detail.
    pub async fn open(
        options: &ConnectOptions,
        will: Option<Will<'_>>,
        until: Instant,
        on_step: impl FnMut(Step, Duration, &str),
    ) -> Result<Self, Lost> {
        let transport = Transport::dial(&options.endpoint, until, on_step).await?;
        let mut connection = Self {
            transport,
            version: options.version,
            limits: Limits::NONE,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            skipping: 0,
            keep_alive: options.keep_alive,
            ping_at: until,
            unanswered: false,
        };
        let login = connection.login(options, will);
        timeout_at(until, login).await.unwrap_or_else(|_| Err(Lost("it does not answer the login".into())))?;
        Ok(connection)
    }

    async fn login(&mut self, options: &ConnectOptions, will: Option<Will<'_>>) -> Result<(), Lost> {
        let login = match &options.login {
            Some((user, file)) => Some((user, Password::read(file).map_err(|error| Lost(error.to_string()))?)),
            None => None,
        };
        let connect = Connect {
            client_id: &options.client_id,
            keep_alive_s: u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX),
            will,
            login: login.as_ref().map(|(user, password)| (user.as_str(), password.expose())),
        };
        self.version.connect(&connect, &mut self.outgoing)?;
        self.write().await?;
        let limits = match self.read().await? {
            Incoming::Accepted(limits) => limits,
            Incoming::Refused(reason) | Incoming::Disconnect(reason) => return Err(Lost(reason)),
            _ => return Err(Lost("it did not answer the login with a CONNACK".into())),
        };
        if limits.qos == Qos::AtMostOnce {
            return Err(Lost("it offers only QoS 0, which loses messages; use another broker".into()));
        }
        let wanted =
            limits.keep_alive_s.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()));
        self.keep_alive = wanted.map_or(self.keep_alive, |wanted| wanted.min(self.keep_alive));
        self.ping_at = Instant::now() + self.keep_alive;
        self.limits = limits;
        Ok(())
    }

    /// Waits for the next packet. May be cancelled at any time.
    pub async fn read(&mut self) -> Result<Incoming, Lost> {
        loop {
            if let Some(incoming) = self.read_buffered()? {
                return Ok(incoming);
            }
            self.transport.read(&mut self.incoming).await.map_err(|error| Lost(reason(&error)))?;
        }
    }

    /// Returns the next packet if all of it has arrived.
    pub fn read_buffered(&mut self) -> Result<Option<Incoming>, Lost> {
        if !self.skip_oversize() {
            return Ok(None);
        }
        let incoming = self.version.read(&mut self.incoming)?;
        // On a slow line acknowledgements keep coming while a ping, and its answer, wait behind what was sent before.
        self.unanswered &= !matches!(incoming, Some(Incoming::Pong | Incoming::PubAck { .. }));
        Ok(incoming)
    }

    /// Skips messages that are too large; returns whether the buffer then begins with another packet.
    ///
    /// A retained message that ended the connection would end every later one, too. It is not acknowledged: its packet
    /// id may be anywhere in it.
    fn skip_oversize(&mut self) -> bool {
        loop {
            let skipped = self.skipping.min(self.incoming.len());
            self.incoming.advance(skipped);
            self.skipping -= skipped;
            if self.skipping > 0 {
                return false;
            }
            let Some(bytes) = codec::oversize(&self.incoming) else { return true };
            tracing::warn!("the broker sends a message of {bytes} bytes, which is too large; it is ignored");
            self.skipping = bytes;
        }
    }

    /// Queues a message for the next write.
    pub fn publish(&mut self, message: &Outgoing<'_>) -> Result<(), Lost> {
        let message = Outgoing { retain: message.retain && self.limits.retain, ..*message };
        Ok(self.version.publish(&message, &mut self.outgoing)?)
    }

    /// Queues an acknowledgement for the next write.
    pub fn ack(&mut self, packet_id: u16) -> Result<(), Lost> {
        Ok(self.version.ack(packet_id, &mut self.outgoing)?)
    }

    /// Queues a subscription for the next write.
    pub fn subscribe(&mut self, filter: &str, packet_id: u16) -> Result<(), Lost> {
        Ok(self.version.subscribe(filter, packet_id, &mut self.outgoing)?)
    }

    /// Queues a DISCONNECT for the next write; after it the broker does not publish the last will.
    pub fn disconnect(&mut self) {
        self.version.disconnect(&mut self.outgoing);
    }

    /// Returns when [`Connection::ping`] is due.
    pub fn ping_at(&self) -> Instant {
        self.ping_at
    }

    /// Queues a ping for the next write.
    ///
    /// # Errors
    /// If the last ping was not answered: the connection is dead.
    pub fn ping(&mut self) -> Result<(), Lost> {
        if self.unanswered {
            return Err(Lost("it does not answer pings".into()));
        }
        self.version.ping(&mut self.outgoing);
        (self.unanswered, self.ping_at) = (true, Instant::now() + self.keep_alive);
        Ok(())
    }

    /// Returns the number of bytes to write.
    pub fn unwritten(&self) -> usize {
        self.outgoing.len()
    }

    /// Writes everything that is queued; may take as long as a dead connection goes unnoticed.
    pub async fn write(&mut self) -> Result<(), Lost> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        // No ping is sent or answered meanwhile: this is when the next one would find the connection dead.
        let until = if self.unanswered { self.ping_at } else { self.ping_at + self.keep_alive };
        match timeout_at(until, self.transport.write(&mut self.outgoing)).await {
            Ok(result) => result.map_err(|error| Lost(reason(&error))),
            Err(_) => Err(Lost("it takes no more data".into())),
        }
    }
}
