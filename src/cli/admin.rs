//! How commands ask the admin endpoint of a node.

use std::{
    fmt,
    fmt::Write,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::status::UsageError;
use crate::{admin::read_token, escape::shown_path, supervise::contained_task};

/// How long the node may take; it may have to wait for others.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read: more than the longest list.
const ANSWER_LEN_MAX: usize = 64 << 20;
/// Characters that are shown of an answer that is no answer.
const REMARK_LEN_MAX: usize = 200;

/// Where a node's admin endpoint is, and what it is asked with.
#[derive(Clone, Debug)]
pub(super) struct AdminAddress {
    place: Place,
    token: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// `host:port`.
    Address(String),
    Socket(PathBuf),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of = |place| Ok(Self { place, token: None, tls: None });
        if let Some(path) = text.strip_prefix("unix:").or_else(|| text.contains('/').then_some(text)) {
            return of(Place::Socket(path.into()));
        }
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if port.is_some_and(|port| port.parse::<u16>().is_ok()) {
            return of(Place::Address(text.to_owned()));
        }
        Err("it must be host:port, unix:PATH or a path with a /, as [admin] of the node has it, such as nodes/127.0.0.1/node0/admin.sock".to_owned())
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Address(address) => f.write_str(address),
            Place::Socket(path) => f.write_str(&shown_path(path)),
        }
    }
}

/// Which node a command asks.
#[derive(Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct AdminArgs {
    /// The admin endpoint of the node that is asked: host:port, or the path of its socket.
    #[arg(long, value_name = "ADDRESS", env = "AMOP_ADMIN", required = true)]
    admin: Option<AdminAddress>,
    #[command(flatten)]
    credentials: AdminCredentials,
    #[arg(skip)]
    resolved: OnceLock<AdminAddress>,
}

/// What an endpoint on another machine is asked with.
#[derive(Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct AdminCredentials {
    /// File with the token of [admin] token_file, where the endpoint is on another machine.
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Ask over TLS; the endpoint's certificate must be of this authority (PEM).
    #[arg(long, value_name = "FILE")]
    admin_ca: Option<PathBuf>,
}

impl AdminArgs {
    /// The address; it is left out only where a subcommand has one of its own.
    pub(super) fn address(&self) -> Result<&AdminAddress, UsageError> {
        let none = "give the admin endpoint of a node: --admin ADDRESS, or AMOP_ADMIN";
        let address = self.credentials.given_to(self.admin.clone().ok_or(none)?)?;
        Ok(self.resolved.get_or_init(|| address))
    }
}

impl AdminCredentials {
    /// The same address, asked with these.
    pub(super) fn given_to(&self, mut address: AdminAddress) -> Result<AdminAddress, UsageError> {
        if let Some(file) = &self.admin_token_file {
            address.token = Some(read_token(file).map_err(|error| error.to_string())?);
        }
        if let Some(file) = &self.admin_ca {
            address.tls = Some(Arc::new(trusting(file)?));
        }
        Ok(address)
    }
}

/// TLS towards whom an authority in this file vouches for.
fn trusting(file: &Path) -> Result<ClientConfig, String> {
    let failed = |error: &dyn fmt::Display| format!("--admin-ca {}: {error}", shown_path(file));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(&error))? {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    if roots.is_empty() {
        return Err(failed(&"there is no certificate in PEM"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(versions.map_err(|error| failed(&error))?.with_root_certificates(roots).with_no_client_auth())
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
    let request = request.map(|mut request| {
        let token =
            admin.token.as_ref().and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        if let Some(token) = token {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        request
    });
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
    let failed = |error: &dyn fmt::Display| {
        let tls = match (&admin.place, &admin.tls) {
            (Place::Address(_), None) => " Or does it want TLS, --admin-ca FILE?",
            _ => "",
        };
        format!(
            "{admin} does not speak HTTP as a node does ({error}): is it the [admin] port of a node?{tls}"
        )
    };
    let stream = connect(admin).await?;
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

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(admin: &AdminAddress) -> Result<Box<dyn Stream>, String> {
    let address = match &admin.place {
        Place::Address(address) => address,
        Place::Socket(path) => {
            let stream = tokio::net::UnixStream::connect(path).await.map_err(|error| {
                format!(
                    "cannot connect to {admin} ({error}): is the node running, is this its [admin] listen_path, and may this user write to it?"
                )
            })?;
            return Ok(Box::new(stream));
        }
    };
    let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| {
        format!(
            "cannot connect to {admin} ({error}): is the node running, is [admin] listen_port set, and is this the address that its log shows as \"the admin endpoint is open\"?"
        )
    })?;
    let Some(tls) = &admin.tls else { return Ok(Box::new(stream)) };
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|error| format!("{admin}: {error}"))?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(|error| {
        format!("{admin} is not trusted over TLS ({error}): does --admin-ca have the authority of its [admin] tls_cert, and does that name this host?")
    })?;
    Ok(Box::new(stream))
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
