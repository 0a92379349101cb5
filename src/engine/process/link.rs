//! Passes inferences between two processes: with words in shared memory, and a byte on a socket to wake a sleeper.
//!
//! Each side has a sequence number, a word (the command, or the status) and a flag `waits`. To post, a side writes its
//! word, then its number. To wait, it polls the other's number for a short while before it sleeps, because a wake-up takes
//! longer than many models. Before it sleeps, it sets its flag and polls once more. If the sleeper clears the flag itself,
//! no byte comes; if the other side clears it, exactly one byte comes. Used on the infer thread.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use crate::sys::shared::Shared;
use crate::units::MonoTime;

/// The offset after which the tensors are placed.
pub(crate) const WORDS_BYTES: usize = 1024;
/// The index of each side's first word: 64 bytes apart, so that the sides do not share a cache line.
const HOST: usize = 0;
const CHILD: usize = 16;
const SEQUENCE: usize = 0;
const WORD: usize = 1;
const WAITS: usize = 2;
/// Where the child notes when the model started and ended in the last inference: two words each, the low one first.
const RUN: usize = CHILD + 4;
/// The index of the length of the child's last error message; the message follows it.
const MESSAGE_LEN: usize = 32;
const MESSAGE_START: usize = 4 * (MESSAGE_LEN + 1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Host,
    Child,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    Arrived,
    TimedOut,
    /// The other side has closed its end.
    Gone,
}

/// One side's end.
pub(crate) struct Link {
    socket: UnixStream,
    pub memory: Shared,
    ours: usize,
    theirs: usize,
    /// The sequence number of the current or last inference.
    sequence: u32,
    spin: Spin,
    /// The read timeout that is set on the socket.
    timeout: Option<Duration>,
}

