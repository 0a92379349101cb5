//! Which decision fits which outputs of a model: a table by the form of an output and by what its values are.

use super::{Confidence, Facts, Labels, Open, Part, number, quoted};
use crate::model::{ElementType, OutputSummary, Subgraph, TensorSummary, ValueMeaning};
use crate::text::counted;

/// What the shape of the input, or a project, says of the decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wish {
    WakeWord,
    /// Probabilities of labels of which several can hold.
    MultiLabel,
    /// Logits of labels of which several can hold.
    MultiLabelLogits,
    /// Probabilities of classes, of which one is right.
    Classes,
}

/// The decision, and what is said of it.
pub(super) struct Decided {
    pub decision: (&'static str, String),
    pub labels: Option<Option<Labels>>,
    pub scores: usize,
    pub open: Vec<Open>,
    pub parts: Vec<Part>,
    pub notes: Vec<String>,
}

/// The form of an output.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    One,
    Several,
    /// As many values as the model gets.
    AsInput,
    /// Rows, or a number of values that depends on the data.
    Other,
}

/// What the values of an output are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Values {
    /// They sum to 1.
    Softmax,
    /// Each is 0 to 1, by itself.
    Probabilities,
    /// Each is 0 to 1; whether they sum to 1 is not told.
    Scores,
    Logits,
    /// Not told by the operators.
    Untold,
}

/// One row: what is proposed for outputs of this kind.
struct Row {
    form: Form,
    values: &'static [Values],
    decision: &'static str,
    keys: &'static str,
    confidence: Confidence,
    why: &'static str,
}

/// Types of outputs that are no scores.
const WHOLE: [ElementType; 3] = [ElementType::BOOL, ElementType::INT32, ElementType::INT64];
const ANY: &[Values] = &[Values::Softmax, Values::Probabilities, Values::Scores, Values::Logits, Values::Untold];

/// The first row that fits counts.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { form: Form::AsInput, values: &[Values::Logits, Values::Untold], decision: "anomaly", keys: "",
        confidence: Confidence::Guessed, why: "the model gives as many values as it gets, as an autoencoder does" },
    Row { form: Form::Several, values: &[Values::Softmax], decision: "classify", keys: "",
        confidence: Confidence::Known, why: "scores that sum to 1: exactly one class is right" },
    Row { form: Form::AsInput, values: &[Values::Softmax], decision: "classify", keys: "",
        confidence: Confidence::Known, why: "scores that sum to 1: exactly one class is right" },
    Row { form: Form::Several, values: &[Values::Scores], decision: "classify", keys: "",
        confidence: Confidence::Guessed, why: "scores from 0 to 1, of which the operators do not tell whether they sum to 1. If \
            several labels can hold at once, write decision.multi_label" },
    Row { form: Form::Several, values: &[Values::Probabilities], decision: "multi_label", keys: "",
        confidence: Confidence::Guessed, why: "probabilities that do not sum to 1: several labels can hold at once. If only one \
            can, write decision.classify" },
    Row { form: Form::AsInput, values: &[Values::Scores, Values::Probabilities], decision: "multi_label", keys: "",
        confidence: Confidence::Guessed, why: "probabilities that do not sum to 1: several labels can hold at once" },
    Row { form: Form::Several, values: &[Values::Logits], decision: "classify", keys: "",
        confidence: Confidence::Guessed, why: "logits of several classes. If several labels can hold at once, write \
            decision.multi_label = { scores = \"sigmoid\" }" },
    Row { form: Form::One, values: &[Values::Softmax, Values::Probabilities, Values::Scores], decision: "threshold", keys: "above = 0.5",
        confidence: Confidence::Guessed, why: "one probability: low or high. Where it becomes high is to be tried out" },
    Row { form: Form::One, values: &[Values::Logits, Values::Untold], decision: "regress", keys: "names = [\"value\"]",
        confidence: Confidence::Guessed, why: "one number of any size: published under a name. For low and high, write \
            decision.threshold" },
    Row { form: Form::Several, values: &[Values::Untold], decision: "raw", keys: "",
        confidence: Confidence::Unknown, why: "the operators do not tell what the values are: they are published as they are" },
    Row { form: Form::Other, values: ANY, decision: "raw", keys: "",
        confidence: Confidence::Unknown, why: "no decision takes outputs of this form: they are published as they are" },
];

