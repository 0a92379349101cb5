//! The engine on the linked runtime: the vectors of tests/engine/tflite.rs, and the loaded runtime beside it, byte for byte.
//!
//! A binary of its own, since it needs the feature `tflitec`; `make test-tflitec` builds and runs it. Both runtimes are
//! the library that `make runtime` fetches.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use edgewatt::engine::delegate::DelegateKind;
use edgewatt::engine::delegate::external::External;
use edgewatt::engine::delegate::litert::{Accelerator, Litert};
use edgewatt::engine::delegate::xnnpack::{Xnnpack, XnnpackFlag};
use edgewatt::engine::{Element, Engine, EngineError, ModelPlan, TfliteEngine, TflitecEngine};
use edgewatt::model::ModelSummary;
use edgewatt_support::demo;
use edgewatt_support::root;
use edgewatt_support::vectors::{
    CPU, DELEGATES, DEMO_MODELS, RUNTIME, bursts, disagreement, golden, golden_answers, golden_features,
    golden_tolerance, run, tiny,
};

fn linked(path: &Path, delegate: &DelegateKind, batch: usize) -> Result<TflitecEngine, EngineError> {
    TflitecEngine::new(path, &fs::read(path).unwrap(), delegate, &ModelPlan::of_batch(batch))
}

fn loaded(path: &Path, delegate: &DelegateKind, batch: usize) -> Result<TfliteEngine, EngineError> {
    TfliteEngine::new(&RUNTIME, path, &fs::read(path).unwrap(), delegate, &ModelPlan::of_batch(batch))
}

fn demo_model(name: &str) -> std::path::PathBuf {
    root().join("models").join(name)
}

/// Every output's bytes after one invocation.
fn raw(engine: &mut dyn Engine, features: &[f32]) -> Vec<Vec<u8>> {
    run(engine, features);
    (0..engine.outputs().len()).map(|index| engine.output_bytes(index).unwrap().to_vec()).collect()
}

#[test]
fn the_demo_models_answer_as_the_reference_and_the_loaded_runtime_do() {
    let golden = golden();
    let features = golden_features(&golden);
    for model in DEMO_MODELS {
        for (delegate, kind, kernels) in DELEGATES {
            let path = demo_model(model);
            let [mut engine, mut other]: [Box<dyn Engine>; 2] =
                [Box::new(linked(&path, &kind, 1).unwrap()), Box::new(loaded(&path, &kind, 1).unwrap())];
            assert_eq!((engine.inputs(), engine.outputs()), (other.inputs(), other.outputs()));
            let info = engine.outputs()[0].clone();
            let answers = golden_answers(&golden, model, kernels, info.element);
            // XNNPACK has kernels of its own for each processor, and rounds a step apart.
            let allowed = if info.element != Element::Float32 && delegate == "cpu" { 0.0 } else { 1.0 };
            for (window, features) in features.iter().enumerate() {
                let values = run(engine.as_mut(), features).remove(0);
                let worst = disagreement(&info, &values, &answers[window], golden_tolerance(&golden));
                assert!(worst <= allowed, "{model} by {delegate}, window {window}: {worst} times what is allowed");
                assert_eq!(raw(engine.as_mut(), features), raw(other.as_mut(), features), "{model} by {delegate}");
            }
        }
    }
}

#[test]
fn a_batch_gives_what_single_windows_give() {
    let features = golden_features(&golden());
    for model in DEMO_MODELS {
        for (delegate, kind, _) in DELEGATES {
            let [mut single, mut batch] = [1, 8].map(|batch| linked(&demo_model(model), &kind, batch).unwrap());
            assert_eq!(batch.outputs()[0].shape, [8, 7]);
            for (row, window) in features.iter().enumerate() {
                batch.set_input(row, window).unwrap();
            }
            batch.invoke().unwrap();
            for (row, window) in features.iter().enumerate() {
                let mut values = [0.0; 7];
                batch.output(0, row, &mut values).unwrap();
                for (value, expected) in values.iter().zip(&run(&mut single, window)[0]) {
                    assert!((value - expected).abs() <= 1e-6, "{model} by {delegate}: {value} for {expected}");
                }
            }
        }
    }
}

