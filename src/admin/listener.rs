//! Where the endpoint listens: on an address, by a Unix socket, or both.
//!
//! Whoever may write to the socket's file may ask: its mode says who that is. A file that a node has left is replaced, one by which
//! somebody answers is not, and what is no socket is nobody's to remove.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::fs::Mode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    AdminError,
    access::{Access, AccessFiles},
};

/// Bytes of a socket's path (`sun_path` without its end).
pub(crate) const PATH_LEN_MAX: usize = 107;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The socket by which programs on this machine ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketFile {
    /// Its path.
    pub path: PathBuf,
    /// Who may write to it, and so may ask.
    pub mode: u32,
}

/// Where the endpoint listens, before it is opened.
pub(crate) struct AdminListener {
    pub(super) address: Option<(TcpListener, SocketAddr)>,
    pub(super) socket: Option<Socket>,
    pub(super) access: Access,
}

impl AdminListener {
    /// Reads what is asked of others, and takes the address, or the service manager's socket in its place, and the socket's file;
    /// nobody is answered yet. None if neither is wanted.
    pub(crate) fn bind(
        address: Option<(IpAddr, u16)>,
        inherited: Option<TcpListener>,
        socket: Option<&SocketFile>,
        access: &AccessFiles,
    ) -> Result<Option<Self>, AdminError> {
        let access = Access::read(access)?;
        let address = address.map(|wanted| bind_address(wanted, inherited, &access)).transpose()?;
        let socket = socket.map(Socket::bind).transpose()?;
        let is_any = address.is_some() || socket.is_some();
        Ok(is_any.then_some(Self { address, socket, access }))
    }
}

fn bind_address(
    (ip, port): (IpAddr, u16),
    inherited: Option<TcpListener>,
    access: &Access,
) -> Result<(TcpListener, SocketAddr), AdminError> {
    let wanted = SocketAddr::new(ip, port);
    let bind = || {
        let listener = match inherited {
            Some(inherited) => inherited,
            None => TcpListener::bind(wanted)?,
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let (listener, address) = bind().map_err(|source| AdminError::Listen { address: wanted, source })?;
    if !address.ip().to_canonical().is_loopback() && !access.is_guarded() {
        return Err(AdminError::Unguarded { address });
    }
    Ok((listener, address))
}

/// A socket on which somebody listens, and its file.
pub(super) struct Socket {
    listener: UnixListener,
    path: SocketPath,
}

/// A socket's file, which goes with this.
pub(super) struct SocketPath {
    path: PathBuf,
    /// Of the file: another one may have its place by now.
    identity: Option<(u64, u64)>,
}

impl Socket {
    fn bind(file: &SocketFile) -> Result<Self, AdminError> {
        let path = file.path.clone();
        let bound = remove_left(&path).and_then(|()| bind_socket(file));
        match bound {
            Ok(listener) => Ok(Self { listener, path: SocketPath { identity: identity(&path), path } }),
            Err(source) => Err(AdminError::ListenPath { path, source }),
        }
    }

    pub(super) fn into_parts(self) -> (UnixListener, SocketPath) {
        (self.listener, self.path)
    }
}

impl SocketPath {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn bind_socket(file: &SocketFile) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    // The file never has more rights than this, also before they are set to just these.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(file.mode))?;
    socket.bind(&socket2::SockAddr::unix(&file.path)?)?;
    fs::set_permissions(&file.path, fs::Permissions::from_mode(file.mode))?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes a socket's file by which nobody answers.
fn remove_left(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file is there that is no socket"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            _ => Err(io::ErrorKind::AddrInUse.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// What the endpoint reads from and writes to.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The listeners of the open endpoint.
pub(super) struct Listeners {
    address: Option<tokio::net::TcpListener>,
    socket: Option<tokio::net::UnixListener>,
}

/// A connection, and from where it comes.
pub(super) struct Accepted {
    pub(super) stream: Box<dyn Stream>,
    /// Loopback where it comes by the socket.
    pub(super) peer: IpAddr,
    /// Whether the socket's mode has let it in.
    pub(super) is_by_socket: bool,
}

impl Listeners {
    /// In the runtime that will accept.
    pub(super) fn new(address: Option<TcpListener>, socket: Option<UnixListener>) -> io::Result<Self> {
        Ok(Self {
            address: address.map(tokio::net::TcpListener::from_std).transpose()?,
            socket: socket.map(tokio::net::UnixListener::from_std).transpose()?,
        })
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        let by_address = async {
            match &self.address {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        let by_socket = async {
            match &self.socket {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = by_address => {
                let (stream, peer) = accepted?;
                Ok(Accepted { stream: Box::new(stream), peer: peer.ip(), is_by_socket: false })
            }
            accepted = by_socket => {
                let (stream, _) = accepted?;
                let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
                Ok(Accepted { stream: Box::new(stream), peer, is_by_socket: true })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir) -> SocketFile {
        SocketFile { path: dir.path().join("admin.sock"), mode: 0o660 }
    }

    #[test]
    fn a_socket_that_a_node_has_left_is_replaced_and_one_that_answers_or_is_none_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir);
        let first = Socket::bind(&file).unwrap();
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o660);
        let refused = Socket::bind(&file).err().expect("the first one listens");
        assert!(refused.to_string().contains("is another node running"), "{refused}");
        assert!(UnixStream::connect(&file.path).is_ok());
        // As a node does that is killed.
        let left = dir.path().join("left");
        fs::rename(&file.path, &left).unwrap();
        drop(first);
        fs::rename(&left, &file.path).unwrap();
        assert!(UnixStream::connect(&file.path).is_err());
        let second = Socket::bind(&file).unwrap();
        assert!(UnixStream::connect(&file.path).is_ok());
        // Another one has its place: that is not removed.
        fs::remove_file(&file.path).unwrap();
        fs::write(&file.path, "x").unwrap();
        drop(second);
        let refused = Socket::bind(&file).err().expect("a file is there");
        assert!(refused.to_string().contains("a file is there that is no socket"), "{refused}");
        assert_eq!(fs::read(&file.path).unwrap(), b"x");
    }

    #[test]
    fn a_socket_goes_with_its_node() {
        let dir = tempfile::tempdir().unwrap();
        drop(Socket::bind(&file(&dir)).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
