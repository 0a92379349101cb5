//! What must be read of an IIO device for the configured channels, and how its raw numbers become values.
//!
//! Source: `Documentation/ABI/testing/sysfs-bus-iio`: value = (raw + offset) * scale, in the unit of the channel's type.
//! Thousandths, as of temperatures and voltages, become whole units here.

use std::path::{Path, PathBuf};

use crate::sys::folder::{names, text};
use crate::sys::iio::Device;

/// The units of the kernel's channels by their type, and what their values are multiplied with to get them.
const UNITS: [(&str, &str, f64); 21] = [
    ("accel", "m/s2", 1.0),
    ("gravity", "m/s2", 1.0),
    ("anglvel", "rad/s", 1.0),
    ("angl", "rad", 1.0),
    ("incli", "degrees", 1.0),
    ("magn", "Gauss", 1.0),
    ("temp", "C", 1e-3),
    ("voltage", "V", 1e-3),
    ("altvoltage", "V", 1e-3),
    ("current", "A", 1e-3),
    ("altcurrent", "A", 1e-3),
    ("power", "W", 1e-3),
    ("energy", "J", 1.0),
    ("pressure", "kPa", 1.0),
    ("humidityrelative", "%", 1e-3),
    ("illuminance", "lx", 1.0),
    ("distance", "m", 1.0),
    ("velocity", "m/s", 1.0),
    ("resistance", "Ohm", 1.0),
    ("capacitance", "nF", 1.0),
    ("concentration", "%", 1.0),
];
const AXES: [char; 3] = ['x', 'y', 'z'];

/// A channel as the configuration names it: `accel_x`, or `rot_quaternion[2]` for one of several numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChannelName {
    pub(super) channel: String,
    /// Which of the channel's numbers; `None` if it has one.
    pub(super) part: Option<usize>,
}

impl ChannelName {
    /// Reads a name. The error says what is wrong with it.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let bare = name.trim_start_matches("in_").trim_end_matches("_raw").trim_end_matches("_input");
        if bare != name {
            return Err(format!("write `{bare}`: channels are named without in_, _raw and _input"));
        }
        let (channel, part) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
            Some((channel, part)) => match part.parse() {
                Ok(part) => (channel, Some(part)),
                Err(_) => return Err(format!("`{name}`: what is in the brackets must be a number from 0")),
            },
            None => (name, None),
        };
        if channel == "timestamp" {
            return Err("the time is read of itself; name only channels with values".into());
        }
        if channel.is_empty() || channel.contains(|c: char| c == '/' || c.is_whitespace() || c == '[' || c == ']') {
            return Err(format!("`{name}` is not the name of a channel, such as accel_x or voltage0"));
        }
        Ok(Self { channel: channel.to_owned(), part })
    }
}

/// Returns the type of a channel: `accel` of `accel_x`, `voltage` of `voltage0`.
fn type_of(channel: &str) -> &str {
    let end = channel.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(channel.len());
    channel.get(..end).unwrap_or_default()
}

/// Returns the unit of a channel, and the factor that gives it; no unit if it has none.
pub(super) fn unit(channel: &str) -> (&'static str, f64) {
    let known = UNITS.iter().find(|(kind, ..)| *kind == type_of(channel));
    known.map_or(("", 1.0), |(_, unit, factor)| (unit, *factor))
}

/// One number that is read of the device.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Input {
    pub(super) channel: String,
    pub(super) part: Option<usize>,
    /// The number plus `offset`, times `scale`, is the value.
    pub(super) offset: f64,
    pub(super) scale: f64,
}

impl Input {
    pub(super) fn value(&self, raw: f64) -> f64 {
        (raw + self.offset) * self.scale
    }
}

/// What is read of a device, and the values that are made of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) inputs: Vec<Input>,
    /// The values of a frame: each is a sum of inputs, with a weight each.
    outputs: Vec<Vec<(usize, f64)>>,
    /// What to know about it, in words.
    pub(super) notes: Vec<String>,
}

