//! Sections of the file about those who are told and sent to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::value;
use crate::alert::{Alerts, Rule};
use crate::post::{Endpoint, check_header};
use crate::push::{KINDS, Push};
use crate::quantity;

/// Most rules, and most places that are told.
const MOST_RULES: usize = 64;
const MOST_WEBHOOKS: usize = 8;

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AlertsSection {
    #[serde(deserialize_with = "urls")]
    webhooks: Option<Vec<String>>,
    #[serde(deserialize_with = "headers")]
    headers: Option<Vec<(String, String)>>,
    #[serde(deserialize_with = "value::folder")]
    headers_file: Option<PathBuf>,
    #[serde(deserialize_with = "value::folder")]
    ca_file: Option<PathBuf>,
    #[serde(deserialize_with = "value::folder")]
    file: Option<PathBuf>,
    log: Option<bool>,
    #[serde(deserialize_with = "rules")]
    rules: Option<Vec<Rule>>,
}

impl AlertsSection {
    /// What this says, and what `under` says where this is silent.
    pub(super) fn over(self, under: Self) -> Self {
        Self {
            webhooks: self.webhooks.or(under.webhooks),
            headers: self.headers.or(under.headers),
            headers_file: self.headers_file.or(under.headers_file),
            ca_file: self.ca_file.or(under.ca_file),
            file: self.file.or(under.file),
            log: self.log.or(under.log),
            rules: self.rules.or(under.rules),
        }
    }

    pub(super) fn settled(self) -> Alerts {
        let headers = self.headers.unwrap_or_default();
        let endpoint = |url| Endpoint {
            url,
            headers: headers.clone(),
            headers_file: self.headers_file.clone(),
            ca_file: self.ca_file.clone(),
        };
        Alerts {
            webhooks: self.webhooks.unwrap_or_default().into_iter().map(endpoint).collect(),
            file: self.file,
            log: self.log.unwrap_or(true),
            rules: self.rules.unwrap_or_default(),
        }
    }
}

/// Bounds of the time for which windows are put together before they are sent.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));
/// Least size of a spool: some requests.
const LEAST_SPOOL_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PushSection {
    #[serde(deserialize_with = "url")]
    pyroscope: Option<String>,
    #[serde(deserialize_with = "url")]
    otlp: Option<String>,
    #[serde(deserialize_with = "headers")]
    headers: Option<Vec<(String, String)>>,
    #[serde(deserialize_with = "value::folder")]
    headers_file: Option<PathBuf>,
    #[serde(deserialize_with = "value::folder")]
    ca_file: Option<PathBuf>,
    #[serde(deserialize_with = "interval")]
    interval: Option<Duration>,
    #[serde(deserialize_with = "value::folder")]
    spool: Option<PathBuf>,
    #[serde(deserialize_with = "spool_size")]
    max_spool: Option<u64>,
    #[serde(deserialize_with = "kinds")]
    kinds: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
}

impl PushSection {
    /// What holds where nothing is said.
    pub(super) fn usual() -> Self {
        Self {
            interval: Some(Duration::from_mins(1)),
            spool: Some(PathBuf::from("/var/lib/perf-agent/push")),
            max_spool: Some(64 << 20),
            kinds: Some(KINDS.map(str::to_owned).to_vec()),
            ..Self::default()
        }
    }

    /// What this says, and what `under` says where this is silent.
    pub(super) fn over(self, under: Self) -> Self {
        Self {
            pyroscope: self.pyroscope.or(under.pyroscope),
            otlp: self.otlp.or(under.otlp),
            headers: self.headers.or(under.headers),
            headers_file: self.headers_file.or(under.headers_file),
            ca_file: self.ca_file.or(under.ca_file),
            interval: self.interval.or(under.interval),
            spool: self.spool.or(under.spool),
            max_spool: self.max_spool.or(under.max_spool),
            kinds: self.kinds.or(under.kinds),
            labels: self.labels.or(under.labels),
        }
    }

    pub(super) fn settled(self) -> Push {
        let headers = self.headers.unwrap_or_default();
        let endpoint = |url: Option<String>| {
            url.filter(|url| !url.is_empty()).map(|url| Endpoint {
                url,
                headers: headers.clone(),
                headers_file: self.headers_file.clone(),
                ca_file: self.ca_file.clone(),
            })
        };
        Push {
            pyroscope: endpoint(self.pyroscope),
            otlp: endpoint(self.otlp),
            interval: self.interval.unwrap_or_default(),
            spool: self.spool.unwrap_or_default(),
            max_spool_bytes: self.max_spool.unwrap_or_default(),
            kinds: self.kinds.unwrap_or_default(),
            labels: self.labels.unwrap_or_default().into_iter().collect(),
        }
    }
}

/// A URL; an empty one is none.
fn url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let url = String::deserialize(from)?;
    if !url.is_empty() {
        Endpoint::check_url(&url).map_err(D::Error::custom)?;
    }
    Ok(Some(url))
}

fn interval<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let length =
        quantity::span(&String::deserialize(from)?).map(Duration::from_nanos).map_err(D::Error::custom)?;
    if length < INTERVAL.0 || length > INTERVAL.1 {
        return Err(D::Error::custom("the interval must be between 1 s and 10 min long"));
    }
    Ok(Some(length))
}

fn spool_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    match quantity::amount(&text) {
        Ok(bytes) if bytes >= LEAST_SPOOL_BYTES => Ok(Some(bytes)),
        Ok(_) => Err(D::Error::custom(format!("`{text}`: a spool must be at least 1M large"))),
        Err(error) => Err(D::Error::custom(format!("`{text}`: {error}"))),
    }
}

fn kinds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let kinds = Vec::<String>::deserialize(from)?;
    if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        let known = KINDS.join(", ");
        return Err(D::Error::custom(format!(
            "`{unknown}` is no kind of profile that is sent; there are {known}"
        )));
    }
    Ok(Some(kinds))
}

fn urls<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let urls = Vec::<String>::deserialize(from)?;
    if urls.len() > MOST_WEBHOOKS {
        return Err(D::Error::custom(format!("{} webhooks; at most {MOST_WEBHOOKS}", urls.len())));
    }
    urls.iter().try_for_each(|url| Endpoint::check_url(url)).map_err(D::Error::custom)?;
    Ok(Some(urls))
}

fn headers<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<(String, String)>>, D::Error> {
    let headers = BTreeMap::<String, String>::deserialize(from)?;
    headers.iter().try_for_each(|(name, value)| check_header(name, value)).map_err(D::Error::custom)?;
    Ok(Some(headers.into_iter().collect()))
}

fn rules<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Rule>>, D::Error> {
    let rules = Vec::<Rule>::deserialize(from)?;
    if rules.len() > MOST_RULES {
        return Err(D::Error::custom(format!("{} rules; at most {MOST_RULES}", rules.len())));
    }
    for (index, rule) in rules.iter().enumerate() {
        if rules[..index].iter().any(|other| other.name == rule.name) {
            return Err(D::Error::custom(format!("two rules are called `{}`", rule.name)));
        }
    }
    Ok(Some(rules))
}
