//! `amop pki`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    help::examples,
    output::OutputArgs,
    pki_request::{CsrArgs, SignArgs, csr, no_agency, sign},
};
use crate::{
    encoding,
    escape::{Shown, shown_json, shown_path},
    pki::{
        Authority, DAYS_MAX, ExistingKey, Host, Issued, KeyType, Layout, NetworkPlan, PkiError, Profile,
        Validity, build_network, renew_public, write_pair, write_private, write_public,
    },
    tls::identity,
};

#[derive(Args)]
#[command(after_help = examples(
    &[
        ("amop pki network -l 127.0.0.1:4 --out nodes", "a whole network"),
        ("amop pki node --agency nodes/cert/agency --name node4 --out node4/conf", "one more node"),
        ("amop pki show nodes/127.0.0.1/sdk/sdk.crt", "what a certificate says"),
    ],
    &[],
))]
pub(super) struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Subcommand)]
enum PkiCommand {
    /// Make the directories of a whole network, as build_chain.sh lays them out.
    #[command(after_help = examples(
        &[
            ("amop pki network", "four nodes on this machine, in ./nodes"),
            ("amop pki network -l 10.0.0.1:2,10.0.0.2:2 --out nodes", "two nodes on each of two machines"),
            ("amop pki network --profile ec", "applications with secp256k1 certificates"),
            ("amop pki network --layout 3.x", "applications of FISCO BCOS 3.x: conf/ssl.crt and so on"),
            ("amop node -c nodes/127.0.0.1/node0/config.ini", "then"),
        ],
        &[
        ],
    ))]
    Network(NetworkArgs),
    /// Make a chain CA: DIR/ca.crt and DIR/ca.key.
    #[command(after_help = examples(
        &[("amop pki chain --name consortium --out chain", ""), ("amop pki chain --rsa --out channel", "for applications")],
        &[],
    ))]
    Chain {
        /// Where to.
        #[arg(long, short_alias = 'o', value_name = "DIR")]
        out: PathBuf,
        /// Its name.
        #[arg(long, default_value = "chain")]
        name: String,
        /// For the channel's RSA profile instead of secp256k1.
        #[arg(long)]
        rsa: bool,
        /// Days that it is good for.
        #[arg(long, default_value_t = 36_500, value_parser = days_range())]
        days: u64,
    },
    /// Make an agency below a chain CA: DIR/agency.crt, DIR/agency.key and DIR/ca.crt.
    #[command(after_help = examples(&[("amop pki agency --chain chain --name bank --out bank", "")], &[]))]
    Agency {
        /// Directory with ca.crt and ca.key.
        #[arg(long, value_name = "DIR")]
        chain: PathBuf,
        /// Its name.
        #[arg(long)]
        name: String,
        /// Where to.
        #[arg(long, short_alias = 'o', value_name = "DIR")]
        out: PathBuf,
        /// Days that it is good for.
        #[arg(long, default_value_t = 36_500, value_parser = days_range())]
        days: u64,
    },
    /// Make a node's certificate: DIR/node.crt, node.key, node.nodeid and ca.crt.
    #[command(after_help = examples(
        &[
            ("amop pki node --agency nodes/cert/agency --name node4 --out node4/conf", "one more node of a network that `amop pki network` made"),
            ("amop pki node --agency nodes/cert/agency/channel --name node4 --out node4/conf/channel_cert", "and its certificate for applications"),
            ("amop pki node --agency nodes/cert/agency --name node0 --out nodes/127.0.0.1/node0/conf", "renew: the node keeps its key and with it its id; kill -HUP has it used without a restart"),
        ],
        &[
            "Where DIR/node.key is there already, it is certified again, and the old certificate is kept as \
             node.crt.old. --key FILE certifies a key from elsewhere.",
        ],
    ))]
    Node(LeafArgs),
    /// Make an application's certificate: DIR/sdk.crt, sdk.key and ca.crt.
    #[command(after_help = examples(
        &[
            ("amop pki sdk --agency nodes/cert/agency --name shop --out shop", ""),
            ("amop pki sdk --agency nodes/cert/agency/channel --name shop --out shop", "of the RSA profile"),
        ],
        &[
            "Where DIR/sdk.key is there already, it is certified again, and the old certificate is kept as \
             sdk.crt.old. --key FILE certifies a key from elsewhere.",
        ],
    ))]
    Sdk(LeafArgs),
    /// Make a request for a certificate, and a key if there is none: DIR/node.csr and node.key.
    #[command(after_help = examples(
        &[
            ("amop pki csr --name node4 --out node4/conf", "on the node's machine: makes node.key, which stays there, and node.csr"),
            ("amop pki sign node.csr --agency nodes/cert/agency --out signed", "at the agency: makes node.crt and ca.crt"),
            ("cp signed/node.crt signed/ca.crt node4/conf", "on the node's machine again"),
            ("amop node -c node4/config.ini --check", ""),
        ],
        &[
            "For applications, and for [ledger] certificates: --kind sdk. With the RSA profile: --rsa, and the \
             agency's `channel` directory to sign. A request that openssl req made does as well.",
        ],
    ))]
    Csr(CsrArgs),
    /// Sign a request for a certificate: DIR/node.crt and ca.crt.
    #[command(after_help = examples(
        &[
            ("amop pki sign node.csr --agency nodes/cert/agency --out signed", ""),
            ("amop pki sign sdk.csr --kind sdk --agency nodes/cert/agency/channel --out signed", ""),
        ],
        &[
            "What is issued is a certificate like those of `amop pki node` and `amop pki sdk`, whatever else the \
             request asks for. Its key is proven by the request; whose it is, is not: compare the node id that \
             both commands show.",
        ],
    ))]
    Sign(SignArgs),
    /// Show what a certificate file holds.
    #[command(after_help = examples(
        &[("amop pki show nodes/127.0.0.1/node0/conf/node.crt", ""), ("amop pki show sdk.crt -o json", "")],
        &[],
    ))]
    Show {
        /// PEM file.
        file: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// How many days a certificate may be good for.
pub(super) fn days_range() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=DAYS_MAX)
}

