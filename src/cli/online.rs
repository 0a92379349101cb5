//! `edgewatt check --online`: connects to the broker, publishes a message, tries the subscriptions of sources and meters,
//! and shows each step with the time it took.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::config::{Broker, Config};
use crate::load::mqtt::{connect_options, node_connection};
use crate::meter::meter_client;
use crate::mqtt::Subscription;
use crate::mqtt::codec::{Incoming, Limits, Outgoing, Session, Version};
use crate::mqtt::connection::{ConnectOptions, Connection, Lost, Will};
use crate::publish::message::{Bytes, Qos};
use crate::publish::mqtt::limits_text;
use crate::publish::topic::NodeTopics;
use crate::source::{SourceSubscription, part_name};

/// How long an acknowledged message may take to be received.
const ECHO: Duration = Duration::from_secs(2);
/// Below this, the largest messages of a node are in danger: info, metrics and Home Assistant's discovery.
const SMALL_PACKET_BYTES: u32 = 8192;
const EMBEDDED: &str = "embedded; it exists only while the daemon runs";
const SUBSCRIBE_ID: u16 = 1;
const PUBLISH_ID: u16 = 2;

/// Shows each step. Returns whether all of them succeeded.
pub(crate) fn run(config: &Config) -> anyhow::Result<bool> {
    let mut succeeded = match to_try(config) {
        Ok(options) => {
            writeln!(io::stdout(), "  broker {}, MQTT {}", options.address(), options.version.name())?;
            shown(connect_and_publish(config, &options, show)?)?
        }
        Err(why) => {
            writeln!(io::stdout(), "  broker: {why}")?;
            true
        }
    };
    for Subscribed { user, subscription, options, .. } in subscriptions(config) {
        match options {
            Ok(options) => {
                let (address, version) = (options.address(), options.version.name());
                writeln!(io::stdout(), "  {user}: broker {address}, MQTT {version}")?;
                succeeded &= shown(connect_and_subscribe(&subscription, &options, show)?)?;
            }
            Err(why) => writeln!(io::stdout(), "  {user}: {why}")?,
        }
    }
    Ok(succeeded)
}

fn show(step: &str, took: Duration, detail: &str) {
    // A closed terminal is not an error.
    let _ = writeln!(io::stdout(), "    {step:<10} {:>8.1} ms  {detail}", took.as_secs_f64() * 1e3);
}

/// Shows how the steps have ended. Returns whether they have succeeded.
fn shown(outcome: Result<(), String>) -> io::Result<bool> {
    if let Err(reason) = &outcome {
        writeln!(io::stdout(), "    failed: {reason}")?;
    }
    Ok(outcome.is_ok())
}

/// Returns how to connect to the broker for a test; the error says why there is nothing to test.
pub(crate) fn to_try(config: &Config) -> Result<ConnectOptions, &'static str> {
    let none = "none: nothing is published over MQTT";
    let options = connect_options(&config.mqtt).ok_or(none)?;
    if config.mqtt.broker == Broker::Embedded {
        return Err(EMBEDDED);
    }
    Ok(for_a_test(options))
}

/// A daemon may be running with the plain id, and the broker would disconnect it for a second client.
fn for_a_test(options: ConnectOptions) -> ConnectOptions {
    ConnectOptions { client_id: format!("{}-check", options.client_id), session: Session::default(), ..options }
}

/// What a pipeline's source, or a meter, subscribes to.
pub(crate) struct Subscribed {
    /// Such as `source of pipeline p`.
    pub user: String,
    /// Its key in the configuration.
    pub key: String,
    pub subscription: Subscription,
    /// How to connect for a test; or why there is nothing to test.
    pub options: Result<ConnectOptions, &'static str>,
}

/// Returns what sources and meters subscribe to.
pub(crate) fn subscriptions(config: &Config) -> impl Iterator<Item = Subscribed> {
    let node = node_connection(&config.mqtt, connect_options(&config.mqtt));
    let is_embedded = config.mqtt.broker == Broker::Embedded;
    let of_sources = config.pipelines.iter().flat_map(|pipeline| {
        let wanted = pipeline.source.kind().subscriptions().into_iter();
        wanted.map(move |SourceSubscription { part, subscription, .. }| {
            let name = &pipeline.name;
            let (user, key) = (format!("source of pipeline {name}"), format!("pipelines.{name}.source"));
            (user, key, part_name(name, part.as_deref()), subscription)
        })
    });
    let of_meters = config.power.meters.iter().filter_map(|meter| {
        let (user, key) = (format!("meter {}", meter.name), format!("power.meters.{}", meter.name));
        Some((user, key, meter_client(&meter.name), meter.kind.kind().subscription()?))
    });
    of_sources.chain(of_meters).map(move |(user, key, client, subscription)| {
        let options = match subscription.connect_options(&node, &client) {
            Some(_) if is_embedded && subscription.other.is_none() => Err(EMBEDDED),
            Some(options) => Ok(for_a_test(options)),
            None => Err("there is no broker to subscribe to"),
        };
        Subscribed { user, key, subscription, options }
    })
}

