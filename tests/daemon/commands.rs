//! The commands besides `run`: what they accept, refuse and say.

use std::path::Path;

use edgewatt_support::daemon::{Daemon, Ended, Setup, edgewatt};
use edgewatt_support::root;
use edgewatt_support::wire::json_file;
use serde_json::Value;

#[test]
fn check_accepts_every_configuration_of_the_repository() {
    for entry in std::fs::read_dir(root().join("config")).unwrap() {
        let mut path = entry.unwrap().path();
        let mut installed = Setup::of(&path);
        if path.ends_with("template.toml") {
            // It names what the package installs.
            installed = installed.with("/usr/share/edgewatt/models/", &format!("{}/", root().join("models").display()));
            path = installed.config();
        }
        let ended = check_file(&path).expect(0);
        assert!(ended.stdout.starts_with(&format!("{}: ok\n", path.display())), "{}", ended.stdout);
        assert!(ended.stdout.contains("[1, 200, 1, 6] int8 -> [1, 7] int8\n"), "{}", ended.stdout);
        assert!(ended.stdout.contains("by xnnpack in a thread; "), "{}", ended.stdout);
    }
}

fn check_file(path: &Path) -> Ended {
    let mut command = edgewatt(&["check", "-c"]);
    command.arg(path);
    Daemon::start(command).wait()
}

#[test]
fn check_reports_each_mistake_at_its_place() {
    let setup = Setup::demo(1)
        .with("mqtt://127.0.0.1:1", "http://broker")
        .with("interval_s = 10.0", "interval_s = 0.0")
        .with("samples = 200, hop = 50", "samples = 200, hop = 0")
        .with("delegate = \"xnnpack\" ", "delegate = \"npu\" ")
        .with("smooth = 3", "smooth = 0");
    let text = std::fs::read_to_string(setup.config()).unwrap();
    let ended = setup.check().expect(78);
    assert_eq!(ended.stdout, "");
    for (written, place) in [
        ("broker = \"http://broker\"", "mqtt.broker"),
        ("interval_s = 0.0", "metrics.interval_s"),
        ("hop = 0", "pipelines.shoulder.window.hop"),
        ("delegate = \"npu\"", "pipelines.shoulder.delegate"),
        ("smooth = 0", "pipelines.shoulder.decision.classify.smooth"),
    ] {
        let (number, line) = text.lines().enumerate().find(|(_, line)| line.contains(written)).unwrap();
        let column = line.find(written).unwrap() + written.find("= ").unwrap() + 3;
        let position = format!("{}:{}:{column}: {place}: ", setup.config().display(), number + 1);
        ended.says(&[&position, &format!(" {} | {line}\n", number + 1)]);
    }
    ended.says(&["cpu", "xnnpack", "mqtt://"]);
}

#[test]
fn once_is_refused_if_a_source_never_ends() {
    let path = format!("path = \"{}\"", root().join("models/shoulder_recording.csv").display());
    let refused = |setup: Setup, fix: &str| {
        setup.start(&["--once"]).wait().expect(1).says(&["--once would never end: pipeline shoulder ", fix]);
    };
    refused(Setup::demo(1).with(&path, &format!("{path}\nloop = true")), "set loop = false");
    let udp = Setup::demo(1)
        .with("source.replay", "source.udp")
        .with(&path, "listen = \"127.0.0.1:5005\"")
        .with("speed = 1.0 ", "# ")
        .with("truth = \"exercise\"", "format = \"ndjson\"");
    refused(udp, "start it without --once");
}

