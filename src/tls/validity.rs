//! Whether a node's own certificates are any good: nobody else tells it, for others only refuse them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::{
    CertificateError,
    pki_types::{CertificateDer, UnixTime},
};

use super::{
    identity::{Identity, Roots, parse},
    verify::{IssuerPolicy, Verifier},
};

/// How long before the end of a certificate it is time to renew it.
const RENEW_WITHIN: Duration = Duration::from_secs(30 * 86_400);

/// Names of certificates, and when each ends, in seconds since 1970.
pub type CertificateEnds = Vec<(&'static str, i64)>;

/// What is wrong with a certificate of one's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// It has ended.
    #[error("has expired on {not_after}: subject {subject}")]
    Expired {
        /// Whose it is.
        subject: String,
        /// When.
        not_after: String,
    },
    /// It ends soon.
    #[error("expires on {not_after}, {}: renew it in time; subject {subject}", in_days(*.days))]
    ExpiresSoon {
        /// Whose it is.
        subject: String,
        /// When.
        not_after: String,
        /// In how many whole days.
        days: u64,
    },
    /// Its time has not begun.
    #[error("is not valid before {not_before}, or this machine's clock is wrong: subject {subject}")]
    NotValidYet {
        /// Whose it is.
        subject: String,
        /// When it begins.
        not_before: String,
    },
    /// Nothing leads from it to the roots.
    #[error(
        "does not chain to these roots: its issuer, {issuer}, is not there, or has not signed it: subject {subject}"
    )]
    Foreign {
        /// Whose it is.
        subject: String,
        /// Who issued it, as it says.
        issuer: String,
    },
    /// One above it is out of its time, and others lead to the roots.
    #[error("has one above it in its file that {0}; it is not needed: take it out")]
    NotNeeded(Box<CertificateFault>),
    /// A chain that is refused for another reason.
    #[error("cannot be used with these roots, others would refuse it: {reason}; subject {subject}")]
    Refused {
        /// Whose it is.
        subject: String,
        /// Why.
        reason: String,
    },
}

impl CertificateFault {
    /// Whether it keeps others from accepting the certificate now.
    pub fn is_error(&self) -> bool {
        !matches!(self, Self::ExpiresSoon { .. } | Self::NotNeeded(_))
    }
}

fn in_days(days: u64) -> String {
    match days {
        0 => "within a day".to_owned(),
        1 => "in 1 day".to_owned(),
        days => format!("in {days} days"),
    }
}

/// What is wrong with a certificate's own time.
fn of_time(certificate: &CertificateDer<'_>, now: i64) -> Option<CertificateFault> {
    let certificate = parse(certificate)?;
    let (subject, validity) = (certificate.subject().to_string(), certificate.validity());
    let left = validity.not_after.timestamp() - now;
    if left < 0 {
        return Some(CertificateFault::Expired { subject, not_after: validity.not_after.to_string() });
    }
    if now < validity.not_before.timestamp() {
        return Some(CertificateFault::NotValidYet { subject, not_before: validity.not_before.to_string() });
    }
    let left = Duration::from_secs(left.unsigned_abs());
    (left < RENEW_WITHIN).then(|| CertificateFault::ExpiresSoon {
        subject,
        not_after: validity.not_after.to_string(),
        days: left.as_secs() / 86_400,
    })
}

