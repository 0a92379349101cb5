//! Scores against plain references, and what a decision on them publishes.

use proptest::prelude::*;

use super::super::tests::{At, Fed, json, model, names, outputs, refusal};
use super::*;
use crate::engine::{Element, TensorInfo};

fn anomaly(threshold: f32) -> Anomaly {
    let text = format!("threshold = {threshold:?}");
    toml::from_str(&text).unwrap()
}

fn clusters(on: &str, axes: &str) -> Anomaly {
    let text = format!(
        "kmeans = {{ on = \"{on}\", {axes} mean = [1.0, 2.0], scale = [2.0, 0.5], clusters = [\n\
         {{ centroid = [0.0, 0.0], max_error = 0.5 }}, {{ centroid = [3.0, 4.0], max_error = 1.0 }}] }}"
    );
    toml::from_str(&text).unwrap()
}

fn tensor(element: Element, values: usize, scale: f32, zero_point: i32) -> TensorInfo {
    TensorInfo { name: "x".into(), element, shape: vec![1, values], scale, zero_point }
}

/// The verdict on one window.
fn once(kind: &Anomaly, inputs: &[TensorInfo], features: &[f32], values: &[f32]) -> Verdict {
    let outputs = outputs(&[values.len()]);
    let mut decider = kind.build(&ModelOutputs { inputs, features: features.len(), ..model(&outputs, &[]) }).unwrap();
    let wanted = decider.features_wanted();
    assert!(wanted == 0 || wanted == features.len());
    decider.decide(&mut At { values, features, seconds: 0.0 }, &mut Vec::new()).unwrap()
}

#[test]
fn the_error_is_that_of_the_model_and_not_of_its_input_s_type() {
    // 0.3 is stored as 0.25, which the model gives back exactly.
    let int8 = [tensor(Element::Int8, 2, 0.25, 3)];
    assert_eq!(once(&anomaly(0.1), &int8, &[0.3, -1.1], &[0.25, -1.0]).score, 0.0);
    let float = [tensor(Element::Float32, 2, 0.0, 0)];
    let verdict = once(&anomaly(0.1), &float, &[1.0, -1.0], &[1.0, 1.0]);
    assert_eq!((verdict.score, verdict.class, verdict.changed), (2.0, Some(ANOMALY), true));
    for element in [Element::Uint8, Element::Int16] {
        assert_eq!(once(&anomaly(0.1), &[tensor(element, 3, 0.5, 1)], &[0.1, 0.6, 2.0], &[0.0, 0.5, 2.0]).score, 0.0);
    }
}

proptest! {
    #[test]
    fn it_is_the_mean_of_the_squares(pairs in proptest::collection::vec((-3f32..3.0, -3f32..3.0), 1..40)) {
        let (input, output): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
        let stored = |value: f32| 0.05 * ((value / 0.05).round_ties_even() + 7.0).clamp(-128.0, 127.0) - 0.05 * 7.0;
        for (tensor, held) in [
            (tensor(Element::Float32, input.len(), 0.0, 0), input.clone()),
            (tensor(Element::Int8, input.len(), 0.05, 7), input.iter().copied().map(stored).collect()),
        ] {
            let squares: f64 = held.iter().zip(&output).map(|(x, y)| f64::from(x - y).powi(2)).sum();
            let wanted = (squares / input.len() as f64) as f32;
            let score = once(&anomaly(1.0), &[tensor], &input, &output).score;
            // A value half-way between two steps may be stored as either.
            prop_assert!((score - wanted).abs() <= 0.05 * 6.0, "{score} for {wanted}");
            if held == input {
                prop_assert!((score - wanted).abs() <= 1e-5 * wanted.max(1.0), "{score} for {wanted}");
            }
        }
    }

    #[test]
    fn the_distance_is_that_to_the_nearest_cluster_less_its_radius(x in -9f32..9.0, y in -9f32..9.0) {
        let (u, v) = (f64::from((x - 1.0) / 2.0), f64::from((y - 2.0) / 0.5));
        let wanted = (u.hypot(v) - 0.5).min((u - 3.0).hypot(v - 4.0) - 1.0);
        let near = |score: f32| (f64::from(score) - wanted).abs() < 1e-4;
        prop_assert!(near(once(&clusters("features", "axes = [2, 0],"), &[], &[y, 0.0, x], &[9.0]).score));
        prop_assert!(near(once(&clusters("output", ""), &[], &[7.0; 5], &[x, y]).score));
    }
}

#[test]
fn edge_impulse_s_threshold_is_the_default_of_clusters() {
    let at_distance = |distance: f32| once(&clusters("output", ""), &[], &[], &[1.0 + 2.0 * (0.5 + distance), 2.0]);
    assert_eq!((at_distance(0.25).class, at_distance(0.375).class), (Some(NORMAL), Some(ANOMALY)));
    assert_eq!(at_distance(-0.5).score, -0.5, "in the middle of a cluster it is negative");
}

#[test]
fn what_is_no_number_decides_nothing_and_leaves_no_trace() {
    let outputs = outputs(&[2]);
    let mut watch = Fed::new(&Anomaly { smooth: 2, ..clusters("output", "") }, &model(&outputs, &[]));
    assert_eq!(watch.decide(0.0, &[1.0, 2.0]).score, -0.5);
    for (value, fault) in [(f32::NAN, Fault::Nan), (f32::INFINITY, Fault::Infinite)] {
        let verdict = watch.decide(1.0, &[1.0, value]);
        assert_eq!((verdict.class, verdict.fault, verdict.score.is_nan()), (None, Some(fault), true));
    }
    assert_eq!(watch.decide(2.0, &[3.0, 2.0]).score, 0.0, "the mean of -0.5 and 0.5");
    let mut features = once(&clusters("features", ""), &[], &[f32::NAN, 0.0], &[0.0]);
    features.score = 0.0;
    assert_eq!(features, Verdict { score: 0.0, fault: Some(Fault::Nan), ..Verdict::VALUES });
}

