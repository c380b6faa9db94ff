//! What applications and ledger nodes send each other through a node (INTEROP §1): the readers of their bodies, and whole shards on
//! the virtual network between applications and ledger nodes that say what they like.
//!
//! What must hold: a body reads the same however it is cut; each request of a session that lives gets one answer, or none if it
//! asked for none, whatever ledger nodes say and whenever they are lost; messages go on. Where they go by ledger nodes, too: each is
//! answered once, none is sent there twice, and nothing that would end a real ledger node.

use std::{collections::HashMap, time::Duration};

use amop::internal::{
    relay::{
        ledger::{
            Ledger,
            call::{Call, Merged},
            filter::{self, Push, Registration},
            merge,
        },
        settings::Settings,
    },
    wire::{
        FrameRef, ResultCode,
        sdk::{self, FrameType, Seq},
    },
};
use arbitrary::{Arbitrary, Unstructured};
use serde_json::{Value, json};

use super::shard::kit::{AppIndex, Behaviour, Network};

const APPS_MAX: usize = 8;
const LEDGERS: u16 = 2;
const STEPS_MAX: usize = 64;
/// The longest answer that is merged, here.
const MERGED_LEN_MAX: usize = 1 << 16;

/// The first byte chooses: a reader, or a script.
pub fn run(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    match selector % 8 {
        0 => call(data),
        1 => registration(data),
        2 => push(data),
        3 => merged(data),
        4 | 5 => script(data, false),
        _ => script(data, true),
    }
}

/// The bytes in pieces of a length.
fn pieces(bytes: &[u8], step: u8) -> Vec<bytes::Bytes> {
    let whole = bytes::Bytes::copy_from_slice(bytes);
    let step = usize::from(step) + 1;
    (0..bytes.len()).step_by(step).map(|at| whole.slice(at..bytes.len().min(at + step))).collect()
}

/// What a reader makes of bytes, which must be the same however they are cut.
fn read<T: PartialEq + std::fmt::Debug>(bytes: &[u8], step: u8, read: impl Fn(FrameRef<'_>) -> T) -> T {
    let whole = read(FrameRef::Slice(bytes));
    let chunks = pieces(bytes, step);
    if !chunks.is_empty() {
        let cut = read(FrameRef::Chunks { chunks: &chunks, skip: 0, len: bytes.len() });
        assert_eq!(cut, whole, "in pieces of {}", usize::from(step) + 1);
    }
    whole
}

fn call(data: &[u8]) {
    let Some((&step, body)) = data.split_first() else { return };
    for checks in [false, true] {
        let call = read(body, step, |body| Call::read(body, checks));
        assert!(call.groups.len() <= 1_001, "no more than may be in a batch");
        let Some(error) = call.error(-32_000, "the outcome is unknown \"\u{7}") else {
            assert!(call.is_whole, "nobody knows that nothing waits");
            continue;
        };
        let error: Value = serde_json::from_slice(&error).expect("errors are JSON");
        let errors = error.as_array().cloned().unwrap_or_else(|| vec![error]);
        assert!(errors.iter().all(|error| error["error"]["code"] == -32_000 && error["jsonrpc"] == "2.0"));
        if call.is_whole
            && let Ok(Value::Object(request)) = serde_json::from_slice::<Value>(body)
            && let Some(id @ (Value::String(_) | Value::Number(_))) = request.get("id")
            && id.as_str().is_none_or(|id| id.len() <= 128)
        {
            assert_eq!(errors[0].get("id"), Some(id));
        }
    }
}

fn registration(data: &[u8]) {
    let Some((&block, body)) = data.split_first() else { return };
    let _ = filter::result_of(body);
    let moved = filter::from_block(body, block.into());
    let Some(registration) = Registration::read(body) else { return };
    // Opened anew it is the same filter, of the same group and to the same end.
    assert_eq!(Registration::read(&moved).as_ref(), Some(&registration));
    let text = &moved[usize::from(moved[0]).max(1)..];
    let value: Value = serde_json::from_slice(text).expect("it was read just now");
    assert_eq!(value["fromBlock"], block.to_string());
    let ended: Value = serde_json::from_slice(&filter::ended(&registration.id, 1)).expect("JSON");
    assert_eq!((&ended["filterID"], &ended["result"]), (&json!(registration.id), &json!(1)));
    assert_eq!(filter::result_of(&filter::answer(block.into())), Some(block.into()));
}

fn push(data: &[u8]) {
    let Some((&step, body)) = data.split_first() else { return };
    read(body, step, Push::read);
    // A long one is read at its ends only, where a ledger node's own order of fields is known.
    if let Some(Push { id, last_block, result }) = Push::read(FrameRef::Slice(body))
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        let filler = json!({ "data": "x".repeat(70_000), "blockNumber": "0x1" });
        let last = json!({ "blockNumber": last_block.unwrap_or(1).to_string() });
        let long = format!("{{\"filterID\":\"{id}\",\"logs\":[{filler},{last}],\"result\":{result}}}\n");
        let read = read(long.as_bytes(), step, Push::read);
        if id.len() <= 256 {
            assert_eq!(read, Some(Push { id, last_block: Some(last_block.unwrap_or(1)), result }));
        }
    }
}

