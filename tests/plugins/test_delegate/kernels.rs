//! The operators, in real numbers: what an operator means, without how its tensors are stored.
//!
//! Slower than any real kernel, and the same for float32 and int8. The rounding to a tensor's own steps is
//! [`super::graph::Grid`]'s work.

/// A tensor's numbers, row-major.
#[derive(Debug, Default)]
pub(crate) struct Value {
    pub dims: Vec<usize>,
    pub numbers: Vec<f64>,
}

/// The range that a fused activation lets through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits(pub f64, pub f64);

/// One operator. What its inputs are is said where it is computed.
#[derive(Debug)]
pub(crate) enum Operation {
    Add {
        limits: Limits,
    },
    /// Strides and dilations: along the height, along the width.
    Conv2d {
        same_padding: bool,
        strides: [usize; 2],
        dilations: [usize; 2],
        limits: Limits,
    },
    FullyConnected {
        keep_dims: bool,
        limits: Limits,
    },
    Reshape,
    Softmax {
        beta: f64,
    },
}

impl Operation {
    /// The output's dimensions; an error when the inputs do not fit each other.
    pub(crate) fn output_dims(&self, inputs: &[&Value]) -> Result<Vec<usize>, String> {
        let dims = &inputs[0].dims;
        match self {
            Self::Add { .. } if inputs[1].dims != *dims => Err("it broadcasts".into()),
            Self::Add { .. } | Self::Softmax { .. } => Ok(dims.clone()),
            Self::Conv2d { same_padding, strides, dilations, .. } => {
                let (&[batch, height, width, depth], &[channels, filter_height, filter_width, filter_depth]) =
                    (dims.as_slice(), inputs[1].dims.as_slice())
                else {
                    return Err("its input or filter is not 4-dimensional".into());
                };
                if depth != filter_depth {
                    return Err("it works in groups of channels".into());
                }
                let along = |axis: usize, size, filter| {
                    positions(size, reach(filter, dilations[axis]), strides[axis], *same_padding)
                };
                let [height, width] = [along(0, height, filter_height), along(1, width, filter_width)];
                Ok(vec![batch, height, width, channels])
            }
            Self::FullyConnected { keep_dims, .. } => {
                let &[units, depth] = inputs[1].dims.as_slice() else {
                    return Err("its weights are not 2-dimensional".into());
                };
                let count: usize = dims.iter().product();
                match dims.split_last() {
                    Some((last, before)) if *keep_dims && *last == depth => Ok([before, &[units]].concat()),
                    _ if !keep_dims && count.is_multiple_of(depth) => Ok(vec![count / depth, units]),
                    _ => Err(format!("its weights do not take {dims:?}")),
                }
            }
            Self::Reshape => {
                let count: usize = dims.iter().product();
                // The one that may be -1 takes what the others leave.
                let known: usize = inputs[1].numbers.iter().filter(|n| **n >= 0.0).map(|n| *n as usize).product();
                let left = count.checked_div(known).unwrap_or(0);
                let shape = inputs[1].numbers.iter().map(|n| if *n < 0.0 { left } else { *n as usize });
                let shape: Vec<usize> = shape.collect();
                let fits = shape.iter().product::<usize>() == count;
                if fits { Ok(shape) } else { Err(format!("{dims:?} does not reshape to {shape:?}")) }
            }
        }
    }

    /// Writes the numbers of `output`, which has the dimensions that [`Self::output_dims`] says.
    pub(crate) fn compute(&self, inputs: &[&Value], output: &mut Value) {
        match self {
            Self::Add { limits } => {
                let terms = inputs[0].numbers.iter().zip(&inputs[1].numbers);
                for (output, (a, b)) in output.numbers.iter_mut().zip(terms) {
                    *output = limits.apply(a + b);
                }
            }
            Self::Conv2d { same_padding, strides, dilations, limits } => {
                let geometry = Geometry { same_padding: *same_padding, strides: *strides, dilations: *dilations };
                convolve(&geometry, inputs[0], inputs[1], inputs.get(2).copied(), *limits, output);
            }
            Self::FullyConnected { limits, .. } => {
                let (weights, bias) = (inputs[1], inputs.get(2));
                let (units, depth) = (weights.dims[0], weights.dims[1]);
                for (row, output) in output.numbers.chunks_exact_mut(units).enumerate() {
                    let input = &inputs[0].numbers[row * depth..][..depth];
                    for (unit, output) in output.iter_mut().enumerate() {
                        let bias = bias.map_or(0.0, |bias| bias.numbers[unit]);
                        *output = limits.apply(bias + dot(input, &weights.numbers[unit * depth..][..depth]));
                    }
                }
            }
            Self::Reshape => output.numbers.copy_from_slice(&inputs[0].numbers),
            Self::Softmax { beta } => {
                let depth = inputs[0].dims.last().copied().unwrap_or(1).max(1);
                let rows = inputs[0].numbers.chunks_exact(depth);
                for (output, input) in output.numbers.chunks_exact_mut(depth).zip(rows) {
                    softmax(*beta, input, output);
                }
            }
        }
    }
}

