//! Reads what a model says of its own inputs and outputs: the TFLite Metadata, and the files that it carries.
//!
//! Metadata is a flatbuffer of its own in one of the model's buffers; the files are in a ZIP archive after the model. A model
//! runs without either, so what cannot be read is noted and refuses nothing.

use serde::Serialize;

use super::ModelError;
use super::archive::{Archive, AttachedFile};
use super::flatbuffer::{Field, Source, Table};
use super::schema::{
    associated_file, model_metadata, normalization, process_unit, subgraph_metadata, tensor_metadata, threshold,
};

/// The name of the buffer with the metadata, in the list of a model's metadata.
pub(crate) const BUFFER_NAME: &str = "TFLITE_METADATA";
const IDENTIFIER: &[u8; 4] = b"M001";
/// Members of the union ProcessUnitOptions.
const NORMALIZATION: i8 = 1;
const SCORE_THRESHOLDING: i8 = 3;
/// Members of the enum AssociatedFileType.
const AXIS_LABELS: i8 = 2;
const VALUE_LABELS: i8 = 3;

/// What a model says of its inputs and outputs, and the files that it carries.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Metadata {
    pub name: Option<String>,
    pub description: Option<String>,
    pub version: Option<String>,
    pub author: Option<String>,
    pub license: Option<String>,
    /// In the order of the main subgraph's inputs and outputs; empty if nothing is said.
    pub inputs: Vec<TensorMetadata>,
    pub outputs: Vec<TensorMetadata>,
    /// All files in the archive after the model.
    pub files: Vec<AttachedFile>,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// What a model says of one input or output.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TensorMetadata {
    pub name: Option<String>,
    pub description: Option<String>,
    pub normalization: Option<Normalization>,
    /// The lowest score that counts.
    pub score_threshold: Option<f32>,
    /// The files with its labels: those for every language first.
    pub label_files: Vec<String>,
}

/// What the model wants for each value x of its input: (x - mean) / std, with one mean and one std, or one a channel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Normalization {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

impl Normalization {
    /// Whether it changes nothing.
    pub fn is_identity(&self) -> bool {
        self.mean.iter().all(|mean| *mean == 0.0) && self.std.iter().all(|std| *std == 1.0)
    }

    /// Whether it can be done. The file is untrusted: a division by 0 would make every input infinite.
    pub fn is_usable(&self) -> bool {
        let Self { mean, std } = self;
        let is_filled = !mean.is_empty() && !std.is_empty();
        is_filled && mean.iter().all(|mean| mean.is_finite()) && std.iter().all(|std| std.is_normal())
    }

    /// Whether it has one value for all channels, or one a channel.
    pub fn fits(&self, channels: usize) -> bool {
        [&self.mean, &self.std].into_iter().all(|values| values.len() == 1 || values.len() == channels)
    }
}

impl Metadata {
    /// Reads the metadata in `buffer` and the archive at the end of the model `bytes`.
    pub(crate) fn read(buffer: Option<&[u8]>, bytes: &[u8]) -> Self {
        let mut metadata = Self::default();
        match buffer.map(Self::from_buffer) {
            Some(Ok(read)) => metadata = read,
            Some(Err(error)) => metadata.problems.push(format!("its metadata cannot be read: {error}")),
            None => {}
        }
        match Archive::at_end(bytes) {
            Ok(archive) => metadata.files = archive.map(Archive::files).unwrap_or_default(),
            Err(error) => metadata.problems.push(format!("the files that it carries cannot be read: {error}")),
        }
        metadata
    }

    fn from_buffer(buffer: &[u8]) -> Result<Self, ModelError> {
        if buffer.get(4..8) != Some(IDENTIFIER) {
            return Err(ModelError::malformed(4, "file identifier", "`M001`"));
        }
        let source = Source::new(buffer);
        let root = source.root("ModelMetadata")?;
        let mut metadata = Self {
            name: root.string(model_metadata::NAME)?,
            description: root.string(model_metadata::DESCRIPTION)?,
            version: root.string(model_metadata::VERSION)?,
            author: root.string(model_metadata::AUTHOR)?,
            license: root.string(model_metadata::LICENSE)?,
            ..Self::default()
        };
        if let Some(main) = root.tables(model_metadata::SUBGRAPHS)?.iter().next() {
            let main = main?;
            metadata.inputs = tensors(main, subgraph_metadata::INPUTS)?;
            metadata.outputs = tensors(main, subgraph_metadata::OUTPUTS)?;
        }
        Ok(metadata)
    }
}

/// Returns the content of the file `name` that the model `bytes` carry.
///
/// # Errors
/// There is no such file, it cannot be unpacked, or it is larger than `most` bytes.
pub fn attached_file(bytes: &[u8], name: &str, most: usize) -> Result<Vec<u8>, String> {
    let content = Archive::at_end(bytes)?.map(|archive| archive.read(name, most)).transpose()?.flatten();
    content.ok_or_else(|| format!("its metadata names the file {}, which it does not carry", name.escape_debug()))
}

fn tensors(table: Table, field: Field) -> Result<Vec<TensorMetadata>, ModelError> {
    table.tables(field)?.iter().map(|table| tensor(table?)).collect()
}

fn tensor(table: Table) -> Result<TensorMetadata, ModelError> {
    table.charge(size_of::<TensorMetadata>(), tensor_metadata::NAME.name)?;
    let mut tensor = TensorMetadata {
        name: table.string(tensor_metadata::NAME)?,
        description: table.string(tensor_metadata::DESCRIPTION)?,
        label_files: label_files(table)?,
        ..TensorMetadata::default()
    };
    for unit in table.tables(tensor_metadata::PROCESS_UNITS)?.iter() {
        let unit = unit?;
        let Some(options) = unit.table(process_unit::OPTIONS)? else { continue };
        match unit.i8(process_unit::OPTIONS_TYPE)? {
            Some(NORMALIZATION) => {
                let (mean, std) = (options.f32s(normalization::MEAN)?, options.f32s(normalization::STD)?);
                tensor.normalization = Some(Normalization { mean, std });
            }
            // Absent as the default of the schema, which is 0.
            Some(SCORE_THRESHOLDING) => tensor.score_threshold = Some(options.f32(threshold::GLOBAL)?.unwrap_or(0.0)),
            _ => {}
        }
    }
    Ok(tensor)
}

/// Returns the files with labels of a tensor: of its axis before of its values, and those without a language first.
fn label_files(table: Table) -> Result<Vec<String>, ModelError> {
    let mut files = Vec::new();
    for file in table.tables(tensor_metadata::ASSOCIATED_FILES)?.iter() {
        let file = file?;
        let kind = file.i8(associated_file::TYPE)?.unwrap_or(0);
        let (name, locale) = (file.string(associated_file::NAME)?, file.string(associated_file::LOCALE)?);
        if let (Some(name), AXIS_LABELS | VALUE_LABELS) = (name, kind) {
            files.push((kind, locale.filter(|locale| !locale.is_empty()), name));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, _, name)| name).collect())
}
