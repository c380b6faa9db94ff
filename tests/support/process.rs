//! The built program as a process of its own.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_amop");

/// A node's process.
pub struct Process {
    pub child: Child,
    pub channel: SocketAddr,
    pub p2p: SocketAddr,
    /// Where `[admin] listen_port` is set.
    pub admin: Option<SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
    before_up: String,
}

/// Lines of a node's log that are kept.
const LOG_LINES_MAX: usize = 10_000;

/// Writes a configuration for the certificates in `conf`; `listen` is where for applications and nodes,
/// `more` begins in `[p2p]`.
pub fn write_config(dir: &Path, conf: &Path, rsa: bool, listen: [SocketAddr; 2], more: &str) -> PathBuf {
    let config = dir.join("config.ini");
    let [channel, p2p] = listen;
    let text = format!(
        "[rpc]\nchannel_listen_ip={}\nchannel_listen_port={}\n[network_security]\ndata_path={}\n\
         [chain]\nrsa_crypto_channel={rsa}\n[log]\nformat=json\n[p2p]\nlisten_ip={}\nlisten_port={}\n{more}",
        channel.ip(),
        channel.port(),
        conf.display(),
        p2p.ip(),
        p2p.port(),
    );
    std::fs::write(&config, super::with_io(&text)).unwrap();
    config
}

/// What a program that ends of itself prints, and its status. It fails the test if it does not end.
pub fn output(command: &mut Command) -> Output {
    output_of(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// The same of one that runs; of what is piped.
pub fn output_of(mut child: Child) -> Output {
    fn read(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.map(|mut pipe| pipe.read_to_end(&mut bytes)).transpose().unwrap();
            bytes
        })
    }
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let end = std::time::Instant::now() + super::BOUND;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if std::time::Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            let said = [stdout.join().unwrap(), stderr.join().unwrap()].concat();
            panic!("the program does not end: {}", String::from_utf8_lossy(&said));
        }
        std::thread::park_timeout(std::time::Duration::from_millis(1));
    };
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Starts a node and waits for nothing.
pub fn spawn(config: &Path) -> Child {
    Command::new(PROGRAM).args(["node", "-c"]).arg(config).stderr(Stdio::piped()).spawn().unwrap()
}

impl Process {
    /// On ports of the kernel's choice.
    pub fn start(conf: &Path, rsa: bool) -> Self {
        Self::start_with(conf, rsa, "")
    }

    /// The same with more lines, the first of them for `[p2p]`.
    pub fn start_with(conf: &Path, rsa: bool, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = write_config(dir.path(), conf, rsa, [any; 2], more);
        // Read once, so it may go.
        Self::run(&config)
    }

    /// Runs a configuration and waits until the node is up.
    pub fn run(config: &Path) -> Self {
        Self::come_up(spawn(config)).unwrap_or_else(|(_, log)| panic!("the node does not come up: {log}"))
    }

    /// Waits until a node whose standard error is piped is up; gives it back, with what it said, if it ends instead.
    pub fn come_up(mut child: Child) -> Result<Self, (Child, String)> {
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let mut lines = lines.map_while(Result::ok);
        let mut admin = None;
        let addresses = lines.by_ref().find_map(|line| {
            log.push_str(&line);
            let value: serde_json::Value = serde_json::from_str(&line).ok()?;
            let address = |name: &str| value["fields"][name].as_str()?.parse().ok();
            if value["fields"]["message"] == "the admin endpoint is open" {
                admin = address("address");
            }
            Some((address("channel")?, address("p2p")?))
        });
        let Some((channel, p2p)) = addresses else { return Err((child, log)) };
        let before_up = log;
        let log = Arc::<Mutex<Vec<String>>>::default();
        let kept = log.clone();
        // It must go on being read.
        std::thread::spawn(move || {
            lines.for_each(|line| {
                let mut kept = kept.lock().unwrap();
                if kept.len() < LOG_LINES_MAX {
                    kept.push(line);
                }
            });
        });
        Ok(Self { child, channel, p2p, admin, log, before_up })
    }

    /// What it logged before it was up.
    pub fn before_up(&self) -> &str {
        &self.before_up
    }

    /// What it has logged with such a message since it is up: the fields of each line.
    pub fn logged(&self, message: &str) -> Vec<serde_json::Value> {
        let lines = self.log.lock().unwrap();
        let values = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        values.map(|value| value["fields"].clone()).filter(|fields| fields["message"] == message).collect()
    }

    /// What the admin endpoint says.
    pub fn admin_json(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.admin_text(path)).unwrap()
    }

    /// A figure of the metrics, summed over the reactors.
    pub fn figure(&self, name: &str) -> u64 {
        let metrics = self.admin_text("/metrics");
        let names = [format!("amop_{name}"), format!("amop_{name}_total")];
        let values = metrics.lines().filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let (sample, _) = sample.split_once('{').unwrap_or((sample, ""));
            names.iter().any(|name| name == sample).then(|| value.parse::<u64>().expect("a whole number"))
        });
        let values: Vec<u64> = values.collect();
        assert!(!values.is_empty(), "there is no {name}");
        values.iter().sum()
    }

    fn admin_text(&self, path: &str) -> String {
        let (status, body) = super::get(self.admin.expect("the endpoint is configured"), path);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The sessions of the whole network that subscribe to a topic, as far as this node knows.
    pub fn subscribers(&self, topic: &str) -> u64 {
        let topics = self.admin_json("/topics");
        let items = topics["items"].as_array().expect("a list");
        let sessions = |item: &serde_json::Value| {
            item["local_sessions"].as_u64().unwrap() + item["remote_sessions"].as_u64().unwrap()
        };
        items.iter().find(|item| item["name"] == topic).map_or(0, sessions)
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a running process");
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Asks the process to end, and gives its exit status.
    pub fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
