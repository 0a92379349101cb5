//! Instruments that tell what they measure, under the real binary: a real broker, a real program, and their sum.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use edgewatt_support::counters::Tree;
use edgewatt_support::meters::{Watch, number, setup};
use edgewatt_support::mosquitto::Mosquitto;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a smart plug publishes.
fn plug(watts: f64) -> String {
    format!("{{\"id\":0,\"apower\":{watts:.1},\"voltage\":230.1,\"current\":0.05}}")
}

#[test]
fn a_plug_on_mqtt_a_program_and_their_sum_are_metered_until_they_stop() {
    let tree = Tree::new(&[]);
    let pid = tree.path("pid");
    let script = format!(
        "sleep 1000 & echo $! > {}; while [ ! -e {} ]; do echo '5.00;0.500'; sleep 0.02; done; echo gone >&2; exit 4",
        pid.display(),
        tree.path("broken").display()
    );
    let broker = Mosquitto::running();
    let mut watch = Watch::of(&broker);
    let mut meters = String::new();
    writeln!(
        meters,
        "plug.reader = {{ mqtt = {{ topic = \"plug/status\" }}, json = {{ power = \"/apower\", voltage = \"/voltage\", current = \"/current\" }}, \
         period_s = 0.2, efficiency = 0.8, scope = \"device\" }}"
    )
    .unwrap();
    writeln!(
        meters,
        "usb.reader = {{ command = [\"sh\", \"-c\", {script:?}], column = {{ voltage = 1, current = 2 }}, delimiter = \";\", \
         period_s = 0.02, scope = \"device\" }}\nusb.gain_error = 0.01"
    )
    .unwrap();
    meters.push_str("all.sum = { of = [\"plug\", \"usb\"] }");
    let setup = setup(broker.port, &tree, 50, &meters);
    // A message that the broker kept may be old.
    broker.publish_retained("plug/status", &plug(999.0));
    let daemon = setup.start(&[]);
    let publishes = |watch: &mut Watch, meter: &str, watts: f64| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            broker.publish("plug/status", &plug(10.0));
            let from = watch.mark();
            let shown = watch.power(meter, from, |_| true);
            if shown["power_w"].as_f64().is_some_and(|shown| (shown / watts - 1.0).abs() < 1e-6) {
                return shown;
            }
            assert!(Instant::now() < deadline, "{meter} does not show {watts} W: {shown}");
        }
    };
    let shown = publishes(&mut watch, "plug", 8.0);
    assert_eq!(
        (&shown["kind"], &shown["scope"], number(&shown, "voltage_v")),
        (&"reader".into(), &"device".into(), 230.1)
    );
    let highest = watch.of_meter("plug").iter().filter_map(|message| message["power_w"].as_f64()).fold(0.0, f64::max);
    assert!(highest < 100.0, "the message that the broker had kept was used: {highest} W");
    publishes(&mut watch, "usb", 2.5);
    let all = publishes(&mut watch, "all", 10.5);
    assert_eq!((&all["kind"], &all["scope"], &all["estimated"]), (&"sum".into(), &"board".into(), &false.into()));

    // The plug tells nothing any more: neither has the sum a reading, and the program's goes on.
    let from = watch.mark();
    watch.power("plug", from, |message| {
        message["reason"].as_str().is_some_and(|reason| reason.contains("told nothing for"))
    });
    watch.power("all", from, |message| message["reason"].as_str().is_some_and(|reason| reason.contains("plug: ")));
    let from = watch.mark();
    watch.known_exactly("usb", from, 2.5);
    let info = watch.find("/info", 0, |info| {
        let meters = info["meters"].as_array().unwrap();
        meters.iter().any(|meter| meter["name"] == "usb" && !meter["detail"].as_array().unwrap().is_empty())
    });
    assert!(info.to_string().contains("program sh tells power every 0.02 s"), "{info}");

    tree.write("broken", "");
    let from = watch.mark();
    let failed = |reason: &str| reason.contains("it ended with exit code 4") && reason.contains("standard error: gone");
    watch.power("usb", from, |message| message["reason"].as_str().is_some_and(failed));
    let child: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    watch.stop(daemon).says(&["sh: gone", "subscribed to plug/status at the MQTT broker"]);
    let state = fs::read_to_string(format!("/proc/{child}/stat"));
    assert!(state.map_or(true, |state| state.contains(") Z ")), "what the program had started outlives the daemon");
}
