//! Raw bytes that hold frames one after the other, as recorders, cameras and converters write them.
//!
//! Owns how bytes become samples. Any split of the same bytes gives the same frames. Allocates nothing after it is built.

use std::io::{self, ErrorKind, Read};
use std::ops::ControlFlow;
use std::path::Path;

use super::yuv::{Matrix, Range, Yuv420};
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
/// Integers of 32 bits are so many times as large as those of 16 bits.
const BELOW_16_BITS: f32 = 65_536.0;
/// The number of 16 bits that stands for 1.
const FULL_SCALE: f32 = 32_768.0;

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
        /// Images in YUV 4:2:0: all of Y, then all of U, then all of V. The model gets RGB.
        Yuv420p = "yuv420p",
    }
}

impl ByteFormat {
    /// Returns the channels of a pixel; `None` if frames are not images.
    fn pixel(self) -> Option<usize> {
        match self {
            Self::Rgb24 | Self::Yuv420p => Some(3),
            Self::Gray => Some(1),
            Self::S16le | Self::S32le | Self::F32le | Self::U8 => None,
        }
    }

    /// Returns the type of the samples that are made of the bytes, and the bytes of one.
    fn sample(self) -> (SampleType, usize) {
        self.encoding().sample()
    }

    fn encoding(self) -> Encoding {
        match self {
            Self::S16le => Encoding::S16,
            Self::S32le => Encoding::S32,
            Self::F32le => Encoding::F32,
            Self::U8 | Self::Rgb24 | Self::Gray | Self::Yuv420p => Encoding::U8,
        }
    }
}

/// How bytes hold one sample, the low byte first. Those of sound files give numbers of the range of 16 bits, whatever they
/// are stored in, so that one model takes every file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    S16,
    S32,
    F32,
    U8,
    /// Sound in unsigned bytes, 128 for silence.
    Sound8,
    /// Sound in signed integers of 24 bits.
    Sound24,
    /// Sound in signed integers of 32 bits.
    Sound32,
    /// Sound in floating-point numbers from -1 to 1, of 32 bits.
    SoundF32,
    /// The same, of 64 bits.
    SoundF64,
}

impl Encoding {
    /// Returns the type of the samples that are made of the bytes, and the bytes of one.
    pub fn sample(self) -> (SampleType, usize) {
        match self {
            Self::S16 => (SampleType::I16, 2),
            Self::U8 => (SampleType::U8, 1),
            Self::S32 | Self::F32 | Self::Sound32 | Self::SoundF32 => (SampleType::F32, 4),
            Self::Sound8 => (SampleType::I16, 1),
            Self::Sound24 => (SampleType::F32, 3),
            Self::SoundF64 => (SampleType::F32, 8),
        }
    }
}

/// How frames lie in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    pub encoding: Encoding,
    /// Values of a frame as it is in the bytes.
    pub channels: usize,
    /// The values that are used, in order; `None`: all.
    pub select: Option<Vec<usize>>,
    /// How the colours are found, if it is not by a byte each.
    pub(super) yuv: Option<Yuv420>,
}

impl Layout {
    /// Returns the layout of frames of numbers.
    pub fn of(encoding: Encoding, channels: usize, select: Option<Vec<usize>>) -> Self {
        Self { encoding, channels, select, yuv: None }
    }

    /// Returns the bytes of one frame.
    pub fn frame_bytes(&self) -> usize {
        self.channels.saturating_mul(self.encoding.sample().1)
    }
}

