//! The kit of the tests over real TLS and real sockets.
#![allow(unreachable_pub)] // a module of several test programs

pub mod ledger;
pub mod listener;
pub mod peer_2x;
pub mod process;
pub mod web_socket;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use amop::{
    client::{Certificates, Client, ClientOptions, Dialect, Messages},
    internal::{
        pki::{Layout, NetworkPlan, Profile, build_network},
        wire::{
            ResultCode,
            sdk::{self, FrameType, Seq},
        },
    },
};

/// No healthy run comes near it: the nodes of a test run on the same processors.
pub const BOUND: Duration = Duration::from_secs(30);

/// What the nodes of this run are on, as a line of their configuration: `AMOP_IO=epoll` has all of them run on epoll.
pub fn io_line() -> String {
    std::env::var("AMOP_IO").map(|io| format!("io={io}\n")).unwrap_or_default()
}

/// A configuration with that line.
pub fn with_io(text: &str) -> String {
    let (section, line) = ("[engine]\n", io_line());
    match text.contains(section) || line.is_empty() {
        true => text.replacen(section, &format!("{section}{line}"), 1),
        false => format!("{text}\n{section}{line}"),
    }
}

/// A network's files, made once per run and test program for each profile.
pub fn network_files(profile: Profile) -> &'static Path {
    static RSA: OnceLock<tempfile::TempDir> = OnceLock::new();
    static EC: OnceLock<tempfile::TempDir> = OnceLock::new();
    let (cell, name) = match profile {
        Profile::Rsa => (&RSA, "rsa"),
        Profile::Ec => (&EC, "ec"),
    };
    let dir = cell.get_or_init(|| {
        let dir =
            tempfile::Builder::new().prefix(&format!("amop-test-{name}-")).tempdir().expect("a directory");
        let plan = NetworkPlan { profile, days: 365, ..NetworkPlan::default() };
        build_network(&plan, &dir.path().join("nodes")).expect("certificates");
        dir
    });
    dir.path()
}

/// `nodes/127.0.0.1` of a network in the layout of FISCO BCOS 3.x.
pub fn host_dir_3x() -> PathBuf {
    static FILES: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = FILES.get_or_init(|| {
        let dir = tempfile::Builder::new().prefix("amop-test-3x-").tempdir().expect("a directory");
        let plan = NetworkPlan { layout: Layout::V3, days: 365, ..NetworkPlan::default() };
        build_network(&plan, &dir.path().join("nodes")).expect("certificates");
        dir
    });
    dir.path().join("nodes/127.0.0.1")
}

/// `nodes/127.0.0.1` of the network's files.
pub fn host_dir(profile: Profile) -> PathBuf {
    network_files(profile).join("nodes/127.0.0.1")
}

/// A node of this process, on ports of the kernel's choice.
pub struct TestNode {
    node: Option<amop::internal::node::Node>,
}

impl TestNode {
    /// Starts the `index`th node of the network's files with `peers` and further configuration.
    pub fn start(profile: Profile, index: usize, peers: &[&TestNode], more: &str) -> Self {
        Self::start_with(profile, index, peers, more, |_| {})
    }

    /// The same, with what no configuration file can set.
    pub fn start_with(
        profile: Profile,
        index: usize,
        peers: &[&TestNode],
        more: &str,
        change: impl FnOnce(&mut amop::internal::config::Config),
    ) -> Self {
        let node = Self::starting(profile, index, peers, more, change);
        wait_until("applications are let in", || node.node().is_ready());
        node
    }

    /// The same, of a node that need not let applications in yet.
    pub fn starting(
        profile: Profile,
        index: usize,
        peers: &[&TestNode],
        more: &str,
        change: impl FnOnce(&mut amop::internal::config::Config),
    ) -> Self {
        let dir = host_dir(profile).join(format!("node{index}"));
        let mut text = format!(
            "[chain]\nrsa_crypto_channel={}\n[rpc]\nchannel_listen_ip=127.0.0.1\nchannel_listen_port=0\n\
             [engine]\nreactors=2\nreceive_buffers=64\n[p2p]\nlisten_ip=127.0.0.1\nlisten_port=0\n",
            profile == Profile::Rsa
        );
        for (number, peer) in peers.iter().enumerate() {
            text.push_str(&format!("node.{number}={}\n", peer.node().p2p_address()));
        }
        text.push_str(more);
        let (mut config, warnings) =
            amop::internal::config::Config::parse(&with_io(&text), &dir).expect("a valid configuration");
        assert_eq!(warnings, []);
        change(&mut config);
        Self { node: Some(amop::internal::node::Node::start(config).expect("the node starts")) }
    }

