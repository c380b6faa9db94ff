//! What `amop node --check` says of the ledger nodes and the peers of a configuration: which they are, or what is wrong and what to
//! change.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use amop::internal::{
    pki::{Authority, NetworkPlan, Profile, Validity, build_network, write_pair},
    tls::{
        config::server_config,
        identity::{Identity, Roots},
        settings::TlsSettings,
        verify::IssuerPolicy,
    },
};

use crate::support::{
    TestNode, get, host_dir,
    ledger::{ScriptedLedger, SharedChain},
    network_files,
    peer_2x::ScriptedPeer,
    process::{PROGRAM, output, write_config},
};

/// Checks a configuration with ledger nodes at `addresses`, with the SDK certificates in a directory. Gives the status, and all
/// that was said.
fn check(certificates: &Path, addresses: &[SocketAddr], more: &[&str]) -> (Option<i32>, String) {
    check_with(&format!("[ledger]\ncertificates={}\n{}", certificates.display(), nodes(addresses)), more)
}

fn nodes(addresses: &[SocketAddr]) -> String {
    addresses.iter().enumerate().map(|(number, address)| format!("node.{number}={address}\n")).collect()
}

/// The same with these lines, the first of them for `[p2p]`.
fn check_with(text: &str, more: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let conf = host_dir(Profile::Ec).join("node0/conf");
    let config = write_config(dir.path(), &conf, false, [any; 2], text);
    let output = output(Command::new(PROGRAM).args(["node", "--check", "-c"]).arg(config).args(more));
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), said)
}

fn sdk(profile: Profile) -> PathBuf {
    host_dir(profile).join("sdk")
}

/// Another chain, as others make it.
fn other_chain(profile: Profile) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let plan = NetworkPlan { profile, days: 365, ..NetworkPlan::default() };
    build_network(&plan, &dir.path().join("nodes")).unwrap();
    dir
}

/// The files of the network's first node as a ledger node with a certificate of another time.
fn conf_of_time(dir: &Path, validity: Validity) {
    let agency = network_files(Profile::Ec).join("nodes/cert/agency");
    let authority = Authority::load(&agency.join("agency.crt"), &agency.join("agency.key")).unwrap();
    write_pair(dir, "node", &authority.leaf("node0", "node", validity).unwrap(), &[&authority.issued])
        .unwrap();
    fs::copy(agency.join("ca.crt"), dir.join("ca.crt")).unwrap();
}

/// Somebody who makes one handshake in the name of the network's node, says `greeting` and then nothing.
fn speaker(profile: Profile, greeting: &'static [u8]) -> SocketAddr {
    let dir = host_dir(profile).join("node1/conf");
    let identity = Identity::load(&dir.join("node.crt"), &dir.join("node.key")).unwrap();
    let roots = Roots::load(&dir.join("ca.crt")).unwrap();
    let tls = server_config(&identity, &roots, &TlsSettings::default(), IssuerPolicy::default()).unwrap();
    let config: Arc<rustls::ServerConfig> = tls.serving(true);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(config).unwrap();
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        stream.write_all(greeting).unwrap();
        let mut rest = [0; 1_024];
        while stream.read(&mut rest).is_ok_and(|read| read > 0) {}
    });
    address
}

#[test]
fn a_ledger_node_that_is_ready_is_told_with_its_version_chain_and_groups() {
    for profile in [Profile::Ec, Profile::Rsa] {
        let chain = SharedChain::default();
        let ledgers = [1, 2].map(|index| ScriptedLedger::start(profile, index, &chain, None));
        let (status, said) = check(&sdk(profile), &ledgers.each_ref().map(|one| one.address), &["--strict"]);
        assert_eq!(status, Some(0), "{said}");
        for ledger in &ledgers {
            let line = format!("ledger node {}: FISCO BCOS 2.10.3, chain 7, groups 1\n", ledger.address);
            assert!(said.contains(&line), "{said}");
        }
        assert!(said.contains("can be used") && !said.contains("warning"), "{said}");
    }
}

