//! Answers to JSON-RPC requests that a node without a ledger must give (WIRE §1.5).

use std::{borrow::Cow, fmt::Write as _};

use serde_json::{Value, json};

use self::request_ids::RequestIds;
use super::{
    ledger::{call::Merged, merge},
    settings::Settings,
};
use crate::wire::{
    NodeId, PrivateTopic, TopicKind,
    json::NODE_VERSION,
    sdk::HEADER_LEN,
    state::{Entries, topic_key, topic_sessions_key},
};

mod request_ids;

/// Longest request in bytes.
pub const BODY_LEN_MAX: usize = 1 << 20;
/// Deepest nesting of arrays and objects.
const DEPTH_MAX: usize = 32;
/// Requests in one batch.
const BATCH_MAX: usize = 1_000;
/// Topics that one node's list shows.
const TOPICS_MAX: usize = 10_000;
/// A request beyond so many bytes is not read on a reactor.
const REACTOR_BODY_LEN_MAX: usize = 16 << 10;
/// Longest answer in bytes, however large frames may be. A small batch can ask for large lists many
/// times over.
const ANSWER_LEN_MAX: usize = 32 << 20;
/// Answers that may be on their way from the registry to the shards, in bytes; beyond that requests are
/// refused as if there were too many.
pub const ANSWERS_BYTES_MAX: usize = 64 << 20;
/// Room that an error or a result's frame takes beside the id.
const ERROR_LEN_MAX: usize = 512;

/// What is hashed before a subscriber's number for the name that it is listed by.
const LISTED_DOMAIN: &[u8] = b"amop listed subscriber 1";

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INTERNAL_ERROR: i64 = -32603;
pub(super) const OVER_RATE: i64 = -40011;

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// This is the answer.
    Answer(Vec<u8>),
    /// It needs the node map: the registry answers with [`answer`].
    Registry,
    /// Notifications get no answer.
    Nothing,
}

/// A node, as it is shown.
pub struct NodeView<'a> {
    /// Who.
    pub id: NodeId,
    /// `ip:port` of its node link.
    pub address: &'a str,
    /// The organisation in its certificate.
    pub agency: &'a str,
    /// The common name in its certificate.
    pub name: &'a str,
    /// Its record.
    pub entries: &'a Entries,
}

/// All nodes that are shown.
pub struct NodesView<'a> {
    /// This node.
    pub own: NodeView<'a>,
    /// The others.
    pub peers: Vec<NodeView<'a>>,
}

/// What was shown last, as long as it holds.
#[derive(Default)]
pub struct Cache {
    version: u64,
    results: Vec<(&'static str, String)>,
}

impl Cache {
    fn forget_all_but(&mut self, version: u64) {
        if self.version != version {
            *self = Self { version, results: Vec::new() };
        }
    }
}

/// The methods whose results depend on the node map.
const NODE_METHODS: [&str; 6] =
    ["getPeers", "getNodeInfo", "getNodeIDList", "getGroupPeers", "getSealerList", "getObserverList"];

/// Where results that depend on the node map come from.
struct Nodes<'a> {
    view: &'a NodesView<'a>,
    cache: &'a mut Cache,
}

/// Answers what needs no node map and is short.
pub fn classify(body: &[u8], settings: &Settings) -> Plan {
    if (REACTOR_BODY_LEN_MAX..=BODY_LEN_MAX).contains(&body.len()) {
        return Plan::Registry;
    }
    let request = match read(body) {
        Ok(request) => request,
        Err(answer) => return Plan::Answer(answer),
    };
    let needs_nodes = |request: &Value| {
        request.get("method").and_then(Value::as_str).is_some_and(|method| NODE_METHODS.contains(&method))
    };
    let any = match &request {
        Value::Array(batch) => batch.iter().any(needs_nodes),
        single => needs_nodes(single),
    };
    if any {
        return Plan::Registry;
    }
    respond(&request, body.len(), None, settings).map_or(Plan::Nothing, Plan::Answer)
}

/// Answers a request with the node map at hand; `None` for notifications. Results are kept in `cache`
/// while `version`, which names the state of the map, stays the same.
pub fn answer(
    body: &[u8],
    version: u64,
    view: &NodesView<'_>,
    settings: &Settings,
    cache: &mut Cache,
) -> Option<Vec<u8>> {
    cache.forget_all_but(version);
    match read(body) {
        Ok(request) => respond(&request, body.len(), Some(Nodes { view, cache }), settings),
        Err(answer) => Some(answer),
    }
}

