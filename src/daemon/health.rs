//! What the daemon says about its health: the types of the answer, and the board that the answer is made from.
//!
//! The async thread writes its state on the board once a second; the thread of the socket (`health_socket`) reads it. So
//! there is an answer also while the daemon starts, and while its async thread hangs. Pure: time is passed in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::publish::payload::PipelineState;
use crate::units::MonoTime;

/// The version of the answer. A change that readers must know about increases it.
pub const SCHEMA_VERSION: u32 = 1;

/// One line of JSON, which the socket gives to everybody who connects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub health: Health,
    /// The node's last `info` message; `None` before the daemon runs.
    pub info: Option<Value>,
}

/// The state of the whole daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub v: u32,
    /// The daemon's version.
    pub version: String,
    /// The id of its process.
    pub pid: u32,
    pub uptime_s: f64,
    pub state: DaemonState,
    /// What it does while it starts or stops, or what hangs.
    pub reason: Option<String>,
    /// `None` before it runs.
    pub node: Option<NodeHealth>,
}

/// What the daemon does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DaemonState {
    /// It loads or calibrates; no source has started.
    Starting,
    Running,
    /// It runs, and reads its configuration again.
    Reloading,
    /// Sources have stopped; what has arrived is decided and delivered.
    Stopping,
    /// Something in it hangs and does not recover by itself.
    Hung,
}

/// The parts of a daemon that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeHealth {
    /// The node's name.
    pub id: String,
    pub config_sha256: String,
    pub pipelines: Vec<PipelineHealth>,
    pub broker: BrokerHealth,
    pub store: StoreHealth,
    pub meters: Vec<MeterHealth>,
}

/// One pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelineHealth {
    pub name: String,
    pub state: PipelineState,
    /// Why it does not work as configured.
    pub reason: Option<String>,
    /// The delegate that runs; `None` if the pipeline has none.
    pub delegate: Option<String>,
    /// Whether windows go to the model; `None` without a gate.
    #[serde(default)]
    pub gate_open: Option<bool>,
    pub predictions: u64,
    /// The age of the last prediction, exact to one second; `None` if there is no prediction yet.
    pub last_prediction_s: Option<f64>,
}

/// The connection to the broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrokerHealth {
    pub state: BrokerState,
    /// Host and port, or `embedded`; `None` without a broker.
    pub address: Option<String>,
    /// Why the last connection was lost or not made; or, while it is connected, what the broker does not take.
    pub reason: Option<String>,
    /// How long it has been in this state; `None` without a broker.
    pub for_s: Option<f64>,
    /// Messages that wait or are not acknowledged.
    pub queued: u64,
}

/// Whether messages reach the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerState {
    /// The configuration names none.
    None,
    /// The first connection is being made.
    Connecting,
    Connected,
    Unreachable,
}

/// The file for messages that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreHealth {
    pub state: StoreState,
    /// Why it fails.
    pub reason: Option<String>,
}

/// Whether messages that wait survive a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    Off,
    Working,
    Failing,
}

/// One meter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeterHealth {
    pub name: String,
    pub state: MeterState,
    /// Why it gives no reading.
    pub reason: Option<String>,
    /// The age of the last reading.
    pub reading_s: Option<f64>,
}

/// Whether a meter gives readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeterState {
    /// It was not read yet.
    Starting,
    Working,
    Failing,
}

impl NodeHealth {
    /// Returns the same, seen that much later.
    fn later(mut self, by: Duration) -> Self {
        let by = by.as_secs_f64();
        let ages = self.pipelines.iter_mut().map(|pipeline| &mut pipeline.last_prediction_s);
        let ages = ages.chain(self.meters.iter_mut().map(|meter| &mut meter.reading_s));
        ages.chain([&mut self.broker.for_s]).flatten().for_each(|age| *age += by);
        self
    }
}

/// The place where the daemon writes its state; cheap to clone.
#[derive(Debug, Clone)]
pub struct HealthBoard(Arc<Mutex<Board>>);

#[derive(Debug)]
struct Board {
    started: MonoTime,
    state: DaemonState,
    reason: Option<String>,
    node: Option<(MonoTime, NodeHealth)>,
    info: Option<Value>,
}

