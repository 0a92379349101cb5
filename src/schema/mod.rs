//! How the tables of the configuration are declared, read, checked, located and documented.
//!
//! Owns the mechanism and no table: [`table!`] declares the keys of one table with defaults, ranges and reference text;
//! [`choice!`] declares a key that takes one of several words; [`family!`] lists the kinds of a family, one file each.
//! Pure: nothing here touches a file or a device.

mod checker;
mod choice;
mod doc;
mod family;
mod locate;
mod table;
mod value;

pub use checker::{Checker, Problem, milliseconds, seconds};
pub use doc::{Children, FamilyDoc, KeyDoc, KindDoc, TableDoc};
pub use locate::{Key, show, span_of};
pub use value::Value;

pub(crate) use choice::choice;
pub(crate) use family::family;
pub(crate) use table::{check_option, key_name, table};

/// What the macros expand to.
pub mod expanded {
    pub use super::doc::{joined, typed_default};
    pub use super::family::{Family, KindDeserializer, expected_one};
    pub use super::table::{KeySeed, Ranged, Table, from_nothing};
}
