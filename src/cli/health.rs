//! `edgewatt health`: asks the daemon of a configuration how it is, and says whether it works.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use serde::Serialize;

use super::ConfigArg;
use crate::daemon::health::{Answer, BrokerState, DaemonState, Health, MeterState, NodeHealth, StoreState};
use crate::daemon::health_socket::places;
use crate::publish::payload::PipelineState;
use crate::text::counted;

/// The version of the JSON. A change that readers must know about increases it.
const SCHEMA_VERSION: u32 = 1;
/// The pause before the next attempt if too many wait already.
const RETRY: Duration = Duration::from_millis(20);
/// Larger than any answer.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Exit with 1 for warnings, too: a fallback, a silent source, no connection to the broker, a meter without readings
    #[arg(long)]
    strict: bool,
    /// How long the daemon may take to answer, in seconds
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds)]
    timeout: f64,
    /// Print one JSON object; docs/service.md describes its fields
    #[arg(long)]
    json: bool,
}

/// Says whether the daemon works; failure if it does not.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = &args.config.config;
    let report = Report::new(config, ask(config, Duration::from_secs_f64(args.timeout)), args.strict);
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        report.show(&mut out)?;
    }
    Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds, such as 5".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("it must be from 0.1 to 3600".to_owned()) }
}

/// What came of asking the daemon.
#[derive(Debug)]
pub(crate) enum Asked {
    Answered(Box<Answer>),
    /// There is no socket in any of these folders.
    NoSocket {
        folders: Vec<PathBuf>,
    },
    /// The socket is there, but no daemon listens: it was killed, or has crashed.
    Stale {
        path: PathBuf,
    },
    /// This user may not connect.
    Denied {
        path: PathBuf,
    },
    /// A daemon listens and does not answer.
    Silent {
        pid: Option<i32>,
        waited: Duration,
    },
    /// It answers something else.
    Strange {
        reason: String,
    },
}

/// Asks the daemon with that configuration file; waits for it at most that long.
pub(crate) fn ask(config: &Path, patience: Duration) -> Asked {
    let places = places(config);
    let mut fault = None;
    for path in &places {
        let path = path.clone();
        let asked = match ask_at(&path, patience) {
            Ok(answer) => return answer,
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => continue,
                ErrorKind::ConnectionRefused => Asked::Stale { path },
                ErrorKind::PermissionDenied => Asked::Denied { path },
                _ => Asked::Strange { reason: format!("{}: {error}", path.display()) },
            },
        };
        // A stale socket says less than one that cannot be used.
        if fault.is_none() || matches!(fault, Some(Asked::Stale { .. })) {
            fault = Some(asked);
        }
    }
    let folders = places.iter().filter_map(|path| path.parent().map(Path::to_owned)).collect();
    fault.unwrap_or(Asked::NoSocket { folders })
}

/// Asks at one socket. An error means that the connection could not be made.
fn ask_at(path: &Path, patience: Duration) -> io::Result<Asked> {
    let deadline = Instant::now() + patience;
    // Non-blocking, because to connect waits if too many wait already, as they do before a stopped process.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(path)?;
    while let Err(errno) = connect(socket.as_raw_fd(), &address) {
        match errno {
            Errno::EAGAIN if Instant::now() < deadline => std::thread::sleep(RETRY),
            Errno::EAGAIN => return Ok(Asked::Silent { pid: None, waited: patience }),
            errno => return Err(errno.into()),
        }
    }
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    let pid = getsockopt(&stream, PeerCredentials).ok().map(|peer| peer.pid());
    let mut line = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Asked::Silent { pid, waited: patience });
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(&piece[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Ok(Asked::Strange { reason: format!("its answer was cut off: {error}") }),
        }
        if line.len() as u64 > MAX_BYTES {
            return Ok(Asked::Strange { reason: format!("its answer is longer than {MAX_BYTES} bytes") });
        }
    }
    Ok(match serde_json::from_slice(&line) {
        Ok(answer) => Asked::Answered(Box::new(answer)),
        Err(error) => {
            let ours = env!("CARGO_PKG_VERSION");
            let reason = format!("edgewatt {ours} cannot read its answer: {error}; is the daemon of another version?");
            Asked::Strange { reason }
        }
    })
}

/// Whether the daemon works, and why not.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    v: u32,
    pub healthy: bool,
    state: &'static str,
    /// Why it does not work.
    problems: Vec<String>,
    /// What is not as configured, although it works.
    warnings: Vec<String>,
    /// What the daemon has answered; `None` if it has not.
    daemon: Option<Health>,
}

