//! From decisions and figures to messages on the bus.
//!
//! Owns the encoding, what is published when, and the latency from decision to socket. Leaves delivery to the sinks.
//! Runs on the async thread; it takes decisions off the rings as fast as they come, whether or not a broker is there.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::bus::Bus;
use super::correct::Truth;
use super::message::{Bytes, Class, Marks, Message, Qos};
use super::payload::{
    Clocks, Counts, DelegateState, Delivery, Envelope, Event, Gate, Latencies, Metrics, NoPrediction, NodeMetrics,
    Passage, PipelineState, PipelineStatus, Prediction, Process, SCHEMA_VERSION, SOURCE_PAUSED, encode_prediction,
    nonzero,
};
use super::topic::{NodeTopics, PipelineTopics};
use crate::decision::{Fault, Fields, Presentation};
use crate::energy::{EnergyEstimate, SavedEnergy};
use crate::gate::GateKind;
use crate::ids::PipelineId;
use crate::infer::stage_times::{Latency, PipelineStats, StageTimes};
use crate::infer::{Decision, GateState};
use crate::ring::BlockRx;
use crate::source::{Gap, Reject, SourceStats};
use crate::units::MonoTime;

/// The latest decision is repeated on the state topic when it changes, and otherwise this often.
const STATE_PERIOD: Duration = Duration::from_secs(1);
/// Decisions that are encoded before the other tasks of the thread run.
const BATCH: usize = 64;
/// The batch ends before that if its messages have so many bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// Publishes what concerns the node as a whole.
#[derive(Clone)]
pub struct NodePublisher {
    pub bus: Bus,
    /// Differs at each start of the daemon.
    pub boot: Arc<str>,
    pub topics: NodeTopics,
}

impl NodePublisher {
    /// Returns the fields that every message carries, for one about that moment.
    pub fn envelope(&self, moment: MonoTime) -> Envelope<'_> {
        Envelope { v: SCHEMA_VERSION, boot: &self.boot, time_ms: Clocks::now().wall_ms(moment) }
    }

    /// Publishes an event, in words for the user.
    pub fn event(&self, event: &'static str, pipeline: Option<&str>, message: String) {
        let payload = Event { envelope: self.envelope(MonoTime::now()), event, pipeline, message };
        self.publish(&self.topics.event, &payload, Qos::AtLeastOnce, false, Class::Event);
    }

    /// Publishes the figures of the node as a whole over an interval.
    pub fn metrics(&self, interval: Duration, node: &NodeFigures<'_>) {
        let NodeFigures { delivery, process } = *node;
        let envelope = self.envelope(MonoTime::now());
        let payload = NodeMetrics { envelope, interval_s: interval.as_secs_f64(), delivery, process };
        self.publish(&self.topics.metrics, &payload, Qos::AtLeastOnce, false, Class::Metrics);
    }

    /// Publishes a state, which is retained.
    pub fn retain(&self, topic: &Arc<str>, payload: &impl Serialize) {
        self.publish(topic, payload, Qos::AtLeastOnce, true, Class::State);
    }

    /// Removes the value of a retained topic.
    pub fn clear(&self, topic: &Arc<str>) {
        self.bus.publish(&Message {
            topic: topic.clone(),
            payload: Bytes::new(),
            qos: Qos::AtLeastOnce,
            retain: true,
            class: Class::State,
            marks: None,
        });
    }

    /// Publishes whether a pipeline works.
    pub fn status(
        &self,
        topics: &PipelineTopics,
        Condition { state, predicting, gate }: Condition,
        reason: Option<&str>,
        delegate: &DelegateState,
    ) {
        let envelope = self.envelope(MonoTime::now());
        let gate = gate.map(passage);
        self.retain(&topics.status, &PipelineStatus { envelope, state, predicting, reason, gate, delegate });
    }

    fn publish(&self, topic: &Arc<str>, payload: &impl Serialize, qos: Qos, retain: bool, class: Class) {
        match serde_json::to_vec(payload) {
            Ok(json) => {
                let message = Message { topic: topic.clone(), payload: json.into(), qos, retain, class, marks: None };
                self.bus.publish(&message);
            }
            Err(error) => tracing::error!(%topic, %error, "a payload could not be encoded"),
        }
    }
}

