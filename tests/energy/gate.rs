//! What a gate saves, as the real binary publishes it: skipped windows times the net energy of an inference.

use edgewatt_support::counters::{Counter, Mover, Tree};
use edgewatt_support::meters::{Watch, number, setup};
use edgewatt_support::mosquitto::Mosquitto;
use serde_json::Value;

fn integer(saved: &Value, name: &str) -> u64 {
    saved[name].as_u64().unwrap_or_else(|| panic!("no {name} in {saved}"))
}

#[test]
fn each_interval_adds_its_skipped_windows_times_the_net_energy_of_an_inference() {
    let tree = Tree::new(&[]);
    tree.zone("intel-rapl:0", "package-0", 0);
    let energy = tree.path("class/powercap/intel-rapl:0/energy_uj");
    let _mover = Mover::start(vec![Counter::new(&energy, 5.0, 1_000_000, None)]);
    let broker = Mosquitto::running();
    let mut watch = Watch::of(&broker);
    // The movements of the recording open it now and then.
    let gate = "gate.level = { threshold = 0.9, block_s = 0.2, hold_s = 2.0 }";
    let setup = setup(broker.port, &tree, 20, "package.rapl = { interface = \"powercap\" }")
        .with("idle_s = 0.0", "idle_s = 0.0\nidle_watts = 2.0")
        .with_keys("[pipelines.shoulder]", gate);
    let daemon = setup.start(&[]);
    let mut before: Option<Value> = None;
    let mut checked = 0;
    while checked < 5 {
        let time_ms = before.as_ref().map(|before| integer(before, "time_ms"));
        let message = watch.find("/p/shoulder/metrics", 0, |message| message["time_ms"].as_u64() > time_ms);
        let saved = &message["gate"]["saved"][0];
        assert_eq!(
            integer(saved, "inferences") + integer(saved, "unknown"),
            integer(&message["counts"], "gated"),
            "{saved}"
        );
        if saved["energy_j"].is_null() {
            assert_eq!((&saved["status"], integer(saved, "inferences")), (&"unavailable".into(), 0), "{saved}");
            assert!(saved["reason"].is_string(), "{saved}");
        } else {
            assert_eq!(saved["status"], "estimated", "what was not measured is not called so");
            assert!(["measured", "attributed"].contains(&saved["from"].as_str().unwrap()), "{saved}");
            let expanded_j = 2.0 * number(saved, "energy_u_j");
            assert!((number(saved, "energy_expanded_j") / expanded_j - 1.0).abs() < 1e-9, "{saved}");
        }
        if let Some(before) = before.as_ref().map(|before| &before["gate"]["saved"][0])
            && before["energy_j"].is_number()
        {
            let new = (integer(saved, "inferences") - integer(before, "inferences")) as f64;
            for (sum, each) in [("energy_j", "net_j"), ("energy_u_j", "net_u_j")] {
                let expected = number(before, sum) + new * number(saved, each);
                assert!((number(saved, sum) / expected - 1.0).abs() < 1e-9, "{sum}: {before} {saved}");
            }
            assert_eq!(saved["unknown"], before["unknown"], "a figure is known");
            checked += u32::from(new > 0.0);
        }
        before = Some(message);
    }
    watch.stop(daemon);
}
