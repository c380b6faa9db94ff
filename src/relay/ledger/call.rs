//! JSON-RPC requests for the ledger node: for which groups they are, who waits for an answer, and errors in its place.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use crate::wire::FrameRef;

/// Of a longer request only the beginning and the end are read, where no list has to be looked at.
const READ_WHOLE_MAX: usize = 64 << 10;
/// A request that is longer is not passed on where lists have to be looked at.
pub const CHECKED_LEN_MAX: usize = 1 << 20;
/// How much of the end of a long request is looked at for its id.
const TAIL_LEN: usize = 128;
/// A longer id is answered as null.
const ID_LEN_MAX: usize = 128;
/// Requests in one batch whose ids are kept.
const BATCH_MAX: usize = 1_000;

/// The methods whose results hold nodes and topics of AMOP as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// `getPeers`.
    Peers,
    /// `getNodeInfo`.
    NodeInfo,
}

/// A request, or a batch of them, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    /// The ids that wait for an answer.
    ids: Ids,
    /// The groups that it is for.
    pub groups: Vec<u32>,
    /// Whether its result is merged with what is known here.
    pub merged: Option<Merged>,
    /// Whether all of it was read.
    pub is_whole: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum Ids {
    #[default]
    None,
    One(Value),
    Batch(Vec<Value>),
}

impl Call {
    /// Reads the body of a 0x12. `checks` if it is to be read whole, for a list has to be looked at.
    pub fn read(body: FrameRef<'_>, checks: bool) -> Self {
        let len_max = if checks { CHECKED_LEN_MAX } else { READ_WHOLE_MAX };
        let is_cut = body.len() > len_max;
        let bytes = body.first(if is_cut { READ_WHOLE_MAX } else { len_max });
        let mut reading = Reading::default();
        let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
        let read = (&mut reading).deserialize(&mut deserializer).and_then(|()| deserializer.end());
        let mut call = reading.into_call();
        call.is_whole = read.is_ok() && !is_cut;
        if is_cut && call.ids == Ids::None {
            call.ids = Ids::One(id_at_end(body));
        }
        call
    }

    /// Bytes of memory that it takes, about.
    pub fn cost(&self) -> usize {
        let ids = match &self.ids {
            Ids::Batch(ids) => ids.len(),
            _ => 1,
        };
        size_of::<Self>() + ids * (size_of::<Value>() + ID_LEN_MAX / 4)
    }

    /// An error in the place of each answer that is waited for; `None` for notifications.
    pub fn error(&self, code: i64, message: &str) -> Option<Vec<u8>> {
        let one =
            |id: &Value| json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}});
        let answer = match &self.ids {
            Ids::One(id) => one(id),
            Ids::Batch(ids) if !ids.is_empty() => ids.iter().map(one).collect(),
            _ if self.is_whole => return None,
            // Nobody knows whether what cannot be read waits for an answer.
            _ => one(&Value::Null),
        };
        Some(format!("{answer}\n").into_bytes())
    }
}

/// The id behind the parameters of a long request, where all SDKs put it; null if none is there.
fn id_at_end(body: FrameRef<'_>) -> Value {
    let mut tail = Vec::new();
    let mut left = body.len();
    for piece in body.pieces() {
        left -= piece.len();
        if left < TAIL_LEN {
            tail.extend_from_slice(&piece[piece.len().saturating_sub(TAIL_LEN - left)..]);
        }
    }
    let text = String::from_utf8_lossy(&tail);
    let id = text.rsplit_once("\"id\"").and_then(|(_, rest)| {
        let rest = rest.trim_start().strip_prefix(':')?;
        serde_json::Deserializer::from_str(rest).into_iter::<Value>().next()?.ok()
    });
    id.filter(|id| id.is_number() || id.is_string()).unwrap_or_default()
}

/// What was read so far; it stays if the rest cannot be read.
#[derive(Default)]
struct Reading {
    requests: Vec<OneRequest>,
    is_batch: bool,
}

