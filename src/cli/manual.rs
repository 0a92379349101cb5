//! `edgewatt manual`: man pages and completions, written into a folder for `make man` and the Debian package.
//!
//! The folder gets `man1/edgewatt.1` and a page for each subcommand, `man5/edgewatt.toml.5` from docs/config.md, and
//! completions for bash, zsh and fish under the names that the shells look for.

use std::fs::{create_dir_all, write};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

const CONFIG: &str = include_str!("../../docs/config.md");
/// One more cell than columns, because a line ends with a bar.
const CELLS: usize = 7;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder; it is made if it is missing
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    write_manual(&args.folder).with_context(|| format!("cannot write the manual into {}", args.folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn write_manual(folder: &Path) -> io::Result<()> {
    let mut command = super::command().disable_help_subcommand(true);
    command.build();
    pages(&folder.join("man1"), &command)?;
    let man5 = folder.join("man5");
    create_dir_all(&man5)?;
    write(man5.join("edgewatt.toml.5"), configuration())?;
    let completions = folder.join("completions");
    create_dir_all(&completions)?;
    for (shell, name) in [(Shell::Bash, "edgewatt"), (Shell::Zsh, "_edgewatt"), (Shell::Fish, "edgewatt.fish")] {
        write(completions.join(name), super::completion_script(shell))?;
    }
    Ok(())
}

/// Writes the page of a command and those of its visible subcommands.
fn pages(folder: &Path, command: &Command) -> io::Result<()> {
    create_dir_all(folder)?;
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut page = Vec::new();
    Man::new(command.clone()).title(name.to_uppercase()).render(&mut page)?;
    if name == "edgewatt" {
        page.extend(b".SH \"SEE ALSO\"\n\\fBedgewatt.toml\\fR(5)\n");
    }
    write(folder.join(format!("{name}.1")), page)?;
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    command.get_subcommands().filter(shown).try_for_each(|subcommand| pages(folder, subcommand))
}

/// Writes the page of the configuration from docs/config.md, with its tables as lists.
fn configuration() -> String {
    let mut page = Roff::new();
    page.control("SH", ["NAME"]).text([roman("edgewatt.toml - the configuration of "), bold("edgewatt"), roman("(1)")]);
    page.control("SH", ["DESCRIPTION"]);
    let mut gap = false;
    for line in CONFIG.lines().filter(|line| !line.starts_with("<!--") && !line.starts_with("# ")) {
        let cells: Vec<&str> = line.split(" |").map(|cell| cell.trim_start_matches('|').trim()).collect();
        if let Some(heading) = line.strip_prefix("## ") {
            // The names of tables begin with a small letter, other headings do not.
            let is_table = heading.starts_with(char::is_lowercase);
            page.control("SH", [if is_table { format!("[{heading}]") } else { heading.to_uppercase() }.as_str()]);
        } else if cells.len() == CELLS {
            if cells[0].starts_with('`') {
                entry(&mut page, &cells);
            }
        } else if line.is_empty() {
            gap = true;
        } else {
            if std::mem::take(&mut gap) {
                page.control("PP", []);
            }
            page.text(words(line));
        }
    }
    page.control("SH", ["SEE ALSO"]).text([bold("edgewatt"), roman("(1), "), bold("edgewatt-check"), roman("(1)")]);
    // No date: the page is the same whenever it is built.
    let title = concat!(".TH EDGEWATT.TOML 5 \"\" \"edgewatt ", env!("CARGO_PKG_VERSION"), "\" \"File Formats\"\n");
    title.to_owned() + &page.to_roff()
}

/// Writes one key: its name, its values, its meaning.
fn entry(page: &mut Roff, cells: &[&str]) {
    let [key, kind, unit, default, may_be, meaning, ..] = cells else { return };
    let mut head = vec![bold(plain(key)), roman(" "), italic(plain(kind))];
    if !unit.is_empty() {
        head.push(roman(format!(" in {unit}")));
    }
    if *default == "required" {
        head.push(roman(", required"));
    }
    page.control("TP", []).text(head).text(words(meaning));
    for (what, text) in [("Default: ", default), ("May be: ", may_be)] {
        if !text.is_empty() && *text != "required" {
            page.control("br", []).text([roman(what), roman(plain(text))]);
        }
    }
}

/// Returns the text with the parts between backticks in bold.
fn words(text: &str) -> Vec<Inline> {
    let bolder = |(i, part): (usize, &str)| {
        let part = part.replace("&lt;", "<");
        if i % 2 == 1 { bold(part) } else { roman(part) }
    };
    text.split('`').enumerate().map(bolder).collect()
}

fn plain(text: &str) -> String {
    text.replace('`', "").replace("&lt;", "<")
}
