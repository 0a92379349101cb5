//! Labels and what a model says itself: from the files to what is published, by the real binary.

use std::path::Path;

use edgewatt_support::daemon::{Daemon, Ended, edgewatt};
use edgewatt_support::mosquitto::{Mosquitto, Subscriber};
use edgewatt_support::root;
use edgewatt_support::wire::Wire;
use serde_json::json;
use tempfile::TempDir;

/// Two windows of four samples: a softmax of 0, 0, 0, 1 after the normalisation that the model asks for, then of four times
/// as much for the second class.
const LINES: &str = "x,what\n1,jump\n1,jump\n1,jump\n3,jump\n1,Walk\n9,Walk\n1,Walk\n1,Walk\n";

struct Case {
    dir: TempDir,
    port: u16,
    /// Samples of a window.
    samples: usize,
}

impl Case {
    fn new(port: u16) -> Self {
        let case = Self { dir: TempDir::new().unwrap(), port, samples: 4 };
        case.write("lines.csv", LINES.as_bytes());
        std::fs::copy(root().join("tests/models/labelled.tflite"), case.dir.path().join("m.tflite")).unwrap();
        case
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    /// Runs a subcommand on a pipeline of that model; `model` and `pipeline` are further keys.
    fn run(&self, subcommand: &[&str], model: &str, pipeline: &str) -> Ended {
        let Self { port, samples, .. } = self;
        let config = format!(
            "[node]\nid = \"n\"\nstate_dir = \"state\"\n[mqtt]\nbroker = \"mqtt://127.0.0.1:{port}\"\n\
             store = {{ enabled = false }}\nqueue.kib = 16\n[pipelines.p]\n\
             window = {{ samples = {samples}, hop = {samples} }}\n\
             decision.classify = {{}}\n{pipeline}\n[pipelines.p.model]\npath = \"m.tflite\"\n{model}\n\
             [pipelines.p.source.replay]\npath = \"lines.csv\"\nspeed = \"max\"\n\
             records = {{ channels = [\"x\"], rate_hz = 10.0, truth = \"what\" }}\n"
        );
        self.write("c.toml", config.as_bytes());
        let mut command = edgewatt(subcommand);
        command.arg("--config").arg(self.dir.path().join("c.toml"));
        command.env("RUNTIME_DIRECTORY", self.dir.path().join("run"));
        Daemon::start(command).wait()
    }

    fn check(&self, model: &str, pipeline: &str) -> Ended {
        self.run(&["check"], model, pipeline)
    }
}

/// Runs the recording to its end; returns what was published.
fn published(model: &str, pipeline: &str) -> (Ended, Wire) {
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    let case = Case::new(broker.port);
    case.write("l.txt", b"\xef\xbb\xbf3 idle\r\n2: walk\r\n0 crane\r\n1,crane\r\n\r\n");
    let ended = case.run(&["run", "--once"], model, pipeline);
    (ended, Wire::new(subscriber.until(|line| line == "edgewatt/n/status offline")))
}

fn says(ended: &Ended, words: &[&str]) {
    for word in words {
        assert!(ended.stdout.contains(word), "{word} is not in:\n{}\n{}", ended.stdout, ended.stderr);
    }
}

#[test]
fn labels_and_normalisation_of_the_model_are_used_and_said() {
    let case = Case::new(1);
    let checked = case.check("", "").expect(0);
    says(
        &checked,
        &[
            "window [4, 1] -> features.standardize [4, 1]",
            "mean [1.0] and std [2.0]: done as features.standardize; model.metadata = false turns it off",
            "suggests a threshold of 0.25",
            "labels: 4 from `labels.txt` in the model",
            "4 of the 8 values of `what` are not labels (Walk); labels are idle, walk, run, jump; case and blanks count: \
             `Walk` is not `walk`",
        ],
    );
    let own = case.check("", "features = [{ scale = { factor = [2.0] } }]").expect(0);
    says(&own, &["which is not done, because there is features.scale"]);
    case.check("metadata = false", "").expect(78).says(&["those in the model are not used, because metadata = false"]);

    let (ended, wire) = published("", "publish.scores = true");
    let predictions = wire.predictions();
    let close = |value: &serde_json::Value, wanted: f64| (value.as_f64().unwrap() - wanted).abs() < 1e-5;
    assert_eq!(predictions[0]["label"], "jump");
    assert!(close(&predictions[0]["score"], 1f64.exp() / (3.0 + 1f64.exp())), "{}", predictions[0]);
    assert_eq!((&predictions[0]["truth"], &predictions[1]["label"]), (&json!("jump"), &json!("walk")));
    assert_eq!(predictions[1].get("truth"), None, "Walk is not a label");
    assert!(close(&predictions[1]["scores"]["idle"], 1.0 / (3.0 + 4f64.exp())), "{}", predictions[1]);
    says(&ended, &["own labels in 1 of 1", "the true class of 4 samples is not a label"]);
}

#[test]
fn a_file_of_labels_with_indices_and_one_label_twice_is_published_without_a_collision() {
    let (ended, wire) = published("labels = \"l.txt\"\nmetadata = false", "publish.top_k = 3");
    ended.expect(0);
    let predictions = wire.predictions();
    assert_eq!(predictions[0]["label"], "idle", "index 3");
    let score = predictions[0]["score"].as_f64().unwrap();
    assert!((score - 2f64.exp() / (3.0 + 2f64.exp())).abs() < 1e-5, "not normalised: {score}");
    let names = |of: &serde_json::Value| of["scores"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&predictions[0]), ["crane", "crane (2)", "idle"]);
    assert_eq!(predictions[1]["label"], "crane", "index 1");
    assert!(predictions[1]["scores"]["crane (2)"].as_f64().unwrap() > 0.9, "{}", predictions[1]);
}

