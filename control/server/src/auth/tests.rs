use std::sync::Arc;

use bytes::Bytes;
use coracle_api::bootstrap_token::{JoinToken, Stored};
use coracle_api::{Kind, Object, csr, kinds};
use http::HeaderValue;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

fn auth(data: &Path) -> Auth {
    let names =
        pki::ServingNames { dns: vec!["localhost".into()], ips: vec![[127, 0, 0, 1].into()] };
    Auth::open(data, &names, NetworkFacts::default(), 3600).unwrap()
}

fn put(cluster: &mut Cluster, kind: &'static Kind, value: Value) {
    let json = Bytes::from(value.to_string());
    cluster.put(Arc::new(Object::from_json(kind, json).unwrap()));
}

fn bootstrapped() -> Cluster {
    let mut cluster = Cluster::new(Timestamp::now());
    for role in bootstrap::cluster_roles() {
        put(&mut cluster, &kinds::CLUSTER_ROLE, role);
    }
    for binding in bootstrap::cluster_role_bindings() {
        put(&mut cluster, &kinds::CLUSTER_ROLE_BINDING, binding);
    }
    cluster
}

fn wants(text: &str) -> Attributes {
    // verb group/resource[/sub] namespace name
    let parts: Vec<&str> = text.split(' ').collect();
    let part = |i: usize| parts.get(i).map(|p| p.trim_matches('-')).unwrap_or_default().to_owned();
    let target = part(1);
    if target.starts_with('/') {
        return Attributes { verb: part(0), path: target, ..Attributes::default() };
    }
    let (group, resource) = target.split_once(':').unwrap_or(("", &target));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        verb: part(0),
        group: group.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: part(2),
        name: part(3),
        ..Attributes::default()
    }
}

fn who(user: &str, groups: &[&str]) -> Identity {
    let mut groups: Vec<String> = groups.iter().map(|g| g.to_string()).collect();
    groups.push(AUTHENTICATED.into());
    Identity { user: user.into(), groups, ..Identity::default() }
}

#[test]
fn roles_grant_what_their_rules_say_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path());
    let mut cluster = bootstrapped();
    let binding = |kind: &str, role_kind: &str, role: &str, subject: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
               "metadata": {"name": role, "namespace": if kind == "RoleBinding" { "shop" } else { "" }},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
               "subjects": [subject]})
    };
    let jane = json!({"kind": "User", "name": "jane"});
    put(&mut cluster, &kinds::ROLE_BINDING, binding("RoleBinding", "ClusterRole", "view", jane));
    let robot = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "tools"});
    put(&mut cluster, &kinds::ROLE_BINDING, binding("RoleBinding", "Role", "one", robot));
    put(
        &mut cluster,
        &kinds::ROLE,
        json!({
            "metadata": {"name": "one", "namespace": "shop"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get"]},
                      {"apiGroups": ["apps"], "resources": ["*/scale"], "verbs": ["patch"]}],
        }),
    );
    for (user, groups, wanted, allowed) in [
        ("root", &["system:masters"][..], "delete nodes - n", true),
        ("jane", &[], "list pods shop", true),
        ("jane", &[], "get pods/log shop p", true),
        ("jane", &[], "list pods other", false),
        ("jane", &[], "list pods -", false),
        ("jane", &[], "get secrets shop s", false),
        ("jane", &[], "delete pods shop p", false),
        ("jane", &[], "get /version", true),
        ("jane", &[], "get /apis/apps", true),
        ("jane", &[], "get /metrics", false),
        ("jane", &[], "create authorization.k8s.io:selfsubjectaccessreviews -", true),
        ("system:serviceaccount:tools:robot", &[], "get configmaps shop a", true),
        ("system:serviceaccount:tools:robot", &[], "get configmaps shop b", false),
        ("system:serviceaccount:tools:robot", &[], "list configmaps shop", false),
        ("system:serviceaccount:tools:robot", &[], "patch apps:deployments/scale shop d", true),
        ("system:serviceaccount:tools:robot", &[], "patch apps:deployments shop d", false),
        ("system:serviceaccount:shop:robot", &[], "get configmaps shop a", false),
    ] {
        let answer = auth.authorize(&cluster, &who(user, groups), &wants(wanted));
        assert_eq!(answer.is_ok(), allowed, "{user}: {wanted}");
    }
    let error = auth
        .authorize(&cluster, &who("jane", &[]), &wants("list apps:deployments other"))
        .unwrap_err();
    assert_eq!(
        error.message,
        "deployments.apps is forbidden: User \"jane\" cannot list resource \"deployments\" in API group \"apps\" in the namespace \"other\""
    );
}

