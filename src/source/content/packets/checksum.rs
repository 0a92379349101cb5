//! The checksums that packets end with: CRCs by the names of their catalogue.

use crc::{
    CRC_8_MAXIM_DOW, CRC_8_SMBUS, CRC_16_IBM_3740, CRC_16_KERMIT, CRC_16_MODBUS, CRC_16_XMODEM, CRC_32_ISCSI,
    CRC_32_ISO_HDLC, Crc,
};

use crate::schema::choice;
use crate::source::field::bits;

choice! {
    /// The checksum at the end of a packet. "CRC-16-CCITT" is the name of several, so it is not among them.
    pub enum Checksum {
        None = "none",
        /// SMBus; polynomial 0x07.
        Crc8Smbus = "crc8-smbus",
        /// 1-Wire, Dallas and Maxim.
        Crc8Maxim = "crc8-maxim",
        Crc16Modbus = "crc16-modbus",
        /// Begins with 0xffff; "CRC-16/CCITT-FALSE", and that of `binascii.crc_hqx(data, 0xffff)`.
        Crc16Ibm3740 = "crc16-ibm-3740",
        /// Begins with 0; that of `_crc_xmodem_update` of AVR.
        Crc16Xmodem = "crc16-xmodem",
        /// That of `_crc_ccitt_update` of AVR, if it begins with 0.
        Crc16Kermit = "crc16-kermit",
        /// That of Ethernet, zip and `zlib.crc32`.
        Crc32 = "crc32",
        /// Castagnoli's, also called CRC-32C.
        Crc32Iscsi = "crc32-iscsi",
    }
}

choice! {
    /// In which order the bytes of the checksum are sent.
    #[derive(Default)]
    pub enum ByteOrder {
        #[default]
        Little = "le",
        Big = "be",
    }
}

impl ByteOrder {
    /// Returns the number that the bytes of a checksum are, at most four.
    pub(super) fn number(self, bytes: &[u8]) -> u32 {
        bits(bytes, self == Self::Big) as u32
    }
}

/// What computes a checksum.
#[allow(clippy::large_enum_variant, reason = "a decoder has one, in a box")]
pub(super) enum Algorithm {
    None,
    Bits8(Crc<u8>),
    Bits16(Crc<u16>),
    Bits32(Crc<u32>),
}

impl Checksum {
    pub(super) const ALL: [Self; 9] = [
        Self::None,
        Self::Crc8Smbus,
        Self::Crc8Maxim,
        Self::Crc16Modbus,
        Self::Crc16Ibm3740,
        Self::Crc16Xmodem,
        Self::Crc16Kermit,
        Self::Crc32,
        Self::Crc32Iscsi,
    ];

    /// Returns the number of bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc8Smbus | Self::Crc8Maxim => 1,
            Self::Crc16Modbus | Self::Crc16Ibm3740 | Self::Crc16Xmodem | Self::Crc16Kermit => 2,
            Self::Crc32 | Self::Crc32Iscsi => 4,
        }
    }

    /// Returns what computes it; its tables are made here.
    pub(super) fn algorithm(self) -> Algorithm {
        match self {
            Self::None => Algorithm::None,
            Self::Crc8Smbus => Algorithm::Bits8(Crc::<u8>::new(&CRC_8_SMBUS)),
            Self::Crc8Maxim => Algorithm::Bits8(Crc::<u8>::new(&CRC_8_MAXIM_DOW)),
            Self::Crc16Modbus => Algorithm::Bits16(Crc::<u16>::new(&CRC_16_MODBUS)),
            Self::Crc16Ibm3740 => Algorithm::Bits16(Crc::<u16>::new(&CRC_16_IBM_3740)),
            Self::Crc16Xmodem => Algorithm::Bits16(Crc::<u16>::new(&CRC_16_XMODEM)),
            Self::Crc16Kermit => Algorithm::Bits16(Crc::<u16>::new(&CRC_16_KERMIT)),
            Self::Crc32 => Algorithm::Bits32(Crc::<u32>::new(&CRC_32_ISO_HDLC)),
            Self::Crc32Iscsi => Algorithm::Bits32(Crc::<u32>::new(&CRC_32_ISCSI)),
        }
    }
}

impl Algorithm {
    /// Returns the checksum of these bytes; `None` if there is none.
    pub(super) fn of(&self, bytes: &[u8]) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Bits8(crc) => Some(u32::from(crc.checksum(bytes))),
            Self::Bits16(crc) => Some(u32::from(crc.checksum(bytes))),
            Self::Bits32(crc) => Some(crc.checksum(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that the documentation names, too.
    #[test]
    fn each_checksum_of_the_digits_from_1_to_9_is_that_of_the_catalogue() {
        for (checksum, expected) in [
            (Checksum::None, None),
            (Checksum::Crc8Smbus, Some(0xf4)),
            (Checksum::Crc8Maxim, Some(0xa1)),
            (Checksum::Crc16Modbus, Some(0x4b37)),
            (Checksum::Crc16Ibm3740, Some(0x29b1)),
            (Checksum::Crc16Xmodem, Some(0x31c3)),
            (Checksum::Crc16Kermit, Some(0x2189)),
            (Checksum::Crc32, Some(0xcbf4_3926)),
            (Checksum::Crc32Iscsi, Some(0xe306_9283)),
        ] {
            assert_eq!(checksum.algorithm().of(b"123456789"), expected, "{}", checksum.name());
        }
    }
}
