//! A request to stop, which reaches all threads at once: those that work and those that wait.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use crate::units::MonoTime;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The awaited event happened.
    Ready,
    /// A stop was requested.
    Stopped,
    /// The time has passed.
    TimedOut,
}

/// A wait is for so many files at most.
const MOST_FDS: usize = 8;

/// A request to stop. Once made, it stays.
#[derive(Debug)]
pub struct Stop {
    /// A request of this one is a request of ours too.
    parent: Option<Arc<Self>>,
    requested: AtomicBool,
    /// The time to finish work in progress is over as well.
    overdue: AtomicBool,
    /// Becomes readable with the request and stays so, which ends every `poll`.
    event: EventFd,
    /// A thread that waits by `park`, which the request ends.
    parked: OnceLock<Thread>,
}

impl Stop {
    pub fn new() -> io::Result<Self> {
        Self::made(None)
    }

    /// Returns a request for a part of what `parent` stops: it can be made alone, and is made with that of `parent`.
    pub fn within(parent: Arc<Self>) -> io::Result<Self> {
        Self::made(Some(parent))
    }

    fn made(parent: Option<Arc<Self>>) -> io::Result<Self> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            parent,
            requested: AtomicBool::new(false),
            overdue: AtomicBool::new(false),
            event,
            parked: OnceLock::new(),
        })
    }

    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        // The write fails only if the counter is full, and then it is already readable.
        let _ = self.event.write(1);
        if let Some(thread) = self.parked.get() {
            thread.unpark();
        }
    }

    /// Has the request end this thread's `park`. Call it once, and before the first look at `is_requested`.
    pub fn unparks_this_thread(&self) {
        let _ = self.parked.set(std::thread::current());
    }

    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire) || self.parent.as_ref().is_some_and(|parent| parent.is_requested())
    }

    /// Ends the time to finish work in progress: samples that have arrived are left undecided.
    pub fn overdue(&self) {
        self.overdue.store(true, Ordering::Release);
    }

    pub fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Acquire) || self.parent.as_ref().is_some_and(|parent| parent.is_overdue())
    }

    /// Returns a descriptor that becomes readable with the request and stays so, for an async runtime that waits for it.
    ///
    /// # Errors
    /// The process has too many files open.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        let Some(parent) = &self.parent else { return self.event.as_fd().try_clone_to_owned() };
        // Either request makes it readable.
        let both = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for event in [&self.event, &parent.event] {
            both.add(event, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok(both.0)
    }

    /// Waits until `fd` can be read, its other end has closed, or a stop is requested.
    pub fn wait_readable(&self, fd: BorrowedFd<'_>) -> io::Result<Waited> {
        self.wait(&mut [PollFd::new(fd, PollFlags::POLLIN)], None)
    }

    /// Waits until one of `fds` is ready, a stop is requested, or `until` has come. Which of them are ready is in `fds`.
    pub fn wait<'fd>(&'fd self, fds: &mut [PollFd<'fd>], until: Option<MonoTime>) -> io::Result<Waited> {
        let mut polled: [PollFd<'fd>; 2 + MOST_FDS] =
            std::array::from_fn(|_| PollFd::new(self.event.as_fd(), PollFlags::POLLIN));
        if let Some(parent) = &self.parent {
            polled[1] = PollFd::new(parent.event.as_fd(), PollFlags::POLLIN);
        }
        let Some(theirs) = polled.get_mut(2..2 + fds.len()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many files to wait for"));
        };
        theirs.clone_from_slice(fds);
        let polled = &mut polled[..2 + fds.len()];
        loop {
            let left = until.map(|moment| moment.since(MonoTime::now()));
            match ppoll(polled, left.map(TimeSpec::from), None) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        fds.clone_from_slice(&polled[2..]);
        if self.is_requested() || polled[..2].iter().any(|event| event.any().unwrap_or(false)) {
            return Ok(Waited::Stopped);
        }
        // Unknown flags count as ready: reading then says what there is.
        let ready = fds.iter().any(|fd| fd.any().unwrap_or(true));
        Ok(if ready { Waited::Ready } else { Waited::TimedOut })
    }

    /// Sleeps until `moment`, to the resolution of the kernel's timers.
    pub fn sleep_until(&self, moment: MonoTime) -> io::Result<Waited> {
        if self.is_requested() {
            return Ok(Waited::Stopped);
        }
        match self.wait(&mut [], Some(moment))? {
            Waited::TimedOut => Ok(Waited::Ready),
            waited => Ok(waited),
        }
    }
}

/// Requests to stop that come one after the other: a later one is impatience, one that comes together with the first is
/// not. timeout(1), for example, sends SIGTERM to the program and then to its process group. Pure: time is passed in.
#[derive(Debug, Default)]
pub struct StopRequests {
    first: Option<Instant>,
}

impl StopRequests {
    /// What comes within this time of the first request belongs to it.
    const TOGETHER: Duration = Duration::from_secs(1);

    /// Notes a request; only the first one counts.
    pub fn add(&mut self, now: Instant) {
        self.first.get_or_insert(now);
    }

    /// Returns whether a request that comes now means: at once.
    pub fn is_impatient(&self, now: Instant) -> bool {
        self.first.is_some_and(|first| now.duration_since(first) >= Self::TOGETHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_of_a_part_is_readable_with_either_request() {
        for is_whole in [true, false] {
            let whole = Arc::new(Stop::new().unwrap());
            let part = Stop::within(whole.clone()).unwrap();
            let descriptor = part.descriptor().unwrap();
            let is_readable = || {
                let mut fds = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
                nix::poll::poll(&mut fds, 0u8).unwrap() == 1
            };
            assert!(!is_readable());
            if is_whole {
                whole.request()
            } else {
                part.request()
            };
            assert!(is_readable() && part.is_requested());
        }
    }

    #[test]
    fn a_wait_ends_with_data_or_with_the_stop() {
        let stop = Stop::new().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        assert_eq!(stop.wait_readable(ours.as_fd()).unwrap(), Waited::Ready);
        let soon = MonoTime::now() + Duration::from_millis(2);
        assert_eq!(stop.sleep_until(soon).unwrap(), Waited::Ready);
        assert!(MonoTime::now() >= soon);

        stop.request();
        assert_eq!(stop.wait_readable(ours.as_fd()).unwrap(), Waited::Stopped);
        assert_eq!(stop.sleep_until(MonoTime::now() + Duration::from_secs(3600)).unwrap(), Waited::Stopped);
    }

    #[test]
    fn a_request_ends_the_park_of_a_thread_that_asked_for_it() {
        let stop = Stop::new().unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let parked = scope.spawn(|| {
                stop.unparks_this_thread();
                ready.send(()).unwrap();
                let begun = Instant::now();
                while !stop.is_requested() {
                    std::thread::park_timeout(Duration::from_secs(60));
                }
                begun.elapsed()
            });
            is_ready.recv().unwrap();
            stop.request();
            assert!(parked.join().unwrap() < Duration::from_secs(30));
        });
    }

    #[test]
    fn a_part_stops_alone_and_with_the_whole() {
        let whole = Arc::new(Stop::new().unwrap());
        let (first, second) = (Stop::within(whole.clone()).unwrap(), Stop::within(whole.clone()).unwrap());
        first.request();
        assert!(first.is_requested() && !second.is_requested() && !whole.is_requested());
        let far = MonoTime::now() + Duration::from_secs(3600);
        assert_eq!(first.sleep_until(far).unwrap(), Waited::Stopped);
        let soon = MonoTime::now() + Duration::from_millis(2);
        assert_eq!(second.sleep_until(soon).unwrap(), Waited::Ready);
        std::thread::scope(|scope| {
            scope.spawn(|| whole.request());
            assert_eq!(second.wait(&mut [], Some(far)).unwrap(), Waited::Stopped);
        });
        assert!(second.is_requested() && !second.is_overdue());
        whole.overdue();
        assert!(second.is_overdue());
    }

    #[test]
    fn a_request_that_comes_with_the_first_is_no_impatience() {
        let (mut requests, begun) = (StopRequests::default(), Instant::now());
        let after = |ms| begun + Duration::from_millis(ms);
        assert!(!requests.is_impatient(begun), "it is the first");
        requests.add(begun);
        assert!(!requests.is_impatient(begun) && !requests.is_impatient(after(999)));
        requests.add(after(999));
        assert!(requests.is_impatient(after(1000)), "the second does not start the time again");
    }
}
