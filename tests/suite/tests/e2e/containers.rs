//! Pods of container images, and Pods that mix them with Wasm.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::load::Load;
use coracle_test_cluster::{Cluster, Part, User, containers, eventually, http, tools};
use serde_json::{Value, json};

use crate::container_images::{available, layout};
use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, manifest};

/// Pushes an image of busybox that runs `script`; false where there is no busybox.
pub(crate) async fn push_script(
    cluster: &Cluster,
    image: &str,
    script: &str,
) -> anyhow::Result<bool> {
    let Some(busybox) = available(containers::busybox())? else { return Ok(false) };
    let config =
        json!({"Entrypoint": ["sh", "-c", script], "Env": ["PATH=/bin"], "WorkingDir": "/"});
    let folder = image.replace([':', '/'], "-");
    cluster.push(&layout(cluster, &folder, &busybox.config(config))?, image).await?;
    Ok(true)
}

/// Serves `/www` until it is told to end, and for a moment longer: whoever was sent here before is still answered.
fn serve(port: &str) -> String {
    format!("httpd -f -p {port} -h /www & trap 'sleep 1; exit 0' TERM; wait")
}

/// Serves what `/version` and `/health` of the hello components say, and its Pod's name.
pub(crate) fn web(version: &str) -> String {
    format!(
        "mkdir -p /www; echo {version} > /www/version; echo ok > /www/health; \
         hostname > /www/index.html; echo serving {version}; {}",
        serve("8080")
    )
}

async fn status(cluster: &Cluster, pod: &str) -> anyhow::Result<Value> {
    Ok(cluster.get(&["pod", pod]).await?["status"].clone())
}

async fn is_ready(cluster: &Cluster, pod: &str) -> Outcome {
    eventually(SOON, "the Pod is ready", async || {
        let status = status(cluster, pod).await?;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        anyhow::ensure!(ready, "{pod}: {status:#}");
        Ok(())
    })
    .await
}