#[test]
fn a_stateful_model_keeps_its_state_until_it_is_reset() {
    let folder = root().join("runtime/models");
    for name in ["alexa", "hey_jarvis", "hey_mycroft", "okay_nabu"] {
        let path = folder.join(name).with_extension("tflite");
        assert!(ModelSummary::from_file(&path).unwrap().stateful);
        for (delegate, kind, _) in DELEGATES {
            let mut engine = linked(&path, &kind, 1).unwrap();
            let mut other = loaded(&path, &kind, 1).unwrap();
            assert_eq!((engine.inputs(), engine.outputs()), (other.inputs(), other.outputs()));
            let [1, slices, channels] = engine.inputs()[0].shape[..] else { panic!("{name}: {:?}", engine.inputs()) };
            let mut slice = bursts(channels);
            let windows: Vec<Vec<f32>> = (0..500).map(|_| (0..slices).flat_map(|_| slice()).collect()).collect();
            let first: Vec<_> = windows.iter().map(|window| raw(&mut engine, window)).collect();
            let beside: Vec<_> = windows.iter().map(|window| raw(&mut other, window)).collect();
            assert!(first == beside, "{name} by {delegate} differs from the loaded runtime");
            assert!(first.iter().any(|outputs| *outputs != first[0]), "{name} by {delegate} never stirred");

            let carried: Vec<_> = windows.iter().map(|window| raw(&mut engine, window)).collect();
            assert!(carried != first, "{name} by {delegate} kept nothing");
            engine.reset().unwrap();
            let again: Vec<_> = windows.iter().map(|window| raw(&mut engine, window)).collect();
            assert!(again == first, "{name} by {delegate} kept something over a reset");
        }
    }
}

#[test]
fn each_element_type_is_described_written_and_read_as_by_the_loaded_runtime() {
    for (model, batch) in [("quantised_outputs", 2), ("int16_input", 1), ("uint8_input", 1), ("int32_output", 1)] {
        for (delegate, kind, _) in DELEGATES {
            let mut engine = linked(&tiny(model), &kind, batch).unwrap();
            let mut other = loaded(&tiny(model), &kind, batch).unwrap();
            assert_eq!((engine.inputs(), engine.outputs()), (other.inputs(), other.outputs()));
            // Both ends of every range and ties, as many as the input takes.
            let values = [0.3, -2.0, 100.0, -100.0, 0.0, 7.9, 31.9, -0.1];
            let features: Vec<f32> = values.into_iter().cycle().take(engine.inputs()[0].len()).collect();
            assert_eq!(raw(&mut engine, &features), raw(&mut other, &features), "{model} by {delegate}");
            let outputs = engine.outputs().len();
            let error = engine.output_bytes(outputs).unwrap_err().to_string();
            assert_eq!(error, format!("output {outputs} of {outputs}"));
        }
    }
    let mut engine = linked(&tiny("int16_input"), &CPU, 1).unwrap();
    assert_eq!((engine.inputs()[0].scale, engine.inputs()[0].zero_point), (1.0 / 1024.0, 0));
    assert_eq!(run(&mut engine, &[0.3, -2.0, 100.0, -100.0]), [[307.0 / 1024.0, -2.0, 32767.0 / 1024.0, -32.0]]);
}

/// In the words of the loaded runtime, but for the status, which the crate does not tell.
#[test]
fn what_cannot_be_run_is_refused_as_by_the_loaded_runtime() {
    let models = [
        ("two_inputs", 1),
        ("no_outputs", 1),
        ("int32_input", 1),
        ("unquantised_int8", 1),
        ("custom_operator", 1),
        ("later_operator", 1),
        ("batch_in_one_row", 8),
        ("scalar_input", 8),
        ("fixed_batch", 8),
    ];
    for (model, batch) in models {
        for (delegate, kind, _) in DELEGATES {
            let error = linked(&tiny(model), &kind, batch).err().unwrap().to_string();
            let expected = loaded(&tiny(model), &kind, batch).err().unwrap().to_string();
            let expected = expected.replace("its status is `error`", "it gives no reason");
            assert_eq!(error, expected, "{model} by {delegate}");
        }
    }
}

