//! The HTTP request by which a connection becomes a WebSocket (RFC 6455, 4), its answers, and the same from a client's
//! side.

use base64ct::{Base64, Encoding};
use sha1::{Digest, Sha1};

/// The longest head of a request or a response in bytes.
pub const HEAD_LEN_MAX: usize = 8 * 1024;
/// The most headers in one.
pub const HEADERS_MAX: usize = 64;

/// What is hashed behind a key (RFC 6455, 1.3).
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a key before they are encoded.
const KEY_LEN: usize = 16;
/// The one version that there is.
const VERSION: &str = "13";
/// What ends a head.
const END: &[u8; 4] = b"\r\n\r\n";

/// The first bytes of HTTP requests by method. As lengths of SDK frames they are over 1 GiB, more than any frame may have.
const METHODS: [&[u8; 4]; 9] =
    [b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"DELE", b"PATC", b"CONN", b"TRAC"];

/// Whether a connection begins with an HTTP request.
pub fn is_http(first: &[u8; 4]) -> bool {
    METHODS.contains(&first)
}

/// Whether a head is whole, of which all but the last `new` bytes were looked at before.
pub fn has_end(bytes: &[u8], new: usize) -> bool {
    let looked_at = bytes.len().saturating_sub(new + END.len() - 1);
    bytes[looked_at..].windows(END.len()).any(|window| window == END)
}

/// Why a request is refused: always its sender's fault. In words that tell whoever sees the answer what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no HTTP.
    #[error("this is no HTTP request that can be read")]
    Malformed,
    /// Its head has no end within the bound.
    #[error("the head of the request is longer than 8 KiB: send fewer or shorter headers")]
    HeadTooLong,
    /// It has more headers than the bound.
    #[error("the request has more than 64 headers: send fewer")]
    TooManyHeaders,
    /// Another method than GET.
    #[error(
        "this port takes no HTTP requests but an upgrade to WebSocket: send GET, and connect by an SDK or a WebSocket client"
    )]
    Method,
    /// HTTP/1.0.
    #[error("an upgrade needs HTTP/1.1")]
    HttpVersion,
    /// It asks for no upgrade to WebSocket.
    #[error(
        "this port speaks WebSocket, and the request asks for no upgrade: send Upgrade: websocket and Connection: Upgrade"
    )]
    NoUpgrade,
    /// Another version of WebSocket.
    #[error("this is another version of WebSocket: send Sec-WebSocket-Version: 13")]
    WebSocketVersion,
    /// No key, or several, or one that is none.
    #[error("send one Sec-WebSocket-Key of 16 bytes in Base64")]
    Key,
    /// More bytes behind the request.
    #[error("bytes follow the request: wait for the answer 101 before the first frame, and send no body")]
    TooMuch,
}

impl Refusal {
    /// Status code and reason of the answer.
    pub fn status(&self) -> (u16, &'static str) {
        match self {
            Self::Malformed | Self::Key | Self::TooMuch => (400, "Bad Request"),
            Self::Method => (405, "Method Not Allowed"),
            Self::NoUpgrade | Self::WebSocketVersion => (426, "Upgrade Required"),
            Self::HeadTooLong | Self::TooManyHeaders => (431, "Request Header Fields Too Large"),
            Self::HttpVersion => (505, "HTTP Version Not Supported"),
        }
    }

    /// The whole answer. The connection is closed behind it.
    pub fn response(&self) -> Vec<u8> {
        let (status, reason) = self.status();
        let more = match self {
            Self::Method => "Allow: GET\r\n",
            Self::NoUpgrade | Self::WebSocketVersion => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            _ => "",
        };
        let text = format!("{self}\n");
        let len = text.len();
        format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\n\
             {more}Connection: close\r\n\r\n{text}"
        )
        .into_bytes()
    }
}

/// A request that can be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    accept: String,
}

