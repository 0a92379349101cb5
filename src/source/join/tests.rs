use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::joiner::{By, FollowMethod, Input, Joiner, Next, Pick, Rule, line};
use super::run::{Child, JoinSource};
use crate::schema::{Checker, Key};
use crate::source::sink::frame_ring;
use crate::source::{
    FrameHeader, FrameProducer, FrameSink, Frames, Gap, OpenOptions, Pieces, Presence, SinkSettings, Source,
    SourceError, SourceStats, WhenFull,
};
use crate::stop::Stop;
use crate::stream::{SampleType, Shape, StreamSpec};
use crate::sys::{Machine, rt};
use crate::units::MonoTime;

const MS: i64 = 1_000_000;

/// A sample with one value.
#[derive(Debug, Clone, Copy)]
struct Made {
    time: i64,
    value: f32,
    gap: Option<Gap>,
    arrival: u64,
}

fn made(time: i64, value: f32) -> Made {
    Made { time, value, gap: None, arrival: 0 }
}

fn joiner(rules: &[Rule]) -> Joiner {
    let input = Input { width: 1, capacity: 1000, by: By::Stream { offset_ns: 0 } };
    let picks = std::iter::once(None).chain((0..rules.len()).map(Some));
    let picks = picks.map(|follower| Pick { follower, channel: 0 }).collect();
    Joiner::new(input, rules.iter().map(|rule| (input, *rule)), picks)
}

fn push(joiner: &mut Joiner, follower: Option<usize>, sample: Made) {
    let header = FrameHeader {
        arrival: MonoTime(sample.arrival),
        stream_ns: Some(sample.time),
        truth: None,
        gap: sample.gap,
        follow: 0,
    };
    let values = [sample.value];
    joiner.push(
        follower,
        &Frames { first: header, last: header, count: 1, follow: 0, values: Pieces::F32(&values, &[]) },
    );
}

/// A sample with the number of its segment, and the gap with which that began.
type Placed = (Made, u32, Option<Gap>);

/// A joined frame: its time, the gap before it, and its values.
type Joined = (i64, Option<Gap>, Vec<f32>);

fn drain(joiner: &mut Joiner, now: u64, joined: &mut Vec<Joined>, unmatched: &mut usize) -> bool {
    loop {
        match joiner.next(MonoTime(now)) {
            Next::Frame(header, values) => joined.push((header.stream_ns.unwrap(), header.gap, values.to_vec())),
            Next::Unmatched { .. } => *unmatched += 1,
            Next::Wait(_) => return false,
            Next::End => return true,
        }
    }
}

/// Joins streams, of which the first is the leader's, pushed in the order that `turns` says, and decided after some pushes.
fn joined(streams: &[Vec<Made>], rules: &[Rule], turns: &[usize]) -> (Vec<Joined>, usize) {
    let mut joiner = joiner(rules);
    let (mut all, mut unmatched) = (Vec::new(), 0);
    let mut next = vec![0; streams.len()];
    let mut turns = turns.iter().copied().cycle();
    while next.iter().zip(streams).any(|(next, stream)| *next < stream.len()) {
        let turn = turns.next().unwrap_or(0);
        // Where it is not its turn any more, it is that of the next one.
        let source = (0..streams.len()).map(|step| (turn + step) % streams.len());
        let source = source.into_iter().find(|source| next[*source] < streams[*source].len()).unwrap();
        push(&mut joiner, source.checked_sub(1), streams[source][next[source]]);
        next[source] += 1;
        if next[source] == streams[source].len() {
            joiner.end(source.checked_sub(1));
        }
        if turn % 3 == 0 {
            drain(&mut joiner, 0, &mut all, &mut unmatched);
        }
    }
    (0..streams.len()).for_each(|source| joiner.end(source.checked_sub(1)));
    assert!(drain(&mut joiner, 0, &mut all, &mut unmatched), "all is decided at the end");
    (all, unmatched)
}

