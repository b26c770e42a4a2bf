//! What a person waits for: Deployments becoming available, Services getting URLs, and the reason when they do not.

use std::time::Duration;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::ListParams;

use crate::client::explain;

/// How long a Deployment may take before waiting ends with what is wrong.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long those who forward to it may take to learn of it.
const FORWARDED: Duration = Duration::from_secs(5);

/// Waits until the Deployment's newest version is available everywhere, showing how far it is.
pub(crate) async fn deployment(
    client: &kube::Client,
    namespace: &str,
    name: &str,
) -> anyhow::Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let bar = spinner();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let deployment = api.get(name).await.map_err(explain)?;
        let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let current = status.observed_generation == deployment.metadata.generation;
        let available = status.available_replicas.unwrap_or(0);
        let updated = status.updated_replicas.unwrap_or(0);
        if current
            && updated >= wanted
            && available >= wanted
            && status.replicas.unwrap_or(0) <= updated
        {
            bar.finish_and_clear();
            return Ok(());
        }
        let trouble = trouble(client, namespace, &deployment).await?;
        let why = trouble.map(|t| format!("  ({t})")).unwrap_or_default();
        bar.set_message(format!("deployment/{name}: {available} of {wanted} available{why}"));
        bar.tick();
        if tokio::time::Instant::now() >= deadline {
            bar.finish_and_clear();
            bail!(
                "deployment/{name} is not available: {available} of {wanted}{why}; `coracle status` shows more"
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What holds some Pod of the Deployment up, in a line.
async fn trouble(
    client: &kube::Client,
    namespace: &str,
    deployment: &Deployment,
) -> anyhow::Result<Option<String>> {
    let labels = deployment.spec.as_ref().and_then(|s| s.selector.match_labels.as_ref());
    let selector: Vec<String> =
        labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list =
        pods.list(&ListParams::default().labels(&selector.join(","))).await.map_err(explain)?;
    Ok(list.items.iter().find_map(pod_trouble))
}

/// Why a Pod is not running, if something is wrong with it.
pub(crate) fn pod_trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let named =
        |why: String| Some(format!("{}: {why}", pod.metadata.name.as_deref().unwrap_or_default()));
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        let message = condition.message.as_deref().or(condition.reason.as_deref());
        return named(message.unwrap_or("not scheduled").to_owned());
    }
    let containers =
        status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in containers {
        let state = container.state.as_ref();
        if let Some(waiting) = state.and_then(|s| s.waiting.as_ref()) {
            let reason = waiting.reason.as_deref().unwrap_or_default();
            if !matches!(reason, "ContainerCreating" | "PodInitializing") {
                let message = waiting.message.as_deref().unwrap_or_default();
                return named(format!("{reason}: {message}"));
            }
        }
    }
    match status.phase.as_deref() {
        Some("Failed") => {
            let ended = status
                .container_statuses
                .iter()
                .flatten()
                .find_map(|c| c.state.as_ref()?.terminated.clone());
            named(match ended {
                Some(t) => format!(
                    "failed: {} (exit code {})",
                    t.reason.as_deref().unwrap_or("Error"),
                    t.exit_code
                ),
                None => "failed".to_owned(),
            })
        }
        _ => None,
    }
}

/// URLs that a browser on this machine can open, for a Service that is reached from outside.
pub(crate) fn urls(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    if !matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
        return Vec::new();
    }
    let ports =
        spec.ports.iter().flatten().filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP");
    ports.filter_map(|p| Some(format!("http://127.0.0.1:{}", p.node_port?))).collect()
}

/// Waits until somebody listens at one of [`urls`]: those who forward learn of a Service's endpoints a moment after its Pods are
/// available. Not for long, for the cluster may be another machine's.
pub(crate) async fn listens(url: &str) {
    let address = url.strip_prefix("http://").unwrap_or(url);
    let connected = async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(FORWARDED, connected).await;
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar
}
