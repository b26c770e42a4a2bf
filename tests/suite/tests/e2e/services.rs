//! What Services say beyond a selector: addresses of load balancers, sessions, policies, endpoints that people write.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, User, eventually, http};
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, hello};
use crate::fleet::{NODES, a_pod_a_node, address_of, ask, ask_within};
use crate::sockets::echo;

/// Two addresses that no other test's cluster has: the number of this process tells runs apart, a count those of one.
fn pool(user: User) -> [IpAddr; 2] {
    static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
    let number = NEXT.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
    let process = (std::process::id() % 250) as u8;
    let at = |last: u8| match user {
        // Set aside for tests (RFC 2544), of which wires have the other half.
        User::Root => IpAddr::from([198, 19, process, last]),
        User::Ordinary => IpAddr::from([127, 251, process, last]),
    };
    [at(number), at(number + 1)]
}

fn balanced(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: LoadBalancer, selector: {{app: web}}, \
         ports: [{{port: 8088, targetPort: http}}]{more}}}\n---\n"
    )
}

async fn address_of_balancer(cluster: &Cluster, name: &str) -> anyhow::Result<Option<IpAddr>> {
    let service = cluster.get(&["service", name]).await?;
    let ingress = &service["status"]["loadBalancer"]["ingress"];
    let ip = ingress[0]["ip"].as_str().map(str::parse).transpose()?;
    if ip.is_some() {
        anyhow::ensure!(ingress[0]["ipMode"] == "VIP", "{ingress}");
    }
    Ok(ip)
}

pub(crate) async fn balancers_have_addresses_of_a_pool(context: Arc<Context>) -> Outcome {
    let [first, second] = pool(context.user);
    let range = format!("{first}-{second}");
    let cluster = context.up_with(&["--load-balancer-pool", &range]).await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    let other = balanced("other", ", loadBalancerClass: example.com/other");
    let asked = balanced("asked", &format!(", loadBalancerIP: {second}"));
    cluster.apply(&format!("{asked}{other}")).await?;
    cluster.apply(&balanced("any", ", allocateLoadBalancerNodePorts: false")).await?;
    for (name, ip) in [("asked", second), ("any", first)] {
        eventually(SOON, "it has an address, and answers there", async || {
            anyhow::ensure!(address_of_balancer(&cluster, name).await? == Some(ip), "{name}");
            let reply = http::get(SocketAddr::new(ip, 8088), "/version").await?;
            expect(&reply.body, &["v1"])
        })
        .await?;
    }
    let any = cluster.get(&["service", "any"]).await?;
    anyhow::ensure!(any["spec"]["ports"][0].get("nodePort").is_none(), "{any:#}");
    // Used up: the next one waits, and says why.
    cluster.apply(&balanced("late", "")).await?;
    eventually(SOON, "the third waits", async || {
        let services = cluster.kubectl(&["get", "services", "late", "other"]).await?;
        anyhow::ensure!(services.matches("<pending>").count() == 2, "{services}");
        let events = cluster.kubectl(&["describe", "service", "late"]).await?;
        expect(&events, &["SyncLoadBalancerFailed", "--load-balancer-pool are in use"])
    })
    .await?;
    cluster.kubectl(&["delete", "service", "any"]).await?;
    eventually(SOON, "it has what became free", async || {
        anyhow::ensure!(address_of_balancer(&cluster, "late").await? == Some(first), "not yet");
        expect(&http::get(SocketAddr::new(first, 8088), "/version").await?.body, &["v1"])
    })
    .await?;
    let others = cluster.kubectl(&["describe", "service", "other"]).await?;
    anyhow::ensure!(!others.contains("LoadBalancer Ingress"), "{others}");
    if context.user == User::Root {
        let ranges = r#"{"spec":{"loadBalancerSourceRanges":["192.0.2.0/24"]}}"#;
        cluster.kubectl(&["patch", "service", "late", "-p", ranges]).await?;
        let late = SocketAddr::new(first, 8088);
        eventually(SOON, "others may not call", async || {
            let call = TcpStream::connect_timeout(&late, Duration::from_millis(500));
            anyhow::ensure!(call.is_err(), "it is open");
            Ok(())
        })
        .await?;
    }
    // Not a balancer any more: its address is given back.
    let plain = r#"{"spec":{"type":"ClusterIP","loadBalancerSourceRanges":null}}"#;
    cluster.kubectl(&["patch", "service", "late", "-p", plain]).await?;
    eventually(SOON, "it has no address any more", async || {
        anyhow::ensure!(address_of_balancer(&cluster, "late").await?.is_none(), "it has");
        Ok(())
    })
    .await
}

