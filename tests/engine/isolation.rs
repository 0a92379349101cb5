//! An engine in a process of its own, with the real binary: it answers as the same engine here does, and whatever
//! happens to that process is an error with a reason.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use edgewatt::engine::delegate::DelegateKind;
use edgewatt::engine::delegate::cpu::Cpu;
use edgewatt::engine::delegate::external::External;
use edgewatt::engine::delegate::xnnpack::Xnnpack;
use edgewatt::engine::plan::StatePair;
use edgewatt::engine::process::{IsolatedEngine, Launcher, ProcessLimits, Ready};
use edgewatt::engine::{Engine, EngineError, ModelPlan, TfliteEngine};
use edgewatt::sys::cpu::Children;
use edgewatt_support::{RUNTIME, program, root, runtime_library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const CPU: DelegateKind = DelegateKind::Cpu(Cpu { threads: 1 });
const XNNPACK: DelegateKind = DelegateKind::Xnnpack(Xnnpack { threads: 1, flags: Vec::new() });
const PATIENCE: Duration = Duration::from_secs(60);

fn launcher() -> Launcher {
    Launcher { program: program(), runtime: runtime_library(), children: Children::default() }
}

fn limits() -> ProcessLimits {
    ProcessLimits { start: PATIENCE, deadline: PATIENCE, memory_bytes: 4 << 30, writable: Vec::new() }
}

fn tiny(name: &str) -> PathBuf {
    root().join("tests/models").join(name).with_extension("tflite")
}

fn demo(name: &str) -> PathBuf {
    root().join("models").join(name).with_extension("tflite")
}

fn start(model: &Path, delegate: &DelegateKind, limits: &ProcessLimits, batch: usize) -> (IsolatedEngine, Ready) {
    launcher().start(model, &fs::read(model).unwrap(), delegate, limits, &ModelPlan::of_batch(batch)).unwrap()
}

fn wide() -> IsolatedEngine {
    start(&tiny("wide"), &CPU, &limits(), 1).0
}

/// The plugin as a delegate that does `deed` when it is created, or `later` when it is invoked.
fn prisoner(options: &[(&str, &str)]) -> DelegateKind {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    DelegateKind::External(External { library: edgewatt_support::plugin::prisoner(), options })
}

/// Numbers that fill every row, different in each step.
fn fill(engine: &mut dyn Engine, step: usize) {
    let rows = engine.batch();
    let width = engine.inputs()[0].len() / rows;
    for row in 0..rows {
        let features: Vec<f32> = (0..width).map(|i| ((i * 7 + row * 31 + step * 13) % 41) as f32 / 4.0 - 5.0).collect();
        engine.set_input(row, &features).unwrap();
    }
}

/// All outputs as the model stores them, after one invocation.
fn run(engine: &mut dyn Engine, step: usize) -> Vec<Vec<u8>> {
    fill(engine, step);
    engine.invoke().unwrap();
    (0..engine.outputs().len()).map(|index| engine.output_bytes(index).unwrap().to_vec()).collect()
}

fn pid(engine: &IsolatedEngine) -> Pid {
    Pid::from_raw(i32::try_from(engine.pid()).unwrap())
}

/// Neither running nor a zombie.
fn is_gone(pid: Pid) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
fn lost(result: Result<(), EngineError>) -> String {
    match result {
        Err(EngineError::Lost { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_type_of_tensor_goes_through_unchanged() {
    let tiny = ["quantised_outputs", "int16_input", "uint8_input", "wide"].map(tiny);
    let demo = ["shoulder_fp32", "shoulder_int8", "shoulder_pruned_int8"].map(demo);
    for model in tiny.iter().chain(&demo) {
        for delegate in [CPU, XNNPACK] {
            let (mut isolated, ready) = start(model, &delegate, &limits(), 1);
            let mut here =
                TfliteEngine::new(&RUNTIME, model, &fs::read(model).unwrap(), &delegate, &ModelPlan::of_batch(1))
                    .unwrap();
            assert_eq!((isolated.inputs(), isolated.outputs()), (here.inputs(), here.outputs()));
            assert_eq!((&ready.inputs[..], &ready.outputs[..]), (here.inputs(), here.outputs()));
            for step in 0..20 {
                assert_eq!(run(&mut isolated, step), run(&mut here, step), "{} {delegate:?}", model.display());
            }
        }
    }
}

#[test]
fn a_plan_is_carried_out_as_in_a_thread() {
    let state = ModelPlan { fed: 1, states: vec![StatePair { input: 0, output: 1 }], ..ModelPlan::of_batch(1) };
    let plans = [
        ("two_signatures", ModelPlan { signature: Some("infer".into()), ..ModelPlan::of_batch(1) }),
        ("state_pair", state),
        ("open_input", ModelPlan { dims: Some(vec![1, 7]), ..ModelPlan::of_batch(1) }),
        ("other_outputs", ModelPlan::of_batch(1)),
    ];
    for (model, plan) in plans {
        let (path, bytes) = (tiny(model), fs::read(tiny(model)).unwrap());
        let (mut isolated, _) = launcher().start(&path, &bytes, &CPU, &limits(), &plan).unwrap();
        let mut here = TfliteEngine::new(&RUNTIME, &path, &bytes, &CPU, &plan).unwrap();
        assert_eq!((isolated.inputs(), isolated.outputs()), (here.inputs(), here.outputs()), "{model}");
        let first = |engine: &mut dyn Engine, step| {
            fill(engine, step);
            engine.invoke().unwrap();
            engine.output_bytes(0).unwrap().to_vec()
        };
        let answers = |engine: &mut dyn Engine| (0..5).map(|step| first(engine, step)).collect::<Vec<_>>();
        let before = answers(&mut isolated);
        assert_eq!(before, answers(&mut here), "{model}");
        isolated.reset().unwrap();
        assert_eq!(answers(&mut isolated), before, "{model} after a reset");
    }
}

#[test]
fn a_batch_goes_through_in_one_piece() {
    for (model, batch) in [(demo("shoulder_int8"), 4), (tiny("quantised_outputs"), 3)] {
        let (mut isolated, _) = start(&model, &XNNPACK, &limits(), batch);
        let mut here =
            TfliteEngine::new(&RUNTIME, &model, &fs::read(&model).unwrap(), &XNNPACK, &ModelPlan::of_batch(batch))
                .unwrap();
        assert_eq!((isolated.batch(), isolated.inputs()[0].shape[0]), (batch, batch));
        for step in 0..5 {
            assert_eq!(run(&mut isolated, step), run(&mut here, step), "{}", model.display());
        }
    }
}

/// The wake-word models stir only at sounds: loud and quiet stretches in turn.
fn hear(engine: &mut dyn Engine, step: usize) -> Vec<Vec<u8>> {
    let features: Vec<f32> = (0..engine.inputs()[0].len())
        .map(|i| if (step / 5).is_multiple_of(2) { 0.0 } else { 25.0 * ((i * 29 + step * step) % 97) as f32 / 97.0 })
        .collect();
    engine.set_input(0, &features).unwrap();
    engine.invoke().unwrap();
    vec![engine.output_bytes(0).unwrap().to_vec()]
}

#[test]
fn state_is_kept_until_it_is_reset() {
    const STEPS: usize = 200;
    let model = root().join("runtime/models/alexa.tflite");
    let (mut isolated, _) = start(&model, &XNNPACK, &limits(), 1);
    let mut here =
        TfliteEngine::new(&RUNTIME, &model, &fs::read(&model).unwrap(), &XNNPACK, &ModelPlan::of_batch(1)).unwrap();
    let hear_all = |engine: &mut dyn Engine| (0..STEPS).map(|step| hear(engine, step)).collect::<Vec<_>>();
    let [first, second] = [(), ()].map(|()| hear_all(&mut isolated));
    assert_eq!([&first, &second], [&hear_all(&mut here), &hear_all(&mut here)]);
    assert_ne!(first, second, "the input alone does not tell: there is a state");
    isolated.reset().unwrap();
    assert_eq!(hear_all(&mut isolated), first);
}

#[test]
fn libraries_and_nodes_are_told() {
    let (_engine, ready) = start(&demo("shoulder_fp32"), &XNNPACK, &limits(), 1);
    assert_eq!((&ready.hello.runtime, &ready.hello.delegate_library), (&runtime_library(), &None));
    assert!(ready.hello.runtime_version.starts_with("2."), "{:?}", ready.hello);
    let delegation = ready.proof.delegation.unwrap();
    assert!(delegation.nodes_delegated > 0 && delegation.partitions > 0, "{delegation:?}");

    let bytes = fs::read(tiny("wide")).unwrap();
    let ready = launcher().probe(&tiny("wide"), &bytes, &prisoner(&[]), &ModelPlan::of_batch(1)).unwrap();
    let file = ready.hello.delegate_library.unwrap();
    assert_eq!(file, edgewatt_support::plugin::prisoner().canonicalize().unwrap());
    assert_eq!(ready.proof.delegation.unwrap().nodes_delegated, 0);
}

#[test]
fn a_model_that_is_refused_is_refused_with_the_runtimes_reason() {
    let refused = |model: &Path, delegate: &DelegateKind| {
        launcher().probe(model, &fs::read(model).unwrap(), delegate, &ModelPlan::of_batch(1)).unwrap_err()
    };
    let EngineError::Refused(message) = refused(&tiny("custom_operator"), &CPU) else { panic!() };
    assert!(message.contains("its operator `frobnicate` is not in the runtime"), "{message}");
    let EngineError::Refused(message) = refused(&tiny("wide"), &prisoner(&[("deed", "refuse")])) else { panic!() };
    assert!(message.contains("it declines to start") && message.contains("(the runtime says: no)"), "{message}");
    let EngineError::Delegate { delegate, reason } = refused(&tiny("wide"), &prisoner(&[("deed", "abort")])) else {
        panic!()
    };
    assert!(delegate.contains("libprisoner") && reason.contains("crash (SIGABRT)"), "{delegate}: {reason}");
    let EngineError::Delegate { reason, .. } = refused(&tiny("wide"), &prisoner(&[("deed", "exit")])) else { panic!() };
    assert!(reason.contains("exit code 42"), "{reason}");

    let bytes = fs::read(tiny("wide")).unwrap();
    let nowhere = Launcher { program: "/nowhere/edgewatt".into(), ..launcher() };
    let error = nowhere.probe(&tiny("wide"), &bytes, &CPU, &ModelPlan::of_batch(1)).unwrap_err().to_string();
    assert!(error.contains("cannot start /nowhere/edgewatt"), "{error}");
    let other = Launcher { program: "/bin/true".into(), ..launcher() };
    let error = other.probe(&tiny("wide"), &bytes, &CPU, &ModelPlan::of_batch(1)).unwrap_err().to_string();
    assert!(error.contains("it ended by itself (exit code 0)"), "{error}");
    let no_runtime = Launcher { runtime: "/nowhere/libtensorflowlite_c.so".into(), ..launcher() };
    let error = no_runtime.probe(&tiny("wide"), &bytes, &CPU, &ModelPlan::of_batch(1)).unwrap_err().to_string();
    assert!(error.contains("/nowhere/libtensorflowlite_c.so"), "{error}");
}

#[test]
fn an_engine_that_does_not_answer_in_time_is_killed() {
    let limits = ProcessLimits { deadline: Duration::from_millis(300), ..limits() };
    let (mut engine, _) = start(&tiny("wide"), &CPU, &limits, 1);
    run(&mut engine, 0);
    kill(pid(&engine), Signal::SIGSTOP).unwrap();
    assert_eq!(lost(engine.invoke()), "it did not answer within 0.3 s, its deadline_ms");
    assert_eq!(lost(engine.invoke()), "it did not answer within 0.3 s, its deadline_ms");
    lost(engine.reset());
    lost(engine.input_bytes(0).map(drop));
    lost(engine.output_bytes(0).map(drop));
    wait_until("its end", || is_gone(pid(&engine)));
}

#[test]
fn a_death_between_inferences_is_told_at_the_next() {
    for (signal, reason) in [
        (Signal::SIGKILL, "it was killed (SIGKILL): out of memory?"),
        (Signal::SIGILL, "it crashed (SIGILL)"),
        (Signal::SIGABRT, "it crashed (SIGABRT)"),
    ] {
        let mut engine = wide();
        run(&mut engine, 0);
        kill(pid(&engine), signal).unwrap();
        wait_until("its end", || is_gone(pid(&engine)));
        assert_eq!(lost(engine.invoke()), reason);
    }
}

#[test]
fn a_death_during_an_inference_is_told_at_once() {
    let mut engine = wide();
    let pid = pid(&engine);
    // It stands still, so that the inference is surely under way when it dies.
    kill(pid, Signal::SIGSTOP).unwrap();
    let invoking = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("the inference", || invoking.load(Relaxed));
            std::thread::sleep(Duration::from_millis(50));
            kill(pid, Signal::SIGKILL).unwrap();
        });
        let begun = Instant::now();
        invoking.store(true, Relaxed);
        assert_eq!(lost(engine.invoke()), "it was killed (SIGKILL): out of memory?");
        assert!(begun.elapsed() < PATIENCE / 2, "only at the deadline");
    });
}

#[test]
fn ctrl_c_and_a_stop_of_the_service_leave_it_alone() {
    let mut engine = wide();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        kill(pid(&engine), signal).unwrap();
    }
    run(&mut engine, 0);
}

