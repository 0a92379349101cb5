//! The header of a WAV file: what it says about the sound, and where the sound lies. Pure.
//!
//! Owns the header alone; the sound itself is read as raw bytes are. A header that a writer into a pipe could not complete
//! is read: the sound then goes to the end of the file.

use std::io::{self, Read, Seek, SeekFrom};

use crate::source::content::bytes::Encoding;
use crate::text::counted;

/// Chunks before the sound, such as a list of titles. More are not looked through.
const MOST_CHUNKS: usize = 1_000;
/// The part of a `fmt ` chunk that is used.
const MOST_FORMAT_BYTES: usize = 40;
/// From this length of the sound on, its writer did not know it: programs that write into a pipe put a length near one of
/// these limits, or 0.
const LEAST_UNKNOWN_LENGTH: u64 = 0x7fff_0000;
const MAX_CHANNELS: u16 = 4096;

/// The bytes of the header that [`header`] writes.
pub const HEADER_BYTES: usize = 44;
/// The most bytes of sound that a file can hold, with the header and to a whole number of frames of 16 bits.
pub const MOST_BYTES: u64 = 0xffff_ff00;

/// What a header says.
#[derive(Debug, Clone, PartialEq)]
pub struct WavHeader {
    pub channels: usize,
    pub rate_hz: u32,
    pub encoding: Encoding,
    /// The bits of a sample, for people.
    pub bits: u16,
    /// Where the sound begins, in bytes.
    pub start: u64,
    /// The bytes of sound that the file has.
    pub bytes: u64,
    /// The bytes of sound that the header promises, if it promises more than the file has.
    pub promised: Option<u64>,
}

/// Why a file cannot be played as a WAV file.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is not a WAV file; {0}")]
    NotWav(String),
    #[error("{0}; convert it: sox FILE -b 16 -e signed-integer OUTPUT.wav")]
    Unsupported(String),
    #[error("its header is damaged: {0}")]
    Damaged(String),
}

/// Returns whether a file that begins so is a WAV file, of any kind.
pub fn is_wav(start: &[u8]) -> bool {
    let is_riff = [&b"RIFF"[..], b"RIFX", b"RF64", b"BW64"].iter().any(|magic| start.starts_with(magic));
    is_riff && start.get(8..12) == Some(b"WAVE")
}

/// Reads the header of a file of `file_bytes` bytes.
///
/// # Errors
/// It is not a WAV file, or one whose sound cannot be read.
pub fn read(file: &mut (impl Read + Seek), file_bytes: u64) -> Result<WavHeader, WavError> {
    let mut start = [0; 12];
    let count = read_most(file, &mut start)?;
    let start = &start[..count];
    if !is_wav(start) {
        return Err(WavError::NotWav(what_it_is(start)));
    }
    match start.get(..4) {
        Some(b"RIFF") => {}
        Some(b"RIFX") => return Err(WavError::Unsupported("its numbers have the high byte first".to_owned())),
        _ => return Err(WavError::Unsupported("it is a file of more than 4 GiB (RF64)".to_owned())),
    }
    let riff_bytes = u64::from(number(start, 4));
    let (mut at, mut format) = (12, None);
    for _ in 0..MOST_CHUNKS {
        let mut head = [0; 8];
        file.seek(SeekFrom::Start(at))?;
        if read_most(file, &mut head)? < head.len() {
            break;
        }
        let length = u64::from(number(&head, 4));
        match &head[..4] {
            b"fmt " => {
                let mut chunk = [0; MOST_FORMAT_BYTES];
                let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(MOST_FORMAT_BYTES);
                let count = read_most(file, &mut chunk[..wanted])?;
                format = Some(Format::read(&chunk[..count])?);
            }
            b"data" => {
                let Some(format) = format else {
                    return Err(WavError::Damaged("the sound comes before what says how it is stored".to_owned()));
                };
                return Ok(format.header(at + 8, length, riff_bytes, file_bytes));
            }
            _ => {}
        }
        // Chunks have an even length.
        at = at.saturating_add(8 + length + length % 2);
    }
    Err(WavError::Damaged(if format.is_some() { "it has no sound" } else { "it has no format" }.to_owned()))
}

/// How the sound is stored.
struct Format {
    channels: u16,
    rate_hz: u32,
    encoding: Encoding,
    bits: u16,
}

