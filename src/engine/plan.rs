//! Decides how a model is run: which signature, the shape of the input that gets the windows, the outputs that go back to
//! inputs.
//!
//! Pure: reads the description of the file and the shape of a window. The engines carry the plan out. A plan also goes to
//! the engine's process.

mod several;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::EngineError;
use crate::model::{ModelSummary, Quantization, Signature, TensorSummary};
use crate::stream::{Shape, ShapePath};

/// The name that TensorFlow gives to the signature for serving.
const SERVING: &str = "serving_default";

/// How an engine runs a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPlan {
    /// The signature to run; `None`: the file's first subgraph.
    pub signature: Option<String>,
    /// How many windows go through at a time.
    pub batch: usize,
    /// The index of the input that gets the windows, or of the first one that gets a part of them.
    pub fed: usize,
    /// The shape of that input, with the batch; `None`: the file's, with `batch` as its first dimension unless that is 1.
    pub dims: Option<Vec<i32>>,
    /// The other inputs that get a part of the windows, in the order of the model.
    pub more: Vec<Feed>,
    /// The outputs that go back to inputs.
    pub states: Vec<StatePair>,
}

/// An input that gets a part of the windows, and its shape as in [`ModelPlan::dims`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    pub input: usize,
    pub dims: Option<Vec<i32>>,
}

/// An output whose value after one inference is the value of an input in the next one. The first value is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatePair {
    pub input: usize,
    pub output: usize,
}

impl ModelPlan {
    /// Returns the plan for a model with one input that takes `batch` windows as the file has it.
    pub fn of_batch(batch: usize) -> Self {
        Self { signature: None, batch, fed: 0, dims: None, more: Vec::new(), states: Vec::new() }
    }

    /// Returns the inputs that get the windows, each with its shape as in [`ModelPlan::dims`].
    pub fn feeds(&self) -> impl Iterator<Item = (usize, Option<&Vec<i32>>)> {
        let more = self.more.iter().map(|feed| (feed.input, feed.dims.as_ref()));
        std::iter::once((self.fed, self.dims.as_ref())).chain(more)
    }

    /// Returns the same plan for one window at a time.
    #[must_use]
    pub fn single(&self) -> Self {
        let mut single = Self { batch: 1, ..self.clone() };
        // With more than one window the first dimension is the batch.
        if self.batch > 1 {
            let more = single.more.iter_mut().filter_map(|feed| feed.dims.as_mut());
            single.dims.iter_mut().chain(more).filter_map(|dims| dims.first_mut()).for_each(|first| *first = 1);
        }
        single
    }

    /// Returns the description of what is run: its main subgraph is that of the signature.
    ///
    /// # Errors
    /// The file does not have the signature.
    pub fn entered(&self, summary: ModelSummary) -> Result<ModelSummary, EngineError> {
        let Some(name) = &self.signature else { return Ok(summary) };
        let entered = summary.entered(find_signature(Some(&summary), name)?);
        entered.ok_or_else(|| no_signature(name))
    }

    /// Returns whether an inference depends on the one before; `summary` is the description of what is run.
    pub fn is_stateful(&self, summary: &ModelSummary) -> bool {
        summary.stateful || !self.states.is_empty()
    }
}

/// Returns the signature called `name` in the file's description, if the file could be described.
///
/// # Errors
/// There is none of that name.
pub(super) fn find_signature<'a>(summary: Option<&'a ModelSummary>, name: &str) -> Result<&'a Signature, EngineError> {
    let found = summary.and_then(|summary| summary.signatures.iter().find(|signature| signature.name == name));
    found.ok_or_else(|| no_signature(name))
}

fn no_signature(name: &str) -> EngineError {
    EngineError::Mismatch(format!("the model has no signature `{name}`"))
}

/// The keys of the configuration that decide how a model is run.
#[derive(Debug, Clone, Copy)]
pub struct PlanKeys<'a> {
    /// For each input that holds a state, the output that gives its next value.
    pub states: &'a BTreeMap<String, String>,
    /// For each of several inputs, the channels of the window that it gets; none: one input gets the window.
    pub inputs: &'a BTreeMap<String, Vec<String>>,
    /// The names of the stream's channels.
    pub channels: &'a [String],
    pub batch: usize,
}

/// A plan that fits a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    pub plan: ModelPlan,
    /// The model wants the channels first: windows must be transposed.
    pub transposed: bool,
    /// For several inputs: where in the window each of their values is, one input after the other.
    pub places: Option<Vec<usize>>,
}

