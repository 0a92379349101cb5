//! A daemon whose configuration is edited while it runs, and all that a subscriber has received of it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::daemon::{Daemon, Ended, Setup};
use crate::mosquitto::{Mosquitto, Subscriber};
use crate::plugin::test_delegate;
use crate::root;
use crate::wire::Wire;

pub const RECORDS: &str = "[pipelines.shoulder.source.replay.records]";
pub const REPLAY: &str = "[pipelines.shoulder.source.replay]";
const OFFLINE: &str = "edgewatt/demo/status offline";
const HEADER: &str = "time_s,ax,ay,az,wx,wy,wz,exercise\n";

/// The demo at a hundred times real time, over and over, with room for a machine that stalls.
pub fn paced(setup: Setup) -> Setup {
    setup
        .at_speed("100.0")
        .with_keys(REPLAY, "loop = true")
        .with("interval_s = 10.0", "interval_s = 0.3")
        .with(RECORDS, &format!("[pipelines.shoulder.source.replay.buffer]\nsamples = 65536\n\n{RECORDS}"))
}

/// The demo with its samples from standard input.
pub fn from_stdin(setup: Setup) -> Setup {
    let demo = root().join("models/shoulder_recording.csv");
    setup
        .with("source.replay", "source.lines")
        .with(&format!("path = \"{}\"\n", demo.display()), "from = \"stdin\"\n")
        .with("speed = 1.0 ", "# ")
        .with("interval_s = 10.0", "interval_s = 0.3")
}

/// The values of the demo's recording, as they stand in its lines behind the time.
pub fn recorded_values() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("models/shoulder_recording.csv")).unwrap();
    text.lines().skip(1).map(|line| line.split_once(',').unwrap().1.to_owned()).collect()
}

/// A recording of `samples` samples without a gap, the first at `start_s`.
pub fn even_recording(samples: usize, start_s: f64) -> String {
    let values = recorded_values();
    let mut text = HEADER.to_owned();
    for (index, values) in values.iter().cycle().take(samples).enumerate() {
        writeln!(text, "{:.2},{values}", start_s + 0.02 * index as f64).unwrap();
    }
    text
}

pub struct Rig {
    pub setup: Setup,
    pub daemon: Daemon,
    pub broker: Mosquitto,
    subscriber: Subscriber,
    pub lines: Vec<String>,
    /// How many of them had come before the latest reload.
    before: usize,
}

impl Rig {
    pub fn start(setup: impl FnOnce(Setup) -> Setup) -> Self {
        Self::with_args(setup, &[])
    }

    pub fn with_args(setup: impl FnOnce(Setup) -> Setup, args: &[&str]) -> Self {
        let broker = Mosquitto::running();
        let subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
        let setup = setup(Setup::demo(broker.port));
        let daemon = setup.start(args);
        Self { setup, daemon, broker, subscriber, lines: Vec::new(), before: 0 }
    }

