//! The supervisor of a pipeline's engine: an engine that fails is restarted, or the next delegate takes over.
//!
//! Owns the state of the engine and the decision what to try next: the same delegate at once, then after growing pauses;
//! after too many failures the next delegate. Building blocks, so it runs on threads of its own, which send the result as
//! an event. The supervisor runs on the async thread. `load::engines` knows how an engine is built.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::time::Instant;

use crate::daemon::event::{DaemonEvent, EngineReady, EventSender};
use crate::engine::{Engine, EngineError, TensorInfo};
use crate::ids::PipelineId;
use crate::infer::mailbox::{InferCommand, InferSender};
use crate::load::Tensors;
use crate::load::engines::{BuildError, BuiltEngine, EngineBuilder, Refusal, reasons};
use crate::publish::payload::DelegateState;
use crate::publish::publisher::NodePublisher;

/// Pause before the second restart in a row of a delegate; it doubles with each further one.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What the pipeline's engine does. A `place` is a delegate's place in the pipeline's list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum EngineState {
    /// That delegate works.
    Working { place: usize },
    /// The reference works until the delegate at `candidate` has been compared with it. `reason`: why the delegates before
    /// the candidate were refused meanwhile.
    Comparing { candidate: usize, reason: Option<String> },
    /// No engine: the delegate has worked, has failed, and is built again.
    Restarting { place: usize, since: Instant, reason: String },
    /// No engine: that delegate is built for the first time, because those before it were refused.
    FallingBack { place: usize, since: Instant, reason: String },
    /// No engine: it was freed for a reload that needs its device. `has_worked`: it was the delegate at `place` itself, not
    /// the reference in its stead.
    Released { place: usize, has_worked: bool },
    /// No engine: the reload that needed its device has failed, and the delegate is built again.
    TakingBack { place: usize, has_worked: bool },
    /// No engine, and no delegate left to try.
    Failed,
}

impl EngineState {
    fn of(built: &BuiltEngine) -> Self {
        match built.place {
            Some(place) => Self::Working { place },
            None => Self::Comparing { candidate: built.waiting, reason: None },
        }
    }

    /// Returns the delegate that works, is compared, or is built.
    fn place(&self) -> Option<usize> {
        match self {
            Self::Working { place }
            | Self::Comparing { candidate: place, .. }
            | Self::Restarting { place, .. }
            | Self::FallingBack { place, .. }
            | Self::Released { place, .. }
            | Self::TakingBack { place, .. } => Some(*place),
            Self::Failed => None,
        }
    }

    /// Returns whether the delegate at [`place`](Self::place) has worked since it was turned to.
    fn has_worked(&self) -> bool {
        match self {
            Self::Working { .. } | Self::Restarting { .. } => true,
            Self::Released { has_worked, .. } | Self::TakingBack { has_worked, .. } => *has_worked,
            // What the reference has done says nothing about the delegate.
            Self::Comparing { .. } | Self::FallingBack { .. } | Self::Failed => false,
        }
    }

    /// Returns since when there has been no engine, if a failure is the cause.
    fn failed_at(&self) -> Option<Instant> {
        match self {
            Self::Restarting { since, .. } | Self::FallingBack { since, .. } => Some(*since),
            _ => None,
        }
    }

    /// Returns why the pipeline is degraded at present.
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Restarting { reason, .. } | Self::FallingBack { reason, .. } => Some(reason),
            Self::Comparing { reason, .. } => reason.as_deref(),
            _ => None,
        }
    }
}

/// An engine on its way to the infer thread: what becomes true when that thread uses it.
pub(crate) struct EngineSwitch {
    pub state: DelegateState,
    /// When the engine before it failed, if it did.
    pub failed_at: Option<Instant>,
}

/// Whether the pipeline's status has to be published again.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusUpdate {
    NotNeeded,
    Needed,
}

/// The supervised pipeline, and the ways to its infer thread and to the async thread.
pub(crate) struct Supervised {
    pub pipeline: PipelineId,
    pub name: String,
    pub infer: InferSender,
    pub events: EventSender,
}