impl Format {
    fn read(chunk: &[u8]) -> Result<Self, WavError> {
        const EXTENSIBLE: u16 = 0xfffe;
        /// What follows the tag in the name of a format of the extensible form.
        const COMMON: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];
        if chunk.len() < 16 {
            return Err(WavError::Damaged(format!("its format has {} bytes, not 16", chunk.len())));
        }
        let (mut tag, channels, rate_hz) = (short(chunk, 0), short(chunk, 2), number(chunk, 4));
        let (block, bits) = (short(chunk, 12), short(chunk, 14));
        if tag == EXTENSIBLE {
            if chunk.get(26..40) != Some(&COMMON[..]) {
                return Err(WavError::Unsupported("its sound is stored in a format of its own".to_owned()));
            }
            tag = short(chunk, 24);
        }
        let encoding = match (tag, bits) {
            (1, 8) => Encoding::Sound8,
            (1, 16) => Encoding::S16,
            (1, 24) => Encoding::Sound24,
            (1, 32) => Encoding::Sound32,
            (3, 32) => Encoding::SoundF32,
            (3, 64) => Encoding::SoundF64,
            (1 | 3, _) => return Err(WavError::Unsupported(format!("its samples have {bits} bits"))),
            (tag, _) => return Err(WavError::Unsupported(format!("its sound is stored as {}", tag_name(tag)))),
        };
        if channels == 0 || channels > MAX_CHANNELS || rate_hz == 0 {
            return Err(WavError::Damaged(format!("it says {} and {rate_hz} Hz", counted(channels, "channel"))));
        }
        if usize::from(block) != usize::from(channels) * encoding.sample().1 {
            let message =
                format!("it says {} for {} of {bits} bits", counted(block, "byte"), counted(channels, "sample"));
            return Err(WavError::Damaged(message));
        }
        Ok(Self { channels, rate_hz, encoding, bits })
    }

    fn header(self, start: u64, length: u64, riff_bytes: u64, file_bytes: u64) -> WavHeader {
        let there = file_bytes.saturating_sub(start);
        // A length of 0 is true if the rest of the header agrees with the file.
        let is_unknown =
            length >= LEAST_UNKNOWN_LENGTH && length > there || length == 0 && riff_bytes + 8 != file_bytes;
        let bytes = if is_unknown { there } else { length.min(there) };
        let promised = (!is_unknown && length > there).then_some(length);
        let Self { channels, rate_hz, encoding, bits } = self;
        WavHeader { channels: channels.into(), rate_hz, encoding, bits, start, bytes, promised }
    }
}

/// Returns the header of a file with `bytes` bytes of samples of 16 bits; `None`: it is not known yet how many.
pub fn header(channels: u16, rate_hz: u32, bytes: Option<u32>) -> [u8; HEADER_BYTES] {
    const BEFORE_SOUND: u32 = HEADER_BYTES as u32 - 8;
    let mut header = [0; HEADER_BYTES];
    let block = channels.saturating_mul(2);
    let riff = bytes.map_or(u32::MAX, |bytes| bytes.saturating_add(BEFORE_SOUND));
    let parts: [&[u8]; 12] = [
        b"RIFF",
        &riff.to_le_bytes(),
        b"WAVEfmt ",
        &16u32.to_le_bytes(),
        &1u16.to_le_bytes(),
        &channels.to_le_bytes(),
        &rate_hz.to_le_bytes(),
        &rate_hz.saturating_mul(block.into()).to_le_bytes(),
        &block.to_le_bytes(),
        &16u16.to_le_bytes(),
        b"data",
        &bytes.unwrap_or(u32::MAX).to_le_bytes(),
    ];
    for (to, from) in header.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    header
}

/// Says what a file is that is not a WAV file.
fn what_it_is(start: &[u8]) -> String {
    let known: [(&[u8], &str); 6] = [
        (b"fLaC", "FLAC"),
        (b"OggS", "Ogg"),
        (b"ID3", "MP3"),
        (&[0xff, 0xfb], "MP3"),
        (b"FORM", "AIFF"),
        (b".snd", "AU"),
    ];
    match known.into_iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, name)) => format!("it is {name}; convert it: ffmpeg -i FILE OUTPUT.wav"),
        None if start.is_empty() => "it is empty".to_owned(),
        None => "a WAV file begins with RIFF, its length and WAVE".to_owned(),
    }
}

fn tag_name(tag: u16) -> String {
    match tag {
        2 | 0x11 => "ADPCM".to_owned(),
        6 => "A-law".to_owned(),
        7 => "\u{b5}-law".to_owned(),
        0x55 => "MP3".to_owned(),
        _ => format!("format {tag:#06x}"),
    }
}

/// Reads until the buffer is full or the file ends.
fn read_most(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Returns the number of 16 bits at a place; 0 behind the end.
fn short(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// Returns the number of 32 bits at a place; 0 behind the end.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