#[test]
fn a_node_touches_its_own_objects_only() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path());
    let mut cluster = bootstrapped();
    for (name, node) in [("mine", "n1"), ("theirs", "n2")] {
        put(
            &mut cluster,
            &kinds::POD,
            json!({
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"nodeName": node, "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": name}}],
                         "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]}],
                         "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]},
            }),
        );
        put(
            &mut cluster,
            &kinds::PERSISTENT_VOLUME,
            json!({"metadata": {"name": name}, "spec": {"claimRef": {"namespace": "shop", "name": name}}}),
        );
    }
    for name in ["mine", "theirs"] {
        let owner = |kind: &str| {
            let uid = format!("{kind}-{name}");
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true}])
        };
        let uid = |kind: &str| format!("{kind}-{name}");
        put(
            &mut cluster,
            &kinds::DEPLOYMENT,
            json!({"metadata": {"name": name, "namespace": "shop", "uid": uid("Deployment")}}),
        );
        put(
            &mut cluster,
            &kinds::REPLICA_SET,
            json!({"metadata": {"name": name, "namespace": "shop", "uid": uid("ReplicaSet"), "ownerReferences": owner("Deployment")}}),
        );
        let node = if name == "mine" { "n1" } else { "n2" };
        put(
            &mut cluster,
            &kinds::POD,
            json!({
                "metadata": {"name": format!("{name}-1"), "namespace": "shop", "ownerReferences": owner("ReplicaSet")},
                "spec": {"nodeName": node, "containers": [{"name": "c"}]},
            }),
        );
    }
    put(
        &mut cluster,
        &kinds::INGRESS,
        json!({"metadata": {"name": "i", "namespace": "shop"}, "spec": {"tls": [{"secretName": "certificate"}]}}),
    );
    let node = who("system:node:n1", &[NODES]);
    for (wanted, allowed) in [
        ("watch secrets shop certificate", true),
        ("update secrets shop certificate", false),
        ("get secrets other certificate", false),
        ("list networking.k8s.io:ingresses -", true),
        ("patch networking.k8s.io:ingresses/status shop i", false),
        ("watch networking.k8s.io:ingressclasses -", true),
        ("get persistentvolumeclaims shop mine", true),
        ("get persistentvolumeclaims shop theirs", false),
        ("watch persistentvolumeclaims shop mine", false),
        ("update persistentvolumeclaims/status shop mine", false),
        ("get persistentvolumes - mine", true),
        ("get persistentvolumes - theirs", false),
        ("get persistentvolumes - missing", false),
        ("list persistentvolumes -", false),
        ("get apps:replicasets shop mine", true),
        ("get apps:replicasets shop theirs", false),
        ("list apps:replicasets shop mine", false),
        ("update apps:replicasets shop mine", false),
        ("get apps:deployments shop mine", true),
        ("get apps:deployments shop theirs", false),
        ("get apps:deployments shop missing", false),
        ("get apps:deployments/scale shop mine", false),
        ("watch apps:deployments shop mine", false),
        ("get nodes - n2", true),
        // The server's own way to other nodes' logs.
        ("get nodes/proxy - n2", false),
        ("get nodes/proxy - n1", false),
        ("create certificates.k8s.io:certificatesigningrequests -", true),
        ("create certificates.k8s.io:certificatesigningrequests/selfnodeclient -", true),
        ("create certificates.k8s.io:certificatesigningrequests/nodeclient -", false),
        ("update certificates.k8s.io:certificatesigningrequests/approval - x", false),
        ("delete certificates.k8s.io:certificatesigningrequests - x", false),
        ("create pods/eviction shop mine", true),
        ("create pods/eviction shop theirs", false),
        ("create pods/binding shop mine", false),
        ("create pods/exec shop mine", false),
        ("get pods/log shop mine", false),
        ("list secrets -", false),
        ("create serviceaccounts/token shop default", false),
        ("patch nodes/status - n1", true),
        ("patch nodes - n2", false),
        ("delete nodes - n1", false),
        ("get pods shop mine", true),
        ("get pods shop theirs", false),
        ("patch pods/status shop mine", true),
        ("patch pods/status shop theirs", false),
        ("create pods shop", false),
        ("delete pods shop mine", true),
        ("get secrets shop mine", true),
        ("get secrets shop theirs", false),
        ("list secrets shop", false),
        ("watch secrets shop", false),
        ("watch secrets shop mine", true),
        ("list configmaps shop mine", true),
        ("watch configmaps shop theirs", false),
        ("update configmaps shop mine", false),
        ("get configmaps shop mine", true),
        ("get configmaps other mine", false),
        ("list services -", true),
        ("watch namespaces -", true),
        ("get namespaces - shop", true),
        ("patch namespaces - shop", false),
        ("patch coordination.k8s.io:leases kube-node-lease n1", true),
        ("patch coordination.k8s.io:leases kube-node-lease n2", false),
        ("create events shop", true),
        ("get /v2/app/manifests/v1", true),
        ("put /v2/app/manifests/v1", false),
    ] {
        assert_eq!(auth.authorize(&cluster, &node, &wants(wanted)).is_ok(), allowed, "{wanted}");
    }
    // The name alone makes no node.
    let fake = who("system:node:n1", &[]);
    assert!(auth.authorize(&cluster, &fake, &wants("get secrets shop mine")).is_err());
}

