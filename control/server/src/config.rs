//! What a server is started with, and why it could not start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::audit::{AuditError, LogOptions};
use crate::auth::{AuthenticationError, AuthenticationOptions, PkiError};
use crate::encryption::EncryptionError;

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for the store, certificates and the admin's kubeconfig.
    pub data: PathBuf,
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Addresses of Services: network and prefix length.
    pub service_network: (Ipv4Addr, u8),
    /// Addresses of Pods, of which every node gets a part: network and prefix length.
    pub pod_network: (Ipv4Addr, u8),
    /// Tells clusters on one machine apart; told to nodes that join.
    pub cluster_id: String,
    /// This machine's address towards Pods, where they have a network of their own: the API is served to them there, and
    /// to nobody else, on the same port. It need not exist yet.
    pub gateway: Option<Ipv4Addr>,
    /// The address under which others reach this machine, where it listens at all of its addresses.
    pub advertise: Option<Ipv4Addr>,
    /// More addresses under which the server is reached, for its certificate.
    pub addresses: Vec<IpAddr>,
    /// More names under which the server is reached, for its certificate.
    pub names: Vec<String>,
    /// Ports of NodePort Services.
    pub node_ports: RangeInclusive<u16>,
    /// How patient the control plane is with nodes that are silent.
    pub nodes: coracle_controllers::NodeLifecycle,
    /// Seconds that Pods stay, unless they say otherwise, on a node that is not ready, and on one that is unreachable.
    pub toleration_seconds: [i64; 2],
    /// Addresses of LoadBalancer Services: first and last of each range.
    pub load_balancer_pool: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// How long certificates last that are signed, and the server's own.
    pub signing_duration: Duration,
    /// Requests that are served at once, watches and members of `system:masters` aside; others wait for their turn.
    pub max_requests: u64,
    /// The audit log, if there is to be one.
    pub audit_log: Option<LogOptions>,
    /// A file that says what is written there; none: of every request that it happened and who did it.
    pub audit_policy: Option<PathBuf>,
    /// Who else is known than whom the cluster knows itself.
    pub authentication: AuthenticationOptions,
    /// A file that says what is encrypted in the store, and how; none: Secrets, with a key in the data folder.
    pub encryption: Option<PathBuf>,
    /// Whether changes of that file are taken over; those of the one in the data folder always are.
    pub encryption_reloads: bool,
    /// Run the controllers in this process.
    pub controllers: bool,
    /// Run the scheduler in this process.
    pub scheduler: bool,
    /// How the store behaves.
    pub store: coracle_store::Options,
}

impl Config {
    /// Defaults for a data folder: loopback, any port, Kubernetes' usual ranges.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            service_network: (Ipv4Addr::new(10, 96, 0, 0), 16),
            pod_network: (Ipv4Addr::new(10, 244, 0, 0), 16),
            cluster_id: "coracle".to_owned(),
            gateway: None,
            advertise: None,
            addresses: Vec::new(),
            names: Vec::new(),
            node_ports: 30000..=32767,
            nodes: coracle_controllers::NodeLifecycle::default(),
            toleration_seconds: coracle_api::pod::TOLERATION_SECONDS,
            load_balancer_pool: Vec::new(),
            signing_duration: Duration::from_secs(365 * 24 * 3600),
            max_requests: 3000,
            audit_log: None,
            audit_policy: None,
            authentication: AuthenticationOptions::default(),
            encryption: None,
            encryption_reloads: false,
            controllers: true,
            scheduler: true,
            store: coracle_store::Options::default(),
        }
    }
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] coracle_store::OpenError),
    /// The store cannot be read.
    #[error("loading the cluster failed: {0}")]
    Load(#[from] coracle_store::ReadError),
    /// The address cannot be used.
    #[error("cannot listen on {address}: {source}: choose another address or port with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// TLS with them.
    #[error(
        "the certificates in the data folder cannot be used: {0}: remove pki/ to make them anew"
    )]
    Tls(String),
    /// The image registry.
    #[error(transparent)]
    Images(#[from] crate::distribution::OpenError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Who else is known.
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
    /// What is encrypted, and how.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// The first objects could not be written.
    #[error("creating the cluster's first objects failed: {0}")]
    Bootstrap(coracle_api::ApiError),
}
