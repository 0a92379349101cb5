//! TFLite Metadata and the files that a model carries, written here as the encoders do, and damaged.

use proptest::prelude::*;

use super::super::archive::tests::append;
use super::super::schema::{
    associated_file, metadata as entry, model, model_metadata, normalization, process_unit, subgraph_metadata,
    tensor_metadata, threshold,
};
use super::super::*;
use super::builder::Value::{I8, I32, Table, Tables};
use super::builder::{Fields, bytes, data, file, floats, graph_of, model_of, tensor_of};

fn file_entry(name: &str, kind: i8, locale: &str) -> Fields {
    vec![
        (associated_file::NAME, bytes(name.as_bytes())),
        (associated_file::TYPE, I8(kind)),
        (associated_file::LOCALE, bytes(locale.as_bytes())),
    ]
}

fn unit(kind: i8, options: Fields) -> Fields {
    vec![(process_unit::OPTIONS_TYPE, I8(kind)), (process_unit::OPTIONS, Table(options))]
}

/// The metadata of an image classifier.
fn metadata_buffer() -> Vec<u8> {
    let normalize = vec![(normalization::MEAN, floats(&[127.5])), (normalization::STD, floats(&[127.5, 64.0]))];
    let input = vec![
        (tensor_metadata::NAME, bytes(b"image")),
        (tensor_metadata::PROCESS_UNITS, Tables(vec![unit(2, vec![]), unit(1, normalize)])),
    ];
    let threshold = vec![(threshold::GLOBAL, I32(0.25f32.to_bits() as i32))];
    let files = vec![
        file_entry("de.txt", 2, "de"),
        file_entry("values.txt", 3, ""),
        file_entry("labels.txt", 2, ""),
        file_entry("vocab.txt", 5, ""),
    ];
    let output = vec![
        (tensor_metadata::PROCESS_UNITS, Tables(vec![unit(3, threshold)])),
        (tensor_metadata::ASSOCIATED_FILES, Tables(files)),
    ];
    let graph =
        vec![(subgraph_metadata::INPUTS, Tables(vec![input])), (subgraph_metadata::OUTPUTS, Tables(vec![output]))];
    let root = vec![(model_metadata::NAME, bytes(b"birds")), (model_metadata::SUBGRAPHS, Tables(vec![graph]))];
    let mut buffer = file(&root);
    buffer[4..8].copy_from_slice(b"M001");
    buffer
}

fn model_with(buffer: &[u8]) -> Vec<u8> {
    let tensor = || tensor_of(ElementType::FLOAT32, &[1, 2], 0);
    let mut fields = model_of(vec![], graph_of(vec![tensor(), tensor()], vec![]), vec![vec![], data(buffer)]);
    let named = vec![(entry::NAME, bytes(b"TFLITE_METADATA")), (entry::BUFFER, I32(1))];
    fields.push((model::METADATA, Tables(vec![named])));
    file(&fields)
}

#[test]
fn what_a_model_says_of_its_tensors_and_the_files_that_it_carries_are_read() {
    let mut bytes = model_with(&metadata_buffer());
    append(&mut bytes, &[("labels.txt", b"up\ndown\n"), ("vocab.txt", b"x")], true, true);
    let summary = ModelSummary::from_bytes(&bytes).unwrap();
    assert_eq!(summary.metadata, ["TFLITE_METADATA"]);
    let metadata = summary.model_metadata;
    assert_eq!(metadata.name.as_deref(), Some("birds"));
    let wanted = Normalization { mean: vec![127.5], std: vec![127.5, 64.0] };
    assert_eq!(metadata.inputs[0].normalization, Some(wanted));
    let output = &metadata.outputs[0];
    assert_eq!(output.score_threshold, Some(0.25));
    assert_eq!(
        output.label_files,
        ["labels.txt", "de.txt", "values.txt"],
        "for every language first, axis before values"
    );
    assert_eq!(metadata.files.len(), 2);
    assert_eq!(attached_file(&bytes, "labels.txt", 100).unwrap(), b"up\ndown\n");
    assert!(attached_file(&bytes, "de.txt", 100).unwrap_err().contains("does not carry"));
    assert!(metadata.problems.is_empty());
}

#[test]
fn metadata_that_cannot_be_read_refuses_no_model() {
    let mut damaged = metadata_buffer();
    damaged[0] = 0xff;
    for (buffer, words) in [(damaged, "the file ends"), (b"what is this?".to_vec(), "expected `M001`")] {
        let metadata = ModelSummary::from_bytes(&model_with(&buffer)).unwrap().model_metadata;
        assert!(metadata.problems[0].contains(words), "{:?}", metadata.problems);
    }
}

proptest! {
    #[test]
    fn damaged_metadata_never_panics(
        places in prop::collection::vec(0usize..2000, 1..10), values in prop::collection::vec(any::<u8>(), 10),
    ) {
        let mut buffer = metadata_buffer();
        for (place, value) in places.into_iter().zip(values) {
            let place = place % buffer.len();
            buffer[place] = value;
        }
        buffer[4..8].copy_from_slice(b"M001");
        let mut bytes = model_with(&buffer);
        append(&mut bytes, &[("labels.txt", b"up\ndown\n")], true, true);
        let metadata = ModelSummary::from_bytes(&bytes).unwrap().model_metadata;
        for name in metadata.outputs.iter().flat_map(|output| &output.label_files) {
            let _ = attached_file(&bytes, name, 100);
        }
    }
}
