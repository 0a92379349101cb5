//! Loads what a bench runs: a model with a delegate, a batch and windows, from a pipeline or from the bare file.
//!
//! Owns how a pipeline's model is exchanged for another one, and the windows of a file without a pipeline. Builds no engine.

use std::path::Path;
use std::sync::Mutex;

use super::engines::{EngineBuilder, EngineContext, ModelFile};
use super::windows::{self, Windows};
use super::{Draft, read_bytes};
use crate::config::{Delegate, Parity, Pipeline};
use crate::engine::parity::DecidedOn;
use crate::engine::plan::{self, PlanKeys, Unfit};
use crate::model::TensorSummary;
use crate::stream::{Shape, ShapePath};

/// Windows that are held at most, and the bytes of their features.
const WINDOWS_MAX: usize = 512;
const BYTES_MAX: usize = 32 << 20;

/// Bench compares the outputs itself, and refuses no delegate for them.
const NO_PARITY: Parity = Parity { limits: None, demanded: false, recording: None, reference_model: None };

/// Returns what builds the engine of a pipeline with one delegate and that batch, and with another model if that is given.
///
/// # Errors
/// The model cannot be used in the pipeline.
pub fn of_pipeline(
    context: &EngineContext,
    pipeline: &Pipeline,
    model: Option<&Path>,
    delegate: &Delegate,
    batch: usize,
) -> Result<EngineBuilder, String> {
    let pipeline = changed(pipeline, model, delegate, batch);
    Ok(draft(context, &pipeline)?.builder)
}

/// Returns windows of the recording at `path`, as they come to the model of the pipeline; with `model`, to that one.
///
/// # Errors
/// The recording cannot be read or has no whole window, or the model cannot be used.
pub fn recorded(
    context: &EngineContext,
    pipeline: &Pipeline,
    model: Option<&Path>,
    delegate: &Delegate,
    path: &Path,
) -> Result<Windows, String> {
    let pipeline = changed(pipeline, model, delegate, 1);
    let Draft { mut shapes, chained, labels, .. } = draft(context, &pipeline)?;
    let width = shapes.input().values();
    windows::recorded(path, &pipeline, &labels, chained.stages, &mut shapes.features, width, count_max(width))
}

fn changed(pipeline: &Pipeline, model: Option<&Path>, delegate: &Delegate, batch: usize) -> Pipeline {
    let mut changed = Pipeline { delegates: vec![delegate.clone()], parity: NO_PARITY, ..pipeline.clone() };
    changed.batch.max = batch;
    if let Some(model) = model {
        // What the configuration pins is its own model.
        (changed.model, changed.model_sha256) = (model.to_owned(), None);
    }
    changed
}

fn draft<'a>(context: &EngineContext, pipeline: &'a Pipeline) -> Result<Draft<'a>, String> {
    Draft::new(context, pipeline, None).map_err(|problem| format!("{}: {}", problem.key, problem.message))
}

/// Returns what builds an engine for the model at `path` without a pipeline.
///
/// # Errors
/// It is not a model, has several inputs, leaves its input's shape open, or takes no batches.
pub fn bare(context: &EngineContext, path: &Path, delegate: &Delegate, batch: usize) -> Result<EngineBuilder, String> {
    let (bytes, sha256) = read_bytes(path)?;
    let model = ModelFile::new(path, bytes, sha256)?.entered(None)?;
    let shown = path.display();
    let [input] = model.summary.main.inputs.as_slice() else {
        let count = model.summary.main.inputs.len();
        return Err(format!(
            "{shown}: it has {count} inputs; describe how they get a window in a pipeline, and use -c FILE"
        ));
    };
    let shapes = ShapePath::new("windows", window_shape(input).map_err(|why| format!("{shown}: {why}"))?);
    let none = Default::default();
    let keys = PlanKeys { states: &none, inputs: &Default::default(), channels: &[], batch };
    let fitted = plan::plan(&model.summary, model.signature.as_ref(), &keys, &shapes).map_err(Unfit::into_message)?;
    if batch > 1 && fitted.plan.is_stateful(&model.summary) {
        return Err(format!(
            "{shown}: it keeps a state from one window to the next, so windows go through it one at a time"
        ));
    }
    Ok(EngineBuilder {
        context: context.clone(),
        model: model.planned(fitted.plan),
        reference_model: None,
        delegates: vec![delegate.clone()],
        path: shapes,
        parity: NO_PARITY,
        decided: DecidedOn::default(),
        recorded: None,
        chain: Vec::new(),
        reference: Mutex::default(),
    })
}

