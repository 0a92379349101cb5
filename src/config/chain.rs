//! The models that run before a pipeline's own: `[[pipelines.NAME.models]]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::delegates::{self, Delegate};
use super::steps::{MAX_SAMPLES, blamed, sha256, window_shape};
use crate::features::{self, Feature};
use crate::infer::ChainCut;
use crate::schema::expanded::Table;
use crate::schema::{Checker, Key, Value, table};
use crate::stream::{SampleType, Shape, ShapePath, StreamSpec};

table! {
    /// A model that runs before `model`: it takes windows of the stream after the front ends, or of what the model before it
    /// gives. What it gives is the stream from there on.
    pub struct ChainedModelKeys {
        /// The model file, a .tflite file.
        pub path: PathBuf, example("\"embedding.tflite\"");
        /// The SHA-256 of the model file. A file with another one is refused.
        pub sha256: Option<String>, otherwise("any"), limits("64 hex digits"),
            example("\"0000000000000000000000000000000000000000000000000000000000000000\"");
        /// How its windows are cut.
        pub window: ChainedWindow;
        /// Transforms of each of its windows.
        pub features: Vec<Feature> = Vec::new();
        /// The shape of what its first output gives for a window, without dimensions of 1: `[values]` is one frame,
        /// `[frames, values]` is several.
        pub output: Vec<usize>, example("[96]");
        /// What runs it: "xnnpack" or "cpu".
        pub delegate: String = "xnnpack".to_owned();
    }
}

table! {
    /// How the windows of a model before the last one are cut.
    pub struct ChainedWindow {
        /// The number of frames in a window.
        pub samples: usize, range(1, MAX_SAMPLES), example("76");
        /// The number of frames from the start of one window to the start of the next.
        pub hop: usize, range(1, MAX_SAMPLES), example("8");
    }
}

/// A model that runs before the pipeline's own, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ChainedModel {
    pub path: PathBuf,
    /// The SHA-256 that the file must have, in lower-case hex.
    pub sha256: Option<String>,
    pub features: Vec<Feature>,
    pub cut: ChainCut,
    /// What it gives for a window: `[values]` or `[frames, values]`.
    pub output: Shape,
    pub delegate: Delegate,
}

/// The stages of one model of the chain, and the shapes up to its input.
pub struct ChainedShapes {
    pub features: features::Chain,
    /// Values of a frame that it takes.
    pub frame_values: usize,
    /// The shape after each step up to this model's input.
    pub path: ShapePath,
}

impl ChainedModelKeys {
    /// Checks the table at `key`.
    pub fn checked(mut self, key: &Key, checker: &mut Checker) -> Option<ChainedModel> {
        let at = |name: &str| key.child(name);
        self.window.check_ranges(&at("window"), checker);
        self.features.iter_mut().enumerate().for_each(|(i, kind)| kind.check(&at("features").child(i), checker));
        let output = self.output;
        let values = output.iter().fold(1usize, |values, dim| values.saturating_mul(*dim));
        if !matches!(output.len(), 1 | 2) || !(1..=MAX_SAMPLES).contains(&values) {
            let message = format!(
                "write [values] for one frame a window, or [frames, values] for several; each at least 1, and together \
                 {MAX_SAMPLES} values at most"
            );
            checker.problem(&at("output"), message);
            return None;
        }
        // Other delegates are supervised, compared and replaced; only the pipeline's own model has a supervisor.
        let delegate = delegates::find(&at("delegate"), &self.delegate, &BTreeMap::new(), checker)?;
        let frames = if output.len() == 2 { output[0] } else { 1 };
        Some(ChainedModel {
            path: checker.path(&self.path),
            sha256: self.sha256.as_deref().map(|digest| sha256(&at("sha256"), digest, checker)),
            features: self.features,
            cut: ChainCut { samples: self.window.samples, hop: self.window.hop, frames },
            output: Shape::new(output),
            delegate,
        })
    }
}

impl ChainedModel {
    /// Returns the keys that later features depend on, as TOML.
    pub fn feature_keys(&self) -> String {
        let ChainCut { samples, hop, .. } = self.cut;
        let (features, output) = (self.features.to_toml(), self.output.dims().to_vec().to_toml());
        format!("model = {{ samples = {samples}, hop = {hop}, features = {features}, output = {output} }}, ")
    }

    /// Follows the shape of `stream`, which it gets, to its input. Returns the stream that it gives. `path` is the way up to
    /// here, and then up to what it gives; `key` is the model's table.
    ///
    /// # Errors
    /// The key of the step that does not take the shape before it, and why.
    pub fn follow(
        &self,
        key: &Key,
        stream: &StreamSpec,
        path: &mut ShapePath,
    ) -> Result<(ChainedShapes, StreamSpec), (Key, String)> {
        let samples = key.child("window").child("samples");
        let window = window_shape(stream, self.cut.samples).map_err(|message| (samples, message))?;
        let name = format!("models.{}", key.last());
        path.then(format!("{name}.window"), window.clone());
        let built = features::Chain::new(&self.features, &window, stream, |feature, shape| {
            path.then(format!("{name}.features.{}", self.features[feature].name()), shape.clone());
        });
        let features = built.map_err(|(feature, mismatch)| {
            let step = key.child("features").child(feature).child(self.features[feature].name());
            blamed(step, &mismatch, path)
        })?;
        let shapes = ChainedShapes { features, frame_values: stream.frame.values(), path: path.clone() };
        path.then(name, self.output.clone());
        let rate_hz = stream.rate_hz.map(|rate| rate / self.cut.hop as f64 * self.cut.frames as f64);
        Ok((shapes, StreamSpec::new(Shape::new([self.output.channels()]), SampleType::F32, rate_hz)))
    }
}
