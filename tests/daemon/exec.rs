//! The source exec by the real binary: programs that end, flood, hang, ignore signals and leave others behind. The model
//! negates what it gets, so that every value which a program wrote is found again in what a subscriber received.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgewatt_support::daemon::{Daemon, Ended, Setup, wait_until};
use edgewatt_support::mosquitto::{Mosquitto, Subscriber, free_port};
use edgewatt_support::root;
use edgewatt_support::wire::Wire;
use nix::sys::signal::Signal;

pub(crate) const OFFLINE: &str = "edgewatt/demo/status offline";

/// A pipeline with that source and a window of so many frames.
pub(crate) fn setup(port: u16, source: &str, window: usize) -> Setup {
    let model = root().join("tests/models/open_input.tflite");
    let text = format!(
        "node.id = \"demo\"\nmqtt.broker = \"mqtt://127.0.0.1:{port}\"\nmetrics.interval_s = 0.3\n\n[pipelines.p]\n\
         window = {{ samples = {window}, hop = {window} }}\nmodel.path = {model:?}\ndecision.raw = {{}}\n\
         \n[pipelines.p.source]\n{source}\n"
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Setup::of(file.path())
}

/// A shell's script as the source; its lines are numbers.
pub(crate) fn script(script: &str, keys: &str) -> String {
    format!(
        "exec = {{ command = [\"sh\", \"-c\", '''{script}'''], {keys} records = {{ channels = [\"x\"], columns = [\"x\"] }} }}"
    )
}

/// The values of all windows, one after the other, as the program wrote them.
pub(crate) fn values(wire: &Wire) -> Vec<f64> {
    let outputs = |prediction: &serde_json::Value| -> Vec<f64> {
        prediction["outputs"][0].as_array().unwrap().iter().map(|value| -value.as_f64().unwrap()).collect()
    };
    wire.predictions().iter().flat_map(outputs).collect()
}

/// Runs until the program ends. Returns how that went, and what was published.
pub(crate) fn once(source: &str, window: usize) -> (Ended, Wire) {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let ended = setup(broker.port, source, window).run_once();
    (ended, Wire::new(subscriber.until(|line| line == OFFLINE)))
}

/// A daemon that runs until it is stopped, and its subscriber.
struct Running {
    daemon: Daemon,
    setup: Setup,
    subscriber: Subscriber,
    lines: Vec<String>,
    _broker: Mosquitto,
}

fn start(source: &str, window: usize) -> Running {
    let broker = Mosquitto::running();
    let subscriber = broker.subscribe("edgewatt/#");
    let setup = setup(broker.port, source, window);
    let daemon = setup.start(&[]);
    Running { daemon, setup, subscriber, lines: Vec::new(), _broker: broker }
}

impl Running {
    /// Receives until there are so many values.
    fn until(&mut self, count: usize) -> Vec<f64> {
        while values(&Wire::new(self.lines.clone())).len() < count {
            self.lines.extend(self.subscriber.until(|line| line.contains("/prediction ")));
        }
        values(&Wire::new(self.lines.clone()))
    }

    fn until_line(&mut self, last: impl FnMut(&str) -> bool) -> String {
        self.lines.extend(self.subscriber.until(last));
        self.lines.last().unwrap().clone()
    }

    fn stop(mut self) -> (Ended, Wire) {
        self.daemon.signal(Signal::SIGTERM);
        let ended = self.daemon.wait().expect(0);
        self.lines.extend(self.subscriber.until(|line| line == OFFLINE));
        (ended, Wire::new(self.lines))
    }
}

/// Waits until a process is gone.
fn gone(pid: f64) {
    let is_gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z ") || stat.contains(") X "),
        Err(_) => true,
    };
    wait_until(|| format!("the end of process {pid}"), is_gone);
}

fn count(wire: &Wire, pointer: &str) -> u64 {
    let metrics = wire.json("/p/p/metrics").pop().expect("no metrics came");
    metrics.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {metrics}"))
}

