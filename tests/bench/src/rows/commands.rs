//! Commands that run on and wait for a timer.

use std::time::Duration;

use serde_json::json;

use super::{crowd, pod};
use crate::cluster::Cluster;
use crate::report::Measured;
use crate::{Bench, root};

const COUNT: usize = 5_000;
const SETTLE: Duration = Duration::from_secs(10);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    let _ = pod::prepare(&cluster).await?;
    let component = root().join("examples/prebuilt/hello-command.wasm");
    cluster.run(&[&"push", &component, &"ticker:v1"])?;
    crowd::gather(&cluster, "few", 20, manifest).await?;
    tokio::time::sleep(SETTLE).await;
    let before = crowd::memory(&cluster)?;
    let crowd = crowd::gather(&cluster, "tick", COUNT, manifest).await?;
    tokio::time::sleep(SETTLE).await;
    let after = crowd::memory(&cluster)?;
    let used = crowd::cpu(&cluster);
    tokio::time::sleep(SETTLE).await;
    let idle = (crowd::cpu(&cluster) - used).as_secs_f64() / SETTLE.as_secs_f64();
    let (parts, growth) = crowd::growth(&before, &after);
    let each = growth as f64 / COUNT as f64;
    Ok(Measured {
        value: format!("{:.0} kB each, {:.1} % of a core", each / 1e3, idle * 100.0),
        met: each <= 150e3 && idle <= 0.15,
        notes: format!(
            "{COUNT} Pods of the Rust example command, each woken by a timer every second, Ready {:.1} s after the first \
             create; growth of the proportional set sizes ({parts}); CPU of all processes over {SETTLE:?}.",
            crowd.took.as_secs_f64(),
        ),
    })
}

fn manifest(name: &str) -> String {
    let crowd = name.rsplit_once('-').map_or(name, |(crowd, _)| crowd);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"crowd": crowd}},
        "spec": {"containers": [{
            "name": "tick", "image": "ticker:v1", "command": ["ticker"], "args": ["--tick", "1000"],
        }]},
    });
    pod.to_string()
}
