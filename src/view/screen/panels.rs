//! The sections of the screen. Each draws itself into the rows that it gets, however few.

use ratatui_core::style::{Color, Modifier, Style};

use super::{Canvas, GUTTER, Scene};
use crate::text::{counted, cut, width, wrap};
use crate::view::chart;
use crate::view::font;
use crate::view::model::{Decision, Meter, Node, Past, Pipeline, STAGES, Verdict};
use crate::view::ui::Shown;
use crate::view::words::{self, clock, micros, number};

/// The columns of the power chart stand for one of these times, in milliseconds.
const BUCKETS_MS: [u64; 6] = [100, 250, 500, 1000, 2000, 5000];

/// The pipelines of all nodes: in one row, or as a list.
pub(super) fn nodes(canvas: &mut Canvas<'_>, scene: &Scene<'_>, shown: &Shown<'_>) {
    let look = canvas.look;
    let all = scene.model.nodes.values().flat_map(|node| node.pipelines.iter().map(move |pair| (node, pair)));
    let style = |place: usize| {
        if place == shown.place { look.strong().add_modifier(Modifier::REVERSED) } else { Style::new() }
    };
    if canvas.height() < 3 {
        let item = |(place, (node, (name, _))): (usize, (&Node, (&String, &Pipeline)))| match place == shown.place {
            true => format!("[{} › {name}]", node.name),
            false => format!(" {} › {name} ", node.name),
        };
        let items: Vec<String> = all.enumerate().map(item).collect();
        // So many are left out before that the chosen one fits.
        let wide =
            |from: usize| items.get(from..=shown.place).map_or(0, |some| some.iter().map(|i| width(i) + 1).sum());
        let first = (0..=shown.place).find(|from| wide(*from) < canvas.width()).unwrap_or(shown.place);
        let mut x = if first > 0 { canvas.text(0, 0, "…", look.quiet()) } else { 0 };
        for (place, item) in items.iter().enumerate().skip(first) {
            x = canvas.text(x, 0, item, style(place)) + 1;
        }
        return;
    }
    canvas.rule(0, "Nodes");
    let rows = canvas.height() - 1;
    let first = (shown.place + 1).saturating_sub(rows);
    for (place, (node, (name, pipeline))) in all.enumerate().skip(first).take(rows) {
        let y = place - first + 1;
        let mark = if place == shown.place { "›" } else { " " };
        canvas.text(1, y, &cut(&format!("{mark} {} › {name} ", node.name), 30), style(place));
        let state = if node.online == Some(false) { "offline" } else { pipeline.state.as_deref().unwrap_or("") };
        canvas.text(32, y, &cut(state, 10), look.state(state));
        let time = format!("{} UTC", clock(node.time_ms));
        canvas.text(43, y, &time, look.quiet());
        if let Some(decision) = &pipeline.decision {
            canvas.text(57, y, &words::verdict(&decision.verdict), Style::new());
        }
    }
}

/// What was decided last: large where there is room, and the truth beside it.
pub(super) fn decision(canvas: &mut Canvas<'_>, pipeline: &Pipeline) {
    let look = canvas.look;
    let Some(decision) = &pipeline.decision else {
        let closed = pipeline.gate.as_ref().filter(|gate| !gate.open).map(words::gate);
        let text = closed.unwrap_or_else(|| "no prediction yet".to_owned());
        canvas.text(1, canvas.height() / 3, &text, look.quiet());
        return;
    };
    let right = decision
        .truth
        .as_ref()
        .map(|truth| matches!(&decision.verdict, Verdict::Label { label: Some(label), .. } if label == truth));
    // With a row to spare above and below.
    let top = usize::from(canvas.height() > font::ROWS + 1);
    let half = canvas.width() / 2;
    let beside = (canvas.width() - half).min(60);
    let mut side = Vec::new();
    match &decision.verdict {
        Verdict::Label { score: Some(score), .. } if pipeline.is_measure => {
            side.push((format!("value {}", words::value(*score)), look.strong()))
        }
        Verdict::Label { score: Some(score), .. } => {
            let columns = beside.saturating_sub(7);
            let bar = chart::bar(*score, columns);
            let rest = "·".repeat(columns.saturating_sub(width(&bar)));
            side.push((format!("{bar}{rest} {score:.2}"), look.right(right)));
        }
        Verdict::Label { score: None, .. } | Verdict::Values(_) => {}
    }
    match (&decision.truth, right) {
        (Some(truth), Some(true)) => side.push((format!("✓ right: it is {truth}"), look.right(right))),
        (Some(truth), _) => side.push((format!("✗ wrong: it is {truth}"), look.right(right))),
        _ => {}
    }
    side.push((summary(pipeline, decision), look.quiet()));
    match &decision.verdict {
        Verdict::Values(values) if values.len() > 1 => return named_values(canvas, values),
        _ => {}
    }
    if canvas.height() < font::ROWS {
        return small(canvas, decision, &side, right);
    }
    let text = shown_large(&decision.verdict);
    let mut left = canvas.part(1, top, half.saturating_sub(2), font::ROWS);
    match font::large(&text, left.width()) {
        Some(rows) => {
            let style = look.right(right).add_modifier(Modifier::BOLD);
            for (y, row) in rows.iter().enumerate() {
                left.text(0, y, row, style);
            }
        }
        None => {
            left.text(0, 1, &text, look.right(right).add_modifier(Modifier::BOLD));
        }
    }
    let mut part = canvas.part(half, top, beside, font::ROWS);
    for (y, (text, style)) in side.iter().enumerate() {
        part.text(0, y, text, *style);
    }
}

