//! In-place resize: what a Pod's containers may use changes while they run.

use std::sync::Arc;

use coracle_test_cluster::{Cluster, Runtime, eventually, http};
use serde_json::{Value, json};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};

/// A Pod of the component that misbehaves on request, with a Service.
async fn misbehaving(cluster: &Cluster, name: &str, container: Value) -> Outcome {
    let mut app = json!({"name": "app", "image": "probe:v1", "ports": [{"containerPort": 8080}]});
    for (field, value) in container.as_object().into_iter().flatten() {
        app[field] = value.clone();
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [app], "terminationGracePeriodSeconds": 1}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}});
    let both = json!({"apiVersion": "v1", "kind": "List", "items": [pod, service]});
    cluster.apply(&both.to_string()).await?;
    Ok(())
}

fn resources(requests: Value, limits: Value) -> Value {
    json!({"requests": requests, "limits": limits})
}

/// What kubectl says to a resize, in whatever way it came out.
async fn resize(cluster: &Cluster, pod: &str, resources: &Value) -> anyhow::Result<String> {
    let patch = json!({"spec": {"containers": [{"name": "app", "resources": resources}]}});
    let args = ["patch", "pod", pod, "--subresource=resize", "-p", &patch.to_string()];
    let told = cluster.kubectl_with(&args, "").await?;
    Ok(told.stdout + &told.stderr)
}

fn condition<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let all = pod["status"]["conditions"].as_array()?;
    all.iter().find(|c| c["type"] == name)
}

/// Waits until the Pod has these resources, all of them in force, and has been restarted so often.
async fn has(cluster: &Cluster, pod: &str, wanted: &Value, restarts: u64) -> Outcome {
    eventually(SOON, "it is resized", async || {
        let pod = cluster.get(&["pod", pod]).await?;
        let container = &pod["status"]["containerStatuses"][0];
        let done = container["resources"] == *wanted
            && container["allocatedResources"] == wanted["requests"]
            && container["ready"] == true
            && container["restartCount"] == restarts
            && pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
            && condition(&pod, "PodResizePending").is_none()
            && condition(&pod, "PodResizeInProgress").is_none();
        anyhow::ensure!(done, "{:#}", pod["status"]);
        Ok(())
    })
    .await
}

