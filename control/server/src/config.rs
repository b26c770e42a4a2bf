//! What a server is started with, and why it could not start.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::auth::AuthError;

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for the store, certificates and the admin's kubeconfig.
    pub data: PathBuf,
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Addresses of Services: network and prefix length.
    pub service_network: (Ipv4Addr, u8),
    /// Ports of NodePort Services.
    pub node_ports: RangeInclusive<u16>,
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
            node_ports: 30000..=32767,
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
    Auth(#[from] AuthError),
    /// The first objects could not be written.
    #[error("creating the cluster's first objects failed: {0}")]
    Bootstrap(coracle_api::ApiError),
}
