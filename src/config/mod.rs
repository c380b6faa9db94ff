//! `config.ini`: FISCO BCOS' own keys, and ours (docs/config.md).
//!
//! The file is read as FISCO BCOS reads it: sections, `key=value`, comments that begin with `;` or `#`
//! at the start of a line. Every key is checked; all faults are reported together, each with file, line,
//! key, what it was and what it must be.
//!
//! ```text
//!   file ─► ini (sections, lines) ─► Config (typed, checked)  +  warnings about unknown keys
//! ```
//!
//! Imports nothing of ours but plain settings of `relay`, `engine`, `door` and `tls`, the lists of `bounds`, and types of `wire`.

mod admin;
mod certificates;
mod ini;
mod log;
mod memory;
mod ports;
mod reload;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::log::LogSettings;
pub use self::memory::MemoryMax;
use self::{
    admin::AdminSection,
    certificates::{CertificateFiles, ChannelCertificate},
    ini::Ini,
    memory::{Machine, Others, Plan, Wanted},
    reload::Written,
};
use crate::{
    admin::{AccessFiles, SocketFile},
    bounds::{self, ModuleBounds},
    door::{HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX, Membership, is_this_machine},
    encoding,
    engine::{EngineSettings, IoSetting, Latency, WaitSettings},
    escape::shown_path,
    relay::{
        admission::Admission,
        bandwidth::Limiter,
        ledger::Ledger,
        settings::{NODE_FRAME_ROOM, Settings, queue_bytes_of},
    },
    tls::settings::TlsSettings,
    wire::{NodeId, PrivateTopic, node, topic::DATA_PREFIX},
};

/// Ledger nodes that may be named.
const LEDGER_NODES_MAX: usize = 64;
/// Highest cap in Mbit/s that is taken for what was meant.
const BANDWIDTH_MBIT_MAX: f64 = 1_000_000.0;

/// Everything that a node is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where applications connect: address and port.
    pub channel_listen: (String, u16),
    /// Where nodes connect.
    pub p2p_listen: (String, u16),
    /// The address where the admin endpoint listens, if it does.
    pub admin_listen: Option<(IpAddr, u16)>,
    /// The socket by which it is asked, if there is one.
    pub(crate) admin_socket: Option<SocketFile>,
    /// What is asked of whoever comes to its address.
    pub(crate) admin_access: AccessFiles,
    /// Whether programs on this machine may have the node announce something to all others.
    pub admin_announces: bool,
    /// Whom the node dials and lets in; read again on SIGHUP.
    pub membership: Membership,
    /// Where others reach this node's `p2p_listen`, told to the network; port 0 stands for the one listened on.
    pub advertised: Option<String>,
    /// The node's own certificate chain.
    pub node_certificate: PathBuf,
    /// Its key.
    pub node_key: PathBuf,
    /// The roots that nodes' certificates must chain to.
    pub node_roots: PathBuf,
    /// Certificate, key and roots of the channel.
    pub channel_certificate: PathBuf,
    /// Key of the channel's certificate.
    pub channel_key: PathBuf,
    /// The roots that applications' certificates must chain to.
    pub channel_roots: PathBuf,
    /// Whether the channel uses the RSA certificates.
    pub rsa_channel: bool,
    /// Whether applications must have the node's issuer.
    pub check_cert_issuer: bool,
    /// Also those with certificates of version 1.
    pub check_v1_issuer: bool,
    /// TLS of the channel.
    pub channel_tls: TlsSettings,
    /// Whether the channel is without TLS, for measuring; on loopback only.
    pub channel_plaintext: bool,
    /// TLS of node links.
    pub p2p_tls: TlsSettings,
    /// Cap on outbound bandwidth towards nodes.
    pub bandwidth: Option<Bandwidth>,
    /// How much memory the node may take.
    pub memory_max: MemoryMax,
    /// Reactors; `None` is one a processor.
    pub reactors: Option<u16>,
    /// How the engine is laid out.
    pub engine: EngineSettings,
    /// Bounds and times of the relay.
    pub relay: Settings,
    /// How long a shutdown may wait for answers.
    pub shutdown_timeout: Duration,
    /// Within which SIGTERM lets applications go before the stop; zero: at once.
    pub lame_duck: Duration,
    /// Handshakes at once from one address, at each listener.
    pub address_handshakes_max: usize,
    /// The log.
    pub log: LogSettings,
    /// The ledger nodes behind this one, and what they are reached with.
    pub ledger: Option<LedgerNodes>,
    /// Whether FISCO BCOS keeps the node's key encrypted on disk, which is not done here.
    pub storage_security: bool,
    /// Whether the chain is one of national cryptography, whose nodes have another certificate for others.
    pub sm_crypto: bool,
    /// What the file is made of, by which a broken one is told from it later.
    written: Written,
}

/// `[ledger] node.N` and `certificates`. What else the section says is in [`Settings::ledger`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerNodes {
    /// Their channel ports: `host:port`.
    pub addresses: Vec<String>,
    /// The directory with `ca.crt`, `sdk.crt` and `sdk.key`.
    pub certificates: PathBuf,
}

/// `[flow_control] outgoing_bandwidth_limit` and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bandwidth {
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// How much may go at once, as time.
    pub burst: Duration,
}

