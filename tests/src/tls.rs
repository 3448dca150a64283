//! Certificates as a company makes its own: an authority that no system knows, and servers that it vouches for.

use std::sync::Arc;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Who signs.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, as a file holds it.
    pub pem: String,
}

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    /// For longer than any of us lives.
    Now,
    /// Until 2020.
    Once,
    /// From 2500 on.
    Later,
}

impl Authority {
    /// A new one, which differs from all others by its key alone.
    ///
    /// # Errors
    ///
    /// No key can be made.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Shop authority");
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// What a server of this name needs.
    ///
    /// # Errors
    ///
    /// It is not a name.
    pub fn server(&self, name: &str, valid: Valid) -> Result<Arc<ServerConfig>> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        match valid {
            Valid::Now => {}
            Valid::Once => params.not_after = date_time_ymd(2020, 1, 1),
            Valid::Later => params.not_before = date_time_ymd(2500, 1, 1),
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        serving(certificate.der().clone(), &key)
    }
}

/// A server with a certificate that only its own authority would sign: it is one itself, as many guides have it made.
///
/// # Errors
///
/// No key can be made.
pub fn authority_that_serves(name: &str) -> Result<(Arc<ServerConfig>, String)> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((serving(certificate.der().clone(), &key)?, certificate.pem()))
}

fn serving(certificate: CertificateDer<'static>, key: &KeyPair) -> Result<Arc<ServerConfig>> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(Arc::new(config))
}
