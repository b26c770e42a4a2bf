//! A Pod's life from its first init container to its last word.

use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, Part, Runtime, eventually};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};

/// A cluster with the guests that these bodies use.
async fn cluster(context: &Context) -> anyhow::Result<Arc<Cluster>> {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1"), ("probe-http", "probe:v1")]).await?;
    Ok(cluster)
}

/// A Pod; `spec` is its YAML, indented by two.
fn pod(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 5\n{spec}\n"
    )
}

fn command(name: &str, args: &str) -> String {
    format!("  - {{name: {name}, image: 'hello-command:v1', args: [{args}]}}\n")
}

/// Waits until `check` holds for a Pod, and hands it on.
async fn pod_is(
    cluster: &Cluster,
    name: &str,
    what: &str,
    check: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    eventually(SOON, what, async || {
        let pod = cluster.get(&["pod", name]).await?;
        anyhow::ensure!(check(&pod["status"]), "{name}: {:#}", pod["status"]);
        Ok(pod)
    })
    .await
}

fn container<'a>(pod: &'a Value, list: &str, name: &str) -> &'a Value {
    let all = pod["status"][list].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|c| c["name"] == name).unwrap_or(&Value::Null)
}

fn condition<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|c| c["type"] == name).unwrap_or(&Value::Null)
}

async fn events(cluster: &Cluster, pod: &str, wanted: &[&str]) -> Outcome {
    eventually(SOON, "the events are there", async || {
        let about = format!("--field-selector=involvedObject.name={pod}");
        expect(&cluster.kubectl(&["get", "events", &about]).await?, wanted)
    })
    .await
}

pub(crate) async fn init_containers_go_first(context: Arc<Context>) -> Outcome {
    let cluster = cluster(&context).await?;
    let init = command("one", "--lines, '1'") + &command("two", "--lines, '2'");
    let good = format!(
        "  restartPolicy: Never\n  initContainers:\n{init}  containers:\n{}",
        command("main", "--lines, '3'")
    );
    let bad = format!(
        "  restartPolicy: Never\n  initContainers:\n{}  containers:\n{}",
        command("broken", "--exit, '3'"),
        command("main", "--lines, '1'")
    );
    cluster.apply(&[pod("good", &good), pod("bad", &bad)].join("---\n")).await?;
    let done = pod_is(&cluster, "good", "it succeeds", |s| s["phase"] == "Succeeded").await?;
    let ended = |list, name: &str| container(&done, list, name)["state"]["terminated"].clone();
    let order = [
        ended("initContainerStatuses", "one")["finishedAt"].clone(),
        ended("initContainerStatuses", "two")["startedAt"].clone(),
        ended("initContainerStatuses", "two")["finishedAt"].clone(),
        ended("containerStatuses", "main")["startedAt"].clone(),
    ];
    let order: Vec<&str> = order.iter().filter_map(Value::as_str).collect();
    anyhow::ensure!(order.len() == 4 && order.is_sorted(), "{done:#}");
    anyhow::ensure!(condition(&done, "Initialized")["reason"] == "PodCompleted", "{done:#}");
    let logs = cluster.kubectl(&["logs", "good", "-c", "two"]).await?;
    expect(&logs, &["line 2"])?;
    let logs = cluster.kubectl(&["logs", "good", "--all-containers", "--prefix"]).await?;
    expect(&logs, &["[pod/good/one] line 1", "[pod/good/two] line 2", "[pod/good/main] line 3"])?;

    let failed = pod_is(&cluster, "bad", "it fails", |s| s["phase"] == "Failed").await?;
    let main = container(&failed, "containerStatuses", "main");
    anyhow::ensure!(main["state"]["waiting"]["reason"] == "PodInitializing", "{failed:#}");
    anyhow::ensure!(main["restartCount"] == 0, "{failed:#}");
    let broken = container(&failed, "initContainerStatuses", "broken");
    anyhow::ensure!(broken["state"]["terminated"]["exitCode"] == 3, "{failed:#}");
    let waits = cluster.kubectl_with(&["logs", "bad", "-c", "main"], "").await?.refused()?;
    expect(&waits, &["is waiting to start: PodInitializing"])?;
    let table = cluster.kubectl(&["get", "pods"]).await?;
    expect(&table, &["Init:Error"])
}

