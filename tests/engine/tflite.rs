//! The engine on the real runtime: reference outputs, batches, element types, refusals and damaged files.
//!
//! Needs the runtime and the wake-word models that `make runtime` fetches.

use std::fs;
use std::path::{Path, PathBuf};

use edgewatt::config::Config;
use edgewatt::engine::delegate::DelegateKind;
use edgewatt::engine::delegate::xnnpack::Xnnpack;
use edgewatt::engine::{self, Element, Engine, EngineError, ModelPlan, TfliteEngine};
use edgewatt::model::ModelSummary;
use edgewatt_support::demo;
use edgewatt_support::root;
use edgewatt_support::vectors::{
    CPU, DELEGATES, DEMO_MODELS, RUNTIME, XNNPACK, bursts, demo_config, disagreement, golden, golden_disagreement,
    golden_features, json, numbers, run, tiny, unusable_models,
};

fn build(path: &Path, delegate: &DelegateKind, batch: usize) -> Result<TfliteEngine, EngineError> {
    TfliteEngine::new(&RUNTIME, path, &fs::read(path).unwrap(), delegate, &ModelPlan::of_batch(batch))
}

/// The message of a refusal by every delegate, which is the same.
fn refusal(path: &Path, batch: usize) -> String {
    let [cpu, xnnpack] = [CPU, XNNPACK].map(|delegate| build(path, &delegate, batch).err().unwrap().to_string());
    assert_eq!(cpu, xnnpack);
    cpu
}

/// Why a configuration is refused, and at which key.
fn problem(config: &Config) -> (String, String) {
    let problems = demo::try_to_prepare(config).err().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    (problems[0].key.to_string(), problems[0].message.clone())
}

#[test]
fn the_demo_models_answer_as_the_reference_does() {
    let golden = golden();
    let features = golden_features(&golden);
    for model in DEMO_MODELS {
        for (delegate, _, kernels) in DELEGATES {
            let pipeline = demo::prepare(&demo_config(model, delegate));
            assert_eq!(golden["models"][model]["sha256"], pipeline.builder.model.sha256);
            let mut engine = pipeline.built.unwrap().engine;
            let worst = golden_disagreement(&golden, &features, (model, kernels), engine.as_mut());
            assert!(worst <= 1.0, "{model} by {delegate}: {worst} times what is allowed");
        }
    }
}

#[test]
fn the_models_of_the_machine_answer_as_the_reference_does() {
    let folder = root().join("models/machine");
    let golden = json(&folder.join("golden.json"));
    let inputs: Vec<Vec<f32>> = golden["inputs"].as_array().unwrap().iter().map(numbers).collect();
    assert_eq!(inputs.len(), 4);
    for model in ["machine_ae_fp32.tflite", "machine_ae_int8.tflite"] {
        let path = folder.join(model);
        for (delegate, kind, kernels) in DELEGATES {
            let mut engine = build(&path, &kind, 1).unwrap();
            let worst = golden_disagreement(&golden, &inputs, (model, kernels), &mut engine);
            assert!(worst <= 1.0, "{model} by {delegate}: {worst} times what is allowed");
        }
    }
}

#[test]
fn a_batch_gives_what_single_windows_give() {
    let features = golden_features(&golden());
    for model in DEMO_MODELS {
        let path = root().join("models").join(model);
        for (delegate, kind, _) in DELEGATES {
            let mut single = build(&path, &kind, 1).unwrap();
            let mut batch = build(&path, &kind, features.len()).unwrap();
            engine::check_input(batch.inputs(), 8, &demo_config(model, delegate).pipelines[0].shapes().unwrap().path)
                .unwrap();
            assert_eq!(batch.outputs()[0].shape, [8, 7]);
            let expected: Vec<f32> = features.iter().flat_map(|window| run(&mut single, window).remove(0)).collect();
            let values = run(&mut batch, &features.concat()).remove(0);
            for (value, expected) in values.iter().zip(&expected) {
                assert!((value - expected).abs() <= 1e-6, "{model} by {delegate}: {value} for {expected}");
            }
            let few = batch.set_input(0, &features[0][1..]).unwrap_err().to_string();
            assert!(few.contains("1199 values of") && few.contains("as row 0 of 8 in a tensor of"), "{few}");
            assert!(batch.set_input(8, &features[0]).is_err(), "there is no ninth row");
        }
    }
}

#[test]
fn a_batch_that_the_model_cannot_take_is_refused_with_the_numbers() {
    assert!(build(&tiny("fixed_batch"), &CPU, 1).is_ok() && build(&tiny("batch_in_one_row"), &CPU, 1).is_ok());
    let fixed = refusal(&tiny("fixed_batch"), 8);
    assert!(fixed.contains("does not take batches of 8, an input of [8, 2, 2]"), "{fixed}");
    let one_row = refusal(&tiny("batch_in_one_row"), 8);
    assert_eq!(one_row, "with batches of 8 the model's output `y` is [1, 32]; its first dimension should be 8");
    let scalar = refusal(&tiny("scalar_input"), 8);
    assert_eq!(scalar, "the model's input has no batch dimension");
}

