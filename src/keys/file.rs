//! Keys in files, as FISCO BCOS' `get_account.sh` makes them: PKCS#8 or PKCS#12, or bare hex digits. Which one
//! it is shows in the content, whatever the file's name.

use std::{fmt, fs, io::Read, path::Path};

use aws_lc_rs::signature::{ECDSA_P256K1_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12Archive, PrivateKeyChain};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject};
use x509_cert::{
    der::{
        Decode, Encode,
        asn1::{AnyRef, BitString, ObjectIdentifier},
        pem::{LineEnding, encode_string},
    },
    spki::{AlgorithmIdentifier, SubjectPublicKeyInfo, SubjectPublicKeyInfoRef},
};
use zeroize::Zeroizing;

use super::{PrivateKey, PublicKey};
use crate::{
    encoding::{self, NotText},
    tls::identity::{SM2_CURVE, secp256k1_secret},
    wire::hex,
};

/// Largest file that is read, in bytes; a key takes less than one KiB.
const FILE_LEN_MAX: u64 = 64 * 1024;
/// The name of the one key in a PKCS#12 file, as `get_account.sh` and the Java SDK write it.
const P12_ALIAS: &str = "key";
/// Rounds that a guess at a PKCS#12 file's password takes.
const P12_ITERATIONS: u32 = 100_000;

const OID_EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const OID_SECP256K1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.10");

/// Why a key cannot be read or written: the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// Far too long for a key.
    #[error("this is no key: it has more than {FILE_LEN_MAX} bytes")]
    TooLong,
    /// Not one of the formats.
    #[error(
        "this is no key: it is neither PEM (BEGIN PRIVATE KEY, BEGIN PUBLIC KEY) nor PKCS#12 nor hex digits"
    )]
    Unknown,
    /// PEM without a usable key.
    #[error("there is no key on the curve secp256k1 in this PEM file")]
    Pem,
    /// PEM with a password.
    #[error(
        "this PEM key has a password; take the password off (openssl pkey -in FILE -out PLAIN) or use PKCS#12"
    )]
    EncryptedPem,
    /// National cryptography.
    #[error("this is an SM2 key; national cryptography is not there: make one on secp256k1 (amop keys new)")]
    NationalCryptography,
    /// A wrong number of digits, or no point or number of the curve.
    #[error(
        "these hex digits are no key on secp256k1: a private key has 64, a public key 128 (or 130 from 04 on, 66 from \
         02 or 03 on)"
    )]
    Hex,
    /// PKCS#12 that cannot be opened.
    #[error("this PKCS#12 file cannot be opened: the password is wrong, or the file is damaged ({0})")]
    P12(p12_keystore::error::Error),
    /// Text in an encoding that is not read.
    #[error("{0}")]
    NotText(#[from] NotText),
    /// PKCS#12 whose lengths are not written in advance, as the Java SDK stores keys.
    #[error(
        "this PKCS#12 file is in BER, as the Java SDK stores keys; write it as PEM (openssl pkcs12 -legacy -nodes -in \
         FILE -out PEM), and, if you like, that as PKCS#12 (amop keys convert)"
    )]
    P12Ber,
    /// PKCS#12 without a key.
    #[error("there is no private key on the curve secp256k1 in this PKCS#12 file")]
    P12Empty,
    /// No password to protect a file with.
    #[error("a PKCS#12 file needs a password that is not empty")]
    EmptyPassword,
    /// A public key where a private one is needed.
    #[error("this is a public key; here the private one is needed, which the subscriber keeps")]
    NotPrivate,
    /// A private key where a public one is needed.
    #[error(
        "this is a private key, which the subscriber keeps to itself; give its public key (amop keys show FILE)"
    )]
    NotPublic,
    /// The cryptographic library failed.
    #[error("the key could not be written")]
    Crypto,
}

/// What was read.
#[derive(Clone, Debug)]
pub enum Key {
    /// A private key, and with it the public one.
    Private(PrivateKey),
    /// A public key.
    Public(PublicKey),
}

impl Key {
    /// The key that it is public, or belongs to the private one.
    pub fn public_key(&self) -> PublicKey {
        match self {
            Self::Private(key) => key.public_key(),
            Self::Public(key) => *key,
        }
    }

