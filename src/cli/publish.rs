//! `amop pub`.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use base64ct::{Base64, Encoding};
use clap::{ArgGroup, Args};
use hdrhistogram::Histogram;

use super::{
    connect::{ConnectArgs, DialectArgs},
    help::examples,
    keys::public_key,
    output::{OutputArgs, ended, note, print_line},
    status::{Status, UsageError},
};
use crate::{
    client::{Answer, Client, file},
    escape::{shown_bytes, shown_json, shown_path},
    keys::PublicKey,
    relay::settings::FRAME_LEN_SETTABLE_MAX,
    wire::{
        ResultCode,
        sdk::{self, FRAME_LEN_MAX, payload_len_max},
        topic::{DATA_PREFIX, TOPIC_LEN_MAX},
        trace::seq_to_text,
    },
};

#[derive(Args)]
#[command(group(ArgGroup::new("payload").required(true).args(["text", "file", "raw", "stdin"])))]
#[command(after_help = examples(
        &[
            ("amop pub payments 'pay 5 to bob' -C nodes/127.0.0.1/sdk", ""),
            ("amop pub payments hello --multicast", "to all subscribers"),
            ("amop pub reports --file report.pdf", "with its name, as the Java SDK's demos send it"),
            ("amop pub blobs --raw picture.png", "its bytes and nothing else"),
            ("make_report | amop pub reports --stdin", "the same of standard input; - as the text means it, too"),
            ("amop pub payments ping --count 1000 --rate 100", "a hundred a second"),
            ("amop pub deals 'for two' --public-key one.public.pem --public-key two.public.pem --multicast", "only to who has one of these keys"),
        ],
        &[
            "With -o json an answer that is no UTF-8 text is answer_base64 instead of answer.",
            "Exit status: 0 every message was answered with 0; 3 one was not, or a private topic had no \
             subscriber; 2 the command line is wrong; 1 anything else.",
        ],
    ))]
pub(super) struct PublishArgs {
    /// The topic.
    topic: String,
    /// The text to send; - is what standard input holds.
    text: Option<String>,
    /// A file to send with its name, in one message.
    #[arg(help_heading = "Message", long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A file whose bytes are sent as they are, in one message; - is standard input.
    #[arg(help_heading = "Message", long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Send what standard input holds, as it is, in one message.
    #[arg(help_heading = "Message", long)]
    stdin: bool,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    dialect: DialectArgs,
    /// Send to all subscribers.
    #[arg(help_heading = "Sending", long)]
    multicast: bool,
    /// The topic is a private one: only who proves to have the private half of this key gets the messages. A file
    /// (PEM or hex digits) or the digits themselves; several with several options.
    #[arg(help_heading = "Private topics", long = "public-key", value_name = "FILE|DIGITS")]
    public_keys: Vec<String>,
    /// How long to wait until the first subscriber of a private topic has proved its key, in seconds.
    #[arg(
        help_heading = "Private topics",
        long,
        value_name = "SECONDS",
        default_value_t = 15.0,
        requires = "public_keys"
    )]
    wait: f64,
    /// How many times.
    #[arg(help_heading = "Sending", long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Messages per second; without it the next follows the answer to the last.
    #[arg(help_heading = "Sending", long, value_name = "N")]
    rate: Option<f64>,
    /// How long to wait for an answer, in seconds. By default somewhat longer than the node does: 35, and one more for
    /// each 100 KiB of the message.
    #[arg(help_heading = "Sending", long, value_name = "SECONDS")]
    timeout: Option<f64>,
    #[command(flatten)]
    output: OutputArgs,
}

/// A node's own time for a request, and some for the way.
const TIMEOUT_MIN: Duration = Duration::from_secs(35);

pub(super) fn run(args: PublishArgs) -> Result<ExitCode, super::Failure> {
    let payload = payload(&args)?;
    let seconds = |name: &str, value: f64| {
        Duration::try_from_secs_f64(value)
            .map_err(|_| UsageError::from(format!("{name} must be a number of seconds")))
    };
    let timeout = match args.timeout {
        Some(timeout) => seconds("--timeout", timeout)?,
        None => TIMEOUT_MIN + sdk::transfer_time(payload.len()),
    };
    let wait = seconds("--wait", args.wait)?;
    let keys = args.public_keys.iter().map(|key| public_key(key)).collect::<Result<Vec<_>, _>>()?;
    let gap = match args.rate {
        Some(rate) if rate > 0.0 && rate.is_finite() => Some(Duration::from_secs_f64(1.0 / rate)),
        Some(_) => return Err(UsageError::from("--rate must be a number above 0").into()),
        None => None,
    };
    super::runtime()?.block_on(async {
        let (client, _messages) = args.connect.connect(args.dialect.dialect()).await?;
        let is_heard = keys.is_empty() || introduce(&client, &args.topic, &keys, wait).await?;
        let mut round_trips = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3)?;
        let (mut failed, mut printed) = (0, Ok(()));
        let start = Instant::now();
        for number in 0..args.count {
            if let Some(gap) = gap {
                tokio::time::sleep_until((start + gap.mul_f64(number as f64)).into()).await;
            }
            let sending = async {
                match (args.multicast, keys.is_empty()) {
                    (true, true) => client.multicast(&args.topic, &payload, timeout).await,
                    (false, true) => client.request(&args.topic, &payload, timeout).await,
                    (true, false) => client.multicast_private(&args.topic, &payload, timeout).await,
                    (false, false) => client.request_private(&args.topic, &payload, timeout).await,
                }
            };
            let answer = tokio::select! {
                answer = sending => answer?,
                _ = tokio::signal::ctrl_c() => break,
            };
            if answer.code == ResultCode::OK {
                round_trips.saturating_record(answer.round_trip.as_micros() as u64);
            } else {
                failed += 1;
            }
            if args.count == 1 || args.output.is_json() || answer.code != ResultCode::OK {
                printed = print_line(&describe(&args, &answer));
                if printed.is_err() {
                    break;
                }
            }
        }
        if printed.is_ok() && args.count > 1 && !args.output.is_json() {
            let at = |quantile| round_trips.value_at_quantile(quantile);
            printed = print_line(&format!(
                "{} answered, {failed} not; round trip in µs: min {}, p50 {}, p99 {}, max {}",
                round_trips.len(),
                round_trips.min(),
                at(0.5),
                at(0.99),
                round_trips.max(),
            ));
        }
        let status = if failed == 0 && is_heard { Status::Done } else { Status::Unanswered };
        ended(printed, status)
    })
}

