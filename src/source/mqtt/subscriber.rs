//! The connection of a source to its broker: subscribes, takes messages, and connects again until stopped.
//!
//! Runs on the acquire thread, in an async runtime of its own. A message is acknowledged when its frames are in the ring, or
//! were counted as dropped.

use std::fmt::Display;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::delivered::Delivered;
use crate::backoff::{Backoff, random};
use crate::mqtt::codec::Incoming;
use crate::mqtt::losses::Losses;
use crate::mqtt::{ConnectOptions, Connection, Lost, Session, Subscription, filter};
use crate::source::{Decoder, FrameProducer, FrameSink, Gap, Reject, SourceError};
use crate::stop::Waited;
use crate::units::MonoTime;

const SUBSCRIBE_ID: u16 = 1;
/// How long the broker may take to be told that this client goes.
const GOODBYE: Duration = Duration::from_millis(200);
/// From so many messages at once on, the next ones are read without a rest: a broker sends only so many before it waits for
/// acknowledgements (mosquitto: 20).
const FEW_MESSAGES: usize = 8;

/// See the module's doc.
pub(super) struct Subscriber {
    subscription: Subscription,
    connect: ConnectOptions,
    retry: (Duration, Duration),
    decoder: Decoder,
    wanted: Wanted,
    losses: Losses,
    delivered: Delivered,
    /// The number of frames that had come when the connection was lost, until there is another subscription.
    lost_after: Option<u64>,
    /// The session at the broker has a subscription of an earlier configuration.
    is_stale: bool,
}

/// Which messages are taken, and what they tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Retained messages are taken.
    pub retained: bool,
    /// The stream's own time shows what is missing.
    pub has_time: bool,
    /// Bytes of the largest message.
    pub max_bytes: usize,
}

/// A message from the broker.
struct Message<'a> {
    topic: &'a str,
    payload: &'a [u8],
    retained: bool,
    repeated: bool,
    packet_id: Option<u16>,
}

impl Subscriber {
    pub(super) fn new(
        subscription: Subscription,
        wanted: Wanted,
        connect: ConnectOptions,
        retry: (Duration, Duration),
        decoder: Decoder,
    ) -> Self {
        Self {
            subscription,
            connect,
            retry,
            decoder,
            wanted,
            losses: Losses::default(),
            delivered: Delivered::new(),
            lost_after: None,
            is_stale: false,
        }
    }

    fn address(&self) -> String {
        self.connect.address()
    }

    fn keeps_session(&self) -> bool {
        self.connect.session.kept_s.is_some()
    }

    /// Connects, receives and connects again until `stopped`.
    async fn receive(&mut self, sink: &mut FrameSink, stopped: &Receiver) {
        let mut backoff = Backoff::new(self.retry.0, self.retry.1);
        loop {
            self.losses.attempt();
            let Err(lost) = self.session(sink, stopped).await else { return };
            if self.losses.was_good() {
                backoff.reset();
            }
            let explained = tokio::select! {
                biased;
                _ = stopped.readable() => return,
                explained = self.losses.explain(lost, &self.connect) => explained,
            };
            let reason = self.subscription.in_its_words(explained.lost.to_string());
            let reason = format!("no connection to the MQTT broker {}: {reason}", self.address());
            sink.absent(&self.subscription.topic, reason, MonoTime::now());
            self.lost_after = Some(sink.delivered());
            sink.wake_reader();
            tokio::select! {
                biased;
                _ = stopped.readable() => return,
                () = sleep(backoff.next(random())) => {}
            }
        }
    }

    /// Makes one connection and receives to its end; `Ok` at a stop.
    async fn session(&mut self, sink: &mut FrameSink, stopped: &Receiver) -> Result<(), Lost> {
        let mut connection = tokio::select! {
            biased;
            _ = stopped.readable() => return Ok(()),
            opened = self.open() => opened?,
        };
        self.begin(&connection, sink);
        connection.subscribe_as(&self.subscription.packet(), SUBSCRIBE_ID)?;
        loop {
            if let Err(lost) = connection.write().await {
                return Err(connection.last_words(lost, |_| {}).await);
            }
            let ping_at = connection.ping_at();
            // The ping is before the messages, which in a flood are always there.
            let first = tokio::select! {
                biased;
                _ = stopped.readable() => break,
                () = sleep_until(ping_at) => {
                    connection.ping()?;
                    self.losses.is_calm();
                    continue;
                }
                incoming = connection.read() => incoming?,
            };
            let flow = self.take_all(first, &mut connection, sink)?;
            sink.wake_reader();
            match flow {
                ControlFlow::Break(()) => break,
                // If this thread cannot wait, it does not rest.
                ControlFlow::Continue(messages) if messages < FEW_MESSAGES => {
                    if matches!(sink.rest(None), Ok(Waited::Stopped)) {
                        break;
                    }
                }
                ControlFlow::Continue(_) => {}
            }
        }
        connection.disconnect();
        // What is not acknowledged now comes again, if the broker keeps the session.
        let _ = timeout(GOODBYE, connection.write()).await;
        Ok(())
    }