impl Bandwidth {
    /// The bucket of a limit, or one that never refuses.
    pub fn limiter(limit: Option<Self>) -> Limiter {
        limit.map_or_else(Limiter::unlimited, |limit| Limiter::new(limit.bytes_per_second, limit.burst))
    }
}

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; 0 where a key is missing.
    pub line: u32,
    /// What is wrong, and what it must be.
    pub text: String,
}

impl Problem {
    /// With the place where it is.
    pub fn at(&self, path: &Path) -> String {
        match self.line {
            0 => format!("{}: {}", shown_path(path), self.text),
            line => format!("{}:{line}: {}", shown_path(path), self.text),
        }
    }
}

/// Why a configuration cannot be used; the operator's to mend.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says something that cannot be.
    Invalid {
        /// Which file.
        path: PathBuf,
        /// All faults, by line.
        problems: Vec<Problem>,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "{}: cannot be read: {source}", shown_path(path)),
            Self::Invalid { path, problems } => {
                let lines: Vec<_> = problems.iter().map(|problem| problem.at(path)).collect();
                f.write_str(&lines.join("\n"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// Whether it will be the same at each further start, until somebody changes the configuration. A file that cannot be
    /// read may be on a disk that is not there yet.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Invalid { .. })
    }
}

/// Reactors where nobody set how many: one for each processor that this process may use.
fn processors() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.min(256) as u16
}

impl Config {
    /// Reads a file. Paths in it are relative to the file's directory. Also gives warnings, each a line
    /// of text, about what was not understood.
    pub fn load(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let bytes = fs::read(path).map_err(read)?;
        let text = encoding::config_text(&bytes).map_err(|error| ConfigError::Invalid {
            path: path.to_owned(),
            problems: vec![Problem { line: error.line(), text: error.to_string() }],
        })?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Self::parse(&text, directory)
            .map(|(config, warnings)| (config, warnings.iter().map(|warning| warning.at(path)).collect()))
            .map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }

    /// Why a configuration that was read later must not replace this one, with which a node runs; nothing if it may.
    pub fn refuses_reload(&self, new: &Self) -> Vec<String> {
        reload::refusals(self, new)
    }

    /// What a running node takes of a configuration that was read later, which [`Self::refuses_reload`] does not refuse: whom
    /// it dials and lets in. All else is as it was when it started.
    pub fn take_over(&mut self, new: Self) {
        self.membership = new.membership;
        self.written = new.written;
    }

    /// Every bound of a node that runs with this configuration, by module.
    pub fn bounds(&self) -> Vec<ModuleBounds> {
        let reactors = usize::from(self.reactors());
        bounds::of(&self.engine, &self.relay, reactors, self.address_handshakes_max, self.log.files_max)
    }

    /// Number of reactors: as set, else one for each processor that this process may use.
    pub fn reactors(&self) -> u16 {
        self.reactors.unwrap_or_else(processors)
    }

