//! Keeps the conditions of APIServices, and what is known of who answers for them: looks at each when it, its Service or the
//! Service's endpoints change, when somebody did not get an answer, and every now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use coracle_api::json::Json as _;
use coracle_api::{Change, Object, kinds};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::check::{self, Found};
use super::{Aggregator, Remote};
use crate::reach::SERVICE_NAME;
use crate::registry::{Part, Registry, WriteOptions, now};

/// How often one is asked that is there, and how soon one that is not: at first, and at last.
const AGAIN: Duration = Duration::from_secs(30);
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// So many are asked at a time.
const AT_ONCE: usize = 16;
/// One that was asked a moment ago is not asked again because of a doubt.
const MOMENT: Duration = Duration::from_secs(1);

/// When an APIService is to be looked at.
struct Plan {
    due: Instant,
    last: Option<Instant>,
    failures: u32,
}

/// Follows the cluster for as long as the server lives.
pub(crate) async fn follow(aggregator: Aggregator, registry: Registry) {
    let mut changes = registry.cache.changes();
    let doubts = aggregator.0.doubts.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut doubts) = doubts else { return };
    let mut plans = everything(&aggregator, &registry);
    let mut running: JoinSet<(String, bool)> = JoinSet::new();
    let mut busy = BTreeSet::new();
    loop {
        start(&aggregator, &registry, &mut plans, &mut running, &mut busy);
        let due = plans.iter().filter(|(name, _)| !busy.contains(*name)).map(|(_, p)| p.due).min();
        let due = due.filter(|_| busy.len() < AT_ONCE);
        let wake = tokio::time::sleep_until(due.unwrap_or_else(|| Instant::now() + AGAIN));
        tokio::select! {
            change = changes.recv() => match change {
                Ok(change) => take(&aggregator, &change, &mut plans),
                Err(RecvError::Lagged(_)) => plans = everything(&aggregator, &registry),
                Err(RecvError::Closed) => return,
            },
            Some(name) = doubts.recv() => {
                if let Some(plan) = plans.get_mut(&name)
                    && plan.last.is_none_or(|last| last.elapsed() >= MOMENT)
                {
                    plan.due = Instant::now();
                }
            }
            Some(done) = running.join_next(), if !running.is_empty() => {
                let Ok((name, fine)) = done else {
                    busy.clear();
                    running.abort_all();
                    continue;
                };
                busy.remove(&name);
                if let Some(plan) = plans.get_mut(&name) {
                    plan.failures = if fine { 0 } else { plan.failures.saturating_add(1) };
                    let later = RETRY.0 * 2u32.saturating_pow(plan.failures.min(8).saturating_sub(1));
                    let later = if fine { AGAIN } else { later.min(RETRY.1) };
                    // Something may have changed meanwhile.
                    if plan.last.is_some_and(|last| plan.due <= last) {
                        plan.due = Instant::now() + later;
                    }
                }
            }
            () = wake => {}
        }
    }
}

/// Everything is to be looked at, but what this server answers itself and says so.
fn everything(aggregator: &Aggregator, registry: &Registry) -> BTreeMap<String, Plan> {
    let all: Vec<_> = registry.cache.read().list(&kinds::API_SERVICE).cloned().collect();
    let known: BTreeSet<&String> = all.iter().map(|api| &api.meta.name).collect();
    for remote in aggregator.remotes().all().filter(|remote| !known.contains(&remote.name)) {
        aggregator.forget(&remote.name);
    }
    all.iter().for_each(|api| aggregator.put(api));
    let asked = all.iter().filter(|api| is_to_be_asked(api));
    asked
        .map(|api| (api.meta.name.clone(), Plan { due: Instant::now(), last: None, failures: 0 }))
        .collect()
}

fn is_to_be_asked(api: &Object) -> bool {
    let tree = api.value();
    let is_local = tree.at(&["spec", "service"]).is_none();
    let conditions = tree.list(&["status", "conditions"]);
    !is_local || !conditions.iter().any(|c| c["type"] == "Available" && c["reason"] == "Local")
}

