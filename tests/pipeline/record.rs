//! `edgewatt record` and the replay of what it wrote: the same windows, whatever ends the recording.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use edgewatt_support::daemon::{Daemon, Ended, PATIENCE, Setup, wait_until};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::root;
use edgewatt_support::wire::Wire;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

const LINES: &str = "lines = { from = 'stdin', records = { channels = ['x', 'y'], rate_hz = 100.0, time = 't' } }";
const SOUND: &str = "raw = { from = 'stdin', bytes = { format = 's16le', channels = 2, rate_hz = 16000.0 } }";

/// A pipeline with that source, whose predictions are the values of its windows, negated.
fn setup(port: u16, source: &str) -> Setup {
    let folder = TempDir::new().unwrap();
    let model = root().join("tests/models/open_input.tflite");
    let text = format!(
        "[node]\nid = 'n'\n[mqtt]\nbroker = 'mqtt://127.0.0.1:{port}'\nstore = {{ enabled = false }}\n[pipelines.p]\nsource.{source}\n\
         window = {{ samples = 8, hop = 5 }}\nmodel.path = '{}'\ndecision.raw = {{}}\n",
        model.display()
    );
    let path = folder.path().join("edgewatt.toml");
    std::fs::write(&path, text).unwrap();
    Setup::of(&path)
}

fn replay(path: &Path) -> String {
    format!("replay = {{ path = '{}', speed = 'max' }}", path.display())
}

/// Lines with jitter, gaps in time, bad records and numbers that need all their digits.
fn lines() -> String {
    let mut text = "t,x,y\n".to_owned();
    let mut ms = 1_700_000_000_000u64;
    for i in 0..2_000u32 {
        ms += match i {
            500 | 1_234 => 5_000,
            700 => 0,
            _ => 9 + u64::from(i % 3),
        };
        let value = f64::from(i).sin() / 3.0;
        match i {
            800..805 => writeln!(text, "{:.3},broken,{value}", ms as f64 / 1e3).unwrap(),
            _ => writeln!(text, "{:.3},{value},{:e}", ms as f64 / 1e3, value * 1e-20).unwrap(),
        }
    }
    text
}

fn sound(frames: usize) -> Vec<u8> {
    let value = |i: usize| (i.wrapping_mul(7_919) % 65_536) as u16;
    (0..2 * frames).flat_map(|i| value(i).to_le_bytes()).collect()
}

/// Starts a program that reads `input` and then the end of it.
fn fed(mut command: Command, input: &[u8]) -> Daemon {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // It may end before it has read everything.
    std::thread::spawn(move || _ = stdin.write_all(&input));
    Daemon::adopt(child)
}

/// What `run --once` publishes of each window, and its counts of gaps.
fn predicted(broker: &Mosquitto, source: &str, input: &[u8]) -> (Vec<[String; 3]>, Value) {
    let mut subscriber = broker.subscribe("edgewatt/#");
    let ended = fed(setup(broker.port, source).command("run", &["--once", "--json"]), input).wait().expect(0);
    let lines = subscriber.until(|line| line.starts_with("edgewatt/n/status") && line.contains("offline"));
    let summary: Value = serde_json::from_str(&ended.stdout).unwrap();
    let counts = summary["pipelines"][0]["counts"].clone();
    let shown = |value: &Value| [value["seq"].to_string(), value["stream_s"].to_string(), value["outputs"].to_string()];
    let predictions: Vec<[String; 3]> = Wire::new(lines).predictions().iter().map(shown).collect();
    assert_eq!(counts["predictions"], predictions.len());
    (predictions, counts)
}

fn record(setup: &Setup, output: &Path, more: &[&str]) -> Command {
    let output = output.to_str().unwrap();
    setup.command("record", &[&["--output", output][..], more].concat())
}

