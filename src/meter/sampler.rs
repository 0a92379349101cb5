//! The meter thread: reads every meter at a steady pace.
//!
//! Owns deadlines, retries and the log lines of a failing meter; leaves the readings to its caller. An absent or failing
//! meter is retried with growing pauses, and only changes of its state are logged. What comes and goes is logged at growing
//! intervals.

use std::io;
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::{Meter, MeterError, MeterInfo, Reading};
use crate::source::log_limit::LogLimit;
use crate::stop::{Stop, Waited};
use crate::units::{MonoTime, duration_ns};

/// The longest pause between two tries of a failing meter.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The shortest period, which also keeps a period of zero from spinning.
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// The shortest and the longest pause between two log lines about a meter that fails again and again.
const LOG_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// So many lines are logged without a pause.
const LOG_BURST: u32 = 12;
/// After so many pauses without a line, and this time, the next change is logged at once, and the count starts again.
const CALM_PAUSES: u32 = 4;
const CALM_MIN: Duration = Duration::from_secs(40);

/// A shorter suspend may only be the delay between reading two clocks.
const SUSPEND_MIN: Duration = Duration::from_millis(100);

/// Reads all `meters` every `period` until `stop` is requested, and then once more.
///
/// `on_reading` gets the meter's index, and what the meter says of itself now. A meter that is still learning how it behaves is
/// read at the pace that it asks for. The energy of a meter across a suspend is unknown and reported as
/// [`MeterError::Rebaselined`]; readings whose value may be from before the suspend are none. Runs on the calling thread.
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
    let new = || State { suspended: suspended(), ..State::default() };
    let mut states: Vec<State> = std::iter::repeat_with(new).take(meters.len()).collect();
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
    /// When a suspend was noticed, until there is a value that is certainly newer.
    resumed: Option<MonoTime>,
    log: ChangeLog,
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
        let result = meter.read();
        // A suspend during the reading is noticed, too.
        let result = self.awake(MonoTime::now(), suspended(), result);
        let now = MonoTime::now();
        let change = self.note(now, period, &result);
        let failure = self.failing.as_ref().map(|failure| failure.kind);
        if !matches!(result, Err(MeterError::NotYet { .. }))
            && let Some(changes) = self.log.due(now, change, failure)
        {
            log_change(meter, changes, &result);
        }
        on_reading(meter.info(), result);
    }

    /// Returns how soon to read a meter again that is learning how it behaves; `None` for others, and for one that fails.
    fn learning_pace(&self, meter: &dyn Meter) -> Option<Duration> {
        meter.learning_pace().filter(|_| self.is_due(MonoTime::now()))
    }

    fn is_due(&self, now: MonoTime) -> bool {
        self.failing.as_ref().is_none_or(|failure| now >= failure.retry_at)
    }

    /// Returns the result of a reading that ended at `now`, with the machine `suspended` for that long since boot. The first
    /// one after a suspend is an error. After that, it is an error as long as the value may be from before the suspend: a slow
    /// counter or sensor still shows it, and its next value has the energy of the suspend.
    fn awake(
        &mut self,
        now: MonoTime,
        suspended: Duration,
        result: Result<Reading, MeterError>,
    ) -> Result<Reading, MeterError> {
        let asleep = suspended.saturating_sub(std::mem::replace(&mut self.suspended, suspended));
        let is_resumed = asleep >= SUSPEND_MIN;
        if is_resumed {
            self.resumed = Some(now);
        }
        let reading = result?;
        if is_resumed {
            let reason = format!("the machine was suspended for {:.1} s", asleep.as_secs_f64());
            return Err(MeterError::Rebaselined { reason });
        }
        if self.resumed.is_some_and(|resumed| reading.time < resumed + reading.accuracy.resolution.look_back()) {
            return Err(MeterError::NotYet { reason: "the meter's value may be from before the suspend" });
        }
        self.resumed = None;
        Ok(reading)
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

/// What the log says of a meter. What comes and goes is logged at growing intervals, with the number of changes.
#[derive(Debug, Default)]
struct ChangeLog {
    limit: LogLimit,
    /// Between the last line and the next one.
    pause: Duration,
    /// The failure that the last line is about; `None` before the first line, and after one that says that readings are back.
    logged: Option<Discriminant<MeterError>>,
    /// Lines since the last calm.
    lines: u32,
    /// Changes since the last line.
    changes: u32,
}

impl ChangeLog {
    /// Notes a change, and returns the number of changes since the last line if it is time for a line about `failure`.
    fn due(&mut self, now: MonoTime, change: Change, failure: Option<Discriminant<MeterError>>) -> Option<u32> {
        self.changes = self.changes.saturating_add(u32::from(change != Change::None));
        if self.logged == failure {
            return None;
        }
        let is_calm = self.limit.allows_each((self.pause * CALM_PAUSES).max(CALM_MIN), now);
        if !is_calm && !self.limit.allows_each(self.pause, now) {
            return None;
        }
        self.lines = if is_calm { 1 } else { self.lines.saturating_add(1) };
        let is_burst = self.lines < LOG_BURST;
        self.pause = if is_burst { Duration::ZERO } else { (self.pause * 2).clamp(LOG_PAUSE.0, LOG_PAUSE.1) };
        self.logged = failure;
        Some(std::mem::take(&mut self.changes))
    }
}

/// Logs the result of a meter whose state has changed `changes` times since the last line about it.
fn log_change(meter: &dyn Meter, changes: u32, result: &Result<Reading, MeterError>) {
    let (info, warning) =
        (meter.info(), matches!(result, Err(error) if !matches!(error, MeterError::Rebaselined { .. })));
    let says = match result {
        Err(error @ MeterError::Rebaselined { .. }) => error.to_string(),
        Err(error) => format!("no reading: {error}"),
        Ok(_) => "readings are back".to_owned(),
    };
    let again = if changes > 1 { format!("; {changes} changes since the last line about it") } else { String::new() };
    if warning {
        tracing::warn!(meter = info.name, kind = info.kind, "{says}{again}");
    } else {
        tracing::info!(meter = info.name, kind = info.kind, "{says}{again}");
    }
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
    use crate::meter::counter::Counter;
    use crate::meter::estimate::Estimate;
    use crate::meter::powercap::Powercap;
    use crate::meter::total::Total;
    use crate::meter::tree::Tree;
    use crate::meter::{Accuracy, Resolution, Scale, Scope};
    use crate::sys::cpu::Children;
    use crate::units::{Joules, Watts};

    const PERIOD: Duration = Duration::from_millis(100);

    fn ms(ms: u64) -> MonoTime {
        MonoTime(ms * 1_000_000)
    }

    fn reading() -> Reading {
        let scope = Scope::Board;
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
    fn a_failure_that_comes_and_goes_is_logged_ever_more_rarely_with_the_number_of_changes() {
        let mut log = ChangeLog::default();
        let kind = failed().as_ref().err().map(discriminant);
        let change = |failure| if failure == kind { Change::Failed } else { Change::Recovered };
        let mut lines: Vec<(u64, u32)> = Vec::new();
        // It fails and comes back, each for 2.5 s.
        for tick in 0..400u64 {
            let failure = kind.filter(|_| tick % 2 == 0);
            lines.extend(
                log.due(ms(tick * 2500), change(failure), failure).map(|changes| (tick * 2500 / 1000, changes)),
            );
        }
        assert_eq!(lines[..3], [(0, 1), (2, 1), (5, 1)], "the first ones at once");
        assert!((14..28).contains(&lines.len()), "{lines:?}");
        // The last line is about the state that stays.
        let is_told = log.logged == kind;
        let told = (400..700u64).filter_map(|tick| log.due(ms(tick * 2500), Change::None, kind)).count();
        assert_eq!((told, log.logged), (usize::from(!is_told), kind));
        assert!(log.due(ms(100_000_000), Change::Recovered, None).is_some(), "after a long calm at once");
    }

    /// A counter of 1 W that is refreshed each second and read each 100 ms; the machine sleeps for an hour.
    #[test]
    fn the_energy_of_a_suspend_gets_into_no_reading_however_slow_the_counter_is() {
        for noticed_ms in (10_000..11_000).step_by(100) {
            let (mut state, mut counter, mut total) = (State::default(), Counter::hwmon(), Total::default());
            let (mut before, mut joules): (Option<Reading>, f64) = (None, 0.0);
            for now in (0..20_000u64).step_by(100) {
                let is_resumed = now >= noticed_ms;
                // Its refreshes go on while the processor sleeps, at another time of each second.
                let refreshed_s = if is_resumed { (now + 437) / 1000 + 3600 } else { now / 1000 };
                // The driver repeats its old value until its next refresh.
                let is_old = is_resumed && now < noticed_ms + 700;
                let uj = if is_old { noticed_ms / 1000 } else { refreshed_s } * 1_000_000;
                let read = total.read(ms(now), Scope::Board, std::iter::once((&mut counter, uj)));
                let read = read.map_err(|reason| reason.error(|_| String::new()));
                let asleep = if is_resumed { Duration::from_secs(3600) } else { Duration::ZERO };
                let read = state.awake(ms(now), asleep, read);
                if now == noticed_ms {
                    assert!(read.as_ref().unwrap_err().to_string().contains("suspended for 3600.0 s"), "{read:?}");
                }
                let reading = read.ok();
                joules += before.zip(reading).map_or(0.0, |(before, reading)| (reading.joules - before.joules).0);
                before = reading;
            }
            assert!((12.0..17.0).contains(&joules), "{joules} J, noticed at {noticed_ms} ms");
        }
    }

    #[test]
    fn a_suspend_loses_the_energy_across_it() {
        let mut state = State::default();
        let at = |now| Ok(Reading { time: now, ..reading() });
        assert!(state.awake(ms(100), Duration::from_millis(1), at(ms(100))).is_ok());
        let asleep = Duration::from_secs(90);
        let error = state.awake(ms(200), asleep, at(ms(199))).unwrap_err();
        assert!(error.to_string().contains("suspended for 90.0 s"), "{error}");
        assert!(matches!(state.awake(ms(300), asleep, at(ms(199))), Err(MeterError::NotYet { .. })), "an old reading");
        assert!(state.awake(ms(400), asleep, at(ms(400))).is_ok());
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