#[test]
fn tokens_hold_while_their_account_does() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path());
    let mut cluster = Cluster::new(Timestamp::now());
    let account =
        |uid: &str| json!({"metadata": {"name": "robot", "namespace": "tools", "uid": uid}});
    put(&mut cluster, &kinds::SERVICE_ACCOUNT, account("u1"));
    let issue = |audiences: &[&str]| {
        let audiences = audiences.iter().map(|a| a.to_string()).collect();
        let request = tokens::Issue {
            namespace: "tools",
            name: "robot",
            uid: "u1",
            audiences,
            seconds: 3600,
            pod: None,
            node: None,
            secret: None,
        };
        auth.issue(&request).unwrap().token
    };
    let token = issue(&[]);
    let mut headers = HeaderMap::new();
    let mut set = |value: String| {
        headers.insert(http::header::AUTHORIZATION, HeaderValue::from_str(&value).unwrap());
        headers.clone()
    };
    let bearer = set(format!("Bearer {token}"));
    let identity = auth.authenticate(&cluster, &bearer, None).unwrap();
    assert_eq!(identity.user, "system:serviceaccount:tools:robot");
    assert!(identity.groups.contains(&"system:serviceaccounts:tools".to_owned()));
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("any:{token}"));
    let basic = set(format!("Basic {basic}"));
    assert!(auth.authenticate(&cluster, &basic, None).is_ok());
    // Another audience, a changed token, none at all, an account that was made anew.
    let other = set(format!("Bearer {}", issue(&["vault"])));
    assert!(auth.authenticate(&cluster, &other, None).is_err());
    let asked = ["vault".to_owned(), "shop".to_owned()];
    let review = auth.review(&cluster, &issue(&["vault", "bank"]), &asked).unwrap();
    assert_eq!(review.audiences, ["vault"]);
    let broken = set(format!("Bearer {}x", token));
    assert!(auth.authenticate(&cluster, &broken, None).is_err());
    assert!(auth.authenticate(&cluster, &HeaderMap::new(), None).is_err());
    put(&mut cluster, &kinds::SERVICE_ACCOUNT, account("u2"));
    assert!(auth.authenticate(&cluster, &bearer, None).is_err());
}

