//! A private topic: a subscriber with a key, and a publisher that knows the key's public half, here in one program.
//!
//! ```sh
//! amop pki network -l 127.0.0.1:2 --out nodes && nodes/127.0.0.1/start_all.sh
//! cargo run --example private_topic -- nodes/127.0.0.1/sdk 127.0.0.1:20200 127.0.0.1:20201
//! ```

use std::{error::Error, path::Path, time::Duration};

use amop::{
    client::{Certificates, Client, ClientOptions, Dialect, Messages},
    keys::PrivateKey,
};

const TOPIC: &str = "deals";
const TIMEOUT: Duration = Duration::from_secs(10);

async fn connect(certificates: &str, node: &str) -> Result<(Client, Messages), Box<dyn Error>> {
    let options = ClientOptions {
        nodes: vec![node.to_owned()],
        certificates: Certificates::load(Path::new(certificates))?,
        connect_timeout: TIMEOUT,
        dialect: Dialect::V2,
    };
    Ok(Client::connect(options).await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [certificates, subscriber_node, publisher_node] = &arguments[..] else {
        return Err("usage: private_topic CERTIFICATES NODE-OF-THE-SUBSCRIBER NODE-OF-THE-PUBLISHER".into());
    };
    // `keys::file` reads one from a file.
    let key = PrivateKey::generate();

    let (subscriber, mut messages) = connect(certificates, subscriber_node).await?;
    subscriber.subscribe_private(TOPIC, &key).await?;

    let (publisher, _messages) = connect(certificates, publisher_node).await?;
    publisher.publish_private(TOPIC, &[key.public_key()]).await?;
    // The subscriber proves that it has the key; until then nothing reaches it.
    tokio::time::timeout(TIMEOUT, publisher.authorised(TOPIC)).await??;

    let answering = async {
        if let Some(message) = messages.recv().await {
            println!("the subscriber has {:?}", String::from_utf8_lossy(&message.payload));
            subscriber.respond(&message, b"agreed").await;
        }
    };
    let asking = publisher.request_private(TOPIC, b"5 to bob", TIMEOUT);
    let ((), answer) = tokio::join!(answering, asking);
    let answer = answer?;
    println!("the publisher has {:?} with code {}", String::from_utf8_lossy(&answer.payload), answer.code);
    Ok(())
}
