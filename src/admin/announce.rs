//! `POST /announce`: the one thing that the endpoint does and not only shows: an operator's text goes to all nodes.
//!
//! Only from this machine itself, and only from programs: a page in a browser here, even one that some name service has led to
//! this address, cannot.

use std::{net::IpAddr, time::Instant};

use http_body_util::{BodyExt, Limited};
use hyper::{
    HeaderMap, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HOST, HeaderValue, ORIGIN},
};

use super::{
    Answer, Watched,
    json::{Announce, Announced},
    json_answer,
    pages::NoPage,
};
use crate::{
    relay::registry::{self, AnnounceError},
    wire::announcement::TEXT_LEN_MAX,
};

/// Bytes of a request's body: the longest text, each character of it escaped.
pub(super) const BODY_LEN_MAX: usize = 6 * TEXT_LEN_MAX + 64;

/// Why somebody may not announce; `None` if it may.
fn refusal(announces: bool, peer: IpAddr, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let forbidden = StatusCode::FORBIDDEN;
    if !announces {
        return Some((forbidden, "this node's [admin] announce is false"));
    }
    if !peer.to_canonical().is_loopback() {
        return Some((
            forbidden,
            "announcing is for programs on the node's own machine, over 127.0.0.1 or ::1",
        ));
    }
    if headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Some((forbidden, "announcing is not for pages in browsers"));
    }
    let is_here = |host: &HeaderValue| host.to_str().is_ok_and(is_this_machine);
    if !headers.contains_key(HOST) || !headers.get_all(HOST).iter().all(is_here) {
        return Some((forbidden, "Host must be localhost or a loopback address"));
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    if !content_type.eq_ignore_ascii_case("application/json") {
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"));
    }
    None
}

/// Whether the `Host` of a request is this machine, whatever the port.
fn is_this_machine(host: &str) -> bool {
    let without_port = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name.to_owned(),
        _ => host.to_owned(),
    };
    let name = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((address, _)) => address.to_owned(),
        None => without_port(host),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Announces what a request's body says.
pub(super) async fn announce(
    watched: &Watched,
    peer: IpAddr,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Answer, NoPage> {
    if let Some((status, why)) = refusal(watched.announces, peer, headers) {
        return Err(NoPage::new(status, why));
    }
    let body = Limited::new(body, BODY_LEN_MAX).collect().await.map_err(|_| {
        let why = format!("the body has more than {BODY_LEN_MAX} bytes");
        NoPage::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    })?;
    let Announce { text } = serde_json::from_slice(&body.to_bytes())
        .map_err(|_| NoPage::new(StatusCode::BAD_REQUEST, "the body must be JSON: {\"text\":\"…\"}"))?;
    let announced = watched.ask_registry(move |registry| registry.announce_text(Instant::now(), &text));
    let registry::Announced { number, neighbours, reachable } = announced.await?.map_err(|error| {
        let status = match error {
            AnnounceError::Text(_) => StatusCode::BAD_REQUEST,
            AnnounceError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        };
        NoPage::new(status, error)
    })?;
    Ok(json_answer(&Announced { number, neighbours, reachable }))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use hyper::header::HeaderName;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn headers(more: &[(&'static str, &'static str)]) -> HeaderMap {
        let usual = [("host", "localhost"), ("content-type", "application/json; charset=utf-8")];
        let mut headers = HeaderMap::new();
        for (name, value) in usual.iter().chain(more) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn status(announces: bool, peer: IpAddr, headers: &HeaderMap) -> u16 {
        refusal(announces, peer, headers).map_or(200, |(status, _)| status.as_u16())
    }

    #[test]
    fn programs_of_this_machine_may_announce_and_nobody_else() {
        let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        for peer in [HERE, IpAddr::V6(Ipv6Addr::LOCALHOST), mapped] {
            assert_eq!(status(true, peer, &headers(&[])), 200);
            assert_eq!(status(false, peer, &headers(&[])), 403);
        }
        for peer in ["10.0.0.1", "192.168.1.7", "::ffff:10.0.0.1", "fe80::1", "2001:db8::1"] {
            assert_eq!(status(true, peer.parse().unwrap(), &headers(&[])), 403);
        }
        for header in [
            ("origin", "http://attacker.example"),
            ("origin", "null"),
            ("sec-fetch-site", "same-origin"),
            ("host", "attacker.example"),
            ("host", "attacker.example:9100"),
            ("host", "127.0.0.1.attacker.example"),
            ("host", "10.0.0.1:9100"),
            ("host", ""),
        ] {
            assert_eq!(status(true, HERE, &headers(&[header])), 403, "{header:?}");
        }
        let mut two = headers(&[]);
        two.append(HOST, HeaderValue::from_static("attacker.example"));
        assert_eq!(status(true, HERE, &two), 403);
        two.remove(HOST);
        assert_eq!(status(true, HERE, &two), 403);
        for host in ["localhost:9100", "LocalHost", "127.0.0.1", "127.0.0.1:9100", "[::1]", "[::1]:9100"] {
            assert_eq!(status(true, HERE, &headers(&[("host", host)])), 200, "{host}");
        }
        for form in ["text/plain", "application/x-www-form-urlencoded", ""] {
            assert_eq!(status(true, HERE, &headers(&[("content-type", form)])), 415, "{form}");
        }
    }
}
