//! What the program says of a configuration and of its certificates: before it starts, while it runs, when they are renewed.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use amop::internal::{
    load::shake_hands,
    pki::{Authority, NetworkPlan, Profile, Validity, build_network, write_pair},
    tls::{
        config::client_config,
        identity::{Identity, Roots},
        settings::TlsSettings,
    },
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    self, ReservedPort,
    process::{PROGRAM, Process, output, output_of, write_config},
    wait_until,
};

/// A node's directory of its own, with the authorities that made it.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plan = NetworkPlan { profile: Profile::Rsa, days: 365, ..NetworkPlan::default() };
        build_network(&plan, &dir.path().join("nodes")).unwrap();
        Self { dir }
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("nodes/127.0.0.1/node0/conf")
    }

    fn agency_dir(&self) -> PathBuf {
        self.dir.path().join("nodes/cert/agency")
    }

    fn agency(&self) -> Authority {
        Authority::load(&self.agency_dir().join("agency.crt"), &self.agency_dir().join("agency.key")).unwrap()
    }

    fn channel(&self) -> Authority {
        let dir = self.agency_dir().join("channel");
        Authority::load(&dir.join("ca.crt"), &dir.join("ca.key")).unwrap()
    }

    /// A configuration with ports of the kernel's choice; `more` begins in `[p2p]`.
    fn config(&self, more: &str) -> PathBuf {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        write_config(self.dir.path(), &self.conf(), true, [any; 2], more)
    }
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = output(Command::new(PROGRAM).args(arguments));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout) + &text(stderr))
}

fn check(config: &Path, more: &[&str]) -> (Option<i32>, String) {
    run(&[&["node", "--check", "-c", config.to_str().unwrap()], more].concat())
}

/// Starts the node, for configurations with which it ends at once.
fn start(config: &Path) -> (Option<i32>, String) {
    run(&["node", "-c", config.to_str().unwrap()])
}

