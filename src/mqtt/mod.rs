//! A connection to an MQTT broker, as the publisher, sources and commands need it.
//!
//! `address` is what the user writes, `access` how to log in, `transport` and `tls` carry the bytes, `codec` makes packets
//! of them, and `connection` is one connection from the login to its end. `losses` says why it ended, `filter` which topics
//! a filter matches. Leaves to the caller what is sent and received, and when to connect again.

pub mod access;
pub mod address;
pub mod codec;
pub mod connection;
pub mod filter;
pub mod losses;
pub mod subscription;
mod port;
mod speaks;
mod tls;
pub mod transport;

pub use address::{Broker, parse_broker};
pub use codec::{Qos, Session, Version};
pub use connection::{ConnectOptions, Connection, Lost};
pub use subscription::{NodeConnection, Subscription};
pub use tls::check_files;
pub use transport::{Endpoint, Tls};