impl Plan {
    /// Returns what gives the channels called `names`; `mounted` applies the matrix by which the board turns the axes.
    ///
    /// # Errors
    /// The device does not have a channel, or a number that belongs to it cannot be read; says which.
    pub(super) fn new(device: &Device, names: &[String], mounted: bool) -> Result<Self, String> {
        let mut plan = Self { inputs: Vec::new(), outputs: Vec::new(), notes: Vec::new() };
        for name in names {
            let name = ChannelName::parse(name)?;
            let rows = if mounted { plan.mount(device, &name)? } else { None };
            let output = match rows {
                Some(terms) => terms,
                None => vec![(plan.input(device, name)?, 1.0)],
            };
            plan.outputs.push(output);
        }
        Ok(plan)
    }

    /// Makes a frame of the values of the inputs.
    pub(super) fn mix(&self, inputs: &[f64], frame: &mut [f32]) {
        for (value, terms) in frame.iter_mut().zip(&self.outputs) {
            *value = terms.iter().map(|(input, weight)| inputs.get(*input).unwrap_or(&f64::NAN) * weight).sum::<f64>()
                as f32;
        }
    }

    /// Returns the channels that are read, each once.
    pub(super) fn channels(&self) -> Vec<&str> {
        let mut channels: Vec<&str> = Vec::new();
        for input in &self.inputs {
            if !channels.contains(&input.channel.as_str()) {
                channels.push(&input.channel);
            }
        }
        channels
    }

    /// Returns the place of an input, which is added if it is not there yet.
    fn input(&mut self, device: &Device, name: ChannelName) -> Result<usize, String> {
        let is_it = |input: &Input| input.channel == name.channel && input.part == name.part;
        if let Some(place) = self.inputs.iter().position(is_it) {
            return Ok(place);
        }
        let channel = &name.channel;
        if !has(device, channel) {
            let there = channels(device);
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return Err(format!("{} has no channel {channel}; found: {there}", device.name));
        }
        let number = |what: &str, otherwise: f64| match find(device, channel, what) {
            None => Ok(otherwise),
            Some(path) => {
                let number = text(&path).and_then(|text| text.parse::<f64>().ok()).filter(|number| number.is_finite());
                number.ok_or_else(|| format!("{}: it does not hold a number", path.display()))
            }
        };
        // What is read ready-made has neither.
        let (offset, scale) = match raw_file(device, channel) {
            Some(file) if file.ends_with("_input") => (0.0, 1.0),
            _ => (number("offset", 0.0)?, number("scale", 1.0)?),
        };
        let scale = scale * unit(channel).1;
        self.inputs.push(Input { channel: channel.clone(), part: name.part, offset, scale });
        Ok(self.inputs.len() - 1)
    }

