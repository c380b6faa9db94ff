//! Answers to JSON-RPC requests that a node without a ledger must give (WIRE §1.5).

use serde_json::{Value, json};

use super::settings::Settings;
use crate::wire::{NodeId, TopicKind, json::NODE_VERSION, state::Entries};

/// Longest request in bytes.
pub const BODY_LEN_MAX: usize = 1 << 20;
/// Deepest nesting of arrays and objects.
const DEPTH_MAX: usize = 32;
/// Requests in one batch.
const BATCH_MAX: usize = 1_000;
/// Topics that one node's list shows.
const TOPICS_MAX: usize = 10_000;

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const OVER_RATE: i64 = -40011;

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

/// Answers what needs no node map.
pub fn classify(body: &[u8], settings: &Settings) -> Plan {
    let request = match read(body) {
        Ok(request) => request,
        Err(answer) => return Plan::Answer(answer),
    };
    let needs_nodes = |request: &Value| {
        matches!(
            request.get("method").and_then(Value::as_str),
            Some(
                "getPeers"
                    | "getNodeInfo"
                    | "getNodeIDList"
                    | "getGroupPeers"
                    | "getSealerList"
                    | "getObserverList"
            )
        )
    };
    let any = match &request {
        Value::Array(batch) => batch.iter().any(needs_nodes),
        single => needs_nodes(single),
    };
    if any {
        return Plan::Registry;
    }
    respond(&request, None, settings).map_or(Plan::Nothing, |answer| Plan::Answer(encode(&answer)))
}

/// Answers a request with the node map at hand; `None` for notifications.
pub fn answer(body: &[u8], nodes: &NodesView<'_>, settings: &Settings) -> Option<Vec<u8>> {
    match read(body) {
        Ok(request) => respond(&request, Some(nodes), settings).map(|answer| encode(&answer)),
        Err(answer) => Some(answer),
    }
}

/// The answer to a request beyond [`BODY_LEN_MAX`].
pub fn too_large() -> Vec<u8> {
    encode(&error(&Value::Null, INVALID_REQUEST, "the request is longer than 1 MiB"))
}

/// The answer to a request beyond `[flow_control] limit_req`.
pub fn over_rate(body: &[u8]) -> Vec<u8> {
    let id = read(body).ok().and_then(|request| request.get("id").cloned()).unwrap_or_default();
    encode(&error(&id, OVER_RATE, "the node's limit of requests per second is reached"))
}

fn read(body: &[u8]) -> Result<Value, Vec<u8>> {
    let refuse = |code, message| encode(&error(&Value::Null, code, message));
    if body.len() > BODY_LEN_MAX {
        return Err(too_large());
    }
    if depth(body) > DEPTH_MAX {
        return Err(refuse(INVALID_REQUEST, "the request is nested deeper than 32 levels"));
    }
    serde_json::from_slice(body).map_err(|_| refuse(PARSE_ERROR, "the request is not JSON"))
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

fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

fn respond(request: &Value, nodes: Option<&NodesView<'_>>, settings: &Settings) -> Option<Value> {
    match request {
        Value::Array(batch) if batch.is_empty() || batch.len() > BATCH_MAX => {
            Some(error(&Value::Null, INVALID_REQUEST, "a batch holds 1 to 1000 requests"))
        }
        Value::Array(batch) => {
            let answers: Vec<Value> =
                batch.iter().filter_map(|request| respond_one(request, nodes, settings)).collect();
            (!answers.is_empty()).then_some(Value::Array(answers))
        }
        single => respond_one(single, nodes, settings),
    }
}

fn respond_one(request: &Value, nodes: Option<&NodesView<'_>>, settings: &Settings) -> Option<Value> {
    let Some(method) = request.get("method").and_then(Value::as_str) else {
        let id = request.get("id").unwrap_or(&Value::Null);
        return Some(error(id, INVALID_REQUEST, "the request names no method"));
    };
    let id = request.get("id")?;
    Some(match result(method, nodes, settings) {
        Some(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        None => {
            let message =
                format!("the method {method} is not served: this node relays messages and has no ledger");
            error(id, METHOD_NOT_FOUND, &message)
        }
    })
}

fn result(method: &str, nodes: Option<&NodesView<'_>>, settings: &Settings) -> Option<Value> {
    let ids = |nodes: &NodesView<'_>| {
        std::iter::once(&nodes.own).chain(&nodes.peers).map(|node| node.id.to_hex()).collect::<Vec<_>>()
    };
    match method {
        "getClientVersion" => Some(json!({
            "FISCO-BCOS Version": format!("{NODE_VERSION} (amop {})", env!("CARGO_PKG_VERSION")),
            "Supported Version": NODE_VERSION,
            "Chain Id": settings.chain_id,
            "Build Time": "",
            "Build Type": "Linux/rustc",
            "Git Branch": "",
            "Git Commit Hash": "",
        })),
        "getGroupList" => Some(json!(settings.groups)),
        "getBlockNumber" => Some(json!("0x0")),
        "getPeers" => Some(nodes?.peers.iter().map(|node| show(node, settings)).collect::<Vec<_>>().into()),
        "getNodeInfo" => Some(show(&nodes?.own, settings)),
        "getNodeIDList" | "getGroupPeers" | "getObserverList" => Some(json!(ids(nodes?))),
        "getSealerList" => Some(json!([])),
        _ => None,
    }
}

fn show(node: &NodeView<'_>, settings: &Settings) -> Value {
    let topics: Vec<&str> = if settings.list_topics {
        let listed =
            |topic: &&str| matches!(TopicKind::of(topic.as_bytes()), TopicKind::Ordinary | TopicKind::Data);
        node.entries.topics().filter(listed).take(TOPICS_MAX).collect()
    } else {
        Vec::new()
    };
    json!({
        "Agency": node.agency,
        "IPAndPort": node.address,
        "Node": node.name,
        "NodeID": node.id.to_hex(),
        "Topic": topics,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(body: &str) -> Value {
        match classify(body.as_bytes(), &Settings::default()) {
            Plan::Answer(answer) => serde_json::from_slice(&answer).unwrap(),
            other => panic!("{other:?}"),
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
}
