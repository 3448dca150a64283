//! Sending to other systems over HTTP and HTTPS: one request at a time, with limits on time and size, and a verdict on whether another try helps.
//!
//! In: a body. Out: taken, refused for good, or to be tried later. Nothing is sent anywhere that the configuration does not name.

mod retry;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

pub use retry::Backoff;

use crate::trust;

/// Longest request, with name lookup, connection and answer.
const LONGEST_REQUEST: Duration = Duration::from_secs(10);
/// What is read of an answer, bytes: for its words when it refuses.
const MOST_ANSWER_BYTES: u64 = 4 << 10;
/// Largest file of headers, bytes.
const MOST_FILE_BYTES: u64 = 1 << 20;

/// Where to send to, as configured.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// `http://` or `https://`.
    pub url: String,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// A file of `Name: value` lines, read at every start and reload: for secrets.
    pub headers_file: Option<PathBuf>,
    /// Certificates to trust instead of the system's, PEM, read at every start and reload.
    pub ca_file: Option<PathBuf>,
}

impl std::fmt::Debug for Endpoint {
    /// Without the values of headers, which may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Endpoint")
            .field("url", &self.shown())
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Checks a URL.
    ///
    /// # Errors
    ///
    /// Says what was found and what is understood.
    pub fn check_url(url: &str) -> Result<(), String> {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let parsed: Option<ureq::http::Uri> = url.parse().ok();
        match (rest, parsed.and_then(|uri| uri.authority().map(|host| !host.host().is_empty()))) {
            (Some(_), Some(true)) => Ok(()),
            _ => Err(format!(
                "`{url}` is not a URL; examples: http://127.0.0.1:9093/api/v2/alerts, https://host/path"
            )),
        }
    }

    /// Whether files say more than this does, and may say something else at the next reload.
    pub fn has_files(&self) -> bool {
        self.headers_file.is_some() || self.ca_file.is_some()
    }

    /// The URL without a name and password in it, for people.
    pub fn shown(&self) -> String {
        match self.url.split_once("://").map(|(scheme, rest)| (scheme, rest.split_once('@'))) {
            Some((scheme, Some((user, host)))) if !user.contains('/') => format!("{scheme}://…@{host}"),
            _ => self.url.clone(),
        }
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Taken, with this status.
    Taken(u16),
    /// Refused; the same again would be, too. In words.
    Refused(String),
    /// Not now: nobody answered, too many requests, an error of the other side. In words.
    Later(String),
}

/// Sends to one endpoint.
#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
    headers: Vec<(String, String)>,
    ca_file: Option<PathBuf>,
}

impl Client {
    /// Reads certificates and headers. Nothing is sent.
    ///
    /// # Errors
    ///
    /// A file cannot be read or holds nothing useful, in words.
    pub fn new(endpoint: &Endpoint) -> Result<Self, String> {
        Endpoint::check_url(&endpoint.url)?;
        let mut headers = endpoint.headers.clone();
        if let Some(file) = &endpoint.headers_file {
            headers.extend(
                parse_headers(&read(file)?)
                    .map_err(|line| format!("{}: line {line} is not `Name: value`", file.display()))?,
            );
        }
        let mut config = ureq::Agent::config_builder()
            .timeout_global(Some(LONGEST_REQUEST))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("perf-agent/", env!("CARGO_PKG_VERSION")));
        if endpoint.url.starts_with("https://") {
            let roots = trust::authorities(endpoint.ca_file.as_deref())?;
            let roots = roots.iter().map(|der| Certificate::from_der(der).to_owned());
            let roots = RootCerts::Specific(Arc::new(roots.collect()));
            let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder()
                .provider(TlsProvider::Rustls)
                .unversioned_rustls_crypto_provider(provider)
                .root_certs(roots);
            config = config.tls_config(tls.build());
        }
        Ok(Self { agent: config.build().into(), headers, ca_file: endpoint.ca_file.clone() })
    }

    /// Sends a body to `url`, which is the endpoint's own or below it.
    pub fn post(&self, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = self.agent.post(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        for (name, value) in &self.headers {
            request = request.header(name.as_str(), value.as_str());
        }
        match request.send(body) {
            Ok(mut response) => {
                let status = response.status().as_u16();
                if response.status().is_success() {
                    return Answer::Taken(status);
                }
                let answer = response.body_mut().with_config().limit(MOST_ANSWER_BYTES).read_to_vec();
                let words = crate::profile::clean(&answer.unwrap_or_default());
                let words: String = words.chars().take(200).collect();
                judged(status, words.trim())
            }
            Err(error) => Answer::Later(self.failure(&error, url)),
        }
    }

    /// Why nothing was answered, and what to do where it is a certificate.
    fn failure(&self, error: &ureq::Error, url: &str) -> String {
        let tls = match error {
            ureq::Error::Rustls(tls) => Some(tls),
            ureq::Error::Io(stream) => trust::refusal(stream),
            _ => None,
        };
        let uri: Option<ureq::http::Uri> = url.parse().ok();
        let server = uri.as_ref().and_then(|uri| Some((uri.host()?, uri.port_u16().unwrap_or(443))));
        if let (Some(tls), Some((host, port))) = (tls, server) {
            return trust::words(tls, &format!("{host}:{port}"), self.ca_file.as_deref());
        }
        let told = crate::causes::with_causes(error);
        if is_alone(&std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default()) {
            format!(
                "{told}; there is no network here but the loopback: a unit of systemd gets it, where the \
                 configuration needs it, by: sudo perf-agent daemon install"
            )
        } else {
            told
        }
    }
}

