//! Packets as the standards have them, and whatever else a broker may send.

use super::*;

const BOTH: [Version; 2] = [Version::Three, Version::Five];

fn bytes(version: Version, write: impl FnOnce(Version, &mut BytesMut) -> Result<(), Malformed>) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(version, &mut out).unwrap();
    out.to_vec()
}

fn outgoing(payload: &Bytes) -> Outgoing<'_> {
    Outgoing {
        topic: "t",
        payload,
        qos: Qos::AtLeastOnce,
        retain: true,
        packet_id: 7,
        expiry_s: Some(60),
        waited_ms: Some(1_500),
    }
}

/// Written down from the standards: any codec in place of this one has to write the same.
#[test]
fn packets_are_written_as_the_standards_have_them() {
    let will = Some(Will { topic: "t", payload: b"x", qos: Qos::AtLeastOnce, retain: true });
    let login =
        Connect { client_id: "e", keep_alive_s: 30, will, login: Some(("u", "p")), session: Session::default() };
    assert_eq!(
        bytes(Version::Three, |version, out| version.connect(&login, out)),
        b"\x10\x19\0\x04MQTT\x04\xEE\0\x1E\0\x01e\0\x01t\0\x01x\0\x01u\0\x01p"
    );
    assert_eq!(
        bytes(Version::Five, |version, out| version.connect(&login, out)),
        b"\x10\x2A\0\x04MQTT\x05\xEE\0\x1E\0\0\x01e\x0F\x01\x01\x03\0\x0Atext/plain\0\x01t\0\x01x\0\x01u\0\x01p"
    );
    let modest = Will { topic: "t", payload: b"x", qos: Qos::AtMostOnce, retain: false };
    assert_eq!(
        bytes(Version::Three, |version, out| version.connect(&Connect { will: Some(modest), ..login }, out)),
        b"\x10\x19\0\x04MQTT\x04\xC6\0\x1E\0\x01e\0\x01t\0\x01x\0\x01u\0\x01p"
    );
    let plain = Connect { will: None, login: None, ..login };
    assert_eq!(
        bytes(Version::Three, |version, out| version.connect(&plain, out)),
        b"\x10\x0D\0\x04MQTT\x04\x02\0\x1E\0\x01e"
    );

    let payload = Bytes::from_static(b"{");
    let message = outgoing(&payload);
    assert_eq!(bytes(Version::Three, |version, out| version.publish(&message, out)), b"\x33\x06\0\x01t\0\x07{");
    let properties = b"\x2C\x01\x01\x02\0\0\0\x3C\x26\0\x09waited_ms\0\x041500\x03\0\x10application/json";
    let expected = [&b"\x33\x33\0\x01t\0\x07"[..], properties, b"{"].concat();
    assert_eq!(bytes(Version::Five, |version, out| version.publish(&message, out)), expected);
    let fleeting = Outgoing { qos: Qos::AtMostOnce, retain: false, packet_id: 0, ..message };
    assert_eq!(bytes(Version::Three, |version, out| version.publish(&fleeting, out)), b"\x30\x04\0\x01t{");

    let subscribe = |version: Version, out: &mut BytesMut| {
        version.subscribe(&Subscribe { filter: "t", qos: Qos::AtLeastOnce, preserve_retain: true }, 1, out)
    };
    assert_eq!(bytes(Version::Three, subscribe), b"\x82\x06\0\x01\0\x01t\x01");
    assert_eq!(bytes(Version::Five, subscribe), b"\x82\x07\0\x01\0\0\x01t\x09");
    for version in BOTH {
        assert_eq!(bytes(version, |version, out| version.ack(7, out)), b"\x40\x02\0\x07");
        let mut out = BytesMut::new();
        version.ping(&mut out);
        version.disconnect(&mut out);
        assert_eq!(&out[..], b"\xC0\0\xE0\0");
    }
}

#[test]
fn a_message_comes_back_as_it_went_out() {
    let payload = Bytes::from_static(b"{\"v\":1}");
    for version in BOTH {
        let mut out = BytesMut::new();
        version.publish(&outgoing(&payload), &mut out).unwrap();
        let expected = Incoming::Message {
            topic: "t".into(),
            payload: payload.clone(),
            retained: true,
            repeated: false,
            packet_id: Some(7),
        };
        assert_eq!(version.read(&mut out, INCOMING_MAX).unwrap(), Some(expected));
        assert!(out.is_empty());
    }
}

#[test]
fn a_message_that_mqtt_has_no_room_for_is_refused_and_nothing_of_it_is_written() {
    let payload = Bytes::from_static(b"{");
    let topic = "t".repeat(65_536);
    for version in BOTH {
        let mut out = BytesMut::new();
        assert!(version.publish(&Outgoing { topic: &topic, ..outgoing(&payload) }, &mut out).is_err());
        assert!(out.is_empty());
    }
}

