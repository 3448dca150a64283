//! Sections of the file about those who are told and sent to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::value;
use crate::alert::{Alerts, Rule};
use crate::post::{Endpoint, check_header};

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
