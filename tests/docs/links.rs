//! What the Markdown files name is there: links and their anchors, files, modules, items, make targets, tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Component, Path, PathBuf};

use edgewatt_support::root;

/// Folders whose files are named from the root of the repository.
const FOLDERS: [&str; 9] =
    ["src/", "tests/", "docs/", "tools/", "benches/", "examples/", "scripts/", "systemd/", "models/"];
/// Above this many underscores, a word in backticks is the name of a test.
const UNDERSCORES: usize = 3;

/// One Markdown file.
struct Page {
    path: PathBuf,
    /// The text outside code blocks.
    prose: String,
    /// The lines inside code blocks.
    code: Vec<String>,
}

impl Page {
    fn read(path: &Path) -> Self {
        let (mut prose, mut code, mut in_code, mut may_indent) = (String::new(), Vec::new(), false, true);
        for line in fs::read_to_string(path).unwrap().lines() {
            // Indented text is code after an empty line, or after other code.
            let indented = may_indent && line.starts_with("    ");
            may_indent = indented || line.is_empty();
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            } else if in_code || indented {
                code.push(line.trim().to_owned());
            } else {
                prose.push_str(line);
                prose.push('\n');
            }
        }
        assert!(!in_code, "{}: a code block does not end", path.display());
        Self { path: path.to_owned(), prose, code }
    }

    /// Returns what is in backticks, with what follows it.
    fn spans(&self) -> Vec<(String, &str)> {
        let parts: Vec<&str> = self.prose.split('`').collect();
        assert!(parts.len() % 2 == 1, "{}: a backtick is missing", self.path.display());
        let pairs = parts[1..].chunks_exact(2);
        pairs.map(|pair| (pair[0].split_whitespace().collect::<Vec<_>>().join(" "), pair[1])).collect()
    }

    /// Returns every command: lines of code, and what is in backticks.
    fn commands(&self) -> Vec<String> {
        self.code.iter().cloned().chain(self.spans().into_iter().map(|(span, _)| span)).collect()
    }

    /// Returns the targets of links.
    fn links(&self) -> impl Iterator<Item = &str> {
        self.prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
    }

    /// Returns the anchors of the headings, as code hosts make them.
    fn anchors(&self) -> Vec<String> {
        let mut counts = BTreeMap::new();
        let headings = self.prose.lines().filter(|line| line.starts_with('#'));
        let anchor = |line: &str| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let count = counts.entry(anchor.clone()).or_insert(0);
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        };
        headings.map(anchor).collect()
    }
}

/// Returns the files below `folder` that end in `suffix`.
fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = |path: PathBuf| {
        if path.is_dir() { files(&path, suffix) } else { Vec::from_iter(Some(path).filter(|path| ends(path, suffix))) }
    };
    entries.flat_map(found).collect()
}

fn ends(path: &Path, suffix: &str) -> bool {
    path.to_string_lossy().ends_with(suffix)
}

/// Returns every Markdown file of the repository.
fn pages() -> Vec<Page> {
    let at_root = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let at_root = at_root.filter(|path| path.is_file() && ends(path, ".md"));
    let below = ["docs", "examples", "benches", "models"].into_iter().flat_map(|f| files(&root().join(f), ".md"));
    let pages: Vec<Page> = at_root.chain(below).map(|path| Page::read(&path)).collect();
    assert!(pages.len() > 25);
    pages
}

/// Fails with every line that `find` reports of a page.
fn check(find: impl Fn(&Page, &mut dyn FnMut(String))) {
    let mut report = String::new();
    for page in pages() {
        let name = page.path.strip_prefix(root()).unwrap().display().to_string();
        find(&page, &mut |problem| writeln!(report, "{name}: {problem}").unwrap());
    }
    assert!(report.is_empty(), "\n{report}");
}

/// Returns whether a path in the text names something of the repository: a file, a folder or a module of `src`.
fn exists(path: &str) -> bool {
    let there = |path: String| root().join(path).exists();
    there(path.to_owned()) || there(format!("src/{path}")) || there(format!("src/{path}.rs"))
}

/// Returns whether a word is a path, and not a pattern of paths or a name to fill in.
fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '-');
    let filled_in = word.split(['/', '.']).any(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_uppercase()));
    // A socket is there while its program runs.
    let is_file = word.contains('/') && !word.starts_with('/') && !word.ends_with(".sock");
    is_file && word.chars().all(plain) && !filled_in
}

#[test]
fn links_lead_somewhere() {
    check(|page, report| {
        for link in page.links().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let path = if file.is_empty() { page.path.clone() } else { page.path.parent().unwrap().join(file) };
            if !path.exists() {
                report(format!("there is no {link}"));
            } else if let Some(anchor) = anchor
                && !Page::read(&path).anchors().iter().any(|known| known == anchor)
            {
                report(format!("there is no heading {link}"));
            }
        }
    });
}

