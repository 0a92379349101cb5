//! Reads JSON of the studio: an impulse with its blocks, or the parameters of one block.
//!
//! The studio's API has an impulse as `inputBlocks`, `dspBlocks` and `learnBlocks`, and the parameters of a block as groups
//! of `items`, each with `param` and `value`. A plain object of names and values is read, too.

use serde_json::{Map, Value as Json};

use super::{Block, Project, key_of, with_blocks};

/// Keys that say what a block is, and are no parameters of it.
const ABOUT: [&str; 13] = [
    "id",
    "type",
    "name",
    "title",
    "axes",
    "input",
    "createdBy",
    "createdAt",
    "config",
    "parameters",
    "success",
    "dsp",
    "configError",
];

/// Reads the text of a JSON file.
///
/// # Errors
/// It is no JSON, or has no block.
pub(super) fn project(text: &str) -> Result<Project, String> {
    let json: Json = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let root = json.get("impulse").unwrap_or(&json);
    let input = root.get("inputBlocks").and_then(|blocks| blocks.get(0));
    let number = |name: &str| input.and_then(|input| input.get(name)).and_then(Json::as_f64);
    let rate_hz = number("frequencyHz").or_else(|| root.get("frequency").and_then(Json::as_f64));
    let rate_hz = rate_hz.filter(|rate| *rate > 0.0);
    let samples = |ms: Option<f64>| Some((ms? * rate_hz? / 1000.0).round() as usize).filter(|samples| *samples > 0);
    let blocks: Vec<&Json> = match root.get("dspBlocks").and_then(Json::as_array) {
        Some(blocks) => blocks.iter().collect(),
        None => vec![root],
    };
    // Axes have names here, and numbers in edgewatt: by their order in all blocks.
    let mut axis_names: Vec<String> = Vec::new();
    for axis in blocks.iter().flat_map(|block| texts(block.get("axes"))) {
        if !axis_names.contains(&axis) {
            axis_names.push(axis);
        }
    }
    let read = blocks.iter().map(|block| block_of(block, &axis_names)).collect::<Result<Vec<_>, _>>()?;
    let project = Project {
        name: root.get("name").and_then(Json::as_str).map(str::to_owned).filter(|_| root.get("dspBlocks").is_some()),
        labels: texts(root.get("labels").or_else(|| root.get("classes"))),
        rate_hz,
        samples: samples(number("windowSizeMs")),
        hop: samples(number("windowIncreaseMs")),
        axes: (!axis_names.is_empty()).then_some(axis_names.len()),
        is_sound: axis_names == ["audio"],
        axis_names,
        ..Project::default()
    };
    Ok(with_blocks(project, read))
}

fn block_of(json: &Json, axis_names: &[String]) -> Result<Block, String> {
    let about = json.get("dsp").unwrap_or(json);
    let kind = about.get("type").and_then(Json::as_str).ok_or(
        "no block is in it: neither `dspBlocks` nor the `type` of one, such as \"mfe\"; take the impulse or the block of the \
         studio's API, or model_variables.h of the C++ library",
    )?;
    let own = json.get("config").or_else(|| json.get("parameters"));
    let mut keys = Vec::new();
    for object in [Some(about), own].into_iter().flatten() {
        match object {
            Json::Array(groups) => keys.extend(groups.iter().flat_map(items)),
            Json::Object(values) => keys.extend(plain(values)),
            _ => {}
        }
    }
    let place = |axis: &String| axis_names.iter().position(|name| name == axis);
    let axes: Vec<usize> = texts(about.get("axes")).iter().filter_map(place).collect();
    Ok(Block { kind: kind.replace('-', "_"), axes: (!axes.is_empty()).then_some(axes), keys, ..Block::default() })
}

/// Returns the parameters of a group.
fn items(group: &Json) -> Vec<(String, Json)> {
    let item = |item: &Json| {
        let name = item.get("param")?.as_str()?;
        let value = item.get("value").filter(|value| !value.is_null()).or_else(|| item.get("defaultValue"))?;
        Some((key_of(name), value.clone()))
    };
    group.get("items").and_then(Json::as_array).into_iter().flatten().filter_map(item).collect()
}

/// Returns the names and values of an object that are parameters.
fn plain(values: &Map<String, Json>) -> Vec<(String, Json)> {
    let is_parameter = |name: &str, value: &Json| {
        !ABOUT.contains(&name) && (value.is_number() || value.is_boolean() || value.is_string())
    };
    let wanted = values.iter().filter(|(name, value)| is_parameter(name, value));
    wanted.map(|(name, value)| (key_of(name), value.clone())).collect()
}

fn texts(list: Option<&Json>) -> Vec<String> {
    list.and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
}
