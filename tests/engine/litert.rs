//! LiteRT's engine on the real library: reference outputs, batches, state, and what it refuses.
//!
//! Needs what `make runtime` fetches; for 32-bit Arm there is no LiteRT.

use std::fs;
use std::path::{Path, PathBuf};

use edgewatt::engine::delegate::litert::Accelerator;
use edgewatt::engine::plan::StatePair;
use edgewatt::engine::{Element, Engine, EngineError, LitertEngine, ModelPlan};
use edgewatt::model::ModelSummary;
use edgewatt_support::root;
use edgewatt_support::vectors::{
    DEMO_MODELS, bursts, golden, golden_disagreement, golden_features, run, tiny, unusable_models,
};

fn library() -> PathBuf {
    let library = root().join("runtime").join(std::env::consts::ARCH).join("libLiteRt.so");
    assert!(library.exists(), "{} is missing: run `make runtime`", library.display());
    library
}

fn build(path: &Path, batch: usize) -> Result<LitertEngine, EngineError> {
    LitertEngine::new(&library(), path, &fs::read(path).unwrap(), &[Accelerator::Cpu], &ModelPlan::of_batch(batch))
}

fn refusal(path: &Path, batch: usize) -> String {
    build(path, batch).err().unwrap().to_string()
}

fn demo_model(name: &str) -> PathBuf {
    root().join("models").join(name)
}

fn wake_word(name: &str) -> PathBuf {
    root().join("runtime/models").join(name).with_extension("tflite")
}

#[test]
fn the_demo_models_answer_as_the_reference_does() {
    let golden = golden();
    let features = golden_features(&golden);
    for model in DEMO_MODELS {
        let mut engine = build(&demo_model(model), 1).unwrap();
        let worst = golden_disagreement(&golden, &features, (model, "xnnpack"), &mut engine);
        assert!(worst <= 1.0, "{model}: {worst} times what is allowed");
    }
}

#[test]
fn a_batch_gives_what_single_windows_give() {
    let features = golden_features(&golden());
    let features = &features[..4];
    for model in DEMO_MODELS {
        let mut single = build(&demo_model(model), 1).unwrap();
        let mut batch = build(&demo_model(model), 4).unwrap();
        assert_eq!((batch.batch(), &batch.outputs()[0].shape[..]), (4, &[4, 7][..]));
        assert_eq!(batch.inputs()[0].shape[0], 4);
        let expected: Vec<f32> = features.iter().flat_map(|window| run(&mut single, window).remove(0)).collect();
        let values = run(&mut batch, &features.concat()).remove(0);
        for (value, expected) in values.iter().zip(&expected) {
            assert!((value - expected).abs() <= 1e-6, "{model}: {value} for {expected}");
        }
    }
}

/// Their signature leaves the batch open (-1), of which LiteRT makes no buffer by itself.
#[test]
fn open_dimensions_are_fixed_and_outputs_keep_the_order_of_the_file() {
    for model in ["quantised_outputs", "outputs_in_another_order"] {
        let path = tiny(model);
        assert_eq!(ModelSummary::from_file(&path).unwrap().main.inputs[0].shape_signature, [-1, 4]);
        assert_eq!(build(&path, 1).unwrap().inputs()[0].shape, [1, 4]);
        let mut engine = build(&path, 2).unwrap();
        let described: Vec<_> =
            engine.outputs().iter().map(|o| (o.name.as_str(), o.element, o.scale, o.zero_point)).collect();
        let expected = [
            ("as_int16", Element::Int16, 1.0 / 1024.0, 0),
            ("as_uint8", Element::Uint8, 0.5, 128),
            ("as_int8", Element::Int8, 0.25, -3),
        ];
        assert_eq!(described, expected);
        let outputs = run(&mut engine, &[0.0, -2.0, 0.3, 7.9, 100.0, -100.0, 31.9, -0.1]);
        let top = 32767.0 / 1024.0;
        let int16 = [0.0, -2.0, 307.0 / 1024.0, 8090.0 / 1024.0, top, -32.0, 32666.0 / 1024.0, -102.0 / 1024.0];
        assert_eq!(outputs[0], int16, "{model}");
        assert_eq!(outputs[1], [0.0, -2.0, 0.5, 8.0, 63.5, -64.0, 32.0, 0.0], "{model}");
        assert_eq!(outputs[2], [0.0, -2.0, 0.25, 8.0, 32.5, -31.25, 32.0, 0.0], "{model}");
        assert_eq!(engine.output_bytes(3).unwrap_err().to_string(), "output 3 of 3");
    }
}