/// Latency from decision to socket of each pipeline; filled by the MQTT client.
#[derive(Clone, Default)]
pub struct PublishLatency(Arc<Mutex<BTreeMap<PipelineId, PublishTimes>>>);

impl PublishLatency {
    /// Adds a pipeline; nothing is recorded of others.
    pub fn add(&self, pipeline: PipelineId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pipeline, Default::default());
    }

    /// Removes a pipeline that has ended.
    pub fn remove(&self, pipeline: PipelineId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&pipeline);
    }

    /// Records that a message with these marks was sent.
    pub fn record(&self, marks: Marks, now: MonoTime) {
        let mut latencies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = latencies.get_mut(&marks.pipeline) {
            times.publish.record(now.since(marks.invoke_end));
            times.end_to_end.record(now.since(marks.arrival));
        }
    }

    /// Returns what was recorded since the last call.
    fn take(&self, pipeline: PipelineId) -> PublishTimes {
        let mut latencies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.get_mut(&pipeline).map(std::mem::take).unwrap_or_default()
    }
}

/// Publish and end-to-end latency of a pipeline.
#[derive(Default)]
struct PublishTimes {
    publish: Latency,
    end_to_end: Latency,
}

/// Whether decisions are left after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    Empty,
    More,
    /// There are more, and the source can wait until the sinks have room.
    Held,
}

/// Where the decisions of one set of stages come from, and how they are published.
pub struct DecisionRoute {
    pub decisions: BlockRx<Decision, f32>,
    pub presentation: Arc<dyn Presentation>,
    pub qos: Qos,
}

/// Publishes what concerns one pipeline.
pub struct PipelinePublisher {
    pub id: PipelineId,
    pub name: String,
    pub topics: PipelineTopics,
    pub route: DecisionRoute,
    /// Routes of later stages: each comes into use when the one before has ended and is empty.
    pub next: VecDeque<DecisionRoute>,
    /// The source can wait, so that nothing need be dropped while the sinks make room.
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
    /// Returns how many decisions were for publishing so far, which is the number of the next one.
    pub fn decision_count(&self) -> u64 {
        self.stats.numbered()
    }
}

/// What a publisher remembers; a pipeline that is restarted carries it over.
#[derive(Default)]
pub struct Progress {
    pub totals: Totals,
    values: Vec<f32>,
    json: Vec<u8>,
    last_state: Option<(Option<u16>, MonoTime)>,
    /// The state topic says that there is no prediction.
    is_withdrawn: bool,
    /// The latest decision, if it was not published on the state topic.
    unpublished_state: Option<Message>,
    last_predictions: u64,
    drops: DropReport,
}

/// Publishes an event when there are more drops than at the last report.
#[derive(Default)]
pub struct DropReport {
    last: u64,
}

impl DropReport {
    /// Compares with the last report; `drops` are totals since the start, of a pipeline or of the whole node. `detail` says
    /// what the counts do not.
    pub fn report<K: Display>(
        &mut self,
        node_publisher: &NodePublisher,
        pipeline: Option<&str>,
        drops: &BTreeMap<K, u64>,
        detail: Option<&str>,
    ) {
        let total: u64 = drops.values().sum();
        if total > self.last {
            let new = total - self.last;
            let detail = detail.map_or(String::new(), |detail| format!("; {detail}"));
            let message = format!("{new} dropped since the last report; in all: {}{detail}", nonzero(drops));
            node_publisher.event("drops", pipeline, message);
        }
        self.last = total;
    }
}

/// Figures of the node as a whole, which the metrics of each pipeline carry.
#[derive(Debug, Clone, Copy)]
pub struct NodeFigures<'a> {
    pub delivery: Option<&'a Delivery>,
    pub process: &'a Process,
}

/// How a pipeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    pub state: PipelineState,
    /// Predictions can come: it is at work, has an engine, and its source gives samples.
    pub predicting: bool,
    /// Whether windows go to the model; `None` without a gate.
    pub gate: Option<GateState>,
}

/// What a pipeline did in an interval.
#[derive(Clone, Copy)]
pub struct IntervalReport<'a> {
    pub length: Duration,
    pub stages: &'a StageTimes,
    pub energy: &'a [EnergyEstimate],
    pub condition: Condition,
    pub gate: Option<GateReport<'a>>,
}

