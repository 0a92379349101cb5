//! What the configuration says of an instrument that tells what it measures, and the check of that.

use std::path::PathBuf;

use crate::mqtt::subscription::table_with_broker;
use crate::schema::{choice, table};
use crate::source::records::Decimal;
use crate::source::records::fields::Delimiter;

use super::super::Scope;

table! {
    /// Another instrument that tells what it measures, as lines of text or as JSON: a smart plug, a USB meter, a bench
    /// instrument. It tells power, or voltage and current, or cumulative energy. Write exactly one of `command`, `path` and
    /// `mqtt`, and one of `json` and `column`.
    pub struct ReaderKeys {
        /// A program that prints what the instrument shows, and its arguments, each as a separate string. There is no shell.
        /// A program that ends well after it has printed a value is started again after `period_s`; one that fails, after
        /// pauses that grow.
        pub command: Option<Vec<String>>, otherwise("none"),
            example("[\"curl\", \"-s\", \"-m\", \"2\", \"http://192.168.1.20/rpc/Switch.GetStatus?id=0\"]");
        /// A serial port, or a FIFO into which another program writes.
        pub path: Option<PathBuf>, otherwise("none"), example("\"/dev/serial/by-id/usb-supply-if00\"");
        /// The number of bits in a second of the serial port.
        pub baud: u32 = 115_200, range(50, 12_000_000), unit("baud");
        /// What to write to the serial port in each period, for an instrument that answers only when it is asked; a newline
        /// follows.
        pub query: Option<String>, otherwise("nothing"), example("\"MEAS:VOLT?;:MEAS:CURR?\"");
        /// The topic of an MQTT broker on which the instrument publishes.
        pub mqtt: Option<ReaderMqtt>, otherwise("none");
        /// Where in a JSON object the values are, as JSON pointers.
        pub json: Option<JsonPlaces>, otherwise("none");
        /// In which columns of a line of text the values are, counted from 1. A line that is only a number has one column.
        pub column: Option<Columns>, otherwise("none");
        /// What separates the columns; " " is any number of spaces and tabs.
        pub delimiter: Delimiter = Delimiter::Comma;
        /// The decimal mark of numbers in text.
        pub decimal: Decimal = Decimal::Point;
        /// The units of the values.
        pub units: Units;
        /// How often the instrument measures, or refreshes its count of energy. If it tells nothing for five times as long,
        /// there is no reading.
        pub period_s: f64, range(0.001, 3600.0), unit("s"), example("1.0");
        /// The time over which the instrument averages a value of power, or of voltage and current.
        pub mean_s: Option<f64>, range(1e-6, 3600.0), unit("s"), otherwise("`period_s`"), example("0.02");
        /// What part of the metered power the load gets, if a supply stands between them.
        pub efficiency: Option<f64>, range(0.01, 1.0), otherwise("1, there is no supply between them"), example("0.85");
        /// The largest error of `efficiency`, as a part of its value. It is added to `gain_error`.
        pub efficiency_error: Option<f64>, range(0.0, 1.0), otherwise("not known"), example("0.05");
        /// What the meter covers: the board, one device, or the processor's package.
        pub scope: Scope = Scope::Board, limits("`\"board\"`, `\"device\"`, `\"package\"`");
    }
}

table_with_broker! {
    /// The topic of an MQTT broker. It is received at most once (QoS 0). A message that the broker had kept (retained) is
    /// passed over, because it may be old.
    pub struct ReaderMqtt {
        /// The topic, or a filter.
        pub topic: String, example("\"plug/status/switch:0\"");
    } and {}
}

table! {
    /// The places of the values in a JSON object, as JSON pointers (RFC 6901).
    pub struct JsonPlaces {
        /// The power.
        pub power: Option<String>, otherwise("none"), example("\"/apower\"");
        /// The voltage.
        pub voltage: Option<String>, otherwise("none"), example("\"/voltage\"");
        /// The current.
        pub current: Option<String>, otherwise("none"), example("\"/current\"");
        /// The cumulative energy. It is used instead of the power, which it measures without gaps.
        pub energy: Option<String>, otherwise("none"), example("\"/aenergy/total\"");
    }
}

table! {
    /// The columns of the values, counted from 1.
    pub struct Columns {
        /// The power.
        pub power: Option<u16>, range(1, 10_000), otherwise("none"), example("1");
        /// The voltage.
        pub voltage: Option<u16>, range(1, 10_000), otherwise("none"), example("3");
        /// The current.
        pub current: Option<u16>, range(1, 10_000), otherwise("none"), example("4");
        /// The cumulative energy. It is used instead of the power, which it measures without gaps.
        pub energy: Option<u16>, range(1, 10_000), otherwise("none"), example("8");
    }
}

table! {
    /// The units of the values.
    pub struct Units {
        /// The unit of power.
        pub power: PowerUnit = PowerUnit::W;
        /// The unit of voltage.
        pub voltage: VoltageUnit = VoltageUnit::V;
        /// The unit of current.
        pub current: CurrentUnit = CurrentUnit::A;
        /// The unit of energy.
        pub energy: EnergyUnit = EnergyUnit::J;
    }
}

/// Declares a unit of a quantity, with the factors to its unit in the International System.
macro_rules! unit {
    ($(#[doc = $doc:literal])+ $name:ident: $first:ident = $first_word:literal $(, $unit:ident = $word:literal x $factor:literal)+) => {
        choice! {
            $(#[doc = $doc])+
            #[derive(Default)]
            pub enum $name { #[default] $first = $first_word $(, $unit = $word)+ }
        }

        impl $name {
            /// Returns the unit as it is written, and what one of it is.
            pub(super) fn written(self) -> (&'static str, f64) {
                let factor = match self { Self::$first => 1.0 $(, Self::$unit => $factor)+ };
                (self.name(), factor)
            }
        }
    };
}

unit! {
    /// A unit of power.
    PowerUnit: W = "W", MilliW = "mW" x 1e-3, MicroW = "uW" x 1e-6, KiloW = "kW" x 1e3
}
unit! {
    /// A unit of voltage.
    VoltageUnit: V = "V", MilliV = "mV" x 1e-3, MicroV = "uV" x 1e-6
}
unit! {
    /// A unit of current.
    CurrentUnit: A = "A", MilliA = "mA" x 1e-3, MicroA = "uA" x 1e-6
}
unit! {
    /// A unit of energy.
    EnergyUnit: J = "J", MilliJ = "mJ" x 1e-3, MicroJ = "uJ" x 1e-6, KiloJ = "kJ" x 1e3, Ws = "Ws" x 1.0,
        MilliWh = "mWh" x 3.6, Wh = "Wh" x 3.6e3, KiloWh = "kWh" x 3.6e6
}
