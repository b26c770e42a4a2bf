//! ResourceQuota: what a namespace may use at most.
//!
//! What is used is what the watch cache shows, and what has been let in and does not show yet. The latter is kept here, under one
//! lock with the former, so that no two requests are let in on the same room: nothing is written for that, and what a crash
//! forgets has not been stored. What the status of a quota says is for people; its controller sums it up.
//!
//! Nothing is kept of namespaces without quotas, and changes are followed only while there are some.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_api::json::Json;
use coracle_api::quota::{self, Amounts};
use coracle_api::{ApiError, Change, Cluster, Kind, Object, kinds};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

use super::{Operation, Request};
use crate::registry::Registry;

/// See the module; clones share it.
#[derive(Clone, Default)]
pub(in crate::registry) struct Ledger(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    changes: Option<broadcast::Receiver<Arc<Change>>>,
    /// By the UID of the quota.
    accounts: HashMap<String, Account>,
    /// What was let in and has not been seen, by the UID of the object.
    pending: HashMap<String, Pending>,
}

/// What is used of one quota by all that has been seen.
struct Account {
    namespace: String,
    /// Of the quota: a change of its status makes no other account.
    revision: u64,
    spec: Value,
    name: String,
    used: Amounts,
    /// All changes up to this revision are in `used`; of later ones, those that were followed.
    since: u64,
}

struct Pending {
    /// The object was at this revision; 0 for a new one.
    revision: u64,
    /// By the UID of the quota.
    charges: Vec<(String, Amounts)>,
    /// Whether it is stored, and at which revision.
    stored: Option<u64>,
}

/// Room that was taken for an object; given back where nothing comes of it.
pub(in crate::registry) struct Charge {
    ledger: Ledger,
    uid: String,
}

