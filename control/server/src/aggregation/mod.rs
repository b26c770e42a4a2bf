//! Other API servers behind this one (kube-aggregator): an APIService with a `service` says who answers for a group's version in
//! this server's place.
//!
//! [`availability`] keeps asking whether each of them is there, and so learns what it serves; [`remote`] is what is known of one,
//! and [`front_proxy`] how requests to it say who makes them. The HTTP layer asks [`Aggregator::of`] of every request below
//! `/apis`, after authentication, authorization, audit and flow control, which are this server's.

mod availability;
mod check;
mod front_proxy;
mod namespaces;
mod remote;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use coracle_api::{Object, kinds};

pub(crate) use availability::follow;
pub(crate) use front_proxy::{Identification, authentication, identify};
pub(crate) use namespaces::empty;
pub(crate) use remote::Remote;

use crate::cache::Cache;
use crate::reach::Reach;

/// Who answers for groups' versions; clones share it.
#[derive(Clone)]
pub(crate) struct Aggregator(Arc<Shared>);

struct Shared {
    cache: Cache,
    reach: Reach,
    /// What this server shows of itself.
    identification: RwLock<Arc<Identification>>,
    table: RwLock<Arc<Remotes>>,
    /// Tells that one does not answer.
    doubt: tokio::sync::mpsc::Sender<String>,
    doubts: std::sync::Mutex<Option<tokio::sync::mpsc::Receiver<String>>>,
}

/// Doubts that wait to be looked into; there will be others.
const DOUBTS: usize = 16;

/// Every API server behind this one at a time, by the name of the APIService.
#[derive(Clone, Default)]
pub(crate) struct Remotes(BTreeMap<String, Arc<Remote>>);

impl Remotes {
    pub(crate) fn of(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        if self.0.is_empty() { None } else { self.0.get(&format!("{version}.{group}")) }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.0.values()
    }
}

impl Aggregator {
    pub(crate) fn new(cache: Cache, reach: Reach, identification: Identification) -> Self {
        let (doubt, doubts) = tokio::sync::mpsc::channel(DOUBTS);
        let aggregator = Self(Arc::new(Shared {
            cache,
            reach,
            identification: RwLock::new(Arc::new(identification)),
            table: RwLock::default(),
            doubt,
            doubts: std::sync::Mutex::new(Some(doubts)),
        }));
        let all: Vec<_> = aggregator.0.cache.read().list(&kinds::API_SERVICE).cloned().collect();
        all.iter().for_each(|api| aggregator.put(api));
        aggregator
    }

    /// Shows another certificate from now on.
    pub(crate) fn renew(&self, identification: Identification) {
        let identification = Arc::new(identification);
        *self.0.identification.write().unwrap_or_else(PoisonError::into_inner) = identification;
        let all: Vec<_> = self.0.cache.read().list(&kinds::API_SERVICE).cloned().collect();
        for api in &all {
            self.forget(&api.meta.name);
            self.put(api);
        }
    }

    /// All of them.
    pub(crate) fn remotes(&self) -> Arc<Remotes> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who answers for that, if it is not this server.
    pub(crate) fn of(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        self.remotes().of(group, version).cloned()
    }

    /// Tells that one of them did not answer: what is said of it may be out of date.
    pub(crate) fn doubt(&self, remote: &Remote) {
        let _ = self.0.doubt.try_send(remote.name.clone());
    }

    /// Takes in an APIService as it is now. What is known of who answers stays known for as long as that is the same.
    fn put(&self, api: &Object) {
        let identification =
            self.0.identification.read().unwrap_or_else(PoisonError::into_inner).clone();
        let known = self.remotes().0.get(&api.meta.name).cloned();
        match Remote::read(api, known.as_deref(), &self.0.reach, &identification) {
            Some(remote) => {
                self.change(|all| drop(all.insert(api.meta.name.clone(), Arc::new(remote))));
            }
            None => self.forget(&api.meta.name),
        }
    }

    fn forget(&self, name: &str) {
        if self.remotes().0.contains_key(name) {
            self.change(|all| drop(all.remove(name)));
        }
    }

    /// Takes in what was found out about one; nothing if it is another by now.
    fn found(&self, asked: &Remote, found: check::Found) {
        self.change(|all| {
            if let Some(remote) = all.get_mut(&asked.name)
                && remote.is_like(asked)
            {
                *remote = Arc::new(remote.with(found));
            }
        });
    }

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<String, Arc<Remote>>)) {
        let mut table = self.0.table.write().unwrap_or_else(PoisonError::into_inner);
        edit(&mut Arc::make_mut(&mut *table).0);
    }
}
