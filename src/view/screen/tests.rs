//! Screens from recorded messages, compared with those in src/view/golden; EDGEWATT_BLESS=1 writes them again.

use std::path::PathBuf;

use ratatui_core::backend::TestBackend;
use ratatui_core::terminal::Terminal;

use super::*;
use crate::view::keys::Key;

const LOOK: Look = Look { colour: true };

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/view/golden").join(name)
}

/// Returns the model after all messages of a file: a topic and a payload in each line.
fn recorded(name: &str) -> Model {
    let mut model = Model::default();
    for line in std::fs::read_to_string(golden(name)).unwrap().lines() {
        let (topic, payload) = line.split_once(' ').unwrap();
        model.take(topic, payload.as_bytes(), 1_795_443_940_000);
    }
    assert_eq!(model.unreadable, 0);
    model
}

fn scene<'a>(model: &'a Model, ui: &'a Ui) -> Scene<'a> {
    Scene { model, ui, look: LOOK, now_ms: 1_795_443_941_000, link: None }
}

/// Returns the screen as lines of text.
fn screen(scene: &Scene<'_>, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(frame.buffer_mut(), scene)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(columns.max(1))).map(|row| {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

#[track_caller]
fn compare(name: &str, shown: &str) {
    let file = golden(&format!("{name}.txt"));
    if std::env::var_os("EDGEWATT_BLESS").is_some() {
        std::fs::write(&file, shown).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(shown == expected, "{} differs; EDGEWATT_BLESS=1 writes it again. Shown:\n{shown}", file.display());
}

#[test]
fn the_demo_is_shown_at_every_size() {
    let (model, ui) = (recorded("demo.messages"), Ui::default());
    for (columns, rows) in [(40, 10), (60, 20), (80, 24), (200, 50)] {
        compare(&format!("demo-{columns}x{rows}"), &screen(&scene(&model, &ui), columns, rows));
    }
}

#[test]
fn several_nodes_are_shown_at_every_size() {
    let (model, mut ui) = (recorded("several.messages"), Ui::default());
    for name in ["arm", "kiln", "pump"] {
        for (columns, rows) in [(60, 20), (80, 24), (200, 50)] {
            compare(&format!("{name}-{columns}x{rows}"), &screen(&scene(&model, &ui), columns, rows));
        }
        ui.press(Key::Next, &model, 0);
    }
}

#[test]
fn help_and_the_choice_of_a_delegate_are_boxes() {
    let (model, mut ui) = (recorded("several.messages"), Ui::default());
    ui.press(Key::Char('d'), &model, 0);
    compare("delegates-80x24", &screen(&scene(&model, &ui), 80, 24));
    ui.press(Key::Escape, &model, 0);
    ui.press(Key::Char('?'), &model, 0);
    compare("help-80x24", &screen(&scene(&model, &ui), 80, 24));
}

#[test]
fn no_size_and_no_message_makes_it_fail() {
    let hostile = {
        let mut model = recorded("several.messages");
        for payload in [
            r#"{"label":"日本語のとても長いラベル","score":1e300,"truth":"é"}"#,
            r#"{"label":null,"score":null}"#,
            r#"{"values":{}}"#,
            r#"{"outputs":[[]]}"#,
            r#"{"values":{"a":1e300,"b":null,"a long name of a value that has no end":-1e-300}}"#,
        ] {
            model.take("edgewatt/arm/p/shoulder/prediction", payload.as_bytes(), 0);
            model.take("edgewatt/new/p/x/prediction", payload.as_bytes(), 0);
        }
        model.take(
            "edgewatt/new/p/x/metrics",
            br#"{"predictions_per_s":-1,"latency_us":{"invoke":{"p50":0,"p99":-1}}}"#,
            0,
        );
        model.take("edgewatt/new/power/m", br#"{"power_w":null,"time_ms":18446744073709551615}"#, 0);
        model
    };
    for model in [Model::default(), recorded("demo.messages"), hostile] {
        let mut ui = Ui::default();
        for key in [Key::Next, Key::Next, Key::Next, Key::Char('d'), Key::Escape, Key::Char('?')] {
            for columns in [0, 1, 19, 20, 39, 71, 72, 73, 119, 121, 300] {
                for rows in [0, 1, 3, 4, 5, 9, 17, 31, 64] {
                    screen(&scene(&model, &ui), columns, rows);
                }
            }
            ui.press(key, &model, 0);
        }
    }
}

#[test]
fn without_colour_nothing_has_one() {
    let (model, ui) = (recorded("demo.messages"), Ui::default());
    let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 24));
    let mut shown = scene(&model, &ui);
    shown.look = Look { colour: false };
    draw(&mut buffer, &shown);
    assert!(buffer.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let text = |buffer: &Buffer| buffer.content().iter().map(|cell| cell.symbol().to_owned()).collect::<String>();
    let mut coloured = Buffer::empty(buffer.area);
    draw(&mut coloured, &scene(&model, &ui));
    assert_eq!(text(&buffer), text(&coloured), "colour is an addition only");
}

#[test]
fn the_rows_are_never_more_than_there_are() {
    for columns in [40, 80, 200] {
        for rows in 1..80 {
            for pipelines in [0, 1, 5, 40] {
                let heights = plan(columns, rows, pipelines, pipelines != 5);
                assert!(heights.iter().sum::<usize>() <= rows, "{columns} {rows} {pipelines} {heights:?}");
            }
        }
    }
}
