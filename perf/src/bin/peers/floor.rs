//! The floor: what moving the bytes alone costs on io_uring, with the same ring, buffers and batching as the node.

use std::{error::Error, net::TcpListener, time::Duration};

use amop::internal::{
    engine::streams::{Input, Streams},
    load::{Amop, Security},
};
use clap::Args;

use super::LoadArgs;

#[derive(Args)]
pub(crate) struct FloorArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Connections that come first; as many come then, each for one of those, in the same order.
    #[arg(long, default_value_t = 1)]
    pairs: usize,
}

pub(crate) fn serve(args: &FloorArgs) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(&args.listen)?;
    println!("{}", listener.local_addr()?);
    loop {
        forward(&listener, args.pairs)?;
    }
}

/// Forwards between one set of pairs, until one of them ends.
fn forward(listener: &TcpListener, pairs: usize) -> Result<(), Box<dyn Error>> {
    // As the node has them.
    let mut streams = Streams::new(256, 32 * 1024)?;
    for _ in 0..2 * pairs {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        streams.add(socket.into())?;
    }
    let mut has_ended = false;
    while !has_ended {
        streams.turn(Duration::from_secs(1), |outputs, stream, input| match input {
            Input::Bytes(bytes) => {
                outputs.of((stream + pairs) % (2 * pairs)).extend_from_slice(bytes);
            }
            Input::Ready | Input::End | Input::Broken(_) => has_ended = true,
        })?;
    }
    Ok(())
}

pub(crate) fn load(args: &LoadArgs) -> Result<(), Box<dyn Error>> {
    let protocol = Amop::without_hello("amop-bench", args.publishers, args.payload);
    args.run(protocol, &Security::Plain, false)
}
