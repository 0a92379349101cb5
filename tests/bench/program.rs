//! The real binary on the demo's models.

use std::path::Path;
use std::time::Duration;

use edgewatt::measure::bench::report::{
    Agreement, CellReport, DelegateReport, Machine, ModelReport, PlanReport, Report,
};
use edgewatt::units::WallTime;
use edgewatt_support::daemon::{Daemon, Ended, edgewatt};
use edgewatt_support::root;
use nix::sys::signal::Signal;
use serde_json::Value;

/// A report without cells.
pub(crate) fn empty_report() -> Report {
    Report {
        v: 1,
        edgewatt: String::new(),
        time_ms: WallTime(0),
        machine: Machine::default(),
        runtime: String::new(),
        plan: PlanReport { rounds: 0, rounds_done: 0, run_s: 0.0, idle_s: 0.0, is_quick: false },
        windows: String::new(),
        warnings: Vec::new(),
        other_programs: None,
        no_energy: None,
        baseline: None,
        cells: Vec::new(),
    }
}

/// A cell that has not run yet.
pub(crate) fn empty_cell() -> CellReport {
    let delegate = DelegateReport {
        name: String::new(),
        kind: String::new(),
        isolation: String::new(),
        library_version: None,
        proof: Value::Null,
    };
    CellReport {
        name: String::new(),
        model: ModelReport { name: String::new(), sha256: String::new(), bytes: 0 },
        delegate,
        threads: None,
        batch: 1,
        failure: None,
        speed: None,
        energy: Default::default(),
        memory_mib: None,
        agreement: Agreement { windows: 0, top1: None, largest_difference: None, reason: None },
        accuracy: None,
        against_baseline: None,
        rounds: Vec::new(),
        profile: None,
    }
}

fn model(name: &str) -> String {
    root().join("models").join(name).display().to_string()
}

fn demo() -> String {
    root().join("config/demo.toml").display().to_string()
}

/// Runs `edgewatt bench` with short runs. They say nothing of a machine, and all of the program.
fn bench(args: &[&str]) -> Ended {
    let mut command = edgewatt(&["bench", "--run-s", "0.02"]);
    if !args.contains(&"--rounds") {
        command.args(["--rounds", "3"]);
    }
    command.args(args);
    Daemon::start(command).wait()
}

