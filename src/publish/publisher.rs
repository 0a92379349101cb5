//! From decisions and figures to messages in the outbox.
//!
//! Owns the encoding, what is said when, and the latency up to the hand-over. Runs on the async thread; it takes
//! decisions off the rings as fast as they come, whether or not a broker is there.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use super::mqtt::Handle;
use super::outbox::{Bytes, Class, Marks, Message, Qos, Reason};
use super::payload::{
    Clocks, Counts, DelegateState, Delivery, Envelope, Event, Latencies, Metrics, Named, PipelineState, PipelineStatus,
    Prediction, Process, SCHEMA_VERSION, Verdict as VerdictPayload,
};
use super::store::State;
use super::topic::{NodeTopics, PipelineTopics};
use crate::decision::Verdict;
use crate::energy::EnergyEstimate;
use crate::infer::Decision;
use crate::infer::stage_times::{Latency, PipelineStats, StageTimes};
use crate::ring::FrameRx;
use crate::source::{Gap, Reject, SourceStats};
use crate::units::MonoTime;

/// The latest decision is repeated on the state topic when it changes, and otherwise this often.
const STATE_PERIOD: Duration = Duration::from_secs(1);
/// Decisions encoded before the link gets its turn.
const BATCH: usize = 64;

/// What says things for the node as a whole.
#[derive(Clone)]
pub struct NodePublisher {
    pub handle: Handle,
    pub boot: Arc<str>,
    pub topics: NodeTopics,
    /// Whether messages outlive the daemon; `None`: that is not asked for.
    pub store: Option<watch::Receiver<State>>,
}

impl NodePublisher {
    pub fn envelope(&self, moment: MonoTime) -> Envelope<'_> {
        Envelope { v: SCHEMA_VERSION, boot: &self.boot, time_ms: Clocks::now().wall_ms(moment) }
    }

    pub fn event(&self, event: &'static str, pipeline: Option<&str>, message: String) {
        let payload = Event { envelope: self.envelope(MonoTime::now()), event, pipeline, message };
        self.say(&self.topics.event, &payload, Qos::AtLeastOnce, false, Class::Event);
    }

    /// Publishes a state, which the broker keeps.
    pub fn retain(&self, topic: &Arc<str>, payload: &impl Serialize) {
        self.say(topic, payload, Qos::AtLeastOnce, true, Class::State);
    }

    /// Says whether a pipeline works.
    pub fn status(
        &self,
        topics: &PipelineTopics,
        state: PipelineState,
        reason: Option<&str>,
        delegate: &DelegateState,
    ) {
        let envelope = self.envelope(MonoTime::now());
        self.retain(&topics.status, &PipelineStatus { envelope, state, reason, delegate });
    }

    /// How delivery stands.
    pub fn delivery(&self) -> Delivery {
        let stats = self.handle.stats();
        let drops = stats.outbox.drops.plus(&stats.retained.drops);
        let (store, store_error) = match self.store.as_ref().map(|state| state.borrow().clone()) {
            None => ("off", None),
            Some(State::Opening | State::Working) => ("working", None),
            Some(State::Failing(reason)) => ("failing", Some(reason.as_ref().into())),
        };
        let of_class = |class: Class| Reason::ALL.iter().map(move |reason| (class, *reason));
        Delivery {
            produced: stats.outbox.produced,
            queued: stats.outbox.queued + stats.outbox.handed,
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

    fn say(&self, topic: &Arc<str>, payload: &impl Serialize, qos: Qos, retain: bool, class: Class) {
        match serde_json::to_vec(payload) {
            Ok(json) => {
                // What the outbox has no room for, it counts.
                let message = Message { topic: topic.clone(), payload: json.into(), qos, retain, class, marks: None };
                self.handle.publish(message);
            }
            Err(error) => tracing::error!(%topic, %error, "a payload could not be encoded"),
        }
    }
}

/// A pipeline that runs. No other one gets its id for as long as the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineId(pub usize);

/// Latency up to the hand-over to MQTT, per pipeline; filled by the link.
#[derive(Clone, Default)]
pub struct PublishLatency(Arc<Mutex<BTreeMap<PipelineId, [Latency; 2]>>>);

impl PublishLatency {
    /// Makes room for a pipeline.
    pub fn add(&self, pipeline: PipelineId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pipeline, Default::default());
    }

    pub fn remove(&self, pipeline: PipelineId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&pipeline);
    }

    pub fn record(&self, marks: Marks, now: MonoTime) {
        let mut latencies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some([publish, end_to_end]) = latencies.get_mut(&PipelineId(marks.pipeline)) {
            publish.record(now.since(marks.invoke_end));
            end_to_end.record(now.since(marks.arrival));
        }
    }

    /// Publish and end-to-end latency since the last call.
    fn take(&self, pipeline: PipelineId) -> [Latency; 2] {
        let mut latencies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.get_mut(&pipeline).map(std::mem::take).unwrap_or_default()
    }
}

