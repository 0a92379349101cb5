//! Models of odd shapes and with several entry points, from samples to outputs; and why others are refused.

use std::time::Duration;

use edgewatt::config::{Config, Document};
use edgewatt::engine::process::ProcessLimits;
use edgewatt::source::Gap;
use edgewatt::units::MonoTime;
use edgewatt_support::demo::{self, Rig};
use edgewatt_support::{root, runtime_library};

/// A pipeline that publishes the outputs of a tiny model; `model` are keys of its table, `pipeline` of the pipeline's.
pub(crate) fn config(model: &str, channels: usize, samples: usize, model_keys: &str, pipeline: &str) -> Config {
    let names: Vec<String> = (0..channels).map(|channel| format!("\"c{channel}\"")).collect();
    let path = root().join("tests/models").join(model).with_extension("tflite");
    let text = format!(
        "version = 1\n[mqtt]\nbroker = \"none\"\n[pipelines.p]\nwindow = {{ samples = {samples}, hop = {samples} }}\n{pipeline}\n\
         [pipelines.p.source.lines]\nfrom = \"stdin\"\n[pipelines.p.source.lines.records]\nchannels = [{}]\nrate_hz = 10.0\n\
         [pipelines.p.model]\npath = \"{}\"\n{model_keys}\n",
        names.join(", "),
        path.display(),
    );
    let mut config = Document::new("test.toml", text).parse(Some("test")).unwrap_or_else(|e| panic!("{e}"));
    config.runtime_library.get_or_insert_with(runtime_library);
    config
}

/// The values published for each window of the stream 1, 2, 3 ..., of which a gap is before the sample `gap`.
pub(crate) fn published(config: &Config, samples: usize, gap: Option<usize>) -> Vec<Vec<f32>> {
    let Rig { mut feed, mut infer, mut decisions, .. } = demo::pipeline(config);
    let channels = config.pipelines[0].source.kind().spec().frame.values();
    let mut all = Vec::new();
    for sample in 0..samples {
        let values: Vec<f32> = (1..=channels).map(|channel| (sample * channels + channel) as f32).collect();
        if gap == Some(sample) {
            feed.cut(Gap::Interrupted);
        }
        assert!(feed.frames(&values, MonoTime::now(), None).is_continue());
        infer.drain();
        while let Some(values) = decisions.pop(|_, first, second| [first, second].concat()) {
            all.push(values);
        }
    }
    all
}

pub(crate) fn refusal(config: &Config) -> String {
    let problems = demo::try_to_prepare(config).err().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    format!("{}: {}", problems[0].key, problems[0].message)
}

#[test]
fn windows_of_a_model_that_keeps_a_state_neither_overlap_nor_leave_samples_out() {
    let pair = "state = { state_in = \"state_out\" }";
    let alexa = root().join("runtime/models/alexa").display().to_string();
    for (model, channels, samples, keys) in [("state_pair", 2, 2, pair), (alexa.as_str(), 40, 3, "")] {
        let refused = |hop: usize| {
            let mut config = config(model, channels, samples, keys, RAW);
            config.pipelines[0].window.hop = hop;
            demo::try_to_prepare(&config).err().map(|problems| format!("{}: {}", problems[0].key, problems[0].message))
        };
        for hop in [samples - 1, samples + 1] {
            let said = refused(hop).unwrap();
            let wanted = format!("hop = {hop}, and a window has {samples} samples; the model keeps a state");
            assert!(said.starts_with("pipelines.p.window.hop: ") && said.contains(&wanted), "{said}");
        }
        assert_eq!(refused(samples), None);
    }
}

const RAW: &str = "decision.raw = {}";

#[test]
fn an_open_input_becomes_as_long_as_the_window() {
    for samples in [2, 5] {
        let expected: Vec<f32> = (1..=samples).map(|value| -(value as f32)).collect();
        for delegate in ["cpu", "xnnpack"] {
            let keys = format!("{RAW}\ndelegate = \"{delegate}\"");
            let all = published(&config("open_input", 1, samples, "", &keys), samples, None);
            assert_eq!(all, std::slice::from_ref(&expected));
        }
    }
}

#[test]
fn a_model_that_wants_channels_first_gets_them_first() {
    let config = config("channels_first", 2, 3, "", RAW);
    assert_eq!(published(&config, 3, None), [[-1.0, -3.0, -5.0, -2.0, -4.0, -6.0]]);
    let path = demo::prepare(&config).builder.path.to_string();
    assert_eq!(path, "source.lines [2] -> window [3, 2] -> features.transpose [2, 3]");
}