fn json(args: &[&str]) -> Value {
    let ended = bench(&[args, &["--json"]].concat()).expect(0);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// Everything in `parts` is on standard output.
#[track_caller]
fn shows(ended: &Ended, parts: &[&str]) {
    for part in parts {
        assert!(ended.stdout.contains(part), "`{part}` is missing in:\n{}", ended.stdout);
    }
}

#[test]
fn a_pipeline_is_measured_with_its_recording_its_classes_and_its_meter() {
    let fp32 = model("shoulder_fp32.tflite");
    let int8 = model("shoulder_int8.tflite");
    let report = json(&["-c", &demo(), &fp32, &int8, "-d", "isolated", "-b", "1,8"]);
    let cells = report["cells"].as_array().unwrap();
    let names: Vec<&str> = cells.iter().map(|cell| cell["name"].as_str().unwrap()).collect();
    let expected = ["fp32/isolated", "fp32/isolated/batch 8", "int8/isolated", "int8/isolated/batch 8"];
    assert_eq!(names, expected.map(|name| format!("shoulder_{name}")));
    for cell in cells {
        assert!(cell["failure"].is_null(), "{cell:#}");
        let (speed, batch) = (&cell["speed"], cell["batch"].as_f64().unwrap());
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{cell:#}"));
        let [p50, p99] = ["p50_ms", "p99_ms"].map(|name| number(&speed[name]["value"]));
        let max = number(&speed["max_ms"]);
        assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{cell:#}");
        // An engine in a process may take two times by turns, so that the median is far from the mean.
        assert!(number(&speed["windows_per_s"]["value"]) < 3.0 * batch * 1e3 / p50, "{cell:#}");
        assert!(
            number(&cell["accuracy"]["right"]["value"]) > 0.7 && number(&cell["agreement"]["top1"]) > 0.9,
            "{cell:#}"
        );
        assert!(number(&cell["memory_mib"]) > 5.0 && cell["rounds"].as_array().unwrap().len() == 3);
        let energy = &cell["energy"]["guess"];
        assert_eq!(energy["status"], "estimated", "{cell:#}");
        assert!(number(&energy["gross_mj"]["value"]) > 0.0 && energy["gross_mj"]["expanded"].is_null());
    }
    assert_eq!(report["baseline"], "shoulder_fp32/isolated");
    assert!(cells[0]["against_baseline"].is_null() && cells[1]["against_baseline"]["time"]["ratio"].is_f64());
    assert!(cells[0]["agreement"]["largest_difference"].as_f64().unwrap() < 1e-3);
    assert_eq!(cells[0]["delegate"]["proof"]["nodes_total"], 9);
}

#[test]
fn bare_models_run_on_windows_of_a_file_or_on_random_ones() {
    let folder = tempfile::tempdir().unwrap();
    let windows = folder.path().join("windows.csv");
    let line = |class: usize| format!("{},{class}\n", vec!["0.1"; 1200].join(","));
    std::fs::write(&windows, line(0) + &line(6)).unwrap();
    let windows = windows.display().to_string();
    let int8 = model("shoulder_int8.tflite");
    let report = json(&[&int8, "--windows", &windows, "-d", "cpu", "-t", "1,2"]);
    assert_eq!(report["windows"], "2 windows of windows.csv");
    assert_eq!(report["cells"][1]["name"], "shoulder_int8/cpu/2 threads");
    // Both windows are the same, so at most one of their classes is right.
    assert!(report["cells"][0]["accuracy"]["right"]["value"].as_f64().unwrap() <= 0.5);
    assert!(report["no_energy"].as_str().unwrap().starts_with("no configuration with a meter was named"));
    let random = json(&[&int8, "--random", "-d", "xnnpack"]);
    assert_eq!(
        (random["windows"].as_str(), &random["cells"][0]["accuracy"]),
        (Some("64 random windows"), &Value::Null)
    );
}

#[test]
fn what_is_wrong_is_said_and_other_cells_still_run() {
    let int8 = model("shoulder_int8.tflite");
    let refused = |args: &[&str], status: i32, says: &[&str]| bench(args).expect(status).says(says);
    refused(&[&int8], 2, &["name real windows with --windows FILE, or use --random"]);
    refused(&[&int8, "--random", "-d", "tpu"], 2, &["there is no delegate tpu; there are cpu, xnnpack"]);
    refused(&["-c", &demo(), "-p", "x"], 2, &["there is no pipeline x"]);
    refused(&[&int8, "--random", "-b", "0"], 2, &["it must be from 1 to 4096"]);
    refused(&["nothing.tflite", "--random"], 1, &["cannot read nothing.tflite"]);
    let stateful = root().join("tests/models/state_pair.tflite").display().to_string();
    let fixed = root().join("tests/models/fixed_batch.tflite").display().to_string();
    let ended = bench(&[&int8, &fixed, &stateful, "--random", "-d", "cpu"]).expect(1);
    shows(&ended, &["shoulder_int8/cpu", "failed"]);
}

#[test]
fn the_results_are_a_table_csv_a_page_and_a_file_to_share() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (page, shared) = (file("report.html"), file("shared.json"));
    let int8 = model("shoulder_int8.tflite");
    let args = ["-c", &demo(), &int8, "-d", "xnnpack,cpu", "-b", "1,4", "--html", &page, "--share", &shared];
    let table = bench(&[&args[..], &["--recommend", "--rate", "10", "--p99-ms", "1000"]].concat()).expect(0);
    shows(
        &table,
        &[
            "p50/ms",
            "shoulder_int8/cpu/batch 4",
            "compared with shoulder_int8/xnnpack",
            "at 10.0 windows/s, chosen by the power that guess shows",
            "model.path =",
        ],
    );
    let page = std::fs::read_to_string(&page).unwrap();
    assert_eq!(page.matches("<figure").count(), 4, "latency, energy, power and batches");
    assert!(!page.contains("<script") && !page.contains("src="), "the page needs nothing besides itself");
    let shared = std::fs::read_to_string(&shared).unwrap();
    assert!(!shared.contains("shoulder_recording") && !shared.contains(&root().display().to_string()), "{shared}");
    let csv = bench(&[&args[..], &["--csv"]].concat()).expect(0).stdout;
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 5);
    assert!(lines.iter().all(|line| line.split(',').count() == lines[0].split(',').count()), "{csv}");
}

#[test]
fn what_is_done_counts_when_it_is_stopped() {
    let int8 = model("shoulder_int8.tflite");
    let args = ["bench", "--rounds", "1000", "--run-s", "0.02", &int8, "--random", "-d", "xnnpack", "--json"];
    let mut bench = Daemon::start(edgewatt(&args));
    bench.in_log("the trial", |log| log.contains("trying shoulder_int8/xnnpack").then_some(()));
    std::thread::sleep(Duration::from_secs(3));
    bench.signal(Signal::SIGINT);
    let stopped = bench.wait().expect(1);
    let report: Value = serde_json::from_str(&stopped.stdout).unwrap();
    let done = report["plan"]["rounds_done"].as_u64().unwrap();
    assert!((1..1000).contains(&done), "{done}");
    assert_eq!(report["cells"][0]["rounds"].as_array().unwrap().len() as u64, done);
    assert!(report["cells"][0]["speed"]["p50_ms"]["value"].as_f64().unwrap() > 0.0);
}

#[test]
fn two_benches_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, delegate: &str| {
        let report = bench(&[&model("shoulder_int8.tflite"), "--random", "--rounds", "7", "-d", delegate, "--json"]);
        // The same cell by name, so that it can be compared.
        let json = report.expect(0).stdout.replace("shoulder_int8/cpu", "shoulder_int8/xnnpack");
        let path = folder.path().join(name);
        std::fs::write(&path, json).unwrap();
        path
    };
    let compare = |before: &Path, after: &Path| {
        Daemon::start(edgewatt(&["bench", "compare", before.to_str().unwrap(), after.to_str().unwrap()])).wait()
    };
    let (fast, slow) = (write("fast.json", "xnnpack"), write("slow.json", "cpu"));
    shows(&compare(&fast, &fast).expect(0), &["no difference shows", "no cell became worse"]);
    shows(&compare(&fast, &slow).expect(1), &["WORSE", "changed: what the delegate runs", "1 cell became worse"]);
    shows(&compare(&slow, &fast).expect(0), &["times ("]);
    std::fs::write(folder.path().join("other.json"), "{\"v\": 9}").unwrap();
    compare(&fast, &folder.path().join("other.json"))
        .expect(1)
        .says(&["it has version 9, and this edgewatt reads version 1"]);
}