    pub fn node(&self) -> &amop::internal::node::Node {
        self.node.as_ref().expect("the node runs")
    }

    pub fn stop(mut self) {
        self.node.take().expect("the node runs").stop();
    }

    /// Waits until the node has exactly these neighbours.
    pub fn wait_for_neighbours(&self, others: &[&TestNode]) {
        let mut wanted: Vec<_> = others.iter().map(|other| other.node().id()).collect();
        wanted.sort();
        wait_until("the neighbours are there", || {
            *self.node().shared().snapshot.load().neighbours == *wanted.as_slice()
        });
    }

    /// Waits until the node knows so many subscribers of a topic.
    pub fn wait_for_subscribers(&self, topic: &str, count: u32) {
        wait_until("the subscribers are known", || {
            let snapshot = self.node().shared().snapshot.load();
            let known = snapshot.topic(topic).map_or(0, |entry| {
                let own: u32 = entry.reactors.iter().map(|(_, count)| count).sum();
                own + entry.nodes.iter().map(|(_, count)| count).sum::<u32>()
            });
            known == count
        });
    }

    /// Waits until the node knows so many subscribers of a private topic, by its data topic.
    pub fn wait_for_private_subscribers(&self, data: &str, count: usize) {
        wait_until("the private topic's subscribers are known", || {
            let snapshot = self.node().shared().snapshot.load();
            let known = snapshot.private(data).map_or(0, |entry| {
                entry.own.len() + entry.nodes.iter().map(|(_, sessions)| sessions.len()).sum::<usize>()
            });
            known == count
        });
    }

    pub fn total(&self, counter: impl Fn(&amop::internal::relay::counters::Counters) -> u64) -> u64 {
        self.node().shared().counters.iter().map(|counters| counter(counters)).sum()
    }
}

/// The runtime of a test's applications.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// An application that is connected to nodes.
pub async fn client(profile: Profile, nodes: &[&TestNode]) -> (Client, Messages) {
    let addresses = nodes.iter().map(|node| node.node().channel_address().to_string());
    client_at(profile, addresses.collect()).await
}

/// The same by addresses.
pub async fn client_at(profile: Profile, nodes: Vec<String>) -> (Client, Messages) {
    client_speaking(Dialect::V2, profile, nodes).await
}

/// The same in a dialect.
pub async fn client_speaking(dialect: Dialect, profile: Profile, nodes: Vec<String>) -> (Client, Messages) {
    let certificates = Certificates::load(&host_dir(profile).join("sdk")).unwrap();
    Client::connect(ClientOptions { nodes, certificates, connect_timeout: BOUND, dialect }).await.unwrap()
}

/// What an admin endpoint says: status and body.
pub fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(address).expect("the endpoint is open");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
}

/// Looks again and again, within a bound that no healthy run comes near.
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_until_within(BOUND, Duration::from_millis(1), what, holds);
}

/// The same within another bound, with pauses of another length.
pub fn wait_until_within(bound: Duration, pause: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + bound;
    while !holds() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::park_timeout(pause);
    }
}

/// An address where connections are refused: it is taken, and nobody listens.
pub struct Nobody(socket2::Socket);

impl Nobody {
    pub fn new() -> Self {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&any.into()).unwrap();
        Self(socket)
    }

    pub fn address(&self) -> String {
        self.0.local_addr().unwrap().as_socket().unwrap().to_string()
    }
}

/// A port that nobody else gets, and on which a node of this machine may listen again and again.
pub struct ReservedPort(socket2::Socket);

