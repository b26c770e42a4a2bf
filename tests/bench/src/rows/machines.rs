//! Machines that come and go: network namespaces on a wire, each with an agent of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use coracle_test_cluster::{Cluster, Options, Runtime, User};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Api;
use kube::api::ListParams;

use super::crowd::answers_within;
use crate::report::{Measured, ms, quantile};
use crate::{Bench, root};

/// Machines that join, one after the other.
const JOINS: usize = 5;
/// Pods on the machine that is lost, at least; as many on each of the others.
const PODS: usize = 20;
/// Machines that are lost, one after the other.
const LOSSES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(2);
/// A NodePort drops what comes before its machine has an endpoint; TCP would try again only after a second.
const TRY: Duration = Duration::from_millis(20);

/// A control plane for machines; the binary is the bench's.
async fn fleet(bench: &Bench) -> anyhow::Result<Cluster> {
    let options =
        Options { user: User::Root, runtime: Runtime::Wasm, args: Vec::new(), filled: None };
    let cluster = Cluster::fleet_of(options, &bench.binary).await?;
    let component = root().join("examples/prebuilt/hello-v1.wasm");
    cluster.push(&component, "bench:v1").await?;
    Ok(cluster)
}

/// From exec of an agent to the first answer of a Pod on its machine.
pub(super) async fn join(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = fleet(bench).await?;
    let measured = joins(&cluster).await;
    cluster.stop().await?;
    measured
}

async fn joins(cluster: &Cluster) -> anyhow::Result<Measured> {
    let daemons = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {app: d}}\n  template:\n    \
        metadata: {labels: {app: d}}\n    spec: {containers: [{name: c, image: 'bench:v1', ports: [{containerPort: 8080}]}]}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: d}\nspec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: d}, \
        ports: [{port: 8080}]}\n";
    cluster.apply(daemons).await?;
    let services: Api<Service> = Api::namespaced(cluster.client().await?, "default");
    let spec = services.get("d").await?.spec.context("no spec")?;
    let port = spec.ports.and_then(|ports| ports.first()?.node_port).context("no nodePort")?;
    let port = u16::try_from(port)?;
    let mut times = Vec::new();
    for number in 0..JOINS {
        let name = format!("node-{number}");
        let machine = cluster.add_machine(&name, &[])?;
        let begun = Instant::now();
        cluster.start_node(&name).await?;
        let address = SocketAddr::from((machine.address(), port));
        while !answers_within(address, TRY).await {
            if begun.elapsed() > PATIENCE {
                bail!("{name} serves no Pod after {PATIENCE:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
        times.push(begun.elapsed());
    }
    let (p50, worst) = (quantile(&mut times, 0.5), quantile(&mut times, 1.0));
    Ok(Measured {
        value: format!("p50 {}, slowest {}", ms(p50), ms(worst)),
        met: worst <= Duration::from_secs(1),
        notes: format!(
            "{JOINS} machines (network namespaces on one wire), one after the other: from exec of an agent that nobody knows yet until \
             its DaemonSet's Pod answers by the machine's NodePort (`externalTrafficPolicy: Local`). Each pulls the image and compiles \
             it: no machine has seen it."
        ),
    })
}

/// From a machine's loss to its Pods' replacements.
pub(super) async fn lost(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = fleet(bench).await?;
    let measured = losses(&cluster).await;
    cluster.stop().await?;
    measured
}

async fn losses(cluster: &Cluster) -> anyhow::Result<Measured> {
    let names = ["one", "two", "three"];
    for name in names {
        cluster.join(name, &[]).await?;
    }
    let count = PODS * names.len();
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec:\n  replicas: {count}\n  selector: {{matchLabels: {{app: d}}}}\n  \
         template:\n    metadata: {{labels: {{app: d}}}}\n    spec:\n      tolerations: [{{key: node.kubernetes.io/unreachable, \
         operator: Exists, effect: NoExecute, tolerationSeconds: 0}}]\n      containers: [{{name: c, image: 'bench:v1', ports: \
         [{{containerPort: 8080}}]}}]\n"
    );
    cluster.apply(&deployment).await?;
    let client = cluster.client().await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let (mut detections, mut replacements) = (Vec::new(), Vec::new());
    let mut replaced = 0;
    for name in names.into_iter().cycle().take(LOSSES) {
        // Pods go where others left: what comes back is filled by starting over.
        cluster.kubectl(&["scale", "deployment/d", "--replicas=0"]).await?;
        eventually(async || Ok(pods.list(&ListParams::default()).await?.items.is_empty())).await?;
        cluster.kubectl(&["scale", "deployment/d", &format!("--replicas={count}")]).await?;
        eventually(async || Ok(ready_elsewhere(&pods, "").await? == count)).await?;
        // Leases and watches settle.
        tokio::time::sleep(Duration::from_secs(3)).await;
        replaced += count - ready_elsewhere(&pods, name).await?;
        let machine = cluster.machine(name)?;
        machine.plug(false)?;
        let begun = Instant::now();
        eventually(async || Ok(!is_ready(&nodes.get(name).await?))).await?;
        let detected = begun.elapsed();
        eventually(async || Ok(ready_elsewhere(&pods, name).await? == count)).await?;
        detections.push(detected);
        replacements.push(begun.elapsed() - detected);
        machine.plug(true)?;
        eventually(async || Ok(is_ready(&nodes.get(name).await?))).await?;
    }
    let detection = quantile(&mut detections, 1.0);
    let replacement = quantile(&mut replacements, 1.0);
    Ok(Measured {
        value: format!("{}; detection {:.1} s", ms(replacement), detection.as_secs_f64()),
        met: replacement <= Duration::from_secs(1) && detection <= Duration::from_secs(10),
        notes: format!(
            "The slowest of {LOSSES} losses: the plug is pulled of one of three machines with {count} Wasm Pods together; {replaced} were \
             replaced in all. Detection: until its Node is not Ready, as clients see it; then until as many Pods as before are Ready on \
             the others. The Pods tolerate an unreachable node for 0 s."
        ),
    })
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Ready Pods that are on no machine of this name.
async fn ready_elsewhere(pods: &Api<Pod>, lost: &str) -> anyhow::Result<usize> {
    let all = pods.list(&ListParams::default()).await?;
    let ready = |pod: &&Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        node != Some(lost)
            && pod.metadata.deletion_timestamp.is_none()
            && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    Ok(all.items.iter().filter(ready).count())
}

async fn eventually(is_so: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_so().await? {
        if begun.elapsed() > PATIENCE {
            bail!("not so after {PATIENCE:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
