//! What a server has presented, kept for people who are to be told why it was refused.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    identity::{Identity, Roots, parse},
    verify::Verifier,
};

/// Judges as the verifier that it is made of, and keeps what that was given last.
#[derive(Debug)]
pub struct Presented {
    judge: Arc<Verifier>,
    /// One's own certificate: a server that has it is oneself, and is told nothing more.
    own: CertificateDer<'static>,
    leaf: Mutex<Option<CertificateDer<'static>>>,
}

/// The kind of a certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyProfile {
    /// RSA, as in `channel_cert`.
    Rsa,
    /// An elliptic curve, as of nodes.
    Elliptic,
}

/// Whose a certificate is, as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Whose it is.
    pub subject: String,
    /// Who has issued it.
    pub issuer: String,
    /// From when on it is valid.
    pub not_before: String,
    /// Until when.
    pub not_after: String,
    /// Its key.
    pub profile: KeyProfile,
}

impl Named {
    /// What a certificate says.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        /// `rsaEncryption`.
        const RSA: &str = "1.2.840.113549.1.1.1";
        let certificate = parse(certificate)?;
        let is_rsa = certificate.public_key().algorithm.algorithm.to_id_string() == RSA;
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_before: certificate.validity().not_before.to_string(),
            not_after: certificate.validity().not_after.to_string(),
            profile: if is_rsa { KeyProfile::Rsa } else { KeyProfile::Elliptic },
        })
    }
}

impl Identity {
    /// What its certificate says.
    pub fn named(&self) -> Option<Named> {
        Named::of(self.leaf())
    }
}

impl Roots {
    /// What the first of them says.
    pub fn named(&self) -> Option<Named> {
        Named::of(self.0.first()?)
    }
}

impl Presented {
    pub(super) fn to(judge: Arc<Verifier>, own: CertificateDer<'static>) -> Arc<Self> {
        Arc::new(Self { judge, own, leaf: Mutex::default() })
    }

    /// Another server is about to be met.
    pub fn forget(&self) {
        *self.leaf.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether the server that was met last has one's own certificate.
    pub fn is_own(&self) -> bool {
        self.leaf.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&self.own)
    }

    /// The certificate of the server that was met last.
    pub fn leaf(&self) -> Option<Named> {
        Named::of(self.leaf.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?)
    }
}

impl ServerCertVerifier for Presented {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.leaf.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.clone().into_owned());
        if *end_entity == self.own {
            return Err(Error::General("this machine's own certificate is presented".to_owned()));
        }
        self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(&*self.judge, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(&*self.judge, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(&*self.judge)
    }
}
