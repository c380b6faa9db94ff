//! Java applications that use the ledger and messages with one SDK object, whose only peer is a node with a ledger behind it
//! (INTEROP §1): its client, transactions, contracts, events and block notices give what they give with the ledger node itself as
//! peer, call by call; messages go at the same time; and the ledger node ends and comes back in the middle.

use std::{collections::BTreeMap, net::SocketAddr};

use amop::internal::pki::Profile;
use serde_json::{Value, json};

use crate::{
    kit::{ADMIN, Java, Machine, certificates, have_java, hex, noise, wait_for, wait_for_subscribers},
    support::{
        host_dir,
        ledger::{ScriptedLedger, SharedChain},
        process::Process,
    },
};

const ABI: &str = r#"[{"constant":false,"inputs":[{"name":"n","type":"uint256"}],"name":"set","outputs":[],"payable":false,"stateMutability":"nonpayable","type":"function"},{"constant":true,"inputs":[],"name":"get","outputs":[{"name":"","type":"uint256"}],"payable":false,"stateMutability":"view","type":"function"}]"#;
const ADDRESS: &str = "0x1000000000000000000000000000000000000001";

/// A node with this ledger node behind it.
fn node(ledger: SocketAddr) -> Process {
    node_with(ledger, "")
}

fn node_with(ledger: SocketAddr, more: &str) -> Process {
    let host = host_dir(Profile::Rsa);
    let sdk = host.join("sdk");
    let more = format!("{ADMIN}[ledger]\nnode.0={ledger}\ncertificates={}\n{more}", sdk.display());
    Process::start_with(&host.join("node0/conf"), true, &more)
}

fn open(java: &mut Java) -> Value {
    java.tell(json!({ "do": "open_ledger" }));
    java.next("ledger_opened")["version"].clone()
}

fn ask(java: &mut Java) -> Value {
    java.ask(json!({ "do": "ask_ledger", "hash": format!("0x{:064x}", 1), "address": ADDRESS }))["answers"]
        .clone()
}

fn transact(java: &mut Java) -> Value {
    java.ask(json!({ "do": "transact", "abi": ABI, "address": ADDRESS }))["answers"].clone()
}

fn subscribe_event(java: &mut Java, name: &str, from: &str, to: &str) {
    java.tell(json!({ "do": "subscribe_event", "name": name, "from": from, "to": to }));
    java.next("event_subscribed");
}

/// The logs of a filter, until it has brought those of a block. That it is registered the SDK may tell before or after.
fn logs(java: &mut Java, name: &str, last: u64) -> Vec<Value> {
    let mut logs = Vec::new();
    loop {
        let has_logs = |event: &Value| event["logs"].is_array();
        let event =
            java.next_of(|event| event["event"] == "logs" && event["name"] == name && has_logs(event));
        assert_eq!(event["status"], 0);
        logs.extend(event["logs"].as_array().into_iter().flatten().cloned());
        if logs.last().is_some_and(|log| block_of(log) >= last) {
            return logs;
        }
    }
}

fn block_of(log: &Value) -> u64 {
    match &log["blockNumber"] {
        Value::String(text) => text.parse().expect("a number"),
        number => number.as_u64().expect("a number"),
    }
}

/// All that an application does with a ledger, and what came of it.
fn everything(java: &mut Java, chain: &SharedChain) -> BTreeMap<&'static str, Value> {
    let mut all = BTreeMap::new();
    all.insert("version", open(java));
    subscribe_event(java, "all", "1", "latest");
    subscribe_event(java, "some", "1", "3");
    all.insert("transactions", transact(java));
    let height = chain.lock().executed().len() as u64;
    all.insert("logs", json!(logs(java, "all", height)));
    all.insert("logs of some blocks", json!(logs(java, "some", 3)));
    let is_end = |event: &Value| event["event"] == "logs" && event["name"] == "some" && event["status"] == 1;
    all.insert("end of these", java.next_of(is_end)["logs"].clone());
    let is_last = |event: &Value| event["event"] == "block" && event["number"] == json!(height.to_string());
    all.insert("block notice", java.next_of(is_last)["group"].clone());
    all.insert("answers", ask(java));
    all
}

#[test]
fn a_java_application_gets_call_by_call_what_it_gets_of_the_ledger_node_itself() {
    if !have_java() {
        return;
    }
    let machine = Machine::start();
    let [direct, behind] = [false, true].map(|behind_a_node| {
        let chain = SharedChain::default();
        chain.mine("0x01");
        let ledger = ScriptedLedger::start(Profile::Rsa, 1, &chain, None);
        let node = behind_a_node.then(|| node(ledger.address));
        let address = node.as_ref().map_or(ledger.address, |node| node.channel);
        let mut java = machine.connect_at(&certificates(), &[address]);
        let all = everything(&mut java, &chain);
        java.stop();
        all
    });
    for (what, given) in &direct {
        match given.as_object().filter(|_| *what == "answers" || *what == "transactions") {
            Some(calls) => {
                for (call, answer) in calls {
                    assert_eq!(&behind[what][call], answer, "{call}");
                }
            }
            None => assert_eq!(&behind[what], given, "{what}"),
        }
    }
    // So that this is no comparison of failures.
    let failed = |calls: &Value| {
        let failed = calls.as_object().unwrap().iter().filter(|(_, answer)| answer.get("failure").is_some());
        failed.map(|(call, _)| call.clone()).collect::<Vec<_>>()
    };
    assert_eq!(failed(&direct["transactions"]), [""; 0], "{}", direct["transactions"]);
    assert_eq!(
        failed(&direct["answers"]),
        ["getTransactionByHashWithProof", "queryGroupStatus"],
        "{}",
        direct["answers"]
    );
}

