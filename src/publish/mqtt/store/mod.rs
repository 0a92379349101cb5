//! The store: keeps on disk what the broker has not acknowledged in time, so that messages survive a crash or a restart.
//!
//! Owns the file, its failures and the recovery. Leaves to `outbox` what is stored, for how long, and in which order it
//! is sent. Runs on a thread of its own, `store`: no other thread waits for the disk, except at the end of the daemon.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, Thread, park_timeout};
use std::time::Duration;

use tokio::sync::watch;

use super::Handle;
use super::outbox::Inventory;
use crate::text::counted;

mod count;
mod file;
mod files;
mod row;
mod salvage;
mod schema;
use file::File;
use files::FileError;

const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 60_000;
/// Delivered messages are deleted only at every second commit: that saves writes, and a crash in between costs a duplicate.
const DELETE_LATER: u64 = 2;

/// The settings of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub path: PathBuf,
    /// How long a message may be only in memory.
    pub commit: Duration,
    /// Limit for the file and SQLite's log together.
    pub max_bytes: u64,
}

/// Returns the part of `max_bytes` that is for messages: the rest is for half-empty pages and SQLite's log.
pub fn payload_bytes(max_bytes: u64) -> u64 {
    max_bytes / 8 * 7
}

/// Whether messages are kept on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The file is being opened.
    Opening,
    /// They are.
    Working,
    /// They are not, and why; the store tries again by itself. Those that the file has are sent, if it can be read.
    Failing(Arc<str>),
}

/// Controls the store's thread.
pub struct Store {
    thread: Thread,
    finish: Arc<Finish>,
}

#[derive(Default)]
struct Finish {
    wanted: AtomicBool,
    done: tokio::sync::Notify,
}

impl Store {
    /// Starts the thread, for the outbox of that client.
    pub fn start(settings: Settings, mqtt: Handle) -> std::io::Result<Self> {
        // At the limit for file sizes (RLIMIT_FSIZE) a write should fail; the signal would end the daemon.
        signal_hook::flag::register(nix::libc::SIGXFSZ, Arc::default())?;
        mqtt.outbox(|outbox| outbox.await_store());
        let (sender, state) = watch::channel(State::Opening);
        let finish = Arc::<Finish>::default();
        let ours = finish.clone();
        let name = "store".to_owned();
        let spawned = Builder::new().name(name).spawn({
            let mqtt = mqtt.clone();
            move || {
                let _gone = Gone(mqtt.clone(), ours.clone());
                serve(Keeper::new(settings, mqtt, sender), &ours);
            }
        });
        let thread = spawned.inspect_err(|_| mqtt.outbox(|outbox| outbox.without_store()))?.thread().clone();
        mqtt.set_store(thread.clone(), state);
        Ok(Self { thread, finish })
    }

    /// Stores what is left and closes the file, unless that takes longer than `within`.
    pub async fn finish(self, within: Duration) {
        let done = self.finish.done.notified();
        self.finish.wanted.store(true, Ordering::Release);
        self.thread.unpark();
        // If it takes longer, the thread ends with the process.
        let _ = tokio::time::timeout(within, done).await;
    }
}

/// Lets the client go on without a store, however the thread ends.
struct Gone(Handle, Arc<Finish>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.outbox(|outbox| {
            if std::thread::panicking() {
                outbox.without_store()
            }
        });
        self.1.done.notify_one();
    }
}

fn serve(mut keeper: Keeper, finish: &Finish) {
    loop {
        let wanted = finish.wanted.load(Ordering::Acquire);
        keeper.round(keeper.mqtt.now_ms(), wanted);
        if wanted {
            return;
        }
        // It may be woken early, for a page; a round without work is cheap.
        park_timeout(keeper.pause());
    }
}

/// The work of the thread, one round at a time; the time is passed in.
struct Keeper {
    settings: Settings,
    mqtt: Handle,
    state: watch::Sender<State>,
    file: Option<File>,
    /// The token of the file that the outbox knows.
    token: Option<i64>,
    damage: Option<String>,
    /// What is to be said of a damaged file once it is known what was lost.
    repaired: Option<String>,
    salvaged_ms: Option<u64>,
    retry_at_ms: u64,
    retry_ms: u64,
    /// Why the file cannot be written, though it is open.
    unwritable: Option<FileError>,
    /// Attempts that failed since the store last worked.
    attempts: u64,
    deleted_ms: u64,
    /// The file may be larger than necessary.
    grown: bool,
}

