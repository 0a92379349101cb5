//! What can happen to the file and its folder, and that it passes.

use super::*;

/// Until the next attempt is due, and then the round that makes it.
pub(super) fn wait(rig: &mut Rig) {
    rig.now_ms += RETRY_MAX_MS + 1;
    rig.round();
}

/// All that was produced in this run is delivered, but for `lost`.
pub(super) fn delivers_all_but(mut rig: Rig, lost: u64) {
    assert_eq!(rig.state(), State::Working);
    rig.outage(5);
    rig.take(usize::MAX);
    let s = rig.stats();
    assert_eq!((s.queued, s.in_flight), (0, 0));
    assert_eq!(s.drops.get(Class::Prediction, Reason::Store), lost, "{s:?}");
    assert_eq!(s.acked + s.drops.total(), s.produced + s.recovered);
    rig.now_ms += 10_000;
    rig.round();
    assert_eq!((rig.stats().stored, rig.state()), (0, State::Working));
}

pub(super) fn parked(rig: &Rig) -> u64 {
    let s = rig.stats();
    s.queued - rig.keeper.mqtt.outbox(|outbox| outbox.in_memory() as u64)
}

#[test]
fn a_folder_that_vanishes_is_made_again() {
    let parent = folder();
    let folder = parent.path().join("state");
    let mut rig = Rig::new(folder.join("outbox.db"), limits(1 << 20), 1 << 20);
    rig.outage(120);
    let lost = parked(&rig);
    assert!(lost > 300);
    fs::remove_dir_all(&folder).unwrap();
    rig.outage(1);
    rig.fails("it is missing");
    let s = rig.stats();
    assert_eq!(s.queued, s.produced, "not given up yet");
    wait(&mut rig);
    delivers_all_but(rig, lost);
}

#[test]
fn a_folder_that_comes_back_gives_back_what_it_holds() {
    let parent = folder();
    let (folder, away) = (parent.path().join("state"), parent.path().join("away"));
    let mut rig = Rig::new(folder.join("outbox.db"), limits(1 << 20), 1 << 20);
    rig.outage(120);
    fs::rename(&folder, &away).unwrap();
    // In its place there is something in which no folder can be made.
    fs::write(&folder, "").unwrap();
    rig.outage(1);
    rig.fails("it is missing");
    wait(&mut rig);
    rig.fails("cannot create the folder");
    fs::remove_file(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    wait(&mut rig);
    delivers_all_but(rig, 0);
}

#[test]
fn what_another_folder_in_its_place_holds_is_sent_too() {
    let parent = folder();
    let [state, other, away] = ["state", "other", "away"].map(|name| parent.path().join(name));
    let open = |folder: &Path| Rig::new(folder.join("outbox.db"), limits(1 << 20), 1 << 20);
    let mut elsewhere = open(&other);
    elsewhere.outage(60);
    elsewhere.keeper.round(elsewhere.now_ms, true);
    drop(elsewhere);
    let mut rig = open(&state);
    rig.outage(120);
    let lost = parked(&rig);
    // As when a disk is mounted there.
    fs::rename(&state, &away).unwrap();
    fs::rename(&other, &state).unwrap();
    rig.outage(1);
    rig.fails("another file was put in its place");
    wait(&mut rig);
    assert_eq!(rig.stats().recovered, 600);
    delivers_all_but(rig, lost);
}

#[test]
fn whatever_is_wrong_with_the_file_at_the_start_it_is_put_aside_or_left_alone() {
    let folder = folder();
    let path = folder.path().join("outbox.db");
    let count_path = folder.path().join("outbox.db-count");
    let (whole, count, stored) = {
        let mut rig = Rig::in_folder(&folder);
        rig.outage(120);
        let stored = rig.stats().stored;
        drop(rig);
        (fs::read(&path).unwrap(), fs::read(&count_path).unwrap(), stored)
    };
    assert!(whole.len() > 100_000, "{}", whole.len());
    let aside = || {
        let names = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".corrupt-") && !name.ends_with("-wal")).count()
    };
    let mut other = vec![0xA5; 50_000];
    other[..16].copy_from_slice(b"SQLite format 3\0");
    let torn = |place: usize| {
        let mut bytes = whole.clone();
        bytes[place..place + 3 * 4096].fill(0x5A);
        bytes
    };
    let damaged = [b"no database".repeat(500), other, torn(0), torn(4096), torn(16 * 4096), whole[..30_000].to_vec()];
    for (place, bytes) in damaged.into_iter().enumerate() {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", path.display()));
        }
        fs::write(&path, &bytes).unwrap();
        fs::write(&count_path, &count).unwrap();
        let mut rig = Rig::in_folder(&folder);
        assert!(matches!(rig.state(), State::Failing(_)), "case {place} was not noticed");
        wait(&mut rig);
        assert_eq!(aside(), 1, "case {place}: one is kept");
        let s = rig.stats();
        let lost = s.drops.get(Class::Prediction, Reason::Store);
        assert_eq!(s.recovered, stored, "case {place}: {s:?}");
        assert!(lost <= [stored, stored, 0, 48, 48, stored - 10][place], "case {place}: {s:?}");
        delivers_all_but(rig, lost);
    }
    // An empty file is what a crash at the very first start leaves.
    fs::write(&path, b"").unwrap();
    delivers_all_but(Rig::in_folder(&folder), 0);
}

