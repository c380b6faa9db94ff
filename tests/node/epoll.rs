//! The node where io_uring cannot be had: forbidden by a filter of system calls, as in a container with Docker's own profile, or
//! not there, as on an old kernel.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use amop::{
    client::Client,
    internal::{pki::Profile, wire::ResultCode},
};

use crate::support::{
    self, BOUND, client_at, have, host_dir,
    process::{PROGRAM, Process, output, write_config},
    runtime,
};

/// How it is taken away, and what the node says of it.
const WAYS: [(&[&str], &str); 2] = [
    (&[], "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0"),
    (&["--old-kernel"], "Linux 6.0 or newer is needed"),
];

fn without_io_uring(options: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/without-io-uring");
    let mut command = Command::new("python3");
    command.arg(script).args(options).arg(PROGRAM);
    command
}

/// A configuration with more lines; the engine is as it is by default, whatever other tests run on.
fn config(dir: &Path, more: &str) -> PathBuf {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let config = write_config(dir, &host_dir(Profile::Rsa).join("node0/conf"), true, [any; 2], more);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen(&support::io_line(), "", 1)).unwrap();
    config
}

fn said(Output { status, stdout, stderr }: Output) -> (Option<i32>, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout) + &text(stderr))
}

/// Once the node knows who subscribes.
async fn answer(publisher: &Client, payload: &[u8]) -> Vec<u8> {
    loop {
        let answer = publisher.request("t", payload, BOUND).await.unwrap();
        if answer.code == ResultCode::OK {
            return answer.payload.to_vec();
        }
        assert_eq!(answer.code, ResultCode::NO_RECEIVER);
    }
}

#[test]
fn a_node_without_io_uring_runs_on_epoll_says_so_once_and_carries_messages() {
    if !have("python3", "--version") {
        return;
    }
    for (options, why) in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "[admin]\nlisten_port=0\n");
        let child =
            without_io_uring(options).args(["node", "-c"]).arg(&config).stderr(Stdio::piped()).spawn();
        let node = Process::come_up(child.unwrap()).unwrap_or_else(|(_, log)| panic!("{options:?}: {log}"));
        let log = node.before_up();
        assert_eq!(log.matches("io_uring cannot be had").count(), 1, "{log}");
        assert!(log.contains(why) && log.contains(r#""io":"epoll""#), "{log}");
        let metrics = support::get(node.admin.unwrap(), "/metrics").1;
        assert!(metrics.contains(r#"amop_engine_info{io="epoll"} 1"#), "{metrics}");
        runtime().block_on(async {
            let addresses = vec![node.channel.to_string()];
            let (subscriber, mut messages) = client_at(Profile::Rsa, addresses.clone()).await;
            let (publisher, _) = client_at(Profile::Rsa, addresses).await;
            subscriber.subscribe(&["t"]).await.unwrap();
            let answering = tokio::spawn(async move {
                while let Some(message) = messages.recv().await {
                    subscriber.respond(&message, &message.payload).await;
                }
            });
            // Short, and of many records.
            for len in [1, 300_000, 20] {
                assert_eq!(answer(&publisher, &vec![7; len]).await, vec![7; len], "{options:?}");
            }
            answering.abort();
        });
        assert_eq!(node.stop(), Some(0));
    }
}

#[test]
fn who_asks_for_io_uring_gets_no_node_without_it_and_who_asks_for_epoll_hears_no_warning() {
    if !have("python3", "--version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), "[engine]\nio=io_uring\n");
    let (status, text) = said(output(without_io_uring(&[]).args(["node", "-c"]).arg(&file)));
    assert!(status == Some(1) && text.contains("io_uring is forbidden here"), "{status:?} {text}");
    let check = |options: &[&str], file: &Path| {
        said(output(without_io_uring(options).args(["node", "--check", "--strict", "-c"]).arg(file)))
    };
    let (status, text) = check(&[], &file);
    assert!(status != Some(0) && text.contains("io_uring is forbidden here"), "{text}");
    for (options, why) in WAYS {
        let (status, text) = check(options, &config(dir.path(), ""));
        assert!(
            status != Some(0) && text.contains("links would be on epoll") && text.contains(why),
            "{text}"
        );
    }
    let (status, text) = check(&[], &config(dir.path(), "[engine]\nio=epoll\n"));
    assert!(status == Some(0) && text.contains("links are on epoll"), "{text}");
}

#[test]
fn a_node_is_measured_without_io_uring_too() {
    if !have("python3", "--version") {
        return;
    }
    let node = Process::start_with(&host_dir(Profile::Rsa).join("node0/conf"), true, "");
    let address = node.channel.to_string();
    let certificates = host_dir(Profile::Rsa).join("sdk");
    let arguments = ["bench", "-n", &address, "--json", "--seconds", "1", "--warm-up", "0"];
    let bench = output(without_io_uring(&[]).args(arguments).arg("-c").arg(certificates));
    let (status, text) = said(bench);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains(r#""is_clean":true"#), "{text}");
}
