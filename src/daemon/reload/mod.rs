//! Reading the configuration again while the daemon runs.
//!
//! `plan` decides what a difference needs, `apply` does it. The reading, and everything that it loads, happens on a thread
//! that may block; only what is complete is put in place, on the async thread. Any error leaves everything as it was.

mod apply;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::mpsc;
use std::time::Duration;

use self::apply::Applied;
use super::event::{DaemonEvent, Reloaded};
use super::phase::AfterReload;
use super::pipeline::PipelineHandle;
use super::pipeline::threads::catch_panic;
use super::state::Daemon;
use crate::config::{Config, Problem};
use crate::load::{self, RunningEngine, Unusable};

/// How long a reload waits for a device to be freed.
const RELEASE: Duration = Duration::from_secs(10);

impl Daemon {
    /// Has the configuration read again, now or after the reload that is under way.
    pub(crate) fn reload(&mut self) {
        if !self.phase.request_reload() {
            return;
        }
        tracing::info!("reading {} again", self.options.config.display());
        self.service.reloading();
        let (path, engine_context, old) =
            (self.options.config.clone(), self.engine_context.clone(), self.config.clone());
        let (engines, events) = (self.running_engines(), self.context.events.clone());
        tokio::task::spawn_blocking(move || {
            let load = || {
                load::load_with(&path, |new, document| {
                    let problems = refused(&old, new);
                    if problems.is_empty() {
                        Ok((engine_context, engines))
                    } else {
                        Err(Unusable::new(document, &problems))
                    }
                })
            };
            let result = catch_panic(load).map(|(config, prepared)| Reloaded { config, prepared });
            let _ = events.send(DaemonEvent::Reloaded(Box::new(result)));
        });
    }

    /// Puts the configuration in place that was read again, if it can be used.
    pub(crate) async fn reloaded(&mut self, result: Result<Reloaded, String>) {
        let mut incomplete = false;
        match result {
            _ if self.phase.is_stopping() => self.take_engines_back(),
            Ok(reloaded) => match self.apply(reloaded).await {
                Applied::Complete => {}
                Applied::EngineMissing => {
                    self.take_engines_back();
                    incomplete = true;
                }
            },
            Err(reason) => {
                self.take_engines_back();
                tracing::error!("the configuration stays as it is:\n{reason}");
                self.context.node_publisher.event("reload_failed", None, reason);
            }
        }
        match self.phase.end_reload(incomplete) {
            AfterReload::Serve => self.service.ready(),
            AfterReload::ReadAgain => self.reload(),
            AfterReload::Stop => {}
        }
    }

    /// Returns the engines that can be kept, each with a way to have it freed for another that needs its device.
    fn running_engines(&self) -> Vec<RunningEngine> {
        let engine = |pipeline: &PipelineHandle| {
            let (id, events) = (pipeline.id, self.context.events.clone());
            pipeline.running_engine(Box::new(move || {
                let (waiter, released) = mpsc::channel();
                let _ = events.send(DaemonEvent::ReleaseEngine(id, waiter));
                // If the engine is not freed in time, the next one reports that it cannot have the device.
                let _ = released.recv_timeout(RELEASE);
            }))
        };
        self.pipelines.iter().filter_map(engine).collect()
    }

    fn take_engines_back(&mut self) {
        self.pipelines.iter_mut().for_each(PipelineHandle::take_engine_back);
    }
}

/// Returns a problem for each key that only a restart can change.
fn refused(old: &Config, new: &Config) -> Vec<Problem> {
    let keys = plan::restart_only(old, new).into_iter();
    keys.map(|key| Problem::new(key, "only a restart can change this")).collect()
}
