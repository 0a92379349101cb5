//! Front ends over each window as if it were a whole clip, with what is done at the ends of a clip.

use super::{FeatureKind, Step, Transform};
use crate::frontend::{BLOCK_FRAMES, Chain, Frontend};
use crate::schema::{Checker, Key, choice, table};
use crate::stream::{Mismatch, Shape, StreamSpec};

choice! {
    /// What stands beyond the ends of a clip.
    pub enum PadMode { Zero = "constant", Reflect = "reflect" }
}

table! {
    /// Runs front ends over each window as if it were a whole clip. It is for models that were trained with
    /// center=True, librosa's default: at both ends of a clip, the first and last spectra are computed with samples that are
    /// not in the clip. Each window is transformed as a whole, however much windows overlap, so it costs more than front
    /// ends of the stream.
    pub struct Clip {
        /// The front ends, as those of a pipeline. The first one is `stft`.
        pub frontend: Vec<Frontend>,
            example("[{ stft = { convention = \"librosa\", frame_length = 2048, hop_length = 512 } }]");
        /// Whether half of fft_length is put before and behind the window: center=True.
        pub center: bool = true;
        /// What is put there: zeros, or the window's own samples mirrored, as librosa did before 0.9.
        pub pad_mode: PadMode = PadMode::Zero;
    }
}

impl Clip {
    /// Returns the number of samples to put at each end.
    ///
    /// # Errors
    /// The first front end is not the one that is centred.
    fn padding(&self) -> Result<usize, Mismatch> {
        match self.frontend.first() {
            Some(Frontend::Stft(stft)) => Ok(if self.center { stft.fft_length() / 2 } else { 0 }),
            _ => Err(Mismatch::at("frontend", "the first front end of a clip must be stft")),
        }
    }

    fn chain(&self, stream: &StreamSpec) -> Result<(Chain, StreamSpec), Mismatch> {
        Chain::new(&self.frontend, stream, |_, _| ()).map_err(|(index, mismatch)| {
            let name = self.frontend[index].name();
            let key = mismatch.key.map(|key| format!(".{key}")).unwrap_or_default();
            Mismatch::at("frontend", format!("{name}{key}: {mismatch}"))
        })
    }
}

impl FeatureKind for Clip {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        let key = key.child("frontend");
        self.frontend.iter_mut().enumerate().for_each(|(i, kind)| kind.check(&key.child(i), checker));
    }

    fn output(&self, input: &Shape, stream: &StreamSpec) -> Result<Shape, Mismatch> {
        let padding = self.padding()?;
        let samples = input.dims().first().copied().unwrap_or(0);
        if *input != stream.frame.repeated(samples) {
            let message = format!("it takes the samples of the stream, and gets {input}; put it first");
            return Err(Mismatch::new(message));
        }
        if self.pad_mode == PadMode::Reflect && padding >= samples {
            let message = format!("a window of {samples} samples cannot be mirrored for {padding} samples");
            return Err(Mismatch::at("pad_mode", message));
        }
        let (chain, output) = self.chain(stream)?;
        let all = samples + 2 * padding;
        let frames = frames_from(&chain, all);
        if frames == 0 {
            let least = chain.frames_wanted(1) - 2 * padding;
            let message = format!("a window of {samples} samples is too short for a spectrum, which needs {least}");
            return Err(Mismatch::new(message));
        }
        Ok(output.frame.repeated(frames))
    }

    fn build(&self, input: &Shape, stream: &StreamSpec) -> Step {
        let channels = input.values() / input.dims().first().copied().unwrap_or(1).max(1);
        // `output` has accepted both.
        let padding = self.padding().unwrap_or(0) * channels;
        let chain = self.chain(stream).map(|(chain, _)| chain).ok();
        Step::Transform(Box::new(ClipTransform {
            chain,
            channels: channels.max(1),
            padding,
            pad_mode: self.pad_mode,
            padded: vec![0.0; input.values() + 2 * padding],
        }))
    }
}

