//! The results as a table for the terminal, and what follows from them in words.

use std::fmt::Write as _;

use super::{difference, energy, number, plus_minus, with_half, with_interval, with_uncertainty};
use crate::measure::bench::compare::Comparison;
use crate::measure::bench::recommend::{Choice, Recommendation};
use crate::measure::bench::report::{CellReport, Expanded, Operator, Report, Speed};
use crate::measure::bench::statistics::Estimate;
use crate::text::counted;

/// Returns the whole report as text.
pub fn report(report: &Report) -> String {
    let mut text = String::new();
    let (machine, plan) = (&report.machine, &report.plan);
    let _ = writeln!(
        text,
        "{}: {}; TensorFlow Lite {}; {}; {} of {} with runs of {} s",
        machine.name(),
        machine.in_words(),
        report.runtime,
        report.windows,
        plan.rounds_done,
        counted(plan.rounds, "round"),
        number(plan.run_s),
    );
    let meter = report.meter();
    let header = [
        "cell",
        "p50/ms",
        "p90/ms",
        "p99/ms",
        "max/ms",
        "windows/s",
        "net/mJ",
        "gross/mJ",
        "cpu/ms",
        "MiB",
        "file/KiB",
        "agrees",
        "right",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(report.ran().map(|cell| row(cell, meter)));
    text.push_str(&aligned(&rows));
    for cell in report.cells.iter() {
        if let Some(failure) = &cell.failure {
            let _ = writeln!(text, "{}: failed: {failure}", cell.name);
        }
    }
    against(&mut text, report);
    if let Some(reason) = &report.no_energy {
        let _ = writeln!(text, "no energy: {reason}");
    }
    for (name, reason) in reasons(report) {
        let _ = writeln!(text, "energy: {reason}: {name}");
    }
    for warning in report.warnings.iter().chain(&report.other_programs) {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

fn row(cell: &CellReport, meter: Option<&str>) -> Vec<String> {
    let dash = || "-".to_owned();
    let speed = cell.speed.as_ref();
    let of = |value: Option<f64>| value.map_or_else(dash, number);
    let time = |of: fn(&Speed) -> Estimate| speed.map_or_else(dash, |speed| with_half(of(speed)));
    let energy = energy(cell, meter);
    let joules = |expanded: Option<Expanded>| expanded.map_or_else(dash, with_uncertainty);
    let percent = |part: Option<f64>| part.map_or_else(dash, |part| format!("{:.1} %", 100.0 * part));
    vec![
        cell.name.clone(),
        time(|speed| speed.p50_ms),
        time(|speed| speed.p90_ms),
        time(|speed| speed.p99_ms),
        of(speed.map(|speed| speed.max_ms)),
        time(|speed| speed.windows_per_s),
        joules(energy.and_then(|energy| energy.net_mj)),
        joules(energy.and_then(|energy| energy.gross_mj)),
        of(speed.map(|speed| speed.cpu_ms.value)),
        of(cell.memory_mib),
        format!("{:.0}", cell.model.bytes as f64 / 1024.0),
        percent(cell.agreement.top1),
        percent(cell.accuracy.map(|accuracy| accuracy.right.value)),
    ]
}

/// Returns rows as columns of the same width, the first one to the left and the others to the right. Columns of dashes are left
/// out.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let is_known = |column: &usize| rows.iter().skip(1).any(|row| cell(row, *column) != "-");
    let known: Vec<usize> = (0..columns).filter(is_known).collect();
    let widths: Vec<usize> = known
        .iter()
        .map(|column| rows.iter().map(|row| crate::text::width(&cell(row, *column))).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (place, (column, width)) in known.iter().zip(&widths).enumerate() {
            let shown = cell(row, *column);
            let blanks = " ".repeat(width - crate::text::width(&shown));
            line.push_str(&if place == 0 { format!("{shown}{blanks}") } else { format!("  {blanks}{shown}") });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Says how each cell differs from the baseline.
fn against(text: &mut String, report: &Report) {
    let compared: Vec<&CellReport> = report.ran().filter(|cell| cell.against_baseline.is_some()).collect();
    let (Some(baseline), false) = (&report.baseline, compared.is_empty()) else { return };
    let _ = writeln!(text, "compared with {baseline}, a window:");
    for cell in compared {
        let Some(against) = &cell.against_baseline else { continue };
        let time = against.time.map(|time| format!("time {}", difference(time)));
        let net = against.net.iter().map(|(meter, net)| format!("net energy by {meter} {}", difference(*net)));
        let parts: Vec<String> = time.into_iter().chain(net).collect();
        let _ = writeln!(text, "  {}: {}", cell.name, parts.join("; "));
    }
}

/// Returns each reason about energy, with the cells that have it.
fn reasons(report: &Report) -> Vec<(String, String)> {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for cell in report.ran() {
        for (meter, energy) in &cell.energy {
            let Some(reason) = &energy.reason else { continue };
            let reason = format!("{meter} {}: {reason}", energy.status);
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, cells)) => cells.push(&cell.name),
                None => reasons.push((reason, vec![&cell.name])),
            }
        }
    }
    let all = report.ran().count();
    let cells = |cells: Vec<&str>| if cells.len() == all { "all cells".to_owned() } else { cells.join(", ") };
    reasons.into_iter().map(|(reason, of)| (cells(of), reason)).collect()
}

/// Operators that are shown; the rest is summed up.
const OPERATORS: usize = 15;

/// Returns the times of operators as text; empty if they were not asked for.
pub fn profiles(report: &Report) -> String {
    let mut text = String::new();
    for cell in report.ran() {
        let Some(profile) = &cell.profile else { continue };
        let by = profile.energy_by.as_ref().map_or(String::new(), |by| format!("; energy is shared by {by}"));
        let _ = match &profile.reason {
            Some(reason) => writeln!(text, "\noperators of {}: {reason}", cell.name),
            None => writeln!(text, "\noperators of {}, over {} inferences{by}:", cell.name, profile.inferences),
        };
        let mut rows = vec![["operator", "place", "by", "ms", "part", "net/mJ"].map(str::to_owned).to_vec()];
        let (shown, rest) = profile.operators.split_at(profile.operators.len().min(OPERATORS));
        rows.extend(shown.iter().map(|operator| {
            let by = if operator.is_delegated { &cell.delegate.name } else { "the runtime" };
            let place = operator.place.to_string();
            operator_row(&operator.name, &place, by, operator.ms, operator.part, operator.net_mj)
        }));
        if !rest.is_empty() {
            let sum = |of: fn(&Operator) -> f64| rest.iter().map(of).sum::<f64>();
            let net_mj = rest.iter().map(|operator| operator.net_mj).sum();
            let name = format!("{} more", rest.len());
            rows.push(operator_row(
                &name,
                "-",
                "-",
                sum(|operator| operator.ms),
                sum(|operator| operator.part),
                net_mj,
            ));
        }
        if !shown.is_empty() {
            text.push_str(&aligned(&rows));
        }
    }
    text
}

fn operator_row(name: &str, place: &str, by: &str, ms: f64, part: f64, net_mj: Option<f64>) -> Vec<String> {
    let net = net_mj.map_or_else(|| "-".to_owned(), number);
    vec![name.to_owned(), place.to_owned(), by.to_owned(), number(ms), format!("{:.1} %", 100.0 * part), net]
}

/// Returns a recommendation as text, without the lines of TOML.
pub fn recommendation(of: &Recommendation) -> String {
    let mut text = format!("at {} windows/s, chosen by {}:\n", number(of.rate), of.by);
    let mut rows = vec![["cell", "added W", "mJ/window", "cpu/ms", "p99/ms", "busy", ""].map(str::to_owned).to_vec()];
    rows.extend(of.choices.iter().map(choice));
    text.push_str(&aligned(&rows));
    match &of.best {
        Some(best) => {
            let _ = writeln!(text, "use {best}");
            if !of.as_good.is_empty() {
                let _ = writeln!(text, "as good within the uncertainty: {}", of.as_good.join(", "));
            }
        }
        None => text.push_str("no cell meets the limits\n"),
    }
    for even in &of.break_even {
        let rate = with_interval(even.rate);
        let _ = writeln!(text, "{} needs less power below {rate} windows/s, and {} above", even.below, even.above);
    }
    text
}

fn choice(of: &Choice) -> Vec<String> {
    let dash = || "-".to_owned();
    let watts = match (of.added_w, of.u_w) {
        (Some(watts), Some(u_w)) => plus_minus(watts, 2.0 * u_w),
        (Some(watts), None) => number(watts),
        _ => dash(),
    };
    let fails = if of.fails.is_empty() { dash() } else { of.fails.join("; ") };
    vec![
        of.cell.clone(),
        watts,
        of.mj_per_window.map_or_else(dash, number),
        number(of.cpu_ms),
        number(of.p99_ms),
        format!("{:.1} %", 100.0 * of.busy),
        fails,
    ]
}

/// Returns two benches beside each other as text.
pub fn comparison(of: &Comparison) -> String {
    let mut text = String::from("after compared with before, a window:\n");
    for cell in &of.cells {
        let time = cell.time.map(|time| format!("time {}", difference(time)));
        let net = cell.net.map(|net| format!("net energy {}", difference(net)));
        let changed = (!cell.changed.is_empty()).then(|| format!("changed: {}", cell.changed.join(", ")));
        let parts: Vec<String> = [time, net, changed].into_iter().flatten().collect();
        let mark = if cell.is_regression(of.least) { "  WORSE" } else { "" };
        let _ = writeln!(text, "  {}: {}{mark}", cell.name, parts.join("; "));
    }
    for (names, when) in [(&of.only_before, "before"), (&of.only_after, "after")] {
        if !names.is_empty() {
            let _ = writeln!(text, "only {when}: {}", names.join(", "));
        }
    }
    for warning in &of.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let worse = of.regressions().count();
    let _ = match (worse, of.cells.len()) {
        (_, 0) => writeln!(text, "the two have no cell in common"),
        (0, _) => writeln!(text, "no cell became worse beyond the noise"),
        _ => writeln!(text, "{} became worse beyond the noise", counted(worse, "cell")),
    };
    text
}
