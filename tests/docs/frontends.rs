//! The keys in docs/frontends.md are accepted, and give the shapes that the page says.

use edgewatt::config::Document;
use edgewatt_support::root;

#[test]
fn every_block_of_keys_is_accepted() {
    let page = std::fs::read_to_string(root().join("docs/frontends.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edgewatt.toml");
    let shapes: Vec<String> = page
        .split("```toml\n")
        .skip(1)
        .map(|rest| {
            let keys = rest.split("```").next().unwrap();
            let rate = if keys.contains("22050") { 22050 } else { 16000 };
            let microphone = format!("source.alsa = {{ card = \"Device\", rate_hz = {rate} }}\n");
            let source = if keys.contains("source.") { "" } else { &microphone };
            let text = format!(
                "node.id = \"a\"\nmqtt.broker = \"mqtt://127.0.0.1\"\n[pipelines.p]\n{keys}\
                 {source}model.path = \"m\"\ndecision.raw = {{}}\n"
            );
            std::fs::write(&path, text).unwrap();
            let config = Document::read(&path).unwrap().parse(None).unwrap_or_else(|error| panic!("{keys}\n{error}"));
            config.pipelines[0].shapes().unwrap().input().to_string()
        })
        .collect();
    let filters = ["[3, 40]", "[100, 3]", "[4000, 1]", "[208, 3]", "[8000, 1]", "[3, 40]"];
    let spectra = ["[30, 64]", "[98, 13]", "[28, 128]", "[44, 20]", "[124, 129]", "[49, 10]", "[5, 128]"];
    assert_eq!(shapes, [&filters[..], &spectra].concat());
}
