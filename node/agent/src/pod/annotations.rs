//! What a Pod asks of the Wasm host beyond Kubernetes' own fields: the annotations `coracle.dev/…`.
//!
//! One table of what is read, from which every message is made. They are read when a container starts and not again: a
//! value that cannot be used keeps the container waiting, and says which one it is. `coracle.dev/NAME.CONTAINER` is
//! for one container and goes before `coracle.dev/NAME`; some are taken from the Namespace where the Pod says nothing.
//! Documented for users in `docs/wasm-pods.md`. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_api::go_duration;
use coracle_api::quantity::Quantity;
use coracle_sandbox::{Grants, HttpSpec, LogLimit, Reuse};

/// What all of them begin with.
pub const PREFIX: &str = "coracle.dev/";
/// Requests that an instance serves where `reuse-instances` is just "true".
const REUSE_REQUESTS: u32 = 1000;
/// After how long an idle instance ends, where instances are used again.
const REUSE_IDLE: Duration = Duration::from_secs(1);
/// What a log is rotated at where only the number of its files is given, and the reverse: the kubelet's defaults.
const LOG: LogLimit = LogLimit { bytes: 10 << 20, files: 5 };
/// Rotated files that a reader of logs looks for.
const LOG_FILES: u32 = 32;

/// Annotations of an object.
pub type Annotations = BTreeMap<String, String>;

/// A value that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("annotation {key:?} of the {object}: {value:?} is not allowed; it takes {allowed}")]
pub struct AnnotationError {
    /// The whole key.
    pub key: String,
    /// `Pod` or `Namespace`.
    pub object: &'static str,
    /// What it says.
    pub value: String,
    /// What it could say.
    pub allowed: &'static str,
}

/// Who shares a host process with the Pod; each is stronger than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Isolation {
    /// All Pods of the node.
    #[default]
    Shared,
    /// The Pods of its namespace.
    Namespace,
    /// Nobody.
    Pod,
}

/// What the annotations say of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// How HTTP is served.
    pub http: HttpSpec,
    /// What it may use.
    pub grants: Grants,
    /// When its log is rotated.
    pub log_limit: Option<LogLimit>,
}

/// Where annotations are looked up: the Pod's, and its Namespace's for those that have a default there.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The Pod's.
    pub pod: &'a Annotations,
    /// The Namespace's.
    pub namespace: &'a Annotations,
}

/// What is said of the Pod's isolation.
pub fn isolation(from: Source<'_>) -> Result<Isolation, AnnotationError> {
    let read = |text: &str| match text {
        "shared" => Some(Isolation::Shared),
        "namespace" => Some(Isolation::Namespace),
        "pod" => Some(Isolation::Pod),
        _ => None,
    };
    let allowed = "\"shared\", \"namespace\" or \"pod\"";
    Ok(from.defaulted("isolation", None, allowed, read)?.unwrap_or_default())
}

/// What is said of a container.
pub fn settings(from: Source<'_>, container: &str) -> Result<Settings, AnnotationError> {
    const COUNT: &str = "a whole number from 1";
    const SIZE: &str = "a quantity of bytes, such as \"512Ki\" or \"10Mi\"";
    let own = Reader { from, container };
    let mut http = HttpSpec {
        timeout_seconds: own.value(
            "request-timeout",
            "a duration of at least a second, such as \"30s\" or \"1m30s\"",
            seconds,
        )?,
        max_active: own.value("max-concurrent-requests", COUNT, count)?,
        max_waiting: own.value("max-queued-requests", "a whole number from 0", |t| {
            digits(t).and_then(|t| t.parse().ok())
        })?,
        max_request_bytes: own.value("max-request-body", SIZE, bytes)?,
        max_response_bytes: own.value("max-response-body", SIZE, bytes)?,
        ..HttpSpec::default()
    };
    http.access_log =
        own.value("access-log", "\"true\" or \"false\"", |t| t.parse().ok())?.unwrap_or(false);
    let reuse = own.value(
        "reuse-instances",
        "\"true\", \"false\" or the number of requests that one instance may serve",
        |text| match text {
            "true" => Some(Some(REUSE_REQUESTS)),
            "false" => Some(None),
            number => count(number).map(Some),
        },
    )?;
    http.reuse = reuse.flatten().map(|max_requests| Reuse {
        max_requests,
        idle_milliseconds: REUSE_IDLE.as_millis().try_into().unwrap_or(u32::MAX),
    });
    let log_bytes = own.value("log-max-size", "a quantity of at least \"1Ki\"", |text| {
        bytes(text).filter(|bytes| *bytes >= 1024)
    })?;
    let log_files = own.value("log-max-files", "a whole number from 1 to 32", |text| {
        count(text).filter(|files| *files <= LOG_FILES)
    })?;
    let log_limit = (log_bytes.is_some() || log_files.is_some()).then(|| LogLimit {
        bytes: log_bytes.unwrap_or(LOG.bytes),
        files: log_files.unwrap_or(LOG.files),
    });
    let allowed = "a list of \"http\", \"sockets\", \"names\" and \"clocks\" with commas between them, or \"all\", or \"none\"";
    let grants = from.defaulted("grants", Some(container), allowed, grants)?.unwrap_or_default();
    Ok(Settings { http, grants, log_limit })
}