    /// Reads a configuration's text.
    pub fn parse(text: &str, directory: &Path) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Self::parse_on(text, directory, Machine::this())
    }

    /// The same, for another machine.
    fn parse_on(
        text: &str,
        directory: &Path,
        machine: Machine,
    ) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let mut ini = Ini::read(text);
        let defaults = Settings::default();
        let engine_defaults = EngineSettings::default();

        let listen_ip = ini.address("rpc", "listen_ip", "0.0.0.0");
        let channel_ip = ini.address("rpc", "channel_listen_ip", &listen_ip);
        let channel_listen = (channel_ip, ini.number("rpc", "channel_listen_port", 20200, 0, 65_535) as u16);
        let p2p_ip = ini.address("p2p", "listen_ip", "0.0.0.0");
        let p2p_listen = (p2p_ip, ini.number("p2p", "listen_port", 30300, 0, 65_535) as u16);
        let admin = AdminSection::read(&mut ini, directory);
        ports::refuse_conflicts(&mut ini, &channel_listen, &p2p_listen, admin.listen);
        let peers = ini.list(
            "p2p",
            "node.",
            "a node's address, such as 10.0.0.1:30300, [::1]:30300 or host:30300",
            peer,
        );
        let advertised = ini.optional(
            "p2p",
            "advertise",
            "this node's address for others, such as 10.0.0.1:30300 or host:30300; port 0 is the one listened on",
            |text| {
                let port_0 = text.strip_suffix(":0").map(|host| format!("{host}:1"));
                node::is_node_address(port_0.as_deref().unwrap_or(text)).then(|| text.to_owned())
            },
        );
        let discovers = ini.flag("p2p", "discover", false);
        let relays = ini.flag("p2p", "relay", true);
        let prefers_near = ini.flag("p2p", "prefer_near", false);
        let announce_to_2x = announced_prefixes(&mut ini);
        // Names of the first releases, which FISCO BCOS 2.x still reads.
        let blacklist = ini.renamed("certificate_blacklist", "crl");
        let whitelist = ini.renamed("certificate_whitelist", "cal");
        let security = ini.renamed("network_security", "secure");
        let encryption = ini.renamed("storage_security", "data_secure");
        let id = |text: &str| NodeId::from_hex(text);
        let mut ids = |section: &str, prefix: &str| {
            ini.list(section, prefix, "a node id of 128 hex digits", id).into_iter().collect()
        };
        let admission = Admission { blacklist: ids(blacklist, "crl."), whitelist: ids(whitelist, "cal.") };
        ini.refuse_dropped_lists([
            (blacklist, "certificate_blacklist", "crl."),
            (whitelist, "certificate_whitelist", "cal."),
        ]);

        let sm_crypto = ini.flag("chain", "sm_crypto", false);
        if ini.flag("chain", "sm_crypto_channel", false) {
            ini.refuse(
                "chain",
                "sm_crypto_channel",
                "false: TLS of national cryptography (SM2, SM3, SM4) is not there yet; applications then take nodes/…/sdk instead of nodes/…/sdk/gm, \
                 and so do those of a FISCO BCOS node that is set likewise",
            );
        }
        let version =
            ini.parsed("compatibility", "supported_version", (2, 10, 2), "a version such as 2.10.2", version);
        let rsa_crypto_channel = ini.flag("chain", "rsa_crypto_channel", false) && version >= (2, 9, 0);

        let storage_security = ini.flag(encryption, "enable", false);
        let data = directory.join(ini.text(security, "data_path", "conf/"));
        if ini.has(security, "ca_path") {
            _ = ini.text(security, "ca_path", "");
            ini.warn(security, "ca_path", "is not read: write all roots into ca_cert, one after the other");
        }
        let nodes = CertificateFiles::of_nodes(&mut ini, security, &data, sm_crypto);
        let ChannelCertificate { files: applications, is_rsa: rsa_channel } =
            ChannelCertificate::read(&mut ini, directory, &nodes, rsa_crypto_channel);
        let check_cert_issuer = ini.flag("network_security", "check_cert_issuer", true);
        let check_v1_issuer = ini.flag("network_security", "check_v1_issuer", false);
        let channel_tls = tls(&mut ini, "channel");
        let p2p_tls = tls(&mut ini, "p2p");
        let channel_plaintext = ini.flag("tls", "channel_plaintext", false);
        // An address that is none is refused already.
        let is_for_others = |ip: IpAddr| !is_this_machine(ip);
        if channel_plaintext && channel_listen.0.parse().is_ok_and(is_for_others) {
            let must_be = format!(
                "false, or [rpc] channel_listen_ip be 127.0.0.1 or ::1: it is for measuring on one machine only, and others reach {}",
                channel_listen.0
            );
            ini.refuse("tls", "channel_plaintext", &must_be);
        }

        let limit = ini.optional(
            "flow_control",
            "outgoing_bandwidth_limit",
            "a number of Mbit/s above 0 and up to 1000000",
            |text| text.parse::<f64>().ok().filter(|mbit| *mbit > 0.0 && *mbit <= BANDWIDTH_MBIT_MAX),
        );
        let burst = ini.millis("flow_control", "bandwidth_burst_ms", Duration::from_millis(100), 1, 10_000);
        let rate = ini.number("flow_control", "bandwidth_compress_rate", 1, 1, 100) as f64;
        let bandwidth =
            limit.map(|mbit| Bandwidth { bytes_per_second: mbit * 1024.0 * 1024.0 / 8.0 * rate, burst });
        let limit_req = ini.optional(
            "flow_control",
            "limit_req",
            "a number of requests per second from 1 to 4294967295",
            |text| text.parse::<u32>().ok().filter(|&limit| limit > 0),
        );

        let publishers = ini.by_name(
            "private_topics",
            "publishers.",
            "node ids of 128 hex digits with commas between",
            |text| text.split(',').map(|id| NodeId::from_hex(id.trim())).collect::<Option<_>>(),
        );
        let private_publishers =
            publishers.into_iter().map(|(name, nodes)| (format!("{DATA_PREFIX}{name}"), nodes)).collect();

        let private_over_2x = private_over_2x(&mut ini);

        let (ledger_nodes, ledger) = ledger(&mut ini, directory, rsa_channel);
        let wanted = Wanted::read(&mut ini, peers.len());
        let relay = Settings {
            ready_timeout: ini.millis("amop", "ready_timeout_ms", defaults.ready_timeout, 0, 600_000),
            push_timeout: ini.millis("amop", "push_timeout_ms", defaults.push_timeout, 10, 600_000),
            request_timeout: ini.millis(
                "amop",
                "request_timeout_ms",
                defaults.request_timeout,
                10,
                3_600_000,
            ),
            retry_after_push_timeout: ini.flag("amop", "retry_after_push_timeout", true),
            idle_timeout: ini.millis("amop", "idle_timeout_ms", defaults.idle_timeout, 1_000, 86_400_000),
            stall_timeout: ini.millis("amop", "stall_timeout_ms", defaults.stall_timeout, 1_000, 3_600_000),
            session_topics_max: ini.number("amop", "session_topics_max", 10_000, 1, 1_000_000) as usize,
            rpc_requests_per_second_max: limit_req,
            private_publishers,
            private_over_2x,
            discovers,
            relays,
            prefers_near,
            announce_to_2x,
            ledger,
            trace: ini.flag("amop", "trace", false),
            list_topics: ini.flag("rpc", "list_topics", true),
            chain_id: ini.text("chain", "id", "1"),
            ..defaults
        };
        if relay.push_timeout > relay.request_timeout {
            ini.refuse("amop", "push_timeout_ms", "at most request_timeout_ms");
        }

        let microseconds = |ini: &mut Ini, key: &str, most: u64| {
            let number = ini.optional("engine", key, &format!("a number from 0 to {most}"), |text| {
                text.parse().ok().filter(|number| *number <= most)
            });
            number.map(Duration::from_micros)
        };
        let engine = EngineSettings {
            io: ini.parsed(
                "engine",
                "io",
                IoSetting::default(),
                "auto, io_uring or epoll",
                IoSetting::from_name,
            ),
            pin: ini.names("engine", "pin", "processor numbers with commas between, such as 0,1", |text| {
                text.parse().ok()
            }),
            wait: WaitSettings {
                latency: ini.parsed(
                    "engine",
                    "latency",
                    Latency::Balanced,
                    "low, balanced or power",
                    |text| match text {
                        "low" => Some(Latency::Low),
                        "balanced" => Some(Latency::Balanced),
                        "power" => Some(Latency::Power),
                        _ => None,
                    },
                ),
                spin: microseconds(&mut ini, "spin_us", 1_000_000),
                gather: microseconds(&mut ini, "gather_us", 1_000),
            },
            ..engine_defaults
        };
        let shutdown_timeout = ini.millis("amop", "shutdown_timeout_ms", Duration::from_secs(10), 0, 600_000);
        let lame_duck = ini.millis("amop", "lame_duck_ms", Duration::ZERO, 0, 3_600_000);
        let address_handshakes_max = ini.number(
            "amop",
            "address_handshakes_max",
            HANDSHAKES_PER_ADDRESS_MAX as u64,
            1,
            HANDSHAKES_MAX as u64,
        ) as usize;
        let log = LogSettings::read(&mut ini, directory);
        let Plan { memory_max, reactors, engine, mut relay } = wanted.plan(
            &mut ini,
            engine,
            relay,
            Others { address_handshakes_max, log_files_max: log.files_max },
            machine,
        );
        queue_lengths(&mut ini, &mut relay);

        let written = Written::new(text, &ini);
        let config = Self {
            channel_listen,
            p2p_listen,
            admin_listen: admin.listen,
            admin_socket: admin.socket,
            admin_access: admin.access,
            admin_announces: admin.announces,
            membership: Membership { peers, admission },
            advertised,
            node_certificate: nodes.certificate,
            node_key: nodes.key,
            node_roots: nodes.roots,
            channel_certificate: applications.certificate,
            channel_key: applications.key,
            channel_roots: applications.roots,
            rsa_channel,
            check_cert_issuer,
            check_v1_issuer,
            channel_tls,
            channel_plaintext,
            p2p_tls,
            bandwidth,
            memory_max,
            reactors: Some(reactors),
            engine,
            relay,
            shutdown_timeout,
            lame_duck,
            address_handshakes_max,
            log,
            ledger: ledger_nodes,
            storage_security,
            sm_crypto,
            written,
        };
        // Large frames with their node headers must fit the length field.
        debug_assert!(config.relay.frame_len_max + NODE_FRAME_ROOM < u32::MAX as usize);
        ini.finish().map(|warnings| (config, warnings))
    }
}