/// The ledger node's answer with what is known here; `None` if it passes as it is.
pub fn merge(
    merged: Merged,
    answer: &[u8],
    version: u64,
    view: &NodesView<'_>,
    settings: &Settings,
    cache: &mut Cache,
) -> Option<Vec<u8>> {
    cache.forget_all_but(version);
    let method = match merged {
        Merged::Peers => "getPeers",
        Merged::NodeInfo => "getNodeInfo",
    };
    let own = Nodes { view, cache }.result(method, settings).to_owned();
    merge::merge(merged, answer, &own, answer_len_max(settings))
}

/// The answer to a request beyond [`BODY_LEN_MAX`].
pub fn too_large() -> Vec<u8> {
    line(error(&Value::Null, INVALID_REQUEST, "the request is longer than 1 MiB"))
}

/// In the place of an answer for which the memory of all that waits for sessions has no room.
pub fn no_room(answer: &[u8]) -> Vec<u8> {
    let text = "the node has no memory for so long an answer now";
    let refused =
        RequestIds::of_answer(answer).and_then(|request_ids| refuse_all(&request_ids, OVER_RATE, text));
    // So short that it is never refused itself.
    refused
        .filter(|answer| answer.len() <= super::SMALL_REPLY_LEN_MAX / 2)
        .unwrap_or_else(|| line(error(&Value::Null, OVER_RATE, text)))
}

/// An error in the place of each answer that is waited for.
fn refuse_all(request_ids: &RequestIds, code: i64, text: &str) -> Option<Vec<u8>> {
    let refuse = |id: &Value| error(id, code, text);
    match request_ids {
        RequestIds::One(waits_for) => waits_for.as_ref().map(|id| line(refuse(id))),
        RequestIds::Batch(ids) => {
            let errors: Vec<String> = ids.iter().map(refuse).collect();
            (!errors.is_empty()).then(|| line(format!("[{}]", errors.join(","))))
        }
    }
}

/// The answer to a request beyond `[flow_control] limit_req`: an error for each request of it that has an id. `None` for
/// notifications.
pub fn over_rate(body: &[u8]) -> Option<Vec<u8>> {
    match RequestIds::read(body) {
        Ok(request_ids) => {
            refuse_all(&request_ids, OVER_RATE, "the node's limit of requests per second is reached")
        }
        Err(answer) => Some(answer),
    }
}

/// The answer to a request of an application of FISCO BCOS 3.x: an error for each request of it that has an id. `None` for
/// notifications.
pub fn no_ledger(body: &[u8]) -> Option<Vec<u8>> {
    let text = "this node relays messages: there is no ledger of FISCO BCOS 3.x behind it";
    match RequestIds::read(body) {
        Ok(request_ids) => refuse_all(&request_ids, METHOD_NOT_FOUND, text),
        Err(answer) => Some(answer),
    }
}

fn read(body: &[u8]) -> Result<Value, Vec<u8>> {
    check(body)?;
    serde_json::from_slice(body).map_err(|_| not_json())
}

/// Refuses what is too long, or nested too deeply, to be read.
fn check(body: &[u8]) -> Result<(), Vec<u8>> {
    if body.len() > BODY_LEN_MAX {
        return Err(too_large());
    }
    if depth(body) > DEPTH_MAX {
        let message = "the request is nested deeper than 32 levels";
        return Err(line(error(&Value::Null, INVALID_REQUEST, message)));
    }
    Ok(())
}

fn not_json() -> Vec<u8> {
    line(error(&Value::Null, PARSE_ERROR, "the request is not JSON"))
}

fn bad_batch() -> Vec<u8> {
    line(error(&Value::Null, INVALID_REQUEST, "a batch holds 1 to 1000 requests"))
}

/// How deeply brackets are nested, outside of strings.
fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for &byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn line(mut answer: String) -> Vec<u8> {
    answer.push('\n');
    answer.into_bytes()
}

fn error(id: &Value, code: i64, message: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } }).to_string()
}

