//! Judging what the user wrote: ranges, names and references between tables. No I/O.

mod delegates;
mod mqtt;
mod power;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Key;
use super::checked::{
    Classify, Config, Decision, Delegate, Feature, Format, From, LINKED_RUNTIME, Pipeline, Problem, Realtime, Records,
    Regress, Replay, Source, SourceKind, Speed, WhenBufferFull, Window,
};
use super::raw;

/// Samples in a window, windows in an average and the like: far above any real use, far below what memory cannot hold.
const MAX_SAMPLES: usize = 1 << 22;
const MAX_CHANNELS: usize = 4096;
const MAX_SMOOTH: usize = 1000;
/// The last one that a mask of the C library's size has room for (cpu_set(3)).
const MAX_CPU: usize = 1023;
/// Steps of this many sample periods still belong to one window, unless `max_gap_ms` says otherwise.
const DEFAULT_GAP_PERIODS: f64 = 3.0;

/// Judges what the user wrote; reports all problems, not the first.
pub(crate) fn check(
    root: raw::Root,
    folder: &Path,
    hostname: Option<&str>,
    hash: String,
) -> Result<Config, Vec<Problem>> {
    let mut check = Check { problems: Vec::new(), folder: folder.to_owned() };
    let node_id = check.node_id(root.node.id, hostname);
    let mqtt = check.mqtt(root.mqtt, &node_id);
    let interval_key = Key::new(&["metrics", "interval_s"]);
    let metrics_interval = check.seconds(&interval_key, root.metrics.interval_s, 0.1, 86_400.0);
    let power = check.power(root.power);
    for (name, delegate) in &root.delegates {
        check.delegate_entry(name, delegate);
    }
    if root.pipelines.is_empty() {
        check.problem(&Key::new(&["pipelines"]), "there is none; add a table such as [pipelines.shoulder]");
    }
    let pipelines: Vec<Pipeline> = root
        .pipelines
        .into_iter()
        .filter_map(|(name, pipeline)| {
            check.pipeline(name, pipeline, &root.delegates, mqtt.as_ref().map_or(1, |m| m.qos))
        })
        .collect();
    check.exclusive_sources(&pipelines);
    match mqtt {
        Some(mqtt) if check.problems.is_empty() => Ok(Config {
            hash,
            node_id,
            state_dir: root.node.state_dir.map(|dir| check.folder.join(dir)),
            lock_memory: root.node.lock_memory,
            runtime_library: root.runtime.library.map(|library| check.runtime_library(library)),
            mqtt,
            metrics_interval,
            power,
            pipelines,
        }),
        _ => Err(check.problems),
    }
}

/// The delegate of that name, and the runtime library where one is named; nothing else of the file is judged.
pub(crate) fn delegate(
    root: raw::Root,
    folder: &Path,
    name: &str,
) -> Result<(Delegate, Option<PathBuf>), Vec<Problem>> {
    let mut check = Check { problems: Vec::new(), folder: folder.to_owned() };
    let key = Key::new(&["delegates", name]);
    if let Some(entry) = root.delegates.get(name) {
        check.delegate_entry(name, entry);
    }
    match check.delegate(&key, name, &root.delegates) {
        Some(delegate) if check.problems.is_empty() => {
            Ok((delegate, root.runtime.library.map(|library| check.runtime_library(library))))
        }
        _ => Err(check.problems),
    }
}

struct Check {
    problems: Vec<Problem>,
    folder: PathBuf,
}

impl Check {
    /// Where the library is, or the word for the linked one.
    fn runtime_library(&self, library: PathBuf) -> PathBuf {
        if library == Path::new(LINKED_RUNTIME) { library } else { self.folder.join(library) }
    }

    fn problem(&mut self, key: &Key, message: impl Into<String>) {
        self.problems.push(Problem::new(key.clone(), message.into()));
    }

    fn within<T: PartialOrd + std::fmt::Display + Copy>(&mut self, key: &Key, value: T, low: T, high: T) -> T {
        if !(value >= low && value <= high) {
            self.problem(key, format!("{value} is out of range; it must be from {low} to {high}"));
        }
        value
    }

