//! Which stream, front ends and window fit which shape of a model's input: a table of known shapes.
//!
//! Shapes are compared without the batch and without dimensions of 1. The first row that fits counts, so rows of known
//! models stand before rows for anything of a form.

use super::outputs::Wish;
use super::{Confidence, Facts, Part, Stream, is_integer, number, range};
use crate::model::TensorSummary;
use crate::text::counted;

/// What a dimension of a row must be.
enum Dim {
    Is(usize),
    /// From the first to the second number.
    In(usize, usize),
    /// As the dimension before.
    Same,
    Any,
}

/// What else a model of a row must be.
#[derive(PartialEq)]
enum Only {
    All,
    /// It keeps a state from one window to the next.
    State,
    /// It gives as many values as it gets.
    AsOutput,
}

/// What a model of a row takes.
enum Takes {
    /// Sound at this rate.
    Sound(f64),
    /// A channel for each of the last dimension.
    Columns,
    /// A channel for each of the first dimension.
    Rows,
    /// One sample with a channel for each value.
    Values,
    /// Samples of a few channels, one after the other in one dimension.
    Flat,
    Pictures,
}

/// How windows are cut.
enum Cut {
    /// So many frames, and so many from one window to the next.
    Frames(usize, usize),
    /// As many frames as the first dimension says, each once.
    Once,
    /// As many as the dimension of the samples says, half of them new each time.
    Half,
}

/// One row: models whose input has this shape.
struct Row {
    dims: &'static [Dim],
    only: Only,
    takes: Takes,
    cut: Cut,
    /// As TOML.
    frontend: &'static [&'static str],
    /// The model takes samples of -1 to 1.
    waveform: bool,
    decision: Option<Wish>,
    confidence: Confidence,
    /// What models of this shape are.
    why: &'static str,
}

/// A row for a waveform of so many samples.
const fn waveform(dims: &'static [Dim], rate_hz: f64, decision: Option<Wish>, why: &'static str) -> Row {
    let (takes, confidence) = (Takes::Sound(rate_hz), Confidence::Guessed);
    Row { dims, only: Only::All, takes, cut: Cut::Half, frontend: &[], waveform: true, decision, confidence, why }
}

/// A row for windows of spectra, of so many and so many new ones each time.
const fn spectra(
    dims: &'static [Dim],
    cut: (usize, usize),
    frontend: &'static [&'static str],
    why: &'static str,
) -> Row {
    let (takes, cut, confidence) = (Takes::Sound(16000.0), Cut::Frames(cut.0, cut.1), Confidence::Guessed);
    Row { dims, only: Only::All, takes, cut, frontend, waveform: false, decision: None, confidence, why }
}

/// A row for numbers of sensors.
const fn numbers(dims: &'static [Dim], takes: Takes, cut: Cut, confidence: Confidence, why: &'static str) -> Row {
    Row { dims, only: Only::All, takes, cut, frontend: &[], waveform: false, decision: None, confidence, why }
}

const MICRO_20_MS: &[&str] = &["{ micro_frontend = { hop_ms = 20 } }"];
/// The spectra of MLPerf Tiny's keyword spotting, which docs/frontends.md derives.
const KWS_MFCC: &[&str] = &[
    "{ stft = { convention = \"tensorflow\", frame_length = 480, hop_length = 320 } }",
    "{ log_mel = { n_mels = 40, fmin = 20.0, fmax = 4000.0 } }",
    "{ mfcc = { n_mfcc = 10 } }",
];
/// Those of MLPerf Tiny's anomaly detection.
const AD_MEL: &[&str] = &[
    "{ stft = { convention = \"librosa\", frame_length = 1024, hop_length = 512 } }",
    "{ log_mel = { offset = 2.220446e-16 } }",
];
const TUTORIAL_STFT: &[&str] = &["{ stft = { convention = \"tensorflow\", frame_length = 255, hop_length = 128 } }"];

/// The time from frame to frame that micro_frontend has if nothing else is written.
const USUAL_STEP_MS: u64 = 10;
/// The fewest pixels of a side of a picture.
const SIDE: usize = 24;
/// The most channels of a motion sensor.
const FEW: usize = 16;
const MOST: usize = 1 << 22;

