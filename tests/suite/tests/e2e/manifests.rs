//! Manifests as users have them, unchanged, with Wasm components under the names of their images.

use std::sync::Arc;

use coracle_test_cluster::load::Load;
use coracle_test_cluster::{eventually, http};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, manifest, serves};

pub(crate) async fn nginx_deployment(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "nginx:1.14.2")]).await?;
    cluster.apply(&manifest("tests/suite/manifests/nginx-deployment.yaml")?).await?;
    cluster.rolled_out("nginx-deployment").await?;
    let pods = cluster.kubectl(&["get", "pods", "-l", "app=nginx", "--no-headers"]).await?;
    anyhow::ensure!(pods.matches("1/1").count() == 3, "{pods}");
    anyhow::ensure!(pods.matches("Running").count() == 3, "{pods}");
    cluster.kubectl(&["expose", "deployment", "nginx-deployment", "--port=80"]).await?;
    let address = cluster.service("default", "nginx-deployment").await?;
    eventually(SOON, "the Service answers", async || {
        expect(&http::get(address, "/health").await?.body, &["ok"])
    })
    .await
}

/// `my-app.yaml` declares no port: the component is served where its probe and its Service look for it.
pub(crate) async fn my_app_is_updated_under_load(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "my-app:v1.0"), ("hello-v2", "my-app:v2.0")]).await?;
    cluster.apply(&manifest("tests/suite/manifests/my-app.yaml")?).await?;
    cluster.rolled_out("my-app").await?;
    let address = cluster.service("default", "my-app-service").await?;
    serves(address, "v1").await?;
    let load = Load::start(address, "/health", 4);
    cluster.kubectl(&["set", "image", "deployment/my-app", "app=my-app:v2.0"]).await?;
    cluster.rolled_out("my-app").await?;
    serves(address, "v2").await?;
    cluster.kubectl(&["rollout", "undo", "deployment/my-app"]).await?;
    cluster.rolled_out("my-app").await?;
    serves(address, "v1").await?;
    let report = load.stop().await;
    anyhow::ensure!(report.versions.len() == 2, "both versions answered: {report:?}");
    report.nothing_dropped()
}
