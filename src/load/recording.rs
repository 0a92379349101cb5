//! Reads a recording as its pipeline will, up to full windows, and says what is wrong with it.
//!
//! `check` and the start of the daemon look at the first records; the comparison of delegates takes its windows from here.

use std::path::Path;
use std::sync::Arc;

use tracing::subscriber::{NoSubscriber, with_default};

use super::chain;
use crate::config::Pipeline;
use crate::infer::chained::ModelStage;
use crate::infer::input::{InputStage, Window};
use crate::source::recording::{Found, RecordingFile};
use crate::source::records::{EqualTimes, Records};
use crate::source::sink::frame_ring;
use crate::source::{FrameHeader, FrameSink, Gap, Reject, SinkSettings, TruthLabels, WhenFull};
use crate::stop::Stop;
use crate::stream::StreamSpec;
use crate::text::{counted, figure};
use crate::units::MonoTime;

/// So many records are looked at before the start, or as many as some windows need.
const FIRST_RECORDS: usize = 1_000;
const MOST_RECORDS: usize = 200_000;
/// Windows that the records looked at should fill.
const WINDOWS: usize = 2;
/// Steps of which the median is taken.
const PACE_STEPS: usize = 1_000;

/// What was found in a recording.
#[derive(Debug, Default)]
pub struct Survey {
    /// Records that became samples.
    pub samples: usize,
    pub rejected: usize,
    /// Rejected because of their values, not of their form.
    rejected_values: usize,
    /// Why the first one was rejected, and where it is.
    first_reject: Option<String>,
    pub windows: usize,
    /// Windows that a closed gate has skipped.
    pub gated: usize,
    /// Samples of a window, as the source gives them.
    samples_of_window: usize,
    /// The gaps, each with its count.
    gaps: Vec<(Gap, usize)>,
    /// The recording was read to its end.
    pub is_whole: bool,
    bytes: u64,
    /// Steps in time, and those in which it stood still or went back.
    steps: usize,
    still: usize,
    back: usize,
    contradiction: Option<String>,
    rate_hz: Option<f64>,
    skipped: Option<String>,
    has_header: bool,
    spreads: bool,
    /// The file has lines of text.
    is_text: bool,
    /// What the file says of itself.
    says: String,
    /// What the file lacks.
    warnings: Vec<String>,
}

/// Looks at the first records of the recording that a pipeline plays, if it plays one.
///
/// # Errors
/// No window can be filled.
pub fn survey(pipeline: &Pipeline) -> Option<Result<Survey, String>> {
    let path = pipeline.source.kind().recording()?;
    let most = pipeline.frames_of_window().saturating_mul(WINDOWS).clamp(FIRST_RECORDS, MOST_RECORDS);
    Some(play(path, pipeline, &[], PlayedStages::Windows, most, |_| Ok(())).and_then(|survey| match survey.problem() {
        Some(problem) => Err(format!("{}: {problem}", path.display())),
        None => Ok(survey),
    }))
}

/// A full window of a recording.
pub struct PlayedWindow<'a> {
    pub values: &'a [f32],
    /// Its last sample.
    pub last: FrameHeader,
    /// There was a gap between it and the window before.
    pub after_gap: bool,
}

/// The stages that a recording passes through, besides front ends and windows.
pub enum PlayedStages {
    /// No others: the models of a chain do not run, and what they would give is 0.
    Windows,
    /// The models of the chain.
    Models(Vec<ModelStage>),
    /// These and the gate, as in the daemon, but that no skipped window comes later.
    ModelsAndGate(Vec<ModelStage>),
}