/// What a pipeline's verdicts are called.
pub enum Vocabulary {
    Labels(Vec<String>),
    Values(Vec<String>),
    /// The length of each output.
    Outputs(Vec<usize>),
}

/// What is left after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    Empty,
    More,
    /// There is more, and the source can be held back until the link has taken what is queued.
    Held,
}

/// Where the decisions of one set of stages come from, and how they are said.
pub struct DecisionRoute {
    pub decisions: FrameRx<Decision>,
    pub vocabulary: Vocabulary,
    pub publish_scores: bool,
    pub qos: Qos,
}

/// One pipeline's way out.
pub struct PipelinePublisher {
    pub id: PipelineId,
    pub name: String,
    pub topics: PipelineTopics,
    pub route: DecisionRoute,
    /// Those of later stages: each comes into use when the one before has ended and is empty.
    pub next: VecDeque<DecisionRoute>,
    /// The source can be held back, so that nothing need be dropped while the broker takes what is queued.
    pub hold: bool,
    pub delegate: DelegateState,
    pub stats: Arc<PipelineStats>,
    pub source_stats: Arc<SourceStats>,
    pub publish_latency: PublishLatency,
    pub progress: Progress,
}

/// What the publisher of a pipeline continues after a restart of the pipeline; starts at its default.
#[derive(Default)]
pub struct PublisherHistory {
    pub stats: Arc<PipelineStats>,
    pub source_stats: Arc<SourceStats>,
    pub progress: Progress,
}

