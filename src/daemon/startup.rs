//! What happens before the daemon runs: signals, a calibration if one is asked for, and the delivery to the broker.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context;
use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::AbortHandle;

use super::RunOptions;
use super::discovery::Discovery;
use super::health::DaemonState;
use super::retained_topics::RetainedTopics;
use super::systemd;
use crate::config::{Broker, Config};
use crate::load::Prepared;
use crate::load::mqtt::{self, MQTT_PORT, RETAINED, node_connection, settings, start_store};
use crate::load::state_dir;
use crate::measure::calibrate::{self, Outcome};
use crate::mqtt::{ConnectOptions, Endpoint, NodeConnection, Version};
use crate::publish::bus::Bus;
use crate::publish::mqtt::broker;
use crate::publish::mqtt::store::Store;
use crate::publish::mqtt::{Handle, MqttClient, Received};
use crate::publish::publisher::{NodePublisher, PublishLatency};
use crate::publish::topic::NodeTopics;
use crate::secret::Password;
use crate::stop::{Stop, StopRequests};
use crate::sys;

/// Messages from the broker that wait for the async thread.
const INBOX: usize = 64;

/// The user of the embedded broker, unless `mqtt.user` is set.
const BROKER_USER: &str = "edgewatt";
/// Its password in the state directory.
const BROKER_PASSWORD: &str = "embedded-broker-password";

/// Returns how to connect to the broker, if there is one; starts the embedded one if the configuration asks for it.
pub(crate) fn connect_options(config: &Config) -> anyhow::Result<Option<ConnectOptions>> {
    let options = mqtt::connect_options(&config.mqtt);
    let (Broker::Embedded, Some(options)) = (&config.mqtt.broker, &options) else { return Ok(options) };
    let login = match &options.login {
        Some(login) => login.clone(),
        None => (BROKER_USER.to_owned(), broker_password(config)?),
    };
    let (user, file) = &login;
    let address: SocketAddr = broker::start(MQTT_PORT, user, &Password::read(file)?)?;
    tracing::info!(user, password_file = %file.display(), "clients of the embedded MQTT broker log in");
    let (host, port) = (address.ip().to_string(), address.port());
    let endpoint = Endpoint { host, port, tls: None, websocket: None };
    // It speaks no other version.
    Ok(Some(ConnectOptions { endpoint, version: Version::Three, login: Some(login), ..options.clone() }))
}

/// Returns the file with the password of the embedded broker. It stays the same from start to start.
fn broker_password(config: &Config) -> anyhow::Result<PathBuf> {
    let folder = state_dir::folder(config.state_dir.as_deref());
    state_dir::secret(&folder, BROKER_PASSWORD).with_context(|| {
        format!(
            "cannot make the password of the embedded broker in {}; set node.state_dir to a folder of this user, or \
             mqtt.user and mqtt.password_file",
            folder.display()
        )
    })
}

pub(crate) fn listen_for_signals(options: &RunOptions) -> anyhow::Result<Signals> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot listen for signals")?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, options.stop.clone()).context("cannot listen for signals")?;
    }
    Ok(signals)
}

/// What was loaded, after the calibrations, and what has come of these.
pub(crate) struct Calibrated {
    pub config: Config,
    pub prepared: Prepared,
    pub outcomes: Vec<Outcome>,
}

