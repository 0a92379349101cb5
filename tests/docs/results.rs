//! The page of results is what the files beside it give. `EDGEWATT_BLESS=1 cargo test --test docs results::` writes it.

use edgewatt::measure::bench::report::Report;
use edgewatt::report::results::page;
use edgewatt_support::root;

#[test]
fn the_page_of_results_is_made_of_its_files() {
    let folder = root().join("docs/results");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = names.filter(|name| name.ends_with(".json")).collect();
    files.sort();
    let report = |name: String| {
        let report =
            Report::read(&std::fs::read(folder.join(&name)).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(report, report.to_share(), "{name} has what --share leaves out");
        (name, report)
    };
    let made = page(&files.into_iter().map(report).collect::<Vec<_>>());
    let path = folder.join("README.md");
    if std::env::var_os("EDGEWATT_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == made, "{} is out of date: EDGEWATT_BLESS=1 writes it", path.display());
}
