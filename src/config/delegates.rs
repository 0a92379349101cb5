//! The tables `[delegates.NAME]`: the keys that all kinds share, and how a pipeline finds its delegate.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::engine::DelegateKind;
use crate::engine::delegate::{Isolation, Restarts};
use crate::engine::process::ProcessLimits;
use crate::schema::expanded::Table;
use crate::schema::{Checker, Key, milliseconds, seconds, table};

const START_TIMEOUT_S: f64 = 60.0;
const DEADLINE_MS: f64 = 2000.0;
const MEMORY_MIB: u64 = 4096;
const RESTARTS: u32 = 5;
const RESTARTS_PER_S: f64 = 60.0;

table! {
    /// A delegate, under a name that you choose: one kind, and how it is kept apart from the daemon. "cpu" and "xnnpack" with
    /// one thread each are built in and need no table.
    pub struct DelegateKeys {
        /// Where the delegate runs: in a separate process, or in a thread of the daemon. A crash in a thread ends the
        /// daemon.
        pub isolation: Option<Isolation>, example("\"process\""),
            otherwise("\"thread\" for cpu and xnnpack, which come with the runtime; else \"process\"");
        /// The longest time until the first inference in a process is done. Some delegates compile the model in that time.
        pub start_timeout_s: Option<f64>, default(format!("{START_TIMEOUT_S:?}")), range(1.0, 86_400.0), unit("s");
        /// The longest time for one inference in a process after that.
        pub deadline_ms: Option<f64>, default(format!("{DEADLINE_MS:?}")), range(1.0, 600_000.0), unit("ms");
        /// The largest address space of the process.
        pub memory_mib: Option<u64>, default(MEMORY_MIB.to_string()), range(64, 1 << 20), unit("MiB");
        /// The folders and files that the process may write to, in addition to devices and temporary files.
        pub writable: Option<Vec<PathBuf>>, default("[]".to_owned());
        /// How often a delegate that fails is started again.
        pub restarts: RestartKeys;
        family pub kind: DelegateKind;
    }
}

table! {
    /// How often a delegate that fails is started again. After one more failure within that time, the fallback takes over.
    pub struct RestartKeys {
        /// The most restarts in that time. With 0 the fallback takes over at the first failure.
        pub max: u32 = RESTARTS, range(0, 1000);
        /// The time in which restarts are counted.
        pub per_s: f64 = RESTARTS_PER_S, range(1.0, 86_400.0), unit("s");
    }
}

/// A delegate by the name under which the pipeline asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Delegate {
    pub name: String,
    pub kind: DelegateKind,
    /// The limits of its own process; `None`: it runs on the infer thread.
    pub process: Option<ProcessLimits>,
    pub restarts: Restarts,
}

impl Delegate {
    /// Returns the delegate of that name that needs no entry in the configuration.
    pub fn built_in(name: &str) -> Option<Self> {
        let restarts = Restarts { max: RESTARTS, per: seconds(RESTARTS_PER_S) };
        DelegateKind::built_in(name).map(|kind| Self { name: name.to_owned(), kind, process: None, restarts })
    }
}

impl DelegateKeys {
    /// Checks the table of the delegate `name`.
    pub fn checked(mut self, name: String, checker: &mut Checker) -> Delegate {
        let key = Key::new(&["delegates", &name]);
        if DelegateKind::built_in(&name).is_some() {
            checker.problem(&key, format!("`{name}` is built in; choose another name for a delegate of your own"));
        }
        checker.topic_level(&key, &name);
        self.kind.check(&key, checker);
        self.check_ranges(&key, checker);
        self.restarts.check_ranges(&key.child("restarts"), checker);
        let isolation = self.isolation.unwrap_or(self.kind.kind().default_isolation());
        if isolation == Isolation::Thread {
            self.check_unlimited(&key, checker);
        }
        let process = (isolation == Isolation::Process).then(|| self.limits(checker));
        let restarts = Restarts { max: self.restarts.max, per: seconds(self.restarts.per_s) };
        Delegate { name, kind: self.kind, process, restarts }
    }

