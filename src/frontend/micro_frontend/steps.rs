//! The steps on one channel: square root, noise reduction, gain control, logarithm.
//!
//! Whole numbers wrap and are cut as in C, since the models were trained on the result.

use super::tables::{CHANNELS, GAIN};

/// Bits of a number: 0 for 0.
pub(super) fn bits(x: u32) -> u32 {
    u32::BITS - x.leading_zeros()
}

/// Returns the square root, rounded to nearest.
pub(super) fn root(x: u64) -> u32 {
    let root = x.isqrt();
    // Below 2^32 the original has a routine of its own, whose result has 16 bits.
    let most = if x >> 32 == 0 { u64::from(u16::MAX) } else { u64::from(u32::MAX) };
    let up = x - root * root > root && root != most;
    (root + u64::from(up)) as u32
}

const SMOOTHING_BITS: u32 = 10;
/// How much of a new value goes into the estimate, for even and odd channels; both times 2^14.
const SMOOTHING: [u64; 2] = [409, 983];
/// The part of the signal that always stays, times 2^14.
const LEAST_SIGNAL: u64 = 819;

/// The noise in each channel: a slow mean of the signal.
#[derive(Clone, Copy)]
pub(super) struct NoiseEstimate([u32; CHANNELS]);

impl Default for NoiseEstimate {
    fn default() -> Self {
        Self([0; CHANNELS])
    }
}

impl NoiseEstimate {
    /// Takes the channel's next value. Returns it without the noise, and the noise.
    pub(super) fn reduce(&mut self, channel: usize, signal: u32) -> (u32, u32) {
        let smoothing = SMOOTHING[channel % 2];
        let raised = signal << SMOOTHING_BITS;
        let estimate = &mut self.0[channel];
        *estimate = ((u64::from(raised) * smoothing + u64::from(*estimate) * ((1 << 14) - smoothing)) >> 14) as u32;
        let without = (raised - (*estimate).min(raised)) >> SMOOTHING_BITS;
        let least = ((u64::from(signal) * LEAST_SIGNAL) >> 14) as u32;
        (without.max(least), *estimate)
    }
}

/// Raises a signal by how little noise there is, and compresses it.
pub(super) fn controlled(signal: u32, noise: u32) -> u32 {
    let ratio = (u64::from(signal).wrapping_mul(gain(noise) as u64) >> 6) as u32;
    if ratio < 8192 { (ratio * ratio) >> 20 } else { (ratio >> 6) - 64 }
}

/// Returns the gain for a noise, from a parabola for each power of two.
fn gain(noise: u32) -> i16 {
    if noise <= 2 {
        return GAIN[noise as usize];
    }
    let bits = bits(noise);
    let part = (if bits < 11 { noise << (11 - bits) } else { noise >> (bits - 11) } & 0x3ff) as i32;
    let first = 4 * bits as usize - 6;
    let [start, slope, bend] = [first, first + 1, first + 2].map(|at| i32::from(GAIN[at]));
    let risen = (((bend * part) >> 5) + (slope << 5)) * part;
    (((risen + (1 << 14)) >> 15) + start) as i16
}

const SEGMENT_BITS: u32 = 7;
const OUTPUT_SHIFT: u32 = 6;
/// ln(2) times 2^16.
const LN_2: u64 = 45_426;

/// The natural logarithm times 64.
pub(super) struct Logarithm {
    /// log2(1 + x) - x at 129 places from 0 to 1, times 2^16.
    bulge: [i32; (1 << SEGMENT_BITS) + 1],
}

impl Logarithm {
    pub(super) fn new() -> Self {
        let bulge = |i: usize| {
            let x = i as f64 / f64::from(1 << SEGMENT_BITS);
            (65_536.0 * ((1.0 + x).log2() - x)).round() as i32
        };
        Self { bulge: std::array::from_fn(bulge) }
    }

    pub(super) fn of(&self, signal: u32) -> u16 {
        let x = signal << 3;
        if x <= 1 {
            return 0;
        }
        let whole = bits(x) - 1;
        let rest = x - (1 << whole);
        let part = if whole < 16 { rest << (16 - whole) } else { rest >> (whole - 16) };
        let segment_size = 16 - SEGMENT_BITS;
        let segment = (part >> segment_size) as usize;
        let (from, to) = (self.bulge[segment], self.bulge[segment + 1]);
        let within = part as i32 - ((segment as i32) << segment_size);
        let log2 = (whole << 16) + (part as i32 + from + (((to - from) * within) >> 16)) as u32;
        let ln = (LN_2 * u64::from(log2) + (1 << 15)) >> 16;
        u16::try_from(((ln << OUTPUT_SHIFT) + (1 << 15)) >> 16).unwrap_or(u16::MAX)
    }
}
