//! The client: takes messages from the queues, sends them, notes their acknowledgements, and reconnects until stopped.
//!
//! Owns the connection, the backoff and the order of a stop. Runs as one future on the async thread.
//!
//! Messages go out in batches, each message of QoS 1 with a packet id of ours: a batch costs one write, and ids cannot
//! collide. Sessions at the broker are not used: after any error, what was not acknowledged is sent again on a new
//! connection, whatever the broker remembers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::handle::{ClientState, Handle, OFFLINE_MAX, Shared};
use super::outbox::Outbox;
use super::pace::Pace;
use super::queues::{Queues, Stop, Turn};
use super::retained::Retained;
use super::settings::{Settings, SettingsError};
use super::{OFFLINE, ONLINE, status_message};
use crate::backoff::{self, Backoff};
use crate::mqtt::codec::{INCOMING_MAX, Incoming, Limits};
use crate::mqtt::connection::{Connection, Lost, Will};
use crate::mqtt::losses::Losses;
use crate::publish::message::{Bytes, Marks, Qos};
use crate::text::counted;
use crate::units::MonoTime;

/// Bytes of a batch; after each batch the client reads the broker's answers.
const BATCH_BYTES: usize = 32 * 1024;
/// The warning that incoming messages are lost is repeated after this time, if it goes on.
const WARNING_PERIOD: Duration = Duration::from_secs(60);

/// What a stop asks for now.
enum StopStep {
    /// Go on; when stopping, look again at that time.
    Serve(Option<Instant>),
    /// The broker has everything that it will get.
    Leave { offline_acknowledged: bool },
}

/// See the module's doc.
pub struct MqttClient {
    settings: Settings,
    shared: Arc<Shared>,
    on_sent: Box<dyn FnMut(Marks, MonoTime) + Send>,
    pace: Pace,
    marks: Vec<Marks>,
    /// Pings sent on this connection: the measure of time for acknowledgements that never come.
    round: u32,
    /// When the last warning was logged that incoming messages are lost.
    inbox_warned_at: Option<Instant>,
    logged_error: Option<Arc<str>>,
    losses: Losses,
    /// Packet ids that were sent with QoS 0 because the broker takes nothing else: they will not be acknowledged.
    unacknowledged: Vec<u16>,
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
    /// Returns a client that connects once it is [run](MqttClient::run).
    ///
    /// `on_sent` is called on the client's thread once for every message with marks, when it is first written to the
    /// socket; it must not block.
    pub fn new(
        settings: Settings,
        on_sent: impl FnMut(Marks, MonoTime) + Send + 'static,
    ) -> Result<Self, SettingsError> {
        settings.check()?;
        let first_id = settings.outbox.inflight + 1;
        let retained = Retained::new(
            status_message(&settings, ONLINE),
            first_id,
            settings.max_retained_topics,
            settings.outbox.max_payload_bytes,
        );
        let shared = Shared::new(Queues::new(Outbox::new(settings.outbox.clone()), retained));
        Ok(Self {
            pace: Pace::new(settings.drain_per_s),
            settings,
            shared: Arc::new(shared),
            on_sent: Box::new(on_sent),
            marks: Vec::new(),
            round: 0,
            inbox_warned_at: None,
            logged_error: None,
            losses: Losses::default(),
            unacknowledged: Vec::new(),
            filters: Vec::new(),
            inbox: None,
        })
    }

    /// Sets the filters to subscribe to on each connection; messages that come while `inbox` is full are lost.
    pub fn subscribe(&mut self, filters: Vec<String>, inbox: mpsc::Sender<Received>) {
        self.filters = filters;
        self.inbox = Some(inbox);
    }

