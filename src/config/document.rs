//! The files of a configuration: FILE and the fragments in the folder `conf.d` next to it, merged in order.
//!
//! Owns which files are read and in which order, and finds the file, line and column of every value. Only a file named
//! `edgewatt.toml` has fragments, so that a file that is tried out under another name is read alone.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Root, version};
use crate::schema::expanded::Table;
use crate::schema::{Checker, Key, Misfit, Offsets, Problem, merge, misfits, parse, show, span_of};
use crate::sys::file;
use crate::text::hex;

/// The name that a file must have to be read with fragments.
const WITH_FRAGMENTS: &str = "edgewatt.toml";
/// The folder of the fragments, next to the file.
const FRAGMENTS: &str = "conf.d";
/// The largest file that is read: more than any configuration, and less than memory.
const MAX_BYTES: u64 = 16 << 20;
/// The name of what is written to this program itself, which may be a pipe.
const STDIN: &str = "/dev/stdin";

/// The texts of a configuration's files, kept so that later stages can point into them.
#[derive(Debug)]
pub struct Document {
    /// The configuration file, then its fragments in the order of their names.
    texts: Vec<SourceText>,
    folder: PathBuf,
}

#[derive(Debug)]
struct SourceText {
    path: PathBuf,
    text: String,
}

impl Document {
    /// Takes a text as the configuration file at `path`, without fragments.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self::of(vec![SourceText { path: path.into(), text: text.into() }])
    }

    /// Reads the file, and its fragments if it is named `edgewatt.toml`.
    ///
    /// # Errors
    /// A file cannot be read, or is not UTF-8 text.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut texts = Vec::new();
        let mut problems = Vec::new();
        let mut take = |path: PathBuf, read: Result<String, String>| match read {
            Ok(text) => texts.push(SourceText { path, text }),
            Err(problem) => problems.push(problem),
        };
        take(path.to_owned(), read_text(path, "the configuration"));
        match fragments(path) {
            Ok(fragments) => fragments.into_iter().for_each(|path| {
                let read = read_text(&path, "the fragment");
                take(path, read);
            }),
            Err(problem) => problems.push(problem),
        }
        if problems.is_empty() { Ok(Self::of(texts)) } else { Err(ConfigError { problems }) }
    }

    /// Returns the same with what must be written, but is not used where only sources run: a broker, and for each pipeline a
    /// window, a model and a decision.
    pub fn for_sources(mut self) -> Self {
        const UNUSED: [(&str, &str); 3] =
            [("window", "{ samples = 1, hop = 1 }"), ("model", "{ path = 'none' }"), ("decision", "{ raw = {} }")];
        // What is wrong with the files is said when they are parsed.
        let Ok(merged) = self.merged() else { return self };
        let mut text = String::new();
        let root = merged.get_ref();
        let lacks = |table: &Spanned<DeValue<'_>>, key: &str| {
            table.get_ref().as_table().is_some_and(|table| !table.contains_key(key))
        };
        if root.get("mqtt").is_none_or(|mqtt| lacks(mqtt, "broker")) {
            text.push_str("mqtt.broker = 'none'\n");
        }
        let pipelines = root.get("pipelines").and_then(|pipelines| pipelines.get_ref().as_table());
        for (name, pipeline) in pipelines.into_iter().flatten() {
            let name = toml::Value::String(name.get_ref().to_string());
            for (key, value) in UNUSED.iter().filter(|(key, _)| lacks(pipeline, key)) {
                text.push_str(&format!("pipelines.{name}.{key} = {value}\n"));
            }
        }
        let path = self.texts.first().map_or_else(PathBuf::new, |first| first.path.clone());
        drop(merged);
        self.texts.push(SourceText { path, text });
        self
    }

    fn of(texts: Vec<SourceText>) -> Self {
        let folder = texts.first().and_then(|first| first.path.parent()).unwrap_or(Path::new("")).to_owned();
        Self { texts, folder }
    }

    /// Returns the files with their texts, in the order in which they are merged.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.texts.iter().map(|source| (source.path.as_path(), source.text.as_str()))
    }

    pub(super) fn checker(&self) -> Checker {
        Checker::new(&self.folder)
    }

    /// Reads the tables and keys; their values are not checked yet.
    pub(super) fn root(&self) -> Result<Root, ConfigError> {
        let merged = self.merged()?;
        let misfits = misfits(&merged, &Root::doc(), version::REMOVED);
        if !misfits.is_empty() {
            let shown = |misfit: &Misfit| self.show(Some(misfit.span.clone()), &misfit.message);
            return Err(ConfigError { problems: misfits.iter().map(shown).collect() });
        }
        let unreadable = |error: toml::de::Error| ConfigError {
            problems: vec![self.show(error.span(), "edgewatt cannot use this value here")],
        };
        Root::deserialize(toml::Deserializer::from(merged)).map_err(unreadable)
    }

    /// Merges the files, each of which must have the version that this program reads.
    fn merged(&self) -> Result<Spanned<DeTable<'_>>, ConfigError> {
        let texts: Vec<&str> = self.files().map(|(_, text)| text).collect();
        let shown = |index: usize, span: Option<Range<usize>>, message: &str| {
            let SourceText { path, text } = &self.texts[index];
            show(path, text, span, message)
        };
        let tables = parse(&texts).map_err(|errors| {
            let problems = errors.iter().map(|(index, (span, message))| shown(*index, span.clone(), message)).collect();
            ConfigError { problems }
        })?;
        let refused = |(index, table): (usize, &Spanned<DeTable<'_>>)| {
            let (span, message) = version::check(table.get_ref()).err()?;
            Some(shown(index, Some(span), &message))
        };
        let problems: Vec<String> = tables.iter().enumerate().filter_map(refused).collect();
        if problems.is_empty() {
            Ok(merge(tables, &self.offsets(), &Root::doc()))
        } else {
            Err(ConfigError { problems })
        }
    }

    /// Shows each problem with the value at its key.
    pub(crate) fn refusal(&self, problems: &[Problem]) -> ConfigError {
        let merged = self.merged().ok();
        let span = |key: &Key| merged.as_ref().and_then(|table| span_of(table.get_ref(), key));
        let shown = |problem: &Problem| self.show(span(&problem.key), &format!("{}: {}", problem.key, problem.message));
        ConfigError { problems: problems.iter().map(shown).collect() }
    }

    /// Shows a message at a span of the merged files.
    fn show(&self, span: Option<Range<usize>>, message: &str) -> String {
        let (index, span) = match span {
            Some(span) => {
                let (index, span) = self.offsets().place(span);
                (index, Some(span))
            }
            None => (0, None),
        };
        let source = self.texts.get(index).or(self.texts.first());
        source.map_or_else(|| message.to_owned(), |SourceText { path, text }| show(path, text, span, message))
    }

    fn offsets(&self) -> Offsets {
        Offsets::new(self.files().map(|(_, text)| text))
    }

    /// Returns the SHA-256 of the file's text, and of its fragments with their names; the first 12 hex digits.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for (index, (path, text)) in self.files().enumerate() {
            if index > 0 {
                // No text of TOML has a zero byte, so no two sets of files make the same bytes.
                let name = path.file_name().unwrap_or_default();
                [b"\0", name.as_bytes(), b"\0"].iter().for_each(|part| hash.update(part));
            }
            hash.update(text.as_bytes());
        }
        hex(&hash.finalize()[..6])
    }
}

