//! Raw bytes that hold frames one after the other, as recorders, cameras and converters write them.
//!
//! Owns how bytes become samples. Any split of the same bytes gives the same frames. Allocates nothing after it is built.

use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::path::Path;

use super::{ContentKind, Decoder};
use crate::schema::expanded::Table as _;
use crate::schema::{Checker, Key, choice, table};
use crate::source::{FrameSink, Reject, TruthLabels};
use crate::stream::{SampleType, Shape, StreamSpec};
use crate::units::MonoTime;

/// Far above any real use.
const MAX_CHANNELS: usize = 4096;
const MAX_PIXELS: usize = 16_384;
/// So many bytes are read at once, unless a frame is longer.
const READ_BYTES: usize = 64 * 1024;

choice! {
    /// How bytes hold samples, or pixels.
    pub enum ByteFormat {
        /// Signed integers of 16 bits, the low byte first.
        S16le = "s16le",
        /// Signed integers of 32 bits, the low byte first.
        S32le = "s32le",
        /// Floating-point numbers of 32 bits, the low byte first.
        F32le = "f32le",
        /// Unsigned integers of 8 bits.
        U8 = "u8",
        /// Images with a byte each for red, green and blue.
        Rgb24 = "rgb24",
        /// Images with a byte a pixel.
        Gray = "gray",
    }
}

impl ByteFormat {
    /// Returns the channels of a pixel; `None` if frames are not images.
    fn pixel(self) -> Option<usize> {
        match self {
            Self::Rgb24 => Some(3),
            Self::Gray => Some(1),
            Self::S16le | Self::S32le | Self::F32le | Self::U8 => None,
        }
    }

    /// Returns the type of the samples that are made of the bytes, and the bytes of one.
    fn sample(self) -> (SampleType, usize) {
        match self {
            Self::S16le => (SampleType::I16, 2),
            Self::S32le | Self::F32le => (SampleType::F32, 4),
            Self::U8 | Self::Rgb24 | Self::Gray => (SampleType::U8, 1),
        }
    }
}

table! {
    /// Raw bytes that hold frames one after the other, with nothing between them.
    pub struct Bytes {
        /// How the bytes hold samples: "s16le", "s32le", "f32le" or "u8"; or images: "rgb24" or "gray". The model gets the
        /// numbers as they are: integers of 16 bits are from -32768 to 32767.
        pub format: ByteFormat, example("\"s16le\"");
        /// The number of channels. A frame has one value of each.
        pub channels: usize = 1, range(1, MAX_CHANNELS);
        /// The channels that the model gets, counted from 0, in the order in which it wants them.
        pub select: Option<Vec<usize>>, otherwise("all"), example("[0]");
        /// The number of frames in a second.
        pub rate_hz: Option<f64>, range(1e-6, 1e9), unit("Hz"), otherwise("unknown"), example("16000.0");
        /// The width of an image.
        pub width: Option<usize>, range(1, MAX_PIXELS), unit("pixels"), otherwise("none"), example("320");
        /// The height of an image.
        pub height: Option<usize>, range(1, MAX_PIXELS), unit("pixels"), otherwise("none"), example("240");
    }
}

impl ContentKind for Bytes {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        let is_image = self.format.pixel().is_some();
        for (name, size) in [("width", self.width), ("height", self.height)] {
            if is_image && size.is_none() {
                checker.problem(&key.child(name), format!("images need a {name}, in pixels"));
            }
            if !is_image && size.is_some() {
                checker.problem(&key.child(name), "this format has no images; leave it out");
            }
        }
        if is_image && self.channels != 1 {
            checker.problem(&key.child("channels"), "the format says how many channels a pixel has; leave it out");
        }
        if let Some(select) = &self.select {
            let key = key.child("select");
            if is_image {
                checker.problem(&key, "all channels of an image are used; leave it out");
            } else if select.is_empty() || select.iter().any(|channel| *channel >= self.channels) {
                let last = self.channels.saturating_sub(1);
                checker.problem(&key, format!("name one or more channels from 0 to {last}"));
            }
        }
    }

    fn spec(&self) -> StreamSpec {
        let frame = match (self.format.pixel(), self.height, self.width) {
            (Some(channels), Some(height), Some(width)) => Shape::new([height, width, channels]),
            _ => Shape::new([self.select.as_ref().map_or(self.channels, Vec::len)]),
        };
        let (sample, _) = self.format.sample();
        StreamSpec { frame, sample, rate_hz: self.rate_hz, names: Vec::new(), units: Vec::new() }
    }

    fn decoder(&self, _labels: TruthLabels) -> Decoder {
        Decoder::Bytes(Box::new(ByteDecoder::new(self)))
    }

    fn frames_per_block(&self) -> usize {
        // A millisecond: what is written in smaller pieces is mostly read together.
        self.rate_hz.map_or(1, |rate| (rate / 1e3) as usize).max(1)
    }
}