    /// Returns the handle by which others use this client.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// Connects, serves and reconnects until [`Handle::drain`]; returns how many messages were not delivered.
    pub async fn run(mut self) -> usize {
        let mut backoff = Backoff::new(self.settings.retry_min, self.settings.retry_max);
        while !self.is_over() {
            self.losses.attempt();
            let ended = self.serve_connection().await;
            let by_broker = ended.as_ref().is_err_and(Lost::may_be_about_a_message);
            let (progressed, dropped) = {
                let mut queues = self.shared.queues();
                (queues.rewind(by_broker), queues.dropped.take_new())
            };
            self.shared.report_dropped(&dropped);
            let Err(lost) = ended else { break };
            // On a link that never lasts, a pause that grows would be longer than the time in which messages arrive.
            if progressed || self.losses.was_good() {
                backoff.reset();
            }
            let delay = backoff.next(backoff::random());
            let lost = self.explain(lost).await;
            self.report_lost(&lost, delay);
            self.pause(delay).await;
        }
        let left = self.shared.queues().outbox.len();
        self.set_state(ClientState::Stopped(left));
        left
    }

    /// Returns whether a stop needs no further connection. After a lost connection the broker itself publishes
    /// `offline`, the last will.
    fn is_over(&self) -> bool {
        let queues = self.shared.queues();
        let over = |stop: Stop| queues.status_only || queues.outbox.is_empty() || Instant::now() >= stop.flush_until;
        queues.stop.is_some_and(over)
    }

    /// Waits for the delay to pass; the first call for a stop cuts it short, since there may be no time for another.
    async fn pause(&mut self, delay: Duration) {
        let end = Instant::now() + delay;
        let stop = self.shared.queues().stop;
        if let Some(stop) = stop {
            return sleep_until(end.min(stop.flush_until)).await;
        }
        let mut delayed = std::pin::pin!(sleep(delay));
        loop {
            tokio::select! {
                () = &mut delayed => return,
                () = self.shared.wake.notified() => if self.shared.queues().stop.is_some() { return },
            }
        }
    }

    /// Makes one connection and serves it to its end; `Ok` when the client was stopped.
    async fn serve_connection(&mut self) -> Result<(), Lost> {
        let mut connection = self.open().await?;
        loop {
            let timer = match self.stop_step() {
                StopStep::Serve(timer) => timer,
                StopStep::Leave { offline_acknowledged } => {
                    leave(connection, offline_acknowledged).await;
                    return Ok(());
                }
            };
            let paced = match self.send(&mut connection).await {
                Ok(paced) => paced,
                Err(lost) => {
                    let shared = &self.shared;
                    let last_words = connection.last_words(lost, |packet| {
                        if let Incoming::PubAck { packet_id, refused } = packet {
                            shared.queues().on_puback(packet_id, refused);
                        }
                    });
                    return Err(last_words.await);
                }
            };
            let (timer, ping_at) = (timer.into_iter().chain(paced).min(), connection.ping_at());
            let incoming = tokio::select! {
                biased;
                incoming = connection.read() => Some(incoming?),
                () = sleep_until(ping_at) => {
                    connection.ping()?;
                    self.round += 1;
                    self.end_suspicion();
                    None
                }
                () = self.shared.wake.notified() => None,
                () = at(timer) => None,
            };
            self.receive(&mut connection, incoming)?;
        }
    }

    /// Connects, logs in and subscribes.
    async fn open(&mut self) -> Result<Connection, Lost> {
        let mut until = Instant::now() + self.settings.connect.connect_timeout;
        if let Some(stop) = self.shared.queues().stop {
            until = until.min(stop.flush_until);
        }
        let will = Will { topic: &self.settings.status_topic, payload: OFFLINE.as_bytes() };
        let mut connection = Connection::open(&self.settings.connect, Some(will), until, |_, _, _| {}).await?;
        self.round = 0;
        for (filter, packet_id) in self.filters.iter().zip((0..=u16::MAX).rev()) {
            connection.subscribe(filter, packet_id)?;
        }
        self.shared.queues().connected = true;
        self.report_connected(&connection.limits);
        Ok(connection)
    }

