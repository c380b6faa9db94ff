//! A ledger node after a script: it speaks the channel protocol of FISCO BCOS 2.x over real TLS (INTEROP §1.1), and holds a small
//! chain, which stays when the node ends and comes back. It executes nothing: whatever a transaction says becomes a block of
//! its own, with a receipt and a log. Messages it passes to sessions of the chain's other ledger nodes, as FISCO BCOS 2.x does (WIRE §8):
//! to none of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use amop::internal::{
    pki::Profile,
    wire::{
        NodeId, ResultCode,
        sdk::{self, FrameType, HEADER_LEN, Header, Seq},
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::{
    host_dir,
    listener::{TlsListener, key_of},
};

/// What all transactions call: `set(uint256)` with 10.
const SET_TEN: &str = "0x60fe47b1000000000000000000000000000000000000000000000000000000000000000a";
/// As ledger nodes answer who is on no list.
const PERMISSION_DENIED: i64 = -40012;
/// The seq of notices.
const NOTICE_SEQ: Seq = [b'0'; 32];
/// Frames to one connection that wait; more than any test sends at once.
const OUTGOING_MAX: usize = 100_000;

/// What the nodes of a chain have in common, and outlives each of them.
pub struct Chain {
    blocks: Vec<Block>,
    /// Public keys that may use group 1, if there is a list.
    pub allowlist: Option<BTreeSet<NodeId>>,
    /// How long the answer to a call takes.
    pub delay: Duration,
    /// How long a session may take to answer a message.
    pub push_timeout: Duration,
    sessions: Vec<Session>,
    ledgers: usize,
    /// Who asked under each open seq.
    open: BTreeMap<Seq, usize>,
    /// All that has come: number of the connection, type, data.
    pub received: Vec<(usize, FrameType, Vec<u8>)>,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            allowlist: None,
            delay: Duration::ZERO,
            push_timeout: Duration::from_secs(5),
            sessions: Vec::new(),
            ledgers: 0,
            open: BTreeMap::new(),
            received: Vec::new(),
        }
    }
}

struct Block {
    transaction: String,
}

struct Session {
    /// Of which ledger node; `None` once it has ended.
    ledger: Option<usize>,
    /// Who sent what waits for its answer, by seq.
    pushes: BTreeMap<Seq, usize>,
    outgoing: mpsc::Sender<Vec<u8>>,
    key: Option<NodeId>,
    protocol: u64,
    topics: Vec<String>,
    filters: Vec<Filter>,
}

struct Filter {
    id: String,
    next_block: u64,
    last_block: u64,
}

/// A chain that tests and ledger nodes share.
#[derive(Clone, Default)]
pub struct SharedChain(Arc<Mutex<Chain>>);

impl SharedChain {
    pub fn lock(&self) -> MutexGuard<'_, Chain> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals a block that nobody asked for.
    pub fn mine(&self, transaction: &str) {
        self.lock().mine(transaction);
    }
}

/// A ledger node that runs.
pub struct ScriptedLedger {
    pub address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
    chain: SharedChain,
    number: usize,
}

impl ScriptedLedger {
    /// A ledger node of the network's files, with the certificates of its `index`th node, at an address or where the kernel
    /// likes.
    pub fn start(profile: Profile, index: usize, chain: &SharedChain, at: Option<SocketAddr>) -> Self {
        let dir = host_dir(profile).join(format!("node{index}/conf"));
        let dir = if profile == Profile::Rsa { dir.join("channel_cert") } else { dir };
        Self::start_of(&dir, chain, at)
    }

    /// The same with `node.crt`, `node.key` and `ca.crt` of a directory.
    pub fn start_of(dir: &Path, chain: &SharedChain, at: Option<SocketAddr>) -> Self {
        let TlsListener { acceptor, runtime, listener, address, .. } = TlsListener::start(dir, at);
        let shared = chain.clone();
        let number = {
            let mut chain = chain.lock();
            chain.ledgers += 1;
            chain.ledgers
        };
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, chain) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move { serve(acceptor, stream, chain, number).await });
            }
        });
        Self { address, runtime: Some(runtime), chain: chain.clone(), number }
    }

    /// Ends without a word; what was in flight is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
            let mut chain = self.chain.lock();
            for session in 0..chain.sessions.len() {
                if chain.sessions[session].ledger == Some(self.number) {
                    chain.end_session(session);
                }
            }
            chain.open.clear();
        }
    }
}