#[test]
fn windows_that_change_each_others_outputs_do_not_go_through_a_model_together() {
    let limits = ProcessLimits {
        start: Duration::from_secs(60),
        deadline: Duration::from_secs(60),
        memory_bytes: 4 << 30,
        writable: Vec::new(),
    };
    for (delegate, process) in [("cpu", None), ("xnnpack", None), ("cpu", Some(limits))] {
        let of_batch = |batch: usize| {
            let keys = format!("{RAW}\ndelegate = \"{delegate}\"\nbatch = {{ max = {batch}, wait_ms = 1.0 }}");
            let mut config = config("mean_over_batch", 2, 2, "", if batch == 1 { RAW } else { &keys });
            config.pipelines[0].delegates[0].process.clone_from(&process);
            config
        };
        assert_eq!(published(&of_batch(1), 2, None), [[0.0; 4]]);
        let refused = refusal(&of_batch(2));
        let why = "with batches of 2 the model's output `y` for a window depends on the other windows of its batch";
        assert!(refused.ends_with(&format!("{why}; set batch.max = 1")), "{refused}");
    }
}

#[test]
fn an_input_is_fed_by_its_values_if_their_order_is_clear() {
    // [1, 2, 2] from windows of [4, 1], [1, 4] and [2, 2].
    for (channels, samples) in [(1, 4), (4, 1), (2, 2)] {
        let config = config("batch_in_one_row", channels, samples, "", RAW);
        assert_eq!(published(&config, samples, None), [[1.0, 2.0, 3.0, 4.0]], "{channels}");
    }
    let refused = refusal(&config("channels_first", 1, 5, "", RAW));
    assert!(
        refused.starts_with(
            "pipelines.p.window: the model's input `x` is [1, 2, 3], which is 6 values; it gets [1, 5, 1]"
        )
    );
}

#[test]
fn the_signature_that_changes_no_variables_is_run_unless_another_is_named() {
    // The variable starts as 0.5.
    let infer = [[1.5, 2.5, 3.5, 4.5], [5.5, 6.5, 7.5, 8.5]];
    let adapt = [[1.5, 2.5, 3.5, 4.5], [6.5, 8.5, 10.5, 12.5]];
    for (key, expected) in [("", infer), ("signature = \"infer\"", infer), ("signature = \"adapt\"", adapt)] {
        for delegate in ["cpu", "xnnpack"] {
            let keys = format!("{RAW}\ndelegate = \"{delegate}\"");
            assert_eq!(
                published(&config("two_signatures", 4, 1, key, &keys), 2, None),
                expected,
                "{key} by {delegate}"
            );
        }
    }
    assert_eq!(
        refusal(&config("two_signatures", 4, 1, "signature = \"run\"", RAW)),
        "pipelines.p.model.signature: the model has no signature of that name; it has `adapt`, `infer`"
    );
    let none = refusal(&config("wide", 640, 1, "signature = \"run\"", RAW));
    assert!(none.ends_with("the model has no signatures; leave the key out"), "{none}");
}

#[test]
fn a_state_of_another_kind_is_refused_with_both_kinds() {
    let refused = refusal(&config("normalised_state", 2, 2, "state = { x = \"y\" }", RAW));
    let kinds = "the output `y` is [1, 4] float32, and the input `x` is [1, 4] uint8 of scale 0.5, zero point 128";
    assert!(refused.contains(kinds) && refused.contains("convert the model with"), "{refused}");
}

#[test]
fn the_metadatas_normalisation_is_that_of_the_input_that_gets_the_windows() {
    let state = "state = { state_in = \"state_out\" }";
    let fitting = config("normalised_state", 2, 2, state, RAW);
    assert_eq!(published(&fitting, 2, None)[0][..4], [-64.0; 4], "1 to 4 are far below the mean of 1000");
    let pair = config("normalised_state", 1, 4, state, RAW);
    let notes = |config: &Config| {
        let prepared = demo::prepare(config);
        (prepared.notes.join("\n"), prepared.warnings.join("\n"))
    };
    let (done, not_done) =
        ("mean [1000.0, 1000.0] and std [2.0, 2.0]: done", "the normalisation of the model's metadata is not done");
    let (said, warned) = notes(&fitting);
    assert!(said.contains(done) && !warned.contains(not_done), "{said}\n{warned}");
    let (said, warned) = notes(&pair);
    assert!(!said.contains("done as") && warned.contains(not_done), "{said}\n{warned}");
}

