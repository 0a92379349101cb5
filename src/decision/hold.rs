//! Which class holds: threshold and hysteresis.

/// The class that holds from one window to the next.
#[derive(Debug)]
pub(crate) struct Held {
    threshold: f32,
    hysteresis: f32,
    current: Option<u16>,
}

impl Held {
    pub(crate) fn new(threshold: f32, hysteresis: f32) -> Self {
        Self { threshold, hysteresis, current: None }
    }

    /// Returns the class that holds now, if any, and the score that was decided on.
    pub(crate) fn decide(&mut self, scores: &[f32]) -> (Option<u16>, f32) {
        let (best, best_score) = highest(scores);
        // The class that holds is left only for one that is better by the margin.
        let (class, score) = match self.current.map(|held| (held, scores[usize::from(held)])) {
            Some((held, score)) if best_score < score + self.hysteresis => (held, score),
            _ => (best, best_score),
        };
        self.current = (score >= self.threshold).then_some(class);
        (self.current, score)
    }

    pub(crate) fn reset(&mut self) {
        self.current = None;
    }
}

/// Returns the first of the highest scores.
pub(crate) fn highest(scores: &[f32]) -> (u16, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, score) in (0u16..).zip(scores) {
        if *score > best.1 {
            best = (class, *score);
        }
    }
    best
}
