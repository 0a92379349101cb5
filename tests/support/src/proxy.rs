//! A TCP proxy on loopback that troubles the connections through it as networks do; what it does can be changed at any
//! time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt::Linger};

/// How long it takes to hear of a change.
const TICK: Duration = Duration::from_millis(5);

/// What happens to bytes, and to new connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Pass,
    /// A new connection is reset at once.
    Reset,
    /// Whatever comes from either side is lost without a word; for such a connection that is for good.
    BlackHole,
    /// The client gets one byte a second.
    Drip,
    /// What the broker says is lost, its CONNACK above all; for such a connection that is for good.
    NoConnack,
}

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    mode: Mutex<Mode>,
    broker_port: u16,
    /// Connections of an earlier one are reset.
    generation: AtomicUsize,
    accepted: AtomicUsize,
    /// Bytes that the newest connection has brought to the broker.
    brought: AtomicU64,
    /// When a client last closed a connection whose bytes were lost.
    given_up: Mutex<Option<Instant>>,
}

impl Proxy {
    /// Before a broker on that port of loopback.
    pub fn before(broker_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Pass),
            broker_port,
            generation: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            brought: AtomicU64::new(0),
            given_up: Mutex::new(None),
        });
        let ours = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                ours.accepted.fetch_add(1, Ordering::Relaxed);
                // Until the last descriptor is closed; then the other end gets a RST in place of a FIN.
                setsockopt(&client, Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
                if ours.mode() != Mode::Reset {
                    ours.connect(client);
                }
            }
        });
        Self { port, shared }
    }

    /// From now on, for connections that there are and those to come.
    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
        *self.shared.given_up.lock().unwrap() = None;
    }

    /// Resets the connections that there are.
    pub fn cut(&self) {
        self.shared.brought.store(0, Ordering::Relaxed);
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that were ever made to it.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Bytes that the newest connection has brought to the broker.
    pub fn brought(&self) -> u64 {
        self.shared.brought.load(Ordering::Relaxed)
    }

    /// When the client closed the connection that was troubled first since the last [`Proxy::set`].
    pub fn given_up(&self) -> Option<Instant> {
        *self.shared.given_up.lock().unwrap()
    }
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    fn connect(self: &Arc<Self>, client: TcpStream) {
        // Without a broker behind it, the client's connection ends too.
        let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.broker_port)) else { return };
        self.brought.store(0, Ordering::Relaxed);
        let (generation, lost) = (self.generation.load(Ordering::Relaxed), Arc::new(AtomicBool::new(false)));
        for stream in [&client, &broker] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(TICK)).unwrap();
        }
        let (client_too, broker_too) = (client.try_clone().unwrap(), broker.try_clone().unwrap());
        let up = Way { from: client, to: broker, to_client: false, generation, lost: lost.clone() };
        let down = Way { from: broker_too, to: client_too, to_client: true, generation, lost };
        for way in [up, down] {
            let shared = self.clone();
            std::thread::spawn(move || way.carry(&shared));
        }
    }
}

/// One direction of a connection.
struct Way {
    from: TcpStream,
    to: TcpStream,
    to_client: bool,
    generation: usize,
    /// Bytes were lost, in either direction: nothing can go on.
    lost: Arc<AtomicBool>,
}

impl Way {
    fn carry(mut self, shared: &Shared) {
        let mut piece = [0; 8192];
        while shared.generation.load(Ordering::Relaxed) == self.generation {
            let drips = self.to_client && shared.mode() == Mode::Drip;
            let size = if drips { 1 } else { piece.len() };
            let count = match self.from.read(&mut piece[..size]) {
                Ok(count @ 1..) => count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Ok(0) | Err(_) => return self.end(shared),
            };
            if drips {
                let due = Instant::now() + Duration::from_secs(1);
                while Instant::now() < due && shared.mode() == Mode::Drip {
                    std::thread::sleep(TICK);
                }
            }
            match shared.mode() {
                Mode::BlackHole => self.lost.store(true, Ordering::Relaxed),
                Mode::NoConnack if self.to_client => self.lost.store(true, Ordering::Relaxed),
                _ => {}
            }
            // Of a link that answers nothing, what the client says may still arrive.
            let swallowed = self.lost.load(Ordering::Relaxed) && (self.to_client || shared.mode() != Mode::NoConnack);
            if !swallowed && self.to.write_all(&piece[..count]).is_err() {
                return self.end(shared);
            }
            if !self.to_client {
                shared.brought.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
    }

    /// Tells the other end, unless it is too far away to hear of it.
    fn end(self, shared: &Shared) {
        if !self.lost.load(Ordering::Relaxed) {
            let _ = self.to.shutdown(Shutdown::Both);
        } else if !self.to_client {
            shared.given_up.lock().unwrap().get_or_insert_with(Instant::now);
        }
    }
}
