//! What is reached through the API server: Pods, Services and nodes by their `proxy`, and an API server that the cluster's users
//! bring along.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, eventually, http, tools};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::access::as_stranger;
use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};

/// Where `kubectl proxy` of this cluster listens, for as long as the child lives.
async fn kubectl_proxy(
    cluster: &Cluster,
) -> anyhow::Result<(std::net::SocketAddr, tokio::process::Child)> {
    let command = cluster.kubectl_command(&tools::kubectl()?, &["proxy", "--port=0"]);
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let line = tokio::time::timeout(SOON, lines.next_line()).await??.context("it ended")?;
    let address = line.rsplit(' ').next().context("no address")?;
    Ok((address.parse().with_context(|| line.clone())?, child))
}

pub(crate) async fn pods_and_services_are_asked_through_the_server(
    context: Arc<Context>,
) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    let pods = cluster.get(&["pods", "-l", "app=web"]).await?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().context("no name")?;
    let node = pods["items"][0]["spec"]["nodeName"].as_str().context("no node")?;
    let below = |rest: &str| format!("/api/v1/namespaces/default/{rest}");
    for path in [
        format!("pods/{pod}/proxy/version"),
        format!("pods/{pod}:8080/proxy/version"),
        format!("pods/http:{pod}:http/proxy/version"),
        "services/web/proxy/version".to_owned(),
        "services/web:80/proxy/version".to_owned(),
        "services/http:web:80/proxy/version".to_owned(),
    ] {
        let said = eventually(SOON, &path, async || {
            cluster.kubectl(&["get", "--raw", &below(&path)]).await
        })
        .await?;
        anyhow::ensure!(said == "v1\n", "{path}: {said:?}");
    }
    let one = cluster.kubectl(&["get", "--raw", &below(&format!("pods/{pod}/proxy/"))]).await?;
    expect(&one, &[pod])?;
    let of_node = format!("/api/v1/nodes/{node}/proxy/healthz");
    expect(&cluster.kubectl(&["get", "--raw", &of_node]).await?, &["ok"])?;

    // As a browser gets at it.
    let (address, _proxy) = kubectl_proxy(&cluster).await?;
    let reply = http::get(address, &below("services/web/proxy/version")).await?;
    anyhow::ensure!(reply.status == 200 && reply.body == "v1\n", "{reply:?}");
    let reply = http::get(address, &below("services/web/proxy")).await?;
    anyhow::ensure!(reply.status == 301, "{reply:?}");

    // What is wrong is said in the words that people search for.
    let refused = async |path: &str| -> anyhow::Result<String> {
        cluster.kubectl_with(&["get", "--raw", &below(path)], "").await?.refused()
    };
    expect(&refused("services/none/proxy/").await?, &["services \"none\" not found"])?;
    expect(
        &refused("services/web:81/proxy/").await?,
        &["no service port 81 found for service \"web\""],
    )?;
    expect(&refused(&format!("pods/{pod}:81/proxy/")).await?, &["error trying to reach service"])?;
    cluster.kubectl(&["create", "serviceaccount", "robot"]).await?;
    let token = cluster.kubectl(&["create", "token", "robot"]).await?;
    let path = below("services/web/proxy/version");
    let ask = ["get", "--raw", &path];
    let robot = ["--token", token.trim()];
    let denied = as_stranger(&cluster, &robot, &ask).await?.refused()?;
    expect(&denied, &["cannot get resource \"services/proxy\" in API group \"\""])?;
    let role = ["create", "role", "asks", "--verb=get", "--resource=services/proxy"];
    cluster.kubectl(&role).await?;
    let binding =
        ["create", "rolebinding", "asks", "--role=asks", "--serviceaccount=default:robot"];
    cluster.kubectl(&binding).await?;
    let said = as_stranger(&cluster, &robot, &ask).await?.ok()?;
    anyhow::ensure!(said == "v1\n", "{said}");

    cluster.kubectl(&["scale", "deployment/web", "--replicas=0"]).await?;
    eventually(SOON, "nobody is there", async || {
        expect(
            &refused("services/web/proxy/").await?,
            &["no endpoints available for service \"web\""],
        )
    })
    .await
}
