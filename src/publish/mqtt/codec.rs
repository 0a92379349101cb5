//! MQTT packets as bytes, in versions 3.1.1 and 5: those that we send, and what matters of those that the broker sends.
//!
//! The encoding is rumqttc's, whose packet types nothing outside this file knows: to replace it is to rewrite this file
//! (docs/decisions/0001). Its client is not used. Pure.

use crate::schema::choice;
use bytes::{Buf, Bytes, BytesMut};
use rumqttc::v5::mqttbytes as five;
use rumqttc::{ConnectReturnCode, mqttbytes as three};

use crate::publish::message::Qos;

/// Largest packet that we accept; nothing large is ever sent to us.
const INCOMING_MAX: u32 = 256 * 1024;
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

/// What a CONNECT carries. It holds a password, so it has no Debug.
#[derive(Clone, Copy)]
pub struct Connect<'a> {
    pub client_id: &'a str,
    pub keep_alive_s: u16,
    pub will: Option<Will<'a>>,
    /// User and password.
    pub login: Option<(&'a str, &'a str)>,
}

/// The message that the broker publishes when it loses the client: retained, QoS 1.
#[derive(Clone, Copy)]
pub struct Will<'a> {
    pub topic: &'a str,
    pub payload: &'static [u8],
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
    /// It accepts the login.
    Accepted(Limits),
    /// It refuses the login: why, and what to do.
    Refused(String),
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
        /// Set if an acknowledgement is due.
        packet_id: Option<u16>,
    },
    /// `refused`: the broker will send nothing on that topic.
    SubAck {
        refused: bool,
    },
    /// It ends the connection, and why.
    Disconnect(String),
    /// Any other packet; none is expected.
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
                let will =
                    |will: Will<'_>| three::v4::LastWill::new(will.topic, will.payload, three::QoS::AtLeastOnce, true);
                packet.last_will = connect.will.map(will);
                if let Some((user, password)) = connect.login {
                    packet.set_login(user, password);
                }
                self.done(packet.write(out))
            }
            Self::Five => {
                let packet = five::v5::Connect {
                    keep_alive: connect.keep_alive_s,
                    client_id: connect.client_id.to_owned(),
                    clean_start: true,
                    properties: Some(five::v5::ConnectProperties {
                        max_packet_size: Some(INCOMING_MAX),
                        ..five::v5::ConnectProperties::new()
                    }),
                };
                let will = connect.will.map(|will| five::v5::LastWill {
                    topic: Bytes::copy_from_slice(will.topic.as_bytes()),
                    message: Bytes::from_static(will.payload),
                    qos: five::QoS::AtLeastOnce,
                    retain: true,
                    properties: None,
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
                    content_type: Some("application/json".into()),
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

    pub fn subscribe(self, filter: &str, packet_id: u16, out: &mut BytesMut) -> Result<(), Malformed> {
        match self {
            Self::Three => {
                let mut subscribe = three::v4::Subscribe::new(filter, three::QoS::AtLeastOnce);
                subscribe.pkid = packet_id;
                self.done(subscribe.write(out))
            }
            Self::Five => {
                let mut filter = five::v5::Filter::new(filter, five::QoS::AtLeastOnce);
                // Keeps the retain flag also on messages that are published while we are subscribed.
                filter.preserve_retain = true;
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

    /// Takes the first packet off `bytes`; `None` if it has not arrived whole.
    pub fn read(self, bytes: &mut BytesMut) -> Result<Option<Incoming>, Malformed> {
        // The decoder also reports "insufficient bytes" for a whole packet that is too short inside; by then it has removed it.
        let before = bytes.len();
        match self {
            Self::Three => match three::v4::Packet::read(bytes, INCOMING_MAX as usize) {
                Ok(packet) => Ok(Some(from_three(packet))),
                Err(three::Error::InsufficientBytes(_)) if bytes.len() == before => Ok(None),
                Err(error) => Err(self.malformed(&error)),
            },
            Self::Five => {
                if let Some(incoming) = read_short_five(bytes) {
                    return Ok(Some(incoming));
                }
                match five::v5::Packet::read(bytes, Some(INCOMING_MAX)) {
                    Ok(packet) => Ok(Some(from_five(packet))),
                    Err(five::Error::InsufficientBytes(_)) if bytes.len() == before => Ok(None),
                    Err(error) => Err(self.malformed(&error)),
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

/// Returns the size of the message at the front of `bytes` if it is larger than we accept, with the bytes that are still
/// to come.
pub fn oversize(bytes: &[u8]) -> Option<usize> {
    let (first, rest) = bytes.split_first()?;
    let digits = 1 + rest.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    let length = rest.iter().take(digits).rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
    (first >> 4 == 3 && length > INCOMING_MAX as usize).then_some(1 + digits + length)
}

/// Takes off packets that the decoder does not know: a DISCONNECT without properties or reason, and a refusal of MQTT 5
/// that a broker for 3.1.1 sends in its own version.
fn read_short_five(bytes: &mut BytesMut) -> Option<Incoming> {
    let (incoming, length) = match bytes[..] {
        [0xE0, 0, ..] => (Incoming::Disconnect("it ended the connection".into()), 2),
        [0xE0, 1, code, ..] => (Incoming::Disconnect(format!("it ended the connection (reason {code:#04x})")), 3),
        [0x20, 2, _, 1 | 0x84, ..] => (refused_version(Version::Five), 4),
        _ => return None,
    };
    bytes.advance(length);
    Some(incoming)
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
        Packet::ConnAck(ack) => match ack.code {
            ConnectReturnCode::Success => Incoming::Accepted(Limits::NONE),
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => refused_login(&ack.code),
            ConnectReturnCode::BadClientId => refused_id(&ack.code),
            ConnectReturnCode::RefusedProtocolVersion => refused_version(Version::Three),
            code @ ConnectReturnCode::ServiceUnavailable => refused_otherwise(&code, None),
        },
        Packet::PubAck(ack) => Incoming::PubAck { packet_id: ack.pkid, refused: None },
        Packet::PingResp => Incoming::Pong,
        Packet::Publish(publish) => Incoming::Message {
            packet_id: (publish.qos != three::QoS::AtMostOnce).then_some(publish.pkid),
            topic: publish.topic,
            payload: publish.payload,
            retained: publish.retain,
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
        },
        Packet::SubAck(ack) => {
            let refused = ack.return_codes.iter().any(|code| !matches!(code, SubscribeReasonCode::Success(_)));
            Incoming::SubAck { refused }
        }
        Packet::Disconnect(disconnect) => {
            let words = disconnect.properties.and_then(|properties| properties.reason_string);
            let detail = words.map_or(String::new(), |words| format!(": {words}"));
            Incoming::Disconnect(format!("it ended the connection ({:?}{detail})", disconnect.reason_code))
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
            Incoming::Accepted(limits)
        }
        ConnectReturnCode::BadUserNamePassword
        | ConnectReturnCode::NotAuthorized
        | ConnectReturnCode::BadAuthenticationMethod
        | ConnectReturnCode::Banned => refused_login(&ack.code),
        ConnectReturnCode::BadClientId | ConnectReturnCode::ClientIdentifierNotValid => refused_id(&ack.code),
        ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::UnsupportedProtocolVersion => {
            refused_version(Version::Five)
        }
        code => refused_otherwise(&code, words),
    }
}

fn refused_login(code: &impl std::fmt::Debug) -> Incoming {
    Incoming::Refused(format!("it refused the login ({code:?}); check mqtt.user and mqtt.password_file"))
}

fn refused_id(code: &impl std::fmt::Debug) -> Incoming {
    Incoming::Refused(format!("it refused the client id ({code:?}); set another mqtt.client_id"))
}

fn refused_version(requested: Version) -> Incoming {
    let other = match requested {
        Version::Three => Version::Five,
        Version::Five => Version::Three,
    };
    Incoming::Refused(format!("it does not speak MQTT {}; set mqtt.version = \"{}\"", requested.name(), other.name()))
}

fn refused_otherwise(code: &impl std::fmt::Debug, words: Option<&str>) -> Incoming {
    let detail = words.map_or(String::new(), |words| format!(": {words}"));
    Incoming::Refused(format!("it refused the connection ({code:?}{detail})"))
}

#[cfg(test)]
mod tests;