#[derive(Args)]
struct LeafArgs {
    /// Directory of the issuer: agency.crt, agency.key and ca.crt; or ca.crt and ca.key of an RSA channel.
    #[arg(long, value_name = "DIR")]
    agency: PathBuf,
    /// Its name.
    #[arg(long)]
    name: String,
    /// Where to.
    #[arg(long, short_alias = 'o', value_name = "DIR")]
    out: PathBuf,
    /// Certify this key instead of a new one: PEM without a password. It is copied to DIR if it is not there.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Days that it is good for.
    #[arg(long, default_value_t = 36_500, value_parser = days_range())]
    days: u64,
}

#[derive(Args)]
struct NetworkArgs {
    /// Where nodes run: address:count, several with commas between.
    #[arg(
        help_heading = "Nodes",
        long,
        short,
        value_name = "ADDRESS:COUNT",
        value_delimiter = ',',
        default_value = "127.0.0.1:4"
    )]
    listen: Vec<Host>,
    /// The directory to make.
    #[arg(long, short_alias = 'o', value_name = "DIR", default_value = "nodes")]
    out: PathBuf,
    /// Certificates of the channel to applications.
    #[arg(help_heading = "Certificates", long, value_enum, default_value = "rsa")]
    profile: ProfileArg,
    /// Whose names the files for applications have. Applications of FISCO BCOS 2.x and 3.x connect with either.
    #[arg(help_heading = "Certificates", long, value_enum, default_value = "2.x")]
    layout: LayoutArg,
    /// Name of the agency that the nodes belong to.
    #[arg(long, default_value = "agency")]
    agency: String,
    /// First port for nodes.
    #[arg(help_heading = "Nodes", long, default_value_t = 30300)]
    p2p_port: u16,
    /// First port for applications.
    #[arg(help_heading = "Nodes", long, default_value_t = 20200)]
    channel_port: u16,
    /// Address on which nodes listen: 0.0.0.0 unless said, or :: where a host has an IPv6 address.
    #[arg(help_heading = "Nodes", long, value_name = "IP")]
    listen_ip: Option<String>,
    /// Id of the chain.
    #[arg(help_heading = "Certificates", long, default_value = "1")]
    chain_id: String,
    /// Days that certificates are good for.
    #[arg(long, default_value_t = 36_500, value_parser = days_range())]
    days: u64,
    /// Replace the directory if it exists, with all keys in it.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProfileArg {
    /// RSA-2048, as build_chain.sh does by default.
    Rsa,
    /// secp256k1, as build_chain.sh -R does.
    Ec,
}

