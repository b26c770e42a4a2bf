//! What the host says of containers, and what containers leave when they end.

use std::path::PathBuf;

use coracle_sandbox::{ContainerState, ContainerStatus, SandboxStatus};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use super::{Workers, names};
use crate::logs::{self, LogOptions};
use crate::pod::lifecycle::{Event, Termination};
use crate::pod::{spec, termination};

impl Workers {
    /// A host's word on a container.
    pub fn container_event(&self, sandbox: &str, status: ContainerStatus) {
        if let Some(event) = event_of(status) {
            self.take(sandbox, event);
        }
    }

    /// All that a host runs, which may be news or not.
    pub fn hear(&self, sandboxes: &[SandboxStatus]) {
        for sandbox in sandboxes {
            for container in &sandbox.containers {
                self.container_event(&sandbox.spec.id, container.clone());
            }
        }
    }

    /// Posts an event of the host's; an end once it is known what the container left.
    pub(super) fn take(&self, uid: &str, event: Event) {
        let Event::Exited { container, attempt, how } = event else {
            return self.post(uid, event);
        };
        let pod = self.table().pods.get_mut(uid).and_then(|entry| {
            // Ends that were taken already are told again when the host's list is read anew.
            let known = entry.state.container(&container)?;
            (known.restarts == attempt && known.is_there()).then(|| entry.pod.open())
        });
        let Some(pod) = pod else { return };
        let (workers, uid) = (self.clone(), uid.to_owned());
        tokio::spawn(async move {
            let how = workers.with_message(&pod, &container, attempt, how).await;
            workers.post(&uid, Event::Exited { container, attempt, how });
        });
    }

    /// What an agent finds in a host, with what the ended containers left.
    pub async fn complete(&self, pod: &Pod, mut found: SandboxStatus) -> SandboxStatus {
        for status in &mut found.containers {
            let ContainerState::Exited { code, message, started_at, finished_at, .. } =
                &mut status.state
            else {
                continue;
            };
            let how = Termination {
                code: *code,
                reason: "".into(),
                message: message.as_str().into(),
                started_at: *started_at,
                finished_at: *finished_at,
            };
            let how = self.with_message(pod, &status.name, status.attempt, how).await;
            *message = how.message.into();
        }
        found
    }

    async fn with_message(
        &self,
        pod: &Pod,
        name: &str,
        attempt: u32,
        mut how: Termination,
    ) -> Termination {
        let Some(container) = spec::container(pod, name) else { return how };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let folders = self.inner.parts.hosts.folders(uid);
        let volumes = folders.pod_volumes(uid);
        let copy = container.clone().into_owned();
        let read = move || termination::message(&copy, &volumes, attempt);
        let mut own = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        if own.is_empty() && termination::falls_back_to_log(&container, how.code) {
            let (namespace, pod_name) = names(pod);
            let dir = folders.pod_logs(namespace, pod_name, uid);
            own = log_end(logs::attempt_path(&dir, name, attempt)).await;
        }
        how.message = termination::joined(&how.message, own).into();
        how
    }
}

async fn log_end(path: PathBuf) -> String {
    let (out, mut lines) = mpsc::channel(16);
    let options = LogOptions { tail_lines: Some(termination::LOG_LINES), ..LogOptions::default() };
    let reading = tokio::spawn(logs::read(path, options, out, || false));
    let mut text = Vec::new();
    while let Some(line) = lines.recv().await {
        text.extend_from_slice(&line);
    }
    // Ends with the channel; nothing is left to wait for.
    reading.abort();
    termination::from_log(String::from_utf8_lossy(&text).into_owned())
}

/// What a status means for the life of its Pod.
pub(super) fn event_of(status: ContainerStatus) -> Option<Event> {
    let (container, attempt) = (status.name, status.attempt);
    match status.state {
        ContainerState::Created => None,
        ContainerState::Running { started_at } => {
            let process = status.process.map(|process| Box::new((*process).into()));
            Some(Event::Started { container, attempt, at: started_at, process })
        }
        ContainerState::Exited { code, reason, message, started_at, finished_at } => {
            let (reason, message) = (reason.as_str().into(), message.into());
            let how = Termination { code, reason, message, started_at, finished_at };
            Some(Event::Exited { container, attempt, how })
        }
    }
}
