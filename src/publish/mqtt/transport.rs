//! Connects to the broker: name, TCP, TLS and WebSocket in turn; each step is timed and named in its error.
//!
//! Owns the stream of bytes and the verification of certificates: by the system's store, or by `ca_file` alone. Leaves
//! the packets to `codec`. Files are read again for each connection, so a renewed certificate needs no restart.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore, crypto};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::secret;

/// Room in the buffer for each read.
const READ_BYTES: usize = 16 * 1024;

/// Where the broker is, and what carries MQTT to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub tls: Option<Tls>,
    /// The path of the WebSocket that carries MQTT; `None`: no WebSocket.
    pub websocket: Option<String>,
}

impl Endpoint {
    /// Returns the host without the brackets of an IPv6 address in a URL.
    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns host and port as in a URL.
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        let bracketed = host.contains(':') && !host.starts_with('[');
        if bracketed { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// How a TLS connection is verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The only authorities to trust; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key, for brokers that ask for one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Protocols to offer, such as `mqtt` if port 443 is shared.
    pub alpn: Vec<String>,
}

/// One step of connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Name,
    Tcp,
    Tls,
    WebSocket,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::WebSocket => "WebSocket",
        })
    }
}

/// The step that failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct DialError {
    pub step: Step,
    pub reason: String,
}

/// Bytes to and from the broker.
pub struct Transport {
    stream: Stream,
}

enum Stream {
    Plain(Box<dyn Socket>),
    WebSocket(Box<WebSocketStream<Box<dyn Socket>>>),
}

/// What carries bytes both ways.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

impl Transport {
    /// Connects to the broker by `until`; calls `on_step` after each step.
    pub async fn dial(
        endpoint: &Endpoint,
        until: Instant,
        mut on_step: impl FnMut(Step, Duration, &str),
    ) -> Result<Self, DialError> {
        let begun = Instant::now();
        let addresses = resolve(endpoint, until).await?;
        let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        on_step(Step::Name, begun.elapsed(), &list.join(", "));
        let begun = Instant::now();
        let (tcp, address) = connect(&addresses, until).await?;
        on_step(Step::Tcp, begun.elapsed(), &address.to_string());
        let mut socket: Box<dyn Socket> = Box::new(tcp);
        if let Some(tls) = &endpoint.tls {
            let begun = Instant::now();
            let (encrypted, agreed) = encrypt(endpoint, tls, socket, until).await?;
            on_step(Step::Tls, begun.elapsed(), &agreed);
            socket = encrypted;
        }
        let Some(path) = &endpoint.websocket else { return Ok(Self { stream: Stream::Plain(socket) }) };
        let begun = Instant::now();
        let stream = upgrade(endpoint, path, socket, until).await?;
        on_step(Step::WebSocket, begun.elapsed(), path);
        Ok(Self { stream: Stream::WebSocket(Box::new(stream)) })
    }

    /// Appends at least one byte to `bytes`. May be cancelled at any time.
    ///
    /// # Errors
    /// Also if the other end has closed the connection.
    pub async fn read(&mut self, bytes: &mut BytesMut) -> io::Result<()> {
        let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
        match &mut self.stream {
            Stream::Plain(socket) => {
                bytes.reserve(READ_BYTES);
                if socket.read_buf(bytes).await? == 0 { Err(closed()) } else { Ok(()) }
            }
            Stream::WebSocket(socket) => loop {
                match socket.next().await {
                    Some(Ok(Message::Binary(data))) if !data.is_empty() => {
                        bytes.extend_from_slice(&data);
                        return Ok(());
                    }
                    Some(Ok(Message::Close(_))) | None => return Err(closed()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(io::Error::other(error)),
                }
            },
        }
    }

    /// Sends all of `bytes`, and empties it. Must not be cancelled: the stream would be broken.
    pub async fn write(&mut self, bytes: &mut BytesMut) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(socket) => {
                socket.write_all_buf(bytes).await?;
                socket.flush().await
            }
            Stream::WebSocket(socket) => {
                let data: Bytes = bytes.split().freeze();
                socket.send(Message::Binary(data)).await.map_err(io::Error::other)
            }
        }
    }
}

/// Returns what `work` returns, or an error at `until`.
async fn in_time<T>(step: Step, until: Instant, work: impl Future<Output = Result<T, String>>) -> Result<T, DialError> {
    let result =
        timeout_at(until, work).await.unwrap_or_else(|_| Err("no answer in time (mqtt.connect_timeout_s)".into()));
    result.map_err(|reason| DialError { step, reason })
}