/// Returns what is shown in large letters.
fn shown_large(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Values(values) => match values.first() {
            Some((_, Some(value))) => words::value(*value),
            _ => "-".to_owned(),
        },
        Verdict::Label { .. } => words::verdict(verdict),
    }
}

/// Returns how often it was right, and the name of a single value.
fn summary(pipeline: &Pipeline, decision: &Decision) -> String {
    let mut parts = Vec::new();
    if let Verdict::Values(values) = &decision.verdict
        && let [(name, _)] = &values[..]
    {
        parts.push(name.clone());
    }
    if let Some(percent) = pipeline.right_percent() {
        parts.push(format!("{percent:.0} % right of {}", pipeline.known));
    }
    match pipeline.metrics.as_ref().and_then(|metrics| metrics.predictions_per_s) {
        Some(rate) => parts.push(format!("{} a second", number(rate))),
        None => parts.extend(decision.seq.map(|seq| format!("prediction {seq}"))),
    }
    parts.extend(pipeline.gate.as_ref().map(words::gate));
    parts.join(" · ")
}

fn small(canvas: &mut Canvas<'_>, decision: &Decision, side: &[(String, Style)], right: Option<bool>) {
    let look = canvas.look;
    let style = look.right(right).add_modifier(Modifier::BOLD);
    let half = canvas.width() / 2;
    let label = cut(&words::verdict(&decision.verdict), half.saturating_sub(2));
    canvas.text(1, 0, &label, style);
    let rest = side.len().saturating_sub(1);
    let mut others = side.iter();
    if rest > 0
        && let Some((text, style)) = others.next()
    {
        canvas.text(half, 0, text, *style);
    }
    let mut x = 1;
    for (text, style) in others {
        x = canvas.text(x, 1, text, *style);
        x = canvas.text(x, 1, "  ", Style::new());
    }
}

fn named_values(canvas: &mut Canvas<'_>, values: &[(String, Option<f64>)]) {
    let look = canvas.look;
    let (rows, columns) = (canvas.height(), 26);
    for (place, (name, value)) in values.iter().enumerate() {
        let (x, y) = (1 + place / rows * columns, place % rows);
        if x + columns > canvas.width() + 2 {
            return;
        }
        let mut part = canvas.part(x, y, columns - 2, 1);
        part.text(0, 0, &cut(name, columns - 12), look.quiet());
        part.right(columns - 2, 0, &value.map_or("-".to_owned(), words::value), look.strong());
    }
}

