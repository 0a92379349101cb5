//! A scripted broker of both MQTT versions that misbehaves as real ones do at their worst.
//!
//! It acknowledges out of order: six messages at a time, the last one first; the two oldest of a connection only when no
//! more comes; retained ones at once. One that flaps, or takes one message, acknowledges each at once.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Messages of a connection that are acknowledged after all others
const HELD: usize = 2;
/// Looks for more in vain, 2 ms each, until those are acknowledged too.
const IDLE: usize = 10;

/// How it misbehaves.
#[derive(Clone, Copy, PartialEq)]
pub enum Mood {
    /// Cuts the connection after so many publishes and forgets what it has not acknowledged; `session_present`: says
    /// that it remembers the client.
    Crashes { after: usize, session_present: bool },
    /// Is up for that time from each connection on, then away.
    Flaps { up: Duration, away: Duration },
    /// Cuts the connection after the status and one other message.
    TakesOne,
    /// Welcomes, then says nothing any more: a half-open link.
    Silent,
    /// Welcomes, then reads nothing any more.
    Clogged,
    /// Answers pings and acknowledges nothing.
    NeverAcks,
    /// Bids the client keep to limits, in MQTT 5; cuts the connection over a larger packet.
    Strict { receive_max: u16, packet_bytes: u16 },
    /// Refuses every third message, in MQTT 5.
    Refuses,
}

/// What it saw.
#[derive(Default)]
pub struct Seen {
    pub connections: usize,
    /// Payloads of QoS 1 messages in the order of arrival, those forgotten included.
    pub arrived: Vec<String>,
    /// Payloads acknowledged: these are the broker's now.
    pub kept: BTreeSet<String>,
    /// Messages at once that were not acknowledged.
    pub most_unacked: usize,
    /// Messages whose packet id was that of another one not yet acknowledged.
    pub collisions: usize,
    pub refused: usize,
    pub pings: usize,
    /// Packets above the limit.
    pub oversize: usize,
    /// Messages not acknowledged when the client said that it goes.
    pub unacked_at_goodbye: Option<usize>,
}

pub struct FakeBroker {
    pub port: u16,
    pub seen: Arc<Mutex<Seen>>,
}

impl FakeBroker {
    pub fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let log = seen.clone();
        std::thread::spawn(move || {
            let mut listener = listener;
            while let Ok((stream, _)) = listener.accept() {
                log.lock().unwrap().connections += 1;
                let _ = Session::new(stream, mood, &log).serve();
                if let Mood::Flaps { away, .. } = mood {
                    drop(listener);
                    std::thread::sleep(away);
                    listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
                }
            }
        });
        Self { port, seen }
    }
}

struct Publish {
    id: [u8; 2],
    payload: String,
    refused: bool,
}

struct Session<'a> {
    stream: TcpStream,
    mood: Mood,
    seen: &'a Mutex<Seen>,
    begun: Instant,
    is_five: bool,
    publishes: usize,
    /// In the order of arrival.
    unacked: Vec<Publish>,
}

impl<'a> Session<'a> {
    fn new(stream: TcpStream, mood: Mood, seen: &'a Mutex<Seen>) -> Self {
        Self { stream, mood, seen, begun: Instant::now(), is_five: false, publishes: 0, unacked: Vec::new() }
    }