/// Returns the fragments of the file at `path`, in the order of their names' bytes.
pub(crate) fn fragments(path: &Path) -> Result<Vec<PathBuf>, String> {
    if path.file_name() != Some(OsStr::new(WITH_FRAGMENTS)) {
        return Ok(Vec::new());
    }
    let folder = path.with_file_name(FRAGMENTS);
    let failed = |error: io::Error| format!("{}: cannot read the folder of fragments: {error}", folder.display());
    let entries = match std::fs::read_dir(&folder) {
        // A symbolic link that leads nowhere is a mistake; no folder is none.
        Err(error) if error.kind() == ErrorKind::NotFound && folder.symlink_metadata().is_err() => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(failed)?,
    };
    let mut fragments = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if is_fragment(&name) {
            fragments.push(folder.join(name));
        }
    }
    fragments.sort_unstable_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(fragments)
}

/// Whether a file of that name is a fragment: hidden files, and what editors and dpkg leave, are not.
fn is_fragment(name: &OsStr) -> bool {
    name.as_bytes().ends_with(b".toml") && !name.as_bytes().starts_with(b".")
}

/// Reads a text, which must be a regular file: to read a FIFO could wait for a writer that never comes. `what` it is.
fn read_text(path: &Path, what: &str) -> Result<String, String> {
    let failed = |error: io::Error| format!("{}: cannot read {what}: {error}", path.display());
    let bytes = if path == Path::new(STDIN) {
        let mut bytes = Vec::new();
        io::stdin().take(MAX_BYTES).read_to_end(&mut bytes).map(|_| bytes)
    } else {
        file::read(path, MAX_BYTES)
    };
    let bytes = bytes.map_err(failed)?;
    if let Some(encoding) = utf_16(&bytes) {
        let shown = path.display();
        return Err(format!(
            "{shown}: this file is {encoding}; save it as UTF-8, or run: iconv -f {encoding} -t UTF-8 {shown}"
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..place]).into_owned();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        let latin = error.as_bytes().get(place).map(|byte| char::from(*byte)).filter(|c| !c.is_control());
        let latin =
            latin.map_or_else(String::new, |c| format!("; in Latin-1 it would be `{c}`: iconv -f LATIN1 -t UTF-8"));
        format!("{}:{line}:{column}: this byte is not UTF-8; save the file as UTF-8{latin}", path.display())
    })
}