/// Connects to a broker and subscribes as a source does; calls `report` after each step. Returns why a step failed.
pub(crate) fn connect_and_subscribe(
    subscription: &Subscription,
    options: &ConnectOptions,
    report: impl FnMut(&str, Duration, &str),
) -> anyhow::Result<Result<(), String>> {
    let outcome = walk(options, subscribe(options, subscription, report))?;
    Ok(outcome.map_err(|reason| subscription.in_its_words(reason)))
}

async fn subscribe(
    options: &ConnectOptions,
    subscription: &Subscription,
    mut report: impl FnMut(&str, Duration, &str),
) -> Result<(), Lost> {
    let mut connection = log_in(options, &mut report).await?;
    let begun = Instant::now();
    connection.subscribe_as(&subscription.packet(), SUBSCRIBE_ID)?;
    let is_granted = answer(&mut connection, options, |incoming| match incoming {
        Incoming::SubAck { refused } => Some(!refused),
        _ => None,
    })
    .await?;
    if !is_granted {
        return Err(Lost::new(subscription.refusal()));
    }
    report("subscribe", begun.elapsed(), &format!("{}, granted", subscription.topic));
    connection.disconnect();
    connection.write().await
}

/// Connects to the broker and publishes a message; calls `report` after each step. Returns why a step failed.
pub(crate) fn connect_and_publish(
    config: &Config,
    options: &ConnectOptions,
    report: impl FnMut(&str, Duration, &str),
) -> anyhow::Result<Result<(), String>> {
    let topic = NodeTopics::new(&config.mqtt.base_topic, &config.node_id).check();
    walk(options, steps(options, &topic, report))
}

/// Returns what lists each step in a line.
pub(crate) fn list_into(lines: &mut Vec<String>) -> impl FnMut(&str, Duration, &str) {
    |step, took, detail| lines.push(format!("{step} {:.1} ms {detail}", took.as_secs_f64() * 1e3))
}

/// Takes the steps, and explains why one has failed.
fn walk(options: &ConnectOptions, steps: impl Future<Output = Result<(), Lost>>) -> anyhow::Result<Result<(), String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let outcome = runtime.block_on(async {
        match steps.await {
            Ok(()) => Ok(()),
            Err(lost) => Err(lost.explained(options).await.to_string()),
        }
    });
    // A name look-up that hangs must not delay the exit.
    runtime.shutdown_background();
    Ok(outcome)
}

/// Connects and logs in.
async fn log_in(options: &ConnectOptions, report: &mut impl FnMut(&str, Duration, &str)) -> Result<Connection, Lost> {
    let until = Instant::now() + options.connect_timeout;
    let mut connected = Instant::now();
    let connection = Connection::open(options, None, until, |step, took, detail| {
        report(&step.to_string(), took, detail);
        connected = Instant::now();
    })
    .await?;
    let who = options.login.as_ref().map_or("without a user".to_owned(), |(user, _)| format!("as {user}"));
    report("login", connected.elapsed(), &format!("{who}, client id {}", options.client_id));
    Ok(connection)
}

