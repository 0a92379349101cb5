//! The same samples in every dialect in which people have them give the same windows, from a recording and from a stream.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use edgewatt::config::{Config, Document};
use edgewatt::load::recording::{self, PlayedStages};
use edgewatt::source::sink::frame_ring;
use edgewatt::source::{Pieces, Reject, SourceStats, WhenFull};
use edgewatt::stop::Stop;

const SAMPLES: usize = 40;

/// The columns of a sample as they are written: time, x, y.
type Row = [String; 3];

fn rows(time: impl Fn(usize) -> String) -> Vec<Row> {
    (0..SAMPLES).map(|i| [time(i), format!("{}", i as f64 + 0.5), format!("{}", -0.25 * i as f64)]).collect()
}

fn seconds() -> Vec<Row> {
    rows(|i| format!("{:.1}", i as f64 / 10.0))
}

fn iso(date_to_fraction: &str, zone: &str) -> Vec<Row> {
    rows(|i| format!("{date_to_fraction}{:02}.{}00{zone}", 50 + i / 10, i % 10))
}

/// Writes lines with that delimiter and line end.
fn table(header: &str, rows: &[Row], delimiter: &str, end: &str) -> String {
    let mut text = header.to_owned();
    rows.iter().for_each(|row| write!(text, "{}{end}", row.join(delimiter)).unwrap());
    text
}

/// Writes lines with the last two columns swapped.
fn swapped(header: &str, rows: &[Row]) -> String {
    let rows: Vec<Row> = rows.iter().map(|[t, x, y]| [t.clone(), y.clone(), x.clone()]).collect();
    table(header, &rows, ",", "\n")
}

fn comma(rows: &[Row]) -> Vec<Row> {
    rows.iter().map(|row| row.clone().map(|field| field.replace('.', ","))).collect()
}

fn quoted(rows: &[Row]) -> Vec<Row> {
    rows.iter().map(|row| row.clone().map(|field| format!("\"{field}\""))).collect()
}

fn objects(rows: &[Row], object: impl Fn(&Row) -> String) -> Vec<String> {
    rows.iter().map(object).collect()
}