#[derive(Default)]
struct OneRequest {
    method: Option<String>,
    group: Option<u32>,
    id: Option<Value>,
}

impl Reading {
    fn into_call(self) -> Call {
        let groups = self.requests.iter().filter_map(|request| request.group).collect();
        if self.is_batch {
            let ids = self.requests.into_iter().filter_map(|request| request.id).collect();
            return Call { ids: Ids::Batch(ids), groups, ..Call::default() };
        }
        let Some(request) = self.requests.into_iter().next() else { return Call::default() };
        let merged = match request.method.as_deref() {
            Some("getPeers") => Some(Merged::Peers),
            Some("getNodeInfo") => Some(Merged::NodeInfo),
            _ => None,
        };
        let ids = request.id.map_or(Ids::None, Ids::One);
        Call { ids, groups, merged, is_whole: false }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Reading {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Reading {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request or a batch of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.requests.push(OneRequest::default());
        match self.requests.last_mut() {
            Some(request) => request.visit_map(map),
            None => Ok(()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.is_batch = true;
        loop {
            if self.requests.len() >= BATCH_MAX {
                return Err(A::Error::custom("too many requests in a batch"));
            }
            self.requests.push(OneRequest::default());
            let Some(request) = self.requests.last_mut() else { return Ok(()) };
            if seq.next_element_seed(request)?.is_none() {
                self.requests.pop();
                return Ok(());
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for &mut OneRequest {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut OneRequest {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // Of keys that come twice the ledger node takes the last one.
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "method" => self.method = map.next_value::<Value>()?.as_str().map(str::to_owned),
                "params" => {
                    self.group = None;
                    map.next_value_seed(FirstParameter(&mut self.group))?;
                }
                "id" => {
                    let id: Value = map.next_value()?;
                    let is_kept = match &id {
                        Value::String(text) => text.len() <= ID_LEN_MAX,
                        id => id.is_number() || id.is_null(),
                    };
                    self.id = Some(if is_kept { id } else { Value::Null });
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The first parameter, if it is a group's number.
struct FirstParameter<'a>(&'a mut Option<u32>);

impl<'de> DeserializeSeed<'de> for FirstParameter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FirstParameter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("parameters")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if let Some(first) = seq.next_element::<Value>()? {
            *self.0 = group_number(&first);
            while seq.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// A group's number, in any way in which a ledger node reads one.
pub(super) fn group_number(value: &Value) -> Option<u32> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => match number.as_u64() {
            Some(number) => number.try_into().ok(),
            None => {
                let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
                (0.0..=f64::from(u32::MAX)).contains(&number).then_some(number as u32)
            }
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn read(body: &str) -> Call {
        Call::read(FrameRef::Slice(body.as_bytes()), false)
    }

    fn error(call: &Call) -> Value {
        serde_json::from_slice(&call.error(OUTCOME, "lost").unwrap()).unwrap()
    }

    const OUTCOME: i64 = super::super::OUTCOME_UNKNOWN;

    #[test]
    fn who_waits_for_an_answer_is_told_by_an_error_under_its_own_id() {
        for id in ["7", "\"seven\"", "null"] {
            let call = read(&format!(r#"{{"jsonrpc":"2.0","method":"call","params":[1],"id":{id}}}"#));
            let answer = error(&call);
            assert_eq!(answer["id"].to_string(), id);
            assert_eq!(
                (&answer["error"]["code"], &answer["error"]["message"]),
                (&json!(OUTCOME), &json!("lost"))
            );
            assert!(call.is_whole);
        }
        assert_eq!(read(r#"{"method":"call","params":[1]}"#).error(OUTCOME, ""), None);
        let batch = read(r#"[{"method":"a","id":1},{"method":"b"},{"method":"c","id":"x"}]"#);
        assert_eq!(
            error(&batch).as_array().unwrap().iter().map(|one| &one["id"]).collect::<Vec<_>>(),
            [&json!(1), &json!("x")]
        );
        assert_eq!(read("[]").error(OUTCOME, ""), None);
        let unreadable = read("nonsense");
        assert_eq!((unreadable.is_whole, &error(&unreadable)["id"]), (false, &Value::Null));
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(ID_LEN_MAX + 1));
        assert_eq!(error(&read(&long))["id"], Value::Null);
    }

    #[test]
    fn all_groups_are_found_in_every_way_in_which_a_ledger_node_reads_them() {
        for (params, groups) in [
            ("[3]", &[3][..]),
            ("[3.0,\"x\"]", &[3]),
            ("[\"3\"]", &[3]),
            ("[]", &[]),
            ("[-1]", &[]),
            ("[[3]]", &[]),
            ("{\"group\":3}", &[]),
            ("null", &[]),
            ("7", &[]),
            ("[1],\"params\":[2]", &[2]),
            ("[1],\"\\u0070arams\":[2]", &[2]),
        ] {
            let call = read(&format!(r#"{{"method":"m","id":1,"params":{params}}}"#));
            assert_eq!((&call.groups[..], call.is_whole), (groups, true), "{params}");
        }
        assert_eq!(read(r#"[{"params":[1]},{"params":[2]}]"#).groups, [1, 2]);
        assert!(!read(r#"{"params":[1]} {"params":[2]}"#).is_whole);
        assert!(!read(r#"{"params":/**/[1]}"#).is_whole);
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_answered_since_somebody_may_wait() {
        for broken in ["[nonsense", "[7]", "  [{\"method\":\"a\"},"] {
            assert_eq!(error(&read(broken))["id"], Value::Null, "{broken}");
        }
        assert_eq!(read("[]").error(1, ""), None);
    }

    #[test]
    fn results_with_nodes_are_merged_unless_they_are_in_a_batch() {
        assert_eq!(read(r#"{"method":"getPeers","params":[1]}"#).merged, Some(Merged::Peers));
        assert_eq!(read(r#"{"method":"getNodeInfo","params":[]}"#).merged, Some(Merged::NodeInfo));
        assert_eq!(read(r#"{"method":"getBlockNumber","params":[1]}"#).merged, None);
        assert_eq!(read(r#"[{"method":"getPeers","params":[1]}]"#).merged, None);
    }

    #[test]
    fn of_a_long_request_the_beginning_and_the_end_are_enough() {
        let data = "ab".repeat(200_000);
        let text =
            format!(r#"{{"jsonrpc":"2.0","method":"sendRawTransaction","params":[5,"0x{data}"],"id":81}}"#);
        let chunks: Vec<Bytes> = text.as_bytes().chunks(100_003).map(Bytes::copy_from_slice).collect();
        let body = FrameRef::Chunks { chunks: &chunks, skip: 0, len: text.len() };
        let call = Call::read(body, false);
        assert_eq!((&call.groups[..], call.is_whole), (&[5][..], false));
        assert_eq!(error(&call)["id"], 81);
        // Where lists are looked at, all of it is read.
        let checked = Call::read(body, true);
        assert!(checked.is_whole && checked.groups == [5]);
        // An end that is cut between two pieces.
        let cut = text.len() - 3;
        let chunks = [
            Bytes::copy_from_slice(&text.as_bytes()[..cut]),
            Bytes::copy_from_slice(&text.as_bytes()[cut..]),
        ];
        let call = Call::read(FrameRef::Chunks { chunks: &chunks, skip: 0, len: text.len() }, false);
        assert_eq!(error(&call)["id"], 81);
    }

    #[test]
    fn what_is_nested_deeply_or_a_batch_without_end_is_no_danger() {
        let deep = "[".repeat(100_000);
        assert!(!Call::read(FrameRef::Slice(deep.as_bytes()), true).is_whole);
        let params = format!(r#"{{"params":[{deep}"#);
        assert!(!Call::read(FrameRef::Slice(params.as_bytes()), true).is_whole);
        let batch = format!("[{}]", vec![r#"{"id":1}"#; BATCH_MAX + 1].join(","));
        assert!(!read(&batch).is_whole);
    }
}
