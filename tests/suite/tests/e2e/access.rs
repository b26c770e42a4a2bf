//! Who may do what.

use std::path::Path;
use std::sync::Arc;

use coracle_test_cluster::{Cluster, Output, eventually, tools};

use crate::context::{Context, Outcome, SOON, expect};

/// Runs kubectl with no credentials but `flags`.
pub(crate) async fn as_stranger(
    cluster: &Cluster,
    flags: &[&str],
    args: &[&str],
) -> anyhow::Result<Output> {
    let url = format!("https://{}", cluster.api());
    let all = [&["--server", &url, "--insecure-skip-tls-verify"][..], flags, args].concat();
    let mut command = cluster.kubectl_command(&tools::kubectl()?, &all);
    command.env("KUBECONFIG", Path::new("/dev/null"));
    let output =
        tokio::process::Command::from(command).stdin(std::process::Stdio::null()).output().await?;
    Ok(Output {
        command: all.join(" "),
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

pub(crate) async fn can_i(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let cases: &[(&[&str], &str)] = &[
        (&["create", "deployments"], "yes"),
        (&["*", "*"], "yes"),
        (&["list", "secrets", "--as=system:serviceaccount:default:default"], "no"),
        (&["get", "/version", "--as=somebody", "--as-group=system:authenticated"], "yes"),
        (&["delete", "nodes", "--as=system:node:x", "--as-group=system:nodes"], "no"),
    ];
    for (args, wanted) in cases {
        let args: Vec<&str> = ["auth", "can-i"].iter().chain(*args).copied().collect();
        let said = cluster.kubectl_with(&args, "").await?;
        anyhow::ensure!(said.stdout.trim() == *wanted, "wanted {wanted}: {said}");
    }
    expect(&cluster.kubectl(&["auth", "can-i", "--list"]).await?, &["Resources", "*.*"])
}

pub(crate) async fn a_service_account_may_what_its_role_says(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    kubectl(&["create", "serviceaccount", "robot"]).await?;
    let token = kubectl(&["create", "token", "robot"]).await?;
    let flags = ["--token", token.trim()];
    let stranger = async |args: &[&str]| as_stranger(&cluster, &flags, args).await;
    let denied = stranger(&["get", "pods"]).await?.refused()?;
    let user = "User \"system:serviceaccount:default:robot\" cannot list resource \"pods\"";
    expect(&denied, &["Error from server (Forbidden)", user, "in the namespace \"default\""])?;

    kubectl(&["create", "role", "reader", "--verb=get,list,watch", "--resource=pods,configmaps"])
        .await?;
    kubectl(&["create", "rolebinding", "robot", "--role=reader", "--serviceaccount=default:robot"])
        .await?;
    eventually(SOON, "the role holds", async || stranger(&["get", "pods,cm"]).await?.ok()).await?;
    for (args, wanted) in [
        (&["get", "secrets"][..], "cannot list resource \"secrets\""),
        (&["create", "configmap", "x"], "cannot create resource \"configmaps\""),
        (&["get", "pods", "-n", "kube-system"], "in the namespace \"kube-system\""),
        (&["get", "nodes"], "at the cluster scope"),
    ] {
        expect(&stranger(args).await?.refused()?, &["orbidden", wanted])?;
    }
    // Nobody hands out what they do not have.
    kubectl(&[
        "create",
        "role",
        "granter",
        "--verb=create,update",
        "--resource=roles.rbac.authorization.k8s.io",
    ])
    .await?;
    kubectl(&[
        "create",
        "rolebinding",
        "granter",
        "--role=granter",
        "--serviceaccount=default:robot",
    ])
    .await?;
    eventually(SOON, "the second role holds, and no more", async || {
        let more = ["create", "role", "more", "--verb=delete", "--resource=secrets"];
        expect(
            &stranger(&more).await?.refused()?,
            &["attempting to grant RBAC permissions not currently held"],
        )
    })
    .await?;
    kubectl(&["delete", "rolebinding", "robot"]).await?;
    eventually(SOON, "the binding's end holds", async || {
        stranger(&["get", "pods"]).await?.refused()
    })
    .await?;
    // The token ends with its account.
    kubectl(&["delete", "serviceaccount", "robot"]).await?;
    eventually(SOON, "the token is worth nothing", async || {
        expect(&stranger(&["get", "pods"]).await?.refused()?, &["Unauthorized"])
    })
    .await
}

pub(crate) async fn who_shows_nothing_gets_nothing(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    for flags in [&["--token", "made-up"][..], &["--username=a", "--password=b"]] {
        let raw =
            as_stranger(&cluster, flags, &["get", "--raw", "/api/v1/pods"]).await?.refused()?;
        expect(&raw, &["Unauthorized"])?;
    }
    // kubectl would ask for a name.
    let mut config = kube::Config::new(format!("https://{}", cluster.api()).parse()?);
    config.accept_invalid_certs = true;
    let stranger = kube::Client::try_from(config)?;
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::all(stranger.clone());
    let refused = pods.list(&kube::api::ListParams::default()).await;
    anyhow::ensure!(matches!(&refused, Err(kube::Error::Api(s)) if s.code == 401), "{refused:?}");
    let health = stranger.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
    expect(&health, &["ok"])?;
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(cluster.kubeconfig())?.permissions().mode() & 0o777;
    anyhow::ensure!(mode == 0o600, "{mode:o}");
    Ok(())
}
