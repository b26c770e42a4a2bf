//! One API server behind this one: where it is, how it is trusted, and what it serves.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_api::Object;
use coracle_api::json::Json as _;
use coracle_api::kinds;
use http::Uri;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use serde_json::Value;

use super::check::Found;
use super::front_proxy::Identification;
use crate::http::Outward;
use crate::reach::Reach;
use crate::registry::roots;
use crate::tls;

/// Connections that are kept to one while nobody uses them, and for how long.
const IDLE_CONNECTIONS: usize = 16;
const IDLE: Duration = Duration::from_secs(90);

/// What is known of one of them at a time.
#[derive(Clone)]
pub(crate) struct Remote {
    /// The APIService's.
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) group_priority: i64,
    pub(crate) version_priority: i64,
    pub(super) uid: String,
    /// Namespace, name and port of the Service.
    pub(super) service: (String, String, u16),
    trust: Trust,
    /// The ways to it, or why there is none.
    clients: Result<Clients, String>,
    /// As the APIService says, which is what clients are told.
    pub(crate) available: bool,
    /// What it serves, since it was first asked: its `APIResourceList`'s `resources`.
    pub(crate) resources: Option<Arc<Vec<Value>>>,
    /// What its OpenAPI document of the group and version is known by; none if it has no such document.
    pub(crate) openapi: Option<String>,
}

/// Whom it must be.
#[derive(Clone, PartialEq, Eq)]
struct Trust {
    bundle: String,
    insecure: bool,
}

#[derive(Clone)]
struct Clients {
    any: Outward,
    upgrading: Outward,
}

impl Remote {
    /// What an APIService says; none if this server answers itself. The core group and that of APIServices are its own always.
    pub(super) fn read(
        api: &Object,
        known: Option<&Remote>,
        reach: &Reach,
        shown: &Identification,
    ) -> Option<Self> {
        let tree = api.value();
        let spec = tree.at(&["spec"])?;
        let service = spec.at(&["service"])?;
        let (group, version) = (spec.text(&["group"]), spec.text(&["version"]));
        if group.is_empty() || group == kinds::API_SERVICE.group {
            return None;
        }
        let port = service.int(&["port"]).and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        let (namespace, name) = (service.text(&["namespace"]), service.text(&["name"]));
        let service = (namespace.to_owned(), name.to_owned(), port);
        let insecure = spec.flag(&["insecureSkipTLSVerify"]);
        let trust = Trust { bundle: spec.text(&["caBundle"]).to_owned(), insecure };
        let conditions = tree.list(&["status", "conditions"]);
        let available = conditions.iter().find(|c| c.text(&["type"]) == "Available");
        let said = available
            .is_some_and(|c| c.text(&["status"]) == "True" && c.text(&["reason"]) != "Local");
        let same = known.filter(|known| {
            known.uid == api.meta.uid && known.service == service && known.trust == trust
        });
        let clients = match same {
            Some(known) => known.clients.clone(),
            None => Clients::new(&trust, reach, shown),
        };
        Some(Self {
            name: api.meta.name.clone(),
            group: group.to_owned(),
            version: version.to_owned(),
            group_priority: spec.int(&["groupPriorityMinimum"]).unwrap_or(0),
            version_priority: spec.int(&["versionPriority"]).unwrap_or(0),
            uid: api.meta.uid.clone(),
            service,
            trust,
            clients,
            available: same.map_or(said, |known| known.available),
            resources: same.and_then(|known| known.resources.clone()),
            openapi: same.and_then(|known| known.openapi.clone()),
        })
    }

    /// Whether what was found out about the one holds for the other.
    pub(super) fn is_like(&self, other: &Remote) -> bool {
        self.uid == other.uid && self.service == other.service && self.trust == other.trust
    }

    pub(super) fn with(&self, found: Found) -> Self {
        let mut remote = self.clone();
        remote.available = found.available();
        if let Some(resources) = found.resources {
            remote.resources = Some(resources);
            remote.openapi = found.openapi;
        }
        remote
    }

    /// Its Service's port, with a path and query.
    ///
    /// # Errors
    /// If that makes no URI.
    pub(crate) fn uri(&self, path_and_query: &str) -> Result<Uri, String> {
        let (namespace, name, port) = &self.service;
        let uri = format!("https://{name}.{namespace}.svc:{port}{path_and_query}");
        uri.parse::<Uri>().map_err(|error| format!("{uri}: {error}"))
    }

    /// Calls it; connections that are to be upgraded are the second's.
    ///
    /// # Errors
    /// Why it cannot be called.
    pub(crate) fn clients(&self) -> Result<(&Outward, &Outward), String> {
        self.clients.as_ref().map(|it| (&it.any, &it.upgrading)).map_err(Clone::clone)
    }
}

impl Clients {
    fn new(trust: &Trust, reach: &Reach, shown: &Identification) -> Result<Self, String> {
        let config = ClientConfig::builder();
        let config = if trust.insecure {
            config.dangerous().with_custom_certificate_verifier(tls::anybody())
        } else {
            let bundle = STANDARD.decode(&trust.bundle);
            let bundle =
                bundle.map_err(|error| format!("unable to load root certificates: {error}"))?;
            config.with_root_certificates(roots(&bundle)?)
        };
        let config = config
            .with_client_auth_cert(shown.chain.clone(), shown.key.clone_key())
            .map_err(|error| error.to_string())?;
        let builder = || HttpsConnectorBuilder::new().with_tls_config(config.clone()).https_only();
        let client = |https| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .build(https)
        };
        Ok(Self {
            any: client(builder().enable_all_versions().wrap_connector(reach.clone())),
            upgrading: client(builder().enable_http1().wrap_connector(reach.clone())),
        })
    }
}
