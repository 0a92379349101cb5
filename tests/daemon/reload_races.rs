//! Reloads that come at a bad moment: on top of each other, at a stop, at the end of a stream, after a failure.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use edgewatt_support::daemon::wait_until;
use edgewatt_support::rig::{
    REPLAY, Rig, XNNPACK, assert_nothing_lost, assert_undisturbed, delegate, even_recording, of, paced, replay, second,
    with_plugin,
};
use edgewatt_support::root;
use nix::sys::signal::Signal;

#[test]
fn reloads_on_top_of_each_other_end_with_the_latest_file() {
    let mut rig = Rig::start(|setup| with_plugin(paced(setup), "npu", &[]));
    rig.more_predictions("shoulder", 5);
    for _ in 0..5 {
        for (old, new) in [(XNNPACK, &*delegate("npu")), ("smooth = 3 }", "smooth = 2 }")] {
            rig = rig.edit(old, new);
            rig.daemon.signal(Signal::SIGHUP);
            rig.more_predictions("shoulder", 1);
            rig = rig.edit(new, old);
            rig.daemon.signal(Signal::SIGHUP);
            rig.daemon.signal(Signal::SIGHUP);
        }
    }
    let mut rig = rig.edit(XNNPACK, &delegate("npu"));
    rig.daemon.signal(Signal::SIGHUP);
    rig.info(&["\"requested\":\"npu\""]);
    // Until what was asked for last is what runs.
    while rig.reload()["message"].as_str().is_some_and(|told| !told.ends_with("nothing has changed")) {}
    rig.more_predictions("shoulder", 20);
    assert_eq!(rig.retained().json("/info")[0]["pipelines"]["shoulder"]["delegate"]["active"], "npu");
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
    assert_undisturbed(&wire);
}

#[test]
fn a_pipeline_that_is_taken_out_and_put_back_at_once_runs() {
    let other = second("other", &replay("other", "speed = 100.0\nloop = true"));
    let mut rig = Rig::start(|setup| paced(setup).with("\n[pipelines.shoulder]\n", &other));
    rig.more_predictions("other", 1);
    for pause_ms in [0, 10, 30, 50, 100] {
        rig = rig.edit(&other, "\n[pipelines.shoulder]\n");
        rig.daemon.signal(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(pause_ms));
        rig = rig.edit("\n[pipelines.shoulder]\n", &other);
        while !rig.reload()["message"].as_str().is_some_and(|told| told.ends_with("nothing has changed")) {}
        rig.more_predictions("other", 50);
    }
    assert!(!rig.daemon.log().contains("cannot start"), "{}", rig.daemon.log());
    let (_, wire) = rig.stop();
    assert_nothing_lost(&wire, "shoulder");
    assert_undisturbed(&of(&wire, "shoulder"));
}

#[test]
fn a_stop_amid_a_reload_ends_in_order() {
    let other = second("other", &replay("other", "speed = 100.0\nloop = true"));
    let npu = delegate("npu");
    for (first, old, new) in [
        (XNNPACK, XNNPACK, &*npu),
        (&*npu, "every = \"8\"", "every = \"9\""),
        (XNNPACK, "\n[pipelines.shoulder]\n", &other),
        (XNNPACK, "speed = 100.0", "speed = 50.0"),
    ] {
        for pause_ms in [0, 1, 5, 20, 60] {
            let mut rig = Rig::start(|setup| with_plugin(paced(setup), "npu", &[("every", "8")]).with(XNNPACK, first));
            rig.more_predictions("shoulder", 2);
            let rig = rig.edit(old, new);
            rig.daemon.signal(Signal::SIGHUP);
            std::thread::sleep(Duration::from_millis(pause_ms));
            let (ended, wire) = rig.stop();
            assert!(!ended.stderr.contains("does not end"), "{new} after {pause_ms} ms:\n{}", ended.stderr);
            assert_nothing_lost(&wire, "shoulder");
            let last = wire.json("shoulder/status").pop().unwrap();
            assert_eq!(last["state"], "stopped", "{new} after {pause_ms} ms");
        }
    }
}

