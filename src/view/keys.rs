//! Keys from the bytes of a terminal. Pure.

/// A key that means something to the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    Interrupt,
    Enter,
    Escape,
    Next,
    Previous,
    Up,
    Down,
}

/// Returns the keys in what was read at once. Sequences that mean nothing here are passed over whole.
pub(crate) fn parse(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let [first, rest @ ..] = bytes {
        bytes = rest;
        let key = match (first, rest) {
            (0x1b, [b'[' | b'O', ..]) => {
                let end = rest.iter().skip(1).position(|byte| (0x40..=0x7e).contains(byte));
                let last = end.and_then(|end| rest.get(end + 1));
                bytes = end.and_then(|end| rest.get(end + 2..)).unwrap_or(&[]);
                match last {
                    Some(b'A') => Some(Key::Up),
                    Some(b'B') => Some(Key::Down),
                    Some(b'C') => Some(Key::Next),
                    Some(b'D' | b'Z') => Some(Key::Previous),
                    _ => None,
                }
            }
            (0x1b, _) => Some(Key::Escape),
            (0x03, _) => Some(Key::Interrupt),
            (b'\r' | b'\n', _) => Some(Key::Enter),
            (b'\t', _) => Some(Key::Next),
            (byte, _) if byte.is_ascii_graphic() => Some(Key::Char(char::from(*byte))),
            _ => None,
        };
        keys.extend(key);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_among_sequences() {
        let found = parse(b"q\x1b[C\x1b[1;5D\x1bOA\x1b[B\x1b[Z\t\r\x03\x1b[200~\x1b[15~?\xc3\xa4");
        use Key::{Char, Down, Enter, Interrupt, Next, Previous, Up};
        let expected = [Char('q'), Next, Previous, Up, Down, Previous, Next, Enter, Interrupt, Char('?')];
        assert_eq!(found, expected);
        assert_eq!(parse(b"\x1b"), [Key::Escape]);
        assert_eq!(parse(b"\x1b["), []);
    }
}
