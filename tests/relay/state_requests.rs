//! What a registry asks of its neighbours about the records of others (WIRE §6.3): a request that ends, however that
//! comes, gives back what it took, and the next one goes to somebody else.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use amop::internal::{
    relay::{
        ReactorId, RegistryInput, RegistryOutput, Shared,
        registry::{NODES_MAX, Registry},
        settings::Settings,
        signing::NodeSigner,
    },
    wire::{
        NodeId,
        node::PacketType,
        state::{Head, Message, Version, changes_hash},
    },
};

/// A neighbour answers within this, or another one is asked.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// More than may be asked of one neighbour at once.
const MANY: usize = 40;

fn signer(number: u8) -> NodeSigner {
    NodeSigner::from_secret_bytes(&[number; 32]).unwrap()
}

/// One registry, whose neighbours are played by the test.
struct Asker {
    now: Instant,
    shared: Arc<Shared>,
    registry: Registry,
}

impl Asker {
    fn new() -> Self {
        let (now, keys) = (Instant::now(), signer(7));
        let shared = Arc::new(Shared {
            signer: Some(keys.clone()),
            ..Shared::new(keys.id(), 1, 1, now, Settings::default())
        });
        Self { now, registry: Registry::new(shared.clone(), keys), shared }
    }

    fn up(&mut self, id: NodeId, incarnation: u64) {
        let (address, agency, name) = <(String, String, String)>::default();
        let input = RegistryInput::NodeUp { id, incarnation, reactor: ReactorId(0), address, agency, name };
        self.registry.handle(self.now, input);
    }

    fn down(&mut self, id: NodeId, incarnation: u64) {
        self.registry.handle(self.now, RegistryInput::NodeDown { id, incarnation });
    }

    fn hear(&mut self, from: NodeId, packet_type: PacketType, message: &Message<'_>) {
        let payload: bytes::Bytes = message.encode().into();
        self.shared.registry_input_bytes.fetch_add(payload.len(), Relaxed);
        self.registry.handle(self.now, RegistryInput::State { from, packet_type, seq: 0, payload });
    }

    fn list(&mut self, from: NodeId, versions: &[Version]) {
        self.hear(from, PacketType::STATE_SEQ, &Message::List(versions.to_vec()));
    }

    fn reply(&mut self, from: NodeId, message: &Message<'_>) {
        self.hear(from, PacketType::STATE_REPLY, message);
    }

    /// Of whom something was asked since the last time, and about whom.
    fn asked(&mut self) -> Vec<(NodeId, NodeId)> {
        let mut asked = Vec::new();
        while let Some((_, output)) = self.registry.poll_output() {
            if let RegistryOutput::ToNode { to, packet_type: PacketType::STATE_REQUEST, payload, .. } = output
                && let Ok(Message::Want { known, .. }) = Message::decode(&payload)
            {
                asked.push((to, known.origin));
            }
        }
        asked
    }

    /// Lets time pass as the loop around a registry does.
    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.registry.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.registry.handle_timeout(self.now);
            self.registry.publish(self.now);
        }
        self.now = end;
    }
}

fn version(origin: NodeId, incarnation: u64, seq: u64) -> Version {
    Version { origin, incarnation, seq }
}

/// The first step of a node, which changes nothing.
fn head(keys: &NodeSigner, incarnation: u64) -> Head {
    let mut head = Head {
        origin: keys.id(),
        incarnation,
        seq: 1,
        previous: [0; 32],
        root: amop::internal::wire::state::Entries::default().root(),
        changes_hash: changes_hash(&[]),
        signature: [0; 64],
    };
    head.signature = keys.sign(&head.digest());
    head
}

fn id(number: u8) -> NodeId {
    signer(number).id()
}

