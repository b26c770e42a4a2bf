//! PersistentVolumeClaims, from a Pod that waits for one to the folder of the machine that it is.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use coracle_test_cluster::{Cluster, eventually};
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, SOON, command_pod, expect};

const IMAGES: &[(&str, &str)] = &[("probe-files", "hello-command:v1")];

/// A folder that every user may write to.
fn folder() -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
    Ok(folder)
}

fn pod(name: &str, claim: &str, args: &[&str]) -> String {
    let base = command_pod(name, "Never", args);
    format!(
        "{}\n    volumeMounts: [{{name: data, mountPath: /data}}]\n  volumes: [{{name: data, persistentVolumeClaim: {claim}}}]\n",
        base.trim_end()
    )
}

fn claim(name: &str, class: &str) -> String {
    format!(
        "\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{storageClassName: {class:?}, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n"
    )
}

async fn phase(cluster: &Cluster, pod: &str, wanted: &str) -> anyhow::Result<Value> {
    eventually(SOON, wanted, async || {
        let status = cluster.get(&["pod", pod]).await?["status"].clone();
        anyhow::ensure!(status["phase"] == wanted, "{pod}: {status:#}");
        Ok(status)
    })
    .await
}

pub(crate) async fn a_claim_is_a_folder_of_the_machine(context: Arc<Context>) -> Outcome {
    let folder = folder()?;
    let cluster = context.up().await?;
    cluster.push_all(IMAGES).await?;
    let args = ["--write", "/data/x=kept", "--read", "/data/x"];
    cluster.apply(&pod("writer", "{claimName: data}", &args)).await?;
    let told = async |why: &str| {
        eventually(SOON, "it says what it waits for", async || {
            let text = cluster.kubectl(&["describe", "pod", "writer"]).await?;
            expect(&text, &["FailedScheduling", why])
        })
        .await
    };
    told("persistentvolumeclaim \"data\" not found").await?;
    cluster.apply(&claim("data", "")).await?;
    told("pod has unbound immediate PersistentVolumeClaims").await?;
    let path = folder.path().display();
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: folder}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], hostPath: {{path: {path}, type: Directory}}}}\n"
        ))
        .await?;
    phase(&cluster, "writer", "Succeeded").await?;
    expect(&cluster.kubectl(&["logs", "writer"]).await?, &["\nkept\n"])?;
    anyhow::ensure!(std::fs::read_to_string(folder.path().join("x"))? == "kept");
    // The next Pod finds it, and may be kept from changing it.
    let args = ["--read", "/data/x", "--write", "/data/x=changed"];
    cluster.apply(&pod("reader", "{claimName: data, readOnly: true}", &args)).await?;
    eventually(SOON, "it reads", async || {
        expect(&cluster.kubectl(&["logs", "reader"]).await?, &["\nkept\n"])
    })
    .await?;
    let reader = &[
        "wait",
        "pod/reader",
        "--for=jsonpath={.status.containerStatuses[0].state.terminated}",
        PATIENCE,
    ];
    cluster.kubectl(reader).await?;
    anyhow::ensure!(std::fs::read_to_string(folder.path().join("x"))? == "kept");
    Ok(())
}

/// A StatefulSet whose claims wait for their Pods: each gets a volume of the machine that its Pod goes to, and claims beyond
/// the declared number go with their Pods.
pub(crate) async fn local_volumes_are_found_with_the_node(context: Arc<Context>) -> Outcome {
    let folders = [folder()?, folder()?];
    let cluster = context.up().await?;
    cluster.push_all(IMAGES).await?;
    let nodes = cluster.get(&["nodes"]).await?;
    let node = nodes["items"][0]["metadata"]["labels"]["kubernetes.io/hostname"].to_string();
    let mut manifest = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: local}\nprovisioner: kubernetes.io/no-provisioner\nvolumeBindingMode: WaitForFirstConsumer\n".to_owned();
    for (i, folder) in folders.iter().enumerate() {
        let path = folder.path().display();
        manifest += &format!(
            r#"---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: local-{i}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: local
  persistentVolumeReclaimPolicy: Retain
  local: {{path: {path}}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}
"#
        );
    }
    manifest += r#"---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Retain}
  selector: {matchLabels: {app: db}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {storageClassName: local, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: hello-command:v1
        command: [hello-command]
        args: [--write, "/data/own=$(NAME)", --follow, /data/own]
        env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        volumeMounts: [{name: data, mountPath: /data}]
"#;
    cluster.apply(&manifest).await?;
    cluster.kubectl(&["rollout", "status", "sts/db", PATIENCE]).await?;
    let mut written = Vec::new();
    eventually(SOON, "each writes into a volume of its own", async || {
        written = folders
            .iter()
            .map(|folder| std::fs::read_to_string(folder.path().join("own")))
            .collect::<Result<_, _>>()?;
        written.sort();
        anyhow::ensure!(written == ["db-0", "db-1"], "{written:?}");
        Ok(())
    })
    .await?;
    cluster.kubectl(&["scale", "sts/db", "--replicas=1"]).await?;
    eventually(SOON * 2, "the claim goes with its Pod", async || {
        let claims = cluster.kubectl(&["get", "pvc", "-o", "name"]).await?;
        anyhow::ensure!(claims.trim() == "persistentvolumeclaim/data-db-0", "{claims}");
        Ok(())
    })
    .await?;
    cluster.kubectl(&["delete", "sts", "db", PATIENCE]).await?;
    let claims = cluster.kubectl(&["get", "pvc", "-o", "name"]).await?;
    anyhow::ensure!(claims.trim() == "persistentvolumeclaim/data-db-0", "{claims}");
    Ok(())
}

/// A Pod that was bound to its node by hand meets no scheduler: the node itself sees to its ports (upstream's "Should recreate
/// evicted statefulset").
pub(crate) async fn a_port_of_the_machine_is_one_pods(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let nodes = cluster.get(&["nodes"]).await?;
    let node = nodes["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let spec = format!(
        "nodeName: {node}, terminationGracePeriodSeconds: 1, containers: [{{name: app, image: \"hello:v1\", ports: [{{containerPort: 8080, hostPort: {port}}}]}}]"
    );
    cluster
        .apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: first}}\nspec: {{{spec}}}\n"))
        .await?;
    phase(&cluster, "first", "Running").await?;
    let alone =
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: second}}\nspec: {{{spec}}}\n");
    cluster.apply(&alone).await?;
    let refused = phase(&cluster, "second", "Failed").await?;
    anyhow::ensure!(refused["reason"] == "NodePorts", "{refused:#}");
    let message = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    anyhow::ensure!(refused["message"] == message, "{refused:#}");
    cluster
        .apply(&format!(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: ss}}\nspec:\n  serviceName: ss\n  selector: {{matchLabels: {{app: ss}}}}\n  template: {{metadata: {{labels: {{app: ss}}}}, spec: {{{spec}}}}}\n"
        ))
        .await?;
    let uid = async || -> anyhow::Result<String> {
        Ok(cluster.get(&["pod", "ss-0"]).await?["metadata"]["uid"].to_string())
    };
    let first = eventually(SOON, "the StatefulSet makes its Pod", uid).await?;
    eventually(SOON, "and makes it again, since it failed", async || {
        let now = uid().await?;
        anyhow::ensure!(now != first, "{now}");
        Ok(())
    })
    .await?;
    cluster.kubectl(&["delete", "pod", "first", PATIENCE]).await?;
    phase(&cluster, "ss-0", "Running").await.map(drop)
}
