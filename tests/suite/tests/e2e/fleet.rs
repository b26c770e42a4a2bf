//! Clusters of several machines.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coracle_test_cluster::{Cidr, Cluster, Machine, Part, Runtime, eventually, http, tools};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::context::{
    ClusterExt as _, Context, Outcome, PATIENCE, SOON, command_pod, expect, hello,
};
use crate::streams::Forward;

pub(crate) const NODES: [&str; 3] = ["one", "two", "three"];
/// How long one call of a machine may take.
const CALL: Duration = Duration::from_secs(3);

/// What a machine is answered, by an address that may be another's.
pub(crate) fn ask(machine: &Machine, address: SocketAddr, path: &str) -> anyhow::Result<String> {
    ask_within(machine, address, path, CALL)
}

/// The same, with another patience for connecting and for what is read.
pub(crate) fn ask_within(
    machine: &Machine,
    address: SocketAddr,
    path: &str,
    patience: Duration,
) -> anyhow::Result<String> {
    let call = || {
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        anyhow::Ok(answer)
    };
    machine.run(call)?.with_context(|| format!("{path} of {address} from {}", machine.address()))
}

/// A Pod for each node, ready; all behind one Service, which has a port on every node.
pub(crate) async fn a_pod_a_node(
    cluster: &Cluster,
    name: &str,
    image: &str,
) -> anyhow::Result<Vec<Value>> {
    for node in NODES {
        let manifest = hello(&format!("{name}-{node}"), image, 1);
        let (deployment, _) = manifest.split_once("---").context("no Service")?;
        let here = format!("nodeSelector: {{kubernetes.io/hostname: {node}}}\n      containers:");
        let labels = format!("labels: {{app: {name}-{node}, all: {name}}}}}\n    spec");
        let deployment = deployment.replace("containers:", &here);
        let deployment =
            deployment.replace(&format!("labels: {{app: {name}-{node}}}}}\n    spec"), &labels);
        cluster.apply(&deployment).await?;
    }
    for node in NODES {
        cluster.rolled_out(&format!("{name}-{node}")).await?;
    }
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: NodePort, selector: {{all: {name}}}, ports: [{{port: 80, targetPort: http}}]}}}}"
    );
    cluster.apply(&service).await?;
    let pods = cluster.get(&["pods", "-l", &format!("all={name}")]).await?;
    let mut pods = pods["items"].as_array().context("no Pods")?.clone();
    let place = |pod: &Value| NODES.iter().position(|node| pod["spec"]["nodeName"] == *node);
    pods.sort_by_key(place);
    anyhow::ensure!(pods.len() == 3 && place(&pods[0]) == Some(0), "{pods:#?}");
    Ok(pods)
}

pub(crate) fn address_of(pod: &Value) -> anyhow::Result<SocketAddr> {
    let ip = pod["status"]["podIP"].as_str().context("no podIP")?;
    Ok(SocketAddr::new(ip.parse()?, 8080))
}

/// Every Pod is reached from every machine and from every other Pod, by its address and through Services.
pub(crate) async fn pods_reach_each_other(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&NODES).await? else { return Ok(()) };
    cluster.push_all(&[("hello-v1", "hello:v1"), ("probe-http", "probe:v1")]).await?;
    let nodes = cluster.get(&["nodes"]).await?;
    let nodes = nodes["items"].as_array().context("no nodes")?;
    let ranges: BTreeSet<&str> =
        nodes.iter().filter_map(|node| node["spec"]["podCIDR"].as_str()).collect();
    // Of the size that a thousand Pods need.
    let fit = ranges.iter().all(|range| range.ends_with("/21"));
    anyhow::ensure!(ranges.len() == 3 && fit, "{ranges:?}");
    let pods = a_pod_a_node(&cluster, "web", "hello:v1").await?;
    let callers = a_pod_a_node(&cluster, "probe", "probe:v1").await?;
    for node in NODES {
        let machine = cluster.machine(node)?;
        for pod in &pods {
            let name = pod["metadata"]["name"].as_str().context("no name")?;
            expect(&ask(&machine, address_of(pod)?, "/")?, &["HTTP/1.1 200", name])?;
        }
    }
    // From Pods to Pods; a guest of any kind fetches for us.
    for from in &callers {
        for to in &pods {
            let url = format!("/fetch?url=http://{}/version", address_of(to)?);
            let machine = cluster.machine(NODES[0])?;
            expect(&ask(&machine, address_of(from)?, &url)?, &["200", "v1"])?;
        }
    }
    // Services, from machines and from Pods: each gets answers of all three.
    let service = cluster.get(&["service", "web"]).await?;
    let vip = service["spec"]["clusterIP"].as_str().context("no clusterIP")?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
    let port = u16::try_from(port)?;
    let all = |what: String, ask: &dyn Fn() -> anyhow::Result<String>| {
        let mut left: Vec<&str> =
            pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        for _ in 0..100 {
            let answer = ask()?;
            left.retain(|name| !answer.contains(name));
            if left.is_empty() {
                return Ok(());
            }
        }
        anyhow::bail!("{what}: no answer of {left:?}")
    };
    for node in NODES {
        let machine = cluster.machine(node)?;
        let outside = SocketAddr::from((cluster.machine("two")?.address(), port));
        for address in [SocketAddr::new(vip.parse()?, 80), outside] {
            eventually(SOON, "the Service leads to all", async || {
                all(format!("{address} from {node}"), &|| ask(&machine, address, "/"))
            })
            .await?;
        }
    }
    for pod in &callers {
        let (machine, address) = (cluster.machine("one")?, address_of(pod)?);
        for host in [vip, "web.default.svc.cluster.local"] {
            eventually(SOON, "Pods reach the Service", async || {
                let url = format!("/fetch?url=http://{host}/");
                all(format!("{host} from {address}"), &|| ask(&machine, address, &url))
            })
            .await?;
        }
        // What the API server asks of their nodes.
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        cluster.kubectl(&["logs", name]).await?;
    }
    Ok(())
}

