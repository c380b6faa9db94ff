//! What the first bytes of a connection tell, for people: what a peer speaks instead of TLS, and what a client offered
//! that goes with nothing here. Nothing is decided by it.

use std::fmt;

use rustls::{CipherSuite, NamedGroup};

use super::secp256k1;

/// How many bytes are looked at: up to the end of a ClientHello's random bytes.
pub(super) const GREETING_LEN: usize = 43;
/// Where these begin: behind the headers of the record and of the message, and the version.
const RANDOM_OFFSET: usize = 11;
/// How many groups and cipher suites of an offer are named.
const NAMED_MAX: usize = 16;

/// What a peer speaks instead of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// A health check of HTTP, a browser, a scraper.
    #[error("HTTP")]
    Http,
    /// What a load balancer may put before each connection.
    #[error("the PROXY protocol")]
    Proxy,
    /// A login.
    #[error("SSH")]
    Ssh,
    /// An SDK that is configured without TLS.
    #[error("AMOP without TLS")]
    PlainAmop,
    /// GM/T 0024: two certificates, SM2, SM3, SM4.
    #[error("TLS of national cryptography")]
    NationalTls,
    /// Long broken.
    #[error("SSL 2.0")]
    Ssl2,
    /// Anything else.
    #[error("something that is not TLS")]
    Other,
}

impl Stranger {
    /// By what the peer said first. `None` if it may be TLS, or if nothing came.
    pub fn of(first: &[u8]) -> Option<Self> {
        const PROXY_V2: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
        const HTTP: [&[u8]; 11] = [
            b"GET ",
            b"HEAD ",
            b"POST ",
            b"PUT ",
            b"DELETE ",
            b"OPTIONS ",
            b"PATCH ",
            b"TRACE ",
            b"CONNECT ",
            b"PRI ",
            b"HTTP/",
        ];
        Some(match first {
            [] => return None,
            [22, 1, 1, ..] => Self::NationalTls,
            // Change of cipher, alert, handshake, data.
            [20..=23, ..] => return None,
            _ if HTTP.iter().any(|word| first.starts_with(word)) => Self::Http,
            _ if first.starts_with(b"PROXY ") || first.starts_with(&PROXY_V2) => Self::Proxy,
            _ if first.starts_with(b"SSH-") => Self::Ssh,
            [first, _, 1, ..] if first & 0x80 != 0 => Self::Ssl2,
            // A length, and a type of WIRE §1.2.
            [0, _, _, _, 0, 0x12..=0x16 | 0x30..=0x38, ..] => Self::PlainAmop,
            _ => Self::Other,
        })
    }
}

/// The random bytes of a client's first message, as long as that begins a record.
pub(super) fn client_random(greeting: &[u8]) -> Option<[u8; 32]> {
    let is_client_hello = matches!(greeting, [22, 3, _, _, _, 1, ..]);
    greeting.get(RANDOM_OFFSET..GREETING_LEN)?.try_into().ok().filter(|_| is_client_hello)
}

/// The version that a client speaks at most, if it is older than any that is served here: rustls looks at other things first.
pub(super) fn old_version(greeting: &[u8]) -> Option<&'static str> {
    match greeting {
        [22, 3, _, _, _, 1, _, _, _, 3, minor @ 0..=2, ..] => {
            Some(["SSL 3.0", "TLS 1.0", "TLS 1.1"][usize::from(*minor)])
        }
        _ => None,
    }
}

/// What a client offered, as far as it decides whether there is anything in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// Key exchange groups, the first few.
    pub groups: Vec<NamedGroup>,
    /// Cipher suites, the first few.
    pub cipher_suites: Vec<CipherSuite>,
    /// Whether any of its cipher suites goes with a group.
    pub has_ecdhe: bool,
    /// Whether any is of national cryptography: ECDHE-SM4-SM3, ECC-SM4-SM3.
    pub has_national: bool,
}

