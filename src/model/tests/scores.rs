//! What the operators tell about the scores of an output.

use super::super::schema::{fused_activation, operator, quantization, subgraph, tensor};
use super::super::tensor::ElementType;
use super::super::{OutputValues, ValueMeaning};
use super::builder::Value::{I8, Table, Tables};
use super::builder::{Fields, builtin, data, floats, longs, model_of, op, tensor_of};
use super::{FLOAT32, UINT8, read, with};
use crate::model::operator::name;

const INT8: ElementType = ElementType::INT8;

/// A step of a graph: an operator, the tensors that it reads, and the activation that it carries.
struct Step(&'static str, &'static [i32], i8);

/// Tensor 0 is the input; a tensor for each constant follows, then one for each step, of which the last is the output.
fn told(constants: &[f32], steps: &[Step]) -> OutputValues {
    of_type(FLOAT32, constants, steps)
}

fn of_type(element: ElementType, constants: &[f32], steps: &[Step]) -> OutputValues {
    let first_step = i32::try_from(1 + constants.len()).unwrap();
    let buffer = |index: usize| i32::try_from(index + 1).unwrap();
    let mut tensors = vec![tensor_of(element, &[1, 4], 0)];
    tensors.extend((0..constants.len()).map(|index| tensor_of(FLOAT32, &[1], buffer(index))));
    let (mut codes, mut ops): (Vec<Fields>, Vec<Fields>) = (vec![], vec![]);
    for (step, place) in steps.iter().zip(0..) {
        let code = (0..210).find(|code| name(*code) == step.0).unwrap();
        codes.push(builtin(code));
        let made = op(place, step.1, &[first_step + place]);
        ops.push(match fused_activation(step.0) {
            Some(field) => with(made, operator::OPTIONS, Table(vec![(field, I8(step.2))])),
            None => made,
        });
        tensors.push(tensor_of(element, &[1, 4], 0));
    }
    let last = first_step + i32::try_from(steps.len()).unwrap() - 1;
    let graph = vec![
        (subgraph::INPUTS, super::ints(&[0])),
        (subgraph::OUTPUTS, super::ints(&[last])),
        (subgraph::TENSORS, Tables(tensors)),
        (subgraph::OPERATORS, Tables(ops)),
    ];
    let buffers = std::iter::once(vec![]).chain(constants.iter().map(|value| data(&value.to_le_bytes())));
    let summary = read(&model_of(codes, graph, buffers.collect()));
    summary.main.outputs[0].values.clone()
}

fn meaning(constants: &[f32], steps: &[Step]) -> Option<ValueMeaning> {
    told(constants, steps).meaning
}

#[test]
fn probabilities_are_found_behind_what_keeps_them() {
    let softmax = || Step("SOFTMAX", &[0], 0);
    for (steps, reason) in [
        (vec![softmax()], "SOFTMAX"),
        (vec![Step("LOGISTIC", &[0], 0), Step("QUANTIZE", &[1], 0)], "LOGISTIC through QUANTIZE"),
        (vec![softmax(), Step("RESHAPE", &[1], 0), Step("STRIDED_SLICE", &[2], 0)], "SOFTMAX through STRIDED_SLICE"),
        (vec![softmax(), Step("MEAN", &[1, 0], 0)], "SOFTMAX through MEAN"),
        (
            vec![softmax(), Step("LOGISTIC", &[0], 0), Step("CONCATENATION", &[1, 2], 0)],
            "SOFTMAX through CONCATENATION",
        ),
    ] {
        let told = told(&[], &steps);
        assert_eq!((told.meaning, told.reason.as_str()), (Some(ValueMeaning::Probabilities), reason));
    }
}

#[test]
fn values_that_can_only_be_0_to_1_are_probabilities() {
    let p = Some(ValueMeaning::Probabilities);
    // Constants are tensors 1 and on.
    assert_eq!(meaning(&[1.0], &[Step("LOGISTIC", &[0], 0), Step("SUB", &[1, 2], 0)]), p, "1 - p");
    assert_eq!(meaning(&[0.0, 1.0], &[Step("MAXIMUM", &[0, 1], 0), Step("MINIMUM", &[3, 2], 0)]), p, "a clip");
    let hard_sigmoid = [Step("ADD", &[0, 1], 0), Step("RELU6", &[3], 0), Step("MUL", &[4, 2], 0)];
    assert_eq!(meaning(&[3.0, 1.0 / 6.0], &hard_sigmoid), p);
    let by_tanh = [Step("TANH", &[0], 0), Step("ADD", &[3, 1], 0), Step("MUL", &[4, 2], 0)];
    assert_eq!(meaning(&[1.0, 0.5], &by_tanh), p);
    let by_exp = [Step("NEG", &[0], 0), Step("EXP", &[2], 0), Step("ADD", &[3, 1], 0), Step("DIV", &[1, 4], 0)];
    assert_eq!(meaning(&[1.0], &by_exp), p, "1 / (1 + exp(-x))");
    let normalised = [Step("EXP", &[0], 0), Step("SUM", &[1], 0), Step("DIV", &[1, 2], 0)];
    assert_eq!(meaning(&[], &normalised), p);
    let ensemble =
        [Step("SOFTMAX", &[0], 0), Step("SOFTMAX", &[0], 0), Step("ADD", &[2, 3], 0), Step("MUL", &[4, 1], 0)];
    assert_eq!(meaning(&[0.5], &ensemble), p);
}

