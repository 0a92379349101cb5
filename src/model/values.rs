//! What an output's values are as scores of classes: probabilities, logits, or not to be told from the graph.
//!
//! Follows an output back through the operators and computes which range its values can have. Values that can only be 0 to
//! 1 are probabilities; those of a last linear layer are logits. Does not look into the bodies of loops and branches.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;

use super::ModelError;
use super::buffers::Buffers;
use super::flatbuffer::{Table, Tables};
use super::schema::{fused_activation, operator as op_schema, tensor};
use super::tensor::{ElementType, Quantization, TensorSummary};

/// Most operators that are followed back from the outputs.
const MAX_OPERATORS: usize = 1024;
/// Most operators in a row between a sum and the division by it.
const MAX_HOPS: usize = 8;
/// Most elements of a constant whose range is computed.
const MAX_CONSTANT: u64 = 4096;
/// The range of no values.
const EMPTY: (f32, f32) = (f32::INFINITY, f32::NEG_INFINITY);
/// Constants such as 1/6 are rounded.
const ROUNDING: f32 = 1e-3;
/// The scale that TensorFlow Lite lays down for 8-bit probabilities.
const PROBABILITY_SCALE: f32 = 1.0 / 256.0;
/// Most characters of a custom operator's name.
const NAME_WIDTH: usize = 40;

/// What scores are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueMeaning {
    /// 0 to 1.
    Probabilities,
    /// Any number, as a linear layer or a logarithm of probabilities gives them.
    Logits,
}

/// What an output's values are, if they are scores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutputValues {
    /// `None` if the operators do not tell.
    pub meaning: Option<ValueMeaning>,
    /// The operator that gives them, such as `SOFTMAX through RESHAPE`.
    pub reason: String,
}

impl fmt::Display for OutputValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.meaning {
            Some(ValueMeaning::Probabilities) => write!(f, "values 0 to 1, from {}", self.reason),
            Some(ValueMeaning::Logits) => write!(f, "any values, from {}", self.reason),
            None => write!(f, "values from {}", self.reason),
        }
    }
}

/// The range of a tensor's values.
#[derive(Debug, Clone, Copy)]
struct Values<'c> {
    low: f32,
    high: f32,
    kind: Kind,
    /// The operator that made them what they are; empty for inputs and constants.
    by: &'c str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of a linear layer.
    Linear,
    /// Logarithms of probabilities that sum to 1.
    LogProbabilities,
    Constant,
    /// Of a custom operator, in the type and with the scale that probabilities must have.
    ProbabilityScale,
    Other,
}

/// An operator of a graph.
pub(super) struct Step<'g, 's, 'a> {
    /// The schema's name, or a custom operator's own.
    pub name: &'g str,
    pub custom: bool,
    pub table: Table<'s, 'a>,
    pub inputs: &'g [i32],
}

/// The operators of a graph, in the order in which they run.
pub(super) struct Steps<'g, 's, 'a> {
    pub steps: Vec<Step<'g, 's, 'a>>,
    /// For each tensor, the index in `steps` of the one that writes it.
    pub producers: &'g HashMap<i32, usize>,
    pub tensors: Tables<'s, 'a>,
    /// The inputs of the graph.
    pub inputs: Vec<i32>,
    pub buffers: &'g Buffers<'s, 'a>,
}

impl Step<'_, '_, '_> {
    /// The schema's name; empty for a custom operator, whatever it calls itself.
    fn builtin(&self) -> &str {
        if self.custom { "" } else { self.name }
    }
}

impl<'g, 's, 'a> Steps<'g, 's, 'a> {
    /// Returns what the values of each of these tensors are. Each operator is looked at once, however many outputs there are.
    pub(super) fn values_of(&self, outputs: &[i32]) -> Result<Vec<OutputValues>, ModelError> {
        let known = self.follow(outputs)?;
        let values = |output: &i32| {
            let values = known.get(output).copied().unwrap_or(Values::UNKNOWN);
            let last = self.producer(*output).map_or("", |step| step.name);
            OutputValues { meaning: values.meaning(), reason: values.reason(last) }
        };
        Ok(outputs.iter().map(values).collect())
    }

