//! The record layer in both directions, for every version and AEAD: what was sealed opens to itself
//! and nothing else opens.

use amop::internal::tls::record::{
    Aead, ContentType, HEADER_LEN, OpenError, Opened, Opener, PLAINTEXT_LEN_MAX, RECORD_LEN_MAX, SealError,
    Sealer, record_len,
};
use arbitrary::{Arbitrary, Unstructured};
use rustls::ProtocolVersion;

/// What a script begins with; [`Step`]s follow to its end.
#[derive(Arbitrary, Debug)]
struct Setting {
    tls13: bool,
    aead: u8,
    sequence: u64,
    /// Starts so near the last sequence number.
    near_limit: Option<u8>,
}

const STEPS_MAX: usize = 200;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// Seals `data`, cut at `cuts`, and opens it.
    Pass { content: u8, cuts: [u8; 3], data: &'a [u8], in_place: bool },
    /// A long record, beyond the length below which pieces are gathered.
    PassLong { len: u16, fill: u8, in_place: bool },
    /// Seals, changes a byte and tries to open it. Ends the connection.
    Flip { data: &'a [u8], at: u16, with: u8, in_place: bool },
    /// Opens a record of the past. Ends the connection.
    Replay { in_place: bool },
    /// Leaves a record out and opens the next. Ends the connection.
    Skip { in_place: bool },
    /// Bytes that nobody sealed, record by record. Ends the connection.
    Foreign { bytes: &'a [u8], in_place: bool },
}

struct Pair {
    tls13: bool,
    sealer: Sealer,
    opener: Opener,
    last: Vec<u8>,
    empty: u32,
}

/// Two openings of one record, in place and beside it, must agree; gives what came out.
fn open(opener: &mut Opener, record: &[u8], in_place: bool) -> Result<Opened<Vec<u8>>, OpenError> {
    if in_place {
        let mut record = record.to_vec();
        Ok(match opener.open_in_place(&mut record)? {
            Opened::Data(data) => Opened::Data(data.to_vec()),
            Opened::Nothing => Opened::Nothing,
            Opened::CloseNotify => Opened::CloseNotify,
        })
    } else {
        let mut out = vec![0; record.len()];
        Ok(match opener.open_into(record, &mut out)? {
            Opened::Data(len) => Opened::Data(out[..len].to_vec()),
            Opened::Nothing => Opened::Nothing,
            Opened::CloseNotify => Opened::CloseNotify,
        })
    }
}

/// The input is a [`Setting`] and [`Step`]s.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(setting) = Setting::arbitrary(&mut input) else { return };
    let version = if setting.tls13 { ProtocolVersion::TLSv1_3 } else { ProtocolVersion::TLSv1_2 };
    let (aead, key_len) = [(Aead::Aes128Gcm, 16), (Aead::Aes256Gcm, 32), (Aead::Chacha20Poly1305, 32)]
        [usize::from(setting.aead % 3)];
    let key: Vec<u8> = (0..key_len).map(|i| i as u8 ^ setting.aead).collect();
    let sequence = setting.near_limit.map_or(setting.sequence, |near| u64::MAX - u64::from(near));
    let sides = Sealer::from_secrets(version, aead, &key, [7; 12], sequence)
        .zip(Opener::from_secrets(version, aead, &key, [7; 12], sequence));
    let (sealer, opener) = sides.expect("a version and a key length that are served");
    assert!(Sealer::from_secrets(version, aead, &key[1..], [7; 12], sequence).is_none());
    let mut pair = Pair { tls13: setting.tls13, sealer, opener, last: Vec::new(), empty: 0 };
    for _ in 0..STEPS_MAX {
        let Ok(step) = Step::arbitrary(&mut input) else { return };
        if !pair.step(step) || input.is_empty() {
            return;
        }
    }
}

impl Pair {
    /// `false` when the connection is over.
    fn step(&mut self, step: Step<'_>) -> bool {
        match step {
            Step::Pass { content, cuts, data, in_place } => {
                let content = [
                    ContentType::ApplicationData,
                    ContentType::Alert,
                    ContentType::Handshake,
                    ContentType::ChangeCipherSpec,
                ][usize::from(content % 4)];
                let data = &data[..data.len().min(PLAINTEXT_LEN_MAX)];
                let mut cuts = cuts.map(|cut| usize::from(cut).min(data.len()));
                cuts.sort_unstable();
                let parts =
                    [&data[..cuts[0]], &data[cuts[0]..cuts[1]], &data[cuts[1]..cuts[2]], &data[cuts[2]..]];
                let Some(record) = self.seal(content, &parts) else { return false };
                self.opens(content, data, &record, in_place)
            }
            Step::PassLong { len, fill, in_place } => {
                let data = vec![fill; usize::from(len)];
                let Some(record) = self.seal(ContentType::ApplicationData, &[&data]) else { return false };
                self.opens(ContentType::ApplicationData, &data, &record, in_place)
            }
            Step::Flip { data, at, with, in_place } => {
                let data = &data[..data.len().min(PLAINTEXT_LEN_MAX)];
                let Some(mut record) = self.seal(ContentType::ApplicationData, &[data]) else { return false };
                let at = usize::from(at) % record.len();
                record[at] ^= with.max(1);
                self.refuses(&record, in_place);
                false
            }
            Step::Replay { in_place } => {
                let record = std::mem::take(&mut self.last);
                if !record.is_empty() {
                    self.refuses(&record, in_place);
                }
                false
            }
            Step::Skip { in_place } => {
                let first = self.seal(ContentType::ApplicationData, &[b"first"]);
                let second = self.seal(ContentType::ApplicationData, &[b"second"]);
                if let Some((_, second)) = first.zip(second) {
                    self.refuses(&second, in_place);
                }
                false
            }
            Step::Foreign { bytes, in_place } => {
                let mut rest = bytes;
                while let Ok(Some(len)) = record_len(rest)
                    && len <= rest.len()
                {
                    let (record, after) = rest.split_at(len);
                    self.refuses(record, in_place);
                    rest = after;
                }
                // Whatever its caller did with the header, an opener bears any bytes.
                assert!(!matches!(open(&mut self.opener, bytes, in_place), Ok(Opened::Data(_))));
                false
            }
        }
    }

    fn seal(&mut self, content: ContentType, parts: &[&[u8]]) -> Option<Vec<u8>> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut out = b"before".to_vec();
        match self.sealer.seal(content, parts, &mut out) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(out, b"before", "nothing is left of what failed");
                assert_eq!(error == SealError::TooLong, len > PLAINTEXT_LEN_MAX);
                return None;
            }
        }
        let record = out.split_off(b"before".len());
        assert_eq!(record.len(), len + self.sealer.overhead());
        assert!(record.len() <= RECORD_LEN_MAX);
        assert_eq!(record_len(&record), Ok(Some(record.len())));
        assert_eq!(record_len(&record[..HEADER_LEN - 1]), Ok(None));
        Some(record)
    }

    fn opens(&mut self, content: ContentType, data: &[u8], record: &[u8], in_place: bool) -> bool {
        let opened = open(&mut self.opener, record, in_place);
        self.last = record.to_vec();
        match (content, &opened) {
            (ContentType::ApplicationData, Ok(Opened::Data(opened))) => {
                assert_eq!(opened, data);
                assert!(!data.is_empty());
                self.empty = 0;
            }
            (ContentType::ApplicationData, Ok(Opened::Nothing)) => assert!(data.is_empty()),
            (ContentType::Alert, Ok(Opened::CloseNotify)) => assert_eq!(data[1..], [0]),
            (ContentType::Alert | ContentType::Handshake, Ok(Opened::Nothing)) => {}
            (ContentType::ApplicationData, Err(error)) => assert_eq!(*error, OpenError::EmptyRecords),
            (_, Err(error)) => assert_ne!(*error, OpenError::Decrypt, "what was sealed authenticates"),
            unexpected => panic!("{unexpected:?}"),
        }
        if let Ok(Opened::Nothing) = opened {
            self.empty += 1;
            assert!(self.empty <= 64, "records without content are bounded");
        }
        if content == ContentType::Handshake && !self.tls13 {
            assert_eq!(opened, Err(OpenError::Handshake));
        }
        matches!(opened, Ok(Opened::Data(_) | Opened::Nothing))
    }

    /// The record is no record, or not of this connection; and the opener says no more than that.
    fn refuses(&mut self, record: &[u8], in_place: bool) {
        match record_len(record) {
            Ok(Some(len)) if len == record.len() => {
                let opened = open(&mut self.opener, record, in_place);
                assert!(
                    matches!(opened, Err(OpenError::Decrypt | OpenError::Malformed)),
                    "{opened:?} of a record that nobody sealed",
                );
            }
            Ok(Some(len)) => assert_ne!(len, record.len()),
            Ok(None) => assert!(record.len() < HEADER_LEN),
            Err(error) => assert_eq!(error, OpenError::Malformed),
        }
    }
}