/// How many bytes an answer may have.
fn answer_len_max(settings: &Settings) -> usize {
    ANSWER_LEN_MAX.min(settings.frame_len_max.saturating_sub(HEADER_LEN))
}

fn respond(
    request: &Value,
    request_len: usize,
    mut nodes: Option<Nodes<'_>>,
    settings: &Settings,
) -> Option<Vec<u8>> {
    // Ids are repeated, and whatever has no room any more is answered by an error.
    let errors_len = |requests: usize| request_len + requests * ERROR_LEN_MAX;
    let Value::Array(batch) = request else {
        let left = answer_len_max(settings).saturating_sub(errors_len(1));
        return respond_one(request, nodes.as_mut(), settings, left).map(line);
    };
    if batch.is_empty() || batch.len() > BATCH_MAX {
        return Some(bad_batch());
    }
    let mut answers = String::from("[");
    for request in batch {
        let left = answer_len_max(settings).saturating_sub(answers.len() + errors_len(batch.len()));
        if let Some(answer) = respond_one(request, nodes.as_mut(), settings, left) {
            if answers.len() > 1 {
                answers.push(',');
            }
            answers.push_str(&answer);
        }
    }
    answers.push(']');
    (answers.len() > 2).then(|| line(answers))
}

/// `len_max` bounds the result; the errors, which are short, go beyond it.
fn respond_one(
    request: &Value,
    nodes: Option<&mut Nodes<'_>>,
    settings: &Settings,
    len_max: usize,
) -> Option<String> {
    let Some(method) = request.get("method").and_then(Value::as_str) else {
        let id = request.get("id").unwrap_or(&Value::Null);
        return Some(error(id, INVALID_REQUEST, "the request names no method"));
    };
    let id = request.get("id")?;
    Some(match result(method, nodes, settings) {
        Some(result) if result.len() < len_max => {
            format!(r#"{{"id":{id},"jsonrpc":"2.0","result":{result}}}"#)
        }
        Some(_) => error(id, INTERNAL_ERROR, "the answer is longer than a node may send at once"),
        None => {
            let shown: String = method.chars().take(64).collect();
            let message =
                format!("the method {shown} is not served: this node relays messages and has no ledger");
            error(id, METHOD_NOT_FOUND, &message)
        }
    })
}

/// The result's JSON text.
fn result<'a>(method: &str, nodes: Option<&'a mut Nodes<'_>>, settings: &Settings) -> Option<Cow<'a, str>> {
    let fixed = match method {
        "getClientVersion" => json!({
            "FISCO-BCOS Version": format!("{NODE_VERSION} (amop {})", env!("CARGO_PKG_VERSION")),
            "Supported Version": NODE_VERSION,
            "Chain Id": settings.chain_id,
            "Build Time": "",
            "Build Type": "Linux/rustc",
            "Git Branch": "",
            "Git Commit Hash": "",
        }),
        "getGroupList" => json!(settings.groups),
        "getBlockNumber" => json!("0x0"),
        "getSealerList" => json!([]),
        _ => {
            let method = *NODE_METHODS.iter().find(|known| **known == method)?;
            return Some(Cow::Borrowed(nodes?.result(method, settings)));
        }
    };
    Some(Cow::Owned(fixed.to_string()))
}

impl Nodes<'_> {
    fn result(&mut self, method: &'static str, settings: &Settings) -> &str {
        let kept = self.cache.results.iter().position(|(name, _)| *name == method);
        let position = kept.unwrap_or_else(|| {
            self.cache.results.push((method, self.view.render(method, settings)));
            self.cache.results.len() - 1
        });
        &self.cache.results[position].1
    }
}

impl NodesView<'_> {
    fn render(&self, method: &str, settings: &Settings) -> String {
        match method {
            "getPeers" => {
                // All names together take at most half of an answer, so that it can always be given.
                let share = answer_len_max(settings) / 2 / self.peers.len().max(1);
                let mut out = String::from("[");
                for (index, node) in self.peers.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    node.render(share, settings, &mut out);
                }
                out + "]"
            }
            "getNodeInfo" => {
                let mut out = String::new();
                self.own.render(answer_len_max(settings) / 2, settings, &mut out);
                out
            }
            _ => {
                let nodes = std::iter::once(&self.own).chain(&self.peers);
                json!(nodes.map(|node| node.id.to_hex()).collect::<Vec<_>>()).to_string()
            }
        }
    }
}