#[test]
fn a_program_that_dies_is_started_again_and_no_window_spans_that() {
    // Three lines of a window of four are lost with each end, and so is a line that was cut.
    let dies = "i=0; while [ $i -lt 7 ]; do echo $i; i=$((i+1)); done; printf 9; echo 'no such card' >&2; exit 2";
    let mut running = start(&script(dies, ""), 4);
    let status = running.until_line(|line| line.contains("/p/p/status ") && line.contains("no such card"));
    assert!(status.contains("\"state\":\"degraded\""), "{status}");
    assert!(
        status.contains("source: sh ended with exit code 2; its last line on standard error: no such card"),
        "{status}"
    );
    let all = running.until(12);
    assert!(all.chunks(4).all(|window| window == [0.0, 1.0, 2.0, 3.0]), "{all:?}");
    let (ended, wire) = running.stop();
    assert!(count(&wire, "/counts/gaps/reconnect") >= 2);
    assert_eq!(count(&wire, "/counts/gaps/overflow"), 0);
    assert!(count(&wire, "/counts/rejects/unterminated") >= 3);
    ended.says(&["sh: no such card", "the source is away: sh ended with exit code 2"]);
    let (samples, windows) = (count(&wire, "/counts/samples"), count(&wire, "/counts/windows"));
    assert_eq!((samples % 7, windows), (0, samples / 7), "{samples} samples");
}

#[test]
fn once_ends_with_the_program_s_first_end() {
    let (ended, wire) = once(&script("seq 1 10", ""), 5);
    ended.expect(0);
    assert_eq!(values(&wire), (1..=10).map(f64::from).collect::<Vec<_>>());
    let (ended, wire) = once(&script("seq 1 10; echo broken >&2; exit 1", ""), 5);
    ended.expect(1).says(&["source: sh ended with exit code 1; its last line on standard error: broken"]);
    assert_eq!(values(&wire).len(), 10, "what came before counts");
}

#[test]
fn a_flood_is_dropped_or_held_back_as_the_buffer_says_and_counted() {
    let source = |keys: &str| script("seq 1 200000", keys);
    let (ended, wire) = once(&source("buffer = { when_full = \"wait\" },"), 1000);
    ended.expect(0);
    assert_eq!(values(&wire), (1..=200_000).map(f64::from).collect::<Vec<_>>());
    // A buffer of a few samples cannot take a flood.
    let (_, wire) = once(&source("buffer = { samples = 16 },"), 10);
    let (samples, dropped) = (count(&wire, "/counts/samples"), count(&wire, "/counts/drops/source_overflow"));
    assert_eq!(samples + dropped, 200_000);
    let all = values(&wire);
    let follow = |window: &[f64]| window.windows(2).all(|pair| pair[1] == pair[0] + 1.0);
    assert!(all.chunks(10).all(follow), "no window spans a drop");
    assert!(dropped == 0 || count(&wire, "/counts/gaps/overflow") > 0);
}

#[test]
fn a_signal_is_heard_while_large_predictions_pile_up() {
    // Each message has some 10 kB, and no broker takes any.
    let source = "exec = { command = [\"cat\", \"/dev/zero\"], bytes = { format = \"s16le\", rate_hz = 16000.0 } }";
    let setup = setup(free_port(), source, 1600);
    let mut daemon = setup.start(&[]);
    daemon.in_log("samples that are dropped", |line| line.contains("cannot keep up").then_some(()));
    daemon.signal(Signal::SIGTERM);
    // What mqtt.stop_timeout_s permits, 5 s, and the end.
    daemon.wait_at_most(Duration::from_secs(10)).says(&["stopping"]);
}

#[test]
fn a_program_that_hangs_is_started_again() {
    let mut running = start(&script("echo $$; echo $$; exec sleep 1000", "silence_s = 0.5,"), 2);
    let pids = running.until(4);
    assert!(pids[0] == pids[1] && pids[2] == pids[3] && pids[0] != pids[2], "{pids:?}");
    gone(pids[0]);
    let (ended, wire) = running.stop();
    ended.says(&["sh wrote nothing for 0.5 s and was ended; if it collects its output before it writes"]);
    assert!(count(&wire, "/counts/gaps/reconnect") >= 1);
    values(&wire).into_iter().for_each(gone);
}

const STUBBORN: &str =
    "trap '' TERM INT HUP; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' & echo $$; wait";

