//! A scripted broker of both MQTT versions that misbehaves as real ones do at their worst.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How it misbehaves.
#[derive(Clone, Copy)]
pub enum Mood {
    /// Cuts the connection after so many publishes and forgets what it has not acknowledged; acks out of order.
    Crashes(usize),
    /// Welcomes, then says nothing any more: a half-open link.
    Silent,
    /// Answers pings and acknowledges nothing.
    NeverAcks,
}

/// What it saw.
#[derive(Default)]
pub struct Seen {
    pub connections: usize,
    /// Payloads of QoS 1 messages in the order of arrival, those forgotten included.
    pub arrived: Vec<String>,
    /// Payloads acknowledged: these are the broker's now.
    pub kept: BTreeSet<String>,
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
            for stream in listener.incoming().map_while(Result::ok) {
                log.lock().unwrap().connections += 1;
                let _ = serve(stream, mood, &log);
            }
        });
        Self { port, seen }
    }
}

fn serve(mut stream: TcpStream, mood: Mood, seen: &Mutex<Seen>) -> std::io::Result<()> {
    let mut unacked: Vec<([u8; 2], String)> = Vec::new();
    let mut publishes = 0;
    let mut is_five = false;
    loop {
        // Nothing more to read: the time to acknowledge, last one first.
        stream.set_read_timeout(Some(Duration::from_millis(2)))?;
        let kind = match read_byte(&mut stream) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                acknowledge(&mut stream, &mut unacked, seen)?;
                continue;
            }
            byte => byte?,
        };
        stream.set_read_timeout(None)?;
        let body = read_body(&mut stream)?;
        match (kind >> 4, mood) {
            // After the protocol's name its level.
            (1, _) if body.get(6) == Some(&5) => {
                is_five = true;
                stream.write_all(&[0x20, 3, 0, 0, 0])?;
            }
            (1, _) => stream.write_all(&[0x20, 2, 0, 0])?,
            (14, _) => return Ok(()),
            (_, Mood::Silent) => {}
            (12, _) => stream.write_all(&[0xD0, 0])?,
            (3, Mood::Crashes(limit)) => {
                publishes += 1;
                if publishes > limit {
                    return Ok(());
                }
                let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                // All properties that we send are shorter than 128 bytes.
                let properties = if is_five { 1 + usize::from(body[topic_end + 2]) } else { 0 };
                let payload = String::from_utf8_lossy(&body[topic_end + 2 + properties..]).into_owned();
                seen.lock().unwrap().arrived.push(payload.clone());
                unacked.push(([body[topic_end], body[topic_end + 1]], payload));
                if unacked.len() == 7 {
                    // The oldest is left out for a while.
                    let oldest = unacked.remove(0);
                    acknowledge(&mut stream, &mut unacked, seen)?;
                    unacked.push(oldest);
                }
            }
            _ => {}
        }
    }
}

fn acknowledge(
    stream: &mut TcpStream,
    unacked: &mut Vec<([u8; 2], String)>,
    seen: &Mutex<Seen>,
) -> std::io::Result<()> {
    for (id, payload) in unacked.drain(..).rev() {
        seen.lock().unwrap().kept.insert(payload);
        stream.write_all(&[0x40, 2, id[0], id[1]])?;
    }
    Ok(())
}

fn read_byte(stream: &mut TcpStream) -> std::io::Result<u8> {
    let mut byte = [0];
    stream.read_exact(&mut byte).map(|()| byte[0])
}

fn read_body(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = read_byte(stream)?;
        length |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map(|()| body)
}