#[test]
fn a_damaged_model_is_an_error() {
    for model in DEMO_MODELS {
        let path = demo_model(model);
        let bytes = fs::read(&path).unwrap();
        for len in (0..bytes.len()).step_by(1024) {
            for (delegate, kind, _) in DELEGATES {
                let error = TflitecEngine::new(&path, &bytes[..len], &kind, &ModelPlan::of_batch(1)).err();
                let Some(EngineError::Model { reason, .. }) = error else {
                    panic!("{model} cut at {len} by {delegate}: {error:?}")
                };
                assert!(reason.starts_with("the runtime refuses it"), "{reason}");
            }
        }
    }
}

/// The crate would panic when it looks at the tensor.
#[test]
fn a_tensor_whose_name_is_not_utf8_is_an_error() {
    let path = demo_model(DEMO_MODELS[1]);
    let bytes = fs::read(&path).unwrap();
    let summary = ModelSummary::from_bytes(&bytes).unwrap();
    for name in [&summary.main.inputs[0].name, &summary.main.outputs[0].tensor.name] {
        let mut bytes = bytes.clone();
        let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
        bytes[at] = 0xff;
        let error = TflitecEngine::new(&path, &bytes, &CPU, &ModelPlan::of_batch(1)).err().unwrap().to_string();
        assert!(error.contains("is not UTF-8") && error.contains(&name[1..]), "{error}");
    }
}

#[test]
fn what_the_crate_cannot_attach_is_refused_with_the_mend() {
    let path = demo_model(DEMO_MODELS[1]);
    let library = || "libedgetpu.so.1".into();
    for (kind, named) in [
        (DelegateKind::External(External { library: library(), options: BTreeMap::new() }), "libedgetpu.so.1"),
        (DelegateKind::Litert(Litert { library: library(), accelerators: vec![Accelerator::Cpu] }), "libedgetpu.so.1"),
        (DelegateKind::Xnnpack(Xnnpack { threads: 1, flags: vec![XnnpackFlag::ForceFp16] }), "xnnpack"),
    ] {
        let error = linked(&path, &kind, 1).err();
        let Some(EngineError::Delegate { delegate, reason }) = error else { panic!("{kind:?}: {error:?}") };
        assert_eq!(delegate, named);
        assert!(reason.contains("linked runtime") && reason.contains("name a library"), "{reason}");
    }
}

/// The word in the configuration reaches the engine, and before that the process that tries the model.
#[test]
fn the_configuration_selects_it() {
    let runtime = "\n[runtime]\nlibrary = \"linked\"\n\n[mqtt]\n";
    let prepared = demo::try_to_prepare(&demo::config(&[("\n[mqtt]\n", runtime)]));
    let mut prepared = prepared.unwrap_or_else(|problems| panic!("{problems:?}"));
    let runs_on = &prepared.engine_context.runtime;
    assert_eq!((runs_on.is_linked(), &runs_on.version), (true, &RUNTIME.version));
    let mut engine = prepared.pipelines.remove(0).built.unwrap().engine;
    let mut beside = linked(&demo_model("shoulder_int8.tflite"), &DELEGATES[1].1, 1).unwrap();
    let window = &golden_features(&golden())[0];
    assert_eq!(raw(engine.as_mut(), window), raw(&mut beside, window));

    let external = format!("\n[delegates.tpu]\nexternal = {{ library = \"libedgetpu.so.1\" }}\n{runtime}");
    let config = demo::config(&[("\n[mqtt]\n", &external), ("delegate = \"xnnpack\"", "delegate = \"tpu\"")]);
    let problems = demo::try_to_prepare(&config).err().unwrap();
    let message = "the linked runtime (runtime.library = \"linked\") runs cpu and xnnpack only";
    assert!(problems.len() == 1 && problems[0].message.contains(message), "{problems:?}");
}