    /// Returns the sum that the board's matrix makes of the three axes, for a channel that is one of them.
    fn mount(&mut self, device: &Device, name: &ChannelName) -> Result<Option<Vec<(usize, f64)>>, String> {
        let channel = &name.channel;
        let axis = channel.strip_suffix(AXES).and_then(|stem| {
            let row = AXES.iter().position(|axis| channel.ends_with(*axis))?;
            stem.strip_suffix('_').map(|stem| (stem, row))
        });
        let (Some((stem, row)), None) = (axis, name.part) else { return Ok(None) };
        let Some(path) = find(device, stem, "mount_matrix") else { return Ok(None) };
        let held = text(&path).unwrap_or_default();
        let Some(matrix) = matrix(&held) else {
            self.note(format!("{} holds {held:?}, which is not a matrix: it is ignored", path.display()));
            return Ok(None);
        };
        if matrix.iter().flatten().all(|weight| *weight == 0.0) {
            self.note(format!("{} is all zeros, a fault of the driver: it is ignored", path.display()));
            return Ok(None);
        }
        let mut terms = Vec::new();
        for (axis, weight) in AXES.iter().zip(matrix[row]).filter(|(_, weight)| *weight != 0.0) {
            let name = ChannelName { channel: format!("{stem}_{axis}"), part: None };
            terms.push((self.input(device, name)?, weight));
        }
        if matrix != IDENTITY {
            self.note(format!("its axes are turned by {}: {held}", path.display()));
        }
        Ok(Some(terms))
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

const IDENTITY: [[f64; 3]; 3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

/// Reads a matrix as the kernel writes it: `1, 0, 0; 0, 1, 0; 0, 0, 1`.
fn matrix(text: &str) -> Option<[[f64; 3]; 3]> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    let row =
        |text: &str| -> Option<[f64; 3]> { text.split(',').map(number).collect::<Option<Vec<f64>>>()?.try_into().ok() };
    text.split(';').map(row).collect::<Option<Vec<_>>>()?.try_into().ok()
}

/// Returns the file in which a channel can be read one number at a time. A raw one without a scale is not used if there is
/// one with the value.
pub(super) fn raw_file(device: &Device, channel: &str) -> Option<String> {
    let exists = |what: &str| {
        let file = format!("in_{channel}_{what}");
        device.folder.join(&file).exists().then_some(file)
    };
    match (exists("raw"), exists("input")) {
        (Some(raw), Some(_)) if find(device, channel, "scale").is_some() => Some(raw),
        (raw, input) => input.or(raw),
    }
}

fn has(device: &Device, channel: &str) -> bool {
    raw_file(device, channel).is_some() || device.folder.join(format!("scan_elements/in_{channel}_en")).exists()
}

/// Returns the names of the channels that a device has.
pub(crate) fn channels(device: &Device) -> Vec<String> {
    let polled = names(&device.folder).into_iter().filter_map(|file| {
        let name = file.strip_prefix("in_")?;
        Some(name.strip_suffix("_raw").or(name.strip_suffix("_input"))?.to_owned())
    });
    let buffered = names(&device.folder.join("scan_elements")).into_iter().filter_map(|file| {
        Some(file.strip_prefix("in_")?.strip_suffix("_en")?.to_owned()).filter(|name| name != "timestamp")
    });
    let mut all: Vec<String> = polled.chain(buffered).collect();
    all.sort();
    all.dedup();
    all
}

/// Returns the file that holds something of a channel: its own, that of its type, or that of the whole device.
pub(super) fn find(device: &Device, channel: &str, what: &str) -> Option<PathBuf> {
    let kind = match channel.split_once('-') {
        // Differences of two voltages share `in_voltage-voltage_scale`.
        Some((first, second)) => format!("{}-{}", type_of(first), type_of(second)),
        None => type_of(channel).to_owned(),
    };
    let files = [format!("in_{channel}_{what}"), format!("in_{kind}_{what}"), format!("in_{what}"), what.to_owned()];
    files.iter().map(|file| device.folder.join(file)).find(|path| Path::exists(path))
}

#[cfg(test)]
mod tests {
    use super::super::tests::accelerometer;
    use super::*;
    use crate::meter::tree::Tree;
    use crate::sys::iio::devices;

    fn plan(tree: &Tree, names: &[&str]) -> Result<Plan, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Plan::new(&devices(tree.root())[0], &names, true)
    }

    /// The frame that the raw numbers of the inputs make.
    fn frame(plan: &Plan, raw: &[f64]) -> Vec<f32> {
        let inputs: Vec<f64> = plan.inputs.iter().zip(raw).map(|(input, raw)| input.value(*raw)).collect();
        let mut frame = vec![0.0; plan.outputs.len()];
        plan.mix(&inputs, &mut frame);
        frame
    }

    const DEVICE: &str = "bus/iio/devices/iio:device0";

    fn with(files: &[(&str, &str)]) -> Tree {
        let tree = Tree::new(&[(&format!("{DEVICE}/name"), "chip\n")]);
        files.iter().for_each(|(file, text)| tree.write(&format!("{DEVICE}/{file}"), text));
        tree
    }

    #[test]
    fn scale_and_offset_are_the_channels_own_or_of_its_type() {
        let tree = with(&[
            ("in_accel_x_raw", "1\n"),
            ("in_accel_scale", "0.5\n"),
            ("in_accel_offset", "10\n"),
            ("in_accel_x_offset", "2\n"),
            ("in_voltage0_raw", "1\n"),
            ("in_voltage1-voltage2_raw", "1\n"),
            ("in_voltage-voltage_scale", "3\n"),
            ("in_voltage_scale", "2\n"),
            ("in_temp_raw", "1\n"),
            ("in_temp_scale", "100\n"),
            ("in_temp_input", "7\n"),
            ("in_pressure_raw", "9\n"),
            ("in_pressure_input", "101.3\n"),
            ("in_count_raw", "9\n"),
        ]);
        let names = ["accel_x", "voltage0", "voltage1-voltage2", "temp", "pressure", "count"];
        let plan = plan(&tree, &names).unwrap();
        assert_eq!(frame(&plan, &[4.0; 6]), [3.0, 0.008, 0.012, 0.4, 4.0, 4.0]);
        let device = &devices(tree.root())[0];
        assert_eq!(raw_file(device, "temp").as_deref(), Some("in_temp_raw"));
        assert_eq!(raw_file(device, "pressure").as_deref(), Some("in_pressure_input"), "the raw one has no scale");
        assert_eq!(names.map(|name| unit(name).0), ["m/s2", "V", "V", "C", "kPa", ""]);
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let tree = accelerometer();
        let refusal = plan(&tree, &["accel_w"]).unwrap_err();
        assert_eq!(refusal, "accel_3d has no channel accel_w; found: accel_x, accel_y, accel_z");
        tree.write(&format!("{}/in_accel_scale", super::super::tests::DEVICE), "garbage");
        let refusal = plan(&tree, &["accel_x"]).unwrap_err();
        assert!(refusal.contains("in_accel_scale: it does not hold a number"), "{refusal}");
    }

    #[test]
    fn the_boards_matrix_turns_the_axes_and_needs_the_others() {
        let files =
            [("in_accel_x_raw", "1"), ("in_accel_y_raw", "1"), ("in_accel_z_raw", "1"), ("in_accel_scale", "2")];
        let tree = with(&files);
        assert_eq!(plan(&tree, &["accel_y"]).unwrap().channels(), ["accel_y"]);
        tree.write(&format!("{DEVICE}/in_mount_matrix"), "0, 1, 0; -1, 0, 0; 0, 0.5, 0.5\n");
        let turned = plan(&tree, &["accel_z", "accel_x"]).unwrap();
        assert_eq!(turned.channels(), ["accel_y", "accel_z"]);
        assert_eq!(frame(&turned, &[3.0, 5.0]), [8.0, 6.0]);
        assert!(turned.notes[0].contains("its axes are turned by"), "{:?}", turned.notes);
        // That of the type comes first; zeros and nonsense are ignored, and said.
        for (matrix, said) in [("0, 0, 0; 0, 0, 0; 0, 0, 0", "all zeros"), ("1, 0; 0", "not a matrix")] {
            tree.write(&format!("{DEVICE}/in_accel_mount_matrix"), matrix);
            let ignored = plan(&tree, &["accel_z", "accel_x"]).unwrap();
            assert_eq!((ignored.channels(), ignored.notes.len()), (vec!["accel_z", "accel_x"], 1));
            assert!(ignored.notes[0].contains(said), "{:?}", ignored.notes);
        }
        tree.write(&format!("{DEVICE}/in_accel_mount_matrix"), "1, 0, 0; 0, 1, 0; 0, 0, 1\n");
        assert_eq!(plan(&tree, &["accel_x"]).unwrap().notes, [""; 0]);
    }

    #[test]
    fn names_are_those_of_the_kernel_without_what_every_file_has() {
        let parsed = |name| ChannelName::parse(name).unwrap();
        assert_eq!(parsed("rot_quaternion[3]"), ChannelName { channel: "rot_quaternion".into(), part: Some(3) });
        assert_eq!(parsed("voltage0-voltage1").part, None);
        let refusal = |name| ChannelName::parse(name).unwrap_err();
        assert_eq!(refusal("in_accel_x_raw"), "write `accel_x`: channels are named without in_, _raw and _input");
        for name in ["", "timestamp", "a b", "../x", "a[", "a[x]", "a[-1]", "[0]"] {
            assert!(!refusal(name).is_empty(), "{name}");
        }
    }
}
