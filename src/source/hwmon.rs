//! Temperatures, fans, voltages, currents and power that the kernel shows in hwmon, polled.
//!
//! Units and names of files: `Documentation/hwmon/sysfs-interface.rst`.

use std::path::{Path, PathBuf};

use super::polling::{Missed, poll};
use super::session::{DEVICE_RETRY, keep_open};
use super::{Buffer, FrameProducer, FrameSink, OpenOptions, SourceError, SourceKind, Survey, WhenFull};
use crate::schema::{Checker, Key, table};
use crate::stream::{Content, SampleType, Shape, StreamSpec};
use crate::sys::Machine;
use crate::sys::attribute::Attribute;
use crate::sys::folder::{names, text};
use crate::sys::hwmon::{Chip, chips};

/// What a chip can measure: how its files are called, the unit, and what the kernel's numbers are multiplied with to get it.
const KINDS: [(&str, &str, f64); 9] = [
    ("temp", "C", 1e-3),
    ("fan", "RPM", 1.0),
    ("in", "V", 1e-3),
    ("curr", "A", 1e-3),
    ("power", "W", 1e-6),
    ("energy", "J", 1e-6),
    ("humidity", "%", 1e-3),
    ("freq", "Hz", 1.0),
    ("pwm", "", 1.0),
];

table! {
    /// Reads temperatures, fans, voltages, currents and power that the kernel shows in hwmon. The values are in degrees
    /// Celsius, revolutions per minute, V, A, W, J or %.
    pub struct Hwmon {
        /// The name that the driver gives the chip, for the channels that name none; `edgewatt doctor sensors` lists them.
        pub chip: Option<String>, otherwise("each channel names its chip"), example("\"cpu_thermal\"");
        /// The channels that make a sample, in this order, by number or by label: "temp1", "fan1", "in0", "Tctl". Another
        /// chip stands before a slash, "coretemp/temp1", if several have that name with its device: "ina219@1-0040/in1".
        pub channels: Vec<String>, example("[\"cpu_thermal/temp1\"]");
        /// The number of samples per second. Many chips measure once or twice in a second.
        pub rate_hz: f64, range(0.001, 1000.0), unit("Hz"), example("1.0");
        /// The buffer between the source and the pipeline.
        pub buffer: Buffer;
    }
}

/// A channel as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ChannelName<'a> {
    chip: &'a str,
    device: Option<&'a str>,
    /// Its number, such as `temp1`, or its label.
    channel: &'a str,
}

impl<'a> ChannelName<'a> {
    fn parse(name: &'a str, chip: Option<&'a str>) -> Result<Self, String> {
        let (chip, channel) = match (name.split_once('/'), chip) {
            (Some((chip, channel)), _) => (chip, channel),
            (None, Some(chip)) => (chip, name),
            (None, None) => {
                return Err(format!("`{name}` does not say of which chip: write \"CHIP/{name}\", or set chip"));
            }
        };
        let (chip, device) = chip.split_once('@').map_or((chip, None), |(chip, device)| (chip, Some(device)));
        // A label may have a slash in it; nothing is looked for in another folder.
        let is_path = channel.split('/').any(|part| matches!(part, "" | "." | ".."));
        if chip.is_empty() || is_path || device == Some("") {
            return Err(format!("`{name}` is not a channel, such as \"coretemp/temp1\""));
        }
        if let Some(bare) = channel.strip_suffix("_input") {
            return Err(format!("write `{bare}`: channels are named without _input"));
        }
        Ok(Self { chip, device, channel })
    }
}

/// Returns what a channel of that number measures.
fn kind(channel: &str) -> Option<&'static (&'static str, &'static str, f64)> {
    let stem = channel.trim_end_matches(|c: char| c.is_ascii_digit());
    KINDS.iter().find(|(kind, ..)| *kind == stem && stem.len() < channel.len())
}

/// Returns the file that holds a channel's value.
fn value_file(folder: &Path, channel: &str) -> Option<PathBuf> {
    let (stem, ..) = kind(channel)?;
    let files = match *stem {
        "pwm" => vec![channel.to_owned()],
        "power" => vec![format!("{channel}_input"), format!("{channel}_average")],
        _ => vec![format!("{channel}_input")],
    };
    files.iter().map(|file| folder.join(file)).find(|path| Path::exists(path))
}

