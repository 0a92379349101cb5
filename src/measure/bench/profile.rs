//! The time of each operator of a cell, from the runtime's profiler, and the energy that goes with it.
//!
//! Owns how many inferences are profiled. A meter cannot tell operators apart that take microseconds, so energy is shared by
//! time, and says so.

use std::rc::Rc;
use std::time::Duration;

use super::report::{Operator, Profile};
use crate::engine::{Engine, EngineError, OperatorTime, width};
use crate::load::engines::EngineBuilder;
use crate::load::windows::Windows;
use crate::units::MonoTime;

/// Profiled are so many inferences, or as many as fit into that time.
const INFERENCES: u64 = 200;
const LIMIT: Duration = Duration::from_secs(2);

/// Profiles the engine that `builder` builds.
pub(super) fn profile(builder: &EngineBuilder, windows: &Rc<Windows>) -> Profile {
    let process = builder.delegates.first().is_some_and(|delegate| delegate.process.is_some());
    let times = if process {
        Err("operators are timed only in an engine on a thread of the program: isolation = \"thread\"".to_owned())
    } else {
        times(builder, windows).map_err(|error| error.to_string())
    };
    match times {
        Ok((inferences, times)) if !times.is_empty() => operators(inferences, times),
        Ok(_) => Profile::none("the runtime reported no operator"),
        Err(reason) => Profile::none(&reason),
    }
}

fn times(builder: &EngineBuilder, windows: &Windows) -> Result<(u64, Vec<OperatorTime>), EngineError> {
    let mut engine = builder.profiled(0)?;
    let (rows, width) = (engine.batch(), width(engine.inputs(), engine.batch()));
    for (row, window) in windows.values.chunks(width.max(1)).cycle().take(rows).enumerate() {
        engine.set_input(row, window)?;
    }
    let begun = MonoTime::now();
    let (mut inferences, mut now) = (0, begun);
    while inferences < INFERENCES && now.since(begun) < LIMIT {
        engine.invoke()?;
        inferences += 1;
        now = MonoTime::now();
    }
    Ok((inferences, engine.operator_times(now.since(begun).as_nanos() as f64)))
}

fn operators(inferences: u64, mut times: Vec<OperatorTime>) -> Profile {
    let total: f64 = times.iter().map(|time| time.ns).sum();
    times.sort_by(|a, b| b.ns.total_cmp(&a.ns));
    let operator = |time: OperatorTime| Operator {
        name: time.name,
        place: time.place,
        is_delegated: time.is_delegated,
        ms: time.ns / inferences as f64 / 1e6,
        part: time.ns / total.max(f64::MIN_POSITIVE),
        net_mj: None,
    };
    Profile { inferences, operators: times.into_iter().map(operator).collect(), energy_by: None, reason: None }
}

impl Profile {
    fn none(reason: &str) -> Self {
        Self { inferences: 0, operators: Vec::new(), energy_by: None, reason: Some(reason.to_owned()) }
    }

    /// Shares the net energy of an inference among the operators, by their times.
    pub(super) fn share(&mut self, net_mj: f64) {
        self.energy_by = Some("time".to_owned());
        self.operators.iter_mut().for_each(|operator| operator.net_mj = Some(net_mj * operator.part));
    }
}