impl Drop for ScriptedLedger {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, chain: SharedChain, ledger: usize) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let stream = acceptor.accept(stream).await.ok()?;
    let (_, connection) = stream.get_ref();
    let key = connection.peer_certificates().and_then(|chain| key_of(chain.first()?));
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (outgoing, mut frames) = mpsc::channel::<Vec<u8>>(OUTGOING_MAX);
    let session = {
        let mut chain = chain.lock();
        let (topics, filters, pushes) = (Vec::new(), Vec::new(), BTreeMap::new());
        let ledger = Some(ledger);
        chain.sessions.push(Session { ledger, pushes, outgoing, key, protocol: 1, topics, filters });
        chain.sessions.len() - 1
    };
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    });
    read(&mut reader, &chain, session).await;
    chain.lock().end_session(session);
    Some(())
}

/// Does what a session says, until it ends.
async fn read(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    chain: &SharedChain,
    session: usize,
) -> Option<()> {
    loop {
        let mut head = [0; HEADER_LEN];
        reader.read_exact(&mut head).await.ok()?;
        let header = Header::decode(&head)?;
        let mut data = vec![0; header.len as usize - HEADER_LEN];
        reader.read_exact(&mut data).await.ok()?;
        let delay = {
            let mut chain = chain.lock();
            chain.received.push((session, header.frame_type, data.clone()));
            chain.delay
        };
        if header.frame_type == FrameType::RPC && !delay.is_zero() {
            // On a thread of its own, as it were: others overtake it.
            chain.lock().open.entry(header.seq).or_insert(session);
            let chain = chain.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                chain.lock().handle(session, &header, &data);
            });
        } else {
            let pushed = chain.lock().handle(session, &header, &data);
            if let Some(to) = pushed {
                let (chain, timeout) = (chain.clone(), chain.lock().push_timeout);
                tokio::spawn(async move {
                    tokio::time::sleep(timeout).await;
                    chain.lock().end_late_push(to, &header, &data);
                });
            }
        }
    }
}

fn hash(number: usize) -> String {
    format!("0x{number:064x}")
}

fn node(id: &str, topics: &Value) -> Value {
    json!({ "Agency": "agency", "IPAndPort": "127.0.0.1:30301", "Node": "ledger", "NodeID": id, "Topic": topics })
}

impl Chain {
    /// The transactions that were executed.
    pub fn executed(&self) -> Vec<String> {
        self.blocks.iter().map(|block| block.transaction.clone()).collect()
    }

    fn mine(&mut self, transaction: &str) {
        self.blocks.push(Block { transaction: transaction.to_owned() });
        for session in 0..self.sessions.len() {
            self.tell_of_block(session);
            self.push_logs(session);
        }
    }

    fn send(&self, session: usize, frame_type: FrameType, seq: &Seq, data: &[u8]) {
        self.send_frame(session, sdk::encode(frame_type, seq, ResultCode::OK, data));
    }

    fn send_frame(&self, session: usize, frame: Vec<u8>) {
        if let Some(session) = self.sessions.get(session) {
            // It may have gone.
            let _ = session.outgoing.try_send(frame);
        }
    }

    fn end_session(&mut self, session: usize) {
        let session = &mut self.sessions[session];
        session.ledger = None;
        session.topics.clear();
        session.filters.clear();
        // Its connection ends with it.
        session.outgoing = mpsc::channel(1).0;
    }

    /// What sessions that are connected now have subscribed to.
    pub fn topics(&self) -> Vec<Vec<String>> {
        let open = self.sessions.iter().filter(|session| session.ledger.is_some());
        open.map(|session| session.topics.clone()).collect()
    }

    /// Sessions of other ledger nodes than a session's that have a topic.
    fn subscribers(&self, session: usize, topic: &str) -> Vec<usize> {
        let own = self.sessions[session].ledger;
        let has_it = |other: &Session| {
            other.ledger.is_some() && other.ledger != own && other.topics.iter().any(|one| one == topic)
        };
        (0..self.sessions.len()).filter(|&other| has_it(&self.sessions[other])).collect()
    }