/// Returns the channels of a chip that hold values, each with its label.
pub(crate) fn channels(chip: &Chip) -> Vec<(String, Option<String>)> {
    let of_file = |file: String| {
        let channel = file.split('_').next()?.to_owned();
        let is_it = value_file(&chip.folder, &channel).is_some_and(|path| path.ends_with(&file));
        is_it.then(|| (channel.clone(), text(&chip.folder.join(format!("{channel}_label")))))
    };
    names(&chip.folder).into_iter().filter_map(of_file).collect()
}

/// Returns channels in words: `temp1 (Tctl), fan1`.
pub(crate) fn described(channels: &[(String, Option<String>)]) -> String {
    let one = |(channel, label): &(String, Option<String>)| match label {
        Some(label) => format!("{channel} ({label})"),
        None => channel.clone(),
    };
    if channels.is_empty() { "none".to_owned() } else { channels.iter().map(one).collect::<Vec<_>>().join(", ") }
}

/// Why a channel cannot be read.
#[derive(Debug)]
enum Unreadable {
    /// Its chip is not there.
    Absent(String),
    Broken(String),
}

impl Unreadable {
    fn reason(self) -> String {
        match self {
            Self::Absent(reason) | Self::Broken(reason) => reason,
        }
    }
}

/// An open channel.
#[derive(Debug)]
struct Input {
    value: Attribute,
    /// Whether the chip takes its value for wrong.
    fault: Option<Attribute>,
    factor: f64,
}

impl Input {
    fn open(sysfs: &Path, name: &ChannelName<'_>) -> Result<Self, Unreadable> {
        let chip = find(sysfs, name)?;
        let all = channels(&chip);
        let by_label = || all.iter().find(|(_, label)| label.as_deref() == Some(name.channel));
        let found = all.iter().find(|(channel, _)| channel == name.channel).or_else(by_label);
        let missing = || {
            let there = described(&all);
            Unreadable::Broken(format!("{} has no channel {}; found: {there}", chip.describe(), name.channel))
        };
        let (channel, _) = found.ok_or_else(missing)?;
        let (path, (_, _, factor)) = value_file(&chip.folder, channel).zip(kind(channel)).ok_or_else(missing)?;
        let value = Attribute::open(path.clone())
            .map_err(|error| Unreadable::Broken(format!("cannot open {}: {error}", path.display())))?;
        let fault = Attribute::open(chip.folder.join(format!("{channel}_fault"))).ok();
        Ok(Self { value, fault, factor: *factor })
    }

    fn read(&self) -> Result<f32, Missed> {
        if let Some(fault) = &self.fault
            && fault.read::<u8>().is_ok_and(|fault| fault != 0)
        {
            return Err(Missed::Failed(format!("{}: the chip says that the value is wrong", fault.path().display())));
        }
        let number: i64 = self.value.read().map_err(|error| Missed::of(self.value.path(), error))?;
        Ok((number as f64 * self.factor) as f32)
    }
}

/// Returns the only chip that a channel names.
fn find(sysfs: &Path, name: &ChannelName<'_>) -> Result<Chip, Unreadable> {
    let all = chips(sysfs);
    let fits = |chip: &&Chip| {
        chip.name == name.chip && name.device.is_none_or(|device| chip.device.as_deref() == Some(device))
    };
    let list = |chips: &[&Chip]| chips.iter().map(|chip| chip.describe()).collect::<Vec<_>>().join(", ");
    let fitting: Vec<&Chip> = all.iter().filter(fits).collect();
    let wanted = name.device.map_or(name.chip.to_owned(), |device| format!("{} at {device}", name.chip));
    match fitting.as_slice() {
        [chip] => Ok((*chip).clone()),
        [] => {
            let all: Vec<&Chip> = all.iter().collect();
            let there = if all.is_empty() { "none".to_owned() } else { list(&all) };
            Err(Unreadable::Absent(format!("there is no hwmon chip {wanted}; found: {there}")))
        }
        several => Err(Unreadable::Broken(format!(
            "several hwmon chips are called {wanted}: {}; write CHIP@DEVICE/CHANNEL",
            list(several)
        ))),
    }
}

