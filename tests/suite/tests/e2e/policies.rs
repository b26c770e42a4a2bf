//! Policies that change what kubectl's users ask for: what they put into Pods is what runs.

use std::sync::Arc;

use coracle_test_cluster::eventually;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, command_pod, expect};

/// Puts what a ConfigMap says into the environment of each container, and marks what it did so that it is done once.
const APPLIED: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: paint.example.com}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  matchConditions:
  - {name: not-painted, expression: "!has(object.metadata.annotations) || !('painted' in object.metadata.annotations)"}
  variables:
  - {name: colour, expression: params.data.colour}
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: >-
        Object{
          metadata: Object.metadata{annotations: {"painted": variables.colour}},
          spec: Object.spec{
            containers: object.spec.containers.map(c, Object.spec.containers{
              name: c.name,
              env: [Object.spec.containers.env{name: "COLOUR", value: variables.colour}]
            })
          }
        }
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: paint}
spec:
  policyName: paint.example.com
  paramRef: {name: settings, namespace: default, parameterNotFoundAction: Deny}
"#;

/// Says to each Pod's first container whom it belongs to.
const PATCHED: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: sign.example.com}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  failurePolicy: Fail
  reinvocationPolicy: Never
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: >-
        [
          JSONPatch{op: "test", path: "/spec/containers/0/name", value: "main"},
          JSONPatch{
            op: "add", path: "/spec/containers/0/env/-",
            value: Object.spec.containers.env{name: "OWNER", value: request.userInfo.username}
          },
          JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("example.com/owned"), value: "yes"}
        ]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: sign}
spec: {policyName: sign.example.com}
"#;

pub(crate) async fn what_they_add_is_what_runs(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    let created = cluster.apply(APPLIED).await?;
    expect(
        &created,
        &[
            "mutatingadmissionpolicy.admissionregistration.k8s.io/paint.example.com created",
            "mutatingadmissionpolicybinding.admissionregistration.k8s.io/paint created",
        ],
    )?;
    let table = cluster.kubectl(&["get", "mutatingadmissionpolicies"]).await?;
    expect(&table, &["NAME", "MUTATIONS", "PARAMKIND", "paint.example.com", "v1/ConfigMap"])?;
    // What the policy needs is not there yet.
    let run = ["run", "a", "--image=hello-command:v1"];
    let refused = cluster.kubectl_with(&run, "").await?.refused()?;
    expect(&refused, &["policy 'paint.example.com' with binding 'paint' denied request: "])?;
    cluster.kubectl(&["create", "configmap", "settings", "--from-literal=colour=blue"]).await?;
    cluster.apply(PATCHED).await?;

    cluster.apply(&command_pod("main", "Never", &[])).await?;
    let pod = cluster.get(&["pod", "main"]).await?;
    anyhow::ensure!(pod["metadata"]["annotations"]["painted"] == "blue", "{pod:#}");
    anyhow::ensure!(pod["metadata"]["labels"]["example.com/owned"] == "yes", "{pod:#}");
    eventually(SOON, "it ran to its end", async || {
        let status = cluster.get(&["pod", "main"]).await?["status"].clone();
        anyhow::ensure!(status["phase"] == "Succeeded", "{status:#}");
        Ok(())
    })
    .await?;
    let owner = pod["spec"]["containers"][0]["env"][1]["value"].as_str().unwrap_or_default();
    anyhow::ensure!(!owner.is_empty(), "{pod:#}");
    let logs = cluster.kubectl(&["logs", "main"]).await?;
    expect(&logs, &["COLOUR=blue", &format!("OWNER={owner}")])?;

    // A patch whose test fails is not for this Pod; what cannot be done stands against it.
    let other = command_pod("other", "Never", &[]).replace("name: main", "name: side");
    cluster.apply(&other).await?;
    let pod = cluster.get(&["pod", "other"]).await?;
    anyhow::ensure!(pod["spec"]["containers"][0]["env"][0]["value"] == "blue", "{pod:#}");
    anyhow::ensure!(pod["spec"]["containers"][0]["env"].get(1).is_none(), "{pod:#}");
    cluster.kubectl(&["delete", "mutatingadmissionpolicybinding", "paint"]).await?;
    let bare = command_pod("bare", "Never", &[]);
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], &bare).await?.refused()?;
    let why = "policy 'sign.example.com' with binding 'sign' denied request: JSONPath: add operation does not apply";
    expect(&refused, &[why])?;
    // Without their bindings they change nothing any more.
    cluster.kubectl(&["delete", "mutatingadmissionpolicybinding", "sign"]).await?;
    cluster.apply(&bare).await?;
    let pod = cluster.get(&["pod", "bare"]).await?;
    anyhow::ensure!(pod["spec"]["containers"][0].get("env").is_none(), "{pod:#}");
    Ok(())
}
