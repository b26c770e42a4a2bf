//! HTTP: one gate that reads, authenticates and authorizes a request, then one file per concern.
//!
//! Paths of resources are not routes: [`RequestInfo`] reads them once, for authorization and for [`resource`] alike, and
//! the table of kinds says what exists. Next step of the apply trace: [`crate::registry`].

mod accept;
mod aggregated;
mod answer;
mod apply;
mod body;
mod components;
mod connect;
mod delete;
mod discovery;
mod eviction;
mod forward;
mod gzip;
mod health;
mod impersonate;
mod join;
mod limits;
mod logs;
mod metrics;
mod openapi;
mod openid;
mod other_versions;
mod proxy;
mod read;
mod render;
mod request;
mod reviews;
mod subresources;
mod tunnel;
mod usage;
mod watch;
mod write;
mod yaml;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Extension, Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use coracle_api::metrics::PATH;
use coracle_api::{ApiError, Kind, kinds};
use http::request::Parts;
use http::{HeaderValue, Uri, header};
use tokio::sync::watch as channel;

pub(crate) use answer::{Answer, Failure};
pub(crate) use forward::Outward;
pub(crate) use logs::Kubelets;
pub(crate) use metrics::Metrics;
#[cfg(test)]
pub(crate) use other_versions::ALL as OTHER_VERSIONS;
pub(crate) use proxy::client as proxy_client;
use render::Render;
pub(crate) use request::RequestInfo;
use request::not_found_here;

use crate::aggregation::Aggregator;
use crate::audit::Audit;
use crate::auth::external::External;
use crate::auth::{Attributes, Auth, Identity, node};
use crate::distribution;
use crate::flow::{self, Flow};
use crate::registry::{Caller, Part, Registry};
use crate::serve::{Known, PeerCertificate};

/// Groups and versions of which this server has APIServices: all but the one that these belong to.
pub(crate) fn served_groups() -> Vec<(&'static str, &'static str)> {
    let mut all = discovery::groups(&crate::custom::Table::default());
    all.retain(|(group, _)| *group != kinds::API_SERVICE.group);
    all
}

/// What handlers need; clones share it.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) registry: Registry,
    pub(crate) auth: Auth,
    pub(crate) external: External,
    pub(crate) images: distribution::Registry,
    pub(crate) kubelets: Kubelets,
    pub(crate) aggregator: Aggregator,
    /// Calls Pods and Services.
    pub(crate) outward: Outward,
    pub(crate) metrics: Metrics,
    pub(crate) flow: Flow,
    pub(crate) audit: Audit,
    pub(crate) ready: Arc<AtomicBool>,
    /// What runs in this process beside the API.
    pub(crate) components: Vec<&'static str>,
    pub(crate) shutdown: channel::Receiver<bool>,
}