/// Returns the encoding of a text in UTF-16, as some editors and shells of Windows write it.
fn utf_16(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [first, 0, second, 0, ..] if *first != 0 && *second != 0 => Some("UTF-16LE"),
        [0, first, 0, second, ..] if *first != 0 && *second != 0 => Some("UTF-16BE"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs::{self, File};
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::super::Config;
    use super::*;

    const MAIN: &str = "[mqtt]\nbroker = 'mqtt://127.0.0.1'\n\n[pipelines.arm]\nwindow = { samples = 4, hop = 2 }\n\
                        model.path = 'a.tflite'\ndecision.raw = {}\ndelegate = 'cpu'\n\n[pipelines.arm.source.lines]\n\
                        from = 'stdin'\nrecords = { channels = ['x'] }\n";

    struct Folder(TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(TempDir::new().unwrap());
            fs::write(folder.main(), MAIN).unwrap();
            fs::create_dir(folder.0.path().join(FRAGMENTS)).unwrap();
            folder
        }

        fn with(fragments: &[(&str, &str)]) -> Self {
            let folder = Self::new();
            fragments.iter().for_each(|(name, text)| fs::write(folder.fragment(name), text).unwrap());
            folder
        }

        fn main(&self) -> PathBuf {
            self.0.path().join("edgewatt.toml")
        }

        fn fragment(&self, name: impl AsRef<Path>) -> PathBuf {
            self.0.path().join(FRAGMENTS).join(name)
        }

        fn parse(&self) -> Result<Config, String> {
            Document::read(&self.main())
                .and_then(|document| document.parse(Some("host")))
                .map_err(|error| error.to_string().replace(&format!("{}/", self.0.path().display()), ""))
        }

        fn config(&self) -> Config {
            self.parse().unwrap_or_else(|error| panic!("{error}"))
        }

        /// The names of the fragments that were read.
        fn read(&self) -> Vec<String> {
            let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            self.config().files.iter().skip(1).map(name).collect()
        }

        fn refusal(&self) -> String {
            self.parse().map(drop).unwrap_err()
        }
    }

    #[test]
    fn fragments_are_merged_in_the_order_of_their_names_bytes() {
        let folder = Folder::with(&[
            ("9-b.toml", "[mqtt]\nkeep_alive_s = 9"),
            ("10-a.toml", "[mqtt]\nkeep_alive_s = 10\nqos = 0"),
            ("a.toml", "[pipelines.arm]\nmodel.path = 'b.tflite'"),
            (
                "Z.toml",
                "[pipelines.arm.source.udp]\nlisten = '[::]:5005'\nrecords = { channels = ['y'], columns = ['y'] }",
            ),
        ]);
        let config = folder.config();
        assert_eq!(folder.read(), ["10-a.toml", "9-b.toml", "Z.toml", "a.toml"]);
        assert_eq!(config.files[0], folder.main());
        assert_eq!((config.mqtt.keep_alive.as_secs(), config.mqtt.qos), (9, 0));
        // Relative paths count from the folder of the file, not from that of the fragment.
        assert_eq!(config.pipelines[0].model, folder.0.path().join("b.tflite"));
        assert_eq!(config.pipelines[0].source.name(), "udp");
    }

    #[test]
    fn only_the_files_that_are_meant_are_read() {
        let names = [
            "a.toml~",
            ".a.toml",
            ".toml",
            "a.toml.bak-1",
            "a.toml.dpkg-new",
            "a.TOML",
            "README",
            "#a.toml#",
            "a.conf",
        ];
        let folder = Folder::with(&names.map(|name| (name, "this is not TOML")));
        fs::create_dir(folder.fragment("old")).unwrap();
        symlink("/nowhere", folder.fragment(".#a.toml")).unwrap();
        assert_eq!(folder.read(), Vec::<String>::new());
        // A file under another name is read alone.
        fs::write(folder.fragment("a.toml"), "[mqtt]\nqos = 0").unwrap();
        let other = folder.0.path().join("demo.toml");
        fs::copy(folder.main(), &other).unwrap();
        assert_eq!(Document::read(&other).unwrap().files().count(), 1);
        assert_eq!(Document::read(&folder.main()).unwrap().files().count(), 2);
        // Without a folder there are none.
        fs::remove_dir_all(folder.0.path().join(FRAGMENTS)).unwrap();
        assert_eq!(folder.read(), Vec::<String>::new());
    }

    #[test]
    fn a_mistake_is_shown_in_the_file_where_it_stands() {
        let shown = |fragment: &str, expected: &str| {
            let refusal = Folder::with(&[("05-fine.toml", "[mqtt]\nqos = 1\n"), ("10-x.toml", fragment)]).refusal();
            assert!(refusal.starts_with(expected), "{fragment}: {refusal}");
        };
        shown("\n[mqtt]\nqso = 1\n", "conf.d/10-x.toml:3:1: mqtt: unknown key `qso`; did you mean `qos`?");
        shown("[mqtt]\n  qos = 'x'\n", "conf.d/10-x.toml:2:9: mqtt.qos: this is a string, expected a whole number");
        shown("[mqtt]\nkeep_alive_s = 1\n", "conf.d/10-x.toml:2:16: mqtt.keep_alive_s: 1 is out of range");
        shown("[mqtt]\nqos = \n", "conf.d/10-x.toml:2:7: ");
        shown(
            "version = 2\n[mqtt]\nqso = 1\n",
            "conf.d/10-x.toml:1:11: version: this edgewatt reads version 1; a newer",
        );
        // Checks between keys and tables.
        shown("# é\nmqtt.retry_min_ms = 40000\n", "conf.d/10-x.toml:2:21: mqtt.retry_min_ms: 40000 is above");
        shown("[pipelines.arm]\ndelegate = 'npu'\n", "conf.d/10-x.toml:2:12: pipelines.arm.delegate: there is no");
        shown(
            "[pipelines.leg]\nwindow = { samples = 4, hop = 2 }\nmodel.path = 'a'\ndecision.raw = {}\n\
             [pipelines.leg.source.lines]\nfrom = 'stdin'\nrecords = { channels = ['x'] }\n",
            "conf.d/10-x.toml:6:8: pipelines.leg.source.lines.from: pipeline arm reads from there already",
        );
        shown(
            "[pipelines.leg]\nmodel.path = 'a'\n",
            "conf.d/10-x.toml:1:1: pipelines.leg.source: this key is missing; write one of source.",
        );
        shown(
            "[pipelines.arm.source.udp]\nlisten = ':1'\n",
            "conf.d/10-x.toml:1:1: pipelines.arm.source.udp: write exactly one of records, bytes and packets",
        );
        shown(
            "[pipelines.arm.decision]\nregress = { names = [] }\nclassify = {}\n",
            "conf.d/10-x.toml:1:1: pipelines.arm.decision: write exactly",
        );
        shown("[pipelines.arm.window]\nhop = 0\n", "conf.d/10-x.toml:2:7: pipelines.arm.window.hop: 0 is out of range");
        shown("[[pipelines.arm.features]]\nscale.factor = []\n", "conf.d/10-x.toml:");
        shown("[mqtt]\nqos = 0\n[delegates.a]\n", "conf.d/10-x.toml:3:1: delegates.a: write exactly one of cpu");
    }

    #[test]
    fn the_broken_files_are_reported_together() {
        let folder = Folder::with(&[("a.toml", "[mqtt"), ("b.toml", "x"), ("c.toml", "[mqtt]\nqos = 0")]);
        let refusal = folder.refusal();
        assert!(refusal.starts_with("conf.d/a.toml:1:6: ") && refusal.contains("\nconf.d/b.toml:1:2: "), "{refusal}");
        assert!(!refusal.contains("c.toml") && !refusal.contains("edgewatt.toml:"), "{refusal}");
    }

    #[test]
    fn a_fragment_that_cannot_be_read_is_an_error_that_names_it() {
        let folder = Folder::new();
        fs::create_dir(folder.fragment("a.toml")).unwrap();
        fs::write(folder.fragment("b.toml"), b"[mqtt]\n# \xff\n").unwrap();
        symlink("c.toml", folder.fragment("c.toml")).unwrap();
        symlink("/nowhere", folder.fragment("d.toml")).unwrap();
        nix::unistd::mkfifo(&folder.fragment("e.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("/dev/zero", folder.fragment("f.toml")).unwrap();
        let large = File::create(folder.fragment("g.toml")).unwrap();
        large.set_len(MAX_BYTES + 1).unwrap();
        let refusal = folder.refusal();
        let lines: Vec<&str> = refusal.lines().collect();
        let expected = [
            "conf.d/a.toml: cannot read the fragment: it is a folder, not a regular file",
            "conf.d/b.toml:2:3: this byte is not UTF-8",
            "conf.d/c.toml: cannot read the fragment: Too many levels of symbolic links",
            "conf.d/d.toml: cannot read the fragment: No such file",
            "conf.d/e.toml: cannot read the fragment: it is a FIFO, not a regular file",
            "conf.d/f.toml: cannot read the fragment: it is a device, not a regular file",
            "conf.d/g.toml: cannot read the fragment: it has 16777217 bytes; the most that edgewatt reads is 16 MiB",
        ];
        assert_eq!(lines.len(), expected.len(), "{refusal}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}, not {expected}");
        }
    }

    #[test]
    fn a_folder_of_fragments_that_cannot_be_read_is_an_error() {
        let folder = Folder::new();
        let place = folder.0.path().join(FRAGMENTS);
        fs::remove_dir(&place).unwrap();
        fs::write(&place, "").unwrap();
        assert!(folder.refusal().starts_with("conf.d: cannot read the folder of fragments: Not a directory"));
        fs::remove_file(&place).unwrap();
        symlink("/nowhere", &place).unwrap();
        assert!(folder.refusal().starts_with("conf.d: cannot read the folder of fragments: No such file"));
    }

    #[test]
    fn texts_from_other_editors_are_read_as_they_are() {
        let folder = Folder::with(&[
            ("a.toml", ""),
            ("b.toml", "# Nothing.\n\n"),
            ("c.toml", "\u{feff}[mqtt]\r\nqos = 0\r\n"),
            ("d.toml", "\n\n\n"),
        ]);
        let name = OsString::from_vec(b"e-\xff.toml".to_vec());
        fs::write(folder.fragment(&name), "[mqtt]\nkeep_alive_s = 9").unwrap();
        let config = folder.config();
        assert_eq!((config.mqtt.qos, config.mqtt.keep_alive.as_secs(), config.files.len()), (0, 9, 6));
        fs::write(folder.fragment("c.toml"), "\u{feff}[mqtt]\r\nqos = 2\r\n").unwrap();
        let refusal = folder.refusal();
        assert!(refusal.starts_with("conf.d/c.toml:2:7: mqtt.qos: 2 is not supported"), "{refusal}");
        assert!(refusal.contains(" 2 | qos = 2\n") && !refusal.contains('\r'), "{refusal:?}");
    }

    #[test]
    fn a_thousand_fragments_are_merged() {
        let folder = Folder::new();
        for number in 0..1000 {
            let text = format!(
                "mqtt.keep_alive_s = {}\n[power.meters.m{number}]\nestimate.watts_per_core = 1.0\nestimate.idle_watts = 1.0\n",
                number + 2
            );
            fs::write(folder.fragment(format!("{number:03}.toml")), text).unwrap();
        }
        let config = folder.config();
        assert_eq!(
            (config.mqtt.keep_alive.as_secs(), config.power.meters.len(), config.files.len()),
            (1001, 1000, 1001)
        );
        fs::write(
            folder.fragment("500.toml"),
            "\n[power.meters.m500]\nestimate.watts_per_core = -1.0\nestimate.idle_watts = 1.0\n",
        )
        .unwrap();
        assert!(folder.refusal().starts_with("conf.d/500.toml:3:27: power.meters.m500.estimate.watts_per_core: -1 is"));
    }

    #[test]
    fn the_hash_is_of_all_files_with_their_names() {
        let hash = |fragments: &[(&str, &str)]| Folder::with(fragments).config().hash;
        let alone = hash(&[]);
        let digest = Sha256::digest(MAIN.as_bytes());
        assert_eq!(alone, digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>());
        let hashes = [
            alone,
            hash(&[("a.toml", "")]),
            hash(&[("b.toml", "")]),
            hash(&[("a.toml", "mqtt.qos = 0\n")]),
            hash(&[("a.toml", "mqtt.qos = 0\n"), ("b.toml", "")]),
            hash(&[("a.toml", ""), ("b.toml", "mqtt.qos = 0\n")]),
        ];
        for (index, one) in hashes.iter().enumerate() {
            assert!(!hashes[index + 1..].contains(one), "{hashes:?}");
        }
        assert_eq!(hash(&[("a.toml", "")]), hashes[1]);
    }
}