#[test]
fn check_names_both_sides_of_what_does_not_fit() {
    let refused_with = |run: i32, change: &dyn Fn(Setup) -> Setup, parts: &[&str]| {
        let setup = change(Setup::demo(1));
        let ended = setup.check().expect(78);
        ended.says(parts);
        ended.says(&[&format!("{}:", setup.config().display())]);
        // What `check` finds, `run` refuses in the same words.
        let run = setup.start(&["--once"]).wait().expect(run);
        let without_log =
            |text: &str| text.lines().filter(|l| !l.contains(" INFO ")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(without_log(&run.stderr), without_log(&ended.stderr));
    };
    let refused = |change: &dyn Fn(Setup) -> Setup, parts: &[&str]| refused_with(78, change, parts);
    // What is missing may come later.
    let missing = |change: &dyn Fn(Setup) -> Setup, parts: &[&str]| refused_with(75, change, parts);
    let path = |name: &str| format!("{}/{name}", root().join("models").display());
    refused(
        &|s| {
            let six = s.write("six.txt", b"a\nb\nc\nd\ne\nf\n");
            s.with(&path("labels.txt"), &six.display().to_string())
        },
        &["pipelines.shoulder.decision", " 6 ", " 7 "],
    );
    refused(
        &|s| s.with("samples = 200", "samples = 100"),
        &["pipelines.shoulder.window", "[1, 200, 1, 6]", "1200", "[1, 100, 6]", "600"],
    );
    missing(&|s| s.with("shoulder_int8.tflite", "none.tflite"), &["model.path", "models/none.tflite: No such file"]);
    missing(&|s| s.with("labels.txt", "none.txt"), &["model.labels", "models/none.txt: No such file"]);
    let digest = |first: char| format!("sha256 = \"{}\"\nlabels = ", first.to_string().repeat(64));
    refused(&|s| s.with("labels = ", &digest('0')), &["model.sha256", "has the SHA-256", "not 000000"]);
    refused(&|s| s.with("labels = ", &digest('x')), &["model.sha256", "64 hex digits"]);
    missing(&|s| s.with("shoulder_recording.csv", "none.csv"), &["source", "models/none.csv: No such file"]);
    refused(&|s| s.with_keys("[metrics]", "period = 3"), &["unknown key `period`", "interval_s", "| period = 3"]);
    refused(&|s| s.with("[metrics]", "[metrics"), &["| [metrics\n"]);
    let missing = Path::new("/nowhere/edgewatt.toml");
    check_file(missing).expect(78).says(&["/nowhere/edgewatt.toml: ", "No such file"]);
}

#[test]
fn check_judges_every_kind_of_meter() {
    let guess = "estimate = { watts_per_core = 2.0, idle_watts = 2.5 }";
    let check = |meter: &str| Setup::demo(1).with(guess, meter).check();
    for (meter, parts) in [
        ("ina219 = { bus = 1 }", &["shunt_ohms: this key is missing"][..]),
        (
            "ina219 = { bus = 1, shunt_ohms = 0.1, address = 0x39, averages = 3, max_amperes = 3.3, max_volts = 40.0 }",
            &[
                "power.meters.guess.ina219.address: 0x39 is not an address of an INA219; they are 0x40 to 0x4f",
                "ina219.averages: 3 is not offered",
                "ina219.max_amperes: 3.3 is out of range; the chip measures 0.32 V across the shunt, here 3.2 A",
                "ina219.max_volts: 40 is out of range; it must be from 0.1 to 26",
            ],
        ),
        (
            "ina226 = { bus = 1, shunt_ohms = 0.002, address = 0x50 }",
            &["ina226.address: 0x50 is not an address of an INA226; they are 0x40 to 0x4f"],
        ),
        (
            "ina228 = { bus = 1, shunt_ohms = 0.015, max_amperes = 11.0 }",
            &["ina228.max_amperes: 11 is out of range; the chip measures 0.16384 V across the shunt, here 10.922667 A"],
        ),
        ("ina260 = { bus = 1, scope = \"process\" }", &["ina260.scope: a sensor cannot cover the process"]),
        (
            "ina3221 = { bus = 1, shunt_ohms = 0.1, channel = 4, address = 0x44 }",
            &["ina3221.channel: 4 is out of range; it must be from 1 to 3", "they are 0x40 to 0x43"],
        ),
        ("iio = { chip = \"ina219\", shunt_ohms = 0.0 }", &["iio.shunt_ohms: 0 is out of range"]),
        ("replay = { path = \"p.csv\", time = \"t\" }", &["replay: name the column", "either watts or joules"]),
        (
            "replay = { path = \"p.csv\", time = \"t\", watts = \"p\", joules = \"e\" }",
            &["replay: name the column", "either watts or joules"],
        ),
        ("rapl = { interface = \"msr\" }", &["expected one of \"perf\" and \"powercap\""]),
    ] {
        check(meter).expect(78).says(parts);
    }
    // What is absent is no fault of the configuration; where and why is said.
    for (meter, part) in [
        ("ina219 = { bus = 250, shunt_ohms = 0.1, max_amperes = 3.2 }", "/dev/i2c-250: no such bus; load"),
        ("ina3221 = { bus = 250, shunt_ohms = 0.1, channel = 3 }", "/dev/i2c-250: no such bus; load"),
        ("iio = { chip = \"ina226\", shunt_ohms = 0.1 }", "bus/iio/devices: no device \"ina226\"; found: none"),
        ("replay = { path = \"none.csv\", time = \"t\", watts = \"p\" }", "/none.csv: no such file"),
    ] {
        let stdout = check(meter).expect(0).stdout;
        assert!(stdout.contains("meter guess: no reading now: ") && stdout.contains(part), "{part} in {stdout}");
    }
}

#[test]
fn inspect_describes_the_models_as_text_and_json() {
    let card = json_file(&root().join("models/metrics.json"));
    for model in ["fp32", "int8", "pruned_int8"] {
        let path = root().join(format!("models/shoulder_{model}.tflite"));
        let inspect = |args: &[&str]| {
            let mut command = edgewatt(&["inspect"]);
            command.args(args).arg(&path);
            Daemon::start(command).wait().expect(0).stdout
        };
        let (text, json): (String, Value) = (inspect(&[]), serde_json::from_str(&inspect(&["--json"])).unwrap());
        assert!(text.contains("CONV_2D") && text.contains("weights: "), "{text}");
        let of_model = &card["recording"][model];
        assert_eq!(json["file_bytes"], of_model["bytes"]);
        assert_eq!(json["weights"]["kernel_weights"], of_model["sparsity"]["weights"]);
        let sparsity = json["weights"]["sparsity"].as_f64().unwrap();
        assert!((sparsity - of_model["sparsity"]["zero_share"].as_f64().unwrap()).abs() < 1e-6, "{sparsity}");
        let operators = json["main"]["operators"].as_array().unwrap();
        let count: u64 = operators.iter().map(|o| o["count"].as_u64().unwrap()).sum();
        assert_eq!(count, of_model["operators"].as_array().unwrap().len() as u64);
    }
    Daemon::start(edgewatt(&["inspect", "/nowhere.tflite"])).wait().expect(1).says(&["/nowhere.tflite"]);
}

#[test]
fn completions_are_scripts_that_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Daemon::start(edgewatt(&["completions", shell])).wait().expect(0).stdout;
        assert!(["run", "check", "doctor", "inspect", "watch"].iter().all(|c| script.contains(c)), "{shell}: {script}");
    }
}