/// The last scores or values, and which label they were.
pub(super) fn history(canvas: &mut Canvas<'_>, pipeline: &Pipeline) {
    let look = canvas.look;
    let columns = canvas.width().saturating_sub(GUTTER + 1);
    let skip = pipeline.history.len().saturating_sub(columns);
    let past: Vec<&Past> = pipeline.history.iter().skip(skip).collect();
    let is_classed = past.iter().any(|past| past.label.is_some());
    let rows = canvas.height() - usize::from(is_classed && canvas.height() > 1);
    let is_share = is_classed && !pipeline.is_measure;
    let values = past.iter().filter_map(|past| past.value);
    let (low, high) = if is_share { (0.0, 1.0) } else { chart::axis(values).unwrap_or((0.0, 1.0)) };
    let share = |past: &&Past| past.value.map(|value| (value - low) / (high - low));
    let shares: Vec<Option<f64>> = past.iter().map(share).collect();
    canvas.text(1, 0, "history", look.quiet());
    if !is_share && rows > 1 {
        canvas.text(1, 0, &number(high), look.quiet());
        canvas.text(1, rows - 1, &number(low), look.quiet());
    }
    for (y, row) in chart::columns(&shares, rows).iter().enumerate() {
        for (x, (bar, past)) in row.chars().zip(&past).enumerate() {
            canvas.text(GUTTER + x, y, bar.encode_utf8(&mut [0; 4]), look.right(past.right));
        }
    }
    if is_classed && canvas.height() > 1 {
        let y = canvas.height() - 1;
        let labels = runs(&past);
        canvas.text(GUTTER, y, &labels, look.quiet());
        let labels: Vec<char> = labels.chars().collect();
        for (x, past) in past.iter().enumerate() {
            if past.right == Some(false) && labels.get(x).is_none_or(|c| *c == ' ') {
                canvas.text(GUTTER + x, y, "✗", look.right(Some(false)));
            }
        }
    }
}

/// Returns the labels, each where it begins, as far as there is room.
fn runs(past: &[&Past]) -> String {
    let mut line = String::new();
    let mut at = 0;
    for run in past.chunk_by(|a, b| a.label == b.label) {
        let label = run.first().and_then(|past| past.label.as_deref()).unwrap_or("?");
        let is_last = at + run.len() == past.len();
        let room = if is_last { width(label).max(run.len()) } else { run.len() };
        // A blank keeps two labels apart.
        let label = if width(label) < room || is_last {
            label.to_owned()
        } else {
            label.chars().take(room.saturating_sub(1)).collect()
        };
        line.push_str(&label);
        line.extend(std::iter::repeat_n(' ', room.saturating_sub(width(&label))));
        at += run.len();
    }
    line
}

/// The energy of an inference, in sentences.
pub(super) fn energy(canvas: &mut Canvas<'_>, pipeline: &Pipeline) {
    let look = canvas.look;
    let sentences = match (pipeline.best_energy(), &pipeline.metrics) {
        (Some(figure), _) => words::energy(figure),
        (None, Some(_)) => vec!["Not known: the message has no figure".to_owned()],
        (None, None) => vec!["not known before the first metrics message".to_owned()],
    };
    let has_title = canvas.height() > 2;
    if has_title {
        canvas.rule(0, "Energy for each inference");
    }
    let mut y = usize::from(has_title);
    let columns = canvas.width().saturating_sub(2);
    for (place, sentence) in sentences.iter().enumerate() {
        let style = if place == 0 { look.strong() } else { Style::new() };
        let mut lines = wrap(sentence, columns);
        let room = canvas.height().saturating_sub(y);
        if lines.len() > room && room > 0 {
            lines =
                vec![lines.get(..room - 1).unwrap_or(&[]).join(" "), lines.get(room - 1..).unwrap_or(&[]).join(" ")];
            lines.retain(|line| !line.is_empty());
            lines = lines.iter().map(|line| cut(line, columns)).collect();
        }
        for line in lines {
            canvas.text(1, y, &line, style);
            y += 1;
        }
    }
}