#[test]
fn answers_are_understood_and_halves_are_waited_for() {
    let read = |version: Version, bytes: &[u8]| version.read(&mut BytesMut::from(bytes), INCOMING_MAX);
    let acked = |refused| Ok(Some(Incoming::PubAck { packet_id: 9, refused }));
    assert_eq!(read(Version::Three, &[0x40, 2, 0, 9]), acked(None));
    assert_eq!(read(Version::Five, &[0x40, 2, 0, 9]), acked(None));
    assert_eq!(read(Version::Five, &[0x40, 3, 0, 9, 0x10]), acked(None));
    assert_eq!(read(Version::Five, &[0x40, 4, 0, 9, 0x87, 0]), acked(Some(Code(0x87))));
    for version in BOTH {
        assert_eq!(read(version, &[0xD0, 0]), Ok(Some(Incoming::Pong)));
        assert_eq!(read(version, &[0x40, 2, 0]), Ok(None));
        assert!(read(version, &[0x00, 0]).is_err());
    }
    assert_eq!(
        read(Version::Three, &[0x20, 2, 0, 0]),
        Ok(Some(Incoming::Accepted { limits: Limits::NONE, resumed: false }))
    );
    let limits =
        Limits { inflight: 20, packet_bytes: 4096, keep_alive_s: Some(10), qos: Qos::AtMostOnce, retain: false };
    let connack = [0x20, 18, 0, 0, 15, 0x21, 0, 20, 0x27, 0, 0, 0x10, 0, 0x13, 0, 10, 0x24, 0, 0x25, 0];
    assert_eq!(read(Version::Five, &connack), Ok(Some(Incoming::Accepted { limits, resumed: false })));
}

