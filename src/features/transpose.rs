//! The channels first, and the samples after them.

use super::{FeatureKind, Step, Transform};
use crate::schema::{Checker, Key, table};
use crate::stream::{Mismatch, Shape, StreamSpec};

table! {
    /// Puts the channels first: `[samples, channels]` becomes `[channels, samples]`, and one image `[1, height, width, channels]`
    /// becomes `[channels, height, width]`. It has no keys. It is added by itself where the model's input has that shape.
    pub struct Transpose {}
}

impl FeatureKind for Transpose {
    fn check(&mut self, _: &Key, _: &mut Checker) {}

    fn output(&self, input: &Shape, _: &StreamSpec) -> Result<Shape, Mismatch> {
        match input.dims() {
            [1, height, width, channels] => Ok(Shape::new([*channels, *height, *width])),
            [samples, channels] => Ok(Shape::new([*channels, *samples])),
            _ => Err(Mismatch::new(format!("a window of {input} is neither samples of channels nor one image"))),
        }
    }

    fn build(&self, input: &Shape, _: &StreamSpec) -> Step {
        Step::Transform(Box::new(ChannelsFirst { channels: input.channels() }))
    }
}

struct ChannelsFirst {
    channels: usize,
}

impl Transform for ChannelsFirst {
    fn apply(&mut self, window: &[f32], out: &mut [f32]) {
        let frames = window.len() / self.channels.max(1);
        for (channel, row) in out.chunks_exact_mut(frames.max(1)).enumerate() {
            let column = window.iter().skip(channel).step_by(self.channels.max(1));
            row.iter_mut().zip(column).for_each(|(to, from)| *to = *from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::stream;
    use super::*;

    fn transposed(window: &[f32], shape: &[usize]) -> (Vec<usize>, Vec<f32>) {
        let shape = Shape::new(shape);
        let Step::Transform(mut transform) = Transpose {}.build(&shape, &stream(1)) else { panic!() };
        let mut out = vec![0.0; window.len()];
        transform.apply(window, &mut out);
        (Transpose {}.output(&shape, &stream(1)).unwrap().dims().to_vec(), out)
    }

    #[test]
    fn each_channel_becomes_a_row() {
        assert_eq!(
            transposed(&[1.0, 10.0, 2.0, 20.0, 3.0, 30.0], &[3, 2]),
            (vec![2, 3], vec![1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
        );
        let image: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let (shape, planes) = transposed(&image, &[1, 2, 2, 3]);
        assert_eq!((shape, &planes[..4]), (vec![3, 2, 2], &[0.0, 3.0, 6.0, 9.0][..]));
        assert!(Transpose {}.output(&Shape::new([2, 2, 2, 3]), &stream(1)).is_err());
    }
}
