//! `amop pki`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum};

use crate::pki::{Host, NetworkPlan, Profile, build_network};

#[derive(Args)]
pub(super) struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Subcommand)]
enum PkiCommand {
    /// Make the directories of a whole network, as build_chain.sh lays them out.
    #[command(after_help = "\
Examples:
  amop pki network                                    four nodes on this machine, in ./nodes
  amop pki network -l 10.0.0.1:2,10.0.0.2:2 -o nodes  two nodes on each of two machines
  amop pki network --profile ec                       applications with secp256k1 certificates

Then: amop node -c nodes/127.0.0.1/node0/config.ini")]
    Network(NetworkArgs),
    /// Show what a certificate file holds.
    Show {
        /// PEM file.
        file: PathBuf,
    },
}

#[derive(Args)]
struct NetworkArgs {
    /// Where nodes run: address:count, several with commas between.
    #[arg(long, short, value_name = "ADDRESS:COUNT", value_delimiter = ',', default_value = "127.0.0.1:4")]
    listen: Vec<Host>,
    /// The directory to make.
    #[arg(long, short, value_name = "DIR", default_value = "nodes")]
    out: PathBuf,
    /// Certificates of the channel to applications.
    #[arg(long, value_enum, default_value = "rsa")]
    profile: ProfileArg,
    /// Name of the agency that the nodes belong to.
    #[arg(long, default_value = "agency")]
    agency: String,
    /// First port for nodes.
    #[arg(long, default_value_t = 30300)]
    p2p_port: u16,
    /// First port for applications.
    #[arg(long, default_value_t = 20200)]
    channel_port: u16,
    /// Address on which nodes listen.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    listen_ip: String,
    /// Id of the chain.
    #[arg(long, default_value = "1")]
    chain_id: String,
    /// Days that certificates are good for.
    #[arg(long, default_value_t = 36_500)]
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

pub(super) fn run(args: &PkiArgs) -> Result<ExitCode, super::Failure> {
    match &args.command {
        PkiCommand::Network(args) => {
            let plan = NetworkPlan {
                hosts: args.listen.clone(),
                profile: match args.profile {
                    ProfileArg::Rsa => Profile::Rsa,
                    ProfileArg::Ec => Profile::Ec,
                },
                agency: args.agency.clone(),
                p2p_port: args.p2p_port,
                channel_port: args.channel_port,
                listen_ip: args.listen_ip.clone(),
                chain_id: args.chain_id.clone(),
                days: args.days,
                force: args.force,
            };
            build_network(&plan, &args.out)?;
            let host = args.out.join(args.listen[0].address.trim_matches(['[', ']']));
            println!("made {}", args.out.display());
            println!("  run a node:   amop node -c {}", host.join("node0/config.ini").display());
            println!("  applications: amop sub TOPIC -c {}", host.join("sdk").display());
            println!("  keep {} safe: it can make more nodes", args.out.join("cert").display());
            Ok(ExitCode::SUCCESS)
        }
        PkiCommand::Show { file } => show(file),
    }
}

fn show(file: &Path) -> Result<ExitCode, super::Failure> {
    use x509_parser::pem::Pem;
    let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut any = false;
    for pem in Pem::iter_from_buffer(&bytes).filter_map(Result::ok).filter(|pem| pem.label == "CERTIFICATE") {
        let certificate = pem.parse_x509().map_err(|error| format!("{}: {error}", file.display()))?;
        let spki = certificate.public_key();
        println!("subject:   {}", certificate.subject());
        println!("issuer:    {}", certificate.issuer());
        println!("version:   {}", certificate.version().0 + 1);
        println!("valid:     {} to {}", certificate.validity().not_before, certificate.validity().not_after);
        let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        match curve.map(|oid| oid.to_id_string()).as_deref() {
            Some("1.3.132.0.10") => {
                let point: &[u8] = &spki.subject_public_key.data;
                let id: String = point[1..].iter().map(|byte| format!("{byte:02x}")).collect();
                println!("key:       secp256k1\nnode id:   {id}");
            }
            Some(other) => println!("key:       elliptic curve {other}"),
            None => println!("key:       {} bits", spki.parsed().map_or(0, |key| key.key_size())),
        }
        println!();
        any = true;
    }
    if !any {
        return Err(format!("{}: no certificate in this file", file.display()).into());
    }
    Ok(ExitCode::SUCCESS)
}
