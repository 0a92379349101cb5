//! Decides whether the broker's certificate is trusted.
//!
//! With `ca_file`: it is one of the certificates in that file, byte for byte, whether or not it is marked as an
//! authority's; or it is signed by one of them that is marked so and has not expired. Without: it is signed by an authority of the system. In all cases its
//! dates and its names are verified. A certificate without subjectAltName is for its common name, as OpenSSL has it, but
//! only if `ca_file` is set: authorities of the public have not signed such ones for years.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::certificate::Certificate;

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Verifier {
    /// The certificates in `ca_file`; without one, none.
    pub listed: Vec<CertificateDer<'static>>,
    /// The authorities among them, or those of the system.
    pub roots: RootCertStore,
    pub algorithms: WebPkiSupportedAlgorithms,
    pub seen: Seen,
}

/// The certificate that the broker has shown last; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Option<CertificateDer<'static>>>>);

impl Seen {
    pub(super) fn certificate(&self) -> Option<Certificate> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().and_then(|der| Certificate::parse(der))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.clone().into_owned());
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let facts = Certificate::parse(end_entity);
        if self.listed.contains(end_entity) {
            let facts = facts.as_ref().ok_or(CertificateError::BadEncoding)?;
            verify_dates(facts, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                self.algorithms.all,
            )?;
        }
        let by_common_name = || {
            let facts = facts.as_ref().filter(|facts| facts.names.is_none() && !self.listed.is_empty())?;
            facts.subject.as_ref().filter(|name| name.eq_ignore_ascii_case(&server_name.to_str()))
        };
        verify_server_name(&certificate, server_name)
            .or_else(|error| by_common_name().map(|_| ()).ok_or(error))
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms).map_err(|error| self.of_key(error))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms).map_err(|error| self.of_key(error))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Verifier {
    /// Marks an error as one of the key itself, because the certificate was trusted.
    fn of_key(&self, error: Error) -> Error {
        match error {
            Error::InvalidCertificate(_) => CertificateError::Other(OtherError(Arc::new(UnfitKey))).into(),
            other => other,
        }
    }
}

/// The key in the certificate is of a kind or a length with which signatures cannot be verified.
#[derive(Debug, thiserror::Error)]
#[error("its key cannot be used")]
pub(super) struct UnfitKey;

fn verify_dates(certificate: &Certificate, now: UnixTime) -> Result<(), CertificateError> {
    let at = |seconds: u64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    if now.as_secs() < certificate.not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before: at(certificate.not_before) });
    }
    if now.as_secs() > certificate.not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after: at(certificate.not_after) });
    }
    Ok(())
}
