//! Reads the description of a model from a .tflite file: untrusted bytes, which are not run.
//!
//! Owns the reading of the file format; leaves running to the engine and printing to `cli::inspect`. Nothing here panics,
//! recurses, or allocates more than a small multiple of the file's length. Runs once for each model, at start.

mod archive;
mod buffers;
mod flatbuffer;
mod graph;
mod metadata;
mod operator;
mod other_format;
mod schema;
mod tensor;
mod values;
mod weights;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::sys::file;

pub(crate) use archive::Archive;
pub use archive::AttachedFile;
#[cfg(test)]
pub(crate) use archive::tests as archive_tests;
use buffers::Buffers;
use flatbuffer::{Source, Table};
use graph::{OperatorCode, operator_codes, read_subgraph};
pub use graph::{OperatorCount, OutputSummary, Subgraph};
pub use metadata::{Metadata, Normalization, TensorMetadata, attached_file};
pub(crate) use other_format::{describe as describe_other, stand_in};
use schema::{metadata as metadata_entry, model, signature_def, tensor_map};
pub use tensor::{ElementType, Quantization, TensorSummary};
pub use values::{OutputValues, ValueMeaning};
use weights::Collector;
pub use weights::{Kernel, Weights};

const IDENTIFIER: &[u8; 4] = b"TFL3";
const SCHEMA_VERSION: u32 = 3;
const MIN_RUNTIME_VERSION: &str = "min_runtime_version";
/// The limit of a flatbuffer's offsets. Models for edge devices are far smaller.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// Why a model file could not be read. The caller refuses the model in every case.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("cannot read model {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("model {}: {error}", path.display())]
    InFile { path: PathBuf, error: Box<ModelError> },
    /// What it is, and what would be right.
    #[error("not a TFLite model: {0}")]
    NotTflite(String),
    #[error("{field} needs {needed} bytes at byte {at}, but the file ends at byte {file_bytes}: is it cut off?")]
    Truncated { field: &'static str, at: usize, needed: usize, file_bytes: usize },
    #[error("{field} at byte {at} is {index}, expected an index below {count}")]
    Index { field: &'static str, at: usize, index: i64, count: usize },
    #[error("{field} at byte {at}: expected {expected}")]
    Malformed { field: &'static str, at: usize, expected: String },
}

impl ModelError {
    fn malformed(at: usize, field: &'static str, expected: impl Into<String>) -> Self {
        Self::Malformed { field, at, expected: expected.into() }
    }
}

/// The description of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSummary {
    pub file_bytes: usize,
    pub schema_version: u32,
    pub description: Option<String>,
    /// The oldest TFLite runtime that has all of its operators, as the converter wrote it.
    pub min_runtime_version: Option<String>,
    /// The subgraph that an invoke runs: the file's first one, or that of a signature ([`ModelSummary::entered`]).
    pub main: Subgraph,
    /// Bodies of loops and branches, initialisers and other entry points.
    pub other_subgraphs: Vec<Subgraph>,
    pub weights: Weights,
    pub buffers: BufferSummary,
    /// The main subgraph keeps values from one invoke to the next, in variable tensors or in resource variables, itself or in
    /// subgraphs that it runs. State inside a custom operator cannot be detected.
    pub stateful: bool,
    pub signatures: Vec<Signature>,
    /// The names of its entries of metadata.
    pub metadata: Vec<String>,
    /// What the model says of its inputs and outputs, and the files that it carries.
    pub model_metadata: Metadata,
}

/// The data in the file: weights, other constants and metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BufferSummary {
    pub filled: usize,
    pub bytes: u64,
    /// Number of buffers in the file after the flatbuffer, as in models over 2 GiB.
    pub outside_flatbuffer: usize,
}

/// A named entry point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signature {
    pub name: String,
    pub subgraph: u32,
    pub inputs: Vec<NamedTensor>,
    pub outputs: Vec<NamedTensor>,
}

