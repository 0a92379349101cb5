//! What another program writes for people, line by line and bounded: the length of a line, and the lines in a time.

use std::time::{Duration, Instant};

/// Longer lines are cut into pieces.
pub const LINE_BYTES: usize = 1024;

/// Cuts bytes into lines.
#[derive(Debug, Default)]
pub struct LineCutter {
    pending: Vec<u8>,
    /// What ends a line, next to a newline.
    also_ends: Option<u8>,
}

impl LineCutter {
    /// Returns a cutter for which a carriage return ends a line, too, as programs write it that show their progress.
    pub fn with_carriage_returns() -> Self {
        Self { pending: Vec::new(), also_ends: Some(b'\r') }
    }

    /// Takes bytes, and passes each line that is complete to `line`, without its end.
    pub fn take(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for byte in bytes {
            let ends = *byte == b'\n' || Some(*byte) == self.also_ends;
            if !ends {
                self.pending.push(*byte);
            }
            if ends || self.pending.len() == LINE_BYTES {
                line(&String::from_utf8_lossy(&self.pending));
                self.pending.clear();
            }
        }
    }

    /// Passes what is left to `line`.
    pub fn end(&mut self, line: impl FnOnce(&str)) {
        line(&String::from_utf8_lossy(&self.pending));
        self.pending.clear();
    }
}

/// Limits the number of lines that are logged in a time. Pure: time is passed in.
#[derive(Debug)]
pub struct Limiter {
    most: u32,
    period: Duration,
    begun: Instant,
    admitted: u32,
    left_out: u64,
}

impl Limiter {
    /// Returns a limiter that admits at most `most` lines in each `period`.
    pub fn new(most: u32, period: Duration, now: Instant) -> Self {
        Self { most, period, begun: now, admitted: 0, left_out: 0 }
    }

    /// Returns how many lines were left out before this one; `None` if this one is left out too.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.begun) >= self.period {
            (self.begun, self.admitted) = (now, 0);
        }
        if self.admitted == self.most {
            self.left_out += 1;
            return None;
        }
        self.admitted += 1;
        Some(std::mem::take(&mut self.left_out))
    }

    /// Returns how many lines were left out since the last one that was admitted, or since the last call.
    pub fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let begun = Instant::now();
        let mut limiter = Limiter::new(20, Duration::from_secs(1), begun);
        let admitted = (0..1000).filter(|_| limiter.admit(begun).is_some()).count();
        let later = begun + Duration::from_secs(1);
        assert_eq!((admitted, limiter.admit(later), limiter.admit(later)), (20, Some(980), Some(0)));
        (0..20).for_each(|_| _ = limiter.admit(later));
        assert_eq!((limiter.take_left_out(), limiter.take_left_out()), (2, 0));
    }

    #[test]
    fn lines_are_the_same_however_they_come_and_bounded() {
        let text = [&b"one\ntwo\r\n\xff\n"[..], &[b'x'; LINE_BYTES + 3], b"\nlast"].concat();
        let lines = |mut cutter: LineCutter, size: usize| {
            let mut lines = Vec::new();
            text.chunks(size).for_each(|part| cutter.take(part, |line| lines.push(line.to_owned())));
            cutter.end(|line| lines.push(line.to_owned()));
            lines
        };
        let whole = lines(LineCutter::default(), text.len());
        assert_eq!(whole[..3], ["one", "two\r", "\u{fffd}"]);
        assert_eq!(whole[3..].iter().map(String::len).collect::<Vec<_>>(), [LINE_BYTES, 3, 4]);
        assert_eq!(lines(LineCutter::default(), 1), whole);
        assert_eq!(lines(LineCutter::with_carriage_returns(), 7)[1..3], ["two", ""]);
    }
}