#[test]
fn files_and_modules_that_are_named_exist() {
    check(|page, report| {
        let is_room = |path: &str| path.split('/').next().is_some_and(|first| root().join("src").join(first).is_dir());
        for (span, _) in page.spans() {
            if is_path(&span) && (is_room(&span) || FOLDERS.iter().any(|f| span.starts_with(f))) && !exists(&span) {
                report(format!("there is no `{span}`"));
            }
        }
        let between = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '-' | '*' | '{' | '<'));
        let lines = page.prose.lines().chain(page.code.iter().map(String::as_str));
        for word in lines.flat_map(|line| line.split(between)).map(|word| word.trim_end_matches('.')) {
            // A link may name a folder beside its page, such as docs/examples.
            let is_beside = || page.path.parent().is_some_and(|folder| folder.join(word).exists());
            let names_a_folder = || FOLDERS.iter().any(|folder| word.starts_with(folder));
            if is_path(word) && names_a_folder() && !exists(word) && !is_beside() {
                report(format!("there is no {word}"));
            }
        }
    });
}

/// Returns the files of the Debian package, each with its place there. What scripts/make-deb makes of a file of the
/// repository counts as that file.
fn packaged() -> Vec<(PathBuf, PathBuf)> {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let entries = |folder: fs::ReadDir| folder.map(|entry| entry.unwrap().path()).collect();
    let mut places = Vec::new();
    for asset in manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap() {
        let (pattern, folder) = (Path::new(asset[0].as_str().unwrap()), Path::new(asset[1].as_str().unwrap()));
        let pattern = pattern.strip_prefix("target/release/deb").unwrap_or(pattern);
        let name = pattern.file_name().unwrap().to_str().unwrap();
        let (parent, is_deep) = match pattern.parent().unwrap() {
            parent if parent.ends_with("**") => (parent.parent().unwrap(), true),
            parent => (parent, false),
        };
        let (before, after) = name.split_once('*').unwrap_or((name, ""));
        let top = root().join(parent);
        let found = if is_deep { files(&top, after) } else { fs::read_dir(&top).map_or(Vec::new(), entries) };
        for path in found {
            let (below, file) = (path.strip_prefix(&top).unwrap(), path.file_name().unwrap().to_str().unwrap());
            if file == name || name.contains('*') && file.starts_with(before) && file.ends_with(after) {
                places.push((parent.join(below), folder.join(below)));
            }
        }
    }
    places
}

/// Returns the folders into which scripts/make-deb leaves no link in CONTRIBUTING.md.
fn not_installed() -> Vec<String> {
    let script = fs::read_to_string(root().join("scripts/make-deb")).unwrap();
    let line = script.lines().find_map(|line| line.strip_prefix("not_installed='")).unwrap();
    line.trim_end_matches('\'').split('|').map(|folder| format!("{folder}/")).collect()
}

/// Resolves `.` and `..` without looking at the file system.
fn resolved(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut resolved, component| {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            Component::CurDir => {}
            component => resolved.push(component),
        }
        resolved
    })
}

/// tests/package looks at the links of a package that was built.
#[test]
fn links_of_packaged_pages_stay_in_the_package() {
    let packaged = packaged();
    assert!(packaged.len() > 50, "{packaged:?}");
    let not_installed = not_installed();
    check(|page, report| {
        let path = page.path.strip_prefix(root()).unwrap();
        let Some((_, place)) = packaged.iter().find(|(source, _)| source == path) else { return };
        let is_cut =
            |link: &str| path == "CONTRIBUTING.md" && not_installed.iter().any(|folder| link.starts_with(folder));
        for link in page.links().filter(|link| !link.contains("://") && !link.starts_with('#') && !is_cut(link)) {
            let link = link.split('#').next().unwrap();
            let target = resolved(&place.parent().unwrap().join(link));
            if !packaged.iter().any(|(_, known)| known.starts_with(&target)) {
                report(format!("the package has no {}", target.display()));
            }
        }
    });
}

/// "`src/daemon/control.rs` (`Action`)": the file has the word.
#[test]
fn items_that_are_named_after_a_file_are_in_it() {
    check(|page, report| {
        let spans = page.spans();
        let mut file: Option<&str> = None;
        for (index, (span, _)) in spans.iter().enumerate() {
            let before = if index == 0 { "" } else { spans[index - 1].1 };
            if before == " (" && spans[index - 1].0.ends_with(".rs") {
                file = Some(&spans[index - 1].0);
            } else if before != ", " {
                file = None;
            }
            let Some(file) = file.filter(|file| exists(file)) else { continue };
            let path = if file.starts_with("src/") { root().join(file) } else { root().join("src").join(file) };
            let text = fs::read_to_string(path).unwrap_or_default();
            let item = span.rsplit("::").next().unwrap();
            if !item.contains('/') && !text.contains(item) {
                report(format!("`{file}` has no `{item}`"));
            }
        }
    });
}

