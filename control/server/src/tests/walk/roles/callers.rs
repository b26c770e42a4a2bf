//! Everybody who calls, each with the credentials that it would show on the wire.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_api::bootstrap_token::JoinToken;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::routes::Resource;
use super::*;
use crate::auth::tokens::Issue;

/// Whom the server should take a caller for.
pub(super) enum Who {
    /// Nobody: it shows nothing, or nothing that holds.
    Nobody,
    /// Somebody who asks to be somebody else, and may not.
    Refused,
    /// A user and its groups.
    User(String, Vec<String>),
    /// A node.
    Node(&'static str),
}

pub(super) struct Caller {
    pub(super) name: &'static str,
    pub(super) who: Who,
    pub(super) headers: HeaderMap,
    pub(super) certificate: Option<CertificateDer<'static>>,
}

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1";
/// The namespace of those who have roles in their own alone.
pub(super) const OTHER: &str = "other";
const AUTHENTICATED: &str = "system:authenticated";

/// Somebody without credentials yet.
fn caller(name: &'static str, who: Who) -> Caller {
    Caller { name, who, headers: HeaderMap::new(), certificate: None }
}

impl Caller {
    fn with(mut self, header: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header");
        self.headers.append(HeaderName::from_static(header), value);
        self
    }

    fn token(self, token: &str) -> Self {
        self.with(AUTHORIZATION.as_str(), &format!("Bearer {token}"))
    }

    fn certified(mut self, it: &Fixture, name: &str, groups: &[&str], seconds: u64) -> Self {
        self.certificate = Some(certificate(it, name, groups, seconds));
        self
    }
}

fn certificate(it: &Fixture, name: &str, groups: &[&str], seconds: u64) -> CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for group in groups {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, *group);
    }
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    let request = coracle_api::csr::Request::parse(pem.as_bytes()).expect("a request");
    let pki = it.server.app.auth.pki();
    let signed = pki.sign(&request, &["client auth"], seconds).expect("a certificate");
    CertificateDer::from_pem_slice(signed.as_bytes()).expect("a certificate")
}

/// The user of a certificate without groups.
fn user(name: &str) -> Who {
    Who::User(name.to_owned(), vec![AUTHENTICATED.to_owned()])
}

/// A ServiceAccount, made if need be, and a token of it.
async fn account(it: &Fixture, namespace: &str, name: &str, audiences: &[&str]) -> (Who, String) {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    it.post(&path, json!({"metadata": {"name": name}})).await;
    let made = it.get(&format!("{path}/{name}")).await.body;
    let uid = made["metadata"]["uid"].as_str().expect("an account");
    let audiences = audiences.iter().map(|a| (*a).to_owned()).collect();
    let issue = Issue {
        namespace,
        name,
        uid,
        audiences,
        seconds: 3600,
        pod: None,
        node: None,
        secret: None,
    };
    let token = it.server.app.auth.issue(&issue).expect("a token").token;
    let of_namespace = format!("system:serviceaccounts:{namespace}");
    let groups = ["system:serviceaccounts", &of_namespace, AUTHENTICATED].map(str::to_owned);
    let who = Who::User(format!("system:serviceaccount:{namespace}:{name}"), groups.to_vec());
    (who, token)
}