#[test]
fn inputs_of_each_integer_type_are_quantised() {
    for (model, element, held) in [
        ("int16_input", Element::Int16, [307.0 / 1024.0, -2.0, 32767.0 / 1024.0, -32.0]),
        ("uint8_input", Element::Uint8, [0.5, -2.0, 63.5, -64.0]),
    ] {
        let mut engine = build(&tiny(model), 1).unwrap();
        assert_eq!(engine.inputs()[0].element, element);
        assert_eq!(run(&mut engine, &[0.3, -2.0, 100.0, -100.0]), [held], "{model}");
    }
}

#[test]
fn a_stateful_model_keeps_its_state_until_it_is_reset() {
    for name in ["alexa", "hey_jarvis", "hey_mycroft", "okay_nabu"] {
        let mut engine = build(&wake_word(name), 1).unwrap();
        let [1, slices, channels] = engine.inputs()[0].shape[..] else { panic!("{name}: {:?}", engine.inputs()) };
        let mut slice = bursts(channels);
        let windows: Vec<Vec<f32>> = (0..400).map(|_| (0..slices).flat_map(|_| slice()).collect()).collect();
        let mut answers = |windows: &[Vec<f32>]| -> Vec<f32> {
            engine.reset().unwrap();
            windows.iter().map(|window| run(&mut engine, window)[0][0]).collect()
        };
        let whole = answers(&windows);
        let peak = (0..whole.len()).max_by(|a, b| whole[*a].total_cmp(&whole[*b])).unwrap();
        assert!(peak > 0, "{name} never stirred");
        // Its answer there hangs on what it heard before.
        assert_ne!(whole[peak], answers(&windows[peak..])[0], "{name} keeps no state");
        assert_eq!(whole, answers(&windows), "{name} remembers");
    }
}

#[test]
fn a_signature_and_an_open_input_are_run_as_planned() {
    let planned = |model: &str, plan: &ModelPlan| {
        let path = tiny(model);
        LitertEngine::new(&library(), &path, &fs::read(&path).unwrap(), &[Accelerator::Cpu], plan)
    };
    let infer = ModelPlan { signature: Some("infer".into()), ..ModelPlan::of_batch(1) };
    let mut engine = planned("two_signatures", &infer).unwrap();
    for _ in 0..2 {
        assert_eq!(run(&mut engine, &[1.0, 2.0, 3.0, 4.0]), [[1.5, 2.5, 3.5, 4.5]]);
    }
    let open = ModelPlan { dims: Some(vec![1, 3]), ..ModelPlan::of_batch(1) };
    assert_eq!(run(&mut planned("open_input", &open).unwrap(), &[1.0, 2.0, 3.0]), [[-1.0, -2.0, -3.0]]);
    let state = ModelPlan { fed: 1, states: vec![StatePair { input: 0, output: 1 }], ..ModelPlan::of_batch(1) };
    let refused = planned("state_pair", &state).err().unwrap().to_string();
    assert!(refused.ends_with("is not run by LiteRT; use another delegate"), "{refused}");
}

#[test]
fn a_model_without_state_may_be_reset() {
    let features = golden_features(&golden());
    let mut engine = build(&demo_model(DEMO_MODELS[1]), 1).unwrap();
    let before = run(&mut engine, &features[0]);
    engine.reset().unwrap();
    assert_eq!(run(&mut engine, &features[0]), before);
}

#[test]
fn what_edgewatt_cannot_feed_or_read_is_refused() {
    for (model, message) in unusable_models() {
        assert_eq!(refusal(&tiny(model), 1), message);
    }
}

