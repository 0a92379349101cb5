//! The words of the view: figures and states as a newcomer understands them. Pure.

use super::model::{Delegate, Energy, Gate, Node, Pipeline, Status, Verdict};
use crate::text::counted;

/// Returns a number with three digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e7 => format!("{value:.2e}"),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Returns a decided value, with more digits.
pub(crate) fn value(value: f64) -> String {
    match value.abs() {
        v if v >= 1e7 => format!("{value:.2e}"),
        v if v >= 999.5 => format!("{value:.0}"),
        v if v >= 99.95 => format!("{value:.1}"),
        v if v >= 9.995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Returns a factor and the unit that suits an energy.
fn unit(joules: f64) -> (f64, &'static str) {
    match joules.abs() {
        v if v >= 0.9995 => (1.0, "J"),
        v if v >= 0.9995e-3 || v == 0.0 => (1e3, "mJ"),
        v if v >= 0.9995e-6 => (1e6, "uJ"),
        _ => (1e9, "nJ"),
    }
}

/// Returns microseconds in a unit that suits them.
pub(crate) fn micros(value: f64) -> String {
    match value {
        v if v >= 999_500.0 => format!("{} s", number(v / 1e6)),
        v if v >= 9_995.0 => format!("{} ms", number(v / 1e3)),
        v => format!("{v:.0} us"),
    }
}

/// Returns the time of the day in UTC.
pub(crate) fn clock(time_ms: u64) -> String {
    let seconds = time_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Returns how long ago something was.
pub(crate) fn ago(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        s @ 0..120 => format!("{s} s ago"),
        s @ 120..7200 => format!("{} min ago", s / 60),
        s => format!("{} h ago", s / 3600),
    }
}

/// Returns what the stages are called in the view.
pub(crate) fn stage(place: usize) -> &'static str {
    ["waiting", "preparing", "model", "sending", "in all"].get(place).copied().unwrap_or("")
}

/// Returns a value with its uncertainty, such as `12.3 ± 0.2 mJ`.
fn with_uncertainty(value: f64, expanded: Option<f64>) -> String {
    let (scale, unit) = unit(value);
    match expanded {
        Some(expanded) => format!("{} ± {} {unit}", number(value * scale), number(expanded * scale)),
        None => format!("{} {unit}", number(value * scale)),
    }
}

/// Returns the energy of an inference as sentences; the first is the one that matters, and it begins with the status.
pub(crate) fn energy(figure: &Energy) -> Vec<String> {
    let status = match figure.status {
        Status::Measured => "Measured",
        Status::Attributed => "Attributed",
        Status::Replayed => "Replayed",
        Status::Estimated => "Estimated, not measured",
        Status::Unavailable => "Not known",
    };
    let reason = figure.reason.as_deref();
    let meter = figure.meter.as_deref().unwrap_or("no meter");
    let of_meter = match figure.scope.as_deref() {
        Some(scope) => format!("meter {meter}, {}", covers(scope)),
        None => format!("meter {meter}"),
    };
    let mut sentences = Vec::new();
    let gross = figure.gross_j.map(|gross| with_uncertainty(gross, figure.gross_expanded_j));
    match (figure.net_j, gross) {
        _ if figure.status == Status::Unavailable => {
            sentences.push(format!("{status}: {}", reason.unwrap_or("no reason was given")));
            if figure.meter.is_some() {
                sentences.push(format!("Asked: {of_meter}."));
            }
            return sentences;
        }
        (Some(net), gross) => {
            let net = with_uncertainty(net, figure.net_expanded_j);
            sentences.push(format!("{status}: {net} more than idle for each inference (net)"));
            sentences.extend(gross.map(|gross| {
                let idle = figure.idle_w.map_or(String::new(), |w| format!(": {} W flow all the time", number(w)));
                format!("{gross} with its share of idle power{idle} (gross)")
            }));
        }
        (None, Some(gross)) => {
            sentences.push(format!("{status}: {gross} for each inference, idle power included (gross)"));
        }
        (None, None) => sentences.push(format!("{status}: no figure yet")),
    }
    sentences.push(match (figure.status, figure.kind.as_deref()) {
        (Status::Estimated, Some("estimate")) => format!("By {of_meter}: processor time times assumed watts."),
        (Status::Estimated, _) => format!("By {of_meter}: its sensors do not see everything."),
        (Status::Replayed, _) => format!("By {of_meter}: a recorded trace, which does not say how it was measured."),
        (Status::Attributed, _) => format!("By {of_meter}: not all of it is certain to be this pipeline's."),
        _ => format!("By {of_meter}."),
    });
    sentences.extend(reason.map(|reason| format!("Note: {reason}")));
    sentences
}

/// Returns what a meter covers.
fn covers(scope: &str) -> String {
    match scope {
        "package" => "which covers the processor".to_owned(),
        "platform" | "board" => "which covers the whole board".to_owned(),
        "device" => "which covers one device".to_owned(),
        "process" => "which covers this program".to_owned(),
        other => format!("which covers: {other}"),
    }
}

/// Returns which delegate runs, and the proof, as lines; the first is the one that matters.
pub(crate) fn delegate(delegate: &Delegate) -> Vec<String> {
    let place = match delegate.isolation.as_deref() {
        Some("process") => ", in a process of its own",
        Some("thread") => ", inside the daemon",
        _ => "",
    };
    let mut lines = Vec::new();
    if delegate.is_requested() {
        lines.push(format!("{}{place}", delegate.active));
    } else {
        lines.push(format!("{} instead of {}{place}", delegate.active, delegate.requested));
        lines.extend(delegate.reason.iter().map(|reason| format!("because {reason}")));
    }
    if let (Some(taken), Some(total)) = (delegate.nodes_delegated, delegate.nodes_total) {
        let pieces = match delegate.partitions {
            Some(1) => ", in one piece".to_owned(),
            Some(n) if n > 1 => format!(", in {n} pieces"),
            _ => String::new(),
        };
        lines.push(format!("runs {taken} of {}{pieces}", counted(total, "operator")));
    }
    match delegate.fully_accelerated {
        Some(true) => lines.push("all operators run on the accelerator".to_owned()),
        Some(false) => lines.push("some operators run on the CPU".to_owned()),
        None => {}
    }
    if let Some(parity) = &delegate.parity {
        lines.push(match parity.top1 {
            Some(share) => format!("same class as the CPU: {:.0} % of {}", 100.0 * share, parity.windows),
            None => format!("compared with the CPU: {}", counted(parity.windows, "window")),
        });
        if let (Some(difference), Some(tolerance)) = (parity.difference, parity.tolerance) {
            lines.push(format!("difference {difference:.3}, allowed {tolerance:.3}"));
        }
    }
    if delegate.nodes_delegated > Some(0) && !delegate.on_cpu.is_empty() {
        let rest: Vec<String> = delegate.on_cpu.iter().map(|(name, n)| format!("{n} {name}")).collect();
        lines.push(format!("left to the CPU: {}", rest.join(", ")));
    }
    lines.extend(delegate.library.iter().map(|library| format!("library {library}")));
    lines.extend(delegate.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines
}

/// Returns whether windows go to the model, such as `gate closed, level 12.0 (threshold 500)`.
pub(crate) fn gate(gate: &Gate) -> String {
    let state = if gate.open { "open" } else { "closed" };
    let level = gate.level.map_or(String::new(), |level| format!(", level {}", number(level)));
    let threshold = gate.threshold.map_or(String::new(), |threshold| format!(" (threshold {})", number(threshold)));
    format!("gate {state}{level}{threshold}")
}

/// Returns what was lost, in words; `None` if nothing was.
pub(crate) fn lost(node: &Node, pipeline: &Pipeline) -> Option<String> {
    let counted = pipeline.metrics.iter().flat_map(|metrics| &metrics.lost).chain(&node.undelivered);
    let mut parts: Vec<String> = counted.map(|(what, n)| format!("{what}: {n}")).collect();
    if pipeline.missing > 0 {
        parts.push(format!("predictions that did not arrive here: {}", pipeline.missing));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Returns what was decided, in one line.
pub(crate) fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Label { label: Some(label), also, .. } if also.is_empty() => label.clone(),
        Verdict::Label { label: Some(label), also, .. } => format!("{label}, {}", also.join(", ")),
        Verdict::Label { label: None, .. } => "(undecided)".to_owned(),
        Verdict::Values(values) => {
            let shown = |(name, v): &(String, Option<f64>)| format!("{name} {}", v.map_or("-".to_owned(), value));
            values.iter().map(shown).collect::<Vec<_>>().join("  ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_says_first_what_it_is() {
        let mut figure = Energy {
            status: Status::Estimated,
            meter: Some("guess".to_owned()),
            kind: Some("estimate".to_owned()),
            scope: Some("process".to_owned()),
            gross_j: Some(2.575),
            net_j: Some(0.00213),
            idle_w: Some(2.5),
            ..Energy::default()
        };
        let expected = [
            "Estimated, not measured: 2.13 mJ more than idle for each inference (net)",
            "2.58 J with its share of idle power: 2.50 W flow all the time (gross)",
            "By meter guess, which covers this program: processor time times assumed watts.",
        ];
        assert_eq!(energy(&figure), expected);
        figure.status = Status::Measured;
        figure.net_expanded_j = Some(0.0005);
        assert!(energy(&figure)[0].starts_with("Measured: 2.13 ± 0.50 mJ more than idle"), "{:?}", energy(&figure));
        figure.net_j = None;
        assert!(energy(&figure)[0].starts_with("Measured: 2.58 J for each inference, idle power included"));
        figure.status = Status::Unavailable;
        figure.reason = Some("no meter".to_owned());
        assert_eq!(energy(&figure)[0], "Not known: no meter");
    }

    #[test]
    fn a_gate_is_said_with_its_level() {
        let closed = Gate { open: false, level: Some(12.0), threshold: Some(500.0) };
        assert_eq!(gate(&closed), "gate closed, level 12.0 (threshold 500)");
        assert_eq!(gate(&Gate { open: true, ..Gate::default() }), "gate open");
    }

    #[test]
    fn numbers_have_a_unit_that_suits_them() {
        assert_eq!(
            [0.0, 1.5, 0.0999, 2.13e-3, 5e-7, 99.99].map(|j| with_uncertainty(j, None)),
            ["0.00 mJ", "1.50 J", "99.9 mJ", "2.13 mJ", "500 nJ", "100 J"]
        );
        assert_eq!([437.2, 12_345.0, 2_000_000.0].map(micros), ["437 us", "12.3 ms", "2.00 s"]);
        assert_eq!(
            (clock(86_399_000), ago(61_000), ago(7_300_000)),
            ("23:59:59".into(), "61 s ago".into(), "2 h ago".into())
        );
    }
}
