//! What each cell answers to the windows: does it agree with the reference, and is it right?
//!
//! Owns the windows of each model, and the reference's answers. Builds engines for that, and none stays.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::report::{Accuracy, Agreement};
use super::statistics::{Dice, proportion};
use super::{BenchError, Subject, WindowsFrom};
use crate::config::Delegate;
use crate::engine::parity::{self, DecidedOn};
use crate::engine::{Element, Engine, EngineError, width};
use crate::load::cells;
use crate::load::engines::EngineBuilder;
use crate::load::windows::Windows;

/// The number of random windows.
const RANDOM_WINDOWS: usize = 64;

/// The outputs of an engine for all windows.
pub(super) struct Answers {
    /// By output, for one window after the other.
    outputs: Vec<Vec<f32>>,
    windows: usize,
    decided: DecidedOn,
}

/// What is known before a cell is tried.
pub(super) struct Known {
    /// By model.
    windows: Vec<Result<Rc<Windows>, String>>,
    reference: Result<Answers, String>,
    /// What the windows are.
    pub says: String,
}

impl Answers {
    /// Runs all windows through `engine`.
    pub(super) fn of(engine: &mut dyn Engine, windows: &Windows, decided: DecidedOn) -> Result<Self, EngineError> {
        let width = width(engine.inputs(), engine.batch());
        let outputs = parity::answers(engine, &windows.values, width)?;
        Ok(Self { outputs, windows: windows.truth.len(), decided })
    }

    /// Returns the part of the windows with a known class in which that has the largest output; `None` if none has one.
    pub(super) fn accuracy(&self, truth: &[Option<u16>]) -> Option<Accuracy> {
        let output = self.outputs.get(self.decided.output)?;
        let classes = output.len() / self.windows.max(1);
        let known = output.chunks(classes.max(1)).zip(truth).filter_map(|(scores, truth)| Some((scores, (*truth)?)));
        let right = known.map(|(scores, truth)| largest(scores) == Some(usize::from(truth))).collect::<Vec<bool>>();
        let windows = right.len();
        let part = proportion(right.iter().filter(|right| **right).count(), windows)?;
        (classes > 1).then_some(Accuracy { windows, right: part })
    }
}

fn largest(scores: &[f32]) -> Option<usize> {
    scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(place, _)| place)
}

impl Known {
    /// Reads the windows, and runs the reference.
    ///
    /// # Errors
    /// No model has windows.
    pub(super) fn new(subject: &Subject<'_>) -> Result<Self, BenchError> {
        let kernels = Delegate::built_in("cpu");
        let kernels = kernels.ok_or_else(|| BenchError::Windows("the runtime lacks its own kernels".to_owned()))?;
        let windows_of = |file: &PathBuf| windows_of(subject, &kernels, file).map(Rc::new);
        let windows: Vec<_> = subject.files.iter().map(windows_of).collect();
        if let (Some(Err(reason)), true) = (windows.first(), windows.iter().all(Result::is_err)) {
            return Err(BenchError::Windows(reason.clone()));
        }
        let reference = match (&subject.reference, subject.files.first().zip(windows.first())) {
            (Some(file), _) => windows_of(file).and_then(|windows| reference(subject, &kernels, file, &windows)),
            (None, Some((file, Ok(windows)))) => reference(subject, &kernels, file, windows),
            (None, Some((_, Err(reason)))) => Err(reason.clone()),
            (None, None) => Err("there is no model".to_owned()),
        };
        let shown = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let count = windows.iter().flatten().map(|windows| windows.truth.len()).max().unwrap_or(0);
        let says = match &subject.windows {
            WindowsFrom::Recording(path) => format!("{count} windows of {}", shown(path)),
            WindowsFrom::Text(path) => format!("{count} windows of {}", shown(path)),
            WindowsFrom::Random => format!("{count} random windows"),
        };
        Ok(Self { windows, reference, says })
    }

    pub(super) fn windows(&self, model: usize) -> Result<Rc<Windows>, String> {
        self.windows.get(model).cloned().unwrap_or_else(|| Err("there is no such model".to_owned()))
    }

    pub(super) fn agreement(&self, answers: &Answers) -> Agreement {
        let reference = match &self.reference {
            Ok(reference) => reference,
            Err(reason) => return Agreement::unknown(&format!("the reference does not run: {reason}")),
        };
        if reference.outputs.len() != answers.outputs.len() || reference.windows != answers.windows {
            return Agreement::unknown("it has other outputs or windows than the reference");
        }
        match parity::agreement(&answers.outputs, &reference.outputs, reference.windows, reference.decided) {
            Ok((difference, top1)) => Agreement {
                windows: reference.windows,
                top1: Some(f64::from(top1)),
                largest_difference: Some(f64::from(difference)),
                reason: None,
            },
            Err(error) => Agreement::unknown(&error.to_string()),
        }
    }
}

impl Agreement {
    pub(super) fn unknown(reason: &str) -> Self {
        Self { windows: 0, top1: None, largest_difference: None, reason: Some(reason.to_owned()) }
    }
}

/// Runs the reference: the model in `file`, on the runtime's own kernels.
fn reference(subject: &Subject<'_>, kernels: &Delegate, file: &Path, windows: &Windows) -> Result<Answers, String> {
    let builder = subject.builder_of(file, kernels, 1)?;
    let (mut engine, _) = builder.tried(0).map_err(|error| error.to_string())?;
    Answers::of(&mut *engine, windows, builder.decided).map_err(|error| error.to_string())
}

/// Returns the windows as they come to the model.
fn windows_of(subject: &Subject<'_>, kernels: &Delegate, file: &Path) -> Result<Windows, String> {
    let builder = || subject.builder_of(file, kernels, 1);
    match (&subject.windows, subject.pipeline) {
        (WindowsFrom::Recording(path), Some(pipeline)) => {
            cells::recorded(subject.context, pipeline, Some(file), kernels, path)
        }
        (WindowsFrom::Recording(path), None) => {
            Err(format!("{}: only a pipeline can play a recording", path.display()))
        }
        (WindowsFrom::Text(path), _) => cells::from_text(path, builder()?.path.last().values()),
        (WindowsFrom::Random, _) => random(&builder()?),
    }
}

/// Returns windows of random numbers, evenly spread over what the model's input can hold; from -1 to 1 for floats.
fn random(builder: &EngineBuilder) -> Result<Windows, String> {
    let (engine, _) = builder.tried(0).map_err(|error| error.to_string())?;
    let mut dice = Dice::new(2);
    let mut values = Vec::new();
    for _ in 0..RANDOM_WINDOWS {
        for input in engine.inputs() {
            let real = |stored: f32| input.scale * (stored - input.zero_point as f32);
            let [low, high] = match input.element {
                Element::Int8 => [-128.0, 127.0].map(real),
                Element::Uint8 => [0.0, 255.0].map(real),
                Element::Int16 => [-32768.0, 32767.0].map(real),
                _ => [-1.0, 1.0],
            };
            values.extend((0..input.len()).map(|_| low + (high - low) * dice.part() as f32));
        }
    }
    Ok(Windows { values, truth: vec![None; RANDOM_WINDOWS] })
}
