//! The energy join against a simulated machine whose power is known at every moment: is the uncertainty true?
//!
//! A virtual clock; meters with the faults of real ones; thousands of seeded scenarios. `make energy-simulation` runs all
//! of them and prints the table of docs/energy.md, the plain test a sample.

#![allow(clippy::unwrap_used)]

#[path = "energy_simulation/machine.rs"]
mod machine;
#[path = "energy_simulation/scenario.rs"]
mod scenario;

use edgewatt::energy::{Figure, Status};
use scenario::{CLASSES, Class, Outcome, Scenario, Trouble};

/// What came out of all scenarios of a class.
#[derive(Default)]
struct Tally {
    scenarios: u32,
    figures: [u32; 4],
    gross: Score,
    net: Score,
}

/// Errors in units of the expanded uncertainty.
#[derive(Default)]
struct Score {
    inside: u32,
    count: u32,
    sum: f64,
    worst: f64,
    u_rel: Vec<f64>,
}

impl Score {
    fn add(&mut self, value: f64, expanded: f64, truth: f64) {
        let error = (value - truth) / expanded;
        self.inside += u32::from(error.abs() <= 1.0);
        self.count += 1;
        self.sum += error;
        self.worst = self.worst.max(error.abs());
        self.u_rel.push(expanded / truth);
    }

    fn coverage(&self) -> f64 {
        100.0 * f64::from(self.inside) / f64::from(self.count.max(1))
    }

    fn bias(&self) -> f64 {
        self.sum / f64::from(self.count.max(1))
    }

    fn show(&mut self) -> String {
        self.u_rel.sort_by(f64::total_cmp);
        let median = self.u_rel.get(self.u_rel.len() / 2).copied().unwrap_or(f64::NAN);
        format!("{:5.1} | {:+.3} | {:.2} | {:7.2}", self.coverage(), self.bias(), self.worst, 100.0 * median)
    }
}

fn run(class: &Class, scenarios: u64) -> Tally {
    let mut tally = Tally::default();
    let first: u64 = std::env::var("EDGEWATT_FIRST_SEED").map_or(0, |seed| seed.parse().unwrap());
    for seed in first..first + scenarios {
        let scenario = Scenario::new(class, seed);
        tally.scenarios += 1;
        let outcome: Outcome = scenario.run();
        for (figure, truth) in &outcome.figures {
            tally.count(figure);
            if figure.status == Status::Measured || (class.pipelines > 1 && figure.status == Status::Attributed) {
                let (gross, net) = (figure.gross_j.unwrap(), figure.net_j);
                if class.pipelines == 1 {
                    tally.gross.add(gross, figure.gross_expanded_j.unwrap(), truth.gross_j);
                }
                if let Some(net) = net {
                    tally.net.add(net, figure.net_expanded_j.unwrap(), truth.net_j);
                }
                if std::env::var_os("EDGEWATT_SHOW").is_some() {
                    let e = (gross - truth.gross_j) / figure.gross_expanded_j.unwrap();
                    let en = net.map(|n| (n - truth.net_j) / figure.net_expanded_j.unwrap());
                    eprintln!("{} {seed} gross {e:+.2} net {en:+.2?} {scenario:?} {figure:?}", class.name);
                }
            }
        }
    }
    tally
}

impl Tally {
    fn count(&mut self, figure: &Figure) {
        let index = match figure.status {
            Status::Measured => 0,
            Status::Attributed => 1,
            Status::Estimated => 2,
            Status::Unavailable => 3,
        };
        self.figures[index] += 1;
    }
}

fn simulate(scenarios: u64, slack: f64) {
    println!(
        "| class | gross: % inside | bias/U | worst/U | median U % | net: % inside | bias/U | worst/U | median U % | measured | attributed | unavailable |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut wrong = Vec::new();
    let only = std::env::var("EDGEWATT_CLASS").ok();
    for class in CLASSES.iter().filter(|class| only.as_deref().is_none_or(|only| class.name.contains(only))) {
        let mut tally = run(class, scenarios);
        let (gross, net) = (tally.gross.show(), tally.net.show());
        let [measured, attributed, _, unavailable] = tally.figures;
        println!("| {} | {gross} | {net} | {measured} | {attributed} | {unavailable} |", class.name);
        for (what, score) in [("gross", &tally.gross), ("net", &tally.net)] {
            // Of a sample the coverage scatters; a scenario's figures are not independent, so twice as much.
            let scatter = slack * 2.0 * 100.0 * (0.95 * 0.05 / f64::from(tally.scenarios)).sqrt();
            let range = 93.0 - scatter..=98.0 + scatter;
            if class.measures && score.count < tally.scenarios / 4 {
                wrong.push(format!("{} {what}: only {} figures", class.name, score.count));
            }
            if class.measures && (!range.contains(&score.coverage()) || score.bias().abs() > 0.1 + slack * 0.1) {
                wrong.push(format!(
                    "{} {what}: {:.1} % inside, bias {:+.3} U",
                    class.name,
                    score.coverage(),
                    score.bias()
                ));
            }
            // Net can be surprised by drift that no quiet stretch has shown; gross by nothing.
            if what == "gross" && score.worst > 2.5 {
                wrong.push(format!("{} {what}: a figure is off by {:.1} U", class.name, score.worst));
            }
        }
        if !class.measures && attributed < 10 * measured {
            wrong.push(format!("{}: {measured} figures claim to be measured, {attributed} say attributed", class.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_wrap_changes_nothing() {
    let class = CLASSES.iter().find(|class| class.trouble == Trouble::Wraps).unwrap();
    let mut compared = 0;
    for seed in 0..20 {
        let with = Scenario::new(class, seed).run().figures;
        let without = Scenario::new(class, seed).without_wrap().run().figures;
        assert_eq!(with.len(), without.len());
        for ((with, _), (without, _)) in with.iter().zip(&without) {
            assert_eq!((with.status, &with.reason), (without.status, &without.reason));
            let Some(expanded) = with.gross_expanded_j else { continue };
            assert!((with.gross_j.unwrap() - without.gross_j.unwrap()).abs() < expanded, "{with:?} {without:?}");
            if let (Some(a), Some(b), Some(expanded)) = (with.net_j, without.net_j, with.net_expanded_j) {
                assert!((a - b).abs() < expanded, "{with:?} {without:?}");
            }
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared}");
}

#[test]
fn the_truth_lies_in_the_interval_in_a_sample() {
    simulate(std::env::var("EDGEWATT_SCENARIOS").map_or(20, |count| count.parse().unwrap()), 1.0);
}

#[test]
#[ignore = "a minute of an optimised build: make energy-simulation"]
fn the_truth_lies_in_the_interval() {
    simulate(std::env::var("EDGEWATT_SCENARIOS").map_or(1000, |count| count.parse().unwrap()), 0.0);
}