/// The same by looking at all samples of all streams at once; their times do not go back.
fn expected(streams: &[Vec<Made>], rules: &[Rule]) -> (Vec<Joined>, usize) {
    let (leader, followers) = streams.split_first().unwrap();
    let followers: Vec<Vec<Placed>> = followers
        .iter()
        .map(|stream| {
            let (mut segment, mut began, mut gap, mut kept) = (0, None, None, Vec::<Placed>::new());
            for sample in stream {
                gap = sample.gap.or(gap);
                if kept.last().is_some_and(|(last, ..)| last.time == sample.time) {
                    continue;
                }
                if let Some(gap) = gap.take() {
                    (segment, began) = (segment + 1, Some(gap));
                }
                kept.push((*sample, segment, began));
            }
            kept
        })
        .collect();
    let (mut all, mut unmatched, mut carried) = (Vec::new(), 0, None);
    let mut used: Vec<Option<u32>> = vec![None; rules.len()];
    for sample in leader {
        let of = |(stream, rule): (&Vec<Placed>, &Rule)| {
            let t = sample.time;
            let before = stream.iter().rev().find(|(other, ..)| other.time <= t);
            let after = stream.iter().find(|(other, ..)| other.time > t);
            let near = |other: &Placed| (other.0.time - t).abs() <= rule.tolerance_ns;
            let of_one = |other: &Placed| (other.0.value, other.1, other.2);
            match (rule.method, before, after) {
                (_, Some(before), _) if before.0.time == t => Some(of_one(before)),
                (FollowMethod::Hold, Some(before), _) => near(before).then(|| of_one(before)),
                (FollowMethod::Hold, None, _) => None,
                (FollowMethod::Linear, Some(before), Some(after)) => {
                    let share = (t - before.0.time) as f64 / (after.0.time - before.0.time) as f64;
                    let is_line = near(before) && near(after) && before.1 == after.1;
                    is_line.then(|| (line(before.0.value, after.0.value, share), before.1, before.2))
                }
                (FollowMethod::Linear, ..) => None,
                (FollowMethod::Nearest, before, after) => {
                    let away = |other: &&Placed| (other.0.time - t).abs();
                    let nearest = [before, after].into_iter().flatten().min_by_key(away)?;
                    near(nearest).then(|| of_one(nearest))
                }
            }
        };
        let found: Vec<_> = followers.iter().zip(rules).map(of).collect();
        let Some(values) = found.iter().copied().collect::<Option<Vec<(f32, u32, Option<Gap>)>>>() else {
            unmatched += 1;
            carried = sample.gap.or(carried).or(Some(Gap::Unmatched));
            continue;
        };
        let mut gap = sample.gap;
        for (used, (_, segment, began)) in used.iter_mut().zip(&values) {
            let is_new = used.is_some_and(|used| used != *segment);
            gap = gap.or(began.filter(|_| is_new));
            *used = Some(*segment);
        }
        let values = std::iter::once(sample.value).chain(values.iter().map(|(value, ..)| *value)).collect();
        all.push((sample.time, gap.or(carried.take()), values));
        carried = None;
    }
    (all, unmatched)
}

fn gap() -> impl Strategy<Value = Option<Gap>> {
    prop_oneof![20 => Just(None), 1 => Just(Some(Gap::Reconnect)), 1 => Just(Some(Gap::Overrun))]
}

