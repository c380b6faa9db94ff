//! The program where few files may be open: it ends with an error that says so, or it is up and lets others in.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
};

use amop::internal::pki::Profile;

use crate::support::{
    self,
    process::{self, Process},
};

/// With fewer not even a program can be loaded; with more there are always enough.
const LIMITS: std::ops::RangeInclusive<u32> = 6..=64;

#[test]
fn a_node_with_too_few_files_says_so_and_ends_and_one_that_is_up_lets_others_in() {
    let conf = support::host_dir(Profile::Ec).join("node0/conf");
    let (mut refused, mut up) = (0, 0);
    for limit in LIMITS {
        let dir = tempfile::tempdir().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let more = "[admin]\nlisten_port=0\n[engine]\nreactors=1\nreceive_buffers=64\n";
        let config = process::write_config(dir.path(), &conf, false, [any; 2], more);
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", process::PROGRAM, "node", "-c"]).arg(&config);
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        match Process::come_up(child) {
            Ok(node) => {
                up += 1;
                let admin = node.admin.expect("the endpoint is configured");
                assert_eq!(support::get(admin, "/readyz").0, 200, "{limit} files");
                let mut socket = TcpStream::connect(node.channel).unwrap();
                socket.set_read_timeout(Some(support::BOUND)).unwrap();
                socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
                let mut alert = [0];
                assert_eq!(
                    socket.read(&mut alert).unwrap(),
                    1,
                    "{limit} files: TLS refuses HTTP by an alert"
                );
                assert_eq!(node.stop(), Some(0));
            }
            Err((mut child, log)) => {
                refused += 1;
                assert_eq!(child.wait().unwrap().code(), Some(1), "{limit} files: {log}");
                let says = log.contains("Too many open files") || log.contains("too few files may be open");
                assert!(says && !log.contains("panic"), "{limit} files: {log}");
            }
        }
    }
    assert!(refused > 0 && up > 0, "{refused} {up}");
}
