//! What server-side apply costs the server, as those do it who apply all they have every few minutes: mostly nothing new.

use std::time::Duration;

use serde_json::{Value, json};

use super::{QUIET, crowd};
use crate::Bench;
use crate::api::Connection;
use crate::cluster::Cluster;
use crate::report::{Measured, quantile};

const DEPLOYMENTS: usize = 50;
const APPLIES: usize = 2000;
const ROUNDS: usize = 3;
const MOST: f64 = 300.0;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, QUIET).await?;
    let mut connection = cluster.connect().await?;
    for number in 0..DEPLOYMENTS {
        apply(&mut connection, number, 0).await?;
    }
    let (mut same, mut changed) = (Vec::new(), Vec::new());
    let mut image = 0;
    for _ in 0..ROUNDS {
        same.push(cost(&cluster, &mut connection, |_| image).await?);
        let first = image;
        changed.push(
            cost(&cluster, &mut connection, |number| first + 1 + number / DEPLOYMENTS).await?,
        );
        image += APPLIES / DEPLOYMENTS;
    }
    check(&mut connection, image).await?;
    let (same_us, changed_us) = (quantile(&mut same, 0.5), quantile(&mut changed, 0.5));
    Ok(Measured {
        value: format!("{same_us:.0} µs; {changed_us:.0} µs"),
        met: same_us <= MOST && changed_us <= MOST,
        notes: format!(
            "user and system time of the server's process over {APPLIES} applies of {DEPLOYMENTS} Deployments of {} bytes one after the \
             other, over HTTPS; TLS, writing to disk and the answer are in it. Medians of {ROUNDS} rounds ({:.0} to {:.0} µs; {:.0} to \
             {:.0} µs). A change is another image.",
            deployment(0, 0).to_string().len(),
            same[0],
            same[ROUNDS - 1],
            changed[0],
            changed[ROUNDS - 1],
        ),
    })
}

/// CPU time of one apply, in µs; `image` is what each applies.
async fn cost(
    cluster: &Cluster,
    connection: &mut Connection,
    image: impl Fn(usize) -> usize,
) -> anyhow::Result<f64> {
    // What came before may still be in its last steps.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = crowd::cpu(cluster);
    for number in 0..APPLIES {
        apply(connection, number % DEPLOYMENTS, image(number)).await?;
    }
    Ok((crowd::cpu(cluster) - before).as_secs_f64() * 1e6 / APPLIES as f64)
}

async fn apply(connection: &mut Connection, number: usize, image: usize) -> anyhow::Result<()> {
    let path = format!(
        "/apis/apps/v1/namespaces/default/deployments/web-{number}?fieldManager=bench&force=true"
    );
    let body = deployment(number, image).to_string();
    connection.patch(&path, "application/apply-patch+yaml", body).await
}

/// That the last image was applied, and by whom.
async fn check(connection: &mut Connection, image: usize) -> anyhow::Result<()> {
    let path = "/apis/apps/v1/namespaces/default/deployments/web-0";
    let found = connection.read(path).await?;
    let applied = &found["spec"]["template"]["spec"]["containers"][0]["image"];
    let by = &found["metadata"]["managedFields"][0];
    anyhow::ensure!(
        *applied == self::image(image) && by["manager"] == "bench" && by["operation"] == "Apply",
        "{found}"
    );
    Ok(())
}

fn image(number: usize) -> String {
    format!("registry.example.com/team-a/web:v1.{number}")
}

fn deployment(number: usize, image: usize) -> Value {
    let labels = json!({"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": format!("web-{number}")});
    let probe = json!({"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": format!("web-{number}"), "namespace": "default", "labels": labels,
            "annotations": {"example.com/owner": "team-a", "example.com/about": "Serves the public web site of team A."}},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": "web",
                    "containers": [{
                        "name": "web",
                        "image": self::image(image),
                        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
                        "env": [
                            {"name": "GREETING", "value": "hello"},
                            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "web", "key": "token"}}},
                        ],
                        "readinessProbe": probe, "livenessProbe": probe,
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                        "volumeMounts": [{"name": "config", "mountPath": "/etc/web", "readOnly": true}],
                    }],
                    "volumes": [{"name": "config", "configMap": {"name": "web"}}],
                },
            },
        },
    })
}
