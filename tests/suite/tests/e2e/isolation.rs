//! Hosts apart: who shares a process with whom, what a process may do, and what of it is left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, HostProcess, Part, User, eventually, http};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, command_pod, expect, hello};

/// The same deployment, in the given isolation.
pub(crate) fn isolated(name: &str, image: &str, replicas: u32, isolation: &str) -> String {
    let annotated = format!(
        "    metadata: {{labels: {{app: {name}}}, annotations: {{coracle.dev/isolation: {isolation}}}}}"
    );
    let plain = format!("    metadata: {{labels: {{app: {name}}}}}");
    hello(name, image, replicas).replace(&plain, &annotated)
}

/// The hosts that run, without the shared one, by what they are for.
fn groups(cluster: &Cluster) -> BTreeMap<String, HostProcess> {
    let all = cluster.hosts().into_iter().map(|host| (host.group.clone(), host));
    all.filter(|(group, _)| group != "shared").collect()
}

async fn hosts_are(cluster: &Cluster, what: &str, wanted: &[&str]) -> Outcome {
    eventually(SOON, what, async || {
        let found = groups(cluster);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        anyhow::ensure!(names == wanted, "hosts of {names:?}, not of {wanted:?}");
        Ok(())
    })
    .await
}

async fn restarts(cluster: &Cluster, namespace: &str) -> anyhow::Result<Vec<u64>> {
    let pods = cluster.get(&["pods", "-n", namespace]).await?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let count = |pod: &serde_json::Value| {
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()
    };
    Ok(pods.iter().map(count).collect())
}

pub(crate) async fn namespaces_have_hosts_of_their_own(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("everybody", "hello:v1", 1).await?;
    for namespace in ["blue", "green"] {
        cluster.kubectl(&["create", "namespace", namespace]).await?;
        let demand = ["annotate", "namespace", namespace, "coracle.dev/isolation=namespace"];
        cluster.kubectl(&demand).await?;
        let input = hello("web", "hello:v1", 2);
        cluster.kubectl_with(&["apply", "-n", namespace, "-f", "-"], &input).await?.ok()?;
    }
    for namespace in ["blue", "green"] {
        let rollout = ["rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s"];
        cluster.kubectl(&rollout).await?;
    }
    hosts_are(&cluster, "each namespace has one host", &["namespace blue", "namespace green"])
        .await?;
    let found = groups(&cluster);
    let (blue, green) = (found["namespace blue"].pid, found["namespace green"].pid);
    let [of_blue, of_green] =
        [cluster.service("blue", "web").await?, cluster.service("green", "web").await?];
    for address in [of_blue, of_green] {
        expect(&http::get(address, "/health").await?.body, &["ok"])?;
    }
    let events = cluster.kubectl(&["get", "events", "-n", "blue"]).await?;
    expect(&events, &["Isolated", "sandbox host of namespace \"blue\""])?;

    // One host's end is its own Pods' affair.
    kill(Pid::from_raw(blue), Signal::SIGKILL)?;
    for _ in 0..20 {
        expect(&http::get(of_green, "/health").await?.body, &["ok"])?;
    }
    eventually(SOON, "the killed host's Pods are back", async || {
        anyhow::ensure!(restarts(&cluster, "blue").await? == [1, 1]);
        expect(&http::get(of_blue, "/health").await?.body, &["ok"])
    })
    .await?;
    anyhow::ensure!(restarts(&cluster, "green").await? == [0, 0], "green was not touched");
    anyhow::ensure!(restarts(&cluster, "default").await? == [0], "nor were the shared host's");
    anyhow::ensure!(groups(&cluster)["namespace green"].pid == green);

    // An annotation may ask for more than the Namespace does, and not for less.
    let weaker = isolated("weak", "hello:v1", 1, "shared");
    cluster.kubectl_with(&["apply", "-n", "green", "-f", "-"], &weaker).await?.ok()?;
    eventually(SOON, "the refusal is told", async || {
        let events = cluster.kubectl(&["get", "events", "-n", "green"]).await?;
        let why = "\"shared\" is weaker than \"namespace\", which the Namespace demands";
        expect(&events, &["FailedCreatePodSandBox", why])
    })
    .await?;
    cluster.kubectl(&["delete", "deployment", "weak", "-n", "green"]).await?;

    // With their last Pods, hosts go.
    cluster.kubectl(&["delete", "deployment", "web", "-n", "blue"]).await?;
    hosts_are(&cluster, "blue's host ended with its Pods", &["namespace green"]).await?;
    cluster.kubectl(&["delete", "namespace", "green"]).await?;
    hosts_are(&cluster, "green's host ended with its namespace", &[]).await?;
    eventually(SOON, "and so did their folders", async || {
        let left = cluster.data().join("agent/groups");
        let left = fs::read_dir(left).into_iter().flatten().flatten().count();
        anyhow::ensure!(left == 0, "{left} folders are left");
        Ok(())
    })
    .await
}

