//! Arguments that every client command has.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::client::{Certificates, Client, ClientOptions, Dialect, Messages};

#[derive(Args, Clone)]
#[command(next_help_heading = "Connection")]
pub(super) struct ConnectArgs {
    /// A node's channel address, host:port. Several give failover.
    #[arg(long = "node", short = 'n', value_name = "HOST:PORT", default_value = "127.0.0.1:20200")]
    pub(super) nodes: Vec<String>,
    /// Directory with ca.crt, sdk.crt and sdk.key, such as nodes/127.0.0.1/sdk.
    #[arg(long, short = 'C', short_alias = 'c', value_name = "DIR", default_value = "conf")]
    pub(super) certs: PathBuf,
}

#[derive(Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct DialectArgs {
    /// Speak as applications of that FISCO BCOS do. A node of this kind takes both, others take their own.
    #[arg(long, value_enum, default_value_t = Version::V2)]
    dialect: Version,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Version {
    #[value(name = "2.x")]
    V2,
    #[value(name = "3.x")]
    V3,
}

impl DialectArgs {
    pub(super) fn dialect(&self) -> Dialect {
        match self.dialect {
            Version::V2 => Dialect::V2,
            Version::V3 => Dialect::V3,
        }
    }
}

impl ConnectArgs {
    pub(super) async fn connect(&self, dialect: Dialect) -> Result<(Client, Messages), super::Failure> {
        let options = ClientOptions {
            nodes: self.nodes.clone(),
            certificates: Certificates::load(&self.certs)?,
            connect_timeout: Duration::from_secs(10),
            dialect,
        };
        Ok(Client::connect(options).await?)
    }
}
