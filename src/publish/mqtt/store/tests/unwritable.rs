//! A disk that is full or read-only: what it has is sent all the same.

use std::process::Command;

use super::failures::{delivers_all_but, parked, wait};
use super::*;

/// A mounted file system; it is unmounted when this is dropped.
struct Disk(TempDir);

impl Disk {
    /// One in memory; `None`: only root can mount.
    fn in_memory(options: &str) -> Option<Self> {
        let disk = Self(TempDir::new().unwrap());
        if disk.mount(&["-t", "tmpfs", "-o", options, "edgewatt-test"]) {
            return Some(disk);
        }
        eprintln!("skipped: only root can mount a disk");
        None
    }

    fn mount(&self, args: &[&str]) -> bool {
        Command::new("mount").args(args).arg(self.0.path()).status().is_ok_and(|status| status.success())
    }

    fn remount(&self, options: &str) {
        assert!(self.mount(&["-o", &format!("remount,{options}")]));
    }

    /// Leaves no room, by the file of another program; returns its path.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("other");
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/zero", "bs=4k", "status=none"]).arg(format!("of={}", path.display()));
        assert!(!dd.status().unwrap().success(), "there is room left");
        path
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("outbox.db")
    }

    fn open(&self, max_bytes: u64) -> Rig {
        Rig::new(self.path(), limits(max_bytes), max_bytes)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// The broker takes all that there is, though nothing can be written.
#[track_caller]
fn sends_all_in_order(rig: &mut Rig, expected: u64) {
    rig.fails("it cannot be written");
    rig.take(usize::MAX);
    let s = rig.stats();
    assert_eq!((s.produced + s.recovered, s.acked, s.queued), (expected, expected, 0), "{s:?}");
    assert!(rig.acked.is_sorted_by(|before, after| before < after), "out of order");
    rig.fails("it cannot be written");
}

/// Another run finds this many.
#[track_caller]
fn finds(disk: &Disk, max_bytes: u64, expected: u64) {
    let rig = disk.open(max_bytes);
    assert_eq!((rig.state(), rig.stats().recovered), (State::Working, expected));
}

const MAX_BYTES: u64 = 1 << 20;

#[test]
fn what_a_full_disk_has_is_sent() {
    let Some(disk) = Disk::in_memory("size=4m") else { return };
    let mut rig = disk.open(MAX_BYTES);
    rig.outage(150);
    let other = disk.fill();
    rig.outage(30);
    assert!(parked(&rig) > 500, "{:?}", rig.stats());
    sends_all_in_order(&mut rig, 1_800);
    drop(rig);
    // It is still full at the next start, which cannot know what was sent.
    let mut rig = disk.open(MAX_BYTES);
    let recovered = rig.stats().recovered;
    assert!(recovered > 1_000, "{recovered}");
    rig.produced = 1_800;
    rig.outage(10);
    sends_all_in_order(&mut rig, recovered + 100);
    fs::remove_file(other).unwrap();
    wait(&mut rig);
    assert_eq!((rig.state(), rig.stats().stored), (State::Working, 0));
    drop(rig);
    finds(&disk, MAX_BYTES, 0);
}

#[test]
fn what_was_sent_from_a_full_disk_is_deleted_and_the_rest_is_kept() {
    let Some(disk) = Disk::in_memory("size=4m") else { return };
    let mut rig = disk.open(MAX_BYTES);
    rig.outage(150);
    let other = disk.fill();
    rig.outage(10);
    rig.fails("it cannot be written");
    assert_eq!(rig.take(700), 700);
    wait(&mut rig);
    rig.fails("full");
    fs::remove_file(other).unwrap();
    wait(&mut rig);
    assert_eq!((rig.state(), rig.stats().stored), (State::Working, 900));
    drop(rig);
    let mut rig = disk.open(MAX_BYTES);
    rig.take(usize::MAX);
    assert!(rig.acked.iter().copied().eq(700..1_600), "{:?}", rig.acked);
}

/// Rows are deleted by writing, for which there is no room.
#[test]
fn a_file_that_has_filled_its_disk_is_replaced_once_all_is_sent() {
    let Some(disk) = Disk::in_memory("size=1m") else { return };
    let mut rig = disk.open(64 << 20);
    rig.outage(600);
    let s = rig.stats();
    assert!(s.queued == 6_000 && s.bytes <= 9 << 20, "{s:?}");
    wait(&mut rig);
    assert!(bytes_of(&disk.path()) > 800_000, "what is to be sent stays there");
    sends_all_in_order(&mut rig, 6_000);
    wait(&mut rig);
    assert_eq!(rig.state(), State::Working);
    assert!(bytes_of(&disk.path()) < 200_000);
    rig.outage(20);
    drop(rig);
    let mut rig = disk.open(64 << 20);
    rig.take(usize::MAX);
    assert!(rig.acked.len() > 190 && rig.acked.iter().copied().eq((6_000..).take(rig.acked.len())), "{:?}", rig.acked);
    assert_eq!(rig.stats().drops.total(), 0);
}

#[test]
fn attempts_to_write_come_more_and_more_rarely() {
    let Some(disk) = Disk::in_memory("size=4m") else { return };
    let mut rig = disk.open(MAX_BYTES);
    rig.outage(150);
    disk.fill();
    rig.outage(30);
    let mut attempts = Vec::new();
    for _ in 0..4_000 {
        rig.now_ms += 250;
        let before = rig.keeper.attempts;
        rig.round();
        attempts.extend((rig.keeper.attempts > before).then_some(rig.now_ms));
    }
    assert!((12..30).contains(&attempts.len()), "{attempts:?}");
    rig.fails("full");
}

/// ext4 as after an error of the disk: read-only, under files that are open for writing.
#[test]
fn a_disk_that_becomes_read_only_gives_what_it_has() {
    let images = TempDir::new().unwrap();
    let image = images.path().join("image");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status().is_ok_and(|status| status.success());
    let disk = Disk(TempDir::new().unwrap());
    if !made || !disk.mount(&["-o", "loop", image.to_str().unwrap()]) {
        eprintln!("skipped: only root can mount an image of ext4");
        return;
    }
    let mut rig = disk.open(MAX_BYTES);
    rig.outage(150);
    disk.remount("abort");
    rig.outage(10);
    assert!(parked(&rig) > 500, "{:?}", rig.stats());
    sends_all_in_order(&mut rig, 1_600);
}

/// As the log is after a crash, and as it is after a stop: gone.
#[test]
fn what_a_disk_has_that_is_read_only_at_the_start_is_sent_once() {
    for crashed in [true, false] {
        let Some(disk) = Disk::in_memory("size=4m") else { return };
        let from = folder();
        let mut rig = Rig::in_folder(&from);
        rig.outage(150);
        let stored = rig.stats().stored;
        let rig = crashed.then_some(rig);
        for file in fs::read_dir(from.path()).unwrap().flatten() {
            fs::copy(file.path(), disk.0.path().join(file.file_name())).unwrap();
        }
        assert_eq!(disk.path().with_extension("db-wal").exists(), crashed);
        drop(rig);
        disk.remount("ro");
        let mut rig = disk.open(MAX_BYTES);
        rig.fails("Read-only");
        assert_eq!(rig.stats().recovered, stored);
        sends_all_in_order(&mut rig, stored);
        wait(&mut rig);
        rig.fails("Read-only");
        disk.remount("rw");
        wait(&mut rig);
        assert_eq!(rig.state(), State::Working);
        rig.outage(10);
        rig.take(50);
        rig.now_ms += 10_000;
        rig.round();
        drop(rig);
        finds(&disk, MAX_BYTES, 50);
    }
}

#[test]
fn a_disk_that_is_read_only_for_a_while_costs_nothing() {
    let Some(disk) = Disk::in_memory("size=16m") else { return };
    let mut rig = disk.open(MAX_BYTES);
    rig.outage(60);
    // The kernel makes a disk with errors read-only, open files or not; for us it does so only without.
    rig.keeper.file = None;
    disk.remount("ro");
    rig.outage(10);
    rig.fails("Read-only");
    assert_eq!(rig.stats().queued, 700);
    wait(&mut rig);
    disk.remount("rw");
    wait(&mut rig);
    delivers_all_but(rig, 0);
}
