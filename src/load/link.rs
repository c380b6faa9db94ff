//! One connection of the load: bytes ⇄ frames, through our own record layer or none.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use rustls::ClientConfig;

use crate::{
    engine::streams::Outputs,
    tls::{
        Established,
        handshake::Handshake,
        record::{ContentType, HEADER_LEN, Opened, Opener, PLAINTEXT_LEN_MAX, Sealer, record_len},
    },
};

/// How long connecting, and each step of opening a link, may take.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(20);

/// Where records are written one by one and the kernel takes no more, so much of what was sealed stays among what waits, in bytes.
const SEALED_KEPT_MAX: usize = 1 << 20;

/// How a link's bytes are protected.
#[derive(Clone)]
pub enum Security {
    /// Not at all.
    Plain,
    /// TLS.
    Tls {
        /// Identity, roots, versions and suites.
        config: Arc<ClientConfig>,
        /// How frames travel in it.
        records: Records,
    },
}

/// How a link's frames travel in TLS records, and those in writes and reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// Frames that are due together share records, writes and reads.
    Shared,
    /// Each frame has records of its own. Those that are due together share writes and reads.
    Own,
    /// Each frame has records of its own, and each record its own write and its own reads, as OpenSSL has it unless
    /// told otherwise: one of the header, one of the rest.
    OneByOne,
}

/// A connected socket whose peer is ready, before it is given to the ring.
pub struct Connection {
    /// Blocking.
    pub socket: TcpStream,
    keys: Option<Keys>,
    /// Plaintext that came and is not taken yet.
    received: Vec<u8>,
    /// Records, or parts of one, that came and are not opened yet.
    records: Vec<u8>,
}

struct Keys {
    sealer: Sealer,
    opener: Opener,
    records: Records,
}

/// What is said of a link that the node ended.
pub(super) const CLOSED: &str = "the node closed a link";

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Makes a TLS connection of a blocking socket that was dialled.
pub fn shake_hands(socket: &mut (impl Read + Write), config: &Arc<ClientConfig>) -> io::Result<Established> {
    let failed = |error: &dyn std::fmt::Display| invalid(&format!("the TLS handshake failed: {error}"));
    let mut handshake = Handshake::client(config.clone()).map_err(|error| failed(&error))?;
    let mut bytes = vec![0; 16 * 1024];
    loop {
        socket.write_all(&handshake.take_output())?;
        if handshake.is_complete() {
            return handshake.finish().map_err(|error| failed(&error));
        }
        let len = match socket.read(&mut bytes) {
            // By what the kernel still does for a ring that this thread has made.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if len == 0 {
            return Err(failed(&"the node closed the connection; are the certificates of its chain?"));
        }
        if let Err(error) = handshake.handle_received(&bytes[..len]) {
            // An alert that tells the node what is wrong. It may have closed already.
            let _ = socket.write_all(&handshake.take_output());
            return Err(failed(&error));
        }
    }
}

