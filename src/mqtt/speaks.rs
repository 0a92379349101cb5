//! Recognises what a port speaks by the first bytes that it sends. Pure.

use crate::text;

/// First bytes of an answer that are kept; a banner is hardly longer.
pub(super) const HEAD_BYTES: usize = 64;

/// What a port speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Speaks {
    Tls,
    Mqtt,
    Http,
    Amqp,
    /// Another protocol, which begins with this line.
    Text(String),
}

/// Returns what begins like that; `None` if it may be anything.
pub(super) fn speaks(head: &[u8]) -> Option<Speaks> {
    match head {
        [0x14..=0x17, 3, 0..=4, ..] => Some(Speaks::Tls),
        // A CONNACK or a DISCONNECT.
        [0x20, 2..=0x7F, 0 | 1, ..] | [0xE0, 0..=2, ..] => Some(Speaks::Mqtt),
        [b'H', b'T', b'T', b'P', b'/', ..] => Some(Speaks::Http),
        [b'A', b'M', b'Q', b'P', ..] => Some(Speaks::Amqp),
        _ => {
            let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
            let is_html = line.first() == Some(&b'<');
            let is_text = line.len() >= 3 && line.iter().all(|byte| (b' '..=b'~').contains(byte));
            is_text
                .then(|| if is_html { Speaks::Http } else { Speaks::Text(text::plain(&String::from_utf8_lossy(line))) })
        }
    }
}

impl Speaks {
    pub(super) fn is_tls(&self) -> bool {
        *self == Self::Tls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_say_what_it_is() {
        for (head, expected) in [
            (&b"\x15\x03\x01\0\x02\x02\x46"[..], Some(Speaks::Tls)),
            (b"\x20\x02\0\0", Some(Speaks::Mqtt)),
            (b"\x20\x03\0\x84\0", Some(Speaks::Mqtt)),
            (b"HTTP/1.1 400 Bad Request\r\n", Some(Speaks::Http)),
            (b"<html>\n", Some(Speaks::Http)),
            (b"AMQP\0\0\x09\x01", Some(Speaks::Amqp)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some(Speaks::Text("SSH-2.0-OpenSSH_9.2".into()))),
            (b"220 mail.example ESMTP\r\n", Some(Speaks::Text("220 mail.example ESMTP".into()))),
            (b"", None),
            (b"\x01\x02\x03", None),
        ] {
            assert_eq!(speaks(head), expected, "{head:?}");
        }
    }
}
