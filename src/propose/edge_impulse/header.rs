//! Reads the C++ headers of an export: model_metadata.h and model_variables.h.
//!
//! In exports of 2022 to 2025 each field of a block's struct is on a separate line, and its
//! comment has the type and the name of the parameter, as in `16, // int fft-length`. Names of variables end with the ids of
//! project, impulse or block, which differ between versions of the studio.

use serde_json::{Number, Value as Json};

use super::{Block, Calibration, Project, key_of, with_blocks};

const CATEGORIES: &str = "ei_classifier_inferencing_categories";
const CONFIG: &str = "ei_dsp_config_";
const CALIBRATION: &str = "ei_model_performance_calibration_t";

/// Reads the texts of the headers.
///
/// # Errors
/// There is nothing of a project in them, or something of several projects.
pub(super) fn project(texts: &[&str]) -> Result<Project, String> {
    let texts: Vec<String> = texts.iter().map(|text| without_block_comments(text)).collect();
    let text = texts.join("\n");
    let (variables, labels) = (Variables { text: &text }, labels(&text)?);
    let blocks = blocks(&text)?;
    let number = |define: &str, field: &str| {
        variables.define(define).or_else(|| variables.field(field)).and_then(|value| value.parse::<f64>().ok())
    };
    let count = |define: &str, field: &str| {
        number(define, field).filter(|n| *n >= 1.0 && n.fract() == 0.0 && *n < 1e9).map(|n| n as usize)
    };
    let word = |define: &str, field: &str| variables.define(define).or_else(|| variables.field(field));
    let samples = count("EI_CLASSIFIER_RAW_SAMPLE_COUNT", "raw_sample_count");
    if blocks.is_empty() && labels.is_empty() && samples.is_none() {
        return Err(
            "no block, no labels and no EI_CLASSIFIER_RAW_SAMPLE_COUNT is in it; it should be model_metadata.h or \
                    model_variables.h of Edge Impulse's C++ library"
                .into(),
        );
    }
    let sensor = word("EI_CLASSIFIER_SENSOR", "sensor").unwrap_or_default();
    let fusion = word("EI_CLASSIFIER_FUSION_AXES_STRING", "fusion_string").unwrap_or_default();
    let names =
        |text: &str| text.split('+').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let project = Project {
        name: word("EI_CLASSIFIER_PROJECT_NAME", "project_name").filter(|name| !name.is_empty()),
        labels,
        rate_hz: number("EI_CLASSIFIER_FREQUENCY", "frequency").filter(|rate| *rate > 0.0),
        samples,
        axes: count("EI_CLASSIFIER_RAW_SAMPLES_PER_FRAME", "raw_samples_per_frame"),
        axis_names: if sensor.ends_with("MICROPHONE") { Vec::new() } else { names(&fusion) },
        is_sound: sensor.ends_with("MICROPHONE") || fusion == "audio",
        slices: count("EI_CLASSIFIER_SLICES_PER_MODEL_WINDOW", "slices_per_model_window"),
        calibration: calibration(&text),
        threshold: number("EI_CLASSIFIER_THRESHOLD", "threshold").filter(|value| (0.0..=1.0).contains(value)),
        has_anomaly: number("EI_CLASSIFIER_HAS_ANOMALY", "").is_some_and(|value| value > 0.0)
            || text.contains("ei_classifier_anom_axes"),
        ..Project::default()
    };
    Ok(with_blocks(project, blocks))
}

/// The values that have a name.
struct Variables<'a> {
    text: &'a str,
}

impl Variables<'_> {
    /// Returns the value of `#define NAME VALUE`: a number, a word, or what is between quotes.
    fn define(&self, name: &str) -> Option<String> {
        self.text.lines().find_map(|line| {
            let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("define")?;
            let rest = rest.trim_start().strip_prefix(name)?;
            rest.starts_with([' ', '\t']).then(|| value(rest)).flatten()
        })
    }

    /// Returns the value of `.NAME = VALUE`.
    fn field(&self, name: &str) -> Option<String> {
        if name.is_empty() {
            return None;
        }
        self.text.lines().find_map(|line| {
            let rest = line.trim_start().strip_prefix('.')?.strip_prefix(name)?.trim_start();
            value(rest.strip_prefix('=')?)
        })
    }
}

