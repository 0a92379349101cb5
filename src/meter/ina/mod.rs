//! A chip of the INA family as a meter, read directly over `/dev/i2c-N`, for boards whose kernel has no driver for it.
//!
//! Owns what these chips have in common: which driver has the chip, its identity, its configuration, which is written, read back
//! and verified regularly, which conversions are new, and what can be a measurement. Leaves registers, ranges and errors to the
//! chip's own file (`chip` says what that has), transfers to `bus`. Power is voltage times current, computed here.

mod accumulator;
mod bus;
mod chip;
mod identity;
pub(super) mod keys;
#[cfg(test)]
pub(super) mod tests;
mod timing;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::EBUSY;

use super::integral::{Counted, Integral};
use super::shunt::{self, Flow};
use super::snapshots::{Seen, Snapshots};
use super::{Accuracy, Meter, MeterError, MeterInfo, Reading, Resolution, Scope, Surroundings, midpoint};
use crate::sys::i2c::{BUS_FIX, I2c, RULE};
use crate::sys::permission::permit;
use crate::text::counted;
use crate::units::{Joules, MonoTime};
use accumulator::Accumulator;

pub(super) use bus::{Bus, Place, Register, Registers};
pub(super) use chip::{Chip, CounterPlan, Errors, Fault, Identity, Look, Model, Plan, Sample, Setting};
pub(super) use keys::ChipKeys;
pub(super) use timing::{AVERAGES, SLOWEST, Timing};

/// How often to verify the configuration, which a drop of the supply voltage resets.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// The chip is stuck if it completes no conversion for this long and for this many cycles.
const STUCK_AFTER: Duration = Duration::from_secs(1);
const STUCK_CYCLES: u32 = 3;

/// Energy of what flows through the chip's shunt.
pub(super) struct Ina {
    info: MeterInfo,
    chip: Box<dyn Chip>,
    place: Place,
    /// The channel that is read, of a chip that has several.
    channel: Option<u8>,
    /// The link in sysfs to the driver that uses the chip.
    driver: PathBuf,
    /// Between two reads.
    period: Duration,
    open: Option<Open>,
    power: Integral,
    counted: Accumulator,
    /// Number of retried transfers since the start.
    retries: u64,
}

struct Open {
    registers: Box<dyn Registers>,
    plan: Plan,
    snapshots: Snapshots,
    verified: MonoTime,
    /// When a completed conversion was last found, or when the chip was configured.
    converted: MonoTime,
    /// Whether a conversion was completed since the chip was configured, so that the registers hold its result.
    is_measuring: bool,
    /// When the registers were last read, and the reading of the newest conversion.
    looked: MonoTime,
    last: Option<Reading>,
}

impl fmt::Debug for Ina {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ina").field("info", &self.info).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Ina {
    /// Creates a meter on `chip`, which the first read looks for; `scope` is what the supply with the shunt feeds.
    pub(super) fn new(
        name: &str,
        chip: Box<dyn Chip>,
        place: Place,
        scope: Scope,
        surroundings: &Surroundings,
    ) -> Self {
        let info = MeterInfo {
            name: name.to_owned(),
            kind: chip.model().kind,
            scope,
            estimated: false,
            detail: Vec::new(),
            basis: chip.shunt_ohms().map(shunt::basis).unwrap_or_default(),
        };
        let period = surroundings.period;
        Self {
            info,
            chip,
            place,
            channel: None,
            driver: surroundings.sysfs.join("bus/i2c/devices").join(place.device()).join("driver"),
            period,
            open: None,
            power: Integral::new(period),
            counted: Accumulator::default(),
            retries: 0,
        }
    }

    /// Names the channel of the chip that this meter reads, if the chip has several.
    pub(super) fn channel(self, channel: Option<u8>) -> Self {
        Self { channel, ..self }
    }