#[derive(Clone, Copy, ValueEnum)]
enum LayoutArg {
    /// FISCO BCOS 2.x: conf/channel_cert.
    #[value(name = "2.x")]
    V2,
    /// FISCO BCOS 3.x: conf/ca.crt, ssl.crt, ssl.key, with what is for other nodes in conf/node_cert.
    #[value(name = "3.x")]
    V3,
}

pub(super) fn run(args: &PkiArgs) -> Result<ExitCode, super::Failure> {
    match &args.command {
        PkiCommand::Network(args) => {
            let plan = NetworkPlan {
                hosts: args.listen.clone(),
                profile: match args.profile {
                    ProfileArg::Rsa => Profile::Rsa,
                    ProfileArg::Ec => Profile::Ec,
                },
                layout: match args.layout {
                    LayoutArg::V2 => Layout::V2,
                    LayoutArg::V3 => Layout::V3,
                },
                agency: args.agency.clone(),
                p2p_port: args.p2p_port,
                channel_port: args.channel_port,
                listen_ip: args.listen_ip.clone().unwrap_or_else(|| {
                    let has_v6 = args.listen.iter().any(|host| host.address.starts_with('['));
                    if has_v6 { "::".to_owned() } else { "0.0.0.0".to_owned() }
                }),
                chain_id: args.chain_id.clone(),
                days: args.days,
                force: args.force,
            };
            build_network(&plan, &args.out)?;
            let host = args.out.join(args.listen[0].directory());
            line!("made {}", shown_path(&args.out))?;
            line!("  run a node:   amop node -c {}", shown_path(&host.join("node0/config.ini")))?;
            line!("  applications: amop sub TOPIC -C {}", shown_path(&host.join("sdk")))?;
            line!("  keep {} safe: it can make more nodes", shown_path(&args.out.join("cert")))?;
            Ok(ExitCode::SUCCESS)
        }
        PkiCommand::Chain { out, name, rsa, days } => {
            let key_type = if *rsa { KeyType::Rsa2048 } else { KeyType::Secp256k1 };
            let chain = Authority::root(key_type, name, Validity::days(*days))?;
            write_pair(out, "ca", &chain.issued, &[])?;
            made(out)
        }
        PkiCommand::Agency { chain, name, out, days } => {
            let authority = Authority::load(&chain.join("ca.crt"), &chain.join("ca.key"))?;
            if authority.is_rsa() {
                return Err(
                    "the RSA profile has no agencies: give its ca.crt and ca.key to `amop pki sdk`".into()
                );
            }
            let agency = authority.agency(name, Validity::days(*days))?;
            let root = Root::new(out, &authority.issued.certificate);
            root.ensure_room(&["agency.crt", "agency.key"])?;
            write_pair(out, "agency", &agency.issued, &[&authority.issued])?;
            root.write()?;
            made(out)
        }
        PkiCommand::Node(args) => leaf(args, "node"),
        PkiCommand::Sdk(args) => leaf(args, "sdk"),
        PkiCommand::Csr(args) => csr(args),
        PkiCommand::Sign(args) => sign(args),
        PkiCommand::Show { file, output } => show(file, *output),
    }
}

fn made(out: &Path) -> Result<ExitCode, super::Failure> {
    line!("made {}", shown_path(out))?;
    Ok(ExitCode::SUCCESS)
}

