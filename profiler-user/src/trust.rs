//! Whom connections over TLS trust, and what to do about a server that is not trusted.
//!
//! In: a file of certificates, or nothing for those of this host. Out: certificates, and words for the errors of a handshake. A file stands for itself: what
//! the host trusts beside it does not count.

use std::io::Read;
use std::path::Path;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore};

use crate::profile::clean;
use crate::question::time::shown;

/// Largest file of certificates, bytes.
const MOST_FILE_BYTES: u64 = 1 << 20;
/// Most names of a certificate that are told.
const MOST_NAMES: usize = 5;

/// The authorities of a file, else those of this host.
///
/// # Errors
///
/// There is none, or the file cannot be read or understood, in words.
pub(crate) fn authorities(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let Some(file) = ca_file else {
        let found = rustls_native_certs::load_native_certs().certs;
        return if found.is_empty() {
            Err("this host has no certificates to trust: apt-get install ca-certificates, or name a file \
                 of your own (ca_file, --ca-file)"
                .to_owned())
        } else {
            Ok(found)
        };
    };
    let shown = file.display();
    let mut text = Vec::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MOST_FILE_BYTES).read_to_end(&mut text))
        .map_err(|error| format!("cannot read the certificates to trust in `{shown}`: {error}"))?;
    let look = format!("look with: openssl x509 -noout -text -in {shown}");
    let all: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("`{shown}` is not PEM: {error}; {look}"))?;
    if all.is_empty() {
        return Err(format!("`{shown}` holds no certificate (PEM: -----BEGIN CERTIFICATE-----)"));
    }
    let (_, unknown) = RootCertStore::empty().add_parsable_certificates(all.iter().cloned());
    if unknown > 0 {
        return Err(format!("{unknown} of {} certificates in `{shown}` make no sense; {look}", all.len()));
    }
    Ok(all)
}

/// The error of TLS inside that of a stream, if that is what failed.
pub(crate) fn refusal(error: &std::io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What is wrong with the certificate of `server` (`HOST:PORT`), and what to do.
pub(crate) fn words(error: &Error, server: &str, ca_file: Option<&Path>) -> String {
    let Error::InvalidCertificate(wrong) = error else { return format!("TLS: {error}") };
    let server = clean(server.as_bytes());
    let show = format!(
        "openssl s_client -connect {server} -showcerts </dev/null | openssl x509 -noout -issuer -subject -dates"
    );
    match wrong {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => match ca_file {
            Some(file) => format!(
                "its certificate is signed by none of the authorities in `{}`, which alone are trusted; who \
                 signed it says: {show}; put that authority's certificate into the file",
                file.display()
            ),
            None => format!(
                "its certificate is signed by none of the authorities that this host trusts; who signed it \
                 says: {show}; name a file with that authority's certificate (ca_file, --ca-file)"
            ),
        },
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "its certificate, or one that vouches for it, expired at {}; the clock here says {}; renew it \
             on the server: {show}",
            time(*not_after),
            time(UnixTime::now())
        ),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "its certificate, or one that vouches for it, is not valid before {}; the clock here says {}; \
             is one of the clocks wrong? timedatectl",
            time(*not_before),
            time(UnixTime::now())
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let mut names: Vec<String> = presented.iter().take(MOST_NAMES).map(|name| bare(name)).collect();
            if presented.len() > MOST_NAMES {
                names.push(format!("{} more", presented.len() - MOST_NAMES));
            }
            let names = if names.is_empty() {
                "for no name (subjectAltName is missing)".to_owned()
            } else {
                format!("for {}", names.join(", "))
            };
            let expected = expected.to_str();
            format!(
                "its certificate is {names}, not for `{expected}`; use a name of the certificate in the \
                 URL, or have the server's made for `{expected}`"
            )
        }
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => "its certificate is that of an \
            authority, which may sign but not serve; have one made with basicConstraints=CA:FALSE"
            .to_owned(),
        other => format!("its certificate is refused: {}; see: {show}", clean(other.to_string().as_bytes())),
    }
}

/// Like `DnsName("host")` as `host`.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    clean(inner.trim_matches('"').as_bytes())
}

fn time(at: UnixTime) -> String {
    shown(at.as_secs().saturating_mul(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_rustls::rustls::pki_types::ServerName;

    use super::*;

    fn at(unix_s: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(unix_s))
    }

    #[test]
    fn words_say_what_is_wrong_and_what_to_do() {
        let file = Path::new("/etc/ca.pem");
        let of = |wrong, ca_file| words(&Error::InvalidCertificate(wrong), "db:443", ca_file);
        let unknown = of(CertificateError::UnknownIssuer, Some(file));
        assert!(unknown.contains("none of the authorities in `/etc/ca.pem`"), "{unknown}");
        assert!(unknown.contains("openssl s_client -connect db:443"), "{unknown}");
        assert!(of(CertificateError::UnknownIssuer, None).contains("that this host trusts"));
        let expired =
            of(CertificateError::ExpiredContext { time: at(0), not_after: at(1_767_268_800) }, Some(file));
        assert!(expired.contains("expired at 2026-01-01T12:00:00Z; the clock here says 2"), "{expired}");
        let early = of(CertificateError::NotValidYetContext { time: at(0), not_before: at(u64::MAX) }, None);
        assert!(early.contains("timedatectl"), "{early}");
    }

    #[test]
    fn names_of_a_certificate_are_cleaned_and_few() {
        let mut presented = vec!["DnsName(\"good.example\")".to_owned(), "IpAddress(10.0.0.1)".to_owned()];
        presented.extend((0..100).map(|_| "\x1b[31m".to_owned()));
        let expected = ServerName::try_from("db").unwrap();
        let wrong = CertificateError::NotValidForNameContext { expected, presented };
        let told = words(&Error::InvalidCertificate(wrong), "db:443", None);
        let start = "its certificate is for good.example, 10.0.0.1, \\x1b[31m";
        assert!(told.starts_with(start) && told.contains("97 more, not for `db`"), "{told}");
    }

    #[test]
    fn a_file_that_makes_no_sense_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        assert!(authorities(Some(&file)).unwrap_err().contains("No such file"));
        for (text, part) in [
            ("hello", "holds no certificate"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "not PEM"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "1 of 1 certificates"),
        ] {
            std::fs::write(&file, text).unwrap();
            let told = authorities(Some(&file)).unwrap_err();
            assert!(told.contains(part) && told.contains("ca.pem"), "{told}");
        }
    }
}
