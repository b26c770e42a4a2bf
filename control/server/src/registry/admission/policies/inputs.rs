//! What expressions see of a request.

use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use coracle_api::kinds;
use coracle_cel::{
    Authorizer, Decision, Decl, Identity as ListIdentity, Opaque, Query, Shape, Step, Val,
};
use serde_json::{Value, json};

use super::super::{Gv, Operation, Registry, Request};
use crate::auth::{self, AUTHENTICATED, Attributes, Identity};
use crate::cache::Cache;

fn text() -> Arc<Decl> {
    Decl::of(Shape::String)
}

fn texts() -> Arc<Decl> {
    Decl::of(Shape::List(text(), ListIdentity::Atomic))
}

/// `request`: `admission/v1 AdmissionRequest` without its objects.
pub(super) static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let kind = ["group", "version", "kind"].map(|field| (field, text()));
    let kind = Decl::object("kubernetes.GroupVersionKind", kind);
    let resource = ["group", "version", "resource"].map(|field| (field, text()));
    let resource = Decl::object("kubernetes.GroupVersionResource", resource);
    let user = Decl::object(
        "kubernetes.UserInfo",
        [
            ("username", text()),
            ("uid", text()),
            ("groups", texts()),
            ("extra", Decl::of(Shape::Map(texts()))),
        ],
    );
    Decl::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", text()),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Decl::of(Shape::Bool)),
            ("options", Decl::of(Shape::Dyn)),
        ],
    )
});

/// `namespaceObject`.
pub(super) static NAMESPACE: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let map = || Decl::of(Shape::Map(text()));
    let time = || Decl::of(Shape::Timestamp);
    let int = || Decl::of(Shape::Int);
    let metadata = Decl::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", map()),
            ("annotations", map()),
            ("uid", text()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", int()),
            ("deletionTimestamp", time()),
            ("generation", int()),
            ("resourceVersion", text()),
            ("finalizers", texts()),
        ],
    );
    let condition = Decl::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", time()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let conditions = Decl::of(Shape::List(condition, ListIdentity::Atomic));
    let spec = Decl::object("kubernetes.NamespaceSpec", [("finalizers", texts())]);
    let status = [("conditions", conditions), ("phase", text())];
    let status = Decl::object("kubernetes.NamespaceStatus", status);
    let parts = [("metadata", metadata), ("spec", spec), ("status", status)];
    Decl::object("kubernetes.Namespace", parts)
});

/// The objects of one request, as they are now.
#[derive(Clone, Copy)]
pub(super) struct Objects<'r> {
    pub(super) old: Option<&'r Value>,
    pub(super) new: Option<&'r Value>,
}

/// The facts of one request.
pub(super) struct Inputs {
    request: Value,
    namespace: Value,
    asks: Asks,
    resource: Query,
}

impl Inputs {
    /// `kind` and `resource` are of the version that was matched.
    pub(super) fn new(
        registry: &Registry,
        request: &Request<'_>,
        kind: Gv<'_>,
        resource: Gv<'_>,
    ) -> Self {
        let own = request.kind.resource == kinds::NAMESPACE.resource;
        let namespace = (!request.namespace.is_empty() && !own)
            .then(|| registry.cache.get(&kinds::NAMESPACE, "", request.namespace))
            .flatten();
        let asked = request.resource();
        let query = Query {
            group: asked.group.into(),
            resource: asked.name.into(),
            subresource: request.subresource.into(),
            namespace: request.namespace.into(),
            name: request.name.into(),
            ..Query::default()
        };
        let identity = request.caller.identity().into_owned();
        Self {
            request: review(request, kind, resource, &identity),
            namespace: namespace.map_or(Value::Null, |namespace| namespace.value()),
            asks: Asks { cache: registry.cache.clone(), identity },
            resource: query,
        }
    }

    /// The values of the variables, in the order of their declaration.
    pub(super) fn values<'a>(&'a self, objects: Objects<'a>, params: &'a Value) -> Vec<Val<'a>> {
        let object = |tree: Option<&'a Value>| tree.map_or(Val::Null, Val::of);
        let asks: Rc<dyn Authorizer> = Rc::new(self.asks.clone());
        let of_request = Step::request_resource(asks.clone(), self.resource.clone());
        vec![
            object(objects.new),
            object(objects.old),
            Val::declared(&self.namespace, &NAMESPACE),
            Val::declared(&self.request, &REQUEST),
            Val::of(params),
            Val::Opaque(Opaque::Authorizer(Step::new(asks))),
            Val::Opaque(Opaque::Authorizer(of_request)),
        ]
    }
}

/// `request`; what is empty is not there.
fn review(
    request: &Request<'_>,
    of_kind: Gv<'_>,
    of_resource: Gv<'_>,
    identity: &Identity,
) -> Value {
    let kind = |gv: Gv<'_>| json!({"group": gv.group, "version": gv.version, "kind": gv.name});
    let resource =
        |gv: Gv<'_>| json!({"group": gv.group, "version": gv.version, "resource": gv.name});
    let mut review = json!({
        "kind": kind(of_kind),
        "resource": resource(of_resource),
        "requestKind": kind(asked_kind(request)),
        "requestResource": resource(request.asked()),
        "name": request.name,
        "operation": Operation::name(request.operation),
        "userInfo": {"username": identity.user, "groups": identity.groups},
        "dryRun": request.dry_run,
        "options": request.options(),
    });
    for (field, value) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("namespace", request.namespace),
    ] {
        if !value.is_empty() {
            review[field] = value.into();
        }
    }
    if !identity.uid.is_empty() {
        review["userInfo"]["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        review["userInfo"]["extra"] = json!(identity.extra);
    }
    review
}

/// The kind of the objects as they were sent.
fn asked_kind<'r>(request: &Request<'r>) -> Gv<'r> {
    let kind = request.object_kind();
    match request.requested.filter(|_| kind.name == request.kind.kind) {
        Some(requested) => Gv { name: kind.name, ..requested.resource },
        None => kind,
    }
}

/// Answers expressions that ask the authorizer.
#[derive(Clone)]
struct Asks {
    cache: Cache,
    identity: Identity,
}

impl Authorizer for Asks {
    fn authorize(&self, query: &Query) -> Decision {
        let account = query.service_account.as_ref().map(|(namespace, name)| Identity {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.into(),
            ],
            ..Identity::default()
        });
        let wanted = Attributes {
            verb: query.verb.clone(),
            group: query.group.clone(),
            version: "*".into(),
            resource: query.resource.clone(),
            subresource: query.subresource.clone(),
            namespace: query.namespace.clone(),
            name: query.name.clone(),
            path: query.path.clone().unwrap_or_default(),
        };
        let identity = account.as_ref().unwrap_or(&self.identity);
        let answer = auth::allows(&self.cache.read(), identity, &wanted);
        Decision {
            allowed: answer.is_ok(),
            reason: answer.err().flatten().unwrap_or_default(),
            error: None,
        }
    }
}
