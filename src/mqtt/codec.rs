//! MQTT packets as bytes, in versions 3.1.1 and 5: those that we send, and what matters of those that the broker sends.
//!
//! The encoding is rumqttc's, whose packet types nothing outside this file knows: to replace it is to rewrite this file
//! (docs/decisions/0001). Its client is not used. Pure.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::v5::mqttbytes as five;
use rumqttc::{ConnectReturnCode, mqttbytes as three};

use crate::schema::choice;
use crate::text;

/// Largest packet that we accept where nothing large is ever sent to us.
pub const INCOMING_MAX: u32 = 256 * 1024;
/// The user property with the milliseconds that a message has waited to be sent.
const WAITED: &str = "waited_ms";
/// Largest packet of MQTT, for brokers that set no limit.
const OUTGOING_MAX: u32 = 268_435_460;

choice! {
    /// The version of the protocol.
    pub enum Version {
        Three = "3.1.1",
        Five = "5",
    }
}

/// The delivery guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// QoS 0: forgotten once it is written to the socket.
    AtMostOnce,
    /// QoS 1: kept until the broker acknowledges it.
    AtLeastOnce,
}

/// What a CONNECT carries. It holds a password, so it has no Debug.
#[derive(Clone, Copy)]
pub struct Connect<'a> {
    pub client_id: &'a str,
    pub keep_alive_s: u16,
    pub will: Option<Will<'a>>,
    /// User and password.
    pub login: Option<(&'a str, &'a str)>,
    pub session: Session,
}

/// What the broker keeps for the client, and sends to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// How many seconds the broker keeps subscriptions and messages without a connection; a broker for 3.1.1 keeps them as
    /// long as it likes. `None`: it forgets them.
    pub kept_s: Option<u32>,
    /// Largest packet that we accept.
    pub packet_bytes: u32,
    /// The broker is told of that limit, and then drops larger messages itself, in MQTT 5.
    pub tells_limit: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self { kept_s: None, packet_bytes: INCOMING_MAX, tells_limit: true }
    }
}

/// A SUBSCRIBE.
#[derive(Debug, Clone, Copy)]
pub struct Subscribe<'a> {
    pub filter: &'a str,
    /// The highest quality of service with which messages come.
    pub qos: Qos,
    /// Messages that are published while we are subscribed keep their retain flag, in MQTT 5. Otherwise the flag says that
    /// the broker kept the message from before.
    pub preserve_retain: bool,
}

/// The message that the broker publishes when it loses the client.
#[derive(Clone, Copy)]
pub struct Will<'a> {
    pub topic: &'a str,
    pub payload: &'static [u8],
    pub qos: Qos,
    pub retain: bool,
}

/// A PUBLISH that we send.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub payload: &'a Bytes,
    pub qos: Qos,
    pub retain: bool,
    /// 0 for QoS 0.
    pub packet_id: u16,
    /// How long the broker may keep it; sent with MQTT 5 only.
    pub expiry_s: Option<u32>,
    /// How long it waited to be sent, if that was long; sent with MQTT 5 only.
    pub waited_ms: Option<u64>,
}

/// A packet from the broker.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// It accepts the login; `resumed`: it has kept the session.
    Accepted {
        limits: Limits,
        resumed: bool,
    },
    /// It refuses the login: why, and what to do.
    Refused(Reason),
    /// `refused`: why the broker has not taken the message.
    PubAck {
        packet_id: u16,
        refused: Option<&'static str>,
    },
    Pong,
    Message {
        topic: String,
        payload: Bytes,
        /// Kept by the broker from before we subscribed.
        retained: bool,
        /// It was sent before, on this session.
        repeated: bool,
        /// Set if an acknowledgement is due.
        packet_id: Option<u16>,
    },
    /// `refused`: the broker will send nothing on that topic.
    SubAck {
        refused: bool,
    },
    /// It ends the connection, and why.
    Disconnect(Reason),
    /// Any other packet; none is expected.
    Other,
}

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
    Other,
}

/// The limits that a broker sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most messages in flight.
    pub inflight: u16,
    /// Most bytes of a packet.
    pub packet_bytes: u32,
    /// If it wants another than ours.
    pub keep_alive_s: Option<u16>,
    pub qos: Qos,
    pub retain: bool,
}

impl Limits {
    pub const NONE: Self = Self {
        inflight: u16::MAX,
        packet_bytes: OUTGOING_MAX,
        keep_alive_s: None,
        qos: Qos::AtLeastOnce,
        retain: true,
    };
}

/// The bytes are not MQTT.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("it sent what is not MQTT {version}: {reason}")]
pub struct Malformed {
    version: &'static str,
    reason: String,
}

