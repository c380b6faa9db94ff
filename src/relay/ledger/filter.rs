//! Event filters: what is kept of a registration, so that it can be made again at another connection, and how far its logs
//! have come, so that none is missed there and none comes twice.
//!
//! A ledger node matches whole blocks, in order, and pushes what it has found in them at once; so all logs of the last block of
//! a push are in it, and the next block is where to go on.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::Value;

use super::call::group_number;
use crate::wire::FrameRef;

/// A longer push is looked at only at its beginning and its end.
const READ_WHOLE_MAX: usize = 64 << 10;
/// Longest id of a filter in bytes; SDKs have 32.
const ID_LEN_MAX: usize = 256;

/// The bits of a registration, or of its end, that are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The group.
    pub group: u32,
    /// The application's id for it.
    pub id: String,
    /// The last block that it is for, if it has one.
    pub last_block: Option<u64>,
}

/// The JSON text in the body of a 0x15 or 0x16, behind an AMOP topic.
fn text_of(body: &[u8]) -> Option<&[u8]> {
    body.get(usize::from(*body.first()?).max(1)..)
}

fn block_number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        },
        _ => None,
    }
}

impl Registration {
    /// Reads the body of a 0x15 or 0x16; `None` if it is none.
    pub fn read(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text_of(body)?).ok()?;
        let id = value.get("filterID")?.as_str()?;
        if id.len() > ID_LEN_MAX {
            return None;
        }
        let group = group_number(value.get("groupID")?)?;
        let last_block = value.get("toBlock").and_then(block_number);
        Some(Self { group, id: id.to_owned(), last_block })
    }
}

/// The body of a registration that begins at another block; as it is if it cannot be read.
pub fn from_block(body: &[u8], block: u64) -> Cow<'_, [u8]> {
    let begins_there = || {
        let text = text_of(body)?;
        let mut value: Value = serde_json::from_slice(text).ok()?;
        value.as_object_mut()?.insert("fromBlock".to_owned(), block.to_string().into());
        let front = &body[..body.len() - text.len()];
        Some([front, value.to_string().as_bytes()].concat())
    };
    begins_there().map_or(Cow::Borrowed(body), Cow::Owned)
}

/// The `result` in the body of an answer to a 0x15 or 0x16.
pub fn result_of(body: &[u8]) -> Option<i64> {
    let value: Value = serde_json::from_slice(text_of(body)?).ok()?;
    value.get("result")?.as_i64()
}

/// The body of an answer of this node to a 0x15 or 0x16.
pub fn answer(result: i64) -> Vec<u8> {
    [b"\x01", format!("{{\"result\":{result}}}\n").as_bytes()].concat()
}

/// The data of a 0x1002 without logs, which says what has become of a filter.
pub fn ended(id: &str, result: i64) -> Vec<u8> {
    format!("{}\n", serde_json::json!({ "filterID": id, "logs": null, "result": result })).into_bytes()
}

/// What a 0x1002 says of its filter.
#[derive(Debug, PartialEq, Eq)]
pub struct Push {
    /// Which filter.
    pub id: String,
    /// The last block that it has logs of.
    pub last_block: Option<u64>,
    /// 0 while more may come.
    pub result: i64,
}

impl Push {
    /// Reads the data of a 0x1002, or of a long one the beginning and the end, as a ledger node writes them; `None` if it is not
    /// understood.
    pub fn read(data: FrameRef<'_>) -> Option<Self> {
        if data.len() > READ_WHOLE_MAX {
            return Self::read_ends(data);
        }
        let whole = data.first(READ_WHOLE_MAX);
        let fields: Fields = serde_json::from_slice(&whole).ok()?;
        Some(Self { id: fields.id, last_block: fields.logs.0, result: fields.result })
    }

    fn read_ends(data: FrameRef<'_>) -> Option<Self> {
        let begins = br#"{"filterID":""#;
        let head = data.first(begins.len() + ID_LEN_MAX + 1);
        let id = head.strip_prefix(begins)?;
        let id = &id[..id.iter().take(ID_LEN_MAX + 1).position(|byte| *byte == b'"')?];
        let mut tail = Vec::new();
        let mut left = data.len();
        for piece in data.pieces() {
            left -= piece.len();
            if left < READ_WHOLE_MAX {
                tail.extend_from_slice(&piece[piece.len().saturating_sub(READ_WHOLE_MAX - left)..]);
            }
        }
        let text = String::from_utf8_lossy(&tail);
        let last = |key: &str| {
            let (_, rest) = text.rsplit_once(key)?;
            serde_json::Deserializer::from_str(rest).into_iter::<Value>().next()?.ok()
        };
        Some(Self {
            id: std::str::from_utf8(id).ok()?.to_owned(),
            last_block: last(r#""blockNumber":"#).as_ref().and_then(block_number),
            result: last(r#""result":"#)?.as_i64()?,
        })
    }
}

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "filterID")]
    id: String,
    #[serde(default)]
    logs: LastBlock,
    result: i64,
}