    fn seconds(&mut self, key: &Key, seconds: f64, low: f64, high: f64) -> Duration {
        self.within(key, seconds, low, high);
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    /// One level of a topic: what MQTT reserves and what would read badly is refused.
    fn topic_level(&mut self, key: &Key, name: &str) {
        let bad = |c: char| matches!(c, '/' | '+' | '#' | '$') || c.is_control() || c.is_whitespace();
        if name.is_empty() || name.len() > 64 || name.contains(bad) {
            self.problem(
                key,
                format!("`{name}` becomes part of a topic: use 1 to 64 bytes without spaces, `/`, `+`, `#` and `$`"),
            );
        }
    }

    fn node_id(&mut self, id: Option<String>, hostname: Option<&str>) -> String {
        let key = Key::new(&["node", "id"]);
        match id.or_else(|| hostname.map(str::to_owned)) {
            Some(id) => {
                self.topic_level(&key, &id);
                id
            }
            None => {
                self.problem(&key, "the host has no readable name to use; write id = \"...\" under [node]");
                String::new()
            }
        }
    }

    fn qos(&mut self, key: &Key, qos: u8) {
        if qos > 1 {
            self.problem(key, format!("{qos} is not offered; use 0 (at most once) or 1 (at least once)"));
        }
    }

    fn pipeline(
        &mut self,
        name: String,
        raw: raw::Pipeline,
        delegates: &BTreeMap<String, raw::Delegate>,
        default_qos: u8,
    ) -> Option<Pipeline> {
        let key = Key::new(&["pipelines", &name]);
        self.topic_level(&key, &name);
        self.classes_only(&key, &raw);
        let source = self.source(&key.child("source"), raw.source);
        let window = self.window(&key.child("window"), &raw.window, &source.records);
        let channels = source.records.channels.len();
        let features = raw
            .features
            .into_iter()
            .enumerate()
            .filter_map(|(i, feature)| self.feature(&key.child("features").child(i), feature, channels))
            .collect();
        let mut asked_for: Vec<Delegate> = Vec::new();
        asked_for.extend(self.delegate(&key.child("delegate"), &raw.delegate, delegates));
        for (i, name) in raw.fallback.iter().enumerate() {
            let key = key.child("fallback").child(i);
            if asked_for.iter().any(|delegate| delegate.name == *name) {
                self.problem(&key, format!("`{name}` was tried before; name each delegate once"));
            }
            asked_for.extend(self.delegate(&key, name, delegates));
        }
        let batch = self.batch(&key.child("batch"), raw.batch);
        let decision = self.decision(&key.child("decision"), raw.decision);
        let parity = self.parity(&key.child("parity"), raw.parity, &source, &decision);
        let qos = raw.publish.qos.unwrap_or(default_qos);
        self.qos(&key.child("publish").child("qos"), qos);
        self.realtime(&key.child("realtime"), &raw.realtime);
        Some(Pipeline {
            name,
            source,
            window,
            features,
            model: self.folder.join(raw.model.path),
            model_max_bytes: raw.model.max_mib.map(|mib| self.max_bytes(&key.child("model").child("max_mib"), mib)),
            model_sha256: raw.model.sha256.map(|digest| self.sha256(&key.child("model").child("sha256"), &digest)),
            labels: raw.model.labels.map(|p| self.folder.join(p)),
            delegates: asked_for,
            parity,
            batch,
            decision,
            publish_scores: raw.publish.scores,
            qos,
            realtime: raw.realtime,
        })
    }

    fn realtime(&mut self, key: &Key, raw: &Realtime) {
        if let Some(priority) = raw.priority {
            self.within(&key.child("priority"), priority, 1, 99);
        }
        for (i, cpu) in raw.cpus.iter().enumerate() {
            self.within(&key.child("cpus").child(i), *cpu, 0, MAX_CPU);
        }
    }

    /// Keys that speak of classes, where the decision has none, would do nothing.
    fn classes_only(&mut self, key: &Key, raw: &raw::Pipeline) {
        if matches!(raw.decision, raw::Decision::Classify(_)) {
            return;
        }
        let (source, records) = match &raw.source {
            raw::Source::Replay(replay) => ("replay", &replay.records),
            raw::Source::Lines(lines) => ("lines", &lines.records),
        };
        let useless = "only a classify decision has classes; leave it out";
        if records.truth.is_some() {
            self.problem(&key.child("source").child(source).child("records").child("truth"), useless);
        }
        if raw.model.labels.is_some() {
            self.problem(&key.child("model").child("labels"), useless);
        }
        if raw.publish.scores {
            self.problem(&key.child("publish").child("scores"), useless);
        }
    }

    fn sha256(&mut self, key: &Key, digest: &str) -> String {
        if digest.len() != 64 || !digest.chars().all(|c| c.is_ascii_hexdigit()) {
            self.problem(key, "a SHA-256 is 64 hex digits, as sha256sum prints them");
        }
        digest.to_ascii_lowercase()
    }

    fn source(&mut self, key: &Key, source: raw::Source) -> Source {
        let (key, kind, records, buffer, when_full) = match source {
            raw::Source::Replay(replay) => {
                let key = key.child("replay");
                if matches!(replay.speed, Speed::Times(_))
                    && replay.records.rate_hz.is_none()
                    && replay.records.time.is_none()
                {
                    self.problem(
                        &key,
                        "the recording's pace is unknown: add records.time or records.rate_hz, or speed = \"max\"",
                    );
                }
                // A recording replayed at its own pace stands for a live sensor, which nobody can hold back.
                let when_full = match replay.speed {
                    Speed::Times(_) => WhenBufferFull::Drop,
                    Speed::Max => WhenBufferFull::Wait,
                };
                let kind = Replay { path: self.folder.join(replay.path), speed: replay.speed, repeat: replay.repeat };
                (key, SourceKind::Replay(kind), replay.records, replay.buffer, when_full)
            }
            raw::Source::Lines(lines) => {
                let from = match lines.from {
                    From::Stdin => From::Stdin,
                    From::Fifo(path) => From::Fifo(self.folder.join(path)),
                    From::Socket(path) => From::Socket(self.folder.join(path)),
                };
                (key.child("lines"), SourceKind::Lines(from), lines.records, lines.buffer, WhenBufferFull::Wait)
            }
        };
        self.within(&key.child("buffer").child("samples"), buffer.samples, 16, MAX_SAMPLES);
        Source {
            kind,
            records: self.records(&key.child("records"), records),
            buffer_samples: buffer.samples,
            when_full: buffer.when_full.unwrap_or(when_full),
        }
    }

    /// Two pipelines that read one stream would each get a part of it.
    fn exclusive_sources(&mut self, pipelines: &[Pipeline]) {
        let mut taken: Vec<(&From, &str)> = Vec::new();
        for pipeline in pipelines {
            let SourceKind::Lines(from) = &pipeline.source.kind else { continue };
            match taken.iter().find(|(other, _)| *other == from) {
                Some((_, other)) => self.problem(
                    &pipeline.key().child("source").child("lines").child("from"),
                    format!("pipeline {other} reads from there already; each stream feeds one pipeline"),
                ),
                None => taken.push((from, &pipeline.name)),
            }
        }
    }

    fn records(&mut self, key: &Key, raw: raw::Records) -> Records {
        let count = raw.channels.len();
        if count == 0 || count > MAX_CHANNELS {
            self.problem(&key.child("channels"), format!("name 1 to {MAX_CHANNELS} columns; there are {count}"));
        }
        let mut names: Vec<&String> = raw.channels.iter().chain(&raw.time).chain(&raw.truth).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            self.problem(key, format!("column `{}` is used twice in channels, time and truth", twice[0]));
        }
        for name in raw.limits.keys().filter(|name| !raw.channels.contains(name)) {
            self.problem(
                &key.child("limits").child(name),
                format!("there is no channel of that name; channels are {}", raw.channels.join(", ")),
            );
        }
        let limits = raw.channels.iter().map(|c| raw.limits.get(c).copied().unwrap_or([f32::MIN, f32::MAX])).collect();
        for (name, [low, high]) in &raw.limits {
            if low.partial_cmp(high) != Some(std::cmp::Ordering::Less) {
                self.problem(
                    &key.child("limits").child(name),
                    format!("[{low}, {high}] is empty; write [lowest, highest]"),
                );
            }
        }
        if let Some(rate) = raw.rate_hz {
            self.within(&key.child("rate_hz"), rate, 1e-6, 1e9);
        }
        let header = raw.header.unwrap_or(raw.columns.is_none());
        let columns = self.columns(key, &raw, header);
        Records {
            format: raw.format,
            header: header && raw.format == Format::Csv,
            columns,
            limits,
            channels: raw.channels,
            rate_hz: raw.rate_hz,
            time: raw.time,
            time_unit_ns: raw.time_unit.ns(),
            truth: raw.truth,
        }
    }