    /// The private key, or why there is none.
    pub fn into_private(self) -> Result<PrivateKey, KeyFileError> {
        match self {
            Self::Private(key) => Ok(key),
            Self::Public(_) => Err(KeyFileError::NotPrivate),
        }
    }

    /// The public key, or why that is not what was given.
    pub fn into_public(self) -> Result<PublicKey, KeyFileError> {
        match self {
            Self::Public(key) => Ok(key),
            Self::Private(_) => Err(KeyFileError::NotPublic),
        }
    }
}

/// A file's bytes, and the format that they are in.
pub struct KeyFile {
    bytes: Zeroizing<Vec<u8>>,
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Pem,
    P12,
    Hex,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFile")
    }
}

impl KeyFile {
    /// Reads a file and finds out what it is.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let mut bytes = Zeroizing::new(Vec::new());
        fs::File::open(path)?.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
        Self::new(bytes)
    }

    /// The same with bytes that are there already.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, KeyFileError> {
        if bytes.len() as u64 > FILE_LEN_MAX {
            return Err(KeyFileError::TooLong);
        }
        // A sequence of more than 127 bytes; `0` is a digit too.
        if matches!(bytes[..], [0x30, 0x80..=0xff, ..]) {
            return Ok(Self { bytes, format: Format::P12 });
        }
        let bytes = encoding::pem(&bytes)?;
        let format = match bytes.trim_ascii() {
            text if find(text, b"-----BEGIN ") => Format::Pem,
            [] => return Err(KeyFileError::Unknown),
            text if hex_digits(text).is_some() => Format::Hex,
            _ => return Err(KeyFileError::Unknown),
        };
        Ok(Self { bytes, format })
    }

    /// Whether [`KeyFile::key`] needs a password.
    pub fn needs_password(&self) -> bool {
        self.format == Format::P12
    }

    /// The key in it. The password is looked at only where there is one.
    pub fn key(&self, password: &str) -> Result<Key, KeyFileError> {
        match self.format {
            Format::Pem => decode_pem(&self.bytes),
            Format::P12 => decode_p12(&self.bytes, password),
            Format::Hex => decode_hex(&self.bytes),
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn decode_pem(pem: &[u8]) -> Result<Key, KeyFileError> {
    if let Ok(der) = PrivateKeyDer::from_pem_slice(pem) {
        return decode_private_der(&der).map(Key::Private).ok_or_else(|| {
            if find(der.secret_der(), SM2_CURVE) {
                KeyFileError::NationalCryptography
            } else {
                KeyFileError::Pem
            }
        });
    }
    if find(pem, b"BEGIN ENCRYPTED PRIVATE KEY") || find(pem, b"Proc-Type: 4,ENCRYPTED") {
        return Err(KeyFileError::EncryptedPem);
    }
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| KeyFileError::Pem)?;
    if find(&der, SM2_CURVE) {
        return Err(KeyFileError::NationalCryptography);
    }
    let key = SubjectPublicKeyInfoRef::from_der(&der).ok().and_then(|info| {
        let (algorithm, curve) = info.algorithm.oids().ok()?;
        let is_ours = algorithm == OID_EC_PUBLIC_KEY && curve == Some(OID_SECP256K1);
        PublicKey::from_bytes(info.subject_public_key.as_bytes().filter(|_| is_ours)?)
    });
    key.map(Key::Public).ok_or(KeyFileError::Pem)
}

fn decode_private_der(der: &PrivateKeyDer<'_>) -> Option<PrivateKey> {
    PrivateKey::from_bytes(&Zeroizing::new(secp256k1_secret(der)?.secret_bytes()))
}

fn decode_p12(der: &[u8], password: &str) -> Result<Key, KeyFileError> {
    if der.starts_with(&[0x30, 0x80]) {
        return Err(KeyFileError::P12Ber);
    }
    let archive = Pkcs12Archive::from_pkcs12(der, password).map_err(KeyFileError::P12)?;
    let mut found = Err(KeyFileError::P12Empty);
    for bag in &archive.keys {
        let der = PrivatePkcs8KeyDer::from(bag.key.as_der()).into();
        match decode_private_der(&der) {
            Some(key) => return Ok(Key::Private(key)),
            None if find(bag.key.as_der(), SM2_CURVE) => found = Err(KeyFileError::NationalCryptography),
            None => {}
        }
    }
    found
}

/// The digits of a text that is nothing else, without `0x` before them and space around them.
fn hex_digits(text: &[u8]) -> Option<&str> {
    let text = str::from_utf8(text).ok()?.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let is_hex = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then_some(digits)
}

fn decode_hex(text: &[u8]) -> Result<Key, KeyFileError> {
    let digits = hex_digits(text).ok_or(KeyFileError::Unknown)?;
    let private = |bytes: Zeroizing<[u8; 32]>| PrivateKey::from_bytes(&bytes).map(Key::Private);
    let public = |bytes: &[u8]| PublicKey::from_bytes(bytes).map(Key::Public);
    let key = match digits.len() {
        64 => hex::decode(digits).map(Zeroizing::new).and_then(private),
        66 => hex::decode::<33>(digits).and_then(|bytes| public(&bytes)),
        128 => hex::decode::<64>(digits).and_then(|bytes| public(&bytes)),
        130 => hex::decode::<65>(digits).and_then(|bytes| public(&bytes)),
        _ => None,
    };
    key.ok_or(KeyFileError::Hex)
}

impl PrivateKey {
    fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let mut point = [4; 65];
        point[1..].copy_from_slice(&self.public_key().to_bytes());
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256K1_SHA256_ASN1_SIGNING,
            self.to_bytes().as_ref(),
            &point,
        );
        let der = pair.map_err(|_| KeyFileError::Crypto)?.to_pkcs8v1().map_err(|_| KeyFileError::Crypto)?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    }

    /// PEM of PKCS#8, as `openssl genpkey` writes it.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyFileError> {
        let pem = encode_string("PRIVATE KEY", LineEnding::LF, &self.to_pkcs8()?);
        pem.map(Zeroizing::new).map_err(|_| KeyFileError::Crypto)
    }

    /// PKCS#12 with this key alone, under the name `key`.
    pub fn to_p12(&self, password: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        if password.is_empty() {
            return Err(KeyFileError::EmptyPassword);
        }
        let crypto = |_| KeyFileError::Crypto;
        let key = p12_keystore::PrivateKey::from_der(&self.to_pkcs8()?).map_err(crypto)?;
        let chain = PrivateKeyChain::new(self.public_key().address().as_slice(), key, []);
        let mut store = KeyStore::new();
        store.add_entry(P12_ALIAS, KeyStoreEntry::PrivateKeyChain(chain));
        let writer = store.writer(password);
        let writer = writer.encryption_iterations(P12_ITERATIONS).mac_iterations(P12_ITERATIONS);
        writer.write().map(Zeroizing::new).map_err(crypto)
    }

    /// 64 hex digits.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.to_bytes().as_ref()))
    }
}

