//! Accelerators and the libraries that the configuration names for them: each kind of delegate says what it needs.

use super::{Finding, Part, Roots, State, node};
use crate::config::{Config, Delegate};
use crate::engine::delegate::survey::{self, Host, configured_library, survey};

/// Examines what each kind of delegate looks for, and the configured libraries.
pub(crate) fn examine(roots: &Roots, config: Option<&Config>) -> Vec<Finding> {
    let delegates = config.map(delegates).unwrap_or_default();
    let libraries: Vec<_> =
        delegates.iter().filter_map(|delegate| Some(delegate.kind.kind().library()?.to_owned())).collect();
    let mut found = survey(&Host { sysfs: &roots.sysfs, dev: &roots.dev, libraries: &libraries });
    found.extend(delegates.iter().filter_map(|delegate| configured_library(&delegate.name, delegate.kind.kind())));
    found.into_iter().map(finding).collect()
}

/// Returns the delegates that pipelines use, each once.
fn delegates(config: &Config) -> Vec<&Delegate> {
    let mut found: Vec<&Delegate> = Vec::new();
    for delegate in config.pipelines.iter().flat_map(|pipeline| &pipeline.delegates) {
        if !found.iter().any(|other| other.name == delegate.name) {
            found.push(delegate);
        }
    }
    found
}

fn finding(found: survey::Finding) -> Finding {
    let survey::Finding { what, says, state, detail, fix } = found;
    let state = match state {
        survey::State::Ok => State::Ok,
        survey::State::Absent => State::Absent,
        survey::State::Broken => State::Broken,
        survey::State::DeviceFile { path, rule } => {
            return node::finding(Part::Delegates, what, &says, &path, &rule).detail(detail);
        }
    };
    Finding { fix, ..Finding::new(Part::Delegates, state, what, says).detail(detail) }
}
