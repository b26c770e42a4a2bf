//! What `kubectl` changes.

use std::sync::Arc;

use coracle_test_cluster::{eventually, tools};

use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, SOON, expect, hello};

pub(crate) async fn apply_patch_edit(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    let text = hello("web", "hello:v1", 0);
    expect(&cluster.apply(&text).await?, &["deployment.apps/web created", "service/web created"])?;
    expect(
        &cluster.apply(&text).await?,
        &["deployment.apps/web unchanged", "service/web unchanged"],
    )?;
    let changed = text.replace(
        "labels: {app: web}}\nspec:\n  replicas",
        "labels: {app: web, tier: front}}\nspec:\n  replicas",
    );
    expect(&cluster.apply(&changed).await?, &["deployment.apps/web configured"])?;
    expect(&kubectl(&["get", "deploy", "web", "--show-labels"]).await?, &["tier=front"])?;
    // What is taken out of the file goes.
    cluster.apply(&text).await?;
    anyhow::ensure!(!kubectl(&["get", "deploy", "web", "--show-labels"]).await?.contains("tier"));

    let image = "jsonpath={.spec.template.spec.containers[*].name}";
    let patches: &[(&[&str], &str)] = &[
        // A list that merges by name keeps what it had, one that is replaced does not.
        (
            &[
                "--type=strategic",
                "-p",
                r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"side:v1"}]}}}}"#,
            ],
            "side app",
        ),
        (
            &[
                "--type=json",
                "-p",
                r#"[{"op":"remove","path":"/spec/template/spec/containers/0"}]"#,
            ],
            "app",
        ),
        (
            &[
                "--type=merge",
                "-p",
                r#"{"spec":{"template":{"spec":{"containers":[{"name":"only","image":"only:v1"}]}}}}"#,
            ],
            "only",
        ),
    ];
    for (patch, wanted) in patches {
        kubectl(&[&["patch", "deployment", "web"], *patch].concat()).await?;
        let names = kubectl(&["get", "deploy", "web", "-o", image]).await?;
        anyhow::ensure!(names == *wanted, "{patch:?}: {names:?}, not {wanted:?}");
    }

    kubectl(&["label", "deploy", "web", "colour=red"]).await?;
    let refused =
        cluster.kubectl_with(&["label", "deploy", "web", "colour=blue"], "").await?.refused()?;
    expect(&refused, &["--overwrite is false"])?;
    kubectl(&["label", "deploy", "web", "colour=blue", "--overwrite"]).await?;
    kubectl(&["annotate", "deploy", "web", "note=x y"]).await?;
    let labels = kubectl(&[
        "get",
        "deploy",
        "web",
        "-o",
        "jsonpath={.metadata.labels.colour} {.metadata.annotations.note}",
    ])
    .await?;
    anyhow::ensure!(labels == "blue x y", "{labels}");
    kubectl(&["label", "deploy", "web", "colour-"]).await?;

    // An editor that changes the number of replicas.
    let editor =
        cluster.file("editor", b"#!/bin/sh\nsed -i 's/replicas: 0/replicas: 1/' \"$1\"\n")?;
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut edit = cluster.kubectl_command(&tools::kubectl()?, &["edit", "deployment", "web"]);
    edit.env("KUBE_EDITOR", &editor);
    let output = tokio::process::Command::from(edit).output().await?;
    anyhow::ensure!(output.status.success(), "{output:?}");
    anyhow::ensure!(cluster.get(&["deploy", "web"]).await?["spec"]["replicas"] == 1);

    // Replacing needs no revision, but a wrong one is a conflict.
    let mut map = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": "default"}, "data": {"a": "1"},
    });
    cluster.kubectl_with(&["create", "-f", "-"], &map.to_string()).await?.ok()?;
    let again = cluster.kubectl_with(&["create", "-f", "-"], &map.to_string()).await?.refused()?;
    expect(&again, &["AlreadyExists", "configmaps \"settings\" already exists"])?;
    map["data"]["a"] = "2".into();
    cluster.kubectl_with(&["replace", "-f", "-"], &map.to_string()).await?.ok()?;
    map["metadata"]["resourceVersion"] = "1".into();
    let conflict =
        cluster.kubectl_with(&["replace", "-f", "-"], &map.to_string()).await?.refused()?;
    expect(&conflict, &["Conflict", "the object has been modified"])?;
    // Server-side diff of a change, which stores nothing.
    map["metadata"].as_object_mut().expect("an object").remove("resourceVersion");
    map["data"]["a"] = "3".into();
    let diff = cluster.kubectl_with(&["diff", "-f", "-"], &map.to_string()).await?;
    anyhow::ensure!(diff.status.code() == Some(1), "{diff}");
    expect(&diff.stdout, &["-  a: \"2\"", "+  a: \"3\""])
}

