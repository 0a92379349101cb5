//! The difference of two texts, as `diff -u` shows it.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

/// Unchanged lines that are shown around a change.
const CONTEXT: usize = 3;
/// Above this many pairs of lines, the part between the first and the last change is shown as one change.
const MOST_PAIRS: usize = 4_000_000;

/// One line of the old text, of the new one, or of both.
#[derive(Clone, Copy)]
enum Line<'t> {
    Both(&'t str),
    Old(&'t str),
    New(&'t str),
}

/// Returns the difference from `old` to `new`, the texts of the file at `path`.
pub(crate) fn unified(path: &Path, old: &str, new: &str) -> String {
    let lines =
        compared(&old.split_inclusive('\n').collect::<Vec<_>>(), &new.split_inclusive('\n').collect::<Vec<_>>());
    let mut text = format!("--- {0}\n+++ {0}\n", path.display());
    for hunk in hunks(&lines) {
        let before = lines.get(..hunk.start).unwrap_or_default();
        let shown = lines.get(hunk).unwrap_or_default();
        let _ = writeln!(text, "@@ -{} +{} @@", position(before, shown, false), position(before, shown, true));
        for line in shown {
            let (sign, line) = match line {
                Line::Both(line) => (' ', line),
                Line::Old(line) => ('-', line),
                Line::New(line) => ('+', line),
            };
            let end = if line.ends_with('\n') { "" } else { "\n\\ No newline at end of file\n" };
            let _ = write!(text, "{sign}{line}{end}");
        }
    }
    text
}

/// Returns the first line and the number of lines of a hunk, in the old text or in the new one.
fn position(before: &[Line<'_>], shown: &[Line<'_>], new: bool) -> String {
    let counts = |line: &&Line<'_>| match line {
        Line::Both(_) => true,
        Line::Old(_) => !new,
        Line::New(_) => new,
    };
    let (first, count) = (before.iter().filter(counts).count(), shown.iter().filter(counts).count());
    // An empty range is named by the line before it.
    format!("{},{count}", if count == 0 { first } else { first + 1 })
}

/// Returns the parts of the lines that are shown.
fn hunks(lines: &[Line<'_>]) -> Vec<Range<usize>> {
    let mut hunks: Vec<Range<usize>> = Vec::new();
    for (index, _) in lines.iter().enumerate().filter(|(_, line)| !matches!(line, Line::Both(_))) {
        let shown = index.saturating_sub(CONTEXT)..(index + CONTEXT + 1).min(lines.len());
        match hunks.last_mut() {
            Some(last) if shown.start <= last.end => last.end = shown.end,
            _ => hunks.push(shown),
        }
    }
    hunks
}

/// Returns the lines of both texts in order, with the longest common part as [`Line::Both`].
fn compared<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let start = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (common, old, new) = (&old[..start], &old[start..], &new[start..]);
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, tail) = old.split_at(old.len() - end);
    let (new, _) = new.split_at(new.len() - end);
    let both = |lines: &[&'t str]| lines.iter().map(|line| Line::Both(line)).collect::<Vec<_>>();
    [both(common), changed(old, new), both(tail)].concat()
}

fn changed<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let width = new.len() + 1;
    // The length of the longest common part of what is left, by position in both.
    let mut longest = vec![0_usize; if old.len() * new.len() <= MOST_PAIRS { (old.len() + 1) * width } else { 0 }];
    if !longest.is_empty() {
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                longest[i * width + j] = if old[i] == new[j] {
                    longest[(i + 1) * width + j + 1] + 1
                } else {
                    longest[(i + 1) * width + j].max(longest[i * width + j + 1])
                };
            }
        }
    }
    let at = |i: usize, j: usize| longest.get(i * width + j).copied().unwrap_or(0);
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] && at(i, j) > 0 {
            lines.push(Line::Both(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len() && (j == new.len() || at(i + 1, j) >= at(i, j + 1)) {
            lines.push(Line::Old(old[i]));
            i += 1;
        } else {
            lines.push(Line::New(new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_as_diff_shows_it() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15";
        let new = "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n10\neleven\n12\n13\n14\n15";
        let shown = "--- f\n+++ f\n@@ -1,3 +1,4 @@\n+0\n 1\n 2\n 3\n@@ -8,7 +9,7 @@\n 8\n 9\n 10\n-11\n+eleven\n 12\n 13\n 14\n";
        assert_eq!(unified(Path::new("f"), old, new), shown);
    }

    #[test]
    fn empty_texts_and_missing_newlines_are_shown_as_they_are() {
        assert_eq!(unified(Path::new("f"), "", "a\n"), "--- f\n+++ f\n@@ -0,0 +1,1 @@\n+a\n");
        let shown = "--- f\n+++ f\n@@ -1,1 +1,2 @@\n+b\n a\n\\ No newline at end of file\n";
        assert_eq!(unified(Path::new("f"), "a", "b\na"), shown);
    }

    #[test]
    fn a_difference_gives_the_new_text_again() {
        // Lines of few values make many common parts.
        let text = |seed: u32| -> String {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 29
            };
            (0..40).map(|_| format!("{}\n", next())).collect()
        };
        for seed in 0..50 {
            let (old, new) = (text(seed), text(seed + 1000));
            let lines = compared(
                &old.split_inclusive('\n').collect::<Vec<_>>(),
                &new.split_inclusive('\n').collect::<Vec<_>>(),
            );
            let side = |new: bool| -> String {
                let of = |line: &Line<'_>| match *line {
                    Line::Both(line) => line.to_owned(),
                    Line::Old(line) => if new { "" } else { line }.to_owned(),
                    Line::New(line) => if new { line } else { "" }.to_owned(),
                };
                lines.iter().map(of).collect()
            };
            assert_eq!((side(false), side(true)), (old, new), "{seed}");
        }
    }
}
