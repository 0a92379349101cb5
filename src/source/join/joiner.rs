//! Joins the samples of several sources by their times. Pure: time is passed in, and all memory is taken once.
//!
//! The samples of the leader set the times. To each one every follower gives a value of that time, from samples of its own
//! within its tolerance; if it has none, there is no joined frame. What is decided depends on the samples alone, not on the
//! order in which those of different sources arrive, unless a follower is later than the leader waits.

use std::time::Duration;

use super::queue::{Queue, Sample};
use crate::schema::choice;
use crate::source::{FrameHeader, Frames, Gap};
use crate::units::MonoTime;

choice! {
    /// How the value of a source at a time is found.
    #[derive(Default)]
    pub enum FollowMethod {
        /// The newest sample at that time or before.
        #[default]
        Hold = "hold",
        /// The straight line between the samples before and after.
        Linear = "linear",
        /// The sample that is nearest in time.
        Nearest = "nearest",
    }
}

/// By which time samples are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The time of each stream, and this much more.
    Stream { offset_ns: i64 },
    /// The time of arrival; frames that arrive together are this far apart, and the last one is complete then.
    Arrival { period_ns: i64 },
}

/// How one follower is joined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rule {
    pub(super) method: FollowMethod,
    /// No sample that is used is further away from the leader's.
    pub(super) tolerance_ns: i64,
    /// How long the leader's sample waits for it after its arrival; `None`: for ever.
    pub(super) wait: Option<Duration>,
}

/// The size of one source's frames, how many of them are kept, and by which time they are joined.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input {
    pub(super) width: usize,
    pub(super) capacity: usize,
    pub(super) by: By,
}

/// A value of a joined frame: that of a channel of the leader, or of a follower by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pick {
    pub(super) follower: Option<usize>,
    pub(super) channel: usize,
}

/// What has become of the leader's oldest sample.
#[derive(Debug, PartialEq)]
pub(super) enum Next<'a> {
    /// It is joined. Its header has the gap before it.
    Frame(FrameHeader, &'a [f32]),
    /// The follower has nothing for it; the nearest of the samples that are there is so far away, if there is one.
    Unmatched { follower: usize, nearest_ns: Option<i64> },
    /// It is not decided; without more samples, it is at this time.
    Wait(Option<MonoTime>),
    /// The leader has ended, and all its samples are decided.
    End,
}

/// The samples that are to be joined.
pub(super) struct Joiner {
    leader: Stamped,
    followers: Vec<Follower>,
    picks: Vec<Pick>,
    frame: Vec<f32>,
    /// What lies between the last joined frame and the next.
    gap: Option<Gap>,
}

impl Joiner {
    pub(super) fn new(leader: Input, followers: impl IntoIterator<Item = (Input, Rule)>, picks: Vec<Pick>) -> Self {
        let follower = |(input, rule): (Input, Rule)| Follower {
            of: Stamped::new(input),
            rule,
            value: vec![0.0; input.width],
            followed_epoch: 0,
            segment: 0,
            used_segment: None,
        };
        Self {
            leader: Stamped::new(leader),
            followers: followers.into_iter().map(follower).collect(),
            frame: vec![0.0; picks.len()],
            picks,
            gap: None,
        }
    }

    fn stamped(&mut self, follower: Option<usize>) -> Option<&mut Stamped> {
        match follower {
            None => Some(&mut self.leader),
            Some(index) => self.followers.get_mut(index).map(|follower| &mut follower.of),
        }
    }

    /// Returns how many more frames of a source there is room for; `None` is the leader.
    pub(super) fn room(&mut self, follower: Option<usize>) -> usize {
        self.stamped(follower).map_or(0, |stamped| stamped.queue.room())
    }

    /// Takes frames of a source, for which there is room. Returns how many of them have no time, and are lost.
    pub(super) fn push(&mut self, follower: Option<usize>, frames: &Frames<'_>) -> usize {
        // A sample with the time of the one before does not replace it.
        let skips_equal = follower.is_some();
        let lost = self.stamped(follower).map_or(0, |stamped| stamped.push(frames, skips_equal));
        if lost > 0 && follower.is_none() {
            self.gap.get_or_insert(Gap::Unmatched);
        }
        lost
    }

    /// No more frames of that source will come.
    pub(super) fn end(&mut self, follower: Option<usize>) {
        if let Some(stamped) = self.stamped(follower) {
            stamped.ended = true;
        }
    }

    /// Returns whether samples of the leader wait to be joined.
    pub(super) fn is_waiting(&self) -> bool {
        !self.leader.queue.is_empty()
    }

    /// Makes room for frames of a follower that comes without the leader: the oldest are of no use any more.
    pub(super) fn forget(&mut self, follower: usize, frames: usize) {
        if let Some(follower) = self.followers.get_mut(follower) {
            while follower.of.queue.room() < frames && follower.of.queue.len() > 2 {
                follower.of.queue.pop();
            }
        }
    }

