//! Sessions that offer more than the cap lets pass, and the one that counts what arrives.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use amop::internal::wire::{
    ResultCode,
    sdk::{self, AmopBody, FrameType, Seq},
};
use hdrhistogram::Histogram;
use rustls::ClientConfig;

use super::link::{self, Writer};

pub(super) const TOPIC: &str = "limited";
/// Frames that a session has under way at most, and their bytes.
const IN_FLIGHT_MAX: u64 = 4_096;
const IN_FLIGHT_BYTES_MAX: u64 = 16 << 20;
/// Frames written at once, and their bytes.
const BATCH_MAX: u64 = 64;
const BATCH_BYTES_MAX: u64 = 1 << 20;
/// How long answers are waited for after the last request.
const ANSWERED_WITHIN: Duration = Duration::from_secs(35);
const PAUSE: Duration = Duration::from_micros(200);

type Failed = Box<dyn Error + Send + Sync>;

/// What one session asked and was told.
pub(super) struct Published {
    pub(super) offered: u64,
    pub(super) accepted: u64,
    pub(super) over_bandwidth: u64,
    pub(super) others: u64,
    pub(super) unanswered: u64,
    /// How long each 103 took, in nanoseconds.
    pub(super) refusals: Histogram<u64>,
}

/// What one session does.
#[derive(Clone, Copy)]
pub(super) struct Offer {
    pub(super) number: u32,
    pub(super) frame_type: FrameType,
    pub(super) frame_len: usize,
    pub(super) frames_per_second: f64,
    pub(super) start: Instant,
    pub(super) time: Duration,
}

fn failed(error: Box<dyn Error>) -> Failed {
    error.to_string().into()
}

