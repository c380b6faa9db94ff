//! The files of FISCO BCOS 3.x for applications: made by the program, named by `[cert]`, and checked.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
};

use amop::internal::pki::{Layout, NetworkPlan, build_network};

use crate::support::{
    host_dir_3x,
    process::{PROGRAM, Process, output, write_config},
};

fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = output(command);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout) + &text(stderr))
}

fn check(config: &Path) -> (Option<i32>, String) {
    run(Command::new(PROGRAM).args(["node", "--check", "--strict", "-c"]).arg(config))
}

#[test]
fn a_network_in_the_layout_of_3x_starts_as_it_was_made_and_lets_its_applications_in() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("nodes");
    let made = |more: &[&str]| {
        run(Command::new(PROGRAM).args(["pki", "network", "--layout", "3.x", "-o"]).arg(&out).args(more))
    };
    let (status, said) = made(&["--profile", "ec"]);
    assert!(status == Some(1) && said.contains("RSA certificates only") && !out.exists(), "{said}");
    let (status, said) = made(&[]);
    assert_eq!(status, Some(0), "{said}");
    let host = out.join("127.0.0.1");
    for file in
        ["node0/conf/ssl.crt", "node0/conf/ssl.key", "node0/conf/ca.crt", "sdk/sdk.crt", "sdk/sdk.key"]
    {
        assert!(host.join(file).is_file(), "{file}");
    }
    let pem = fs::read(host.join("sdk/sdk.crt")).unwrap();
    let certificates = amop::internal::tls::identity::certificates(&pem, Path::new("sdk.crt")).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&certificates[0]).unwrap();
    assert_eq!(leaf.version(), x509_parser::x509::X509Version::V3);

    // Its own configuration, but for the ports.
    let config = host.join("node0/config.ini");
    let text = fs::read_to_string(&config).unwrap();
    let text = text
        .replace("listen_port=20200", "listen_port=0")
        .replace("listen_port=30300", "listen_port=0")
        .replace("0.0.0.0", "127.0.0.1")
        .replace("[log]", "[log]\nformat=json");
    let peers: String =
        text.lines().filter(|line| !line.contains("node.")).map(|line| format!("{line}\n")).collect();
    fs::write(&config, peers).unwrap();
    let (status, said) = check(&config);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("applications of FISCO BCOS 2.x and 3.x with RSA certificates of"), "{said}");
    let node = Process::run(&config);
    let published = |certificates: &Path| {
        let arguments = ["pub", "nobody", "x", "-n", &node.channel.to_string(), "-c"];
        run(Command::new(PROGRAM).args(arguments).arg(certificates))
    };
    let (_, said) = published(&host.join("sdk"));
    assert!(said.contains("100"), "a node answers: {said}");
    // An application of another chain, and one with what nodes prove themselves with.
    for stranger in [host_dir_3x().join("sdk"), as_application(&host.join("node1/conf/node_cert"))] {
        let (_, said) = published(&stranger);
        assert!(!said.contains("100"), "{}: {said}", stranger.display());
    }
}

/// The files of a node under an application's names.
fn as_application(conf: &Path) -> std::path::PathBuf {
    let dir = conf.join("as-application");
    fs::create_dir(&dir).unwrap();
    for (from, to) in [("node.crt", "sdk.crt"), ("node.key", "sdk.key"), ("ca.crt", "ca.crt")] {
        fs::copy(conf.join(from), dir.join(to)).unwrap();
    }
    dir
}

#[test]
fn check_tells_which_applications_certificates_fit() {
    let host = host_dir_3x();
    let conf = host.join("node0/conf");
    let dir = tempfile::tempdir().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let checked = |certificates: &Path| {
        let more = format!("[cert]\nca_path={}\n", certificates.display());
        check(&write_config(dir.path(), &conf.join("node_cert"), false, [any; 2], &more))
    };
    let (status, said) = checked(&conf);
    assert!(status == Some(0) && said.contains("2.x and 3.x with RSA"), "{said}");
    let config = write_config(dir.path(), &conf.join("node_cert"), false, [any; 2], "");
    let (status, said) = check(&config);
    assert!(status == Some(0) && said.contains("those of 3.x have RSA certificates, for which"), "{said}");

    // A certificate of another chain than the roots beside it, and one that is missing.
    let mixed = dir.path().join("mixed");
    fs::create_dir(&mixed).unwrap();
    for name in ["ssl.crt", "ssl.key"] {
        fs::copy(conf.join(name), mixed.join(name)).unwrap();
    }
    let other = dir.path().join("other");
    build_network(&NetworkPlan { layout: Layout::V3, days: 365, ..NetworkPlan::default() }, &other).unwrap();
    fs::copy(other.join("127.0.0.1/sdk/ca.crt"), mixed.join("ca.crt")).unwrap();
    let (status, said) = checked(&mixed);
    assert!(status == Some(78) && said.contains("mixed/ssl.crt: the channel's certificate"), "{said}");
    fs::remove_file(mixed.join("ssl.key")).unwrap();
    let (status, said) = checked(&mixed);
    assert!(status == Some(78) && said.contains("mixed/ssl.key"), "{said}");
}
