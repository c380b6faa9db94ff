//! What would keep a node from starting, found without starting it (`amop node --check`).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use super::{
    StartError,
    credentials::{Credentials, Finding},
};
use crate::{
    admin::AdminListener,
    bounds,
    config::Config,
    door::{
        CHANNEL_KEY, Listeners, P2P_KEY,
        probe::{PeerAnswer, ProbeFault},
    },
    engine,
    escape::{shown, shown_path},
    log,
};

/// After this time no further node of `[p2p]` is looked at.
const PEERS_LOOKED_AT_WITHIN: Duration = Duration::from_secs(30);

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is wrong, or may be.
    pub findings: Vec<Finding>,
    /// What is ready.
    pub ready: Vec<String>,
}

/// Everything that can be said of a configuration on this machine, besides what its text says. Ports are opened for a moment;
/// one that a node holds which runs with this very `file` is right. Ledger nodes are asked for their version.
pub fn check(config: &Config, file: &Path, now: SystemTime) -> Checked {
    let mut checked = Checked { findings: Vec::new(), ready: memory(config) };
    match Credentials::load(config) {
        Ok(credentials) => {
            checked.findings = credentials.findings(config, now);
            if config.sm_crypto {
                checked.ready.push(format!(
                    "[chain] sm_crypto=true: applications with standard TLS, and nodes of this kind, go by {}; node id {}",
                    shown_path(&config.node_certificate),
                    credentials.signer.id().to_hex(),
                ));
            }
            checked.ready.push(applications(config));
            ask_ledger_nodes(config, &credentials, &mut checked);
            look_at_peers(config, &credentials, &mut checked);
        }
        Err(error) => checked.findings.push(Finding::error(error)),
    }
    checked.findings.extend(closed_ports(config, file));
    if let Some(Err(error)) = config.log.files.as_ref().map(log::check) {
        checked.findings.push(Finding::error(error));
    }
    match engine::check(&config.engine) {
        Ok((io, None)) => checked.ready.push(format!("links are on {io}")),
        Ok((io, Some(why))) => checked.findings.push(Finding::warning(format!(
            "links would be on {io}, where a message costs more processor time: {why}; or say so by [engine] io=epoll"
        ))),
        Err(error) => checked.findings.push(Finding::error(error)),
    }
    checked
}

/// How much memory the node takes at most, and what it has no room for.
fn memory(config: &Config) -> Vec<String> {
    let max = &config.memory_max;
    let mebibytes = |bytes: u64| bounds::grouped(bytes >> 20);
    let whose = if max.is_set { "set" } else { "by default" };
    let mut lines = vec![format!(
        "[engine] memory_max {whose}: {} MiB, of which all bounds together take {} MiB (amop bounds)",
        mebibytes(max.bytes),
        mebibytes(bounds::memory(&config.bounds())),
    )];
    if !max.shortages.is_empty() {
        lines.push(format!("with more memory there would be more: {}", max.shortages.join(", ")));
    }
    lines
}

/// Whose applications have certificates that fit.
fn applications(config: &Config) -> String {
    let (certificate, roots) = (shown_path(&config.channel_certificate), shown_path(&config.channel_roots));
    if config.rsa_channel {
        return format!(
            "applications of FISCO BCOS 2.x and 3.x with RSA certificates of {roots} fit with {certificate}"
        );
    }
    format!(
        "applications of FISCO BCOS 2.x with certificates of {roots} fit with {certificate}; those of 3.x have RSA certificates, for which it \
         takes [cert] or [chain] rsa_crypto_channel"
    )
}

/// Looks at the nodes of `[p2p]`. One that is away now may come later; one that is none is a mistake.
fn look_at_peers(config: &Config, credentials: &Credentials, checked: &mut Checked) {
    let Some(probe) = credentials.peer_probe(config) else { return };
    let end = Instant::now() + PEERS_LOOKED_AT_WITHIN;
    for (number, address) in config.membership.peers.iter().enumerate() {
        let shown_address = shown(address);
        if Instant::now() > end {
            let left = config.membership.peers.len() - number;
            checked
                .ready
                .push(format!("{left} further nodes of [p2p] were not looked at: that takes too long"));
            return;
        }
        match probe.look_at(address) {
            Ok(PeerAnswer::Own) => {
                checked.ready.push(format!("[p2p] {shown_address}: this node itself, which is in order"));
            }
            Ok(PeerAnswer::Node { subject }) => {
                checked
                    .ready
                    .push(format!("[p2p] {shown_address}: a node of this kind, {}", shown(&subject)));
            }
            Ok(PeerAnswer::Node2x { subject }) => {
                checked.ready.push(format!(
                    "[p2p] {shown_address}: a node of FISCO BCOS 2.x, {}: messages pass to and from its applications, those of private \
                     topics left out",
                    shown(&subject)
                ));
            }
            Ok(PeerAnswer::Away { reason }) => {
                checked.ready.push(format!("[p2p] {shown_address}: nobody is there now: {}", shown(&reason)));
            }
            Err(ProbeFault { what, remedy }) => checked.findings.push(Finding::warning(format!(
                "[p2p] {shown_address}: {}; {}",
                shown(&what),
                shown(&remedy)
            ))),
        }
    }
}

