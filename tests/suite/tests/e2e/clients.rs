//! The `kube` crate and other languages' libraries, as programs use them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_test_cluster::libraries::Language;
use coracle_test_cluster::{Part, User, eventually};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::containers::{push_script, web};
use crate::context::{ClusterExt as _, Context, Outcome, SOON, command_pod, expect, hello};

pub(crate) async fn the_kube_crate(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-command", "hello-command:v1")]).await?;
    let client = cluster.client().await?;
    let version = client.apiserver_version().await?;
    anyhow::ensure!(version.major == "1", "{version:?}");

    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let mut watch = maps.watch(&WatchParams::default().labels("kind=test"), "0").await?.boxed();
    let map = |name: &str| {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kind": "test"}}}))
    };
    let created: ConfigMap = maps.create(&PostParams::default(), &map("a")?).await?;
    anyhow::ensure!(created.uid().is_some() && created.resource_version().is_some(), "{created:?}");
    let taken = maps.create(&PostParams::default(), &map("a")?).await;
    anyhow::ensure!(matches!(&taken, Err(kube::Error::Api(s)) if s.code == 409), "{taken:?}");
    let patch = json!({"data": {"colour": "blue"}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let mut stale = created.clone();
    stale.data = Some(BTreeMap::from([("colour".to_owned(), "red".to_owned())]));
    let conflict = maps.replace("a", &PostParams::default(), &stale).await;
    anyhow::ensure!(matches!(&conflict, Err(kube::Error::Api(s)) if s.code == 409), "{conflict:?}");
    maps.delete("a", &DeleteParams::default()).await?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match tokio::time::timeout(SOON, watch.try_next()).await?? {
            Some(WatchEvent::Added(map)) => seen.push(format!("added {}", map.name_any())),
            Some(WatchEvent::Modified(map)) => seen.push(format!("modified {}", map.name_any())),
            Some(WatchEvent::Deleted(map)) => seen.push(format!("deleted {}", map.name_any())),
            Some(WatchEvent::Bookmark(_)) => {}
            other => anyhow::bail!("{other:?} after {seen:?}"),
        }
    }
    anyhow::ensure!(seen == ["added a", "modified a", "deleted a"], "{seen:?}");

    // Pages.
    for number in 0..7 {
        maps.create(&PostParams::default(), &map(&format!("page-{number}"))?).await?;
    }
    let mut params = ListParams::default().labels("kind=test").limit(3);
    let mut names = Vec::new();
    loop {
        let page = maps.list(&params).await?;
        names.extend(page.items.iter().map(|map| map.name_any()));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    anyhow::ensure!(names.len() == 7, "{names:?}");

    // A watcher that lists by streaming.
    let config = watcher::Config::default().streaming_lists();
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let mut stream = watcher(deployments.clone(), config).applied_objects().boxed();
    cluster.apply(&hello("web", "hello:v1", 1)).await?;
    let available = async {
        while let Some(deployment) = stream.try_next().await? {
            if deployment.status.and_then(|s| s.available_replicas) == Some(1) {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("the watcher ended")
    };
    tokio::time::timeout(SOON, available).await??;

    // A log, as it is written.
    let pods: Api<Pod> = Api::default_namespaced(client);
    cluster
        .apply(&command_pod("talker", "Never", &["--lines", "2", "--sleep", "1", "--lines", "1"]))
        .await?;
    let log = eventually(SOON, "the log can be followed", async || {
        // Of a Pod that is not scheduled yet the log is empty, as upstream.
        let node = pods.get("talker").await?.spec.and_then(|spec| spec.node_name);
        anyhow::ensure!(node.is_some(), "not scheduled");
        Ok(pods.log_stream("talker", &LogParams { follow: true, ..LogParams::default() }).await?)
    })
    .await?;
    let lines: Vec<String> = tokio::time::timeout(SOON, log.lines().try_collect()).await??;
    anyhow::ensure!(
        lines.ends_with(&["line 1".into(), "line 2".into(), "line 1".into()]),
        "{lines:?}"
    );
    Ok(())
}

/// A watcher sees every change once and in order, though the server is killed beneath it.
pub(crate) async fn a_watch_resumes(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client().await?);
    let map = json!({"metadata": {"name": "counter"}, "data": {"n": "0"}});
    let created = maps.create(&PostParams::default(), &serde_json::from_value(map)?).await?;
    let mut revision = created.resource_version().unwrap_or_default();
    let writes = async {
        for number in 1..=60 {
            let patch = json!({"data": {"n": number.to_string()}});
            // What was not acknowledged is written again: writing the same twice is no change.
            eventually(SOON, "the write is acknowledged", async || {
                let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
                let write = maps.patch("counter", &params, &patch);
                tokio::time::timeout(Duration::from_secs(3), write).await??;
                Ok(())
            })
            .await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let kills = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.kill9(Part::Up).await?;
            cluster.start(Part::Up).await?;
        }
        anyhow::Ok(())
    };
    let watch = async {
        let params = WatchParams::default().fields("metadata.name=counter");
        let mut seen = Vec::new();
        while seen.last() != Some(&60) {
            let Ok(stream) = maps.watch(&params, &revision).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let mut stream = stream.boxed();
            while let Ok(Some(event)) = stream.try_next().await {
                match event {
                    WatchEvent::Modified(map) => {
                        revision = map.resource_version().unwrap_or_default();
                        let number = map.data.and_then(|data| data["n"].parse::<u32>().ok());
                        seen.extend(number);
                        if number == Some(60) {
                            break;
                        }
                    }
                    WatchEvent::Bookmark(bookmark) => revision = bookmark.metadata.resource_version,
                    other => anyhow::bail!("{other:?} after {seen:?}"),
                }
            }
        }
        anyhow::Ok(seen)
    };
    let (_, _, seen) = tokio::time::timeout(Duration::from_secs(90), async {
        tokio::try_join!(writes, kills, watch)
    })
    .await??;
    anyhow::ensure!(seen == (1..=60).collect::<Vec<u32>>(), "{seen:?}");
    Ok(())
}

pub(crate) async fn the_python_client(context: Arc<Context>) -> Outcome {
    runs(context, Language::Python).await
}

pub(crate) async fn the_javascript_client(context: Arc<Context>) -> Outcome {
    runs(context, Language::JavaScript).await
}

/// Runs that language's program against a cluster; only root's has containers, in which something can be executed.
async fn runs(context: Arc<Context>, language: Language) -> Outcome {
    let program = tokio::task::spawn_blocking(move || language.program()).await??;
    let cluster = context.up().await?;
    let mut program = tokio::process::Command::from(program);
    program.arg(cluster.kubeconfig());
    if context.user == User::Root && push_script(&cluster, "client:v1", &web("v1")).await? {
        program.arg("client:v1");
    }
    let output = coracle_test_cluster::run(program, b"").await?;
    expect(&output.ok()?, &["all is well"])
}