    fn follow(&self, outputs: &[i32]) -> Result<HashMap<i32, Values<'g>>, ModelError> {
        let mut known = HashMap::<i32, Values<'g>>::new();
        // In the order in which they run, so that each finds what those before it gave.
        for step in self.behind(outputs).into_iter().filter_map(|index| self.steps.get(index)) {
            if !is_source(step.builtin()) {
                for input in step.inputs.iter().filter(|input| !self.producers.contains_key(*input)) {
                    known.entry(*input).or_insert_with(|| self.constant(*input));
                }
            }
            let input = |input: &i32| known.get(input).copied().unwrap_or(Values::UNKNOWN);
            let inputs: Vec<Values<'g>> = step.inputs.iter().map(input).collect();
            let mut values = apply(step, &inputs, || self.divides_by_own_sum(step));
            if let Some(field) = fused_activation(step.builtin())
                && let Some(options) = step.table.table(op_schema::OPTIONS)?
            {
                values = activated(values, options.i8(field)?.unwrap_or(0));
            }
            for (place, written) in step.table.i32s(op_schema::OUTPUTS)?.into_iter().enumerate() {
                // The second output of TOPK_V2 holds the places of the values.
                let values = if step.builtin() == "TOPK_V2" && place > 0 {
                    Values { by: step.name, ..Values::UNKNOWN }
                } else {
                    values
                };
                let by_scale = Values { kind: Kind::ProbabilityScale, ..Values::unit(step.name) };
                let told_by_scale = step.custom && self.has_probability_scale(written);
                known.insert(written, if told_by_scale { by_scale } else { values });
            }
        }
        Ok(known)
    }

    fn producer(&self, tensor: i32) -> Option<&Step<'g, 's, 'a>> {
        self.producers.get(&tensor).and_then(|index| self.steps.get(*index))
    }

    /// Returns the operators that `outputs` depend on, as far as their values matter.
    fn behind(&self, outputs: &[i32]) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut waiting = outputs.to_vec();
        while let Some(tensor) = waiting.pop() {
            let Some(index) = self.producers.get(&tensor).copied() else { continue };
            let Some(step) = self.steps.get(index) else { continue };
            if found.len() < MAX_OPERATORS && found.insert(index) && !is_source(step.builtin()) {
                waiting.extend(step.inputs);
            }
        }
        found
    }

    /// Returns whether `step` divides values by their sum, which makes parts of 1 of them if none is negative.
    fn divides_by_own_sum(&self, step: &Step<'_, '_, '_>) -> bool {
        let &[dividend, mut divisor] = step.inputs else { return false };
        // A small number is often added to the sum, so that it is never zero.
        for _ in 0..MAX_HOPS {
            let Some(step) = self.producer(divisor) else { return false };
            match (step.builtin(), step.inputs.first()) {
                ("SUM", Some(summed)) => return *summed == dividend,
                ("RESHAPE" | "EXPAND_DIMS" | "SQUEEZE" | "ADD" | "MAXIMUM", Some(input)) => divisor = *input,
                _ => return false,
            }
        }
        false
    }

    /// Returns whether a tensor has the type, scale and zero point that probabilities must have.
    fn has_probability_scale(&self, index: i32) -> bool {
        let Some((tensor, _)) = self.tensor(index) else { return false };
        let zero_point = match tensor.element {
            ElementType::INT8 => -128,
            ElementType::UINT8 => 0,
            _ => return false,
        };
        tensor.quantization == Some(Quantization::PerTensor { scale: PROBABILITY_SCALE, zero_point })
    }

    fn tensor(&self, index: i32) -> Option<(TensorSummary, Table<'s, 'a>)> {
        let table = self.tensors.get(i64::from(index), (0, op_schema::INPUTS.name)).ok()?;
        Some((TensorSummary::read(table, usize::try_from(index).ok()?).ok()?, table))
    }

    /// Returns the range of a constant; that of an input of the model is not known.
    fn constant(&self, index: i32) -> Values<'g> {
        match self.tensor(index) {
            Some((tensor, table)) if !tensor.variable && !self.inputs.contains(&index) => {
                let (low, high) = self.range(&tensor, table).unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
                Values { low, high, kind: Kind::Constant, by: "" }
            }
            _ => Values::UNKNOWN,
        }
    }

    /// Returns the lowest and the highest value of a constant, if it is small and its values are numbers.
    fn range(&self, tensor: &TensorSummary, table: Table<'s, 'a>) -> Option<(f32, f32)> {
        let count = tensor.shape.iter().try_fold(1u64, |count, dim| count.checked_mul(u64::try_from(*dim).ok()?))?;
        if count > MAX_CONSTANT || tensor.sparse_format {
            return None;
        }
        let data = self.buffers.data(table.u32(tensor::BUFFER).ok()??, (table.at, tensor::BUFFER.name)).ok()?;
        let real = |stored: f32| match &tensor.quantization {
            Some(Quantization::PerTensor { scale, zero_point }) => Some(scale * (stored - *zero_point as f32)),
            _ => None,
        };
        let values: Vec<f32> = match tensor.element {
            ElementType::FLOAT32 => data.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect(),
            ElementType::INT8 => data.iter().map(|byte| real(f32::from(byte.cast_signed()))).collect::<Option<_>>()?,
            ElementType::UINT8 => data.iter().map(|byte| real(f32::from(*byte))).collect::<Option<_>>()?,
            _ => return None,
        };
        let is_range = !values.is_empty() && values.iter().all(|value| value.is_finite());
        is_range.then(|| values.iter().fold(EMPTY, |(low, high), value| (value.min(low), value.max(high))))
    }
}

