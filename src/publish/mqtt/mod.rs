//! The link to the broker: takes messages from the outbox, sees them acknowledged, and reconnects for ever.
//!
//! Owns the connection, the backoff and the stop. Leaves what is said to the caller, and what is kept to `outbox` and
//! `retained`. Runs as one future on the async thread; [`Handle::publish`] may be called from any thread and never
//! waits.
//!
//! Messages go out a whole batch at a time, each of QoS 1 with a packet id of ours; so a batch costs one write, and ids
//! cannot collide. Sessions at the broker are not used: on any error what was not acknowledged is sent again on a new
//! connection, whatever the broker remembers.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::message::{Bytes, Class, Marks, Message, Qos};
use super::payload::Clocks;
use crate::units::MonoTime;

mod backoff;
pub mod broker;
pub mod codec;
pub mod connection;
pub mod outbox;
mod pace;
pub mod retained;
mod settings;
pub mod store;
#[cfg(test)]
mod tests;
pub mod transport;
use backoff::Backoff;
use codec::{Incoming, Limits, Outgoing};
use connection::{Connection, Lost};
use outbox::{Outbox, Pushed};
use pace::Pace;
use retained::Retained;
pub use settings::{Settings, SettingsError};

/// Of a packet, beside its topic and payload: fixed header, lengths, packet id and MQTT 5's properties.
const HEADER_BYTES: usize = 80;
/// What has waited longer than this is a backlog.
const BACKLOG_MS: u64 = 1_000;
/// Bytes handed over before the answers are looked at again.
const BATCH_BYTES: usize = 32 * 1024;
/// A connection that lasted this long was a good one: the next loss starts with the shortest delay again.
const GOOD_CONNECTION: Duration = Duration::from_secs(5);
/// That messages to us are lost is said again after this, if it goes on.
const SAID_AGAIN: Duration = Duration::from_secs(60);
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
pub enum ClientState {
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
pub struct ClientStatus {
    /// Where it stands.
    pub state: ClientState,
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
    /// The next message as it goes out, that is not so large that the broker would cut the connection over it. The pace is
    /// for a backlog alone, since who is up to date floods nobody.
    fn next_to_send(&mut self, (round, now_ms): (u32, u64), limits: &Limits, pace: &mut Pace) -> Option<Outgoing<'_>> {
        // Before each message: what is next now was behind another one before.
        self.outbox.drop_larger(largest_message(limits));
        if self.outbox.unacked() + self.retained.unacked() >= usize::from(limits.inflight) {
            return None;
        }
        if self.retained.can_send() {
            let (packet_id, message) = self.retained.next_to_send(round)?;
            return Some(outgoing(packet_id, message));
        }
        let next = self.outbox.next(now_ms).filter(|_| !self.farewell)?;
        let late = next.stored || next.waited_ms > BACKLOG_MS;
        if late && !pace.take(Instant::now()) {
            return None;
        }
        let (packet_id, message) = self.outbox.next_to_send(round)?;
        Some(Outgoing {
            // What is left of it, but never the 0 that some take for "at once" and some for "never".
            expiry_s: u32::try_from(next.left_ms.div_ceil(1000).max(1)).ok(),
            waited_ms: (next.waited_ms > BACKLOG_MS).then_some(next.waited_ms),
            ..outgoing(packet_id, message)
        })
    }

    fn rewind(&mut self) {
        self.connected = false;
        self.outbox.rewind();
        self.retained.rewind();
    }