impl Link {
    pub(crate) fn new(side: Side, socket: UnixStream, memory: Shared) -> std::io::Result<Self> {
        // The child polls for a shorter time, because it does so after each inference even if none follows.
        let (ours, theirs, spin_us) = match side {
            Side::Host => (HOST, CHILD, 150),
            Side::Child => (CHILD, HOST, 50),
        };
        socket.set_read_timeout(None)?;
        // There is always room for one byte, unless the child breaks the protocol.
        socket.set_write_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self {
            socket,
            memory,
            ours,
            theirs,
            sequence: 0,
            spin: Spin::new(Duration::from_micros(spin_us)),
            timeout: None,
        })
    }

    /// Called by the host: posts a command and returns the child's status.
    pub(crate) fn call(&mut self, command: u32, limit: Duration) -> Result<u32, Waited> {
        self.sequence = self.sequence.wrapping_add(1);
        self.post(command);
        match self.wait(self.sequence, Some(limit)) {
            Waited::Arrived => Ok(self.memory.word(self.theirs + WORD).load(Relaxed)),
            other => Err(other),
        }
    }

    /// Called by the child: returns the next command, `None` at the end.
    pub(crate) fn next_command(&mut self) -> Option<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        match self.wait(self.sequence, None) {
            Waited::Arrived => Some(self.memory.word(self.theirs + WORD).load(Relaxed)),
            Waited::TimedOut | Waited::Gone => None,
        }
    }

    /// Called by the child: posts its status.
    pub(crate) fn answer(&mut self, status: u32) {
        self.post(status);
    }

    /// Called by the child: notes when the model started and ended.
    pub(crate) fn note_run(&self, run: [MonoTime; 2]) {
        for (index, MonoTime(time)) in run.into_iter().enumerate() {
            for (half, word) in [time as u32, (time >> 32) as u32].into_iter().enumerate() {
                self.memory.word(RUN + 2 * index + half).store(word, Relaxed);
            }
        }
    }

    /// Returns what the child has noted, which may be anything.
    pub(crate) fn last_run(&self) -> [MonoTime; 2] {
        let word = |index: usize| u64::from(self.memory.word(RUN + index).load(Relaxed));
        [0, 2].map(|index| MonoTime(word(index) | word(index + 1) << 32))
    }

    /// Leaves a message for the host, cut to the room for it.
    pub(crate) fn leave_message(&self, message: &str) {
        let len = message.len().min(WORDS_BYTES - MESSAGE_START);
        self.memory.write(MESSAGE_START, &message.as_bytes()[..len]);
        self.memory.word(MESSAGE_LEN).store(u32::try_from(len).unwrap_or(0), Relaxed);
    }

    pub(crate) fn message(&self) -> String {
        let len = usize::try_from(self.memory.word(MESSAGE_LEN).load(Relaxed)).unwrap_or(0);
        let mut message = [0; WORDS_BYTES - MESSAGE_START];
        let len = len.min(message.len());
        self.memory.read(MESSAGE_START, &mut message[..len]);
        String::from_utf8_lossy(&message[..len]).into_owned()
    }

    fn post(&mut self, word: u32) {
        self.memory.word(self.ours + WORD).store(word, Relaxed);
        // Release: a side that sees this number also sees everything written before it.
        self.memory.word(self.ours + SEQUENCE).store(self.sequence, SeqCst);
        if self.memory.word(self.theirs + WAITS).swap(0, SeqCst) == 1 {
            // If the other side cannot be woken, it has ended; the next wait finds that out.
            let _ = self.socket.write_all(&[0]);
        }
    }

    fn wait(&mut self, sequence: u32, limit: Option<Duration>) -> Waited {
        let begun = Instant::now();
        let arrived = || self.memory.word(self.theirs + SEQUENCE).load(SeqCst) == sequence;
        if arrived() || self.spin.until(begun, arrived) {
            return Waited::Arrived;
        }
        loop {
            self.memory.word(self.ours + WAITS).store(1, SeqCst);
            if self.has_arrived(sequence) && self.memory.word(self.ours + WAITS).swap(0, SeqCst) == 1 {
                return Waited::Arrived;
            }
            match self.sleep(begun, limit) {
                Waited::Arrived if !self.has_arrived(sequence) => {}
                waited => return waited,
            }
        }
    }

    fn has_arrived(&self, sequence: u32) -> bool {
        self.memory.word(self.theirs + SEQUENCE).load(SeqCst) == sequence
    }

    /// Sleeps until a byte comes, or `limit` has passed since `begun`.
    fn sleep(&mut self, begun: Instant, limit: Option<Duration>) -> Waited {
        if limit.is_some_and(|limit| begun.elapsed() >= limit) {
            return Waited::TimedOut;
        }
        // The whole limit, because setting what is left of it would be another system call each time.
        if self.timeout != limit {
            if self.socket.set_read_timeout(limit).is_err() {
                return Waited::Gone;
            }
            self.timeout = limit;
        }
        loop {
            return match self.socket.read(&mut [0]) {
                Ok(0) => Waited::Gone,
                Ok(_) => Waited::Arrived,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => Waited::TimedOut,
                Err(_) => Waited::Gone,
            };
        }
    }
}

/// Polls for a short while instead of sleeping, as long as that helps.
///
/// It does not help if the pauses are long, or if both sides share a core, because it then keeps the other from answering.
struct Spin {
    limit: Duration,
    /// The number of waits until polling is tried again, and that number after the last failure.
    skip: u32,
    skipped: u32,
}

impl Spin {
    const MOST_SKIPPED: u32 = 31;

    fn new(limit: Duration) -> Self {
        // On a single core the other side cannot run at the same time.
        let several_cores = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        Self { limit: if several_cores { limit } else { Duration::ZERO }, skip: 0, skipped: 0 }
    }

