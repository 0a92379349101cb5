//! Cuts a line of CSV into its fields. Allocates nothing for a line once the buffers have grown to the longest one.

/// The fields of the line that was cut last.
pub struct Fields {
    csv: csv_core::Reader,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Default for Fields {
    fn default() -> Self {
        // The reader's `Default` has no separator, unlike its `new`.
        Self { csv: csv_core::Reader::new(), bytes: Vec::new(), ends: Vec::new() }
    }
}

impl Fields {
    /// Cuts a line, with or without its newline, into fields; returns how many.
    pub fn split(&mut self, line: &[u8]) -> usize {
        self.csv.reset();
        // All fields together are not longer than the line, and there are at most as many as bytes, plus one.
        self.bytes.resize(self.bytes.len().max(line.len() + 1), 0);
        self.ends.resize(self.ends.len().max(line.len() + 2), 0);
        let (mut read, mut written, mut count) = (0, 0, 0);
        loop {
            let (result, r, w, n) =
                self.csv.read_record(&line[read..], &mut self.bytes[written..], &mut self.ends[count..]);
            read += r;
            written += w;
            count += n;
            // Without more input, the reader closes the last field.
            if result != csv_core::ReadRecordResult::InputEmpty {
                return count;
            }
        }
    }

    /// Returns field `index` of the line; [`Self::split`] returned how many there are.
    pub fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}
