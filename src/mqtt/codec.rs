//! MQTT packets as bytes, in versions 3.1.1 and 5: those that we send, and what matters of those that the broker sends.
//!
//! The encoding is rumqttc's, whose packet types nothing outside this file knows: to replace it is to rewrite this file
//! (docs/decisions/0001). Its client is not used. Pure.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::v5::mqttbytes as five;
use rumqttc::{ConnectReturnCode, mqttbytes as three};

use crate::schema::choice;

mod publish;
mod reason;

pub use reason::{Code, Reason, ReasonKind};
use reason::{ended, refused};

/// Largest packet that we accept where nothing large is ever sent to us.
pub const INCOMING_MAX: u32 = 256 * 1024;
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
    /// Largest packet that we accept. The broker is not told of it: mosquitto (2.0.11) keeps a larger message in flight for
    /// good, and after 20 of them it sends nothing more.
    pub packet_bytes: u32,
}

impl Default for Session {
    fn default() -> Self {
        Self { kept_s: None, packet_bytes: INCOMING_MAX }
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
        refused: Option<Code>,
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
                        content_type: content_type(will.payload).map(str::to_owned),
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
        self.done(publish::write(self, message, out))
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
                if let Some(incoming) = read_coded_three(bytes, most_bytes) {
                    return Ok(Some(incoming));
                }
                match three::v4::Packet::read(bytes, most_bytes as usize) {
                    Ok(packet) => Ok(Some(from_three(packet))),
                    Err(three::Error::InsufficientBytes(_)) if bytes.len() == before => Ok(None),
                    Err(error) => Err(self.malformed(&error)),
                }
            }
            Self::Five => {
                if let Some(incoming) = read_coded_five(bytes, most_bytes) {
                    return Ok(Some(incoming));
                }
                match five::v5::Packet::read(bytes, Some(most_bytes)) {
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

/// Returns what the payload is, for consumers that decode by it: `status` is text, everything else JSON, and an empty payload
/// nothing.
fn content_type(payload: &[u8]) -> Option<&'static str> {
    Some(if payload.first()? == &b'{' { "application/json" } else { "text/plain" })
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

/// Returns how many bytes the length at the front of `bytes` takes, and the length; `None` if it has not arrived whole.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let digits = bytes.iter().take(4).position(|byte| byte & 0x80 == 0)? + 1;
    let length = bytes.iter().take(digits).rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
    Some((digits, length))
}

/// Returns where the body of the packet at the front of `bytes` begins, and its length; `None` if too little has arrived.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    length(bytes.get(1..)?).map(|(digits, length)| (1 + digits, length))
}

/// Returns the body of the packet at the front of `bytes`, and where it ends, if all of it has arrived.
fn whole(bytes: &[u8], most_bytes: u32) -> Option<(&[u8], usize)> {
    let (start, length) = frame(bytes).filter(|(_, length)| *length <= most_bytes as usize)?;
    Some((bytes.get(start..start + length)?, start + length))
}

/// Returns whether the packet at the front of `bytes` is a message of more than `most_bytes`.
pub fn size(bytes: &[u8], most_bytes: u32) -> Size {
    let (Some(first), Some((start, length))) = (bytes.first(), frame(bytes)) else { return Size::Fits };
    if first >> 4 != 3 || length <= most_bytes as usize {
        return Size::Fits;
    }
    let body = bytes.get(start..).unwrap_or_default();
    let number = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let bytes = start + length;
    if first & 0b110 == 0 {
        return Size::TooLarge { bytes, packet_id: None };
    }
    // Without an acknowledgement the broker would wait for it before it sends more.
    match number(0).and_then(|topic| number(2 + usize::from(topic))) {
        None => Size::Unknown,
        packet_id => Size::TooLarge { bytes, packet_id },
    }
}

/// Takes off a packet with reason codes: the decoder knows not all codes, and a code that it does not know must not end the
/// connection. It also knows no refusal of MQTT 5 that a broker for 3.1.1 sends in its own version.
fn read_coded_five(bytes: &mut BytesMut, most_bytes: u32) -> Option<Incoming> {
    let kind = bytes.first()? >> 4;
    let (body, end) = whole(bytes, most_bytes)?;
    let words = |code_at| reason_string(&bytes[..end], end - body.len() + code_at);
    let incoming = match (kind, body) {
        (2, [_, 1 | 0x84]) => Incoming::Refused(refused(Version::Five, Code(0x84), None)),
        (2, [_, code @ 0x80..=0xFF, ..]) => Incoming::Refused(refused(Version::Five, Code(*code), words(1).as_deref())),
        (4, [high, low, rest @ ..]) => Incoming::PubAck {
            packet_id: u16::from_be_bytes([*high, *low]),
            refused: rest.first().copied().map(Code).filter(|code| code.is_refusal()),
        },
        // Of QoS 2 and of the end of a subscription, neither of which we ask for.
        (5..=7 | 11, _) => Incoming::Other,
        (9, [_, _, rest @ ..]) => {
            let (digits, properties) = length(rest)?;
            suback(rest.get(digits + properties..)?)?
        }
        (14, []) => Incoming::Disconnect(ended(Code(0), None)),
        (14, [code, ..]) => Incoming::Disconnect(ended(Code(*code), words(0).as_deref())),
        _ => return None,
    };
    bytes.advance(end);
    Some(incoming)
}

/// Returns what a SUBACK with these reason codes says; `None` if it has none.
fn suback(codes: &[u8]) -> Option<Incoming> {
    let refused = codes.iter().any(|code| Code(*code).is_refusal());
    (!codes.is_empty()).then_some(Incoming::SubAck { refused })
}

/// Returns the broker's own words in a CONNACK or a DISCONNECT of MQTT 5, whose reason code is at `code_at`.
fn reason_string(packet: &[u8], code_at: usize) -> Option<String> {
    let mut packet = BytesMut::from(packet);
    // The decoder knows this one.
    *packet.get_mut(code_at)? = 0x80;
    match five::v5::Packet::read(&mut packet, None).ok()? {
        five::v5::Packet::ConnAck(ack) => {
            let properties = ack.properties?;
            let words = [properties.reason_string, properties.server_reference];
            Some(words.into_iter().flatten().collect::<Vec<_>>().join(", "))
        }
        five::v5::Packet::Disconnect(disconnect) => disconnect.properties?.reason_string,
        _ => None,
    }
}

/// Takes off a packet with codes that the decoder does not know: brokers for 3.1.1 answer with those of MQTT 5, too.
fn read_coded_three(bytes: &mut BytesMut, most_bytes: u32) -> Option<Incoming> {
    let kind = bytes.first()? >> 4;
    let (body, end) = whole(bytes, most_bytes)?;
    let incoming = match (kind, body) {
        (2, [_, code @ 6..=0xFF]) => Incoming::Refused(refused(Version::Three, Code(*code), None)),
        (9, [_, _, codes @ ..]) => suback(codes)?,
        _ => return None,
    };
    bytes.advance(end);
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
    use three::v4::Packet;
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
            Incoming::Refused(refused(Version::Three, Code(code), None))
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
        _ => Incoming::Other,
    }
}

fn from_five(packet: five::v5::Packet) -> Incoming {
    use five::v5::{ConnectReturnCode, Packet};
    match packet {
        // The refusals were read before.
        Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => {
            let limits = ack.properties.map_or(Limits::NONE, |set| Limits {
                inflight: set.receive_max.unwrap_or(u16::MAX).max(1),
                packet_bytes: set.max_packet_size.unwrap_or(OUTGOING_MAX),
                keep_alive_s: set.server_keep_alive,
                qos: if set.max_qos == Some(0) { Qos::AtMostOnce } else { Qos::AtLeastOnce },
                retain: set.retain_available != Some(0),
            });
            Incoming::Accepted { limits, resumed: ack.session_present }
        }
        Packet::PingResp(_) => Incoming::Pong,
        Packet::Publish(publish) => Incoming::Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            packet_id: (publish.qos != five::QoS::AtMostOnce).then_some(publish.pkid),
            payload: publish.payload,
            retained: publish.retain,
            repeated: publish.dup,
        },
        _ => Incoming::Other,
    }
}

#[cfg(test)]
mod tests;