const ROWS: &[Row] = &[
    Row {
        dims: &[Dim::In(2, 30), Dim::Is(40)],
        only: Only::State,
        takes: Takes::Sound(16000.0),
        cut: Cut::Once,
        frontend: &["\"micro_frontend\""],
        waveform: false,
        decision: Some(Wish::WakeWord),
        confidence: Confidence::Known,
        why: "frames of 40 values, each once, and a state between them: the form of micro-wake-word",
    },
    Row {
        dims: &[Dim::Is(40)],
        only: Only::State,
        takes: Takes::Sound(16000.0),
        cut: Cut::Frames(1, 1),
        frontend: &["\"micro_frontend\""],
        waveform: false,
        decision: Some(Wish::WakeWord),
        confidence: Confidence::Known,
        why: "one frame of 40 values at a time, and a state between them: the form of micro-wake-word",
    },
    spectra(&[Dim::Is(49), Dim::Is(40)], (49, 12), MICRO_20_MS, "49 frames of 40 values: the form of micro_speech"),
    spectra(&[Dim::Is(1960)], (49, 12), MICRO_20_MS, "1960 values are 49 frames of 40: the form of micro_speech"),
    spectra(&[Dim::Is(49), Dim::Is(10)], (49, 12), KWS_MFCC, {
        "49 frames of 10 values: MFCC as MLPerf Tiny's keyword spotting computes them"
    }),
    spectra(&[Dim::Is(124), Dim::Is(129)], (124, 31), TUTORIAL_STFT, {
        "124 spectra of 129 values: TensorFlow's tutorial on simple audio recognition"
    }),
    Row {
        dims: &[Dim::Is(640)],
        only: Only::AsOutput,
        takes: Takes::Sound(16000.0),
        cut: Cut::Frames(5, 1),
        frontend: AD_MEL,
        waveform: false,
        decision: None,
        confidence: Confidence::Guessed,
        why: "640 values in and out are 5 spectra of 128 mel bands: MLPerf Tiny's anomaly detection",
    },
    waveform(&[Dim::Is(15600)], 16000.0, Some(Wish::MultiLabel), "15600 samples: 0.975 s at 16 kHz, as YAMNet takes"),
    waveform(&[Dim::Is(16000)], 16000.0, None, "16000 samples: a second of sound at 16 kHz"),
    waveform(&[Dim::Is(44032)], 44100.0, None, "44032 samples: a second at 44.1 kHz, as Teachable Machine takes"),
    waveform(&[Dim::Is(44100)], 44100.0, None, "44100 samples: a second of sound at 44.1 kHz"),
    waveform(
        &[Dim::Is(48000)],
        48000.0,
        None,
        "48000 samples: a second at 48 kHz (3 s at 16 kHz is another way to read it)",
    ),
    waveform(&[Dim::Is(144_000)], 48000.0, Some(Wish::MultiLabelLogits), {
        "144000 samples: 3 s of sound at 48 kHz, as BirdNET takes"
    }),
    Row {
        dims: &[Dim::In(SIDE, MOST), Dim::In(SIDE, MOST), Dim::Is(3)],
        only: Only::All,
        takes: Takes::Pictures,
        cut: Cut::Frames(1, 1),
        frontend: &[],
        waveform: false,
        decision: None,
        confidence: Confidence::Known,
        why: "height, width and 3 colours: one picture at a time",
    },
    Row {
        dims: &[Dim::In(SIDE, MOST), Dim::Same],
        only: Only::All,
        takes: Takes::Pictures,
        cut: Cut::Frames(1, 1),
        frontend: &[],
        waveform: false,
        decision: None,
        confidence: Confidence::Guessed,
        why: "as many rows as columns: one grey picture at a time",
    },
    numbers(&[Dim::In(FEW, MOST), Dim::In(2, FEW)], Takes::Columns, Cut::Half, Confidence::Guessed, {
        "many samples of few values: a window of a sensor such as an accelerometer"
    }),
    numbers(&[Dim::In(2, FEW), Dim::In(FEW + 1, MOST)], Takes::Rows, Cut::Half, Confidence::Guessed, {
        "few rows of many values: a window of a sensor, with the channels first"
    }),
    numbers(&[Dim::Any, Dim::Any], Takes::Columns, Cut::Half, Confidence::Unknown, {
        "two dimensions that no known kind of model has: read as samples of channels"
    }),
    numbers(&[Dim::In(2, 100)], Takes::Values, Cut::Frames(1, 1), Confidence::Unknown, {
        "few values in one row: read as one sample with a channel for each value. If they are features, such as those of Edge \
         Impulse, the blocks that make them are missing: edgewatt init --edge-impulse FILE"
    }),
    numbers(&[Dim::Any], Takes::Flat, Cut::Half, Confidence::Unknown, {
        "one row of values: read as samples of a sensor, one after the other; --channels says which channels they have"
    }),
    numbers(&[], Takes::Values, Cut::Frames(1, 1), Confidence::Known, "one value at a time"),
];

