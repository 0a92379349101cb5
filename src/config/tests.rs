//! Every error of a configuration's text is in words for its user: none is in those of the program's types or of a grammar.

use std::path::Path;

use serde::Deserialize;
use toml::de::DeTable;
use toml::{Table, Value};

use super::{Document, Root, version};
use crate::schema::expanded::Table as _;
use crate::schema::{Children, TableDoc, misfits};

/// Words of the program, of serde and of the TOML parser.
const FORBIDDEN: [&str; 25] = [
    "invalid type",
    "invalid value",
    "invalid length",
    "variant",
    "struct",
    "u8",
    "u16",
    "u32",
    "u64",
    "usize",
    "i64",
    "f32",
    "f64",
    "newtype",
    "untagged",
    "unit ",
    "expected a sequence",
    " map",
    "literal string",
    "basic string",
    "mantissa",
    "expected nothing",
    "Some(",
    "$__toml",
    "cannot use this value",
];

/// What a text is refused with.
fn refusal(text: &str) -> String {
    Document::new("f.toml", text).parse(Some("host")).map(drop).unwrap_err().to_string()
}

/// A configuration with one pipeline, of this source and with these keys of its window.
fn with_source(source: &str, window: &str) -> String {
    format!(
        "version = 1\nnode.id = 'n'\nmqtt.broker = 'none'\n[pipelines.p]\nwindow = {{ samples = 4, hop = 2{window} }}\n\
         model.path = 'm'\ndecision.raw = {{}}\nsource.{source}\n"
    )
}

/// The messages of a refusal, without the lines that show the text.
fn messages(refusal: &str) -> Vec<&str> {
    refusal.lines().filter(|line| line.starts_with("f.toml")).collect()
}

fn assert_plain(context: &str, refusal: &str) {
    for message in messages(refusal) {
        // Formats of raw samples have the names of types.
        let message = message.replace("\"u8\"", "").replace("\"f32le\"", "");
        let bad = FORBIDDEN.iter().find(|word| message.contains(*word));
        assert!(bad.is_none(), "{bad:?} in {message}\n{context}");
    }
}

/// A table with all that must be written in it.
fn least(doc: &TableDoc) -> Table {
    let value = |example: &str| toml::from_str::<Table>(&format!("v = {example}")).unwrap().remove("v").unwrap();
    let mut table = Table::new();
    for key in doc.keys.iter().filter(|key| key.required) {
        let written = match (&key.children, key.example) {
            (_, Some(example)) => value(example),
            (children, None) => least_below(children),
        };
        table.insert(key.key.to_owned(), written);
    }
    if let Some(family) = &doc.kinds {
        table.insert(family.kinds[0].name.to_owned(), Value::Table(least(&family.kinds[0].table)));
    }
    table
}

fn least_below(children: &Children) -> Value {
    match children {
        Children::Table(table) => Value::Table(least(table)),
        Children::Named(below) => Value::Table([("n".to_owned(), least_below(below))].into_iter().collect()),
        Children::Family(family) => {
            let kind = &family.kinds[0];
            Value::Table([(kind.name.to_owned(), Value::Table(least(&kind.table)))].into_iter().collect())
        }
        Children::List(_) | Children::None => Value::Array(Vec::new()),
    }
}

/// Calls `try_value` with a whole configuration for each key of `doc` and each value; `around` puts a table at its place.
fn each_key(doc: &TableDoc, path: &str, around: &dyn Fn(Table) -> Table, try_value: &mut dyn FnMut(&str, Table)) {
    for key in &doc.keys {
        let place = format!("{path}.{}", key.key);
        let with = |value: Value| {
            let mut table = least(doc);
            table.insert(key.key.to_owned(), value);
            around(table)
        };
        for value in values() {
            try_value(&place, with(value));
        }
        below(&key.children, &place, &with, try_value);
    }
    for kind in doc.kinds.iter().flat_map(|family| &family.kinds) {
        let with = |table: Table| {
            let mut all = least(doc);
            doc.kinds.iter().flat_map(|family| &family.kinds).for_each(|kind| _ = all.remove(kind.name));
            all.insert(kind.name.to_owned(), Value::Table(table));
            around(all)
        };
        each_key(&kind.table, &format!("{path}.{}", kind.name), &with, try_value);
    }
}

