//! Connects to the broker: name, TCP, TLS and WebSocket in turn; each step is timed and named in its error.
//!
//! Owns the stream of bytes. Leaves the packets to `codec`, and certificates to `tls`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as UpgradeError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::speaks::Speaks;
use super::tls;

/// Room in the buffer for each read.
const READ_BYTES: usize = 16 * 1024;
const TOO_LATE: &str = "no answer in time (mqtt.connect_timeout_s)";

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
    pub(super) fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns host and port as in a URL.
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        let bracketed = host.contains(':') && !host.starts_with('[');
        if bracketed { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

pub use super::tls::Tls;

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
    /// TCP works, and then it says nothing, or closes the connection: the port may be another one than it is taken for.
    pub is_silent: bool,
    /// What it speaks instead of TLS.
    pub(super) speaks: Option<Speaks>,
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
    let result = timeout_at(until, work).await.unwrap_or_else(|_| Err(TOO_LATE.into()));
    result.map_err(|reason| DialError { step, reason, is_silent: false, speaks: None })
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
            Err(_) => failures.push(format!("{address}: {TOO_LATE}")),
        }
    }
    Err(DialError { step: Step::Tcp, reason: failures.join("; "), is_silent: false, speaks: None })
}

/// Returns the encrypted stream, and what was agreed on.
async fn encrypt(
    endpoint: &Endpoint,
    tls: &Tls,
    socket: Box<dyn Socket>,
    until: Instant,
) -> Result<(Box<dyn Socket>, String), DialError> {
    match timeout_at(until, tls::connect(endpoint.bare_host(), tls, socket)).await {
        Ok(Ok((stream, agreed))) => Ok((Box::new(stream), agreed)),
        Ok(Err(failed)) => Err(DialError {
            step: Step::Tls,
            reason: failed.reason,
            is_silent: failed.is_silent,
            speaks: failed.speaks,
        }),
        Err(_) => Err(DialError { step: Step::Tls, reason: TOO_LATE.into(), is_silent: true, speaks: None }),
    }
}

async fn upgrade(
    endpoint: &Endpoint,
    path: &str,
    socket: Box<dyn Socket>,
    until: Instant,
) -> Result<WebSocketStream<Box<dyn Socket>>, DialError> {
    let failed = |reason, is_silent| DialError { step: Step::WebSocket, reason, is_silent, speaks: None };
    let scheme = if endpoint.tls.is_some() { "wss" } else { "ws" };
    let url = format!("{scheme}://{}{path}", endpoint.address());
    // What follows a `?` may be a secret.
    let shown = |words: String| format!("{}: {words}", url.split('?').next().unwrap_or_default());
    let mut request = url.as_str().into_client_request().map_err(|error| failed(shown(error.to_string()), false))?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    match timeout_at(until, tokio_tungstenite::client_async(request, socket)).await {
        Ok(Ok((stream, _))) => Ok(stream),
        Ok(Err(error)) => Err(failed(shown(refused_upgrade(&error)), is_end(&error))),
        Err(_) => Err(failed(shown(TOO_LATE.into()), true)),
    }
}

/// Returns whether the other end closed the connection, or sent what is not HTTP.
fn is_end(error: &UpgradeError) -> bool {
    matches!(
        error,
        UpgradeError::Io(_)
            | UpgradeError::ConnectionClosed
            | UpgradeError::Protocol(ProtocolError::HandshakeIncomplete | ProtocolError::HttparseError(_))
    )
}

/// Returns why a WebSocket was refused, and what to do.
fn refused_upgrade(error: &UpgradeError) -> String {
    let fix = match error {
        UpgradeError::Http(answer) => match answer.status().as_u16() {
            300..=399 => "it sends the client elsewhere; write the address that it names, or wss:// instead of ws://",
            401 | 403 => "it wants a login for HTTP, or refuses this client",
            404 => "there is no WebSocket at this path; most brokers have it at /mqtt, some at /ws or /",
            200..=299 => "this is a web page, not a WebSocket; most brokers have it at /mqtt on a port of its own",
            _ => "it refuses the WebSocket; is this a broker's port for WebSockets?",
        },
        UpgradeError::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => {
            "it has a WebSocket that is not for MQTT; most brokers have theirs at /mqtt"
        }
        UpgradeError::Protocol(ProtocolError::HttparseError(_)) => {
            "it answers the request for a WebSocket with what is not HTTP"
        }
        _ if is_end(error) => "it closed the connection without an answer to the request for a WebSocket",
        _ => return error.to_string(),
    };
    format!("{fix} ({error})")
}
