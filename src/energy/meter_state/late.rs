//! An inference that took so long that readings during it were counted as if nothing ran: its part is counted afterwards.

use super::{MeterState, RECENT_MAX};
use crate::energy::sums::{Interval, LookBack};
use crate::engine::span::BusySpan;
use crate::units::MonoTime;

/// An interval that was counted, and if idle power was learned from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recent {
    interval: Interval,
    was_idle: bool,
}

impl MeterState {
    /// Remembers an interval that was counted.
    pub(super) fn remember(&mut self, interval: Interval) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent { interval, was_idle: false });
    }

    /// Notes that idle power was learned from an interval.
    pub(super) fn mark_idle(&mut self, start: MonoTime) {
        if let Some(recent) = self.recent.iter_mut().rev().find(|recent| recent.interval.start == start) {
            recent.was_idle = true;
        }
    }

    /// Returns whether all counted intervals of the window from `start` on are remembered.
    pub(super) fn remembers(&self, start: MonoTime) -> bool {
        let Some((window, _)) = self.window.segments.first() else { return true };
        self.recent.front().is_some_and(|first| first.interval.start <= start.max(*window))
    }

    /// Counts the work that a span, already added, did before `until`: in this window, if it was in no earlier one.
    pub(super) fn count_late(&mut self, pipeline: usize, span: BusySpan, until: MonoTime) {
        let window_start = self.window.segments.first().map_or(until, |(start, _)| *start);
        if let Some(spans) = self.spans.get_mut(pipeline) {
            spans.take_until(window_start);
            let work = spans.take_until(until);
            if let Some(sum) = self.window.works.get_mut(pipeline) {
                sum.add(work);
            }
        }
        self.end_idle();
        for recent in self.recent.iter_mut().filter(|recent| recent.interval.end > span.start) {
            let before = recent.interval;
            recent.interval = with_busy(&before, span);
            if before.start >= window_start {
                self.window.all.revise(&before, &recent.interval);
                if recent.was_idle {
                    self.window.add_active(&recent.interval);
                } else {
                    self.window.active.revise(&before, &recent.interval);
                }
            }
            recent.was_idle = false;
            if let Some(last) = self.last.as_mut().filter(|last| last.reading.time == recent.interval.end) {
                last.look_back = recent.interval.to;
            }
        }
        self.forget_idle_since(span.start);
        self.last_busy = Some(until);
    }

    /// Takes back what was learned of idle power since `start`.
    fn forget_idle_since(&mut self, start: MonoTime) {
        (self.idle_sums, self.rest) = (None, None);
        self.tail.drop_pause();
        let none_since = self.last_busy.is_none_or(|last| last <= start);
        match (self.before_pause.take(), self.idle_models.get_mut(&self.delegates)) {
            (Some((at, before)), Some(model)) if at <= start => *model = before,
            (None, _) if none_since => {}
            _ => {
                self.idle_models.remove(&self.delegates);
            }
        }
    }
}

/// Returns the interval with the part of `span` in it.
fn with_busy(interval: &Interval, span: BusySpan) -> Interval {
    let length_s = span.end.since(span.start).as_secs_f64();
    let density = span.busy_ns as f64 / 1e9 / length_s.max(1e-9);
    let busy_s = |from: MonoTime, to: MonoTime| density * span.end.min(to).since(span.start.max(from)).as_secs_f64();
    let look_back = |at: MonoTime, look_back: LookBack| {
        let from = MonoTime(at.0.saturating_sub((look_back.span_s * 1e9) as u64));
        let late_s = busy_s(from, at);
        LookBack {
            busy: (look_back.busy + late_s / look_back.span_s.max(1e-9)).min(1.0),
            inferences: look_back.inferences + f64::from(span.inferences) * late_s / length_s.max(1e-9),
            ..look_back
        }
    };
    Interval {
        busy_s: (interval.busy_s + busy_s(interval.start, interval.end)).min(interval.time_s()),
        from: look_back(interval.start, interval.from),
        to: look_back(interval.end, interval.to),
        ..*interval
    }
}