impl Bytes {
    /// Checks the table of a source that has no other content.
    pub fn check_all(&mut self, key: &Key, checker: &mut Checker) {
        self.check_ranges(key, checker);
        self.check(key, checker);
    }

    /// Returns the bytes of one frame.
    pub fn frame_bytes(&self) -> usize {
        let values = match (self.format.pixel(), self.height, self.width) {
            (Some(channels), Some(height), Some(width)) => height * width * channels,
            _ => self.channels,
        };
        values * self.format.sample().1
    }
}

/// Cuts bytes into frames.
pub struct ByteDecoder {
    format: ByteFormat,
    channels: usize,
    select: Option<Vec<usize>>,
    frame_bytes: usize,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are in use.
    end: usize,
    floats: Vec<f32>,
    integers: Vec<i16>,
    bytes: Vec<u8>,
}

impl ByteDecoder {
    /// `bytes` was checked.
    pub fn new(bytes: &Bytes) -> Self {
        let frame_bytes = bytes.frame_bytes().max(1);
        let size = frame_bytes.max(READ_BYTES / frame_bytes * frame_bytes);
        let values = size / bytes.format.sample().1;
        let room = |is_used: bool| if is_used { values } else { 0 };
        let (sample, _) = bytes.format.sample();
        Self {
            format: bytes.format,
            channels: bytes.channels,
            select: bytes.select.clone(),
            frame_bytes,
            buffer: vec![0; size],
            end: 0,
            floats: Vec::with_capacity(room(sample == SampleType::F32)),
            integers: Vec::with_capacity(room(sample == SampleType::I16)),
            bytes: Vec::with_capacity(room(sample == SampleType::U8 && bytes.select.is_some())),
        }
    }

    /// Another stream begins; returns the number of bytes of an unfinished frame of the one before.
    pub fn restart(&mut self) -> usize {
        std::mem::take(&mut self.end)
    }

