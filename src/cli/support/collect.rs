//! What goes into the archive. Each part that cannot be had is a file that says why.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::archive::Entry;
use super::command::run;
use super::redact::Redactor;
use crate::cli::DEFAULT_CONFIG;
use crate::cli::health::{Asked, Report, ask};
use crate::config::{CREDENTIAL_FILE, Config, Document, fragments};
use crate::load::state_dir;
use crate::sys;
use crate::text::hex;

/// The folder in the archive.
pub(super) const FOLDER: &str = "edgewatt-support";
const UNIT: &str = "edgewatt";
/// The limits of time of other programs. doctor tries devices and the broker.
const DOCTOR: Duration = Duration::from_secs(90);
const JOURNAL: Duration = Duration::from_secs(20);
const OTHER: Duration = Duration::from_secs(10);
/// How long the daemon may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The most of a file that is read.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// A model that is larger is not hashed: it would take too long.
const MAX_MODEL_BYTES: u64 = 1 << 30;
const MAX_FRAGMENTS: usize = 64;
const README: &str = "\
This archive was made by `edgewatt support`, for a bug report.

Password files were not read. The configuration is without its comments. Hidden are: the names of the MQTT user and
client, the broker's host, users and passwords in URLs, values of names such as TOKEN, SECRET, PASSWORD or KEY, and words
that look like tokens. Not hidden are: names of nodes, pipelines and files, and everything that does not look like a
secret. A program cannot know every secret, so look through the files before you send them.
";

/// What is gathered, in the order of the archive.
struct Collection {
    redactor: Redactor,
    entries: Vec<Entry>,
}

impl Collection {
    /// Adds a text without its secrets, or the reason why there is no text.
    fn add(&mut self, name: &str, content: Result<String, String>) {
        let text = content.unwrap_or_else(|reason| format!("not available: {reason}\n"));
        let text = self.redactor.text(&text);
        self.put(name, text);
    }

    fn add_json(&mut self, name: &str, content: Result<Value, String>) {
        match content {
            Ok(mut value) => {
                self.redactor.json(&mut value);
                self.put(name, format!("{value:#}\n"));
            }
            Err(reason) => self.add(name, Err(reason)),
        }
    }

    /// Adds a text as it is.
    fn put(&mut self, name: &str, text: String) {
        self.entries.push(Entry { name: format!("{FOLDER}/{name}"), content: text.into_bytes() });
    }
}

/// Gathers everything about the machine, the program and the daemon with that configuration.
pub(super) fn collect(config_file: &Path) -> Vec<Entry> {
    let files: Vec<(PathBuf, Result<String, String>)> =
        config_files(config_file).into_iter().map(|path| (path.clone(), read(&path))).collect();
    let mut all = Collection { redactor: Redactor::default(), entries: Vec::new() };
    files.iter().filter_map(|(_, text)| text.as_ref().ok()).for_each(|text| all.redactor.learn(text));
    let parsed = Document::read(config_file).and_then(|document| document.parse(sys::hostname().as_deref()));
    let config = parsed.map_err(|error| format!("the configuration cannot be used: {error}"));

    all.put("README.txt", README.to_owned());
    let report = doctor(config_file, &["--json"]).and_then(|text| {
        serde_json::from_str(&text).map_err(|error| format!("doctor printed no JSON ({error}):\n{text}"))
    });
    all.add("versions.txt", Ok(versions(report.as_ref().ok())));
    all.add("doctor.txt", doctor(config_file, &[]));
    all.add_json("doctor.json", report);
    health(&mut all, config_file);
    configuration(&mut all, config_file, files);
    all.add("models.txt", config.as_ref().map(models).map_err(Clone::clone));
    all.add("log.txt", log());
    all.add("service/status.txt", systemctl(&["status", "--full", "--lines=0"]));
    all.add("service/unit.txt", systemctl(&["cat"]));
    all.add("service/properties.txt", systemctl(&["show", PROPERTIES]));
    all.add("machine/cpu.txt", read(Path::new("/proc/cpuinfo")).map(|text| cpu(&text)));
    all.add("machine/memory.txt", read(Path::new("/proc/meminfo")).map(|text| memory(&text)));
    all.add("machine/disk.txt", Ok(disk(config.as_ref().ok())));
    all.entries
}

/// Returns the files of a configuration: the file itself and its fragments. If these cannot be listed, doctor says so.
fn config_files(config_file: &Path) -> Vec<PathBuf> {
    let mut fragments = fragments(config_file).unwrap_or_default();
    fragments.truncate(MAX_FRAGMENTS);
    std::iter::once(config_file.to_owned()).chain(fragments).collect()
}

