//! `amop pub`.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use hdrhistogram::Histogram;

use super::{connect::ConnectArgs, keys::public_key, print_line, subscribe::Output};
use crate::{
    client::{Answer, Client, file},
    keys::PublicKey,
    wire::{ResultCode, sdk::FRAME_LEN_MAX},
};

#[derive(Args)]
#[command(after_help = "\
Examples:
  amop pub payments 'pay 5 to bob' -c nodes/127.0.0.1/sdk
  amop pub payments hello --multicast
  amop pub reports --file report.pdf
  amop pub payments ping --count 1000 --rate 100
  amop pub deals 'for two only' --public-key one.public.pem --public-key two.public.pem --multicast

Exit status: 0 if every message was answered with 0, 2 if any was not or a private topic had no subscriber, 1 on
other errors.")]
pub(super) struct PublishArgs {
    /// The topic.
    topic: String,
    /// The text to send.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    text: Option<String>,
    /// A file to send, in one message.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Send to all subscribers.
    #[arg(long)]
    multicast: bool,
    /// The topic is a private one: only who proves to have the private half of this key gets the messages. A file
    /// (PEM or hex digits) or the digits themselves; several with several options.
    #[arg(long = "public-key", value_name = "FILE|DIGITS")]
    public_keys: Vec<String>,
    /// How long to wait until the first subscriber of a private topic has proved its key, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 15.0, requires = "public_keys")]
    wait: f64,
    /// How many times.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Messages per second; without it the next follows the answer to the last.
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// How long to wait for an answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 35.0)]
    timeout: f64,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: PublishArgs) -> Result<ExitCode, super::Failure> {
    let payload = match (&args.file, &args.text) {
        (Some(path), _) => {
            let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            if bytes.len() > FRAME_LEN_MAX - 1024 {
                return Err(format!(
                    "{}: {} bytes are more than one message carries (100 MiB)",
                    path.display(),
                    bytes.len()
                )
                .into());
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            file::encode(&name, &bytes)
        }
        (None, text) => text.clone().unwrap_or_default().into_bytes(),
    };
    let seconds = |name: &str, value: f64| {
        Duration::try_from_secs_f64(value).map_err(|_| format!("{name} must be a number of seconds"))
    };
    let (timeout, wait) = (seconds("--timeout", args.timeout)?, seconds("--wait", args.wait)?);
    let keys = args.public_keys.iter().map(|key| public_key(key)).collect::<Result<Vec<_>, _>>()?;
    let gap = match args.rate {
        Some(rate) if rate > 0.0 && rate.is_finite() => Some(Duration::from_secs_f64(1.0 / rate)),
        Some(_) => return Err("--rate must be a number above 0".into()),
        None => None,
    };
    super::runtime()?.block_on(async {
        let (client, _messages) = args.connect.connect().await?;
        let is_heard = keys.is_empty() || introduce(&client, &args.topic, &keys, wait).await?;
        let mut round_trips = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3)?;
        let mut failed = 0;
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
            if args.count == 1 || args.output == Output::Json || answer.code != ResultCode::OK {
                let line = describe(&args, &answer);
                if !print_line(&line) {
                    break;
                }
            }
        }
        if args.count > 1 && args.output == Output::Text {
            let at = |quantile| round_trips.value_at_quantile(quantile);
            print_line(&format!(
                "{} answered, {failed} not; round trip in µs: min {}, p50 {}, p99 {}, max {}",
                round_trips.len(),
                round_trips.min(),
                at(0.5),
                at(0.99),
                round_trips.max(),
            ));
        }
        Ok(if failed == 0 && is_heard { ExitCode::SUCCESS } else { ExitCode::from(2) })
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
            eprintln!(
                "amop: within {wait:?}, nobody has proved to have a key for the private topic {topic:?}{}. A unicast \
                 is answered with 100 now: no subscriber that this publisher has accepted; a multicast is taken with \
                 0 and reaches nobody",
                if refused { "; who tried has another key" } else { "" },
            );
            Ok(false)
        }
    }
}

fn describe(args: &PublishArgs, answer: &Answer) -> String {
    let micros = answer.round_trip.as_micros();
    let text = String::from_utf8_lossy(&answer.payload);
    if args.output == Output::Json {
        let code = answer.code.0;
        return serde_json::json!({
            "code": code, "meaning": answer.code.describe(), "answer": text, "round_trip_us": micros,
        })
        .to_string();
    }
    match answer.code {
        ResultCode::OK if args.multicast => format!("accepted by the node in {micros} µs"),
        ResultCode::OK if text.is_empty() => format!("answered in {micros} µs"),
        ResultCode::OK => format!("answered in {micros} µs: {text}"),
        code => format!("{code}, after {micros} µs"),
    }
}