/// Returns whether the range of an operator's values does not depend on its inputs.
fn is_source(name: &str) -> bool {
    is_linear(name) || matches!(name, "SOFTMAX" | "LOGISTIC" | "STABLEHLO_LOGISTIC" | "LOG_SOFTMAX" | "TANH")
}

fn is_linear(name: &str) -> bool {
    matches!(
        name,
        "FULLY_CONNECTED"
            | "CONV_2D"
            | "DEPTHWISE_CONV_2D"
            | "TRANSPOSE_CONV"
            | "CONV_3D"
            | "CONV_3D_TRANSPOSE"
            | "BATCH_MATMUL"
            | "SVDF"
            | "STABLEHLO_DOT_GENERAL"
            | "STABLEHLO_CONVOLUTION"
    )
}

impl<'c> Values<'c> {
    fn meaning(&self) -> Option<ValueMeaning> {
        match self.kind {
            _ if self.is_within_one() => Some(ValueMeaning::Probabilities),
            Kind::Linear | Kind::LogProbabilities => Some(ValueMeaning::Logits),
            Kind::Constant | Kind::ProbabilityScale | Kind::Other => None,
        }
    }

    /// Returns the operators that they come from; `last` is the one that writes the output.
    fn reason(&self, last: &str) -> String {
        let reason = match (escaped(self.by), escaped(last)) {
            (by, last) if by.is_empty() && last.is_empty() => "no operator".to_owned(),
            (by, last) if by.is_empty() || by == last => last,
            (by, last) => format!("{by} through {last}"),
        };
        match self.kind {
            Kind::ProbabilityScale => format!("{reason} with the scale 1/256 of probabilities"),
            _ => reason,
        }
    }

    const UNKNOWN: Self = Self { low: f32::NEG_INFINITY, high: f32::INFINITY, kind: Kind::Other, by: "" };

    fn unit(by: &'c str) -> Self {
        Self { low: 0.0, high: 1.0, kind: Kind::Other, by }
    }

    fn is_within_one(&self) -> bool {
        self.kind != Kind::Constant && self.low >= -ROUNDING && self.high <= 1.0 + ROUNDING
    }

    fn is_constant(&self) -> bool {
        self.kind == Kind::Constant
    }

    /// Returns them cut to a range, by the operator `by` if that changes what they are.
    fn clamped(self, low: f32, high: f32, by: &'c str) -> Self {
        let cut = Self { low: self.low.max(low), high: self.high.min(high), ..self };
        if cut.low <= self.low && cut.high >= self.high { self } else { Self { kind: Kind::Other, by, ..cut } }
    }

    /// Returns the values of either.
    fn union(self, other: Self) -> Self {
        let by = if other.is_within_one() && !self.is_within_one() { other.by } else { self.by };
        Self { low: self.low.min(other.low), high: self.high.max(other.high), kind: Kind::Other, by }
    }

    fn other(self) -> Self {
        Self { kind: Kind::Other, ..self }
    }

    /// Applies a function that never falls.
    fn mapped(self, by: &'c str, function: fn(f32) -> f32) -> Self {
        Self { low: function(self.low), high: function(self.high), kind: Kind::Other, by }
    }

