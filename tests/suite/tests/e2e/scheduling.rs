//! Where Pods go on several machines, and who makes room for whom.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_test_cluster::{Cluster, eventually};
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, SOON, expect, hello};
use crate::workloads::workload;

const NODES: [&str; 3] = ["one", "two", "three"];

/// [`hello`] with more in the spec of its Pods.
fn with(name: &str, replicas: u32, spec: &str) -> String {
    let more = format!("{}\n      containers:", spec.trim());
    hello(name, "hello:v1", replicas).replace("containers:", &more)
}

async fn pods(cluster: &Cluster, name: &str) -> anyhow::Result<Vec<Value>> {
    let list = cluster.get(&["pods", "-l", &format!("app={name}")]).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// How many Pods of that name each machine has.
async fn by_node(cluster: &Cluster, name: &str) -> anyhow::Result<[usize; 3]> {
    let pods = pods(cluster, name).await?;
    Ok(NODES.map(|node| pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count()))
}

/// Why a Pod waits that is not on any machine.
async fn waiting(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    let pods = pods(cluster, name).await?;
    let mut conditions =
        pods.iter().filter_map(|pod| pod["status"]["conditions"].as_array()).flatten();
    let told = conditions.find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
    let told =
        told.and_then(|c| Some(format!("{}: {}", c["reason"].as_str()?, c["message"].as_str()?)));
    Ok(told.unwrap_or_default())
}

/// Spread constraints, affinity and anti-affinity between Pods, gates.
pub(crate) async fn pods_keep_their_distance(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&NODES).await? else { return Ok(()) };
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    for (node, zone) in NODES.iter().zip(["a", "a", "b"]) {
        let label = format!("topology.kubernetes.io/zone={zone}");
        cluster.kubectl(&["label", "node", node, &label]).await?;
    }
    let spread = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: even}}}]";
    cluster.apply(&with("even", 6, spread)).await?;
    cluster.rolled_out("even").await?;
    let [one, two, three] = by_node(&cluster, "even").await?;
    anyhow::ensure!((one + two, three) == (3, 3), "{one} + {two}, {three}");

    let apart = "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: apart}}}]}}";
    cluster.apply(&with("apart", 4, apart)).await?;
    eventually(SOON, "one is too many", async || {
        anyhow::ensure!(by_node(&cluster, "apart").await? == [1, 1, 1]);
        let told = "Unschedulable: 0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.";
        expect(&waiting(&cluster, "apart").await?, &[told])
    })
    .await?;
    let events = cluster.kubectl(&["get", "events"]).await?;
    expect(&events, &["FailedScheduling", "didn't match pod anti-affinity rules"])?;
    cluster.kubectl(&["scale", "deployment/apart", "--replicas=3"]).await?;
    cluster.rolled_out("apart").await?;

    let near = "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: leader}}}]}}";
    cluster.apply(&with("near", 2, near)).await?;
    eventually(SOON, "they wait for a leader", async || {
        expect(&waiting(&cluster, "near").await?, &["3 node(s) didn't match pod affinity rules"])
    })
    .await?;
    cluster.apply(&with("leader", 1, "nodeSelector: {kubernetes.io/hostname: two}")).await?;
    cluster.rolled_out("near").await?;
    anyhow::ensure!(by_node(&cluster, "near").await? == [0, 2, 0], "they are with their leader");

    cluster.apply(&with("gated", 1, "schedulingGates: [{name: example.com/wait}]")).await?;
    eventually(SOON, "it is not looked at yet", async || {
        let told = "SchedulingGated: Scheduling is blocked due to non-empty scheduling gates";
        expect(&waiting(&cluster, "gated").await?, &[told])
    })
    .await?;
    let gated = pods(&cluster, "gated").await?;
    let name = gated[0]["metadata"]["name"].as_str().unwrap_or_default();
    let open = r#"[{"op": "remove", "path": "/spec/schedulingGates"}]"#;
    cluster.kubectl(&["patch", "pod", name, "--type=json", "-p", open]).await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", name, PATIENCE]).await?;
    Ok(())
}

