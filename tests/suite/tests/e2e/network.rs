//! Services, from outside and from guests.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{eventually, http};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, hello};

pub(crate) async fn services_balance(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 3).await?;
    let expose = ["expose", "deployment", "web", "--name=outside", "--type=NodePort", "--port=80"];
    cluster.kubectl(&[&expose[..], &["--target-port=http"]].concat()).await?;
    let service = cluster.get(&["service", "outside"]).await?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
    let outside = SocketAddr::from((cluster.api().ip(), u16::try_from(port)?));
    for address in [cluster.service("default", "web").await?, outside] {
        let answered = eventually(SOON, "all three Pods answer", async || {
            let mut answered = BTreeSet::new();
            for _ in 0..40 {
                answered.insert(http::get(address, "/").await?.body);
            }
            anyhow::ensure!(answered.len() == 3, "{address}: {answered:?}");
            Ok(answered)
        });
        answered.await?;
    }
    // A Pod's own address answers too.
    let pods = cluster.get(&["pods", "-l", "app=web"]).await?;
    let ip = pods["items"][0]["status"]["podIP"].as_str().context("no podIP")?;
    let address = SocketAddr::new(ip.parse()?, cluster.listen_port(8080));
    let name = pods["items"][0]["metadata"]["name"].as_str().context("no name")?;
    expect(&http::get(address, "/").await?.body, &[name])?;
    // Endpoints and EndpointSlices name the Pods.
    let endpoints = cluster.kubectl(&["get", "endpoints,endpointslices", "-l", "!x"]).await?;
    expect(&endpoints, &["endpoints/web", "endpointslice", ip])
}

pub(crate) async fn guests_call_services(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("probe-http", "probe:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    cluster.deploy_hello("probe", "probe:v1", 1).await?;
    let address = cluster.service("default", "probe").await?;
    let ip = cluster.get(&["service", "web"]).await?;
    let ip = ip["spec"]["clusterIP"].as_str().context("no clusterIP")?.to_owned();
    for host in ["web", "web.default", "web.default.svc.cluster.local", &ip] {
        eventually(SOON, "the guest reaches the Service", async || {
            let reply = http::get(address, &format!("/fetch?url=http://{host}/version")).await?;
            expect(&reply.body, &["200", "v1"]).with_context(|| host.to_owned())
        })
        .await?;
    }
    let nobody = http::get(address, "/fetch?url=http://no-such-service/").await?;
    anyhow::ensure!(nobody.status == 502, "{nobody:?}");
    Ok(())
}

pub(crate) async fn readiness_decides(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    let env = "env: [{name: HEALTH_STATUS, value: '503'}, ";
    cluster.apply(&hello("sick", "probe:v1", 1).replace("env: [", env)).await?;
    eventually(SOON, "the Pod runs, but is not ready", async || {
        let pods = cluster.kubectl(&["get", "pods", "-l", "app=sick"]).await?;
        expect(&pods, &["0/1", "Running"])?;
        let events = cluster.kubectl(&["get", "events"]).await?;
        expect(&events, &["Unhealthy", "Readiness probe failed", "503"])
    })
    .await?;
    let address = cluster.service("default", "sick").await?;
    anyhow::ensure!(http::get(address, "/").await.is_err(), "nobody is ready to answer");
    let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=sick"]).await?;
    let ready = &slices["items"][0]["endpoints"][0]["conditions"]["ready"];
    anyhow::ensure!(*ready == false, "{slices}");
    // Once it is well, it answers.
    cluster.kubectl(&["set", "env", "deployment/sick", "HEALTH_STATUS=200"]).await?;
    cluster.rolled_out("sick").await?;
    eventually(SOON, "the Service answers", async || {
        expect(&http::get(address, "/").await?.body, &["probe-http"])
    })
    .await
}
