//! Records, raw samples or packets in UDP datagrams, one or more in each.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::Path;

use super::session::{DEVICE_RETRY, keep_open};
use super::{
    Buffer, Content, ContentKind, Decoder, Exclusive, FrameProducer, FrameSink, OpenOptions, SourceError, SourceKind,
    Survey, WhenFull, content,
};
use crate::schema::{Checker, Key, table};
use crate::stop::Waited;
use crate::stream::StreamSpec;
use crate::sys::Machine;
use crate::text::counted;
use crate::units::MonoTime;

/// No datagram is longer.
const MAX_DATAGRAM_BYTES: usize = 65_535;
/// What a datagram of IPv4 can hold.
const MAX_PAYLOAD_BYTES: usize = 65_507;

table! {
    /// Reads UDP datagrams. A datagram has one line, frame of raw samples or packet, or several, each complete. A lost datagram
    /// shows as a gap only if records or packets have a time, or packets a sequence. There is no header: CSV needs `records.columns`.
    pub struct Udp {
        /// The address and port to receive on. "0.0.0.0" receives on every network; anybody who can reach the port can send.
        pub listen: String, limits("ADDRESS:PORT"), example("\"127.0.0.1:5005\"");
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
        family pub content: Content;
    }
}

impl Udp {
    fn address(&self) -> io::Result<SocketAddr> {
        self.listen.parse().map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))
    }

    fn bind(&self) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(self.address()?)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    fn error(&self, action: &'static str, error: io::Error) -> SourceError {
        SourceError::io(action, Path::new(&self.listen), error)
    }
}

impl SourceKind for Udp {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        let problem = match self.address() {
            Err(_) => Some(format!("`{}` is not an address with a port; write it as \"127.0.0.1:5005\"", self.listen)),
            Ok(address) if address.port() == 0 => Some(format!(
                "with port 0, `{}` would be on another port at each start, which no sender knows; write a port from 1 to 65535",
                self.listen
            )),
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            checker.problem(&key.child("listen"), problem);
        }
        content::check_messages(&self.content, key, checker, "datagrams");
        if let Content::Bytes(bytes) = &self.content
            && bytes.frame_bytes() > MAX_PAYLOAD_BYTES
        {
            let message = format!(
                "a frame has {}, and a datagram holds {MAX_PAYLOAD_BYTES} at most; send it over a socket (source raw)",
                counted(bytes.frame_bytes(), "byte")
            );
            checker.problem(&key.child("bytes"), message);
        }
        self.content.check(key, checker);
        self.buffer.check(&key.child("buffer"), checker);
    }

    fn spec(&self) -> StreamSpec {
        self.content.kind().spec()
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        // A sender of datagrams cannot be held back.
        (&self.buffer, WhenFull::Drop)
    }

    fn open(&self, options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        let socket = match self.bind() {
            Ok(socket) => Some(socket),
            // Its network may still come up.
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => None,
            Err(error) => return Err(self.error("receive on", error)),
        };
        let decoder = self.content.kind().decoder(options.labels);
        Ok(Box::new(UdpSource { udp: self.clone(), socket, decoder }))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        match self.bind() {
            // The daemon that runs may be the one that has it; if not, opening it says so.
            Err(error) if !matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {
                Err(self.error("receive on", error))
            }
            _ => Ok(()),
        }
    }

    fn survey(&self, _machine: &Machine<'_>) -> Survey {
        match self.bind() {
            Ok(_) => Survey::ready(format!("it can receive on {}", self.listen)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                Survey::ready(format!("a program receives on {}, perhaps the daemon itself", self.listen))
            }
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                Survey::absent(format!("this machine does not have the address of {} at present", self.listen))
                    .fix("ip -brief address lists those that it has; \"0.0.0.0\" receives on all of them")
            }
            Err(error) => Survey::broken(self.error("receive on", error).to_string()),
        }
    }

    fn endless(&self) -> Option<&'static str> {
        Some("receives datagrams, which have no end; start it without --once, or use the source lines or replay")
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        vec![Exclusive::new(format!("UDP {}", self.listen), "listen")]
    }

    fn content(&self) -> Option<&dyn ContentKind> {
        Some(self.content.kind())
    }
}

/// The socket, and what turns its datagrams into frames.
struct UdpSource {
    udp: Udp,
    /// `None`: the address did not exist yet.
    socket: Option<UdpSocket>,
    decoder: Decoder,
}

impl FrameProducer for UdpSource {
    fn run(mut self: Box<Self>, sink: &mut FrameSink) -> Result<(), SourceError> {
        let mut datagram = vec![0; MAX_DATAGRAM_BYTES];
        let Self { udp, socket, decoder } = &mut *self;
        let open = || match socket.take() {
            Some(socket) => Ok(socket),
            None => udp.bind().map_err(|error| udp.error("receive on", error)),
        };
        keep_open(sink, &udp.listen, DEVICE_RETRY, false, open, |socket, sink| {
            receive(udp, socket, &mut datagram, decoder, sink)
        })
    }
}