/// An input or output of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedTensor {
    /// The name in the signature, which can differ from the tensor's own.
    pub name: String,
    /// Position in its subgraph's tensor list.
    pub index: usize,
}

impl ModelSummary {
    /// Reads the regular file at `path`.
    ///
    /// # Errors
    /// `Read`, or `InFile` around an error of [`Self::from_bytes`].
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let bytes = read_file(path).map_err(|error| ModelError::Read { path: path.to_owned(), error })?;
        Self::from_bytes(&bytes).map_err(|error| ModelError::InFile { path: path.to_owned(), error: Box::new(error) })
    }

    /// Reads the bytes of a whole .tflite file.
    ///
    /// # Errors
    /// `NotTflite`, `Truncated`, `Index`, `Malformed`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        check_identifier(bytes)?;
        let source = Source::new(bytes);
        let root = source.root("Model")?;
        let schema_version = root.u32(model::VERSION)?.unwrap_or(0);
        if schema_version != SCHEMA_VERSION {
            let expected = format!("schema version {SCHEMA_VERSION}, found {schema_version}");
            return Err(ModelError::malformed(root.at, model::VERSION.name, expected));
        }
        let buffers = Buffers::read(&source, root)?;
        let codes = operator_codes(root)?;
        let mut collector = Collector::new(&buffers);
        let (main, other_subgraphs) = read_subgraphs(root, &codes, &mut collector)?;
        let MetadataEntries { names, min_runtime_version, tflite } = read_metadata(root, &buffers)?;
        let mut summary = Self {
            file_bytes: bytes.len(),
            schema_version,
            description: root.string(model::DESCRIPTION)?,
            min_runtime_version,
            stateful: false,
            main,
            other_subgraphs,
            weights: collector.finish(),
            buffers: BufferSummary {
                filled: buffers.filled,
                bytes: buffers.bytes,
                outside_flatbuffer: buffers.outside,
            },
            signatures: read_signatures(root)?,
            metadata: names,
            model_metadata: Metadata::read(tflite, bytes),
        };
        summary.stateful = summary.keeps_state(0);
        Ok(summary)
    }

    /// Returns the subgraph at `index` in the file.
    pub fn subgraph(&self, index: usize) -> Option<&Subgraph> {
        if index == 0 { Some(&self.main) } else { self.other_subgraphs.get(index - 1) }
    }

    /// Returns whether running the subgraph changes variables that a later run reads.
    pub fn changes_variables(&self, subgraph: usize) -> bool {
        self.reachable(subgraph).iter().any(|subgraph| subgraph.variables_changed > 0)
    }

    fn keeps_state(&self, subgraph: usize) -> bool {
        self.changes_variables(subgraph) || self.reachable(subgraph).iter().any(|s| s.variable_tensors > 0)
    }

    /// Returns the subgraph and all that it runs.
    fn reachable(&self, subgraph: usize) -> Vec<&Subgraph> {
        let (mut seen, mut wanted, mut found) = (BTreeSet::new(), vec![subgraph], Vec::new());
        while let Some(index) = wanted.pop() {
            if let (true, Some(subgraph)) = (seen.insert(index), self.subgraph(index)) {
                found.push(subgraph);
                wanted.extend(&subgraph.calls);
            }
        }
        found
    }

    /// Returns the description with the subgraph of `signature` as the main one, with the inputs and outputs that the
    /// signature names, in the subgraph's order. `None`: the file does not have that subgraph.
    pub fn entered(&self, signature: &Signature) -> Option<Self> {
        let index = signature.subgraph as usize;
        let mut entered = self.clone();
        if index > 0 {
            let place = entered.other_subgraphs.get_mut(index - 1)?;
            std::mem::swap(&mut entered.main, place);
        }
        entered.main.inputs.retain(|input| signature.inputs.iter().any(|named| named.index == input.index));
        entered.main.outputs.retain(|output| signature.outputs.iter().any(|named| named.index == output.tensor.index));
        entered.stateful = self.keeps_state(index);
        if index > 0 {
            // It describes the first subgraph.
            entered.model_metadata.inputs.clear();
            entered.model_metadata.outputs.clear();
        }
        Some(entered)
    }
}

