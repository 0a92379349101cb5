use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn span_ns(start: u64, end: u64) -> BusySpan {
    BusySpan { start: MonoTime(start), end: MonoTime(end), busy_ns: end - start, inferences: 1 }
}

fn span(start_ms: u64, end_ms: u64) -> BusySpan {
    span_ns(start_ms * MS, end_ms * MS)
}

fn info(estimated: bool) -> MeterInfo {
    let kind = if estimated { "estimate" } else { "rapl" };
    MeterInfo { name: "package".to_owned(), kind, scope: Scope::Package, estimated, detail: Vec::new() }
}

fn join(pipeline_count: usize) -> Join {
    Join::new(pipeline_count, vec![info(false)])
}

fn read_ns(join: &mut Join, meter: usize, time: u64, joules: f64) {
    let (time, joules) = (MonoTime(time), Joules(joules));
    let reading = Reading { time, joules, power: None, volts: None, amperes: None, scope: Scope::Package };
    join.reading(meter, Ok(reading));
}

fn read(join: &mut Join, ms: u64, joules: f64) {
    read_ns(join, 0, ms * MS, joules);
}

fn lose(join: &mut Join, reason: &str) {
    join.reading(0, Err(MeterError::Rebaselined { reason: reason.to_owned() }));
}

/// The figures of the one meter, by pipeline.
fn close(join: &mut Join) -> Vec<Figure> {
    join.figures().into_iter().map(|mut figures| figures.remove(0)).collect()
}

fn reason(figure: &Figure) -> &str {
    assert_eq!((figure.status, figure.gross_j), (Status::Unavailable, None));
    figure.reason.as_deref().unwrap()
}

#[test]
fn a_measured_figure_and_its_wire_form() {
    let mut join = join(1);
    read(&mut join, 1000, 10.0);
    for start in [1000, 1200, 1500] {
        join.absorb(0, span(start, start + 100));
    }
    read(&mut join, 1400, 12.0);
    join.absorb(0, span(1700, 1800));
    read(&mut join, 2000, 16.0);
    let figure = close(&mut join).remove(0);
    assert_eq!(
        serde_json::to_value(figure).unwrap(),
        serde_json::json!({
            "meter": "package", "kind": "rapl", "scope": "package", "status": "measured", "reason": null,
            "gross_j": 1.5, "energy_j": 6.0, "inferences": 4, "window_s": 1.0, "busy_fraction": 0.4, "mean_w": 6.0,
        })
    );
}

#[test]
fn a_span_across_the_edge_counts_where_it_ends_and_its_busy_time_is_cut() {
    let mut join = join(1);
    join.absorb(0, span(900, 1100));
    read(&mut join, 1000, 0.0);
    join.absorb(0, span(1900, 2300));
    read(&mut join, 2000, 4.0);
    let first = close(&mut join).remove(0);
    assert_eq!((first.inferences, first.busy_fraction, first.gross_j), (Some(1), Some(0.2), Some(4.0)));
    read(&mut join, 3000, 7.0);
    let second = close(&mut join).remove(0);
    assert_eq!((second.inferences, second.busy_fraction, second.gross_j), (Some(1), Some(0.3), Some(3.0)));
}

#[test]
fn a_batch_ends_as_one() {
    let mut join = join(1);
    read(&mut join, 0, 0.0);
    join.absorb(0, BusySpan { inferences: 64, ..span(900, 1100) });
    read(&mut join, 1000, 1.0);
    assert!(reason(&close(&mut join)[0]).contains("no inference ended"));
    read(&mut join, 2000, 3.0);
    assert_eq!(close(&mut join)[0].inferences, Some(64));
}

#[test]
fn what_ran_before_the_first_reading_is_not_metered() {
    let mut join = join(1);
    join.absorb(0, span(0, 500));
    read(&mut join, 1000, 5.0);
    join.absorb(0, span(990, 999));
    join.absorb(0, span(1400, 1500));
    read(&mut join, 2000, 6.0);
    assert_eq!(close(&mut join)[0].inferences, Some(1));
}

#[test]
fn busy_pipelines_share_by_busy_time() {
    let mut join = join(3);
    read(&mut join, 0, 0.0);
    join.absorb(0, span(0, 300));
    join.absorb(1, span(300, 350));
    join.absorb(1, span(400, 450));
    read(&mut join, 1000, 8.0);
    let figures = close(&mut join);
    let shown: Vec<_> = figures.iter().map(|f| (f.status, f.energy_j, f.gross_j)).collect();
    assert_eq!(
        shown,
        [
            (Status::Attributed, Some(6.0), Some(6.0)),
            (Status::Attributed, Some(2.0), Some(1.0)),
            (Status::Unavailable, None, None)
        ]
    );
    assert!(figures.iter().all(|f| f.mean_w == Some(8.0)));
    read(&mut join, 2000, 9.0);
    join.absorb(0, span(2100, 2200));
    read(&mut join, 3000, 10.0);
    assert_eq!(close(&mut join)[0].status, Status::Measured, "alone again");
}

