//! TLS, connections, start and stop.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use coracle_store::Store;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::aggregation::{self, Aggregator, Identification};
use crate::audit::Audit;
use crate::auth::external::External;
use crate::auth::legacy_tokens::LegacyTokens;
use crate::auth::pki::{self, ServingNames};
use crate::auth::signer::Signer;
use crate::auth::{self, Auth, NetworkFacts};
use crate::cache::Cache;
use crate::config::{Config, StartError};
use crate::distribution;
use crate::encryption::{self, Encryption};
use crate::flow::Flow;
use crate::http::{App, Kubelets, Metrics, proxy_client, router};
use crate::pods::{self, Pods};
use crate::reach::Reach;
use crate::registry::{Clients, Registry, ServiceRanges};
use crate::{bootstrap, driver, events, recorder, scheduling, tls};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long somebody may keep a connection who has shown nothing by which it is known.
const STRANGER: Duration = Duration::from_secs(60);
/// How long requests may still take once the server is stopping.
const DRAIN: Duration = Duration::from_secs(3);
/// How soon certificates are tried again that could not be made.
const RETRY: Duration = Duration::from_secs(60);
/// How often certificates are looked at, at least.
const LOOK: Duration = Duration::from_secs(3600);
/// Ports that are tried at most, where any will do.
const TRIES: u32 = 16;
/// Streams that one HTTP/2 connection may have open.
const STREAMS: u32 = 1000;

