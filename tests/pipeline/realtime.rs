//! Real time as the kernel shows it of the real binary: who has it, who must not, and what is said where it is refused.

use std::fs;
use std::path::{Path, PathBuf};

use edgewatt_support::daemon::{Daemon, Setup, without_rights};
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::rig::{XNNPACK, delegate, paced, with_plugin};
use nix::sys::signal::Signal;

const FIFO: i64 = 1;
const PRIORITY: i64 = 7;
const RIGHTS: &str = "-sys_nice,-ipc_lock";

/// A thread by its name.
#[derive(Debug)]
struct Thread {
    name: String,
    policy: i64,
    priority: i64,
    cpus: String,
}

fn threads(pid: &str) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| thread(&task.path())).collect()
}

/// None where it has ended meanwhile.
fn thread(task: &Path) -> Option<Thread> {
    let read = |file: &str| fs::read_to_string(task.join(file)).ok();
    let (stat, status) = (read("stat")?, read("status")?);
    // Behind the name, which may hold anything: the fields from the third on (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned());
    Some(Thread {
        name: read("comm")?.trim().to_owned(),
        priority: fields[40 - 3].parse().unwrap(),
        policy: fields[41 - 3].parse().unwrap(),
        cpus: line("Cpus_allowed_list:")?,
    })
}

fn children(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of = |task: PathBuf| fs::read_to_string(task.join("children")).unwrap_or_default();
    tasks.flat_map(|task| of(task.path()).split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn setup(port: u16) -> Setup {
    let realtime = format!("lock_memory = true\n\n[pipelines.shoulder.realtime]\npriority = {PRIORITY}\ncpus = [0]");
    paced(with_plugin(Setup::demo(port), "npu", &[]))
        .with(XNNPACK, &delegate("npu"))
        .with("id = \"demo\"", &format!("id = \"demo\"\n{realtime}"))
}

fn locked_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn the_pipelines_threads_have_it_and_no_other_thread_nor_the_delegates_process() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = setup(broker.port);
    let daemon = setup.start(&[]);
    subscriber.until(|line| line.contains("/prediction "));
    let all = threads(&daemon.pid().to_string());
    let main = &all[0];
    let refused = daemon.log().contains("no real-time priority 7: Operation not permitted");
    let ours: Vec<&Thread> = all.iter().filter(|t| ["acq-shoulder", "infer-shoulder"].contains(&&t.name[..])).collect();
    assert_eq!(ours.len(), 2, "{all:?}");
    for thread in ours {
        assert_eq!(thread.cpus, "0", "{thread:?}");
        assert!(refused || (thread.policy, thread.priority) == (FIFO, PRIORITY), "{thread:?}");
    }
    for thread in all.iter().filter(|thread| !thread.name.ends_with("-shoulder")) {
        assert_eq!((thread.policy, &thread.cpus), (0, &main.cpus), "{thread:?}");
    }
    let processes = children(daemon.pid());
    assert!(!processes.is_empty(), "the delegate has no process");
    let theirs: Vec<Thread> = processes.iter().flat_map(|pid| threads(pid)).collect();
    assert!(theirs.iter().all(|thread| thread.policy == 0 && thread.cpus == main.cpus), "{theirs:?}");
    let unlocked = daemon.log().contains("memory is not locked");
    assert_eq!(locked_kib(daemon.pid()) == 0, unlocked, "{}", daemon.log());

    // A reload gives the threads another priority.
    let setup = setup.with("priority = 7", "priority = 8");
    setup.config();
    daemon.signal(Signal::SIGHUP);
    subscriber.until(|line| line.contains("\"event\":\"reload\""));
    let now = || {
        let threads = threads(&daemon.pid().to_string());
        threads.iter().filter(|t| t.name == "infer-shoulder").map(|t| t.priority).collect::<Vec<_>>()
    };
    edgewatt_support::daemon::wait_until(|| format!("priority 8; it is {:?}", now()), || refused || now() == [8]);
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
}

#[test]
fn where_it_is_refused_it_is_said_and_the_pipeline_works() {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("edgewatt/#");
    let setup = setup(broker.port).with("cpus = [0]", "cpus = [1023]");
    let mut command = without_rights(setup.command("run", &[]), RIGHTS);
    command.env("PATH", "/usr/bin:/bin");
    let daemon = Daemon::start(command);
    subscriber.until(|line| line.contains("/prediction "));
    let all = threads(&daemon.pid().to_string());
    assert!(all.iter().all(|thread| thread.policy == 0), "{all:?}");
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0).says(&[
        "no real-time priority 7: Operation not permitted (os error 1); the thread runs ",
        "set RestrictRealtime=no, LimitRTPRIO=99 and SystemCallFilter=@resources with sudo systemctl edit edgewatt",
        "not bound to processors [1023]: this machine or service has none of these",
        "thread=\"infer-shoulder\"",
        "thread=\"acq-shoulder\"",
        "memory is not locked",
        "LimitMEMLOCK=infinity",
    ]);
}
