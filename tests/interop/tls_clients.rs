//! The built program against other people's TLS: OpenSSL's command, and a scripted SDK in Python. Without
//! `python3` or `openssl` these tests say so and pass, unless AMOP_INTEROP_REQUIRED is set, as in CI.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use amop::internal::pki::Profile;

use crate::support::{
    self, have, host_dir, host_dir_3x,
    process::{PROGRAM, Process},
};

fn succeeds(output: &Output, what: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{what}: {}{}", text(&output.stdout), text(&output.stderr));
}

/// OpenSSL's clients refuse a certificate whose curve they do not offer as a group; so with secp256k1
/// certificates that group must be among those offered.
fn groups(rsa: bool) -> [&'static str; 3] {
    if rsa { ["secp256k1", "X25519", "P-256"] } else { ["secp256k1", "X25519:secp256k1", "P-256:secp256k1"] }
}

fn scripted_sdk(port: u16, certificates: &Path, rsa: bool) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/scripted_sdk.py");
    let output = Command::new("python3")
        .arg(script)
        .args(["127.0.0.1", &port.to_string()])
        .arg(certificates)
        .args(if rsa { &["secp256k1", "prime256v1", "secp384r1"][..] } else { &["secp256k1"] })
        .output()
        .unwrap();
    succeeds(&output, "the scripted SDK");
}

