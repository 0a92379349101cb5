//! What the first lines of a recording in CSV say: which columns are channels, time and true label, and the rate.

/// The most lines that are looked at.
pub const LINES: usize = 200;
/// What separates columns, the one that is seldom in a name first.
const DELIMITERS: [&str; 3] = [";", "\t", COMMA];
const COMMA: &str = ",";
/// The units of a time column, by the end of its name; seconds otherwise.
const UNITS: [(&str, &str, f64); 3] = [("_ms", "ms", 1e-3), ("_us", "us", 1e-6), ("_ns", "ns", 1e-9)];

/// The columns of a recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {
    pub channels: Vec<String>,
    pub time: Option<String>,
    /// The unit of the time, unless it is seconds.
    pub time_unit: Option<&'static str>,
    pub truth: Option<String>,
    pub rate_hz: Option<f64>,
    /// What separates the columns, unless it is a comma.
    pub delimiter: Option<&'static str>,
    /// Whether numbers have a decimal comma.
    pub has_decimal_comma: bool,
}

/// Reads the header and the lines after it. `None`: they are of another form, or do not have `wanted`
/// channels. `named` are the columns that the user wants as channels.
///
/// # Errors
/// There is no such column.
pub fn columns(text: &str, wanted: usize, named: Option<&[String]>) -> Result<Option<Columns>, String> {
    let Some(mut columns) = all_columns(text) else { return Ok(None) };
    if let Some(named) = named {
        if let Some(other) = named.iter().find(|name| !columns.channels.contains(name)) {
            let found = columns.channels.join(", ");
            return Err(format!("the recording has no column `{other}` of numbers; it has {found}"));
        }
        columns.channels = named.to_vec();
    }
    Ok(Some(columns).filter(|columns| columns.channels.len() == wanted))
}

fn all_columns(text: &str) -> Option<Columns> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let header = lines.next()?;
    let delimiter = DELIMITERS.into_iter().find(|delimiter| header.contains(delimiter)).unwrap_or(COMMA);
    let names: Vec<&str> = header.split(delimiter).map(str::trim).collect();
    let rows: Vec<Vec<&str>> = lines
        .take(LINES)
        .map(|line| line.split(delimiter).map(str::trim).collect::<Vec<_>>())
        .filter(|row| row.len() == names.len())
        .collect();
    let first = rows.first()?;
    let has_decimal_comma =
        delimiter != COMMA && rows.iter().flatten().any(|value| value.contains(',') && with_point(value).is_some());
    let parsed = |value: &str| if has_decimal_comma { with_point(value) } else { value.parse::<f64>().ok() };
    let is_number = |column: usize| parsed(first[column]).is_some();
    if names.iter().any(|name| parsed(name).is_some() || name.is_empty()) {
        return None;
    }
    let is_time = |column: &usize| {
        let name = names[*column].to_lowercase();
        is_number(*column) && (name == "t" || name.starts_with("time"))
    };
    let time = (0..names.len()).find(is_time);
    let texts: Vec<usize> = (0..names.len()).filter(|column| !is_number(*column)).collect();
    let channels: Vec<String> = (0..names.len())
        .filter(|column| is_number(*column) && Some(*column) != time)
        .map(|column| names[column].to_owned())
        .collect();
    let unit = time.and_then(|column| UNITS.iter().find(|(end, ..)| names[column].ends_with(end)));
    let rate = |column: usize| rate(rows.iter().filter_map(|row| parsed(row[column])), unit.map_or(1.0, |u| u.2));
    Some(Columns {
        channels,
        time: time.map(|column| names[column].to_owned()),
        time_unit: unit.map(|(_, unit, _)| *unit),
        truth: if let [truth] = texts.as_slice() { Some(names[*truth].to_owned()) } else { None },
        rate_hz: time.and_then(rate),
        delimiter: (delimiter != COMMA).then_some(delimiter),
        has_decimal_comma,
    })
}

/// Reads a number with a decimal comma.
fn with_point(value: &str) -> Option<f64> {
    value.replace(',', ".").parse().ok()
}

/// Returns the rate of samples with these times, to four digits.
fn rate(times: impl Iterator<Item = f64>, unit_s: f64) -> Option<f64> {
    let times: Vec<f64> = times.collect();
    let mut steps: Vec<f64> =
        times.windows(2).map(|pair| (pair[1] - pair[0]) * unit_s).filter(|step| *step > 0.0).collect();
    steps.sort_by(f64::total_cmp);
    let middle = *steps.get(steps.len() / 2)?;
    crate::text::figure(1.0 / middle).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_told_by_their_names_and_their_first_values() {
        let text = "# made by hand\ntime_ms,ax,ay,exercise\n0,1,2.5,ROW\n20,1,2,ROW\n40,0,1,PEN\n";
        let expected = Columns {
            channels: vec!["ax".into(), "ay".into()],
            time: Some("time_ms".into()),
            time_unit: Some("ms"),
            truth: Some("exercise".into()),
            rate_hz: Some(50.0),
            delimiter: None,
            has_decimal_comma: false,
        };
        let columns = |text, wanted| columns(text, wanted, None).unwrap();
        assert_eq!(columns(text, 2), Some(expected));
        let named = |names: [&str; 2]| super::columns(text, 2, Some(&names.map(str::to_owned)));
        assert_eq!(named(["ay", "ax"]).unwrap().unwrap().channels, ["ay", "ax"], "in the order that was asked for");
        assert!(named(["ax", "az"]).unwrap_err().contains("no column `az` of numbers; it has ax, ay"));
        assert_eq!(columns(text, 3), None, "another number of channels");
        assert_eq!(columns("1,2\n3,4\n", 2), None, "no header");
        assert_eq!(columns("a,b\n", 2), None, "no line to tell by");
        let european = columns("t;ax;ay\n0,00;1,5;-2\n0,02;1;3,25\n", 2).unwrap();
        assert_eq!((european.delimiter, european.has_decimal_comma), (Some(";"), true));
        assert_eq!((european.channels, european.rate_hz), (vec!["ax".to_owned(), "ay".to_owned()], Some(50.0)));
        let tabs = columns("a\tb\n1.5\t2\n", 2).unwrap();
        assert_eq!((tabs.delimiter, tabs.has_decimal_comma), (Some("\t"), false));
        let plain = columns("x\n1\n2\n", 1).unwrap();
        assert_eq!((plain.time, plain.truth, plain.rate_hz), (None, None, None));
    }
}
