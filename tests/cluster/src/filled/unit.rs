//! One application's objects, as people and programs make them.

use std::time::Duration;

use anyhow::Context as _;
use hyper::Request;
use kube::Client;
use serde_json::{Value, json};

use crate::wait::{ensure, eventually};

/// What the names of all namespaces here begin with.
pub(crate) const PREFIX: &str = "filled-";
/// Where the unit is made.
pub(super) const NAMESPACE: &str = "filled-sample";
/// Its number, in every name.
pub(super) const NUMBER: &str = "x99999";
/// What the Pod is called whose node does not exist.
pub(super) const WITHOUT_NODE: &str = "without-node";
/// What its custom objects are defined by.
pub(super) const DEFINITION: &str = "/fillings.filled.example.com";
/// How long a server may take for any of it.
const SOON: Duration = Duration::from_secs(60);

/// Makes them through the API, and waits until controllers have done their part.
pub(super) async fn make(client: &Client) -> anyhow::Result<()> {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    create(client, "/api/v1/namespaces", &namespace).await?;
    create(client, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition())
        .await?;
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    eventually(SOON, "there is a ServiceAccount", async || get(client, &account).await).await?;

    let mut deployment = Value::Null;
    for (collection, object) in objects() {
        let path = path(collection);
        let made = eventually(SOON, "it is taken", async || create(client, &path, &object).await);
        let made = made.await.with_context(|| format!("creating {object}"))?;
        match (collection, made["metadata"]["name"].as_str()) {
            ("apps/deployments", _) => deployment = made,
            ("pods", Some(name)) if name.starts_with("done-") => {
                let ended = json!({"status": {"phase": "Succeeded"}});
                let status = format!("{path}/{name}/status");
                send(client, "PATCH", &status, "application/merge-patch+json", &ended).await?;
            }
            _ => {}
        }
    }
    let path = format!("{}/web-{NUMBER}", path("apps/deployments"));
    eventually(SOON, "the Deployment has its Pods", async || {
        let now = get(client, &path).await?;
        let seen = &now["status"]["observedGeneration"];
        let settled =
            seen == &deployment["metadata"]["generation"] && now["status"]["replicas"] == 2;
        ensure(settled, || format!("{}", now["status"]))
    })
    .await?;
    // They are written after what they tell of.
    eventually(SOON, "there are Events of the Deployment and of its ReplicaSet", async || {
        let events = get(client, &self::path("events")).await?;
        let items = events["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let told = |reason: &str| items.iter().filter(|event| event["reason"] == reason).count();
        let all = told("ScalingReplicaSet") >= 1 && told("SuccessfulCreate") >= 2;
        ensure(all, || format!("{} Events", items.len()))
    })
    .await
}

/// Where objects are made: `apps/deployments` of the group `apps/v1`, and so on.
fn path(collection: &str) -> String {
    let (api, plural) = match collection.split_once('/') {
        None => ("api/v1", collection),
        Some(("apps", plural)) => ("apis/apps/v1", plural),
        Some(("discovery", plural)) => ("apis/discovery.k8s.io/v1", plural),
        Some(("coordination", plural)) => ("apis/coordination.k8s.io/v1", plural),
        Some((_, plural)) => ("apis/filled.example.com/v1", plural),
    };
    format!("/{api}/namespaces/{NAMESPACE}/{plural}")
}

fn objects() -> Vec<(&'static str, Value)> {
    let named = |name: &str| json!({"name": format!("{name}-{NUMBER}"), "labels": {"app": format!("web-{NUMBER}"), "tier": "filled"}});
    let labels = json!({"app": format!("web-{NUMBER}"), "tier": "filled"});
    let container = json!({
        "name": "web", "image": "registry.example.com/team-a/web:v1.27.3",
        "env": [{"name": "GREETING", "value": "hello"}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
    });
    let mut all = vec![
        (
            "apps/deployments",
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": named("web"),
                "spec": {
                    "replicas": 2, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {
                        "schedulingGates": [{"name": "example.com/never"}], "containers": [container],
                    }},
                },
            }),
        ),
        (
            "pods",
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("done-{NUMBER}"), "labels": {"job": NUMBER}},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            }),
        ),
        (
            "pods",
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{WITHOUT_NODE}-{NUMBER}")},
                "spec": {"nodeName": format!("gone-{NUMBER}"), "containers": [container]},
            }),
        ),
        (
            "services",
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": named("web"),
                "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
            }),
        ),
        (
            "discovery/endpointslices",
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": format!("web-{NUMBER}"), "labels": {
                    "kubernetes.io/service-name": format!("web-{NUMBER}"),
                    "endpointslice.kubernetes.io/managed-by": "example.com",
                }},
                "endpoints": [
                    {"addresses": ["192.0.2.7"], "conditions": {"ready": true}},
                    {"addresses": ["192.0.2.8"], "conditions": {"ready": false}},
                ],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            }),
        ),
        (
            "coordination/leases",
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": named("leader"),
                "spec": {"holderIdentity": format!("web-{NUMBER}"), "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"},
            }),
        ),
    ];
    for number in 0..5 {
        all.push(("configmaps", json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": named(&format!("settings-{number}")),
            "data": {"features": "one,two,three", "url": "postgres://web@db.team-a.svc.cluster.local:5432/web"},
        })));
    }
    for number in 0..3 {
        all.push(("secrets", json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": named(&format!("keys-{number}")),
            "stringData": {"token": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
        })));
    }
    for number in 0..2 {
        all.push(("filled/fillings", json!({
            "apiVersion": "filled.example.com/v1", "kind": "Filling", "metadata": named(&format!("filling-{number}")),
            "spec": {"size": number, "of": "apples"},
        })));
    }
    for number in 0..3 {
        all.push(("events", json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("web-{NUMBER}.{number}"), "namespace": NAMESPACE},
            "involvedObject": {"apiVersion": "apps/v1", "kind": "Deployment", "name": format!("web-{NUMBER}"), "namespace": NAMESPACE},
            "reason": "Noted", "message": "Somebody has looked at it.", "type": "Normal", "count": 1,
        })));
    }
    all
}

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "minimum": 0}, "of": {"type": "string"},
    }}}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "fillings.filled.example.com"},
        "spec": {
            "group": "filled.example.com", "scope": "Namespaced",
            "names": {"plural": "fillings", "singular": "filling", "kind": "Filling", "listKind": "FillingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

async fn create(client: &Client, path: &str, object: &Value) -> anyhow::Result<Value> {
    send(client, "POST", path, "application/json", object).await
}

async fn get(client: &Client, path: &str) -> anyhow::Result<Value> {
    Ok(client.request(Request::get(path).body(Vec::new())?).await?)
}

async fn send(
    client: &Client,
    method: &str,
    path: &str,
    media: &str,
    body: &Value,
) -> anyhow::Result<Value> {
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    Ok(client.request(request.body(serde_json::to_vec(body)?)?).await?)
}
