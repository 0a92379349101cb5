//! Errors of TLS in words for a person: what is wrong, and what to do. Pure.

use std::io;
use std::path::Path;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::certificate::{Certificate, Key, Name, date};
use super::verify::UnfitKey;

/// The smallest RSA key with which a signature is verified.
const RSA_BITS: usize = 2048;
/// What WebPKI calls a certificate that signed another one and may not.
const NO_AUTHORITY: &str = "EndEntityUsedAsCa";
const TAKEN: &str = "RSA of 2048 bits or more, ECDSA on P-256 or P-384, and Ed25519";

/// What is known of a handshake that failed.
pub(super) struct Handshake<'a> {
    /// The host in mqtt.broker.
    pub host: &'a str,
    pub ca_file: Option<&'a Path>,
    /// The certificates in `ca_file`.
    pub listed: &'a [Certificate],
    /// The broker's certificate.
    pub seen: Option<Certificate>,
}

/// Returns the commands that make a certificate that works.
fn recipe(host: &str) -> String {
    let kind = if host.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
    format!(
        "make another one, for example: openssl req -x509 -newkey rsa:2048 -nodes -days 825 -subj /CN={host} -addext \
         subjectAltName={kind}:{host} -keyout server.key -out server.crt (docs/service.md has the steps with an authority \
         of your own)"
    )
}

/// Returns the error that rustls has put into an error of the stream.
pub(super) fn cause(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Returns why a connection failed that was encrypted already, or an error without a certificate in it. A broker refuses
/// our certificate only after the handshake (TLS 1.3).
pub(super) fn of_stream(error: &Error) -> String {
    let words = match error {
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => OLD_TLS,
        Error::PeerIncompatible(_) => {
            "it and edgewatt have no way of encryption in common; update the broker's TLS library"
        }
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => "it does not speak TLS on this port",
        Error::PeerMisbehaved(_) | Error::DecryptError | Error::InappropriateHandshakeMessage { .. } => {
            "it breaks the rules of TLS; does something between this machine and the broker change the data?"
        }
        Error::NoCertificatesPresented => {
            "it shows no certificate; set one in the broker (mosquitto: certfile, keyfile)"
        }
        Error::NoApplicationProtocol => "it supports none of the protocols in mqtt.alpn",
        Error::FailedToGetCurrentTime => "this machine's clock cannot be read, so no certificate can be verified",
        _ => return error.to_string(),
    };
    format!("{words} ({error})")
}

const OLD_TLS: &str =
    "it offers only versions of TLS before 1.2, which are not safe; update the broker, or allow 1.2 there";

fn of_alert(alert: AlertDescription) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => "it asks for a client certificate; set mqtt.cert_file and mqtt.key_file",
        A::UnknownCA => "it does not trust the authority that signed mqtt.cert_file, or does not find it in its cafile",
        A::CertificateExpired => {
            "it says that the client certificate has expired; renew mqtt.cert_file, or set its clock"
        }
        A::CertificateRevoked => "it says that the client certificate is revoked; get another one for mqtt.cert_file",
        A::ProtocolVersion => OLD_TLS,
        A::HandshakeFailure | A::InsufficientSecurity => {
            "it refuses the connection: it asks for a client certificate (mqtt.cert_file, mqtt.key_file), or its own \
             certificate has a key that edgewatt does not know (it takes RSA of 2048 bits or more, ECDSA on P-256 or P-384, \
             Ed25519), or no cipher is in common"
        }
        A::UnrecognisedName => "it has no certificate for the host in mqtt.broker; write the name that it knows",
        A::NoApplicationProtocol => "it supports none of the protocols in mqtt.alpn",
        A::InternalError => "it has an internal error; its own log says which",
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied | A::DecryptError => {
            "it refuses the client certificate; check mqtt.cert_file and mqtt.key_file"
        }
        _ => CLIENT_REFUSED,
    }
}

const CLIENT_REFUSED: &str = "it refuses the connection; check the client certificate (mqtt.cert_file, mqtt.key_file)";

