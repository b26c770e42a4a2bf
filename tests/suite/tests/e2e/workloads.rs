//! DaemonSets, StatefulSets and PodDisruptionBudgets.

use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, eventually};
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, SOON, expect};

/// A DaemonSet or StatefulSet of a hello component that is ready quickly.
pub(crate) fn workload(kind: &str, name: &str, image: &str, more: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  {more}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: {image}
        ports: [{{containerPort: 8080, name: http}}]
        readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 10m, memory: 16Mi}}, limits: {{memory: 64Mi}}}}
"#
    )
}

async fn pods(cluster: &Cluster, app: &str) -> anyhow::Result<Vec<Value>> {
    let pods = cluster.get(&["pods", "-l", &format!("app={app}")]).await?;
    Ok(pods["items"].as_array().cloned().unwrap_or_default())
}

/// `name image` of every Pod, in order.
async fn images(cluster: &Cluster, app: &str) -> anyhow::Result<String> {
    let of = |pod: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!(
            "{} {}",
            text(&pod["metadata"]["name"]),
            text(&pod["spec"]["containers"][0]["image"])
        )
    };
    Ok(pods(cluster, app).await?.iter().map(of).collect::<Vec<_>>().join(", "))
}

async fn node(cluster: &Cluster) -> anyhow::Result<String> {
    let nodes = cluster.get(&["nodes"]).await?;
    let name = nodes["items"][0]["metadata"]["name"].as_str();
    name.map(str::to_owned).context("a node")
}