    /// Notes an ack; the two id ranges do not overlap, and one that is not out means nothing.
    fn on_puback(&mut self, packet_id: u16, refused: bool) {
        if !self.outbox.on_puback(packet_id, refused) {
            self.retained.on_puback(packet_id, refused);
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
    status: watch::Sender<ClientStatus>,
    clock: AgeClock,
    /// The store's thread, which reads what comes next.
    reader: OnceLock<Thread>,
}

/// Milliseconds since 1970 as the wall clock had it at the start, and from then on never back and never ahead.
#[derive(Debug)]
struct AgeClock {
    started: MonoTime,
    started_ms: u64,
}

impl AgeClock {
    fn start() -> Self {
        let started = MonoTime::now();
        Self { started, started_ms: Clocks::now().wall_ms(started) }
    }

    fn now_ms(&self) -> u64 {
        let passed = MonoTime::now().since(self.started);
        self.started_ms.saturating_add(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
    }
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
        let now_ms = self.now_ms();
        let mut stores = self.shared.stores();
        let pushed = if message.retain { stores.retained.set(message) } else { stores.outbox.push(message, now_ms) };
        let wake = stores.connected;
        drop(stores);
        if wake {
            self.shared.wake.notify_one();
        }
        pushed
    }

    /// Does something quick with the outbox.
    pub(super) fn outbox<T>(&self, work: impl FnOnce(&mut Outbox) -> T) -> T {
        work(&mut self.shared.stores().outbox)
    }

    /// The time by which the outbox judges age.
    pub(super) fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    /// There may be something to send.
    pub(super) fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Who is to be unparked when the outbox wants a page.
    pub(super) fn reader(&self, thread: Thread) {
        // There is one store a link.
        let _ = self.shared.reader.set(thread);
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
    pub fn status(&self) -> watch::Receiver<ClientStatus> {
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
        let stopped = status.wait_for(|status| matches!(status.state, ClientState::Stopped(_)));
        // The deadline is the link's own; this one is for a link that nobody runs.
        let _ = timeout_at(deadline + FAREWELL_MAX, stopped).await;
        self.shared.stores().outbox.len()
    }
}

enum StopStep {
    /// Go on; when stopping, look again at that time.
    Serve(Option<Instant>),
    /// The broker has everything that it will get; true when that includes `offline`.
    Leave(bool),
}

/// See the module's doc.
pub struct MqttClient {
    settings: Settings,
    shared: Arc<Shared>,
    on_handed: Box<dyn FnMut(Marks, MonoTime) + Send>,
    pace: Pace,
    marks: Vec<Marks>,
    /// Pings sent on this connection: the measure of time for acks that never come.
    round: u32,
    connected_at: Option<Instant>,
    /// When it was last said that messages to us are lost.
    deaf_at: Option<Instant>,
    logged_error: Option<Arc<str>>,
    logged_refusal: Option<&'static str>,
    filters: Vec<String>,
    inbox: Option<mpsc::Sender<Received>>,
}

/// A message from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub topic: String,
    pub payload: Bytes,
    /// Kept by the broker from before we subscribed.
    pub retained: bool,
}

impl MqttClient {
    /// A link that connects once it is [run](MqttClient::run).
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
        let state = ClientState::Connecting;
        let status = ClientStatus { state, since: MonoTime::now(), connections: 0, last_error: None };
        let shared = Shared {
            stores: Mutex::new(stores),
            wake: Notify::new(),
            status: watch::Sender::new(status),
            clock: AgeClock::start(),
            reader: OnceLock::new(),
        };
        let pace = settings.drain_per_s;
        Ok(Self {
            settings,
            shared: Arc::new(shared),
            on_handed: Box::new(on_handed),
            pace: Pace::new(pace),
            marks: Vec::new(),
            round: 0,
            connected_at: None,
            deaf_at: None,
            logged_error: None,
            logged_refusal: None,
            filters: Vec::new(),
            inbox: None,
        })
    }

    /// Subscribes to `filters` on each connection; what comes while `inbox` is full is lost.
    pub fn subscribe(&mut self, filters: Vec<String>, inbox: mpsc::Sender<Received>) {
        self.filters = filters;
        self.inbox = Some(inbox);
    }

    /// The way to this link for everyone else.
    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone() }
    }

    /// Connects, serves and reconnects until [`Handle::drain`]; returns how many messages were left.
    pub async fn run(mut self) -> usize {
        let mut backoff = Backoff::new(self.settings.retry_min, self.settings.retry_max);
        while !self.is_over() {
            self.connected_at = None;
            let ended = self.connection().await;
            self.shared.stores().rewind();
            let Err(lost) = ended else { break };
            // Not from the attempt's beginning: a broker that is silent takes as long, and must be spared.
            if self.connected_at.is_some_and(|at| at.elapsed() >= GOOD_CONNECTION) {
                backoff.reset();
            }
            let delay = backoff.next(backoff::random());
            self.report_lost(&lost, delay);
            self.pause(delay).await;
        }
        let left = self.shared.stores().outbox.len();
        self.set_state(ClientState::Stopped(left));
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
        let mut until = Instant::now() + self.settings.reach.connect_timeout;
        if let Some(stop) = self.shared.stores().stop {
            until = until.min(stop.flush_until);
        }
        let will = (self.settings.status_topic.as_ref(), OFFLINE.as_bytes());
        let mut connection = Connection::open(&self.settings.reach, Some(will), until, |_, _, _| {}).await?;
        self.round = 0;
        for (filter, packet_id) in self.filters.iter().zip((0..=u16::MAX).rev()) {
            connection.subscribe(filter, packet_id)?;
        }
        self.shared.stores().connected = true;
        self.report_connected();
        loop {
            let timer = match self.stop_step() {
                StopStep::Serve(timer) => timer,
                StopStep::Leave(told) => return leave(connection, told).await,
            };
            let paced = self.send(&mut connection).await?;
            let (timer, ping_at) = (timer.into_iter().chain(paced).min(), connection.ping_at());
            let incoming = tokio::select! {
                biased;
                incoming = connection.read() => Some(incoming?),
                () = sleep_until(ping_at) => {
                    connection.ping()?;
                    self.round += 1;
                    None
                }
                () = self.shared.wake.notified() => None,
                () = at(timer) => None,
            };
            self.receive(&mut connection, incoming)?;
        }
    }

    /// Hands over what the bounds allow, in one write; when to come again for what the pace held back.
    ///
    /// Nothing else is written but in `leave`, and nothing is left unwritten when it returns.
    async fn send(&mut self, connection: &mut Connection) -> Result<Option<Instant>, Lost> {
        let limits = connection.limits;
        let now_ms = self.shared.clock.now_ms();
        let wants_page = {
            let mut stores = self.shared.stores();
            stores.outbox.expire(now_ms);
            stores.retained.drop_larger(largest_message(&limits));
            while connection.unwritten() < BATCH_BYTES
                && let Some(message) = stores.next_to_send((self.round, now_ms), &limits, &mut self.pace)
            {
                connection.publish(&message)?;
            }
            stores.outbox.wanted_page().is_some()
        };
        if wants_page {
            self.shared.reader.get().map(Thread::unpark);
        }
        if connection.unwritten() == 0 {
            return Ok(self.pace.next());
        }
        connection.write().await?;
        let more = {
            let mut stores = self.shared.stores();
            stores.outbox.on_written(&mut self.marks);
            !stores.farewell && stores.outbox.can_send()
        };
        let paced = self.pace.next();
        if more && paced.is_none() {
            self.shared.wake.notify_one();
        }
        if !self.marks.is_empty() {
            let now = MonoTime::now();
            self.marks.drain(..).for_each(|marks| (self.on_handed)(marks, now));
        }
        Ok(paced)
    }

    /// Notes what the broker said, and all else that is at hand without waiting.
    fn receive(&mut self, connection: &mut Connection, mut incoming: Option<Incoming>) -> Result<(), Lost> {
        while let Some(said) = incoming {
            match said {
                Incoming::PubAck { packet_id, refused } => {
                    self.shared.stores().on_puback(packet_id, refused.is_some());
                    self.report_refusal(refused);
                }
                Incoming::Bye(reason) => return Err(Lost(reason)),
                Incoming::Message { topic, payload, retained, packet_id } => {
                    if let Some(packet_id) = packet_id {
                        connection.ack(packet_id)?;
                    }
                    if let Some(inbox) = &self.inbox
                        && inbox.try_send(Received { topic, payload, retained }).is_err()
                        && self.deaf_at.is_none_or(|at| at.elapsed() >= SAID_AGAIN)
                    {
                        self.deaf_at = Some(Instant::now());
                        tracing::warn!("more messages come from the broker than can be heard; some are lost");
                    }
                }
                Incoming::SubAck { refused: true } => {
                    let address = self.settings.reach.address();
                    tracing::error!("the MQTT broker {address} refuses a subscription to one of {:?}", self.filters);
                }
                _ => {}
            }
            incoming = connection.at_hand()?;
        }
        // Out at the ping before the last one and still not acknowledged. Within a connection nothing is ever sent
        // twice, so only a new connection can deliver it.
        if self.shared.stores().oldest_round().is_some_and(|oldest| oldest + 2 <= self.round) {
            return Err(Lost("it answers pings, but does not acknowledge messages".into()));
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

    /// A refusal goes on and on, so it is said once for each reason in a row.
    fn report_refusal(&mut self, refused: Option<&'static str>) {
        let Some(reason) = refused else { return };
        if self.logged_refusal.replace(reason) != Some(reason) {
            let address = self.settings.reach.address();
            tracing::error!(
                "the MQTT broker {address} refuses messages ({reason}); they are dropped and counted as refused"
            );
        }
    }

    fn set_state(&self, state: ClientState) {
        self.shared.status.send_modify(|status| {
            status.connections += u64::from(state == ClientState::Connected);
            status.since = if status.state == state { status.since } else { MonoTime::now() };
            status.state = state;
        });
    }

    fn report_connected(&mut self) {
        self.logged_error = None;
        self.connected_at = Some(Instant::now());
        self.set_state(ClientState::Connected);
        let waiting = self.shared.stores().outbox.len();
        tracing::info!(
            "connected to the MQTT broker {}; {waiting} messages were waiting",
            self.settings.reach.address()
        );
    }

    fn report_lost(&mut self, Lost(cause): &Lost, delay: Duration) {
        let cause: Arc<str> = cause.as_str().into();
        self.shared.status.send_modify(|status| status.last_error = Some(cause.clone()));
        self.set_state(ClientState::Waiting);
        let address = self.settings.reach.address();
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

/// Bytes of topic and payload that a broker with these limits takes.
fn largest_message(limits: &Limits) -> usize {
    (limits.packet_bytes as usize).saturating_sub(HEADER_BYTES)
}

fn outgoing(packet_id: u16, message: &Message) -> Outgoing<'_> {
    Outgoing {
        topic: &message.topic,
        payload: &message.payload,
        qos: message.qos,
        retain: message.retain,
        packet_id,
        expiry_s: None,
        waited_ms: None,
    }
}

/// Disconnects; without a word when `offline` was not acknowledged, so that the broker publishes the last will.
async fn leave(mut connection: Connection, told: bool) -> Result<(), Lost> {
    if told {
        connection.disconnect();
        // All that matters was acknowledged.
        let _ = tokio::time::timeout(FAREWELL_MAX, connection.write()).await;
    }
    Ok(())
}