impl<'a> Source<'a> {
    /// The Pod's word, else the Namespace's.
    fn defaulted<T>(
        self,
        name: &str,
        container: Option<&str>,
        allowed: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, AnnotationError> {
        let own = container.and_then(|c| find(self.pod, format!("{PREFIX}{name}.{c}")));
        let own = own.or_else(|| find(self.pod, format!("{PREFIX}{name}")));
        let (object, found) = match own {
            Some(own) => ("Pod", Some(own)),
            None => ("Namespace", find(self.namespace, format!("{PREFIX}{name}"))),
        };
        let Some((key, value)) = found else { return Ok(None) };
        parse(object, key, value, allowed, read).map(Some)
    }
}

/// Looks up what only a Pod can say.
struct Reader<'a> {
    from: Source<'a>,
    container: &'a str,
}

impl Reader<'_> {
    fn value<T>(
        &self,
        name: &str,
        allowed: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, AnnotationError> {
        // Most Pods have none: no key is put together for these.
        if self.from.pod.is_empty() {
            return Ok(None);
        }
        let own = find(self.from.pod, format!("{PREFIX}{name}.{}", self.container));
        let own = own.or_else(|| find(self.from.pod, format!("{PREFIX}{name}")));
        own.map(|(key, value)| parse("Pod", key, value, allowed, read)).transpose()
    }
}

fn find(annotations: &Annotations, key: String) -> Option<(String, &str)> {
    annotations.get(&key).map(|value| (key, value.as_str()))
}

fn parse<T>(
    object: &'static str,
    key: String,
    value: &str,
    allowed: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, AnnotationError> {
    read(value.trim()).ok_or_else(|| AnnotationError {
        key,
        object,
        value: value.to_owned(),
        allowed,
    })
}

fn grants(text: &str) -> Option<Grants> {
    let none = Grants { http: false, sockets: false, names: false, clocks: false };
    match text {
        "all" => return Some(Grants::default()),
        "none" => return Some(none),
        _ => {}
    }
    let mut grants = none;
    for word in text.split(',') {
        match word.trim() {
            "http" => grants.http = true,
            "sockets" => grants.sockets = true,
            "names" => grants.names = true,
            "clocks" => grants.clocks = true,
            _ => return None,
        }
    }
    Some(grants)
}

/// Numbers as YAML writers mean them: no sign, no spaces within.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

fn count(text: &str) -> Option<u32> {
    digits(text)?.parse().ok().filter(|count| *count > 0)
}

fn bytes(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<Quantity>().ok()?.value()).ok()
}

/// A Go duration in whole seconds, rounded up; at least one.
fn seconds(text: &str) -> Option<u32> {
    let length = duration(text)?;
    let whole = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    (length >= Duration::from_secs(1)).then(|| u32::try_from(whole).ok()).flatten()
}

/// A duration that is not negative.
fn duration(text: &str) -> Option<Duration> {
    go_duration::parse(text).and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests;
