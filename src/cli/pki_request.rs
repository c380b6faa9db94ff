//! `amop pki csr` and `amop pki sign`: a certificate for a key that stays where it was made.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};

use super::{
    Failure,
    pki::{Root, days_range, read_pem},
};
use crate::{
    escape::{shown, shown_path},
    pki::{Authority, ExistingKey, KeyType, PkiError, Request, Validity, write_private, write_public},
};

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// A node.
    Node,
    /// An application, or what a node reaches ledger nodes with.
    Sdk,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Sdk => "sdk",
        }
    }
}

#[derive(Args)]
pub(super) struct CsrArgs {
    /// Its name.
    #[arg(long)]
    name: String,
    /// Where to.
    #[arg(long, short_alias = 'o', value_name = "DIR")]
    out: PathBuf,
    #[arg(long, value_enum, default_value = "node")]
    kind: Kind,
    /// A key of the RSA profile, for conf/channel_cert or applications, instead of secp256k1.
    #[arg(long)]
    rsa: bool,
}

#[derive(Args)]
pub(super) struct SignArgs {
    /// The request.
    #[arg(value_name = "FILE")]
    request: PathBuf,
    /// Directory of the issuer: agency.crt, agency.key and ca.crt; or ca.crt and ca.key of an RSA channel.
    #[arg(long, value_name = "DIR")]
    agency: PathBuf,
    /// Where to.
    #[arg(long, short_alias = 'o', value_name = "DIR")]
    out: PathBuf,
    #[arg(long, value_enum, default_value = "node")]
    kind: Kind,
    /// Its name, instead of the common name that the request asks for.
    #[arg(long)]
    name: Option<String>,
    /// Days that it is good for.
    #[arg(long, default_value_t = 36_500, value_parser = days_range())]
    days: u64,
}

/// Makes a request, and a key if there is none.
pub(super) fn csr(args: &CsrArgs) -> Result<ExitCode, Failure> {
    let kind = args.kind.name();
    let (key_file, request_file) =
        (args.out.join(format!("{kind}.key")), args.out.join(format!("{kind}.csr")));
    if std::fs::symlink_metadata(&request_file).is_ok() {
        return Err(PkiError::Exists(request_file).into());
    }
    let is_there = key_file.is_file();
    let key = match is_there {
        true => ExistingKey::load(&key_file)?,
        false => ExistingKey::generate(if args.rsa { KeyType::Rsa2048 } else { KeyType::Secp256k1 })?,
    };
    let request = key.request(&args.name, kind)?;
    let node_id = key.node_id();
    if node_id.is_none() && args.kind == Kind::Node && !args.rsa {
        return Err(PkiError::KeyType { path: key_file, wanted: "the curve secp256k1" }.into());
    }
    if !is_there {
        write_private(&key_file, &key.pem()?)?;
    }
    write_public(&request_file, &request)?;
    line!("made {}{}", shown_path(&request_file), if is_there { ", for the key that is there" } else { "" })?;
    if let Some(id) = node_id {
        line!("  {}: {id}", if args.kind == Kind::Node { "node id" } else { "public key" })?;
    }
    line!(
        "  send it to the agency, which signs it: amop pki sign {kind}.csr --agency DIR --out OUT --kind {kind}"
    )?;
    line!(
        "  then put the {kind}.crt and ca.crt that it makes beside {}; the key stays here",
        shown_path(&key_file)
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Signs a request.
pub(super) fn sign(args: &SignArgs) -> Result<ExitCode, Failure> {
    let file = |name: &str| args.agency.join(name);
    let kind = args.kind.name();
    let request = Request::load(&args.request)?;
    let is_agency = file("agency.key").is_file();
    let issuer = if is_agency {
        Authority::load(&file("agency.crt"), &file("agency.key"))?
    } else {
        Authority::load(&file("ca.crt"), &file("ca.key"))?
    };
    issuer.takes_request(&request, &args.request)?;
    if !is_agency && !issuer.is_rsa() {
        return Err(no_agency(&args.agency));
    }
    let name = args.name.clone().unwrap_or_else(|| request.common_name());
    let leaf = issuer.sign(&request, (&name, kind), Validity::days(args.days))?;
    let (chain, root) = match is_agency {
        true => {
            let root = read_pem(&file("ca.crt"))?;
            (format!("{leaf}{}{root}", issuer.issued.certificate), root)
        }
        false => (leaf, issuer.issued.certificate.clone()),
    };
    let root = Root::new(&args.out, &root);
    let certificate = format!("{kind}.crt");
    root.ensure_room(&[&certificate])?;
    write_public(&args.out.join(&certificate), &chain)?;
    root.write()?;
    line!("signed {}: {}", shown_path(&args.request), shown_path(&args.out.join(&certificate)))?;
    line!("  name: {}", shown(&name))?;
    if let Some(id) = request.node_id() {
        line!("  {}: {id}", if args.kind == Kind::Node { "node id" } else { "public key" })?;
        line!(
            "  compare it with what `amop pki csr` has shown to whoever asks: a request can be exchanged on its way"
        )?;
    }
    line!("  send {certificate} and ca.crt back; they are no secret")?;
    Ok(ExitCode::SUCCESS)
}

/// What is told of a chain's own directory.
pub(super) fn no_agency(directory: &Path) -> Failure {
    format!(
        "{}: certificates of nodes and applications come from an agency; make one with `amop pki agency`",
        shown_path(directory)
    )
    .into()
}
