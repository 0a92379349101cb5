//! The `[mqtt]` table: its keys, its check, and its checked form.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::mqtt::access::{Login, check_qos, check_tls_keys};
use crate::mqtt::{Broker, Qos, Version, parse_broker};
use crate::publish::mqtt::WhenFull;
use crate::schema::{Checker, Key, milliseconds, seconds, table};

/// The service's credential that holds the password if no file is named.
const CREDENTIAL: &str = "mqtt-password";
/// The file from which the unit makes the credential. `check` and `doctor` read it when a user runs them.
pub(crate) const CREDENTIAL_FILE: &str = "/etc/edgewatt/mqtt-password";

table! {
    /// The broker, and how edgewatt connects to it.
    pub struct MqttKeys {
        /// The broker's address: `mqtt://HOST[:PORT]`, `mqtts://` with TLS, `ws://HOST/PATH` or `wss://` over a WebSocket. Or
        /// "none": nothing is published over MQTT, and `run --watch` shows what the daemon does. Or, if edgewatt was built
        /// with the feature `embedded-broker`, "embedded" for a broker inside the daemon, which listens on loopback only.
        pub broker: String, example("\"mqtt://127.0.0.1:1883\"");
        /// The version of MQTT. With "3.1.1" a broker cannot say that it refuses a message.
        pub version: Version = Version::Five;
        /// The user name for the login.
        pub user: Option<String>, otherwise("no login"), example("\"porch\"");
        /// The file with the password, one line. Other users must not be able to read it.
        pub password_file: Option<PathBuf>,
            otherwise("the service's credential `mqtt-password` (systemd's LoadCredential)"),
            example("\"/etc/edgewatt/mqtt-password\"");
        /// Whether the password may go to another machine without TLS.
        pub allow_plaintext_password: bool = false;
        /// The only certificates to trust: of authorities that may sign the broker's, or the broker's own, if that is
        /// self-signed.
        pub ca_file: Option<PathBuf>, otherwise("the system's authorities"), example("\"/etc/edgewatt/ca.pem\"");
        /// The node's own certificate, for brokers that ask for one. It needs `key_file`.
        pub cert_file: Option<PathBuf>, otherwise("none"), example("\"/etc/edgewatt/node.pem\"");
        /// The key of the certificate in `cert_file`.
        pub key_file: Option<PathBuf>, otherwise("none"), example("\"/etc/edgewatt/node.key\"");
        /// Protocols to name in the TLS handshake, for brokers that share port 443.
        pub alpn: Vec<String> = Vec::new(), otherwise("none"), example("[\"mqtt\"]");
        /// The most messages sent in a second while there is a backlog, for example after an outage. Set it above what the
        /// node produces.
        pub drain_per_s: Option<u32>, range(1, 1_000_000), unit("1/s"), otherwise("no limit"), example("1000");
        /// Whether the daemon takes the commands reload, pause, resume, delegate and calibrate on
        /// `<base_topic>/<node id>/cmd/...`, from everybody who may publish there.
        pub commands: bool = false;
        /// Whether Home Assistant is told of this node, its pipelines and meters. Its recorder keeps a row for each value that
        /// has changed: power.interval_s = 30.0 and metrics.interval_s = 60.0 are enough for graphs.
        pub discovery: bool = false;
        /// The topic prefix that Home Assistant listens to.
        pub discovery_prefix: String = "homeassistant".to_owned();
        /// The client identifier, which must be unique at the broker.
        pub client_id: Option<String>, otherwise("edgewatt-<node id>"), example("\"edgewatt-porch\"");
        /// The first part of every topic: `<base_topic>/<node id>/...`.
        pub base_topic: String = "edgewatt".to_owned();
        /// The quality of service of predictions: 0 for at most once, 1 for at least once.
        pub qos: u8 = 1, limits("0 (at most once) or 1 (at least once)");
        /// The highest quality of service that the broker takes. If it is 0, all messages are sent at most once: what is on
        /// its way when the connection breaks is lost. In MQTT 5 the broker says so itself.
        pub max_qos: u8 = 1, limits("0 (at most once) or 1 (at least once)");
        /// Whether messages are sent as retained. Set it to false for a broker that keeps none: who subscribes later then does
        /// not see what was published before. In MQTT 5 the broker says so itself.
        pub retain: bool = true;
        /// The keep-alive time. A dead connection is noticed within twice this time.
        pub keep_alive_s: u16 = 30, range(2, 3600), unit("s");
        /// The longest time for one attempt to connect, from the look-up of the name to the broker's answer.
        pub connect_timeout_s: u64 = 5, range(1, 300), unit("s");
        /// The most messages that are sent and not yet acknowledged.
        pub inflight: u16 = 256, range(1, 1000);
        /// The pause before the first attempt to reconnect. It doubles up to `retry_max_ms`, with jitter.
        pub retry_min_ms: u64 = 500, range(10, 3_600_000), unit("ms");
        /// The longest pause between two attempts to reconnect.
        pub retry_max_ms: u64 = 30_000, range(10, 3_600_000), unit("ms");
        /// The longest time that a stop takes: half of it to decide what has arrived, half to deliver it.
        pub stop_timeout_s: f64 = 5.0, range(0.1, 300.0), unit("s");
        /// Messages that wait for the broker, in memory.
        pub queue: Queue;
        /// The file for messages that the broker does not take in time.
        pub store: StoreKeys;
    }
}

