//! The classes of scenarios: what they have in common, and what is to be true of their figures.

/// What distinguishes a class of scenarios; what is not here is drawn again in each.
#[derive(Debug)]
pub(crate) struct Class {
    pub name: &'static str,
    pub meter: Meter,
    /// The length of an inference, shortest and longest.
    pub inference_s: (f64, f64),
    pub duty: (f64, f64),
    pub trouble: Trouble,
    pub pipelines: usize,
    /// By how much the gain may be off, as the meter says; it is compared with what is true then.
    pub gain_error: Option<f64>,
    pub claim: Claim,
}

/// What is to be true of a class's figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Claim {
    /// Many are `measured`, and their uncertainty is true: the truth is inside in 93 % to this many per cent. Without
    /// `has_net` they seldom have net energy: the meter seldom sees power at rest for long enough.
    Measured { inside_max: f64, has_net: bool },
    /// Those that are `measured`, however few, are as true.
    TrueIfMeasured,
    /// They are `attributed`.
    Attributed,
}

/// What a tail may go on unseen, and how uneven a cut inference is, is in the uncertainty, and seldom in the error.
const MEASURED: Claim = Claim::Measured { inside_max: 99.5, has_net: true };
const SELDOM_AT_REST: Claim = Claim::Measured { inside_max: 99.5, has_net: false };
/// U has a part that is seldom in the error, for a reason that docs/energy.md names.
const CAUTIOUS: Claim = Claim::Measured { inside_max: 100.0, has_net: true };
const ALWAYS_BUSY: Claim = Claim::Measured { inside_max: 100.0, has_net: false };

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Meter {
    /// RAPL: a counter with a period of 1 ms and jitter, in units of 61 uJ.
    Counter,
    /// An INA219 in its usual setting, as the kernel's drivers show it: 532 us of every 1064 are seen.
    Snapshots { hz: f64 },
    /// `ina219`, which tells whether a conversion is new; the current is seen for so long in each.
    Ina219 { hz: f64, seen_s: f64 },
    /// 68 ms conversions by `iio`, which does not tell whether one is new.
    LongConversions,
    /// A counter that is refreshed slowly, in steps of 61 uJ; readings are given at changes only.
    SlowCounter { refresh_s: f64 },
    /// A counter refreshed each millisecond, in large steps; readings are given at changes only.
    CoarseCounter { step_j: f64 },
    /// The mean over `seen_s`, refreshed more often or as often; it gives one reading for each mean.
    Average { seen_s: f64, refresh_s: f64 },
    /// A snapshot that is taken once in a while, and shown until the next one.
    Cached { refresh_s: f64 },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Trouble {
    None,
    /// Idle power drifts by per cents.
    Drift,
    /// The counter wraps again and again, and its range is known.
    Wraps,
    /// Readings are missing for a while, sometimes for so long that the energy is unknown.
    Gaps,
    /// The machine sleeps now and then.
    Suspends,
    /// Other programs are busy half of the time.
    Others,
    /// Another program works for 10 to 50 ms before each sample, in the quiet start as well.
    Producer,
    /// Another program works for 10 ms once a second.
    OnceASecond,
    /// A fifth of the added power lasts after an inference.
    Tail {
        length_s: f64,
    },
    /// Idle power rises by 5 to 30 % when the load starts, without processor time.
    StepWithLoad,
    /// Idle power rises by 10 % at some time.
    StepAnyTime,
    /// A warm chip draws more: 2 to 10 % of the added power, 1 to 60 s late.
    Leak,
    /// The halves of an inference differ in power.
    Phases,
    /// An inference takes 20 times as long now and then.
    SlowOnes,
}

impl Trouble {
    /// What goes wrong with the meter and its readings, not with the machine.
    pub(crate) fn is_of_the_meter(self) -> bool {
        matches!(self, Self::Wraps | Self::Gaps | Self::Suspends)
    }
}

impl Class {
    /// A counter goes on counting while it is not read, and its wraps are understood.
    pub(crate) fn loses_nothing(&self) -> bool {
        self.meter == Meter::Counter
    }
}

const PLAIN: Class = Class {
    name: "",
    meter: Meter::Counter,
    inference_s: (1e-3, 20e-3),
    duty: (1e-3, 1.0),
    trouble: Trouble::None,
    pipelines: 1,
    gain_error: None,
    claim: MEASURED,
};
const SHORT: (f64, f64) = (3e-6, 100e-6);
const MIDDLE: (f64, f64) = (0.3e-3, 20e-3);
const LONG: (f64, f64) = (20e-3, 200e-3);
const ANY: (f64, f64) = (3e-6, 200e-3);
/// A pause of 0.1 to 20 s after each inference.
const PAUSES: Class = Class { inference_s: (2e-3, 20e-3), duty: (1e-3, 2e-2), ..PLAIN };
/// Less than a second to many seconds between inferences.
const RARE: Class = Class { inference_s: MIDDLE, duty: (1e-3, 2e-2), ..PLAIN };
const TAIL: Class = Class { claim: MEASURED, ..RARE };
/// What an INA219 takes for 128 averages of the shunt's voltage.
pub(crate) const AVERAGED_S: f64 = 68.1e-3;
/// The default: 128 averages fit between two readings.
const DEFAULT: Meter = Meter::Ina219 { hz: 10.0, seen_s: AVERAGED_S };
const FAST: Meter = Meter::Ina219 { hz: 230.0, seen_s: 2.13e-3 };

pub(crate) const CLASSES: &[Class] = &[
    Class { name: "counter, 3-100 us", inference_s: SHORT, claim: SELDOM_AT_REST, ..PLAIN },
    Class { name: "counter, 0.3-20 ms", inference_s: MIDDLE, ..PLAIN },
    Class { name: "counter, 20-200 ms", inference_s: LONG, ..PLAIN },
    Class { name: "counter, always busy", inference_s: ANY, duty: (1.0, 1.0), claim: ALWAYS_BUSY, ..PLAIN },
    Class {
        name: "100 Hz, 3-100 us",
        meter: Meter::Snapshots { hz: 100.0 },
        inference_s: SHORT,
        claim: SELDOM_AT_REST,
        ..PLAIN
    },
    Class { name: "100 Hz, 0.3-20 ms", meter: Meter::Snapshots { hz: 100.0 }, inference_s: MIDDLE, ..PLAIN },
    Class { name: "100 Hz, 20-200 ms", meter: Meter::Snapshots { hz: 100.0 }, inference_s: LONG, ..PLAIN },
    Class {
        name: "100 Hz, always busy",
        meter: Meter::Snapshots { hz: 100.0 },
        inference_s: ANY,
        duty: (1.0, 1.0),
        claim: SELDOM_AT_REST,
        ..PLAIN
    },
    Class { name: "230 Hz, 3-100 us", meter: FAST, inference_s: SHORT, claim: SELDOM_AT_REST, ..PLAIN },
    Class { name: "230 Hz, 0.3-20 ms", meter: FAST, inference_s: MIDDLE, ..PLAIN },
    Class { name: "230 Hz, 20-200 ms", meter: FAST, inference_s: LONG, ..PLAIN },
    Class {
        name: "10 Hz snapshots, any length",
        meter: Meter::Snapshots { hz: 10.0 },
        inference_s: ANY,
        claim: SELDOM_AT_REST,
        ..PLAIN
    },
    Class { name: "default ina219, 3-100 us", meter: DEFAULT, inference_s: SHORT, claim: SELDOM_AT_REST, ..PLAIN },
    Class { name: "default ina219, 0.3-20 ms", meter: DEFAULT, inference_s: MIDDLE, claim: SELDOM_AT_REST, ..PLAIN },
    Class { name: "default ina219, 20-200 ms", meter: DEFAULT, inference_s: LONG, claim: SELDOM_AT_REST, ..PLAIN },
    Class {
        name: "iio, 68 ms conversions",
        meter: Meter::LongConversions,
        inference_s: ANY,
        claim: SELDOM_AT_REST,
        ..PLAIN
    },
    Class { name: "counter, gain off by 2 %", gain_error: Some(0.02), claim: CAUTIOUS, ..PLAIN },
    Class {
        name: "100 Hz, gain off by 2 %",
        meter: Meter::Snapshots { hz: 100.0 },
        gain_error: Some(0.02),
        claim: CAUTIOUS,
        ..PLAIN
    },
    Class { name: "counter, idle drifts", inference_s: ANY, trouble: Trouble::Drift, ..PLAIN },
    Class {
        name: "100 Hz, idle drifts",
        meter: Meter::Snapshots { hz: 100.0 },
        inference_s: ANY,
        trouble: Trouble::Drift,
        ..PLAIN
    },
    Class { name: "counter wraps", inference_s: ANY, trouble: Trouble::Wraps, ..PLAIN },
    Class { name: "counter, gaps", inference_s: ANY, trouble: Trouble::Gaps, ..PLAIN },
    Class {
        name: "100 Hz, gaps",
        meter: Meter::Snapshots { hz: 100.0 },
        inference_s: ANY,
        trouble: Trouble::Gaps,
        ..PLAIN
    },
    Class {
        name: "100 Hz, suspends",
        meter: Meter::Snapshots { hz: 100.0 },
        inference_s: ANY,
        trouble: Trouble::Suspends,
        ..PLAIN
    },
    Class {
        name: "default ina219, gaps",
        meter: DEFAULT,
        inference_s: ANY,
        trouble: Trouble::Gaps,
        claim: SELDOM_AT_REST,
        ..PLAIN
    },
    Class {
        name: "counter, two pipelines",
        inference_s: MIDDLE,
        duty: (1e-2, 0.4),
        pipelines: 2,
        claim: Claim::Attributed,
        ..PLAIN
    },
    Class { name: "counter of 100 ms", meter: Meter::SlowCounter { refresh_s: 0.1 }, inference_s: ANY, ..PLAIN },
    Class { name: "counter of 1 s", meter: Meter::SlowCounter { refresh_s: 1.0 }, inference_s: ANY, ..PLAIN },
    Class {
        name: "counter in 10 mJ",
        meter: Meter::CoarseCounter { step_j: 0.01 },
        inference_s: ANY,
        claim: CAUTIOUS,
        ..PLAIN
    },
    Class {
        name: "counter in 1 J",
        meter: Meter::CoarseCounter { step_j: 1.0 },
        inference_s: ANY,
        claim: Claim::TrueIfMeasured,
        ..PLAIN
    },
    Class {
        name: "average over 1 s",
        meter: Meter::Average { seen_s: 1.0, refresh_s: 0.05 },
        inference_s: ANY,
        claim: Claim::TrueIfMeasured,
        ..PLAIN
    },
    Class {
        name: "snapshot cached for 1 s",
        meter: Meter::Cached { refresh_s: 1.0 },
        inference_s: ANY,
        claim: Claim::TrueIfMeasured,
        ..PLAIN
    },
    Class {
        name: "INA226, 140 ms averages",
        meter: Meter::Average { seen_s: 0.14, refresh_s: 0.14 },
        inference_s: ANY,
        claim: Claim::TrueIfMeasured,
        ..PLAIN
    },
    Class { name: "counter, producer in step", trouble: Trouble::Producer, claim: Claim::TrueIfMeasured, ..RARE },
    Class {
        name: "100 Hz, producer in step",
        meter: Meter::Snapshots { hz: 100.0 },
        trouble: Trouble::Producer,
        claim: Claim::TrueIfMeasured,
        ..RARE
    },
    Class {
        name: "counter, 10 ms once a second",
        inference_s: MIDDLE,
        trouble: Trouble::OnceASecond,
        claim: Claim::TrueIfMeasured,
        ..PLAIN
    },
    Class { name: "counter, tail of 50 ms", trouble: Trouble::Tail { length_s: 0.05 }, ..TAIL },
    Class { name: "counter, tail of 100 ms", trouble: Trouble::Tail { length_s: 0.1 }, ..TAIL },
    Class { name: "counter, tail of 200 ms", trouble: Trouble::Tail { length_s: 0.2 }, ..TAIL },
    Class {
        name: "counter, tail of 500 ms",
        trouble: Trouble::Tail { length_s: 0.5 },
        claim: Claim::TrueIfMeasured,
        ..TAIL
    },
    Class {
        name: "counter, tail of 2 s",
        trouble: Trouble::Tail { length_s: 2.0 },
        claim: Claim::TrueIfMeasured,
        ..TAIL
    },
    Class {
        name: "counter, idle steps with the load",
        trouble: Trouble::StepWithLoad,
        claim: Claim::TrueIfMeasured,
        ..PAUSES
    },
    Class {
        name: "counter, idle steps at any time",
        trouble: Trouble::StepAnyTime,
        claim: Claim::TrueIfMeasured,
        ..PAUSES
    },
    Class {
        name: "counter, leakage back to back",
        inference_s: ANY,
        duty: (0.9, 1.0),
        trouble: Trouble::Leak,
        claim: Claim::TrueIfMeasured,
        ..PLAIN
    },
    Class { name: "counter, phases", inference_s: LONG, duty: (0.05, 1.0), trouble: Trouble::Phases, ..PLAIN },
    Class { name: "counter, a slow one", inference_s: MIDDLE, duty: (1e-2, 0.3), trouble: Trouble::SlowOnes, ..PLAIN },
    Class {
        name: "counter, other programs",
        inference_s: MIDDLE,
        trouble: Trouble::Others,
        claim: Claim::Attributed,
        ..PLAIN
    },
];