table! {
    /// Raw bytes that hold frames one after the other, with nothing between them.
    pub struct Bytes {
        /// How the bytes hold samples: "s16le", "s32le", "f32le" or "u8"; or images: "rgb24", "gray" or "yuv420p". The
        /// model gets the numbers as they are: integers of 16 bits are from -32768 to 32767. Of yuv420p it gets RGB.
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
        /// How the colours of yuv420p were made: "bt601" or "bt709".
        pub matrix: Option<Matrix>, otherwise("\"bt601\" for yuv420p"), example("\"bt709\"");
        /// The values from black to white in yuv420p: "limited" is 16 to 235, which ffmpeg writes; "full" is 0 to 255, which
        /// rpicam-vid writes.
        pub range: Option<Range>, otherwise("\"limited\" for yuv420p"), example("\"full\"");
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
        let is_yuv = self.format == ByteFormat::Yuv420p;
        for (name, size) in [("width", self.width), ("height", self.height)] {
            if is_yuv && size.is_some_and(|size| size % 2 == 1) {
                checker.problem(&key.child(name), "two pixels share a colour in yuv420p, so it must be even");
            }
        }
        for (name, is_set) in [("matrix", self.matrix.is_some()), ("range", self.range.is_some())] {
            if is_set && !is_yuv {
                checker.problem(&key.child(name), "only the format yuv420p has it; leave it out");
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
        StreamSpec::new(frame, sample, self.rate_hz)
    }

    fn decoder(&self, _labels: TruthLabels) -> Decoder {
        Decoder::Bytes(Box::new(ByteDecoder::new(self)))
    }

    fn bytes(&self) -> Option<&Bytes> {
        Some(self)
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

    /// Returns how frames lie in the bytes.
    pub fn layout(&self) -> Layout {
        let channels = match (self.format, self.format.pixel(), self.height, self.width) {
            (ByteFormat::Yuv420p, _, Some(height), Some(width)) => height * width / 4 * 6,
            (_, Some(channels), Some(height), Some(width)) => height * width * channels,
            _ => self.channels,
        };
        Layout { encoding: self.format.encoding(), channels, select: self.select.clone(), yuv: self.yuv() }
    }

    /// Returns the bytes of one frame.
    pub fn frame_bytes(&self) -> usize {
        self.layout().frame_bytes()
    }

    /// Returns how the colours are found, if it is not by a byte each.
    fn yuv(&self) -> Option<Yuv420> {
        let (width, height) = self.width.zip(self.height)?;
        let (matrix, range) = (self.matrix.unwrap_or(Matrix::Bt601), self.range.unwrap_or(Range::Limited));
        (self.format == ByteFormat::Yuv420p).then(|| Yuv420::new(width, height, matrix, range))
    }
}

/// Cuts bytes into frames.
pub struct ByteDecoder {
    layout: Layout,
    frame_bytes: usize,
    buffer: Vec<u8>,
    /// The bytes of the buffer that are in use.
    start: usize,
    end: usize,
    floats: Vec<f32>,
    integers: Vec<i16>,
    bytes: Vec<u8>,
}

impl ByteDecoder {
    /// `bytes` was checked.
    pub fn new(bytes: &Bytes) -> Self {
        Self::of(bytes.layout(), 1)
    }

    /// Returns a decoder that can hold so many frames.
    pub fn of(layout: Layout, frames: usize) -> Self {
        let frame_bytes = layout.frame_bytes().max(1);
        let size = frame_bytes.saturating_mul(frames.max(1)).max(READ_BYTES / frame_bytes * frame_bytes);
        let (sample, sample_bytes) = layout.encoding.sample();
        let values = size / sample_bytes;
        let room = |is_used: bool| if is_used { values } else { 0 };
        // Twice as many bytes of RGB as of YUV.
        let of_bytes = match layout.yuv {
            Some(_) => 2 * values,
            None => room(sample == SampleType::U8 && layout.select.is_some()),
        };
        Self {
            frame_bytes,
            buffer: vec![0; size],
            start: 0,
            end: 0,
            floats: Vec::with_capacity(room(sample == SampleType::F32)),
            integers: Vec::with_capacity(room(sample == SampleType::I16)),
            bytes: Vec::with_capacity(of_bytes),
            layout,
        }
    }

    /// Another stream begins; returns the number of bytes of an unfinished frame of the one before.
    pub fn restart(&mut self) -> usize {
        let left = self.end - self.start;
        (self.start, self.end) = (0, 0);
        left
    }

    /// Reads once. Returns the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of `from`.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
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
        (self.end - self.start) / self.frame_bytes
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
        let whole = &self.buffer[self.start..self.start + length];
        let select = (self.layout.channels, self.layout.select.as_deref());
        let (floats, integers) = (&mut self.floats, &mut self.integers);
        match self.layout.encoding {
            Encoding::S16 => convert(integers, whole, select, i16::from_le_bytes),
            Encoding::Sound8 => convert(integers, whole, select, |[byte]| (i16::from(byte) - 128) << 8),
            Encoding::S32 => convert(floats, whole, select, |bytes| i32::from_le_bytes(bytes) as f32),
            Encoding::F32 => convert(floats, whole, select, f32::from_le_bytes),
            Encoding::Sound24 => convert(floats, whole, select, |[low, middle, high]| {
                i32::from_le_bytes([0, low, middle, high]) as f32 / BELOW_16_BITS
            }),
            Encoding::Sound32 => {
                convert(floats, whole, select, |bytes| i32::from_le_bytes(bytes) as f32 / BELOW_16_BITS)
            }
            Encoding::SoundF32 => convert(floats, whole, select, |bytes| f32::from_le_bytes(bytes) * FULL_SCALE),
            Encoding::SoundF64 => {
                convert(floats, whole, select, |bytes| (f64::from_le_bytes(bytes) * f64::from(FULL_SCALE)) as f32);
            }
            Encoding::U8 if self.layout.select.is_some() => convert(&mut self.bytes, whole, select, u8::from_le_bytes),
            Encoding::U8 => {}
        }
        let flow = match (self.layout.encoding.sample().0, self.layout.yuv) {
            (SampleType::I16, _) => sink.frames(&self.integers, arrival, stream_ns),
            (SampleType::F32, _) => self.numbers(arrival, stream_ns, sink),
            (SampleType::U8, Some(yuv)) => {
                self.bytes.resize(length * 2, 0);
                let images = whole.chunks(self.frame_bytes).zip(self.bytes.chunks_mut(self.frame_bytes * 2));
                match images.into_iter().try_for_each(|(of, rgb)| yuv.convert(of, rgb)) {
                    Ok(()) => sink.frames(&self.bytes, arrival, stream_ns),
                    Err(error) => sink.reject(Reject::Malformed, arrival, || error),
                }
            }
            (SampleType::U8, None) if self.layout.select.is_some() => sink.frames(&self.bytes, arrival, stream_ns),
            (SampleType::U8, None) => sink.frames(whole, arrival, stream_ns),
        };
        self.discard(length / self.frame_bytes);
        flow
    }

    /// Drops whole frames that were read, the oldest first and at most `most`.
    pub fn discard(&mut self, most: usize) {
        let length = self.frames().min(most) * self.frame_bytes;
        self.start += length;
    }

    /// Feeds floating-point numbers; frames that have a value that is not a number are rejected.
    fn numbers(&self, arrival: MonoTime, stream_ns: Option<i64>, sink: &mut FrameSink) -> ControlFlow<()> {
        if self.floats.iter().all(|value| value.is_finite()) {
            return sink.frames(&self.floats, arrival, stream_ns);
        }
        let channels = self.layout.select.as_ref().map_or(self.layout.channels, Vec::len);
        for (index, frame) in self.floats.chunks(channels).enumerate() {
            let stream_ns = sink.time_after(stream_ns, index);
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
        let grey = |raw: &[u8]| all("format = 'yuv420p'\nwidth = 2\nheight = 2", raw);
        assert_eq!(grey(&[16, 235, 126, 16, 128, 128]), ([[0.0; 3], [255.0; 3], [128.0; 3], [0.0; 3]].concat(), 0, 0));
        assert_eq!(grey(&[16; 11]).1, 5);
        let full = all("format = 'yuv420p'\nwidth = 2\nheight = 2\nrange = 'full'", &[0, 255, 126, 1, 128, 128]);
        assert_eq!(full.0, [[0.0; 3], [255.0; 3], [126.0; 3], [1.0; 3]].concat());
        let floats: Vec<u8> = [1.5f32, f32::NAN, 2.5, 3.5].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(all("format = 'f32le'", &floats), (vec![1.5, 2.5, 3.5], 0, 1), "what is not a number is rejected");
        assert_eq!(all("format = 'f32le'\nchannels = 2", &floats), (vec![2.5, 3.5], 0, 1), "with its frame");
    }

    #[test]
    fn the_stream_is_known_before_it_starts() {
        let spec = bytes("format = 'gray'\nwidth = 4\nheight = 3\nrate_hz = 10").spec();
        assert_eq!((spec.frame.dims(), spec.sample, spec.rate_hz), (&[3, 4, 1][..], SampleType::U8, Some(10.0)));
        let spec = bytes("format = 'yuv420p'\nwidth = 4\nheight = 2").spec();
        assert_eq!((spec.frame.dims(), spec.sample, spec.rate_hz), (&[2, 4, 3][..], SampleType::U8, None));
        let spec = bytes("format = 's16le'\nchannels = 6\nselect = [0, 4]").spec();
        assert_eq!((spec.frame.dims(), spec.sample, spec.rate_hz), (&[2][..], SampleType::I16, None));
    }

    #[test]
    fn what_a_format_does_not_have_is_refused() {
        let problems = |text: &str| {
            let mut checker = Checker::new(Path::new(""));
            bytes(text).check_all(&Key::new(&["bytes"]), &mut checker);
            let problems = checker.finish(Some(())).err().unwrap_or_default();
            problems.iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect::<Vec<_>>()
        };
        assert_eq!(
            problems("format = 'yuv420p'\nwidth = 5\nheight = 3\nmatrix = 'bt709'"),
            ["bytes.width", "bytes.height"]
                .map(|key| format!("{key}: two pixels share a colour in yuv420p, so it must be even"))
        );
        assert_eq!(
            problems("format = 'rgb24'\nwidth = 5\nheight = 3\nmatrix = 'bt709'\nrange = 'full'"),
            ["bytes.matrix", "bytes.range"].map(|key| format!("{key}: only the format yuv420p has it; leave it out"))
        );
        assert_eq!(problems("format = 'yuv420p'\nwidth = 6\nheight = 4\nrange = 'limited'"), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_split_of_images_gives_the_same_images(
            raw in prop::collection::vec(any::<u8>(), 0..600),
            pieces in prop::collection::vec(1usize..50, 0..100),
            format in prop::sample::select(vec!["rgb24", "gray", "yuv420p"]),
            width in 1usize..5,
            height in 1usize..4,
        ) {
            let of = bytes(&format!("format = '{format}'\nwidth = {}\nheight = {}", 2 * width, 2 * height));
            let whole = decoded(&of, &raw, [raw.len()].into_iter());
            let split = decoded(&of, &raw, pieces.into_iter().chain([raw.len()]));
            prop_assert_eq!(whole.0.len() % of.spec().frame.values(), 0);
            prop_assert_eq!(whole.0.len() / of.spec().frame.values(), raw.len() / of.frame_bytes());
            prop_assert_eq!(whole, split);
        }

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
