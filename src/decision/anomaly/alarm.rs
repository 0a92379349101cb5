//! When an alarm begins and ends: threshold, hysteresis, and how long the score must stay on the other side. Pure.

/// Whether the score is abnormal, from one window to the next.
#[derive(Debug)]
pub(super) struct Alarm {
    /// The score from which on a window is abnormal.
    threshold: f32,
    /// During an alarm, windows with scores below it are normal.
    end: f32,
    /// The shortest time from the first abnormal window to the alarm, and from the first normal one to its end.
    min_above_ns: i64,
    min_below_ns: i64,
    is_on: bool,
    /// When the score was first on the other side, and on it since.
    since_ns: Option<i64>,
}

impl Alarm {
    /// `hysteresis` is a part of the threshold.
    pub(super) fn new(threshold: f32, hysteresis: f32, min_above_s: f64, min_below_s: f64) -> Self {
        let ns = |seconds: f64| (seconds * 1e9) as i64;
        Self {
            threshold,
            end: threshold - hysteresis * threshold.abs(),
            min_above_ns: ns(min_above_s),
            min_below_ns: ns(min_below_s),
            is_on: false,
            since_ns: None,
        }
    }

    /// Returns whether one window is abnormal by itself.
    pub(super) fn is_above(&self, score: f32) -> bool {
        score >= self.threshold
    }

    /// Takes the score of the next window. Returns whether there is an alarm.
    pub(super) fn step(&mut self, score: f32, now_ns: i64) -> bool {
        let (is_other, time_ns) = match self.is_on {
            false => (self.is_above(score), self.min_above_ns),
            true => (score < self.end, self.min_below_ns),
        };
        if !is_other {
            self.since_ns = None;
        } else if now_ns.saturating_sub(*self.since_ns.get_or_insert(now_ns)) >= time_ns {
            self.is_on = !self.is_on;
            self.since_ns = None;
        }
        self.is_on
    }

    pub(super) fn reset(&mut self) {
        self.is_on = false;
        self.since_ns = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Scores, one a second, and where there is an alarm.
    fn alarms(alarm: &mut Alarm, scores: &[f32]) -> String {
        let at =
            |(second, score): (usize, &f32)| if alarm.step(*score, second as i64 * 1_000_000_000) { '!' } else { '.' };
        scores.iter().enumerate().map(at).collect()
    }

    #[test]
    fn an_alarm_begins_and_ends_as_the_table_says() {
        for (threshold, hysteresis, above_s, below_s, scores, wanted) in [
            (1.0, 0.0, 0.0, 0.0, &[0.9, 1.0, 1.5, 0.99, 1.0][..], ".!!.!"),
            (1.0, 0.25, 0.0, 0.0, &[1.0, 0.75, 0.74, 0.9, 1.0], "!!..!"),
            (1.0, 0.0, 2.0, 0.0, &[1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 0.5], ".....!."),
            (1.0, 0.0, 0.0, 2.0, &[1.0, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5], "!!!!!!.."),
            // Inside a cluster scores are negative; so may be a threshold.
            (-1.0, 0.5, 0.0, 0.0, &[-2.0, -1.0, -1.4, -1.6], ".!!."),
            // A threshold that is not known yet.
            (f32::INFINITY, 0.1, 0.0, 0.0, &[1.0, f32::MAX], ".."),
        ] {
            let mut alarm = Alarm::new(threshold, hysteresis, above_s, below_s);
            assert_eq!(alarms(&mut alarm, scores), wanted, "{threshold} {hysteresis} {above_s} {below_s}");
        }
    }

    #[test]
    fn after_a_gap_nothing_holds() {
        let mut alarm = Alarm::new(1.0, 0.0, 2.0, 0.0);
        alarms(&mut alarm, &[1.0, 1.0]);
        alarm.reset();
        assert!(!alarm.step(1.0, 2_000_000_000), "the time above began before the gap");
        assert!(alarm.step(1.0, 4_000_000_000));
        alarm.reset();
        assert!(!alarm.step(1.0, 5_000_000_000));
    }

    proptest! {
        /// The same by looking back over the whole past at each window.
        #[test]
        fn it_is_what_looking_back_gives(
            scores in proptest::collection::vec(0..4u8, 1..60), above in 0..4u8, below in 0..4u8,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let mut alarm = Alarm::new(3.0, 0.5, f64::from(above), f64::from(below));
            let got = alarms(&mut alarm, &scores);
            let (mut is_on, mut changed_at) = (false, 0);
            for (now, wanted) in got.chars().enumerate() {
                let is_other = |score: &f32| if is_on { *score < 1.5 } else { *score >= 3.0 };
                let streak = scores[changed_at..=now].iter().rev().take_while(|score| is_other(score)).count();
                if streak > usize::from(if is_on { below } else { above }) {
                    is_on = !is_on;
                    changed_at = now + 1;
                }
                prop_assert_eq!(wanted == '!', is_on, "at {} of {}", now, got);
            }
        }
    }
}