impl PublicKey {
    /// PEM, as `openssl ec -pubout` writes it.
    pub fn to_pem(&self) -> Result<String, KeyFileError> {
        let mut point = [4; 65];
        point[1..].copy_from_slice(&self.to_bytes());
        let info = SubjectPublicKeyInfo {
            algorithm: AlgorithmIdentifier {
                oid: OID_EC_PUBLIC_KEY,
                parameters: Some(AnyRef::from(&OID_SECP256K1)),
            },
            subject_public_key: BitString::from_bytes(&point).map_err(|_| KeyFileError::Crypto)?,
        };
        let der = info.to_der().map_err(|_| KeyFileError::Crypto)?;
        encode_string("PUBLIC KEY", LineEnding::LF, &der).map_err(|_| KeyFileError::Crypto)
    }

    /// The account that FISCO BCOS knows the key by, as it is written: `0x` and 40 digits.
    pub fn address_hex(&self) -> String {
        format!("0x{}", hex::encode(&self.address()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: impl AsRef<[u8]>, password: &str) -> Result<Key, KeyFileError> {
        KeyFile::new(Zeroizing::new(bytes.as_ref().to_vec()))?.key(password)
    }

    fn private(key: Result<Key, KeyFileError>) -> Zeroizing<[u8; 32]> {
        key.unwrap().into_private().unwrap().to_bytes()
    }

    #[test]
    fn a_private_key_comes_back_from_every_format() {
        let key = PrivateKey::generate();
        assert_eq!(private(read(&*key.to_pem().unwrap(), "")), key.to_bytes());
        assert_eq!(private(read(&*key.to_hex(), "")), key.to_bytes());
        assert_eq!(private(read(format!(" 0x{}\n", key.to_hex().to_uppercase()), "")), key.to_bytes());
        assert_eq!(private(read(&*key.to_p12("secret").unwrap(), "secret")), key.to_bytes());
    }

    #[test]
    fn a_key_is_read_however_its_file_was_saved() {
        let key = PrivateKey::generate();
        for text in [key.to_pem().unwrap(), key.to_hex()] {
            let windows = format!("\u{feff}{}\r\n", text.replace('\n', "\r\n"));
            let utf16: Vec<u8> = windows.encode_utf16().flat_map(u16::to_le_bytes).collect();
            assert_eq!(private(read(&windows, "")), key.to_bytes());
            assert_eq!(private(read(utf16, "")), key.to_bytes());
        }
    }

    #[test]
    fn a_public_key_comes_back_from_every_format_and_is_no_private_one() {
        let key = PrivateKey::generate().public_key();
        let compressed = hex::encode(&key.0.serialize());
        for text in [key.to_pem().unwrap(), key.to_string(), format!("0x04{key}\n"), compressed] {
            assert_eq!(read(&text, "").unwrap().into_public().unwrap(), key, "{text}");
            assert!(matches!(read(&text, "").unwrap().into_private(), Err(KeyFileError::NotPrivate)));
        }
        let private = PrivateKey::generate().to_hex();
        assert!(matches!(read(&*private, "").unwrap().into_public(), Err(KeyFileError::NotPublic)));
    }

    #[test]
    fn a_p12_file_opens_with_its_password_only() {
        let p12 = PrivateKey::generate().to_p12("secret").unwrap();
        assert!(KeyFile::new(p12.clone()).unwrap().needs_password());
        for password in ["", "Secret", "secret "] {
            assert!(matches!(read(&*p12, password), Err(KeyFileError::P12(_))), "{password:?}");
        }
        assert!(matches!(read(&p12[..p12.len() / 2], "secret"), Err(KeyFileError::P12(_))));
        assert!(matches!(read(b"\x30\x80\x02\x01\x03", "secret"), Err(KeyFileError::P12Ber)));
        assert!(matches!(PrivateKey::generate().to_p12(""), Err(KeyFileError::EmptyPassword)));
    }

    #[test]
    fn each_thing_that_is_no_key_has_its_error() {
        let pem = |label: &str, der: &[u8]| encode_string(label, LineEnding::LF, der).unwrap();
        assert!(matches!(read("", ""), Err(KeyFileError::Unknown)));
        assert!(matches!(read("password123", ""), Err(KeyFileError::Unknown)));
        assert!(matches!(read([0xff; 100], ""), Err(KeyFileError::Unknown)));
        assert!(matches!(read(vec![b'0'; FILE_LEN_MAX as usize + 1], ""), Err(KeyFileError::TooLong)));
        for digits in ["0".repeat(64), "f".repeat(64), "ab".repeat(64), "ab".repeat(31)] {
            assert!(matches!(read(&digits, ""), Err(KeyFileError::Hex)), "{digits}");
        }
        assert!(matches!(read(pem("CERTIFICATE", b"x"), ""), Err(KeyFileError::Pem)));
        assert!(matches!(read(pem("PRIVATE KEY", b"x"), ""), Err(KeyFileError::Pem)));
        assert!(matches!(read(pem("PUBLIC KEY", b"x"), ""), Err(KeyFileError::Pem)));
        let encrypted = pem("ENCRYPTED PRIVATE KEY", b"x");
        assert!(matches!(read(encrypted, ""), Err(KeyFileError::EncryptedPem)));
        for label in ["PRIVATE KEY", "PUBLIC KEY"] {
            let sm2 = pem(label, &[b"\x30\x13", SM2_CURVE].concat());
            assert!(matches!(read(sm2, ""), Err(KeyFileError::NationalCryptography)), "{label}");
        }
    }
}
