//! Arguments that every client command has.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::client::{Certificates, Client, ClientOptions, Messages};

#[derive(Args, Clone)]
pub(super) struct ConnectArgs {
    /// A node's channel address, host:port. Several give failover.
    #[arg(long = "node", short = 'n', value_name = "HOST:PORT", default_value = "127.0.0.1:20200")]
    pub(super) nodes: Vec<String>,
    /// Directory with ca.crt, sdk.crt and sdk.key, such as nodes/127.0.0.1/sdk.
    #[arg(long, short = 'c', value_name = "DIR", default_value = "conf")]
    pub(super) certs: PathBuf,
}

impl ConnectArgs {
    pub(super) async fn connect(&self) -> Result<(Client, Messages), super::Failure> {
        let options = ClientOptions {
            nodes: self.nodes.clone(),
            certificates: Certificates::load(&self.certs)?,
            connect_timeout: Duration::from_secs(10),
        };
        Ok(Client::connect(options).await?)
    }
}
