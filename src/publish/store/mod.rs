//! The store: keeps on disk what the broker has not acknowledged in time, so that it outlives the daemon and its memory.
//!
//! Owns the file, its failures and the way back. Leaves to `outbox` what is to be stored, for how long, and in which
//! order it is sent. Runs on a thread of its own, `store`: nobody else ever waits for the disk, but the very end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, Thread, park_timeout};
use std::time::Duration;

use tokio::sync::watch;

use super::mqtt::Handle;

mod file;
use file::{File, FileError};

const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 60_000;
/// Messages that the broker has taken are deleted this much later than others are written: what a crash in between
/// costs is a duplicate, and what it saves are writes.
const DELETE_LATER: u64 = 2;

/// What the store needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub path: PathBuf,
    /// How long a message may be in memory alone.
    pub commit: Duration,
    /// Of the file and what SQLite logs beside it.
    pub max_bytes: u64,
}

/// Of so many bytes of files, those for messages: some is for pages that are half empty, and for SQLite's log.
pub(crate) fn payload_bytes(max_bytes: u64) -> u64 {
    max_bytes / 8 * 7
}

/// Whether messages outlive the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The file is being opened.
    Opening,
    /// They do.
    Working,
    /// They do not, and why; it is tried again by itself.
    Failing(Arc<str>),
}

/// The store's thread, as others see it.
pub(crate) struct Store {
    thread: Thread,
    state: watch::Receiver<State>,
    finish: Arc<Finish>,
}

#[derive(Default)]
struct Finish {
    wanted: AtomicBool,
    done: tokio::sync::Notify,
}

impl Store {
    /// Starts the thread, for the outbox of that link.
    pub(crate) fn start(settings: Settings, link: Handle) -> std::io::Result<Self> {
        // At a limit to the size of files (RLIMIT_FSIZE) a write is to fail; the signal would end the daemon.
        signal_hook::flag::register(nix::libc::SIGXFSZ, Arc::default())?;
        link.outbox(|outbox| outbox.await_store());
        let (told, state) = watch::channel(State::Opening);
        let finish = Arc::<Finish>::default();
        let ours = finish.clone();
        let name = "store".to_owned();
        let spawned = Builder::new().name(name).spawn({
            let link = link.clone();
            move || {
                let _gone = Gone(link.clone(), ours.clone());
                serve(Keeper::new(settings, link, told), &ours);
            }
        });
        let thread = spawned.inspect_err(|_| link.outbox(|outbox| outbox.without_store()))?.thread().clone();
        link.reader(thread.clone());
        Ok(Self { thread, state, finish })
    }

    /// Whether it works, and a way to wait for that to change.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Stores all that is left and closes the file, unless that takes longer than `within`.
    pub(crate) async fn finish(self, within: Duration) {
        let done = self.finish.done.notified();
        self.finish.wanted.store(true, Ordering::Release);
        self.thread.unpark();
        // Too late is as good as never: the thread ends with the process.
        let _ = tokio::time::timeout(within, done).await;
    }
}

/// However the thread ends, messages go on without it.
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
        keeper.round(keeper.link.now_ms(), wanted);
        if wanted {
            return;
        }
        // Woken for a page, or for nothing, the round finds little to do.
        park_timeout(keeper.pause());
    }
}

/// What the thread does, a round at a time; the time is passed in.
struct Keeper {
    settings: Settings,
    link: Handle,
    told: watch::Sender<State>,
    file: Option<File>,
    /// Of the file that the outbox knows.
    token: Option<i64>,
    damage: Option<String>,
    retry_at_ms: u64,
    retry_ms: u64,
    deleted_ms: u64,
    /// The file may be larger than it has to be.
    grown: bool,
}

impl Keeper {
    fn new(settings: Settings, link: Handle, told: watch::Sender<State>) -> Self {
        Self {
            settings,
            link,
            told,
            file: None,
            token: None,
            damage: None,
            retry_at_ms: 0,
            retry_ms: RETRY_MIN_MS,
            deleted_ms: 0,
            grown: false,
        }
    }