/// A mutual handshake of `openssl s_client`, and a clean end.
fn s_client(port: u16, certificates: &Path, curve: &str) {
    let file = |name: &str| certificates.join(name).display().to_string();
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-curves", curve, "-tls1_2"])
        .args(["-CAfile", &file("ca.crt"), "-cert", &file("sdk.crt"), "-key", &file("sdk.key")])
        .args(["-verify_return_error", "-verify", "3"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    succeeds(&output, curve);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Verify return code: 0 (ok)"), "{curve}: {text}");
}

#[test]
fn a_python_sdk_that_offers_only_secp256k1_works_in_both_profiles() {
    if !have("python3", "--version") {
        return;
    }
    for profile in [Profile::Rsa, Profile::Ec] {
        let node = Process::start(&host_dir(profile).join("node0/conf"), profile == Profile::Rsa);
        scripted_sdk(node.channel.port(), &host_dir(profile).join("sdk"), profile == Profile::Rsa);
        assert_eq!(node.stop(), Some(0));
    }
}

#[test]
fn openssl_completes_mutual_handshakes_with_every_group_in_both_profiles() {
    if !have("openssl", "version") {
        return;
    }
    for profile in [Profile::Rsa, Profile::Ec] {
        let node = Process::start(&host_dir(profile).join("node1/conf"), profile == Profile::Rsa);
        for curve in groups(profile == Profile::Rsa) {
            s_client(node.channel.port(), &host_dir(profile).join("sdk"), curve);
        }
        assert_eq!(node.stop(), Some(0));
    }
}

#[test]
fn certificates_that_openssl_made_work_in_both_profiles() {
    if !have("openssl", "version") || !have("python3", "--version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/openssl_chain.sh");
    succeeds(&Command::new("sh").arg(script).arg(dir.path()).output().unwrap(), "openssl_chain.sh");
    for (rsa, certificates) in [(true, "sdk"), (false, "sdk-ec")] {
        let node = Process::start(&dir.path().join("conf"), rsa);
        for curve in groups(rsa) {
            s_client(node.channel.port(), &dir.path().join(certificates), curve);
        }
        scripted_sdk(node.channel.port(), &dir.path().join(certificates), rsa);
        assert_eq!(node.stop(), Some(0));
    }
}

#[test]
fn certificates_in_the_layout_of_3x_work_whoever_made_them() {
    if !have("openssl", "version") || !have("python3", "--version") {
        return;
    }
    let host = host_dir_3x();
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/openssl_chain_3x.sh");
    succeeds(&Command::new("sh").arg(script).arg(dir.path()).output().unwrap(), "openssl_chain_3x.sh");
    for (conf, certificates) in
        [(host.join("node0/conf"), host.join("sdk")), (dir.path().join("conf"), dir.path().join("sdk"))]
    {
        let more = format!("[cert]\nca_path={}\n", conf.display());
        let node = Process::start_with(&host.join("node0/conf/node_cert"), false, &more);
        for curve in groups(true) {
            s_client(node.channel.port(), &certificates, curve);
        }
        scripted_sdk(node.channel.port(), &certificates, true);
        assert_eq!(node.stop(), Some(0));
    }
}

#[test]
fn openssl_accepts_the_certificates_that_we_make() {
    if !have("openssl", "version") {
        return;
    }
    let verify = |roots: &Path, chain: &Path, leaf: &Path| {
        let output = Command::new("openssl")
            .args(["verify", "-CAfile"])
            .arg(roots)
            .arg("-untrusted")
            .arg(chain)
            .arg(leaf)
            .output()
            .unwrap();
        succeeds(&output, &leaf.display().to_string());
    };
    for profile in [Profile::Rsa, Profile::Ec] {
        let host = host_dir(profile);
        let conf = host.join("node2/conf");
        verify(&conf.join("ca.crt"), &conf.join("node.crt"), &conf.join("node.crt"));
        verify(&host.join("sdk/ca.crt"), &host.join("sdk/sdk.crt"), &host.join("sdk/sdk.crt"));
    }
    let channel = host_dir(Profile::Rsa).join("node2/conf/channel_cert");
    verify(&channel.join("ca.crt"), &channel.join("node.crt"), &channel.join("node.crt"));
    let text = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(channel.join("node.crt"))
        .output();
    let text = String::from_utf8_lossy(&text.unwrap().stdout).into_owned();
    assert!(text.contains("Version: 1 (0x0)") && text.contains("Public-Key: (2048 bit)"), "{text}");
}

#[test]
fn a_wrong_configuration_ends_the_start_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.ini");
    std::fs::write(&config, "[p2p]\nlisten_port=many\n").unwrap();
    let output = Command::new(PROGRAM).args(["node", "-c"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("config.ini:2: [p2p] listen_port = \"many\" must be a number from 0 to 65535"),
        "{text}"
    );
}

#[test]
fn pki_never_overwrites_without_being_told() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("nodes");
    let make = |more: &[&str]| {
        Command::new(PROGRAM)
            .args(["pki", "network", "-l", "127.0.0.1:1", "-o"])
            .arg(&out)
            .args(more)
            .output()
            .unwrap()
    };
    succeeds(&make(&[]), "the first time");
    let key = out.join("127.0.0.1/node0/conf/node.key");
    let first = std::fs::read(&key).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(make(&[]).status.code(), Some(1));
    assert_eq!(std::fs::read(&key).unwrap(), first);
    succeeds(&make(&["--force"]), "when told");
    assert_ne!(std::fs::read(&key).unwrap(), first);
    // Being told is not enough for what is no network of ours.
    let precious = dir.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("file"), "precious").unwrap();
    let pki = |arguments: &[&str]| {
        Command::new(PROGRAM).arg("pki").arg("network").args(arguments).output().unwrap().status.code()
    };
    assert_eq!(pki(&["--force", "-l", "127.0.0.1:1", "-o", precious.to_str().unwrap()]), Some(1));
    assert_eq!(std::fs::read_to_string(precious.join("file")).unwrap(), "precious");
    // Nothing is written outside, and nothing half.
    let elsewhere = dir.path().join("elsewhere").display().to_string();
    for arguments in
        [["-l", "..:1"], ["-l", "cert:1"], ["--agency", ".."], ["--p2p-port", "65535"], ["-l", "a:1,a:1"]]
    {
        assert_ne!(pki(&[&arguments[..], &["-o", &elsewhere]].concat()), Some(0), "{arguments:?}");
    }
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_node_and_an_application_added_step_by_step_work_together() {
    if !have("python3", "--version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let pki = |arguments: &[&str]| {
        succeeds(&Command::new(PROGRAM).arg("pki").args(arguments).output().unwrap(), arguments[0])
    };
    pki(&["chain", "-o", &at("chain")]);
    pki(&["agency", "--chain", &at("chain"), "--name", "bank", "-o", &at("bank")]);
    pki(&["node", "--agency", &at("bank"), "--name", "n", "-o", &at("conf")]);
    pki(&["sdk", "--agency", &at("bank"), "--name", "app", "-o", &at("sdk-ec")]);
    pki(&["chain", "--rsa", "--name", "bank", "-o", &at("channel")]);
    pki(&["node", "--agency", &at("channel"), "--name", "n", "-o", &at("conf/channel_cert")]);
    pki(&["sdk", "--agency", &at("channel"), "--name", "app", "-o", &at("sdk")]);
    for (rsa, certificates) in [(true, "sdk"), (false, "sdk-ec")] {
        let node = Process::start(&dir.path().join("conf"), rsa);
        scripted_sdk(node.channel.port(), &dir.path().join(certificates), rsa);
        assert_eq!(node.stop(), Some(0));
    }
}

/// Whether the process has connections, and all of them send small segments at once.
fn sends_at_once(node: &Process) -> bool {
    use rustix::{net, process};
    let pid = process::Pid::from_child(&node.child);
    let process = process::pidfd_open(pid, process::PidfdFlags::empty()).unwrap();
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", node.child.id())).unwrap();
    // What is no TCP socket has no such option; what has no peer is a listener.
    let at_once: Vec<bool> = descriptors
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|fd| process::pidfd_getfd(&process, fd, process::PidfdGetfdFlags::empty()).ok())
        .filter(|fd| net::getpeername(fd).is_ok())
        .filter_map(|fd| net::sockopt::tcp_nodelay(fd).ok())
        .collect();
    !at_once.is_empty() && at_once.iter().all(|&at_once| at_once)
}

#[test]
fn stalls_of_40_ms_on_one_way_traffic() {
    // A fault of FISCO BCOS 2.10.2 (WIRE §8): without TCP_NODELAY a small segment waits for the
    // acknowledgement of the one before. Every link has it here, on both ends.
    let host = host_dir(Profile::Ec);
    let first = Process::start(&host.join("node0/conf"), false);
    let peer = format!("node.0=127.0.0.1:{}\n", first.p2p.port());
    let second = Process::start_with(&host.join("node1/conf"), false, &peer);
    let mut application = Command::new(PROGRAM)
        .args(["sub", "t", "-n", &format!("127.0.0.1:{}", second.channel.port()), "-c"])
        .arg(host.join("sdk"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    support::wait_until("all links send at once", || sends_at_once(&first) && sends_at_once(&second));
    application.kill().unwrap();
    application.wait().unwrap();
    assert_eq!((second.stop(), first.stop()), (Some(0), Some(0)));
}
