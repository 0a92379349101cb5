//! The reason codes of MQTT 5: their names in the standard (OASIS MQTT 5.0, 2.4), and what they mean to a person. Pure.

use std::fmt;

use super::Version;
use crate::text;

/// A reason code of MQTT 5. It may be one that the standard does not define. Shown with the standard's name, or as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u8);

/// Why a broker refuses a login or ends a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// For a person, with what to do.
    pub words: String,
    pub kind: ReasonKind,
}

/// What the client can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasonKind {
    /// Another client has come with the same client id.
    TakenOver,
    /// The broker keeps no retained messages.
    NoRetain,
    /// The broker takes QoS 0 only.
    NoQos1,
    /// It may be about a message that was sent.
    Message,
    Other,
}

/// Code, name, and the meaning with what to do if that is known.
const CODES: &[(u8, &str, &str)] = &[
    (0x04, "disconnect_with_will", "with the last will"),
    (0x80, "unspecified", "it gives no reason; its log may"),
    (0x81, "malformed_packet", "it cannot read a packet that edgewatt sent"),
    (0x82, "protocol_error", "it takes a packet that edgewatt sent for an error of the protocol"),
    (0x83, "implementation_specific", "for a reason that MQTT has no code for; its log may say more"),
    (0x84, "unsupported_protocol_version", "it does not speak this version of MQTT; set another mqtt.version"),
    (0x85, "client_identifier_not_valid", "it refuses the client id; set another mqtt.client_id"),
    (0x86, "bad_user_name_or_password", "user or password is wrong; check mqtt.user and mqtt.password_file"),
    (0x87, "not_authorized", "this client may not do this; check its permissions (ACL)"),
    (0x88, "server_unavailable", "it is not available now"),
    (0x89, "server_busy", "it is busy"),
    (0x8A, "banned", "this client is banned"),
    (0x8B, "server_shutting_down", "it is shutting down"),
    (0x8C, "bad_authentication_method", "it wants another way to log in than user and password"),
    (0x8D, "keep_alive_timeout", "it has received nothing for longer than the keep-alive time"),
    (0x8E, "session_taken_over", "another client has connected with the same client id"),
    (0x8F, "topic_filter_invalid", "it refuses the form of a topic filter"),
    (
        0x90,
        "topic_name_invalid",
        "it refuses the name of a topic; check mqtt.base_topic and the topic of the last will",
    ),
    (0x91, "packet_identifier_in_use", "it takes a packet id for one that is in use"),
    (0x92, "packet_identifier_not_found", "it does not know a packet id"),
    (0x93, "receive_maximum_exceeded", "it received more messages at once than it allows; lower mqtt.inflight"),
    (0x94, "topic_alias_invalid", "it refuses a topic alias"),
    (0x95, "packet_too_large", "a packet was larger than it allows (mosquitto: message_size_limit, max_packet_size)"),
    (0x96, "message_rate_too_high", "messages come faster than it allows; set mqtt.drain_per_s, or publish less"),
    (0x97, "quota_exceeded", "a quota is used up"),
    (0x98, "administrative_action", "an administrator has ended it"),
    (0x99, "payload_format_invalid", "it takes a payload for malformed"),
    (0x9A, "retain_not_supported", "it keeps no retained messages (mqtt.retain = false sends none)"),
    (0x9B, "qos_not_supported", "it takes QoS 0 only (mqtt.max_qos = 0)"),
    (0x9C, "use_another_server", "another server is to be used for now; set mqtt.broker to it"),
    (0x9D, "server_moved", "it has moved; set mqtt.broker to the new server"),
    (0x9E, "shared_subscriptions_not_supported", "it has no shared subscriptions"),
    (0x9F, "connection_rate_exceeded", "clients connect more often than it allows; raise mqtt.retry_min_ms"),
    (0xA0, "maximum_connect_time", "the longest time that it allows for a connection is over"),
    (0xA1, "subscription_identifiers_not_supported", "it has no subscription identifiers"),
    (0xA2, "wildcard_subscriptions_not_supported", "it allows no wildcards in subscriptions"),
];

impl Code {
    /// Returns whether it says that something was not done.
    pub fn is_refusal(self) -> bool {
        self.0 >= 0x80
    }

    /// Returns the meaning, with what to do if that is known.
    pub fn words(self) -> String {
        match self.entry() {
            Some((_, _, words)) => (*words).to_owned(),
            None => format!("for the reason {:#04x}, which MQTT does not define", self.0),
        }
    }

    fn entry(self) -> Option<&'static (u8, &'static str, &'static str)> {
        CODES.iter().find(|(code, ..)| *code == self.0)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry() {
            Some((_, name, _)) => f.write_str(name),
            None => write!(f, "{:#04x}", self.0),
        }
    }
}

/// Returns why a login with that version was refused, by MQTT 5's code. `detail`: the broker's own words.
pub(super) fn refused(version: Version, code: Code, detail: Option<&str>) -> Reason {
    let other = match version {
        Version::Three => Version::Five,
        Version::Five => Version::Three,
    };
    let words = match code.0 {
        0x84 => format!("it does not speak MQTT {}; set mqtt.version = \"{}\"", version.name(), other.name()),
        0x85 => {
            "it refused the client id; set another mqtt.client_id (some brokers take letters and digits only)".into()
        }
        0x86 => "it refused the login: user or password is wrong; check mqtt.user and mqtt.password_file".into(),
        0x87 => "it refused the login: this client may not connect; check mqtt.user and mqtt.password_file".into(),
        0x8A => {
            "it refused the login: this client is banned; check mqtt.user and mqtt.password_file, and its list of bans"
                .into()
        }
        0x8C => "it refused the login: it wants another way to log in than user and password (mqtt.user, \
                 mqtt.password_file)"
            .into(),
        _ => format!("it refused the connection: {}", code.words()),
    };
    Reason { words: with_detail(words, detail), kind: kind(code) }
}

/// Returns why a connection was ended, by MQTT 5's code.
pub(super) fn ended(code: Code, detail: Option<&str>) -> Reason {
    let words = match code.0 {
        0 => "it ended the connection".to_owned(),
        _ => format!("it ended the connection: {}", code.words()),
    };
    Reason { words: with_detail(words, detail), kind: kind(code) }
}

fn with_detail(words: String, detail: Option<&str>) -> String {
    match detail {
        Some(detail) if !detail.is_empty() => format!("{words} ({})", text::plain(detail)),
        _ => words,
    }
}

fn kind(Code(code): Code) -> ReasonKind {
    match code {
        0x8E => ReasonKind::TakenOver,
        0x9A => ReasonKind::NoRetain,
        0x9B => ReasonKind::NoQos1,
        0x80..=0x83 | 0x90 | 0x95 | 0x99 => ReasonKind::Message,
        _ => ReasonKind::Other,
    }
}
