//! What an X.509 certificate says of itself, for texts that a person reads. Pure.
//!
//! It decides nothing about trust: signatures, purposes and names are verified by webpki. Two facts are used in `verify`:
//! the dates of a certificate that is trusted as it is, and the common name of one that has no other names.

use std::fmt;
use std::net::IpAddr;

use crate::text;

const BIT_STRING: u8 = 0x03;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1D, 0x13];
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
/// Public keys and curves that are not RSA.
const KEYS: [(&[u8], &str); 8] = [
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07], "an ECDSA key on P-256"),
    (&[0x2B, 0x81, 0x04, 0x00, 0x22], "an ECDSA key on P-384"),
    (&[0x2B, 0x81, 0x04, 0x00, 0x23], "an ECDSA key on P-521"),
    (&[0x2B, 0x81, 0x04, 0x00, 0x0A], "an ECDSA key on secp256k1"),
    (&[0x2B, 0x65, 0x70], "an Ed25519 key"),
    (&[0x2B, 0x65, 0x71], "an Ed448 key"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x38, 0x04, 0x01], "a DSA key"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x0A], "an RSA-PSS key"),
];
/// Signatures that are too weak to be verified.
const WEAK_SIGNATURES: [(&[u8], &str); 4] = [
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x04], "MD5"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x05], "SHA-1"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01], "SHA-1"),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x38, 0x04, 0x03], "SHA-1"),
];

/// See the module's doc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// 1 or 3; only version 3 has names other than the common name, and purposes.
    pub version: u8,
    /// The common names of its holder and of who signed it.
    pub subject: Option<String>,
    pub issuer: Option<String>,
    pub is_self_issued: bool,
    /// Seconds since 1970.
    pub not_before: u64,
    pub not_after: u64,
    /// Names in subjectAltName; `None` if it has no such extension.
    pub names: Option<Vec<Name>>,
    /// Whether it is marked as an authority's.
    pub is_ca: bool,
    pub key: Key,
    /// The public key as it is encoded.
    pub public_key: Vec<u8>,
    /// The hash under its signature, if that is too weak.
    pub weak_signature: Option<&'static str>,
}

/// A name that a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Dns(String),
    Ip(IpAddr),
    /// An e-mail address, a URI, or another kind that no host has.
    Other,
}

/// The kind of a public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Rsa { bits: usize },
    Known(&'static str),
    Unknown,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Other => f.write_str("a name of another kind"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "an RSA key of {bits} bits"),
            Self::Known(name) => f.write_str(name),
            Self::Unknown => f.write_str("a key of an unknown kind"),
        }
    }
}