#[test]
fn a_stop_ends_what_ignores_it_and_what_it_has_started() {
    let mut running = start(&script(STUBBORN, ""), 2);
    let pids = running.until(2);
    running.stop();
    pids.into_iter().for_each(gone);
}

#[test]
fn a_program_does_not_outlive_a_daemon_that_is_killed() {
    let mut running = start(&script("trap '' TERM; echo $$; while :; do sleep 1000; done", ""), 1);
    let pids = running.until(1);
    running.daemon.signal(Signal::SIGKILL);
    pids.into_iter().for_each(gone);
}

#[test]
fn a_reload_with_another_command_ends_the_old_program_and_starts_the_new_one() {
    let mut running = start(&script(STUBBORN, ""), 2);
    let pids = running.until(2);
    running.setup =
        std::mem::replace(&mut running.setup, setup(free_port(), "", 1)).with(STUBBORN, "seq 100 101; sleep 1000");
    running.setup.config();
    running.daemon.signal(Signal::SIGHUP);
    let all = running.until(4);
    assert_eq!(all[2..4], [100.0, 101.0]);
    pids.into_iter().for_each(gone);
    let told = |line: &String| line.contains("/event ") && line.contains("p changed");
    if !running.lines.iter().any(told) {
        running.until_line(|line| told(&line.to_owned()));
    }
    running.stop();
}

#[test]
fn noise_on_standard_error_is_bounded_and_harmless() {
    let noisy =
        "yes \"$(printf \"ESC is \\033[31m here\")\" | head -n 20000 >&2; printf \"bad \\377 byte\\n\" >&2; seq 1 4";
    let (ended, wire) = once(&script(noisy, ""), 4);
    let ended = ended.expect(0);
    assert_eq!(values(&wire), [1.0, 2.0, 3.0, 4.0]);
    let logged = ended.stderr.matches("sh: ESC is ?[31m here").count();
    assert!((1..=30).contains(&logged), "{logged} lines in\n{}", ended.stderr);
    assert!(!ended.stderr.contains("sh: ESC is \x1b"), "{}", ended.stderr);
    ended.says(&["more lines than are logged"]);

    let begun = Instant::now();
    let mut running = start(&script("for i in 1 2 3 4 5 6 7 8; do echo again >&2; done; exit 3", ""), 2);
    running.daemon.in_log("the limit", |log| log.contains("more lines than are logged").then_some(()));
    let (logged, periods) = (running.daemon.log().matches(" sh: again").count(), 1 + begun.elapsed().as_secs() / 10);
    assert!(
        (1..=10 * periods).contains(&(logged as u64)),
        "a program that is started again has no more lines: {logged}"
    );
    running.stop();
}

#[test]
fn garbage_is_counted_and_what_is_good_arrives() {
    let (ended, wire) =
        once(&script("echo 1; printf '\\000\\377\\n'; echo 'two'; echo 3; echo nan; echo 4; echo 5", ""), 2);
    ended.expect(0);
    assert_eq!(values(&wire), [1.0, 3.0, 4.0, 5.0]);
    let rejects: u64 =
        ["not_finite", "malformed"].map(|reason| count(&wire, &format!("/counts/rejects/{reason}"))).iter().sum();
    assert_eq!(rejects, 3);
}

#[test]
fn a_half_frame_of_bytes_is_counted() {
    let source = "exec = { command = [\"printf\", '\\001\\000\\377\\377\\005'], bytes = { format = \"s16le\" } }";
    let (ended, wire) = once(source, 1);
    ended.expect(0);
    assert_eq!(values(&wire), [1.0, -1.0]);
    assert_eq!(count(&wire, "/counts/rejects/unterminated"), 1);
}

#[test]
fn check_says_what_is_missing() {
    let check = |command: &str| {
        let bytes = "bytes = { format = \"s16le\", rate_hz = 16000.0 }";
        setup(free_port(), &format!("exec = {{ command = {command}, env = {{ PATH = \"/nowhere\" }}, {bytes} }}"), 160)
            .check()
    };
    check("[\"arecord\", \"-q\"]")
        .expect(78)
        .says(&["no program `arecord` in PATH (/nowhere); run: sudo apt install alsa-utils"]);
    check("[\"/etc\"]").expect(78).says(&["/etc is a folder"]);
    check("[\"/etc/passwd\"]").expect(78).says(&["/etc/passwd cannot be executed; run: chmod +x /etc/passwd"]);
    check("[\"./mine\"]").expect(78).says(&["there is no file ", "/mine"]);
    check("[\"/bin/sh\", \"-c\", \"a\", \"|\", \"b\"]").expect(78).says(&["`|` is for a shell"]);
    let ended = check("[\"/bin/sh\"]").expect(0);
    assert!(ended.stdout.contains("[160, 1]"), "the shape is known: {}", ended.stdout);
}

