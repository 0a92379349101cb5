mod builder;
mod metadata;
mod scores;

use std::fs;

use proptest::prelude::*;

use super::schema::{buffer, operator_code, quantization, subgraph, tensor};
use super::*;
use builder::Value::{I8, I32, Repeated, Table, Tables, U64};
use builder::{Fields, builtin, bytes, data, dense, file, floats, graph_of, ints, longs, model_of, op, tensor_of};

const FLOAT32: ElementType = ElementType::FLOAT32;
const UINT8: ElementType = ElementType::UINT8;

fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

fn read(fields: &Fields) -> ModelSummary {
    ModelSummary::from_bytes(&file(fields)).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    ModelSummary::from_bytes(bytes).unwrap_err().to_string()
}

fn with(mut fields: Fields, field: flatbuffer::Field, value: builder::Value) -> Fields {
    fields.push((field, value));
    fields
}

#[test]
fn the_demo_models_are_as_their_card_says() {
    let card: serde_json::Value = serde_json::from_slice(&fs::read(demo("metrics.json")).unwrap()).unwrap();
    for (key, name) in [
        ("fp32", "shoulder_fp32.tflite"),
        ("int8", "shoulder_int8.tflite"),
        ("pruned_int8", "shoulder_pruned_int8.tflite"),
    ] {
        let summary = ModelSummary::from_file(&demo(name)).unwrap();
        let facts = &card["recording"][key];
        assert_eq!(facts["file"], name);
        assert_eq!(facts["bytes"], summary.file_bytes);
        assert_eq!(facts["sparsity"]["weights"], summary.weights.kernel_weights);
        assert_eq!(facts["sparsity"]["zero_weights"].as_u64(), summary.weights.kernel_zero_weights);
        let [input] = summary.main.inputs.as_slice() else { panic!("{name} has one input") };
        let [output] = summary.main.outputs.as_slice() else { panic!("{name} has one output") };
        for (tensor, facts) in [(input, &facts["input"]), (&output.tensor, &facts["output"])] {
            assert_eq!(facts["shape"], serde_json::json!(tensor.shape_signature));
            assert_eq!(facts["type"], tensor.element.to_string());
            let zero_point = tensor.quantization.as_ref().and_then(Quantization::zero_point);
            assert_eq!(facts["zero_point"].as_i64(), zero_point);
        }
        assert_eq!(output.produced_by.as_deref(), Some("SOFTMAX"));
        assert_eq!(facts["operators"].as_array().unwrap().len(), summary.main.operator_count);
        assert!(!summary.stateful && summary.min_runtime_version.is_some());
    }
}

#[test]
fn operators_are_named_counted_and_looked_through() {
    let custom = vec![
        (operator_code::DEPRECATED_BUILTIN_CODE, I8(32)),
        (operator_code::CUSTOM_CODE, bytes(b"edgetpu-custom-op")),
    ];
    let softmax_of_an_old_file = vec![(operator_code::DEPRECATED_BUILTIN_CODE, I8(25))];
    let codes = vec![custom, softmax_of_an_old_file, builtin(114), builtin(4000)];
    let tensors = (0..5).map(|_| tensor_of(UINT8, &[1, 2], 0)).collect();
    let ops = vec![op(3, &[0], &[1]), op(0, &[1], &[2]), op(1, &[2], &[3]), op(2, &[3], &[4])];
    let main = read(&model_of(codes, graph_of(tensors, ops), vec![])).main;
    let names: Vec<_> = main.operators.iter().map(|operator| (operator.name.as_str(), operator.custom)).collect();
    assert_eq!(names, [("QUANTIZE", false), ("SOFTMAX", false), ("UNKNOWN_4000", false), ("edgetpu-custom-op", true)]);
    assert_eq!(main.outputs[0].produced_by.as_deref(), Some("QUANTIZE"));
    assert_eq!(main.outputs[0].computed_by.as_deref(), Some("SOFTMAX"));
}

#[test]
fn operators_in_a_circle_end() {
    let tensors = (0..2).map(|_| tensor_of(UINT8, &[1], 0)).collect();
    let graph = graph_of(tensors, vec![op(0, &[1], &[0]), op(0, &[0], &[1])]);
    assert_eq!(read(&model_of(vec![builtin(22)], graph, vec![])).main.operator_count, 2);
}

#[test]
fn zero_weights_are_those_stored_as_the_zero_point() {
    let kernel = |zero_points: &[i64]| {
        let scales = floats(&vec![0.5; zero_points.len()]);
        let table = vec![(quantization::SCALE, scales), (quantization::ZERO_POINT, longs(zero_points))];
        let kernel = with(tensor_of(UINT8, &[2, 3], 1), tensor::QUANTIZATION, Table(table));
        read(&dense(kernel, data(&[0, 7, 7, 7, 1, 0]))).weights
    };
    assert_eq!(kernel(&[7]).kernel_zero_weights, Some(3));
    assert_eq!(kernel(&[7]).sparsity, Some(0.5));
    assert_eq!(kernel(&[7, 7]).kernel_zero_weights, Some(3));
    assert_eq!(kernel(&[]).kernel_zero_weights, Some(2));
    assert_eq!(kernel(&[0, 7]).kernel_zero_weights, None);
    assert_eq!(kernel(&[0, 7]).sparsity, None);
    assert_eq!((kernel(&[7]).biases, kernel(&[7]).bias_bytes), (1, 8));
}