fn merged(data: &[u8]) {
    let Some((&selector, rest)) = data.split_first() else { return };
    let at = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (answer, own) = (&rest[..at], &rest[(at + 1).min(rest.len())..]);
    let own = String::from_utf8_lossy(own);
    let kind = if selector % 2 == 0 { Merged::Peers } else { Merged::NodeInfo };
    let Some(merged) = merge::merge(kind, answer, &own, MERGED_LEN_MAX) else { return };
    assert!(merged.len() <= MERGED_LEN_MAX);
    let before: Value = serde_json::from_slice(answer).expect("it was read");
    let after: Value = serde_json::from_slice(&merged).expect("JSON");
    assert_eq!(before.get("id"), after.get("id"));
    let nodes = |answer: &Value| answer["result"].as_array().map_or(1, Vec::len);
    assert!(nodes(&after) >= nodes(&before), "no node of the ledger is lost");
    // Once more adds nothing.
    if kind == Merged::NodeInfo {
        assert_eq!(merge::merge(kind, &merged, &own, MERGED_LEN_MAX).as_deref(), Some(&merged[..]));
    }
}

#[derive(Arbitrary, Debug)]
struct Setting {
    seed: u8,
    reactors: u8,
    is_tight: bool,
    has_list: bool,
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    App,
    Call {
        app: u8,
        method: u8,
        with_id: bool,
    },
    Filter {
        app: u8,
        ends: bool,
        id: u8,
        from: u8,
        to: u8,
    },
    Notices {
        app: u8,
        groups: u8,
    },
    /// A frame of an application with a body as it comes.
    Frame {
        app: u8,
        kind: u8,
        again: bool,
        body: Body<'a>,
    },
    /// A frame of a ledger node.
    Said {
        connection: u8,
        kind: u8,
        /// Under the seq of something that was asked.
        seq: Option<u8>,
        said: Said<'a>,
    },
    Drop {
        ledger: u8,
    },
    Kill {
        ledger: u8,
    },
    Revive {
        ledger: u8,
    },
    Mute {
        ledger: u8,
        is_mute: bool,
        is_frozen: bool,
    },
    Mine,
    Leave {
        app: u8,
    },
    Run {
        ms: u16,
    },
}

/// What applications and ledger nodes do where messages go by them.
#[derive(Arbitrary, Debug)]
enum MessageStep<'a> {
    Ledger(Step<'a>),
    Subscribe {
        app: u8,
        topics: u8,
    },
    /// A message of an application; `again` under a seq that somebody used.
    Send {
        app: u8,
        is_multicast: bool,
        again: bool,
        topic: u8,
        payload: u8,
    },
    /// An application answers what was pushed to it so long ago.
    Answer {
        app: u8,
        back: u8,
        code: i8,
        body: Option<Body<'a>>,
    },
    /// A ledger node pushes something; `again` under a seq that somebody used.
    Push {
        connection: u8,
        is_multicast: bool,
        again: bool,
        topic: u8,
        payload: u8,
    },
    /// A ledger node answers what was sent there so long ago.
    AnswerOfLedger {
        connection: u8,
        back: u8,
        code: i8,
        body: Body<'a>,
    },
    /// An application at a ledger node of the chain.
    Direct {
        ledger: u8,
        topics: u8,
        answers: bool,
    },
    DirectSends {
        app: u8,
        is_multicast: bool,
        topic: u8,
        payload: u8,
    },
    Cut {
        is_cut: bool,
        is_over_bandwidth: bool,
    },
}

