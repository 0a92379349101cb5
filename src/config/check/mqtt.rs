//! Judging the broker, and what we are to it.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::address::parse_broker;
use super::super::checked::{Address, Broker, Mqtt, MqttVersion, Store};
use super::super::{Key, raw};
use super::Check;

/// The service's credential that holds the password where no file is named.
const CREDENTIAL: &str = "mqtt-password";
/// What the unit takes it from; so `check` and `doctor` by hand find what the service has.
const CREDENTIAL_FILE: &str = "/etc/edgewatt/mqtt-password";

impl Check {
    pub(super) fn mqtt(&mut self, mqtt: raw::Mqtt, node_id: &str) -> Option<Mqtt> {
        let key = Key::new(&["mqtt"]);
        let at = |name: &str| key.child(name);
        self.qos(&at("qos"), mqtt.qos);
        self.within(&at("keep_alive_s"), mqtt.keep_alive_s, 2, 3600);
        self.within(&at("connect_timeout_s"), mqtt.connect_timeout_s, 1, 300);
        self.within(&at("inflight"), mqtt.inflight, 1, 1000);
        self.within(&at("retry_min_ms"), mqtt.retry_min_ms, 10, 3_600_000);
        self.within(&at("retry_max_ms"), mqtt.retry_max_ms, 10, 3_600_000);
        if mqtt.retry_min_ms > mqtt.retry_max_ms {
            let message = format!("{} is above retry_max_ms, {}", mqtt.retry_min_ms, mqtt.retry_max_ms);
            self.problem(&at("retry_min_ms"), message);
        }
        if mqtt.client_id.as_deref() == Some("") {
            self.problem(&at("client_id"), "it is empty; leave it out for edgewatt-<node id>");
        }
        if let Some(per_s) = mqtt.drain_per_s {
            self.within(&at("drain_per_s"), per_s, 1, 1_000_000);
        }
        self.within(&at("queue").child("messages"), mqtt.queue.messages, 1, 10_000_000);
        self.within(&at("queue").child("kib"), mqtt.queue.kib, 16, 2 * 1024 * 1024 - 1);
        let max_age = self.within(&at("queue").child("max_age_h"), mqtt.queue.max_age_h, 0.01, 8760.0);
        let store = self.store(&at("store"), &mqtt.store);
        let stop_timeout = self.seconds(&at("stop_timeout_s"), mqtt.stop_timeout_s, 0.1, 300.0);
        for (name, topic) in [("base_topic", &mqtt.base_topic), ("discovery_prefix", &mqtt.discovery_prefix)] {
            for level in topic.split('/') {
                self.topic_level(&at(name), level);
            }
        }
        let version = match mqtt.version.as_str() {
            "3.1.1" => MqttVersion::Three,
            "5" => MqttVersion::Five,
            other => {
                self.problem(&at("version"), format!("\"{other}\" is not offered; use \"5\" or \"3.1.1\""));
                MqttVersion::Five
            }
        };
        let broker = match parse_broker(&mqtt.broker) {
            Ok(broker) => Some(broker),
            Err(message) => {
                self.problem(&at("broker"), message);
                None
            }
        };
        let broker = broker?;
        self.tls_files(&key, &mqtt, &broker);
        let login = self.login(&key, mqtt.user, mqtt.password_file, mqtt.allow_plaintext_password, &broker);
        let path = |file: PathBuf| self.folder.join(file);
        let identity = mqtt.cert_file.map(path).zip(mqtt.key_file.map(path));
        let ca_file = mqtt.ca_file.map(path);
        Some(Mqtt {
            broker,
            version,
            login,
            allow_plaintext_password: mqtt.allow_plaintext_password,
            ca_file,
            identity,
            alpn: mqtt.alpn,
            drain_per_s: mqtt.drain_per_s,
            commands: mqtt.commands,
            discovery: mqtt.discovery.then_some(mqtt.discovery_prefix),
            client_id: mqtt.client_id.unwrap_or_else(|| format!("edgewatt-{node_id}")),
            base_topic: mqtt.base_topic,
            qos: mqtt.qos,
            keep_alive: Duration::from_secs(mqtt.keep_alive_s.into()),
            connect_timeout: Duration::from_secs(mqtt.connect_timeout_s),
            inflight: mqtt.inflight,
            retry_min: Duration::from_millis(mqtt.retry_min_ms),
            retry_max: Duration::from_millis(mqtt.retry_max_ms),
            stop_timeout,
            queue_messages: mqtt.queue.messages,
            queue_bytes: mqtt.queue.kib.saturating_mul(1024),
            when_full: mqtt.queue.when_full,
            max_age: Duration::try_from_secs_f64(max_age * 3600.0).unwrap_or_default(),
            store,
        })
    }

