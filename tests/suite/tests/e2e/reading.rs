//! What `kubectl` shows.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use coracle_test_cluster::{Cluster, eventually, tools};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, hello, skip};

async fn cluster_with_hello(context: &Context) -> anyhow::Result<Arc<Cluster>> {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    Ok(cluster)
}

pub(crate) async fn every_output_form(context: Arc<Context>) -> Outcome {
    let cluster = cluster_with_hello(&context).await?;
    let cases: &[(&[&str], &[&str])] = &[
        (&["pods"], &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "web-", "1/1", "Running"]),
        (&["pods", "-o", "wide"], &["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]),
        (&["pods", "--show-labels"], &["LABELS", "app=web", "pod-template-hash="]),
        (&["pods", "-L", "app"], &["APP", "web"]),
        (&["deployments"], &["READY", "UP-TO-DATE", "AVAILABLE", "2/2"]),
        (&["deploy", "-o", "wide"], &["CONTAINERS", "IMAGES", "SELECTOR", "hello:v1"]),
        (&["rs"], &["DESIRED", "CURRENT", "READY"]),
        (&["svc"], &["TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "80/TCP", "kubernetes"]),
        (&["nodes"], &["STATUS", "ROLES", "VERSION", "Ready"]),
        (&["ns"], &["default", "kube-system", "Active"]),
        (&["endpoints"], &["ENDPOINTS", "web"]),
        (&["endpointslices"], &["ADDRESSTYPE", "IPv4", "8080"]),
        (&["deploy", "web", "-o", "yaml"], &["kind: Deployment", "replicas: 2", "uid: "]),
        (&["deploy", "web", "-o", "name"], &["deployment.apps/web"]),
        (
            &["deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].image}"],
            &["hello:v1"],
        ),
        (&["deploy", "-o", "custom-columns=N:.metadata.name,R:.spec.replicas"], &["N", "web", "2"]),
        (&["deploy", "web", "-o", "go-template={{.metadata.name}}"], &["web"]),
        (&["pods", "--sort-by=.metadata.name"], &["web-"]),
        (&["all"], &["pod/web-", "service/web", "deployment.apps/web", "replicaset.apps/web-"]),
        (&["pods,svc", "-A"], &["NAMESPACE", "default", "service/kubernetes"]),
        (&["--raw", "/version"], &["gitVersion", "major"]),
        (&["--raw", "/readyz"], &["ok"]),
        (&["clusterroles"], &["CREATED AT", "cluster-admin"]),
        (&["leases", "-A"], &["kube-node-lease"]),
        (&["sa"], &["default"]),
        (&["cm"], &["kube-root-ca.crt"]),
        (&["runtimeclasses,priorityclasses"], &["system-node-critical"]),
    ];
    for (args, wanted) in cases {
        let args: Vec<&str> = ["get"].iter().chain(*args).copied().collect();
        expect(&cluster.kubectl(&args).await?, wanted)?;
    }
    let json = cluster.get(&["deploy", "web"]).await?;
    anyhow::ensure!(json["kind"] == "Deployment" && json["apiVersion"] == "apps/v1", "{json:#}");
    anyhow::ensure!(json["status"]["readyReplicas"] == 2, "{json:#}");
    let none = cluster.kubectl_with(&["get", "pods", "nobody"], "").await?.refused()?;
    expect(&none, &["Error from server (NotFound): pods \"nobody\" not found"])?;
    let unknown = cluster.kubectl_with(&["get", "gadgets"], "").await?.refused()?;
    expect(&unknown, &["the server doesn't have a resource type \"gadgets\""])
}

pub(crate) async fn watches_and_selectors(context: Arc<Context>) -> Outcome {
    let cluster = cluster_with_hello(&context).await?;
    for number in 0..25 {
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: many-{number:02}, labels: {{group: g{}}}}}\n",
            number % 5
        );
        cluster.apply(&map).await?;
    }
    let count = async |args: &[&str]| {
        let args: Vec<&str> = ["get", "-o", "name"].iter().chain(args).copied().collect();
        anyhow::Ok(cluster.kubectl(&args).await?.lines().count())
    };
    let cases: &[(&[&str], usize)] = &[
        (&["cm", "--chunk-size=4", "-l", "group"], 25),
        (&["cm", "-l", "group=g1"], 5),
        (&["cm", "-l", "group in (g1,g2)"], 10),
        (&["cm", "-l", "group notin (g1,g2),group"], 15),
        (&["cm", "--field-selector=metadata.name=many-07"], 1),
        (&["pods", "--field-selector=status.phase=Running"], 2),
        (&["pods", "--field-selector=status.phase!=Running"], 0),
        (&["pods", "-l", "app!=web"], 0),
        (&["events", "--field-selector=involvedObject.kind=Service"], 0),
    ];
    for (args, wanted) in cases {
        let found = count(args).await?;
        anyhow::ensure!(found == *wanted, "{args:?}: {found}, not {wanted}");
    }
    let bad = ["get", "cm", "--field-selector=spec.colour=red"];
    expect(&cluster.kubectl_with(&bad, "").await?.refused()?, &["spec.colour"])?;

    let kubectl = tools::kubectl()?;
    let args = ["get", "cm", "-w", "-l", "watched=yes", "--output-watch-events"];
    let mut command = tokio::process::Command::from(cluster.kubectl_command(&kubectl, &args));
    let mut child =
        command.stdout(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let changes = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.kubectl(&["label", "cm", "many-01", "watched=yes"]).await?;
        cluster.kubectl(&["patch", "cm", "many-01", "-p", r#"{"data":{"a":"b"}}"#]).await?;
        // It leaves the selector, which to this watcher is a deletion.
        cluster.kubectl(&["label", "cm", "many-01", "watched-"]).await?;
        anyhow::Ok(())
    };
    let seen = async {
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().await? {
            seen.extend(line.split_whitespace().next().map(str::to_owned));
            if seen.last().is_some_and(|event| event == "DELETED") {
                break;
            }
        }
        anyhow::Ok(seen)
    };
    let (changed, seen) = tokio::join!(changes, tokio::time::timeout(SOON, seen));
    changed?;
    let seen = seen??;
    anyhow::ensure!(seen == ["EVENT", "ADDED", "MODIFIED", "DELETED"], "{seen:?}");
    Ok(())
}

pub(crate) async fn describe_and_events(context: Arc<Context>) -> Outcome {
    let cluster = cluster_with_hello(&context).await?;
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["deploy", "web"],
            &["StrategyType:", "RollingUpdate", "ScalingReplicaSet", "Scaled up", "NewReplicaSet:"],
        ),
        (&["rs", "-l", "app=web"], &["Controlled By:", "Deployment/web", "SuccessfulCreate"]),
        (
            &["pods", "-l", "app=web"],
            &[
                "Scheduled",
                "Successfully assigned",
                "Pulled",
                "Created",
                "Started",
                "Readiness:",
                "hello:v1",
                "Ready ",
            ],
        ),
        (&["svc", "web"], &["Selector:", "app=web", "Endpoints:", "8080"]),
        (&["nodes"], &["Allocatable:", "Non-terminated Pods:", "web-", "KubeletReady", "Lease:"]),
        (&["ns", "default"], &["Active"]),
        (&["cm", "kube-root-ca.crt"], &["BEGIN CERTIFICATE"]),
        (&["sa", "default"], &["Name:"]),
        (&["clusterrole", "view"], &["PolicyRule:", "pods"]),
    ];
    for (args, wanted) in cases {
        let args: Vec<&str> = ["describe"].iter().chain(*args).copied().collect();
        expect(&cluster.kubectl(&args).await?, wanted)?;
    }
    let events = cluster.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).await?;
    expect(&events, &["LAST SEEN", "TYPE", "REASON", "OBJECT", "deployment/web"])?;
    let events = cluster.kubectl(&["events", "--for", "deployment/web"]).await?;
    expect(&events, &["ScalingReplicaSet"])
}