#[test]
fn every_number_format_has_its_zero() {
    let zeros = |element, shape: &[i32], bytes: &[u8]| {
        let weights = read(&dense(tensor_of(element, shape, 1), data(bytes))).weights;
        (weights.kernel_weights, weights.kernel_zero_weights)
    };
    let floats: Vec<u8> = [0.0f32, -0.0, 1e-40].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(zeros(FLOAT32, &[3], &floats), (3, Some(2)));
    assert_eq!(zeros(ElementType::FLOAT16, &[3], &[0, 0, 0, 0x80, 1, 0]), (3, Some(2)));
    assert_eq!(zeros(ElementType::INT16, &[2], &[0, 1, 0, 0]), (2, Some(1)));
    // The last half byte is padding, and not a weight.
    assert_eq!(zeros(ElementType::INT4, &[3], &[0x0f, 0x00]), (3, Some(2)));
    assert_eq!(zeros(ElementType(99), &[2], &[0, 0]), (2, None));
}

#[test]
fn kernels_are_found_behind_dequantize_and_counted_once() {
    let half = tensor_of(ElementType::FLOAT16, &[1, 2], 1);
    let float = || tensor_of(FLOAT32, &[1, 2], 0);
    let ops = vec![op(0, &[1], &[2]), op(1, &[0, 2, -1], &[3]), op(1, &[3, 2, -1], &[4])];
    let graph = graph_of(vec![float(), half, float(), float(), float()], ops);
    let weights = read(&model_of(vec![builtin(6), builtin(9)], graph, vec![vec![], data(&[0; 4])])).weights;
    assert_eq!((weights.kernels.len(), weights.kernel_weights, weights.kernel_bytes), (1, 2, 4));
    assert_eq!(weights.kernels[0].operator, "FULLY_CONNECTED");
}

#[test]
fn weights_that_the_sparse_format_leaves_out_are_zero() {
    let kernel = with(tensor_of(UINT8, &[4, 4], 1), tensor::SPARSITY, Table(vec![]));
    let summary = read(&dense(kernel, data(&[1, 0, 3])));
    assert_eq!((summary.weights.kernel_weights, summary.weights.kernel_zero_weights), (16, Some(14)));
    assert_eq!(summary.main.sparse_format_tensors, 1);
    let vast = || with(tensor_of(UINT8, &[i32::MAX, i32::MAX, 4], 1), tensor::SPARSITY, Table(vec![]));
    let other = with(tensor_of(UINT8, &[i32::MAX, i32::MAX, 4], 2), tensor::SPARSITY, Table(vec![]));
    let graph = graph_of(vec![vast(), other, vast()], vec![op(0, &[2, 0], &[]), op(0, &[2, 1], &[])]);
    let vast = read(&model_of(vec![builtin(9)], graph, vec![vec![], data(&[1]), data(&[1])])).weights;
    assert_eq!(vast.kernel_zero_weights, Some(u64::MAX));
}

#[test]
fn data_is_found_behind_the_flatbuffer_or_said_to_be_elsewhere() {
    let outside = |offset, size| vec![(buffer::OFFSET, U64(offset)), (buffer::SIZE, U64(size))];
    // The file identifier's own bytes serve as four weights.
    let summary = read(&dense(tensor_of(UINT8, &[4], 1), outside(4, 4)));
    assert_eq!((summary.buffers.outside_flatbuffer, summary.weights.kernel_zero_weights), (1, Some(0)));
    let beyond = refusal(&file(&dense(tensor_of(UINT8, &[4], 1), outside(u64::MAX, 4))));
    assert!(beyond.contains("Buffer.offset needs 4 bytes at byte 18446744073709551615"), "{beyond}");
    let elsewhere = with(tensor_of(UINT8, &[4], 0), tensor::EXTERNAL_BUFFER, I32(1));
    let summary = read(&dense(elsewhere, vec![]));
    assert_eq!((summary.weights.kernel_weights, summary.weights.sparsity), (4, None));
    assert_eq!((summary.weights.kernels[0].bytes, summary.main.tensors_in_other_files), (None, 1));
}

#[test]
fn state_is_seen_in_variable_tensors_and_resource_variables() {
    let plain = || tensor_of(FLOAT32, &[1], 0);
    let stateful = |tensor: Fields, code| {
        let graph = graph_of(vec![plain(), tensor], vec![op(0, &[0], &[1])]);
        read(&model_of(vec![builtin(code)], graph, vec![])).stateful
    };
    assert!(!stateful(plain(), 0));
    assert!(!stateful(plain(), 142), "VAR_HANDLE alone");
    assert!(!stateful(plain(), 143), "READ_VARIABLE");
    assert!(stateful(plain(), 144), "ASSIGN_VARIABLE");
    assert!(stateful(with(plain(), tensor::IS_VARIABLE, I8(1)), 0));
}