/// Why a model cannot be run on such windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    State(String),
    /// The parts of the window do not fit the inputs that they are for.
    Inputs(String),
    /// The windows do not have the shape that the model wants.
    Window(String),
    Batch(String),
}

impl Unfit {
    /// Returns why, without what it is about.
    pub fn into_message(self) -> String {
        match self {
            Self::State(message) | Self::Inputs(message) | Self::Window(message) | Self::Batch(message) => message,
        }
    }
}

/// Chooses the signature that is run; `None`: the file's first subgraph.
///
/// Without `wanted` it is `serving_default`, else the only one; one that changes variables, as training does, is chosen
/// only if all do.
///
/// # Errors
/// There is no such signature, or several could be meant; the message has their names.
pub fn signature<'a>(summary: &'a ModelSummary, wanted: Option<&str>) -> Result<Option<&'a Signature>, String> {
    let signatures = &summary.signatures;
    let names = |signatures: &[&Signature]| {
        signatures.iter().map(|signature| format!("`{}`", signature.name.escape_debug())).collect::<Vec<_>>().join(", ")
    };
    let all: Vec<&Signature> = signatures.iter().collect();
    if let Some(wanted) = wanted {
        let found = signatures.iter().find(|signature| signature.name == wanted);
        return match (found, all.is_empty()) {
            (Some(found), _) => Ok(Some(found)),
            (None, true) => Err("the model has no signatures; leave the key out".into()),
            (None, false) => Err(format!("the model has no signature of that name; it has {}", names(&all))),
        };
    }
    let reading: Vec<&Signature> =
        all.iter().copied().filter(|signature| !summary.changes_variables(signature.subgraph as usize)).collect();
    let candidates = if reading.is_empty() { &all } else { &reading };
    let chosen = match candidates.as_slice() {
        [] => return Ok(None),
        [only] => Some(*only),
        several => several.iter().copied().find(|signature| signature.name == SERVING),
    };
    chosen.map(Some).ok_or_else(|| {
        let several = names(candidates);
        format!("the model has the signatures {several}; name the one to run in signature")
    })
}

/// Returns the index of the input that gets the windows, if it is clear which one that is. `summary` describes what
/// `signature` runs.
pub fn fed_input(summary: &ModelSummary, signature: Option<&Signature>, keys: &PlanKeys<'_>) -> Option<usize> {
    if !keys.inputs.is_empty() {
        return None;
    }
    fed(summary, &states(summary, signature, keys).ok()?).ok()
}

/// Plans how the model is run on windows that come along `path`. `summary` describes what `signature` runs.
///
/// # Errors
/// The part of the configuration that does not fit, and why.
pub fn plan(
    summary: &ModelSummary,
    signature: Option<&Signature>,
    keys: &PlanKeys<'_>,
    path: &ShapePath,
) -> Result<Fitted, Unfit> {
    let states = states(summary, signature, keys).map_err(Unfit::State)?;
    let batch = i32::try_from(keys.batch).map_err(|_| Unfit::Batch(format!("{} is too large", keys.batch)))?;
    if !keys.inputs.is_empty() {
        return several::plan(summary, signature, keys, (states, batch), path);
    }
    let fed = fed(summary, &states)?;
    let input = &summary.main.inputs[fed];
    let window = path.last();
    let (dims, transposed) = match fit(&input.shape_signature, window, batch) {
        Some(fitted) => fitted,
        None => return Err(unfit(input, path, keys.batch)),
    };
    check_states(&states, keys.batch)?;
    let dims = (dims != input.shape || batch > 1).then_some(dims);
    let signature = entered_name(signature);
    let plan = ModelPlan { signature, batch: keys.batch, fed, dims, more: Vec::new(), states };
    Ok(Fitted { plan, transposed, places: None })
}

fn check_states(states: &[StatePair], batch: usize) -> Result<(), Unfit> {
    if batch > 1 && !states.is_empty() {
        let why = "the model's state goes from one window to the next, so windows must go through it one at a time";
        return Err(Unfit::Batch(why.into()));
    }
    Ok(())
}

/// Returns the name of the signature, if it is not what every runtime runs.
fn entered_name(signature: Option<&Signature>) -> Option<String> {
    signature.filter(|signature| signature.subgraph != 0).map(|signature| signature.name.clone())
}

