//! `coracle server`: a control plane.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use jiff::SignedDuration;

use crate::authentication::AuthenticationArgs;
use crate::folder::Folder;
use crate::{agent, println, token};

/// Arguments of everything that starts a control plane.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct ServerArgs {
    /// Data folder [default: /var/lib/coracle for root, else the XDG data folder]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the API listens; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// Address under which other machines and Pods reach this one [default: that of --listen, or, where that is all of them,
    /// the one that the default route has]
    #[arg(long, value_name = "ADDR")]
    pub advertise_address: Option<Ipv4Addr>,
    /// Another address or name under which the server is reached, for its certificate; may be given several times
    #[arg(long = "tls-san", value_name = "NAME")]
    pub tls_sans: Vec<String>,
    /// Addresses of Pods, of which every node gets a part, chosen when the cluster first starts [default: a free private
    /// range of 262,144]
    #[arg(long, value_name = "CIDR")]
    pub pod_range: Option<coracle_network::Cidr>,
    /// Addresses of Services, chosen when the cluster first starts [default: a free private range of 65,536]
    #[arg(long, value_name = "CIDR")]
    pub service_range: Option<coracle_network::Cidr>,
    /// Addresses of LoadBalancer Services, which machines answer for on their networks: 192.168.7.240/28 or
    /// 192.168.7.240-192.168.7.250; may be given several times [default: none, so that such Services wait for another's]
    #[arg(long = "load-balancer-pool", value_name = "CIDR|RANGE", value_parser = pool)]
    pub load_balancer_pools: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Seconds that a node may be silent before it is taken for lost; nodes speak every 2.5 seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(3..=3600))]
    pub node_monitor_grace_period: u64,
    /// Lost nodes a second whose Pods are evicted, in each zone
    #[arg(long, value_name = "NODES", default_value_t = 0.1, value_parser = rate)]
    pub node_eviction_rate: f64,
    /// The same in a zone that has lost more nodes than --unhealthy-zone-threshold; none if it is small
    #[arg(long, value_name = "NODES", default_value_t = 0.01, value_parser = rate)]
    pub secondary_node_eviction_rate: f64,
    /// Share of lost nodes (three at least) from which on a zone is taken for unhealthy
    #[arg(long, value_name = "SHARE", default_value_t = 0.55, value_parser = rate)]
    pub unhealthy_zone_threshold: f64,
    /// Nodes up to which a zone is small
    #[arg(long, value_name = "NODES", default_value_t = 50)]
    pub large_cluster_size_threshold: usize,
    /// Seconds that Pods stay on a node that is not ready, unless they say otherwise
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(i64).range(0..))]
    pub default_not_ready_toleration_seconds: i64,
    /// Seconds that Pods stay on a node that is not heard of, unless they say otherwise
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(i64).range(0..))]
    pub default_unreachable_toleration_seconds: i64,
    /// How long certificates last that the cluster gives nodes and others, and its own; nodes and the server renew theirs in
    /// time
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = token::parse_duration)]
    pub cluster_signing_duration: SignedDuration,
    /// Requests that only read of which so many are served at once; together with --max-mutating-requests-inflight they are
    /// parted among priority levels. Watches, and members of system:masters, are not counted
    #[arg(long, value_name = "REQUESTS", default_value_t = 2000)]
    pub max_requests_inflight: u32,
    /// The same of requests that write
    #[arg(long, value_name = "REQUESTS", default_value_t = 1000)]
    pub max_mutating_requests_inflight: u32,
    /// File to which is written who asked for what; - is standard output [default: it is not written]
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Policy that says what is written there [default: of every request that it happened, and who did it]
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// Days that old audit logs are kept; 0: for ever
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub audit_log_maxage: u32,
    /// Old audit logs that are kept; 0: all
    #[arg(long, value_name = "FILES", default_value_t = 0)]
    pub audit_log_maxbackup: u32,
    /// Megabytes from which on the audit log is set aside and a new one begun; 0: never
    #[arg(long, value_name = "MEGABYTES", default_value_t = 100)]
    pub audit_log_maxsize: u32,
    #[command(flatten)]
    pub authentication: AuthenticationArgs,
    /// What is encrypted in the store and how: an EncryptionConfiguration of apiserver.config.k8s.io/v1 [default: Secrets, with a
    /// key that is made at the first start: encryption.yaml in the data folder]
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Take over changes of that file while the server runs (those of the default one always are)
    #[arg(long, requires = "encryption_provider_config")]
    pub encryption_provider_config_automatic_reload: bool,
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