/// Each dialect: its name, the keys that it needs, and the text.
fn dialects() -> Vec<(&'static str, &'static str, String)> {
    let s = seconds();
    let plain = |row: &Row| format!("{{\"t\":{},\"x\":{},\"y\":{}}}", row[0], row[1], row[2]);
    let nested = |row: &Row| format!("{{\"t\":{},\"imu\":{{\"a\":[{},{}]}}}}", row[0], row[1], row[2]);
    let csv = |header: &str, rows: &[Row]| table(header, rows, ",", "\n");
    let second = |i: usize| format!("{}", 1_700_000_000 + i / 10);
    vec![
        ("plain", "", csv("t,x,y\n", &s)),
        ("no last newline", "", csv("t,x,y\n", &s).trim_end().to_owned()),
        ("semicolons at the ends", "", table("t,x,y;\n", &s, ",", ";\n")),
        ("joined files", "", table("t,x,y\n", &s[..20], ",", "\n") + &swapped("t,y,x\n", &s[20..])),
        ("minutes and seconds", "", csv("t,x,y\n", &rows(|i| format!("59:{:02}.{}", 55 + i / 10, i % 10)))),
        ("a spreadsheet's first line", "delimiter = \";\"", table("sep=;\r\nt;x;y\r\n", &s, ";", "\r\n")),
        ("CRLF", "", table("t,x,y\r\n", &s, ",", "\r\n")),
        ("CR", "", table("t,x,y\r", &s, ",", "\r")),
        ("byte order mark", "", csv("\u{feff}t,x,y\n", &s)),
        ("blank lines", "", table("\nt,x,y\n\n", &s, ",", "\n\n  \n")),
        ("comments", "", format!("# by hand\n#\n{}# the end\n", csv("t,x,y\n", &s))),
        ("header in a comment", "", csv("# t,x,y\n", &s)),
        ("other comments", "comment = \"%\"", csv("% by hand\nt,x,y\n", &s)),
        ("lines on top", "skip_lines = 2", csv("IMU logger 1.2\nrate;10\nt,x,y\n", &s)),
        ("units below", "", csv("t,x,y\ns,g,g\n", &s)),
        ("units and blanks below", "", csv("t,x,y\n,[g],[g]\n", &s)),
        ("delimiter at the end of rows", "", table("t,x,y\n", &s, ",", ",\n")),
        ("delimiter at the end of all lines", "", table("t,x,y,\n", &s, ",", ",\n")),
        ("other columns and order", "", {
            let mut text = "n,y,x,note,t\n".to_owned();
            s.iter().enumerate().for_each(|(n, [t, x, y])| writeln!(text, "{n},{y},{x},\"a, b\",{t}").unwrap());
            text
        }),
        ("no header", "header = false, columns = [\"t\", \"x\", \"y\"]", csv("", &s)),
        ("quotes", "", csv("\"t\",\"x\",\"y\"\n", &quoted(&s))),
        ("quotes and blanks", "", table("t, x, \"y\"\n", &quoted(&s), " , ", "  \n")),
        ("many blanks", "", table("t,x,y\n", &s, &format!("{:2000},{:2000}", "", ""), "\n")),
        ("semicolons", "delimiter = \";\"", table("t;x;y\n", &s, ";", "\n")),
        ("decimal comma", "delimiter = \";\", decimal = \",\"", table("t;x;y\n", &comma(&s), ";", "\r\n")),
        ("quoted decimal comma", "decimal = \",\"", csv("t,x,y\n", &quoted(&comma(&s)))),
        ("tabs", "delimiter = \"\\t\"", table("t\tx\ty\n", &s, "\t", "\n")),
        ("bars", "delimiter = \"|\"", table("t|x|y\n", &s, " | ", "\n")),
        ("blanks", "delimiter = \" \"", table("   t  x   y\n", &s, "   ", " \n")),
        ("exponents", "", csv("t,x,y\n", &rows(|i| format!("{i}e-1")))),
        (
            "milliseconds",
            "time_unit = \"ms\"",
            csv("t,x,y\n", &rows(|i| format!("{}", 1_700_000_000_000 + 100 * i as u64))),
        ),
        (
            "nanoseconds",
            "time_unit = \"ns\"",
            csv("t,x,y\n", &rows(|i| format!("{}", 1_700_000_000_000_000_001 + 100_000_000 * i as u64))),
        ),
        ("RFC 3339", "", csv("t,x,y\n", &iso("2021-03-04T12:00:", "Z"))),
        ("RFC 3339, offset", "", csv("t,x,y\n", &iso("2021-03-04T12:00:", "+05:30"))),
        ("local", "", csv("t,x,y\n", &iso("2021-03-04 23:59:", ""))),
        ("time of day", "", csv("t,x,y\n", &iso("12:00:", ""))),
        ("whole seconds", "equal_times = \"spread\"", csv("t,x,y\n", &rows(second))),
        (
            "whole seconds, ISO",
            "equal_times = \"spread\"",
            csv("t,x,y\n", &rows(|i| format!("2021-03-04T12:00:{:02}", i / 10))),
        ),
        ("pairs", "equal_times = \"spread\"", csv("t,x,y\n", &rows(|i| format!("{}", (i / 2) as f64 / 5.0)))),
        ("ndjson", "format = \"ndjson\"", objects(&s, plain).join("\n")),
        ("ndjson, strings", "format = \"ndjson\"", objects(&quoted(&s), plain).join("\r\n")),
        ("json array", "format = \"json\"", format!("[{}]", objects(&s, plain).join(","))),
        ("json array on lines", "format = \"json\"", format!("[\n  {}\n]\n", objects(&s, plain).join(",\n  "))),
        ("json over lines", "format = \"json\"", objects(&s, plain).join("\n").replace(',', ",\n  ")),
        ("nested", "format = \"ndjson\", channels = [\"/imu/a/0\", \"/imu/a/1\"]", objects(&s, nested).join("\n")),
    ]
}

