//! `edgewatt support`: one archive for a bug report, without the secrets that a program can recognise.

mod archive;
mod collect;
mod command;
mod redact;

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use self::archive::{Entry, pack};
use super::ConfigArg;
use crate::text::counted;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// The archive to write; - is standard output
    #[arg(short, long, default_value = "edgewatt-support.tar.gz", value_name = "FILE")]
    output: PathBuf,
    /// Replace the archive if it exists
    #[arg(long)]
    force: bool,
}

/// Writes the archive; a failure only if it cannot be written.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let to_stdout = args.output == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        bail!("an archive is not for a terminal: name a file, or send standard output to a file or a program");
    }
    // Before the work, which takes a while.
    if !to_stdout && !args.force && args.output.symlink_metadata().is_ok() {
        bail!("{} exists: name another file with -o FILE, or replace it with --force", args.output.display());
    }
    note("gathering; doctor's test of the broker can take a while");
    let entries = collect::collect(&args.config.config);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let packed = pack(&entries, seconds)?;
    let place = if to_stdout { "standard output".to_owned() } else { args.output.display().to_string() };
    let listing = listing(&entries, &place);
    if to_stdout {
        note(&listing);
        io::stdout().write_all(&packed).context("cannot write the archive to standard output")?;
    } else {
        writeln!(io::stdout(), "{listing}")?;
        write(&args.output, &packed, args.force).with_context(|| format!("cannot write {place}"))?;
    }
    let kib = packed.len().div_ceil(1024);
    let end = format!(
        "Written: {place}, {kib} KiB. Look through it before you send it: passwords were not read, and what looks like a\n\
         secret is hidden, but a program cannot know every secret. To unpack it: tar -xzf FILE"
    );
    if to_stdout {
        note(&end);
    } else {
        writeln!(io::stdout(), "{end}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the files with their sizes, and where they will be written.
fn listing(entries: &[Entry], place: &str) -> String {
    let mut text = format!("{} for {place}:", counted(entries.len(), "file"));
    for Entry { name, content } in entries {
        text.push_str(&format!("\n  {:>8} bytes  {name}", content.len()));
    }
    text
}

/// Writes a file that its owner alone may read. A file that exists is replaced as a whole, and only with `force`.
fn write(path: &Path, bytes: &[u8], force: bool) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let target = if force { Path::new(&unfinished) } else { path };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let placed = written.and_then(|()| if force { std::fs::rename(target, path) } else { Ok(()) });
    placed.inspect_err(|_| {
        // A part of an archive is useless; the first error says why it is one.
        let _ = std::fs::remove_file(target);
    })
}

/// Prints on standard error; nothing is lost if that fails.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_only_by_force_and_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, b"first", false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write(&path, b"second", false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        write(&path, b"second", true).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A link is replaced, not followed.
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "kept").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("link")).unwrap();
        assert!(write(&dir.path().join("link"), b"x", false).is_err());
        write(&dir.path().join("link"), b"x", true).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        assert!(write(&dir.path().join("folder"), b"x", true).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "nothing unfinished is left");
    }
}