pub(crate) async fn server_side_apply(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let text = hello("web", "hello:v1", 0);
    let apply = async |text: &str, args: &[&str]| {
        let args = [&["apply", "--server-side", "-f", "-"], args].concat();
        cluster.kubectl_with(&args, text).await
    };
    let done = ["deployment.apps/web serverside-applied", "service/web serverside-applied"];
    expect(&apply(&text, &[]).await?.ok()?, &done)?;
    expect(&apply(&text, &[]).await?.ok()?, &done)?;
    let managers = async || {
        let path = "jsonpath={range .metadata.managedFields[*]}{.manager} {.operation} {.subresource},{end}";
        cluster.kubectl(&["get", "deploy", "web", "--show-managed-fields", "-o", path]).await
    };
    expect(&managers().await?, &["kubectl Apply ,"])?;

    // Somebody else takes a field, and has it until they are forced to give it.
    cluster.kubectl(&["scale", "deploy", "web", "--replicas=1"]).await?;
    expect(&managers().await?, &[" Update scale,"])?;
    let refused = apply(&text, &[]).await?.refused()?;
    expect(
        &refused,
        &[
            "Apply failed with 1 conflict: conflict with",
            "with subresource \"scale\" using apps/v1",
            ".spec.replicas",
        ],
    )?;
    let diff = ["diff", "--server-side", "--force-conflicts", "-f", "-"];
    let differs = cluster.kubectl_with(&diff, &text).await?;
    anyhow::ensure!(differs.status.code() == Some(1), "{}", differs.stderr);
    expect(&differs.stdout, &["-  replicas: 1", "+  replicas: 0"])?;
    expect(&apply(&text, &["--force-conflicts"]).await?.ok()?, &done)?;
    anyhow::ensure!(!managers().await?.contains("scale"), "{}", managers().await?);

    // Two teams, one object.
    let labels =
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, labels: {team: two}}\n";
    apply(labels, &["--field-manager=two"]).await?.ok()?;
    apply(&text, &[]).await?.ok()?;
    let team = "jsonpath={.metadata.labels.team}";
    anyhow::ensure!(cluster.kubectl(&["get", "deploy", "web", "-o", team]).await? == "two");
    let nothing = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";
    apply(nothing, &["--field-manager=two"]).await?.ok()?;
    anyhow::ensure!(cluster.kubectl(&["get", "deploy", "web", "-o", team]).await?.is_empty());

    // From client-side apply and back.
    let map = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{a: {value}, b: x}}\n"
        )
    };
    cluster.apply(&map("one")).await?;
    expect(&apply(&map("two"), &[]).await?.ok()?, &["configmap/m serverside-applied"])?;
    expect(&cluster.apply(&map("three")).await?, &["configmap/m configured"])?;
    let unknown = map("four").replace("\ndata:", "\ndota:");
    expect(
        &apply(&unknown, &["--validate=false"]).await?.refused()?,
        &["field not declared in schema"],
    )
}

pub(crate) async fn scale_and_wait(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    cluster.apply(&hello("web", "hello:v1", 1)).await?;
    kubectl(&["wait", "--for=condition=Available", "deployment/web", PATIENCE]).await?;
    kubectl(&["wait", "--for=condition=Ready", "pod", "-l", "app=web", PATIENCE]).await?;
    kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "pod", "-l", "app=web", PATIENCE])
        .await?;
    kubectl(&["scale", "deployment/web", "--replicas=5"]).await?;
    cluster.rolled_out("web").await?;
    let scale = cluster
        .kubectl(&["get", "--raw", "/apis/apps/v1/namespaces/default/deployments/web/scale"])
        .await?;
    expect(&scale, &["\"replicas\":5", "app=web", "autoscaling/v1"])?;
    let wrong = ["scale", "deployment/web", "--current-replicas=3", "--replicas=4"];
    expect(&cluster.kubectl_with(&wrong, "").await?.refused()?, &["Expected replicas to be 3"])?;
    kubectl(&["scale", "deployment/web", "--replicas=0"]).await?;
    kubectl(&["wait", "--for=delete", "pod", "-l", "app=web", PATIENCE]).await?;
    let pods = kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]).await?;
    anyhow::ensure!(pods.is_empty(), "{pods}");
    // What does not come about is an error in time.
    let never = ["wait", "--for=condition=Ready=false", "deployment/web", "--timeout=1s"];
    expect(&cluster.kubectl_with(&never, "").await?.refused()?, &["timed out"])
}

