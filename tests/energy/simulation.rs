//! The energy estimates against a simulated machine whose power is known at every moment: is the uncertainty true?
//!
//! A virtual clock; meters with the faults of real ones; thousands of seeded scenarios. `make energy-simulation` runs all
//! of them and prints the table of docs/energy.md, the plain test a sample.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use edgewatt::energy::{EnergyEstimate, Includes, Status};
use edgewatt::units::MonoTime;

use crate::classes::{CLASSES, Claim, Class};
use crate::scenario::{Scenario, Truth};

const HEAD: &str = "| class | gross inside, % | bias/U | worst/U | median U, % | net inside, % | bias/U | worst/U | median U, % \
                    | measured | attributed | unavailable |";

/// The largest mean error, in expanded uncertainties.
const BIAS_MAX: f64 = 0.2;
/// The largest error, in expanded uncertainties. Net can be surprised by drift that no idle interval has shown, gross by
/// inferences that keep step with the sensor.
const WORST_MAX: f64 = 8.0;

/// What came out of all scenarios of a class.
#[derive(Default)]
struct Tally {
    scenarios: u32,
    estimates: [u32; 4],
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
    /// Scenarios with figures, and those with one that is off by more than twice its expanded uncertainty. The figures of one
    /// scenario share their errors.
    scenarios: BTreeSet<u64>,
    far: BTreeSet<u64>,
    u_rel: Vec<f64>,
}

impl Score {
    fn add(&mut self, seed: u64, value: f64, expanded: f64, truth: f64) {
        let error = (value - truth) / expanded;
        self.scenarios.insert(seed);
        self.inside += u32::from(error.abs() <= 1.0);
        self.count += 1;
        self.sum += error;
        if error.abs() > 2.0 {
            self.far.insert(seed);
        }
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
        if self.count == 0 {
            return "- | - | - | -".to_owned();
        }
        self.u_rel.sort_by(f64::total_cmp);
        let median = self.u_rel.get(self.u_rel.len() / 2).copied().unwrap_or(f64::NAN);
        format!("{:.1} | {:+.3} | {:.2} | {:.2}", self.coverage(), self.bias(), self.worst, 100.0 * median)
    }
}

fn run(class: &Class, scenarios: u64) -> Tally {
    let mut tally = Tally::default();
    let first: u64 = std::env::var("EDGEWATT_FIRST_SEED").map_or(0, |seed| seed.parse().unwrap());
    let show = std::env::var_os("EDGEWATT_SHOW").is_some();
    for seed in first..first + scenarios {
        let scenario = Scenario::new(class, seed);
        tally.scenarios += 1;
        for (estimate, truth) in scenario.run().estimates {
            tally.count(&estimate);
            if estimate.status == Status::Measured || (class.pipelines > 1 && estimate.status == Status::Attributed) {
                let (gross, net) = (estimate.gross_j.unwrap(), estimate.net_j);
                let includes = if class.gain_error.is_some() { Includes::Scale } else { Includes::NoScale };
                assert_eq!(estimate.uncertainty, Some(includes), "{} {seed}", class.name);
                if class.pipelines == 1 {
                    tally.gross.add(seed, gross, estimate.gross_expanded_j.unwrap(), truth.gross_j);
                }
                if let Some(net) = net {
                    tally.net.add(seed, net, estimate.net_expanded_j.unwrap(), truth.net_j);
                }
                if show {
                    let e = (gross - truth.gross_j) / estimate.gross_expanded_j.unwrap();
                    let en = net.map(|n| (n - truth.net_j) / estimate.net_expanded_j.unwrap());
                    eprintln!("{} {seed} gross {e:+.2} net {en:+.2?} {truth:?} {scenario:?} {estimate:?}", class.name);
                }
            }
        }
    }
    tally
}

/// The tallies of `classes` in their order, made by as many threads as there are processors.
fn run_all(classes: &[&Class], scenarios: u64) -> Vec<Tally> {
    let (next, tallies) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(class) = classes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let tally = run(class, scenarios);
                    tallies.lock().unwrap().insert(class.name, tally);
                }
            });
        }
    });
    let mut tallies = tallies.into_inner().unwrap();
    classes.iter().map(|class| tallies.remove(class.name).unwrap()).collect()
}

impl Tally {
    fn count(&mut self, estimate: &EnergyEstimate) {
        let index = match estimate.status {
            Status::Measured => 0,
            Status::Attributed => 1,
            Status::Replayed | Status::Estimated => 2,
            Status::Unavailable => 3,
        };
        self.estimates[index] += 1;
    }
}

