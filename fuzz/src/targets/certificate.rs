//! Certificates and keys: any bytes are read or refused; and chains made by a script are accepted exactly
//! if a plain search over what the script says finds a way to a root.
//!
//! Keys are fixed numbers and signatures deterministic, so an input means the same in every run.

use std::{path::Path, sync::OnceLock};

use amop::internal::tls::{
    identity::{Identity, Roots},
    verify::{IssuerPolicy, Verifier},
};
use arbitrary::{Arbitrary, Unstructured};
use rustls::{
    SignatureScheme,
    client::danger::ServerCertVerifier,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use x509_cert::{
    certificate::{TbsCertificate, Version},
    der::{
        Encode,
        asn1::{BitString, GeneralizedTime, ObjectIdentifier, OctetString},
        pem::LineEnding,
    },
    ext::{Extension, pkix::BasicConstraints},
    name::Name,
    serial_number::SerialNumber,
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
    time::{Time, Validity},
};
use x509_parser::prelude::{FromDer, X509Certificate};

const OID_ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const OID_EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const OID_SECP256K1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.10");
const OID_BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const OID_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const OID_NAME_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.30");
const OID_NOBODY_KNOWS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.55555.1");

const NOW: u64 = 1_800_000_000;
const YEAR: u64 = 365 * 86_400;
const CHAIN_MAX: usize = 5;
const ROOTS_MAX: usize = 2;
/// How many names and keys a script may draw from: few, so that they meet.
const NAMES: u8 = 3;
const KEYS: u8 = 3;

#[derive(Arbitrary, Clone, Debug)]
struct Plan {
    subject: u8,
    issuer: u8,
    key: u8,
    signed_by: u8,
    version_1: bool,
    time: When,
    authority: Option<(bool, Option<u8>)>,
    key_usage: Option<(bool, bool)>,
    oddity: Option<Oddity>,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum When {
    Good,
    AlsoGood,
    Expired,
    NotYet,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Oddity {
    Unknown { critical: bool },
    NameConstraints { critical: bool },
    MalformedBasicConstraints,
    MalformedKeyUsage,
    TwoBasicConstraints,
    TwoKeyUsages,
}

#[derive(Arbitrary, Debug)]
struct Chain {
    roots: [Option<Plan>; ROOTS_MAX],
    known: Option<Plan>,
    presented: [Option<Plan>; CHAIN_MAX],
    leaf: Plan,
    /// A certificate whose issuer must be the leaf's, and whether leaves of version 1 are asked, too.
    like: Option<(Plan, bool)>,
}

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Chain(Chain),
    /// A certificate of a good chain is changed.
    Edited {
        which: u8,
        edits: [(u16, u8); 3],
        count: u8,
        cut: Option<u16>,
    },
    Der {
        leaf: &'a [u8],
        presented: &'a [u8],
    },
    Pem {
        certificates: &'a [u8],
        key: &'a [u8],
    },
    Signature {
        key: &'a [u8],
        scheme: u16,
        message: &'a [u8],
        signature: &'a [u8],
    },
}

/// The input is an [`Input`].
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    match input {
        Input::Chain(chain) => drop(judge(chain)),
        Input::Edited { which, edits, count, cut } => edited(which, &edits[..usize::from(count % 4)], cut),
        Input::Der { leaf, presented } => {
            assert!(!accepts(&good_chain().0, &[], leaf, &[presented.to_vec()]));
        }
        Input::Pem { certificates, key } => {
            let path = Path::new("file");
            let _ = Roots::from_pem(certificates, path).map_err(|error| error.to_string());
            let _ = Identity::from_pem(certificates, key, path, path).map_err(|error| error.to_string());
            // With armour around it, the body is looked at.
            let certificates = pem("CERTIFICATE", certificates);
            let _ = Roots::from_pem(certificates.as_bytes(), path).map_err(|error| error.to_string());
            for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
                let own = pem("CERTIFICATE", &good_chain().1);
                let key = pem(label, key);
                assert!(Identity::from_pem(own.as_bytes(), key.as_bytes(), path, path).is_err());
            }
        }
        Input::Signature { key, scheme, message, signature } => {
            assert!(!amop::internal::tls::secp256k1::verify(
                key,
                SignatureScheme::from(scheme),
                message,
                signature
            ));
        }
    }
}

