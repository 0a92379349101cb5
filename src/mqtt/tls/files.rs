//! Reads certificates and keys in PEM, and says what else a file holds if it holds none.

use std::io;
use std::path::Path;

use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::secret;
use crate::sys::file;
use crate::text::plain;

/// A file of all authorities of a system has less than a tenth of this.
const MAX_BYTES: u64 = 16 << 20;
/// The first byte of everything in DER: certificates, keys, and PKCS#12 archives.
const DER: u8 = 0x30;
const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Returns all certificates of a file, in their order; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |reason: String| format!("{}: {reason}", path.display());
    let unreadable = |error: io::Error| wrong(format!("cannot read the certificates: {error}"));
    let bytes = file::read(path, MAX_BYTES).map_err(unreadable)?;
    let text = without_mark(&bytes);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(wrong(instead_of_certificates(text, path))),
        Err(error) => Err(wrong(damage(&error))),
    }
}

/// Returns the first private key of a file that other users cannot read.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = secret::read(path).map_err(|error| error.to_string())?;
    let text = without_mark(&bytes);
    let wrong = |reason: String| Err(format!("{}: {reason}", path.display()));
    let has = |label: &[u8]| memchr::memmem::find(text, label).is_some();
    let file = path.display();
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return wrong(format!(
            "the key is encrypted, and nobody is there to type its passphrase; write it without one: openssl pkey -in \
             {file} -out plain.key"
        ));
    }
    if has(b"BEGIN OPENSSH PRIVATE KEY") {
        return wrong(format!(
            "this is a key in OpenSSH's own format; on a copy of it, ssh-keygen -p -m PEM -f {file} writes PEM"
        ));
    }
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(_) if text.first() == Some(&DER) => wrong(format!(
            "no private key in PEM: this is DER or PKCS#12. Convert it: openssl pkey -inform der -in {file} -out node.key, \
             or openssl pkcs12 -in {file} -nocerts -nodes -out node.key"
        )),
        Err(pem::Error::NoItemsFound) => wrong(format!("no private key in PEM{}", held(text))),
        Err(error) => wrong(damage(&error)),
    }
}

/// Returns what is wrong with a block of PEM.
fn damage(error: &pem::Error) -> String {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "its line -----END ...----- is missing; is the file cut off?",
        pem::Error::IllegalSectionStart { .. } => "its line -----BEGIN ...----- is damaged",
        pem::Error::Base64Decode(_) => "its lines are not base64",
        _ => "it cannot be read",
    };
    format!("a block of PEM in it is damaged: {what}")
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(UTF8_MARK).unwrap_or(bytes)
}

fn instead_of_certificates(bytes: &[u8], path: &Path) -> String {
    let file = path.display();
    match bytes {
        [] => "the file is empty; it must hold a certificate in PEM".into(),
        [DER, ..] => format!(
            "no certificate in PEM: this is DER or PKCS#12. Convert it: openssl x509 -inform der -in {file} -out ca.pem, or \
             openssl pkcs12 -in {file} -nokeys -out ca.pem"
        ),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "this is text in UTF-16; save it as plain ASCII or UTF-8".into(),
        _ if memchr::memmem::find(bytes, b"BEGIN TRUSTED CERTIFICATE").is_some() => format!(
            "this certificate is in OpenSSL's own format (TRUSTED CERTIFICATE); write a plain one: openssl x509 -in {file} \
             -out ca.pem"
        ),
        _ => format!("no certificate in PEM{}; it begins with -----BEGIN CERTIFICATE-----", held(bytes)),
    }
}

/// Returns what a PEM file holds, as an addition to a sentence.
fn held(file: &[u8]) -> String {
    let label = |line: &[u8]| {
        let line = line.strip_prefix(b"-----BEGIN ")?;
        let end = memchr::memmem::find(line, b"-----")?;
        Some(plain(&String::from_utf8_lossy(line.get(..end)?)))
    };
    let labels: Vec<String> = file.split(|byte| *byte == b'\n').filter_map(label).take(4).collect();
    if labels.is_empty() { String::new() } else { format!("; it holds {}", labels.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        certificates(file.path()).unwrap_err()
    }

    fn key_refused(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        private_key(file.path()).unwrap_err()
    }

    #[test]
    fn a_file_without_a_certificate_is_told_what_it_is() {
        for (bytes, words) in [
            (&b""[..], "the file is empty"),
            (b"\x30\x82\x03\x01\x30", "openssl x509 -inform der -in"),
            (b"\xFF\xFE-\0-\0", "UTF-16"),
            (b"hello\n", "no certificate in PEM; it begins with"),
            (
                b"-----BEGIN CERTIFICATE REQUEST-----\nMA==\n-----END CERTIFICATE REQUEST-----\n",
                "holds CERTIFICATE REQUEST",
            ),
            (b"-----BEGIN TRUSTED CERTIFICATE-----\nMA==\n-----END TRUSTED CERTIFICATE-----\n", "openssl x509 -in"),
            (b"-----BEGIN CERTIFICATE-----\nMA=\x01=\n-----END CERTIFICATE-----\n", "is damaged"),
            (b"-----BEGIN CERTIFICATE-----\nMA==\n", "is the file cut off?"),
        ] {
            let refused = refused(bytes);
            assert!(refused.contains(words), "{words} in {refused}");
        }
        assert!(certificates(Path::new("/")).unwrap_err().contains("a folder, not a regular file"));
        assert!(certificates(Path::new("/nowhere/ca.pem")).unwrap_err().starts_with("/nowhere/ca.pem: "));
    }

    #[test]
    fn a_file_without_a_usable_key_is_told_what_it_is() {
        for (bytes, words) in [
            (&b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n"[..], "openssl pkey -in"),
            (b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMA==\n", "is encrypted"),
            (b"-----BEGIN OPENSSH PRIVATE KEY-----\nMA==\n", "ssh-keygen -p -m PEM"),
            (b"\x30\x82\x03\x01\x30", "openssl pkey -inform der"),
            (b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n", "it holds CERTIFICATE"),
        ] {
            let refused = key_refused(bytes);
            assert!(refused.contains(words), "{words} in {refused}");
        }
    }
}
