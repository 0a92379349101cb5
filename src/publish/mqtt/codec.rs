//! MQTT packets as bytes, in both versions: what we say, and what of the broker's answers matters to us.
//!
//! The coding is rumqttc's; its client is not used: it clears what is unacknowledged when a session is lost. Pure.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::v5::mqttbytes as five;
use rumqttc::{ConnectReturnCode, mqttbytes as three};

use crate::publish::message::Qos;

/// Nothing large is ever sent to us.
const INCOMING_MAX: u32 = 256 * 1024;
/// The user property that tells how many milliseconds a message has waited for us to send it.
const WAITED: &str = "waited_ms";
/// Without a limit of the broker's, MQTT's own.
const OUTGOING_MAX: u32 = 268_435_460;

/// The version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1
    Three,
    Five,
}

impl Version {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Three => "3.1.1",
            Self::Five => "5",
        }
    }
}

/// How we introduce ourselves. It holds a password, so it has no Debug.
#[derive(Clone, Copy)]
pub struct Hello<'a> {
    pub client_id: &'a str,
    pub keep_alive_s: u16,
    /// Published by the broker when it loses us: topic and payload, retained, QoS 1.
    pub will: Option<(&'a str, &'static [u8])>,
    /// User and password.
    pub login: Option<(&'a str, &'a str)>,
}

/// A message as it goes out.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub payload: &'a Bytes,
    pub qos: Qos,
    pub retain: bool,
    /// 0 for QoS 0.
    pub packet_id: u16,
    /// How long the broker may keep it; MQTT 5 alone can say so.
    pub expiry_s: Option<u32>,
    /// How long it waited for us to send it, where that is worth saying; MQTT 5 alone can.
    pub waited_ms: Option<u64>,
}

/// What the broker says.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    Welcome(Limits),
    /// It does not take us: why, and what to do.
    Refused(String),
    /// `refused`: it has the message no more than before, and why.
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
        /// Where an acknowledgement is due.
        packet_id: Option<u16>,
    },
    /// `refused`: it will send us nothing on that topic.
    SubAck {
        refused: bool,
    },
    /// It ends the connection, and why.
    Bye(String),
    /// Nothing that we have asked for.
    Other,
}

/// What a broker bids us keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages out at once.
    pub inflight: u16,
    /// Bytes of a packet.
    pub packet_bytes: u32,
    /// In seconds, where it wants another than ours.
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

/// Bytes that are no MQTT.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("it sent what is not MQTT {version}: {reason}")]
pub struct Malformed {
    version: &'static str,
    reason: String,
}

