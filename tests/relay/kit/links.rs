//! Links: how they come up and end, what befalls them, and how fast they take what is sent.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{Class, CloseReason, LinkKey, LinkUp, ReactorId, home_reactor, session_queue::QueuePool},
    wire::node::{Addressing, Extensions, Header, Numbers, PacketType, data_head},
};

use super::{End, Event, LINK_LATENCY, Network, NodeIndex, Seen, io::queue_of};

/// Frames up to so many bytes leave before what comes after them, as in the engine.
const AT_ONCE_MAX: usize = 64 * 1024;
/// How often an end sees bytes of a frame that takes long.
const ACTIVITY: Duration = Duration::from_millis(500);

impl Network {
    /// Dials `to` from `from`.
    pub fn connect(&mut self, from: NodeIndex, to: NodeIndex) {
        let (from_id, to_id) = (self.nodes[from].id, self.nodes[to].id);
        let here = home_reactor(&to_id, self.nodes[from].shared.reactors);
        let there = home_reactor(&from_id, self.nodes[to].shared.reactors);
        let now = self.now;
        let near = self.nodes[from].io[usize::from(here.0)].insert(now, false, End::App(usize::MAX));
        let end = self.end(from, here, near);
        let far = self.nodes[to].io[usize::from(there.0)].insert(now, false, end);
        let other = self.end(to, there, far);
        for (node, reactor, key, far, other) in [(from, here, near, to, other), (to, there, far, from, end)] {
            let link = self.nodes[node].io[usize::from(reactor.0)].link(key).expect("just inserted");
            link.other = other;
            link.rate = self.link_rates.get(&(node, far)).copied();
        }
        for (node, reactor, key, peer, dialed) in
            [(from, here, near, to_id, true), (to, there, far, from_id, false)]
        {
            let up = LinkUp::Node {
                id: peer,
                dialed,
                address: format!("127.0.0.1:{}", 30300 + if dialed { to } else { from }),
                agency: "agency".to_owned(),
                name: format!("node{}", if dialed { to } else { from }),
            };
            self.drive(node, reactor, |shard, now, io| shard.handle_link_up(now, key, up, io));
        }
    }

    pub(super) fn end(&self, node: NodeIndex, reactor: ReactorId, key: LinkKey) -> End {
        End::Node { node, incarnation: self.nodes[node].incarnation, reactor, key }
    }

    /// The links between two nodes, as (reactor, key) at the first of them.
    pub fn links_between(&self, a: NodeIndex, b: NodeIndex) -> Vec<(ReactorId, LinkKey)> {
        let mut links = Vec::new();
        for (reactor, io) in self.nodes[a].io.iter().enumerate() {
            for link in io.links.iter().flatten() {
                if matches!(link.other, End::Node { node, .. } if node == b) {
                    links.push((ReactorId(reactor as u16), link.key));
                }
            }
        }
        links
    }

    /// Gives `to` a frame as if `from` had sent it over each of their links.
    pub fn forge(&mut self, from: NodeIndex, to: NodeIndex, bytes: &[u8]) {
        for (reactor, key) in self.links_between(to, from) {
            let to = self.end(to, reactor, key);
            let class = Class::Data;
            self.schedule(LINK_LATENCY, Event::Frame { to, class, bytes: bytes.to_vec(), from: None });
        }
    }

    /// Gives `to` a message as if `from` had sent it over their link, in the next place of its channel. Neither end notices
    /// that they count differently from then on: what passes is rewritten.
    pub fn forge_message(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        (packet_type, seq): (PacketType, u32),
        extensions: &Extensions,
        frame: &[u8],
    ) {
        let next = self.next_places.entry((from, to)).or_insert(1);
        let numbers = Numbers { place: *next, least: *next, taken_below: 0 };
        *next += 1;
        *self.forged.entry((from, to)).or_default() += 1;
        let header = Header::direct(packet_type, seq);
        let head = data_head(&header, &numbers, &extensions.encode(), frame.len());
        self.forge(from, to, &[&head, frame].concat());
    }

