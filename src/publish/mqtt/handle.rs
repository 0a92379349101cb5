//! The client as the rest of the daemon sees it: publish, look at state and figures, stop.
//!
//! Owns the lock around the queues. [`Handle::publish`] may be called from any thread and never waits for the network
//! or the disk.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::dropped::DroppedMessage;
use super::outbox::{Outbox, Pushed, Reason};
use super::queues::{Queues, Stop};
use super::store::State as StoreState;
use super::{outbox, retained};
use crate::publish::bus::Sink;
use crate::publish::message::{Class, Message};
use crate::publish::payload::{Clocks, Delivery};
use crate::units::MonoTime;

/// The part of the time for a stop that is reserved for publishing `offline`.
pub(super) const OFFLINE_MAX: Duration = Duration::from_secs(1);

/// Whether the client is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientState {
    /// No connection yet, and none was lost.
    Connecting,
    /// Connected; messages are sent.
    Connected,
    /// The connection was lost or could not be made; the client tries again by itself.
    Waiting,
    /// The client was stopped; holds the number of messages that were not acknowledged.
    Stopped(usize),
}

/// The state of the client, and how it came about.
#[derive(Debug, Clone)]
pub struct ClientStatus {
    pub state: ClientState,
    /// When it entered this state.
    pub since: MonoTime,
    /// Connections made so far; the first is not a reconnect.
    pub connections: u64,
    /// Why the last connection was lost or not made.
    pub last_error: Option<Arc<str>>,
    pub warnings: Warnings,
}

/// What does not work although there is a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Warnings {
    /// Another client seems to have the same client id.
    pub client_id: Option<Arc<str>>,
    /// The broker keeps no retained messages, or takes QoS 0 only.
    pub limits: Option<Arc<str>>,
    /// Messages are dropped: they are too large for the broker or the queue, or the broker does not take them.
    pub dropped: Option<Arc<str>>,
}

impl Warnings {
    /// Returns all of them as one text; `None` if there are none.
    pub fn text(&self) -> Option<String> {
        let all: Vec<&str> =
            [&self.client_id, &self.limits, &self.dropped].into_iter().flatten().map(AsRef::as_ref).collect();
        if all.is_empty() { None } else { Some(all.join("; ")) }
    }
}

/// All figures of delivery.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Messages of which each is delivered.
    pub outbox: outbox::Stats,
    /// Retained topics.
    pub retained: retained::Stats,
    /// Connections made after the first.
    pub reconnects: u64,
}

/// What the client and its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    queues: Mutex<Queues>,
    pub wake: Notify,
    pub status: watch::Sender<ClientStatus>,
    pub clock: AgeClock,
    store: OnceLock<StoreLink>,
}

/// The store's thread, which reads pages on request, and its state.
#[derive(Debug)]
struct StoreLink {
    thread: Thread,
    state: watch::Receiver<StoreState>,
}

/// Milliseconds since 1970: the wall clock at the start plus the monotonic time since. It never jumps.
#[derive(Debug)]
pub(super) struct AgeClock {
    started: MonoTime,
    started_ms: u64,
}

