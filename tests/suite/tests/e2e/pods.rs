//! What Pods do, and what is said when they cannot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, eventually, http};
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, command_pod, expect, hello};

async fn status(cluster: &Cluster, pod: &str) -> anyhow::Result<Value> {
    Ok(cluster.get(&["pod", pod]).await?["status"].clone())
}

/// Waits until `check` holds for a Pod's status.
async fn pod_is(
    cluster: &Cluster,
    pod: &str,
    what: &str,
    check: impl Fn(&Value) -> bool,
) -> Outcome {
    eventually(SOON, what, async || {
        let status = status(cluster, pod).await?;
        anyhow::ensure!(check(&status), "{pod}: {status:#}");
        Ok(())
    })
    .await
}

pub(crate) async fn restart_policies(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    let pods = [
        command_pod("never-fails", "Never", &["--exit", "3"]),
        command_pod("failure-ends", "OnFailure", &["--lines", "1"]),
        command_pod("failure-fails", "OnFailure", &["--exit", "4"]),
        command_pod("always-ends", "Always", &["--lines", "1"]),
    ];
    cluster.apply(&pods.join("---")).await?;
    let container = |status: &Value| status["containerStatuses"][0].clone();
    pod_is(&cluster, "never-fails", "Never: it failed, once", |status| {
        let ended = &container(status)["state"]["terminated"];
        status["phase"] == "Failed" && ended["exitCode"] == 3 && ended["reason"] == "Error"
    })
    .await?;
    pod_is(&cluster, "failure-ends", "OnFailure, exit 0: it succeeded, once", |status| {
        let ended = &container(status)["state"]["terminated"];
        status["phase"] == "Succeeded"
            && ended["reason"] == "Completed"
            && container(status)["restartCount"] == 0
    })
    .await?;
    for (pod, code) in [("failure-fails", 4), ("always-ends", 0)] {
        pod_is(&cluster, pod, "it is restarted, and then backs off", |status| {
            let container = container(status);
            container["restartCount"].as_u64() >= Some(1)
                && container["lastState"]["terminated"]["exitCode"] == code
                && container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await?;
    }
    let events = cluster.kubectl(&["get", "events"]).await?;
    expect(&events, &["BackOff", "Back-off restarting failed container"])?;
    let table = cluster.kubectl(&["get", "pods"]).await?;
    expect(&table, &["CrashLoopBackOff", "Error", "Completed"])
}

pub(crate) async fn a_missing_image_is_waited_for(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.apply(&hello("web", "late:v1", 1)).await?;
    eventually(SOON, "the Pod says what is missing", async || {
        let pods = cluster.get(&["pods", "-l", "app=web"]).await?;
        let waiting = &pods["items"][0]["status"]["containerStatuses"][0]["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        anyhow::ensure!(["ErrImagePull", "ImagePullBackOff"].contains(&reason), "{pods:#}");
        expect(waiting["message"].as_str().unwrap_or_default(), &["late:v1"])?;
        let events = cluster.kubectl(&["get", "events"]).await?;
        expect(&events, &["Failed", "Failed to pull image \"late:v1\""])
    })
    .await?;
    cluster.push_all(&[("hello-v1", "late:v1")]).await?;
    cluster.rolled_out("web").await
}

pub(crate) async fn what_is_no_component_is_named(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    for (name, content, wanted) in
        [("text.wasm", &b"hello"[..], "no Wasm file"), ("empty.wasm", b"", "is empty")]
    {
        let file = cluster.file(name, content)?;
        let output = cluster.coracle(&["push".as_ref(), file.as_os_str(), "x:v1".as_ref()]).await?;
        expect(&output.refused()?, &[name, wanted])?;
    }
    // What the registry takes, but no node can run.
    let run = r#"
        (core module $m (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $exported (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $exported))"#;
    let import = r#"(import "acme:widgets/thing@1.0.0" (instance (export "f" (func))))"#;
    for (name, text, wanted) in [
        ("nothing", "(component)".to_owned(), "wasi:cli/run"),
        ("unknown", format!("(component {import} {run})"), "acme:widgets/thing"),
    ] {
        let file = cluster.file(&format!("{name}.wasm"), &wat::parse_str(text)?)?;
        cluster.push(&file, &format!("{name}:v1")).await?;
        let pod =
            command_pod(name, "Never", &[]).replace("hello-command:v1", &format!("{name}:v1"));
        cluster.apply(&pod).await?;
        eventually(SOON, "the container waits, and says why", async || {
            let status = status(&cluster, name).await?;
            let waiting = &status["containerStatuses"][0]["state"]["waiting"];
            anyhow::ensure!(waiting["reason"] == "CreateContainerError", "{status:#}");
            expect(waiting["message"].as_str().unwrap_or_default(), &[wanted])?;
            let events = cluster.kubectl(&["describe", "pod", name]).await?;
            expect(&events, &["Warning", wanted])
        })
        .await?;
    }
    Ok(())
}

pub(crate) async fn a_failing_liveness_probe_restarts(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    let probe = "livenessProbe: {httpGet: {path: /status/500, port: http}, periodSeconds: 1, failureThreshold: 2}\n        readinessProbe:";
    cluster.apply(&hello("ill", "probe:v1", 1).replace("readinessProbe:", probe)).await?;
    eventually(SOON, "the container is restarted", async || {
        let pods = cluster.get(&["pods", "-l", "app=ill"]).await?;
        let count = pods["items"][0]["status"]["containerStatuses"][0]["restartCount"].as_u64();
        anyhow::ensure!(count >= Some(1), "{pods:#}");
        let events = cluster.kubectl(&["get", "events"]).await?;
        expect(&events, &["Liveness probe failed", "Killing"])
    })
    .await
}

pub(crate) async fn one_guest_harms_no_other(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("probe-http", "probe:v1")]).await?;
    cluster.deploy_hello("good", "hello:v1", 1).await?;
    cluster.deploy_hello("bad", "probe:v1", 1).await?;
    let good = cluster.service("default", "good").await?;
    let bad = cluster.service("default", "bad").await?;
    let spinning: Vec<_> =
        (0..6).map(|_| tokio::spawn(async move { http::get(bad, "/busy").await })).collect();
    for path in ["/trap", "/silent", "/grow?mib=500"] {
        let reply = http::get(bad, path).await?;
        anyhow::ensure!(reply.status.is_server_error(), "{path}: {reply:?}");
    }
    let start = Instant::now();
    for _ in 0..50 {
        expect(&http::get(good, "/health").await?.body, &["ok"])?;
    }
    let took = start.elapsed();
    anyhow::ensure!(took < Duration::from_secs(10), "50 requests took {took:?}");
    spinning.iter().for_each(tokio::task::JoinHandle::abort);
    // And the one that misbehaved goes on as well.
    eventually(SOON, "the misbehaving Pod answers", async || {
        expect(&http::get(bad, "/").await?.body, &["probe-http"])
    })
    .await?;
    let pods = cluster.get(&["pods", "-l", "app=good"]).await?;
    let container = &pods["items"][0]["status"]["containerStatuses"][0];
    anyhow::ensure!(container["restartCount"] == 0, "{container:#}");
    Ok(())
}

pub(crate) async fn files_and_environment(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    cluster.kubectl(&["create", "configmap", "settings", "--from-literal=colour=blue"]).await?;
    cluster
        .kubectl(&["create", "secret", "generic", "login", "--from-literal=password=pa55"])
        .await?;
    let pod = command_pod(
        "reader",
        "Never",
        &["--read", "/etc/settings/colour", "--read", "/etc/login/password"],
    );
    let volumes = r"
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: JOINED, value: 'is $(COLOUR)'}
    envFrom: [{secretRef: {name: login}, prefix: LOGIN_}]
    volumeMounts:
    - {name: settings, mountPath: /etc/settings}
    - {name: login, mountPath: /etc/login, readOnly: true}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: login, secret: {secretName: login}}
";
    cluster.apply(&format!("{}{}", pod.trim_end(), volumes)).await?;
    pod_is(&cluster, "reader", "it read its files", |status| status["phase"] == "Succeeded")
        .await?;
    let logs = cluster.kubectl(&["logs", "reader"]).await?;
    let lines =
        ["\nblue\n", "\npa55\n", "COLOUR=blue", "JOINED=is blue", "LOGIN_password=pa55", "NODE="];
    expect(&logs, &lines)
}

pub(crate) async fn what_cannot_be_scheduled_says_why(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let node = cluster.get(&["nodes"]).await?;
    let node = node["items"][0]["metadata"]["name"].as_str().context("no node")?.to_owned();
    let large = hello("large", "hello:v1", 1).replace("cpu: 10m", "cpu: '4000'");
    cluster.apply(&large).await?;
    let picky = hello("picky", "hello:v1", 1)
        .replace("      containers:", "      nodeSelector: {disk: fast}\n      containers:");
    cluster.apply(&picky).await?;
    for (app, wanted) in [
        ("large", "0/1 nodes are available: 1 Insufficient cpu"),
        ("picky", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector"),
    ] {
        eventually(SOON, "the Pod says why it waits", async || {
            let text = cluster.kubectl(&["describe", "pods", "-l", &format!("app={app}")]).await?;
            expect(&text, &["Pending", "FailedScheduling", wanted])
        })
        .await?;
    }
    // A label makes room for one, a taint keeps others out.
    cluster.kubectl(&["label", "node", &node, "disk=fast"]).await?;
    cluster.rolled_out("picky").await?;
    cluster.kubectl(&["taint", "node", &node, "closed=yes:NoSchedule"]).await?;
    cluster.apply(&hello("late", "hello:v1", 1)).await?;
    eventually(SOON, "the taint is named", async || {
        let text = cluster.kubectl(&["describe", "pods", "-l", "app=late"]).await?;
        expect(&text, &["had untolerated taint"])
    })
    .await?;
    cluster.kubectl(&["taint", "node", &node, "closed-"]).await?;
    cluster.rolled_out("late").await
}

/// Pods ask for disk as for anything else, and a class whose runtime a node has not is never replaced by another.
pub(crate) async fn a_node_offers_disk_and_only_its_own_runtimes(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    let node = &cluster.get(&["nodes"]).await?["items"][0]["status"];
    let kib = |of: &str| -> u64 {
        let amount = node[of]["ephemeral-storage"].as_str().unwrap_or_default();
        amount.strip_suffix("Ki").and_then(|kib| kib.parse().ok()).unwrap_or_default()
    };
    let (all, offered) = (kib("capacity"), kib("allocatable"));
    anyhow::ensure!(offered > 0 && offered < all, "{node:#}");
    let asks = |name: &str, kib: u64| {
        let resources = format!("    resources: {{requests: {{ephemeral-storage: {kib}Ki}}}}\n");
        command_pod(name, "Never", &["--lines", "1"]) + &resources
    };
    cluster.apply(&[asks("little", 1024), asks("too-much", offered + 1)].join("---")).await?;
    pod_is(&cluster, "little", "it ran", |status| status["phase"] == "Succeeded").await?;
    pod_is(&cluster, "too-much", "there is no such disk", |status| {
        let said = status["conditions"][0]["message"].as_str().unwrap_or_default();
        said.contains("Insufficient ephemeral-storage")
    })
    .await?;

    let class = "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: locked}\nhandler: vault\n";
    cluster.apply(class).await?;
    let pod = command_pod("locked", "Never", &["--lines", "1"]);
    cluster.apply(&pod.replacen("spec:\n", "spec:\n  runtimeClassName: locked\n", 1)).await?;
    eventually(SOON, "it is said that there is no such runtime", async || {
        let events = cluster.kubectl(&["events", "--for=pod/locked"]).await?;
        expect(&events, &["FailedCreatePodSandBox", "no runtime for \"vault\" is configured"])
    })
    .await?;
    let status = status(&cluster, "locked").await?;
    anyhow::ensure!(status["phase"] == "Pending", "{status:#}");

    // Put there by name, past the scheduler.
    let node = cluster.kubectl(&["get", "nodes", "-o", "name"]).await?;
    let node = node.trim().trim_start_matches("node/");
    let put = |name: &str, more: &str| {
        let pod = command_pod(name, "Never", &["--lines", "1"]);
        pod.replacen("spec:\n", &format!("spec:\n  nodeName: {node}\n{more}"), 1)
    };
    let greedy = put("greedy", "") + "    resources: {requests: {cpu: 1M}}\n";
    cluster.apply(&[greedy, put("foreign", "  os: {name: windows}\n")].join("---")).await?;
    let told =
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000000, used: ";
    let foreign = "Pod was rejected: Failed to admit pod as the OS field doesn't match node OS";
    for (pod, reason, message) in
        [("greedy", "OutOfcpu", told), ("foreign", "PodOSNotSupported", foreign)]
    {
        pod_is(&cluster, pod, "it is refused", |status| {
            let said = status["message"].as_str().unwrap_or_default();
            status["phase"] == "Failed" && status["reason"] == reason && said.starts_with(message)
        })
        .await?;
    }
    Ok(())
}