fn simulate(scenarios: u64, slack: f64) {
    println!("{HEAD}");
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut wrong = Vec::new();
    let only = std::env::var("EDGEWATT_CLASS").ok();
    let is_wanted =
        |class: &&Class| only.as_deref().is_none_or(|only| only.split(';').any(|only| class.name.contains(only)));
    let classes: Vec<&Class> = CLASSES.iter().filter(is_wanted).collect();
    for (class, mut tally) in classes.iter().zip(run_all(&classes, scenarios)) {
        let (gross, net) = (tally.gross.show(), tally.net.show());
        let [measured, attributed, _, unavailable] = tally.estimates;
        println!("| {} | {gross} | {net} | {measured} | {attributed} | {unavailable} |", class.name);
        for (what, score) in [("gross", &tally.gross), ("net", &tally.net)] {
            // Of a sample the coverage scatters: by two standard errors here, and twice that in a small one, since a
            // scenario's estimates are not independent.
            let scatter = slack * 2.0 * 100.0 * (0.95 * 0.05 / f64::from(tally.scenarios)).sqrt();
            let bias_scatter = slack * 2.0 * 0.5 / f64::from(tally.scenarios).sqrt();
            let most = match class.claim {
                Claim::Measured { inside_max, .. } => inside_max,
                _ => 100.0,
            };
            let range = 93.0 - scatter..=most + scatter;
            let fewest = match class.claim {
                Claim::Measured { has_net, .. } if what == "gross" || has_net => tally.scenarios / 5,
                _ => 0,
            };
            if slack < 1.0 && score.count < fewest {
                wrong.push(format!("{} {what}: only {} estimates", class.name, score.count));
            }
            let is_claimed = class.claim != Claim::Attributed && score.count > 0;
            // A handful of figures says nothing of a percentage.
            let is_counted = is_claimed && score.count >= tally.scenarios / 2;
            if is_counted && (!range.contains(&score.coverage()) || score.bias().abs() > BIAS_MAX + bias_scatter) {
                wrong.push(format!(
                    "{} {what}: {:.1} % inside, bias {:+.3} U",
                    class.name,
                    score.coverage(),
                    score.bias()
                ));
            }
            let (far, of) = (score.far.len(), score.scenarios.len());
            // Nor does a handful of scenarios.
            let is_often = far > of / 100 + 1 && of >= 100;
            if is_claimed && (score.worst > WORST_MAX || is_often) {
                let worst = score.worst;
                wrong.push(format!(
                    "{} {what}: off by {worst:.1} U, by over 2 U in {far} of {of} scenarios",
                    class.name
                ));
            }
        }
        if class.claim == Claim::Attributed && attributed < 10 * measured {
            wrong.push(format!(
                "{}: {measured} estimates claim to be measured, {attributed} say attributed",
                class.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_of_the_documentation_has_each_class() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/energy.md")).unwrap();
    let rows = text.lines().skip_while(|line| *line != HEAD).skip(2).take_while(|line| line.starts_with('|'));
    let names: Vec<&str> = rows.map(|row| row.split('|').nth(1).unwrap().trim()).collect();
    assert_eq!(names, CLASSES.iter().map(|class| class.name).collect::<Vec<_>>());
}

/// Each scenario again without its wraps, gaps and suspends: what both have a estimate for must agree. That no window spans a
/// loss is asserted where estimates are scored.
fn compare(scenarios: u64) {
    for class in CLASSES.iter().filter(|class| class.trouble.is_of_the_meter()) {
        let (mut same, mut after, mut losses) = (0, 0, 0);
        for seed in 0..scenarios {
            let with = Scenario::new(class, seed).run();
            let without: HashMap<_, _> =
                Scenario::new(class, seed).without_trouble().run().estimates.into_iter().map(keyed).collect();
            losses += with.losses.len();
            for (window, estimate) in with.estimates.into_iter().map(keyed) {
                let Some(other) = without.get(&window).filter(|_| estimate.gross_j.is_some()) else { continue };
                // Idle power and tails may be known from other idle intervals.
                let agree = |joules: fn(&EnergyEstimate) -> Option<(f64, f64)>| {
                    joules(&estimate).zip(joules(other)).is_none_or(|((a, u_a), (b, u_b))| (a - b).abs() < u_a + u_b)
                };
                let gross_agrees = agree(|estimate| estimate.gross_j.zip(estimate.gross_expanded_j));
                let net_agrees = agree(|estimate| estimate.net_j.zip(estimate.net_expanded_j));
                assert!(gross_agrees && net_agrees, "{} {seed}: {estimate:?} {other:?}", class.name);
                same += 1;
                let from = estimate.window[0].0;
                after += usize::from(with.losses.iter().any(|loss| loss.1 <= from));
            }
        }
        println!("{}: {same} estimates agree, {after} of them after one of {losses} losses", class.name);
        assert!(same > scenarios && (losses == 0 || after as u64 > scenarios / 4), "{}: {same} {after}", class.name);
        assert_eq!(losses == 0, class.loses_nothing(), "{}", class.name);
    }
}

fn keyed((estimate, _): (EnergyEstimate, Truth)) -> (Vec<(MonoTime, MonoTime)>, EnergyEstimate) {
    (estimate.window.clone(), estimate)
}

#[test]
fn what_goes_wrong_with_the_meter_changes_no_other_estimate_in_a_sample() {
    compare(20);
}

#[test]
#[ignore = "a minute of an optimised build: make energy-simulation"]
fn what_goes_wrong_with_the_meter_changes_no_other_estimate() {
    compare(1000);
}

#[test]
fn the_truth_lies_in_the_interval_in_a_sample() {
    simulate(std::env::var("EDGEWATT_SCENARIOS").map_or(20, |count| count.parse().unwrap()), 1.0);
}

#[test]
#[ignore = "a minute of an optimised build: make energy-simulation"]
fn the_truth_lies_in_the_interval() {
    simulate(std::env::var("EDGEWATT_SCENARIOS").map_or(4000, |count| count.parse().unwrap()), 0.5);
}