    /// A message of a session. Gives the session that a unicast was pushed to.
    fn message(&mut self, session: usize, header: &Header, data: &[u8]) -> Option<usize> {
        let frame =
            |frame_type, code: i32, data: &[u8]| sdk::encode(frame_type, &header.seq, ResultCode(code), data);
        // An answer is told by its seq alone.
        if let Some(asked) = self.sessions[session].pushes.remove(&header.seq) {
            self.send_frame(asked, frame(header.frame_type, header.result.0, data));
            return None;
        }
        let body = sdk::AmopBody::decode(data).expect("what ends a ledger node is not sent there");
        let subscribers = self.subscribers(session, body.topic);
        match header.frame_type {
            FrameType::MULTICAST => {
                for to in subscribers {
                    self.send_frame(to, frame(FrameType::MULTICAST, 0, data));
                }
                self.send_frame(session, frame(FrameType::RESPONSE, 0, data));
                None
            }
            FrameType::REQUEST => {
                let chosen = subscribers.get(usize::from(header.seq[31]) % subscribers.len().max(1)).copied();
                match chosen {
                    Some(to) => {
                        self.sessions[to].pushes.insert(header.seq, session);
                        self.send_frame(to, frame(FrameType::REQUEST, 0, data));
                    }
                    None => self.send_frame(session, frame(FrameType::RESPONSE, 100, &[])),
                }
                chosen
            }
            _ => None,
        }
    }

    /// A session has not answered: 104, with the data of the request.
    fn end_late_push(&mut self, session: usize, header: &Header, data: &[u8]) {
        if let Some(asked) = self.sessions[session].pushes.remove(&header.seq) {
            let answer = sdk::encode(FrameType::RESPONSE, &header.seq, ResultCode(104), data);
            self.send_frame(asked, answer);
        }
    }

    fn may_use(&self, session: usize, group: &Value) -> bool {
        let is_listed_group = group.as_u64() == Some(1) || group == "1";
        let (Some(list), true) = (&self.allowlist, is_listed_group) else { return true };
        // Certificates without a key, of version 1, are exempt.
        self.sessions[session].key.is_none_or(|key| list.contains(&key))
    }

    /// Gives the session that a unicast was pushed to.
    fn handle(&mut self, session: usize, header: &Header, data: &[u8]) -> Option<usize> {
        self.sessions[session].ledger?;
        match header.frame_type {
            FrameType::HANDSHAKE => {
                let request: Value = serde_json::from_slice(data).expect("JSON");
                let protocol = request["maximumSupport"].as_u64().unwrap_or(1).min(3);
                self.sessions[session].protocol = protocol;
                let answer = format!("{{\"nodeVersion\":\"2.10.3\",\"protocol\":{protocol}}}\n");
                self.send(session, header.frame_type, &header.seq, answer.as_bytes());
            }
            FrameType::HEARTBEAT => {
                let answer: &[u8] =
                    if self.sessions[session].protocol == 1 { b"1" } else { b"{\"heartBeat\":1}\n" };
                self.send(session, header.frame_type, &header.seq, answer);
            }
            FrameType::SUBSCRIBE => {
                self.sessions[session].topics = serde_json::from_slice(data).expect("topics");
            }
            FrameType::EVENT_REGISTER | FrameType::EVENT_UNREGISTER => self.filter(session, header, data),
            FrameType::RPC => self.call(session, header, data),
            FrameType::REQUEST | FrameType::RESPONSE | FrameType::MULTICAST => {
                return self.message(session, header, data);
            }
            other => panic!("a ledger node has got {other:?}"),
        }
        None
    }

    fn filter(&mut self, session: usize, header: &Header, data: &[u8]) {
        let request: Value = serde_json::from_slice(&data[usize::from(data[0])..]).expect("JSON");
        let id = request["filterID"].as_str().expect("an id").to_owned();
        let height = self.blocks.len() as u64;
        let block = |name: &str, latest: u64| {
            request[name].as_str().and_then(|text| text.parse().ok()).unwrap_or(latest)
        };
        let (next_block, last_block) = (block("fromBlock", height), block("toBlock", u64::MAX));
        let mut result = 0;
        if !self.may_use(session, &request["groupID"]) {
            result = -41006;
        } else if header.frame_type == FrameType::EVENT_UNREGISTER {
            self.sessions.iter_mut().for_each(|session| session.filters.retain(|filter| filter.id != id));
        } else {
            self.sessions[session].filters.push(Filter { id, next_block, last_block });
        }
        let answer = [b"\x01", format!("{{\"result\":{result}}}\n").as_bytes()].concat();
        self.send(session, header.frame_type, &header.seq, &answer);
        self.push_logs(session);
    }

