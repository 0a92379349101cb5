//! The infer thread of one pipeline: samples in, decisions out.
//!
//! Owns the order of the stages (window, features, engine, decision) and the measuring of each. Between two windows
//! nothing is allocated, locked or logged; the only waiting is for samples.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;

use crate::decision::{Decider, Verdict};
use crate::engine::span::{BusySpan, SpanSender};
use crate::engine::{Engine, EngineError};
use crate::features::Chain;
use crate::metrics::{Exchange, PipelineStats, StageTimes};
use crate::ring::FrameTx;
use crate::source::{Intake, SampleHeader};
use crate::stop::Stop;
use crate::units::{MonoTime, duration_ns};
use crate::window::{SampleTime, Windower};

/// What is known of one decision besides its values.
#[derive(Debug, Clone, Copy)]
pub struct Decision {
    /// Counts up by one for each decision; one that publish had no room for leaves a hole.
    pub seq: u64,
    pub verdict: Verdict,
    /// Index of the true class of the window's last sample among the labels.
    pub truth: Option<u16>,
    /// The stream's own time of the last sample.
    pub stream_ns: Option<i64>,
    /// When the last sample arrived.
    pub arrival: MonoTime,
    pub invoke_start: MonoTime,
    pub invoke_end: MonoTime,
}

/// What connects the infer thread with the rest.
pub struct Links {
    pub intake: Intake,
    pub decisions: FrameTx<Decision>,
    /// Told of each decision.
    pub publisher: Arc<Notify>,
    /// Where no meter runs, nobody wants to know when the engine was busy.
    pub spans: Option<SpanSender>,
    pub stats: Arc<PipelineStats>,
    pub exchange: Arc<Exchange>,
    pub stop: Arc<Stop>,
    /// The source can be held back, so that a full ring of decisions holds it back instead of dropping them.
    pub hold: bool,
}

/// How long a held pipeline sleeps until it looks again whether decisions were taken off its ring.
const HOLD: Duration = Duration::from_micros(500);

/// While there are more samples to work on the publisher is told of decisions this often: to wake it for each one costs
/// more than the rest of what we do beside the invoke.
const TELL_EVERY: Duration = Duration::from_millis(1);

/// The stages of one pipeline.
pub struct Stages {
    pub windower: Windower,
    pub features: Chain,
    pub engine: Box<dyn Engine>,
    pub decider: Decider,
}

/// Everything that the infer thread works with.
pub struct Infer {
    links: Links,
    stages: Stages,
    features: Vec<f32>,
    values: Vec<f32>,
    times: StageTimes,
    seq: u64,
    /// When the publisher was last told, and whether there was a decision since.
    told: MonoTime,
    untold: bool,
}

impl Infer {
    pub fn new(links: Links, stages: Stages) -> Self {
        let features = vec![0.0; stages.windower.window_values()];
        let values = vec![0.0; stages.decider.width()];
        Self {
            links,
            stages,
            features,
            values,
            times: StageTimes::default(),
            seq: 0,
            told: MonoTime::now(),
            untold: false,
        }
    }

    /// Works until the source has ended and its last sample is used, or the engine fails.
    pub fn run(mut self) -> Result<(), EngineError> {
        self.links.intake.wake.reader_is_this_thread();
        let result = loop {
            // Asked before the ring is emptied: samples pushed before the end are never overlooked.
            let ended = self.links.intake.ring.is_abandoned();
            if let Err(error) = self.drain() {
                break Err(error);
            }
            self.links.exchange.serve(&mut self.times);
            if ended || self.links.stop.is_overdue() {
                break Ok(());
            }
            // Its wake-up may have been spent while this thread was held: the end of the stream is asked for again.
            if !self.links.intake.ring.is_abandoned() {
                std::thread::park();
            }
        };
        self.links.exchange.finish(&mut self.times);
        // The publisher finds the ring abandoned only when it looks after that.
        drop(self.links.decisions);
        self.links.publisher.notify_one();
        result
    }

    /// Uses all samples that have arrived.
    pub fn drain(&mut self) -> Result<(), EngineError> {
        loop {
            let windower = &mut self.stages.windower;
            let taken = self.links.intake.ring.pop(|header, first, second| {
                let time = SampleTime { stream_ns: header.stream_ns, gap: header.gap };
                (header, windower.push(first, second, time))
            });
            let Some((header, gap)) = taken else {
                self.links.intake.room_made();
                self.tell_publisher(MonoTime::now());
                return Ok(());
            };
            if let Some(gap) = gap {
                self.links.stats.count_gap(gap);
                self.stages.decider.reset();
            }
            if self.stages.windower.ready().is_some() {
                self.infer(&header)?;
                self.stages.windower.advance();
                self.links.intake.room_made();
                self.links.exchange.serve(&mut self.times);
                if self.links.stop.is_overdue() {
                    self.links.stats.undecided.store(self.links.intake.ring.len() as u64, Ordering::Relaxed);
                    return Ok(());
                }
            }
        }
    }

    /// Takes the full window through the stages.
    fn infer(&mut self, last: &SampleHeader) -> Result<(), EngineError> {
        let Stages { windower, features, engine, decider } = &mut self.stages;
        let Some(window) = windower.ready() else { return Ok(()) };
        let taken = MonoTime::now();
        features.apply(window, &mut self.features);
        engine.set_input(0, &self.features)?;
        let invoke_start = MonoTime::now();
        engine.invoke()?;
        let invoke_end = MonoTime::now();
        let verdict = decider.decide(|output, values| engine.output(output, 0, values), &mut self.values)?;

        let busy = invoke_end.since(invoke_start);
        self.times.source.record(taken.since(last.arrival));
        self.times.features.record(invoke_start.since(taken));
        self.times.invoke.record(busy);
        if let Some(spans) = &mut self.links.spans {
            spans.send(BusySpan { start: invoke_start, end: invoke_end, busy_ns: duration_ns(busy), inferences: 1 });
        }
        let decision = Decision {
            seq: self.seq,
            verdict,
            truth: last.truth,
            stream_ns: last.stream_ns,
            arrival: last.arrival,
            invoke_start,
            invoke_end,
        };
        self.seq += 1;
        let stats = &self.links.stats;
        stats.windows.fetch_add(1, Ordering::Relaxed);
        while self.links.hold && self.links.decisions.is_full() && !self.links.stop.is_overdue() {
            self.links.publisher.notify_one();
            std::thread::park_timeout(HOLD);
        }
        if self.links.decisions.push(decision, &self.values) {
            stats.predictions.fetch_add(1, Ordering::Relaxed);
            self.untold = true;
            if invoke_end.since(self.told) >= TELL_EVERY {
                self.tell_publisher(invoke_end);
            }
        } else {
            stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn tell_publisher(&mut self, now: MonoTime) {
        if std::mem::take(&mut self.untold) {
            self.told = now;
            self.links.publisher.notify_one();
        }
    }
}
