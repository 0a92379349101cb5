//! The broker's address as the user writes it.

use std::net::IpAddr;

use super::transport::{Endpoint, Tls};

/// The broker to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broker {
    /// Nothing goes over MQTT.
    None,
    Embedded,
    At(Endpoint),
}

const SCHEMES: &str = "mqtt://, mqtts:// (with TLS), ws:// or wss:// (over a WebSocket, as wss://host/mqtt)";

/// `none`, `embedded`, or `SCHEME://host[:port]`, for WebSockets with a path.
pub fn parse_broker(text: &str) -> Result<Broker, String> {
    match text {
        "none" => return Ok(Broker::None),
        "embedded" => return Ok(Broker::Embedded),
        _ => {}
    }
    if text.contains('@') {
        // The address is not shown, because it may contain a password.
        return Err("user and password do not belong in the address; write \"mqtts://host\", and set mqtt.user and \
                    mqtt.password_file"
            .into());
    }
    let wrong =
        |why: &str| format!("`{text}`: {why}; write \"mqtt://host:1883\" or \"none\"; the schemes are {SCHEMES}");
    let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("the scheme is missing"))?;
    let (tls, websocket, default_port) = match scheme {
        "mqtt" => (false, false, 1883),
        "mqtts" => (true, false, 8883),
        "ws" => (false, true, 80),
        "wss" => (true, true, 443),
        "tcp" => return Err(wrong("this scheme is not supported; here it is mqtt://")),
        "ssl" | "tls" | "mqtt+ssl" | "mqtt+tls" => {
            return Err(wrong("this scheme is not supported; here it is mqtts://"));
        }
        "http" => return Err(wrong("this scheme is not supported; MQTT over a WebSocket is ws://")),
        "https" => return Err(wrong("this scheme is not supported; MQTT over a WebSocket with TLS is wss://")),
        _ => return Err(wrong("this scheme is not supported")),
    };
    let (address, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    if !websocket && !path.is_empty() {
        return Err(wrong("only a WebSocket has a path"));
    }
    if !path.chars().all(|c| c.is_ascii_graphic()) {
        return Err(wrong("the path is not a valid URL path"));
    }
    let (host, port) =
        split_host_port(address, default_port).ok_or_else(|| wrong("the address is not host or host:port"))?;
    let is_name = |h: &str| h.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if host.is_empty() || !(is_name(host) || host.parse::<IpAddr>().is_ok()) {
        return Err(wrong("the host is not a name or an address"));
    }
    let websocket = websocket.then(|| if path.is_empty() { "/".to_owned() } else { path.to_owned() });
    Ok(Broker::At(Endpoint { host: host.to_owned(), port, tls: tls.then(Tls::default), websocket }))
}

fn split_host_port(address: &str, default_port: u16) -> Option<(&str, u16)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, port.parse().ok()?)),
            None => port.is_empty().then_some((host, default_port)),
        };
    }
    match address.rsplit_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((address, default_port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_and_wrong_ones_say_what_is_right() {
        let at = |host: &str, port, tls, websocket: Option<&str>| {
            let tls = if tls { Some(Tls::default()) } else { None };
            Ok(Broker::At(Endpoint { host: host.into(), port, tls, websocket: websocket.map(str::to_owned) }))
        };
        let tcp = |host, port| at(host, port, false, None);
        assert_eq!(parse_broker("embedded"), Ok(Broker::Embedded));
        assert_eq!(parse_broker("none"), Ok(Broker::None));
        assert_eq!(parse_broker("mqtt://broker.lan"), tcp("broker.lan", 1883));
        assert_eq!(parse_broker("mqtt://10.0.0.2:1884"), tcp("10.0.0.2", 1884));
        assert_eq!(parse_broker("mqtt://[::1]:1884"), tcp("::1", 1884));
        assert_eq!(parse_broker("mqtt://[::1]"), tcp("::1", 1883));
        assert_eq!(parse_broker("mqtts://h"), at("h", 8883, true, None));
        assert_eq!(parse_broker("ws://h:9001"), at("h", 9001, false, Some("/")));
        assert_eq!(parse_broker("wss://h/mqtt?x=1"), at("h", 443, true, Some("/mqtt?x=1")));
        for wrong in
            ["", "broker.lan", "http://h", "mqtt://", "mqtt://h:x", "mqtt://h:70000", "mqtt://h/x", "mqtt://[::1"]
        {
            let message = parse_broker(wrong).unwrap_err();
            assert!(message.contains("mqtt://host:1883") && message.contains(wrong), "{message}");
        }
        let message = parse_broker("mqtt://bob:s3cret@h").unwrap_err();
        assert!(!message.contains("s3cret"), "{message}");
    }
}
