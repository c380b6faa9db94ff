//! Every bound of the engine that nobody need set, with its unit; [`bounds`] lists them together with those
//! that are set.

use std::time::Duration;

use super::{EngineSettings, blocks::BLOCK_LEN};
use crate::{
    bound::{Bound, fixed},
    relay::{
        RegistryInput,
        session_queue::{SESSION_CONTROL_BYTES_MAX, SESSION_SHARE},
        settings::{FRAME_LEN_SETTABLE_MAX, NODE_FRAME_ROOM, Settings},
    },
    wire::{sdk, ws::upgrade},
};

/// Completions handled before the other sources get their turn.
pub(super) const COMPLETIONS_PER_TURN: usize = 1_024;
/// Events that epoll tells at once; further ones are told in the next turn.
pub(super) const EPOLL_EVENTS_MAX: usize = 512;
/// Receive buffers that one descriptor fills under epoll before others have their turn.
pub(super) const RECEIVES_PER_DESCRIPTOR: usize = 4;
/// Messages of one other reactor handled in one turn.
pub(super) const MESH_PER_TURN: usize = 1_024;
/// Commands of the door, the registry and the admin endpoint handled in one turn.
pub(super) const COMMANDS_PER_TURN: usize = 1_024;
/// Messages that one mesh queue holds; what does not fit is spilled, and the reactor takes nothing in.
pub(super) const MESH_QUEUE_LEN: usize = 4_096;
/// Inputs that may wait for the registry; beyond it state frames and JSON-RPC requests are refused, and
/// changes of topics are summed up until there is room.
pub(super) const REGISTRY_QUEUE_MAX: usize = 16_384;
/// Commands that may wait in a reactor's inbox; beyond it the registry's frames for neighbours are dropped,
/// which the next digest mends.
pub(super) const INBOX_MAX: usize = 16_384;
/// Tries to give the kernel an entry before the node gives up …
pub(super) const PUSH_ATTEMPTS_MAX: u32 = 10_000;
/// … of which the first follow each other at once …
pub(super) const PUSH_ATTEMPTS_AT_ONCE: u32 = 100;
/// … and the others after this.
pub(super) const PUSH_PAUSE: Duration = Duration::from_millis(1);
/// Bytes that may be sealed and not sent, what the kernel is sending included; one frame may go beyond
/// it. A link whose peer is slower than that keeps its frames unsealed, so that control can go before
/// data and memory is shared.
pub(super) const SEALED_AHEAD_MAX: usize = 256 * 1024;
/// Bytes of links on which much comes or goes that one turn takes in, and as many that it sends; the last link's share may
/// go beyond it. Others wait for no more than that.
pub(super) const BULK_BYTES_PER_TURN: usize = SEALED_AHEAD_MAX;
/// Bytes of a node link that the kernel may hold and has not sent yet: what is sealed can no longer be
/// overtaken by control.
pub(super) const NOTSENT_BYTES_MAX: u32 = 128 * 1024;
/// Memory of an outgoing queue up to this many bytes is kept for the next turn.
pub(super) const OUTPUT_KEPT_MAX: usize = 64 * 1024;
/// So many of those of links that have nothing to send are kept by a reactor for others, and as many buffers in which
/// frames are gathered that share records.
pub(super) const OUTPUTS_KEPT_MAX: usize = 128;
/// Blocks for large frames that a reactor keeps for the next ones, and as many that came back meanwhile. More
/// are made and freed as they are needed.
pub(super) const BLOCKS_KEPT_MAX: usize = 64;
/// Links of a reactor that receive into a block of their own because a large frame is on its way; others put
/// theirs together out of the receive buffers.
pub(super) const OWN_RECEIVES_MAX: usize = 32;
/// Control frames may wait up to this many bytes on one node link, beside its data; one frame may go beyond
/// it.
pub(super) const CONTROL_BYTES_MAX: usize = 1 << 20;
/// A frame has this long to be complete, plus one second for each [`BYTES_PER_SECOND_MIN`].
pub(super) const FRAME_COMPLETE_WITHIN: Duration = Duration::from_secs(30);
/// The slowest that a large frame may arrive.
pub(super) const BYTES_PER_SECOND_MIN: usize = 100 * 1024;
/// A record has this long to be complete: it is 16 KiB at most.
pub(super) const RECORD_COMPLETE_WITHIN: Duration = Duration::from_secs(10);
/// A request by which a link becomes a WebSocket has this long to be complete: it is 8 KiB at most.
pub(super) const UPGRADE_COMPLETE_WITHIN: Duration = Duration::from_secs(10);
/// How long a closing link may take to send what is queued.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How long the peer of a link that was closed in order, and that has taken everything, may take to close it
/// too. What it still sends is read and dropped until then: unread input would make the kernel reset the
/// connection, and with it what the peer has not read yet.
pub(super) const LINGER: Duration = Duration::from_millis(500);
/// A node link whose keys are used up may live on so long for whoever dialled it to replace it.
pub(super) const REPLACE_WITHIN: Duration = Duration::from_secs(10);