/// A pipeline that reads the text; its model is not looked at.
fn config(folder: &Path, source: &str, keys: &str) -> Config {
    let channels = if keys.contains("channels") { "" } else { "channels = [\"x\", \"y\"], " };
    let text = format!(
        "node.id = \"test\"\nmqtt.broker = \"none\"\n[pipelines.p]\nwindow = {{ samples = 4, hop = 4 }}\ndecision.raw = {{}}\n\
         model.path = \"m.tflite\"\n[pipelines.p.source.{source}\n\
         records = {{ {channels}time = \"t\", rate_hz = 10.0, {keys} }}\n"
    );
    Document::new(folder.join("edgewatt.toml"), text.clone()).parse(None).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn expected() -> Vec<f32> {
    (0..SAMPLES).flat_map(|i| [i as f32 + 0.5, -0.25 * i as f32]).collect()
}

#[test]
fn every_dialect_gives_the_same_windows() {
    let folder = tempfile::tempdir().unwrap();
    for (name, keys, text) in dialects() {
        std::fs::write(folder.path().join("d"), &text).unwrap();
        let config = config(folder.path(), "replay]\npath = \"d\"\nspeed = \"max\"", keys);
        let mut windows = Vec::new();
        let path = folder.path().join("d");
        let survey = recording::play(&path, &config.pipelines[0], &[], PlayedStages::Windows, usize::MAX, |window| {
            windows.extend_from_slice(window.values);
            Ok(())
        });
        let survey = survey.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(windows, expected(), "{name}: {survey:?}");
        assert_eq!((survey.samples, survey.rejected), (SAMPLES, 0), "{name}");
        assert_eq!(survey.warnings(), Vec::<String>::new(), "{name}");
    }
}

/// The samples that a stream gives whose writer writes that text.
fn streamed(folder: &Path, config: &Config, text: &str) -> (Vec<f32>, Arc<SourceStats>) {
    let source = config.pipelines[0].source.kind();
    let options = edgewatt::source::OpenOptions { once: true, ..Default::default() };
    let producer = source.open(options).unwrap();
    let settings = edgewatt::source::SinkSettings {
        spec: source.spec(),
        frames: 4096,
        frames_per_block: 1,
        when_full: WhenFull::Wait,
    };
    let stats = Arc::<SourceStats>::default();
    let (mut sink, mut reader) = frame_ring(&settings, "p", Arc::new(Stop::new().unwrap()), stats.clone());
    let mut writer = UnixStream::connect(folder.join("s")).unwrap();
    // A stream that does not end with a newline ends inside a record.
    let text = format!("{}\n", text.trim_end_matches(['\r', '\n']));
    let writing = std::thread::spawn(move || writer.write_all(text.as_bytes()).unwrap());
    producer.run(&mut sink).unwrap();
    writing.join().unwrap();
    let mut samples = Vec::new();
    while let Some(part) = reader.pop(
        1,
        |_, _| false,
        |frames| match frames.values {
            Pieces::F32(first, second) => [first, second].concat(),
            other => panic!("{other:?}"),
        },
    ) {
        samples.extend(part);
    }
    (samples, stats)
}

#[test]
fn every_dialect_gives_the_same_samples_from_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    for (name, keys, text) in dialects() {
        let config = config(folder.path(), "lines]\nfrom = { socket = \"s\" }", keys);
        let (samples, stats) = streamed(folder.path(), &config, &text);
        assert_eq!(samples, expected(), "{name}");
        assert_eq!(stats.rejected(), 0, "{name}: {:?}", stats.remarks());
    }
}

#[test]
fn what_a_writer_does_wrong_is_said_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "lines]\nfrom = { socket = \"s\" }", "");
    let (samples, stats) = streamed(folder.path(), &config, "t,x,y\n0,1,2\n04.03.2021 12:00,1,2\n0.2,5,6\n");
    assert_eq!(samples, [1.0, 2.0, 5.0, 6.0]);
    assert_eq!(stats.rejects(Reject::Malformed), 1);
    let said = stats.remarks().reject.unwrap();
    assert!(said.contains("s:3: column `t`: `04.03.2021 12:00` is not a time"), "{said}");
    let double = table("t,x,y\n", &rows(|i| format!("{}", i as f64 / 1000.0)), ",", "\n");
    let long = format!("{double}{}", table("", &rows(|i| format!("{}", (i + SAMPLES) as f64 / 1000.0)), ",", "\n"));
    let (_, stats) = streamed(folder.path(), &config, &long);
    let said = stats.remarks().contradiction.unwrap();
    assert!(said.contains("the stream runs at 1000 Hz") && said.contains("records.rate_hz is 10"), "{said}");
}

