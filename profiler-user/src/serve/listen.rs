//! Where the API is reached: the files that it needs are read first, so that a bad configuration is refused before anything else begins.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;
use tokio::net::{TcpListener, UnixListener, UnixSocket};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::gate::Gate;
use crate::continuous::ApiConfig;
use crate::continuous::config::DEFAULT_SOCKET;

/// Shortest token that nobody guesses: 16 characters of hexadecimal are 64 bits.
const SHORTEST_TOKEN: usize = 16;
/// Largest file that is read for a token.
const LARGEST_TOKEN: u64 = 4096;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 256;

/// Why there is no API.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file that it needs cannot be used.
    #[error("api.{key} = \"{}\": {why}", path.display())]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// A command that mends it.
        fix: String,
    },
    /// There is no such group.
    #[error("api.group = \"{group}\": there is no such group in /etc/group")]
    Group {
        /// Its name.
        group: String,
    },
    /// An address or a socket cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The thread could not be started.
    #[error("cannot start the thread of the API")]
    Thread(#[source] io::Error),
}

impl ServeError {
    /// A command that helps, where there is one.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::File { fix, .. } => Some(fix.clone()),
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
                "another agent answers there? ss -lp | grep {address}; or name another one in [api]"
            )),
            Self::Group { .. } => Some("getent group lists those that there are".to_owned()),
            Self::Listen { .. } | Self::Thread(_) => None,
        }
    }
}

/// Everything that is needed to listen.
#[derive(Debug)]
pub struct Prepared {
    socket: Option<(PathBuf, Option<u32>)>,
    listen: Option<SocketAddr>,
    token: Option<Vec<u8>>,
    tls: Option<Arc<ServerConfig>>,
}

/// What listens.
pub(super) struct Bound {
    pub(super) unix: Option<UnixListener>,
    pub(super) socket: Option<PathBuf>,
    pub(super) tcp: Option<TcpListener>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) gate: Gate,
    pub(super) warnings: Vec<String>,
}

impl Bound {
    pub(super) fn addresses(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let tcp = self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
        let socket = self.socket.iter().map(|path| format!("unix:{}", path.display()));
        socket.chain(tcp.map(|address| format!("{scheme}://{address}/"))).collect()
    }
}

impl Prepared {
    pub(super) fn new(config: &ApiConfig) -> Result<Self, ServeError> {
        let gid = config.group.as_deref().map(group_id).transpose()?;
        let token = config.token_file.as_deref().map(token).transpose()?;
        let tls = match (&config.tls_certificate, &config.tls_key) {
            (Some(certificate), Some(key)) => Some(Arc::new(tls(certificate, key)?)),
            _ => None,
        };
        Ok(Self { socket: config.socket.clone().map(|path| (path, gid)), listen: config.listen, token, tls })
    }

    /// Listens. To be called inside the runtime.
    pub(super) fn bind(self) -> Result<Bound, ServeError> {
        let mut warnings = Vec::new();
        let mut unix = None;
        if let Some((path, gid)) = &self.socket {
            match bind_unix(path, *gid) {
                Ok(bound) => unix = Some(bound),
                // Two agents with what holds without a configuration: the second one records all the same.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && path == Path::new(DEFAULT_SOCKET) =>
                {
                    warnings.push(format!(
                        "no API: another agent answers on {DEFAULT_SOCKET}; name another socket in [api]"
                    ));
                }
                Err(source) => {
                    return Err(ServeError::Listen { address: format!("unix:{}", path.display()), source });
                }
            }
        }
        let socket = self.socket.map(|(path, _)| path).filter(|_| unix.is_some());
        let tcp = self.listen.map(bind_tcp).transpose()?;
        let only_loopback = self.token.is_none() || self.tls.is_none();
        let gate = Gate { token: self.token, only_loopback };
        Ok(Bound { unix, socket, tcp, tls: self.tls.map(TlsAcceptor::from), gate, warnings })
    }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|source| ServeError::Listen { address: address.to_string(), source })
}

