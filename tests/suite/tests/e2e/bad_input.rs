//! What is wrong is refused, with the field named, and nothing is stored.

use std::sync::Arc;

use crate::context::{ClusterExt as _, Context, Outcome, expect, hello};

pub(crate) async fn is_refused_with_the_field_named(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let pod = |name: &str, rest: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {rest}\n")
    };
    let map = |metadata: &str, rest: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {metadata}\n{rest}\n")
    };
    let good = hello("web", "hello:v1", 0);
    let cases: &[(String, &[&str])] = &[
        ("a: [".to_owned(), &["error"]),
        (
            pod("x", "{containers: [{name: a, image: b, colour: red}]}"),
            &["unknown field \"spec.containers[0].colour\""],
        ),
        (pod("x", "{containers: []}"), &["spec.containers", "Required value"]),
        (
            pod("x", "{containers: [{name: A_b, image: b}]}"),
            &["spec.containers[0].name", "Invalid value", "RFC 1123"],
        ),
        (pod("x", "{containers: [{name: a}]}"), &["spec.containers[0].image", "Required value"]),
        (
            pod("X", "{containers: [{name: a, image: b}]}"),
            &["metadata.name", "Invalid value", "RFC 1123"],
        ),
        (
            pod("x", "{containers: [{name: a, image: b}], restartPolicy: Perhaps}"),
            &["spec.restartPolicy", "Unsupported value: \"Perhaps\""],
        ),
        (
            pod("x", "{containers: [{name: a, image: b, resources: {limits: {memory: lots}}}]}"),
            &["quantities must match the regular expression"],
        ),
        (
            pod(
                "x",
                "{containers: [{name: a, image: b, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]}",
            ),
            &["spec.containers[0].resources.requests", "must be less than or equal to cpu limit"],
        ),
        (
            pod("x", "{containers: [{name: a, image: b, ports: [{containerPort: 70000}]}]}"),
            &["spec.containers[0].ports[0].containerPort", "must be between 1 and 65535"],
        ),
        (
            pod(
                "x",
                "{containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}]}]}",
            ),
            &["spec.containers[0].volumeMounts[0].name", "Not found: \"v\""],
        ),
        (map("{name: x, labels: {a: 'b c'}}", ""), &["metadata.labels", "Invalid value"]),
        (map("{name: x}", "data: {a: 1}"), &["data"]),
        (map("{name: x, namespace: nowhere}", ""), &["namespaces \"nowhere\" not found"]),
        (map("{}", ""), &["name"]),
        (
            good.replace("matchLabels: {app: web}", "matchLabels: {app: other}"),
            &["spec.template.metadata.labels", "`selector` does not match template `labels`"],
        ),
        (
            good.replace("replicas: 0", "replicas: -1"),
            &["spec.replicas", "must be greater than or equal to 0"],
        ),
        (good.replace("replicas: 0", "replicas: many"), &["replicas"]),
        (good.replace("port: 80,", "port: 0,"), &["spec.ports[0].port"]),
        (
            "apiVersion: v2\nkind: Pod\nmetadata: {name: x}\n".to_owned(),
            &["no matches for kind \"Pod\" in version \"v2\""],
        ),
    ];
    let before = cluster.get(&["pods,configmaps,deployments,services"]).await?;
    for (text, wanted) in cases {
        let output = cluster.kubectl_with(&["create", "-f", "-"], text).await?;
        // Of the two objects in a manifest one may be right: it must not matter to what follows.
        if output.stdout.contains("created") {
            cluster.kubectl(&["delete", "deployment,service", "web", "--ignore-not-found"]).await?;
        }
        let said = output.refused()?;
        expect(&said, wanted).map_err(|error| error.context(text.clone()))?;
    }
    // A body over 3 MiB, and one too deep.
    let large = map("{name: x}", &format!("data: {{a: {}}}", "y".repeat(4 << 20)));
    let said = cluster.kubectl_with(&["create", "-f", "-"], &large).await?.refused()?;
    anyhow::ensure!(
        said.contains("large") || said.contains("limit") || said.contains("Too long"),
        "{said}"
    );
    let deep = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"x"}},"data":{}1{}}}"#,
        r#"{"a":"#.repeat(20_000),
        "}".repeat(20_000)
    );
    let deep_file = cluster.file("deep.json", deep.as_bytes())?;
    let raw = [
        "create",
        "--raw",
        "/api/v1/namespaces/default/configmaps",
        "-f",
        &deep_file.to_string_lossy(),
    ];
    cluster.kubectl_with(&raw, "").await?.refused()?;
    // kubectl drops duplicate keys before it sends; others do not.
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"1","a":"2"}}"#;
    let twice = cluster.file("twice.json", twice.as_bytes())?.to_string_lossy().into_owned();
    let path = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
    let said =
        cluster.kubectl_with(&["create", "--raw", path, "-f", &twice], "").await?.refused()?;
    expect(&said, &["duplicate field"])?;
    let after = cluster.get(&["pods,configmaps,deployments,services"]).await?;
    anyhow::ensure!(before["items"] == after["items"], "something was stored: {after:#}");

    // Fields that may not change once set.
    cluster.apply(&good).await?;
    let changes = [
        (
            r#"{"spec":{"selector":{"matchLabels":{"app":"other"}},"template":{"metadata":{"labels":{"app":"other"}}}}}"#,
            "deployment",
            "field is immutable",
        ),
        (r#"{"spec":{"clusterIP":"10.255.255.254"}}"#, "service", "may not change once set"),
        (r#"{"metadata":{"name":"other"}}"#, "service", "metadata.name"),
    ];
    for (patch, kind, wanted) in changes {
        let args = ["patch", kind, "web", "--type=merge", "-p", patch];
        let said = cluster.kubectl_with(&args, "").await?.refused()?;
        anyhow::ensure!(
            said.contains(wanted) || said.contains("does not match"),
            "{patch}: {said}"
        );
    }
    Ok(())
}
