//! `amop keys`, and its files in both directions with OpenSSL, by which `get_account.sh` makes keys.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::support::{have, process::PROGRAM};

const PASSWORD: &str = "a password";

fn amop(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("keys").args(arguments).env("AMOP_KEY_PASSWORD", PASSWORD).stdin(Stdio::null());
    command.current_dir(dir).output().unwrap()
}

fn out(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn error(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap()
}

/// Makes a key; gives the private file.
fn new_key(dir: &Path, format: &str) -> PathBuf {
    let made = out(amop(dir, &["new", "--format", format]));
    dir.join(made.lines().nth(2).unwrap().strip_prefix("private file ").unwrap())
}

fn openssl(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn private_files_are_for_their_owner_and_named_after_the_address() {
    let dir = tempfile::tempdir().unwrap();
    for format in ["pem", "p12", "hex"] {
        let made = out(amop(dir.path(), &["new", "--format", format]));
        let address = made.lines().next().unwrap().strip_prefix("address      ").unwrap();
        assert!(address.starts_with("0x") && address.len() == 42, "{made}");
        for (suffix, mode) in [(format, 0o600), ("public.pem", 0o644), ("pem.pub", 0o644)] {
            let file = dir.path().join(format!("accounts/{address}.{suffix}"));
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, mode, "{suffix}");
            let shown = out(amop(dir.path(), &["show", file.to_str().unwrap()]));
            assert!(made.starts_with(&shown), "{made}{shown}");
        }
    }
}

#[test]
fn a_password_file_is_read_however_it_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let key = new_key(dir.path(), "p12");
    let file = dir.path().join("password");
    let show = || {
        let arguments = ["keys", "show", key.to_str().unwrap(), "--password-file", file.to_str().unwrap()];
        Command::new(PROGRAM).args(arguments).output().unwrap()
    };
    let utf16: Vec<u8> =
        format!("\u{feff}{PASSWORD}\r\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in
        [format!("{PASSWORD}\n").as_bytes(), format!("\u{feff}{PASSWORD}\r\nmore").as_bytes(), &utf16]
    {
        fs::write(&file, bytes).unwrap();
        out(show());
    }
    fs::write(&file, b"\xbd\xda\n").unwrap();
    let refused = show();
    assert!(!refused.status.success() && String::from_utf8(refused.stderr).unwrap().contains("GBK"));
}

#[test]
fn a_file_is_replaced_only_by_force_and_a_link_or_directory_never() {
    let dir = tempfile::tempdir().unwrap();
    let key = new_key(dir.path(), "pem");
    let to = |out: &str, force: &[&str]| {
        let arguments = ["convert", key.to_str().unwrap(), "--to", "hex", "--out", out];
        amop(dir.path(), &[&arguments[..], force].concat())
    };
    out(to("key.hex", &[]));
    let target = dir.path().join("key.hex");
    let mode = fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::write(&target, "precious").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink("key.hex", dir.path().join("link")).unwrap();
    fs::create_dir(dir.path().join("directory")).unwrap();
    for (name, force) in [("key.hex", &[][..]), ("link", &["--force"]), ("directory", &["--force"])] {
        let error = error(to(name, force));
        assert!(error.contains("exists already and was not changed"), "{name}: {error}");
    }
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    out(to("key.hex", &["--force"]));
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(&target).unwrap().len(), 65);
    // Nothing half-made is left behind.
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 4, "accounts, key.hex, link, directory");
}

#[test]
fn a_key_is_the_same_after_every_conversion() {
    let dir = tempfile::tempdir().unwrap();
    let key = new_key(dir.path(), "pem");
    let shown = out(amop(dir.path(), &["show", key.to_str().unwrap()]));
    let mut from = key.to_str().unwrap().to_owned();
    for (number, to) in ["p12", "hex", "p12", "pem", "hex", "pem"].into_iter().enumerate() {
        let next = format!("{number}.{to}");
        out(amop(dir.path(), &["convert", &from, "--to", to, "--out", &next]));
        assert_eq!(out(amop(dir.path(), &["show", &next])), shown, "{next}");
        from = next;
    }
    assert_eq!(fs::read(dir.path().join(&from)).unwrap(), fs::read(&key).unwrap());
    for to in ["public-pem", "public-hex"] {
        let public = out(amop(dir.path(), &["convert", &from, "--to", to]));
        fs::write(dir.path().join(to), public).unwrap();
        assert_eq!(out(amop(dir.path(), &["show", to])), shown, "{to}");
        let error = error(amop(dir.path(), &["convert", to, "--to", "pem", "--out", "private.pem"]));
        assert!(error.contains("this is a public key"), "{error}");
    }
    let error = error(amop(dir.path(), &["convert", &from, "--to", "pem"]));
    assert!(error.contains("give --out FILE"), "{error}");
}