#[test]
fn a_batch_that_the_model_cannot_take_is_refused_with_the_numbers() {
    assert!(build(&tiny("fixed_batch"), 1).is_ok() && build(&tiny("batch_in_one_row"), 1).is_ok());
    let fixed = refusal(&tiny("fixed_batch"), 8);
    assert!(fixed.contains("does not take batches of 8, an input of [8, 2, 2]"), "{fixed}");
    let one_row = refusal(&tiny("batch_in_one_row"), 8);
    assert_eq!(one_row, "with batches of 8 the model's output `y` is [1, 32]; its first dimension should be 8");
    assert_eq!(refusal(&tiny("scalar_input"), 8), "the model's input has no batch dimension");
    let huge = refusal(&tiny("quantised_outputs"), 1 << 40);
    assert!(huge.contains("a batch of 1099511627776 is too large"), "{huge}");
}

#[test]
fn an_operator_that_litert_lacks_is_a_refusal_of_the_model() {
    for (model, batch, says) in [
        ("custom_operator", 1, "its operator `frobnicate` is not in LiteRT and no accelerator takes it"),
        ("custom_operator", 8, "its operator `frobnicate` is not in LiteRT and no accelerator takes it"),
        ("later_operator", 1, "LiteRT cannot build it: "),
    ] {
        let error = build(&tiny(model), batch).err().unwrap();
        assert!(matches!(&error, EngineError::Model { reason, .. } if reason.starts_with(says)), "{model}: {error}");
    }
}

#[test]
fn a_model_cut_at_any_kilobyte_is_refused() {
    for model in DEMO_MODELS {
        let path = demo_model(model);
        let bytes = fs::read(&path).unwrap();
        for len in (0..bytes.len()).step_by(1024) {
            let error =
                LitertEngine::new(&library(), &path, &bytes[..len], &[Accelerator::Cpu], &ModelPlan::of_batch(1)).err();
            assert!(matches!(error, Some(EngineError::Model { .. })), "{model} cut at {len}: {error:?}");
        }
    }
}

#[test]
fn another_library_is_no_litert() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libLiteRt.so");
    fs::write(&text, "no library").unwrap();
    let classic = library().with_file_name("libtensorflowlite_c.so");
    let model = demo_model(DEMO_MODELS[1]);
    let bytes = fs::read(&model).unwrap();
    for (library, says) in [
        (classic.as_path(), "it is no LiteRT library, or one of another version: it has no LiteRtCreateEnvironment"),
        (Path::new("/nowhere/libLiteRt.so"), "/nowhere/libLiteRt.so"),
        (&text, "file too short"),
    ] {
        let error =
            LitertEngine::new(library, &model, &bytes, &[Accelerator::Cpu], &ModelPlan::of_batch(1)).err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, EngineError::Delegate { .. }) && text.contains(says), "{text}");
        assert!(text.contains(&library.display().to_string()), "{text}");
    }
}

#[test]
fn an_accelerator_that_is_not_there_is_refused_with_those_that_are() {
    let model = demo_model(DEMO_MODELS[1]);
    let bytes = fs::read(&model).unwrap();
    // A folder with nothing else in it, so that what somebody put beside the fetched library does not matter.
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("libLiteRt.so");
    fs::copy(library(), &alone).unwrap();
    let refused = |accelerators: &[Accelerator]| {
        let error = LitertEngine::new(&alone, &model, &bytes, accelerators, &ModelPlan::of_batch(1)).err().unwrap();
        assert!(matches!(error, EngineError::Delegate { .. }), "{error}");
        error.to_string()
    };
    for (accelerators, missing) in [
        (&[Accelerator::Npu][..], "npu"),
        (&[Accelerator::Cpu, Accelerator::Npu], "npu"),
        (&[Accelerator::Gpu, Accelerator::Cpu], "gpu"),
    ] {
        let says = format!("LiteRT finds no accelerator for `{missing}` here; it has cpu (CpuAccelerator)");
        let error = refused(accelerators);
        assert!(error.contains(&says), "{error}");
    }
    assert!(refused(&[]).contains("name at least one of cpu, gpu and npu"));
}

#[test]
fn it_says_what_is_accelerated_by_what() {
    let engine = build(&demo_model(DEMO_MODELS[0]), 1).unwrap();
    assert_eq!(engine.facts().accelerators, ["cpu (CpuAccelerator)"]);
    assert!(engine.facts().fully_accelerated);
    assert_eq!(engine.facts().fully_off_cpu, Some(false));
    // XNNPACK does not take its one operator.
    assert!(!build(&tiny("int16_input"), 1).unwrap().facts().fully_accelerated);
}
