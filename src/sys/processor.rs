//! The processor's clock and what slows it down, as far as the kernel tells: they change the energy of an inference.
//!
//! Owns the files below `/sys` that tell them, and what changed between two looks. Runs on the thread of the daemon, once for
//! each message of metrics. Sources: `Documentation/cpu-freq/cpufreq-stats.rst`, `Documentation/admin-guide/pm/cpufreq.rst`,
//! `arch/x86/kernel/cpu/mce/therm_throt.c`; the Raspberry Pi's flags: its documentation of `vcgencmd get_throttled`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::folder::{names, text};

/// Bits of `get_throttled`: what is so now. The same bits, 16 places higher, say that it has been so.
const FLAGS: [(u32, &str); 4] = [
    (0, "the supply's voltage is too low"),
    (1, "the clock is limited"),
    (2, "the processor is throttled"),
    (3, "the soft limit of temperature is reached"),
];
const SINCE_SHIFT: u32 = 16;
/// Counters of how often an x86 processor was too hot.
const HOT_COUNTERS: [&str; 2] = ["core_throttle_count", "package_throttle_count"];
const HOT: &str = "the processor was too hot";

/// Reads the processor's conditions.
#[derive(Debug)]
pub struct Processor {
    policies: Vec<Policy>,
    clock_max_mhz: Option<f64>,
    /// The file with the Raspberry Pi's flags.
    flags: Option<PathBuf>,
    flags_before: u32,
    hot_counters: Vec<PathBuf>,
    hot_before: u64,
}

/// Processors that share one clock.
#[derive(Debug)]
struct Policy {
    folder: PathBuf,
    processors: f64,
    /// Ticks spent at each clock in kHz since boot, when last looked.
    before: BTreeMap<u64, u64>,
}

/// How the processor ran since the last look. `None`: the kernel does not tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// The mean clock of all processors, in MHz; the clock at this moment if the kernel keeps no record.
    pub clock_mhz: Option<f64>,
    /// The highest clock that any processor can have, in MHz.
    pub clock_max_mhz: Option<f64>,
    /// What slowed the processor down, in words; empty if nothing did.
    pub throttled: Option<Vec<&'static str>>,
}

impl Processor {
    /// Finds the files below `sysfs`, usually `/sys`. The first look counts from here on.
    pub fn find(sysfs: &Path) -> Self {
        let below = |folder: PathBuf| names(&folder).into_iter().map(move |name| folder.join(name));
        let policies: Vec<Policy> = below(sysfs.join("devices/system/cpu/cpufreq")).filter_map(Policy::at).collect();
        let highest = policies.iter().filter_map(|policy| policy.number("cpuinfo_max_freq")).fold(0.0, f64::max);
        let clock_max_mhz = (highest > 0.0).then_some(highest / 1e3);
        // Such as `soc:firmware` in `soc`, or in `soc@107c000000`.
        let platforms = below(sysfs.join("devices/platform")).flat_map(below);
        let flags = platforms.map(|device| device.join("get_throttled")).find(|file| file.is_file());
        let processors = below(sysfs.join("devices/system/cpu"));
        let counters = processors.flat_map(|cpu| HOT_COUNTERS.map(|file| cpu.join("thermal_throttle").join(file)));
        let hot_counters = counters.filter(|file| file.is_file()).collect();
        let mut found = Self { policies, clock_max_mhz, flags, flags_before: 0, hot_counters, hot_before: 0 };
        found.look();
        found
    }

    /// Returns how the processor ran since the last call.
    pub fn look(&mut self) -> Conditions {
        let processors: f64 = self.policies.iter().map(|policy| policy.processors).sum();
        let clocks: Option<f64> =
            self.policies.iter_mut().map(|policy| Some(policy.mean_khz()? * policy.processors)).sum();
        Conditions {
            clock_mhz: clocks.filter(|_| processors > 0.0).map(|khz| khz / processors / 1e3),
            clock_max_mhz: self.clock_max_mhz,
            throttled: self.throttled(),
        }
    }

    fn throttled(&mut self) -> Option<Vec<&'static str>> {
        let flags = self.flags.as_deref().and_then(text).and_then(|flags| flags_of(&flags));
        let mut found = Vec::new();
        if let Some(flags) = flags {
            let new = flags >> SINCE_SHIFT & !(self.flags_before >> SINCE_SHIFT);
            let is_set = |bit: &u32| (flags | new) >> bit & 1 == 1;
            found.extend(FLAGS.iter().filter(|(bit, _)| is_set(bit)).map(|(_, words)| *words));
            self.flags_before = flags;
        }
        let counts: Vec<u64> = self.hot_counters.iter().filter_map(|file| text(file)?.parse::<u64>().ok()).collect();
        let hot: u64 = counts.iter().fold(0, |sum, count| sum.saturating_add(*count));
        if hot > std::mem::replace(&mut self.hot_before, hot) {
            found.push(HOT);
        }
        (flags.is_some() || !counts.is_empty()).then_some(found)
    }
}

