//! Certificate requests of nodes: approved as upstream's csrapproving and csrcleaner controllers do it, signed elsewhere.
//!
//! A machine that joins asks by its token for a node's client certificate; a node asks by that for its serving certificate,
//! and for its next ones. Beyond upstream, nobody gets a certificate for a name that another machine has: a request by token is
//! denied where there is a Node of that name already, or where somebody else was given a certificate to make it with, unless
//! the request proves that its sender had one of that name before ([`csr::RENEWS`]).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use coracle_api::csr::{self, NODE_CLIENT, NODE_SERVING, Request};
use coracle_api::kinds::{CERTIFICATE_SIGNING_REQUEST as CSR, NODE};
use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// How long requests stay that were decided or failed.
const DONE: Duration = Duration::from_secs(3600);
/// How long requests wait for a decision.
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// Who asked for a certificate, as authorization sees it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Requester {
    /// User name.
    pub username: String,
    /// UID of the user, where known.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// More, by key.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Approves requests of nodes. Unlike the others it must be told something: what requesters may do, and the CA.
pub struct CertificateApprover {
    /// Whether a requester may create that subresource of certificatesigningrequests: `nodeclient`, `selfnodeclient` or
    /// `selfnodeserver`.
    pub may: fn(&Cluster, &Requester, &str) -> bool,
    /// The CA's certificate, DER.
    pub ca: Vec<u8>,
}

/// Removes requests that are done with.
#[derive(Debug, Clone, Copy)]
pub struct CertificateCleaner;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    signer_name: String,
    usages: Vec<String>,
    #[serde(deserialize_with = "request")]
    request: Option<Request>,
    #[serde(flatten)]
    requester: Requester,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
    certificate: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    r#type: String,
    last_update_time: Option<Timestamp>,
}

fn request<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Request>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let pem = base64::engine::general_purpose::STANDARD.decode(text).ok();
    Ok(pem.and_then(|pem| Request::parse(&pem).ok()))
}

impl View {
    fn of(object: &Object) -> Cow<'_, View> {
        object.decode().unwrap_or_else(|_| Cow::Owned(View::default()))
    }

    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|c| c.r#type == kind)
    }

    fn is_pending(&self) -> bool {
        ["Approved", "Denied"].iter().all(|kind| self.condition(kind).is_none())
    }

    /// The node that a certificate is asked for, with the request.
    fn node(&self) -> Option<(&str, &Request)> {
        let Spec { signer_name, usages, request, .. } = &self.spec;
        if signer_name != NODE_CLIENT && signer_name != NODE_SERVING {
            return None;
        }
        let usages: Vec<&str> = usages.iter().map(String::as_str).collect();
        let request = request.as_ref()?;
        Some((request.node(signer_name, &usages).ok()?, request))
    }

    /// Whether the node itself asks.
    fn is_own(&self) -> bool {
        let name = self.spec.request.as_ref().map(|request| request.common_name.as_str());
        name == Some(self.spec.requester.username.as_str())
    }

    /// Whether a machine joins by it.
    fn joins(&self) -> bool {
        self.spec.signer_name == NODE_CLIENT && !self.is_own()
    }
}

impl Controller for CertificateApprover {
    fn name(&self) -> &'static str {
        "certificate-approver"
    }

    /// All requests for one node are one key: two at once must not both find the name free.
    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource != CSR.resource {
            return Vec::new();
        }
        let view = View::of(object);
        view.node().map(|(node, _)| Key::new("", node)).into_iter().collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let all = cluster.list(&CSR).map(|object| (object, View::of(object)));
        let of_node: Vec<_> =
            all.filter(|(_, view)| view.node().is_some_and(|(node, _)| node == key.name)).collect();
        let mut given: Vec<&Request> = Vec::new();
        let approved =
            of_node.iter().filter(|(_, v)| v.joins() && v.condition("Approved").is_some());
        given.extend(approved.filter_map(|(_, view)| Some(view.node()?.1)));
        for (object, view) in of_node.iter().filter(|(_, view)| view.is_pending()) {
            let Some((node, request)) = view.node() else { continue };
            let (permission, what) = match (view.spec.signer_name.as_str(), view.is_own()) {
                (NODE_CLIENT, true) => ("selfnodeclient", "self kubelet client certificate"),
                (NODE_CLIENT, false) => ("nodeclient", "kubelet client certificate"),
                // Under its own name alone: other names, and addresses, somebody has to look at.
                (_, true) if request.dns == [node] && request.ips.is_empty() => {
                    ("selfnodeserver", "self kubelet serving certificate")
                }
                _ => continue,
            };
            if !(self.may)(cluster, &view.spec.requester, permission) {
                continue;
            }
            if view.joins()
                && let Some(why) = self.taken(cluster, object, node, request, &given)
            {
                decide(&mut plan, object, "Denied", "NodeNameTaken", why);
                continue;
            }
            if view.joins() {
                given.push(request);
            }
            let message = format!("Auto approving {what} after SubjectAccessReview.");
            decide(&mut plan, object, "Approved", "AutoApproved", message);
        }
        plan
    }
}