/// What may wait for one session and for one node, by the length of the longest frame.
fn queue_lengths(ini: &mut Ini, relay: &mut Settings) {
    // Queues are measured in frames (WIRE §2.3), so that one can always wait while another one is on its way.
    let two_frames = queue_bytes_of(relay.frame_len_max) as u64;
    let default = two_frames.max(64 << 10);
    relay.session_queue_bytes_max =
        ini.number("amop", "session_queue_bytes_max", default, 64 << 10, 1 << 32) as usize;
    let default = (2 * two_frames).max(64 << 20);
    relay.window_bytes_max = ini.number("amop", "window_bytes_max", default, 1 << 20, 1 << 32) as usize;
}

/// `[ledger]`: none where it names no node.
fn ledger(ini: &mut Ini, directory: &Path, rsa_channel: bool) -> (Option<LedgerNodes>, Option<Ledger>) {
    let must_be = "the channel port of a ledger node, such as 127.0.0.1:20200, [::1]:20200 or host:20200";
    let addresses = ini.list("ledger", "node.", must_be, peer);
    let certificates = directory.join(ini.text("ledger", "certificates", "conf/ledger"));
    let request_timeout =
        ini.millis("ledger", "request_timeout_ms", Duration::from_secs(120), 1_000, 3_600_000);
    let amop = ini.flag("ledger", "amop", false);
    let lists =
        ini.by_name("ledger", "allow.", "public keys of 128 hex digits with commas between", |text| {
            text.split(',').map(|key| NodeId::from_hex(key.trim())).collect::<Option<BTreeSet<_>>>()
        });
    let mut allow = BTreeMap::new();
    for (group, keys) in lists {
        let key = format!("allow.{group}");
        match group.parse::<u32>() {
            Ok(_) if rsa_channel => ini.refuse(
                "ledger",
                &key,
                "left out: applications have RSA certificates here, by [chain] rsa_crypto_channel or [cert], and those have no such key",
            ),
            Ok(group) => _ = allow.insert(group, keys),
            Err(_) => {
                ini.fault("ledger", &key, "must have the number of a group behind allow., such as allow.1")
            }
        }
    }
    if addresses.is_empty() {
        if amop {
            let text = "= true needs [ledger] node.0: messages are to go by a ledger node, and none is named";
            ini.fault("ledger", "amop", text);
        }
        if !allow.is_empty() || ini.has("ledger", "certificates") {
            ini.warn("ledger", "node.0", "is missing: without it nothing in [ledger] has an effect");
        }
        return (None, None);
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = addresses.iter().find(|address| !seen.insert(*address)) {
        ini.refuse("ledger", "node.0", &format!("one of ledger nodes that are named once; {twice} is twice"));
    }
    if addresses.len() > LEDGER_NODES_MAX {
        ini.refuse("ledger", "node.0", &format!("one of at most {LEDGER_NODES_MAX} ledger nodes"));
    }
    let nodes = addresses.len().min(LEDGER_NODES_MAX) as u16;
    // What it may keep follows from memory.
    let ledger = Ledger { nodes, allow, request_timeout, bytes_max: 0, amop };
    (Some(LedgerNodes { addresses, certificates }), Some(ledger))
}

fn tls(ini: &mut Ini, link: &str) -> TlsSettings {
    let mut names =
        |what: &str| ini.names("tls", &format!("{link}_{what}"), "names", |text| Some(text.to_owned()));
    let (versions, suites, groups) = (names("versions"), names("cipher_suites"), names("groups"));
    for (key, versions, suites, groups) in [
        ("versions", versions.as_slice(), &[][..], &[][..]),
        ("cipher_suites", &[], suites.as_slice(), &[]),
        ("groups", &[], &[], groups.as_slice()),
    ] {
        if let Err(error) = TlsSettings::from_names(versions, suites, groups) {
            ini.refuse("tls", &format!("{link}_{key}"), &format!("of these: {}", error.choices));
        }
    }
    TlsSettings::from_names(&versions, &suites, &groups).unwrap_or_default()
}

fn peer(text: &str) -> Option<String> {
    node::is_node_address(text).then(|| text.to_owned())
}

fn version(text: &str) -> Option<(u32, u32, u32)> {
    if matches!(text.to_ascii_lowercase().as_str(), "2.0.0-rc1" | "2.0.0-rc2" | "2.0.0-rc3") {
        return Some((2, 0, 0));
    }
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let version = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(version)
}

/// `[p2p] announce_to_2x`: what topics begin with that nodes of FISCO BCOS 2.x are told of; `None` for all topics.
fn announced_prefixes(ini: &mut Ini) -> Option<Vec<String>> {
    let must_be = "beginnings of topic names with commas between, or none";
    let prefixes = ini.names("p2p", "announce_to_2x", must_be, |prefix| {
        crate::wire::topic::is_valid(prefix.as_bytes()).then(|| prefix.to_owned())
    });
    match prefixes.as_slice() {
        [] => None,
        [none] if none == "none" => Some(Vec::new()),
        _ => Some(prefixes),
    }
}

/// `[private_topics] over_2x`: data topics whose messages may pass to nodes of FISCO BCOS 2.x and from them.
fn private_over_2x(ini: &mut Ini) -> BTreeSet<String> {
    let must_be = "names of private topics with commas between";
    let topics = ini.names("private_topics", "over_2x", must_be, PrivateTopic::new);
    let names: BTreeSet<&str> = topics.iter().map(PrivateTopic::name).collect();
    // Such a node looks for a route topic by how it begins, and would take that of the longer name.
    let alike = names.iter().zip(names.iter().skip(1)).find(|(one, next)| next.starts_with(**one));
    if let Some((one, next)) = alike {
        let text = format!(
            "names {one} and {next}, which nodes of FISCO BCOS 2.x mix up, for one begins like the other: name one of them only"
        );
        ini.fault("private_topics", "over_2x", &text);
    }
    topics.iter().map(|topic| topic.data().as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        Config::parse(text, Path::new("."))
            .unwrap_err()
            .into_iter()
            .map(|problem| format!("{}: {}", problem.line, problem.text))
            .collect()
    }

    #[test]
    fn private_topics_that_pass_to_nodes_of_2x_are_named_and_begin_differently() {
        let topics = |text: &str| Config::parse(text, Path::new(".")).unwrap().0.relay.private_over_2x;
        assert!(topics("").is_empty());
        let named = topics("[private_topics]\nover_2x=loans, kyc\n");
        assert_eq!(
            named.into_iter().collect::<Vec<_>>(),
            ["#!$TopicNeedVerify_kyc", "#!$TopicNeedVerify_loans"]
        );
        assert_eq!(
            problems("[private_topics]\nover_2x=loans,kyc,loans2\n"),
            [
                "2: [private_topics] over_2x names loans and loans2, which nodes of FISCO BCOS 2.x mix up, for one begins like the other: name one of them only"
            ]
        );
        assert_eq!(
            problems("[private_topics]\nover_2x=loans,\n"),
            ["2: [private_topics] over_2x = \"loans,\" must be names of private topics with commas between"]
        );
    }

    #[test]
    fn a_wrong_value_is_named_with_line_key_value_and_what_it_must_be() {
        for (text, expected) in [
            ("[p2p]\nlisten_port=x\n", "2: [p2p] listen_port = \"x\" must be a number from 0 to 65535"),
            (
                "[p2p]\n\nnode.0=:::\n",
                "3: [p2p] node.0 = \":::\" must be a node's address, such as 10.0.0.1:30300, [::1]:30300 or host:30300",
            ),
            ("[admin]\nlisten_port=-1\n", "2: [admin] listen_port = \"-1\" must be a number from 0 to 65535"),
            (
                "[chain]\nsm_crypto=true\nsm_crypto_channel=true\n",
                "3: [chain] sm_crypto_channel = \"true\" must be false: TLS of national cryptography (SM2, SM3, SM4) is not there yet; applications \
                 then take nodes/…/sdk instead of nodes/…/sdk/gm, and so do those of a FISCO BCOS node that is set likewise",
            ),
            (
                "[chain]\nrsa_crypto_channel=maybe\n",
                "2: [chain] rsa_crypto_channel = \"maybe\" must be true or false",
            ),
            (
                "[flow_control]\noutgoing_bandwidth_limit=-1\n",
                "2: [flow_control] outgoing_bandwidth_limit = \"-1\" must be a number of Mbit/s above 0 and up to 1000000",
            ),
            (
                "[flow_control]\noutgoing_bandwidth_limit=0\n",
                "2: [flow_control] outgoing_bandwidth_limit = \"0\" must be a number of Mbit/s above 0 and up to 1000000",
            ),
            (
                "[private_topics]\npublishers.a.b=1,2\n",
                "2: [private_topics] publishers.a.b = \"1,2\" must be node ids of 128 hex digits with commas between",
            ),
            (
                "[certificate_blacklist]\ncrl.0=abc\n",
                "2: [certificate_blacklist] crl.0 = \"abc\" must be a node id of 128 hex digits",
            ),
            (
                "[tls]\nchannel_groups=P-256,foo\n",
                "2: [tls] channel_groups = \"P-256,foo\" must be of these: X25519, P-256, P-384, secp256k1",
            ),
            (
                "[p2p]\nlisten_port=1\nlisten_port=2\n",
                "3: [p2p] listen_port stands here a second time; the first is on line 2",
            ),
            ("[engine]\nio=uring\n", "2: [engine] io = \"uring\" must be auto, io_uring or epoll"),
            ("[engine]\nlatency=medium\n", "2: [engine] latency = \"medium\" must be low, balanced or power"),
            (
                "[engine]\ngather_us=1001\n",
                "2: [engine] gather_us = \"1001\" must be a number from 0 to 1000",
            ),
            ("nonsense\n", "1: \"nonsense\" is neither [section] nor key=value nor a comment"),
        ] {
            assert_eq!(problems(text), [expected], "{text}");
        }
    }

    #[test]
    fn a_number_is_taken_up_to_its_bounds_and_not_beyond() {
        for (key, least, most) in [
            ("session_topics_max", 1, 1_000_000),
            ("push_timeout_ms", 10, 600_000),
            ("idle_timeout_ms", 1_000, 86_400_000),
        ] {
            let text = |number: u64| format!("[amop]\nrequest_timeout_ms=3600000\n{key}={number}\n");
            for good in [least, most] {
                assert!(Config::parse(&text(good), Path::new(".")).is_ok(), "{key}={good}");
            }
            for wrong in [least - 1, most + 1] {
                let expected =
                    format!("3: [amop] {key} = \"{wrong}\" must be a number from {least} to {most}");
                assert_eq!(problems(&text(wrong)), [expected]);
            }
        }
    }

    #[test]
    fn how_reactors_wait_is_by_latency_unless_it_is_set() {
        let wait = |text: &str| {
            let (config, _) = Config::parse(&format!("[engine]\n{text}"), Path::new(".")).unwrap();
            let WaitSettings { latency, spin, gather } = config.engine.wait;
            (latency, spin, gather)
        };
        assert_eq!(wait(""), (Latency::Balanced, None, None));
        assert_eq!(wait("latency=low\n"), (Latency::Low, None, None));
        let micros = |number| Some(Duration::from_micros(number));
        assert_eq!(
            wait("latency=power\nspin_us=0\ngather_us=1000\n"),
            (Latency::Power, micros(0), micros(1_000))
        );
    }

    #[test]
    fn a_push_waits_no_longer_than_its_request() {
        let text = |push: u64| format!("[amop]\nrequest_timeout_ms=2000\npush_timeout_ms={push}\n");
        assert!(Config::parse(&text(2_000), Path::new(".")).is_ok());
        assert!(problems(&text(2_001))[0].contains("at most request_timeout_ms"));
    }

    #[test]
    fn all_faults_are_reported_together() {
        assert_eq!(problems("[p2p]\nlisten_port=x\n[rpc]\nchannel_listen_port=y\n").len(), 2);
    }

    #[test]
    fn a_ledger_node_that_is_named_twice_is_refused_since_its_metrics_would_be_there_twice() {
        let twice = "[ledger]\nnode.0=a:20200\nnode.1=b:20200\nnode.2=a:20200\n";
        assert!(problems(twice).iter().any(|problem| problem.contains("a:20200 is twice")));
    }

    #[test]
    fn keys_of_the_ledger_are_silent_and_unknown_ones_warn() {
        let text = "[rpc]\njsonrpc_listen_port=8545\n[storage_security]\nenable=false\n[consensus]\nmin=1\n[p2p]\nlisten_prt=1\n";
        let (_, warnings) = Config::parse(text, Path::new(".")).unwrap();
        let texts: Vec<_> = warnings.iter().map(|warning| (warning.line, warning.text.as_str())).collect();
        assert_eq!(
            texts,
            [(8, "[p2p] listen_prt is not known and has no effect; did you mean listen_port?")]
        );
    }

    fn warnings(text: &str) -> Vec<String> {
        let (_, warnings) = Config::parse(text, Path::new(".")).unwrap();
        warnings.into_iter().map(|warning| format!("{}: {}", warning.line, warning.text)).collect()
    }

    #[test]
    fn a_misspelt_section_or_key_is_answered_with_what_was_meant() {
        for (text, expected) in [
            (
                "[admim]\nlisten_port=1\n",
                "1: [admim] is not known, and nothing in it has an effect; did you mean [admin]?",
            ),
            (
                "[Network_Security]\n",
                "1: [Network_Security] is not known, and nothing in it has an effect; did you mean [network_security]?",
            ),
            ("[weather]\nrain=1\n", "1: [weather] is not known, and nothing in it has an effect"),
            (
                "[p2p]\nlisten_prot=1\n",
                "2: [p2p] listen_prot is not known and has no effect; did you mean listen_port?",
            ),
            (
                "[amop]\npush_timout=1\n",
                "2: [amop] push_timout is not known and has no effect; did you mean push_timeout_ms?",
            ),
            (
                "[amop]\nreactors=1\n",
                "2: [amop] reactors is not known and has no effect; it belongs in [engine]",
            ),
            ("a=1\n", "1: a stands before the first [section] and has no effect"),
            (
                "[secure]\nca_path=x\n",
                "2: [secure] ca_path is not read: write all roots into ca_cert, one after the other",
            ),
        ] {
            assert_eq!(warnings(text), [expected], "{text}");
        }
    }

    #[test]
    fn sections_of_the_first_releases_are_read_where_the_new_ones_have_no_key() {
        let (one, other) = (NodeId([0xab; 64]), NodeId([0x12; 64]));
        let ids = |section: &str, key: &str, id: NodeId| format!("[{section}]\n{key}.0={}\n", id.to_hex());
        let lists = |text: &str| {
            let admission = Config::parse(text, Path::new(".")).unwrap().0.membership.admission;
            (
                admission.blacklist.into_iter().collect::<Vec<_>>(),
                admission.whitelist.into_iter().collect::<Vec<_>>(),
            )
        };
        let old = ids("crl", "crl", one) + &ids("cal", "cal", other);
        assert_eq!(lists(&old), (vec![one], vec![other]));
        assert_eq!(warnings(&old), [""; 0]);
        // FISCO BCOS takes a section without keys for none.
        assert_eq!(
            lists(&format!("[certificate_blacklist]\n;crl.0=\n[certificate_whitelist]\n{old}")),
            (vec![one], vec![other])
        );
        let both = ids("certificate_blacklist", "crl", other) + &old;
        assert_eq!(lists(&both), (vec![other], vec![other]));
        assert_eq!(
            warnings(&both),
            ["3: [crl] has no effect, for [certificate_blacklist] is there, which replaces it"]
        );

        let paths = |text: &str| {
            let config = Config::parse(text, Path::new("/n")).unwrap().0;
            (config.node_key, config.channel_key)
        };
        let secure = "[secure]\ndata_path=other/\nkey=k\n";
        assert_eq!(paths(secure), ("/n/other/k".into(), "/n/other/k".into()));
        // The channel's own directory has the new name only.
        assert_eq!(
            paths(&format!("{secure}[chain]\nrsa_crypto_channel=true\n")),
            ("/n/other/k".into(), "/n/conf/channel_cert/node.key".into())
        );
        assert_eq!(paths(&format!("{secure}[network_security]\nkey=new\n")).0, Path::new("/n/conf/new"));
        let encrypts = |text: &str| Config::parse(text, Path::new(".")).unwrap().0.storage_security;
        assert!(encrypts("[data_secure]\nenable=true\n") && !encrypts(""));
        assert!(!encrypts("[data_secure]\nenable=true\n[storage_security]\nenable=false\n"));
        // As build_chain.sh of 2.0.0-rc1 writes it.
        assert_eq!(
            warnings(
                "[compatibility]\nsupported_version=2.0.0-rc2\n[log]\nformat=%level|%msg\nlog_flush_threshold=100\n"
            ),
            [""; 0]
        );
    }

    #[test]
    fn no_entry_of_a_list_is_lost_in_another_section_or_under_another_key() {
        let id = NodeId([0xab; 64]).to_hex();
        for (text, expected) in [
            (
                format!("[certificate_blaklist]\ncrl.0={id}\n"),
                "2: [certificate_blaklist] crl.0: entries of this list are read in [certificate_blacklist] only, and none may be lost",
            ),
            (
                format!("[p2p]\ncal.0={id}\n"),
                "2: [p2p] cal.0: entries of this list are read in [certificate_whitelist] only, and none may be lost",
            ),
            (
                format!("[certificate_blacklist]\nclr.0={id}\n"),
                "2: [certificate_blacklist] clr.0 is no entry of this list: those of [certificate_blacklist] are crl.0, crl.1, …",
            ),
        ] {
            assert_eq!(problems(&text), [expected], "{text}");
        }
    }

    #[test]
    fn quotation_marks_are_no_part_of_a_value() {
        for value in ["\"conf\"", "\"conf\"/", "'conf'", "“conf”"] {
            assert_eq!(
                problems(&format!("[network_security]\ndata_path={value}\n")),
                [format!(
                    "2: [network_security] data_path = {value}: the quotation marks would be part of the value; leave them out"
                )]
            );
        }
    }

    #[test]
    fn every_address_to_listen_on_is_checked_under_its_own_name() {
        let must_be = "must be an IPv4 or IPv6 address of this machine";
        assert_eq!(
            problems("[rpc]\nlisten_ip=localhost\n"),
            [format!("2: [rpc] listen_ip = \"localhost\" {must_be}")]
        );
        let (config, _) = Config::parse("[rpc]\nlisten_ip=[::1]\n", Path::new(".")).unwrap();
        assert_eq!(config.channel_listen.0, "::1");
    }

    #[test]
    fn the_admin_endpoint_is_off_until_it_has_a_port_and_then_only_this_machine_reaches_it() {
        let admin = |text: &str| Config::parse(text, Path::new(".")).unwrap().0.admin_listen;
        assert_eq!(admin(""), None);
        assert_eq!(admin("[admin]\nlisten_ip=0.0.0.0\n"), None);
        let (ip, port) = admin("[admin]\nlisten_port=9100\n").unwrap();
        assert!(ip.is_loopback());
        assert_eq!(port, 9100);
        let (ip, _) = admin("[admin]\nlisten_ip=::\nlisten_port=9100\n").unwrap();
        assert!(ip.is_unspecified());
        let announces = |text: &str| Config::parse(text, Path::new(".")).unwrap().0.admin_announces;
        assert!(announces("") && !announces("[admin]\nannounce=false\n"));
    }

    #[test]
    fn a_private_topic_is_pinned_by_its_plain_name() {
        let (one, other) = (NodeId([0xab; 64]), NodeId([0x12; 64]));
        let text = format!("[private_topics]\npublishers.a.b={}, {}\n", one.to_hex(), other.to_hex());
        let (config, warnings) = Config::parse(&text, Path::new(".")).unwrap();
        assert_eq!(warnings, []);
        for (topic, node, may) in [
            ("#!$TopicNeedVerify_a.b", one, true),
            ("#!$TopicNeedVerify_a.b", other, true),
            ("#!$TopicNeedVerify_a.b", NodeId([1; 64]), false),
            ("#!$TopicNeedVerify_c", NodeId([1; 64]), true),
        ] {
            assert_eq!(config.relay.may_publish(topic, &node), may, "{topic}");
        }
    }

    #[test]
    fn tracing_of_all_messages_is_off_unless_it_is_switched_on() {
        let trace = |text: &str| Config::parse(text, Path::new(".")).unwrap().0.relay.trace;
        assert_eq!((trace(""), trace("[amop]\ntrace=true\n")), (false, true));
        assert_eq!(problems("[amop]\ntrace=on\n"), ["2: [amop] trace = \"on\" must be true or false"]);
    }

    #[test]
    fn nodes_of_fisco_bcos_2x_are_told_of_all_topics_of_some_or_of_none() {
        let prefixes = |text: &str| {
            Config::parse(&format!("[p2p]\n{text}"), Path::new(".")).unwrap().0.relay.announce_to_2x
        };
        let some = |prefixes: &[&str]| Some(prefixes.iter().map(|&prefix| prefix.to_owned()).collect());
        assert_eq!(prefixes(""), None);
        assert_eq!(prefixes("announce_to_2x=none\n"), some(&[]));
        assert_eq!(prefixes("announce_to_2x=loans., kyc\n"), some(&["loans.", "kyc"]));
        assert_eq!(
            problems("[p2p]\nannounce_to_2x=a,,b\n"),
            [
                "2: [p2p] announce_to_2x = \"a,,b\" must be beginnings of topic names with commas between, or none"
            ]
        );
    }

    #[test]
    fn a_node_relays_and_draws_near_and_far_alike_unless_it_is_told_otherwise() {
        let options = |text: &str| {
            let relay = Config::parse(text, Path::new(".")).unwrap().0.relay;
            (relay.relays, relay.prefers_near)
        };
        assert_eq!(options(""), (true, false));
        assert_eq!(options("[p2p]\nrelay=false\nprefer_near=true\n"), (false, true));
        assert_eq!(
            problems("[p2p]\nrelay=no\nprefer_near=2\n"),
            [
                "2: [p2p] relay = \"no\" must be true or false",
                "3: [p2p] prefer_near = \"2\" must be true or false",
            ]
        );
    }

    #[test]
    fn values_mean_what_they_mean_to_fisco_bcos() {
        let text = "\u{feff}; comment\r\n[rpc]\r\n    channel_listen_ip=127.0.0.1\r\n    channel_listen_port=20201\r\n[p2p]\r\n    listen_ip=::1\r\n    node.0=127.0.0.1:30300\r\n    node.1=[::1]:30301\r\n    node.2=bank.example:30302\r\n[chain]\r\n    rsa_crypto_channel=true\r\n[compatibility]\r\n    supported_version=2.8.0\r\n[flow_control]\r\n    outgoing_bandwidth_limit=2.5\r\n[log]\r\n    level=WARNING\r\n";
        let (config, warnings) = Config::parse(text, Path::new("/n")).unwrap();
        assert_eq!(warnings, []);
        assert_eq!(config.channel_listen, ("127.0.0.1".to_owned(), 20201));
        assert_eq!(config.p2p_listen, ("::1".to_owned(), 30300));
        assert_eq!(config.membership.peers.len(), 3);
        assert!(!config.rsa_channel, "RSA channels came with 2.9.0");
        assert_eq!(config.channel_key, Path::new("/n/conf/node.key"));
        assert_eq!(config.bandwidth.unwrap().bytes_per_second, 2.5 * 131_072.0);
        assert_eq!(config.log.level, "warn");
    }
}
