//! `coracle server`: a control plane.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;

use crate::folder::Folder;
use crate::println;

/// Arguments of everything that starts a control plane.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct ServerArgs {
    /// Data folder [default: /var/lib/coracle for root, else the XDG data folder]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the API listens; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// Where the cluster is stored
    #[arg(long, value_name = "redb|etcd://…", default_value = "redb", value_parser = ["redb"])]
    pub store: String,
    /// Bind no Pods to nodes (for measurements)
    #[arg(long, hide = true)]
    pub no_scheduler: bool,
    /// Run no controllers (for measurements)
    #[arg(long, hide = true)]
    pub no_controllers: bool,
}

/// Starts the control plane over a folder that the caller has claimed.
pub(crate) async fn start(
    args: &ServerArgs,
    folder: &Folder,
) -> anyhow::Result<coracle_server::Server> {
    let network = folder.network()?;
    let services: coracle_network::Cidr = network.service_range.parse()?;
    let mut config = coracle_server::Config::new(folder.path());
    config.listen = args.listen;
    config.service_network = (services.base(), services.prefix());
    config.pod_range = network.pod_range;
    config.cluster_id = network.cluster_id;
    config.gateway = gateway(&config.pod_range, services)?;
    config.scheduler = !args.no_scheduler;
    config.controllers = !args.no_controllers;
    Ok(coracle_server::start(config).await?)
}

/// Where Pods reach this machine: none where they have its loopback addresses.
fn gateway(pods: &str, services: coracle_network::Cidr) -> anyhow::Result<Option<Ipv4Addr>> {
    if services.base().is_loopback() {
        return Ok(None);
    }
    Ok(pods.parse::<coracle_network::Cidr>()?.nth(1))
}

/// Runs until it is told to end.
pub(crate) async fn main(args: ServerArgs) -> anyhow::Result<()> {
    let folder = Folder::open(args.data.clone())?;
    let _claim = folder.claim("server")?;
    let server = start(&args, &folder).await?;
    println(format_args!(
        "coracle server is up at {}  kubeconfig: {}",
        server.url(),
        folder.kubeconfig().display()
    ));
    signal().await?;
    server.shutdown();
    server.join().await;
    Ok(())
}

/// Returns on Ctrl-C or SIGTERM.
pub(crate) async fn signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.context("cannot wait for signals"),
        _ = terminate.recv() => Ok(()),
    }
}