/// Returns the shape of a window: that of the input without its batch.
fn window_shape(input: &TensorSummary) -> Result<Shape, String> {
    let (batch, window) = input.shape_signature.split_first().ok_or("its input is a single number, not a window")?;
    let dims = if *batch <= 1 { window } else { &input.shape_signature[..] };
    let sizes: Vec<usize> = dims.iter().filter_map(|dim| usize::try_from(*dim).ok().filter(|size| *size > 0)).collect();
    if sizes.len() < dims.len() || sizes.is_empty() {
        let signature = &input.shape_signature;
        return Err(format!("its input {signature:?} leaves the shape of a window open; use -c FILE with a pipeline"));
    }
    Ok(Shape::new(sizes))
}

/// Reads windows from a text file: a window a line, its values separated by commas. One value more is the index of its class: the
/// last one, or the one in the column `label` if the first line has the names of the columns.
///
/// # Errors
/// A line has another number of values, or one that is not a number.
pub fn from_text(path: &Path, width: usize) -> Result<Windows, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let mut lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()).peekable();
    let is_named = |(line, _): &(&str, i32)| fields(line).any(|field| field.parse::<f32>().is_err());
    let label = lines.next_if(is_named).map(|(line, _)| fields(line).position(|name| name == "label"));
    // If the columns have no names, the class is the last value. If none of them is `label`, there is no class.
    let class_at = label.unwrap_or(Some(width));
    let mut windows = Windows::default();
    for (line, number) in lines.take(count_max(width)) {
        let mut values: Vec<&str> = fields(line).collect();
        let class = class_at.filter(|_| values.len() == width + 1).map(|place| values.remove(place.min(width)));
        if values.len() != width {
            let count = values.len();
            return Err(format!(
                "{shown}:{number}: {count} values; a window of the model has {width}, and a class may follow"
            ));
        }
        let wrong =
            |field: &str, what: &str| format!("{shown}:{number}: {:?} is not {what}", crate::text::cut(field, 40));
        for field in values {
            windows.values.push(field.parse().map_err(|_| wrong(field, "a number"))?);
        }
        let class = class.filter(|class| !class.is_empty());
        let class = class.map(|class| class.parse().map_err(|_| wrong(class, "the index of a class")));
        windows.truth.push(class.transpose()?);
    }
    if windows.truth.is_empty() {
        return Err(format!("{shown}: there is no window in it"));
    }
    Ok(windows)
}

fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(str::trim)
}

fn count_max(width: usize) -> usize {
    (BYTES_MAX / size_of::<f32>() / width.max(1)).clamp(1, WINDOWS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read(text: &str) -> Result<Windows, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        from_text(file.path(), 2).map_err(|error| error.replace(&file.path().display().to_string(), "FILE"))
    }

    #[test]
    fn a_line_is_a_window_with_or_without_its_class() {
        let windows = read("1,2\n\n 0.5 , -1e3, 4\n7,8,\n").unwrap();
        assert_eq!(windows.values, [1.0, 2.0, 0.5, -1000.0, 7.0, 8.0]);
        assert_eq!(windows.truth, [None, Some(4), None]);
        let named = read("v0,label,v1\n1,3,2\n").unwrap();
        assert_eq!((named.values, named.truth), (vec![1.0, 2.0], vec![Some(3)]));
        let unlabelled = read("v0,v1\n1,2\n").unwrap();
        assert_eq!((unlabelled.values, unlabelled.truth), (vec![1.0, 2.0], vec![None]));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, error) in [
            ("1,2\n1\n", "FILE:2: 1 values; a window of the model has 2, and a class may follow"),
            ("1,2,3,4\n", "FILE:1: 4 values; a window of the model has 2, and a class may follow"),
            ("1,2\n1,x\n", "FILE:2: \"x\" is not a number"),
            ("v0,v1\n1,2,3\n", "FILE:2: 3 values; a window of the model has 2, and a class may follow"),
            ("1,2,-1\n", "FILE:1: \"-1\" is not the index of a class"),
            ("\n", "FILE: there is no window in it"),
        ] {
            assert_eq!(read(text).unwrap_err(), error);
        }
    }
}
