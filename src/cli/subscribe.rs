//! `amop sub`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use base64ct::{Base64, Encoding};
use clap::Args;

use super::{
    connect::{ConnectArgs, DialectArgs},
    help::examples,
    keys::PasswordArgs,
    output::{OutputArgs, note, print_bytes, print_line},
    status::{Status, UsageError},
};
use crate::{
    client::{Client, Message, MessageKind, file},
    escape::{shown, shown_bytes, shown_json, shown_path},
    wire::{ResultCode, trace::seq_to_text},
};

/// What a publisher is answered whose file could not be written.
const NOT_WRITTEN: ResultCode = ResultCode(1);

#[derive(Args)]
#[command(after_help = examples(
        &[
            ("amop sub payments -C nodes/127.0.0.1/sdk", ""),
            ("amop sub payments orders -n 127.0.0.1:20200 -n 127.0.0.1:20201 --reply ok", ""),
            ("amop sub reports --save incoming", "files are written there, under their own names"),
            ("amop sub payments -o json | jq .text", ""),
            ("amop sub blobs --raw --count 1 > picture.png", "the payload, byte for byte"),
            ("amop sub deals --private-key accounts/0x….pem", "publishers that have its public key send to it"),
        ],
        &[
            "A message is a line: what a terminal might obey is shown as \\u{…}, bytes that are no UTF-8 text as \
             \\x…. With -o json a payload is text, or base64 where it is no UTF-8 text. A unicast is answered once \
             it is printed and its file is on the disk; a file that cannot be written is told here, and to its \
             publisher by an answer with code 1.",
            "Exit status: 0 what was asked for came, or it was ended; 4 a file could not be written; 2 the \
             command line is wrong; 1 anything else.",
        ],
    ))]
pub(super) struct SubscribeArgs {
    /// Topics.
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    dialect: DialectArgs,
    /// The topics are private ones: prove to their publishers to have this key (PEM, PKCS#12 or hex digits), as
    /// `amop keys new` makes it.
    #[arg(help_heading = "Private topics", long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    #[command(flatten)]
    password: PasswordArgs,
    /// Answer every unicast with this; without it they are answered with nothing.
    #[arg(help_heading = "Messages", long, value_name = "TEXT")]
    reply: Option<String>,
    /// Write received files into this directory.
    #[arg(help_heading = "Messages", long, value_name = "DIR")]
    save: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Print the payloads and nothing else, as they are: they may be no text, and a terminal obeys what is in them.
    #[arg(help_heading = "Output", long, conflicts_with_all = ["output", "json", "save"])]
    raw: bool,
    /// End after so many messages.
    #[arg(help_heading = "Messages", long, value_name = "N")]
    count: Option<u64>,
}

pub(super) fn run(args: SubscribeArgs) -> Result<ExitCode, super::Failure> {
    if let Some(dir) = &args.save {
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", shown_path(dir)))?;
    }
    if let Some(twice) = args
        .topics
        .iter()
        .enumerate()
        .find_map(|(at, topic)| args.topics[..at].contains(topic).then_some(topic))
    {
        return Err(UsageError::from(format!(
            "the topic {twice:?} is named twice: name each once, a message comes once anyway"
        ))
        .into());
    }
    let key = args.private_key.as_ref().map(|file| args.password.private_key(file)).transpose()?;
    super::runtime()?.block_on(async {
        let (client, mut messages) = args.connect.connect(args.dialect.dialect()).await?;
        match &key {
            Some(key) => {
                for topic in &args.topics {
                    client.subscribe_private(topic, key).await?;
                }
            }
            None => client.subscribe(&args.topics.iter().map(String::as_str).collect::<Vec<_>>()).await?,
        }
        if !args.output.is_json() {
            let topics = shown(&args.topics.join(", "));
            let nodes = shown(&client.nodes_up().join(", "));
            note(&match &key {
                Some(key) => {
                    let address = key.public_key().address_hex();
                    format!("subscribed to private {topics} at {nodes} with the key of {address}")
                }
                None => format!("subscribed to {topics} at {nodes}"),
            });
        }
        let mut left = args.count;
        let mut all_saved = true;
        while left != Some(0) {
            let message = tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => message,
                    None => break,
                },
                _ = tokio::signal::ctrl_c() => break,
            };
            // What cannot be shown is not answered: this ends, and the node tries another subscriber.
            let received = Received::new(&message, args.save.as_deref());
            if args.raw {
                print_bytes(&message.payload)?;
            } else {
                print_line(&describe(args.output, &message, &received))?;
            }
            all_saved &= received.failure().is_none();
            answer(&args, &client, &message, &received).await;
            left = left.map(|left| left - 1);
        }
        // What was answered last is still on its way to the socket.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        Ok(if all_saved { Status::Done } else { Status::Incomplete }.into())
    })
}

