//! The test delegate itself: it takes what it is told to, answers as the runtime's own kernels do, and misbehaves when
//! it is to. What edgewatt makes of that is for other tests.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use edgewatt::engine::delegate::DelegateKind;
use edgewatt::engine::delegate::cpu::Cpu;
use edgewatt::engine::delegate::external::External;
use edgewatt::engine::{Delegation, Element, Engine, EngineError, ModelPlan, TfliteEngine};
use edgewatt_support::demo;
use edgewatt_support::plugin::test_delegate;
use edgewatt_support::{RUNTIME, root};
use nix::sys::signal::Signal;

const CPU: DelegateKind = DelegateKind::Cpu(Cpu { threads: 1 });
const MODELS: [&str; 3] = ["shoulder_fp32", "shoulder_int8", "shoulder_pruned_int8"];
const INT8: &str = "shoulder_int8";
/// What it takes when it is not told; of the demo's operators it leaves MEAN.
const EVERYTHING: &str = "ADD,CONV_2D,FULLY_CONNECTED,RESHAPE,SOFTMAX";

/// The features of windows from all over the recording: every class, both arms.
static WINDOWS: LazyLock<Vec<Vec<f32>>> = LazyLock::new(|| {
    let config = demo::config(&[]);
    let mut pipeline = demo::prepare(&config);
    let values: Vec<Vec<f32>> = demo::recording(&config, &pipeline.labels).into_iter().map(|(_, v)| v).collect();
    let windows = values.windows(config.pipelines[0].window.samples).step_by(1000);
    let features = |window: &[Vec<f32>]| pipeline.stages.features.apply(&window.concat()).to_vec();
    windows.map(features).collect()
});

fn with(options: &[(&str, &str)]) -> DelegateKind {
    let options = options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    DelegateKind::External(External { library: test_delegate(), options })
}

fn model(name: &str) -> PathBuf {
    root().join("models").join(name).with_extension("tflite")
}

fn build(name: &str, delegate: &DelegateKind, batch: usize) -> Result<TfliteEngine, EngineError> {
    TfliteEngine::new(&RUNTIME, &model(name), &fs::read(model(name)).unwrap(), delegate, &ModelPlan::of_batch(batch))
}

fn delegation(name: &str, delegate: &DelegateKind) -> Delegation {
    TfliteEngine::proven(&RUNTIME, &model(name), &fs::read(model(name)).unwrap(), delegate, &ModelPlan::of_batch(1))
        .unwrap()
        .1
        .unwrap()
}

/// The scores of those windows, which go through together.
fn infer(engine: &mut TfliteEngine, windows: &[Vec<f32>]) -> Vec<f32> {
    for (row, features) in windows.iter().enumerate() {
        engine.set_input(row, features).unwrap();
    }
    engine.invoke().unwrap();
    let classes = engine.outputs()[0].len() / windows.len();
    let mut scores = vec![0.0; windows.len() * classes];
    for (row, scores) in scores.chunks_mut(classes).enumerate() {
        engine.output(0, row, scores).unwrap();
    }
    scores
}

/// How far `b` is from `a` at worst.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    // Not `f32::max`, which drops NaN.
    differences.fold(0.0, |worst, difference| if difference <= worst { worst } else { difference })
}

#[test]
fn it_answers_as_the_reference_kernels_do() {
    for name in MODELS {
        for operators in [EVERYTHING, "CONV_2D,FULLY_CONNECTED", "ADD,SOFTMAX"] {
            let mut ours = build(name, &with(&[("operators", operators)]), 1).unwrap();
            let mut reference = build(name, &CPU, 1).unwrap();
            let info = reference.outputs()[0].clone();
            let mut worst = 0.0_f32;
            for window in WINDOWS.iter().map(std::slice::from_ref) {
                let [expected, scores] = [&mut reference, &mut ours].map(|engine| infer(engine, window));
                worst = worst.max(difference(&expected, &scores));
            }
            let (worst, allowed) = match info.element {
                Element::Float32 => (worst, 1e-5),
                // None on x86; kernels for other processors round otherwise.
                _ => ((worst / info.scale).round(), 2.0),
            };
            println!("{name} by {operators}: {worst:e} of {allowed:e}, {} windows", WINDOWS.len());
            assert!(worst <= allowed, "{name} by {operators}: {worst}");
        }
    }
}

#[test]
fn a_batch_goes_through_as_its_windows_do() {
    for name in MODELS {
        for operators in [EVERYTHING, "ADD,SOFTMAX"] {
            let delegate = with(&[("operators", operators)]);
            let mut single = build(name, &delegate, 1).unwrap();
            let each: Vec<f32> =
                WINDOWS[..3].iter().flat_map(|w| infer(&mut single, std::slice::from_ref(w))).collect();
            let together = infer(&mut build(name, &delegate, 3).unwrap(), &WINDOWS[..3]);
            // The runtime's own float kernels sum up in another order.
            assert!(difference(&each, &together) < 1e-6, "{name} by {operators}");
        }
    }
}

