//! The modules of `src` as a graph: data flows one way through it.
//!
//! src/lib.rs lists the rooms in the order in which data passes through them. A module may use its own room and those
//! before it, never a later one; and no modules may use each other in a circle. A parent that names its children, and a
//! child that uses its parent's types, are one thing and not a circle. Tests inside modules may use anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use edgewatt_support::root;

type Module = Vec<String>;

/// The modules, each with those that it uses.
struct Graph(BTreeMap<Module, BTreeSet<Module>>);

impl Graph {
    fn read() -> Self {
        let source = root().join("src");
        let mut files = Vec::new();
        collect(&source, &mut files);
        let modules: BTreeMap<Module, String> = files
            .iter()
            .map(|file| (module_of(file.strip_prefix(&source).unwrap()), std::fs::read_to_string(file).unwrap()))
            .filter(|(module, _)| !module.iter().any(|part| part == "tests"))
            .collect();
        let known: BTreeSet<Module> = modules.keys().cloned().collect();
        let edges = |module: &Module, text: &str| -> BTreeSet<Module> {
            let code = without_tests_and_comments(text);
            let paths = paths_in(&code, module);
            let mut used: BTreeSet<Module> = paths.iter().filter_map(|path| deepest(path, &known)).collect();
            used.remove(module);
            used
        };
        Self(modules.iter().map(|(module, text)| (module.clone(), edges(module, text))).collect())
    }

    /// A circle of modules of which none is an ancestor of the next, if there is one.
    fn circle(&self) -> Option<Vec<Module>> {
        let mut done = BTreeSet::new();
        self.0.keys().find_map(|start| self.circle_from(start, &mut Vec::new(), &mut done))
    }

    fn circle_from(&self, at: &Module, path: &mut Vec<Module>, done: &mut BTreeSet<Module>) -> Option<Vec<Module>> {
        if let Some(begin) = path.iter().position(|module| module == at) {
            return Some(path[begin..].to_vec());
        }
        if done.contains(at) {
            return None;
        }
        path.push(at.clone());
        let used = self.0.get(at).into_iter().flatten().filter(|used| !is_family(at, used));
        let found = used.cloned().collect::<Vec<_>>().iter().find_map(|used| self.circle_from(used, path, done));
        path.pop();
        done.insert(at.clone());
        found
    }
}

/// One of the two is above the other.
fn is_family(a: &Module, b: &Module) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `publish/mqtt/mod.rs` and `publish/mqtt.rs` are the module `publish::mqtt`; `lib.rs` is the root.
fn module_of(file: &Path) -> Module {
    let mut parts: Module = file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

fn without_tests_and_comments(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let bare = line.trim_start();
        if bare == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.trim_start().contains("mod tests")) {
            // Tests stand at the end.
            break;
        }
        if !bare.starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// Every path in the code that begins with `crate`, `super` or `self`, groups in braces written out.
fn paths_in(code: &str, module: &Module) -> Vec<Module> {
    let mut paths = Vec::new();
    for keyword in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(keyword) {
            // Not the end of another name, nor a second `super`.
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            expand(&code[at..], &mut Vec::new(), &mut paths);
        }
    }
    let absolute = |path: Module| -> Option<Module> {
        let mut base = if path[0] == "crate" { Vec::new() } else { module.clone() };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => _ = base.pop()?,
                _ => base.push(part),
            }
        }
        Some(base)
    };
    paths.into_iter().filter_map(absolute).collect()
}

/// Reads one path, or a group of them, from the beginning of `text`; returns what is left.
fn expand<'a>(text: &'a str, before: &mut Module, paths: &mut Vec<Module>) -> &'a str {
    let name_end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(name_end);
    if !name.is_empty() {
        before.push(name.to_owned());
    }
    let depth = usize::from(!name.is_empty());
    let rest = if let Some(rest) = rest.strip_prefix("::{") {
        let mut rest = rest.trim_start();
        while !rest.is_empty() && !rest.starts_with('}') {
            rest = expand(rest, before, paths).trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            if let Some(renamed) = rest.strip_prefix("as ") {
                let end = renamed.find([',', '}']).unwrap_or(renamed.len());
                rest = renamed[end..].trim_start_matches(',').trim_start();
            }
            // Something else than a list of paths.
            if !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '}' | '*')) {
                break;
            }
            rest = rest.strip_prefix('*').unwrap_or(rest);
        }
        rest.strip_prefix('}').unwrap_or(rest)
    } else if rest.starts_with("::") && rest[2..].starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        expand(&rest[2..], before, paths)
    } else {
        paths.push(before.clone());
        rest
    };
    before.truncate(before.len() - depth);
    rest
}

/// The module that a path leads into.
fn deepest(path: &Module, known: &BTreeSet<Module>) -> Option<Module> {
    (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|module| known.contains(module))
}

/// The rooms, in the order of src/lib.rs.
fn rooms() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let room = |line: &str| {
        let declared =
            line.strip_prefix("pub mod ").or(line.strip_prefix("mod ")).or(line.strip_prefix("pub(crate) mod "))?;
        Some(declared.strip_suffix(';')?.to_owned())
    };
    text.lines().filter_map(room).collect()
}

fn shown(module: &Module) -> String {
    module.join("::")
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    let graph = Graph::read();
    assert!(graph.0.len() > 150, "only {} modules were found", graph.0.len());
    if let Some(circle) = graph.circle() {
        panic!("a circle: {}", circle.iter().chain(&circle[..1]).map(shown).collect::<Vec<_>>().join(" -> "));
    }
}

#[test]
fn no_module_uses_a_later_room() {
    let rooms = rooms();
    let place = |module: &Module| rooms.iter().position(|room| Some(room) == module.first());
    let graph = Graph::read();
    let mut wrong = Vec::new();
    for (module, used) in &graph.0 {
        for used in used {
            if let (Some(ours), Some(theirs)) = (place(module), place(used))
                && theirs > ours
            {
                wrong.push(format!("{} uses {}", shown(module), shown(used)));
            }
        }
    }
    assert!(wrong.is_empty(), "modules that use a later room of src/lib.rs:\n{}", wrong.join("\n"));
}

#[test]
fn groups_renames_and_nested_paths_are_seen() {
    let module = vec!["a".to_owned(), "b".to_owned()];
    let code = "use crate::{x::{y, z as w}, v};\nuse super::c::D;\nlet e = crate::q::r::S::new(super::super::t());";
    let mut paths: Vec<String> = paths_in(code, &module).iter().map(|path| path.join("::")).collect();
    paths.sort();
    assert_eq!(paths, ["a::c::D", "q::r::S::new", "t", "v", "x::y", "x::z"]);
}
