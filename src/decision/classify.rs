//! Scores to a class: softmax where needed, smoothing, argmax, threshold, hysteresis.

use super::Verdict;
use super::smooth::Smoother;
use crate::config::Classify;

/// Decides on a class, window by window.
#[derive(Debug)]
pub struct Classifier {
    logits: bool,
    threshold: f32,
    hysteresis: f32,
    smoother: Smoother,
    current: Option<u16>,
}

impl Classifier {
    /// `logits`: the scores still need a softmax.
    pub fn new(config: &Classify, classes: usize, logits: bool) -> Self {
        Self {
            logits,
            threshold: config.threshold,
            hysteresis: config.hysteresis,
            smoother: Smoother::new(classes, config.smooth),
            current: None,
        }
    }

    pub fn classes(&self) -> usize {
        self.smoother.width()
    }

    pub fn reset(&mut self) {
        self.smoother.reset();
        self.current = None;
    }

    /// Decides on `scores`, one a class, and leaves the smoothed probabilities in it.
    pub fn decide(&mut self, scores: &mut [f32]) -> Verdict {
        if self.logits {
            softmax(scores);
        }
        let (raw_class, _) = highest(scores);
        self.smoother.smooth(scores);
        let (best, best_score) = highest(scores);
        // The class that holds is left only for one that is better by the margin.
        let (class, score) = match self.current.map(|held| (held, scores[usize::from(held)])) {
            Some((held, score)) if best_score < score + self.hysteresis => (held, score),
            _ => (best, best_score),
        };
        self.current = (score >= self.threshold).then_some(class);
        Verdict::Class { class: self.current, score, raw_class }
    }
}

/// The first of the highest scores.
fn highest(scores: &[f32]) -> (u16, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, score) in (0u16..).zip(scores) {
        if *score > best.1 {
            best = (class, *score);
        }
    }
    best
}

fn softmax(scores: &mut [f32]) {
    let (_, highest) = highest(scores);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - highest).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classifier(threshold: f32, smooth: usize, hysteresis: f32, logits: bool) -> Classifier {
        let config = Classify { output: 0, scores: None, threshold, smooth, hysteresis };
        Classifier::new(&config, 3, logits)
    }

    fn decide(c: &mut Classifier, mut scores: [f32; 3]) -> (Option<u16>, u16) {
        match c.decide(&mut scores) {
            Verdict::Class { class, raw_class, .. } => (class, raw_class),
            Verdict::Values => unreachable!("a classifier gives classes"),
        }
    }

    #[test]
    fn the_highest_score_wins_if_it_reaches_the_threshold() {
        let mut c = classifier(0.6, 1, 0.0, false);
        assert_eq!(decide(&mut c, [0.1, 0.7, 0.2]), (Some(1), 1));
        assert_eq!(decide(&mut c, [0.5, 0.4, 0.1]), (None, 0));
        assert_eq!(decide(&mut c, [0.5, 0.5, 0.0]), (None, 0), "the first of equals");
    }

    #[test]
    fn smoothing_outvotes_one_odd_window() {
        let mut c = classifier(0.0, 3, 0.0, false);
        assert_eq!(decide(&mut c, [0.9, 0.1, 0.0]), (Some(0), 0));
        assert_eq!(decide(&mut c, [0.3, 0.7, 0.0]), (Some(0), 1));
        c.reset();
        assert_eq!(decide(&mut c, [0.3, 0.7, 0.0]), (Some(1), 1));
    }

    #[test]
    fn hysteresis_holds_the_class_until_another_is_clearly_better() {
        let mut c = classifier(0.3, 1, 0.2, false);
        assert_eq!(decide(&mut c, [0.6, 0.4, 0.0]), (Some(0), 0));
        assert_eq!(decide(&mut c, [0.45, 0.55, 0.0]), (Some(0), 1));
        assert_eq!(decide(&mut c, [0.35, 0.65, 0.0]), (Some(1), 1));
        assert_eq!(decide(&mut c, [0.0, 0.28, 0.41]), (None, 2), "held, but under the threshold: nothing is decided");
        assert_eq!(decide(&mut c, [0.0, 0.28, 0.41]), (Some(2), 2), "nothing is held any more");
    }

    #[test]
    fn logits_become_probabilities() {
        let mut scores = [1000.0, 1001.0, 999.0];
        let verdict = classifier(0.0, 1, 0.0, true).decide(&mut scores);
        let sum: f32 = scores.iter().sum();
        assert!((sum - 1.0).abs() < 1e-6, "{scores:?}");
        assert!((scores[1] - 0.665_241).abs() < 1e-5, "{scores:?}");
        assert!(matches!(verdict, Verdict::Class { class: Some(1), score, .. } if score == scores[1]));
    }
}