fn unfit(input: &TensorSummary, path: &ShapePath, batch: usize) -> Unfit {
    let window = path.last();
    let mut dims = input.shape_signature.clone();
    if let (Some(first @ -1), Ok(batch)) = (dims.first_mut(), i32::try_from(batch)) {
        *first = batch;
    }
    let shape = shape_text(&dims);
    let mut message = format!("the model's input `{}` is {shape}", input.name.escape_debug());
    if let Some(values) = values(&dims) {
        let _ = write!(message, ", which is {values} values");
    }
    let gets = window.repeated(batch);
    let _ = write!(message, "; it gets {gets}, which is {} ({path})", window.values().saturating_mul(batch));
    if batch > 1 && fit(&input.shape_signature, window, 1).is_some() {
        let shape = shape_text(&input.shape_signature);
        let why = format!("the model's input is {shape}, which has no batch dimension; set batch.max = 1");
        return Unfit::Batch(why);
    }
    Unfit::Window(message)
}

/// Returns the pairs of inputs and outputs that the configuration names.
fn states(
    summary: &ModelSummary,
    signature: Option<&Signature>,
    keys: &PlanKeys<'_>,
) -> Result<Vec<StatePair>, String> {
    let outputs: Vec<&TensorSummary> = summary.main.outputs.iter().map(|output| &output.tensor).collect();
    let inputs: Vec<&TensorSummary> = summary.main.inputs.iter().collect();
    let pair = |(input, output): (&String, &String)| {
        let names = signature.map_or((&[][..], &[][..]), |signature| (&signature.inputs[..], &signature.outputs[..]));
        let pair = StatePair {
            input: find(&inputs, names.0, input)
                .map_err(|has| format!("the model has no input `{input}`; it has {has}"))?,
            output: find(&outputs, names.1, output)
                .map_err(|has| format!("the model has no output `{output}`; it has {has}"))?,
        };
        let (from, to) = (outputs[pair.output], inputs[pair.input]);
        if from.element != to.element || from.shape != to.shape || from.quantization != to.quantization {
            let same_shape = from.shape == to.shape;
            let advice = if same_shape { ": convert the model with inputs and outputs of float32" } else { "" };
            let (from, to) = (kind_text(from), kind_text(to));
            return Err(format!(
                "the output `{output}` is {from}, and the input `{input}` is {to}; a state must have the same shape, type and \
                 quantisation in both{advice}"
            ));
        }
        Ok(pair)
    };
    keys.states.iter().map(pair).collect()
}

/// Returns the shape, type and quantisation of a tensor in words.
fn kind_text(tensor: &TensorSummary) -> String {
    let kind = format!("{} {}", shape_text(&tensor.shape), tensor.element);
    match &tensor.quantization {
        None => kind,
        Some(Quantization::PerTensor { scale, zero_point }) => {
            format!("{kind} of scale {scale}, zero point {zero_point}")
        }
        Some(_) => format!("{kind} of several scales"),
    }
}

/// Returns the position of the tensor called `name`, by its own name or by that in the signature; else the names that there
/// are.
fn find(tensors: &[&TensorSummary], named: &[crate::model::NamedTensor], name: &str) -> Result<usize, String> {
    let in_signature = |tensor: &TensorSummary| named.iter().any(|n| n.name == name && n.index == tensor.index);
    let found = tensors.iter().position(|tensor| tensor.name == name || in_signature(tensor));
    let names = || tensors.iter().map(|t| format!("`{}`", t.name.escape_debug())).collect::<Vec<_>>().join(", ");
    found.ok_or_else(names)
}

/// Returns the only input that does not hold a state.
fn fed(summary: &ModelSummary, states: &[StatePair]) -> Result<usize, Unfit> {
    let inputs = &summary.main.inputs;
    let free: Vec<usize> = (0..inputs.len()).filter(|index| states.iter().all(|s| s.input != *index)).collect();
    let names: Vec<String> = free.iter().map(|index| format!("`{}`", inputs[*index].name.escape_debug())).collect();
    match free.as_slice() {
        [fed] => Ok(*fed),
        [] if inputs.is_empty() => Err(Unfit::Window("the model has no inputs".into())),
        [] => Err(Unfit::State("every input is a state, so no input gets the windows".into())),
        several => Err(Unfit::State(format!(
            "the model has {} inputs without a state: {}. If each gets channels of the window, name them in inputs = {{ \
             INPUT = [\"CHANNEL\"] }}; if one keeps what an output gave, name it in state = {{ INPUT = \"OUTPUT\" }}",
            several.len(),
            names.join(", ")
        ))),
    }
}

