//! The bounds of the relay, listed from its constants and settings.

use super::{
    channel, diagnostic, ledger, peer_2x, registry,
    rpc::{ANSWERS_BYTES_MAX, BODY_LEN_MAX},
    session_queue::SESSION_LEDGER_BYTES_MAX,
    settings::Settings,
    shard, trace,
};
use crate::{
    bound::{Bound, fixed},
    wire::{BUFFER_POOL_BYTES_MAX, announcement, state, topic::TOPIC_LEN_MAX, trace::ATTEMPTS_MAX},
};

/// What an allocation takes beside its bytes, about.
pub(super) const ALLOCATION: usize = 32;

fn millis(time: std::time::Duration) -> usize {
    time.as_millis() as usize
}

/// All tables and times of the relay.
pub fn bounds(settings: &Settings, reactors: usize) -> Vec<Bound> {
    let (sizes, tables) = (shard::sizes(), settings.tables);
    let topic = size_of::<crate::wire::Topic>() + TOPIC_LEN_MAX + ALLOCATION;
    // A hash table is at most twice as large as what is in it.
    let in_table = |size: usize| 2 * size;
    // Whole chunks are kept, the oldest and the newest of each reactor perhaps for one message.
    let traces = tables.of(trace::KEPT_MAX);
    let kept = (traces + 2 * reactors * trace::CHUNK_LEN) * trace::RECORD_LEN
        + traces * (trace::Sender::LEN_MAX + sizes.attempts);
    let mut bounds = vec![
        fixed(
            "frame",
            settings.frame_len_max,
            "bytes",
            "frame",
            "the session is closed: closed_protocol; of a node read over: read_over; to a node not sent: refused_too_long",
        )
        .metric("amop_frame_bytes_max", "Bytes of one frame.")
        .set_by("[amop] frame_len_max"),
        fixed("sessions", settings.sessions_max, "sessions", "node", "not let in: sessions_refused")
            .metric("amop_sessions_max", "Sessions that the node takes.")
            .memory(settings.sessions_max * (sizes.session + in_table(16) + 4 * ALLOCATION)),
        fixed(
            "the wait for the state of others",
            millis(settings.ready_timeout),
            "ms",
            "start, and new link",
            "applications are let in, unicasts answered without it",
        )
        .set_by("[amop] ready_timeout_ms"),
        fixed(
            "silence in both directions",
            millis(settings.idle_timeout),
            "ms",
            "session",
            "closed: closed_idle",
        )
        .set_by("[amop] idle_timeout_ms"),
        fixed(
            "nothing taken of what is queued",
            millis(settings.stall_timeout),
            "ms",
            "session",
            "cut: closed_stalled",
        )
        .set_by("[amop] stall_timeout_ms"),
        fixed(
            "open requests",
            settings.open_requests_bytes_max(),
            "bytes",
            "session",
            "it is read no further until half of them are answered: reads_paused",
        )
        .set_by("[amop] session_queue_bytes_max"),
        fixed(
            "requests that wait for room in a session's queue",
            settings.retained_bytes_max,
            "bytes",
            "node",
            "answered 101 at once: room_waits_refused",
        )
        .set_by("[amop] retained_bytes_max")
        .memory(settings.retained_bytes_max + reactors * settings.frame_len_max),
        fixed(
            "topics",
            settings.session_topics_max,
            "topics",
            "session",
            "the subscription is refused whole, the old one stays: subscriptions_refused",
        )
        .metric("amop_session_topics_max", "Topics of one session.")
        .set_by("[amop] session_topics_max"),
        fixed("topics", settings.node_topics_max, "topics", "node", "the same")
            .metric("amop_topics_max", "Topics of the node's sessions.")
            .set_by("[amop] node_topics_max")
            // Its name is in the record, in the topic table, and in the reactor's own.
            .memory(settings.node_topics_max * (state::ENTRY_FOOTPRINT + 3 * topic)),
        fixed(
            "subscriptions, those that wait included",
            settings.node_subscriptions_max,
            "subscriptions",
            "node",
            "the same",
        )
        .metric("amop_subscriptions_max", "Subscriptions of the node: pairs of session and topic.")
        .set_by("[amop] node_subscriptions_max")
        .memory(settings.node_subscriptions_max * (topic + 2 * size_of::<u32>())),
        fixed(
            "changes of topics",
            settings.session_changes_per_second_max as usize,
            "changes a second",
            "session",
            "later ones are merged, the last wins: subscriptions_deferred",
        ),
        fixed(
            "requests that wait for their answer",
            settings.pending_requests_max,
            "requests",
            "reactor",
            "answered 99; one of a neighbour 101",
        )
        .metric("amop_pending_requests_max", "Requests that wait for their answer, of each reactor.")
        .set_by("[amop] pending_requests_max")
        .memory(
            reactors
                * settings.pending_requests_max
                * (sizes.request + in_table(sizes.awaiting) + in_table(40)),
        ),
        fixed(
            "time of a request",
            millis(settings.request_timeout),
            "ms",
            "request",
            "answered with how far it got",
        )
        .set_by("[amop] request_timeout_ms"),
        fixed(
            "tries of a request",
            shard::REQUEST_ATTEMPTS_MAX,
            "sessions and nodes",
            "request",
            "the same: tries_exhausted",
        )
        .memory(0),
        fixed(
            "frames kept for another try",
            settings.retained_bytes_max,
            "bytes",
            "node, in shares for its reactors",
            "no other try: retention_refused",
        )
        .metric(
            "amop_retained_bytes_max",
            "Bytes of frames kept for another try, in equal shares for the reactors.",
        )
        .set_by("[amop] retained_bytes_max")
        .memory(settings.retained_bytes_max + reactors * settings.frame_len_max),
        fixed(
            "pushes that wait for their answer",
            settings.pending_pushes_max,
            "pushes",
            "reactor",
            "another reactor or node is tried, else 101",
        )
        .metric("amop_pending_pushes_max", "Pushes that wait for their answer, of each reactor.")
        .memory(reactors * settings.pending_pushes_max * (in_table(sizes.push) + sizes.push_timer)),
        fixed(
            "time of a push",
            millis(settings.push_timeout),
            "ms",
            "push",
            "another session is tried: push_timeouts",
        )
        .set_by("[amop] push_timeout_ms"),
        fixed(
            "pairs of publishers and subscribers of private topics",
            tables.of(shard::PAIRS_MAX),
            "pairs",
            "reactor",
            "not challenged: pairs_over_bound",
        )
        .memory(reactors * tables.of(shard::PAIRS_MAX) * in_table(sizes.pair)),
        fixed(
            "subscribers that a publisher is asked to verify",
            shard::OPEN_MAX,
            "challenges",
            "session",
            "the others wait for their turn",
        )
        .memory(reactors * tables.of(shard::PAIRS_MAX) * in_table(sizes.asked)),
        fixed(
            "time of a challenge",
            millis(shard::OPEN_FOR_MAX),
            "ms",
            "challenge",
            "tried again later: challenges_unanswered",
        ),
        fixed(
            "time of a challenge while its subscriber's machine has not taken it, in all",
            millis(shard::OPEN_IN_ALL_MAX),
            "ms",
            "challenge",
            "the same",
        ),
        fixed(
            "open challenges to this node's subscribers",
            tables.of(shard::CHALLENGES_MAX),
            "challenges",
            "node",
            "tried again later: challenges_over_bound",
        )
        .memory(tables.of(shard::CHALLENGES_MAX) * in_table(sizes.challenge)),
        fixed(
            "those of them that another node's publishers have",
            tables.of(shard::CHALLENGES_OF_NODE_MAX),
            "challenges",
            "neighbour",
            "the same",
        ),
        fixed(
            "payloads of challenges",
            tables.of(shard::CARRIED_MAX),
            "payloads",
            "node",
            "no further challenge is carried: challenges_over_bound",
        )
        .memory(tables.of(shard::CARRIED_MAX) * in_table(sizes.carried)),
        fixed("payloads of challenges", millis(shard::CARRIED_MEMORY), "ms", "payload", "forgotten"),
        fixed(
            "subscribers of a private topic that other nodes are told",
            state::SUBSCRIBERS_MAX,
            "sessions",
            "topic",
            "no publisher elsewhere reaches the others: subscribers_not_told",
        ),
        fixed(
            "subscribers that a frame names",
            crate::wire::node::AUDIENCE_MAX,
            "sessions",
            "frame to a node",
            "a multicast goes in several frames, a unicast tries no further ones there",
        ),
        fixed("nodes", settings.neighbours_max, "neighbours", "node", "the link is closed: refused_nodes")
            .metric("amop_neighbours_max", "Neighbours at once.")
            .memory(settings.neighbours_max * (sizes.neighbour + sizes.node_link + 4 * ALLOCATION)),
        fixed(
            "messages sent and not acknowledged",
            settings.window_frames_max,
            "messages",
            "other node",
            "a unicast tries another node, a multicast is lost there: dropped_window_full; answers have twice the room",
        )
        .metric("amop_window_frames_max", "Messages sent to another node and not acknowledged."),
        fixed("their bytes", settings.window_bytes_max, "bytes", "other node", "the same")
            .metric("amop_window_bytes_max", "Bytes of messages sent to another node and not acknowledged.")
            .set_by("[amop] window_bytes_max"),
        fixed(
            "their bytes, to all nodes, and of messages that came before their turn",
            settings.windows_bytes_max,
            "bytes",
            "node, in shares for its reactors",
            "the same",
        )
        .metric(
            "amop_windows_bytes_max",
            "Bytes of messages sent to all nodes and not acknowledged, and of those that came before their turn, in equal shares for the reactors.",
        )
        .set_by("[amop] windows_bytes_max")
        // One message may go beyond each.
        .memory(settings.windows_bytes_max + reactors * settings.frame_len_max),
        fixed(
            "buffers of kept frames for the next ones",
            BUFFER_POOL_BYTES_MAX,
            "bytes",
            "reactor",
            "they are freed",
        )
        .memory(reactors * BUFFER_POOL_BYTES_MAX),
        fixed(
            "messages that came before their turn",
            channel::REORDER_MESSAGES_MAX,
            "messages",
            "other node",
            "not taken, they come again: not_held_for_order; their bytes count as those that are not acknowledged",
        ),
        fixed(
            "nodes of which it is remembered how far their messages were",
            shard::REPLAY_FLOORS_MAX,
            "nodes",
            "reactor",
            "those are forgotten that the lists leave out: replay_floors_forgotten; else the node begins a later incarnation, its links to nodes are made anew: replay_floors_full",
        )
        .memory(reactors * shard::REPLAY_FLOORS_MAX * in_table(sizes.floor)),
        fixed("silence", millis(settings.dead_after), "ms", "node link", "cut: closed_dead"),
        fixed(
            "until a lost link is replaced",
            millis(settings.node_grace),
            "ms",
            "neighbour",
            "other routes are tried",
        ),
        fixed(
            "records of other nodes",
            settings.records_bytes_max,
            "bytes",
            "node",
            "topics are not known here in full: refused_room",
        )
        .metric(
            "amop_registry_records_bytes_max",
            "Bytes of memory that the records of all neighbours may take, about.",
        )
        .set_by("[amop] records_bytes_max")
        .memory(settings.records_bytes_max),
        fixed(
            "nodes that discovery finds",
            registry::DISCOVERED_MAX,
            "nodes",
            "node",
            "the farther ones are not dialled",
        ),
        fixed(
            "different lengths of frames that routes are found for",
            registry::LONG_ROUTES_MAX,
            "lengths",
            "node",
            "longer frames go only through nodes that take the longest: refused_too_long",
        )
        .memory(registry::LONG_ROUTES_MAX * registry::NODES_MAX * in_table(size_of::<(crate::wire::NodeId, super::snapshot::Path)>())),
        fixed("other nodes", registry::NODES_MAX, "nodes", "node", "not known here: refused_nodes")
            .metric_of(
                "amop_registry_nodes_known",
                "amop_nodes_known_max",
                "Other nodes of the network at once.",
            )
            .memory(registry::NODES_MAX * in_table(sizes.peer)),
        fixed(
            "records of which it is remembered how far they were",
            registry::tombstones_max(settings),
            "nodes",
            "node",
            "those are forgotten that the lists leave out, then those that were known for the shortest time: tombstones_forgotten",
        )
        .memory(registry::tombstones_max(settings) * registry::TOMBSTONE_LEN),
        fixed("record", state::RECORD_LEN_MAX, "bytes", "other node", "refused: refused_size"),
        fixed("entries", state::ENTRIES_MAX, "entries", "record", "refused: refused_size"),
        fixed(
            "steps of our own record that are kept",
            tables.of(registry::HISTORY_LEN_MAX),
            "bytes",
            "node",
            "older ones are forgotten; who missed them gets the whole record",
        )
        .memory(tables.of(registry::HISTORY_LEN_MAX)),
        fixed(
            "state frames on their way to the registry",
            tables.of(super::STATE_BYTES_MAX),
            "bytes",
            "node",
            "dropped, a digest shows what was missed: state_refused",
        )
        .memory(tables.of(super::STATE_BYTES_MAX)),
        fixed(
            "messages that did not end with 0, kept for tracing",
            traces,
            "messages",
            "node",
            "the oldest are forgotten: traces_forgotten",
        )
        .memory(kept),
        fixed(
            "messages that ended with 0, kept while tracing is on",
            traces,
            "messages",
            "node",
            "the same",
        )
        .memory(kept),
        fixed(
            "tries that are kept of a message",
            ATTEMPTS_MAX,
            "tries",
            "message",
            "those in the middle are left out",
        ),
    ];
    bounds.extend(diagnostic::bounds(reactors));
    bounds.extend([
        fixed(
            "text",
            announcement::TEXT_LEN_MAX,
            "bytes",
            "announcement",
            "not announced; one of a neighbour is refused: refused_size",
        ),
        fixed(
            "announcements",
            registry::OWN_PER_MINUTE_MAX as usize,
            "announcements a minute",
            "node",
            "not announced",
        ),
        fixed(
            "announcements of another node",
            registry::OF_NODE_PER_MINUTE_MAX as usize,
            "announcements a minute",
            "other node",
            "neither taken nor passed on: refused_rate",
        ),
        fixed(
            "announcements that a neighbour brings",
            registry::OF_NEIGHBOUR_PER_SECOND_MAX as usize,
            "announcements a second",
            "neighbour",
            "not looked at: refused_rate",
        ),
        fixed(
            "announcements for people to see",
            registry::ANNOUNCEMENTS_MAX,
            "announcements",
            "node",
            "the oldest are forgotten",
        )
        .memory(registry::ANNOUNCEMENTS_MEMORY),
        fixed("JSON-RPC request", BODY_LEN_MAX, "bytes", "request", "refused with -32600"),
        fixed(
            "JSON-RPC requests that wait",
            registry::rpc_waiting_bytes_max(settings),
            "bytes",
            "node",
            "refused with -40011: rpc_refused",
        )
        .memory(2 * registry::rpc_waiting_bytes_max(settings)),
        fixed("JSON-RPC answers on their way", tables.of(ANSWERS_BYTES_MAX), "bytes", "node", "the same")
            .memory(tables.of(ANSWERS_BYTES_MAX)),
    ]);
    bounds.extend(peers_2x(&sizes, topic, reactors, settings));
    bounds.extend(private_over_2x());
    if let Some(of_ledger) = &settings.ledger {
        bounds.extend(ledger_bounds(of_ledger, settings, reactors));
        bounds.extend(ledger_message_bounds(of_ledger, settings, reactors));
        bounds.extend(ledger_times(of_ledger));
    }
    bounds
}

