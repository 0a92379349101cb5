//! The page of results that people sent: one section a machine. docs/results/README.md is made by it.

use std::fmt::Write as _;

use super::{energy, number, with_uncertainty};
use crate::measure::bench::report::{CellReport, Report};

/// Returns the page in Markdown; `reports` are the files' names and contents.
pub fn page(reports: &[(String, Report)]) -> String {
    let mut page = String::from(
        "# Results\n\n\
         What `edgewatt bench` found on machines that people have. To send yours: `edgewatt bench --share FILE.json`, look at the \
         file, put it into this folder, and run `EDGEWATT_BLESS=1 cargo test --test docs results::`. A shared file names the \
         machine, its kernel, the runtime, the models and delegates, and nothing else. [The bench](../bench.md) says what the \
         figures are.\n",
    );
    for (file, report) in reports {
        section(&mut page, file, report);
    }
    page
}

fn section(page: &mut String, file: &str, report: &Report) {
    let _ = write!(
        page,
        "\n## {}\n\n{}; TensorFlow Lite {}; edgewatt {}, {}; {}; [{file}]({file})\n\n",
        report.machine.name(),
        report.machine.in_words(),
        report.runtime,
        report.edgewatt,
        report.time_ms,
        report.windows,
    );
    page.push_str("| cell | p50 / ms | p99 / ms | windows / s | net / mJ | memory / MiB | agrees / % | right / % |\n");
    page.push_str("|---|---|---|---|---|---|---|---|\n");
    let meter = report.meter();
    report.ran().for_each(|cell| row(page, cell, meter));
    for note in report.warnings.iter().chain(&report.no_energy) {
        let _ = write!(page, "\n- {note}");
    }
    if !report.warnings.is_empty() || report.no_energy.is_some() {
        page.push('\n');
    }
}

fn row(page: &mut String, cell: &CellReport, meter: Option<&str>) {
    let Some(speed) = &cell.speed else { return };
    let dash = || "-".to_owned();
    let part = |part: Option<f64>| part.map_or_else(dash, |part| format!("{:.1}", 100.0 * part));
    let net = energy(cell, meter).and_then(|energy| energy.net_mj);
    let _ = writeln!(
        page,
        "| {} | {} | {} | {} | {} | {} | {} | {} |",
        cell.name.replace('|', "\\|"),
        number(speed.p50_ms.value),
        number(speed.p99_ms.value),
        number(speed.windows_per_s.value),
        net.map_or_else(dash, with_uncertainty),
        cell.memory_mib.map_or_else(dash, number),
        part(cell.agreement.top1),
        part(cell.accuracy.map(|accuracy| accuracy.right.value)),
    );
}
