//! The fields of a packet, or of registers that are read together: how they are written, and how their bytes become numbers.
//! Pure.

/// Far above any real use.
const MAX_SKIPPED_BYTES: usize = 4096;

/// The types of numbers, for a sentence.
const TYPES: &str = "u8, i8, u16le, i16le, u24le, i24le, u32le, i32le, u64le, i64le, f32le, f64le, or the same with `be` for the \
                     high byte first";

/// What the bits of a field mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    Unsigned,
    Signed,
    Float,
}

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub meaning: Meaning,
    /// From 1 to 8; 4 or 8 for floating-point numbers.
    pub bytes: usize,
    pub is_big_endian: bool,
    /// Bits at the low end that do not belong to the number.
    pub shift: u32,
}

/// A part of a packet, as it is written in the configuration: `NAME: TYPE`, `NAME: TYPE >> BITS`, or `skip: BYTES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    Number { name: String, kind: Kind },
    Skip(usize),
}

const MEANINGS: [(char, Meaning); 3] = [('u', Meaning::Unsigned), ('i', Meaning::Signed), ('f', Meaning::Float)];

impl Kind {
    /// Returns the type of that name.
    fn of(name: &str) -> Option<Self> {
        let (digits, is_big_endian, has_order) = match (name.strip_suffix("le"), name.strip_suffix("be")) {
            (Some(rest), _) => (rest, false, true),
            (None, Some(rest)) => (rest, true, true),
            (None, None) => (name, false, false),
        };
        let (_, meaning) = MEANINGS.into_iter().find(|(letter, _)| digits.starts_with(*letter))?;
        let bytes = match (meaning, digits.get(1..)?) {
            (Meaning::Unsigned | Meaning::Signed, "8") if !has_order => 1,
            (Meaning::Unsigned | Meaning::Signed, "16") if has_order => 2,
            (Meaning::Unsigned | Meaning::Signed, "24") if has_order => 3,
            (_, "32") if has_order => 4,
            (_, "64") if has_order => 8,
            _ => return None,
        };
        Some(Self { meaning, bytes, is_big_endian, shift: 0 })
    }

    /// Returns the type without so many bits at the low end.
    fn shifted(self, shift: &str) -> Result<Self, String> {
        let most = self.bytes as u32 * 8 - 1;
        match shift.parse() {
            Ok(_) if self.meaning == Meaning::Float => Err("numbers with a fraction cannot be shifted".to_owned()),
            Ok(shift) if (1..=most).contains(&shift) => Ok(Self { shift, ..self }),
            _ => Err(format!("`{shift}` is not a number of bits from 1 to {most}")),
        }
    }

    /// Returns the bits of a number. `bytes` are as many as the type has.
    pub fn bits(self, bytes: &[u8]) -> u64 {
        bits(bytes, self.is_big_endian)
    }

    /// Returns the number that has these bits.
    pub fn number(self, bits: u64) -> f64 {
        self.meaning.number(bits >> self.shift, self.width() - self.shift)
    }

    /// Returns the number of bits.
    pub fn width(self) -> u32 {
        8 * self.bytes as u32
    }
}

impl Meaning {
    /// Returns the number that `width` bits are, from 1 to 64; a floating-point number has 32 or 64.
    pub fn number(self, bits: u64, width: u32) -> f64 {
        match self {
            Self::Unsigned => bits as f64,
            Self::Signed => sign_extended(bits, width) as f64,
            Self::Float if width == 32 => f64::from(f32::from_bits(bits as u32)),
            Self::Float => f64::from_bits(bits),
        }
    }
}

/// Returns the bits of the number that these bytes, at most 8, are.
pub fn bits(bytes: &[u8], is_big_endian: bool) -> u64 {
    let join = |bits: u64, byte: &u8| bits << 8 | u64::from(*byte);
    if is_big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
}

/// Returns `width` bits, from 1 to 64, as a number with a sign; those above them do not count.
pub fn sign_extended(bits: u64, width: u32) -> i64 {
    let unused = 64 - width;
    (bits << unused).cast_signed() >> unused
}

impl Field {
    /// Returns the number of bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Number { kind, .. } => kind.bytes,
            Self::Skip(bytes) => *bytes,
        }
    }

    /// Returns the name; padding has none.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Number { name, .. } => Some(name),
            Self::Skip(_) => None,
        }
    }
}

