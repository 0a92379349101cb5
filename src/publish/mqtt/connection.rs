//! One connection to the broker, from the first step to the last packet.
//!
//! Owns the login, the bytes not yet read or written, and the pings that tell a dead link: one goes out in each
//! `keep_alive`, and an answer, to it or to a message, must be there before the next. Reading may be dropped at any time, writing may not.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::codec::{self, Hello, Incoming, Limits, Malformed, Outgoing, Version};
use super::transport::{DialError, Endpoint, Step, Transport, reason};
use crate::publish::message::Qos;
use crate::secret::Password;

/// Why there is no connection, or no longer, for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

impl From<DialError> for Lost {
    fn from(error: DialError) -> Self {
        Self(match error.step {
            // What everybody knows as "connection refused" needs no step before it.
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

/// Where the broker is, who we are to it, and how patient we are.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub endpoint: Endpoint,
    pub version: Version,
    /// User, and the file that the password is read from at each login.
    pub login: Option<(String, PathBuf)>,
    /// Unique at the broker: a second client with the same id throws the first one out.
    pub client_id: String,
    /// Time between pings, in whole seconds; a dead link is noticed within two of them.
    pub keep_alive: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
}

impl ConnectOptions {
    /// The broker as people write it, for logs.
    pub fn address(&self) -> String {
        self.endpoint.address()
    }
}

/// What the broker publishes for us when it loses us: topic and payload, retained.
pub type Will<'a> = (&'a str, &'static [u8]);

/// See the module's doc.
pub struct Connection {
    transport: Transport,
    reach: ConnectOptions,
    /// What the broker bids us keep to.
    pub limits: Limits,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// What is still to come of a message that is too large for us.
    passing_over: usize,
    keep_alive: Duration,
    ping_at: Instant,
    unanswered: bool,
}

impl Connection {
    /// Reaches the broker and logs in by `until`; `on_step` hears of each step on the way there.
    pub async fn open(
        reach: &ConnectOptions,
        will: Option<Will<'_>>,
        until: Instant,
        on_step: impl FnMut(Step, Duration, &str),
    ) -> Result<Self, Lost> {
        let transport = Transport::dial(&reach.endpoint, until, on_step).await?;
        let mut connection = Self {
            transport,
            reach: reach.clone(),
            limits: Limits::NONE,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            passing_over: 0,
            keep_alive: reach.keep_alive,
            ping_at: until,
            unanswered: false,
        };
        let login = connection.login(will);
        timeout_at(until, login).await.unwrap_or_else(|_| Err(Lost("it does not answer the login".into())))?;
        Ok(connection)
    }

    async fn login(&mut self, will: Option<Will<'_>>) -> Result<(), Lost> {
        let reach = &self.reach;
        let login = match &reach.login {
            Some((user, file)) => Some((user, Password::read(file).map_err(|error| Lost(error.to_string()))?)),
            None => None,
        };
        let hello = Hello {
            client_id: &reach.client_id,
            keep_alive_s: u16::try_from(reach.keep_alive.as_secs()).unwrap_or(u16::MAX),
            will,
            login: login.as_ref().map(|(user, password)| (user.as_str(), password.expose())),
        };
        reach.version.connect(&hello, &mut self.outgoing)?;
        self.write().await?;
        let limits = match self.read().await? {
            Incoming::Welcome(limits) => limits,
            Incoming::Refused(reason) | Incoming::Bye(reason) => return Err(Lost(reason)),
            _ => return Err(Lost("it did not answer the login with a CONNACK".into())),
        };
        if limits.qos == Qos::AtMostOnce {
            return Err(Lost("it offers QoS 0 alone, by which messages are lost; use another broker".into()));
        }
        let bidden =
            limits.keep_alive_s.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()));
        self.keep_alive = bidden.map_or(self.keep_alive, |bidden| bidden.min(self.keep_alive));
        self.ping_at = Instant::now() + self.keep_alive;
        self.limits = limits;
        Ok(())
    }

    /// The next thing the broker says. May be dropped at any time.
    pub async fn read(&mut self) -> Result<Incoming, Lost> {
        loop {
            if let Some(incoming) = self.at_hand()? {
                return Ok(incoming);
            }
            self.transport.read(&mut self.incoming).await.map_err(|error| Lost(reason(&error)))?;
        }
    }

    /// What it said and has come already.
    pub fn at_hand(&mut self) -> Result<Option<Incoming>, Lost> {
        if !self.pass_over() {
            return Ok(None);
        }
        let incoming = self.reach.version.read(&mut self.incoming)?;
        // Over a slow line acks keep coming while a ping, and its answer, wait behind what was sent before.
        self.unanswered &= !matches!(incoming, Some(Incoming::Pong | Incoming::PubAck { .. }));
        Ok(incoming)
    }

    /// Lets go of messages that are too large for us; whether what is at hand then is the beginning of another packet.
    ///
    /// To lose the connection over one that the broker has retained would be to lose it for ever. It is not
    /// acknowledged: its packet id may be anywhere in it.
    fn pass_over(&mut self) -> bool {
        loop {
            let passed = self.passing_over.min(self.incoming.len());
            self.incoming.advance(passed);
            self.passing_over -= passed;
            if self.passing_over > 0 {
                return false;
            }
            let Some(bytes) = codec::oversize(&self.incoming) else { return true };
            tracing::warn!("the broker sends a message of {bytes} bytes, which is too large for us; it is not heard");
            self.passing_over = bytes;
        }
    }

    /// Puts a message with what is to be written next.
    pub fn publish(&mut self, message: &Outgoing<'_>) -> Result<(), Lost> {
        let message = Outgoing { retain: message.retain && self.limits.retain, ..*message };
        Ok(self.reach.version.publish(&message, &mut self.outgoing)?)
    }

    /// Puts an acknowledgement with what is to be written next.
    pub fn ack(&mut self, packet_id: u16) -> Result<(), Lost> {
        Ok(self.reach.version.ack(packet_id, &mut self.outgoing)?)
    }

    /// Puts a subscription with what is to be written next.
    pub fn subscribe(&mut self, filter: &str, packet_id: u16) -> Result<(), Lost> {
        Ok(self.reach.version.subscribe(filter, packet_id, &mut self.outgoing)?)
    }

    /// Puts a farewell with what is to be written next: the broker keeps the last will to itself then.
    pub fn disconnect(&mut self) {
        self.reach.version.disconnect(&mut self.outgoing);
    }

    /// When [`Connection::ping`] is due.
    pub fn ping_at(&self) -> Instant {
        self.ping_at
    }

    /// Puts a ping with what is to be written next; an error when the last one was not answered.
    pub fn ping(&mut self) -> Result<(), Lost> {
        if self.unanswered {
            return Err(Lost("it does not answer pings".into()));
        }
        self.reach.version.ping(&mut self.outgoing);
        (self.unanswered, self.ping_at) = (true, Instant::now() + self.keep_alive);
        Ok(())
    }

    /// Bytes that are to be written.
    pub fn unwritten(&self) -> usize {
        self.outgoing.len()
    }

    /// Writes all that is to be written, in one go; it may take as long as a dead link goes unnoticed.
    pub async fn write(&mut self) -> Result<(), Lost> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        // Pings are not sent and not answered meanwhile: so this is when the next one would find it dead.
        let until = if self.unanswered { self.ping_at } else { self.ping_at + self.keep_alive };
        match timeout_at(until, self.transport.write(&mut self.outgoing)).await {
            Ok(result) => result.map_err(|error| Lost(reason(&error))),
            Err(_) => Err(Lost("it takes no more data".into())),
        }
    }
}
