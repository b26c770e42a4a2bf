//! How fast the API takes writes, each acknowledged only once it is durable.

use std::time::Instant;

use serde_json::{Value, json};

use super::QUIET;
use crate::Bench;
use crate::cluster::Cluster;
use crate::report::{Measured, quantile};

const PODS: usize = 5000;
const CLIENTS: usize = 32;
const ROUNDS: usize = 3;
/// What is replaced by each Pod's name.
const NAME: &str = "NAME-OF-THE-POD";

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let cluster = Cluster::start(bench, QUIET).await?;
        rates.push(pods(&cluster, PODS).await?);
    }
    let rate = quantile(&mut rates, 0.5);
    Ok(Measured {
        value: format!("{rate:.0}/s"),
        met: rate >= 3000.0,
        notes: format!(
            "over HTTPS, {CLIENTS} connections, one request at a time on each; median of {ROUNDS} new clusters ({:.0} to \
             {:.0}/s). Clients and server share the cores.",
            rates[0],
            rates[ROUNDS - 1],
        ),
    })
}

/// Creates Pods `pod-0…` in `default` from 32 clients; how many a second were acknowledged.
pub(super) async fn pods(cluster: &Cluster, count: usize) -> anyhow::Result<f64> {
    pods_in(cluster, "default", "pod", count, &|name| pod(name)).await
}

/// Creates Pods `PREFIX-0…` in a namespace from 32 clients; how many a second were acknowledged.
pub(super) async fn pods_in(
    cluster: &Cluster,
    namespace: &str,
    prefix: &str,
    count: usize,
    manifest: &(dyn Fn(&str) -> Value + Sync),
) -> anyhow::Result<f64> {
    let mut connection = cluster.connect().await?;
    // No controller makes it here, and every Pod runs as it.
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let namespace = format!("/api/v1/namespaces/{namespace}");
    connection.ensure(&format!("{namespace}/serviceaccounts"), &account).await?;
    let template = manifest(NAME).to_string();
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(cluster.connect().await?);
    }
    let begun = Instant::now();
    let clients: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(client, mut connection)| {
            let (path, prefix) = (format!("{namespace}/pods"), prefix.to_owned());
            let template = template.clone();
            tokio::spawn(async move {
                for number in (client..count).step_by(CLIENTS) {
                    let name = format!("{prefix}-{number}");
                    connection.create(&path, template.replace(NAME, &name)).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

/// A Pod like those of a Deployment: labels, environment, probes, resources.
pub(super) fn pod(name: &str) -> Value {
    let probe = json!({"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "bench", "tier": "web", "pod-template-hash": "6d4cf56db6"},
            "annotations": {"example.com/owner": "team-a", "example.com/revision": "1",
                "example.com/about": "Serves the public web site of team A; see the runbook before restarting it by hand.",
                "example.com/checked": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        },
        "spec": {"containers": [{
            "name": "web",
            "image": "registry.example.com/team-a/web:v1.27.3",
            "ports": [{"containerPort": 8080, "name": "http"}],
            "env": [
                {"name": "GREETING", "value": "hello"},
                {"name": "LOG_LEVEL", "value": "info"},
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "DATABASE_URL", "value": "postgres://web@db.team-a.svc.cluster.local:5432/web"},
                {"name": "CACHE_URL", "value": "redis://cache.team-a.svc.cluster.local:6379"},
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "web", "key": "token"}}},
                {"name": "FEATURES", "valueFrom": {"configMapKeyRef": {"name": "web", "key": "features"}}},
            ],
            "volumeMounts": [
                {"name": "config", "mountPath": "/etc/web", "readOnly": true},
                {"name": "scratch", "mountPath": "/var/tmp"},
            ],
            "readinessProbe": probe,
            "livenessProbe": probe,
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": "web"}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "64Mi"}},
        ]},
    })
}
