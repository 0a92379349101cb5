//! The real lab: engines of cells, this machine's clock, and its processor.
//!
//! Owns which engine is loaded and which windows come next. Leaves the schedule to `rounds`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::rounds::Lab;
use crate::engine::{Engine, EngineError, width};
use crate::load::engines::EngineBuilder;
use crate::load::windows::Windows;
use crate::stop::Stop;
use crate::sys::SocTemperature;
use crate::sys::cpu::{Children, Others};
use crate::sys::processor::{Conditions, Processor};
use crate::units::{MonoTime, process_cpu_time};

/// A cell that was tried and runs.
pub(super) struct Runnable {
    pub builder: EngineBuilder,
    pub windows: Rc<Windows>,
}

pub(super) struct RealLab {
    /// By cell; `None`: it cannot run.
    cells: Vec<Option<Runnable>>,
    loaded: Option<Loaded>,
    stop: Arc<Stop>,
    children: Children,
    others: Others,
    processor: Processor,
    temperature: SocTemperature,
}

struct Loaded {
    cell: usize,
    engine: Box<dyn Engine>,
    /// The window that comes next.
    next: usize,
    width: usize,
}

impl RealLab {
    pub(super) fn new(
        cells: Vec<Option<Runnable>>,
        stop: Arc<Stop>,
        children: Children,
        sysfs: &std::path::Path,
    ) -> Self {
        Self {
            cells,
            loaded: None,
            stop,
            others: Others::new(children.clone()),
            children,
            processor: Processor::find(sysfs),
            temperature: SocTemperature::find(sysfs),
        }
    }

    pub(super) fn cells(&self) -> &[Option<Runnable>] {
        &self.cells
    }
}

impl Lab for RealLab {
    fn now(&self) -> MonoTime {
        MonoTime::now()
    }

    fn wait(&mut self, until: MonoTime) {
        // If the clock cannot be waited for, the interval is too short, and its energy is refused.
        let _ = self.stop.sleep_until(until);
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_requested()
    }

    fn load(&mut self, cell: usize) -> Result<(), String> {
        let runnable = self.cells.get(cell).and_then(Option::as_ref).ok_or("it was not loaded")?;
        let engine = runnable.builder.again(0).map_err(|error| error.to_string())?;
        let width = width(engine.inputs(), engine.batch());
        self.loaded = Some(Loaded { cell, engine, next: 0, width });
        Ok(())
    }

    fn step(&mut self) -> Result<Duration, String> {
        let Self { cells, loaded, .. } = self;
        let loaded = loaded.as_mut().ok_or("no engine is loaded")?;
        let cell = cells.get(loaded.cell).and_then(Option::as_ref).ok_or("no engine is loaded")?;
        loaded.step(&cell.windows.values).map_err(|error| error.to_string())
    }

    fn unload(&mut self) {
        self.loaded = None;
    }

    fn processor_time(&self) -> (Duration, Option<Duration>) {
        (process_cpu_time() + self.children.cpu_time(), self.others.cpu_time())
    }

    fn conditions(&mut self) -> (Conditions, Option<f64>) {
        (self.processor.look(), self.temperature.read_c())
    }
}

impl Loaded {
    /// Fills the input with the next windows, and invokes. Returns the time that the caller waited for the inference.
    fn step(&mut self, windows: &[f32]) -> Result<Duration, EngineError> {
        let count = windows.len() / self.width.max(1);
        for row in 0..self.engine.batch() {
            let start = self.next * self.width;
            let window = windows.get(start..start + self.width).unwrap_or_default();
            self.engine.set_input(row, window)?;
            self.next = (self.next + 1) % count.max(1);
        }
        let start = MonoTime::now();
        self.engine.invoke()?;
        Ok(MonoTime::now().since(start))
    }
}
