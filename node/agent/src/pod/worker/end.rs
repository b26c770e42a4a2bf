//! The end of a Pod on this node.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::{RETRY, Workers, names};
use crate::pod::lifecycle::{Ending, Event, Termination};

impl Workers {
    /// The host does not know a container that should be ending: it ended with what became of its host.
    pub(super) fn lost(&self, uid: &str, container: &str) -> Event {
        let attempt = self
            .table()
            .pods
            .get_mut(uid)
            .and_then(|e| e.state.container(container).map(|c| c.restarts))
            .unwrap_or_default();
        let now = Timestamp::now();
        let how = Termination {
            code: 137,
            reason: "ContainerStatusUnknown".into(),
            message: "The container could not be located when the pod was terminated".into(),
            started_at: now,
            finished_at: now,
        };
        Event::Exited { container: container.to_owned(), attempt, how }
    }

    pub(super) async fn finish(&self, uid: &str, pod: &Pod) {
        let parts = &self.inner.parts;
        let (namespace, name) = names(pod);
        let deleted = self
            .table()
            .pods
            .get(uid)
            .is_some_and(|e| matches!(e.state.ending, Some(Ending::Deleted { .. })));
        if deleted {
            self.report_last(uid).await;
            let api: Api<Pod> = Api::namespaced(parts.client.clone(), namespace);
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: Some(uid.to_owned()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            loop {
                match api.delete(name, &params).await {
                    Ok(_) => break,
                    // Gone, or another Pod of the same name.
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => break,
                    Err(error) => {
                        tracing::debug!(%error, pod = name, "Pod not deleted yet");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        }
        self.lead_host_ports(uid, pod, None).await;
        parts.hosts.leave(uid).await;
        parts.network.release(uid);
        self.table().pods.remove(uid);
        let folders = parts.hosts.folders(uid);
        parts.volumes.forget(uid).await;
        let folder = folders.pod_logs(namespace, name, uid);
        if let Err(error) = tokio::fs::remove_dir_all(&folder).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, folder = %folder.display(), "logs of an ended Pod not removed");
        }
        parts.hosts.forget(uid).await;
    }
}