async fn waits(cluster: &Cluster, pod: &str, kind: &str, reason: &str, words: &[&str]) -> Outcome {
    eventually(SOON, "the condition is there", async || {
        let pod = cluster.get(&["pod", pod]).await?;
        let found = condition(&pod, kind).cloned().unwrap_or_default();
        anyhow::ensure!(
            found["status"] == "True"
                && found["reason"] == reason
                && found["observedGeneration"] == pod["metadata"]["generation"],
            "{:#}",
            pod["status"]
        );
        expect(found["message"].as_str().unwrap_or_default(), words)
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

pub(crate) async fn limits_change_while_it_runs(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    let first = resources(
        json!({"cpu": "100m", "memory": "32Mi"}),
        json!({"cpu": "500m", "memory": "64Mi"}),
    );
    misbehaving(&cluster, "web", json!({"resources": first})).await?;
    has(&cluster, "web", &first, 0).await?;
    let address = cluster.service("default", "web").await?;
    let more =
        resources(json!({"cpu": "150m", "memory": "48Mi"}), json!({"cpu": "1", "memory": "160Mi"}));
    expect(&resize(&cluster, "web", &more).await?, &["pod/web patched"])?;
    has(&cluster, "web", &more, 0).await?;
    anyhow::ensure!(cluster.get(&["pod", "web"]).await?["metadata"]["generation"] == 2);
    events(
        &cluster,
        "web",
        &["ResizeStarted", "Pod resize started: {\"containers\":[", "ResizeCompleted"],
    )
    .await?;
    // It would have been killed for this before.
    eventually(SOON, "it has the room", async || {
        let answer = http::get(address, "/grow?mib=80").await?;
        anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .await?;
    has(&cluster, "web", &more, 0).await?;

    // What may not be, in upstream's words.
    let words = [
        (json!({"limits": {"memory": null}}), "resource limits cannot be removed"),
        (
            resources(
                json!({"cpu": "1", "memory": "160Mi"}),
                json!({"cpu": "1", "memory": "160Mi"}),
            ),
            "Pod QOS Class may not change as a result of resizing",
        ),
        (json!({"requests": {"cpu": "2"}}), "must be less than or equal to cpu limit"),
    ];
    for (wish, refusal) in words {
        expect(&resize(&cluster, "web", &wish).await?, &[refusal])?;
    }
    let plain = [
        "patch",
        "pod",
        "web",
        "-p",
        r#"{"spec":{"containers":[{"name":"app","resources":{"limits":{"cpu":"2"}}}]}}"#,
    ];
    let told = cluster.kubectl_with(&plain, "").await?;
    expect(&told.stderr, &["pod updates may not change fields other than"])?;

    // By PUT, too, and nothing else with it.
    let mut pod = cluster.get(&["pod", "web"]).await?;
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("120m");
    pod["metadata"]["labels"]["other"] = json!("label");
    let text = pod.to_string();
    let replaced = cluster.kubectl_with(&["replace", "--subresource=resize", "-f", "-"], &text);
    expect(&replaced.await?.stdout, &["pod/web replaced"])?;
    let mut third = more.clone();
    third["requests"]["cpu"] = json!("120m");
    has(&cluster, "web", &third, 0).await?;
    anyhow::ensure!(cluster.get(&["pod", "web"]).await?["metadata"]["labels"]["other"].is_null());

    // What the node never has, and what it has not now.
    let endless = resources(
        json!({"cpu": "1000", "memory": "48Mi"}),
        json!({"cpu": "1000", "memory": "160Mi"}),
    );
    resize(&cluster, "web", &endless).await?;
    let why = "Node didn't have enough capacity: cpu, requested: 1000000, capacity: ";
    waits(&cluster, "web", "PodResizePending", "Infeasible", &[why]).await?;
    events(&cluster, "web", &["ResizeInfeasible", "Pod resize Infeasible: {"]).await?;
    let nodes = cluster.get(&["nodes"]).await?;
    let cpus = nodes["items"][0]["status"]["allocatable"]["cpu"].as_str().unwrap_or_default();
    let cpus: u64 = cpus.parse()?;
    let most = json!({"cpu": format!("{}m", cpus * 1000 - 500)});
    let filler = json!({"resources": {"requests": most}});
    resize(&cluster, "web", &third).await?;
    has(&cluster, "web", &third, 0).await?;
    misbehaving(&cluster, "filler", filler).await?;
    eventually(SOON, "the filler runs", async || {
        let pod = cluster.get(&["pod", "filler"]).await?;
        anyhow::ensure!(pod["status"]["phase"] == "Running", "{:#}", pod["status"]);
        Ok(())
    })
    .await?;
    let mut later = third.clone();
    later["requests"]["cpu"] = json!("800m");
    resize(&cluster, "web", &later).await?;
    let why = "Node didn't have enough resource: cpu, requested: 800, used: ";
    waits(&cluster, "web", "PodResizePending", "Deferred", &[why]).await?;
    let pod = cluster.get(&["pod", "web"]).await?;
    anyhow::ensure!(
        pod["status"]["containerStatuses"][0]["resources"] == third,
        "{:#}",
        pod["status"]
    );
    // The agent may be gone meanwhile.
    cluster.kubectl(&["delete", "pod", "filler"]).await?;
    has(&cluster, "web", &later, 0).await
}

pub(crate) async fn a_policy_may_want_a_restart(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    let first = resources(
        json!({"cpu": "100m", "memory": "32Mi"}),
        json!({"cpu": "500m", "memory": "64Mi"}),
    );
    let policy = json!([
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
    ]);
    misbehaving(&cluster, "web", json!({"resources": first, "resizePolicy": policy})).await?;
    has(&cluster, "web", &first, 0).await?;
    let mut second = first.clone();
    second["limits"]["cpu"] = json!("600m");
    resize(&cluster, "web", &second).await?;
    has(&cluster, "web", &second, 0).await?;
    let mut third = second.clone();
    third["limits"]["memory"] = json!("96Mi");
    resize(&cluster, "web", &third).await?;
    has(&cluster, "web", &third, 1).await?;
    events(&cluster, "web", &["Container app resize requires restart", "ResizeCompleted"]).await?;

    // Of processes it is known what they use, and that stays theirs.
    if context.runtime == Runtime::Oci {
        let quiet = json!({"resources": first});
        misbehaving(&cluster, "quiet", quiet).await?;
        has(&cluster, "quiet", &first, 0).await?;
        let least = resources(
            json!({"cpu": "100m", "memory": "10Ki"}),
            json!({"cpu": "500m", "memory": "10Ki"}),
        );
        resize(&cluster, "quiet", &least).await?;
        let words = ["memory limit (10240) below current usage"];
        waits(&cluster, "quiet", "PodResizeInProgress", "Error", &words).await?;
        events(&cluster, "quiet", &["ResizeError"]).await?;
        let told = cluster.get(&["pod", "quiet"]).await?["status"]["containerStatuses"][0].clone();
        anyhow::ensure!(told["resources"] == first, "{told:#}");
        resize(&cluster, "quiet", &first).await?;
        has(&cluster, "quiet", &first, 0).await?;
    }
    Ok(())
}