/// Feeds datagrams until a stop is requested.
fn receive(
    udp: &Udp,
    socket: &UdpSocket,
    datagram: &mut [u8],
    decoder: &mut Decoder,
    sink: &mut FrameSink,
) -> Result<ControlFlow<()>, SourceError> {
    let failed = |error| udp.error("receive on", error);
    loop {
        if sink.stop().wait_readable(socket.as_fd()).map_err(failed)? == Waited::Stopped {
            return Ok(ControlFlow::Break(()));
        }
        let (length, sender) = match socket.recv_from(datagram) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(error) => return Err(failed(error)),
        };
        let (arrival, from) = (MonoTime::now(), format_args!("a datagram of {sender}"));
        match decoder.datagram(&from, datagram.get(..length).unwrap_or_default(), arrival, sink) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
            Err(error) => sink.writer_refused(&error, arrival),
        }
        sink.wake_reader();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::sink::frame_ring;
    use super::super::{FrameReader, Pieces, Reject, SinkSettings, Source, SourceStats};
    use super::*;
    use crate::stop::Stop;

    fn udp(listen: &str, records: &str) -> Result<Udp, Vec<String>> {
        let text = format!("udp = {{ listen = \"{listen}\", records = {{ {records} }} }}");
        let mut source: Source = toml::from_str(&text).map_err(|error| vec![error.to_string()])?;
        let mut checker = Checker::new(Path::new(""));
        source.check(&Key::new(&["source"]), &mut checker);
        let Source::Udp(udp) = source else { panic!("{source:?}") };
        let shown = |problem: crate::schema::Problem| format!("{}: {}", problem.key, problem.message);
        checker.finish(Some(udp)).map_err(|problems| problems.into_iter().map(shown).collect())
    }

    #[test]
    fn a_bad_address_and_a_header_are_refused_with_what_is_right() {
        let problems = udp("localhost", "channels = [\"x\"]").unwrap_err().join("\n");
        assert!(problems.contains("source.udp.listen: `localhost` is not an address with a port"), "{problems}");
        let zero = udp("127.0.0.1:0", "channels = [\"x\"], columns = [\"x\"]").unwrap_err().join("\n");
        assert!(zero.contains("source.udp.listen: with port 0") && zero.contains("from 1 to 65535"), "{zero}");
        assert!(problems.contains("source.udp.records: datagrams have no header; name all columns"), "{problems}");
        assert!(udp("[::1]:5005", "channels = [\"x\"], columns = [\"x\"]").is_ok());
    }

    /// A source on a free port of the loopback, with its reading end.
    struct Rig {
        port: u16,
        stop: Arc<Stop>,
        stats: Arc<SourceStats>,
        reader: FrameReader,
        thread: std::thread::JoinHandle<Result<(), String>>,
    }

    fn rig(records: &str) -> Rig {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let udp = udp(&format!("127.0.0.1:{port}"), records).unwrap();
        udp.check_access().unwrap();
        let source = udp.open(OpenOptions::default()).unwrap();
        udp.check_access().unwrap();
        assert!(udp.open(OpenOptions::default()).is_err(), "the port is taken");
        let settings = SinkSettings { spec: udp.spec(), frames: 64, frames_per_block: 1, when_full: WhenFull::Drop };
        let (stop, stats) = (Arc::new(Stop::new().unwrap()), Arc::<SourceStats>::default());
        let (mut sink, reader) = frame_ring(&settings, "test", stop.clone(), stats.clone());
        let thread = std::thread::spawn(move || source.run(&mut sink).map_err(|error| error.to_string()));
        Rig { port, stop, stats, reader, thread }
    }

    impl Rig {
        /// Sends datagrams, and reads as many frames as they have.
        fn frames(mut self, datagrams: &[&str], count: usize) -> (Vec<Vec<f32>>, Arc<SourceStats>) {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            for datagram in datagrams {
                sender.send_to(datagram.as_bytes(), ("127.0.0.1", self.port)).unwrap();
            }
            let mut frames = Vec::new();
            let deadline = MonoTime::now() + std::time::Duration::from_secs(20);
            while frames.len() < count && MonoTime::now() < deadline {
                let frame = self.reader.pop(
                    1,
                    |_, _| false,
                    |frames| match frames.values {
                        Pieces::F32(first, second) => [first, second].concat(),
                        other => panic!("{other:?}"),
                    },
                );
                frames.extend(frame);
                std::thread::yield_now();
            }
            self.stop.request();
            self.thread.join().unwrap().unwrap();
            (frames, self.stats)
        }
    }

    #[test]
    fn each_line_of_each_datagram_is_a_record() {
        let datagrams = ["1,2\n3,4\n", "5,6", "\n", "7,eight\n9,10\r\n"];
        let (frames, stats) = rig("channels = [\"y\", \"x\"], columns = [\"x\", \"y\"]").frames(&datagrams, 4);
        assert_eq!(frames, [[2.0, 1.0], [4.0, 3.0], [6.0, 5.0], [10.0, 9.0]]);
        assert_eq!(stats.rejects(Reject::Malformed), 1);
        assert_eq!(stats.rejects(Reject::Empty), 1, "a datagram without a record");
    }

    #[test]
    fn ndjson_comes_in_datagrams_too() {
        let datagrams = ["{\"x\": 1.5}\n{\"x\": 2.5}", "{\"x\":", "{\"x\": 3.5}"];
        let (frames, stats) = rig("channels = [\"x\"], format = \"ndjson\"").frames(&datagrams, 3);
        assert_eq!(frames, [[1.5], [2.5], [3.5]]);
        assert_eq!(stats.rejects(Reject::Malformed), 1, "a datagram cut short is no part of the next one");
    }
}