#[test]
fn a_password_is_taken_from_a_file_too_and_a_wrong_one_is_named_as_the_fault() {
    let dir = tempfile::tempdir().unwrap();
    let key = new_key(dir.path(), "p12");
    let key = key.to_str().unwrap();
    fs::write(dir.path().join("right"), format!("{PASSWORD}\n")).unwrap();
    fs::write(dir.path().join("wrong"), "another\n").unwrap();
    out(amop(dir.path(), &["show", key, "--password-file", "right"]));
    let wrong = error(amop(dir.path(), &["show", key, "--password-file", "wrong"]));
    assert!(wrong.contains("the password is wrong, or the file is damaged"), "{wrong}");
    let missing = error(amop(dir.path(), &["show", key, "--password-file", "missing"]));
    assert!(missing.contains("missing: No such file"), "{missing}");
}

#[test]
fn openssl_reads_and_writes_the_same_files() {
    if !have("openssl", "version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Ours, byte for byte as it writes them.
    let key = new_key(dir, "pem");
    let path = key.to_str().unwrap();
    let pem = fs::read(&key).unwrap();
    assert_eq!(openssl(dir, &["pkey", "-in", path]), pem);
    let public = fs::read(key.with_extension("public.pem")).unwrap();
    assert_eq!(openssl(dir, &["ec", "-in", path, "-pubout"]), public);
    out(amop(dir, &["convert", path, "--to", "p12", "--out", "ours.p12"]));
    let password = format!("pass:{PASSWORD}");
    let bags = openssl(dir, &["pkcs12", "-in", "ours.p12", "-passin", &password, "-nodes"]);
    let bags = String::from_utf8(bags).unwrap();
    assert!(bags.contains("friendlyName: key"), "{bags}");
    assert!(bags.contains(str::from_utf8(&pem).unwrap()), "{bags}");
    // Its own, made as get_account.sh makes them, with the ciphers of OpenSSL 3 and of those before it.
    openssl(dir, &["ecparam", "-out", "params", "-name", "secp256k1"]);
    openssl(dir, &["genpkey", "-paramfile", "params", "-out", "theirs.pem"]);
    let shown = out(amop(dir, &["show", "theirs.pem"]));
    let modern = [];
    let legacy = ["-keypbe", "PBE-SHA1-3DES", "-macalg", "sha1"];
    for (name, ciphers) in [("modern.p12", &modern[..]), ("legacy.p12", &legacy)] {
        let export = ["pkcs12", "-export", "-name", "key", "-nocerts", "-inkey", "theirs.pem", "-out", name];
        openssl(dir, &[&export[..], &["-passout", &password], ciphers].concat());
        assert_eq!(out(amop(dir, &["show", name])), shown, "{name}");
    }
    // And in the form of before PKCS#8, with the parameters in front.
    openssl(dir, &["ecparam", "-name", "secp256k1", "-genkey", "-out", "sec1.pem"]);
    assert!(fs::read_to_string(dir.join("sec1.pem")).unwrap().contains("BEGIN EC PARAMETERS"));
    out(amop(dir, &["show", "sec1.pem"]));
}

#[test]
fn keys_of_other_kinds_are_refused_with_their_name() {
    if !have("openssl", "version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let make = |curve: &str, file: &str| {
        openssl(dir, &["genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", file]);
        openssl(dir, &["pkey", "-in", file, "-pubout", "-out", &format!("{file}.pub")]);
    };
    make("ec_paramgen_curve:SM2", "sm2.pem");
    make("ec_paramgen_curve:P-256", "p256.pem");
    make("ec_paramgen_curve:secp256k1", "ours.pem");
    openssl(dir, &["pkey", "-in", "ours.pem", "-aes256", "-passout", "pass:x", "-out", "encrypted.pem"]);
    let password = format!("pass:{PASSWORD}");
    let export = ["pkcs12", "-export", "-name", "key", "-nocerts", "-inkey", "sm2.pem", "-out", "sm2.p12"];
    openssl(dir, &[&export[..], &["-passout", &password]].concat());
    for (file, why) in [
        ("sm2.pem", "national cryptography is not there"),
        ("sm2.pem.pub", "national cryptography is not there"),
        ("sm2.p12", "national cryptography is not there"),
        ("p256.pem", "no key on the curve secp256k1"),
        ("p256.pem.pub", "no key on the curve secp256k1"),
        ("encrypted.pem", "this PEM key has a password"),
    ] {
        let error = error(amop(dir, &["show", file]));
        assert!(error.starts_with(&format!("amop: {file}: ")) && error.contains(why), "{file}: {error}");
    }
}