    fn serve(mut self) -> std::io::Result<()> {
        let mut idle = 0;
        loop {
            if matches!(self.mood, Mood::Flaps { up, .. } if self.begun.elapsed() >= up) {
                return Ok(());
            }
            // Nothing more to read: the time to acknowledge.
            self.stream.set_read_timeout(Some(Duration::from_millis(2)))?;
            let kind = match self.read_byte() {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    idle += 1;
                    self.acknowledge(if idle < IDLE { HELD } else { 0 })?;
                    continue;
                }
                byte => byte?,
            };
            idle = 0;
            self.stream.set_read_timeout(None)?;
            let body = self.read_body()?;
            match (kind >> 4, self.mood) {
                (1, _) => self.welcome(&body)?,
                (14, _) => {
                    self.seen.lock().unwrap().unacked_at_goodbye = Some(self.unacked.len());
                    return Ok(());
                }
                (12, Mood::Silent) => self.seen.lock().unwrap().pings += 1,
                (12, _) => {
                    self.seen.lock().unwrap().pings += 1;
                    self.stream.write_all(&[0xD0, 0])?;
                }
                (3, mood) => {
                    self.publishes += 1;
                    match mood {
                        Mood::Crashes { after, .. } if self.publishes > after => return Ok(()),
                        Mood::TakesOne if self.publishes > 2 => return Ok(()),
                        Mood::Strict { packet_bytes, .. } if body.len() + 3 > usize::from(packet_bytes) => {
                            self.seen.lock().unwrap().oversize += 1;
                            return Ok(());
                        }
                        Mood::Silent | Mood::NeverAcks => {}
                        _ => self.take(&body, kind & 1 == 1)?,
                    }
                }
                _ => {}
            }
        }
    }

    fn welcome(&mut self, connect: &[u8]) -> std::io::Result<()> {
        // After the protocol's name its level.
        self.is_five = connect.get(6) == Some(&5);
        let returning = self.seen.lock().unwrap().connections > 1;
        let present = u8::from(returning && matches!(self.mood, Mood::Crashes { session_present: true, .. }));
        let mut properties = Vec::new();
        if let Mood::Strict { receive_max, packet_bytes } = self.mood {
            let ([a, b], [c, d]) = (receive_max.to_be_bytes(), packet_bytes.to_be_bytes());
            properties.extend([0x21, a, b, 0x27, 0, 0, c, d]);
        }
        let length = properties.len() as u8;
        match self.is_five {
            true => self.stream.write_all(&[&[0x20, 3 + length, present, 0, length][..], &properties].concat())?,
            false => self.stream.write_all(&[0x20, 2, present, 0])?,
        }
        if self.mood == Mood::Clogged {
            loop {
                std::thread::park();
            }
        }
        Ok(())
    }

    fn take(&mut self, body: &[u8], retained: bool) -> std::io::Result<()> {
        let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        let id = [body[topic_end], body[topic_end + 1]];
        // All properties that we send are shorter than 128 bytes.
        let properties = if self.is_five { 1 + usize::from(body[topic_end + 2]) } else { 0 };
        let payload = String::from_utf8_lossy(&body[topic_end + 2 + properties..]).into_owned();
        let collides = self.unacked.iter().any(|publish| publish.id == id);
        let refused = self.mood == Mood::Refuses && self.publishes.is_multiple_of(3);
        self.unacked.push(Publish { id, payload: payload.clone(), refused });
        {
            let mut seen = self.seen.lock().unwrap();
            seen.arrived.push(payload);
            seen.collisions += usize::from(collides);
            seen.most_unacked = seen.most_unacked.max(self.unacked.len());
        }
        match self.unacked.len() {
            _ if matches!(self.mood, Mood::Flaps { .. } | Mood::TakesOne) => self.acknowledge(0),
            count if retained => self.acknowledge(count - 1),
            count if count == HELD + 6 => self.acknowledge(HELD),
            _ => Ok(()),
        }
    }

    /// All but the `held` oldest, last one first.
    fn acknowledge(&mut self, held: usize) -> std::io::Result<()> {
        for Publish { id, payload, refused } in self.unacked.drain(held.min(self.unacked.len())..).rev() {
            let mut seen = self.seen.lock().unwrap();
            if refused {
                seen.refused += 1;
                // Quota exceeded.
                self.stream.write_all(&[0x40, 3, id[0], id[1], 0x97])?;
            } else {
                seen.kept.insert(payload);
                self.stream.write_all(&[0x40, 2, id[0], id[1]])?;
            }
        }
        Ok(())
    }

    fn read_byte(&mut self) -> std::io::Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).map(|()| byte[0])
    }

    fn read_body(&mut self) -> std::io::Result<Vec<u8>> {
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.read_byte()?;
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).map(|()| body)
    }
}