#[test]
fn contracts_events_and_messages_of_one_sdk_object_outlive_a_restart_of_the_ledger_node() {
    if !have_java() {
        return;
    }
    let chain = SharedChain::default();
    chain.mine("0x01");
    let ledger = ScriptedLedger::start(Profile::Rsa, 1, &chain, None);
    let address = ledger.address;
    let node = node(address);
    let machine = Machine::start();
    let mut java = machine.connect(&certificates(), &[&node]);
    let mut other = machine.connect(&certificates(), &[&node]);
    open(&mut java);
    subscribe_event(&mut java, "all", "1", "latest");
    transact(&mut java);
    let height = chain.lock().executed().len() as u64;
    let mut seen = logs(&mut java, "all", height);
    java.subscribe("t");
    wait_for_subscribers(&[&node], "t", 1);
    let hello = |other: &mut Java, java: &mut Java| {
        let answer = other.unicast("t", b"hello");
        assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(b"hello"))));
        java.received("t");
    };
    hello(&mut other, &mut java);

    ledger.kill();
    wait_for("the node sees it", || node.figure("ledger_links_lost") >= 1);
    // What it asks now is told that there is nobody; messages go.
    let id = java.begin(json!({ "do": "block_number" }));
    hello(&mut other, &mut java);
    let answer = java.answer(id)["answer"].clone();
    let told = answer.to_string();
    assert!(told.contains("-32001") || told.contains("no ledger node can be reached"), "{told}");
    chain.mine("0x02");

    let _ledger = ScriptedLedger::start(Profile::Rsa, 1, &chain, Some(address));
    wait_for("the node is connected again", || node.figure("ledger_reconnects") >= 1);
    let height = height + 1;
    seen.extend(logs(&mut java, "all", height));
    transact(&mut java);
    let height = chain.lock().executed().len() as u64;
    seen.extend(logs(&mut java, "all", height));
    let blocks: Vec<u64> = seen.iter().map(block_of).collect();
    assert_eq!(blocks, (1..=height).collect::<Vec<_>>(), "no log is lost, and none comes twice");
    let is_last = |event: &Value| event["event"] == "block" && event["number"] == json!(height.to_string());
    java.next_of(is_last);
    hello(&mut other, &mut java);
    java.wait_for_nodes(&[&node]);
    java.stop();
    other.stop();
}

#[test]
fn messages_pass_by_the_ledger_node_to_and_from_an_application_of_an_institution_that_has_done_nothing() {
    if !have_java() {
        return;
    }
    let chain = SharedChain::default();
    let ledger = ScriptedLedger::start(Profile::Rsa, 1, &chain, None);
    let of_other = ScriptedLedger::start(Profile::Rsa, 0, &chain, None);
    let address = ledger.address;
    let node = node_with(address, "amop=true\n");
    let machine = Machine::start();
    let mut here = machine.connect(&certificates(), &[&node]);
    let mut there = machine.connect_at(&certificates(), &[of_other.address]);
    let knows = |topic: &str| chain.lock().topics().iter().flatten().any(|other| other == topic);
    here.subscribe("here");
    there.subscribe("there");
    wait_for("ledger nodes know both", || knows("here") && knows("there"));
    let exchange = |from: &mut Java, to: &mut Java, topic: &str| {
        let answer = from.unicast(topic, b"hello");
        assert_eq!((&answer["code"], &answer["payload"]), (&json!(0), &json!(hex(b"hello"))), "{answer}");
        assert_eq!(to.received(topic)["payload"], hex(b"hello"));
        from.broadcast(topic, b"to all");
        assert_eq!(to.received(topic)["payload"], hex(b"to all"));
        let content = noise(300_000);
        let answer = from.send_file(topic, "file.bin", &content);
        assert_eq!(answer["code"], 0, "{answer}");
        assert_eq!(to.received(topic)["file"], json!({ "name": "file.bin", "content": hex(&content) }));
    };
    exchange(&mut here, &mut there, "there");
    exchange(&mut there, &mut here, "here");
    // Nobody there.
    let answer = here.unicast("nobody", b"hello");
    assert_eq!(answer["code"], 100, "{answer}");
    ledger.kill();
    wait_for("the node sees it", || node.figure("ledger_links_lost") >= 1);
    let _ledger = ScriptedLedger::start(Profile::Rsa, 1, &chain, Some(address));
    wait_for("its topics are known again", || knows("here"));
    exchange(&mut here, &mut there, "there");
    exchange(&mut there, &mut here, "here");
    here.stop();
    there.stop();
}
