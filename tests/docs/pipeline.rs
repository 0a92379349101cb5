//! docs/pipeline.md quotes what `edgewatt check` says, and the gates of docs/gate.md can be used.

use edgewatt::config::Document;
use edgewatt_support::daemon::Setup;
use edgewatt_support::root;

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_does_not_fit_is_said_as_the_page_quotes_it() {
    let page = words(&std::fs::read_to_string(root().join("docs/pipeline.md")).unwrap());
    let quoted = |setup: Setup| {
        let ended = setup.check().expect(78);
        let folder = format!("{}/", setup.dir.path().display());
        let said = ended.stderr.lines().find_map(|line| line.strip_prefix(&folder)).unwrap_or_default();
        assert!(!said.is_empty() && page.contains(&words(said)), "the page does not quote {said}\n{}", ended.stderr);
    };
    quoted(Setup::demo(1).with("samples = 200", "samples = 100"));
    quoted(Setup::demo(1).with("std = [0.919476, ", "std = ["));
}

#[test]
fn a_buffer_that_is_too_short_for_one_inference_is_a_warning() {
    let setup = Setup::demo(1)
        .with("rate_hz = 50.0", "rate_hz = 1000000000.0")
        .with_keys("[pipelines.shoulder.source.replay]", "buffer = { samples = 16 }");
    let ended = setup.check().expect(0);
    assert!(ended.stdout.contains("warning: the source's buffer holds 16 samples"), "{}", ended.stdout);
}

#[test]
fn the_gates_of_the_page_pass_the_check_of_the_configuration() {
    let page = std::fs::read_to_string(root().join("docs/gate.md")).unwrap();
    let examples = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let pipelines: Vec<&str> = examples.filter(|toml| toml.contains("source.")).collect();
    assert_eq!(pipelines.len(), 2);
    for toml in pipelines {
        let text = format!("node.id = \"n\"\nmqtt.broker = \"none\"\n{toml}");
        let config = Document::new("edgewatt.toml", text).parse(None).unwrap_or_else(|e| panic!("{e}"));
        assert!(config.pipelines[0].gate.is_some());
    }
}
