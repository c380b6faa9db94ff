//! Sends one message to one subscriber of a topic, and waits for the answer. Named two nodes, it needs only one of them.
//!
//! ```sh
//! cargo run --example subscribe -- nodes/127.0.0.1/sdk 127.0.0.1:20200 payments &
//! cargo run --example request -- nodes/127.0.0.1/sdk payments '5 to bob' 127.0.0.1:20200 127.0.0.1:20201
//! ```

use std::{error::Error, path::Path, time::Duration};

use amop::client::{Certificates, Client, ClientOptions, Dialect, ResultCode};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [certificates, topic, text, nodes @ ..] = &arguments[..] else {
        return Err("usage: request CERTIFICATES TOPIC TEXT NODE…".into());
    };
    let (client, _messages) = Client::connect(ClientOptions {
        nodes: nodes.to_vec(),
        certificates: Certificates::load(Path::new(certificates))?,
        connect_timeout: Duration::from_secs(10),
        dialect: Dialect::V2,
    })
    .await?;
    let answer = client.request(topic, text.as_bytes(), Duration::from_secs(5)).await?;
    if answer.code != ResultCode::OK {
        return Err(format!("no subscriber has answered: {}", answer.code).into());
    }
    println!("{:?} after {:?}", String::from_utf8_lossy(&answer.payload), answer.round_trip);
    Ok(())
}