pub(crate) async fn deletes_cascade(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    for name in ["background", "foreground", "orphan"] {
        cluster.apply(&hello(name, "hello:v1", 1)).await?;
    }
    for name in ["background", "foreground", "orphan"] {
        cluster.rolled_out(name).await?;
        kubectl(&["delete", "deployment", name, &format!("--cascade={name}"), PATIENCE]).await?;
        let label = format!("app={name}");
        let left = ["get", "rs,pods", "-l", &label, "-o", "name"];
        match name {
            "orphan" => {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                let left = kubectl(&left).await?;
                anyhow::ensure!(left.lines().count() == 2, "{left}");
                let set = cluster.get(&["rs", "-l", &label]).await?;
                anyhow::ensure!(
                    set["items"][0]["metadata"]["ownerReferences"].is_null(),
                    "{set:#}"
                );
            }
            // Foreground: what it owned is gone before it is.
            "foreground" => anyhow::ensure!(!kubectl(&left).await?.contains("replicaset")),
            _ => {}
        }
        if name != "orphan" {
            eventually(SOON, "what it owned is gone", async || {
                let left = kubectl(&left).await?;
                anyhow::ensure!(left.is_empty(), "{left}");
                Ok(())
            })
            .await?;
        }
    }
    // A new Deployment adopts what it selects.
    cluster.deploy_hello("orphan", "hello:v1", 1).await?;
    let pods = kubectl(&["get", "pods", "-l", "app=orphan", "-o", "name"]).await?;
    anyhow::ensure!(pods.lines().count() == 1, "{pods}");
    let pod = pods.trim();
    kubectl(&["delete", pod, "--grace-period=0", "--force"]).await?;
    kubectl(&["delete", "pods", "-l", "app=orphan", "--now"]).await?;
    cluster.rolled_out("orphan").await?;

    // A finalizer holds an object until somebody takes it away.
    kubectl(&["create", "configmap", "held"]).await?;
    kubectl(&["patch", "cm", "held", "-p", r#"{"metadata":{"finalizers":["example.com/hold"]}}"#])
        .await?;
    kubectl(&["delete", "cm", "held", "--wait=false"]).await?;
    let held = cluster.get(&["cm", "held"]).await?;
    anyhow::ensure!(held["metadata"]["deletionTimestamp"].is_string(), "{held:#}");
    kubectl(&["patch", "cm", "held", "-p", r#"{"metadata":{"finalizers":null}}"#]).await?;
    expect(&cluster.kubectl_with(&["get", "cm", "held"], "").await?.refused()?, &["NotFound"])?;
    kubectl(&["delete", "cm", "held", "--ignore-not-found"]).await.map(drop)
}

pub(crate) async fn namespaces_go_with_their_content(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    kubectl(&["create", "namespace", "team"]).await?;
    eventually(SOON, "it has its default ServiceAccount", async || {
        expect(&kubectl(&["get", "sa,cm", "-n", "team"]).await?, &["default", "kube-root-ca.crt"])
    })
    .await?;
    let text = hello("web", "hello:v1", 2);
    cluster.kubectl_with(&["apply", "-n", "team", "-f", "-"], &text).await?.ok()?;
    kubectl(&["rollout", "status", "deployment/web", "-n", "team", PATIENCE]).await?;
    kubectl(&["delete", "namespace", "team", PATIENCE]).await?;
    let left =
        kubectl(&["get", "deployments,rs,pods,services,cm,sa", "-n", "team", "-o", "name"]).await?;
    anyhow::ensure!(left.is_empty(), "{left}");
    let late = ["create", "configmap", "late", "-n", "team"];
    expect(&cluster.kubectl_with(&late, "").await?.refused()?, &["namespaces \"team\" not found"])?;
    let system = cluster.kubectl_with(&["delete", "namespace", "default"], "").await?.refused()?;
    expect(&system, &["Forbidden"])
}

pub(crate) async fn dry_runs_store_nothing(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let text = hello("web", "hello:v1", 0);
    let dry = ["apply", "--dry-run=server", "-f", "-"];
    let said = cluster.kubectl_with(&dry, &text).await?.ok()?;
    expect(&said, &["deployment.apps/web created (server dry run)"])?;
    expect(&cluster.kubectl_with(&["get", "deploy", "web"], "").await?.refused()?, &["NotFound"])?;
    cluster.apply(&text).await?;
    // All of it but what its controller writes, which may do so meanwhile.
    let declared = async || {
        let mut now = cluster.get(&["deploy", "web"]).await?;
        now["status"].take();
        let metadata = &mut now["metadata"];
        metadata["resourceVersion"].take();
        metadata["annotations"]["deployment.kubernetes.io/revision"].take();
        if let Some(managers) = metadata["managedFields"].as_array_mut() {
            managers.retain(|entry| {
                entry["manager"].as_str().is_some_and(|name| name.starts_with("kubectl"))
            });
        }
        anyhow::Ok(now)
    };
    let before = declared().await?;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=3", "--dry-run=server"]).await?;
    cluster.kubectl(&["label", "deployment/web", "a=b", "--dry-run=server"]).await?;
    cluster.kubectl(&["delete", "deployment/web", "--dry-run=server"]).await?;
    let after = declared().await?;
    anyhow::ensure!(before == after, "{before:#}\n{after:#}");
    Ok(())
}
