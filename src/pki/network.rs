//! A directory as `build_chain.sh` lays it out, ready to start.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::certificate::{Authority, Issued, KeyType, PkiError, Validity};

/// FISCO BCOS' first port for JSON-RPC over HTTP.
const JSONRPC_PORT: u16 = 8545;

/// Which certificates the channel to applications uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// RSA-2048, X.509 version 1; what `build_chain.sh` makes by default.
    Rsa,
    /// The nodes' own secp256k1 certificates; `build_chain.sh -R`.
    Ec,
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
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_plain_name(address) && address != "cert",
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

impl Default for NetworkPlan {
    /// Four nodes on this machine with the RSA profile and FISCO BCOS' ports, as `build_chain.sh` does.
    fn default() -> Self {
        Self {
            hosts: vec![Host { address: "127.0.0.1".to_owned(), nodes: 4 }],
            profile: Profile::Rsa,
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

/// A host name or IPv4 address, or the name of an agency: also good as the name of a directory.
fn is_plain_name(name: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    !name.is_empty() && name.len() <= 64 && name.chars().all(plain) && !name.starts_with('.')
}

/// Builds all under `out`, or nothing: it is made beside it and moved there when it is whole. With
/// `force` it replaces a network that is there, and nothing else.
pub fn build_network(plan: &NetworkPlan, out: &Path) -> Result<(), PkiError> {
    if out.exists() && !plan.force {
        return Err(PkiError::Exists(out.to_owned()));
    }
    if out.exists() && !out.join("cert/ca.crt").is_file() {
        return Err(PkiError::NotANetwork(out.to_owned()));
    }
    if !is_plain_name(&plan.agency) {
        return Err(PkiError::Name(plan.agency.clone()));
    }
    let mut addresses: Vec<&str> = plan.hosts.iter().map(|host| host.address.as_str()).collect();
    addresses.sort_unstable();
    if let Some(twice) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(PkiError::Host(format!("{}, named twice", twice[0])));
    }
    let nodes_max = plan.hosts.iter().map(|host| host.nodes).max().unwrap_or(0);
    for first in [plan.p2p_port, plan.channel_port, JSONRPC_PORT] {
        if u32::from(first) + u32::from(nodes_max) > 65_536 {
            return Err(PkiError::Ports { first, nodes: nodes_max });
        }
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_dir(parent)?;
    let making = tempfile::Builder::new()
        .prefix(".amop-pki-")
        .tempdir_in(parent)
        .map_err(|source| PkiError::File { path: parent.to_owned(), source })?;
    build_in(plan, making.path())?;
    let failed = |source| PkiError::File { path: out.to_owned(), source };
    fs::set_permissions(making.path(), fs::Permissions::from_mode(0o755)).map_err(failed)?;
    // The old network goes only when the new one is in its place. The directories that are not kept are
    // removed when their handles go.
    let aside = tempfile::Builder::new()
        .prefix(".amop-pki-")
        .tempdir_in(parent)
        .map_err(|source| PkiError::File { path: parent.to_owned(), source })?;
    let old = aside.path().join("old");
    let replaces = out.exists();
    if replaces {
        fs::rename(out, &old).map_err(failed)?;
    }
    if let Err(source) = fs::rename(making.path(), out) {
        if replaces {
            let _ = fs::rename(&old, out);
        }
        return Err(failed(source));
    }
    // Moved away: there is nothing to remove any more.
    let _ = making.keep();
    Ok(())
}

fn build_in(plan: &NetworkPlan, out: &Path) -> Result<(), PkiError> {
    let validity = Validity::days(plan.days);
    let chain = Authority::root(KeyType::Secp256k1, "chain", validity)?;
    let agency = chain.agency(&plan.agency, validity)?;
    let cert = out.join("cert");
    write_pair(&cert, "ca", &chain.issued, &[])?;
    let agency_dir = cert.join(&plan.agency);
    write_pair(&agency_dir, "agency", &agency.issued, &[&chain.issued])?;
    write_public(&agency_dir.join("ca.crt"), &chain.issued.certificate)?;
    let channel = match plan.profile {
        Profile::Rsa => {
            let authority = Authority::root(KeyType::Rsa2048, &plan.agency, validity)?;
            write_pair(&agency_dir.join("channel"), "ca", &authority.issued, &[])?;
            Some(authority)
        }
        Profile::Ec => None,
    };
    let above = [&agency.issued, &chain.issued];
    for host in &plan.hosts {
        let host_dir = out.join(host.address.trim_matches(['[', ']']));
        for index in 0..host.nodes {
            let conf = host_dir.join(format!("node{index}")).join("conf");
            let node = agency.leaf(&format!("node{index}"), "node", validity)?;
            write_pair(&conf, "node", &node, &above)?;
            write_public(&conf.join("ca.crt"), &chain.issued.certificate)?;
            write_public(&conf.join("node.nodeid"), &format!("{}\n", node.node_id.unwrap_or_default()))?;
            if let Some(channel) = &channel {
                let leaf = channel.channel_leaf("FISCO-BCOS", validity)?;
                let channel_cert = conf.join("channel_cert");
                write_pair(&channel_cert, "node", &leaf, &[])?;
                write_public(&channel_cert.join("ca.crt"), &channel.issued.certificate)?;
            }
            let node_dir = host_dir.join(format!("node{index}"));
            write_public(&node_dir.join("config.ini"), &config_ini(plan, index))?;
            write_script(&node_dir.join("start.sh"), START_SCRIPT)?;
            write_script(&node_dir.join("stop.sh"), STOP_SCRIPT)?;
        }
        let sdk = host_dir.join("sdk");
        match &channel {
            Some(channel) => {
                write_pair(&sdk, "sdk", &channel.channel_leaf("FISCO-BCOS", validity)?, &[])?;
                write_public(&sdk.join("ca.crt"), &channel.issued.certificate)?;
            }
            None => {
                write_pair(&sdk, "sdk", &agency.leaf("sdk", "sdk", validity)?, &above)?;
                write_public(&sdk.join("ca.crt"), &chain.issued.certificate)?;
            }
        }
        write_script(&host_dir.join("start_all.sh"), START_ALL_SCRIPT)?;
        write_script(&host_dir.join("stop_all.sh"), STOP_ALL_SCRIPT)?;
    }
    Ok(())
}

/// Writes `NAME.crt` (the certificate and those above it) and `NAME.key` into `dir`, which is made; fails
/// if there is one of them.
pub fn write_pair(dir: &Path, name: &str, issued: &Issued, above: &[&Issued]) -> Result<(), PkiError> {
    create_dir(dir)?;
    for file in [format!("{name}.crt"), format!("{name}.key")] {
        if dir.join(&file).exists() {
            return Err(PkiError::Exists(dir.join(file)));
        }
    }
    let chain: String = std::iter::once(issued)
        .chain(above.iter().copied())
        .map(|issued| issued.certificate.as_str())
        .collect();
    write_public(&dir.join(format!("{name}.crt")), &chain)?;
    write_private(&dir.join(format!("{name}.key")), &issued.key)
}

fn create_dir(dir: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(dir).map_err(|source| PkiError::File { path: dir.to_owned(), source })
}

/// Writes a file that only its owner may read; fails if there is one.
pub fn write_private(path: &Path, content: &str) -> Result<(), PkiError> {
    write(path, content, 0o600)
}

/// Writes a file that anybody may read; fails if there is one.
pub fn write_public(path: &Path, content: &str) -> Result<(), PkiError> {
    write(path, content, 0o644)
}

fn write_script(path: &Path, content: &str) -> Result<(), PkiError> {
    write(path, content, 0o755)
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()));
    written.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => PkiError::Exists(PathBuf::from(path)),
        _ => PkiError::File { path: path.to_owned(), source },
    })
}