    /// Until something can be due.
    fn pause(&self) -> Duration {
        let commit = self.settings.commit;
        let now_ms = self.link.now_ms();
        let due_ms = self.link.outbox(|outbox| outbox.store_due_ms(self.commit_ms()));
        // What is overdue although there was a round has no room, or no file.
        let soon = due_ms.filter(|due_ms| due_ms + self.commit_ms() / 4 > now_ms && self.file.is_some());
        let wait = soon.map_or(commit, |due_ms| Duration::from_millis(due_ms.saturating_sub(now_ms)));
        wait.clamp(commit / 64, commit)
    }

    fn commit_ms(&self) -> u64 {
        u64::try_from(self.settings.commit.as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes what is due, or with `all` whatever there is, and reads what is wanted.
    fn round(&mut self, now_ms: u64, all: bool) {
        if self.file.is_none() && now_ms < self.retry_at_ms && !all {
            return;
        }
        if let Err(error) = self.try_round(now_ms, all) {
            self.fail(&error, now_ms);
        }
    }

    fn try_round(&mut self, now_ms: u64, all: bool) -> Result<(), FileError> {
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
        loop {
            let work = self.link.outbox(|outbox| outbox.take(now_ms, wait_ms, deletes));
            if !work.is_empty() {
                file.commit(&work)?;
                self.grown |= !work.inserts.is_empty();
                self.link.outbox(|outbox| outbox.stored());
            }
            let page = self.link.outbox(|outbox| outbox.wanted_page()).filter(|_| !all);
            if let Some(request) = page {
                let rows = file.read(request)?;
                self.link.outbox(|outbox| outbox.page(request, rows));
                self.link.wake();
            }
            if !work.more && page.is_none() {
                break;
            }
        }
        if self.grown && deletes && self.link.outbox(|outbox| outbox.stats().stored) == 0 {
            file.shrink()?;
            self.grown = false;
        }
        self.file = Some(file);
        self.say(State::Working);
        Ok(())
    }

    /// Opens the file, a new one where the old one is damaged, and tells the outbox what it holds.
    fn open(&mut self, now_ms: u64) -> Result<File, FileError> {
        if let Some(damage) = &self.damage {
            let aside = file::put_aside(&self.settings.path, now_ms / 1000)?;
            let path = self.settings.path.display();
            tracing::error!("{path} was damaged: {damage}; it is now {}, what it held is lost", aside.display());
            self.damage = None;
        }
        let file = File::open(&self.settings.path, self.settings.max_bytes)?;
        if self.token == Some(file.token) {
            self.link.outbox(|outbox| outbox.store_is_back());
        } else {
            let mut inventory = self.link.outbox(|outbox| outbox.inventory(now_ms));
            file.take_stock(&mut inventory)?;
            let found = self.link.outbox(|outbox| {
                let before = outbox.stats().recovered;
                outbox.adopt(inventory);
                outbox.stats().recovered - before
            });
            if found > 0 {
                tracing::info!("{found} messages of an earlier run are in {}", self.settings.path.display());
            }
            self.token = Some(file.token);
            self.grown = true;
        }
        self.link.wake();
        self.retry_ms = RETRY_MIN_MS;
        Ok(file)
    }

    fn fail(&mut self, error: &FileError, now_ms: u64) {
        // Closing it first: nothing that SQLite still does to the file may come after the outbox has let go of it.
        self.file = None;
        self.link.outbox(|outbox| outbox.store_failed());
        self.link.wake();
        self.retry_at_ms = now_ms;
        if let FileError::Corrupt(damage) = error {
            // A new file can be had at once.
            self.damage = Some(damage.clone());
        } else {
            self.retry_at_ms += self.retry_ms;
            self.retry_ms = (self.retry_ms * 2).min(RETRY_MAX_MS);
        }
        self.say(State::Failing(error.to_string().into()));
    }

    fn say(&self, state: State) {
        let path = self.settings.path.display();
        let before = self.told.borrow().clone();
        match (&before, &state) {
            (State::Failing(_), State::Working) => {
                tracing::info!("messages outlive the daemon again: {path} works");
            }
            (State::Opening | State::Working, State::Failing(reason)) => {
                tracing::error!("messages are kept in memory only, a crash loses them: {path}: {reason}");
            }
            (State::Failing(_), State::Failing(reason)) => tracing::debug!("{path}: {reason}"),
            _ => {}
        }
        if before != state {
            self.told.send_replace(state);
        }
    }
}

#[cfg(test)]
mod tests;