/// Publishes as the offer says; comes back when all is answered.
pub(super) fn publish(
    config: Arc<ClientConfig>,
    address: SocketAddr,
    offer: Offer,
) -> Result<Published, Failed> {
    let (mut writer, mut reader) = link::connect(&config, address).map_err(failed)?;
    let (sent, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let start = offer.start;
    let told = answered.clone();
    let reading = thread::spawn(move || -> Result<Published, Failed> {
        let mut published = Published {
            offered: 0,
            accepted: 0,
            over_bandwidth: 0,
            others: 0,
            unanswered: 0,
            refusals: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
        };
        while reader
            .read(|header, _| {
                if header.frame_type != FrameType::RESPONSE {
                    return;
                }
                match header.result {
                    ResultCode::OK => published.accepted += 1,
                    ResultCode::OVER_BANDWIDTH => {
                        published.over_bandwidth += 1;
                        let took = start.elapsed().saturating_sub(sent_at(&header.seq));
                        published.refusals.saturating_record(took.as_nanos() as u64);
                    }
                    _ => published.others += 1,
                }
                told.fetch_add(1, Relaxed);
            })
            .map_err(failed)?
        {}
        Ok(published)
    });
    let offered = write(&mut writer, offer, &sent, &answered).map_err(failed);
    let end = Instant::now() + ANSWERED_WITHIN;
    while answered.load(Relaxed) < sent.load(Relaxed) && Instant::now() < end {
        thread::park_timeout(PAUSE);
    }
    writer.close();
    let mut published = reading.join().map_err(|_| "a reader failed")??;
    published.offered = offered?;
    published.unanswered = published.offered - answered.load(Relaxed);
    Ok(published)
}

fn write(
    writer: &mut Writer,
    offer: Offer,
    sent: &AtomicU64,
    answered: &AtomicU64,
) -> Result<u64, Box<dyn Error>> {
    let mut payload = vec![b'x'; offer.frame_len - sdk::HEADER_LEN - 1 - TOPIC.len()];
    payload[..4].copy_from_slice(&offer.number.to_be_bytes());
    let mut frame = sdk::encode_amop(offer.frame_type, &[0; 32], ResultCode::OK, TOPIC, &payload);
    let len = offer.frame_len as u64;
    let in_flight_max = (IN_FLIGHT_BYTES_MAX / len).clamp(4, IN_FLIGHT_MAX);
    let batch_max = (BATCH_BYTES_MAX / len).clamp(1, BATCH_MAX);
    let mut offered = 0;
    while offer.start.elapsed() < offer.time {
        let due = (offer.start.elapsed().as_secs_f64() * offer.frames_per_second) as u64;
        let room = in_flight_max.saturating_sub(offered - answered.load(Relaxed));
        let count = due.saturating_sub(offered).min(room).min(batch_max);
        if count == 0 {
            thread::park_timeout(PAUSE);
            continue;
        }
        for _ in 0..count {
            frame[6..38].copy_from_slice(&seq(offer.start.elapsed(), offer.number, offered));
            writer.add(&frame)?;
            offered += 1;
        }
        sent.store(offered, Relaxed);
        writer.flush()?;
    }
    Ok(offered)
}

/// A seq tells when it was sent. No two sessions have the same, for at one subscriber the second would be refused.
fn seq(at: Duration, session: u32, number: u64) -> Seq {
    let text = format!("{:016x}{session:04x}{number:012x}", at.as_nanos() as u64);
    text.into_bytes().try_into().expect("32 digits")
}

fn sent_at(seq: &Seq) -> Duration {
    let nanos = std::str::from_utf8(&seq[..16]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// What arrived: when, and from which session.
#[derive(Default)]
pub(super) struct Arrived {
    pub(super) at: Vec<Duration>,
    pub(super) by_session: Vec<u64>,
}

/// A subscriber, until it is told to end.
pub(super) struct Subscriber {
    thread: thread::JoinHandle<Result<Arrived, Failed>>,
    writer: Arc<std::sync::Mutex<Writer>>,
    ended: Arc<AtomicBool>,
}

/// Subscribes, and answers unicasts.
pub(super) fn subscribe(
    config: Arc<ClientConfig>,
    address: SocketAddr,
    start: Instant,
) -> Result<Subscriber, Box<dyn Error>> {
    let (mut writer, mut reader) = link::connect(&config, address)?;
    let topics = format!("[\"{TOPIC}\"]");
    writer.add(&sdk::encode(FrameType::SUBSCRIBE, &[b's'; 32], ResultCode::OK, topics.as_bytes()))?;
    writer.flush()?;
    let writer = Arc::new(std::sync::Mutex::new(writer));
    let ended = Arc::<AtomicBool>::default();
    let (answering, over) = (writer.clone(), ended.clone());
    let thread = thread::spawn(move || {
        let mut arrived = Arrived::default();
        let mut answers = Vec::new();
        while reader
            .read(|header, data| {
                if !matches!(header.frame_type, FrameType::REQUEST | FrameType::MULTICAST) {
                    return;
                }
                let Ok(body) = AmopBody::decode(data) else { return };
                arrived.at.push(start.elapsed());
                let session =
                    data[body.payload_offset..].first_chunk().map_or(0, |id| u32::from_be_bytes(*id));
                let session = session as usize;
                if arrived.by_session.len() <= session {
                    arrived.by_session.resize(session + 1, 0);
                }
                arrived.by_session[session] += 1;
                if header.frame_type == FrameType::REQUEST {
                    answers.push(header.seq);
                }
            })
            .map_err(failed)?
        {
            if !answers.is_empty() {
                let mut writer = answering.lock().map_err(|_| "a writer failed")?;
                for seq in answers.drain(..) {
                    let answer = sdk::encode_amop(FrameType::RESPONSE, &seq, ResultCode::OK, TOPIC, b"");
                    writer.add(&answer).map_err(failed)?;
                }
                writer.flush().map_err(failed)?;
            }
        }
        if over.load(Relaxed) { Ok(arrived) } else { Err("the subscriber lost its connection".into()) }
    });
    Ok(Subscriber { thread, writer, ended })
}

impl Subscriber {
    /// Ends it; gives what arrived.
    pub(super) fn end(self) -> Result<Arrived, Failed> {
        self.ended.store(true, Relaxed);
        self.writer.lock().map_err(|_| "a writer failed")?.close();
        self.thread.join().map_err(|_| "the subscriber failed")?
    }
}
