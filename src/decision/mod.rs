//! From a model's outputs to a decision: a class, named values, or the outputs as they are.
//!
//! Pure; state is only what smoothing and hysteresis need, and a gap in the stream clears it. Runs on the infer
//! thread; all memory is taken when the decider is built.

mod classify;
mod smooth;

use crate::config::{Decision as DecisionConfig, Scores};
use crate::engine::{EngineError, TensorInfo};

pub use classify::Classifier;
use smooth::Smoother;

/// What was decided of one window; the values beside it are the (smoothed) scores, the named values, or all outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// `class` is `None` when no score reaches the threshold; `raw_class` is this window's alone, before smoothing.
    Class {
        class: Option<u16>,
        score: f32,
        raw_class: u16,
    },
    Values,
}

/// Turns a pipeline's outputs into verdicts.
pub enum Decider {
    Classify {
        classifier: Classifier,
        output: usize,
    },
    Regress {
        smoother: Smoother,
        output: usize,
    },
    /// The length of each output, one after the other.
    Raw {
        lengths: Vec<usize>,
    },
}

impl Decider {
    /// `labels` are the model's classes, empty where there are none; `ends_in_probabilities` says for each output
    /// whether the model itself makes its scores probabilities. A configuration that does not fit the outputs is a
    /// mismatch with the numbers of both sides.
    pub fn new(
        config: &DecisionConfig,
        outputs: &[TensorInfo],
        labels: &[String],
        ends_in_probabilities: &[bool],
    ) -> Result<Self, EngineError> {
        let chosen = |output: usize| {
            outputs.get(output).ok_or_else(|| {
                EngineError::Mismatch(format!(
                    "output = {output}, but the model's outputs are 0 to {}",
                    outputs.len().saturating_sub(1)
                ))
            })
        };
        match config {
            DecisionConfig::Classify(classify) => {
                let classes = chosen(classify.output)?.len();
                if classes != labels.len() {
                    return Err(EngineError::Mismatch(format!(
                        "the model's output `{}` has {classes} scores; the labels file has {} labels",
                        outputs[classify.output].name,
                        labels.len()
                    )));
                }
                let probabilities = match classify.scores {
                    Some(scores) => scores == Scores::Probabilities,
                    None => ends_in_probabilities.get(classify.output).copied().unwrap_or(false),
                };
                let classifier = Classifier::new(classify, classes, !probabilities);
                Ok(Self::Classify { classifier, output: classify.output })
            }
            DecisionConfig::Regress(regress) => {
                let output = chosen(regress.output)?;
                if output.len() != regress.names.len() {
                    return Err(EngineError::Mismatch(format!(
                        "the model's output `{}` has {} values; regress.names has {}",
                        output.name,
                        output.len(),
                        regress.names.len()
                    )));
                }
                Ok(Self::Regress { smoother: Smoother::new(output.len(), regress.smooth), output: regress.output })
            }
            DecisionConfig::Raw => Ok(Self::Raw { lengths: outputs.iter().map(TensorInfo::len).collect() }),
        }
    }

    /// How many values go with each verdict.
    pub fn width(&self) -> usize {
        match self {
            Self::Classify { classifier, .. } => classifier.classes(),
            Self::Regress { smoother, .. } => smoother.width(),
            Self::Raw { lengths } => lengths.iter().sum(),
        }
    }

    /// Decides on one window; `read` fills a slice with an output's values, `values` has [`Decider::width`] of them.
    pub fn decide(
        &mut self,
        mut read: impl FnMut(usize, &mut [f32]) -> Result<(), EngineError>,
        values: &mut [f32],
    ) -> Result<Verdict, EngineError> {
        match self {
            Self::Classify { classifier, output } => {
                read(*output, values)?;
                Ok(classifier.decide(values))
            }
            Self::Regress { smoother, output } => {
                read(*output, values)?;
                smoother.smooth(values);
                Ok(Verdict::Values)
            }
            Self::Raw { lengths } => {
                let mut rest = values;
                for (output, length) in lengths.iter().enumerate() {
                    let (own, behind) = rest.split_at_mut(*length);
                    read(output, own)?;
                    rest = behind;
                }
                Ok(Verdict::Values)
            }
        }
    }

    /// Forgets earlier windows: the stream had a gap.
    pub fn reset(&mut self) {
        match self {
            Self::Classify { classifier, .. } => classifier.reset(),
            Self::Regress { smoother, .. } => smoother.reset(),
            Self::Raw { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Classify, Regress};
    use crate::engine::Element;

    fn outputs(lengths: &[usize]) -> Vec<TensorInfo> {
        let info = |(i, n): (usize, &usize)| TensorInfo {
            name: format!("out{i}"),
            element: Element::Float32,
            shape: vec![1, *n],
            scale: 0.0,
            zero_point: 0,
        };
        lengths.iter().enumerate().map(info).collect()
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let classify = |output| {
            DecisionConfig::Classify(Classify { output, scores: None, threshold: 0.0, smooth: 1, hysteresis: 0.0 })
        };
        let labels: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let refused = |config: &DecisionConfig| {
            Decider::new(config, &outputs(&[2, 4]), &labels, &[true, true]).err().unwrap().to_string()
        };
        assert!(refused(&classify(0)).contains("has 2 scores; the labels file has 3"));
        assert!(refused(&classify(2)).contains("outputs are 0 to 1"));
        let regress = DecisionConfig::Regress(Regress { output: 1, names: vec!["x".into()], smooth: 1 });
        assert!(refused(&regress).contains("has 4 values; regress.names has 1"));
    }

    #[test]
    fn raw_gives_every_output_in_order() {
        let mut decider = Decider::new(&DecisionConfig::Raw, &outputs(&[2, 1]), &[], &[]).unwrap();
        let mut values = vec![0.0; decider.width()];
        let read = |output: usize, values: &mut [f32]| {
            values.fill(output as f32 + 1.0);
            Ok(())
        };
        assert_eq!(decider.decide(read, &mut values).unwrap(), Verdict::Values);
        assert_eq!(values, [1.0, 1.0, 2.0]);
    }
}
