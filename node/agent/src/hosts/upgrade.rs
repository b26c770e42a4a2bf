//! After the program was upgraded: hosts of the older one keep their Pods, and get no others.
//!
//! Nothing that runs is touched: a Pod stays where it is until its owner replaces it, as with an upgrade of the kubelet. New
//! Pods of the same group come to a host of this program, which stands in for the older one beside it, with a number, a
//! network and folders like any group's. An older host ends with its last Pod. The shared host comes back as this program when
//! it is empty; its stand-in then ends with its own last Pod. Where the shared host serves the Services itself (an ordinary
//! user's) it stays, though empty, while Pods are beside it: nobody else could take its sockets over without dropping a
//! connection.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::{Host, Hosts};
use crate::host;
use crate::isolation::Group;

impl Hosts {
    /// Enters a host that was found: under its group, unless new Pods of that come to another.
    pub(super) fn file(&self, host: Arc<Host>) {
        let stands_in = host.group == Group::Shared && !self.inner.shared.is_outdated();
        let mut groups = self.groups();
        if host.is_outdated() || stands_in || groups.contains_key(&host.group) {
            self.older().push(host);
        } else {
            groups.insert(host.group.clone(), host);
        }
    }

    /// Takes a host off the books.
    pub(super) fn strike(&self, host: &Arc<Host>) {
        let mut groups = self.groups();
        if groups.get(&host.group).is_some_and(|current| Arc::ptr_eq(current, host)) {
            groups.remove(&host.group);
        }
        self.older().retain(|older| !Arc::ptr_eq(older, host));
    }

    /// Before the shared host is taken over: one that has nothing to lose makes room for this program.
    pub(super) async fn end_if_outdated_and_idle(&self, host: &Arc<Host>) {
        let Ok(info) = host.client.info().await else { return };
        let alone = self.inner.network.pod_netns().is_some() || self.records().is_empty();
        if alone && is_idle(host).await && host::is_other_program(info.pid).await {
            tracing::info!(
                "replacing the shared sandbox host, which is of another program and empty"
            );
            host::end(&host.client).await;
        }
    }

    /// After a Pod left the shared host: the last one to leave an older program's lets this one's begin.
    pub(super) async fn replace_if_outdated_and_idle(&self, host: &Arc<Host>) {
        if !host.is_outdated() || self.inner.network.pod_netns().is_none() {
            return;
        }
        let mut state = host.state.lock().await;
        let needed = state.running.is_some() && !self.inner.closed.is_cancelled();
        if !needed || !host.is_outdated() || !is_idle(host).await {
            return;
        }
        tracing::info!(
            "the last Pod left the shared sandbox host of an older program; replacing it"
        );
        self.end_host(host, &mut state).await;
        match self.start(host, &mut state).await {
            Ok(_) => self.want_routes(),
            Err(error) => tracing::error!(%error, "the shared sandbox host does not start"),
        }
    }

    /// What people should know of hosts that are not of this program, for each of them.
    pub async fn older_hosts(&self) -> Vec<String> {
        let mut told = Vec::new();
        for host in self.all().into_iter().filter(|host| host.is_outdated()) {
            let pods = host.client.sandboxes().await.map_or(0, |all| all.len());
            let group = &host.group;
            told.push(format!(
                "Sandbox host \"{group}\" is of an older program than the node's agent, and keeps its {pods} Pods; new Pods come to another. To move them: kubectl rollout restart"
            ));
        }
        told
    }

    pub(super) fn older(&self) -> MutexGuard<'_, Vec<Arc<Host>>> {
        self.inner.older.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn is_idle(host: &Host) -> bool {
    host.client.sandboxes().await.is_ok_and(|all| all.is_empty())
}