#[test]
fn a_file_that_is_damaged_while_in_use_costs_what_only_it_had() {
    let folder = folder();
    let path = folder.path().join("outbox.db");
    let mut rig = Rig::in_folder(&folder);
    rig.outage(120);
    let lost = parked(&rig);
    let length = fs::metadata(&path).unwrap().len() as usize;
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..length].fill(0x5A);
    fs::write(&path, &bytes).unwrap();
    fs::write(folder.path().join("outbox.db-wal"), b"").unwrap();
    rig.take(usize::MAX);
    assert!(matches!(rig.state(), State::Failing(_)), "{:?}", rig.state());
    wait(&mut rig);
    wait(&mut rig);
    rig.take(usize::MAX);
    let s = rig.stats();
    assert!(s.drops.get(Class::Prediction, Reason::Store) <= lost, "{s:?}");
    let lost = s.drops.get(Class::Prediction, Reason::Store);
    assert!(lost > 100);
    delivers_all_but(rig, lost);
}

#[test]
fn a_file_of_a_later_version_or_in_use_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("outbox.db");
    let rig = Rig::in_folder(&folder);
    // SQLite's locks are a process's; so another process asks.
    drop(rig);
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    fs::remove_file(folder.path().join("outbox.db-count")).unwrap();
    let before = fs::read(&path).unwrap();
    let rig = Rig::in_folder(&folder);
    rig.fails("later edgewatt (schema 9, here 2)");
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn the_database_of_another_program_is_left_as_it_is() {
    for pragma in ["", "PRAGMA user_version = 3;", "PRAGMA application_id = 7;"] {
        let folder = folder();
        let path = folder.path().join("notes.db");
        let notes = rusqlite::Connection::open(&path).unwrap();
        notes.execute_batch(&format!("{pragma} CREATE TABLE event (x); INSERT INTO event VALUES (1);")).unwrap();
        drop(notes);
        let before = fs::read(&path).unwrap();
        let mut rig = Rig::new(path.clone(), limits(1 << 20), 1 << 20);
        rig.fails("another program");
        rig.outage(5);
        assert!(fs::read(&path).unwrap() == before, "changed: {pragma}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // Moved away, it is in nobody's way.
        fs::rename(&path, folder.path().join("elsewhere.db")).unwrap();
        wait(&mut rig);
        assert_eq!(rig.state(), State::Working);
    }
}

/// What came while it was away is as much as the file may hold.
#[test]
fn the_bound_holds_when_a_folder_comes_back_to_much_that_is_new() {
    const MAX_BYTES: u64 = 4 << 20;
    let parent = folder();
    let (folder, away) = (parent.path().join("state"), parent.path().join("away"));
    let path = folder.join("outbox.db");
    let mut rig = Rig::new(path.clone(), limits(MAX_BYTES), MAX_BYTES);
    rig.outage(1_500);
    fs::rename(&folder, &away).unwrap();
    fs::write(&folder, "").unwrap();
    rig.outage(900);
    rig.fails("cannot create the folder");
    fs::remove_file(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    rig.now_ms += RETRY_MAX_MS + 1;
    let mut largest = 0;
    for _ in 0..20 {
        rig.round();
        largest = largest.max(bytes_of(&path));
        rig.outage(1);
    }
    assert_eq!(rig.state(), State::Working);
    assert!(largest <= MAX_BYTES, "{largest} bytes, {MAX_BYTES} are the most");
}