#[test]
fn a_file_in_place_of_a_model_or_of_labels_is_named() {
    let case = Case::new(1);
    case.write("l.txt", b"version https://git-lfs.example/spec/v1\noid sha256:4d7a\nsize 940\n");
    case.check("labels = \"l.txt\"", "").expect(78).says(&["pipelines.p.model.labels", "git lfs pull"]);
    std::fs::copy(case.dir.path().join("l.txt"), case.dir.path().join("m.tflite")).unwrap();
    case.check("", "").expect(78).says(&["pipelines.p.model.path", "Git LFS pointer", "git lfs pull"]);
    let digest = "0".repeat(64);
    let pinned = case.check(&format!("sha256 = \"{digest}\""), "").expect(78);
    pinned.says(&["pipelines.p.model.sha256", "git lfs pull"]);
    std::fs::remove_file(case.dir.path().join("m.tflite")).unwrap();
    std::fs::create_dir(case.dir.path().join("m.tflite")).unwrap();
    case.write("m.tflite/saved_model.pb", b"\x08\x01\x12\x00");
    case.check("", "").expect(78).says(&["is a folder with a SavedModel", "from_saved_model"]);
}

/// 640 scores under long names, against the smallest queue.
#[test]
fn a_prediction_that_is_too_large_is_foreseen_and_named_and_top_k_makes_it_smaller() {
    let broker = Mosquitto::running();
    let mut subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
    let case = Case { samples: 640, ..Case::new(broker.port) };
    std::fs::copy(root().join("tests/models/wide.tflite"), case.dir.path().join("m.tflite")).unwrap();
    let labels: String = (0..640).map(|i| format!("Genus species{i}_Common Name Number {i}\n")).collect();
    case.write("l.txt", labels.as_bytes());
    let lines: String = (0..1280).map(|i| format!("{}.5,\n", i % 7)).collect();
    case.write("lines.csv", format!("x,what\n{lines}").as_bytes());
    let run = |subcommand: &[&str], publish: &str| case.run(subcommand, "labels = \"l.txt\"", publish);
    let checked = run(&["check"], "publish.scores = true").expect(0);
    let words = ["publish.scores with 640 labels makes predictions of up to", "publish.top_k = 10", "mqtt.queue.kib"];
    says(&checked, &words);
    let ended = run(&["run", "--once"], "publish.scores = true").expect(1);
    ended.says(&["edgewatt/n/p/p/prediction has", "edgewatt queues payloads of at most 163", "publish.top_k"]);
    let offline = |line: &str| line == "edgewatt/n/status offline";
    assert!(Wire::new(subscriber.until(offline)).predictions().is_empty());

    let small = run(&["run", "--once"], "publish.top_k = 10").expect(0);
    assert!(!small.stderr.contains("never arrives"), "{}", small.stderr);
    let predictions = Wire::new(subscriber.until(offline)).predictions();
    assert_eq!(predictions[0]["scores"].as_object().unwrap().len(), 10);
}

#[test]
fn inspect_shows_what_the_model_says_itself() {
    let model = root().join("tests/models/labelled.tflite");
    let inspect = |model: &Path| {
        let mut command = edgewatt(&["inspect"]);
        command.arg(model);
        Daemon::start(command).wait().expect(0)
    };
    let shown = inspect(&model);
    says(
        &shown,
        &[
            "name        labelled\n",
            "normalised  input 0 is (x - mean) / std, mean 1, std 2\n",
            "labels      of output 0: labels.txt\n",
            "threshold   of output 0: 0.25\n",
            "carries     labels.txt, 19 bytes\n",
        ],
    );
}
