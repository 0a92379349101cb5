//! Another configuration while the daemon runs: the file read again, or the same one with another delegate.
//!
//! `plan` decides what a difference needs, `apply` does it. Reading the file, and loading what it names, happens on
//! a thread that may block; only what is complete is put in place, on the async thread. Any error leaves everything as it
//! was.

mod apply;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::mpsc;
use std::time::Duration;

use self::apply::Applied;
use super::event::{Cause, DaemonEvent, Reloaded};
use super::phase::{AfterReload, Phase};
use super::pipeline::PipelineHandle;
use super::pipeline::threads::catch_panic;
use super::state::Daemon;
use crate::config::{Config, Problem};
use crate::load::engines::EngineContext;
use crate::load::{self, Prepared, RunningEngine, Unusable};

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
        self.update_health();
        let (path, old) = (self.options.config.clone(), self.config.clone());
        self.load(Cause::Reload, move |engine_context, engines| {
            load::load_with(&path, |new, document| {
                let problems = refused(&old, new);
                if problems.is_empty() {
                    Ok((engine_context, engines))
                } else {
                    Err(Unusable::new(document, &problems))
                }
            })
            .map_err(|unusable| unusable.to_string())
        });
    }

    /// Has a pipeline's model run by another delegate, which must work and agree with the reference first. Returns the
    /// answer for whoever asked; the error says why it is refused.
    pub(crate) fn set_delegate(&mut self, pipeline: &str, delegate: &str) -> Result<String, String> {
        if self.phase != Phase::Running {
            return Err("the daemon is reloading or stopping; try again later".to_owned());
        }
        let config = self.config.with_delegate(pipeline, delegate)?;
        self.phase.request_reload();
        self.service.reloading();
        self.update_health();
        let cause = Cause::SetDelegate { pipeline: pipeline.to_owned(), delegate: delegate.to_owned() };
        self.load(cause, move |engine_context, engines| {
            let prepared = load::load_changed(&config, &engine_context, &engines)?;
            Ok((config, prepared))
        });
        Ok(format!("trying {delegate} for {pipeline}"))
    }

    /// Loads another configuration on a thread that may block; the result comes back as an event.
    fn load(
        &self,
        cause: Cause,
        work: impl FnOnce(EngineContext, Vec<RunningEngine>) -> Result<(Config, Prepared), String> + Send + 'static,
    ) {
        let (engine_context, engines) = (self.engine_context.clone(), self.running_engines());
        let events = self.context.events.clone();
        tokio::task::spawn_blocking(move || {
            let loaded = catch_panic(|| work(engine_context, engines));
            let result = loaded.map(|(config, prepared)| Reloaded { config, prepared });
            let _ = events.send(DaemonEvent::Reloaded(cause, Box::new(result)));
        });
    }

    /// Puts another configuration in place, if it can be used.
    pub(crate) async fn reloaded(&mut self, cause: Cause, result: Result<Reloaded, String>) {
        let mut read_again = false;
        match result {
            _ if self.phase.is_stopping() => self.take_engines_back(),
            Ok(reloaded) => match (self.apply(&cause, reloaded).await, cause) {
                (Applied::Complete, _) => {}
                (Applied::EngineMissing, Cause::Reload) => {
                    self.take_engines_back();
                    read_again = true;
                }
                (Applied::EngineMissing, cause @ Cause::SetDelegate { .. }) => {
                    self.refused(&cause, "an engine has ended in the meantime; try again".to_owned());
                }
            },
            Err(reason) => self.refused(&cause, reason),
        }
        match self.phase.end_reload(read_again) {
            AfterReload::Serve => self.service.ready(),
            AfterReload::ReadAgain => self.reload(),
            AfterReload::Stop => {}
        }
        self.update_health();
    }

    /// The other configuration cannot be used: everything stays as it is.
    fn refused(&mut self, cause: &Cause, reason: String) {
        self.take_engines_back();
        let node_publisher = &self.context.node_publisher;
        match cause {
            Cause::Reload => {
                tracing::error!("the configuration stays as it is:\n{reason}");
                node_publisher.event("reload_failed", None, reason);
            }
            Cause::SetDelegate { pipeline, delegate } => {
                let message = format!("delegate: {pipeline} cannot run by {delegate}: {reason}");
                tracing::error!("{message}");
                node_publisher.event("command_refused", Some(pipeline), message);
            }
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
