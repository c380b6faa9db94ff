//! What the program says to typical mistakes: whose fault it is, and what to change. Each is made with the built program.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use amop::internal::pki::{Authority, NetworkPlan, Profile, Validity, build_network, write_pair};

use crate::support::{
    Nobody, TestNode, host_dir, network_files,
    process::{PROGRAM, Process, output, write_config},
};

const DAY: Duration = Duration::from_secs(86_400);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    command
}

/// Makes a mistake; the program must end with the status and say all of this, in a few lines.
#[track_caller]
fn says(command: &mut Command, status: i32, expected: &[&str]) {
    let Output { status: ended, stdout, stderr } = output(command);
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert_eq!(ended.code(), Some(status), "{command:?}: {said}");
    for text in expected {
        assert!(said.contains(text), "{command:?} does not say {text:?}:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// `amop pub` at an address with the certificates of a directory.
fn publish(address: &str, certs: &Path) -> Command {
    let mut command = program(&["pub", "t", "x", "-n", address, "-C"]);
    command.arg(certs);
    command
}

fn sdk(profile: Profile) -> PathBuf {
    host_dir(profile).join("sdk")
}

fn start(profile: Profile, more: &str) -> Process {
    Process::start_with(&host_dir(profile).join("node0/conf"), profile == Profile::Rsa, more)
}

const ADMIN: &str = "[admin]\nlisten_port=0\n";

#[test]
fn a_port_that_is_not_for_applications_is_told_by_what_it_is() {
    let node = start(Profile::Ec, ADMIN);
    let rsa = start(Profile::Rsa, "");
    let plain = start(Profile::Ec, "[tls]\nchannel_plaintext=true\n");
    let (p2p, admin) = (node.p2p.to_string(), node.admin.unwrap().to_string());
    let certs = sdk(Profile::Ec);
    let p2p_port = ["this is the p2p port of a node", "channel_listen_port", "not its [p2p] listen_port"];
    says(&mut publish(&p2p, &certs), 1, &p2p_port);
    says(program(&["sub", "t", "-n", &p2p, "-C"]).arg(&certs), 1, &p2p_port);
    says(program(&["bench", "-n", &p2p, "-C"]).arg(&certs), 1, &p2p_port);
    let p2p_or_profile = ["certificate is EC, and ca.crt here is RSA", "p2p port", "rsa_crypto_channel"];
    says(&mut publish(&rsa.p2p.to_string(), &sdk(Profile::Rsa)), 1, &p2p_or_profile);
    let admin_port = ["HTTP is spoken there", "[admin] port of a node", "channel_listen_port"];
    says(&mut publish(&admin, &certs), 1, &admin_port);
    says(program(&["bench", "-n", &admin, "-C"]).arg(&certs), 1, &admin_port);
    // TLS where there is none, and none where there is TLS.
    let no_tls = ["closed before a certificate was shown", "channel_plaintext"];
    says(&mut publish(&plain.channel.to_string(), &certs), 1, &no_tls);
    let channel = node.channel.to_string();
    says(&mut program(&["bench", "--plaintext", "-n", &channel]), 1, &["channel_plaintext"]);
}

#[test]
fn certificates_that_do_not_go_together_are_told_by_what_is_wrong_with_them() {
    let (node, rsa) = (start(Profile::Ec, ""), start(Profile::Rsa, ""));
    let (channel, rsa_channel) = (node.channel.to_string(), rsa.channel.to_string());
    let dir = tempfile::tempdir().unwrap();
    // Another chain.
    let plan = NetworkPlan { profile: Profile::Ec, days: 365, ..NetworkPlan::default() };
    build_network(&plan, &dir.path().join("nodes")).unwrap();
    let other = dir.path().join("nodes/127.0.0.1/sdk");
    let chain = ["nothing leads from there to ca.crt here", "take ca.crt, sdk.crt and sdk.key"];
    says(&mut publish(&channel, &other), 1, &chain);
    // Ours as root, and a certificate of the other one.
    let mixed = dir.path().join("mixed");
    fs::create_dir(&mixed).unwrap();
    for (from, file) in [(&other, "sdk.crt"), (&other, "sdk.key"), (&sdk(Profile::Ec), "ca.crt")] {
        fs::copy(from.join(file), mixed.join(file)).unwrap();
    }
    says(
        &mut publish(&channel, &mixed),
        1,
        &["the node does not take sdk.crt", "does not chain to these roots"],
    );
    // The other profile, both ways.
    says(
        &mut publish(&rsa_channel, &sdk(Profile::Ec)),
        1,
        &["certificate is RSA, and ca.crt here is EC", "nodes/…/sdk"],
    );
    says(&mut publish(&channel, &sdk(Profile::Rsa)), 1, &["certificate is EC, and ca.crt here is RSA"]);
    // One of ours that has expired, and a node's.
    let agency = network_files(Profile::Ec).join("nodes/cert/agency");
    let authority = Authority::load(&agency.join("agency.crt"), &agency.join("agency.key")).unwrap();
    let now = SystemTime::now();
    let past = Validity { not_before: now - 2 * DAY, not_after: now - DAY };
    for kind in ["sdk", "node"] {
        let conf = dir.path().join(kind);
        write_pair(&conf, kind, &authority.leaf(kind, kind, past).unwrap(), &[&authority.issued]).unwrap();
        fs::copy(agency.join("ca.crt"), conf.join("ca.crt")).unwrap();
    }
    says(
        &mut publish(&channel, &dir.path().join("sdk")),
        1,
        &["sdk.crt, which has expired on", "amop pki sdk"],
    );
    let expired = Process::start(&dir.path().join("node"), false);
    says(
        &mut publish(&expired.channel.to_string(), &sdk(Profile::Ec)),
        1,
        &["the node's certificate, or one above it, has expired", "renewed there", "clock"],
    );
    says(
        &mut publish(&channel, &dir.path().join("nothing")),
        1,
        &["holds no ca.crt, sdk.crt and sdk.key", "nodes/127.0.0.1/sdk"],
    );
}

#[test]
fn an_address_where_nobody_is_is_told_by_why_nobody_is_there() {
    let nobody = Nobody::new();
    let certs = sdk(Profile::Ec);
    says(
        &mut publish(&nobody.address(), &certs),
        1,
        &["nobody listens there", "whether the node runs", "20200"],
    );
    says(&mut publish("no..such.name:20200", &certs), 1, &["the name does not resolve", "how it is written"]);
    says(&mut publish("localhost", &certs), 1, &["it must be host:port"]);
    let address = nobody.address();
    says(
        &mut program(&["net", "--admin", &address]),
        1,
        &["is the node running, is [admin] listen_port set"],
    );
    says(&mut program(&["top", "--once", "--admin", "127.0.0.1"]), 2, &["it must be host:port"]);
    let node = start(Profile::Ec, "");
    for port in [node.channel, node.p2p] {
        let port = port.to_string();
        says(
            &mut program(&["net", "--admin", &port]),
            1,
            &["does not speak HTTP", "is it the [admin] port of a node?"],
        );
    }
}

#[test]
fn what_cannot_be_sent_or_kept_is_told_with_its_bound() {
    let node = start(Profile::Ec, "[amop]\nframe_len_max=4194304\n");
    let channel = node.channel.to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("long");
    let send = |len: u64, expected: &[&str]| {
        fs::File::create(&file).unwrap().set_len(len).unwrap();
        let mut command = program(&["pub", "t", "-n", &channel, "-C"]);
        says(command.arg(sdk(Profile::Ec)).arg("--file").arg(&file), 1, expected);
    };
    send(5 << 20, &["more than one message carries", "[amop] frame_len_max of the node"]);
    send(2 << 30, &["more than the", "bytes that one message to this topic carries at any node"]);
    let mut missing = program(&["pub", "t", "--file", "/no/such/file", "-n", &channel, "-C"]);
    says(missing.arg(sdk(Profile::Ec)), 1, &["/no/such/file: No such file or directory"]);
    says(&mut publish(&channel, &sdk(Profile::Ec)), 3, &["100", "no node can receive it"]);
    let mut twice = program(&["sub", "t", "t", "-n", &channel, "-C"]);
    says(twice.arg(sdk(Profile::Ec)), 2, &["the topic \"t\" is named twice", "once"]);
    says(
        program(&["sub", "a\tb", "-n", &channel, "-C"]).arg(sdk(Profile::Ec)),
        1,
        &["is not a topic", "no tab"],
    );

    // A disk that is full.
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "trap '' XFSZ; ulimit -f 1; exec \"$@\"",
        "sh",
        PROGRAM,
        "sub",
        "files",
        "--count",
        "1",
    ]);
    shell.args(["-n", &channel, "-C"]).arg(sdk(Profile::Ec)).arg("--save").arg(dir.path());
    let subscriber =
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, vec![7; 20_000]).unwrap();
    // Until it is subscribed, the answer is 100.
    crate::support::wait_until("the file came, and its sender is told", || {
        let mut command = program(&["pub", "files", "-n", &channel, "-C"]);
        let sent = output(command.arg(sdk(Profile::Ec)).arg("--file").arg(&file));
        String::from_utf8_lossy(&sent.stdout).contains("the file could not be written")
    });
    let ended = subscriber.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("File too large"), "{ended:?}");
}

