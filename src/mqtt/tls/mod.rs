//! The TLS connection to the broker: which certificates it trusts, which one it shows, and why it fails.
//!
//! Files are read again for each connection, so a renewed certificate needs no restart. Leaves the socket to `transport`.

mod certificate;
mod files;
mod verify;
mod words;

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::{ClientConnection, danger::ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use self::certificate::{Certificate, date};
use self::verify::{Seen, Verifier};
use self::words::Handshake;
use super::speaks::{HEAD_BYTES, Speaks, speaks};

/// How a TLS connection is verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The only certificates to trust, those of authorities or of the broker itself; `None`: the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key, for brokers that ask for one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Protocols to offer, such as `mqtt` if port 443 is shared.
    pub alpn: Vec<String>,
}

/// Why there is no TLS connection.
pub(super) struct Failed {
    pub reason: String,
    /// The other end closed the connection, and had said nothing.
    pub is_silent: bool,
    /// What it speaks instead of TLS.
    pub speaks: Option<Speaks>,
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self { reason, is_silent: false, speaks: None }
    }
}

/// What a connection is made of.
struct Prepared {
    config: ClientConfig,
    listed: Vec<Certificate>,
    seen: Seen,
}

/// Reads the files, and says what is wrong with them. A key that this user may not read is left to the daemon's user.
pub fn check_files(tls: &Tls) -> Result<(), String> {
    let is_denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let is_private = tls.client.as_ref().is_some_and(|(_, key)| std::fs::File::open(key).is_err_and(is_denied));
    prepare(&Tls { client: tls.client.clone().filter(|_| !is_private), ..tls.clone() }).map(|_| ())
}

/// Encrypts a socket to `host`. Returns the stream, and what was agreed on: version, cipher suite, and until when the
/// broker's certificate is valid.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    host: &str,
    tls: &Tls,
    socket: S,
) -> Result<(TlsStream<Tap<S>>, String), Failed> {
    let files = tls.clone();
    let prepared = tokio::task::spawn_blocking(move || prepare(&files)).await;
    let Prepared { config, listed, seen } = prepared.map_err(|error| error.to_string())??;
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is not a valid name for a certificate"))?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, Tap { socket, head: Vec::new() });
    let stream = match connecting.into_fallible().await {
        Ok(stream) => stream,
        Err((error, tap)) => {
            let is_silent = tap.head.is_empty() && words::cause(&error).is_none();
            let speaks = speaks(&tap.head).filter(|speaks| !speaks.is_tls());
            let reason = match words::cause(&error) {
                Some(rustls::Error::InvalidCertificate(fault)) => {
                    let ca_file = tls.ca_file.as_deref();
                    words::of_certificate(
                        fault,
                        &Handshake { host, ca_file, listed: &listed, seen: seen.certificate() },
                    )
                }
                _ if is_silent => "it closed the connection in the TLS handshake".to_owned(),
                _ => reason(&error),
            };
            return Err(Failed { reason, is_silent, speaks });
        }
    };
    let (_, session) = stream.get_ref();
    let version = session.protocol_version().map_or_else(String::new, |version| format!("{version:?}"));
    let suite = session.negotiated_cipher_suite().map_or_else(String::new, |suite| format!(" {:?}", suite.suite()));
    let until = seen.certificate().map_or_else(String::new, |seen| {
        format!(", certificate \"{}\" valid until {}", seen.holder(), date(seen.not_after))
    });
    Ok((stream, format!("{version}{suite}{until}")))
}

/// Returns why reading or writing failed, with what to do if that is known.
pub(super) fn reason(error: &io::Error) -> String {
    words::cause(error).map_or_else(|| error.to_string(), words::of_stream)
}

/// Returns the first bytes of a client that wants TLS.
pub(super) fn hello() -> Option<Vec<u8>> {
    let config = builder(Arc::new(ring::default_provider())).ok()?.with_root_certificates(RootCertStore::empty());
    let name = ServerName::try_from("localhost").ok()?;
    let mut session = ClientConnection::new(Arc::new(config.with_no_client_auth()), name).ok()?;
    let mut hello = Vec::new();
    session.write_tls(&mut hello).ok()?;
    Some(hello)
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
}

fn prepare(tls: &Tls) -> Result<Prepared, String> {
    let mut roots = RootCertStore::empty();
    let mut listed = Vec::new();
    match &tls.ca_file {
        Some(path) => {
            listed = files::certificates(path)?;
            let now = UnixTime::now().as_secs();
            for (place, certificate) in listed.iter().enumerate() {
                let wrong =
                    |why: String| format!("{}: certificate {} cannot be used: {why}", path.display(), place + 1);
                let facts = Certificate::parse(certificate).ok_or_else(|| wrong("it cannot be read".into()))?;
                // Others are trusted themselves, and vouch for nobody else. WebPKI does not look at this in its roots.
                let vouches = facts.may_sign() && facts.is_valid_at(now);
                let store = if vouches { &mut roots } else { &mut RootCertStore::empty() };
                store.add(certificate.clone()).map_err(|error| wrong(error.to_string()))?;
            }
        }
        None => {
            // Some certificates of a system may be unusable, but not all.
            let (good, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if good == 0 {
                return Err(
                    "this system has no certificate authorities; install ca-certificates or set mqtt.ca_file".into()
                );
            }
        }
    }
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let facts = listed.iter().filter_map(|der| Certificate::parse(der)).collect();
    let seen = Seen::default();
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(Verifier { listed, roots, algorithms, seen: seen.clone() });
    let builder = builder(provider.clone())?.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let private = files::private_key(key)?;
            let chain = files::certificates(certificate)?;
            let facts: Vec<Certificate> = chain.iter().filter_map(|der| Certificate::parse(der)).collect();
            let signing = provider.key_provider.load_private_key(private.clone_key()).ok();
            let public = signing.as_ref().and_then(|signing| signing.public_key());
            builder.with_client_auth_cert(chain, private).map_err(|error| {
                let words = words::of_identity(&error, &facts, public.as_ref().map(AsRef::as_ref));
                format!("{} and {}: {words}", certificate.display(), key.display())
            })?
        }
    };
    config.alpn_protocols = tls.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    Ok(Prepared { config, listed: facts, seen })
}

/// A socket that keeps the first bytes that it received: if they are not TLS, they say what else it is.
pub(super) struct Tap<S> {
    socket: S,
    head: Vec<u8>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buffer);
        let room = HEAD_BYTES.saturating_sub(self.head.len());
        if room > 0 {
            let new = buffer.filled().iter().skip(before).take(room);
            self.head.extend(new);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