impl Connection {
    /// A connection that is not protected yet.
    pub fn new(address: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(address)
            .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(CONNECT_WITHIN))?;
        Ok(Self { socket, keys: None, received: Vec::new(), records: Vec::new() })
    }

    /// Protects it from here on.
    pub fn secure(&mut self, security: &Security) -> io::Result<()> {
        let Security::Tls { config, records } = security else { return Ok(()) };
        let established = shake_hands(&mut self.socket, config)?;
        self.received = established.plaintext;
        self.records = established.received;
        let (sealer, opener) = (established.sealer, established.opener);
        self.keys = Some(Keys { sealer, opener, records: *records });
        Ok(())
    }

    pub(super) fn is_one_by_one(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.records == Records::OneByOne)
    }

    /// Sends and waits until it is with the kernel.
    pub fn write(&mut self, plaintext: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        match &mut self.keys {
            Some(keys) => seal(&mut keys.sealer, plaintext, &mut out)?,
            None => out.extend_from_slice(plaintext),
        }
        self.socket.write_all(&out)
    }

    /// Waits until `take` finds what it looks for at the beginning of what came; it gives how many bytes that is.
    pub fn read(&mut self, mut take: impl FnMut(&[u8]) -> io::Result<Option<usize>>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            self.open()?;
            if let Some(len) = take(&self.received)? {
                let rest = self.received.split_off(len);
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err(invalid("the node closed the connection")),
                Ok(len) if self.keys.is_some() => self.records.extend_from_slice(&bytes[..len]),
                Ok(len) => self.received.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(io::Error::new(ErrorKind::TimedOut, "the node does not answer"));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn open(&mut self) -> io::Result<()> {
        let Some(keys) = &mut self.keys else { return Ok(()) };
        let mut rest = self.records.as_mut_slice();
        let mut done = 0;
        while let Some(len) = record_len(rest).map_err(|error| invalid(&error.to_string()))? {
            if len > rest.len() {
                break;
            }
            let (record, others) = rest.split_at_mut(len);
            match keys.opener.open_in_place(record) {
                Ok(Opened::Data(plaintext)) => self.received.extend_from_slice(plaintext),
                Ok(Opened::Nothing) => {}
                Ok(Opened::CloseNotify) => return Err(invalid("the node closed the connection")),
                Err(error) => return Err(invalid(&error.to_string())),
            }
            done += len;
            rest = others;
        }
        self.records.drain(..done);
        Ok(())
    }
}

/// A connection that a ring owns, or watches if its records are written and read one by one.
pub struct Link {
    stream: usize,
    keys: Option<Keys>,
    /// Plaintext of which a frame is not complete.
    frames: Vec<u8>,
    /// The beginning of a record.
    record: Vec<u8>,
    /// Plaintext that goes out at the end of the turn.
    gathered: Vec<u8>,
    /// Where its frames end, if each has records of its own.
    ends: VecDeque<usize>,
    one_by_one: Option<OneByOne>,
    pub(super) is_touched: bool,
    /// Whether records may lie in its socket that nobody reads but us.
    pub(super) is_readable: bool,
}

/// What a link needs that writes and reads by itself.
struct OneByOne {
    /// Does not block.
    socket: TcpStream,
    /// The record that is being written …
    record: Vec<u8>,
    /// … and how much of it the kernel has.
    written: usize,
    /// How much of what is gathered was sealed.
    sealed: usize,
}

impl Link {
    pub(super) fn new(stream: usize, connection: Connection) -> Self {
        let is_one_by_one = connection.is_one_by_one();
        let Connection { socket, keys, received, records } = connection;
        let one_by_one =
            is_one_by_one.then(|| OneByOne { socket, record: Vec::new(), written: 0, sealed: 0 });
        Self {
            stream,
            keys,
            frames: received,
            record: records,
            gathered: Vec::new(),
            ends: VecDeque::new(),
            one_by_one,
            is_touched: false,
            is_readable: false,
        }
    }

    /// Where to append one frame; it goes out at the end of the turn.
    pub fn frame(&mut self) -> &mut Vec<u8> {
        if self.keys.as_ref().is_some_and(|keys| keys.records != Records::Shared) && !self.gathered.is_empty()
        {
            self.ends.push_back(self.gathered.len());
        }
        &mut self.gathered
    }

    /// Seals what was appended.
    pub(super) fn flush(&mut self, outputs: &mut Outputs) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        if self.one_by_one.is_some() {
            return self.write_one_by_one();
        }
        let out = outputs.of(self.stream);
        match &mut self.keys {
            None => out.extend_from_slice(&self.gathered),
            Some(keys) => {
                let mut start = 0;
                self.ends.push_back(self.gathered.len());
                for end in self.ends.drain(..) {
                    seal(&mut keys.sealer, &self.gathered[start..end], out)?;
                    start = end;
                }
            }
        }
        self.gathered.clear();
        Ok(())
    }

    /// Seals and writes one record after the other, until all is with the kernel or it takes no more.
    fn write_one_by_one(&mut self) -> io::Result<()> {
        let (Some(keys), Some(out)) = (&mut self.keys, &mut self.one_by_one) else { return Ok(()) };
        if self.ends.back() != Some(&self.gathered.len()) {
            self.ends.push_back(self.gathered.len());
        }
        if out.sealed > SEALED_KEPT_MAX {
            self.gathered.drain(..out.sealed);
            self.ends.iter_mut().for_each(|end| *end -= out.sealed);
            out.sealed = 0;
        }
        loop {
            while out.written < out.record.len() {
                match out.socket.write(&out.record[out.written..]) {
                    Ok(len) => out.written += len,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            out.record.clear();
            out.written = 0;
            let Some(&end) = self.ends.front() else { break };
            let next = end.min(out.sealed + PLAINTEXT_LEN_MAX);
            seal(&mut keys.sealer, &self.gathered[out.sealed..next], &mut out.record)?;
            out.sealed = next;
            if next == end {
                self.ends.pop_front();
            }
        }
        out.sealed = 0;
        self.gathered.clear();
        Ok(())
    }

    /// Reads the next record and no byte of another one; `false` if it is not all there. `handle` is told under
    /// `handle_bytes`.
    pub(super) fn read_one(
        &mut self,
        mut handle: impl FnMut(&[u8], &mut Self) -> io::Result<usize>,
    ) -> io::Result<bool> {
        let Some(one_by_one) = &mut self.one_by_one else { return Ok(false) };
        loop {
            let (have, wanted) = (self.record.len(), len_of(&self.record)?.unwrap_or(HEADER_LEN));
            if have == wanted {
                break;
            }
            self.record.resize(wanted, 0);
            let read = one_by_one.socket.read(&mut self.record[have..]);
            self.record.truncate(have + read.as_ref().map_or(0, |&len| len));
            match read {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, CLOSED)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.handle_whole_record(&mut handle)?;
        Ok(true)
    }

    /// Bytes off the socket. `handle` gets the plaintext from the beginning of a frame on, appends what it wants to
    /// send, and gives how many bytes of it were whole frames.
    pub(super) fn handle_bytes(
        &mut self,
        mut bytes: &mut [u8],
        mut handle: impl FnMut(&[u8], &mut Self) -> io::Result<usize>,
    ) -> io::Result<()> {
        if self.keys.is_none() {
            return self.handle_plaintext(bytes, &mut handle);
        }
        while !self.record.is_empty() && !bytes.is_empty() {
            let wanted = match len_of(&self.record)? {
                Some(len) => len - self.record.len(),
                None => HEADER_LEN - self.record.len(),
            };
            let (taken, rest) = bytes.split_at_mut(wanted.min(bytes.len()));
            self.record.extend_from_slice(taken);
            bytes = rest;
            if len_of(&self.record)? == Some(self.record.len()) {
                self.handle_whole_record(&mut handle)?;
            }
        }
        while let Some(len) = len_of(bytes)? {
            if len > bytes.len() {
                break;
            }
            let (record, rest) = bytes.split_at_mut(len);
            bytes = rest;
            self.handle_record(record, &mut handle)?;
        }
        self.record.extend_from_slice(bytes);
        Ok(())
    }

    fn handle_whole_record(
        &mut self,
        handle: &mut impl FnMut(&[u8], &mut Self) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut record = std::mem::take(&mut self.record);
        self.handle_record(&mut record, handle)?;
        record.clear();
        self.record = record;
        Ok(())
    }

    fn handle_record(
        &mut self,
        record: &mut [u8],
        handle: &mut impl FnMut(&[u8], &mut Self) -> io::Result<usize>,
    ) -> io::Result<()> {
        let Some(keys) = &mut self.keys else { return Ok(()) };
        match keys.opener.open_in_place(record) {
            Ok(Opened::Data(plaintext)) => self.handle_plaintext(plaintext, handle),
            Ok(Opened::Nothing) => Ok(()),
            Ok(Opened::CloseNotify) => Err(invalid("the node closed the connection")),
            Err(error) => Err(invalid(&error.to_string())),
        }
    }

    fn handle_plaintext(
        &mut self,
        plaintext: &[u8],
        handle: &mut impl FnMut(&[u8], &mut Self) -> io::Result<usize>,
    ) -> io::Result<()> {
        if self.frames.is_empty() {
            let done = handle(plaintext, self)?;
            self.frames.extend_from_slice(&plaintext[done..]);
            return Ok(());
        }
        self.frames.extend_from_slice(plaintext);
        let mut frames = std::mem::take(&mut self.frames);
        let done = handle(&frames, self)?;
        frames.drain(..done);
        self.frames = frames;
        Ok(())
    }
}

fn len_of(bytes: &[u8]) -> io::Result<Option<usize>> {
    record_len(bytes).map_err(|error| invalid(&error.to_string()))
}

fn seal(sealer: &mut Sealer, plaintext: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    for part in plaintext.chunks(PLAINTEXT_LEN_MAX) {
        sealer
            .seal(ContentType::ApplicationData, &[part], out)
            .map_err(|error| invalid(&error.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustls::ProtocolVersion;

    use super::*;
    use crate::tls::record::Aead;

    /// A link over one end of a pair of sockets, and what the other end has.
    struct Pair {
        link: Link,
        peer: UnixStream,
        sealer: Sealer,
        opener: Opener,
    }

    impl Pair {
        fn new(kind: SocketType, records: Records) -> Self {
            let (here, peer) = socketpair(AddressFamily::UNIX, kind, SocketFlags::NONBLOCK, None).unwrap();
            let [sealer, other] = [(); 2].map(|()| {
                Sealer::from_secrets(ProtocolVersion::TLSv1_2, Aead::Aes128Gcm, &[7; 16], [0; 12], 0).unwrap()
            });
            let [opener, others] = [(); 2].map(|()| {
                Opener::from_secrets(ProtocolVersion::TLSv1_2, Aead::Aes128Gcm, &[7; 16], [0; 12], 0).unwrap()
            });
            let connection = Connection {
                socket: here.into(),
                keys: Some(Keys { sealer, opener, records }),
                received: Vec::new(),
                records: Vec::new(),
            };
            Self { link: Link::new(0, connection), peer: peer.into(), sealer: other, opener: others }
        }

        /// Lengths of the plaintexts in each write that has come, as its records have them.
        fn writes(&mut self) -> Vec<Vec<usize>> {
            let (mut bytes, mut writes) = (vec![0; 1 << 20], Vec::new());
            while let Ok(len) = self.peer.read(&mut bytes) {
                let (mut rest, mut lens) = (&mut bytes[..len], Vec::new());
                while !rest.is_empty() {
                    let (record, others) = rest.split_at_mut(record_len(rest).unwrap().unwrap());
                    match self.opener.open_in_place(record).unwrap() {
                        Opened::Data(plaintext) => lens.push(plaintext.len()),
                        _ => panic!("no data"),
                    }
                    rest = others;
                }
                writes.push(lens);
            }
            writes
        }
    }

    const FRAMES: [usize; 3] = [10, 40_000, 20];
    const RECORDS: [usize; 5] =
        [10, PLAINTEXT_LEN_MAX, PLAINTEXT_LEN_MAX, 40_000 - 2 * PLAINTEXT_LEN_MAX, 20];

    #[test]
    fn one_by_one_each_frame_has_records_and_each_record_a_write_of_its_own_whatever_the_kernel_takes_at_once()
     {
        // Its reads keep writes apart.
        let mut pair = Pair::new(SocketType::SEQPACKET, Records::OneByOne);
        let (mut flushes, mut writes) = (0, Vec::new());
        for _ in 0..100 {
            for len in FRAMES {
                let frame = pair.link.frame();
                frame.resize(frame.len() + len, 1);
            }
            pair.link.flush(&mut Outputs::default()).unwrap();
        }
        let wanted: Vec<Vec<usize>> = [RECORDS; 100].iter().flatten().map(|&len| vec![len]).collect();
        while writes.len() < wanted.len() {
            flushes += 1;
            writes.extend(pair.writes());
            pair.link.flush(&mut Outputs::default()).unwrap();
        }
        assert_eq!(writes, wanted);
        assert!(flushes > 1 && pair.link.gathered.is_empty());
    }

    #[test]
    fn one_by_one_a_read_takes_no_byte_of_the_next_record() {
        let mut pair = Pair::new(SocketType::STREAM, Records::OneByOne);
        let mut sealed = Vec::new();
        let ends = FRAMES.map(|len| {
            seal(&mut pair.sealer, &vec![1; len], &mut sealed).unwrap();
            sealed.len()
        });
        let left =
            |link: &Link| rustix::io::ioctl_fionread(&link.one_by_one.as_ref().unwrap().socket).unwrap();
        let mut seen = Vec::new();
        let mut read = |link: &mut Link| {
            link.read_one(|plaintext, _| {
                seen.push(plaintext.len());
                Ok(plaintext.len())
            })
        };
        // Of the first record half the header, the rest of it and half of what follows; then the others.
        for part in [0..3, 3..20] {
            pair.peer.write_all(&sealed[part]).unwrap();
            assert!(!read(&mut pair.link).unwrap());
            assert_eq!(left(&pair.link), 0);
        }
        pair.peer.write_all(&sealed[20..]).unwrap();
        assert!(read(&mut pair.link).unwrap());
        assert_eq!(left(&pair.link) as usize, sealed.len() - ends[0]);
        for _ in 1..RECORDS.len() {
            assert!(read(&mut pair.link).unwrap());
        }
        assert!(!read(&mut pair.link).unwrap());
        drop(pair.peer);
        assert_eq!(read(&mut pair.link).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(seen, RECORDS);
    }
}
