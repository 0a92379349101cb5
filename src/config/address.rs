//! The broker's address as the user writes it.

use std::net::IpAddr;

use super::checked::Broker;

/// `embedded`, or `mqtt://host[:port]`.
pub fn parse_broker(text: &str) -> Result<Broker, String> {
    if text == "embedded" {
        return Ok(Broker::Embedded);
    }
    if text.contains('@') {
        // Not shown: it may hold a password.
        return Err("user and password in the address are not offered; write \"mqtt://host:1883\"".into());
    }
    let wrong = |why: &str| format!("`{text}`: {why}; write \"mqtt://host:1883\" or \"embedded\"");
    let address = text.strip_prefix("mqtt://").ok_or_else(|| {
        wrong(if text.contains("://") { "only mqtt:// is offered in this version" } else { "the scheme is missing" })
    })?;
    let (host, port) = split_host_port(address).ok_or_else(|| wrong("the address is not host or host:port"))?;
    let is_name = |h: &str| h.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if host.is_empty() || !(is_name(host) || host.parse::<IpAddr>().is_ok()) {
        return Err(wrong("the host is not a name or an address"));
    }
    Ok(Broker::Tcp { host: host.to_owned(), port })
}

fn split_host_port(address: &str) -> Option<(&str, u16)> {
    const DEFAULT_PORT: u16 = 1883;
    if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, port.parse().ok()?)),
            None => port.is_empty().then_some((host, DEFAULT_PORT)),
        };
    }
    match address.rsplit_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((address, DEFAULT_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_and_wrong_ones_say_what_is_right() {
        let tcp = |host: &str, port| Ok(Broker::Tcp { host: host.into(), port });
        assert_eq!(parse_broker("embedded"), Ok(Broker::Embedded));
        assert_eq!(parse_broker("mqtt://broker.lan"), tcp("broker.lan", 1883));
        assert_eq!(parse_broker("mqtt://10.0.0.2:1884"), tcp("10.0.0.2", 1884));
        assert_eq!(parse_broker("mqtt://[::1]:1884"), tcp("::1", 1884));
        assert_eq!(parse_broker("mqtt://[::1]"), tcp("::1", 1883));
        for wrong in
            ["", "broker.lan", "mqtts://h", "mqtt://", "mqtt://h:x", "mqtt://h:70000", "mqtt://h/x", "mqtt://[::1"]
        {
            let message = parse_broker(wrong).unwrap_err();
            assert!(message.contains("mqtt://host:1883") && message.contains(wrong), "{message}");
        }
        let message = parse_broker("mqtt://bob:s3cret@h").unwrap_err();
        assert!(!message.contains("s3cret"), "{message}");
    }
}