impl Certificate {
    /// Reads a certificate in DER; `None` if it is none.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let mut tbs = Der(Der(Der(der).take(SEQUENCE)?).take(SEQUENCE)?);
        let version = tbs.take_if(0xA0).and_then(|content| Der(content).take(INTEGER)?.last().copied());
        tbs.take(INTEGER)?;
        let signature = Der(tbs.take(SEQUENCE)?).take(OID)?;
        let issuer = tbs.take(SEQUENCE)?;
        let mut validity = Der(tbs.take(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let subject = tbs.take(SEQUENCE)?;
        let public_key = tbs.take(SEQUENCE)?;
        let (mut names, mut is_ca) = (None, false);
        while let Some((tag, content)) = tbs.next() {
            let mut extensions = Der(if tag == 0xA3 { Der(content).take(SEQUENCE)? } else { &[] });
            while let Some(extension) = extensions.take_if(SEQUENCE) {
                let mut extension = Der(extension);
                let id = extension.take(OID)?;
                extension.take_if(BOOLEAN);
                let value = Der(extension.take(OCTET_STRING)?).take(SEQUENCE);
                match id {
                    SUBJECT_ALT_NAME => names = Some(value.map_or_else(Vec::new, alt_names)),
                    BASIC_CONSTRAINTS => is_ca = value.and_then(|v| Der(v).take(BOOLEAN)) == Some(&[0xFF]),
                    _ => {}
                }
            }
        }
        Some(Self {
            version: version.unwrap_or(0).saturating_add(1),
            is_self_issued: subject == issuer,
            subject: common_name(subject),
            issuer: common_name(issuer),
            not_before,
            not_after,
            names,
            is_ca,
            key: key(public_key).unwrap_or(Key::Unknown),
            public_key: public_key.to_owned(),
            weak_signature: find(&WEAK_SIGNATURES, signature),
        })
    }

    /// Returns whether it may sign other certificates. Version 1 cannot say so; there, as in OpenSSL, one that is self-signed
    /// may.
    pub(crate) fn may_sign(&self) -> bool {
        if self.version < 3 { self.is_self_issued } else { self.is_ca }
    }

    /// Returns whether its dates include that time, in seconds since 1970.
    pub(crate) fn is_valid_at(&self, seconds: u64) -> bool {
        (self.not_before..=self.not_after).contains(&seconds)
    }

    /// Returns the common name of its holder for a text.
    pub(crate) fn holder(&self) -> String {
        self.subject.clone().unwrap_or_else(|| "without a common name".to_owned())
    }

    /// Returns the names that it is for, for a text; `None` if it has none.
    pub(crate) fn names_text(&self) -> Option<String> {
        let names = self.names.as_ref().filter(|names| !names.is_empty())?;
        Some(names.iter().map(Name::to_string).collect::<Vec<_>>().join(", "))
    }
}

fn find<T: Copy>(list: &[(&[u8], T)], id: &[u8]) -> Option<T> {
    list.iter().find(|(known, _)| *known == id).map(|(_, what)| *what)
}

fn common_name(name: &[u8]) -> Option<String> {
    let mut sets = Der(name);
    while let Some(set) = sets.take_if(SET) {
        let mut pair = Der(Der(set).take(SEQUENCE)?);
        if pair.take(OID)? == COMMON_NAME {
            let (_, value) = pair.next()?;
            return Some(text::plain(&String::from_utf8_lossy(value)));
        }
    }
    None
}

fn alt_names(names: &[u8]) -> Vec<Name> {
    let address = |bytes: &[u8]| {
        let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
    };
    let mut names = Der(names);
    std::iter::from_fn(|| names.next())
        .map(|(tag, value)| match tag {
            DNS_NAME => Name::Dns(text::plain(&String::from_utf8_lossy(value))),
            IP_ADDRESS => address(value).map_or(Name::Other, Name::Ip),
            _ => Name::Other,
        })
        .collect()
}

fn key(public_key: &[u8]) -> Option<Key> {
    let mut fields = Der(public_key);
    let mut algorithm = Der(fields.take(SEQUENCE)?);
    let id = match algorithm.take(OID)? {
        RSA => {
            let (_, key) = fields.take(BIT_STRING)?.split_first()?;
            let modulus = Der(Der(key).take(SEQUENCE)?).take(INTEGER)?;
            let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
            let first = modulus.get(zeros)?;
            return Some(Key::Rsa { bits: (modulus.len() - zeros) * 8 - first.leading_zeros() as usize });
        }
        EC => algorithm.take(OID)?,
        other => other,
    };
    Some(find(&KEYS, id).map_or(Key::Unknown, Key::Known))
}

/// What is left to read of a DER structure.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next value: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, length], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match length {
            short @ 0..0x80 => (usize::from(short), rest),
            long => {
                let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7F))?;
                if digits.is_empty() || digits.len() > 4 {
                    return None;
                }
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// Takes the next value if it has that tag.
    fn take_if(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.take(tag) } else { None }
    }

    /// Takes the next value, which must have that tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// Takes a time, in seconds since 1970; one before that is 0.
    fn time(&mut self) -> Option<u64> {
        let (tag, text) = self.next()?;
        let digits: Option<Vec<u64>> =
            text.strip_suffix(b"Z")?.iter().map(|c| c.is_ascii_digit().then(|| u64::from(c - b'0'))).collect();
        let digits = digits?;
        let (year_digits, pairs) = digits.split_at_checked(match tag {
            UTC_TIME => 2,
            GENERALIZED_TIME => 4,
            _ => return None,
        })?;
        let year = match (tag, year_digits.iter().fold(0, |year, digit| year * 10 + digit)) {
            (UTC_TIME, short @ 0..50) => 2000 + short,
            (UTC_TIME, short) => 1900 + short,
            (_, year) => year,
        };
        let parts: Vec<u64> = pairs.chunks_exact(2).map(|pair| pair[0] * 10 + pair[1]).collect();
        let [month @ 1..=12, day @ 1..=31, hour, minute, second] = parts[..] else { return None };
        let days = days_since_1970(i64::try_from(year).ok()?, month, day);
        Some(u64::try_from(days).unwrap_or(0) * 86_400 + hour * 3600 + minute * 60 + second)
    }
}