fn pem(label: &'static str, body: &[u8]) -> String {
    x509_cert::der::pem::encode_string(label, LineEnding::LF, body).expect("a label and bytes")
}

fn secret(number: u8) -> SecretKey {
    SecretKey::from_byte_array([number + 1; 32]).expect("a number below the order")
}

fn name(number: u8) -> Name {
    format!("CN=name{number}").parse().expect("a name")
}

impl Plan {
    fn tame(mut self) -> Self {
        self.subject %= NAMES;
        self.issuer %= NAMES;
        self.key %= KEYS;
        self.signed_by %= KEYS;
        self.authority =
            self.authority.map(|(ca, path_len)| (ca, path_len.filter(|_| ca).map(|len| len % 3)));
        if self.version_1 {
            (self.authority, self.key_usage, self.oddity) = (None, None, None);
        }
        // Two of a kind need a first; malformed ones stand alone.
        match self.oddity {
            Some(Oddity::MalformedBasicConstraints) => self.authority = None,
            Some(Oddity::MalformedKeyUsage) => self.key_usage = None,
            Some(Oddity::TwoBasicConstraints) => self.authority = self.authority.or(Some((true, None))),
            Some(Oddity::TwoKeyUsages) => self.key_usage = self.key_usage.or(Some((true, true))),
            _ => {}
        }
        self
    }

