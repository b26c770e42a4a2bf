//! `coracle agent`: this machine as a node.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use coracle_agent::join::{self, Joined, Token};
use coracle_network::{Config as NetworkConfig, Mode, Network};

use crate::folder::Folder;
use crate::{host, println, server};

/// Arguments of everything that starts a node.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct NodeArgs {
    /// Name of the node [default: the machine's host name]
    #[arg(long)]
    pub name: Option<String>,
    /// Most Pods that the node takes
    #[arg(long, default_value_t = 10_000)]
    pub max_pods: u32,
    /// Label of the node; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
}

/// Arguments of `coracle agent`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// URL of the server
    #[arg(long, value_name = "URL")]
    server: String,
    /// Token that lets this machine join; needed once
    #[arg(long, env = "CORACLE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Data folder [default: /var/lib/coracle for root, else the XDG data folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Joins and starts the agent over a folder that the caller has claimed.
pub(crate) async fn start(
    url: &str,
    token: Option<&str>,
    node: &NodeArgs,
    folder: &Folder,
) -> anyhow::Result<(coracle_agent::Agent, Network)> {
    let data = folder.sub("agent")?;
    let name = match &node.name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let token = token.map(Token::parse).transpose()?;
    let mode = Mode::detect();
    let Joined { identity, network: facts } = join::join(url, token.as_ref(), &name, &data).await?;
    let pods: coracle_network::Cidr = facts.pod_range.parse()?;
    let services: coracle_network::Cidr = facts.service_range.parse()?;
    match (mode, services.base().is_loopback()) {
        (Mode::Rootless, false) => bail!(
            "this cluster's network needs root on every node; run the agent as root, or start the cluster anew as an ordinary user with another --data"
        ),
        (Mode::Root, true) => {
            tracing::info!(
                "the cluster was started by an ordinary user: its network stays on loopback"
            );
        }
        _ => {}
    }
    let mode = if services.base().is_loopback() { Mode::Rootless } else { mode };
    let network =
        Network::start(NetworkConfig { mode, id: facts.cluster_id.clone(), pods, services })
            .await?;
    let ip = IpAddr::V4(network.host_address());
    let config = coracle_agent::Config {
        identity,
        node_name: name,
        node_ip: ip,
        listen: SocketAddr::new(ip, 0),
        data,
        hosts: host::config(folder)?,
        network: network.clone(),
        pod_range: facts.pod_range,
        max_pods: node.max_pods,
        labels: node.labels.iter().cloned().collect(),
    };
    Ok((coracle_agent::start(config).await?, network))
}

fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("this machine has no host name; give --name")?;
    let name = name.trim().to_lowercase();
    match coracle_api::names::subdomain(&name) {
        None => Ok(name),
        Some(_) => bail!("the machine's host name \"{name}\" cannot be a node's name; give --name"),
    }
}

/// Runs until it is told to end; the workloads go on.
pub(crate) async fn main(args: Args) -> anyhow::Result<()> {
    let folder = Folder::open(args.data)?;
    let _claim = folder.claim("agent")?;
    let (mut agent, _network) =
        start(&args.server, args.token.as_deref(), &args.node, &folder).await?;
    println(format_args!("coracle agent is a node of {}", args.server));
    tokio::select! {
        () = agent.run() => Ok(()),
        result = server::signal() => result,
    }
}
