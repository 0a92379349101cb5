//! One of the sources that are joined: any kind of source except a join.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::super::Source;
use crate::schema::expanded::Family;
use crate::schema::{Children, Form, Value};

/// The kind that cannot stand inside itself.
const JOIN: &str = "join";

/// A source that is a part of a join.
#[derive(Debug, Clone, PartialEq)]
pub struct Part(pub Box<Source>);

impl Value for Part {
    fn type_name() -> String {
        Source::type_name()
    }
    fn form() -> Form {
        Form::Table
    }
    fn children() -> Children {
        Children::Family(Source::doc_without(JOIN))
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Source::deserialize(deserializer)? {
            Source::Join(_) => Err(D::Error::custom("a join cannot be a source of a join; list its sources here")),
            source => Ok(Self(Box::new(source))),
        }
    }
}
