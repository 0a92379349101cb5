//! Finds which programs run, and which have a file or a pipe open, to say who keeps it busy.

use std::fmt;
use std::fs::DirEntry;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::folder::text;

/// A program that has a file open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub name: String,
    pub pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Returns the programs that have the file at `path` open, as far as this user may see them; `proc` is normally `/proc`.
pub fn holders(proc: &Path, path: &Path) -> Vec<Holder> {
    path.canonicalize().map_or_else(|_| Vec::new(), |path| with_file(proc, &path, |_| true))
}

/// Returns the programs that can write into the pipe of which `pipe` is an end, as far as this user may see them.
pub fn writers(proc: &Path, pipe: BorrowedFd<'_>) -> Vec<Holder> {
    const WRITABLE: u32 = 0o200;
    // A descriptor of /proc has the mode in which its file is open.
    let writes = |fd: &DirEntry| fd.metadata().is_ok_and(|link| link.permissions().mode() & WRITABLE != 0);
    let own = proc.join(format!("self/fd/{}", pipe.as_raw_fd()));
    std::fs::read_link(own).map_or_else(|_| Vec::new(), |pipe| with_file(proc, &pipe, writes))
}

/// Returns the programs with a descriptor that `suits` and whose link says `file`.
fn with_file(proc: &Path, file: &Path, suits: impl Fn(&DirEntry) -> bool) -> Vec<Holder> {
    let has_file = |folder: &Path| {
        let mut open = std::fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
        open.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link == file) && suits(&fd))
    };
    let found = programs(proc).filter(|(folder, _)| has_file(folder));
    let mut found: Vec<Holder> = found.map(|(folder, pid)| Holder { name: name(&folder), pid }).collect();
    found.sort_by_key(|holder| holder.pid);
    found
}

/// Returns the end of an error that says which other programs have `path` open, or how to find out.
pub fn who(path: &Path) -> String {
    let others = holders(Path::new("/proc"), path).into_iter().filter(|holder| holder.pid != std::process::id());
    let others: Vec<String> = others.map(|holder| holder.to_string()).collect();
    if others.is_empty() {
        format!("to see which one, run: sudo fuser -v {}", path.display())
    } else {
        format!("it is {}", others.join(", "))
    }
}

/// Returns whether a program of that name runs.
pub fn runs(proc: &Path, wanted: &str) -> bool {
    programs(proc).any(|(folder, _)| name(&folder) == wanted)
}

/// Returns the arguments of all programs whose names end in `ending`.
pub fn arguments(proc: &Path, ending: &str) -> Vec<String> {
    let named = programs(proc).filter(|(folder, _)| name(folder).ends_with(ending));
    let lines = named.filter_map(|(folder, _)| std::fs::read_to_string(folder.join("cmdline")).ok());
    lines.flat_map(|line| line.split('\0').map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn programs(proc: &Path) -> impl Iterator<Item = (PathBuf, u32)> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.file_name().to_str()?.parse().ok()?)))
}

fn name(folder: &Path) -> String {
    text(&folder.join("comm")).unwrap_or_else(|| "a program".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn programs_are_found_by_what_they_have_open() {
        let proc = tempfile::tempdir().unwrap();
        let port = proc.path().join("port");
        std::fs::write(&port, "").unwrap();
        for (pid, comm, file) in
            [("9", "minicom\n", &port), ("7", "ModemManager\n", &port), ("8", "sh\n", &proc.path().into())]
        {
            let folder = proc.path().join(pid);
            std::fs::create_dir_all(folder.join("fd")).unwrap();
            std::fs::write(folder.join("comm"), comm).unwrap();
            symlink(file, folder.join("fd/3")).unwrap();
        }
        let link = proc.path().join("by-id");
        symlink(&port, &link).unwrap();
        let found: Vec<(String, u32)> = holders(proc.path(), &link).into_iter().map(|h| (h.name, h.pid)).collect();
        assert_eq!(found, [("ModemManager".to_owned(), 7), ("minicom".to_owned(), 9)]);
        assert!(runs(proc.path(), "sh") && !runs(proc.path(), "picocom"));
    }

    #[test]
    fn a_program_that_has_a_file_open_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node");
        std::fs::write(&path, "").unwrap();
        assert!(who(&path).contains("fuser"));
        let file = std::fs::File::open(&path).unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(file)).spawn().unwrap();
        let found = who(&path);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&format!("pid {}", child.id())), "{found}");
    }
}
