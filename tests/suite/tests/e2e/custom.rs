//! Custom resources, as kubectl and an operator use them.

use std::sync::Arc;

use coracle_test_cluster::tools::Kubectl;
use coracle_test_cluster::{Cluster, eventually, tools};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::context::{Context, Outcome, SOON, expect};

/// The example of the Kubernetes documentation.
const CRON_TABS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: crontabs.stable.example.com
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              cronSpec: {type: string, description: When it runs., pattern: '^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$'}
              image: {type: string}
              replicas: {type: integer, minimum: 1, maximum: 10, default: 1}
          status:
            type: object
            properties:
              replicas: {type: integer}
              labelSelector: {type: string}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.labelSelector}
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
"#;

const CRON_TAB: &str = r#"
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: mine}
spec: {cronSpec: "* * * * */5", image: my-awesome-cron-image}
"#;

pub(crate) async fn a_definition_as_kubectl_sees_it(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let mut all = tools::kubectls();
    let newest = all.split_off(all.len().saturating_sub(1));
    all.truncate(1);
    for kubectl in all.into_iter().chain(newest) {
        live_and_die(&cluster, &kubectl).await?;
    }
    Ok(())
}

async fn live_and_die(cluster: &Cluster, kubectl: &Kubectl) -> Outcome {
    let run = async |args: &[&str], input: &str| {
        let mut command =
            tokio::process::Command::from(cluster.kubectl_command(&kubectl.path, args));
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        anyhow::Ok((output.status.success(), told))
    };
    let ok = async |args: &[&str], input: &str| {
        let (good, told) = run(args, input).await?;
        anyhow::ensure!(good, "kubectl {}: {told}", args.join(" "));
        anyhow::Ok(told)
    };
    ok(&["apply", "-f", "-"], CRON_TABS).await?;
    ok(&["wait", "--for=condition=Established", "crd/crontabs.stable.example.com"], "").await?;
    eventually(SOON, "the kind is explained", async || {
        expect(
            &ok(&["explain", "crontabs.spec"], "").await?,
            &["cronSpec", "When it runs.", "<integer>"],
        )
    })
    .await?;
    ok(&["apply", "-f", "-"], CRON_TAB).await?;
    let again = ok(&["apply", "-f", "-"], CRON_TAB).await?;
    expect(&again, &["crontab.stable.example.com/mine unchanged"])?;
    let shown = ok(&["get", "ct"], "").await?;
    expect(&shown, &["NAME", "SPEC", "REPLICAS", "mine", "* * * * */5", "1"])?;
    let (good, told) = run(&["apply", "-f", "-"], &CRON_TAB.replace("image:", "imagine:")).await?;
    anyhow::ensure!(!good, "{told}");
    expect(&told, &["imagine"])?;
    let (good, told) =
        run(&["patch", "ct", "mine", "--type=merge", "-p", r#"{"spec":{"replicas":15}}"#], "")
            .await?;
    anyhow::ensure!(!good, "{told}");
    expect(&told, &["spec.replicas in body should be less than or equal to 10"])?;
    ok(&["scale", "crontabs/mine", "--replicas=5"], "").await?;
    ok(
        &[
            "patch",
            "ct",
            "mine",
            "--type=json",
            "-p",
            r#"[{"op":"replace","path":"/spec/image","value":"other"}]"#,
        ],
        "",
    )
    .await?;
    let applied = CRON_TAB.replace("my-awesome-cron-image", "third");
    ok(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &applied).await?;
    let path = "jsonpath={.spec.replicas} {.spec.image} {.metadata.generation}";
    let left = ok(&["get", "ct", "mine", "-o", path], "").await?;
    anyhow::ensure!(left == "5 third 4", "{left}");
    ok(&["label", "ct", "mine", "a=b"], "").await?;
    expect(
        &ok(&["get", "ct", "-l", "a=b", "-o", "name"], "").await?,
        &["crontab.stable.example.com/mine"],
    )?;
    expect(&ok(&["describe", "ct", "mine"], "").await?, &["Cron Spec:", "* * * * */5"])?;
    expect(
        &ok(&["api-resources", "--api-group=stable.example.com"], "").await?,
        &["crontabs", "ct", "true", "CronTab"],
    )?;
    ok(&["delete", "crd", "crontabs.stable.example.com"], "").await?;
    let (good, told) = run(&["get", "crontabs"], "").await?;
    anyhow::ensure!(!good, "{told}");
    Ok(())
}

/// What makes a ConfigMap of every CronTab, tells so in its status, and takes its leave when it goes.
pub(crate) async fn an_operator(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.apply(CRON_TABS).await?;
    let wait = ["wait", "--for=condition=Established", "crd/crontabs.stable.example.com"];
    cluster.kubectl(&wait).await?;
    let client = cluster.client().await?;
    let kind = ApiResource {
        group: "stable.example.com".into(),
        version: "v1".into(),
        api_version: "stable.example.com/v1".into(),
        kind: "CronTab".into(),
        plural: "crontabs".into(),
    };
    let tabs: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &kind);
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let controller = Controller::new_with(tabs.clone(), watcher::Config::default(), kind.clone())
        .owns(maps.clone(), watcher::Config::default())
        .run(
            |tab, state: Arc<(Client, ApiResource)>| async move {
                reconcile(&tab, &state.0, &state.1).await.map_err(Wrong)
            },
            |_, _, _| Action::requeue(std::time::Duration::from_millis(200)),
            Arc::new((client.clone(), kind)),
        )
        .for_each(|_| async {});
    let user = async {
        cluster.apply(CRON_TAB).await?;
        eventually(SOON, "the ConfigMap is there and told of", async || {
            let image = maps.get("mine").await?.data.and_then(|mut data| data.remove("image"));
            anyhow::ensure!(image.as_deref() == Some("my-awesome-cron-image"), "{image:?}");
            let status = tabs.get("mine").await?.data["status"].clone();
            anyhow::ensure!(status["replicas"] == 1, "{status}");
            Ok(())
        })
        .await?;
        cluster.apply(&CRON_TAB.replace("my-awesome-cron-image", "other")).await?;
        eventually(SOON, "a change comes through", async || {
            let image = maps.get("mine").await?.data.and_then(|mut data| data.remove("image"));
            anyhow::ensure!(image.as_deref() == Some("other"), "{image:?}");
            Ok(())
        })
        .await?;
        cluster.kubectl(&["delete", "crontab", "mine"]).await?;
        eventually(SOON, "what it owned is gone", async || {
            anyhow::ensure!(maps.get_opt("mine").await?.is_none(), "the ConfigMap is still there");
            Ok(())
        })
        .await
    };
    tokio::select! {
        () = controller => anyhow::bail!("the operator ended"),
        done = user => done,
    }
}

#[derive(Debug)]
struct Wrong(anyhow::Error);

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Wrong {}

async fn reconcile(
    tab: &DynamicObject,
    client: &Client,
    kind: &ApiResource,
) -> anyhow::Result<Action> {
    const FINALIZER: &str = "example.com/operator";
    let tabs: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), kind);
    let name = tab.name_any();
    let params = PatchParams::apply("operator").force();
    let is_held = tab.finalizers().iter().any(|f| f == FINALIZER);
    if tab.metadata.deletion_timestamp.is_some() {
        if is_held {
            let let_go = json!({"metadata": {"finalizers": null}});
            tabs.patch(&name, &PatchParams::default(), &Patch::Merge(&let_go)).await?;
        }
        return Ok(Action::await_change());
    }
    if !is_held {
        let hold = json!({"metadata": {"finalizers": [FINALIZER]}});
        tabs.patch(&name, &PatchParams::default(), &Patch::Merge(&hold)).await?;
        return Ok(Action::await_change());
    }
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "ownerReferences": [{
            "apiVersion": "stable.example.com/v1", "kind": "CronTab", "name": name, "uid": tab.uid(),
            "controller": true, "blockOwnerDeletion": true}]},
        "data": {"image": tab.data["spec"]["image"]},
    });
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.patch(&name, &params, &Patch::Apply(&map)).await?;
    let status = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab",
        "status": {"replicas": tab.data["spec"]["replicas"]}});
    tabs.patch_status(&name, &params, &Patch::Apply(&status)).await?;
    Ok(Action::await_change())
}