impl Version {
    pub fn connect(self, connect: &Connect<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
        match self {
            Self::Three => {
                let mut packet = three::v4::Connect::new(connect.client_id);
                packet.keep_alive = connect.keep_alive_s;
                let will = |will: Will<'_>| {
                    three::v4::LastWill::new(will.topic, will.payload, three_qos(will.qos), will.retain)
                };
                packet.last_will = connect.will.map(will);
                packet.clean_session = connect.session.kept_s.is_none();
                if let Some((user, password)) = connect.login {
                    packet.set_login(user, password);
                }
                self.done(packet.write(out))
            }
            Self::Five => {
                let packet = five::v5::Connect {
                    keep_alive: connect.keep_alive_s,
                    client_id: connect.client_id.to_owned(),
                    clean_start: connect.session.kept_s.is_none(),
                    properties: Some(five::v5::ConnectProperties {
                        session_expiry_interval: connect.session.kept_s,
                        max_packet_size: connect.session.tells_limit.then_some(connect.session.packet_bytes),
                        ..five::v5::ConnectProperties::new()
                    }),
                };
                let will = connect.will.map(|will| five::v5::LastWill {
                    topic: Bytes::copy_from_slice(will.topic.as_bytes()),
                    message: Bytes::from_static(will.payload),
                    qos: five_qos(will.qos),
                    retain: will.retain,
                    properties: Some(five::v5::LastWillProperties {
                        delay_interval: None,
                        payload_format_indicator: Some(1),
                        message_expiry_interval: None,
                        content_type: content_type(will.payload),
                        response_topic: None,
                        correlation_data: None,
                        user_properties: Vec::new(),
                    }),
                });
                let login = connect.login.map(|(user, password)| five::v5::Login::new(user, password));
                self.done(packet.write(&will, &login, out))
            }
        }
    }

    pub fn publish(self, message: &Outgoing<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
        match self {
            Self::Three => {
                let mut publish =
                    three::v4::Publish::from_bytes(message.topic, three_qos(message.qos), message.payload.clone());
                (publish.retain, publish.pkid) = (message.retain, message.packet_id);
                self.done(publish.write(out))
            }
            Self::Five => {
                let waited = message.waited_ms.map(|ms| (WAITED.to_owned(), ms.to_string()));
                let properties = five::v5::PublishProperties {
                    payload_format_indicator: Some(1),
                    message_expiry_interval: message.expiry_s,
                    content_type: content_type(message.payload),
                    user_properties: waited.into_iter().collect(),
                    ..five::v5::PublishProperties::default()
                };
                let mut publish = five::v5::Publish::new(
                    message.topic,
                    five_qos(message.qos),
                    message.payload.clone(),
                    Some(properties),
                );
                (publish.retain, publish.pkid) = (message.retain, message.packet_id);
                self.done(publish.write(out))
            }
        }
    }

    pub fn subscribe(
        self,
        &Subscribe { filter, qos, preserve_retain }: &Subscribe<'_>,
        packet_id: u16,
        out: &mut BytesMut,
    ) -> Result<(), Malformed> {
        match self {
            Self::Three => {
                let mut subscribe = three::v4::Subscribe::new(filter, three_qos(qos));
                subscribe.pkid = packet_id;
                self.done(subscribe.write(out))
            }
            Self::Five => {
                let mut filter = five::v5::Filter::new(filter, five_qos(qos));
                filter.preserve_retain = preserve_retain;
                let mut subscribe = five::v5::Subscribe::new(filter, None);
                subscribe.pkid = packet_id;
                self.done(subscribe.write(out))
            }
        }
    }

    pub fn ack(self, packet_id: u16, out: &mut BytesMut) -> Result<(), Malformed> {
        match self {
            Self::Three => self.done(three::v4::PubAck::new(packet_id).write(out)),
            Self::Five => self.done(five::v5::PubAck::new(packet_id, None).write(out)),
        }
    }

    pub fn ping(self, out: &mut BytesMut) {
        out.extend_from_slice(&[0xC0, 0]);
    }

    pub fn disconnect(self, out: &mut BytesMut) {
        out.extend_from_slice(&[0xE0, 0]);
    }

    /// Takes the first packet off `bytes`; `None` if it has not arrived whole. It must not have more than `most_bytes`.
    pub fn read(self, bytes: &mut BytesMut, most_bytes: u32) -> Result<Option<Incoming>, Malformed> {
        // The decoder also reports "insufficient bytes" for a whole packet that is too short inside; by then it has removed it.
        let before = bytes.len();
        match self {
            Self::Three => {
                if let Some(incoming) = read_short_three(bytes) {
                    return Ok(Some(incoming));
                }
                match three::v4::Packet::read(bytes, most_bytes as usize) {
                    Ok(packet) => Ok(Some(from_three(packet))),
                    Err(three::Error::InsufficientBytes(_)) if bytes.len() == before => Ok(None),
                    Err(error) => Err(self.malformed(&error)),
                }
            }
            Self::Five => {
                if let Some(incoming) = read_short_five(bytes) {
                    return Ok(Some(incoming));
                }
                let end = end_of_five(bytes);
                match five::v5::Packet::read(bytes, Some(most_bytes)) {
                    Ok(packet) => Ok(Some(from_five(packet))),
                    Err(five::Error::InsufficientBytes(_)) if bytes.len() == before => Ok(None),
                    Err(error) => end.map(Some).ok_or_else(|| self.malformed(&error)),
                }
            }
        }
    }

    fn done<T, E: std::fmt::Debug>(self, written: Result<T, E>) -> Result<(), Malformed> {
        written.map(|_| ()).map_err(|error| self.malformed(&error))
    }

    fn malformed(self, error: &impl std::fmt::Debug) -> Malformed {
        Malformed { version: self.name(), reason: format!("{error:?}") }
    }
}

