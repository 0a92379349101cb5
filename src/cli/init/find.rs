//! What the machine has that a configuration can use: sensors, as `edgewatt doctor` finds them, and meters.

use crate::doctor::{self, Part, Roots, State};
use crate::meter::survey;
use crate::propose::Stream;
use crate::propose::source::{Found, SourceText};
use crate::source::iio;

/// Returns the sources that can be used now.
pub(super) fn sensors(roots: &Roots) -> Vec<Found> {
    let devices = iio::listed(&roots.sysfs);
    let findings = doctor::examine(Part::Sensors, roots, None).into_iter().filter(|found| found.state == State::Ok);
    let sources = findings.filter_map(|finding| {
        let what = format!("{}: {}", finding.what, finding.says);
        let Some(config) = &finding.config else {
            // A camera needs a program, whose command depends on the picture.
            return finding.what.starts_with("camera ").then(|| Found { kind: "exec".into(), keys: Vec::new(), what });
        };
        let table: toml::Table = toml::from_str(config).ok()?;
        let (kind, keys) = table.get("source")?.as_table()?.iter().next()?;
        let mut keys: Vec<_> = keys.as_table()?.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        // The line of doctor has the acceleration only; a model may want the rotation, too.
        if let Some(device) = devices.iter().find(|device| device.config.as_ref() == Some(config)) {
            let all: Vec<toml::Value> = device.channels.iter().cloned().map(toml::Value::String).collect();
            if let Some((_, channels)) = keys.iter_mut().find(|(key, _)| key == "channels") {
                *channels = toml::Value::Array(all);
            }
        }
        Some(Found { kind: kind.clone(), keys, what })
    });
    sources.collect()
}

/// Returns the sources that can give the stream, the likeliest first.
pub(super) fn fitting<'a>(found: &'a [Found], stream: &Stream) -> Vec<&'a Found> {
    let of = |kind: &'static str| found.iter().filter(move |found| found.kind == kind);
    match stream {
        Stream::Sound { .. } => of("alsa").collect(),
        Stream::Pictures { .. } => of("exec").collect(),
        Stream::Numbers { channels, .. } => {
            let has_enough = |found: &&Found| {
                let own = found.keys.iter().find(|(key, _)| key == "channels").and_then(|(_, value)| value.as_array());
                own.is_some_and(|own| own.len() >= channels.len())
            };
            // A serial port may have any board; one that is named by its adapter is likelier to be a sensor.
            of("iio").filter(has_enough).chain(of("serial")).collect()
        }
    }
}

/// Says which other sources would do as well.
pub(super) fn others(fitting: &[&Found], chosen: &SourceText) -> Option<String> {
    let is_other = |found: &&&Found| !chosen.part.reason.contains(&found.what);
    let others: Vec<String> =
        fitting.iter().filter(is_other).map(|found| format!("{} ({})", found.what, found.kind)).collect();
    (!others.is_empty()).then(|| format!("also found: {}", others.join("; ")))
}

/// The meters of the machine.
#[derive(Debug, Default)]
pub(super) struct Meters {
    /// Those that were read: a name, and the line of the table.
    pub used: Vec<(String, String)>,
    /// What else could measure, one item a line.
    pub others: Vec<String>,
}

/// Finds the meters. Only what was read is used: for other chips, only the user knows whether they are there.
pub(super) fn meters(roots: &Roots) -> Meters {
    let mut meters = Meters::default();
    for found in doctor::surveyed_meters(roots) {
        match (&found.state, &found.config) {
            (survey::State::Readable { .. }, Some(config)) => {
                let kind = config.split([' ', '=']).next().unwrap_or("meter");
                let same =
                    meters.used.iter().filter(|(name, _)| name.trim_end_matches(char::is_numeric) == kind).count();
                let name = if same == 0 { kind.to_owned() } else { format!("{kind}{}", same + 1) };
                meters.used.push((name, config.clone()));
            }
            (survey::State::Usable { says }, config) => {
                let config = config.as_ref().map_or_else(String::new, |config| format!(": {config}"));
                meters.others.push(format!("{}: {says}{config}", found.what));
            }
            (survey::State::Absent { reason } | survey::State::Broken { reason }, _) => {
                let fix = found.fix.as_ref().map_or_else(String::new, |fix| format!("; {fix}"));
                meters.others.push(format!("{}: {reason}{fix}", found.what));
            }
            (survey::State::Readable { .. }, None) => {}
        }
    }
    if meters.used.is_empty() {
        let none = "No meter was found, so energy is published as unavailable. To measure it, add [power.meters.NAME] with one \
                    of these:";
        meters.others.insert(0, none.into());
    } else {
        meters.others.clear();
    }
    meters
}
