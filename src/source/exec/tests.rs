use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::kill;

use super::super::sink::frame_ring;
use super::super::{FrameReader, Pieces, SinkSettings, Source, SourceStats};
use super::*;
use crate::stop::Stop;

const PATIENCE: Duration = Duration::from_secs(60);

fn exec(keys: &str) -> Result<Exec, Vec<String>> {
    let text = format!("exec = {{ {keys} }}");
    let mut source: Source = toml::from_str(&text).map_err(|error| vec![error.to_string()])?;
    let mut checker = Checker::new(Path::new("/etc/edgewatt"));
    source.check(&Key::new(&["source"]), &mut checker);
    let Source::Exec(exec) = source else { panic!("{source:?}") };
    let shown = |problem: crate::schema::Problem| format!("{}: {}", problem.key, problem.message);
    checker.finish(Some(exec)).map_err(|problems| problems.into_iter().map(shown).collect())
}

const NUMBERS: &str = "records = { channels = [\"x\"], columns = [\"x\"] }";

fn with_command(command: &[&str]) -> Result<Exec, Vec<String>> {
    exec(&format!("command = {command:?}, {NUMBERS}"))
}

fn script(script: &str, keys: &str) -> Exec {
    exec(&format!("command = [\"sh\", \"-c\", {script:?}], directory = \"/\", {keys} {NUMBERS}")).unwrap()
}

/// A source that runs on a thread of its own.
struct Rig {
    stop: Arc<Stop>,
    stats: Arc<SourceStats>,
    children: Children,
    reader: FrameReader,
    values: Vec<f32>,
    thread: std::thread::JoinHandle<Result<(), String>>,
}

fn run(exec: &Exec, once: bool) -> Rig {
    exec.check_access().unwrap();
    let children = Children::default();
    let source = exec.open(OpenOptions { once, children: children.clone(), ..OpenOptions::default() }).unwrap();
    let settings = SinkSettings { spec: exec.spec(), frames: 4096, frames_per_block: 1, when_full: WhenFull::Drop };
    let (stop, stats) = (Arc::new(Stop::new().unwrap()), Arc::<SourceStats>::default());
    let (mut sink, reader) = frame_ring(&settings, "test", stop.clone(), stats.clone());
    let thread = std::thread::spawn(move || source.run(&mut sink).map_err(|error| error.to_string()));
    Rig { stop, stats, children, reader, values: Vec::new(), thread }
}

