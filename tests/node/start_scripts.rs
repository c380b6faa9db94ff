//! The scripts that `amop pki network` makes: they tell the truth about their node, and touch no other process.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use amop::internal::pki::{Host, NetworkPlan, Profile, build_network};

use crate::support::{
    self, ReservedPort,
    process::{PROGRAM, output, output_of},
};

/// A network whose directory's name needs quotes.
struct Network {
    dir: tempfile::TempDir,
    channels: Vec<u16>,
    _ports: Vec<ReservedPort>,
}

impl Network {
    fn new(nodes: u16) -> Self {
        let dir = tempfile::Builder::new().prefix("amop test ' \" $x ").tempdir().unwrap();
        let hosts = vec![Host { address: "127.0.0.1".to_owned(), nodes }];
        let plan = NetworkPlan {
            hosts,
            listen_ip: "127.0.0.1".to_owned(),
            days: 1,
            profile: Profile::Ec,
            ..NetworkPlan::default()
        };
        build_network(&plan, &dir.path().join("nodes")).unwrap();
        let reserved: Vec<_> = (0..2 * nodes).map(|_| ReservedPort::new()).collect();
        let ports: Vec<u16> = reserved.iter().map(|port| port.address().port()).collect();
        let (channels, p2p) = ports.split_at(nodes.into());
        let network = Self { channels: channels.to_vec(), _ports: reserved, dir };
        for index in 0..nodes {
            let config = network.node(index).join("config.ini");
            let mut text = fs::read_to_string(&config).unwrap();
            let mut change = |from: String, to: String| text = text.replace(&from, &to);
            let channel = |port: u16| format!("channel_listen_port={port}\n");
            change(channel(plan.channel_port + index), channel(channels[usize::from(index)]));
            for other in 0..nodes {
                for mark in [" listen_port=", ":"] {
                    let line = |port: u16| format!("{mark}{port}\n");
                    change(line(plan.p2p_port + other), line(p2p[usize::from(other)]));
                }
            }
            fs::write(&config, text).unwrap();
        }
        network
    }

    fn host(&self) -> PathBuf {
        self.dir.path().join("nodes/127.0.0.1")
    }

    fn node(&self, index: u16) -> PathBuf {
        self.host().join(format!("node{index}"))
    }

    fn pid(&self, index: u16) -> Option<u32> {
        fs::read_to_string(self.node(index).join("amop.pid")).ok()?.trim().parse().ok()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        run(&self.host().join("stop_all.sh"));
    }
}

fn script(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.env("AMOP", PROGRAM).stdin(Stdio::null());
    command
}

fn run(path: &Path) -> Output {
    output(&mut script(path))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/cwd")).exists() && fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
}

#[test]
fn nodes_that_are_started_are_up_and_those_that_are_stopped_are_gone() {
    let network = Network::new(2);
    let started = run(&network.host().join("start_all.sh"));
    assert!(started.status.success(), "{}", said(&started));
    let pids = [0, 1].map(|index| network.pid(index).unwrap());
    for (index, pid) in pids.into_iter().enumerate() {
        assert!(said(&started).contains(&format!("node{index}: started, pid {pid}")), "{}", said(&started));
        // It is up: who connects is let in.
        std::net::TcpStream::connect(("127.0.0.1", network.channels[index])).unwrap();
    }
    let again = run(&network.node(0).join("start.sh"));
    assert!(again.status.success() && said(&again) == format!("running already, pid {}\n", pids[0]));
    // By any way to the script.
    let stopped = output(script(Path::new("./stop.sh")).current_dir(network.node(0)));
    assert!(stopped.status.success() && said(&stopped).contains("stopped"), "{}", said(&stopped));
    assert!(!lives(pids[0]) && lives(pids[1]));
    assert!(!network.node(0).join("amop.pid").exists() && !network.node(0).join("amop.up").exists());
    let stopped = run(&network.host().join("stop_all.sh"));
    assert!(stopped.status.success(), "{}", said(&stopped));
    assert!(said(&stopped).contains("node0: not running") && said(&stopped).contains("node1: stopped"));
    assert!(!lives(pids[1]));
}

#[test]
fn a_node_that_cannot_start_is_not_said_to_have_started() {
    let network = Network::new(2);
    let (first, config) = (network.node(0), network.node(0).join("config.ini"));
    let text = fs::read_to_string(&config).unwrap();
    let holder = TcpListener::bind(("127.0.0.1", network.channels[0])).unwrap();
    let refused = run(&first.join("start.sh"));
    assert!(
        !refused.status.success() && said(&refused).contains("[rpc] channel_listen_port"),
        "{}",
        said(&refused)
    );
    // What an earlier start has logged is not the reason.
    fs::write(&config, "[p2p]\nlisten_port=x\n").unwrap();
    let refused = run(&first.join("start.sh"));
    assert!(
        said(&refused).contains("must be a number") && !said(&refused).contains("channel_listen_port"),
        "{}",
        said(&refused)
    );
    let status = output(Command::new(PROGRAM).args(["node", "-c"]).arg(&config)).status;
    assert_eq!(refused.status.code(), status.code(), "the node's own status is passed on");
    assert!(network.pid(0).is_none(), "nothing is left");
    drop(holder);
    let all = run(&network.host().join("start_all.sh"));
    assert_eq!(all.status.code(), Some(1), "{}", said(&all));
    assert!(said(&all).contains("node1: started"), "the others are started all the same: {}", said(&all));
    fs::write(&config, text).unwrap();
    assert!(run(&first.join("start.sh")).status.success());
}