/// Returns the number of frames that `samples` samples give to a chain that has got none yet.
fn frames_from(chain: &Chain, samples: usize) -> usize {
    let (mut low, mut high) = (0, samples + 1);
    // More frames never need fewer samples.
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if chain.frames_wanted(middle) <= samples { low = middle } else { high = middle }
    }
    low
}

struct ClipTransform {
    chain: Option<Chain>,
    channels: usize,
    /// Values at each end.
    padding: usize,
    pad_mode: PadMode,
    /// The window with both ends.
    padded: Vec<f32>,
}

impl ClipTransform {
    fn pad(&mut self, window: &[f32]) {
        let (before, rest) = self.padded.split_at_mut(self.padding);
        let (middle, after) = rest.split_at_mut(window.len());
        middle.copy_from_slice(window);
        if self.pad_mode == PadMode::Reflect {
            // The first and the last sample are not repeated.
            let mirrored = middle[self.channels..].chunks_exact(self.channels);
            before.rchunks_exact_mut(self.channels).zip(mirrored).for_each(|(to, from)| to.copy_from_slice(from));
            let mirrored = middle[..middle.len() - self.channels].rchunks_exact(self.channels);
            after.chunks_exact_mut(self.channels).zip(mirrored).for_each(|(to, from)| to.copy_from_slice(from));
        }
    }
}

impl Transform for ClipTransform {
    fn apply(&mut self, window: &[f32], out: &mut [f32]) {
        self.pad(window);
        let Some(chain) = &mut self.chain else { return };
        chain.reset();
        let mut done = 0;
        for block in self.padded.chunks(BLOCK_FRAMES * self.channels) {
            let frames = chain.process(|buffer| buffer.extend_from_slice(block));
            out[done..done + frames.len()].copy_from_slice(frames);
            done += frames.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::stream;
    use super::*;

    fn clip(keys: &str) -> Clip {
        let stft =
            "{ convention = \"librosa\", frame_length = 8, hop_length = 4, window = \"rectangular\", power = 1 }";
        toml::from_str(&format!("frontend = [{{ stft = {stft} }}]\n{keys}")).unwrap()
    }

    #[test]
    fn the_ends_of_a_window_are_those_of_a_clip() {
        let bin_0 = |keys: &str| {
            let (clip, shape) = (clip(keys), Shape::new([12, 1]));
            let output = clip.output(&shape, &stream(1)).unwrap();
            let Step::Transform(mut transform) = clip.build(&shape, &stream(1)) else { panic!() };
            let window: Vec<f32> = (1..=12).map(|value| value as f32).collect();
            let mut out = vec![0.0; output.values()];
            for _ in 0..2 {
                transform.apply(&window, &mut out);
            }
            assert_eq!(output.dims(), [out.len() / 5, 5]);
            out.into_iter().step_by(5).collect::<Vec<f32>>()
        };
        assert_eq!(bin_0("center = false"), [36.0, 68.0]);
        assert_eq!(bin_0(""), [10.0, 36.0, 68.0, 42.0]);
        // 5 4 3 2 before 1 2 3 4; 9 10 11 12 before 11 10 9 8.
        assert_eq!(bin_0("pad_mode = \"reflect\""), [24.0, 36.0, 68.0, 80.0]);
    }

    #[test]
    fn what_is_no_clip_is_refused() {
        let refused =
            |keys: &str, samples: usize| clip(keys).output(&Shape::new([samples, 1]), &stream(1)).unwrap_err();
        assert!(refused("center = false", 7).message.contains("which needs 8"));
        assert_eq!(refused("pad_mode = \"reflect\"", 4).key, Some("pad_mode"));
        let not_first = clip("").output(&Shape::new([12, 3]), &stream(1)).unwrap_err();
        assert!(not_first.message.contains("put it first"), "{not_first}");
        let empty: Clip = toml::from_str("frontend = []").unwrap();
        assert!(empty.output(&Shape::new([12, 1]), &stream(1)).is_err());
    }
}
