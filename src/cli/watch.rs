//! `edgewatt watch`: subscribes to a broker, and shows what nodes publish. Owns the connection, which runs on a thread of
//! its own; what is seen is `view`'s.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::mpsc::{
    Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, error::TryRecvError, unbounded_channel,
};
use tokio::time::{sleep, sleep_until};

use crate::config::{Broker, Document, parse_broker};
use crate::load::mqtt::connect_options;
use crate::mqtt::Version;
use crate::mqtt::codec::{Incoming, Outgoing, Session};
use crate::mqtt::connection::{ConnectOptions, Connection, Lost};
use crate::publish::message::{Bytes, Qos};
use crate::sys::hostname;
use crate::view::{self, Actions, Fed, Feed, Mode, Request};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The address of the broker
    #[arg(short, long, default_value = "mqtt://127.0.0.1:1883", value_name = "URL")]
    broker: String,
    /// Use the broker, user, password and certificates of this configuration
    #[arg(short, long, value_name = "FILE", conflicts_with = "broker")]
    config: Option<PathBuf>,
    /// The topic filter to subscribe to; edgewatt/NODE/# shows one node only
    #[arg(short, long, default_value = "edgewatt/#", value_name = "FILTER")]
    topic: String,
    /// Write plain lines, also in a terminal
    #[arg(short, long)]
    lines: bool,
    /// Write each message as one line of JSON; docs/json.md describes its fields
    #[arg(long, conflicts_with = "lines")]
    json: bool,
}

const RECONNECT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that wait for the view; then the broker waits.
const ROOM: usize = 1024;
/// How long the broker is told to keep a command, over MQTT 5.
const COMMAND_EXPIRES_S: u32 = 10;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut options = options(args)?;
    options.client_id = format!("edgewatt-watch-{}", std::process::id());
    let mode = match Mode::choose() {
        _ if args.json => Mode::Json,
        Mode::Screen if !args.lines => Mode::Screen,
        _ => Mode::NodeLines,
    };
    let signal = Arc::<AtomicUsize>::default();
    let finish = Arc::<AtomicBool>::default();
    if mode == Mode::Screen {
        // By default they would end the program without restoring the terminal.
        for number in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register(number, finish.clone())?;
            signal_hook::flag::register_usize(number, signal.clone(), usize::try_from(number)?)?;
        }
    }
    let (to_view, messages) = channel(ROOM);
    let (commands, to_send) = unbounded_channel();
    let filter = args.topic.clone();
    std::thread::Builder::new()
        .name("mqtt".to_owned())
        .spawn(move || receive(&options, &filter, &to_view, to_send))
        .context("cannot start a thread")?;
    let (mut feed, mut actions) = (Mqtt { messages }, Commands { commands });
    view::show(mode, &mut feed, &mut actions, &finish)?;
    let signal = i32::try_from(signal.load(Ordering::Relaxed))?;
    if signal > 0 {
        // The terminal is restored; now the signal does what it does by default.
        signal_hook::low_level::emulate_default_handler(signal)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn options(args: &Args) -> anyhow::Result<ConnectOptions> {
    let written = args.config.as_ref().map_or(args.broker.clone(), |file| file.display().to_string());
    let no_broker =
        |what: &str| anyhow!("{written}: {what}; give the address of a broker, such as mqtt://127.0.0.1:1883");
    let broker = match &args.config {
        Some(file) => {
            let config = Document::read(file)?.parse(hostname().as_deref())?;
            if let (Broker::At(_), Some(options)) = (&config.mqtt.broker, connect_options(&config.mqtt)) {
                return Ok(options);
            }
            config.mqtt.broker
        }
        None => parse_broker(&args.broker).map_err(anyhow::Error::msg)?,
    };
    match broker {
        Broker::None => Err(no_broker("\"none\" is no broker; `edgewatt run --watch` shows a daemon without one")),
        Broker::Embedded => Err(no_broker("\"embedded\" is a broker inside the daemon")),
        Broker::At(endpoint) => Ok(ConnectOptions {
            endpoint,
            // Every broker supports it.
            version: Version::Three,
            login: None,
            client_id: String::new(),
            keep_alive: Duration::from_secs(30),
            connect_timeout: CONNECT_TIMEOUT,
            max_qos: Qos::AtLeastOnce,
            retain: true,
            session: Session::default(),
        }),
    }
}

/// What the connection has for the view.
enum FromBroker {
    Message { topic: String, payload: Vec<u8> },
    Connected,
    Lost(String),
    Failed(anyhow::Error),
}

/// Messages that the connection's thread has received.
struct Mqtt {
    messages: Receiver<FromBroker>,
}

impl Feed for Mqtt {
    fn next(&mut self) -> Fed {
        match self.messages.try_recv() {
            Ok(FromBroker::Message { topic, payload }) => Fed::Message { topic, payload },
            Ok(FromBroker::Connected) => Fed::Link(None),
            Ok(FromBroker::Lost(reason)) => Fed::Link(Some(reason)),
            Ok(FromBroker::Failed(error)) => Fed::End(Err(error)),
            Err(TryRecvError::Empty) => Fed::Nothing,
            Err(TryRecvError::Disconnected) => Fed::End(Ok(())),
        }
    }
}

/// A command to publish: topic and payload.
type Command = (String, String);

/// Actions become commands over MQTT.
struct Commands {
    commands: UnboundedSender<Command>,
}

impl Actions for Commands {
    fn ask(&mut self, prefix: &str, request: Request) -> Result<(), String> {
        let (verb, payload) = match request {
            Request::Pause(pipeline) => ("pause", json!({ "pipeline": pipeline })),
            Request::Resume(pipeline) => ("resume", json!({ "pipeline": pipeline })),
            Request::SetDelegate { pipeline, delegate } => {
                ("delegate", json!({ "pipeline": pipeline, "delegate": delegate }))
            }
        };
        let command = (format!("{prefix}/cmd/{verb}"), payload.to_string());
        self.commands.send(command).map_err(|_| "there is no connection to the broker any more".to_owned())
    }

    fn quit(&mut self) -> bool {
        true
    }
}

/// Receives messages until the view is gone. Only the first connection must succeed.
fn receive(
    options: &ConnectOptions,
    filter: &str,
    to_view: &Sender<FromBroker>,
    mut commands: UnboundedReceiver<Command>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // The view is there to take it.
            let _ = to_view.blocking_send(FromBroker::Failed(anyhow!("cannot start tokio: {error}")));
            return;
        }
    };
    runtime.block_on(async {
        let mut connected = false;
        loop {
            let lost = match session(options, filter, to_view, &mut commands, &mut connected).await {
                Ok(()) => return,
                Err(lost) if !connected => {
                    let lost = lost.explained(options).await;
                    FromBroker::Failed(anyhow!("no connection to {}: {lost}", options.address()))
                }
                Err(lost) => {
                    FromBroker::Lost(format!("no connection to {}: {lost}; connecting again", options.address()))
                }
            };
            if to_view.send(lost).await.is_err() || !connected {
                return;
            }
            sleep(RECONNECT).await;
            // They were meant for then.
            while commands.try_recv().is_ok() {}
        }
    });
}