#[test]
fn make_targets_exist() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: Vec<&str> = makefile.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    check(|page, report| {
        for command in page.commands() {
            let Some(arguments) = command.strip_prefix("make ") else { continue };
            for word in arguments.split([' ', ',', ';']).take_while(|word| !matches!(*word, "#" | "&&")) {
                let is_target = !word.is_empty() && !word.contains('=') && word != "NAME";
                if is_target && !targets.contains(&word) {
                    report(format!("make has no target {word}"));
                }
            }
        }
    });
}

/// Returns the names of the functions below `folder`, each as a test would be called.
fn functions(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for file in files(folder, ".rs") {
        let module = file.strip_prefix(folder).unwrap().with_extension("").display().to_string().replace('/', "::");
        let module = module.trim_end_matches("::mod");
        for line in fs::read_to_string(&file).unwrap().lines() {
            let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("async ");
            if let Some(name) = line.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next()) {
                names.extend([format!("{module}::{name}"), format!("{module}::tests::{name}")]);
            }
        }
    }
    names
}

#[test]
fn benches_and_examples_that_are_named_exist() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    check(|page, report| {
        for command in page.commands().iter().filter(|command| command.contains("cargo ")) {
            let words: Vec<&str> = command.split_whitespace().collect();
            for pair in words.windows(2) {
                let kind = pair[0].trim_start_matches("--");
                let listed = matches!(pair[0], "--bench" | "--example").then(|| manifest[kind].as_array().unwrap());
                let is_listed =
                    |list: &toml::value::Array| list.iter().any(|one| one["name"].as_str() == Some(pair[1]));
                if listed.is_some_and(|list| pair[1] != "NAME" && !is_listed(list)) {
                    report(format!("there is no {kind} for: {command}"));
                }
            }
        }
    });
}

#[test]
fn test_commands_run_something() {
    check(|page, report| {
        for command in page.commands() {
            let words: Vec<&str> = command.split(" #").next().unwrap().split_whitespace().collect();
            let Some(at) = words.windows(2).position(|pair| pair == ["cargo", "test"]) else { continue };
            let mut words = words[at + 2..].iter().take_while(|word| **word != "--");
            let (mut folder, mut filter) = (None, None);
            while let Some(word) = words.next() {
                match *word {
                    "--lib" => folder = Some(root().join("src")),
                    "--test" => folder = words.next().map(|name| root().join("tests").join(name)),
                    "--features" => drop(words.next()),
                    word if word.starts_with('-') => {}
                    word => filter = Some(word),
                }
            }
            let Some(folder) = folder else { continue };
            if !folder.is_dir() {
                if !folder.with_extension("rs").exists() {
                    report(format!("there is no test binary for: {command}"));
                }
            } else if let Some(filter) = filter.filter(|filter| is_name(filter))
                && !functions(&folder).iter().any(|name| name.contains(filter))
            {
                report(format!("no test is called so: {command}"));
            }
        }
    });
}

fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | ':'))
}

#[test]
fn tests_that_are_named_exist() {
    let known: Vec<String> = ["src", "tests"].into_iter().flat_map(|folder| functions(&root().join(folder))).collect();
    check(|page, report| {
        for (span, _) in page.spans() {
            let is_test = is_name(&span) && !span.contains(':') && span.matches('_').count() > UNDERSCORES;
            if is_test && !known.iter().any(|name| name.ends_with(&format!("::{span}"))) {
                report(format!("there is no test `{span}`"));
            }
        }
    });
}

/// What CONTRIBUTING.md quotes of the source is there, line by line.
#[test]
fn quoted_code_is_in_the_source() {
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let sources = files(&root().join("src"), ".rs").into_iter().map(|path| fs::read_to_string(path).unwrap());
    let known: BTreeSet<String> =
        sources.flat_map(|source| Vec::from_iter(source.lines().map(|line| line.trim().to_owned()))).collect();
    let quoted: Vec<&str> =
        text.split("```rust\n").skip(1).flat_map(|rest| rest.split("```").next().unwrap().lines()).collect();
    let missing: Vec<&&str> =
        quoted.iter().filter(|line| line.trim() != "// ..." && !known.contains(line.trim())).collect();
    assert!(quoted.len() > 40 && missing.is_empty(), "{missing:#?}");
}