#[test]
fn the_memory_limit_is_named_when_it_is_the_reason() {
    let limits = ProcessLimits { memory_bytes: 700 << 20, ..limits() };
    let bytes = fs::read(tiny("wide")).unwrap();
    let hungry = prisoner(&[("deed", "eat")]);
    let error =
        launcher().start(&tiny("wide"), &bytes, &hungry, &limits, &ModelPlan::of_batch(1)).err().unwrap().to_string();
    assert!(error.contains("it ran out of memory (SIGABRT); its limit, memory_mib, is 700"), "{error}");
}

#[test]
fn nothing_is_left_of_those_that_ended() {
    let count = |folder: &str| fs::read_dir(folder).unwrap().count();
    // Other tests run beside this one, so what is counted is in a process of its own.
    if std::env::var_os("ALONE").is_none() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.stdout(Stdio::null()).env("ALONE", "1").args([
            "--exact",
            "isolation::nothing_is_left_of_those_that_ended",
            "--test-threads",
            "1",
        ]);
        assert!(command.status().unwrap().success());
        return;
    }
    drop(wide());
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    let mut pids = Vec::new();
    for round in 0..50 {
        let mut engine = wide();
        pids.push(pid(&engine));
        match round % 4 {
            0 => drop(run(&mut engine, 0)),
            1 => kill(pid(&engine), Signal::SIGKILL).unwrap(),
            2 => {
                kill(pid(&engine), Signal::SIGKILL).unwrap();
                lost(engine.invoke());
            }
            _ => {}
        }
    }
    // The first engine's thread may have been counted before it had ended.
    wait_until("the last thread's end", || count("/proc/self/fd") <= before.0 && count("/proc/self/task") <= before.1);
    assert!(pids.into_iter().all(is_gone));
}