/// A code that the standard does not define must not end the connection: the next one would end in the same way.
#[test]
fn codes_are_understood_by_their_class() {
    let read =
        |version: Version, bytes: &[u8]| version.read(&mut BytesMut::from(bytes), INCOMING_MAX).unwrap().unwrap();
    for (code, name) in [(0x95, "packet_too_large"), (0x92, "packet_identifier_not_found"), (0xBB, "0xbb")] {
        for ack in [&[0x40, 3, 0, 9, code][..], &[0x40, 4, 0, 9, code, 0]] {
            assert_eq!(read(Version::Five, ack), Incoming::PubAck { packet_id: 9, refused: Some(Code(code)) });
        }
        assert_eq!(Code(code).to_string(), name);
        for kind in [0x50, 0x62, 0x70] {
            assert_eq!(read(Version::Five, &[kind, 3, 0, 9, code]), Incoming::Other);
        }
        assert_eq!(read(Version::Five, &[0xB0, 4, 0, 9, 0, code]), Incoming::Other);
        assert_eq!(read(Version::Five, &[0x90, 5, 0, 9, 0, 1, code]), Incoming::SubAck { refused: true });
        assert_eq!(read(Version::Three, &[0x90, 4, 0, 9, 0, code]), Incoming::SubAck { refused: true });
    }
    assert_eq!(read(Version::Five, &[0x40, 3, 0, 9, 0x7F]), Incoming::PubAck { packet_id: 9, refused: None });
    // With a property before the codes.
    let granted = [0x90, 9, 0, 9, 5, 0x1F, 0, 2, b'o', b'k', 1];
    assert_eq!(read(Version::Five, &granted), Incoming::SubAck { refused: false });
    for bytes in [&[0x20, 8, 0, 0xBB, 5, 0x1F, 0, 2, b'n', b'o'][..], &[0xE0, 7, 0xBB, 5, 0x1F, 0, 2, b'n', b'o']] {
        match read(Version::Five, bytes) {
            Incoming::Refused(reason) | Incoming::Disconnect(reason) => {
                assert!(reason.words.ends_with("the reason 0xbb, which MQTT does not define (no)"), "{reason:?}");
            }
            other => panic!("{other:?}"),
        }
    }
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
        (Version::Five, &[0x20, 3, 0, 0x89, 0], "it is busy"),
        (Version::Five, &[0x20, 3, 0, 0x9A, 0], "mqtt.retain = false"),
        (Version::Five, &[0x20, 3, 0, 0xBB, 0], "the reason 0xbb"),
        (
            Version::Five,
            &[0x20, 8, 0, 0x9C, 5, 0x1C, 0, 2, b'b', b'2'],
            "another server is to be used for now; set mqtt.broker to it (b2)",
        ),
        // In the words of the newer version.
        (Version::Three, &[0x20, 2, 0, 0x8A], "banned"),
    ] {
        match version.read(&mut BytesMut::from(bytes), INCOMING_MAX) {
            Ok(Some(Incoming::Refused(reason))) => assert!(reason.words.contains(words), "{reason:?}"),
            other => panic!("{other:?}"),
        }
    }
    for (bytes, words, kind) in [
        (&[0xE0, 2, 0x8B, 0][..], "it is shutting down", ReasonKind::Other),
        (&[0xE0, 1, 0x8E], "the same client id", ReasonKind::TakenOver),
        (&[0xE0, 2, 0x8E, 0], "the same client id", ReasonKind::TakenOver),
        (&[0xE0, 2, 0xBB, 0], "the reason 0xbb", ReasonKind::Other),
        (&[0xE0, 0], "ended the connection", ReasonKind::Other),
    ] {
        match Version::Five.read(&mut BytesMut::from(bytes), INCOMING_MAX) {
            Ok(Some(Incoming::Disconnect(reason))) => {
                assert!(reason.words.contains(words) && reason.kind == kind, "{reason:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// No code of the standards is told by its number alone.
#[test]
fn each_code_of_the_standards_has_words() {
    let unknown = |reason: &Reason| reason.words.contains("does not define");
    for code in 0x80..=0xA2 {
        let refusal = Version::Five.read(&mut BytesMut::from(&[0x20, 3, 0, code, 0][..]), INCOMING_MAX);
        let bye = Version::Five.read(&mut BytesMut::from(&[0xE0, 2, code, 0][..]), INCOMING_MAX);
        for said in [refusal, bye] {
            match said {
                Ok(Some(Incoming::Refused(reason) | Incoming::Disconnect(reason))) => {
                    assert!(!unknown(&reason), "{code:#x}: {reason:?}");
                }
                other => panic!("{code:#x}: {other:?}"),
            }
        }
    }
    for code in 1..=5 {
        match Version::Three.read(&mut BytesMut::from(&[0x20, 2, 0, code][..]), INCOMING_MAX) {
            Ok(Some(Incoming::Refused(reason))) => assert!(!unknown(&reason), "{reason:?}"),
            other => panic!("{other:?}"),
        }
    }
}

proptest::proptest! {
    /// The codec of others reads what we write.
    #[test]
    fn a_message_of_any_size_comes_back(
        topic in "[a-z/]{1,300}", size in 0usize..70_000, qos_1: bool, retain: bool,
        expiry_s in proptest::option::of(1u32..), waited_ms in proptest::option::of(0u64..),
    ) {
        let payload = Bytes::from(vec![b'{'; size]);
        let (qos, packet_id) = if qos_1 { (Qos::AtLeastOnce, 7) } else { (Qos::AtMostOnce, 0) };
        let message = Outgoing { topic: &topic, payload: &payload, qos, retain, packet_id, expiry_s, waited_ms };
        for version in BOTH {
            let mut out = BytesMut::new();
            version.publish(&message, &mut out).unwrap();
            let expected = Incoming::Message {
                topic: topic.clone(),
                payload: payload.clone(),
                retained: retain,
                repeated: false,
                packet_id: qos_1.then_some(7),
            };
            proptest::prop_assert_eq!(version.read(&mut out, INCOMING_MAX).unwrap(), Some(expected));
            proptest::prop_assert!(out.is_empty());
        }
    }

    /// A packet that has arrived whole is never waited for: it would be lost.
    #[test]
    fn whatever_a_broker_sends_is_understood_or_an_error(
        first in proptest::num::u8::ANY,
        body in proptest::collection::vec(proptest::num::u8::ANY, 0..100),
    ) {
        for version in BOTH {
            let mut bytes = BytesMut::from(&[first, u8::try_from(body.len()).unwrap()][..]);
            bytes.extend_from_slice(&body);
            let read = version.read(&mut bytes, INCOMING_MAX);
            proptest::prop_assert!(read != Ok(None), "{version:?}");
        }
    }
}

/// What the decision to use its codec rests on: docs/decisions/0001.
#[test]
fn no_other_file_names_the_crate_of_the_codec() {
    let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut naming = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read_to_string(&path).is_ok_and(|text| text.contains("rumqttc::")) {
                naming.push(path);
            }
        }
    }
    naming.retain(|path| !path.ends_with("codec/tests.rs"));
    assert!(naming.len() == 1 && naming[0].ends_with("src/mqtt/codec.rs"), "{naming:?}");
}

/// The broker's own words are one line of the log, whatever they are.
#[test]
fn the_broker_cannot_forge_a_line_of_the_log() {
    let words = b"gone\r\nERROR forged\x1b[2J";
    let properties = [&[0x1F, 0, words.len() as u8][..], words].concat();
    let length = properties.len() as u8;
    for packet in [[0xE0, 2 + length, 0x8B, length].to_vec(), [0x20, 3 + length, 0, 0x88, length].to_vec()] {
        let mut bytes = BytesMut::from(&[packet, properties.clone()].concat()[..]);
        match Version::Five.read(&mut bytes, 1_000) {
            Ok(Some(Incoming::Disconnect(reason) | Incoming::Refused(reason))) => {
                assert!(reason.words.ends_with("(gone??ERROR forged?[2J)"), "{reason:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}