    /// Takes note of the places of messages on links, which leave out those that were forged.
    fn rewrite_numbers(&mut self, from: NodeIndex, to: NodeIndex, bytes: &mut [u8]) {
        let Ok((header, offset)) = Header::decode(bytes) else { return };
        if header.addressing != Addressing::Direct {
            return;
        }
        let of = |pair| self.forged.get(&pair).copied().unwrap_or_default();
        let (there, back) = (of((from, to)), of((to, from)));
        if header.packet_type == PacketType::ACK {
            let taken_below = bytes[offset..].first_chunk_mut().expect("eight bytes");
            *taken_below = u64::from_be_bytes(*taken_below).saturating_sub(back).to_be_bytes();
        } else if header.packet_type.is_amop() {
            let numbers = Numbers::decode(&bytes[offset..]).expect("each message has them");
            let rewritten = Numbers {
                place: numbers.place + there,
                least: numbers.least + there,
                taken_below: numbers.taken_below.saturating_sub(back),
            };
            bytes[offset..offset + Numbers::LEN].copy_from_slice(&rewritten.encode());
            self.next_places.insert((from, to), rewritten.place + 1);
        }
    }

    /// Breaks all links between two nodes: both ends notice at once.
    pub fn break_links(&mut self, a: NodeIndex, b: NodeIndex) {
        for (x, y) in [(a, b), (b, a)] {
            for (reactor, key) in self.links_between(x, y) {
                let end = self.end(x, reactor, key);
                self.link_down(end, CloseReason::Broken);
            }
        }
    }

    /// A node sees one of its links end.
    pub fn lose_link(&mut self, node: NodeIndex, (reactor, key): (ReactorId, LinkKey), reason: CloseReason) {
        let end = self.end(node, reactor, key);
        self.link_down(end, reason);
    }

    /// Ends all links between two nodes: the first sees the other close them, that one sees them break.
    pub fn close_links_by_peer(&mut self, a: NodeIndex, b: NodeIndex) {
        for (x, y, reason) in [(a, b, CloseReason::ByPeer), (b, a, CloseReason::Broken)] {
            for link in self.links_between(x, y) {
                self.lose_link(x, link, reason);
            }
        }
    }

    /// Cuts the cable: nobody notices, frames vanish.
    pub fn cut_links(&mut self, a: NodeIndex, b: NodeIndex) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// What `from` sends to `to` vanishes; nobody notices.
    pub fn cut_one_way(&mut self, from: NodeIndex, to: NodeIndex) {
        for (reactor, key) in self.links_between(from, to) {
            self.nodes[from].io[usize::from(reactor.0)].link(key).expect("listed").cut = true;
        }
    }

    /// The keys of the links between two nodes are worn out; both ends see it.
    pub fn wear_links(&mut self, a: NodeIndex, b: NodeIndex) {
        for (x, y) in [(a, b), (b, a)] {
            for (reactor, key) in self.links_between(x, y) {
                self.nodes[x].shards[usize::from(reactor.0)].handle_rekey_due(key);
                self.look_at_timer(x, reactor.0);
            }
        }
    }

    /// What `from` sends to `to` waits on its way until `until`.
    pub fn stall(&mut self, from: NodeIndex, to: NodeIndex, until: Instant) {
        for (reactor, key) in self.links_between(from, to) {
            let link = self.nodes[from].io[usize::from(reactor.0)].link(key).expect("listed");
            link.stalled_until = Some(until);
        }
    }