impl Request {
    /// Reads a request, which is all that has come: whoever sends more before it is answered breaks the rules. What the
    /// target is, and what headers there are that an upgrade does not need, does not matter.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let is_too_long = bytes.len() > HEAD_LEN_MAX;
        let len = match request.parse(bytes) {
            Ok(httparse::Status::Complete(len)) if len <= HEAD_LEN_MAX => len,
            Ok(_) if is_too_long => return Err(Refusal::HeadTooLong),
            Ok(_) => return Err(Refusal::Malformed),
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooManyHeaders),
            Err(httparse::Error::Version) => return Err(Refusal::HttpVersion),
            Err(_) => return Err(Refusal::Malformed),
        };
        if request.method != Some("GET") {
            return Err(Refusal::Method);
        }
        if request.version != Some(1) {
            return Err(Refusal::HttpVersion);
        }
        let headers = &*request.headers;
        if !has_token(headers, "upgrade", "websocket") || !has_token(headers, "connection", "upgrade") {
            return Err(Refusal::NoUpgrade);
        }
        if !values(headers, "sec-websocket-version").eq([VERSION.as_bytes()]) {
            return Err(Refusal::WebSocketVersion);
        }
        let mut keys = values(headers, "sec-websocket-key");
        let (Some(key), None) = (keys.next(), keys.next()) else { return Err(Refusal::Key) };
        let mut decoded = [0; KEY_LEN + 2];
        match Base64::decode(key, &mut decoded) {
            Ok(decoded) if decoded.len() == KEY_LEN => {}
            _ => return Err(Refusal::Key),
        }
        if len != bytes.len() {
            return Err(Refusal::TooMuch);
        }
        Ok(Self { accept: accept(key) })
    }

    /// The answer that makes a WebSocket of the connection. No protocol and no extension is agreed on.
    pub fn response(&self) -> Vec<u8> {
        let Self { accept } = self;
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes()
    }
}

/// What answers a key.
fn accept(key: &[u8]) -> String {
    Base64::encode_string(&Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize())
}

/// The values of all headers of a name, in order.
fn values<'a>(headers: &'a [httparse::Header<'_>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value.trim_ascii())
}