/// Returns what the payload is, for consumers that decode by it: `status` is text, everything else JSON, and an empty payload
/// nothing.
fn content_type(payload: &[u8]) -> Option<String> {
    let name = if payload.first()? == &b'{' { "application/json" } else { "text/plain" };
    Some(name.to_owned())
}

/// What is known of the size of the packet at the front of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Size {
    /// It is not a message that is too large.
    Fits,
    /// Too little of it has arrived.
    Unknown,
    /// A message that is larger than we accept: its bytes, those still to come included, and the id that is to be
    /// acknowledged.
    TooLarge { bytes: usize, packet_id: Option<u16> },
}

/// Returns whether the packet at the front of `bytes` is a message of more than `most_bytes`.
pub fn size(bytes: &[u8], most_bytes: u32) -> Size {
    let Some((first, rest)) = bytes.split_first() else { return Size::Fits };
    let Some(digits) = rest.iter().take(4).position(|byte| byte & 0x80 == 0).map(|last| last + 1) else {
        return Size::Fits;
    };
    let length = rest.iter().take(digits).rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
    if first >> 4 != 3 || length <= most_bytes as usize {
        return Size::Fits;
    }
    let body = rest.get(digits..).unwrap_or_default();
    let number = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let bytes = 1 + digits + length;
    if first & 0b110 == 0 {
        return Size::TooLarge { bytes, packet_id: None };
    }
    // Without an acknowledgement the broker would wait for it before it sends more.
    match number(0).and_then(|topic| number(2 + usize::from(topic))) {
        None => Size::Unknown,
        packet_id => Size::TooLarge { bytes, packet_id },
    }
}

/// Takes off packets that the decoder does not know: a DISCONNECT without properties or reason, and a refusal of MQTT 5
/// that a broker for 3.1.1 sends in its own version.
fn read_short_five(bytes: &mut BytesMut) -> Option<Incoming> {
    let (incoming, length) = match bytes[..] {
        [0xE0, 0, ..] => (Incoming::Disconnect(ended(0, None)), 2),
        [0xE0, 1, code, ..] => (Incoming::Disconnect(ended(code, None)), 3),
        [0x20, 2, _, 1 | 0x84, ..] => (Incoming::Refused(refused(Version::Five, 0x84, None)), 4),
        _ => return None,
    };
    bytes.advance(length);
    Some(incoming)
}

/// Returns what a refusal or a DISCONNECT at the front of `bytes` says by its code alone: the decoder knows not all codes.
fn end_of_five(bytes: &[u8]) -> Option<Incoming> {
    match *bytes {
        [0x20, 3..=0x7F, _, code @ 0x80..=0xFF, ..] => Some(Incoming::Refused(refused(Version::Five, code, None))),
        [0xE0, 2..=0x7F, code @ 0x80..=0xFF, ..] => Some(Incoming::Disconnect(ended(code, None))),
        _ => None,
    }
}

/// Takes off a refusal with a reason that 3.1.1 does not have: brokers answer in the words of MQTT 5.
fn read_short_three(bytes: &mut BytesMut) -> Option<Incoming> {
    let [0x20, 2, _, code, ..] = bytes[..] else { return None };
    if code <= 5 {
        return None;
    }
    bytes.advance(4);
    Some(Incoming::Refused(refused(Version::Three, code, None)))
}