#[test]
fn a_record_that_is_forgotten_while_it_is_asked_for_costs_its_neighbour_no_place() {
    let mut asker = Asker::new();
    let (neighbour, origin) = (id(3), id(4));
    asker.up(neighbour, 1);
    for round in 0..MANY as u64 {
        // The neighbour knows an incarnation of a node; before it answers, that node itself is linked in a later one, and goes.
        asker.list(neighbour, &[version(origin, round * 10 + 5, 1)]);
        asker.up(origin, round * 10 + 9);
        asker.down(origin, round * 10 + 9);
        assert_eq!(asker.asked(), [(neighbour, origin)], "round {round}");
    }
}

#[test]
fn a_request_that_ends_in_any_way_gives_its_place_back() {
    let (neighbour, other) = (id(3), id(5));
    let origins: Vec<NodeSigner> = (10..10 + MANY as u8).map(signer).collect();
    let none = |origin: NodeId| Message::List(vec![version(origin, 0, 0)]);
    let unsigned = |keys: &NodeSigner| Head { signature: [0; 64], ..head(keys, 1) };
    type End<'a> = &'a dyn Fn(&mut Asker, &NodeSigner);
    let ends: [(&str, End<'_>); 6] = [
        ("it has nothing", &|asker, keys| asker.reply(neighbour, &none(keys.id()))),
        ("a step", &|asker, keys| asker.reply(neighbour, &Message::Steps(vec![(head(keys, 1), b"")]))),
        ("a forged step", &|asker, keys| {
            asker.reply(neighbour, &Message::Steps(vec![(unsigned(keys), b"")]))
        }),
        ("a forged record", &|asker, keys| {
            let part = Message::Part { head: unsigned(keys), after: b"", last: true, entries: b"" };
            asker.reply(neighbour, &part);
        }),
        ("silence", &|asker, _| asker.run_for(4 * ANSWERED_WITHIN)),
        ("the link is lost, and back", &|asker, _| {
            asker.registry.handle(asker.now, RegistryInput::LinkLost { id: neighbour, incarnation: 1 });
            asker.up(neighbour, 1);
        }),
    ];
    for (what, end) in ends {
        let mut asker = Asker::new();
        asker.up(neighbour, 1);
        asker.up(other, 1);
        for keys in &origins {
            asker.asked();
            asker.list(neighbour, &[version(keys.id(), 1, 1)]);
            assert!(asker.asked().contains(&(neighbour, keys.id())), "{what}");
            end(&mut asker, keys);
        }
    }
}

#[test]
fn who_does_not_answer_in_time_is_asked_no_more_as_soon_as_somebody_else_has_it() {
    let mut asker = Asker::new();
    let (silent, other, origin) = (id(3), id(4), id(5));
    asker.up(silent, 1);
    asker.up(other, 1);
    // Whoever is silent says that it has more.
    asker.list(silent, &[version(origin, 1, 9)]);
    asker.list(other, &[version(origin, 1, 3)]);
    assert_eq!(asker.asked(), [(silent, origin)]);
    asker.run_for(ANSWERED_WITHIN - Duration::from_millis(1));
    assert_eq!(asker.asked(), []);
    asker.run_for(Duration::from_millis(1));
    assert_eq!(asker.asked(), [(other, origin)]);
    // Saying it again and again does not help.
    asker.list(silent, &[version(origin, 1, 99)]);
    asker.reply(other, &Message::Steps(vec![(head(&signer(5), 1), b"")]));
    assert_eq!(asker.asked(), [(other, origin)], "it has brought something, and has two more");
}

#[test]
fn a_neighbour_that_is_gone_is_replaced_at_once_in_all_that_it_was_asked_for() {
    let end_its_incarnation: fn(&mut Asker, NodeId) = |asker, id| asker.up(id, 2);
    let lose_its_link = |asker: &mut Asker, id| {
        asker.registry.handle(asker.now, RegistryInput::LinkLost { id, incarnation: 1 });
    };
    for gone in [end_its_incarnation, lose_its_link, |asker, id| asker.down(id, 1)] {
        let mut asker = Asker::new();
        let (first, second) = (id(3), id(4));
        let origins: Vec<NodeId> = (10..20).map(id).collect();
        let versions: Vec<Version> = origins.iter().map(|origin| version(*origin, 1, 1)).collect();
        asker.up(first, 1);
        asker.up(second, 1);
        asker.list(first, &versions);
        asker.list(second, &versions);
        let asked = asker.asked();
        assert!(asked.len() == versions.len() && asked.iter().all(|(neighbour, _)| *neighbour == first));
        gone(&mut asker, first);
        let asked = asker.asked();
        assert!(asked.len() == versions.len() && asked.iter().all(|(neighbour, _)| *neighbour == second));
    }
}

#[test]
fn what_one_neighbour_has_no_place_for_is_asked_of_another() {
    let mut asker = Asker::new();
    let (busy, free) = (id(3), id(4));
    let versions: Vec<Version> = (10..10 + MANY as u8).map(|number| version(id(number), 1, 1)).collect();
    asker.up(busy, 1);
    asker.up(free, 1);
    asker.list(busy, &versions);
    let at_once = asker.asked().len();
    assert!(at_once < MANY);
    asker.list(free, &versions);
    let asked = asker.asked();
    assert!(asked.iter().all(|(neighbour, _)| *neighbour == free));
    assert_eq!(asked.len(), MANY - at_once);
}

#[test]
fn replies_that_bring_nothing_do_not_keep_a_record_from_being_asked_of_others() {
    let keys = signer(5);
    let old = head(&keys, 1);
    let useless = [
        Message::Steps(vec![(old.clone(), b"")]),
        Message::Steps(vec![(Head { signature: [0; 64], ..head(&keys, 2) }, b"")]),
        Message::Part { head: old, after: b"x", last: false, entries: b"" },
    ];
    for message in useless {
        let mut asker = Asker::new();
        let (liar, honest, origin) = (id(3), id(4), keys.id());
        asker.up(liar, 1);
        asker.up(honest, 1);
        asker.hear(honest, PacketType::STATE_SEQ, &Message::Steps(vec![(head(&keys, 1), b"")]));
        asker.list(liar, &[version(origin, 9, 9)]);
        asker.list(honest, &[version(origin, 2, 1)]);
        assert_eq!(asker.asked(), [(liar, origin)]);
        asker.reply(liar, &message);
        assert_eq!(asker.asked(), [(honest, origin)], "{message:?}");
    }
}

#[test]
fn who_only_claims_to_know_a_later_incarnation_of_this_node_keeps_nobody_from_saying_it_truly() {
    let mut asker = Asker::new();
    let (liar, honest, own) = (id(3), id(4), asker.shared.id);
    asker.up(liar, 1);
    asker.up(honest, 1);
    asker.list(liar, &[version(own, 99, 1)]);
    assert_eq!(asker.asked(), [(liar, own)]);
    asker.list(honest, &[version(own, 5, 1)]);
    asker.run_for(ANSWERED_WITHIN);
    asker.list(liar, &[version(own, 99, 1)]);
    assert_eq!(asker.asked(), [(honest, own)]);
    asker.reply(honest, &Message::Steps(vec![(head(&signer(7), 5), b"")]));
    assert_eq!(asker.shared.incarnation(), 6);
}

#[test]
fn the_requests_for_as_many_records_as_there_may_be_all_come_to_an_end() {
    let mut asker = Asker::new();
    let neighbour = id(3);
    asker.up(neighbour, 1);
    asker.asked();
    let invented = |number: usize| {
        let mut id = [0; 64];
        id[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
        NodeId(id)
    };
    let versions: Vec<Version> = (0..NODES_MAX - 1).map(|number| version(invented(number), 1, 1)).collect();
    asker.list(neighbour, &versions);
    let mut count = 0;
    loop {
        let asked = asker.asked();
        if asked.is_empty() {
            break;
        }
        count += asked.len();
        for (_, origin) in asked {
            asker.reply(neighbour, &Message::List(vec![version(origin, 0, 0)]));
        }
    }
    assert_eq!(count, versions.len());
}