pub(crate) async fn a_web_server_is_served(context: Arc<Context>) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.up().await?;
    if !push_script(&cluster, "web:v1", &web("v1")).await? {
        return Ok(());
    }
    cluster.deploy_hello("web", "web:v1", 2).await?;
    let expose = ["expose", "deployment", "web", "--name=outside", "--type=NodePort", "--port=80"];
    cluster.kubectl(&[&expose[..], &["--target-port=http"]].concat()).await?;
    let service = cluster.get(&["service", "outside"]).await?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
    let outside = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?));
    for address in [cluster.service("default", "web").await?, outside] {
        eventually(SOON, "the Service answers", async || {
            expect(&http::get(address, "/version").await?.body, &["v1"])
        })
        .await?;
    }
    let pods = cluster.get(&["pods", "-l", "app=web"]).await?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().context("no name")?.to_owned();
    let ip = pods["items"][0]["status"]["podIP"].as_str().context("no podIP")?.to_owned();
    expect(&cluster.kubectl(&["logs", &pod]).await?, &["serving v1"])?;
    let said =
        cluster.kubectl(&["exec", &pod, "--", "sh", "-c", "hostname; cat /etc/hosts"]).await?;
    expect(&said, &[&pod, "# Kubernetes-managed hosts file.", &format!("{ip}\t{pod}")])?;
    let failed = cluster.kubectl_with(&["exec", &pod, "--", "sh", "-c", "exit 7"], "").await?;
    anyhow::ensure!(failed.status.code() == Some(7), "{failed:?}");
    let echoed = cluster.kubectl_with(&["exec", "-i", &pod, "--", "cat"], "typed").await?;
    anyhow::ensure!(echoed.stdout == "typed", "{echoed:?}");
    let events = cluster.kubectl(&["get", "events"]).await?;
    expect(&events, &["Pulled", "Created", "Started"])?;
    cluster.kubectl(&["delete", "deployment,service", "--all", "--timeout=60s"]).await?;
    eventually(SOON, "the Pods are gone", async || {
        let pods = cluster.get(&["pods"]).await?;
        anyhow::ensure!(pods["items"].as_array().is_some_and(Vec::is_empty), "{pods:#}");
        Ok(())
    })
    .await?;
    // Nothing is left of them while the cluster lives, either.
    let groups = cluster.data().join("agent/groups");
    eventually(SOON, "their files are gone", async || {
        let left: Vec<_> = std::fs::read_dir(&groups)?.flatten().map(|e| e.path()).collect();
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

/// The web server and its cache of the example, either being a container or a component: each calls the other at
/// localhost, and both write into one volume.
pub(crate) async fn web_and_cache_are_one_pod(context: Arc<Context>) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.up().await?;
    let cache = format!("mkdir /www; echo cached > /www/index.html; {}", serve("6379"));
    let fetch = format!(
        "mkdir -p /www/cgi-bin; \
         printf '#!/bin/sh\\necho; exec wget -q -O - http://127.0.0.1:6379/' > /www/cgi-bin/fetch; \
         chmod 755 /www/cgi-bin/fetch; {}",
        serve("80")
    );
    if !push_script(&cluster, "cache-oci:v1", &cache).await? {
        return Ok(());
    }
    push_script(&cluster, "web-oci:v1", &fetch).await?;
    cluster.push(&tools::component("probe-http"), "web-wasm:v1").await?;
    cluster.push(&tools::component("hello-v1"), "cache-wasm:v1").await?;
    let text = manifest("tests/suite/manifests/web-and-cache-pod.yaml")?;
    let kinds = ["oci", "wasm"];
    for web in kinds {
        for cache in kinds {
            let name = format!("{web}-and-{cache}");
            let pod = text
                .replace("name: web-and-cache", &format!("name: {name}"))
                .replace("nginx:1.14.2", &format!("web-{web}:v1"))
                .replace("redis:7", &format!("cache-{cache}:v1"));
            cluster.apply(&pod).await?;
            is_ready(&cluster, &name).await?;
            let ip =
                status(&cluster, &name).await?["podIP"].as_str().context("no podIP")?.to_owned();
            let address = SocketAddr::new(ip.parse()?, 80);
            let path = match web {
                "oci" => "/cgi-bin/fetch",
                _ => "/fetch?url=http://127.0.0.1:6379/",
            };
            let said = if cache == "oci" { "cached" } else { "ello" };
            eventually(SOON, "the web server reaches its cache at localhost", async || {
                let reply = http::get(address, path).await?;
                expect(&reply.body, &[said]).with_context(|| name.clone())
            })
            .await?;
            let table = cluster.kubectl(&["get", "pod", &name]).await?;
            expect(&table, &["2/2", "Running"])?;
            cluster.kubectl(&["delete", "pod", &name, "--timeout=60s"]).await?;
        }
    }
    Ok(())
}

/// Containers and components that take turns with two volumes.
const MIXED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: mixed-HOSTUSERS}
spec:
  hostUsers: HOSTUSERS
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  initContainers:
  - name: first
    image: box:v1
    command: [sh, -c, "umask 077; echo from-container > /disk/c; mkdir /memory/d; echo deep > /memory/d/c"]
    volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]
  - name: second
    image: files:v1
    args: [--read, /disk/c, --read, /memory/d/c, --read, /s/b, --write, /disk/c=changed, --write, /memory/d/w=from-wasm]
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: s, mountPath: /s}
  containers:
  - name: third
    image: box:v1
    command: [sh, -c, "cat /disk/c /s/b && echo more >> /memory/d/w && cat /memory/d/w && rm /memory/d/w && id && stat -c %g:%a /disk"]
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: s, mountPath: /s}
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: s, secret: {secretName: s, defaultMode: 0400}}
"#;

