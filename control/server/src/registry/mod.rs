//! The one path by which anything is written, whoever writes: HTTP clients, controllers' plans, the scheduler.
//!
//! patch → default → mutate → validate → admit → commit, for every kind alike; what differs between kinds is in the table of
//! kinds. Reads of the object to change come from the watch cache, and every commit carries the revision that was read,
//! so a stale read costs a retry and never an update. Next step of the apply trace: the store, then [`crate::cache`].

mod admission;
mod allocate;
mod bind;
mod commit;
mod create;
mod delete;
mod fields;
mod meta;
mod scale;
mod update;
mod validate;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_api::pod::tolerate_lost_nodes;
use coracle_api::{ApiError, Kind, Object};
use coracle_store::Store;
use serde_json::Value;

use crate::cache::Cache;
use crate::custom::Served;
use crate::reach::Reach;
pub(crate) use admission::{
    Caller, Clients, Gv, Operation, Request, Requested, Trust, cause, roots,
};
pub(crate) use allocate::ServiceRanges;
pub(crate) use delete::{DeleteOptions, Deleted, Preconditions, answers_with_object};
pub(crate) use fields::{FieldWriter, ignored as ignored_fields};
pub(crate) use meta::{now, seconds};
pub(crate) use scale::{from_object as scale_of, into_object as scale_into};
pub(crate) use update::Part;

/// Attempts of an unconditional write that keeps meeting newer revisions.
const ATTEMPTS: usize = 16;
/// How long a reader waits for the cache to reach a revision that the store already has.
const CATCH_UP: Duration = Duration::from_secs(10);

/// See the module. Clones share everything.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) store: Store,
    pub(crate) cache: Cache,
    /// The way to what runs in the cluster.
    pub(crate) reach: Reach,
    ranges: Arc<ServiceRanges>,
    taken: Arc<Mutex<allocate::Taken>>,
    webhooks: Arc<admission::Webhooks>,
    ledger: admission::Ledger,
    toleration_seconds: [i64; 2],
    policies: Arc<admission::Policies>,
}

/// What a writer may ask for beside the write.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    /// Do everything but commit.
    pub(crate) dry_run: bool,
    /// On whose account the written fields are.
    pub(crate) fields: FieldWriter,
    /// Who writes.
    pub(crate) caller: Caller,
    /// The version that was written to, where it is not the stored one.
    pub(crate) requested: Option<Requested>,
}

impl WriteOptions {
    /// What a controller or the scheduler writes.
    pub(crate) fn of_component(name: &'static str) -> Self {
        Self { caller: Caller::Component(name), ..Self::default() }
    }

    /// What admission is asked about a write with these options.
    fn request<'a>(
        &'a self,
        operation: Operation,
        kind: &'static Kind,
        place: (&'a str, &'a str),
    ) -> Request<'a> {
        let mut request = Request::new(operation, kind, place, &self.caller);
        if let FieldWriter::Client { manager, .. } = &self.fields {
            request.manager = manager;
        }
        request.requested = self.requested;
        request.dry_run = self.dry_run;
        request
    }
}

impl Registry {
    /// `toleration_seconds` are what Pods tolerate that do not say: nodes that are not ready, and nodes that are unreachable.
    pub(crate) fn new(
        store: Store,
        cache: Cache,
        reach: Reach,
        ranges: ServiceRanges,
        toleration_seconds: [i64; 2],
    ) -> Self {
        let taken = Arc::default();
        let webhooks = Arc::new(admission::Webhooks::new(reach.clone()));
        let (ledger, policies) = (admission::Ledger::default(), Arc::default());
        let ranges = Arc::new(ranges);
        Self { webhooks, ledger, policies, store, cache, reach, ranges, taken, toleration_seconds }
    }

    /// Fills in what the kind fills in, as this cluster has it.
    fn fill_in(&self, kind: &Kind, tree: &mut Value) {
        if kind.is_pod()
            && let Some(spec) = tree.get_mut("spec").and_then(Value::as_object_mut)
        {
            tolerate_lost_nodes(spec, self.toleration_seconds);
        }
        (kind.default)(tree);
        if let Ok(Some(custom)) = self.custom(kind) {
            custom.version().structure.fill_in(tree);
        }
    }

    /// What defines the kind; none for built-in kinds.
    pub(crate) fn custom(&self, kind: &Kind) -> Result<Option<Served>, ApiError> {
        self.cache.definitions().of(kind)
    }

    /// The object as the kind's version shows it.
    pub(crate) async fn show(
        &self,
        kind: &'static Kind,
        object: Arc<Object>,
    ) -> Result<Arc<Object>, ApiError> {
        self.cache.definitions().show(self.webhooks.clients(), kind, object).await
    }

    /// The objects as the kind's version shows them.
    pub(crate) async fn show_all(
        &self,
        kind: &'static Kind,
        objects: Vec<Arc<Object>>,
    ) -> Result<Vec<Arc<Object>>, ApiError> {
        self.cache.definitions().show_all(self.webhooks.clients(), kind, objects).await
    }

    /// The address of the `kubernetes` Service.
    pub(crate) fn first_service_address(&self) -> std::net::Ipv4Addr {
        self.ranges.first()
    }

    /// Where Services have their addresses: `10.96.0.0/16`.
    pub(crate) fn service_range(&self) -> String {
        format!("{}/{}", self.ranges.network, self.ranges.prefix)
    }

    /// Whether something was acknowledged that the cache does not show yet.
    pub(crate) fn is_behind(&self) -> bool {
        self.cache.revision() < self.store.revision()
    }

    /// Waits until the cache shows all that was acknowledged before this call.
    pub(crate) async fn catch_up(&self) -> Result<(), ApiError> {
        self.cache.wait_for(self.store.revision(), CATCH_UP).await.map_err(|behind| {
            ApiError::unavailable(match self.cache.failure() {
                Some(why) => format!("the watch cache does not follow the store: {why}"),
                None => format!("the watch cache is behind, at revision {}", behind.current),
            })
        })
    }
}

/// RFC 7386, for plans.
pub(crate) fn merge(target: Value, patch: Value) -> Value {
    match patch {
        Value::Object(patch) => {
            let mut map = match target {
                Value::Object(map) => map,
                _ => serde_json::Map::new(),
            };
            for (field, value) in patch {
                if value.is_null() {
                    map.remove(&field);
                } else {
                    let known = map.remove(&field).unwrap_or_default();
                    map.insert(field, merge(known, value));
                }
            }
            Value::Object(map)
        }
        other => other,
    }
}
