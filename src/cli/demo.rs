//! `amop demo`: a network of three real nodes, what it can do, and a check that it does.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::Args;

use super::help::examples;
use crate::{
    client::{Certificates, Client, ClientOptions, Dialect, MessageKind, Messages, file},
    pki::{Host, NetworkPlan, build_network},
    supervise::{blocking, contained_task},
    wire::ResultCode,
};

const NODES: u16 = 3;
const SOON: Duration = Duration::from_secs(20);

#[derive(Args)]
#[command(
    after_help = examples(
        &[
            ("amop demo", ""),
            ("amop demo --logs", "with what the nodes log"),
        ],
        &[
            "It uses free ports on 127.0.0.1 and a temporary directory, and leaves nothing behind.",
        ],
    )
)]
pub(super) struct DemoArgs {
    /// Show the nodes' logs too.
    #[arg(long)]
    logs: bool,
}

/// A node's process; gone when this is.
struct NodeProcess {
    child: Child,
    /// What it says, where that is not shown.
    said: PathBuf,
}

/// Lines that are shown of a node that could not start.
const SAID_LINES_MAX: usize = 5;

impl NodeProcess {
    fn start(config: &Path, logs: bool) -> Result<Self, super::Failure> {
        let program = std::env::current_exe()?;
        let said = config.with_extension("said");
        let child = Command::new(program)
            .args(["node", "-c"])
            .arg(config)
            .args(if logs { &["--log-level", "info"] } else { &["--log-level", "warn"] })
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(if logs { Stdio::inherit() } else { fs::File::create(&said)?.into() })
            .spawn()?;
        Ok(Self { child, said })
    }