    fn der(&self) -> Vec<u8> {
        let time = |seconds: u64| {
            let time = GeneralizedTime::from_unix_duration(std::time::Duration::from_secs(seconds));
            Time::GeneralTime(time.expect("a time"))
        };
        let (not_before, not_after) = match self.time {
            When::Good | When::AlsoGood => (NOW - YEAR, NOW + YEAR),
            When::Expired => (NOW - 2 * YEAR, NOW - YEAR),
            When::NotYet => (NOW + YEAR, NOW + 2 * YEAR),
        };
        let extensions = self.extensions();
        let algorithm = AlgorithmIdentifierOwned { oid: OID_ECDSA_SHA256, parameters: None };
        let point = PublicKey::from_secret_key(SECP256K1, &secret(self.key)).serialize_uncompressed();
        let tbs_certificate = TbsCertificate {
            version: if self.version_1 { Version::V1 } else { Version::V3 },
            serial_number: SerialNumber::new(&[1]).expect("a number"),
            signature: algorithm.clone(),
            issuer: name(self.issuer),
            validity: Validity { not_before: time(not_before), not_after: time(not_after) },
            subject: name(self.subject),
            subject_public_key_info: SubjectPublicKeyInfoOwned {
                algorithm: AlgorithmIdentifierOwned {
                    oid: OID_EC_PUBLIC_KEY,
                    parameters: Some((&OID_SECP256K1).into()),
                },
                subject_public_key: BitString::from_bytes(&point).expect("bytes"),
            },
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: (!extensions.is_empty()).then_some(extensions),
        };
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            &tbs_certificate.to_der().expect("a certificate"),
        );
        let digest = Message::from_digest(digest.as_ref().try_into().expect("32 bytes"));
        let signature = SECP256K1.sign_ecdsa(digest, &secret(self.signed_by)).serialize_der();
        x509_cert::Certificate {
            tbs_certificate,
            signature_algorithm: algorithm,
            signature: BitString::from_bytes(&signature).expect("bytes"),
        }
        .to_der()
        .expect("a certificate")
    }

    fn extensions(&self) -> Vec<Extension> {
        let extension = |extn_id, critical, value: &[u8]| Extension {
            extn_id,
            critical,
            extn_value: OctetString::new(value).expect("bytes"),
        };
        let mut extensions = Vec::new();
        if let Some((ca, path_len)) = self.authority {
            let value = BasicConstraints { ca, path_len_constraint: path_len }.to_der().expect("constraints");
            extensions.push(extension(OID_BASIC_CONSTRAINTS, true, &value));
            if self.oddity == Some(Oddity::TwoBasicConstraints) {
                extensions.push(extension(OID_BASIC_CONSTRAINTS, false, &value));
            }
        }
        if let Some((digital_signature, cert_sign)) = self.key_usage {
            let bits = u8::from(digital_signature) << 7 | u8::from(cert_sign) << 2 | 1 << 5;
            let value = [3, 2, if cert_sign { 2 } else { 5 }, bits];
            extensions.push(extension(OID_KEY_USAGE, true, &value));
            if self.oddity == Some(Oddity::TwoKeyUsages) {
                extensions.push(extension(OID_KEY_USAGE, false, &value));
            }
        }
        match self.oddity {
            Some(Oddity::Unknown { critical }) => {
                extensions.push(extension(OID_NOBODY_KNOWS, critical, b"?"))
            }
            Some(Oddity::NameConstraints { critical }) => {
                extensions.push(extension(OID_NAME_CONSTRAINTS, critical, &[0x30, 0]));
            }
            Some(Oddity::MalformedBasicConstraints) => {
                extensions.push(extension(OID_BASIC_CONSTRAINTS, false, &[0x31, 0x7f]));
            }
            Some(Oddity::MalformedKeyUsage) => {
                extensions.push(extension(OID_KEY_USAGE, false, &[0x04, 0x7f]))
            }
            _ => {}
        }
        extensions
    }

    fn is_sound(&self) -> bool {
        let odd = match self.oddity {
            None => false,
            Some(Oddity::Unknown { critical } | Oddity::NameConstraints { critical }) => critical,
            Some(_) => true,
        };
        !odd && matches!(self.time, When::Good | When::AlsoGood)
    }

    fn may_issue(&self, below: usize, is_root: bool) -> bool {
        let constraints = match self.authority {
            Some((ca, path_len)) => ca && path_len.is_none_or(|longest| below <= usize::from(longest)),
            None => is_root && self.extensions().is_empty(),
        };
        self.is_sound() && constraints && self.key_usage.is_none_or(|(_, cert_sign)| cert_sign)
    }

    fn issued(&self, below: &Plan) -> bool {
        self.subject == below.issuer && self.key == below.signed_by
    }
}

/// Every way up, whatever it costs.
fn reaches_root(certificate: &Plan, between: usize, roots: &[Plan], others: &[Plan]) -> bool {
    roots.iter().any(|root| root.issued(certificate) && root.may_issue(between, true))
        || between < others.len()
            && others.iter().any(|other| {
                other.issued(certificate)
                    && other.may_issue(between, false)
                    && reaches_root(other, between + 1, roots, others)
            })
}

/// Whether the chain is accepted, which must be what the search says.
fn judge(chain: Chain) -> bool {
    let Chain { roots, known, presented, leaf, like } = chain;
    let roots: Vec<Plan> = roots.into_iter().flatten().map(Plan::tame).collect();
    let known: Vec<Plan> = known.into_iter().map(Plan::tame).collect();
    let presented: Vec<Plan> = presented.into_iter().flatten().map(Plan::tame).collect();
    let leaf = leaf.tame();
    let like = like.map(|(own, also_version_1)| (own.tame(), also_version_1));
    if roots.is_empty() {
        return false;
    }
    let others: Vec<Plan> = presented.iter().chain(&known).cloned().collect();
    let expected = leaf.is_sound()
        && leaf.key_usage.is_none_or(|(digital_signature, _)| digital_signature)
        && reaches_root(&leaf, 0, &roots, &others)
        && like.as_ref().is_none_or(|(own, also_version_1)| {
            let is_concerned = leaf.authority.is_some() || *also_version_1;
            let is_known = roots.iter().chain(&known).any(|authority| authority.issued(own));
            !is_concerned || is_known && (leaf.issuer, leaf.signed_by) == (own.issuer, own.signed_by)
        });
    let pem_roots: String = roots.iter().map(|root| pem("CERTIFICATE", &root.der())).collect();
    let ders = |plans: &[Plan]| plans.iter().map(Plan::der).collect::<Vec<_>>();
    let policy = like.as_ref().map_or_else(IssuerPolicy::default, |(own, also_version_1)| IssuerPolicy {
        like: Some(own.der().into()),
        also_version_1: *also_version_1,
    });
    let accepted = accepts_under(policy, &pem_roots, &ders(&known), &leaf.der(), &ders(&presented));
    assert_eq!(
        accepted, expected,
        "roots {roots:?}\nknown {known:?}\npresented {presented:?}\nleaf {leaf:?}\nlike {like:?}"
    );
    accepted
}

