//! Several sources as one stream: their samples are joined by time.
//!
//! Owns the keys and what the joined stream is. `joiner` decides which samples belong together, `run` reads the sources,
//! each on a thread of its own, and `skew` watches their clocks. Samples are joined by time and never by their number,
//! because clocks of quartz move apart by seconds a day.

mod joiner;
mod part;
mod queue;
mod run;
mod skew;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

pub use self::joiner::FollowMethod;
use self::joiner::{By, Input, Joiner, Pick, Rule};
pub use self::part::Part;
use self::run::{Child, JoinSource};
use super::sink::period_ns;
use super::{
    Buffer, Exclusive, FrameProducer, OpenOptions, Presence, SinkSettings, Source, SourceError, SourceKind,
    SourceSubscription, Survey, WhenFull, part_name,
};
use crate::schema::expanded::Table as _;
use crate::schema::{Checker, Key, choice, milliseconds, table};
use crate::stream::{Content, SampleType, Shape, StreamSpec};
use crate::sys::Machine;
use crate::text::nearest;

/// Each source has a thread of its own.
const MOST_SOURCES: usize = 16;
/// No source of frames with names has more; what has more is refused.
const MOST_CHANNELS: usize = 4096;
/// What the network and the kernel may delay a sample.
const DELAY: Duration = Duration::from_millis(100);
/// A follower's sample is used for so many of its periods, unless `tolerance_ms` says otherwise.
const TOLERANCE_PERIODS: f64 = 2.0;
/// Nanoseconds.
const MS: f64 = 1e6;

choice! {
    /// By which time samples belong together.
    #[derive(Default)]
    pub enum Clock {
        /// Each stream's own time.
        #[default]
        Stream = "stream",
        /// The time at which edgewatt reads the sample.
        Arrival = "arrival",
    }
}

table! {
    /// Joins several sources into one stream by time. The frames of the leader set the times and the rate; each other source
    /// gives a value for each of them. The channels are called `SOURCE.CHANNEL`.
    pub struct Join {
        /// The sources, each under a name that you choose. It is written as the source of a pipeline is.
        pub sources: BTreeMap<String, Part>, example("{ imu = { lines = { from = { fifo = \"imu\" }, records = { channels = [\"ax\", \"ay\"], \
            time = \"time_s\", rate_hz = 50.0 } } }, temp = { lines = { from = { fifo = \"temp\" }, records = { channels = [\"t\"], \
            time = \"time_s\", rate_hz = 1.0 } } } }");
        /// The source whose frames set the times. Mostly it is the fastest one.
        pub leader: String, example("\"imu\"");
        /// By which time samples belong together: "stream" takes each source's own time, and the clocks must agree;
        /// "arrival" takes the time at which edgewatt reads them, for sources without a time or with clocks that do not agree.
        pub clock: Clock = Clock::Stream;
        /// The longest time that a frame of the leader waits for the other sources. What comes later is not used.
        pub wait_ms: Option<f64>, range(0.0, 60_000.0), unit("ms"), example("500.0"),
            otherwise("100 ms, and for \"linear\" and \"nearest\" the tolerance in addition; recordings that are played as fast as possible wait for each other");
        /// The channels of the joined stream, in order.
        pub channels: Option<Vec<String>>, otherwise("all: first those of the leader, then those of the others by their names"),
            example("[\"temp.t\", \"imu.ax\"]");
        /// How the other sources are joined, each under its name.
        pub followers: BTreeMap<String, Follow> = BTreeMap::new(), example("{ temp = { method = \"linear\", tolerance_ms = 2000.0 } }");
        /// The buffer between the joined stream and the pipeline.
        pub buffer: Buffer;
    }
}