fn leaf(args: &LeafArgs, kind: &str) -> Result<ExitCode, super::Failure> {
    let file = |name: &str| args.agency.join(name);
    let mut validity = Validity::days(args.days);
    if let Some(not_before) = begin_of(&args.out.join(format!("{kind}.crt"))) {
        validity = validity.replacing(not_before);
    }
    let own_key = args.out.join(format!("{kind}.key"));
    let key_file = args.key.clone().or_else(|| own_key.is_file().then(|| own_key.clone()));
    let existing = key_file.map(|path| Ok::<_, PkiError>((ExistingKey::load(&path)?, path))).transpose()?;
    let is_agency = file("agency.key").is_file();
    let issuer = if is_agency {
        Authority::load(&file("agency.crt"), &file("agency.key"))?
    } else {
        Authority::load(&file("ca.crt"), &file("ca.key"))?
    };
    if let Some((key, path)) = &existing {
        issuer.takes(key, path)?;
    }
    let (issued, above, root) = if is_agency {
        let root = read_pem(&file("ca.crt"))?;
        let issued = match &existing {
            Some((key, _)) => issuer.certify_leaf(key, &args.name, kind, validity)?,
            None => issuer.leaf(&args.name, kind, validity)?,
        };
        let top = Issued { certificate: root.clone(), key: String::new(), node_id: None };
        (issued, vec![issuer.issued.clone(), top], root)
    } else if issuer.is_rsa() {
        let issued = match &existing {
            Some((key, _)) => issuer.certify_channel_leaf(key, &args.name, validity)?,
            None => issuer.channel_leaf(&args.name, validity)?,
        };
        (issued, Vec::new(), issuer.issued.certificate.clone())
    } else {
        return Err(no_agency(&args.agency));
    };
    if let Some((key, _)) = &existing {
        return renew(args, kind, key, &issued, &above, &root);
    }
    let root = Root::new(&args.out, &root);
    let node_id = issued.node_id.as_ref().filter(|_| kind == "node");
    let (certificate, key) = (format!("{kind}.crt"), format!("{kind}.key"));
    root.ensure_room(&[&certificate, &key])?;
    root.ensure_room(if node_id.is_some() { &["node.nodeid"] } else { &[] })?;
    write_pair(&args.out, kind, &issued, &above.iter().collect::<Vec<_>>())?;
    root.write()?;
    if let Some(id) = node_id {
        write_public(&args.out.join("node.nodeid"), &format!("{id}\n"))?;
    }
    made(&args.out)
}

/// The `ca.crt` of a directory that files are to be written to.
pub(super) struct Root<'a> {
    dir: &'a Path,
    certificate: &'a str,
    /// Whether this very one is there.
    is_there: bool,
}

impl<'a> Root<'a> {
    pub(super) fn new(dir: &'a Path, certificate: &'a str) -> Self {
        let is_there = fs::read(dir.join("ca.crt")).is_ok_and(|there| there == certificate.as_bytes());
        Self { dir, certificate, is_there }
    }

    /// Refuses to write where the root of others, or one of these files, is: before any is written.
    pub(super) fn ensure_room(&self, files: &[&str]) -> Result<(), PkiError> {
        let root = (!self.is_there).then_some("ca.crt");
        let paths = files.iter().copied().chain(root).map(|name| self.dir.join(name));
        let taken = paths.into_iter().find(|path| fs::symlink_metadata(path).is_ok());
        taken.map_or(Ok(()), |path| Err(PkiError::Exists(path)))
    }

    pub(super) fn write(&self) -> Result<(), PkiError> {
        if self.is_there {
            return Ok(());
        }
        write_public(&self.dir.join("ca.crt"), self.certificate)
    }
}