impl Keeper {
    fn new(settings: Settings, mqtt: Handle, state: watch::Sender<State>) -> Self {
        Self {
            settings,
            mqtt,
            state,
            file: None,
            token: None,
            damage: None,
            repaired: None,
            salvaged_ms: None,
            retry_at_ms: 0,
            retry_ms: RETRY_MIN_MS,
            unwritable: None,
            attempts: 0,
            deleted_ms: 0,
            grown: false,
        }
    }

    /// Returns how long to wait until something can be due.
    fn pause(&self) -> Duration {
        let commit = self.settings.commit;
        let now_ms = self.mqtt.now_ms();
        let due_ms = self.mqtt.outbox(|outbox| outbox.store_due_ms(self.commit_ms()));
        // What is still overdue after a round has no room, or no file.
        let soon = due_ms.filter(|due_ms| due_ms + self.commit_ms() / 4 > now_ms && self.file.is_some());
        let wait = soon.map_or(commit, |due_ms| Duration::from_millis(due_ms.saturating_sub(now_ms)));
        wait.clamp(commit / 64, commit)
    }

    fn commit_ms(&self) -> u64 {
        u64::try_from(self.settings.commit.as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes what is due, or with `all` everything, and reads the page that is wanted.
    fn round(&mut self, now_ms: u64, all: bool) {
        if self.file.is_none() && now_ms < self.retry_at_ms && !all {
            return;
        }
        if let Err(error) = self.try_round(now_ms, all) {
            self.fail(&error, now_ms);
        }
    }

    fn try_round(&mut self, now_ms: u64, all: bool) -> Result<(), FileError> {
        let retries = all || now_ms >= self.retry_at_ms;
        let to_be_reopened = |file: &mut File| retries && file.is_to_be_reopened();
        drop(self.file.take_if(to_be_reopened));
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.open(now_ms)?,
        };
        file.check_place()?;
        let commit_ms = self.commit_ms();
        let wait_ms = if all { 0 } else { commit_ms };
        let deletes = all || now_ms >= self.deleted_ms + commit_ms * DELETE_LATER;
        if deletes {
            self.deleted_ms = now_ms;
        }
        if let Some(error) = self.unwritable.take_if(|_| retries) {
            if matches!(error, FileError::Full(_)) && !self.mqtt.outbox(|outbox| outbox.needs_file()) {
                // To delete the rows would need room, too.
                file.delete()?;
                file = self.open(now_ms)?;
            }
            self.mqtt.outbox(|outbox| outbox.store_is_back());
        }
        loop {
            let more = self.unwritable.is_none() && self.write(&mut file, now_ms, wait_ms, deletes)?;
            let page = self.mqtt.outbox(|outbox| outbox.wanted_page()).filter(|_| !all);
            if let Some(request) = page {
                let rows = file.read(request)?;
                self.mqtt.outbox(|outbox| outbox.page(request, rows));
                self.mqtt.wake();
            }
            if !more && page.is_none() {
                break;
            }
        }
        if self.grown && deletes && self.unwritable.is_none() && self.mqtt.outbox(|outbox| outbox.stats().stored) == 0 {
            match file.shrink() {
                Err(error @ FileError::Corrupt(_)) => return Err(error),
                // It needs some room, too.
                Err(error) => tracing::debug!("cannot shrink {}: {error}", self.settings.path.display()),
                Ok(()) => {}
            }
            self.grown = false;
        }
        self.file = Some(file);
        if self.unwritable.is_none() {
            self.set_state(State::Working);
        }
        Ok(())
    }

    /// Writes what is due; returns whether there is more. If it cannot be written, the file can perhaps be read.
    fn write(&mut self, file: &mut File, now_ms: u64, wait_ms: u64, deletes: bool) -> Result<bool, FileError> {
        let work = self.mqtt.outbox(|outbox| outbox.take(now_ms, wait_ms, deletes));
        match file.commit(&work) {
            Ok(()) => {}
            Err(error @ FileError::Corrupt(_)) => return Err(error),
            Err(error) => {
                self.mqtt.outbox(|outbox| outbox.store_is_read_only());
                self.mqtt.wake();
                self.retry_later(now_ms);
                self.set_state(State::Failing(format!("it cannot be written: {error}").into()));
                self.unwritable = Some(error);
                return Ok(false);
            }
        }
        if !work.is_empty() {
            self.grown |= !work.inserts.is_empty();
            self.mqtt.outbox(|outbox| outbox.stored());
        }
        Ok(work.more)
    }

    fn retry_later(&mut self, now_ms: u64) {
        self.attempts += 1;
        self.retry_at_ms = now_ms + self.retry_ms;
        self.retry_ms = (self.retry_ms * 2).min(RETRY_MAX_MS);
    }

    /// Opens the file, salvages it first if it is damaged, and gives the outbox its content.
    fn open(&mut self, now_ms: u64) -> Result<File, FileError> {
        let path = &self.settings.path;
        if let Some(damage) = &self.damage {
            let aside = salvage::salvage(path, now_ms / 1000)?;
            self.repaired = Some(format!("was damaged: {damage}; the damaged file is {}", aside.display()));
            self.salvaged_ms = Some(now_ms);
            self.damage = None;
        }
        let mut file = File::open(path, self.settings.max_bytes)?;
        let mut inventory = self.mqtt.outbox(|outbox| outbox.inventory(now_ms));
        file.take_stock(&mut inventory)?;
        self.report_losses(&file, &inventory);
        if self.token == Some(file.token) {
            self.mqtt.outbox(|outbox| outbox.store_is_back());
        } else {
            let lost = inventory.lost();
            let found = self.mqtt.outbox(|outbox| {
                let before = outbox.stats().recovered;
                outbox.adopt(inventory);
                outbox.stats().recovered - before - lost
            });
            if found > 0 {
                tracing::info!(
                    "found {} of an earlier run in {}",
                    counted(found, "message"),
                    self.settings.path.display()
                );
            }
            self.token = Some(file.token);
            self.grown = true;
        }
        self.mqtt.wake();
        Ok(file)
    }

    /// Logs what a damaged file has lost.
    fn report_losses(&mut self, file: &File, inventory: &Inventory) {
        let path = self.settings.path.display();
        let (found, lost) = (counted(inventory.found(), "message"), counted(inventory.lost(), "message"));
        let figures = match file.knows_its_count() {
            true => format!("{lost} lost, {found} saved"),
            false => format!("{found} saved; it is not known how many are lost"),
        };
        match self.repaired.take() {
            Some(repaired) => tracing::error!("{path} {repaired}; {figures}"),
            None if inventory.lost() > 0 => {
                tracing::error!(
                    "{path} lacks messages that it had, as when SQLite's log is gone or damaged: {figures}"
                );
            }
            None => {}
        }
    }

    fn fail(&mut self, error: &FileError, now_ms: u64) {
        // Close it first: SQLite must not write to the file after the outbox has given it up.
        self.file = None;
        self.unwritable = None;
        self.mqtt.outbox(|outbox| outbox.store_failed());
        self.mqtt.wake();
        let again = self.salvaged_ms.is_some_and(|then_ms| now_ms < then_ms + RETRY_MAX_MS);
        match error {
            FileError::Corrupt(damage) => {
                self.damage = Some(damage.clone());
                // Usually it can be salvaged at once, but a disk that damages each file is left in peace.
                self.retry_at_ms = now_ms + if again { RETRY_MAX_MS } else { 0 };
            }
            FileError::Full(_) | FileError::Failed(_) => self.retry_later(now_ms),
        }
        self.set_state(State::Failing(error.to_string().into()));
    }

    fn set_state(&mut self, state: State) {
        let path = self.settings.path.display();
        let before = self.state.borrow().clone();
        match (&before, &state) {
            (State::Failing(_), State::Working) => {
                let attempts = counted(self.attempts, "attempt");
                tracing::info!("messages are kept on disk again: {path} works, after {attempts} that failed");
            }
            (State::Opening | State::Working, State::Failing(reason)) => {
                tracing::error!("messages are kept in memory only, and a crash would lose them: {path}: {reason}");
            }
            (State::Failing(_), State::Failing(reason)) => tracing::debug!("{path}: {reason}"),
            _ => {}
        }
        if state == State::Working {
            (self.attempts, self.retry_ms) = (0, RETRY_MIN_MS);
        }
        if before != state {
            self.state.send_replace(state);
        }
    }
}

#[cfg(test)]
mod tests;