/// Without the server, and without an agent, all goes on; who comes back finds it so.
pub(crate) async fn supervisors_may_be_away(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&NODES).await? else { return Ok(()) };
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let pods = a_pod_a_node(&cluster, "web", "hello:v1").await?;
    let vip = cluster.get(&["service", "web"]).await?;
    let vip = vip["spec"]["clusterIP"].as_str().context("no clusterIP")?.parse()?;
    let vip = SocketAddr::new(vip, 80);
    let everything_answers = || {
        for node in NODES {
            let machine = cluster.machine(node)?;
            for address in pods.iter().map(address_of) {
                expect(&ask(&machine, address?, "/version")?, &["v1"])?;
            }
            for _ in 0..20 {
                expect(&ask(&machine, vip, "/version")?, &["v1"])?;
            }
        }
        anyhow::Ok(())
    };
    eventually(SOON, "all is known everywhere", async || everything_answers()).await?;
    cluster.end(Part::Server, Signal::SIGINT).await?;
    cluster.kill9_node("two")?;
    everything_answers()?;
    // An agent that returns finds its Pods without a server, too.
    cluster.start_node("two").await?;
    everything_answers()?;
    cluster.start(Part::Server).await?;
    everything_answers()?;
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        cluster.kubectl(&["wait", "--for=condition=Ready", "pod", name, PATIENCE]).await?;
        let now = cluster.get(&["pod", name]).await?;
        let restarts = &now["status"]["containerStatuses"][0]["restartCount"];
        anyhow::ensure!(
            *restarts == 0 && now["metadata"]["uid"] == pod["metadata"]["uid"],
            "{now:#}"
        );
    }
    Ok(())
}

/// A machine that nobody hears any more is given up: its Pods are replaced on others, and end when it is back.
pub(crate) async fn a_lost_machine_is_replaced(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&NODES).await? else { return Ok(()) };
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let tolerations = "tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 0}]\n      containers:";
    cluster.apply(&hello("web", "hello:v1", 6).replace("containers:", tolerations)).await?;
    cluster.rolled_out("web").await?;
    let on_node = async |node: &str| -> anyhow::Result<Vec<Value>> {
        let field = format!("spec.nodeName={node}");
        let pods = cluster.get(&["pods", "-l", "app=web", "--field-selector", &field]).await?;
        Ok(pods["items"].as_array().cloned().unwrap_or_default())
    };
    let lost = on_node("two").await?;
    anyhow::ensure!(!lost.is_empty(), "some Pod is on each machine");
    let old = address_of(&lost[0])?;
    let machine = cluster.machine("two")?;
    expect(&ask(&machine, old, "/version")?, &["v1"])?;
    machine.plug(false)?;
    eventually(2 * SOON, "others take over", async || {
        let nodes = cluster.kubectl(&["get", "nodes"]).await?;
        expect(&nodes, &["NotReady"])?;
        let deployment = cluster.get(&["deployment", "web"]).await?;
        let ready = &deployment["status"]["readyReplicas"];
        anyhow::ensure!(*ready == 6, "{ready} of 6 are ready");
        let elsewhere = on_node("one").await?.len() + on_node("three").await?.len();
        anyhow::ensure!(elsewhere == 6, "{elsewhere} of 6 are on other machines");
        Ok(())
    })
    .await?;
    // It does not know, and goes on.
    expect(&ask(&machine, old, "/version")?, &["v1"])?;
    let node = cluster.get(&["node", "two"]).await?;
    for condition in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        let found = conditions.find(|it| it["type"] == condition);
        anyhow::ensure!(found.is_some_and(|it| it["status"] == "Unknown"), "{node:#}");
    }
    let taints = |node: &Value| -> Vec<String> {
        let list = node["spec"]["taints"].as_array().into_iter().flatten();
        let said = |taint: &Value| format!("{}:{}", taint["key"], taint["effect"]).replace('"', "");
        let mut taints: Vec<String> = list.map(said).collect();
        taints.sort();
        taints
    };
    let unreachable = ["NoExecute", "NoSchedule"]
        .map(|effect| format!("node.kubernetes.io/unreachable:{effect}"));
    anyhow::ensure!(taints(&node) == unreachable, "{:?}", taints(&node));
    machine.plug(true)?;
    eventually(SOON, "it is a node again, without the Pods that were replaced", async || {
        let nodes = cluster.kubectl(&["get", "nodes"]).await?;
        anyhow::ensure!(!nodes.contains("NotReady"), "{nodes}");
        let node = cluster.get(&["node", "two"]).await?;
        anyhow::ensure!(taints(&node).is_empty(), "{:?}", taints(&node));
        anyhow::ensure!(on_node("two").await?.is_empty(), "they are still listed");
        anyhow::ensure!(ask(&machine, old, "/version").is_err(), "one still answers");
        Ok(())
    })
    .await?;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=12"]).await?;
    cluster.rolled_out("web").await?;
    anyhow::ensure!(!on_node("two").await?.is_empty(), "it takes Pods again");
    Ok(())
}