#[test]
fn an_estimate_says_so_alone_and_shared() {
    let mut join = Join::new(2, vec![info(true)]);
    read(&mut join, 0, 0.0);
    join.absorb(0, span(0, 300));
    read(&mut join, 1000, 8.0);
    assert_eq!(close(&mut join)[0].status, Status::Estimated);
    join.absorb(0, span(1000, 1300));
    join.absorb(1, span(1000, 1300));
    read(&mut join, 2000, 16.0);
    let figure = close(&mut join).remove(1);
    assert_eq!((figure.status, figure.gross_j), (Status::Estimated, Some(4.0)));
    assert!(figure.reason.unwrap().contains("shared"));
}

#[test]
fn without_inferences_the_energy_is_known_and_gross_is_null() {
    let mut join = join(1);
    read(&mut join, 0, 0.0);
    read(&mut join, 1000, 2.0);
    let figure = close(&mut join).remove(0);
    assert!(reason(&figure).contains("no inference ended in the window"));
    assert_eq!((figure.energy_j, figure.inferences, figure.mean_w), (Some(2.0), Some(0), Some(2.0)));
}

#[test]
fn a_lost_base_makes_its_window_unavailable_and_no_other() {
    let mut join = join(1);
    read(&mut join, 0, 0.0);
    join.absorb(0, span(10, 20));
    read(&mut join, 500, 1.0);
    lose(&mut join, "the counter jumped");
    read(&mut join, 1000, 1.0);
    join.absorb(0, span(1010, 1020));
    read(&mut join, 1500, 3.0);
    let figure = close(&mut join).remove(0);
    assert!(reason(&figure).contains("the counter jumped"));
    assert_eq!((figure.energy_j, figure.inferences, figure.window_s), (None, None, None));
    join.absorb(0, span(1600, 1700));
    read(&mut join, 2000, 4.0);
    let figure = close(&mut join).remove(0);
    assert_eq!((figure.inferences, figure.window_s, figure.gross_j), (Some(1), Some(0.5), Some(1.0)));
}

#[test]
fn energy_across_a_loss_is_in_no_later_window() {
    let mut join = join(1);
    read(&mut join, 0, 0.0);
    read(&mut join, 500, 1.0);
    lose(&mut join, "unplugged");
    assert!(reason(&close(&mut join)[0]).contains("unplugged"));
    read(&mut join, 5000, 50.0);
    assert!(reason(&close(&mut join)[0]).contains("unplugged"));
    join.absorb(0, span(5100, 5200));
    read(&mut join, 6000, 52.0);
    let figure = close(&mut join).remove(0);
    assert_eq!((figure.window_s, figure.energy_j), (Some(1.0), Some(2.0)));
}

#[test]
fn a_meter_that_stays_away_keeps_its_reason() {
    let mut join = join(1);
    assert!(reason(&close(&mut join)[0]).contains("not read yet"));
    lose(&mut join, "gone");
    for _ in 0..3 {
        assert!(reason(&close(&mut join)[0]).contains("gone"));
    }
    read(&mut join, 1000, 0.0);
    assert!(reason(&close(&mut join)[0]).contains("gone"), "the meter came back within the window");
    assert!(reason(&close(&mut join)[0]).contains("no reading of the meter"));
}

#[test]
fn a_window_without_reading_waits_for_the_next() {
    let mut join = join(1);
    read(&mut join, 0, 0.0);
    close(&mut join);
    join.absorb(0, span(100, 200));
    assert!(reason(&close(&mut join)[0]).contains("read it more often"));
    read(&mut join, 1000, 2.0);
    assert_eq!(close(&mut join)[0].inferences, Some(1));
}

#[test]
fn energy_that_does_not_move_is_no_figure() {
    for joules in [5.0, 4.0] {
        let mut join = join(1);
        read(&mut join, 0, 5.0);
        close(&mut join);
        join.absorb(0, span(100, 200));
        read(&mut join, 1000, joules);
        assert!(reason(&close(&mut join)[0]).contains("did not move in 1.0 s"));
    }
}

#[test]
fn no_meter_says_what_to_add() {
    let figures = Join::new(2, Vec::new()).figures();
    assert_eq!(figures.len(), 2);
    assert!(reason(&figures[1][0]).contains("add [power.meters.NAME]"));
    assert_eq!(serde_json::to_value(&figures[0][0]).unwrap()["gross_j"], serde_json::Value::Null);
}

