//! Events: recording what controllers did, and forgetting it after an hour.

use std::time::Duration;

use coracle_api::kinds;
use jiff::{SignedDuration, Timestamp};

use crate::registry::{DeleteOptions, Preconditions, Registry};

/// How long an Event is kept after it last happened.
const LIFE: SignedDuration = SignedDuration::from_hours(1);
const EVERY: Duration = Duration::from_secs(60);

/// Deletes Events that have not happened for an hour, forever.
pub(crate) async fn expire(registry: Registry) {
    loop {
        tokio::time::sleep(EVERY).await;
        let now = Timestamp::now();
        let old: Vec<_> = registry
            .cache
            .read()
            .list(&kinds::EVENT)
            .filter(|event| {
                // Written anew each time that it happens again.
                let last = last_seen(event).or(event.meta.creation_timestamp).unwrap_or(now);
                now.duration_since(last) > LIFE
            })
            .cloned()
            .collect();
        for event in old {
            let place = (event.meta.namespace.as_str(), event.meta.name.as_str());
            let seen = Preconditions {
                uid: Some(event.meta.uid.clone()),
                revision: Some(event.meta.resource_version),
            };
            let options = DeleteOptions { preconditions: seen, ..DeleteOptions::default() };
            if let Err(error) = registry.delete(&kinds::EVENT, place, &options).await {
                tracing::debug!(event = %event.key(), %error, "an old event stays for now");
            }
        }
    }
}

fn last_seen(event: &coracle_api::Object) -> Option<Timestamp> {
    let created = event.meta.creation_timestamp?;
    // Most events are younger than their limit by creation alone: no need to parse them.
    if Timestamp::now().duration_since(created) <= LIFE {
        return Some(created);
    }
    let tree = event.value();
    ["lastTimestamp", "eventTime"].iter().chain(["series"].iter()).find_map(|field| {
        let value = &tree[*field];
        value.as_str().or_else(|| value["lastObservedTime"].as_str())?.parse().ok()
    })
}