/// Whether a process with these network devices (proc(5), `/proc/PID/net/dev`) reaches nobody, as with `PrivateNetwork=yes`.
fn is_alone(devices: &str) -> bool {
    let mut names = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).peekable();
    names.peek().is_some() && names.all(|name| name == "lo")
}

/// Whether another try helps: RFC 9110 section 15, and 429 of RFC 6585.
fn judged(status: u16, words: &str) -> Answer {
    let told =
        if words.is_empty() { format!("status {status}") } else { format!("status {status}: {words}") };
    match status {
        408 | 425 | 429 | 500..=599 => Answer::Later(told),
        _ => Answer::Refused(told),
    }
}

fn read(path: &std::path::Path) -> Result<String, String> {
    use std::io::Read;
    let mut text = String::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(MOST_FILE_BYTES).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
}

/// Lines of `Name: value`; empty ones and those that begin with `#` are left out. An error is the number of a line.
fn parse_headers(text: &str) -> Result<Vec<(String, String)>, usize> {
    let lines =
        text.lines().zip(1_usize..).filter(|(line, _)| !line.trim().is_empty() && !line.starts_with('#'));
    let parsed = lines.map(|(line, number)| {
        let (name, value) = line.split_once(':').ok_or(number)?;
        check_header(name.trim(), value.trim()).map_err(|_| number)?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    });
    parsed.collect()
}

/// Whether a header can be sent.
///
/// # Errors
///
/// Says which part cannot.
pub fn check_header(name: &str, value: &str) -> Result<(), String> {
    use ureq::http::{HeaderName, HeaderValue};
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not the name of a header"))?;
    HeaderValue::from_str(value)
        .map_err(|_| format!("the value of the header `{name}` has characters that cannot be sent"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request, and returns it.
    fn server(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/path", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            let mut piece = [0; 4096];
            while !String::from_utf8_lossy(&heard).ends_with("{}") {
                let length = stream.read(&mut piece).unwrap();
                assert!(length > 0);
                heard.extend_from_slice(&piece[..length]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&heard).into_owned()
        });
        (url, thread)
    }

    fn ask(answer: &'static str) -> (Answer, String) {
        let (url, thread) = server(answer);
        let headers = vec![("X-Scope-OrgID".to_owned(), "team".to_owned())];
        let client = Client::new(&Endpoint { url: url.clone(), headers, ..Endpoint::default() }).unwrap();
        (client.post(&url, &[("Content-Type", "application/json")], b"{}"), thread.join().unwrap())
    }

    #[test]
    fn a_request_says_what_is_configured_and_the_answer_tells_whether_to_try_again() {
        let (answer, heard) = ask("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answer, Answer::Taken(200));
        let heard = heard.to_ascii_lowercase();
        for part in
            ["post /path http/1.1", "x-scope-orgid: team", "content-type: application/json", "perf-agent/"]
        {
            assert!(heard.contains(part), "no `{part}` in {heard}");
        }
        let (answer, _) = ask("HTTP/1.1 400 Bad\r\nContent-Length: 8\r\n\r\nno\x1bgood\n");
        assert_eq!(answer, Answer::Refused("status 400: no\\x1bgood\\x0a".to_owned()));
        for status in ["429 x", "503 x", "500 x"] {
            let text: &'static str = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").leak();
            assert!(matches!(ask(text).0, Answer::Later(_)), "{status}");
        }
        let (answer, _) = ask("HTTP/1.1 307 x\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n");
        assert!(matches!(answer, Answer::Refused(_)), "a redirect leads where nobody configured: {answer:?}");
    }

    #[test]
    fn nobody_there_is_later_and_nonsense_is_refused_at_once() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}/");
        let client = Client::new(&Endpoint { url: url.clone(), ..Endpoint::default() }).unwrap();
        assert!(matches!(client.post(&url, &[], b"{}"), Answer::Later(_)));
        for url in ["", "host:80", "ftp://host/", "http://", "https:///path"] {
            assert!(Client::new(&Endpoint { url: url.to_owned(), ..Endpoint::default() }).is_err(), "{url}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "# a secret\nAuthorization: Bearer x\n\nnonsense\n").unwrap();
        let endpoint = Endpoint {
            url: "https://host/".to_owned(),
            headers_file: Some(file.clone()),
            ..Endpoint::default()
        };
        assert!(Client::new(&endpoint).unwrap_err().contains("line 4"));
        let endpoint = Endpoint { headers_file: None, ca_file: Some(file), ..endpoint };
        assert!(Client::new(&endpoint).unwrap_err().contains("no certificate"));
    }

    #[test]
    fn a_process_with_the_loopback_alone_is_known() {
        let heads = "Inter-|   Receive  |  Transmit\n face |bytes    packets|bytes\n";
        assert!(is_alone(&format!("{heads}    lo:  240  3 0\n")));
        assert!(!is_alone(&format!("{heads}    lo:  240  3 0\n  eth0: 1 1\n")));
        assert!(!is_alone(heads) && !is_alone(""), "nothing is known");
    }

    #[test]
    fn secrets_are_not_shown() {
        let endpoint = Endpoint {
            url: "https://name:word@host/path".to_owned(),
            headers: vec![("Authorization".to_owned(), "Bearer word".to_owned())],
            ..Endpoint::default()
        };
        assert!(!format!("{endpoint:?}").contains("word"));
        assert_eq!(endpoint.shown(), "https://…@host/path");
    }
}
