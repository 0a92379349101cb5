//! The manual that `make man` writes: a page for each subcommand, one for the configuration, completions.

use std::process::Command;

use edgewatt_support::program;
use tempfile::TempDir;

#[test]
fn there_is_a_page_for_each_subcommand_and_for_the_configuration() {
    let dir = TempDir::new().unwrap();
    let written = Command::new(program()).arg("manual").arg(dir.path().join("not/yet")).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let read = |path: &str| std::fs::read_to_string(dir.path().join("not/yet").join(path)).unwrap();

    let help = Command::new(program()).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap())
        .filter(|name| *name != "help")
        .collect();
    assert!(names.contains(&"doctor") && names.len() >= 7, "{names:?}");
    let main = read("man1/edgewatt.1");
    for name in &names {
        let page = read(&format!("man1/edgewatt-{name}.1"));
        let escaped = name.replace('-', "\\-");
        assert!(page.contains(".SH SYNOPSIS") && main.contains(&format!("edgewatt\\-{escaped}(1)")), "{name}: {main}");
    }
    let pages = std::fs::read_dir(dir.path().join("not/yet/man1")).unwrap().count();
    read("man1/edgewatt-bench-compare.1");
    assert_eq!(pages, names.len() + 2, "what help hides has no page");

    let config = read("man5/edgewatt.toml.5");
    for part in [".SH \"[mqtt.store]\"", "\\fBkeep_alive_s\\fR", "Default: 30", "May be: 2 to 3600"] {
        let bare = part.replace('"', "");
        assert!(config.contains(part) || config.contains(&bare), "no {part} in {config}");
    }
    for script in ["edgewatt", "_edgewatt", "edgewatt.fish"] {
        assert!(read(&format!("completions/{script}")).contains("doctor"), "{script}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let written = Command::new(program()).arg("manual").arg(&file).output().unwrap();
    let said = String::from_utf8(written.stderr).unwrap();
    assert!(!written.status.success() && said.contains(&file.display().to_string()), "{said}");
}
