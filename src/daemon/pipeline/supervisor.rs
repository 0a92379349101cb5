//! The engine_supervisor for a running pipeline's engine: what failed is made again, or the next delegate takes over.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::Duration;

use tokio::time::Instant;

use super::Running;
use super::threads::DaemonEvent;
use crate::engine::{Engine, EngineError, TensorInfo};
use crate::infer::InferCommand;
use crate::load::engines::{BuildError, BuiltEngine, Refusal, reasons};
use crate::publish::payload::DelegateState;
use crate::publish::publisher::NodePublisher;

/// Pause before the second start in a row of a delegate; it doubles with each further one.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The engine_supervisor for an engine.
pub(super) struct EngineSupervisor {
    /// The delegate in use among the pipeline's; `None`: the reference, until the one at `waiting` can be compared.
    pub(super) place: Option<usize>,
    pub(super) waiting: usize,
    /// The delegate in use has worked since it was turned to.
    pub(super) has_worked: bool,
    pub(super) failures: VecDeque<Instant>,
    pub(super) refusals: Vec<Refusal>,
    /// DaemonEvent apart from what was ordered before a reload.
    pub(super) order: u64,
    /// An engine is being made in the place of one that failed or was freed.
    pub(super) mending: bool,
    /// Why there is none meanwhile.
    pub(super) lack: Option<String>,
    /// When the engine failed that is being replaced.
    pub(super) failed: Option<Instant>,
    /// What becomes true when the infer thread has changed.
    pub(super) coming: Option<DelegateState>,
    /// Who waits until the engine in use is gone.
    pub(super) release: Option<mpsc::Sender<()>>,
    /// The engine was freed for a reload.
    pub(super) released: bool,
}

impl EngineSupervisor {
    pub(super) fn new(built: &BuiltEngine) -> Self {
        Self {
            place: built.place,
            waiting: built.waiting,
            // The reference has no part in the delegate's record.
            has_worked: built.place.is_some(),
            failures: VecDeque::new(),
            refusals: built.refusals.clone(),
            order: 0,
            mending: false,
            lack: None,
            failed: None,
            coming: None,
            release: None,
            released: false,
        }
    }
}

/// An engine that was ordered, or why there is none.
pub(crate) struct EngineReady {
    pub order: u64,
    place: usize,
    result: Result<BuiltEngine, BuildError>,
}

impl Running {
    /// Frees the engine for another that needs the same device; tells `done`.
    pub(crate) fn release(&mut self, done: mpsc::Sender<()>) {
        if self.infer_ended {
            return;
        }
        self.engine_supervisor.release = Some(done);
        self.engine_supervisor.released = true;
        self.engine_supervisor.mending = true;
        self.tell(InferCommand::Release);
    }

    /// Makes the engine anew that was freed in vain.
    pub(crate) fn take_back(&mut self) {
        if std::mem::take(&mut self.engine_supervisor.released) {
            self.order(
                self.engine_supervisor.place.unwrap_or(self.engine_supervisor.waiting),
                Duration::ZERO,
                None,
                None,
            );
        }
    }

    pub(super) fn engine_failed(
        &mut self,
        node_publisher: &NodePublisher,
        engine: Box<dyn Engine>,
        error: &EngineError,
    ) {
        let name = &self.publisher.name;
        let active = &self.publisher.delegate.active;
        tracing::error!(pipeline = name, delegate = active, "{error}");
        node_publisher.event("engine_failed", Some(name), format!("{active}: {error}"));
        self.engine_supervisor.mending = true;
        self.engine_supervisor.released = false;
        self.engine_supervisor.failed = Some(Instant::now());
        let place = self.engine_supervisor.place.unwrap_or(self.engine_supervisor.waiting);
        self.mend(node_publisher, place, error.to_string(), Some(engine));
    }

    /// Orders the same delegate again, or the next one when it has failed too often.
    fn mend(&mut self, node_publisher: &NodePublisher, place: usize, reason: String, old: Option<Box<dyn Engine>>) {
        let delegate = &self.builder.delegates[place];
        let now = Instant::now();
        let failures = &mut self.engine_supervisor.failures;
        failures.push_back(now);
        failures.retain(|failure| now - *failure <= delegate.restarts.per);
        let (count, max) = (failures.len(), delegate.restarts.max as usize);
        if count > max || !self.engine_supervisor.has_worked {
            let often = if count > 1 { format!("{reason}; it failed {count} times") } else { reason };
            return self.demote(node_publisher, place, often, old);
        }
        let doublings = u32::try_from(count.saturating_sub(2)).unwrap_or(u32::MAX).min(16);
        let delay = if count == 1 { Duration::ZERO } else { (BACKOFF * (1 << doublings)).min(BACKOFF_MAX) };
        self.engine_supervisor.lack =
            Some(format!("{}: {reason}; it is started again ({count} of {max})", delegate.name));
        self.say_state(node_publisher);
        self.order(place, delay, None, old);
    }

