//! The checks of keys that say how to log in to a broker: those of `[mqtt]`, and of a source that names another broker.

use std::net::IpAddr;
use std::path::PathBuf;

use super::address::Broker;
use super::transport::Endpoint;
use crate::schema::{Checker, Key};

/// What the keys of a table say of the login.
#[derive(Debug)]
pub struct Login {
    pub user: Option<String>,
    /// The file with the password, completed.
    pub password_file: Option<PathBuf>,
    pub allow_plaintext_password: bool,
    /// What to do if there is a user without a password.
    pub missing_password: String,
}

impl Login {
    /// Checks the login of the table at `key`. Returns user and password file.
    pub fn checked(self, key: &Key, broker: &Broker, checker: &mut Checker) -> Option<(String, PathBuf)> {
        let Some(user) = self.user else {
            if self.password_file.is_some() {
                let message = format!("password_file needs {}", key.child("user"));
                checker.problem(&key.child("password_file"), message);
            }
            return None;
        };
        let Some(file) = self.password_file else {
            checker.problem(&key.child("user"), format!("the password is missing: {}", self.missing_password));
            return None;
        };
        if let Broker::At(Endpoint { host, tls: None, .. }) = broker
            && !is_loopback(host)
            && !self.allow_plaintext_password
        {
            let message = format!(
                "the password would be sent to {host} without encryption; use mqtts:// or wss://, or set \
                 allow_plaintext_password = true if you trust the network"
            );
            checker.problem(&key.child("broker"), message);
        }
        Some((user, file))
    }
}

/// Checks that keys that are for TLS are written for a broker with TLS only; `written` are their names.
pub fn check_tls_keys<'a>(
    key: &Key,
    broker: &Broker,
    written: impl IntoIterator<Item = &'a str>,
    checker: &mut Checker,
) {
    if !matches!(broker, Broker::At(Endpoint { tls: Some(_), .. })) {
        for name in written {
            checker.problem(&key.child(name), "it is for TLS only; use mqtts:// or wss:// in the broker's address");
        }
    }
}

/// Checks a quality of service.
pub fn check_qos(key: &Key, qos: u8, checker: &mut Checker) {
    if qos > 1 {
        checker.problem(key, format!("{qos} is not supported; use 0 (at most once) or 1 (at least once)"));
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