    fn negated(self) -> Self {
        // They are not logarithms of probabilities any more.
        let values = if self.kind == Kind::LogProbabilities { self.other() } else { self };
        Self { low: -self.high, high: -self.low, ..values }
    }
}

/// Returns the values that `step` makes of its inputs. `normalises`: it divides by the sum of what it divides.
fn apply<'c>(step: &Step<'c, '_, '_>, inputs: &[Values<'c>], normalises: impl Fn() -> bool) -> Values<'c> {
    let (name, own) = (step.builtin(), step.name);
    let (first, second) = (inputs.first().copied(), inputs.get(1).copied());
    let first_or_unknown = first.unwrap_or(Values { by: own, ..Values::UNKNOWN });
    let values = match name {
        "SOFTMAX" | "LOGISTIC" | "STABLEHLO_LOGISTIC" => Values::unit(own),
        "LOG_SOFTMAX" => Values { high: 0.0, kind: Kind::LogProbabilities, by: own, ..Values::UNKNOWN },
        "TANH" => Values { low: -1.0, high: 1.0, kind: Kind::Other, by: own },
        name if is_linear(name) => Values { kind: Kind::Linear, by: own, ..Values::UNKNOWN },
        "RELU" => first_or_unknown.clamped(0.0, f32::INFINITY, own),
        "RELU6" => first_or_unknown.clamped(0.0, 6.0, own),
        "RELU_0_TO_1" => first_or_unknown.clamped(0.0, 1.0, own),
        "RELU_N1_TO_1" => first_or_unknown.clamped(-1.0, 1.0, own),
        // The same values in another layout or number format.
        "RESHAPE"
        | "SQUEEZE"
        | "EXPAND_DIMS"
        | "TRANSPOSE"
        | "QUANTIZE"
        | "DEQUANTIZE"
        | "DENSIFY"
        | "CAST"
        | "FAKE_QUANT"
        | "REVERSE_V2"
        | "STABLEHLO_RESHAPE"
        | "STABLEHLO_TRANSPOSE"
        | "STABLEHLO_CONVERT" => first_or_unknown,
        // Some of the values, or means of them.
        "SLICE"
        | "STRIDED_SLICE"
        | "GATHER"
        | "GATHER_ND"
        | "SPLIT_V"
        | "UNPACK"
        | "TOPK_V2"
        | "REDUCE_MAX"
        | "REDUCE_MIN"
        | "MAX_POOL_2D"
        | "AVERAGE_POOL_2D"
        | "MEAN"
        | "TILE"
        | "BROADCAST_TO"
        | "RESIZE_BILINEAR"
        | "RESIZE_NEAREST_NEIGHBOR"
        | "STABLEHLO_SLICE" => match first_or_unknown.kind {
            Kind::LogProbabilities => first_or_unknown.other(),
            _ => first_or_unknown,
        },
        "SPLIT" => second.unwrap_or(first_or_unknown),
        "PAD" | "PADV2" => first_or_unknown.union(Values { low: 0.0, high: 0.0, ..first_or_unknown }),
        "CONCATENATION" | "PACK" | "STABLEHLO_CONCATENATE" => united(inputs, own),
        "SELECT" | "SELECT_V2" => united(inputs.get(1..).unwrap_or_default(), own),
        "EQUAL" | "NOT_EQUAL" | "GREATER" | "GREATER_EQUAL" | "LESS" | "LESS_EQUAL" | "LOGICAL_AND" | "LOGICAL_OR"
        | "LOGICAL_NOT" => Values::unit(own),
        "NEG" => first_or_unknown.negated(),
        "EXP" => first_or_unknown.mapped(own, f32::exp),
        "SQRT" => first_or_unknown.clamped(0.0, f32::INFINITY, own).mapped(own, f32::sqrt),
        "ABS" if first_or_unknown.low < 0.0 => Values { low: 0.0, by: own, ..Values::UNKNOWN },
        "ABS" => first_or_unknown,
        // Of an exponent that is not negative.
        "POW" if first_or_unknown.is_within_one() && second.is_some_and(|exponent| exponent.low >= 0.0) => {
            Values::unit(own)
        }
        "POW" if first_or_unknown.low >= 0.0 => Values { low: 0.0, by: own, ..Values::UNKNOWN },
        "SQUARE" if first_or_unknown.low >= 0.0 => first_or_unknown.mapped(own, |x| x * x),
        "LOG" if first_or_unknown.is_within_one() => {
            Values { kind: Kind::LogProbabilities, ..first_or_unknown.mapped(own, f32::ln) }
        }
        "SUM" if first_or_unknown.low >= 0.0 => Values { high: f32::INFINITY, by: own, ..first_or_unknown }.other(),
        "DIV" if first_or_unknown.low >= 0.0 && normalises() => Values::unit(own),
        "ADD" | "SUB" | "MUL" | "DIV" | "MAXIMUM" | "MINIMUM" => match second {
            Some(second) => arithmetic(name, own, first_or_unknown, second),
            None => Values { by: own, ..Values::UNKNOWN },
        },
        _ => Values { by: own, ..Values::UNKNOWN },
    };
    if values.by.is_empty() && !values.is_constant() { Values { by: own, ..values } } else { values }
}

fn united<'c>(inputs: &[Values<'c>], own: &'c str) -> Values<'c> {
    let Some((first, rest)) = inputs.split_first() else { return Values { by: own, ..Values::UNKNOWN } };
    match rest {
        [] => *first,
        // Which of several parts belong together cannot be told.
        _ => rest.iter().fold(first.other(), |all, values| all.union(*values)),
    }
}

