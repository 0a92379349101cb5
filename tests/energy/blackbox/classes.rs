//! The kinds of machine and meter that are tried.

use edgewatt_support::simulated::meter::{Counter, Meter, Sensor};
use edgewatt_support::simulated::power::Power;

/// What distinguishes one kind from another.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub name: &'static str,
    pub power: Power,
    pub meter: Meter,
    pub driver: Driver,
    pub sample_ms: u64,
    /// An inference takes so long, more or less by up to a fifth.
    pub inference_s: f64,
    pub rate_hz: f64,
    /// A program works so long before it writes a sample, also before the load begins.
    pub program_s: f64,
    /// It is in the short form.
    pub in_short_form: bool,
    /// `edgewatt calibrate` is tried on it.
    pub is_calibrated: bool,
}

/// What the kernel shows next to the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// `intel_rapl_common.c`
    Rapl,
    /// `ina2xx.c` with an INA219.
    Ina219,
    /// `ina2xx.c` with an INA226, which has `update_interval`.
    Ina226,
    /// `acpi_power_meter.c`, with a mean over a second.
    PowerMeter,
    /// A chip with power alone.
    Plain,
    /// A chip with a counter of energy.
    Energy,
}

impl Driver {
    /// Returns the files with their contents. What is in those of values is not read, but their length is.
    pub(crate) fn files(self) -> Vec<(&'static str, &'static str)> {
        const VALUE: &str = "                                                               0\n";
        match self {
            Self::Rapl => vec![
                ("class/powercap/intel-rapl:0/name", "package-0\n"),
                ("class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n"),
                ("class/powercap/intel-rapl:0/energy_uj", VALUE),
            ],
            Self::Ina219 | Self::Ina226 => {
                let mut files = vec![
                    ("class/hwmon/hwmon0/in1_input", "5000\n"),
                    ("class/hwmon/hwmon0/curr1_input", VALUE),
                    ("class/hwmon/hwmon0/power1_input", VALUE),
                    ("class/hwmon/hwmon0/shunt_resistor", "100000\n"),
                ];
                if self == Self::Ina219 {
                    files.push(("class/hwmon/hwmon0/name", "ina219\n"));
                } else {
                    files.push(("class/hwmon/hwmon0/name", "ina226\n"));
                    files.push(("class/hwmon/hwmon0/update_interval", "140\n"));
                }
                files
            }
            Self::PowerMeter => vec![
                ("class/hwmon/hwmon0/name", "power_meter\n"),
                ("class/hwmon/hwmon0/power1_average", VALUE),
                ("class/hwmon/hwmon0/power1_average_interval", "1000\n"),
            ],
            Self::Plain => {
                vec![("class/hwmon/hwmon0/name", "lm25066\n"), ("class/hwmon/hwmon0/power1_input", VALUE)]
            }
            Self::Energy => {
                vec![("class/hwmon/hwmon0/name", "ltc2947\n"), ("class/hwmon/hwmon0/energy1_input", VALUE)]
            }
        }
    }

    /// Returns the meter's line of configuration.
    pub(crate) fn config(self) -> &'static str {
        match self {
            Self::Rapl => "rapl = { interface = \"powercap\" }",
            Self::Ina219 => "hwmon = { chip = \"ina219\" }",
            Self::Ina226 => "hwmon = { chip = \"ina226\" }",
            Self::PowerMeter => "hwmon = { chip = \"power_meter\" }",
            Self::Plain => "hwmon = { chip = \"lm25066\" }",
            Self::Energy => "hwmon = { chip = \"ltc2947\" }",
        }
    }
}

/// A machine of 3 W that takes 6 W while an inference runs, for 20 ms eight times a second.
fn class(name: &'static str, driver: Driver, meter: Meter) -> Class {
    Class {
        name,
        power: Power { idle_w: 3.0, inference_w: 3.0, ..Power::default() },
        sample_ms: if matches!(meter, Meter::Counter(_)) { 100 } else { 10 },
        meter,
        driver,
        inference_s: 0.02,
        rate_hz: 8.0,
        program_s: 0.0,
        in_short_form: false,
        is_calibrated: false,
    }
}

fn rapl(name: &'static str, counter: Counter) -> Class {
    class(name, Driver::Rapl, Meter::Counter(counter))
}

fn ina219(name: &'static str, sensor: Sensor) -> Class {
    class(name, Driver::Ina219, Meter::Sensor(sensor))
}

/// A counter as the processors have it, in a machine that draws what `power` says.
fn machine(name: &'static str, power: Power) -> Class {
    Class { power: Power { idle_w: 3.0, inference_w: 3.0, ..power }, ..rapl(name, Counter::default()) }
}

/// A program that uses a core for `program_s` before each sample. An inference takes 30 mJ.
fn program(name: &'static str, program_s: f64, rate_hz: f64) -> Class {
    let power = Power { program_w: 0.9, ..Power::default() };
    Class { program_s, rate_hz, inference_s: 0.01, ..machine(name, power) }
}

