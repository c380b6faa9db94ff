//! Who may ask over the network: whoever has the token, over TLS. By the socket it is whoever may write to its file.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper::header::{AUTHORIZATION, HeaderMap};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::AdminError;

/// Characters of a token.
const TOKEN_LEN: std::ops::RangeInclusive<usize> = 16..=1_024;

/// Files that `[admin]` names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AccessFiles {
    /// The token.
    pub token: Option<PathBuf>,
    /// The certificate chain and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// What is asked of whoever comes over the network.
#[derive(Clone, Default)]
pub(super) struct Access {
    /// Digest of the token: digests are compared in constant time, and have one length.
    token: Option<blake3::Hash>,
    pub(super) tls: Option<Arc<ServerConfig>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the files.
    pub(super) fn read(files: &AccessFiles) -> Result<Self, AdminError> {
        let token = files.token.as_deref().map(read_token).transpose()?;
        let tls = files.tls.as_ref().map(|(certificate, key)| read_tls(certificate, key)).transpose()?;
        Ok(Self { token: token.map(|token| blake3::hash(token.as_bytes())), tls: tls.map(Arc::new) })
    }

    /// Whether others than this machine may be answered.
    pub(super) fn is_guarded(&self) -> bool {
        self.token.is_some() && self.tls.is_some()
    }

    /// Whether a request has the token, if there is one.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        given.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case("bearer") && blake3::hash(given.trim().as_bytes()) == *token
        })
    }
}

/// The token in a file: one line.
pub(crate) fn read_token(path: &Path) -> Result<String, AdminError> {
    let failed = |why: String| AdminError::File { key: "token_file", path: path.to_owned(), why };
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let token = text.trim();
    if !TOKEN_LEN.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(failed(format!(
            "a token is one line of {} to {} visible characters, such as `openssl rand -hex 32` makes",
            TOKEN_LEN.start(),
            TOKEN_LEN.end()
        )));
    }
    Ok(token.to_owned())
}

fn read_tls(certificate: &Path, key: &Path) -> Result<ServerConfig, AdminError> {
    let failed = |key, path: &Path, why: String| AdminError::File { key, path: path.to_owned(), why };
    let of_certificate = |why| failed("tls_cert", certificate, why);
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| of_certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(of_certificate("there is no certificate in PEM".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key);
    let private = private.map_err(|error| failed("tls_key", key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| of_certificate(error.to_string()))?;
    config
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| of_certificate(format!("it does not go with tls_key: {error}")))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn access(text: &str) -> Result<Access, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        let files = AccessFiles { token: Some(file.path().to_owned()), tls: None };
        Access::read(&files).map_err(|error| error.to_string())
    }

    #[test]
    fn whoever_has_the_token_is_admitted_and_nobody_else() {
        let access = access(&format!("{TOKEN}\n")).unwrap();
        let admits = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            access.admits(&headers)
        };
        assert!(admits(&format!("Bearer {TOKEN}")) && admits(&format!("bearer  {TOKEN}")));
        for other in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeF",
            TOKEN,
            "Basic 0123456789abcdef",
        ] {
            assert!(!admits(other), "{other}");
        }
        assert!(!access.admits(&HeaderMap::new()));
        assert!(Access::default().admits(&HeaderMap::new()), "without a token everybody is");
        assert!(!access.is_guarded(), "a token that goes without TLS is everybody's");
    }

    #[test]
    fn a_token_is_one_line_that_cannot_be_guessed() {
        let long = "x".repeat(1_025);
        for wrong in [
            "",
            "\n",
            "0123456789abcde",
            "0123456789abcdef 0",
            "0123456789abcdef\n0123456789abcdef",
            "0123456789abcdeé",
            &long,
        ] {
            assert!(access(wrong).unwrap_err().contains("a token is one line of 16 to 1024"), "{wrong}");
        }
    }
}