pub(crate) async fn callers_stay_with_their_pod(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("probe-http", "probe:v1")]).await?;
    let sticky = "sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 2}}\n  selector:";
    let (deployment, service) = hello("web", "hello:v1", 4)
        .split_once("---")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .context("no Service")?;
    cluster.apply(&format!("{deployment}---{}", service.replace("selector:", sticky))).await?;
    cluster.rolled_out("web").await?;
    cluster.deploy_hello("probe", "probe:v1", 1).await?;
    let service = cluster.service("default", "web").await?;
    let probe = cluster.service("default", "probe").await?;
    // This machine, and a Pod: by the kernel's table or the host's.
    for (address, path) in [(service, "/"), (probe, "/fetch?url=http://web/")] {
        let ask = async || -> anyhow::Result<String> {
            let reply = http::get(address, path).await?;
            anyhow::ensure!(reply.status == 200, "{reply:?}");
            Ok(reply.body)
        };
        let pod = eventually(SOON, "it answers", async || ask().await).await?;
        for _ in 0..30 {
            let again = ask().await?;
            anyhow::ensure!(again == pod, "{path}: {again} after {pod}");
        }
        let mut met = BTreeSet::from([pod]);
        eventually(2 * SOON, "sessions end", async || {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            met.insert(ask().await?);
            anyhow::ensure!(met.len() > 1, "{path}: only {met:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

pub(crate) async fn addresses_may_be_written_by_hand(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("probe-http", "probe:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 1).await?;
    cluster.deploy_hello("probe", "probe:v1", 1).await?;
    let pods = cluster.get(&["pods", "-l", "app=web"]).await?;
    let ip = pods["items"][0]["status"]["podIP"].as_str().context("no podIP")?.to_owned();
    let manual = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n"
        )
    };
    let endpoints = format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: old}}\nsubsets: [{{addresses: [{{ip: {ip}}}], ports: [{{port: 8080}}]}}]\n---\n"
    );
    let slice = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: by-hand, labels: {{kubernetes.io/service-name: new}}}}\n\
         addressType: IPv4\nendpoints: [{{addresses: ['{ip}']}}]\nports: [{{name: '', port: 8080}}]\n"
    );
    cluster.apply(&format!("{}{}{endpoints}{slice}", manual("old"), manual("new"))).await?;
    let probe = cluster.service("default", "probe").await?;
    for name in ["old", "new"] {
        let address = cluster.service("default", name).await?;
        eventually(SOON, "it answers", async || {
            expect(&http::get(address, "/version").await?.body, &["v1"])?;
            let fetched = http::get(probe, &format!("/fetch?url=http://{name}/version")).await?;
            expect(&fetched.body, &["200", "v1"])
        })
        .await
        .with_context(|| name.to_owned())?;
    }
    let mirrored = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=old"]).await?;
    let manager =
        &mirrored["items"][0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    anyhow::ensure!(*manager == "endpointslicemirroring-controller.k8s.io", "{mirrored:#}");
    // They go as they came.
    cluster.kubectl(&["delete", "endpoints", "old"]).await?;
    let address = cluster.service("default", "old").await?;
    eventually(SOON, "nobody answers any more", async || {
        anyhow::ensure!(http::get(address, "/version").await.is_err(), "somebody does");
        let slices =
            cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=old"]).await?;
        anyhow::ensure!(slices["items"].as_array().is_some_and(Vec::is_empty), "{slices}");
        Ok(())
    })
    .await
}

