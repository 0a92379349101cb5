//! The embedded broker of the demo: rumqttd in this process, on loopback only (cargo feature `embedded-broker`). Every
//! user of this machine can reach it, so all clients log in, the daemon too.
//!
//! Runs on a thread named `broker`, next to rumqttd's own router thread. Neither can be stopped; both end with the
//! process. Leaves the filter for its logs to the caller: see [`LOG_FILTER`].

use std::net::SocketAddr;

#[cfg(not(feature = "embedded-broker"))]
use crate::secret::Password;

/// To be added to the log filter: rumqttd logs every client that leaves as an error.
pub const LOG_FILTER: &str = "rumqttd=off";

/// Why the embedded broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Build with the feature, or use another broker.
    #[error(
        "this edgewatt was built without an embedded broker; \
         run mosquitto and set mqtt.broker = \"mqtt://localhost:1883\", or build with --features embedded-broker"
    )]
    NotBuiltIn,
    /// Free a port, or use another broker.
    #[error(
        "embedded broker: all ports from {first} to {last} of 127.0.0.1 are in use; set mqtt.broker to a broker that runs there"
    )]
    NoFreePort {
        /// First port tried.
        first: u16,
        /// Last port tried.
        last: u16,
    },
    /// The system refuses a listener or a thread.
    #[error("embedded broker: cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// rumqttd itself fails, with its message.
    #[error("embedded broker: it failed to start: {0}")]
    Failed(String),
    /// It started, but accepts no connection.
    #[error("embedded broker: no answer on {0} within 5 s of its start")]
    NotReady(SocketAddr),
}

/// Starts the broker on `first_port` of 127.0.0.1 or the next free one, and returns once it takes connections. Clients log
/// in as `user` with `password`.
#[cfg(not(feature = "embedded-broker"))]
pub fn start(_first_port: u16, _user: &str, _password: &Password) -> Result<SocketAddr, BrokerError> {
    Err(BrokerError::NotBuiltIn)
}

#[cfg(feature = "embedded-broker")]
pub use embedded::start;

#[cfg(feature = "embedded-broker")]
mod embedded {
    use std::collections::HashMap;
    use std::io::{self, ErrorKind, Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
    use std::time::{Duration, Instant};

    use bytes::BytesMut;
    use rumqttd::protocol::v4::V4;
    use rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, Server, ServerSettings};

    use super::BrokerError;
    use crate::mqtt::codec::{Connect, Session, Version};
    use crate::secret::Password;

    const PORTS_TRIED: u16 = 100;
    const READY_WITHIN: Duration = Duration::from_secs(5);
    /// Past this, rumqttd leaves a stale entry behind, and the second attempt of the same client panics under a lock
    /// that every connection needs. So it must exceed the file descriptors of this process; the room is address space
    /// only until it is used.
    const MAX_CONNECTIONS: usize = 10_000;
    /// The largest packet, also before the login. The daemon's own payloads have at most 256 KiB.
    const MAX_PACKET_BYTES: usize = 320 * 1024;
    /// Who connects has so long to log in.
    const LOGIN_MS: u16 = 3_000;
    const MAX_INFLIGHT: usize = 100;
    /// Messages kept for subscribers that lag: segments of this many bytes for each filter.
    const SEGMENT_BYTES: usize = 512 * 1024;
    const SEGMENTS: usize = 2;

    /// Starts the broker on `first_port` of 127.0.0.1 or the next free one, and returns once it takes connections. Clients
    /// log in as `user` with `password`.
    pub fn start(first_port: u16, user: &str, password: &Password) -> Result<SocketAddr, BrokerError> {
        let last = first_port.saturating_add(PORTS_TRIED - 1);
        for port in first_port..=last {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            match TcpListener::bind(address) {
                Ok(probe) => drop(probe),
                Err(error) if error.kind() == ErrorKind::AddrInUse => continue,
                Err(source) => {
                    return Err(BrokerError::System { what: format!("listen on {address}"), source });
                }
            }
            let ended = spawn(server_settings(address, user, password))?;
            wait_until_ready(address, &ended, &login(user, password)?)?;
            tracing::info!("embedded MQTT broker listens on {address}");
            return Ok(address);
        }
        Err(BrokerError::NoFreePort { first: first_port, last })
    }

    /// Starts the threads; the receiver gets the reason if the broker ends.
    fn spawn(settings: ServerSettings) -> Result<Receiver<String>, BrokerError> {
        let system = |what: &str, source| BrokerError::System { what: what.into(), source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| system("start its runtime", error))?;
        let (sender, receiver) = sync_channel(1);
        let run = move || {
            let router = Router::new(0, router_config()).spawn();
            let ended = runtime.block_on(Server::new(settings, router, V4).start(LinkType::Remote));
            let reason = ended.err().map_or_else(|| "no reason given".into(), |error| error.to_string());
            // After the broker was ready there is no receiver any more.
            let _ = sender.try_send(reason.clone());
            tracing::error!("the embedded MQTT broker has ended: {reason}");
        };
        let thread = std::thread::Builder::new().name("broker".into());
        thread.spawn(run).map_err(|error| system("start its thread", error))?;
        Ok(receiver)
    }

    fn router_config() -> RouterConfig {
        RouterConfig {
            max_connections: MAX_CONNECTIONS,
            max_outgoing_packet_count: MAX_INFLIGHT as u64,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        }
    }

    fn server_settings(listen: SocketAddr, user: &str, password: &Password) -> ServerSettings {
        ServerSettings {
            name: "embedded".into(),
            listen,
            tls: None,
            next_connection_delay_ms: 1,
            connections: ConnectionSettings {
                connection_timeout_ms: LOGIN_MS,
                max_payload_size: MAX_PACKET_BYTES,
                max_inflight_count: MAX_INFLIGHT,
                auth: Some(HashMap::from([(user.to_owned(), password.expose().to_owned())])),
                external_auth: None,
                dynamic_filters: true,
            },
        }
    }

    fn wait_until_ready(address: SocketAddr, ended: &Receiver<String>, login: &[u8]) -> Result<(), BrokerError> {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            match ended.try_recv() {
                Ok(reason) => return Err(BrokerError::Failed(reason)),
                Err(TryRecvError::Disconnected) => {
                    return Err(BrokerError::Failed("it panicked".into()));
                }
                Err(TryRecvError::Empty) => {}
            }
            if accepts(login, address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(BrokerError::NotReady(address))
    }

    /// Returns the packet with which an MQTT 3.1.1 client logs in.
    fn login(user: &str, password: &Password) -> Result<BytesMut, BrokerError> {
        let (mut packet, login) = (BytesMut::new(), Some((user, password.expose())));
        let connect =
            Connect { client_id: "edgewatt-try", keep_alive_s: 10, will: None, login, session: Session::default() };
        let written = Version::Three.connect(&connect, &mut packet).map_err(io::Error::other);
        written.map_err(|source| BrokerError::System { what: "log in to the embedded broker".into(), source })?;
        Ok(packet)
    }

    /// Connects and disconnects as a client: only that shows that the router behind the socket runs.
    fn accepts(login: &[u8], address: SocketAddr) -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(login)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        stream.write_all(b"\xe0\0")?;
        if answer == [0x20, 2, 0, 0] { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }
}
