//! Another agent, asked over its API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::causes::with_causes;
use crate::profile::clean;
use crate::question::{Kind, Refusal, encoded};
use crate::trust;

/// Longest wait for an answer: longer than the other side works on one.
const PATIENCE: Duration = Duration::from_mins(1);
/// Largest answer that is taken, bytes.
const LARGEST: usize = 64 << 20;
/// Port where a URL names none, as in the examples of the configuration.
const PORT: u16 = 7071;
const EXAMPLES: &str = "examples: unix:/run/perf-agent/api.sock, http://127.0.0.1:7071, https://host:7071";

/// Where an agent answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remote {
    /// On this host.
    Socket(PathBuf),
    /// Elsewhere, or here.
    Tcp { host: String, port: u16, tls: bool },
}

impl Remote {
    /// Reads `unix:PATH` or a URL.
    ///
    /// # Errors
    ///
    /// Says what was found and what is understood.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not where an agent answers; {EXAMPLES}");
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            return if path.is_absolute() { Ok(Self::Socket(path)) } else { Err(wrong()) };
        }
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(wrong()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            None => authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| wrong()))?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(is_name) {
            return Err(wrong());
        }
        Ok(Self::Tcp { host: host.to_owned(), port, tls })
    }

    fn is_in_the_clear(&self) -> bool {
        let is_here = |host: &str| {
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        matches!(self, Self::Tcp { host, tls: false, .. } if !is_here(host))
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{scheme}://{open}{host}{close}:{port}")
            }
        }
    }
}

/// Asks a question, and waits for the answer.
///
/// # Errors
///
/// Nobody answers there, or what the other side says.
pub(super) fn ask(
    remote: &Remote,
    token_file: Option<&Path>,
    ca_file: Option<&Path>,
    path: &str,
    parameters: &[(&str, String)],
) -> Result<Vec<u8>, Refusal> {
    let token = token_file.map(token).transpose()?;
    if token.is_some() && remote.is_in_the_clear() {
        return Err(Refusal::usage("a token is sent over TLS alone: https://…, or through a forwarded port"));
    }
    let query: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let request = Request::get(format!("{path}?{}", query.join("&")));
    let host = match remote {
        Remote::Socket(_) => "localhost".to_owned(),
        Remote::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
        Remote::Tcp { host, port, .. } => format!("{host}:{port}"),
    };
    let request = request.header(header::HOST, host);
    let request = match token {
        Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
        None => request,
    };
    let request =
        request.body(Empty::new()).map_err(|error| Refusal::usage(format!("a bad question: {error}")))?;
    let failed = |why: String| {
        Refusal::new(Kind::Failed, format!("no answer from {remote}: {why}"))
            .hint("does it run there, with [api] configured? sudo perf-agent daemon status")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, exchange(remote, ca_file, request))
            .await
            .map_err(|_| format!("nothing came in {} s", PATIENCE.as_secs()))?
    });
    let (status, bytes) = answer.map_err(failed)?;
    if status == StatusCode::OK { Ok(bytes) } else { Err(refused(remote, status, &bytes)) }
}

type Question = Request<Empty<Bytes>>;

async fn exchange(
    remote: &Remote,
    ca_file: Option<&Path>,
    request: Question,
) -> Result<(StatusCode, Vec<u8>), String> {
    match remote {
        Remote::Socket(path) => {
            let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
            talk(stream, request).await
        }
        Remote::Tcp { host, port, tls } => {
            let stream = TcpStream::connect((&**host, *port)).await.map_err(|error| error.to_string())?;
            if !tls {
                return talk(stream, request).await;
            }
            let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(Arc::new(trusting(ca_file)?)).connect(name, stream).await;
            let failed = |error: std::io::Error| match trust::refusal(&error) {
                Some(tls) => trust::words(tls, &format!("{host}:{port}"), ca_file),
                None => with_causes(&error),
            };
            talk(stream.map_err(failed)?, request).await
        }
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Question,
) -> Result<(StatusCode, Vec<u8>), String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| with_causes(&error))?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| with_causes(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    connection.abort();
    Ok((status, body.map_err(|error| error.to_string())?.to_bytes().to_vec()))
}

/// Trusts the authorities of a file, else those of this host.
fn trusting(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trust::authorities(ca_file)?);
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

fn token(file: &Path) -> Result<String, Refusal> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Refusal::usage(format!("cannot read the token in {}: {error}", file.display())))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::usage(format!("{} holds no token", file.display())));
    }
    Ok(token.to_owned())
}

/// What the other side said, as if it were said here.
fn refused(remote: &Remote, status: StatusCode, bytes: &[u8]) -> Refusal {
    let answer: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |key: &str| answer[key].as_str().map(|text| clean(text.as_bytes()));
    let message = text("error").unwrap_or_else(|| format!("the answer is {status}"));
    let (kind, message) = match status.as_u16() {
        400 => (Kind::Usage, message),
        404 if answer["cause"] == "nothing" => (Kind::Nothing, message),
        401 | 403 => (Kind::Forbidden, format!("{remote}: {message}")),
        _ => (Kind::Failed, format!("{remote}: {message}")),
    };
    let refusal = Refusal::new(kind, message);
    match text("hint") {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_as_people_type_them() {
        for (text, shown) in [
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix:///run/x.sock", "unix:/run/x.sock"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
            ("https://db-1.example", "https://db-1.example:7071"),
            ("http://[::1]:1", "http://[::1]:1"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]:7071"),
        ] {
            assert_eq!(Remote::parse(text).map(|remote| remote.to_string()), Ok(shown.to_owned()));
        }
        for wrong in [
            "",
            "host:7071",
            "unix:x",
            "ftp://x",
            "http://",
            "http://a b",
            "http://x:port",
            "http://x/y",
            "http://[::1",
        ] {
            assert!(Remote::parse(wrong).unwrap_err().contains("examples"), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_never_sent_in_the_clear() {
        let clear = |text: &str| Remote::parse(text).unwrap().is_in_the_clear();
        assert!(clear("http://db-1:7071") && clear("http://10.0.0.1"));
        assert!(
            !clear("https://db-1")
                && !clear("http://localhost:1")
                && !clear("http://127.0.0.1")
                && !clear("unix:/x")
        );
    }

    #[test]
    fn what_the_other_side_says_is_cleaned() {
        let remote = Remote::parse("unix:/x").unwrap();
        let said = b"{\"error\":\"\\u001b[31mred\",\"cause\":\"nothing\",\"hint\":\"a\\nb\"}";
        let refusal = refused(&remote, StatusCode::NOT_FOUND, said);
        assert_eq!((refusal.kind, &*refusal.message), (Kind::Nothing, "\\x1b[31mred"));
        assert_eq!(refused(&remote, StatusCode::BAD_GATEWAY, b"<html>").kind, Kind::Failed);
    }
}
