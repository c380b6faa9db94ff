//! One application's link: TLS with our own record layer, blocking.

use std::{
    error::Error,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use amop::internal::{
    load::shake_hands,
    tls::record::{ContentType, Opened, Opener, PLAINTEXT_LEN_MAX, Sealer, record_len},
    wire::sdk::{HEADER_LEN, Header},
};
use rustls::ClientConfig;

/// Bytes read at once.
const READ_LEN: usize = 256 * 1024;

/// Connects; gives the two directions.
pub(super) fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
) -> Result<(Writer, Reader), Box<dyn Error>> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let done = shake_hands(&mut socket, config)?;
    let reading = socket.try_clone()?;
    let writer = Writer { socket, sealer: done.sealer, out: Vec::new() };
    let reader =
        Reader { socket: reading, opener: done.opener, received: done.received, plaintext: done.plaintext };
    Ok((writer, reader))
}

/// The sending direction.
pub(super) struct Writer {
    socket: TcpStream,
    sealer: Sealer,
    out: Vec<u8>,
}

impl Writer {
    /// Adds a frame to what the next flush sends; it starts a record of its own.
    pub(super) fn add(&mut self, frame: &[u8]) -> Result<(), Box<dyn Error>> {
        for piece in frame.chunks(PLAINTEXT_LEN_MAX) {
            self.sealer.seal(ContentType::ApplicationData, &[piece], &mut self.out)?;
        }
        Ok(())
    }

    /// Sends what was added.
    pub(super) fn flush(&mut self) -> Result<(), Box<dyn Error>> {
        self.socket.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Ends the connection, also for the reader.
    pub(super) fn close(&self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// The receiving direction.
pub(super) struct Reader {
    socket: TcpStream,
    opener: Opener,
    /// Records, or the beginning of one.
    received: Vec<u8>,
    /// Frames, or the beginning of one.
    plaintext: Vec<u8>,
}

impl Reader {
    /// Waits for bytes and lends each frame that is whole then to `handle`. `false` once the connection is closed.
    pub(super) fn read(&mut self, mut handle: impl FnMut(&Header, &[u8])) -> Result<bool, Box<dyn Error>> {
        let filled = self.received.len();
        self.received.resize(filled + READ_LEN, 0);
        let read = match self.socket.read(&mut self.received[filled..]) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error.into()),
        };
        self.received.truncate(filled + read);
        if read == 0 {
            return Ok(false);
        }
        let mut at = 0;
        while let Some(len) = record_len(&self.received[at..])? {
            if len > self.received.len() - at {
                break;
            }
            if let Opened::Data(data) = self.opener.open_in_place(&mut self.received[at..at + len])? {
                self.plaintext.extend_from_slice(data);
            }
            at += len;
        }
        self.received.drain(..at);
        let mut at = 0;
        while let Some(header) = Header::decode(&self.plaintext[at..]) {
            let len = header.len as usize;
            if len > self.plaintext.len() - at {
                break;
            }
            handle(&header, &self.plaintext[at + HEADER_LEN..at + len]);
            at += len;
        }
        self.plaintext.drain(..at);
        Ok(true)
    }
}
