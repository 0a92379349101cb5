//! Fits the power of each busy pipeline to the energy of one meter, by non-negative least squares.
//!
//! Pure. In each of many short intervals, the energy above idle is the sum over the pipelines of power times busy time. If
//! the busy times vary enough from interval to interval, this determines the powers. Only sums are kept.

/// At least this fraction of the variation of a pipeline's busy time must be independent of the other pipelines.
const UNIQUE_MIN: f64 = 0.05;
/// Fewest intervals for each unknown.
const INTERVALS_PER_UNKNOWN: u64 = 8;
const SWEEPS_MAX: usize = 1000;

/// The sums of a fit. Unknown 0 is idle power, with time as its column; then one unknown for each pipeline.
#[derive(Debug, Clone)]
pub(crate) struct PowerFit {
    size: usize,
    intervals: u64,
    /// Products of columns, row-major `[size, size]`.
    gram: Vec<f64>,
    /// Products of column and energy.
    moment: Vec<f64>,
    energy_squared: f64,
}

/// The power of each pipeline in watts above idle, with its standard uncertainty.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FittedPowers {
    pub watts: Vec<f64>,
    pub u_w: Vec<f64>,
    pub intervals: u64,
}

impl PowerFit {
    pub(crate) fn new(pipeline_count: usize) -> Self {
        let size = pipeline_count + 1;
        Self { size, intervals: 0, gram: vec![0.0; size * size], moment: vec![0.0; size], energy_squared: 0.0 }
    }

    /// Adds an interval of `time_s` with `joules`, and the busy seconds of each pipeline in it.
    pub(crate) fn add(&mut self, time_s: f64, joules: f64, busy_s: &[f64]) {
        let column = |index: usize| if index == 0 { time_s } else { busy_s.get(index - 1).copied().unwrap_or(0.0) };
        for (row, (line, moment)) in self.gram.chunks_mut(self.size).zip(&mut self.moment).enumerate() {
            for (index, cell) in line.iter_mut().enumerate() {
                *cell += column(row) * column(index);
            }
            *moment += column(row) * joules;
        }
        self.energy_squared += joules * joules;
        self.intervals += 1;
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.gram.get(row * self.size + column).copied().unwrap_or(0.0)
    }

    fn moment(&self, row: usize) -> f64 {
        self.moment.get(row).copied().unwrap_or(0.0)
    }

    /// Returns the powers of the pipelines `active` above `idle_w`, or `None` if the intervals do not determine them.
    pub(crate) fn solve(&self, idle_w: f64, active: &[usize]) -> Option<FittedPowers> {
        let unknowns = active.len();
        if unknowns == 0 || self.intervals < INTERVALS_PER_UNKNOWN * unknowns as u64 {
            return None;
        }
        let column = |index: usize| active.get(index).map_or(0, |pipeline| pipeline + 1);
        let gram = |row: usize, index: usize| self.at(column(row), column(index));
        let moment: Vec<f64> =
            (0..unknowns).map(|row| self.moment(column(row)) - idle_w * self.at(0, column(row))).collect();
        let inverse = inverse_diagonal(unknowns, &gram)?;
        let mut watts = vec![0.0; unknowns];
        for _ in 0..SWEEPS_MAX {
            let mut moved = 0.0f64;
            for row in 0..unknowns {
                let predicted: f64 = watts.iter().enumerate().map(|(index, w)| gram(row, index) * w).sum();
                let gradient = moment.get(row).copied().unwrap_or(0.0) - predicted;
                if let Some(power) = watts.get_mut(row) {
                    let next = (*power + gradient / gram(row, row)).max(0.0);
                    moved = moved.max((next - *power).abs() / next.abs().max(1e-9));
                    *power = next;
                }
            }
            if moved < 1e-9 {
                break;
            }
        }
        let active_squared = self.energy_squared - 2.0 * idle_w * self.moment(0) + idle_w.powi(2) * self.at(0, 0);
        let explained: f64 = watts
            .iter()
            .enumerate()
            .map(|(row, w)| {
                let predicted: f64 = watts.iter().enumerate().map(|(index, w)| gram(row, index) * w).sum();
                w * (2.0 * moment.get(row).copied().unwrap_or(0.0) - predicted)
            })
            .sum();
        let scatter = (active_squared - explained).max(0.0) / (self.intervals - unknowns as u64) as f64;
        let u_w = inverse.iter().map(|part| (scatter * part).sqrt()).collect();
        Some(FittedPowers { watts, u_w, intervals: self.intervals })
    }
}

/// Returns the diagonal of the inverse of a symmetric matrix by Cholesky decomposition, or `None` if a column is nearly a
/// combination of the others.
fn inverse_diagonal(size: usize, matrix: &dyn Fn(usize, usize) -> f64) -> Option<Vec<f64>> {
    let mut lower = vec![0.0; size * size];
    let get = |lower: &[f64], row: usize, column: usize| lower.get(row * size + column).copied().unwrap_or(0.0);
    for row in 0..size {
        for column in 0..=row {
            let done: f64 = (0..column).map(|k| get(&lower, row, k) * get(&lower, column, k)).sum();
            let rest = matrix(row, column) - done;
            let value = if row == column {
                if rest <= UNIQUE_MIN * matrix(row, row) {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / get(&lower, column, column)
            };
            if let Some(cell) = lower.get_mut(row * size + column) {
                *cell = value;
            }
        }
    }
    let diagonal = (0..size).map(|unit| {
        let mut solved = vec![0.0; size];
        for row in unit..size {
            let done: f64 = (unit..row).map(|k| get(&lower, row, k) * solved.get(k).copied().unwrap_or(0.0)).sum();
            let rest = if row == unit { 1.0 } else { -done };
            if let Some(cell) = solved.get_mut(row) {
                *cell = rest / get(&lower, row, row);
            }
        }
        solved.iter().map(|value| value * value).sum()
    });
    Some(diagonal.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_come_back_from_intervals_that_differ() {
        let mut fit = PowerFit::new(2);
        for index in 0..40 {
            let (a, b) = (0.01 * f64::from(index % 7), 0.015 * f64::from(index % 5));
            fit.add(0.1, 0.1 * 3.0 + a * 5.0 + b * 2.0, &[a, b]);
        }
        let powers = fit.solve(3.0, &[0, 1]).unwrap();
        assert!((powers.watts[0] - 5.0).abs() < 1e-6 && (powers.watts[1] - 2.0).abs() < 1e-6, "{powers:?}");
        assert!(powers.u_w.iter().all(|u| *u < 1e-6), "{powers:?}");
    }

    #[test]
    fn busy_times_in_step_determine_nothing() {
        let mut fit = PowerFit::new(2);
        for index in 0..40 {
            let a = 0.01 * f64::from(index % 7);
            fit.add(0.1, 0.3 + a, &[a, 2.0 * a]);
        }
        assert_eq!(fit.solve(3.0, &[0, 1]), None);
        assert!(fit.solve(3.0, &[0]).is_some());
    }

    #[test]
    fn a_power_is_never_negative() {
        let mut fit = PowerFit::new(2);
        for index in 0..40 {
            let (a, b) = (0.01 * f64::from(index % 7), 0.015 * f64::from(index % 5));
            fit.add(0.1, 0.3 + a * 5.0 - b, &[a, b]);
        }
        assert_eq!(fit.solve(3.0, &[0, 1]).unwrap().watts[1], 0.0);
    }
}
