//! One connection to the broker, from the first step to the last packet.
//!
//! Owns the login, the bytes not yet read or written, and the pings that detect a dead connection: one is sent in each
//! `keep_alive`, and an answer, to it or to a message, must come before the next. Reading may be cancelled at any time,
//! writing may not.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, timeout, timeout_at};

use super::codec::{
    self, Connect, Incoming, Limits, Malformed, Outgoing, Qos, Reason, ReasonKind, Session, Size, Subscribe, Version,
};
use super::port;
use super::speaks::{HEAD_BYTES, Speaks, speaks};
use super::tls::reason;
use super::transport::{DialError, Endpoint, Step, Transport};
use crate::secret::Password;

/// Why there is no connection, or no longer one, in words for the user.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct Lost {
    reason: String,
    cause: LostCause,
}

/// What the client can do about a lost connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LostCause {
    /// There was no answer at all in this step (`None`: the login), although something listens.
    Silent(Option<Step>),
    /// The broker closed it after the login, without a reason.
    Closed,
    /// The broker has said why.
    Refused(ReasonKind),
    Other,
}

impl Lost {
    pub fn new(reason: impl Into<String>) -> Self {
        Self::with(reason, LostCause::Other)
    }

    fn with(reason: impl Into<String>, cause: LostCause) -> Self {
        Self { reason: reason.into(), cause }
    }

    pub(crate) fn cause(&self) -> LostCause {
        self.cause
    }

    fn dialing(error: DialError, endpoint: &Endpoint) -> Self {
        let DialError { step, reason, is_silent, speaks } = error;
        let reason = speaks.map_or(reason, |speaks| port::advice(&speaks, endpoint, false));
        let cause = if is_silent { LostCause::Silent(Some(step)) } else { LostCause::Other };
        match step {
            // "Connection refused" is clear without the step.
            Step::Tcp => Self::with(reason, cause),
            _ => Self::with(format!("{step}: {reason}"), cause),
        }
    }

    /// Returns whether the broker may have ended the connection because of a message.
    pub(crate) fn may_be_about_a_message(&self) -> bool {
        matches!(self.cause, LostCause::Closed | LostCause::Refused(ReasonKind::Message))
    }

    /// Returns whether the broker closed the connection after the login, without a reason.
    pub fn is_closed(&self) -> bool {
        self.cause == LostCause::Closed
    }

    /// Adds a hint to the reason.
    pub fn hint(mut self, hint: &str) -> Self {
        self.reason = format!("{}: {hint}", self.reason);
        self
    }

    /// Finds out why there was no answer at all: greets the port once in the languages that it may speak.
    pub async fn explained(self, options: &ConnectOptions) -> Self {
        let LostCause::Silent(step) = self.cause else { return self };
        // Inside TLS nothing more can be found out: the handshake has shown that it is TLS.
        let is_encrypted = options.endpoint.tls.is_some() && step != Some(Step::Tls);
        let found = if is_encrypted { None } else { port::probe(&options.endpoint, options.version).await };
        self.hint(&found.unwrap_or_else(|| options.guess(step)))
    }
}

impl From<Reason> for Lost {
    fn from(reason: Reason) -> Self {
        Self::with(reason.words, LostCause::Refused(reason.kind))
    }
}

impl From<Malformed> for Lost {
    fn from(error: Malformed) -> Self {
        Self::new(error.to_string())
    }
}

impl From<std::io::Error> for Lost {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => {
                Self::with("it closed the connection", LostCause::Closed)
            }
            _ => Self::new(reason(&error)),
        }
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
    /// What is sent at most, also if the broker allows more.
    pub max_qos: Qos,
    /// Whether anything is sent as retained.
    pub retain: bool,
    pub session: Session,
}

impl ConnectOptions {
    /// Returns host and port for logs.
    pub fn address(&self) -> String {
        self.endpoint.address()
    }

    /// Returns what may be wrong if a step (`None`: the login) has no answer.
    fn guess(&self, step: Option<Step>) -> String {
        let (address, version) = (self.address(), self.version);
        let s = if self.endpoint.tls.is_some() { "s" } else { "" };
        let older = match version {
            Version::Five => "is the broker older than MQTT 5? then set mqtt.version = \"3.1.1\"",
            Version::Three => "does it speak MQTT 5 only? then set mqtt.version = \"5\"",
        };
        match step {
            Some(Step::Tls) => format!("is this a port without TLS? then write mqtt://{address}"),
            Some(_) => format!("is this a port without a WebSocket? then write mqtt{s}://{address}"),
            None if self.endpoint.tls.is_some() => format!(
                "does it ask for a client certificate? then set mqtt.cert_file and mqtt.key_file; is this a port for \
                 WebSockets? then write wss://{address}/mqtt; {older}"
            ),
            None => format!("is this a TLS port? then write mqtts://{address}; {older}"),
        }
    }
}

