//! The care for a running pipeline's engine: what failed is made again, or the next delegate takes over.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::Duration;

use tokio::time::Instant;

use super::Running;
use crate::app::engines::{Made, Refusal, Unmade, reasons};
use crate::app::threads::Told;
use crate::engine::{Engine, EngineError, TensorInfo};
use crate::pipeline::Command;
use crate::publish::payload::DelegateState;
use crate::publish::publisher::Speaker;

/// Pause before the second start in a row of a delegate; it doubles with each further one.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The care for an engine.
pub(super) struct Care {
    /// The delegate in use among the pipeline's; `None`: the reference, until the one at `waiting` can be compared.
    pub(super) place: Option<usize>,
    pub(super) waiting: usize,
    /// The delegate in use has worked since it was turned to.
    pub(super) has_worked: bool,
    pub(super) failures: VecDeque<Instant>,
    pub(super) refusals: Vec<Refusal>,
    /// Told apart from what was ordered before a reload.
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

impl Care {
    pub(super) fn new(made: &Made) -> Self {
        Self {
            place: made.place,
            waiting: made.waiting,
            // The reference has no part in the delegate's record.
            has_worked: made.place.is_some(),
            failures: VecDeque::new(),
            refusals: made.refusals.clone(),
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
pub struct Delivery {
    pub order: u64,
    place: usize,
    result: Result<Made, Unmade>,
}

impl Running {
    /// Frees the engine for another that needs the same device; tells `done`.
    pub fn release(&mut self, done: mpsc::Sender<()>) {
        if self.infer_ended {
            return;
        }
        self.care.release = Some(done);
        self.care.released = true;
        self.care.mending = true;
        self.tell(Command::Release);
    }

    /// Makes the engine anew that was freed in vain.
    pub fn take_back(&mut self) {
        if std::mem::take(&mut self.care.released) {
            self.order(self.care.place.unwrap_or(self.care.waiting), Duration::ZERO, None, None);
        }
    }

    pub(super) fn engine_failed(&mut self, speaker: &Speaker, engine: Box<dyn Engine>, error: &EngineError) {
        let name = &self.publisher.name;
        let active = &self.publisher.delegate.active;
        tracing::error!(pipeline = name, delegate = active, "{error}");
        speaker.event("engine_failed", Some(name), format!("{active}: {error}"));
        self.care.mending = true;
        self.care.released = false;
        self.care.failed = Some(Instant::now());
        let place = self.care.place.unwrap_or(self.care.waiting);
        self.mend(speaker, place, error.to_string(), Some(engine));
    }

    /// Orders the same delegate again, or the next one when it has failed too often.
    fn mend(&mut self, speaker: &Speaker, place: usize, reason: String, old: Option<Box<dyn Engine>>) {
        let delegate = &self.maker.delegates[place];
        let now = Instant::now();
        let failures = &mut self.care.failures;
        failures.push_back(now);
        failures.retain(|failure| now - *failure <= delegate.restarts.per);
        let (count, max) = (failures.len(), delegate.restarts.max as usize);
        if count > max || !self.care.has_worked {
            let often = if count > 1 { format!("{reason}; it failed {count} times") } else { reason };
            return self.demote(speaker, place, often, old);
        }
        let doublings = u32::try_from(count.saturating_sub(2)).unwrap_or(u32::MAX).min(16);
        let delay = if count == 1 { Duration::ZERO } else { (BACKOFF * (1 << doublings)).min(BACKOFF_MAX) };
        self.care.lack = Some(format!("{}: {reason}; it is started again ({count} of {max})", delegate.name));
        self.say_state(speaker);
        self.order(place, delay, None, old);
    }

    /// Turns to the delegate behind the one at `place`.
    fn demote(&mut self, speaker: &Speaker, place: usize, reason: String, old: Option<Box<dyn Engine>>) {
        let delegate = self.maker.delegates[place].name.clone();
        self.care.refusals.push(Refusal { delegate, reason });
        self.care.failures.clear();
        self.care.has_worked = false;
        let told = reasons(&self.care.refusals).unwrap_or_default();
        if place + 1 == self.maker.delegates.len() {
            tokio::task::spawn_blocking(move || drop(old));
            self.tell(Command::GiveUp(EngineError::Refused(told)));
            return;
        }
        self.care.lack = Some(told);
        self.say_state(speaker);
        self.order(place + 1, Duration::ZERO, None, old);
    }

    /// Has an engine made; `old` is freed first, since a device may not let itself be opened twice.
    pub(super) fn order(
        &mut self,
        place: usize,
        delay: Duration,
        windows: Option<Vec<f32>>,
        old: Option<Box<dyn Engine>>,
    ) {
        self.care.order += 1;
        let refusals = self.care.refusals.clone();
        let (id, order, maker, told) = (self.id, self.care.order, self.maker.clone(), self.told.clone());
        tokio::task::spawn_blocking(move || {
            drop(old);
            std::thread::sleep(delay);
            let result = match maker.make(place, windows, &refusals) {
                Err(Unmade::NoWindows) => maker.make_reference(place, &refusals).map_err(Unmade::Failed),
                result => result,
            };
            let _ = told.send(Told::Made(id, Box::new(Delivery { order, place, result })));
        });
    }

    /// An engine that was ordered has come, or has not.
    pub fn delivered(&mut self, speaker: &Speaker, delivery: Delivery) {
        let Delivery { order, place, result } = delivery;
        if order != self.care.order || self.infer_ended {
            // Freed on a thread that may block.
            tokio::task::spawn_blocking(move || drop(result));
            return;
        }
        let result = result.and_then(|made| match self.fits(&made) {
            Ok(()) => Ok(made),
            Err(error) => Err(Unmade::Failed(error)),
        });
        match result {
            Ok(made) => {
                self.care.place = made.place;
                self.care.waiting = made.waiting;
                self.care.has_worked = made.place.is_some();
                self.care.mending = false;
                self.care.lack = None;
                self.care.released = false;
                self.care.coming = Some(made.state);
                self.tell(Command::Engine(made.engine));
                self.want_windows();
            }
            Err(Unmade::Disagrees(agreement)) => {
                let reason = Unmade::Disagrees(agreement).reason();
                let delegate = &self.maker.delegates[place].name;
                speaker.event("parity_refused", Some(&self.publisher.name), format!("{delegate}: {reason}"));
                self.demote(speaker, place, reason, None);
            }
            Err(unmade) => self.mend(speaker, place, unmade.reason(), None),
        }
    }

    /// The decider goes on as it is, so the outputs must be as long as before.
    fn fits(&self, made: &Made) -> Result<(), EngineError> {
        let lengths = |outputs: &[TensorInfo]| outputs.iter().map(|o| o.len()).collect::<Vec<_>>();
        let (ours, theirs) = (lengths(&self.tensors.outputs), lengths(&made.outputs));
        if ours == theirs {
            return Ok(());
        }
        Err(EngineError::Mismatch(format!("its outputs have {theirs:?} values where {ours:?} were before")))
    }

    /// The delegate in use among the pipeline's; `None`: the reference.
    pub fn place(&self) -> Option<usize> {
        self.care.place
    }

    pub(super) fn want_windows(&self) {
        if self.care.place.is_none() {
            self.tell(Command::Windows);
        }
    }
}
