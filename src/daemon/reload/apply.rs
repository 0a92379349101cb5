//! Carries out what a reload has to do, and what it has left to do once pipelines have ended. Runs on the async thread.

use std::collections::BTreeMap;

use super::plan::{PresentPipeline, Step, plan};
use crate::config::{Config, Pipeline};
use crate::daemon::event::{Cause, Reloaded};
use crate::daemon::metering::{self, Metering};
use crate::daemon::pipeline::{AfterEnd, CarriedOver, PipelineHandle, Replacement};
use crate::daemon::state::{Daemon, every};
use crate::ids::PipelineId;
use crate::load::meters::MeterContext;
use crate::load::{Prepared, PreparedPipeline, state_dir};
use crate::measure::calibrations::Calibrations;
use crate::publish::payload::PipelineState;
use crate::publish::publisher::Condition;
use crate::sys::SocTemperature;

/// How far a configuration was put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    Complete,
    /// Nothing was changed: an engine that was to be kept has ended while the file was read.
    EngineMissing,
}

impl Daemon {
    /// Puts a configuration in place, and announces what has changed.
    pub(super) async fn apply(&mut self, cause: &Cause, Reloaded { config, prepared }: Reloaded) -> Applied {
        let Prepared { pipelines: prepared, .. } = prepared;
        if config.pipelines.iter().zip(&prepared).any(|(config, prepared)| self.lacks_engine(config, prepared)) {
            return Applied::EngineMissing;
        }
        let steps = self.plan(&config, &prepared);
        let ids = self.pipeline_ids();
        let named = config
            .pipelines
            .iter()
            .cloned()
            .zip(prepared)
            .map(|(config, prepared)| (config.name.clone(), Replacement { config, prepared }));
        let mut replacements: BTreeMap<String, Replacement> = named.collect();
        for step in &steps {
            self.take_step(step, &config, &mut replacements);
        }
        let restart_meters = steps.contains(&Step::RestartMeters) || self.pipeline_ids() != ids;
        self.reported.temperature = SocTemperature::find(&config.power.sysfs);
        self.config = config;
        self.calibrations = Calibrations::read_or_none(&state_dir::folder(self.config.state_dir.as_deref()));
        if restart_meters {
            self.restart_metering().await;
        } else if steps.contains(&Step::SetPowerSettings) {
            self.metering.set_power(&self.config.power);
        }
        self.publish_info();
        let changes: Vec<String> = steps.iter().map(Step::to_string).collect();
        let changes = if changes.is_empty() { "nothing has changed".to_owned() } else { changes.join(", ") };
        match cause {
            Cause::Reload => {
                let hash = &self.config.hash;
                tracing::info!(config = hash, "reloaded: {changes}");
                self.context.node_publisher.event("reload", None, format!("configuration {hash}: {changes}"));
            }
            Cause::SetDelegate { pipeline, delegate } => {
                let message = format!("delegate: {pipeline} runs by {delegate} until the configuration is read again");
                tracing::info!("{message}");
                self.context.node_publisher.event("command", Some(pipeline), message);
            }
        }
        Applied::Complete
    }

    fn plan(&self, config: &Config, prepared: &[PreparedPipeline]) -> Vec<Step> {
        let present = self.pipelines.iter().map(|pipeline| {
            let names = config.pipelines.iter().map(|config| &config.name);
            let new = names.zip(prepared).find(|(name, _)| **name == pipeline.config.name);
            PresentPipeline {
                config: &pipeline.config,
                is_live: !pipeline.infer_has_ended() && matches!(pipeline.after_end, AfterEnd::Keep),
                new_labels: new.is_some_and(|(_, prepared)| prepared.labels != pipeline.labels()),
                new_engine: new.is_some_and(|(_, prepared)| prepared.built.is_some()),
            }
        });
        plan(&self.config, config, &present.collect::<Vec<_>>())
    }

    fn take_step(&mut self, step: &Step, config: &Config, replacements: &mut BTreeMap<String, Replacement>) {
        let patience = self.config.mqtt.stop_timeout / 2;
        match step {
            Step::RemovePipeline(name) => {
                if let Some(pipeline) = self.pipeline_named(name) {
                    pipeline.end(AfterEnd::Remove, patience);
                }
            }
            Step::AddPipeline(name) => {
                if let Some(new) = replacements.remove(name) {
                    self.add_pipeline(new);
                }
            }
            Step::ChangeStages(name) => {
                if let (Some(pipeline), Some(new)) = (self.pipeline_named(name), replacements.remove(name)) {
                    pipeline.change_stages(new);
                }
            }
            Step::ReplacePipeline(name) => {
                if let (Some(pipeline), Some(new)) = (self.pipeline_named(name), replacements.remove(name)) {
                    pipeline.end(AfterEnd::Replace(Box::new(new)), patience);
                }
            }
            // After all steps, when the pipelines to measure are known; meters that start again take the settings over.
            Step::RestartMeters | Step::SetPowerSettings => {}
            Step::SetPowerInterval => self.timers.power = config.power.interval.map(every),
            Step::SetMetricsInterval => self.timers.metrics = every(config.metrics_interval),
        }
    }

