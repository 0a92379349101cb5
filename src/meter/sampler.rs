//! The meter thread: reads every meter at a steady pace.
//!
//! Owns deadlines, retries and the log lines of a failing meter; leaves the readings to its caller. An absent or failing
//! meter is retried with growing pauses, and only changes of its state are logged.

use std::io;
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{Meter, MeterError, MeterInfo, Reading};
use crate::stop::{Stop, Waited};
use crate::units::{MonoTime, duration_ns};

/// The longest pause between two tries of a failing meter.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The shortest period, which also keeps a period of zero from spinning.
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// A shorter suspend may only be the delay between reading two clocks.
const SUSPEND_MIN: Duration = Duration::from_millis(100);

/// Reads all `meters` every `period` until `stop` is requested, and then once more.
///
/// `on_reading` gets the meter's index, and what the meter says of itself now. A meter that is still learning how it behaves is
/// read at the pace that it asks for. The energy of a meter across a suspend is unknown and reported as
/// [`MeterError::Rebaselined`]. Runs on the calling thread.
///
/// # Errors
/// The kernel refuses to sleep.
pub fn run(
    meters: &mut [Box<dyn Meter>],
    period: Duration,
    stop: &Stop,
    mut on_reading: impl FnMut(usize, &MeterInfo, Result<Reading, MeterError>),
) -> io::Result<()> {
    let period = period.max(PERIOD_MIN);
    let mut states: Vec<State> = meters.iter().map(|_| State { failing: None, suspended: suspended() }).collect();
    let mut deadline = MonoTime::now();
    let mut jitter = Jitter(deadline.0);
    let mut last = false;
    loop {
        for (index, (meter, state)) in meters.iter_mut().zip(&mut states).enumerate() {
            state.read(meter.as_mut(), period, |info, result| on_reading(index, info, result));
        }
        if last {
            return Ok(());
        }
        // A reading late in its period must not cost the next one.
        let late = MonoTime(MonoTime::now().0.saturating_sub(duration_ns(period)).max(deadline.0));
        deadline = next_deadline(deadline, period, late);
        let next = jitter.within(deadline, period);
        last = loop {
            let pace =
                meters.iter().zip(&states).filter_map(|(meter, state)| state.learning_pace(meter.as_ref())).min();
            let Some(pace) = pace.filter(|pace| MonoTime::now() + *pace < next) else {
                break stop.sleep_until(next)? == Waited::Stopped;
            };
            if stop.sleep_until(MonoTime::now() + pace)? == Waited::Stopped {
                break true;
            }
            for (index, (meter, state)) in meters.iter_mut().zip(&mut states).enumerate() {
                if state.learning_pace(meter.as_ref()).is_some() {
                    state.read(meter.as_mut(), period, |info, result| on_reading(index, info, result));
                }
            }
        };
    }
}

/// Whether a meter works and when to read it next.
#[derive(Debug, Default)]
struct State {
    failing: Option<Failure>,
    /// How long the machine had been suspended since boot when the meter was last read.
    suspended: Duration,
}

#[derive(Debug)]
struct Failure {
    kind: Discriminant<MeterError>,
    retry_at: MonoTime,
    pause: Duration,
}

#[derive(Debug, PartialEq)]
enum Change {
    None,
    Failed,
    Recovered,
}

impl State {
    /// Reads the meter if it is due.
    fn read(
        &mut self,
        meter: &mut dyn Meter,
        period: Duration,
        on_reading: impl FnOnce(&MeterInfo, Result<Reading, MeterError>),
    ) {
        if !self.is_due(MonoTime::now()) {
            return;
        }
        let before = std::mem::replace(&mut self.suspended, suspended());
        let asleep = self.suspended.saturating_sub(before);
        let result = meter.read().and_then(|reading| awake(reading, asleep));
        log_change(meter, self.note(MonoTime::now(), period, &result), &result);
        on_reading(meter.info(), result);
    }

    /// Returns how soon to read a meter again that is learning how it behaves; `None` for others, and for one that fails.
    fn learning_pace(&self, meter: &dyn Meter) -> Option<Duration> {
        meter.learning_pace().filter(|_| self.is_due(MonoTime::now()))
    }

    fn is_due(&self, now: MonoTime) -> bool {
        self.failing.as_ref().is_none_or(|failure| now >= failure.retry_at)
    }

