//! Tells the API of Pods' statuses: at most one write at a time per Pod, the newest state winning.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_sandbox::CompiledImage;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{RETRY, SETTLE, Settling, Told, Workers, names};
use crate::pod::lifecycle::Ending;
use crate::pod::status;

/// Tells people what the components of a Pod may do at most. Informative: nothing here reads it.
const IMPORTS: &str = "coracle.dev/imports";

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

    /// The last status before the API lets the Pod go, once: it is gone with or without it.
    pub(super) async fn report_last(&self, uid: &str) {
        let Some((pod, status)) = self.news(uid) else { return };
        match self.write_status(uid, &pod, &status).await {
            Ok(_) => {
                if let Some(entry) = self.table().pods.get_mut(uid) {
                    entry.told = Some(Told::new(status));
                }
            }
            Err(error) => tracing::debug!(pod = uid, %error, "last status not taken"),
        }
    }

    /// What the API is to be told, if it was not told already. Nothing of a Pod that it had as ended when this agent
    /// came.
    fn news(&self, uid: &str) -> Option<(Arc<Pod>, PodStatus)> {
        let mut table = self.table();
        let entry = table.pods.get_mut(uid)?;
        entry.again = false;
        let pod = entry.pod.open();
        let told = entry.told.as_ref().map(|told| told.status.open());
        let told = told.as_deref();
        let host_ip = &self.inner.parts.host_ip;
        let status = status::status(
            &pod,
            &entry.state,
            entry.resize.as_deref(),
            told,
            host_ip,
            Timestamp::now(),
        );
        let silent = entry.state.ending == Some(Ending::Vanished) || entry.state.settled.is_some();
        if silent || told == Some(&status) {
            entry.reporting = false;
            return None;
        }
        Some((pod, status))
    }

    async fn write_status(
        &self,
        uid: &str,
        pod: &Pod,
        status: &PodStatus,
    ) -> Result<Pod, kube::Error> {
        let _permit = self.inner.reporters.acquire().await;
        let (namespace, name) = names(pod);
        let api: Api<Pod> = Api::namespaced(self.inner.parts.client.clone(), namespace);
        let mut patch = json!({"metadata": {"uid": uid}, "status": with_nulls(status)});
        // It travels along: a write of its own would cost as much as the Pod's start.
        let imports = self.table().pods.get(uid).map(|entry| imports_of(entry.imports.values()));
        let known = pod.metadata.annotations.as_ref().and_then(|all| all.get(IMPORTS));
        if imports.as_ref() != known
            && let Some(imports) = imports.filter(|text| !text.is_empty())
        {
            patch["metadata"]["annotations"] = json!({IMPORTS: imports});
        }
        let patch = match has_others_conditions(pod) {
            true => Patch::Strategic(without_gone(patch)),
            false => Patch::Merge(patch),
        };
        api.patch_status(name, &PatchParams::default(), &patch).await
    }

    async fn reporter(&self, uid: &str) {
        loop {
            let Some((pod, status)) = self.news(uid) else { return };
            match self.write_status(uid, &pod, &status).await {
                Ok(_) => {
                    if let Some(entry) = self.table().pods.get_mut(uid) {
                        entry.told = Some(Told::new(status));
                    }
                }
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409 | 422) => {
                    // Gone, or another by now; the watch tells.
                    if let Some(entry) = self.table().pods.get_mut(uid) {
                        entry.told = Some(Told::new(status));
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

/// Whether others than the scheduler and this node keep conditions on the Pod. Those may change at any time, and a merge
/// patch would write the whole list.
fn has_others_conditions(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut others = conditions.filter(|c| c.type_ != "PodScheduled" && !status::is_ours(&c.type_));
    others.next().is_some()
}

/// The interfaces that a Pod's components import, without their versions, each once.
fn imports_of<'a>(images: impl Iterator<Item = &'a Arc<CompiledImage>>) -> String {
    let names = images.flat_map(|image| &image.info.imports);
    let names: BTreeSet<&str> = names.map(|name| name.split('@').next().unwrap_or(name)).collect();
    names.into_iter().collect::<Vec<_>>().join(",")
}

/// Conditions that a strategic patch does not name stay: those that have gone are named.
fn without_gone(mut patch: serde_json::Value) -> serde_json::Value {
    if let Some(conditions) = patch["status"]["conditions"].as_array_mut() {
        for gone in status::GOING {
            if !conditions.iter().any(|c| c["type"] == gone) {
                conditions.push(json!({"$patch": "delete", "type": gone}));
            }
        }
    }
    patch
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
