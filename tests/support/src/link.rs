//! The link to a broker without the rest of the daemon: settings that suit tests, messages, and a thread that runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgewatt::ids::PipelineId;
use edgewatt::mqtt::codec::{Incoming, Outgoing, Session, Version};
use edgewatt::mqtt::connection::{ConnectOptions, Connection};
use edgewatt::mqtt::transport::Endpoint;
use edgewatt::publish::message::{Bytes, Class, Marks, Message, Qos};
use edgewatt::publish::mqtt::outbox::{Limits, Pushed, WhenFull};
use edgewatt::publish::mqtt::{ClientState, Handle, MqttClient, Settings};
use edgewatt::units::MonoTime;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub const PATIENCE: Duration = Duration::from_secs(60);
/// For one answer of a broker.
const ANSWER: Duration = Duration::from_secs(10);

pub fn settings(port: u16) -> Settings {
    Settings {
        connect: ConnectOptions {
            endpoint: Endpoint { host: "127.0.0.1".into(), port, tls: None, websocket: None },
            version: Version::Five,
            login: None,
            client_id: "edgewatt-test".into(),
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            max_qos: Qos::AtLeastOnce,
            retain: true,
            session: Session::default(),
        },
        status_topic: "t/status".into(),
        drain_per_s: None,
        retry_min: Duration::from_millis(10),
        retry_max: Duration::from_millis(50),
        outbox: Limits {
            max_messages: 10_000,
            max_bytes: 10_000_000,
            max_stored_bytes: 0,
            max_age_ms: u64::MAX,
            max_payload_bytes: 100_000,
            inflight: 64,
            when_full: WhenFull::DropOldest,
        },
        max_retained_topics: 16,
    }
}

/// After a loss, time enough to bring a broker and its subscriber back before the link returns.
pub fn patient(port: u16) -> Settings {
    let pause = Duration::from_secs(4);
    Settings { retry_min: pause, retry_max: pause, ..settings(port) }
}

pub fn alive(keep_alive: Duration, mut settings: Settings) -> Settings {
    settings.connect.keep_alive = keep_alive;
    settings
}

/// What an older broker is spoken to with.
pub fn three(mut settings: Settings) -> Settings {
    settings.connect.version = Version::Three;
    settings
}

pub fn prediction(number: usize) -> Message {
    Message {
        topic: "t/prediction".into(),
        payload: format!("{number:06}").into_bytes().into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        class: Class::Prediction,
        marks: Some(Marks { pipeline: PipelineId(0), arrival: MonoTime::now(), invoke_end: MonoTime::now() }),
    }
}

pub fn state(text: &str) -> Message {
    state_of("t/state", text)
}

pub fn state_of(topic: &str, text: &str) -> Message {
    let payload = text.to_owned().into_bytes().into();
    Message { topic: topic.into(), payload, retain: true, class: Class::State, marks: None, ..prediction(0) }
}

/// A link on a thread of its own; it ends without a word, as at a crash, unless it was drained.
pub struct Rig {
    pub handle: Handle,
    pub handed: Arc<AtomicU64>,
    crash: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    pub fn new(settings: Settings) -> Self {
        Self::loaded(settings, [])
    }

    /// With messages that wait before there is a connection.
    pub fn loaded(settings: Settings, messages: impl IntoIterator<Item = Message>) -> Self {
        let handed = Arc::new(AtomicU64::new(0));
        let count = handed.clone();
        let link = MqttClient::new(settings, move |marks, now| {
            assert!(now >= marks.invoke_end);
            count.fetch_add(1, Ordering::Relaxed);
        });
        let link = link.unwrap();
        let handle = link.handle();
        messages.into_iter().for_each(|message| assert_eq!(handle.publish(message), Pushed::Queued));
        let (crash, crashed) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                tokio::select! { _ = link.run() => {}, _ = crashed => {} }
            });
        });
        Self { handle, handed, crash: Some(crash), thread: Some(thread) }
    }

    pub fn publish(&self, numbers: std::ops::Range<usize>) {
        numbers.for_each(|n| assert_eq!(self.handle.publish(prediction(n)), Pushed::Queued));
    }

    pub fn wait(&self, what: &str, mut holds: impl FnMut(&Handle) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.handle) {
            let status = self.handle.status().borrow().clone();
            assert!(Instant::now() < deadline, "waited in vain for {what}: {status:?} {:?}", self.handle.stats());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn wait_for(&self, state: ClientState) {
        self.wait("a state", |handle| handle.status().borrow().state == state);
    }

    pub fn wait_until_empty(&self) {
        self.wait("an empty outbox", |handle| {
            let outbox = handle.stats().outbox;
            outbox.queued + outbox.in_flight == 0
        });
    }

    pub fn drain(&self, within: Duration) -> usize {
        runtime().block_on(self.handle.drain(within))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.crash.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the link's thread panicked");
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Publishes one message and gives the answer to it.
pub async fn publish(connection: &mut Connection, topic: &str) -> Option<String> {
    let payload = Bytes::from_static(b"1");
    let message = Outgoing {
        topic,
        payload: &payload,
        qos: Qos::AtLeastOnce,
        retain: false,
        packet_id: 7,
        expiry_s: Some(60),
        waited_ms: None,
    };
    connection.publish(&message).unwrap();
    connection.write().await.unwrap();
    loop {
        match tokio::time::timeout(ANSWER, connection.read()).await.unwrap().unwrap() {
            Incoming::PubAck { packet_id: 7, refused } => return refused.map(|code| code.to_string()),
            Incoming::PubAck { .. } | Incoming::Disconnect(_) => panic!("another answer"),
            _ => {}
        }
    }
}