fn below(children: &Children, path: &str, with: &dyn Fn(Value) -> Table, try_value: &mut dyn FnMut(&str, Table)) {
    match children {
        Children::None => {}
        Children::Table(table) => each_key(table, path, &|table| with(Value::Table(table)), try_value),
        Children::Named(children) => {
            let named = |value: Value| with(Value::Table([("n".to_owned(), value)].into_iter().collect()));
            values().into_iter().for_each(|value| try_value(path, named(value)));
            below(children, &format!("{path}.n"), &named, try_value);
        }
        Children::List(children) => {
            let listed = |value: Value| with(Value::Array(vec![value]));
            values().into_iter().for_each(|value| try_value(path, listed(value)));
            below(children, path, &listed, try_value);
        }
        Children::Family(family) => {
            for kind in &family.kinds {
                let of_kind = |value: Value| with(Value::Table([(kind.name.to_owned(), value)].into_iter().collect()));
                let place = format!("{path}.{}", kind.name);
                values().into_iter().for_each(|value| try_value(&place, of_kind(value)));
                each_key(&kind.table, &place, &|table| of_kind(Value::Table(table)), try_value);
            }
        }
    }
}

fn values() -> Vec<Value> {
    let toml = "v = ['x', '5', '50 ms', 'true', '', 0, 5, -1, 300, 70000, 5_000_000_000, 9223372036854775807, 1.5, 5.0, -1.5, nan, inf, \
                true, false, 2024-05-01, 07:30:00, 2024-05-01T07:30:00Z, [], [1], ['a'], [1.5, 2], [[1]], [{}], [true], {}, \
                { a = 1 }, { a = { b = 'c' } }, { a = 1, b = 2 }]";
    let Value::Array(values) = toml::from_str::<Table>(toml).unwrap().remove("v").unwrap() else { panic!() };
    values
}

#[test]
fn every_value_at_every_key_is_read_or_refused_in_plain_words() {
    let (mut refused, mut taken, mut keys) = (0, 0, std::collections::BTreeSet::new());
    let doc = Root::doc();
    each_key(&doc, "", &|table| table, &mut |path, table| {
        let text = toml::to_string(&table).unwrap();
        let parsed = DeTable::parse(&text).unwrap();
        let found = misfits(&parsed, &doc, version::REMOVED);
        let read = Root::deserialize(toml::Deserializer::from(parsed));
        // Serde takes a date for a table.
        let is_date = text.contains(":30") || text.contains("-05-");
        let is_same = found.is_empty() == read.is_ok() || (is_date && !found.is_empty());
        assert!(is_same, "{path}: {found:?}, {:?}\n{text}", read.err());
        keys.insert(path.to_owned());
        if found.is_empty() {
            taken += 1;
            if let Err(error) = Document::new("f.toml", text.clone()).parse(Some("host")) {
                assert_plain(&text, &error.to_string());
            }
        } else {
            refused += 1;
            found.iter().for_each(|misfit| assert_plain(&text, &format!("f.toml: {}", misfit.message)));
        }
    });
    assert!(refused > 3000 && taken > 500 && keys.len() > 150, "{refused} refused, {taken} taken, {} keys", keys.len());
}

const BASE: &str = "[node]\nid = \"a\" # x\n\n[mqtt]\nbroker = 'none'\nstore = { enabled = false }\n\n[pipelines.p]\n\
                    window = { samples = 4, hop = 0x4 }\nmodel.path = \"m\\\\n.tflite\"\ndecision.raw = {}\n\n\
                    [[pipelines.p.features]]\nscale = { factor = [1.0, -2e1],\n offset = [0.0] }\n\
                    [pipelines.p.source.lines]\nfrom = \"stdin\"\nrecords = { channels = ['x', '''y'''] }\n";

#[test]
fn every_slip_of_the_pen_is_answered_in_plain_words() {
    assert!(Document::new("f.toml", BASE).root().is_ok(), "{}", refusal(BASE));
    let inserted = "=:\"'[]{}#,; \t\n\r\0\u{7f}\u{e9}\u{201d}\\/.-+_0a";
    for (at, c) in BASE.char_indices() {
        let without = format!("{}{}", &BASE[..at], &BASE[at + c.len_utf8()..]);
        // Every third of them at each place, so that all are tried around every kind of token.
        let some = inserted.chars().skip(at % 3).step_by(3);
        let with = some.map(|new| format!("{}{new}{}", &BASE[..at], &BASE[at..]));
        for text in with.chain([without, BASE[..at].to_owned()]) {
            if let Err(error) = Document::new("f.toml", text.clone()).parse(Some("host")) {
                assert_plain(&text, &error.to_string());
            }
        }
    }
}