/// What is kept for ledger nodes.
fn ledger_bounds(of_ledger: &ledger::Ledger, settings: &Settings, reactors: usize) -> Vec<Bound> {
    vec![
        fixed(
            "connections to ledger nodes",
            settings.sessions_max,
            "connections",
            "node",
            "there is at most one for each session",
        )
        .memory(settings.sessions_max * 2 * shard::sizes().upstream),
        fixed(
            "kept for ledger nodes: requests until their answer, event filters, what waits for its session",
            of_ledger.bytes_max,
            "bytes",
            "node, in shares for its reactors",
            "answered -32002: ledger_busy; of what has come the ledger node is read no further: ledger_reads_paused",
        )
        .metric("amop_ledger_bytes_max", "Bytes kept for ledger nodes, in equal shares for the reactors.")
        .set_by("[ledger] bytes_max")
        .memory(of_ledger.bytes_max + reactors * settings.frame_len_max),
        fixed(
            "requests that wait for a ledger node or its answer",
            ledger::SESSION_CALLS_MAX,
            "requests",
            "session",
            "answered -32002: ledger_busy; a unicast 99, a multicast goes to the mesh alone: ledger_messages_not_sent",
        ),
        fixed(
            "event filters",
            ledger::SESSION_FILTERS_MAX,
            "filters",
            "session",
            "not registered, answered -41001: ledger_busy",
        ),
        fixed(
            "registration of an event filter",
            ledger::FILTER_LEN_MAX,
            "bytes",
            "registration",
            "answered -41001",
        ),
        fixed(
            "from its ledger node, waiting for a session",
            SESSION_LEDGER_BYTES_MAX,
            "bytes",
            "session",
            "the ledger node is read no further: ledger_reads_paused",
        ),
        fixed(
            "answer of a ledger node that is merged with what is known here",
            ledger::merge::MERGED_LEN_MAX,
            "bytes",
            "answer",
            "it passes as it is",
        ),
    ]
}

