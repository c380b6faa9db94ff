//! An application at one node.
//!
//! It is told what to do by lines on standard input, and says on standard output when it has done it:
//! `warm` until all targets answer (says `warm`); `go NANOSECONDS` publishes from then on; `stop` publishes no more and waits for
//! open answers (says `done`); `end` writes the account and ends, as does the end of the input.

use std::{
    cell::RefCell,
    fs::File,
    future::{Future, poll_fn},
    io::{BufRead, BufWriter, Write},
    path::PathBuf,
    pin::Pin,
    process::ExitCode,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    thread,
    time::Duration,
};

use amop::{
    client::{Certificates, Client, ClientOptions, Dialect, MessageKind, Messages},
    internal::wire::ResultCode,
};
use clap::Args;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::{JoinSet, LocalSet},
};

use crate::events::{Event, Kind, Payload, now};

/// Longer than any node may take for a request.
const ANSWERED_WITHIN: Duration = Duration::from_secs(40);
/// How long the node may take to start, and the network to find itself.
const START_WITHIN: Duration = Duration::from_secs(30);
const START_PAUSE: Duration = Duration::from_millis(50);
/// What a publisher asks before it counts.
const WARMING: &[u8] = b"warming";

#[derive(Args)]
pub(crate) struct TrafficArgs {
    /// Number of the node.
    #[arg(long)]
    name: usize,
    /// Where the node listens for applications.
    #[arg(long)]
    node: String,
    /// Directory with the application's certificate.
    #[arg(long)]
    certs: PathBuf,
    /// Subscribe, and answer.
    #[arg(long)]
    subscribe: bool,
    /// Publish: unicasts to these nodes' subscribers, unicasts to any, and multicasts, in turn.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<usize>,
    /// Messages in a second, whether or not those before are answered.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Length of a message in bytes.
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// The account.
    #[arg(long)]
    log: PathBuf,
}

type Account = Rc<RefCell<Vec<Event>>>;
type Failure = Box<dyn std::error::Error>;

pub(crate) fn run(args: TrafficArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(args))?;
    Ok(ExitCode::SUCCESS)
}

fn say(what: &str) {
    println!("{what}");
}

fn topic(kind: Kind) -> String {
    match kind {
        Kind::One(target) => format!("lab/one/{target}"),
        Kind::Any => "lab/any".to_owned(),
        Kind::All => "lab/all".to_owned(),
    }
}

