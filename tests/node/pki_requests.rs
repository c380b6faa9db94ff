//! `amop pki csr` and `amop pki sign`: a node or an application gets its certificate from an agency, and its key stays with it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use x509_cert::der::pem::{self, LineEnding};

use crate::{
    configuration::Site,
    support::{
        have,
        process::{PROGRAM, Process, output},
        wait_until,
    },
};

impl Site {
    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Runs `amop pki` in the site's directory; gives whether it succeeded, and what it said.
    fn pki(&self, arguments: &str) -> (bool, String) {
        let mut command = Command::new(PROGRAM);
        let output =
            output(command.arg("pki").args(arguments.split_whitespace()).current_dir(self.dir.path()));
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    fn done(&self, arguments: &str) -> String {
        let (done, said) = self.pki(arguments);
        assert!(done, "{arguments}: {said}");
        said
    }

    fn refused(&self, arguments: &str, why: &str) {
        let (done, said) = self.pki(arguments);
        assert!(!done && said.contains(why), "{arguments}: {said}");
    }
}

/// What follows a word in a line.
fn behind<'a>(said: &'a str, word: &str) -> &'a str {
    let line = said.lines().find_map(|line| line.trim().strip_prefix(word));
    line.unwrap_or_else(|| panic!("no {word}: {said}")).trim()
}

const AGENCY: &str = "nodes/cert/agency";

#[test]
fn a_node_with_signed_requests_joins_the_network_and_its_keys_never_left_it() {
    let site = Site::new();
    let asked = site.done("csr --name node4 -o node4/conf");
    site.done("csr --name node4 --rsa -o node4/conf/channel_cert");
    let key = site.at("node4/conf/node.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    for (conf, agency, signed) in [
        ("node4/conf", AGENCY.to_owned(), "signed"),
        ("node4/conf/channel_cert", format!("{AGENCY}/channel"), "signed-channel"),
    ] {
        let said = site.done(&format!("sign {conf}/node.csr --agency {agency} -o {signed}"));
        if signed == "signed" {
            assert_eq!(behind(&said, "node id:"), behind(&asked, "node id:"), "both see the same");
        }
        assert!(!site.at(signed).join("node.key").exists(), "the agency has no key");
        for name in ["node.crt", "ca.crt"] {
            fs::copy(site.at(signed).join(name), site.at(conf).join(name)).unwrap();
        }
    }
    let first = Process::start(&site.at("nodes/127.0.0.1/node0/conf"), true);
    let more = format!("node.0={}\n[admin]\nlisten_port=0\n", first.p2p);
    let added = Process::start_with(&site.at("node4/conf"), true, &more);
    wait_until("it is linked", || added.admin_json("/nodes")["total"] == 1);
    // Applications of the network are let in by its channel.
    let sdk = site.at("nodes/127.0.0.1/sdk");
    let mut publish = Command::new(PROGRAM);
    publish.args(["pub", "nobody", "hello", "-n"]).arg(added.channel.to_string()).arg("-c").arg(sdk);
    let said = output(&mut publish);
    let said = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
    assert!(said.contains("100"), "it is answered that nobody is subscribed: {said}");
}

#[test]
fn an_application_with_a_signed_request_is_let_in() {
    let site = Site::new();
    site.done("csr --name shop --kind sdk --rsa -o shop");
    site.done(&format!("sign shop/sdk.csr --kind sdk --agency {AGENCY}/channel -o signed"));
    for name in ["sdk.crt", "ca.crt"] {
        fs::copy(site.at("signed").join(name), site.at("shop").join(name)).unwrap();
    }
    let node = Process::start(&site.at("nodes/127.0.0.1/node0/conf"), true);
    let mut publish = Command::new(PROGRAM);
    publish
        .args(["pub", "nobody", "hello", "-n"])
        .arg(node.channel.to_string())
        .arg("-c")
        .arg(site.at("shop"));
    let said = output(&mut publish);
    let said = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
    assert!(said.contains("100"), "{said}");
}