table! {
    /// Messages that wait for the broker, in memory.
    pub struct Queue {
        /// The most messages kept in memory.
        pub messages: usize = 10_000, range(1, 10_000_000);
        /// The most memory for topics and payloads.
        pub kib: usize = 8192, range(16, 2 * 1024 * 1024 - 1), unit("KiB");
        /// What is dropped when the queue is full. Every drop is counted and published.
        pub when_full: WhenFull = WhenFull::DropOldest;
        /// The longest time that a message waits: in memory, in the store and, with MQTT 5, at the broker.
        pub max_age_h: f64 = 72.0, range(0.01, 8760.0), unit("h");
    }
}

table! {
    /// The file that keeps messages which the broker does not take in time. See docs/delivery.md.
    pub struct StoreKeys {
        /// Whether there is such a file. Without it a crash or a power cut loses all messages that wait.
        pub enabled: bool = true;
        /// The file.
        pub path: Option<PathBuf>, otherwise("`outbox.db` in node.state_dir"), example("\"/var/lib/edgewatt/outbox.db\"");
        /// The longest time that a message is in memory only: what a crash can lose. A message that the broker takes within
        /// this time is never written. A longer time wears an SD card less during an outage.
        pub commit_ms: u64 = 250, range(10, 60_000), unit("ms");
        /// The largest size of the file.
        pub mib: u64 = 64, range(1, 1024 * 1024), unit("MiB");
    }
}

/// The `[mqtt]` table, checked and ready to use.
#[derive(Debug, Clone, PartialEq)]
pub struct Mqtt {
    pub broker: Broker,
    pub version: Version,
    /// User, and the file with the password.
    pub login: Option<(String, PathBuf)>,
    /// The password may go to other machines without TLS.
    pub allow_plaintext_password: bool,
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub alpn: Vec<String>,
    /// Most messages in a second.
    pub drain_per_s: Option<u32>,
    /// Whether commands on `cmd/#` are accepted.
    pub commands: bool,
    /// Home Assistant's topic prefix, if this node is announced to it.
    pub discovery: Option<String>,
    pub client_id: String,
    pub base_topic: String,
    pub qos: u8,
    /// The highest that the broker takes.
    pub max_qos: Qos,
    pub retain: bool,
    pub keep_alive: Duration,
    pub connect_timeout: Duration,
    pub inflight: u16,
    pub retry_min: Duration,
    pub retry_max: Duration,
    pub stop_timeout: Duration,
    pub queue_messages: usize,
    pub queue_bytes: usize,
    pub when_full: WhenFull,
    /// How long a message may wait.
    pub max_age: Duration,
    /// The file that keeps messages on disk; `None`: messages are in memory only.
    pub store: Option<Store>,
}

/// The file that keeps what the broker has not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// `None`: in the state directory.
    pub path: Option<PathBuf>,
    /// How long a message may be in memory only.
    pub commit: Duration,
    pub max_bytes: u64,
}

