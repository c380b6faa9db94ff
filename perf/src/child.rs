//! What rigs of one node share: a node of the built program on a processor of its own, frames of the SDK link, and figures of several runs.

use std::{
    error::Error,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Barrier},
    thread,
    time::Instant,
};

use amop::internal::{
    tls::{
        config::client_config,
        identity::{Identity, Roots},
        settings::TlsSettings,
    },
    wire::sdk::{HEADER_LEN, Header},
};
use hdrhistogram::Histogram;
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

/// What a run has shown.
pub(crate) struct Run {
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) node_us_each: f64,
}

/// Runs loads at once, each on a thread of its own. One gets ready, waits at the barrier, and gives how long its round trips
/// took, in nanoseconds.
pub(crate) fn measure<L>(node: &Node, loads: impl IntoIterator<Item = L>) -> Result<Run, Failure>
where
    L: FnOnce(&Barrier) -> Result<Histogram<u64>, Failure> + Send + 'static,
{
    let loads: Vec<L> = loads.into_iter().collect();
    let ready = Arc::new(Barrier::new(loads.len() + 1));
    let loads: Vec<_> = loads
        .into_iter()
        .map(|load| {
            let ready = ready.clone();
            thread::spawn(move || load(&ready))
        })
        .collect();
    ready.wait();
    let (begun, used_before) = (Instant::now(), node.used()?);
    let mut all = Histogram::<u64>::new(3)?;
    for load in loads {
        all.add(load.join().map_err(|_| "a link failed")??)?;
    }
    let (seconds, used) = (begun.elapsed().as_secs_f64(), node.used()? - used_before);
    let quantile = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Run {
        rate: all.len() as f64 / seconds,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        node_us_each: 1e6 * used / all.len() as f64,
    })
}
