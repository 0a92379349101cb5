//! The results as one page that needs no network and no script: the table, and plots that can be saved as SVG.

use std::fmt::Write as _;

use super::plot::{Axis, Plot, escaped};
use super::{difference, energy, number, with_interval, with_uncertainty};
use crate::measure::bench::recommend::PowerLine;
use crate::measure::bench::report::{CellReport, Report};
use crate::measure::bench::statistics::Estimate;
use crate::text::counted;

const STYLE: &str = "\
:root{color-scheme:light}\
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:78rem;padding:1rem;color:#111;background:#fff}\
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:1.6rem 0 .4rem}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}\
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}\
th{border-bottom:2px solid #333}td.name,th.name{text-align:left}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.2rem}\
figure{margin:0;border:1px solid #ddd;border-radius:.4rem;padding:.6rem;break-inside:avoid}\
figure svg{display:block;width:100%;height:auto}figcaption{font-size:.875rem;margin-top:.4rem}\
.warn{border-left:4px solid #d55e00;padding:.2rem .8rem;margin:.5rem 0}.small{font-size:.875rem;color:#444}\
@media print{body{max-width:none;padding:0;font-size:11px}a.save{display:none}.scroll{overflow:visible}}";

/// A plot with what a reader should know to read it.
struct Figure {
    /// The name of its file.
    file: &'static str,
    title: &'static str,
    caption: String,
    svg: String,
}

/// Returns the page.
pub fn page(report: &Report) -> String {
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>edgewatt bench: {0}</title><style>{STYLE}</style>\
         <link rel=\"icon\" href=\"data:,\"></head>\n<body><h1>edgewatt bench</h1>\n<p>{0}</p>\n",
        escaped(report.machine.name())
    );
    about(&mut page, report);
    table(&mut page, report);
    against(&mut page, report);
    page.push_str(
        "<h2>Plots</h2>\n<p class=\"small\">The numbers are those of the table.</p>\n<div class=\"plots\">\n",
    );
    for figure in figures(report) {
        let Figure { file, title, caption, svg } = figure;
        let _ = writeln!(
            page,
            "<figure id=\"{file}\"><strong>{title}</strong>{svg}<figcaption>{caption} <a class=\"save\" download=\"{file}.svg\" \
             href=\"data:image/svg+xml,{}\">Save as SVG</a></figcaption></figure>",
            percent_encoded(&svg)
        );
    }
    page.push_str("</div>\n</body></html>\n");
    page
}

fn about(page: &mut String, report: &Report) {
    let about = format!(
        "{}; TensorFlow Lite {}; edgewatt {}; {}. {}; {} of {} s for each cell. Intervals hold the value in 95 of 100 cases.",
        report.machine.in_words(),
        report.runtime,
        report.edgewatt,
        report.time_ms,
        report.windows,
        counted(report.plan.rounds_done, "round"),
        number(report.plan.run_s),
    );
    let _ = writeln!(page, "<p class=\"small\">{}</p>", escaped(&about));
    for warning in report.warnings.iter().chain(&report.other_programs).chain(&report.no_energy) {
        let _ = writeln!(page, "<p class=\"warn\">{}</p>", escaped(warning));
    }
    for cell in &report.cells {
        if let Some(failure) = &cell.failure {
            let _ = writeln!(page, "<p class=\"warn\">{} failed: {}</p>", escaped(&cell.name), escaped(failure));
        }
    }
}