impl MqttKeys {
    /// Checks the table, which is at `key`. `None` if it cannot be used; the problems say why.
    pub fn checked(self, key: &Key, node_id: &str, checker: &mut Checker) -> Option<Mqtt> {
        let at = |name: &str| key.child(name);
        use crate::schema::expanded::Table;
        self.check_ranges(key, checker);
        self.queue.check_ranges(&at("queue"), checker);
        self.store.check_ranges(&at("store"), checker);
        check_qos(&at("qos"), self.qos, checker);
        check_qos(&at("max_qos"), self.max_qos, checker);
        if self.retry_min_ms > self.retry_max_ms {
            let message = format!("{} is above retry_max_ms, {}", self.retry_min_ms, self.retry_max_ms);
            checker.problem(&at("retry_min_ms"), message);
        }
        if self.client_id.as_deref() == Some("") {
            checker.problem(&at("client_id"), "it is empty; leave it out for edgewatt-<node id>");
        }
        if let Some(client_id) = &self.client_id {
            checker.is_placeholder(&at("client_id"), client_id);
        }
        for (name, topic) in [("base_topic", &self.base_topic), ("discovery_prefix", &self.discovery_prefix)] {
            for level in topic.split('/') {
                checker.topic_level(&at(name), level);
            }
        }
        let broker = match parse_broker(&self.broker) {
            Ok(broker) => broker,
            Err(message) => {
                checker.problem(&at("broker"), message);
                return None;
            }
        };
        self.check_tls(key, &broker, checker);
        let login = self.login(key, &broker, checker);
        let path = |file: PathBuf| checker.path(&file);
        let store = Store {
            path: self.store.path.map(path),
            commit: Duration::from_millis(self.store.commit_ms),
            max_bytes: self.store.mib << 20,
        };
        Some(Mqtt {
            broker,
            version: self.version,
            login,
            allow_plaintext_password: self.allow_plaintext_password,
            identity: self.cert_file.map(path).zip(self.key_file.map(path)),
            ca_file: self.ca_file.map(path),
            alpn: self.alpn,
            drain_per_s: self.drain_per_s,
            commands: self.commands,
            discovery: self.discovery.then_some(self.discovery_prefix),
            client_id: self.client_id.unwrap_or_else(|| format!("edgewatt-{node_id}")),
            base_topic: self.base_topic,
            qos: self.qos,
            max_qos: if self.max_qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce },
            retain: self.retain,
            keep_alive: Duration::from_secs(self.keep_alive_s.into()),
            connect_timeout: Duration::from_secs(self.connect_timeout_s),
            inflight: self.inflight,
            retry_min: milliseconds(self.retry_min_ms as f64),
            retry_max: milliseconds(self.retry_max_ms as f64),
            stop_timeout: seconds(self.stop_timeout_s),
            queue_messages: self.queue.messages,
            queue_bytes: self.queue.kib.saturating_mul(1024),
            when_full: self.queue.when_full,
            max_age: seconds(self.queue.max_age_h * 3600.0),
            store: self.store.enabled.then_some(store),
        })
    }

    /// Returns user and password file; with a user alone the password is a credential of the service (systemd.exec(5)).
    fn login(&self, key: &Key, broker: &Broker, checker: &mut Checker) -> Option<(String, PathBuf)> {
        let file = self.password_file.as_ref().map(|file| checker.path(file));
        let credential = || credential(std::env::var_os("CREDENTIALS_DIRECTORY"), Path::new(CREDENTIAL_FILE));
        let login = Login {
            password_file: if self.user.is_some() { file.or_else(credential) } else { file },
            user: self.user.clone(),
            allow_plaintext_password: self.allow_plaintext_password,
            missing_password: format!(
                "set password_file, or write the password into {CREDENTIAL_FILE}, or set \
                 LoadCredential={CREDENTIAL}:FILE in the unit"
            ),
        };
        login.checked(key, broker, checker)
    }

    fn check_tls(&self, key: &Key, broker: &Broker, checker: &mut Checker) {
        if let (Some(_), None) | (None, Some(_)) = (&self.cert_file, &self.key_file) {
            checker.problem(&key.child("cert_file"), "cert_file needs key_file, and key_file needs cert_file");
        }
        let keys = [
            ("ca_file", self.ca_file.is_some()),
            ("cert_file", self.cert_file.is_some()),
            ("alpn", !self.alpn.is_empty()),
        ];
        let written = keys.into_iter().filter(|(_, is_written)| *is_written).map(|(name, _)| name);
        check_tls_keys(key, broker, written, checker);
    }
}

/// Returns the credential in systemd's `directory`; outside a service, the `file` from which it is made.
fn credential(directory: Option<OsString>, file: &Path) -> Option<PathBuf> {
    match directory {
        Some(directory) => Some(PathBuf::from(directory).join(CREDENTIAL)),
        None => file.exists().then(|| file.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_credential_is_the_service_s_and_by_hand_the_file_that_it_is_made_of() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let of = |directory: Option<&str>, file: &Path| credential(directory.map(OsString::from), file);
        let given = Some(PathBuf::from("/run/credentials/mqtt-password"));
        assert_eq!(of(Some("/run/credentials"), file.path()), given);
        assert_eq!(of(None, file.path()).as_deref(), Some(file.path()));
        assert_eq!(of(None, Path::new("/nowhere/mqtt-password")), None);
    }

    #[test]
    fn the_unit_makes_the_credential_of_that_file() {
        let unit = include_str!("../../systemd/edgewatt.service");
        assert!(unit.contains(&format!("\nLoadCredential={CREDENTIAL}:{CREDENTIAL_FILE}\n")));
    }
}
