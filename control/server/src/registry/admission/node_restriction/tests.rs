use std::sync::OnceLock;

use base64::Engine;
use coracle_api::Object;
use coracle_api::csr::CLIENT;
use serde_json::json;

use super::*;
use crate::auth::NODES;

fn node() -> Identity {
    Identity { user: "system:node:n1".into(), groups: vec![NODES.into()], ..Identity::default() }
}

/// A request for a certificate of that name, as it stands in an object.
fn request(name: &str) -> String {
    static KEY: OnceLock<rcgen::KeyPair> = OnceLock::new();
    let key = KEY.get_or_init(|| rcgen::KeyPair::generate().expect("a key"));
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let pem = params.serialize_request(key).expect("a request").pem().expect("PEM");
    base64::engine::general_purpose::STANDARD.encode(pem)
}

/// Nodes, and where their Pods have addresses.
fn with_ranges() -> Cluster {
    let mut cluster = Cluster::new(jiff::Timestamp::now());
    for (name, range) in [("n1", "10.8.0.0/24"), ("other", "10.8.1.0/24"), ("odd", "10.8.2.0")] {
        let other = json!({"metadata": {"name": name}, "spec": {"podCIDR": range}});
        let other = Object::from_json(&kinds::NODE, other.to_string().into()).expect("a Node");
        cluster.put(std::sync::Arc::new(other));
    }
    cluster
}

#[test]
fn nodes_create_what_is_theirs() {
    let labelled = |label: &str| json!({"metadata": {"name": "n1", "labels": {label: "x"}}});
    let named = |name: &str| json!({"metadata": {"name": name}});
    let ranged = |range: &str| json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": range}});
    let cluster = with_ranges();
    let csr = |signer: &str, name: &str| json!({"metadata": {"name": "c"}, "spec": {"signerName": signer, "request": request(name)}});
    for (kind, new, expected) in [
        (&kinds::NODE, named("n1"), ""),
        (&kinds::NODE, named("n2"), "is not allowed to modify node"),
        (&kinds::NODE, labelled("coracle.dev/runtime-wasm"), ""),
        (&kinds::NODE, labelled("plain"), ""),
        (&kinds::NODE, labelled("kubernetes.io/hostname"), ""),
        (&kinds::NODE, labelled("topology.kubernetes.io/zone"), ""),
        (&kinds::NODE, labelled("x.node.kubernetes.io/y"), ""),
        (&kinds::NODE, labelled("node-role.kubernetes.io/control-plane"), "following labels"),
        (&kinds::NODE, labelled("k8s.io/x"), "following labels"),
        (&kinds::NODE, labelled("node-restriction.kubernetes.io/pci"), "following labels"),
        (&kinds::NODE, labelled("a.node-restriction.kubernetes.io/pci"), "following labels"),
        // Its own and free ones, but none that has an address of another's.
        (&kinds::NODE, ranged("10.8.0.0/24"), ""),
        (&kinds::NODE, ranged("10.8.2.0/24"), ""),
        (&kinds::NODE, ranged("10.8.1.0/24"), "it is of node \"other\""),
        (&kinds::NODE, ranged("10.8.1.128/28"), "it is of node \"other\""),
        (&kinds::NODE, ranged("10.8.0.0/16"), "it is of node \"other\""),
        (&kinds::LEASE, named("n1"), ""),
        (&kinds::LEASE, named("n2"), "node lease"),
        (&kinds::CERTIFICATE_SIGNING_REQUEST, csr(NODE_CLIENT, "system:node:n1"), ""),
        (&kinds::CERTIFICATE_SIGNING_REQUEST, csr(NODE_SERVING, "system:node:n1"), ""),
        (&kinds::CERTIFICATE_SIGNING_REQUEST, csr(NODE_SERVING, "system:node:n2"), "of its own"),
        (
            &kinds::CERTIFICATE_SIGNING_REQUEST,
            csr(CLIENT, "system:node:n1"),
            "certificates of nodes",
        ),
        (&kinds::EVENT, named("n2"), ""),
    ] {
        let said =
            create(&cluster, kind, &node(), &new).err().map(|e| e.message).unwrap_or_default();
        assert_eq!(said.is_empty(), expected.is_empty(), "{kind:?} {new}: {said}");
        assert!(said.contains(expected), "{kind:?} {new}: {said}");
        // Others are none of this.
        assert!(create(&cluster, kind, &Identity::default(), &new).is_ok());
    }
}

#[test]
fn nodes_change_what_is_theirs() {
    let cluster = with_ranges();
    let object = |labels: Value, spec: Value| json!({"metadata": {"name": "n1", "labels": labels}, "spec": spec});
    let old = || object(json!({"a": "1", "node-restriction.kubernetes.io/x": "1"}), json!({}));
    let pod = |labels: Value, finalizers: Value| json!({"metadata": {"name": "p", "namespace": "ns", "labels": labels, "finalizers": finalizers}});
    for (kind, part, old, new, expected) in [
        (&kinds::NODE, "", old(), old(), ""),
        (
            &kinds::NODE,
            "",
            old(),
            object(
                json!({"a": "2", "b": "1", "node-restriction.kubernetes.io/x": "1"}),
                json!({"taints": []}),
            ),
            "",
        ),
        (
            &kinds::NODE,
            "",
            old(),
            object(json!({}), json!({})),
            "modify labels: node-restriction.kubernetes.io/x",
        ),
        (
            &kinds::NODE,
            "",
            old(),
            object(json!({"node-restriction.kubernetes.io/x": "2"}), json!({})),
            "modify labels",
        ),
        (
            &kinds::NODE,
            "",
            object(json!({}), json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})),
            object(json!({}), json!({})),
            "modify taints",
        ),
        (
            &kinds::NODE,
            "",
            object(json!({}), json!({})),
            object(json!({}), json!({"podCIDR": "10.8.2.0/24"})),
            "",
        ),
        // The range that the server is about to give it, it takes from nobody.
        (
            &kinds::NODE,
            "",
            object(json!({}), json!({})),
            object(json!({}), json!({"podCIDR": "10.8.1.0/24"})),
            "it is of node \"other\"",
        ),
        (
            &kinds::POD,
            "status",
            pod(json!({"a": "1"}), json!([])),
            pod(json!({"a": "1"}), json!([])),
            "",
        ),
        (
            &kinds::POD,
            "status",
            pod(json!({"a": "1"}), json!([])),
            pod(json!({"a": "2"}), json!([])),
            "cannot update labels",
        ),
        (
            &kinds::POD,
            "status",
            pod(json!({}), json!(["x"])),
            pod(json!({}), json!([])),
            "cannot update finalizers",
        ),
    ] {
        let said = change(&cluster, kind, &node(), part, &old, &new).err();
        let said = said.map(|e| e.message).unwrap_or_default();
        assert_eq!(said.is_empty(), expected.is_empty(), "{old} {new}: {said}");
        assert!(said.contains(expected), "{old} {new}: {said}");
        assert!(change(&cluster, kind, &Identity::default(), part, &old, &new).is_ok());
    }
}
