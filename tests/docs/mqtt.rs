//! docs/mqtt.md holds for what the real binary publishes: no field that is not there, none there that never comes.
//!
//! `EDGEWATT_BLESS=1 cargo test --test docs mqtt::` writes its examples, which are messages of the run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use edgewatt_support::daemon::Setup;
use edgewatt_support::mosquitto::Mosquitto;
use edgewatt_support::rig::{XNNPACK, delegate, replay, with_plugin};
use edgewatt_support::root;
use edgewatt_support::sound::golden;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

const PAGE: &str = "docs/mqtt.md";
const EVERY: &str = "Every message";

/// Fields that take what this test does not bring about.
const UNSEEN: [(&str, &str); 10] = [
    ("delegate/reason", "a fallback"),
    ("delegate/warnings", "a delegate that takes no node"),
    ("delegate/fully_accelerated", "LiteRT"),
    ("delegate/fully_off_cpu", "LiteRT"),
    ("delegate/software_gpu", "LiteRT"),
    ("delegate/accelerators", "LiteRT"),
    ("figure/calibrated_at_ms", "a calibration"),
    ("delivery/store_error", "a store that fails"),
    ("delivery/drops.<what>", "a broker that is away for long"),
    ("delegate/library_version", "a library that states one"),
];

/// One line of a table.
struct Row {
    field: String,
    kind: String,
    unit: String,
    none: String,
    meaning: String,
}

/// A topic or an object, by its heading.
#[derive(Default)]
struct Section {
    rows: Vec<Row>,
    example: Option<String>,
    text: String,
}

struct Page {
    sections: BTreeMap<String, Section>,
}

impl Page {
    fn read(text: &str) -> Self {
        let mut sections: BTreeMap<String, Section> = BTreeMap::new();
        let (mut name, mut example) = (String::new(), None::<String>);
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
                name = heading.trim_matches('`').to_owned();
            }
            let section = sections.entry(name.clone()).or_default();
            match (&mut example, line) {
                (None, "```json") => example = Some(String::new()),
                (Some(_), "```") => section.example = example.take(),
                (Some(text), line) => *text += line,
                _ => section.text += &format!("{line}\n"),
            }
            let cells: Vec<&str> = line.split(" |").map(|cell| cell.trim_start_matches('|').trim()).collect();
            if let [field, kind, unit, none, meaning, _] = cells[..]
                && let Some(field) = field.strip_prefix('`').and_then(|field| field.strip_suffix('`'))
            {
                let [field, kind, unit, none, meaning] = [field, kind, unit, none, meaning].map(str::to_owned);
                section.rows.push(Row { field, kind, unit, none, meaning });
            }
        }
        Self { sections }
    }

    /// The topic of the page that a message's is one of.
    fn topic(&self, topic: &str) -> Option<&str> {
        let topic = topic.strip_prefix("edgewatt/demo/").unwrap_or(topic);
        let is = |pattern: &str| {
            let (pattern, topic): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), topic.split('/').collect());
            pattern.len() == topic.len() && pattern.iter().zip(topic).all(|(p, t)| p.starts_with('<') || *p == t)
        };
        self.sections.keys().map(String::as_str).find(|pattern| is(pattern))
    }
}

/// A message, with the fields that it has.
struct Sent<'a> {
    shape: BTreeSet<String>,
    topic: &'a str,
    text: &'a str,
}

/// What of a page was met.
struct Met<'a> {
    page: &'a Page,
    fields: BTreeSet<String>,
}

impl<'a> Met<'a> {
    /// Holds a message to its table; the fields that it has.
    fn message(&mut self, topic: &str, message: &Value) -> BTreeSet<String> {
        let mut shape = BTreeSet::new();
        // The state is a prediction, unless a gate has closed.
        let is_prediction = topic == "p/<pipeline>/state" && message.get("gate").is_none();
        let topic = if is_prediction { "p/<pipeline>/prediction" } else { topic };
        self.object(topic, "", message, &mut shape);
        self.fields.extend(shape.iter().cloned());
        shape
    }