/// The streaming models keep a state, take int8 and give uint8: what the demo's models lack.
#[test]
fn the_wake_word_models_run_and_repeat_themselves() {
    let folder = root().join("runtime/models");
    for name in ["alexa", "hey_jarvis", "hey_mycroft", "okay_nabu"] {
        let path = folder.join(name).with_extension("tflite");
        assert!(ModelSummary::from_file(&path).unwrap().stateful);
        for (delegate, kind, _) in DELEGATES {
            let mut engines = [build(&path, &kind, 1).unwrap(), build(&path, &kind, 1).unwrap()];
            let input = engines[0].inputs()[0].clone();
            assert_eq!((input.element, engines[0].outputs()[0].element), (Element::Int8, Element::Uint8));
            let [1, slices, channels] = input.shape[..] else { panic!("{name}: {input:?}") };
            let mut slice = bursts(channels);
            let mut highest = 0.0_f32;
            for step in 0..4000 {
                let features: Vec<f32> = (0..slices).flat_map(|_| slice()).collect();
                let [first, second] = engines.each_mut().map(|engine| run(engine, &features));
                assert_eq!(first, second, "{name} by {delegate}, step {step}");
                assert_eq!(first[0].len(), 1);
                assert!((0.0..=1.0).contains(&first[0][0]), "{name} by {delegate}: {first:?}");
                highest = highest.max(first[0][0]);
            }
            assert!(highest > 0.0, "{name} by {delegate} never stirred");
        }
    }
}

#[test]
fn several_outputs_of_each_integer_type_are_dequantised() {
    for (delegate, kind, _) in DELEGATES {
        let mut engine = build(&tiny("quantised_outputs"), &kind, 2).unwrap();
        let described: Vec<_> =
            engine.outputs().iter().map(|o| (o.name.as_str(), o.element, o.scale, o.zero_point)).collect();
        let expected = [
            ("as_int16", Element::Int16, 1.0 / 1024.0, 0),
            ("as_uint8", Element::Uint8, 0.5, 128),
            ("as_int8", Element::Int8, 0.25, -3),
        ];
        assert_eq!(described, expected);
        // The second window reaches both ends of every range.
        let [int16, uint8, int8] =
            run(&mut engine, &[0.0, -2.0, 0.3, 7.9, 100.0, -100.0, 31.9, -0.1]).try_into().unwrap();
        let top = 32767.0 / 1024.0;
        assert_eq!(int16, [0.0, -2.0, 307.0 / 1024.0, 8090.0 / 1024.0, top, -32.0, 32666.0 / 1024.0, -102.0 / 1024.0]);
        assert_eq!(uint8, [0.0, -2.0, 0.5, 8.0, 63.5, -64.0, 32.0, 0.0], "{delegate}");
        assert_eq!(int8, [0.0, -2.0, 0.25, 8.0, 32.5, -31.25, 32.0, 0.0], "{delegate}");

        let wrong = |message: Result<(), EngineError>| message.unwrap_err().to_string();
        assert_eq!(wrong(engine.output(3, 0, &mut [0.0; 8])), "output 3 of 3");
        let short = wrong(engine.output(0, 0, &mut [0.0; 3]));
        assert_eq!(short, "3 values of int16 as row 0 of 2 in a tensor of 16 bytes");
    }
}

#[test]
fn inputs_of_each_integer_type_are_quantised() {
    // What the model hands back is what its input held.
    for (model, element, values, held) in [
        ("int16_input", Element::Int16, [0.3, -2.0, 100.0, -100.0], [307.0 / 1024.0, -2.0, 32767.0 / 1024.0, -32.0]),
        ("uint8_input", Element::Uint8, [0.3, -2.0, 100.0, -100.0], [0.5, -2.0, 63.5, -64.0]),
    ] {
        for (delegate, kind, _) in DELEGATES {
            let mut engine = build(&tiny(model), &kind, 1).unwrap();
            assert_eq!(engine.inputs()[0].element, element);
            assert_eq!(run(&mut engine, &values), [held], "{model} by {delegate}");
        }
    }
}

#[test]
fn what_edgewatt_cannot_feed_or_read_is_refused() {
    for (model, message) in unusable_models() {
        assert_eq!(refusal(&tiny(model), 1), message);
    }
}

#[test]
fn an_operator_that_the_runtime_lacks_is_named() {
    let path = tiny("custom_operator");
    let custom = refusal(&path, 1);
    let reason = "its operator `frobnicate` is not in the runtime and no delegate takes it";
    assert_eq!(custom, format!("{}: {reason}", path.display()));
    let later = refusal(&tiny("later_operator"), 1);
    assert!(later.ends_with("its operators `UNKNOWN_4000` are newer than edgewatt and this runtime"), "{later}");
}

