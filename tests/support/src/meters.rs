//! A daemon with a fake `/sys`, and what is published of its meters.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::counters::{Mover, Tree};
use crate::daemon::{Daemon, Ended, Setup};
use crate::mosquitto::{Mosquitto, Subscriber};

/// Meters are tried again within twice the time that they were away.
const PATIENCE: Duration = Duration::from_secs(30);

/// The demo at forty times real time, over and over, with the meters that these lines of `[power.meters]` describe.
pub fn setup(port: u16, tree: &Tree, sample_ms: u64, meters: &str) -> Setup {
    let sysfs = tree.root().display();
    let power = format!(
        "[power]\nsysfs = \"{sysfs}\"\nsample_ms = {sample_ms}\ninterval_s = 0.02\nidle_s = 0.0\nwindow_max_s = 4.0\n[power.meters]"
    );
    Setup::demo(port)
        .at_speed("40.0")
        .with_keys("[pipelines.shoulder.source.replay]", "loop = true")
        .with("interval_s = 10.0", "interval_s = 0.5")
        .with("[power.meters.guess]", &power)
        .with("estimate = { watts_per_core = 2.0, idle_watts = 2.5 }", meters)
}

/// All that a subscriber has received so far.
pub struct Watch {
    subscriber: Subscriber,
    seen: Vec<Message>,
}

struct Message {
    topic: String,
    text: String,
    json: Value,
}

impl Watch {
    pub fn of(broker: &Mosquitto) -> Self {
        Self { subscriber: Subscriber::at_qos(broker.port, "edgewatt/#", 1), seen: Vec::new() }
    }

    /// The place behind what was seen so far; what is looked for from there on is news.
    pub fn mark(&self) -> usize {
        self.seen.len()
    }

    fn receive(&mut self) {
        for line in self.subscriber.until(|_| true) {
            let (topic, text) = line.split_once(' ').unwrap();
            // The status of the node is a bare word.
            let json = serde_json::from_str(text).unwrap_or_else(|_| text.into());
            self.seen.push(Message { topic: topic.to_owned(), text: text.to_owned(), json });
        }
    }

    /// The first thing from `from` on that `pick` finds in a message on a topic with that end.
    fn pick<T>(&mut self, end: &str, from: usize, mut pick: impl FnMut(&Value) -> Option<T>) -> T {
        let (mut next, deadline) = (from, Instant::now() + PATIENCE);
        loop {
            while let Some(message) = self.seen.get(next) {
                if let Some(found) = Some(&message.json).filter(|_| message.topic.ends_with(end)).and_then(&mut pick) {
                    return found;
                }
                next += 1;
            }
            let last = || self.seen.iter().rev().find(|message| message.topic.ends_with(end)).map(|last| &last.text);
            assert!(Instant::now() < deadline, "waited in vain for news on {end}; the last is {:?}", last());
            self.receive();
        }
    }

    /// The first message from `from` on, on a topic with that end, for which `holds`.
    pub fn find(&mut self, end: &str, from: usize, mut holds: impl FnMut(&Value) -> bool) -> Value {
        self.pick(end, from, |message| holds(message).then(|| message.clone()))
    }

    /// A figure of the meter in a metrics message.
    pub fn figure(&mut self, meter: &str, from: usize, mut holds: impl FnMut(&Value) -> bool) -> Value {
        self.pick("/metrics", from, |message| {
            let figures = message["energy"].as_array().unwrap();
            let figure = figures.iter().find(|figure| figure["meter"] == meter)?;
            holds(figure).then(|| figure.clone())
        })
    }

    /// A message about the meter alone.
    pub fn power(&mut self, meter: &str, from: usize, holds: impl FnMut(&Value) -> bool) -> Value {
        self.find(&format!("/power/{meter}"), from, holds)
    }

    /// All messages about the meter alone so far.
    pub fn of_meter(&self, meter: &str) -> Vec<Value> {
        self.on_topic_of(meter).map(|message| message.json.clone()).collect()
    }

