//! Which certificate requests are approved, and when they go.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::csr::{self, NODE_CLIENT, NODE_SERVING};
use coracle_api::kinds::{CERTIFICATE_SIGNING_REQUEST as CSR, NODE};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType,
    SigningKey,
};

use super::*;

/// A key for each name, the same at every call.
fn key(name: &'static str) -> &'static KeyPair {
    static KEYS: OnceLock<Vec<(&str, KeyPair)>> = OnceLock::new();
    let all = KEYS.get_or_init(|| {
        let make = |name| (name, KeyPair::generate().expect("a key"));
        ["ca", "other-ca", "a", "b"].map(make).into()
    });
    &all.iter().find(|(known, _)| *known == name).expect("a known name").1
}

fn subject(organization: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A CA's certificate, DER, and what signs with it.
fn ca(name: &'static str) -> (Vec<u8>, Issuer<'static, &'static KeyPair>) {
    let mut params = subject("x", "ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(key(name)).expect("a certificate");
    (certificate.der().to_vec(), Issuer::new(params, key(name)))
}

/// A request as an object; `proof` is by whose certificate, of which node, it shows that it is the same machine's.
struct Asked {
    name: &'static str,
    by: &'static str,
    user: &'static str,
    signer: &'static str,
    usages: &'static [&'static str],
    organization: &'static str,
    sans: &'static [&'static str],
    key: &'static str,
    proof: Option<(&'static str, &'static str)>,
    condition: &'static str,
}

const JOINS: Asked = Asked {
    name: "csr",
    by: "system:bootstrap:abc123",
    user: "system:node:n1",
    signer: NODE_CLIENT,
    usages: &["digital signature", "client auth"],
    organization: "system:nodes",
    sans: &[],
    key: "a",
    proof: None,
    condition: "",
};
const SERVES: Asked = Asked {
    by: "system:node:n1",
    signer: NODE_SERVING,
    usages: &["digital signature", "server auth"],
    sans: &["n1"],
    ..JOINS
};

impl Asked {
    fn object(&self) -> (&'static Kind, Value) {
        let mut params = subject(self.organization, self.user);
        params.subject_alt_names = self
            .sans
            .iter()
            .map(|san| match san.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName((*san).try_into().expect("a name")),
            })
            .collect();
        let request = params.serialize_request(key(self.key)).expect("a request");
        let mut annotations = json!({});
        if let Some((by, node)) = self.proof {
            let (_, issuer) = ca(by);
            let old = subject("system:nodes", &format!("system:node:{node}"));
            let old = old.signed_by(key("b"), &issuer).expect("a certificate");
            let signature = key("b").sign(request.der()).expect("a signature");
            annotations[csr::RENEWS] = csr::renews(old.der(), &signature).into();
        }
        let conditions = match self.condition {
            "" => json!([]),
            kind => {
                json!([{"type": kind, "status": "True", "lastUpdateTime": "2029-12-31T23:30:00Z"}])
            }
        };
        let groups =
            if self.by.contains("node") { ["system:nodes"] } else { ["system:bootstrappers"] };
        let object = json!({
            "metadata": {"name": self.name, "annotations": annotations},
            "spec": {
                "request": STANDARD.encode(request.pem().expect("PEM")),
                "signerName": self.signer, "usages": self.usages,
                "username": self.by, "groups": groups,
            },
            "status": {"conditions": conditions},
        });
        (&CSR, object)
    }
}

fn node() -> (&'static Kind, Value) {
    (&NODE, json!({"metadata": {"name": "n1"}}))
}

/// Decisions of the approver, by request.
fn decisions(cluster: &Cluster) -> Vec<(String, String, String)> {
    let may = |_: &Cluster, who: &Requester, what: &str| {
        let group = if what == "nodeclient" { "system:bootstrappers" } else { "system:nodes" };
        who.groups.iter().any(|known| known == group)
    };
    let approver = CertificateApprover { may, ca: ca("ca").0 };
    let mut keys: Vec<Key> =
        cluster.list(&CSR).flat_map(|csr| approver.wakes(cluster, csr)).collect();
    keys.sort();
    keys.dedup();
    let mut all = Vec::new();
    for key in keys {
        for (name, patch) in patches(&approver.reconcile(cluster, &key)) {
            let condition = patch["status"]["conditions"].as_array().unwrap().last().unwrap();
            let text = |field: &str| condition[field].as_str().unwrap().to_owned();
            all.push((name.to_owned(), text("type"), text("message")));
        }
    }
    all
}

