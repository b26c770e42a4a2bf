//! Where images come from: the registry built into the cluster, and every other one.
//!
//! A name may be found in several [`Place`]s, which are asked in turn: mirrors before the registry they stand in for, and
//! for a name without a host the cluster's own registry before the default one. A place is asked through a [`Session`]
//! per credential, so that what one Pod's credential opened is never served to another by way of a shared token.

mod auth;
pub mod builtin;
mod clients;
mod session;

use std::sync::Arc;

use super::credentials::{Credential, Keyring};
use super::reference::ImageName;
use super::settings::{Endpoint, Settings};

pub use builtin::Builtin;
use clients::Clients;
pub use session::{BlobAnswer, RegistryError, Session};

/// All registries that a node reaches.
pub struct Registries {
    cluster: kube::Client,
    settings: Arc<Settings>,
    /// Where names without a host are looked up after the cluster's own registry.
    default: Option<String>,
    clients: Arc<Clients>,
}

/// One place where an image may be.
#[derive(Debug, Clone)]
pub struct Place {
    /// What the image is called there, whichever mirror answers: what access to it is remembered by.
    pub name: ImageName,
    /// The host that is asked; none for the cluster's own registry.
    endpoint: Option<Endpoint>,
}

impl Place {
    /// For people.
    pub fn title(&self) -> &str {
        match &self.endpoint {
            Some(endpoint) => match endpoint.stands_for {
                None => self.name.host.as_deref().unwrap_or(&endpoint.authority),
                Some(_) => &endpoint.authority,
            },
            None => "the cluster's registry",
        }
    }

    /// Whether it is the cluster's own registry.
    pub fn is_cluster(&self) -> bool {
        self.endpoint.is_none()
    }

    /// What the image is called at the host that is asked.
    fn asked(&self) -> ImageName {
        match &self.endpoint {
            Some(Endpoint { stands_for: Some(_), authority, repository, .. }) => ImageName {
                host: Some(authority.clone()),
                repository: repository.clone(),
                ..self.name.clone()
            },
            _ => self.name.clone(),
        }
    }
}

/// In whose name a registry is asked.
#[derive(Debug, Clone)]
pub enum Who {
    /// Nobody's.
    Anyone,
    /// The node's: by its certificate, or by `registries.yaml`.
    Node,
    /// A Pod's, by one of its Secrets.
    Secret {
        /// The Secret.
        name: String,
        /// What it holds.
        credential: Credential,
    },
}

impl Registries {
    /// The built-in registry is reached through `cluster`.
    pub fn new(cluster: kube::Client, settings: Settings, default: Option<String>) -> Self {
        let settings = Arc::new(settings);
        Self { cluster, clients: Arc::new(Clients::new(settings.clone())), settings, default }
    }

    /// Where `name` may be found, in the order to ask.
    pub fn places(&self, name: &ImageName) -> Vec<Place> {
        let mut places = Vec::new();
        let host = match &name.host {
            Some(host) => host,
            None => {
                places.push(Place { name: name.clone(), endpoint: None });
                let Some(default) = &self.default else { return places };
                default
            }
        };
        let name = name.at(host);
        let host = name.host.as_deref().unwrap_or_default();
        for endpoint in self.settings.endpoints(host, &name.repository) {
            places.push(Place { name: name.clone(), endpoint: Some(endpoint) });
        }
        places
    }

    /// How to ask a place: with each of the Pod's credentials that fit the host that is asked, else with the node's, else
    /// with none.
    pub fn sessions(&self, place: &Place, keyring: &Keyring) -> Vec<(Who, Session)> {
        let Some(endpoint) = &place.endpoint else {
            let session = Session::cluster(self.cluster.clone(), &place.name.repository);
            return vec![(Who::Node, session)];
        };
        let open = |credential: Option<Credential>| {
            Session::remote(self.clients.clone(), endpoint.clone(), credential)
        };
        let asked = place.asked();
        let own: Vec<(Who, Session)> = keyring
            .lookup(&asked)
            .into_iter()
            .map(|entry| {
                let credential = entry.credential.clone();
                let session = open(Some(credential.clone()));
                (Who::Secret { name: entry.secret.clone(), credential }, session)
            })
            .collect();
        if !own.is_empty() {
            return own;
        }
        match self.settings.credential(&endpoint.authority) {
            Some(credential) => vec![(Who::Node, open(Some(credential)))],
            None => vec![(Who::Anyone, open(None))],
        }
    }
}

/// An error with its causes, which clients keep apart.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