fn three_qos(qos: Qos) -> three::QoS {
    match qos {
        Qos::AtMostOnce => three::QoS::AtMostOnce,
        Qos::AtLeastOnce => three::QoS::AtLeastOnce,
    }
}

fn five_qos(qos: Qos) -> five::QoS {
    match qos {
        Qos::AtMostOnce => five::QoS::AtMostOnce,
        Qos::AtLeastOnce => five::QoS::AtLeastOnce,
    }
}

fn from_three(packet: three::v4::Packet) -> Incoming {
    use three::v4::{Packet, SubscribeReasonCode};
    match packet {
        Packet::ConnAck(ack) => {
            // MQTT 5 has the same reasons, and more.
            let code = match ack.code {
                ConnectReturnCode::Success => {
                    return Incoming::Accepted { limits: Limits::NONE, resumed: ack.session_present };
                }
                ConnectReturnCode::RefusedProtocolVersion => 0x84,
                ConnectReturnCode::BadClientId => 0x85,
                ConnectReturnCode::ServiceUnavailable => 0x88,
                ConnectReturnCode::BadUserNamePassword => 0x86,
                ConnectReturnCode::NotAuthorized => 0x87,
            };
            Incoming::Refused(refused(Version::Three, code, None))
        }
        Packet::PubAck(ack) => Incoming::PubAck { packet_id: ack.pkid, refused: None },
        Packet::PingResp => Incoming::Pong,
        Packet::Publish(publish) => Incoming::Message {
            packet_id: (publish.qos != three::QoS::AtMostOnce).then_some(publish.pkid),
            topic: publish.topic,
            payload: publish.payload,
            retained: publish.retain,
            repeated: publish.dup,
        },
        Packet::SubAck(ack) => Incoming::SubAck { refused: ack.return_codes.contains(&SubscribeReasonCode::Failure) },
        _ => Incoming::Other,
    }
}

fn from_five(packet: five::v5::Packet) -> Incoming {
    use five::v5::{Packet, PubAckReason, SubscribeReasonCode};
    match packet {
        Packet::ConnAck(ack) => from_five_connack(&ack),
        Packet::PubAck(ack) => {
            let refused = match ack.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
                PubAckReason::UnspecifiedError => Some("unspecified"),
                PubAckReason::ImplementationSpecificError => Some("implementation_specific"),
                PubAckReason::NotAuthorized => Some("not_authorized"),
                PubAckReason::TopicNameInvalid => Some("topic_name_invalid"),
                PubAckReason::PacketIdentifierInUse => Some("packet_identifier_in_use"),
                PubAckReason::QuotaExceeded => Some("quota_exceeded"),
                PubAckReason::PayloadFormatInvalid => Some("payload_format_invalid"),
            };
            Incoming::PubAck { packet_id: ack.pkid, refused }
        }
        Packet::PingResp(_) => Incoming::Pong,
        Packet::Publish(publish) => Incoming::Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            packet_id: (publish.qos != five::QoS::AtMostOnce).then_some(publish.pkid),
            payload: publish.payload,
            retained: publish.retain,
            repeated: publish.dup,
        },
        Packet::SubAck(ack) => {
            let refused = ack.return_codes.iter().any(|code| !matches!(code, SubscribeReasonCode::Success(_)));
            Incoming::SubAck { refused }
        }
        Packet::Disconnect(disconnect) => {
            let words = disconnect.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
            Incoming::Disconnect(ended(disconnect.reason_code as u8, words))
        }
        _ => Incoming::Other,
    }
}

fn from_five_connack(ack: &five::v5::ConnAck) -> Incoming {
    use five::v5::ConnectReturnCode;
    let properties = ack.properties.as_ref();
    let words = properties.and_then(|properties| properties.reason_string.as_deref());
    match ack.code {
        ConnectReturnCode::Success => {
            let limits = properties.map_or(Limits::NONE, |set| Limits {
                inflight: set.receive_max.unwrap_or(u16::MAX).max(1),
                packet_bytes: set.max_packet_size.unwrap_or(OUTGOING_MAX),
                keep_alive_s: set.server_keep_alive,
                qos: if set.max_qos == Some(0) { Qos::AtMostOnce } else { Qos::AtLeastOnce },
                retain: set.retain_available != Some(0),
            });
            Incoming::Accepted { limits, resumed: ack.session_present }
        }
        code => {
            let moved = properties.and_then(|properties| properties.server_reference.as_deref());
            let words = [words, moved].into_iter().flatten().collect::<Vec<_>>().join(", ");
            Incoming::Refused(refused(Version::Five, connack_code(code), Some(&words)))
        }
    }
}