/// What a row, or an Edge Impulse project, makes of an input.
pub(super) struct Fitting {
    pub stream: Stream,
    pub samples: usize,
    pub hop: usize,
    pub frontend: Vec<String>,
    pub features: Vec<String>,
    pub decision: Option<Wish>,
    pub parts: Vec<Part>,
}

/// Finds the row for an input, and what it makes of it.
///
/// # Errors
/// The shape is of no row, or is open.
pub(super) fn fit(input: &TensorSummary, facts: &Facts<'_>) -> Result<Fitting, String> {
    let dims = dims(input, facts.window)?;
    let row = ROWS.iter().find(|row| row.fits(&dims, facts)).ok_or_else(|| {
        format!(
            "the model's input {} is {:?}, a shape that no source of edgewatt gives; docs/your-model.md says which shapes \
             can be fed",
            input.name, input.shape_signature
        )
    })?;
    let (stream, samples) = row.stream(&dims, facts)?;
    let (samples, hop) = match row.cut {
        Cut::Frames(samples, hop) => (samples, hop),
        Cut::Once => (dims.first().copied().unwrap_or(1), dims.first().copied().unwrap_or(1)),
        Cut::Half if facts.summary.stateful => (samples, samples),
        Cut::Half => (samples, (samples / 2).max(1)),
    };
    let mut parts = vec![Part::new("input", stream.in_words(), row.confidence, row.why)];
    let new = if hop < samples { format!("; each has {}", counted(hop, "new sample")) } else { String::new() };
    let takes = if row.frontend.is_empty() { row.why } else { "as many frames as the model takes at once" };
    let value = format!("{}, hop {hop}", counted(samples, "sample"));
    parts.push(Part::new("window", value, row.confidence, format!("{takes}{new}")));
    if !row.frontend.is_empty() {
        parts.push(Part::new("frontend", row.frontend.join(", "), row.confidence, row.why));
        parts.push(Part::new("features", "none", row.confidence, "the front end gives what the model takes"));
    }
    let features = row.features(input, &stream, &mut parts);
    let mut frontend: Vec<String> = row.frontend.iter().map(|&stage| stage.to_owned()).collect();
    let step = facts.wake_word.and_then(|json| json.step_ms).filter(|step| *step != USUAL_STEP_MS);
    if let (Some(Wish::WakeWord), Some(step)) = (row.decision, step) {
        frontend = vec![format!("{{ micro_frontend = {{ hop_ms = {step} }} }}")];
    }
    Ok(Fitting { stream, samples, hop, frontend, features, decision: row.decision, parts })
}

/// Returns the dimensions without the batch and those of 1.
fn dims(input: &TensorSummary, window: Option<usize>) -> Result<Vec<usize>, String> {
    let shape = &input.shape_signature;
    // Without a batch dimension there is only one: a waveform.
    let rest = if shape.len() > 1 || shape.first().is_some_and(|first| *first < 1) { &shape[1..] } else { shape };
    let dim = |dim: &i32| match (usize::try_from(*dim), window) {
        (Ok(dim), _) => Ok(dim),
        (Err(_), Some(window)) => Ok(window),
        (Err(_), None) => Err(format!(
            "the model leaves a dimension of its input {} open ({shape:?}), so the length of its window cannot be known; say it \
             with --window SAMPLES",
            input.name
        )),
    };
    let all = rest.iter().map(dim).collect::<Result<Vec<usize>, _>>()?;
    Ok(all.into_iter().filter(|dim| *dim != 1).collect())
}

