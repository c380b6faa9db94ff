//! A network that starts, works and stops says nothing that anybody would have to look after.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use amop::internal::pki::{NetworkPlan, build_network};

use crate::support::{ReservedPort, process, wait_until};

const NODES: usize = 4;

struct Network {
    dir: tempfile::TempDir,
    configs: Vec<PathBuf>,
    _ports: Vec<[ReservedPort; 2]>,
    nodes: Vec<Option<Child>>,
}

impl Network {
    /// Nodes that each name all of them, as `build_chain.sh` and `amop pki network` write it; none runs.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Not those of other tests, which expire soon, so that nodes warn of it.
        let plan = NetworkPlan::default();
        build_network(&plan, &dir.path().join("nodes")).unwrap();
        let ports: Vec<[ReservedPort; 2]> =
            (0..NODES).map(|_| [(); 2].map(|()| ReservedPort::new())).collect();
        let listens: Vec<[SocketAddr; 2]> =
            ports.iter().map(|ports| ports.each_ref().map(ReservedPort::address)).collect();
        let peers: String =
            listens.iter().enumerate().map(|(index, [_, p2p])| format!("node.{index}={p2p}\n")).collect();
        let configs = listens.iter().enumerate().map(|(index, &listen)| {
            let conf = dir.path().join(format!("nodes/127.0.0.1/node{index}/conf"));
            let own = dir.path().join(format!("node{index}"));
            std::fs::create_dir(&own).unwrap();
            process::write_config(&own, &conf, true, listen, &peers)
        });
        let configs = configs.collect();
        Self { dir, configs, _ports: ports, nodes: (0..NODES).map(|_| None).collect() }
    }

    fn log(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("log{node}"))
    }

    fn start(&mut self, node: usize) {
        let log = File::options().append(true).create(true).open(self.log(node)).unwrap();
        let child = Command::new(process::PROGRAM)
            .args(["node", "-c"])
            .arg(&self.configs[node])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.nodes[node] = Some(child);
    }

    /// Waits until a node has had so many links to others since it was first started.
    fn wait_for_links(&self, node: usize, count: usize) {
        wait_until("the nodes are linked", || {
            lines(&self.log(node)).iter().filter(|line| line["fields"]["message"] == "node link up").count()
                >= count
        });
    }

    fn signal(&self, node: usize, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.nodes[node].as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn wait_for_end(&mut self, node: usize) {
        assert!(self.nodes[node].take().unwrap().wait().unwrap().success());
    }

    /// What somebody would have to look after.
    fn alarms(&self) -> Vec<String> {
        let logs = (0..NODES).map(|node| self.log(node)).filter(|log| log.exists());
        let lines = logs.flat_map(|log| lines(&log));
        let alarms = lines.filter(|line| matches!(line["level"].as_str().unwrap(), "WARN" | "ERROR"));
        alarms.map(|line| line.to_string()).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

fn lines(log: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    // The last one may be half written. Whatever else is no JSON, a panic perhaps, is an alarm of its own.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let other = |line: &str| serde_json::json!({ "level": "ERROR", "fields": { "message": line } });
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| other(line))).collect()
}

#[test]
fn a_network_that_starts_restarts_a_node_and_stops_warns_of_nothing() {
    let mut network = Network::new();
    for node in 0..NODES {
        network.start(node);
    }
    for node in 0..NODES {
        network.wait_for_links(node, NODES - 1);
    }
    network.signal(1, rustix::process::Signal::TERM);
    network.wait_for_end(1);
    network.start(1);
    network.wait_for_links(1, 2 * (NODES - 1));
    for node in [0, 2, 3] {
        network.wait_for_links(node, NODES);
    }
    // One after the other, as scripts do it, and the rest at once.
    network.signal(0, rustix::process::Signal::TERM);
    network.wait_for_end(0);
    for node in 1..NODES {
        network.signal(node, rustix::process::Signal::TERM);
    }
    for node in 1..NODES {
        network.wait_for_end(node);
    }
    assert_eq!(network.alarms(), [""; 0]);
}

#[test]
fn a_node_that_is_killed_is_warned_of() {
    let mut network = Network::new();
    for node in [0, 1] {
        network.start(node);
    }
    for node in [0, 1] {
        network.wait_for_links(node, 1);
    }
    network.signal(1, rustix::process::Signal::KILL);
    wait_until("it is warned of", || {
        network.alarms().iter().any(|line| line.contains("node link down") && line.contains("see"))
    });
}