#[test]
fn a_config_that_does_not_fit_the_model_is_refused_with_both_numbers() {
    let mut config = demo_config("shoulder_int8.tflite", "xnnpack");
    config.pipelines[0].window.samples = 199;
    let (key, message) = problem(&config);
    assert_eq!(key, "pipelines.shoulder.window");
    for number in ["[1, 200, 1, 6]", "1200 values", "window [199, 6]", "[1, 199, 6]", "1194"] {
        assert!(message.contains(number), "{number} is not in: {message}");
    }

    let labels = tempfile::NamedTempFile::new().unwrap();
    fs::write(labels.path(), "PEN\nABD\nFEL\n").unwrap();
    let mut config = demo_config("shoulder_int8.tflite", "xnnpack");
    config.pipelines[0].labels = Some(labels.path().to_owned());
    let (key, message) = problem(&config);
    assert_eq!(key, "pipelines.shoulder.decision");
    assert!(message.contains("has 7 scores; the labels file has 3 labels"), "{message}");
}

/// Both readers refuse on their own: the engine is not shielded by the summary.
#[test]
fn a_model_cut_at_any_kilobyte_is_refused() {
    for model in DEMO_MODELS {
        let path = root().join("models").join(model);
        let bytes = fs::read(&path).unwrap();
        for len in (0..bytes.len()).step_by(1024) {
            let cut = &bytes[..len];
            assert!(ModelSummary::from_bytes(cut).is_err(), "{model} cut at {len}");
            for (delegate, kind, _) in DELEGATES {
                let error = TfliteEngine::new(&RUNTIME, &path, cut, &kind, &ModelPlan::of_batch(1)).err();
                let Some(EngineError::Model { reason, .. }) = error else {
                    panic!("{model} cut at {len} by {delegate}: {error:?}")
                };
                assert!(reason.starts_with("the runtime refuses it"), "{reason}");
            }
        }
    }
}

/// How far outputs may be from those of another version of the runtime that used XNNPACK: integers in steps, floats in
/// parts of the largest output.
fn reference_tolerance(summary: &ModelSummary, output: Element, delegate: &str) -> f32 {
    let float_weights = summary.weights.kernels.iter().all(|kernel| kernel.tensor.element.to_string() == "float32");
    match (output, delegate) {
        (Element::Float32, _) if float_weights => 1e-5,
        // int8 weights on float tensors: each version quantises what goes between in its own way.
        (Element::Float32, _) => 5e-2,
        (_, "xnnpack") => 1.0,
        // The runtime's own kernels round at each layer, otherwise than XNNPACK.
        _ => 4.0,
    }
}

/// Models and `*.golden.json` in the folder that EDGEWATT_REFERENCE_MODELS names: seeded inputs and the outputs of
/// another runtime, in the model's own type.
#[test]
fn reference_models_agree_where_there_are_some() {
    let Some(folder) = std::env::var_os("EDGEWATT_REFERENCE_MODELS").map(PathBuf::from) else {
        eprintln!("skipped: EDGEWATT_REFERENCE_MODELS names no folder");
        return;
    };
    let paths = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let goldens: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(".golden.json")).collect();
    assert!(!goldens.is_empty(), "{} has no *.golden.json", folder.display());
    for path in goldens {
        let golden = json(&path);
        let model = folder.join(golden["model"].as_str().unwrap());
        let summary = ModelSummary::from_file(&model).unwrap();
        for (delegate, kind, _) in DELEGATES {
            let mut engine = build(&model, &kind, 1).unwrap();
            let (input, output) = (engine.inputs()[0].clone(), engine.outputs()[0].clone());
            let allowed = reference_tolerance(&summary, output.element, delegate);
            for (index, case) in golden["cases"].as_array().unwrap().iter().enumerate() {
                let mut features = numbers(&case["input"]);
                if input.element != Element::Float32 {
                    features.iter_mut().for_each(|q| *q = input.scale * (*q - input.zero_point as f32));
                }
                let values = run(&mut engine, &features).remove(0);
                let expected = numbers(&case["output"]);
                let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                let worst = disagreement(&output, &values, &expected, [0.0, allowed * largest]);
                let parts = if output.element == Element::Float32 { worst } else { worst / allowed };
                eprintln!("{} by {delegate}, case {index}: {parts:.3} of what is allowed", model.display());
                assert!(parts <= 1.0);
            }
        }
    }
}

/// What a flag changes is the processor's and XNNPACK's business; that it is taken shows in the answers being right.
#[test]
fn xnnpack_takes_its_flags() {
    use edgewatt::engine::delegate::xnnpack::XnnpackFlag::*;
    let golden = golden();
    let features = golden_features(&golden);
    for flag in [DynamicFullyConnected, VariableOperators, TransientIndirectionBuffer, EnableLatestOperators] {
        let kind = DelegateKind::Xnnpack(Xnnpack { threads: 2, flags: vec![flag] });
        let mut engine = build(&root().join("models/shoulder_int8.tflite"), &kind, 1).unwrap();
        let worst = golden_disagreement(&golden, &features, ("shoulder_int8.tflite", "xnnpack"), &mut engine);
        assert!(worst <= 1.0, "{flag:?}: {worst} times what is allowed");
    }
}