#[test]
fn a_state_goes_from_an_output_back_to_an_input_until_a_gap() {
    let state = "state = { state_in = \"state_out\" }";
    let config = |keys: &str| config("state_pair", 4, 1, keys, RAW);
    // y = x + state, then the next state = y + state.
    let first = [1.0, 2.0, 3.0, 4.0];
    let windows = published(&config(state), 3, None);
    assert_eq!(windows[0], [first, first].concat());
    assert_eq!(windows[1], [6.0, 8.0, 10.0, 12.0, 7.0, 10.0, 13.0, 16.0]);
    assert_eq!(windows[2][..4], [9.0 + 7.0, 10.0 + 10.0, 11.0 + 13.0, 12.0 + 16.0]);
    let after_a_gap = published(&config(state), 2, Some(1));
    assert_eq!(after_a_gap[1][..4], [5.0, 6.0, 7.0, 8.0], "the state is 0 again");

    let refused = refusal(&config(""));
    assert!(
        refused.starts_with("pipelines.p.model.state: the model has 2 inputs without a state: `state_in`, `x`"),
        "{refused}"
    );
    let unknown = refusal(&config("state = { state_in = \"nothing\" }"));
    assert!(unknown.ends_with("the model has no output `nothing`; it has `y`, `state_out`"), "{unknown}");
    let mut batched = config(state);
    batched.pipelines[0].batch.max = 2;
    assert!(refusal(&batched).starts_with("pipelines.p.batch.max: the model's state goes from one window to the next"));
}

#[test]
fn outputs_that_are_not_used_may_be_of_any_type() {
    let config = |keys: &str| config("other_outputs", 4, 1, "", keys);
    // Minus the values, and the index of the highest.
    assert_eq!(
        published(&config("decision.raw = { outputs = [0, 1, 3] }"), 1, None),
        [[-1.0, -2.0, -3.0, -4.0, 3.0, 1.0, 1.0, 1.0, 1.0]]
    );
    let complex = refusal(&config("decision.raw = { outputs = [0, 2] }"));
    assert!(
        complex
            .contains("pipelines.p.decision: the model's output `as_complex` is of a type that edgewatt does not read")
    );
    let open = refusal(&config("decision.raw = { outputs = [4] }"));
    assert!(open.contains("the model's output `places` has a size that is known only after an inference"), "{open}");
    let missing = refusal(&config("decision.raw = { outputs = [5] }"));
    assert!(missing.contains("output = 5, but the model's outputs are 0 to 4"), "{missing}");
}

#[test]
fn a_model_without_a_batch_dimension_takes_no_batch() {
    let one = config("scalar_input", 1, 1, "", RAW);
    assert_eq!(published(&one, 2, None), [[-1.0], [-2.0]]);
    let mut two = config("scalar_input", 1, 1, "", RAW);
    two.pipelines[0].batch.max = 2;
    let refused = refusal(&two);
    assert_eq!(
        refused,
        "pipelines.p.batch.max: the model's input is [], which has no batch dimension; set batch.max = 1"
    );
}

#[test]
fn an_operator_that_the_runtime_lacks_is_named_at_the_models_key() {
    let refused = refusal(&config("custom_operator", 4, 1, "", RAW));
    assert!(refused.starts_with("pipelines.p.model.path: "), "{refused}");
    assert!(refused.contains("its operator `frobnicate` is not in the runtime and no delegate takes it"), "{refused}");
}

/// A calibration of one window length must not count for another.
#[test]
fn the_shape_that_the_window_gives_an_open_input_is_known_and_a_fixed_one_is_not_told() {
    let shape = |config: &Config| demo::prepare(config).builder.model.chosen_shape();
    assert_eq!(shape(&config("open_input", 1, 5, "", RAW)), Some(vec![1, 5]));
    assert_eq!(shape(&config("channels_first", 2, 3, "", RAW)), None);
    let mut batched = config("quantised_outputs", 4, 1, "", RAW);
    batched.pipelines[0].batch.max = 3;
    assert_eq!(shape(&batched), None, "the batch is a value of its own");
}

