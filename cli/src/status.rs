//! `coracle status`: nodes, workloads, and what is not well and why.

use std::fmt::Write;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::client::{Connection, explain};
use crate::{println, watchers};

/// Arguments of `coracle status`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
}

/// Shows it. Fails if something is not well.
pub(crate) async fn main(args: Args) -> anyhow::Result<()> {
    let client = args.connection.client().await?;
    let all = ListParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    let deployments: Api<Deployment> = Api::all(client.clone());
    let services: Api<Service> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client);
    let (nodes, deployments, services, pods) = tokio::try_join!(
        nodes.list(&all),
        deployments.list(&all),
        services.list(&all),
        pods.list(&all),
    )
    .map_err(explain)?;
    println(format_args!(
        "{}",
        report(&nodes.items, &deployments.items, &services.items, &pods.items)
    ));
    Ok(())
}

fn report(
    nodes: &[Node],
    deployments: &[Deployment],
    services: &[Service],
    pods: &[Pod],
) -> String {
    let mut trouble = Vec::new();
    let mut rows = vec![["NODE", "STATE", "PODS", "CPU", "MEMORY"].map(str::to_owned)];
    for node in nodes {
        let name = node.name_any();
        let ready = node_ready(node);
        if !ready {
            trouble.push(format!("node {name} is not ready: {}", node_reason(node)));
        }
        let here = pods
            .iter()
            .filter(|p| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(&name));
        let capacity = |resource: &str| {
            let amounts = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
            amounts.and_then(|a| a.get(resource)).map(|q| q.0.clone()).unwrap_or_default()
        };
        let state = if ready { "Ready" } else { "NotReady" }.to_owned();
        rows.push([
            name.clone(),
            state,
            here.count().to_string(),
            capacity("cpu"),
            capacity("memory"),
        ]);
    }
    if nodes.is_empty() {
        trouble.push(
            "there is no node: start one with `coracle agent`, or everything with `coracle up`"
                .to_owned(),
        );
    }
    let mut out = table(&rows);
    if !deployments.is_empty() {
        let mut rows =
            vec![["DEPLOYMENT", "READY", "UP TO DATE", "IMAGES", "URL"].map(str::to_owned)];
        for deployment in deployments {
            let (row, problem) = deployment_row(deployment, services);
            rows.push(row);
            trouble.extend(problem);
        }
        let _ = write!(out, "\n{}", table(&rows));
    }
    let running = pods.iter().filter(|p| phase(p) == "Running").count();
    let done = pods.iter().filter(|p| phase(p) == "Succeeded").count();
    let _ = write!(out, "\n{} Pods: {running} running, {done} completed", pods.len());
    for pod in pods {
        if let Some(why) = watchers::pod_trouble(pod) {
            trouble.push(format!("pod {}/{why}", pod.namespace().unwrap_or_default()));
        }
    }
    if trouble.is_empty() {
        out.push_str("\nAll is well.");
    } else {
        let _ = write!(out, "\n\nNot well:");
        // The same cause in a thousand Pods is one page, not ten.
        for line in trouble.iter().take(20) {
            let _ = write!(out, "\n- {line}");
        }
        if trouble.len() > 20 {
            let _ = write!(out, "\n- and {} more", trouble.len() - 20);
        }
    }
    out
}

fn deployment_row(deployment: &Deployment, services: &[Service]) -> ([String; 5], Option<String>) {
    let name = format!("{}/{}", deployment.namespace().unwrap_or_default(), deployment.name_any());
    let spec = deployment.spec.clone().unwrap_or_default();
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = spec.replicas.unwrap_or(1);
    let available = status.available_replicas.unwrap_or(0);
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let selects = |service: &&Service| {
        let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
        service.namespace() == deployment.namespace()
            && selector.is_some_and(|selector| {
                !selector.is_empty()
                    && selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
            })
    };
    let urls: Vec<String> = services.iter().filter(selects).flat_map(watchers::urls).collect();
    let containers =
        spec.template.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
    let images: Vec<&str> = containers.iter().filter_map(|c| c.image.as_deref()).collect();
    let problem = (available < wanted).then(|| {
        let why = status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Progressing" && c.status == "False")
            .and_then(|c| c.message.clone())
            .map(|m| format!(": {m}"))
            .unwrap_or_default();
        format!("deployment {name} has {available} of {wanted} replicas{why}")
    });
    let updated = status.updated_replicas.unwrap_or(0).to_string();
    ([name, format!("{available}/{wanted}"), updated, images.join(","), urls.join(" ")], problem)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn ready_condition(node: &Node) -> Option<&k8s_openapi::api::core::v1::NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")
}

fn node_ready(node: &Node) -> bool {
    ready_condition(node).is_some_and(|c| c.status == "True")
}

fn node_reason(node: &Node) -> String {
    ready_condition(node)
        .and_then(|c| c.message.clone())
        .unwrap_or_else(|| "it never reported".to_owned())
}

/// Columns as wide as their widest cell.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:width$}   ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