/// Topics of messages, one of which is private.
const TOPICS: [&str; 4] = ["a", "b", "c", "#!$TopicNeedVerify_d"];

fn topics_of(bits: u8) -> Vec<&'static str> {
    (0..TOPICS.len()).filter(|bit| bits >> bit & 1 == 1).map(|bit| TOPICS[bit]).collect()
}

fn topic_of(choice: u8) -> &'static str {
    TOPICS[usize::from(choice) % TOPICS.len()]
}

/// Some bytes, and not most of the script.
type Body<'a> = super::Bytes<'a, 120>;

#[derive(Arbitrary, Debug)]
enum Said<'a> {
    Bytes(Body<'a>),
    /// Logs of a filter, and what becomes of it.
    Logs {
        id: u8,
        block: u8,
        result: i8,
    },
    /// The result of a registration.
    Result(i8),
    /// An answer to a call.
    Answer {
        id: u8,
        is_error: bool,
    },
    Long(u8),
}

/// What an application asked under a seq.
struct Asked {
    frame_type: FrameType,
    /// Whether an answer is waited for.
    waits: bool,
}

struct Run {
    network: Network,
    asked: Vec<HashMap<Seq, Asked>>,
    seqs: Vec<Seq>,
}

fn script(data: &[u8], amop: bool) {
    let mut script = Unstructured::new(data);
    let Ok(setting) = Setting::arbitrary(&mut script) else { return };
    let mut ledger = Ledger::of_nodes(LEDGERS);
    ledger.request_timeout = Duration::from_secs(4);
    ledger.amop = amop;
    if setting.is_tight {
        ledger.bytes_max = 4 << 10;
    }
    if setting.has_list {
        ledger.allow.insert(2, [amop::internal::wire::NodeId([1; 64])].into());
    }
    let settings = Settings {
        ledger: Some(ledger),
        idle_timeout: Duration::from_secs(3_600),
        request_timeout: Duration::from_secs(10),
        session_queue_bytes_max: 16 << 10,
        ..Settings::default()
    };
    let mut network = Network::new(u64::from(setting.seed));
    (0..LEDGERS).for_each(|_| _ = network.add_ledger());
    network.add_node(1 + u16::from(setting.reactors % 2), settings);
    let mut run = Run { network, asked: Vec::new(), seqs: Vec::new() };
    for _ in 0..STEPS_MAX {
        if amop {
            let Ok(step) = MessageStep::arbitrary(&mut script) else { break };
            run.message_step(step);
        } else {
            let Ok(step) = Step::arbitrary(&mut script) else { break };
            run.step(step);
        }
        if script.is_empty() {
            break;
        }
    }
    run.finish();
}