/// The power over time, and the moments of inferences below it.
pub(super) fn power(canvas: &mut Canvas<'_>, node: &Node, pipeline: &Pipeline) {
    let look = canvas.look;
    let of_figure = pipeline.best_energy().and_then(|figure| figure.meter.as_ref());
    let chosen = of_figure.and_then(|name| node.meters.get_key_value(name)).or(node.meters.iter().next());
    let Some((name, meter)) = chosen else { return };
    canvas.rule(0, "Power");
    let x = canvas.text(9, 0, &format!(" {} ", power_now(name, meter)), Style::new());
    let (columns, rows) = (canvas.width().saturating_sub(GUTTER + 1), canvas.height().saturating_sub(2));
    let bucket_ms = bucket_ms(pipeline, meter);
    let now = node.time_ms / bucket_ms;
    let first = (now + 1).saturating_sub(columns as u64);
    let seconds = columns as u64 * bucket_ms / 1000;
    let span = format!(" last {seconds} s ");
    if x + width(&span) + 2 < canvas.width() {
        canvas.right(canvas.width() - 1, 0, &span, look.quiet());
    }
    let watts = watts(meter, first, columns, bucket_ms);
    if rows > 0 {
        let Some((low, high)) = chart::axis(watts.iter().flatten().copied()) else {
            let reason = meter.reason.as_deref().unwrap_or("no reading yet");
            canvas.text(1, 1, reason, Style::new());
            return;
        };
        let shares: Vec<Option<f64>> = watts.iter().map(|w| w.map(|w| (w - low) / (high - low))).collect();
        for (y, row) in chart::columns(&shares, rows).iter().enumerate() {
            canvas.text(GUTTER, y + 1, row, look.colour(Color::Yellow));
        }
        canvas.right(GUTTER - 1, 1, &format!("{} W", number(high)), look.quiet());
        if rows > 1 {
            canvas.right(GUTTER - 1, rows, &format!("{} W", number(low)), look.quiet());
        }
    }
    let y = canvas.height() - 1;
    let mut marks = vec![' '; columns];
    for moment in pipeline.moments.iter().map(|moment| moment / bucket_ms) {
        if let Some(mark) = moment.checked_sub(first).and_then(|at| marks.get_mut(usize::try_from(at).ok()?)) {
            *mark = if *mark == ' ' { '╵' } else { '┴' };
        }
    }
    canvas.text(1, y, "inference", look.quiet());
    canvas.text(GUTTER, y, &marks.iter().collect::<String>(), look.right(None));
}

fn power_now(name: &str, meter: &Meter) -> String {
    let estimated = if meter.estimated { ", estimated" } else { "" };
    match meter.power_w {
        Some(watts) => format!("{} W by {name}{estimated}", number(watts)),
        None => format!("{name}: no reading"),
    }
}

/// Returns the time for which a column stands: so short that inferences can be told apart, and no shorter than needed.
/// A rate that is about a round number does not change it to and fro.
fn bucket_ms(pipeline: &Pipeline, meter: &Meter) -> u64 {
    let rate = pipeline.metrics.as_ref().and_then(|metrics| metrics.predictions_per_s).filter(|rate| *rate > 0.0);
    let between_ms = rate.map_or(1000.0, |rate| 1000.0 / rate);
    let readings = meter.readings.len().saturating_sub(1).max(1) as u64;
    let covered = meter.readings.back().zip(meter.readings.front()).map_or(0, |((last, _), (first, _))| last - first);
    let wanted = between_ms.min((covered / readings).max(250) as f64) / 2.0;
    let fits = BUCKETS_MS.into_iter().rev().find(|bucket| *bucket as f64 <= 1.3 * wanted);
    fits.unwrap_or(BUCKETS_MS[0])
}

/// Returns the power for each column: a reading is the mean since the one before.
fn watts(meter: &Meter, first: u64, columns: usize, bucket_ms: u64) -> Vec<Option<f64>> {
    let mut readings = meter.readings.iter().peekable();
    let mut before = None;
    (first..first + columns as u64)
        .map(|bucket| {
            let time = bucket * bucket_ms;
            while let Some((at, _)) = readings.peek()
                && *at < time
            {
                before = readings.next().map(|(at, _)| *at);
            }
            // Nothing is known of the time before the first reading.
            let (at, watts) = readings.peek()?;
            watts.filter(|_| before.is_some() || at / bucket_ms == bucket)
        })
        .collect()
}