    fn rows(&self, section: &str) -> Vec<(String, &'a Row)> {
        let page = self.page;
        let of = |name: &str| {
            let name = name.to_owned();
            let rows = page.sections.get(&name).unwrap_or_else(|| panic!("{PAGE} has no {name}")).rows.iter();
            rows.map(move |row| (format!("{name}/{}", row.field), row))
        };
        let mut rows: Vec<_> = of(section).collect();
        if ["info", "event", "node_metrics"].contains(&section)
            || section.starts_with("p/")
            || section.starts_with("power/")
        {
            rows.extend(of(EVERY));
        }
        rows
    }

    fn object(&mut self, section: &str, prefix: &str, value: &Value, shape: &mut BTreeSet<String>) {
        let object = value.as_object().unwrap_or_else(|| panic!("{section} {prefix} is {value}"));
        let rows = self.rows(section);
        let within = |row: &Row| row.field.strip_prefix(prefix).filter(|rest| !rest.contains('.')).map(str::to_owned);
        let below: Vec<(String, String, &'a Row)> =
            rows.into_iter().filter_map(|(name, row)| Some((within(row)?, name, row))).collect();
        let mut todo = Vec::new();
        for (key, value) in object {
            let named = below.iter().find(|(rest, ..)| rest == key);
            let any = || below.iter().find(|(rest, ..)| rest.starts_with('<'));
            let (rest, name, row) =
                named.or_else(any).unwrap_or_else(|| panic!("{section}: {PAGE} has no {prefix}{key} = {value}"));
            // What the code names, the page names too.
            let listed = matches!(rest.as_str(), "<reason>" | "<what>");
            let parts = key.split('.').all(|part| row.meaning.contains(&format!("`{part}`")));
            assert!(!listed || parts, "{name} does not say what {key} is");
            shape.insert(name.clone());
            todo.push((name.clone(), row, value));
        }
        for (rest, name, row) in &below {
            let optional = rest.starts_with('<') || row.none.contains("absent");
            assert!(optional || object.contains_key(rest), "{name} is missing in {value}");
        }
        for (name, row, value) in todo {
            let kind = row.kind.clone();
            if value.is_null() {
                assert!(row.none.contains("null"), "{name} is null, which {PAGE} does not say");
                continue;
            }
            let one_of = row.meaning.starts_with("one of `");
            let is_listed = value.as_str().is_none_or(|value| row.meaning.contains(&format!("`{value}`")));
            assert!(!one_of || is_listed, "{name}: {PAGE} does not know {value}");
            let inside = format!("{}.", row.field);
            self.value(section, &name, &kind, &inside, value, shape);
        }
    }

    fn value(
        &mut self,
        section: &str,
        name: &str,
        kind: &str,
        inside: &str,
        value: &Value,
        shape: &mut BTreeSet<String>,
    ) {
        if let Some(kind) = kind.strip_prefix("list of ") {
            let list = value.as_array().unwrap_or_else(|| panic!("{name} is {value}, not a list"));
            return list.iter().for_each(|item| self.value(section, name, kind, inside, item, shape));
        }
        let fits = match kind {
            "string" => value.is_string(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_f64(),
            "boolean" => value.is_boolean(),
            "object" => return self.object(section, inside, value, shape),
            reference => {
                let named = reference.strip_prefix('[').and_then(|rest| rest.split(']').next());
                let named = named.unwrap_or_else(|| panic!("{name}: {kind} is no type"));
                return self.object(named, "", value, shape);
            }
        };
        assert!(fits, "{name} is {value}, not {kind}");
    }
}

/// Pipelines of each kind of decision, meters of two kinds, a delegate that is compared, and Home Assistant.
fn setup(port: u16, sysfs: &Path) -> Setup {
    let records = "channels = [\"ax\", \"ay\", \"az\", \"wx\", \"wy\", \"wz\"]\ntime = \"time_s\"\nrate_hz = 50.0";
    let model = root().join("models/shoulder_int8.tflite");
    let pipeline = |name: &str, decision: &str| {
        let source = replay(name, "speed = 20.0\nloop = true");
        format!(
            "[pipelines.{name}]\nwindow = {{ samples = 200, hop = 50 }}\ndecision.{decision}\nmodel.path = \"{}\"\n{source}\
             [pipelines.{name}.source.replay.records]\n{records}\n\n",
            model.display()
        )
    };
    let names = "regress = { names = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\"] }";
    let first = root().join("tests/models/open_input.tflite");
    let chained = format!(
        "models = [{{ path = {first:?}, window = {{ samples = 1, hop = 1 }}, output = [6] }}]\n\
         batch = {{ max = 2, wait_ms = 500.0 }}\ndecision.raw"
    );
    let outputs = pipeline("outputs", "raw = {}").replace("decision.raw", &chained);
    let clusters = "anomaly.kmeans = { on = \"output\", axes = [0], mean = [0.0], scale = [1.0], clusters = [{ centroid = \
                    [0.0], max_error = 0.5 }] }";
    let with_labels = format!("model.labels = {:?}\ndecision.multi_label", root().join("models/labels.txt"));
    let labels = pipeline("labels", "multi_label = { threshold = 0.1 }").replace("decision.multi_label", &with_labels);
    // The movements of the recording open it now and then, each time for a window at least.
    let gate = "[pipelines.labels]\ngate.level = { threshold = 1.0, block_s = 0.2, hold_s = 1.0 }";
    let labels = labels.replace("[pipelines.labels]", gate);
    let word = format!(
        "[pipelines.word]\nfrontend = [\"micro_frontend\"]\nwindow = {{ samples = 3, hop = 3 }}\nmodel.path = \"{}\"\n\
         decision.wake_word = {{ word = \"okay nabu\", cutoff = 0.85 }}\n[pipelines.word.source.replay]\npath = \"{}\"\n\
         wav = {{ rate_hz = 16000.0 }}\nspeed = 20.0\nloop = true\n\n",
        root().join("runtime/models/okay_nabu.tflite").display(),
        golden("speech.wav").display()
    );
    let others = [pipeline("values", names), outputs, pipeline("level", clusters), labels, word].concat();
    let power = format!(
        "[power]\nsysfs = \"{}\"\nsample_ms = 20\ninterval_s = 0.2\nidle_s = 0.0\nidle_watts = 1.0\n\n[power.meters.guess]",
        sysfs.display()
    );
    with_plugin(Setup::demo(port), "npu", &[])
        .with(XNNPACK, &delegate("npu"))
        .at_speed("20.0")
        .with_keys("[pipelines.shoulder.source.replay]", "loop = true")
        .with_keys("[mqtt]", "discovery = true\ncommands = true")
        .with("store = { enabled = false }", "store = { path = \"outbox.db\" }")
        .with("interval_s = 10.0", "interval_s = 0.5")
        .with("[power.meters.guess]", &power)
        .with(
            "idle_watts = 2.5 }",
            "idle_watts = 2.5 }\n\n[power.meters.board]\ngain_error = 0.02\nhwmon = { chip = \"ina219\" }",
        )
        .with("smooth = 3 }", "smooth = 3 }\npublish.scores = true")
        .with("\n[pipelines.shoulder]\n", &format!("\n{others}[pipelines.shoulder]\n"))
}

/// A board whose power an hwmon chip shows.
fn board() -> TempDir {
    let dir = TempDir::new().unwrap();
    let chip = dir.path().join("class/hwmon/hwmon1");
    std::fs::create_dir_all(&chip).unwrap();
    for (file, text) in [
        ("name", "ina219"),
        ("in1_input", "5000"),
        ("curr1_input", "600"),
        ("power1_input", "3000000"),
        ("shunt_resistor", "100000"),
    ] {
        std::fs::write(chip.join(file), format!("{text}\n")).unwrap();
    }
    dir
}

/// What a subscriber to everything has received of a daemon's life, as topic and text; and its folder.
fn run(sysfs: &Path) -> (Vec<(String, String)>, String) {
    let broker = Mosquitto::running();
    let mut subscriber = broker.subscribe("#");
    let setup = setup(broker.port, sysfs);
    let daemon = setup.start(&[]);
    let mut lines = Vec::new();
    let wanted = [
        "homeassistant/device/demo/config ",
        "edgewatt/demo/power/board ",
        "edgewatt/demo/p/shoulder/prediction ",
        "edgewatt/demo/p/shoulder/state ",
        "edgewatt/demo/p/values/prediction ",
        "edgewatt/demo/p/outputs/prediction ",
        "edgewatt/demo/p/level/prediction ",
        "edgewatt/demo/p/labels/prediction ",
        "edgewatt/demo/p/word/prediction ",
        "edgewatt/demo/node_metrics ",
    ];
    let mut missing: Vec<&str> = wanted.to_vec();
    // Of the second meter, as the first is the estimate: with energy, so not of the very first window.
    let (mut figure, mut closed) = (false, false);
    lines.extend(subscriber.until(|line| {
        closed |= line.starts_with("edgewatt/demo/p/labels/state ") && line.contains("\"gate\":\"closed\"");
        missing.retain(|start| !line.starts_with(start));
        figure |= line.starts_with("edgewatt/demo/p/shoulder/metrics ") && !line.contains("\"gross_j\":null");
        missing.is_empty() && figure && closed
    }));
    broker.publish("edgewatt/demo/cmd/pause", "{\"pipeline\": \"shoulder\"}");
    lines.extend(subscriber.until(|line| line.contains("\"state\":\"paused\"")));
    broker.publish("edgewatt/demo/cmd/delegate", "{\"pipeline\": \"values\", \"delegate\": \"cpu\"}");
    lines.extend(subscriber.until(|line| line.contains("\"event\":\"command\",\"pipeline\":\"values\"")));
    broker.publish("edgewatt/demo/cmd/nonsense", "");
    lines.extend(subscriber.until(|line| line.contains("\"event\":\"command_refused\"")));
    broker.publish("edgewatt/demo/cmd/resume", "{\"pipeline\": \"shoulder\"}");
    lines.extend(subscriber.until(|line| line.contains("\"state\":\"running\"")));
    setup.command("check", &["--online"]).output().unwrap();
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
    lines.extend(subscriber.until(|line| line == "edgewatt/demo/status offline"));
    let folder = setup.dir.path().display().to_string();
    let sent = |line: &String| !line.starts_with("ready ") && !line.starts_with("edgewatt/demo/cmd/");
    let split = |line: String| line.split_once(' ').map(|(topic, text)| (topic.to_owned(), text.to_owned())).unwrap();
    (lines.into_iter().filter(sent).map(split).collect(), folder)
}

/// The same without what only this machine has.
fn anywhere(text: &str, here: &[(String, &str)]) -> String {
    let plugin = edgewatt_support::plugin::test_delegate();
    let own = [
        (plugin.display().to_string(), "/usr/lib/libnpu.so"),
        (root().join("runtime").join(std::env::consts::ARCH).display().to_string(), "/usr/lib/edgewatt"),
        (root().display().to_string(), "/usr/share/edgewatt"),
    ];
    own.iter().chain(here).fold(text.to_owned(), |text, (from, to)| text.replace(from.as_str(), to))
}

/// In lines that can be read, broken where JSON may be.
fn wrapped(json: &str) -> String {
    let (mut lines, mut line, mut in_string, mut escaped) = (String::new(), String::new(), false, false);
    for c in json.chars() {
        line.push(c);
        in_string ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        if c == ',' && !in_string && line.len() > 90 {
            lines += &line;
            lines.push('\n');
            line = " ".to_owned();
        }
    }
    lines + &line
}

fn without_breaks(example: &str) -> Value {
    serde_json::from_str(example).unwrap_or_else(|e| panic!("{e}: {example}"))
}

#[test]
fn every_message_is_as_documented_and_every_field_comes() {
    let text = std::fs::read_to_string(root().join(PAGE)).unwrap();
    let page = Page::read(&text);
    let sysfs = board();
    let (lines, folder) = run(sysfs.path());
    let here = [(folder, "/etc/edgewatt"), (sysfs.path().display().to_string(), "/sys")];
    let mut met = Met { page: &page, fields: BTreeSet::new() };
    let mut shapes: BTreeMap<&str, Vec<Sent<'_>>> = BTreeMap::new();
    for (topic, text) in &lines {
        let known = page.topic(topic).unwrap_or_else(|| panic!("{PAGE} has no topic {topic}"));
        if known == "status" {
            assert!(page.sections["status"].text.contains(&format!("`{text}`")), "{text}");
            continue;
        }
        let message: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{topic} {text}: {e}"));
        let shape = met.message(known, &message);
        if known == "event" {
            let event = message["event"].as_str().unwrap();
            assert!(page.sections["event"].text.contains(&format!("`{event}`")), "{event}");
        }
        shapes.entry(known).or_default().push(Sent { shape, topic, text });
    }

    let documented =
        page.sections.iter().flat_map(|(name, s)| s.rows.iter().map(move |row| format!("{name}/{}", row.field)));
    let unseen: BTreeSet<&str> = UNSEEN.iter().map(|(field, _)| *field).collect();
    let never: Vec<String> =
        documented.filter(|name| !met.fields.contains(name) && !unseen.contains(name.as_str())).collect();
    assert!(never.is_empty(), "in {PAGE}, and never seen: {never:?}");
    let seen: Vec<&&str> = unseen.iter().filter(|name| met.fields.contains(**name)).collect();
    assert!(seen.is_empty(), "seen after all: {seen:?}");

    if std::env::var_os("EDGEWATT_BLESS").is_some_and(|bless| bless == "1") {
        bless(&text, &shapes, &here);
    }
    let page = Page::read(&std::fs::read_to_string(root().join(PAGE)).unwrap());
    let mut met = Met { page: &page, fields: BTreeSet::new() };
    for (name, section) in page.sections.iter().filter(|(_, section)| section.example.is_some()) {
        let example = without_breaks(section.example.as_ref().unwrap());
        let shape = met.message(name, &example);
        let of_run = shapes[name.as_str()].iter().any(|sent| sent.shape == shape);
        assert!(of_run, "the example of {name} is not like any message of the run: EDGEWATT_BLESS=1");
    }
}

/// Puts a message of the run in each example.
fn bless(text: &str, shapes: &BTreeMap<&str, Vec<Sent<'_>>>, here: &[(String, &str)]) {
    let (mut page, mut name, mut skipping) = (String::new(), String::new(), false);
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
            name = heading.trim_matches('`').to_owned();
        }
        skipping &= line != "```";
        if !skipping {
            page += &format!("{line}\n");
        }
        if line == "```json" {
            skipping = true;
            // With as many fields as any, of the demo's own pipeline, and late: rates and energy are there by then.
            let own = shapes[name.as_str()].iter().filter(|Sent { topic, text, .. }| {
                let running = !text.contains("\"predictions_per_s\":0.0") && !text.contains("stopped");
                running && ["/p/", "/power/"].iter().all(|of| !topic.contains(of))
                    || topic.contains("/board")
                    || running && topic.contains("/shoulder/")
            });
            let message = own.max_by_key(|sent| sent.shape.len()).unwrap().text;
            page += &format!("{}\n", wrapped(&anywhere(message, here)));
        }
    }
    std::fs::write(root().join(PAGE), page).unwrap();
}

#[test]
fn units_are_those_of_the_names_and_every_event_is_documented() {
    let page = Page::read(&std::fs::read_to_string(root().join(PAGE)).unwrap());
    let units = [
        ("per_s", "1/s"),
        ("_us", "us"),
        ("_ms", "ms"),
        ("_s", "s"),
        ("_j", "J"),
        ("_w", "W"),
        ("_v", "V"),
        ("_a", "A"),
        ("_mib", "MiB"),
        ("_kib", "KiB"),
        ("_c", "°C"),
    ];
    for (name, section) in &page.sections {
        for Row { field, kind, unit, .. } in &section.rows {
            let expected =
                units.iter().find(|(end, _)| field.ends_with(end) && ["number", "integer"].contains(&kind.as_str()));
            assert!(expected.is_none_or(|(_, expected)| unit == expected), "{name}/{field} is in {unit}");
        }
    }
    let mut folders = vec![root().join("src")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let source = std::fs::read_to_string(&entry).unwrap();
            for event in source.split("event(\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
                assert!(page.sections["event"].text.contains(&format!("`{event}`")), "{PAGE} has no event {event}");
                count += 1;
            }
        }
    }
    assert!(count >= 10, "only {count} events were found in the source");
}
