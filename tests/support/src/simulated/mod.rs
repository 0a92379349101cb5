//! A machine whose power is known, for the real binary: what it draws follows from what truly ran, and its meter shows
//! it with the faults of a real one, at the moment of each read.
//!
//! `tests/rigs/simulated_machine.rs` answers the binary's reads with it from inside the binary's process. The same
//! [`power::Ledger`] then tells the truth of any time.

pub mod activity;
pub mod meter;
pub mod power;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use activity::Activity;
use meter::{Held, Meter};
use power::{Ledger, Power};

/// The variable of the environment that names the file with the [`Description`], in JSON.
pub const DESCRIPTION: &str = "EDGEWATT_SIMULATED_MACHINE";

/// What there is to know about a simulated machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The file of [`Activity`].
    pub activity: PathBuf,
    /// The folder in place of `/sys`.
    pub sysfs: PathBuf,
    pub power: Power,
    pub meter: Meter,
}

/// A file whose content depends on the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Microjoules.
    Energy = 1,
    /// Microwatts.
    Power,
    /// Milliamperes.
    Current,
    /// Processor time, as in `/proc/stat`.
    Stat,
}

impl Shown {
    pub const ALL: [Self; 4] = [Self::Energy, Self::Power, Self::Current, Self::Stat];

    /// Returns what a file of that name in sysfs shows, if that depends on the time.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "energy_uj" | "energy1_input" => Some(Self::Energy),
            "power1_input" | "power1_average" => Some(Self::Power),
            "curr1_input" => Some(Self::Current),
            _ => None,
        }
    }
}

/// The machine as a process sees it.
#[derive(Debug)]
pub struct Machine {
    activity: Activity,
    meter: Meter,
    ledger: Ledger,
    held: Held,
}

impl Machine {
    /// # Errors
    /// The file of activity cannot be mapped.
    pub fn new(description: &Description) -> io::Result<Self> {
        let activity = Activity::open(&description.activity)?;
        let ledger = Ledger::new(description.power.clone(), &activity);
        Ok(Self { activity, meter: description.meter.clone(), ledger, held: Held::default() })
    }

    /// # Errors
    /// The file is not a description, or its file of activity cannot be mapped.
    pub fn open(description: &Path) -> io::Result<(Description, Self)> {
        let description: Description = serde_json::from_slice(&std::fs::read(description)?)?;
        let machine = Self::new(&description)?;
        Ok((description, machine))
    }

    /// Returns the text of a file at `now`; `own_cpu_s` is the processor time of the reader and its children.
    pub fn text(&mut self, shown: Shown, now: u64, own_cpu_s: f64) -> String {
        self.ledger.update(&self.activity);
        if shown == Shown::Stat {
            // Whole ticks of 10 ms (`USER_HZ`, proc_stat(5)).
            let ticks = (100.0 * (own_cpu_s + self.ledger.programs.before(now).busy_s)) as u64;
            return format!("cpu  {ticks} 0 0 {} 0 0 0 0 0 0\n", now / 10_000_000);
        }
        if shown != Shown::Current {
            self.activity.note_read(now);
        }
        let number = match &self.meter {
            Meter::Counter(counter) => counter.shown_uj(&self.ledger, now),
            Meter::Sensor(sensor) => {
                let watts = sensor.shown_w(&self.ledger, now, &mut self.held);
                if shown == Shown::Current { (1e3 * watts / sensor.volts) as u64 } else { (1e6 * watts).round() as u64 }
            }
        };
        format!("{number}\n")
    }
}
