//! Nodes of a chain of national cryptography, as `build_chain.sh -g` lays them out: SM2 keys for the ledger, which nobody reads here,
//! standard TLS for applications, and a secp256k1 certificate in `conf/origin_cert` by which nodes of this kind know each other (INTEROP §4).

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use amop::internal::{pki::Profile, tls::identity::Identity, wire::ResultCode};

use crate::support::{
    BOUND, client_at, host_dir,
    process::{PROGRAM, Process, output, write_config},
    runtime, wait_until,
};

/// The directory of a node, moved to where such chains have it.
fn conf_of(dir: &Path, profile: Profile, index: usize) -> PathBuf {
    let (from, conf) =
        (host_dir(profile).join(format!("node{index}/conf")), dir.join(format!("node{index}/conf")));
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        for name in ["ca.crt", "node.crt", "node.key"] {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    };
    copy(&from, &conf.join("origin_cert"));
    if profile == Profile::Rsa {
        copy(&from.join("channel_cert"), &conf.join("channel_cert"));
    }
    for name in ["gmca.crt", "gmnode.crt", "gmnode.key", "gmennode.crt", "gmennode.key"] {
        fs::write(conf.join(name), "of SM2, and read by nobody\n").unwrap();
    }
    conf
}

/// A configuration as it is made for such chains, on ports of the kernel's choice; `more` begins in `[p2p]`.
fn config_of(dir: &Path, conf: &Path, profile: Profile, more: &str) -> PathBuf {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = write_config(dir, conf, profile == Profile::Rsa, [any; 2], more);
    let text = fs::read_to_string(&config).unwrap();
    let text = text
        .replace(
            "[network_security]\n",
            "[network_security]\nkey=gmnode.key\ncert=gmnode.crt\nca_cert=gmca.crt\n",
        )
        .replace("[chain]\n", "[chain]\nsm_crypto=true\nsm_crypto_channel=false\n");
    fs::write(&config, text).unwrap();
    config
}

fn check(config: &Path) -> (Option<i32>, String) {
    let output = output(Command::new(PROGRAM).args(["node", "--check", "-c"]).arg(config));
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn nodes_of_such_a_chain_link_and_serve_applications_with_standard_tls() {
    for profile in [Profile::Rsa, Profile::Ec] {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = [0, 1].map(|index| conf_of(dir.path(), profile, index));
        let admin = "[admin]\nlisten_port=0\n";
        let first = Process::run(&config_of(dir.path(), &one, profile, admin));
        let more = format!("node.0={}\n{admin}", first.p2p);
        let config = config_of(dir.path(), &other, profile, &more);
        let (status, said) = check(&config);
        let id = Identity::load(&other.join("origin_cert/node.crt"), &other.join("origin_cert/node.key"));
        let id = id.unwrap().node_id().unwrap().to_hex();
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains(&format!("origin_cert/node.crt; node id {id}")), "{said}");
        let second = Process::run(&config);
        wait_until("they are linked", || first.admin_json("/nodes")["items"][0]["id"] == id.as_str());
        runtime().block_on(async {
            let (subscriber, mut messages) = client_at(profile, vec![first.channel.to_string()]).await;
            subscriber.subscribe(&["t"]).await.unwrap();
            let (publisher, _) = client_at(profile, vec![second.channel.to_string()]).await;
            tokio::task::block_in_place(|| wait_until("it is known", || second.subscribers("t") == 1));
            tokio::spawn(async move {
                while let Some(message) = messages.recv().await {
                    subscriber.respond(&message, b"yes").await;
                }
            });
            let answer = publisher.request("t", b"?", BOUND).await.unwrap();
            assert_eq!((answer.code, &answer.payload[..]), (ResultCode::OK, &b"yes"[..]));
        });
    }
}

#[test]
fn what_such_a_chain_cannot_have_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let conf = conf_of(dir.path(), Profile::Rsa, 0);
    let config = config_of(dir.path(), &conf, Profile::Rsa, "");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("sm_crypto_channel=false", "sm_crypto_channel=true")).unwrap();
    let (status, said) = check(&config);
    assert!(status == Some(78) && said.contains("take nodes/…/sdk instead of nodes/…/sdk/gm"), "{said}");
    // Lists of the ledger hold SM2 keys, and would leave everybody out.
    let more = format!("[certificate_whitelist]\ncal.0={}\n", "ab".repeat(64));
    let (status, said) = check(&config_of(dir.path(), &conf, Profile::Rsa, &more));
    assert!(status == Some(0) && said.contains("not by the SM2 keys"), "{said}");
    let config = config_of(dir.path(), &conf, Profile::Rsa, "");
    fs::rename(conf.join("origin_cert/node.crt"), conf.join("origin_cert/node.crt.bak")).unwrap();
    let (status, said) = check(&config);
    assert!(
        status == Some(78) && said.contains("which build_chain.sh -g leaves in conf/origin_cert"),
        "{said}"
    );
}

/// The first message of an SDK that is configured with `sdk/gm`, as the OpenSSL of FISCO BCOS 2.x makes it: TLS 1.2 by its numbers, and
/// ECDHE-SM4-SM3 as its only cipher suite.
fn hello_of_national_tls() -> Vec<u8> {
    let extensions =
        [&[0, 10, 0, 4, 0, 2, 0, 41][..], &[0, 13, 0, 4, 0, 2, 7, 3], &[0, 11, 0, 2, 1, 0]].concat();
    let random = [7; 32];
    let body = [
        &[3, 3][..],
        &random,
        &[0, 0, 2, 0xe0, 0x11, 1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

#[test]
fn an_application_with_the_tls_of_such_a_chain_is_told_which_files_to_take() {
    let dir = tempfile::tempdir().unwrap();
    let conf = conf_of(dir.path(), Profile::Rsa, 0);
    let node = Process::run(&config_of(dir.path(), &conf, Profile::Rsa, ""));
    let mut socket = TcpStream::connect(node.channel).unwrap();
    socket.write_all(&hello_of_national_tls()).unwrap();
    wait_until("the log tells it", || {
        node.logged("the handshake of an application failed").iter().any(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            text("remedy").contains("instead of the files in nodes/…/sdk/gm") && text("cause") == "not_tls"
        })
    });
}
