//! `edgewatt watch`: subscribes to a broker, and shows a line for each prediction and a block for each metrics message.
//!
//! `run --watch` shows the same of the daemon in this process, from its bus, on a thread of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::time::{sleep, sleep_until};

use crate::config::{Broker, Document, parse_broker};
use crate::load::mqtt::connect_options;
use crate::publish::bus::Bus;
use crate::publish::mqtt::Version;
use crate::publish::mqtt::codec::Incoming;
use crate::publish::mqtt::connection::{ConnectOptions, Connection, Lost};
use crate::sys::hostname;
use crate::units::Joules;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The address of the broker
    #[arg(short, long, default_value = "mqtt://127.0.0.1:1883", value_name = "URL")]
    broker: String,
    /// Use the broker, user, password and certificates of this configuration
    #[arg(short, long, value_name = "FILE", conflicts_with = "broker")]
    config: Option<PathBuf>,
    /// The topic filter to subscribe to; edgewatt/NODE/# shows one node only
    #[arg(short, long, default_value = "edgewatt/#", value_name = "FILTER")]
    topic: String,
}

/// Messages that wait to be shown.
const CAPACITY: usize = 4096;
/// How often a view in the daemon's process looks for messages.
const POLL: Duration = Duration::from_millis(20);
const RECONNECT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let address = args.config.as_ref().map_or(args.broker.clone(), |file| file.display().to_string());
    let no_broker = |what: &str| {
        anyhow::anyhow!("{address}: {what}; give the address of a broker instead, such as mqtt://127.0.0.1:1883")
    };
    let none = "\"none\" is no broker: use `edgewatt run --watch`";
    let embedded = "\"embedded\" is a broker inside the daemon";
    let options = match &args.config {
        Some(file) => {
            let config = Document::read(file)?.parse(hostname().as_deref())?;
            let options = connect_options(&config.mqtt).ok_or_else(|| no_broker(none))?;
            ensure!(config.mqtt.broker != Broker::Embedded, no_broker(embedded));
            options
        }
        None => match parse_broker(&args.broker).map_err(anyhow::Error::msg)? {
            Broker::None => return Err(no_broker(none)),
            Broker::Embedded => return Err(no_broker(embedded)),
            Broker::At(endpoint) => ConnectOptions {
                endpoint,
                // Every broker supports it.
                version: Version::Three,
                login: None,
                client_id: String::new(),
                keep_alive: Duration::from_secs(30),
                connect_timeout: CONNECT_TIMEOUT,
            },
        },
    };
    watch(options, &args.topic)?;
    Ok(ExitCode::SUCCESS)
}

/// A view that runs on a thread in the daemon's process.
pub(crate) struct Viewer {
    thread: JoinHandle<()>,
    finish: Arc<AtomicBool>,
}

/// Starts a view of the daemon in this process, on its own thread.
pub(crate) fn spawn(bus: &Bus) -> Viewer {
    let mut messages = bus.subscribe(CAPACITY);
    let finish = Arc::<AtomicBool>::default();
    let ours = finish.clone();
    let thread = std::thread::spawn(move || {
        let mut view = View::default();
        loop {
            // Asked first: what was published before is shown.
            let is_last = ours.load(Ordering::Relaxed);
            while let Some(message) = messages.try_next() {
                // A closed terminal ends the view, not the daemon.
                if let Err(error) = view.show(&message.topic, &message.payload, &mut io::stdout().lock()) {
                    tracing::warn!("--watch has stopped: cannot write: {error}");
                    return;
                }
            }
            if is_last {
                return;
            }
            std::thread::sleep(POLL);
        }
    });
    Viewer { thread, finish }
}

impl Viewer {
    /// Waits until what was published is shown.
    pub(crate) fn finish(self) {
        self.finish.store(true, Ordering::Relaxed);
        // The thread has logged why it ended.
        let _ = self.thread.join();
    }
}

/// Subscribes and shows messages. Returns only if the first connection fails or the output cannot be written.
fn watch(mut options: ConnectOptions, filter: &str) -> anyhow::Result<()> {
    options.client_id = format!("edgewatt-watch-{}", std::process::id());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    runtime.block_on(async {
        let mut view = View::default();
        let mut connected = false;
        loop {
            match session(&options, filter, &mut view, &mut connected).await {
                Ok(never) => match never {},
                Err(Ended::Unwritable(error)) => return Err(error).context("cannot write"),
                Err(Ended::Lost(lost)) if !connected => bail!("{}: {lost}", options.address()),
                Err(Ended::Lost(lost)) => {
                    tracing::debug!("{}: {lost}; connecting again", options.address());
                    sleep(RECONNECT).await;
                }
            }
        }
    })
}

/// Why a session has ended.
enum Ended {
    Lost(Lost),
    Unwritable(io::Error),
}