    /// The columns of lines that have no header.
    fn columns(&mut self, key: &Key, raw: &raw::Records, header: bool) -> Vec<String> {
        match (&raw.columns, raw.format) {
            _ if raw.header.is_some() && raw.format == Format::Ndjson => {
                self.problem(&key.child("header"), "NDJSON has none: each line names its own fields; leave header out");
                Vec::new()
            }
            (Some(_), Format::Ndjson) => {
                self.problem(&key.child("columns"), "NDJSON names its own fields; leave columns out");
                Vec::new()
            }
            (Some(_), Format::Csv) if header => {
                self.problem(
                    &key.child("columns"),
                    "the header names the columns; leave columns out or set header = false",
                );
                Vec::new()
            }
            (Some(columns), Format::Csv) => {
                for name in raw.channels.iter().chain(&raw.time).chain(&raw.truth) {
                    if !columns.contains(name) {
                        self.problem(&key.child("columns"), format!("`{name}` is used but not among the columns"));
                    }
                }
                columns.clone()
            }
            (None, Format::Csv) if !header => {
                self.problem(key, "lines without a header need columns = [\"...\"], all of them in order");
                Vec::new()
            }
            (None, _) => Vec::new(),
        }
    }

    fn window(&mut self, key: &Key, raw: &raw::Window, records: &Records) -> Window {
        self.within(&key.child("samples"), raw.samples, 1, MAX_SAMPLES);
        self.within(&key.child("hop"), raw.hop, 1, MAX_SAMPLES);
        if raw.samples.saturating_mul(records.channels.len()) > MAX_SAMPLES {
            self.problem(&key.child("samples"), format!("samples times channels must be at most {MAX_SAMPLES}"));
        }
        let gap_key = key.child("max_gap_ms");
        let max_gap_ms = match (raw.max_gap_ms, records.time.is_some(), records.rate_hz) {
            (Some(_), false, _) => {
                self.problem(&gap_key, "a gap shows only in the stream's own time; name its column in records.time");
                None
            }
            (Some(ms), true, _) => Some(self.within(&gap_key, ms, 0.001, 86_400_000.0)),
            (None, true, Some(rate)) => Some(DEFAULT_GAP_PERIODS * 1e3 / rate),
            (None, true, None) => {
                self.problem(
                    key,
                    "how long is a gap? set max_gap_ms, or records.rate_hz for a default of 3 sample periods",
                );
                None
            }
            (None, false, _) => None,
        };
        Window {
            samples: raw.samples,
            hop: raw.hop,
            max_gap: max_gap_ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok()),
        }
    }

    fn feature(&mut self, key: &Key, raw: raw::Feature, channels: usize) -> Option<Feature> {
        match raw {
            raw::Feature::Standardize(raw::Standardize { mean, std }) => {
                let key = key.child("standardize");
                let mean = self.per_channel(&key.child("mean"), mean, channels, false)?;
                let std = self.per_channel(&key.child("std"), std, channels, true)?;
                Some(Feature::Standardize { mean, std })
            }
            raw::Feature::Scale(raw::Scale { factor, offset }) => {
                let key = key.child("scale");
                let factor = self.per_channel(&key.child("factor"), factor, channels, true)?;
                let offset = self.per_channel(&key.child("offset"), offset, channels, false)?;
                Some(Feature::Scale { factor, offset })
            }
            raw::Feature::Detrend => Some(Feature::Detrend),
        }
    }

    /// One value a channel; a single value serves all.
    fn per_channel(&mut self, key: &Key, values: Vec<f32>, channels: usize, divides: bool) -> Option<Vec<f32>> {
        if let Some(bad) = values.iter().find(|v| !v.is_finite() || (divides && !v.is_normal())) {
            self.problem(
                key,
                format!("{bad} cannot be used; every value must be finite{}", if divides { " and not 0" } else { "" }),
            );
            return None;
        }
        match values.len() {
            1 => Some(values.repeat(channels)),
            n if n == channels => Some(values),
            n => {
                self.problem(
                    key,
                    format!("{n} values for {channels} channels; give one for each, or a single one for all"),
                );
                None
            }
        }
    }

    fn decision(&mut self, key: &Key, raw: raw::Decision) -> Decision {
        match raw {
            raw::Decision::Classify(raw) => {
                let key = key.child("classify");
                self.within(&key.child("threshold"), raw.threshold, 0.0, 1.0);
                self.within(&key.child("hysteresis"), raw.hysteresis, 0.0, 1.0);
                self.within(&key.child("smooth"), raw.smooth, 1, MAX_SMOOTH);
                Decision::Classify(Classify {
                    output: raw.output,
                    scores: raw.scores,
                    threshold: raw.threshold,
                    smooth: raw.smooth,
                    hysteresis: raw.hysteresis,
                })
            }
            raw::Decision::Regress(raw) => {
                let key = key.child("regress");
                self.within(&key.child("smooth"), raw.smooth, 1, MAX_SMOOTH);
                let mut names = raw.names.clone();
                names.sort();
                if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                    self.problem(&key.child("names"), format!("`{}` is there twice", twice[0]));
                }
                if raw.names.is_empty() {
                    self.problem(&key.child("names"), "name each value of the output, such as [\"temperature_c\"]");
                }
                Decision::Regress(Regress { output: raw.output, names: raw.names, smooth: raw.smooth })
            }
            raw::Decision::Raw(raw::RawOutputs {}) => Decision::Raw,
        }
    }
}
