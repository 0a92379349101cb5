//! The JSON file that comes with a model of micro-wake-word.

use serde_json::Value;

/// The most of a mean that decision.wake_word takes.
const MOST_WINDOWS: u64 = 1000;

/// What the file says of the word.
#[derive(Debug, Clone, PartialEq)]
pub struct WakeWord {
    /// The file's name.
    pub file: String,
    pub word: String,
    pub cutoff: f64,
    /// The number of probabilities that are averaged, if the file says it.
    pub window: Option<u64>,
    /// The time from one frame to the next, in milliseconds, if the file says it.
    pub step_ms: Option<u64>,
}

impl WakeWord {
    /// Reads the text of the file `name`; `None` if it is not of this kind.
    pub fn read(name: &str, text: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(text).ok()?;
        let micro = json.get("micro")?;
        let cutoff = micro.get("probability_cutoff")?.as_f64().filter(|cutoff| (0.0..=1.0).contains(cutoff))?;
        // Files of version 1 call it an average.
        let window = micro.get("sliding_window_size").or_else(|| micro.get("sliding_window_average"));
        let is_used = |window: &u64| (1..=MOST_WINDOWS).contains(window);
        Some(Self {
            file: name.to_owned(),
            word: json.get("wake_word")?.as_str().filter(|word| !word.trim().is_empty())?.to_owned(),
            cutoff,
            window: window.and_then(Value::as_u64).filter(is_used),
            step_ms: micro.get("feature_step_size").and_then(Value::as_u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_either_version_is_read_and_another_one_is_not() {
        let text = r#"{"type": "micro", "wake_word": "Okay Nabu", "version": 2,
            "micro": {"probability_cutoff": 0.85, "sliding_window_size": 5, "feature_step_size": 10}}"#;
        let read = WakeWord::read("a.json", text).unwrap();
        let expected = (("Okay Nabu", 0.85), (Some(5), Some(10)));
        assert_eq!(((read.word.as_str(), read.cutoff), (read.window, read.step_ms)), expected);
        let first = r#"{"wake_word": "a", "micro": {"probability_cutoff": 0.5, "sliding_window_average": 10}}"#;
        assert_eq!(WakeWord::read("a.json", first).unwrap().window, Some(10));
        for other in ["", "[]", "{}", r#"{"wake_word": "a", "micro": {"probability_cutoff": 7}}"#] {
            assert_eq!(WakeWord::read("a.json", other), None, "{other}");
        }
    }
}
