//! The results as CSV, a cell a line. Its columns are those of version 1; new ones come at the end.

use crate::measure::bench::report::{CellReport, Expanded, Report};
use crate::measure::bench::statistics::{Difference, Estimate};

const COLUMNS: &str = "v,cell,model,model_sha256,model_bytes,delegate,kind,threads,batch,failure,rounds,inferences,\
    load_ms,first_ms,p50_ms,p50_low,p50_high,p90_ms,p90_low,p90_high,p99_ms,p99_low,p99_high,max_ms,\
    windows_per_s,windows_per_s_low,windows_per_s_high,cpu_ms,memory_mib,meter,status,reason,\
    gross_mj,gross_expanded_mj,net_mj,net_expanded_mj,idle_w,idle_draw_w,tail_s,\
    agreement_windows,top1,largest_difference,labelled_windows,accuracy,\
    time_ratio,time_ratio_low,time_ratio_high,net_ratio,net_ratio_low,net_ratio_high";

/// Returns the table with a header. What is not known is empty. A cell has a line for each meter, or one without.
pub fn csv(report: &Report) -> String {
    let mut text = format!("{COLUMNS}\n");
    for cell in &report.cells {
        let meters: Vec<Option<&String>> =
            if cell.energy.is_empty() { vec![None] } else { cell.energy.keys().map(Some).collect() };
        for meter in meters {
            let line: Vec<String> = fields(report, cell, meter).iter().map(|field| quoted(field)).collect();
            text.push_str(&line.join(","));
            text.push('\n');
        }
    }
    text
}

fn fields(report: &Report, cell: &CellReport, meter: Option<&String>) -> Vec<String> {
    let show = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let whole = |value: Option<usize>| value.map_or_else(String::new, |value| value.to_string());
    let estimate =
        |of: Option<Estimate>| [of.map(|of| of.value), of.and_then(|of| of.low), of.and_then(|of| of.high)].map(show);
    let expanded = |of: Option<Expanded>| [of.map(|of| of.value), of.and_then(|of| of.expanded)].map(show);
    let speed = cell.speed.as_ref();
    let energy = meter.and_then(|meter| cell.energy.get(meter));
    let against = cell.against_baseline.as_ref();
    let net = against.zip(meter).and_then(|(against, meter)| against.net.get(meter)).copied();
    let ratio =
        |of: Option<Difference>| [of.map(|of| of.ratio), of.and_then(|of| of.low), of.and_then(|of| of.high)].map(show);
    let mut fields = vec![
        report.v.to_string(),
        cell.name.clone(),
        cell.model.name.clone(),
        cell.model.sha256.clone(),
        cell.model.bytes.to_string(),
        cell.delegate.name.clone(),
        cell.delegate.kind.clone(),
        cell.threads.map_or_else(String::new, |threads| threads.to_string()),
        cell.batch.to_string(),
        text(&cell.failure),
        cell.rounds.len().to_string(),
        speed.map_or_else(String::new, |speed| speed.inferences.to_string()),
        show(speed.map(|speed| speed.load_ms.value)),
        show(speed.map(|speed| speed.first_ms.value)),
    ];
    for of in [speed.map(|speed| speed.p50_ms), speed.map(|speed| speed.p90_ms), speed.map(|speed| speed.p99_ms)] {
        fields.extend(estimate(of));
    }
    fields.push(show(speed.map(|speed| speed.max_ms)));
    fields.extend(estimate(speed.map(|speed| speed.windows_per_s)));
    fields.extend([show(speed.map(|speed| speed.cpu_ms.value)), show(cell.memory_mib)]);
    fields.push(meter.cloned().unwrap_or_default());
    fields.push(energy.map_or_else(String::new, |energy| energy.status.clone()));
    fields.push(energy.map_or_else(String::new, |energy| text(&energy.reason)));
    fields.extend(expanded(energy.and_then(|energy| energy.gross_mj)));
    fields.extend(expanded(energy.and_then(|energy| energy.net_mj)));
    fields.push(show(energy.and_then(|energy| energy.idle_w)));
    fields.push(show(energy.and_then(|energy| energy.idle_draw_w).map(|draw| draw.value)));
    fields.push(show(energy.and_then(|energy| energy.tail_s)));
    fields.push(whole(cell.agreement.top1.map(|_| cell.agreement.windows)));
    fields.extend([show(cell.agreement.top1), show(cell.agreement.largest_difference)]);
    fields.push(whole(cell.accuracy.map(|accuracy| accuracy.windows)));
    fields.push(show(cell.accuracy.map(|accuracy| accuracy.right.value)));
    fields.extend(ratio(against.and_then(|against| against.time)));
    fields.extend(ratio(net));
    fields
}

/// Returns a field as CSV has it (RFC 4180).
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_with_anything_in_it_stays_one_field() {
        assert_eq!(quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(quoted("plain"), "plain");
        assert!(!COLUMNS.contains(' '), "{COLUMNS}");
    }
}
