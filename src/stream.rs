//! Describes streams: sequences of frames of one fixed shape and sample type.
//!
//! A leaf: sources, front ends, windows and features all use these types.

use std::fmt;

use crate::dsp::Convention;

/// The dimensions of a frame, a window or a model's input, outermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape(Vec<usize>);

impl Shape {
    pub fn new(dims: impl Into<Vec<usize>>) -> Self {
        Self(dims.into())
    }

    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Returns the number of values; saturates at the largest number.
    pub fn values(&self) -> usize {
        self.0.iter().fold(1, |product, dim| product.saturating_mul(*dim))
    }

    /// Returns the shape of `count` of these, one after the other.
    pub fn repeated(&self, count: usize) -> Self {
        Self([&[count], &self.0[..]].concat())
    }

    /// Returns the innermost dimension: the channels of a frame or of a window of frames.
    pub fn channels(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// How one value of a frame is stored between a source and the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleType {
    F32,
    /// Audio.
    I16,
    /// Images.
    U8,
}

impl SampleType {
    /// Returns the bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::I16 => 2,
            Self::U8 => 1,
        }
    }
}

impl fmt::Display for SampleType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::I16 => "i16",
            Self::U8 => "u8",
        })
    }
}

/// The stream that a source or a front end will deliver, known before it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamSpec {
    /// The shape of a frame: `[channels]`, or `[height, width, channels]`.
    pub frame: Shape,
    pub sample: SampleType,
    /// Frames per second; `None` if the source does not know.
    pub rate_hz: Option<f64>,
    /// The names of the channels; empty if they have none.
    pub names: Vec<String>,
    /// The units of the channels; empty if they are not known.
    pub units: Vec<String>,
    pub content: Content,
}

impl StreamSpec {
    /// Describes a stream whose channels have neither names nor units.
    pub fn new(frame: Shape, sample: SampleType, rate_hz: Option<f64>) -> Self {
        Self { frame, sample, rate_hz, names: Vec::new(), units: Vec::new(), content: Content::Samples }
    }
}

/// Returns the channels that a name stands for, by their numbers: the one of that name, or all of the source of a join.
pub fn channels_named(channels: &[String], name: &str) -> Vec<usize> {
    let prefix = format!("{name}.");
    let all = channels.iter().enumerate();
    let one = all.clone().find(|(_, channel)| *channel == name).map(|(index, _)| vec![index]);
    let of_source = || all.filter(|(_, channel)| channel.starts_with(&prefix)).map(|(index, _)| index).collect();
    one.unwrap_or_else(of_source)
}

/// What the values of a frame are, as far as later steps need to know.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Content {
    /// What a sensor gives. Samples of type i16 have a full scale of 32768.
    #[default]
    Samples,
    /// Sound whose full scale is 32768 though its samples are f32: those of a WAV file, or what a front end made of i16.
    Pcm16,
    /// The bins of a Fourier transform of `fft_length` samples; `rate_hz` is that of the samples, if it is known.
    Spectrum { convention: Convention, fft_length: usize, rate_hz: Option<f64> },
    /// Mel bands. `log`: their logarithms.
    Mel { convention: Convention, log: bool },
}

/// Two steps that do not fit; the message names both.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Mismatch {
    /// The key, below the step's own, that must be changed; `None`: the step itself.
    pub key: Option<&'static str>,
    pub message: String,
}

impl Mismatch {
    pub fn new(message: impl Into<String>) -> Self {
        Self { key: None, message: message.into() }
    }

    pub fn at(key: &'static str, message: impl Into<String>) -> Self {
        Self { key: Some(key), message: message.into() }
    }
}

/// The shape of a stream after each step from the source to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct ShapePath {
    steps: Vec<(String, Shape)>,
}

impl ShapePath {
    /// Starts with the shape of a source's frames.
    pub fn new(source: &str, frame: Shape) -> Self {
        Self { steps: vec![(source.to_owned(), frame)] }
    }

    /// Adds the shape after the step `name`.
    pub fn then(&mut self, name: impl Into<String>, shape: Shape) {
        self.steps.push((name.into(), shape));
    }

    /// Returns the shape after the step `name`, if there is one.
    pub fn after(&self, name: &str) -> Option<&Shape> {
        self.steps.iter().find(|(step, _)| step == name).map(|(_, shape)| shape)
    }

    /// Returns the shape after the last step.
    pub fn last(&self) -> &Shape {
        // The source's shape is always there.
        &self.steps[self.steps.len() - 1].1
    }
}

impl fmt::Display for ShapePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, shape)) in self.steps.iter().enumerate() {
            let arrow = if index == 0 { "" } else { " -> " };
            write!(f, "{arrow}{name} {shape}")?;
        }
        Ok(())
    }
}
