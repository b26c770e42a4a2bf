//! `coracle agent`: this machine as a node.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_agent::images;
use coracle_agent::images::reference::ImageName;
use coracle_agent::join::{self, Joined};
use coracle_agent::node::Machine;
use coracle_agent::pod::volumes::HostPaths;
use coracle_api::bootstrap_token::JoinToken;
use coracle_network::{Config as NetworkConfig, Mode, Neighbourhood, Network, neighbourhood};
use k8s_openapi::api::core::v1::Taint;

use crate::folder::Folder;
use crate::{host, println, server};

/// Most Pods of a node that does not say: of such nodes, a cluster's usual range has room for 128.
const MAX_PODS: u32 = 1_000;
/// The same of a cluster that is one machine at first.
pub(crate) const MAX_PODS_ALONE: u32 = 10_000;

/// Arguments of everything that starts a node.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct NodeArgs {
    /// Name of the node [default: the machine's host name]
    #[arg(long)]
    pub name: Option<String>,
    /// Address under which other machines of the cluster reach this one [default: that from which it reaches the server]
    #[arg(long, value_name = "ADDR")]
    pub node_ip: Option<Ipv4Addr>,
    /// Most Pods that the node takes, which its range of Pod addresses follows from [default: 10000 for `up`, 1000 for
    /// `agent`]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=65_000))]
    pub max_pods: Option<u32>,
    /// Label of the node; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Taint that the node joins with; may be given several times
    #[arg(long = "taint", value_name = "KEY[=VALUE]:EFFECT", value_parser = parse_taint)]
    pub taints: Vec<Taint>,
    #[command(flatten)]
    pub images: ImageArgs,
    #[command(flatten)]
    pub ingress: IngressArgs,
    /// Folder of this machine that Pods may mount by hostPath, with all in it; may be given several times. Without it,
    /// all that this user may
    #[arg(long = "allow-host-path", value_name = "FOLDER")]
    pub allow_host_paths: Vec<PathBuf>,
    /// No Pod may mount anything by hostPath
    #[arg(long, conflicts_with = "allow_host_paths")]
    pub no_host_path: bool,
}

/// Arguments about Ingresses.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub(crate) struct IngressArgs {
    /// Port of this machine on which Ingresses are served; 0 picks a free one [default: 80, 10080 for an ordinary user]
    #[arg(long = "ingress-http-port", value_name = "PORT")]
    pub http_port: Option<u16>,
    /// The same with TLS [default: 443, 10443 for an ordinary user]
    #[arg(long = "ingress-https-port", value_name = "PORT")]
    pub https_port: Option<u16>,
    /// Proxy whose X-Forwarded headers are believed; may be given several times
    #[arg(long = "ingress-trusted-proxy", value_name = "ADDR[/BITS]", value_parser = parse_network)]
    pub trusted: Vec<(IpAddr, u8)>,
    /// This machine serves no Ingresses
    #[arg(long = "no-ingress")]
    pub disabled: bool,
}

fn parse_network(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(a, bits)| (a, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_| format!("{address} is no address"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Ok(most), str::parse).ok().filter(|bits| *bits <= most);
    Ok((address, bits.ok_or_else(|| format!("the bits of {text} are 0 to {most}"))?))
}

/// Arguments about the node's images.
#[derive(clap::Args, Debug, Clone)]
#[group(skip)]
pub(crate) struct ImageArgs {
    /// Mirrors, credentials and TLS of registries, in k3s's format [default: DATA/registries.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// Registry of names without a host that the cluster's own does not have, or `none`
    #[arg(long, value_name = "HOST", default_value = "docker.io")]
    pub default_registry: String,
    /// Image that is never removed to make room; may be given several times
    #[arg(long = "pin-image", value_name = "NAME", value_parser = parse_image)]
    pub pinned: Vec<String>,
    /// Percent of the disk in use from which unused images are removed
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_high_threshold: u8,
    /// Percent of the disk in use down to which they are removed
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low_threshold: u8,
    /// Seconds for which an image is kept after its last use
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub image_minimum_gc_age: u64,
    /// Percent of free disk below which the node has the condition DiskPressure
    #[arg(long, value_name = "PERCENT", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub disk_pressure_threshold: u8,
    /// Most bytes that one layer of a container image may unpack to
    #[arg(long, value_name = "BYTES", default_value_t = images::unpack::Limits::default().bytes)]
    pub max_layer_bytes: u64,
}

impl ImageArgs {
    fn config(&self, folder: &Folder) -> anyhow::Result<images::Config> {
        if self.image_gc_low_threshold > self.image_gc_high_threshold {
            bail!("--image-gc-low-threshold must not be above --image-gc-high-threshold");
        }
        let default = folder.path().join("registries.yaml");
        let file = self.registries.clone().or_else(|| default.exists().then_some(default));
        let registries = match file {
            Some(file) => read_registries(&file)?,
            None => images::settings::Settings::default(),
        };
        Ok(images::Config {
            registries,
            default_registry: Some(self.default_registry.clone()).filter(|host| host != "none"),
            collect: images::gc::Settings {
                high_percent: self.image_gc_high_threshold,
                low_percent: self.image_gc_low_threshold,
                min_age: Duration::from_secs(self.image_minimum_gc_age),
                pressure_percent: self.disk_pressure_threshold,
                pinned: self.pinned.clone(),
            },
            unpack: Some(host::unpack_command()),
            layer_limits: images::unpack::Limits {
                bytes: self.max_layer_bytes,
                ..images::unpack::Limits::default()
            },
        })
    }
}

fn read_registries(file: &Path) -> anyhow::Result<images::settings::Settings> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    // An empty file, or one of comments alone, says nothing.
    let settings: Option<images::settings::Settings> = serde_saphyr::from_str(&text)
        .with_context(|| format!("{} is not as registries.yaml should be", file.display()))?;
    let settings = settings.unwrap_or_default();
    settings.check().with_context(|| file.display().to_string())?;
    Ok(settings)
}