/// A socket that root, and the members of a group, may connect to. One that nobody listens on any more makes room.
fn bind_unix(path: &Path, gid: Option<u32>) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
        }
        Err(_) => {}
    }
    let socket = UnixSocket::new_stream()?;
    // The file gets the mode of the socket (unix_bind, net/unix/af_unix.c): there is no moment in which others may connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(path)?;
    if let Some(gid) = gid {
        std::os::unix::fs::lchown(path, None, Some(gid))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    }
    socket.listen(BACKLOG)
}

fn group_id(group: &str) -> Result<u32, ServeError> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let by_name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    by_name.or_else(|| group.parse().ok()).ok_or_else(|| ServeError::Group { group: group.to_owned() })
}

fn token(path: &Path) -> Result<Vec<u8>, ServeError> {
    use std::io::Read;
    let make = format!("(umask 077; openssl rand -hex 32 > {})", path.display());
    let wrong = |why: String, fix: &str| ServeError::File {
        key: "token_file",
        path: path.to_owned(),
        why,
        fix: fix.to_owned(),
    };
    let file = std::fs::File::open(path).map_err(|error| wrong(format!("cannot be read: {error}"), &make))?;
    let mode = file.metadata().map_or(0, |found| found.mode());
    if mode & 0o077 != 0 {
        let why = format!("others can read or change it (mode {:03o})", mode & 0o777);
        return Err(wrong(why, &format!("chmod 600 {}", path.display())));
    }
    let mut text = Vec::new();
    file.take(LARGEST_TOKEN)
        .read_to_end(&mut text)
        .map_err(|error| wrong(format!("cannot be read: {error}"), &make))?;
    let token = text.trim_ascii();
    if token.len() < SHORTEST_TOKEN || !token.iter().all(u8::is_ascii_graphic) {
        let why = format!(
            "a token is at least {SHORTEST_TOKEN} printable characters without spaces; this has {} bytes",
            token.len()
        );
        return Err(wrong(why, &make));
    }
    Ok(token.to_vec())
}

fn tls(certificate: &Path, key: &Path) -> Result<ServerConfig, ServeError> {
    let wrong = |key: &'static str, path: &Path, why: String| ServeError::File {
        key,
        path: path.to_owned(),
        why,
        fix: format!("openssl x509 -noout -text -in {}", certificate.display()),
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong("tls_certificate", certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("tls_certificate", certificate, "no certificate is in it".to_owned()));
    }
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("tls_key", key, error.to_string()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| wrong("tls_certificate", certificate, error.to_string()))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let of = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            token(&path)
        };
        assert_eq!(of("0123456789abcdef\n", 0o600).unwrap(), b"0123456789abcdef");
        let open = of("0123456789abcdef", 0o644).unwrap_err();
        assert!(open.to_string().contains("mode 644") && open.fix().unwrap().contains("chmod 600"), "{open}");
        for wrong in
            ["", "short", "with a space in it, and long", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}"]
        {
            assert!(of(wrong, 0o600).unwrap_err().fix().unwrap().contains("openssl rand"), "{wrong}");
        }
        assert!(token(Path::new("/nowhere/token")).is_err());
    }

    #[test]
    fn groups_are_known_by_name_and_number() {
        assert_eq!((group_id("root").unwrap(), group_id("12345").unwrap()), (0, 12345));
        assert!(group_id("no such group").unwrap_err().to_string().contains("no such group"));
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pem");
        std::fs::write(&path, "not PEM").unwrap();
        let error = tls(&path, &path).unwrap_err().to_string();
        assert!(error.contains("tls_certificate") && error.contains("no certificate"), "{error}");
    }

    #[test]
    fn a_socket_is_never_open_to_others_and_a_dead_one_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/api.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mode = || std::fs::metadata(&path).unwrap().mode() & 0o777;
            let first = bind_unix(&path, None).unwrap();
            assert_eq!(mode(), 0o600);
            assert_eq!(bind_unix(&path, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(first);
            let own = rustix::process::getgid().as_raw();
            let _second = bind_unix(&path, Some(own)).unwrap();
            assert_eq!(mode(), 0o660);
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, "something else").unwrap();
            assert_eq!(bind_unix(&path, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        });
    }
}