    fn log(&self, number: usize) -> Value {
        json!({
            "address": "0x1000000000000000000000000000000000000001", "blockHash": hash(number),
            "blockNumber": number.to_string(), "data": format!("0x{:064x}", number), "logIndex": "0x0",
            "topics": [hash(0xe0e)], "transactionHash": hash(number), "transactionIndex": "0x0",
        })
    }

    fn tell_of_block(&self, session: usize) {
        let height = self.blocks.len() as u64;
        let protocol = self.sessions[session].protocol;
        for topic in self.sessions[session].topics.iter().filter(|topic| topic.starts_with("_block_notify_"))
        {
            let payload = match protocol {
                1 => format!("1,{height}"),
                _ => format!("{{\"blockNumber\":{height},\"groupID\":1}}\n"),
            };
            let body = [&[topic.len() as u8 + 1], topic.as_bytes(), payload.as_bytes()].concat();
            self.send(session, FrameType::BLOCK_NOTICE, &NOTICE_SEQ, &body);
        }
    }

    /// Pushes the logs of blocks that filters have not seen.
    fn push_logs(&mut self, session: usize) {
        let height = self.blocks.len() as u64;
        let mut pushes = Vec::new();
        let mut filters = std::mem::take(&mut self.sessions[session].filters);
        for filter in &mut filters {
            let last = height.min(filter.last_block);
            let numbers = (filter.next_block..=last).filter(|number| *number > 0);
            let logs: Vec<Value> = numbers.map(|number| self.log(number as usize)).collect();
            filter.next_block = filter.next_block.max(last + 1);
            if !logs.is_empty() {
                let push = json!({ "filterID": filter.id, "logs": logs, "result": 0 });
                pushes.push(format!("{push}\n").into_bytes());
            }
            if last == filter.last_block {
                let push = json!({ "filterID": filter.id, "logs": null, "result": 1 });
                pushes.push(format!("{push}\n").into_bytes());
            }
        }
        filters.retain(|filter| filter.next_block <= filter.last_block);
        self.sessions[session].filters = filters;
        pushes.iter().for_each(|data| self.send(session, FrameType::EVENT_LOGS, &NOTICE_SEQ, data));
    }

    fn call(&mut self, session: usize, header: &Header, data: &[u8]) {
        self.open.entry(header.seq).or_insert(session);
        let request: Value = serde_json::from_slice(data).unwrap_or_default();
        let params = &request["params"];
        let (id, method) = (&request["id"], request["method"].as_str().unwrap_or_default());
        let mut is_executed = false;
        let answer = if !self.may_use(session, &params[0]) {
            let message = format!("{method} the SDK is not allowed to access this group");
            json!({ "error": { "code": PERMISSION_DENIED, "message": message }, "id": id, "jsonrpc": "2.0" })
        } else if method == "sendRawTransaction" {
            let transaction = params[1].as_str().unwrap_or_default().to_owned();
            self.mine(&transaction);
            let number = self.blocks.len();
            is_executed = true;
            json!({ "id": id, "jsonrpc": "2.0", "result": hash(number) })
        } else {
            match self.result(method, params) {
                Some(result) => json!({ "id": id, "jsonrpc": "2.0", "result": result }),
                None => {
                    let message =
                        "METHOD_NOT_FOUND: The method being requested is not available on this server";
                    json!({ "error": { "code": -32601, "message": message }, "id": id, "jsonrpc": "2.0" })
                }
            }
        };
        // The first answer under a seq goes to whoever was first, and no other one goes to anybody.
        if let Some(asked) = self.open.remove(&header.seq) {
            self.send(asked, FrameType::RPC, &header.seq, format!("{answer}\n").as_bytes());
        }
        if is_executed && self.sessions[session].protocol == 3 {
            let receipt = self.receipt(self.blocks.len());
            self.send(session, FrameType::RECEIPT, &header.seq, receipt.to_string().as_bytes());
        }
    }