    /// Sends what the bounds allow, in one write. Returns when to send what the pace holds back.
    ///
    /// Nothing is left unwritten when it returns; only `leave` writes besides.
    async fn send(&mut self, connection: &mut Connection) -> Result<Option<Instant>, Lost> {
        let limits = connection.limits;
        let turn = Turn { round: self.round, now_ms: self.shared.clock.now_ms() };
        let (wants_page, dropped) = {
            let mut queues = self.shared.queues();
            queues.outbox.expire(turn.now_ms);
            queues.drop_larger_retained(&limits);
            while connection.unwritten() < BATCH_BYTES
                && let Some(message) = queues.next_to_send(turn, &limits, &mut self.pace)
            {
                if limits.qos == Qos::AtMostOnce && message.qos == Qos::AtLeastOnce {
                    self.unacknowledged.push(message.packet_id);
                }
                connection.publish(&message)?;
            }
            (queues.outbox.wanted_page().is_some(), queues.dropped.take_new())
        };
        self.shared.report_dropped(&dropped);
        if wants_page {
            self.shared.wake_store();
        }
        if connection.unwritten() == 0 {
            return Ok(self.pace.next());
        }
        connection.write().await?;
        let more = {
            let mut queues = self.shared.queues();
            queues.outbox.on_written(&mut self.marks);
            self.unacknowledged.drain(..).for_each(|packet_id| queues.on_puback(packet_id, None));
            !queues.status_only && queues.outbox.can_send()
        };
        let paced = self.pace.next();
        if more && paced.is_none() {
            self.shared.wake.notify_one();
        }
        if !self.marks.is_empty() {
            let now = MonoTime::now();
            self.marks.drain(..).for_each(|marks| (self.on_sent)(marks, now));
        }
        Ok(paced)
    }

    /// Takes a packet from the broker, and all further ones that have arrived already.
    fn receive(&mut self, connection: &mut Connection, mut incoming: Option<Incoming>) -> Result<(), Lost> {
        while let Some(packet) = incoming {
            match packet {
                Incoming::PubAck { packet_id, refused } => {
                    self.shared.queues().on_puback(packet_id, refused);
                }
                Incoming::Disconnect(reason) => return Err(reason.into()),
                Incoming::Message { topic, payload, retained, packet_id, .. } => {
                    if let Some(packet_id) = packet_id {
                        connection.ack(packet_id)?;
                    }
                    self.deliver(Received { topic, payload, retained });
                }
                Incoming::SubAck { refused: true } => {
                    let address = self.settings.connect.address();
                    tracing::error!("the MQTT broker {address} refuses a subscription to one of {:?}", self.filters);
                }
                _ => {}
            }
            incoming = connection.read_buffered()?;
        }
        if let Some((count, bytes)) = connection.take_too_large() {
            let (messages, most) = (counted(count, "message"), INCOMING_MAX);
            tracing::warn!(
                "the broker sends {messages} of more than {most} bytes, the last one of {bytes}; refused: a command is smaller"
            );
        }
        // Sent before the last ping but one and still not acknowledged. Within a connection nothing is ever sent
        // twice, so only a new connection can deliver it.
        if self.shared.queues().oldest_round().is_some_and(|oldest| oldest + 2 <= self.round) {
            return Err(Lost::new("it answers pings, but does not acknowledge messages"));
        }
        Ok(())
    }

    fn deliver(&mut self, message: Received) {
        if let Some(inbox) = &self.inbox
            && inbox.try_send(message).is_err()
            && self.inbox_warned_at.is_none_or(|at| at.elapsed() >= WARNING_PERIOD)
        {
            self.inbox_warned_at = Some(Instant::now());
            tracing::warn!("messages come from the MQTT broker faster than they are processed; some are lost");
        }
    }

    fn stop_step(&self) -> StopStep {
        let mut queues = self.shared.queues();
        let Some(stop) = queues.stop else {
            return StopStep::Serve(None);
        };
        let now = Instant::now();
        if !queues.status_only {
            let flushed = queues.outbox.is_empty() && queues.retained.is_settled();
            if !flushed && now < stop.flush_until {
                return StopStep::Serve(Some(stop.flush_until));
            }
            queues.status_only = true;
            queues.retained.set_status(OFFLINE);
        }
        let offline_acknowledged = queues.retained.status_is_settled();
        if offline_acknowledged || now >= stop.deadline {
            StopStep::Leave { offline_acknowledged }
        } else {
            StopStep::Serve(Some(stop.deadline))
        }
    }

