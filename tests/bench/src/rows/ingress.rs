//! Requests through the proxy of Ingresses, against nginx in front of the same Pod.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::crowd::answers;
use super::requests::{CONNECTIONS, ROUND, ROUNDS, alternate, ratios, serve};
use super::rival::Rival;
use crate::Bench;
use crate::cluster::Cluster;
use crate::report::{Measured, quantile};

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let ports = ["up", "--ingress-http-port", "0", "--ingress-https-port", "0"];
    let cluster = Cluster::start(bench, &ports).await?;
    // One instance for many requests: the less the Pod costs, the more the proxies do.
    let pod = serve(&cluster, json!({"coracle.dev/reuse-instances": "true"})).await?;
    let ingress = lead(&cluster).await?;
    let folder = tempfile::tempdir_in(&bench.folder)?;
    let nginx =
        Rival::nginx(folder.path(), |address| configuration(folder.path(), address, pod)).await?;
    let rates = alternate(&[ingress, nginx.address, pod]).await?;
    let [low, to_nginx, high] = ratios(&rates, 1);
    let median = |rates: &Vec<f64>| quantile(&mut rates.clone(), 0.5);
    Ok(Measured {
        value: format!("{to_nginx:.2} ×"),
        met: to_nginx >= 1.0,
        notes: format!(
            "Through the Ingress {:.0} requests/s, through nginx {:.0}, to the Pod itself {:.0}. `GET /` of the Rust example \
             with reused instances over {CONNECTIONS} connections; medians of {ROUNDS} alternating rounds of {ROUND:?}, of \
             the rates and of the ratios in a round (half of these {low:.2} to {high:.2}). nginx with a worker a core, \
             connections kept on both sides, the same headers added and no log. The Pod and the load generator share the cores with each.",
            median(&rates[0]),
            median(&rates[1]),
            median(&rates[2]),
        ),
    })
}

/// Makes an Ingress that leads to the Pod; where it answers.
async fn lead(cluster: &Cluster) -> anyhow::Result<SocketAddr> {
    let mut connection = cluster.api.connect().await?;
    let service = json!({
        "metadata": {"name": "ingress"},
        "spec": {"selector": {"app": "requests"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    connection.create("/api/v1/namespaces/default/services", service.to_string()).await?;
    let backend = json!({"service": {"name": "ingress", "port": {"number": 80}}});
    let ingress = json!({"metadata": {"name": "ingress"}, "spec": {"defaultBackend": backend}});
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    connection.create(ingresses, ingress.to_string()).await?;
    let begun = Instant::now();
    loop {
        let ingress: Value = connection.read(&format!("{ingresses}/ingress")).await?;
        let point = &ingress["status"]["loadBalancer"]["ingress"][0];
        if let (Some(ip), Some(port)) = (point["ip"].as_str(), point["ports"][0]["port"].as_u64()) {
            let address = SocketAddr::new(ip.parse()?, u16::try_from(port).context("a port")?);
            if answers(address).await {
                return Ok(address);
            }
        }
        if begun.elapsed() > PATIENCE {
            bail!("the Ingress does not answer after {PATIENCE:?}: {}", ingress["status"]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// nginx as somebody would set it up who cares for its speed.
fn configuration(folder: &Path, address: SocketAddr, pod: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        r#"
daemon off;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream pod {{ server {pod}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://pod;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-Port $server_port;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Scheme $scheme;
    }}
  }}
}}
"#
    )
}