pub(crate) async fn discovery(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let all = cluster.kubectl(&["api-resources"]).await?;
    let wanted = [
        "configmaps",
        "endpoints",
        "events",
        "namespaces",
        "nodes",
        "pods",
        "secrets",
        "serviceaccounts",
        "services",
        "deployments",
        "replicasets",
        "leases",
        "endpointslices",
        "ingresses",
        "ingressclasses",
        "runtimeclasses",
        "priorityclasses",
        "clusterroles",
        "clusterrolebindings",
        "roles",
        "rolebindings",
    ];
    expect(&all, &wanted)?;
    expect(&cluster.kubectl(&["api-resources", "--namespaced=false"]).await?, &["nodes"])?;
    expect(
        &cluster.kubectl(&["api-versions"]).await?,
        &["v1\n", "apps/v1", "discovery.k8s.io/v1"],
    )?;
    expect(&cluster.kubectl(&["version"]).await?, &["Client Version", "Server Version"])?;
    expect(&cluster.kubectl(&["cluster-info"]).await?, &["is running at"])?;
    let explained = cluster.kubectl(&["explain", "deployment.spec.strategy"]).await?;
    expect(&explained, &["KIND:", "Deployment", "rollingUpdate"])?;
    expect(&cluster.kubectl(&["auth", "whoami"]).await?, &["system:masters"])
}