/// Returns the number of days from 1970 to a date: whole years and leap days, counted in years that begin in March.
fn days_since_1970(year: i64, month: u64, day: u64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let in_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + in_year as i64 - 719_468
}

/// Returns the date of a time in seconds since 1970, as `2026-11-29`.
pub(crate) fn date(seconds: u64) -> String {
    let days = i64::try_from(seconds / 86_400).unwrap_or(0);
    // A year too early at first; a date has few of them to go.
    let mut year = 1970 + days / 366;
    while days_since_1970(year + 1, 1, 1) <= days {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days_since_1970(year, *month, 1) <= days).unwrap_or(1);
    format!("{year:04}-{month:02}-{:02}", days - days_since_1970(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "the broker");
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_described() {
        let named = CertificateParams::new(["b.example".to_owned(), "192.0.2.7".to_owned(), "::1".to_owned()]).unwrap();
        let der = made(|params| {
            params.subject_alt_names = named.subject_alt_names;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            (params.not_before, params.not_after) = (date_time_ymd(2024, 2, 29), date_time_ymd(2061, 3, 1));
        });
        let seen = Certificate::parse(&der).unwrap();
        assert_eq!((seen.version, seen.is_ca, seen.is_self_issued), (3, true, true));
        assert_eq!((seen.holder().as_str(), seen.issuer.as_deref()), ("the broker", Some("the broker")));
        assert_eq!((date(seen.not_before), date(seen.not_after)), ("2024-02-29".into(), "2061-03-01".into()));
        assert_eq!(seen.names_text().as_deref(), Some("DNS:b.example, IP:192.0.2.7, IP:::1"));
        assert_eq!((seen.key.to_string().as_str(), seen.weak_signature), ("an ECDSA key on P-256", None));
        let bare = Certificate::parse(&made(|_| {})).unwrap();
        assert_eq!((bare.names, bare.is_ca), (None, false));
    }

    #[test]
    fn a_date_is_as_in_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_798_761_599, "2026-12-31"),
            (1_798_761_600, "2027-01-01"),
            (4_102_444_800, "2100-01-01"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_certificate_or_none(at in any::<prop::sample::Index>(), byte: u8, end in any::<prop::sample::Index>()) {
            let mut der = made(|_| {});
            let place = at.index(der.len());
            der[place] = byte;
            Certificate::parse(&der);
            Certificate::parse(&der[..end.index(der.len())]);
        }

        #[test]
        fn a_date_is_that_of_its_days(year in 1970i64..2400, month in 1u64..=12, day in 1u64..=28) {
            let seconds = u64::try_from(days_since_1970(year, month, day)).unwrap() * 86_400 + 86_399;
            prop_assert_eq!(date(seconds), format!("{year:04}-{month:02}-{day:02}"));
        }
    }
}