    pub(super) fn link_down(&mut self, end: End, reason: CloseReason) {
        match end {
            End::App(app) if app < self.apps.len() => {
                if !std::mem::replace(&mut self.apps[app].closed, true) {
                    self.note(|| Seen::AppClosed { app });
                }
            }
            End::App(_) => {}
            End::Ledger(connection) => self.close_ledger_connection(connection),
            End::Peer2x(link) => self.close_peer_link(link),
            End::Node { node, incarnation, reactor, key } => {
                if !self.is_current(node, incarnation) {
                    return;
                }
                let io = &mut self.nodes[node].io[usize::from(reactor.0)];
                let Some(link) = io.link(key) else { return };
                let other = link.other;
                io.links[key.index as usize] = None;
                match other {
                    End::Node { node: other, .. } => self.note(|| Seen::LinkClosed { node, other, reason }),
                    End::App(app) => self.note(|| Seen::SessionEnded { app }),
                    End::Ledger(_) | End::Peer2x(_) => {}
                }
                self.drive(node, reactor, |shard, now, io| shard.handle_link_down(now, key, reason, io));
            }
        }
    }

    /// Gives the queues of each reactor of a node so much memory in all.
    pub fn set_queues_bytes_max(&mut self, node: NodeIndex, bytes_max: usize) {
        for io in &mut self.nodes[node].io {
            io.pool = Some(QueuePool { bytes: 0, bytes_max });
        }
    }

    /// An application has taken a frame: what the engine tells the relay then.
    pub(super) fn note_taken(
        &mut self,
        (node, reactor, key): (NodeIndex, ReactorId, LinkKey),
        class: Class,
        len: usize,
    ) {
        let now = self.now;
        let io = &mut self.nodes[node].io[usize::from(reactor.0)];
        io.note_taken(now, key, class, len);
        let Some(link) = io.link(key) else { return };
        let (taken, other) = (link.taken, link.other);
        if std::mem::take(&mut link.watches_taken) {
            self.drive(node, reactor, |shard, now, io| shard.handle_taken(now, key, taken, io));
        }
        self.tell_room(node, reactor);
        if let End::App(app) = other {
            self.read(app, (node, reactor, key));
        }
    }

    pub(super) fn tell_room(&mut self, node: NodeIndex, reactor: ReactorId) {
        let io = &mut self.nodes[node].io[usize::from(reactor.0)];
        for key in io.with_room() {
            if let Some(link) = self.nodes[node].io[usize::from(reactor.0)].link(key) {
                link.room_wanted = [None; 2];
                self.drive(node, reactor, |shard, now, io| shard.handle_room(now, key, io));
            }
        }
    }

    /// Begins to write the next frame to who takes them slowly, if none is being written: replies and control first.
    pub(super) fn write(&mut self, node: NodeIndex, reactor: ReactorId, key: LinkKey) {
        let incarnation = self.nodes[node].incarnation;
        let Some(link) = self.nodes[node].io[usize::from(reactor.0)].link(key) else { return };
        let (None, Some(rate), other) = (link.is_writing, link.rate, link.other) else { return };
        let Some(queue) = link.waiting.iter().position(|queue| !queue.is_empty()) else { return };
        link.is_writing = Some(queue);
        let len = link.waiting[queue][0].1.len();
        let time = Duration::from_secs_f64(len as f64 / rate as f64);
        // What has begun takes no room: there may be more now.
        self.schedule(time, Event::Written { from: (node, incarnation, reactor, key) });
        if let End::Node { .. } = other {
            // The other end sees bytes long before the frame is whole.
            let mut after = ACTIVITY;
            while after < time {
                self.schedule(after + LINK_LATENCY, Event::Activity { to: other });
                after += ACTIVITY;
            }
        }
    }

    pub(super) fn written(&mut self, node: NodeIndex, reactor: ReactorId, key: LinkKey) {
        let Some(link) = self.nodes[node].io[usize::from(reactor.0)].link(key) else { return };
        let Some(queue) = link.is_writing.take() else { return };
        let Some((class, bytes)) = link.waiting[queue].pop_front() else { return };
        let other = link.other;
        if let End::Node { .. } = other {
            self.leave((node, reactor, key), class, bytes);
            self.flush((node, reactor, key));
            return self.tell_room(node, reactor);
        }
        self.write(node, reactor, key);
        self.note_taken((node, reactor, key), class, bytes.len());
        self.schedule(LINK_LATENCY, Event::Frame { to: other, class, bytes, from: None });
    }