/// A stream whose steps in time are up to `step` ms; with `back`, its clock is set back at times.
fn stream(step: i64, back: bool) -> impl Strategy<Value = Vec<Made>> {
    let back = if back { 1 } else { 0 };
    let step = prop_oneof![40 => 0..step, back => -400i64..0];
    proptest::collection::vec((step, -100f32..100.0, gap()), 0..60).prop_map(|samples| {
        let mut time = 0;
        let sample = |(step, value, gap): (i64, f32, Option<Gap>)| {
            time += step * MS;
            Made { time, value, gap, arrival: 0 }
        };
        samples.into_iter().map(sample).collect()
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let method = prop_oneof![Just(FollowMethod::Hold), Just(FollowMethod::Linear), Just(FollowMethod::Nearest)];
    (method, 0i64..60).prop_map(|(method, ms)| Rule { method, tolerance_ns: ms * MS, wait: None })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Values, times, gaps and counts are those of the model, so: no sample outside of the tolerance is used, each frame of
    /// the leader appears once at most and in order, a line is a line, and each gap is where it must be.
    #[test]
    fn what_is_joined_depends_on_the_times_alone(
        leader in stream(25, false), first in stream(40, false), second in stream(90, false),
        rules in (rule(), rule()), turns in proptest::collection::vec(0usize..3, 1..40),
    ) {
        let (streams, rules) = ([leader, first, second], [rules.0, rules.1]);
        prop_assert_eq!(joined(&streams, &rules, &turns), expected(&streams, &rules));
    }

    #[test]
    fn the_order_of_arrival_changes_nothing_even_if_clocks_are_set_back(
        leader in stream(25, true), first in stream(40, true),
        rule in rule(), turns in proptest::collection::vec(0usize..2, 1..40), others in proptest::collection::vec(0usize..2, 1..40),
    ) {
        let streams = [leader, first];
        prop_assert_eq!(joined(&streams, &[rule], &turns), joined(&streams, &[rule], &others));
    }

    #[test]
    fn blocks_may_be_split_anywhere(
        count in 1usize..40, by_arrival in any::<bool>(),
        splits in [proptest::collection::vec(1usize..9, 1..9), proptest::collection::vec(1usize..9, 1..9)],
    ) {
        let values: Vec<i16> = (0..2 * count as i16).collect();
        let by = |offset_ns| if by_arrival { By::Arrival { period_ns: MS } } else { By::Stream { offset_ns } };
        let input = Input { width: 2, capacity: 100, by: by(5) };
        let rule = Rule { method: FollowMethod::Hold, tolerance_ns: 0, wait: None };
        let picks = [(None, 1), (Some(0), 0), (None, 0)].map(|(follower, channel)| Pick { follower, channel });
        let mut joiner = Joiner::new(Input { by: by(0), ..input }, [(input, rule)], picks.to_vec());
        for ((follower, offset), splits) in [(None, 0), (Some(0), 5)].into_iter().zip(splits) {
            let header = |frame: usize| FrameHeader {
                arrival: MonoTime(1000 * MS as u64), stream_ns: Some(1000 + frame as i64 * MS - offset), truth: None,
                gap: (frame == 0).then_some(Gap::Overflow), follow: 0,
            };
            let (mut start, mut splits) = (0, splits.iter().cycle());
            while start < count {
                let part = (*splits.next().unwrap()).min(count - start);
                let piece = &values[2 * start..2 * (start + part)];
                let (one, two) = piece.split_at(part);
                let frames = Frames {
                    first: header(start), last: header(start + part - 1), count: part, follow: count - start - part,
                    values: Pieces::I16(one, two),
                };
                prop_assert_eq!(joiner.push(follower, &frames), 0);
                start += part;
            }
        }
        let (mut all, mut unmatched) = (Vec::new(), 0);
        drain(&mut joiner, 0, &mut all, &mut unmatched);
        prop_assert_eq!((all.len(), unmatched), (count, 0));
        for (frame, (time, gap, joined)) in all.into_iter().enumerate() {
            let value = |channel: usize| f32::from(values[2 * frame + channel]);
            prop_assert_eq!(time, 1000 + frame as i64 * MS);
            prop_assert_eq!(gap, (frame == 0).then_some(Gap::Overflow));
            prop_assert_eq!(joined, vec![value(1), value(0), value(0)]);
        }
    }
}

#[test]
fn a_frame_waits_for_a_late_source_and_no_longer() {
    let wait = Some(Duration::from_millis(100));
    let rule = |method| Rule { method, tolerance_ns: 50 * MS, wait };
    let at = |ms: i64| ms as u64 * MS as u64;
    for (method, value) in
        [(FollowMethod::Hold, Some(5.0)), (FollowMethod::Nearest, Some(5.0)), (FollowMethod::Linear, None)]
    {
        let mut joiner = joiner(&[rule(method)]);
        push(&mut joiner, Some(0), made(0, 5.0));
        push(&mut joiner, None, Made { arrival: at(1000), ..made(20 * MS, 1.0) });
        let due = MonoTime(at(1100));
        assert_eq!(joiner.next(MonoTime(at(1099))), Next::Wait(Some(due)), "{method:?}");
        match value {
            Some(value) => assert!(matches!(joiner.next(due), Next::Frame(_, values) if *values == [1.0, value])),
            None => assert_eq!(joiner.next(due), Next::Unmatched { follower: 0, nearest_ns: Some(20 * MS) }),
        }
    }
    // What comes in time is used at once.
    let mut joiner = joiner(&[rule(FollowMethod::Linear)]);
    push(&mut joiner, Some(0), made(0, 5.0));
    push(&mut joiner, None, Made { arrival: at(1000), ..made(20 * MS, 1.0) });
    push(&mut joiner, Some(0), made(40 * MS, 7.0));
    assert!(matches!(joiner.next(MonoTime(at(1001))), Next::Frame(header, [1.0, 6.0]) if header.gap.is_none()));
    assert_eq!(joiner.next(MonoTime(at(1001))), Next::Wait(None));
}

#[test]
fn both_boards_may_start_again() {
    let rule = Rule { method: FollowMethod::Hold, tolerance_ns: 30 * MS, wait: Some(Duration::from_secs(1)) };
    let mut joiner = joiner(&[rule]);
    for (follower, ms, value) in [
        (Some(0), 1000, 1.0),
        (None, 1010, 0.0),
        (Some(0), 1020, 2.0),
        // The leader is set back first, and waits for the other.
        (None, 5, 0.0),
        (Some(0), 2, 3.0),
        (Some(0), 22, 4.0),
        (None, 25, 0.0),
        (Some(0), 42, 5.0),
    ] {
        push(&mut joiner, follower, made(ms * MS, value));
    }
    let (mut all, mut unmatched) = (Vec::new(), 0);
    drain(&mut joiner, 0, &mut all, &mut unmatched);
    let back = Some(Gap::TimeBack);
    let wanted = [(1010, None, 1.0), (5, back, 3.0), (25, None, 4.0)];
    assert_eq!(all, wanted.map(|(ms, gap, value)| (ms * MS, gap, vec![0.0, value])));
    assert_eq!(unmatched, 0);
}

fn checked(text: &str) -> Result<Source, Vec<String>> {
    let mut source: Source = toml::from_str(text).map_err(|error| vec![error.message().to_owned()])?;
    let mut checker = Checker::new(std::path::Path::new(""));
    source.check(&Key::new(&["source"]), &mut checker);
    let shown = |problem: crate::schema::Problem| format!("{}: {}", problem.key, problem.message);
    checker.finish(Some(source)).map_err(|problems| problems.into_iter().map(shown).collect())
}

fn lines(fifo: &str, channels: &str, more: &str) -> String {
    format!("{{ lines = {{ from = {{ fifo = {fifo:?} }}, records = {{ channels = [{channels}], {more} }} }} }}")
}

#[test]
fn what_cannot_be_joined_is_refused_with_what_is_right() {
    let imu = lines("imu", "'ax', 'ay'", "time = 't', rate_hz = 50.0");
    let temp = lines("temp", "'c'", "time = 't', rate_hz = 1.0");
    let join =
        |rest: &str, imu: &str, temp: &str| format!("[join]\n{rest}\n[join.sources]\nimu = {imu}\ntemp = {temp}\n");
    let refusal = |text: &str| checked(text).map(drop).unwrap_err().join("\n");
    let good = checked(&join("leader = 'imu'", &imu, &temp)).unwrap();
    let StreamSpec { frame, rate_hz, names, .. } = good.kind().spec();
    assert_eq!((frame.values(), rate_hz), (3, Some(50.0)));
    assert_eq!(names, ["imu.ax", "imu.ay", "temp.c"]);
    assert!(good.kind().has_time());
    let temp_leads = checked(&join("leader = 'temp'\nchannels = ['imu.ay', 'temp.c']", &imu, &temp)).unwrap();
    assert_eq!(temp_leads.kind().spec().names, ["imu.ay", "temp.c"]);
    assert_eq!(temp_leads.kind().spec().rate_hz, Some(1.0));
    let untimed = lines("temp", "'c'", "");
    for (text, expected) in [
        (join("leader = 'temq'", &imu, &temp), "source.join.leader: there is no source `temq`; did you mean `temp`?"),
        (join("leader = 'imu'\nfollowers.imu = {}", &imu, &temp), "source.join.followers.imu: this is the leader"),
        (join("leader = 'imu'\nfollowers.x = {}", &imu, &temp), "source.join.followers.x: there is no source `x`"),
        (join("leader = 'imu'", &imu, &untimed), "source.join.sources.temp.lines: this source has no time of its own"),
        (
            join("leader = 'imu'\nclock = 'arrival'", &imu, &untimed),
            "source.join.sources.temp.lines: set followers.temp.tolerance_ms",
        ),
        (join("leader = 'imu'\nchannels = ['imu.x']", &imu, &temp), "the channels are imu.ax, imu.ay, temp.c"),
        (join("leader = 'imu'\nchannels = ['imu.ax', 'imu.ax']", &imu, &temp), "`imu.ax` is listed twice"),
        (
            join("leader = 'imu'", &imu, &lines("temp", "'c'", "time = 't', rate_hz = 1.0, truth = 'y'")),
            "source.join.sources.temp.lines.records.truth: only the true label of the leader",
        ),
        (
            join("leader = 'imu'\nclock = 'arrival'\nfollowers.temp.offset_ms = 1.0", &imu, &temp),
            "source.join.followers.temp.offset_ms: with clock",
        ),
        (
            join("leader = 'imu'", &imu, &format!("{{ join = {{ leader = 'a', sources = {{ a = {imu} }} }} }}")),
            "a join cannot be a source of a join",
        ),
        (format!("[join]\nleader = 'imu'\nsources.imu = {imu}"), "a join has 2 to 16 sources, and here are 1"),
        (
            join(
                "leader = 'imu'\nclock = 'arrival'",
                &imu,
                "{ raw = { from = { fifo = 'v' }, bytes = { format = 'gray', width = 4, height = 4, rate_hz = 5.0 } } }",
            ),
            "source.join.sources.temp: this source gives images",
        ),
    ] {
        assert!(refusal(&text).contains(expected), "{expected}\n{}", refusal(&text));
    }
    let exclusive: Vec<String> = good.kind().exclusive().into_iter().map(|taken| taken.key.join(".")).collect();
    assert_eq!(exclusive, ["sources.imu.lines.from", "sources.temp.lines.from"]);
}

#[test]
fn the_survey_tells_which_source_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    nix::unistd::mkfifo(&folder.path().join("imu"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (imu, temp) = (
        lines(&path("imu"), "'ax'", "time = 't', rate_hz = 50.0"),
        lines(&path("temp"), "'c'", "time = 't', rate_hz = 1.0"),
    );
    let source = checked(&format!("[join]\nleader = 'imu'\nsources = {{ imu = {imu}, temp = {temp} }}")).unwrap();
    let survey = source.kind().survey(&Machine::this());
    assert_eq!(survey.presence, Presence::Broken);
    assert!(survey.says.starts_with("temp (lines): there is no FIFO"), "{survey:?}");
    let refusal = source.kind().check_access().unwrap_err().to_string();
    assert!(refusal.starts_with("the source temp of the join: there is no FIFO"), "{refusal}");
}

/// Like [`Joined`], with the stream's time if it has one.
type JoinedAt = (Option<i64>, Option<Gap>, Vec<f32>);

/// Reads what is joined until the stream ends.
fn run(source: &Source, once: bool, stop: &Arc<Stop>) -> (Vec<JoinedAt>, Arc<SourceStats>, Result<(), String>) {
    let kind = source.kind();
    let settings = SinkSettings { spec: kind.spec(), frames: 256, frames_per_block: 1, when_full: WhenFull::Wait };
    let stats = Arc::<SourceStats>::default();
    let (mut sink, mut reader) = frame_ring(&settings, "test", stop.clone(), stats.clone());
    let opened = kind.open(OpenOptions { once, ..OpenOptions::default() }).unwrap();
    let thread = std::thread::spawn(move || opened.run(&mut sink).map_err(|error| error.to_string()));
    let mut frames = Vec::new();
    loop {
        let ended = reader.is_abandoned();
        let frame = reader.pop(
            1,
            |_, _| false,
            |frames| match frames.values {
                Pieces::F32(first, second) => (frames.first.stream_ns, frames.first.gap, [first, second].concat()),
                other => panic!("{other:?}"),
            },
        );
        match frame {
            Some(frame) => frames.push(frame),
            None if ended => break,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
        reader.room_made();
    }
    (frames, stats, thread.join().unwrap())
}

fn replay(folder: &std::path::Path, name: &str, text: &str, rate: f64) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    format!(
        "{{ replay = {{ path = {path:?}, speed = \"max\", records = {{ channels = [\"v\"], time = \"t\", rate_hz = {rate:?} }} }} }}"
    )
}

#[test]
fn two_recordings_of_different_rates_are_joined_as_fast_as_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let recording = |count: usize, step: f64, value: fn(f64) -> f64| {
        let line = |index: usize| format!("{:.4},{}\n", index as f64 * step, value(index as f64 * step));
        format!("t,v\n{}", (0..count).map(line).collect::<String>())
    };
    // Ten seconds at 100 Hz, and the square of the time at 7 Hz; a line is not accepted.
    let fast = replay(folder.path(), "fast", &recording(1000, 0.01, |t| t), 100.0);
    let slow = recording(72, 1.0 / 7.0, |t| 3.0 * t).replacen("\n0.", "\nx,1\n0.", 1);
    let slow = replay(folder.path(), "slow", &slow, 7.0);
    let text = format!(
        "[join]\nleader = 'fast'\nsources = {{ fast = {fast}, slow = {slow} }}\nfollowers.slow = {{ method = 'linear', tolerance_ms = 150.0 }}"
    );
    let (frames, stats, result) = run(&checked(&text).unwrap(), true, &Arc::new(Stop::new().unwrap()));
    result.unwrap();
    assert_eq!(frames.len(), 1000);
    for (index, (ns, gap, values)) in frames.iter().enumerate() {
        let t = index as f64 * 0.01;
        assert_eq!((*ns, *gap), (Some(index as i64 * 10 * MS), None));
        assert!((values[0] - t as f32).abs() < 1e-5 && (values[1] - 3.0 * t as f32).abs() < 2e-3, "{t}: {values:?}");
    }
    assert_eq!((stats.samples.load(Ordering::Relaxed), stats.unmatched.load(Ordering::Relaxed)), (1000, 0));
    assert_eq!(stats.rejected(), 1, "what a part rejects is counted");
    assert!(stats.remarks().reject.unwrap().starts_with("slow: "), "{:?}", stats.remarks());
}

#[test]
fn a_stop_and_an_error_end_all_threads() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["imu", "temp"] {
        nix::unistd::mkfifo(&folder.path().join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let fifo = |name: &str| {
        lines(
            &folder.path().join(name).display().to_string(),
            "'v'",
            "columns = ['t', 'v'], time = 't', rate_hz = 50.0",
        )
    };
    let text = format!("[join]\nleader = 'imu'\nsources = {{ imu = {}, temp = {} }}", fifo("imu"), fifo("temp"));
    let stop = Arc::new(Stop::new().unwrap());
    let later = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            stop.request();
        })
    };
    let (frames, _, result) = run(&checked(&text).unwrap(), false, &stop);
    later.join().unwrap();
    assert_eq!((frames.len(), result), (0, Ok(())));
    // A recording that is damaged ends the join with its reason.
    let good = replay(folder.path(), "good", "t,v\n0,1\n0.01,2\n", 100.0);
    let bad = replay(folder.path(), "bad", "t,v\n0,1\n0.01,2\n", 100.0);
    let source = checked(&format!("[join]\nleader = 'good'\nsources = {{ good = {good}, bad = {bad} }}")).unwrap();
    std::fs::write(folder.path().join("bad"), "t,w\n0,1\n").unwrap();
    let refusal = source.kind().open(OpenOptions::default()).map(drop).unwrap_err().to_string();
    assert!(refusal.starts_with("the source bad of the join: "), "{refusal}");
}

