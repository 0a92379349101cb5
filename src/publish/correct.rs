//! Energy per correct answer, where the stream carries the true class.
//!
//! Pure: counts and the estimates of energy in, what is published out.

use serde::Serialize;

use crate::energy::{EnergyEstimate, Status};

/// How often the model was right since the start of the daemon, and what a correct answer took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Truth {
    /// Predictions whose true class is known.
    pub known: u64,
    /// Those of them that are right.
    pub right: u64,
    /// By meter.
    pub energy: Vec<PerCorrect>,
}

/// Joules per correct answer by one meter: an answer that is not right takes energy too.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerCorrect {
    pub meter: Option<String>,
    /// As that of the estimate.
    pub status: Status,
    /// Gross energy per inference, divided by the fraction of right answers; `None` if there is no estimate, or none was right.
    pub gross_j: Option<f64>,
    /// Standard uncertainty, and expanded with k = 2: that of the estimate, and what so few answers leave open of the fraction.
    pub gross_u_j: Option<f64>,
    pub gross_expanded_j: Option<f64>,
}

impl Truth {
    /// Returns the counts with the energy per correct answer by each meter; `None` if no true class is known.
    pub fn of(known: u64, right: u64, estimates: &[EnergyEstimate]) -> Option<Self> {
        let energy = estimates.iter().map(|estimate| PerCorrect::of(known, right, estimate)).collect();
        (known > 0).then_some(Self { known, right, energy })
    }
}

impl PerCorrect {
    /// The fraction of right answers p among n has a variance of p (1 - p) / n, as the parameter of a binomial distribution.
    fn of(known: u64, right: u64, estimate: &EnergyEstimate) -> Self {
        let (known, right) = (known as f64, right as f64);
        let gross_j = estimate.gross_j.filter(|_| right > 0.0).map(|gross_j| gross_j * known / right);
        let u_j = gross_j.zip(estimate.gross_j).zip(estimate.gross_u_j).map(|((per_correct_j, gross_j), u_j)| {
            let of_fraction = ((known - right) / (right * known)).sqrt();
            per_correct_j * (u_j / gross_j).hypot(of_fraction)
        });
        Self {
            meter: estimate.meter.clone(),
            status: if gross_j.is_some() { estimate.status } else { Status::Unavailable },
            gross_j,
            gross_u_j: u_j,
            gross_expanded_j: u_j.map(|u_j| 2.0 * u_j),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_answers_cost_energy_and_few_of_them_leave_it_open() {
        let estimate = EnergyEstimate {
            meter: Some("board".to_owned()),
            status: Status::Measured,
            gross_j: Some(0.03),
            gross_u_j: Some(0.0003),
            ..EnergyEstimate::no_meter()
        };
        assert_eq!(Truth::of(0, 0, std::slice::from_ref(&estimate)), None);
        let of = |known, right| Truth::of(known, right, std::slice::from_ref(&estimate)).unwrap().energy.remove(0);
        let three_quarters = of(400, 300);
        assert!((three_quarters.gross_j.unwrap() - 0.04).abs() < 1e-12, "{three_quarters:?}");
        // 1 % of the energy; 100 / (300 * 400) of the fraction, squared.
        let u_j = 0.04 * (0.01f64).hypot((100.0 / 120_000.0f64).sqrt());
        assert!((three_quarters.gross_u_j.unwrap() - u_j).abs() < 1e-12, "{three_quarters:?}");
        assert!((of(400, 400).gross_u_j.unwrap() - 0.0003).abs() < 1e-12);
        assert_eq!((of(400, 0).status, of(400, 0).gross_j), (Status::Unavailable, None));
        let unknown = Truth::of(4, 2, &[EnergyEstimate::no_meter()]).unwrap();
        assert_eq!((unknown.energy[0].gross_j, unknown.energy[0].gross_u_j), (None, None));
    }
}
