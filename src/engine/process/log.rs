//! Logs the output of a child's libraries line by line, and keeps the last lines to explain failures.
//!
//! Bounded in each direction: the length of a line, the lines kept, the lines logged in a second. Fed by the thread that
//! watches the process.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::output::{Limiter, LineCutter};

/// So many bytes are read at once.
const PIECE_BYTES: usize = 1024;
const LINES_KEPT: usize = 20;
const LINES_A_SECOND: u32 = 20;
/// The lines of the first errors that are kept: LiteRT writes a chain of them, the cause not always first.
const ERRORS_KEPT: usize = 6;
/// The length of such a line.
const ERROR_CHARS: usize = 240;
/// What a graphics driver is called that computes on the processor, in the log of the library that uses it.
const SOFTWARE_GPUS: [&str; 9] = [
    "adaptertype=cpu",
    "adaptertype::cpu",
    "adaptertype: cpu",
    "llvmpipe",
    "lavapipe",
    "swiftshader",
    "softpipe",
    "swrast",
    "portable computing language",
];

/// The output of a process.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The engine has started; until then the code that starts it reports the errors.
    serving: AtomicBool,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    last: VecDeque<String>,
    /// The first errors, each once, with the lines that continue them.
    errors: Vec<String>,
    /// The line before is one of them, or continues one.
    in_error: bool,
    /// The first line that names a graphics driver that computes on the processor, or the one on the driver that is used.
    software_gpu: Option<String>,
    /// A line says which driver is used.
    is_selected: bool,
    count: u64,
}

impl Said {
    /// Reads until all writers have closed the pipe.
    pub(crate) fn collect(&self, mut from: impl Read) {
        let mut limiter = Limiter::new(LINES_A_SECOND, Duration::from_secs(1), Instant::now());
        let mut cutter = LineCutter::default();
        let mut piece = [0; PIECE_BYTES];
        loop {
            let count = match from.read(&mut piece) {
                Ok(count @ 1..) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => break,
            };
            cutter.take(&piece[..count], |line| self.line(line, &mut limiter));
        }
        cutter.end(|line| self.line(line, &mut limiter));
    }

    fn line(&self, line: &str, limiter: &mut Limiter) {
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        if let Some(left_out) = limiter.admit(Instant::now()) {
            if left_out > 0 {
                tracing::debug!(target: "runtime", left_out, "more lines than are logged");
            }
            self.log(line);
        }
        let mut lines = self.lock();
        lines.count += 1;
        lines.note_error(line);
        let selects = line.to_ascii_lowercase().contains(SELECTED);
        if selects || (!lines.is_selected && lines.software_gpu.is_none()) {
            lines.software_gpu = is_software_gpu(line).then(|| short(line).to_owned());
        }
        lines.is_selected |= selects;
        if lines.last.len() == LINES_KEPT {
            lines.last.pop_front();
        }
        lines.last.push_back(line.to_owned());
    }

    /// Logs a line; a vendor's own lines have no level.
    fn log(&self, line: &str) {
        if let Some(warning) = line.strip_prefix("WARNING: ") {
            tracing::warn!(target: "runtime", "{warning}");
        } else if let Some(error) = line.strip_prefix("ERROR: ").filter(|_| self.serving.load(Relaxed)) {
            tracing::error!(target: "runtime", "{error}");
        } else {
            tracing::debug!(target: "runtime", "{line}");
        }
    }

    /// Returns the last lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lock().last.iter().cloned().collect()
    }

    pub(crate) fn serves(&self) {
        self.serving.store(true, Relaxed);
    }

    /// Returns the first errors that the runtime itself wrote, in parentheses.
    pub(crate) fn errors(&self) -> String {
        let errors = self.lock().errors.join("; ");
        if errors.is_empty() { errors } else { format!(" (the runtime says: {errors})") }
    }

    /// Returns the line that names a graphics driver that computes on the processor, if there is one. Waits a moment for
    /// lines on their way.
    pub(crate) fn software_gpu(&self) -> Option<String> {
        for _ in 0..SETTLE_TRIES {
            let before = self.lock().count;
            std::thread::sleep(SETTLE);
            if self.lock().count == before {
                break;
            }
        }
        self.lock().software_gpu.clone()
    }

    /// Returns the last line that looks like the message of a crash, in parentheses.
    pub(crate) fn last_words(&self) -> String {
        let signs = ["ERROR", "terminate", "what():", "panicked", "alloc", "symbol lookup error"];
        let telling = |line: &&String| signs.iter().any(|sign| line.contains(sign));
        let line = self.lock().last.iter().rev().find(telling).cloned();
        line.map_or(String::new(), |line| format!(" (it says: {})", line.trim()))
    }

    /// Returns whether the process ran out of memory: C++ and Rust write different messages before they abort.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let signs = ["bad_alloc", "memory allocation of", "Cannot allocate memory"];
        self.lock().last.iter().any(|line| signs.iter().any(|sign| line.contains(sign)))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time in which no line comes after which none is on its way, and how often it is waited for.
