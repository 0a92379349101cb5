//! What a subscriber received, read as a stranger would: topics and JSON, nothing of the daemon's own code.

use std::path::Path;

use serde_json::Value;

/// Messages in the order in which they came.
pub struct Wire(pub Vec<(String, String)>);

impl Wire {
    /// From the lines of `mosquitto_sub -v`.
    pub fn new(lines: Vec<String>) -> Self {
        let split = |line: String| {
            let (topic, payload) = line.split_once(' ').unwrap_or_else(|| panic!("no topic and payload: {line}"));
            (topic.to_owned(), payload.to_owned())
        };
        Self(lines.into_iter().map(split).collect())
    }

    /// Payloads of all topics with that end.
    pub fn texts(&self, end: &str) -> Vec<&str> {
        let of_topic = self.0.iter().filter(|(topic, _)| topic.ends_with(end));
        of_topic.map(|(_, payload)| payload.as_str()).collect()
    }

    pub fn json(&self, end: &str) -> Vec<Value> {
        let parse = |text| serde_json::from_str(text).unwrap_or_else(|e| panic!("{end}: {e}: {text}"));
        self.texts(end).into_iter().map(parse).collect()
    }

    pub fn predictions(&self) -> Vec<Value> {
        self.json("/prediction")
    }

    pub fn seqs(&self) -> Vec<u64> {
        self.predictions().iter().map(|p| p["seq"].as_u64().unwrap()).collect()
    }

    /// The last metrics message.
    pub fn metrics(&self) -> Value {
        self.json("/metrics").pop().expect("no metrics came")
    }
}

/// Predictions whose `field` is the truth.
pub fn correct(predictions: &[Value], field: &str) -> u64 {
    predictions.iter().filter(|p| p["truth"].is_string() && p[field] == p["truth"]).count() as u64
}

/// A JSON file of the repository.
pub fn json_file(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}