/// With few inferences, so that windows rarely begin or end in one. On a machine that is busy, the daemon's view of
/// when an inference ran may differ from the delegate's by milliseconds, and so the part of it that is in the window.
fn in_short_form(class: Class) -> Class {
    let rate_hz = if matches!(class.meter, Meter::Counter(_)) { 2.0 } else { class.rate_hz };
    Class { in_short_form: true, rate_hz, ..class }
}

fn calibrated(class: Class) -> Class {
    Class { is_calibrated: true, ..class }
}

/// Returns every class. Those in the short form are known to hold.
pub(crate) fn all() -> Vec<Class> {
    [counters(), sensors(), machines()].concat()
}

fn counters() -> Vec<Class> {
    let counter = Counter::default;
    vec![
        calibrated(rapl("counter, 1 ms", counter())),
        in_short_form(rapl("counter, 1 ms, few inferences", counter())),
        calibrated(rapl("counter, 100 ms", Counter { refresh_s: 0.1, ..counter() })),
        // QEMU's thread of the virtual RAPL sleeps for a second (target/i386/kvm/vmsr_energy.c).
        in_short_form(calibrated(rapl("counter, 1 s (virtual RAPL)", Counter { refresh_s: 1.0, ..counter() }))),
        in_short_form(rapl("counter, steps of 10 mJ", Counter { step_j: 0.01, ..counter() })),
        // Sapphire Rapids counts the platform in joules (intel_rapl_common.c, `psys_domain_energy_unit`).
        in_short_form(rapl("counter, steps of 1 J", Counter { step_j: 1.0, ..counter() })),
        class("energy1_input, 300 ms", Driver::Energy, Meter::Counter(Counter { refresh_s: 0.3, ..counter() })),
        rapl("counter that stalls for 0.5 s", Counter { stalls_s: vec![(4.0, 4.5), (9.0, 9.5)], ..counter() }),
        in_short_form(rapl("counter that wraps", Counter { start_j: 262_143.328_85 - 60.0, ..counter() })),
        in_short_form(rapl(
            "counter that starts at 0 near its end",
            Counter { start_j: 262_143.328_85 - 1000.0, reset_s: Some(6.0), ..counter() },
        )),
        rapl("counter, 2 % too much", Counter { gain: 1.02, ..counter() }),
    ]
}

fn sensors() -> Vec<Class> {
    let sensor = Sensor::default;
    let held = Sensor { held_s: 1.0, ..sensor() };
    let ina226 = Sensor { mean_s: 0.1408, cycle_s: 0.1408, ..sensor() };
    let mean = Sensor { mean_s: 1.0, cycle_s: 0.05, step_w: 0.001, ..sensor() };
    let plain = |name, sensor| class(name, Driver::Plain, Meter::Sensor(sensor));
    vec![
        in_short_form(calibrated(ina219("INA219", sensor()))),
        calibrated(class("INA226, 64 averages", Driver::Ina226, Meter::Sensor(ina226))),
        in_short_form(calibrated(class("power1_average, 1 s", Driver::PowerMeter, Meter::Sensor(mean)))),
        in_short_form(calibrated(plain("sensor that a driver keeps for 1 s", held))),
        in_short_form(ina219("INA219 at the end of its range", Sensor { most_w: Some(4.0), ..sensor() })),
        in_short_form(ina219("INA219 that shows one value for 6 s", Sensor { frozen_s: Some((3.0, 9.0)), ..sensor() })),
        in_short_form(plain("sensor that shows 0xffffffff mW", Sensor { fixed_w: Some(4_294_967.295), ..sensor() })),
        calibrated(ina219("INA219, 2 % too much", Sensor { gain: 1.02, ..sensor() })),
    ]
}

fn machines() -> Vec<Class> {
    let power = Power::default;
    vec![
        calibrated(machine("tail of 200 ms", Power { tail_w: 0.6, tail_s: 0.2, ..power() })),
        Class { rate_hz: 0.3, ..machine("tail of 2 s", Power { tail_w: 0.6, tail_s: 2.0, ..power() }) },
        calibrated(machine("tail of 1 s, longer than the pauses", Power { tail_w: 0.6, tail_s: 1.0, ..power() })),
        machine("idle power that steps with the load", Power { step_w: 0.3, ..power() }),
        in_short_form(machine("idle power that steps later", Power { step_w: 0.3, step_s: 5.0, ..power() })),
        Class { rate_hz: 60.0, ..machine("back to back, idle power that steps", Power { step_w: 0.3, ..power() }) },
        in_short_form(program("a program in step, 50 ms, twice a second", 0.05, 2.0)),
        Class { in_short_form: true, ..program("a program in step, 10 ms, once a second", 0.01, 1.0) },
    ]
}
