//! Key pairs of private topics, made with OpenSSL's command as FISCO BCOS' `get_account.sh` does.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::kit::{hex, text};

/// In which a subscriber has its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Pem,
    P12,
    Hex,
}

/// Of the P12 file.
pub(crate) const PASSWORD: &str = "密码 123456";

/// A key pair in every format.
pub(crate) struct Key {
    pub(crate) pem: PathBuf,
    pub(crate) public_pem: PathBuf,
    pub(crate) p12: PathBuf,
    hex: String,
    public_hex: String,
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "openssl {}: {}", arguments.join(" "), text(&output.stderr));
    output.stdout
}

impl Key {
    pub(crate) fn make(dir: &Path, name: &str) -> Self {
        let at = |end: &str| dir.join(format!("{name}{end}"));
        let (pem, public_pem, p12) = (at(".pem"), at(".pem.pub"), at(".p12"));
        let [key, public, store] = [&pem, &public_pem, &p12].map(|path| path.to_str().unwrap());
        let curve = ["-pkeyopt", "ec_paramgen_curve:secp256k1", "-pkeyopt", "ec_param_enc:named_curve"];
        openssl(&[&["genpkey", "-algorithm", "EC", "-out", key], &curve[..]].concat());
        openssl(&["ec", "-in", key, "-pubout", "-out", public]);
        let password = format!("pass:{PASSWORD}");
        openssl(&[
            "pkcs12", "-export", "-name", "key", "-nocerts", "-inkey", key, "-out", store, "-passout",
            &password,
        ]);
        // RFC 5915: SEQUENCE, INTEGER 1, OCTET STRING of 32 bytes; and the point ends a public key.
        let private = openssl(&["ec", "-in", key, "-outform", "DER"]);
        assert_eq!(private[2..7], [0x02, 1, 1, 0x04, 32]);
        let point = openssl(&["ec", "-in", key, "-pubout", "-outform", "DER"]);
        let (hex, public_hex) = (hex(&private[7..39]), hex(&point[point.len() - 64..]));
        Self { pem, public_pem, p12, hex, public_hex }
    }

    /// For a subscriber.
    pub(crate) fn private(&self, format: Format) -> Value {
        match format {
            Format::Pem => json!({ "pem": self.pem }),
            Format::P12 => json!({ "p12": self.p12, "password": PASSWORD }),
            Format::Hex => json!({ "hex": self.hex }),
        }
    }

    /// For a publisher. There is no P12 of a public key alone.
    pub(crate) fn public(&self, format: Format) -> Value {
        match format {
            Format::Pem | Format::P12 => json!({ "pem": self.public_pem }),
            Format::Hex => json!({ "hex": self.public_hex }),
        }
    }
}