/// Returns why a certificate, the broker's or one of ours, cannot be used.
pub(super) fn of_certificate(error: &CertificateError, handshake: &Handshake<'_>) -> String {
    let Some(seen) = &handshake.seen else {
        return format!("its certificate cannot be read; {} ({error})", recipe(handshake.host));
    };
    if seen.version < 3 {
        return format!(
            "its certificate is of X.509 version {}, which says neither which hosts it is for nor what it may be used for; {}",
            seen.version,
            recipe(handshake.host)
        );
    }
    if let Key::Rsa { bits } = seen.key
        && bits < RSA_BITS
    {
        let recipe = recipe(handshake.host);
        return format!(
            "its certificate has {}, which is too short: {RSA_BITS} bits are the least; {recipe}",
            seen.key
        );
    }
    if let Some(hash) = seen.weak_signature.filter(|_| is_of_signature(error)) {
        return format!("its certificate is signed with {hash}, which is not safe; {}", recipe(handshake.host));
    }
    match error {
        CertificateError::UnknownIssuer => unknown_issuer(seen, handshake),
        // As `openssl req -x509` makes it, and not the one in `ca_file`.
        CertificateError::Other(_) if seen.is_ca && seen.is_self_issued => unknown_issuer(seen, handshake),
        CertificateError::ExpiredContext { time, not_after } => {
            let whose =
                if not_after.as_secs() == seen.not_after { "its certificate" } else { "a certificate of its chain" };
            let (day, today) = (of_day(*not_after), of_day(*time));
            format!("{whose} has expired, on {day}; renew it, or set this machine's clock, which says {today}")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (day, today) = (of_day(*not_before), of_day(*time));
            format!(
                "its certificate is valid from {day}, and this machine's clock says {today}; is the clock wrong? A Raspberry \
                 Pi has no clock that goes on without power"
            )
        }
        CertificateError::Expired | CertificateError::NotValidYet => {
            format!(
                "the dates of its certificate are wrong, from {} to {}",
                date(seen.not_before),
                date(seen.not_after)
            )
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            wrong_name(seen, handshake)
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for a server: its extendedKeyUsage needs serverAuth, or must be left out".to_owned()
        }
        CertificateError::Revoked => "its certificate is revoked; renew it".to_owned(),
        CertificateError::BadSignature => format!(
            "the signature on its certificate is not that of \"{}\" in {}; was the authority made again? Then take its new \
             certificate",
            shown(&seen.issuer),
            trusted(handshake.ca_file)
        ),
        CertificateError::Other(other) if other.0.is::<UnfitKey>() => {
            format!("its certificate has {}; edgewatt takes {TAKEN}", seen.key)
        }
        CertificateError::Other(other) if other.0.to_string() == NO_AUTHORITY => {
            "a certificate of its chain is not marked as an authority's (CA:TRUE), and has signed another one; let an \
             authority sign the broker's certificate"
                .to_owned()
        }
        error if is_of_signature(error) => format!(
            "its certificate has {} and is signed in a way that edgewatt does not know; it takes {TAKEN}, with SHA-256 or \
             better",
            seen.key
        ),
        _ if seen.is_ca => format!(
            "its certificate is marked as an authority's (CA:TRUE), and is not itself in {}; set mqtt.ca_file to exactly this \
             certificate, or {}",
            trusted(handshake.ca_file),
            recipe(handshake.host)
        ),
        error => format!("its certificate, \"{}\", is not valid ({error})", seen.holder()),
    }
}

#[allow(deprecated)]
fn is_of_signature(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithm
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
    )
}

fn of_day(time: UnixTime) -> String {
    date(time.as_secs())
}

fn shown(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or("a name that is not given")
}

fn trusted(ca_file: Option<&Path>) -> String {
    ca_file.map_or_else(|| "the system's authorities".to_owned(), |path| path.display().to_string())
}

fn unknown_issuer(seen: &Certificate, handshake: &Handshake<'_>) -> String {
    let (holder, issuer) = (seen.holder(), shown(&seen.issuer));
    let Some(file) = handshake.ca_file.map(Path::display) else {
        return if seen.is_self_issued {
            format!("its certificate, \"{holder}\", is self-signed; set mqtt.ca_file to a copy of that certificate")
        } else {
            format!(
                "its certificate is signed by an authority that is not trusted, \"{issuer}\"; set mqtt.ca_file to the \
                 certificate of that authority. If this is an authority of the public, the broker does not send the \
                 certificates between (often in fullchain.pem)"
            )
        };
    };
    let signer = handshake.listed.iter().find(|listed| listed.subject == seen.issuer && !seen.is_self_issued);
    if let Some(signer) = signer.filter(|signer| !signer.may_sign()) {
        return format!(
            "its certificate is signed by \"{issuer}\" in {file}, which is not marked as an authority's (CA:TRUE), so that it \
             vouches for itself alone; {}",
            if signer.version < 3 {
                "make the authority again, of X.509 version 3"
            } else {
                "make the authority again, with basicConstraints=critical,CA:TRUE"
            }
        );
    }
    if let Some(dates) = signer.and_then(wrong_dates) {
        return format!(
            "its certificate is signed by \"{issuer}\" in {file}, whose own certificate {dates}; renew that one, or set this \
             machine's clock"
        );
    }
    if signer.is_some() {
        return format!(
            "its certificate is not signed by the \"{issuer}\" in {file}, but by another authority of that name; was the \
             authority made again? Then copy its new certificate to {file}"
        );
    }
    if seen.is_self_issued {
        return format!(
            "its certificate, \"{holder}\", is self-signed, and is not one of those in {file}; put a copy of that certificate \
             (mosquitto: certfile) there"
        );
    }
    format!(
        "its certificate is signed by an authority that is not trusted, \"{issuer}\"; set mqtt.ca_file to the certificate of \
         that authority; {file} has {}",
        handshake.listed.iter().map(with_dates).collect::<Vec<_>>().join(", ")
    )
}