    fn receipt(&self, number: usize) -> Value {
        json!({
            "blockHash": hash(number), "blockNumber": format!("0x{number:x}"),
            "contractAddress": format!("0x{number:040x}"), "from": format!("0x{:040x}", 0xf0), "gasUsed": "0x5208",
            "input": SET_TEN, "logs": [self.log(number)],
            "logsBloom": "0x00", "output": "0x", "root": hash(0), "status": "0x0", "statusMsg": "None",
            "to": format!("0x{number:040x}"), "transactionHash": hash(number), "transactionIndex": "0x0",
        })
    }

    fn transaction(&self, number: usize) -> Value {
        json!({
            "blockHash": hash(number), "blockLimit": "0x100", "blockNumber": format!("0x{number:x}"), "chainId": "0x1",
            "extraData": "0x", "from": format!("0x{:040x}", 0xf0), "gas": "0x11e1a300", "gasPrice": "0x11e1a300",
            "groupId": "0x1", "hash": hash(number), "input": "0x60", "nonce": "0x7",
            "signature": { "r": hash(1), "s": hash(2), "signature": "0x00", "v": "0x0" },
            "to": format!("0x{number:040x}"), "transactionIndex": "0x0", "value": "0x0",
        })
    }

    fn block(&self, number: usize, with_header: bool) -> Value {
        let transactions =
            if number == 0 || with_header { json!([]) } else { json!([self.transaction(number)]) };
        json!({
            "dbHash": hash(3), "extraData": [], "gasLimit": "0x0", "gasUsed": "0x0", "hash": hash(number),
            "logsBloom": "0x00", "number": format!("0x{number:x}"), "parentHash": hash(number.saturating_sub(1)),
            "receiptsRoot": hash(4), "sealer": "0x0", "sealerList": ["10"], "stateRoot": hash(5),
            "timestamp": format!("0x{:x}", 0x17a_0000_0000u64 + number as u64), "transactions": transactions,
            "transactionsRoot": hash(6),
        })
    }

    fn result(&self, method: &str, params: &Value) -> Option<Value> {
        let height = self.blocks.len();
        let number = |text: &Value| {
            let text = text.as_str()?;
            let digits = text.strip_prefix("0x");
            digits.map_or_else(|| text.parse().ok(), |digits| usize::from_str_radix(digits, 16).ok())
        };
        let there = |text: &Value| number(text).filter(|number| (1..=height).contains(number));
        Some(match method {
            "getClientVersion" => json!({
                "Build Time": "20230418 11:42:31", "Build Type": "Linux/clang/Release", "Chain Id": "7",
                "FISCO-BCOS Version": "2.10.3", "Git Branch": "HEAD", "Git Commit Hash": "0", "Supported Version": "2.10.3",
            }),
            "getGroupList" => json!([1]),
            "getBlockNumber" => json!(format!("0x{height:x}")),
            "getPbftView" => json!("0x1a0"),
            "getPendingTxSize" => json!("0x0"),
            "getPendingTransactions" | "getObserverList" => json!([]),
            "getSealerList" | "getGroupPeers" | "getNodeIDList" => json!(["10", "11"]),
            "getPeers" => json!([node("11", &json!([]))]),
            "getNodeInfo" => node("10", &json!([])),
            "getTotalTransactionCount" => {
                json!({ "blockNumber": format!("0x{height:x}"), "failedTxSum": "0x0", "txSum": format!("0x{height:x}") })
            }
            "getSystemConfigByKey" => json!("1000"),
            "getCode" => json!("0x60806040"),
            "call" => {
                json!({ "currentBlockNumber": format!("0x{height:x}"), "output": format!("0x{:064x}", 42), "status": "0x0" })
            }
            "getBlockHashByNumber" => json!(hash(there(&params[1])?)),
            "getBlockByNumber" => self.block(there(&params[1])?, false),
            "getBlockByHash" => self.block(there(&params[1])?, false),
            "getBlockHeaderByNumber" => self.block(there(&params[1])?, true),
            "getTransactionByHash" => self.transaction(there(&params[1])?),
            "getTransactionByBlockNumberAndIndex" => self.transaction(there(&params[1])?),
            "getTransactionReceipt" => self.receipt(there(&params[1])?),
            "echo" => params.clone(),
            "large" => json!("x".repeat(params[1].as_u64()? as usize)),
            _ => return None,
        })
    }
}