impl From<Lost> for Ended {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

/// Shows messages until the connection is lost.
async fn session(
    options: &ConnectOptions,
    filter: &str,
    view: &mut View,
    connected: &mut bool,
) -> Result<Infallible, Ended> {
    let until = tokio::time::Instant::now() + options.connect_timeout;
    let mut connection = Connection::open(options, None, until, |_, _, _| {}).await?;
    *connected = true;
    connection.subscribe(filter, 1)?;
    loop {
        connection.write().await?;
        let ping_at = connection.ping_at();
        let incoming = tokio::select! {
            biased;
            incoming = connection.read() => Some(incoming?),
            () = sleep_until(ping_at) => { connection.ping()?; None }
        };
        match incoming {
            Some(Incoming::Message { topic, payload, packet_id, .. }) => {
                view.show(&topic, &payload, &mut io::stdout().lock()).map_err(Ended::Unwritable)?;
                if let Some(packet_id) = packet_id {
                    connection.ack(packet_id)?;
                }
            }
            Some(Incoming::SubAck { refused: true }) => {
                return Err(Lost(format!("the broker refuses the subscription to {filter}")).into());
            }
            Some(Incoming::Disconnect(reason)) => return Err(Lost(reason).into()),
            _ => {}
        }
    }
}

/// The state between messages.
#[derive(Debug, Default)]
struct View {
    /// By topic: the number of right predictions, and of those whose truth is known.
    agreement: BTreeMap<String, (u64, u64)>,
}

impl View {
    /// Shows one message; some topics are not for people and are skipped.
    fn show(&mut self, topic: &str, payload: &[u8], out: &mut impl Write) -> io::Result<()> {
        let mut levels = topic.rsplit('/');
        let (kind, name) = (levels.next().unwrap_or(""), levels.next().unwrap_or(""));
        let in_pipeline = levels.next() == Some("p");
        if kind == "status" && !in_pipeline && matches!(payload, b"online" | b"offline") {
            return writeln!(out, "{} is {}", plain(name), plain(&String::from_utf8_lossy(payload)));
        }
        let Ok(message) = serde_json::from_slice::<Value>(payload) else {
            return writeln!(out, "{}: not JSON", plain(topic));
        };
        match (kind, in_pipeline) {
            ("prediction", true) => self.prediction(topic, name, &message, out),
            ("metrics", true) => metrics(name, &message, out),
            ("status", true) => writeln!(out, "{}: {}", plain(name), status(&message)),
            // A meter with the name `event` has no such field.
            ("event", false) if message["event"].is_string() => {
                writeln!(out, "event {}: {}", text(&message["event"]), text(&message["message"]))
            }
            _ => Ok(()),
        }
    }