    /// Decides on the leader's oldest sample, at the time `now`.
    pub(super) fn next(&mut self, now: MonoTime) -> Next<'_> {
        let Some(sample) = self.leader.queue.get(0).copied() else {
            return if self.leader.ended { Next::End } else { Next::Wait(None) };
        };
        let (mut waits, mut due) = (false, None::<MonoTime>);
        for (index, follower) in self.followers.iter_mut().enumerate() {
            match follower.decide(&sample, now) {
                Found::Value => {}
                Found::Wait(until) => {
                    waits = true;
                    due = [due, until].into_iter().flatten().min();
                }
                Found::Nothing(nearest_ns) => {
                    self.leader.queue.pop();
                    self.gap = sample.header.gap.or(self.gap).or(Some(Gap::Unmatched));
                    return Next::Unmatched { follower: index, nearest_ns };
                }
            }
        }
        if waits {
            return Next::Wait(due);
        }
        let mut gap = sample.header.gap;
        for follower in &mut self.followers {
            gap = gap.or(follower.take_gap());
        }
        let header = FrameHeader { gap: gap.or(self.gap.take()), ..sample.header };
        self.gap = None;
        let (leader, followers) = (self.leader.queue.values(0), &self.followers);
        for (value, pick) in self.frame.iter_mut().zip(&self.picks) {
            let of = pick.follower.map_or(leader, |index| followers.get(index).map_or(&[], |f| &f.value));
            *value = of.get(pick.channel).copied().unwrap_or(f32::NAN);
        }
        self.leader.queue.pop();
        Next::Frame(header, &self.frame)
    }
}

/// The samples of a source with the times by which they are joined.
struct Stamped {
    queue: Queue,
    by: By,
    last: Option<i64>,
    epoch: u32,
    segment: u32,
    began: Option<Gap>,
    /// The gap before the next sample.
    gap: Option<Gap>,
    ended: bool,
}

impl Stamped {
    fn new(input: Input) -> Self {
        Self {
            queue: Queue::new(input.capacity, input.width),
            by: input.by,
            last: None,
            epoch: 0,
            segment: 0,
            began: None,
            gap: None,
            ended: false,
        }
    }

    fn push(&mut self, frames: &Frames<'_>, skips_equal: bool) -> usize {
        let count = i64::try_from(frames.count).unwrap_or(i64::MAX);
        let follow = i64::try_from(frames.follow).unwrap_or(i64::MAX);
        let mut lost = 0;
        for (index, nth) in (0..frames.count).zip(0i64..) {
            // Only the times of the first and the last are written.
            let stream_ns = frames.first.stream_ns.zip(frames.last.stream_ns).map(|(first, last)| {
                let span = i128::from(last) - i128::from(first);
                let passed = span * i128::from(nth) / i128::from((count - 1).max(1));
                i64::try_from(i128::from(first) + passed).unwrap_or(last)
            });
            let first = if index == 0 { frames.first } else { frames.last };
            let gap = first.gap.filter(|_| index == 0);
            self.gap = gap.or(self.gap);
            let time = match self.by {
                By::Stream { offset_ns } => stream_ns.map(|ns| ns.saturating_add(offset_ns)),
                By::Arrival { period_ns } => {
                    let arrival = i64::try_from(first.arrival.0).unwrap_or(i64::MAX);
                    let back = period_ns.saturating_mul((count - 1 - nth).saturating_add(follow));
                    // What arrives together came one after the other.
                    let after = self.last.map_or(i64::MIN, |last| last.saturating_add(1));
                    Some(arrival.saturating_sub(back).max(after))
                }
            };
            let Some(time) = time else {
                lost += 1;
                continue;
            };
            if skips_equal && self.last == Some(time) {
                continue;
            }
            let goes_back = self.last.is_some_and(|last| time < last);
            self.last = Some(time);
            if goes_back {
                self.epoch = self.epoch.wrapping_add(1);
                self.gap.get_or_insert(Gap::TimeBack);
            }
            let gap = self.gap.take();
            if gap.is_some() {
                (self.segment, self.began) = (self.segment.wrapping_add(1), gap);
            }
            let header = FrameHeader { stream_ns, gap, ..first };
            let sample = Sample { time, header, epoch: self.epoch, segment: self.segment, began: self.began };
            self.queue.push(sample, frames.values, index);
        }
        lost
    }
}

/// What a follower has for a sample of the leader.
enum Found {
    /// It is in `value`.
    Value,
    Nothing(Option<i64>),
    Wait(Option<MonoTime>),
}

struct Follower {
    of: Stamped,
    rule: Rule,
    value: Vec<f32>,
    /// The epoch of the leader to which the follower's present epoch belongs.
    followed_epoch: u32,
    /// The segment of the sample in `value`, and of that in the last joined frame.
    segment: u32,
    used_segment: Option<u32>,
}

impl Follower {
    fn decide(&mut self, leader: &Sample, now: MonoTime) -> Found {
        loop {
            self.drop_older_than(leader.time);
            match self.find(leader, now) {
                Found::Nothing(_) if self.is_over(leader) => {
                    let past = self.of.queue.get(0).map(|sample| sample.epoch);
                    while self.of.queue.get(0).map(|sample| sample.epoch) == past {
                        self.of.queue.pop();
                    }
                    self.followed_epoch = leader.epoch;
                }
                found => return found,
            }
        }
    }

