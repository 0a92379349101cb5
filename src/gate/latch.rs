//! When a gate opens and closes, by the levels of blocks. Pure.

/// Opens at a threshold, and closes some time after the level was last at or above a lower one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Latch {
    threshold: f64,
    release: f64,
    /// Frames that it stays open.
    hold: u64,
    /// Frames since the level was last at or above `release`.
    quiet: u64,
    open: bool,
}

impl Latch {
    pub(super) fn new(threshold: f64, release: f64, hold: u64) -> Self {
        Self { threshold, release, hold, quiet: 0, open: false }
    }

    /// Notes the level of a block of `frames` frames.
    pub(super) fn note(&mut self, level: f64, frames: u64) {
        if level >= self.release {
            self.quiet = 0;
            self.open |= level >= self.threshold;
            return;
        }
        self.quiet = self.quiet.saturating_add(frames);
        self.open &= self.quiet < self.hold;
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn set_open(&mut self, open: bool) {
        (self.open, self.quiet) = (open, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is open after each block of ten frames.
    fn states(hold: u64, levels: &[f64]) -> Vec<bool> {
        let mut latch = Latch::new(500.0, 400.0, hold);
        let note = |level: &f64| {
            latch.note(*level, 10);
            latch.is_open()
        };
        levels.iter().map(note).collect()
    }

    #[test]
    fn it_opens_at_the_threshold_and_closes_below_the_lower_one() {
        assert_eq!(states(0, &[499.9, 500.0, 400.0, 399.9, 499.9]), [false, true, true, false, false]);
    }

    #[test]
    fn it_stays_open_for_the_hold_time_after_the_level_was_last_high_enough() {
        assert_eq!(states(20, &[500.0, 0.0, 0.0, 0.0]), [true, true, false, false]);
        assert_eq!(states(15, &[500.0, 0.0, 0.0]), [true, true, false], "a block that ends within the time is no end");
        assert_eq!(states(20, &[500.0, 0.0, 400.0, 0.0, 0.0]), [true, true, true, true, false], "it begins again");
        assert_eq!(states(20, &[450.0, 0.0]), [false, false]);
    }
}
