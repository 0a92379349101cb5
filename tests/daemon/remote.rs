//! Commands over MQTT, against the real binary and a real mosquitto.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use edgewatt_support::daemon::Setup;
use edgewatt_support::mosquitto::{Mosquitto, Subscriber};
use nix::sys::signal::Signal;
use serde_json::Value;

fn command(broker: &Mosquitto, verb: &str, payload: &str) {
    broker.publish(&format!("edgewatt/demo/cmd/{verb}"), payload);
}

fn answer(subscriber: &mut Subscriber, words: &str) {
    subscriber.until(|line| line.starts_with("edgewatt/demo/event ") && line.contains(words));
}

#[test]
fn a_pipeline_is_paused_and_goes_on_and_nonsense_is_refused() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = Setup::demo(broker.port).at_speed("20.0").with_keys("[mqtt]", "commands = true");
    let daemon = setup.start(&[]);
    subscriber.until(|line| line.contains("/prediction "));

    command(&broker, "pause", "{\"pipeline\": \"shoulder\"}");
    subscriber.until(|line| line.contains("/p/shoulder/status ") && line.contains("\"state\":\"paused\""));
    answer(&mut subscriber, "pipeline shoulder is paused");
    // What was under way comes out; then nothing but answers.
    std::thread::sleep(std::time::Duration::from_millis(200));
    command(&broker, "pause", "{\"pipeline\": \"shoulder\"}");
    answer(&mut subscriber, "is paused already");
    std::thread::sleep(std::time::Duration::from_millis(300));
    command(&broker, "resume", "{\"pipeline\": \"nobody\"}");
    let quiet = subscriber.until(|line| line.contains("there is no pipeline"));
    assert!(!quiet.iter().any(|line| line.contains("/prediction ")), "{quiet:?}");

    command(&broker, "resume", "{\"pipeline\": \"shoulder\"}");
    subscriber.until(|line| line.contains("/p/shoulder/status ") && line.contains("\"state\":\"running\""));
    subscriber.until(|line| line.contains("/prediction "));

    command(&broker, "reload", "");
    answer(&mut subscriber, "reading the configuration again");
    subscriber.until(|line| line.contains("\"event\":\"reload\""));
    command(&broker, "shutdown", "");
    answer(&mut subscriber, "no such command");
    command(&broker, "pause", &"x".repeat(5000));
    answer(&mut subscriber, "5000 bytes");
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
}

/// The status with that delegate, from `lines` or from those that follow.
fn status_of(subscriber: &mut Subscriber, lines: &[String], delegate: &str) -> String {
    let active = format!("\"requested\":\"{delegate}\",\"active\":\"{delegate}\"");
    let is_status = |line: &str| line.contains("/p/shoulder/status ") && line.contains(&active);
    let found = lines.iter().find(|line| is_status(line)).cloned();
    found.unwrap_or_else(|| subscriber.until(is_status).pop().unwrap())
}

#[test]
fn a_pipeline_changes_its_delegate_until_the_configuration_is_read_again() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let broken = "[delegates.broken]\nexternal = { library = \"/nowhere/delegate.so\" }\n\n[delegates.isolated]";
    let setup = Setup::demo(broker.port)
        .at_speed("20.0")
        .with_keys("[mqtt]", "commands = true")
        .with("[delegates.isolated]", broken);
    let daemon = setup.start(&[]);
    let choices = "\"delegates\":[\"cpu\",\"xnnpack\",\"broken\",\"isolated\"]";
    subscriber.until(|line| line.starts_with("edgewatt/demo/info ") && line.contains(choices));
    subscriber.until(|line| line.contains("/prediction "));
    let set = |delegate: &str| {
        command(&broker, "delegate", &format!("{{\"pipeline\": \"shoulder\", \"delegate\": \"{delegate}\"}}"));
    };

    for (delegate, isolation) in [("cpu", "thread"), ("isolated", "process"), ("xnnpack", "thread"), ("cpu", "thread")]
    {
        set(delegate);
        answer(&mut subscriber, &format!("trying {delegate} for shoulder"));
        let lines =
            subscriber.until(|line| line.contains("\"event\":\"command\"") && line.contains("until the config"));
        let status = status_of(&mut subscriber, &lines, delegate);
        assert!(status.contains(&format!("\"isolation\":\"{isolation}\"")), "{status}");
        subscriber.until(|line| line.contains("/prediction "));
    }

    set("broken");
    answer(&mut subscriber, "shoulder cannot run by broken: ");
    set("npu");
    answer(&mut subscriber, "there is no delegate `npu`; there are cpu, xnnpack, broken, isolated");
    command(&broker, "delegate", "{\"pipeline\": \"shoulder\"}");
    answer(&mut subscriber, "the command needs a payload");
    subscriber.until(|line| line.contains("/prediction "));

    // The file wins.
    daemon.signal(Signal::SIGHUP);
    let lines = subscriber.until(|line| line.contains("\"event\":\"reload\"") && line.contains("shoulder changed"));
    status_of(&mut subscriber, &lines, "xnnpack");
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
}