impl Report {
    /// Judges what came of asking; `strict`: warnings count as problems.
    pub(crate) fn new(config: &Path, asked: Asked, strict: bool) -> Self {
        let (state, problems, daemon) = match asked {
            Asked::Answered(answer) => (state_name(answer.health.state), Vec::new(), Some(answer.health)),
            other => {
                let (state, problem) = unanswered(config, other);
                (state, vec![problem], None)
            }
        };
        let mut report = Self { v: SCHEMA_VERSION, healthy: false, state, problems, warnings: Vec::new(), daemon };
        if let Some(health) = report.daemon.take() {
            report.judge(&health);
            report.daemon = Some(health);
        }
        report.healthy = report.problems.is_empty() && (!strict || report.warnings.is_empty());
        report
    }

    fn judge(&mut self, health: &Health) {
        let reason = health.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        match health.state {
            DaemonState::Running | DaemonState::Reloading => {}
            DaemonState::Starting => self.problems.push(format!("it is starting{reason}")),
            DaemonState::Stopping => self.problems.push(format!("it is stopping{reason}")),
            DaemonState::Hung => self.problems.push(format!("it hangs{reason}")),
        }
        let Some(node) = &health.node else { return };
        for pipeline in &node.pipelines {
            let name = &pipeline.name;
            let reason = pipeline.reason.as_deref().unwrap_or("no reason is known");
            match pipeline.state {
                PipelineState::Running | PipelineState::Stopped => {}
                PipelineState::Failed => self.problems.push(format!("pipeline {name} has failed: {reason}")),
                PipelineState::Degraded => self.warnings.push(format!("pipeline {name} is degraded: {reason}")),
                PipelineState::Paused => self.warnings.push(format!("pipeline {name} is paused, by command")),
                PipelineState::Ended => self.warnings.push(format!("pipeline {name}: its source has ended")),
            }
        }
        let because = |reason: &Option<String>| reason.as_deref().unwrap_or("no reason is known").to_owned();
        match (node.broker.state, node.broker.address.as_deref().unwrap_or("without an address")) {
            (BrokerState::None, _) => {}
            (BrokerState::Connected, address) => {
                let warning = node.broker.reason.as_ref();
                self.warnings.extend(warning.map(|reason| format!("broker {address}: {reason}")));
            }
            (BrokerState::Connecting, address) => self.warnings.push(format!("broker {address} is not connected yet")),
            (BrokerState::Unreachable, address) => {
                self.warnings.push(format!("broker {address} cannot be reached: {}", because(&node.broker.reason)));
            }
        }
        if node.store.state == StoreState::Failing {
            self.warnings.push(format!("messages are kept in memory only: {}", because(&node.store.reason)));
        }
        for meter in node.meters.iter().filter(|meter| meter.state == MeterState::Failing) {
            self.warnings.push(format!("meter {} gives no readings: {}", meter.name, because(&meter.reason)));
        }
    }

    fn show(&self, out: &mut impl Write) -> io::Result<()> {
        let verdict = if self.healthy { "healthy" } else { "not healthy" };
        match &self.daemon {
            Some(health) => {
                let Health { version, pid, uptime_s, .. } = health;
                let node =
                    health.node.as_ref().map(|node| format!(", node {}", printable(&node.id))).unwrap_or_default();
                let (state, age) = (self.state, age(*uptime_s));
                writeln!(out, "{verdict}: {state}, process {pid}, up {age}, edgewatt {version}{node}")?;
            }
            None => writeln!(out, "{verdict}: {}", self.state.replace('_', " "))?,
        }
        for (word, lines) in [("problem", &self.problems), ("warning", &self.warnings)] {
            for line in lines {
                writeln!(out, "  {word}: {}", printable(line))?;
            }
        }
        self.daemon.iter().filter_map(|health| health.node.as_ref()).try_for_each(|node| show_node(out, node))
    }
}

fn state_name(state: DaemonState) -> &'static str {
    match state {
        DaemonState::Starting => "starting",
        DaemonState::Running => "running",
        DaemonState::Reloading => "reloading",
        DaemonState::Stopping => "stopping",
        DaemonState::Hung => "hung",
    }
}

