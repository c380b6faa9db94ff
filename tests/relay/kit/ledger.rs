//! Ledger nodes, modelled after INTEROP §1.1: they answer in any order, late or never, lose their connections, and confuse
//! equal seqs of different sessions as real ones do.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    time::Duration,
};

use amop::internal::{
    relay::{Class, CloseReason, LedgerDial, LinkUp, ReactorId},
    wire::{
        ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};
use serde_json::{Value, json};

use super::{
    End, Event, LINK_LATENCY, Network, NodeIndex, Received,
    two_x::{Member, VirtualMessages},
};

pub type LedgerIndex = usize;
pub type ConnectionIndex = usize;

/// Ledger nodes of one chain: what one executes all have.
#[derive(Default)]
pub struct VirtualChain {
    /// The transactions of each block.
    pub blocks: Vec<String>,
    /// All connections to its nodes, those that are over too.
    pub connections: Vec<LedgerConnection>,
    pub nodes: Vec<VirtualLedger>,
    /// Which ledger nodes a node has behind it, by its numbers for them; without an entry these are their places here.
    pub behind: BTreeMap<NodeIndex, Vec<LedgerIndex>>,
    pub messages: VirtualMessages,
}

/// One ledger node.
pub struct VirtualLedger {
    pub is_up: bool,
    /// How long it takes for an answer; drawn for each.
    pub delay: RangeInclusive<Duration>,
    /// It takes everything and answers no request.
    pub is_mute: bool,
    /// It answers nothing at all, not even heartbeats.
    pub is_frozen: bool,
    /// Bytes a second that it takes.
    pub rate: Option<u64>,
    /// Who asked under each open seq.
    open: BTreeMap<Seq, ConnectionIndex>,
}

/// A connection as its ledger node has it.
pub struct LedgerConnection {
    pub ledger: LedgerIndex,
    pub is_open: bool,
    pub end: End,
    /// All that has come, in order.
    pub received: Vec<Received>,
    pub protocol: u64,
    pub topics: Vec<String>,
    filters: Vec<VirtualFilter>,
    arrival: Option<std::time::Instant>,
}

struct VirtualFilter {
    group: String,
    id: String,
    next_block: u64,
    last_block: u64,
}

impl LedgerConnection {
    /// Frames of a type that have come.
    pub fn of_type(&self, frame_type: FrameType) -> Vec<&Received> {
        self.received.iter().filter(|one| one.header.frame_type == frame_type).collect()
    }
}

impl Network {
    /// A ledger node of the chain, for nodes whose settings name as many.
    pub fn add_ledger(&mut self) -> LedgerIndex {
        self.chain.nodes.push(VirtualLedger {
            is_up: true,
            delay: LINK_LATENCY..=LINK_LATENCY,
            is_mute: false,
            is_frozen: false,
            rate: None,
            open: BTreeMap::new(),
        });
        self.chain.nodes.len() - 1
    }

    /// The connections that are open.
    pub fn ledger_connections(&self) -> impl Iterator<Item = &LedgerConnection> {
        self.chain.connections.iter().filter(|connection| connection.is_open)
    }

    /// A ledger node ends without a word, and forgets all but the chain.
    pub fn kill_ledger(&mut self, ledger: LedgerIndex) {
        self.chain.nodes[ledger].is_up = false;
        self.drop_ledger_connections(ledger);
    }

    /// All connections of a ledger node break.
    pub fn drop_ledger_connections(&mut self, ledger: LedgerIndex) {
        self.chain.nodes[ledger].open.clear();
        self.forget_messages_of(ledger);
        let ends: Vec<End> = self
            .chain
            .connections
            .iter_mut()
            .filter(|one| one.is_open && one.ledger == ledger)
            .map(|one| {
                one.is_open = false;
                one.end
            })
            .collect();
        for end in ends {
            self.schedule(LINK_LATENCY, Event::LinkDown { end, reason: CloseReason::Broken });
        }
    }

    pub fn revive_ledger(&mut self, ledger: LedgerIndex) {
        self.chain.nodes[ledger].is_up = true;
    }

    /// Seals a block with this transaction.
    pub fn mine(&mut self, transaction: &str) {
        self.chain.blocks.push(transaction.to_owned());
        for connection in 0..self.chain.connections.len() {
            self.tell_of_blocks(connection);
        }
    }

    pub(super) fn begin_ledger_dial(&mut self, node: NodeIndex, reactor: ReactorId, dial: LedgerDial) {
        let incarnation = self.nodes[node].incarnation;
        self.schedule(2 * LINK_LATENCY, Event::LedgerDialled { node, incarnation, reactor, dial });
    }

    pub(super) fn end_ledger_dial(&mut self, node: NodeIndex, reactor: ReactorId, dial: LedgerDial) {
        let LedgerDial { session, number, node: ledger } = dial;
        let ledger = usize::from(ledger);
        let ledger = self.chain.behind.get(&node).map_or(ledger, |behind| behind[ledger]);
        if !self.chain.nodes[ledger].is_up {
            return self
                .drive(node, reactor, |shard, now, io| shard.handle_dial_failed(now, session, number, io));
        }
        let connection = self.chain.connections.len();
        let (now, rate) = (self.now, self.chain.nodes[ledger].rate);
        let io = &mut self.nodes[node].io[usize::from(reactor.0)];
        let key = io.insert(now, true, End::Ledger(connection));
        io.link(key).expect("just inserted").rate = rate;
        let end = self.end(node, reactor, key);
        self.chain.connections.push(LedgerConnection {
            ledger,
            is_open: true,
            end,
            received: Vec::new(),
            protocol: 1,
            topics: Vec::new(),
            filters: Vec::new(),
            arrival: None,
        });
        let up = LinkUp::Ledger { session, number, address: format!("127.0.0.1:{}", 20200 + ledger) };
        self.drive(node, reactor, |shard, now, io| shard.handle_link_up(now, key, up, io));
    }

    /// The node's end of a connection is gone.
    pub(super) fn close_ledger_connection(&mut self, connection: ConnectionIndex) {
        let one = &mut self.chain.connections[connection];
        one.is_open = false;
        self.chain.nodes[one.ledger].open.retain(|_, other| *other != connection);
        self.end_member(Member::Connection(connection));
    }

    pub(super) fn deliver_to_ledger(&mut self, connection: ConnectionIndex, bytes: &[u8]) {
        let header = Header::decode(bytes).expect("nodes send whole frames");
        assert_eq!(header.len as usize, bytes.len(), "a node lied about a frame's length");
        let at = self.now;
        let data = bytes[HEADER_LEN..].to_vec();
        let one = &mut self.chain.connections[connection];
        if !one.is_open {
            return;
        }
        one.received.push(Received { at, header, data: data.clone() });
        if self.chain.nodes[one.ledger].is_frozen {
            return;
        }
        match header.frame_type {
            FrameType::HANDSHAKE => {
                let request: Value =
                    serde_json::from_slice(&data).expect("none that is malformed is passed on");
                one.protocol = request["maximumSupport"].as_u64().unwrap_or(1).min(3);
                let answer = format!("{{\"nodeVersion\":\"2.10.3\",\"protocol\":{}}}\n", one.protocol);
                self.ledger_sends(connection, header.frame_type, &header.seq, answer.as_bytes());
            }
            FrameType::HEARTBEAT => self.ledger_sends(connection, header.frame_type, &header.seq, b"1"),
            FrameType::SUBSCRIBE => one.topics = serde_json::from_slice(&data).expect("topics"),
            FrameType::EVENT_REGISTER | FrameType::EVENT_UNREGISTER => {
                self.filter(connection, &header, &data)
            }
            FrameType::RPC => self.call(connection, &header, &data),
            FrameType::REQUEST | FrameType::RESPONSE | FrameType::MULTICAST => {
                self.take_message(Member::Connection(connection), bytes);
            }
            other => panic!("a ledger node has got {other:?}"),
        }
    }

    fn filter(&mut self, connection: ConnectionIndex, header: &Header, data: &[u8]) {
        let text_at = usize::from(data[0]).max(1);
        let request: Value = serde_json::from_slice(&data[text_at..]).expect("others are not passed on");
        let text = |name: &str| match &request[name] {
            Value::Number(number) => Some(number.to_string()),
            value => value.as_str().map(str::to_owned),
        };
        let (group, id) = (text("groupID").expect("a group"), text("filterID").expect("an id"));
        let height = self.chain.blocks.len() as u64;
        let block = |name: &str, latest: u64| text(name).and_then(|text| text.parse().ok()).unwrap_or(latest);
        let (next_block, last_block) = (block("fromBlock", height), block("toBlock", u64::MAX));
        let mut result = 0;
        if header.frame_type == FrameType::EVENT_UNREGISTER {
            for other in &mut self.chain.connections {
                other.filters.retain(|filter| (&filter.group, &filter.id) != (&group, &id));
            }
        } else if group == "404" {
            result = -41002;
        } else {
            let filters = &mut self.chain.connections[connection].filters;
            filters.push(VirtualFilter { group, id, next_block, last_block });
        }
        let answer = [b"\x01", format!("{{\"result\":{result}}}\n").as_bytes()].concat();
        self.ledger_sends(connection, header.frame_type, &header.seq, &answer);
        self.tell_of_blocks(connection);
    }

    /// Pushes the logs of blocks that filters have not seen, and notes that there is a block.
    fn tell_of_blocks(&mut self, connection: ConnectionIndex) {
        let height = self.chain.blocks.len() as u64;
        let one = &mut self.chain.connections[connection];
        if !one.is_open || self.chain.nodes[one.ledger].is_frozen {
            return;
        }
        let mut pushes: VecDeque<(FrameType, Vec<u8>)> = VecDeque::new();
        for topic in one.topics.iter().filter(|topic| topic.starts_with("_block_notify_")) {
            let payload = format!("{{\"blockNumber\":{height},\"groupID\":1}}\n");
            let body = [&[topic.len() as u8 + 1], topic.as_bytes(), payload.as_bytes()].concat();
            pushes.push_back((FrameType::BLOCK_NOTICE, body));
        }
        for filter in &mut one.filters {
            let last = height.min(filter.last_block);
            let logs: Vec<Value> = (filter.next_block..=last)
                .filter(|number| *number > 0)
                .map(|number| {
                    let data = &self.chain.blocks[number as usize - 1];
                    json!({ "address": "0x1", "blockNumber": number.to_string(), "data": data, "topics": [] })
                })
                .collect();
            filter.next_block = filter.next_block.max(last + 1);
            if !logs.is_empty() {
                let push = json!({ "filterID": filter.id, "logs": logs, "result": 0 });
                pushes.push_back((FrameType::EVENT_LOGS, format!("{push}\n").into_bytes()));
            }
            if last == filter.last_block {
                let push = json!({ "filterID": filter.id, "logs": null, "result": 1 });
                pushes.push_back((FrameType::EVENT_LOGS, format!("{push}\n").into_bytes()));
            }
        }
        one.filters.retain(|filter| filter.next_block <= filter.last_block);
        for (frame_type, data) in pushes {
            self.ledger_sends(connection, frame_type, &[b'0'; 32], &data);
        }
    }

    fn call(&mut self, connection: ConnectionIndex, header: &Header, data: &[u8]) {
        let ledger = self.chain.connections[connection].ledger;
        // As real ones: whoever comes second under an open seq takes nobody's place.
        self.chain.nodes[ledger].open.entry(header.seq).or_insert(connection);
        let request: Value = serde_json::from_slice(data).unwrap_or_default();
        let first = request["params"].get(1).and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_transaction = request["method"] == "sendRawTransaction";
        let result = match request["method"].as_str() {
            Some("sendRawTransaction") => json!(format!("hash of {first}")),
            Some("getBlockNumber") => json!(format!("0x{:x}", self.chain.blocks.len())),
            Some("getPeers") => {
                json!([{ "Agency": "x", "IPAndPort": "9.9.9.9:30300", "Node": "l", "NodeID": "11", "Topic": [] }])
            }
            Some("getNodeInfo") => {
                json!({ "Agency": "x", "IPAndPort": "", "Node": "l", "NodeID": "10", "Topic": ["own"] })
            }
            Some("large") => json!("x".repeat(request["params"][1].as_u64().unwrap_or_default() as usize)),
            _ => request["params"].clone(),
        };
        if is_transaction {
            self.mine(&first);
        }
        if self.chain.nodes[ledger].is_mute {
            return;
        }
        let answer = format!("{}\n", json!({ "id": request["id"], "jsonrpc": "2.0", "result": result }));
        let delay = self.draw_latency(self.chain.nodes[ledger].delay.clone());
        let answers = Event::LedgerAnswers { ledger, seq: header.seq, answer: answer.into_bytes() };
        self.schedule(delay, answers);
        if is_transaction && self.chain.connections[connection].protocol == 3 {
            let receipt = json!({ "input": first, "status": "0x0" }).to_string();
            self.ledger_sends(connection, FrameType::RECEIPT, &header.seq, receipt.as_bytes());
        }
    }

    /// An answer is ready: it goes to whoever has the seq, if anybody has.
    pub(super) fn ledger_answers(&mut self, ledger: LedgerIndex, seq: &Seq, answer: &[u8]) {
        if let Some(connection) = self.chain.nodes[ledger].open.remove(seq)
            && !self.chain.nodes[ledger].is_frozen
        {
            self.ledger_sends(connection, FrameType::RPC, seq, answer);
        }
    }

    /// Sends a frame over a connection.
    pub fn ledger_sends(
        &mut self,
        connection: ConnectionIndex,
        frame_type: FrameType,
        seq: &Seq,
        data: &[u8],
    ) {
        self.ledger_sends_bytes(connection, sdk::encode(frame_type, seq, ResultCode::OK, data));
    }

    /// The same of a whole frame, whatever it is.
    pub fn ledger_sends_bytes(&mut self, connection: ConnectionIndex, bytes: Vec<u8>) {
        let at = self.now + self.link_latency();
        let one = &mut self.chain.connections[connection];
        if !one.is_open {
            return;
        }
        let at = one.arrival.map_or(at, |last| at.max(last));
        one.arrival = Some(at);
        let to = one.end;
        self.schedule_at(at, Event::Frame { to, class: Class::Data, bytes, from: None });
    }

    /// Of a long frame over a connection, a node has no more than the beginning for now.
    pub fn ledger_begins(&mut self, connection: ConnectionIndex, frame: &[u8]) {
        let End::Node { node, reactor, key, .. } = self.chain.connections[connection].end else { return };
        let head = &frame[..HEADER_LEN];
        self.drive(node, reactor, |shard, now, io| shard.handle_frame_begun(now, key, head, io));
    }

    /// Lets a node take what has come from a ledger node, as far as it reads.
    pub(super) fn read_ledger(
        &mut self,
        node: NodeIndex,
        reactor: ReactorId,
        key: amop::internal::relay::LinkKey,
    ) {
        loop {
            let Some(link) = self.nodes[node].io[usize::from(reactor.0)].link(key) else { return };
            if link.relay_pauses {
                return;
            }
            let Some(bytes) = link.unread.pop_front() else { return };
            self.drive(node, reactor, |shard, now, io| {
                shard.handle_activity(now, key);
                shard.handle_frame(now, key, amop::internal::wire::FrameRef::Slice(&bytes), io);
            });
        }
    }
}