/// See the module's doc.
pub(crate) struct EngineSupervisor {
    supervised: Supervised,
    builder: Arc<EngineBuilder>,
    tensors: Arc<Tensors>,
    state: EngineState,
    /// Failures of the delegate in use, within the time that its restarts are counted in.
    failures: VecDeque<Instant>,
    refusals: Vec<Refusal>,
    /// The number of the latest order: the results of earlier ones are discarded.
    order: u64,
    switch: Option<EngineSwitch>,
    /// Waits until the engine is freed.
    release_waiter: Option<mpsc::Sender<()>>,
}

impl EngineSupervisor {
    /// Supervises an engine that was built by `builder`.
    pub(crate) fn new(
        supervised: Supervised,
        builder: Arc<EngineBuilder>,
        tensors: Arc<Tensors>,
        built: &BuiltEngine,
    ) -> Self {
        Self {
            supervised,
            builder,
            tensors,
            state: EngineState::of(built),
            failures: VecDeque::new(),
            refusals: built.refusals.clone(),
            order: 0,
            switch: None,
            release_waiter: None,
        }
    }

    pub(crate) fn builder(&self) -> &Arc<EngineBuilder> {
        &self.builder
    }

    pub(crate) fn tensors(&self) -> &Arc<Tensors> {
        &self.tensors
    }

    /// Returns whether the engine in use is the one that the configuration asks for, as far as that can be known yet.
    pub(crate) fn is_as_configured(&self) -> bool {
        matches!(self.state, EngineState::Working { place: 0 } | EngineState::Comparing { candidate: 0, .. })
    }

    /// Returns whether the engine was freed for a reload, so that there is none now.
    pub(crate) fn is_released(&self) -> bool {
        matches!(self.state, EngineState::Released { .. })
    }