/// Whoever matters more gets room; who goes is told why, and comes back when there is room again.
pub(crate) async fn the_urgent_preempt(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&NODES).await? else { return Ok(()) };
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let class = |name: &str, value: i32, policy: &str| {
        format!(
            "{{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {{name: {name}}}, value: {value}, preemptionPolicy: {policy}}}"
        )
    };
    for class in [
        class("high", 1000, "PreemptLowerPriority"),
        class("patient", 1000, "Never"),
        class("low", -10, "PreemptLowerPriority"),
    ] {
        cluster.apply(&class).await?;
    }
    let node = cluster.get(&["node", "one"]).await?;
    let cpus: u32 = node["status"]["allocatable"]["cpu"].as_str().unwrap_or_default().parse()?;
    // More than half of a machine: one fits on each.
    let request = format!("{{cpu: {}m,", cpus * 600);
    let large = |name: &str, replicas: u32, class: &str| {
        with(name, replicas, &format!("priorityClassName: {class}")).replace("{cpu: 10m,", &request)
    };
    cluster.apply(&large("low", 3, "low")).await?;
    cluster.rolled_out("low").await?;
    cluster.apply(&large("patient", 1, "patient")).await?;
    eventually(SOON, "it does not make anybody go", async || {
        let told = "0/3 nodes are available: 3 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.";
        expect(&waiting(&cluster, "patient").await?, &[told])
    })
    .await?;
    anyhow::ensure!(by_node(&cluster, "low").await? == [1, 1, 1]);
    cluster.kubectl(&["delete", "deployment", "patient"]).await?;

    let before = pods(&cluster, "low").await?;
    cluster.apply(&large("high", 1, "high")).await?;
    cluster.rolled_out("high").await?;
    let high = pods(&cluster, "high").await?;
    anyhow::ensure!(high[0]["spec"]["priority"] == 1000, "{high:#?}");
    anyhow::ensure!(high[0]["status"]["nominatedNodeName"].is_null(), "{high:#?}");
    let place = &high[0]["spec"]["nodeName"];
    let victim = before.iter().find(|pod| pod["spec"]["nodeName"] == *place);
    let victim = victim.and_then(|pod| pod["metadata"]["name"].as_str()).unwrap_or_default();
    eventually(SOON, "what happened is told", async || {
        let field = format!("involvedObject.name={victim}");
        let events = cluster.kubectl(&["get", "events", "--field-selector", &field]).await?;
        expect(&events, &["Preempted", "Preempted by pod"])?;
        expect(
            &waiting(&cluster, "low").await?,
            &["3 Insufficient cpu", "3 No preemption victims found for incoming pod"],
        )
    })
    .await?;
    cluster.kubectl(&["delete", "deployment", "high"]).await?;
    cluster.rolled_out("low").await?;
    anyhow::ensure!(by_node(&cluster, "low").await? == [1, 1, 1], "the third has room again");
    Ok(())
}

/// Cordon, drain and uncordon, as people do it before they switch a machine off.
pub(crate) async fn machines_are_drained(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&NODES).await? else { return Ok(()) };
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.kubectl(&["cordon", "three"]).await?;
    let nodes = cluster.kubectl(&["get", "nodes"]).await?;
    expect(&nodes, &["Ready,SchedulingDisabled"])?;
    cluster.deploy_hello("web", "hello:v1", 4).await?;
    let [one, two, three] = by_node(&cluster, "web").await?;
    anyhow::ensure!((one, two, three) == (2, 2, 0), "{one}, {two}, {three}");
    cluster.kubectl(&["create", "pdb", "web", "--selector=app=web", "--max-unavailable=1"]).await?;
    cluster.kubectl(&["uncordon", "three"]).await?;
    cluster.apply(&workload("DaemonSet", "daemon", "hello:v1", "minReadySeconds: 0")).await?;
    cluster.kubectl(&["rollout", "status", "daemonset/daemon", PATIENCE]).await?;
    let daemons = pods(&cluster, "daemon").await?;
    let refused = cluster.kubectl_with(&["drain", "one", "--timeout=6s"], "").await?.refused()?;
    expect(&refused, &["DaemonSet-managed Pods", "--ignore-daemonsets"])?;
    let drain = ["drain", "one", "--ignore-daemonsets", "--delete-emptydir-data", PATIENCE];
    cluster.kubectl(&drain).await?;
    anyhow::ensure!(by_node(&cluster, "web").await?[0] == 0, "the machine may be switched off");
    cluster.rolled_out("web").await?;
    anyhow::ensure!(by_node(&cluster, "web").await?[2] > 0, "the free machine has taken some");
    cluster.kubectl(&["scale", "deployment/web", "--replicas=6"]).await?;
    cluster.rolled_out("web").await?;
    anyhow::ensure!(by_node(&cluster, "web").await?[0] == 0, "it is still cordoned");
    cluster.kubectl(&["uncordon", "one"]).await?;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=12"]).await?;
    cluster.rolled_out("web").await?;
    anyhow::ensure!(by_node(&cluster, "web").await?[0] > 0, "it takes Pods again");
    let uids = |pods: &[Value]| -> BTreeSet<String> {
        pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect()
    };
    let now = pods(&cluster, "daemon").await?;
    anyhow::ensure!(now.len() == 3 && uids(&now) == uids(&daemons), "daemons stay: {now:#?}");
    Ok(())
}