fn seconds(now: SystemTime) -> i64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The end of the first of the certificates that ends, in seconds since 1970.
fn first_end(certificates: &[CertificateDer<'_>]) -> Option<i64> {
    let ends = certificates
        .iter()
        .filter_map(|certificate| Some(parse(certificate)?.validity().not_after.timestamp()));
    ends.min()
}

impl Identity {
    /// What is wrong with the certificate and those above it in its file, at that time, for somebody who trusts these roots.
    pub fn faults(&self, roots: &Roots, now: SystemTime) -> Vec<CertificateFault> {
        let seconds = seconds(now);
        let verifier = Verifier::new(roots, &[], IssuerPolicy::default());
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds.unsigned_abs()));
        let (leaf, above) = (self.leaf(), &self.chain[1..]);
        let verified = verifier.verify_chain(leaf, above, time);
        let in_file = above.iter().filter_map(|certificate| of_time(certificate, seconds));
        let in_file = in_file.map(|fault| match &verified {
            Ok(()) if fault.is_error() => CertificateFault::NotNeeded(Box::new(fault)),
            _ => fault,
        });
        let mut faults: Vec<_> = of_time(leaf, seconds).into_iter().chain(in_file).collect();
        if faults.iter().any(CertificateFault::is_error) {
            return faults;
        }
        if let Err(reason) = verified {
            let names = |certificate: &CertificateDer<'_>| {
                let certificate = parse(certificate)?;
                Some((certificate.subject().to_string(), certificate.issuer().to_string()))
            };
            let (subject, _) = names(leaf).unwrap_or_default();
            let (top, issuer) = self.chain.last().and_then(names).unwrap_or_default();
            // A file that goes up to its own root ends at one that is not trusted.
            let ends_elsewhere = top == issuer && !self.chain.last().is_some_and(|top| roots.0.contains(top));
            faults.push(match reason {
                CertificateError::UnknownIssuer => CertificateFault::Foreign { subject, issuer },
                _ if ends_elsewhere => CertificateFault::Foreign { subject, issuer },
                CertificateError::Expired | CertificateError::NotValidYet => CertificateFault::Refused {
                    subject,
                    reason: "a certificate above it has expired, or is not valid yet".to_owned(),
                },
                CertificateError::Other(refusal) => {
                    CertificateFault::Refused { subject, reason: refusal.0.to_string() }
                }
                reason => CertificateFault::Refused { subject, reason: format!("{reason:?}") },
            });
        }
        faults
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn not_after(&self) -> Option<i64> {
        first_end(&self.chain[..1])
    }

    /// When the first of those above it in its file ends; `None` if there are none.
    pub fn chain_not_after(&self) -> Option<i64> {
        first_end(&self.chain[1..])
    }

    /// Whether the certificates are the same, and with them the key.
    pub fn is_same(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl Roots {
    /// What is wrong with the time of the roots.
    pub fn faults(&self, now: SystemTime) -> Vec<CertificateFault> {
        self.0.iter().filter_map(|root| of_time(root, seconds(now))).collect()
    }

    /// When the first of them ends, in seconds since 1970.
    pub fn not_after(&self) -> Option<i64> {
        first_end(&self.0)
    }

    /// Whether they are the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::pki::{Authority, Issued, KeyType, Validity};

    const DAY: Duration = Duration::from_secs(86_400);

    fn identity(issued: &Issued, above: &[&Authority]) -> Identity {
        let above: String = above.iter().map(|authority| authority.issued.certificate.as_str()).collect();
        let chain = issued.certificate.clone() + &above;
        Identity::from_pem(chain.as_bytes(), issued.key.as_bytes(), Path::new("c"), Path::new("k")).unwrap()
    }

    fn roots(authority: &Authority) -> Roots {
        Roots::from_pem(authority.issued.certificate.as_bytes(), Path::new("r")).unwrap()
    }

    fn days(days: u64) -> Validity {
        Validity::days(days)
    }

    #[test]
    fn a_certificate_of_ones_own_is_judged_as_others_would() {
        let chain = Authority::root(KeyType::Secp256k1, "chain", days(1000)).unwrap();
        let agency = chain.agency("agency", days(200)).unwrap();
        let node = identity(&agency.leaf("node0", "node", days(100)).unwrap(), &[&agency]);
        let (good, now) = (roots(&chain), SystemTime::now());
        assert_eq!(node.faults(&good, now), []);
        let after = |days: u32| node.faults(&good, now + days * DAY);
        assert!(matches!(&after(75)[..], [CertificateFault::ExpiresSoon { days: 24 | 25, .. }]));
        assert!(!after(75)[0].is_error());
        assert!(matches!(&after(101)[..], [CertificateFault::Expired { .. }]));
        assert!(after(101)[0].to_string().contains("expired on"));
        assert!(matches!(&node.faults(&good, now - 2 * DAY)[..], [_, CertificateFault::NotValidYet { .. }]));
        // The agency's end is the node's end, too.
        let long = identity(&agency.leaf("node0", "node", days(900)).unwrap(), &[&agency]);
        assert!(matches!(&long.faults(&good, now + 201 * DAY)[..], [CertificateFault::Expired { .. }]));
        // One that is out of its time beside those that lead to the roots is passed over by others, too.
        let past = Validity { not_before: now - 2 * DAY, not_after: now - DAY };
        let old = Authority::root(KeyType::Secp256k1, "old", past).unwrap();
        let more = identity(&agency.leaf("node0", "node", days(100)).unwrap(), &[&agency, &old]);
        let faults = more.faults(&good, now);
        assert!(matches!(&faults[..], [CertificateFault::NotNeeded(_)]), "{faults:?}");
        assert!(!faults[0].is_error() && faults[0].to_string().contains("has expired on"), "{}", faults[0]);
        let foreign = roots(&Authority::root(KeyType::Secp256k1, "chain", days(1000)).unwrap());
        let faults = node.faults(&foreign, now);
        assert!(matches!(&faults[..], [CertificateFault::Foreign { .. }]), "{faults:?}");
        let whole = identity(&agency.leaf("node0", "node", days(100)).unwrap(), &[&agency, &chain]);
        assert_eq!(whole.faults(&good, now), []);
        let faults = whole.faults(&foreign, now);
        assert!(matches!(&faults[..], [CertificateFault::Foreign { .. }]), "{faults:?}");
        // Nobody looks at so many.
        let many = identity(&agency.leaf("node0", "node", days(100)).unwrap(), &[&agency; 10]);
        let faults = many.faults(&good, now);
        assert!(
            faults[0].is_error() && faults[0].to_string().contains("more than 10 certificates"),
            "{faults:?}"
        );
        // Without the agency in its file nobody else finds the way.
        let alone = identity(&agency.leaf("node0", "node", days(100)).unwrap(), &[]);
        assert!(matches!(&alone.faults(&good, now)[..], [CertificateFault::Foreign { .. }]));
        assert!(node.not_after() < node.chain_not_after() && node.chain_not_after() < good.not_after());
    }

    #[test]
    fn roots_and_certificates_of_version_1_are_judged_as_well() {
        let authority = Authority::root(KeyType::Rsa2048, "agency", days(40)).unwrap();
        let channel = identity(&authority.channel_leaf("FISCO-BCOS", days(400)).unwrap(), &[]);
        let (roots, now) = (roots(&authority), SystemTime::now());
        assert_eq!(channel.faults(&roots, now), []);
        assert_eq!(roots.faults(now), []);
        assert!(matches!(&roots.faults(now + 20 * DAY)[..], [CertificateFault::ExpiresSoon { .. }]));
        assert!(matches!(&roots.faults(now + 41 * DAY)[..], [CertificateFault::Expired { .. }]));
        let faults = channel.faults(&roots, now + 41 * DAY);
        assert!(matches!(&faults[..], [CertificateFault::Refused { .. }]), "{faults:?}");
        assert_eq!(channel.chain_not_after(), None);
    }
}