/// Returns a value without the comment and the comma behind it, and without quotes or the `f` of a float.
fn value(text: &str) -> Option<String> {
    let text = text.trim();
    if text.starts_with('"') {
        return strings(text).into_iter().next();
    }
    let text = text.split("//").next().unwrap_or_default().trim().trim_end_matches([',', ';']).trim();
    let text = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(text).trim();
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.');
    let text = if is_number { text.trim_end_matches(['f', 'F', 'u', 'U', 'l', 'L']) } else { text };
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the texts between quotes, with their escapes resolved.
fn strings(text: &str) -> Vec<String> {
    let (mut found, mut current, mut chars) = (Vec::new(), None::<String>, text.chars());
    while let Some(c) = chars.next() {
        match (c, &mut current) {
            ('"', None) => current = Some(String::new()),
            ('"', Some(_)) => found.extend(current.take()),
            ('\\', Some(text)) => match chars.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(other) => text.push(other),
                None => {}
            },
            (c, Some(text)) => text.push(c),
            (_, None) => {}
        }
    }
    found
}

/// Returns where an identifier that begins with `name` begins, and the identifier.
fn identifiers<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = (usize, &'t str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(name).filter_map(move |(at, _)| {
        let begins = !text[..at].ends_with(is_part);
        let end = text[at..].find(|c| !is_part(c)).map_or(text.len(), |end| at + end);
        begins.then(|| (at, &text[at..end]))
    })
}

/// Returns what is between the braces that follow `=` behind `at`, if a definition follows.
fn body(text: &str, at: usize) -> Option<&str> {
    let rest = &text[at..];
    let equals = rest.find(['=', ';'])?;
    let rest = rest[equals..].strip_prefix('=')?.trim_start().strip_prefix('{')?;
    let (mut depth, mut is_text, mut is_escaped) = (1, false, false);
    for (end, c) in rest.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_text => is_escaped = true,
            '"' => is_text = !is_text,
            '{' if !is_text => depth += 1,
            '}' if !is_text => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&rest[..end]);
        }
    }
    None
}

/// Returns the labels.
fn labels(text: &str) -> Result<Vec<String>, String> {
    let mut lists = identifiers(text, CATEGORIES).filter_map(|(at, name)| {
        let after = text[at + name.len()..].trim_start();
        after.starts_with('[').then(|| body(text, at)).flatten().map(strings)
    });
    let first = lists.next().unwrap_or_default();
    match lists.next() {
        Some(_) => Err("it has the labels of several impulses; export one impulse".into()),
        None => Ok(first),
    }
}

/// Returns the blocks, in their order.
fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    for (at, kind) in identifiers(text, CONFIG) {
        let Some(kind) = kind.strip_prefix(CONFIG).and_then(|kind| kind.strip_suffix("_t")) else { continue };
        let after = &text[at + CONFIG.len() + kind.len() + 2..];
        let Some((_, name)) = identifiers(after, CONFIG).next().filter(|(at, _)| after[..*at].trim().is_empty()) else {
            continue;
        };
        let Some(fields) = body(text, text.len() - after.len()) else { continue };
        blocks.push(block(text, kind, name, fields)?);
    }
    let sizes: Vec<usize> = text
        .lines()
        .filter_map(|line| line.split_once("//").filter(|(_, comment)| comment.trim() == "output size"))
        .filter_map(|(size, _)| size.trim().trim_end_matches(',').parse().ok())
        .collect();
    if sizes.len() == blocks.len() {
        blocks.iter_mut().zip(sizes).for_each(|(block, size)| block.features = Some(size));
    }
    Ok(blocks)
}