impl App {
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

/// Everything that is served.
pub(crate) fn router(app: App) -> Router {
    let gated = Router::new()
        .route("/version", get(async || health::version()))
        // As the Python client asks.
        .route("/version/", get(async || health::version()))
        .route("/metrics", get(own_metrics))
        .route("/metrics/slis", get(async |State(app): State<App>| metrics::health(&app)))
        .route("/.well-known/openid-configuration", get(async || openid::discovery()))
        .route("/openid/v1/jwks", get(async |State(app): State<App>| openid::keys(&app)))
        .route("/livez/{check}", get(async |s, c, uri| check(s, c, uri, "livez")))
        .route("/readyz/{check}", get(async |s, c, uri| check(s, c, uri, "readyz")))
        .route("/healthz/{check}", get(async |s, c, uri| check(s, c, uri, "healthz")))
        .route("/coracle/v1/join", get(join::facts))
        .route(coracle_api::tunnel::PATH, get(tunnel::open))
        .route(PATH, post(usage::tell).layer(DefaultBodyLimit::max(usage::LIMIT)))
        .fallback(api)
        .with_state(app.clone())
        .merge(distribution::router(app.images.clone()))
        .layer(middleware::from_fn_with_state(app.clone(), gate));
    // Health has no caller to know.
    Router::new()
        .route("/livez", get(async |s, uri| healthy(s, uri, "livez")))
        .route("/readyz", get(async |s, uri| healthy(s, uri, "readyz")))
        .route("/healthz", get(async |s, uri| healthy(s, uri, "healthz")))
        .fallback_service(gated)
        .with_state(app)
}

fn query_of(uri: &Uri) -> request::Query {
    RequestInfo::parse(&http::Method::GET, uri).query
}

fn healthy(State(app): State<App>, uri: Uri, name: &'static str) -> Response {
    health::report(&app, &query_of(&uri), name)
}

/// One check alone.
fn check(
    State(app): State<App>,
    Path(check): Path<String>,
    uri: Uri,
    name: &'static str,
) -> Response {
    let one = health::one(&app, &query_of(&uri), name, &check);
    one.unwrap_or_else(|| Failure(not_found_here()).into_response())
}

async fn own_metrics(State(app): State<App>) -> Response {
    metrics::get(&app.metrics, &app.registry, &app.flow).await
}

/// Who asks, and may they?
async fn gate(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut info = RequestInfo::parse(request.method(), request.uri());
    if info.may_be_custom() {
        // Of a cache that does not follow, the request itself will tell.
        let _ = app.registry.catch_up().await;
        info.resolve(app.registry.cache.definitions());
    }
    let info = Arc::new(info);
    let timed = app.metrics.begin(&info);
    let in_protobuf = accept::prefers_protobuf(request.headers());
    let in_gzip = gzip::is_wanted(&info, request.headers());
    let (mut parts, body) = request.into_parts();
    let who = authenticate(&app, &parts).await;
    if let (Ok(_), Some(known)) = (&who, parts.extensions.get::<Known>()) {
        known.set();
    }
    let acting = who.clone().and_then(|who| {
        impersonate::impersonated(&app.auth, &app.registry.cache.read(), who, &parts.headers)
    });
    let mut audited = app.audit.begin(
        &parts,
        &info,
        who.as_ref().ok().map(|who| (who, acting.as_ref().unwrap_or(who))),
    );
    let admitted = match acting {
        Ok(identity) => match admit(&app, identity.clone(), &info) {
            // A right that was given just now counts already.
            Err(error) if error.code == 403 && app.registry.is_behind() => {
                app.registry.catch_up().await.and_then(|()| admit(&app, identity, &info))
            }
            admitted => admitted,
        },
        Err(error) => Err(error),
    };
    if let Some(audited) = &mut audited {
        audited.decided(admitted.is_ok());
    }
    let answer = match admitted {
        Ok(identity) => match enter(&app, &identity, &info).await {
            Ok(entered) => {
                let caller = Caller::client(identity.clone());
                parts.extensions.insert(caller.clone());
                if !may_mount(&app, &identity, &info) {
                    parts.extensions.insert(distribution::NoMount);
                }
                parts.extensions.insert(identity);
                parts.extensions.insert(info.clone());
                let answer = limits::in_time(&info, async {
                    let body = match &mut audited {
                        Some(audited) if audited.wants_request(&info) => {
                            let read = body::read(&parts.headers, body).await;
                            match read {
                                Ok(bytes) => audited.request(&parts.headers, bytes),
                                Err(error) => return Failure(error).into_response(),
                            }
                        }
                        _ => body,
                    };
                    next.run(Request::from_parts(parts, body)).await
                });
                let answer = answer.await;
                let notes = caller.take_notes();
                if let Some(audited) = &mut audited {
                    audited.annotate(&notes.annotations);
                }
                let answer = answer::warn(answer, &notes.warnings);
                entered.into_iter().fold(answer, |answer, entered| entered.finish(answer))
            }
            Err(refused) => refused.finish(Failure(refused.error.clone()).into_response()),
        },
        Err(error) => {
            let asks = error.code == 401 && info.path.starts_with("/v2");
            let mut answer = Failure(error).into_response();
            if asks {
                // What registry clients take as the request for their credentials.
                let basic = HeaderValue::from_static("Basic realm=\"coracle\"");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
            }
            answer
        }
    };
    let answer = match audited {
        Some(audited) => audited.answer(answer, limits::is_long_running(&info)).await,
        None => answer,
    };
    let answer = if in_protobuf { answer::in_protobuf(answer).await } else { answer };
    timed.finish(if in_gzip { gzip::compressed(answer) } else { answer })
}

/// Waits for its turn, where that is asked of it.
async fn enter(
    app: &App,
    who: &Identity,
    info: &RequestInfo,
) -> Result<Option<flow::Entered>, flow::Refused> {
    if !limits::is_counted(info) {
        return Ok(None);
    }
    let objects = limits::objects(info, &app.registry.cache);
    app.flow.enter(flow::Request { who, wanted: &info.attributes(), objects }).await.map(Some)
}

async fn authenticate(app: &App, parts: &Parts) -> Result<Identity, ApiError> {
    // Set only within this process; nothing that arrives over the network carries extensions.
    if let Some(identity) = parts.extensions.get::<Identity>() {
        return Ok(identity.clone());
    }
    let peer = parts.extensions.get::<PeerCertificate>().and_then(|peer| peer.0.as_ref());
    let known = app.auth.authenticate(&app.registry.cache.read(), &parts.headers, peer);
    match known {
        Err(refused) if refused.code == 401 => {
            app.external.authenticate(&parts.headers, parts.uri.path(), refused).await
        }
        known => known,
    }
}

fn admit(app: &App, identity: Identity, info: &RequestInfo) -> Result<Identity, ApiError> {
    let cluster = app.registry.cache.read();
    app.auth.authorize(&cluster, &identity, &info.attributes())?;
    if let Some(node) = node::name(&identity)
        && info.resource == "pods"
        && matches!(info.verb, "list" | "watch")
        && info.query.get("fieldSelector") != Some(&format!("spec.nodeName={node}"))
    {
        let why = format!(
            "node \"{node}\" may list and watch only with fieldSelector=spec.nodeName={node}"
        );
        return Err(ApiError::forbidden(&kinds::POD, "", &why));
    }
    Ok(identity)
}

/// Whether the caller may read what the request wants mounted into an image repository (`?mount=DIGEST&from=REPOSITORY`):
/// its path says only where to.
fn may_mount(app: &App, identity: &Identity, info: &RequestInfo) -> bool {
    let Some(digest) = info.query.get("mount").filter(|_| info.path.starts_with("/v2/")) else {
        return true;
    };
    let cluster = app.registry.cache.read();
    info.query.all("from").all(|from| {
        let path = format!("/v2/{from}/blobs/{digest}");
        let wanted = Attributes { verb: "get".to_owned(), path, ..Attributes::default() };
        app.auth.authorize(&cluster, identity, &wanted).is_ok()
    })
}

/// Everything below `/api`, `/apis` and `/openapi`.
async fn api(
    State(app): State<App>,
    Extension(info): Extension<Arc<RequestInfo>>,
    Extension(identity): Extension<Identity>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    if info.path.starts_with("/apis/")
        && let Some(remote) = app.aggregator.of(&info.group, &info.version)
    {
        return aggregated::serve(&app, &remote, &identity, &parts, body).await;
    }
    let answer = if info.is_resource {
        resource(&app, &info, &identity, &parts, body).await
    } else {
        discover(&app, &info, &parts).await
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

async fn discover(app: &App, info: &RequestInfo, parts: &Parts) -> Answer {
    if info.verb != "get" {
        return Err(not_found_here().into());
    }
    app.registry.catch_up().await?;
    let custom = app.registry.cache.definitions().table();
    let (custom, remotes) = (&custom, &*app.aggregator.remotes());
    let segments: Vec<&str> = info.path.split('/').filter(|s| !s.is_empty()).collect();
    Ok(match segments.as_slice() {
        ["api"] => discovery::core_versions(custom, remotes, &parts.headers),
        ["apis"] => discovery::group_list(custom, remotes, &parts.headers),
        ["api", version] => discovery::resources(custom, "", version)?,
        ["apis", group] => discovery::group(custom, remotes, group)?,
        ["openapi", "v2"] => openapi::everything(custom, &parts.headers),
        ["openapi", "v3"] => openapi::index(custom, remotes),
        ["openapi", "v3", "api", version] => {
            openapi::of_group(custom, "", version, info.query.get("hash"))?
        }
        ["openapi", "v3", "apis", group, version] => {
            if let Some(remote) = remotes.of(group, version) {
                return Ok(aggregated::document(app, remote, parts).await);
            }
            openapi::of_group(custom, group, version, info.query.get("hash"))?
        }
        ["apis", group, version] => discovery::resources(custom, group, version)?,
        _ => return Err(not_found_here().into()),
    })
}

async fn resource(
    app: &App,
    info: &RequestInfo,
    identity: &Identity,
    parts: &Parts,
    body: Body,
) -> Answer {
    if let Some(review) = reviews::of(info) {
        in_scope(info, review.namespaced)?;
        return reviews::create(app, review, info, identity, parts, body).await;
    }
    if info.group.is_empty() && info.resource == "bindings" {
        in_scope(info, true)?;
        return subresources::bind(app, info, parts, body).await;
    }
    if info.group == usage::GROUP {
        in_scope(info, info.resource != "nodes")?;
        return usage::serve(app, info, &parts.headers).await;
    }
    if components::is_for(info) {
        return components::serve(app, info, &parts.headers);
    }
    if let Some(kind) = proxy::of(info) {
        in_scope(info, kind.namespaced)?;
        return proxy::serve(app, info, kind, parts, body).await;
    }
    let kind = info.kind()?;
    in_scope(info, kind.namespaced)?;
    // One that cannot be read may only be deleted, by who insists.
    if !info.name.is_empty() && info.verb != "create" {
        let registry = &app.registry;
        let found = || registry.cache.unreadable().check(kind, info.scope(kind), &info.name);
        if found().is_err() {
            registry.catch_up().await?;
        }
        if let Err(error) = found() {
            if info.verb != "delete" || !info.subresource.is_empty() {
                return Err(error.into());
            }
            return delete::unreadable(app, info, kind, identity, parts, body, error).await;
        }
    }
    let part = write::part_of(kind, &info.subresource);
    let answer = object(app, info, kind, part, parts, body).await;
    // Deprecated kinds, and versions of custom kinds.
    let warning = info.custom.as_ref().and_then(|custom| custom.version().warning.as_deref());
    match warning.or((!kind.deprecated.is_empty()).then_some(kind.deprecated)) {
        Some(warning) => answer.map(|answer| answer::warn(answer, &[warning.to_owned()])),
        None => answer,
    }
}

/// Refuses a path in a namespace to what is in none: it was authorized in that namespace, so that who may do everything there
/// would reach what is everybody's. And a path without a namespace to one object that is in one.
fn in_scope(info: &RequestInfo, namespaced: bool) -> Result<(), ApiError> {
    let fits = match namespaced {
        true => !info.namespace.is_empty() || info.name.is_empty(),
        false => info.namespace.is_empty() || info.resource == "namespaces",
    };
    if fits { Ok(()) } else { Err(not_found_here()) }
}

/// A verb on objects of a kind.
async fn object(
    app: &App,
    info: &RequestInfo,
    kind: &'static Kind,
    part: Option<Part>,
    parts: &Parts,
    body: Body,
) -> Answer {
    let registry = &app.registry;
    match (info.verb, part) {
        // Of namespaces' finalizers, as upstream.
        (verb, Some(Part::Finalize)) if verb != "update" => Err(method_not_allowed().into()),
        // Who may watch a subresource may not therefore watch the objects.
        ("watch", _) if !info.subresource.is_empty() => Err(method_not_allowed().into()),
        ("get", Some(_)) => {
            read::get(registry, info, kind, &Render::of(info, &parts.headers)?).await
        }
        ("list", _) => read::list(registry, info, kind, &Render::of(info, &parts.headers)?).await,
        ("watch", _) => {
            let render = Render::of(info, &parts.headers)?;
            watch::watch(registry, info, kind, &render, app.shutdown.clone()).await
        }
        ("create", Some(_)) if info.name.is_empty() => {
            write::create(registry, info, kind, parts, body).await
        }
        ("update", Some(part)) if !info.name.is_empty() => {
            write::update(registry, info, kind, part, parts, body).await
        }
        ("patch", Some(part))
            if !info.name.is_empty() && body::media_type(&parts.headers) == apply::MEDIA =>
        {
            apply::apply(app, info, kind, part, parts, body).await
        }
        ("patch", Some(part)) if !info.name.is_empty() => {
            write::patch(registry, info, kind, part, parts, body).await
        }
        ("delete", Some(Part::Main)) => delete::delete(registry, info, kind, parts, body).await,
        // Too much at once: that of all namespaces, and all namespaces.
        ("deletecollection", _)
            if kind.namespaced && info.namespace.is_empty()
                || kind.resource == kinds::NAMESPACE.resource =>
        {
            Err(method_not_allowed().into())
        }
        ("deletecollection", _) => {
            delete::delete_collection(registry, info, kind, parts, body).await
        }
        (_, Some(_)) => Err(method_not_allowed().into()),
        (_, None) => subresources::serve(app, info, kind, parts, body).await,
    }
}

/// Upstream's answer for a verb that a path does not have.
pub(crate) fn method_not_allowed() -> ApiError {
    ApiError::new(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
}