/// How long each stage takes: as a table, or in a line.
pub(super) fn latency(canvas: &mut Canvas<'_>, pipeline: &Pipeline) {
    let look = canvas.look;
    let latencies = pipeline.metrics.as_ref().map(|metrics| metrics.latency_us).unwrap_or_default();
    if canvas.height() < STAGES.len() + 1 {
        let known = latencies.iter().enumerate().filter_map(|(place, latency)| latency.map(|(p50, _)| (place, p50)));
        // The model and the whole matter most.
        let mut known: Vec<(usize, f64)> = known.collect();
        known.sort_by_key(|(place, _)| [3, 2, 0, 4, 1].get(*place).copied().unwrap_or(5));
        let parts: Vec<String> =
            known.iter().map(|(place, p50)| format!("{} {}", words::stage(*place), micros(*p50))).collect();
        let text = if parts.is_empty() { "latency is not known yet".to_owned() } else { parts.join(" · ") };
        let has_title = canvas.height() > 1;
        if has_title {
            canvas.rule(0, "Latency");
        }
        let (top, columns) = (usize::from(has_title), canvas.width().saturating_sub(2));
        let lines = if canvas.height() > 2 { wrap(&text, columns) } else { vec![text] };
        for (row, line) in lines.iter().enumerate() {
            canvas.text(1, top + row, line, Style::new());
        }
        return;
    }
    let (half, most) = (GUTTER + 8, GUTTER + 17);
    canvas.rule(0, "Latency");
    canvas.right(most + 1, 0, " half in  99 % in ", look.quiet());
    let whole = latencies.iter().flatten().map(|(p50, _)| *p50).fold(0.0, f64::max);
    // The last two stages are those of the messages.
    let rows = if pipeline.metrics.as_ref().is_some_and(|metrics| metrics.no_broker) { 3 } else { STAGES.len() };
    for (place, latency) in latencies.iter().enumerate().take(rows) {
        let y = place + 1;
        let style = if place == 2 || place == 4 { look.strong() } else { Style::new() };
        canvas.text(1, y, words::stage(place), look.quiet());
        match latency {
            Some((p50, p99)) => {
                canvas.right(half, y, &micros(*p50), style);
                canvas.right(most, y, &micros(*p99), style);
                let columns = canvas.width().saturating_sub(most + 2).min(40);
                canvas.text(most + 1, y, &chart::thin_bar(p50 / whole, columns), look.right(None));
            }
            None => canvas.right(half, y, "-", look.quiet()),
        }
    }
}

/// Which delegate runs the model, and the proof.
pub(super) fn delegate(canvas: &mut Canvas<'_>, pipeline: &Pipeline) {
    let look = canvas.look;
    let has_title = canvas.height() > 1;
    if has_title {
        canvas.rule(0, "Delegate");
    }
    let Some(delegate) = &pipeline.delegate else { return };
    let lines = words::delegate(delegate);
    let mut y = usize::from(has_title);
    let columns = canvas.width().saturating_sub(2);
    for (place, line) in lines.iter().enumerate() {
        let style = match place {
            0 if delegate.is_requested() => look.strong(),
            0 => look.colour(Color::Yellow).add_modifier(Modifier::BOLD),
            _ => Style::new(),
        };
        for line in wrap(line, columns) {
            canvas.text(1, y, &line, style);
            y += 1;
        }
    }
}

/// What happened last, and what was lost.
pub(super) fn events(canvas: &mut Canvas<'_>, scene: &Scene<'_>, shown: &Shown<'_>) {
    let look = canvas.look;
    let mut lost = words::lost(shown.node, shown.pipeline);
    if scene.model.missed > 0 {
        let missed = format!("{} that this view was too slow for", counted(scene.model.missed, "message"));
        lost = Some(lost.map_or(missed.clone(), |lost| format!("{lost}, {missed}")));
    }
    let has_title = canvas.height() > 1;
    if has_title {
        let x = canvas.rule(0, "Events");
        match &lost {
            Some(lost) => canvas.text(x, 0, &format!(" lost: {lost} "), look.colour(Color::Yellow)),
            None if shown.pipeline.metrics.is_some() => canvas.text(x, 0, " nothing lost ", look.quiet()),
            None => x,
        };
    }
    let rows = canvas.height() - usize::from(has_title);
    let skip = shown.node.events.len().saturating_sub(rows);
    for (row, event) in shown.node.events.iter().skip(skip).enumerate() {
        let y = row + usize::from(has_title);
        let x = canvas.text(1, y, &clock(event.time_ms), look.quiet());
        let about = event.pipeline.as_ref().map_or(String::new(), |pipeline| format!(" {pipeline}"));
        let x = canvas.text(x + 1, y, &format!("{}{about}:", event.event), look.strong());
        canvas.text(x + 1, y, &event.message, Style::new());
    }
    if shown.node.events.is_empty() && rows > 0 {
        let text = if has_title || lost.is_none() {
            "no event yet".to_owned()
        } else {
            format!("lost: {}", lost.unwrap_or_default())
        };
        canvas.text(1, usize::from(has_title), &text, look.quiet());
    }
}
