//! How a sound card stores samples, and what is made of them: the chosen channels, without their constant part, louder.
//!
//! Pure. Allocates nothing after it is built.

use crate::dsp::{DcBlock, amplitude};
use crate::schema::choice;

choice! {
    /// How a sound card stores samples; the low byte first.
    pub enum SampleFormat {
        /// 16 bits.
        S16 = "s16le",
        /// 32 bits; most cards fill the upper 18 or 24.
        S32 = "s32le",
        /// 24 bits in 3 bytes.
        S24Packed = "s24_3le",
        /// 24 bits, the lower ones of 32.
        S24 = "s24le",
    }
}

impl SampleFormat {
    /// All of them, the best one first.
    pub(super) const ALL: [Self; 4] = [Self::S16, Self::S32, Self::S24Packed, Self::S24];

    /// Returns the number of the format in `alsa/pcm.h`.
    pub(super) fn number(self) -> i32 {
        match self {
            Self::S16 => 2,
            Self::S24 => 6,
            Self::S32 => 10,
            Self::S24Packed => 32,
        }
    }

    /// Returns the bytes of one sample.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::S16 => 2,
            Self::S24Packed => 3,
            Self::S24 | Self::S32 => 4,
        }
    }

    pub(super) fn bits(self) -> u32 {
        match self {
            Self::S16 => 16,
            Self::S24 | Self::S24Packed => 24,
            Self::S32 => 32,
        }
    }

    /// Returns a sample of [`SampleFormat::bytes`] in the upper bits of an integer; 0 for another number of bytes.
    fn top(self, sample: &[u8]) -> i32 {
        match (self, sample) {
            (Self::S16, &[a, b]) => i32::from_le_bytes([0, 0, a, b]),
            (Self::S24Packed, &[a, b, c]) | (Self::S24, &[a, b, c, _]) => i32::from_le_bytes([0, a, b, c]),
            (Self::S32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]),
            _ => 0,
        }
    }
}

/// How samples are changed on their way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    /// The channels that are taken, counted from 0; `None`: all.
    pub select: Option<Vec<usize>>,
    pub gain_db: f64,
    /// The constant part is removed by a high pass of first order with this cut-off frequency.
    pub dc_block_hz: Option<f64>,
}

/// Makes 16-bit samples of what a card records.
#[derive(Debug)]
pub(super) struct Converter {
    format: SampleFormat,
    channels: usize,
    select: Vec<usize>,
    /// All channels, as the card has them.
    is_plain: bool,
    /// From 32 bits to 16, with the gain; `None`: the upper 16 bits as they are.
    scale: Option<f64>,
    /// One for each selected channel; empty: none.
    filters: Vec<DcBlock>,
    samples: Vec<i16>,
}

impl Converter {
    /// For blocks of up to `most_frames` frames of `channels` channels.
    pub(super) fn new(
        format: SampleFormat,
        channels: usize,
        change: &Change,
        rate_hz: f64,
        most_frames: usize,
    ) -> Self {
        let select: Vec<usize> = change.select.clone().unwrap_or_else(|| (0..channels).collect());
        let is_changed = change.gain_db != 0.0 || change.dc_block_hz.is_some();
        Self {
            format,
            channels,
            is_plain: change.select.is_none() && !is_changed && format == SampleFormat::S16,
            scale: is_changed.then(|| amplitude(change.gain_db) / 65536.0),
            filters: change.dc_block_hz.map_or(Vec::new(), |hz| vec![DcBlock::new(hz, rate_hz); select.len()]),
            samples: Vec::with_capacity(most_frames.saturating_mul(select.len())),
            select,
        }
    }

    pub(super) fn frame_bytes(&self) -> usize {
        self.format.bytes().saturating_mul(self.channels)
    }

    /// The next block does not follow the last one.
    pub(super) fn restart(&mut self) {
        self.filters.iter_mut().for_each(DcBlock::reset);
    }