impl CertificateApprover {
    /// Why a machine must not join under a name, if another has it; `given` are the requests by which machines got it.
    fn taken(
        &self,
        cluster: &Cluster,
        object: &Object,
        node: &str,
        request: &Request,
        given: &[&Request],
    ) -> Option<String> {
        let proof = object.meta.annotations.get(csr::RENEWS);
        if proof.is_some_and(|proof| csr::proves(proof, &self.ca, node, &request.der)) {
            return None;
        }
        if cluster.get(&NODE, "", node).is_some() {
            return Some(format!(
                "there is a Node \"{node}\" already, whose identity this machine does not have: join under another --name; or, if this machine is that node and has lost its data folder, run `kubectl delete node {node}` first"
            ));
        }
        // The same machine may ask again, if it did not hear the answer.
        let others = given.iter().filter(|other| other.public_key != request.public_key).count();
        (others > 0).then(|| format!(
            "another machine is joining as \"{node}\" at this time: join under another --name; or, if that one has been given up, remove its request (`kubectl get csr`, `kubectl delete csr NAME`) first"
        ))
    }
}

fn decide(plan: &mut Plan, csr: &Object, decision: &str, reason: &str, message: String) {
    let mut conditions = csr.value()["status"]["conditions"].take();
    let condition =
        json!({"type": decision, "status": "True", "reason": reason, "message": message});
    match &mut conditions {
        Value::Array(list) => list.push(condition),
        none => *none = json!([condition]),
    }
    plan.patch_approval(csr, json!({"status": {"conditions": conditions}}));
}

impl Controller for CertificateCleaner {
    fn name(&self) -> &'static str {
        "certificate-cleaner"
    }

    fn wakes(&self, cluster: &Cluster, object: &Object) -> Vec<Key> {
        if object.kind.resource == CSR.resource {
            return vec![Key::of(object)];
        }
        if object.kind.resource != NODE.resource {
            return Vec::new();
        }
        let of_node = |csr: &&std::sync::Arc<Object>| {
            View::of(csr).node().is_some_and(|(node, _)| node == object.meta.name)
        };
        cluster.list(&CSR).filter(of_node).map(|csr| Key::of(csr)).collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(csr) = cluster.get(&CSR, "", &key.name) else { return plan };
        let view = View::of(csr);
        let created = csr.meta.creation_timestamp.unwrap_or(cluster.now);
        let decided = ["Approved", "Denied", "Failed"].iter().find_map(|kind| view.condition(kind));
        // A machine that joined and made its Node has its certificate, and the name is taken by the Node from then on.
        let node = view.node().and_then(|(node, _)| cluster.get(&NODE, "", node));
        let registered = node.and_then(|node| node.meta.creation_timestamp);
        if view.joins()
            && !view.status.certificate.is_empty()
            && registered.is_some_and(|registered| registered >= created)
        {
            plan.delete(csr, Propagation::Background);
            return plan;
        }
        let (since, kept) = match decided {
            Some(condition) => (condition.last_update_time.unwrap_or(created), DONE),
            None => (created, PENDING),
        };
        // Whoever decides writes the time.
        let due = since.checked_add(kept).unwrap_or(Timestamp::MAX);
        match Duration::try_from(due.duration_since(cluster.now)) {
            Ok(left) if !left.is_zero() => plan.requeue(left),
            _ => plan.delete(csr, Propagation::Background),
        }
        plan
    }
}
