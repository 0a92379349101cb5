use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::source::records::header::HeaderError;

fn records(format: Format) -> Records {
    Records {
        format,
        header: None,
        columns: None,
        channels: vec!["x".into(), "y".into()],
        delimiter: Delimiter::Comma,
        decimal: Decimal::Point,
        comment: "#".into(),
        skip_lines: 0,
        limits: BTreeMap::from([("x".to_owned(), [-10.0, 10.0])]),
        rate_hz: None,
        time: Some("t".into()),
        time_unit: TimeUnit::S,
        equal_times: EqualTimes::Gap,
        truth: Some("what".into()),
        gap: None,
    }
}

fn labels() -> Vec<String> {
    vec!["up".into(), "down".into()]
}

fn csv() -> RecordParser {
    let mut parser = RecordParser::new(records(Format::Csv), labels());
    parser.header(b"t, y ,x,what,more\r\n").unwrap();
    parser
}

#[test]
fn a_csv_line_is_read_by_its_header() {
    let mut p = csv();
    let record = p.parse(b"1.5,2e1, -3.25,down,ignored\r\n").unwrap();
    assert_eq!(record, Record { stream_ns: Some(1_500_000_000), truth: Some(1) });
    assert_eq!(p.values(), [-3.25, 20.0]);
    assert_eq!(p.parse(b"2,1,\"4\",\"up\",\"a,b\"").unwrap().truth, Some(0));
    assert_eq!(p.parse(b"2,1,4,sideways,").unwrap().truth, None);
    assert_eq!(p.parse(b"2,1,4,up,,,\r\n").unwrap().truth, Some(0), "empty fields beyond the header are none");
}