    fn note(&mut self, now: MonoTime, period: Duration, result: &Result<Reading, MeterError>) -> Change {
        match (result, self.failing.take()) {
            (Ok(_), None) => Change::None,
            (Ok(_), Some(_)) => Change::Recovered,
            // It works; whether a failure has ended is told with the first reading.
            (Err(MeterError::NotYet { .. }), before) => {
                self.failing = before.map(|failure| Failure { retry_at: now, ..failure });
                Change::None
            }
            (Err(error), before) => {
                let kind = discriminant(error);
                // A meter that only lost its baseline, or whose range is too small now, works: it is due at the next tick.
                let pause = match (&before, error) {
                    (_, MeterError::Rebaselined { .. } | MeterError::Overrange { .. }) => Duration::ZERO,
                    (None, _) => period,
                    (Some(failure), _) => (failure.pause * 2).clamp(period, RETRY_MAX.max(period)),
                };
                let change =
                    if before.is_some_and(|failure| failure.kind == kind) { Change::None } else { Change::Failed };
                self.failing = Some(Failure { kind, retry_at: now + pause, pause });
                change
            }
        }
    }
}

fn log_change(meter: &dyn Meter, change: Change, result: &Result<Reading, MeterError>) {
    let info = meter.info();
    match (change, result) {
        (Change::Failed, Err(error @ MeterError::Rebaselined { .. })) => tracing::info!(meter = info.name, "{error}"),
        (Change::Failed, Err(error)) => tracing::warn!(meter = info.name, kind = info.kind, "no reading: {error}"),
        (Change::Recovered, _) => tracing::info!(meter = info.name, kind = info.kind, "readings are back"),
        _ => {}
    }
}

/// Returns the reading, or an error if the machine was suspended since the last one.
fn awake(reading: Reading, asleep: Duration) -> Result<Reading, MeterError> {
    if asleep < SUSPEND_MIN {
        return Ok(reading);
    }
    Err(MeterError::Rebaselined { reason: format!("the machine was suspended for {:.1} s", asleep.as_secs_f64()) })
}

/// Returns the time spent suspended since boot, which only `CLOCK_BOOTTIME` counts.
fn suspended() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(|boot| Duration::from(boot).saturating_sub(Duration::from_nanos(MonoTime::now().0)))
        .unwrap_or_default()
}

/// Spreads the readings over their periods, so that they never fall in step with inferences at a steady pace.
struct Jitter(u64);

impl Jitter {
    /// Returns a random time in the period that starts at `deadline`, uniformly distributed (splitmix64).
    fn within(&mut self, deadline: MonoTime, period: Duration) -> MonoTime {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        deadline + period.mul_f64(mixed as f64 / u64::MAX as f64)
    }
}

