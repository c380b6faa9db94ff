//! `amop sub`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};

use super::{connect::ConnectArgs, keys::PasswordArgs, print_line};
use crate::client::{Message, MessageKind, file};

#[derive(Args)]
#[command(after_help = "\
Examples:
  amop sub payments -c nodes/127.0.0.1/sdk
  amop sub payments orders -n 127.0.0.1:20200 -n 127.0.0.1:20201 --reply ok
  amop sub reports --save incoming        files are written there, under their own names
  amop sub payments -o json | jq .text
  amop sub deals --private-key accounts/0x….pem    publishers that have its public key send to it")]
pub(super) struct SubscribeArgs {
    /// Topics.
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
    /// The topics are private ones: prove to their publishers to have this key (PEM, PKCS#12 or hex digits), as
    /// `amop keys new` makes it.
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    #[command(flatten)]
    password: PasswordArgs,
    /// Answer every unicast with this; without it they are answered with nothing.
    #[arg(long, value_name = "TEXT")]
    reply: Option<String>,
    /// Write received files into this directory.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
}

pub(super) fn run(args: SubscribeArgs) -> Result<ExitCode, super::Failure> {
    if let Some(dir) = &args.save {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    let key = args.private_key.as_ref().map(|file| args.password.private_key(file)).transpose()?;
    super::runtime()?.block_on(async {
        let (client, mut messages) = args.connect.connect().await?;
        match &key {
            Some(key) => {
                for topic in &args.topics {
                    client.subscribe_private(topic, key).await?;
                }
            }
            None => client.subscribe(&args.topics.iter().map(String::as_str).collect::<Vec<_>>()).await?,
        }
        if args.output == Output::Text {
            let topics = args.topics.join(", ");
            let nodes = client.nodes_up().join(", ");
            match &key {
                Some(key) => {
                    let address = key.public_key().address_hex();
                    eprintln!("subscribed to private {topics} at {nodes} with the key of {address}");
                }
                None => eprintln!("subscribed to {topics} at {nodes}"),
            }
        }
        let mut left = args.count;
        while left != Some(0) {
            let message = tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => message,
                    None => break,
                },
                _ = tokio::signal::ctrl_c() => break,
            };
            if message.kind == MessageKind::Unicast {
                client.respond(&message, args.reply.as_deref().unwrap_or("").as_bytes()).await;
            }
            if !print_line(&describe(&args, &message)?) {
                break;
            }
            left = left.map(|left| left - 1);
        }
        // What was answered last is still on its way to the socket.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        Ok(ExitCode::SUCCESS)
    })
}

fn describe(args: &SubscribeArgs, message: &Message) -> Result<String, super::Failure> {
    let seq = String::from_utf8_lossy(&message.seq);
    let kind = match message.kind {
        MessageKind::Unicast => "unicast",
        MessageKind::Multicast => "multicast",
    };
    let text = String::from_utf8_lossy(&message.payload);
    let received = file::decode(&message.payload);
    let saved = match (&args.save, received) {
        (Some(dir), Some((name, bytes))) => {
            Some(file::save(dir, name, bytes).map_err(|error| format!("{}: {error}", dir.display()))?)
        }
        _ => None,
    };
    if args.output == Output::Json {
        let mut object = serde_json::json!({
            "topic": message.topic, "private": message.is_private, "kind": kind, "seq": seq,
            "bytes": message.payload.len(),
        });
        match received {
            Some((name, bytes)) => {
                object["file"] = serde_json::json!({ "name": name, "bytes": bytes.len(), "saved": saved });
            }
            None => object["text"] = text.into(),
        }
        return Ok(object.to_string());
    }
    // Control characters in a message must not reach the terminal.
    let visible = |text: &str| -> String {
        text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
    };
    Ok(match (received, saved) {
        (Some((name, bytes)), Some(path)) => {
            format!(
                "{} ({kind}) file {:?}, {} bytes, saved as {}",
                message.topic,
                visible(name),
                bytes.len(),
                path.display()
            )
        }
        (Some((name, bytes)), None) => {
            format!(
                "{} ({kind}) file {:?}, {} bytes; --save DIR keeps it",
                message.topic,
                visible(name),
                bytes.len()
            )
        }
        (None, _) => format!("{} ({kind}) {}", message.topic, visible(&text)),
    })
}
