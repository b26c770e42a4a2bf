//! `coracle agent`: this machine as a node.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_agent::images;
use coracle_agent::images::reference::ImageName;
use coracle_agent::join::{self, Joined, Token};
use coracle_agent::pod::volumes::HostPaths;
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
    #[command(flatten)]
    pub images: ImageArgs,
    /// Folder of this machine that Pods may mount by hostPath, with all in it; may be given several times. Without it,
    /// all that this user may
    #[arg(long = "allow-host-path", value_name = "FOLDER")]
    pub allow_host_paths: Vec<PathBuf>,
    /// No Pod may mount anything by hostPath
    #[arg(long, conflicts_with = "allow_host_paths")]
    pub no_host_path: bool,
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
    // What cannot be read is said before anything is started.
    let images_config = node.images.config(folder)?;
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
        hosts: host::config(folder, facts.cluster_id.clone())?,
        compile_command: host::compile_command(folder),
        network: network.clone(),
        pod_range: facts.pod_range,
        max_pods: node.max_pods,
        images: images_config,
        host_paths: node.host_paths(),
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
