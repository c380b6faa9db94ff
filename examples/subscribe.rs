//! Subscribes to a topic, prints what comes, and answers what is to be answered.
//!
//! ```sh
//! amop pki network -l 127.0.0.1:2 --out nodes && nodes/127.0.0.1/start_all.sh
//! cargo run --example subscribe -- nodes/127.0.0.1/sdk 127.0.0.1:20200 payments
//! ```

use std::{error::Error, path::Path, time::Duration};

use amop::client::{Certificates, Client, ClientOptions, Dialect, MessageKind};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [certificates, node, topic] = &arguments[..] else {
        return Err("usage: subscribe CERTIFICATES NODE TOPIC".into());
    };
    let (client, mut messages) = Client::connect(ClientOptions {
        nodes: vec![node.clone()],
        certificates: Certificates::load(Path::new(certificates))?,
        connect_timeout: Duration::from_secs(10),
        dialect: Dialect::V2,
    })
    .await?;
    client.subscribe(&[topic]).await?;
    println!("subscribed to {topic}");
    while let Some(message) = messages.recv().await {
        // {:?} keeps what others wrote from reaching the terminal as it is.
        println!("{:?}: {:?}", message.kind, String::from_utf8_lossy(&message.payload));
        if message.kind == MessageKind::Unicast {
            client.respond(&message, b"received").await;
        }
    }
    Ok(())
}