/// Returns what is wrong with the dates of an authority's certificate now; `None` if nothing is.
fn wrong_dates(listed: &Certificate) -> Option<String> {
    let now = UnixTime::now().as_secs();
    if listed.is_valid_at(now) {
        return None;
    }
    let (from, until, today) = (date(listed.not_before), date(listed.not_after), date(now));
    Some(if now < listed.not_before {
        format!("is valid from {from}, and the clock says {today}")
    } else {
        format!("has expired, on {until} (the clock says {today})")
    })
}

fn with_dates(listed: &Certificate) -> String {
    let dates = wrong_dates(listed).map_or_else(String::new, |dates| format!(", which {dates}"));
    format!("\"{}\"{dates}", listed.holder())
}

fn wrong_name(seen: &Certificate, handshake: &Handshake<'_>) -> String {
    let host = handshake.host;
    let Some(names) = seen.names_text() else {
        return format!(
            "its certificate is for another name than the one in mqtt.broker: it has no subjectAltName, and its common name \
             is \"{}\", not {host}; {}",
            seen.holder(),
            recipe(host)
        );
    };
    let as_name = |name: &Name| matches!(name, Name::Dns(name) if name == host);
    if host.parse::<std::net::IpAddr>().is_ok() && seen.names.iter().flatten().any(as_name) {
        return format!("its certificate is for {names}; an address needs IP:{host} there, not DNS:{host}");
    }
    format!(
        "its certificate is for another name than the one in mqtt.broker: it is for {names}, not for {host}; write one of its \
         names in mqtt.broker, or add {host} to its subjectAltName"
    )
}

/// Returns why a certificate of ours and its key cannot be used together.
pub(super) fn of_identity(error: &Error, chain: &[Certificate], public_key: Option<&[u8]>) -> String {
    match error {
        Error::InconsistentKeys(_) => {
            let own = |certificate: &Certificate| public_key.is_some_and(|key| key.ends_with(&certificate.public_key));
            match chain.iter().position(own) {
                Some(place) if place > 0 => format!(
                    "the key belongs to certificate {} of the file; the node's own certificate must be the first one, then \
                     those of its authorities",
                    place + 1
                ),
                _ => "the key does not belong to this certificate".to_owned(),
            }
        }
        Error::InvalidCertificate(error) => {
            let seen = chain.first().cloned();
            of_certificate(error, &Handshake { host: "this-node", ca_file: None, listed: &[], seen })
        }
        Error::General(_) | Error::Other(_) => {
            format!("the key is of a kind that edgewatt cannot use; it takes {TAKEN}")
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn words(error: &CertificateError, change: impl FnOnce(&mut Certificate)) -> String {
        let params = CertificateParams::new(["b.example".to_owned()]).unwrap();
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut seen = Certificate::parse(der.der()).unwrap();
        change(&mut seen);
        of_certificate(error, &Handshake { host: "192.0.2.7", ca_file: None, listed: &[], seen: Some(seen) })
    }

    #[test]
    fn what_no_broker_of_a_test_shows_has_words_too() {
        let bad = CertificateError::BadSignature;
        let first = words(&CertificateError::BadEncoding, |seen| seen.version = 1);
        assert!(first.contains("X.509 version 1") && first.contains("subjectAltName=IP:192.0.2.7"), "{first}");
        let short = words(&bad, |seen| seen.key = Key::Rsa { bits: 1024 });
        assert!(short.contains("an RSA key of 1024 bits, which is too short"), "{short}");
        let weak = words(&bad, |seen| seen.weak_signature = Some("SHA-1"));
        assert!(weak.contains("signed with SHA-1"), "{weak}");
        let as_name = |seen: &mut Certificate| seen.names = Some(vec![Name::Dns("192.0.2.7".into())]);
        let address = words(&CertificateError::NotValidForName, as_name);
        assert!(address.contains("needs IP:192.0.2.7 there, not DNS:192.0.2.7"), "{address}");
        let at = |s| UnixTime::since_unix_epoch(std::time::Duration::from_secs(s));
        let early = CertificateError::NotValidYetContext { time: at(0), not_before: at(86_400) };
        assert!(words(&early, |_| {}).contains("valid from 1970-01-02, and this machine's clock says 1970-01-01"));
        assert!(words(&CertificateError::InvalidPurpose, |_| {}).contains("serverAuth"));
        assert!(words(&CertificateError::Revoked, |_| {}).contains("revoked"));
    }
}