    /// Returns why the pipeline does not work as configured, if its engine is the cause at present.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.state.reason()
    }

    /// Returns whether there is an engine that can run now.
    pub(crate) fn has_engine(&self) -> bool {
        !matches!(self.state, EngineState::Restarting { .. } | EngineState::FallingBack { .. })
    }

    /// Returns how long one inference may take in the delegate's process, if it has one.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let place = match self.state {
            EngineState::Working { place } | EngineState::Released { place, has_worked: true } => place,
            _ => return None,
        };
        self.builder.delegates.get(place)?.process.as_ref().map(|limits| limits.deadline)
    }

    /// Takes over what a reload has prepared. The infer thread gets `built` with its new stages.
    pub(crate) fn replace(&mut self, builder: Arc<EngineBuilder>, tensors: Arc<Tensors>, built: Option<&BuiltEngine>) {
        self.builder = builder;
        self.tensors = tensors;
        if let Some(built) = built {
            self.order += 1;
            self.state = EngineState::of(built);
            self.failures.clear();
            self.refusals.clone_from(&built.refusals);
            self.switch = Some(EngineSwitch { state: built.state.clone(), failed_at: None });
            self.release_waiter = None;
        }
    }

    /// Asks for windows to compare a delegate on, if one waits for them.
    pub(crate) fn request_windows(&self) {
        if matches!(self.state, EngineState::Comparing { .. }) {
            self.supervised.infer.send(InferCommand::Windows);
        }
    }

    /// The windows that were asked for have come; after a reload they may no longer be needed.
    pub(crate) fn windows_received(&mut self, windows: Vec<f32>) {
        if let EngineState::Comparing { candidate, .. } = self.state {
            self.order(candidate, Duration::ZERO, Some(windows), None);
        }
    }

    /// Frees the engine for another that needs the same device; tells `waiter` when it is gone.
    pub(crate) fn release(&mut self, waiter: mpsc::Sender<()>) {
        self.release_waiter = Some(waiter);
        let released = match self.state {
            EngineState::Working { place } => Some(EngineState::Released { place, has_worked: true }),
            EngineState::Comparing { candidate, .. } => {
                Some(EngineState::Released { place: candidate, has_worked: false })
            }
            // There is no engine; the one that is being built comes all the same.
            _ => None,
        };
        if let Some(released) = released {
            // A delegate that is being compared would take the device again.
            self.order += 1;
            self.state = released;
        }
        self.supervised.infer.send(InferCommand::Release);
    }

    /// The infer thread has given its engine back.
    pub(crate) fn released(&mut self, engine: Option<Box<dyn Engine>>) {
        let waiter = self.release_waiter.take();
        tokio::task::spawn_blocking(move || {
            drop(engine);
            // The waiter may have given up.
            waiter.map(|waiter| waiter.send(()))
        });
    }

    /// Builds the engine again that was freed for a reload that failed.
    pub(crate) fn take_back(&mut self) {
        if let EngineState::Released { place, has_worked } = self.state {
            self.state = EngineState::TakingBack { place, has_worked };
            self.order(place, Duration::ZERO, None, None);
        }
    }

    /// The engine has failed; `active` is the name of its delegate.
    pub(crate) fn engine_failed(
        &mut self,
        node_publisher: &NodePublisher,
        active: &str,
        engine: Box<dyn Engine>,
        error: &EngineError,
    ) -> StatusUpdate {
        let name = &self.supervised.name;
        tracing::error!(pipeline = name, delegate = active, "{error}");
        node_publisher.event("engine_failed", Some(name), format!("{active}: {error}"));
        let Some(place) = self.state.place() else {
            tokio::task::spawn_blocking(move || drop(engine));
            return StatusUpdate::NotNeeded;
        };
        let (since, reason) = (Instant::now(), error.to_string());
        self.state = if self.state.has_worked() {
            EngineState::Restarting { place, since, reason: reason.clone() }
        } else {
            EngineState::FallingBack { place, since, reason: reason.clone() }
        };
        self.retry(place, reason, Some(engine))
    }

    /// An engine that was ordered is ready, or could not be built.
    pub(crate) fn engine_ready(&mut self, node_publisher: &NodePublisher, ready: EngineReady) -> StatusUpdate {
        let EngineReady { order, place, result } = ready;
        if order != self.order {
            discard(result);
            return StatusUpdate::NotNeeded;
        }
        let result = result.and_then(|built| match self.check_outputs(&built) {
            Ok(()) => Ok(built),
            Err(error) => Err(BuildError::Failed(error)),
        });
        match result {
            Ok(built) => {
                let failed_at = self.state.failed_at();
                self.state = EngineState::of(&built);
                self.switch = Some(EngineSwitch { state: built.state, failed_at });
                self.supervised.infer.send(InferCommand::Engine(built.engine));
                self.request_windows();
                StatusUpdate::NotNeeded
            }
            Err(BuildError::Disagrees(agreement)) => {
                let reason = BuildError::Disagrees(agreement).reason();
                let delegate = &self.builder.delegates[place].name;
                node_publisher.event("parity_refused", Some(&self.supervised.name), format!("{delegate}: {reason}"));
                self.fall_back(place, reason, None)
            }
            Err(error) => self.retry(place, error.reason(), None),
        }
    }

    /// Returns the engine that the infer thread has just turned to.
    pub(crate) fn take_switch(&mut self) -> Option<EngineSwitch> {
        self.switch.take()
    }

    /// Builds the same delegate again, or the next one if it has failed too often. `old` is the engine that failed.
    fn retry(&mut self, place: usize, reason: String, old: Option<Box<dyn Engine>>) -> StatusUpdate {
        let delegate = &self.builder.delegates[place];
        let now = Instant::now();
        self.failures.push_back(now);
        self.failures.retain(|failure| now - *failure <= delegate.restarts.per);
        let (count, max) = (self.failures.len(), delegate.restarts.max as usize);
        if count > max || !self.state.has_worked() {
            let reason = if count > 1 { format!("{reason}; it failed {count} times") } else { reason };
            return self.fall_back(place, reason, old);
        }
        let reason = format!("{}: {reason}; it is started again ({count} of {max})", delegate.name);
        let since = self.state.failed_at().unwrap_or(now);
        self.state = EngineState::Restarting { place, since, reason };
        self.order(place, pause(count), None, old);
        StatusUpdate::Needed
    }

    /// Turns to the delegate after the one at `place`.
    fn fall_back(&mut self, place: usize, reason: String, old: Option<Box<dyn Engine>>) -> StatusUpdate {
        let delegate = self.builder.delegates[place].name.clone();
        self.refusals.push(Refusal { delegate, reason });
        self.failures.clear();
        let reason = reasons(&self.refusals).unwrap_or_default();
        let next = place + 1;
        if next == self.builder.delegates.len() {
            tokio::task::spawn_blocking(move || drop(old));
            self.state = EngineState::Failed;
            self.supervised.infer.send(InferCommand::GiveUp(EngineError::Refused(reason)));
            return StatusUpdate::NotNeeded;
        }
        self.state = match &self.state {
            // The reference still works.
            EngineState::Comparing { .. } => EngineState::Comparing { candidate: next, reason: Some(reason) },
            state => {
                let since = state.failed_at().unwrap_or_else(Instant::now);
                EngineState::FallingBack { place: next, since, reason }
            }
        };
        self.order(next, Duration::ZERO, None, old);
        StatusUpdate::Needed
    }

    /// Orders an engine. `old` is freed first, because a device may not allow itself to be opened twice.
    fn order(&mut self, place: usize, delay: Duration, windows: Option<Vec<f32>>, old: Option<Box<dyn Engine>>) {
        self.order += 1;
        let (order, refusals, builder) = (self.order, self.refusals.clone(), self.builder.clone());
        let (pipeline, events) = (self.supervised.pipeline, self.supervised.events.clone());
        tokio::task::spawn_blocking(move || {
            drop(old);
            std::thread::sleep(delay);
            let result = match builder.build(place, windows, &refusals) {
                Err(BuildError::NoWindows) => builder.build_reference(place, &refusals).map_err(BuildError::Failed),
                result => result,
            };
            let ready = Box::new(EngineReady { order, place, result });
            let _ = events.send(DaemonEvent::EngineReady(pipeline, ready));
        });
    }

    /// The decider stays as it is, so the outputs must be as long as before.
    fn check_outputs(&self, built: &BuiltEngine) -> Result<(), EngineError> {
        let lengths = |outputs: &[TensorInfo]| outputs.iter().map(|o| o.len()).collect::<Vec<_>>();
        let (before, now) = (lengths(&self.tensors.outputs), lengths(&built.outputs));
        if before == now {
            return Ok(());
        }
        Err(EngineError::Mismatch(format!("its outputs have {now:?} values; before they had {before:?}")))
    }
}

