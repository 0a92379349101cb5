//! `edgewatt init` of the real binary: the file that it writes runs, or what is open is what `edgewatt check` names.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use edgewatt_support::daemon::{Daemon, Ended, edgewatt};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::root;
use edgewatt_support::sound::wav;
use serde_json::Value;
use tempfile::TempDir;

/// A folder in which files are written, and a machine without devices.
struct Folder(TempDir);

/// What `init --json` has said, with its exit code.
struct Written {
    json: Value,
    code: i32,
}

impl Folder {
    fn new() -> Self {
        let folder = Self(TempDir::new().unwrap());
        for part in ["sys", "dev"] {
            fs::create_dir(folder.path(part)).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// `edgewatt init --model MODEL ARGS`, which writes m.toml.
    fn init(&self, model: &Path, args: &[&str]) -> Ended {
        let mut command = edgewatt(&["init", "--model"]);
        command.arg(model).arg("--output").arg(self.path("m.toml")).args(args);
        command.arg("--sysfs").arg(self.path("sys")).arg("--dev").arg(self.path("dev"));
        Daemon::start(command).wait()
    }

    /// The same without a broker, as JSON.
    fn written(&self, model: &Path, args: &[&str]) -> Written {
        let ended = self.init(model, &[&["--broker", "none", "--json"], args].concat());
        let json =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", ended.stdout, ended.stderr));
        Written { json, code: ended.status.code().unwrap() }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path("m.toml")).unwrap()
    }

    /// The keys that `edgewatt check` names.
    fn refused(&self) -> Vec<String> {
        let ended = self.edgewatt(&["check", "--json"]).wait().expect(78);
        let json: Value = serde_json::from_str(&ended.stdout).unwrap();
        let key = |problem: &Value| problem["key"].as_str().unwrap().to_owned();
        json["problems"].as_array().unwrap().iter().map(key).collect()
    }

    fn edgewatt(&self, args: &[&str]) -> Daemon {
        let mut command = edgewatt(args);
        command.arg("--config").arg(self.path("m.toml")).env("STATE_DIRECTORY", self.path("state"));
        command.env("RUNTIME_DIRECTORY", self.path("run"));
        Daemon::start(command)
    }

    /// Runs the file to the end of its source; returns the summary of its pipeline.
    fn run_once(&self) -> Value {
        let ended = self.edgewatt(&["run", "--once", "--json"]).wait().expect(0);
        let json: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(json["outcome"], "complete", "{json}");
        json["pipelines"][0].clone()
    }

    /// The same with `input` on standard input.
    fn run_fed(&self, input: &[u8]) -> Value {
        let mut command = edgewatt(&["run", "--once", "--json", "--config"]);
        command.arg(self.path("m.toml")).env("STATE_DIRECTORY", self.path("state"));
        command.env("RUNTIME_DIRECTORY", self.path("run")).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut to = child.stdin.take().unwrap();
        let input = input.to_owned();
        let feeder = std::thread::spawn(move || to.write_all(&input));
        let ended = Daemon::adopt(child).wait().expect(0);
        feeder.join().unwrap().unwrap();
        let json: Value = serde_json::from_str(&ended.stdout).unwrap();
        json["pipelines"][0].clone()
    }
}

impl Written {
    /// The keys that are open.
    fn open(&self) -> Vec<String> {
        self.json["open"].as_array().unwrap().iter().map(|open| open["key"].as_str().unwrap().to_owned()).collect()
    }

    /// The value and the confidence of a part.
    fn part(&self, about: &str) -> (&str, &str) {
        let parts = self.json["proposed"].as_array().unwrap();
        let part = parts.iter().find(|part| part["about"] == about).unwrap_or_else(|| panic!("{about}: {}", self.json));
        (part["value"].as_str().unwrap(), part["confidence"].as_str().unwrap())
    }