fn manifest(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn sha256(path: &Path) -> String {
    let ended = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(ended.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn lines_that_were_recorded_are_predicted_byte_by_byte_the_same() {
    let (broker, folder, text) = (Mosquitto::running(), TempDir::new().unwrap(), lines());
    let (original, counts) = predicted(&broker, LINES, text.as_bytes());
    assert!(original.len() > 300 && original[0][1] != "null" && counts["gaps"]["time_jump"] == 3, "{counts}");
    for format in ["csv", "raw"] {
        let at = folder.path().join(format!("walk.{format}"));
        let ended = fed(record(&setup(broker.port, LINES), &at, &[]), text.as_bytes()).wait().expect(0);
        assert!(ended.stdout.contains("walk.json: 1995 samples, "), "{}", ended.stdout);
        let path = folder.path().join("walk.json");
        let manifest = manifest(&path);
        assert_eq!((&manifest["complete"], &manifest["ended"]), (&true.into(), &"source_ended".into()));
        assert_eq!((&manifest["frames"], &manifest["rejected"]["malformed"]), (&1995.into(), &5.into()));
        assert_eq!(manifest["data"]["sha256"], sha256(&at));
        let (played, played_counts) = predicted(&broker, &replay(&path), b"");
        assert_eq!(played, original, "{format}");
        assert_eq!(played_counts["gaps"], counts["gaps"]);
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3, "data twice, and a list of blocks");
}

#[test]
fn sound_that_was_recorded_is_a_wav_file_and_predicted_the_same() {
    let (broker, folder, sound) = (Mosquitto::running(), TempDir::new().unwrap(), sound(20_000));
    let (original, _) = predicted(&broker, SOUND, &sound);
    assert_eq!((original.len(), original[0][1].as_str()), (3999, "null"));
    let setup = setup(broker.port, SOUND);
    fed(record(&setup, &folder.path().join("tone"), &[]), &sound).wait().expect(0);
    let (json, wav) = (folder.path().join("tone.json"), folder.path().join("tone.wav"));
    assert_eq!(manifest(&json)["data"]["sha256"], sha256(&wav));
    assert_eq!(predicted(&broker, &replay(&json), b"").0, original);
    let (by_header, _) = predicted(&broker, &replay(&wav), b"");
    let values = |all: &[[String; 3]]| all.iter().map(|[_, _, values]| values.clone()).collect::<Vec<_>>();
    assert_eq!(values(&by_header), values(&original));
    assert_eq!(by_header[0][1], (7.0f64 * 62_500.0 / 1e9).to_string(), "the time of the eighth frame");
    let python = "import sys, wave\nw = wave.open(sys.argv[1])\nprint(w.getparams()[:4], w.readframes(10**9) == open(sys.argv[2], 'rb').read())";
    let raw = folder.path().join("tone.raw");
    std::fs::write(&raw, &sound).unwrap();
    let read = Command::new("python3").args(["-c", python]).args([&wav, &raw]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&read.stdout), "(2, 2, 16000, 20000) True\n");

    // The bytes end it, too; and nothing is replaced unless that is asked for.
    let again = |more: &[&str]| fed(record(&setup, &folder.path().join("tone.wav"), more), &sound).wait();
    again(&["--bytes", "4k"]).expect(1).says(&["tone.json exists", "--force"]);
    again(&["--bytes", "4k", "--force"]).expect(0);
    let manifest = manifest(&json);
    assert_eq!(
        (&manifest["ended"], &manifest["frames"], &manifest["data"]["bytes"]),
        (&"bytes".into(), &989.into(), &4000.into())
    );
    assert_eq!(std::fs::metadata(&wav).unwrap().len(), 4000);
}

/// A recording of lines whose writer stays; returns when all of them are with the kernel.
fn recording(setup: &Setup, folder: &Path, more: &[&str]) -> (Daemon, std::process::ChildStdin, PathBuf) {
    let mut command = record(setup, &folder.join("walk"), more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines().as_bytes()).unwrap();
    let daemon = Daemon::adopt(child);
    let data = folder.join("walk.csv");
    let text = || std::fs::read_to_string(&data).unwrap_or_default();
    wait_until(|| format!("all lines in the recording; {}", daemon.log()), || text().lines().count() == 1 + 1995);
    (daemon, stdin, folder.join("walk.json"))
}

#[test]
fn a_recording_that_is_stopped_or_killed_plays() {
    let (broker, folder) = (Mosquitto::running(), TempDir::new().unwrap());
    let (original, _) = predicted(&broker, LINES, lines().as_bytes());
    let setup = setup(broker.port, LINES);
    let (daemon, stdin, path) = recording(&setup, folder.path(), &[]);
    daemon.signal(Signal::SIGINT);
    let ended = daemon.wait().expect(0);
    assert!(ended.stdout.contains("1995 samples"), "{}", ended.stdout);
    let complete = manifest(&path);
    assert_eq!((&complete["ended"], &complete["complete"]), (&"stopped".into(), &true.into()));
    assert_eq!(predicted(&broker, &replay(&path), b"").0, original);
    drop(stdin);

    let (daemon, stdin, path) = recording(&setup, folder.path(), &["--force"]);
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.wait().status.code(), None);
    drop(stdin);
    assert_eq!(manifest(&path)["complete"], false);
    assert_eq!(predicted(&broker, &replay(&path), b"").0, original, "all that was written plays");
    let checked = setup_of_replay(&broker, &path).check().expect(0);
    assert!(
        checked.stdout.contains("warning: the recording: the recording was not ended in order"),
        "{}",
        checked.stdout
    );
    // A line that was not written to its end is not taken for one.
    let data = folder.path().join("walk.csv");
    let text = std::fs::read(&data).unwrap();
    std::fs::write(&data, &text[..text.len() - 5]).unwrap();
    let (cut, counts) = predicted(&broker, &replay(&path), b"");
    assert_eq!((cut.as_slice(), &counts["samples"]), (&original[..cut.len()], &1994.into()));
}

fn setup_of_replay(broker: &Mosquitto, path: &Path) -> Setup {
    setup(broker.port, &replay(path))
}

/// Runs a program that can write files of so many bytes, as on a full disk.
fn limited(command: &Command, bytes: u64) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--fsize={bytes}")).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

#[test]
fn what_was_recorded_before_the_disk_was_full_is_whole() {
    let (broker, folder, sound) = (Mosquitto::running(), TempDir::new().unwrap(), sound(500_000));
    let (original, _) = predicted(&broker, SOUND, &sound[..4 * 100_000]);
    let setup = setup(broker.port, SOUND);
    for format in ["wav", "raw"] {
        let command = record(&setup, &folder.path().join("tone"), &["--format", format]);
        let ended = fed(limited(&command, 700_001), &sound).wait().expect(1);
        ended.says(&["cannot write", &format!("tone.{format}"), "File too large", "what was recorded is good"]);
        let (path, data) = (folder.path().join("tone.json"), folder.path().join(format!("tone.{format}")));
        let manifest = manifest(&path);
        assert_eq!((&manifest["ended"], &manifest["complete"]), (&"write_failed".into(), &true.into()));
        assert_eq!(manifest["data"]["sha256"], sha256(&data));
        let frames = manifest["frames"].as_u64().unwrap();
        let header = if format == "wav" { 44 } else { 0 };
        assert!(frames > 50_000, "{frames}");
        assert_eq!(std::fs::metadata(&data).unwrap().len(), header + 4 * frames);
        let (played, _) = predicted(&broker, &replay(&path), b"");
        let same = played.len().min(original.len());
        assert!(same > 9_000 && played[..same] == original[..same], "{same}");
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(folder.path().join("tone.blocks.csv")).unwrap();
    }
}

#[test]
fn what_cannot_be_recorded_is_said_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("walk");
    let refused = |source: &str, more: &[&str], input: &str| -> Ended {
        fed(record(&setup(1, source), &at, more), input.as_bytes()).wait()
    };
    refused(LINES, &["--format", "wav"], "").expect(1).says(&["WAV is for sound of 16 bits", "use --format raw"]);
    refused(SOUND, &["--format", "csv"], "").expect(1).says(&["CSV is for", "the stream has [2] i16"]);
    refused(LINES, &["--pipeline", "q"], "").expect(2).says(&["there is no pipeline q; the pipelines are p"]);
    refused(LINES, &[], "t,x,y\nno,record\n")
        .expect(1)
        .says(&["nothing was recorded", "the source gave no sample; 1 rejected"]);
    refused(LINES, &[], "a,b\n").expect(1).says(&["nothing was recorded"]);
    refused(LINES, &["--seconds", "0"], "").expect(2);
    let nowhere = folder.path().join("no/walk");
    let ended = fed(record(&setup(1, LINES), &nowhere, &[]), b"").wait().expect(1);
    ended.says(&["there is no folder", "mkdir -p", "/no"]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_recording_ends_with_the_program_and_fails_with_it() {
    let folder = TempDir::new().unwrap();
    // A source is enough.
    let source = |script: &str| {
        let path = folder.path().join("edgewatt.toml");
        let exec = "records = { channels = ['x'], columns = ['x'] }";
        let text = format!("[pipelines.\"my.p\".source.exec]\ncommand = ['sh', '-c', '{script}']\n{exec}\n");
        std::fs::write(&path, text).unwrap();
        Setup::of(&path)
    };
    let at = folder.path().join("walk.mp3");
    let ended = Daemon::start(record(&source("seq 1 50"), &at, &[])).wait_at_most(PATIENCE).expect(0);
    assert!(ended.stdout.contains("walk.mp3.json: 50 samples, "), "{}", ended.stdout);
    assert!(ended.stdout.contains(" of csv; the source has ended"), "{}", ended.stdout);
    ended.says(&["the data is written as csv into", "walk.mp3.csv, not as mp3; the formats are csv, wav and raw"]);
    let at = folder.path().join("run.json");
    let ended = Daemon::start(record(&source("echo 1; exit 3"), &at, &[])).wait_at_most(PATIENCE).expect(1);
    ended.says(&["the recording ended early", "sh ended with exit code 3"]);
    assert_eq!(manifest(&at)["ended"], "source_failed");
}

#[test]
fn two_recordings_of_one_name_do_not_destroy_each_other() {
    let folder = TempDir::new().unwrap();
    let setup = setup(1, LINES);
    let (daemon, stdin, path) = recording(&setup, folder.path(), &[]);
    for more in [&[][..], &["--force"], &["--force", "--format", "raw"]] {
        let ended = fed(record(&setup, &folder.path().join("walk"), more), b"t,x,y\n0,1,2\n").wait().expect(1);
        ended.says(&["another program writes", "walk.json now: it is edgewatt (pid ", "name another file"]);
    }
    drop(stdin);
    daemon.wait().expect(0);
    assert_eq!((&manifest(&path)["frames"], &manifest(&path)["complete"]), (&1995.into(), &true.into()));
}

#[test]
fn a_source_that_the_daemon_reads_is_not_taken_from_it() {
    let (broker, folder) = (Mosquitto::running(), TempDir::new().unwrap());
    let setup = setup(broker.port, "lines = { from = { socket = 's.sock' }, records = { channels = ['x'] } }");
    let mut daemon = setup.start(&[]);
    daemon.in_log("the start", |log| log.contains("connected to the MQTT broker").then_some(()));
    wait_until(|| daemon.log(), || setup.dir.path().join("s.sock").exists());
    let ended = Daemon::start(record(&setup, folder.path(), &["--seconds", "1"])).wait_at_most(PATIENCE).expect(1);
    ended.says(&["the daemon with this configuration runs", "s.sock; stop it first"]);
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}
