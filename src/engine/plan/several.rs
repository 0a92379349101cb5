//! Plans a model of which several inputs get a part of each window: some of its channels, of all samples or of the last ones.

use super::{
    Feed, Fitted, ModelPlan, PlanKeys, StatePair, Unfit, check_states, entered_name, find, fit, shape_text, values,
};
use crate::model::{ModelSummary, Signature, TensorSummary};
use crate::stream::{Shape, ShapePath, channels_named};

/// The part of a window that one input gets.
struct Part {
    dims: Vec<i32>,
    /// Where in the window its values are, in the order of the input.
    places: Vec<usize>,
}

pub(super) fn plan(
    summary: &ModelSummary,
    signature: Option<&Signature>,
    keys: &PlanKeys<'_>,
    (states, batch): (Vec<StatePair>, i32),
    path: &ShapePath,
) -> Result<Fitted, Unfit> {
    check_states(&states, keys.batch)?;
    let inputs: Vec<&TensorSummary> = summary.main.inputs.iter().collect();
    let named = signature.map_or(&[][..], |signature| &signature.inputs);
    let mut wanted: Vec<(usize, &Vec<String>)> = Vec::new();
    for (name, channels) in keys.inputs {
        let unknown = |has| Unfit::Inputs(format!("the model has no input `{name}`; it has {has}"));
        let input = find(&inputs, named, name).map_err(unknown)?;
        if states.iter().any(|state| state.input == input) {
            return Err(Unfit::Inputs(format!("the input `{name}` is in state as well; leave it out of one of them")));
        }
        if wanted.iter().any(|(other, _)| *other == input) {
            return Err(Unfit::Inputs(format!("the input `{name}` is named twice, by two names")));
        }
        wanted.push((input, channels));
    }
    wanted.sort_by_key(|(input, _)| *input);
    let is_fed =
        |index: usize| wanted.iter().any(|(input, _)| *input == index) || states.iter().any(|s| s.input == index);
    if let Some(left) = (0..inputs.len()).find(|index| !is_fed(*index)) {
        let name = inputs[left].name.escape_debug();
        return Err(Unfit::Inputs(format!("the model's input `{name}` gets nothing; name its channels, too")));
    }
    let (samples, channels) = match path.last().dims() {
        [samples, channels] if *channels == keys.channels.len() => (*samples, *channels),
        other => {
            let message = format!(
                "several inputs take channels of a window of [samples, {}], by the names of the stream, and here is {} ({path}): \
                 leave out what changes the channels",
                keys.channels.len(),
                Shape::new(other),
            );
            return Err(Unfit::Inputs(message));
        }
    };
    let (mut feeds, mut places) = (Vec::new(), Vec::new());
    for (index, names) in wanted {
        let input = inputs[index];
        let own = picked(input, names, keys.channels)?;
        let part =
            part(input, &own, (samples, channels), batch).ok_or_else(|| unfit(input, own.len(), keys.batch, path))?;
        let dims = (part.dims != input.shape || batch > 1).then_some(part.dims);
        feeds.push(Feed { input: index, dims });
        places.extend(part.places);
    }
    let mut feeds = feeds.into_iter();
    let Some(Feed { input: fed, dims }) = feeds.next() else {
        return Err(Unfit::Window("the model has no inputs".into()));
    };
    let plan =
        ModelPlan { signature: entered_name(signature), batch: keys.batch, fed, dims, more: feeds.collect(), states };
    Ok(Fitted { plan, transposed: false, places: Some(places) })
}

/// Returns the channels that an input gets, by their numbers. The name of a source stands for all its channels.
fn picked(input: &TensorSummary, names: &[String], channels: &[String]) -> Result<Vec<usize>, Unfit> {
    let mut picked = Vec::new();
    for name in names {
        let found = channels_named(channels, name);
        if found.is_empty() {
            let has = if channels.is_empty() { "none with names".to_owned() } else { channels.join(", ") };
            let input = input.name.escape_debug();
            return Err(Unfit::Inputs(format!(
                "the input `{input}` names `{name}`, and the stream has the channels {has}"
            )));
        }
        picked.extend(found);
    }
    if picked.is_empty() {
        let input = input.name.escape_debug();
        return Err(Unfit::Inputs(format!(
            "the input `{input}` gets no channels; name one or more of {}",
            channels.join(", ")
        )));
    }
    Ok(picked)
}

