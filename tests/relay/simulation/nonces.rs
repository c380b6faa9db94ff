//! No key and nonce ever seal two payloads (WIRE §6.4): not over restarts either, however the clocks stand.

use std::collections::BTreeMap;

use amop::internal::{
    relay::sealing::{
        CONTENT_KEY_LEN, ContentKey, FRONT_LEN, Seal, SealIncarnations, Secret, Subject, TAG_LEN,
    },
    wire::{
        MessageNumber, NodeId,
        node::{Addressing, FLAG_SEALED, Header, PacketType},
    },
};

use super::oracle::Verdict;
use crate::kit::{NodeIndex, VirtualNode};

/// Place, and least place, before a ticket's key.
const NUMBERS_LEN: usize = 16;
const TICKET_LEN: usize = FRONT_LEN + NUMBERS_LEN + CONTENT_KEY_LEN + TAG_LEN;

/// The two ends of something that is sealed.
type Ends = (NodeIndex, NodeIndex);
/// What is sealed under a key and a nonce, or a hash of it.
type Sealed = (PacketType, u32, [u8; 32]);

#[derive(Default)]
pub struct Nonces {
    /// By what stands before it: incarnations and number.
    payloads: BTreeMap<(Ends, [u8; FRONT_LEN]), Sealed>,
    /// Contents of shared multicasts by their keys, whose nonce is always the same.
    contents: BTreeMap<[u8; 16], [u8; 32]>,
    secrets: BTreeMap<Ends, Secret>,
}

impl Nonces {
    /// A frame has left the node that made it.
    pub fn left(&mut self, nodes: &[VirtualNode], from: NodeIndex, bytes: &[u8]) -> Verdict {
        let Ok((header, offset)) = Header::decode(bytes) else { return Ok(()) };
        let Addressing::EndToEnd { source, destinations } = header.addressing else { return Ok(()) };
        if header.flags & FLAG_SEALED == 0 || nodes[from].id.0 != *source {
            return Ok(());
        }
        let subject = Subject { packet_type: header.packet_type, message: MessageNumber(header.seq) };
        let is_shared = subject.packet_type == PacketType::SHARED_MULTICAST;
        let (tickets, content) = match is_shared {
            true => bytes[offset..].split_at(destinations.len() * TICKET_LEN),
            false => (&bytes[offset..], &[][..]),
        };
        for (at, destination) in destinations.iter().enumerate() {
            let Some(to) = nodes.iter().position(|node| node.id == NodeId(*destination)) else { continue };
            let sealed = if is_shared { &tickets[at * TICKET_LEN..][..TICKET_LEN] } else { tickets };
            let Some(front) = sealed.first_chunk::<FRONT_LEN>() else { continue };
            let is = (subject.packet_type, subject.message.0, *blake3::hash(sealed).as_bytes());
            let before = self.payloads.entry(((from, to), *front)).or_insert(is);
            if *before != is {
                return Err(format!(
                    "node{from} seals two payloads for node{to} under one key and number: {:?} #{} and {:?} #{}",
                    before.0, before.1, is.0, is.1
                ));
            }
            if is_shared && let Some(key) = self.content_key(nodes, (from, to), subject, sealed) {
                let hash = *blake3::hash(content).as_bytes();
                if *self.contents.entry(key).or_insert(hash) != hash {
                    return Err(format!(
                        "node{from} seals two contents under one key: #{}",
                        subject.message.0
                    ));
                }
            }
        }
        Ok(())
    }

    /// What a ticket says, if its destination can still open it.
    fn content_key(
        &mut self,
        nodes: &[VirtualNode],
        (from, to): Ends,
        subject: Subject,
        ticket: &[u8],
    ) -> Option<[u8; 16]> {
        let (source, destination) = (nodes[from].id, &nodes[to].shared);
        let incarnations = SealIncarnations::of(ticket)?;
        let share = || destination.signer.as_ref()?.share_with(source);
        let secret = match self.secrets.get(&(from, to)) {
            Some(secret) => secret.clone(),
            None => self.secrets.entry((from, to)).or_insert(share()?).clone(),
        };
        let mut ticket = ticket.to_vec();
        let opened = Seal::new(secret, destination.incarnation_id(), incarnations.source)?;
        let opened = opened.open(subject, &mut ticket).ok()?;
        let key = ContentKey::decode(opened.get(NUMBERS_LEN..)?)?.encode();
        key.first_chunk().copied()
    }
}