/// What the model's makers say of a word whose model has no JSON file next to it; docs/examples/wake-word.md has the source.
const CUTOFFS: [(&str, f64); 4] = [("okay_nabu", 0.85), ("alexa", 0.9), ("hey_mycroft", 0.95), ("hey_jarvis", 0.97)];
const USUAL_CUTOFF: f64 = 0.9;

/// How TensorFlow's and YOLO's models give boxes.
const DETECTION_OPERATOR: &str = "TFLite_Detection_PostProcess";
const FEWEST_BOXES: usize = 200;
/// A box, a score, and few classes; more columns than this are not boxes.
const BOX_COLUMNS: std::ops::RangeInclusive<usize> = 4..=300;

/// Returns the inputs that hold a state, each with the output that gives its next value.
///
/// # Errors
/// The model has no outputs.
pub(super) fn states(main: &Subgraph) -> Result<Vec<(String, String)>, String> {
    if main.outputs.is_empty() {
        return Err("the model has no outputs, so there is nothing to decide on".into());
    }
    if main.inputs.len() < 2 {
        return Ok(Vec::new());
    }
    let pair = |input: &TensorSummary| {
        let next = input.name.replace("input", "output");
        let next = if next == input.name { input.name.replace("in", "out") } else { next };
        let is_next = |output: &&OutputSummary| {
            let tensor = &output.tensor;
            tensor.name == next && next != input.name && tensor.shape == input.shape && tensor.element == input.element
        };
        main.outputs.iter().find(is_next).map(|output| (input.name.clone(), output.tensor.name.clone()))
    };
    Ok(main.inputs.iter().filter_map(pair).collect())
}

/// Decides what is made of the outputs.
///
/// # Errors
/// No output can be used.
pub(super) fn decide(
    facts: &Facts<'_>,
    input: &TensorSummary,
    wish: Option<Wish>,
    hop: usize,
    states: &[(String, String)],
) -> Result<Decided, String> {
    let outputs = &facts.summary.main.outputs;
    let is_state = |index: &usize| states.iter().any(|(_, name)| *name == outputs[*index].tensor.name);
    let is_whole = |index: &usize| WHOLE.contains(&outputs[*index].tensor.element);
    let own: Vec<usize> = (0..outputs.len()).filter(|index| !is_state(index)).collect();
    let candidates: Vec<usize> = own.iter().copied().filter(|index| !is_whole(index)).collect();
    let Some(first) = candidates.first().copied() else {
        own.first().ok_or("every output of the model is the next value of a state; nothing is left to decide on")?;
        let why = "the model gives whole numbers or truth values, which only decision.raw takes: they are published as they are";
        return Ok(decided("raw", String::new(), Confidence::Known, why));
    };
    let labelled = |index: &&usize| {
        let scores = count(&outputs[**index].tensor).unwrap_or(0);
        scores > 1 && (facts.labels)(**index, scores).is_some()
    };
    let index = candidates.iter().find(labelled).copied().unwrap_or(first);
    if let Some(what) = boxes(&facts.summary.main) {
        return Ok(raw_boxes(what));
    }
    let output = &outputs[index];
    let (values, scores) = (values(output), count(&output.tensor).unwrap_or(0));
    let labels = if scores > 1 { (facts.labels)(index, scores) } else { None };
    let mut decided = match wish {
        Some(Wish::WakeWord) if scores == 1 => wake_word(facts),
        Some(wish) if scores > 1 && (wish == Wish::Classes || values != Values::Softmax) => {
            wished(facts, wish, hop, values)
        }
        _ => {
            let form = form(output, count(input));
            let row = ROWS.iter().find(|row| row.form == form && row.values.contains(&values));
            let row = row.ok_or("no decision is known for the model's output")?;
            of_row(row, &facts.name(), labels.is_some() && row.decision == "raw" && form == Form::Several)
        }
    };
    if index > 0 {
        let keys = &mut decided.decision.1;
        *keys = if keys.is_empty() { format!("output = {index}") } else { format!("output = {index}, {keys}") };
        let why =
            format!("the model has {}, and output {index} is the one with labels", counted(outputs.len(), "output"));
        let why = if index == first { format!("output {index} is the first one with numbers") } else { why };
        decided.notes.push(why);
    }
    decided.scores = scores;
    if matches!(decided.decision.0, "classify" | "multi_label" | "consensus") {
        decided.parts.push(labels_part(labels.as_ref(), scores));
        decided.labels = Some(labels);
    }
    Ok(decided)
}