/// Takes in what a change makes of who answers for what.
fn take(aggregator: &Aggregator, change: &Change, plans: &mut BTreeMap<String, Plan>) {
    let Some(object) = change.object() else { return };
    let resource = object.kind.resource;
    if resource == kinds::API_SERVICE.resource {
        let name = &object.meta.name;
        let before = aggregator.remotes().0.get(name).cloned();
        match &change.new {
            Some(api) => {
                aggregator.put(api);
                let after = aggregator.remotes().0.get(name).cloned();
                let same = match (&before, &after) {
                    (Some(before), Some(after)) => before.is_like(after),
                    (before, after) => before.is_none() && after.is_none(),
                };
                if is_to_be_asked(api) && (!same || !plans.contains_key(name)) {
                    plans.remove(name);
                    plans.insert(
                        name.clone(),
                        Plan { due: Instant::now(), last: None, failures: 0 },
                    );
                } else if !is_to_be_asked(api) {
                    plans.remove(name);
                }
            }
            None => {
                aggregator.forget(name);
                plans.remove(name);
            }
        }
        return;
    }
    let is_service = resource == kinds::SERVICE.resource;
    let service = if is_service {
        Some(&object.meta.name)
    } else if resource == kinds::ENDPOINT_SLICE.resource {
        object.meta.labels.get(SERVICE_NAME)
    } else {
        None
    };
    let Some(service) = service else { return };
    let mut look = |name: &str| {
        let plan = plans.entry(name.to_owned());
        let plan = plan.or_insert(Plan { due: Instant::now(), last: None, failures: 0 });
        plan.due = Instant::now();
        plan.failures = 0;
    };
    for remote in aggregator.remotes().all() {
        if remote.service.0 == object.meta.namespace && remote.service.1 == *service {
            look(&remote.name);
        }
    }
}

/// Begins what is due.
fn start(
    aggregator: &Aggregator,
    registry: &Registry,
    plans: &mut BTreeMap<String, Plan>,
    running: &mut JoinSet<(String, bool)>,
    busy: &mut BTreeSet<String>,
) {
    let now = Instant::now();
    for (name, plan) in plans.iter_mut() {
        if busy.len() >= AT_ONCE {
            return;
        }
        if plan.due > now || busy.contains(name) {
            continue;
        }
        plan.last = Some(now);
        plan.due = plan.due.min(now);
        busy.insert(name.clone());
        let (aggregator, registry, name) = (aggregator.clone(), registry.clone(), name.clone());
        running.spawn(async move {
            let fine = look(&aggregator, &registry, &name).await;
            (name, fine)
        });
    }
}

/// Looks at one; whether it is there.
async fn look(aggregator: &Aggregator, registry: &Registry, name: &str) -> bool {
    let remote = aggregator.remotes().0.get(name).cloned();
    let (found, remote) = match remote {
        Some(remote) => (check::check(&registry.cache, &remote).await, Some(remote)),
        None => (Found::local(), None),
    };
    let fine = found.available();
    if let Some(remote) = &remote {
        aggregator.found(remote, found.clone());
    }
    tell(registry, name, remote.as_deref(), &found).await && fine
}

/// Writes what was found into the APIService's status, if it is the one that was looked at.
async fn tell(registry: &Registry, name: &str, remote: Option<&Remote>, found: &Found) -> bool {
    let current = registry.cache.get(&kinds::API_SERVICE, "", name);
    let Some(api) = current.filter(|api| remote.is_none_or(|remote| remote.uid == api.meta.uid))
    else {
        return true;
    };
    // Not this server's any more: it is to be looked at anew.
    if remote.is_none() && api.value().has(&["spec", "service"]) {
        return true;
    }
    let at = now();
    if found.among(api.value().list(&["status", "conditions"]), &at).is_none() {
        return true;
    }
    let options = WriteOptions::of_component("apiservice-availability");
    let written =
        registry.update(&kinds::API_SERVICE, ("", name), Part::Status, options, |_, mut tree| {
            if let Some(conditions) = found.among(tree.list(&["status", "conditions"]), &at) {
                tree["status"]["conditions"] = conditions.into();
            }
            Ok(tree)
        });
    match written.await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, name, "the condition of an APIService was not written");
            error.code == 404
        }
    }
}
