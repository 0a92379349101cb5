//! Takes windows from a recording, on which delegates are compared with the reference.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use crate::config::Pipeline;
use crate::infer::input::{InputStage, Window};
use crate::source::line_reader::MAX_LINE_BYTES;
use crate::source::sink::frame_ring;
use crate::source::{RecordParser, SinkSettings, WhenFull};
use crate::stop::Stop;
use crate::units::MonoTime;

/// Returns the features of `count` windows of the recording at `path`, spread evenly over it; fewer if it is shorter.
///
/// Its lines are records as the pipeline's source has them, and pass through the pipeline's own stages. Records that cannot
/// be used are skipped, as the source does. Memory is bounded, however long the recording is.
///
/// # Errors
/// The recording cannot be read, or has no whole window.
pub fn recorded(path: &Path, pipeline: &Pipeline, count: usize) -> Result<Vec<f32>, String> {
    let failed = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("{} is not a regular file, as a recording must be", path.display()));
    }
    let records = pipeline.source.kind().records().ok_or("the source does not read lines, so it has no recording")?;
    let shapes = pipeline.shapes().map_err(|(key, message)| format!("{key}: {message}"))?;
    let (width, mut features) = (shapes.input().values(), shapes.features);
    let settings = SinkSettings { spec: shapes.source, frames: 2, frames_per_block: 1, when_full: WhenFull::Drop };
    let stop = Arc::new(Stop::new().map_err(failed)?);
    let (mut sink, mut reader) = frame_ring(&settings, &pipeline.name, stop, Arc::default());
    let mut input = InputStage::new(shapes.frontends, &shapes.stream, &pipeline.window, false);
    let mut lines = BufReader::new(file);
    let mut parser = RecordParser::new(records.clone(), Vec::new());
    let mut spread = Spread { values: Vec::new(), width, count, step: 1, seen: 0 };
    let mut line = Vec::new();
    let mut header = records.has_header();
    // A line that is too long arrives in pieces, none of which is a usable record.
    while lines.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).map_err(failed)? > 0 {
        if header {
            parser.header(&line).map_err(|e| format!("{}: {e}", path.display()))?;
            header = false;
        } else if let Ok(record) = parser.parse(&line) {
            // The ring always has room for one frame, and no stop is requested.
            let _ = sink.take(Ok(record), parser.values(), MonoTime(0));
            while let Some(event) = input.step(&mut reader) {
                if event.full
                    && let Some(Window::F32(window)) = input.window()
                {
                    spread.take(|place| place.copy_from_slice(features.apply(window)));
                    input.advance();
                }
            }
        }
        line.clear();
    }
    let chosen = spread.chosen();
    if chosen.is_empty() {
        return Err(format!("{} has no whole window", path.display()));
    }
    Ok(chosen)
}

/// Keeps every `step`th window; `step` doubles whenever there are twice as many windows as wanted.
struct Spread {
    values: Vec<f32>,
    width: usize,
    count: usize,
    step: usize,
    seen: usize,
}

impl Spread {
    fn take(&mut self, write: impl FnOnce(&mut [f32])) {
        if self.seen.is_multiple_of(self.step) {
            let start = self.values.len();
            self.values.resize(start + self.width, 0.0);
            write(&mut self.values[start..]);
            if self.values.len() == 2 * self.count * self.width {
                self.values = thinned(&self.values, self.width, self.count);
                self.step *= 2;
            }
        }
        self.seen += 1;
    }

    fn chosen(self) -> Vec<f32> {
        thinned(&self.values, self.width, self.count)
    }
}

/// Returns `count` of the windows, evenly spaced; all if there are not more.
fn thinned(values: &[f32], width: usize, count: usize) -> Vec<f32> {
    let held = values.len() / width;
    let wanted = count.min(held);
    (0..wanted).flat_map(|i| &values[i * held / wanted * width..][..width]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_many_as_wanted_from_beginning_to_end(count in 1usize..20, total in 1usize..500) {
            let mut spread = Spread { values: Vec::new(), width: 2, count, step: 1, seen: 0 };
            for window in 0..total {
                spread.take(|place| place.fill(window as f32));
                prop_assert!(spread.values.len() < 4 * count);
            }
            let chosen = spread.chosen();
            prop_assert_eq!(chosen.len(), 2 * count.min(total));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] <= pair[1]) && chosen[0] == 0.0);
            // The last quarter is not left out.
            prop_assert!(count < 8 || total < 8 || *chosen.last().unwrap() >= 0.7 * (total - 1) as f32);
        }
    }
}