async fn serve(args: TrafficArgs) -> Result<(), Failure> {
    let mut orders = orders();
    let account = Account::default();
    let (client, messages) = connect(&args).await?;
    tokio::task::spawn_local(receive(args.name, client.clone(), messages, account.clone()));
    if args.subscribe {
        let topics = [Kind::One(args.name), Kind::Any, Kind::All].map(topic);
        client.subscribe(&topics.each_ref().map(String::as_str)).await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut publishing = None;
    while let Some(order) = orders.recv().await {
        match order.split_once(' ').unwrap_or((&order, "")) {
            ("warm", _) => {
                for &target in &args.targets {
                    warm(&client, &topic(Kind::One(target))).await?;
                }
                say("warm");
            }
            ("go", start) => {
                let due = pace(&args, start.parse()?, stop.clone());
                let task = publish(client.clone(), args.clone_for_publishing(), due, account.clone());
                publishing = Some(tokio::task::spawn_local(task));
            }
            ("stop", _) => {
                stop.store(true, Relaxed);
                if let Some(publishing) = publishing.take() {
                    publishing.await?;
                }
                say("done");
            }
            ("end", _) => break,
            (order, _) => return Err(format!("{order:?} is no order").into()),
        }
    }
    let mut log = BufWriter::new(File::create(&args.log)?);
    for event in account.borrow().iter() {
        serde_json::to_writer(&mut log, event)?;
        log.write_all(b"\n")?;
    }
    log.flush()?;
    Ok(())
}

fn orders() -> UnboundedReceiver<String> {
    let (orders, receiver) = unbounded_channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if orders.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn connect(args: &TrafficArgs) -> Result<(Client, Messages), Failure> {
    let options = ClientOptions {
        nodes: vec![args.node.clone()],
        certificates: Certificates::load(&args.certs)?,
        connect_timeout: Duration::from_secs(2),
        dialect: Dialect::V2,
    };
    let end = tokio::time::Instant::now() + START_WITHIN;
    loop {
        match Client::connect(options.clone()).await {
            Ok(connected) => return Ok(connected),
            Err(error) if tokio::time::Instant::now() > end => {
                return Err(format!("node {}: {error}", args.name).into());
            }
            Err(_) => tokio::time::sleep(START_PAUSE).await,
        }
    }
}

async fn warm(client: &Client, topic: &str) -> Result<(), Failure> {
    let end = tokio::time::Instant::now() + START_WITHIN;
    while client.request(topic, WARMING, START_WITHIN).await?.code != ResultCode::OK {
        if tokio::time::Instant::now() > end {
            return Err(format!("nobody at {topic}: did the nodes find each other?").into());
        }
        tokio::time::sleep(START_PAUSE).await;
    }
    Ok(())
}

/// Answers with the node's number, and writes down what came.
async fn receive(name: usize, client: Client, mut messages: Messages, account: Account) {
    while let Some(message) = messages.recv().await {
        let got = now();
        if let Ok(payload) = serde_json::from_slice(&message.payload) {
            account.borrow_mut().push(Event::Got { receiver: name, message: payload, got });
        }
        if message.kind == MessageKind::Unicast {
            client.respond(&message, name.to_string().as_bytes()).await;
        }
    }
}

/// Tells when messages are due, from a thread of its own, whose sleep is more exact than the runtime's timers.
fn pace(args: &TrafficArgs, start: u64, stop: Arc<AtomicBool>) -> UnboundedReceiver<(u64, u64)> {
    let (due, receiver) = unbounded_channel();
    let rate = u64::from(args.rate.max(1));
    thread::spawn(move || {
        for number in 0.. {
            let at = start + number * 1_000_000_000 / rate;
            thread::sleep(Duration::from_nanos(at.saturating_sub(now())));
            if stop.load(Relaxed) || due.send((number, at)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What a publisher needs to know.
struct Publisher {
    name: usize,
    targets: Vec<usize>,
    payload: usize,
}

impl TrafficArgs {
    fn clone_for_publishing(&self) -> Publisher {
        Publisher { name: self.name, targets: self.targets.clone(), payload: self.payload }
    }
}

/// Publishes what is due, and returns when all is answered.
async fn publish(
    client: Client,
    publisher: Publisher,
    mut schedule: UnboundedReceiver<(u64, u64)>,
    account: Account,
) {
    let mut open = JoinSet::new();
    let streams = publisher.targets.len() + 2;
    while let Some((number, due)) = schedule.recv().await {
        while open.try_join_next().is_some() {}
        let stream = (number % streams as u64) as usize;
        let kind = match publisher.targets.get(stream) {
            Some(&target) => Kind::One(target),
            None if stream == publisher.targets.len() => Kind::Any,
            None => Kind::All,
        };
        let message = Payload { publisher: publisher.name, number, kind, due };
        let mut asking: Pin<Box<dyn Future<Output = ()>>> =
            Box::pin(ask(client.clone(), message, publisher.payload, account.clone()));
        // Polled once here, so that messages leave in the order of their numbers.
        let is_over = poll_fn(|context| Poll::Ready(asking.as_mut().poll(context).is_ready())).await;
        if !is_over {
            open.spawn_local(asking);
        }
    }
    open.join_all().await;
}

async fn ask(client: Client, message: Payload, len: usize, account: Account) {
    let mut bytes = serde_json::to_vec(&message).expect("numbers and names");
    bytes.resize(len.max(bytes.len()), b' ');
    let topic = topic(message.kind);
    let answer = match message.kind {
        Kind::One(_) | Kind::Any => client.request(&topic, &bytes, ANSWERED_WITHIN).await,
        Kind::All => client.multicast(&topic, &bytes, ANSWERED_WITHIN).await,
    };
    let answer = answer.expect("the topic is a valid one");
    let answerer = std::str::from_utf8(&answer.payload).ok().and_then(|name| name.parse().ok());
    let event = Event::Asked { message, code: answer.code.0, answered: now(), answerer };
    account.borrow_mut().push(event);
}
