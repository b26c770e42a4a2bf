//! `events.k8s.io/v1`: the same stored Events as core `v1`, with other field names.

use coracle_api::{Kind, kinds};
use serde_json::Value;

/// Group of the second name of Events.
pub(crate) const GROUP: &str = "events.k8s.io";

/// Stored name, served name.
const FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The kind under which another group's resource is stored.
pub(crate) fn storage_of(group: &str, version: &str, resource: &str) -> Option<&'static Kind> {
    (group == GROUP && version == "v1" && resource == "events").then_some(&kinds::EVENT)
}

/// From how it is stored to how this group shows it.
pub(crate) fn show(event: &mut Value) {
    rename(event, "events.k8s.io/v1", |(stored, served)| (stored, served));
}

/// From how this group writes it to how it is stored.
pub(crate) fn store(event: &mut Value) {
    rename(event, "v1", |(stored, served)| (served, stored));
}

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
