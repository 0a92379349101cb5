//! Checks a command, finds its program, and says what is missing.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::schema::{Checker, Key};
use crate::source::survey::Survey;
use crate::text::{command_list, placeholder};

/// Words that only a shell understands.
const OF_A_SHELL: [&str; 12] = ["|", "||", "&&", "&", ";", "<", ">", ">>", "2>", "2>&1", ">/dev/null", "2>/dev/null"];

/// The Debian package of programs that people use as sources.
const PACKAGES: [(&str, &str); 23] = [
    ("arecord", "alsa-utils"),
    ("candump", "can-utils"),
    ("curl", "curl"),
    ("espeak-ng", "espeak-ng"),
    ("ffmpeg", "ffmpeg"),
    ("gst-launch-1.0", "gstreamer1.0-tools"),
    ("iio_readdev", "libiio-utils"),
    ("mbpoll", "mbpoll"),
    ("mosquitto_sub", "mosquitto-clients"),
    ("nc", "netcat-openbsd"),
    ("parec", "pulseaudio-utils"),
    ("pw-record", "pipewire-bin"),
    ("python3", "python3"),
    ("rec", "sox"),
    ("rpicam-raw", "rpicam-apps"),
    ("rpicam-vid", "rpicam-apps"),
    ("rtl_433", "rtl-433"),
    ("rtl_fm", "rtl-sdr"),
    ("socat", "socat"),
    ("sox", "sox"),
    ("stdbuf", "coreutils"),
    ("upsc", "nut-client"),
    ("v4l2-ctl", "v4l-utils"),
];
/// The longest first line of a script that names its interpreter.
const FIRST_LINE_BYTES: u64 = 256;

/// Why a program cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("there is no program `{program}` in PATH ({}){}", searched.join(":"), advice(program))]
    NotInPath { program: String, searched: Vec<String> },
    #[error("there is no file {}{}", path.display(), advice(&path.to_string_lossy()))]
    NoFile { path: PathBuf },
    #[error("{} is a folder; name the program in it", path.display())]
    Folder { path: PathBuf },
    #[error("{0} cannot be executed; run: chmod +x {0}", path.display())]
    NotExecutable { path: PathBuf },
    #[error("cannot look at {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("cannot start {}: its first line names the interpreter {interpreter}, which is not there", path.display())]
    NoInterpreter { path: PathBuf, interpreter: String },
    #[error("cannot start {}: {error}", path.display())]
    Start { path: PathBuf, error: io::Error },
    #[error("{} is not a folder in which a program could run", path.display())]
    NotAFolder { path: PathBuf },
}

/// Checks a command, whose key is `key`, and completes the path of its program.
pub(crate) fn check(command: &mut [String], key: &Key, checker: &mut Checker) {
    let Some(program) = command.first().filter(|program| !program.is_empty()) else {
        return checker.problem(key, "name the program, then its arguments: [\"arecord\", \"-q\"]");
    };
    if command.iter().any(|word| word.contains('\0')) {
        checker.problem(key, "a zero byte cannot be passed to a program");
    }
    if let Some(found) = placeholder(program).map(str::to_owned).or(program.starts_with('~').then(|| "~".to_owned())) {
        let message = format!("`{found}` is not expanded, because there is no shell; write the path itself");
        checker.problem(&key.child(0), message);
    } else if program.contains('/') {
        match checker.path(Path::new(program)).into_os_string().into_string() {
            Ok(path) => command[0] = path,
            Err(path) => checker.problem(&key.child(0), format!("{} is not UTF-8", path.display())),
        }
    }
    for (index, word) in command.iter().enumerate().skip(1) {
        if OF_A_SHELL.contains(&word.as_str()) {
            let message = format!(
                "`{word}` is for a shell, and none is started; write command = [\"sh\", \"-c\", \"...\"] with the whole \
                 line as the last string, or leave it out"
            );
            checker.problem(&key.child(index), message);
        }
    }
}