impl Run {
    fn app(&self, choice: u8) -> Option<AppIndex> {
        let apps = self.network.apps.len();
        let app = (apps > 0).then(|| usize::from(choice) % apps)?;
        (!self.network.apps[app].closed).then_some(app)
    }

    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::App => self.connect(),
            Step::Call { app, method, with_id } => {
                const METHODS: [&str; 5] =
                    ["getPeers", "getNodeInfo", "getBlockNumber", "sendRawTransaction", "echo"];
                let method = METHODS[usize::from(method) % METHODS.len()];
                let mut call = json!({ "jsonrpc": "2.0", "method": method, "params": [1, "0x01"] });
                if with_id {
                    call["id"] = 7.into();
                }
                self.send(app, FrameType::RPC, false, call.to_string().as_bytes());
            }
            Step::Filter { app, ends, id, from, to } => {
                let text = json!({
                    "fromBlock": from.to_string(), "toBlock": to.to_string(), "groupID": "1", "filterID": (id % 4).to_string(),
                });
                let body = [b"\x01", text.to_string().as_bytes()].concat();
                let kind = if ends { FrameType::EVENT_UNREGISTER } else { FrameType::EVENT_REGISTER };
                self.send(app, kind, false, &body);
            }
            Step::Notices { app, groups } => {
                let names: Vec<String> = (0..8)
                    .filter(|bit| groups >> bit & 1 == 1)
                    .map(|group| format!("_block_notify_{group}"))
                    .collect();
                let body = serde_json::to_vec(&names).expect("strings");
                self.send(app, FrameType::SUBSCRIBE, false, &body);
            }
            Step::Frame { app, kind, again, body: super::Bytes(body) } => {
                const KINDS: [FrameType; 6] = [
                    FrameType::RPC,
                    FrameType::HANDSHAKE,
                    FrameType::EVENT_REGISTER,
                    FrameType::EVENT_UNREGISTER,
                    FrameType::SUBSCRIBE,
                    FrameType::HEARTBEAT,
                ];
                self.send(app, KINDS[usize::from(kind) % KINDS.len()], again, body);
            }
            Step::Said { connection, kind, seq, said } => self.say(connection, kind, seq, said),
            Step::Drop { ledger } => self.network.drop_ledger_connections(ledger_of(ledger)),
            Step::Kill { ledger } => self.network.kill_ledger(ledger_of(ledger)),
            Step::Revive { ledger } => self.network.revive_ledger(ledger_of(ledger)),
            Step::Mute { ledger, is_mute, is_frozen } => {
                let ledger = &mut self.network.chain.nodes[ledger_of(ledger)];
                (ledger.is_mute, ledger.is_frozen) = (is_mute, is_frozen);
            }
            Step::Mine => self.network.mine("0x02"),
            Step::Leave { app } => {
                if let Some(app) = self.app(app) {
                    self.network.disconnect(app);
                }
            }
            Step::Run { ms } => self.network.run_for(Duration::from_millis((ms % 6_000).into())),
        }
    }

    fn connect(&mut self) {
        if self.network.apps.len() < APPS_MAX {
            self.network.app(0, Behaviour::Silent);
            self.asked.push(HashMap::new());
        }
    }

    fn message_step(&mut self, step: MessageStep<'_>) {
        match step {
            MessageStep::Ledger(step) => self.step(step),
            MessageStep::Subscribe { app, topics } => {
                let body = serde_json::to_vec(&topics_of(topics)).expect("strings");
                self.send(app, FrameType::SUBSCRIBE, false, &body);
            }
            MessageStep::Send { app, is_multicast, again, topic, payload } => {
                let frame_type = if is_multicast { FrameType::MULTICAST } else { FrameType::REQUEST };
                self.send(app, frame_type, again, &body_of(topic, payload));
            }
            MessageStep::Answer { app, back, code, body } => {
                let Some(app) = self.app(app) else { return };
                let pushed = self.network.apps[app].received.iter().rev();
                let mut pushed = pushed.filter(|one| one.header.frame_type == FrameType::REQUEST);
                let Some(one) = pushed.nth(back.into()) else { return };
                let data = body.map_or(&one.data[..], |super::Bytes(body)| body).to_vec();
                let answer =
                    sdk::encode(FrameType::RESPONSE, &one.header.seq, ResultCode(code.into()), &data);
                self.network.bytes(app, answer);
            }
            MessageStep::Push { connection, is_multicast, again, topic, payload } => {
                let connections = self.network.chain.connections.len();
                if connections == 0 {
                    return;
                }
                let known = self.seqs.last().copied().filter(|_| again);
                let seq = known.unwrap_or_else(|| self.network.seq());
                self.seqs.push(seq);
                let frame_type = if is_multicast { FrameType::MULTICAST } else { FrameType::REQUEST };
                let frame = sdk::encode(frame_type, &seq, ResultCode::OK, &body_of(topic, payload));
                self.network.ledger_sends_bytes(usize::from(connection) % connections, frame);
            }
            MessageStep::AnswerOfLedger { connection, back, code, body: super::Bytes(body) } => {
                let connections = self.network.chain.connections.len();
                if connections == 0 {
                    return;
                }
                let connection = usize::from(connection) % connections;
                let sent = self.network.chain.connections[connection].of_type(FrameType::REQUEST);
                let Some(seq) = sent.iter().rev().nth(back.into()).map(|one| one.header.seq) else { return };
                let answer = sdk::encode(FrameType::RESPONSE, &seq, ResultCode(code.into()), body);
                self.network.ledger_sends_bytes(connection, answer);
            }
            MessageStep::Direct { ledger, topics, answers } => {
                if self.network.chain.messages.direct.len() < APPS_MAX {
                    self.network.direct_app(ledger_of(ledger), &topics_of(topics & 7), answers);
                }
            }
            MessageStep::DirectSends { app, is_multicast, topic, payload } => {
                let apps = self.network.chain.messages.direct.len();
                if apps > 0 {
                    let frame_type = if is_multicast { FrameType::MULTICAST } else { FrameType::REQUEST };
                    let (app, payload) = (usize::from(app) % apps, [payload]);
                    self.network.direct_sends(app, frame_type, topic_of(topic), &payload);
                }
            }
            MessageStep::Cut { is_cut, is_over_bandwidth } => {
                let messages = &mut self.network.chain.messages;
                (messages.is_cut, messages.is_over_bandwidth) = (is_cut, is_over_bandwidth);
            }
        }
    }

    /// No unicast went to ledger nodes twice: each has a seq of its own there.
    fn check_that_nothing_was_sent_twice(&self) {
        let mut seqs = std::collections::HashSet::new();
        for connection in &self.network.chain.connections {
            for one in connection.of_type(FrameType::REQUEST) {
                assert!(seqs.insert(one.header.seq), "a unicast went to ledger nodes twice");
            }
        }
    }

    /// Sends a frame of an application; `again` under a seq that somebody used.
    fn send(&mut self, app: u8, frame_type: FrameType, again: bool, body: &[u8]) {
        let Some(app) = self.app(app) else { return };
        let known = self.seqs.last().copied().filter(|_| again);
        let seq = known.unwrap_or_else(|| self.network.seq());
        self.seqs.push(seq);
        if matches!(frame_type, FrameType::REQUEST | FrameType::MULTICAST) {
            // A second one under an open seq is answered as well.
            let asked = Asked { frame_type: FrameType::RESPONSE, waits: true };
            if self.asked[app].insert(seq, asked).is_some() || again {
                self.asked[app].insert(seq, Asked { frame_type: FrameType(0), waits: false });
            }
        }
        if matches!(frame_type, FrameType::RPC | FrameType::EVENT_REGISTER | FrameType::EVENT_UNREGISTER) {
            let waits = frame_type != FrameType::RPC
                || serde_json::from_slice(body).is_ok_and(|request: Value| {
                    request.as_object().is_some_and(|one| one.contains_key("id"))
                });
            let asked = Asked { frame_type, waits };
            if self.asked[app].insert(seq, asked).is_some() {
                // Of two under one seq nothing is promised but that nothing breaks.
                self.asked[app].remove(&seq);
                self.asked[app].insert(seq, Asked { frame_type: FrameType(0), waits: false });
            }
        }
        self.network.bytes(app, sdk::encode(frame_type, &seq, ResultCode::OK, body));
    }

    fn say(&mut self, connection: u8, kind: u8, seq: Option<u8>, said: Said<'_>) {
        let connections = self.network.chain.connections.len();
        if connections == 0 {
            return;
        }
        const KINDS: [FrameType; 10] = [
            FrameType::RPC,
            FrameType::HANDSHAKE,
            FrameType::HEARTBEAT,
            FrameType::EVENT_REGISTER,
            FrameType::EVENT_UNREGISTER,
            FrameType::RECEIPT,
            FrameType::BLOCK_NOTICE,
            FrameType::EVENT_LOGS,
            FrameType::REQUEST,
            FrameType(0xffff),
        ];
        let kind = KINDS[usize::from(kind) % KINDS.len()];
        let seqs = self.seqs.len();
        let seq = seq.filter(|_| seqs > 0).map_or([b'0'; 32], |back| self.seqs[usize::from(back) % seqs]);
        let body = match said {
            Said::Bytes(super::Bytes(bytes)) => bytes.to_vec(),
            Said::Logs { id, block, result } => {
                let logs = json!([{ "blockNumber": block.to_string() }]);
                json!({ "filterID": (id % 4).to_string(), "logs": logs, "result": result })
                    .to_string()
                    .into_bytes()
            }
            Said::Result(result) => filter::answer(result.into()),
            Said::Answer { id, is_error: true } => {
                json!({ "id": id, "jsonrpc": "2.0", "error": { "code": -1, "message": "" } })
                    .to_string()
                    .into_bytes()
            }
            Said::Answer { id, is_error: false } => {
                json!({ "id": id, "jsonrpc": "2.0", "result": [{ "NodeID": "1", "Topic": null }] })
                    .to_string()
                    .into_bytes()
            }
            Said::Long(len) => vec![b'x'; usize::from(len) << 8],
        };
        self.network.ledger_sends(usize::from(connection) % connections, kind, &seq, &body);
    }

    fn finish(mut self) {
        for ledger in 0..usize::from(LEDGERS) {
            self.network.revive_ledger(ledger);
            let ledger = &mut self.network.chain.nodes[ledger];
            (ledger.is_mute, ledger.is_frozen) = (false, false);
        }
        // Longer than a request may wait for a connection, and for its answer.
        self.network.run_for(Duration::from_secs(20));
        for (app, asked) in self.asked.iter().enumerate() {
            if self.network.apps[app].closed {
                continue;
            }
            for (seq, asked) in asked.iter().filter(|(_, asked)| asked.frame_type != FrameType(0)) {
                let received = &self.network.apps[app].received;
                let fits = |header: &sdk::Header| header.seq == *seq && header.frame_type == asked.frame_type;
                let answers = received.iter().filter(|one| fits(&one.header)).count();
                let shown = String::from_utf8_lossy(seq);
                assert!(answers <= 1, "{answers} answers to {shown}");
                assert!(answers == 1 || !asked.waits, "no answer to {shown}");
            }
        }
        self.check_that_nothing_was_sent_twice();
        self.check_that_messages_go_on();
    }

    fn check_that_messages_go_on(&mut self) {
        self.network.subscriber(0, &["afterwards"]);
        let publisher = self.network.app(0, Behaviour::Silent);
        let seq = self.network.unicast(publisher, "afterwards", b"still there?");
        assert_eq!(self.network.answer(publisher, &seq, Duration::from_secs(3)).0, 0);
    }
}

