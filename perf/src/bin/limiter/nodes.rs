//! Two nodes as processes of the built program, linked over TLS on loopback.

use std::{
    error::Error,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use amop::internal::{
    pki::{NetworkPlan, Profile, build_network},
    tls::{
        config::client_config,
        identity::{Identity, Roots},
        settings::TlsSettings,
    },
};
use rustls::ClientConfig;

const LINKED_WITHIN: Duration = Duration::from_secs(20);

/// Certificates for two nodes and for applications.
pub(super) struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    pub(super) fn make() -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::Builder::new().prefix("amop-limiter-").tempdir()?;
        let plan = NetworkPlan { profile: Profile::Rsa, days: 2, ..NetworkPlan::default() };
        build_network(&plan, &dir.path().join("nodes"))?;
        Ok(Self { dir })
    }

    fn host(&self) -> PathBuf {
        self.dir.path().join("nodes/127.0.0.1")
    }

    /// What applications connect with.
    pub(super) fn application(&self) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
        let dir = self.host().join("sdk");
        let identity = Identity::load(&dir.join("sdk.crt"), &dir.join("sdk.key"))?;
        Ok(client_config(&identity, &Roots::load(&dir.join("ca.crt"))?, &TlsSettings::default())?)
    }
}

/// A node's process.
pub(super) struct Node {
    child: Child,
    pub(super) channel: SocketAddr,
    p2p: SocketAddr,
    admin: SocketAddr,
}

impl Node {
    /// Starts the node of that number, which dials `peer`, and waits until it is up.
    pub(super) fn start(
        program: &Path,
        files: &Files,
        number: usize,
        reactors: u16,
        peer: Option<&Self>,
        more: &str,
    ) -> Result<Self, Box<dyn Error>> {
        let node = files.host().join(format!("node{number}"));
        let dial = peer.map_or(String::new(), |peer| format!("node.0={}\n", peer.p2p));
        let config = node.join("limiter.ini");
        fs::write(
            &config,
            format!(
                "[chain]\nrsa_crypto_channel=true\n[log]\nformat=json\n[rpc]\nchannel_listen_ip=127.0.0.1\nchannel_listen_port=0\n\
                 [engine]\nreactors={reactors}\n[admin]\nlisten_port=0\n\
                 [p2p]\nlisten_ip=127.0.0.1\nlisten_port=0\n{dial}{more}"
            ),
        )?;
        let mut child =
            Command::new(program).arg("node").arg("-c").arg(&config).stderr(Stdio::piped()).spawn()?;
        let log = child.stderr.take().ok_or("no log")?;
        let mut lines = BufReader::new(log).lines().map_while(Result::ok);
        let (mut admin, mut listening, mut said) = (None, None, String::new());
        for line in lines.by_ref() {
            let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let address = |name: &str| value["fields"][name].as_str()?.parse().ok();
            if value["fields"]["message"] == "the admin endpoint is open" {
                admin = address("address");
            }
            if let (Some(channel), Some(p2p)) = (address("channel"), address("p2p")) {
                listening = Some((channel, p2p));
                break;
            }
            said.push_str(&line);
        }
        // It must go on being read.
        std::thread::spawn(move || lines.for_each(drop));
        match (listening, admin) {
            (Some((channel, p2p)), Some(admin)) => Ok(Self { child, channel, p2p, admin }),
            _ => {
                let _ = child.kill();
                Err(format!("a node does not come up: {said}").into())
            }
        }
    }

    /// What the admin endpoint says.
    pub(super) fn admin(&self, path: &str) -> Result<String, Box<dyn Error>> {
        let mut socket = TcpStream::connect(self.admin)?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").ok_or("no answer of the admin endpoint")?.1.to_owned())
    }

    /// Waits until it knows so many subscribers of a topic, on any node.
    pub(super) fn wait_for_subscribers(&self, topic: &str, count: u64) -> Result<(), Box<dyn Error>> {
        let end = Instant::now() + LINKED_WITHIN;
        while Instant::now() < end {
            let topics: serde_json::Value = serde_json::from_str(&self.admin("/topics")?)?;
            let known = topics["items"].as_array().into_iter().flatten().find(|item| item["name"] == topic);
            if known.and_then(|item| item["remote_sessions"].as_u64()) == Some(count) {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Err("the nodes do not find each other".into())
    }

    /// Bytes that came over links to nodes, as TLS records.
    pub(super) fn received_from_nodes(&self) -> Result<u64, Box<dyn Error>> {
        let links: serde_json::Value = serde_json::from_str(&self.admin("/links")?)?;
        let of_nodes = links["items"].as_array().into_iter().flatten().filter(|link| link["kind"] == "node");
        Ok(of_nodes.filter_map(|link| link["received_bytes"].as_u64()).sum())
    }

    /// Processor time so far in seconds.
    pub(super) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of a process in seconds, user and system.
pub(super) fn cpu_seconds(pid: u32) -> f64 {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let time = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (time(11) + time(12)) / ticks
}