/// Returns the state and the problem of a daemon that has not answered.
fn unanswered(config: &Path, asked: Asked) -> (&'static str, String) {
    let config = config.display();
    match asked {
        Asked::NoSocket { folders } => {
            let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let looked = folders.join(", ");
            let hint = "ask as the daemon's user, with its -c FILE; root can ask the service";
            ("not_running", format!("no daemon with {config} has a socket in {looked}; {hint}"))
        }
        Asked::Stale { path } => {
            let path = path.display();
            (
                "not_running",
                format!("the daemon with {config} was killed or has crashed; only its socket is left: {path}"),
            )
        }
        Asked::Denied { path } => {
            let path = path.display();
            ("unknown", format!("{path}: permission denied; ask as the daemon's user, as one of its group, or as root"))
        }
        Asked::Silent { pid, waited } => {
            let process = pid.filter(|pid| *pid > 0).map_or("it ".to_owned(), |pid| format!("process {pid} "));
            let waited = waited.as_secs_f64();
            ("hung", format!("{process}does not answer within {waited} s, although its socket is open"))
        }
        Asked::Strange { reason } => ("unknown", reason),
        Asked::Answered(_) => ("unknown", "it has answered".to_owned()),
    }
}

fn show_node(out: &mut impl Write, node: &NodeHealth) -> io::Result<()> {
    for pipeline in &node.pipelines {
        let state = match pipeline.state {
            PipelineState::Running => "running",
            PipelineState::Degraded => "degraded",
            PipelineState::Paused => "paused",
            PipelineState::Ended => "ended",
            PipelineState::Stopped => "stopped",
            PipelineState::Failed => "failed",
        };
        let by = pipeline.delegate.as_deref().map(|delegate| format!(" by {delegate}")).unwrap_or_default();
        let count = pipeline.predictions;
        let predictions = match pipeline.last_prediction_s {
            Some(s) => format!("{}, the last {} ago", counted(count, "prediction"), age(s)),
            None => "no prediction yet".to_owned(),
        };
        let gate = if pipeline.gate_open == Some(false) { ", the gate is closed" } else { "" };
        let line = format!("{}: {state}{by}, {predictions}{gate}", pipeline.name);
        writeln!(out, "  pipeline {}", printable(&line))?;
    }
    let queued = counted(node.broker.queued, "message");
    let address = node.broker.address.as_deref().unwrap_or_default();
    let since = node.broker.for_s.map(|s| format!(" for {}", age(s))).unwrap_or_default();
    let broker = match node.broker.state {
        BrokerState::None => "none; nothing is published over MQTT".to_owned(),
        BrokerState::Connecting => format!("{address}: connecting{since}, {queued} waiting"),
        BrokerState::Connected => format!("{address}: connected{since}, {queued} waiting"),
        BrokerState::Unreachable => format!("{address}: not connected{since}, {queued} waiting"),
    };
    writeln!(out, "  broker {}", printable(&broker))?;
    let store = match node.store.state {
        StoreState::Off => "off",
        StoreState::Working => "working",
        StoreState::Failing => "failing",
    };
    writeln!(out, "  store {store}")?;
    for meter in &node.meters {
        let state = match (meter.state, meter.reading_s) {
            (MeterState::Starting, _) => "not read yet".to_owned(),
            (MeterState::Working, Some(s)) => format!("read {} ago", age(s)),
            (MeterState::Working, None) => "working".to_owned(),
            (MeterState::Failing, _) => "no readings".to_owned(),
        };
        writeln!(out, "  meter {}: {state}", printable(&meter.name))?;
    }
    Ok(())
}