impl Rig {
    /// Reads until there are so many values.
    fn until(&mut self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.values.len() < count {
            assert!(Instant::now() < deadline, "only {:?}; {:?}", self.values, self.stats.remarks());
            let values = |frames: crate::source::Frames<'_>| match frames.values {
                Pieces::F32(first, second) => [first, second].concat(),
                other => panic!("{other:?}"),
            };
            self.values.extend(self.reader.pop(1, |_, _| false, values).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for its end by itself.
    fn end(self) -> (Result<(), String>, Vec<f32>) {
        let Self { mut reader, mut values, thread, .. } = self;
        let deadline = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
        let more = |frames: crate::source::Frames<'_>| match frames.values {
            Pieces::F32(first, second) => values.extend([first, second].concat()),
            other => panic!("{other:?}"),
        };
        let mut more = more;
        while reader.pop(1, |_, _| false, &mut more).is_some() {}
        (thread.join().unwrap(), values)
    }

    fn stop(self) -> (Result<(), String>, Vec<f32>) {
        self.stop.request();
        self.end()
    }
}

fn is_alive(pid: f32) -> bool {
    kill(Pid::from_raw(pid as i32), None) != Err(Errno::ESRCH)
}

/// Waits until the process is gone: who killed it need not be who reaps it.
fn gone(pid: f32) {
    let deadline = Instant::now() + PATIENCE;
    while is_alive(pid) {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.contains(") Z ") {
            return;
        }
        assert!(Instant::now() < deadline, "process {pid} is still there: {state}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_command_that_cannot_be_meant_is_refused() {
    let refused = |command: &[&str]| with_command(command).unwrap_err().join("\n");
    assert!(refused(&[]).contains("source.exec.command: name the program, then its arguments"));
    assert!(refused(&[""]).contains("source.exec.command: name the program"));
    let zero = exec(&format!("command = [\"a\\u0000b\"], {NUMBERS}")).unwrap_err();
    assert!(zero[0].contains("a zero byte"), "{zero:?}");
    assert!(refused(&["~/bin/tool"]).contains("source.exec.command.0: `~` is not expanded"));
    assert!(refused(&["$HOME/tool"]).contains("`$HOME` is not expanded"));
    let piped = refused(&["arecord", "-q", "|", "sox", "2>/dev/null"]);
    assert!(
        piped.contains("source.exec.command.2: `|` is for a shell")
            && piped.contains("source.exec.command.4: `2>/dev/null`")
    );
    // An argument may be anything.
    assert!(with_command(&["sh", "-c", "a | b > $HOME/x; ~/c"]).is_ok());
    let names = exec(&format!("command = [\"true\"], env = {{ \"A=B\" = \"1\" }}, {NUMBERS}")).unwrap_err();
    assert!(names[0].starts_with("source.exec.env.A=B: this cannot be"), "{names:?}");
}

#[test]
fn paths_count_from_the_folder_of_the_configuration() {
    let exec = with_command(&["./read.py", "./data"]).unwrap();
    assert_eq!(exec.command, ["/etc/edgewatt/./read.py", "./data"]);
    assert_eq!(exec.directory.as_deref(), Some(Path::new("/etc/edgewatt")));
    assert_eq!(with_command(&["read.py"]).unwrap().command, ["read.py"], "it is looked up in PATH");
}

#[test]
fn what_is_missing_is_said_with_what_to_install() {
    let missing = exec(&format!("command = [\"rpicam-vid\"], env = {{ PATH = \"/nowhere\" }}, {NUMBERS}")).unwrap();
    let refusal = missing.check_access().unwrap_err().to_string();
    assert_eq!(refusal, "there is no program `rpicam-vid` in PATH (/nowhere); run: sudo apt install rpicam-apps");
    let survey = missing.survey(&Machine::this());
    assert_eq!(survey.fix.as_deref(), Some("run: sudo apt install rpicam-apps"));
    assert_eq!(survey.says, "there is no program `rpicam-vid` in PATH (/nowhere)");
    let elsewhere = exec(&format!("command = [\"sh\"], directory = \"nowhere\", {NUMBERS}")).unwrap();
    let refusal = elsewhere.check_access().unwrap_err().to_string();
    assert_eq!(refusal, "/etc/edgewatt/nowhere is not a folder in which a program could run");
    let found = script("true", "").survey(&Machine::this());
    assert!(found.says.ends_with("/sh can be started") && found.warning().is_none(), "{found:?}");
}

#[test]
fn a_silent_program_is_known_by_its_rate() {
    let of = |records: &str, keys: &str| {
        exec(&format!("command = [\"true\"], {keys} records = {{ channels = [\"x\"], columns = [\"x\"]{records} }}"))
    };
    let silence = |records: &str, keys: &str| of(records, keys).unwrap().silence();
    assert_eq!(silence("", ""), None);
    assert_eq!(silence(", rate_hz = 100.0", ""), Some(SILENCE));
    assert_eq!(silence(", rate_hz = 0.1", ""), Some(Duration::from_secs(100)));
    assert_eq!(silence("", "silence_s = 0.5,"), Some(Duration::from_millis(500)));
}

#[test]
fn once_ends_with_the_program_and_fails_with_it() {
    let (result, values) = run(&script("echo 1; echo 2.5; echo done >&2", ""), true).end();
    assert_eq!((result, values), (Ok(()), vec![1.0, 2.5]));
    let (result, values) = run(&script("echo 1; echo rtsp://me:secret@h/ is down >&2; exit 3", ""), true).end();
    let expected = "sh ended with exit code 3; its last line on standard error: rtsp://<hidden>@h/ is down";
    assert_eq!((result, values), (Err(expected.into()), vec![1.0]));
    let (result, _) = run(&script("echo 1; kill -SEGV $$", ""), true).end();
    assert_eq!(result, Err("sh was ended by SIGSEGV".into()));
}

#[test]
fn a_program_gets_its_environment_and_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("numbers"), "7\n8\n").unwrap();
    let keys = format!("directory = {:?}, env = {{ N = \"9 \" }},", folder.path());
    let exec = exec(&format!("command = [\"sh\", \"-c\", \"cat numbers; echo $N; cat\"], {keys} {NUMBERS}")).unwrap();
    // Standard input is empty, so that the second cat ends.
    assert_eq!(run(&exec, true).end(), (Ok(()), vec![7.0, 8.0, 9.0]));
}

#[test]
fn a_program_that_ends_is_started_again_and_says_why_meanwhile() {
    let mut rig = run(&script("echo $$; echo 'no \\033[31mdevice\\377' >&2; exit 1", ""), false);
    rig.until(3);
    let deadline = Instant::now() + PATIENCE;
    let expected = "sh ended with exit code 1; its last line on standard error: no ?[31mdevice\u{fffd}";
    while rig.stats.remarks().trouble.as_deref() != Some(expected) {
        assert!(Instant::now() < deadline, "{:?}", rig.stats.remarks());
    }
    let first = rig.values.clone();
    assert!(first[0] != first[1] && first[1] != first[2]);
    assert_eq!(rig.stop().0, Ok(()));
}

#[test]
fn a_stop_ends_a_program_that_ignores_it_and_all_that_it_has_started() {
    let stubborn = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' & echo $$; wait";
    let mut rig = run(&script(stubborn, ""), false);
    rig.until(2);
    let children = rig.children.clone();
    let (result, pids) = rig.stop();
    assert_eq!(result, Ok(()));
    assert!(!is_alive(pids[1]) || !is_alive(pids[0]), "the program itself is reaped: {pids:?}");
    pids.into_iter().for_each(gone);
    assert_eq!(format!("{children:?}").matches("Pid(").count(), 0, "{children:?}");
}

#[test]
fn a_program_that_falls_silent_is_ended() {
    let (result, values) = run(&script("echo $$; exec sleep 1000", "silence_s = 0.3,"), true).end();
    let message = result.unwrap_err();
    assert!(message.starts_with("sh wrote nothing for 0.3 s and was ended; if it collects its output"), "{message}");
    gone(values[0]);
    // Also if it ignores that.
    let (result, values) =
        run(&script("trap '' TERM; echo $$; while :; do sleep 1; done", "silence_s = 0.3,"), true).end();
    assert!(result.is_err());
    gone(values[0]);
}

#[test]
fn a_program_that_closes_its_output_and_goes_on_is_ended() {
    let (result, values) = run(&script("echo $$; exec >&-; exec sleep 1000", ""), true).end();
    assert_eq!(result, Ok(()));
    gone(values[0]);
}

#[test]
fn what_a_program_leaves_behind_is_ended_with_it() {
    // One holds the output open, the other does not.
    let (result, values) = run(&script("sleep 1000 & echo $!; sleep 1000 >/dev/null & echo $!", ""), true).end();
    assert_eq!(result, Ok(()));
    assert_eq!(values.len(), 2);
    values.into_iter().for_each(gone);
}

#[test]
fn what_has_left_the_group_and_holds_the_output_keeps_no_program_from_being_started_again() {
    // A process that the program has started ends with it, whether it writes or not.
    for leftover in ["sleep 1000", "yes 5"] {
        let started = format!("seq 1 3000; setsid {leftover} & echo $! >&2; exit 3");
        let (result, values) = run(&script(&started, ""), true).end();
        let error = result.unwrap_err();
        let pid = error.strip_prefix("sh ended with exit code 3; its last line on standard error: ").unwrap();
        gone(pid.parse().unwrap());
        assert!(values[..3000].iter().copied().eq((1..=3000).map(|n| n as f32)), "{leftover}");
    }
    let mut rig = run(&script("setsid sleep 1000 & echo $!; exit 1", ""), false);
    rig.until(2);
    gone(rig.values[0]);
    let (result, pids) = rig.stop();
    assert_eq!(result, Ok(()));
    pids.into_iter().for_each(gone);
}

#[test]
fn a_stop_ends_what_has_left_the_group_and_holds_the_output() {
    // The other one holds standard error alone.
    let mut rig = run(&script("setsid sleep 1000 & echo $!; setsid sleep 1000 >/dev/null & echo $!; wait", ""), false);
    rig.until(2);
    let (result, pids) = rig.stop();
    assert_eq!(result, Ok(()));
    pids.into_iter().for_each(gone);
}

#[test]
fn standard_error_never_holds_a_program_up() {
    let flood =
        "yes 'a line of noise that nobody needs' | head -c 8000000 >&2; echo 5; echo >&2; echo the end >&2; exit 1";
    let (result, values) = run(&script(flood, ""), true).end();
    assert_eq!(values, [5.0]);
    let message = result.unwrap_err();
    assert!(message.ends_with("its last line on standard error: the end"), "{message}");
}

#[test]
fn a_program_that_floods_is_read_in_whole_and_a_cut_line_is_counted() {
    let exec = exec(
        "command = [\"sh\", \"-c\", \"seq 1 3000; printf 12\"], directory = \"/\", \
         records = { channels = [\"x\"], columns = [\"x\"] }",
    );
    let rig = run(&exec.unwrap(), true);
    let stats = rig.stats.clone();
    let (result, values) = rig.end();
    assert_eq!(result, Ok(()));
    assert_eq!(values, (1..=3000).map(|n| n as f32).collect::<Vec<_>>());
    assert_eq!(stats.rejects(crate::source::Reject::Unterminated), 1);
}
