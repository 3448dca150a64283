//! Who may come in: the token, the name under which we were called, and the page that a browser comes from. And what every answer tells a browser.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use base64::Engine;
use subtle::ConstantTimeEq;

use super::answer::Refused;

/// Rules of one listener.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate {
    /// What callers have to know.
    pub(super) token: Option<Vec<u8>>,
    /// Whether only names of this host are answered. A page from elsewhere whose name was pointed at this address (DNS rebinding) says its own.
    pub(super) only_loopback: bool,
}

/// Answered without a token, since those who ask whether it lives have none. They name nothing.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

impl Gate {
    /// Whether a request may come in.
    pub(super) fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Refused> {
        if method != Method::GET && method != Method::HEAD {
            let message = format!("{method} is not answered; everything here is for reading: GET");
            return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "method", message));
        }
        if self.only_loopback && !is_loopback(headers) {
            let message = "this address answers to localhost, 127.0.0.1 and [::1] alone";
            return Err(Refused::new(StatusCode::FORBIDDEN, "host", message)
                .hint("forward a port and open http://localhost:PORT/"));
        }
        let says = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if says("sec-fetch-site") == Some("cross-site") && says("sec-fetch-mode") != Some("navigate") {
            let message = "pages of other sites are not answered";
            return Err(Refused::new(StatusCode::FORBIDDEN, "origin", message));
        }
        match &self.token {
            Some(token) if !OPEN.contains(&path) && !knows(token, headers) => {
                let refused =
                    Refused::new(StatusCode::UNAUTHORIZED, "token", "the token is missing or wrong");
                Err(refused.hint(
                    "send Authorization: Bearer TOKEN; perf-agent query --remote URL --token-file FILE",
                ))
            }
            _ => Ok(()),
        }
    }
}

fn is_loopback(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else {
        return false;
    };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether the caller sent the token: as a bearer, or as the password that a browser asked for. Compared in a time that says nothing of where they differ.
fn knows(token: &[u8], headers: &HeaderMap) -> bool {
    let Some(said) = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
    let Some((scheme, rest)) = said.iter().position(|byte| *byte == b' ').map(|at| said.split_at(at)) else {
        return false;
    };
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return rest.ct_eq(token).into();
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return false;
    }
    let Ok(pair) = base64::engine::general_purpose::STANDARD.decode(rest) else { return false };
    let password = pair.iter().position(|byte| *byte == b':').map(|at| &pair[at + 1..]);
    password.is_some_and(|password| password.ct_eq(token).into())
}

/// What every answer carries: nothing from elsewhere is loaded, no other page may show or read it, types are not guessed.
pub(super) const HEADERS: [(&str, &str); 8] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("cache-control", "no-store"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn status(gate: &Gate, pairs: &[(&'static str, &str)]) -> u16 {
        gate.check(&Method::GET, "/api/v1/top", &headers(pairs))
            .map_or_else(|refused| refused.status.as_u16(), |()| 200)
    }

    #[test]
    fn only_those_who_know_the_token_come_in() {
        let gate = Gate { token: Some(b"0123456789abcdef".to_vec()), only_loopback: false };
        let basic = |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
        for (said, wanted) in [
            ("Bearer 0123456789abcdef", 200),
            ("bearer  0123456789abcdef ", 200),
            (&*basic("anybody:0123456789abcdef"), 200),
            (&*basic(":0123456789abcdef"), 200),
            ("Bearer 0123456789abcdeX", 401),
            ("Bearer 0123456789abcdef0", 401),
            ("Bearer ", 401),
            ("Bearer", 401),
            ("0123456789abcdef", 401),
            ("Basic %%%", 401),
            (&*basic("0123456789abcdef"), 401),
            ("Digest 0123456789abcdef", 401),
        ] {
            assert_eq!(status(&gate, &[("authorization", said)]), wanted, "{said}");
        }
        assert_eq!(status(&gate, &[]), 401);
        for path in OPEN {
            assert!(gate.check(&Method::GET, path, &HeaderMap::new()).is_ok());
        }
    }

    #[test]
    fn names_that_were_pointed_here_are_refused() {
        let gate = Gate { token: None, only_loopback: true };
        for (host, wanted) in [
            ("localhost", 200),
            ("LOCALHOST:7071", 200),
            ("127.0.0.1:7071", 200),
            ("127.9.9.9", 200),
            ("[::1]:7071", 200),
            ("evil.example", 403),
            ("localhost.evil.example:7071", 403),
            ("127.0.0.1.evil.example", 403),
            ("10.0.0.1:7071", 403),
            ("", 403),
            ("[", 403),
        ] {
            assert_eq!(status(&gate, &[("host", host)]), wanted, "{host}");
        }
        assert_eq!(status(&gate, &[]), 403);
        let mut two = headers(&[("host", "localhost")]);
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(gate.check(&Method::GET, "/", &two).is_err());
    }

    #[test]
    fn other_sites_and_other_verbs_are_refused() {
        let gate = Gate::default();
        assert_eq!(status(&gate, &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]), 403);
        assert_eq!(status(&gate, &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]), 200);
        assert_eq!(status(&gate, &[("sec-fetch-site", "same-origin")]), 200);
        let refused = gate.check(&Method::POST, "/api/v1/top", &HeaderMap::new()).unwrap_err();
        assert_eq!(refused.status.as_u16(), 405);
    }
}