/// Returns the program's name without its folder.
pub(crate) fn short_name(program: &str) -> String {
    Path::new(program).file_name().map_or_else(|| program.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Returns the whole path of the program that a command names; a name without a folder is looked up in `search`, or in the
/// PATH of this process.
///
/// # Errors
/// It is not there, or cannot be executed.
pub(crate) fn file(program: &str, search: Option<&String>) -> Result<PathBuf, ProgramError> {
    let search = search.map(OsString::from).or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    let found = find(program, &search)?;
    // The program is started in another folder.
    std::path::absolute(&found).map_err(|error| ProgramError::Unreadable { path: found, error })
}

/// Returns what is known of a program that was looked for.
pub(crate) fn survey(found: Result<PathBuf, ProgramError>) -> Survey {
    match found {
        Ok(path) => Survey::ready(format!("{} can be started", path.display())),
        Err(error) => {
            let error = error.to_string();
            match error.split_once("; run: ") {
                Some((says, command)) => Survey::broken(says).fix(format!("run: {command}")),
                None => Survey::broken(error),
            }
        }
    }
}

/// Returns what to do about a program that is not there.
fn advice(program: &str) -> String {
    let name = program.rsplit('/').next().unwrap_or(program);
    match PACKAGES.iter().find(|(known, _)| *known == name) {
        Some((_, package)) => format!("; run: sudo apt install {package}"),
        None if program.contains(char::is_whitespace) => {
            format!("; write each argument as a string of its own: command = {}", command_list(program))
        }
        None => String::new(),
    }
}

impl ProgramError {
    /// Returns why a program that was found could not be started.
    pub(crate) fn start(path: &Path, error: io::Error) -> Self {
        if error.kind() == ErrorKind::NotFound
            && let Some(interpreter) = interpreter(path).filter(|interpreter| !Path::new(interpreter).exists())
        {
            return Self::NoInterpreter { path: path.to_owned(), interpreter };
        }
        Self::Start { path: path.to_owned(), error }
    }
}

/// Finds a program: a name is looked up in the folders of `search`, a path is taken as it is.
///
/// # Errors
/// It is not there, or cannot be executed.
fn find(program: &str, search: &OsStr) -> Result<PathBuf, ProgramError> {
    if program.contains('/') {
        let path = PathBuf::from(program);
        return examine(&path).map(|()| path);
    }
    let folders: Vec<PathBuf> =
        search.as_bytes().split(|byte| *byte == b':').filter(|folder| !folder.is_empty()).map(to_path).collect();
    let mut refused = None;
    for folder in &folders {
        let path = folder.join(program);
        match examine(&path) {
            Ok(()) => return Ok(path),
            // A later folder may have one that can be executed.
            Err(ProgramError::NoFile { .. } | ProgramError::Folder { .. } | ProgramError::Unreadable { .. }) => {}
            Err(error) => _ = refused.get_or_insert(error),
        }
    }
    let searched = folders.iter().map(|folder| folder.display().to_string()).collect();
    Err(refused.unwrap_or(ProgramError::NotInPath { program: program.to_owned(), searched }))
}

fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// Checks that `path` is a file that can be executed.
fn examine(path: &Path) -> Result<(), ProgramError> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => ProgramError::NoFile { path: path.to_owned() },
        _ => ProgramError::Unreadable { path: path.to_owned(), error },
    })?;
    if metadata.is_dir() {
        return Err(ProgramError::Folder { path: path.to_owned() });
    }
    access(path, AccessFlags::X_OK).map_err(|_| ProgramError::NotExecutable { path: path.to_owned() })
}

/// Returns the interpreter that a script names in its first line.
fn interpreter(path: &Path) -> Option<String> {
    let mut start = Vec::new();
    std::fs::File::open(path).ok()?.take(FIRST_LINE_BYTES).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    // An end of line as on Windows belongs to the name.
    line.trim_matches(' ').split([' ', '\t']).next().map(|name| name.escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_folder_with_a_program_that_can_be_executed_counts() {
        let root = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| root.path().join(name));
        [&a, &b, &c].iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let search = std::env::join_paths([&a, &b, &c]).unwrap();
        let refusal = |name: &str| find(name, &search).unwrap_err().to_string();

        let missing = refusal("arecord");
        assert!(missing.starts_with(&format!("there is no program `arecord` in PATH ({}:", a.display())), "{missing}");
        assert!(missing.ends_with("; run: sudo apt install alsa-utils"), "{missing}");
        assert!(refusal("arecord -q").ends_with("a string of its own: command = [\"arecord\", \"-q\"]"));

        fs::create_dir(a.join("tool")).unwrap();
        write(&b.join("tool"), "", 0o644);
        let not_executable = refusal("tool");
        assert_eq!(not_executable, format!("{0} cannot be executed; run: chmod +x {0}", b.join("tool").display()));
        write(&c.join("tool"), "", 0o755);
        assert_eq!(find("tool", &search).unwrap(), c.join("tool"));

        let path = |path: &Path| find(&path.display().to_string(), OsStr::new("")).map_err(|error| error.to_string());
        assert_eq!(path(&c.join("tool")), Ok(c.join("tool")));
        assert_eq!(
            path(&a.join("tool")).unwrap_err(),
            format!("{} is a folder; name the program in it", a.join("tool").display())
        );
        assert!(path(&root.path().join("ffmpeg")).unwrap_err().ends_with("/ffmpeg; run: sudo apt install ffmpeg"));
        assert!(path(&c.join("tool/below")).unwrap_err().starts_with("there is no file "));
        assert!(find("x", OsStr::new("")).unwrap_err().to_string().contains("in PATH ()"));
    }

    #[test]
    fn a_script_without_its_interpreter_says_so() {
        let root = tempfile::tempdir().unwrap();
        let script = root.path().join("script");
        let started = |text: &str| {
            write(&script, text, 0o755);
            ProgramError::start(&script, io::Error::from_raw_os_error(nix::libc::ENOENT)).to_string()
        };
        assert!(
            started("#!/usr/bin/python9 -u\n").contains("names the interpreter /usr/bin/python9, which is not there")
        );
        assert!(started("#!/bin/sh\r\nexit\r\n").contains("interpreter /bin/sh\\r, which"));
        assert!(started("#!/bin/sh\n").contains("No such file or directory"));
        assert!(started("\u{7f}ELF").contains("No such file or directory"));
    }
}