#[test]
fn changes_are_told_once_and_a_gap_ends_an_alarm() {
    let outputs = outputs(&[2]);
    let kind = Anomaly { min_above_s: 1.0, ..clusters("output", "") };
    let mut watch = Fed::new(&kind, &model(&outputs, &[]));
    let (normal, far) = ([1.0, 2.0], [5.0, 2.0]);
    let mut told = |seconds: f64, values: &[f32]| {
        let verdict = watch.decide(seconds, values);
        (verdict.class.unwrap(), verdict.raw_class.unwrap(), verdict.changed)
    };
    assert_eq!(told(0.0, &far), (NORMAL, ANOMALY, false));
    assert_eq!(told(1.0, &far), (ANOMALY, ANOMALY, true));
    assert_eq!(told(2.0, &far), (ANOMALY, ANOMALY, false));
    watch.decider.reset();
    let verdict = watch.decide(0.0, &normal);
    assert_eq!((verdict.class, verdict.changed), (Some(NORMAL), true), "what the gap has ended is told");
}

#[test]
fn the_score_is_published_beside_the_threshold() {
    let outputs = outputs(&[2]);
    let kind = clusters("output", "");
    let shown = kind.presentation(&model(&outputs, &[]), None);
    let verdict = Verdict { class: Some(ANOMALY), raw_class: Some(ANOMALY), score: 0.5, fault: None, changed: true };
    assert_eq!(
        json(&*shown, &verdict, &[], None),
        r#"{"label":"anomaly","score":0.5,"raw_label":"anomaly","changed":true,"threshold":0.3}"#
    );
    let nothing = Verdict { fault: Some(Fault::Nan), ..Verdict::VALUES };
    assert_eq!(json(&*shown, &nothing, &[], None), r#"{"label":null,"score":null,"raw_label":null,"threshold":0.3}"#);
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let refused = refusal(&clusters("output", ""), &[3], &[]);
    assert!(refused.contains("kmeans.mean has 2 values, and the output `out0` has 3 values"), "{refused}");
    let refused = refusal(&clusters("output", "axes = [0, 3],"), &[3], &[]);
    assert!(refused.contains("kmeans.axes has 3, but the output `out0` has 3 values, 0 to 2"), "{refused}");
    let of = |inputs: &[TensorInfo]| {
        let outputs = outputs(&[3]);
        let model = ModelOutputs { inputs, features: 4, ..model(&outputs, &[]) };
        anomaly(1.0).build(&model).err().unwrap().to_string()
    };
    let input = || tensor(Element::Float32, 4, 0.0, 0);
    assert!(of(&[input()]).contains("output `out0` has 3 values, and its input `x` has 4"));
    assert!(of(&[input(), input()]).contains("a reconstruction has one input"));
}

#[test]
fn keys_that_contradict_each_other_are_refused_where_they_stand() {
    let problems = |text: &str| {
        let mut kind: Anomaly = toml::from_str(text).unwrap();
        let mut checker = Checker::new(std::path::Path::new(""));
        kind.check(&Key::new(&["anomaly"]), &mut checker);
        let problems = checker.finish(Some(())).err().unwrap_or_default();
        problems.iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect::<Vec<_>>()
    };
    assert!(problems("")[0].starts_with("anomaly.threshold: write the error"));
    assert_eq!(problems("threshold = 1.0"), [""; 0]);
    let found = problems(
        "names = ['a', 'a']\nkmeans = { axes = [1], mean = [1.0, 2.0], scale = [1.0, 0.0], clusters = [{ centroid = [1.0], \
         max_error = 0.1 }] }",
    );
    let keys: Vec<&str> = found.iter().map(|problem| problem.split(':').next().unwrap()).collect();
    assert_eq!(
        keys,
        ["anomaly.names", "anomaly.kmeans.axes", "anomaly.kmeans.clusters.0.centroid", "anomaly.kmeans.scale"]
    );
    assert!(found[1].contains("there are 1 values here and 2 in `mean`"), "{found:?}");
}

#[test]
fn only_what_the_score_depends_on_makes_a_learnt_threshold_void() {
    let of = |text: &str| toml::from_str::<Anomaly>(text).unwrap().learning().unwrap();
    let learning = of("threshold = { learnt = 't.json' }");
    assert_eq!(learning.file, std::path::Path::new("t.json"));
    let same = of("threshold = { learnt = 'u.json' }\nhysteresis = 0.5\nmin_above_s = 3.0\nnames = ['a', 'b']");
    assert_eq!(learning.score_keys, same.score_keys);
    let kmeans = clusters("output", "").kmeans.unwrap().to_toml();
    for other in ["smooth = 2", "output = 1", &format!("kmeans = {kmeans}")] {
        let other = of(&format!("threshold = {{ learnt = 't.json' }}\n{other}"));
        assert_ne!(learning.score_keys, other.score_keys);
    }
    assert!(anomaly(1.0).learning().is_none());
    assert_eq!(anomaly(1.0).classes(Vec::new()), names(&["normal", "anomaly"]));
}