/// Reads a field.
///
/// # Errors
/// It is written in another way; the error says how.
pub fn parse(text: &str) -> Result<Field, String> {
    let parts = text.split_once(':').map(|(name, kind)| (name.trim(), kind.trim()));
    let Some((name, kind)) = parts.filter(|(name, _)| !name.is_empty()) else {
        return Err(format!(
            "`{text}` is not a field; write \"NAME: TYPE\", such as \"ax: i16le\", or \"skip: 2\" for padding"
        ));
    };
    if name == "skip" {
        let bytes = kind.parse().ok().filter(|bytes| (1..=MAX_SKIPPED_BYTES).contains(bytes));
        return bytes.map(Field::Skip).ok_or_else(|| {
            format!("`{text}`: write the number of bytes to skip, from 1 to {MAX_SKIPPED_BYTES}, such as \"skip: 2\"")
        });
    }
    let (kind, shift) = match kind.split_once(">>") {
        Some((kind, shift)) => (kind.trim(), Some(shift.trim())),
        None => (kind, None),
    };
    let plain = Kind::of(kind).ok_or_else(|| {
        let both = format!("{kind}le");
        match Kind::of(&both) {
            Some(_) => format!("`{text}` does not say which byte comes first; write {both} for the low one, as most boards send, or {kind}be"),
            None => format!("`{kind}` is not a type of number; the types are {TYPES}"),
        }
    })?;
    let kind = shift.map_or(Ok(plain), |shift| plain.shifted(shift))?;
    Ok(Field::Number { name: name.to_owned(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Kind {
        match parse(&format!("x: {name}")).unwrap() {
            Field::Number { kind, .. } => kind,
            Field::Skip(_) => panic!("{name}"),
        }
    }

    #[test]
    fn a_field_is_read_and_another_text_is_answered_with_what_to_write() {
        let ax = |meaning, bytes, is_big_endian| {
            Ok(Field::Number { name: "a x".to_owned(), kind: Kind { meaning, bytes, is_big_endian, shift: 0 } })
        };
        assert_eq!(parse(" a x :i16le "), ax(Meaning::Signed, 2, false));
        assert_eq!(parse("a x: u8"), ax(Meaning::Unsigned, 1, false));
        assert_eq!(parse("a x: f64be"), ax(Meaning::Float, 8, true));
        assert_eq!(parse("skip: 4096"), Ok(Field::Skip(4096)));
        for (text, part) in [
            ("ax", "write \"NAME: TYPE\""),
            (": i16le", "write \"NAME: TYPE\""),
            ("ax: i16", "write i16le for the low one, as most boards send, or i16be"),
            ("ax: i8le", "the types are u8, i8, u16le"),
            ("ax: f16le", "the types are"),
            ("ax: \u{e9}", "the types are"),
            ("ax: ", "the types are"),
            ("ax: i16be >> 16", "`16` is not a number of bits from 1 to 15"),
            ("ax: f32be >> 4", "cannot be shifted"),
            ("skip: 0", "from 1 to 4096"),
            ("skip: two", "such as \"skip: 2\""),
        ] {
            assert!(parse(text).unwrap_err().contains(part), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn each_type_gives_its_numbers() {
        for (name, bytes, expected) in [
            ("u8", &[0xff][..], 255.0),
            ("i8", &[0xff], -1.0),
            ("u16le", &[0x34, 0x12], 4660.0),
            ("u16be", &[0x12, 0x34], 4660.0),
            ("i16le", &[0x00, 0x80], -32768.0),
            ("i16be", &[0xff, 0xfe], -2.0),
            ("u24le", &[1, 0, 0x80], 8_388_609.0),
            ("i24be", &[0x80, 0, 1], -8_388_607.0),
            ("u32le", &[0, 0, 0, 0x80], 2_147_483_648.0),
            ("i32be", &[0x80, 0, 0, 0], -2_147_483_648.0),
            ("u64le", &[0, 0, 0, 0, 1, 0, 0, 0], 4_294_967_296.0),
            ("i64be", &[0xff; 8], -1.0),
            ("i16be >> 4", &[0x80, 0x01], -2048.0),
            ("u16be>>4", &[0x80, 0x01], 2048.0),
            ("f32le", &1.5f32.to_le_bytes(), 1.5),
            ("f64be", &(-2.25f64).to_be_bytes(), -2.25),
        ] {
            let kind = kind(name);
            assert_eq!(kind.bytes, bytes.len(), "{name}");
            assert_eq!(kind.number(kind.bits(bytes)), expected, "{name}");
        }
    }
}
