//! What a network is to be, and whether its nodes can start and reach each other.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
    path::Path,
};

use super::certificate::PkiError;
use crate::{config::Config, relay::registry::NEIGHBOURS_MAX};

/// The port of the first node's admin endpoint, where it has one: above those of channels, below those for nodes.
const ADMIN_PORT: u16 = 20_300;
/// First ports for JSON-RPC over HTTP: FISCO BCOS' own, and others for where that one is taken.
const JSONRPC_PORTS: [u16; 3] = [8_545, 18_545, 28_545];

/// Why a network would not run; the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No address to listen on.
    #[error(
        "{0:?} is no address to listen on: give an IPv4 or IPv6 address of the machine, or 0.0.0.0 or :: for all"
    )]
    ListenAddress(String),
    /// An address that only one of the machines can have.
    #[error("only one machine has the address {0}: with several hosts, listen on 0.0.0.0 or ::")]
    ListenOnOne(IpAddr),
    /// Nodes would be dialled where they do not listen.
    #[error("nodes that listen on {listen} cannot be reached at {host}: listen on {}", if *.is_v6 { "::" } else { "0.0.0.0" })]
    ListenElsewhere {
        /// Where they would listen.
        listen: IpAddr,
        /// Where others would dial them.
        host: String,
        /// What would do.
        is_v6: bool,
    },
    /// An address that nothing can be reached at.
    #[error("{0} is no address that nodes can be reached at")]
    Unreachable(String),
    /// One machine under two names.
    #[error(
        "{one} and {other} are the same machine, and its nodes would have the same ports: name it once, with all its nodes"
    )]
    SameMachine {
        /// The first.
        one: String,
        /// The second.
        other: String,
    },
    /// An address that means something else on each machine.
    #[error(
        "{loopback} is each machine itself, so that nodes at {other} cannot reach those there: give its address in the network"
    )]
    Loopback {
        /// The address.
        loopback: String,
        /// Another host.
        other: String,
    },
    /// More nodes than can be linked each with each.
    #[error(
        "{0} nodes are too many to be linked each with each: a node has at most {NEIGHBOURS_MAX} neighbours"
    )]
    TooManyNodes(usize),
    /// A port that the system would choose.
    #[error("port 0 is none that others can know: ports for {0} are from 1 to 65535")]
    PortZero(&'static str),
    /// Ports beyond the last.
    #[error("{nodes} nodes from port {first} on go beyond port 65535")]
    PastLastPort {
        /// The first node's.
        first: u16,
        /// How many.
        nodes: u16,
    },
    /// One port for two listeners.
    #[error(
        "of {nodes} nodes on one machine, the ports for nodes ({} to {}) and for applications ({} to {}) meet: keep the \
         first ones at least {nodes} apart",
        p2p.start, p2p.end - 1, channel.start, channel.end - 1
    )]
    PortsMeet {
        /// How many nodes.
        nodes: u16,
        /// For nodes.
        p2p: Range<u32>,
        /// For applications.
        channel: Range<u32>,
    },
    /// An id that config.ini cannot hold.
    #[error("{0:?} is no id of a chain: use letters, digits, dots, dashes and underscores, at most 64")]
    ChainId(String),
    /// A layout that has no such certificates.
    #[error(
        "applications of FISCO BCOS 3.x have RSA certificates only: leave the EC profile out, or make the layout of 2.x"
    )]
    EcIn3x,
    /// What a node would say about its configuration.
    #[error("nodes would refuse their config.ini: {0}")]
    Config(String),
}

/// Which certificates the channel to applications uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// RSA-2048, X.509 version 1; what `build_chain.sh` makes by default.
    Rsa,
    /// The nodes' own secp256k1 certificates; `build_chain.sh -R`.
    Ec,
}

/// Whose names and places the files of applications have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// FISCO BCOS 2.x: `conf/channel_cert`, or the node's own in `conf`.
    V2,
    /// FISCO BCOS 3.x: `conf/ca.crt`, `ssl.crt` and `ssl.key`. What nodes prove themselves with among each other is in `conf/node_cert`.
    V3,
}