/// A machine behind a router, which nobody can call: its agent is asked all the same, by the connection that it keeps to the
/// server; also when the server or the router has forgotten that.
pub(crate) async fn a_hidden_machine_is_reached(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&[]).await? else { return Ok(()) };
    let machine = cluster.join_hidden("hidden", &[]).await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-command", "hello-command:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 1).await?;
    let talk = ["--lines", "1", "--sleep", "600"];
    cluster.apply(&command_pod("talker", "Never", &talk)).await?;
    let running = "--for=jsonpath={.status.phase}=Running";
    cluster.kubectl(&["wait", running, "pod/talker", PATIENCE]).await?;
    let everything = async |round: &str| -> Outcome {
        let logs = async || expect(&cluster.kubectl(&["logs", "talker"]).await?, &["line 1"]);
        eventually(SOON, "the agent is back", logs).await?;
        match context.runtime {
            Runtime::Wasm => {
                let said = cluster.kubectl_with(&["exec", "talker", "--", "ls"], "").await?;
                expect(&said.refused()?, &["is a Wasm component"])?;
            }
            Runtime::Oci => {
                let run = ["exec", "talker", "--", "hello-command", "--lines", "2"];
                expect(&cluster.kubectl(&run).await?, &["line 1", "line 2"])?;
            }
        }
        let forward =
            Forward::start(&cluster, &tools::kubectl()?, &["deployment/web", ":8080"]).await?;
        let reply = http::get(forward.address, "/version").await?;
        anyhow::ensure!(reply.body == "v1\n", "{reply:?}");
        let name = format!("ends-{round}");
        let ends = ["--sleep", "6", "--lines", "2"];
        cluster.apply(&command_pod(&name, "Never", &ends)).await?;
        cluster.kubectl(&["wait", running, &format!("pod/{name}"), PATIENCE]).await?;
        expect(&cluster.kubectl(&["attach", &name]).await?, &["line 1\nline 2\n"])?;
        let health = ["get", "--raw", "/api/v1/nodes/hidden/proxy/healthz"];
        expect(&cluster.kubectl(&health).await?, &["ok"])?;
        let proxied = ["get", "--raw", "/api/v1/namespaces/default/services/web/proxy/version"];
        expect(&cluster.kubectl(&proxied).await?, &["v1"])?;
        eventually(SOON, "its use is known", async || {
            expect(&cluster.kubectl(&["top", "node", "hidden"]).await?, &["hidden"])?;
            expect(&cluster.kubectl(&["top", "pods"]).await?, &["talker"])
        })
        .await
    };
    everything("first").await?;
    cluster.kill9(Part::Server).await?;
    cluster.start(Part::Server).await?;
    everything("again").await?;

    // In the midst of a stream, packets of it go nowhere any more.
    let follow = cluster.kubectl_command(&tools::kubectl()?, &["logs", "-f", "talker"]);
    let mut follow = tokio::process::Command::from(follow);
    follow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut follow = follow.kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("piped")?).lines();
    let heard = async {
        while lines.next_line().await?.context("it ended")? != "line 1" {}
        anyhow::Ok(())
    };
    tokio::time::timeout(SOON, heard).await??;
    machine.restart_router()?;
    everything("last").await?;
    tokio::time::timeout(SOON, follow.wait()).await.context("the old stream goes on")??;

    // There is no other way.
    cluster.kill9_node("hidden")?;
    cluster.start_node_with("hidden", &["--no-tunnel"]).await?;
    let said = cluster.kubectl_with(&["logs", "talker"], "").await?.refused()?;
    expect(&said, &["the agent of node", "does not answer"])
}