/// The message that the broker publishes when it loses the client: retained and with QoS 1, if it allows that.
#[derive(Clone, Copy)]
pub struct Will<'a> {
    pub topic: &'a str,
    pub payload: &'static [u8],
}

/// How long a reason for a closed connection is waited for; it has arrived already, or never will.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A connection on which so much comes between two pings is not dead.
const ALIVE_BYTES: usize = 4096;

/// See the module's doc.
pub struct Connection {
    transport: Transport,
    version: Version,
    /// Limits that the broker has set.
    pub limits: Limits,
    incoming: BytesMut,
    outgoing: BytesMut,
    session: Session,
    /// The broker has kept the session of an earlier connection.
    resumed: bool,
    /// Bytes still to come of a message that is too large.
    skipping: usize,
    /// Messages that were too large, and the bytes of the last one.
    too_large: (u64, usize),
    keep_alive: Duration,
    ping_at: Instant,
    unanswered: bool,
    /// Bytes that have come since the last ping.
    received: usize,
}

impl Connection {
    /// Connects and logs in by `until`; calls `on_step` after each step, with its time and a detail.
    ///
    /// A broker that refuses the last will because it keeps no retained messages, or takes QoS 0 only, is asked again with
    /// one that it allows.
    pub async fn open(
        options: &ConnectOptions,
        will: Option<Will<'_>>,
        until: Instant,
        mut on_step: impl FnMut(Step, Duration, &str),
    ) -> Result<Self, Lost> {
        let mut allowed = Limits { qos: options.max_qos, retain: options.retain, ..Limits::NONE };
        loop {
            let lost = match Self::attempt(options, will, allowed, until, &mut on_step).await {
                Ok(connection) => return Ok(connection),
                Err(lost) => lost,
            };
            match lost.cause {
                LostCause::Refused(ReasonKind::NoRetain) if will.is_some() && allowed.retain => allowed.retain = false,
                LostCause::Refused(ReasonKind::NoQos1) if will.is_some() && allowed.qos == Qos::AtLeastOnce => {
                    allowed.qos = Qos::AtMostOnce;
                }
                _ => return Err(lost),
            }
        }
    }

    async fn attempt(
        options: &ConnectOptions,
        will: Option<Will<'_>>,
        allowed: Limits,
        until: Instant,
        on_step: impl FnMut(Step, Duration, &str),
    ) -> Result<Self, Lost> {
        let dialed = Transport::dial(&options.endpoint, until, on_step).await;
        let transport = dialed.map_err(|error| Lost::dialing(error, &options.endpoint))?;
        let mut connection = Self {
            transport,
            version: options.version,
            limits: allowed,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            session: options.session,
            resumed: false,
            skipping: 0,
            too_large: (0, 0),
            keep_alive: options.keep_alive,
            ping_at: until,
            unanswered: false,
            received: 0,
        };
        let login = connection.login(options, will);
        let silent = || Lost::with("it does not answer the login", LostCause::Silent(None));
        timeout_at(until, login).await.unwrap_or_else(|_| Err(silent()))?;
        Ok(connection)
    }