/// Returns the shape that the input gets, with the batch, and whether windows must be transposed; `None`: they do not fit.
///
/// `signature` is the input's shape, with -1 where a dimension is open. The dimensions after the batch must be those of
/// the window, with ones anywhere. Open ones become what the window has. Dimensions that follow each other may be one in
/// the other shape, in the same order of values: `[32 * 24]` fills `[24, 32, 1]`. Of a window of two or three dimensions
/// the last may come first: `[samples, channels]` fills `[channels, samples]`. A model for one window at a time may have no
/// batch dimension.
pub fn fit(signature: &[i32], window: &Shape, batch: i32) -> Option<(Vec<i32>, bool)> {
    let with_batch = signature.split_first().filter(|(first, _)| **first == -1 || **first == 1 || **first == batch);
    let shapes = [with_batch.map(|(_, rest)| (Some(batch), rest)), (batch == 1).then_some((None, signature))];
    let plain = without_ones(window.dims());
    let transposed = transposed(&plain).filter(|_| matches!(plain.len(), 2 | 3));
    let same = [(Some(&plain), false, Match::Same), (transposed.as_ref(), true, Match::Same)];
    let regrouped = [(Some(&plain), false, Match::Regrouped)];
    // Whatever the order of samples and channels, the first dimension is the batch if it can be.
    for tries in [&same[..], &regrouped] {
        for (batch, body) in shapes.iter().flatten() {
            for (window, is_transposed, wanted) in tries {
                if let Some(dims) = window.and_then(|window| fill(body, window, *wanted)) {
                    return Some((batch.iter().copied().chain(dims).collect(), *is_transposed));
                }
            }
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq)]
enum Match {
    Same,
    Regrouped,
}

/// Returns `body` with its open dimensions filled so that it has the shape `window`, which has no ones.
fn fill(body: &[i32], window: &[usize], wanted: Match) -> Option<Vec<i32>> {
    let open = body.iter().filter(|dim| **dim < 0).count();
    let values = window.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim))?;
    let known = body
        .iter()
        .filter(|dim| **dim >= 0)
        .try_fold(1usize, |product, dim| product.checked_mul(usize::try_from(*dim).ok()?))?;
    let dims: Vec<usize> = match open {
        0 | 1 => {
            let rest = values.checked_div(known)?;
            body.iter().map(|dim| usize::try_from(*dim).unwrap_or(rest)).collect()
        }
        // The window's other dimensions, in order; ones for the rest.
        _ => {
            let mut left = window.to_vec();
            for dim in body.iter().filter_map(|dim| usize::try_from(*dim).ok()) {
                if let Some(place) = left.iter().position(|other| *other == dim) {
                    left.remove(place);
                }
            }
            let mut left = left.into_iter();
            body.iter().map(|dim| usize::try_from(*dim).ok().or_else(|| left.next()).unwrap_or(1)).collect()
        }
    };
    let plain = without_ones(&dims);
    let fits = match wanted {
        Match::Same => plain == window,
        Match::Regrouped => regroups(&plain, window),
    };
    let dims = dims.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>().ok()?;
    fits.then_some(dims)
}

/// Returns whether the two shapes hold the same values in the same order: neighbouring dimensions of one may be a single
/// dimension of the other.
fn regroups(ours: &[usize], theirs: &[usize]) -> bool {
    let (mut ours, mut theirs) = (ours, theirs);
    while let ([first, rest @ ..], [other, others @ ..]) = (ours, theirs) {
        let (whole, parts) = if first >= other { (*first, theirs) } else { (*other, ours) };
        let mut product = 1usize;
        let count = parts.iter().position(|part| {
            product = product.saturating_mul(*part);
            product >= whole
        });
        let Some(count) = count.filter(|_| product == whole) else { return false };
        (ours, theirs) = if first >= other { (rest, &theirs[count + 1..]) } else { (&ours[count + 1..], others) };
    }
    ours.is_empty() && theirs.is_empty()
}