/// Frames above this many bytes are counted in [`MESH_BYTES_MAX`].
pub(super) const MESH_SMALL_FRAME_MAX: usize = 1024;
/// Bytes of large frames that one mesh queue holds; one frame may go beyond it.
pub(super) const MESH_BYTES_MAX: usize = 16 << 20;

/// All queues, tables, buffers and times of the engine.
pub fn bounds(settings: &EngineSettings, relay: &Settings, reactors: usize) -> Vec<Bound> {
    let frames_per_buffer = settings.receive_buffer_len / sdk::HEADER_LEN;
    let receive_bytes = usize::from(settings.receive_buffers) * settings.receive_buffer_len;
    let (tables, links) = (relay.tables, relay.sessions_max + relay.neighbours_max);
    let (outputs_kept, blocks_kept) = (tables.of(OUTPUTS_KEPT_MAX), tables.of(BLOCKS_KEPT_MAX));
    let (own_receives, mesh_bytes) = (tables.of(OWN_RECEIVES_MAX), tables.of(MESH_BYTES_MAX));
    let message = size_of::<super::mesh::Item>();
    let pairs = reactors * (reactors - 1);
    let link =
        size_of::<super::transmit::Transmit>() + super::reactor::SLOT_LEN + super::ring::DESCRIPTOR_LEN;
    // One reactor sends nothing to itself.
    let senders = if pairs > 0 { reactors } else { 0 };
    vec![
        fixed(
            "links",
            links,
            "links",
            "node",
            "the door lets nobody in: sessions_refused; a node's link is closed: refused_nodes",
        )
        .memory(links * link),
        fixed(
            "receive buffers",
            receive_bytes,
            "bytes",
            "reactor",
            "the kernel keeps input until a buffer is back: receive_buffers_exhausted",
        )
        .set_by("[engine] receive_buffers")
        .memory(reactors * receive_bytes),
        fixed(
            "little buffers kept for links that send again",
            2 * outputs_kept,
            "buffers",
            "reactor",
            "by design: others are freed",
        )
        .memory(reactors * 2 * outputs_kept * OUTPUT_KEPT_MAX),
        fixed(
            "blocks kept for large frames",
            2 * blocks_kept,
            "blocks",
            "reactor",
            "by design: others are freed; those that nothing needed for 0.5 s are too",
        )
        .memory(reactors * 2 * blocks_kept * BLOCK_LEN),
        fixed(
            "links that receive into a block of their own",
            own_receives,
            "links",
            "reactor",
            "a large frame costs one copy more: own_receives_refused",
        )
        .memory(reactors * own_receives * BLOCK_LEN),
        fixed(
            "events that epoll tells at once",
            EPOLL_EVENTS_MAX,
            "events",
            "reactor",
            "by design: further ones are told in the next turn",
        ),
        fixed(
            "receives of a link in a turn, on epoll",
            RECEIVES_PER_DESCRIPTOR,
            "buffers",
            "link",
            "by design: the rest waits for the next turn",
        ),
        fixed(
            "submission entries",
            settings.ring_entries as usize,
            "entries",
            "reactor",
            "submitted early; after many vain tries the node ends",
        ),
        fixed(
            "receives held while another reactor is behind",
            usize::from(settings.receive_buffers),
            "buffers",
            "reactor",
            "the kernel keeps input: turns_backed_up",
        ),
        fixed(
            "record in progress",
            RECORD_COMPLETE_WITHIN.as_millis() as usize,
            "ms",
            "link",
            "the link is closed: closed_protocol",
        ),
        fixed(
            "frame in progress, and 1 s more per 100 KiB",
            FRAME_COMPLETE_WITHIN.as_millis() as usize,
            "ms",
            "link",
            "the link is closed: closed_protocol",
        ),
        fixed(
            "upgrade to WebSocket in progress",
            UPGRADE_COMPLETE_WITHIN.as_millis() as usize,
            "ms",
            "link",
            "the link is closed: closed_protocol",
        ),
        fixed(
            "head of the request of an upgrade",
            upgrade::HEAD_LEN_MAX,
            "bytes",
            "link",
            "answered by HTTP status 431, and closed: closed_protocol",
        ),
        fixed(
            "headers in it",
            upgrade::HEADERS_MAX,
            "headers",
            "link",
            "answered by HTTP status 431, and closed: closed_protocol",
        ),
        fixed(
            "unfinished frames and records",
            settings.unfinished_bytes_max,
            "bytes",
            "node",
            "the link that holds most of them is closed: unfinished_frames_dropped",
        )
        .metric("amop_unfinished_bytes_max", "Bound of the bytes of frames that are not complete.")
        .set_by("[engine] unfinished_bytes_max")
        .memory(settings.unfinished_bytes_max),
        fixed(
            "outgoing queue",
            relay.session_queue_bytes_max,
            "bytes",
            "session",
            "a unicast waits for room or tries another session, a multicast's copy is lost: dropped_queue_full; with so \
             much of answers the session is read no further: reads_paused",
        )
        .metric("amop_session_queue_bytes_max", "Bytes that wait for one session.")
        .set_by("[amop] session_queue_bytes_max"),
        fixed(
            "outgoing replies",
            SESSION_CONTROL_BYTES_MAX,
            "bytes",
            "session",
            "it is read no further until half of them are sent: reads_paused",
        ),
        fixed(
            "outgoing queues of all sessions",
            settings.queues_bytes_max,
            "bytes",
            "node",
            "the same for the sessions with most waiting: queues_full; a long answer is answered 102: answers_dropped",
        )
        .set_by("[engine] queues_bytes_max")
        // Buffers grow by doubling.
        .memory(2 * settings.queues_bytes_max + reactors * relay.frame_len_max),
        fixed("share of a session in them", SESSION_SHARE, "bytes", "session", "it may always have as much")
            .memory(relay.sessions_max * SESSION_SHARE),
        fixed(
            "sealed and not sent",
            SEALED_AHEAD_MAX,
            "bytes",
            "link",
            "further frames wait unsealed; one frame may go beyond",
        )
        .memory(2 * relay.neighbours_max * SEALED_AHEAD_MAX),
        fixed(
            "received and sent of large frames in a turn",
            BULK_BYTES_PER_TURN,
            "bytes",
            "reactor",
            "by design: the rest waits for the next turn, and what is little goes before it",
        ),
        fixed("not sent by the kernel", NOTSENT_BYTES_MAX as usize, "bytes", "node link", "the send waits"),
        fixed(
            "outgoing data",
            node_queue_bytes_max(relay),
            "bytes",
            "node link",
            "as where too much is unacknowledged; a frame of another node is dropped: relay_dropped",
        )
        .memory(relay.windows_bytes_max + reactors * relay.frame_len_max),
        fixed(
            "frames of other nodes that wait on node links",
            relay.windows_bytes_max,
            "bytes",
            "node, in shares for its reactors",
            "dropped, their sources have them: relay_dropped",
        )
        .set_by("[amop] windows_bytes_max")
        .memory(relay.windows_bytes_max + reactors * relay.frame_len_max),
        fixed(
            "outgoing control",
            CONTROL_BYTES_MAX,
            "bytes",
            "node link",
            "the frame is dropped, a later one says the same: dropped_control_full",
        )
        .memory(relay.neighbours_max * CONTROL_BYTES_MAX),
        fixed(
            "mesh queue",
            MESH_QUEUE_LEN,
            "messages",
            "pair of reactors",
            "spilled, and nothing is taken in until there is room: turns_backed_up",
        )
        .memory(pairs * MESH_QUEUE_LEN * (message + MESH_SMALL_FRAME_MAX)),
        fixed(
            "large frames in a mesh queue",
            mesh_bytes,
            "bytes",
            "pair of reactors",
            "the same; one frame may go beyond",
        )
        .memory(pairs * mesh_bytes + senders * relay.frame_len_max),
        fixed(
            "spilled messages",
            frames_per_buffer + relay.pending_requests_max + relay.pending_pushes_max,
            "messages",
            "pair of reactors",
            "by design: what one buffer held, and what open requests and pushes cause",
        ),
        fixed(
            "inbox of a reactor",
            INBOX_MAX,
            "commands",
            "reactor",
            "the registry's frames are dropped: registry_frames_dropped; answers and links are bounded where \
             they come from",
        ),
        fixed(
            "inbox of the registry",
            REGISTRY_QUEUE_MAX,
            "inputs",
            "node",
            "state frames and JSON-RPC are refused: state_refused, rpc_refused; changes of topics are summed \
             up: registry_changes_put_off",
        )
        .memory(REGISTRY_QUEUE_MAX * size_of::<RegistryInput>()),
        fixed(
            "changes of topics that are summed up",
            2 * relay.node_topics_max,
            "topics",
            "reactor",
            "by design: one for each topic",
        ),
        fixed(
            "closing in order",
            CLOSE_WITHIN.as_millis() as usize,
            "ms",
            "link",
            "cut; what is queued is lost",
        ),
        fixed("closing, all sent", LINGER.as_millis() as usize, "ms", "link", "cut"),
        fixed(
            "AES blocks under one key",
            settings.keys.node_blocks_max as usize,
            "blocks",
            "node link",
            "a new link replaces it, nothing is lost: node_links_worn; TLS 1.3 renews the keys: keys_updated",
        ),
        fixed(
            "AES blocks under one key",
            settings.keys.sdk_blocks_max as usize,
            "blocks",
            "session",
            "closed once what is in flight is answered; logged long before",
        ),
        fixed(
            "link with used-up keys waits to be replaced",
            REPLACE_WITHIN.as_millis() as usize,
            "ms",
            "node link",
            "closed in order and dialled again; nothing is lost: node_links_worn",
        ),
    ]
}

/// Bytes of data that may wait on a node link: twice what one node may leave unacknowledged, and a frame.
pub(super) fn node_queue_bytes_max(relay: &Settings) -> usize {
    let window = relay.window_bytes_max + relay.window_frames_max * super::transmit::WAITING_COST;
    2 * window + relay.node_link_frame_len_max()
}

/// A frame on a node link up to this is read over if it is too long: more than any node may have as its bound.
pub(super) const NODE_FRAME_LEN_READ_OVER_MAX: usize = FRAME_LEN_SETTABLE_MAX + NODE_FRAME_ROOM;
