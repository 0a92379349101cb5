//! Which chip is at an address, by its registers of manufacturer and die.

use super::bus::{Bus, Register};
use super::chip::{Identity, Model};
use crate::meter::MeterError;

/// The manufacturer register of all chips that have one: "TI".
pub(super) const TEXAS_INSTRUMENTS: u16 = 0x5449;

/// Where chips have their registers of manufacturer and die.
const LAYOUTS: [[Register; 2]; 2] = [
    [Register::new(0xfe, "ManufacturerId"), Register::new(0xff, "DieId")],
    [Register::new(0x3e, "ManufacturerId"), Register::new(0x3f, "DieId")],
];

/// The dies without their revisions (SBOS547, SBOS656, SLYS021, SBOS576).
const DIES: [(u16, &str); 4] = [
    (0x226, "an INA226: use the kind ina226"),
    (0x227, "an INA260: use the kind ina260"),
    (0x228, "an INA228: use the kind ina228"),
    (0x322, "an INA3221: use the kind ina3221"),
];

/// Checks that the chip is the one that `model` says.
///
/// # Errors
/// [`MeterError::Invalid`] with the chip that is there, if it can be told; those of the bus.
pub(super) fn check(model: &Model, bus: &mut Bus<'_>) -> Result<(), MeterError> {
    let Some(Identity { manufacturer, die, die_id, expected }) = model.identity else { return Ok(()) };
    let found = [bus.word(manufacturer)?, bus.word(die)?];
    if found == [TEXAS_INSTRUMENTS, found[1]] && found[1] >> 4 == die_id {
        return Ok(());
    }
    let text = format!("{:#06x} and {:#06x}; {}", found[0], found[1], name(bus));
    Err(MeterError::Invalid { path: bus.place.register(die), text, expected })
}

/// Returns which chip is there, with the kind that reads it.
fn name(bus: &mut Bus<'_>) -> &'static str {
    for [manufacturer, die] in LAYOUTS {
        let (Ok(TEXAS_INSTRUMENTS), Ok(die)) = (bus.word(manufacturer), bus.word(die)) else { continue };
        let known = DIES.iter().find(|(id, _)| *id == die >> 4);
        return known.map_or("another chip of Texas Instruments", |(_, name)| name);
    }
    "a chip that does not tell its type, such as an INA219"
}
