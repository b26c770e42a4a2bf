//! Lifecycle hooks: what is done for a container after its start and before its stop (`core/v1 LifecycleHandler`).
//!
//! As in the kubelet, an HTTP hook is delivered once anything answers, whatever the answer's status.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::pod::{probes, spec};

/// Longest that a hook may take: `postStart` has no limit of its own.
const LONGEST: Duration = Duration::from_secs(600);

/// Runs a hook; `Err` says why it failed. `port` is as for [`probes::run`].
pub async fn run(
    ip: IpAddr,
    container: &Container,
    hook: &LifecycleHandler,
    port: impl Fn(u16) -> u16,
) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    let work = async {
        if let Some(get) = &hook.http_get {
            let target = probes::http::Target::new(ip, container, get)?;
            return probes::http::get(&target, &port).await.map(drop);
        }
        if let Some(tcp) = &hook.tcp_socket {
            let number = spec::port(container, &tcp.port);
            let number = number.ok_or_else(|| format!("invalid port {:?}", tcp.port))?;
            return probes::connect(SocketAddr::new(ip, port(number))).await.map(drop);
        }
        Err("invalid handler: use httpGet or sleep".to_owned())
    };
    match tokio::time::timeout(LONGEST, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("not done within {} s", LONGEST.as_secs())),
    }
}
