//! Hides what does not belong in a bug report: names, addresses, and what looks like a secret.
//!
//! Pure. In doubt it hides: every comment, and the whole of a file that is not valid TOML. Password files are never read.
//! It cannot recognise a secret that looks like ordinary text, so the user is asked to look through the archive.

use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use crate::config::{Broker, parse_broker};
use crate::text::without_users_in_urls;

pub(crate) use crate::text::HIDDEN;

/// Parts of a name whose value is hidden.
const SECRET_PARTS: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "credential", "authorization", "cookie"];
/// Words of such a name that are too short to be looked for inside other words.
const SECRET_WORDS: [&str; 4] = ["pass", "pwd", "pw", "psk"];
/// Ends of such words, which do not count before a colon: a message may follow.
const SECRET_ENDS: [&str; 3] = ["key", "keys", "auth"];
/// Words of a name whose value says who the user is.
const IDENTITY_WORDS: [&str; 3] = ["user", "username", "login"];
/// How tokens of well-known services begin.
const TOKEN_PREFIXES: [&str; 12] =
    ["ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "AKIA", "ASIA", "eyJ", "sk-", "tskey-"];
/// A word of letters in both cases and digits that is this long is a token.
const TOKEN_BYTES: usize = 24;
/// Words that a configuration can have as a value and that are in every text; hiding them would hide nothing but sense.
const COMMON: [&str; 7] = ["edgewatt", "mqtt", "broker", "mosquitto", "localhost", "root", "embedded"];

/// Hides what it has learnt, and what looks like a secret.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    /// Values, each with what is written in its place; the longest first.
    known: Vec<(String, &'static str)>,
    /// Files that the configuration names, such as those with passwords and keys.
    files: Vec<PathBuf>,
}

impl Redactor {
    /// Returns the files that the configuration names, such as those with passwords and keys, as they are written.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Learns what a configuration file says of the user and the broker, to hide it wherever it occurs.
    pub(crate) fn learn(&mut self, text: &str) {
        match DeTable::parse(text) {
            Ok(root) => walk(root.get_ref(), &mut |key, span, value| {
                let written = span_text(text, span);
                self.learn_value(key, value.as_str().unwrap_or(written));
            }),
            // Line by line: also a file with a syntax error is quoted in messages.
            Err(_) => text.lines().for_each(|line| {
                if let Some((name, value)) = line.split_once('=') {
                    let name = name.rsplit(['.', '{', ',', '[']).next().unwrap_or(name);
                    let name = name.trim().trim_matches(['"', '\'']);
                    let value = value.trim().trim_matches(['"', '\'', ' ']);
                    self.learn_value(name, value);
                    self.learn_value(name, value.split(['"', '\'', '#']).next().unwrap_or_default().trim());
                }
            }),
        }
        self.known.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.known.dedup();
    }

    fn learn_value(&mut self, key: &str, value: &str) {
        let (value, place) = match kind_of(key) {
            Kind::Broker => match parse_broker(value) {
                Ok(Broker::At(endpoint)) => (endpoint.host.trim_matches(['[', ']']).to_owned(), "<mqtt.broker>"),
                Ok(_) => return,
                Err(_) => (value.to_owned(), "<mqtt.broker>"),
            },
            Kind::ClientId => (value.to_owned(), "<mqtt.client_id>"),
            Kind::Identity => (value.to_owned(), "<mqtt.user>"),
            Kind::Secret => (value.to_owned(), HIDDEN),
            Kind::File if !value.contains('/') => (value.to_owned(), HIDDEN),
            Kind::File => return self.files.push(value.into()),
            Kind::Plain => return,
        };
        // One letter would be found everywhere.
        let is_common = COMMON.contains(&value.to_ascii_lowercase().as_str()) || is_loopback(&value);
        let is_small_number = value.len() < 6 && value.parse::<f64>().is_ok();
        if value.len() > 1 && !is_common && !is_small_number && value.parse::<bool>().is_err() {
            self.known.push((value, place));
        }
    }

    /// Returns a configuration file without its comments and without what is to be hidden; the lines keep their numbers.
    pub(crate) fn config(&self, text: &str) -> String {
        let root = match DeTable::parse(text) {
            Ok(root) => root,
            Err(error) => {
                let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                let line = line.map(|line| format!(" (line {line})")).unwrap_or_default();
                let count = text.lines().count();
                return format!(
                    "# not valid TOML{line}, so it is not known what its {count} lines contain; all are hidden\n"
                );
            }
        };
        let mut edits: Vec<(Range<usize>, String)> =
            comments(text).into_iter().map(|span| (span, "#".to_owned())).collect();
        walk(root.get_ref(), &mut |key, span, value| {
            if let Some(shown) = self.value(key, value) {
                // Lines after it keep their numbers.
                let lines = "\n".repeat(span_text(text, span.clone()).matches('\n').count());
                let shown = format!("{:?}", shown.replace(['"', '\\'], "?"));
                edits.push((span, format!("{shown}{lines}")));
            }
        });
        edits.sort_by_key(|(span, _)| span.start);
        let (mut shown, mut at) = (String::new(), 0);
        for (span, new) in edits {
            if span.start >= at {
                shown.push_str(span_text(text, at..span.start));
                shown.push_str(&new);
                at = span.end;
            }
        }
        shown.push_str(span_text(text, at..text.len()));
        // Names of tables and keys are all that is left besides; they can be anything, too.
        self.replace_known(&shown)
    }

    /// Returns what is shown in the place of a value; `None`: the value itself.
    fn value(&self, key: &str, value: &DeValue<'_>) -> Option<String> {
        if matches!(value, DeValue::Boolean(_)) {
            return None;
        }
        let text = value.as_str();
        match kind_of(key) {
            Kind::ClientId | Kind::Identity | Kind::Secret => Some(HIDDEN.to_owned()),
            Kind::Broker => {
                let text = text.unwrap_or_default();
                match parse_broker(text) {
                    Ok(Broker::At(endpoint)) if is_loopback(endpoint.host.trim_matches(['[', ']'])) => None,
                    Ok(Broker::At(endpoint)) => {
                        let scheme = text.split("://").next().unwrap_or_default();
                        Some(format!("{scheme}://<mqtt.broker>:{}", endpoint.port))
                    }
                    Ok(_) => None,
                    // Other words are no secret either; anything longer may be.
                    Err(_) if text == "none" => None,
                    Err(_) => Some(HIDDEN.to_owned()),
                }
            }
            Kind::File if text.is_some_and(|text| !text.contains('/')) => Some(HIDDEN.to_owned()),
            Kind::File | Kind::Plain => text.map(|text| (text, self.text(text))).and_then(|(text, shown)| {
                let shown = shown.trim_end_matches('\n');
                (shown != text.trim_end_matches('\n')).then(|| shown.to_owned())
            }),
        }
    }

    /// Returns a text such as a log without what is to be hidden.
    pub(crate) fn text(&self, text: &str) -> String {
        let (mut shown, mut in_block, mut continued) = (String::new(), false, false);
        for line in text.lines() {
            // A private key in lines of base64, as PEM has it.
            let begins = line.contains("-----BEGIN ");
            in_block |= begins;
            let hidden = if in_block || continued { HIDDEN.to_owned() } else { self.line(line) };
            in_block &= !line.contains("-----END ");
            // systemd and shells go on with a value on the next line.
            continued = line.ends_with('\\') && (continued || hidden.ends_with(HIDDEN));
            shown.push_str(&hidden);
            shown.push('\n');
        }
        shown
    }

    fn line(&self, line: &str) -> String {
        let line = without_excerpt(line).unwrap_or_else(|| line.to_owned());
        let line = without_users_in_urls(&line);
        let line = without_assignment(&line);
        self.replace_known(&without_tokens(&line))
    }

    /// Hides in every string of a JSON value what is to be hidden.
    pub(crate) fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                let shown = self.text(text);
                *text = shown.trim_end_matches('\n').to_owned();
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.json(value)),
            Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| {
                if matches!(kind_of(name), Kind::Secret | Kind::Identity | Kind::ClientId) && value.is_string() {
                    *value = HIDDEN.into();
                } else {
                    self.json(value);
                }
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Replaces what was learnt, where it stands as a separate word.
    fn replace_known(&self, text: &str) -> String {
        self.known.iter().fold(text.to_owned(), |text, (known, place)| replace_word(&text, known, place))
    }
}

/// What a key's name says of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Broker,
    ClientId,
    Identity,
    /// The path of a file; the file may hold a secret, its path does not.
    File,
    Secret,
}

