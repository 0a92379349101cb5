//! The link to the broker: takes messages from the outbox, sees them acknowledged, and reconnects for ever.
//!
//! Owns the connection, the backoff and the stop. Leaves what is said to the caller, and what is kept to `outbox` and
//! `retained`. Runs as one future on the async thread; [`Handle::publish`] may be called from any thread and never
//! waits.
//!
//! rumqttc is used for its codec, its state and its keep-alive only. It is given a whole batch at a time, each QoS 1
//! message with a packet id of ours, which it keeps; so a batch costs one write, and ids cannot collide. On any error
//! all of its state is thrown away and what was not acknowledged is sent again on a new connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::{ConnectReturnCode, ConnectionError, Event, EventLoop, Packet, Publish, QoS};
use rumqttc::{Disconnect, Outgoing, Request, StateError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::backoff::{self, Backoff};
use super::outbox::{self, Bytes, Class, Marks, Message, Outbox, Pushed, Qos};
use super::retained::{self, Retained};
use crate::units::MonoTime;

mod settings;
pub use settings::{Settings, SettingsError};

/// Bytes handed over before the answers are looked at again.
const BATCH_BYTES: usize = 32 * 1024;
/// A connection that lasted this long was a good one: the next loss starts with the shortest delay again.
const GOOD_CONNECTION: Duration = Duration::from_secs(5);
/// What a stop keeps in reserve, of its time, for saying `offline`.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

const ONLINE: &str = "online";
const OFFLINE: &str = "offline";

fn status_message(settings: &Settings, payload: &'static str) -> Message {
    Message {
        topic: settings.status_topic.clone(),
        payload: Bytes::from_static(payload.as_bytes()),
        qos: Qos::AtLeastOnce,
        retain: true,
        class: Class::State,
        marks: None,
    }
}

/// Where the link stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// No connection, and none was lost yet.
    Connecting,
    /// Messages flow.
    Connected,
    /// The connection was lost or could not be made; the next attempt comes by itself.
    Waiting,
    /// The link was stopped; so many messages were left unacknowledged.
    Stopped(usize),
}

/// The link as the rest of the daemon sees it.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// Where it stands.
    pub state: LinkState,
    /// Since when.
    pub since: MonoTime,
    /// Connections made so far; the first is not a reconnect.
    pub connections: u64,
    /// Why the last connection was lost or not made.
    pub last_error: Option<Arc<str>>,
}

/// All figures of delivery.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Messages that are each delivered.
    pub outbox: outbox::Stats,
    /// Retained topics.
    pub retained: retained::Stats,
    /// Connections made after the first.
    pub reconnects: u64,
}

#[derive(Debug)]
struct Stores {
    outbox: Outbox,
    retained: Retained,
    connected: bool,
    /// Only the status is still sent.
    farewell: bool,
    stop: Option<Stop>,
}

#[derive(Debug, Clone, Copy)]
struct Stop {
    flush_until: Instant,
    deadline: Instant,
}

impl Stores {
    fn next_to_send(&mut self, round: u32) -> Option<(u16, &Message)> {
        if let Some(next) = self.retained.next_to_send(round) {
            return Some(next);
        }
        if self.farewell { None } else { self.outbox.next_to_send(round) }
    }

    fn rewind(&mut self) {
        self.connected = false;
        self.outbox.rewind();
        self.retained.rewind();
    }

    fn on_puback(&mut self, packet_id: u16) {
        // The two id ranges do not overlap; rumqttc has already refused an ack for an id that is not out.
        if !self.outbox.on_puback(packet_id) {
            self.retained.on_puback(packet_id);
        }
    }

    fn oldest_round(&self) -> Option<u32> {
        self.outbox.oldest_round().into_iter().chain(self.retained.oldest_round()).min()
    }
}

#[derive(Debug)]
struct Shared {
    stores: Mutex<Stores>,
    wake: Notify,
    status: watch::Sender<LinkStatus>,
}

impl Shared {
    fn stores(&self) -> MutexGuard<'_, Stores> {
        // No code under the lock can panic half-way through a change, so a poisoned lock still guards sound stores.
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to the link for everyone else; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// Takes a message over: a retained one as the latest value of its topic, any other one into the outbox.
    pub fn publish(&self, message: Message) -> Pushed {
        let mut stores = self.shared.stores();
        let pushed = if message.retain { stores.retained.set(message) } else { stores.outbox.push(message) };
        let wake = stores.connected;
        drop(stores);
        if wake {
            self.shared.wake.notify_one();
        }
        pushed
    }