#[test]
fn nodes_get_what_is_theirs() {
    let own = Asked { by: "system:node:n1", ..JOINS };
    for (what, asked, has_node, expected) in [
        ("a new machine", JOINS, false, "Approved"),
        ("another machine has the name", JOINS, true, "Denied"),
        ("the node's next certificate", Asked { ..own }, true, "Approved"),
        ("of another node", Asked { by: "system:node:n2", ..JOINS }, false, ""),
        ("by nobody", Asked { by: "jane-node", ..JOINS }, false, ""),
        ("decided already", Asked { condition: "Denied", ..JOINS }, false, ""),
        ("another group", Asked { organization: "system:masters", ..JOINS }, false, ""),
        ("no node", Asked { user: "kubernetes-admin", ..JOINS }, false, ""),
        ("a server's", Asked { usages: &["digital signature", "server auth"], ..JOINS }, false, ""),
        ("names", Asked { sans: &["n1"], ..JOINS }, false, ""),
        (
            "another signer",
            Asked { signer: "kubernetes.io/kube-apiserver-client", ..JOINS },
            false,
            "",
        ),
        ("serves", SERVES, true, "Approved"),
        ("serves by token", Asked { by: "system:bootstrap:abc123", ..SERVES }, false, ""),
        ("serves as others", Asked { sans: &["n1", "kubernetes"], ..SERVES }, true, ""),
        ("serves at addresses", Asked { sans: &["n1", "10.0.0.1"], ..SERVES }, true, ""),
        ("serves as nobody", Asked { sans: &[], ..SERVES }, true, ""),
        ("the same machine", Asked { proof: Some(("ca", "n1")), ..JOINS }, true, "Approved"),
        ("was another node", Asked { proof: Some(("ca", "n2")), ..JOINS }, true, "Denied"),
        ("of another cluster", Asked { proof: Some(("other-ca", "n1")), ..JOINS }, true, "Denied"),
    ] {
        let mut objects = vec![asked.object()];
        objects.extend(has_node.then(node));
        let decided = decisions(&cluster(objects));
        let decision = decided.first().map_or("", |(_, decision, _)| decision);
        assert_eq!(decision, expected, "{what}: {decided:?}");
        if expected == "Denied" {
            assert!(decided[0].2.contains("kubectl delete node n1"), "{decided:?}");
        }
    }
}

/// A proof is of one request: who sees it cannot send it along with its own.
#[test]
fn proofs_are_not_used_again() {
    let (_, proven) = Asked { proof: Some(("ca", "n1")), ..JOINS }.object();
    let (_, mut stolen) = Asked { key: "b", ..JOINS }.object();
    stolen["metadata"]["annotations"] = proven["metadata"]["annotations"].clone();
    let decided = decisions(&cluster([(&CSR, stolen), node()]));
    assert_eq!(decided[0].1, "Denied", "{decided:?}");
}

#[test]
fn of_machines_that_join_at_once_one_gets_the_name() {
    let second = || Asked { name: "second", key: "b", ..JOINS };
    let decided = decisions(&cluster([JOINS.object(), second().object()]));
    let short: Vec<_> = decided.iter().map(|(name, what, _)| (&**name, &**what)).collect();
    assert_eq!(short, [("csr", "Approved"), ("second", "Denied")]);
    let approved = || Asked { condition: "Approved", ..JOINS };
    let decided = decisions(&cluster([approved().object(), second().object()]));
    assert_eq!((&*decided[0].0, &*decided[0].1), ("second", "Denied"));
    assert!(decided[0].2.contains("kubectl delete csr"), "{decided:?}");
    // The same machine, which did not hear the answer.
    let again = Asked { name: "again", ..JOINS };
    let decided = decisions(&cluster([approved().object(), again.object()]));
    assert_eq!((&*decided[0].0, &*decided[0].1), ("again", "Approved"));
}

#[test]
fn requests_go_when_they_are_done_with() {
    let issued = |object: (&'static Kind, Value)| {
        let (kind, mut value) = object;
        value["status"]["certificate"] = "eA==".into();
        (kind, value)
    };
    let registered =
        (&NODE, json!({"metadata": {"name": "n1", "creationTimestamp": "2029-12-31T00:00:01Z"}}));
    let earlier =
        (&NODE, json!({"metadata": {"name": "n1", "creationTimestamp": "2029-12-30T00:00:00Z"}}));
    let approved = || Asked { condition: "Approved", ..JOINS };
    for (what, objects, expected) in [
        ("pending for a day", vec![JOINS.object()], None),
        ("decided half an hour ago", vec![issued(approved().object())], Some(1800)),
        ("its machine is a node", vec![issued(approved().object()), registered.clone()], None),
        ("its machine was one", vec![issued(approved().object()), earlier], Some(1800)),
        ("not issued yet", vec![approved().object(), registered.clone()], Some(1800)),
        (
            "a node's own",
            vec![issued(Asked { condition: "Approved", ..SERVES }.object()), registered],
            Some(1800),
        ),
    ] {
        let cluster = cluster(objects);
        let plan = CertificateCleaner.reconcile(&cluster, &Key::new("", "csr"));
        assert_eq!(plan.requeue_after.map(|after| after.as_secs()), expected, "{what}");
        assert_eq!(plan.writes.len(), usize::from(expected.is_none()), "{what}");
        for node in cluster.list(&NODE) {
            assert_eq!(CertificateCleaner.wakes(&cluster, node), [Key::new("", "csr")]);
        }
    }
}
