//! How verdicts are published and shown: what each kind of decision tells the publisher and Home Assistant.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Error;

use super::Verdict;

/// The JSON serializer of payloads.
type Json<'a> = serde_json::Serializer<&'a mut Vec<u8>>;
type Map<'a, 'b> = <&'b mut Json<'a> as Serializer>::SerializeMap;

/// The fields of a JSON object while it is written.
pub struct Fields<'a, 'b>(Map<'a, 'b>);

impl Fields<'_, '_> {
    /// Adds a field.
    ///
    /// # Errors
    /// The value cannot be written as JSON.
    pub fn add(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.0.serialize_entry(name, value)
    }
}

/// Appends an object to `json`, whose fields `write` adds.
///
/// # Errors
/// As `write`.
pub fn write_object(
    json: &mut Vec<u8>,
    write: impl FnOnce(&mut Fields<'_, '_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut serializer = serde_json::Serializer::new(json);
    let mut fields = Fields(serializer.serialize_map(None)?);
    write(&mut fields)?;
    fields.0.end()
}

/// How the verdicts of one pipeline are published.
pub trait Presentation: Send + Sync + fmt::Debug {
    /// Adds the verdict's fields to the payload of a prediction. `truth` is the true class, where the stream names it.
    ///
    /// # Errors
    /// A value cannot be written as JSON.
    fn fields(
        &self,
        verdict: &Verdict,
        values: &[f32],
        truth: Option<u16>,
        fields: &mut Fields<'_, '_>,
    ) -> Result<(), Error>;

    /// Returns how many bytes [`Presentation::fields`] adds at most.
    fn most_bytes(&self) -> usize;

    /// Returns whether a verdict of `class` is right if `truth` is the true class.
    fn is_right(&self, class: Option<u16>, truth: u16) -> bool {
        class == Some(truth)
    }
}

/// The most bytes of a number of 32 bits in JSON, such as `-1.1754944e-38`, with the comma after it.
pub(crate) const NUMBER_BYTES: usize = 16;

/// Returns how many bytes a text has in JSON, with quotes and escapes.
pub fn text_bytes(text: &str) -> usize {
    serde_json::to_string(text).map_or(0, |json| json.len())
}

/// What Home Assistant shows of a decision: one sensor, or one event.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Entity {
    /// The sensor's id within the pipeline: letters, digits, `-` and `_`.
    pub id: String,
    /// The name that is shown, if it is not the id.
    pub name: Option<String>,
    /// Home Assistant's template that takes the value out of the payload; gives `None` for a value that is not known.
    pub template: String,
    /// A number that is measured again and again.
    pub is_measurement: bool,
    /// Digits after the point.
    pub precision: Option<u64>,
    pub unit: Option<&'static str>,
    /// The types of the event, if it is one; the template then gives an object with `event_type`.
    pub events: Vec<String>,
    /// It is a binary sensor; the template then gives ON or OFF.
    pub is_binary: bool,
    /// Home Assistant's class of the device, such as "problem".
    pub device_class: Option<&'static str>,
}

impl Entity {
    /// Builds an event of one of these types, which is told of a message for which the expression `happens` is true.
    /// `event_type` is an expression, and `attributes` are fields of the message.
    pub(super) fn event(types: &[String], id: &str, event_type: &str, attributes: &[&str], happens: &str) -> Self {
        let attribute = |name: &&str| format!(", '{name}': value_json.{name} | default(none)");
        let attributes: String = attributes.iter().map(attribute).collect();
        let template = format!("{{{{ {{'event_type': {event_type}{attributes}}} | tojson if {happens} else none }}}}");
        Self { id: id.to_owned(), template, events: types.to_vec(), ..Self::default() }
    }
}

/// Numbers under names, as a JSON object.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    pub names: &'a [String],
    pub values: &'a [f32],
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.names.iter().zip(self.values))
    }
}
