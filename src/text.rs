//! Text for people: how wide it is, how it is cut and broken into lines, and text from others made harmless. Pure.

/// Longer texts from the wire are cut.
const MAX_CHARS: usize = 300;

/// Cuts text from the wire and replaces what could control the terminal or reorder what is shown.
pub fn plain(text: &str) -> String {
    let clean = |c: char| if c.is_control() || is_invisible(c) { '?' } else { c };
    let mut short: String = text.chars().take(MAX_CHARS).map(clean).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        short.push('…');
    }
    short
}

/// Characters without a place of their own: marks of direction, joiners, and the like.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Returns bytes as hex digits, such as those of a hash.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the columns that a text takes.
pub fn width(text: &str) -> usize {
    ratatui_core::text::Span::raw(text).width()
}

/// Cuts a text to a number of columns; a cut text ends with `…`.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        let mut next = short.clone();
        next.push(c);
        if width(&next) >= columns {
            break;
        }
        short = next;
    }
    if columns > 0 {
        short.push('…');
    }
    short
}

/// Breaks a text into lines of at most that many columns; a word that is longer is cut into pieces.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            let mut next = line.clone();
            next.push(c);
            if width(&next) > columns && !line.is_empty() {
                lines.push(std::mem::take(&mut line));
                line.push(c);
            } else {
                line = next;
            }
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_never_wider_than_asked() {
        for columns in 1..20 {
            for text in ["one two three", "averyveryverylongword and more", "", "日本語のラベル x"] {
                // A character of two columns does not fit into one.
                let most = if text.contains('日') { columns.max(2) } else { columns };
                assert!(wrap(text, columns).iter().all(|line| width(line) <= most), "{columns} {text}");
                assert!(width(&cut(text, columns)) <= columns, "{columns} {text}");
            }
        }
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(cut("abcdef", 4), "abc…");
    }

    #[test]
    fn text_from_others_cannot_control_the_terminal() {
        assert_eq!(plain("a\u{1b}[2J\u{202e}b\n"), "a?[2J?b?");
        assert_eq!(plain(&"x".repeat(1000)).chars().count(), MAX_CHARS + 1);
    }
}