/// Whichever made a file, the other reads and writes it: containers of a user that is not root, and the Wasm host.
pub(crate) async fn both_kinds_write_into_one_volume(context: Arc<Context>) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.up().await?;
    if !push_script(&cluster, "box:v1", "true").await? {
        return Ok(());
    }
    cluster.push(&tools::component("probe-files"), "files:v1").await?;
    cluster.kubectl(&["create", "secret", "generic", "s", "--from-literal=b=from-secret"]).await?;
    // So it is where the users of containers are others than they seem.
    for host_users in ["true", "false"] {
        let name = format!("mixed-{host_users}");
        cluster.apply(&MIXED.replace("HOSTUSERS", host_users)).await?;
        eventually(SOON * 2, "the Pod succeeds", async || {
            let status = status(&cluster, &name).await?;
            anyhow::ensure!(status["phase"] == "Succeeded", "{status:#}");
            Ok(())
        })
        .await?;
        let second = cluster.kubectl(&["logs", &name, "-c", "second"]).await?;
        expect(&second, &["from-container", "deep", "from-secret"])?;
        let third = cluster.kubectl(&["logs", &name, "-c", "third"]).await?;
        let parts = ["changed", "from-secret", "from-wasm", "more", "uid=1000", "2000:2777"];
        expect(&third, &parts)?;
    }
    Ok(())
}

pub(crate) async fn an_update_changes_the_kind_under_load(context: Arc<Context>) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.up().await?;
    if !push_script(&cluster, "web-oci:v1", &web("v1")).await? {
        return Ok(());
    }
    cluster.push_all(&[("hello-v2", "web-wasm:v2")]).await?;
    cluster.deploy_hello("web", "web-oci:v1", 2).await?;
    let address = cluster.service("default", "web").await?;
    let answers = async |version: &str| {
        eventually(SOON, "the Service answers", async || {
            expect(&http::get(address, "/version").await?.body, &[version])
        })
        .await
    };
    answers("v1").await?;
    let load = Load::start(address, "/health", 4);
    cluster.kubectl(&["set", "image", "deployment/web", "app=web-wasm:v2"]).await?;
    cluster.rolled_out("web").await?;
    answers("v2").await?;
    cluster.kubectl(&["rollout", "undo", "deployment/web"]).await?;
    cluster.rolled_out("web").await?;
    answers("v1").await?;
    load.stop().await.nothing_dropped()
}

/// The agent is killed and comes back: containers have gone on, and are watched again. A shim is killed: its containers end with
/// it, and the Pod is made anew.
pub(crate) async fn shims_outlive_the_agent_and_are_missed_when_killed(
    context: Arc<Context>,
) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.split().await?;
    if !push_script(&cluster, "web:v1", &web("v1")).await? {
        return Ok(());
    }
    cluster.deploy_hello("web", "web:v1", 1).await?;
    let address = cluster.service("default", "web").await?;
    eventually(SOON, "the Service answers", async || {
        http::get(address, "/version").await.map(drop)
    })
    .await?;
    let pods = cluster.get(&["pods", "-l", "app=web"]).await?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().context("no name")?.to_owned();
    let pid_of = async || {
        let said = cluster.kubectl(&["exec", &pod, "--", "sh", "-c", "cat /proc/1/stat"]).await?;
        anyhow::Ok(said.split(' ').nth(21).context("no start time")?.to_owned())
    };
    let before = pid_of().await?;
    cluster.kill9(Part::Agent).await?;
    anyhow::ensure!(http::get(address, "/version").await?.body.contains("v1"));
    cluster.start(Part::Agent).await?;
    eventually(SOON, "the agent takes over what ran", async || {
        anyhow::ensure!(pid_of().await? == before, "another process runs");
        Ok(())
    })
    .await?;
    let restarts = status(&cluster, &pod).await?["containerStatuses"][0]["restartCount"].clone();
    anyhow::ensure!(restarts == 0, "{restarts} restarts");
    let shim = cluster.shims().into_iter().next().context("no shim runs")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)?;
    eventually(SOON * 2, "the Pod is made anew", async || {
        let status = status(&cluster, &pod).await?;
        let container = &status["containerStatuses"][0];
        anyhow::ensure!(container["restartCount"] == 1 && container["ready"] == true, "{status:#}");
        anyhow::ensure!(container["lastState"]["terminated"]["exitCode"] == 137, "{status:#}");
        expect(&http::get(address, "/version").await?.body, &["v1"])
    })
    .await
}
