//! What a board sends over a serial port: lines of text, or packets.
//!
//! Owns the opening of the port, again after each unplugging. `ports` knows which ports there are; `sys::serial` sets a port
//! up; what the bytes hold is the decoder's affair.

pub mod ports;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::{AccessFlags, eaccess};

use super::records::Format;
use super::session::{DEVICE_RETRY, keep_open};
use super::{
    Buffer, Content, ContentKind, Decoder, Exclusive, FrameProducer, FrameSink, OpenOptions, SourceError, SourceKind,
    Survey, WhenFull,
};
use crate::schema::{Checker, Key, choice, table};
use crate::stream::StreamSpec;
use crate::sys::Machine;
use crate::sys::holder::{Holder, holders, runs};
use crate::sys::permission::permit;
use crate::sys::serial::{self, Flow, LineSettings, PortError, is_character_device};
use crate::text::figure;

/// The rates that boards and adapters have.
const BAUDS: [u32; 14] = [
    9600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 921_600, 1_000_000, 1_500_000, 2_000_000, 3_000_000,
    4_000_000, 12_000_000,
];
/// Of one read. The kernel gives at most 4096 bytes at once and keeps some 64 KiB more.
const MOST_BYTES_OF_SLOW: usize = 1024;

choice! {
    /// The bit after the data bits.
    #[derive(Default)]
    pub enum Parity {
        #[default]
        None = "none",
        Even = "even",
        Odd = "odd",
    }
}

choice! {
    /// How the port tells the board to wait.
    #[derive(Default)]
    pub enum FlowControl {
        #[default]
        None = "none",
        /// By RTS and CTS.
        Hardware = "hardware",
        /// By the bytes XON and XOFF.
        Software = "software",
    }
}

table! {
    /// Reads a serial port: an Arduino or another board on USB, an adapter, or the pins of a Raspberry Pi. While the port is
    /// not there, the source waits for it. What a board sends while the port is opened may be cut, so the first line, or
    /// packet, is passed over.
    pub struct Serial {
        /// The port. `edgewatt doctor` lists those that there are; a name below /dev/serial/by-id stays the same wherever the
        /// board is plugged in.
        pub port: PathBuf, example("\"/dev/serial/by-id/usb-Arduino_Uno-if00\"");
        /// The number of bits in a second, as in `Serial.begin` of the board. A board that is a USB device itself takes any.
        pub baud: u32 = 115_200, range(50, 12_000_000), unit("baud");
        /// The number of data bits of a byte.
        pub data_bits: u8 = 8, range(7, 8);
        /// The parity of a byte: "none", "even" or "odd". A byte with a wrong one is dropped.
        pub parity: Parity = Parity::None;
        /// The number of stop bits of a byte.
        pub stop_bits: u8 = 1, range(1, 2);
        /// How the port tells the board to wait when its buffer is full: "none", "hardware" for RTS and CTS, or "software" for
        /// XON and XOFF, in text only.
        pub flow_control: FlowControl = FlowControl::None;
        /// Whether DTR and RTS stay raised while the port is open. Some boards send only then. Opening always raises them for
        /// a moment, which restarts an Arduino Uno, Nano or Mega.
        pub dtr: bool = true;
        /// Whether closing the port lowers DTR. If not, a board restarts at the first opening after it was plugged in, and not
        /// at each start of edgewatt.
        pub hang_up: bool = false;
        /// Whether an FTDI adapter passes bytes on after 1 ms, instead of 16 ms. This costs wake-ups.
        pub low_latency: bool = false;
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
        family pub content: Content;
    }
}

impl Serial {
    fn settings(&self) -> LineSettings {
        LineSettings {
            baud: self.baud,
            data_bits: self.data_bits,
            odd_parity: match self.parity {
                Parity::None => None,
                Parity::Even => Some(false),
                Parity::Odd => Some(true),
            },
            two_stop_bits: self.stop_bits == 2,
            flow: match self.flow_control {
                FlowControl::None => Flow::None,
                FlowControl::Hardware => Flow::Hardware,
                FlowControl::Software => Flow::Software,
            },
            hang_up: self.hang_up,
            dtr: self.dtr,
            low_latency: self.low_latency,
        }
    }

