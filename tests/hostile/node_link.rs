//! A link to a node's port for nodes whose peer has a good certificate, and says what it likes.

use std::io::Write;

use amop::internal::{
    pki::Profile,
    tls::{
        config::client_config,
        identity::{Identity, Roots},
        settings::TlsSettings,
    },
};

use crate::support::{RawSdk, TestNode, host_dir};

/// The identity of the `index`th node.
pub(crate) fn identity(index: usize) -> Identity {
    let conf = host_dir(Profile::Ec).join(format!("node{index}/conf"));
    Identity::load(&conf.join("node.crt"), &conf.join("node.key")).unwrap()
}

/// Frames that begin with their length, as those of both dialects do.
pub(crate) struct RawNodeLink {
    link: RawSdk,
    received: Vec<u8>,
}

impl RawNodeLink {
    /// With the certificate of the `index`th node; nothing is said yet.
    pub(crate) fn connect(index: usize, node: &TestNode) -> Self {
        let roots = Roots::load(&host_dir(Profile::Ec).join("node0/conf/ca.crt")).unwrap();
        let config = client_config(&identity(index), &roots, &TlsSettings::default()).unwrap();
        let link = RawSdk::connect_with(config, node.node().p2p_address()).expect("its certificate is good");
        Self { link, received: Vec::new() }
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        let records = self.link.seal(bytes);
        // The node may have closed already.
        let _ = self.link.socket.write_all(&records);
    }

    /// The next frame; `None` once the node has closed the link.
    pub(crate) fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(len) = self.received.first_chunk::<4>().map(|len| u32::from_be_bytes(*len) as usize)
                && len <= self.received.len()
            {
                return Some(self.received.drain(..len).collect());
            }
            self.received.extend(self.link.record()?);
        }
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        while self.frame().is_some() {}
        true
    }
}