/// Becomes a publisher of a private topic and waits for its first subscriber. If there is none in time, says so
/// and gives `false`.
async fn introduce(
    client: &Client,
    topic: &str,
    keys: &[PublicKey],
    wait: Duration,
) -> Result<bool, super::Failure> {
    let mut verdicts = client.verdicts();
    client.publish_private(topic, keys).await?;
    match tokio::time::timeout(wait, client.authorised(topic)).await {
        Ok(authorised) => authorised.map(|()| true).map_err(Into::into),
        Err(_) => {
            let refused =
                std::iter::from_fn(|| verdicts.try_recv().ok()).any(|verdict| verdict.key.is_none());
            note(&format!(
                "amop: within {wait:?}, nobody has proved to have a key for the private topic {topic:?}{}. A unicast \
                 is answered with 100 now: no subscriber that this publisher has accepted; a multicast is taken with \
                 0 and reaches nobody",
                if refused { "; who tried has another key" } else { "" },
            ));
            Ok(false)
        }
    }
}

/// What is to be sent.
fn payload(args: &PublishArgs) -> Result<Vec<u8>, String> {
    let prefix_len = if args.public_keys.is_empty() { 0 } else { DATA_PREFIX.len() };
    // What some node may take; whether the one that is asked does, the client library knows once it is there.
    let head_len = FRAME_LEN_MAX - payload_len_max((args.topic.len() + prefix_len).min(TOPIC_LEN_MAX));
    let len_max = FRAME_LEN_SETTABLE_MAX - head_len;
    let is_stdin =
        args.stdin || args.text.as_deref() == Some("-") || args.raw.as_deref() == Some(Path::new("-"));
    if is_stdin {
        return read(&mut io::stdin().lock(), "standard input", len_max);
    }
    let read_file = |path: &Path, len_max: usize| {
        let name = shown_path(path);
        let failed = |error| format!("{name}: {error}");
        let mut file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > len_max as u64 {
            return Err(too_long(&name, len_max));
        }
        read(&mut file, &name, len_max)
    };
    if let Some(path) = &args.raw {
        return read_file(path, len_max);
    }
    if let Some(path) = &args.file {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let bytes = read_file(path, len_max - file::encode(&name, b"").len())?;
        return Ok(file::encode(&name, &bytes));
    }
    Ok(args.text.clone().unwrap_or_default().into_bytes())
}

/// All bytes, and never more than a message may carry.
fn read(source: &mut dyn Read, name: &str, len_max: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = source.take(len_max as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("{name}: {error}"))?;
    if bytes.len() > len_max { Err(too_long(name, len_max)) } else { Ok(bytes) }
}

fn too_long(name: &str, len_max: usize) -> String {
    format!("{name}: more than the {len_max} bytes that one message to this topic carries at any node")
}

fn describe(args: &PublishArgs, answer: &Answer) -> String {
    let micros = answer.round_trip.as_micros();
    let seq = seq_to_text(&answer.seq);
    if args.output.is_json() {
        let code = answer.code.0;
        let mut object = serde_json::json!({
            "code": code, "meaning": answer.code.describe(), "round_trip_us": micros, "seq": seq,
        });
        match std::str::from_utf8(&answer.payload) {
            Ok(text) => object["answer"] = text.into(),
            Err(_) => object["answer_base64"] = Base64::encode_string(&answer.payload).into(),
        }
        return shown_json(&object.to_string());
    }
    let mut line = match answer.code {
        ResultCode::OK if args.multicast => format!("accepted by the node in {micros} µs, seq {seq}"),
        ResultCode::OK => format!("answered in {micros} µs, seq {seq}"),
        code => format!("{code}, after {micros} µs, seq {seq}"),
    };
    if !answer.payload.is_empty() {
        line += ": ";
        line += &shown_bytes(&answer.payload);
    }
    line
}