/// The first moment after `now` on the grid of `deadline` plus whole periods: missed ticks are skipped, the pace is kept.
fn next_deadline(deadline: MonoTime, period: Duration, now: MonoTime) -> MonoTime {
    let period_ns = duration_ns(period).max(1);
    let periods = duration_ns(now.since(deadline)) / period_ns + 1;
    MonoTime(deadline.0.saturating_add(periods.saturating_mul(period_ns)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::meter::estimate::Estimate;
    use crate::meter::powercap::Powercap;
    use crate::meter::tree::Tree;
    use crate::meter::{Accuracy, Resolution, Scale};
    use crate::sys::cpu::Children;
    use crate::units::{Joules, Watts};

    const PERIOD: Duration = Duration::from_millis(100);

    fn ms(ms: u64) -> MonoTime {
        MonoTime(ms * 1_000_000)
    }

    fn reading() -> Reading {
        let scope = crate::meter::Scope::Board;
        let accuracy = Accuracy { resolution: Resolution::Model { idle: None }, scale: Scale::UNKNOWN };
        Reading { time: ms(0), joules: Joules(0.0), power: None, volts: None, amperes: None, scope, accuracy }
    }

    fn failed() -> Result<Reading, MeterError> {
        Err(MeterError::Denied { path: "/sys/x".into(), fix: String::new() })
    }

    #[test]
    fn deadlines_keep_the_grid_and_skip_what_was_missed() {
        assert_eq!(next_deadline(ms(1000), PERIOD, ms(1000)), ms(1100));
        assert_eq!(next_deadline(ms(1000), PERIOD, ms(1040)), ms(1100));
        assert_eq!(next_deadline(ms(1000), PERIOD, ms(1100)), ms(1200));
        assert_eq!(next_deadline(ms(1000), PERIOD, ms(1777)), ms(1800));
        assert_eq!(next_deadline(ms(1000), PERIOD, ms(900)), ms(1100));
    }

    #[test]
    fn readings_spread_over_the_whole_period() {
        let mut jitter = Jitter(7);
        let mut tenths = [0; 10];
        for _ in 0..1000 {
            let late = jitter.within(ms(500), PERIOD).since(ms(500));
            assert!(late <= PERIOD);
            tenths[(late.as_nanos() * 10 / (PERIOD.as_nanos() + 1)) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (60..140).contains(count)), "{tenths:?}");
    }

    #[test]
    fn a_failing_meter_is_retried_ever_more_slowly_and_named_once() {
        let mut state = State::default();
        let (mut now, mut tries, mut changes) = (ms(0), Vec::new(), Vec::new());
        while now < ms(120_000) {
            if state.is_due(now) {
                tries.push(now.0 / 1_000_000);
                changes.push(state.note(now, PERIOD, &failed()));
            }
            now = now + PERIOD;
        }
        assert_eq!(tries, [0, 100, 300, 700, 1500, 3100, 6300, 12700, 25500, 51100, 81100, 111_100]);
        assert_eq!(changes.iter().filter(|change| **change != Change::None).count(), 1);
        assert_eq!(state.note(now, PERIOD, &Ok(reading())), Change::Recovered);
        assert_eq!(state.note(now, PERIOD, &Ok(reading())), Change::None);
        assert!(state.is_due(now));
        state.note(now, PERIOD, &failed());
        assert!(state.is_due(now + PERIOD), "the pause starts small again");
    }

    #[test]
    fn a_new_kind_of_failure_is_named_again() {
        let mut state = State::default();
        assert_eq!(state.note(ms(0), PERIOD, &failed()), Change::Failed);
        let lost = Err(MeterError::Rebaselined { reason: String::new() });
        assert_eq!(state.note(ms(100), PERIOD, &lost), Change::Failed);
        assert!(state.is_due(ms(101)), "only its base is lost");
    }

    #[test]
    fn a_meter_that_learns_is_no_failure() {
        let mut state = State::default();
        let not_yet = || Err(MeterError::NotYet { reason: "learning" });
        assert_eq!(state.note(ms(0), PERIOD, &not_yet()), Change::None);
        assert!(state.is_due(ms(0)));
        assert_eq!(state.note(ms(1), PERIOD, &Ok(reading())), Change::None);
        state.note(ms(100), PERIOD, &failed());
        assert!(!state.is_due(ms(101)));
        assert_eq!(state.note(ms(300), PERIOD, &not_yet()), Change::None);
        assert!(state.is_due(ms(300)), "it is back, and read at the pace that it asks for");
        assert_eq!(state.note(ms(301), PERIOD, &Ok(reading())), Change::Recovered);
    }

    #[test]
    fn a_suspend_loses_the_energy_across_it() {
        assert_eq!(awake(reading(), Duration::from_millis(1)).unwrap(), reading());
        let error = awake(reading(), Duration::from_secs(90)).unwrap_err();
        assert!(error.to_string().contains("suspended for 90.0 s"), "{error}");
    }

    #[test]
    fn all_meters_are_read_on_one_grid_until_the_stop() {
        let tree = Tree::new(&[]);
        let stop = Stop::new().unwrap();
        let mut meters: Vec<Box<dyn Meter>> = vec![
            Box::new(Estimate::new("model", Watts(1.0), Watts(1.0), Children::default())),
            Box::new(Powercap::new("package", tree.root())),
        ];
        let (mut model, mut absent) = (Vec::new(), 0);
        run(&mut meters, Duration::from_millis(2), &stop, |index, _, result| {
            match (index, result) {
                (0, result) => model.push(result.unwrap().time),
                (1, Err(MeterError::Absent { .. })) => absent += 1,
                other => panic!("{other:?}"),
            }
            if model.len() == 5 {
                stop.request();
            }
        })
        .unwrap();
        assert_eq!(model.len(), 6, "all are read once more after the stop");
        assert!((1..6).contains(&absent), "what is absent is tried more slowly: {absent}");
        assert!(model.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn a_long_wait_hears_the_stop() {
        let stop = Arc::new(Stop::new().unwrap());
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut meters: Vec<Box<dyn Meter>> =
                    vec![Box::new(Estimate::new("model", Watts(1.0), Watts(1.0), Children::default()))];
                run(&mut meters, Duration::from_secs(3600), &stop, |_, _, _| sender.send(()).unwrap())
            }
        });
        receiver.recv_timeout(Duration::from_secs(30)).unwrap();
        let begun = MonoTime::now();
        stop.request();
        thread.join().unwrap().unwrap();
        assert!(MonoTime::now().since(begun) < Duration::from_secs(60));
    }
}
