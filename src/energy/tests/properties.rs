//! What holds for any times of spans, readings and estimates.

use proptest::prelude::*;

use super::*;

proptest! {
    /// Whatever the times of spans, readings and estimates, all work is counted once, in the window in which it was done,
    /// and the parts of the energy are the whole.
    #[test]
    fn nothing_is_lost_or_counted_twice(
        steps in prop::collection::vec((0u64..50, 1u64..80, 0usize..2), 1..200),
        ticks in prop::collection::vec((1u64..200, any::<bool>(), 0.1f64..9.0), 1..40),
    ) {
        const FROM: u64 = 1_000;
        let mut free = [FROM; 2];
        let mut spans: Vec<(usize, BusySpan)> = steps.iter().map(|&(pause, length, pipeline)| {
            let start = free[pipeline] + pause;
            free[pipeline] = start + length;
            (pipeline, span_ns(start, start + length))
        }).collect();
        spans.sort_by_key(|(_, span)| span.end);
        let mut attribution = new_attribution(2);
        read_ns(&mut attribution, 0, FROM, 0.0);
        let (mut now, mut joules, mut window_s) = (FROM, 0.0, 0.0);
        let mut sums = [(0.0, 0.0); 2];
        let mut waiting = spans.iter().peekable();
        for (pause, is_figure, added) in ticks.into_iter().chain([(1_000_000, true, 1.0)]) {
            now += pause;
            joules += added;
            while let Some((pipeline, span)) = waiting.next_if(|(_, span)| span.end.0 <= now + pause / 2) {
                attribution.add_span(*pipeline, *span);
            }
            for pipeline in 0..2 {
                let next = waiting.clone().find(|(of, _)| *of == pipeline).map_or(now, |(_, span)| span.start.0.min(now));
                attribution.set_known_until(pipeline, MonoTime(next));
            }
            read_while_running(&mut attribution, 0, now, joules);
            if !is_figure {
                continue;
            }
            let last = now >= 1_000_000;
            if last {
                attribution.finish();
            }
            for (pipeline, mut estimate) in attribution.estimates().into_iter().enumerate() {
                let estimate = estimate.remove(0);
                let Some((start, end)) = estimate.window.first().copied() else { continue };
                let (mut inferences, mut busy_ns) = (0.0, 0);
                for (_, span) in spans.iter().filter(|(of, _)| *of == pipeline) {
                    let inside = span.end.min(end).since(span.start.max(start)).as_nanos() as u64;
                    inferences += inside as f64 / (span.end.0 - span.start.0) as f64;
                    busy_ns += inside;
                }
                prop_assert!((estimate.inferences.unwrap() - inferences).abs() < 1e-6, "{estimate:?} {inferences}");
                let busy_s = estimate.busy_fraction.unwrap() * estimate.window_s.unwrap();
                prop_assert!((busy_s * 1e9 - busy_ns as f64).abs() < 1e-3, "{busy_s} {busy_ns}");
                sums[pipeline].0 += estimate.inferences.unwrap();
                sums[pipeline].1 += estimate.energy_j.unwrap_or(0.0);
                window_s += estimate.window_s.unwrap() / 2.0;
            }
        }
        for (pipeline, (inferences, _)) in sums.into_iter().enumerate() {
            let all = spans.iter().filter(|(of, _)| *of == pipeline).count() as f64;
            prop_assert!((inferences - all).abs() < 1e-6, "{inferences} of {all}");
        }
        prop_assert!((window_s * 1e9 - (now - FROM) as f64).abs() < 1e-3, "{window_s}");
    }
}