#[test]
fn a_key_file_that_cannot_be_opened_is_told_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let keys = |arguments: &[&str], password: &str| {
        let mut command = program(&["keys"]);
        command.args(arguments).env("AMOP_KEY_PASSWORD", password).current_dir(dir.path());
        command
    };
    assert!(output(&mut keys(&["new", "--format", "p12"], "right")).status.success());
    let key = fs::read_dir(dir.path().join("accounts")).unwrap().map(|entry| entry.unwrap().path());
    let key = key.into_iter().find(|path| path.extension().is_some_and(|end| end == "p12")).unwrap();
    says(&mut keys(&["show", key.to_str().unwrap()], "wrong"), 1, &[".p12", "password"]);
    says(&mut keys(&["show", "missing.pem"], ""), 1, &["missing.pem: No such file"]);
}

#[test]
fn a_configuration_that_is_not_meant_so_is_refused_with_what_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let config = |listen: [SocketAddr; 2], more: &str| write_config(dir.path(), &conf, false, listen, more);
    let path = config([ANY; 2], "[amop]\nframe_len_maxx=4194304\n");
    says(
        program(&["node", "--check", "--strict", "-c"]).arg(path),
        78,
        &["frame_len_maxx", "frame_len_max", "config.ini"],
    );
    let path = config([ANY; 2], "[amop]\nframe_len_max=4 MB\n");
    says(program(&["node", "-c"]).arg(path), 78, &["[amop] frame_len_max", "4 MB"]);
    let taken = TcpListener::bind(ANY).unwrap();
    let path = config([taken.local_addr().unwrap(), ANY], "");
    says(program(&["node", "--check", "-c"]).arg(&path), 78, &["channel_listen_port", "in use"]);
    says(
        program(&["node", "-c"]).arg(&path),
        1,
        &["channel_listen_port", "in use", "is another node running"],
    );
    // Two nodes with one key.
    let node = TestNode::start(Profile::Ec, 0, &[], "");
    let path = config([ANY; 2], &format!("node.0={}\n", node.node().p2p_address()));
    let said = output(program(&["node", "--check", "-c"]).arg(&path));
    let said = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
    assert!(said.contains("this node itself"), "{said}");
    says(program(&["node", "-c"]).arg(dir.path().join("none.ini")), 1, &["none.ini", "No such file"]);
}

#[test]
fn a_demo_whose_node_cannot_start_shows_at_once_what_that_says() {
    // A few files are enough for the demo, and not for a node.
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 28; exec \"$0\" demo", PROGRAM]);
    says(&mut shell, 1, &["a node of the demo could not start", "Too many open files"]);
}