fn table(page: &mut String, report: &Report) {
    let meter = report.meter();
    let has_energy = meter.is_some();
    page.push_str("<div class=\"scroll\"><table><thead><tr><th>#</th><th class=\"name\">cell</th>");
    let mut heads = vec![
        "load / ms",
        "first / ms",
        "p50 / ms",
        "p90 / ms",
        "p99 / ms",
        "max / ms",
        "windows / s",
        "processor / ms",
    ];
    if has_energy {
        heads.extend(["net / mJ", "gross / mJ", "idle draw / W", "tail / s", "energy is"]);
    }
    heads.extend(["memory / MiB", "file / KiB", "agrees / %", "right / %"]);
    heads.iter().for_each(|head| _ = write!(page, "<th>{head}</th>"));
    page.push_str("</tr></thead><tbody>\n");
    for (index, cell) in report.ran().enumerate() {
        let _ = write!(page, "<tr><td>{}</td><td class=\"name\">{}</td>", index + 1, escaped(&cell.name));
        for field in fields(cell, meter, has_energy) {
            let _ = write!(page, "<td>{}</td>", escaped(&field));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

fn fields(cell: &CellReport, meter: Option<&str>, has_energy: bool) -> Vec<String> {
    let dash = || "-".to_owned();
    let Some(speed) = &cell.speed else { return Vec::new() };
    let of = |value: Option<f64>| value.map_or_else(dash, number);
    let part = |part: Option<f64>| part.map_or_else(dash, |part| format!("{:.1}", 100.0 * part));
    let mut fields: Vec<String> = [speed.load_ms, speed.first_ms].map(|of| number(of.value)).to_vec();
    fields.extend([speed.p50_ms, speed.p90_ms, speed.p99_ms].map(with_interval));
    fields.extend([number(speed.max_ms), with_interval(speed.windows_per_s), with_interval(speed.cpu_ms)]);
    if has_energy {
        let energy = energy(cell, meter);
        fields.extend([
            energy.and_then(|energy| energy.net_mj).map_or_else(dash, with_uncertainty),
            energy.and_then(|energy| energy.gross_mj).map_or_else(dash, with_uncertainty),
            energy.and_then(|energy| energy.idle_draw_w).map_or_else(dash, with_interval),
            of(energy.and_then(|energy| energy.tail_s)),
            energy.map_or_else(dash, |energy| energy.status.clone()),
        ]);
    }
    fields.extend([of(cell.memory_mib), number(cell.model.bytes as f64 / 1024.0)]);
    fields.extend([part(cell.agreement.top1), part(cell.accuracy.map(|accuracy| accuracy.right.value))]);
    fields
}

fn against(page: &mut String, report: &Report) {
    let Some(baseline) = &report.baseline else { return };
    let compared: Vec<&CellReport> = report.ran().filter(|cell| cell.against_baseline.is_some()).collect();
    if compared.is_empty() {
        return;
    }
    let _ = writeln!(page, "<h2>Compared with {}</h2>\n<ul>", escaped(baseline));
    for cell in compared {
        let Some(against) = &cell.against_baseline else { continue };
        let time = against.time.map(|time| format!("time of a window: {}", difference(time)));
        let net = against.net.iter().map(|(meter, net)| format!("net energy by {meter}: {}", difference(*net)));
        let parts: Vec<String> = time.into_iter().chain(net).collect();
        let _ = writeln!(page, "<li>{}: {}</li>", escaped(&cell.name), escaped(&parts.join("; ")));
    }
    page.push_str("</ul>\n");
}

fn figures(report: &Report) -> Vec<Figure> {
    [latencies(report), cost(report), powers(report), batches(report)].into_iter().flatten().collect()
}

fn latencies(report: &Report) -> Option<Figure> {
    let cells: Vec<_> = report.ran().filter_map(|cell| cell.speed.as_ref()).collect();
    let bounds = cells.iter().flat_map(|speed| speed.histogram.iter().map(|(bound, _)| *bound));
    let mut plot = Plot::of_rows(Axis::log("time of an inference / ms", bounds)?, cells.len());
    for (row, speed) in cells.iter().enumerate() {
        let marks = [speed.p50_ms, speed.p90_ms, speed.p99_ms].map(|quantile| quantile.value);
        plot.distribution(row, &speed.histogram, &marks);
    }
    Some(Figure {
        file: "latency",
        title: "How long inferences take",
        caption: "A row for each cell: how often each time came. Lines: p50, p90, p99.".to_owned(),
        svg: plot.svg("How long inferences take"),
    })
}

/// A cell in the plot of time and energy.
struct Point {
    series: usize,
    time: Estimate,
    cost: f64,
    range: Option<(f64, f64)>,
}

/// Time against energy; against processor time without a meter.
fn cost(report: &Report) -> Option<Figure> {
    let meter = report.meter();
    let of = |(series, cell): (usize, &CellReport)| {
        let speed = cell.speed.as_ref()?;
        let time = speed.p50_ms.scaled(1.0 / cell.batch as f64);
        if meter.is_none() {
            let range = speed.cpu_ms.low.zip(speed.cpu_ms.high);
            return Some(Point { series, time, cost: speed.cpu_ms.value, range });
        }
        let net = energy(cell, meter)?.net_mj?;
        let range = net.expanded.map(|expanded| (net.value - expanded, net.value + expanded));
        Some(Point { series, time, cost: net.value, range })
    };
    let points: Vec<Point> = report.ran().enumerate().filter_map(of).collect();
    let (title, y_title, what) = match meter {
        Some(meter) => ("Time and energy", "net energy of a window / mJ".to_owned(), format!("net energy by {meter}")),
        None => ("Time and processor time", "processor time of a window / ms".to_owned(), "processor time".to_owned()),
    };
    let x = Axis::log("time of a window / ms", points.iter().flat_map(|point| around(point.time)))?;
    let bounds = |point: &Point| [Some(point.cost), point.range.map(|range| range.0), point.range.map(|range| range.1)];
    let mut plot = Plot::new(x, Axis::log(&y_title, points.iter().flat_map(bounds).flatten())?);
    plot.steps(&front(points.iter().map(|point| (point.time.value, point.cost)).collect()));
    for Point { series, time, cost, range } in &points {
        plot.mark(*series, (time.value, *cost), time.low.zip(time.high), *range);
    }
    let caption = format!(
        "Median time of a window (that of a batch divided by its windows) and {what}, with their intervals. The dashed line joins \
         the cells that no other cell beats in both."
    );
    Some(Figure { file: "energy", title, caption: escaped(&caption), svg: plot.svg(title) })
}

fn around(of: Estimate) -> impl Iterator<Item = f64> {
    [Some(of.value), of.low, of.high].into_iter().flatten()
}

/// Returns the points that no other one is below in both directions, from left to right.
fn front(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut best = f64::INFINITY;
    points.retain(|(_, y)| {
        *y < best && {
            best = *y;
            true
        }
    });
    points
}

/// Power against the rate.
fn powers(report: &Report) -> Option<Figure> {
    const POINTS: i32 = 40;
    let meter = report.meter()?;
    let of = |cell: &CellReport| Some((PowerLine::of(cell, meter)?, cell.speed.as_ref()?.windows_per_s.value));
    let lines: Vec<_> = report.ran().enumerate().filter_map(|(series, cell)| Some((series, of(cell)?))).collect();
    let fastest = lines.iter().map(|(_, (_, most))| *most).fold(0.0, f64::max);
    let lowest = fastest / 1e4;
    let curve = |(line, most): &(PowerLine, f64)| -> Vec<(f64, f64)> {
        let rate = |point: i32| lowest * (most / lowest).powf(f64::from(point) / f64::from(POINTS));
        (0..=POINTS).map(rate).map(|rate| (rate, line.at(rate))).filter(|(_, watts)| *watts > 0.0).collect()
    };
    let curves: Vec<(usize, Vec<(f64, f64)>)> = lines.iter().map(|(series, line)| (*series, curve(line))).collect();
    let all = || curves.iter().flat_map(|(_, points)| points.iter().copied());
    let x = Axis::log("windows / s", all().map(|(rate, _)| rate))?;
    let mut plot = Plot::new(x, Axis::log("added power / W", all().map(|(_, watts)| watts))?);
    for (series, points) in &curves {
        plot.curve(*series, points);
        // Not all at the end, where lines come close.
        let place = points.len() * (10 + series % 7) / 18;
        points.get(place).iter().for_each(|point| plot.label(*series, **point));
    }
    Some(Figure {
        file: "power",
        title: "Power at a rate",
        caption: "Power above that of the machine with nothing loaded: the idle draw of the loaded engine, and net energy times the \
                  rate. Where two lines cross, both need the same; a line ends at the rate that the cell reaches."
            .to_owned(),
        svg: plot.svg("Power at a rate"),
    })
}

/// Cells that differ in their batch only: windows per second by batch.
struct Series<'a> {
    place: usize,
    first: &'a CellReport,
    points: Vec<(f64, Estimate)>,
}

/// Windows per second against the batch.
fn batches(report: &Report) -> Option<Figure> {
    let base = |cell: &CellReport| (cell.model.name.clone(), cell.delegate.name.clone(), cell.threads);
    let of = |cell: &CellReport| Some((cell.batch as f64, cell.speed.as_ref()?.windows_per_s));
    let mut series: Vec<Series<'_>> = Vec::new();
    for (place, cell) in report.ran().enumerate() {
        let Some(point) = of(cell) else { continue };
        match series.iter_mut().find(|series| base(series.first) == base(cell)) {
            Some(series) => series.points.push(point),
            None => series.push(Series { place, first: cell, points: vec![point] }),
        }
    }
    series.retain(|series| series.points.len() > 1);
    let all = || series.iter().flat_map(|series| series.points.iter().copied());
    let x = Axis::log("windows in a batch", all().map(|(batch, _)| batch))?;
    let mut plot = Plot::new(x, Axis::log("windows / s", all().flat_map(|(_, rate)| around(rate)))?);
    for Series { place, points, .. } in &series {
        plot.curve(*place, &points.iter().map(|(batch, rate)| (*batch, rate.value)).collect::<Vec<_>>());
        for (batch, rate) in points {
            plot.mark(*place, (*batch, rate.value), None, rate.low.zip(rate.high));
        }
    }
    Some(Figure {
        file: "batches",
        title: "What batches bring",
        caption: "Windows per second with batches of several windows; the number is that of the cell with the smallest batch."
            .to_owned(),
        svg: plot.svg("What batches bring"),
    })
}

/// Returns text as it stands in a data URL.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' | b':' | b'=' | b',' => {
                encoded.push(char::from(byte));
            }
            _ => _ = write!(encoded, "%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_no_other_beats() {
        let points = vec![(1.0, 9.0), (2.0, 5.0), (3.0, 6.0), (4.0, 1.0), (4.0, 2.0)];
        assert_eq!(front(points), [(1.0, 9.0), (2.0, 5.0), (4.0, 1.0)]);
    }
}