/// Nodes on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its address, as other nodes dial it.
    pub address: String,
    /// How many nodes.
    pub nodes: u16,
}

impl std::str::FromStr for Host {
    type Err = PkiError;

    /// Reads `address:count`.
    fn from_str(text: &str) -> Result<Self, PkiError> {
        let error = || PkiError::Host(text.to_owned());
        let (address, nodes) = text.rsplit_once(':').ok_or_else(error)?;
        let nodes = nodes.parse().ok().filter(|nodes| (1..=1000).contains(nodes)).ok_or_else(error)?;
        // It becomes the name of a directory too.
        let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
        let valid = match bare {
            Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
            None => is_host_name(address) && address != "cert",
        };
        if !valid {
            return Err(error());
        }
        Ok(Self { address: address.to_owned(), nodes })
    }
}

/// What to build.
#[derive(Clone, Debug)]
pub struct NetworkPlan {
    /// Where the nodes run.
    pub hosts: Vec<Host>,
    /// Certificates of the channel.
    pub profile: Profile,
    /// How the files are laid out.
    pub layout: Layout,
    /// Name of the agency that all nodes belong to.
    pub agency: String,
    /// The first node's port for other nodes; each further one on a host has the next.
    pub p2p_port: u16,
    /// The first node's port for applications.
    pub channel_port: u16,
    /// Address on which nodes listen.
    pub listen_ip: String,
    /// `[chain] id`.
    pub chain_id: String,
    /// How long certificates are good, in days.
    pub days: u64,
    /// Replace what is there.
    pub force: bool,
}

/// Which machine an address leads to, as far as can be told without asking for names.
#[derive(PartialEq, Eq)]
enum Machine {
    /// This one, whatever it is.
    Itself,
    At(IpAddr),
    Named(String),
}

impl Host {
    /// The address without brackets, as its directory is called.
    pub fn directory(&self) -> &str {
        self.address.trim_matches(['[', ']'])
    }

    fn ip(&self) -> Option<IpAddr> {
        self.directory().parse().ok().map(|ip: IpAddr| ip.to_canonical())
    }

    fn machine(&self) -> Machine {
        match self.ip() {
            Some(ip) if ip.is_loopback() => Machine::Itself,
            Some(ip) => Machine::At(ip),
            None => {
                let name = self.address.trim_end_matches('.').to_ascii_lowercase();
                if name == "localhost" || name.ends_with(".localhost") {
                    Machine::Itself
                } else {
                    Machine::Named(name)
                }
            }
        }
    }

    /// Whether its nodes, listening there, can be dialled by its address.
    fn is_reached_on(&self, listen: IpAddr) -> bool {
        match (self.ip(), listen) {
            (Some(IpAddr::V6(_)), IpAddr::V4(_)) => false,
            (Some(IpAddr::V4(_)), IpAddr::V6(listen)) => listen.is_unspecified(),
            (_, listen) if listen.is_unspecified() => true,
            // What is dialled may be translated on the way, but not to or from loopback.
            (Some(ip), listen) if ip.is_loopback() || listen.is_loopback() => ip == listen,
            (Some(_), _) => true,
            (None, listen) => listen.is_loopback() == (self.machine() == Machine::Itself),
        }
    }
}

impl NetworkPlan {
    /// Checks that nodes that are laid out so can start, and reach each other.
    pub(super) fn check(&self) -> Result<(), PkiError> {
        // It is a directory beside the chain's own files.
        if !is_plain_name(&self.agency) || ["ca.crt", "ca.key"].contains(&self.agency.as_str()) {
            return Err(PkiError::Name(self.agency.clone()));
        }
        if !is_plain_name(&self.chain_id) {
            return Err(PlanError::ChainId(self.chain_id.clone()).into());
        }
        if (self.layout, self.profile) == (Layout::V3, Profile::Ec) {
            return Err(PlanError::EcIn3x.into());
        }
        self.check_hosts()?;
        self.check_ports()?;
        (0..self.nodes_max()).try_for_each(|index| self.check_config(index))?;
        Ok(())
    }