    /// Reads standard input, ends when that ends; what comes in is the feeder's business.
    pub fn fed(setup: impl FnOnce(Setup) -> Setup) -> (Self, Feeder) {
        let broker = Mosquitto::running();
        let subscriber = Subscriber::at_qos(broker.port, "edgewatt/#", 1);
        let setup = setup(from_stdin(Setup::demo(broker.port)));
        let mut command = setup.command("run", &["--once"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let feeder = Feeder::start(child.stdin.take().unwrap());
        (Self { setup, daemon: Daemon::adopt(child), broker, subscriber, lines: Vec::new(), before: 0 }, feeder)
    }

    /// Changes the file, of which the daemon is not told yet.
    pub fn edit(self, old: &str, new: &str) -> Self {
        let setup = self.setup.with(old, new);
        setup.config();
        Self { setup, ..self }
    }

    /// The line of the file on which `text` begins, counted from one.
    pub fn line_of(&self, text: &str) -> usize {
        let file = std::fs::read_to_string(self.setup.dir.path().join("edgewatt.toml")).unwrap();
        let before = file.split(text).next().unwrap();
        assert!(before.len() < file.len(), "`{text}` is not in\n{file}");
        before.matches('\n').count() + 1
    }

    /// Has the file read again; the event that says how that went.
    #[track_caller]
    pub fn reload(&mut self) -> Value {
        self.before = self.lines.len();
        self.daemon.signal(Signal::SIGHUP);
        self.event("reload")
    }

    /// As [`Rig::reload`], which must be refused with all of `parts`, also in the log.
    #[track_caller]
    pub fn refused(&mut self, parts: &[&str]) -> String {
        let event = self.reload();
        let message = event["message"].as_str().unwrap().to_owned();
        assert_eq!(event["event"], "reload_failed", "{event}");
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in {message}");
        }
        let first = message.lines().next().unwrap().to_owned();
        self.daemon.in_log(&first, |log| log.contains(&first).then_some(()));
        message
    }

    /// As [`Rig::reload`], which must do what `told` says.
    #[track_caller]
    pub fn reloaded(&mut self, told: &str) {
        let event = self.reload();
        assert_eq!(event["event"], "reload", "{event}");
        assert!(event["message"].as_str().unwrap().ends_with(told), "{event}");
    }

    /// The next event whose name begins like that.
    pub fn event(&mut self, name: &str) -> Value {
        let name = format!("\"event\":\"{name}");
        let line = self.until(|line| line.contains("/event ") && line.contains(&name));
        serde_json::from_str(line.split_once(' ').unwrap().1).unwrap()
    }

    /// Receives until `last` holds, and returns that line.
    pub fn until(&mut self, last: impl FnMut(&str) -> bool) -> String {
        self.lines.extend(self.subscriber.until(last));
        self.lines.last().unwrap().clone()
    }

    /// The `info` since the latest reload that has all of `parts`; states and events come in any order.
    pub fn info(&mut self, parts: &[&str]) -> Value {
        self.state("info", parts)
    }

    /// The same of any topic that says a state.
    pub fn state(&mut self, topic: &str, parts: &[&str]) -> Value {
        let topic = format!("edgewatt/demo/{topic} ");
        let holds = |line: &str| line.starts_with(&topic) && parts.iter().all(|part| line.contains(part));
        let known = self.lines[self.before..].iter().find(|line| holds(line)).cloned();
        let line = known.unwrap_or_else(|| self.until(holds));
        serde_json::from_str(line.split_once(' ').unwrap().1).unwrap()
    }

    /// Receives so many predictions more of a pipeline.
    pub fn more_predictions(&mut self, pipeline: &str, count: usize) {
        let topic = format!("/p/{pipeline}/prediction ");
        let mut seen = 0;
        self.until(|line| {
            seen += usize::from(line.contains(&topic));
            seen == count
        });
    }

    /// The `info` and each pipeline's `status` that a subscriber finds who comes now.
    pub fn retained(&self) -> Wire {
        // Where predictions come all the time, one could wait for ever for the last of what was retained.
        let topics = ["edgewatt/demo/info", "edgewatt/demo/p/+/status"];
        Wire::new(topics.iter().flat_map(|topic| self.broker.subscribe(topic).retained()).collect())
    }

    pub fn wire(&self) -> Wire {
        Wire::new(self.lines.clone())
    }

    /// Ends it by a signal, in order.
    pub fn stop(self) -> (Ended, Wire) {
        self.daemon.signal(Signal::SIGTERM);
        self.end(0)
    }

    /// Waits for its end, with that exit code.
    pub fn end(mut self, code: i32) -> (Ended, Wire) {
        let ended = self.daemon.wait().expect(code);
        self.lines.extend(self.subscriber.until(|line| line == OFFLINE));
        (ended, Wire::new(self.lines))
    }
}

/// Writes samples without a gap to a daemon's standard input, at a hundred times real time, until it is told to end.
pub struct Feeder {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Feeder {
    fn start(mut to: impl Write + Send + 'static) -> Self {
        let done = Arc::<AtomicBool>::default();
        let told = done.clone();
        let thread = std::thread::spawn(move || {
            to.write_all(HEADER.as_bytes()).unwrap();
            let values = recorded_values();
            let mut written = 0;
            while !told.load(Ordering::Relaxed) {
                let mut lines = String::new();
                for _ in 0..25 {
                    let values = &values[written as usize % values.len()];
                    writeln!(lines, "{:.2},{values}", 0.02 * written as f64).unwrap();
                    written += 1;
                }
                to.write_all(lines.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            written
        });
        Self { done, thread: Some(thread) }
    }

    /// Closes the daemon's input; how many samples went through it.
    pub fn finish(mut self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Messages of one pipeline.
pub fn of(wire: &Wire, pipeline: &str) -> Wire {
    let part = format!("/p/{pipeline}/");
    Wire(wire.0.iter().filter(|(topic, _)| topic.contains(&part)).cloned().collect())
}

/// Every window of the pipeline was published once, in order, and nothing was dropped.
#[track_caller]
pub fn assert_nothing_lost(wire: &Wire, pipeline: &str) {
    let wire = of(wire, pipeline);
    let metrics = wire.metrics();
    let counts = &metrics["counts"];
    assert!(counts["drops"].as_object().unwrap().values().all(|drops| drops == 0), "{counts}");
    assert_eq!(wire.seqs(), Vec::from_iter(0..counts["predictions"].as_u64().unwrap()));
    assert_eq!(counts["windows"], counts["predictions"]);
}

/// The writing end, held open: whether or not a reader is there yet, and whether or not more is to come.
pub fn open_fifo(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

pub const XNNPACK: &str = "\ndelegate = \"xnnpack\" ";

/// What of the demo's model is left to the plugin, for a debug build is slow at convolutions.
const QUICK: (&str, &str) = ("operators", "FULLY_CONNECTED,SOFTMAX");

/// Adds the plugin by that name, with those options.
pub fn with_plugin(setup: Setup, name: &str, options: &[(&str, &str)]) -> Setup {
    let options: Vec<String> =
        options.iter().chain([&QUICK]).map(|(key, value)| format!("{key} = \"{value}\"")).collect();
    let library = test_delegate();
    let external =
        format!("external = {{ library = \"{}\", options = {{ {} }} }}", library.display(), options.join(", "));
    setup.with("\n[pipelines.shoulder]\n", &format!("\n[delegates.{name}]\n{external}\n\n[pipelines.shoulder]\n"))
}

/// To the delegate of that name, in the one line.
pub fn delegate(name: &str) -> String {
    format!("\ndelegate = \"{name}\" ")
}

/// Where in the recording each window ends and what it shows, by that delegate from beginning to end.
fn undisturbed(delegate: &str) -> Vec<(Value, Value)> {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = Setup::demo(broker.port).at_speed("\"max\"").with(XNNPACK, &format!("\ndelegate = \"{delegate}\" "));
    setup.run_once().expect(0);
    let wire = Wire::new(subscriber.until(|line| line == "edgewatt/demo/status offline"));
    windows(&wire)
}

pub fn windows(wire: &Wire) -> Vec<(Value, Value)> {
    wire.predictions().iter().map(|p| (p["stream_s"].clone(), p["raw_label"].clone())).collect()
}

pub static BY_CPU: LazyLock<Vec<(Value, Value)>> = LazyLock::new(|| undisturbed("cpu"));
pub static BY_XNNPACK: LazyLock<Vec<(Value, Value)>> = LazyLock::new(|| undisturbed("xnnpack"));

/// The windows of the looped demo are those of an undisturbed run, all of them; answers may be either delegate's.
#[track_caller]
pub fn assert_undisturbed(wire: &Wire) {
    for (index, window) in windows(wire).into_iter().enumerate() {
        let [cpu, xnnpack] = [&BY_CPU, &BY_XNNPACK].map(|run| &run[index % run.len()]);
        assert!(window == *cpu || window == *xnnpack, "window {index}: {window:?}, not {cpu:?} or {xnnpack:?}");
    }
}

/// A second pipeline by that name, which reads `source`.
pub fn second(name: &str, source: &str) -> String {
    let models = root().join("models");
    let models = models.display();
    format!(
        "\n[pipelines.{name}]\nwindow = {{ samples = 200, hop = 50 }}\ndecision.classify = {{}}\n\
         model = {{ path = \"{models}/shoulder_int8.tflite\", labels = \"{models}/labels.txt\" }}\n{source}\n\
         [pipelines.{name}.source.replay.records]\n\
         channels = [\"ax\", \"ay\", \"az\", \"wx\", \"wy\", \"wz\"]\ntime = \"time_s\"\nrate_hz = 50.0\n\n[pipelines.shoulder]\n"
    )
}

pub fn replay(name: &str, keys: &str) -> String {
    let path = root().join("models/shoulder_recording.csv");
    format!("[pipelines.{name}.source.replay]\npath = \"{}\"\n{keys}\n", path.display())
}