/// Whoever calls a Service without endpoints is told so, and need not wait.
pub(crate) async fn nobody_there_is_a_refusal(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    cluster.deploy_hello("probe", "probe:v1", 1).await?;
    let probe = cluster.service("default", "probe").await?;
    cluster
        .apply("{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {type: NodePort, selector: {app: nobody}, ports: [{port: 80}]}}")
        .await?;
    let empty = cluster.get(&["service", "empty"]).await?;
    let vip: IpAddr = empty["spec"]["clusterIP"].as_str().context("no clusterIP")?.parse()?;
    let node_port = empty["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
    let vip = SocketAddr::new(vip, cluster.listen_port(80));
    for address in [vip, SocketAddr::from(([127, 0, 0, 1], u16::try_from(node_port)?))] {
        eventually(SOON, "it is refused", async || {
            let begun = Instant::now();
            let refusal =
                TcpStream::connect_timeout(&address, SOON).map(drop).map_err(|e| e.kind());
            let expected = Err(std::io::ErrorKind::ConnectionRefused);
            anyhow::ensure!(refusal == expected, "{refusal:?} after {:?}", begun.elapsed());
            Ok(())
        })
        .await?;
    }
    let answer = http::get(probe, "/fetch?url=http://empty/").await?;
    anyhow::ensure!(answer.status == 502, "{answer:?}");
    Ok(())
}

/// What calls of a machine are answered by: the names of the Pods, of so many calls.
fn met(
    ask: impl Fn() -> anyhow::Result<String>,
    pods: &[Value],
) -> anyhow::Result<BTreeSet<usize>> {
    let mut met = BTreeSet::new();
    for _ in 0..30 {
        let answer = ask()?;
        let named =
            |pod: &Value| pod["metadata"]["name"].as_str().is_some_and(|n| answer.contains(n));
        met.extend(pods.iter().position(named));
    }
    Ok(met)
}

pub(crate) async fn policies_hold_across_machines(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&NODES).await? else { return Ok(()) };
    cluster
        .push_all(&[("hello-v1", "hello:v1"), ("probe-http", "probe:v1"), ("probe-net", "net:v1")])
        .await?;
    let pods = a_pod_a_node(&cluster, "web", "hello:v1").await?;
    let probes = a_pod_a_node(&cluster, "probe", "probe:v1").await?;
    // The third machine has none of the Pods that count.
    let third = pods[2]["metadata"]["name"].as_str().context("no name")?;
    cluster.kubectl(&["label", "pod", third, "all=none", "--overwrite"]).await?;
    cluster
        .apply(
            "{apiVersion: v1, kind: Service, metadata: {name: near}, spec: {selector: {all: web}, internalTrafficPolicy: Local, ports: [{port: 80, targetPort: http}]}}\n---\n\
             {apiVersion: v1, kind: Service, metadata: {name: same}, spec: {selector: {all: web}, trafficDistribution: PreferSameNode, ports: [{port: 80, targetPort: http}]}}\n---\n\
             {apiVersion: v1, kind: Service, metadata: {name: front}, spec: {type: LoadBalancer, selector: {all: web}, externalTrafficPolicy: Local, ports: [{port: 80, targetPort: http}]}}",
        )
        .await?;
    let vip = async |name: &str| -> anyhow::Result<SocketAddr> {
        let service = cluster.get(&["service", name]).await?;
        let ip = service["spec"]["clusterIP"].as_str().context("no clusterIP")?;
        Ok(SocketAddr::new(ip.parse()?, 80))
    };
    let (near, same) = (vip("near").await?, vip("same").await?);
    for (number, node) in NODES.iter().enumerate().take(2) {
        let machine = cluster.machine(node)?;
        for address in [near, same] {
            eventually(SOON, "its own Pod answers, and no other", async || {
                let by_machine = met(|| ask(&machine, address, "/"), &pods)?;
                let url = format!("/fetch?url=http://{}/", address.ip());
                let by_pod = met(|| ask(&machine, address_of(&probes[number])?, &url), &pods)?;
                let own = BTreeSet::from([number]);
                anyhow::ensure!(by_machine == own && by_pod == own, "{by_machine:?} {by_pod:?}");
                Ok(())
            })
            .await
            .with_context(|| format!("{address} from {node}"))?;
        }
    }
    let machine = cluster.machine("three")?;
    eventually(SOON, "without a Pod on the machine, nobody answers", async || {
        let begun = Instant::now();
        anyhow::ensure!(
            ask(&machine, near, "/").is_err() && begun.elapsed() < Duration::from_secs(2),
            "somebody does"
        );
        let url = format!("/fetch?url=http://{}/", near.ip());
        let fetched = ask(&machine, address_of(&probes[2])?, &url)?;
        expect(&fetched, &["502"])?;
        // Preferred is not required.
        anyhow::ensure!(met(|| ask(&machine, same, "/"), &pods)? == BTreeSet::from([0, 1]));
        Ok(())
    })
    .await?;
    // From outside: only machines with a Pod answer, each with its own, and say so where it is asked for.
    let front = cluster.get(&["service", "front"]).await?;
    let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    let node_port = port(&front["spec"]["ports"][0]["nodePort"]).context("no nodePort")?;
    let health = port(&front["spec"]["healthCheckNodePort"]).context("no healthCheckNodePort")?;
    for (number, node) in NODES.iter().enumerate() {
        let address = cluster.machine(node)?.address();
        let status = if number < 2 { 200 } else { 503 };
        eventually(SOON, "its health is told", async || {
            let reply = http::get(SocketAddr::from((address, health)), "/healthz").await?;
            anyhow::ensure!(reply.status == status, "{node}: {reply:?}");
            let told: Value = serde_json::from_str(&reply.body)?;
            anyhow::ensure!(told["localEndpoints"] == u8::from(number < 2), "{told}");
            anyhow::ensure!(told["service"]["name"] == "front", "{told}");
            Ok(())
        })
        .await?;
        let outside = SocketAddr::from((address, node_port));
        let call = || -> anyhow::Result<String> {
            use std::io::{Read as _, Write as _};
            let mut stream = TcpStream::connect_timeout(&outside, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(SOON))?;
            write!(stream, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        match number {
            2 => anyhow::ensure!(call().is_err(), "a machine without Pods answers"),
            _ => anyhow::ensure!(met(call, &pods)? == BTreeSet::from([number]), "{node}"),
        }
        // Who is inside is led everywhere.
        let machine = cluster.machine(node)?;
        anyhow::ensure!(
            met(|| ask(&machine, outside, "/"), &pods)? == BTreeSet::from([0, 1]),
            "{node}"
        );
    }
    the_caller_is_seen(&cluster).await
}

/// With `externalTrafficPolicy: Local` the Pod sees who calls from outside.
async fn the_caller_is_seen(cluster: &Cluster) -> Outcome {
    let pod = crate::sockets::pod("echo", "tcp-echo, '0.0.0.0:7007'", crate::sockets::READY);
    let pod = pod.replace("spec:\n", "spec:\n  nodeSelector: {kubernetes.io/hostname: one}\n");
    let service = "---\n{apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: echo}, ports: [{port: 7007}]}}";
    cluster.apply(&format!("{pod}{service}")).await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]).await?;
    let echoed = cluster.get(&["service", "echo"]).await?;
    let port = echoed["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
    let outside = SocketAddr::from((cluster.machine("one")?.address(), u16::try_from(port)?));
    eventually(SOON, "it answers", async || {
        anyhow::ensure!(echo(outside, "ahoy")? == "ahoy");
        let own = cluster.api().ip();
        expect(&cluster.kubectl(&["logs", "echo"]).await?, &[&format!("connection from {own}:")])
    })
    .await
}

/// A balancer's address is found on the wire, also when the machine that had it is lost.
pub(crate) async fn a_balancers_address_moves(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&NODES).await? else { return Ok(()) };
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    a_pod_a_node(&cluster, "web", "hello:v1").await?;
    cluster.apply(&balanced("front", "").replace("app: web", "all: web")).await?;
    let address = eventually(SOON, "it has an address", async || {
        address_of_balancer(&cluster, "front").await?.context("none yet")
    })
    .await?;
    let address = SocketAddr::new(address, 8088);
    eventually(SOON, "it answers on the wire, and everywhere else", async || {
        expect(&http::get(address, "/version").await?.body, &["v1"])?;
        for node in NODES {
            expect(&ask(&cluster.machine(node)?.clone(), address, "/version")?, &["v1"])?;
        }
        Ok(())
    })
    .await?;
    let announces = |node: &str| -> anyhow::Result<bool> {
        let machine = cluster.machine(node)?;
        let proxied = machine
            .run(|| std::process::Command::new("ip").args(["neigh", "show", "proxy"]).output())??;
        Ok(String::from_utf8_lossy(&proxied.stdout).contains(&address.ip().to_string()))
    };
    let mut announcing = Vec::new();
    for node in NODES {
        if announces(node)? {
            announcing.push(node);
        }
    }
    let [lost] = announcing[..] else { anyhow::bail!("{announcing:?} answer for it") };
    cluster.machine(lost)?.plug(false)?;
    // Who calls has the lost machine's hardware address until another says that it has the address now.
    eventually(2 * SOON, "another has taken over", async || {
        let nodes = cluster.kubectl(&["get", "nodes"]).await?;
        expect(&nodes, &["NotReady"])?;
        let mut failed = 0;
        for _ in 0..20 {
            let reply =
                tokio::time::timeout(Duration::from_secs(2), http::get(address, "/version"));
            failed += usize::from(!matches!(reply.await, Ok(Ok(_))));
        }
        anyhow::ensure!(failed == 0, "{failed} of 20 calls failed");
        Ok(())
    })
    .await?;
    let other = NODES.into_iter().find(|node| *node != lost).context("no other")?;
    expect(&ask_within(&cluster.machine(other)?.clone(), address, "/version", SOON)?, &["v1"])?;
    cluster.machine(lost)?.plug(true)?;
    eventually(SOON, "one machine alone answers for it again", async || {
        let nodes = cluster.kubectl(&["get", "nodes"]).await?;
        anyhow::ensure!(!nodes.contains("NotReady"), "{nodes}");
        let all = NODES.map(announces).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::ensure!(all.iter().filter(|announces| **announces).count() == 1, "{all:?}");
        expect(&http::get(address, "/version").await?.body, &["v1"])
    })
    .await
}