fn arithmetic<'c>(name: &str, own: &'c str, a: Values<'c>, b: Values<'c>) -> Values<'c> {
    let (low, high) = match name {
        "ADD" => (a.low + b.low, a.high + b.high),
        "SUB" => (a.low - b.high, a.high - b.low),
        "MUL" => ends([a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high]),
        "DIV" if b.low > 0.0 || b.high < 0.0 => ends([a.low / b.low, a.low / b.high, a.high / b.low, a.high / b.high]),
        "MAXIMUM" => (a.low.max(b.low), a.high.max(b.high)),
        "MINIMUM" => (a.low.min(b.low), a.high.min(b.high)),
        _ => (f32::NEG_INFINITY, f32::INFINITY),
    };
    let (low, high) =
        (if low.is_nan() { f32::NEG_INFINITY } else { low }, if high.is_nan() { f32::INFINITY } else { high });
    let (varying, other) = if a.is_constant() { (b, a) } else { (a, b) };
    // A linear layer stays one if it is shifted, scaled or limited by constants, or added to.
    let stays_linear = match name {
        "ADD" | "SUB" => a.kind == Kind::Linear || b.kind == Kind::Linear,
        "DIV" => a.kind == Kind::Linear && b.is_constant(),
        _ => varying.kind == Kind::Linear && other.is_constant(),
    };
    let kind = match () {
        () if a.is_constant() && b.is_constant() => Kind::Constant,
        () if stays_linear => Kind::Linear,
        () => Kind::Other,
    };
    let values = Values { low, high, kind, by: own };
    // Probabilities that stay probabilities keep their operator.
    let inner = [a, b].into_iter().find(|input| input.is_within_one() || input.kind == Kind::Linear);
    let keeps = |inner: &Values<'c>| values.is_within_one() && inner.is_within_one() || values.kind == inner.kind;
    inner.filter(keeps).map_or(values, |inner| Values { by: inner.by, ..values })
}

/// Returns the lowest and the highest of the products or quotients of the ends of two ranges. 0 times infinity is 0, because
/// no value is infinite itself.
fn ends(values: [f32; 4]) -> (f32, f32) {
    let values = values.map(|value| if value.is_nan() { 0.0 } else { value });
    values.into_iter().fold(EMPTY, |(low, high), value| (value.min(low), value.max(high)))
}

/// Applies the activation that an operator carries, by its code in the schema (enum ActivationFunctionType).
fn activated(values: Values<'_>, activation: i8) -> Values<'_> {
    let by = values.by;
    match activation {
        0 => values,
        1 => values.clamped(0.0, f32::INFINITY, by),
        2 => values.clamped(-1.0, 1.0, by),
        3 => values.clamped(0.0, 6.0, by),
        4 => Values { low: -1.0, high: 1.0, kind: Kind::Other, by },
        _ => Values { by, ..Values::UNKNOWN },
    }
}

/// Returns a name that may come from a file so that it can be shown.
fn escaped(name: &str) -> String {
    name.chars().take(NAME_WIDTH).flat_map(char::escape_debug).collect()
}