    /// Reads once. Returns the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of `from`.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        let count = loop {
            match from.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.end += count;
        Ok(count)
    }

    /// Returns the bytes of one frame.
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Returns the number of whole frames that were read and not fed yet.
    pub fn frames(&self) -> usize {
        self.end / self.frame_bytes
    }

    /// Feeds the whole frames that were read, the oldest first and at most `most`; `stream_ns` is the time of the first.
    pub fn feed(
        &mut self,
        most: usize,
        arrival: MonoTime,
        stream_ns: Option<i64>,
        sink: &mut FrameSink,
    ) -> ControlFlow<()> {
        let length = self.frames().min(most) * self.frame_bytes;
        if length == 0 {
            return ControlFlow::Continue(());
        }
        let whole = &self.buffer[..length];
        let select = (self.channels, self.select.as_deref());
        let flow = match self.format {
            ByteFormat::S16le => {
                convert(&mut self.integers, whole, select, i16::from_le_bytes);
                sink.frames(&self.integers, arrival, stream_ns)
            }
            ByteFormat::S32le => {
                convert(&mut self.floats, whole, select, |bytes| i32::from_le_bytes(bytes) as f32);
                sink.frames(&self.floats, arrival, stream_ns)
            }
            ByteFormat::F32le => {
                convert(&mut self.floats, whole, select, f32::from_le_bytes);
                self.numbers(arrival, stream_ns, sink)
            }
            ByteFormat::U8 if self.select.is_some() => {
                convert(&mut self.bytes, whole, select, u8::from_le_bytes);
                sink.frames(&self.bytes, arrival, stream_ns)
            }
            ByteFormat::U8 | ByteFormat::Rgb24 | ByteFormat::Gray => sink.frames(whole, arrival, stream_ns),
        };
        self.buffer.copy_within(length..self.end, 0);
        self.end -= length;
        flow
    }

    /// Feeds floating-point numbers; frames that have a value that is not a number are rejected.
    fn numbers(&self, arrival: MonoTime, stream_ns: Option<i64>, sink: &mut FrameSink) -> ControlFlow<()> {
        if self.floats.iter().all(|value| value.is_finite()) {
            return sink.frames(&self.floats, arrival, stream_ns);
        }
        let channels = self.select.as_ref().map_or(self.channels, Vec::len);
        for frame in self.floats.chunks(channels) {
            if frame.iter().all(|value| value.is_finite()) {
                sink.frames(frame, arrival, stream_ns)?;
            } else {
                sink.reject(Reject::NotFinite, arrival, || format!("a frame has the values {frame:?}"))?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// Makes samples of the bytes of whole frames: of all channels, or of those selected.
fn convert<T, const N: usize>(
    samples: &mut Vec<T>,
    bytes: &[u8],
    (channels, select): (usize, Option<&[usize]>),
    sample: impl Fn([u8; N]) -> T,
) {
    let (values, _) = bytes.as_chunks::<N>();
    samples.clear();
    match select {
        None => samples.extend(values.iter().map(|value| sample(*value))),
        Some(select) => {
            let frames = values.chunks(channels);
            samples.extend(frames.flat_map(|frame| select.iter().map(|channel| sample(frame[*channel]))));
        }
    }
}

/// Says what was left of a frame when its stream ended.
pub(crate) fn unfinished(name: &Path, left: usize, frame: usize) -> String {
    format!("{}: the stream ended after {left} of the {frame} bytes of a frame", name.display())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::source::sink::frame_ring;
    use crate::source::{Pieces, SinkSettings, WhenFull};
    use crate::stop::Stop;

    fn bytes(text: &str) -> Bytes {
        toml::from_str(text).unwrap()
    }

    /// Feeds the bytes in pieces of these sizes, and returns the values of all frames, and how many bytes were left.
    fn decoded(of: &Bytes, bytes: &[u8], pieces: impl Iterator<Item = usize>) -> (Vec<f32>, usize, u64) {
        let settings = SinkSettings { spec: of.spec(), frames: 4096, frames_per_block: 1, when_full: WhenFull::Drop };
        let (mut sink, mut reader) = frame_ring(&settings, "test", Arc::new(Stop::new().unwrap()), Arc::default());
        let mut decoder = ByteDecoder::new(of);
        let mut rest = bytes;
        for piece in pieces {
            let (mut part, after) = rest.split_at(piece.min(rest.len()));
            rest = after;
            while !part.is_empty() {
                decoder.fill(&mut part).unwrap();
                assert!(decoder.feed(usize::MAX, MonoTime(0), None, &mut sink).is_continue());
            }
        }
        let mut values = Vec::new();
        let mut add = |pieces: Pieces<'_>| match pieces {
            Pieces::F32(a, b) => values.extend([a, b].concat()),
            Pieces::I16(a, b) => values.extend([a, b].concat().into_iter().map(f32::from)),
            Pieces::U8(a, b) => values.extend([a, b].concat().into_iter().map(f32::from)),
        };
        while reader.pop(usize::MAX, |_, _| true, |frames| add(frames.values)).is_some() {}
        let rejected = reader.stats.rejected();
        (values, decoder.restart(), rejected)
    }

    #[test]
    fn each_format_gives_its_numbers() {
        let all = |text: &str, raw: &[u8]| decoded(&bytes(text), raw, [raw.len()].into_iter());
        let stereo = [0x01, 0x00, 0xff, 0xff, 0x00, 0x80, 0xff, 0x7f, 0x09];
        assert_eq!(all("format = 's16le'\nchannels = 2", &stereo), (vec![1.0, -1.0, -32768.0, 32767.0], 1, 0));
        assert_eq!(all("format = 's16le'\nchannels = 2\nselect = [1]", &stereo).0, [-1.0, 32767.0]);
        assert_eq!(all("format = 's32le'", &[0, 0, 0, 0x80, 1, 0, 0, 0]).0, [-2_147_483_648.0, 1.0]);
        assert_eq!(all("format = 'u8'\nchannels = 2\nselect = [1, 0]", &[1, 2, 3]), (vec![2.0, 1.0], 1, 0));
        assert_eq!(
            all("format = 'rgb24'\nwidth = 2\nheight = 1", &[1, 2, 3, 4, 5, 6, 7]),
            ((1..7).map(|v| v as f32).collect(), 1, 0)
        );
        let floats: Vec<u8> = [1.5f32, f32::NAN, 2.5, 3.5].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(all("format = 'f32le'", &floats), (vec![1.5, 2.5, 3.5], 0, 1), "what is not a number is rejected");
        assert_eq!(all("format = 'f32le'\nchannels = 2", &floats), (vec![2.5, 3.5], 0, 1), "with its frame");
    }

    #[test]
    fn the_stream_is_known_before_it_starts() {
        let spec = bytes("format = 'gray'\nwidth = 4\nheight = 3\nrate_hz = 10").spec();
        assert_eq!((spec.frame.dims(), spec.sample, spec.rate_hz), (&[3, 4, 1][..], SampleType::U8, Some(10.0)));
        let spec = bytes("format = 's16le'\nchannels = 6\nselect = [0, 4]").spec();
        assert_eq!((spec.frame.dims(), spec.sample, spec.rate_hz), (&[2][..], SampleType::I16, None));
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_frames(
            raw in prop::collection::vec(any::<u8>(), 0..600),
            pieces in prop::collection::vec(1usize..50, 0..100),
            format in prop::sample::select(vec!["s16le", "s32le", "f32le", "u8"]),
            channels in 1usize..5,
        ) {
            let of = bytes(&format!("format = '{format}'\nchannels = {channels}\nselect = [{}]", channels - 1));
            let whole = decoded(&of, &raw, [raw.len()].into_iter());
            let split = decoded(&of, &raw, pieces.into_iter().chain([raw.len()]));
            prop_assert_eq!(whole, split);
        }
    }
}