#[test]
fn it_takes_what_it_is_told_to_take() {
    for name in MODELS {
        let all = delegation(name, &with(&[]));
        assert_eq!(all, delegation(name, &with(&[("operators", EVERYTHING)])));
        assert_eq!((all.nodes_total, all.nodes_delegated, all.partitions), (9, 8, 2), "{name}: {all:?}");
        assert_eq!(all.on_cpu, [("MEAN".to_owned(), 1)].into());
        let some = delegation(name, &with(&[("operators", "CONV_2D,FULLY_CONNECTED")]));
        assert_eq!((some.nodes_delegated, some.partitions), (6, 2), "{name}: {some:?}");
        let left: Vec<&str> = some.on_cpu.keys().map(String::as_str).collect();
        assert_eq!(left, ["ADD", "MEAN", "SOFTMAX"]);
        let none = delegation(name, &with(&[("mode", "nothing")]));
        assert_eq!((none.nodes_delegated, none.partitions), (0, 0), "{name}: {none:?}");
    }
}

#[test]
fn every_so_many_answers_are_wrong_and_no_other() {
    let window = std::slice::from_ref(&WINDOWS[0]);
    let right = infer(&mut build(INT8, &CPU, 1).unwrap(), window);
    let mut ours = build(INT8, &with(&[("mode", "wrong"), ("every", "3")]), 1).unwrap();
    // The engine's first invocation, on zeros, was number 1.
    let wrong = (2..=9).map(|_| difference(&right, &infer(&mut ours, window)) > 0.5);
    assert_eq!(wrong.collect::<Vec<_>>(), [false, true, false, false, true, false, false, true]);
}

#[test]
fn the_first_lives_and_processes_may_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let window = std::slice::from_ref(&WINDOWS[0]);
    let right = infer(&mut build(INT8, &CPU, 1).unwrap(), window);
    for (from, value, expected) in [("from_life", "2", [false, true]), ("from_process", "2", [false, false])] {
        let lives = dir.path().join(from).display().to_string();
        let delegate = with(&[("mode", "wrong"), ("lives", &lives), (from, value)]);
        let wrong = [(); 2].map(|()| difference(&right, &infer(&mut build(INT8, &delegate, 1).unwrap(), window)) > 0.5);
        assert_eq!(wrong, expected, "{from}");
        assert_eq!(fs::read(&lives).unwrap().len(), 2);
        assert_eq!(fs::read_to_string(format!("{lives}.processes")).unwrap(), format!("{}\n", std::process::id()));
    }
    // As if another process had been there before.
    let lives = dir.path().join("other").display().to_string();
    fs::write(format!("{lives}.processes"), "0\n").unwrap();
    let delegate = with(&[("mode", "refuse"), ("lives", &lives), ("from_process", "2")]);
    assert!(build(INT8, &delegate, 1).is_err());
}

#[test]
fn it_is_slow_leaks_and_fails_when_it_is_to() {
    let window = std::slice::from_ref(&WINDOWS[0]);
    let mut slow = build(INT8, &with(&[("mode", "slow"), ("slow_ms", "300"), ("operators", "SOFTMAX")]), 1).unwrap();
    let start = Instant::now();
    infer(&mut slow, window);
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());

    let resident_kib = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let before = resident_kib();
    drop(build(INT8, &with(&[("mode", "leak"), ("at", "create"), ("leak_mib", "200")]), 1).unwrap());
    let grown = resident_kib().saturating_sub(before);
    assert!(grown > 190 << 10, "{grown} KiB");

    let mut failing = build(INT8, &with(&[("mode", "fail"), ("every", "2")]), 1).unwrap();
    assert!(failing.invoke().is_err());
    failing.invoke().unwrap();
}

#[test]
fn misbehave() {
    // Run by the next test, in processes of their own; on its own it has nothing to do.
    let [Ok(mode), Ok(at)] = ["MODE", "AT"].map(std::env::var) else { return };
    // Beyond the engine's own first invocation, so that this is one of many.
    let mut engine = build(INT8, &with(&[("mode", &mode), ("at", &at), ("every", "3")]), 1).unwrap();
    println!("built");
    infer(&mut engine, std::slice::from_ref(&WINDOWS[0]));
    infer(&mut engine, std::slice::from_ref(&WINDOWS[0]));
}

#[test]
fn it_takes_its_process_down_when_and_how_it_is_to() {
    let killed_by = |signal: Signal| Err(signal as i32);
    for (mode, end) in
        [("abort", killed_by(Signal::SIGABRT)), ("segfault", killed_by(Signal::SIGSEGV)), ("exit", Ok(7))]
    {
        for at in ["create", "prepare", "invoke"] {
            let (mut child, built) = misbehaving(mode, at);
            let status = child.wait().unwrap();
            assert_eq!(status.code().ok_or_else(|| status.signal().unwrap()), end, "{mode} at {at}");
            assert_eq!(built, at == "invoke", "{mode} at {at}");
        }
    }
    let (mut child, built) = misbehaving("hang", "invoke");
    assert!(built);
    std::thread::sleep(Duration::from_millis(500));
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ended, None);
}

/// A process with the delegate in that mode, as soon as it has an engine or has ended, and whether it got that far.
fn misbehaving(mode: &str, at: &str) -> (Child, bool) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "test_delegate::misbehave", "--nocapture"]).env("MODE", mode).env("AT", at);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let built = BufReader::new(child.stdout.take().unwrap()).lines().any(|line| line.unwrap().contains("built"));
    (child, built)
}

#[test]
fn an_option_that_it_does_not_know_is_refused() {
    for option in [
        ("mod", "ok"),
        ("mode", "nice"),
        ("at", "never"),
        ("every", "0"),
        ("operators", "CONV_2D,LSTM"),
        ("from_life", "2"),
        ("lives", "/nowhere/lives"),
    ] {
        let error = build(INT8, &with(&[option]), 1).err().unwrap().to_string();
        assert!(error.contains("declines to start"), "{option:?}: {error}");
    }
}
