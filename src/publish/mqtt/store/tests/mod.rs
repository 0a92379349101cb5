//! The store's rounds on real files, with the time passed in.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::mqtt::Version;
use crate::publish::message::{Class, Message, Qos};
use crate::publish::mqtt::client::tests::settings;
use crate::publish::mqtt::outbox::{Limits, Reason, Stats, WhenFull};
use crate::publish::mqtt::{self, MqttClient};

mod damage;
mod failures;
mod outage;
mod power_cut;
mod unwritable;

const NOW_MS: u64 = 1_800_000_000_000;
const TOPIC: &str = "edgewatt/porch/p/shoulder/prediction";

/// A folder in memory if there is one: these tests need order from the disk, not speed.
fn folder() -> TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { TempDir::new_in(shm).unwrap() } else { TempDir::new().unwrap() }
}

fn limits(max_bytes: u64) -> Limits {
    Limits {
        max_messages: 10_000,
        max_bytes: 8 << 20,
        max_stored_bytes: payload_bytes(max_bytes),
        max_age_ms: 72 * 3_600_000,
        max_payload_bytes: 256 * 1024,
        inflight: 256,
        when_full: WhenFull::DropOldest,
    }
}

/// A client that is never run: the test plays the broker.
fn client(limits: Limits) -> Handle {
    let settings = mqtt::Settings { outbox: limits, ..settings(1, Version::Five) };
    MqttClient::new(settings, |_, _| {}).unwrap().handle()
}

/// A store and its outbox.
struct Rig {
    keeper: Keeper,
    now_ms: u64,
    produced: u32,
    acked: Vec<u32>,
}

impl Rig {
    fn new(path: PathBuf, limits: Limits, max_bytes: u64) -> Self {
        let mqtt = client(limits);
        mqtt.outbox(|outbox| outbox.await_store());
        let settings = Settings { path, commit: Duration::from_millis(250), max_bytes };
        let keeper = Keeper::new(settings, mqtt, watch::channel(State::Opening).0);
        let mut rig = Self { keeper, now_ms: NOW_MS, produced: 0, acked: Vec::new() };
        rig.round();
        rig
    }

    fn in_folder(folder: &TempDir) -> Self {
        Self::new(folder.path().join("outbox.db"), limits(1 << 20), 1 << 20)
    }

    fn round(&mut self) {
        self.keeper.round(self.now_ms, false);
    }

    fn state(&self) -> State {
        self.keeper.state.borrow().clone()
    }

    #[track_caller]
    fn fails(&self, part: &str) {
        let State::Failing(reason) = self.state() else { panic!("it does not fail") };
        assert!(reason.contains(part), "`{part}` is not in: {reason}");
    }

    fn stats(&self) -> Stats {
        let s = self.keeper.mqtt.outbox(|outbox| outbox.stats());
        assert_eq!(s.produced + s.recovered, s.acked + s.written + s.queued + s.in_flight + s.drops.total(), "{s:?}");
        s
    }

    /// A prediction as large as a real one, and 100 ms later.
    fn produce(&mut self) {
        let payload = format!("{:010}{}", self.produced, "x".repeat(240)).into_bytes().into();
        let topic = TOPIC.into();
        let class = Class::Prediction;
        let message = Message { topic, payload, qos: Qos::AtLeastOnce, retain: false, class, marks: None };
        self.keeper.mqtt.outbox(|outbox| outbox.push(message, self.now_ms));
        self.produced += 1;
        self.now_ms += 100;
    }

    /// Seconds with ten predictions each, and a round of the store when one is due.
    fn outage(&mut self, seconds: u32) {
        for _ in 0..seconds * 10 {
            self.produce();
            let due = self.keeper.mqtt.outbox(|outbox| outbox.store_due_ms(250));
            if due.is_some_and(|due_ms| due_ms <= self.now_ms) {
                self.round();
            }
        }
    }

    /// The broker takes all that can be sent, at most so many.
    fn take(&mut self, most: usize) -> usize {
        let mut taken = 0;
        while taken < most {
            let one = self.keeper.mqtt.outbox(|outbox| {
                outbox.expire(self.now_ms);
                let (id, number) = outbox.next_to_send(0).map(|(id, message)| (id, number(message)))?;
                assert!(outbox.on_puback(id, false));
                Some(number)
            });
            match one {
                Some(number) => self.acked.push(number),
                None => {
                    let wanted = || self.keeper.mqtt.outbox(|outbox| outbox.wanted_page());
                    let before = wanted();
                    if before.is_none() {
                        return taken;
                    }
                    self.round();
                    if self.keeper.mqtt.outbox(|outbox| outbox.wanted_page()) == before {
                        return taken;
                    }
                    continue;
                }
            }
            taken += 1;
        }
        taken
    }
}

/// The number in a message of [`Rig::produce`], which must be whole.
fn number(message: &Message) -> u32 {
    assert!(message.payload.len() == 250 && message.payload[10..].iter().all(|byte| *byte == b'x'), "{message:?}");
    assert_eq!(&*message.topic, TOPIC);
    std::str::from_utf8(&message.payload[..10]).unwrap().parse().unwrap()
}

/// Bytes of the file and of SQLite's log.
fn bytes_of(path: &Path) -> u64 {
    let named = path.file_name().unwrap().to_str().unwrap();
    let files = fs::read_dir(path.parent().unwrap()).unwrap().flatten();
    let ours = files.filter(|file| file.file_name().to_str().unwrap().starts_with(named));
    ours.map(|file| file.metadata().unwrap().len()).sum()
}
