//! Which Pods are this node's: a watch on those bound to it, handed to the workers.
//!
//! The first list is special: what a sandbox host runs that is in it is adopted, what is not is ended.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use coracle_network::Network;
use coracle_sandbox::{HostEvent, SandboxStatus};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::hosts::{Hosts, Started};
use crate::pod::adopt::adopt;
use crate::pod::worker::Workers;

/// Follows the API for ever. `found` is what the hosts ran when the agent started.
pub async fn pods(
    client: kube::Client,
    node: String,
    workers: Workers,
    hosts: Hosts,
    found: Vec<SandboxStatus>,
) {
    let mut found: HashMap<String, SandboxStatus> =
        found.into_iter().map(|s| (s.spec.id.clone(), s)).collect();
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let api: Api<Pod> = Api::all(client);
    let mut events = watcher(api, config).boxed();
    let mut listed: HashSet<String> = HashSet::new();
    let (relisten, mut first) = (!found.is_empty(), true);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                apply(&workers, pod, &mut found).await;
            }
            Ok(watcher::Event::InitDone) => {
                for uid in workers.uids() {
                    if !listed.contains(&uid) {
                        workers.vanish(&uid);
                    }
                }
                if std::mem::take(&mut first) {
                    // What happened between the agent's look at the hosts and this list was told of Pods not known yet.
                    if relisten {
                        for client in hosts.clients() {
                            workers.hear(&client.sandboxes().await.unwrap_or_default());
                        }
                    }
                }
                // Nobody declares these any more.
                let mut cleared: HashSet<String> = workers.uids().into_iter().collect();
                for (id, sandbox) in found.drain() {
                    tracing::info!(sandbox = id, "ending a sandbox whose Pod is gone");
                    cleared.insert(id.clone());
                    let (hosts, workers) = (hosts.clone(), workers.clone());
                    tokio::spawn(async move {
                        let _ = hosts.delete_sandbox(&sandbox.spec.id).await;
                        workers.clear(&id).await;
                    });
                }
                for uid in hosts.strays(&listed).iter().filter(|uid| !cleared.contains(*uid)) {
                    workers.clear(uid).await;
                }
            }
            Ok(watcher::Event::Apply(pod)) => apply(&workers, pod, &mut found).await,
            Ok(watcher::Event::Delete(pod)) => {
                if let Some(uid) = &pod.metadata.uid {
                    workers.vanish(uid);
                }
            }
            // The watcher backs off and tries again by itself when polled.
            Err(error) => {
                tracing::debug!(%error, "watch of Pods interrupted");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn apply(workers: &Workers, mut pod: Pod, found: &mut HashMap<String, SandboxStatus>) {
    // Who wrote what is of no use here, and large.
    pod.metadata.managed_fields = None;
    let sandbox = match pod.metadata.uid.as_ref().and_then(|uid| found.remove(uid)) {
        Some(found) => Some(workers.complete(&pod, found).await),
        None => None,
    };
    workers.apply(pod, |pod| adopt(pod, sandbox.as_ref(), Timestamp::now()));
}

/// Follows every host that is started, for ever.
pub async fn hosts(
    mut started: mpsc::UnboundedReceiver<Started>,
    hosts: Hosts,
    workers: Workers,
    network: Network,
) {
    let mut followed = JoinSet::new();
    loop {
        tokio::select! {
            next = started.recv() => {
                let Some(next) = next else { return };
                followed.spawn(host(next, hosts.clone(), workers.clone(), network.clone()));
            }
            Some(result) = followed.join_next() => {
                if let Err(error) = result {
                    tracing::error!(%error, "a host is no longer followed");
                }
            }
        }
    }
}

/// Follows a host to its end: hands its events on, and starts it again when it ends before that.
async fn host(started: Started, hosts: Hosts, workers: Workers, network: Network) {
    let Started { host, client, is_shim, mut instance, ended } = started;
    let mut events = client.events(0);
    loop {
        let event = tokio::select! {
            // First: what is heard after a host's end may be of the next one.
            biased;
            () = ended.cancelled() => return,
            Some(event) = events.next() => event,
            else => return,
        };
        match event {
            HostEvent::Event(event) => workers.container_event(&event.sandbox, event.container),
            HostEvent::Connected { instance: now, relist } => {
                if now != instance && is_shim {
                    // Another Pod's time: whoever made it follows it.
                    return;
                } else if now != instance {
                    instance = now;
                    tracing::warn!(group = %host.group(), "a sandbox host is a new one; starting its Pods again");
                    workers.host_lost(&host);
                    hosts.want_routes();
                } else if relist && let Ok(sandboxes) = client.sandboxes().await {
                    workers.hear(&sandboxes);
                }
            }
            HostEvent::Notice(notice) => workers.notice(notice),
            HostEvent::Disconnected(_) if is_shim => {
                if hosts.is_gone(&host).await {
                    tracing::warn!(group = %host.group(), "a shim is gone; its Pod is made anew");
                    workers.sandbox_lost(&host);
                    return;
                }
            }
            HostEvent::Disconnected(_) => {
                // Its namespace and addresses outlive it; make sure of them before it binds again.
                if let Err(error) = network.restore().await {
                    tracing::error!(%error, "the Pods' network is not as it should be");
                }
                if let Err(error) = hosts.revive(&host).await {
                    tracing::error!(%error, "trying again");
                }
            }
        }
    }
}