    /// All figures as of now.
    pub fn stats(&self) -> Stats {
        let reconnects = self.shared.status.borrow().connections.saturating_sub(1);
        let stores = self.shared.stores();
        Stats { outbox: stores.outbox.stats(), retained: stores.retained.stats(), reconnects }
    }

    /// The broker takes messages, but more than `messages` further ones may not fit before it has taken some.
    pub fn is_crowded(&self, messages: usize) -> bool {
        let stores = self.shared.stores();
        stores.connected && stores.outbox.is_crowded(messages)
    }

    /// The state of the link, and a way to wait for it to change.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.shared.status.subscribe()
    }

    /// Stops the link: sends what is queued, then `offline`, then disconnects; all of it `within` that time.
    ///
    /// Returns how many messages the broker has not acknowledged. Whoever produces should have ended before.
    pub async fn drain(&self, within: Duration) -> usize {
        let deadline = Instant::now() + within;
        let farewell = (within / 4).min(FAREWELL_MAX);
        self.shared.stores().stop = Some(Stop { flush_until: deadline - farewell, deadline });
        self.shared.wake.notify_one();
        let mut status = self.status();
        let stopped = status.wait_for(|status| matches!(status.state, LinkState::Stopped(_)));
        // The deadline is the link's own; this one is for a link that nobody runs.
        let _ = timeout_at(deadline + FAREWELL_MAX, stopped).await;
        self.shared.stores().outbox.len()
    }
}

/// Why a connection ended, for people.
#[derive(Debug)]
struct Lost(String);

impl From<ConnectionError> for Lost {
    fn from(error: ConnectionError) -> Self {
        Self(match error {
            ConnectionError::MqttState(error) => return error.into(),
            ConnectionError::Io(error) => error.to_string(),
            ConnectionError::NetworkTimeout => "it does not answer".into(),
            ConnectionError::FlushTimeout => "it takes no more data".into(),
            ConnectionError::ConnectionRefused(code) => match code {
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                    format!("it refused the login ({code:?}); check user and password")
                }
                ConnectReturnCode::BadClientId => "it refused the client id; set another mqtt.client_id".into(),
                code => format!("it refused the connection ({code:?})"),
            },
            other => other.to_string(),
        })
    }
}

impl From<StateError> for Lost {
    fn from(error: StateError) -> Self {
        Self(match error {
            StateError::AwaitPingResp => "it does not answer pings".into(),
            StateError::ConnectionAborted => "it closed the connection".into(),
            other => other.to_string(),
        })
    }
}

enum StopStep {
    /// Go on; when stopping, look again at that time.
    Serve(Option<Instant>),
    /// The broker has everything that it will get; true when that includes `offline`.
    Leave(bool),
}

/// See the module's doc.
pub struct Link {
    settings: Settings,
    shared: Arc<Shared>,
    on_handed: Box<dyn FnMut(Marks, MonoTime) + Send>,
    batch: Vec<Publish>,
    marks: Vec<Marks>,
    /// Pings sent on this connection: the measure of time for acks that never come.
    round: u32,
    logged_error: Option<Arc<str>>,
}

impl Link {
    /// A link that connects once it is [run](Link::run).
    ///
    /// `on_handed` is called on the link's thread for every message with marks, once, when it is first written to the
    /// socket; it must not block.
    pub fn new(
        settings: Settings,
        on_handed: impl FnMut(Marks, MonoTime) + Send + 'static,
    ) -> Result<Self, SettingsError> {
        settings.check()?;
        let first_id = settings.outbox.inflight + 1;
        let retained = Retained::new(
            status_message(&settings, ONLINE),
            first_id,
            settings.max_retained_topics,
            settings.outbox.max_payload_bytes,
        );
        let outbox = Outbox::new(settings.outbox.clone());
        let stores = Stores { outbox, retained, connected: false, farewell: false, stop: None };
        let state = LinkState::Connecting;
        let status = LinkStatus { state, since: MonoTime::now(), connections: 0, last_error: None };
        let shared = Shared { stores: Mutex::new(stores), wake: Notify::new(), status: watch::Sender::new(status) };
        Ok(Self {
            settings,
            shared: Arc::new(shared),
            on_handed: Box::new(on_handed),
            batch: Vec::new(),
            marks: Vec::new(),
            round: 0,
            logged_error: None,
        })
    }