impl Offers {
    pub(super) fn new(groups: &[NamedGroup], cipher_suites: &[CipherSuite]) -> Self {
        Self {
            groups: groups.iter().take(NAMED_MAX).copied().collect(),
            cipher_suites: cipher_suites
                .iter()
                .filter(|suite| **suite != CipherSuite::TLS_EMPTY_RENEGOTIATION_INFO_SCSV)
                .take(NAMED_MAX)
                .copied()
                .collect(),
            has_ecdhe: cipher_suites
                .iter()
                .filter_map(|suite| suite.as_str())
                .any(|name| name.starts_with("TLS13") || name.contains("ECDHE")),
            has_national: cipher_suites.iter().any(|suite| matches!(u16::from(*suite), 0xe011 | 0xe013)),
        }
    }
}

impl fmt::Display for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.groups.iter().map(|group| group_name(*group)).collect();
        let suites: Vec<String> = self.cipher_suites.iter().map(|suite| suite_name(*suite)).collect();
        let or_none = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
        write!(f, "groups {}; cipher suites {}", or_none(groups), or_none(suites))
    }
}

fn group_name(group: NamedGroup) -> String {
    match group {
        secp256k1::GROUP => "secp256k1".to_owned(),
        NamedGroup::secp256r1 => "P-256".to_owned(),
        NamedGroup::secp384r1 => "P-384".to_owned(),
        NamedGroup::secp521r1 => "P-521".to_owned(),
        group => group.as_str().map_or_else(|| format!("0x{:04x}", u16::from(group)), str::to_owned),
    }
}

fn suite_name(suite: CipherSuite) -> String {
    suite.as_str().map_or_else(|| format!("0x{:04x}", u16::from(suite)), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_speaks_something_else_is_told_by_its_first_bytes() {
        for (first, expected) in [
            (&b""[..], None),
            (b"\x16", None),
            (b"\x16\x03\x01\x02\x00\x01\x00", None),
            (b"\x15\x03\x01\x00\x02\x02\x28", None),
            (b"\x16\x01\x01\x00\xf0\x01", Some(Stranger::NationalTls)),
            (b"GET / HTTP/1.1\r\n", Some(Stranger::Http)),
            (b"OPTIONS * HTTP/1.0\r\n", Some(Stranger::Http)),
            (b"PRI * HTTP/2.0\r\n", Some(Stranger::Http)),
            (b"HTTP/1.1 400 Bad Request\r\n", Some(Stranger::Http)),
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", Some(Stranger::Proxy)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", Some(Stranger::Proxy)),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Some(Stranger::Ssh)),
            (b"\x80\x2e\x01\x00\x02\x00", Some(Stranger::Ssl2)),
            (b"\x00\x00\x00\x2a\x00\x14abc", Some(Stranger::PlainAmop)),
            (b"\x00\x00\x00\x2a\x00\x99abc", Some(Stranger::Other)),
            (b"GETTING", Some(Stranger::Other)),
            (b"h", Some(Stranger::Other)),
        ] {
            assert_eq!(Stranger::of(first), expected, "{}", first.escape_ascii());
        }
    }

    #[test]
    fn offers_are_named_as_people_search_for_them_and_in_bounded_number() {
        let offers = Offers::new(
            &[secp256k1::GROUP, NamedGroup::secp521r1, NamedGroup::X25519, NamedGroup::Unknown(0x1234)],
            &[CipherSuite::TLS_EMPTY_RENEGOTIATION_INFO_SCSV, CipherSuite::TLS_RSA_WITH_AES_128_CBC_SHA],
        );
        assert_eq!(
            offers.to_string(),
            "groups secp256k1 P-521 X25519 0x1234; cipher suites TLS_RSA_WITH_AES_128_CBC_SHA"
        );
        let many = Offers::new(&[NamedGroup::X25519; 1_000], &[]);
        assert_eq!(many.groups.len(), NAMED_MAX);
        assert_eq!(Offers::default().to_string(), "groups none; cipher suites none");
    }
}