impl Version {
    pub fn connect(self, hello: &Hello<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
        match self {
            Self::Three => {
                let mut connect = three::v4::Connect::new(hello.client_id);
                connect.keep_alive = hello.keep_alive_s;
                let will = |(topic, payload)| three::v4::LastWill::new(topic, payload, three::QoS::AtLeastOnce, true);
                connect.last_will = hello.will.map(will);
                if let Some((user, password)) = hello.login {
                    connect.set_login(user, password);
                }
                self.done(connect.write(out))
            }
            Self::Five => {
                let connect = five::v5::Connect {
                    keep_alive: hello.keep_alive_s,
                    client_id: hello.client_id.to_owned(),
                    clean_start: true,
                    properties: Some(five::v5::ConnectProperties {
                        max_packet_size: Some(INCOMING_MAX),
                        ..five::v5::ConnectProperties::new()
                    }),
                };
                let will = hello.will.map(|(topic, payload)| five::v5::LastWill {
                    topic: Bytes::copy_from_slice(topic.as_bytes()),
                    message: Bytes::from_static(payload),
                    qos: five::QoS::AtLeastOnce,
                    retain: true,
                    properties: None,
                });
                let login = hello.login.map(|(user, password)| five::v5::Login::new(user, password));
                self.done(connect.write(&will, &login, out))
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
                // What was published as retained is told apart even where we were there to hear it at once.
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

    /// Takes the first packet off `bytes`; `None` when it is not there whole.
    pub fn read(self, bytes: &mut BytesMut) -> Result<Option<Incoming>, Malformed> {
        // The coder also calls bytes insufficient that are short within a packet, which it has taken off by then.
        let there = bytes.len();
        match self {
            Self::Three => match three::v4::Packet::read(bytes, INCOMING_MAX as usize) {
                Ok(packet) => Ok(Some(from_three(packet))),
                Err(three::Error::InsufficientBytes(_)) if bytes.len() == there => Ok(None),
                Err(error) => Err(self.malformed(&error)),
            },
            Self::Five => {
                if let Some(incoming) = short_of_five(bytes) {
                    return Ok(Some(incoming));
                }
                match five::v5::Packet::read(bytes, Some(INCOMING_MAX)) {
                    Ok(packet) => Ok(Some(from_five(packet))),
                    Err(five::Error::InsufficientBytes(_)) if bytes.len() == there => Ok(None),
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

/// The bytes of a message at the front of `bytes` that is larger than any for us, those included that are still to come.
pub fn oversize(bytes: &[u8]) -> Option<usize> {
    let (first, rest) = bytes.split_first()?;
    let digits = 1 + rest.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    let length = rest.iter().take(digits).rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
    (first >> 4 == 3 && length > INCOMING_MAX as usize).then_some(1 + digits + length)
}

/// What the coder does not know: a DISCONNECT may leave out its properties and its reason, and a broker that speaks
/// 3.1.1 alone refuses us in that version.
fn short_of_five(bytes: &mut BytesMut) -> Option<Incoming> {
    let (incoming, length) = match bytes[..] {
        [0xE0, 0, ..] => (Incoming::Bye("it ended the connection".into()), 2),
        [0xE0, 1, code, ..] => (Incoming::Bye(format!("it ended the connection (reason {code:#04x})")), 3),
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
            ConnectReturnCode::Success => Incoming::Welcome(Limits::NONE),
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
        Packet::ConnAck(ack) => from_five_welcome(&ack),
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
        Packet::Disconnect(bye) => {
            let words = bye.properties.and_then(|properties| properties.reason_string);
            let said = words.map_or(String::new(), |words| format!(": {words}"));
            Incoming::Bye(format!("it ended the connection ({:?}{said})", bye.reason_code))
        }
        _ => Incoming::Other,
    }
}

fn from_five_welcome(ack: &five::v5::ConnAck) -> Incoming {
    use five::v5::ConnectReturnCode;
    let properties = ack.properties.as_ref();
    let words = properties.and_then(|properties| properties.reason_string.as_deref());
    match ack.code {
        ConnectReturnCode::Success => {
            let limits = properties.map_or(Limits::NONE, |said| Limits {
                inflight: said.receive_max.unwrap_or(u16::MAX).max(1),
                packet_bytes: said.max_packet_size.unwrap_or(OUTGOING_MAX),
                keep_alive_s: said.server_keep_alive,
                qos: if said.max_qos == Some(0) { Qos::AtMostOnce } else { Qos::AtLeastOnce },
                retain: said.retain_available != Some(0),
            });
            Incoming::Welcome(limits)
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

fn refused_version(asked: Version) -> Incoming {
    let other = match asked {
        Version::Three => Version::Five,
        Version::Five => Version::Three,
    };
    Incoming::Refused(format!("it does not speak MQTT {}; set mqtt.version = \"{}\"", asked.name(), other.name()))
}

fn refused_otherwise(code: &impl std::fmt::Debug, words: Option<&str>) -> Incoming {
    let said = words.map_or(String::new(), |words| format!(": {words}"));
    Incoming::Refused(format!("it refused the connection ({code:?}{said})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Version; 2] = [Version::Three, Version::Five];

    fn hello(login: Option<(&'static str, &'static str)>) -> Hello<'static> {
        Hello { client_id: "edgewatt-a", keep_alive_s: 30, will: Some(("e/a/status", b"offline")), login }
    }

    /// Read with the coder of the other side.
    #[test]
    fn a_connect_says_who_we_are_and_what_to_say_when_we_are_lost() {
        let mut bytes = BytesMut::new();
        Version::Three.connect(&hello(Some(("ann", "s3cret"))), &mut bytes).unwrap();
        let three::v4::Packet::Connect(connect) = three::v4::Packet::read(&mut bytes, 1024).unwrap() else { panic!() };
        let will = connect.last_will.unwrap();
        assert_eq!((connect.keep_alive, connect.clean_session, connect.client_id.as_str()), (30, true, "edgewatt-a"));
        assert_eq!((will.topic.as_str(), &will.message[..], will.retain), ("e/a/status", &b"offline"[..], true));
        assert_eq!(connect.login.unwrap().password, "s3cret");

        Version::Five.connect(&hello(None), &mut bytes).unwrap();
        let packet = five::v5::Packet::read(&mut bytes, None).unwrap();
        let five::v5::Packet::Connect(connect, Some(will), None) = packet else { panic!("{packet:?}") };
        assert_eq!((connect.keep_alive, connect.clean_start, will.retain), (30, true, true));
    }

    #[test]
    fn a_message_goes_out_whole() {
        let payload = Bytes::from_static(b"{\"v\":1}");
        let message = Outgoing {
            topic: "e/a/event",
            payload: &payload,
            qos: Qos::AtLeastOnce,
            retain: true,
            packet_id: 7,
            expiry_s: Some(60),
            waited_ms: Some(1_500),
        };
        let mut bytes = BytesMut::new();
        Version::Five.publish(&message, &mut bytes).unwrap();
        let five::v5::Packet::Publish(publish) = five::v5::Packet::read(&mut bytes, None).unwrap() else { panic!() };
        let properties = publish.properties.unwrap();
        assert_eq!(properties.message_expiry_interval, Some(60));
        assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        assert_eq!(properties.user_properties, [("waited_ms".into(), "1500".into())]);
        for version in BOTH {
            version.publish(&message, &mut bytes).unwrap();
            let expected = Incoming::Message {
                topic: "e/a/event".into(),
                payload: payload.clone(),
                retained: true,
                packet_id: Some(7),
            };
            assert_eq!(version.read(&mut bytes).unwrap(), Some(expected));
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn answers_are_understood_and_halves_are_waited_for() {
        let read = |version: Version, bytes: &[u8]| version.read(&mut BytesMut::from(bytes));
        let acked = |refused| Ok(Some(Incoming::PubAck { packet_id: 9, refused }));
        assert_eq!(read(Version::Three, &[0x40, 2, 0, 9]), acked(None));
        assert_eq!(read(Version::Five, &[0x40, 2, 0, 9]), acked(None));
        assert_eq!(read(Version::Five, &[0x40, 3, 0, 9, 0x10]), acked(None));
        assert_eq!(read(Version::Five, &[0x40, 4, 0, 9, 0x87, 0]), acked(Some("not_authorized")));
        for version in BOTH {
            assert_eq!(read(version, &[0xD0, 0]), Ok(Some(Incoming::Pong)));
            assert_eq!(read(version, &[0x40, 2, 0]), Ok(None));
            assert!(read(version, &[0x00, 0]).is_err());
        }
        assert_eq!(read(Version::Three, &[0x20, 2, 0, 0]), Ok(Some(Incoming::Welcome(Limits::NONE))));
        let limits =
            Limits { inflight: 20, packet_bytes: 4096, keep_alive_s: Some(10), qos: Qos::AtMostOnce, retain: false };
        let said = [0x20, 18, 0, 0, 15, 0x21, 0, 20, 0x27, 0, 0, 0x10, 0, 0x13, 0, 10, 0x24, 0, 0x25, 0];
        assert_eq!(read(Version::Five, &said), Ok(Some(Incoming::Welcome(limits))));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (version, bytes, words) in [
            (Version::Three, &[0x20, 2, 0, 5][..], "check mqtt.user"),
            (Version::Three, &[0x20, 2, 0, 2], "another mqtt.client_id"),
            (Version::Three, &[0x20, 2, 0, 1], "set mqtt.version = \"5\""),
            (Version::Five, &[0x20, 3, 0, 0x84, 0], "set mqtt.version = \"3.1.1\""),
            // In the words of the older version.
            (Version::Five, &[0x20, 2, 0, 1], "set mqtt.version = \"3.1.1\""),
            (Version::Five, &[0x20, 3, 0, 0x86, 0], "check mqtt.user"),
            (Version::Five, &[0x20, 3, 0, 0x89, 0], "ServerBusy"),
        ] {
            match version.read(&mut BytesMut::from(bytes)) {
                Ok(Some(Incoming::Refused(reason))) => assert!(reason.contains(words), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
        for (bytes, words) in [
            (&[0xE0, 2, 0x8B, 0][..], "ServerShuttingDown"),
            (&[0xE0, 1, 0x8E], "0x8e"),
            (&[0xE0, 0], "ended the connection"),
        ] {
            let bye = Version::Five.read(&mut BytesMut::from(bytes));
            assert!(matches!(&bye, Ok(Some(Incoming::Bye(reason))) if reason.contains(words)), "{bye:?}");
        }
    }

    proptest::proptest! {
        /// A packet that is there whole is never waited for: what it would have said were lost.
        #[test]
        fn whatever_a_broker_sends_is_understood_or_an_error(
            first in proptest::num::u8::ANY,
            body in proptest::collection::vec(proptest::num::u8::ANY, 0..100),
        ) {
            for version in BOTH {
                let mut bytes = BytesMut::from(&[first, u8::try_from(body.len()).unwrap()][..]);
                bytes.extend_from_slice(&body);
                let read = version.read(&mut bytes);
                proptest::prop_assert!(read != Ok(None), "{version:?}");
            }
        }
    }
}
