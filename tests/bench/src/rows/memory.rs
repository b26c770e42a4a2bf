//! What an idle cluster holds.

use std::time::Duration;

use crate::Bench;
use crate::cluster::Cluster;
use crate::report::Measured;

/// How long a cluster may settle.
const SETTLE: Duration = Duration::from_secs(10);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let cluster = Cluster::start(bench, &["up"]).await?;
    tokio::time::sleep(SETTLE).await;
    let mut parts = Vec::new();
    let (mut proportional, mut resident) = (0, 0);
    for pid in cluster.processes() {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let kib = |name: &str| {
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or_default()
        };
        proportional += kib("Pss:");
        resident += kib("Rss:");
        parts.push(format!("`{}` {:.1}", command(pid), kib("Pss:") as f64 / 1024.0));
    }
    let mib = proportional as f64 / 1024.0;
    Ok(Measured {
        value: format!("{mib:.1} MiB"),
        met: mib <= 60.0,
        notes: format!(
            "proportional set size {SETTLE:?} after the start, so that shared pages count once ({}); the sum of resident \
             sizes is {:.1} MiB.",
            parts.join(", "),
            resident as f64 / 1024.0,
        ),
    })
}

/// What a process was started as, without options: `up`, `host wasm`.
pub(super) fn command(pid: i32) -> String {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> = arguments
        .split(|byte| *byte == 0)
        .skip(1)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .take_while(|argument| !argument.starts_with('-'))
        .collect();
    words.join(" ").trim().to_owned()
}
