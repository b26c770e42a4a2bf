//! Rolling updates, back and forth.

use std::sync::Arc;
use std::time::Duration;

use coracle_test_cluster::load::Load;
use coracle_test_cluster::{Cluster, eventually, http};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, hello};

/// A Pod that goes may still be sent requests for a moment after all the new ones are there.
async fn version(cluster: &Cluster, wanted: &str) -> Outcome {
    let address = cluster.service("default", "web").await?;
    eventually(SOON, "the version that was rolled out answers", async || {
        expect(&http::get(address, "/version").await?.body, &[wanted])
    })
    .await
}

pub(crate) async fn history_undo_restart_and_pause(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    cluster.deploy_hello("web", "hello:v1", 3).await?;
    let load = Load::start(cluster.service("default", "web").await?, "/health", 3);
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;

    kubectl(&["annotate", "deployment/web", "kubernetes.io/change-cause=first"]).await?;
    kubectl(&["set", "image", "deployment/web", "app=hello:v2"]).await?;
    kubectl(&["annotate", "deployment/web", "kubernetes.io/change-cause=second", "--overwrite"])
        .await?;
    cluster.rolled_out("web").await?;
    version(&cluster, "v2").await?;
    eventually(SOON, "the history names both causes", async || {
        let history = kubectl(&["rollout", "history", "deployment/web"]).await?;
        expect(&history, &["REVISION", "CHANGE-CAUSE", "first", "second"])
    })
    .await?;
    let one = kubectl(&["rollout", "history", "deployment/web", "--revision=1"]).await?;
    expect(&one, &["hello:v1"])?;

    kubectl(&["rollout", "undo", "deployment/web", "--to-revision=1"]).await?;
    cluster.rolled_out("web").await?;
    version(&cluster, "v1").await?;
    let history = kubectl(&["rollout", "history", "deployment/web"]).await?;
    anyhow::ensure!(!history.contains("\n1 "), "revision 1 became 3:\n{history}");

    let names = ["get", "pods", "-l", "app=web", "-o", "name"];
    let before = kubectl(&names).await?;
    kubectl(&["rollout", "restart", "deployment/web"]).await?;
    cluster.rolled_out("web").await?;
    eventually(SOON, "every Pod is a new one", async || {
        let after = kubectl(&names).await?;
        anyhow::ensure!(before.lines().all(|name| !after.contains(name)), "{before}\n{after}");
        Ok(())
    })
    .await?;

    kubectl(&["rollout", "pause", "deployment/web"]).await?;
    kubectl(&["set", "image", "deployment/web", "app=hello:v2"]).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    version(&cluster, "v1").await?;
    kubectl(&["rollout", "resume", "deployment/web"]).await?;
    cluster.rolled_out("web").await?;
    version(&cluster, "v2").await?;
    load.stop().await.nothing_dropped()
}

pub(crate) async fn a_bad_image_keeps_the_old_pods(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    let load = Load::start(cluster.service("default", "web").await?, "/health", 2);
    let patch = r#"{"spec":{"progressDeadlineSeconds":3}}"#;
    cluster.kubectl(&["patch", "deployment", "web", "-p", patch]).await?;
    cluster.kubectl(&["set", "image", "deployment/web", "app=hello:missing"]).await?;
    let status = ["rollout", "status", "deployment/web", "--timeout=40s"];
    let said = cluster.kubectl_with(&status, "").await?.refused()?;
    expect(&said, &["exceeded its progress deadline"])?;
    let deployment = cluster.get(&["deployment", "web"]).await?;
    anyhow::ensure!(deployment["status"]["availableReplicas"] == 2, "{deployment}");
    cluster.kubectl(&["rollout", "undo", "deployment/web"]).await?;
    cluster.rolled_out("web").await?;
    load.stop().await.nothing_dropped()
}

pub(crate) async fn recreate(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    let text = hello("web", "hello:v1", 2)
        .replace("  replicas: 2", "  replicas: 2\n  strategy: {type: Recreate}");
    cluster.apply(&text).await?;
    cluster.rolled_out("web").await?;
    cluster.kubectl(&["set", "image", "deployment/web", "app=hello:v2"]).await?;
    cluster.rolled_out("web").await?;
    version(&cluster, "v2").await?;
    let sets = cluster.kubectl(&["get", "rs", "-l", "app=web", "--no-headers"]).await?;
    anyhow::ensure!(sets.lines().count() == 2, "{sets}");
    cluster.kubectl(&["delete", "deployment,service", "web"]).await?;
    eventually(SOON, "its ReplicaSets and Pods are gone", async || {
        let left = cluster
            .kubectl(&["get", "rs,pods,endpointslices", "-l", "app=web", "-o", "name"])
            .await?;
        anyhow::ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await
}