    #[track_caller]
    fn runs(self) -> Self {
        assert!(self.code == 0 && self.json["runs"] == true && self.open().is_empty(), "{:#}", self.json);
        self
    }
}

fn model(name: &str) -> PathBuf {
    root().join("tests/models").join(name)
}

fn shoulder() -> [PathBuf; 3] {
    ["shoulder_fp32", "shoulder_int8", "shoulder_pruned_int8"].map(|name| root().join(format!("models/{name}.tflite")))
}

fn wake_words() -> [(PathBuf, &'static str); 4] {
    let word = |name: &str| root().join(format!("runtime/models/{name}.tflite"));
    [
        (word("okay_nabu"), "word = \"okay nabu\", cutoff = 0.85"),
        (word("alexa"), "word = \"alexa\", cutoff = 0.9"),
        (word("hey_jarvis"), "word = \"hey jarvis\", cutoff = 0.97"),
        (word("hey_mycroft"), "word = \"hey mycroft\", cutoff = 0.95"),
    ]
}

fn noise(samples: i32) -> Vec<i16> {
    (0..samples).map(|sample| (sample * 7919 % 2001 - 1000) as i16).collect()
}

#[test]
fn the_models_of_the_demo_run_on_its_recording_and_on_lines_that_are_fed() {
    let recording = root().join("models/shoulder_recording.csv");
    for model in shoulder() {
        let folder = Folder::new();
        let source = format!("replay={}", recording.display());
        let written = folder.written(&model, &["--source", &source]).runs();
        assert_eq!(written.part("decision").0, "classify");
        assert!(written.part("labels").0.ends_with("models/labels.txt"), "the file next to the model");
        assert!(folder.text().contains("truth = \"exercise\""), "{}", folder.text());
        let pipeline = folder.run_once();
        let (right, known) = (pipeline["right"].as_u64().unwrap(), pipeline["known"].as_u64().unwrap());
        // Without the training's mean and deviation, which no file has: docs/your-model.md shows the same.
        assert!(known > 200 && right * 100 > known * 65, "{pipeline}");

        let folder = Folder::new();
        folder.written(&model, &["--source", "lines", "--channels", "a,b,c,d,e,f", "--rate", "50"]).runs();
        let lines = "0.1,0.2,0.3,0.4,0.5,0.6\n".repeat(400);
        assert_eq!(
            folder.run_fed(lines.as_bytes())["counts"]["predictions"],
            3,
            "windows of 200 that begin at 0, 100, 200"
        );
    }
}

#[test]
fn the_wake_words_run_on_a_recording_and_without_a_source_only_that_is_open() {
    for (model, keys) in wake_words() {
        let folder = Folder::new();
        let recording = folder.write("speech.wav", &wav(&noise(32_000)));
        let source = format!("replay={}", recording.display());
        let written = folder.written(&model, &["--source", &source]).runs();
        assert_eq!(written.part("decision"), (format!("wake_word: {keys}").as_str(), "guessed"));
        assert!(folder.text().contains("path = \"speech.wav\""), "relative to the file: {}", folder.text());
        let windows = folder.run_once()["counts"]["predictions"].as_u64().unwrap();
        assert!((60..=66).contains(&windows), "2 s are 198 frames of 10 ms, in threes: {windows}");

        let folder = Folder::new();
        let written = folder.written(&model, &[]);
        let name = model.file_stem().unwrap().to_str().unwrap();
        assert_eq!((written.code, written.open()), (3, vec![format!("pipelines.{name}.source")]));
        assert_eq!(folder.refused(), written.open());
        // The rest was tried all the same.
        let steps = written.json["steps"].as_array().unwrap();
        assert!(steps.iter().any(|step| step["step"] == "pipeline" && step["state"] == "ok"), "{steps:?}");
    }
}

#[test]
fn what_is_open_is_what_check_names() {
    let demo = &shoulder()[1];
    for kind in ["serial", "exec", "mqtt", "iio", "i2c", "spi", "hwmon", "replay", "alsa"] {
        let folder = Folder::new();
        let broker = if kind == "mqtt" { "mqtt://127.0.0.1:1" } else { "none" };
        let ended = folder.init(demo, &["--source", kind, "--broker", broker, "--json"]);
        let written = Written { json: serde_json::from_str(&ended.stdout).unwrap(), code: 3 };
        ended.expect(3);
        assert!(!written.open().is_empty() && written.json["runs"] == false, "{kind}: {}", written.json);
        assert_eq!(folder.refused(), written.open(), "{kind}");
        assert_eq!(folder.text().matches("# TO FILL IN: ").count(), written.open().len(), "{}", folder.text());
    }
    // What a model needs, too: a threshold that only normal data tells.
    let folder = Folder::new();
    let written = folder.written(&model("autoencoder.tflite"), &["--source", "lines"]);
    assert_eq!(written.open(), ["pipelines.autoencoder.decision"]);
    assert_eq!(folder.refused(), written.open());
    assert!(written.json["open"][0]["message"].as_str().unwrap().contains("run edgewatt learn"));
    // The source is missing first; then check names the threshold.
    let folder = Folder::new();
    let written = folder.written(&model("autoencoder.tflite"), &[]);
    assert_eq!(written.open().len(), 2);
    assert_eq!(folder.refused(), written.open()[..1]);
}

#[test]
fn a_model_that_cannot_run_here_is_said_in_one_line_with_what_helps() {
    for (name, key, words) in [
        ("custom_operator", "model.path", "its operator `frobnicate` is not in the runtime"),
        ("edge_tpu", "delegate", "there is no such library; install libedgetpu1-std"),
        ("int32_input", "model.path", "edgewatt fills inputs of float32, int8, uint8 and int16"),
    ] {
        let folder = Folder::new();
        let written = folder.written(&model(&format!("{name}.tflite")), &["--source", "lines"]);
        let open = written.json["open"].as_array().unwrap();
        let said = open.iter().find(|open| open["key"] == format!("pipelines.{name}.{key}"));
        let message = said.unwrap_or_else(|| panic!("{:#}", written.json))["message"].as_str().unwrap();
        assert!(written.code == 3 && message.contains(words) && !message.contains('\n'), "{message}");
    }
    for (name, words) in [
        ("two_inputs", "the model has 2 inputs (x, z)"),
        ("no_outputs", "the model has no outputs"),
        ("open_input", "say it with --window SAMPLES"),
    ] {
        let folder = Folder::new();
        let ended = folder.init(&model(&format!("{name}.tflite")), &[]).expect(1);
        assert!(ended.stderr.lines().count() == 1, "{}", ended.stderr);
        ended.says(&[words]);
        assert!(!folder.path("m.toml").exists());
        let written = folder.written(&model(&format!("{name}.tflite")), &[]);
        assert!(written.code == 1 && written.json["error"].as_str().unwrap().contains(words), "{}", written.json);
    }
}

#[test]
fn wrong_arguments_are_said_as_json_too() {
    let folder = Folder::new();
    let ended = folder.init(&shoulder()[1], &["--json", "--rate", "fast"]).expect(2);
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    let error = json["error"].as_str().unwrap();
    assert!(error.contains("--rate") && error.contains("write a number, such as 50"), "{error}");
    assert_eq!((&json["v"], &json["written"]), (&1.into(), &serde_json::json!([])));
    assert!(ended.stderr.contains("--rate"), "{}", ended.stderr);
    assert!(folder.init(&shoulder()[1], &["--rate", "fast"]).expect(2).stdout.is_empty());
}

#[test]
fn nothing_is_overwritten_and_a_failure_leaves_no_file() {
    let folder = Folder::new();
    let copy = folder.write("kws.tflite", &fs::read(root().join("models/shoulder_fp32.tflite")).unwrap());
    let theirs = folder.write("m.toml", b"theirs");
    folder.init(&copy, &["--source", "lines"]).expect(1).says(&["m.toml exists, and nothing is overwritten"]);
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    fs::remove_file(&theirs).unwrap();
    // There are no labels next to the copy, so a file with names to replace is written.
    folder.write("labels.txt", b"one\ntwo\n");
    let labels = folder.write("kws-labels.txt", b"one\ntwo\n");
    folder.init(&copy, &["--source", "lines"]).expect(1).says(&["kws-labels.txt exists, and nothing is overwritten"]);
    assert!(!theirs.exists());
    fs::remove_file(&labels).unwrap();
    let written = folder.written(&copy, &["--source", "lines"]).runs();
    assert_eq!(written.part("labels").1, "unknown");
    let notes = written.json["notes"].to_string();
    assert!(notes.contains("labels.txt is not used: ") && notes.contains("2 labels"), "{notes}");
    assert_eq!(fs::read_to_string(&labels).unwrap().lines().last(), Some("class 6"));
    folder.init(&copy, &["--source", "lines", "--broker", "nonsense://x"]).expect(1);
}

#[test]
fn columns_are_those_that_were_named_and_what_is_no_recording_of_the_kind_is_refused() {
    let folder = Folder::new();
    let rows: String = (0..300).map(|i| format!("{},1,2,3,4,5,6,7\n", 0.02 * f64::from(i))).collect();
    let csv = folder.write("r.csv", format!("time_s,a,b,c,d,e,f,g\n{rows}").as_bytes());
    let replay = format!("replay={}", csv.display());
    let with_channels = |channels: &str, code: i32| {
        folder.init(&shoulder()[1], &["--broker", "none", "--source", &replay, "--channels", channels]).expect(code)
    };
    with_channels("a,b,c,d,e,h", 1).says(&["--channels: the recording has no column `h` of numbers; it has a, b, c"]);
    with_channels("a,a,b,c,d,e", 1).says(&["no configuration can be written", "`a`"]);
    with_channels("g,f,e,d,c,b", 0);
    let text = folder.text();
    for line in [r#"records.channels = ["g", "f", "e", "d", "c", "b"]"#, "records.time = \"time_s\"", "rate_hz = 50.0"]
    {
        assert!(text.contains(line), "{line} in {text}");
    }
    fs::remove_file(folder.path("m.toml")).unwrap();
    let european = format!("time_s;a;b;c;d;e;f\n{}", rows.replace(",7\n", "\n").replace(',', ";").replace('.', ","));
    let csv = folder.write("european.csv", european.as_bytes());
    folder.written(&shoulder()[1], &["--source", &format!("replay={}", csv.display())]).runs();
    for line in ["records.delimiter = \";\"", "records.decimal = \",\"", "rate_hz = 50.0"] {
        assert!(folder.text().contains(line), "{line} in {}", folder.text());
    }
    assert_eq!(folder.run_once()["counts"]["samples"], 300);
    fs::remove_file(folder.path("m.toml")).unwrap();
    let (word, _) = &wake_words()[0];
    folder.init(word, &["--source", &replay]).expect(1).says(&["r.csv is a file of text, and the model takes sound"]);
    // A long name is cut; a WAV file can have the samples of a sensor, too.
    let long = format!("{}.tflite", "long-name-".repeat(9));
    let copy = folder.write(&long, &fs::read(root().join("models/machine/machine_ae_int8.tflite")).unwrap());
    let motion = format!("replay={}", root().join("examples/machine-anomaly/normal.wav").display());
    let written = folder.written(&copy, &["--source", &motion, "--channels", "x,y,z"]);
    assert_eq!(written.open(), ["pipelines.long-name-long-name-long-name-long-name.decision"]);
    assert!(folder.text().contains("\nwav = {}\n"), "{}", folder.text());
}

const METADATA: &str = "#define EI_CLASSIFIER_PROJECT_NAME \"Gestures\"\n#define EI_CLASSIFIER_RAW_SAMPLE_COUNT 125\n\
    #define EI_CLASSIFIER_RAW_SAMPLES_PER_FRAME 3\n#define EI_CLASSIFIER_FREQUENCY 62.5\n\
    #define EI_CLASSIFIER_FUSION_AXES_STRING \"accX + accY + accZ\"\n#define EI_CLASSIFIER_SLICES_PER_MODEL_WINDOW 4\n";

/// The headers of an export: one spectral analysis, whose 39 features are the input of tests/models/edge_impulse.tflite.
const VARIABLES: &str = "const char* ei_classifier_inferencing_categories_1_2[] = { \"idle\", \"snake\", \"wave\" };\n\
    EI_CLASSIFIER_DSP_AXES_INDEX_TYPE ei_dsp_config_1_3_axes[] = { 0, 1, 2 };\n\
    ei_dsp_config_spectral_analysis_t ei_dsp_config_1_3 = {\n    3, // uint32_t blockId\n    4, // int implementationVersion\n    \
    3, // int length of axes\n    1.0f, // float scale-axes\n    \"none\", // select filter-type\n    16, // int fft-length\n    \
    true, // boolean do-log\n    true // boolean do-fft-overlap\n};\n";

/// A ZIP file whose entries are stored.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut list) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let at = archive.len() as u32;
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for word in [crc.sum(), content.len() as u32, content.len() as u32] {
            common.extend(word.to_le_bytes());
        }
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(name.as_bytes());
        archive.extend(*content);
        list.extend(b"PK\x01\x02\x14\0");
        list.extend(&common);
        list.extend([0; 10]);
        list.extend(at.to_le_bytes());
        list.extend(name.as_bytes());
    }
    let (count, start) = (files.len() as u16, archive.len() as u32);
    archive.extend(&list);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    archive.extend((list.len() as u32).to_le_bytes());
    archive.extend(start.to_le_bytes());
    archive.extend([0, 0]);
    archive
}

#[test]
fn an_export_of_edge_impulse_runs_with_its_blocks_its_labels_and_its_model() {
    let network = fs::read(model("edge_impulse.tflite")).unwrap();
    let headers: [(&str, &[u8]); 2] = [
        ("model-parameters/model_metadata.h", METADATA.as_bytes()),
        ("model-parameters/model_variables.h", VARIABLES.as_bytes()),
    ];
    let code: Vec<String> = network.iter().map(|byte| format!("0x{byte:02x}")).collect();
    let code = format!("const unsigned char trained[] = {{ {} }};", code.join(", "));
    let in_code = ("tflite-model/tflite-trained.cpp", code.as_bytes());
    for entry in [("tflite-model/trained.tflite", network.as_slice()), in_code] {
        let folder = Folder::new();
        let export = folder.write("export.zip", &zip(&[&headers[..], &[entry]].concat()));
        let written = folder.written(&export, &["--source", "lines"]).runs();
        assert_eq!(written.part("features"), ("Edge Impulse's spectral_analysis", "known"));
        assert_eq!(fs::read(folder.path("Gestures.tflite")).unwrap(), network);
        assert_eq!(fs::read_to_string(folder.path("Gestures-labels.txt")).unwrap(), "idle\nsnake\nwave\n");
        let text = folder.text();
        let block = "{ axes = [0, 1, 2], spectral_analysis = { version = 4 } }";
        assert!(text.contains(block) && text.contains("[\"accX\", \"accY\", \"accZ\"]"), "{text}");
        assert!(text.contains("window = { samples = 125, hop = 31 }"), "{text}");
        // 125 samples, and 31 more for each of two windows.
        assert_eq!(folder.run_fed("0.1,0.2,9.8\n".repeat(187).as_bytes())["counts"]["predictions"], 3);
    }
    // A network that was compiled to C++ is not in the archive; the model's file and the archive together are enough.
    let folder = Folder::new();
    let export = folder.write("export.zip", &zip(&headers));
    let wanted = "Download \"TensorFlow Lite (int8 quantized)\" from the project's dashboard";
    folder.init(&export, &[]).expect(1).says(&[wanted, "--edge-impulse"]);
    let model = model("edge_impulse.tflite");
    for export in [export, folder.write("model_variables.h", (METADATA.to_owned() + VARIABLES).as_bytes())] {
        folder.written(&model, &["--source", "lines", "--edge-impulse", export.to_str().unwrap()]).runs();
        fs::remove_file(folder.path("m.toml")).unwrap();
    }
}

#[test]
fn what_the_machine_has_is_used_and_a_broker_is_asked() {
    let broker = Mosquitto::running();
    let folder = Folder::new();
    let device = "sys/bus/iio/devices/iio:device0";
    folder.write(&format!("{device}/name"), b"mpu6050\n");
    for axis in ["accel_x", "accel_y", "accel_z", "anglvel_x", "anglvel_y", "anglvel_z"] {
        folder.write(&format!("{device}/in_{axis}_raw"), b"100\n");
    }
    folder.write(&format!("{device}/in_accel_scale"), b"0.001\n");
    folder.write(&format!("{device}/in_anglvel_scale"), b"0.001\n");
    folder.write("sys/class/hwmon/hwmon0/name", b"ina219\n");
    folder.write("sys/class/hwmon/hwmon0/power1_input", b"2500000\n");
    let address = format!("mqtt://127.0.0.1:{}", broker.port);
    let ended = folder.init(&shoulder()[0], &["--broker", &address, "--json"]);
    let written = Written { json: serde_json::from_str(&ended.stdout).unwrap(), code: 0 };
    ended.expect(0);
    assert_eq!(written.part("source"), ("iio", "guessed"), "{:#}", written.json);
    let text = folder.text();
    for part in ["device = \"mpu6050\"", &address, "[power.meters.hwmon]\nhwmon = { chip = \"ina219\" }"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let steps = written.json["steps"].as_array().unwrap();
    let asked = steps.iter().find(|step| step["step"] == "broker").unwrap();
    assert!(asked["state"] == "ok" && asked["says"].as_str().unwrap().contains("accepts messages"), "{asked}");
    // One that does not answer is said; the file stays as it was asked for.
    fs::remove_file(folder.path("m.toml")).unwrap();
    let ended = folder.init(&shoulder()[0], &["--broker", "mqtt://127.0.0.1:1"]).expect(0);
    assert!(ended.stdout.contains("FAILED  broker: 127.0.0.1:1"), "{}", ended.stdout);
}

#[test]
fn every_field_of_the_json_is_documented_and_comes() {
    let page = fs::read_to_string(root().join("docs/json.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("`edgewatt init --json`")).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `")).flat_map(|line| {
        line.trim_start_matches("| ")
            .split(" | ")
            .next()
            .unwrap()
            .split(", ")
            .map(|name| name.trim_matches('`').to_owned())
    });
    let mut documented: Vec<String> = rows.collect();
    documented.sort();
    let folder = Folder::new();
    let written = folder.written(&model("autoencoder.tflite"), &[]);
    let mut found = Vec::new();
    for (name, value) in written.json.as_object().unwrap().iter().filter(|(name, _)| *name != "v") {
        found.push(name.clone());
        let inner = value.as_array().and_then(|list| list.first()).and_then(Value::as_object);
        found.extend(inner.into_iter().flatten().map(|(inner, _)| format!("{name}.{inner}")));
    }
    found.sort();
    assert_eq!(found, documented);
    assert_eq!(written.json["v"], 1);
}
