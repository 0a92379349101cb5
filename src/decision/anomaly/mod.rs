//! How abnormal a window is: the error of an autoencoder, or the distance to clusters of normal data; and the alarm.

mod alarm;
mod score;

use std::sync::Arc;

use self::alarm::Alarm;
use self::score::Score;
use super::classify::ClassPresentation;
use super::learnt::Limit;
use super::smooth::Smoother;
use super::{
    Decider, Decision, DecisionKind, Entity, Fault, Fields, Learning, MAX_SMOOTH, ModelOutputs, NUMBER_BYTES, Outputs,
    Presentation, Verdict, text_bytes,
};
use crate::engine::EngineError;
use crate::schema::{Checker, Key, Value, choice, table};

const NORMAL: u16 = 0;
const ANOMALY: u16 = 1;
/// The default of `anomaly_confidence` in Edge Impulse's SDK (classifier/ei_classifier_smooth.h).
const KMEANS_THRESHOLD: f32 = 0.3;
/// A day.
const MAX_S: f64 = 86_400.0;

table! {
    /// Decides whether windows are normal. The score is the mean squared error between the input of an autoencoder and its
    /// output; or, with `kmeans`, the distance to clusters of normal data.
    pub struct Anomaly {
        /// The index of the model's output: of an autoencoder, what it makes of its input.
        pub output: usize = 0;
        /// Clusters of normal data, as Edge Impulse exports them; without them the model is an autoencoder.
        pub kmeans: Option<KMeans>, otherwise("the error of an autoencoder");
        /// The score from which on a window is abnormal: a number, or { learnt = "FILE" } for a file that `edgewatt learn`
        /// makes from a recording of normal data.
        pub threshold: Option<Limit>, otherwise("0.3 with kmeans; without, it must be written"),
            example("{ learnt = \"threshold.json\" }");
        /// How far the score must fall below the threshold before an alarm can end, as a part of the threshold.
        pub hysteresis: f32 = 0.1, range(0.0, 1.0);
        /// The number of windows in a moving average of the score.
        pub smooth: usize = 1, range(1, MAX_SMOOTH);
        /// The time for which windows must be abnormal before there is an alarm.
        pub min_above_s: f64 = 0.0, range(0.0, MAX_S), unit("s");
        /// The time for which windows must be normal before an alarm ends.
        pub min_below_s: f64 = 0.0, range(0.0, MAX_S), unit("s");
        /// What normal and abnormal are called.
        pub names: [String; 2] = ["normal", "anomaly"].map(str::to_owned);
    }
}

table! {
    /// Clusters of normal data. The score is the least distance to a cluster's centre, less the cluster's `max_error`.
    pub struct KMeans {
        /// What is clustered: the "features" of the window, or the "output" of the model.
        pub on: On = On::Features;
        /// The places of the features or values that are clustered, numbered from 0.
        pub axes: Option<Vec<usize>>, otherwise("all"), example("[0, 11, 22]");
        /// What is subtracted from each of them.
        pub mean: Vec<f32>, example("[0.1, 0.2, 0.3]");
        /// By what each is divided after that.
        pub scale: Vec<f32>, example("[1.0, 1.0, 1.0]");
        /// The clusters.
        pub clusters: Vec<Cluster>, example("[{ centroid = [0.0, 0.5, -0.5], max_error = 0.2 }]");
    }
}

table! {
    /// One cluster.
    pub struct Cluster {
        /// Its centre.
        pub centroid: Vec<f32>, example("[0.0, 0.5, -0.5]");
        /// Its radius: the largest distance of normal data from the centre.
        pub max_error: f32, example("0.2");
    }
}

choice! {
    /// What is clustered.
    pub enum On { Features = "features", Output = "output" }
}

impl DecisionKind for Anomaly {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if self.names[0] == self.names[1] || self.names.iter().any(String::is_empty) {
            checker.problem(&key.child("names"), "write two different names, such as [\"normal\", \"anomaly\"]");
        }
        let threshold = key.child("threshold");
        match (&mut self.threshold, &self.kmeans) {
            (Some(limit), _) => limit.check(&threshold, checker),
            (None, Some(_)) => {}
            (None, None) => checker.problem(
                &threshold,
                "write the error from which on a window is abnormal, or { learnt = \"FILE\" } and run `edgewatt learn`",
            ),
        }
        if let Some(kmeans) = &self.kmeans {
            kmeans.check(&key.child("kmeans"), checker);
        }
    }

    fn output(&self) -> usize {
        self.output
    }

    fn has_classes(&self) -> bool {
        true
    }

    fn classes(&self, _: Vec<String>) -> Vec<String> {
        self.names.to_vec()
    }

    fn build(&self, model: &ModelOutputs<'_>) -> Result<Box<dyn Decider>, EngineError> {
        let threshold = self.limit().value(model.origins, &self.score_keys())?;
        Ok(Box::new(Watch {
            score: Score::new(self.output, self.kmeans.as_ref(), model)?,
            smoother: Smoother::new(1, self.smooth),
            alarm: Alarm::new(threshold, self.hysteresis, self.min_above_s, self.min_below_s),
            told: false,
        }))
    }

    fn presentation(&self, model: &ModelOutputs<'_>, _: Option<usize>) -> Arc<dyn Presentation> {
        Arc::new(AnomalyPresentation {
            class: ClassPresentation::new(self.names.to_vec(), None),
            threshold: self.limit().value(model.origins, &self.score_keys()).ok(),
        })
    }

    fn entities(&self) -> Vec<Entity> {
        let [normal, anomaly] = self.names.each_ref().map(|name| serde_json::json!(name));
        let is_on = format!(
            "{{{{ {{{normal}: 'OFF', {anomaly}: 'ON'}}.get(value_json.label | default(none)) | default(none, true) }}}}"
        );
        let alarm = Entity { id: "anomaly".into(), template: is_on, ..Entity::default() };
        let score = Entity {
            id: "score".into(),
            template: "{{ value_json.score | default(none) }}".into(),
            is_measurement: true,
            ..Entity::default()
        };
        let is_told = "value_json.changed | default(false) and value_json.label | default(none)";
        let label = "value_json.label";
        let change = Entity::event(&self.names, "change", label, &["score", "threshold", "time_ms"], is_told);
        vec![Entity { device_class: Some("problem"), is_binary: true, ..alarm }, score, change]
    }

    fn learning(&self) -> Option<Learning> {
        let Some(Limit::Learnt { path, .. }) = &self.threshold else { return None };
        let without = Self { threshold: Some(Limit::Value(f32::INFINITY)), ..self.clone() };
        Some(Learning { decision: Decision::Anomaly(without), file: path.clone(), score_keys: self.score_keys() })
    }
}