#[test]
fn every_bad_csv_line_has_its_reason_and_its_words() {
    let mut p = csv();
    for (line, reason, words) in [
        (&b"1,2,3"[..], Reject::Missing, "the line has 3 fields, the header has 5: `1,2,3`"),
        (b"", Reject::Missing, "the line has 1 field, the header has 5: ``"),
        (b"1,2,,up,", Reject::Missing, "column `x` is empty"),
        (b"1,2,3,up,,4", Reject::Malformed, "the line has 6 fields, the header has 5; if numbers have a decimal comma"),
        (b"1;2;3;up;4", Reject::Missing, "they are separated by `;`: set records.delimiter = \";\""),
        (b"1,2,three,up,", Reject::Malformed, "column `x`: `three` is not a number"),
        (b"1,2,\"0,5\",up,", Reject::Malformed, "column `x`: `0,5` is not a number; set records.decimal = \",\""),
        (b"1,2,0.5 g,up,", Reject::Malformed, "column `x`: `0.5 g` is not a number; write it without its unit"),
        (b"1,2,\xff,up,", Reject::Malformed, "column `x`: `\u{fffd}` is not a number"),
        (b"1,\0\x002,3,up,", Reject::Malformed, "it has NUL bytes; is the text UTF-16?"),
        (b"1,nan,3,up,", Reject::NotFinite, "column `y`: the value is not a finite number"),
        (b"1,2,-inf,up,", Reject::NotFinite, "column `x`: the value is not a finite number"),
        (b"1,2,1e39,up,", Reject::NotFinite, "column `x`: the value is not a finite number of 32 bits"),
        (b"1,2,10.5,up,", Reject::OutOfRange, "column `x`: 10.5 is outside of its limits, -10 to 10"),
        (b"1e30,2,3,up,", Reject::TimeRange, "column `t`: `1e30` is outside of the times from 1677 to 2262"),
        (b"1717971234567,2,3,up,", Reject::TimeRange, "is too large for a time in s; set records.time_unit = \"ms\""),
        (b"04.03.2021,2,3,up,", Reject::Malformed, "column `t`: `04.03.2021` is not a time: write a number of s"),
    ] {
        let shown = String::from_utf8_lossy(line).into_owned();
        assert_eq!(p.parse(line), Err(reason), "{shown}");
        let said = p.explain(line, reason);
        assert!(said.contains(words), "{shown}: {said}");
    }
    p.parse(b"0,1,2,up,").unwrap();
    assert_eq!(p.parse(b"nan,2,3,up,"), Err(Reject::NotFinite));
    assert!(p.explain(b"nan,2,3,up,", Reject::NotFinite).contains("column `t`: `nan` is not a time"));
    let long = [&b"1,2,"[..], &[b'9'; 5000], b"\x1b[2J,up,"].concat();
    let reason = p.parse(&long).unwrap_err();
    let said = p.explain(&long, reason);
    assert!(said.len() < 200 && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn a_header_must_name_every_column_in_use_once_and_says_what_would_be_right() {
    let refused = |line: &str| csv().header(line.as_bytes()).unwrap_err().to_string();
    let hint = String::new();
    let error = csv().header(b"t,x\n").unwrap_err();
    assert_eq!(error, HeaderError::Missing { missing: "`y`, `what`".into(), found: "t, x".into(), hint });
    let twice = HeaderError::Twice { name: "x".into(), first: 2, second: 5 };
    assert_eq!(csv().header(b"t,x,y,what,\"x\""), Err(twice));
    for (line, words) in [
        ("t;y;x;what", "the columns are separated by `;`: set records.delimiter = \";\""),
        ("t\ty\tx\twhat", "separated by tabs: set records.delimiter = \"\\t\""),
        ("t   y x what\n", "separated by blanks: set records.delimiter = \" \""),
        ("0.0,1.5,-2,3\n", "the first line is numbers: for lines without a header set records.header = false"),
        ("2021-03-04T12:00:00Z,1.5,-2,3\n", "for lines without a header set records.header = false"),
        ("T,Y,X,What\n", "upper and lower case differ"),
        ("{\"t\": 0}\n", "the text is JSON: set records.format"),
        ("IMU logger 1.2\n", "set records.skip_lines or records.comment"),
        ("\x1f\u{8}\0", "it is not text; unpack it"),
        ("<html>\n", "it is a web page or XML, not CSV"),
    ] {
        assert!(refused(line).contains(words), "{line}: {}", refused(line));
    }
    assert!(csv().header(b"t,x,y,what,unused,unused").is_ok(), "columns that nobody uses may be there twice");
}

fn ndjson(channels: [&str; 2]) -> RecordParser {
    let records =
        Records { channels: channels.map(str::to_owned).into(), limits: BTreeMap::new(), ..records(Format::Ndjson) };
    RecordParser::new(records, labels())
}

#[test]
fn a_json_line_is_read_by_its_names() {
    let mut p = RecordParser::new(records(Format::Ndjson), labels());
    let record = p.parse(br#"{"y": 1, "more": [1, {}], "x": -2.5, "what": "d\u006fwn", "t": 0.25}"#).unwrap();
    assert_eq!(record, Record { stream_ns: Some(250_000_000), truth: Some(1) });
    assert_eq!(p.values(), [-2.5, 1.0]);
    for truth in ["null", "3", "-1.5", "true", "\"sideways\"", "{}", "[]"] {
        let line = format!(r#"{{"x": 1, "y": 1, "t": 0, "what": {truth}}}"#);
        assert_eq!(p.parse(line.as_bytes()).unwrap().truth, None, "{line}");
    }
    let strings = p.parse(br#"{"t": "2021-03-04T12:00:00\u005a", "x": "0.5", "y": " -2e0 "}"#).unwrap();
    assert_eq!((strings.stream_ns, p.values()), (Some(1_614_859_200_000_000_000), &[0.5, -2.0][..]));
    let whole = p.parse(br#"{"t": "1.5", "x": 3, "y": -4}"#).unwrap();
    assert_eq!((whole.stream_ns, p.values()), (Some(1_500_000_000), &[3.0, -4.0][..]));
}

#[test]
fn every_bad_json_line_has_its_reason_and_its_words() {
    let mut p = RecordParser::new(records(Format::Ndjson), labels());
    for (line, reason, words) in [
        (r#"{"y": 1, "t": 0}"#, Reject::Missing, "the object has no field `x`: "),
        (r#"{"y": 1, "x": 2}"#, Reject::Missing, "the object has no field `t`: "),
        (r#"{"y": 1, "x": null, "t": 0}"#, Reject::Malformed, "column `x`: `null` is not a number"),
        (r#"{"y": 1, "x": "high", "t": 0}"#, Reject::Malformed, "column `x`: the string `high` is not a number"),
        (r#"{"y": 1, "x": "0,5", "t": 0}"#, Reject::Malformed, "set records.decimal"),
        (r#"{"y": 1, "x": true, "t": 0}"#, Reject::Malformed, "column `x`: `true` is not a number"),
        (r#"{"y": 1, "x": [1], "t": 0}"#, Reject::Malformed, "column `x`: an array is not a number"),
        (r#"{"y": 1, "x": 2, "x": 3, "t": 0}"#, Reject::Malformed, "the key `x` is there twice"),
        (r#"{"y": 1, "x": 2, "t": 3, "t": 0}"#, Reject::Malformed, "the key `t` is there twice"),
        (
            r#"{"y": 1, "x": 2, "t": 0, "what": "up", "what": "down"}"#,
            Reject::Malformed,
            "the key `what` is there twice",
        ),
        (r#"{"y": 1, "x": 11, "t": 0}"#, Reject::OutOfRange, "column `x`: 11 is outside of its limits"),
        (r#"{"y": 1e39, "x": 1, "t": 0}"#, Reject::NotFinite, "column `y`: the value is not a finite number"),
        (r#"{"y": 1, "x": 1, "t": 1717971234567}"#, Reject::TimeRange, "column `t`: `1717971234567` is too large"),
        (r#"{"y": 1, "x": 1, "t": "noon"}"#, Reject::Malformed, "column `t`: `noon` is not a time"),
        (r#"{"y": 1, "x": 1, "t": {}}"#, Reject::Malformed, "the time: an object is not a time"),
        (r#"{"y": 1, "x": 1, "t": 0} {"#, Reject::Malformed, "not JSON: trailing characters"),
        (r#"{"y": 1, "x": 1, "t": 0},"#, Reject::Malformed, "for objects with commas between them"),
        (r#"{"y": 1, "x": NaN, "t": 0}"#, Reject::Malformed, "JSON has no NaN"),
        (r#"{"y": 1, "x": "NaN", "t": 0}"#, Reject::NotFinite, "column `x`: the value is not a finite number"),
        (
            r#"{"data": [ {"y": 1, "x": 2, "t": 0}]}"#,
            Reject::Missing,
            "no field `x`; if the records are in an array inside",
        ),
        (r#"{"y": 1, "x": "#, Reject::Malformed, "for objects on several lines set records.format = \"json\""),
        ("[1, 2]", Reject::Missing, "for an array of objects set records.format = \"json\""),
        ("t,x,y", Reject::Malformed, "not JSON"),
        ("", Reject::Malformed, "not JSON"),
    ] {
        assert_eq!(p.parse(line.as_bytes()), Err(reason), "{line}");
        let said = p.explain(line.as_bytes(), reason);
        assert!(said.contains(words), "{line}: {said}");
    }
}

#[test]
fn a_name_with_a_slash_is_a_pointer_into_the_object() {
    let mut p = ndjson(["/imu/accel/x", "/v/1"]);
    p.parse(br#"{"t": 0, "v": [7, 8, 9], "imu": {"gyro": {"x": 1}, "accel": {"y": 2, "x": 3}}}"#).unwrap();
    assert_eq!(p.values(), [3.0, 8.0]);
    p.parse(br#"{"/imu/accel/x": 4, "/v/1": 5, "t": 0}"#).unwrap();
    assert_eq!(p.values(), [4.0, 5.0], "a key that looks like a pointer");
    let mut escaped = ndjson(["/a~1b/~0", "/v"]);
    escaped.parse(br#"{"t": 0, "a/b": {"~": 1}, "v": 2}"#).unwrap();
    assert_eq!(escaped.values(), [1.0, 2.0]);
    for line in [
        r#"{"t": 0, "v": [7], "imu": {"accel": {"x": 3}}}"#,
        r#"{"t": 0, "v": [7, 8], "imu": 5}"#,
        r#"{"t": 0, "v": [7, 8], "imu": {"accel": [3]}}"#,
    ] {
        assert_eq!(p.parse(line.as_bytes()), Err(Reject::Missing), "{line}");
    }
    for line in [
        r#"{"t": 0, "v": [7, 8], "imu": {"accel": {"x": 3}}, "imu": {}}"#,
        r#"{"t": 0, "v": [7, 8], "/v/1": 8, "imu": {"accel": {"x": 3}}}"#,
    ] {
        assert_eq!(p.parse(line.as_bytes()), Err(Reject::Malformed), "{line}");
        assert!(p.explain(line.as_bytes(), Reject::Malformed).contains("is there twice"), "{line}");
    }
}

/// All that a reader gives for a text that comes in pieces: times and values, or why not.
fn read(records: &Records, text: &[u8], piece: usize) -> Result<Vec<String>, String> {
    let mut parser = RecordParser::new(records.clone(), labels());
    let mut reader = RecordReader::new(&mut parser);
    let (mut pieces, mut found, mut is_at_end) = (text.chunks(piece), Vec::new(), false);
    loop {
        let next = if is_at_end { reader.next_at_end(&mut parser) } else { reader.next(&mut parser) };
        match next.map_err(|error| reader.refused(Path::new("in"), error).to_string())? {
            Next::Record(record) => found.push(format!("{:?} {:?}", record.stream_ns, parser.values())),
            Next::Rejected(reason) => found.push(reader.explain(&mut parser, "in", reason)),
            Next::More if is_at_end => return Ok(found),
            Next::More => match pieces.next() {
                Some(mut piece) => _ = reader.fill(&mut piece).unwrap(),
                None => is_at_end = true,
            },
        }
    }
}

/// The same, however the text comes.
fn read_by_any_piece(records: &Records, text: &[u8]) -> Result<Vec<String>, String> {
    let whole = read(records, text, text.len().max(1));
    for piece in [1, 2, 7] {
        assert_eq!(read(records, text, piece), whole, "by {piece}: {}", String::from_utf8_lossy(text));
    }
    whole
}

fn plain(format: Format) -> Records {
    Records { truth: None, limits: BTreeMap::new(), ..records(format) }
}

#[test]
fn what_is_no_record_is_passed_over_and_lines_end_in_any_way() {
    let expected = ["Some(0) [1.0, 2.0]", "Some(1000000000) [3.0, 4.0]"].map(str::to_owned);
    let csv = plain(Format::Csv);
    for text in [
        "t,x,y\n0,1,2\n1,3,4\n",
        "t,x,y\r\n0,1,2\r\n1,3,4",
        "t,x,y\r0,1,2\r1,3,4\r",
        "\n\n\u{feff}t,x,y\n0,1,2\n1,3,4\n\n   \n".strip_prefix("\n\n").unwrap(),
        "# made by hand\n\n#\nt,x,y\n0,1,2\n# a pause\n1,3,4\n",
        "# t, x, y\n0,1,2\n1,3,4\n",
        "t,x,y\ns,g,g\n0,1,2\n1,3,4\n",
        "t,x,y\nseconds,,g\n[s],[g],[g]\n0,1,2\n1,3,4\n",
        "t,x,y,\n0,1,2,\n1,3,4,\n",
        "t,x,y,,\n0,1,2\n1,3,4,,,\n",
        "\"t\",\"x\",\"y\"\n\"0\",\"1\",\"2\"\n \"1\" , \"3\" ,4   \n",
        "t,x,y\n1970-01-01T00:00:00Z,1,2\n1970-01-01 00:00:01.0,3,4\n",
    ] {
        assert_eq!(read_by_any_piece(&csv, text.as_bytes()).unwrap(), expected, "{text:?}");
    }
    let skipping = Records { skip_lines: 2, comment: String::new(), ..csv.clone() };
    assert_eq!(read_by_any_piece(&skipping, b"IMU\nrate,50\nt,x,y\n0,1,2\n1,3,4").unwrap(), expected);
    let european = Records { delimiter: Delimiter::Semicolon, decimal: Decimal::Comma, ..csv.clone() };
    assert_eq!(read_by_any_piece(&european, b"t;x;y\n0,0;1,0;2\n1;3;4,0\n").unwrap(), expected);
    let columns = Records { columns: Some(["t", "x", "y"].map(str::to_owned).into()), ..csv.clone() };
    assert_eq!(read_by_any_piece(&columns, b"\xef\xbb\xbf0,1,2\n\n1,3,4\n").unwrap(), expected);

    let said = read_by_any_piece(&csv, b"# one\nt,x,y\n\n0,1,2\nx,y,z\n").unwrap();
    assert!(said[1].starts_with("in:5: column `t`: `x` is not a time"), "{said:?}");
    let columns = read_by_any_piece(&columns, b"t,x,y\n0,1,2\n").unwrap();
    assert!(
        columns[0].contains("the line is a header, and is passed over: check that records.columns has its names"),
        "{columns:?}"
    );
}

#[test]
fn a_header_that_comes_again_names_the_columns_anew() {
    let csv = plain(Format::Csv);
    let said = read_by_any_piece(&csv, b"t,x,y\n0,1,2\n\nt,y,x\ns,g,g\n0,2,1\nx,y\n1,4,3\n").unwrap();
    let [first, second, third] = ["Some(0) [1.0, 2.0]", "Some(0) [1.0, 2.0]", "Some(1000000000) [3.0, 4.0]"];
    assert_eq!((&said[0][..], &said[1][..], &said[3][..]), (first, second, third), "{said:?}");
    assert!(said.len() == 4 && said[2].starts_with("in:7: the line has 2 fields"), "{said:?}");
}

#[test]
fn lines_above_the_header_are_passed_over_or_counted() {
    let expected = ["Some(0) [1.0, 2.0]".to_owned()];
    let semicolon = Records { delimiter: Delimiter::Semicolon, ..plain(Format::Csv) };
    for first in ["sep=;", "\u{feff}sep=;\r", "\"sep=;\""] {
        assert_eq!(read_by_any_piece(&semicolon, format!("{first}\nt;x;y\n0;1;2\n").as_bytes()).unwrap(), expected);
    }
    let csv = plain(Format::Csv);
    let said = read(&csv, b"boot\n\nrst:0x1,x\nt,x,y\n0,1,2\n", 100).unwrap_err();
    assert!(said.ends_with("it has boot; line 4 has them: set records.skip_lines = 3"), "{said}");
    let skipping = Records { skip_lines: 3, ..csv.clone() };
    assert_eq!(read_by_any_piece(&skipping, b"boot\n\nrst:0x1,x\nt,x,y\n0,1,2\n").unwrap(), expected);
    for empty in ["", "# only a comment\n"] {
        let said = read_by_any_piece(&csv, empty.as_bytes()).unwrap_err();
        assert_eq!(said, "in:1: there is no header: the text is empty, or has only comments");
    }
}

#[test]
fn an_array_is_read_by_pointers() {
    let channels = ["/1", "/2"].map(str::to_owned).into();
    let records = Records { channels, time: Some("/0".into()), ..plain(Format::Ndjson) };
    let mut p = RecordParser::new(records, labels());
    assert_eq!(p.parse(b"[0.5, 1, -2]").unwrap().stream_ns, Some(500_000_000));
    assert_eq!(p.values(), [1.0, -2.0]);
    assert_eq!(p.parse(b"[0.5, 1]"), Err(Reject::Missing));
    assert_eq!(p.parse(b"7"), Err(Reject::Missing));
}

#[test]
fn json_that_is_nested_in_another_way_is_said() {
    let mut p = ndjson(["a.x", "y"]);
    let line = br#"{"t": 0, "a": {"x": 1}, "y": 2}"#;
    assert_eq!(p.parse(line), Err(Reject::Missing));
    assert!(
        p.explain(line, Reject::Missing).contains("no field `a.x`; a field inside another one is named as in \"/acc")
    );
    let json = Records { channels: ["/1", "/2"].map(str::to_owned).into(), ..plain(Format::Json) };
    let json = Records { time: Some("/0".into()), ..json };
    let said = read_by_any_piece(&json, b"[[0, 1, 2], [1, 3, 4]]").unwrap();
    assert!(said[0].contains("write one array a line and set records.format = \"ndjson\""), "{said:?}");
}

#[test]
fn json_objects_are_found_on_any_number_of_lines() {
    let expected = ["Some(0) [1.0, 2.0]", "Some(1000000000) [3.0, 4.0]"].map(str::to_owned);
    let json = plain(Format::Json);
    for text in [
        "[{\"t\":0,\"x\":1,\"y\":2},{\"t\":1,\"x\":3,\"y\":4}]",
        "\u{feff}[\n  {\n    \"t\": 0,\n    \"x\": 1,\n    \"y\": 2\n  },\n  {\"t\": 1, \"x\": 3,\r\n \"y\": 4}\n]\n",
        "{\"t\":0,\"x\":1,\"y\":2,\"n\":{\"}\":\"}{\\\"\"}}{\"t\":1,\"x\":3,\"y\":4}",
        "{\"t\":0,\"x\":1,\"y\":2}\n{\"t\":1,\"x\":3,\"y\":4}\n",
        "\x1e{\"t\":0,\"x\":1,\"y\":2}\n\x1e{\"t\":1,\"x\":3,\"y\":4}\n",
    ] {
        assert_eq!(read_by_any_piece(&json, text.as_bytes()).unwrap(), expected, "{text}");
    }
    let said = read_by_any_piece(&json, b"[\n{\"t\":0,\"x\":1,\n\"y\":\"a\"},\n x {\"t\":1,\"x\":3,\"y\":4},\n{\"t\":")
        .unwrap();
    assert!(said[0].starts_with("in:2: column `y`: the string `a` is not a number"), "{said:?}");
    assert!(said[1].starts_with("in:4: not JSON"), "{said:?}");
    assert_eq!(said[2], expected[1]);
    assert!(said[3].starts_with("in:5: not JSON: EOF"), "{said:?}");
    let ndjson = plain(Format::Ndjson);
    assert_eq!(
        read_by_any_piece(&ndjson, b"\xef\xbb\xbf{\"t\":0,\"x\":1,\"y\":2}\r\n\n{\"t\":1,\"x\":3,\"y\":4}").unwrap(),
        expected
    );
}

#[test]
fn utf_16_is_named() {
    for mark in [&b"\xff\xfe"[..], b""] {
        let text: Vec<u8> =
            mark.iter().copied().chain("t,x,y\n0,1,2\n".encode_utf16().flat_map(u16::to_le_bytes)).collect();
        for records in [plain(Format::Csv), plain(Format::Ndjson)] {
            assert_eq!(read(&records, &text, 64), Err("in:1: the text is UTF-16; save it as UTF-8".to_owned()));
        }
    }
}

#[test]
fn equal_times_are_refused_if_that_is_asked() {
    let refusing = Records { equal_times: EqualTimes::Refuse, ..plain(Format::Csv) };
    let said = read_by_any_piece(&refusing, b"t,x,y\n0,1,2\n0,1,2\n1,3,4\n").unwrap();
    assert!(said.len() == 3 && said[1].starts_with("in:3: it has the time of the record before"), "{said:?}");
}

proptest! {
    #[test]
    fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..200), delimiter in 0usize..5, comma: bool) {
        let mut csv = csv();
        if let Err(reason) = csv.parse(&line) {
            csv.explain(&line, reason);
        }
        let dialect = Records {
            delimiter: Delimiter::ALL[delimiter],
            decimal: if comma { Decimal::Comma } else { Decimal::Point },
            ..records(Format::Csv)
        };
        let _ = read(&dialect, &line, 3);
        let mut ndjson = RecordParser::new(records(Format::Ndjson), Vec::new());
        if let Err(reason) = ndjson.parse(&line) {
            ndjson.explain(&line, reason);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[{}\\[\\],:\"\\\\tx0-2e. #\r\n-]{0,200}", piece in 1usize..9) {
        for format in [Format::Csv, Format::Ndjson, Format::Json] {
            prop_assert_eq!(read(&records(format), text.as_bytes(), piece), read(&records(format), text.as_bytes(), 400));
        }
    }

    #[test]
    fn every_number_comes_through(x in -10f32..10.0, y in any::<f32>().prop_filter("finite", |v| v.is_finite())) {
        let mut p = csv();
        p.parse(format!("0,{y},{x},,\n").as_bytes()).unwrap();
        prop_assert_eq!(p.values(), [x, y]);
    }

    #[test]
    fn plain_fields_are_read_as_all_others_are(
        lines in prop::collection::vec((prop::collection::vec(field(), 4..8), line_end()), 1..5),
        delimiter in 0usize..5, comma: bool, unit in 0usize..4,
    ) {
        let delimiter = Delimiter::ALL[delimiter];
        let csv = Records {
            columns: Some(["t", "y", "x", "what", "gap", "more"].map(str::to_owned).into()),
            delimiter,
            decimal: if comma { Decimal::Comma } else { Decimal::Point },
            time_unit: [TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns][unit],
            gap: Some("gap".into()),
            ..records(Format::Csv)
        };
        let mut quick = RecordParser::new(csv.clone(), labels());
        let mut general = RecordParser::new(csv, labels());
        general.plain = None;
        for (fields, end) in &lines {
            let line = fields.join(delimiter.name()) + end;
            let read = |parser: &mut RecordParser| {
                let result = parser.parse(line.as_bytes());
                let why = result.err().map(|reason| parser.explain(line.as_bytes(), reason));
                let bits: Vec<u32> = parser.values().iter().map(|value| value.to_bits()).collect();
                let bits = result.is_ok().then_some(bits);
                (result, why, bits, parser.gap, parser.contradiction(), format!("{:?}", parser.truth_seen()))
            };
            prop_assert_eq!(read(&mut quick), read(&mut general), "{:?}", line);
        }
    }
}

/// A field as it may come, mostly one that is a number.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (-1e4f32..1e4).prop_map(|number| number.to_string()),
        2 => any::<f32>().prop_map(|number| number.to_string()),
        2 => any::<f64>().prop_map(|number| format!("{number:?}")),
        2 => any::<i64>().prop_map(|number| number.to_string()),
        4 => "-?[0-9]{1,12}([.,][0-9]{1,12})?",
        2 => "-?[0-9]{0,24}[.,]?[0-9]{0,24}",
        1 => "[-+0-9.,;|eE\" naif\t]{0,12}",
        1 => "\" ?[0-9.]{0,4} ?\"",
        2 => prop::sample::select(vec!["", "0", "-0", "up", " down ", "sideways;", "overflow", "2021-03-04T12:00:00Z", "12:00:01.5 "])
            .prop_map(str::to_owned),
    ]
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["\n", "\r\n", "", "\r", ";\r\n", ",\n", " \n", "; \t\n", ";;\n", "\n\n"])
}

#[test]
fn numbers_are_rounded_once_by_the_way_of_plain_fields() {
    // One more than what an f32 holds, half-way between two of them, and with more digits than an f64 holds.
    for text in
        ["16777217", "16777219", "0.1", "33554435.0", "8388608.5", "9007199254740993", "1.00000005960464477", "-0.0"]
    {
        let (mut quick, mut general) = (csv(), csv());
        general.plain = None;
        let line = format!("0,{text},1,,");
        quick.parse(line.as_bytes()).unwrap();
        general.parse(line.as_bytes()).unwrap();
        let expected = text.parse::<f32>().unwrap().to_bits();
        assert_eq!([quick.values()[1].to_bits(), general.values()[1].to_bits()], [expected; 2], "{text}");
    }
}
