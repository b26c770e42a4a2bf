//! How fast the API takes writes that everything configurable has a say in, but for webhooks, which are others' programs.

use anyhow::bail;
use serde_json::{Value, json};

use super::{QUIET, create};
use crate::Bench;
use crate::api::Connection;
use crate::cluster::Cluster;
use crate::report::{Measured, quantile};

const PODS: usize = 5000;
const ROUNDS: usize = 3;
const NAMESPACE: &str = "guarded";

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let cluster = Cluster::start(bench, QUIET).await?;
        let mut connection = cluster.connect().await?;
        guard(&mut connection).await?;
        rates.push(create::pods_in(&cluster, NAMESPACE, "pod", PODS, &restricted).await?);
        refuses(&mut cluster.connect().await?).await?;
    }
    let rate = quantile(&mut rates, 0.5);
    Ok(Measured {
        value: format!("{rate:.0}/s"),
        met: rate >= 3000.0,
        notes: format!(
            "{PODS} Pods, as `create`; median of {ROUNDS} new clusters ({:.0} to {:.0}/s). The quota is on Pods, CPU and memory, and \
             is kept exactly; the LimitRange has defaults, bounds and a ratio; the policies look at images, labels and resources, one \
             of them with variables and one with match conditions. Each of these refuses a Pod that breaks it, which is tried.",
            rates[0],
            rates[ROUNDS - 1],
        ),
    })
}

/// What guards the namespace.
async fn guard(connection: &mut Connection) -> anyhow::Result<()> {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted", "guarded": "yes"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}});
    connection.ensure("/api/v1/namespaces", &namespace).await?;
    let hard = json!({"pods": PODS.to_string(), "requests.cpu": "1k", "requests.memory": "10Ti", "count/pods": PODS.to_string()});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "most"}, "spec": {"hard": hard}});
    let path = format!("/api/v1/namespaces/{NAMESPACE}");
    connection.create(&format!("{path}/resourcequotas"), quota.to_string()).await?;
    let limits = json!({
        "type": "Container", "default": {"cpu": "100m"}, "defaultRequest": {"cpu": "10m"},
        "max": {"cpu": "2", "memory": "1Gi"}, "min": {"memory": "4Mi"}, "maxLimitRequestRatio": {"cpu": "20"},
    });
    let limits = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "sizes"}, "spec": {"limits": [limits]}});
    connection.create(&format!("{path}/limitranges"), limits.to_string()).await?;

    let images = json!({"validations": [{
        "expression": "object.spec.containers.all(c, c.image.startsWith('registry.example.com/'))",
        "message": "images come from the company's registry",
    }]});
    let owners = json!({
        "variables": [{"name": "owner", "expression": "object.metadata.?annotations['example.com/owner'].orValue('')"}],
        "validations": [{"expression": "variables.owner.matches('^team-[a-z]+$')", "messageExpression": "'no team: ' + variables.owner"}],
    });
    let sizes = json!({
        "matchConditions": [{"name": "not-of-the-system", "expression": "!request.userInfo.username.startsWith('system:node:')"}],
        "validations": [{"expression": "object.spec.containers.all(c, has(c.resources.limits) && 'memory' in c.resources.limits && \
            quantity(c.resources.limits['memory']).isLessThan(quantity('2Gi')))"}],
    });
    let group = "/apis/admissionregistration.k8s.io/v1";
    for (name, mut spec) in [("images", images), ("owners", owners), ("sizes", sizes)] {
        spec["failurePolicy"] = "Fail".into();
        let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["pods"]});
        spec["matchConstraints"] = json!({"resourceRules": [rule]});
        let api = "admissionregistration.k8s.io/v1";
        let policy = json!({"apiVersion": api, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec});
        let path = format!("{group}/validatingadmissionpolicies");
        connection.create(&path, policy.to_string()).await?;
        let binding = json!({
            "apiVersion": api, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
            "spec": {
                "policyName": name, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {"guarded": "yes"}}},
            },
        });
        let path = format!("{group}/validatingadmissionpolicybindings");
        connection.create(&path, binding.to_string()).await?;
    }
    Ok(())
}

/// The usual Pod, with what the strictest standard asks for.
fn restricted(name: &str) -> Value {
    let mut pod = create::pod(name);
    pod["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    pod
}

/// That each has its say, and that the quota is full to the last Pod.
async fn refuses(connection: &mut Connection) -> anyhow::Result<()> {
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let cases: [(&str, Value, &str); 6] = [
        ("/spec/containers/0/image", json!("other.example.com/web"), "the company's registry"),
        ("/metadata/annotations/example.com~1owner", json!("me"), "no team: me"),
        ("/spec/containers/0/resources/limits/memory", json!("3Gi"), "maximum memory usage"),
        ("/spec/securityContext/runAsNonRoot", json!(false), "violates PodSecurity"),
        ("/spec/containers/0/resources/limits/cpu", json!("1"), "limit to request ratio"),
        ("/metadata/name", json!("one-too-many"), "exceeded quota"),
    ];
    for (pointer, value, wanted) in cases {
        let mut pod = restricted("refused");
        pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "100m".into();
        match pod.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => bail!("the Pod has no {pointer}"),
        }
        match connection.create(&pods, pod.to_string()).await {
            Err(error) if error.to_string().contains(wanted) => {}
            Err(error) => bail!("{pointer} was refused for another reason: {error:#}"),
            Ok(_) => bail!("{pointer} was not refused"),
        }
    }
    Ok(())
}