    fn read_with(
        &mut self,
        open: impl FnOnce(&Path, u16) -> io::Result<Box<dyn Registers>>,
        mut clock: impl FnMut() -> MonoTime,
    ) -> Result<Reading, MeterError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                self.interrupt();
                self.configure(open, clock())?
            }
        };
        // A chip that fails is dropped here and configured again: one that lost its supply has lost its configuration.
        self.verify(&mut open, clock())?;
        let mut bus = Bus { registers: open.registers.as_mut(), place: self.place, retries: &mut self.retries };
        let look = self.chip.look(&mut bus)?;
        let before = clock();
        let sample = self.chip.sample(&mut bus)?;
        let time = midpoint(before, clock());
        let result = self.evaluate(&mut open, look, &sample, time);
        if result.is_err() {
            // The power until the next conversion is unknown.
            open.last = None;
            self.interrupt();
        }
        // A chip without a measurement stays open: configured again, a stuck chip would look like a good one.
        self.open = Some(open);
        result
    }

    /// Makes the next values a new start.
    fn interrupt(&mut self) {
        self.power.interrupt();
        self.counted.interrupt();
    }

    /// Returns the reading that follows from what was read at `time`.
    fn evaluate(
        &mut self,
        open: &mut Open,
        look: Look,
        sample: &Sample,
        time: MonoTime,
    ) -> Result<Reading, MeterError> {
        let since = time.since(std::mem::replace(&mut open.looked, time));
        if look.has_converted {
            open.converted = time;
            open.is_measuring = true;
        }
        self.measured(open, time)?;
        let flow =
            self.judge(&open.plan, look.fault, sample, time).inspect_err(|error| self.power.refuse(time, error))?;
        // The register holds the mean of a conversion that ended within the last cycle and since the last read.
        let seen = match look.has_converted.then(|| open.snapshots.converted(time, sample.raw)) {
            Some(Seen::New { .. }) => Seen::New { late: open.plan.cycle.min(since) },
            Some(seen) => seen,
            None => Seen::Repeat,
        };
        let Open { plan, .. } = open;
        let place = || (self.place.register(self.chip.current()).display().to_string(), plan.show(sample));
        let sampled = self.power.count((time, flow.watts), (seen, plan.cycle), self.period, place)?;
        let (time, joules, power, resolution) = if let Some((counter, value)) = plan.counter.zip(sample.counter) {
            let (joules, power) = self.counted.add(&counter, time, value)?;
            let quantum = Joules(counter.joules_a_step);
            (time, joules, power, Resolution::Counter { update: counter.update, quantum })
        } else {
            // The same conversion must not count as a second snapshot.
            let Some(Counted { time, joules, power }) = sampled else {
                return open.last.ok_or(MeterError::NotYet { reason: "the chip shows the same value again" });
            };
            let quantum = flow.quantum(plan.step_amperes, plan.step_volts);
            (time, joules, Some(power), Resolution::Sampled { conversion: plan.cycle, quantum })
        };
        let accuracy = Accuracy { resolution, scale: plan.errors.scale(flow.volts) };
        let (volts, amperes, scope) = (Some(flow.volts), Some(flow.amperes), self.info.scope);
        let reading = Reading { time, joules, power, volts, amperes, scope, accuracy };
        open.last = Some(reading);
        Ok(reading)
    }

    /// Opens the chip and configures it.
    fn configure(
        &mut self,
        open: impl FnOnce(&Path, u16) -> io::Result<Box<dyn Registers>>,
        now: MonoTime,
    ) -> Result<Open, MeterError> {
        if let Ok(driver) = std::fs::read_link(&self.driver) {
            return Err(self.taken(Some(&name_of(&driver))));
        }
        let path = self.place.path();
        let mut registers = open(&path, self.place.address).map_err(|error| self.not_opened(error))?;
        let plan = self.chip.plan(self.period);
        let mut bus = Bus { registers: registers.as_mut(), place: self.place, retries: &mut self.retries };
        identity::check(self.chip.model(), &mut bus)?;
        for Setting { register, word, .. } in &plan.settings {
            bus.write(*register, *word)?;
        }
        verify(&plan, &mut bus, "what was written; another chip is at this address, or the bus lines are disturbed")?;
        // Discard a conversion that ended under an earlier configuration.
        self.chip.look(&mut bus)?;
        // Reading times are moved back by up to a cycle, which must not look like a gap.
        self.power.expect_every(self.period.max(plan.cycle));
        self.info.detail = self.describe(&plan);
        Ok(Open {
            registers,
            snapshots: Snapshots::new(Some(plan.cycle), Duration::ZERO),
            plan,
            verified: now,
            converted: now,
            is_measuring: false,
            looked: MonoTime::default(),
            last: None,
        })
    }

    fn describe(&self, plan: &Plan) -> Vec<String> {
        let (Place { address, .. }, name) = (self.place, self.chip.model().name);
        let channel = self.channel.map(|channel| format!(", channel {channel}")).unwrap_or_default();
        let word = plan.settings.last().map_or(0, |setting| setting.word);
        let shunt = plan.shunt_ohms.map(|ohms| format!("shunt {ohms} Ohm, ")).unwrap_or_default();
        let mut lines = vec![
            format!("{name} at {address:#04x} on {}{channel}, configuration {word:#06x}", self.place.path().display()),
            format!(
                "{shunt}up to {:.3} A; {}, measures {:.0} % of the time at up to {:.0} Hz",
                plan.end_amperes,
                counted(plan.averages, "average"),
                plan.seen * 100.0,
                1.0 / plan.cycle.as_secs_f64()
            ),
        ];
        lines.extend(plan.counter.map(|counter| {
            let (update_ms, step_mj) = (counter.update.as_secs_f64() * 1e3, Joules(counter.joules_a_step).in_mj());
            format!("energy is the chip's own count, every {update_ms:.1} ms in steps of {step_mj} mJ")
        }));
        lines
    }

    fn verify(&mut self, open: &mut Open, now: MonoTime) -> Result<(), MeterError> {
        if now.since(open.verified) < VERIFY_EVERY {
            return Ok(());
        }
        open.verified = now;
        let mut bus = Bus { registers: open.registers.as_mut(), place: self.place, retries: &mut self.retries };
        verify(
            &open.plan,
            &mut bus,
            "what was written; the chip was reset, or another program writes to it; it will be configured again",
        )
    }

    /// Checks that the registers hold a measurement under this configuration, and not too old a one.
    fn measured(&self, open: &Open, now: MonoTime) -> Result<(), MeterError> {
        let still = now.since(open.converted);
        if still >= STUCK_AFTER.max(open.plan.cycle * STUCK_CYCLES) {
            let (flag, register) = self.chip.model().ready;
            return Err(MeterError::Stuck {
                path: self.place.register(register),
                seconds: still.as_secs_f64(),
                fix: format!(
                    "the chip completes no conversion ({flag}); check its supply, and that no other program uses it"
                ),
            });
        }
        if !open.is_measuring {
            return Err(MeterError::Rebaselined {
                reason: "the chip was just configured and has not measured since".to_owned(),
            });
        }
        Ok(())
    }

    /// Returns the flow, or an error if the registers do not hold a valid measurement.
    fn judge(&self, plan: &Plan, fault: Option<Fault>, sample: &Sample, now: MonoTime) -> Result<Flow, MeterError> {
        if let Some(Fault { register, flag, expected }) = fault {
            return Err(MeterError::Invalid { path: self.place.register(register), text: flag.to_owned(), expected });
        }
        let invalid = |expected| MeterError::Invalid { path: self.current(), text: plan.show(sample), expected };
        if plan.is_at_end(sample) {
            let (place, expected) = (self.current(), self.chip.model().below_end);
            return Err(MeterError::overrange(place.display(), &plan.show(sample), expected, now));
        }
        Flow::new(sample.amperes, sample.volts, &plan.limits()).map_err(invalid)
    }

    /// Returns the chip and the register of the current, for an error.
    fn current(&self) -> PathBuf {
        self.place.register(self.chip.current())
    }

    fn not_opened(&self, error: io::Error) -> MeterError {
        let path = self.place.path();
        match error.kind() {
            io::ErrorKind::NotFound => {
                MeterError::Absent { path, reason: "no such bus".to_owned(), fix: BUS_FIX.to_owned() }
            }
            io::ErrorKind::PermissionDenied => {
                let fix = permit(&path, RULE);
                MeterError::Denied { path, fix }
            }
            _ if error.raw_os_error() == Some(EBUSY) => self.taken(None),
            _ => MeterError::Failed { path, source: error },
        }
    }

    fn taken(&self, by: Option<&str>) -> MeterError {
        let (device, Model { kind, has_iio, .. }) = (self.place.device(), self.chip.model());
        let channel = self.channel.map(|channel| format!(", channel = {channel}")).unwrap_or_default();
        let hwmon = format!("hwmon = {{ chip = \"{kind}\", device = \"{device}\"{channel} }}");
        let ohms = self.chip.shunt_ohms().filter(|_| *has_iio);
        let iio = ohms.map(|ohms| format!("iio = {{ chip = \"{kind}\", device = \"{device}\", shunt_ohms = {ohms} }}"));
        let meter = match (by, iio) {
            (Some("ina2xx"), _) | (_, None) => hwmon,
            (Some("ina2xx_adc"), Some(iio)) => iio,
            (_, Some(iio)) => format!("{hwmon}, or with the driver ina2xx_adc: {iio}"),
        };
        let by = by.map_or_else(|| "a kernel driver".to_owned(), |name| format!("the kernel's driver {name}"));
        MeterError::Taken {
            path: self.driver.clone(),
            reason: format!("{by} uses the chip"),
            fix: format!("read it through the kernel: {meter}"),
        }
    }
}

/// Checks that the registers hold the configuration.
fn verify(plan: &Plan, bus: &mut Bus<'_>, expected: &'static str) -> Result<(), MeterError> {
    for Setting { register, word, .. } in plan.settings.iter().filter(|setting| setting.is_verified) {
        let found = bus.word(*register)?;
        if found != *word {
            let text = format!("{found:#06x}, not {word:#06x}");
            return Err(MeterError::Invalid { path: bus.place.register(*register), text, expected });
        }
    }
    Ok(())
}

/// Returns the last part of a link's target.
fn name_of(target: &Path) -> String {
    target.file_name().map_or_else(|| target.display().to_string(), |name| name.to_string_lossy().into_owned())
}

impl Meter for Ina {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        let open = |path: &Path, address| Ok(Box::new(I2c::open(path, address)?) as Box<dyn Registers>);
        self.read_with(open, MonoTime::now)
    }
}
