//! Bare sockets, without a ring, TLS or frames: what a round trip takes at least on this machine, where whoever passes bytes
//! on sleeps in between, and where it looks for them without sleeping.

use std::{
    error::Error,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use hdrhistogram::Histogram;

#[derive(Args)]
pub(crate) struct SocketsArgs {
    /// Length of a frame in bytes.
    #[arg(long, default_value_t = 340)]
    frame: usize,
    /// Round trips a second.
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Processor of whoever passes bytes on.
    #[arg(long, default_value_t = 0)]
    server: usize,
    /// Processor of whoever sends them.
    #[arg(long, default_value_t = 1)]
    load: usize,
}

/// Prints the median round trip in microseconds, either way. As through a node it goes to the other side twice.
pub(crate) fn run(args: &SocketsArgs) -> Result<(), Box<dyn Error>> {
    let (sleeping, spinning) = (median(args, false)?, median(args, true)?);
    let told = serde_json::json!({ "sleeping_p50_us": sleeping, "spinning_p50_us": spinning });
    println!("{told}");
    Ok(())
}

fn median(args: &SocketsArgs, spins: bool) -> Result<f64, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (frame, server) = (args.frame, args.server);
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    let passing = thread::spawn(move || {
        pin(server);
        // It ends when the connection does.
        let _ = pass_on(far, frame, spins);
    });
    pin(args.load);
    near.set_nodelay(true)?;
    near.set_nonblocking(true)?;
    let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut bytes = vec![0; frame];
    let (start, gap) = (Instant::now(), Duration::from_secs(1) / args.rate);
    for number in 0..args.rate * u32::try_from(args.seconds)? {
        let due = start + gap * number;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        for _ in 0..2 {
            near.write_all(&bytes)?;
            fill(&mut near, &mut bytes)?;
        }
        times.record(due.elapsed().as_nanos() as u64)?;
    }
    drop(near);
    passing.join().map_err(|_| "whoever passes bytes on failed")?;
    Ok(times.value_at_quantile(0.5) as f64 / 1_000.0)
}

fn pass_on(mut stream: TcpStream, frame: usize, spins: bool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(spins)?;
    let mut bytes = vec![0; frame];
    loop {
        fill(&mut stream, &mut bytes)?;
        stream.write_all(&bytes)?;
    }
}

fn fill(stream: &mut TcpStream, bytes: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => filled += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where that is not allowed, the figures say less.
fn pin(processor: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("peers: not pinned to processor {processor}: {error}");
    }
}