    /// Checks that the content can be read from its middle, since a board may be sending while the port is opened.
    fn check_content(&self, key: &Key, checker: &mut Checker) {
        match &self.content {
            Content::Records(records) => {
                let key = key.child("records");
                if records.format == Format::Json {
                    let message =
                        "the port may be opened in the middle of an object; write one object a line, and \"ndjson\"";
                    checker.problem(&key.child("format"), message);
                }
                if records.has_header() {
                    let message =
                        "a board writes a header only when it starts; name all columns with columns = [\"...\"]";
                    checker.problem(&key, message);
                }
                if records.skip_lines > 0 {
                    let message = "a board writes its first lines only when it starts; leave it out: text that is not a record \
                                   is passed over";
                    checker.problem(&key.child("skip_lines"), message);
                }
            }
            Content::Bytes(bytes) if bytes.frame_bytes() > 1 => {
                let message = "nothing shows where a frame begins, and a byte that is lost would shift all others; send packets, \
                               or lines, or frames of one byte";
                checker.problem(&key.child("bytes"), message);
            }
            Content::Bytes(_) | Content::Packets(_) => {}
        }
        let is_text = matches!(self.content, Content::Records(_));
        if !is_text && self.data_bits != 8 {
            checker.problem(&key.child("data_bits"), "only text can do with 7 bits; leave it out");
        }
        if !is_text && self.flow_control == FlowControl::Software {
            let message = "the bytes XON and XOFF would be missing from the data; write \"none\" or \"hardware\"";
            checker.problem(&key.child("flow_control"), message);
        }
    }
}

impl Serial {
    /// Checks that the port carries what the content needs.
    fn check_baud(&self, key: &Key, checker: &mut Checker) {
        let Some(needed) = self.content.kind().least_bytes_per_second() else { return };
        let parity_bits = u8::from(self.parity != Parity::None);
        let bits_per_byte = f64::from(1 + self.data_bits + parity_bits + self.stop_bits);
        let carried = f64::from(self.baud) / bits_per_byte;
        if needed > carried {
            let least = needed * bits_per_byte;
            let enough = BAUDS.into_iter().find(|baud| f64::from(*baud) >= least);
            let advice = match enough {
                Some(baud) => {
                    format!("write {baud}, here and on the board (a board that is a USB device itself takes any)")
                }
                None => "send less, or use another interface".to_owned(),
            };
            let message = format!(
                "at {} baud a port carries {} bytes in a second, of {bits_per_byte} bits each; {}.rate_hz needs at least {} \
                 bytes in a second, which is {} baud; {advice}",
                self.baud,
                figure(carried),
                self.content.name(),
                figure(needed),
                figure(least),
            );
            checker.problem(&key.child("baud"), message);
        }
    }
}

impl SourceKind for Serial {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        if !self.port.is_absolute() {
            let message =
                format!("`{}` is not the whole path of a port; write it as \"/dev/ttyUSB0\"", self.port.display());
            checker.problem(&key.child("port"), message);
        }
        self.check_content(key, checker);
        self.content.check(key, checker);
        self.check_baud(key, checker);
        self.buffer.check(&key.child("buffer"), checker);
    }

    fn spec(&self) -> StreamSpec {
        self.content.kind().spec()
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        let otherwise = if self.flow_control == FlowControl::None { WhenFull::Drop } else { WhenFull::Wait };
        (&self.buffer, otherwise)
    }

    fn open(&self, options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        self.check_access()?;
        let decoder = self.content.kind().decoder(options.labels);
        let (path, settings) = (self.port.clone(), self.settings());
        Ok(Box::new(SerialSource { path, settings, decoder }))
    }

    /// Only what can never become a port is refused: one that is not there, or whose permissions udev has not set yet, is
    /// waited for.
    fn check_access(&self) -> Result<(), SourceError> {
        match is_character_device(&self.port) {
            Ok(false) => Err(SourceError::device(&self.port, PortError::NotAPort.to_string())),
            Ok(true) | Err(_) => Ok(()),
        }
    }

    fn survey(&self, machine: &Machine<'_>) -> Survey {
        survey(&self.port, machine, Path::new("/proc"))
    }

    fn exclusive(&self) -> Vec<Exclusive> {
        vec![Exclusive::new(self.port.display().to_string(), "port")]
    }

    fn content(&self) -> Option<&dyn ContentKind> {
        Some(self.content.kind())
    }

    fn endless(&self) -> Option<&'static str> {
        Some("reads a serial port, which has no end; start it without --once, or use the source lines or replay")
    }
}

/// Examines a port without opening it, which would restart some boards.
pub(crate) fn survey(port: &Path, machine: &Machine<'_>, proc: &Path) -> Survey {
    let path = ports::on(machine, port);
    let shown = port.display();
    match is_character_device(&path) {
        Ok(true) => {}
        Ok(false) => return Survey::broken(format!("{shown} is not a serial port")).fix(ports::that_exist(machine)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Survey::absent(format!("there is no {shown}")).fix(ports::that_exist(machine));
        }
        Err(error) => return Survey::broken(format!("{shown}: {error}")),
    }
    let device = path.canonicalize().unwrap_or_else(|_| path.clone());
    let name = device.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let rule = format!("KERNEL==\"{name}\", GROUP=\"dialout\", MODE=\"0660\"");
    let (ours, others): (Vec<Holder>, Vec<Holder>) =
        holders(proc, &path).into_iter().partition(|holder| holder.name == "edgewatt");
    if let Some(other) = others.first() {
        return Survey::broken(format!("{shown} is in use by {}", by(other))).fix(leave(other));
    }
    if eaccess(&path, AccessFlags::R_OK | AccessFlags::W_OK).is_err() {
        return Survey::broken(format!("{shown}: permission denied")).fix(permit(&device, &rule));
    }
    let used = ours.first().map_or_else(String::new, |holder| format!(", read by {}", by(holder)));
    Survey::ready(format!("{shown} is {name}{used}")).detail(advice(port, &name, machine, proc)).node(device, rule)
}