/// The client's certificate, verified by TLS; a request extension.
#[derive(Clone)]
pub(crate) struct PeerCertificate(pub(crate) Option<CertificateDer<'static>>);

/// Whether somebody has shown who it is on this connection; a request extension.
#[derive(Clone, Default)]
pub(crate) struct Known(Arc<AtomicBool>);

impl Known {
    /// Somebody has.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns once a stranger has been here for long enough; for others, never.
    async fn outstayed(&self) {
        tokio::time::sleep(STRANGER).await;
        if self.0.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

/// Where a request comes from; a request extension.
#[derive(Clone)]
pub(crate) struct PeerAddress(pub(crate) IpAddr);

/// A running server.
pub struct Server {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    pub(crate) app: App,
}

/// Takes the port, at both addresses where there is one for Pods.
async fn listen(config: &Config) -> Result<(TcpListener, SocketAddr, Option<Pods>), StartError> {
    let failed = |source| StartError::Listen { address: config.listen, source };
    let mut tries = TRIES;
    loop {
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let gateway = config.gateway;
        let pods = gateway.map(|gateway| Pods::listen(gateway, config.pod_network, addr));
        match pods.transpose() {
            // Which port it is, nobody has said: what is free at one address may be taken at the other.
            Err(StartError::Listen { source, .. })
                if source.kind() == ErrorKind::AddrInUse
                    && config.listen.port() == 0
                    && tries > 0 =>
            {
                tries -= 1;
            }
            pods => return Ok((listener, addr, pods?.flatten())),
        }
    }
}

/// Starts a server; returns once `/readyz` answers `ok`.
pub async fn start(config: Config) -> Result<Server, StartError> {
    let (listener, addr, pods) = listen(&config).await?;
    let audit = match config.audit_log.clone() {
        Some(log) => Audit::open(log, config.audit_policy.as_deref())?,
        None => Audit::default(),
    };
    let path = config.data.join("store.redb");
    let options = config.store.clone();
    let opening = tokio::task::spawn_blocking(move || Store::open(path, options));
    let store = match opening.await {
        Ok(store) => store?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    let (network, prefix) = config.service_network;
    let ranges = ServiceRanges { network, prefix, node_ports: config.node_ports.clone() };
    let (pod_network, pod_prefix) = config.pod_network;
    let facts = NetworkFacts {
        cluster_id: config.cluster_id.clone(),
        pod_range: format!("{pod_network}/{pod_prefix}"),
        service_range: format!("{network}/{prefix}"),
    };
    let lifetime = config.signing_duration.as_secs();
    let auth = Auth::open(&config.data, &names(addr, &config, ranges.first()), facts, lifetime)?;
    let encryption =
        Encryption::open(&config.data, config.encryption.as_deref(), config.encryption_reloads)?;
    let cache = Cache::load(&store, encryption.clone()).await?;
    if let Some(error) = cache.unreadable().first().and_then(|why| encryption.withdraw(why)) {
        store.close().await;
        return Err(error.into());
    }
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(cache.clone().follow(store.clone()));

    let reach = Reach::new(cache.clone(), config.pod_network);
    let registry = Registry::new(store.clone(), cache, reach, ranges, config.toleration_seconds);
    let external = External::open(&config.authentication, Clients::new(registry.reach.clone()))?;
    tasks.spawn(external.clone().run());
    let kubelets = Kubelets::new(tls::kubelet_client(auth.pki())?, registry.cache.clone());
    registry.reach.through(kubelets.clone());
    let shown_to_others = Identification::of(auth.pki())?;
    let aggregator =
        Aggregator::new(registry.cache.clone(), registry.reach.clone(), shown_to_others);
    let app = App {
        registry: registry.clone(),
        auth: auth.clone(),
        external,
        images: distribution::Registry::open(&config.data.join("registry"))?,
        kubelets,
        aggregator: aggregator.clone(),
        outward: proxy_client(registry.reach.clone()),
        metrics: Metrics::default(),
        flow: Flow::new(config.max_requests),
        audit,
        ready: Arc::new(AtomicBool::new(false)),
        components: [("scheduler", config.scheduler), ("controller-manager", config.controllers)]
            .into_iter()
            .filter_map(|(name, runs)| runs.then_some(name))
            .collect(),
        shutdown: stopping.clone(),
    };
    let (shown, tls) = watch::channel(tls::server(auth.pki())?);
    let router = router(app.clone());
    let accepting = tokio::spawn(accept(listener, pods, tls, router, stopping.clone()));

    let advertised = pods::advertised(addr, config.advertise.or(config.gateway));
    bootstrap::bootstrap(&registry, advertised).await.map_err(StartError::Bootstrap)?;
    tasks.spawn(app.flow.clone().follow(registry.cache.clone()));
    tasks.spawn(events::expire(registry.clone()));
    tasks.spawn(encryption::follow(registry.clone()));
    let kubeconfig = (config.data.join("admin.kubeconfig"), format!("https://{}", reachable(addr)));
    pki::write(&kubeconfig.0, &auth.pki().kubeconfig(&kubeconfig.1)?)?;
    tasks.spawn(renew(app.clone(), shown, kubeconfig));
    let (recorder, recording) = recorder::new(registry.clone());
    tasks.spawn(recording);
    if config.controllers {
        let mut controllers = coracle_controllers::with(config.nodes);
        let pem = auth.pki().ca_pem().to_owned();
        controllers.push(Box::new(coracle_controllers::RootCaPublisher { pem }));
        controllers.push(Box::new(coracle_controllers::CertificateApprover {
            may: auth::may_request,
            ca: auth.pki().ca().to_vec(),
        }));
        controllers.push(Box::new(Signer { auth: auth.clone(), seconds: lifetime }));
        controllers.push(Box::new(coracle_controllers::ExtensionAuthentication {
            data: aggregation::authentication(auth.pki())?,
        }));
        controllers.push(Box::new(coracle_controllers::ApiServiceRegistration {
            built_in: bootstrap::api_services(),
        }));
        controllers.push(Box::new(LegacyTokens { auth: auth.clone() }));
        controllers.push(Box::new(coracle_controllers::NodeIpam { range: config.pod_network }));
        let pool = config.load_balancer_pool.clone();
        controllers.push(Box::new(coracle_controllers::LoadBalancerController { pool }));
        tasks.spawn(aggregation::empty(aggregator.clone(), registry.clone()));
        tasks.spawn(driver::run(controllers, registry.clone(), recorder.clone(), stopping.clone()));
    }
    if config.scheduler {
        tasks.spawn(scheduling::run(registry.clone(), recorder, stopping));
    }
    tasks.spawn(bootstrap::ensure_api_services(registry.clone()));
    tasks.spawn(aggregation::follow(aggregator, registry.clone()));
    app.ready.store(true, Ordering::Release);

    let serving = tokio::spawn(async move {
        let _ = accepting.await;
        tasks.shutdown().await;
        store.close().await;
    });
    Ok(Server { addr, stop, serving, app })
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL that clients on this machine use.
    pub fn url(&self) -> String {
        format!("https://{}", reachable(self.addr))
    }

    /// A token with which a node in this process joins, until [`Server::end_local_token`]; it is written nowhere.
    pub fn local_token(&self) -> String {
        self.app.auth.local_token()
    }

    /// Ends it.
    pub fn end_local_token(&self) {
        self.app.auth.end_local_token();
    }

    /// Asks it to stop: watches end, requests finish.
    pub fn shutdown(&self) {
        self.stop.send_replace(true);
    }

    /// Returns once it has stopped and released the store.
    pub async fn join(self) {
        let _ = self.serving.await;
    }
}

/// The address in kubeconfigs: loopback for one that means all.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        ip if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], addr.port())),
        _ => addr,
    }
}

fn names(addr: SocketAddr, config: &Config, service: Ipv4Addr) -> ServingNames {
    let dns = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let mut ips = vec![IpAddr::from([127, 0, 0, 1]), service.into()];
    let gateway = config.gateway.map(IpAddr::from);
    let advertise = config.advertise.map(IpAddr::from);
    let more = [addr.ip()].into_iter().chain(gateway).chain(advertise);
    for ip in more.chain(config.addresses.iter().copied()) {
        if !ip.is_unspecified() && !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    let dns = dns.map(str::to_owned).into_iter().chain(config.names.iter().cloned()).collect();
    ServingNames { dns, ips }
}

/// Makes the server's own certificates anew in time, for ever: what is accepted and called from then on is shown the new
/// ones, what is under way goes on.
async fn renew(
    app: App,
    shown: watch::Sender<Arc<rustls::ServerConfig>>,
    (path, url): (PathBuf, String),
) {
    let pki = app.auth.pki();
    let apply = || {
        shown.send_replace(tls::server(pki)?);
        app.kubelets.renew(tls::kubelet_client(pki)?);
        app.aggregator.renew(Identification::of(pki)?);
        pki::write(&path, &pki.kubeconfig(&url)?)?;
        Ok::<_, StartError>(())
    };
    let mut due = None;
    loop {
        let renewed = pki.renew().map_err(StartError::from).and_then(|now_due| {
            // At first all is as it was started with.
            if due.is_some_and(|due| due != now_due) {
                apply()?;
            }
            due = Some(now_due);
            Ok(Duration::try_from(now_due.duration_since(Timestamp::now())).unwrap_or_default())
        });
        let left = renewed.unwrap_or_else(|error| {
            tracing::error!(%error, "the server's certificates cannot be made anew; trying again");
            RETRY
        });
        // The clock may be set meanwhile.
        tokio::time::sleep(left.clamp(Duration::from_secs(1), LOOK)).await;
    }
}

async fn accept(
    listener: TcpListener,
    pods: Option<Pods>,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let closing = stopping.clone();
    loop {
        let accepted = async {
            tokio::select! {
                accepted = listener.accept() => accepted,
                accepted = pods::accept(pods.as_ref()) => accepted,
            }
        };
        tokio::select! {
            accepted = accepted => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(
                        stream,
                        TlsAcceptor::from(tls.borrow().clone()),
                        router.clone(),
                        closing.clone(),
                    ));
                }
                // Of that one connection; or out of descriptors, which passes.
                Err(error) => {
                    if error.kind() != ErrorKind::ConnectionAborted {
                        tracing::warn!(%error, "accepting a connection failed");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = stopped(&mut stopping) => break,
        }
    }
    drop((listener, pods));
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        connections.shutdown().await;
    }
}

/// Returns once the server is to stop.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server is gone: the same.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    // Latency matters more than packets.
    let _ = stream.set_nodelay(true);
    let address = stream.peer_addr().ok().map(|address| PeerAddress(address.ip()));
    let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        return;
    };
    let peer = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = PeerCertificate(peer.map(|certificate| certificate.clone().into_owned()));
    let known = Known::default();
    if peer.0.is_some() {
        known.set();
    }
    let told = known.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(told.clone());
        address.clone().map(|address| request.extensions_mut().insert(address));
        let router = router.clone();
        async move {
            let answer = router.oneshot(request.map(axum::body::Body::new)).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30))
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(%error, "connection ended");
            }
        }
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
        () = known.outstayed() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(DRAIN, connection).await;
        }
    }
}
