//! A directory as `build_chain.sh` lays it out, ready to start.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    certificate::{Authority, Issued, KeyType, PkiError, Validity},
    plan::{Layout, NetworkPlan, Profile},
};
use crate::files::{Unnamed, directory, write_new};

/// Builds all under `out`, or nothing: it is made beside it and moved there when it is whole. With
/// `force` it replaces a network that is there, and nothing else.
pub fn build_network(plan: &NetworkPlan, out: &Path) -> Result<(), PkiError> {
    if out.exists() && !plan.force {
        return Err(PkiError::Exists(out.to_owned()));
    }
    if out.exists() && !out.join("cert/ca.crt").is_file() {
        return Err(PkiError::NotANetwork(out.to_owned()));
    }
    plan.check()?;
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_dir(parent)?;
    let making = tempfile::Builder::new()
        .prefix(".amop-pki-")
        .tempdir_in(parent)
        .map_err(|source| PkiError::File { path: parent.to_owned(), source })?;
    build_in(plan, making.path())?;
    let failed = |source| PkiError::File { path: out.to_owned(), source };
    fs::set_permissions(making.path(), fs::Permissions::from_mode(0o755)).map_err(failed)?;
    // The old network goes only when the new one is in its place. The directories that are not kept are
    // removed when their handles go.
    let aside = tempfile::Builder::new()
        .prefix(".amop-pki-")
        .tempdir_in(parent)
        .map_err(|source| PkiError::File { path: parent.to_owned(), source })?;
    let old = aside.path().join("old");
    let replaces = out.exists();
    if replaces {
        fs::rename(out, &old).map_err(failed)?;
    }
    if let Err(source) = fs::rename(making.path(), out) {
        if replaces {
            let _ = fs::rename(&old, out);
        }
        return Err(failed(source));
    }
    // Moved away: there is nothing to remove any more.
    let _ = making.keep();
    Ok(())
}

fn build_in(plan: &NetworkPlan, out: &Path) -> Result<(), PkiError> {
    let validity = Validity::days(plan.days);
    let chain = Authority::root(KeyType::Secp256k1, "chain", validity)?;
    let agency = chain.agency(&plan.agency, validity)?;
    let cert = out.join("cert");
    write_pair(&cert, "ca", &chain.issued, &[])?;
    let agency_dir = cert.join(&plan.agency);
    write_pair(&agency_dir, "agency", &agency.issued, &[&chain.issued])?;
    write_public(&agency_dir.join("ca.crt"), &chain.issued.certificate)?;
    let channel = match plan.profile {
        Profile::Rsa => {
            let authority = Authority::root(KeyType::Rsa2048, &plan.agency, validity)?;
            write_pair(&agency_dir.join("channel"), "ca", &authority.issued, &[])?;
            Some(Channel { authority, layout: plan.layout })
        }
        Profile::Ec => None,
    };
    let above = [&agency.issued, &chain.issued];
    for host in &plan.hosts {
        let host_dir = out.join(host.directory());
        for index in 0..host.nodes {
            let conf = host_dir.join(format!("node{index}")).join("conf");
            let node = agency.leaf(&format!("node{index}"), "node", validity)?;
            let node_cert = match plan.layout {
                Layout::V2 => conf.clone(),
                Layout::V3 => conf.join("node_cert"),
            };
            write_pair(&node_cert, "node", &node, &above)?;
            write_public(&node_cert.join("ca.crt"), &chain.issued.certificate)?;
            write_public(&node_cert.join("node.nodeid"), &format!("{}\n", node.node_id.unwrap_or_default()))?;
            if let Some(channel) = &channel {
                channel.write_node(&conf, validity)?;
            }
            let node_dir = host_dir.join(format!("node{index}"));
            write_public(&node_dir.join("config.ini"), &plan.config_ini(index))?;
            write_script(&node_dir.join("start.sh"), &of_node(include_str!("scripts/start.sh")))?;
            write_script(&node_dir.join("stop.sh"), &of_node(include_str!("scripts/stop.sh")))?;
        }
        let sdk = host_dir.join("sdk");
        match &channel {
            Some(channel) => channel.write(&sdk, "sdk", validity)?,
            None => {
                write_pair(&sdk, "sdk", &agency.leaf("sdk", "sdk", validity)?, &above)?;
                write_public(&sdk.join("ca.crt"), &chain.issued.certificate)?;
            }
        }
        let starts = "Starts all nodes of this machine, at the same time.
# Exit status: 0 all are up; 1 one is not: what it says tells why.";
        let stops = "Stops all nodes of this machine, at the same time.
# Exit status: 0 none runs; 1 one still does: what it says tells why.";
        write_script(&host_dir.join("start_all.sh"), &of_all("start.sh", starts))?;
        write_script(&host_dir.join("stop_all.sh"), &of_all("stop.sh", stops))?;
    }
    Ok(())
}