impl NodeView<'_> {
    /// A name for each subscriber of a private topic that looks like its route topic: applications look for such ones to find
    /// out whether anybody has the topic. It says nothing of the real one, and leads nowhere.
    fn subscribers_of(&self, topic: &str) -> impl Iterator<Item = String> {
        let private = PrivateTopic::of_data(topic);
        let numbers = private.as_ref().and_then(|_| self.entries.get(&topic_sessions_key(topic)));
        let (numbers, _) = numbers.unwrap_or_default().as_chunks::<8>();
        let id = self.id;
        numbers.iter().zip(std::iter::repeat(private)).filter_map(move |(number, private)| {
            let private = private?;
            let mut hasher = blake3::Hasher::new();
            hasher
                .update(LISTED_DOMAIN)
                .update(&id.0)
                .update(number)
                .update(private.data().as_str().as_bytes());
            let digits = hasher.finalize().to_hex();
            Some(private.route(digits.as_bytes().first_chunk()?))
        })
    }

    /// Appends the five fields of WIRE §1.5, with at most so many bytes of topics.
    fn render(&self, mut topics_len_left: usize, settings: &Settings, out: &mut String) {
        // Writing to a string does not fail.
        let _ = write!(
            out,
            r#"{{"Agency":{},"IPAndPort":{},"Node":{},"NodeID":"{}","Topic":["#,
            json!(self.agency),
            json!(self.address),
            json!(self.name),
            self.id.to_hex(),
        );
        let listed =
            |topic: &&str| matches!(TopicKind::of(topic.as_bytes()), TopicKind::Ordinary | TopicKind::Data);
        let shown = if settings.list_topics { TOPICS_MAX } else { 0 };
        // Those of nodes of FISCO BCOS 2.x behind it, too: who looks for a topic finds it there.
        let has_sessions = |topic: &&str| self.entries.get(&topic_key(topic)).is_some();
        let behind = self.entries.topics_2x().filter(|topic| !has_sessions(topic));
        let names = self.entries.topics().chain(behind).filter(listed).flat_map(|topic| {
            std::iter::once(Cow::Borrowed(topic)).chain(self.subscribers_of(topic).map(Cow::Owned))
        });
        for (index, topic) in names.take(shown).enumerate() {
            let name = json!(topic).to_string();
            let Some(left) = topics_len_left.checked_sub(name.len() + 1) else { break };
            topics_len_left = left;
            if index > 0 {
                out.push(',');
            }
            out.push_str(&name);
        }
        out.push_str("]}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(body: &str) -> Value {
        match classify(body.as_bytes(), &Settings::default()) {
            Plan::Answer(answer) => serde_json::from_slice(&answer).unwrap(),
            Plan::Registry => {
                let none = entries(&[]);
                ask_map(body, &view(&none, &none), &Settings::default())
            }
            Plan::Nothing => panic!("no answer"),
        }
    }

    #[test]
    fn the_version_is_one_that_sdks_accept() {
        let answer = ask(r#"{"jsonrpc":"2.0","method":"getClientVersion","params":[],"id":7}"#);
        assert_eq!(answer["id"], 7);
        let version = &answer["result"];
        assert_eq!(version["Supported Version"], "2.10.2");
        assert!(!version["FISCO-BCOS Version"].as_str().unwrap().contains("gm"));
        assert_eq!(version["Chain Id"], "1");
        assert!(version.as_object().unwrap().values().all(Value::is_string));
    }

    #[test]
    fn each_kind_of_bad_request_has_its_code() {
        assert_eq!(ask("nope")["error"]["code"], PARSE_ERROR);
        assert_eq!(ask(&"[".repeat(100_000))["error"]["code"], INVALID_REQUEST);
        assert_eq!(ask("[]")["error"]["code"], INVALID_REQUEST);
        assert_eq!(ask(r#"{"method":"sendRawTransaction","id":"x"}"#)["error"]["code"], METHOD_NOT_FOUND);
        let long = format!(r#"{{"method":"{}","id":1}}"#, "x".repeat(BODY_LEN_MAX));
        assert_eq!(ask(&long)["error"]["code"], INVALID_REQUEST);
    }

    #[test]
    fn batches_get_arrays_and_notifications_nothing() {
        let settings = Settings::default();
        let batch = ask(
            r#"[{"method":"getBlockNumber","params":[1],"id":1},{"method":"getGroupList","id":2},{"method":"x"}]"#,
        );
        assert_eq!(batch.as_array().unwrap().len(), 2);
        assert_eq!(batch[0]["result"], "0x0");
        assert_eq!(batch[1]["result"], json!([1]));
        assert_eq!(classify(br#"{"method":"getBlockNumber"}"#, &settings), Plan::Nothing);
        assert_eq!(classify(br#"{"method":"getPeers","id":1}"#, &settings), Plan::Registry);
    }

    fn view<'a>(own: &'a Entries, peer: &'a Entries) -> NodesView<'a> {
        let node = |id, entries| NodeView {
            id: NodeId([id; 64]),
            address: "127.0.0.1:30300",
            agency: "agency \"A\"",
            name: "node0",
            entries,
        };
        NodesView { own: node(1, own), peers: vec![node(2, peer)] }
    }

    fn entries(topics: &[&str]) -> Entries {
        let mut entries = Entries::default();
        for topic in topics {
            let key = crate::wire::state::topic_key(topic);
            entries.apply(&crate::wire::state::Change { key: &key, value: Some(&[0, 0, 0, 1]) });
        }
        entries
    }

    fn ask_map(body: &str, view: &NodesView<'_>, settings: &Settings) -> Value {
        let answer = answer(body.as_bytes(), 1, view, settings, &mut Cache::default()).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    #[test]
    fn subscribers_of_a_private_topic_are_listed_one_name_each_and_it_stays_theirs() {
        let data = "#!$TopicNeedVerify_p";
        let with = |numbers: &[u64]| {
            let mut entries = entries(&[data]);
            let value: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            let key = topic_sessions_key(data);
            entries.apply(&crate::wire::state::Change { key: &key, value: Some(&value) });
            entries
        };
        let names = |entries: &Entries, settings: &Settings| -> Vec<String> {
            let none = Entries::default();
            let view = view(entries, &none);
            let answer = ask_map(r#"{"method":"getNodeInfo","id":1}"#, &view, settings);
            let topics = answer["result"]["Topic"].as_array().unwrap().clone();
            topics.into_iter().map(|topic| topic.as_str().unwrap().to_owned()).collect()
        };
        let listed = names(&with(&[7, 9]), &Settings::default());
        assert_eq!((listed.len(), &*listed[0]), (3, data));
        let of_route = |name: &String| crate::wire::topic::data_topic_of_route(name).map(str::to_owned);
        assert!(listed[1..].iter().all(|name| of_route(name).as_deref() == Some(data)));
        assert_eq!(names(&with(&[9]), &Settings::default())[1], listed[2]);
        assert!(names(&with(&[7]), &Settings { list_topics: false, ..Settings::default() }).is_empty());
        let many: Vec<u64> = (0..2_048).collect();
        assert_eq!(names(&with(&many), &Settings::default()).len(), 2_049);
    }

    #[test]
    fn peers_are_shown_with_their_ordinary_and_data_topics_only() {
        let own = entries(&[]);
        let peer = entries(&[
            "#!$TopicNeedVerify_p",
            "b\"",
            "a",
            "_block_notify_1",
            "#!$PushChannel_#!$TopicNeedVerify_p",
        ]);
        let view = view(&own, &peer);
        let request = r#"{"method":"getPeers","params":[1],"id":"x"}"#;
        let answer = ask_map(request, &view, &Settings::default());
        assert_eq!(answer["id"], "x");
        assert_eq!(
            answer["result"],
            json!([{
                "Agency": "agency \"A\"",
                "IPAndPort": "127.0.0.1:30300",
                "Node": "node0",
                "NodeID": "02".repeat(64),
                "Topic": ["#!$TopicNeedVerify_p", "a", "b\""],
            }])
        );
        let hidden = Settings { list_topics: false, ..Settings::default() };
        assert_eq!(ask_map(request, &view, &hidden)["result"][0]["Topic"], json!([]));
        assert_eq!(
            ask_map(r#"{"method":"getNodeInfo","id":1}"#, &view, &hidden)["result"]["NodeID"],
            "01".repeat(64)
        );
    }

    #[test]
    fn node_lists_name_this_node_and_its_peers_and_there_is_no_sealer() {
        let none = entries(&[]);
        let view = view(&none, &none);
        for method in ["getNodeIDList", "getGroupPeers", "getObserverList"] {
            let answer = ask_map(&format!(r#"{{"method":"{method}","id":1}}"#), &view, &Settings::default());
            assert_eq!(answer["result"], json!(["01".repeat(64), "02".repeat(64)]), "{method}");
        }
        assert_eq!(ask(r#"{"method":"getBlockNumber","id":null}"#)["result"], "0x0");
        let answer = ask_map(r#"{"method":"getSealerList","id":1}"#, &view, &Settings::default());
        assert_eq!(answer["result"], json!([]));
    }

    #[test]
    fn what_was_shown_is_kept_until_the_map_changes() {
        let (none, some) = (entries(&[]), entries(&["t"]));
        let (settings, mut cache) = (Settings::default(), Cache::default());
        let request = br#"{"method":"getPeers","id":1}"#;
        let first = answer(request, 1, &view(&none, &none), &settings, &mut cache);
        assert_eq!(answer(request, 1, &view(&none, &some), &settings, &mut cache), first);
        assert_ne!(answer(request, 2, &view(&none, &some), &settings, &mut cache), first);
    }

    #[test]
    fn a_small_batch_cannot_ask_for_more_than_one_frame_holds() {
        let names: Vec<String> = (0..5_000).map(|i| format!("{i:0200}")).collect();
        let many = entries(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let none = entries(&[]);
        let settings = Settings { frame_len_max: 4 << 20, ..Settings::default() };
        let batch = format!("[{}]", vec![r#"{"method":"getPeers","id":1}"#; 500].join(","));
        let answers =
            answer(batch.as_bytes(), 1, &view(&none, &many), &settings, &mut Cache::default()).unwrap();
        assert!(answers.len() <= settings.frame_len_max - HEADER_LEN);
        let answers: Value = serde_json::from_slice(&answers).unwrap();
        assert!(answers[0]["result"].is_array());
        assert_eq!(answers[499]["error"]["code"], INTERNAL_ERROR);
    }

    #[test]
    fn a_request_over_the_rate_is_refused_with_its_own_id() {
        let refused = |body: &[u8]| over_rate(body).map(|answer| serde_json::from_slice(&answer).unwrap());
        let answer: Value = refused(br#"{"method":"getPeers","id":9}"#).unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(9), &json!(OVER_RATE)));
        assert_eq!(refused(br#"{"method":"getPeers"}"#), None, "a notification");
        let long = format!(r#"{{"method":"m","params":["{}"]}}"#, "x".repeat(2 * REACTOR_BODY_LEN_MAX));
        assert_eq!(refused(long.as_bytes()), None, "however long");
        let answers: Value =
            refused(br#"[{"method":"m","id":1},{"method":"m"},{"method":"m","id":"b"}]"#).unwrap();
        assert_eq!(answers.as_array().unwrap().len(), 2);
        assert_eq!((&answers[0]["id"], &answers[1]["id"]), (&json!(1), &json!("b")));
        assert!(answers.as_array().unwrap().iter().all(|answer| answer["error"]["code"] == OVER_RATE));
        assert_eq!(refused(br#"[{"method":"m"},{"method":"n"}]"#), None, "a batch of notifications");
        assert_eq!(classify(&vec![b' '; REACTOR_BODY_LEN_MAX], &Settings::default()), Plan::Registry);
    }

    #[test]
    fn who_waits_for_an_answer_that_memory_has_no_room_for_is_told_so() {
        let refused = |answer: &[u8]| serde_json::from_slice::<Value>(&no_room(answer)).unwrap();
        let long = format!(r#"{{"id":"a","jsonrpc":"2.0","result":["{}"]}}"#, "x".repeat(BODY_LEN_MAX));
        let answer = refused(long.as_bytes());
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("a"), &json!(OVER_RATE)));
        let answers = refused(br#"[{"id":1,"result":[]},{"id":2,"error":{"code":-32601,"message":"no"}}]"#);
        assert_eq!([&answers[0]["id"], &answers[1]["id"]], [&json!(1), &json!(2)]);
        assert_eq!(refused(b"cut of")["id"], Value::Null);
    }
}
