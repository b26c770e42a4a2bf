//! HorizontalPodAutoscalers: what they follow, how soon, and what `kubectl` shows of them.

use std::sync::Arc;
use std::time::Duration;

use coracle_test_cluster::load::Load;
use coracle_test_cluster::{Cluster, Runtime, eventually};
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, hello, manifest};

/// How long replicas may take to follow: Pods of `my-app.yaml` are not probed in their first five seconds, and other tests
/// run beside this one.
const LATE: Duration = Duration::from_secs(90);

async fn json(cluster: &Cluster, args: &[&str]) -> anyhow::Result<Value> {
    let args = [&["get", "-o", "json"], args].concat();
    Ok(serde_json::from_str(&cluster.kubectl(&args).await?)?)
}

/// The manifest as users have it, on a Deployment that knows nothing of it.
pub(crate) async fn replicas_follow_the_load(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "my-app:v1.0")]).await?;
    cluster.apply(&manifest("tests/suite/manifests/my-app.yaml")?).await?;
    cluster.kubectl(&["scale", "deployment", "my-app", "--replicas=2"]).await?;
    cluster.apply(&manifest("tests/suite/manifests/hpa.yaml")?).await?;
    cluster.rolled_out("my-app").await?;
    let address = cluster.service("default", "my-app-service").await?;
    // Each is to use 175m, and may use 500m: these clients would have more than that.
    let load = Load::start(address, "/busy?ms=5", 4);
    eventually(LATE, "more replicas are ready", async || {
        let deployment = json(&cluster, &["deployment", "my-app"]).await?;
        let ready = deployment["status"]["readyReplicas"].as_i64();
        anyhow::ensure!(ready > Some(2), "{}", deployment["status"]);
        Ok(())
    })
    .await?;
    let scaled = json(&cluster, &["hpa", "my-app-hpa"]).await?;
    anyhow::ensure!(scaled["status"]["lastScaleTime"].is_string(), "{scaled}");
    let used = &scaled["status"]["currentMetrics"][0]["resource"]["current"];
    anyhow::ensure!(used["averageUtilization"].as_i64() > Some(0), "{scaled}");
    let events = cluster.kubectl(&["describe", "hpa", "my-app-hpa"]).await?;
    expect(
        &events,
        &["SuccessfulRescale", "cpu resource utilization (percentage of request) above target"],
    )?;

    // Down again, while somebody still asks; not after five minutes, which it takes as it stands.
    let report = load.stop().await;
    report.nothing_dropped()?;
    let load = Load::start(address, "/health", 1);
    let soon = r#"{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":0}}}}"#;
    cluster.kubectl(&["patch", "hpa", "my-app-hpa", "--type=merge", "-p", soon]).await?;
    eventually(LATE, "the least replicas are left", async || {
        let pods = cluster.kubectl(&["get", "pods", "-l", "app=my-app", "-o", "name"]).await?;
        anyhow::ensure!(pods.lines().count() == 2, "{pods}");
        Ok(())
    })
    .await?;
    load.stop().await.nothing_dropped()
}

/// An autoscaler of what Pods serve. What nobody counts is told as such.
fn by_traffic(metric: &str, average: &str) -> String {
    format!(
        r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: web}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}
  minReplicas: 1
  maxReplicas: 3
  metrics:
  - type: Pods
    pods:
      metric: {{name: {metric}}}
      target: {{type: AverageValue, averageValue: "{average}"}}
"#
    )
}

