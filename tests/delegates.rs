//! External delegates and falling back, with the real binary and a plugin of our own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod common {
    pub mod daemon;
    pub mod mosquitto;
    pub mod plugin;
    pub mod wire;
}

use common::daemon::{Ended, Setup};
use common::mosquitto::Mosquitto;
use common::plugin::test_delegate;
use common::wire::{Wire, correct, json_file};

/// The demo by the plugin in that mode, falling back to those named.
fn setup(port: u16, mode: &str, fallback: &str) -> Setup {
    let table = format!(
        "[delegates.npu]\nexternal = {{ library = \"{}\", options = {{ mode = \"{mode}\" }} }}\n\n[pipelines.shoulder]\n\
         fallback = [{fallback}]",
        test_delegate().display()
    );
    Setup::demo(port)
        .at_speed("\"max\"")
        .with("\n[pipelines.shoulder]", &format!("\n{table}"))
        .with("delegate = \"xnnpack\" ", "delegate = \"npu\" ")
}

/// Runs the recording once; what was published.
fn run(mode: &str, fallback: &str) -> (Ended, Wire) {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let ended = setup(broker.port, mode, fallback).run_once().expect(0);
    let lines = subscriber.until(|line| line == "edgewatt/demo/status offline");
    (ended, Wire::new(lines))
}

#[test]
fn a_delegate_that_claims_nothing_leaves_all_to_the_cpu() {
    let (_, wire) = run("nothing", "");
    let card = json_file(&common::daemon::root().join("models/metrics.json"));
    let expected = &card["recording"]["int8"]["builtin_kernels"]["correct"];
    assert_eq!(correct(&wire.predictions(), "raw_label"), *expected);
    let metrics = wire.metrics();
    let delegate = &metrics["delegate"];
    assert_eq!((&delegate["requested"], &delegate["active"]), (&"npu".into(), &"npu".into()));
    assert_eq!((&delegate["nodes_total"], &delegate["nodes_delegated"]), (&9.into(), &0.into()));
    assert!(delegate["warnings"][0].as_str().is_some_and(|w| w.contains("took no node")), "{delegate}");
}

#[test]
fn the_first_fallback_that_works_runs_and_everybody_is_told_why() {
    for (mode, reason) in [("refuse", "declines to start"), ("abort", "SIGABRT")] {
        let (ended, wire) = run(mode, "\"xnnpack\", \"cpu\"");
        let told = |delegate: &serde_json::Value| {
            assert_eq!((&delegate["requested"], &delegate["active"]), (&"npu".into(), &"xnnpack".into()), "{mode}");
            assert!(delegate["reason"].as_str().is_some_and(|r| r.contains(reason)), "{mode}: {delegate}");
        };
        told(&wire.metrics()["delegate"]);
        told(&wire.json("shoulder/status")[0]["delegate"]);
        told(&wire.json("/info")[0]["pipelines"]["shoulder"]["delegate"]);
        let event = &wire.json("/event")[0];
        assert_eq!(event["event"], "fallback");
        ended.says(&["another delegate runs than was asked for", reason]);
        assert_eq!(wire.predictions().len(), 491);
    }
}

#[test]
fn without_a_fallback_a_delegate_that_fails_is_refused() {
    for (mode, reason) in [("refuse", "declines to start"), ("abort", "SIGABRT")] {
        setup(1, mode, "").check().expect(78).says(&["pipelines.shoulder", reason]);
    }
    // Every delegate that was tried has its reason.
    let twice = setup(1, "refuse", "\"other\"").with(
        "[delegates.npu]",
        "[delegates.other]\nexternal = { library = \"/nowhere/libnpu.so\" }\n\n[delegates.npu]",
    );
    twice.check().expect(78).says(&["npu: ", "declines to start", "other: ", "/nowhere/libnpu.so"]);
}