/// Returns what to know of a port that can be used; `name` is that of its device file.
fn advice(port: &Path, name: &str, machine: &Machine<'_>, proc: &Path) -> Vec<String> {
    let mut advice = Vec::new();
    if !port.starts_with("/dev/serial")
        && let Some(stable) = ports::stable(machine, name)
    {
        advice.push(format!("{name} can be another port after the next start; use port = \"{}\"", stable.display()));
    }
    if name.starts_with("ttyACM") && runs(proc, MODEM_MANAGER) {
        advice.push(format!("{MODEM_MANAGER} runs, and writes to new ports to find modems; to keep it away: {IGNORE}"));
    }
    advice
}

const MODEM_MANAGER: &str = "ModemManager";
const IGNORE: &str = "in /etc/udev/rules.d/70-edgewatt.rules: SUBSYSTEM==\"tty\", KERNEL==\"ttyACM*\", \
                      ENV{ID_MM_DEVICE_IGNORE}=\"1\"; then run: sudo udevadm control --reload && sudo udevadm trigger";

fn by(holder: &Holder) -> String {
    format!("{} (process {})", holder.name, holder.pid)
}

fn leave(holder: &Holder) -> String {
    if holder.name == MODEM_MANAGER { IGNORE.to_owned() } else { format!("close {}", holder.name) }
}

/// A port, which is opened again and again.
struct SerialSource {
    path: PathBuf,
    settings: LineSettings,
    decoder: Decoder,
}

impl FrameProducer for SerialSource {
    fn run(mut self: Box<Self>, sink: &mut FrameSink) -> Result<(), SourceError> {
        let Self { path, settings, decoder } = &mut *self;
        let name = path.display().to_string();
        let question = format!("is baud = {} that of the board?", settings.baud);
        let read = |port: &mut OpenPort, sink: &mut FrameSink| match decoder.stream_midway(
            port,
            path,
            sink,
            MOST_BYTES_OF_SLOW,
            &question,
        )? {
            ControlFlow::Continue(()) => Err(SourceError::device(path, "it was unplugged".to_owned())),
            stopped => Ok(stopped),
        };
        keep_open(sink, &name, DEVICE_RETRY, false, || open(path, settings), read)
    }
}

/// Opens a port; the error says who has it, or what makes it work.
pub(crate) fn open(path: &Path, settings: &LineSettings) -> Result<OpenPort, SourceError> {
    let explained = |error: PortError| {
        let reason = match &error {
            PortError::InUse => match holders(Path::new("/proc"), path).first() {
                Some(holder) => format!("it is in use by {}; {}", by(holder), leave(holder)),
                None => "it is in use by another program; run `edgewatt doctor` as root to see which".to_owned(),
            },
            PortError::Open(error) => match error.kind() {
                io::ErrorKind::NotFound => format!("there is no such port; {}", ports::that_exist(&Machine::this())),
                // The file's own permissions give EACCES; EPERM is the list of devices of the service.
                io::ErrorKind::PermissionDenied if error.raw_os_error() == Some(libc::EPERM) => {
                    "the service may not open it; run: sudo systemctl restart edgewatt; if that does not help, permit its class: \
                     sudo systemctl edit edgewatt, DeviceAllow=char-NAME rw, with its name in /proc/devices"
                        .to_owned()
                }
                io::ErrorKind::PermissionDenied => format!("permission denied; {}", permit(path, RULE)),
                _ => error.to_string(),
            },
            other => other.to_string(),
        };
        SourceError::device(path, reason)
    };
    serial::open(path, settings).map(OpenPort).map_err(explained)
}

const RULE: &str = "SUBSYSTEM==\"tty\", KERNEL==\"tty[A-Z]*[0-9]\", GROUP=\"dialout\", MODE=\"0660\"";

/// An open port. If its device is gone, the stream ends.
pub(crate) struct OpenPort(File);

impl OpenPort {
    /// Returns a second handle, to write to the port.
    ///
    /// # Errors
    /// The process has too many files open.
    pub(crate) fn writer(&self) -> io::Result<File> {
        self.0.try_clone()
    }
}

impl Read for OpenPort {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into) {
            // What a driver says about a device that is gone, or whose other end is.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::ENXIO | libc::ENODEV)) => Ok(0),
            result => result,
        }
    }
}

impl AsFd for OpenPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
