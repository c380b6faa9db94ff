//! Who of a JSON-RPC request waits for an answer, without keeping anything else of it: requests that are refused for being
//! too many must cost little.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use super::{BATCH_MAX, bad_batch, check, not_json};

/// The ids that are to be answered: null where somebody sent what is no request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestIds {
    /// A single request; `None` for a notification.
    One(Option<Value>),
    /// Those of a batch.
    Batch(Vec<Value>),
}

impl RequestIds {
    /// Reads a body; the error is the answer.
    pub(super) fn read(body: &[u8]) -> Result<Self, Vec<u8>> {
        check(body)?;
        match serde_json::from_slice(body) {
            Ok(Body::Batch(_, 0)) => Err(bad_batch()),
            Ok(Body::Batch(_, count)) if count > BATCH_MAX => Err(bad_batch()),
            Ok(body) => Ok(body.into()),
            Err(_) => Err(not_json()),
        }
    }

    /// Reads for whom an answer of this node is, however long it is: an answer has the ids of its requests, and names no method.
    pub(super) fn of_answer(answer: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Body>(answer).ok().map(Self::from)
    }
}

impl From<Body> for RequestIds {
    fn from(body: Body) -> Self {
        match body {
            Body::One(request) => Self::One(request.waits_for),
            Body::Batch(ids, _) => Self::Batch(ids),
        }
    }
}

/// The whole of it; of a batch the ids to be answered, and how many requests there are.
enum Body {
    One(Request),
    Batch(Vec<Value>, usize),
}

struct Request {
    waits_for: Option<Value>,
}

/// What is no object is no request, which is answered under null.
const NO_REQUEST: Request = Request { waits_for: Some(Value::Null) };

macro_rules! scalars_are_no_requests {
    ($make:expr) => {
        fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
            Ok($make)
        }
        fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
            Ok($make)
        }
        fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
            Ok($make)
        }
        fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
            Ok($make)
        }
        fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
            Ok($make)
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok($make)
        }
    };
}

impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Request;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a request")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Request, A::Error> {
                let (mut id, mut names_method) = (None, false);
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match &*key {
                        "id" => id = Some(map.next_value()?),
                        "method" => names_method = map.next_value::<Value>()?.is_string(),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Request { waits_for: if names_method { id } else { Some(id.unwrap_or_default()) } })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Request, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(NO_REQUEST)
            }

            scalars_are_no_requests!(NO_REQUEST);
        }
        deserializer.deserialize_any(Visit)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a request or a batch")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Body, A::Error> {
                Request::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Body::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Body, A::Error> {
                let (mut ids, mut count) = (Vec::new(), 0);
                while let Some(request) = seq.next_element::<Request>()? {
                    count += 1;
                    if count <= BATCH_MAX {
                        ids.extend(request.waits_for);
                    }
                }
                Ok(Body::Batch(ids, count))
            }

            scalars_are_no_requests!(Body::One(NO_REQUEST));
        }
        deserializer.deserialize_any(Visit)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &str) -> Result<RequestIds, Vec<u8>> {
        RequestIds::read(body.as_bytes())
    }

    #[test]
    fn who_waits_for_an_answer_is_who_has_an_id_or_sent_no_request() {
        let one = |id| Ok(RequestIds::One(id));
        assert_eq!(read(r#"{"id":7,"method":"m","params":[{"id":8}]}"#), one(Some(json!(7))));
        assert_eq!(read(r#"{"method":"m","id":null}"#), one(Some(Value::Null)));
        assert_eq!(read(r#"{"method":"m"}"#), one(None));
        assert_eq!(read(r#"{"id":1}"#), one(Some(json!(1))), "it names no method");
        assert_eq!(read("{}"), one(Some(Value::Null)));
        assert_eq!(read("7"), one(Some(Value::Null)));
        let batch =
            r#"[{"id":1,"method":"m"},{"method":"m"},5,[],{"method":"m","id":"x"},{"id":2,"method":3}]"#;
        let ids = [json!(1), Value::Null, Value::Null, json!("x"), json!(2)];
        assert_eq!(read(batch), Ok(RequestIds::Batch(ids.to_vec())));
        assert_eq!(read(r#"[{"method":"m"}]"#), Ok(RequestIds::Batch(Vec::new())));
    }

    #[test]
    fn what_cannot_be_read_is_answered_as_ever() {
        assert_eq!(read("[]"), Err(bad_batch()));
        assert_eq!(read(&format!("[{}1]", "1,".repeat(BATCH_MAX))), Err(bad_batch()));
        assert_eq!(read("{"), Err(not_json()));
        assert!(read(&"[".repeat(100_000)).is_err());
    }
}
