//! What rigs of one node share: a node of the built program on a processor of its own, frames of the SDK link, and figures of several runs.

use std::{
    error::Error,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use amop::internal::{
    tls::{
        config::client_config,
        identity::{Identity, Roots},
        settings::TlsSettings,
    },
    wire::sdk::{HEADER_LEN, Header},
};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustls::ClientConfig;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Longest frame that is read, in bytes.
pub(crate) const FRAME_LEN_MAX: usize = 32 << 20;

/// A node that runs.
pub(crate) struct Node {
    process: Child,
    pub(crate) channel: SocketAddr,
    // Not every rig links nodes.
    #[allow(dead_code)]
    pub(crate) p2p: SocketAddr,
}

impl Node {
    /// With one reactor, RSA certificates of a directory, and what else is in its configuration. It runs where its parent does.
    pub(crate) fn start(program: &Path, dir: &Path, more: &str) -> Result<Self, Failure> {
        let config = dir.join("config.ini");
        let text = format!(
            "[rpc]\nchannel_listen_ip=127.0.0.1\nchannel_listen_port=0\n[network_security]\ndata_path={}\n\
             [chain]\nrsa_crypto_channel=true\n[log]\nformat=json\n[engine]\nreactors=1\n\
             [p2p]\nlisten_ip=127.0.0.1\nlisten_port=0\n{more}",
            dir.join("conf").display(),
        );
        std::fs::write(&config, text)?;
        let mut process =
            Command::new(program).args(["node", "-c"]).arg(&config).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(process.stderr.take().ok_or("no log")?).lines().map_while(Result::ok);
        let addresses = lines.by_ref().find_map(|line| {
            let value: serde_json::Value = serde_json::from_str(&line).ok()?;
            let address = |field: &str| value["fields"][field].as_str()?.parse().ok();
            Some((address("channel")?, address("p2p")?))
        });
        let (channel, p2p) = addresses.ok_or("the node does not come up")?;
        // It must go on being read.
        thread::spawn(move || lines.for_each(drop));
        Ok(Self { process, channel, p2p })
    }

    /// Processor time in seconds.
    pub(crate) fn used(&self) -> Result<f64, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / ticks)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Has what is started from now on, and this thread, run on one processor.
pub(crate) fn pin(core: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// The TLS of an application of the network in a directory.
pub(crate) fn application(host: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let dir = host.join("sdk");
    let identity = Identity::load(&dir.join("sdk.crt"), &dir.join("sdk.key"))?;
    Ok(client_config(&identity, &Roots::load(&dir.join("ca.crt"))?, &TlsSettings::of_ledger_nodes())?)
}

/// Reads a frame of the SDK link.
pub(crate) fn read_frame(stream: &mut impl Read) -> Result<(Header, Vec<u8>), Failure> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head)?;
    let header = Header::decode(&head).ok_or("half a header")?;
    let len = (header.len as usize).checked_sub(HEADER_LEN).filter(|len| *len <= FRAME_LEN_MAX);
    let mut data = vec![0; len.ok_or("a frame of an odd length")?];
    stream.read_exact(&mut data)?;
    Ok((header, data))
}

/// Least, median and most of a figure of several runs.
pub(crate) fn of<R>(runs: &[R], figure: fn(&R) -> f64) -> (f64, f64, f64) {
    let mut figures: Vec<f64> = runs.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    (figures[0], figures[figures.len() / 2], figures[figures.len() - 1])
}