    fn on_topic_of(&self, meter: &str) -> impl Iterator<Item = &Message> {
        let end = format!("/power/{meter}");
        self.seen.iter().filter(move |message| message.topic.ends_with(&end))
    }

    /// The totals of the meter so far, each the number that its digits stand for, which serde_json only comes close to.
    pub fn joules_of(&self, meter: &str) -> Vec<f64> {
        let joules = |message: &Message| {
            let (_, behind) = message.text.split_once("\"energy_j\":").unwrap();
            behind.split([',', '}']).next().and_then(|digits| digits.parse().ok())
        };
        self.on_topic_of(meter).filter_map(joules).collect()
    }

    /// Waits until the meter is unavailable for a reason with all these parts, in the metrics and on its own topic.
    pub fn unavailable(&mut self, meter: &str, from: usize, parts: &[&str]) {
        let says = |message: &Value| {
            message["reason"].as_str().is_some_and(|reason| parts.iter().all(|part| reason.contains(part)))
        };
        let figure = self.figure(meter, from, says);
        assert_eq!(figure["status"], "unavailable", "{figure}");
        assert_eq!((&figure["gross_j"], &figure["energy_j"]), (&Value::Null, &Value::Null), "{figure}");
        let power = self.power(meter, from, says);
        assert_eq!((&power["power_w"], &power["energy_j"]), (&Value::Null, &Value::Null), "{power}");
    }

    /// Waits until the meter has a figure.
    pub fn known_at_all(&mut self, meter: &str, from: usize) -> Value {
        self.pick_known(meter, from, |_| true)
    }

    /// Waits until the meter has a figure, which must show the power at which `mover` moves its counters.
    pub fn known(&mut self, meter: &str, from: usize, watts: f64, mover: &Mover) -> Value {
        let figure = self.known_at_all(meter, from);
        // At either edge of the window a counter may be behind its time; the daemon's clock is read in microseconds.
        let (mean_w, window_s) = (number(&figure, "mean_w"), number(&figure, "window_s"));
        let tolerance_w = watts * (mover.lag().as_secs_f64() + 0.002) / window_s;
        assert!((mean_w - watts).abs() < tolerance_w, "{mean_w} W, not {watts} +- {tolerance_w}: {figure}");
        figure
    }

    /// Waits until the meter of a sensor that always shows `watts` has a figure.
    pub fn known_exactly(&mut self, meter: &str, from: usize, watts: f64) -> Value {
        // The first window may hold what was before.
        let close = |figure: &Value| figure["mean_w"].as_f64().is_some_and(|w| (w / watts - 1.0).abs() < 1e-6);
        self.pick_known(meter, from, close)
    }

    /// Other programs on this machine can make a figure `attributed`.
    fn pick_known(&mut self, meter: &str, from: usize, holds: impl Fn(&Value) -> bool) -> Value {
        let is_known =
            |figure: &Value| ["measured", "attributed", "replayed"].iter().any(|known| figure["status"] == *known);
        let figure = self.figure(meter, from, |figure| is_known(figure) && holds(figure));
        if figure["status"] == "measured" {
            let gross_j = number(&figure, "energy_j") / number(&figure, "inferences");
            assert!((number(&figure, "gross_j") / gross_j - 1.0).abs() < 1e-9, "{figure}");
        }
        let power = self.power(meter, from, |message| message["reason"].is_null());
        assert!(number(&power, "energy_j") >= 0.0 && power["kind"] == figure["kind"], "{power}");
        figure
    }

    /// Stops the daemon in order.
    pub fn stop(&mut self, daemon: Daemon) -> Ended {
        daemon.signal(Signal::SIGTERM);
        daemon.wait().expect(0)
    }
}

#[track_caller]
pub fn number(message: &Value, key: &str) -> f64 {
    message[key].as_f64().unwrap_or_else(|| panic!("no {key} in {message}"))
}