impl Anomaly {
    fn limit(&self) -> Limit {
        self.threshold.clone().unwrap_or(Limit::Value(KMEANS_THRESHOLD))
    }

    /// Returns the keys that the score depends on.
    fn score_keys(&self) -> String {
        let Self { output, kmeans, smooth, threshold: _, hysteresis: _, min_above_s: _, min_below_s: _, names: _ } =
            self;
        format!("output = {output}, kmeans = {}, smooth = {smooth}", kmeans.to_toml())
    }
}

impl KMeans {
    fn check(&self, key: &Key, checker: &mut Checker) {
        let Self { on: _, axes, mean, scale, clusters } = self;
        let mut same = |name: Key, count: usize| {
            if count != mean.len() {
                let message =
                    format!("there are {count} values here and {} in `mean`; each axis needs one", mean.len());
                checker.problem(&name, message);
            }
        };
        same(key.child("scale"), scale.len());
        axes.iter().for_each(|axes| same(key.child("axes"), axes.len()));
        let centroid = |place: usize| key.child("clusters").child(place).child("centroid");
        clusters.iter().enumerate().for_each(|(place, cluster)| same(centroid(place), cluster.centroid.len()));
        if clusters.is_empty() {
            checker
                .problem(&key.child("clusters"), "write at least one cluster: { centroid = [...], max_error = 0.2 }");
        }
        if scale.iter().any(|scale| !scale.is_normal()) {
            checker.problem(&key.child("scale"), "every value must be finite and not 0");
        }
        if mean.iter().any(|mean| !mean.is_finite()) {
            checker.problem(&key.child("mean"), "every value must be finite");
        }
        for (place, cluster) in clusters.iter().enumerate() {
            if !cluster.centroid.iter().chain([&cluster.max_error]).all(|value| value.is_finite()) {
                checker.problem(&key.child("clusters").child(place), "every value must be finite");
            }
        }
    }
}

/// Decides on one window after the other.
struct Watch {
    score: Score,
    smoother: Smoother,
    alarm: Alarm,
    /// Whether the last decision was an alarm. A gap does not change it: what it ends is told with the next window.
    told: bool,
}

fn class(is_alarm: bool) -> u16 {
    if is_alarm { ANOMALY } else { NORMAL }
}

impl Decider for Watch {
    fn decide(&mut self, outputs: &mut dyn Outputs, values: &mut Vec<f32>) -> Result<Verdict, EngineError> {
        values.clear();
        let mut score = [self.score.of(outputs)?];
        // The average and the alarm stay as they are.
        if let Some(fault) = Fault::of(&score) {
            return Ok(Verdict { fault: Some(fault), ..Verdict::VALUES });
        }
        let raw_class = class(self.alarm.is_above(score[0]));
        self.smoother.smooth(&mut score);
        let is_alarm = self.alarm.step(score[0], outputs.time_ns());
        let changed = is_alarm != std::mem::replace(&mut self.told, is_alarm);
        Ok(Verdict { class: Some(class(is_alarm)), raw_class: Some(raw_class), score: score[0], fault: None, changed })
    }

    fn most_values(&self) -> usize {
        0
    }

    fn features_wanted(&self) -> usize {
        self.score.features_wanted()
    }

    fn reset(&mut self) {
        self.smoother.reset();
        self.alarm.reset();
    }
}

/// Publishes the score and the threshold.
#[derive(Debug)]
struct AnomalyPresentation {
    class: ClassPresentation,
    threshold: Option<f32>,
}

impl Presentation for AnomalyPresentation {
    fn fields(
        &self,
        verdict: &Verdict,
        values: &[f32],
        truth: Option<u16>,
        fields: &mut Fields<'_, '_>,
    ) -> Result<(), serde_json::Error> {
        self.class.fields(verdict, values, truth, fields)?;
        fields.add("threshold", &self.threshold)
    }

    fn most_bytes(&self) -> usize {
        self.class.most_bytes() + text_bytes("threshold") + 1 + NUMBER_BYTES
    }
}

#[cfg(test)]
mod tests;
