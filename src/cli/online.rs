//! `edgewatt check --online`: the way to the broker, a step a line, each with its time.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::config::{Broker, Config};
use crate::load::mqtt::reach;
use crate::publish::mqtt::connection::{ConnectOptions, Connection, Lost};
use crate::publish::mqtt::wire::{Incoming, Outgoing, Version};
use crate::publish::outbox::{Bytes, Qos};
use crate::publish::topic::NodeTopics;

/// How long an acknowledged message may take to come back.
const ECHO: Duration = Duration::from_secs(2);
const SUBSCRIBE_ID: u16 = 1;
const PUBLISH_ID: u16 = 2;

/// Shows each step; whether all of them went well.
pub(crate) fn run(config: &Config) -> anyhow::Result<bool> {
    if config.mqtt.broker == Broker::Embedded {
        writeln!(io::stdout(), "  broker: embedded, which is there when the daemon runs")?;
        return Ok(true);
    }
    let reach = reach(&config.mqtt);
    writeln!(io::stdout(), "  broker {}, MQTT {}", reach.address(), reach.version.name())?;
    let (_, walked) = walk(config, |step, took, detail| {
        // A terminal that went away ends nothing.
        let _ = writeln!(io::stdout(), "    {step:<10} {:>8.1} ms  {detail}", took.as_secs_f64() * 1e3);
    })?;
    match walked {
        Ok(()) => Ok(true),
        Err(lost) => {
            writeln!(io::stdout(), "    failed: {lost}")?;
            Ok(false)
        }
    }
}

/// Goes the way to the broker, which is not the embedded one, and tells `say` each step that went well; its address, and
/// what ended the way.
pub(crate) fn walk(
    config: &Config,
    say: impl FnMut(&str, Duration, &str),
) -> anyhow::Result<(String, Result<(), Lost>)> {
    // The daemon that may run has the name itself: a broker would throw it out for a second client.
    let reach = ConnectOptions { client_id: format!("{}-check", config.mqtt.client_id), ..reach(&config.mqtt) };
    let topic = NodeTopics::new(&config.mqtt.base_topic, &config.node_id).check();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let walked = runtime.block_on(steps(&reach, &topic, say));
    // A resolver that hangs must not hold up the end.
    runtime.shutdown_background();
    Ok((reach.address(), walked))
}

async fn steps(reach: &ConnectOptions, topic: &str, mut say: impl FnMut(&str, Duration, &str)) -> Result<(), Lost> {
    let until = Instant::now() + reach.connect_timeout;
    let mut reached = Instant::now();
    let mut connection = Connection::open(reach, None, until, |step, took, detail| {
        say(&step.to_string(), took, detail);
        reached = Instant::now();
    })
    .await?;
    let who = reach.login.as_ref().map_or("without a user".to_owned(), |(user, _)| format!("as {user}"));
    say("login", reached.elapsed(), &format!("{who}, client id {}", reach.client_id));

    connection.subscribe(topic, SUBSCRIBE_ID)?;
    let readable = answer(&mut connection, reach, |incoming| match incoming {
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
    let refused = answer(&mut connection, reach, |incoming| match incoming {
        Incoming::PubAck { packet_id: PUBLISH_ID, refused } => Some(*refused),
        Incoming::Message { .. } => {
            echoed = true;
            None
        }
        _ => None,
    })
    .await?;
    if let Some(reason) = refused {
        return Err(Lost(format!(
            "publish: it refuses {topic} ({reason}); let its ACL allow {topic} and its siblings"
        )));
    }
    say("publish", begun.elapsed(), &format!("{topic}, acknowledged"));
    if !readable {
        say("subscribe", Duration::ZERO, "not allowed, and not needed; so it is not seen whether the message arrives");
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
        say("ACL", begun.elapsed(), "the message came back");
    } else if reach.version == Version::Three {
        return Err(Lost(format!(
            "ACL: {topic} was acknowledged and did not come back; a broker that denies it tells so in MQTT 5 alone: set \
             mqtt.version = \"5\", or let its ACL allow writing and reading"
        )));
    } else {
        say("ACL", begun.elapsed(), "the message did not come back: this user may write, but not read");
    }
    connection.disconnect();
    connection.write().await
}

/// What `pick` makes of the first answer that it takes.
async fn answer<T>(
    connection: &mut Connection,
    reach: &ConnectOptions,
    mut pick: impl FnMut(&Incoming) -> Option<T>,
) -> Result<T, Lost> {
    connection.write().await?;
    let until = Instant::now() + reach.connect_timeout;
    loop {
        let incoming = tokio::select! {
            incoming = connection.read() => incoming?,
            () = sleep_until(until) => return Err(Lost("it does not answer in time (mqtt.connect_timeout_s)".into())),
        };
        if let Incoming::Bye(reason) = incoming {
            return Err(Lost(reason));
        }
        if let Some(picked) = pick(&incoming) {
            return Ok(picked);
        }
    }
}