impl Limits {
    fn apply(self, number: f64) -> f64 {
        number.clamp(self.0, self.1)
    }
}

/// How far a filter of `size` stretches over its input.
fn reach(size: usize, dilation: usize) -> usize {
    (size.max(1) - 1) * dilation + 1
}

/// How many places a filter takes along one axis.
fn positions(size: usize, reach: usize, stride: usize, same_padding: bool) -> usize {
    if same_padding { size.div_ceil(stride) } else { (size + stride).saturating_sub(reach) / stride }
}

struct Geometry {
    same_padding: bool,
    strides: [usize; 2],
    dilations: [usize; 2],
}

impl Geometry {
    /// Where in `size` the filter's element `tap` falls when its output is at `position`; none in the padding.
    fn tap(&self, axis: usize, position: usize, tap: usize, size: usize, filter: usize) -> Option<usize> {
        let (stride, dilation) = (self.strides[axis], self.dilations[axis]);
        let reach = reach(filter, dilation);
        let last = (positions(size, reach, stride, self.same_padding).max(1) - 1) * stride + reach;
        let padding = if self.same_padding { last.saturating_sub(size) / 2 } else { 0 };
        (position * stride + tap * dilation).checked_sub(padding).filter(|at| *at < size)
    }
}

/// `input` is `[batch, height, width, depth]`, `filter` `[channels, height, width, depth]`.
fn convolve(
    geometry: &Geometry,
    input: &Value,
    filter: &Value,
    bias: Option<&Value>,
    limits: Limits,
    output: &mut Value,
) {
    let (height, width, depth) = (input.dims[1], input.dims[2], input.dims[3]);
    let (filter_height, filter_width) = (filter.dims[1], filter.dims[2]);
    let (output_height, output_width, channels) = (output.dims[1], output.dims[2], output.dims[3]);
    let per_channel = filter_height * filter_width * depth;
    for (place, output) in output.numbers.chunks_exact_mut(channels).enumerate() {
        let (batch, y, x) =
            (place / (output_height * output_width), place / output_width % output_height, place % output_width);
        match bias {
            Some(bias) => output.copy_from_slice(&bias.numbers),
            None => output.fill(0.0),
        }
        for tap_y in 0..filter_height {
            let Some(row) = geometry.tap(0, y, tap_y, height, filter_height) else { continue };
            for tap_x in 0..filter_width {
                let Some(column) = geometry.tap(1, x, tap_x, width, filter_width) else { continue };
                let pixel = &input.numbers[((batch * height + row) * width + column) * depth..][..depth];
                let tap = (tap_y * filter_width + tap_x) * depth;
                for (channel, sum) in output.iter_mut().enumerate() {
                    *sum += dot(pixel, &filter.numbers[channel * per_channel + tap..][..depth]);
                }
            }
        }
        for sum in output {
            *sum = limits.apply(*sum);
        }
    }
}

/// The sum of the products. All the time goes here and the tests run it unoptimised, where an iterator costs a call a
/// step and a sum waits for its own memory: hence the plain loop on four sums.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (mut s0, mut s1, mut s2, mut s3) = (0.0, 0.0, 0.0, 0.0);
    let mut i = 0;
    while i + 4 <= a.len() {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
        s2 += a[i + 2] * b[i + 2];
        s3 += a[i + 3] * b[i + 3];
        i += 4;
    }
    while i < a.len() {
        s0 += a[i] * b[i];
        i += 1;
    }
    s0 + s1 + s2 + s3
}

fn softmax(beta: f64, input: &[f64], output: &mut [f64]) {
    let largest = input.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for (output, input) in output.iter_mut().zip(input) {
        *output = (beta * (input - largest)).exp();
    }
    let sum: f64 = output.iter().sum();
    for output in output {
        *output /= sum;
    }
}
