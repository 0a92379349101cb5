//! Text for people: how wide it is, how it is cut and broken into lines, and text from others made harmless. Pure.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};

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

/// What stands in place of something secret.
pub const HIDDEN: &str = "<hidden>";

/// Hides what stands between `://` and the last `@` before the next one: a password may have any character.
pub fn without_users_in_urls(line: &str) -> String {
    let mut parts = line.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push_str("://");
        match part.rfind('@') {
            Some(user) => {
                shown.push_str(HIDDEN);
                shown.push_str(&part[user..]);
            }
            None => shown.push_str(part),
        }
    }
    shown
}

/// Returns whether a file begins as a Git LFS pointer, the short text that stands in place of a large file.
pub fn is_lfs_pointer(start: &[u8]) -> bool {
    start.starts_with(b"version https://git-lfs")
}

/// Characters without a place of their own: marks of direction, joiners, and the like.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Returns a text in which control characters stand as their numbers, so that it cannot end early or control a terminal;
/// line ends stay.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let is_kept = |c: char| c == '\n' || !c.is_control();
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if is_kept(c) { c.to_string() } else { format!("\\x{:02x}", u32::from(c)) };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Returns the part of a name that stands for something else in a shell, a systemd unit or a template, such as `$HOST`,
/// `%h`, `{node}` or `<node>`.
pub fn placeholder(name: &str) -> Option<&str> {
    let start = name.find(['$', '%', '{', '<', '`'])?;
    let rest = &name[start..];
    let end = |closing: char| rest.find(closing).map(|end| &rest[..=end]);
    let word = |text: &str| text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    match rest.as_bytes() {
        [b'{', b'{', ..] => rest.find("}}").map(|end| &rest[..end + 2]),
        [b'{', ..] => end('}'),
        [b'<', ..] => end('>'),
        [b'$', b'{', ..] => end('}'),
        [b'$', b'(', ..] => end(')'),
        [b'$', letter, ..] if letter.is_ascii_alphabetic() || *letter == b'_' => Some(&rest[..=word(&rest[1..])]),
        [b'%', b'(', ..] => end(')'),
        [b'%', letter, ..] if letter.is_ascii_alphabetic() => {
            // `%HOST%` of Windows, `%h` of a unit.
            let name = word(&rest[1..]) + 1;
            Some(&rest[..if rest[name..].starts_with('%') { name + 1 } else { 2 }])
        }
        [b'`', ..] => rest[1..].find('`').map(|end| &rest[..end + 2]),
        _ => None,
    }
}

/// Returns a number of things in words: `1 sample`, `2 samples`. `one` is the name of a single thing.
pub fn counted<N: fmt::Display + PartialEq + From<u8>>(count: N, one: &str) -> String {
    let end = match one.as_bytes() {
        _ if count == N::from(1) => "",
        [.., b's' | b'x'] => "es",
        _ => "s",
    };
    format!("{count} {one}{end}")
}

/// Returns a command line as a list of a program and its arguments in TOML. A line that needs a shell gets one.
pub fn command_list(line: &str) -> String {
    let words: Vec<&str> = match line.contains(['\'', '"', '|', '&', ';', '<', '>', '$', '*', '`', '\\']) {
        true => vec!["sh", "-c", line.trim()],
        false => line.split_whitespace().collect(),
    };
    format!("[{}]", words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", "))
}

/// Returns `a, b and c`.
pub fn listed<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    match items.as_slice() {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        items => items.join(", "),
    }
}

/// Returns the name that was probably meant by a word with a slip of the pen in it.
pub fn nearest<'n>(word: &str, names: &[&'n str]) -> Option<&'n str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' ', '.'], "_");
    let word = plain(word);
    let most = (word.chars().count() / 3).clamp(1, 3);
    let near = |name: &&'n str| Some((slips(&word, &plain(name)), *name)).filter(|(slips, _)| *slips <= most);
    let letters = |word: &str| {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        letters
    };
    // A short word is near to many others, unless it has the same letters.
    let candidates = names.iter().filter(|name| word.chars().count() > 3 || letters(&word) == letters(&plain(name)));
    candidates.filter_map(near).min_by_key(|(slips, _)| *slips).map(|(_, name)| name)
}

