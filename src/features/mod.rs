//! What is done to a window before the model sees it: pure maths, one file a transform.
//!
//! A chain is built once from the configuration; applying it to a window of `[samples, channels]`, row-major,
//! allocates nothing. Runs on the infer thread.

mod affine;
mod detrend;

pub(crate) use affine::Affine;
pub(crate) use detrend::Detrend;

/// One step of a chain.
#[derive(Debug, Clone, PartialEq)]
pub enum Transform {
    Affine(Affine),
    Detrend(Detrend),
}

/// The transforms of one pipeline, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chain {
    steps: Vec<Transform>,
}

impl Chain {
    /// Neighbouring affine transforms become one, so that a window is passed over as few times as can be.
    pub fn new(transforms: impl IntoIterator<Item = Transform>) -> Self {
        let mut steps: Vec<Transform> = Vec::new();
        for transform in transforms {
            match (steps.last_mut(), transform) {
                (Some(Transform::Affine(before)), Transform::Affine(after)) => *before = before.then(&after),
                (_, other) => steps.push(other),
            }
        }
        Self { steps }
    }

    /// Writes the features of `window` into `out`; both are `[samples, channels]` and equally long.
    pub fn apply(&self, window: &[f32], out: &mut [f32]) {
        let mut rest = self.steps.iter();
        match rest.as_slice().first() {
            Some(Transform::Affine(affine)) => {
                affine.apply_to(window, out);
                rest.next();
            }
            _ => out.copy_from_slice(window),
        }
        for step in rest {
            match step {
                Transform::Affine(affine) => affine.apply(out),
                Transform::Detrend(detrend) => detrend.apply(out),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_does_its_steps_in_order() {
        let window = [1.0, 10.0, 3.0, 14.0, 5.0, 18.0];
        let standardize = Affine::standardize(3, &[1.0, 10.0], &[2.0, 4.0]);
        let scale = Affine::scale(3, &[10.0, 10.0], &[1.0, 1.0]);
        let detrend = Detrend::new(3, 2);
        let mut out = [0.0; 6];

        let affine = [standardize.clone(), scale].map(Transform::Affine);
        Chain::new(affine.clone()).apply(&window, &mut out);
        for (value, expected) in out.iter().zip([1.0, 1.0, 11.0, 11.0, 21.0, 21.0]) {
            assert!((value - expected).abs() < 1e-5, "{out:?}");
        }

        let [first, second] = affine;
        Chain::new([first, Transform::Detrend(detrend), second]).apply(&window, &mut out);
        for value in out {
            assert!((value - 1.0).abs() < 1e-5, "a straight line leaves only the offset: {out:?}");
        }

        Chain::default().apply(&window, &mut out);
        assert_eq!(out, window);
    }
}