    /// Most nodes on one machine.
    fn nodes_max(&self) -> u16 {
        self.hosts.iter().map(|host| host.nodes).max().unwrap_or(0)
    }

    fn check_hosts(&self) -> Result<(), PlanError> {
        let bare = self.listen_ip.trim_start_matches('[').trim_end_matches(']');
        let listen = bare.parse::<IpAddr>().ok().map(|listen| listen.to_canonical());
        let listen = listen
            .filter(|&listen| !listen.is_multicast() && listen != Ipv4Addr::BROADCAST)
            .ok_or_else(|| PlanError::ListenAddress(self.listen_ip.clone()))?;
        for (index, host) in self.hosts.iter().enumerate() {
            let is_link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            let leads_nowhere = |ip: IpAddr| {
                ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST || is_link_local(ip)
            };
            if host.ip().is_some_and(leads_nowhere) {
                return Err(PlanError::Unreachable(host.address.clone()));
            }
            if let Some(same) = self.hosts[..index].iter().find(|other| other.machine() == host.machine()) {
                let (one, other) = (same.address.clone(), host.address.clone());
                return Err(PlanError::SameMachine { one, other });
            }
        }
        let is_itself = |host: &&Host| host.machine() == Machine::Itself;
        if let (Some(loopback), Some(other)) =
            (self.hosts.iter().find(is_itself), self.hosts.iter().find(|host| !is_itself(host)))
        {
            let (loopback, other) = (loopback.address.clone(), other.address.clone());
            return Err(PlanError::Loopback { loopback, other });
        }
        if self.hosts.len() > 1 && !listen.is_unspecified() {
            return Err(PlanError::ListenOnOne(listen));
        }
        if let Some(host) = self.hosts.iter().find(|host| !host.is_reached_on(listen)) {
            let is_v6 = matches!(host.ip(), Some(IpAddr::V6(_)));
            return Err(PlanError::ListenElsewhere { listen, host: host.address.clone(), is_v6 });
        }
        let nodes: usize = self.hosts.iter().map(|host| usize::from(host.nodes)).sum();
        if nodes > NEIGHBOURS_MAX + 1 {
            return Err(PlanError::TooManyNodes(nodes));
        }
        Ok(())
    }

    fn ports(&self, first: u16) -> Range<u32> {
        u32::from(first)..u32::from(first) + u32::from(self.nodes_max())
    }

    fn check_ports(&self) -> Result<(), PlanError> {
        let nodes = self.nodes_max();
        for (first, whom) in [(self.p2p_port, "nodes"), (self.channel_port, "applications")] {
            if first == 0 {
                return Err(PlanError::PortZero(whom));
            }
            if self.ports(first).end > 65_536 {
                return Err(PlanError::PastLastPort { first, nodes });
            }
        }
        let (p2p, channel) = (self.ports(self.p2p_port), self.ports(self.channel_port));
        if meet(&p2p, &channel) {
            return Err(PlanError::PortsMeet { nodes, p2p, channel });
        }
        Ok(())
    }

    /// The first node's port for JSON-RPC, which nodes of this program do not listen on.
    fn jsonrpc_port(&self) -> u16 {
        let taken = [self.ports(self.p2p_port), self.ports(self.channel_port)];
        let is_free = |first: &u16| !taken.iter().any(|taken| meet(taken, &self.ports(*first)));
        JSONRPC_PORTS.into_iter().find(is_free).unwrap_or(JSONRPC_PORTS[0])
    }

    /// Reads a node's configuration as the node will.
    fn check_config(&self, index: u16) -> Result<(), PlanError> {
        let refused = |problems: Vec<crate::config::Problem>| {
            PlanError::Config(problems.into_iter().map(|problem| problem.text).collect::<Vec<_>>().join("; "))
        };
        let (config, warnings) = Config::parse(&self.config_ini(index), Path::new(".")).map_err(refused)?;
        if !warnings.is_empty() {
            return Err(refused(warnings));
        }
        debug_assert_eq!(config.relay.chain_id, self.chain_id);
        debug_assert_eq!(config.channel_listen.1, self.channel_port + index);
        debug_assert_eq!(config.p2p_listen.1, self.p2p_port + index);
        Ok(())
    }