fn decided(decision: &'static str, keys: String, confidence: Confidence, why: impl Into<String>) -> Decided {
    let value = if keys.is_empty() { decision.to_owned() } else { format!("{decision}: {keys}") };
    Decided {
        decision: (decision, keys),
        labels: None,
        scores: 0,
        open: Vec::new(),
        parts: vec![Part::new("decision", value, confidence, why)],
        notes: Vec::new(),
    }
}

/// `has_labels`: there are as many labels as values, so they are scores, whatever the operators tell.
fn of_row(row: &Row, name: &str, has_labels: bool) -> Decided {
    if has_labels {
        let why = "there is a label for each value, so they are scores. The operators do not tell whether they are \
                   probabilities; for logits, write scores = \"logits\"";
        return decided("classify", "scores = \"probabilities\"".into(), Confidence::Guessed, why);
    }
    if row.decision != "anomaly" {
        return decided(row.decision, row.keys.to_owned(), row.confidence, row.why);
    }
    let file = format!("{name}-threshold.json");
    let keys = format!("threshold = {{ learnt = {} }}", quoted(&file));
    let mut anomaly = decided("anomaly", keys, row.confidence, row.why);
    let what = "the threshold, which only normal data tells: record some with edgewatt record, then run edgewatt learn; or \
                write a number";
    anomaly.open.push(Open::new("decision", what, format!("threshold = {{ learnt = {} }}", quoted(&file))));
    anomaly
}

fn wished(facts: &Facts<'_>, wish: Wish, hop: usize, values: Values) -> Decided {
    let told = if values == Values::Untold { "scores = \"probabilities\"" } else { "" };
    match wish {
        Wish::MultiLabelLogits if !matches!(values, Values::Probabilities | Values::Scores) => {
            let why = "models of this input give logits of labels of which several can hold at once";
            decided("multi_label", "scores = \"sigmoid\"".into(), Confidence::Guessed, why)
        }
        Wish::MultiLabel | Wish::MultiLabelLogits => {
            let why = "models of this input give probabilities of labels of which several can hold at once";
            decided("multi_label", told.to_owned(), Confidence::Guessed, why)
        }
        Wish::Classes | Wish::WakeWord => {
            let own = facts.project.and_then(|project| project.decision(hop));
            let (kind, keys, why) = own.unwrap_or(("classify", String::new(), "the project classifies".into()));
            let keys = [told, &keys].into_iter().filter(|keys| !keys.is_empty()).collect::<Vec<_>>().join(", ");
            decided(kind, keys, Confidence::Known, why)
        }
    }
}