#[test]
fn each_meter_has_its_own_window() {
    let mut join = Join::new(1, vec![info(false), info(true)]);
    read_ns(&mut join, 0, 0, 0.0);
    read_ns(&mut join, 1, 50 * MS, 0.0);
    join.absorb(0, span(20, 40));
    join.absorb(0, span(960, 980));
    join.absorb(0, span(1010, 1030));
    read_ns(&mut join, 0, 1000 * MS, 4.0);
    read_ns(&mut join, 1, 1050 * MS, 8.0);
    let figures = join.figures().remove(0);
    assert_eq!((figures[0].inferences, figures[0].gross_j), (Some(2), Some(2.0)));
    assert_eq!((figures[1].inferences, figures[1].gross_j), (Some(2), Some(4.0)));
}

#[test]
fn memory_is_bounded_and_no_inference_lost_while_readings_are_missing() {
    let mut join = join(1);
    read_ns(&mut join, 0, 0, 0.0);
    let count = 100_000u64;
    for index in 0..count {
        join.absorb(0, span_ns(index * 10_000, index * 10_000 + 3_000));
    }
    assert!(join.tracks[0].shares[0].pending.len() <= PENDING_MAX);
    assert!(join.tracks[0].shares[0].pending.capacity() * size_of::<Pending>() <= 160 << 10);
    let (mut total, mut busy_s) = (0, 0.0);
    for tenth in 1..=10 {
        read_ns(&mut join, 0, tenth * 100 * MS, tenth as f64);
        let figure = close(&mut join).remove(0);
        let inferences = figure.inferences.unwrap();
        assert!(inferences.abs_diff(count / 10) <= 1, "{inferences}");
        total += inferences;
        busy_s += figure.busy_fraction.unwrap() * figure.window_s.unwrap();
    }
    assert_eq!(total, count);
    assert!((busy_s - 0.3).abs() < 1e-9, "{busy_s}");
}

proptest! {
    /// Whatever the times of spans, readings and figures, each inference counts in the window in which it ended, all
    /// busy time is counted once, and the parts of the energy are the whole.
    #[test]
    fn nothing_is_lost_or_counted_twice(
        steps in prop::collection::vec((0u64..50, 1u64..80, 0usize..2), 1..200),
        ticks in prop::collection::vec((1u64..200, any::<bool>(), 0.1f64..9.0), 1..40),
    ) {
        let mut free = [0u64; 2];
        let mut spans: Vec<(usize, BusySpan)> = steps.iter().map(|&(pause, length, pipeline)| {
            let start = free[pipeline] + pause;
            free[pipeline] = start + length;
            (pipeline, span_ns(start, start + length))
        }).collect();
        spans.sort_by_key(|(_, span)| span.end);
        let mut join = join(2);
        read_ns(&mut join, 0, 0, 0.0);
        close(&mut join);
        let (mut now, mut edge, mut joules, mut from_joules, mut busy_ns) = (0, 0, 0.0, 0.0, 0);
        let mut waiting = spans.iter().peekable();
        for (pause, is_figure, added) in ticks.into_iter().chain([(1_000_000, true, 1.0)]) {
            now += pause;
            joules += added;
            // The rings are drained when the tick comes, which is after the reading and so covers more.
            while let Some((pipeline, span)) = waiting.next_if(|(_, span)| span.end.0 <= now + pause / 2) {
                join.absorb(*pipeline, *span);
            }
            read_ns(&mut join, 0, now, joules);
            if !is_figure {
                continue;
            }
            busy_ns += join.tracks[0].shares.iter().map(|share| share.busy_ns).sum::<u64>();
            let figures = close(&mut join);
            for (pipeline, figure) in figures.iter().enumerate() {
                let of_pipeline = || spans.iter().filter(|(of, _)| *of == pipeline).map(|(_, span)| span);
                let ended = of_pipeline().filter(|span| span.end.0 > edge && span.end.0 <= now).count() as u64;
                prop_assert_eq!(figure.inferences, Some(ended));
                prop_assert!(figure.busy_fraction <= Some(1.0));
            }
            let parts: f64 = figures.iter().filter_map(|figure| figure.energy_j).sum();
            if figures.iter().filter(|figure| figure.busy_fraction > Some(0.0)).count() > 1 {
                prop_assert!((parts - (joules - from_joules)).abs() < 1e-6, "{parts}");
            }
            (edge, from_joules) = (now, joules);
        }
        prop_assert_eq!(busy_ns, spans.iter().map(|(_, span)| span.busy_ns).sum::<u64>());
    }
}