/// What AMOP by ledger nodes takes.
fn ledger_message_bounds(of_ledger: &ledger::Ledger, settings: &Settings, reactors: usize) -> Vec<Bound> {
    let copies = settings.tables.of(ledger::COPIES_MAX);
    // Nothing is taken where no message goes that way.
    let if_wanted = |memory: usize| if of_ledger.amop { memory } else { 0 };
    vec![
        fixed(
            "topics of sessions that their ledger nodes are told",
            settings.node_subscriptions_max,
            "subscriptions",
            "node",
            "there are no more than subscriptions",
        )
        .memory(if_wanted(settings.node_subscriptions_max * size_of::<crate::wire::Topic>())),
        fixed(
            "unicasts of its ledger node that wait for a session's answer",
            ledger::SESSION_PUSHES_MAX,
            "pushes",
            "session; all of them at most half of the pushes that may wait",
            "answered 101: ledger_pushes_refused",
        ),
        fixed(
            "multicasts at sessions that are known again if they come from the other side, too",
            copies,
            "copies",
            "reactor",
            "the oldest is forgotten: ledger_copies_forgotten",
        )
        .metric("amop_ledger_copies_known_max", "Multicasts at sessions that a reactor knows again.")
        .memory(if_wanted(2 * reactors * copies * shard::copy_len())),
        fixed(
            "such a multicast is known again",
            millis(peer_2x::COPIES_TIME),
            "ms",
            "copy",
            "a copy that comes later is another message",
        ),
        fixed(
            "a session's answer to a unicast of its ledger node",
            millis(ledger::PUSH_KEPT),
            "ms",
            "push",
            "a later one is dropped: unsolicited_answers",
        ),
    ]
}

