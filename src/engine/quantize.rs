//! Converts floats to a model's integers and back: `real = scale * (stored - zero_point)`.
//!
//! Rounds to nearest, ties to even, as NumPy and the converter's own reference do, and saturates, which is counted. NaN
//! becomes the lowest value, and counts as saturated.

/// An integer type that tensors are stored in; all its values are exact in `f32`.
pub trait Stored: Copy {
    const LOWEST: f32;
    const HIGHEST: f32;
    /// The low bits of `value`, which is in range.
    fn from_i32(value: i32) -> Self;
    fn to_f32(self) -> f32;
}

macro_rules! stored {
    ($($type:ty)*) => {$(
        impl Stored for $type {
            const LOWEST: f32 = <$type>::MIN as f32;
            const HIGHEST: f32 = <$type>::MAX as f32;
            fn from_i32(value: i32) -> Self {
                value as $type
            }
            fn to_f32(self) -> f32 {
                f32::from(self)
            }
        }
    )*};
}
stored!(i8 u8 i16);

/// Adding 1.5 * 2^23 leaves a float whose low mantissa bits are the rounded integer: branch-free, so it vectorises,
/// where `f32::round_ties_even` is a library call on baseline x86-64.
const ROUNDER: f32 = 12_582_912.0;

/// Stores `values`; both slices are equally long. Returns how many of them are outside of what can be stored.
pub fn quantize<T: Stored, V: Copy + Into<f32>>(values: &[V], scale: f32, zero_point: i32, stored: &mut [T]) -> usize {
    let (gain, offset) = (1.0 / scale, zero_point as f32);
    // The bits in which any value differs from what it is cut to: cheaper than to count in this loop.
    let mut cut = 0;
    for (value, stored) in values.iter().zip(stored) {
        let exact = (*value).into() * gain + offset;
        let wanted = exact.max(T::LOWEST).min(T::HIGHEST);
        cut |= wanted.to_bits() ^ exact.to_bits();
        *stored = T::from_i32((wanted + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i32);
    }
    if cut == 0 {
        return 0;
    }
    // What rounds to the lowest or highest value is not outside; NaN is.
    let inside = T::LOWEST - 0.5..=T::HIGHEST + 0.5;
    values.iter().filter(|value| !inside.contains(&((**value).into() * gain + offset))).count()
}

/// Reads `stored`; both slices are equally long.
pub fn dequantize<T: Stored>(stored: &[T], scale: f32, zero_point: i32, values: &mut [f32]) {
    let zero_point = zero_point as f32;
    for (stored, value) in stored.iter().zip(values) {
        *value = scale * (stored.to_f32() - zero_point);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stored<T: Stored + Default>(value: f32, scale: f32, zero_point: i32) -> T {
        let mut out = [T::default()];
        quantize(&[value], scale, zero_point, &mut out);
        out[0]
    }

    #[test]
    fn ties_go_to_even_and_the_ends_saturate() {
        for (value, expected) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (1e9, 127), (-1e9, -128)] {
            assert_eq!(stored::<i8>(value, 1.0, 0), expected, "{value}");
        }
        assert_eq!(stored::<i8>(f32::NAN, 1.0, 0), -128);
        assert_eq!(stored::<i8>(f32::INFINITY, 1.0, 0), 127);
        assert_eq!(stored::<u8>(-1.0, 0.5, 128), 126);
        assert_eq!(stored::<i16>(-40_000.0, 1.0, 0), i16::MIN);
    }

    #[test]
    fn what_cannot_be_stored_is_counted() {
        let count = |values: &[f32]| quantize(values, 0.5, -1, &mut vec![0i8; values.len()]);
        // The range is (-128 + 1) / 2 to (127 + 1) / 2, and a quarter is rounded at each end.
        assert_eq!(count(&[0.0, -63.5, 64.0, -63.75, 64.25]), 0);
        assert_eq!(count(&[-63.8, 64.3, 981.0, 0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]), 6);
        assert_eq!(quantize(&[1u8, 127, 128, 255], 1.0, 0, &mut [0i8; 4]), 2);
    }

    #[test]
    fn the_frames_of_a_wake_word_model_become_what_python_makes_of_them() {
        // pymicro-wakeword: np.round(features / scale + zero_point), in f64; cut here, where it wraps round.
        let scale = 26.0_f32 / 255.0;
        for raw in 0..680 {
            let feature = raw as f32 * 0.039_062_5;
            let python = (f64::from(feature) / f64::from(scale) - 128.0).round_ties_even().min(127.0);
            assert_eq!(f64::from(stored::<i8>(feature, scale, -128)), python, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn there_and_back_is_within_half_a_step(value in -4f32..4.0, scale in 0.03f32..1.0, zero_point in -100i32..100) {
            let q: i8 = stored(value, scale, zero_point);
            prop_assume!(q > i8::MIN && q < i8::MAX);
            let mut back = [0.0];
            dequantize(&[q], scale, zero_point, &mut back);
            prop_assert!((back[0] - value).abs() <= scale * 0.5001 + 1e-5, "{value} became {}", back[0]);
        }

        #[test]
        fn it_rounds_as_the_library_does(value in -3e4f32..3e4) {
            prop_assert_eq!(i32::from(stored::<i16>(value, 1.0, 0)), value.round_ties_even() as i32);
        }
    }
}
