//! The meters of the configuration, built and not read yet.

use super::mqtt::{connect_options, node_connection};
use crate::config::{Config, Meter as Configured, Power};
use crate::meter::shared::SharedMeters;
use crate::meter::{Meter, Surroundings};
use crate::mqtt::NodeConnection;
use crate::sys::cpu::Children;

/// What meters need to know of this process and its node.
#[derive(Debug, Clone)]
pub struct MeterContext {
    /// Processes whose processor time counts as ours.
    pub children: Children,
    /// How the node connects to its broker.
    pub node: NodeConnection,
}

impl MeterContext {
    /// Returns what there is outside of a running daemon, with the processes `children`.
    pub fn new(config: &Config, children: Children) -> Self {
        Self { children, node: node_connection(&config.mqtt, connect_options(&config.mqtt)) }
    }
}

/// Returns the meters of the configuration, in its order.
pub fn build(power: &Power, context: &MeterContext) -> Vec<Box<dyn Meter>> {
    let corrections = power.meters.iter().map(|meter| (meter.name.clone(), meter.corrections.clone())).collect();
    let surroundings = Surroundings {
        sysfs: power.sysfs.clone(),
        period: power.sample_period,
        children: context.children.clone(),
        node: Some(context.node.clone()),
        shared: SharedMeters::default(),
        corrections,
    };
    let is_part = |name: &String| power.meters.iter().any(|meter| meter.kind.kind().parts().contains(name));
    let build = |Configured { name, kind, .. }: &Configured| -> Box<dyn Meter> {
        if is_part(name) {
            Box::new(surroundings.shared.reader(name, kind, &surroundings))
        } else {
            surroundings.build(name, kind)
        }
    };
    power.meters.iter().map(build).collect()
}