/// Private topics of nodes of FISCO BCOS 2.x.
fn private_over_2x() -> Vec<Bound> {
    vec![
        fixed(
            "route topics and markers of private topics that pass",
            peer_2x::PRIVATE_TOPICS_MAX,
            "topics",
            "node of FISCO BCOS 2.x",
            "others are left out: peer_2x_topics_withheld",
        ),
        fixed(
            "the turn of a subscriber at a publisher there, while others wait and nothing comes",
            millis(shard::TURN_2X),
            "ms",
            "turn",
            "the next one is challenged",
        ),
    ]
}

/// What passes between this node and nodes of FISCO BCOS 2.x.
fn peers_2x(sizes: &shard::Sizes, topic: usize, reactors: usize, settings: &Settings) -> Vec<Bound> {
    let topics_in_all = settings.tables.of(peer_2x::TOPICS_IN_ALL_MAX);
    let remembered = settings.tables.of(peer_2x::REMEMBERED_MAX);
    vec![
        fixed(
            "topics of a node of FISCO BCOS 2.x",
            peer_2x::TOPICS_MAX,
            "topics",
            "node",
            "the list is refused, the one before stays: peer_2x_lists_refused",
        )
        .memory(settings.neighbours_max * sizes.peer_2x),
        fixed("topics of all of these", topics_in_all, "topics", "reactor", "the same")
            // As they were told, and in the registry.
            .memory(reactors * topics_in_all * (2 * topic + state::ENTRY_FOOTPRINT)),
        fixed(
            "topics that nodes of FISCO BCOS 2.x are told of",
            peer_2x::ANNOUNCED_MAX,
            "topics",
            "node",
            "others are left out, which is logged: choose by [p2p] announce_to_2x",
        )
        .memory(peer_2x::ANNOUNCED_MAX * 2 * topic),
        fixed(
            "lists of topics that are given",
            peer_2x::LISTS_PER_SECOND_MAX as usize,
            "lists a second",
            "node of FISCO BCOS 2.x",
            "not answered, it asks again: peer_2x_lists_not_given",
        ),
        fixed(
            "multicasts that are known again",
            remembered,
            "multicasts",
            "reactor",
            "the oldest is forgotten: peer_2x_forgotten",
        )
        .memory(reactors * remembered * 2 * sizes.remembered_2x),
        fixed(
            "the pause before the list of topics is asked for again",
            millis(peer_2x::REQUEST_PAUSE),
            "ms",
            "node of FISCO BCOS 2.x",
            "it is asked for later",
        ),
        fixed(
            "the answer to that",
            millis(peer_2x::REQUEST_AGAIN_AFTER),
            "ms",
            "request",
            "asked again: peer_2x_lists_unanswered",
        ),
        fixed(
            "the answer to a unicast",
            millis(peer_2x::PUSH_TIMEOUT),
            "ms",
            "node of FISCO BCOS 2.x",
            "another is tried, within the request's time: push_timeouts",
        ),
        fixed(
            "silence until messages go elsewhere",
            millis(peer_2x::SILENT_AFTER),
            "ms",
            "node of FISCO BCOS 2.x",
            "they go elsewhere: peer_2x_silent",
        ),
        fixed(
            "silence",
            millis(peer_2x::DEAD_AFTER),
            "ms",
            "node of FISCO BCOS 2.x",
            "its link is closed: closed_dead",
        ),
    ]
}

/// How long ledger nodes are waited for.
fn ledger_times(of_ledger: &ledger::Ledger) -> Vec<Bound> {
    vec![
        fixed(
            "the wait for a connection to a ledger node",
            millis(ledger::WAIT_MAX),
            "ms",
            "request",
            "answered -32001: ledger_unreachable; a unicast 100, a multicast goes to the mesh alone: ledger_messages_not_sent",
        ),
        fixed(
            "the answer of a ledger node",
            millis(of_ledger.request_timeout),
            "ms",
            "request",
            "answered -32000: ledger_unanswered",
        )
        .set_by("[ledger] request_timeout_ms"),
        fixed(
            "the answer of a ledger node to the handshake",
            millis(ledger::GREETING_MAX),
            "ms",
            "connection",
            "cut, and made anew: ledger_links_lost",
        ),
        fixed("silence of a ledger node", millis(ledger::DEAD_AFTER), "ms", "connection", "the same"),
    ]
}
