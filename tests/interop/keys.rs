//! Key pairs of private topics, made with OpenSSL's command as FISCO BCOS' `get_account.sh` does, and with
//! `amop keys`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    kit::{hex, text},
    support::process::PROGRAM,
};

/// In which a subscriber has its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Pem,
    P12,
    Hex,
}

/// Of the P12 file.
pub(crate) const PASSWORD: &str = "密码 123456";

/// Where our own commands look for it.
pub(crate) const PASSWORD_VARIABLE: &str = "AMOP_KEY_PASSWORD";

/// The files of a key pair, in every format.
pub(crate) struct Key {
    pub(crate) pem: PathBuf,
    pub(crate) public_pem: PathBuf,
    pub(crate) p12: PathBuf,
    hex: PathBuf,
    public_hex: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).env(PASSWORD_VARIABLE, PASSWORD).output().unwrap();
    assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), text(&output.stderr));
    output.stdout
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    run("openssl", arguments)
}

fn digits(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap().trim_end().to_owned()
}

impl Key {
    fn files(dir: &Path, name: &str) -> Self {
        let at = |end: &str| dir.join(format!("{name}{end}"));
        Self {
            pem: at(".pem"),
            public_pem: at(".pem.pub"),
            p12: at(".p12"),
            hex: at(".hex"),
            public_hex: at(".hex.pub"),
        }
    }

    pub(crate) fn make(dir: &Path, name: &str) -> Self {
        let files = Self::files(dir, name);
        let [key, public, store] =
            [&files.pem, &files.public_pem, &files.p12].map(|path| path.to_str().unwrap());
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
        std::fs::write(&files.hex, hex(&private[7..39])).unwrap();
        std::fs::write(&files.public_hex, hex(&point[point.len() - 64..])).unwrap();
        files
    }

    /// The same with `amop keys`, which makes one form of it first and converts that to the others.
    pub(crate) fn make_ours(dir: &Path, name: &str, format: Format) -> Self {
        let files = Self::files(dir, name);
        let made = dir.join(format!("{name} as made"));
        let form = match format {
            Format::Pem => "pem",
            Format::P12 => "p12",
            Format::Hex => "hex",
        };
        run(PROGRAM, &["keys", "new", "--format", form, "--out", made.to_str().unwrap()]);
        let mut there = std::fs::read_dir(&made).unwrap().map(|entry| entry.unwrap().path());
        let is_private = |path: &PathBuf| {
            let name = path.to_str().unwrap();
            name.ends_with(form) && !name.ends_with(".public.pem")
        };
        let key = there.find(is_private).expect("a private key");
        for (to, out) in [
            ("pem", &files.pem),
            ("public-pem", &files.public_pem),
            ("p12", &files.p12),
            ("hex", &files.hex),
            ("public-hex", &files.public_hex),
        ] {
            let (key, out) = (key.to_str().unwrap(), out.to_str().unwrap());
            run(PROGRAM, &["keys", "convert", key, "--to", to, "-o", out]);
        }
        files
    }

    /// A file for our own commands.
    pub(crate) fn file(&self, format: Format) -> &str {
        let path = match format {
            Format::Pem => &self.pem,
            Format::P12 => &self.p12,
            Format::Hex => &self.hex,
        };
        path.to_str().unwrap()
    }

    /// The same of the public key.
    pub(crate) fn public_file(&self, format: Format) -> &str {
        let path = match format {
            Format::Pem | Format::P12 => &self.public_pem,
            Format::Hex => &self.public_hex,
        };
        path.to_str().unwrap()
    }

    /// For a subscriber.
    pub(crate) fn private(&self, format: Format) -> Value {
        match format {
            Format::Pem => json!({ "pem": self.pem }),
            Format::P12 => json!({ "p12": self.p12, "password": PASSWORD }),
            Format::Hex => json!({ "hex": digits(&self.hex) }),
        }
    }

    /// For a publisher. There is no P12 of a public key alone.
    pub(crate) fn public(&self, format: Format) -> Value {
        match format {
            Format::Pem | Format::P12 => json!({ "pem": self.public_pem }),
            Format::Hex => json!({ "hex": digits(&self.public_hex) }),
        }
    }
}
