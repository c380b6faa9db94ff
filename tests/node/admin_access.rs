//! Who may ask the admin endpoint of a real node: by its socket, and over TLS with the token.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use amop::internal::{config::Config, node::Node, pki::Profile};

use crate::support::{self, TestNode, process};

const TOKEN: &str = "a-token-that-nobody-guesses";

fn run(arguments: &[&str], admin: Option<&str>) -> Output {
    let mut command = Command::new(process::PROGRAM);
    command.env_remove("AMOP_ADMIN");
    if let Some(admin) = admin {
        command.env("AMOP_ADMIN", admin);
    }
    process::output(command.args(arguments))
}

/// What a command says that must succeed.
fn said(arguments: &[&str], admin: Option<&str>) -> String {
    let output = run(arguments, admin);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command says that must fail.
fn refused(arguments: &[&str]) -> String {
    let output = run(arguments, None);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn commands_ask_a_node_by_its_socket_which_only_its_user_may_write_to_and_which_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let node = TestNode::start(Profile::Ec, 0, &[], &format!("[admin]\nlisten_path={}\n", path.display()));
    assert_eq!(node.node().admin_address(), None);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut probe = UnixStream::connect(&path).unwrap();
    probe.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let text = path.to_str().unwrap();
    for (argument, variable) in
        [(Some(text), None), (None, Some(text)), (None, Some(&*format!("unix:{text}")))]
    {
        let arguments: Vec<&str> =
            ["net"].into_iter().chain(argument.iter().flat_map(|a| ["--admin", *a])).collect();
        assert!(said(&arguments, variable).contains(&node.node().id().to_hex()[..8]));
    }
    let announced = run(&["net", "announce", "by the socket"], Some(text));
    let told = String::from_utf8(announced.stdout).unwrap();
    assert!(told.contains("no other node can be reached now"), "{told}");
    node.stop();
    assert!(!path.exists());
    assert!(refused(&["net", "--admin", text]).contains("is this its [admin] listen_path"));
    assert!(refused(&["net"]).contains("--admin"));
}

/// A certificate for 127.0.0.1 that is its own authority, and the token.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = "[req]\ndistinguished_name=name\nx509_extensions=all\n[name]\n[all]\n\
            subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n";
        fs::write(dir.path().join("openssl.cnf"), config).unwrap();
        fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
        fs::write(dir.path().join("wrong"), "another-token-0123456789\n").unwrap();
        let files = Self { dir };
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-subj", "/CN=admin", "-days", "30", "-config"])
            .arg(files.path("openssl.cnf"))
            .arg("-keyout")
            .arg(files.path("key"))
            .arg("-out")
            .arg(files.path("cert"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn configuration(&self, keys: &[&str]) -> String {
        let all = [("token_file", "token"), ("tls_cert", "cert"), ("tls_key", "key")];
        let chosen = all.iter().filter(|(key, _)| keys.contains(key));
        let lines: String = chosen.map(|(key, name)| format!("{key}={}\n", self.text(name))).collect();
        format!("[admin]\nlisten_ip=0.0.0.0\nlisten_port=0\n{lines}")
    }
}

/// Why a node does not start.
fn start_error(more: &str) -> (String, bool) {
    let text = format!(
        "[rpc]\nchannel_listen_ip=127.0.0.1\nchannel_listen_port=0\n[p2p]\nlisten_ip=127.0.0.1\nlisten_port=0\n{more}"
    );
    let dir = support::host_dir(Profile::Ec).join("node0");
    let (config, _) = Config::parse(&text, Path::new(&dir)).unwrap();
    let error = Node::start(config).err().expect("it does not start");
    (error.to_string(), error.is_configuration())
}

#[test]
fn a_node_does_not_listen_for_others_without_tls_and_a_token() {
    if !support::have("openssl", "version") {
        return;
    }
    let files = Files::new();
    for keys in [&[][..], &["token_file"], &["tls_cert", "tls_key"]] {
        let (error, is_configuration) = start_error(&files.configuration(keys));
        assert!(
            error.contains("so it needs TLS and a token: set tls_cert, tls_key and token_file"),
            "{error}"
        );
        assert!(is_configuration);
    }
    fs::write(files.path("token"), "short\n").unwrap();
    let (error, _) = start_error(&files.configuration(&["token_file", "tls_cert", "tls_key"]));
    assert!(
        error.starts_with(&format!("[admin] token_file = {}: a token is", files.text("token"))),
        "{error}"
    );
    fs::write(files.path("token"), TOKEN).unwrap();
    fs::copy(files.path("key"), files.path("cert")).unwrap();
    let (error, _) = start_error(&files.configuration(&["token_file", "tls_cert", "tls_key"]));
    assert!(error.contains("there is no certificate in PEM"), "{error}");
}

#[test]
fn others_need_tls_and_the_token_and_those_who_say_nothing_keep_nobody_waiting() {
    if !support::have("openssl", "version") {
        return;
    }
    let files = Files::new();
    let more = files.configuration(&["token_file", "tls_cert", "tls_key"]);
    let node = TestNode::start(Profile::Ec, 0, &[], &more);
    let port = node.node().admin_address().unwrap().port();
    let (admin, cert) = (format!("127.0.0.1:{port}"), files.text("cert"));
    let (token, wrong) = (files.text("token"), files.text("wrong"));
    let id = node.node().id().to_hex();
    let with = ["net", "--admin", &admin, "--admin-ca", &cert, "--admin-token-file", &token];
    let stuck: Vec<TcpStream> = (0..150)
        .map(|index| {
            let mut socket = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            // Nothing, or the beginning of a ClientHello.
            socket.write_all(&[22, 3, 1, 2, 0, 1][..index % 2 * 6]).unwrap();
            socket
        })
        .collect();
    assert!(said(&with, None).contains(&id[..8]));
    drop(stuck);
    for without in
        [&with[..5], &["net", "--admin", &admin, "--admin-ca", &cert, "--admin-token-file", &wrong]]
    {
        let error = refused(without);
        assert!(error.contains("401") && error.contains("--admin-token-file FILE"), "{error}");
    }
    let error = refused(&["net", "--admin", &admin, "--admin-token-file", &token]);
    assert!(error.contains("does it want TLS, --admin-ca FILE?"), "{error}");
    let of_others = support::host_dir(Profile::Ec).join("node0/conf/ca.crt").display().to_string();
    let error = refused(&["net", "--admin", &admin, "--admin-ca", &of_others, "--admin-token-file", &token]);
    assert!(error.contains("is not trusted over TLS"), "{error}");
}
