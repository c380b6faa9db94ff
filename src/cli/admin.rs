//! How commands ask the admin endpoint of a node.

use std::{fmt, fmt::Write, str::FromStr, time::Duration};

use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use super::status::UsageError;
use crate::supervise::contained_task;

/// How long the node may take; it may have to wait for others.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read: more than the longest list.
const ANSWER_LEN_MAX: usize = 64 << 20;
/// Characters that are shown of an answer that is no answer.
const REMARK_LEN_MAX: usize = 200;

/// Where a node's admin endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdminAddress(String);

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if port.is_some_and(|port| port.parse::<u16>().is_ok()) {
            return Ok(Self(text.to_owned()));
        }
        Err("it must be host:port, as [admin] of the node has it, such as 127.0.0.1:9100".to_owned())
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which node a command asks.
#[derive(Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct AdminArgs {
    /// The admin endpoint of the node that is asked.
    #[arg(long, value_name = "HOST:PORT", required = true)]
    admin: Option<AdminAddress>,
}

impl AdminArgs {
    /// The address; it is left out only where a subcommand has one of its own.
    pub(super) fn address(&self) -> Result<&AdminAddress, UsageError> {
        self.admin.as_ref().ok_or_else(|| "give the admin endpoint of a node: --admin HOST:PORT".into())
    }
}

/// What a node's admin endpoint says under a path; an error tells what to do.
pub(super) async fn get(admin: &AdminAddress, path: &str) -> Result<(StatusCode, Bytes), String> {
    exchange_in_time(admin, Request::get(path).header(HOST, "node").body(Full::default())).await
}

/// Has a node's admin endpoint do something. It must be on this machine.
pub(super) async fn post(
    admin: &AdminAddress,
    path: &str,
    json: Vec<u8>,
) -> Result<(StatusCode, Bytes), String> {
    let request = Request::post(path).header(HOST, "localhost").header(CONTENT_TYPE, "application/json");
    exchange_in_time(admin, request.body(Full::from(json))).await
}

async fn exchange_in_time(
    admin: &AdminAddress,
    request: hyper::http::Result<Request<Full<Bytes>>>,
) -> Result<(StatusCode, Bytes), String> {
    let answer = tokio::time::timeout(ANSWER_TIME_MAX, exchange(admin, request)).await;
    answer.map_err(|_| format!("{admin} does not answer within {ANSWER_TIME_MAX:?}: see its /livez"))?
}

/// The same where only a list, or a text, will do.
pub(super) async fn get_text(admin: &AdminAddress, path: &str) -> Result<String, String> {
    let (status, body) = get(admin, path).await?;
    if status != StatusCode::OK {
        return Err(not_as_asked(admin, status, &body));
    }
    String::from_utf8(body.into()).map_err(|error| not_understood(admin, &error))
}

/// The same of JSON.
pub(super) async fn get_json<T: DeserializeOwned>(admin: &AdminAddress, path: &str) -> Result<T, String> {
    parse(admin, get_text(admin, path).await?.as_bytes())
}

/// What to say to the operator about another status than the one that was hoped for.
pub(super) fn not_as_asked(admin: &AdminAddress, status: StatusCode, body: &[u8]) -> String {
    let said = String::from_utf8_lossy(body);
    let said: String = said.lines().next().unwrap_or_default().chars().take(REMARK_LEN_MAX).collect();
    format!(
        "{admin} answers {status}: {}; is it the [admin] port of a node of this version?",
        crate::escape::shown(&said)
    )
}

/// Reads a JSON answer.
pub(super) fn parse<T: DeserializeOwned>(admin: &AdminAddress, json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| not_understood(admin, &error))
}

fn not_understood(admin: &AdminAddress, error: &dyn std::fmt::Display) -> String {
    format!("{admin} gives an answer that is not understood ({error}): is it a node of this version?")
}

async fn exchange(
    admin: &AdminAddress,
    request: hyper::http::Result<Request<Full<Bytes>>>,
) -> Result<(StatusCode, Bytes), String> {
    let unreachable = |error: std::io::Error| {
        format!(
            "cannot connect to {admin} ({error}): is the node running, is [admin] listen_port set, and is this the address that its log shows as \"the admin endpoint is open\"?"
        )
    };
    let failed = |error: &dyn std::fmt::Display| {
        format!("{admin} does not speak HTTP as a node does ({error}): is it the [admin] port of a node?")
    };
    let stream = tokio::net::TcpStream::connect(&admin.0).await.map_err(unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // It ends with the answer, and its errors are the answer's.
    contained_task(async { _ = connection.await });
    let request = request.map_err(|error| failed(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let status = answer.status();
    let body =
        Limited::new(answer.into_body(), ANSWER_LEN_MAX).collect().await.map_err(|error| failed(&error))?;
    Ok((status, body.to_bytes()))
}

/// Text as a part of a query.
pub(super) fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02x}");
        }
    }
    encoded
}