impl Row {
    fn fits(&self, dims: &[usize], facts: &Facts<'_>) -> bool {
        let fits = |index: usize| {
            let dim = dims[index];
            match self.dims[index] {
                Dim::Is(wanted) => dim == wanted,
                Dim::In(low, high) => (low..=high).contains(&dim),
                Dim::Same => index > 0 && dims[index - 1] == dim,
                Dim::Any => true,
            }
        };
        let shape = self.dims.len() == dims.len() && (0..dims.len()).all(fits);
        let values = |tensor: &TensorSummary| tensor.shape_signature.iter().skip(1).copied().collect::<Vec<_>>();
        shape
            && match self.only {
                Only::All => true,
                Only::State => facts.summary.stateful,
                Only::AsOutput => {
                    let main = &facts.summary.main;
                    let outputs = main.outputs.first().map(|output| values(&output.tensor));
                    main.inputs.first().map(values) == outputs
                }
            }
    }

    /// Returns what the source gives, and how many frames of it a window has where the shape says it.
    fn stream(&self, dims: &[usize], facts: &Facts<'_>) -> Result<(Stream, usize), String> {
        let product = dims.iter().product::<usize>();
        let numbers = |channels: usize| {
            let channels = names(channels, facts.channels)?;
            Ok::<_, String>(Stream::Numbers { channels, rate_hz: facts.rate_hz })
        };
        Ok(match (&self.takes, dims) {
            (Takes::Sound(rate_hz), _) => (Stream::Sound { rate_hz: facts.rate_hz.unwrap_or(*rate_hz) }, product),
            (Takes::Pictures, [height, width, channels @ ..]) => {
                let channels = channels.first().copied().unwrap_or(1);
                (Stream::Pictures { width: *width, height: *height, channels }, 1)
            }
            (Takes::Columns, [samples, channels]) => (numbers(*channels)?, *samples),
            (Takes::Rows, [channels, samples]) => (numbers(*channels)?, *samples),
            (Takes::Flat, _) => {
                let channels =
                    facts.channels.map_or_else(|| if product.is_multiple_of(3) { 3 } else { 1 }, <[String]>::len);
                if channels == 0 || !product.is_multiple_of(channels) {
                    let values = counted(product, "value");
                    return Err(format!("the model takes {values}, which {channels} channels do not divide"));
                }
                (numbers(channels)?, product / channels)
            }
            _ => (numbers(product)?, 1),
        })
    }

    /// Returns the features, and says of them what the row does not say.
    fn features(&self, input: &TensorSummary, stream: &Stream, parts: &mut Vec<Part>) -> Vec<String> {
        let scale = |factor: f64| vec![format!("{{ scale = {{ factor = [{}] }} }}", number(factor))];
        match stream {
            Stream::Sound { .. } if self.waveform => {
                if range(input).is_some_and(|(_, high)| high > 2.0) {
                    let why = "the model's input takes samples that are not scaled";
                    parts.push(Part::new("features", "none", Confidence::Known, why));
                    return Vec::new();
                }
                let why = "models of waveforms take -1 to 1; the source gives -32768 to 32767";
                parts.push(Part::new("features", "scale by 1/32768", Confidence::Guessed, why));
                scale(1.0 / 32768.0)
            }
            Stream::Pictures { .. } if !is_integer(input) => {
                let why = "the model takes numbers and not bytes, and does not say of which range: 0 to 1 is written. For -1 \
                           to 1: factor = [0.00784313725490196], offset = [-1.0]";
                parts.push(Part::new("features", "scale by 1/255", Confidence::Unknown, why));
                scale(1.0 / 255.0)
            }
            _ => Vec::new(),
        }
    }
}

/// Returns the names of the channels: those that the user gave, or numbers.
pub(super) fn names(count: usize, given: Option<&[String]>) -> Result<Vec<String>, String> {
    match given {
        Some(given) if given.len() == count => Ok(given.to_vec()),
        Some(given) => Err(format!(
            "the model takes {}, and --channels names {}: {}",
            counted(count, "channel"),
            given.len(),
            given.join(", ")
        )),
        None => Ok((1..=count).map(|number| format!("ch{number}")).collect()),
    }
}
