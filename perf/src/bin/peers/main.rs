//! What the node is measured against, in the same shapes and by the same load: a bare forwarder of bytes, nats-server,
//! the AEAD alone, and bare sockets. `perf/report` runs all of it side by side.

mod aead;
mod floor;
mod nats;
mod sockets;

use std::{process::ExitCode, time::Duration};

use amop::internal::load::{Load, Mix, Pace, Protocol, Security, Shape, Span};
use clap::{Args, Parser};

#[derive(Parser)]
enum Command {
    /// Forward bytes between pairs of connections and do nothing else.
    Floor(floor::FloorArgs),
    /// Load for a running `floor`, in the shape of `amop bench`.
    FloorLoad(LoadArgs),
    /// Load for a running nats-server: request and reply, or publish and subscribe.
    NatsLoad(nats::NatsArgs),
    /// Seal and open records in memory.
    Aead(aead::AeadArgs),
    /// Round trips over bare sockets, with sleeping and without.
    Sockets(sockets::SocketsArgs),
}

/// As `amop bench` has them.
#[derive(Args)]
struct LoadArgs {
    /// host:port.
    #[arg(long, short = 'n')]
    node: String,
    #[arg(long, default_value_t = 128)]
    window: usize,
    /// Messages a second, instead of a window; several are run one after another.
    #[arg(long, value_delimiter = ',')]
    rate: Vec<u32>,
    /// With a rate: look for answers without sleeping.
    #[arg(long, requires = "rate")]
    spin: bool,
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    #[arg(long)]
    subscribers: Option<usize>,
    #[arg(long, default_value_t = 256)]
    payload: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
}

impl LoadArgs {
    fn shape(&self) -> Shape {
        Shape {
            publishers: self.publishers,
            subscribers: self.subscribers.unwrap_or(self.publishers),
            publish_at: self.node.clone(),
            subscribe_at: self.node.clone(),
        }
    }

    fn paces(&self) -> Vec<Pace> {
        match self.rate.as_slice() {
            [] => vec![Pace::Closed { window: self.window }],
            rates => rates.iter().map(|&per_second| Pace::Open { per_second, spins: self.spin }).collect(),
        }
    }

    /// Runs and prints one line of JSON for each pace.
    fn run<P: Protocol>(
        &self,
        protocol: P,
        security: &Security,
        is_multicast: bool,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let mut load = Load::connect(protocol, &self.shape(), security)?;
        load.set_mix(Mix { multicast_percent: if is_multicast { 100 } else { 0 } });
        load.wait_until_ready()?;
        let span = Span {
            warm_up: Duration::from_secs(1),
            counted: Duration::from_secs(self.seconds),
            pids: self.pid.clone(),
        };
        for pace in self.paces() {
            let run = load.run(pace, &span, |_, _| ())?;
            let (what, count) = match is_multicast {
                true => ("delivery", run.outcome.deliveries),
                false => ("message", run.outcome.times.len()),
            };
            println!("{}", run.to_json(pace, what, count));
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Floor(args) => floor::serve(&args),
        Command::FloorLoad(args) => floor::load(&args),
        Command::NatsLoad(args) => nats::load(&args),
        Command::Aead(args) => aead::run(&args),
        Command::Sockets(args) => sockets::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}
