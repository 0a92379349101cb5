//! Statistics of a series of values.

/// The number of values, their mean, and the means of the powers of their distances from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    pub mean: f64,
    /// The mean of the squares of the values themselves.
    mean_square: f64,
    /// The mean of the 2nd, 3rd and 4th power of the distance from the mean.
    central: [f64; 3],
}

impl Moments {
    /// Computes the moments of `values`; of none, they are not numbers.
    pub fn of(values: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let share = 1.0 / values.len() as f64;
        // Sums of differences from it are exact for values that are all the same.
        let first = values.clone().next().unwrap_or(f64::NAN);
        let (mut sum, mut squares) = (0.0, 0.0);
        for value in values.clone() {
            sum += value - first;
            squares += value * value;
        }
        let mean = first + sum * share;
        let mut powers = [0.0; 3];
        for value in values {
            let distance = value - mean;
            let square = distance * distance;
            powers[0] += square;
            powers[1] += square * distance;
            powers[2] += square * square;
        }
        Self { mean, mean_square: squares * share, central: powers.map(|sum| sum * share) }
    }

    /// Returns the root of the mean of the squares.
    pub fn rms(&self) -> f64 {
        self.mean_square.sqrt()
    }

    /// Returns the standard deviation of the population.
    pub fn std(&self) -> f64 {
        self.central[0].sqrt()
    }

    /// Returns the skewness of the population; 0 for values that are all the same.
    pub fn skewness(&self) -> f64 {
        if self.is_constant() { 0.0 } else { self.central[1] / self.central[0].powf(1.5) }
    }

    /// Returns the kurtosis of the population, 0 for a normal distribution; -3 for values that are all the same.
    pub fn kurtosis(&self) -> f64 {
        if self.is_constant() { -3.0 } else { self.central[2] / (self.central[0] * self.central[0]) - 3.0 }
    }

    /// Returns whether the values differ by rounding only. The limit is SciPy's.
    fn is_constant(&self) -> bool {
        self.central[0] <= (1e-15 * self.mean).powi(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_numpy_and_scipy() {
        // numpy.mean, numpy.std, scipy.stats.skew and scipy.stats.kurtosis of [1, 2, 4, 9].
        let moments = Moments::of([1.0, 2.0, 4.0, 9.0].into_iter());
        let wanted = [
            (moments.mean, 4.0),
            (moments.rms(), 25.5f64.sqrt()),
            (moments.std(), 3.082_207_001_484_488),
            (moments.skewness(), 0.768_417_257_987_822_6),
            (moments.kurtosis(), -1.0),
        ];
        for (value, wanted) in wanted {
            assert!((value - wanted).abs() < 1e-12, "{value} for {wanted}");
        }
    }

    #[test]
    fn values_that_are_all_the_same_have_no_shape() {
        for value in [0.0, 9.81, f64::from(0.03f32) * 0.1] {
            let moments = Moments::of(vec![value; 125].into_iter());
            assert_eq!((moments.skewness(), moments.kurtosis()), (0.0, -3.0), "{value}");
        }
    }
}