/// The stream ends while the file is read: whichever comes first, the daemon ends and has said everything.
#[test]
fn a_stream_that_ends_amid_a_reload_is_over() {
    let npu = delegate("npu");
    for (old, new) in [(XNNPACK, &*npu), ("smooth = 3 }", "smooth = 1 }")] {
        for samples in [1000, 2000, 3000, 4000] {
            let mut rig = Rig::with_args(
                |setup| {
                    with_plugin(paced(setup), "npu", &[])
                        .with("loop = true", "")
                        .recording(even_recording(samples, 0.0).as_bytes())
                },
                &["--once"],
            );
            rig.more_predictions("shoulder", 1);
            let rig = rig.edit(old, new);
            rig.daemon.signal(Signal::SIGHUP);
            let (ended, wire) = rig.end(0);
            assert!(!ended.stderr.contains("cannot start"), "{}", ended.stderr);
            let windows = (samples as u64 - 200) / 50 + 1;
            let counts = &wire.metrics()["counts"];
            // Where it had ended before, another pipeline plays the recording again.
            assert_eq!(counts["predictions"].as_u64().unwrap() % windows, 0, "{counts}");
            assert_nothing_lost(&wire, "shoulder");
        }
    }
}

#[test]
fn an_ended_pipeline_does_not_hold_up_a_reload() {
    let mut rig = Rig::start(|setup| {
        let setup = with_plugin(paced(setup), "npu", &[("every", "1")]).with(XNNPACK, &delegate("npu"));
        let setup =
            setup.with("\n[pipelines.shoulder]\n", &second("other", &replay("other", "speed = 100.0\nloop = true")));
        let short = setup.write("short.csv", even_recording(1000, 0.0).as_bytes());
        let demo = root().join("models/shoulder_recording.csv");
        let replay = |path: &Path| format!("loop = true\npath = \"{}\"", path.display());
        setup.with(&replay(&demo), &replay(&short).replace("loop = true\n", ""))
    });
    rig.until(|line| line.contains("/p/shoulder/status ") && line.contains("\"ended\""));
    let mut rig = rig.edit("every = \"1\"", "every = \"2\"");
    let before = rig.lines.len();
    rig.reloaded(": shoulder changed");
    // In a second the other pipeline gives a hundred.
    let meanwhile = rig.wire().0[before..].iter().filter(|(topic, _)| topic.ends_with("other/prediction")).count();
    assert!(meanwhile < 800, "{meanwhile} predictions of the other pipeline in that time");
    rig.until(|line| line.contains("/p/shoulder/status ") && line.contains("\"ended\""));
    rig.stop();
}

/// It failed for good; what comes in its place takes its socket over and counts on.
#[test]
fn a_pipeline_that_failed_is_mended_by_editing_the_file() {
    let mut rig = Rig::start(|setup| {
        let socket = setup.dir.path().join("samples");
        let demo = root().join("models/shoulder_recording.csv");
        let setup = with_plugin(setup, "npu", &[("mode", "fail"), ("every", "40")]).with(XNNPACK, &delegate("npu"));
        let setup = setup;
        let setup = setup.with_keys("[delegates.npu]", "restarts = { max = 0 }");
        let setup = setup.with_keys("[pipelines.shoulder]", "parity = { windows = 0 }");
        // Another, so that the daemon goes on.
        let setup =
            setup.with("\n[pipelines.shoulder]\n", &second("other", &replay("other", "speed = 100.0\nloop = true")));
        setup
            .with(
                &format!("{REPLAY}\npath = \"{}\"\nspeed = 1.0 ", demo.display()),
                &format!("[pipelines.shoulder.source.lines]\nfrom = {{ socket = \"{}\" }} ", socket.display()),
            )
            .with("shoulder.source.replay.", "shoulder.source.lines.")
    });
    let socket = rig.setup.dir.path().join("samples");
    let mut writer = None;
    wait_until(
        || "the socket".into(),
        || {
            writer = UnixStream::connect(&socket).ok();
            writer.is_some()
        },
    );
    let mut writer = writer.unwrap();
    writer.write_all(even_recording(5000, 0.0).as_bytes()).unwrap();
    let failed = rig.state("p/shoulder/status", &["\"failed\""]);
    assert!(failed["reason"].as_str().unwrap().contains("npu"), "{failed}");
    let mut rig = rig.edit(&delegate("npu"), XNNPACK);
    rig.reloaded(": shoulder changed");
    rig.state("p/shoulder/status", &["\"running\""]);
    let mut writer = UnixStream::connect(&socket).unwrap();
    writer.write_all(even_recording(1000, 0.0).as_bytes()).unwrap();
    rig.more_predictions("shoulder", (1000 - 200) / 50 + 1);
    assert!(!rig.daemon.log().contains("cannot start"), "{}", rig.daemon.log());
    let (_, wire) = rig.stop();
    let seqs = of(&wire, "shoulder").seqs();
    assert_eq!(seqs, Vec::from_iter(0..seqs.len() as u64));
}