fn pki(arguments: &[&str]) -> (Option<i32>, String) {
    run(&[&["pki"], arguments].concat())
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_by_check_and_start_alike() {
    let site = Site::new();
    let good = site.config("[engine]\nreactors=1\n");
    let (status, said) = check(&good, &["--strict"]);
    assert_eq!((status, said.contains("can be used")), (Some(0), true), "{said}");
    let change = |from: &str, to: &str| {
        fs::write(
            &good,
            fs::read_to_string(site.config("[engine]\nreactors=1\n")).unwrap().replace(from, to),
        )
        .unwrap();
    };
    let data_path = format!("data_path={}", site.conf().display());
    // What may be another way at the next start, when a disk or an address is there, is no reason to try no more.
    for (from, to, expected) in [
        (data_path.as_str(), "data_path=nowhere", "nowhere/node.crt: No such file"),
        ("channel_listen_ip=127.0.0.1", "channel_listen_ip=203.0.113.1", "203.0.113.1"),
        ("[engine]", "[admin]\nlisten_ip=203.0.113.1\nlisten_port=1\n[engine]", "203.0.113.1"),
    ] {
        change(from, to);
        for ((status, said), expected_status) in [(check(&good, &[]), 78), (start(&good), 1)] {
            assert_eq!(status, Some(expected_status), "{to}: {said}");
            assert!(said.contains(expected) && !said.contains("can be used"), "{to}: {said}");
        }
    }
    for (from, to, expected) in [
        ("[engine]", "listen_prot=1\n[engine]\npin=4000", "pin"),
        (data_path.as_str(), "data_path=\"conf\"", "quotation marks"),
        ("channel_listen_ip=127.0.0.1", "listen_ip=localhost", "[rpc] listen_ip"),
        (
            "channel_listen_port=0",
            "channel_listen_port=30300\n[admin]\nlisten_port=30300",
            "too: they must differ",
        ),
        ("[engine]", "[tls]\nchannel_cipher_suites=ECDHE-ECDSA-AES128-GCM-SHA256\n[engine]", "cipher suites"),
        ("reactors=1", "reactors=0", "reactors"),
    ] {
        change(from, to);
        for (status, said) in [check(&good, &[]), start(&good)] {
            assert_eq!(status, Some(78), "{to}: {said}");
            assert!(said.contains(expected), "{to}: {said}");
            assert!(!said.contains("can be used"), "{said}");
        }
    }
    assert_eq!(check(Path::new("nowhere.ini"), &[]).0, Some(1));
    assert_eq!(start(Path::new("nowhere.ini")).0, Some(1));
}

#[test]
fn errors_are_told_and_the_status_is_theirs_also_if_nobody_reads_the_warnings() {
    let site = Site::new();
    let config = site.config("[admim]\nlisten_port=1\n[engine]\npin=4000\n");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut check = Command::new(PROGRAM);
    check.args(["node", "--check", "-c"]).arg(&config).stdout(writer).stderr(Stdio::piped());
    let Output { status, stderr, .. } = output_of(check.spawn().unwrap());
    let said = String::from_utf8(stderr).unwrap();
    assert!(status.code() == Some(78) && said.contains("pin"), "{status}: {said}");
}

#[test]
fn certificates_and_keys_that_do_not_fit_are_refused_by_check_and_start_alike() {
    type Break = fn(&Site);
    let breaks: [(&str, Break); 6] = [
        ("does not belong to the certificate", |site| {
            fs::copy(site.conf().join("channel_cert/node.key"), site.conf().join("node.key"))
                .map(drop)
                .unwrap();
        }),
        ("no readable certificate", |site| fs::write(site.conf().join("ca.crt"), "").unwrap()),
        ("no readable certificate", |site| {
            let path = site.conf().join("node.crt");
            let pem = fs::read_to_string(&path).unwrap();
            fs::write(path, &pem[..pem.len() - 40]).unwrap();
        }),
        ("must be of the curve secp256k1", |site| {
            for name in ["node.crt", "node.key"] {
                fs::copy(site.conf().join("channel_cert").join(name), site.conf().join(name)).unwrap();
            }
        }),
        ("needs a password", |site| {
            let pem = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
            fs::write(site.conf().join("node.key"), pem).unwrap();
        }),
        ("[storage_security] enable=true", |site| {
            fs::write(site.conf().join("node.key"), "bm8gUEVNLCBidXQgYmFzZTY0").unwrap();
        }),
    ];
    for (expected, break_it) in breaks {
        let site = Site::new();
        let more = if expected.starts_with('[') { "[storage_security]\nenable=true\n" } else { "" };
        let config = site.config(more);
        break_it(&site);
        for (status, said) in [check(&config, &[]), start(&config)] {
            assert_eq!(status, Some(78), "{expected}: {said}");
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }
}

#[test]
fn warnings_are_errors_where_that_is_wanted() {
    let site = Site::new();
    let config = site.config("[admim]\nlisten_port=1\n");
    let (status, said) = check(&config, &[]);
    assert_eq!(status, Some(0));
    assert!(said.contains("did you mean [admin]?") && said.contains("can be used"), "{said}");
    for (status, said) in
        [check(&config, &["--strict"]), run(&["node", "--strict", "-c", config.to_str().unwrap()])]
    {
        assert_eq!(status, Some(78), "{said}");
        assert!(said.contains("did you mean [admin]?"), "{said}");
    }
}

#[test]
fn a_port_that_somebody_has_is_found_unless_it_is_this_very_node() {
    let site = Site::new();
    let reserved = ReservedPort::new();
    let holder = TcpListener::bind(reserved.address()).unwrap();
    let port = reserved.address().port();
    let config = site.config(&format!("[admin]\nlisten_port={port}\n"));
    let (status, said) = check(&config, &[]);
    assert_eq!(status, Some(78));
    assert!(said.contains("[admin] listen_port") && said.contains("held by"), "{said}");
    drop(holder);
    let node = Process::run(&config);
    let (status, said) = check(&config, &["--strict"]);
    assert_eq!(status, Some(0), "{said}");
    let copy = site.dir.path().join("copy.ini");
    fs::copy(&config, &copy).unwrap();
    assert_eq!(check(&copy, &[]).0, Some(78));
    drop(node);
}

#[test]
fn own_certificates_that_others_refuse_are_said_at_check_and_start_and_shown() {
    let expired = |site: &Site| {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let validity = Validity { not_before: now - 48 * hour, not_after: now - hour };
        let dir = site.conf().join("channel_cert");
        for name in ["node.crt", "node.key"] {
            fs::remove_file(dir.join(name)).unwrap();
        }
        write_pair(&dir, "node", &site.channel().channel_leaf("FISCO-BCOS", validity).unwrap(), &[]).unwrap();
    };
    let foreign = |site: &Site| {
        fs::copy(site.agency_dir().join("channel/ca.crt"), site.conf().join("ca.crt")).map(drop).unwrap();
    };
    let soon = |site: &Site| {
        let dir = site.conf().join("channel_cert");
        for name in ["node.crt", "node.key"] {
            fs::remove_file(dir.join(name)).unwrap();
        }
        let leaf = site.channel().channel_leaf("FISCO-BCOS", Validity::days(20)).unwrap();
        write_pair(&dir, "node", &leaf, &[]).unwrap();
    };
    type Break<'a> = &'a dyn Fn(&Site);
    let cases: [(Break<'_>, &str, Option<i32>); 3] = [
        (&expired, "channel_cert/node.crt: the channel's certificate has expired on", Some(78)),
        (&foreign, "node.crt: the node's certificate does not chain to these roots: its issuer", Some(78)),
        (&soon, "renew it in time", Some(0)),
    ];
    for (break_it, expected, status) in cases {
        let site = Site::new();
        break_it(&site);
        let config = site.config("[admin]\nlisten_port=0\n");
        let (got, said) = check(&config, &[]);
        assert_eq!(got, status, "{said}");
        assert!(said.contains(expected), "{said}");
        // It starts: what still can be reached is.
        let node = Process::run(&config);
        assert!(node.before_up().contains(expected), "{}", node.before_up());
        let (_, metrics) = support::get(node.admin.unwrap(), "/metrics");
        for certificate in
            ["node_certificate", "node_chain", "node_roots", "channel_certificate", "channel_roots"]
        {
            let sample = format!("\namop_{certificate}_not_after_seconds ");
            assert!(metrics.contains(&sample), "no {sample}");
        }
    }
}

/// What a node's channel presents, by the metric of its end.
fn channel_end(node: &Process) -> String {
    let (_, metrics) = support::get(node.admin.unwrap(), "/metrics");
    let mut lines = metrics.lines();
    lines
        .find(|line| line.starts_with("amop_channel_certificate_not_after_seconds "))
        .expect("the metric")
        .to_owned()
}

/// Has a node read its configuration and waits for what it says.
fn hang_up(node: &Process, said: &str) -> serde_json::Value {
    let before = node.logged(said).len();
    kill_process(Pid::from_child(&node.child), Signal::HUP).unwrap();
    wait_until("the node to have read its files", || node.logged(said).len() > before);
    node.logged(said).pop().unwrap()
}

const TAKEN: &str = "configuration read again: [p2p] node.N, the lists and the certificates hold from now on, other keys from the next start";
const NOT_TAKEN: &str = "configuration read again and not taken over: everything stays as it is";

/// Which certificate a node's channel presents to who connects now.
fn presented(site: &Site, node: &Process) -> [u8; 32] {
    let dir = site.dir.path().join("nodes/127.0.0.1/sdk");
    let identity = Identity::load(&dir.join("sdk.crt"), &dir.join("sdk.key")).unwrap();
    let roots = Roots::load(&dir.join("ca.crt")).unwrap();
    let config = client_config(&identity, &roots, &TlsSettings::default()).unwrap();
    let mut socket = std::net::TcpStream::connect(node.channel).unwrap();
    shake_hands(&mut socket, &config).unwrap().peer.fingerprint
}

#[test]
fn renewed_certificates_are_taken_for_new_links_and_broken_ones_are_not() {
    let site = Site::new();
    let config = site.config("[admin]\nlisten_port=0\n");
    let node = Process::run(&config);
    let (first, conf) = (channel_end(&node), site.conf());
    let before = presented(&site, &node);
    assert_eq!(hang_up(&node, TAKEN)["certificates"], "as before");

    // The RSA certificate may have another key.
    let dir = conf.join("channel_cert");
    for name in ["node.crt", "node.key"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    let channel = site.agency_dir().join("channel");
    let arguments =
        ["node", "--agency", channel.to_str().unwrap(), "--name", "FISCO-BCOS", "--days", "77", "-o"];
    // `ca.crt` is there already.
    let made = site.dir.path().join("made");
    let (status, said) = pki(&[&arguments[..], &[made.to_str().unwrap()]].concat());
    assert_eq!(status, Some(0), "{said}");
    fs::copy(made.join("node.crt"), dir.join("node.crt")).unwrap();
    // Half of the pair is there: nothing is taken.
    assert!(hang_up(&node, NOT_TAKEN)["error"].as_str().unwrap().contains("channel_cert/node.key"));
    assert_eq!(channel_end(&node), first);
    fs::copy(made.join("node.key"), dir.join("node.key")).unwrap();
    assert_eq!(hang_up(&node, TAKEN)["certificates"], "new, for new links");
    assert_ne!(channel_end(&node), first);
    let after = presented(&site, &node);
    assert_ne!(before, after);

    // The node's own is renewed with its key.
    let key = fs::read(conf.join("node.key")).unwrap();
    let old = fs::read(conf.join("node.crt")).unwrap();
    let agency = site.agency_dir();
    let arguments =
        ["node", "--agency", agency.to_str().unwrap(), "--name", "node0", "-o", conf.to_str().unwrap()];
    let (status, said) = pki(&arguments);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(fs::read(conf.join("node.key")).unwrap(), key);
    assert_eq!(fs::read(conf.join("node.crt.old")).unwrap(), old);
    assert_ne!(fs::read(conf.join("node.crt")).unwrap(), old);
    assert_eq!(hang_up(&node, TAKEN)["certificates"], "new, for new links");

    // Another key would be another node; expired and foreign ones are worse than those that are there.
    let renewed = fs::read(conf.join("node.crt")).unwrap();
    let other = site.agency().leaf("node0", "node", Validity::days(100)).unwrap();
    fs::write(conf.join("node.crt"), &other.certificate).unwrap();
    fs::write(conf.join("node.key"), &other.key).unwrap();
    assert!(hang_up(&node, NOT_TAKEN)["error"].as_str().unwrap().contains("another node"));
    fs::write(conf.join("node.crt"), renewed).unwrap();
    fs::write(conf.join("node.key"), key).unwrap();
    let roots = fs::read(conf.join("ca.crt")).unwrap();
    fs::copy(channel.join("ca.crt"), conf.join("ca.crt")).unwrap();
    assert!(hang_up(&node, NOT_TAKEN)["error"].as_str().unwrap().contains("does not chain"));
    fs::write(conf.join("ca.crt"), roots).unwrap();
    assert_eq!(hang_up(&node, TAKEN)["certificates"], "as before");
    assert_eq!(presented(&site, &node), after);
}

#[test]
fn other_keys_of_a_configuration_that_is_read_again_change_nothing_about_certificates() {
    let site = Site::new();
    let node = Process::run(&site.config("[admin]\nlisten_port=0\n"));
    let before = presented(&site, &node);
    // With these from its start it would show other certificates, and take no RSA.
    let more = "[admin]\nlisten_port=0\n[tls]\nchannel_cipher_suites=ECDHE-ECDSA-AES128-GCM-SHA256\n";
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    write_config(site.dir.path(), &site.conf(), false, [any; 2], more);
    assert_eq!(hang_up(&node, TAKEN)["certificates"], "as before");
    assert_eq!(presented(&site, &node), before);
    // Also with certificates that are renewed.
    let dir = site.conf().join("channel_cert");
    for name in ["node.crt", "node.key"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    let leaf = site.channel().channel_leaf("FISCO-BCOS", Validity::days(77)).unwrap();
    write_pair(&dir, "node", &leaf, &[]).unwrap();
    assert_eq!(hang_up(&node, TAKEN)["certificates"], "new, for new links");
    assert_ne!(presented(&site, &node), before);
    // And they are read from where they were.
    write_config(site.dir.path(), Path::new("/nowhere"), false, [any; 2], more);
    assert_eq!(hang_up(&node, TAKEN)["certificates"], "as before");
}

#[test]
fn where_something_is_in_the_way_nothing_is_written() {
    let site = Site::new();
    let (cert, agency) = (site.dir.path().join("nodes/cert"), site.agency_dir());
    let foreign = fs::read(agency.join("channel/ca.crt")).unwrap();
    let own = fs::read(agency.join("ca.crt")).unwrap();
    let make = |kind: &str, option: &str, authority: &Path, out: &Path| {
        pki(&[kind, option, authority.to_str().unwrap(), "--name", "x", "-o", out.to_str().unwrap()])
    };
    let kinds = [("agency", "--chain", &cert), ("node", "--agency", &agency), ("sdk", "--agency", &agency)];
    for (kind, option, authority) in kinds {
        // The root of others is not replaced; the one that belongs there is left.
        let out = site.dir.path().join(kind);
        fs::create_dir(&out).unwrap();
        fs::write(out.join("ca.crt"), &foreign).unwrap();
        let (status, said) = make(kind, option, authority, &out);
        assert!(status == Some(1) && said.contains("ca.crt exists already; nothing was changed"), "{said}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "{kind}: nothing was changed");
        fs::write(out.join("ca.crt"), &own).unwrap();
        let (status, said) = make(kind, option, authority, &out);
        assert_eq!(status, Some(0), "{said}");
        assert_eq!(fs::read(out.join("ca.crt")).unwrap(), own);
        assert!(out.join(format!("{kind}.key")).is_file());
    }
    let out = site.dir.path().join("named");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("node.nodeid"), "another").unwrap();
    assert_eq!(make("node", "--agency", &agency, &out).0, Some(1));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn a_key_that_exists_is_certified() {
    let site = Site::new();
    let (agency, channel) = (site.agency_dir(), site.agency_dir().join("channel"));
    let (node_key, rsa_key) = (site.conf().join("node.key"), site.conf().join("channel_cert/node.key"));
    let certify = |kind: &str, authority: &Path, key: &Path, out: &str| {
        let out = site.dir.path().join(out);
        let arguments =
            [kind, "--agency", authority.to_str().unwrap(), "--name", "x", "--key", key.to_str().unwrap()];
        let done = pki(&[&arguments[..], &["-o", out.to_str().unwrap()]].concat());
        (done, out)
    };
    for (kind, authority, key) in
        [("node", &agency, &node_key), ("sdk", &agency, &node_key), ("sdk", &channel, &rsa_key)]
    {
        let out = format!("{kind}-{}", key.parent().unwrap().file_name().unwrap().display());
        for _ in 0..2 {
            let ((status, said), out) = certify(kind, authority, key, &out);
            assert_eq!(status, Some(0), "{said}");
            // Certificate and key belong together.
            Identity::load(&out.join(format!("{kind}.crt")), key).unwrap();
            Identity::load(&out.join(format!("{kind}.crt")), &out.join(format!("{kind}.key"))).unwrap();
            assert!(out.join("ca.crt").is_file());
        }
    }
    let id = fs::read_to_string(site.dir.path().join("node-conf/node.nodeid")).unwrap();
    assert_eq!(id, fs::read_to_string(site.conf().join("node.nodeid")).unwrap());
    // A key of another kind, another key than the certificate's that is there, one that is none.
    let ((status, said), _) = certify("node", &agency, &rsa_key, "wrong");
    assert!(status == Some(1) && said.contains("secp256k1"), "{said}");
    let other = site.dir.path().join("other.key");
    fs::write(&other, site.agency().leaf("x", "node", Validity::days(1)).unwrap().key).unwrap();
    let before = fs::read(site.dir.path().join("node-conf/node.crt")).unwrap();
    let ((status, said), out) = certify("node", &agency, &other, "node-conf");
    assert!(status == Some(1) && said.contains("another key"), "{said}");
    assert_eq!(fs::read(out.join("node.crt")).unwrap(), before);
    fs::write(&other, "no key").unwrap();
    assert_eq!(certify("sdk", &agency, &other, "none").0.0, Some(1));
}

/// The same text as editors of Windows save it.
fn as_saved(text: &str) -> [Vec<u8>; 3] {
    let windows = text.replace('\n', "\r\n");
    let utf16: Vec<u8> = windows.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [
        ["\u{feff}".as_bytes(), windows.as_bytes()].concat(),
        [&[0xff, 0xfe], utf16.as_slice()].concat(),
        text.replace('\n', "\r").into_bytes(),
    ]
}

#[test]
fn files_are_read_as_editors_of_windows_save_them() {
    let site = Site::new();
    let config = site.config("[engine]\nreactors=1\n");
    let conf = site.conf();
    let mut files = vec![config.clone()];
    for name in [
        "node.crt",
        "node.key",
        "ca.crt",
        "channel_cert/node.crt",
        "channel_cert/node.key",
        "channel_cert/ca.crt",
    ] {
        files.push(conf.join(name));
    }
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for how in 0..3 {
        for (file, text) in files.iter().zip(&texts) {
            fs::write(file, &as_saved(text)[how]).unwrap();
        }
        let (status, said) = check(&config, &["--strict"]);
        assert_eq!(status, Some(0), "{how}: {said}");
        let (status, said) = pki(&["show", conf.join("node.crt").to_str().unwrap()]);
        assert!(status == Some(0) && said.matches("subject:").count() == 3, "{how}: {said}");
    }
    // GBK: comments are passed over, a value is refused with its line.
    let comment = [b"; \xbd\xda\xb5\xe3\n".as_slice(), texts[0].as_bytes()].concat();
    fs::write(&config, &comment).unwrap();
    assert_eq!(check(&config, &[]).0, Some(0));
    fs::write(&config, [&comment, b"[chain]\nid=\xbd\xda\n".as_slice()].concat()).unwrap();
    let (status, said) = check(&config, &[]);
    let line = comment.iter().filter(|byte| **byte == b'\n').count() + 2;
    assert_eq!(status, Some(78));
    assert!(said.contains(&format!("config.ini:{line}: ")) && said.contains("GBK"), "{said}");
}