/// A host of its own, which starts an engine and is killed.
#[test]
fn the_child_dies_with_its_host() {
    if let Some(report) = std::env::var_os("REPORT") {
        let mut engine = wide();
        run(&mut engine, 0);
        // Standing still, so that it cannot notice by itself.
        kill(pid(&engine), Signal::SIGSTOP).unwrap();
        fs::write(report, engine.pid().to_string()).unwrap();
        std::thread::sleep(PATIENCE);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("pid");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.stdout(Stdio::null()).env("REPORT", &report).args([
        "--exact",
        "isolation::the_child_dies_with_its_host",
        "--test-threads",
        "1",
    ]);
    let mut host = command.spawn().unwrap();
    let read = || fs::read_to_string(&report).ok().and_then(|pid| pid.parse().ok());
    wait_until("the child", || read().is_some());
    let child = Pid::from_raw(read().unwrap());
    assert!(!is_gone(child));
    host.kill().unwrap();
    host.wait().unwrap();
    // Whoever adopts orphans may take its time to reap them.
    let dead = || fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |stat| stat.contains(") Z "));
    wait_until("the child's end", dead);
}

/// An engine outlives the thread that started it.
#[test]
fn it_may_be_used_by_another_thread_than_it_was_started_by() {
    let mut engine = std::thread::spawn(wide).join().unwrap();
    for step in 0..50 {
        run(&mut engine, step);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A folder that is writable to the user, but not one of those that any child may write to.
fn elsewhere() -> tempfile::TempDir {
    let open = ["/tmp", "/var/tmp", "/dev"].map(Path::new);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let places = [Some(root().to_owned()), home].into_iter().flatten();
    let closed = places.into_iter().find(|place| !open.iter().any(|open| place.starts_with(open)));
    tempfile::tempdir_in(closed.expect("the checkout or $HOME must be outside /tmp")).unwrap()
}

/// Starts the prisoner, which refuses in any case. Returns how it says it fared.
fn tries(launcher: &Launcher, options: &[(&str, &str)], limits: &ProcessLimits) -> String {
    let bytes = fs::read(tiny("wide")).unwrap();
    let started = launcher.start(&tiny("wide"), &bytes, &prisoner(options), limits, &ModelPlan::of_batch(1));
    let error = started.err().unwrap().to_string();
    let said = error.split_once("(the runtime says: ").unwrap_or_else(|| panic!("{error}")).1;
    said.trim_end_matches(')').to_owned()
}

fn sandbox() -> Vec<String> {
    start(&tiny("wide"), &CPU, &limits(), 1).1.hello.sandbox
}

#[test]
fn a_child_writes_only_where_it_may() {
    let dir = elsewhere();
    let file = dir.path().join("file");
    fs::write(&file, "untouched").unwrap();
    let write = |what: &Path, limits: &ProcessLimits| {
        tries(&launcher(), &[("deed", "write"), ("what", what.to_str().unwrap())], limits)
    };
    let sandbox = sandbox();
    println!("in force: {sandbox:?}");
    assert!(sandbox.contains(&"no_new_privs".to_owned()));
    if sandbox.iter().any(|part| part.starts_with("landlock")) {
        assert_eq!(write(&file, &limits()), "denied");
        assert_eq!(write(&dir.path().join("new"), &limits()), "denied");
        assert_eq!(fs::read_to_string(&file).unwrap(), "untouched");
        let allowed = ProcessLimits { writable: vec![file.clone()], ..limits() };
        assert_eq!(write(&file, &allowed), "done");
        assert_eq!(write(&dir.path().join("new"), &allowed), "denied");
        let allowed = ProcessLimits { writable: vec![dir.path().to_owned()], ..limits() };
        assert_eq!(write(&dir.path().join("new"), &allowed), "done");
        let temporary = tempfile::tempdir_in("/tmp").unwrap();
        assert_eq!(write(&temporary.path().join("new"), &limits()), "done");
    }
}

/// The lines of the table in docs/delegates.md: what is tried, and whether it succeeds on each kernel.
fn table() -> Vec<Vec<String>> {
    let page = fs::read_to_string(root().join("docs/delegates.md")).unwrap();
    let lines = page.lines().skip_while(|line| !line.starts_with("| what a library tries |")).skip(2);
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// A program that is the daemon's without the rights of root.
fn without_rights(folder: &Path) -> PathBuf {
    if !nix::unistd::geteuid().is_root() {
        return program();
    }
    let script = folder.join("edgewatt");
    let command = format!("exec setpriv --bounding-set=-all --inh-caps=-all {} \"$@\"", program().display());
    fs::write(&script, format!("#!/bin/sh\n{command}\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// On this kernel. The guest of tests/vm does it on that of Debian 12.
#[test]
fn a_library_can_do_what_the_table_says_and_no_more() {
    let (dir, temporary) = (elsewhere(), tempfile::tempdir_in("/tmp").unwrap());
    let files = ["file", "other"].map(|name| dir.path().join(name));
    files.iter().for_each(|file| fs::write(file, "untouched").unwrap());
    let _stream = UnixListener::bind(dir.path().join("stream")).unwrap();
    let _datagram = UnixDatagram::bind(dir.path().join("datagram")).unwrap();
    let report = temporary.path().join("report");
    let (what, report) = (dir.path().to_str().unwrap(), report.to_str().unwrap());
    let launcher = Launcher { program: without_rights(temporary.path()), ..launcher() };
    assert_eq!(tries(&launcher, &[("deed", "escape"), ("what", what), ("report", report)], &limits()), "done");
    let found = fs::read_to_string(report).unwrap();
    let sandbox = sandbox();
    if !sandbox.contains(&"landlock".to_owned()) || !sandbox.contains(&"seccomp".to_owned()) {
        println!("this kernel restricts less than those of the table: {sandbox:?}\n{found}");
        return;
    }
    let expected: String = table().iter().map(|row| format!("{}\t{}\n", row[0], row[2])).collect();
    assert_eq!(found, expected, "what was found, and the table of docs/delegates.md");
    assert!(files.iter().all(|file| fs::read_to_string(file).unwrap() == "untouched"));
}