impl AgeClock {
    fn start() -> Self {
        let started = MonoTime::now();
        Self { started, started_ms: Clocks::now().wall_ms(started) }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        let passed = MonoTime::now().since(self.started);
        self.started_ms.saturating_add(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Shared {
    pub(crate) fn new(queues: Queues) -> Self {
        let state = ClientState::Connecting;
        let status = ClientStatus {
            state,
            since: MonoTime::now(),
            connections: 0,
            last_error: None,
            warnings: Warnings::default(),
        };
        Self {
            queues: Mutex::new(queues),
            wake: Notify::new(),
            status: watch::Sender::new(status),
            clock: AgeClock::start(),
            store: OnceLock::new(),
        }
    }

    pub(crate) fn queues(&self) -> MutexGuard<'_, Queues> {
        // No code under the lock can panic half-way through a change, so a poisoned lock still guards sound queues.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs messages that were dropped, and sets the state that names them.
    pub(crate) fn report_dropped(&self, new: &[DroppedMessage]) {
        if new.is_empty() {
            return;
        }
        new.iter().for_each(|message| tracing::warn!("{message}"));
        let text = self.dropped_text().map(Arc::from);
        self.status.send_modify(|status| status.warnings.dropped = text);
    }

    /// Returns which messages are too large for the broker or the queue, or are not taken by the broker.
    pub(crate) fn dropped_text(&self) -> Option<String> {
        let queues = self.queues();
        queues.dropped.text(queues.retained.prefix())
    }

    /// Wakes the store's thread, if there is a store: the outbox wants a page.
    pub(crate) fn wake_store(&self) {
        if let Some(store) = self.store.get() {
            store.thread.unpark();
        }
    }
}

/// Gives access to the client; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Takes a message: a retained one replaces the value of its topic, any other one goes into the outbox.
    pub fn publish(&self, message: Message) -> Pushed {
        let now_ms = self.now_ms();
        let mut queues = self.shared.queues();
        let pushed = queues.push(message, now_ms);
        let (wake, dropped) = (queues.connected, queues.dropped.take_new());
        drop(queues);
        self.shared.report_dropped(&dropped);
        if wake {
            self.shared.wake.notify_one();
        }
        pushed
    }

    /// Does short work on the outbox, under the lock.
    pub(super) fn outbox<T>(&self, work: impl FnOnce(&mut Outbox) -> T) -> T {
        work(&mut self.shared.queues().outbox)
    }

    /// Returns the time by which the outbox judges age.
    pub(super) fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    /// Wakes the client: there may be something to send.
    pub(super) fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Sets the store's thread, which is unparked when the outbox wants a page, and its state.
    pub(super) fn set_store(&self, thread: Thread, state: watch::Receiver<StoreState>) {
        // A client has one store.
        let _ = self.shared.store.set(StoreLink { thread, state });
    }

    /// Returns the figures as of now.
    pub fn stats(&self) -> Stats {
        let reconnects = self.shared.status.borrow().connections.saturating_sub(1);
        let queues = self.shared.queues();
        Stats { outbox: queues.outbox.stats(), retained: queues.retained.stats(), reconnects }
    }

    /// Returns the figures as they are published.
    pub fn delivery(&self) -> Delivery {
        let stats = self.stats();
        let drops = stats.outbox.drops.plus(&stats.retained.drops);
        let (store, store_error) = match self.shared.store.get().map(|store| store.state.borrow().clone()) {
            None => ("off", None),
            Some(StoreState::Opening | StoreState::Working) => ("working", None),
            Some(StoreState::Failing(reason)) => ("failing", Some(reason.as_ref().into())),
        };
        let of_class = |class: Class| Reason::ALL.iter().map(move |reason| (class, *reason));
        Delivery {
            produced: stats.outbox.produced,
            queued: stats.outbox.queued + stats.outbox.in_flight,
            delivered: stats.outbox.acked + stats.outbox.written,
            resent: stats.outbox.resent,
            reconnects: stats.reconnects,
            recovered: stats.outbox.recovered,
            stored: stats.outbox.stored,
            stored_kib: stats.outbox.stored_bytes / 1024,
            store,
            store_error,
            drops: Class::ALL
                .into_iter()
                .flat_map(of_class)
                .map(|(class, reason)| (format!("{}.{}", class.name(), reason.name()), drops.get(class, reason)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }

    /// Returns why messages on that topic are dropped; `None` if none was.
    pub fn why_dropped(&self, topic: &str) -> Option<String> {
        self.shared.queues().dropped.text_of_topic(topic)
    }

    /// Returns whether the broker has the latest value of that retained topic.
    pub fn has_retained(&self, topic: &str) -> bool {
        self.shared.queues().retained.has(topic)
    }

    /// Returns the state of the client, and a way to wait for it to change.
    pub fn status(&self) -> watch::Receiver<ClientStatus> {
        self.shared.status.subscribe()
    }

    /// Returns the state of the store, and a way to wait for it to change; `None` without a store.
    pub fn store_state(&self) -> Option<watch::Receiver<StoreState>> {
        self.shared.store.get().map(|store| store.state.clone())
    }

    /// Stops the client: sends what is queued, publishes `offline` and disconnects, all `within` that time.
    ///
    /// Returns how many messages the broker has not acknowledged. Producers should have ended before.
    pub async fn drain(&self, within: Duration) -> usize {
        let deadline = Instant::now() + within;
        let for_offline = (within / 4).min(OFFLINE_MAX);
        self.shared.queues().stop = Some(Stop { flush_until: deadline - for_offline, deadline });
        self.shared.wake.notify_one();
        let mut status = self.status();
        let stopped = status.wait_for(|status| matches!(status.state, ClientState::Stopped(_)));
        // The client keeps the deadline itself; this one is for a client that was never run.
        let _ = timeout_at(deadline + OFFLINE_MAX, stopped).await;
        self.shared.queues().outbox.len()
    }
}

impl Sink for Handle {
    fn publish(&self, message: &Message) -> ControlFlow<()> {
        // The outbox counts what it has no room for.
        Handle::publish(self, message.clone());
        ControlFlow::Continue(())
    }

    /// The broker takes messages, but more than `messages` further ones may not fit before it has taken some.
    fn is_crowded(&self, messages: usize) -> bool {
        let queues = self.shared.queues();
        queues.connected && queues.outbox.is_crowded(messages)
    }
}