#[test]
fn what_is_published_as_retained_is_refused_from_the_first_time() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = Setup::demo(broker.port).at_speed("20.0").with_keys("[mqtt]", "commands = true");
    let daemon = setup.start(&[]);
    subscriber.until(|line| line.contains("/prediction "));
    let retained = |verb: &str, payload: &str| {
        let (port, topic) = (broker.port.to_string(), format!("edgewatt/demo/cmd/{verb}"));
        let to = ["-h", "127.0.0.1", "-p", &port, "-q", "1", "-r", "-t", &topic, "-m", payload];
        assert!(Command::new("mosquitto_pub").args(to).status().unwrap().success());
    };
    retained("pause", "{\"pipeline\": \"shoulder\"}");
    answer(&mut subscriber, "pause: retained commands are refused");
    // As who clears it does, and as `reload` may look.
    retained("reload", "");
    answer(&mut subscriber, "reload: retained commands are refused");
    let lines = subscriber.until(|line| line.contains("/prediction "));
    assert!(!lines.iter().any(|line| line.contains("reload") && line.contains("/event ")), "{lines:?}");
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
}

#[test]
fn a_flood_of_commands_is_neither_done_nor_answered_and_predictions_go_on() {
    const FLOOD: usize = 1_000;
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = Setup::demo(broker.port)
        .at_speed("20.0")
        .with("interval_s = 10.0", "interval_s = 1.0")
        .with_keys("[mqtt]", "commands = true");
    let daemon = setup.start(&[]);
    subscriber.until(|line| line.contains("/prediction "));
    let port = broker.port.to_string();
    let mut flood = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-l", "-t", "edgewatt/demo/cmd/nonsense"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    flood.stdin.take().unwrap().write_all("x\n".repeat(FLOOD).as_bytes()).unwrap();
    assert!(flood.wait().unwrap().success());
    let mut lines = subscriber.until(|line| line.contains("/metrics "));
    lines.extend(subscriber.until(|line| line.contains("/metrics ")));
    let answers = lines.iter().filter(|line| line.contains("\"event\":\"command_refused\"")).count();
    let most = 20 * (2 + usize::try_from(begun.elapsed().as_secs()).unwrap());
    assert!((1..=most).contains(&answers) && answers < FLOOD, "{answers} answers, {most} at most");
    assert!(lines.iter().any(|line| line.contains("/prediction ")));

    // The figures of delivery add up in each message.
    let metrics = lines.last().unwrap().split_once(' ').unwrap().1;
    let delivery = serde_json::from_str::<Value>(metrics).unwrap()["delivery"].take();
    let of = |key: &str| delivery[key].as_u64().unwrap_or_else(|| panic!("no {key} in {delivery}"));
    let drops = delivery["drops"].as_object().unwrap().iter().filter(|(of, _)| !of.starts_with("state."));
    let dropped: u64 = drops.map(|(_, count)| count.as_u64().unwrap()).sum();
    assert_eq!(of("produced") + of("recovered"), of("delivered") + of("queued") + dropped, "{delivery}");
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
}

#[test]
fn unless_it_is_asked_for_nobody_is_listened_to() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = Setup::demo(broker.port).at_speed("20.0");
    let daemon = setup.start(&[]);
    subscriber.until(|line| line.contains("/prediction "));
    command(&broker, "pause", "{\"pipeline\": \"shoulder\"}");
    subscriber.until(|line| line.contains("/cmd/pause "));
    let lines = subscriber.until(|line| line.contains("/prediction "));
    assert!(!lines.iter().any(|line| line.contains("/event ")), "{lines:?}");
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
}