/// Asks each ledger node what it is. The node starts without any, so what is wrong is a warning.
fn ask_ledger_nodes(config: &Config, credentials: &Credentials, checked: &mut Checked) {
    let (Some(ledger), Some(probe)) = (&config.ledger, credentials.ledger_probe()) else { return };
    let carries_amop = config.relay.ledger.as_ref().is_some_and(|ledger| ledger.amop);
    let messages = if carries_amop { "; messages go by it, too" } else { "" };
    for address in &ledger.addresses {
        let shown_address = shown(address);
        let answer = match probe.ask(address) {
            Ok(answer) => answer,
            Err(ProbeFault { what, remedy }) => {
                let text = format!("ledger node {shown_address}: {}; {}", shown(&what), shown(&remedy));
                checked.findings.push(Finding::warning(text));
                continue;
            }
        };
        let groups: Vec<String> = answer.groups.iter().map(u64::to_string).collect();
        checked.ready.push(format!(
            "ledger node {shown_address}: FISCO BCOS {}, chain {}, groups {}{messages}",
            shown(&answer.version),
            shown(&answer.chain_id),
            if groups.is_empty() { "none".to_owned() } else { groups.join(", ") },
        ));
        for group in &answer.closed_groups {
            let key = probe.identity.node_id().map_or_else(|| "its key".to_owned(), |id| id.to_hex());
            checked.findings.push(Finding::warning(format!(
                "ledger node {shown_address}: group {group} has an [sdk_allowlist] without the key of sdk.crt in [ledger] certificates, and answers \
                 -40012: add {key} there"
            )));
        }
    }
}

fn closed_ports(config: &Config, file: &Path) -> impl Iterator<Item = Finding> {
    let (channel, p2p) = (&config.channel_listen, &config.p2p_listen);
    let mut tried = vec![
        (channel.1, Listeners::check(channel, CHANNEL_KEY).map_err(StartError::from)),
        (p2p.1, Listeners::check(p2p, P2P_KEY).map_err(StartError::from)),
    ];
    // The socket's file is not made: that of a node that runs would have to be told from another's.
    let admin = AdminListener::bind(config.admin_listen, None, None, &config.admin_access);
    let port = config.admin_listen.map_or(0, |(_, port)| port);
    tried.push((port, admin.map(drop).map_err(StartError::from)));
    tried.into_iter().filter_map(|(port, tried)| {
        let error = tried.err()?;
        if !error.is_address_in_use() {
            return Some(Finding::error(error));
        }
        let holders = holders(port);
        if holders.iter().any(|holder| holder.runs_with(file)) {
            return None;
        }
        let names: Vec<_> = holders.iter().map(|holder| holder.name.as_str()).collect();
        let by = if names.is_empty() { String::new() } else { format!(" (held by {})", names.join(", ")) };
        Some(Finding::error(format!("{error}{by}")))
    })
}

/// A process that listens on a port.
struct Holder {
    id: u32,
    name: String,
}

impl Holder {
    /// Whether it is a node that was started with this configuration.
    fn runs_with(&self, file: &Path) -> bool {
        let process = PathBuf::from(format!("/proc/{}", self.id));
        let Ok(command) = fs::read(process.join("cmdline")) else { return false };
        let arguments: Vec<String> =
            command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        if arguments.get(1).map(String::as_str) != Some("node") {
            return false;
        }
        let given = arguments.iter().enumerate().find_map(|(index, word)| match word.as_str() {
            "-c" | "--config" => arguments.get(index + 1).cloned(),
            word => word.strip_prefix("--config=").or_else(|| word.strip_prefix("-c")).map(str::to_owned),
        });
        let given = given.unwrap_or_else(|| "config.ini".to_owned());
        let here = fs::canonicalize(file);
        let there = fs::canonicalize(process.join("cwd").join(given));
        matches!((here, there), (Ok(here), Ok(there)) if here == there)
    }
}

/// Who listens on the port, as far as this user may see it.
fn holders(port: u16) -> Vec<Holder> {
    let sockets: BTreeSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_sockets(&table, port))
        .collect();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let holds = |id: &u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{id}/fd")) else { return false };
        files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).any(|target| {
            let socket = target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'));
            socket.is_some_and(|socket| sockets.contains(socket))
        })
    };
    let holder = |id| {
        let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        Holder { id, name: format!("{}, process {id}", name.trim().escape_default()) }
    };
    ids.filter(holds).map(holder).collect()
}

/// The numbers of the sockets that listen on a port, from a table of the kernel (`/proc/net/tcp`).
fn listening_sockets(table: &str, port: u16) -> Vec<String> {
    /// `TCP_LISTEN`.
    const LISTENS: &str = "0A";
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, number) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (_, local_port) = local.rsplit_once(':')?;
        let is_it = *state == LISTENS && u16::from_str_radix(local_port, 16) == Ok(port);
        is_it.then(|| (*number).to_owned())
    };
    table.lines().skip(1).filter_map(socket).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_holds_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let holders = holders(listener.local_addr().unwrap().port());
        assert!(holders.iter().any(|holder| holder.id == std::process::id()));
        assert!(!holders.iter().any(|holder| holder.runs_with(Path::new("Cargo.toml"))));
    }

    #[test]
    fn only_listeners_on_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 111 1\n   \
                     1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0 0 222 1\n   \
                     2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 333 1\n";
        assert_eq!(listening_sockets(table, 8080), ["111"]);
    }
}