impl HealthBoard {
    /// The board of a daemon that starts now.
    pub fn new(started: MonoTime) -> Self {
        let reason = Some("loading the configuration, models and delegates".to_owned());
        Self(Arc::new(Mutex::new(Board { started, state: DaemonState::Starting, reason, node: None, info: None })))
    }

    /// Sets what the daemon does, and why if that needs a word.
    pub(crate) fn set_state(&self, state: DaemonState, reason: Option<&str>) {
        let mut board = self.board();
        (board.state, board.reason) = (state, reason.map(str::to_owned));
    }

    /// Sets the parts as they are at that moment.
    pub(crate) fn set_node(&self, now: MonoTime, node: NodeHealth) {
        self.board().node = Some((now, node));
    }

    /// Sets the node's `info` message.
    pub(crate) fn set_info(&self, info: Value) {
        self.board().info = Some(info);
    }

    /// Returns the answer at that moment. `hung` is what hangs.
    pub(crate) fn answer(&self, now: MonoTime, hung: Option<String>) -> Answer {
        let board = self.board();
        let (state, reason) = match hung {
            // A stop has other time limits.
            Some(hung) if board.state != DaemonState::Stopping => (DaemonState::Hung, Some(hung)),
            _ => (board.state, board.reason.clone()),
        };
        let health = Health {
            v: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: now.since(board.started).as_secs_f64(),
            state,
            reason,
            node: board.node.as_ref().map(|(at, node)| node.clone().later(now.since(*at))),
        };
        Answer { health, info: board.info.clone() }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // What is under the lock is replaced as a whole, so it is sound also after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A node in which everything works.
    pub(crate) fn working() -> NodeHealth {
        NodeHealth {
            id: "porch".into(),
            config_sha256: "0123".into(),
            pipelines: vec![PipelineHealth {
                name: "arm".into(),
                state: PipelineState::Running,
                reason: None,
                delegate: Some("cpu".into()),
                gate_open: None,
                predictions: 7,
                last_prediction_s: Some(0.5),
            }],
            broker: BrokerHealth {
                state: BrokerState::Connected,
                address: Some("127.0.0.1:1883".into()),
                reason: None,
                for_s: Some(60.0),
                queued: 0,
            },
            store: StoreHealth { state: StoreState::Off, reason: None },
            meters: vec![MeterHealth {
                name: "board".into(),
                state: MeterState::Working,
                reason: None,
                reading_s: Some(0.25),
            }],
        }
    }

    fn at(seconds: f64) -> MonoTime {
        MonoTime(0) + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn ages_go_on_while_the_async_thread_hangs() {
        let board = HealthBoard::new(at(1.0));
        board.set_state(DaemonState::Running, None);
        board.set_node(at(10.0), working());
        let answer = board.answer(at(30.0), Some("an inference".into())).health;
        assert_eq!((answer.state, answer.reason.as_deref()), (DaemonState::Hung, Some("an inference")));
        let node = answer.node.unwrap();
        assert_eq!(answer.uptime_s, 29.0);
        assert_eq!(node.pipelines[0].last_prediction_s, Some(20.5));
        assert_eq!((node.meters[0].reading_s, node.broker.for_s), (Some(20.25), Some(80.0)));
    }

    #[test]
    fn a_daemon_that_starts_or_stops_says_what_it_does() {
        let board = HealthBoard::new(at(1.0));
        let answer = board.answer(at(2.0), None);
        assert_eq!((answer.health.state, answer.info), (DaemonState::Starting, None));
        assert!(answer.health.reason.is_some_and(|reason| reason.contains("loading")));
        board.set_state(DaemonState::Stopping, Some("to calibrate"));
        let answer = board.answer(at(2.0), Some("an inference".into())).health;
        assert_eq!((answer.state, answer.reason.as_deref()), (DaemonState::Stopping, Some("to calibrate")));
    }

    #[test]
    fn an_answer_is_read_as_it_was_written_and_new_fields_are_ignored() {
        let board = HealthBoard::new(at(1.0));
        board.set_node(at(1.0), working());
        board.set_info(serde_json::json!({ "node": "porch" }));
        let answer = board.answer(at(1.0), None);
        let mut json = serde_json::to_value(&answer).unwrap();
        assert_eq!(serde_json::from_value::<Answer>(json.clone()).unwrap(), answer);
        json["health"]["node"]["new"] = 1.into();
        assert_eq!(serde_json::from_value::<Answer>(json).unwrap(), answer);
    }
}