fn configuration(all: &mut Collection, config_file: &Path, files: Vec<(PathBuf, Result<String, String>)>) {
    let folder = config_file.parent().unwrap_or(Path::new(""));
    let named = all.redactor.files().iter().map(|file| folder.join(file)).chain([PathBuf::from(CREDENTIAL_FILE)]);
    let secret: Vec<PathBuf> = named.filter_map(|file| file.canonicalize().ok()).collect();
    for (path, text) in files {
        // A link to a password file is no fragment.
        let is_secret = path.canonicalize().is_ok_and(|path| secret.contains(&path));
        let text = if is_secret { Err("it is a file that the configuration names".to_owned()) } else { text };
        let name = path.file_name().map(|name| plain_name(&name.to_string_lossy())).unwrap_or_default();
        let folder = if path == config_file { "configuration" } else { "configuration/conf.d" };
        let content = text.map(|text| all.redactor.config(&text));
        let name = format!("{folder}/{name}");
        match content {
            Ok(text) => all.put(&name, text),
            Err(reason) => all.add(&name, Err(reason)),
        }
    }
}

/// Returns a name that is safe in an archive.
fn plain_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    name.trim_start_matches('.').chars().map(safe).take(48).collect()
}

/// Reads a file that is not a device or a FIFO; at most its beginning.
fn read(path: &Path) -> Result<String, String> {
    let fault = |error: std::io::Error| format!("{}: {error}", path.display());
    if !std::fs::metadata(path).map_err(fault)?.is_file() {
        return Err(format!("{}: not a plain file", path.display()));
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(fault)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(fault)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs `edgewatt doctor` in a separate process, because it loads vendors' libraries, which can crash.
fn doctor(config_file: &Path, args: &[&str]) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| format!("the path of this program: {error}"))?;
    let mut command = Command::new(program);
    command.arg("doctor").args(args);
    if config_file != Path::new(DEFAULT_CONFIG) || config_file.exists() {
        command.arg("--config").arg(config_file);
    }
    let ran = run(command, DOCTOR)?;
    let is_json = args.contains(&"--json") && !ran.stdout.is_empty();
    Ok(if is_json { ran.stdout } else { ran.text(DOCTOR) })
}

fn health(all: &mut Collection, config_file: &Path) {
    let asked = ask(config_file, ANSWER);
    let info = match &asked {
        Asked::Answered(answer) => answer.info.clone().ok_or_else(|| "the daemon has none yet".to_owned()),
        _ => Err("no daemon answers; health.json says why".to_owned()),
    };
    let report = Report::new(config_file, asked, false);
    all.add_json("health.json", serde_json::to_value(&report).map_err(|error| error.to_string()));
    all.add_json("info.json", info);
}

/// Returns the versions of all that matters; the runtime's is in doctor's report.
fn versions(doctor: Option<&Value>) -> String {
    let line = |path: &str| read(Path::new(path)).map(|text| text.trim_matches(['\0', '\n']).to_owned());
    let shown = |value: Result<String, String>| value.unwrap_or_else(|reason| format!("not available: {reason}"));
    let finding = |part: &str| {
        let findings = doctor?["findings"].as_array()?;
        findings.iter().find(|finding| finding["part"] == part)?["says"].as_str().map(str::to_owned)
    };
    let runtime = finding("runtime").ok_or_else(|| "doctor has not said it".to_owned());
    let getconf = || {
        let mut command = Command::new("getconf");
        command.arg("GNU_LIBC_VERSION");
        run(command, OTHER).map(|ran| ran.text(OTHER).trim().to_owned())
    };
    let model = line("/proc/device-tree/model").or_else(|_| line("/sys/class/dmi/id/product_name"));
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let mut text = format!("edgewatt {} for {arch}-{os}\n", env!("CARGO_PKG_VERSION"));
    for (name, value) in [
        ("kernel", line("/proc/sys/kernel/osrelease")),
        ("kernel's build", line("/proc/sys/kernel/version")),
        ("machine", model),
        ("TensorFlow Lite", runtime),
        ("C library", getconf()),
    ] {
        let _ = writeln!(text, "{name}: {}", shown(value));
    }
    let release = read(Path::new("/etc/os-release")).or_else(|_| read(Path::new("/usr/lib/os-release")));
    let _ = writeln!(text, "\n{}", shown(release));
    text
}

/// Returns size and SHA-256 of each model that the configuration names.
fn models(config: &Config) -> String {
    let mut text = String::new();
    for pipeline in &config.pipelines {
        for path in std::iter::once(&pipeline.model).chain(&pipeline.parity.reference_model) {
            let said = digest(path).map_or_else(
                |reason| format!("not available: {reason}"),
                |(bytes, sha256)| format!("{bytes} bytes, sha256 {sha256}"),
            );
            let _ = writeln!(text, "{}: {}: {said}", pipeline.name, path.display());
        }
    }
    text
}

fn digest(path: &Path) -> Result<(u64, String), String> {
    let fault = |error: std::io::Error| error.to_string();
    let metadata = std::fs::metadata(path).map_err(fault)?;
    if !metadata.is_file() {
        return Err("not a plain file".to_owned());
    }
    if metadata.len() > MAX_MODEL_BYTES {
        return Err(format!("{} bytes, too large to hash here", metadata.len()));
    }
    let mut file = File::open(path).map_err(fault)?.take(MAX_MODEL_BYTES);
    let (mut hash, mut piece, mut bytes) = (Sha256::new(), vec![0; 64 * 1024], 0);
    loop {
        match file.read(&mut piece).map_err(fault)? {
            0 => break,
            count => {
                hash.update(&piece[..count]);
                bytes += count as u64;
            }
        }
    }
    Ok((bytes, hex(&hash.finalize())))
}