/// Passes at most that many records or frames of the recording at `path` through the pipeline's stages, and each full window
/// to `take`. A true class that the recording names is its index among `labels`.
///
/// # Errors
/// The recording cannot be read, a model of the chain fails, or the error of `take`.
pub fn play(
    path: &Path,
    pipeline: &Pipeline,
    labels: &[String],
    stages: PlayedStages,
    most_records: usize,
    mut take: impl FnMut(PlayedWindow<'_>) -> Result<(), String>,
) -> Result<Survey, String> {
    let failed = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let stream = pipeline.source.kind().recorded(path).map_err(|error| error.to_string())?;
    let mut file =
        RecordingFile::open(&stream, TruthLabels::from(labels.to_vec())).map_err(|error| error.to_string())?;
    file = file.with_pace(PACE_STEPS);
    let shapes = pipeline.shapes().map_err(|(key, message)| format!("{key}: {message}"))?;
    let (models, gate) = match stages {
        PlayedStages::Windows => (chain::without_engines(pipeline, shapes.models), None),
        PlayedStages::Models(models) => (models, None),
        PlayedStages::ModelsAndGate(models) => (models, shapes.gate),
    };
    let spec = StreamSpec { sample: stream.spec.sample, rate_hz: stream.spec.rate_hz, ..shapes.source };
    // A ring takes blocks of half of it.
    let frames = 2 * stream.most_frames_together().max(1);
    let settings = SinkSettings { spec, frames, frames_per_block: 1, when_full: WhenFull::Drop };
    let (mut sink, mut ring) =
        frame_ring(&settings, &pipeline.name, Arc::new(Stop::new().map_err(failed)?), Arc::default());
    let mut input = InputStage::new(shapes.frontends, models, &shapes.stream, &pipeline.window, false);
    if let Some(gate) = gate {
        input = input.with_gate(gate.stage, 0);
    }
    let records = stream.records();
    let mut survey = Survey {
        samples_of_window: pipeline.frames_of_first_window(),
        bytes: std::fs::metadata(&stream.data).map_err(failed)?.len(),
        has_header: records.is_some_and(Records::has_header),
        spreads: records.is_some_and(|records| records.equal_times != EqualTimes::Gap),
        is_text: records.is_some(),
        says: stream.says.clone(),
        warnings: stream.warnings.clone(),
        ..Survey::default()
    };
    let mut after_gap = false;
    while survey.samples + survey.rejected < most_records {
        match file.find().map_err(|error| error.to_string())? {
            Found::End => {
                survey.is_whole = true;
                break;
            }
            Found::More => file.fill().map_err(|error| error.to_string())?,
            Found::Rejected(reason) => survey.reject(reason, || file.explain(reason)),
            Found::Frames { count, .. } => {
                survey.give(count, &mut file, &mut sink);
                while let Some(event) = input.step(&mut ring).map_err(|error| error.to_string())? {
                    input.runs().for_each(drop);
                    if let Some(gap) = event.gap {
                        survey.count_gap(gap);
                        after_gap = true;
                    }
                    if event.full && !input.is_open() {
                        (survey.windows, survey.gated) = (survey.windows + 1, survey.gated + 1);
                        // The next window that passes does not follow the last one.
                        after_gap = true;
                        input.skip();
                    } else if event.full
                        && let Some((Window::F32(values), last)) = input.window().zip(input.last())
                    {
                        survey.windows += 1;
                        take(PlayedWindow { values, last, after_gap: std::mem::take(&mut after_gap) })?;
                        input.advance();
                    }
                }
            }
        }
    }
    if let Some((parser, lines)) = file.lines() {
        let pace = parser.pace();
        (survey.still, survey.back) = pace.still_and_back();
        (survey.steps, survey.rate_hz) = (pace.steps(), pace.rate_hz());
        (survey.contradiction, survey.skipped) = (parser.contradiction(), lines.skipped());
    }
    Ok(survey)
}

impl Survey {
    fn reject(&mut self, reason: Reject, explain: impl FnOnce() -> String) {
        self.rejected += 1;
        self.rejected_values += usize::from(matches!(reason, Reject::OutOfRange | Reject::NotFinite));
        self.first_reject.get_or_insert_with(explain);
    }

    /// Gives frames to the ring, which has room for them. Samples that are not numbers are rejected on the way.
    fn give(&mut self, count: usize, file: &mut RecordingFile, sink: &mut FrameSink) {
        let before = sink.accepted();
        // The log has it when the recording is played. No stop is requested.
        let _ = with_default(NoSubscriber::new(), || file.give(MonoTime(0), sink));
        let accepted = usize::try_from(sink.accepted() - before).unwrap_or(count).min(count);
        self.samples += accepted;
        for _ in accepted..count {
            let said = || sink.stats().remarks().reject.unwrap_or_default();
            self.reject(Reject::NotFinite, said);
        }
    }

    fn count_gap(&mut self, gap: Gap) {
        match self.gaps.iter_mut().find(|(known, _)| *known == gap) {
            Some((_, count)) => *count += 1,
            None => self.gaps.push((gap, 1)),
        }
    }

    fn read(&self) -> usize {
        self.samples + self.rejected
    }

    /// Returns what the file has one of for each sample.
    fn unit(&self) -> &'static str {
        if self.is_text { "record" } else { "frame" }
    }

    /// Returns why the recording can never fill a window; `None` if it does, or if that is not known from its beginning.
    fn problem(&self) -> Option<String> {
        let is_certain = self.is_whole || (self.samples == 0 && self.rejected_values == 0);
        self.without_window().filter(|_| is_certain)
    }

    /// Returns why no window was filled, if none was.
    pub fn without_window(&self) -> Option<String> {
        if self.windows > 0 {
            return None;
        }
        let first_reject = self.first_reject.as_deref().unwrap_or_default();
        Some(if self.read() == 0 {
            match (self.bytes, self.has_header) {
                (0, _) => "the file is empty".to_owned(),
                (_, true) => {
                    let skipped = self.skipped.as_ref().map_or(String::new(), |skipped| format!("; {skipped}"));
                    format!("there is a header and no record below it{skipped}")
                }
                _ => format!("there is no {} in it", self.unit()),
            }
        } else if self.samples == 0 {
            let unit = self.unit();
            let records = match (self.rejected, self.is_whole) {
                (1, true) => format!("the only {unit} is"),
                (rejected, true) => format!("all {rejected} {unit}s are"),
                (rejected, false) => format!("the first {rejected} {unit}s are"),
            };
            format!("{records} rejected; {first_reject}")
        } else if self.samples < self.samples_of_window && self.gaps.is_empty() {
            let rejected = match self.rejected {
                0 => String::new(),
                rejected => format!("; {} rejected: {first_reject}", counted(rejected, self.unit())),
            };
            format!(
                "it has {}, and a window needs {}; no window is ever filled{rejected}",
                counted(self.samples, "sample"),
                self.samples_of_window
            )
        } else {
            let rejects = (self.rejected > 0).then(|| {
                format!("{} of {} {}s are rejected, the first: {first_reject}", self.rejected, self.read(), self.unit())
            });
            let back = self.back_in_words();
            let parts = [self.still_in_words(), self.gaps_in_words(), back, self.contradiction.clone(), rejects];
            let parts: Vec<String> = parts.into_iter().flatten().collect();
            format!(
                "no window of {} is filled by its first {}: {}",
                counted(self.samples_of_window, "sample"),
                counted(self.samples, "sample"),
                parts.join("; ")
            )
        })
    }

    fn still_in_words(&self) -> Option<String> {
        (self.still > 0 && !self.spreads).then(|| {
            format!(
                "time stands still in {} of {} steps, and each is a gap; set records.equal_times = \"spread\" if such records \
                 follow each other at rate_hz",
                self.still, self.steps
            )
        })
    }

    fn back_in_words(&self) -> Option<String> {
        let (back, steps) = (self.back, self.steps);
        (back > 0).then(|| format!("time goes back in {back} of {steps} steps, and each is a gap"))
    }

    fn gaps_in_words(&self) -> Option<String> {
        let count = |gap: Gap| self.gaps.iter().find(|(known, _)| *known == gap).map_or(0, |(_, count)| *count);
        match count(Gap::TimeJump) {
            0 => None,
            jumps => Some(format!(
                "time jumps ahead by more than window.max_gap_ms in {}, and each is a gap",
                counted(jumps, "step")
            )),
        }
    }

    /// Returns what works, but may not be what the user wants.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        if let Some(reason) = self.without_window() {
            warnings.push(reason);
        } else {
            warnings.extend(self.still_in_words());
            warnings.extend(self.contradiction.clone());
            warnings.extend(self.back_in_words());
        }
        if let Some(first) = self.first_reject.as_ref().filter(|_| self.samples > 0) {
            let (rejected, read) = (self.rejected, self.read());
            let among = if self.is_whole { "" } else { "first " };
            let verb = if rejected == 1 { "is" } else { "are" };
            let unit = self.unit();
            warnings.push(format!("{rejected} of the {among}{read} {unit}s {verb} rejected; the first: {first}"));
        }
        warnings
    }

    /// Returns in words what the recording has.
    pub fn in_words(&self) -> String {
        let rate = self.rate_hz.map_or(String::new(), |rate| format!(", {} Hz by its time", figure(rate)));
        let skipped = self.skipped.as_ref().map_or(String::new(), |skipped| format!("; {skipped}"));
        let whole = if self.is_whole { "" } else { " at its beginning" };
        let says = if self.says.is_empty() { String::new() } else { format!("{}; ", self.says) };
        format!("recording: {says}{}{whole}{rate}{skipped}", counted(self.samples, "sample"))
    }
}
