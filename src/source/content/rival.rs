//! When a writer that gives nothing makes way for one that waits.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use crate::source::FrameSink;
use crate::stop::Waited;
use crate::units::MonoTime;

/// The time for the first frame of a writer, if another one waits.
const FIRST_FRAME: Duration = Duration::from_secs(1);
pub(super) const MAKES_WAY: &str = "a writer that gave no sample for too long makes way for one that waits";

/// Another writer that may come and wait for its turn.
pub struct Rival<'a> {
    listener: BorrowedFd<'a>,
    delivered: u64,
    /// When the present writer gave its last frame, or began.
    since: MonoTime,
    /// How long it may give none after that.
    patience: Duration,
}

impl<'a> Rival<'a> {
    /// One that would come to `listener`, while the writer that begins now gives its frames to `sink`.
    pub fn new(listener: BorrowedFd<'a>, sink: &FrameSink) -> Self {
        Self { listener, delivered: sink.delivered(), since: MonoTime::now(), patience: FIRST_FRAME }
    }

    /// Waits until `writer` can be read or a stop is requested. `TimedOut`: it has given nothing for too long, and another
    /// one waits.
    pub(super) fn wait(&mut self, writer: BorrowedFd<'_>, sink: &FrameSink) -> io::Result<Waited> {
        if sink.delivered() != self.delivered {
            self.delivered = sink.delivered();
            (self.since, self.patience) = (MonoTime::now(), sink.silence());
        }
        let until = self.since + self.patience;
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        if MonoTime::now() < until {
            match sink.stop().wait(&mut [readable(writer)], Some(until))? {
                Waited::TimedOut => {}
                waited => return Ok(waited),
            }
        }
        let mut both = [readable(writer), readable(self.listener)];
        let waited = sink.stop().wait(&mut both, None)?;
        let is_awaited = both[1].any().unwrap_or(false);
        Ok(if waited == Waited::Ready && is_awaited { Waited::TimedOut } else { waited })
    }
}
