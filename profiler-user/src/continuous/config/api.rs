//! The section about who may read: a socket for this host, an address for others.

#![expect(clippy::option_option, reason = "a key may be silent, say that nothing is wanted, or say what is")]

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Where the socket is unless something else is said.
pub const DEFAULT_SOCKET: &str = "/run/perf-agent/api.sock";

/// Who may read, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiConfig {
    /// Unix socket; none for no socket.
    pub socket: Option<PathBuf>,
    /// Group whose members may connect to the socket besides root.
    pub group: Option<String>,
    /// TCP address; none for none.
    pub listen: Option<SocketAddr>,
    /// File with the secret that readers over TCP have to know.
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) for TLS, the own one first.
    pub tls_certificate: Option<PathBuf>,
    /// Their private key (PEM).
    pub tls_key: Option<PathBuf>,
}

impl ApiConfig {
    /// Whether the parts fit together.
    ///
    /// # Errors
    ///
    /// What is open to whom, and what is missing.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return Err("tls_certificate and tls_key belong together; only one of them is set".to_owned());
        }
        if let Some(address) = self.listen.filter(|address| !address.ip().is_loopback()) {
            let missing: Vec<&str> = [
                (self.token_file.is_none(), "token_file"),
                (self.tls_certificate.is_none(), "tls_certificate and tls_key"),
            ]
            .into_iter()
            .filter_map(|(is_missing, key)| is_missing.then_some(key))
            .collect();
            if !missing.is_empty() {
                return Err(format!(
                    "listen = \"{address}\" is open to other hosts, which needs {}; without, listen on 127.0.0.1 and forward a port: ssh -L 7071:127.0.0.1:7071 HOST",
                    missing.join(", and ")
                ));
            }
        }
        if self.group.is_some() && self.socket.is_none() {
            return Err("group is about the socket, and there is none".to_owned());
        }
        Ok(())
    }
}

/// The section as it is written; an empty text is nothing.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Api {
    #[serde(deserialize_with = "path")]
    socket: Option<Option<PathBuf>>,
    #[serde(deserialize_with = "text")]
    group: Option<Option<String>>,
    #[serde(deserialize_with = "address")]
    listen: Option<Option<SocketAddr>>,
    #[serde(deserialize_with = "path")]
    token_file: Option<Option<PathBuf>>,
    #[serde(deserialize_with = "path")]
    tls_certificate: Option<Option<PathBuf>>,
    #[serde(deserialize_with = "path")]
    tls_key: Option<Option<PathBuf>>,
}

impl Api {
    pub(super) fn usual() -> Self {
        Self { socket: Some(Some(PathBuf::from(DEFAULT_SOCKET))), ..Self::default() }
    }

    pub(super) fn over(self, under: Self) -> Self {
        Self {
            socket: self.socket.or(under.socket),
            group: self.group.or(under.group),
            listen: self.listen.or(under.listen),
            token_file: self.token_file.or(under.token_file),
            tls_certificate: self.tls_certificate.or(under.tls_certificate),
            tls_key: self.tls_key.or(under.tls_key),
        }
    }

    pub(super) fn settled(self) -> ApiConfig {
        ApiConfig {
            socket: self.socket.flatten(),
            group: self.group.flatten(),
            listen: self.listen.flatten(),
            token_file: self.token_file.flatten(),
            tls_certificate: self.tls_certificate.flatten(),
            tls_key: self.tls_key.flatten(),
        }
    }
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Ok(Some(Some(String::deserialize(from)?).filter(|text| !text.is_empty())))
}

fn path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<PathBuf>>, D::Error> {
    match text(from)?.flatten().map(PathBuf::from) {
        Some(path) if !path.is_absolute() => {
            Err(D::Error::custom(format!("`{}`: the path must be absolute", path.display())))
        }
        path => Ok(Some(path)),
    }
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<SocketAddr>>, D::Error> {
    let Some(text) = text(from)?.flatten() else { return Ok(Some(None)) };
    let wrong = || {
        D::Error::custom(format!(
            "`{text}` is not an address with a port; examples: 127.0.0.1:7071, [::1]:7071"
        ))
    };
    text.parse().map(|address| Some(Some(address))).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<ApiConfig, String> {
        let api: Api = toml::from_str(text).map_err(|error| error.to_string())?;
        let config = api.over(Api::usual()).settled();
        config.check().map(|()| config)
    }

    #[test]
    fn what_is_open_to_other_hosts_needs_a_token_and_tls() {
        assert_eq!(of("").unwrap().socket, Some(PathBuf::from(DEFAULT_SOCKET)));
        assert_eq!(of("socket = \"\"").unwrap().socket, None);
        for fine in ["listen = \"127.0.0.1:7071\"", "listen = \"[::1]:0\"", "listen = \"\""] {
            of(fine).unwrap();
        }
        let (token, tls) = ("\ntoken_file = \"/t\"", "\ntls_certificate = \"/c\"\ntls_key = \"/k\"");
        let open = "listen = \"0.0.0.0:7071\"";
        of(&format!("{open}{token}{tls}")).unwrap();
        for (text, wanted) in [
            (open.to_owned(), "needs token_file, and tls_certificate and tls_key"),
            (format!("{open}{tls}"), "needs token_file;"),
            (format!("{open}{token}"), "needs tls_certificate"),
            ("listen = \"[2001:db8::1]:1\"".to_owned(), "other hosts"),
            ("listen = \"localhost\"".to_owned(), "examples"),
            ("token_file = \"secret\"".to_owned(), "absolute"),
            ("tls_key = \"/k\"".to_owned(), "belong together"),
            ("socket = \"\"\ngroup = \"adm\"".to_owned(), "there is none"),
        ] {
            let error = of(&text).unwrap_err();
            assert!(error.contains(wanted), "`{wanted}` is not in: {error}");
        }
    }
}