async fn resolve(endpoint: &Endpoint, until: Instant) -> Result<Vec<SocketAddr>, DialError> {
    let host = endpoint.bare_host();
    in_time(Step::Name, until, async {
        let found = lookup_host((host, endpoint.port)).await.map_err(|error| format!("{host}: {error}"))?;
        let addresses: Vec<SocketAddr> = found.collect();
        if addresses.is_empty() { Err(format!("{host} has no address")) } else { Ok(addresses) }
    })
    .await
}

/// Connects to the first address that answers; each has its share of the time left, so that one that does not answer
/// leaves time for the others.
async fn connect(addresses: &[SocketAddr], until: Instant) -> Result<(tokio::net::TcpStream, SocketAddr), DialError> {
    let mut failures = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(1).max(1);
        let tcp = async {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            let stream = socket.connect(*address).await?;
            // Nagle's algorithm would delay a write until the broker's delayed TCP acknowledgement, for 40 ms.
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(stream)
        };
        match timeout_at(Instant::now() + share, tcp).await {
            Ok(Ok(stream)) => return Ok((stream, *address)),
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer in time (mqtt.connect_timeout_s)")),
        }
    }
    Err(DialError { step: Step::Tcp, reason: failures.join("; ") })
}

/// Returns the encrypted stream, and the version and cipher suite that were negotiated.
async fn encrypt(
    endpoint: &Endpoint,
    tls: &Tls,
    socket: Box<dyn Socket>,
    until: Instant,
) -> Result<(Box<dyn Socket>, String), DialError> {
    in_time(Step::Tls, until, async {
        let files = tls.clone();
        let config = tokio::task::spawn_blocking(move || client_config(&files)).await;
        let config = config.map_err(|error| error.to_string())??;
        let host = endpoint.bare_host().to_owned();
        let name =
            ServerName::try_from(host.clone()).map_err(|_| format!("{host} is not a valid name for a certificate"))?;
        let connected = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
        let stream = connected.map_err(|error| reason(&error))?;
        let (_, session) = stream.get_ref();
        let version = session.protocol_version().map_or_else(String::new, |version| format!("{version:?}"));
        let suite = session.negotiated_cipher_suite().map_or_else(String::new, |suite| format!(" {:?}", suite.suite()));
        let agreed = format!("{version}{suite}");
        Ok((Box::new(stream) as Box<dyn Socket>, agreed))
    })
    .await
}

fn client_config(tls: &Tls) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
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
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let pem = secret::read(key).map_err(|error| error.to_string())?;
            let private = PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|error| format!("{}: no private key in PEM: {error}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, private)
                .map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()))?
        }
    };
    config.alpn_protocols = tls.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |reason: String| format!("{}: {reason}", path.display());
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?.collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("no certificate in PEM".into())) } else { Ok(found) }
}

/// Returns why reading or writing failed, with what to do if that is known. A broker refuses our certificate only after
/// the handshake (TLS 1.3).
pub fn reason(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let fix = match cause {
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            CertificateError::UnknownIssuer => {
                "its certificate is signed by an authority that is not trusted; set mqtt.ca_file to the certificate of that authority"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired, or this machine's clock is wrong"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet, or this machine's clock is wrong"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name than the one in mqtt.broker"
            }
            _ => "its certificate is not valid",
        },
        Some(rustls::Error::AlertReceived(_)) => {
            "it refuses the connection; check the client certificate (mqtt.cert_file, mqtt.key_file)"
        }
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS on this port",
        Some(rustls::Error::NoApplicationProtocol) => "it supports none of the protocols in mqtt.alpn",
        _ => return error.to_string(),
    };
    format!("{fix} ({error})")
}

async fn upgrade(
    endpoint: &Endpoint,
    path: &str,
    socket: Box<dyn Socket>,
    until: Instant,
) -> Result<WebSocketStream<Box<dyn Socket>>, DialError> {
    in_time(Step::WebSocket, until, async {
        let scheme = if endpoint.tls.is_some() { "wss" } else { "ws" };
        let url = format!("{scheme}://{}{path}", endpoint.address());
        // What follows a `?` may be a secret.
        let shown = |error: &dyn fmt::Display| format!("{}: {error}", url.split('?').next().unwrap_or_default());
        let mut request = url.as_str().into_client_request().map_err(|error| shown(&error))?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().map_err(|error| format!("{error}"))?);
        let (stream, _) = tokio_tungstenite::client_async(request, socket).await.map_err(|error| shown(&error))?;
        Ok(stream)
    })
    .await
}