/// The body of a message.
fn body_of(topic: u8, payload: u8) -> Vec<u8> {
    let topic = topic_of(topic);
    [&[topic.len() as u8 + 1], topic.as_bytes(), &[payload]].concat()
}

fn ledger_of(choice: u8) -> usize {
    usize::from(choice) % usize::from(LEDGERS)
}

/// As the Java SDK and ledger nodes of FISCO BCOS 2.x write them, and scripts.
pub fn seeds() -> Vec<Vec<u8>> {
    let registration = br#"{"fromBlock":"latest","toBlock":"latest","addresses":["0x1"],"topics":[["0x2"]],"groupID":"1","filterID":"0123456789abcdef0123456789abcdef"}"#;
    let push = br#"{"filterID":"ab","logs":[{"address":"0x1","blockNumber":"3","data":"0x","logIndex":"0x0","topics":["0x2"]}],"result":0}"#;
    let peers = br#"{"id":7,"jsonrpc":"2.0","result":[{"Agency":"a","IPAndPort":"1.2.3.4:5","Node":"n","NodeID":"aa","Topic":["x"]}]}"#;
    let own = br#"[{"Agency":"b","IPAndPort":"1.2.3.5:5","Node":"m","NodeID":"aa","Topic":["y"]},{"NodeID":"cc","Topic":[]}]"#;
    let info = br#"{"id":7,"jsonrpc":"2.0","result":{"NodeID":"aa","Topic":null}}"#;
    let readers: [(u8, Vec<u8>); 8] = [
        (
            0,
            [&[3][..], br#"{"jsonrpc":"2.0","method":"sendRawTransaction","params":[1,"0x01"],"id":7}"#]
                .concat(),
        ),
        (0, [&[9][..], br#"[{"method":"getPeers","params":["2"],"id":"x"},{"method":"call"}]"#].concat()),
        (1, [&[7][..], b"\x01", registration].concat()),
        (1, [&[7][..], b"\x01{\"result\":-41006}\n"].concat()),
        (2, [&[5][..], push].concat()),
        (2, [&[5][..], br#"{"filterID":"ab","logs":null,"result":1}"#].concat()),
        (3, [&[0][..], peers, b"\n", own].concat()),
        (3, [&[1][..], info, b"\n", br#"{"NodeID":"bb","Topic":["t"]}"#].concat()),
    ];
    let readers = readers.into_iter().map(|(selector, seed)| [&[selector][..], &seed].concat());
    let scripts = [4, 6].into_iter().flat_map(|selector| {
        super::scripts().into_iter().map(move |script| [&[selector][..], &script].concat())
    });
    readers.chain(scripts).collect()
}