/// The highest block of a list of logs, of which nothing else is kept.
#[derive(Default)]
struct LastBlock(Option<u64>);

#[derive(Deserialize)]
struct Log {
    #[serde(rename = "blockNumber", default)]
    block: Value,
}

impl<'de> Deserialize<'de> for LastBlock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Logs;
        impl<'de> Visitor<'de> for Logs {
            type Value = LastBlock;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("logs")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<LastBlock, A::Error> {
                let mut last = None;
                while let Some(log) = seq.next_element::<Log>()? {
                    last = last.max(block_number(&log.block));
                }
                Ok(LastBlock(last))
            }

            fn visit_unit<E>(self) -> Result<LastBlock, E> {
                Ok(LastBlock(None))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<LastBlock, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(LastBlock(None))
            }
        }
        deserializer.deserialize_any(Logs)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// As the Java SDK writes it.
    const REGISTRATION: &[u8] = b"\x01{\"fromBlock\":\"latest\",\"toBlock\":\"latest\",\"addresses\":[],\"topics\":[],\"timeout\":0,\"groupID\":\"1\",\"filterID\":\"9b\"}";

    #[test]
    fn a_registration_is_read_and_begins_elsewhere_with_all_else_as_it_was() {
        let read = Registration::read(REGISTRATION).unwrap();
        assert_eq!(read, Registration { group: 1, id: "9b".to_owned(), last_block: None });
        let later = from_block(REGISTRATION, 17);
        assert_eq!(later[0], 1);
        let value: Value = serde_json::from_slice(&later[1..]).unwrap();
        assert_eq!((&value["fromBlock"], &value["toBlock"]), (&"17".into(), &"latest".into()));
        assert_eq!(Registration::read(&later), Some(read));
        let bounded = b"\x01{\"toBlock\":\"30\",\"groupID\":2,\"filterID\":\"x\"}";
        assert_eq!(Registration::read(bounded).unwrap().last_block, Some(30));
        for wrong in
            [&b""[..], b"\x01", b"\x09{}", b"\x01[]", b"\x01{\"groupID\":\"1\"}", b"\x01{\"filterID\":\"1\"}"]
        {
            assert_eq!(Registration::read(wrong), None);
        }
        for wrong in [&b""[..], b"\x01", b"\x09{}", b"\x01[]"] {
            assert_eq!(&*from_block(wrong, 1), wrong);
        }
    }

    #[test]
    fn answers_are_as_a_ledger_node_writes_them() {
        assert_eq!(answer(-41006), b"\x01{\"result\":-41006}\n");
        assert_eq!(result_of(&answer(-41006)), Some(-41006));
        assert_eq!(result_of(b"\x01{}"), None);
        assert_eq!(
            Push::read(FrameRef::Slice(&ended("9b", 1))),
            Some(Push { id: "9b".to_owned(), last_block: None, result: 1 })
        );
    }

    fn push(logs: &str) -> String {
        format!("{{\"filterID\":\"9b\",\"logs\":{logs},\"result\":0}}\n")
    }

    fn log(block: &str, data_len: usize) -> String {
        format!(
            r#"{{"address":"0x1","blockNumber":{block},"data":"0x{}","topics":[]}}"#,
            "0".repeat(data_len)
        )
    }

    #[test]
    fn how_far_a_push_has_come_is_read_of_short_ones_and_of_long_ones() {
        let read = |text: &str, chunk_len: usize| {
            let chunks: Vec<Bytes> = text.as_bytes().chunks(chunk_len).map(Bytes::copy_from_slice).collect();
            Push::read(FrameRef::Chunks { chunks: &chunks, skip: 0, len: text.len() }).unwrap()
        };
        for data_len in [0, 100_000] {
            let logs = format!("[{},{},{}]", log("\"7\"", data_len), log("\"0x9\"", 10), log("8", 0));
            let (text, last) = (push(&logs), if data_len == 0 { 9 } else { 8 });
            for chunk_len in [1 << 20, 30_011] {
                assert_eq!(
                    read(&text, chunk_len),
                    Push { id: "9b".to_owned(), last_block: Some(last), result: 0 }
                );
            }
        }
        for text in [push("[]"), push("null")] {
            assert_eq!(read(&text, 1 << 20).last_block, None);
        }
        for wrong in ["", "{}", "nonsense", "{\"filterID\":1,\"result\":0}"] {
            assert_eq!(Push::read(FrameRef::Slice(wrong.as_bytes())), None);
            let long = format!("{wrong}{}", " ".repeat(READ_WHOLE_MAX + 1));
            assert_eq!(Push::read(FrameRef::Slice(long.as_bytes())), None);
        }
    }
}
