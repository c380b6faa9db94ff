//! What the ledger node says of its nodes, with the nodes and topics of AMOP among them: applications look for topics there
//! (INTEROP §1.2).

use std::collections::BTreeMap;

use serde_json::Value;

use super::call::Merged;

/// A longer answer of the ledger node passes as it is.
pub const MERGED_LEN_MAX: usize = 8 << 20;

/// Merges the result of the same method, as this node alone would give it, into the ledger node's answer. `None` if that is no
/// result: it passes as it is. `len_max` bounds what comes of it.
pub fn merge(merged: Merged, answer: &[u8], own: &str, len_max: usize) -> Option<Vec<u8>> {
    let mut answer: Value = serde_json::from_slice(answer).ok()?;
    let own: Value = serde_json::from_str(own).ok()?;
    let result = answer.get_mut("result")?;
    match merged {
        Merged::Peers => add_peers(result.as_array_mut()?, own),
        Merged::NodeInfo => add_topics(result.is_object().then_some(result)?, &own),
    }
    let mut merged = serde_json::to_vec(&answer).ok()?;
    merged.push(b'\n');
    (merged.len() <= len_max).then_some(merged)
}

fn id_of(node: &Value) -> Option<&str> {
    node.get("NodeID")?.as_str()
}

fn add_peers(nodes: &mut Vec<Value>, own: Value) {
    let Value::Array(own) = own else { return };
    let places: BTreeMap<String, usize> =
        nodes.iter().enumerate().filter_map(|(place, node)| Some((id_of(node)?.to_owned(), place))).collect();
    for node in own {
        match id_of(&node).and_then(|id| places.get(id)) {
            Some(place) => add_topics(&mut nodes[*place], &node),
            None => nodes.push(node),
        }
    }
}

/// Adds those topics of a node that the other one lacks.
fn add_topics(node: &mut Value, own: &Value) {
    let Some(own) = own.get("Topic").and_then(Value::as_array) else { return };
    let Some(fields) = node.as_object_mut() else { return };
    let topics = fields.entry("Topic").or_insert_with(|| Value::Array(Vec::new()));
    if topics.is_null() {
        // The Java SDK dies of it.
        *topics = Value::Array(Vec::new());
    }
    let Some(topics) = topics.as_array_mut() else { return };
    let known: std::collections::BTreeSet<String> =
        topics.iter().filter_map(|topic| topic.as_str().map(str::to_owned)).collect();
    let is_new = |topic: &&Value| topic.as_str().is_some_and(|topic| !known.contains(topic));
    topics.extend(own.iter().filter(is_new).cloned());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(kind: Merged, answer: &Value, own: &Value) -> Option<Value> {
        let merged = merge(kind, answer.to_string().as_bytes(), &own.to_string(), 10_000)?;
        Some(serde_json::from_slice(&merged).unwrap())
    }

    fn node(id: &str, topics: &Value) -> Value {
        json!({ "Agency": "a", "IPAndPort": "1.2.3.4:5", "Node": "n", "NodeID": id, "Topic": topics })
    }

    #[test]
    fn nodes_of_both_are_there_once_each_with_the_topics_of_both() {
        let ledger = json!({ "id": 7, "jsonrpc": "2.0", "result": [node("aa", &json!(["x"])), node("bb", &Value::Null)] });
        let own =
            json!([node("bb", &json!(["y"])), node("cc", &json!(["z"])), node("aa", &json!(["x", "y"]))]);
        let answer = merged(Merged::Peers, &ledger, &own).unwrap();
        assert_eq!((&answer["id"], &answer["jsonrpc"]), (&json!(7), &json!("2.0")));
        assert_eq!(
            answer["result"],
            json!([node("aa", &json!(["x", "y"])), node("bb", &json!(["y"])), node("cc", &json!(["z"]))])
        );
    }

    #[test]
    fn the_node_itself_has_the_topics_of_both_and_is_the_ledger_node() {
        let ledger = json!({ "id": "x", "jsonrpc": "2.0", "result": node("aa", &json!([])) });
        let answer = merged(Merged::NodeInfo, &ledger, &node("bb", &json!(["t"]))).unwrap();
        assert_eq!(answer["result"], node("aa", &json!(["t"])));
    }

    #[test]
    fn what_is_no_result_or_too_long_with_others_passes_as_it_is() {
        let own = json!([node("aa", &json!(["t"]))]);
        let error = json!({ "id": 1, "jsonrpc": "2.0", "error": { "code": -40012, "message": "" } });
        assert_eq!(merged(Merged::Peers, &error, &own), None);
        let other = json!({ "id": 1, "jsonrpc": "2.0", "result": "0x1" });
        assert_eq!(merged(Merged::Peers, &other, &own), None);
        assert_eq!(merge(Merged::Peers, b"nonsense", "[]", 100), None);
        let long = json!([node("aa", &json!(["t".repeat(10_000)]))]);
        let ledger = json!({ "id": 1, "jsonrpc": "2.0", "result": [] });
        assert_eq!(merged(Merged::Peers, &ledger, &long), None);
    }
}
