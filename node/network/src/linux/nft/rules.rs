//! A Service table in the kernel: what others use.
//!
//! `elements` says what a change of routes means for the sets; here it is written as one transaction. If the kernel
//! refuses one (because somebody flushed the table, for instance), the whole table is written afresh from the routes.
//!
//! A firewall of the machine's own that drops forwarded packets (as Docker's does) also drops those to and from
//! Pods: an accept in one table cannot undo a drop in another. NodePorts belong to the whole machine: where two
//! clusters use the same one, it is undefined which gets its calls. Allocators pick at random.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::conntrack;
use super::elements::{self, State};
use super::remembered::{self, Remembered};
use super::ruleset;
use super::wire::{Batch, NftError, NftSocket, Verb};
use crate::cidr::Cidr;
use crate::routes::{RouteChange, ServiceKey, ServiceRoute};

/// Whose traffic a table handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The machine's own namespace: everything that it sends, receives and forwards.
    Host,
    /// The Pods' namespace: what Pods send, translated there so that a Pod can reach another in the same namespace.
    Pods,
}

/// What a table's fixed rules need to know.
#[derive(Clone, Debug)]
pub struct RulesConfig {
    /// The table's name.
    pub table: String,
    /// Whose traffic it handles.
    pub scope: Scope,
    /// The link to the Pods' namespace.
    pub link: String,
    /// This node's Pod range.
    pub pods: Cidr,
    /// The cluster's Pod range.
    pub cluster: Cidr,
    /// The cluster's Service range.
    pub services: Cidr,
}

/// A Service table in the kernel, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Rules {
    config: RulesConfig,
    socket: NftSocket,
    routes: BTreeMap<ServiceKey, Arc<ServiceRoute>>,
    state: State,
    /// Numbers of links to Pods.
    links: BTreeSet<u32>,
    /// The kernel's table is not known to match `state`.
    dirty: bool,
}

/// Removes the tables of the calling thread's namespace whose names are `prefix` and an id that is not `is_used`.
///
/// # Errors
/// When the kernel cannot be asked, or refuses.
pub fn remove_unused(prefix: &str, is_used: impl Fn(&str) -> bool) -> Result<(), NftError> {
    let socket = NftSocket::open()?;
    for table in socket.tables()? {
        if table.strip_prefix(prefix).is_some_and(|id| !is_used(id)) {
            tracing::info!(table, "removing the Service table of a cluster that is gone");
            let mut batch = Batch::new();
            ruleset::delete(&mut batch, &table);
            socket.commit(batch)?;
        }
    }
    Ok(())
}

impl Rules {
    /// Opens a socket in the calling thread's namespace. A table of an earlier run goes on working until the first
    /// [`Rules::replace`] or [`Rules::apply`].
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open(config: RulesConfig) -> Result<Self, NftError> {
        let socket = NftSocket::open()?;
        Ok(Rules {
            config,
            socket,
            routes: BTreeMap::new(),
            state: State::default(),
            links: BTreeSet::new(),
            dirty: true,
        })
    }

    /// Takes in that the link of this number leads to Pods. A second time is no error.
    ///
    /// # Errors
    /// When the kernel refuses even the whole table; the next call tries that again.
    pub fn add_link(&mut self, link: u32) -> Result<(), NftError> {
        if self.links.insert(link) { self.put_link(Verb::NewSetElem, link) } else { Ok(()) }
    }

    /// Takes in that it does no more; it need not have.
    ///
    /// # Errors
    /// As [`Rules::add_link`].
    pub fn remove_link(&mut self, link: u32) -> Result<(), NftError> {
        if self.links.remove(&link) { self.put_link(Verb::DelSetElem, link) } else { Ok(()) }
    }

    fn put_link(&mut self, verb: Verb, link: u32) -> Result<(), NftError> {
        // The table is an earlier agent's, or not there: it is written when there are routes.
        if self.dirty {
            return Ok(());
        }
        let mut batch = Batch::new();
        elements::put_links(&mut batch, verb, &self.config, &[link]);
        match self.socket.commit(batch) {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(table = self.config.table, %error, "writing the whole Service table afresh");
                self.write_all()
            }
        }
    }

    /// Makes the table hold exactly these routes, in one transaction.
    ///
    /// # Errors
    /// When the kernel refuses; the next call writes everything afresh.
    pub fn replace(
        &mut self,
        routes: impl IntoIterator<Item = Arc<ServiceRoute>>,
    ) -> Result<(), NftError> {
        self.routes = routes.into_iter().map(|route| (route.key.clone(), route)).collect();
        self.write_all()
    }

    /// Takes changes in, in one transaction that touches what they touch.
    ///
    /// # Errors
    /// When the kernel refuses even the whole table; the next call tries that again.
    pub fn apply(&mut self, changes: &[RouteChange]) -> Result<(), NftError> {
        for change in changes {
            match change {
                RouteChange::Set(route) => self.routes.insert(route.key.clone(), Arc::clone(route)),
                RouteChange::Gone(key) => self.routes.remove(key),
            };
        }
        if self.dirty {
            return self.write_all();
        }
        let delta = self.state.update(self.config.scope, changes);
        let mut batch = Batch::new();
        delta.write(&mut batch, &self.config);
        if let Err(error) = self.socket.commit(batch) {
            tracing::warn!(table = self.config.table, %error, "writing the whole Service table afresh");
            self.write_all()?;
        }
        if let Err(error) = conntrack::clean(&self.socket, &self.state.stale(&delta)) {
            tracing::warn!(%error, "datagrams may be led to endpoints that are gone");
        }
        Ok(())
    }

    /// Load balancers' addresses that these routes have.
    #[must_use]
    pub fn balanced(&self) -> BTreeSet<Ipv4Addr> {
        self.state.balanced().collect()
    }

    /// Writes the table afresh if somebody removed it, as a firewall's restart does. Meant to be called now and then.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or refuses the table.
    pub fn restore(&mut self) -> Result<(), NftError> {
        if self.dirty || !self.exists()? { self.write_all() } else { Ok(()) }
    }

    /// Whether the kernel has a table of this name.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn exists(&self) -> Result<bool, NftError> {
        self.socket.has_table(&self.config.table)
    }

    /// Removes the table; it need not exist.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete(&mut self) -> Result<(), NftError> {
        self.dirty = true;
        let mut batch = Batch::new();
        ruleset::delete(&mut batch, &self.config.table);
        self.socket.commit(batch)
    }

    fn write_all(&mut self) -> Result<(), NftError> {
        self.dirty = true;
        let mut state = State::default();
        let all: Vec<RouteChange> = self.routes.values().cloned().map(RouteChange::Set).collect();
        let delta = state.update(self.config.scope, &all);
        let links: Vec<u32> = self.links.iter().copied().collect();
        let write = |remembered: &[Remembered]| {
            let mut batch = Batch::new();
            ruleset::create(&mut batch, &self.config);
            delta.write(&mut batch, &self.config);
            elements::put_links(&mut batch, Verb::NewSetElem, &self.config, &links);
            remembered::write(&mut batch, &self.config.table, remembered);
            self.socket.commit(batch)
        };
        let remembered = remembered::read(&self.socket, &self.config.table);
        match write(&remembered) {
            Err(error) if !remembered.is_empty() => {
                tracing::warn!(table = self.config.table, %error, "callers are not kept with their endpoints");
                write(&[])?;
            }
            other => other?,
        }
        self.state = state;
        self.dirty = false;
        Ok(())
    }
}
