//! Why a pipeline's decisions are not to be trusted: outputs that are not numbers or not what they are taken for, and
//! inputs that do not fit into the model's type.
//!
//! Owns when that is said and when it is over. Pure: counts and time are passed in.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::stage_times::PipelineStats;
use crate::decision::{Fault, ScoreMeaning};
use crate::engine::{TensorInfo, width};
use crate::units::MonoTime;

/// It is over after this time without another such window.
const OVER_AFTER: Duration = Duration::from_secs(10);
/// Saturated values are common if they are a larger share than this, over so many windows.
const COMMON_SHARE: f64 = 0.01;
const SATURATION_WINDOWS: u64 = 10;
const CHAIN_SATURATED: &str = "input: values do not fit into the quantised input of a model before the last one, and are cut: \
     write the features that it was trained with into models.N.features";

/// Counts of the infer thread since the start of the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DoubtCounts {
    /// Windows that went to the engine.
    pub windows: u64,
    pub faults: [u64; Fault::ALL.len()],
    /// Values that did not fit into the model's input.
    pub saturated: u64,
    /// The range of the values of windows with such values.
    pub range: (f32, f32),
    /// Values that did not fit into the inputs of the models before the last one.
    pub chain_saturated: u64,
}

impl DoubtCounts {
    pub fn of(stats: &PipelineStats) -> Self {
        Self {
            windows: stats.filled.load(Ordering::Relaxed),
            faults: Fault::ALL.map(|fault| stats.faults(fault)),
            saturated: stats.saturation.values(),
            range: stats.saturation.range(),
            chain_saturated: stats.chain_saturated.load(Ordering::Relaxed),
        }
    }
}

/// The doubts about one pipeline.
#[derive(Debug)]
pub struct Doubts {
    scores: Option<ScoreMeaning>,
    inputs: Vec<TensorInfo>,
    /// Values in one window.
    width: usize,
    last: DoubtCounts,
    fault: Option<(Fault, MonoTime)>,
    /// The counts from which the share of saturated values is computed.
    saturation_from: DoubtCounts,
    saturation: Option<String>,
    /// Values are cut at the inputs of models before the last one.
    is_chain_saturated: bool,
}

impl Doubts {
    /// `counts`: what earlier stages have counted; `inputs`: the model's, for `batch` windows.
    pub fn new(scores: Option<ScoreMeaning>, inputs: Vec<TensorInfo>, batch: usize, counts: DoubtCounts) -> Self {
        let width = width(&inputs, batch);
        Self {
            scores,
            inputs,
            width,
            last: counts,
            fault: None,
            saturation_from: counts,
            saturation: None,
            is_chain_saturated: false,
        }
    }

    pub fn scores(&self) -> Option<&ScoreMeaning> {
        self.scores.as_ref()
    }

    /// Takes the counts as of now; `ended`: there will be no others.
    pub fn note(&mut self, counts: DoubtCounts, ended: bool, now: MonoTime) {
        let new = |index: usize| counts.faults[index] - self.last.faults[index];
        let most = (0..Fault::ALL.len()).filter(|index| new(*index) > 0).max_by_key(|index| new(*index));
        match (most, self.fault) {
            (Some(index), _) => self.fault = Some((Fault::ALL[index], now)),
            (None, Some((_, at))) if counts.windows > self.last.windows && now.since(at) >= OVER_AFTER => {
                self.fault = None;
            }
            _ => {}
        }
        self.last = counts;
        let windows = counts.windows - self.saturation_from.windows;
        if windows >= SATURATION_WINDOWS || ended && windows > 0 {
            let saturated = counts.saturated - self.saturation_from.saturated;
            let share = saturated as f64 / (windows as f64 * self.width.max(1) as f64);
            self.saturation = match self.saturation.take() {
                _ if share <= COMMON_SHARE => None,
                Some(said) => Some(said),
                None => Some(self.saturated(share, counts.range)),
            };
            // How many values these models have had is not known here: one in each window is more than a rare one.
            self.is_chain_saturated = counts.chain_saturated - self.saturation_from.chain_saturated > windows;
            self.saturation_from = counts;
        }
    }

    fn saturated(&self, share: f64, (low, high): (f32, f32)) -> String {
        let percent = 100.0 * share;
        let holds = |input: &TensorInfo| {
            let TensorInfo { name, element, .. } = input;
            let (lowest, highest) = input.range().unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
            format!("`{name}`, which holds {lowest:.4} to {highest:.4} as {element}")
        };
        let inputs: Vec<String> = self.inputs.iter().filter(|input| input.range().is_some()).map(holds).collect();
        let inputs = inputs.join(", and ");
        let values = if low > high { "NaN".to_owned() } else { format!("{low:.4} to {high:.4}") };
        format!(
            "input: {percent:.0} % of the values do not fit into the model's input {inputs}; they are {values}: give it the features that it was trained with, such \
             as standardize or scale"
        )
    }

    /// Returns all doubts in words that stay the same as long as they do.
    pub fn reason(&self) -> Option<String> {
        let fault = self.fault.map(|(fault, _)| match (fault, &self.scores) {
            (Fault::Nan, _) => no_number("NaN"),
            (Fault::Infinite, _) => no_number("infinity"),
            (_, Some(scores)) => scores.contradiction(fault),
            (_, None) => fault.name().to_owned(),
        });
        let chain = self.is_chain_saturated.then(|| CHAIN_SATURATED.to_owned());
        let reasons: Vec<String> = fault.into_iter().chain(self.saturation.clone()).chain(chain).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

fn no_number(what: &str) -> String {
    format!(
        "model: some windows give {what} instead of a number, which is published as null; check the values that the model \
         gets, and if delegate = \"cpu\" gives the same"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Element;

    fn doubts() -> Doubts {
        let input =
            TensorInfo { name: "x".into(), element: Element::Int8, shape: vec![2, 50], scale: 0.5, zero_point: -1 };
        Doubts::new(None, vec![input], 2, DoubtCounts::default())
    }

    fn at(seconds: u64) -> MonoTime {
        MonoTime(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_no_number_is_said_until_it_has_been_over_for_a_while() {
        let mut doubts = doubts();
        let counts = |windows, nan| DoubtCounts { windows, faults: [nan, 0, 0, 0], ..DoubtCounts::default() };
        let mut note = |windows, nan, second| {
            doubts.note(counts(windows, nan), false, at(second));
            doubts.reason().is_some()
        };
        assert!(!note(5, 0, 1));
        assert!(note(6, 1, 2));
        assert!(note(9, 1, 11), "only 9 s");
        assert!(note(9, 1, 30), "no window since");
        assert!(!note(10, 1, 31));
        assert!(note(11, 2, 32));
    }

    #[test]
    fn saturation_is_said_when_it_is_common() {
        let mut doubts = doubts();
        let mut note = |windows, saturated, ended| {
            let counts = DoubtCounts { windows, saturated, range: (-981.0, 900.0), ..DoubtCounts::default() };
            doubts.note(counts, ended, at(windows));
            doubts.reason()
        };
        assert_eq!(note(9, 450, false), None, "too few windows");
        let said = note(10, 450, false).unwrap();
        assert!(said.starts_with("input: 90 % of the values do not fit into the model's input `x`"), "{said}");
        assert!(said.contains("holds -63.5000 to 64.0000 as int8; they are -981.0000 to 900.0000"), "{said}");
        assert_eq!(note(20, 470, false), Some(said), "4 %");
        assert_eq!(note(30, 475, false), None, "1 %");
        assert_eq!(note(30, 475, true), None);
        assert!(note(31, 525, true).is_some(), "it has ended: there will be no more windows");
    }
}