/// Returns the part of a window of `[samples, channels]` for an input that gets the channels `own`: of all samples if they
/// fit, else of as many of the last ones as fit.
fn part(input: &TensorSummary, own: &[usize], (samples, channels): (usize, usize), batch: i32) -> Option<Part> {
    let signature = &input.shape_signature;
    let of = |kept: usize| {
        let (dims, transposed) = fit(signature, &Shape::new([kept, own.len()]), batch)?;
        let place = |sample: usize, channel: &usize| (samples - kept + sample) * channels + channel;
        let places = if transposed {
            own.iter().flat_map(|channel| (0..kept).map(move |sample| place(sample, channel))).collect()
        } else {
            (0..kept).flat_map(|sample| own.iter().map(move |channel| place(sample, channel))).collect()
        };
        Some(Part { dims, places })
    };
    // How many samples the shape has room for, with and without a batch in front. An open dimension in front of closed ones
    // is the batch.
    let whole = values(signature).filter(|_| batch == 1);
    let of_batch = signature.split_first().filter(|(first, _)| matches!(first, -1 | 1) || **first == batch);
    let row = of_batch.and_then(|(_, rest)| values(rest));
    let room = [row, whole].into_iter().flatten().filter(|values| values % own.len() == 0).map(|v| v / own.len());
    room.filter(|kept| (1..=samples).contains(kept)).find_map(of).or_else(|| of(samples))
}

fn unfit(input: &TensorSummary, own: usize, batch: usize, path: &ShapePath) -> Unfit {
    let samples = path.last().dims().first().copied().unwrap_or(0);
    let batches = if batch > 1 { format!(" in batches of {batch}") } else { String::new() };
    Unfit::Inputs(format!(
        "the model's input `{}` is {}; it gets {own} channels of {samples} samples, or of the last ones of them{batches} ({path})",
        input.name.escape_debug(),
        shape_text(&input.shape_signature),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ElementType;

    fn input(shape: &[i32]) -> TensorSummary {
        TensorSummary {
            index: 0,
            name: "x".into(),
            element: ElementType(0),
            shape: shape.iter().map(|dim| (*dim).max(1)).collect(),
            shape_signature: shape.to_vec(),
            quantization: None,
            sparse_format: false,
            variable: false,
        }
    }

    /// The shape of an input and the values that it gets of a window whose value is 10 * sample + channel.
    fn fed(shape: &[i32], own: &[usize]) -> Option<(Vec<i32>, Vec<usize>)> {
        let (samples, channels) = (4, 3);
        let value = |place: usize| place / channels * 10 + place % channels;
        part(&input(shape), own, (samples, channels), 1)
            .map(|part| (part.dims, part.places.into_iter().map(value).collect()))
    }

    #[test]
    fn an_input_gets_its_channels_of_all_samples_or_of_the_last() {
        assert_eq!(fed(&[1, 4, 2], &[0, 2]), Some((vec![1, 4, 2], vec![0, 2, 10, 12, 20, 22, 30, 32])));
        assert_eq!(
            fed(&[1, 2, 4], &[2, 0]),
            Some((vec![1, 2, 4], vec![2, 12, 22, 32, 0, 10, 20, 30])),
            "channels first"
        );
        assert_eq!(fed(&[1, -1, 1], &[1]), Some((vec![1, 4, 1], vec![1, 11, 21, 31])));
        assert_eq!(fed(&[-1, 1], &[2]), Some((vec![1, 1], vec![32])), "an open batch");
        assert_eq!(fed(&[-1, 4, 2], &[0, 2]), fed(&[1, 4, 2], &[0, 2]));
        assert_eq!(fed(&[1, 1], &[2]), Some((vec![1, 1], vec![32])), "the last sample");
        assert_eq!(fed(&[], &[2]), Some((vec![], vec![32])), "a number");
        assert_eq!(fed(&[1, 2, 2], &[0, 1]), Some((vec![1, 2, 2], vec![20, 21, 30, 31])));
        assert_eq!(fed(&[1, 6], &[0, 1, 2]), Some((vec![1, 6], vec![20, 21, 22, 30, 31, 32])));
        assert_eq!(fed(&[1, 5, 1], &[0]), None, "more samples than a window has");
        assert_eq!(fed(&[1, 3], &[0, 1]), None, "not a whole number of samples");
    }
}