fn wake_word(facts: &Facts<'_>) -> Decided {
    let by_name = CUTOFFS.iter().find(|(name, _)| facts.stem.starts_with(name));
    let (word, cutoff, window, confidence, why) = match (facts.wake_word, by_name) {
        (Some(json), _) => {
            let why = format!("word and cutoff are those of {}", json.file);
            (json.word.clone(), json.cutoff, json.window, Confidence::Known, why)
        }
        (None, Some((name, cutoff))) => {
            let why = "by the name of the file; it is the cutoff that the makers of this model give";
            (name.replace('_', " "), *cutoff, None, Confidence::Guessed, why.to_owned())
        }
        (None, None) => {
            let why = "the word is the name of the file, and the cutoff is a usual one, because there is no JSON file next to the \
                       model, which would say both";
            (facts.stem.replace(['_', '-'], " "), USUAL_CUTOFF, None, Confidence::Unknown, why.to_owned())
        }
    };
    let mut keys = format!("word = {}, cutoff = {}", quoted(&word), number(cutoff));
    if let Some(window) = window {
        keys.push_str(&format!(", window = {window}"));
    }
    decided("wake_word", keys, confidence, why)
}

fn labels_part(labels: Option<&Labels>, scores: usize) -> Part {
    match labels {
        Some(Labels::InModel) => {
            let why = "the model carries them, and edgewatt takes them from there, so nothing is written";
            Part::new("labels", "in the model", Confidence::Known, why)
        }
        Some(Labels::File { path, why }) => Part::new("labels", path.clone(), Confidence::Known, why.clone()),
        None => {
            let why = format!(
                "the model carries no labels, and no file next to it has {}. Write the names into the file, one a line, in the \
                 order of the scores",
                counted(scores, "label")
            );
            Part::new("labels", "class 0, class 1, ...", Confidence::Unknown, why)
        }
    }
}

/// Returns the number of values of one window; `None` if it is open.
fn count(tensor: &TensorSummary) -> Option<usize> {
    let shape = &tensor.shape_signature;
    let rest = if shape.len() > 1 { &shape[1..] } else { shape };
    // Alone, a dimension of any size is the batch.
    let rest = if shape.len() == 1 && shape[0] < 1 { &[][..] } else { rest };
    rest.iter().try_fold(1usize, |all, dim| usize::try_from(*dim).ok()?.checked_mul(all))
}

fn form(output: &OutputSummary, input: Option<usize>) -> Form {
    let long = output.tensor.shape_signature.iter().skip(1).filter(|dim| **dim != 1).count();
    match count(&output.tensor) {
        Some(1) => Form::One,
        Some(values) if Some(values) == input => Form::AsInput,
        Some(_) if long <= 1 => Form::Several,
        _ => Form::Other,
    }
}

fn values(output: &OutputSummary) -> Values {
    let is_by = |operator: &str| output.values.reason.contains(operator);
    match output.values.meaning {
        Some(ValueMeaning::Probabilities) if is_by("SOFTMAX") => Values::Softmax,
        Some(ValueMeaning::Probabilities) if is_by("LOGISTIC") => Values::Probabilities,
        Some(ValueMeaning::Probabilities) => Values::Scores,
        Some(ValueMeaning::Logits) => Values::Logits,
        None => Values::Untold,
    }
}

/// Returns why the outputs seem to be boxes of a detector.
fn boxes(main: &Subgraph) -> Option<&'static str> {
    if main.operators.iter().any(|operator| operator.name == DETECTION_OPERATOR) {
        return Some("its last operator gives boxes");
    }
    let is_boxes = |output: &OutputSummary| {
        let dims: Vec<usize> =
            output.tensor.shape.iter().skip(1).filter_map(|dim| usize::try_from(*dim).ok()).collect();
        let long = |rows: usize, columns: usize| rows >= FEWEST_BOXES && BOX_COLUMNS.contains(&columns);
        // YOLO's newer models have the boxes along the last dimension.
        matches!(dims.as_slice(), [a, b] if long(*a, *b) || long(*b, *a) && *a < FEWEST_BOXES)
    };
    main.outputs.iter().any(is_boxes).then_some("an output has a row for each of many boxes")
}

fn raw_boxes(what: &str) -> Decided {
    let why =
        format!("the model detects objects ({what}), and there is no decision for that yet: all numbers are published");
    let mut raw = decided("raw", String::new(), Confidence::Unknown, why);
    raw.notes
        .push("a decision `detect` does not exist yet; decision.raw publishes the model's boxes as they are".into());
    raw
}