/// A source that does what the function does.
struct Acts<F>(F);

impl<F: FnOnce(&mut FrameSink) + Send> FrameProducer for Acts<F> {
    fn run(self: Box<Self>, sink: &mut FrameSink) -> Result<(), SourceError> {
        (self.0)(sink);
        Ok(())
    }
}

/// A join that runs.
struct Joining {
    stop: Arc<Stop>,
    stats: Arc<SourceStats>,
    thread: std::thread::JoinHandle<(Result<(), String>, Option<u8>)>,
}

/// Joins two such sources, `imu` and `temp`, on a thread with the priority 3 if that is granted.
fn join_of(silence: Option<Duration>, acts: impl Fn(&mut FrameSink) + Clone + Send + 'static) -> Joining {
    let spec = StreamSpec::new(Shape::new([1]), SampleType::F32, Some(50.0));
    let settings = SinkSettings { spec, frames: 64, frames_per_block: 1, when_full: WhenFull::Drop };
    let rule = Rule { method: FollowMethod::Hold, tolerance_ns: MS, wait: Some(Duration::ZERO) };
    let child = |name: &str, rule| Child {
        name: name.to_owned(),
        producer: Box::new(Acts(acts.clone())),
        settings: settings.clone(),
        silence,
        rule,
    };
    let children = vec![child("imu", None), child("temp", Some(rule))];
    let source = Box::new(JoinSource { children, joiner: joiner(&[rule]), watches_clocks: true });
    let (stop, stats) = (Arc::new(Stop::new().unwrap()), Arc::<SourceStats>::default());
    let (mut sink, reader) = frame_ring(&settings, "test", stop.clone(), stats.clone());
    let thread = std::thread::spawn(move || {
        let _reader = reader;
        let _ = rt::prioritise(3);
        (source.run(&mut sink).map_err(|error| error.to_string()), rt::priority())
    });
    Joining { stop, stats, thread }
}