pub(crate) async fn sidecars_outlive_the_containers_they_serve(context: Arc<Context>) -> Outcome {
    let cluster = cluster(&context).await?;
    let spec = r"  restartPolicy: Never
  initContainers:
  - name: side
    image: probe:v1
    restartPolicy: Always
    ports: [{containerPort: 8080}]
    startupProbe: {httpGet: {path: /health, port: 8080}, periodSeconds: 1}
  containers:
";
    let spec = spec.to_owned() + &command("main", "--sleep, '2', --lines, '1'");
    cluster.apply(&pod("job", &spec)).await?;
    let both = pod_is(&cluster, "job", "both run", |s| {
        s["phase"] == "Running"
            && s["containerStatuses"][0]["state"]["running"].is_object()
            && s["initContainerStatuses"][0]["state"]["running"].is_object()
    })
    .await?;
    let side = container(&both, "initContainerStatuses", "side");
    anyhow::ensure!(side["started"] == true && side["ready"] == true, "{both:#}");
    let done =
        pod_is(&cluster, "job", "it ends with its main container", |s| s["phase"] == "Succeeded")
            .await?;
    let side = container(&done, "initContainerStatuses", "side");
    anyhow::ensure!(side["state"]["terminated"].is_object(), "{done:#}");
    events(&cluster, "job", &["Stopping container side"]).await
}

