//! Paths from a root down to the certificate of a peer.
//!
//! Whoever presents certificates chooses their number, names, keys and order, and need not have been issued any of them.
//! So a path is built from the roots down, and only keys that are trusted already check signatures. What a certificate
//! says of itself is looked at before its signature, and each check is counted.
//!
//! ```text
//!   root ─────► authority ─────► … ─────► leaf
//!         name, extensions, usage, path length, time, size of the key; then the signature, with the key above
//! ```

use rustls::{CertificateError, SignatureScheme};
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    oid_registry::{OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE},
    x509::X509Version,
};

use super::{
    signature::{PublicKey, scheme_of},
    verify::{CERTIFICATES_MAX, Refusal},
};

/// Signatures that are checked for one chain, beyond one for each certificate of ours: two for each that may be presented,
/// so that an authority may have had two keys.
pub const SIGNATURES_MAX: usize = 2 * CERTIFICATES_MAX;

/// A certificate, as far as paths ask.
#[derive(Debug)]
pub(super) struct Certificate {
    subject: Vec<u8>,
    issuer: Vec<u8>,
    not_before: i64,
    not_after: i64,
    key: Option<PublicKey>,
    /// How many authorities may stand between it and a leaf, or why it may not issue at all.
    authority: Result<usize, CertificateError>,
    /// What is signed, by which scheme, and the signature.
    content: Vec<u8>,
    scheme: Option<SignatureScheme>,
    signature: Vec<u8>,
}

impl Certificate {
    /// A root of ours. Its key may be as large as its owner likes.
    pub(super) fn root(certificate: &X509Certificate<'_>) -> Self {
        Self::read(certificate, check_authority(certificate, true))
    }

    /// One that is an authority only if a root is above it.
    pub(super) fn below_root(certificate: &X509Certificate<'_>) -> Self {
        let mut read = Self::read(certificate, check_authority(certificate, false));
        if read.key.as_ref().is_some_and(|key| !key.is_within_bounds()) {
            read.authority = read.authority.and(Err(Refusal::KeyTooLarge.into()));
        }
        read
    }

    fn read(certificate: &X509Certificate<'_>, authority: Result<usize, CertificateError>) -> Self {
        let validity = certificate.validity();
        Self {
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            key: PublicKey::of(certificate.public_key()),
            authority,
            content: certificate.tbs_certificate.as_ref().to_vec(),
            scheme: scheme_of(certificate),
            signature: certificate.signature_value.data.to_vec(),
        }
    }

    pub(super) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    pub(super) fn key(&self) -> Option<&PublicKey> {
        self.key.as_ref()
    }

    /// Whether this one says that it was issued by that one, and that one's key signed it.
    pub(super) fn is_issued_by(&self, authority: &Self) -> bool {
        self.issuer == authority.subject && self.is_signed_by(authority)
    }

    fn is_signed_by(&self, authority: &Self) -> bool {
        let (Some(key), Some(scheme)) = (&authority.key, self.scheme) else { return false };
        key.verify(scheme, &self.content, &self.signature)
    }

    /// How many authorities may stand between it and a leaf now.
    fn longest_path(&self, now: i64) -> Result<usize, CertificateError> {
        check_validity(self.not_before, self.not_after, now)?;
        self.authority.clone()
    }

    fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    fn is_copy_of(&self, other: &Self) -> bool {
        self.content == other.content && self.signature == other.signature
    }
}

/// How many signatures were checked for a chain, and how many may be.
#[derive(Debug)]
pub(super) struct Checks {
    made: usize,
    max: usize,
}

impl Checks {
    pub(super) fn up_to(max: usize) -> Self {
        Self { made: 0, max }
    }

    #[cfg(test)]
    pub(super) fn made(&self) -> usize {
        self.made
    }

    fn count(&mut self) -> Result<(), Refusal> {
        if self.made >= self.max {
            return Err(Refusal::TooManySignatures);
        }
        self.made += 1;
        Ok(())
    }
}

/// An authority that a path leads to.
struct Trusted<'a> {
    certificate: &'a Certificate,
    /// How many further authorities may stand between it and the leaf.
    below: usize,
}

/// A certificate that no path leads to yet.
struct Untrusted<'a> {
    certificate: &'a Certificate,
    longest_path: usize,
    /// Keys that did not sign it.
    tried: Vec<&'a PublicKey>,
}

impl<'a> Untrusted<'a> {
    fn new(certificate: &'a Certificate, longest_path: usize) -> Self {
        Self { certificate, longest_path, tried: Vec::new() }
    }

    /// Whether an authority issued it. No key is asked twice, whatever certificates it has.
    fn is_issued_by(&mut self, authority: &'a Certificate, checks: &mut Checks) -> Result<bool, Refusal> {
        let Some(key) = &authority.key else { return Ok(false) };
        if self.certificate.issuer != authority.subject || self.tried.iter().any(|tried| tried.is_same(key)) {
            return Ok(false);
        }
        checks.count()?;
        if self.certificate.is_signed_by(authority) {
            return Ok(true);
        }
        self.tried.push(key);
        Ok(false)
    }
}