    /// Keys that limit a process would do nothing without one.
    fn check_unlimited(&self, key: &Key, checker: &mut Checker) {
        let unused = [
            ("start_timeout_s", self.start_timeout_s.is_some()),
            ("deadline_ms", self.deadline_ms.is_some()),
            ("memory_mib", self.memory_mib.is_some()),
            ("writable", self.writable.is_some()),
        ];
        for (name, _) in unused.into_iter().filter(|(_, is_set)| *is_set) {
            checker.problem(&key.child(name), "it limits a process; write isolation = \"process\"");
        }
    }

    fn limits(&self, checker: &Checker) -> ProcessLimits {
        ProcessLimits {
            start: seconds(self.start_timeout_s.unwrap_or(START_TIMEOUT_S)),
            deadline: milliseconds(self.deadline_ms.unwrap_or(DEADLINE_MS)),
            memory_bytes: self.memory_mib.unwrap_or(MEMORY_MIB) << 20,
            writable: self.writable.iter().flatten().map(|path| checker.path(path)).collect(),
        }
    }
}

/// Returns the delegate that is named at `key`, if there is one.
pub(crate) fn find(
    key: &Key,
    name: &str,
    delegates: &BTreeMap<String, Delegate>,
    checker: &mut Checker,
) -> Option<Delegate> {
    named(name, delegates).map_err(|message| checker.problem(key, message)).ok()
}

/// Returns the delegate of that name, built in or one of `delegates`; the error says which ones there are.
pub(crate) fn named(name: &str, delegates: &BTreeMap<String, Delegate>) -> Result<Delegate, String> {
    let found = Delegate::built_in(name).or_else(|| delegates.get(name).cloned());
    let known = || names(delegates).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("there is no delegate `{name}`; there are {}", known()))
}

/// Returns the names of the built-in delegates, then of these.
pub(crate) fn names(delegates: &BTreeMap<String, Delegate>) -> impl Iterator<Item = &str> {
    DelegateKind::built_in_names().map(|name| -> &str { name }).chain(delegates.keys().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use crate::config::Document;

    fn refusal(delegate: &str) -> String {
        let text = format!("[mqtt]\nbroker = \"embedded\"\n[pipelines]\n[delegates.tpu]\n{delegate}\n");
        Document::new("f.toml", text).delegate("tpu").map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_delegate_is_of_one_kind() {
        let one = "write exactly one of cpu, xnnpack, external and litert";
        for text in ["", "deadline_ms = 5", "cpu = {}\nxnnpack = {}", "cpu = {}\nlitert = { library = \"a\" }"] {
            let refusal = refusal(text);
            assert!(refusal.contains(one) && refusal.starts_with("f.toml:"), "{refusal}");
        }
        let unknown = refusal("gpu = {}");
        assert!(unknown.contains("unknown key `gpu`; the keys here are `isolation`"), "{unknown}");
        assert!(unknown.contains("`cpu`, `xnnpack`, `external` and `litert`"), "{unknown}");
        assert!(unknown.starts_with("f.toml:5:1: "), "{unknown}");
        let unknown = refusal("cpu = { thread = 1 }");
        assert!(
            unknown.starts_with("f.toml:5:9: delegates.tpu.cpu: unknown key `thread`; did you mean `threads`?"),
            "{unknown}"
        );
    }

    #[test]
    fn each_wrong_value_is_shown_at_its_key() {
        let at = |text: &str, expected: &str| {
            let refusal = refusal(text);
            assert!(refusal.starts_with(expected), "{refusal}");
        };
        at(
            "cpu = { threads = 0 }",
            "f.toml:5:19: delegates.tpu.cpu.threads: 0 is out of range; it must be from 1 to 256",
        );
        at("external = { library = \"\" }", "f.toml:5:24: delegates.tpu.external.library: name a file");
        at(
            "litert = { library = \"a\", accelerators = [] }",
            "f.toml:5:42: delegates.tpu.litert.accelerators: name one or more of",
        );
        at("xnnpack = {}\ndeadline_ms = 5", "f.toml:6:15: delegates.tpu.deadline_ms: it limits a process");
        at(
            "external = { library = \"a\" }\nrestarts = { max = 2000 }",
            "f.toml:6:20: delegates.tpu.restarts.max: 2000 is out of range",
        );
        at(
            "external = { library = \"a\" }\nmemory_mib = 1",
            "f.toml:6:14: delegates.tpu.memory_mib: 1 is out of range",
        );
    }
}