/// Reads a regular file of at most [`MAX_FILE_BYTES`].
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if path.is_dir() {
        return Err(io::Error::other(format!("it {}", other_format::describe_folder(path))));
    }
    file::read(path, MAX_FILE_BYTES)
}

/// Returns whether the bytes have the mark of a TFLite model.
pub fn is_tflite(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(IDENTIFIER)
}

fn check_identifier(bytes: &[u8]) -> Result<(), ModelError> {
    if is_tflite(bytes) { Ok(()) } else { Err(ModelError::NotTflite(other_format::describe(bytes))) }
}

fn read_subgraphs<'s, 'a>(
    root: Table<'s, 'a>,
    codes: &[OperatorCode],
    collector: &mut Collector<'s, 'a>,
) -> Result<(Subgraph, Vec<Subgraph>), ModelError> {
    let mut subgraphs = root.tables(model::SUBGRAPHS)?.iter().enumerate();
    let Some((_, main)) = subgraphs.next() else {
        return Err(ModelError::malformed(root.at, model::SUBGRAPHS.name, "at least one subgraph, found none"));
    };
    let main = read_subgraph(0, main?, codes, collector)?;
    let others = subgraphs.map(|(index, table)| read_subgraph(index, table?, codes, collector));
    Ok((main, others.collect::<Result<_, _>>()?))
}

fn read_signatures(root: Table) -> Result<Vec<Signature>, ModelError> {
    let named = |table: Table| {
        table.charge(size_of::<NamedTensor>(), signature_def::INPUTS.name)?;
        Ok(NamedTensor {
            name: table.string(tensor_map::NAME)?.unwrap_or_default(),
            index: table.u32(tensor_map::TENSOR_INDEX)?.unwrap_or(0) as usize,
        })
    };
    let signature = |table: Table| {
        Ok(Signature {
            name: table.string(signature_def::KEY)?.unwrap_or_default(),
            subgraph: table.u32(signature_def::SUBGRAPH_INDEX)?.unwrap_or(0),
            inputs: table.tables(signature_def::INPUTS)?.iter().map(|input| named(input?)).collect::<Result<_, _>>()?,
            outputs: table.tables(signature_def::OUTPUTS)?.iter().map(|o| named(o?)).collect::<Result<_, _>>()?,
        })
    };
    root.tables(model::SIGNATURE_DEFS)?.iter().map(|table| signature(table?)).collect()
}

/// The entries of a model's list of metadata.
struct MetadataEntries<'a> {
    names: Vec<String>,
    min_runtime_version: Option<String>,
    /// The buffer with the TFLite Metadata.
    tflite: Option<&'a [u8]>,
}

fn read_metadata<'a>(root: Table<'_, 'a>, buffers: &Buffers<'_, 'a>) -> Result<MetadataEntries<'a>, ModelError> {
    let mut entries = MetadataEntries { names: Vec::new(), min_runtime_version: None, tflite: None };
    for table in root.tables(model::METADATA)?.iter() {
        let table = table?;
        let name = table.string(metadata_entry::NAME)?.unwrap_or_default();
        let content = || {
            let index = table.u32(metadata_entry::BUFFER)?.unwrap_or(0);
            buffers.data(index, (table.at, metadata_entry::BUFFER.name))
        };
        if name == MIN_RUNTIME_VERSION && entries.min_runtime_version.is_none() {
            // Padded to 16 bytes with NULs; TensorFlow 2.17 writes the entry twice, once empty.
            let text = String::from_utf8_lossy(content()?);
            entries.min_runtime_version = Some(text.trim_matches('\0').to_owned()).filter(|text| !text.is_empty());
        } else if name == metadata::BUFFER_NAME {
            entries.tflite = Some(content()?);
        }
        entries.names.push(name);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
