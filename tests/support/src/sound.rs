//! Sound that Rust and Python (tests/golden/audio/synth.py) make alike, of whole numbers: 16 kHz, 16 bits, one channel.

use std::path::PathBuf;

use crate::root;

pub const RATE_HZ: usize = 16_000;
/// 50 Hz, where 2^32 is once round in a sample.
const SWEEP_FROM: u32 = ((50 << 32) / RATE_HZ as u64) as u32;
/// Of the WAV files that synth.py writes.
const WAV_HEADER_BYTES: usize = 44;

/// A file of tests/golden/audio.
pub fn golden(name: &str) -> PathBuf {
    root().join("tests/golden/audio").join(name)
}

/// The whole numbers of a golden file.
pub fn numbers(name: &str) -> Vec<usize> {
    std::fs::read_to_string(golden(name)).unwrap().split_whitespace().map(|word| word.parse().unwrap()).collect()
}

struct Random(u32);

impl Random {
    fn noise(&mut self, most: i32) -> i32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let places = 2 * u64::from(most.cast_unsigned()) + 1;
        ((u64::from(self.0 >> 16) * places) >> 16) as i32 - most
    }
}

fn cut(value: i32) -> i16 {
    value.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// The samples of the plan of that name; synth.py says what the kinds of its parts are.
pub fn sound(plan: &str) -> Vec<i16> {
    let plan = std::fs::read_to_string(golden(&format!("{plan}.plan"))).unwrap();
    let wav = std::fs::read(golden("speech.wav")).unwrap();
    let words =
        wav[WAV_HEADER_BYTES..].chunks_exact(2).map(|bytes| i32::from(i16::from_le_bytes([bytes[0], bytes[1]])));
    let (words, mut random, mut sound) = (words.collect::<Vec<_>>(), Random(1), Vec::new());
    for line in plan.lines().filter(|line| !line.starts_with('#')) {
        let mut parts = line.split_whitespace();
        let seconds: usize = parts.next().unwrap().parse().unwrap();
        let kind = parts.next().unwrap();
        let numbers: Vec<i32> = parts.map(|number| number.parse().unwrap()).collect();
        let (mut phase, mut step, mut level) = (0_u32, SWEEP_FROM, 0);
        for i in 0..seconds * RATE_HZ {
            sound.push(match kind {
                "silence" => 0,
                "noise" => cut(random.noise(numbers[0])),
                "clipped" => cut(4 * random.noise(32_767)),
                "square" if i / numbers[0] as usize % 2 == 1 => i16::MAX,
                "square" => i16::MIN,
                "constant" => cut(numbers[0]),
                "sweep" => {
                    phase = phase.wrapping_add(step);
                    step += 6000;
                    cut((((phase >> 16) as i32 - 32_768) * 20_000) >> 15)
                }
                "impulses" if i % 1777 == 0 => i16::MAX,
                "impulses" => 0,
                "steps" => {
                    if i % 2500 == 0 {
                        level = random.noise(32_767);
                    }
                    cut(level)
                }
                "bursts" => cut(random.noise(if i / 4800 % 2 == 1 { 20_000 } else { 20 })),
                "speech" => cut(((words[i % words.len()] * numbers[0]) >> 8) + random.noise(numbers[1])),
                _ => panic!("{kind}: no such part"),
            });
        }
    }
    sound
}

/// A WAV file of the samples.
pub fn wav(samples: &[i16]) -> Vec<u8> {
    let data_bytes = 2 * samples.len() as u32;
    let mut wav = Vec::from(*b"RIFF");
    wav.extend((36 + data_bytes).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(16_000_u32.to_le_bytes());
    wav.extend(32_000_u32.to_le_bytes());
    wav.extend(b"\x02\0\x10\0data");
    wav.extend(data_bytes.to_le_bytes());
    wav.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    wav
}