fn parse_image(text: &str) -> Result<String, String> {
    ImageName::parse(text).map(|_| text.to_owned()).map_err(str::to_owned)
}

impl NodeArgs {
    fn host_paths(&self) -> HostPaths {
        if self.no_host_path {
            HostPaths::Denied
        } else if self.allow_host_paths.is_empty() {
            HostPaths::Any
        } else {
            HostPaths::Below(self.allow_host_paths.clone())
        }
    }
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
    /// Keep no connection open by which the server calls this agent: it must reach this machine by itself then
    #[arg(long)]
    no_tunnel: bool,
    #[command(flatten)]
    node: NodeArgs,
}

fn parse_taint(text: &str) -> Result<Taint, String> {
    let (key, effect) = text.rsplit_once(':').ok_or("a taint is KEY[=VALUE]:EFFECT")?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err("the effect of a taint is NoSchedule, PreferNoSchedule or NoExecute".to_owned());
    }
    let (key, value) = key.split_once('=').map_or((key, None), |(key, value)| (key, Some(value)));
    Ok(Taint {
        key: key.to_owned(),
        value: value.map(str::to_owned),
        effect: effect.to_owned(),
        time_added: None,
    })
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Joins and starts the agent over a folder that the caller has claimed; `by_tunnel` lets the server call it by a connection of its own.
pub(crate) async fn start(
    url: &str,
    token: Option<&str>,
    node: &NodeArgs,
    folder: &Folder,
    by_tunnel: bool,
) -> anyhow::Result<(coracle_agent::Agent, Network)> {
    let data = folder.sub("agent")?;
    // What cannot be read is said before anything is started.
    let images_config = node.images.config(folder)?;
    let name = match &node.name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let token = token.map(JoinToken::parse).transpose()?;
    let mode = Mode::detect();
    let Joined { identity, network: facts } = join::join(url, token.as_ref(), &name, &data).await?;
    let cluster: coracle_network::Cidr = facts.pod_range.parse()?;
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
    let id = folder.id()?;
    if mode == Mode::Root {
        let mut found = neighbourhood(&id)?;
        // Routes there may be those to other nodes.
        found.retain(|network| network.is_own);
        for (flag, what, range) in
            [("--pod-range", "Pod", cluster), ("--service-range", "Service", services)]
        {
            if let Some(way) = Neighbourhood::in_the_way(&found, range) {
                bail!(
                    "the cluster's {what} range {range} overlaps this machine's network {} ({}): renumber that network, or start a cluster with another {flag}",
                    way.range,
                    way.link
                );
            }
        }
    }
    let mut machine = Machine::here(name, node.max_pods.unwrap_or(MAX_PODS));
    machine.labels = node.labels.iter().cloned().collect();
    machine.taints = node.taints.clone();
    let client = identity.client();
    let range = coracle_agent::range::of_node(&client, &machine, &facts, &data).await?;
    machine.pod_range = range.clone();
    let pods = range.parse()?;
    let tunnel = coracle_network::ranges::seed(facts.cluster_id.as_bytes()) as u32 & 0x00ff_ffff;
    let network =
        Network::start(NetworkConfig { mode, id: id.clone(), pods, cluster, services, tunnel })
            .await?;
    let ip = node.node_ip.or_else(|| address_towards_server(url)).unwrap_or(network.host_address());
    machine.ip = ip.to_string();
    let config = coracle_agent::Config {
        identity,
        machine,
        listen: SocketAddr::new(ip.into(), 0),
        tunnel: by_tunnel,
        data,
        hosts: host::config(folder, id)?,
        compile_command: host::compile_command(folder),
        ingress: host::ingress_settings(folder, &node.ingress, &network)?,
        network: network.clone(),
        images: images_config,
        host_paths: node.host_paths(),
    };
    Ok((coracle_agent::start(config).await?, network))
}

/// This machine's address on the way to the server; none if that is on this machine alone.
fn address_towards_server(server: &str) -> Option<Ipv4Addr> {
    let uri: http::Uri = server.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    let mut servers = (host, uri.port_u16().unwrap_or(443)).to_socket_addrs().ok()?;
    servers.find_map(address_towards)
}

/// This machine's address on the way to another; none if there is no way, or it does not leave this machine.
pub(crate) fn address_towards(other: SocketAddr) -> Option<Ipv4Addr> {
    // Sends nothing: the system only looks for the way.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    let own = socket.connect(other).and_then(|()| socket.local_addr()).ok()?;
    match own.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
        _ => None,
    }
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
        start(&args.server, args.token.as_deref(), &args.node, &folder, !args.no_tunnel).await?;
    println(format_args!("coracle agent is a node of {}", args.server));
    tokio::select! {
        () = agent.run() => Ok(()),
        result = server::signal() => result,
    }
}
