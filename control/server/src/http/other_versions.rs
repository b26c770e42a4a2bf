//! Kinds under a second group or version: the same stored objects in other words. `events.k8s.io/v1` are core Events with other
//! field names; `autoscaling/v1` are autoscalers with one metric.

use coracle_api::kinds::{autoscaling_v1, events_v1};
use coracle_api::{ApiError, FieldError, Kind, Object, kinds};
use serde_json::Value;

/// One of them.
#[derive(Debug)]
pub(crate) struct OtherVersion {
    /// Its group.
    pub(crate) group: &'static str,
    /// Its version.
    pub(crate) version: &'static str,
    /// The kind that is stored, whose names are the same.
    pub(crate) kind: &'static Kind,
    /// From how it is stored to how this version shows it.
    pub(crate) show: fn(&mut Value),
    /// From how this version writes it to how it is stored.
    pub(crate) store: fn(&mut Value),
    /// From the name that field selectors have for a field to its stored one.
    pub(crate) field: fn(&str) -> String,
    /// What this version checks beyond what is checked of what is stored, of a new object or of a change (`new`, `old`).
    check: fn(&Value, Option<&Value>) -> Vec<FieldError>,
}

impl OtherVersion {
    /// Checks an object as it is to be stored, and was, if it was there.
    fn check(&self, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let errors = (self.check)(new, old);
        if errors.is_empty() {
            return Ok(());
        }
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        Err(ApiError::invalid(self.kind, name, &errors))
    }
}

/// Checks what is written in the words of another version, if it is; `new` is as it is to be stored, in that namespace.
///
/// # Errors
/// 422, with each field that is wrong.
pub(super) fn check(
    other: Option<&OtherVersion>,
    namespace: &str,
    new: &Value,
    old: Option<&Object>,
) -> Result<(), ApiError> {
    let Some(other) = other else { return Ok(()) };
    match old {
        Some(old) => other.check(new, Some(&old.value())),
        None => {
            let mut placed = new.clone();
            placed["metadata"]["namespace"] = namespace.into();
            other.check(&placed, None)
        }
    }
}

impl OtherVersion {
    /// Group and version, as objects say them.
    pub(crate) fn api_version(&self) -> String {
        format!("{}/{}", self.group, self.version)
    }
}

/// All of them.
pub(crate) static ALL: [OtherVersion; 2] = [
    OtherVersion {
        group: "events.k8s.io",
        version: "v1",
        kind: &kinds::EVENT,
        show: |event| rename(event, "events.k8s.io/v1", |(stored, served)| (stored, served)),
        store: |event| rename(event, "v1", |(stored, served)| (served, stored)),
        field: |path| {
            let (first, rest) = path.split_once('.').unwrap_or((path, ""));
            match FIELDS.iter().find(|(_, served)| *served == first) {
                Some((stored, _)) if rest.is_empty() => (*stored).to_owned(),
                Some((stored, _)) => format!("{stored}.{rest}"),
                None => path.to_owned(),
            }
        },
        check: events_v1::check,
    },
    OtherVersion {
        group: "autoscaling",
        version: autoscaling_v1::VERSION,
        kind: &kinds::HORIZONTAL_POD_AUTOSCALER,
        show: autoscaling_v1::show,
        store: autoscaling_v1::store,
        field: str::to_owned,
        check: |_, _| Vec::new(),
    },
];

/// The one that is addressed, if it is none of the table of kinds.
pub(crate) fn of(group: &str, version: &str, resource: &str) -> Option<&'static OtherVersion> {
    let is_it = |other: &&OtherVersion| {
        (other.group, other.version, other.kind.plural) == (group, version, resource)
    };
    ALL.iter().find(is_it)
}

/// Those of a group and version.
pub(crate) fn in_group(
    group: &str,
    version: &str,
) -> impl Iterator<Item = &'static OtherVersion> + use<> {
    let of_group = |other: &&OtherVersion| other.group == group && other.version == version;
    ALL.iter().filter(of_group).collect::<Vec<_>>().into_iter()
}

/// Fields of Events: stored name, served name.
const FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(
    event: &mut Value,
    api_version: &str,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map) = event.as_object_mut() else { return };
    map.insert("apiVersion".into(), api_version.into());
    for pair in FIELDS {
        let (from, to) = direction(*pair);
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}
