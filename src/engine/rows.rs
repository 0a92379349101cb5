//! Checks that the windows of a batch do not change each other's outputs.

use super::{Element, Engine, EngineError, TensorInfo};

/// Largest difference between two outputs for the same window, as a share of the largest output.
const TOLERANCE: f32 = 0.01;
/// What may be left of a difference of equal numbers.
const ROUNDING: f32 = 1e-5;

/// Runs a window twice, first before and then after different windows, and compares what it gives.
///
/// # Errors
/// The outputs differ, as they do if the model computes a mean over the batch or does not give a row for each window.
pub(crate) fn check_independent(engine: &mut dyn Engine) -> Result<(), EngineError> {
    let batch = engine.batch();
    let inputs = engine.inputs().to_vec();
    let window = |middle: f32| -> Vec<f32> {
        inputs.iter().flat_map(|input| values(input, input.len() / batch, middle)).collect()
    };
    // The other windows are clearly above it and clearly below it.
    let first = outputs(engine, 0, |row| window(if row == 0 { 0.5 } else { 0.8 }))?;
    let last = outputs(engine, batch - 1, |row| window(if row + 1 == batch { 0.5 } else { 0.2 }))?;
    for (index, (first, last)) in first.iter().zip(&last).enumerate() {
        let output = &engine.outputs()[index];
        let largest = first.iter().chain(last).filter(|v| v.is_finite()).fold(0f32, |most, v| most.max(v.abs()));
        let step = if output.scale.is_normal() { output.scale } else { 0.0 };
        let most = TOLERANCE * largest + 2.0 * step + ROUNDING;
        let differs = |(a, b): (&f32, &f32)| a.is_finite() && b.is_finite() && (a - b).abs() > most;
        if first.iter().zip(last).any(differs) {
            return Err(EngineError::Mismatch(format!(
                "with batches of {batch} the model's output `{}` for a window depends on the other windows of its batch; \
                 set batch.max = 1",
                output.name
            )));
        }
    }
    Ok(())
}

/// Returns what the window in `row` gives, for each output of numbers; empty for the others.
fn outputs(
    engine: &mut dyn Engine,
    row: usize,
    window: impl Fn(usize) -> Vec<f32>,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let batch = engine.batch();
    for row in 0..batch {
        engine.set_input(row, &window(row))?;
    }
    engine.invoke()?;
    let is_compared = |output: &TensorInfo| {
        // A class's index can change with the last bit of its score.
        matches!(output.element, Element::Float32 | Element::Int8 | Element::Uint8 | Element::Int16)
    };
    let width = |output: &TensorInfo| if is_compared(output) { output.len() / batch } else { 0 };
    let widths: Vec<usize> = engine.outputs().iter().map(width).collect();
    let mut all = Vec::with_capacity(widths.len());
    for (index, width) in widths.into_iter().enumerate() {
        let mut values = vec![0.0; width];
        if width > 0 {
            engine.output(index, row, &mut values)?;
        }
        all.push(values);
    }
    Ok(all)
}

/// Returns a window of different values around `middle`, which is a place between the lowest value, 0, and the highest, 1.
fn values(input: &TensorInfo, width: usize, middle: f32) -> Vec<f32> {
    let (low, high) = input.range().unwrap_or((-2.0, 2.0));
    let place = |index: usize| middle + 0.2 * ((index * 7919 + 13) % 101) as f32 / 101.0;
    (0..width).map(|index| low + (high - low) * place(index)).collect()
}