#[test]
fn a_linear_layer_gives_logits_also_when_it_is_shifted_scaled_or_limited() {
    let logits = Some(ValueMeaning::Logits);
    let layer = || Step("FULLY_CONNECTED", &[0, 1], 0);
    for steps in [
        vec![layer()],
        vec![Step("CONV_2D", &[0, 1], 0), Step("MEAN", &[3], 0), Step("RESHAPE", &[4], 0)],
        vec![layer(), Step("ADD", &[3, 2], 0)],
        vec![layer(), Step("DIV", &[3, 2], 0), Step("DEQUANTIZE", &[4], 0)],
        vec![layer(), Step("MAXIMUM", &[3, 1], 0), Step("MINIMUM", &[4, 2], 0)],
    ] {
        assert_eq!(meaning(&[-10.0, 10.0], &steps), logits);
    }
    assert_eq!(meaning(&[], &[Step("LOG_SOFTMAX", &[0], 0)]), logits);
    assert_eq!(meaning(&[], &[Step("SOFTMAX", &[0], 0), Step("LOG", &[1], 0)]), logits);
}

#[test]
fn what_cannot_be_told_is_not_guessed() {
    let layer = |activation| Step("FULLY_CONNECTED", &[0], activation);
    for steps in [
        vec![Step("MEAN", &[0], 0), Step("RESHAPE", &[1], 0)],
        vec![layer(1)],
        vec![layer(4)],
        vec![layer(0), Step("RELU", &[1], 0)],
        vec![layer(0), Step("TANH", &[1], 0)],
        vec![layer(0), layer(0), Step("CONCATENATION", &[1, 2], 0)],
        vec![Step("SOFTMAX", &[0], 0), Step("SOFTMAX", &[0], 0), Step("ADD", &[1, 2], 0)],
        vec![layer(0), Step("SUM", &[1], 0), Step("DIV", &[1, 2], 0)],
        vec![Step("LOG_SOFTMAX", &[0], 0), Step("SLICE", &[1], 0)],
        vec![Step("UNIDIRECTIONAL_SEQUENCE_LSTM", &[0], 0)],
        vec![Step("IF", &[0], 0)],
    ] {
        let names: Vec<_> = steps.iter().map(|step| step.0).collect();
        assert_eq!(meaning(&[], &steps), None, "{names:?}");
    }
    assert_eq!(told(&[], &[Step("MEAN", &[0], 0), Step("RESHAPE", &[1], 0)]).reason, "MEAN through RESHAPE");
}

#[test]
fn the_places_of_the_highest_scores_are_no_probabilities() {
    let graph = vec![
        (subgraph::INPUTS, super::ints(&[0])),
        (subgraph::OUTPUTS, super::ints(&[2, 3])),
        (subgraph::TENSORS, Tables((0..4).map(|_| tensor_of(FLOAT32, &[1, 4], 0)).collect())),
        (subgraph::OPERATORS, Tables(vec![op(0, &[0], &[1]), op(1, &[1], &[2, 3])])),
    ];
    let outputs = read(&model_of(vec![builtin(25), builtin(48)], graph, vec![])).main.outputs;
    assert_eq!(outputs[0].values.meaning, Some(ValueMeaning::Probabilities));
    assert_eq!((outputs[1].values.meaning, outputs[1].values.reason.as_str()), (None, "TOPK_V2"));
}

#[test]
fn a_custom_operator_tells_by_the_scale_that_is_laid_down_for_probabilities() {
    let told = |element, scale: f32, zero_point: i64| {
        let custom = vec![
            (super::operator_code::DEPRECATED_BUILTIN_CODE, I8(32)),
            (super::operator_code::CUSTOM_CODE, super::bytes(b"edgetpu-custom-op\x1b")),
        ];
        let table = vec![(quantization::SCALE, floats(&[scale])), (quantization::ZERO_POINT, longs(&[zero_point]))];
        let scores = with(tensor_of(element, &[1, 4], 0), tensor::QUANTIZATION, Table(table));
        let tensors = vec![tensor_of(element, &[1, 4], 0), scores, tensor_of(FLOAT32, &[1, 4], 0)];
        let graph = super::graph_of(tensors, vec![op(0, &[0], &[1]), op(1, &[1], &[2])]);
        read(&model_of(vec![custom, builtin(6)], graph, vec![])).main.outputs[0].values.clone()
    };
    let told_probabilities = told(UINT8, 1.0 / 256.0, 0);
    assert_eq!(told_probabilities.meaning, Some(ValueMeaning::Probabilities));
    let reason = "edgetpu-custom-op\\u{1b} through DEQUANTIZE with the scale 1/256 of probabilities";
    assert_eq!(told_probabilities.reason, reason);
    assert_eq!(told(INT8, 1.0 / 256.0, -128).meaning, Some(ValueMeaning::Probabilities));
    assert_eq!(told(INT8, 1.0 / 256.0, 0).meaning, None);
    assert_eq!(told(UINT8, 0.1, 0).meaning, None);
}
