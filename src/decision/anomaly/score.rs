//! How far a window is from normal: the error of an autoencoder, or the distance to clusters.

use super::{KMeans, On};
use crate::decision::{ModelOutputs, Outputs};
use crate::engine::{Coding, EngineError, TensorInfo};

/// Computes the score of one window after the other; higher is less normal.
pub(super) enum Score {
    Reconstruction(Reconstruction),
    KMeans(Clusters),
}

impl Score {
    /// # Errors
    /// The model does not have such an output, or not of that size.
    pub(super) fn new(output: usize, kmeans: Option<&KMeans>, model: &ModelOutputs<'_>) -> Result<Self, EngineError> {
        match kmeans {
            None => Reconstruction::new(output, model).map(Self::Reconstruction),
            Some(kmeans) => Clusters::new(output, kmeans, model).map(Self::KMeans),
        }
    }

    pub(super) fn features_wanted(&self) -> usize {
        match self {
            Self::Reconstruction(reconstruction) => reconstruction.input.len(),
            Self::KMeans(clusters) if clusters.output.is_none() => clusters.values.len(),
            Self::KMeans(_) => 0,
        }
    }

    /// Returns the score, which is no number if the model's values are none.
    pub(super) fn of(&mut self, outputs: &mut dyn Outputs) -> Result<f32, EngineError> {
        match self {
            Self::Reconstruction(reconstruction) => reconstruction.score(outputs),
            Self::KMeans(clusters) => clusters.score(outputs),
        }
    }
}

/// The mean squared error between the model's input and its output, both as the model's own types hold them: what
/// quantising the input loses is not the model's error.
pub(super) struct Reconstruction {
    output: usize,
    coding: Coding,
    /// The input as it is stored, in words, so that it is aligned for every type.
    stored: Vec<u32>,
    stored_bytes: usize,
    input: Vec<f32>,
    values: Vec<f32>,
}

impl Reconstruction {
    fn new(index: usize, model: &ModelOutputs<'_>) -> Result<Self, EngineError> {
        let output = model.output(index)?;
        let [input] = model.inputs else {
            let names: Vec<&str> = model.inputs.iter().map(|input| input.name.as_str()).collect();
            return Err(EngineError::Mismatch(format!(
                "a reconstruction has one input; the model gets its features in {}; for clusters of features, write kmeans",
                names.join(", ")
            )));
        };
        if input.len() != output.len() {
            return Err(EngineError::Mismatch(format!(
                "the model's output `{}` has {} values, and its input `{}` has {}; an autoencoder gives as many as it \
                 gets. Choose another output, or write kmeans",
                output.name,
                output.len(),
                input.name,
                input.len()
            )));
        }
        let stored_bytes = input.stored_bytes();
        Ok(Self {
            output: index,
            coding: input.coding(),
            stored: vec![0; stored_bytes.div_ceil(4)],
            stored_bytes,
            input: vec![0.0; input.len()],
            values: vec![0.0; output.len()],
        })
    }

    fn score(&mut self, outputs: &mut dyn Outputs) -> Result<f32, EngineError> {
        outputs.read(self.output, &mut self.values)?;
        let stored = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut self.stored)[..self.stored_bytes];
        self.coding.write(outputs.features(), (0, 1), stored)?;
        self.coding.read(stored, (0, 1), &mut self.input)?;
        let squares = self.input.iter().zip(&self.values).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
        Ok((squares.sum::<f64>() / self.input.len().max(1) as f64) as f32)
    }
}

/// The distance to the nearest cluster, less the cluster's radius: run_kmeans_anomaly of Edge Impulse's C++ SDK
/// (classifier/inferencing_engines/anomaly.h), without its limit of 1000.
pub(super) struct Clusters {
    /// The output that is clustered; `None`: the features.
    output: Option<usize>,
    kmeans: KMeans,
    axes: Vec<usize>,
    /// All values of the output or the features, and the chosen ones, scaled.
    values: Vec<f32>,
    point: Vec<f32>,
}

impl Clusters {
    fn new(index: usize, kmeans: &KMeans, model: &ModelOutputs<'_>) -> Result<Self, EngineError> {
        let output: Option<&TensorInfo> = match kmeans.on {
            On::Features => None,
            On::Output => Some(model.output(index)?),
        };
        let count = output.map_or(model.features, TensorInfo::len);
        let of = output.map_or_else(|| "a window has".to_owned(), |output| format!("the output `{}` has", output.name));
        let what = if output.is_some() { "values" } else { "features" };
        let axes = kmeans.axes.clone().unwrap_or_else(|| (0..count).collect());
        if let Some(axis) = axes.iter().find(|axis| **axis >= count) {
            return Err(EngineError::Mismatch(format!(
                "kmeans.axes has {axis}, but {of} {count} {what}, 0 to {}",
                count.saturating_sub(1)
            )));
        }
        if axes.len() != kmeans.mean.len() {
            return Err(EngineError::Mismatch(format!(
                "kmeans.mean has {} values, and {of} {count} {what}; choose those that are clustered with kmeans.axes",
                kmeans.mean.len()
            )));
        }
        let output = output.map(|_| index);
        Ok(Self { output, values: vec![0.0; count], point: vec![0.0; axes.len()], axes, kmeans: kmeans.clone() })
    }

    fn score(&mut self, outputs: &mut dyn Outputs) -> Result<f32, EngineError> {
        let values: &[f32] = match self.output {
            Some(index) => {
                outputs.read(index, &mut self.values)?;
                &self.values
            }
            None => outputs.features(),
        };
        let KMeans { mean, scale, clusters, .. } = &self.kmeans;
        for (place, axis) in self.axes.iter().enumerate() {
            let value = values.get(*axis).copied().unwrap_or(f32::NAN);
            self.point[place] = (value - mean[place]) / scale[place];
        }
        let mut least = f32::INFINITY;
        for cluster in clusters {
            let distance = distance(&self.point, &cluster.centroid, cluster.max_error);
            // The least of numbers of which one is none is none.
            least = if distance.is_nan() || distance < least { distance } else { least };
        }
        Ok(least)
    }
}

/// Squares and root in f64, sums in f32, as the C++ has it.
fn distance(point: &[f32], centroid: &[f32], max_error: f32) -> f32 {
    let sum = point
        .iter()
        .zip(centroid)
        .fold(0f32, |sum, (x, centre)| (f64::from(sum) + f64::from(x - centre).powi(2)) as f32);
    (f64::from(sum).sqrt() - f64::from(max_error)) as f32
}