/// Whether a header is a list that has such a token, in whatever case.
fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    values(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .any(|one| one.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Why an answer to a client's request is none that makes a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// It is no HTTP.
    #[error("the answer to the upgrade is no HTTP")]
    Malformed,
    /// It has more than the bounds allow.
    #[error("the answer to the upgrade is too long")]
    TooLong,
    /// It refuses.
    #[error("the peer refuses the upgrade to WebSocket with HTTP status {0}")]
    Refused(u16),
    /// It grants something else than what was asked for.
    #[error("the answer to the upgrade does not belong to its request")]
    Accept,
}

/// A client's side of an upgrade.
#[derive(Clone, Debug)]
pub struct Client {
    key: String,
}

impl Client {
    /// With bytes for its key that should be drawn at random.
    pub fn new(key: [u8; KEY_LEN]) -> Self {
        Self { key: Base64::encode_string(&key) }
    }

    /// What it sends first. `host` is the server's, with its port.
    pub fn request(&self, host: &str) -> Vec<u8> {
        let Self { key } = self;
        format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: {VERSION}\r\n\r\n"
        )
        .into_bytes()
    }

    /// Looks at what has come; gives how long the answer was, once it is whole. Frames may follow it.
    pub fn read_response(&self, bytes: &[u8]) -> Result<Option<usize>, ResponseError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let len = match response.parse(bytes) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_LEN_MAX => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(ResponseError::TooLong);
            }
            Err(_) => return Err(ResponseError::Malformed),
        };
        match response.code {
            Some(101) => {}
            code => return Err(ResponseError::Refused(code.unwrap_or(0))),
        }
        let headers = &*response.headers;
        let is_granted = has_token(headers, "upgrade", "websocket")
            && has_token(headers, "connection", "upgrade")
            && values(headers, "sec-websocket-accept").eq([accept(self.key.as_bytes()).as_bytes()])
            && values(headers, "sec-websocket-extensions").next().is_none();
        if is_granted { Ok(Some(len)) } else { Err(ResponseError::Accept) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As boost's Beast sends it, which the official SDK is built on.
    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:20200\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUser-Agent: x\r\n\r\n";

    fn refusal(request: &str) -> Refusal {
        Request::decode(request.as_bytes()).expect_err("it is to be refused")
    }

    #[test]
    fn the_key_of_the_standards_example_is_answered_as_it_is_there() {
        let response = Request::decode(REQUEST.as_bytes()).unwrap().response();
        let response = String::from_utf8(response).unwrap();
        assert!(response.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{response}");
        assert!(
            response.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{response}"
        );
    }

    #[test]
    fn lists_of_tokens_and_their_case_do_not_matter() {
        let request = REQUEST
            .replace("Upgrade: websocket", "UPGRADE: h2c,  WebSocket")
            .replace("Connection: upgrade", "connection: keep-alive\r\nConnection: foo , UPGRADE");
        assert!(Request::decode(request.as_bytes()).is_ok());
    }

    #[test]
    fn each_refusal_has_its_status_and_says_what_to_change() {
        let without = |line: &str| REQUEST.replace(&format!("{line}\r\n"), "");
        let many: String = (0..HEADERS_MAX).map(|number| format!("X-{number}: 1\r\n")).collect();
        let twice = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let cases = [
            (REQUEST.replace("GET", "POST"), Refusal::Method, 405),
            (REQUEST.replace("1.1", "1.0"), Refusal::HttpVersion, 505),
            (REQUEST.replace("1.1", "2.0"), Refusal::HttpVersion, 505),
            (without("Upgrade: websocket"), Refusal::NoUpgrade, 426),
            (without("Connection: upgrade"), Refusal::NoUpgrade, 426),
            (without("Sec-WebSocket-Version: 13"), Refusal::WebSocketVersion, 426),
            (REQUEST.replace(": 13", ": 8"), Refusal::WebSocketVersion, 426),
            (without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), Refusal::Key, 400),
            (REQUEST.replace("dGhl", "dGh"), Refusal::Key, 400),
            (REQUEST.replace("dGhl", ""), Refusal::Key, 400),
            (REQUEST.replace(twice, &twice.repeat(2)), Refusal::Key, 400),
            (REQUEST.replace("User-Agent: x\r\n", &many), Refusal::TooManyHeaders, 431),
            (format!("{REQUEST}\u{2}"), Refusal::TooMuch, 400),
            (REQUEST.replace("\r\nHost", "\r\nHo st"), Refusal::Malformed, 400),
            ("GET / HTTP/1.1\r\n".to_owned(), Refusal::Malformed, 400),
        ];
        for (request, expected, status) in cases {
            assert_eq!(refusal(&request), expected, "{request}");
            assert_eq!(expected.status().0, status);
            let response = String::from_utf8(expected.response()).unwrap();
            let (head, text) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", text.len())), "{head}");
            assert_eq!(head.contains("Sec-WebSocket-Version: 13"), status == 426, "{head}");
            assert_eq!(head.contains("Allow: GET"), status == 405, "{head}");
        }
    }

    #[test]
    fn a_head_beyond_the_bound_is_refused_whether_it_ends_or_not() {
        let long = REQUEST.replace("Agent: x", &format!("Agent: {}", "x".repeat(HEAD_LEN_MAX)));
        assert_eq!(refusal(&long), Refusal::HeadTooLong);
        assert_eq!(refusal(&long[..HEAD_LEN_MAX + 1]), Refusal::HeadTooLong);
        let fits = "x".repeat(HEAD_LEN_MAX - REQUEST.len() + 1);
        let fits = REQUEST.replace("Agent: x", &format!("Agent: {fits}"));
        assert_eq!(fits.len(), HEAD_LEN_MAX);
        assert!(Request::decode(fits.as_bytes()).is_ok());
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        for step in 1..=7 {
            let mut have = 0;
            for piece in REQUEST.as_bytes().chunks(step) {
                have += piece.len();
                assert_eq!(has_end(&REQUEST.as_bytes()[..have], piece.len()), have == REQUEST.len());
            }
        }
    }

    #[test]
    fn a_connection_that_begins_with_http_is_told_from_frames_of_any_length() {
        assert!(is_http(b"GET "));
        for len in [42, 1 << 20, 1 << 30] {
            assert!(!is_http(&u32::to_be_bytes(len)));
        }
        assert!(METHODS.iter().all(|method| u32::from_be_bytes(**method) > 1 << 30));
    }

    #[test]
    fn a_client_takes_the_answer_to_its_own_key_and_no_other() {
        let (client, other) = (Client::new([7; 16]), Client::new([8; 16]));
        let response = Request::decode(&client.request("localhost:20200")).unwrap().response();
        for len in 0..response.len() {
            assert_eq!(client.read_response(&response[..len]), Ok(None));
        }
        let followed = [&response[..], b"\x82\x00"].concat();
        assert_eq!(client.read_response(&followed), Ok(Some(response.len())));
        assert_eq!(other.read_response(&response), Err(ResponseError::Accept));
        assert_eq!(client.read_response(&Refusal::Key.response()), Err(ResponseError::Refused(400)));
        assert_eq!(client.read_response(b"\x16\x03\x03\0\0"), Err(ResponseError::Malformed));
        let endless = [&b"HTTP/1.1 101 x\r\nX: "[..], &[b'x'; HEAD_LEN_MAX]].concat();
        assert_eq!(client.read_response(&endless), Err(ResponseError::TooLong));
    }
}
