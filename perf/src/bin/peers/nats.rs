//! nats-server as the peer: its client protocol, in the shapes of `amop bench`.

use std::{error::Error, io, path::PathBuf};

use amop::{
    client::Certificates,
    internal::load::{
        Connection, Link, Protocol, Records, Role, Security, Seen, Ticket, decode_ticket, encode_ticket,
    },
};
use clap::Args;

use super::LoadArgs;

#[derive(Args)]
pub(crate) struct NatsArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Directory with ca.crt, sdk.crt and sdk.key; without it the server has no TLS.
    #[arg(long, short = 'c')]
    certs: Option<PathBuf>,
    /// Publish to all subscribers instead of asking one.
    #[arg(long)]
    multicast: bool,
    /// Write each message by itself, and read each TLS record by itself, as `amop bench --sdk-shape` does. The server
    /// shares records among messages all the same.
    #[arg(long, requires = "certs")]
    sdk_shape: bool,
}

pub(crate) fn load(args: &NatsArgs) -> Result<(), Box<dyn Error>> {
    let records = if args.sdk_shape { Records::OneByOne } else { Records::Shared };
    let security = match &args.certs {
        None => Security::Plain,
        Some(certs) => Security::Tls { config: Certificates::load(certs)?.tls(), records },
    };
    let payload = vec![b'x'; args.load.payload.max(16)];
    args.load.run(Nats { payload }, &security, args.multicast)
}

struct Nats {
    payload: Vec<u8>,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Length of the line at the beginning, its end included.
fn line_len(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1)
}

fn number(digits: &[u8]) -> Option<usize> {
    digits
        .iter()
        .try_fold(0usize, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + usize::from(digit - b'0')))
}

/// The words of a message's first line.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.trim_ascii_end().split(|&byte| byte == b' ').filter(|word| !word.is_empty())
}

const INBOX: &str = "_INBOX.";

impl Nats {
    fn publish(&self, out: &mut Vec<u8>, payload: &[u8]) {
        out.extend_from_slice(payload.len().to_string().as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }
}

impl Protocol for Nats {
    const MULTICASTS_ARE_ANSWERED: bool = false;

    fn connect(&self, address: &str, security: &Security, role: Role) -> io::Result<Connection> {
        let mut connection = Connection::new(address)?;
        connection.read(|bytes| Ok(line_len(bytes)))?;
        connection.secure(security)?;
        let subscribe = match role {
            Role::Publisher(topic) => format!("SUB {INBOX}{topic}.* 1\r\n"),
            Role::Subscriber(topic) => format!("SUB bench.{topic} 1\r\n"),
            Role::Idle => String::new(),
        };
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\"version\":\"1\",\"protocol\":1}}\r\n{subscribe}PING\r\n"
        );
        connection.write(hello.as_bytes())?;
        loop {
            let line = connection.read(|bytes| Ok(line_len(bytes)))?;
            match line.as_slice() {
                b"PONG\r\n" => return Ok(connection),
                line if line.starts_with(b"-ERR") => {
                    return Err(invalid(&String::from_utf8_lossy(line)));
                }
                _ => {}
            }
        }
    }

    fn request(&self, topic: usize, ticket: Ticket, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("PUB bench.{topic} {INBOX}{topic}.").as_bytes());
        out.extend_from_slice(&encode_ticket(ticket));
        out.push(b' ');
        self.publish(out, &self.payload);
    }

    fn multicast(&self, topic: usize, ticket: Ticket, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("PUB bench.{topic} ").as_bytes());
        let start = out.len();
        self.publish(out, &self.payload);
        let payload = start + line_len(&out[start..]).unwrap_or(0);
        out[payload..payload + 16].copy_from_slice(&encode_ticket(ticket));
    }

    fn heartbeat(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PING\r\n");
    }

    fn frame_len(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(line) = line_len(bytes) else { return Ok(None) };
        if bytes.starts_with(b"-ERR") {
            return Err(invalid(&String::from_utf8_lossy(&bytes[..line])));
        }
        if !bytes.starts_with(b"MSG ") {
            return Ok(Some(line));
        }
        let digits = bytes[..line - 2].rsplit(|&byte| byte == b' ').next().unwrap_or_default();
        let payload = number(digits).ok_or_else(|| invalid("a message without its length"))?;
        let len = line + payload + 2;
        Ok((len <= bytes.len()).then_some(len))
    }

    fn handle(&self, frame: &[u8], link: &mut Link) -> Seen {
        if frame == b"PING\r\n" {
            link.frame().extend_from_slice(b"PONG\r\n");
            return Seen::Nothing;
        }
        let Some(line) = line_len(frame) else { return Seen::Nothing };
        if !frame.starts_with(b"MSG ") {
            return Seen::Nothing;
        }
        let payload = &frame[line..frame.len() - 2];
        let mut words = words(&frame[..line]).skip(1);
        let (subject, reply) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
        if words.next().is_some() {
            let out = link.frame();
            out.extend_from_slice(b"PUB ");
            out.extend_from_slice(reply);
            out.push(b' ');
            self.publish(out, payload);
            return Seen::Request;
        }
        if subject.starts_with(INBOX.as_bytes()) {
            let ticket = subject.rsplit(|&byte| byte == b'.').next().and_then(decode_ticket);
            return ticket.map_or(Seen::Nothing, |ticket| Seen::Answered { ticket, code: 0 });
        }
        decode_ticket(payload).map_or(Seen::Nothing, Seen::Delivered)
    }
}