/// A window of 4 samples of the channels c0, c1 and c2, of which two inputs get parts.
fn two_parts(inputs: &str, pipeline: &str) -> Config {
    config("motion_and_temperature", 3, 4, &format!("inputs = {{ {inputs} }}"), pipeline)
}

const PARTS: &str = "motion = [\"c2\", \"c0\"], temperature = [\"c1\"]";

#[test]
fn each_of_two_inputs_gets_its_channels_in_its_own_type() {
    // The samples are 1 2 3, 4 5 6, 7 8 9, 10 11 12: the last temperature is 11.
    let motion = [-3.0, -1.0, -6.0, -4.0, -9.0, -7.0, -12.0, -10.0];
    let next = motion.map(|value: f32| value - 12.0);
    let limits = ProcessLimits {
        start: Duration::from_secs(60),
        deadline: Duration::from_secs(60),
        memory_bytes: 4 << 30,
        writable: Vec::new(),
    };
    for (delegate, process) in [("cpu", None), ("xnnpack", None), ("cpu", Some(limits))] {
        for batch in [1, 2] {
            let keys = format!("{RAW}\ndelegate = \"{delegate}\"\nbatch = {{ max = {batch}, wait_ms = 60000.0 }}");
            let mut config = two_parts(PARTS, &keys);
            config.pipelines[0].delegates[0].process.clone_from(&process);
            let wanted = [[&motion[..], &[11.0]].concat(), [&next[..], &[23.0]].concat()];
            assert_eq!(published(&config, 8, None), wanted, "{delegate}, batches of {batch}");
        }
    }
    // What keeps the channels may come before.
    let scaled =
        published(&two_parts(PARTS, &format!("{RAW}\nfeatures = [{{ scale = {{ factor = [2.0] }} }}]")), 4, None);
    assert_eq!(scaled, [[&motion.map(|value| 2.0 * value)[..], &[22.0]].concat()]);
    let path = demo::prepare(&two_parts(PARTS, RAW)).builder.path.to_string();
    assert_eq!(path, "source.lines [3] -> window [4, 3] -> model.inputs [9]");
}

#[test]
fn two_inputs_are_compared_with_the_reference_as_one_window() {
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("recording.csv");
    let lines: String = (0..40).map(|n| format!("{n},{},{}\n", n % 7, n % 5)).collect();
    std::fs::write(&recording, format!("c0,c1,c2\n{lines}")).unwrap();
    let keys = format!("{RAW}\nparity = {{ windows = 5, recording = {recording:?} }}");
    let built = demo::prepare(&two_parts(PARTS, &keys)).built.unwrap();
    let parity = built.state.proof.parity.unwrap();
    assert_eq!((parity.windows, parity.difference), (5, 0.0));
}

#[test]
fn parts_that_do_not_fit_are_refused_by_the_names_of_both_sides() {
    for (inputs, pipeline, expected) in [
        (
            "",
            RAW,
            "pipelines.p.model.state: the model has 2 inputs without a state: `motion`, `temperature`. If each gets channels",
        ),
        (
            "motion = [\"c0\", \"c1\"]",
            RAW,
            "pipelines.p.model.inputs: the model's input `temperature` gets nothing; name its channels, too",
        ),
        (
            "motoin = [\"c0\"]",
            RAW,
            "pipelines.p.model.inputs: the model has no input `motoin`; it has `motion`, `temperature`",
        ),
        (
            "motion = [\"c0\", \"cx\"], temperature = [\"c1\"]",
            RAW,
            "pipelines.p.model.inputs: the input `motion` names `cx`, and the stream has the channels c0, c1, c2",
        ),
        (
            "motion = [\"c0\", \"c1\", \"c2\"], temperature = [\"c1\"]",
            RAW,
            "pipelines.p.model.inputs: the model's input `motion` is [?, 4, 2]; it gets 3 channels of 4 samples, or of the last ones",
        ),
        (
            PARTS,
            "decision.raw = {}\nfeatures = [\"transpose\"]",
            "pipelines.p.model.inputs: several inputs take channels of a window of [samples, 3]",
        ),
        ("temperature = []", RAW, "pipelines.p.model.inputs: the model's input `motion` gets nothing"),
    ] {
        let refused = refusal(&two_parts(inputs, pipeline));
        assert!(refused.starts_with(expected), "{inputs}: {refused}");
    }
}