    async fn open(&mut self) -> Result<Connection, Lost> {
        let until = Instant::now() + self.connect.connect_timeout;
        if self.is_stale {
            // A clean session takes the place of the one that the broker keeps.
            let session = Session { kept_s: None, ..self.connect.session };
            let clean = ConnectOptions { session, ..self.connect.clone() };
            let mut connection = Connection::open(&clean, None, until, |_, _, _| {}).await?;
            connection.disconnect();
            connection.write().await?;
            self.is_stale = false;
        }
        Connection::open(&self.connect, None, until, |_, _, _| {}).await
    }

    /// A connection begins: what comes now does not follow what came before, unless the stream's time says so.
    fn begin(&mut self, connection: &Connection, sink: &mut FrameSink) {
        self.losses.connected();
        let is_resumed = connection.is_resumed();
        if !is_resumed {
            self.delivered.clear();
        }
        if self.lost_after.is_some() && !(is_resumed && self.wanted.has_time) {
            sink.cut(Gap::Reconnect);
        }
    }

    /// The broker has granted the subscription.
    fn subscribed(&mut self, sink: &FrameSink) {
        let (address, topic) = (self.address(), &self.subscription.topic);
        tracing::info!("subscribed to {topic} at the MQTT broker {address} as {}", self.connect.client_id);
        // Messages of a session that was kept may have come before.
        if self.lost_after.take().is_some_and(|frames| frames == sink.delivered()) {
            sink.trouble(Some(format!(
                "connected to the MQTT broker {address} again, but no message has come on {topic} since"
            )));
        }
    }

    /// Takes a packet and all further ones that have arrived already. Returns the number of messages.
    fn take_all(
        &mut self,
        first: Incoming,
        connection: &mut Connection,
        sink: &mut FrameSink,
    ) -> Result<ControlFlow<(), usize>, Lost> {
        let arrival = MonoTime::now();
        let (mut incoming, mut messages) = (Some(first), 0);
        while let Some(packet) = incoming {
            match packet {
                Incoming::Message { topic, payload, retained, repeated, packet_id } => {
                    let message = Message { topic: &topic, payload: &payload, retained, repeated, packet_id };
                    let flow = self.take(&message, arrival, sink);
                    if let Some(packet_id) = packet_id {
                        connection.ack(packet_id)?;
                    }
                    if flow.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    messages += 1;
                }
                Incoming::SubAck { refused: true } => return Err(Lost::new(self.subscription.refusal())),
                Incoming::SubAck { refused: false } => self.subscribed(sink),
                Incoming::Disconnect(reason) => return Err(reason.into()),
                _ => {}
            }
            incoming = connection.read_buffered()?;
        }
        if let Some((count, bytes)) = connection.take_too_large() {
            for _ in 0..count {
                let _ = too_large(bytes, arrival, sink);
            }
        }
        if std::mem::take(&mut self.is_stale) {
            self.is_stale = self.keeps_session();
            return Err(Lost::new("the session that it has kept is for another topic; a new one is begun"));
        }
        Ok(ControlFlow::Continue(messages))
    }

    fn take(&mut self, message: &Message<'_>, arrival: MonoTime, sink: &mut FrameSink) -> ControlFlow<()> {
        let Message { topic, payload, retained, repeated, packet_id } = *message;
        if !filter::matches(&self.subscription.topic, topic) {
            self.is_stale = self.keeps_session();
            return ControlFlow::Continue(());
        }
        if retained && !self.wanted.retained {
            let why = || {
                format!(
                    "a message on {topic} was kept by the broker from before and may be old; set retained = true to use it"
                )
            };
            sink.pass_over(Reject::Retained, arrival, why);
            return ControlFlow::Continue(());
        }
        if payload.len() > self.wanted.max_bytes {
            return too_large(payload.len(), arrival, sink);
        }
        if let Some(packet_id) = packet_id.filter(|_| self.keeps_session()) {
            if repeated && self.delivered.has(packet_id, topic, payload) {
                tracing::debug!(topic, packet_id, "the broker sends a message again that was taken already");
                return ControlFlow::Continue(());
            }
            self.delivered.note(packet_id, topic, payload);
        }
        let from: &dyn Display = &format_args!("a message on {topic}");
        match self.decoder.datagram(from, payload, arrival, sink) {
            Ok(flow) => flow,
            Err(error) => {
                sink.writer_refused(&error, arrival);
                ControlFlow::Continue(())
            }
        }
    }
}

fn too_large(bytes: usize, arrival: MonoTime, sink: &mut FrameSink) -> ControlFlow<()> {
    sink.reject(Reject::TooLong, arrival, || format!("a message of {bytes} bytes is too large; raise max_kib"))
}

impl FrameProducer for Subscriber {
    fn run(mut self: Box<Self>, sink: &mut FrameSink) -> Result<(), SourceError> {
        let address = self.address();
        let failed = |error| SourceError::io("wait for", Path::new(&address), error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let stop = sink.stop().descriptor().map_err(failed)?;
        let received = runtime.block_on(async {
            // An eventfd is waited for as a pipe is; nothing is read from it.
            let stopped = Receiver::from_owned_fd_unchecked(stop)?;
            self.receive(sink, &stopped).await;
            Ok(())
        });
        // A name look-up that hangs must not delay the end.
        runtime.shutdown_background();
        received.map_err(failed)
    }
}