    /// An error with what the node has said, if it has ended.
    fn ensure_alive(&mut self) -> Result<(), super::Failure> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let said = fs::read(&self.said).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(SAID_LINES_MAX)..].join("\n  ");
        let said = if last.is_empty() { "it said nothing; see amop demo --logs".to_owned() } else { last };
        Err(format!("a node of the demo could not start ({status}):\n  {said}").into())
    }

    /// Asks it to stop, and waits for its exit status.
    fn stop(&mut self) -> Result<std::process::ExitStatus, super::Failure> {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let end = Instant::now() + SOON;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("a node did not stop when asked to".into())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn run(args: &DemoArgs) -> Result<ExitCode, super::Failure> {
    let runtime = super::runtime()?;
    let told = runtime.block_on(async {
        tokio::select! {
            told = tell(args) => told,
            _ = tokio::signal::ctrl_c() => Err("stopped by you; everything is cleaned up".into()),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    told.map(|()| ExitCode::SUCCESS)
}

fn say(text: &str) -> Result<(), super::output::OutputError> {
    super::output::print_line(text)
}

/// Fails the demo unless things are as they should be.
fn check(holds: bool, what: &str) -> Result<(), super::Failure> {
    if holds { Ok(()) } else { Err(format!("this is not as it should be: {what}").into()) }
}

async fn tell(args: &DemoArgs) -> Result<(), super::Failure> {
    say("AMOP, the short story: three banks, one network, no ledger touched.\n")?;
    let dir = tempfile::Builder::new().prefix("amop-demo-").tempdir()?;
    let began = Instant::now();
    let (network, channels) = make_network(dir.path())?;
    say(&format!(
        "1. Papers. A consortium needs certificates: a chain CA, an agency, {NODES} nodes, and one for\n   the banks' applications. Made in {} ms, in the layout of FISCO BCOS' build_chain.sh.\n",
        began.elapsed().as_millis()
    ))?;

    let began = Instant::now();
    let mut nodes = Vec::new();
    for index in 0..NODES {
        nodes.push(NodeProcess::start(&network.join(format!("node{index}/config.ini")), args.logs)?);
    }
    let certificates = Certificates::load(&network.join("sdk"))?;
    let connect = |indices: &[usize]| {
        let options = ClientOptions {
            nodes: indices.iter().map(|&index| channels[index].clone()).collect(),
            certificates: certificates.clone(),
            connect_timeout: Duration::from_millis(500),
            dialect: Dialect::V2,
        };
        async move {
            let end = Instant::now() + SOON;
            loop {
                match Client::connect(options.clone()).await {
                    Err(error) if Instant::now() > end => return Err(super::Failure::from(error)),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    Ok(connected) => return Ok(connected),
                }
            }
        }
    };
    wait_until_up(&mut nodes, &channels).await?;
    let (alice, _alice_messages) = connect(&[0]).await?;
    wait_for_links(&alice).await?;
    say(&format!(
        "2. Three nodes start as processes of their own and link up over mutual TLS, each with each.\n   Running and linked after {} ms.\n",
        began.elapsed().as_millis()
    ))?;

    let subscribers = [("Bob", 1usize), ("Carol", 1), ("Dave", 2), ("Erin", 0)];
    let (tallies, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut clients = Vec::new();
    for (name, node) in subscribers {
        let (client, messages) = connect(&[node]).await?;
        client.subscribe(&["payments", "news"]).await?;
        contained_task(serve(name, client.clone(), messages, tallies.clone()));
        clients.push(client);
    }
    let mut all = false;
    let end = Instant::now() + SOON;
    // A subscription has no answer: everybody is known once everybody has been drawn.
    let mut drawn = std::collections::BTreeSet::new();
    while !all && Instant::now() < end {
        let answer = alice.request("payments", b"are you there?", SOON).await?;
        if answer.code == ResultCode::OK {
            drawn.insert(answer.payload);
        }
        all = drawn.len() == subscribers.len();
    }
    check(all, "not every subscriber became known to the publisher's node")?;
    while heard.try_recv().is_ok() {}

    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut round_trips = Vec::new();
    for number in 0..200 {
        let answer = alice.request("payments", format!("payment {number}").as_bytes(), SOON).await?;
        check(answer.code == ResultCode::OK, "a payment was not answered")?;
        *counts.entry(String::from_utf8_lossy(&answer.payload).into_owned()).or_default() += 1;
        round_trips.push(answer.round_trip.as_micros());
    }
    round_trips.sort_unstable();
    let tally: Vec<String> = counts.iter().map(|(who, count)| format!("{who} {count}")).collect();
    say(&format!(
        "3. Unicast. Alice, at node 0, sends 200 payments to \"payments\". Each goes to ONE subscriber,\n   drawn afresh: {}.\n   A round trip took {} µs in the middle, {} µs at the slowest of a hundred.\n",
        tally.join(", "),
        round_trips[round_trips.len() / 2],
        round_trips[round_trips.len() * 99 / 100],
    ))?;
    check(counts.len() == subscribers.len(), "a subscriber was never drawn")?;
    while heard.try_recv().is_ok() {}

    let answer = alice.multicast("news", b"rates are up", SOON).await?;
    check(answer.code == ResultCode::OK, "the multicast was not accepted")?;
    let mut reached = std::collections::BTreeSet::new();
    while reached.len() < subscribers.len() {
        let (name, _) = tokio::time::timeout(SOON, heard.recv()).await?.ok_or("nobody listens")?;
        check(reached.insert(name), "somebody got the news twice")?;
    }
    say(&format!(
        "4. Multicast. \"rates are up\" goes to ALL: {} have it, each once.\n   The node accepted it in {} µs.\n",
        reached.into_iter().collect::<Vec<_>>().join(", "),
        answer.round_trip.as_micros()
    ))?;

    let answer = alice.request("nobody-listens-here", b"hello?", SOON).await?;
    check(answer.code == ResultCode::NO_RECEIVER, "a topic without subscribers was not answered with 100")?;
    say(&format!("5. A topic that nobody has is answered at once: {}.\n", answer.code))?;

    let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answer = alice.request("payments", &file::encode("contract.pdf", &bytes), SOON).await?;
    let (_, payload) = tokio::time::timeout(SOON, heard.recv()).await?.ok_or("nobody listens")?;
    let intact =
        file::decode(&payload).is_some_and(|(name, received)| name == "contract.pdf" && received == bytes);
    check(answer.code == ResultCode::OK && intact, "the file did not arrive as it was sent")?;
    say(&format!(
        "6. A file of 5 MB, in one message, to one subscriber: {} has it, byte for byte, after {} ms.\n",
        String::from_utf8_lossy(&answer.payload),
        answer.round_trip.as_millis()
    ))?;

    say("7. Now node 1 is stopped, with Bob and Carol on it, while Alice goes on paying ...")?;
    let (mut first, mut rest) = (nodes.remove(0), nodes);
    let mut second = rest.remove(0);
    let stopping = blocking(move || second.stop().map_err(|error| error.to_string()));
    let (mut answered, mut others) = (0, BTreeMap::<i32, u32>::new());
    let mut longest = Duration::ZERO;
    for number in 0..300 {
        let answer = alice.request("payments", format!("payment {number}").as_bytes(), SOON).await?;
        longest = longest.max(answer.round_trip);
        if answer.code == ResultCode::OK {
            answered += 1;
        } else {
            *others.entry(answer.code.0).or_default() += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = stopping.await??;
    check(status.success(), "the stopped node did not end in order")?;
    check(answered == 300, &format!("payments were lost while a node stopped: {others:?}"))?;
    say(&format!(
        "   All 300 payments were answered, now by Dave and Erin; the longest took {} ms. Node 1 answered\n   what it had taken, closed its links and ended with status 0.\n",
        longest.as_millis()
    ))?;

    drop(clients);
    let status = first.stop()?;
    check(status.success(), "node 0 did not end in order")?;
    let status = rest.remove(0).stop()?;
    check(status.success(), "node 2 did not end in order")?;
    drop(dir);
    say("8. The other nodes are stopped, the certificates are thrown away. Nothing is left behind.\n")?;
    say(
        "Next: `amop pki network` makes such a network to keep, `amop node --help` runs its nodes,\n`amop sub --help` and `amop pub --help` talk over it.",
    )?;
    Ok(())
}

/// Certificates and configurations on free ports. Gives the nodes' directory and channel addresses.
fn make_network(dir: &Path) -> Result<(PathBuf, Vec<String>), super::Failure> {
    let out = dir.join("nodes");
    // Kernel-chosen ports, one each, that were free a moment ago; the nodes get a list of each other's.
    let holders: Vec<TcpListener> =
        (0..2 * NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let ports: Vec<u16> = holders
        .iter()
        .map(|holder| holder.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?;
    let plan = NetworkPlan {
        hosts: vec![Host { address: "127.0.0.1".to_owned(), nodes: NODES }],
        listen_ip: "127.0.0.1".to_owned(),
        days: 365,
        ..NetworkPlan::default()
    };
    build_network(&plan, &out)?;
    let network = out.join("127.0.0.1");
    for index in 0..NODES {
        let path = network.join(format!("node{index}/config.ini"));
        let mut text = std::fs::read_to_string(&path)?;
        for other in 0..NODES {
            text = text
                .replace(
                    &format!("={}\n", plan.channel_port + other),
                    &format!("={}\n", ports[usize::from(other)]),
                )
                .replace(
                    &format!("={}\n", plan.p2p_port + other),
                    &format!("={}\n", ports[usize::from(NODES + other)]),
                )
                .replace(
                    &format!(":{}\n", plan.p2p_port + other),
                    &format!(":{}\n", ports[usize::from(NODES + other)]),
                );
        }
        std::fs::write(&path, text)?;
    }
    let channels = ports[..usize::from(NODES)].iter().map(|port| format!("127.0.0.1:{port}")).collect();
    Ok((network, channels))
}

/// Waits until all nodes let applications in. One that ends instead has said why.
async fn wait_until_up(nodes: &mut [NodeProcess], channels: &[String]) -> Result<(), super::Failure> {
    let end = Instant::now() + SOON;
    for channel in channels {
        while tokio::net::TcpStream::connect(channel).await.is_err() {
            nodes.iter_mut().try_for_each(NodeProcess::ensure_alive)?;
            check(Instant::now() < end, "a node does not let applications in; see amop demo --logs")?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}

/// Waits until the publisher's node knows all others.
async fn wait_for_links(client: &Client) -> Result<(), super::Failure> {
    let end = Instant::now() + SOON;
    let request = r#"{"jsonrpc":"2.0","method":"getPeers","params":[1],"id":1}"#;
    loop {
        let answer = client.rpc(request, SOON).await?;
        let value: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        if value["result"].as_array().is_some_and(|peers| peers.len() + 1 == usize::from(NODES)) {
            return Ok(());
        }
        check(Instant::now() < end, "the nodes do not find each other")?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers with its name, and reports what came.
async fn serve(
    name: &'static str,
    client: Client,
    mut messages: Messages,
    heard: tokio::sync::mpsc::UnboundedSender<(&'static str, bytes::Bytes)>,
) {
    while let Some(message) = messages.recv().await {
        if message.kind == MessageKind::Unicast {
            client.respond(&message, name.as_bytes()).await;
        }
        if heard.send((name, message.payload)).is_err() {
            return;
        }
    }
}