impl Charge {
    /// The object was stored.
    pub(in crate::registry) fn keep(self, revision: u64) {
        if let Some(pending) = self.ledger.lock().pending.get_mut(&self.uid) {
            pending.stored = Some(revision);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = self.ledger.lock();
        if state.pending.get(&self.uid).is_some_and(|pending| pending.stored.is_none()) {
            state.pending.remove(&self.uid);
        }
    }
}

/// Whether a request may use more than before of what quotas limit.
fn may_use(request: &Request<'_>) -> bool {
    let kind = request.kind.resource;
    match (request.operation, request.subresource) {
        (Operation::Create, "") => kind != kinds::EVENT.resource,
        (Operation::Update, "") => {
            kind == kinds::SERVICE.resource || kind == kinds::PERSISTENT_VOLUME_CLAIM.resource
        }
        (Operation::Update, "resize") => true,
        _ => false,
    }
}

impl Registry {
    /// Takes room in the quotas of the namespace for what an object comes to use, to be kept once it is stored. `None` where no
    /// quota is concerned, and for a dry run.
    ///
    /// # Errors
    /// 403, saying which quota has no room.
    pub(in crate::registry) fn charge(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<Option<Charge>, ApiError> {
        if !request.kind.namespaced || request.caller.is_server() || !may_use(request) {
            return Ok(None);
        }
        if self.cache.read().count(&kinds::RESOURCE_QUOTA) == 0 {
            return Ok(None);
        }
        let mut state = self.ledger.lock();
        state.follow(self);
        let cluster = self.cache.read();
        let quotas: Vec<Arc<Object>> =
            cluster.list_in(&kinds::RESOURCE_QUOTA, request.namespace).cloned().collect();
        let mut charges = Vec::new();
        for quota in &quotas {
            state.open(&cluster, quota);
            let charge = state.check(request, &quota.meta.uid, old, new)?;
            charges.extend(charge.map(|amounts| (quota.meta.uid.clone(), amounts)));
        }
        let uid = new.text(&["metadata", "uid"]).to_owned();
        if charges.is_empty() || request.dry_run || uid.is_empty() {
            return Ok(None);
        }
        let revision = old.map_or("", |old| old.text(&["metadata", "resourceVersion"]));
        let revision = revision.parse().unwrap_or(0);
        state.pending.insert(uid.clone(), Pending { revision, charges, stored: None });
        drop(state);
        Ok(Some(Charge { ledger: self.ledger.clone(), uid }))
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes in what has changed since it last looked.
    fn follow(&mut self, registry: &Registry) {
        let Some(mut changes) = self.changes.take() else {
            self.accounts.clear();
            self.changes = Some(registry.cache.changes());
            return;
        };
        loop {
            match changes.try_recv() {
                Ok(change) => self.see(&change),
                Err(TryRecvError::Empty) => break,
                // Too much was missed: all accounts are made anew.
                Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => {
                    self.accounts.clear();
                    changes = registry.cache.changes();
                    break;
                }
            }
        }
        self.changes = Some(changes);
    }

    fn see(&mut self, change: &Change) {
        let Some(object) = change.object() else { return };
        if !object.kind.namespaced {
            return;
        }
        if object.kind.resource == kinds::RESOURCE_QUOTA.resource && change.new.is_none() {
            self.accounts.remove(&object.meta.uid);
        }
        let seen = |pending: &Pending| change.revision > pending.revision;
        if self.pending.get(&object.meta.uid).is_some_and(seen) {
            self.pending.remove(&object.meta.uid);
        }
        let of_it = |account: &&mut Account| {
            account.namespace == object.meta.namespace && change.revision > account.since
        };
        let mut concerned = self.accounts.values_mut().filter(of_it).peekable();
        if concerned.peek().is_none() {
            return;
        }
        let of = |object: &Option<Arc<Object>>| object.as_ref().map(|object| object.value());
        let (old, new) = (of(&change.old), of(&change.new));
        for account in concerned {
            let quota = serde_json::json!({"spec": account.spec});
            let counts = |tree: &Value| quota::concerns(&quota, object.kind, tree);
            if let Some(old) = old.as_ref().filter(|old| counts(old)) {
                quota::subtract(&mut account.used, &quota::usage(object.kind, old));
            }
            if let Some(new) = new.as_ref().filter(|new| counts(new)) {
                quota::add(&mut account.used, &quota::usage(object.kind, new));
            }
        }
    }

    /// Has an account of the quota as it is.
    fn open(&mut self, cluster: &Cluster, quota: &Object) {
        if let Some(account) = self.accounts.get_mut(&quota.meta.uid) {
            if account.revision == quota.meta.resource_version {
                return;
            }
            if account.spec == quota.value()["spec"] {
                account.revision = quota.meta.resource_version;
                return;
            }
        }
        let since = cluster.revision();
        let account = Account {
            namespace: quota.meta.namespace.clone(),
            revision: quota.meta.resource_version,
            spec: quota.value()["spec"].take(),
            name: quota.meta.name.clone(),
            used: quota::used(cluster, quota),
            since,
        };
        // What this count holds is not pending for it; what came and went meanwhile is nowhere.
        let uid = &quota.meta.uid;
        self.pending.retain(|object, pending| {
            let stored = pending.stored.is_some_and(|revision| revision <= since);
            let counted = stored || is_there(cluster, &account.namespace, object, pending.revision);
            if counted {
                pending.charges.retain(|(quota, _)| quota != uid);
            }
            !pending.charges.is_empty()
        });
        self.accounts.insert(uid.clone(), account);
    }

    /// What an object would be charged to a quota; `None` if the quota is not about it, or it uses no more than before.
    fn check(
        &self,
        request: &Request<'_>,
        uid: &str,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<Option<Amounts>, ApiError> {
        let Some(account) = self.accounts.get(uid) else { return Ok(None) };
        let tree = serde_json::json!({"spec": account.spec});
        let kind: &'static Kind = request.kind;
        if !quota::concerns(&tree, kind, new) {
            return Ok(None);
        }
        let name = new.text(&["metadata", "name"]);
        let refuse = |why: String| Err(ApiError::forbidden(kind, name, &why));
        if let Some(unsaid) = quota::unsaid(&tree, kind, new) {
            return refuse(format!("failed quota: {}: {unsaid}", account.name));
        }
        let hard = quota::amounts(tree.at(&["spec", "hard"]));
        let mut delta = quota::usage(kind, new);
        if let Some(old) = old.filter(|old| quota::concerns(&tree, kind, old)) {
            quota::subtract(&mut delta, &quota::usage(kind, old));
        }
        delta.retain(|name, amount| {
            hard.contains_key(name) && !amount.is_zero() && !amount.is_negative()
        });
        if delta.is_empty() {
            return Ok(None);
        }
        let mut used = account.used.clone();
        let own = new.text(&["metadata", "uid"]);
        for (object, pending) in &self.pending {
            // A second attempt at the same write takes the room of the first.
            if object == own {
                continue;
            }
            for (_, charge) in pending.charges.iter().filter(|(of, _)| of == uid) {
                quota::add(&mut used, charge);
            }
        }
        let exceeded = |name: &String| used[name] + delta[name] > hard[name];
        let names: Vec<&String> = delta.keys().filter(|name| exceeded(name)).collect();
        if names.is_empty() {
            return Ok(Some(delta));
        }
        let print =
            |amounts: &Amounts| quota::print(names.iter().map(|name| (*name, &amounts[*name])));
        refuse(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            account.name,
            print(&delta),
            print(&used),
            print(&hard)
        ))
    }
}

/// Whether an object of that UID shows, newer than that revision.
fn is_there(cluster: &Cluster, namespace: &str, uid: &str, revision: u64) -> bool {
    kinds::ALL.iter().filter(|kind| kind.namespaced).any(|kind| {
        cluster
            .list_in(kind, namespace)
            .any(|object| object.meta.uid == uid && object.meta.resource_version > revision)
    })
}