fn accepts(roots_pem: &str, known: &[Vec<u8>], leaf: &[u8], presented: &[Vec<u8>]) -> bool {
    accepts_under(IssuerPolicy::default(), roots_pem, known, leaf, presented)
}

fn accepts_under(
    policy: IssuerPolicy,
    roots_pem: &str,
    known: &[Vec<u8>],
    leaf: &[u8],
    presented: &[Vec<u8>],
) -> bool {
    let owned =
        |ders: &[Vec<u8>]| ders.iter().map(|der| CertificateDer::from(der.clone())).collect::<Vec<_>>();
    let roots =
        Roots::from_pem(roots_pem.as_bytes(), Path::new("roots")).expect("certificates of our making");
    let nobody = ServerName::try_from("nobody").expect("a name");
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW));
    Verifier::new(&roots, &owned(known), policy)
        .verify_server_cert(&CertificateDer::from(leaf), &owned(presented), &nobody, &[], now)
        .is_ok()
}

/// A root (PEM), a leaf, and the authority between.
fn good_chain() -> &'static (String, Vec<u8>, Vec<u8>) {
    static CHAIN: OnceLock<(String, Vec<u8>, Vec<u8>)> = OnceLock::new();
    CHAIN.get_or_init(|| {
        let plan = |subject, issuer, key, signed_by, ca: Option<bool>| Plan {
            subject,
            issuer,
            key,
            signed_by,
            version_1: ca.is_none(),
            time: When::Good,
            authority: ca.map(|ca| (ca, None)),
            key_usage: None,
            oddity: None,
        };
        let root = pem("CERTIFICATE", &plan(0, 0, 0, 0, None).der());
        let (agency, leaf) = (plan(1, 0, 1, 0, Some(true)).der(), plan(2, 1, 2, 1, Some(false)).der());
        assert!(accepts(&root, &[], &leaf, std::slice::from_ref(&agency)));
        (root, leaf, agency)
    })
}