/// Returns how many letters must be changed, added, removed or swapped with their neighbour to make one word of the other.
fn slips(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, left) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, right) in b.iter().enumerate() {
            let changed = rows[i][j] + usize::from(left != right);
            let mut least = changed.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *left == b[j - 1] && a[i - 1] == *right {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}

/// Returns bytes as hex digits, such as those of a hash.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Begins the hash at the end of an id; hex digits follow.
const ID_HASH: &str = "-x";
/// Hex digits of the hash at the end of an id.
const ID_HASH_DIGITS: usize = 8;

/// Returns an id of letters, digits, `-` and `_` alone. A name of nothing else is its own id. In other names each other
/// character becomes `_`, and `-x` with 8 hex digits of the name's hash follows, so that different names have different ids.
pub fn id(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(is_plain) && !ends_in_id_hash(name) {
        return name.to_owned();
    }
    let mut id: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    id.push_str(ID_HASH);
    id.push_str(&short_hash(name));
    id
}

/// Returns the first 8 hex digits of the text's SHA-256.
pub fn short_hash(text: &str) -> String {
    hex(&Sha256::digest(text)[..ID_HASH_DIGITS / 2])
}

/// Returns whether a name ends as the id of another name could.
fn ends_in_id_hash(name: &str) -> bool {
    let digits = name.rsplit_once(ID_HASH).map_or("", |(_, digits)| digits);
    digits.len() == ID_HASH_DIGITS && digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns a number with at most four digits that count.
pub fn figure(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return number.to_string();
    }
    let decimals = 3 - number.abs().log10().floor() as i32;
    let scale = 10f64.powi(decimals.abs());
    let rounded = if decimals > 0 { (number * scale).round() / scale } else { (number / scale).round() * scale };
    rounded.to_string()
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
    fn a_plain_name_is_its_own_id_and_any_other_name_gets_one_of_its_own() {
        for plain in ["porch_1", "Porch-2", "a", "x-x12345678z", "-x1234567"] {
            assert_eq!(id(plain), plain);
        }
        assert_eq!(id("porch.1"), "porch_1-x2850d6a3");
        let names =
            ["客厅", "卧室", "温度", "湿度", "porch.1", "porch 1", "porch/1", "it's", "it\u{2019}s", ".", "_.", ""];
        let mut ids: Vec<String> = names.into_iter().map(id).collect();
        // A plain name that looks like an id of another name must not be that id.
        let again: Vec<String> = ids.iter().map(|made| id(made)).collect();
        ids.extend(again);
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "{ids:?}");
    }

    proptest::proptest! {
        #[test]
        fn different_names_have_different_ids(a in "[a-c_.é -]{0,6}", b in "[a-c_.é -]{0,6}") {
            for (a, b) in [(a.clone(), b.clone()), (a.clone(), id(&b)), (id(&a), id(&b))] {
                proptest::prop_assert_eq!(a == b, id(&a) == id(&b), "{} {}", a, b);
            }
            proptest::prop_assert!(id(&a).bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')));
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_known_and_another_word_is_not() {
        let names = ["qos", "broker", "keep_alive_s", "client_id"];
        let meant =
            ["qso", "Broker", "brokr", "keep-alive-s", "keepalive_s", "clientid"].map(|word| nearest(word, &names));
        assert_eq!(meant.map(Option::unwrap), ["qos", "broker", "broker", "keep_alive_s", "keep_alive_s", "client_id"]);
        assert!(["x", "host", "", "password", "ab"].iter().all(|word| nearest(word, &names).is_none()));
    }

    #[test]
    fn what_stands_for_something_else_is_found_in_a_name() {
        for (name, found) in [
            ("{HOSTNAME}", "{HOSTNAME}"),
            ("a-%h", "%h"),
            ("%HOST%", "%HOST%"),
            ("$HOSTNAME", "$HOSTNAME"),
            ("x-$H-y", "$H"),
            ("${HOST:-a}", "${HOST:-a}"),
            ("<node>", "<node>"),
            ("$(hostname)", "$(hostname)"),
            ("`hostname`", "`hostname`"),
            ("{{ node }}", "{{ node }}"),
            ("%(host)s", "%(host)"),
        ] {
            assert_eq!(placeholder(name), Some(found), "{name}");
        }
        for name in ["porch", "100%", "50%-x", "a<b", "a{b", "$", "$5", "\u{5ba2}\u{5385}", ""] {
            assert_eq!(placeholder(name), None, "{name}");
        }
    }

    #[test]
    fn one_thing_is_not_several() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "sample")), ["0 samples", "1 sample", "2 samples"]);
        assert_eq!([counted(1u64, "class"), counted(3u64, "class")], ["1 class", "3 classes"]);
        assert_eq!([counted(1.0, "inference"), counted(1.5, "inference")], ["1 inference", "1.5 inferences"]);
    }

    #[test]
    fn a_command_line_becomes_a_list_of_words() {
        assert_eq!(command_list(" sox  -n hw:1,0"), r#"["sox", "-n", "hw:1,0"]"#);
        assert_eq!(command_list("a 'b c' | d"), r#"["sh", "-c", "a 'b c' | d"]"#);
    }

    #[test]
    fn control_characters_stand_as_their_numbers() {
        assert_eq!(escaped("a\0b\u{1b}[2J\nc\u{85}"), "a\\x00b\\x1b[2J\nc\\x85");
        assert_eq!(escaped("plain \u{e9}"), "plain \u{e9}");
    }

    #[test]
    fn a_figure_has_four_digits_at_most() {
        let figures = [10.0, 9.99976, 10_000.4, 123_456.0, 0.1, 1.0 / 3.0, -0.000_123_456, 0.0].map(figure);
        assert_eq!(figures, ["10", "10", "10000", "123500", "0.1", "0.3333", "-0.0001235", "0"]);
    }

    #[test]
    fn text_from_others_cannot_control_the_terminal() {
        assert_eq!(plain("a\u{1b}[2J\u{202e}b\n"), "a?[2J?b?");
        assert_eq!(plain(&"x".repeat(1000)).chars().count(), MAX_CHARS + 1);
    }
}
