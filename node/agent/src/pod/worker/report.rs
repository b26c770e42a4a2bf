//! Tells the API of Pods' statuses: at most one write at a time per Pod, the newest state winning.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{RETRY, SETTLE, Settling, Workers, names};
use crate::pod::lifecycle::Ending;
use crate::pod::status;

impl Workers {
    /// Tells the API of the Pod's status, if it changed.
    pub(super) fn report(&self, uid: &str) {
        // Told when all Pods of the lost host run again.
        if self.inner.recovery.is_on() {
            return;
        }
        {
            let mut table = self.table();
            let Some(entry) = table.pods.get_mut(uid) else { return };
            if entry.settling != Settling::Over && entry.state.is_starting() {
                if entry.settling == Settling::New {
                    entry.settling = Settling::Waiting;
                    let (workers, uid) = (self.clone(), uid.to_owned());
                    tokio::spawn(async move { workers.settle(&uid).await });
                }
                return;
            }
            if entry.reporting {
                entry.again = true;
                return;
            }
            entry.reporting = true;
        }
        let (workers, uid) = (self.clone(), uid.to_owned());
        tokio::spawn(async move { workers.reporter(&uid).await });
    }

    async fn settle(&self, uid: &str) {
        tokio::time::sleep(SETTLE).await;
        if let Some(entry) = self.table().pods.get_mut(uid) {
            entry.settling = Settling::Over;
        }
        self.report(uid);
    }

    async fn reporter(&self, uid: &str) {
        loop {
            let (pod, status) = {
                let mut table = self.table();
                let Some(entry) = table.pods.get_mut(uid) else { return };
                entry.again = false;
                let vanished = entry.state.ending == Some(Ending::Vanished);
                let host_ip = &self.inner.parts.host_ip;
                let status = status::status(
                    &entry.pod,
                    &entry.state,
                    entry.told.as_ref(),
                    host_ip,
                    Timestamp::now(),
                );
                if vanished || entry.told.as_ref() == Some(&status) {
                    entry.reporting = false;
                    return;
                }
                (entry.pod.clone(), status)
            };
            let result = {
                let _permit = self.inner.reporters.acquire().await;
                let (namespace, name) = names(&pod);
                let api: Api<Pod> = Api::namespaced(self.inner.parts.client.clone(), namespace);
                let patch = json!({"metadata": {"uid": uid}, "status": with_nulls(&status)});
                api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await
            };
            match result {
                Ok(_) => {
                    if let Some(entry) = self.table().pods.get_mut(uid) {
                        entry.told = Some(status);
                    }
                }
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409 | 422) => {
                    // Gone, or another by now; the watch tells.
                    if let Some(entry) = self.table().pods.get_mut(uid) {
                        entry.told = Some(status);
                    }
                    tracing::debug!(pod = uid, %answer, "status not taken");
                }
                Err(error) => {
                    tracing::debug!(pod = uid, %error, "status not delivered yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// A merge patch keeps what it does not name: fields that may go away are named.
fn with_nulls(status: &PodStatus) -> serde_json::Value {
    let mut value = json!(status);
    if let Some(map) = value.as_object_mut() {
        for field in ["reason", "message", "podIP", "podIPs"] {
            map.entry(field).or_insert(serde_json::Value::Null);
        }
    }
    value
}