fn config_ini(plan: &NetworkPlan, index: u16) -> String {
    let mut peers = String::new();
    let mut number = 0;
    for host in &plan.hosts {
        for node in 0..host.nodes {
            peers.push_str(&format!("    node.{number}={}:{}\n", host.address, plan.p2p_port + node));
            number += 1;
        }
    }
    format!(
        "[rpc]
    channel_listen_ip={listen_ip}
    channel_listen_port={channel_port}
    ; of no effect here; kept so that a FISCO BCOS node can use this file
    jsonrpc_listen_ip=127.0.0.1
    jsonrpc_listen_port={jsonrpc_port}
    disable_dynamic_group=false
[p2p]
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

[group]
    group_data_path=data/
    group_config_path=conf/

[network_security]
    ; where the certificates are, relative to this file
    data_path=conf/
    key=node.key
    cert=node.crt
    ca_cert=ca.crt

[chain]
    id={chain_id}
    sm_crypto=false
    sm_crypto_channel=false
    ; true: applications connect with the RSA certificates in conf/channel_cert
    rsa_crypto_channel={rsa}

[compatibility]
    supported_version=2.10.2

[log]
    enable=true
    level=info

[flow_control]
    ; requests per second that the node answers
    ;limit_req=1000
    ; outbound bandwidth towards other nodes in Mbit/s, decimals allowed
    ;outgoing_bandwidth_limit=2
",
        listen_ip = plan.listen_ip,
        channel_port = plan.channel_port + index,
        jsonrpc_port = JSONRPC_PORT + index,
        p2p_port = plan.p2p_port + index,
        chain_id = plan.chain_id,
        rsa = plan.profile == Profile::Rsa,
    )
}