/// Frees an engine that is not needed, on a thread that may block.
pub(crate) fn discard(result: Result<BuiltEngine, BuildError>) {
    tokio::task::spawn_blocking(move || drop(result));
}

/// Returns the pause before a restart; `count` failures have come in a row.
fn pause(count: usize) -> Duration {
    let doublings = u32::try_from(count.saturating_sub(2)).unwrap_or(u32::MAX).min(16);
    if count <= 1 { Duration::ZERO } else { (BACKOFF * (1 << doublings)).min(BACKOFF_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_pause_longer_each_time_up_to_a_limit() {
        let pauses: Vec<u128> = (1..=12).map(|count| pause(count).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000, 10_000]);
        assert_eq!(pause(usize::MAX), BACKOFF_MAX);
    }

    #[test]
    fn only_a_delegate_that_has_worked_is_restarted() {
        let now = Instant::now();
        let reason = || "it crashed".to_owned();
        assert!(EngineState::Working { place: 1 }.has_worked());
        assert!(EngineState::Restarting { place: 1, since: now, reason: reason() }.has_worked());
        assert!(!EngineState::FallingBack { place: 1, since: now, reason: reason() }.has_worked());
        assert!(!EngineState::Comparing { candidate: 1, reason: None }.has_worked());
        assert!(!EngineState::TakingBack { place: 1, has_worked: false }.has_worked());
        assert!(EngineState::Released { place: 1, has_worked: true }.has_worked());
    }
}
