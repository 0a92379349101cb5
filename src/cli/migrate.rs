//! `edgewatt migrate`: brings a configuration and its fragments to the version that this program reads.
//!
//! Standard output gets what a program may want: differences, or the new text of a file that cannot be changed. What is
//! said about the files goes to standard error.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use similar::TextDiff;

use super::{ConfigArg, EX_CONFIG, print_error};
use crate::config::Document;
use crate::config::version::{CURRENT, migrated};
use crate::load::rewrite::{Rewritten, rewrite};
use crate::schema::show;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Print the differences and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// A file that needs a change.
struct Change<'a> {
    path: &'a Path,
    old: &'a str,
    new: String,
}

/// Migrates every file, or none if one of them cannot be migrated.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let document = match Document::read(&args.config.config) {
        Ok(document) => document,
        Err(error) => {
            note(&error);
            return Ok(ExitCode::from(EX_CONFIG));
        }
    };
    let mut changes = Vec::new();
    let mut current = Vec::new();
    let mut refused = false;
    let mut known = BTreeSet::new();
    for (path, old) in document.files() {
        // Two names can lead to one file.
        if !known.insert(path.canonicalize().unwrap_or_else(|_| path.to_owned())) {
            continue;
        }
        match migrated(old) {
            Ok(Some(new)) => changes.push(Change { path, old, new }),
            Ok(None) => current.push(path),
            Err((span, message)) => {
                note(&show(path, old, Some(span), &message));
                refused = true;
            }
        }
    }
    if refused {
        note(&"nothing was changed");
        return Ok(ExitCode::from(EX_CONFIG));
    }
    for path in current {
        note(&format_args!("{}: has version {CURRENT} already; nothing to do", path.display()));
    }
    if args.dry_run { show_changes(&changes) } else { make_changes(&changes) }
}

fn show_changes(changes: &[Change<'_>]) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout();
    for Change { path, old, new } in changes {
        let name = path.display().to_string();
        write!(out, "{}", TextDiff::from_lines(*old, new.as_str()).unified_diff().header(&name, &name))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn make_changes(changes: &[Change<'_>]) -> anyhow::Result<ExitCode> {
    let mut unwritten = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for change in changes {
        let path = change.path.display();
        match rewrite(change.path, change.old, &change.new) {
            Ok(Rewritten::Done(backup)) => {
                note(&format_args!("{path}: has version {CURRENT} now; the old file is {}", backup.display()));
            }
            Ok(Rewritten::ReadOnly(reason)) => {
                note(&format_args!("{path}: not changed ({reason}); its new text is on standard output"));
                unwritten.push(change);
            }
            Err(error) => {
                print_error(&anyhow::Error::new(error).context(format!("cannot write {path}; it is as it was")));
                code = ExitCode::FAILURE;
            }
        }
    }
    let mut out = io::stdout();
    for change in &unwritten {
        if unwritten.len() > 1 {
            writeln!(out, "# ---- {} ----", change.path.display())?;
        }
        out.write_all(change.new.as_bytes())?;
    }
    Ok(code)
}

/// Prints a line to standard error. A failure is ignored: the files matter, and the exit code is right.
fn note(line: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