    /// Returns whether the other side posted in time.
    fn until(&mut self, begun: Instant, arrived: impl Fn() -> bool) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        while begun.elapsed() < self.limit {
            for _ in 0..32 {
                if arrived() {
                    self.skipped = 0;
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        self.skipped = (2 * self.skipped + 1).min(Self::MOST_SKIPPED);
        self.skip = self.skipped;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::sys::shared;

    const LIMIT: Duration = Duration::from_secs(60);
    const DOUBLE: u32 = 7;

    fn pair() -> (Link, Link) {
        let len = NonZeroUsize::new(WORDS_BYTES + 8).unwrap();
        let file = shared::file().unwrap();
        let (host, child) = UnixStream::pair().unwrap();
        let memory = Shared::create(&file, len).unwrap();
        (
            Link::new(Side::Host, host, memory).unwrap(),
            Link::new(Side::Child, child, Shared::open(&file, len).unwrap()).unwrap(),
        )
    }

    fn number(link: &Link) -> u64 {
        let mut bytes = [0; 8];
        link.memory.read(WORDS_BYTES, &mut bytes);
        u64::from_ne_bytes(bytes)
    }

    /// Doubles the number in the memory, as often as it is asked to.
    fn doubling(mut child: Link, mut before: impl FnMut(u64) + Send + 'static) -> std::thread::JoinHandle<Link> {
        std::thread::spawn(move || {
            while let Some(command) = child.next_command() {
                let number = number(&child);
                before(number);
                child.memory.write(WORDS_BYTES, &(2 * number).to_ne_bytes());
                child.answer(command + 1);
            }
            child
        })
    }

    fn double(host: &mut Link, to_double: u64) -> u64 {
        host.memory.write(WORDS_BYTES, &to_double.to_ne_bytes());
        assert_eq!(host.call(DOUBLE, LIMIT), Ok(DOUBLE + 1));
        number(host)
    }

    /// Tries every combination of waits: both spin, one sleeps, both sleep.
    #[test]
    fn no_wake_up_is_lost_and_no_byte_is_left_over() {
        for (host_spins, child_spins) in [(true, true), (true, false), (false, true), (false, false)] {
            let (mut host, mut child) = pair();
            for (link, spins) in [(&mut host, host_spins), (&mut child, child_spins)] {
                link.spin.limit = if spins { Duration::from_micros(100) } else { Duration::ZERO };
            }
            let thread = doubling(child, |number| {
                if number.is_multiple_of(7) {
                    std::thread::sleep(Duration::from_micros(number % 300));
                }
            });
            for number in 0..3_000 {
                if number % 11 == 0 {
                    std::thread::sleep(Duration::from_micros(number % 200));
                }
                assert_eq!(double(&mut host, number), 2 * number);
            }
            // The host reads all its bytes, so the child, at its end, must have read all of the host's.
            host.socket.set_nonblocking(true).unwrap();
            assert_eq!(host.socket.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            host.socket.shutdown(std::net::Shutdown::Write).unwrap();
            let mut child = thread.join().unwrap();
            assert_eq!(child.socket.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn spinning_in_vain_is_given_up_for_longer_and_longer() {
        let mut spin = Spin::new(LIMIT);
        spin.limit = Duration::from_micros(50);
        let tried = (0..100).filter(|_| {
            let tries = spin.skip == 0;
            assert!(!spin.until(Instant::now(), || false));
            tries
        });
        assert_eq!(tried.count(), 7, "1, 3, 7, 15, 31 and 31 are left out in between");
        (spin.limit, spin.skip) = (LIMIT, 0);
        assert!(spin.until(Instant::now(), || true));
        assert_eq!(spin.skipped, 0);
    }

    #[test]
    fn the_host_learns_when_the_model_ran() {
        let (host, child) = pair();
        assert_eq!(host.last_run(), [MonoTime(0); 2]);
        let run = [MonoTime(u64::MAX - 1), MonoTime(0x1_0000_0002)];
        child.note_run(run);
        assert_eq!(host.last_run(), run);
    }

    #[test]
    fn silence_ends_at_the_limit_and_death_at_once() {
        let (mut host, child) = pair();
        assert_eq!(host.call(DOUBLE, Duration::from_millis(1)), Err(Waited::TimedOut));
        drop(child);
        assert_eq!(host.call(DOUBLE, LIMIT), Err(Waited::Gone));
        let (host, mut child) = pair();
        drop(host);
        assert_eq!(child.next_command(), None);
    }

    #[test]
    fn a_message_is_cut_and_a_lie_about_its_length_is_harmless() {
        let (host, child) = pair();
        child.leave_message("no such tensor");
        assert_eq!(host.message(), "no such tensor");
        child.leave_message(&"x".repeat(5000));
        assert_eq!(host.message(), "x".repeat(WORDS_BYTES - MESSAGE_START));
        child.memory.word(MESSAGE_LEN).store(u32::MAX, Relaxed);
        assert_eq!(host.message().len(), WORDS_BYTES - MESSAGE_START);
    }
}