#[test]
fn raw_reads_standard_input_a_fifo_and_a_socket() {
    let samples: Vec<i16> = (0..400).map(|i| i * 31 - 6000).collect();
    let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let expected: Vec<f64> = samples.iter().map(|sample| f64::from(*sample)).collect();
    let source = |from: &str| format!("raw = {{ from = {from}, bytes = {{ format = \"s16le\", rate_hz = 8000.0 }} }}");
    let run = |from: &str, prepare: &dyn Fn(&Path), write: &dyn Fn(&Path, &mut Option<std::process::ChildStdin>)| {
        let broker = Mosquitto::running();
        let mut subscriber = broker.subscribe("edgewatt/#");
        let setup = setup(broker.port, &source(from), 50);
        prepare(setup.dir.path());
        let mut command = setup.command("run", &["--once"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take();
        let daemon = Daemon::adopt(child);
        write(setup.dir.path(), &mut stdin);
        drop(stdin);
        daemon.wait().expect(0);
        assert_eq!(values(&Wire::new(subscriber.until(|line| line == OFFLINE))), expected, "{from}");
    };
    run("\"stdin\"", &|_| (), &|_, stdin| stdin.as_mut().unwrap().write_all(&bytes).unwrap());
    let fifo = |folder: &Path| nix::unistd::mkfifo(&folder.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    run("{ fifo = \"pipe\" }", &fifo, &|folder, _| std::fs::write(folder.join("pipe"), &bytes).unwrap());
    run("{ socket = \"sock\" }", &|_| (), &|folder, _| {
        let connect = || std::os::unix::net::UnixStream::connect(folder.join("sock"));
        wait_until(|| "the socket".to_owned(), || folder.join("sock").exists() && connect_once(&connect, &bytes));
    });
}

fn connect_once(connect: &dyn Fn() -> std::io::Result<std::os::unix::net::UnixStream>, bytes: &[u8]) -> bool {
    connect().is_ok_and(|mut stream| stream.write_all(bytes).is_ok())
}

#[test]
fn udp_reads_bytes_and_counts_a_datagram_that_has_no_whole_frames() {
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let source = format!(
        "udp = {{ listen = \"127.0.0.1:{port}\", bytes = {{ format = \"f32le\", channels = 2, select = [1] }} }}"
    );
    let mut running = start(&source, 2);
    running.daemon.in_log("the start", |log| log.contains("running").then_some(()).or(Some(())));
    let frames = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |bytes: &[u8]| sender.send_to(bytes, ("127.0.0.1", port));
    // Before the socket is there, datagrams are lost: the first window shows that it is.
    while running.lines.iter().all(|line| !line.contains("/prediction ")) {
        let _ = send(&frames(&[0.0, 1.0, 0.0, 2.0]));
        running.lines.extend(running.subscriber.rest(Duration::from_millis(100)));
    }
    send(&frames(&[9.0, 0.5, 9.0, 1.5, 9.0])).unwrap();
    send(&frames(&[9.0, 2.5])).unwrap();
    send(&frames(&[9.0, 3.5, 9.0, 0.25])).unwrap();
    running.until_line(|line| line.contains("/prediction ") && line.contains("-3.5"));
    let (_, wire) = running.stop();
    let all = values(&wire);
    let ours: Vec<f64> = all.into_iter().filter(|value| value.fract() != 0.0).collect();
    assert_eq!(ours, [0.5, 1.5, 2.5, 3.5]);
    assert_eq!(count(&wire, "/counts/rejects/unterminated"), 1);
}

/// Runs a program to its end, and returns what it wrote.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("{program}: {error}; run: sudo apt-get install {program} (make test does)");
    });
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