impl ReservedPort {
    pub fn new() -> Self {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        // Both may take the address as long as only one listens there.
        socket.set_reuse_address(true).unwrap();
        socket.bind(&any.into()).unwrap();
        Self(socket)
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

/// An application without a certificate.
#[derive(Debug)]
pub struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// The seq of a number.
pub fn seq(number: u64) -> Seq {
    format!("{number:032}").into_bytes().try_into().expect("32 digits")
}

/// What subscribes to topics.
pub fn subscription(topics: &[&str]) -> Vec<u8> {
    let topics = serde_json::to_vec(topics).expect("strings");
    sdk::encode(FrameType::SUBSCRIBE, &seq(0), ResultCode::OK, &topics)
}

/// Whether a program is there; if not, that is an error only where interoperation is required.
pub fn have(program: &str, argument: &str) -> bool {
    let there = Command::new(program).arg(argument).output().is_ok();
    let required = std::env::var_os("AMOP_INTEROP_REQUIRED").is_some();
    let package = match program {
        "javac" => "openjdk-17-jdk-headless",
        "mvn" => "maven",
        program => program,
    };
    assert!(there || !required, "{program} is needed here: install it (Debian: apt-get install {package})");
    if !there {
        println!("skipped: no {program} on this machine");
    }
    there
}

/// What applications of the network's files connect with.
pub fn application_config(profile: Profile) -> std::sync::Arc<rustls::ClientConfig> {
    use amop::internal::tls::{config::client_config, identity, settings::TlsSettings};
    let dir = host_dir(profile).join("sdk");
    let identity = identity::Identity::load(&dir.join("sdk.crt"), &dir.join("sdk.key")).expect("an identity");
    let roots = identity::Roots::load(&dir.join("ca.crt")).expect("roots");
    client_config(&identity, &roots, &TlsSettings::default()).expect("a configuration")
}

/// An application that says exactly what a test tells it to, and sees every record.
pub struct RawSdk {
    pub socket: std::net::TcpStream,
    pub sealer: amop::internal::tls::record::Sealer,
    opener: amop::internal::tls::record::Opener,
    received: Vec<u8>,
    /// What the node said with the end of the handshake.
    plaintext: Vec<u8>,
}

impl RawSdk {
    pub fn connect(profile: Profile, node: &TestNode) -> Self {
        let app = Self::connect_with(application_config(profile), node.node().channel_address())
            .expect("the node lets it in");
        assert_eq!(app.plaintext, b"", "a node never speaks first to an application");
        app
    }

    pub fn connect_with(
        config: std::sync::Arc<rustls::ClientConfig>,
        address: std::net::SocketAddr,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        Self::connect_over(config, std::net::TcpStream::connect(address)?)
    }

    pub fn connect_over(
        config: std::sync::Arc<rustls::ClientConfig>,
        mut socket: std::net::TcpStream,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
        let established = amop::internal::load::shake_hands(&mut socket, &config)?;
        Ok(Self {
            socket,
            sealer: established.sealer,
            opener: established.opener,
            received: established.received,
            plaintext: established.plaintext,
        })
    }

    /// Sends bytes as one record, or several if they are many.
    pub fn send(&mut self, bytes: &[u8]) {
        let record = self.seal(bytes);
        use std::io::Write;
        self.socket.write_all(&record).expect("the node reads");
    }

    pub fn subscribe(&mut self, topics: &[&str]) {
        self.send(&subscription(topics));
    }

    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut records = Vec::new();
        for piece in bytes.chunks(amop::internal::tls::record::PLAINTEXT_LEN_MAX) {
            let data = amop::internal::tls::record::ContentType::ApplicationData;
            self.sealer.seal(data, &[piece], &mut records).expect("fresh keys");
        }
        records
    }

    /// The plaintext of the next record; `None` once the node has closed.
    pub fn record(&mut self) -> Option<Vec<u8>> {
        use std::io::Read;

        use amop::internal::tls::record::{Opened, record_len};
        if !self.plaintext.is_empty() {
            return Some(std::mem::take(&mut self.plaintext));
        }
        loop {
            if let Some(len) = record_len(&self.received).expect("nodes send records")
                && len <= self.received.len()
            {
                let mut record: Vec<u8> = self.received.drain(..len).collect();
                match self.opener.open_in_place(&mut record).expect("nodes send good records") {
                    Opened::Data(data) => return Some(data.to_vec()),
                    Opened::Nothing => continue,
                    Opened::CloseNotify => return None,
                }
            }
            let mut buffer = [0; 65_536];
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                // By what the kernel still does for a ring that this thread has made.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next frame; checks that it starts a record and shares none, as SDKs need it (WIRE §1.7).
    pub fn frame(&mut self) -> Option<Vec<u8>> {
        let mut frame = self.record()?;
        assert!(frame.len() >= 42, "a record ends inside a frame's header");
        let len = u32::from_be_bytes(*frame.first_chunk().expect("long enough")) as usize;
        while frame.len() < len {
            assert_eq!(
                frame.len() % amop::internal::tls::record::PLAINTEXT_LEN_MAX,
                0,
                "a record that is not full"
            );
            frame.extend(self.record()?);
        }
        assert_eq!(frame.len(), len, "a record holds more than its frame");
        Some(frame)
    }
}