/// The authority of RSA certificates for applications and what they connect to.
struct Channel {
    authority: Authority,
    layout: Layout,
}

impl Channel {
    /// A node's, below its `conf`.
    fn write_node(&self, conf: &Path, validity: Validity) -> Result<(), PkiError> {
        match self.layout {
            Layout::V2 => self.write(&conf.join("channel_cert"), "node", validity),
            Layout::V3 => self.write(conf, "ssl", validity),
        }
    }

    /// A new certificate `NAME.crt` with its key, and `ca.crt`.
    fn write(&self, directory: &Path, name: &str, validity: Validity) -> Result<(), PkiError> {
        let leaf = match self.layout {
            Layout::V2 => self.authority.channel_leaf("FISCO-BCOS", validity)?,
            Layout::V3 => self.authority.rsa_leaf("FISCO-BCOS", validity)?,
        };
        write_pair(directory, name, &leaf, &[])?;
        write_public(&directory.join("ca.crt"), &self.authority.issued.certificate)
    }
}

/// A script of one node, with what all of those begin with.
fn of_node(script: &str) -> String {
    script.replace("@node.sh@\n", include_str!("scripts/node.sh"))
}

/// A script that runs one of each node's.
fn of_all(script: &str, what: &str) -> String {
    include_str!("scripts/all.sh").replace("@script@", script).replace("@what@", what)
}

/// Writes `NAME.crt` (the certificate and those above it) and `NAME.key` into `dir`, which is made; fails
/// if there is one of them.
pub fn write_pair(dir: &Path, name: &str, issued: &Issued, above: &[&Issued]) -> Result<(), PkiError> {
    create_dir(dir)?;
    for file in [format!("{name}.crt"), format!("{name}.key")] {
        if dir.join(&file).exists() {
            return Err(PkiError::Exists(dir.join(file)));
        }
    }
    let chain: String = std::iter::once(issued)
        .chain(above.iter().copied())
        .map(|issued| issued.certificate.as_str())
        .collect();
    write_public(&dir.join(format!("{name}.crt")), &chain)?;
    write_private(&dir.join(format!("{name}.key")), &issued.key).inspect_err(|_| {
        // Of no use without its key, and in the way of the next try.
        let _ = fs::remove_file(dir.join(format!("{name}.crt")));
    })
}

fn create_dir(dir: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(dir).map_err(|source| PkiError::File { path: dir.to_owned(), source })
}

/// Writes a file that only its owner may read; fails if there is one.
pub fn write_private(path: &Path, content: &str) -> Result<(), PkiError> {
    write(path, content, 0o600)
}

/// Writes a file that anybody may read; fails if there is one.
pub fn write_public(path: &Path, content: &str) -> Result<(), PkiError> {
    write(path, content, 0o644)
}

/// Puts a new file in the place of one that may be there, in one step; that one is kept as `NAME.old`.
pub fn renew_public(path: &Path, content: &str) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: path.to_owned(), source };
    create_dir(directory(path))?;
    let new = |bytes: &[u8]| Unnamed::write(directory(path), bytes, 0o644).map_err(failed);
    let mut old = path.as_os_str().to_owned();
    old.push(".old");
    match fs::read(path) {
        Ok(bytes) => new(&bytes)?.replace(Path::new(&old)).map_err(failed)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    new(content.as_bytes())?.replace(path).map_err(failed)
}

fn write_script(path: &Path, content: &str) -> Result<(), PkiError> {
    write(path, content, 0o755)
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), PkiError> {
    create_dir(directory(path))?;
    write_new(path, content.as_bytes(), mode).map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => PkiError::Exists(PathBuf::from(path)),
        _ => PkiError::File { path: path.to_owned(), source },
    })
}