/// A line for a terminal: errors of drivers and brokers can contain anything.
fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Returns a time in its largest unit.
fn age(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::health::{BrokerHealth, HealthBoard, tests::working};
    use crate::units::MonoTime;

    fn health(change: impl FnOnce(&mut Health)) -> Asked {
        let board = HealthBoard::new(MonoTime(0));
        let mut answer = board.answer(MonoTime(0), None);
        answer.health.state = DaemonState::Running;
        answer.health.reason = None;
        answer.health.node = Some(working());
        change(&mut answer.health);
        Asked::Answered(Box::new(answer))
    }

    fn node(change: impl FnOnce(&mut NodeHealth)) -> Asked {
        health(|health| change(health.node.as_mut().unwrap()))
    }

    /// Whether it is healthy, whether it is by `--strict`, and the text.
    fn judged(asked: impl Fn() -> Asked) -> (bool, bool, String) {
        let of = |strict| Report::new(Path::new("x.toml"), asked(), strict);
        let mut text = Vec::new();
        of(false).show(&mut text).unwrap();
        (of(false).healthy, of(true).healthy, String::from_utf8(text).unwrap())
    }

    #[test]
    fn what_works_is_healthy_with_and_without_a_broker() {
        let (lenient, strict, text) = judged(|| node(|_| {}));
        assert!(lenient && strict && text.starts_with("healthy: running, process "), "{text}");
        assert!(text.contains("pipeline arm: running by cpu, 7 predictions, the last 0 s ago"), "{text}");
        let none = BrokerHealth { state: BrokerState::None, address: None, reason: None, for_s: None, queued: 0 };
        let (lenient, strict, text) = judged(|| node(|node| node.broker = none.clone()));
        assert!(lenient && strict && text.contains("broker none; nothing is published"), "{text}");
        assert!(judged(|| health(|health| health.state = DaemonState::Reloading)).1);
    }

    #[test]
    fn what_is_not_as_configured_is_a_warning_and_counts_with_strict() {
        let reason = Some("it \u{1b}[31mbroke".to_owned());
        type Change = Box<dyn Fn(&mut NodeHealth)>;
        let warned: [(&str, Change); 7] = [
            ("pipeline arm is degraded: it", Box::new(|node| node.pipelines[0].state = PipelineState::Degraded)),
            ("pipeline arm is paused", Box::new(|node| node.pipelines[0].state = PipelineState::Paused)),
            ("source has ended", Box::new(|node| node.pipelines[0].state = PipelineState::Ended)),
            ("cannot be reached: it", Box::new(|node| node.broker.state = BrokerState::Unreachable)),
            ("not connected yet", Box::new(|node| node.broker.state = BrokerState::Connecting)),
            ("in memory only: it", Box::new(|node| node.store.state = StoreState::Failing)),
            ("meter board gives no readings: it", Box::new(|node| node.meters[0].state = MeterState::Failing)),
        ];
        for (said, change) in &warned {
            let (lenient, strict, text) = judged(|| {
                node(|node| {
                    node.pipelines[0].reason = reason.clone();
                    node.broker.reason = reason.clone();
                    node.store.reason = reason.clone();
                    node.meters[0].reason = reason.clone();
                    change(node);
                })
            });
            assert!(lenient && !strict && text.contains("warning: ") && text.contains(said), "{said}: {text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }

    #[test]
    fn what_does_not_work_is_a_problem() {
        let failed = || node(|node| node.pipelines[0].state = PipelineState::Failed);
        let (lenient, _, text) = judged(failed);
        assert!(
            !lenient && text.contains("not healthy: running") && text.contains("pipeline arm has failed"),
            "{text}"
        );
        for (state, said) in [
            (DaemonState::Starting, "it is starting: x"),
            (DaemonState::Stopping, "it is stopping: x"),
            (DaemonState::Hung, "it hangs: x"),
        ] {
            let (lenient, _, text) =
                judged(|| health(|health| (health.state, health.reason) = (state, Some("x".into()))));
            assert!(!lenient && text.contains(said), "{text}");
        }
    }

    #[test]
    fn no_answer_is_said_with_its_kind() {
        let at = || PathBuf::from("/run/x.sock");
        let second = Duration::from_secs(1);
        type Ask = Box<dyn Fn() -> Asked>;
        let kinds: [(Ask, &str, &str); 6] = [
            (
                Box::new(|| Asked::NoSocket { folders: vec!["/run/edgewatt".into()] }),
                "not running",
                "in /run/edgewatt;",
            ),
            (Box::new(move || Asked::Stale { path: at() }), "not running", "killed or has crashed"),
            (Box::new(move || Asked::Denied { path: at() }), "unknown", "permission denied"),
            (
                Box::new(move || Asked::Silent { pid: Some(7), waited: second }),
                "hung",
                "process 7 does not answer within 1 s",
            ),
            (Box::new(move || Asked::Silent { pid: None, waited: second }), "hung", "it does not answer"),
            (Box::new(|| Asked::Strange { reason: "strange".into() }), "unknown", "strange"),
        ];
        for (asked, state, said) in &kinds {
            let (lenient, strict, text) = judged(asked);
            assert!(!lenient && !strict && text.starts_with(&format!("not healthy: {state}\n")), "{text}");
            assert!(text.contains(said), "{text}");
        }
    }
}
