//! What the kubelet API asks of a container's log.

use super::{LogSource, Workers};
use crate::logs;
use crate::pod::lifecycle::Phase;
use crate::pod::status;

impl Workers {
    /// Why a container of the named Pod has no log yet: it has never started.
    pub fn waits(&self, namespace: &str, pod: &str, container: &str) -> Option<&'static str> {
        let table = self.table();
        let entry = table.pods.values().find(|e| e.is(namespace, pod))?;
        let known = entry.state.containers.iter().find(|c| *c.rule.name == *container)?;
        if known.started_once {
            return None;
        }
        Some(match &known.phase {
            Phase::Waiting { reason: "ErrImagePull", .. } => "image can't be pulled",
            Phase::Waiting { reason: "ImagePullBackOff", .. } => "trying and failing to pull image",
            Phase::Waiting { reason: "ContainerCreating", .. }
            | Phase::Pulling
            | Phase::Starting => status::waiting_reason(&entry.state),
            Phase::Waiting { reason, .. } => reason,
            Phase::Hooking { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Exited(_) => return None,
        })
    }

    /// The log of a container of the named Pod: the present attempt's, or the one before.
    pub fn log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Option<LogSource> {
        let table = self.table();
        let (uid, entry) = table.pods.iter().find(|(_, e)| e.is(namespace, pod))?;
        let known = entry.state.containers.iter().find(|c| *c.rule.name == *container)?;
        // While an attempt waits for its start, its log is that of the one before.
        let waits = matches!(known.phase, Phase::Waiting { .. } | Phase::Pulling | Phase::Starting);
        let current = known.restarts.saturating_sub(u32::from(waits));
        let attempt = match previous {
            true => current.checked_sub(u32::from(!waits || known.restarts == 0))?,
            false => current,
        };
        let dir = self.inner.parts.hosts.folders(uid).pod_logs(namespace, pod, uid);
        Some(LogSource { path: logs::attempt_path(&dir, container, attempt), attempt })
    }

    /// Whether that attempt may still write.
    pub fn is_running(&self, namespace: &str, pod: &str, container: &str, attempt: u32) -> bool {
        let table = self.table();
        table.pods.values().any(|e| {
            e.is(namespace, pod)
                && e.state
                    .containers
                    .iter()
                    .any(|c| *c.rule.name == *container && c.restarts == attempt && c.is_there())
        })
    }
}