#[test]
fn tokens_hold_while_what_they_are_bound_to_does() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path());
    let check = |kind: &'static Kind, bind: fn(&mut tokens::Issue<'_>)| {
        let mut cluster = Cluster::new(Timestamp::now());
        let namespace = if kind.namespaced { "tools" } else { "" };
        let object = |uid: &str, more: Value| {
            let mut object =
                json!({"metadata": {"name": "it", "namespace": namespace, "uid": uid}});
            if let Some(more) = more.as_object() {
                object["metadata"].as_object_mut().unwrap().extend(more.clone());
            }
            object
        };
        let account = json!({"metadata": {"name": "robot", "namespace": "tools", "uid": "u1"}});
        put(&mut cluster, &kinds::SERVICE_ACCOUNT, account);
        let mut request = tokens::Issue {
            namespace: "tools",
            name: "robot",
            uid: "u1",
            audiences: Vec::new(),
            seconds: 3600,
            pod: None,
            node: None,
            secret: None,
        };
        bind(&mut request);
        let token = auth.issue(&request).unwrap().token;
        let mut holds = |value: Option<Value>| {
            match value {
                Some(value) => put(&mut cluster, kind, value),
                None => drop(cluster.remove(kind, namespace, "it", 1)),
            }
            auth.review(&cluster, &token, &[]).is_ok()
        };
        let ended = |seconds: i64| {
            let at = Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
            json!({"deletionTimestamp": at.to_string()})
        };
        assert!(!holds(None), "{}", kind.kind);
        assert!(holds(Some(object("i1", json!({})))), "{}", kind.kind);
        assert!(holds(Some(object("i1", ended(5)))), "{}: just now", kind.kind);
        assert!(!holds(Some(object("i1", ended(100)))), "{}: long ago", kind.kind);
        assert!(!holds(Some(object("i2", json!({})))), "{}: made anew", kind.kind);
    };
    check(&kinds::POD, |request| request.pod = Some(("it", "i1")));
    check(&kinds::SECRET, |request| request.secret = Some(("it", "i1")));
    check(&kinds::NODE, |request| request.node = Some(("it", "i1")));
}

#[test]
fn secrets_of_service_accounts_are_given_tokens() {
    use coracle_api::plan::{Controller, Key, Write};

    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path());
    let controller = legacy_tokens::LegacyTokens { auth: auth.clone() };
    let mut cluster = Cluster::new(Timestamp::now());
    let account =
        |uid: &str| json!({"metadata": {"name": "robot", "namespace": "tools", "uid": uid}});
    put(&mut cluster, &kinds::SERVICE_ACCOUNT, account("u1"));
    let mut secret = json!({
        "metadata": {"name": "key", "namespace": "tools", "uid": "s1",
                     "annotations": {legacy_tokens::NAME: "robot"}},
        "type": legacy_tokens::TYPE,
    });
    put(&mut cluster, &kinds::SECRET, secret.clone());
    let key = Key::new("tools", "key");
    let plan = controller.reconcile(&cluster, &key);
    let [Write::Patch { patch, .. }] = &plan.writes[..] else { panic!("{:?}", plan.writes) };
    assert_eq!(patch["metadata"]["annotations"]["kubernetes.io/service-account.uid"], "u1");
    let data = &patch["data"];
    let decode = |field: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(data[field].as_str().unwrap());
        String::from_utf8(bytes.unwrap()).unwrap()
    };
    assert_eq!(
        (decode("ca.crt"), decode("namespace")),
        (auth.pki().ca_pem().into(), "tools".into())
    );
    let token = decode("token");
    // Not before the Secret holds it.
    assert!(auth.review(&cluster, &token, &[]).is_err());
    secret["data"] = data.clone();
    secret["metadata"]["annotations"]["kubernetes.io/service-account.uid"] = "u1".into();
    put(&mut cluster, &kinds::SECRET, secret.clone());
    assert!(controller.reconcile(&cluster, &key).is_empty());
    let verified = auth.review(&cluster, &token, &[]).unwrap();
    assert_eq!(verified.identity.user, "system:serviceaccount:tools:robot");
    assert!(auth.review(&cluster, &token, &["vault".to_owned()]).is_err());
    // Marked as invalid; the account made anew: the token holds no more, and the Secret goes.
    let mut marked = secret.clone();
    marked["metadata"]["labels"] =
        json!({"kubernetes.io/legacy-token-invalid-since": "2026-01-01"});
    put(&mut cluster, &kinds::SECRET, marked);
    assert!(auth.review(&cluster, &token, &[]).is_err());
    put(&mut cluster, &kinds::SECRET, secret);
    put(&mut cluster, &kinds::SERVICE_ACCOUNT, account("u2"));
    assert!(auth.review(&cluster, &token, &[]).is_err());
    let plan = controller.reconcile(&cluster, &key);
    assert!(matches!(&plan.writes[..], [Write::Delete { .. }]), "{:?}", plan.writes);
}