    /// Returns the samples of a block of whole frames, `[frames, channels]`, and whether the card gave anything but zeros.
    pub(super) fn block(&mut self, bytes: &[u8]) -> (&[i16], bool) {
        self.samples.clear();
        if self.is_plain {
            self.samples.extend(bytes.chunks_exact(2).map(|sample| (self.format.top(sample) >> 16) as i16));
            return (&self.samples, self.samples.iter().any(|sample| *sample != 0));
        }
        let (format, width) = (self.format, self.format.bytes());
        let mut any = 0;
        for frame in bytes.chunks_exact(self.frame_bytes().max(1)) {
            for (index, channel) in self.select.iter().enumerate() {
                let sample = frame.get(channel * width..(channel + 1) * width).unwrap_or_default();
                let top = format.top(sample);
                any |= top;
                self.samples.push(match self.scale {
                    None => (top >> 16) as i16,
                    Some(scale) => {
                        let filtered = match self.filters.get_mut(index) {
                            Some(filter) => filter.step(top.into()),
                            None => top.into(),
                        };
                        // The conversion saturates.
                        (filtered * scale).round() as i16
                    }
                });
            }
        }
        (&self.samples, any != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    const PLAIN: Change = Change { select: None, gain_db: 0.0, dc_block_hz: None };

    fn convert(format: SampleFormat, channels: usize, change: &Change, bytes: &[u8]) -> Vec<i16> {
        let mut converter = Converter::new(format, channels, change, 16_000.0, bytes.len());
        converter.block(bytes).0.to_vec()
    }

    #[test]
    fn each_format_keeps_its_upper_sixteen_bits() {
        let values = [0_i32, 1, -1, 32_767, -32_768, 12_345, -20_000];
        let expected: Vec<i16> = values.iter().map(|value| *value as i16).collect();
        let bytes = |make: &dyn Fn(i32) -> Vec<u8>| values.iter().flat_map(|value| make(*value)).collect::<Vec<u8>>();
        for (format, bytes) in [
            (SampleFormat::S16, bytes(&|v| (v as i16).to_le_bytes().to_vec())),
            // The bits below the upper 16 count for nothing.
            (SampleFormat::S32, bytes(&|v| (v << 16 | 0xabcd).to_le_bytes().to_vec())),
            (SampleFormat::S24Packed, bytes(&|v| (v << 8 | 0xef).to_le_bytes()[..3].to_vec())),
            // The byte above the 24 bits is not the sign.
            (SampleFormat::S24, bytes(&|v| [&(v << 8 | 0xef).to_le_bytes()[..3], &[0x5a]].concat())),
        ] {
            assert_eq!(convert(format, 1, &PLAIN, &bytes), expected, "{format:?}");
        }
    }

    #[test]
    fn channels_are_chosen_by_their_number() {
        let frames: Vec<u8> = (0..12_i16).flat_map(i16::to_le_bytes).collect();
        let chosen = |select: &[usize]| {
            convert(SampleFormat::S16, 4, &Change { select: Some(select.to_vec()), ..PLAIN }, &frames)
        };
        assert_eq!(chosen(&[2]), [2, 6, 10]);
        assert_eq!(chosen(&[3, 0]), [3, 0, 7, 4, 11, 8]);
        assert_eq!(convert(SampleFormat::S16, 4, &PLAIN, &frames), Vec::from_iter(0..12));
    }

    /// The level of an I2S microphone: what is below the upper 16 bits is not lost.
    #[test]
    fn gain_works_on_all_bits_and_saturates() {
        let louder = Change { gain_db: 20.0, ..PLAIN };
        let bytes: Vec<u8> = [(1_i32 << 16) / 10, -(1 << 16) / 5, 5000 << 16, -5000 * 65536, 3276 << 16]
            .into_iter()
            .flat_map(i32::to_le_bytes)
            .collect();
        assert_eq!(convert(SampleFormat::S32, 1, &louder, &bytes), [1, -2, 32_767, -32_768, 32_760]);
        let half = Change { gain_db: -6.0206, ..PLAIN };
        let bytes: Vec<u8> = [1000_i16, -1000].into_iter().flat_map(i16::to_le_bytes).collect();
        assert_eq!(convert(SampleFormat::S16, 1, &half, &bytes), [500, -500]);
    }

    #[test]
    fn the_constant_part_goes_and_the_sound_stays() {
        let rate = 16_000.0;
        let change = Change { dc_block_hz: Some(20.0), ..PLAIN };
        let mut converter = Converter::new(SampleFormat::S16, 1, &change, rate, 64_000);
        let tone = |n: i32| 3000.0 * (TAU * 1000.0 * f64::from(n) / rate).sin();
        let bytes: Vec<u8> = (0..32_000).flat_map(|n| ((20_000.0 + tone(n)).round() as i16).to_le_bytes()).collect();
        let (samples, heard) = converter.block(&bytes);
        assert!(heard && samples[0] == 0, "the first sample is not a step");
        let late = &samples[16_000..];
        let mean = late.iter().map(|sample| f64::from(*sample)).sum::<f64>() / 16_000.0;
        assert!(mean.abs() < 1.0, "{mean}");
        let peak = late.iter().max().unwrap();
        assert!((2990..=3002).contains(peak), "{peak}");
        converter.restart();
        assert_eq!(converter.block(&20_000_i16.to_le_bytes()).0, [0]);
    }

    #[test]
    fn zeros_are_told_from_a_quiet_room() {
        let heard = |change: &Change, sample: i32| {
            let mut converter = Converter::new(SampleFormat::S32, 2, change, 16_000.0, 8);
            let bytes = [0_i32, sample].map(i32::to_le_bytes).concat();
            converter.block(&bytes).1
        };
        assert!(!heard(&PLAIN, 0) && heard(&PLAIN, 256), "also where all upper bits are 0");
        let left = Change { select: Some(vec![0]), dc_block_hz: Some(10.0), gain_db: 30.0 };
        assert!(!heard(&left, 1 << 20), "the other channel is not the model's");
    }
}
