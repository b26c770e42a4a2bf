//! What exec, attach and port-forward ask of Pods.

use std::net::IpAddr;

use super::Workers;
use crate::pod::lifecycle::{Phase, Sandbox};

/// A Pod of this node.
#[derive(Debug, Clone)]
pub struct Located {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its address, while it has a sandbox.
    pub address: Option<IpAddr>,
    /// `status.phase`, as the API was told last.
    pub phase: String,
}

/// How far a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The Pod has none of that name.
    Missing,
    /// It does not run yet, or not again.
    Waits,
    /// It runs, at this attempt.
    Running(u32),
    /// It will not run again, unless it is restarted.
    Ended,
}

impl Workers {
    /// The Pod of that name; with a UID, only that one.
    pub fn locate(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Located> {
        let table = self.table();
        let (found, entry) = table.pods.iter().find(|(known, entry)| {
            entry.is(namespace, name) && uid.is_none_or(|uid| uid == known.as_str())
        })?;
        Some(Located {
            uid: found.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            address: entry.state.ip.filter(|_| entry.state.sandbox == Sandbox::Ready),
            phase: entry.phase().to_owned(),
        })
    }

    /// How far a container of that Pod is.
    pub fn presence(&self, uid: &str, container: &str) -> Presence {
        let table = self.table();
        let containers = table.pods.get(uid).map(|entry| &entry.state.containers);
        let found = containers.and_then(|all| all.iter().find(|c| *c.rule.name == *container));
        let Some(found) = found else { return Presence::Missing };
        match &found.phase {
            Phase::Running { .. } | Phase::Stopping { .. } | Phase::Hooking { .. } => {
                Presence::Running(found.restarts)
            }
            Phase::Waiting { .. } | Phase::Pulling | Phase::Starting => Presence::Waits,
            Phase::Exited(_) => Presence::Ended,
        }
    }

    /// Whether that Pod has a sandbox.
    pub fn is_up(&self, uid: &str) -> bool {
        let table = self.table();
        table.pods.get(uid).is_some_and(|entry| entry.state.sandbox == Sandbox::Ready)
    }

    /// The port that is really bound for a Pod's port.
    pub fn listen_port(&self, port: u16) -> u16 {
        self.inner.parts.network.listen_port(port)
    }
}