table! {
    /// How a source is joined to the leader.
    pub struct Follow {
        /// How its value at the time of the leader's sample is found: "hold" takes the newest sample at that time or before,
        /// "linear" the straight line between the samples before and after, "nearest" the nearest one.
        pub method: FollowMethod = FollowMethod::Hold;
        /// How far a sample may be from that of the leader. If there is none within it, the leader's sample is dropped and
        /// counted as `source_unmatched`, and there is a gap.
        pub tolerance_ms: Option<f64>, range(0.0, 86_400_000.0), unit("ms"), otherwise("2 sample periods"), example("2000.0");
        /// What is added to the time of this source, so that its clock agrees with that of the leader.
        pub offset_ms: f64 = 0.0, range(-4e12, 4e12), unit("ms");
    }
}

impl Join {
    /// Returns the names of the sources, the leader first.
    fn names(&self) -> impl Iterator<Item = &str> {
        let leader = self.sources.get_key_value(&self.leader).map(|(name, _)| name.as_str());
        leader.into_iter().chain(self.followers())
    }

    /// Returns the names of the sources except the leader.
    fn followers(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str).filter(|name| *name != self.leader)
    }

    fn source(&self, name: &str) -> Option<&dyn SourceKind> {
        self.sources.get(name).map(|part| part.0.kind())
    }

    fn leader(&self) -> Option<&dyn SourceKind> {
        self.source(&self.leader)
    }

    fn parts(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.sources.iter().map(|(name, part)| (name.as_str(), &*part.0))
    }

    /// Returns the keys below that of the join which lead to a key of the source `name`.
    fn path(&self, name: &str, below: Vec<String>) -> Vec<String> {
        let kind = self.sources.get(name).map_or("", |part| part.0.name());
        ["sources", name, kind].into_iter().map(str::to_owned).chain(below).collect()
    }

    /// Returns the channels of all sources, in their usual order, with their units.
    fn all_channels(&self) -> Vec<(String, String, Pick)> {
        let mut channels = Vec::new();
        let followers = std::iter::once(None).chain((0..).map(Some));
        for (name, follower) in self.names().zip(followers) {
            let Some(spec) = self.source(name).map(SourceKind::spec) else { continue };
            // What is too large is reported by the source's own check.
            for channel in 0..spec.frame.values().min(MOST_CHANNELS) {
                let channel_name = match (spec.names.get(channel), spec.frame.values()) {
                    (Some(channel), _) => format!("{name}.{channel}"),
                    (None, 1) => name.to_owned(),
                    (None, _) => format!("{name}.{channel}"),
                };
                let unit = spec.units.get(channel).cloned().unwrap_or_default();
                channels.push((channel_name, unit, Pick { follower, channel }));
            }
        }
        channels
    }

    /// Returns the channels of the joined stream.
    fn picked(&self) -> Vec<(String, String, Pick)> {
        let all = self.all_channels();
        match &self.channels {
            None => all,
            Some(wanted) => {
                wanted.iter().filter_map(|name| all.iter().find(|(known, ..)| known == name)).cloned().collect()
            }
        }
    }

    /// Returns how far a sample of a follower may be from that of the leader; `None`: nothing says it.
    fn tolerance_ns(&self, name: &str) -> Option<i64> {
        let written = self.followers.get(name).and_then(|follow| follow.tolerance_ms);
        let by_rate = || Some(TOLERANCE_PERIODS * 1e3 / self.source(name)?.spec().rate_hz?);
        Some((written.or_else(by_rate)? * MS).round() as i64)
    }

    fn rule(&self, name: &str) -> Rule {
        let method = self.followers.get(name).map(|follow| follow.method).unwrap_or_default();
        let tolerance_ns = self.tolerance_ns(name).unwrap_or(0);
        let as_fast_as_possible = |name: &str| {
            self.sources
                .get(name)
                .is_some_and(|part| part.0.kind().recording().is_some() && part.0.when_full() == WhenFull::Wait)
        };
        let wait = match (self.wait_ms, method) {
            (Some(ms), _) => Some(milliseconds(ms)),
            (None, _) if as_fast_as_possible(name) && as_fast_as_possible(&self.leader) => None,
            (None, FollowMethod::Hold) => Some(DELAY),
            (None, _) => Some(DELAY + Duration::from_nanos(tolerance_ns.unsigned_abs())),
        };
        Rule { method, tolerance_ns, wait }
    }

    fn by(&self, name: &str, spec: &StreamSpec) -> By {
        match self.clock {
            Clock::Stream => {
                let offset_ms = self.followers.get(name).map_or(0.0, |follow| follow.offset_ms);
                By::Stream { offset_ns: (offset_ms * MS).round() as i64 }
            }
            Clock::Arrival => By::Arrival { period_ns: period_ns(spec.rate_hz) },
        }
    }

    /// Returns the ring between a source and the join: it holds what comes while a frame waits.
    fn ring(&self, source: &Source) -> SinkSettings {
        let (kind, spec) = (source.kind(), source.kind().spec());
        let waits = self.followers().filter_map(|name| self.rule(name).wait);
        let wait = waits.max().unwrap_or_default();
        let meanwhile = spec.rate_hz.map_or(0, |rate| (2.0 * wait.as_secs_f64() * rate).ceil() as usize);
        SinkSettings {
            frames: kind.buffer().0.frames(&spec, meanwhile),
            frames_per_block: kind.frames_per_block(),
            when_full: source.when_full(),
            spec,
        }
    }

    fn check_names(&self, key: &Key, checker: &mut Checker) {
        let sources = key.child("sources");
        if !(2..=MOST_SOURCES).contains(&self.sources.len()) {
            let message = format!(
                "a join has 2 to {MOST_SOURCES} sources, and here are {}; a single source needs no join",
                self.sources.len()
            );
            checker.problem(&sources, message);
        }
        let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        for name in self.sources.keys().filter(|name| name.is_empty() || !name.chars().all(is_good)) {
            checker.problem(&sources.child(name), "use letters, digits, `_` and `-` in the name of a source");
        }
        let names: Vec<&str> = self.sources.keys().map(String::as_str).collect();
        let unknown = |name: &str| {
            let meant = nearest(name, &names).map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"));
            format!("there is no source `{name}`{meant}; the sources are {}", names.join(", "))
        };
        if !self.sources.contains_key(&self.leader) {
            checker.problem(&key.child("leader"), unknown(&self.leader));
        }
        for name in self.followers.keys() {
            let key = key.child("followers").child(name);
            if *name == self.leader {
                checker.problem(&key, "this is the leader, which follows no other; leave it out");
            } else if !self.sources.contains_key(name) {
                checker.problem(&key, unknown(name));
            }
        }
    }

    /// Checks what a source must be for a join.
    fn check_parts(&self, key: &Key, checker: &mut Checker) {
        for (name, part) in self.parts() {
            let (kind, key) = (part.kind(), key.child("sources").child(name));
            if kind.spec().frame.dims().len() != 1 {
                checker.problem(
                    &key,
                    "this source gives images, which cannot be joined; give them a pipeline of their own",
                );
            }
            if kind.spec().frame.values() > MOST_CHANNELS {
                checker.problem(
                    &key,
                    format!("this source has more than {MOST_CHANNELS} channels, which cannot be joined"),
                );
            }
            if self.clock == Clock::Stream && !kind.has_time() {
                let message = "this source has no time of its own; name its column in records.time, or write clock = \"arrival\" \
                               for the join";
                checker.problem(&key.child(part.name()), message);
            }
            if name == self.leader {
                continue;
            }
            if let Some(truth) = kind.truth() {
                let key = truth.iter().fold(key.child(part.name()), |key, name| key.child(name));
                checker.problem(&key, "only the true label of the leader is used; remove it");
            }
            if self.tolerance_ns(name).is_none() {
                let message = format!(
                    "set followers.{name}.tolerance_ms: the source has no rate_hz, from which the tolerance would follow"
                );
                checker.problem(&key.child(part.name()), message);
            }
        }
    }

    fn check_followers(&self, key: &Key, checker: &mut Checker) {
        for (name, follow) in &self.followers {
            let key = key.child("followers").child(name);
            follow.check_ranges(&key, checker);
            if self.clock == Clock::Arrival && follow.offset_ms != 0.0 {
                checker.problem(
                    &key.child("offset_ms"),
                    "with clock = \"arrival\" no stream's time is used; leave it out",
                );
            }
        }
    }

    fn check_channels(&self, key: &Key, checker: &mut Checker) {
        let Some(wanted) = &self.channels else { return };
        let all = self.all_channels();
        let known: Vec<&str> = all.iter().map(|(name, ..)| name.as_str()).collect();
        if wanted.is_empty() {
            checker.problem(key, format!("name one or more of {}", known.join(", ")));
        }
        for (index, name) in wanted.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let message = format!("there is no channel `{name}`; the channels are {}", known.join(", "));
                checker.problem(&key.child(index), message);
            } else if wanted[..index].contains(name) {
                checker.problem(&key.child(index), format!("`{name}` is listed twice"));
            }
        }
    }
}