/// Returns what each dimension of an input holds, for a stream whose window had the shape `window` and now comes as
/// `features`.
///
/// `[samples, channels]` in an input of `[1, 4, 2]` is `batch, samples, channels`.
pub fn dimension_names(input: &[usize], batch: usize, window: &Shape, features: &Shape) -> Vec<String> {
    let names: &[&str] = match window.dims().len() {
        2 if features.dims().len() == 2 && features.channels() == window.channels() => &["samples", "channels"],
        2 if transposed(window.dims()).as_deref() == Some(features.dims()) => &["channels", "samples"],
        4 if window.dims() == features.dims() => &["samples", "height", "width", "channels"],
        4 if features.dims().len() == 3 => &["channels", "height", "width"],
        _ => &[],
    };
    let name =
        |index: usize| names.get(index).map_or_else(|| format!("feature dimension {index}"), ToString::to_string);
    let long = features.dims().iter().enumerate().filter(|(_, dim)| **dim != 1);
    let mut left: Vec<(usize, String)> = long.map(|(index, dim)| (*dim, name(index))).rev().collect();
    let rest: usize = input.iter().skip(1).product();
    let has_batch = input.first() == Some(&batch) && rest == features.values();
    let mut named = Vec::new();
    for (index, dim) in input.iter().copied().enumerate() {
        named.push(match (index == 0 && has_batch, dim) {
            (true, _) => "batch".to_owned(),
            (_, 1) => "1".to_owned(),
            _ => take(&mut left, dim),
        });
    }
    named
}

/// Takes what fills a dimension of the input: one or several dimensions of the features, or a part of one.
fn take(left: &mut Vec<(usize, String)>, dim: usize) -> String {
    let (mut filled, mut names) = (1, Vec::new());
    while let Some((size, name)) = left.pop() {
        if filled == 1 && size > dim {
            let part = if name.starts_with("part of ") { name } else { format!("part of {name}") };
            left.push((size / dim.max(1), part.clone()));
            return part;
        }
        filled *= size;
        names.push(name);
        if filled >= dim {
            break;
        }
    }
    names.join(" x ")
}

/// Returns the shape with its last dimension first.
fn transposed(dims: &[usize]) -> Option<Vec<usize>> {
    let (channels, rows) = dims.split_last()?;
    Some([&[*channels], rows].concat())
}

fn without_ones(dims: &[usize]) -> Vec<usize> {
    dims.iter().copied().filter(|dim| *dim != 1).collect()
}

/// Returns what to say of a model that does not run by `plan`, if it leaves the shape of its input open and `plan` does not
/// say it; `summary` is the description of what is run.
pub(super) fn open_input(summary: &ModelSummary, plan: &ModelPlan) -> Option<String> {
    let is_open = |(input, dims): (usize, Option<&Vec<i32>>)| {
        let input = summary.main.inputs.get(input)?;
        (dims.is_none() && input.shape_signature.iter().skip(1).any(|dim| *dim < 0)).then_some(input)
    };
    plan.feeds().find_map(is_open).map(|input| {
        format!(
            "its input is {}, and it was tried as {}: give the shape that it gets, as a configuration's window or \
             --input-shape does",
            shape_text(&input.shape_signature),
            shape_text(&input.shape),
        )
    })
}

/// Returns the number of values of a shape without open dimensions.
fn values(dims: &[i32]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, dim| product.checked_mul(usize::try_from(*dim).ok()?))
}

