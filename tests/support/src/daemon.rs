//! The real binary on a configuration of its own: made from the demo's, started, watched, signalled, gone when dropped.
//!
//! A program whose standard error says `panicked` fails the test that ran it, whatever else that test is about.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{program, root, runtime_library};

/// Long enough for a machine that builds something else at the same time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary with the fetched runtime, and nothing of the environment that would change its log.
pub fn edgewatt(args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(args).env("EDGEWATT_RUNTIME", runtime_library());
    command.env_remove("EDGEWATT_LOG").env_remove("JOURNAL_STREAM").stdin(Stdio::null());
    command
}

/// So that file permissions bind the daemon, also where the tests run as root.
pub fn without_root_s_rights(command: Command) -> Command {
    without_rights(command, "-dac_override,-dac_read_search")
}

/// Without these capabilities, each with a minus; who is not root has none.
pub fn without_rights(command: Command, rights: &str) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return command;
    }
    started_by("setpriv", &[&format!("--bounding-set={rights}"), &format!("--inh-caps={rights}")], &command)
}

/// With limits of `prlimit`, such as `--nofile=9`, which it cannot raise again.
pub fn limited(command: Command, limit: &str) -> Command {
    started_by("prlimit", &[limit], &without_rights(command, "-sys_resource"))
}

/// Started by another program, which takes it with its arguments after `args`.
pub fn started_by(program: &str, args: &[&str], command: &Command) -> Command {
    let mut bound = Command::new(program);
    bound.args(args).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    bound
}

/// Polls until `holds`; fails with what `what` says by then.
pub fn wait_until(what: impl Fn() -> String, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {}", what());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A configuration in a folder of its own.
pub struct Setup {
    pub dir: TempDir,
    text: String,
}

impl Setup {
    /// A file as it is, in a folder of its own.
    pub fn of(path: &Path) -> Self {
        Self { dir: TempDir::new().unwrap(), text: std::fs::read_to_string(path).unwrap() }
    }

    /// `config/demo.toml` with absolute paths and a broker on that port of loopback, from the start of the recording.
    pub fn demo(port: u16) -> Self {
        let models = root().join("models");
        Self::of(&root().join("config/demo.toml"))
            .with("\"none\"", &format!("\"mqtt://127.0.0.1:{port}\""))
            .with("interval_s = 2.0", "interval_s = 10.0")
            .with("\nstart_s = 21.36 ", "\n# ")
            .with("../models/", &format!("{}/", models.display()))
    }

    /// Replaces every `old`, of which there must be one.
    pub fn with(mut self, old: &str, new: &str) -> Self {
        assert!(self.text.contains(old), "the configuration has no {old}:\n{}", self.text);
        self.text = self.text.replace(old, new);
        self
    }

    /// Adds lines under a table's header.
    pub fn with_keys(self, header: &str, lines: &str) -> Self {
        self.with(&format!("\n{header}\n"), &format!("\n{header}\n{lines}\n"))
    }

    pub fn at_speed(self, speed: &str) -> Self {
        self.with("speed = 1.0 ", &format!("speed = {speed} "))
    }

    /// Plays another recording, written into the folder.
    pub fn recording(self, bytes: &[u8]) -> Self {
        let path = self.write("recording.csv", bytes);
        self.plays(&path)
    }

    pub fn plays(self, path: &Path) -> Self {
        let demo = root().join("models/shoulder_recording.csv");
        self.with(&demo.display().to_string(), &path.display().to_string())
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn config(&self) -> PathBuf {
        self.write("edgewatt.toml", self.text.as_bytes())
    }

    /// `edgewatt SUBCOMMAND --config FILE ARGS`.
    pub fn command(&self, subcommand: &str, args: &[&str]) -> Command {
        let mut command = edgewatt(&[subcommand, "--config"]);
        command.arg(self.config()).args(args);
        // Apart from the daemons of other tests, and of this machine.
        command.env("RUNTIME_DIRECTORY", self.dir.path().join("run"));
        command.env("STATE_DIRECTORY", self.dir.path().join("state"));
        command
    }

    pub fn start(&self, args: &[&str]) -> Daemon {
        Daemon::start(self.command("run", args))
    }

    pub fn run_once(&self) -> Ended {
        self.start(&["--once"]).wait()
    }

    pub fn check(&self) -> Ended {
        Daemon::start(self.command("check", &[])).wait()
    }
}

/// A running program; its output is collected unless the command sends it elsewhere.
pub struct Daemon {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// How a program ended and what it said.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Default)]
struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn collect(mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let ours = text.clone();
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 8192];
            while let Ok(count @ 1..) = from.read(&mut piece) {
                ours.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn all(&mut self) -> String {
        self.reader.take().map(JoinHandle::join);
        self.so_far()
    }
}

impl Daemon {
    pub fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn(command)
    }

    /// With the outputs that the command has; those that are pipes are collected.
    pub fn spawn(mut command: Command) -> Self {
        Self::adopt(command.spawn().unwrap())
    }

    /// A process whose input is somebody else's business.
    pub fn adopt(mut child: Child) -> Self {
        let stdout = child.stdout.take().map_or_else(Output::default, Output::collect);
        let stderr = child.stderr.take().map_or_else(Output::default, Output::collect);
        Self { child, stdout, stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.stderr.so_far()
    }

    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// Waits until `find` finds something in the log, and returns it.
    pub fn in_log<T>(&mut self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if let Some(found) = find(&log) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{what} is not in the log ({ended:?}):\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it ends on its own.
    pub fn wait(self) -> Ended {
        self.wait_at_most(PATIENCE)
    }

    pub fn wait_at_most(mut self, patience: Duration) -> Ended {
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it still runs after {patience:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        };
        let ended = Ended { status, stdout: self.stdout.all(), stderr: self.stderr.all() };
        assert!(!ended.stderr.contains("panicked"), "it panicked:\n{}", ended.stderr);
        ended
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

impl Ended {
    /// The exit code must be this one; a death by a signal has none.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}\n{}\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// Everything in `parts` is on standard error.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is missing in:\n{}", self.stderr);
        }
    }

    /// The number before `what` in the summary, such as `491` before ` predictions`.
    #[track_caller]
    pub fn summary(&self, what: &str) -> u64 {
        let before = self.stdout.split(what).next().unwrap();
        let number = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap();
        number.parse().unwrap_or_else(|_| panic!("no number before `{what}` in:\n{}", self.stdout))
    }

    /// The number behind `what` in the summary, such as `3` behind `outbox `; zero counts are not shown there.
    pub fn summary_after(&self, what: &str) -> u64 {
        let behind = self.stdout.split_once(what).map_or("", |(_, behind)| behind);
        let digits: String = behind.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("no number behind `{what}` in:\n{}", self.stdout))
    }
}

/// A device that takes no byte, as a full disk.
pub fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}