/// What its gate did.
#[derive(Clone, Copy)]
pub struct GateReport<'a> {
    /// Its kind's name.
    pub name: &'static str,
    pub kind: &'a dyn GateKind,
    pub state: GateState,
    pub saved: &'a [SavedEnergy],
}

/// Figures of the whole run, for the summary at its end.
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

    /// Returns how many predictions there were so far.
    pub fn prediction_count(&self) -> u64 {
        self.stats.predictions.load(Ordering::Relaxed)
    }

    /// Returns when the last prediction was made, to [`STATE_PERIOD`]; `None` if there is none.
    pub fn last_prediction(&self) -> Option<MonoTime> {
        self.progress.last_state.map(|(_, at)| at).max(self.stats.last_unpublished())
    }

    /// Returns how many samples the source has given, including those for which there was no room.
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

    /// Publishes decisions, at most a batch; `may_hold`: there is time to wait for the sinks.
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
        if may_hold && self.hold && node_publisher.bus.is_crowded(BATCH) {
            return Drained::Held;
        }
        let clocks = Clocks::now();
        let (mut count, mut bytes) = (0, 0);
        while count < BATCH && bytes < BATCH_BYTES {
            let values = &mut self.progress.values;
            let popped = self.route.decisions.pop(|decision, first, second| {
                values.clear();
                values.extend_from_slice(first);
                values.extend_from_slice(second);
                decision
            });
            match popped {
                Some(decision) => {
                    count += 1;
                    bytes += self.publish(node_publisher, &clocks, &decision);
                }
                // The next route is used only when nothing more can come on this one.
                None if self.route.decisions.is_abandoned() && !self.next.is_empty() => return Drained::More,
                None => return Drained::Empty,
            }
        }
        Drained::More
    }

    /// Returns whether the infer thread has ended and its last decision is published.
    pub fn has_ended(&self) -> bool {
        self.route.decisions.is_abandoned() && self.route.decisions.is_empty() && self.next.is_empty()
    }

    /// Publishes a decision; returns the bytes of its message.
    fn publish(&mut self, node_publisher: &NodePublisher, clocks: &Clocks, decision: &Decision) -> usize {
        let mut json = std::mem::take(&mut self.progress.json);
        json.clear();
        let payload = Prediction {
            envelope: Envelope {
                v: SCHEMA_VERSION,
                boot: &node_publisher.boot,
                time_ms: clocks.wall_ms(decision.arrival),
            },
            seq: decision.seq,
            stream_s: decision.stream_ns.map(|ns| ns as f64 / 1e9),
            latency_us: micros(decision.invoke_end.since(decision.arrival)),
            invoke_us: micros(decision.invoke_end.since(decision.invoke_start)),
            batch: decision.batch,
        };
        let (presentation, values) = (&self.route.presentation, &self.progress.values);
        let verdict =
            |fields: &mut Fields<'_, '_>| presentation.fields(&decision.verdict, values, decision.truth, fields);
        if let Err(error) = encode_prediction(&mut json, &payload, verdict) {
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
                pipeline: self.id,
                arrival: decision.arrival,
                invoke_end: decision.invoke_end,
            }),
        };
        node_publisher.bus.publish(&message(&self.topics.prediction, false));
        let class = decision.verdict.class;
        let due = decision.verdict.changed
            || self.progress.is_withdrawn
            || self
                .progress
                .last_state
                .is_none_or(|(last, at)| last != class || decision.invoke_end.since(at) >= STATE_PERIOD);
        let state = message(&self.topics.state, true);
        if due {
            node_publisher.bus.publish(&state);
            self.progress.last_state = Some((class, decision.invoke_end));
            self.progress.unpublished_state = None;
            self.progress.is_withdrawn = false;
        } else {
            self.progress.unpublished_state = Some(state);
        }
        if let Some(truth) = decision.truth {
            self.progress.totals.known += 1;
            self.progress.totals.right += u64::from(self.route.presentation.is_right(class, truth));
        }
        self.progress.json = json;
        payload.len()
    }

    /// Takes the latest decision off the state topic: the gate has closed, and it is not what is true now.
    pub fn withdraw_state(&mut self, node_publisher: &NodePublisher, closed: MonoTime) {
        self.progress.unpublished_state = None;
        self.progress.is_withdrawn = true;
        let payload = NoPrediction { envelope: node_publisher.envelope(closed), gate: "closed" };
        node_publisher.retain(&self.topics.state, &payload);
    }

    /// Publishes the figures of an interval, and an event if something was dropped in it. Returns predictions per second.
    pub fn metrics(
        &mut self,
        node_publisher: &NodePublisher,
        interval: &IntervalReport<'_>,
        node: &NodeFigures<'_>,
    ) -> f64 {
        let IntervalReport { length, stages, energy, condition, gate } = *interval;
        if let Some(state) = self.progress.unpublished_state.take() {
            node_publisher.bus.publish(&state);
        }
        let PublishTimes { publish, end_to_end } = self.publish_latency.take(self.id);
        self.progress.totals.stages.add(stages);
        self.progress.totals.end_to_end.add(&end_to_end);
        let counts = self.counts();
        let predictions_per_s = (counts.predictions - self.progress.last_predictions) as f64 / length.as_secs_f64();
        let gate = gate.map(|gate| Gate {
            kind: gate.name,
            passage: passage(gate.state),
            openings: self.stats.gate.openings(),
            level: self.stats.gate.level(),
            highest: self.stats.gate.take_highest(),
            threshold: gate.kind.threshold(),
            release: gate.kind.release(),
            saved: gate.saved,
        });
        let payload = Metrics {
            envelope: node_publisher.envelope(MonoTime::now()),
            interval_s: length.as_secs_f64(),
            state: condition.state,
            predicting: condition.predicting,
            fallback: self.delegate.reason.is_some(),
            delegate: &self.delegate,
            predictions_per_s,
            latency_us: Latencies {
                source: stages.source.summary(),
                models: stages.models.summary(),
                features: stages.features.summary(),
                invoke: stages.invoke.summary(),
                invoke_per_window: stages.invoke_per_window.summary(),
                publish: publish.summary(),
                end_to_end: end_to_end.summary(),
            },
            gate,
            counts: &counts,
            delivery: node.delivery,
            energy,
            truth: Truth::of(self.progress.totals.known, self.progress.totals.right, energy),
            process: node.process,
        };
        node_publisher.publish(&self.topics.metrics, &payload, Qos::AtLeastOnce, false, Class::Metrics);
        // A pause was asked for, and the status shows it: its discarded samples need no event.
        let unasked = counts.drops.iter().filter(|(reason, _)| **reason != SOURCE_PAUSED).map(|(k, n)| (*k, *n));
        self.progress.drops.report(node_publisher, Some(&self.name), &unasked.collect(), None);
        self.progress.last_predictions = counts.predictions;
        predictions_per_s
    }

    /// Returns all counts as of now.
    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            samples: load(&self.source_stats.samples),
            windows: load(&self.stats.windows),
            gated: self.stats.gate.skipped(),
            predictions: load(&self.stats.predictions),
            unknown_truth: load(&self.source_stats.unknown_truth),
            rejects: Reject::ALL.iter().map(|reason| (reason.name(), self.source_stats.rejects(*reason))).collect(),
            gaps: Gap::ALL.iter().map(|gap| (gap.name(), self.stats.gaps(*gap))).collect(),
            drops: BTreeMap::from([
                ("source_overflow", load(&self.source_stats.overflow)),
                ("source_lost", load(&self.source_stats.lost)),
                ("source_unmatched", load(&self.source_stats.unmatched)),
                (SOURCE_PAUSED, load(&self.source_stats.while_paused)),
                ("decision_overflow", load(&self.stats.dropped)),
                ("inference_failed", load(&self.stats.lost)),
                ("undecided_at_stop", load(&self.stats.undecided)),
            ]),
            output_faults: Fault::ALL.iter().map(|fault| (fault.name(), self.stats.faults(*fault))).collect(),
            input_saturated: self.stats.saturation.values(),
            chain_input_saturated: load(&self.stats.chain_saturated),
        }
    }

    /// Publishes whether the pipeline works.
    pub fn status(&self, node_publisher: &NodePublisher, condition: Condition, reason: Option<&str>) {
        node_publisher.status(&self.topics, condition, reason, &self.delegate);
    }
}

/// Returns whether a gate is open, with its time on the wall clock.
fn passage(GateState { open, since }: GateState) -> Passage {
    Passage { open, since_ms: since.map(|since| Clocks::now().wall_ms(since)) }
}

fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}
