//! A meter whose errors of scale the configuration states, and whose power it corrects: by a comparison with a better meter,
//! and by the efficiency of a supply between the meter and the load.
//!
//! Owns what `gain_error`, `offset_error_w`, `reference` and `efficiency` of a meter do to its readings, whatever its kind.
//! Runs on the meter thread.

use std::time::Duration;

use super::efficiency::Efficiency;
use super::{Meter, MeterError, MeterInfo, Reading};
use crate::units::{Joules, MonoTime, Watts};

/// What the configuration says of a meter's accuracy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Corrections {
    /// By how much the gain may be off, as a fraction; `None`: the meter's own figure counts.
    pub gain_error: Option<f64>,
    /// By how many watts every power may be off; `None`: the meter's own figure counts.
    pub offset_error_w: Option<f64>,
    pub reference: Option<Comparison>,
    /// Of a supply behind the meter, whose errors and comparison are those of the meter itself.
    pub efficiency: Option<Efficiency>,
}

/// What a comparison with a better meter has found: the true power is `gain` times what the meter shows, plus `offset`.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    pub gain: f64,
    pub offset: Watts,
    /// With what and when it was compared.
    pub note: String,
}

/// A meter with corrected readings.
pub struct Corrected {
    meter: Box<dyn Meter>,
    corrections: Corrections,
    /// What the meter says of itself, and that with the corrections.
    own: MeterInfo,
    info: MeterInfo,
    /// The time of the first reading, from which on the offset counts.
    since: Option<MonoTime>,
}

impl Corrected {
    /// Returns the meter with its corrections; the meter itself if there are none.
    pub fn of(meter: Box<dyn Meter>, corrections: Corrections) -> Box<dyn Meter> {
        if corrections == Corrections::default() {
            return meter;
        }
        let info = meter.info().clone();
        // Another one than the meter's, so that the first one is taken over.
        let own = MeterInfo { kind: "", ..info.clone() };
        let mut corrected = Self { meter, corrections, own, info, since: None };
        corrected.renew_info();
        Box::new(corrected)
    }

    /// Takes over what the meter says of itself, and adds the comparison.
    fn renew_info(&mut self) {
        if self.own == *self.meter.info() {
            return;
        }
        self.own.clone_from(self.meter.info());
        self.info.clone_from(&self.own);
        let Corrections { reference, efficiency, .. } = &self.corrections;
        if let Some(reference) = reference {
            self.info.detail.push(reference.describe());
            self.info.basis.push(reference.formula());
        }
        if let Some(efficiency) = efficiency {
            self.info.detail.push(efficiency.describe());
            self.info.basis.push(format!("efficiency {}", efficiency.factor));
        }
    }
}

impl Comparison {
    fn formula(&self) -> String {
        let Self { gain, offset: Watts(offset_w), .. } = self;
        format!("{gain} x power {offset_w:+} W")
    }

    fn describe(&self) -> String {
        format!("corrected by {}: compared with {}", self.formula(), self.note)
    }

    fn watts(&self, watts: Watts) -> Watts {
        Watts(self.gain * watts.0 + self.offset.0)
    }

    /// Returns the energy of the time since the first reading.
    fn joules(&self, joules: Joules, since: Duration) -> Joules {
        Joules(self.gain * joules.0) + self.offset.over(since)
    }
}

impl Meter for Corrected {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn read(&mut self) -> Result<Reading, MeterError> {
        let result = self.meter.read();
        self.renew_info();
        let mut reading = result?;
        let since = *self.since.get_or_insert(reading.time);
        if let Some(reference) = &self.corrections.reference {
            reading.joules = reference.joules(reading.joules, reading.time.since(since));
            reading.power = reading.power.map(|power| reference.watts(power));
        }
        let scale = &mut reading.accuracy.scale;
        scale.gain_error = self.corrections.gain_error.or(scale.gain_error);
        scale.offset_w = self.corrections.offset_error_w.unwrap_or(scale.offset_w);
        Ok(self.corrections.efficiency.map_or(reading, |efficiency| efficiency.at_load(reading)))
    }