    /// Turns to the delegate behind the one at `place`.
    fn demote(&mut self, node_publisher: &NodePublisher, place: usize, reason: String, old: Option<Box<dyn Engine>>) {
        let delegate = self.builder.delegates[place].name.clone();
        self.engine_supervisor.refusals.push(Refusal { delegate, reason });
        self.engine_supervisor.failures.clear();
        self.engine_supervisor.has_worked = false;
        let told = reasons(&self.engine_supervisor.refusals).unwrap_or_default();
        if place + 1 == self.builder.delegates.len() {
            tokio::task::spawn_blocking(move || drop(old));
            self.tell(InferCommand::GiveUp(EngineError::Refused(told)));
            return;
        }
        self.engine_supervisor.lack = Some(told);
        self.say_state(node_publisher);
        self.order(place + 1, Duration::ZERO, None, old);
    }

    /// Has an engine built; `old` is freed first, since a device may not let itself be opened twice.
    pub(super) fn order(
        &mut self,
        place: usize,
        delay: Duration,
        windows: Option<Vec<f32>>,
        old: Option<Box<dyn Engine>>,
    ) {
        self.engine_supervisor.order += 1;
        let refusals = self.engine_supervisor.refusals.clone();
        let (id, order, builder, told) =
            (self.id, self.engine_supervisor.order, self.builder.clone(), self.told.clone());
        tokio::task::spawn_blocking(move || {
            drop(old);
            std::thread::sleep(delay);
            let result = match builder.build(place, windows, &refusals) {
                Err(BuildError::NoWindows) => builder.build_reference(place, &refusals).map_err(BuildError::Failed),
                result => result,
            };
            let _ = told.send(DaemonEvent::BuiltEngine(id, Box::new(EngineReady { order, place, result })));
        });
    }

    /// An engine that was ordered has come, or has not.
    pub(crate) fn delivered(&mut self, node_publisher: &NodePublisher, delivery: EngineReady) {
        let EngineReady { order, place, result } = delivery;
        if order != self.engine_supervisor.order || self.infer_ended {
            // Freed on a thread that may block.
            tokio::task::spawn_blocking(move || drop(result));
            return;
        }
        let result = result.and_then(|built| match self.fits(&built) {
            Ok(()) => Ok(built),
            Err(error) => Err(BuildError::Failed(error)),
        });
        match result {
            Ok(built) => {
                self.engine_supervisor.place = built.place;
                self.engine_supervisor.waiting = built.waiting;
                self.engine_supervisor.has_worked = built.place.is_some();
                self.engine_supervisor.mending = false;
                self.engine_supervisor.lack = None;
                self.engine_supervisor.released = false;
                self.engine_supervisor.coming = Some(built.state);
                self.tell(InferCommand::Engine(built.engine));
                self.want_windows();
            }
            Err(BuildError::Disagrees(agreement)) => {
                let reason = BuildError::Disagrees(agreement).reason();
                let delegate = &self.builder.delegates[place].name;
                node_publisher.event("parity_refused", Some(&self.publisher.name), format!("{delegate}: {reason}"));
                self.demote(node_publisher, place, reason, None);
            }
            Err(unmade) => self.mend(node_publisher, place, unmade.reason(), None),
        }
    }

    /// The decider goes on as it is, so the outputs must be as long as before.
    fn fits(&self, built: &BuiltEngine) -> Result<(), EngineError> {
        let lengths = |outputs: &[TensorInfo]| outputs.iter().map(|o| o.len()).collect::<Vec<_>>();
        let (ours, theirs) = (lengths(&self.tensors.outputs), lengths(&built.outputs));
        if ours == theirs {
            return Ok(());
        }
        Err(EngineError::Mismatch(format!("its outputs have {theirs:?} values where {ours:?} were before")))
    }

    /// The delegate in use among the pipeline's; `None`: the reference.
    pub(crate) fn place(&self) -> Option<usize> {
        self.engine_supervisor.place
    }

    pub(super) fn want_windows(&self) {
        if self.engine_supervisor.place.is_none() {
            self.tell(InferCommand::Windows);
        }
    }
}