    /// The configuration of one node of a host.
    pub(super) fn config_ini(&self, index: u16) -> String {
        let mut peers = String::new();
        let mut number = 0;
        for host in &self.hosts {
            for node in 0..host.nodes {
                peers.push_str(&format!("    node.{number}={}:{}\n", host.address, self.p2p_port + node));
                number += 1;
            }
        }
        let LayoutIni { rpc, certificates, data_path, chain } = self.layout_ini(index);
        format!(
            "[rpc]
    channel_listen_ip={listen_ip}
    channel_listen_port={channel_port}
{rpc}[p2p]
    listen_ip={listen_ip}
    listen_port={p2p_port}
    ; the other nodes; this one may be among them
{peers}
[certificate_blacklist]
    ; node ids (128 hex digits) that are never let in: crl.0=, crl.1=, ...
    ;crl.0=

[certificate_whitelist]
    ; if there is any, only these node ids are let in: cal.0=, cal.1=, ...
    ;cal.0=

{certificates}[network_security]
    ; where the certificates for nodes are, relative to this file
    data_path={data_path}
    key=node.key
    cert=node.crt
    ca_cert=ca.crt

[chain]
    id={chain_id}
{chain}
[compatibility]
    supported_version=2.10.2

[log]
    enable=true
    level=info

[admin]
    ; commands ask by this socket: amop top --admin ./admin.sock
    listen_path=admin.sock
    ; metrics for Prometheus, on this machine only
    ;listen_port={admin_port}

[flow_control]
    ; requests per second that the node answers
    ;limit_req=1000
    ; outbound bandwidth towards other nodes in Mbit/s, decimals allowed
    ;outgoing_bandwidth_limit=2
",
            listen_ip = self.listen_ip,
            channel_port = self.channel_port + index,
            p2p_port = self.p2p_port + index,
            admin_port = ADMIN_PORT.saturating_add(index),
            chain_id = self.chain_id,
        )
    }

    /// What of a node's configuration is the layout's.
    fn layout_ini(&self, index: u16) -> LayoutIni {
        match self.layout {
            Layout::V2 => LayoutIni {
                rpc: format!(
                    "    ; of no effect here; kept so that a FISCO BCOS node can use this file
    jsonrpc_listen_ip=127.0.0.1
    jsonrpc_listen_port={}
    disable_dynamic_group=false
",
                    self.jsonrpc_port() + index
                ),
                certificates: "[group]
    group_data_path=data/
    group_config_path=conf/

",
                data_path: "conf/",
                chain: format!(
                    "    sm_crypto=false
    sm_crypto_channel=false
    ; true: applications connect with the RSA certificates in conf/channel_cert
    rsa_crypto_channel={}
",
                    self.profile == Profile::Rsa
                ),
            },
            Layout::V3 => LayoutIni {
                rpc: String::new(),
                certificates: "[cert]
    ; what applications connect with, relative to this file
    ca_path=conf/
    ca_cert=ca.crt
    node_key=ssl.key
    node_cert=ssl.crt

",
                data_path: "conf/node_cert/",
                chain: String::new(),
            },
        }
    }
}

/// What of a node's configuration is the layout's: further keys of `[rpc]` and `[chain]`, whole sections, and where the
/// certificates for nodes are.
struct LayoutIni {
    rpc: String,
    certificates: &'static str,
    data_path: &'static str,
    chain: String,
}

fn meet(one: &Range<u32>, other: &Range<u32>) -> bool {
    one.start < other.end && other.start < one.end
}

impl Default for NetworkPlan {
    /// Four nodes on this machine with the RSA profile and FISCO BCOS' ports, as `build_chain.sh` does.
    fn default() -> Self {
        Self {
            hosts: vec![Host { address: "127.0.0.1".to_owned(), nodes: 4 }],
            profile: Profile::Rsa,
            layout: Layout::V2,
            agency: "agency".to_owned(),
            p2p_port: 30300,
            channel_port: 20200,
            listen_ip: "0.0.0.0".to_owned(),
            chain_id: "1".to_owned(),
            days: 36_500,
            force: false,
        }
    }
}