    async fn login(&mut self, options: &ConnectOptions, will: Option<Will<'_>>) -> Result<(), Lost> {
        let login = match &options.login {
            Some((user, file)) => Some((user, Password::read(file).map_err(|error| Lost::new(error.to_string()))?)),
            None => None,
        };
        let Limits { qos, retain, .. } = self.limits;
        let connect = Connect {
            client_id: &options.client_id,
            keep_alive_s: u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX),
            will: will.map(|will| codec::Will { topic: will.topic, payload: will.payload, qos, retain }),
            login: login.as_ref().map(|(user, password)| (user.as_str(), password.expose())),
            session: options.session,
        };
        self.version.connect(&connect, &mut self.outgoing)?;
        let limits = match self.first_answer(&options.endpoint).await? {
            Incoming::Accepted { limits, resumed } => {
                self.resumed = resumed;
                limits
            }
            Incoming::Refused(reason) | Incoming::Disconnect(reason) => return Err(reason.into()),
            _ => return Err(Lost::new("it did not answer the login with a CONNACK")),
        };
        let wanted =
            limits.keep_alive_s.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()));
        self.keep_alive = wanted.map_or(self.keep_alive, |wanted| wanted.min(self.keep_alive));
        self.ping_at = Instant::now() + self.keep_alive;
        self.limits = Limits {
            qos: if qos == Qos::AtMostOnce { qos } else { limits.qos },
            retain: retain && limits.retain,
            ..limits
        };
        Ok(())
    }

    /// Sends the login, and returns the answer. What is not MQTT is recognised by its first bytes.
    async fn first_answer(&mut self, endpoint: &Endpoint) -> Result<Incoming, Lost> {
        // Some close the connection at once; what they have said before is still there to be read.
        let written = self.write().await;
        loop {
            let head = self.incoming.get(..HEAD_BYTES).unwrap_or(&self.incoming);
            let foreign = speaks(head).filter(|speaks| *speaks != Speaks::Mqtt);
            if let Some(speaks) = foreign {
                return Err(Lost::new(port::advice(&speaks, endpoint, endpoint.tls.is_some())));
            }
            if let Some(incoming) = self.version.read(&mut self.incoming, self.session.packet_bytes)? {
                return Ok(incoming);
            }
            if let Err(error) = self.transport.read(&mut self.incoming).await {
                let lost = Lost::from(error);
                return Err(match lost.cause {
                    LostCause::Closed if self.incoming.is_empty() => {
                        Lost::with("it closed the connection at the login", LostCause::Silent(None))
                    }
                    _ => written.err().unwrap_or(lost),
                });
            }
        }
    }

    /// Waits for the next packet. May be cancelled at any time.
    pub async fn read(&mut self) -> Result<Incoming, Lost> {
        loop {
            if let Some(incoming) = self.read_buffered()? {
                return Ok(incoming);
            }
            let before = self.incoming.len();
            self.transport.read(&mut self.incoming).await?;
            self.received += self.incoming.len() - before;
        }
    }

    /// Returns why the broker has closed the connection, if it said so before a write found it closed. Calls `on_packet`
    /// with what else it had sent.
    pub(crate) async fn last_words(&mut self, found: Lost, mut on_packet: impl FnMut(Incoming)) -> Lost {
        if found.cause != LostCause::Closed {
            return found;
        }
        loop {
            match timeout(LAST_WORDS, self.read()).await {
                Ok(Ok(Incoming::Disconnect(reason))) => return reason.into(),
                Ok(Ok(packet)) => on_packet(packet),
                Ok(Err(_)) | Err(_) => return found,
            }
        }
    }

    /// Returns the next packet if all of it has arrived.
    pub fn read_buffered(&mut self) -> Result<Option<Incoming>, Lost> {
        if !self.skip_too_large()? {
            return Ok(None);
        }
        let incoming = self.version.read(&mut self.incoming, self.session.packet_bytes)?;
        // On a slow line acknowledgements keep coming while a ping, and its answer, wait behind what was sent before.
        self.unanswered &= !matches!(incoming, Some(Incoming::Pong | Incoming::PubAck { .. }));
        Ok(incoming)
    }

    /// Skips messages that are too large; returns whether the buffer then begins with another packet.
    ///
    /// A message that ended the connection would end every later one, too.
    fn skip_too_large(&mut self) -> Result<bool, Lost> {
        loop {
            let skipped = self.skipping.min(self.incoming.len());
            self.incoming.advance(skipped);
            self.skipping -= skipped;
            if self.skipping > 0 {
                return Ok(false);
            }
            match codec::size(&self.incoming, self.session.packet_bytes) {
                Size::Fits => return Ok(true),
                Size::Unknown => return Ok(false),
                Size::TooLarge { bytes, packet_id } => {
                    if let Some(packet_id) = packet_id {
                        self.ack(packet_id)?;
                    }
                    self.skipping = bytes;
                    self.too_large = (self.too_large.0 + 1, bytes);
                }
            }
        }
    }

    /// Returns how many messages were too large since the last call, and the bytes of the last one.
    pub fn take_too_large(&mut self) -> Option<(u64, usize)> {
        Some(std::mem::take(&mut self.too_large)).filter(|(count, _)| *count > 0)
    }

    /// Returns whether the broker has kept the session of an earlier connection, with its subscriptions.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Queues a message for the next write, with what the broker allows: without retain, or with QoS 0.
    pub fn publish(&mut self, message: &Outgoing<'_>) -> Result<(), Lost> {
        let mut message = Outgoing { retain: message.retain && self.limits.retain, ..*message };
        if self.limits.qos == Qos::AtMostOnce {
            (message.qos, message.packet_id) = (Qos::AtMostOnce, 0);
        }
        Ok(self.version.publish(&message, &mut self.outgoing)?)
    }

    /// Queues an acknowledgement for the next write.
    pub fn ack(&mut self, packet_id: u16) -> Result<(), Lost> {
        Ok(self.version.ack(packet_id, &mut self.outgoing)?)
    }

    /// Queues a subscription for the next write, with QoS 1 and the retain flags as they were published.
    pub fn subscribe(&mut self, filter: &str, packet_id: u16) -> Result<(), Lost> {
        self.subscribe_as(&Subscribe { filter, qos: Qos::AtLeastOnce, preserve_retain: true }, packet_id)
    }

    /// Queues a subscription for the next write.
    pub fn subscribe_as(&mut self, subscribe: &Subscribe<'_>, packet_id: u16) -> Result<(), Lost> {
        Ok(self.version.subscribe(subscribe, packet_id, &mut self.outgoing)?)
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
        // The answer waits behind all messages that the broker has sent before.
        if self.unanswered && self.received < ALIVE_BYTES {
            return Err(Lost::new("it does not answer pings"));
        }
        self.received = 0;
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
            Ok(result) => Ok(result?),
            Err(_) => Err(Lost::new("it takes no more data")),
        }
    }
}