    fn learning_pace(&self) -> Option<Duration> {
        self.meter.learning_pace()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::hwmon::{Hwmon, HwmonKeys};
    use crate::meter::tree::Tree;
    use crate::meter::{Scale, Scope};

    fn hwmon(tree: &Tree) -> Box<dyn Meter> {
        let keys = HwmonKeys { chip: "ina219".into(), device: None, channel: None, label: None, scope: Scope::Board };
        Box::new(Hwmon::new("board", tree.root(), keys, Duration::from_millis(100)))
    }

    fn tree() -> Tree {
        Tree::new(&[("class/hwmon/hwmon0/name", "ina219\n"), ("class/hwmon/hwmon0/power1_input", "3000000\n")])
    }

    #[test]
    fn a_comparison_corrects_power_and_energy_and_is_named() {
        let tree = tree();
        let reference = Comparison { gain: 1.1, offset: Watts(-0.3), note: "bench supply, 2026-11-30".to_owned() };
        let corrections = Corrections {
            gain_error: Some(0.002),
            offset_error_w: Some(0.01),
            reference: Some(reference),
            efficiency: None,
        };
        let mut meter = Corrected::of(hwmon(&tree), corrections);
        let first = meter.read().unwrap();
        assert!((first.power.unwrap().0 - 3.0).abs() < 1e-9, "1.1 x 3 W - 0.3 W: {first:?}");
        assert_eq!(first.accuracy.scale, Scale { gain_error: Some(0.002), offset_w: 0.01 });
        let mut last = first;
        while last.time <= first.time {
            last = meter.read().unwrap();
        }
        let time_s = last.time.since(first.time).as_secs_f64();
        assert!(((last.joules - first.joules).0 - 3.0 * time_s).abs() < 1e-9 + 1e-3 * time_s, "{first:?} {last:?}");
        assert_eq!(meter.info().basis, ["1.1 x power -0.3 W"]);
        let detail = meter.info().detail.join("; ");
        assert!(detail.contains("corrected by 1.1 x power -0.3 W: compared with bench supply, 2026-11-30"), "{detail}");
    }

    #[test]
    fn the_efficiency_comes_after_the_corrections_of_the_meter() {
        let tree = tree();
        let reference = Comparison { gain: 2.0, offset: Watts(0.0), note: "bench supply, 2026-11-30".to_owned() };
        let efficiency = Efficiency::of(Some(0.5), Some(0.05));
        let corrections =
            Corrections { gain_error: Some(0.01), offset_error_w: Some(0.2), reference: Some(reference), efficiency };
        let mut meter = Corrected::of(hwmon(&tree), corrections);
        let reading = meter.read().unwrap();
        assert!((reading.power.unwrap().0 - 3.0).abs() < 1e-9, "half of 2 x 3 W: {reading:?}");
        let Scale { gain_error, offset_w } = reading.accuracy.scale;
        assert!((gain_error.unwrap() - 0.06).abs() < 1e-12 && (offset_w - 0.1).abs() < 1e-12, "{reading:?}");
        assert_eq!(meter.info().basis, ["2 x power +0 W", "efficiency 0.5"]);
        assert!(
            meter
                .info()
                .detail
                .join("; ")
                .ends_with("times the supply's efficiency, 0.5 with an error of up to 0.05 of it")
        );
    }

    #[test]
    fn what_is_not_stated_stays_as_the_meter_says() {
        let tree = tree();
        let own = hwmon(&tree).read().unwrap().accuracy.scale;
        let corrections = Corrections { offset_error_w: Some(0.02), ..Corrections::default() };
        let scale = Corrected::of(hwmon(&tree), corrections).read().unwrap().accuracy.scale;
        assert_eq!(scale, Scale { offset_w: 0.02, ..own });
    }
}
