//! Profiles as bodies of requests.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::{Kind, Push};
use crate::output::{Format, OutputError, OutputOptions, write_otlp};
use crate::profile::{Profile, ProfileBuilder};

/// Services that are told apart in one request, those that took most. The others go together as `other`.
const MOST_SERVICES: usize = 64;

/// `push.v1.PushRequest`: profiles as pprof, with their labels.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) series: Vec<RawProfileSeries>,
}

/// Profiles of one source.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RawProfileSeries {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<RawSample>,
}

/// `types.v1.LabelPair`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LabelPair {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// One profile: pprof, compressed with gzip.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RawSample {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) raw_profile: Vec<u8>,
}

/// The body of a request, compressed with gzip as a whole where the receiver understands that.
///
/// # Errors
///
/// Nothing that a writer into memory reports.
pub(super) fn encode(kind: Kind, profile: &Profile, push: &Push) -> Result<Vec<u8>, OutputError> {
    match kind {
        // Already compressed inside.
        Kind::Pyroscope => Ok(pyroscope(profile, push)?.encode_to_vec()),
        Kind::Otlp => {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::new(3));
            write_otlp(profile, &push.labels, &mut gzip)?;
            gzip.flush()?;
            Ok(gzip.finish()?)
        }
    }
}

/// One series for each process name, as Pyroscope's `service_name`.
fn pyroscope(profile: &Profile, push: &Push) -> Result<PushRequest, OutputError> {
    let services = services(profile);
    let mut series = Vec::new();
    for service in services.iter().map(Some).chain([None]) {
        let mut builder = ProfileBuilder::new(profile.value_types.clone());
        builder.add_profile(profile, |labels| match service {
            Some(service) => labels.process == *service,
            None => !services.contains(&labels.process),
        });
        let part = builder.finish(profile.meta.clone(), profile.quality.clone());
        if part.samples.is_empty() {
            continue;
        }
        let mut raw_profile = Vec::new();
        let pprof =
            Format::from_name("pprof").map_err(|error| OutputError::Io(std::io::Error::other(error)))?;
        (pprof.write)(&part, &OutputOptions::default(), &mut raw_profile)?;
        let labels = labels(profile, service.map_or("other", |name| name), push);
        series.push(RawProfileSeries { labels, samples: vec![RawSample { raw_profile }] });
    }
    Ok(PushRequest { series })
}

/// Names of processes, those that took most first.
fn services(profile: &Profile) -> Vec<Arc<str>> {
    let mut sums: HashMap<Arc<str>, u64> = HashMap::new();
    for sample in &profile.samples {
        let sum = sums.entry(Arc::clone(&profile.labels_of(sample).process)).or_default();
        *sum = sum.saturating_add(sample.values.last().copied().unwrap_or_default());
    }
    let mut sums: Vec<(u64, Arc<str>)> = sums.into_iter().map(|(name, sum)| (sum, name)).collect();
    sums.sort_unstable_by(|a, b| b.cmp(a));
    sums.truncate(MOST_SERVICES);
    sums.into_iter().map(|(_, name)| name).collect()
}

fn labels(profile: &Profile, service: &str, push: &Push) -> Vec<LabelPair> {
    let meta = &profile.meta;
    // The name under which Pyroscope's own agents send CPU time.
    let name = if meta.profile_type == "cpu" { "process_cpu" } else { meta.profile_type.as_str() };
    let name = name.replace('-', "_");
    // An empty value is no label there.
    let service = if service.is_empty() { "unknown" } else { service };
    let own = [
        ("__name__", &*name),
        ("service_name", service),
        ("hostname", &*meta.host),
        ("pyroscope_spy", "perf-agent"),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let given = push.labels.iter().cloned();
    let mut all: Vec<LabelPair> = Vec::new();
    for (name, value) in own.chain(given) {
        match all.iter_mut().find(|known| known.name == name) {
            Some(known) => known.value = value,
            None => all.push(LabelPair { name, value }),
        }
    }
    all.retain(|label| !label.value.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import;
    use crate::output::fixture;
    use crate::profile::ValueType;

    #[test]
    fn each_service_has_a_series_and_all_of_them_are_the_whole() {
        let profile = fixture::hostile();
        let push = Push { labels: vec![("env".to_owned(), "test".to_owned())], ..Push::default() };
        let body = encode(Kind::Pyroscope, &profile, &push).unwrap();
        let request = PushRequest::decode(&*body).unwrap();
        let mut total = 0;
        for series in &request.series {
            let label =
                |name: &str| series.labels.iter().find(|label| label.name == name).map(|label| &*label.value);
            assert_eq!((label("__name__"), label("env")), (Some("process_cpu"), Some("test")));
            let read = import::read_bytes(&series.samples[0].raw_profile).unwrap();
            let service = label("service_name").unwrap();
            assert!(
                read.labels.iter().all(|labels| *labels.process == *service || labels.process.is_empty())
            );
            total += read.total(read.default_value());
        }
        assert_eq!(total, profile.total(profile.default_value()));
    }

    #[test]
    fn waits_keep_their_values_and_have_a_name_of_their_own() {
        let mut profile = fixture::hostile();
        profile.meta.profile_type = "off-cpu".to_owned();
        profile.value_types =
            vec![ValueType::new("waits", "count"), ValueType::new("off_cpu", "nanoseconds")];
        let request = pyroscope(&profile, &Push::default()).unwrap();
        for series in &request.series {
            let name = series.labels.iter().find(|label| label.name == "__name__").unwrap();
            assert_eq!(name.value, "off_cpu");
            let read = import::read_bytes(&series.samples[0].raw_profile).unwrap();
            assert_eq!(read.value_types, profile.value_types);
        }
    }

    #[test]
    fn many_services_go_together() {
        let mut b = fixture::Builder::new();
        let location = b.location(None, 1, crate::profile::FrameKind::Native, &[(b"main", None)]);
        for pid in 0..1_000_u32 {
            b.sample(&[location], (pid, pid), (format!("p{pid}").as_bytes(), b"t"), [1, u64::from(pid)]);
        }
        let profile = b.inner.finish(fixture::meta(), fixture::hostile().quality);
        let request = pyroscope(&profile, &Push::default()).unwrap();
        assert_eq!(request.series.len(), MOST_SERVICES + 1);
        assert!(request.series.last().unwrap().labels.iter().any(|label| label.value == "other"));
    }
}