    fn store(&mut self, key: &Key, store: &raw::Store) -> Option<Store> {
        self.within(&key.child("commit_ms"), store.commit_ms, 10, 60_000);
        self.within(&key.child("mib"), store.mib, 1, 1024 * 1024);
        let path = store.path.as_ref().map(|path| self.folder.join(path));
        let commit = Duration::from_millis(store.commit_ms);
        store.enabled.then_some(Store { path, commit, max_bytes: store.mib << 20 })
    }

    /// User and password file; with a user alone the password is a credential of the service (systemd.exec(5)).
    fn login(
        &mut self,
        key: &Key,
        user: Option<String>,
        file: Option<PathBuf>,
        allow_plaintext: bool,
        broker: &Broker,
    ) -> Option<(String, PathBuf)> {
        let Some(user) = user else {
            if file.is_some() {
                self.problem(&key.child("password_file"), "there is no mqtt.user to go with it");
            }
            return None;
        };
        let credential = || credential(std::env::var_os("CREDENTIALS_DIRECTORY"), Path::new(CREDENTIAL_FILE));
        let Some(file) = file.map(|file| self.folder.join(file)).or_else(credential) else {
            let message = format!(
                "its password is missing: set password_file, or write it into {CREDENTIAL_FILE}, or set \
                 LoadCredential={CREDENTIAL}:FILE in the unit"
            );
            self.problem(&key.child("user"), message);
            return None;
        };
        if let Broker::At(Address { host, tls: false, .. }) = broker
            && !is_loopback(host)
            && !allow_plaintext
        {
            let message = format!(
                "the password would go to {host} in the clear; use mqtts:// or wss://, or, where the network is trusted, set \
                 allow_plaintext_password = true"
            );
            self.problem(&key.child("broker"), message);
        }
        Some((user, file))
    }

    fn tls_files(&mut self, key: &Key, mqtt: &raw::Mqtt, broker: &Broker) {
        if let (Some(_), None) | (None, Some(_)) = (&mqtt.cert_file, &mqtt.key_file) {
            self.problem(&key.child("cert_file"), "cert_file and key_file go together");
        }
        let named = [
            ("ca_file", mqtt.ca_file.is_some()),
            ("cert_file", mqtt.cert_file.is_some()),
            ("alpn", !mqtt.alpn.is_empty()),
        ];
        if !matches!(broker, Broker::At(Address { tls: true, .. })) {
            for (name, _) in named.into_iter().filter(|(_, set)| *set) {
                self.problem(&key.child(name), "it is for TLS alone; write the broker as mqtts:// or wss://");
            }
        }
    }
}

/// The credential in systemd's `directory`; outside a service the `file` that it is made of.
fn credential(directory: Option<OsString>, file: &Path) -> Option<PathBuf> {
    match directory {
        Some(directory) => Some(PathBuf::from(directory).join(CREDENTIAL)),
        None => file.exists().then(|| file.to_owned()),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
        let unit = include_str!("../../../systemd/edgewatt.service");
        assert!(unit.contains(&format!("\nLoadCredential={CREDENTIAL}:{CREDENTIAL_FILE}\n")));
    }
}