/// From when on the certificate is good that lies there; `None` if none does.
fn begin_of(certificate: &Path) -> Option<SystemTime> {
    let first = identity::certificates(&fs::read(certificate).ok()?, certificate).ok()?.into_iter().next()?;
    let (_, certificate) = X509Certificate::from_der(&first).ok()?;
    let seconds = u64::try_from(certificate.validity().not_before.timestamp()).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

pub(super) fn read_pem(path: &Path) -> Result<String, super::Failure> {
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", shown_path(path));
    let bytes = fs::read(path).map_err(|error| at(&error))?;
    let pem = encoding::pem(&bytes).map_err(|error| at(&error))?;
    Ok(String::from_utf8_lossy(&pem).into_owned())
}

/// Writes a certificate for a key that exists, in the place of an older one for it.
fn renew(
    args: &LeafArgs,
    kind: &str,
    key: &ExistingKey,
    issued: &Issued,
    above: &[Issued],
    root: &str,
) -> Result<ExitCode, super::Failure> {
    let out = |name: &str| args.out.join(name);
    let (certificate, own_key) = (out(&format!("{kind}.crt")), out(&format!("{kind}.key")));
    if certificate.is_file() && !key.is_of(&certificate)? {
        return Err(PkiError::AnotherKey(certificate).into());
    }
    if own_key.is_file() && !is_same_key(&own_key, issued)? {
        return Err(PkiError::Exists(own_key).into());
    }
    let is_renewed = certificate.is_file();
    let chain: String =
        std::iter::once(issued).chain(above).map(|issued| issued.certificate.as_str()).collect();
    renew_public(&certificate, &chain)?;
    if !own_key.is_file() {
        write_private(&own_key, &issued.key)?;
    }
    // What the operator trusts is not changed by renewing a certificate.
    if !out("ca.crt").is_file() {
        write_public(&out("ca.crt"), root)?;
    }
    if let Some(id) = issued.node_id.as_ref().filter(|_| kind == "node" && !out("node.nodeid").is_file()) {
        write_public(&out("node.nodeid"), &format!("{id}\n"))?;
    }
    if is_renewed {
        line!(
            "renewed {}: the key stays; the old certificate is kept as {kind}.crt.old",
            shown_path(&certificate)
        )?;
        line!("  a node takes it without a restart: kill -HUP, or amop node --check first")?;
        return Ok(ExitCode::SUCCESS);
    }
    made(&args.out)
}

/// Whether a key file holds the key that was certified.
fn is_same_key(path: &Path, issued: &Issued) -> Result<bool, PkiError> {
    ExistingKey::load(path)?.has_pem(&issued.key)
}

/// What is shown of a certificate.
#[derive(Serialize)]
struct ShownCertificate {
    subject: String,
    issuer: String,
    version: u32,
    not_before: String,
    not_after: String,
    /// `secp256k1`, another curve's number, or how many bits.
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<String>,
}

impl ShownCertificate {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let spki = certificate.public_key();
        let point: &[u8] = &spki.subject_public_key.data;
        let is_elliptic = spki.algorithm.algorithm.to_id_string() == "1.2.840.10045.2.1";
        let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        let curve = curve.map(|oid| oid.to_id_string()).filter(|_| is_elliptic);
        let (key, node_id) = match (curve.as_deref(), point) {
            (Some("1.3.132.0.10"), [4, id @ ..]) if id.len() == 64 => {
                ("secp256k1".to_owned(), Some(base16ct::lower::encode_string(id)))
            }
            (Some(curve), _) => (format!("elliptic curve {curve}"), None),
            (None, _) => (format!("{} bits", spki.parsed().map_or(0, |key| key.key_size())), None),
        };
        let (subject, issuer) = (certificate.subject().to_string(), certificate.issuer().to_string());
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.to_string(), validity.not_after.to_string());
        Self { subject, issuer, version: certificate.version().0 + 1, not_before, not_after, key, node_id }
    }
}

fn show(file: &Path, output: OutputArgs) -> Result<ExitCode, super::Failure> {
    let bytes = fs::read(file).map_err(|error| format!("{}: {error}", shown_path(file)))?;
    let mut certificates = Vec::new();
    for der in identity::certificates(&bytes, file)? {
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|error| format!("{}: {error}", shown_path(file)))?;
        certificates.push(ShownCertificate::of(&certificate));
    }
    if output.is_json() {
        let json = serde_json::json!({ "certificates": certificates });
        line!("{}", shown_json(&json.to_string()))?;
        return Ok(ExitCode::SUCCESS);
    }
    for certificate in certificates {
        line!("subject:   {}", Shown(&certificate.subject))?;
        line!("issuer:    {}", Shown(&certificate.issuer))?;
        line!("version:   {}", certificate.version)?;
        line!("valid:     {} to {}", certificate.not_before, certificate.not_after)?;
        line!("key:       {}", certificate.key)?;
        if let Some(id) = certificate.node_id {
            line!("node id:   {id}")?;
        }
        line!("")?;
    }
    Ok(ExitCode::SUCCESS)
}