pub(crate) async fn daemons_are_on_every_node(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    let node = node(&cluster).await?;
    cluster.apply(&workload("DaemonSet", "agent", "hello:v1", "minReadySeconds: 0")).await?;
    let rolled = async || kubectl(&["rollout", "status", "daemonset/agent", PATIENCE]).await;
    rolled().await?;
    let [first] = &pods(&cluster, "agent").await?[..] else { anyhow::bail!("not one Pod") };
    anyhow::ensure!(first["spec"]["nodeName"] == node.as_str(), "{first:#}");
    let tolerated = first["spec"]["tolerations"].to_string();
    expect(&tolerated, &["node.kubernetes.io/unschedulable", "node.kubernetes.io/disk-pressure"])?;
    expect(&kubectl(&["get", "ds"]).await?, &["DESIRED", "NODE SELECTOR", "agent"])?;
    expect(
        &kubectl(&["describe", "ds", "agent"]).await?,
        &["SuccessfulCreate", "Desired Number of Nodes Scheduled: 1"],
    )?;

    kubectl(&["set", "image", "ds/agent", "app=hello:v2"]).await?;
    rolled().await?;
    expect(&images(&cluster, "agent").await?, &["hello:v2"])?;
    expect(&kubectl(&["rollout", "history", "ds/agent"]).await?, &["REVISION", "\n1 ", "\n2 "])?;
    expect(&kubectl(&["rollout", "history", "ds/agent", "--revision=1"]).await?, &["hello:v1"])?;
    expect(
        &kubectl(&["get", "controllerrevisions"]).await?,
        &["daemonset.apps/agent", "CONTROLLER"],
    )?;
    kubectl(&["rollout", "undo", "ds/agent"]).await?;
    rolled().await?;
    expect(&images(&cluster, "agent").await?, &["hello:v1"])?;

    // The new one beside the old one.
    let surge =
        r#"{"spec":{"updateStrategy":{"rollingUpdate":{"maxSurge":1,"maxUnavailable":0}}}}"#;
    kubectl(&["patch", "ds", "agent", "-p", surge]).await?;
    kubectl(&["rollout", "restart", "ds/agent"]).await?;
    rolled().await?;

    // Where it is not selected it goes, and it comes back.
    let select =
        |value: &str| format!(r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{value}}}}}}}}}"#);
    kubectl(&["patch", "ds", "agent", "-p", &select(r#"{"disk":"ssd"}"#)]).await?;
    eventually(SOON, "no node is selected", async || {
        anyhow::ensure!(pods(&cluster, "agent").await?.is_empty());
        Ok(())
    })
    .await?;
    kubectl(&["label", "node", &node, "disk=ssd"]).await?;
    eventually(SOON, "the node is selected", async || {
        let set = cluster.get(&["ds", "agent"]).await?;
        anyhow::ensure!(set["status"]["numberReady"] == 1, "{set:#}");
        Ok(())
    })
    .await?;
    kubectl(&["delete", "ds", "agent", "--cascade=foreground", PATIENCE]).await?;
    let left = kubectl(&["get", "pods,controllerrevisions", "-o", "name"]).await?;
    anyhow::ensure!(left.is_empty(), "{left}");
    Ok(())
}

pub(crate) async fn stateful_pods_keep_their_names(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    let service = "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: dbs}\nspec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}\n";
    let set = workload("StatefulSet", "db", "hello:v1", "replicas: 2\n  serviceName: dbs");
    cluster.apply(&(set.clone() + service)).await?;
    let rolled = async || kubectl(&["rollout", "status", "statefulset/db", PATIENCE]).await;
    rolled().await?;
    anyhow::ensure!(images(&cluster, "db").await? == "db-0 hello:v1, db-1 hello:v1");
    let [_, second] = &pods(&cluster, "db").await?[..] else { anyhow::bail!("not two Pods") };
    anyhow::ensure!(
        second["spec"]["hostname"] == "db-1" && second["spec"]["subdomain"] == "dbs",
        "{second:#}"
    );
    expect(&kubectl(&["get", "sts"]).await?, &["db", "2/2"])?;
    // One that is deleted comes back under its name.
    let uid = |pod: &Value| pod["metadata"]["uid"].clone();
    kubectl(&["delete", "pod", "db-1"]).await?;
    eventually(SOON, "its successor is ready", async || {
        let pod = cluster.get(&["pod", "db-1"]).await?;
        anyhow::ensure!(uid(&pod) != uid(second), "{pod:#}");
        expect(&kubectl(&["get", "sts"]).await?, &["2/2"])
    })
    .await?;

    kubectl(&["scale", "sts/db", "--replicas=3"]).await?;
    rolled().await?;
    kubectl(&["set", "image", "sts/db", "app=hello:v2"]).await?;
    rolled().await?;
    anyhow::ensure!(images(&cluster, "db").await? == "db-0 hello:v2, db-1 hello:v2, db-2 hello:v2");
    expect(&kubectl(&["rollout", "history", "sts/db"]).await?, &["\n1 ", "\n2 "])?;
    kubectl(&["rollout", "undo", "sts/db"]).await?;
    rolled().await?;
    anyhow::ensure!(images(&cluster, "db").await? == "db-0 hello:v1, db-1 hello:v1, db-2 hello:v1");
    // From a number on: a canary.
    let canary = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"partition":2}}}}"#;
    kubectl(&["patch", "sts", "db", "-p", canary]).await?;
    kubectl(&["set", "image", "sts/db", "app=hello:v2"]).await?;
    rolled().await?;
    anyhow::ensure!(images(&cluster, "db").await? == "db-0 hello:v1, db-1 hello:v1, db-2 hello:v2");

    let fixed = r#"{"spec":{"serviceName":"other"}}"#;
    let refused =
        cluster.kubectl_with(&["patch", "sts", "db", "-p", fixed], "").await?.refused()?;
    expect(&refused, &["updates to statefulset spec for fields other than 'replicas'"])?;
    kubectl(&["scale", "sts/db", "--replicas=1"]).await?;
    eventually(SOON, "the highest numbers go", async || {
        anyhow::ensure!(images(&cluster, "db").await? == "db-0 hello:v1");
        Ok(())
    })
    .await?;
    // Left alone and taken over again.
    kubectl(&["delete", "sts", "db", "--cascade=orphan"]).await?;
    let before = uid(&cluster.get(&["pod", "db-0"]).await?);
    cluster.apply(&set.replace("replicas: 2", "replicas: 1")).await?;
    rolled().await?;
    anyhow::ensure!(uid(&cluster.get(&["pod", "db-0"]).await?) == before);

    let claims = "replicas: 1\n  serviceName: dbs\n  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]";
    cluster.apply(&workload("StatefulSet", "disk", "hello:v1", claims)).await?;
    eventually(SOON, "its claim says that nobody makes volumes", async || {
        let events = kubectl(&["describe", "pvc", "data-disk-0"]).await?;
        let none = "no persistent volumes available for this claim and no storage class is set";
        expect(&events, &["Pending", none])
    })
    .await
}