impl PublisherHistory {
    /// Returns how many decisions there were so far, which is the number of the next one.
    pub fn decision_count(&self) -> u64 {
        // Each decision was counted as one of the two.
        let counts = [&self.stats.predictions, &self.stats.dropped];
        counts.into_iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// How far a pipeline's publisher has come; starts at its default.
#[derive(Default)]
pub struct Progress {
    pub totals: Totals,
    values: Vec<f32>,
    json: Vec<u8>,
    last_state: Option<(Option<u16>, MonoTime)>,
    /// The latest decision, where it has not been said on the state topic.
    unsaid_state: Option<Message>,
    last_predictions: u64,
    drops: DropReport,
}

/// Tells of drops once: an event when there are more than at the last report.
#[derive(Default)]
pub struct DropReport {
    last: u64,
}

impl DropReport {
    /// `drops` are totals since the start, of a pipeline or of the node as a whole.
    pub fn report<K: Debug>(
        &mut self,
        node_publisher: &NodePublisher,
        pipeline: Option<&str>,
        drops: &BTreeMap<K, u64>,
    ) {
        let total: u64 = drops.values().sum();
        if total > self.last {
            let new = total - self.last;
            node_publisher.event("drops", pipeline, format!("{new} dropped since the last report; in all {drops:?}"));
        }
        self.last = total;
    }
}

/// Times over the whole run, for the summary at its end.
#[derive(Default)]
pub struct Totals {
    pub stages: StageTimes,
    pub end_to_end: Latency,
    pub known: u64,
    pub right: u64,
}

impl PipelinePublisher {
    /// Adds the decisions of later stages; they follow when those of the present stages have ended.
    pub fn add_route(&mut self, route: DecisionRoute) {
        self.next.push_back(route);
    }

    /// Discards the samples of the source, or uses them again. Returns whether that is a change.
    pub fn set_paused(&self, paused: bool) -> bool {
        self.source_stats.paused.swap(paused, Ordering::Relaxed) != paused
    }

    pub fn is_paused(&self) -> bool {
        self.source_stats.paused.load(Ordering::Relaxed)
    }

    /// Returns how many samples the source has given, those included for which there was no room.
    pub fn samples_received(&self) -> u64 {
        self.source_stats.samples.load(Ordering::Relaxed) + self.source_stats.overflow.load(Ordering::Relaxed)
    }

    pub fn totals(&self) -> &Totals {
        &self.progress.totals
    }

    /// Returns what the publisher of the next pipeline of this name continues.
    pub fn into_history(self) -> PublisherHistory {
        PublisherHistory { stats: self.stats, source_stats: self.source_stats, progress: self.progress }
    }

    /// Encodes what has been decided, at most a batch; `may_hold`: there is time to wait for the broker.
    pub fn drain(&mut self, node_publisher: &NodePublisher, may_hold: bool) -> Drained {
        while self.route.decisions.is_abandoned() && self.route.decisions.is_empty() {
            match self.next.pop_front() {
                Some(next) => self.route = next,
                None => return Drained::Empty,
            }
        }
        if self.route.decisions.is_empty() {
            return Drained::Empty;
        }
        if may_hold && self.hold && node_publisher.handle.is_crowded(BATCH) {
            return Drained::Held;
        }
        let clocks = Clocks::now();
        for _ in 0..BATCH {
            let values = &mut self.progress.values;
            let popped = self.route.decisions.pop(|decision, first, second| {
                values.clear();
                values.extend_from_slice(first);
                values.extend_from_slice(second);
                decision
            });
            match popped {
                Some(decision) => self.publish(node_publisher, &clocks, &decision),
                // The next way is open only when nothing more can come on this one.
                None if self.route.decisions.is_abandoned() && !self.next.is_empty() => return Drained::More,
                None => return Drained::Empty,
            }
        }
        Drained::More
    }

    /// The infer thread has gone and its last decision is out.
    pub fn has_ended(&self) -> bool {
        self.route.decisions.is_abandoned() && self.route.decisions.is_empty() && self.next.is_empty()
    }

    fn publish(&mut self, node_publisher: &NodePublisher, clocks: &Clocks, decision: &Decision) {
        let mut json = std::mem::take(&mut self.progress.json);
        json.clear();
        let payload = Prediction {
            envelope: Envelope {
                v: SCHEMA_VERSION,
                boot: &node_publisher.boot,
                time_ms: clocks.wall_ms(decision.arrival),
            },
            seq: decision.seq,
            verdict: self.verdict(decision),
            stream_s: decision.stream_ns.map(|ns| ns as f64 / 1e9),
            latency_us: micros(decision.invoke_end.since(decision.arrival)),
            invoke_us: micros(decision.invoke_end.since(decision.invoke_start)),
        };
        if let Err(error) = serde_json::to_writer(&mut json, &payload) {
            tracing::error!(pipeline = self.name, %error, "a prediction could not be encoded");
        }
        let payload = Bytes::copy_from_slice(&json);
        let message = |topic: &Arc<str>, retain| Message {
            topic: topic.clone(),
            payload: payload.clone(),
            qos: if retain { Qos::AtLeastOnce } else { self.route.qos },
            retain,
            class: if retain { Class::State } else { Class::Prediction },
            marks: (!retain).then_some(Marks {
                pipeline: self.id.0,
                arrival: decision.arrival,
                invoke_end: decision.invoke_end,
            }),
        };
        node_publisher.handle.publish(message(&self.topics.prediction, false));
        let class = match decision.verdict {
            Verdict::Class { class, .. } => class,
            Verdict::Values => None,
        };
        let due = self
            .progress
            .last_state
            .is_none_or(|(last, at)| last != class || decision.invoke_end.since(at) >= STATE_PERIOD);
        let state = message(&self.topics.state, true);
        if due {
            node_publisher.handle.publish(state);
            self.progress.last_state = Some((class, decision.invoke_end));
            self.progress.unsaid_state = None;
        } else {
            self.progress.unsaid_state = Some(state);
        }
        if let (Verdict::Class { class, .. }, Some(truth)) = (decision.verdict, decision.truth) {
            self.progress.totals.known += 1;
            self.progress.totals.right += u64::from(class == Some(truth));
        }
        self.progress.json = json;
    }

    fn verdict(&self, decision: &Decision) -> VerdictPayload<'_> {
        match (&self.route.vocabulary, decision.verdict) {
            (Vocabulary::Labels(labels), Verdict::Class { class, score, raw_class }) => {
                let label = |class: u16| labels.get(usize::from(class)).map(String::as_str);
                VerdictPayload::Class {
                    label: class.and_then(label),
                    score,
                    raw_label: label(raw_class),
                    truth: decision.truth.and_then(label),
                    scores: self.route.publish_scores.then_some(Named { names: labels, values: &self.progress.values }),
                }
            }
            (Vocabulary::Values(names) | Vocabulary::Labels(names), _) => {
                VerdictPayload::Values { values: Named { names, values: &self.progress.values } }
            }
            (Vocabulary::Outputs(lengths), _) => {
                let mut rest = &self.progress.values[..];
                let mut outputs = Vec::with_capacity(lengths.len());
                for length in lengths {
                    let (own, behind) = rest.split_at(*length.min(&rest.len()));
                    outputs.push(own);
                    rest = behind;
                }
                VerdictPayload::Outputs { outputs }
            }
        }
    }

    /// Publishes the figures of an interval, and an event when something was dropped in it; predictions a second in it.
    pub fn metrics(
        &mut self,
        node_publisher: &NodePublisher,
        interval: Duration,
        stages: &StageTimes,
        energy: &[EnergyEstimate],
        (delivery, process): (&Delivery, &Process),
    ) -> f64 {
        if let Some(state) = self.progress.unsaid_state.take() {
            node_publisher.handle.publish(state);
        }
        let [publish, end_to_end] = self.publish_latency.take(self.id);
        self.progress.totals.stages.add(stages);
        self.progress.totals.end_to_end.add(&end_to_end);
        let counts = self.counts();
        let predictions_per_s = (counts.predictions - self.progress.last_predictions) as f64 / interval.as_secs_f64();
        let payload = Metrics {
            envelope: node_publisher.envelope(MonoTime::now()),
            interval_s: interval.as_secs_f64(),
            delegate: &self.delegate,
            predictions_per_s,
            latency_us: Latencies {
                source: stages.source.summary(),
                features: stages.features.summary(),
                invoke: stages.invoke.summary(),
                publish: publish.summary(),
                end_to_end: end_to_end.summary(),
            },
            counts: &counts,
            delivery,
            energy,
            process,
        };
        node_publisher.say(&self.topics.metrics, &payload, Qos::AtLeastOnce, false, Class::Metrics);
        self.progress.drops.report(node_publisher, Some(&self.name), &counts.drops);
        self.progress.last_predictions = counts.predictions;
        predictions_per_s
    }

    /// All counts as of now.
    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            samples: load(&self.source_stats.samples),
            windows: load(&self.stats.windows),
            predictions: load(&self.stats.predictions),
            rejects: Reject::ALL.iter().map(|reason| (reason.name(), self.source_stats.rejects(*reason))).collect(),
            gaps: Gap::ALL.iter().map(|gap| (gap.name(), self.stats.gaps(*gap))).collect(),
            drops: BTreeMap::from([
                ("source_overflow", load(&self.source_stats.overflow)),
                ("source_paused", load(&self.source_stats.while_paused)),
                ("decision_overflow", load(&self.stats.dropped)),
                ("inference_failed", load(&self.stats.lost)),
                ("undecided_at_stop", load(&self.stats.undecided)),
            ]),
        }
    }

    /// Says whether the pipeline works.
    pub fn status(&self, node_publisher: &NodePublisher, state: PipelineState, reason: Option<&str>) {
        let at_work = matches!(state, PipelineState::Running | PipelineState::Degraded);
        let state =
            if at_work && self.source_stats.paused.load(Ordering::Relaxed) { PipelineState::Paused } else { state };
        node_publisher.status(&self.topics, state, reason, &self.delegate);
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}
