//! The bus: takes each message once and passes it to every sink, such as the MQTT client or a view in this process.
//!
//! Owns the order, which is the same for all sinks, and the last value of each retained topic, which a sink gets when it
//! joins. Leaves to each sink what it queues, drops and counts. Runs on the thread that publishes; a sink may be added
//! from any thread.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::message::Message;

/// What carries messages away.
pub trait Sink: Send {
    /// Takes a message without blocking; `Break` removes the sink from the bus. Must not call the bus.
    fn publish(&self, message: &Message) -> ControlFlow<()>;

    /// Returns whether this many further messages may not fit, although the sink is making room. A publisher whose
    /// source can wait then waits. A sink that may lose messages is never crowded.
    fn is_crowded(&self, _messages: usize) -> bool {
        false
    }
}

/// See the module's doc; cheap to clone.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    sinks: Vec<Box<dyn Sink>>,
    /// The last message of each retained topic, in the order in which the topics first appeared.
    retained: Vec<Message>,
    index: HashMap<Arc<str>, usize>,
    limits: RetainedLimits,
}

/// Bounds of what the bus keeps.
#[derive(Debug, Clone, Copy)]
pub struct RetainedLimits {
    pub topics: usize,
    pub payload_bytes: usize,
}

impl Bus {
    /// Returns a bus without sinks. What exceeds the limits is passed on, but not kept.
    pub fn new(limits: RetainedLimits) -> Self {
        let shared = Shared { sinks: Vec::new(), retained: Vec::new(), index: HashMap::new(), limits };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // A sink that panics leaves the list and the retained messages as they were.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a message to every sink.
    pub fn publish(&self, message: &Message) {
        let mut shared = self.shared();
        if message.retain {
            shared.keep(message);
        }
        shared.sinks.retain(|sink| sink.publish(message).is_continue());
    }

    /// Adds a sink, which gets the last message of each retained topic at once.
    pub fn add(&self, sink: impl Sink + 'static) {
        let mut shared = self.shared();
        if shared.retained.iter().all(|message| sink.publish(message).is_continue()) {
            shared.sinks.push(Box::new(sink));
        }
    }

    /// Returns a subscription with room for the messages of all retained topics and `capacity` further ones.
    pub fn subscribe(&self, capacity: usize) -> Subscription {
        let mut shared = self.shared();
        let (sender, receiver) = mpsc::channel(shared.retained.len() + capacity.max(1));
        let dropped = Arc::<AtomicU64>::default();
        for message in &shared.retained {
            // The channel has room for them.
            let _ = sender.try_send(message.clone());
        }
        shared.sinks.push(Box::new(Subscriber { sender, dropped: dropped.clone() }));
        Subscription { receiver, dropped }
    }

    /// Returns whether a sink may have no room for this many further messages; see [`Sink::is_crowded`].
    pub fn is_crowded(&self, messages: usize) -> bool {
        self.shared().sinks.iter().any(|sink| sink.is_crowded(messages))
    }
}

impl Shared {
    fn keep(&mut self, message: &Message) {
        if message.payload.len() > self.limits.payload_bytes {
            return;
        }
        if let Some(last) = self.index.get(&message.topic).and_then(|place| self.retained.get_mut(*place)) {
            last.clone_from(message);
        } else if self.retained.len() < self.limits.topics {
            self.index.insert(message.topic.clone(), self.retained.len());
            self.retained.push(message.clone());
        }
    }
}

/// The bus's end of a subscription.
struct Subscriber {
    sender: mpsc::Sender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Sink for Subscriber {
    fn publish(&self, message: &Message) -> ControlFlow<()> {
        match self.sender.try_send(message.clone()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                ControlFlow::Continue(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => ControlFlow::Break(()),
        }
    }
}

/// Messages for a view in this process: the retained ones first, then all others as they are published.
///
/// A slow reader loses new messages, which are counted; it never holds up the publisher. After a loss, a new
/// subscription gives the current state. Dropping it ends it.
pub struct Subscription {
    receiver: mpsc::Receiver<Message>,
    dropped: Arc<AtomicU64>,
}

impl Subscription {
    /// Waits for the next message; `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<Message> {
        self.receiver.recv().await
    }

    /// Returns the next message if there is one.
    pub fn try_next(&mut self) -> Option<Message> {
        self.receiver.try_recv().ok()
    }

    /// Returns how many messages were dropped because the reader was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::message::{Bytes, Class, Qos};

    /// Keeps what it was given, for the test to look at.
    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<String>>>);

    impl Sink for Recorder {
        fn publish(&self, message: &Message) -> ControlFlow<()> {
            self.0.lock().unwrap().push(text(message));
            ControlFlow::Continue(())
        }

        fn is_crowded(&self, messages: usize) -> bool {
            messages > 10
        }
    }

    fn text(message: &Message) -> String {
        format!("{}={}", message.topic, String::from_utf8_lossy(&message.payload))
    }

    fn message(topic: &str, payload: &'static str, retain: bool) -> Message {
        Message {
            topic: topic.into(),
            payload: Bytes::from_static(payload.as_bytes()),
            qos: Qos::AtLeastOnce,
            retain,
            class: Class::State,
            marks: None,
        }
    }

    fn bus(topics: usize) -> Bus {
        Bus::new(RetainedLimits { topics, payload_bytes: 4 })
    }

    fn all(subscription: &mut Subscription) -> Vec<String> {
        std::iter::from_fn(|| subscription.try_next()).map(|message| text(&message)).collect()
    }

    #[test]
    fn all_sinks_get_the_same_messages_in_order() {
        let (bus, recorder) = (bus(4), Recorder::default());
        bus.add(recorder.clone());
        let mut subscription = bus.subscribe(8);
        for (topic, payload, retain) in [("p", "1", false), ("s", "1", true), ("p", "2", false), ("s", "2", true)] {
            bus.publish(&message(topic, payload, retain));
        }
        let expected = ["p=1", "s=1", "p=2", "s=2"];
        assert_eq!(all(&mut subscription), expected);
        assert_eq!(*recorder.0.lock().unwrap(), expected);
        assert!(bus.is_crowded(11) && !bus.is_crowded(10));
    }

    #[test]
    fn who_joins_gets_the_last_value_of_each_retained_topic() {
        let bus = bus(2);
        for (topic, payload) in [("a", "1"), ("b", "1"), ("a", "2"), ("one too many", "1"), ("a", "too large")] {
            bus.publish(&message(topic, payload, true));
        }
        bus.publish(&message("p", "1", false));
        assert_eq!(all(&mut bus.subscribe(0)), ["a=2", "b=1"]);
        let recorder = Recorder::default();
        bus.add(recorder.clone());
        assert_eq!(*recorder.0.lock().unwrap(), ["a=2", "b=1"]);
    }

    #[test]
    fn a_slow_subscriber_loses_messages_and_holds_up_nobody() {
        let (bus, recorder) = (bus(4), Recorder::default());
        bus.add(recorder.clone());
        let mut slow = bus.subscribe(2);
        for payload in ["1", "2", "3", "4"] {
            bus.publish(&message("p", payload, false));
        }
        assert_eq!((all(&mut slow), slow.dropped()), (vec!["p=1".to_owned(), "p=2".to_owned()], 2));
        assert_eq!(recorder.0.lock().unwrap().len(), 4);
        drop(slow);
        bus.publish(&message("p", "5", false));
        assert_eq!(bus.shared().sinks.len(), 1, "a subscription that was dropped has ended");
    }
}