pub(crate) async fn hooks_run_and_their_failures_are_told(context: Arc<Context>) -> Outcome {
    let cluster = cluster(&context).await?;
    let serving = |hooks: &str| {
        format!(
            "  containers:\n  - name: app\n    image: probe:v1\n    ports: [{{containerPort: 8080, name: web}}]\n    lifecycle: {{{hooks}}}\n"
        )
    };
    let log = "{httpGet: {path: '/log?lines=1', port: web}}";
    let refused = "{httpGet: {path: /, port: 9}}";
    let pods = [
        pod("good", &serving(&format!("postStart: {log}, preStop: {log}"))),
        pod("slow", &serving("postStart: {sleep: {seconds: 3}}")),
        pod("bad", &serving(&format!("postStart: {refused}"))),
        pod("rude", &serving(&format!("preStop: {refused}"))),
        pod("shell", &serving("preStop: {exec: {command: [sync]}}")),
    ];
    cluster.apply(&pods.join("---\n")).await?;
    let running = |s: &Value| s["containerStatuses"][0]["state"]["running"].is_object();
    pod_is(&cluster, "good", "its hook is done", running).await?;
    expect(&cluster.kubectl(&["logs", "good"]).await?, &["stdout line 1"])?;
    // It does not count as running before its hook is done.
    let slow = pod_is(&cluster, "slow", "its hook is done", running).await?;
    let since = &slow["status"]["containerStatuses"][0]["state"]["running"]["startedAt"];
    let time = |value: &Value| value.as_str().and_then(|t| t.parse::<Timestamp>().ok());
    let ready = time(&condition(&slow, "Ready")["lastTransitionTime"]).zip(time(since));
    let took = ready.map(|(ready, since)| ready.duration_since(since).as_secs());
    anyhow::ensure!(took >= Some(2), "{slow:#}");
    // A hook that nobody answers ends the container, and it is tried again.
    let restarted = |s: &Value| s["containerStatuses"][0]["restartCount"].as_u64() >= Some(1);
    pod_is(&cluster, "bad", "it is restarted", restarted).await?;
    events(&cluster, "bad", &["FailedPostStartHook", "connection refused", "Killing"]).await?;
    if context.runtime == Runtime::Wasm {
        let shell = pod_is(&cluster, "shell", "it says what it cannot do", |s| {
            let waiting = &s["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "CreateContainerConfigError"
        })
        .await?;
        let waiting = &shell["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
        expect(waiting.as_str().unwrap_or_default(), &["lifecycle.preStop.exec", "httpGet"])?;
    }

    // Before the end; a failure does not keep it from ending.
    let following = {
        let cluster = cluster.clone();
        tokio::spawn(async move { cluster.kubectl(&["logs", "-f", "good"]).await })
    };
    pod_is(&cluster, "rude", "it runs", running).await?;
    cluster.kubectl(&["delete", "pod", "good", "rude", "--timeout=20s"]).await?;
    let log = following.await??;
    anyhow::ensure!(log.matches("stdout line 1").count() == 2, "{log}");
    events(&cluster, "rude", &["FailedPreStopHook", "Stopping container app"]).await
}

pub(crate) async fn last_words_are_kept(context: Arc<Context>) -> Outcome {
    let cluster = cluster(&context).await?;
    let one = |name: &str, args: &str, more: &str| {
        let container = format!(
            "  restartPolicy: Never\n  containers:\n  - name: main\n    image: hello-command:v1\n    args: [{args}]\n{more}"
        );
        pod(name, &container)
    };
    let policy = "    terminationMessagePolicy: FallbackToLogsOnError\n";
    let pods = [
        one("plain", "--write, '/dev/termination-log=all is well'", ""),
        one("failed", "--write, '/dev/termination-log=it broke', --exit, '2'", ""),
        one(
            "elsewhere",
            "--write, '/data/deep=in a volume'",
            "    terminationMessagePath: /data/deep\n    volumeMounts: [{name: v, mountPath: /data}]\n  volumes: [{name: v, emptyDir: {}}]\n",
        ),
        one("silent", "--lines, '3', --exit, '2'", policy),
        one("content", "--lines, '3'", policy),
    ];
    cluster.apply(&pods.join("---\n")).await?;
    for (name, code, wanted) in [
        ("plain", 0, "all is well"),
        ("failed", 2, "it broke"),
        ("elsewhere", 0, "in a volume"),
        ("silent", 2, "line 3"),
        ("content", 0, ""),
    ] {
        let ended = |s: &Value| s["containerStatuses"][0]["state"]["terminated"].is_object();
        let pod = pod_is(&cluster, name, "it ends", ended).await?;
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        anyhow::ensure!(ended["exitCode"] == code, "{name}: {ended:#}");
        let message = ended["message"].as_str().unwrap_or_default();
        let right = match wanted {
            "" => message.is_empty(),
            "line 3" => message.ends_with("line 1\nline 2\nline 3\n"),
            wanted => message == wanted,
        };
        anyhow::ensure!(right, "{name}: {message:?}");
    }
    Ok(())
}

pub(crate) async fn annotations_are_read_at_the_start(context: Arc<Context>) -> Outcome {
    let cluster = cluster(&context).await?;
    cluster.kubectl(&["create", "namespace", "strict"]).await?;
    cluster.kubectl(&["annotate", "namespace", "strict", "coracle.dev/grants=everything"]).await?;
    let annotated = |name: &str, namespace: &str, annotation: &str| {
        let spec = format!("  containers:\n{}", command("main", "--sleep, '600'"));
        pod(name, &spec).replace(
            &format!("{{name: {name}}}"),
            &format!("{{name: {name}, namespace: {namespace}, annotations: {{{annotation}}}}}"),
        )
    };
    let pods = [
        annotated("hasty", "default", "coracle.dev/request-timeout: soon"),
        annotated("own", "default", "coracle.dev/log-max-files.main: '0'"),
        annotated("heir", "strict", ""),
        annotated("rebel", "strict", "coracle.dev/grants: none"),
    ];
    cluster.apply(&pods.join("---\n")).await?;
    for (name, namespace, wanted) in [
        ("hasty", "default", "annotation \"coracle.dev/request-timeout\" of the Pod: \"soon\""),
        ("own", "default", "annotation \"coracle.dev/log-max-files.main\" of the Pod: \"0\""),
        ("heir", "strict", "annotation \"coracle.dev/grants\" of the Namespace: \"everything\""),
    ] {
        eventually(SOON, "the annotation is named", async || {
            let pod = cluster.get(&["pod", name, "-n", namespace]).await?;
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            anyhow::ensure!(waiting["reason"] == "CreateContainerConfigError", "{pod:#}");
            expect(waiting["message"].as_str().unwrap_or_default(), &[wanted, "it takes"])
        })
        .await?;
    }
    cluster
        .kubectl(&["wait", "-n", "strict", "--for=condition=Ready", "pod/rebel", "--timeout=30s"])
        .await?;
    // Put right in the Namespace, it is put right for its Pods.
    let fixed = "coracle.dev/grants=http,clocks";
    cluster.kubectl(&["annotate", "--overwrite", "namespace", "strict", fixed]).await?;
    cluster
        .kubectl(&["wait", "-n", "strict", "--for=condition=Ready", "pod/heir", "--timeout=30s"])
        .await?;
    Ok(())
}

pub(crate) async fn an_agent_that_returns_goes_on(context: Arc<Context>) -> Outcome {
    let cluster = context.split().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1"), ("probe-http", "probe:v1")]).await?;
    let in_init = format!(
        "  restartPolicy: Never\n  initContainers:\n{}  containers:\n{}",
        command("first", "--sleep, '6'"),
        command("main", "--write, '/dev/termination-log=done'")
    );
    let in_hook = "  containers:\n  - name: app\n    image: probe:v1\n    ports: [{containerPort: 8080}]\n    lifecycle: {postStart: {sleep: {seconds: 4}}}\n";
    let ending = "  terminationGracePeriodSeconds: 20\n  containers:\n  - name: app\n    image: probe:v1\n    ports: [{containerPort: 8080}]\n    lifecycle: {preStop: {sleep: {seconds: 4}}}\n";
    let ending = pod("ending", ending).replace("  terminationGracePeriodSeconds: 5\n", "");
    let pods = [pod("in-init", &in_init), pod("in-hook", in_hook), ending];
    cluster.apply(&pods.join("---\n")).await?;
    let first = |s: &Value| s["initContainerStatuses"][0]["state"]["running"].is_object();
    pod_is(&cluster, "in-init", "it is in its init container", first).await?;
    let running = |s: &Value| s["containerStatuses"][0]["state"]["running"].is_object();
    pod_is(&cluster, "ending", "it runs", running).await?;
    cluster.kubectl(&["delete", "pod", "ending", "--wait=false"]).await?;
    cluster.kill9(Part::Agent).await?;
    cluster.start(Part::Agent).await?;
    let done = pod_is(&cluster, "in-init", "it goes on to its end", |s| s["phase"] == "Succeeded");
    let done = done.await?;
    let init = container(&done, "initContainerStatuses", "first");
    anyhow::ensure!(init["restartCount"] == 0, "{init:#}");
    let main = container(&done, "containerStatuses", "main");
    anyhow::ensure!(main["state"]["terminated"]["message"] == "done", "{main:#}");
    let pod = pod_is(&cluster, "in-hook", "its hook is delivered", running).await?;
    let app = container(&pod, "containerStatuses", "app");
    anyhow::ensure!(app["restartCount"] == 0, "{app:#}");
    cluster
        .kubectl(&["wait", "--for=delete", "pod/ending", "--timeout=30s"])
        .await
        .context("a Pod that was ending when its agent was killed")?;
    Ok(())
}