/// Reads the fields of the block `name`.
fn block(text: &str, kind: &str, name: &str, fields: &str) -> Result<Block, String> {
    let mut keys = Vec::new();
    for line in fields.lines() {
        let Some((before, comment)) = comment(line) else { continue };
        // A type and a name; longer comments are about the axes, which are read from their own list.
        let mut words = comment.split_whitespace();
        let parameter = match (words.next(), words.next(), words.next()) {
            (Some(name), None, _) | (Some(_), Some(name), None) => name,
            _ => continue,
        };
        if matches!(parameter, "axes" | "blockId") {
            continue;
        }
        let before = before.replace("(char*)", "");
        let Some(value) = value(&before) else { continue };
        keys.push((key_of(parameter), json(before.trim(), value)));
    }
    if keys.is_empty() && kind != "image" {
        return Err(format!(
            "the block {kind} has values without the names of its parameters, as exports before 2022 have them; build the C++ \
             library again in the studio"
        ));
    }
    let numbers = |list: &str| -> Option<Vec<f64>> { numbers(body_of(text, list)?) };
    let axes = numbers(&format!("{name}_axes"));
    let id = name.strip_prefix(CONFIG).unwrap_or(name);
    let scaler = numbers(&format!("ei_dn_standard_scaler_mean_{id}"))
        .zip(numbers(&format!("ei_dn_standard_scaler_var_{id}")))
        .filter(|(mean, var)| mean.len() == var.len() && !mean.is_empty());
    Ok(Block {
        kind: kind.to_owned(),
        axes: axes.map(|axes| axes.into_iter().map(|axis| axis as usize).collect()),
        keys,
        features: None,
        scaler,
    })
}

/// Returns a line's code and its comment.
fn comment(line: &str) -> Option<(&str, &str)> {
    // A text may contain what looks like a comment.
    let mut is_text = false;
    let at = line.char_indices().find(|&(at, c)| {
        is_text ^= c == '"';
        !is_text && line[at..].starts_with("//")
    })?;
    Some((&line[..at.0], line[at.0 + 2..].trim()))
}

fn body_of<'t>(text: &'t str, variable: &str) -> Option<&'t str> {
    let (at, _) = identifiers(text, variable)
        .find(|(at, name)| *name == variable && text[at + name.len()..].trim_start().starts_with('['))?;
    body(text, at)
}

fn numbers(list: &str) -> Option<Vec<f64>> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(|item| value(item)?.parse().ok()).collect()
}

fn json(written: &str, value: String) -> Json {
    match value.as_str() {
        _ if written.starts_with('"') => Json::String(value),
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        _ => value.parse().ok().and_then(Number::from_f64).map_or(Json::String(value), Json::Number),
    }
}

/// Returns the performance calibration, if one was configured in the studio.
fn calibration(text: &str) -> Option<Calibration> {
    let (at, _) = identifiers(text, CALIBRATION).next()?;
    let lines = body(text, at)?.lines().map(|line| comment(line).map_or(line, |(code, _)| code));
    let fields: Vec<String> = lines.filter_map(value).collect();
    // version, is_configured, average_window_duration_ms, detection_threshold, suppression_ms, suppression_flags
    let [_, is_configured, average, threshold, suppression, flags] = fields.as_slice() else { return None };
    let flags = flags.strip_prefix("0x").map_or_else(|| flags.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())?;
    (is_configured == "true").then_some(())?;
    Some(Calibration {
        average_ms: average.parse().ok()?,
        threshold: threshold.parse().ok()?,
        suppression_ms: suppression.parse().ok()?,
        flags,
    })
}

/// Comments over several lines, such as the licence, are not read; those in a line become comments to its end.
fn without_block_comments(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/*") {
        kept.push_str(before);
        let (comment, after) = after.split_once("*/").unwrap_or((after, ""));
        if !comment.contains('\n') && after.trim_start_matches([' ', '\t', '\r']).starts_with('\n') {
            kept.push_str("// ");
            kept.push_str(comment.trim());
        }
        rest = after;
    }
    kept + rest
}