fn edited(which: u8, edits: &[(u16, u8)], cut: Option<u16>) {
    let (root, leaf, agency) = good_chain();
    let original = if which.is_multiple_of(2) { leaf } else { agency };
    let mut changed = original.clone();
    for &(at, with) in edits {
        let at = usize::from(at) % changed.len();
        changed[at] = with;
    }
    if let Some(cut) = cut {
        changed.truncate(usize::from(cut) % (changed.len() + 1));
    }
    let accepted = if which.is_multiple_of(2) {
        accepts(root, &[], &changed, std::slice::from_ref(agency))
    } else {
        accepts(root, &[], leaf, std::slice::from_ref(&changed))
    };
    if accepted {
        let signed = |der| {
            let (_, certificate) = X509Certificate::from_der(der).expect("it was accepted");
            certificate.tbs_certificate.as_ref().to_vec()
        };
        assert_eq!(signed(&changed), signed(original), "what is signed was changed and accepted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHORITY: Option<(bool, Option<u8>)> = Some((true, None));

    fn plan(subject: u8, issuer: u8, key: u8, signed_by: u8) -> Plan {
        Plan {
            subject,
            issuer,
            key,
            signed_by,
            version_1: false,
            time: When::Good,
            authority: None,
            key_usage: None,
            oddity: None,
        }
    }

    /// Root 0, agency 1, leaf 2.
    fn chain() -> [Plan; 3] {
        let agency = Plan { authority: AUTHORITY, ..plan(1, 0, 1, 0) };
        [Plan { authority: AUTHORITY, ..plan(0, 0, 0, 0) }, agency, plan(2, 1, 2, 1)]
    }

    fn is_accepted<const N: usize>(root: Plan, presented: [Plan; N], leaf: Plan) -> bool {
        let mut presented = presented.into_iter();
        judge(Chain {
            roots: [Some(root), None],
            known: None,
            presented: std::array::from_fn(|_| presented.next()),
            leaf,
            like: None,
        })
    }

    fn with_oddity(place: usize, oddity: Oddity) -> bool {
        let mut chain = chain();
        chain[place].oddity = Some(oddity);
        let [root, agency, leaf] = chain;
        is_accepted(root, [agency], leaf)
    }

    #[test]
    fn critical_extensions_that_nobody_reads_are_refused_at_each_place_of_a_chain() {
        for place in 0..3 {
            for critical in [true, false] {
                assert_eq!(with_oddity(place, Oddity::Unknown { critical }), !critical, "{place}");
                assert_eq!(with_oddity(place, Oddity::NameConstraints { critical }), !critical, "{place}");
            }
        }
    }

    #[test]
    fn malformed_and_repeated_constraints_do_not_count_as_absent() {
        for place in 0..3 {
            for oddity in [
                Oddity::MalformedBasicConstraints,
                Oddity::MalformedKeyUsage,
                Oddity::TwoBasicConstraints,
                Oddity::TwoKeyUsages,
            ] {
                assert!(!with_oddity(place, oddity), "{place} {oddity:?}");
            }
        }
    }

    #[test]
    fn an_expired_authority_does_not_hide_the_one_that_replaced_it() {
        let [root, agency, leaf] = chain();
        let expired = Plan { time: When::Expired, ..agency.clone() };
        assert!(!is_accepted(root.clone(), [expired.clone()], leaf.clone()));
        assert!(is_accepted(root.clone(), [expired.clone(), agency.clone()], leaf.clone()));
        assert!(is_accepted(root, [agency, expired], leaf));
    }

    #[test]
    fn a_way_that_leads_nowhere_does_not_hide_another() {
        // Two authorities of one name and key: a stranger issued one of them, the root the other.
        let [root, agency, leaf] = chain();
        let astray = Plan { issuer: 2, signed_by: 2, ..agency.clone() };
        assert!(!is_accepted(root.clone(), [astray.clone()], leaf.clone()));
        assert!(is_accepted(root, [astray, agency], leaf));
    }

    #[test]
    fn authorities_that_issue_each_other_in_a_circle_are_searched_once() {
        let [root, agency, leaf] = chain();
        let one = Plan { issuer: 2, signed_by: 2, ..agency };
        let other = Plan { authority: AUTHORITY, ..plan(2, 1, 2, 1) };
        assert!(!is_accepted(root, [one.clone(), other.clone(), one, other], leaf));
    }

    #[test]
    fn a_leaf_needs_the_usage_that_it_is_put_to_and_an_authority_its_own() {
        let [root, agency, leaf] = chain();
        let usage = |plan: &Plan, usage| Plan { key_usage: Some(usage), ..plan.clone() };
        assert!(is_accepted(root.clone(), [usage(&agency, (false, true))], usage(&leaf, (true, false))));
        assert!(!is_accepted(root.clone(), [agency.clone()], usage(&leaf, (false, true))));
        assert!(!is_accepted(root, [usage(&agency, (true, false))], leaf));
    }
}