impl SourceKind for Join {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        for (name, part) in &mut self.sources {
            part.0.check(&key.child("sources").child(name), checker);
        }
        self.buffer.check(&key.child("buffer"), checker);
        self.check_names(key, checker);
        self.check_parts(key, checker);
        self.check_followers(key, checker);
        self.check_channels(&key.child("channels"), checker);
    }

    fn subscriptions(&self) -> Vec<SourceSubscription> {
        let of_part = |(name, source): (&str, &Source)| {
            let below = ["sources".to_owned(), name.to_owned(), source.name().to_owned()];
            let part = Some(name.to_owned());
            let subscriptions = source.kind().subscriptions().into_iter();
            let named = move |of: SourceSubscription| SourceSubscription {
                key: [&below[..], &of.key].concat(),
                part: part.clone(),
                ..of
            };
            subscriptions.map(named).collect::<Vec<_>>()
        };
        self.parts().flat_map(of_part).collect()
    }

    fn set_up(&self, machine: &Machine<'_>, restart: bool) -> Option<Result<String, SourceError>> {
        let of_part = |(name, source): (&str, &Source)| {
            let result = source.kind().set_up(machine, restart)?;
            Some(result.map(|said| format!("{name}: {said}")).map_err(|error| joined(name, error)))
        };
        let results: Vec<_> = self.parts().filter_map(of_part).collect();
        let has_any = !results.is_empty();
        let said = results.into_iter().collect::<Result<Vec<_>, _>>().map(|said| said.join("; "));
        has_any.then_some(said)
    }

    fn spec(&self) -> StreamSpec {
        let picked = self.picked();
        let is_pcm = self.parts().all(|(_, source)| source.kind().spec().sample == SampleType::I16);
        let has_units = picked.iter().any(|(_, unit, _)| !unit.is_empty());
        StreamSpec {
            frame: Shape::new([picked.len()]),
            sample: SampleType::F32,
            rate_hz: self.leader().and_then(|leader| leader.spec().rate_hz),
            units: if has_units { picked.iter().map(|(_, unit, _)| unit.clone()).collect() } else { Vec::new() },
            names: picked.into_iter().map(|(name, ..)| name).collect(),
            content: if is_pcm { Content::Pcm16 } else { Content::Samples },
        }
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        // If one source cannot be held back, nor can the joined stream.
        let all_wait = self.parts().all(|(_, source)| source.when_full() == WhenFull::Wait);
        (&self.buffer, if all_wait { WhenFull::Wait } else { WhenFull::Drop })
    }

    fn open(&self, options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        let mut children = Vec::new();
        let mut inputs = Vec::new();
        for name in self.names() {
            let Some((_, source)) = self.parts().find(|(part, _)| *part == name) else { continue };
            let is_leader = name == self.leader;
            let labels = if is_leader { options.labels.clone() } else { Default::default() };
            // A broker takes two sources with one name for the same client.
            let pipeline = part_name(&options.pipeline, Some(name));
            let opened = source.kind().open(OpenOptions { labels, pipeline, ..options.clone() });
            let producer = opened.map_err(|error| joined(name, error))?;
            let settings = self.ring(source);
            let by = self.by(name, &settings.spec);
            inputs.push(Input { width: settings.spec.frame.values(), capacity: settings.frames, by });
            let rule = (!is_leader).then(|| self.rule(name));
            children.push(Child { name: name.to_owned(), producer, settings, rule });
        }
        let picks = self.picked().into_iter().map(|(_, _, pick)| pick).collect();
        let rules = self.followers().map(|name| self.rule(name));
        let mut inputs = inputs.into_iter();
        let leader = inputs.next().unwrap_or(Input { width: 0, capacity: 2, by: By::Stream { offset_ns: 0 } });
        let joiner = Joiner::new(leader, inputs.zip(rules), picks);
        Ok(Box::new(JoinSource { children, joiner, watches_clocks: self.clock == Clock::Stream }))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        self.parts().try_for_each(|(name, part)| part.kind().check_access().map_err(|error| joined(name, error)))
    }

    fn survey(&self, machine: &Machine<'_>) -> Survey {
        let surveys: Vec<(&str, &str, Survey)> =
            self.parts().map(|(name, part)| (name, part.name(), part.kind().survey(machine))).collect();
        let worst = surveys.iter().map(|(.., survey)| survey.presence).max_by_key(|presence| match presence {
            Presence::Ready => 0,
            Presence::Absent => 1,
            Presence::Broken => 2,
        });
        let is_told = |survey: &Survey| Some(survey.presence) == worst;
        let says: Vec<String> = surveys
            .iter()
            .filter(|(.., survey)| is_told(survey))
            .map(|(name, kind, survey)| format!("{name} ({kind}): {}", survey.says))
            .collect();
        let detail = surveys.iter().flat_map(|(name, kind, survey)| {
            let own = (!is_told(survey)).then(|| format!("{name} ({kind}): {}", survey.says));
            own.into_iter().chain(survey.detail.iter().map(move |line| format!("{name}: {line}")))
        });
        let detail = detail.collect();
        let told = surveys.iter().filter(|(.., survey)| is_told(survey));
        Survey {
            presence: worst.unwrap_or(Presence::Broken),
            says: says.join("; "),
            detail,
            fix: told.clone().find_map(|(.., survey)| survey.fix.clone()),
            node: told.clone().find_map(|(.., survey)| survey.node.clone()),
        }
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        let of_part = |(name, part): (&str, &Source)| {
            let exclusive = part.kind().exclusive().into_iter();
            let below = |Exclusive { resource, key }| Exclusive { resource, key: self.path(name, key) };
            exclusive.map(below).collect::<Vec<_>>()
        };
        self.parts().flat_map(of_part).collect()
    }

    fn has_time(&self) -> bool {
        self.leader().is_some_and(SourceKind::has_time)
    }

    fn truth(&self) -> Option<Vec<String>> {
        Some(self.path(&self.leader, self.leader()?.truth()?))
    }

    fn speed(&self) -> f64 {
        self.leader().map_or(1.0, SourceKind::speed)
    }

    fn endless(&self) -> Option<&'static str> {
        self.leader()?.endless()
    }

    fn recording(&self) -> Option<&Path> {
        None
    }

    fn frames_per_block(&self) -> usize {
        // Each frame has its own time.
        1
    }
}

/// Says which of the sources an error is of.
fn joined(name: &str, error: impl std::fmt::Display) -> SourceError {
    SourceError::Joined { name: name.to_owned(), reason: error.to_string() }
}