    /// A link to a node gets a frame. As in the engine, small ones leave at once where nothing waits; the others wait for
    /// [`Self::flush`].
    pub(super) fn send_to_node(
        &mut self,
        link: (NodeIndex, ReactorId, LinkKey),
        class: Class,
        bytes: Vec<u8>,
    ) {
        let (node, reactor, key) = link;
        self.note(|| Seen::Left { from: node, bytes: bytes.clone() });
        let Some(io_link) = self.nodes[node].io[usize::from(reactor.0)].link(key) else { return };
        let waits = io_link.rate.is_some() || io_link.waiting.iter().any(|queue| !queue.is_empty());
        if waits || io_link.is_writing.is_some() || bytes.len() > AT_ONCE_MAX {
            io_link.waiting[queue_of(class)].push_back((class, bytes));
        } else {
            self.leave(link, class, bytes);
        }
    }

    /// Lets what waits on a link to a node leave: control first, and all of it where the other end takes what comes.
    pub(super) fn flush(&mut self, link: (NodeIndex, ReactorId, LinkKey)) {
        let (node, reactor, key) = link;
        while let Some(io_link) = self.nodes[node].io[usize::from(reactor.0)].link(key)
            && io_link.is_writing.is_none()
        {
            if io_link.rate.is_some() {
                return self.write(node, reactor, key);
            }
            let Some((class, bytes)) = io_link.waiting.iter_mut().find_map(VecDeque::pop_front) else {
                return;
            };
            self.leave(link, class, bytes);
        }
    }

    /// A frame to a node is on its way.
    fn leave(
        &mut self,
        (node, reactor, key): (NodeIndex, ReactorId, LinkKey),
        class: Class,
        mut bytes: Vec<u8>,
    ) {
        let (now, index) = (self.now, usize::from(reactor.0));
        let from = Some((node, self.nodes[node].incarnation, reactor, key));
        let Some(End::Node { node: other, .. }) = self.nodes[node].io[index].link(key).map(|link| link.other)
        else {
            return;
        };
        let latency = self.latency_between(node, other);
        let Some(link) = self.nodes[node].io[index].link(key) else { return };
        link.unsent_bytes[queue_of(class)] -= bytes.len();
        let at = (now + latency).max(link.last_arrival);
        let at = link.stalled_until.map_or(at, |until| at.max(until));
        link.last_arrival = at;
        let to = link.other;
        if link.cut {
            return;
        }
        self.rewrite_numbers(node, other, &mut bytes);
        if let Some(tamper) = &mut self.tamper {
            tamper(node, other, &mut bytes);
        }
        self.schedule_at(at, Event::Frame { to, class, bytes, from });
    }

    /// Has `to` take no more than so many bytes a second from `from` from now on, or all that comes.
    pub fn set_link_rate(&mut self, from: NodeIndex, to: NodeIndex, bytes_per_second: Option<u64>) {
        match bytes_per_second {
            Some(rate) => self.link_rates.insert((from, to), rate),
            None => self.link_rates.remove(&(from, to)),
        };
        for (reactor, key) in self.links_between(from, to) {
            self.nodes[from].io[usize::from(reactor.0)].link(key).expect("listed").rate = bytes_per_second;
            self.flush((from, reactor, key));
            self.tell_room(from, reactor);
        }
    }

    /// Gives the links of a node to others so much room for data.
    pub fn set_node_queue_bytes_max(&mut self, node: NodeIndex, bytes_max: usize) {
        for io in &mut self.nodes[node].io {
            io.node_queue_bytes_max = bytes_max;
        }
    }
}
