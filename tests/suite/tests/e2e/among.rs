//! A cluster's daily work among a hundred thousand objects that it has nothing to do with.
//!
//! `CORACLE_TEST_FILLED` lets every other body run so; this one always does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_test_cluster::load::Load;
use coracle_test_cluster::{Cluster, Part};

use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, expect, serves};

const OBJECTS: usize = 100_000;
/// How long a cluster may take that was killed among them: a second in a release build on a machine with nothing else to do.
const RESTART: Duration = Duration::from_secs(45);

/// How many there are, in pages, as kubectl lists them.
async fn count(cluster: &Cluster, args: &[&str]) -> anyhow::Result<usize> {
    let args: Vec<&str> = ["get", "-A", "-o", "name"].iter().chain(args).copied().collect();
    Ok(cluster.kubectl(&args).await?.lines().count())
}

pub(crate) async fn work_goes_on(context: Arc<Context>) -> Outcome {
    let cluster = context.up_among(OBJECTS).await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    let address = cluster.service("default", "web").await?;
    serves(address, "v1").await?;

    // What is theirs is found, and what is ours is told apart from it.
    let units = count(&cluster, &["deployments"]).await? - 1;
    anyhow::ensure!(units > OBJECTS / 40, "{units} Deployments");
    let cases: &[(&[&str], usize)] = &[
        (&["configmaps", "-l", "app=web-x00007"], 5),
        (&["pods", "-l", "app=web"], 2),
        (&["pods", "--field-selector=status.phase=Running"], 2),
        (&["pods", "--field-selector=status.phase=Succeeded"], units),
        (&["pods", "-l", "app=web-x00007"], 2),
        (&["fillings", "--field-selector=metadata.name=filling-1-x00007"], 1),
    ];
    for (args, wanted) in cases {
        let found = count(&cluster, args).await?;
        anyhow::ensure!(found == *wanted, "{args:?}: {found}, not {wanted}");
    }
    expect(&cluster.kubectl(&["get", "all"]).await?, &["pod/web-", "deployment.apps/web"])?;
    let theirs = &["-n", "filled-07"];
    let described = ["describe", "deployment", "web-x00007"];
    let described = cluster.kubectl(&[&theirs[..], &described].concat()).await?;
    expect(&described, &["2 desired", "ScalingReplicaSet"])?;

    // Their controllers work on, and so do ours.
    let scale = ["scale", "deployment/web-x00007", "--replicas=3"];
    cluster.kubectl(&[&theirs[..], &scale].concat()).await?;
    let scaled = ["wait", "deployment/web-x00007", "--for=jsonpath={.status.replicas}=3", PATIENCE];
    cluster.kubectl(&[&theirs[..], &scaled].concat()).await?;
    let load = Load::start(address, "/health", 3);
    cluster.kubectl(&["set", "image", "deployment/web", "app=hello:v2"]).await?;
    cluster.rolled_out("web").await?;
    serves(address, "v2").await?;

    // Nothing is lost when it is killed, and it is soon back.
    cluster.kill9(Part::Up).await?;
    let killed = Instant::now();
    cluster.start(Part::Up).await?;
    let back = killed.elapsed();
    anyhow::ensure!(back < RESTART, "back after {back:?}");
    cluster.kubectl(&["scale", "deployment/web", "--replicas=3"]).await?;
    cluster.rolled_out("web").await?;
    load.stop().await.nothing_dropped()?;
    anyhow::ensure!(count(&cluster, &["deployments"]).await? == units + 1);

    // A namespace goes with its thousands.
    cluster.kubectl(&["delete", "namespace", "filled-03", PATIENCE]).await?;
    let left = count(&cluster, &["deployments"]).await?;
    anyhow::ensure!(
        left == units + 1 - units / 20 || left == units - units / 20,
        "{left} of {units}"
    );
    Ok(())
}
