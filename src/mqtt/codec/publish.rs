//! Writes PUBLISH, the packet of each message, straight into the bytes that are sent. Pure.

use bytes::{BufMut, BytesMut};

use super::{Outgoing, Qos, Version, content_type};

/// The user property with the milliseconds that a message has waited to be sent.
const WAITED: &str = "waited_ms";
/// The longest that a packet may be, without its fixed header.
const MOST_BYTES: usize = 268_435_455;

/// Properties of MQTT 5.
const PAYLOAD_IS_UTF8: [u8; 2] = [0x01, 1];
const EXPIRY: u8 = 0x02;
const CONTENT_TYPE: u8 = 0x03;
const USER: u8 = 0x26;

/// Appends the packet to `out`.
///
/// # Errors
/// The topic or the packet is longer than MQTT allows; nothing was appended.
pub(super) fn write(version: Version, message: &Outgoing<'_>, out: &mut BytesMut) -> Result<(), &'static str> {
    let Outgoing { topic, payload, qos, retain, packet_id, expiry_s, waited_ms } = *message;
    // Only after an outage.
    let waited = waited_ms.map(|ms| ms.to_string());
    let content_type = content_type(payload);
    let properties = PAYLOAD_IS_UTF8.len()
        + expiry_s.map_or(0, |_| 5)
        + waited.as_ref().map_or(0, |ms| 1 + text_bytes(WAITED) + text_bytes(ms))
        + content_type.map_or(0, |name| 1 + text_bytes(name));
    let is_acknowledged = qos == Qos::AtLeastOnce;
    let length = text_bytes(topic)
        + if is_acknowledged { 2 } else { 0 }
        // The length of properties takes one byte: there are at most 60 of them.
        + if version == Version::Five { 1 + properties } else { 0 }
        + payload.len();
    if topic.len() > usize::from(u16::MAX) {
        return Err("its topic is too long");
    }
    if length > MOST_BYTES {
        return Err("it is too large");
    }
    out.reserve(5 + length);
    out.put_u8(0x30 | u8::from(is_acknowledged) << 1 | u8::from(retain));
    put_length(out, length);
    put_text(out, topic);
    if is_acknowledged {
        out.put_u16(packet_id);
    }
    if version == Version::Five {
        put_length(out, properties);
        out.put_slice(&PAYLOAD_IS_UTF8);
        if let Some(seconds) = expiry_s {
            out.put_u8(EXPIRY);
            out.put_u32(seconds);
        }
        if let Some(ms) = &waited {
            out.put_u8(USER);
            put_text(out, WAITED);
            put_text(out, ms);
        }
        if let Some(name) = content_type {
            out.put_u8(CONTENT_TYPE);
            put_text(out, name);
        }
    }
    out.put_slice(payload);
    Ok(())
}

/// Appends a length, seven bits in each byte, the lowest first.
fn put_length(out: &mut BytesMut, mut length: usize) {
    while length > 0x7F {
        out.put_u8(0x80 | (length & 0x7F) as u8);
        length >>= 7;
    }
    out.put_u8(length as u8);
}

/// Returns how many bytes a text takes with its length.
fn text_bytes(text: &str) -> usize {
    2 + text.len()
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}