fn kind_of(name: &str) -> Kind {
    let words = words(name);
    if words.last().is_some_and(|last| last == "file" || last == "path") {
        Kind::File
    } else if is_secret(&words) || words.iter().any(|word| SECRET_ENDS.iter().any(|end| word.ends_with(end))) {
        Kind::Secret
    } else if words == ["client", "id"] {
        Kind::ClientId
    } else if words.iter().any(|word| IDENTITY_WORDS.contains(&word.as_str())) {
        Kind::Identity
    } else if words == ["broker"] {
        Kind::Broker
    } else {
        Kind::Plain
    }
}

/// Returns whether a name of these words is one of a secret, whatever stands behind it.
fn is_secret(words: &[String]) -> bool {
    let is_one =
        |word: &String| SECRET_WORDS.contains(&word.as_str()) || SECRET_PARTS.iter().any(|part| word.contains(part));
    words.iter().any(is_one)
}

/// Returns the words of a name, such as `api`, `key` of `API_KEY`, `api-key` and `apiKey`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut last_is_lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() && last_is_lower {
            words.push(String::new());
        }
        last_is_lower = c.is_lowercase();
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Calls `visit` with each value that is no table and no array, the key above it, and its place in the text.
fn walk(table: &DeTable<'_>, visit: &mut impl FnMut(&str, Range<usize>, &DeValue<'_>)) {
    for (key, value) in table {
        walk_value(key.get_ref(), value.span(), value.get_ref(), visit);
    }
}

