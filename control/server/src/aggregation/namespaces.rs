//! Empties namespaces that are being deleted of what other API servers hold there, and says what is left, which the Namespace
//! controller waits for ([`coracle_api::extensions`]). It is a task of its own because controllers do no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::extensions::Leftover;
use coracle_api::json::Json as _;
use coracle_api::{Object, kinds};
use http::Method;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::check::ask;
use super::{Aggregator, Remote};
use crate::registry::Registry;

/// How soon a namespace is looked at again that is not empty: at first, and at last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// How often all of them are looked for.
const RESYNC: Duration = Duration::from_secs(60);
/// Namespaces that are emptied at a time.
const AT_ONCE: usize = 8;

/// For as long as the server lives.
pub(crate) async fn empty(aggregator: Aggregator, registry: Registry) {
    let mut changes = registry.cache.changes();
    let mut resync = tokio::time::interval(RESYNC);
    // When a namespace is to be looked at, and how often it was in vain.
    let mut waiting: BTreeMap<String, (Instant, u32)> = BTreeMap::new();
    let mut running: JoinSet<(String, bool)> = JoinSet::new();
    loop {
        let due = waiting.values().map(|(due, _)| *due).min().filter(|_| running.len() < AT_ONCE);
        tokio::select! {
            change = changes.recv() => match change {
                Ok(change) => {
                    if let Some(namespace) = &change.new
                        && is_going(namespace)
                        && !change.old.as_deref().is_some_and(is_going)
                    {
                        waiting.insert(namespace.meta.name.clone(), (Instant::now(), 0));
                    }
                }
                Err(RecvError::Lagged(_)) => resync.reset_immediately(),
                Err(RecvError::Closed) => return,
            },
            _ = resync.tick() => {
                let cluster = registry.cache.read();
                for namespace in cluster.list(&kinds::NAMESPACE).filter(|it| is_going(it)) {
                    waiting.entry(namespace.meta.name.clone()).or_insert((Instant::now(), 0));
                }
            }
            Some(done) = running.join_next(), if !running.is_empty() => {
                if let Ok((name, done)) = done && done {
                    waiting.remove(&name);
                }
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(|| Instant::now() + RESYNC)) => {
                let now = Instant::now();
                for (name, (due, tries)) in &mut waiting {
                    if *due > now || running.len() >= AT_ONCE {
                        continue;
                    }
                    *due = now + (RETRY.0 * 2u32.saturating_pow(*tries)).min(RETRY.1);
                    *tries = (*tries + 1).min(8);
                    let (aggregator, registry, name) = (aggregator.clone(), registry.clone(), name.clone());
                    running.spawn(async move {
                        let done = one(&aggregator, &registry, &name).await;
                        (name, done)
                    });
                }
            }
        }
    }
}

fn is_going(object: &Object) -> bool {
    object.kind.resource == kinds::NAMESPACE.resource && object.is_deleting()
}

/// Empties one, and tells what is left; whether that is nothing.
async fn one(aggregator: &Aggregator, registry: &Registry, name: &str) -> bool {
    let namespace = registry.cache.get(&kinds::NAMESPACE, "", name);
    let Some(namespace) = namespace.filter(|namespace| namespace.is_deleting()) else {
        return true;
    };
    let mut left = Leftover::default();
    for remote in aggregator.remotes().all() {
        of_remote(remote, name, &mut left).await;
    }
    let done = left.is_empty();
    registry.cache.tell_extensions(&namespace.meta.uid, left);
    done
}

async fn of_remote(remote: &Arc<Remote>, namespace: &str, left: &mut Leftover) {
    let version = format!("{}/{}", remote.group, remote.version);
    let resources = match &remote.resources {
        Some(resources) => deletable(resources),
        None if remote.available => return,
        None => {
            let why = "the server is currently unable to handle the request";
            left.unknown.push((version, why.to_owned()));
            return;
        }
    };
    // What has nothing to delete need not be asked, whether it is there or not.
    for (resource, whole) in resources {
        let named = format!("{resource}.{}", remote.group);
        if !remote.available {
            let why = "the server is currently unable to handle the request";
            left.unknown.push((version, why.to_owned()));
            return;
        }
        let path = format!("/apis/{version}/namespaces/{namespace}/{resource}");
        if let Err(why) = delete(remote, &path, whole).await {
            left.failed.push(format!("{named}: {why}"));
            continue;
        }
        match items(remote, &path).await {
            Ok(items) if items.is_empty() => {}
            Ok(items) => {
                for item in &items {
                    for finalizer in
                        item.list(&["metadata", "finalizers"]).iter().filter_map(Value::as_str)
                    {
                        match left.finalizers.iter_mut().find(|(known, _)| known == finalizer) {
                            Some((_, count)) => *count += 1,
                            None => left.finalizers.push((finalizer.to_owned(), 1)),
                        }
                    }
                }
                left.remaining.push((named, items.len()));
            }
            Err(why) => left.failed.push(format!("{named}: {why}")),
        }
    }
}

/// Resources whose objects are in namespaces and can be deleted, and whether all at once.
fn deletable(resources: &[Value]) -> Vec<(&str, bool)> {
    let all =
        resources.iter().filter(|it| it.flag(&["namespaced"]) && !it.text(&["name"]).contains('/'));
    let has = |it: &Value, verb: &str| it.list(&["verbs"]).iter().any(|known| known == verb);
    all.filter(|it| has(it, "delete") && has(it, "list"))
        .map(|it| (it.text(&["name"]), has(it, "deletecollection")))
        .collect()
}

async fn delete(remote: &Remote, path: &str, whole: bool) -> Result<(), String> {
    if whole {
        return succeed(ask(remote, Method::DELETE, path).await?.0.as_u16());
    }
    for item in items(remote, path).await? {
        let path = format!("{path}/{}", item.text(&["metadata", "name"]));
        succeed(ask(remote, Method::DELETE, &path).await?.0.as_u16())?;
    }
    Ok(())
}

/// What was to be deleted may be gone already.
fn succeed(code: u16) -> Result<(), String> {
    match code {
        200..=299 | 404 => Ok(()),
        code => Err(format!("it answers {code}")),
    }
}

async fn items(remote: &Remote, path: &str) -> Result<Vec<Value>, String> {
    let (status, body) = ask(remote, Method::GET, path).await?;
    succeed(status.as_u16())?;
    if !status.is_success() {
        return Ok(Vec::new());
    }
    let mut list: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    match list["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Ok(Vec::new()),
    }
}
