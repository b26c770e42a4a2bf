//! Probes of every kind, and what they decide.

use std::sync::Arc;

use coracle_test_cluster::{Cluster, Runtime, eventually};
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};

/// A Pod of one component that is served on port 8080.
fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    image: {image}\n    ports: [{{containerPort: 8080, name: web}}]\n{more}\n"
    )
}

async fn app_is(
    cluster: &Cluster,
    name: &str,
    what: &str,
    check: impl Fn(&Value) -> bool,
) -> Outcome {
    eventually(SOON, what, async || {
        let pod = cluster.get(&["pod", name]).await?;
        let app = &pod["status"]["containerStatuses"][0];
        anyhow::ensure!(check(app), "{name}: {:#}", pod["status"]);
        Ok(())
    })
    .await
}

async fn events(cluster: &Cluster, pod: &str, wanted: &[&str]) -> Outcome {
    eventually(SOON, "the events are there", async || {
        let about = format!("--field-selector=involvedObject.name={pod}");
        expect(&cluster.kubectl(&["get", "events", &about]).await?, wanted)
    })
    .await
}

fn restarted(app: &Value) -> bool {
    app["restartCount"].as_u64() >= Some(1)
}

fn ready(app: &Value) -> bool {
    app["ready"] == true
}

pub(crate) async fn of_every_kind(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1"), ("probe-grpc", "grpc:v1")]).await?;
    let pods = [
        pod(
            "http",
            "probe:v1",
            "    readinessProbe: {httpGet: {path: /health, port: web, httpHeaders: [{name: X-Who, value: me}]}, periodSeconds: 1}",
        ),
        pod("tcp", "probe:v1", "    readinessProbe: {tcpSocket: {port: web}, periodSeconds: 1}"),
        pod(
            "grpc",
            "grpc:v1",
            "    readinessProbe: {grpc: {port: 8080, service: shop}, periodSeconds: 1}",
        ),
        pod(
            "grpc-down",
            "grpc:v1",
            "    readinessProbe: {grpc: {port: 8080, service: down}, periodSeconds: 1}",
        ),
        pod("no-grpc", "probe:v1", "    readinessProbe: {grpc: {port: 8080}, periodSeconds: 1}"),
        pod("exec", "probe:v1", "    livenessProbe: {exec: {command: [cat, /tmp/x]}}"),
    ];
    cluster.apply(&pods.join("---\n")).await?;
    for name in ["http", "tcp", "grpc"] {
        app_is(&cluster, name, "its probe succeeds", ready).await?;
    }
    for (name, wanted) in [
        ("grpc-down", "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")"),
        ("no-grpc", "Readiness probe failed: error: health rpc probe failed"),
    ] {
        events(&cluster, name, &["Unhealthy", wanted]).await?;
        app_is(&cluster, name, "it is not ready", |app| {
            !ready(app) && app["state"]["running"].is_object() && !restarted(app)
        })
        .await?;
    }
    if context.runtime == Runtime::Oci {
        return Ok(());
    }
    app_is(&cluster, "exec", "it says what it cannot do", |app| {
        let waiting = &app["state"]["waiting"];
        waiting["reason"] == "CreateContainerConfigError"
            && waiting["message"].as_str().is_some_and(|m| m.contains("livenessProbe.exec"))
    })
    .await
}

pub(crate) async fn decide_on_starts_and_restarts(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    let get = |path: &str| format!("httpGet: {{path: '{path}', port: web}}, periodSeconds: 1");
    let pods = [
        pod(
            "never-up",
            "probe:v1",
            &format!(
                "    startupProbe: {{{}, failureThreshold: 2}}\n    livenessProbe: {{{}}}",
                get("/status/503"),
                get("/health")
            ),
        ),
        pod(
            "ill",
            "probe:v1",
            &format!(
                "    livenessProbe: {{{}, failureThreshold: 2, terminationGracePeriodSeconds: 1}}",
                get("/status/500")
            ),
        ),
        pod(
            "hung",
            "probe:v1",
            &format!("    livenessProbe: {{{}, failureThreshold: 1}}", get("/sleep?ms=60000")),
        ),
        pod(
            "well",
            "probe:v1",
            &format!(
                "    startupProbe: {{{g}}}\n    livenessProbe: {{{g}}}\n    readinessProbe: {{{g}, successThreshold: 2}}",
                g = get("/health")
            ),
        ),
    ];
    cluster.apply(&pods.join("---\n")).await?;
    for (name, wanted) in [
        (
            "never-up",
            [
                "Startup probe failed: HTTP probe failed with statuscode: 503",
                "Container app failed startup probe, will be restarted",
            ],
        ),
        (
            "ill",
            [
                "Liveness probe failed: HTTP probe failed with statuscode: 500",
                "Container app failed liveness probe, will be restarted",
            ],
        ),
        (
            "hung",
            ["context deadline exceeded", "Container app failed liveness probe, will be restarted"],
        ),
    ] {
        app_is(&cluster, name, "it is restarted", restarted).await?;
        events(&cluster, name, &wanted).await?;
    }
    app_is(&cluster, "never-up", "it never started", |app| app["started"] == false).await?;
    app_is(&cluster, "well", "it is ready", |app| {
        ready(app) && app["started"] == true && !restarted(app)
    })
    .await
}

pub(crate) async fn readiness_has_gates(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    let gated = pod("gated", "probe:v1", "  readinessGates: [{conditionType: shop.test/lb}]");
    cluster.apply(&gated).await?;
    let condition = |pod: &Value, name: &str| {
        let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|c| c["type"] == name).unwrap_or_default()
    };
    eventually(SOON, "its containers are ready and it is not", async || {
        let pod = cluster.get(&["pod", "gated"]).await?;
        let (ready, containers) = (condition(&pod, "Ready"), condition(&pod, "ContainersReady"));
        anyhow::ensure!(containers["status"] == "True", "{pod:#}");
        anyhow::ensure!(ready["reason"] == "ReadinessGatesNotReady", "{pod:#}");
        expect(ready["message"].as_str().unwrap_or_default(), &["shop.test/lb", "does not exist"])
    })
    .await?;
    for (status, wanted) in [("True", "True"), ("False", "False"), ("True", "True")] {
        let patch = format!(
            r#"{{"status": {{"conditions": [{{"type": "shop.test/lb", "status": "{status}"}}]}}}}"#
        );
        let args = ["patch", "pod", "gated", "--subresource=status", "--type=strategic", "-p"];
        cluster.kubectl(&[&args[..], &[&patch]].concat()).await?;
        eventually(SOON, "the gate decides", async || {
            let pod = cluster.get(&["pod", "gated"]).await?;
            anyhow::ensure!(condition(&pod, "Ready")["status"] == wanted, "{pod:#}");
            anyhow::ensure!(condition(&pod, "shop.test/lb")["status"] == status, "{pod:#}");
            anyhow::ensure!(condition(&pod, "PodScheduled")["status"] == "True", "{pod:#}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
