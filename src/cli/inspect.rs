//! `edgewatt inspect`: describes a model file as text or JSON.
//!
//! Names come from an untrusted file: control characters are shown escaped, long names are cut.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::engine::{ModelPlan, custom_operator, plan};
use crate::load::inspect::{Tried, try_delegate};
use crate::model::{
    Kernel, Metadata, ModelSummary, Normalization, OperatorCount, OutputSummary, Quantization, Signature, Subgraph,
    TensorSummary, ValueMeaning, Weights,
};
use crate::text::counted;

/// Most characters of a name that a line shows.
const NAME_WIDTH: usize = 40;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, a .tflite file
    model: PathBuf,
    /// Print JSON, with the quantisation of every tensor and with every kernel
    #[arg(long)]
    json: bool,
    /// Also run the model once with this delegate in a separate process, and show which operators it runs: "cpu",
    /// "xnnpack", or a name from `delegates` in the configuration
    #[arg(long, value_name = "NAME")]
    delegate: Option<String>,
    /// The signature to describe and run, of a model that has several
    #[arg(long, value_name = "NAME")]
    signature: Option<String>,
    /// The shape that the model's input gets, for one that leaves it open, as in 1,16000
    #[arg(long, value_name = "DIMENSIONS", value_delimiter = ',', requires = "delegate")]
    input_shape: Option<Vec<i32>>,
    /// The configuration that defines the delegate and names the runtime
    #[arg(short, long, value_name = "FILE", requires = "delegate")]
    config: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let summary = ModelSummary::from_file(&args.model)?;
    let (signature, which) = chosen(&summary, args)?;
    let plan = ModelPlan { signature, dims: args.input_shape.clone(), ..ModelPlan::of_batch(1) };
    let tried = match &args.delegate {
        Some(name) => Some(try_delegate(&args.model, name, args.config.as_deref(), &plan)?),
        None => None,
    };
    let mut out = io::stdout().lock();
    if args.json {
        let described = Described { model: &summary, delegate: tried.as_ref() };
        serde_json::to_writer_pretty(&mut out, &described)?;
        writeln!(out)?;
    } else {
        render(&plan.entered(summary)?, &which, &mut out)?;
        if let Some(tried) = &tried {
            partition(tried, &mut out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the signature that is run, unless it is that of the first subgraph, and what to say of the choice.
fn chosen(summary: &ModelSummary, args: &Args) -> anyhow::Result<(Option<String>, String)> {
    let several = summary.signatures.len() > 1;
    match plan::signature(summary, args.signature.as_deref()) {
        Ok(Some(signature)) => {
            let name = (signature.subgraph != 0).then(|| signature.name.clone());
            Ok((name, if several { format!("signature {}", shown(&signature.name)) } else { String::new() }))
        }
        Ok(None) => Ok((None, String::new())),
        Err(message) if args.signature.is_some() || args.delegate.is_some() => Err(anyhow::anyhow!(message)),
        Err(message) => Ok((None, message)),
    }
}

/// The JSON form.
#[derive(Serialize)]
struct Described<'a> {
    #[serde(flatten)]
    model: &'a ModelSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegate: Option<&'a Tried>,
}

fn partition(tried: &Tried, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\ndelegate {}", tried.delegate)?;
    writeln!(out, "  runtime {}, version {}", tried.runtime.display(), tried.runtime_version)?;
    if let Some(library) = &tried.proof.library {
        let version = tried.proof.library_version.as_ref().map_or(String::new(), |v| format!(", version {}", shown(v)));
        writeln!(out, "  library {}{version}", library.display())?;
    }
    match &tried.proof.engine.delegation {
        Some(delegation) => {
            let taken = delegation.nodes_delegated;
            writeln!(
                out,
                "  takes {taken} of {}, partitions: {}",
                counted(delegation.nodes_total, "node"),
                delegation.partitions
            )?;
            let row = |(operator, count): (&String, &usize)| vec![format!("{count:>5}"), shown(operator)];
            if !delegation.on_cpu.is_empty() {
                writeln!(out, "  on the runtime's own kernels:")?;
                table(out, &delegation.on_cpu.iter().map(row).collect::<Vec<_>>())?;
            }
        }
        None => writeln!(out, "  this runtime does not report which nodes the delegate runs")?,
    }
    if let Some(litert) = &tried.proof.engine.litert {
        writeln!(out, "  {litert}")?;
    }
    tried.warnings.iter().try_for_each(|warning| writeln!(out, "  warning: {warning}"))?;
    tried.log.iter().try_for_each(|line| writeln!(out, "  log: {}", line.escape_debug()))
}

/// Writes `summary` as aligned text. `which` says which signature is described, if there are several.
///
/// # Errors
/// `out` cannot be written.
pub(crate) fn render(summary: &ModelSummary, which: &str, out: &mut impl Write) -> io::Result<()> {
    let main = &summary.main;
    writeln!(out, "file        {}, schema {}", bytes(summary.file_bytes as u64), summary.schema_version)?;
    if let Some(description) = &summary.description {
        writeln!(out, "described   {}", shown(description))?;
    }
    if let Some(version) = &summary.min_runtime_version {
        writeln!(out, "runtime     {} or later", shown(version))?;
    }
    writeln!(out, "state       {}", state(summary))?;
    let signatures: Vec<_> = summary.signatures.iter().map(|signature| entry_point(summary, signature)).collect();
    list(out, "signatures", &signatures)?;
    if !which.is_empty() {
        writeln!(out, "{:<12}{which}", "runs")?;
    }
    let metadata: Vec<_> = summary.metadata.iter().map(|name| shown(name)).collect();
    list(out, "metadata", &metadata)?;
    described(out, summary)?;
    writeln!(out, "\ninputs")?;
    table(out, &main.inputs.iter().map(tensor_row).collect::<Vec<_>>())?;
    writeln!(out, "\noutputs")?;
    table(out, &main.outputs.iter().map(output_row).collect::<Vec<_>>())?;
    operators(out, "operators", main)?;
    for (index, subgraph) in summary.other_subgraphs.iter().enumerate() {
        let name = subgraph.name.as_deref().map(shown).unwrap_or_default();
        operators(out, &format!("operators of subgraph {} {name}", index + 1), subgraph)?;
    }
    weights(out, summary)
}

/// Writes what the model's own metadata says, and which files it carries.
fn described(out: &mut impl Write, summary: &ModelSummary) -> io::Result<()> {
    let Metadata { name, description, version, author, license, inputs, outputs, files, problems } =
        &summary.model_metadata;
    let mut lines: Vec<(&str, String)> = Vec::new();
    for (title, text) in
        [("name", name), ("about", description), ("version", version), ("author", author), ("license", license)]
    {
        lines.extend(text.iter().map(|text| (title, shown(text))));
    }
    for (index, input) in inputs.iter().enumerate() {
        if let Some(Normalization { mean, std }) = &input.normalization {
            let few = |values: &[f32]| values.iter().take(4).map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let values = format!("input {index} is (x - mean) / std, mean {}, std {}", few(mean), few(std));
            lines.push(("normalised", values));
        }
    }
    for (index, output) in outputs.iter().enumerate() {
        let labels: Vec<String> = output.label_files.iter().map(|name| shown(name)).collect();
        if !labels.is_empty() {
            lines.push(("labels", format!("of output {index}: {}", labels.join(", "))));
        }
        lines.extend(output.score_threshold.map(|threshold| ("threshold", format!("of output {index}: {threshold}"))));
    }
    lines.extend(files.iter().take(8).map(|file| ("carries", format!("{}, {} bytes", shown(&file.name), file.bytes))));
    lines.extend(problems.iter().map(|problem| ("problem", problem.clone())));
    lines.iter().try_for_each(|(title, text)| writeln!(out, "{title:<12}{text}"))
}

fn state(summary: &ModelSummary) -> String {
    let Subgraph { variable_tensors, var_handles, .. } = summary.main;
    match summary.stateful {
        true => {
            format!("kept between inferences: {variable_tensors} variable tensors, {var_handles} resource variables")
        }
        false => "none kept between inferences".into(),
    }
}

/// Returns a signature's name, with its subgraph if that is not the first one, and whether it changes variables.
fn entry_point(summary: &ModelSummary, signature: &Signature) -> String {
    let subgraph = signature.subgraph;
    let of = if subgraph == 0 { String::new() } else { format!("subgraph {subgraph}") };
    let changes = if summary.changes_variables(subgraph as usize) { "changes variables" } else { "" };
    let notes = [of.as_str(), changes].into_iter().filter(|note| !note.is_empty()).collect::<Vec<_>>().join(", ");
    let name = shown(&signature.name);
    if notes.is_empty() { name } else { format!("{name} ({notes})") }
}

fn tensor_row(tensor: &TensorSummary) -> Vec<String> {
    vec![shown(&tensor.name), tensor.element.to_string(), dims(tensor), quantization(tensor)]
}

fn output_row(output: &OutputSummary) -> Vec<String> {
    let mut row = tensor_row(&output.tensor);
    let made = match (&output.produced_by, &output.computed_by) {
        (None, _) => "by no operator".into(),
        (Some(by), Some(from)) if by != from => format!("by {} of {}", shown(by), shown(from)),
        (Some(by), _) => format!("by {}", shown(by)),
    };
    row.push(match output.values.meaning {
        Some(ValueMeaning::Probabilities) => format!("{made}: as scores, probabilities"),
        Some(ValueMeaning::Logits) => format!("{made}: as scores, logits"),
        None => format!("{made}: as scores, cannot be told"),
    });
    row
}

fn dims(tensor: &TensorSummary) -> String {
    let dims: Vec<_> = tensor.shape_signature.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}

fn quantization(tensor: &TensorSummary) -> String {
    match &tensor.quantization {
        None => "not quantised".into(),
        Some(Quantization::PerTensor { scale, zero_point }) => format!("scale {scale}, zero point {zero_point}"),
        Some(Quantization::PerChannel { axis, scales, .. }) => {
            format!("{} along dimension {axis}", counted(scales.len(), "scale"))
        }
        Some(Quantization::Other) => "quantised blockwise or in a custom way".into(),
    }
}

fn operators(out: &mut impl Write, title: &str, subgraph: &Subgraph) -> io::Result<()> {
    let (count, tensors) = (subgraph.operator_count, subgraph.tensor_count);
    writeln!(out, "\n{title}: {count} on {}", counted(tensors, "tensor"))?;
    let row = |operator: &OperatorCount| {
        let kind = if operator.custom { custom_operator(&operator.name) } else { "" };
        vec![format!("{:>5}", operator.count), shown(&operator.name), kind.to_owned()]
    };
    table(out, &subgraph.operators.iter().map(row).collect::<Vec<_>>())
}

fn weights(out: &mut impl Write, summary: &ModelSummary) -> io::Result<()> {
    let weights = &summary.weights;
    writeln!(out, "\nweights: {}", totals(weights))?;
    let row = |kernel: &Kernel| {
        let tensor = &kernel.tensor;
        let format = if tensor.sparse_format { "sparse format" } else { "" };
        vec![
            shown(&tensor.name),
            kernel.operator.clone(),
            tensor.element.to_string(),
            dims(tensor),
            format!("{:>8}", kernel.weights),
            percent(kernel.sparsity),
            kernel.bytes.map_or_else(|| "in another file".into(), bytes),
            format.to_owned(),
        ]
    };
    table(out, &weights.kernels.iter().map(row).collect::<Vec<_>>())?;
    writeln!(out, "biases: {}, {}", counted(weights.biases, "tensor"), bytes(weights.bias_bytes))?;
    let buffers = summary.buffers;
    let note = |count: usize, what: String| if count > 0 { format!(", {what}") } else { String::new() };
    let outside =
        note(buffers.outside_flatbuffer, format!("{} of them after the flatbuffer", buffers.outside_flatbuffer));
    let elsewhere = note(
        summary.main.tensors_in_other_files,
        format!("{} in other files", counted(summary.main.tensors_in_other_files, "tensor")),
    );
    let sparse = note(
        summary.main.sparse_format_tensors,
        format!("{} in sparse format", counted(summary.main.sparse_format_tensors, "tensor")),
    );
    writeln!(
        out,
        "all data: {}, {}{outside}{elsewhere}{sparse}",
        counted(buffers.filled, "buffer"),
        bytes(buffers.bytes)
    )
}

fn totals(weights: &Weights) -> String {
    if weights.kernels.is_empty() {
        return "none in operators that TFLite defines; a custom operator may hold its own".into();
    }
    let (count, tensors) = (weights.kernel_weights, weights.kernels.len());
    let zeros = percent(weights.sparsity);
    format!("{count} in {}, {}, {}", counted(tensors, "kernel"), bytes(weights.kernel_bytes), zeros.trim_start())
}

fn percent(fraction: Option<f64>) -> String {
    fraction.map_or_else(|| "zeros unknown".into(), |fraction| format!("{:5.1} % zero", 100.0 * fraction))
}

fn bytes(count: u64) -> String {
    match count {
        0..10_240 => counted(count, "byte"),
        _ => format!("{:.1} KiB", count as f64 / 1024.0),
    }
}

fn list(out: &mut impl Write, title: &str, names: &[String]) -> io::Result<()> {
    match names {
        [] => Ok(()),
        _ => writeln!(out, "{title:<12}{}", names.join(", ")),
    }
}

/// Returns `name` escaped and cut, so that it fits on one line of a terminal.
pub(crate) fn shown(name: &str) -> String {
    let mut shown: String = name.chars().take(NAME_WIDTH + 1).flat_map(char::escape_debug).collect();
    if name.chars().nth(NAME_WIDTH).is_some() {
        let cut = shown.char_indices().nth(NAME_WIDTH - 1).map_or(shown.len(), |(at, _)| at);
        shown.truncate(cut);
        shown.push('…');
    }
    shown
}

/// Writes rows in columns that are as wide as their widest cell, two spaces apart.
fn table(out: &mut impl Write, rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("  {cell:<width$}"));
        writeln!(out, "{}", cells.collect::<String>().trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(shown(&"x".repeat(NAME_WIDTH)).chars().count(), NAME_WIDTH);
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), NAME_WIDTH);
    }

    #[test]
    fn who_runs_a_custom_operator_is_said() {
        for (name, words) in [
            ("Mfcc", "in the runtime"),
            ("TFLite_Detection_PostProcess", "in the runtime"),
            ("MaxUnpooling2D", "in LiteRT's runtime only"),
            ("FlexErf", "Flex delegate"),
            ("edgetpu-custom-op", "needs its delegate"),
        ] {
            assert!(custom_operator(name).contains(words), "{name}");
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        let mut text = Vec::new();
        table(&mut text, &rows).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "  a    b\n  ccc  d\n");
    }

    #[test]
    fn the_demo_model_reads_well() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/shoulder_int8.tflite");
        let mut text = Vec::new();
        render(&ModelSummary::from_file(&path).unwrap(), "", &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("  int8  [-1, 7]  scale 0.00390625, zero point -128  by SOFTMAX: as scores, probabilities\n"),
            "{text}"
        );
        assert!(text.contains("\n      5  CONV_2D\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 120 && line == line.trim_end()), "{text}");
    }
}