    /// Keeps only the last one of the samples up to `time`, and those after it.
    fn drop_older_than(&mut self, time: i64) {
        while let Some((first, second)) = self.of.queue.get(0).zip(self.of.queue.get(1)) {
            if first.epoch != second.epoch || second.time > time {
                break;
            }
            self.of.queue.pop();
        }
    }

    fn has_later_epoch(&self) -> bool {
        let queue = &self.of.queue;
        queue.get(0).zip(queue.last()).is_some_and(|(first, last)| first.epoch != last.epoch)
    }

    /// Returns whether the follower's clock was set back, and what came before has nothing for this sample nor for later
    /// ones: it was all earlier, or the leader's clock was set back too.
    fn is_over(&self, leader: &Sample) -> bool {
        let Some((first, second)) = self.of.queue.get(0).zip(self.of.queue.get(1)) else { return false };
        let is_past = first.time <= leader.time && first.epoch != second.epoch;
        self.has_later_epoch() && (is_past || first.time > leader.time && leader.epoch != self.followed_epoch)
    }

    fn find(&mut self, leader: &Sample, now: MonoTime) -> Found {
        let due = self.rule.wait.map(|wait| leader.header.arrival + wait);
        let no_more = self.of.ended || due.is_some_and(|due| now >= due);
        let queue = &self.of.queue;
        let Some(first) = queue.get(0) else {
            return if no_more { Found::Nothing(None) } else { Found::Wait(due) };
        };
        let away = |sample: &Sample| sample.time.saturating_sub(leader.time).saturating_abs();
        let is_near = |sample: &Sample| away(sample) <= self.rule.tolerance_ns;
        let no_more = no_more || self.has_later_epoch();
        if first.time > leader.time {
            // If the leader's clock was set back, so may that of the follower have been.
            let may_follow = leader.epoch != self.followed_epoch && !no_more && queue.room() > 0;
            return match self.rule.method {
                _ if may_follow => Found::Wait(due),
                FollowMethod::Nearest if is_near(first) => self.take(0),
                _ => Found::Nothing(Some(away(first))),
            };
        }
        self.followed_epoch = leader.epoch;
        let second = queue.get(1).filter(|second| second.epoch == first.epoch);
        if first.time == leader.time {
            return self.take(0);
        }
        let nothing = Found::Nothing(Some(second.map_or(away(first), |second| away(second).min(away(first)))));
        match (self.rule.method, second) {
            (_, None) if !no_more => Found::Wait(due),
            (FollowMethod::Linear, Some(second)) => {
                let is_line = first.segment == second.segment && is_near(first) && is_near(second);
                if is_line { self.interpolate(leader.time) } else { nothing }
            }
            (FollowMethod::Linear, None) => nothing,
            (FollowMethod::Nearest, Some(second)) if away(second) < away(first) => {
                if is_near(second) {
                    self.take(1)
                } else {
                    nothing
                }
            }
            (FollowMethod::Hold | FollowMethod::Nearest, _) => {
                if is_near(first) {
                    self.take(0)
                } else {
                    nothing
                }
            }
        }
    }

    /// Uses the sample `index`, which is there.
    fn take(&mut self, index: usize) -> Found {
        self.value.copy_from_slice(self.of.queue.values(index));
        self.use_segment(index);
        Found::Value
    }

    /// Uses the line between the two first samples, which are there and at different times.
    fn interpolate(&mut self, time: i64) -> Found {
        let queue = &self.of.queue;
        let Some((first, second)) = queue.get(0).zip(queue.get(1)) else { return Found::Nothing(None) };
        let share = (i128::from(time) - i128::from(first.time)) as f64
            / (i128::from(second.time) - i128::from(first.time)) as f64;
        let ends = queue.values(0).iter().zip(queue.values(1));
        for (value, (first, second)) in self.value.iter_mut().zip(ends) {
            *value = line(*first, *second, share);
        }
        self.use_segment(0);
        Found::Value
    }

    fn use_segment(&mut self, index: usize) {
        if let Some(sample) = self.of.queue.get(index) {
            self.segment = sample.segment;
        }
    }

    /// Returns the gap between the sample in the last joined frame and the one in this frame, if there is one.
    fn take_gap(&mut self) -> Option<Gap> {
        let now = self.segment;
        if self.used_segment.replace(now).is_none_or(|before| before == now) {
            return None;
        }
        let queue = &self.of.queue;
        let of_segment = (0..queue.len()).filter_map(|index| queue.get(index)).find(|sample| sample.segment == now);
        of_segment.and_then(|sample| sample.began).or(Some(Gap::Interrupted))
    }
}

/// Returns the value at the place `share` between two values.
pub(super) fn line(first: f32, second: f32, share: f64) -> f32 {
    (f64::from(first) + (f64::from(second) - f64::from(first)) * share) as f32
}