/// Returns the service's last log lines.
fn log() -> Result<String, String> {
    let mut command = Command::new("journalctl");
    command.args(["--unit", UNIT, "--lines=500", "--no-pager", "--no-hostname", "--output=short-iso"]);
    let ran = run(command, JOURNAL)?.text(JOURNAL);
    let hint = "[If lines are missing: run this as root, or as a member of the group systemd-journal. A daemon that was not \
                started as the service logs to its standard error.]";
    Ok(format!("{ran}\n{hint}\n"))
}

/// What is asked of systemd: nothing of the environment.
const PROPERTIES: &str = "--property=LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts,MainPID,ExecMainStatus,\
     ExecMainCode,ActiveEnterTimestamp,InactiveEnterTimestamp,StatusText,WatchdogUSec,MemoryCurrent,MemoryMax,\
     CPUUsageNSec,TasksCurrent,FragmentPath,DropInPaths,NeedDaemonReload";

fn systemctl(args: &[&str]) -> Result<String, String> {
    let (verb, options) = args.split_first().ok_or_else(|| "nothing to ask".to_owned())?;
    let mut command = Command::new("systemctl");
    command.arg(verb).arg(UNIT).args(options).arg("--no-pager");
    Ok(run(command, OTHER)?.text(OTHER))
}

/// Returns what matters of /proc/cpuinfo, each line once; not the serial number.
fn cpu(text: &str) -> String {
    const NAMES: [&str; 11] = [
        "model name",
        "Model",
        "Hardware",
        "Revision",
        "vendor_id",
        "CPU implementer",
        "CPU architecture",
        "CPU variant",
        "CPU part",
        "flags",
        "Features",
    ];
    let processors = text.lines().filter(|line| line.starts_with("processor")).count();
    let mut lines = vec![format!("processors: {processors}")];
    for line in text.lines() {
        let name = line.split(':').next().unwrap_or_default().trim();
        if NAMES.contains(&name) && !lines.iter().any(|known| known == line) {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n") + "\n"
}

fn memory(text: &str) -> String {
    const NAMES: [&str; 7] = ["MemTotal", "MemFree", "MemAvailable", "SwapTotal", "SwapFree", "CmaTotal", "CmaFree"];
    let wanted = |line: &&str| line.split(':').next().is_some_and(|name| NAMES.contains(&name));
    text.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

/// Returns the free space of the state folder, and how large the files in it are; never what is in them.
fn disk(config: Option<&Config>) -> String {
    let folder = state_dir::folder(config.and_then(|config| config.state_dir.as_deref()));
    let mut text = format!("state folder: {}\n", folder.display());
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let said = statvfs(there).map_or_else(
        |errno| format!("not available: {errno}"),
        |stat| {
            #[allow(clippy::useless_conversion, reason = "they are 32 bits wide on some machines")]
            let mib = |blocks| u64::from(blocks).saturating_mul(u64::from(stat.fragment_size())) >> 20;
            format!("{} of {} MiB free", mib(stat.blocks_available()), mib(stat.blocks()))
        },
    );
    let _ = writeln!(text, "disk of {}: {said}", there.display());
    let store = config.and_then(|config| config.mqtt.store.as_ref());
    let file = state_dir::store_file(store.and_then(|store| store.path.as_deref()), &folder);
    for suffix in ["", "-wal", "-shm"] {
        let mut path = file.as_os_str().to_owned();
        path.push(suffix);
        let said = std::fs::metadata(&path)
            .map_or_else(|error| error.to_string(), |metadata| format!("{} bytes", metadata.len()));
        let _ = writeln!(text, "store {}: {said}", Path::new(&path).display());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_described_without_its_serial_number() {
        let text = "processor\t: 0\nmodel name\t: ARM v7\nFeatures\t: neon\n\nprocessor\t: 1\nmodel name\t: ARM v7\n\n\
                    Hardware\t: BCM2835\nSerial\t\t: 00000000deadbeef\nModel\t\t: Raspberry Pi 3\n";
        let shown = cpu(text);
        let expected =
            "processors: 2\nmodel name\t: ARM v7\nFeatures\t: neon\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 3\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn names_in_the_archive_are_plain() {
        assert_eq!(plain_name("..10 é/x\n.toml"), "10___x_.toml");
        assert_eq!(plain_name(&"x".repeat(300)).len(), 48);
    }

    #[test]
    fn fragments_are_taken_by_name_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("edgewatt.toml");
        assert_eq!(config_files(&config), std::slice::from_ref(&config));
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        for name in ["20-b.toml", "10-a.toml", "password", "x.toml~"] {
            std::fs::write(dir.path().join("conf.d").join(name), "").unwrap();
        }
        let names: Vec<String> = config_files(&config)[1..]
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["10-a.toml", "20-b.toml"]);
        std::fs::remove_file(dir.path().join("conf.d/20-b.toml")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("conf.d/20-b.toml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read(&dir.path().join("conf.d/20-b.toml")).unwrap_err().contains("not a plain file"));
    }
}
