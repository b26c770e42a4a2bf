//! Environments, as a running guest prints its own.

use std::sync::Arc;

use coracle_test_cluster::{Cluster, eventually};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, command_pod, expect};

async fn succeeded(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    eventually(SOON, "it ran to its end", async || {
        let status = cluster.get(&["pod", pod]).await?["status"].clone();
        anyhow::ensure!(status["phase"] == "Succeeded", "{pod}: {status:#}");
        Ok(())
    })
    .await?;
    cluster.kubectl(&["logs", pod]).await
}

pub(crate) async fn every_source(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-files", "hello-command:v1")]).await?;
    let keys = ["--from-literal=colour=blue", "--from-literal=odd.key=kept"];
    cluster.kubectl(&[&["create", "configmap", "m"], &keys[..]].concat()).await?;
    cluster.kubectl(&["create", "secret", "generic", "s", "--from-literal=pass=pa55"]).await?;
    let base = command_pod("all", "Never", &[]);
    let spec = r#"
    resources: {requests: {cpu: 250m}, limits: {memory: 64Mi}}
    envFrom:
    - {prefix: MAP_, configMapRef: {name: m}}
    - {secretRef: {name: gone, optional: true}}
    env:
    - {name: PASS, valueFrom: {secretKeyRef: {name: s, key: pass}}}
    - {name: NONE, valueFrom: {configMapKeyRef: {name: m, key: none, optional: true}}}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: API, value: "$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)"}
    - {name: FILE, valueFrom: {fileKeyRef: {volumeName: shared, path: vars, key: MADE}}}
    volumeMounts: [{name: shared, mountPath: /shared}]
  initContainers:
  - name: before
    image: hello-command:v1
    command: [hello-command]
    args: ["--write", "/shared/vars=MADE='by init'"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  volumes: [{name: shared, emptyDir: {}}]
"#;
    let pod = format!("{}{spec}", base.trim_end());
    let pod = pod.replace("labels: {app: all}", "labels: {app: all}, annotations: {note: seen}");
    cluster.apply(&pod).await?;
    let said = succeeded(&cluster, "all").await?;
    let object = cluster.get(&["pod", "all"]).await?;
    let uid = format!("UID={}", object["metadata"]["uid"].as_str().unwrap_or_default());
    let ip = format!("IPS={}", object["status"]["podIP"].as_str().unwrap_or_default());
    let host = format!("HOST={}", object["status"]["hostIP"].as_str().unwrap_or_default());
    let api = cluster.get(&["service", "kubernetes"]).await?;
    let api = format!("API={}:443", api["spec"]["clusterIP"].as_str().unwrap_or_default());
    let lines = [
        "MAP_colour=blue",
        "MAP_odd.key=kept",
        "PASS=pa55",
        "NAME=all",
        "APP=all",
        "NOTE=seen",
        &uid,
        "ACCOUNT=default",
        &ip,
        &host,
        "MEM=64",
        "CPU=250",
        &api,
        "FILE=by init",
        "HOSTNAME=all",
    ];
    expect(&said, &lines)?;
    anyhow::ensure!(!said.contains("NONE="), "{said}");
    Ok(())
}

pub(crate) async fn services_are_told_of(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-files", "hello-command:v1")]).await?;
    cluster.kubectl(&["create", "service", "clusterip", "my-db", "--tcp=5432"]).await?;
    let service = cluster.get(&["service", "my-db"]).await?;
    let ip = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    cluster.apply(&command_pod("told", "Never", &[])).await?;
    let untold = command_pod("untold", "Never", &[]);
    cluster.apply(&untold.replace("spec:\n", "spec:\n  enableServiceLinks: false\n")).await?;
    let lines = [
        &format!("MY_DB_SERVICE_HOST={ip}\n")[..],
        "MY_DB_SERVICE_PORT=5432\n",
        &format!("MY_DB_PORT_5432_TCP=tcp://{ip}:5432\n"),
        "KUBERNETES_SERVICE_HOST=",
    ];
    expect(&succeeded(&cluster, "told").await?, &lines)?;
    let untold = succeeded(&cluster, "untold").await?;
    expect(&untold, &["KUBERNETES_SERVICE_PORT=443"])?;
    anyhow::ensure!(!untold.contains("MY_DB"), "{untold}");
    Ok(())
}

pub(crate) async fn what_is_missing_is_waited_for(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-files", "hello-command:v1")]).await?;
    let pod = command_pod("waiter", "Never", &[]);
    let env = "    env: [{name: A, valueFrom: {secretKeyRef: {name: late, key: a}}}]";
    cluster.apply(&format!("{}\n{env}\n", pod.trim_end())).await?;
    for (wanted, then) in [
        ("secret \"late\" not found", &["create", "secret", "generic", "late"][..]),
        (
            "couldn't find key a in Secret default/late",
            &["patch", "secret", "late", "-p", r#"{"stringData": {"a": "here"}}"#],
        ),
    ] {
        eventually(SOON, "it says what is missing", async || {
            let status = cluster.get(&["pod", "waiter"]).await?["status"].clone();
            let waiting = &status["containerStatuses"][0]["state"]["waiting"];
            anyhow::ensure!(
                waiting["reason"] == "CreateContainerConfigError" && waiting["message"] == wanted,
                "{status:#}"
            );
            Ok(())
        })
        .await?;
        cluster.kubectl(then).await?;
    }
    expect(&succeeded(&cluster, "waiter").await?, &["A=here"])
}