fn wait_for_stop(sink: &mut FrameSink) {
    let far = MonoTime::now() + Duration::from_secs(3600);
    assert_eq!(sink.stop().sleep_until(far).unwrap(), crate::stop::Waited::Stopped);
}

#[test]
fn a_leader_that_gives_nothing_is_named() {
    let joining = join_of(Some(Duration::from_millis(50)), wait_for_stop);
    let deadline = MonoTime::now() + Duration::from_secs(60);
    let trouble = loop {
        match joining.stats.remarks().trouble {
            None if MonoTime::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            trouble => break trouble,
        }
    };
    let silent = "no sample has come for 0 s; check what feeds it";
    assert_eq!(trouble, Some(format!("imu: {silent}; temp: {silent}")));
    joining.stop.request();
    assert_eq!(joining.thread.join().unwrap().0, Ok(()));
}

#[test]
fn the_threads_of_the_sources_have_the_priority_of_the_join() {
    let (told, priorities) = std::sync::mpsc::channel();
    let joining = join_of(None, move |sink: &mut FrameSink| {
        told.send(rt::priority()).unwrap();
        wait_for_stop(sink);
    });
    let theirs = [priorities.recv().unwrap(), priorities.recv().unwrap()];
    joining.stop.request();
    let (result, ours) = joining.thread.join().unwrap();
    assert_eq!((result, theirs), (Ok(()), [ours; 2]));
}

#[test]
fn a_stop_ends_a_join_in_one_second_even_if_its_sources_hang() {
    let (told, begun) = std::sync::mpsc::channel();
    let joining = join_of(None, move |_: &mut FrameSink| {
        told.send(()).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    });
    begun.recv().unwrap();
    begun.recv().unwrap();
    // It then waits, for one second at most.
    std::thread::sleep(Duration::from_millis(100));
    let asked = MonoTime::now();
    joining.stop.request();
    assert_eq!(joining.thread.join().unwrap().0, Ok(()));
    let took = MonoTime::now().since(asked);
    assert!(took < Duration::from_millis(1800), "{took:?}");
}