/// Changes the first place in a request where `from` stands.
fn change(path: &Path, from: &[u8], to: &[u8]) {
    let text = fs::read_to_string(path).unwrap();
    let (label, mut der) = pem::decode_vec(text.trim_end().as_bytes()).unwrap();
    let at = der.windows(from.len()).position(|window| window == from).expect("it is there");
    der[at..at + to.len()].copy_from_slice(to);
    fs::write(path, pem::encode_string(label, LineEnding::LF, &der).unwrap()).unwrap();
}

#[test]
fn a_request_that_was_changed_or_is_none_is_not_signed() {
    let site = Site::new();
    let sign = format!("sign a/node.csr --agency {AGENCY} -o signed");
    for rsa in ["", "--rsa"] {
        site.done(&format!("csr --name node4 {rsa} -o a"));
        change(&site.at("a/node.csr"), b"node4", b"node5");
        site.refused(&sign, "not signed by the key that it is for");
        fs::remove_dir_all(site.at("a")).unwrap();
    }
    site.done("csr --name node4 -o a");
    fs::copy(site.at("nodes/cert/ca.crt"), site.at("a/node.csr")).unwrap();
    site.refused(&sign, "no request for a certificate");
    fs::write(site.at("a/node.csr"), "nonsense").unwrap();
    site.refused(&sign, "no request for a certificate");
    assert!(!site.at("signed").exists(), "nothing was made");
}

#[test]
fn a_request_goes_to_the_authority_of_its_kind_and_overwrites_nothing() {
    let site = Site::new();
    site.done("csr --name node4 -o a");
    site.done("csr --name node4 --rsa -o b");
    site.refused(&format!("sign a/node.csr --agency {AGENCY}/channel -o s"), "keys of RSA here");
    site.refused(&format!("sign b/node.csr --agency {AGENCY} -o s"), "keys of the curve secp256k1 here");
    site.refused("sign a/node.csr --agency nodes/cert -o s", "make one with `amop pki agency`");
    site.refused("csr --name node4 -o a", "node.csr exists already");
    // A key that is there is kept, for a certificate that is to be renewed.
    let key = fs::read(site.at("a/node.key")).unwrap();
    fs::remove_file(site.at("a/node.csr")).unwrap();
    assert!(site.done("csr --name node4 -o a").contains("for the key that is there"));
    assert_eq!(fs::read(site.at("a/node.key")).unwrap(), key);
    site.done(&format!("sign a/node.csr --agency {AGENCY} -o s"));
    site.refused(&format!("sign a/node.csr --agency {AGENCY} -o s"), "exists already");
    site.refused(
        &format!("sign a/node.csr --name ../x --agency {AGENCY} -o t"),
        "is not a name for a certificate",
    );
}

#[test]
fn requests_of_openssl_are_signed_as_well_and_other_keys_are_refused() {
    if !have("openssl", "version") {
        return;
    }
    let site = Site::new();
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        let output = output(command.args(arguments.split_whitespace()).current_dir(site.dir.path()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    openssl("ecparam -name secp256k1 -genkey -noout -out k1.key");
    openssl("req -new -sha256 -key k1.key -subj /CN=bank-a/O=bank -out k1.csr");
    let said = site.done(&format!("sign k1.csr --agency {AGENCY} -o k1"));
    assert_eq!(behind(&said, "name:"), "bank-a");
    openssl(&format!("verify -CAfile nodes/cert/ca.crt -untrusted {AGENCY}/agency.crt k1/node.crt"));
    openssl("req -new -newkey rsa:2048 -nodes -keyout rsa.key -subj /CN=bank-a -out rsa.csr");
    site.done(&format!("sign rsa.csr --agency {AGENCY}/channel -o rsa"));
    openssl("ecparam -name prime256v1 -genkey -noout -out p256.key");
    openssl("req -new -sha256 -key p256.key -subj /CN=bank-a -out p256.csr");
    site.refused(&format!("sign p256.csr --agency {AGENCY} -o p256"), "must be of the curve secp256k1");
}