/// What `check` and the start say of a recording that fills no window.
fn problem(keys: &str, text: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("d"), text).unwrap();
    let config = config(folder.path(), "replay]\npath = \"d\"\nspeed = \"max\"", keys);
    recording::survey(&config.pipelines[0]).unwrap().unwrap_err()
}

#[test]
fn a_recording_that_fills_no_window_is_a_problem_that_says_why() {
    for (keys, text, words) in [
        ("", String::new(), "there is no header: the text is empty"),
        ("format = \"ndjson\"", String::new(), "the file is empty"),
        ("", "t,x,y\n".to_owned(), "there is a header and no record below it"),
        ("", "t,x,y\n0,1,2\n0.1,1,2\n".to_owned(), "it has 2 samples, and a window needs 4"),
        ("", table("t,x,y\n", &rows(|i| format!("{}", i / 10)), ",", "\n"), "time stands still in 36 of 39 steps"),
        (
            "",
            table("t,x,y\n", &rows(|i| format!("{i}")), ",", "\n"),
            "time jumps ahead by more than window.max_gap_ms in 39",
        ),
        (
            "",
            table("t,x,y\n", &rows(|i| format!("{i}")), ",", "\n"),
            "runs at 1 Hz (its median step is 1 s), but records.rate_hz",
        ),
        ("", table("t,x,y\n", &rows(|i| format!("x{i}")), ",", "\n"), "d:2: column `t`: `x0` is not a time"),
        ("", table("t;x;y\n", &seconds(), ";", "\n"), "set records.delimiter = \";\""),
        (
            "delimiter = \";\"",
            table("t;x;y\n", &comma(&seconds()), ";", "\n"),
            "`0,0` is not a time; set records.decimal",
        ),
        (
            "",
            table("t,x,y\n", &rows(|i| format!("{}", 1_700_000_000_000 + 100 * i as u64)), ",", "\n"),
            "time_unit = \"ms\"",
        ),
        ("", table("t,x,y,x\n", &seconds(), ",", ",0\n"), "the column `x` twice, as column 2 and as column 4"),
        ("", table("", &seconds(), ",", "\n"), "set records.header = false"),
        ("", table("boot 1.2\n\nt,x,y\n", &seconds(), ",", "\n"), "line 3 has them: set records.skip_lines = 2"),
        ("", "t,x,y\ns,g,g\na,b,c\n".to_owned(), "no record below it; skipped: 2 rows of text below the header"),
        ("", "t,x,y\n0,1,2\n1,a,2\n2,a,2\n3,1,2\n".to_owned(), "2 of 4 records are rejected, the first: "),
        ("", "t,x,y\n0,a,2\n".to_owned(), "the only record is rejected; "),
        ("", table("t,x,y\n", &rows(|i| format!("{}", 1000 - i)), ",", "\n"), "time goes back in 39 of 39 steps"),
    ] {
        let said = problem(keys, text.as_bytes());
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn what_works_and_is_doubtful_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let warnings = |keys: &str, text: String| {
        std::fs::write(folder.path().join("d"), text).unwrap();
        let config = config(folder.path(), "replay]\npath = \"d\"\nspeed = \"max\"", keys);
        recording::survey(&config.pipelines[0]).unwrap().unwrap().warnings().join("\n")
    };
    let said = warnings("time_unit = \"ms\"", table("t,x,y\n", &seconds(), ",", "\n"));
    assert!(said.contains("runs at 10000 Hz") && said.contains("time_unit = \"s\" right?"), "{said}");
    let said = warnings("", format!("{}4.0,a,2\n", table("t,x,y\n", &seconds(), ",", "\n")));
    assert!(
        said.contains("1 of the 41 records is rejected; the first: ") && said.contains("d:42: column `x`"),
        "{said}"
    );
    let days = table("t,x,y\n", &rows(|i| format!("{:.10}", 44_259.5 + i as f64 / 864_000.0)), ",", "\n");
    assert!(warnings("", days).contains("the times seem to be days"));
    let twice = table("t,x,y\n", &rows(|i| format!("{:.1}", i.max(1) as f64 / 10.0)), ",", "\n");
    assert!(warnings("", twice).contains("time stands still in 1 of 39 steps"));
    let back = table("t,x,y\n", &rows(|i| format!("{:.1}", (i % 20) as f64 / 10.0)), ",", "\n");
    assert!(warnings("", back).contains("time goes back in 1 of 39 steps"));
}