/// A Node that is deleted is gone until its agent is started again; its Pods are replaced on others.
pub(crate) async fn a_deleted_node_stays_away(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&["one", "two"]).await? else { return Ok(()) };
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.apply(&hello("web", "hello:v1", 4)).await?;
    cluster.rolled_out("web").await?;
    let on_two = ["pods", "-l", "app=web", "--field-selector", "spec.nodeName=two"];
    let pods = cluster.get(&on_two).await?;
    anyhow::ensure!(pods["items"].as_array().is_some_and(|pods| !pods.is_empty()), "{pods:#}");
    let (machine, old) = (cluster.machine("two")?, address_of(&pods["items"][0])?);
    expect(&ask(&machine, old, "/version")?, &["v1"])?;
    let before = cluster.get(&["node", "two"]).await?;
    cluster.kubectl(&["delete", "node", "two"]).await?;
    eventually(SOON, "its agent knows", async || {
        expect(&cluster.node_errors("two"), &["was deleted", "start the agent again"])
    })
    .await?;
    // Nor does it come back when the server does.
    cluster.kill9(Part::Server).await?;
    cluster.start(Part::Server).await?;
    eventually(3 * SOON, "the other takes over", async || {
        let deployment = cluster.get(&["deployment", "web"]).await?;
        let ready = &deployment["status"]["readyReplicas"];
        let left = cluster.get(&on_two).await?;
        let left = left["items"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(*ready == 4 && left == 0, "{ready} of 4 are ready, {left} are left");
        anyhow::ensure!(ask(&machine, old, "/version").is_err(), "one still answers");
        Ok(())
    })
    .await?;
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "name"]).await?;
    anyhow::ensure!(nodes.trim() == "node/one", "{nodes}");
    let leases = cluster.kubectl(&["get", "leases", "-n", "kube-node-lease", "-o", "name"]).await?;
    anyhow::ensure!(!leases.contains("two"), "{leases}");

    // Its range is another's by the time that it returns.
    let range = before["spec"]["podCIDR"].as_str().context("no podCIDR")?;
    let taken = format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: other}}, spec: {{podCIDR: {range}, podCIDRs: [{range}], unschedulable: true}}}}"
    );
    cluster.apply(&taken).await?;
    cluster.kill9_node("two")?;
    cluster.start_node("two").await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "node/two", PATIENCE]).await?;
    let after = cluster.get(&["node", "two"]).await?;
    anyhow::ensure!(after["spec"]["podCIDR"] != range, "{after:#}");
    cluster.kubectl(&["scale", "deployment/web", "--replicas=12"]).await?;
    cluster.rolled_out("web").await?;
    let pods = cluster.get(&on_two).await?;
    let pod = pods["items"].get(0).context("it takes no Pods")?;
    let one = cluster.machine("one")?;
    eventually(SOON, "its Pods are reached at their new addresses", async || {
        expect(&ask(&one, address_of(pod)?, "/version")?, &["v1"])
    })
    .await
}

/// Ranges that a machine has a use for already are refused, where the cluster begins and where a machine joins.
pub(crate) async fn overlapping_ranges_are_refused(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&[]).await? else { return Ok(()) };
    let data = cluster.home().join("another").to_string_lossy().into_owned();
    for (flag, range) in [("--pod-range", "198.18.0.0/15"), ("--service-range", "198.18.0.0/16")] {
        let args = ["server", "--listen", "127.0.0.1:0", "--data", &data, flag, range];
        let said = cluster.coracle(&args).await?.refused()?;
        expect(&said, &[flag, range, "overlaps", "by cotest"])?;
    }
    let machine = cluster.add_machine("one", &[])?;
    let facts: Value =
        serde_json::from_slice(&std::fs::read(cluster.data().join("network.json"))?)?;
    let pods: Cidr = facts["pods"].as_str().context("no range")?.parse()?;
    let inside = pods.nth(70_000).context("too small")?;
    machine.add_address(inside, 24)?;
    let said = cluster.refused_node("one", &[]).await?;
    let network = Cidr::new(inside, 24).to_string();
    expect(&said, &["--pod-range", &pods.to_string(), &network, "eth0"])?;
    Ok(())
}
