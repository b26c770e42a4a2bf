//! How soon a component that nobody has seen before answers.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};

use super::crowd::answers;
use super::pod;
use crate::cluster::Cluster;
use crate::report::{Measured, ms, quantile};
use crate::{Bench, root};

const ROUNDS: usize = 15;
const PATIENCE: Duration = Duration::from_secs(30);
const PODS: &str = "/api/v1/namespaces/default/pods";

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let mut connection = pod::prepare(&cluster).await?;
    let component = std::fs::read(root().join("examples/prebuilt/hello-v1.wasm"))?;
    let folder = tempfile::tempdir()?;
    let (mut times, mut pushes) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = format!("new-{round}");
        let file = folder.path().join(format!("{name}.wasm"));
        std::fs::write(&file, distinct(&component, &name))?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"containers": [{
                "name": "new", "image": format!("{name}:v1"), "ports": [{"containerPort": 8080}],
            }]},
        });
        let begun = Instant::now();
        cluster.run(&[&"push", &file, &format!("{name}:v1")])?;
        pushes.push(begun.elapsed());
        let made: Value = serde_json::from_slice(&connection.create(PODS, pod.to_string()).await?)?;
        let path = format!("{PODS}/{}", made["metadata"]["name"].as_str().unwrap_or_default());
        let mut address = None;
        loop {
            if let Some(address) = address {
                if answers(address).await {
                    break;
                }
            } else if let Some(ip) = connection.read(&path).await?["status"]["podIP"].as_str() {
                address = Some(SocketAddr::new(ip.parse::<IpAddr>()?, 8080));
                continue;
            }
            if begun.elapsed() > PATIENCE {
                bail!("Pod {name} does not answer: {}", connection.read(&path).await?["status"]);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(begun.elapsed());
        connection.delete(&path).await?;
    }
    let [p50, most] = [0.5, 1.0].map(|part| quantile(&mut times, part));
    Ok(Measured {
        value: ms(p50),
        met: p50 <= Duration::from_millis(150),
        notes: format!(
            "median of {ROUNDS}, each another component of {} kB (the slowest {}): from starting `coracle push` (which takes \
             {} of it) over creating the Pod and compiling its code to its answer.",
            component.len() / 1000,
            ms(most),
            ms(quantile(&mut pushes, 0.5)),
        ),
    })
}

/// The same component with another digest: a custom section more.
fn distinct(component: &[u8], name: &str) -> Vec<u8> {
    let mut bytes = component.to_vec();
    let label = b"bench";
    let length = u8::try_from(1 + label.len() + name.len()).expect("short names");
    bytes.extend([0, length, label.len() as u8]);
    bytes.extend(label);
    bytes.extend(name.as_bytes());
    bytes
}