#[test]
fn habits_of_other_formats_are_answered_with_what_to_write() {
    let cases = [
        ("[mqtt]\nstore = { enabled = no }", "`no` is not a value in TOML; write false"),
        ("[mqtt]\nstore = { enabled = False }", "write false"),
        ("[mqtt]\ndiscovery = on", "write true"),
        ("[mqtt]\ndiscovery = TRUE # x", "write true"),
        ("[mqtt]\nuser = None", "leave the key out"),
        ("[mqtt]\nuser = null", "leave the key out"),
        ("[mqtt]\nbroker = none", "write \"none\" if this word is meant"),
        ("[mqtt]\nbroker = mqtt://h", "a text stands in quotes; write \"...\" around it"),
        ("[mqtt]\nbroker: \"none\"", "there is `=`, not `:`; write broker = VALUE"),
        ("[mqtt]\nbroker: none", "write broker = VALUE"),
        ("mqtt:\n  broker: none\n", "this is YAML"),
        ("{\"mqtt\": {\"broker\": \"none\"}}", "this is JSON"),
        ("<?xml version='1.0'?>", "this is XML"),
        ("[mqtt]\nbroker = \u{201c}none\u{201d}", "is not a quotation mark in TOML; write \""),
        ("[mqtt]\nbroker = \"none", "the closing \" is missing"),
        ("[mqtt]\nbroker = 'none\"", "the closing ' is missing"),
        ("[mqtt]\npassword_file = \"C:\\dir\"", "write '...'"),
        ("[mqtt\nqos = 1", "`]` is missing"),
        ("mqtt]\nqos = 1", "`[` is missing"),
        ("[mqtt]\nalpn = [1, 2\nqos = 1", "in the list that begins in line 2"),
        ("[mqtt]\nqos = 1\nqos = 0", "the key `qos` is written twice; the first is in line 2"),
        ("[mqtt]\nqos = 1\n[mqtt]\nuser = 'a'", "the table [mqtt] is written twice; the first is in line 1"),
        ("[mqtt]\nqos = 01", "this number is written 1"),
        ("[mqtt]\nkeep_alive_s = 1,5", "write 1.5"),
        ("[mqtt]\nkeep_alive_s = .5", "written 0.5"),
        ("[mqtt]\nkeep_alive_s = 5.", "written 5.0"),
        ("[mqtt]\nkeep_alive_s = 50s", "without its unit; write 50"),
        ("[mqtt]\nqos = 1;", "no `;` at its end"),
        ("[mqtt]\nqos = 1 // x", "a comment begins with #"),
        ("[mqtt] // x\nqos = 1", "a comment begins with #"),
        ("; x\n[mqtt]", "a comment begins with #"),
        ("[mqtt]\nqos = ", "a value is missing"),
        ("[mqtt]\nqos", "this line has no `=`; write [table], or key = VALUE"),
        ("[mqtt]\nqos == 1", "one `=` too many"),
        ("[mqtt]\n\u{a0}qos = 1", "invisible character here (U+00A0)"),
        ("[mqtt]\nuser = \"a\u{1}b\"", "control character here (U+0001)"),
        ("[mqtt]\nuser = $USER", "variables of the environment are not expanded"),
        ("export EDGEWATT=1", "a line of a shell"),
        ("[mqtt]\rqos = 1", "line ends of Unix"),
        ("[mqtt]\nalpn = (1, 2)", "in [ ], not in ( )"),
        ("[mqtt]\nuser = 2024-13-45", "not a valid date"),
        ("[mqtt] qos = 1", "on the next line"),
        ("[mqtt]\nqos = 1 user = 'a'", "a line of its own"),
        ("[mqtt]\nqos = \"1\"", "mqtt.qos: this is a string, expected a whole number from 0 to 255; write qos = 1"),
        ("[mqtt]\nqos = 1.0", "write qos = 1"),
        ("[mqtt]\nqos = [1]", "write qos = 1"),
        ("[mqtt]\nkeep_alive_s = \"50 ms\"", "expected a whole number of s from 2 to 3600\n"),
        ("[mqtt]\ndiscovery = \"yes\"", "expected true or false; write discovery = true"),
        ("[mqtt]\ndiscovery = 0", "write discovery = false"),
        ("[mqtt]\nuser = 5", "write user = \"5\""),
        ("[mqtt]\nalpn = \"mqtt\"", "write alpn = [\"mqtt\"]"),
        ("[mqtt]\nqueue = 5", "expected a table; write queue = {}"),
        ("[mqtt]\nbroker.host = 'a'", "mqtt.broker: this is a table, expected a text in quotes"),
        ("broker = 'none'", "unknown key `broker`; it belongs to `mqtt`"),
        (
            "[power.meters.plug.reader]\naccuracy = { gain_error = 0.01, offset_w = 0.2 }",
            "power.meters.plug.reader: `accuracy` is no longer a key here; write gain_error and offset_error_w",
        ),
        ("[pipelines.p]\nsource.modem = {}", "pipelines.p.source: unknown kind `modem`; the kinds are"),
        ("[pipelines.p]\nsource.line = {}", "did you mean `lines`?"),
        ("[pipelines.p]\ndecision = \"rwa\"", "did you mean `raw`?"),
        (
            "[pipelines.p]\ndecision = \"regress\"",
            "`regress` has keys that must be written; write decision.regress = { names",
        ),
        ("[pipelines.p]\nwindow = 200", "write window = { samples = 200, hop = 50 }"),
        ("[pipelines.p]\nmodel = 'm.tflite'", "write model = { path = \"model.tflite\" }"),
        ("[pipelines.p]\nfeatures = { diff = {} }", "expected a list of tables"),
        ("[pipelines.p.source.lines]\nrate_hz = 5.0", "it belongs to `records`"),
        ("[pipelines.p.source.lines]\nfrom = \"fifo\"", "expected \"stdin\" or { fifo = \"...\" }"),
        ("[pipelines.p.source.replay]\nspeed = 0", "expected a number above 0 or \"max\""),
    ];
    let wrong: Vec<String> = cases
        .into_iter()
        .inspect(|(text, _)| assert_plain(text, &refusal(text)))
        .filter(|(text, expected)| !refusal(text).contains(expected))
        .map(|(text, expected)| format!("{text}\n  {expected}\n  {}", refusal(text)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_that_does_not_fit_is_reported_together() {
    let text = "[mqtt]\nbroker = 'none'\nqos = '1'\nkeep_alive = 5\nretry_min_ms = -1\n[power]\nsample_ms = 0\nmeter = {}\n\
                [pipelines.p]\nwindow.samples = 4\n";
    let refusal = refusal(text);
    let places: Vec<&str> = messages(&refusal).iter().map(|line| line.split(' ').next().unwrap()).collect();
    let expected = [
        "f.toml:3:7:",
        "f.toml:4:1:",
        "f.toml:5:16:",
        "f.toml:7:13:",
        "f.toml:8:1:",
        "f.toml:9:1:",
        "f.toml:9:1:",
        "f.toml:9:1:",
        "f.toml:10:1:",
    ];
    assert_eq!(places, expected, "{refusal}");
    // Several mistakes of syntax too.
    let refusal = self::refusal("[mqtt]\nstore = { enabled = no }\ndiscovery = yes\nqos = 1\n");
    assert_eq!(messages(&refusal).len(), 2, "{refusal}");
}

#[test]
fn a_value_that_may_be_a_secret_is_not_repeated() {
    for text in [
        "[mqtt]\npassword_file = 12345",
        "[mqtt]\nbroker = mqtt://bob:12345@h",
        "[mqtt]\nbroker: mqtt://bob:12345@h",
        "[mqtt]\npassword: 12345",
        "12345",
        "[mqtt]\ntoken = 12345x",
        "[mqtt]\ntoken = k12345",
        "[mqtt]\ntoken: \"12345\"",
    ] {
        assert!(!messages(&refusal(text)).concat().contains("12345"), "{text}: {}", refusal(text));
    }
}

#[test]
fn a_long_line_is_shown_around_the_place() {
    let names = vec!["'x'"; 5000].join(", ");
    let text = format!("[pipelines.p.source.lines.records]\nchannels = [{names}, 5, {names}]\n");
    let refusal = refusal(&text);
    let place = text.lines().nth(1).unwrap().find('5').unwrap() + 1;
    assert!(refusal.contains(&format!("f.toml:2:{place}: ")), "{refusal}");
    // What is said of a missing key names every kind of its family, and is as long as that.
    let excerpts = refusal.lines().filter(|line| line.contains(" | "));
    assert!(excerpts.clone().count() > 0 && excerpts.clone().all(|line| line.chars().count() <= 200), "{refusal}");
    let shown: Vec<&str> =
        refusal.lines().skip_while(|line| !line.contains(&format!(":2:{place}:"))).skip(1).take(2).collect();
    assert_eq!(shown[0].chars().nth(shown[1].find('^').unwrap()), Some('5'), "{refusal}");
    // A marker is no longer than the line.
    let text = format!("[mqtt]\nqos = \"{}\"", "y".repeat(20_000));
    assert!(self::refusal(&text).lines().all(|line| line.chars().count() <= 200));
}

#[test]
fn files_in_other_encodings_say_which() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    let refusal = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Document::read(Path::new(&path)).map(drop).unwrap_err().to_string()
    };
    let utf_16 = |order: fn(u16) -> [u8; 2], text: &str| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
    for bytes in [
        utf_16(u16::to_le_bytes, "\u{feff}[mqtt]"),
        utf_16(u16::to_be_bytes, "\u{feff}[mqtt]"),
        utf_16(u16::to_le_bytes, "[mqtt]"),
    ] {
        assert!(refusal(&bytes).contains("this file is UTF-16"), "{}", refusal(&bytes));
    }
    let latin = refusal(b"# f\xfcr\n");
    assert!(
        latin.contains(":1:4: this byte is not UTF-8") && latin.contains("Latin-1 it would be `\u{fc}`"),
        "{latin}"
    );
    // A byte order mark at the start of UTF-8 is not a fault.
    std::fs::write(&path, "\u{feff}[mqtt]\nbroker = 'none'\n").unwrap();
    let shown = Document::read(&path).unwrap().root().map(drop).unwrap_err().to_string();
    assert!(
        shown.ends_with("pipelines: this key is missing; write a table such as [pipelines.NAME]\n 1 | [mqtt]\n   | ^"),
        "{shown:?}"
    );
}

#[test]
fn placeholders_in_names_are_refused_with_what_to_do() {
    let text = |id: &str| format!("[node]\nid = '{id}'\n{}", BASE.split_once("x\n").unwrap().1);
    for id in ["{HOSTNAME}", "%h", "$HOSTNAME", "${HOSTNAME}", "<node>", "porch-%i"] {
        let refusal = refusal(&text(id));
        assert!(refusal.contains("environment variables and placeholders are not expanded"), "{refusal}");
        assert!(refusal.contains("f.toml:2:6: node.id: `") && refusal.contains("leave node.id out"), "{refusal}");
    }
    let names = text("a").replace("broker = 'none'", "broker = 'none'\nclient_id = '$X'\nbase_topic = 'a/{b}'");
    let refusal =
        refusal(&format!("{names}[power.meters.'%h']\nestimate = {{ watts_per_core = 1.0, idle_watts = 1.0 }}\n"));
    assert_eq!(messages(&refusal).len(), 3, "{refusal}");
}

#[test]
fn control_characters_in_a_value_are_shown_as_numbers() {
    let text = BASE.replace("id = \"a\"", "id = \"a\\u0000b\\u001b[2J\"");
    let refusal = refusal(&text);
    assert!(refusal.contains("`a\\x00b\\x1b[2J`") && !refusal.contains(['\0', '\u{1b}']), "{refusal:?}");
}

#[test]
fn a_part_of_a_join_is_checked_as_a_source_alone() {
    let part = |name: &str, topic: &str| {
        let records = "{ channels = ['x'], columns = ['x', 't'], time = 't', rate_hz = 5.0 }";
        format!("{name} = {{ mqtt = {{ topic = '{topic}', records = {records} }} }}\n")
    };
    let text = |broker: &str, topic: &str| {
        format!(
            "version = 1\nnode.id = 'n'\nmqtt.broker = '{broker}'\n[pipelines.p]\nwindow = {{ samples = 4, hop = 2 }}\n\
             model.path = 'm'\ndecision.raw = {{}}\n[pipelines.p.source.join]\nleader = 'a'\n\
             followers = {{ b = {{ tolerance_ms = 100.0 }} }}\n[pipelines.p.source.join.sources]\n{}{}",
            part("a", "sensors/a"),
            part("b", topic)
        )
    };
    let own = refusal(&text("mqtt://127.0.0.1", "edgewatt/#"));
    assert!(own.contains("source.join.sources.b.mqtt.topic: `edgewatt/#` matches topics"), "{own}");
    let without = refusal(&text("none", "sensors/b"));
    assert!(without.contains("source.join.sources.a.mqtt.broker: mqtt.broker is \"none\""), "{without}");
}

#[test]
fn a_step_that_sets_a_chip_up_is_corrected_where_it_is_wrong() {
    for (init, expected) in [
        ("[[0x6B]]", "init.0: write a register and its value, such as [0x6B, 0x00]"),
        ("[[0x6B, 256]]", "init.0.1: 256 is out of range; it must be from 0 to 255"),
        ("[[0x6B, \"1\"]]", "init.0.1: this is a string, expected a whole number from 0 to 255; write 1"),
        ("[{ pause_ms = 0 }]", "init.0.pause_ms: this is 0, expected a number above 0"),
        (
            "[{ pause = 5 }]",
            "init.0: this is a table, expected a list of whole numbers from 0 to 255 or { pause_ms = 1.0 }",
        ),
        ("[0x6B, 0]", "init.1: this is 0, expected a list of whole numbers from 0 to 255 or { pause_ms = 1.0 }"),
    ] {
        let chip = "address = 0x68, rate_hz = 1.0, burst = { register = 1, layout = ['a: u8'] }";
        let refusal = refusal(&with_source(&format!("i2c = {{ {chip}, init = {init} }}"), ""));
        assert!(refusal.contains(expected), "{init}: {refusal}");
        assert!(!refusal.contains("write [0x6B]"), "{refusal}");
    }
}

#[test]
fn a_gap_that_the_clock_of_a_stream_cannot_show_is_refused() {
    let packets = "header = ['t: u16le'], sample = ['a: u8'], crc = 'none', time = 't', time_unit = 'us'";
    let serial = |more: &str| format!("serial = {{ port = '/dev/ttyUSB0', packets = {{ {packets}{more} }} }}");
    let long = refusal(&with_source(&serial(""), ", max_gap_ms = 100.0"));
    let expected = "window.max_gap_ms: the stream's clock starts again too soon: it shows no step of more than 32.77 ms, and a \
                    gap is one of more than 100 ms (max_gap_ms)";
    assert!(long.contains(expected), "{long}");
    let usual = refusal(&with_source(&serial(", rate_hz = 50.0"), ""));
    assert!(usual.contains("window: the stream's clock") && usual.contains("60 ms (3 sample periods)"), "{usual}");
    let joined = refusal(&with_source(
        &format!(
            "join = {{ leader = 'a', followers = {{ b = {{ tolerance_ms = 1.0 }} }}, sources = {{ a = {{ {} }}, b = {{ {} }} }} }}",
            serial(", rate_hz = 50.0"),
            serial(", rate_hz = 50.0").replace("ttyUSB0", "ttyUSB1")
        ),
        "",
    ));
    assert!(joined.contains("window: the stream's clock"), "{joined}");
    let fits = with_source(&serial(", rate_hz = 500.0"), ", max_gap_ms = 30.0");
    assert!(Document::new("f.toml", &fits).parse(Some("host")).is_ok());
}

#[test]
fn a_chain_takes_no_gate_and_says_what_its_output_can_be() {
    let with_models = |model: &str| {
        let source = "lines = { from = 'stdin', records = { channels = ['a'], rate_hz = 10.0 } }";
        with_source(source, "")
            + &format!("models = [{{ path = 'm', window = {{ samples = 2, hop = 2 }}, {model} }}]\n")
    };
    let whole = with_models("output = [2, 1]");
    assert!(Document::new("f.toml", whole.clone()).parse(Some("host")).is_ok());
    let gated = refusal(&(whole + "gate.level = { threshold = 1.0 }\n"));
    assert!(gated.contains("pipelines.p.gate: with `models`, a gate would spare the last model only"), "{gated}");
    for output in ["[]", "[0]", "[1, 2, 3]"] {
        let refused = refusal(&with_models(&format!("output = {output}")));
        assert!(refused.contains("pipelines.p.models.0.output: write [values] for one frame"), "{refused}");
    }
    let other = refusal(&with_models("output = [2], delegate = 'npu'"));
    assert!(other.contains("there is no delegate `npu`; there are cpu, xnnpack"), "{other}");
}