const SETTLE: Duration = Duration::from_millis(20);
const SETTLE_TRIES: u32 = 10;

impl Lines {
    fn note_error(&mut self, line: &str) {
        let error = line.strip_prefix("ERROR: ");
        let continues = self.in_error && line.starts_with([' ', '\t', '\u{2514}', '\u{251c}', '|']);
        self.in_error = error.is_some() || continues;
        let text = short(error.unwrap_or(line).trim());
        if self.in_error
            && self.errors.len() < ERRORS_KEPT
            && !text.is_empty()
            && !self.errors.iter().any(|e| e == text)
        {
            self.errors.push(text.to_owned());
        }
    }
}

fn is_software_gpu(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    SOFTWARE_GPUS.iter().any(|name| line.contains(name))
}

fn short(line: &str) -> &str {
    line.char_indices().nth(ERROR_CHARS).map_or(line, |(end, _)| &line[..end])
}

/// What LiteRT writes before the graphics driver that it uses; it may list others.
const SELECTED: &str = "selected adapter";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::output::LINE_BYTES;

    #[test]
    fn the_first_error_and_the_last_lines_are_kept() {
        let said = Said::default();
        let noise: String = (0..100).map(|i| format!("noise {i}\n")).collect();
        let text =
            format!("INFO: fine\nERROR: the cause\n{noise}terminate called after throwing 'std::bad_alloc'\nlast");
        said.collect(text.as_bytes());
        assert_eq!(said.errors(), " (the runtime says: the cause)");
        assert_eq!(said.last_words(), " (it says: terminate called after throwing 'std::bad_alloc')");
        assert!(said.ran_out_of_memory());
        let lookup = Said::default();
        lookup.collect(&b"edgewatt: symbol lookup error: d.so: undefined symbol: npu_open\n"[..]);
        assert!(lookup.last_words().contains("undefined symbol: npu_open"), "{}", lookup.last_words());
        let last = said.lock().last.clone();
        assert_eq!((last.len(), last.back().map(String::as_str)), (LINES_KEPT, Some("last")));
        assert_eq!(Said::default().errors() + &Said::default().last_words(), "");
    }

    #[test]
    fn the_lines_of_a_chain_of_errors_are_kept_and_bounded() {
        let said = Said::default();
        let chain = "ERROR: [a.cc:1] failed\nERROR: [b.cc:2] no device\n  at step 3\nINFO: next\n  not this\nERROR: [a.cc:1] failed\n";
        said.collect(chain.as_bytes());
        assert_eq!(said.errors(), " (the runtime says: [a.cc:1] failed; [b.cc:2] no device; at step 3)");
        let flood: String = (0..100).map(|i| format!("ERROR: {i} {}\n", "x".repeat(1000))).collect();
        let said = Said::default();
        said.collect(flood.as_bytes());
        assert!(said.errors().chars().count() <= ERRORS_KEPT * (ERROR_CHARS + 2) + 30, "{}", said.errors());
    }

    #[test]
    fn a_gpu_that_is_the_processor_is_known_by_the_librarys_own_words() {
        let said = |line: &str| {
            let said = Said::default();
            said.collect(line.as_bytes());
            said.software_gpu()
        };
        for line in
            ["INFO: adapterType=CPU, backend=Vulkan", "llvmpipe (LLVM 15.0.6, 256 bits)", "device: SwiftShader Device"]
        {
            assert_eq!(said(line).as_deref(), Some(line));
        }
        assert_eq!(said("INFO: adapterType=DiscreteGPU, Mali-G610"), None);
        // One that is there but not used.
        assert_eq!(said("adapters: llvmpipe, Mali\nSelected adapter: Mali, adapterType=IntegratedGPU\nllvmpipe"), None);
        let selected = "Selected adapter: vendor=mesa, adapterType=AdapterType::CPU";
        assert_eq!(said(&format!("Mali\n{selected}\n")).as_deref(), Some(selected));
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_than_its_room() {
        let said = Said::default();
        said.collect(&vec![b'x'; 100 * LINE_BYTES][..]);
        let lines = said.lock();
        assert!(lines.last.len() == LINES_KEPT && lines.last.iter().all(|line| line.len() == LINE_BYTES));
    }
}
