//! Processor time of this daemon, of its engines' processes and its sources' programs, and of all other programs.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::folder::{names, text};
use crate::units::process_cpu_time;

/// `USER_HZ`, which is 100 on every supported architecture (proc_stat(5)).
const TICKS_PER_S: f64 = 100.0;
/// Longer than the first line of `/proc/stat`, which sums up all processors.
const LINE_MAX: usize = 256;

/// The running processes of engines, and the programs of sources, whose processor time counts as the daemon's.
#[derive(Debug, Clone, Default)]
pub struct Children(Arc<Mutex<Processes>>);

#[derive(Debug, Default)]
struct Processes {
    running: Vec<Pid>,
    /// Time of what the reaped ones had started. It was never counted as ours while it ran.
    below: Duration,
}

impl Children {
    pub fn add(&self, pid: Pid) {
        self.lock().running.push(pid);
    }

    /// Call it after the process was reaped: from then on the kernel counts its time among the ended children's.
    pub fn remove(&self, pid: Pid) {
        self.lock().running.retain(|other| *other != pid);
    }

    /// Like [`Children::remove`], for a process that had started others, which used the time `below`.
    pub fn remove_with(&self, pid: Pid, below: Duration) {
        let mut processes = self.lock();
        processes.running.retain(|other| *other != pid);
        processes.below += below;
    }

    fn lock(&self) -> MutexGuard<'_, Processes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the processor time of the running and the reaped processes.
    pub fn cpu_time(&self) -> Duration {
        // The running ones first: a process that is reaped meanwhile is counted twice this time, but never missed.
        let (running, below): (Duration, Duration) = {
            let processes = self.lock();
            let time = |pid: &Pid| clock_getcpuclockid(*pid).and_then(clock_gettime).map(Duration::from);
            (processes.running.iter().filter_map(|pid| time(pid).ok()).sum(), processes.below)
        };
        let reaped = getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |usage| {
            let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            Duration::from_micros(u64::try_from(micros).unwrap_or(0))
        });
        reaped.saturating_sub(below) + running
    }
}

/// Reads the processor time of all other programs.
#[derive(Debug)]
pub struct Others {
    stat: Option<File>,
    ours: Children,
}

impl Others {
    pub fn new(ours: Children) -> Self {
        Self { stat: File::open("/proc/stat").ok(), ours }
    }

    /// Returns the time since boot: the kernel's total, in ticks of 10 ms, less the daemon's own time. `None` if the kernel
    /// does not report it.
    pub fn cpu_time(&self) -> Option<Duration> {
        let mut line = [0; LINE_MAX];
        let length = self.stat.as_ref()?.read_at(&mut line, 0).ok()?;
        let all = busy_time(std::str::from_utf8(line.get(..length)?).ok()?)?;
        Some(all.saturating_sub(process_cpu_time() + self.ours.cpu_time()))
    }
}

/// Returns the programs that run, by process: the name, and the processor time since its start. This program is left out.
pub fn programs() -> BTreeMap<u32, (String, Duration)> {
    let own = std::process::id();
    let processes = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<u32>().ok());
    let of = |pid: u32| Some((pid, program(&text(Path::new(&format!("/proc/{pid}/stat")))?)?));
    processes.filter(|pid| *pid != own).filter_map(of).collect()
}

/// Reads `/proc/PID/stat`: the name is in parentheses and may have any characters; user and system time are fields 14 and 15.
fn program(stat: &str) -> Option<(String, Duration)> {
    let (head, fields) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = fields.split_ascii_whitespace().skip(11).map(|ticks| ticks.parse::<f64>().ok());
    let ticks = fields.next()?? + fields.next()??;
    Some((name, Duration::from_secs_f64(ticks / TICKS_PER_S)))
}

/// Reads the first line of `/proc/stat`: user nice system idle iowait irq softirq steal; user includes guest time.
fn busy_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let mut busy = 0u64;
    for index in 0..8 {
        let ticks: u64 = fields.next()?.parse().ok()?;
        if ![3, 4, 7].contains(&index) {
            busy = busy.checked_add(ticks)?;
        }
    }
    Some(Duration::from_secs_f64(busy as f64 / TICKS_PER_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_is_not_busy() {
        let stat = "cpu  100 10 50 9000 700 5 35 66 40 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(busy_time("intr 1"), None);
        assert_eq!(busy_time("cpu  100 10 50 9000"), None);
    }

    #[test]
    fn a_programs_name_may_have_anything_in_it() {
        let stat = "7 (a) b(c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(program(stat), Some(("a) b(c".to_owned(), Duration::from_secs(3))));
        assert_eq!(program("7 (a) S 1"), None);
        assert!(programs().contains_key(&1) && !programs().contains_key(&std::process::id()));
    }

    #[test]
    fn a_childs_time_is_ours_while_it_lives_and_when_it_is_gone() {
        let children = Children::default();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo; read line"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        children.add(pid);
        // The newline comes when its work is done.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let living = children.cpu_time();
        assert!(living > Duration::from_millis(5), "{living:?}");
        child.wait().unwrap();
        children.remove(pid);
        assert!(children.cpu_time() >= living.mul_f64(0.9), "{:?} {living:?}", children.cpu_time());
        assert!(Others::new(children).cpu_time().is_some());
    }
}