/// The name of an agency, the id of a chain, or what may be a host's name: all are good as names of directories.
fn is_plain_name(name: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    !name.is_empty() && name.len() <= 64 && name.chars().all(plain) && !name.starts_with('.')
}

/// A host name, or an IPv4 address.
fn is_host_name(name: &str) -> bool {
    let labels = name.strip_suffix('.').unwrap_or(name);
    // What ends in a number is read as an address, in forms that few expect.
    let ends_in_number = labels.rsplit('.').next().is_some_and(|last| {
        last.starts_with(|first: char| first.is_ascii_digit())
            && last.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'x')
    });
    let is_label = |label: &str| !label.is_empty() && label.len() <= 63 && !label.starts_with('-');
    if name.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    is_plain_name(name) && !ends_in_number && labels.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(hosts: &str) -> NetworkPlan {
        let hosts = hosts.split(',').map(|host| host.parse().unwrap()).collect();
        NetworkPlan { hosts, ..NetworkPlan::default() }
    }

    fn refusal(plan: &NetworkPlan) -> String {
        plan.check().expect_err("it cannot run").to_string()
    }

    #[test]
    fn a_network_that_runs_is_planned() {
        for (hosts, listen) in [
            ("127.0.0.1:4", "0.0.0.0"),
            ("127.0.0.1:4", "127.0.0.1"),
            ("127.0.0.1:4", "::"),
            ("localhost:2", "127.0.0.1"),
            ("[::1]:2", "::1"),
            ("[::1]:2", "[::]"),
            ("10.0.0.1:2,10.0.0.2:3", "0.0.0.0"),
            ("10.0.0.1:2,bank.example:3,[2001:db8::1]:1", "::"),
            // Behind address translation.
            ("203.0.113.7:2", "10.0.0.7"),
            ("bank.example:2", "10.0.0.7"),
        ] {
            let plan = NetworkPlan { listen_ip: listen.to_owned(), ..plan(hosts) };
            plan.check().unwrap_or_else(|error| panic!("{hosts} on {listen}: {error}"));
        }
    }

    #[test]
    fn an_address_that_nodes_do_not_listen_on_or_are_not_reached_at_is_refused() {
        for (hosts, listen, expected) in [
            ("127.0.0.1:2", "localhost", "no address to listen on"),
            ("127.0.0.1:2", "nonsense", "no address to listen on"),
            ("127.0.0.1:2", "", "no address to listen on"),
            ("127.0.0.1:2", "224.0.0.1", "no address to listen on"),
            ("127.0.0.1:2", "127.0.0.2", "cannot be reached at 127.0.0.1"),
            ("127.0.0.1:2", "10.0.0.1", "cannot be reached at 127.0.0.1"),
            ("10.0.0.1:2", "127.0.0.1", "cannot be reached at 10.0.0.1"),
            ("bank.example:2", "127.0.0.1", "cannot be reached at bank.example"),
            ("[::1]:2", "0.0.0.0", "cannot be reached at [::1]: listen on ::"),
            ("10.0.0.1:2", "2001:db8::1", "cannot be reached at 10.0.0.1: listen on 0.0.0.0"),
            ("10.0.0.1:2,10.0.0.2:2", "10.0.0.1", "only one machine has the address 10.0.0.1"),
            ("10.0.0.1:2,10.0.0.1:2", "0.0.0.0", "the same machine"),
            ("[::1]:1,[0:0:0:0:0:0:0:1]:1", "::", "the same machine"),
            ("[::ffff:10.0.0.1]:1,10.0.0.1:1", "::", "the same machine"),
            ("127.0.0.1:1,127.0.0.2:1", "0.0.0.0", "the same machine"),
            ("127.0.0.1:1,LOCALHOST:1", "0.0.0.0", "the same machine"),
            ("Bank.example:1,bank.example.:1", "0.0.0.0", "the same machine"),
            ("127.0.0.1:1,10.0.0.1:1", "0.0.0.0", "each machine itself"),
            ("0.0.0.0:2", "0.0.0.0", "no address that nodes can be reached at"),
            ("255.255.255.255:2", "0.0.0.0", "no address that nodes can be reached at"),
            ("[::]:2", "::", "no address that nodes can be reached at"),
            ("[fe80::1]:2", "::", "no address that nodes can be reached at"),
        ] {
            let plan = NetworkPlan { listen_ip: listen.to_owned(), ..plan(hosts) };
            let refusal = refusal(&plan);
            assert!(refusal.contains(expected), "{hosts} on {listen}: {refusal}");
        }
        for host in [
            "",
            ":2",
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:1001",
            "300.0.0.1:1",
            "10.0.0.01:1",
            "127.1:1",
            "0x7f000001:1",
            "a..b:1",
            "-a:1",
            "cert:1",
            "../a:1",
            "::1:1",
            "a b:1",
        ] {
            assert!(host.parse::<Host>().is_err(), "{host}");
        }
    }

    #[test]
    fn ports_that_meet_or_are_none_are_refused() {
        for (nodes, p2p, channel, expected) in [
            (1, 0, 20200, "port 0 is none"),
            (1, 30300, 0, "port 0 is none"),
            (2, 65535, 20200, "beyond port 65535"),
            (2, 30300, 65535, "beyond port 65535"),
            (1, 21520, 21520, "(21520 to 21520) and for applications (21520 to 21520) meet"),
            (2, 21520, 21521, "(21520 to 21521) and for applications (21521 to 21522) meet"),
            (4, 21520, 21517, "meet"),
        ] {
            let plan =
                NetworkPlan { p2p_port: p2p, channel_port: channel, ..plan(&format!("127.0.0.1:{nodes}")) };
            let refusal = refusal(&plan);
            assert!(refusal.contains(expected), "{nodes} {p2p} {channel}: {refusal}");
        }
        // Those of different machines do not, and the last one is one.
        for (hosts, p2p, channel) in [("10.0.0.1:1,10.0.0.2:1", 2, 1), ("10.0.0.1:2", 65534, 65532)] {
            NetworkPlan { p2p_port: p2p, channel_port: channel, ..plan(hosts) }.check().unwrap();
        }
    }

    #[test]
    fn the_ledgers_port_that_this_program_does_not_use_makes_way() {
        let plan = NetworkPlan { channel_port: 8_547, p2p_port: 18_540, ..plan("127.0.0.1:6") };
        plan.check().unwrap();
        assert!(plan.config_ini(0).contains("jsonrpc_listen_port=28545\n"));
    }

    #[test]
    fn names_that_are_more_than_names_are_refused() {
        for id in ["", "1\n[p2p]", "1;2", " 1", "#", "链"] {
            let plan = NetworkPlan { chain_id: id.to_owned(), ..plan("127.0.0.1:1") };
            assert!(refusal(&plan).contains("no id of a chain"), "{id}");
        }
        for agency in ["", "a/b", "..", "ca.crt", "ca.key", "a\nb"] {
            let plan = NetworkPlan { agency: agency.to_owned(), ..plan("127.0.0.1:1") };
            assert!(matches!(plan.check(), Err(PkiError::Name(_))), "{agency}");
        }
    }

    #[test]
    fn a_layout_of_3x_names_its_files_and_has_no_secp256k1_for_applications() {
        let v3 = NetworkPlan { layout: Layout::V3, ..plan("127.0.0.1:1") };
        v3.check().unwrap();
        let (config, _) = Config::parse(&v3.config_ini(0), Path::new("/n")).unwrap();
        assert_eq!(config.channel_key, Path::new("/n/conf/ssl.key"));
        assert_eq!(config.node_key, Path::new("/n/conf/node_cert/node.key"));
        let ec = NetworkPlan { profile: Profile::Ec, ..v3 };
        assert!(refusal(&ec).contains("RSA certificates only"));
    }

    #[test]
    fn a_network_of_more_nodes_than_can_be_linked_is_refused() {
        assert!(refusal(&plan("10.0.0.1:500,10.0.0.2:14")).contains("too many"));
        plan("10.0.0.1:500,10.0.0.2:13").check().unwrap();
    }
}