/// Receives over one connection. Returns when the view is gone.
async fn session(
    options: &ConnectOptions,
    filter: &str,
    to_view: &Sender<FromBroker>,
    commands: &mut UnboundedReceiver<Command>,
    connected: &mut bool,
) -> Result<(), Lost> {
    let until = tokio::time::Instant::now() + options.connect_timeout;
    let mut connection = Connection::open(options, None, until, |_, _, _| {}).await?;
    *connected = true;
    connection.subscribe(filter, 1)?;
    if to_view.send(FromBroker::Connected).await.is_err() {
        return Ok(());
    }
    loop {
        connection.write().await?;
        let ping_at = connection.ping_at();
        let incoming = tokio::select! {
            biased;
            incoming = connection.read() => incoming?,
            command = commands.recv() => {
                let Some((topic, payload)) = command else { return Ok(()) };
                publish(&mut connection, &topic, &Bytes::from(payload))?;
                continue;
            }
            () = sleep_until(ping_at) => { connection.ping()?; continue }
        };
        match incoming {
            Incoming::Message { topic, payload, packet_id, .. } => {
                let message = FromBroker::Message { topic: topic.to_string(), payload: payload.to_vec() };
                if to_view.send(message).await.is_err() {
                    return Ok(());
                }
                if let Some(packet_id) = packet_id {
                    connection.ack(packet_id)?;
                }
            }
            Incoming::SubAck { refused: true } => {
                return Err(Lost::new(format!("the broker refuses the subscription to {filter}")));
            }
            Incoming::Disconnect(reason) => return Err(reason.into()),
            _ => {}
        }
    }
}

/// Publishes a command. It is not sent again: a command that comes late is worse than one that does not come.
fn publish(connection: &mut Connection, topic: &str, payload: &Bytes) -> Result<(), Lost> {
    let (qos, expiry_s) = (Qos::AtMostOnce, Some(COMMAND_EXPIRES_S));
    connection.publish(&Outgoing { topic, payload, qos, retain: false, packet_id: 0, expiry_s, waited_ms: None })
}