    fn prediction(&mut self, topic: &str, name: &str, message: &Value, out: &mut impl Write) -> io::Result<()> {
        let decided = match (&message["label"], &message["score"]) {
            (Value::Null, Value::Number(_)) => "(undecided)".to_owned(),
            (label, Value::Number(_)) => text(label),
            _ => plain(&message.get("values").unwrap_or(&message["outputs"]).to_string()),
        };
        write!(out, "{:>8} {:<12} {decided:<28}", format!("#{}", message["seq"]), plain(name))?;
        if let Some(score) = message["score"].as_f64() {
            write!(out, " {score:5.2}")?;
        }
        if let Some(truth) = message["truth"].as_str() {
            let (right, known) = self.agreement.entry(topic.to_owned()).or_default();
            let agrees = message["label"].as_str() == Some(truth);
            *right += u64::from(agrees);
            *known += 1;
            let mark = if agrees { "  =" } else { " !=" };
            let percent = 100.0 * *right as f64 / *known as f64;
            write!(out, " {mark} {:<24} {percent:5.1} % right", plain(truth))?;
        }
        writeln!(out, "  {:>7} us", number(&message["latency_us"]))
    }
}

fn metrics(name: &str, message: &Value, out: &mut impl Write) -> io::Result<()> {
    let delegate = &message["delegate"];
    writeln!(
        out,
        "--- {} over {} s: {} predictions/s by {}{}",
        plain(name),
        number(&message["interval_s"]),
        number(&message["predictions_per_s"]),
        text(&delegate["active"]),
        if delegate["active"] == delegate["requested"] {
            String::new()
        } else {
            format!(", requested {}: {}", text(&delegate["requested"]), text(&delegate["reason"]))
        },
    )?;
    writeln!(out, "    latency/us {:>10} {:>10} {:>10} {:>10}", "p50", "p90", "p99", "max")?;
    for stage in ["source", "features", "invoke", "publish", "end_to_end"] {
        let latency = &message["latency_us"][stage];
        let [p50, p90, p99, max] = ["p50", "p90", "p99", "max"].map(|p| number(&latency[p]));
        writeln!(out, "    {stage:<10} {p50:>10} {p90:>10} {p99:>10} {max:>10}")?;
    }
    for figure in message["energy"].as_array().into_iter().flatten() {
        writeln!(out, "    energy     {}", energy(figure))?;
    }
    let counts = &message["counts"];
    let lost: Vec<String> = ["rejects", "gaps", "drops"]
        .iter()
        .flat_map(|kind| counts[kind].as_object().into_iter().flatten().map(move |(name, n)| (kind, name, n)))
        .filter(|(_, _, n)| n.as_u64() != Some(0))
        .map(|(kind, name, n)| format!("{kind} {} {n}", plain(name)))
        .collect();
    let process = &message["process"];
    write!(out, "    since start {} windows, {} predictions", counts["windows"], counts["predictions"])?;
    write!(out, "; {}", if lost.is_empty() { "nothing lost".to_owned() } else { lost.join(", ") })?;
    write!(out, "; cpu {} s, rss {} MiB", number(&process["cpu_s"]), number(&process["rss_mib"]))?;
    match process["soc_temperature_c"].as_f64() {
        Some(celsius) => writeln!(out, ", soc {celsius:.1} C"),
        None => writeln!(out),
    }
}

fn energy(figure: &Value) -> String {
    let status = text(&figure["status"]);
    let meter = figure["meter"].as_str().map_or(String::new(), |m| format!(" by {}", plain(m)));
    let reason = figure["reason"].as_str().map_or(String::new(), |r| format!(": {}", plain(r)));
    let of = |name: &str| {
        let joules = figure[format!("{name}_j")].as_f64()?;
        let expanded = figure[format!("{name}_expanded_j")].as_f64();
        let expanded = expanded.map_or(String::new(), |joules| format!(" +- {}", Joules(joules).in_mj()));
        Some(format!("{}{expanded} mJ {name}", Joules(joules).in_mj()))
    };
    let known: Vec<String> = ["gross", "net"].into_iter().filter_map(of).collect();
    if known.is_empty() {
        return format!("{status}{meter}{reason}");
    }
    format!(
        "{} per inference, {status}{meter} ({}), mean {} W over {} s{reason}",
        known.join(", "),
        text(&figure["scope"]),
        number(&figure["mean_w"]),
        number(&figure["window_s"]),
    )
}

fn status(message: &Value) -> String {
    let state = text(&message["state"]);
    match message["reason"].as_str() {
        Some(reason) => format!("{state}: {}", plain(reason)),
        None => format!("{state}, delegate {}", text(&message["delegate"]["active"])),
    }
}

/// Returns a number with three digits, or a dash if there is none.
fn number(value: &Value) -> String {
    match value.as_f64() {
        None => "-".into(),
        Some(v) if v.abs() >= 100.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.2}"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| plain(&value.to_string()), plain)
}

/// Replaces control characters, so that a publisher cannot control the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(topic: &str, payload: &str) -> String {
        let mut out = Vec::new();
        View::default().show(topic, payload.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_prediction_stands_beside_the_truth() {
        let payload = r#"{"v":1,"seq":7,"label":"curl","score":0.925,"truth":"press","latency_us":120.5}"#;
        let line = shown("edgewatt/n/p/arm/prediction", payload);
        for part in ["#7", "arm", "curl", "0.9", "!= press", "0.0 % right", "120 us"] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(shown("e/n/p/arm/prediction", r#"{"seq":1,"label":null,"score":0.2}"#).contains("(undecided)"));
    }

    #[test]
    fn energy_always_says_what_it_is() {
        let figure = serde_json::json!({"status": "estimated", "meter": "m", "scope": "process", "gross_j": 0.0123,
            "mean_w": 2.5, "window_s": 10.0, "reason": null});
        assert_eq!(energy(&figure), "12.3 mJ gross per inference, estimated by m (process), mean 2.50 W over 10.0 s");
        let figure = serde_json::json!({"status": "measured", "meter": "m", "scope": "board", "gross_j": 0.0123,
            "gross_expanded_j": 0.0002, "net_j": 0.004, "net_expanded_j": 0.0005, "mean_w": 2.5, "window_s": 10.0,
            "reason": null});
        let line = energy(&figure);
        assert!(line.starts_with("12.3 +- 0.200 mJ gross, 4.00 +- 0.500 mJ net per inference, measured"), "{line}");
        let none = serde_json::json!({"status": "unavailable", "gross_j": null, "meter": null, "reason": "no meter"});
        assert_eq!(energy(&none), "unavailable: no meter");
    }

    #[test]
    fn what_comes_in_cannot_control_the_terminal() {
        assert!(!shown("e/n/event", "{\"event\":\"\\u001b[2J\",\"message\":\"x\"}").contains('\u{1b}'));
        assert_eq!(shown("e/n/p/x/metrics", "{"), "e/n/p/x/metrics: not JSON\n");
        shown("e/n/p/x/metrics", "{}");
    }

    #[test]
    fn a_meter_of_any_name_is_passed_over() {
        for name in ["status", "metrics", "event", "prediction", "board"] {
            assert_eq!(shown(&format!("e/n/power/{name}"), r#"{"power_w":2.5}"#), "");
        }
        assert_eq!(shown("e/power/status", "online"), "power is online\n");
    }
}
