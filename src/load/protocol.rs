//! What the load speaks.

use std::io;

use super::link::{Connection, Link, Security};

/// Names one message of the load; travels in what the protocol matches answers by.
pub type Ticket = u64;

/// What a link is for. Topics are numbers; a publisher has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Publishes on a topic.
    Publisher(usize),
    /// Is subscribed to a topic.
    Subscriber(usize),
    /// Neither.
    Idle,
}

/// What a frame means to the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A message to one, which was answered at once.
    Request,
    /// A message to all came.
    Delivered(Ticket),
    /// What became of a message.
    Answered {
        /// Which one.
        ticket: Ticket,
        /// 0 if it was taken; else the protocol's error.
        code: i32,
    },
    /// Nothing that counts.
    Nothing,
}

/// A protocol that relays requests and multicasts between links.
pub trait Protocol {
    /// Whether a message to all is answered, too.
    const MULTICASTS_ARE_ANSWERED: bool;

    /// Opens a connection up to where messages can be sent.
    fn connect(&self, address: &str, security: &Security, role: Role) -> io::Result<Connection>;

    /// Appends a message to one.
    fn request(&self, topic: usize, ticket: Ticket, out: &mut Vec<u8>);

    /// Appends a message to all.
    fn multicast(&self, topic: usize, ticket: Ticket, out: &mut Vec<u8>);

    /// Appends what keeps a link alive.
    fn heartbeat(&self, out: &mut Vec<u8>);

    /// Length of the frame at the beginning of `bytes`, once that can be told.
    fn frame_len(&self, bytes: &[u8]) -> io::Result<Option<usize>>;

    /// Looks at a whole frame; a request is answered over `link`.
    fn handle(&self, frame: &[u8], link: &mut Link) -> Seen;
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A ticket as sixteen hexadecimal digits.
pub fn encode_ticket(ticket: Ticket) -> [u8; 16] {
    let mut digits = [0; 16];
    for (place, digit) in digits.iter_mut().enumerate() {
        *digit = HEX[(ticket >> (60 - 4 * place)) as usize & 15];
    }
    digits
}

/// The same back; `None` if these are no such digits.
pub fn decode_ticket(digits: &[u8]) -> Option<Ticket> {
    digits.first_chunk::<16>()?.iter().try_fold(0, |ticket, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(ticket << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_survives_its_digits() {
        for ticket in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(decode_ticket(&encode_ticket(ticket)), Some(ticket));
        }
        assert_eq!(decode_ticket(b"0123456789abcdeg"), None);
        assert_eq!(decode_ticket(b"0123"), None);
    }
}
