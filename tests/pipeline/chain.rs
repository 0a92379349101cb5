//! Models that run one after the other: windows of what the model before gives, gaps, busy spans, and why some are refused.

use edgewatt::config::Config;
use edgewatt::infer::doubts::{DoubtCounts, Doubts};
use edgewatt::units::MonoTime;
use edgewatt_support::demo::{self, Rig};
use edgewatt_support::root;

use crate::models::{config, published, refusal};

/// A pipeline whose last model gives its windows of `samples` values back with the other sign, after `models`.
fn chained(models: &str, samples: usize) -> Config {
    config("open_input", 1, samples, "", &format!("decision.raw = {{}}\nmodels = [{models}]"))
}

/// A model that gives its windows of `samples` values back with the other sign, as `output`.
fn negation(samples: usize, hop: usize, output: &str) -> String {
    let path = root().join("tests/models/open_input.tflite");
    format!("{{ path = \"{}\", window = {{ samples = {samples}, hop = {hop} }}, output = {output} }}", path.display())
}

#[test]
fn each_model_takes_windows_of_what_the_one_before_gives() {
    // 1 2 3 4 5 6 7 becomes [1 2] [2 3] .. by the first, [-1 -2 -2] [-2 -3 -3] .. by the second, and so on.
    let models = [negation(2, 1, "[2, 1]"), negation(3, 3, "[3, 1]")].join(", ");
    let mut config = chained(&models, 4);
    config.pipelines[0].window.hop = 2;
    let pairs: Vec<f32> = (1..=6).flat_map(|start| [start as f32, start as f32 + 1.0]).collect();
    let expected: Vec<Vec<f32>> =
        pairs.windows(4).step_by(2).map(|window| window.iter().map(|v| -v).collect()).collect();
    assert_eq!(published(&config, 7, None), expected);
    let path = demo::prepare(&config).builder.path.to_string();
    let wanted = "source.lines [1] -> models.0.window [2, 1] -> models.0 [2, 1] -> models.1.window [3, 1] -> \
                  models.1 [3, 1] -> window [4, 1]";
    assert_eq!(path, wanted);
}

#[test]
fn one_frame_of_several_values_is_a_frame() {
    let config = chained(&negation(2, 2, "[2]"), 1);
    assert_eq!(published(&config, 4, None), [[1.0, 2.0], [3.0, 4.0]]);
    assert_eq!(config.pipelines[0].frames_of_first_window(), 2);
}

#[test]
fn features_belong_to_the_model_that_has_them() {
    let model = negation(2, 2, "[2, 1], features = [{ scale = { factor = [10.0], offset = [1.0] } }]");
    assert_eq!(published(&chained(&model, 2), 4, None), [[11.0, 21.0], [31.0, 41.0]]);
}

#[test]
fn a_gap_empties_the_windows_of_all_models() {
    let config = chained(&negation(2, 2, "[2, 1]"), 2);
    // The gap is before the fourth sample, so the third is in no window.
    assert_eq!(published(&config, 7, Some(3)), [[1.0, 2.0], [4.0, 5.0], [6.0, 7.0]]);
}

#[test]
fn the_runs_of_the_chain_are_busy_time_of_the_inference_that_they_lead_to() {
    let Rig { mut feed, mut infer, mut spans, .. } = demo::pipeline(&chained(&negation(2, 2, "[2, 1]"), 4));
    for sample in 0..8 {
        assert!(feed.frames(&[sample as f32], MonoTime::now(), None).is_continue());
    }
    infer.drain();
    let all: Vec<u32> = std::iter::from_fn(|| spans.pop()).map(|span| span.inferences).collect();
    assert_eq!(all, [0, 0, 1, 0, 0, 1]);
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let said = refusal(&chained(&negation(2, 2, "[3]"), 3));
    assert!(said.starts_with("pipelines.p.models.0.output: ") && said.ends_with("write output = [2]"), "{said}");
    let said = refusal(&chained(&negation(2, 2, "[3]"), 1));
    assert!(said.starts_with("pipelines.p.models.0.output: "), "before the shape of the last model: {said}");
    let said = refusal(&chained(&negation(2, 2, "[2]").replace("open_input", "two_inputs"), 1));
    assert!(said.ends_with("two_inputs.tflite has 2 inputs; a model before the last one must have one"), "{said}");
    let said = refusal(&chained(&negation(2, 2, "[2]").replace("open_input", "nothing"), 1));
    assert!(said.starts_with("pipelines.p.models.0.path: cannot read "), "{said}");
    let pinned = format!("[2], sha256 = \"{}\"", "0".repeat(64));
    let said = refusal(&chained(&negation(2, 2, &pinned), 1));
    assert!(said.starts_with("pipelines.p.models.0.sha256: ") && said.contains("has the SHA-256"), "{said}");
    let stateful = "{ path = \"PATH\", window = { samples = 3, hop = 1 }, output = [1] }";
    let alexa = root().join("runtime/models/alexa.tflite").display().to_string();
    let overlapping = config(
        "open_input",
        40,
        1,
        "",
        &format!("decision.raw = {{}}\nmodels = [{}]", stateful.replace("PATH", &alexa)),
    );
    let said = refusal(&overlapping);
    assert!(said.starts_with("pipelines.p.models.0.window.hop: ") && said.ends_with("set hop = 3"), "{said}");
}

#[test]
fn what_is_not_done_by_itself_and_what_is_cut_is_said() {
    let of = |model: &str, channels: usize, samples: usize, last: &str| {
        let first = negation(samples, samples, "[4]").replace("open_input", model);
        config(last, channels, 1, "", &format!("decision.raw = {{}}\nmodels = [{first}]"))
    };
    let normalised = of("labelled", 2, 2, "fixed_batch");
    let warnings = demo::prepare(&normalised).warnings;
    let said =
        warnings.iter().find(|warning| warning.starts_with("models.0: the model's metadata asks for (x - mean) / std"));
    assert!(said.is_some_and(|said| said.ends_with("write it into its features, as standardize")), "{warnings:?}");

    let Rig { mut feed, mut infer, stats, .. } = demo::pipeline(&of("uint8_input", 1, 4, "open_input"));
    for _ in 0..80 {
        assert!(feed.frames(&[1e6], MonoTime::now(), None).is_continue());
    }
    infer.drain();
    let mut doubts = Doubts::new(None, Vec::new(), 1, DoubtCounts::default());
    doubts.note(DoubtCounts::of(&stats), true, MonoTime(0));
    assert_eq!(DoubtCounts::of(&stats).chain_saturated, 80);
    assert!(doubts.reason().unwrap().contains("quantised input of a model before the last one"));
}
