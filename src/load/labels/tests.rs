//! Each form in which people have labels, and each way in which a file can be wrong.

use proptest::prelude::*;

use super::*;

fn read_text(name: &str, text: &str, scores: usize) -> Labels {
    read(name, text.as_bytes(), Some(scores)).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn refusal(name: &str, text: &str, scores: usize) -> String {
    match read(name, text.as_bytes(), Some(scores)) {
        Ok(labels) => panic!("{text:?}: {labels:?}"),
        Err(error) => error,
    }
}

const TWO: [&str; 2] = ["idle", "run"];

#[test]
fn every_form_gives_the_same_labels_in_the_order_of_the_classes() {
    for (name, text) in [
        ("l.txt", "idle\nrun\n"),
        ("l.txt", "idle\nrun"),
        ("l.txt", "\u{feff}idle\nrun\n"),
        ("l.txt", "idle \t\r\nrun\r\n\r\n  \r\n"),
        ("l.txt", "idle\rrun\r"),
        ("l.txt", "0 idle\n1 run\n"),
        ("l.txt", "1 run\n0 idle\n"),
        ("l.txt", "0  idle\n1  run\n"),
        ("l.txt", "1: run\n0: idle\n"),
        ("l.txt", "0:idle\n1:run\n"),
        ("l.txt", "0,idle\n1,run\n"),
        ("l.txt", "1\trun\n0\tidle\n"),
        ("l.txt", "0 - idle\n1 - run\n"),
        ("l.txt", "0. idle\n1. run\n"),
        ("l.txt", "1) run\n0) idle\n"),
        ("l.txt", "0=idle\n1=run\n"),
        ("l.txt", "00 idle\n01 run\n"),
        ("l.txt", "1 -> run\n0 -> idle\n"),
        ("l.txt", "1=>run\n0=>idle\n"),
        ("l.txt", "[1] run\n[0] idle\n"),
        ("l.txt", "(0): idle\n(1): run\n"),
        ("l.txt", "idle,\nrun,\n"),
        ("l.txt", "idle,\nrun\n"),
        ("l.txt", "\"idle\",\n\"run\"\n"),
        ("l.txt", "0: \"idle\",\n1: \"run\",\n"),
        ("l.txt", "- idle\n- run\n"),
        ("l.txt", "- 'idle'\n- 'run'\n"),
        ("l.h", "#pragma once\n#define COUNT 2\nconst char* labels[] = { \"idle\", \"run\" };\n"),
        ("l.h", "static const char *kLabels[2] = {\n    \"idle\",\n    \"run\",\n};"),
        ("l.py", "LABELS = ['idle', 'run']\n"),
        ("l.json", "{\"id\": 1, \"name\": \"run\"}\n{\"id\": 0, \"name\": \"idle\"}\n"),
        ("l.txt", "1: idle\n2: run\n"),
        ("l.txt", "run,1\nidle,0\n"),
        ("l.txt", "run: 1\nidle: 0\n"),
        ("l.txt", "\"idle\"\n\"run\"\n"),
        ("l.txt", "# classes of the model\nidle\nrun\n"),
        ("l.txt", "idle,run"),
        ("l.txt", "idle; run\n"),
        ("l.csv", "idle\nrun\n"),
        ("l.csv", "label\nidle\nrun\n"),
        ("l.csv", "0,idle\n1,run\n"),
        ("l.csv", "run,1\nidle,0\n"),
        ("l.csv", "index,mid,display_name\n0,/m/01,idle\n1,/m/02,run\n"),
        ("l.csv", "index;mid;display_name\n1;/m/02;run\n0;/m/01;idle\n"),
        ("l.csv", ",label\n0,idle\n1,run\n"),
        ("l.csv", "ClassId,SignName\n1,run\n0,idle\n"),
        ("l.csv", "name,description\nidle,does nothing\nrun,fast\n"),
        ("l.tsv", "id\tname\n0\tidle\n1\trun\n"),
        ("l.txt", "id,name\n1,run\n0,idle\n"),
        ("l.json", "[\"idle\", \"run\"]"),
        ("l.txt", "[\n\"idle\",\n\"run\"\n]\n"),
        ("l.json", "{\"1\": \"run\", \"0\": \"idle\"}"),
        ("l.json", "{\"run\": 1, \"idle\": 0}"),
        ("l.json", "{\"0\": [\"n01\", \"idle\"], \"1\": [\"n02\", \"run\"]}"),
        ("l.json", "[{\"id\": 1, \"name\": \"run\"}, {\"id\": 0, \"name\": \"idle\"}]"),
        ("l.json", "{\"version\": 2, \"labels\": [\"idle\", \"run\"]}"),
        (
            "l.json",
            "{\"model_type\": \"x\", \"id2label\": {\"0\": \"idle\", \"1\": \"run\"}, \"label2id\": {\"idle\": 0}}",
        ),
        ("l.pbtxt", "item {\n  id: 1\n  name: 'idle'\n}\nitem {\n  id: 2\n  name: 'run'\n}\n"),
        (
            "l.pbtxt",
            "# map\nitem: { name: \"/m/02\" id: 1 display_name: \"run\" keypoints { id: 7 label: 'x' } },\nitem {\n name: \"/m/01\", id: 0\n display_name: \"idle\" }",
        ),
    ] {
        assert_eq!(read_text(name, text, 2).names, TWO, "{text:?}");
    }
    for bytes in [&b"\xff\xfei\0d\0l\0e\0\r\0\n\0r\0u\0n\0"[..], b"\xfe\xff\0i\0d\0l\0e\0\n\0r\0u\0n"] {
        let labels = read("l.txt", bytes, None).unwrap();
        assert_eq!(
            (labels.names, labels.read.as_str()),
            (TWO.map(str::to_owned).to_vec(), "2 from l.txt, which is UTF-16")
        );
    }
}

#[test]
fn what_was_read_is_said() {
    let said = |name, text, scores| read_text(name, text, scores).read;
    assert_eq!(said("l.txt", "idle\nrun\n", 2), "2 from l.txt");
    assert_eq!(said("l.txt", "1 run\n0 idle\n", 2), "2 from l.txt, which has indices");
    assert_eq!(said("l.txt", "1: idle\n2: run\n", 2), "2 from l.txt, whose indices start at 1: index 1 is class 0");
    assert_eq!(said("l.txt", "# a\n# b\nidle\nrun\n", 2), "2 from l.txt, without 2 comment lines");
    assert_eq!(said("l.csv", "id,name\n0,idle\n1,run\n", 2), "2 from l.csv, column `name`, which has indices");
    assert_eq!(said("l.json", "[\"idle\", \"run\"]", 2), "2 from l.json, a JSON array");
    let map = "item { id: 1 name: 'idle' }\nitem { id: 2 name: 'run' }";
    assert_eq!(
        said("l.pbtxt", map, 3),
        "3 from l.pbtxt, a label map, by name, whose indices start at 1: class 0 is `background`"
    );
    assert_eq!(read_text("l.pbtxt", map, 3).names, ["background", "idle", "run"]);
    let more = said("l.txt", "background\nidle\nrun\n", 2);
    assert!(more.contains("the model may lack the class of the first one, `background`"), "{more}");
    let twice = said("l.txt", "crane\ndog\ncrane\n", 3);
    assert_eq!(twice, "3 from l.txt; several classes are called `crane`, so publish.scores adds a number: `crane (2)`");
}

#[test]
fn text_that_has_its_labels_inside_something_else_is_refused() {
    for (text, words) in [
        ("names:\n- idle\n- run\n", "it is YAML; write one label a line"),
        ("names:\n  0: idle\n  1: run\n", "it is YAML"),
        ("<labels>\n<l>idle</l><l>run</l>\n</labels>", "it is XML"),
        ("{\\rtf1\\ansi\nidle\\par\nrun\\par}", "it is rich text (RTF)"),
        ("const char* a[] = {\"idle\"};\nconst char* b[] = {\"run\"};\n", "several lists of texts"),
    ] {
        let said = refusal("l.txt", text, text.lines().count());
        assert!(said.contains(words), "{text:?}: {said}");
    }
    assert_eq!(read_text("l.txt", "<blank>\nidle\n<unk>", 3).names, ["<blank>", "idle", "<unk>"]);
    assert_eq!(read_text("l.txt", "a:\nb:\n", 2).names, ["a:", "b:"]);
}

#[test]
fn numbers_that_belong_to_the_labels_stay_there() {
    for text in [
        "1 person\n2 persons\n3 persons\n",
        "0 persons\n1 person\n2 persons\n",
        "2 doors\n4 doors\n",
        "0\n1\n2\n",
        "Genus species0 Number 0\nGenus species1 Number 1\n",
        "zone 1\nzone 2\n",
        "idle\n2 hands\n",
        "#happy\n#sad\n",
        "# one\n# two\n",
        "[idle]\n[run]\n",
        "tench, Tinca tinca\ngoldfish\n",
        "10:30 train\nbus\n",
    ] {
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(read_text("l.txt", text, lines.len()).names, lines);
    }
    let warned = read_text("l.txt", "0: idle\n1: run\nwalk\n", 3).warnings;
    assert!(warned[0].contains("2 of 3 lines start with an index, but line 3 does not"), "{warned:?}");
    let warned = read_text("l.txt", "run 1\nidle 0\n", 2);
    assert_eq!(warned.names, ["run 1", "idle 0"]);
    assert!(warned.warnings[0].contains("they are not in order"), "{warned:?}");
    let warned = read_text("l.txt", "n02119789 1 kit_fox\nn02100735 2 setter\n", 2);
    assert_eq!(warned.names[0], "n02119789 1 kit_fox");
    assert!(warned.warnings[0].contains("id of WordNet"), "{warned:?}");
    assert_eq!(read_text("l.txt", "n01440764\ttench\nn01443537\tgoldfish\n", 2).names[0], "n01440764 tench");
}

#[test]
fn a_file_that_cannot_be_right_is_refused_with_the_place_and_what_would_be_right() {
    for (name, text, scores, words) in [
        ("l.txt", "", 2, "l.txt: it is empty"),
        ("l.txt", "idle\n\nrun\n", 2, "l.txt:2: the line is empty"),
        ("l.txt", "0: idle\n2: run\n", 2, "no label has index 1, although there is index 2"),
        ("l.txt", "1: idle\n2: run\n", 3, "the indices go from 1 to 2, but classes count from 0"),
        ("l.txt", "5: idle\n6: run\n", 2, "no label has index 1"),
        ("l.txt", "0: idle\n0: run\n", 2, "index 0 is there twice"),
        ("l.txt", "idle\nru\u{1b}[2Jn\n", 2, "the label `ru\\u{1b}[2Jn` has a control character"),
        ("l.h", "const char* labels[] = { \"idle\", \"\" };", 2, "the label of class 1 is empty"),
        ("l.json", "[\"idle\", \" \"]", 2, "the label of class 1 is empty"),
        ("l.yaml", "names:\n  0: idle\n", 1, "YAML is not read"),
        ("l.json", "['idle', 'run']", 2, "json.dump"),
        ("l.json", "{0: 'idle', 1: 'run'}", 2, "json.dump"),
        ("l.json", "{\"0\": \"idle\", \"0\": \"run\"}", 2, "index 0 is there twice"),
        ("l.json", "{\"a\": {\"b\": true}}", 2, "no labels in this JSON"),
        ("l.json", "[1, 2]", 2, "no labels in this JSON"),
        ("l.csv", "id,name\n0,idle\n1,run,x\n", 2, "l.csv:3: 3 columns, where the first line has 2"),
        ("l.csv", "idle,Ruhe\nrun,Lauf\n", 2, "which column has the labels"),
        ("l.csv", "id,name\n0,\n1,run\n", 2, "l.csv:2: the label is empty"),
        ("l.pbtxt", "item {\n id: 1\n}\n", 1, "l.pbtxt:1: this item has no name"),
        ("l.pbtxt", "item {\n name: 'idle'\n", 1, "no `}`"),
        ("l.pbtxt", "item { name: 'idle' id: x }", 1, "the id `x` is not a number"),
        ("l.pbtxt", "item { name: 'a' id: 1 }\nitem { name: 'b' id: 3 }", 3, "no label has index 2"),
        ("l.pbtxt", "item { name: 'a' id: 1 }\nitem { name: 'b' }", 3, "1 of 2 labels have no number"),
        ("l.txt", "version https://git-lfs.example/spec/v1\n", 2, "git lfs pull"),
        ("l.txt", "<!DOCTYPE html>\n<html>", 2, "web page"),
    ] {
        let refused = refusal(name, text, scores);
        assert!(refused.contains(words), "{text:?}: {refused}");
    }
    assert!(read("l.txt", b"idle\nl\xe4uft\n", None).unwrap_err().contains("line 2 is not UTF-8 text (byte 0xe4)"));
    assert!(read("l.txt", b"i\0d\0l\0e\0", None).unwrap_err().contains("UTF-16 without a mark"));
    assert!(read("l.txt", b"\x1c\0\0\0TFL3", None).unwrap_err().contains("is a TFLite model"));
}

proptest! {
    #[test]
    fn whatever_a_file_holds_the_answer_is_labels_or_words(
        text in "[ -~]{0,8}([\n\r\t:,;0-9a-c{}\\[\\]\"'#= -]{0,40})", csv: bool, scores in prop::option::of(0usize..5),
    ) {
        let name = if csv { "l.csv" } else { "l.txt" };
        if let Ok(labels) = read(name, text.as_bytes(), scores) {
            prop_assert!(!labels.names.is_empty());
            prop_assert!(labels.names.iter().all(|name| !name.is_empty() && !name.chars().any(char::is_control)));
        }
        for form in [format!("item {{ {text} }}"), format!("[{text}]"), format!("{{{text}}}")] {
            let _ = read(name, form.as_bytes(), scores);
        }
    }
}
