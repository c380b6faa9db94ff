//! One connection of the load: bytes ⇄ frames, through our own record layer or none.

use std::{
    io::{self, Read, Write},
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
        record::{ContentType, Opened, Opener, PLAINTEXT_LEN_MAX, Sealer, record_len},
    },
};

/// How long connecting, and each step of opening a link, may take.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(20);

/// How a link's bytes are protected.
#[derive(Clone)]
pub enum Security {
    /// Not at all.
    Plain,
    /// TLS; frames that are due together share records if that is said, else each has records of its own.
    Tls {
        /// Identity, roots, versions and suites.
        config: Arc<ClientConfig>,
        /// Whether what we send may share records.
        shared_records: bool,
    },
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
    shared_records: bool,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
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
        let len = socket.read(&mut bytes)?;
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
        let Security::Tls { config, shared_records } = security else { return Ok(()) };
        let established = shake_hands(&mut self.socket, config)?;
        self.received = established.plaintext;
        self.records = established.received;
        let (sealer, opener) = (established.sealer, established.opener);
        self.keys = Some(Keys { sealer, opener, shared_records: *shared_records });
        Ok(())
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the node does not answer"));
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

/// A connection that a ring owns.
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
    ends: Vec<usize>,
    pub(super) is_touched: bool,
}

impl Link {
    pub(super) fn new(stream: usize, connection: Connection) -> Self {
        let Connection { keys, received, records, .. } = connection;
        Self {
            stream,
            keys,
            frames: received,
            record: records,
            gathered: Vec::new(),
            ends: Vec::new(),
            is_touched: false,
        }
    }

    /// Where to append one frame; it goes out at the end of the turn.
    pub fn frame(&mut self) -> &mut Vec<u8> {
        if self.keys.as_ref().is_some_and(|keys| !keys.shared_records) && !self.gathered.is_empty() {
            self.ends.push(self.gathered.len());
        }
        &mut self.gathered
    }

    /// Seals what was appended.
    pub(super) fn flush(&mut self, outputs: &mut Outputs) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let out = outputs.of(self.stream);
        match &mut self.keys {
            None => out.extend_from_slice(&self.gathered),
            Some(keys) => {
                let mut start = 0;
                self.ends.push(self.gathered.len());
                for end in self.ends.drain(..) {
                    seal(&mut keys.sealer, &self.gathered[start..end], out)?;
                    start = end;
                }
            }
        }
        self.gathered.clear();
        Ok(())
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
                None => crate::tls::record::HEADER_LEN - self.record.len(),
            };
            let (taken, rest) = bytes.split_at_mut(wanted.min(bytes.len()));
            self.record.extend_from_slice(taken);
            bytes = rest;
            if len_of(&self.record)? == Some(self.record.len()) {
                let mut record = std::mem::take(&mut self.record);
                self.handle_record(&mut record, &mut handle)?;
                record.clear();
                self.record = record;
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