#[test]
fn join_tokens_hold_until_they_end() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "coracle1.0.0").unwrap();
    let auth = auth(dir.path());
    assert!(!dir.path().join("token").exists(), "no lasting token is left about");
    let mut cluster = Cluster::new(Timestamp::now());
    let mut make = |id: &str, seconds: i64| {
        let token = JoinToken { id: id.to_owned(), ..new_join_token(auth.pki().ca()) };
        let stored = Stored {
            id: id.to_owned(),
            hash: join_token_hash(&token),
            expires: Timestamp::now() + jiff::SignedDuration::from_secs(seconds),
            description: String::new(),
        };
        let mut secret = stored.secret();
        (kinds::SECRET.default)(&mut secret);
        assert!(!secret.to_string().contains(&token.secret));
        put(&mut cluster, &kinds::SECRET, secret);
        token
    };
    let (good, old) = (make("good00", 60), make("old000", -1));
    let unknown = JoinToken { id: "none00".to_owned(), ..good.clone() };
    let other = JoinToken { secret: "0".repeat(32), ..good.clone() };
    let local = JoinToken::parse(&auth.local_token()).unwrap();
    let ask = |token: &JoinToken| {
        let mut headers = HeaderMap::new();
        let bearer = format!("Bearer {}", token.bearer());
        headers.insert(http::header::AUTHORIZATION, HeaderValue::from_str(&bearer).unwrap());
        auth.authenticate(&cluster, &headers, None)
    };
    for (token, expected) in [
        (&good, Ok("system:bootstrap:good00")),
        (&local, Ok("system:bootstrap:local0")),
        (&old, Err("expired at")),
        (&unknown, Err("is none of this cluster's")),
        (&other, Err("is not as it was made")),
    ] {
        match (ask(token), expected) {
            (Ok(identity), Ok(user)) => {
                assert_eq!(identity.user, user);
                assert_eq!(identity.groups, [BOOTSTRAPPERS, AUTHENTICATED]);
            }
            (Err(error), Err(part)) => {
                assert_eq!(error.code, 401);
                for part in [part, &token.id, "coracle token create"] {
                    assert!(error.message.contains(part), "{}", error.message);
                }
                assert!(!error.message.contains(&token.secret));
            }
            (outcome, _) => panic!("{}: {outcome:?}", token.id),
        }
    }
    auth.end_local_token();
    assert!(ask(&local).is_err());
}

fn request(organizations: &[&str], name: &str) -> csr::Request {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for organization in organizations {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, *organization);
    }
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    csr::Request::parse(pem.as_bytes()).unwrap()
}

#[test]
fn who_shows_a_certificate_is_its_subject_while_it_lasts() {
    use rustls_pki_types::pem::PemObject;
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path());
    let request = request(&[NODES], "system:node:n1");
    for (seconds, usages, holds) in
        [(3600, &["client auth"][..], true), (0, &["client auth"], false)]
    {
        let pem = auth.pki().sign(&request, usages, seconds).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        // Longer than none.
        std::thread::sleep(std::time::Duration::from_millis(1100 * u64::from(!holds)));
        match auth.authenticate(&Cluster::default(), &HeaderMap::new(), Some(&der)) {
            Ok(identity) => {
                assert!(holds);
                assert_eq!(identity.user, "system:node:n1");
                assert_eq!(identity.groups, [NODES, AUTHENTICATED]);
            }
            Err(error) => assert!(!holds && error.code == 401),
        }
    }
}

#[test]
fn keys_stay_as_they_are_and_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let first = auth(dir.path());
    let second = auth(dir.path());
    assert_eq!(first.pki().pair("admin").unwrap().cert, second.pki().pair("admin").unwrap().cert);
    for entry in std::fs::read_dir(dir.path().join("pki")).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