#[test]
fn that_messages_go_by_a_ledger_node_is_told_and_without_one_refused() {
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(Profile::Ec, 1, &chain, None);
    let certificates = sdk(Profile::Ec);
    let section = format!("[ledger]\namop=true\ncertificates={}\n", certificates.display());
    let (status, said) = check_with(&format!("{section}{}", nodes(&[ledger.address])), &["--strict"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("chain 7, groups 1; messages go by it, too\n"), "{said}");
    let (status, said) = check_with(&section, &[]);
    assert_eq!(status, Some(78), "{said}");
    assert!(said.contains("[ledger] amop = true needs [ledger] node.0"), "{said}");
}

#[test]
fn a_ledger_node_that_is_not_ready_is_a_warning_since_the_node_starts_without() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(Profile::Ec, 1, &chain, None);
    let addresses = [nobody, ledger.address];
    let (status, said) = check(&sdk(Profile::Ec), &addresses, &[]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains(&format!("warning: ledger node {nobody}: Connection refused")), "{said}");
    assert!(said.contains("channel_listen_port"), "{said}");
    assert!(said.contains(&format!("ledger node {}: FISCO BCOS 2.10.3", ledger.address)), "{said}");
    assert_eq!(check(&sdk(Profile::Ec), &addresses, &["--strict"]).0, Some(78));
}

#[test]
fn a_group_whose_allowlist_leaves_this_node_out_is_told_with_the_key_to_add() {
    let chain = SharedChain::default();
    chain.lock().allowlist = Some([].into());
    let ledger = ScriptedLedger::start(Profile::Ec, 1, &chain, None);
    let (status, said) = check(&sdk(Profile::Ec), &[ledger.address], &[]);
    assert_eq!(status, Some(0), "{said}");
    let dir = sdk(Profile::Ec);
    let key = Identity::load(&dir.join("sdk.crt"), &dir.join("sdk.key")).unwrap().node_id().unwrap();
    assert!(said.contains("group 1 has an [sdk_allowlist]") && said.contains(&key.to_hex()), "{said}");
}

#[test]
fn what_one_node_has_presented_is_not_told_of_the_next_that_presents_nothing() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    std::thread::spawn(move || {
        mute.incoming().for_each(|socket| drop(socket.map(|mut one| one.write_all(b"no TLS"))))
    });
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(Profile::Ec, 1, &chain, None);
    let (_, said) = check(&sdk(Profile::Ec), &[ledger.address, address], &[]);
    let line = said.lines().find(|line| line.starts_with(&format!("warning: ledger node {address}: ")));
    assert!(line.is_some_and(|line| !line.contains("its certificate is of")), "{said}");
    let own = TestNode::start(Profile::Ec, 0, &[], "");
    let peers = nodes(&[own.node().p2p_address(), address]);
    let (_, said) = check_with(&peers, &[]);
    assert!(said.contains(&format!("[p2p] {}: this node itself", own.node().p2p_address())), "{said}");
    assert!(!said.contains(&format!("[p2p] {address}: this node itself")), "{said}");
}

/// What is told, without the name of what was found, of a ledger node that cannot be used.
fn remedy(certificates: &Path, address: SocketAddr) -> String {
    let (status, said) = check(certificates, &[address], &[]);
    assert_eq!(status, Some(0), "{said}");
    let line = said.lines().find(|line| line.starts_with(&format!("warning: ledger node {address}: ")));
    line.unwrap_or_else(|| panic!("no warning: {said}")).to_owned()
}

#[test]
fn certificates_of_the_other_profile_or_another_chain_are_told_as_that() {
    let chain = SharedChain::default();
    let [ec, rsa] =
        [Profile::Ec, Profile::Rsa].map(|profile| ScriptedLedger::start(profile, 1, &chain, None));
    let said = remedy(&sdk(Profile::Ec), rsa.address);
    assert!(said.contains("its channel is RSA and ca.crt of [ledger] certificates is EC"), "{said}");
    let said = remedy(&sdk(Profile::Rsa), ec.address);
    assert!(said.contains("it is EC and ca.crt of [ledger] certificates is RSA"), "{said}");
    assert!(said.contains("[p2p] listen_port"), "{said}");
    for (profile, ledger) in [(Profile::Ec, &ec), (Profile::Rsa, &rsa)] {
        let other = other_chain(profile);
        let said = remedy(&other.path().join("nodes/127.0.0.1/sdk"), ledger.address);
        assert!(said.contains("another chain: take ca.crt, sdk.crt and sdk.key"), "{said}");
    }
}

#[test]
fn an_sdk_certificate_that_the_ledger_node_refuses_is_told_as_that() {
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(Profile::Ec, 1, &chain, None);
    // Its roots are those of both chains, and the certificate is of the wrong one.
    let other = other_chain(Profile::Ec);
    let dir = other.path().join("nodes/127.0.0.1/sdk");
    let ours = fs::read_to_string(sdk(Profile::Ec).join("ca.crt")).unwrap();
    let theirs = fs::read_to_string(dir.join("ca.crt")).unwrap();
    fs::write(dir.join("ca.crt"), theirs + &ours).unwrap();
    let said = remedy(&dir, ledger.address);
    assert!(said.contains("does not take sdk.crt of [ledger] certificates"), "{said}");
}