    /// Starts a new pipeline, or queues it behind one that is to be removed and still reads the same stream.
    fn add_pipeline(&mut self, new: Replacement) {
        let reads_same = |present: &&mut PipelineHandle| {
            matches!(present.after_end, AfterEnd::Remove) && present.config.source.shares_with(&new.config.source)
        };
        match self.pipelines.iter_mut().find(reads_same) {
            Some(ending) => ending.after_end = AfterEnd::Replace(Box::new(new)),
            None => self.start_pipeline(new, None),
        }
    }

    /// Returns whether the engine that was to be kept has ended with its pipeline while the file was read.
    fn lacks_engine(&self, config: &Pipeline, prepared: &PreparedPipeline) -> bool {
        let present = self.pipelines.iter().find(|present| present.config.name == config.name);
        let is_kept = |present: &PipelineHandle| !present.infer_has_ended() || present.config == *config;
        prepared.built.is_none() && !present.is_some_and(is_kept)
    }

    /// Starts a pipeline. If it cannot be started, that is published, and the others continue.
    fn start_pipeline(&mut self, new: Replacement, carried_over: Option<CarriedOver>) {
        let name = new.config.name.clone();
        let delegate = new.prepared.built.as_ref().map(|built| built.state.clone());
        match PipelineHandle::start(self.next_id, new, None, carried_over, &self.context) {
            Ok(pipeline) => self.pipelines.push(pipeline),
            Err(error) => {
                let reason = format!("cannot start: {error:#}");
                tracing::error!(pipeline = name, "{reason}");
                let node_publisher = &self.context.node_publisher;
                if let Some(delegate) = &delegate {
                    let topics = node_publisher.topics.pipeline(&name);
                    let failed = Condition { state: PipelineState::Failed, predicting: false, gate: None };
                    node_publisher.status(&topics, failed, Some(&reason), delegate);
                }
                node_publisher.event("failed", Some(&name), reason);
            }
        }
        self.next_id = PipelineId(self.next_id.0 + 1);
    }

    /// Removes the pipelines that have ended for a reload, and starts those that replace them.
    pub(crate) async fn reap(&mut self) {
        // At a stop all are kept for their figures.
        while !self.phase.is_stopping()
            && let Some(place) = self.pipelines.iter().position(PipelineHandle::is_to_be_reaped)
        {
            if matches!(self.pipelines[place].after_end, AfterEnd::Remove) {
                self.publish_metrics().await;
            }
            let mut ended = self.pipelines.remove(place);
            self.context.publish_latency.remove(ended.id);
            if let AfterEnd::Replace(new) = std::mem::replace(&mut ended.after_end, AfterEnd::Keep) {
                let carried_over = (new.config.name == ended.config.name).then(|| ended.carry_over());
                self.start_pipeline(*new, carried_over);
                self.restart_metering().await;
            }
            self.publish_info();
        }
    }

    /// Starts the meter thread again, for the meters and pipelines that there are now.
    async fn restart_metering(&mut self) {
        self.metering.finish(metering::PATIENCE).await;
        self.publish_metrics().await;
        let context =
            MeterContext { children: self.engine_context.launcher.children.clone(), node: self.context.broker.clone() };
        match Metering::start(&self.config.power, self.pipeline_ids(), context, Some(&self.metering)) {
            Ok((metering, spans)) => {
                self.metering = metering;
                for (pipeline, spans) in self.pipelines.iter().zip(spans) {
                    pipeline.send_spans_to(spans);
                }
                self.inform_metering();
            }
            Err(error) => {
                let reason = format!("cannot start the meter thread: {error}");
                tracing::error!("{reason}; energy is unavailable");
                self.context.node_publisher.event("failed", None, reason);
            }
        }
    }

    fn pipeline_named(&mut self, name: &str) -> Option<&mut PipelineHandle> {
        self.pipelines.iter_mut().find(|pipeline| pipeline.config.name == name)
    }

    fn pipeline_ids(&self) -> Vec<PipelineId> {
        self.pipelines.iter().map(|pipeline| pipeline.id).collect()
    }
}
