//! What to write in mqtt.broker if a port does not answer as it says there.
//!
//! A port that sent nothing is greeted once in each language that it may speak. No greeting carries a user, a password or
//! a client id.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::codec::{Connect, Session, Version};
use super::speaks::{HEAD_BYTES, Speaks, speaks};
use super::tls;
use super::transport::Endpoint;

/// How long a greeting may take; all are sent at the same time.
const ANSWER: Duration = Duration::from_secs(1);
const USUAL: &str = "a broker's port is mostly 1883, with TLS 8883";

/// Returns what to write in mqtt.broker for a port that speaks this; `encrypted`: it spoke inside TLS.
pub(super) fn advice(speaks: &Speaks, endpoint: &Endpoint, encrypted: bool) -> String {
    let address = endpoint.address();
    let scheme = |plain: &str| format!("{plain}{}://{address}", if encrypted { "s" } else { "" });
    match speaks {
        Speaks::Tls => {
            let (scheme, path) = match &endpoint.websocket {
                Some(path) => ("wss", path.split('?').next().unwrap_or_default()),
                None => ("mqtts", ""),
            };
            format!("this is a TLS port: write {scheme}://{address}{path} in mqtt.broker")
        }
        Speaks::Mqtt if endpoint.websocket.is_some() => {
            format!("this port speaks MQTT without a WebSocket: write {} in mqtt.broker", scheme("mqtt"))
        }
        Speaks::Mqtt => format!("this port speaks MQTT without TLS: write {} in mqtt.broker", scheme("mqtt")),
        Speaks::Http => format!(
            "this port speaks HTTP: for MQTT over a WebSocket write {}/mqtt in mqtt.broker; otherwise take another port: \
             {USUAL}",
            scheme("ws")
        ),
        Speaks::Amqp => format!("this port speaks AMQP, not MQTT (RabbitMQ has a plugin for MQTT); {USUAL}"),
        Speaks::Text(line) if line.starts_with("SSH-") => {
            format!("this is an SSH server (\"{line}\"), not an MQTT broker; {USUAL}")
        }
        Speaks::Text(line) => format!("this is not an MQTT broker: it begins with \"{line}\"; {USUAL}"),
    }
}

/// Greets a port that closed the connection without a word. Returns what is wrong; `None` if that stays unknown.
pub(super) async fn probe(endpoint: &Endpoint, version: Version) -> Option<String> {
    let other = match version {
        Version::Three => Version::Five,
        Version::Five => Version::Three,
    };
    let hello = if endpoint.tls.is_some() { None } else { tls::hello() };
    let get = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", endpoint.bare_host()).into_bytes();
    let (secure, same, different, web) = tokio::join!(
        greet(endpoint, hello),
        greet(endpoint, login(version)),
        greet(endpoint, login(other)),
        greet(endpoint, Some(get)),
    );
    if secure == Some(Speaks::Tls) {
        return Some(advice(&Speaks::Tls, endpoint, false));
    }
    let speaks_mqtt = same == Some(Speaks::Mqtt) || different == Some(Speaks::Mqtt);
    if speaks_mqtt && (endpoint.tls.is_some() || endpoint.websocket.is_some()) {
        return Some(advice(&Speaks::Mqtt, endpoint, false));
    }
    if same == Some(Speaks::Mqtt) {
        return Some(
            "it answers a login without user and last will; it may refuse the user or the password \
             (mqtt.password_file), retained messages (then set mqtt.retain = false) or QoS 1 (then set mqtt.max_qos = 0)"
                .into(),
        );
    }
    if different == Some(Speaks::Mqtt) {
        let (own, other) = (version.name(), other.name());
        return Some(format!("it speaks MQTT {other}, not {own}: set mqtt.version = \"{other}\""));
    }
    let answers = [same, different, web].into_iter().flatten();
    let mut known = answers.filter(|speaks| !speaks.is_tls() && endpoint.websocket.is_none());
    known.next().map(|speaks| advice(&speaks, endpoint, false))
}

fn login(version: Version) -> Option<Vec<u8>> {
    let mut bytes = BytesMut::new();
    let connect = Connect { client_id: "", keep_alive_s: 10, will: None, login: None, session: Session::default() };
    version.connect(&connect, &mut bytes).ok()?;
    Some(bytes.to_vec())
}

async fn greet(endpoint: &Endpoint, greeting: Option<Vec<u8>>) -> Option<Speaks> {
    let greeting = greeting?;
    let talk = async {
        let mut stream = TcpStream::connect((endpoint.bare_host(), endpoint.port)).await.ok()?;
        stream.write_all(&greeting).await.ok()?;
        speaks(&head(&mut stream).await)
    };
    timeout(ANSWER, talk).await.ok().flatten()
}

/// Reads the first bytes; none if nothing comes.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut head = [0; HEAD_BYTES];
    let count = stream.read(&mut head).await.unwrap_or(0);
    head.get(..count).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::tls::Tls;

    #[test]
    fn the_advice_is_an_address_to_write() {
        let plain = Endpoint { host: "b.example".into(), port: 8883, tls: None, websocket: None };
        let secure = Endpoint { tls: Some(Tls::default()), ..plain.clone() };
        let web = Endpoint { websocket: Some("/mqtt?token=s3cret".into()), ..plain.clone() };
        for (speaks, endpoint, encrypted, words) in [
            (Speaks::Tls, &plain, false, "write mqtts://b.example:8883 in"),
            (Speaks::Tls, &web, false, "write wss://b.example:8883/mqtt in"),
            (Speaks::Mqtt, &secure, false, "write mqtt://b.example:8883 in"),
            (Speaks::Mqtt, &web, false, "write mqtt://b.example:8883 in"),
            (Speaks::Http, &plain, false, "write ws://b.example:8883/mqtt in"),
            (Speaks::Http, &secure, true, "write wss://b.example:8883/mqtt in"),
        ] {
            let advice = advice(&speaks, endpoint, encrypted);
            assert!(advice.contains(words) && !advice.contains("s3cret"), "{words} in {advice}");
        }
    }
}