impl Hwmon {
    fn names(&self) -> impl Iterator<Item = Result<ChannelName<'_>, String>> {
        self.channels.iter().map(|name| ChannelName::parse(name, self.chip.as_deref()))
    }

    fn inputs(&self, sysfs: &Path) -> Result<Vec<Input>, Unreadable> {
        let mut inputs = Vec::<Input>::with_capacity(self.channels.len());
        for (text, name) in self.channels.iter().zip(self.names()) {
            let input = Input::open(sysfs, &name.map_err(Unreadable::Broken)?)?;
            // By its number and by its label, or with and without its device.
            if let Some(place) = inputs.iter().position(|other| other.value.path() == input.value.path()) {
                let (path, first) = (input.value.path().display(), &self.channels[place]);
                return Err(Unreadable::Broken(format!("`{first}` and `{text}` are both {path}; name it once")));
            }
            inputs.push(input);
        }
        Ok(inputs)
    }

    /// Returns the names of the chips, in words.
    fn title(&self) -> String {
        let mut chips: Vec<&str> = self.names().flatten().map(|name| name.chip).collect();
        chips.sort_unstable();
        chips.dedup();
        chips.join(", ")
    }
}

impl SourceKind for Hwmon {
    fn check(&mut self, key: &Key, checker: &mut Checker) {
        let channels = key.child("channels");
        if self.channels.is_empty() {
            checker.problem(&channels, "name at least one channel, such as temp1");
        }
        let mut named = Vec::new();
        for (text, name) in self.channels.iter().zip(self.names()) {
            match name {
                Err(problem) => checker.problem(&channels, problem),
                Ok(name) if named.contains(&name) => checker.problem(&channels, format!("`{text}` is named twice")),
                Ok(name) => named.push(name),
            }
        }
        if let Some(chip) = &self.chip
            && !self.channels.is_empty()
            && self.channels.iter().all(|name| name.contains('/'))
        {
            let message = format!("every channel names its own chip, so `{chip}` has no effect; leave it out");
            checker.problem(&key.child("chip"), message);
        }
        self.buffer.check(&key.child("buffer"), checker);
    }

    fn spec(&self) -> StreamSpec {
        let unit = |name: Result<ChannelName<'_>, String>| {
            // What a label measures is known when its chip is.
            name.ok().and_then(|name| kind(name.channel)).map_or("", |(_, unit, _)| unit).to_owned()
        };
        StreamSpec {
            frame: Shape::new([self.channels.len()]),
            sample: SampleType::F32,
            rate_hz: Some(self.rate_hz),
            names: self.channels.clone(),
            units: self.names().map(unit).collect(),
            content: Content::Samples,
        }
    }

    fn buffer(&self) -> (&Buffer, WhenFull) {
        (&self.buffer, WhenFull::Drop)
    }

    fn open(&self, _options: OpenOptions) -> Result<Box<dyn FrameProducer>, SourceError> {
        Ok(Box::new(HwmonSource { keys: self.clone(), sysfs: Machine::this().sysfs.to_owned() }))
    }

    fn check_access(&self) -> Result<(), SourceError> {
        Ok(())
    }

    fn survey(&self, machine: &Machine<'_>) -> Survey {
        let inputs = match self.inputs(machine.sysfs) {
            Ok(inputs) => inputs,
            Err(Unreadable::Absent(reason)) => {
                return Survey::absent(reason).fix("load its driver, or name one of those that were found");
            }
            Err(Unreadable::Broken(reason)) => return Survey::broken(reason),
        };
        let mut values = Vec::new();
        for (name, input) in self.channels.iter().zip(&inputs) {
            match input.read() {
                Ok(value) => values.push(format!("{name} = {value}")),
                Err(missed) => return Survey::broken(missed.reason()),
            }
        }
        Survey::ready(format!("{}: readable", self.title())).detail(values)
    }

    fn has_time(&self) -> bool {
        true
    }

    fn endless(&self) -> Option<&'static str> {
        Some("reads chips, which have no end; start it without --once, or use the source lines or replay")
    }
}

/// The chips as they are found after each loss.
struct HwmonSource {
    keys: Hwmon,
    sysfs: PathBuf,
}