pub(crate) async fn replicas_follow_what_pods_serve(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.apply(&hello("web", "hello:v1", 1)).await?;
    cluster.rolled_out("web").await?;
    let address = cluster.service("default", "web").await?;
    let load = Load::start(address, "/health", 1);
    // More than each replica is to serve, with probes and with other tests beside this one.
    cluster.apply(&by_traffic("connections_per_second", "5")).await?;
    eventually(LATE, "as many replicas as may be are ready", async || {
        let deployment = json(&cluster, &["deployment", "web"]).await?;
        anyhow::ensure!(deployment["status"]["readyReplicas"] == 3, "{}", deployment["status"]);
        Ok(())
    })
    .await?;
    let value = async |metric: &str, average: &str| {
        cluster.apply(&by_traffic(metric, average)).await?;
        eventually(SOON, "the metric has a value", async || {
            let scaled = json(&cluster, &["hpa", "web"]).await?;
            let told = &scaled["status"]["currentMetrics"][0]["pods"];
            anyhow::ensure!(told["metric"]["name"] == metric, "{scaled}");
            Ok(told["current"]["averageValue"].as_str().unwrap_or_default().to_owned())
        })
        .await
    };
    anyhow::ensure!(
        value("open_connections", "10").await? != "0",
        "there is a connection at least"
    );
    if context.runtime == Runtime::Wasm {
        anyhow::ensure!(
            value("http_requests_per_second", "1k").await? != "0",
            "there are requests"
        );
        value("http_requests_in_flight", "100").await?;
    }
    cluster.apply(&by_traffic("cats", "1")).await?;
    eventually(SOON, "nobody counts cats", async || {
        let told = cluster.kubectl(&["describe", "hpa", "web"]).await?;
        expect(&told, &["FailedGetPodsMetric", "could not find the metric cats for pods"])
    })
    .await?;
    load.stop().await.nothing_dropped()
}

/// What `kubectl autoscale` makes, in both versions of the kind, and what is said of it.
pub(crate) async fn kubectl_makes_and_shows_them(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.apply(&hello("web", "hello:v1", 1)).await?;
    cluster.rolled_out("web").await?;
    cluster
        .kubectl(&["autoscale", "deployment", "web", "--min=2", "--max=4", "--cpu-percent=60"])
        .await?;
    eventually(SOON, "there are as many as there must be", async || {
        let row = cluster.kubectl(&["get", "hpa", "web", "--no-headers"]).await?;
        let words: Vec<&str> = row.split_whitespace().take(7).collect();
        // Probes cost something, too: how much is not known here.
        let cpu = words.get(3).copied().unwrap_or_default();
        let row_is = ["web", "Deployment/web", "cpu:", cpu, "2", "4", "2"];
        anyhow::ensure!(
            words == row_is && cpu.ends_with("%/60%") && cpu != "<unknown>/60%",
            "{row}"
        );
        Ok(())
    })
    .await?;
    let described = cluster.kubectl(&["describe", "hpa", "web"]).await?;
    expect(
        &described,
        &[
            "Deployment/web",
            "resource cpu on pods",
            "AbleToScale     True    ",
            "ScalingActive   True    ValidMetricFound",
            "New size: 2; reason: Current number of replicas below Spec.MinReplicas",
        ],
    )?;
    // The older version is another view of the same object.
    let old = json(&cluster, &["horizontalpodautoscalers.v1.autoscaling", "web"]).await?;
    anyhow::ensure!(old["apiVersion"] == "autoscaling/v1", "{old}");
    anyhow::ensure!(old["spec"]["targetCPUUtilizationPercentage"] == 60, "{old}");
    let conditions = &old["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/conditions"];
    expect(conditions.as_str().unwrap_or_default(), &["ValidMetricFound"])?;
    let patch = r#"{"spec":{"targetCPUUtilizationPercentage":70,"maxReplicas":3}}"#;
    let old = "horizontalpodautoscalers.v1.autoscaling";
    cluster.kubectl(&["patch", old, "web", "--type=merge", "-p", patch]).await?;
    let new = json(&cluster, &["hpa", "web"]).await?;
    let percent = &new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"];
    anyhow::ensure!(*percent == 70 && new["spec"]["maxReplicas"] == 3, "{new}");
    let refused = r#"{"spec":{"maxReplicas":1}}"#;
    let refused = ["patch", "hpa", "web", "--type=merge", "-p", refused];
    expect(
        &cluster.kubectl_with(&refused, "").await?.refused()?,
        &["must be greater than or equal to `minReplicas`"],
    )?;
    // What cannot be scaled is told.
    let boat = r#"{"spec":{"scaleTargetRef":{"kind":"Boat"}}}"#;
    cluster.kubectl(&["patch", "hpa", "web", "--type=merge", "-p", boat]).await?;
    eventually(SOON, "the condition says why", async || {
        let described = cluster.kubectl(&["describe", "hpa", "web"]).await?;
        expect(&described, &["FailedGetScale", "no matches for kind \"Boat\" in group \"apps\""])
    })
    .await
}