/// Returns the code of MQTT 5 that a refusal has.
fn connack_code(code: five::v5::ConnectReturnCode) -> u8 {
    use five::v5::ConnectReturnCode as C;
    match code {
        C::Success => 0,
        C::UnspecifiedError => 0x80,
        C::MalformedPacket => 0x81,
        C::ProtocolError => 0x82,
        C::ImplementationSpecificError => 0x83,
        C::RefusedProtocolVersion | C::UnsupportedProtocolVersion => 0x84,
        C::BadClientId | C::ClientIdentifierNotValid => 0x85,
        C::BadUserNamePassword => 0x86,
        C::NotAuthorized => 0x87,
        C::ServiceUnavailable | C::ServerUnavailable => 0x88,
        C::ServerBusy => 0x89,
        C::Banned => 0x8A,
        C::BadAuthenticationMethod => 0x8C,
        C::TopicNameInvalid => 0x90,
        C::PacketTooLarge => 0x95,
        C::QuotaExceeded => 0x97,
        C::PayloadFormatInvalid => 0x99,
        C::RetainNotSupported => 0x9A,
        C::QoSNotSupported => 0x9B,
        C::UseAnotherServer => 0x9C,
        C::ServerMoved => 0x9D,
        C::ConnectionRateExceeded => 0x9F,
    }
}

/// Returns why a login with that version was refused, by MQTT 5's code. `detail`: the broker's own words.
fn refused(version: Version, code: u8, detail: Option<&str>) -> Reason {
    let other = match version {
        Version::Three => Version::Five,
        Version::Five => Version::Three,
    };
    let words = match code {
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
        code => format!("it refused the connection: {}", code_words(code)),
    };
    Reason { words: with_detail(words, detail), kind: kind(code) }
}

/// Returns why a connection was ended, by MQTT 5's code.
fn ended(code: u8, detail: Option<&str>) -> Reason {
    let words = match code {
        0 => "it ended the connection".to_owned(),
        code => format!("it ended the connection: {}", code_words(code)),
    };
    Reason { words: with_detail(words, detail), kind: kind(code) }
}

fn with_detail(words: String, detail: Option<&str>) -> String {
    match detail {
        Some(detail) if !detail.is_empty() => format!("{words} ({})", text::plain(detail)),
        _ => words,
    }
}

fn kind(code: u8) -> ReasonKind {
    match code {
        0x8E => ReasonKind::TakenOver,
        0x9A => ReasonKind::NoRetain,
        0x9B => ReasonKind::NoQos1,
        _ => ReasonKind::Other,
    }
}

/// Returns the meaning of a code of MQTT 5, with what to do if that is known.
fn code_words(code: u8) -> String {
    match code {
        0x04 => "with the last will",
        0x80 => "it gives no reason; its log may",
        0x81 => "it cannot read a packet that edgewatt sent",
        0x82 => "it takes a packet that edgewatt sent for an error of the protocol",
        0x83 => "for a reason of its own; its log may say more",
        0x87 => "this client may not do this; check its permissions (ACL)",
        0x88 => "it is not available now",
        0x89 => "it is busy",
        0x8A => "this client is banned",
        0x8B => "it is shutting down",
        0x8D => "it has received nothing for longer than the keep-alive time",
        0x8E => "another client has connected with the same client id",
        0x8F => "it refuses the form of a topic filter",
        0x90 => "it refuses the name of a topic; check mqtt.base_topic and the topic of the last will",
        0x93 => "it received more messages at once than it allows; lower mqtt.inflight",
        0x94 => "it refuses a topic alias",
        0x95 => "a packet was larger than it allows",
        0x96 => "messages come faster than it allows; set mqtt.drain_per_s, or publish less",
        0x97 => "a quota is used up",
        0x98 => "an administrator has ended it",
        0x99 => "it takes a payload for malformed",
        0x9A => "it keeps no retained messages (mqtt.retain = false sends none)",
        0x9B => "it takes QoS 0 only (mqtt.max_qos = 0)",
        0x9C => "another server is to be used for now; set mqtt.broker to it",
        0x9D => "it has moved; set mqtt.broker to the new server",
        0x9E => "it has no shared subscriptions",
        0x9F => "clients connect more often than it allows; raise mqtt.retry_min_ms",
        0xA0 => "the longest time that it allows for a connection is over",
        0xA1 => "it has no subscription identifiers",
        0xA2 => "it allows no wildcards in subscriptions",
        code => return format!("for the reason {code:#04x}, which MQTT does not define"),
    }
    .to_owned()
}

#[cfg(test)]
mod tests;
