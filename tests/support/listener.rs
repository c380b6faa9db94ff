//! A TLS listener of a scripted program, with a thread of its own.

use std::{net::SocketAddr, path::Path};

use amop::internal::{
    tls::{
        config::server_config,
        identity::{Identity, Roots},
        settings::TlsSettings,
        verify::IssuerPolicy,
    },
    wire::NodeId,
};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::TlsAcceptor;

/// Where connections come in, and what they are served with.
pub struct TlsListener {
    pub identity: Identity,
    pub roots: Roots,
    pub acceptor: TlsAcceptor,
    pub runtime: Runtime,
    pub listener: TcpListener,
    pub address: SocketAddr,
}

impl TlsListener {
    /// With `node.crt`, `node.key` and `ca.crt` of a directory, at an address or where the kernel likes.
    pub fn start(dir: &Path, at: Option<SocketAddr>) -> Self {
        let identity = Identity::load(&dir.join("node.crt"), &dir.join("node.key")).expect("an identity");
        let roots = Roots::load(&dir.join("ca.crt")).expect("roots");
        let tls = server_config(&identity, &roots, &TlsSettings::default(), IssuerPolicy::default());
        let acceptor = TlsAcceptor::from(tls.expect("a configuration").serving(true));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = {
            let _entered = runtime.enter();
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_reuse_address(true).expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            let at = at.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
            socket.bind(&at.into()).expect("the address is free");
            socket.listen(1_024).expect("the address is free");
            TcpListener::from_std(socket.into()).expect("a listener")
        };
        let address = listener.local_addr().expect("an address");
        Self { identity, roots, acceptor, runtime, listener, address }
    }
}

/// The key on a curve in a certificate, if it has one: the id of a node, or of an application.
pub fn key_of(certificate: &[u8]) -> Option<NodeId> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let point: &[u8] = &certificate.public_key().subject_public_key.data;
    point.strip_prefix(&[4])?.try_into().ok().map(NodeId)
}