const START_SCRIPT: &str = r#"#!/bin/sh
# Starts this node in the background. AMOP names the program if it is not on the PATH.
cd "$(dirname "$0")" || exit 1
ours() { [ "$(readlink "/proc/$1/cwd" 2>/dev/null)" = "$(pwd -P)" ]; }
if [ -f amop.pid ] && ours "$(cat amop.pid)"; then
    echo "running already, pid $(cat amop.pid)"
    exit 0
fi
nohup "${AMOP:-amop}" node -c config.ini >>amop.log 2>&1 </dev/null &
echo $! >amop.pid
sleep 1
if kill -0 "$(cat amop.pid)" 2>/dev/null; then
    echo "started, pid $(cat amop.pid), log in $(pwd)/amop.log"
else
    tail -n 5 amop.log
    exit 1
fi
"#;

const STOP_SCRIPT: &str = r#"#!/bin/sh
# Stops this node and waits until it has.
cd "$(dirname "$0")" || exit 1
[ -f amop.pid ] || { echo "not running"; exit 0; }
pid=$(cat amop.pid)
# A process of that number that does not run here is somebody else's.
ours() { [ "$(readlink "/proc/$1/cwd" 2>/dev/null)" = "$(pwd -P)" ]; }
if ours "$pid"; then
    kill "$pid"
    tries=0
    while ours "$pid"; do
        tries=$((tries + 1))
        [ "$tries" -le 150 ] || { echo "pid $pid does not stop"; exit 1; }
        sleep 0.2
    done
fi
rm -f amop.pid
echo "stopped"
"#;

const START_ALL_SCRIPT: &str = r#"#!/bin/sh
# Starts all nodes of this machine.
for node in "$(dirname "$0")"/node*/; do echo "$(basename "$node"): $("$node/start.sh")"; done
"#;

const STOP_ALL_SCRIPT: &str = r#"#!/bin/sh
# Stops all nodes of this machine.
for node in "$(dirname "$0")"/node*/; do echo "$(basename "$node"): $("$node/stop.sh")"; done
"#;
