//! What a namespace and its webhooks let in, as kubectl's users see it.

use std::sync::Arc;

use coracle_test_cluster::eventually;

use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, SOON, expect, hello};

pub(crate) async fn a_quota_bounds_what_controllers_make(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_guest("hello-v1", "hello:v1").await?;
    cluster.kubectl(&["create", "quota", "few", "--hard=pods=2,configmaps=2"]).await?;
    cluster.apply(&hello("web", "hello:v1", 3)).await?;
    eventually(SOON, "two Pods are ready, the third is refused and told of", async || {
        let deployment = cluster.get(&["deployment", "web"]).await?;
        anyhow::ensure!(deployment["status"]["readyReplicas"] == 2, "{deployment:#}");
        let events = cluster.kubectl(&["get", "events"]).await?;
        expect(
            &events,
            &[
                "FailedCreate",
                "exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2",
            ],
        )?;
        let described = cluster.kubectl(&["describe", "quota", "few"]).await?;
        expect(&described, &["configmaps  1     2", "pods        2     2"])
    })
    .await?;
    cluster.kubectl(&["create", "configmap", "a"]).await?;
    let refused = cluster.kubectl_with(&["create", "configmap", "b"], "").await?.refused()?;
    expect(
        &refused,
        &[
            "configmaps \"b\" is forbidden: exceeded quota: few, requested: configmaps=1, used: configmaps=2, limited: configmaps=2",
        ],
    )?;
    // Room is used as soon as there is some.
    cluster
        .kubectl(&["patch", "quota", "few", "-p", r#"{"spec": {"hard": {"pods": "3"}}}"#])
        .await?;
    cluster.kubectl(&["rollout", "status", "deployment/web", PATIENCE]).await.map(|_| ())
}

pub(crate) async fn a_restricted_namespace_runs_what_says_all_it_must(
    context: Arc<Context>,
) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_guest("hello-v1", "hello:v1").await?;
    let labels =
        ["enforce", "warn"].map(|mode| format!("pod-security.kubernetes.io/{mode}=restricted"));
    let [enforce, warn] = &labels;
    cluster.kubectl(&["label", "namespace", "default", enforce, warn]).await?;
    let refused = ["run", "loose", "--image=hello:v1"];
    let refused = cluster.kubectl_with(&refused, "").await?.refused()?;
    expect(
        &refused,
        &[
            "pods \"loose\" is forbidden: violates PodSecurity \"restricted:latest\"",
            "allowPrivilegeEscalation != false (container \"loose\" must set securityContext.allowPrivilegeEscalation=false)",
        ],
    )?;
    let loose = hello("web", "hello:v1", 1);
    let made = cluster.kubectl_with(&["apply", "-f", "-"], &loose).await?;
    expect(&made.stderr, &["Warning: would violate PodSecurity \"restricted:latest\""])?;
    let container = r#"{"name": "c", "image": "hello:v1", "securityContext": {
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}"#;
    let pod = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "tight"}}, "spec": {{
        "securityContext": {{"runAsNonRoot": true, "seccompProfile": {{"type": "RuntimeDefault"}}}},
        "containers": [{container}]}}}}"#
    );
    let made = cluster.kubectl_with(&["apply", "-f", "-"], &pod).await?;
    anyhow::ensure!(!made.stderr.contains("Warning"), "{made}");
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/tight", PATIENCE]).await.map(|_| ())
}

pub(crate) async fn a_webhook_that_is_not_there_stops_what_it_is_for(
    context: Arc<Context>,
) -> Outcome {
    let cluster = context.up().await?;
    let hook = |policy: &str| {
        format!(
            r#"{{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {{"name": "guard"}}, "webhooks": [{{
                "name": "guard.example.com", "failurePolicy": "{policy}", "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {{"service": {{"name": "guard", "namespace": "default", "path": "/check"}}}},
                "rules": [{{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                            "resources": ["configmaps"]}}]}}]}}"#
        )
    };
    cluster.apply(&hook("Fail")).await?;
    let create = ["create", "configmap", "a"];
    let refused = cluster.kubectl_with(&create, "").await?.refused()?;
    expect(
        &refused,
        &[
            "Internal error occurred: failed calling webhook \"guard.example.com\": failed to call webhook:",
            "Post \"https://guard.default.svc:443/check?timeout=10s\": service \"guard\" not found",
        ],
    )?;
    cluster.apply(&hook("Ignore")).await?;
    cluster.kubectl(&create).await?;
    let table = cluster.kubectl(&["get", "validatingwebhookconfigurations"]).await?;
    expect(&table, &["NAME    WEBHOOKS   AGE", "guard   1"])
}
