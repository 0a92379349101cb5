//! Commands over MQTT, against the real binary and a real mosquitto.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod common {
    pub mod daemon;
    pub mod mosquitto;
    pub mod wire;
}

use common::daemon::Setup;
use common::mosquitto::{Mosquitto, Subscriber};
use nix::sys::signal::Signal;

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
    answer(&mut subscriber, "the configuration is read again");
    subscriber.until(|line| line.contains("\"event\":\"reload\""));
    command(&broker, "shutdown", "");
    answer(&mut subscriber, "no such command");
    command(&broker, "pause", &"x".repeat(5000));
    answer(&mut subscriber, "5000 bytes");
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
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
