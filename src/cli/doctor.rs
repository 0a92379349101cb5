//! `edgewatt doctor`: examines what edgewatt needs on this machine, and shows how to fix what is missing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};
use serde_json::json;

use super::DEFAULT_CONFIG;
use super::online::{self, Subscribed};
use crate::config::Config;
use crate::doctor::{self, Finding, Part, Roots, State};

/// The version of the JSON. A change that readers must know about increases it.
const SCHEMA_VERSION: u32 = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The parts to examine; without any, all of them
    #[arg(value_name = "PART")]
    parts: Vec<Part>,
    /// The configuration that names the runtime, delegates, meters, broker and folders to examine
    ///
    /// Default: /etc/edgewatt/edgewatt.toml, if it exists.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object; docs/doctor.md describes its fields
    #[arg(long)]
    json: bool,
    /// The folder of sysfs
    #[arg(long, default_value = "/sys", value_name = "DIR")]
    sysfs: PathBuf,
    /// The folder of the device files
    #[arg(long, default_value = "/dev", value_name = "DIR")]
    dev: PathBuf,
}

/// Shows all findings; failure when something is broken.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let roots = Roots { sysfs: args.sysfs.clone(), dev: args.dev.clone() };
    let path = args.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
    let (configuration, config) = doctor::configuration(path, args.config.is_some());
    let wanted = |part: &Part| args.parts.is_empty() || args.parts.contains(part);
    let mut findings: Vec<Finding> = Vec::new();
    // If the configuration cannot be used, what it names is unknown. So that nobody takes the other findings for an
    // answer, this one is shown whichever parts are asked for.
    let unusable = configuration.state == State::Broken;
    let wanted = |part: &Part| wanted(part) || unusable && *part == Part::Configuration;
    for part in Part::value_variants().iter().copied().filter(wanted) {
        let found = match part {
            Part::Configuration => vec![configuration.clone()],
            Part::Broker => {
                let mut found = vec![broker(config.as_ref())?];
                for subscribed in config.iter().flat_map(online::subscriptions) {
                    found.push(subscription(subscribed)?);
                }
                found
            }
            part => doctor::examine(part, &roots, config.as_ref()),
        };
        if !args.json {
            show(&mut io::stdout(), part, &found)?;
        }
        findings.extend(found);
    }
    let broken = findings.iter().filter(|finding| finding.state == State::Broken).count();
    if args.json {
        let report = json!({
            "v": SCHEMA_VERSION, "version": env!("CARGO_PKG_VERSION"), "broken": broken, "findings": findings,
        });
        writeln!(io::stdout(), "{report:#}")?;
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tests the connection to the configured broker with the same steps as `check --online`.
fn broker(config: Option<&Config>) -> anyhow::Result<Finding> {
    let of = |state, what: &str, says: String| Finding::new(Part::Broker, state, what, says);
    let Some(config) = config else {
        return Ok(of(State::Absent, "MQTT broker", "no configuration names one".into()));
    };
    let options = match online::to_try(config) {
        Ok(options) => options,
        Err(why) => return Ok(of(State::Ok, "MQTT broker", why.into())),
    };
    let mut steps = Vec::new();
    let walked = online::connect_and_publish(config, &options, online::list_into(&mut steps))?;
    let what = format!("MQTT broker {}", options.address());
    Ok(match walked {
        Ok(()) => of(State::Ok, &what, "it accepts messages".into()).detail(steps),
        Err(reason) => of(State::Broken, &what, reason).detail(steps).fix(match &config.mqtt.login {
            Some((_, file)) if eaccess(file, AccessFlags::R_OK) == Err(Errno::EACCES) => {
                "let this user read the password file; if it belongs to the service, run: sudo edgewatt doctor broker"
            }
            _ => "start the broker (on this machine: sudo apt-get install mosquitto), open the firewall for it, or change [mqtt]",
        }),
    })
}

/// Tries the subscription of a source or a meter.
fn subscription(subscribed: Subscribed) -> anyhow::Result<Finding> {
    let of = |state, says: String| Finding::new(Part::Broker, state, subscribed.key, says);
    let options = match subscribed.options {
        Ok(options) => options,
        Err(why) => return Ok(of(State::Ok, why.into())),
    };
    let mut steps = vec![format!("MQTT broker {}", options.address())];
    let walked = online::connect_and_subscribe(&subscribed.subscription, &options, online::list_into(&mut steps))?;
    let topic = &subscribed.subscription.topic;
    Ok(match walked {
        Ok(()) => of(State::Ok, format!("it may subscribe to {topic}")).detail(steps),
        Err(reason) => of(State::Broken, reason).detail(steps),
    })
}

fn show(out: &mut impl Write, part: Part, findings: &[Finding]) -> io::Result<()> {
    let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    writeln!(out, "{name}")?;
    for Finding { what, state, says, detail, fix, config, .. } in findings {
        let state = match state {
            State::Ok => "ok",
            State::Absent => "absent",
            State::Broken => "BROKEN",
        };
        writeln!(out, "  {state:<7} {what}: {says}")?;
        for line in detail {
            writeln!(out, "          {line}")?;
        }
        for (word, line) in [("fix", fix), ("use", config)] {
            if let Some(line) = line {
                writeln!(out, "          {word}: {line}")?;
            }
        }
    }
    Ok(())
}