/// First and last of a pool's addresses.
fn pool(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let range = match text.split_once('-') {
        Some((first, last)) => first.parse().ok().zip(last.parse().ok()),
        None => text.parse::<coracle_network::Cidr>().ok().and_then(|range| {
            let last = u32::try_from(range.size() - 1).ok()?;
            Some((range.base(), range.nth(last)?))
        }),
    };
    range.filter(|(first, last)| first <= last).ok_or_else(|| {
        "write it as ADDRESS/PREFIX, for example 192.168.7.240/28, or as FIRST-LAST, for example \
         192.168.7.240-192.168.7.250"
            .to_owned()
    })
}

/// Starts the control plane over a folder that the caller has claimed.
pub(crate) async fn start(
    args: &ServerArgs,
    folder: &Folder,
) -> anyhow::Result<coracle_server::Server> {
    let network = folder.network(args.pod_range, args.service_range)?;
    let services: coracle_network::Cidr = network.service_range.parse()?;
    let pods: coracle_network::Cidr = network.pod_range.parse()?;
    let mut config = coracle_server::Config::new(folder.path());
    config.listen = args.listen;
    config.service_network = (services.base(), services.prefix());
    config.pod_network = (pods.base(), pods.prefix());
    config.cluster_id = network.cluster_id;
    // Where Pods reach this machine: none where they have its loopback addresses.
    config.gateway = if services.base().is_loopback() { None } else { pods.nth(1) };
    config.advertise = advertised(args);
    config.load_balancer_pool.clone_from(&args.load_balancer_pools);
    config.nodes.grace = Duration::from_secs(args.node_monitor_grace_period);
    config.nodes.eviction_rate = args.node_eviction_rate;
    config.nodes.secondary_eviction_rate = args.secondary_node_eviction_rate;
    config.nodes.unhealthy_zone = args.unhealthy_zone_threshold;
    config.nodes.large_zone = args.large_cluster_size_threshold;
    config.toleration_seconds =
        [args.default_not_ready_toleration_seconds, args.default_unreachable_toleration_seconds];
    config.signing_duration = args.cluster_signing_duration.unsigned_abs();
    for name in &args.tls_sans {
        match name.parse() {
            Ok(address) => config.addresses.push(address),
            Err(_) => config.names.push(name.clone()),
        }
    }
    config.max_requests =
        u64::from(args.max_requests_inflight) + u64::from(args.max_mutating_requests_inflight);
    config.audit_log = args.audit_log_path.clone().map(|path| coracle_server::LogOptions {
        path,
        max_age: args.audit_log_maxage,
        max_backups: args.audit_log_maxbackup,
        max_size: args.audit_log_maxsize,
    });
    config.audit_policy.clone_from(&args.audit_policy_file);
    config.authentication = args.authentication.options();
    config.encryption.clone_from(&args.encryption_provider_config);
    config.encryption_reloads = args.encryption_provider_config_automatic_reload;
    config.scheduler = !args.no_scheduler;
    config.controllers = !args.no_controllers;
    Ok(coracle_server::start(config).await?)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().map_err(|error| error.to_string())?;
    if rate.is_finite() && rate >= 0.0 { Ok(rate) } else { Err("not zero or more".into()) }
}

/// The address under which other machines reach this one; none if they do not.
pub(crate) fn advertised(args: &ServerArgs) -> Option<Ipv4Addr> {
    args.advertise_address.or_else(|| match args.listen.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => None,
        IpAddr::V4(ip) if !ip.is_unspecified() => Some(ip),
        // Nobody has this address (RFC 5737): the way to it is that to the world outside.
        _ => agent::address_towards(SocketAddr::from(([192, 0, 2, 1], 443))),
    })
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
