//! Resources that exist only while they are asked: who am I, may I, whose token is this.

use axum::body::Body;
use coracle_api::ApiError;
use http::request::Parts;
use serde_json::{Value, json};

use super::App;
use super::accept::{self, Offer};
use super::answer::{Answer, json_response};
use super::body::{self, FieldValidation};
use super::method_not_allowed;
use super::request::{RequestInfo, not_found_here};
use crate::auth::tokens::ISSUER;
use crate::auth::{Attributes, Identity};

/// One of them; all are `v1` and can only be created.
pub(crate) struct Review {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) namespaced: bool,
}

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// All of them.
pub(crate) static ALL: &[Review] = &[
    review(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", false),
    review(AUTHENTICATION, "TokenReview", "tokenreviews", "tokenreview", false),
    review(
        AUTHORIZATION,
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        true,
    ),
    review(
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        false,
    ),
    review(
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        false,
    ),
    review(
        AUTHORIZATION,
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
        false,
    ),
];

const fn review(
    group: &'static str,
    kind: &'static str,
    resource: &'static str,
    singular: &'static str,
    namespaced: bool,
) -> Review {
    Review { group, kind, resource, singular, namespaced }
}

/// The review that a request addresses, if any.
pub(crate) fn of(info: &RequestInfo) -> Option<&'static Review> {
    ALL.iter()
        .find(|r| r.group == info.group && r.resource == info.resource && info.version == "v1")
}

/// POST of a review.
pub(crate) async fn create(
    app: &App,
    review: &Review,
    info: &RequestInfo,
    identity: &Identity,
    parts: &Parts,
    body: Body,
) -> Answer {
    if !info.name.is_empty() {
        return Err(not_found_here().into());
    }
    if info.verb != "create" || review.namespaced && info.namespace.is_empty() {
        return Err(method_not_allowed().into());
    }
    accept::negotiate(&parts.headers, Offer::REVIEW)?;
    let bytes = body::read(&parts.headers, body).await?;
    let schema = body::schema_of(review.group, "v1", review.kind)?;
    let (mut tree, _) = body::decode(&bytes, &parts.headers, schema, FieldValidation::Ignore)?;
    tree["kind"] = review.kind.into();
    tree["apiVersion"] = format!("{}/v1", review.group).into();
    app.registry.catch_up().await?;
    tree["status"] = match review.kind {
        "SelfSubjectReview" => json!({"userInfo": user_info(identity)}),
        "SelfSubjectAccessReview" => access(app, identity, &tree["spec"]),
        "LocalSubjectAccessReview" => {
            local(&tree, &info.namespace)?;
            access(app, &subject(&tree["spec"]), &tree["spec"])
        }
        "SubjectAccessReview" => access(app, &subject(&tree["spec"]), &tree["spec"]),
        "SelfSubjectRulesReview" => {
            let namespace = tree["spec"]["namespace"].as_str().unwrap_or_default().to_owned();
            rules(app, identity, &namespace)
        }
        "TokenReview" => {
            let token = tree["spec"]["token"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                let why = "token is required for TokenReview in authentication";
                return Err(ApiError::bad_request(why).into());
            }
            let audiences: Vec<String> = tree["spec"]["audiences"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|a| a.as_str().map(str::to_owned))
                .collect();
            // Whoever asks takes it for one of these, and it must not be taken for another's.
            match whose(app, &token, audiences).await {
                Ok((identity, audiences)) => json!({
                    "authenticated": true,
                    "user": user_info(&identity),
                    "audiences": audiences,
                }),
                Err(why) => json!({"authenticated": false, "user": {}, "error": why}),
            }
        }
        _ => return Err(not_found_here().into()),
    };
    Ok(json_response(201, &tree))
}

/// Whose token it is, and for which of the audiences; none are those of this server.
async fn whose(
    app: &App,
    token: &str,
    audiences: Vec<String>,
) -> Result<(Identity, Vec<String>), String> {
    let known = app.auth.review(&app.registry.cache.read(), token, &audiences);
    let refused = match known {
        Ok(verified) => return Ok((verified.identity, verified.audiences)),
        Err(error) => error.message,
    };
    // Others vouch towards this server alone.
    if !audiences.is_empty() && !audiences.iter().any(|audience| audience == ISSUER) {
        return Err(refused);
    }
    let identity = app.external.review(token).await?.ok_or(refused)?;
    Ok((identity, vec![ISSUER.to_owned()]))
}

/// Who may ask in one namespace may ask about that one alone (`LocalSubjectAccessReview`'s strategy upstream).
fn local(review: &Value, namespace: &str) -> Result<(), ApiError> {
    let spec = &review["spec"];
    let refuse = |why: String| Err(ApiError::bad_request(why));
    if spec["nonResourceAttributes"].is_object() {
        return refuse(
            "spec.nonResourceAttributes: Forbidden: disallowed on this kind of request".into(),
        );
    }
    let named = review["metadata"]["namespace"].as_str().unwrap_or(namespace);
    let asked = spec["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
    if named != namespace || asked != namespace {
        return refuse(format!(
            "spec.resourceAttributes.namespace: Invalid value: {asked:?}: must match metadata.namespace: namespace on the request is {namespace:?}"
        ));
    }
    Ok(())
}

fn user_info(identity: &Identity) -> Value {
    let mut user = json!({"username": identity.user, "groups": identity.groups});
    if !identity.uid.is_empty() {
        user["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        user["extra"] = json!(identity.extra);
    }
    user
}

fn subject(spec: &Value) -> Identity {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Identity {
        user: text(&spec["user"]),
        uid: text(&spec["uid"]),
        groups: spec["groups"].as_array().into_iter().flatten().map(text).collect(),
        extra: serde_json::from_value(spec["extra"].clone()).unwrap_or_default(),
    }
}

/// `SubjectRulesReviewStatus`: RBAC rules parted into those on resources and those on paths.
fn rules(app: &App, identity: &Identity, namespace: &str) -> Value {
    let mut resource_rules = Vec::new();
    let mut path_rules = Vec::new();
    for rule in crate::auth::rbac::rules(&app.registry.cache.read(), identity, namespace) {
        let rule = json!(rule);
        if rule.get("nonResourceURLs").is_some() {
            path_rules.push(rule);
        } else {
            resource_rules.push(rule);
        }
    }
    if identity.groups.iter().any(|group| group == crate::auth::MASTERS) {
        resource_rules.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        path_rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    json!({"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": false})
}

fn access(app: &App, identity: &Identity, spec: &Value) -> Value {
    let resource = &spec["resourceAttributes"];
    let text = |name: &str| resource[name].as_str().unwrap_or_default().to_owned();
    let attributes = if resource.is_object() {
        Attributes {
            verb: text("verb"),
            group: text("group"),
            version: text("version"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
            path: String::new(),
        }
    } else {
        let other = &spec["nonResourceAttributes"];
        Attributes {
            verb: other["verb"].as_str().unwrap_or_default().to_owned(),
            path: other["path"].as_str().unwrap_or_default().to_owned(),
            ..Attributes::default()
        }
    };
    match app.auth.authorize(&app.registry.cache.read(), identity, &attributes) {
        Ok(()) => json!({"allowed": true, "reason": ""}),
        // That nothing allows it is no reason, and `kubectl auth can-i` would print it.
        Err(_) => json!({"allowed": false, "reason": ""}),
    }
}