/// A token that the server would have signed, with other claims; `algorithm` none leaves it unsigned.
async fn forged(it: &Fixture, expired: bool) -> String {
    let (_, good) = account(it, "default", "robot", &[]).await;
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = good.split('.').nth(1).and_then(|part| url.decode(part).ok()).expect("claims");
    let mut claims: Value = serde_json::from_slice(&claims).expect("claims");
    if !expired {
        let head = url.encode(r#"{"alg":"none","typ":"JWT"}"#);
        return format!("{head}.{}.", url.encode(claims.to_string()));
    }
    let long_ago = jiff::Timestamp::now().as_second() - 7200;
    for (claim, at) in [("iat", long_ago), ("nbf", long_ago), ("exp", long_ago + 3600)] {
        claims[claim] = at.into();
    }
    let pem = it.server.app.auth.pki().token_key().expect("a key");
    let key = jsonwebtoken::EncodingKey::from_ec_pem(pem.as_bytes()).expect("a key");
    let head = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    jsonwebtoken::encode(&head, &claims, &key).expect("a token")
}

/// All of them.
pub(super) async fn all(it: &Fixture) -> Vec<Caller> {
    it.create("/api/v1/namespaces", json!({"metadata": {"name": OTHER}})).await;
    let mut all = vec![caller("anonymous", Who::Nobody)];
    for role in ["view", "edit", "admin"] {
        let (who, token) = account(it, OTHER, role, &[]).await;
        all.push(caller(role, who).token(&token));
        let binding = json!({
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": role, "namespace": OTHER}],
        });
        it.create(&format!("{ROLES}/namespaces/{OTHER}/rolebindings"), binding).await;
    }
    // Everything, in its own namespace: also what is in none.
    let (who, token) = account(it, OTHER, "owner", &[]).await;
    all.push(caller("owner", who).token(&token));
    let everything = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
    grant(it, OTHER, "owner", "system:serviceaccount:other:owner", everything).await;

    let (who, token) = account(it, "default", "robot", &[]).await;
    all.push(caller("account without roles", who).token(&token));
    let basic = STANDARD.encode(format!("any:{token}"));
    let (_, token) = account(it, "default", "robot", &["vault"]).await;
    all.push(caller("wrong audience", Who::Nobody).token(&token));
    all.push(caller("expired token", Who::Nobody).token(&forged(it, true).await));
    all.push(caller("unsigned token", Who::Nobody).token(&forged(it, false).await));
    all.push(caller("no token", Who::Nobody).token("x"));
    let who = user("nobody");
    let expired = caller("expired certificate", Who::Nobody).certified(it, "admin", &[MASTERS], 0);
    all.push(caller("user without roles", who).certified(it, "nobody", &[], 3600));
    all.push(caller("reader", user("reader")).certified(it, "reader", &[], 3600));
    let node = |name: &'static str| {
        let user = format!("system:node:{name}");
        caller(name, Who::Node(name)).certified(it, &user, &["system:nodes"], 3600)
    };
    all.extend([node("walk"), node("stranger")]);
    // Called as a node, but without its group.
    let fake = "system:node:walk";
    all.push(caller("called as a node", user(fake)).certified(it, fake, &[], 3600));
    let join = JoinToken::parse(&it.server.app.auth.local_token()).expect("a token");
    let groups = ["system:bootstrappers", AUTHENTICATED].map(str::to_owned).to_vec();
    let who = Who::User("system:bootstrap:local0".to_owned(), groups);
    all.push(caller("machine that joins", who).token(&join.bearer()));
    for (name, headers) in [
        ("impersonator", &[("impersonate-user", "admin"), ("impersonate-group", MASTERS)][..]),
        (
            "impersonator of a group",
            &[("impersonate-user", "nobody"), ("impersonate-group", MASTERS)],
        ),
        ("impersonator of a node", &[("impersonate-user", "system:node:walk")]),
    ] {
        let mut it =
            caller(name, Who::Refused).with(AUTHORIZATION.as_str(), &format!("Basic {basic}"));
        for (header, value) in headers {
            it = it.with(header, value);
        }
        all.push(it);
    }
    let masters = Who::User("admin".to_owned(), vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()]);
    all.push(caller("master", masters).certified(it, "admin", &[MASTERS], 3600));
    // Until the one that lasts no time is over.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    all.push(expired);
    all
}

/// A role with one rule, bound to one user, in a namespace; in none, everywhere.
pub(super) async fn grant(it: &Fixture, namespace: &str, name: &str, user: &str, rule: Value) {
    let (within, kind) = match namespace {
        "" => (ROLES.to_owned(), "ClusterRole"),
        namespace => (format!("{ROLES}/namespaces/{namespace}"), "Role"),
    };
    let plural = if namespace.is_empty() { "cluster" } else { "" };
    let role = json!({"metadata": {"name": name}, "rules": [rule]});
    it.create(&format!("{within}/{plural}roles"), role).await;
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    });
    it.create(&format!("{within}/{plural}rolebindings"), binding).await;
}

/// Lets the reader read exactly that resource, everywhere, and nothing else.
pub(super) async fn let_read(it: &Fixture, resource: &Resource) {
    let rule = json!({
        "apiGroups": [resource.group], "resources": [resource.name], "verbs": ["get", "list", "watch"],
    });
    let path = format!("{ROLES}/clusterroles/reader");
    if it.get(&path).await.code == 404 {
        grant(it, "", "reader", "reader", rule).await;
        return;
    }
    let answer = it.merge(&path, json!({"rules": [rule]})).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
}
