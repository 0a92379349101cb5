//! What a source or a meter asks a broker for, and how it connects: as the node does, or to another broker.

use std::path::PathBuf;
use std::time::Duration;

use super::access::{Login, check_tls_keys};
use super::address::{Broker, parse_broker};
use super::codec::{Qos, Session, Subscribe, Version};
use super::connection::ConnectOptions;
use super::transport::{Endpoint, Tls};
use crate::schema::{Checker, Key};

/// How the node connects to its broker.
#[derive(Debug, Clone)]
pub struct NodeConnection {
    /// `None`: it has no broker.
    pub broker: Option<ConnectOptions>,
    pub client_id: String,
    pub keep_alive: Duration,
    pub connect_timeout: Duration,
    /// The shortest and the longest pause before it connects again.
    pub retry: (Duration, Duration),
}

/// Declares a table with the keys of the broker that has a topic; without them, that is the node's broker. Other keys of the
/// table can stand before and after them.
macro_rules! table_with_broker {
    (
        $(#[doc = $text:literal])+
        $vis:vis struct $name:ident { $($before:tt)* }
        and { $($after:tt)* }
    ) => {
        $crate::schema::table! {
            $(#[doc = $text])+
            $vis struct $name {
                $($before)*
                /// The address of another broker: `mqtt://HOST[:PORT]`, `mqtts://`, `ws://HOST/PATH` or `wss://`.
                pub broker: Option<String>, otherwise("that of [mqtt], with its login and certificates"),
                    example("\"mqtt://192.168.1.10\"");
                /// The version of MQTT that the other broker speaks.
                pub version: Option<$crate::mqtt::Version>, otherwise("that of [mqtt]; \"5\" for another broker"),
                    example("\"3.1.1\"");
                /// The user name for the login to the other broker.
                pub user: Option<String>, otherwise("no login"), example("\"edge\"");
                /// The file with the password for the other broker, one line. Other users must not be able to read it.
                pub password_file: Option<std::path::PathBuf>, otherwise("none"),
                    example("\"/etc/edgewatt/sensors-password\"");
                /// Whether the password may go to another machine without TLS.
                pub allow_plaintext_password: bool = false;
                /// The only certificates to trust for the other broker.
                pub ca_file: Option<std::path::PathBuf>, otherwise("the system's authorities"),
                    example("\"/etc/edgewatt/sensors-ca.pem\"");
                $($after)*
            }
        }

        impl $name {
            /// Returns what the keys say of another broker.
            pub(crate) fn broker_keys(&self) -> $crate::mqtt::subscription::BrokerKeys<'_> {
                $crate::mqtt::subscription::BrokerKeys {
                    broker: self.broker.as_deref(),
                    version: self.version,
                    user: self.user.as_ref(),
                    password_file: self.password_file.as_ref(),
                    allow_plaintext_password: self.allow_plaintext_password,
                    ca_file: self.ca_file.as_ref(),
                }
            }

            /// Makes the paths of its files relative to the configuration's folder.
            pub(crate) fn resolve_files(&mut self, checker: &$crate::schema::Checker) {
                for file in [&mut self.password_file, &mut self.ca_file].into_iter().flatten() {
                    *file = checker.path(file);
                }
            }
        }
    };
}

pub(crate) use table_with_broker;

/// A broker that is not the node's.
#[derive(Debug, Clone, PartialEq)]
pub struct OtherBroker {
    pub endpoint: Endpoint,
    pub version: Version,
    /// User, and the file with the password.
    pub login: Option<(String, PathBuf)>,
}

/// What the keys of a table say of a broker that may be another than the node's.
#[derive(Debug)]
pub struct BrokerKeys<'a> {
    pub broker: Option<&'a str>,
    pub version: Option<Version>,
    pub user: Option<&'a String>,
    pub password_file: Option<&'a PathBuf>,
    pub allow_plaintext_password: bool,
    pub ca_file: Option<&'a PathBuf>,
}

