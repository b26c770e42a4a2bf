//! What is seen from outside: `kubectl top`, metrics, the access log.

use std::sync::Arc;

use coracle_test_cluster::{eventually, http};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};
use crate::front::served;

pub(crate) async fn usage_is_seen_by_kubectl_top(context: Arc<Context>) -> Outcome {
    let (cluster, address) = served(&context, "busy", &[]).await?;
    for _ in 0..5 {
        anyhow::ensure!(http::get(address, "/busy?ms=100").await?.status == 200);
    }
    let node = cluster.kubectl(&["get", "nodes", "-o", "name"]).await?;
    let node = node.trim().trim_start_matches("node/");
    let proxied = async |path: &str| {
        cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy{path}")]).await
    };
    let resource = proxied("/metrics/resource").await?;
    let labels = r#"{container="app",namespace="default",pod="busy"}"#;
    expect(
        &resource,
        &["# TYPE container_cpu_usage_seconds_total counter", "resource_scrape_error 0"],
    )?;
    let cpu = format!("container_cpu_usage_seconds_total{labels} ");
    let line = resource.lines().find_map(|line| line.strip_prefix(&cpu));
    let used: f64 = line.and_then(|l| l.split(' ').next()?.parse().ok()).unwrap_or(0.0);
    anyhow::ensure!((0.01..60.0).contains(&used), "{used} s of CPU in\n{resource}");

    let summary: serde_json::Value = serde_json::from_str(&proxied("/stats/summary").await?)?;
    anyhow::ensure!(summary["node"]["nodeName"] == node, "{summary}");
    anyhow::ensure!(summary["pods"][0]["podRef"]["name"] == "busy", "{summary}");
    let nanos = summary["pods"][0]["containers"][0]["cpu"]["usageCoreNanoSeconds"].as_u64();
    anyhow::ensure!(nanos.is_some_and(|nanos| nanos > 10_000_000), "{summary}");
    let pods: serde_json::Value = serde_json::from_str(&proxied("/pods").await?)?;
    anyhow::ensure!(pods["items"][0]["status"]["phase"] == "Running", "{pods}");

    eventually(SOON, "kubectl top knows the Pod", async || {
        expect(&cluster.kubectl(&["top", "pods", "--containers"]).await?, &["busy", "app", "Mi"])
    })
    .await?;
    expect(&cluster.kubectl(&["top", "nodes"]).await?, &[node, "%"])?;
    expect(&cluster.kubectl(&["top", "pod", "-l", "app=busy"]).await?, &["busy"])?;
    let missing = cluster.kubectl_with(&["top", "pod", "nobody"], "").await?.refused()?;
    expect(&missing, &["not found"])
}

pub(crate) async fn metrics_of_every_part(context: Arc<Context>) -> Outcome {
    let (cluster, address) = served(&context, "probe", &[]).await?;
    for path in ["/count", "/count", "/trap", "/status/404"] {
        http::get(address, path).await?;
    }
    let node = cluster.kubectl(&["get", "nodes", "-o", "name"]).await?;
    let node = node.trim().trim_start_matches("node/");
    let raw = async |path: &str| cluster.kubectl(&["get", "--raw", path]).await;
    let host = raw(&format!("/api/v1/nodes/{node}/proxy/metrics/host")).await?;
    let labels = r#"{namespace="default",pod="probe",container="app""#;
    expect(
        &host,
        &[
            &format!("coracle_wasm_container_traps_total{labels}}} 1\n"),
            &format!("coracle_wasm_container_answers_total{labels},code=\"4xx\"}} 1\n"),
            "coracle_wasm_container_request_duration_seconds_bucket{le=\"",
            &format!("coracle_wasm_container_request_duration_seconds_count{labels}}} "),
            "# EOF",
        ],
    )?;
    anyhow::ensure!(!host.contains("coracle_wasm_process_open_fds 0\n"), "{host}");
    let agent = raw(&format!("/api/v1/nodes/{node}/proxy/metrics")).await?;
    expect(
        &agent,
        &[
            "kubelet_running_pods 1\n",
            "coracle_agent_pods{phase=\"Running\"} 1\n",
            "coracle_agent_action_duration_seconds_count{action=\"start\"} 1\n",
            "prober_probe_total{probe_type=\"Readiness\",result=\"successful\"}",
        ],
    )?;
    let stored = async |kind: &str| {
        let all = cluster.get(&[kind, "-A"]).await?;
        anyhow::Ok(all["items"].as_array().map_or(0, Vec::len))
    };
    let (pods, deployments) = (stored("pods").await?, stored("deployments").await?);
    let server = raw("/metrics").await?;
    expect(
        &server,
        &[
            "apiserver_request_total{verb=\"POST\",group=\"\",version=\"v1\",resource=\"pods\",code=\"201\"} 1\n",
            "apiserver_longrunning_requests{verb=\"WATCH\",group=\"\",version=\"v1\",resource=\"pods\"}",
            &format!("apiserver_storage_objects{{resource=\"pods\"}} {pods}\n"),
            &format!("apiserver_storage_objects{{resource=\"deployments.apps\"}} {deployments}\n"),
            "coracle_store_commits_total ",
        ],
    )?;
    // Not for everybody.
    for path in ["/metrics".to_owned(), format!("/api/v1/nodes/{node}/proxy/metrics")] {
        let args = ["get", "--raw", &path, "--as=system:serviceaccount:default:default"];
        expect(&cluster.kubectl_with(&args, "").await?.refused()?, &["orbidden"])?;
    }
    let allow = ["create", "clusterrole", "scraper", "--verb=get", "--resource=nodes/proxy"];
    cluster.kubectl(&allow).await?;
    cluster
        .kubectl(&["create", "clusterrolebinding", "s", "--clusterrole=scraper", "--user=scraper"])
        .await?;
    eventually(SOON, "who may, can", async || {
        let path = format!("/api/v1/nodes/{node}/proxy/metrics/resource");
        cluster.kubectl(&["get", "--raw", &path, "--as=scraper"]).await
    })
    .await?;
    Ok(())
}

pub(crate) async fn the_access_log_is_in_the_pods_log(context: Arc<Context>) -> Outcome {
    let (cluster, address) = served(&context, "logged", &[("access-log", "true")]).await?;
    http::get(address, "/count?token=secret").await?;
    eventually(SOON, "the request is in the log", async || {
        let log = cluster.kubectl(&["logs", "logged"]).await?;
        expect(&log, &["\"path\":\"/count\",\"status\":200,\"bytes_in\":0,\"bytes_out\":2"])
    })
    .await?;
    let log = cluster.kubectl(&["logs", "logged"]).await?;
    anyhow::ensure!(!log.contains("secret"), "{log}");
    Ok(())
}