    fn set_state(&self, state: ClientState) {
        self.shared.status.send_modify(|status| {
            status.connections += u64::from(state == ClientState::Connected);
            status.since = if status.state == state { status.since } else { MonoTime::now() };
            status.state = state;
        });
    }

    fn report_connected(&mut self, limits: &Limits) {
        self.logged_error = None;
        self.unacknowledged.clear();
        self.losses.connected();
        let warning = limits_text(limits).map(Arc::from);
        let is_new = self.shared.status.borrow().warnings.limits != warning;
        self.shared.queues().dropped.forget_others(limits.packet_bytes);
        let dropped = self.shared.dropped_text().map(Arc::from);
        self.shared.status.send_modify(|status| {
            status.warnings.limits.clone_from(&warning);
            status.warnings.dropped = dropped;
        });
        self.set_state(ClientState::Connected);
        let waiting = self.shared.queues().outbox.len();
        let address = self.settings.connect.address();
        tracing::info!("connected to the MQTT broker {address}; {} waiting", counted(waiting, "message"));
        if let Some(warning) = warning.filter(|_| is_new) {
            tracing::warn!("MQTT broker {address}: {warning}");
        }
    }

    /// Adds to the reason of a loss what may be behind it. A stop does not wait for that.
    async fn explain(&mut self, lost: Lost) -> Lost {
        self.end_suspicion();
        let Self { losses, shared, settings, .. } = self;
        let stopped = async {
            while shared.queues().stop.is_none() {
                shared.wake.notified().await;
            }
        };
        let explained = tokio::select! {
            biased;
            explained = losses.explain(lost.clone(), &settings.connect) => explained,
            () = stopped => return lost,
        };
        if let Some(suspicion) = explained.suspicion {
            shared.status.send_modify(|status| status.warnings.client_id = Some(suspicion.into()));
        }
        explained.lost
    }

    /// Ends the suspicion against the client id on a connection that lasts.
    fn end_suspicion(&mut self) {
        if self.losses.is_calm() {
            self.shared.status.send_if_modified(|status| status.warnings.client_id.take().is_some());
        }
    }

    fn report_lost(&mut self, lost: &Lost, delay: Duration) {
        let cause: Arc<str> = lost.to_string().into();
        self.shared.status.send_modify(|status| status.last_error = Some(cause.clone()));
        self.set_state(ClientState::Waiting);
        let address = self.settings.connect.address();
        if self.logged_error.as_ref() == Some(&cause) {
            tracing::debug!("MQTT broker {address}: {cause}; retrying in {delay:.1?}");
        } else {
            tracing::warn!("no connection to the MQTT broker {address}: {cause}; retrying in {delay:.1?}");
        }
        self.logged_error = Some(cause);
    }
}

/// Returns what a connection with these limits costs; `None` if nothing.
pub(crate) fn limits_text(limits: &Limits) -> Option<String> {
    let retain = (!limits.retain).then_some(
        "no message is retained, because the broker keeps none or mqtt.retain is false: who subscribes later does not see \
         status, info, the states and Home Assistant's discovery until they are published again, or sees those that the \
         broker retained before",
    );
    let qos = (limits.qos == Qos::AtMostOnce).then_some(
        "all messages have QoS 0, because the broker takes nothing else or mqtt.max_qos is 0: what is on its way when the \
         connection breaks is lost, and counts as delivered",
    );
    let all: Vec<&str> = retain.into_iter().chain(qos).collect();
    if all.is_empty() { None } else { Some(all.join("; ")) }
}

async fn at(timer: Option<Instant>) {
    match timer {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Ends the connection: with a DISCONNECT only if `offline` was acknowledged. Without it the broker publishes the last
/// will.
async fn leave(mut connection: Connection, offline_acknowledged: bool) {
    if offline_acknowledged {
        connection.disconnect();
        // Everything that matters was acknowledged.
        let _ = tokio::time::timeout(OFFLINE_MAX, connection.write()).await;
    }
}

#[cfg(test)]
pub(crate) mod tests;