/// Returns the shape as text, with `?` for an open dimension.
pub fn shape_text(dims: &[i32]) -> String {
    let dims: Vec<String> = dims.iter().map(|dim| if *dim < 0 { "?".to_owned() } else { dim.to_string() }).collect();
    format!("[{}]", dims.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fitted(signature: &[i32], window: &[usize], batch: i32) -> Option<(Vec<i32>, bool)> {
        fit(signature, &Shape::new(window), batch)
    }

    #[test]
    fn a_window_fits_by_shape_not_only_by_size() {
        for good in [&[1, 200, 6][..], &[1, 200, 1, 6], &[1, 1, 200, 6], &[1, 1200], &[1, 1200, 1], &[200, 6], &[1200]]
        {
            assert_eq!(fitted(good, &[200, 6], 1), Some((good.to_vec(), false)), "{good:?}");
        }
        for bad in [&[1, 199, 6][..], &[2, 200, 6], &[1, 150, 8], &[]] {
            assert_eq!(fitted(bad, &[200, 6], 1), None, "{bad:?}");
        }
        assert_eq!(fitted(&[8, 200, 6], &[200, 6], 8), Some((vec![8, 200, 6], false)));
        assert_eq!(fitted(&[1, 200, 6], &[200, 6], 8), Some((vec![8, 200, 6], false)));
        assert_eq!(fitted(&[1, 640], &[640, 1], 1), Some((vec![1, 640], false)));
        assert_eq!(fitted(&[], &[1, 1], 1), Some((vec![], false)), "a single number");
    }

    #[test]
    fn open_dimensions_become_what_the_window_has() {
        let open: &[(&[i32], &[usize], &[i32])] = &[
            (&[1, -1], &[1280, 1], &[1, 1280]),
            (&[-1], &[15600, 1], &[15600]),
            (&[-1, -1], &[640, 1], &[1, 640]),
            (&[-1, -1, 6], &[200, 6], &[1, 200, 6]),
            (&[1, -1, 40, 1], &[98, 40], &[1, 98, 40, 1]),
            (&[-1, -1, -1, 3], &[1, 96, 64, 3], &[1, 96, 64, 3]),
            (&[-1, -1, -1], &[200, 6], &[1, 200, 6]),
        ];
        for (signature, window, dims) in open {
            assert_eq!(fitted(signature, window, 1), Some((dims.to_vec(), false)), "{signature:?}");
        }
        assert_eq!(fitted(&[-1, 200, 6], &[200, 6], 4), Some((vec![4, 200, 6], false)));
        assert_eq!(fitted(&[1, -1, 7], &[200, 6], 1), None, "1200 values are not whole rows of 7");
    }

    #[test]
    fn channels_may_come_first_and_neighbouring_dimensions_may_be_one() {
        assert_eq!(fitted(&[1, 6, 200], &[200, 6], 1), Some((vec![1, 6, 200], true)));
        assert_eq!(fitted(&[1, 3, 96, 64], &[1, 96, 64, 3], 1), Some((vec![1, 3, 96, 64], true)));
        assert_eq!(fitted(&[1, 6, -1], &[200, 6], 1), Some((vec![1, 6, 200], true)));
        assert_eq!(fitted(&[-1, 6, -1], &[200, 6], 1), Some((vec![1, 6, 200], true)), "not 200 batches of one sample");
        assert_eq!(fitted(&[-1, 6], &[200, 6], 1), Some((vec![200, 6], false)));
        assert_eq!(fitted(&[1, 24, 32, 1], &[1, 768], 1), Some((vec![1, 24, 32, 1], false)));
        assert_eq!(fitted(&[1, 28, 28, 1], &[784, 1], 1), Some((vec![1, 28, 28, 1], false)));
        assert_eq!(fitted(&[1, 4, 4], &[4, 4], 1), Some((vec![1, 4, 4], false)), "as it is, if both are possible");
        assert_eq!(fitted(&[1, 12, 10], &[8, 15], 1), None, "the same number of values in another order");
    }

    #[test]
    fn each_dimension_of_an_input_is_named() {
        let names = |input: &[usize], window: &[usize], features: &[usize]| {
            dimension_names(input, 1, &Shape::new(window), &Shape::new(features)).join(", ")
        };
        assert_eq!(names(&[1, 200, 1, 6], &[200, 6], &[200, 6]), "batch, samples, 1, channels");
        assert_eq!(names(&[1, 6, 200], &[200, 6], &[6, 200]), "batch, channels, samples");
        assert_eq!(names(&[1200], &[200, 6], &[200, 6]), "samples x channels");
        assert_eq!(names(&[1, 24, 32, 1], &[1, 768], &[1, 768]), "batch, part of channels, part of channels, 1");
        assert_eq!(names(&[1, 3, 96, 64], &[1, 96, 64, 3], &[3, 96, 64]), "batch, channels, height, width");
        assert_eq!(names(&[1, 199, 6], &[200, 6], &[199, 6]), "batch, samples, channels");
        assert_eq!(names(&[1, 9, 40], &[200, 1], &[9, 40]), "batch, feature dimension 0, feature dimension 1");
        assert_eq!(names(&[], &[1, 1], &[1, 1]), "");
    }

    proptest! {
        #[test]
        fn what_fits_has_as_many_values_and_keeps_what_the_file_fixes(
            signature in proptest::collection::vec(-1i32..7, 0..5),
            window in proptest::collection::vec(1usize..7, 1..4),
            batch in 1i32..4,
        ) {
            if let Some((dims, transposed)) = fitted(&signature, &window, batch) {
                let values: usize = window.iter().product::<usize>() * batch as usize;
                prop_assert_eq!(dims.iter().product::<i32>() as usize, values);
                prop_assert_eq!(dims.len(), signature.len());
                for (index, (dim, file)) in dims.iter().zip(&signature).enumerate() {
                    prop_assert!(*file < 0 || dim == file || index == 0 && *file == 1 && *dim == batch);
                }
                prop_assert!(!transposed || window.len() > 1);
            }
        }
    }
}