fn walk_value(
    key: &str,
    span: Range<usize>,
    value: &DeValue<'_>,
    visit: &mut impl FnMut(&str, Range<usize>, &DeValue<'_>),
) {
    match value {
        // What is below a secret's name is the secret.
        DeValue::Table(table) => table.iter().for_each(|(name, value)| {
            let name = if kind_of(key) == Kind::Secret { key } else { name.get_ref() };
            walk_value(name, value.span(), value.get_ref(), visit);
        }),
        DeValue::Array(values) => {
            values.iter().for_each(|value| walk_value(key, value.span(), value.get_ref(), visit));
        }
        value => visit(key, span, value),
    }
}

fn span_text(text: &str, span: Range<usize>) -> &str {
    text.get(span).unwrap_or_default()
}

/// Returns where the comments of a valid TOML text are, without the ends of their lines.
fn comments(text: &str) -> Vec<Range<usize>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let string = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| rest.starts_with(quote));
        at += match string {
            Some(quote) => string_bytes(rest, quote),
            None if rest.starts_with('#') => {
                let bytes = rest.find(['\n', '\r']).unwrap_or(rest.len());
                found.push(at..at + bytes);
                bytes
            }
            None => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    found
}

/// Returns the length of the TOML string at the beginning of `text`, which begins with this quote.
fn string_bytes(text: &str, quote: &str) -> usize {
    let mut at = quote.len();
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(quote) {
            // Up to two quotes may stand directly before the closing ones.
            let more = if quote.len() == 3 {
                rest[3..].bytes().take(2).take_while(|b| *b == quote.as_bytes()[0]).count()
            } else {
                0
            };
            return at + quote.len() + more;
        }
        let escaped = rest.starts_with('\\') && quote.starts_with('"');
        let bytes = rest.chars().take(if escaped { 2 } else { 1 }).map(char::len_utf8).sum::<usize>();
        at += bytes;
    }
    text.len()
}

/// Hides the line of a configuration that an error message quotes as ` 12 | user = "porch"`, and comments with it.
fn without_excerpt(line: &str) -> Option<String> {
    let (before, _) = line.split_once(" | ")?;
    let number = before.trim_start();
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then(|| format!("{before} | {HIDDEN}"))
}

/// Hides what follows `NAME=`, `--name `, `name:` or `Bearer `, to the end of the line: a secret may have spaces.
fn without_assignment(line: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    for (at, c) in line.char_indices() {
        if c != '=' && c != ':' && c != ' ' {
            continue;
        }
        let before = line[..at].trim_end_matches(['"', '\'', ' ']);
        let start =
            before.rfind(|c| !is_name(c)).map_or(0, |i| i + before[i..].chars().next().map_or(1, char::len_utf8));
        let name = &before[start..];
        let kind = kind_of(name);
        let hides = match c {
            '=' => matches!(kind, Kind::Secret | Kind::Identity | Kind::ClientId),
            // A URL's scheme, or a path of Rust, is no name of a value.
            ':' => kind == Kind::Secret && is_secret(&words(name)) && !line[at..].starts_with("::"),
            _ => {
                let scheme = ["bearer", "basic"].iter().any(|scheme| name.eq_ignore_ascii_case(scheme));
                name.starts_with("--") && kind == Kind::Secret || scheme
            }
        };
        let behind = &line[at + 1..];
        if hides && !behind.trim_matches(['"', '\'', ' ']).is_empty() {
            return format!("{}{HIDDEN}", &line[..=at]);
        }
    }
    line.to_owned()
}