impl BrokerKeys<'_> {
    /// Checks the keys of the table at `key`: those of another broker are written only with one.
    pub fn check(&self, key: &Key, checker: &mut Checker) {
        let Some(written) = self.broker else {
            let keys = [
                ("version", self.version.is_some()),
                ("user", self.user.is_some()),
                ("password_file", self.password_file.is_some()),
                ("allow_plaintext_password", self.allow_plaintext_password),
                ("ca_file", self.ca_file.is_some()),
            ];
            for (name, _) in keys.into_iter().filter(|(_, is_written)| *is_written) {
                let message = "it is for another broker; write its address in broker, or leave this out: the broker of \
                               [mqtt] is used as [mqtt] says";
                checker.problem(&key.child(name), message);
            }
            return;
        };
        let broker = match parse_broker(written) {
            Ok(broker @ Broker::At(_)) => broker,
            Ok(Broker::None | Broker::Embedded) => {
                let message = "write the address of a broker, such as \"mqtt://192.168.1.10\"; or leave it out for the \
                               broker of [mqtt]";
                checker.problem(&key.child("broker"), message);
                return;
            }
            Err(message) => {
                checker.problem(&key.child("broker"), message);
                return;
            }
        };
        check_tls_keys(key, &broker, self.ca_file.iter().map(|_| "ca_file"), checker);
        let login = Login {
            user: self.user.cloned(),
            password_file: self.password_file.cloned(),
            allow_plaintext_password: self.allow_plaintext_password,
            missing_password: "write it into a file, and name that in password_file".into(),
        };
        login.checked(key, &broker, checker);
    }

    /// Returns the broker that is not the node's; the keys were checked.
    pub fn other_broker(&self) -> Option<OtherBroker> {
        let Ok(Broker::At(endpoint)) = parse_broker(self.broker?) else { return None };
        let tls = || Tls { ca_file: self.ca_file.cloned(), ..Tls::default() };
        Some(OtherBroker {
            endpoint: Endpoint { tls: endpoint.tls.is_some().then(tls), ..endpoint },
            version: self.version.unwrap_or(Version::Five),
            login: self.user.cloned().zip(self.password_file.cloned()),
        })
    }
}

/// A subscription of a source or a meter.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    pub topic: String,
    pub qos: Qos,
    /// `None`: at the node's broker.
    pub other: Option<OtherBroker>,
    /// `None`: made of the node's and of the name of the pipeline.
    pub client_id: Option<String>,
    /// The table of its keys, as errors name it, such as `source.mqtt`.
    pub table: &'static str,
    pub session: Session,
}

/// The keys of a table that names its broker. Errors name those of `[mqtt]`.
const OWN_KEYS: [&str; 6] = ["broker", "version", "user", "password_file", "ca_file", "client_id"];

impl Subscription {
    /// Returns how to connect for the pipeline `name`; `None`: the node has no broker.
    pub fn connect_options(&self, node: &NodeConnection, name: &str) -> Option<ConnectOptions> {
        let client_id = self.client_id.clone().unwrap_or_else(|| format!("{}-{name}", node.client_id));
        let session = self.session;
        let Some(OtherBroker { endpoint, version, login }) = self.other.clone() else {
            return node.broker.clone().map(|options| ConnectOptions { client_id, session, ..options });
        };
        Some(ConnectOptions {
            endpoint,
            version,
            login,
            client_id,
            keep_alive: node.keep_alive,
            connect_timeout: node.connect_timeout,
            max_qos: Qos::AtLeastOnce,
            retain: true,
            session,
        })
    }

    /// Returns the packet that subscribes.
    pub fn packet(&self) -> Subscribe<'_> {
        Subscribe { filter: &self.topic, qos: self.qos, preserve_retain: false }
    }

    /// Returns why the broker sends nothing if it refuses the subscription.
    pub fn refusal(&self) -> String {
        format!(
            "it refuses the subscription to {}; allow this user to subscribe to it in the broker's ACL, or change the topic",
            self.topic
        )
    }

    /// Returns the reason for a loss, in which keys of `[mqtt]` have the names that they have in this table.
    pub fn in_its_words(&self, reason: String) -> String {
        let is_renamed = |key: &&str| self.other.is_some() || *key == "client_id";
        OWN_KEYS
            .into_iter()
            .filter(is_renamed)
            .fold(reason, |reason, key| reason.replace(&format!("mqtt.{key}"), &format!("{}.{key}", self.table)))
    }
}