pub(crate) async fn a_pod_alone_serves_calls_and_survives_the_agent(
    context: Arc<Context>,
) -> Outcome {
    let cluster = context.split().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("probe-http", "probe:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 1).await?;
    cluster.apply(&isolated("alone", "probe:v1", 2, "pod")).await?;
    cluster.rolled_out("alone").await?;
    let before = groups(&cluster);
    anyhow::ensure!(before.len() == 2, "each Pod has a host: {before:?}");
    let address = cluster.service("default", "alone").await?;
    let calls = async || {
        for (host, answer) in [("web", "v1"), ("alone", "probe-http")] {
            for _ in 0..4 {
                let path = if host == "web" { "/version" } else { "/" };
                let reply = http::get(address, &format!("/fetch?url=http://{host}{path}")).await?;
                expect(&reply.body, &["200", answer]).with_context(|| host.to_owned())?;
            }
        }
        Ok(())
    };
    eventually(SOON, "it calls Services, also its own", calls).await?;
    cluster.kill9(Part::Agent).await?;
    expect(&http::get(address, "/").await?.body, &["probe-http"])?;
    cluster.start(Part::Agent).await?;
    // The agent that came back has them in hand: it reads their logs, and ends one of them.
    eventually(SOON, "it still calls Services", calls).await?;
    cluster.kubectl(&["logs", "deployment/alone"]).await?;
    let pids = |hosts: &BTreeMap<String, HostProcess>| -> Vec<i32> {
        hosts.values().map(|host| host.pid).collect()
    };
    anyhow::ensure!(pids(&groups(&cluster)) == pids(&before), "no host was started anew");
    anyhow::ensure!(restarts(&cluster, "default").await? == [0, 0, 0]);
    cluster.kubectl(&["scale", "deployment/alone", "--replicas=1"]).await?;
    eventually(SOON, "one host is left", async || {
        let left = groups(&cluster).len();
        anyhow::ensure!(left == 1, "{left} hosts");
        expect(&http::get(address, "/").await?.body, &["probe-http"])
    })
    .await?;
    cluster.kubectl(&["delete", "deployment", "alone"]).await?;
    hosts_are(&cluster, "the last host ended", &[]).await
}

pub(crate) async fn hosts_may_do_little(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-command", "hello-command:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 1).await?;
    cluster.apply(&isolated("apart", "hello:v1", 1, "namespace")).await?;
    cluster.rolled_out("apart").await?;
    let root = cluster.user() == User::Root;
    let mut users = Vec::new();
    let mut networks = vec![fs::read_link("/proc/self/ns/net")?];
    let hosts = cluster.hosts();
    anyhow::ensure!(hosts.len() == 2, "{hosts:?}");
    for host in &hosts {
        let proc = format!("/proc/{}", host.pid);
        // All threads, not only the first.
        for task in fs::read_dir(format!("{proc}/task"))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.map(str::trim).unwrap_or_default().to_owned()
            };
            for name in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                anyhow::ensure!(field(name) == "0000000000000000", "{name} {}", field(name));
            }
            anyhow::ensure!(field("NoNewPrivs:") == "1" && field("Seccomp:") == "2", "{status}");
            if root {
                let ids: Vec<String> =
                    field("Uid:").split_whitespace().map(str::to_owned).collect();
                anyhow::ensure!(ids.iter().all(|id| *id == ids[0]) && ids[0] != "0", "{ids:?}");
                anyhow::ensure!(field("Groups:").is_empty(), "groups: {}", field("Groups:"));
                users.push(ids[0].clone());
            }
        }
        networks.push(fs::read_link(format!("{proc}/ns/net"))?);
        if root {
            let seen = fs::read_dir(format!("{proc}/root"))?.flatten();
            let mut seen: Vec<String> =
                seen.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            seen.sort();
            anyhow::ensure!(!seen.contains(&"root".to_owned()), "the machine's root: {seen:?}");
            let key = cluster.data().join("admin.kubeconfig");
            let inside = Path::new(&format!("{proc}/root")).join(key.strip_prefix("/")?);
            anyhow::ensure!(key.exists() && !inside.exists(), "{} is there", inside.display());
            let groups = fs::read_to_string(format!("{proc}/cgroup"))?;
            if groups.contains(":memory:") || Path::new("/sys/fs/cgroup/cgroup.procs").exists() {
                expect(&groups, &["/coracle/"])?;
            }
        }
    }
    users.dedup();
    networks.sort();
    networks.dedup();
    if root {
        anyhow::ensure!(users.len() == 2, "each host is a user of its own: {users:?}");
        anyhow::ensure!(networks.len() == 3, "each is in a network of its own: {networks:?}");
    }
    // What Pods may do, they still can: write, read what was mounted, and be read from.
    cluster.kubectl(&["create", "configmap", "settings", "--from-literal=colour=blue"]).await?;
    let pod = command_pod("reader", "Never", &["--read", "/etc/settings/colour", "--sleep", "60"])
        .replace(
            "metadata: {name: reader,",
            "metadata: {name: reader, annotations: {coracle.dev/isolation: pod},",
        );
    let volumes = r"
    volumeMounts: [{name: data, mountPath: /data}, {name: settings, mountPath: /etc/settings}]
  volumes:
  - {name: data, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
";
    cluster.apply(&format!("{}{}", pod.trim_end(), volumes)).await?;
    eventually(SOON, "the Pod read what was mounted", async || {
        let pod = cluster.get(&["pod", "reader"]).await?;
        let logs = cluster.kubectl(&["logs", "reader"]).await.unwrap_or_default();
        anyhow::ensure!(pod["status"]["phase"] == "Running", "{:#}\n{logs}", pod["status"]);
        expect(&logs, &["blue"])
    })
    .await?;
    if root {
        let groups = cluster.data().join("agent/groups");
        let volumes = fs::read_dir(groups)?.flatten().map(|group| group.path().join("volumes"));
        let pods =
            volumes.flat_map(|volumes| fs::read_dir(volumes).into_iter().flatten().flatten());
        let pod = pods.last().context("the Pod has no volumes")?.path();
        let (whole, data) = (fs::metadata(&pod)?, fs::metadata(pod.join("data"))?);
        anyhow::ensure!(whole.uid() == 0, "the host may not exchange what root writes to");
        anyhow::ensure!(data.uid() == whole.gid() && data.uid() != 0, "emptyDir is its host's");
    }
    cluster.kubectl(&["delete", "pod", "reader", "--grace-period=1"]).await?;
    hosts_are(&cluster, "its host ended with it", &["namespace default"]).await?;
    cluster.kubectl(&["logs", "deployment/apart"]).await?;
    Ok(())
}