#[test]
fn a_refusal_says_what_where_and_what_would_be_right() {
    assert!(refusal(b"<html>\n<body>").starts_with("not a TFLite model: it is a web page (HTML)"));
    assert!(
        refusal(b"\0\x01\xff\xfeTFLX\0")
            .ends_with("bytes 4 to 7 are `TFLX`, expected `TFL3`; model.path needs a .tflite file")
    );
    assert_eq!(
        refusal(b"\xff\0\0\0TFL3"),
        "Model needs 4 bytes at byte 255, but the file ends at byte 8: is it cut off?"
    );
    let tensors = || vec![tensor_of(UINT8, &[1], 0), tensor_of(UINT8, &[1], 0)];
    let bad_input = refusal(&file(&model_of(vec![builtin(0)], graph_of(tensors(), vec![op(0, &[9], &[1])]), vec![])));
    assert!(bad_input.starts_with("Operator.inputs at byte "), "{bad_input}");
    assert!(bad_input.ends_with(" is 9, expected an index below 2"), "{bad_input}");
    let bad_code = refusal(&file(&model_of(vec![], graph_of(tensors(), vec![op(0, &[0], &[1])]), vec![])));
    assert!(bad_code.ends_with(" is 0, expected an index below 0"), "{bad_code}");
    let bad_size = refusal(&file(&dense(tensor_of(UINT8, &[5], 1), data(&[0; 4]))));
    assert!(bad_size.ends_with("expected a buffer that fits uint8 [5], found 4 bytes"), "{bad_size}");
    let old = refusal(&file(&vec![(model::VERSION, I32(2))]));
    assert!(old.ends_with("expected schema version 3, found 2"), "{old}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = ModelSummary::from_file(Path::new("nowhere/m.tflite")).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read model nowhere/m.tflite: No such file"), "{missing}");
    let device = ModelSummary::from_file(Path::new("/dev/zero")).unwrap_err().to_string();
    assert_eq!(device, "cannot read model /dev/zero: it is a device, not a regular file");
    let text = demo("labels.txt");
    let text_error = ModelSummary::from_file(&text).unwrap_err().to_string();
    assert!(text_error.starts_with(&format!("model {}: not a TFLite model", text.display())), "{text_error}");
}

/// A file whose vectors name one table again and again would otherwise cost the square of its length.
#[test]
fn a_file_that_uses_its_bytes_over_and_over_is_refused() {
    const MANY: usize = 100_000;
    let graph = vec![
        (subgraph::INPUTS, ints(&vec![0; MANY])),
        (subgraph::OUTPUTS, ints(&vec![0; MANY])),
        (subgraph::TENSORS, Tables(vec![with(tensor_of(UINT8, &[1; 1000], 0), tensor::NAME, bytes(&[b'n'; MANY]))])),
        (subgraph::OPERATORS, Repeated(MANY, op(0, &[0; 1000], &[0]))),
    ];
    let version = || (model::VERSION, I32(3));
    let codes = || (model::OPERATOR_CODES, Tables(vec![builtin(0)]));
    let wide = refusal(&file(&vec![version(), codes(), (model::SUBGRAPHS, Tables(vec![graph]))]));
    assert!(wide.ends_with("expected bytes used once, but the file refers to the same ones over and over"), "{wide}");
    let graphs = Repeated(MANY, graph_of(vec![tensor_of(UINT8, &[1], 0)], vec![]));
    let deep = refusal(&file(&vec![version(), codes(), (model::SUBGRAPHS, graphs)]));
    assert!(deep.ends_with("expected bytes used once, but the file refers to the same ones over and over"), "{deep}");
}

#[test]
fn a_model_cut_anywhere_is_refused() {
    let whole = fs::read(demo("shoulder_int8.tflite")).unwrap();
    for len in (0..whole.len() - 64).step_by(97).chain([0, 1, 4, 7, 8]) {
        assert!(ModelSummary::from_bytes(&whole[..len]).is_err(), "cut at {len}");
    }
}

fn check_mutated(bytes: &mut [u8], changes: &[(usize, u8)]) {
    for &(at, value) in changes {
        let at = at % bytes.len();
        bytes[at] = value;
    }
    if let Ok(summary) = ModelSummary::from_bytes(bytes) {
        let mut text = Vec::new();
        serde_json::to_writer(&mut text, &summary).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_change_to_a_model_makes_the_reader_panic(
        changes in prop::collection::vec((any::<usize>(), prop_oneof![Just(0), Just(0xff), any::<u8>()]), 1..32)
    ) {
        // A small model is mostly structure, so that most changes hit some.
        let kernel = with(tensor_of(UINT8, &[2, 3], 1), tensor::QUANTIZATION, Table(vec![
            (quantization::SCALE, floats(&[0.5])),
            (quantization::ZERO_POINT, longs(&[3])),
        ]));
        check_mutated(&mut file(&dense(kernel, data(&[0; 6]))), &changes);
        check_mutated(&mut fs::read(demo("shoulder_int8.tflite")).unwrap(), &changes);
    }
}