/// Finds a path from a root over other certificates to a leaf, and gives the leaf's issuer. Any path will do: an authority
/// may have expired and have a successor of the same name. Without a path it gives the fault that is nearest to the leaf.
pub(super) fn issuer_of<'a>(
    leaf: &'a Certificate,
    roots: &'a [Certificate],
    others: impl Iterator<Item = &'a Certificate>,
    now: i64,
    checks: &mut Checks,
) -> Result<&'a Certificate, CertificateError> {
    let Candidates { mut trusted, mut untrusted, mut fault } = candidates(leaf, roots, others, now);
    let mut leaf = Untrusted::new(leaf, 0);
    // The one first below which most may stand. What it issued could get no better place from any other, so that no
    // certificate is looked at again.
    while let Some(widest) = (0..trusted.len()).min_by_key(|&index| std::cmp::Reverse(trusted[index].below)) {
        let Trusted { certificate: authority, below } = trusted.remove(widest);
        if leaf.is_issued_by(authority, checks)? {
            return Ok(authority);
        }
        let Some(left) = below.checked_sub(1) else {
            if untrusted.iter().any(|candidate| candidate.certificate.issuer == authority.subject) {
                fault.get_or_insert(CertificateError::InvalidPurpose);
            }
            continue;
        };
        for mut candidate in std::mem::take(&mut untrusted) {
            if candidate.is_issued_by(authority, checks)? {
                let below = candidate.longest_path.min(left);
                trusted.push(Trusted { certificate: candidate.certificate, below });
            } else {
                untrusted.push(candidate);
            }
        }
    }
    Err(fault.unwrap_or(CertificateError::UnknownIssuer))
}

struct Candidates<'a> {
    trusted: Vec<Trusted<'a>>,
    untrusted: Vec<Untrusted<'a>>,
    fault: Option<CertificateError>,
}

/// Those authorities from which names lead down to the leaf, and which may issue as far as they say. No signature is
/// looked at.
fn candidates<'a>(
    leaf: &'a Certificate,
    roots: &'a [Certificate],
    others: impl Iterator<Item = &'a Certificate>,
    now: i64,
) -> Candidates<'a> {
    let mut unseen: Vec<&Certificate> = Vec::new();
    for other in others {
        // Nothing is gained by one that is there already.
        if !roots.iter().chain(unseen.iter().copied()).any(|seen| seen.is_copy_of(other)) {
            unseen.push(other);
        }
    }
    let (mut trusted, mut untrusted, mut fault) = (Vec::new(), Vec::new(), None);
    let mut names = vec![&leaf.issuer];
    let mut looked_at = 0;
    while let Some(&name) = names.get(looked_at) {
        looked_at += 1;
        for root in roots.iter().filter(|root| root.subject == *name) {
            match root.longest_path(now) {
                Ok(below) => trusted.push(Trusted { certificate: root, below }),
                Err(error) => drop(fault.get_or_insert(error)),
            }
        }
        for other in unseen.extract_if(.., |other| other.subject == *name) {
            match other.longest_path(now) {
                Ok(longest_path) => {
                    untrusted.push(Untrusted::new(other, longest_path));
                    if !names.contains(&&other.issuer) {
                        names.push(&other.issuer);
                    }
                }
                // A root that is not ours: whatever else is wrong with it, it is of another authority.
                Err(_) if other.is_self_issued() => {}
                Err(error) => drop(fault.get_or_insert(error)),
            }
        }
    }
    Candidates { trusted, untrusted, fault }
}

/// Whether all that a certificate says of its use can be read, and nothing is critical that nobody reads
/// here (RFC 5280, section 4.2).
pub(super) fn check_extensions(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    certificate.extensions_map().map_err(|_| CertificateError::BadEncoding)?;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(_) | ParsedExtension::KeyUsage(_) => {}
            _ if extension.oid == OID_X509_EXT_BASIC_CONSTRAINTS
                || extension.oid == OID_X509_EXT_KEY_USAGE =>
            {
                return Err(CertificateError::BadEncoding);
            }
            _ if extension.critical => return Err(CertificateError::UnhandledCriticalExtension),
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn check_validity(not_before: i64, not_after: i64, now: i64) -> Result<(), CertificateError> {
    if now < not_before {
        Err(CertificateError::NotValidYet)
    } else if now > not_after {
        Err(CertificateError::Expired)
    } else {
        Ok(())
    }
}

/// Whether a certificate may have issued others; gives how many authorities may stand between it and a leaf.
fn check_authority(certificate: &X509Certificate<'_>, is_root: bool) -> Result<usize, CertificateError> {
    check_extensions(certificate)?;
    if let Ok(Some(usage)) = certificate.key_usage()
        && !usage.value.key_cert_sign()
    {
        return Err(CertificateError::InvalidPurpose);
    }
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => {
            let longest = constraints.value.path_len_constraint;
            Ok(longest.and_then(|longest| usize::try_from(longest).ok()).unwrap_or(usize::MAX))
        }
        // Roots are trusted by configuration, and old ones have no extensions.
        Ok(None) if is_root && certificate.version() != X509Version::V3 => Ok(usize::MAX),
        Ok(None) if is_root && certificate.extensions().is_empty() => Ok(usize::MAX),
        _ => Err(CertificateError::InvalidPurpose),
    }
}

#[cfg(test)]
mod kit;
#[cfg(test)]
mod tests;