#[test]
fn a_certificate_out_of_its_time_is_told_with_this_machines_clock() {
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3_600));
    for (not_before, not_after, expected) in [
        (
            now - 48 * hour,
            now - hour,
            "renew it there, unless the clock of this machine is wrong, which shows 2",
        ),
        (now + hour, now + 48 * hour, "set the clock of this machine, which shows 2"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        conf_of_time(dir.path(), Validity { not_before, not_after });
        let ledger = ScriptedLedger::start_of(dir.path(), &SharedChain::default(), None);
        let said = remedy(&sdk(Profile::Ec), ledger.address);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn ports_of_another_kind_are_told_as_that() {
    let p2p = "this is the p2p port of a node of FISCO BCOS 2.x; let [ledger] node.N name the [rpc] channel_listen_port";
    // As INTEROP §2.1 has it: SendTopicSeq, right after TLS.
    let said = remedy(&sdk(Profile::Ec), speaker(Profile::Ec, b"\0\0\0\x11\0\0\0\0\0\x02\0\x01\0\0\0\x007"));
    assert!(said.contains(p2p), "{said}");
    let said = remedy(&sdk(Profile::Ec), speaker(Profile::Ec, b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    assert!(said.contains("as FISCO BCOS 3.x does"), "{said}");
    let said = remedy(&sdk(Profile::Ec), speaker(Profile::Ec, b""));
    assert!(said.contains("nothing answers for 5 s"), "{said}");
    let node = TestNode::start(Profile::Ec, 1, &[], "");
    let said = remedy(&sdk(Profile::Ec), node.node().p2p_address());
    assert!(said.contains("the p2p port of a node of amop"), "{said}");
    let said = remedy(&sdk(Profile::Ec), node.node().channel_address());
    assert!(said.contains("a node of this kind answers there"), "{said}");
    // JSON-RPC over HTTP.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.read_exact(&mut [0; 64]).unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = socket.read(&mut [0; 1]);
    });
    let said = remedy(&sdk(Profile::Ec), address);
    assert!(said.contains("HTTP") && said.contains("channel_listen_port"), "{said}");
}

#[test]
fn peers_are_told_as_what_they_are_and_those_that_are_away_are_no_fault() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let other = TestNode::start(Profile::Ec, 1, &[], "");
    // With the key of the configuration that is checked.
    let own = TestNode::start(Profile::Ec, 0, &[], "[admin]\nlisten_port=0\n");
    let [peer, itself] = [&other, &own].map(|node| node.node().p2p_address());
    let fisco_bcos = ScriptedPeer::start(2, None);
    let (status, said) = check_with(&nodes(&[peer, itself, nobody, fisco_bcos.address]), &["--strict"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains(&format!("[p2p] {}: a node of FISCO BCOS 2.x, ", fisco_bcos.address)), "{said}");
    assert!(said.contains(&format!("[p2p] {peer}: a node of this kind, ")), "{said}");
    assert!(said.contains(&format!("[p2p] {itself}: this node itself")), "{said}");
    assert!(said.contains(&format!("[p2p] {nobody}: nobody is there now: Connection refused")), "{said}");
    let (_, metrics) = get(own.node().admin_address().unwrap(), "/metrics");
    assert!(metrics.contains("\namop_door_own_key_elsewhere_total 0\n"), "nobody is alarmed by a check");
}

#[test]
fn peers_that_are_none_are_told_as_what_they_are() {
    let other = TestNode::start(Profile::Ec, 1, &[], "");
    let channel = other.node().channel_address();
    let chain = SharedChain::default();
    let rsa = ScriptedLedger::start(Profile::Rsa, 1, &chain, None);
    let (status, said) = check_with(&nodes(&[channel, rsa.address]), &[]);
    assert_eq!(status, Some(0), "{said}");
    let of = |address: SocketAddr| {
        let line = said.lines().find(|line| line.starts_with(&format!("warning: [p2p] {address}: ")));
        line.unwrap_or_else(|| panic!("no warning: {said}"))
    };
    assert!(of(channel).contains("not its [rpc] channel_listen_port"), "{said}");
    assert!(of(rsa.address).contains("unknown_authority"), "{said}");
}