/// Returns the flags from their text, which is hexadecimal with or without `0x`.
fn flags_of(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

impl Policy {
    fn at(folder: PathBuf) -> Option<Self> {
        let processors = text(&folder.join("affected_cpus"))?.split_whitespace().count();
        Some(Self { folder, processors: processors as f64, before: BTreeMap::new() })
    }

    fn number(&self, file: &str) -> Option<f64> {
        text(&self.folder.join(file))?.parse().ok()
    }

    /// Returns the mean clock in kHz since the last call; the clock at this moment if the kernel keeps no record, or if no tick
    /// has passed.
    fn mean_khz(&mut self) -> Option<f64> {
        let now = text(&self.folder.join("stats/time_in_state")).and_then(|text| times_of(&text)).unwrap_or_default();
        let passed = |(khz, ticks): (&u64, &u64)| {
            (*khz as f64, ticks.saturating_sub(self.before.get(khz).copied().unwrap_or(0)) as f64)
        };
        let (ticks, sum) =
            now.iter().map(passed).fold((0.0, 0.0), |(all, sum), (khz, ticks)| (all + ticks, sum + khz * ticks));
        self.before = now;
        if ticks > 0.0 { Some(sum / ticks) } else { self.number("scaling_cur_freq") }
    }
}

/// Returns the ticks at each clock from lines such as `1500000 4711`.
fn times_of(text: &str) -> Option<BTreeMap<u64, u64>> {
    let pair = |line: &str| {
        let (khz, ticks) = line.split_once(' ')?;
        Some((khz.parse().ok()?, ticks.trim().parse().ok()?))
    };
    text.lines().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::tree::Tree;

    const POLICY: &str = "devices/system/cpu/cpufreq/policy0";
    const FLAG_FILE: &str = "devices/platform/soc/soc:firmware/get_throttled";
    const HOT_FILE: &str = "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count";

    #[test]
    fn what_the_kernel_does_not_tell_is_unknown() {
        assert_eq!(Processor::find(Tree::new(&[]).root()).look(), Conditions::default());
    }

    #[test]
    fn the_clock_is_the_mean_since_the_last_look() {
        let tree = Tree::new(&[]);
        tree.write(&format!("{POLICY}/affected_cpus"), "0 1 2 3\n");
        tree.write(&format!("{POLICY}/cpuinfo_max_freq"), "1800000\n");
        tree.write(&format!("{POLICY}/scaling_cur_freq"), "700000\n");
        let times = |low: u64, high: u64| {
            tree.write(&format!("{POLICY}/stats/time_in_state"), &format!("600000 {low}\n1800000 {high}\n"));
        };
        times(1_000_000, 5);
        let mut processor = Processor::find(tree.root());
        times(1_000_300, 105);
        let look = processor.look();
        assert_eq!((look.clock_mhz, look.clock_max_mhz), (Some(900.0), Some(1800.0)));
        assert_eq!(processor.look().clock_mhz, Some(700.0), "no tick has passed");
        tree.remove(&format!("{POLICY}/stats"));
        assert_eq!(processor.look().clock_mhz, Some(700.0), "no record is kept");
    }

    #[test]
    fn clocks_of_several_policies_count_by_their_processors() {
        let tree = Tree::new(&[]);
        for (policy, processors, khz) in [("policy0", "0 1 2", "1000000"), ("policy3", "3", "2000000")] {
            tree.write(&format!("devices/system/cpu/cpufreq/{policy}/affected_cpus"), processors);
            tree.write(&format!("devices/system/cpu/cpufreq/{policy}/scaling_cur_freq"), khz);
        }
        assert_eq!(Processor::find(tree.root()).look().clock_mhz, Some(1250.0));
    }

    #[test]
    fn flags_tell_what_is_so_now_and_what_has_been_so_since_the_last_look() {
        let tree = Tree::new(&[(FLAG_FILE, "50000\n")]);
        let mut processor = Processor::find(tree.root());
        assert_eq!(processor.look().throttled, Some(vec![]), "that was before the start");
        tree.write(FLAG_FILE, "0x70002\n");
        let slow = vec!["the clock is limited"];
        assert_eq!(processor.look().throttled, Some(slow.clone()), "now, and since");
        tree.write(FLAG_FILE, "f0000\n");
        assert_eq!(processor.look().throttled, Some(vec!["the soft limit of temperature is reached"]));
        tree.write(FLAG_FILE, "no number\n");
        assert_eq!(processor.look().throttled, None);
    }

    #[test]
    fn a_counter_that_rises_tells_that_it_was_too_hot() {
        let tree = Tree::new(&[(HOT_FILE, "17\n")]);
        let mut processor = Processor::find(tree.root());
        assert_eq!(processor.look().throttled, Some(vec![]));
        tree.write(HOT_FILE, "18\n");
        assert_eq!(processor.look().throttled, Some(vec![HOT]));
        assert_eq!(processor.look().throttled, Some(vec![]));
    }
}