async fn steps(
    options: &ConnectOptions,
    topic: &str,
    mut report: impl FnMut(&str, Duration, &str),
) -> Result<(), Lost> {
    let mut connection = log_in(options, &mut report).await?;
    let limits = connection.limits;
    if let Some(limits) = limits_text(&limits) {
        report("warning", Duration::ZERO, &limits);
    }
    if limits.packet_bytes < SMALL_PACKET_BYTES {
        report(
            "warning",
            Duration::ZERO,
            &format!("the broker takes packets of at most {} bytes", limits.packet_bytes),
        );
    }

    connection.subscribe(topic, SUBSCRIBE_ID)?;
    let readable = answer(&mut connection, options, |incoming| match incoming {
        Incoming::SubAck { refused } => Some(!refused),
        _ => None,
    })
    .await?;
    let payload = Bytes::from_static(b"{\"v\":1,\"check\":true}");
    let qos = Qos::AtLeastOnce;
    let message = Outgoing {
        topic,
        payload: &payload,
        qos,
        retain: false,
        packet_id: PUBLISH_ID,
        expiry_s: Some(10),
        waited_ms: None,
    };
    let begun = Instant::now();
    connection.publish(&message)?;
    let mut echoed = false;
    let refused = if limits.qos == Qos::AtMostOnce {
        // Nobody acknowledges it.
        connection.write().await?;
        None
    } else {
        answer(&mut connection, options, |incoming| match incoming {
            Incoming::PubAck { packet_id: PUBLISH_ID, refused } => Some(*refused),
            Incoming::Message { .. } => {
                echoed = true;
                None
            }
            _ => None,
        })
        .await
        .map_err(|lost| {
            let hint = "this was after a message of QoS 1; the broker may take QoS 0 only (then set mqtt.max_qos = 0), or \
                        refuse the topic (ACL)";
            if lost.is_closed() { lost.hint(hint) } else { lost }
        })?
    };
    if let Some(reason) = refused {
        return Err(Lost::new(format!(
            "publish: the broker refuses {topic} ({reason}); its ACL must allow this topic and all others of the node"
        )));
    }
    let how = if limits.qos == Qos::AtMostOnce { "sent with QoS 0" } else { "acknowledged" };
    report("publish", begun.elapsed(), &format!("{topic}, {how}"));
    if !readable {
        report(
            "subscribe",
            Duration::ZERO,
            "not allowed, and not needed by the daemon; it cannot be checked whether the message arrived",
        );
        return Ok(());
    }
    let deadline = Instant::now() + ECHO;
    while !echoed && Instant::now() < deadline {
        match timeout_at(deadline, connection.read()).await {
            Ok(incoming) => echoed = matches!(incoming?, Incoming::Message { .. }),
            Err(_) => break,
        }
    }
    if echoed {
        report("ACL", begun.elapsed(), "the message came back");
    } else if options.version == Version::Three {
        return Err(Lost::new(format!(
            "ACL: the message on {topic} was acknowledged, but did not come back; only with MQTT 5 can a broker report \
             that it refuses a topic: set mqtt.version = \"5\", or allow writing and reading in its ACL"
        )));
    } else {
        report("ACL", begun.elapsed(), "the message did not come back: this user may write but not read");
    }
    connection.disconnect();
    connection.write().await?;
    last_will(options, topic, limits).await
}

/// Logs in once more, with a last will as the daemon has: some brokers close such a connection without a reason. It is
/// empty, so that it deletes what is retained on the topic if it is ever published.
async fn last_will(options: &ConnectOptions, topic: &str, limits: Limits) -> Result<(), Lost> {
    let will = Will { topic, payload: b"" };
    let until = Instant::now() + options.connect_timeout;
    let mut connection = Connection::open(options, Some(will), until, |_, _, _| {}).await.map_err(|lost| {
        let keys = match (limits.retain, limits.qos) {
            (true, Qos::AtLeastOnce) => {
                "keep no retained messages (then set mqtt.retain = false) or take QoS 0 only (then set mqtt.max_qos = 0)"
            }
            (true, Qos::AtMostOnce) => "keep no retained messages (then set mqtt.retain = false)",
            (false, _) => "take QoS 0 only (then set mqtt.max_qos = 0)",
        };
        Lost::new(format!("last will: {lost}, although it takes a login without one; it may {keys}"))
    })?;
    connection.disconnect();
    connection.write().await
}

/// Waits for the first packet that `pick` accepts, and returns its result.
async fn answer<T>(
    connection: &mut Connection,
    options: &ConnectOptions,
    mut pick: impl FnMut(&Incoming) -> Option<T>,
) -> Result<T, Lost> {
    connection.write().await?;
    let until = Instant::now() + options.connect_timeout;
    loop {
        let incoming = tokio::select! {
            incoming = connection.read() => incoming?,
            () = sleep_until(until) => return Err(Lost::new("no answer within mqtt.connect_timeout_s")),
        };
        if let Incoming::Disconnect(reason) = incoming {
            return Err(reason.into());
        }
        if let Some(picked) = pick(&incoming) {
            return Ok(picked);
        }
    }
}
