use super::*;

const BOTH: [Version; 2] = [Version::Three, Version::Five];

fn connect_as(login: Option<(&'static str, &'static str)>) -> Connect<'static> {
    let will = Will { topic: "e/a/status", payload: b"offline" };
    Connect { client_id: "edgewatt-a", keep_alive_s: 30, will: Some(will), login }
}

/// Read with the decoder for brokers.
#[test]
fn a_connect_says_who_we_are_and_what_to_say_when_we_are_lost() {
    let mut bytes = BytesMut::new();
    Version::Three.connect(&connect_as(Some(("ann", "s3cret"))), &mut bytes).unwrap();
    let three::v4::Packet::Connect(connect) = three::v4::Packet::read(&mut bytes, 1024).unwrap() else { panic!() };
    let will = connect.last_will.unwrap();
    assert_eq!((connect.keep_alive, connect.clean_session, connect.client_id.as_str()), (30, true, "edgewatt-a"));
    assert_eq!((will.topic.as_str(), &will.message[..], will.retain), ("e/a/status", &b"offline"[..], true));
    assert_eq!(connect.login.unwrap().password, "s3cret");

    Version::Five.connect(&connect_as(None), &mut bytes).unwrap();
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
    assert_eq!(read(Version::Three, &[0x20, 2, 0, 0]), Ok(Some(Incoming::Accepted(Limits::NONE))));
    let limits =
        Limits { inflight: 20, packet_bytes: 4096, keep_alive_s: Some(10), qos: Qos::AtMostOnce, retain: false };
    let said = [0x20, 18, 0, 0, 15, 0x21, 0, 20, 0x27, 0, 0, 0x10, 0, 0x13, 0, 10, 0x24, 0, 0x25, 0];
    assert_eq!(read(Version::Five, &said), Ok(Some(Incoming::Accepted(limits))));
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
        assert!(matches!(&bye, Ok(Some(Incoming::Disconnect(reason))) if reason.contains(words)), "{bye:?}");
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
