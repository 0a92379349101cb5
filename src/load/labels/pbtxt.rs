//! Label maps of TensorFlow's object detection: protobuf text, `item { id: 1 name: 'person' }`.

use super::Problem;
use super::order::{Entries, Entry};

/// A part of the text.
#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

/// Returns whether the text is a label map.
pub(super) fn looks_like(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let rest = first.and_then(|line| line.strip_prefix("item")).map(str::trim_start);
    // The brace may be on the next line.
    let next = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).nth(1);
    rest.is_some_and(|rest| {
        let rest = rest.strip_prefix(':').map_or(rest, str::trim_start);
        rest.starts_with('{') || rest.is_empty() && next().is_some_and(|line| line.starts_with('{'))
    })
}

pub(super) fn entries(text: &str) -> Result<Entries, Problem> {
    let tokens = tokens(text)?;
    let mut tokens = tokens.into_iter().peekable();
    let mut list = Vec::new();
    let mut by_display_name = 0;
    while let Some((line, token)) = tokens.next() {
        if token == Token::Sign(',') {
            continue;
        }
        if token != Token::Word("item".into()) {
            return Err(Problem::at(line, "expected `item { ... }`, as in a label map"));
        }
        tokens.next_if(|(_, token)| *token == Token::Sign(':'));
        if tokens.next_if(|(_, token)| *token == Token::Sign('{')).is_none() {
            return Err(Problem::at(line, "expected `{` after `item`"));
        }
        let (mut number, mut name, mut display_name) = (None, None, None);
        // Fields of other kinds, such as keypoints, can have braces of their own.
        let mut depth = 1;
        let mut field = String::new();
        while depth > 0 {
            let Some((at, token)) = tokens.next() else {
                return Err(Problem::at(line, "this item has no `}`"));
            };
            match token {
                Token::Sign('{') => depth += 1,
                Token::Sign('}') => depth -= 1,
                Token::Sign(_) => {}
                Token::Word(word) if depth == 1 && field == "id" => {
                    let id = word.parse().map_err(|_| Problem::at(at, format!("the id `{word}` is not a number")))?;
                    number = Some(id);
                    field.clear();
                }
                Token::Word(word) => field = word,
                Token::Text(text) if depth == 1 && field == "name" => name = Some(text),
                Token::Text(text) if depth == 1 && field == "display_name" => display_name = Some(text),
                Token::Text(_) => {}
            }
        }
        by_display_name += usize::from(display_name.is_some());
        let Some(name) = display_name.or(name).filter(|name| !name.is_empty()) else {
            return Err(Problem::at(line, "this item has no name"));
        };
        list.push(Entry { number, name });
    }
    let column = match by_display_name {
        0 => "name",
        count if count == list.len() => "display_name",
        _ => "display_name or name",
    };
    Ok(Entries { list, form: format!(", a label map, by {column}"), background: true, ..Entries::default() })
}

/// Returns the tokens, each with its line.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Problem> {
    let mut tokens = Vec::new();
    for (line, text) in text.lines().enumerate().map(|(i, text)| (i + 1, text)) {
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '#' => break,
                '"' | '\'' => {
                    let mut content = String::new();
                    loop {
                        match chars.next() {
                            Some('\\') => content.extend(chars.next()),
                            Some(end) if end == c => break,
                            Some(other) => content.push(other),
                            None => return Err(Problem::at(line, "a text has no quote at its end")),
                        }
                    }
                    tokens.push((line, Token::Text(content.trim().to_owned())));
                }
                '{' | '}' | ':' | ',' | ';' | '<' | '>' | '[' | ']' => tokens.push((line, Token::Sign(c))),
                c if c.is_whitespace() => {}
                c => {
                    let mut word = String::from(c);
                    while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+')) {
                        word.push(c);
                    }
                    tokens.push((line, Token::Word(word)));
                }
            }
        }
    }
    Ok(tokens)
}