/// Calibrates if the configuration or the options ask for it. Returns `None` if a signal has ended it. `progress` is called
/// before each pipeline.
pub(crate) async fn calibrate(
    config: Config,
    mut prepared: Prepared,
    signals: &mut Signals,
    options: &RunOptions,
    progress: impl Fn() + Send + 'static,
) -> anyhow::Result<Option<Calibrated>> {
    if !config.power.calibrate_at_start && !options.calibrate {
        return Ok(Some(Calibrated { config, prepared, outcomes: Vec::new() }));
    }
    let stop = Arc::new(Stop::new().context("cannot make an eventfd")?);
    let (until, again) = (stop.clone(), options.calibrate);
    let what = "calibrating, before any source starts";
    systemd::set_starting_status(what);
    options.health.set_state(DaemonState::Starting, Some(what));
    let mut work = tokio::task::spawn_blocking(move || {
        let outcomes = calibrate::at_start(&config, &mut prepared, again, &until, progress);
        Calibrated { config, prepared, outcomes }
    });
    let mut requests = StopRequests::default();
    loop {
        tokio::select! {
            done = &mut work => {
                let calibrated = done.context("the calibration panicked")?;
                return Ok((!stop.is_requested()).then_some(calibrated));
            }
            Some(signal) = signals.next() => match signal {
                SIGHUP => options.reload.store(true, Ordering::Relaxed),
                _ if requests.is_impatient(Instant::now()) => anyhow::bail!("stopped by a second signal"),
                _ if stop.is_requested() => {}
                _ => {
                    requests.add(Instant::now());
                    tracing::info!(signal, "stopping");
                    stop.request();
                }
            },
        }
    }
}

/// The task that delivers messages to the broker.
pub(crate) struct DeliveryTask {
    pub handle: Handle,
    pub task: AbortHandle,
}

/// The bus, and the delivery to the broker: the task that does it, and the ways to and from it.
pub(crate) struct Delivery {
    /// `None`: there is no broker.
    pub task: Option<DeliveryTask>,
    /// How the node connects to its broker.
    pub broker: NodeConnection,
    pub node_publisher: NodePublisher,
    pub publish_latency: PublishLatency,
    pub received: Receiver<Received>,
    pub discovery: Option<Discovery>,
    pub retained: Option<RetainedTopics>,
    pub store: Option<Store>,
}

/// Makes the bus, and starts to deliver what is on it. The broker need not be there; without `connect` there is none.
/// `config_file`: where the configuration is from.
pub(crate) fn start_delivery(
    config: &Config,
    config_file: &Path,
    connect: Option<ConnectOptions>,
) -> anyhow::Result<Delivery> {
    let boot: Arc<str> = sys::boot_id().context("cannot read /proc/sys/kernel/random/uuid")?.into();
    let topics = NodeTopics::new(&config.mqtt.base_topic, &config.node_id);
    let publish_latency = PublishLatency::default();
    let (inbox, received) = mpsc::channel(INBOX);
    let bus = Bus::new(RETAINED);
    let broker = node_connection(&config.mqtt, connect.clone());
    let Some(connect) = connect else {
        tracing::info!("mqtt.broker is \"none\": nothing is published over MQTT");
        let node_publisher = NodePublisher { bus, boot, topics };
        let (discovery, retained, store) = (None, None, None);
        return Ok(Delivery {
            task: None,
            broker,
            node_publisher,
            publish_latency,
            received,
            discovery,
            retained,
            store,
        });
    };
    let recorder = publish_latency.clone();
    let settings = settings(&config.mqtt, connect, &topics);
    let mut client = MqttClient::new(settings, move |marks, now| recorder.record(marks, now))?;
    let discovery = config.mqtt.discovery.as_ref().map(|prefix| Discovery::new(prefix, &config.node_id));
    let commands = config.mqtt.commands.then(|| format!("{}#", topics.commands()));
    let folder = state_dir::folder(config.state_dir.as_deref());
    let retained = config.mqtt.retain.then(|| RetainedTopics::read(&folder, config_file, &topics));
    let old_names = retained.iter().flat_map(RetainedTopics::filters);
    let filters = discovery.iter().flat_map(Discovery::filters).chain(commands).chain(old_names);
    client.subscribe(filters.collect(), inbox);
    let handle = client.handle();
    let store = start_store(config, handle.clone())?;
    bus.add(handle.clone());
    let node_publisher = NodePublisher { bus, boot, topics };
    let task = Some(DeliveryTask { handle, task: tokio::spawn(client.run()).abort_handle() });
    Ok(Delivery { task, broker, node_publisher, publish_latency, received, discovery, retained, store })
}