#[test]
fn a_node_that_is_not_up_yet_is_waited_for_by_whoever_starts_it_again() {
    let network = Network::new(1);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = network.node(0).join("config.ini");
    let text = fs::read_to_string(&config).unwrap();
    let peer = format!("[p2p]\nnode.9={}\n", silent.local_addr().unwrap());
    fs::write(&config, text.replace("[p2p]\n", &peer) + "[amop]\nready_timeout_ms=600000\n").unwrap();
    let start = network.node(0).join("start.sh");
    let spawn = |mut command: Command| command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let first = spawn(script(&start));
    support::wait_until("it runs", || network.pid(0).is_some());
    let dialed = silent.accept().unwrap();
    // Whether the second waits is seen by its calling this.
    let programs = network.dir.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let sleep = programs.join("sleep");
    fs::write(&sleep, "#!/bin/sh\n: >>\"$(dirname -- \"$0\")/slept\"\nexec /bin/sleep \"$1\"\n").unwrap();
    fs::set_permissions(&sleep, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut second = script(&start);
    let path = std::env::var("PATH").unwrap();
    second.env("PATH", format!("{}:{path}", programs.display()));
    let second = spawn(second);
    support::wait_until("the second waits", || programs.join("slept").exists());
    drop((dialed, silent));
    let (first, second) = (output_of(first), output_of(second));
    assert!(first.status.success() && said(&first).contains("started, pid"), "{}", said(&first));
    assert!(second.status.success() && said(&second).contains("running already"), "{}", said(&second));
    assert!(network.node(0).join("amop.up").exists());
}

#[test]
fn a_log_that_cannot_be_written_is_a_failure_of_the_start() {
    let network = Network::new(1);
    fs::create_dir(network.node(0).join("amop.log")).unwrap();
    for shell in ["sh", "dash", "bash"] {
        let Ok(child) = script(Path::new(shell))
            .arg(network.node(0).join("start.sh"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            continue;
        };
        assert_eq!(output_of(child).status.code(), Some(1), "{shell}");
    }
}

#[test]
fn without_the_program_nothing_is_said_to_have_started() {
    let network = Network::new(1);
    for name in ["start_all.sh", "node0/start.sh"] {
        let refused = output(script(&network.host().join(name)).env("AMOP", "/nonexistent/amop"));
        assert!(
            !refused.status.success() && said(&refused).contains("there is no program"),
            "{}",
            said(&refused)
        );
    }
}

/// A process that is none of ours, which has a node's old number.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn somebody_elses_process_is_neither_taken_for_the_node_nor_ended() {
    let network = Network::new(1);
    let dir = network.node(0);
    for arguments in [
        &["-c", "read line"][..],
        // It looks like the node to whoever looks at its arguments.
        &["-c", "read line", "node", "-c", "config.ini", "--pid-file", "amop.pid", "--up-file", "amop.up"],
    ] {
        let mut command = Command::new("sh");
        command.args(arguments).current_dir(&dir).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut other = Other(command.spawn().unwrap());
        let number = format!("{}\n", other.0.id());
        for file in ["amop.pid", "amop.up"] {
            fs::write(dir.join(file), &number).unwrap();
        }
        let stopped = run(&dir.join("stop.sh"));
        assert!(stopped.status.success() && said(&stopped).contains("not running"), "{}", said(&stopped));
        assert!(other.0.try_wait().unwrap().is_none(), "it was ended");
        let started = run(&dir.join("start.sh"));
        assert!(started.status.success() && said(&started).contains("started, pid"), "{}", said(&started));
        assert_ne!(network.pid(0), Some(other.0.id()));
        assert!(run(&dir.join("stop.sh")).status.success());
        assert!(other.0.try_wait().unwrap().is_none(), "it was ended");
    }
}

#[test]
fn a_node_that_was_killed_can_be_started_again() {
    let network = Network::new(1);
    let start = network.node(0).join("start.sh");
    assert!(run(&start).status.success());
    let pid = network.pid(0).unwrap();
    let process = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    support::wait_until("it is gone", || !lives(pid));
    let stopped = run(&network.node(0).join("stop.sh"));
    assert!(stopped.status.success() && said(&stopped) == "not running\n", "{}", said(&stopped));
    let started = run(&start);
    assert!(started.status.success(), "{}", said(&started));
    assert_ne!(network.pid(0), Some(pid));
    // A second one by hand is refused, and takes nothing from the first.
    let node =
        |arguments: &[&str]| output(Command::new(PROGRAM).args(arguments).current_dir(network.node(0)));
    let second = node(&["node", "-c", "config.ini", "--pid-file", "amop.pid", "--up-file", "amop.up"]);
    assert!(!second.status.success() && said(&second).contains("stop it first"), "{}", said(&second));
    assert!(run(&start).status.success() && network.node(0).join("amop.up").exists());
}
