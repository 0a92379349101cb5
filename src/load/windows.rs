//! Real windows out of a recording, for comparing a delegate with the reference.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::config::{Records, Window};
use crate::features::Chain;
use crate::infer::window::{SampleTime, Windower};
use crate::source::{MAX_LINE_BYTES, RecordParser};

/// Features of `count` windows of the recording at `path`, spread evenly over it; fewer where it is shorter.
///
/// Records that cannot be used are passed over, as the source does. Memory is bounded, however long the recording is.
pub(crate) fn recorded(
    path: &Path,
    records: &Records,
    window: Window,
    features: &Chain,
    count: usize,
) -> Result<Vec<f32>, String> {
    let failed = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("{} is no regular file, as a recording must be", path.display()));
    }
    let mut lines = BufReader::new(file);
    let mut parser = RecordParser::new(records.clone(), Vec::new());
    let mut windower = Windower::new(window.samples, window.hop, records.channels.len(), window.max_gap);
    let mut spread = Spread { values: Vec::new(), width: windower.window_values(), count, step: 1, seen: 0 };
    let mut line = Vec::new();
    let mut header = records.header;
    // A piece of a line that is too long is a record that cannot be used.
    while lines.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).map_err(failed)? > 0 {
        if header {
            parser.header(&line).map_err(|e| format!("{}: {e}", path.display()))?;
            header = false;
        } else if let Ok(record) = parser.parse(&line) {
            windower.push(parser.values(), &[], SampleTime { stream_ns: record.stream_ns, gap: None });
            if let Some(window) = windower.ready() {
                spread.take(|place| features.apply(window, place));
                windower.advance();
            }
        }
        line.clear();
    }
    let chosen = spread.chosen();
    if chosen.is_empty() {
        return Err(format!("{} holds no whole window", path.display()));
    }
    Ok(chosen)
}

/// Every `step`th window; `step` doubles whenever there are twice as many as are wanted.
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

/// `count` of the windows, evenly spaced; all where there are no more.
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