/// Hides words that look like tokens.
fn without_tokens(line: &str) -> String {
    let is_token_byte = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '=');
    let mut shown = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_token_byte) {
        let (before, from) = rest.split_at(start);
        let (word, after) = from.split_at(from.find(|c| !is_token_byte(c)).unwrap_or(from.len()));
        shown.push_str(before);
        shown.push_str(if is_token(word) { HIDDEN } else { word });
        rest = after;
    }
    shown.push_str(rest);
    shown
}

fn is_token(word: &str) -> bool {
    let has = |of: fn(&u8) -> bool| word.as_bytes().iter().any(of);
    let known = TOKEN_PREFIXES.iter().any(|prefix| word.starts_with(prefix) && word.len() >= prefix.len() + 8);
    let mixed = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_digit);
    known || word.len() >= TOKEN_BYTES && mixed
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Replaces `word` where no letter or digit is next to it, in either case.
fn replace_word(text: &str, word: &str, new: &str) -> String {
    let (lower, word) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (mut shown, mut at) = (String::new(), 0);
    while let Some(found) = lower[at..].find(&word) {
        let (start, end) = (at + found, at + found + word.len());
        shown.push_str(&text[at..start]);
        let inside = is_part(lower[..start].chars().next_back()) || is_part(lower[end..].chars().next());
        shown.push_str(if inside { &text[start..end] } else { new });
        at = end;
    }
    shown.push_str(&text[at..]);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r##"# the password is hunter2
[mqtt]   # and again: hunter2
broker = "mqtts://hub.customer.example:8884"
user = "alice-customer"
"client_id" = 'gate#7'
password_file = "/etc/edgewatt/mqtt-password" # hunter2
key_file = "hunter3"
note = "see https://bob:hunter4@host/x # no comment"
text = """
one
# no comment
token=hunter5"""
[delegates.npu.external]
options = { license_key = "hunter6", mode = "fast#1", pin = [1, 2], secret = { a = "hunter7", b = 7777 } }
[node]
lock_memory = true
state_dir = "/data/alice-customer"
"##;

    #[test]
    fn a_configuration_loses_names_secrets_and_comments_and_keeps_the_rest() {
        let mut redactor = Redactor::default();
        redactor.learn(CONFIG);
        let shown = redactor.config(CONFIG);
        for secret in ["hunter", "alice", "gate#7", "customer", "7777"] {
            assert!(!shown.contains(secret), "{secret} is in {shown}");
        }
        for kept in [
            "\nbroker = \"mqtts://<mqtt.broker>:8884\"\n",
            "\npassword_file = \"/etc/edgewatt/mqtt-password\" #\n",
            "mode = \"fast#1\"",
            "pin = [1, 2]",
            "\nlock_memory = true\n",
            "\nstate_dir = \"/data/<mqtt.user>\"\n",
        ] {
            assert!(shown.contains(kept), "{kept} is not in {shown}");
        }
        assert!(shown.starts_with("#\n[mqtt]   #\n"), "{shown}");
        assert_eq!(shown.lines().count(), CONFIG.lines().count(), "{shown}");
        let log = redactor.text("as ALICE-customer, client id gate#7, at hub.customer.example:8884; malice-customer");
        assert_eq!(log, "as <mqtt.user>, client id <mqtt.client_id>, at <mqtt.broker>:8884; malice-customer\n");
    }

    #[test]
    fn a_file_that_is_no_toml_is_hidden_as_a_whole_and_still_known() {
        let text = "# hunter2\n[mqtt]\nuser = \"alice\nmqtt.password = hunter3\nhunter4\n";
        let mut redactor = Redactor::default();
        redactor.learn(text);
        let shown = redactor.config(text);
        assert!(shown.starts_with("# not valid TOML (line ") && shown.contains("5 lines"), "{shown}");
        assert!(!shown.contains("hunter") && !shown.contains("alice"));
        let quoted =
            redactor.text("x.toml:3:14: invalid string\n 3 | user = \"alice\n   |              ^\nof alice: hunter3");
        assert!(!quoted.contains("alice") && !quoted.contains("hunter"), "{quoted}");
        assert!(quoted.contains("x.toml:3:14: invalid string\n 3 | <hidden>\n"), "{quoted}");
    }

    #[test]
    fn whatever_looks_like_a_secret_is_hidden_in_any_text() {
        let redactor = Redactor::default();
        for (line, shown) in [
            ("password=hunter2", "password=<hidden>"),
            ("Environment=\"API_TOKEN=hunter2 x\" A=1", "Environment=\"API_TOKEN=<hidden>"),
            ("export dbPassword = 'hunter2 # x'", "export dbPassword =<hidden>"),
            ("SetCredential=mqtt-password:hunter2", "SetCredential=<hidden>"),
            ("run --token hunter2 --x", "run --token <hidden>"),
            ("run --api-key=hunter2", "run --api-key=<hidden>"),
            ("Authorization: Bearer hunter2", "Authorization:<hidden>"),
            ("with Bearer hunter2", "with Bearer <hidden>"),
            ("at mqtt://bob:hunt@er2@host:1 and ws://h/x", "at mqtt://<hidden>@host:1 and ws://h/x"),
            ("\"https://bob:hun/ter2@h\"", "\"https://<hidden>@h\""),
            ("x://bob:hunter2 \"and@h", "x://<hidden>@h"),
            ("mqttpassword=hunter2", "mqttpassword=<hidden>"),
            ("licensekey = hunter2", "licensekey =<hidden>"),
            ("https://h/x?access_token=hunter2&y=1", "https://h/x?access_token=<hidden>"),
            ("got ghp_0123456789abcdef", "got <hidden>"),
            ("got eyJhbGciOiJI.eyJzdWIiOiIx.s", "got <hidden>.<hidden>.s"),
            ("is AbCdEfGhIjKlMnOpQrStUv12 it", "is <hidden> it"),
            ("  7 | user = \"x\"", "  7 | <hidden>"),
            ("{\"password\": \"hunter2\"}", "{\"password\":<hidden>"),
            ("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\nz", "<hidden>\n<hidden>\n<hidden>\nz"),
            ("MY_SECRET=a \\\nhunter2 \\\nhunter3\nz", "MY_SECRET=<hidden>\n<hidden>\nz"),
        ] {
            let found = redactor.text(line);
            assert!(!found.contains("hunter2"), "{line}: {found}");
            // A line that goes on hides the next one, too.
            let all_hidden = shown.contains("MY_SECRET") && !found.contains("hunter3");
            assert!(found == format!("{shown}\n") || all_hidden, "{line}: {found}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        let redactor = Redactor::default();
        for line in [
            "2026-11-29T04:47:13.123456Z  INFO edgewatt::daemon: connected to the MQTT broker 127.0.0.1:1883; 0 messages",
            "x.toml:7:5: mqtt.user: it is empty",
            "password_file = \"/etc/edgewatt/mqtt-password\"",
            "/usr/lib/x86_64-linux-gnu/libtensorflowlite_c.so, version 2.17.1",
            "sha256 6ae6128254e2fc22eb2d7a6d11cbeed7d57e0a9d7e1b6b2f0f3f9bb1d9a3c1aa",
            "KeyringMode=private",
            "an unknown key: speed",
            "keep_alive_s = 30",
        ] {
            assert_eq!(redactor.text(line), format!("{line}\n"));
        }
    }

    #[test]
    fn json_keeps_its_form() {
        let mut redactor = Redactor::default();
        redactor.learn("[mqtt]\nuser = 'alice'\nbroker = 'mqtt://[fd00::7]:1883'\n");
        let mut value =
            serde_json::json!({ "a": ["as alice", 3], "password": "hunter2", "b": { "x": "[fd00::7]:1883" } });
        redactor.json(&mut value);
        assert_eq!(
            value,
            serde_json::json!({ "a": ["as <mqtt.user>", 3], "password": "<hidden>", "b": { "x": "[<mqtt.broker>]:1883" } })
        );
    }

    #[test]
    fn no_text_makes_it_panic() {
        use proptest::prelude::*;
        proptest!(|(text in "[\\PC\n\"'#=:@|\\\\/ ]{0,200}", key in "(user|password|broker|x)")| {
            let mut redactor = Redactor::default();
            redactor.learn(&format!("{key} = {text:?}"));
            redactor.learn(&text);
            redactor.config(&text);
            redactor.text(&text);
            redactor.json(&mut Value::String(text.clone()));
            string_bytes(&format!("\"\"\"{text}"), "\"\"\"");
            comments(&text);
        });
    }
}