pub(crate) async fn budgets_hold_up_a_drain(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    cluster.apply(&workload("DaemonSet", "agent", "hello:v1", "minReadySeconds: 0")).await?;
    kubectl(&["rollout", "status", "daemonset/agent", PATIENCE]).await?;
    kubectl(&["create", "pdb", "web", "--selector=app=web", "--min-available=2"]).await?;
    let allowed = async |wanted: i64| {
        eventually(SOON, "the budget has counted", async || {
            let budget = cluster.get(&["pdb", "web"]).await?;
            let status = &budget["status"];
            let seen = status["observedGeneration"] == budget["metadata"]["generation"];
            anyhow::ensure!(seen && status["disruptionsAllowed"] == wanted, "{budget:#}");
            anyhow::ensure!(
                status["currentHealthy"] == 2 && status["expectedPods"] == 2,
                "{budget:#}"
            );
            Ok(())
        })
        .await
    };
    allowed(0).await?;
    expect(&kubectl(&["get", "pdb"]).await?, &["MIN AVAILABLE", "ALLOWED DISRUPTIONS", "N/A"])?;

    let pod =
        pods(&cluster, "web").await?[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let evict = async |dry: bool| {
        let eviction = serde_json::json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"},
            "deleteOptions": if dry { serde_json::json!({"dryRun": ["All"]}) } else { serde_json::json!({}) },
        });
        let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
        cluster.kubectl_with(&["create", "--raw", &path, "-f", "-"], &eviction.to_string()).await
    };
    let refused = evict(false).await?.refused()?;
    expect(&refused, &["Cannot evict pod as it would violate the pod's disruption budget."])?;

    let node = node(&cluster).await?;
    let drain = ["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data"];
    let hurry = [&drain[..], &["--timeout=6s"]].concat();
    let refused = cluster.kubectl_with(&hurry, "").await?.refused()?;
    expect(&refused, &["violate the pod's disruption budget"])?;
    anyhow::ensure!(
        pods(&cluster, "web")
            .await?
            .iter()
            .all(|pod| pod["metadata"]["deletionTimestamp"].is_null())
    );
    kubectl(&["uncordon", &node]).await?;

    // One may go, but a dry run takes nothing.
    kubectl(&["patch", "pdb", "web", "--type=merge", "-p", r#"{"spec":{"minAvailable":1}}"#])
        .await?;
    allowed(1).await?;
    evict(true).await?.ok()?;
    allowed(1).await?;
    evict(false).await?.ok()?;
    eventually(SOON, "it went, and another one came", async || {
        let names = images(&cluster, "web").await?;
        anyhow::ensure!(!names.contains(&pod), "{names}");
        Ok(())
    })
    .await?;
    allowed(1).await?;
    kubectl(&["delete", "pdb", "web"]).await?;
    kubectl(&[&drain[..], &[PATIENCE]].concat()).await?;
    let [agent] = &pods(&cluster, "agent").await?[..] else {
        anyhow::bail!("the daemon was drained")
    };
    anyhow::ensure!(agent["metadata"]["deletionTimestamp"].is_null(), "{agent:#}");
    let waiting = pods(&cluster, "web").await?;
    anyhow::ensure!(waiting.iter().all(|pod| pod["spec"]["nodeName"].is_null()), "{waiting:#?}");
    kubectl(&["uncordon", &node]).await?;
    cluster.rolled_out("web").await
}
