//! What every engine is tested on: the tiny models, and the reference windows and answers of models/golden.json.
//!
//! Needs the runtime that `make runtime` fetches. tests/models/make.py wrote the tiny models.

use std::fs;
use std::path::{Path, PathBuf};

use edgewatt::config::Config;
use edgewatt::engine::delegate::DelegateKind;
use edgewatt::engine::delegate::cpu::Cpu;
use edgewatt::engine::delegate::xnnpack::Xnnpack;
use edgewatt::engine::{Element, Engine, TensorInfo};
use serde_json::Value;

pub use crate::RUNTIME;
use crate::demo;
use crate::root;

pub const CPU: DelegateKind = DelegateKind::Cpu(Cpu { threads: 1 });
pub const XNNPACK: DelegateKind = DelegateKind::Xnnpack(Xnnpack { threads: 1, flags: Vec::new() });
/// As in models/golden.json, which says which kernels gave which answers.
pub const DELEGATES: [(&str, DelegateKind, &str); 2] = [("cpu", CPU, "builtin"), ("xnnpack", XNNPACK, "xnnpack")];
pub const DEMO_MODELS: [&str; 3] = ["shoulder_fp32.tflite", "shoulder_int8.tflite", "shoulder_pruned_int8.tflite"];

pub fn tiny(name: &str) -> PathBuf {
    root().join("tests/models").join(name).with_extension("tflite")
}

/// Tiny models that edgewatt cannot feed or read, and what it says of each.
pub fn unusable_models() -> [(&'static str, String); 4] {
    let fills = "edgewatt fills inputs of float32, int8, uint8 and int16";
    [
        (
            "two_inputs",
            "the model has 2 inputs, and 1 of them would be fed; a pipeline names the others in model.inputs or model.state"
                .to_owned(),
        ),
        ("no_outputs", "the model has no outputs; edgewatt needs 1 or more".to_owned()),
        ("int32_input", format!("the model's input `x` is int32; {fills}")),
        ("unquantised_int8", "tensor `x` is int8 but carries no quantisation scale".to_owned()),
    ]
}

/// Every output after one invocation, on as many windows as go through at a time.
pub fn run(engine: &mut dyn Engine, features: &[f32]) -> Vec<Vec<f32>> {
    let rows = engine.batch();
    for (row, window) in features.chunks(features.len() / rows).enumerate() {
        engine.set_input(row, window).unwrap();
    }
    engine.invoke().unwrap();
    let mut outputs: Vec<Vec<f32>> = engine.outputs().iter().map(|info| vec![0.0; info.len()]).collect();
    for (index, values) in outputs.iter_mut().enumerate() {
        let width = values.len() / rows;
        for (row, values) in values.chunks_mut(width).enumerate() {
            engine.output(index, row, values).unwrap();
        }
    }
    outputs
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// What the tensor holds for `value`, which was read from it or is about to be written to it.
pub fn stored(info: &TensorInfo, value: f32) -> f32 {
    (value / info.scale + info.zero_point as f32).round()
}

/// The worst of `values` in parts of what is allowed: a step for integers; for floats `relative` of the expected value
/// and `absolute` beside it.
pub fn disagreement(info: &TensorInfo, values: &[f32], expected: &[f32], [relative, absolute]: [f32; 2]) -> f32 {
    assert_eq!(values.len(), expected.len());
    let part = |(&value, &expected): (&f32, &f32)| match info.element {
        Element::Float32 => (value - expected).abs() / (absolute + relative * expected.abs()),
        _ => (stored(info, value) - expected).abs(),
    };
    let parts = values.iter().zip(expected).map(part);
    // Not `f32::max`, which drops NaN.
    parts.fold(0.0, |worst, part| if part <= worst { worst } else { part })
}

pub fn demo_config(model: &str, delegate: &str) -> Config {
    let model = format!("models/{model}\"");
    let delegate = format!("delegate = \"{delegate}\"");
    demo::config(&[("models/shoulder_int8.tflite\"", &model), ("delegate = \"xnnpack\"", &delegate)])
}

/// The features of the reference windows, cut from the recording as the file says.
pub fn golden_features(golden: &Value) -> Vec<Vec<f32>> {
    let config = demo_config("shoulder_int8.tflite", "cpu");
    let mut pipeline = demo::prepare(&config);
    let recording = demo::recording(&config, &pipeline.labels);
    let samples = config.pipelines[0].window.samples;
    let features = |row: &Value| {
        let first = row.as_u64().unwrap() as usize;
        let window: Vec<f32> =
            recording[first..first + samples].iter().flat_map(|(_, values)| values.clone()).collect();
        pipeline.stages.features.apply(&window).to_vec()
    };
    golden["first_rows"].as_array().unwrap().iter().map(features).collect()
}

pub fn golden() -> Value {
    json(&root().join("models/golden.json"))
}

/// Relative and absolute, of floats; integers may be a step off.
pub fn golden_tolerance(golden: &Value) -> [f32; 2] {
    assert_eq!(golden["tolerance"]["int8_steps"], 1);
    ["float_relative", "float_absolute"].map(|key| golden["tolerance"][key].as_f64().unwrap() as f32)
}

/// The recorded answers of `model` by `kernels`, one a window: as stored, or floats.
pub fn golden_answers(golden: &Value, model: &str, kernels: &str, element: Element) -> Vec<Vec<f32>> {
    let answers = &golden["models"][model][kernels];
    let floats = if answers["values"].is_null() { "probabilities" } else { "values" };
    let kind = if element == Element::Float32 { floats } else { "raw" };
    answers[kind].as_array().unwrap().iter().map(numbers).collect()
}

/// The worst answer of `engine` to the reference windows, in parts of what the file of answers allows.
pub fn golden_disagreement(
    golden: &Value,
    features: &[Vec<f32>],
    (model, kernels): (&str, &str),
    engine: &mut dyn Engine,
) -> f32 {
    let info = engine.outputs()[0].clone();
    let answers = golden_answers(golden, model, kernels, info.element);
    assert_eq!(features.len(), answers.len());
    let part = |(features, answer): (&Vec<f32>, &Vec<f32>)| {
        let values = run(engine, features).remove(0);
        disagreement(&info, &values, answer, golden_tolerance(golden))
    };
    let parts = features.iter().zip(&answers).map(part);
    // Not `f32::max`, which drops NaN.
    parts.fold(0.0, |worst, part| if part <= worst { worst } else { part })
}

/// Bursts that fade, at random in time and channel: sound enough for the wake-word models to stir now and then.
pub fn bursts(channels: usize) -> impl FnMut() -> Vec<f32> {
    const LOUDEST: f32 = 25.5;
    let mut state = 2_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut levels = vec![0.0_f32; channels];
    move || {
        for level in &mut levels {
            let burst = if random() < 0.05 { LOUDEST * random() } else { 0.0 };
            *level = LOUDEST.min(0.9 * *level + burst);
        }
        levels.clone()
    }
}
