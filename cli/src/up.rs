//! `coracle up`: a whole cluster in one process, and what a person wants to know of it.

use std::path::PathBuf;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::config::Kubeconfig;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use crate::folder::Folder;
use crate::{agent, apply, client, eprintln, in_one_line, println, server, watchers};

/// Arguments of `coracle up`.
#[derive(clap::Args)]
#[group(skip)] // Its name would be that of the flattened ones.
pub(crate) struct Args {
    #[command(flatten)]
    server: server::ServerArgs,
    #[command(flatten)]
    node: agent::NodeArgs,
    /// Manifest to apply once the cluster is up; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Runs until Ctrl-C, then ends the workloads too.
pub(crate) async fn main(args: Args) -> anyhow::Result<()> {
    // What cannot be read is said before anything is started.
    let mut objects = Vec::new();
    for file in &args.files {
        objects.extend(apply::read(file)?);
    }
    let folder = Folder::open(args.server.data.clone())?;
    let _server_claim = folder.claim("server")?;
    let _agent_claim = folder.claim("agent")?;
    // Asked to end while it starts, it ends as soon as it has: what was begun has to be taken back in order.
    let mut asked_to_end = tokio::spawn(server::signal());
    let server = server::start(&args.server, &folder).await?;
    let token = server.local_token();
    let mut node = args.node.clone();
    node.max_pods = node.max_pods.or(Some(agent::MAX_PODS_ALONE));
    node.node_ip = node.node_ip.or(server::advertised(&args.server));
    let started = agent::start(&server.url(), Some(&token), &node, &folder, false).await;
    server.end_local_token();
    let (mut agent, _network) = match started {
        Ok(started) => started,
        Err(error) => {
            server.shutdown();
            server.join().await;
            return Err(error);
        }
    };
    println(format_args!(
        "coracle is up at {}  kubeconfig: {}",
        server.url(),
        folder.kubeconfig().display()
    ));
    let work = async {
        let client = client::from_kubeconfig(Kubeconfig::read_from(folder.kubeconfig())?).await?;
        let urls = tokio::spawn(announce_urls(client.clone()));
        if let Err(error) = apply_all(&client, objects).await {
            // The cluster stays up: the person can mend the manifest and apply it again.
            eprintln(format_args!("coracle: {}", in_one_line(&error)));
        }
        let _ = urls.await;
        anyhow::Ok(())
    };
    let result = tokio::select! {
        result = work => result,
        () = agent.run() => Ok(()),
        result = &mut asked_to_end => result?,
    };
    eprintln(format_args!("coracle: ending workloads"));
    agent.end_workloads().await;
    server.shutdown();
    server.join().await;
    result
}

async fn apply_all(client: &kube::Client, objects: Vec<serde_json::Value>) -> anyhow::Result<()> {
    let mut deployments = Vec::new();
    for object in objects {
        let applied = apply::apply(client, object, "default").await?;
        println(format_args!("applied {}/{}", applied.kind.singular, applied.name));
        if applied.kind.resource == "deployments.apps" {
            deployments.push(applied);
        }
    }
    for applied in deployments {
        watchers::deployment(client, &applied.namespace, &applied.name).await?;
        println(format_args!("deployment/{} is available", applied.name));
    }
    Ok(())
}

/// Prints the URLs of each Service that is reached from outside, as it appears or changes.
async fn announce_urls(client: kube::Client) {
    let api: Api<Service> = Api::all(client);
    let services = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
    let mut known = std::collections::HashMap::new();
    services
        .into_stream()
        .for_each(|service| {
            if let Ok(service) = service {
                let urls = watchers::urls(&service);
                let name =
                    format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any());
                if known.insert(name.clone(), urls.clone()) != Some(urls.clone()) {
                    for url in urls {
                        println(format_args!("service {name}  {url}"));
                    }
                }
            }
            std::future::ready(())
        })
        .await;
}