/// Answers a unicast, as it turned out.
async fn answer(args: &SubscribeArgs, client: &Client, message: &Message, received: &Received<'_>) {
    let is_unicast = message.kind == MessageKind::Unicast;
    if let (Some((name, error)), Some(dir)) = (received.failure(), &args.save) {
        note(&format!(
            "amop: {}/{}: the received file of {} bytes is not there: {error}{}",
            shown_path(dir),
            shown(name),
            received.file_len(),
            if is_unicast { "; its sender is told" } else { "" },
        ));
        if is_unicast {
            // What is where on this machine is not the sender's to know.
            let text = format!("the file could not be written: {}", error.kind());
            client.respond_with(message, NOT_WRITTEN, text.as_bytes()).await;
        }
    } else if is_unicast {
        client.respond(message, args.reply.as_deref().unwrap_or("").as_bytes()).await;
    }
}

/// A message's payload, and what became of the file in it.
enum Received<'a> {
    /// No file.
    Bytes,
    /// A file, and its name as the sender chose it.
    File {
        name: &'a str,
        len: usize,
        /// If it was to be saved: where it is, or why it is not.
        saved: Option<std::io::Result<PathBuf>>,
    },
}

impl<'a> Received<'a> {
    /// Looks at a payload, and saves the file in it.
    fn new(message: &'a Message, dir: Option<&Path>) -> Self {
        match file::decode(&message.payload) {
            Some((name, bytes)) => {
                let saved = dir.map(|dir| file::save(dir, name, bytes));
                Self::File { name, len: bytes.len(), saved }
            }
            None => Self::Bytes,
        }
    }

    /// The name of the file that should have been saved, and why it was not.
    fn failure(&self) -> Option<(&str, &std::io::Error)> {
        match self {
            Self::File { name, saved: Some(Err(error)), .. } => Some((name, error)),
            _ => None,
        }
    }

    fn file_len(&self) -> usize {
        match self {
            Self::File { len, .. } => *len,
            Self::Bytes => 0,
        }
    }
}

fn describe(output: OutputArgs, message: &Message, received: &Received<'_>) -> String {
    let kind = match message.kind {
        MessageKind::Unicast => "unicast",
        MessageKind::Multicast => "multicast",
    };
    if output.is_json() {
        return shown_json(&describe_json(kind, message, received).to_string());
    }
    let what = match received {
        Received::Bytes => shown_bytes(&message.payload),
        Received::File { name, len, saved } => {
            let fate = match saved {
                Some(Ok(path)) => format!(", saved as {}", shown_path(path)),
                Some(Err(error)) => format!(", not saved: {error}"),
                None => "; --save DIR keeps it".to_owned(),
            };
            format!("file {}, {len} bytes{fate}", shown(name))
        }
    };
    format!("{} ({kind}) {what}", shown(&message.topic))
}

/// All of a message: its payload as text or in base64, unless it is in a file.
fn describe_json(kind: &str, message: &Message, received: &Received<'_>) -> serde_json::Value {
    let payload = &message.payload;
    let mut object = serde_json::json!({
        "topic": message.topic, "private": message.is_private, "kind": kind, "seq": seq_to_text(&message.seq),
        "bytes": payload.len(),
    });
    if let Received::File { name, len, saved } = received {
        object["file"] = match saved {
            Some(Ok(path)) => {
                serde_json::json!({ "name": name, "bytes": len, "saved": path.to_string_lossy() })
            }
            Some(Err(error)) => {
                serde_json::json!({ "name": name, "bytes": len, "saved": null, "error": error.to_string() })
            }
            None => serde_json::json!({ "name": name, "bytes": len, "saved": null }),
        };
        if let Some(Ok(_)) = saved {
            return object;
        }
    }
    match std::str::from_utf8(payload) {
        Ok(text) => object["text"] = text.into(),
        Err(_) => object["base64"] = Base64::encode_string(payload).into(),
    }
    object
}