/// Every released kubectl that is at hand does the daily work.
pub(crate) async fn every_kubectl_version(context: Arc<Context>) -> Outcome {
    let kubectls = tools::kubectls();
    if kubectls.len() < 2 {
        skip("there is one kubectl only");
    }
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    for kubectl in kubectls.iter().filter(|k| k.minor.is_none_or(|minor| minor >= 29)) {
        let name = format!("by-{}", kubectl.minor.unwrap_or_default());
        let file = cluster.file(&format!("{name}.yaml"), hello(&name, "hello:v1", 1).as_bytes())?;
        let file = file.to_string_lossy();
        let deployment = format!("deployment/{name}");
        let steps: &[(&[&str], &str)] = &[
            (&["apply", "-f", &file], "created"),
            (&["apply", "-f", &file], "unchanged"),
            (&["rollout", "status", &deployment, "--timeout=60s"], "successfully rolled out"),
            (&["get", &deployment, "-o", "wide"], "1/1"),
            (&["describe", &deployment], "ScalingReplicaSet"),
            (&["set", "image", &deployment, "app=hello:v2"], "image updated"),
            (&["wait", "--for=condition=Available", &deployment, "--timeout=60s"], "condition met"),
            (&["scale", &deployment, "--replicas=2"], "scaled"),
            (&["label", &deployment, "a=b"], "labeled"),
            (&["create", "configmap", &name, "--from-literal=a=b"], "created"),
            (&["create", "namespace", &name], "created"),
            (&["create", "token", "default"], "."),
            (&["auth", "can-i", "create", "pods"], "yes"),
            (&["rollout", "undo", &deployment], "rolled back"),
            (&["rollout", "status", &deployment, "--timeout=60s"], "successfully rolled out"),
            (&["logs", &deployment], ""),
            (&["events", "--for", &deployment], "ScalingReplicaSet"),
            (&["delete", "-f", &file], "deleted"),
            (&["delete", "namespace", &name], "deleted"),
        ];
        for (args, wanted) in steps {
            let mut command =
                tokio::process::Command::from(cluster.kubectl_command(&kubectl.path, args));
            let output =
                tokio::time::timeout(SOON * 3, command.kill_on_drop(true).output()).await??;
            let said = format!(
                "{name}: {args:?}\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            anyhow::ensure!(output.status.success(), "{said}");
            expect(&said, &[wanted])?;
        }
    }
    eventually(SOON, "nothing is left", async || {
        let left = cluster.kubectl(&["get", "deployments,pods", "-o", "name"]).await?;
        anyhow::ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await
}
