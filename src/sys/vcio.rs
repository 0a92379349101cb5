//! Commands to a Raspberry Pi's firmware, as `vcgencmd` gives them.
//!
//! Source: `vcgencmd/vcgencmd.c` in github.com/raspberrypi/utils; `drivers/char/broadcom/vcio.c` in
//! github.com/raspberrypi/linux, which copies as many bytes as the message's first word says, in and out.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;

/// `IOCTL_MBOX_PROPERTY`: `_IOWR(100, 0, char *)`.
const MAILBOX_PROPERTY: libc::c_ulong = nix::request_code_readwrite!(100, 0, size_of::<*mut libc::c_char>());
const GET_GENCMD_RESULT: u32 = 0x0003_0080;
const TEXT_BYTES: usize = 1024;
/// Size, status, tag, length of the text's room, length of the request, result; the text; the end tag.
const HEADER_WORDS: usize = 6;
const WORDS: usize = HEADER_WORDS + TEXT_BYTES / 4 + 1;
const RESULT: usize = 5;

/// The firmware behind `/dev/vcio`.
#[derive(Debug)]
pub struct Firmware(File);

impl Firmware {
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// Returns the firmware's answer to `command`.
    ///
    /// # Errors
    /// The firmware does not know the command.
    pub fn ask(&self, command: &str) -> io::Result<String> {
        let mut message = request(command)?;
        // SAFETY: the driver reads and writes the bytes that the first word counts, which are those of `message`; it is
        // aligned for words and lives until the call returns.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), MAILBOX_PROPERTY as _, message.as_mut_ptr()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        answer(&message)
    }
}

fn request(command: &str) -> io::Result<[u32; WORDS]> {
    let mut message = [0; WORDS];
    let room = u32::try_from(TEXT_BYTES).map_err(io::Error::other)?;
    let size = u32::try_from(size_of_val(&message)).map_err(io::Error::other)?;
    message[..4].copy_from_slice(&[size, 0, GET_GENCMD_RESULT, room]);
    let text = bytemuck::cast_slice_mut::<u32, u8>(&mut message[HEADER_WORDS..WORDS - 1]);
    // The text ends with a zero.
    let place = text.get_mut(..command.len()).filter(|_| command.len() < TEXT_BYTES);
    place.ok_or_else(|| io::Error::other("the command is too long"))?.copy_from_slice(command.as_bytes());
    Ok(message)
}

fn answer(message: &[u32; WORDS]) -> io::Result<String> {
    let text = bytemuck::cast_slice::<u32, u8>(&message[HEADER_WORDS..WORDS - 1]);
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text).trim().to_owned();
    if message[RESULT] != 0 || text.starts_with("error=") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("the firmware answered {text:?}")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_firmware_reads_it() {
        let message = request("pmic_read_adc").unwrap();
        assert_eq!(message[..6], [263 * 4, 0, 0x30080, 1024, 0, 0]);
        assert_eq!(bytemuck::cast_slice::<u32, u8>(&message)[24..38], *b"pmic_read_adc\0");
        assert_eq!(message[262], 0);
        assert!(request(&"x".repeat(1024)).is_err());
    }

    #[test]
    fn an_answer_ends_at_its_zero_and_a_refusal_is_an_error() {
        let mut message = request("a=1\n").unwrap();
        assert_eq!(answer(&message).unwrap(), "a=1");
        message[RESULT] = 1;
        assert!(answer(&message).unwrap_err().to_string().contains("a=1"));
        let refusal = answer(&request("error=1 error_msg=\"Command not registered\"").unwrap()).unwrap_err();
        assert_eq!(refusal.kind(), io::ErrorKind::Unsupported);
        assert!(answer(&request(&"x".repeat(1023)).unwrap()).is_ok());
    }

    #[test]
    fn another_file_is_refused_by_the_kernel() {
        let error = Firmware::open(Path::new("/dev/null")).unwrap().ask("pmic_read_adc").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