    /// The way to this link for everyone else.
    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone() }
    }

    /// Connects, serves and reconnects until [`Handle::drain`]; returns how many messages were left.
    pub async fn run(mut self) -> usize {
        let mut backoff = Backoff::new(self.settings.retry_min, self.settings.retry_max);
        while !self.is_over() {
            let begun = Instant::now();
            let ended = self.connection().await;
            self.shared.stores().rewind();
            let Err(lost) = ended else { break };
            if begun.elapsed() >= GOOD_CONNECTION {
                backoff.reset();
            }
            let delay = backoff.next(backoff::random());
            self.report_lost(&lost, delay);
            self.pause(delay).await;
        }
        let left = self.shared.stores().outbox.len();
        self.set_state(LinkState::Stopped(left));
        left
    }

    /// Whether a stop needs no further connection; the broker itself says `offline` for a link that was lost.
    fn is_over(&self) -> bool {
        let stores = self.shared.stores();
        let over = |stop: Stop| stores.farewell || stores.outbox.is_empty() || Instant::now() >= stop.flush_until;
        stores.stop.is_some_and(over)
    }

    /// Waits out the delay; the first call for a stop cuts it short, since there may be no time for another.
    async fn pause(&mut self, delay: Duration) {
        let end = Instant::now() + delay;
        let stop = self.shared.stores().stop;
        if let Some(stop) = stop {
            return sleep_until(end.min(stop.flush_until)).await;
        }
        let mut delayed = std::pin::pin!(sleep(delay));
        loop {
            tokio::select! {
                () = &mut delayed => return,
                () = self.shared.wake.notified() => if self.shared.stores().stop.is_some() { return },
            }
        }
    }

    /// One connection from beginning to end; `Ok` when the link was stopped.
    async fn connection(&mut self) -> Result<(), Lost> {
        let mut client = EventLoop::new(self.settings.options(), 1);
        let timeout_s = self.settings.connect_timeout.as_secs() + 1;
        client.network_options.set_connection_timeout(timeout_s);
        // Nagle's algorithm would hold a write back until the broker's delayed TCP ack, for 40 ms.
        client.network_options.set_tcp_nodelay(true);
        let mut until = Instant::now() + self.settings.connect_timeout;
        if let Some(stop) = self.shared.stores().stop {
            until = until.min(stop.flush_until);
        }
        let Ok(answer) = timeout_at(until, client.poll()).await else {
            return Err(ConnectionError::NetworkTimeout.into());
        };
        answer?;
        self.round = 0;
        self.shared.stores().connected = true;
        self.report_connected();
        loop {
            let timer = match self.stop_step() {
                StopStep::Serve(timer) => timer,
                StopStep::Leave(told) => return self.leave(client, told).await,
            };
            self.send(&mut client).await?;
            let event = tokio::select! {
                biased;
                event = client.poll() => Some(event?),
                () = self.shared.wake.notified() => None,
                () = at(timer) => None,
            };
            self.receive(&mut client, event).await?;
        }
    }

    /// Hands over what the bounds allow, in one write.
    ///
    /// Only here and in `leave` is anything but a ping written, and the buffer is empty when it returns; so a `poll`
    /// that is dropped to hear of new messages can never take a half-written packet with it.
    async fn send(&mut self, client: &mut EventLoop) -> Result<(), Lost> {
        let mut bytes = 0;
        {
            let mut stores = self.shared.stores();
            while bytes < BATCH_BYTES
                && let Some((packet_id, message)) = stores.next_to_send(self.round)
            {
                bytes += message.payload.len() + message.topic.len();
                self.batch.push(to_publish(packet_id, message));
            }
        }
        if self.batch.is_empty() {
            return Ok(());
        }
        let requests = self.batch.drain(..).map(Request::Publish);
        write(client, requests, self.settings.connect_timeout).await?;
        let more = {
            let mut stores = self.shared.stores();
            stores.outbox.on_written(&mut self.marks);
            !stores.farewell && stores.outbox.can_send()
        };
        if more {
            self.shared.wake.notify_one();
        }
        if !self.marks.is_empty() {
            let now = MonoTime::now();
            self.marks.drain(..).for_each(|marks| (self.on_handed)(marks, now));
        }
        Ok(())
    }

    /// Notes an event and all others that are at hand without waiting.
    async fn receive(&mut self, client: &mut EventLoop, mut event: Option<Event>) -> Result<(), Lost> {
        while let Some(first) = event {
            {
                let mut stores = self.shared.stores();
                for event in std::iter::once(first).chain(client.state.events.drain(..)) {
                    match event {
                        Event::Incoming(Packet::PubAck(ack)) => stores.on_puback(ack.pkid),
                        Event::Outgoing(Outgoing::PingReq) => self.round += 1,
                        _ => {}
                    }
                }
                // Out at the ping before the last one and still not acknowledged. Within a connection nothing is
                // ever sent twice in MQTT 3.1.1, so only a new connection can deliver it.
                if stores.oldest_round().is_some_and(|oldest| oldest + 2 <= self.round) {
                    return Err(Lost("it answers pings, but does not acknowledge messages".into()));
                }
            }
            event = tokio::select! {
                biased;
                event = client.poll() => Some(event?),
                () = std::future::ready(()) => None,
            };
        }
        Ok(())
    }

    fn stop_step(&self) -> StopStep {
        let mut stores = self.shared.stores();
        let Some(stop) = stores.stop else {
            return StopStep::Serve(None);
        };
        let now = Instant::now();
        if !stores.farewell {
            let flushed = stores.outbox.is_empty() && stores.retained.is_settled();
            if !flushed && now < stop.flush_until {
                return StopStep::Serve(Some(stop.flush_until));
            }
            stores.farewell = true;
            stores.retained.set_status(OFFLINE);
        }
        let told = stores.retained.status_is_settled();
        if told || now >= stop.deadline { StopStep::Leave(told) } else { StopStep::Serve(Some(stop.deadline)) }
    }

    /// Disconnects; without a word when `offline` was not acknowledged, so that the broker publishes the last will.
    async fn leave(&mut self, mut client: EventLoop, told: bool) -> Result<(), Lost> {
        if told {
            let disconnect = std::iter::once(Request::Disconnect(Disconnect));
            // All that matters was acknowledged.
            let _ = write(&mut client, disconnect, FAREWELL_MAX).await;
        }
        Ok(())
    }

    fn set_state(&self, state: LinkState) {
        self.shared.status.send_modify(|status| {
            status.connections += u64::from(state == LinkState::Connected);
            status.since = if status.state == state { status.since } else { MonoTime::now() };
            status.state = state;
        });
    }

    fn report_connected(&mut self) {
        self.logged_error = None;
        self.set_state(LinkState::Connected);
        let waiting = self.shared.stores().outbox.len();
        tracing::info!("connected to the MQTT broker {}; {waiting} messages were waiting", self.settings.address());
    }

    fn report_lost(&mut self, Lost(cause): &Lost, delay: Duration) {
        let cause: Arc<str> = cause.as_str().into();
        self.shared.status.send_modify(|status| status.last_error = Some(cause.clone()));
        self.set_state(LinkState::Waiting);
        let address = self.settings.address();
        if self.logged_error.as_ref() == Some(&cause) {
            tracing::debug!("MQTT broker {address}: {cause}; retrying in {delay:.1?}");
        } else {
            tracing::warn!("no connection to the MQTT broker {address}: {cause}; retrying in {delay:.1?}");
        }
        self.logged_error = Some(cause);
    }
}

async fn at(timer: Option<Instant>) {
    match timer {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn to_publish(packet_id: u16, message: &Message) -> Publish {
    let qos = match message.qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
    };
    let mut publish = Publish::from_bytes(message.topic.as_ref(), qos, message.payload.clone());
    publish.retain = message.retain;
    publish.pkid = packet_id;
    publish
}

async fn write(client: &mut EventLoop, requests: impl Iterator<Item = Request>, within: Duration) -> Result<(), Lost> {
    let Some(network) = client.network.as_mut() else {
        return Err(StateError::ConnectionAborted.into());
    };
    let written = timeout(within, async {
        for request in requests {
            // `None` would be a collision of packet ids, which ours rule out; a fresh start heals even that.
            let packet = client.state.handle_outgoing_packet(request)?.ok_or(StateError::InvalidState)?;
            network.write(packet).await?;
        }
        network.flush().await
    });
    match written.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ConnectionError::FlushTimeout.into()),
    }
}