impl FrameProducer for HwmonSource {
    fn run(self: Box<Self>, sink: &mut FrameSink) -> Result<(), SourceError> {
        let Self { keys, sysfs } = *self;
        let name = keys.title();
        let open = || {
            let failed = |error: Unreadable| SourceError::Device { name: name.clone(), reason: error.reason() };
            keys.inputs(&sysfs).map_err(failed)
        };
        keep_open(sink, &name, DEVICE_RETRY, false, open, |inputs: &mut Vec<Input>, sink| {
            let read = |frame: &mut [f32]| {
                for (value, input) in frame.iter_mut().zip(inputs.iter()) {
                    *value = input.read()?;
                }
                Ok(())
            };
            poll(sink, &name, (keys.rate_hz, keys.channels.len()), read, || Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::sink::frame_ring;
    use super::super::{Pieces, Presence, SinkSettings, Source};
    use super::*;
    use crate::meter::tree::Tree;
    use crate::stop::Stop;
    use crate::units::MonoTime;

    fn tree() -> Tree {
        let tree = Tree::new(&[
            ("class/hwmon/hwmon0/name", "coretemp\n"),
            ("class/hwmon/hwmon0/temp1_input", "41500\n"),
            ("class/hwmon/hwmon0/temp1_label", "Package id 0\n"),
            ("class/hwmon/hwmon0/temp2_input", "-250\n"),
            ("class/hwmon/hwmon0/temp2_crit", "100000\n"),
            ("class/hwmon/hwmon1/name", "nct6775\n"),
            ("class/hwmon/hwmon1/fan1_input", "1200\n"),
            ("class/hwmon/hwmon1/in0_input", "1032\n"),
            ("class/hwmon/hwmon1/curr1_input", "600\n"),
            ("class/hwmon/hwmon1/power1_average", "2500000\n"),
            ("class/hwmon/hwmon1/energy1_input", "9000000\n"),
            ("class/hwmon/hwmon1/humidity1_input", "45000\n"),
            ("class/hwmon/hwmon1/freq1_input", "5\n"),
            ("class/hwmon/hwmon1/pwm1", "128\n"),
            ("class/hwmon/hwmon1/pwm1_enable", "1\n"),
        ]);
        tree.link("class/hwmon/hwmon0/device", "../../../coretemp.0");
        tree
    }

    fn hwmon(text: &str) -> Result<Hwmon, Vec<String>> {
        let mut source: Source = toml::from_str(&format!("hwmon = {{ {text} }}")).map_err(|e| vec![e.to_string()])?;
        let mut checker = Checker::new(Path::new(""));
        source.check(&Key::new(&["source"]), &mut checker);
        let Source::Hwmon(hwmon) = source else { panic!("{source:?}") };
        let shown = |problem: crate::schema::Problem| format!("{}: {}", problem.key, problem.message);
        checker.finish(Some(hwmon)).map_err(|problems| problems.into_iter().map(shown).collect())
    }

    fn values(keys: &Hwmon, tree: &Tree) -> Result<Vec<f32>, String> {
        let inputs = keys.inputs(tree.root()).map_err(Unreadable::reason)?;
        inputs.iter().map(|input| input.read().map_err(Missed::reason)).collect()
    }

    #[test]
    fn every_kind_has_its_unit() {
        let keys = hwmon(
            "chip = 'nct6775', rate_hz = 1.0, channels = ['coretemp/temp1', \
             'coretemp@coretemp.0/temp2', 'fan1', 'in0', 'curr1', 'power1', 'energy1', 'humidity1', 'freq1', 'pwm1']",
        )
        .unwrap();
        assert_eq!(values(&keys, &tree()).unwrap(), [41.5, -0.25, 1200.0, 1.032, 0.6, 2.5, 9.0, 45.0, 5.0, 128.0]);
        let spec = keys.spec();
        assert_eq!(spec.units, ["C", "C", "RPM", "V", "A", "W", "J", "%", "Hz", ""]);
        assert_eq!((spec.frame.dims(), spec.rate_hz), (&[10][..], Some(1.0)));
        let survey = keys.survey(&Machine { sysfs: Path::new("/nowhere"), dev: Path::new("/dev") });
        assert_eq!(
            (survey.presence, survey.says.as_str()),
            (Presence::Absent, "there is no hwmon chip coretemp; found: none")
        );
        let tree = tree();
        let survey = keys.survey(&Machine { sysfs: tree.root(), dev: Path::new("/dev") });
        assert_eq!((survey.presence, survey.says.as_str()), (Presence::Ready, "coretemp, nct6775: readable"));
        assert_eq!(survey.detail[0], "coretemp/temp1 = 41.5");
        let labelled = hwmon("rate_hz = 1.0, channels = ['coretemp/Package id 0']").unwrap();
        assert_eq!((values(&labelled, &tree).unwrap(), labelled.spec().units), (vec![41.5], vec![String::new()]));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_what_can() {
        let tree = tree();
        let refusal = |channel: &str| {
            values(&hwmon(&format!("rate_hz = 1.0, channels = ['{channel}']")).unwrap(), &tree).unwrap_err()
        };
        assert_eq!(
            refusal("coretemp/temp3"),
            "coretemp (coretemp.0, hwmon0) has no channel temp3; found: temp1 (Package id 0), temp2"
        );
        assert_eq!(
            refusal("k10temp/temp1"),
            "there is no hwmon chip k10temp; found: coretemp (coretemp.0, hwmon0), nct6775 (no device, hwmon1)"
        );
        let twice = hwmon("rate_hz = 1.0, channels = ['coretemp/temp1', 'coretemp/Package id 0']").unwrap();
        let said = values(&twice, &tree).unwrap_err();
        assert!(said.starts_with("`coretemp/temp1` and `coretemp/Package id 0` are both "), "{said}");
        tree.write("class/hwmon/hwmon1/in0_input", "N/A\n");
        assert!(refusal("nct6775/in0").contains("hwmon1/in0_input: it holds \"N/A\""), "{}", refusal("nct6775/in0"));
        tree.write("class/hwmon/hwmon0/temp1_fault", "1\n");
        assert!(refusal("coretemp/temp1").contains("temp1_fault: the chip says that the value is wrong"));
        tree.write("class/hwmon/hwmon2/name", "coretemp\n");
        assert!(
            refusal("coretemp/temp1")
                .contains("several hwmon chips are called coretemp: coretemp (coretemp.0, hwmon0),")
        );
        assert!(values(&hwmon("rate_hz = 1.0, channels = ['coretemp@coretemp.0/temp2']").unwrap(), &tree).is_ok());
    }

    #[test]
    fn names_that_cannot_be_right_are_refused() {
        for (channels, part) in [
            ("[]", "name at least one channel"),
            ("['temp1']", "does not say of which chip: write \"CHIP/temp1\", or set chip"),
            ("['a/temp1', 'a/temp1']", "`a/temp1` is named twice"),
            ("['temp1', 'a/temp1'], chip = 'a'", "`a/temp1` is named twice"),
            ("['a/../../temp1']", "is not a channel"),
            ("['a//temp1']", "is not a channel"),
            ("['a/temp1_input']", "write `temp1`"),
            ("['/temp1']", "is not a channel"),
            ("['a@/temp1']", "is not a channel"),
        ] {
            let problems = hwmon(&format!("rate_hz = 1.0, channels = {channels}")).unwrap_err().join("\n");
            assert!(problems.contains(part) && problems.contains("source.hwmon.channels: "), "{problems}");
        }
        let unused = hwmon("rate_hz = 1.0, chip = 'b', channels = ['a/temp1']").unwrap_err().join("\n");
        assert!(unused.contains("source.hwmon.chip: every channel names its own chip"), "{unused}");
        assert!(hwmon("rate_hz = 1.0, channels = ['a/temp1', 'a/CPU/DDR']").is_ok(), "a label may have a slash");
    }

    #[test]
    fn a_chip_that_went_away_is_found_under_another_number() {
        let tree = tree();
        let keys = hwmon("rate_hz = 200.0, channels = ['nct6775/fan1']").unwrap();
        let settings = SinkSettings { spec: keys.spec(), frames: 4096, frames_per_block: 1, when_full: WhenFull::Drop };
        let (stop, stats) = (Arc::new(Stop::new().unwrap()), Arc::default());
        let (mut sink, mut reader) = frame_ring(&settings, "test", stop.clone(), stats);
        let source = Box::new(HwmonSource { keys, sysfs: tree.root().to_owned() });
        let thread = std::thread::spawn(move || source.run(&mut sink).map_err(|error| error.to_string()));
        let deadline = MonoTime::now() + Duration::from_secs(60);
        let mut until = |wanted: f32| {
            loop {
                let read = reader.pop(
                    1,
                    |_, _| false,
                    |frames| match frames.values {
                        Pieces::F32(first, second) => (frames.first.gap, [first, second].concat()),
                        other => panic!("{other:?}"),
                    },
                );
                if let Some((gap, values)) = read
                    && values == [wanted]
                {
                    return gap;
                }
                assert!(MonoTime::now() < deadline, "no {wanted}; {:?}", reader.stats.remarks());
                std::thread::yield_now();
            }
        };
        until(1200.0);
        // The kernel says ENODEV through the open file; here it is emptied.
        tree.write("class/hwmon/hwmon1/fan1_input", "");
        tree.remove("class/hwmon/hwmon1");
        tree.write("class/hwmon/hwmon5/fan1_input", "900\n");
        tree.write("class/hwmon/hwmon5/name", "nct6775\n");
        assert!(until(900.0).is_some());
        stop.request();
        thread.join().unwrap().unwrap();
    }
}
